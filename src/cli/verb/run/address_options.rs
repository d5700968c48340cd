//! The options for static addresses of `coracle run`.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use clap::Args;

/// Options for static addresses.
#[derive(Debug, Default, Args)]
pub(crate) struct AddressOptions {
    /// Set a static address with the length of its prefix, for example 192.168.50.7/24
    #[arg(long, value_name = "ADDRESS/LENGTH", help_heading = "Network")]
    pub(crate) network_address: Vec<String>,

    /// Set the router of the network of a static address
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub(crate) network_gateway: Vec<String>,
}

impl AddressOptions {
    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("network-address", Slot::Texts(&mut self.network_address)),
            long("network-gateway", Slot::Texts(&mut self.network_gateway)),
        ]
    }
}
