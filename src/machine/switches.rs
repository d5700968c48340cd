//! Switches that variables of the caller set, as for systemd-nspawn(1). No definition has them.

/// The switches of a machine in the foreground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switches {
    /// Whether an empty tmpfs covers `/tmp`.
    pub(crate) tmpfs_tmp: bool,
    /// Whether an empty tmpfs covers `/run`.
    pub(crate) tmpfs_run: bool,
    /// Whether the image is locked.
    pub(crate) lock: bool,
    /// Whether a system without an os-release(5) is refused.
    pub(crate) check_os_release: bool,
    /// Whether a filter restricts system calls.
    pub(crate) filter: bool,
    /// Whether the caller expects settings of its network to be writable inside.
    pub(crate) network_settings: bool,
    /// Whether `/proc` and `/sys` are writable and without masks.
    pub(crate) writable_api: bool,
    /// The name of the manager in the registration and in the variable `container`. `None` for the default.
    pub(crate) service: Option<String>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            tmpfs_tmp: true,
            tmpfs_run: true,
            lock: true,
            check_os_release: true,
            filter: true,
            network_settings: false,
            writable_api: false,
            service: None,
        }
    }
}
