//! The capabilities of a machine (capabilities(7)). Called by `plan`.

use crate::error::{Error, Result};
use crate::machine::security::{CAPABILITIES, Security};
use rustix::thread::CapabilitySet;

/// The default set of systemd-nspawn(1), which booted systems expect.
const DEFAULT: [&str; 26] = [
    "AUDIT_CONTROL",
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_PTRACE",
    "SYS_RESOURCE",
    "SYS_TTY_CONFIG",
];

/// Returns the bit of a capability by name, with or without `CAP_`, or all bits for `all`.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Some((1 << CAPABILITIES.len()) - 1);
    }
    CapabilitySet::from_name(name).map(|capability| capability.bits())
}

/// Returns the mask of names; unknown names are ignored.
fn mask<S: AsRef<str>>(names: &[S]) -> u64 {
    names.iter().filter_map(|name| bit(name.as_ref())).fold(0, |mask, bit| mask | bit)
}

/// Returns the mask of a machine: the defaults, those for its network, added ones, without dropped ones, and
/// limited to the bounding set of this process.
pub(crate) fn kept(security: &Security, private_network: bool, user_namespace: bool, bounding: u64) -> u64 {
    let mut kept = mask(&DEFAULT);
    if private_network {
        kept |= mask(&["NET_ADMIN"]);
    } else if user_namespace {
        kept &= !mask(&["NET_BIND_SERVICE"]);
    }
    (kept | mask(&security.capabilities_add)) & !mask(&security.capabilities_drop) & bounding
}

/// Returns the mask of the capability to create device nodes, unless the definition adds it.
pub(crate) fn nodes(security: &Security) -> u64 {
    mask(&["MKNOD"]) & !mask(&security.capabilities_add)
}

/// Returns the mask of the inheritable capabilities of a command, of those that the machine keeps.
pub(crate) fn inheritable(security: &Security, kept: u64) -> u64 {
    mask(&security.capabilities_inheritable) & kept
}

/// Returns the mask of the ambient capabilities of a command.
///
/// # Errors
/// One of them is not in the mask `kept` of the machine.
pub(crate) fn ambient(security: &Security, kept: u64) -> Result<u64> {
    let lacking = |name: &&String| bit(name).is_none_or(|bit| bit & !kept != 0);
    match security.capabilities_ambient.iter().find(lacking) {
        None => Ok(mask(&security.capabilities_ambient)),
        Some(name) => Err(Error::new(format!("the machine lacks the ambient capability {name}"))
            .with_hint(format!("add it with security.capabilities.add or --capability={name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_capability() {
        assert_eq!(mask(&DEFAULT).count_ones(), 26);
        assert_eq!(bit("cap_chown"), Some(1));
        assert_eq!(bit("CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(bit("nothing"), None);
    }

    #[test]
    fn dropped_wins_over_added() {
        let security = Security {
            capabilities_add: vec!["CAP_SYS_TIME".into(), "CAP_BPF".into()],
            capabilities_drop: vec!["CAP_BPF".into(), "CAP_MKNOD".into()],
            ..Security::default()
        };
        let kept = kept(&security, true, true, u64::MAX);
        for (name, expected) in [("SYS_TIME", true), ("BPF", false), ("MKNOD", false), ("NET_ADMIN", true)] {
            assert_eq!(kept & mask(&[name]) != 0, expected, "{name}");
        }
    }

    #[test]
    fn ambient_capabilities_are_those_of_the_machine() {
        let security = Security { capabilities_ambient: vec!["CAP_CHOWN".into()], ..Security::default() };
        assert_eq!(ambient(&security, 0b11).unwrap(), 1);
        assert!(ambient(&security, 0b10).is_err());
    }
}
