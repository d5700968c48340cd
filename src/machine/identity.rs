//! Who the machine says it is.

/// Host name and machine id of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The kernel host name, where it is not the machine's name.
    pub hostname: Option<String>,
    /// The machine id of machine-id(5) passed to the guest, where it is not derived from the name.
    pub uuid: Option<[u8; 16]>,
}
