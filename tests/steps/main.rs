//! The steps of PID 1 and of the builder, seen from inside: `coracle run` creates machines from a busybox
//! tree, and scripts in them inspect their environment. Each run has throw-away namespaces without systemd,
//! bus and network, so that the machine is not changed, and the result is the same with and without systemd
//! as PID 1. All tests need root.

// Helpers of tests are not in #[test] functions, which clippy.toml allows this in.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lab;
mod mounts;
mod process;
mod refusals;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tree;
