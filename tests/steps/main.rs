//! The steps of PID 1 and of the builder, checked from inside: `coracle run` creates machines from a busybox
//! tree, and scripts in them inspect their environment. Each run has disposable namespaces without systemd,
//! bus and network, so that this system is not changed, and the result does not depend on the init of this
//! system. All tests need root.

// clippy.toml allows unwrap in #[test] functions only, not in their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lab;
mod mounts;
mod process;
mod refusals;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tree;
