//! Lessons of the known vulnerabilities of container managers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod machines;
mod probes;
#[path = "../support/mod.rs"]
mod support;
