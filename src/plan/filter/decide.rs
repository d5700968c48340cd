//! Decides about each system call of the table by a policy. Called by `filter`; `program` compiles the
//! decisions.

use super::Policy;
use super::calls::{CALLS, COUNT, find};
use super::{defaults, groups, multiplexer};
use crate::error::{Error, Result, nearest};
use crate::machine::address_families::AddressFamilies;
use rustix::thread::CapabilitySet;

/// The decision about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeccompAction {
    /// It is allowed.
    Allow,
    /// It fails with EPERM.
    Refuse,
    /// It fails with ENOSYS, as a missing call.
    Absent,
    /// It is socket(2), allowed except for denied socket families.
    Socket,
    /// It is socketpair(2), allowed except for families that no machine has: systemd.exec(5) does not
    /// restrict it.
    SocketPair,
    /// It is socketcall(2), answered as the call that it makes.
    Socketcall,
    /// It is ipc(2), answered as the call that it makes.
    Ipc,
    /// It is ioctl(2), allowed except for requests that insert terminal input.
    Ioctl,
    /// It succeeds without an effect.
    Pretend,
    /// It succeeds without an effect, or fails with EBADF if the descriptor is negative.
    PretendOnFile,
}

/// Returns the action for each row of [`CALLS`].
///
/// # Errors
/// An unknown name in the policy.
pub(crate) fn decide(policy: &Policy) -> Result<[SeccompAction; COUNT]> {
    let mut actions = defaults_for(policy.capabilities);
    for word in &policy.allow {
        each(word, |row| actions[row] = SeccompAction::Allow)?;
    }
    for word in &policy.deny {
        each(word, |row| {
            if actions[row] != SeccompAction::Absent {
                actions[row] = SeccompAction::Refuse;
            }
        })?;
    }
    let named = policy.allow.iter().any(|word| word == multiplexer::SOCKETCALL.name);
    if let Some(row) = find(multiplexer::SOCKETCALL.name).filter(|row| actions[*row] == SeccompAction::Allow)
        && (!policy.socketcall || policy.families != AddressFamilies::All)
        && !named
    {
        actions[row] = SeccompAction::Absent;
    }
    for (name, action) in ON_ARGUMENTS {
        // Every allowed call keeps its rules on arguments, also one named in `allow`.
        if let Some(row) = find(name).filter(|row| actions[*row] == SeccompAction::Allow) {
            actions[row] = action;
        }
    }
    for (name, action) in SYNCS.into_iter().filter(|_| policy.suppress_sync) {
        if let Some(row) = find(name).filter(|row| actions[*row] == SeccompAction::Allow) {
            actions[row] = action;
        }
    }
    Ok(actions)
}

/// The calls with rules on their arguments.
const ON_ARGUMENTS: [(&str, SeccompAction); 5] = [
    ("socket", SeccompAction::Socket),
    // It creates a socket of the family, and loads the kernel module, before it fails.
    ("socketpair", SeccompAction::SocketPair),
    ("ioctl", SeccompAction::Ioctl),
    (multiplexer::SOCKETCALL.name, SeccompAction::Socketcall),
    (multiplexer::IPC.name, SeccompAction::Ipc),
];

/// The calls that write files to the disk, as suppressed by systemd-nspawn(1). Files opened with O_SYNC are
/// still written at once.
const SYNCS: [(&str, SeccompAction); 7] = [
    ("sync", SeccompAction::Pretend),
    ("msync", SeccompAction::Pretend),
    ("fsync", SeccompAction::PretendOnFile),
    ("fdatasync", SeccompAction::PretendOnFile),
    ("syncfs", SeccompAction::PretendOnFile),
    ("sync_file_range", SeccompAction::PretendOnFile),
    ("sync_file_range2", SeccompAction::PretendOnFile),
];

/// Returns the default list for a set of capabilities.
fn defaults_for(capabilities: u64) -> [SeccompAction; COUNT] {
    let holds = |capability: CapabilitySet| capabilities & capability.bits() != 0;
    let granted = defaults::GROUPS_BY_CAPABILITY.iter().filter(|(capability, _)| holds(*capability));
    let groups = granted.fold(defaults::GROUPS, |groups, (_, group)| groups | group);

    let mut actions = [SeccompAction::Refuse; COUNT];
    for (action, call) in actions.iter_mut().zip(&CALLS) {
        if call.groups & groups != 0 {
            *action = SeccompAction::Allow;
        }
    }
    let always = defaults::CALLS.iter().map(|name| (*name, SeccompAction::Allow));
    let gated = defaults::CALLS_BY_CAPABILITY.iter().map(|(capability, name)| {
        (*name, if holds(*capability) { SeccompAction::Allow } else { SeccompAction::Refuse })
    });
    let refused = defaults::REFUSED.iter().map(|name| (*name, SeccompAction::Refuse));
    let absent = defaults::ABSENT.iter().map(|name| (*name, SeccompAction::Absent));
    for (name, action) in always.chain(gated).chain(refused).chain(absent) {
        if let Some(row) = find(name) {
            actions[row] = action;
        }
    }
    actions
}

/// Returns whether a name is that of a call or a group.
pub(crate) fn is_known(word: &str) -> bool {
    groups::find(word).is_some() || find(word).is_some()
}

/// Calls `apply` with each row of a name in a policy, of a call or a group.
fn each(word: &str, mut apply: impl FnMut(usize)) -> Result<()> {
    if let Some(group) = groups::find(word) {
        CALLS.iter().enumerate().filter(|(_, call)| call.groups & group != 0).for_each(|(row, _)| apply(row));
        return Ok(());
    }
    match find(word) {
        Some(row) => {
            apply(row);
            Ok(())
        }
        None => Err(unknown(word)),
    }
}

