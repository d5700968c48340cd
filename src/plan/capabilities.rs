//! Which capabilities a machine keeps (capabilities(7)).

use crate::machine::security::{CAPABILITIES, Security};

/// What systemd-nspawn(1) keeps by default, and so what booted systems expect.
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

/// The bit of a capability by name, with or without `CAP_`, or all bits for `all`.
pub fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Some((1 << CAPABILITIES.len()) - 1);
    }
    CAPABILITIES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// The mask of names; unknown ones do not count.
fn mask<S: AsRef<str>>(names: &[S]) -> u64 {
    names.iter().filter_map(|name| bit(name.as_ref())).fold(0, |mask, bit| mask | bit)
}

/// The mask a machine keeps: the defaults, what its network needs, what was added, less what was
/// taken, and never more than we have ourselves.
pub fn kept(security: &Security, private_network: bool, user_namespace: bool, ours: u64) -> u64 {
    let mut kept = mask(&DEFAULT);
    if private_network {
        kept |= mask(&["NET_ADMIN"]);
    } else if user_namespace {
        kept &= !mask(&["NET_BIND_SERVICE"]);
    }
    (kept | mask(&security.capabilities_add)) & !mask(&security.capabilities_drop) & ours
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
    fn taken_wins_over_added() {
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
}
