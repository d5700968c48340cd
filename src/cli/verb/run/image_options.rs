//! Options of `run` for stacks and disk images.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use clap::Args;
use std::path::PathBuf;

/// The options for stacks and disk images.
#[derive(Debug, Default, Args)]
pub(crate) struct ImageOptions {
    /// The stack of directories (systemd.mstack(7)) with the root file system
    #[arg(long, value_name = "DIR", conflicts_with = "directory", help_heading = "Image")]
    pub(crate) mstack: Option<PathBuf>,

    /// The disk image with the root file system: a file or a block device
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with_all = ["directory", "mstack", "template"],
        help_heading = "Image"
    )]
    pub(crate) image: Option<PathBuf>,

    /// The OCI runtime bundle: its config.json replaces the .nspawn file
    #[arg(long, value_name = "DIR", help_heading = "Image")]
    pub(crate) oci_bundle: Option<PathBuf>,

    /// The root hash that verifies the disk image (dm-verity), hexadecimal digits
    #[arg(long, value_name = "HASH", help_heading = "Image")]
    pub(crate) root_hash: Option<String>,

    /// The signature of the root hash: a file, or base64: and its text
    #[arg(long, value_name = "SIGNATURE", help_heading = "Image")]
    pub(crate) root_hash_sig: Option<String>,

    /// The file with the hashes of the disk image
    #[arg(long, value_name = "FILE", help_heading = "Image")]
    pub(crate) verity_data: Option<PathBuf>,

    /// The partitions of the disk image that are used, and their protection: systemd.image-policy(7)
    #[arg(long, value_name = "POLICY", help_heading = "Image")]
    pub(crate) image_policy: Option<String>,
}

impl ImageOptions {
    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("mstack", Slot::Path(&mut self.mstack)),
            long("image", Slot::Path(&mut self.image)).or_short(b'i'),
            long("oci-bundle", Slot::Path(&mut self.oci_bundle)),
            long("root-hash", Slot::Text(&mut self.root_hash)),
            long("root-hash-sig", Slot::Text(&mut self.root_hash_sig)),
            long("verity-data", Slot::Path(&mut self.verity_data)),
            long("image-policy", Slot::Text(&mut self.image_policy)),
        ]
    }
}
