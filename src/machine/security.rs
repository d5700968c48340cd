//! What the machine may do to the kernel.

/// Capabilities, system calls and privileges of a machine, beyond the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Capability names (`CAP_NET_ADMIN`) added to the default set.
    pub capabilities_add: Vec<String>,
    /// Capability names taken from the default set; wins over added ones.
    pub capabilities_drop: Vec<String>,
    /// System calls and `@groups` added to the allow list.
    pub syscalls_allow: Vec<String>,
    /// System calls and `@groups` taken from the allow list; wins over added ones.
    pub syscalls_deny: Vec<String>,
    /// Whether setuid programs gain nothing (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
}
