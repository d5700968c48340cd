//! Coracle boots whole root file systems as machines.

pub mod cli;
pub mod config;
pub mod control;
pub mod error;
pub mod generator;
pub mod host;
pub mod link;
pub mod machine;
pub mod paths;
pub mod payload;
pub mod plan;
pub mod run;
pub mod supervisor;
pub mod sys;
