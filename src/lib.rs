//! Coracle boots whole root file systems as machines.

pub mod cli;
pub mod config;
pub mod error;
pub mod host;
pub mod machine;
pub mod paths;
