//! The host suite: Coracle on real nested hosts, each a Debian with systemd as PID 1. One program, so that it is
//! linked once and all its hosts share the processors.
//!
//! `cargo test --test hosts -- network::` runs a part of it. All of it needs root.

#![allow(clippy::unwrap_used, clippy::panic)]

mod activation;
mod apply;
mod attach;
mod bind;
mod bounds;
mod broken;
mod completions;
mod control_address;
mod copy;
mod diagnosis;
mod doors;
mod endurance;
mod exec;
mod exhaustion;
mod faults;
mod firewall;
mod foreground;
mod guests;
mod host;
mod hostile;
mod inits;
mod insight;
mod late;
mod lease;
mod life;
mod machines;
mod matrix;
mod modes;
mod nat;
mod neighbours;
mod nesting;
mod network;
mod outside;
mod ports;
mod probe;
mod prolonged;
mod resolv_conf;
mod resolver;
mod resources;
mod security;
mod slots;
mod spoof;
mod storm;
mod suites;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod upgrade;
mod zones;
