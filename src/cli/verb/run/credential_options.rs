//! The options for credentials of `coracle run`.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use clap::Args;

/// Options for credentials.
#[derive(Debug, Default, Args)]
pub(crate) struct CredentialOptions {
    /// Pass a credential with this content, with escapes of C; users of the host can see it in the arguments
    #[arg(long, value_name = "ID:VALUE", help_heading = "Credentials")]
    pub(crate) set_credential: Vec<String>,

    /// Pass a credential from a file or stream socket, or from the credential of that name of this unit
    #[arg(long, value_name = "ID:PATH", help_heading = "Credentials")]
    pub(crate) load_credential: Vec<String>,
}

impl CredentialOptions {
    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("set-credential", Slot::Texts(&mut self.set_credential)),
            long("load-credential", Slot::Texts(&mut self.load_credential)),
        ]
    }
}