/// Returns the error for an unknown name, with the nearest known name as a hint.
fn unknown(word: &str) -> Error {
    let (what, nearest) = if word.starts_with('@') {
        ("group of system calls", nearest(word, groups::names()))
    } else {
        ("system call", nearest(word, CALLS.iter().map(|call| call.name)))
    };
    let error = Error::new(format!("unknown {what} '{}'", word.escape_debug()));
    match nearest {
        Some(nearest) => error.with_hint(format!("did you mean '{nearest}'?")),
        None => error.with_hint("see 'systemd-analyze syscall-filter' for all names"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::Abi;
    use super::*;

    fn action(capabilities: u64, allow: &str, deny: &str, name: &str) -> SeccompAction {
        let words = |words: &str| words.split_whitespace().map(str::to_owned).collect();
        let policy = Policy { capabilities, allow: words(allow), deny: words(deny), ..Policy::default() };
        decide(&policy).unwrap()[find(name).unwrap()]
    }

    #[test]
    fn every_name_of_the_default_list_is_in_the_table() {
        let gated = defaults::CALLS_BY_CAPABILITY.iter().map(|(_, name)| name);
        for name in defaults::CALLS.iter().chain(&defaults::ABSENT).chain(&defaults::REFUSED).chain(gated) {
            assert!(find(name).is_some(), "{name}");
        }
        assert!(defaults::CALLS.is_sorted());
    }

    #[test]
    fn the_default_list_is_of_the_expected_size() {
        let actions = decide(&Policy::default()).unwrap();
        let allowed = |abi| {
            let rows = CALLS.iter().zip(&actions).filter(|(call, _)| call.number(abi).is_some());
            rows.filter(|(_, action)| !matches!(action, SeccompAction::Refuse | SeccompAction::Absent))
                .count()
        };
        assert_eq!((allowed(Abi::X86_64), allowed(Abi::I386), allowed(Abi::Aarch64)), (321, 381, 279));
    }

    #[test]
    fn the_default_list_has_the_calls_of_a_system_only() {
        for name in ["read", "clone3", "mount", "setns", "unshare", "personality", "seccomp"] {
            assert_eq!(action(0, "", "", name), SeccompAction::Allow, "{name}");
        }
        for name in [
            "keyctl",
            "add_key",
            "request_key",
            "pkey_alloc",
            "swapon",
            "kexec_load",
            "fanotify_init",
            "quotactl",
            "open_by_handle_at",
            "perf_event_open",
            "lookup_dcookie",
            "nfsservctl",
            "move_pages",
            "migrate_pages",
            "modify_ldt",
            "uselib",
        ] {
            assert_eq!(action(u64::MAX, "", "", name), SeccompAction::Refuse, "{name}");
        }
        assert_eq!(action(u64::MAX, "", "", "io_uring_setup"), SeccompAction::Absent);
        assert_eq!(action(0, "", "", "socket"), SeccompAction::Socket);
        assert_eq!(action(0, "", "", "ioctl"), SeccompAction::Ioctl);
        assert_eq!(action(0, "", "", "ipc"), SeccompAction::Ipc);
        assert_eq!(action(u64::MAX, "", "", "socketcall"), SeccompAction::Absent);
    }

    #[test]
    fn some_calls_come_with_their_capability() {
        for (capability, name) in [
            (14, "mlock"),
            (16, "init_module"),
            (17, "iopl"),
            (19, "ptrace"),
            (19, "process_vm_readv"),
            (20, "acct"),
            (22, "reboot"),
            (25, "clock_settime"),
            (26, "vhangup"),
            (34, "syslog"),
            (39, "bpf"),
        ] {
            assert_eq!(action(1 << capability, "", "", name), SeccompAction::Allow, "{name}");
            assert_eq!(action(!(1 << capability), "", "", name), SeccompAction::Refuse, "{name}");
        }
    }

    #[test]
    fn denied_names_win_over_allowed_ones() {
        assert_eq!(action(0, "@keyring", "", "keyctl"), SeccompAction::Allow);
        assert_eq!(action(0, "@keyring", "keyctl", "keyctl"), SeccompAction::Refuse);
        assert_eq!(action(0, "@aio", "", "io_uring_setup"), SeccompAction::Allow);
        assert_eq!(action(0, "", "@aio", "io_uring_setup"), SeccompAction::Absent);
        assert_eq!(action(0, "", "@default", "landlock_add_rule"), SeccompAction::Refuse);
        assert_eq!(action(0, "", "@privileged", "chown"), SeccompAction::Refuse);
        assert_eq!(action(0, "@known", "", "memfd_secret"), SeccompAction::Allow);
        assert_eq!(action(0, "socket", "", "socket"), SeccompAction::Socket);
    }

    #[test]
    fn an_unknown_name_is_an_error_with_the_nearest_name() {
        for (word, message, hint) in [
            ("opne", "unknown system call 'opne'", "did you mean 'open'?"),
            ("keyclt", "unknown system call 'keyclt'", "did you mean 'keyctl'?"),
            ("@fil-system", "unknown group of system calls '@fil-system'", "did you mean '@file-system'?"),
            ("", "unknown system call ''", "see 'systemd-analyze syscall-filter' for all names"),
            ("a\nb", "unknown system call 'a\\nb'", "see 'systemd-analyze syscall-filter' for all names"),
        ] {
            let policy = Policy { deny: vec![word.to_owned()], ..Policy::default() };
            let error = decide(&policy).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.hint()), (message, Some(hint)));
        }
        let policy = Policy { allow: vec!["x".repeat(1 << 20)], ..Policy::default() };
        assert!(decide(&policy).is_err());
    }
}
