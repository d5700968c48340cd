//! The options for resources of `coracle run`.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use clap::Args;

/// Options for resources.
#[derive(Debug, Default, Args)]
pub(crate) struct ResourceOptions {
    /// Set a resource limit of setrlimit(2), for example NOFILE=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Resources")]
    pub(crate) rlimit: Vec<String>,

    /// Run on these processors only, for example 0-3,6
    #[arg(long, value_name = "LIST", help_heading = "Resources")]
    pub(crate) cpu_affinity: Option<String>,

    /// Adjust the out-of-memory score of the processes inside: -1000 to 1000
    #[arg(long, value_name = "SCORE", help_heading = "Resources")]
    pub(crate) oom_score_adjust: Option<String>,
}

impl ResourceOptions {
    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("rlimit", Slot::Texts(&mut self.rlimit)),
            long("cpu-affinity", Slot::Text(&mut self.cpu_affinity)),
            long("oom-score-adjust", Slot::Text(&mut self.oom_score_adjust)),
        ]
    }
}
