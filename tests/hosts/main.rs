//! The host suite: Coracle on nested hosts, each a Debian with systemd as PID 1. A single program is linked
//! once, and all its hosts share the processors.
//!
//! `cargo test --test hosts -- network::` runs the tests of one module. All tests need root.

#![allow(clippy::unwrap_used, clippy::panic)]

mod activation;
mod address_conflicts;
mod antispoofing;
mod apply;
mod attach;
mod bad_input;
mod bind;
mod bind_sources;
mod clone_faults;
mod clones;
mod completions;
mod connectivity;
mod control_address;
mod copy;
mod credentials;
mod diagnosis;
mod endurance;
mod ephemeral;
mod escape;
mod exec;
mod exhaustion;
mod faults;
mod firewall;
mod foreground;
mod guests;
mod host;
mod hostile;
mod image_faults;
mod image_users;
mod image_verbs;
mod images;
mod inits;
mod interruption;
mod journal;
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
mod nspawn_files;
mod nspawn_links;
mod overlays;
mod ownership;
mod ports;
mod probe;
mod process_settings;
mod prolonged;
mod resolv_conf;
mod resolver;
mod resources;
mod security;
mod snapshot_file_systems;
mod snapshots;
mod stacks;
mod stats;
mod storm;
mod strict;
mod suites;
#[path = "../support/mod.rs"]
mod support;
mod takeover;
mod terminal;
mod timezone;
mod traffic_policy;
mod upgrade;
mod zones;
