//! The options for further mounts of `coracle run`.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use clap::Args;

/// Options for further mounts.
#[derive(Debug, Default, Args)]
pub(crate) struct MountOptions {
    /// Bind-mount a file or directory of the host; options: rbind norbind idmap noidmap rootidmap owneridmap
    #[arg(long, value_name = "SOURCE[:TARGET[:OPTIONS]]", help_heading = "Mounts")]
    pub(crate) bind: Vec<String>,

    /// Bind-mount a file or directory of the host read-only
    #[arg(long, value_name = "SOURCE[:TARGET[:OPTIONS]]", help_heading = "Mounts")]
    pub(crate) bind_ro: Vec<String>,

    /// Mount an empty tmpfs
    #[arg(long, value_name = "TARGET[:OPTIONS]", help_heading = "Mounts")]
    pub(crate) tmpfs: Vec<String>,

    /// Mount directories combined by overlayfs; an empty UPPER is temporary, + before a path is inside
    #[arg(long, value_name = "LOWER:…:UPPER:TARGET", help_heading = "Mounts")]
    pub(crate) overlay: Vec<String>,

    /// Mount directories combined by overlayfs read-only
    #[arg(long, value_name = "LOWER:…:TARGET", help_heading = "Mounts")]
    pub(crate) overlay_ro: Vec<String>,

    /// Know a user of the host inside, with the home directory
    #[arg(long, value_name = "USER", help_heading = "Mounts")]
    pub(crate) bind_user: Vec<String>,

    /// The shell of users of the host inside: yes for that of the host, no, or a path
    #[arg(long, value_name = "BOOL|PATH", help_heading = "Mounts")]
    pub(crate) bind_user_shell: Option<String>,

    /// Make users of the host members of a group inside
    #[arg(long, value_name = "GROUP", help_heading = "Mounts")]
    pub(crate) bind_user_group: Vec<String>,

    /// Hide a file or directory
    #[arg(long, value_name = "TARGET", help_heading = "Mounts")]
    pub(crate) inaccessible: Vec<String>,
}

impl MountOptions {
    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("bind", Slot::Texts(&mut self.bind)),
            long("bind-ro", Slot::Texts(&mut self.bind_ro)),
            long("tmpfs", Slot::Texts(&mut self.tmpfs)),
            long("overlay", Slot::Texts(&mut self.overlay)),
            long("overlay-ro", Slot::Texts(&mut self.overlay_ro)),
            long("bind-user", Slot::Texts(&mut self.bind_user)),
            long("bind-user-shell", Slot::Text(&mut self.bind_user_shell)),
            long("bind-user-group", Slot::Texts(&mut self.bind_user_group)),
            long("inaccessible", Slot::Texts(&mut self.inaccessible)),
        ]
    }
}
