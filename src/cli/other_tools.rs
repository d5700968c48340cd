//! Verbs of machinectl(1), incus(1), the lxc-* programs and podman(1), with the hint for users who type them.
//! Called by `usage`; `tests/words.rs` compares it with all verbs of these programs.
//!
//! A hint names listed verbs only, and none that ends or changes a machine unless the typed word means that.

/// The words for a feature of Coracle that has another name, and the hint.
const RENAMED: &[(&[&str], &str)] = &[
    (&["ls", "ps", "containers", "container", "autostart"], "list machines with 'coracle list -a'"),
    (&["info", "healthcheck", "wait", "monitor"], "show a machine with 'coracle status NAME'"),
    (&["console"], "attach to the console with 'coracle attach NAME'"),
    (&["enter", "ssh"], "open a shell with 'coracle shell NAME'"),
    (&["execute"], "run a command with 'coracle exec NAME -- COMMAND'"),
    (&["rm", "delete", "destroy", "rmi"], "remove the image of a stopped machine with 'coracle remove NAME'"),
    (
        &["cp", "copy", "file", "push"],
        "copy files with 'coracle copy-to' and 'coracle copy-from', images with 'coracle clone'",
    ),
    (&["up", "init"], "start a machine with 'coracle start NAME'"),
    (&["down", "halt", "shutdown"], "shut down a machine with 'coracle stop NAME'"),
    (&["pause"], "freeze a machine with 'coracle freeze NAME'"),
    (&["resume", "unpause", "unfreeze"], "resume a machine with 'coracle thaw NAME'"),
    (&["show-image", "image", "list-volumes", "storage"], "list images with 'coracle images'"),
    (&["cat", "checkconfig"], "show the settings with 'coracle config NAME --explain'"),
    (&["diff"], "show changed settings with 'coracle apply --dry-run NAME'"),
    (
        &["profile", "update-config", "set-limit", "cgroup"],
        "change a setting with 'coracle set NAME KEY=VALUE', or edit the definition with 'coracle edit NAME'",
    ),
    (
        &["import-tar", "import-raw", "import-fs", "load"],
        "import an archive, a disk image or a directory with 'coracle import SOURCE NAME'",
    ),
    (
        &["export-tar", "export-raw", "save", "commit", "publish"],
        "export an image with 'coracle export NAME NAME.tar.zst'",
    ),
    (&["pull-oci"], "pull an OCI image with 'coracle pull IMAGE NAME'"),
    (&["clean"], "remove unused layers with 'coracle prune'"),
    (&["move", "mv"], "rename a stopped machine with 'coracle rename NAME NEW'"),
    (&["restore"], "return to a snapshot with 'coracle rollback NAME TAG'"),
    (&["mount", "bind-volume"], "mount a directory of the host with 'coracle bind NAME SRC DST'"),
    (&["umount", "unmount", "unbind-volume"], "list bind mounts with 'coracle bind NAME'"),
    (&["port"], "show ports with 'coracle network'"),
    (
        &["volume"],
        "mount a directory of the host with 'coracle bind NAME SRC DST', or [[mount]] in the definition",
    ),
    (&["warning"], "show entries of a machine with 'coracle logs NAME'"),
    (&["completion"], "print completions with 'coracle completions SHELL'"),
    (&["system", "admin"], "check the host with 'coracle doctor'"),
    (&["generate", "quadlet"], "machines are units already: start one at boot with 'coracle enable NAME'"),
    (&["unshare", "usernsexec"], "run a command in a tree with 'coracle run -D DIR COMMAND'"),
    (
        &["cluster", "remote", "operation", "query", "machine", "manpage", "debug", "webui"],
        "list the verbs with 'coracle --help'",
    ),
];

/// The words for a feature that Coracle does not have, and the hint.
const MISSING: &[(&[&str], &str)] = &[
    (
        &["pull-tar", "pull-raw", "search", "rebuild", "farm"],
        "make a root file system in /var/lib/machines/NAME with mmdebstrap(1), then 'coracle start NAME'",
    ),
    (
        &[
            "list-transfers",
            "cancel-transfer",
            "logout",
            "history",
            "tag",
            "untag",
            "manifest",
            "artifact",
            "auto-update",
        ],
        "coracle runs root file systems, see 'coracle images'",
    ),
    (&["checkpoint"], "save the files of a machine with 'coracle snapshot NAME'"),
    (
        &["project", "pod", "kube", "play", "compose", "secret"],
        "coracle runs whole systems; write a definition for each machine: see coracle.toml(5)",
    ),
];

/// A word of another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OtherWord {
    /// Whether Coracle has the feature under another name.
    pub(super) is_supported: bool,
    /// The hint.
    pub(super) hint: &'static str,
}

/// Returns the entry of a word. `None` if it is unknown.
pub(super) fn find(word: &str) -> Option<OtherWord> {
    let find = |table: &'static [(&[&str], &'static str)]| {
        table.iter().find(|(words, _)| words.contains(&word)).map(|(_, hint)| *hint)
    };
    let renamed = find(RENAMED).map(|hint| OtherWord { is_supported: true, hint });
    renamed.or_else(|| find(MISSING).map(|hint| OtherWord { is_supported: false, hint }))
}
