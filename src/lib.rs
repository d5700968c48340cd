//! Coracle boots whole root file systems as machines.

pub mod control;
pub mod error;
pub mod generator;
pub mod host;
pub mod machine;
pub mod paths;
pub mod plan;
pub mod sys;
