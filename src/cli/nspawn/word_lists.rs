//! The words of options, for the value `help`: those of systemd-nspawn(1) that Coracle takes. Called by
//! `grammar` and `nspawn`.

use super::grammar;
use crate::cli::verb::RunArgs;
use std::ffi::OsString;

/// The capabilities, in the order of the kernel.
const CAPABILITIES: &[&str] = &[
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// The signals, in the order of their numbers; those of real time follow.
const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The options that list their words, and the words.
const LISTS: &[(&str, &[&str])] = &[
    ("volatile", &["no", "yes", "state", "overlay"]),
    ("kill-signal", SIGNALS),
    ("private-users-ownership", &["off", "chown", "map", "foreign", "auto"]),
    ("capability", CAPABILITIES),
    ("drop-capability", CAPABILITIES),
    ("ambient-capability", CAPABILITIES),
    (
        "rlimit",
        &[
            "CPU",
            "FSIZE",
            "DATA",
            "STACK",
            "CORE",
            "RSS",
            "NOFILE",
            "AS",
            "NPROC",
            "MEMLOCK",
            "LOCKS",
            "SIGPENDING",
            "MSGQUEUE",
            "NICE",
            "RTPRIO",
            "RTTIME",
        ],
    ),
    (
        "resolv-conf",
        &[
            "off",
            "copy-host",
            "copy-static",
            "copy-uplink",
            "copy-stub",
            "replace-host",
            "replace-static",
            "replace-uplink",
            "replace-stub",
            "bind-host",
            "bind-static",
            "bind-uplink",
            "bind-stub",
            "delete",
            "auto",
        ],
    ),
    ("timezone", &["off", "copy", "bind", "symlink", "delete", "auto"]),
    ("console", &["autopipe", "interactive", "read-only", "passive", "pipe"]),
];

/// Returns whether an option lists its words.
pub(super) fn has(option: &str) -> bool {
    LISTS.iter().any(|(name, _)| *name == option)
}

/// Returns the words of an option, one per line.
pub(super) fn of(option: &str) -> String {
    let listed = LISTS.iter().filter(|(name, _)| *name == option).flat_map(|(_, words)| *words);
    let real_time = (0..=30).filter(|_| option == "kill-signal").map(|number| format!("RTMIN+{number}"));
    let words = listed.map(|word| (*word).to_owned()).chain(real_time);
    words.filter(|word| is_taken(option, word)).map(|word| word + "\n").collect()
}

/// Returns whether an option takes a word.
fn is_taken(option: &str, word: &str) -> bool {
    let value = if option == "rlimit" { format!("{word}=1") } else { word.to_owned() };
    let mut run = RunArgs::default();
    let words = [OsString::from(format!("--{option}={value}"))];
    grammar::parse(&words, &mut run.table()).is_ok() && run.settings().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_option_are_those_it_takes() {
        assert_eq!(of("volatile"), "no\nyes\nstate\noverlay\n");
        assert_eq!(of("kill-signal").lines().count(), 31 + 31);
        assert_eq!(of("capability").lines().count(), 41);
        assert!(of("resolv-conf").starts_with("off\ncopy-host\n"));
        assert!(of("console").lines().all(|word| word != "journal"));
    }
}
