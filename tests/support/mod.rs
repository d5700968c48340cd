//! The harness of the host suite: root trees, nested hosts, commands in them, leftovers. Every test file of
//! the suite has `mod support;`. The harness is independent of the tests.
//!
//! A nested host is a real Debian with systemd as PID 1 of its own namespaces. `Host::start()` returns one
//! with coracle installed; `Host::builder()` has further options. Every command has a time limit. The harness
//! requires root.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

pub mod host;
pub mod install;
pub mod job;
pub mod leaks;
pub mod machine;
pub mod outside;
pub mod program;
pub mod state;
pub mod trees;
pub mod vm;

pub use host::{Builder, Host};
pub use job::{Job, Output, TIMED_OUT};
pub use leaks::Snapshot;
pub use machine::{LONG, bracketed, fetch, page};
pub use vm::Vm;
