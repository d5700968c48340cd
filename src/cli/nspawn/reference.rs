//! The options of systemd-nspawn(1), by the version that has introduced them. Facts only: the options that
//! Coracle takes are in the table of `coracle run` and in `nspawn`.

use crate::cli::argument_table::ArgumentRow;

/// The version of systemd in the text of `--version`, by which callers choose options: the newest of 252, 257
/// and 262 whose options are all taken, at least 252. A test compares it with the table.
pub(super) const VERSION: u32 = 257;

/// The letters of all options.
pub(super) const LETTERS: &[u8] = b"hqDxiabEuMSUnpZLjP";

/// Options that an empty value sets to the default.
pub(super) const RESET_BY_EMPTY: [&str; 6] =
    ["directory", "machine", "hostname", "uid", "selinux-context", "selinux-apifs-context"];

/// The long names of all options, with the version that has introduced them.
const OPTIONS: &[(u32, &[&str])] = &[
    (
        252,
        &[
            "help",
            "version",
            "quiet",
            "no-pager",
            "settings",
            "directory",
            "template",
            "ephemeral",
            "image",
            "oci-bundle",
            "read-only",
            "volatile",
            "root-hash",
            "root-hash-sig",
            "verity-data",
            "pivot-root",
            "as-pid2",
            "boot",
            "chdir",
            "setenv",
            "user",
            "kill-signal",
            "notify-ready",
            "suppress-sync",
            "machine",
            "hostname",
            "uuid",
            "slice",
            "property",
            "register",
            "keep-unit",
            "private-users",
            "private-users-ownership",
            "private-users-chown",
            "private-network",
            "network-interface",
            "network-macvlan",
            "network-ipvlan",
            "network-veth",
            "network-veth-extra",
            "network-bridge",
            "network-zone",
            "network-namespace-path",
            "port",
            "capability",
            "drop-capability",
            "ambient-capability",
            "no-new-privileges",
            "system-call-filter",
            "selinux-context",
            "selinux-apifs-context",
            "rlimit",
            "oom-score-adjust",
            "cpu-affinity",
            "personality",
            "resolv-conf",
            "timezone",
            "link-journal",
            "bind",
            "bind-ro",
            "inaccessible",
            "tmpfs",
            "overlay",
            "overlay-ro",
            "bind-user",
            "console",
            "pipe",
            "set-credential",
            "load-credential",
            "share-system",
        ],
    ),
    (257, &["background", "image-policy"]),
    (
        262,
        &[
            "bind-user-shell",
            "bind-user-group",
            "cleanup",
            "forward-journal",
            "forward-journal-max-use",
            "forward-journal-keep-free",
            "forward-journal-max-file-size",
            "forward-journal-max-files",
            "mstack",
            "no-ask-password",
            "private-users-delegate",
            "restrict-address-families",
            "system",
            "uid",
        ],
    ),
];

/// Returns the names of the options of a version.
fn options_of(version: u32) -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter(move |(since, _)| *since <= version).flat_map(|(_, names)| *names).copied()
}

/// Returns whether systemd-nspawn(1) has an option.
pub(super) fn has(name: &str) -> bool {
    options_of(u32::MAX).any(|known| known == name)
}

/// Returns the reason why an option is not supported, and what replaces it. `None` for one that is not
/// supported yet.
pub(in crate::cli) fn replacement(name: &str) -> Option<&'static str> {
    match name {
        "private-users-delegate" => {
            Some("ids are not delegated: security.nesting in a definition lets containers run inside")
        }
        "user" => Some("there is no user scope: machines are started by root, without --user"),
        "share-system" => Some("namespaces are not shared"),
        _ => None,
    }
}

/// Returns the message for an option that is not supported.
pub(super) fn refusal(name: &str) -> String {
    let replacement = replacement(name).map(|text| format!(": {text}"));
    format!("option '--{name}' is not supported{}", replacement.unwrap_or_default())
}

/// Returns the names of the options that a table does not have.
pub(super) fn others<'t>(table: &'t [ArgumentRow<'_>]) -> impl Iterator<Item = &'static str> + use<'t> {
    options_of(u32::MAX).filter(|name| table.iter().all(|row| row.long != Some(*name)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The versions whose options are listed.
    pub(in super::super) const VERSIONS: [u32; 3] = [252, 257, 262];

    /// Returns the options of a version that a table does not have.
    pub(in super::super) fn missing(version: u32, table: &[ArgumentRow<'_>]) -> Vec<&'static str> {
        let mut missing: Vec<&str> =
            options_of(version).filter(|name| table.iter().all(|row| row.long != Some(*name))).collect();
        let has_letter = |letter: &u8| table.iter().any(|row| row.short == Some(*letter));
        missing.extend(LETTERS.iter().any(|letter| !has_letter(letter)).then_some("a letter"));
        missing
    }

    #[test]
    fn options_are_listed_once() {
        let names: Vec<&str> = options_of(262).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
        }
        // Without those that have a letter only.
        assert_eq!(names.len(), 86);
    }
}
