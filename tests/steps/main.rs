//! The steps of PID 1 and of the builder, seen from inside: `coracle run` makes machines of a
//! busybox tree, and what runs in them looks around. Each run is in throw-away namespaces of its
//! own, without systemd, bus and network, so that the machine is not changed; it works the
//! same where PID 1 is systemd and where it is not. All of it needs root.

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
