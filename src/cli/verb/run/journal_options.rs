//! The options for a forwarded journal of `coracle run`.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use clap::Args;

/// Options for a forwarded journal.
#[derive(Debug, Default, Args)]
pub(crate) struct JournalOptions {
    /// Receive the journal of the machine in this file NAME.journal or directory of the host
    #[arg(long, value_name = "FILE|DIR", help_heading = "Journal")]
    pub(crate) forward_journal: Option<String>,

    /// The maximum disk space of received journals
    #[arg(long, value_name = "BYTES", help_heading = "Journal")]
    pub(crate) forward_journal_max_use: Option<String>,

    /// The disk space that received journals leave free
    #[arg(long, value_name = "BYTES", help_heading = "Journal")]
    pub(crate) forward_journal_keep_free: Option<String>,

    /// The maximum size of a file of received journals
    #[arg(long, value_name = "BYTES", help_heading = "Journal")]
    pub(crate) forward_journal_max_file_size: Option<String>,

    /// The maximum number of files of received journals
    #[arg(long, value_name = "COUNT", help_heading = "Journal")]
    pub(crate) forward_journal_max_files: Option<String>,
}

impl JournalOptions {
    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("forward-journal", Slot::Text(&mut self.forward_journal)),
            long("forward-journal-max-use", Slot::Text(&mut self.forward_journal_max_use)),
            long("forward-journal-keep-free", Slot::Text(&mut self.forward_journal_keep_free)),
            long("forward-journal-max-file-size", Slot::Text(&mut self.forward_journal_max_file_size)),
            long("forward-journal-max-files", Slot::Text(&mut self.forward_journal_max_files)),
        ]
    }
}
