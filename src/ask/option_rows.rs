//! The options of each verb of the service. Used by `verbs`.

use super::options::OptionKind::{self, Choice, Flag, Number, Size, Terminal, Text, Texts};
use super::options::OptionRow;

/// The events that a start waits for.
const WAIT: &[&str] = &["ready", "running", "unit", "no"];
/// The formats of logs.
const FORMATS: &[&str] = &["short-iso", "short-unix", "cat", "json"];
/// The options of `start` and `restart`.
pub(super) const START: &[OptionRow] = &[OptionRow("wait", Choice("--wait=", WAIT, "unit"))];
/// The options of `enable` and `disable`.
pub(super) const NOW: &[OptionRow] = &[OptionRow("now", Flag("--now"))];
/// The options of `kill`.
pub(super) const KILL: &[OptionRow] = &[
    OptionRow("signal", Number("--signal=")),
    OptionRow("whom", Choice("--kill-whom=", &["leader", "all"], "")),
];
/// The options of `logs`.
pub(super) const LOGS: &[OptionRow] = &[
    OptionRow("follow", Flag("--follow")),
    OptionRow("reverse", Flag("--reverse")),
    OptionRow("console", Flag("--console")),
    OptionRow("list-boots", Flag("--list-boots")),
    OptionRow("lines", Number("--lines=")),
    OptionRow("unit", Texts("--unit=")),
    OptionRow("boot", Text("--boot=")),
    OptionRow("since", Text("--since=")),
    OptionRow("until", Text("--until=")),
    OptionRow("priority", Text("--priority=")),
    OptionRow("grep", Text("--grep=")),
    OptionRow("output", Choice("--output=", FORMATS, "")),
];
/// The options of `exec`.
pub(super) const EXEC: &[OptionRow] = &[
    OptionRow("user", Text("--user=")),
    OptionRow("directory", OptionKind::Directory("--workdir=")),
    OptionRow("environment", OptionKind::Variables("--setenv=")),
    OptionRow("wait-ready", Flag("--wait-ready")),
    OptionRow("no-escape", Flag("--no-escape")),
    OptionRow("terminal", Terminal),
    OptionRow("term", Size),
    OptionRow("rows", Size),
    OptionRow("columns", Size),
];
/// The options of `shell`.
pub(super) const SHELL: &[OptionRow] = &[
    OptionRow("session", Flag("--session")),
    OptionRow("user", Text("--user=")),
    OptionRow("directory", OptionKind::Directory("--workdir=")),
    OptionRow("environment", OptionKind::Variables("--setenv=")),
    OptionRow("wait-ready", Flag("--wait-ready")),
    OptionRow("no-escape", Flag("--no-escape")),
    OptionRow("terminal", Terminal),
    OptionRow("term", Size),
    OptionRow("rows", Size),
    OptionRow("columns", Size),
];
/// The options of `login`.
pub(super) const LOGIN: &[OptionRow] = &[
    OptionRow("no-escape", Flag("--no-escape")),
    OptionRow("term", Size),
    OptionRow("rows", Size),
    OptionRow("columns", Size),
];
/// The options of `attach`.
pub(super) const ATTACH: &[OptionRow] =
    &[OptionRow("term", Size), OptionRow("rows", Size), OptionRow("columns", Size)];
/// The options of `copy-to`: with `source`, the archive has one tree, which is copied as the file of this path.
pub(super) const COPY_TO: &[OptionRow] =
    &[OptionRow("force", Flag("--force")), OptionRow("source", Text("--as="))];
/// The options of `copy-from`.
pub(super) const COPY_FROM: &[OptionRow] = &[OptionRow("no-dereference", Flag("--no-dereference"))];
/// The options of `bind`.
pub(super) const BIND: &[OptionRow] = &[
    OptionRow("read-only", Flag("--read-only")),
    OptionRow("mkdir", Flag("--mkdir")),
    OptionRow("map", Text("--map=")),
];
/// The options of `set`.
pub(super) const SET: &[OptionRow] = &[OptionRow("runtime", Flag("--runtime"))];
/// The options of `apply`.
pub(super) const APPLY: &[OptionRow] = &[OptionRow("dry-run", Flag("--dry-run"))];

/// The option of verbs that print JSON instead of a text for people.
const JSON: OptionRow = OptionRow("json", Flag("--json"));
/// The options of `snapshot` and `convert`.
pub(super) const ONLY_JSON: &[OptionRow] = &[JSON];
/// The options of `rollback`.
pub(super) const ROLLBACK: &[OptionRow] = &[OptionRow("discard", Flag("--discard")), JSON];
/// The options of `clone`.
pub(super) const CLONE: &[OptionRow] =
    &[OptionRow("exact", Flag("--exact")), OptionRow("read-only", Flag("--read-only")), JSON];
/// The options of `remove`.
pub(super) const REMOVE: &[OptionRow] = &[OptionRow("purge", Flag("--purge"))];
/// The options of `import` and `pull`.
pub(super) const IMPORT: &[OptionRow] = &[
    OptionRow("read-only", Flag("--read-only")),
    OptionRow("max-size", Text("--max-size=")),
    OptionRow("platform", Text("--platform=")),
    JSON,
];
/// The options of `export`.
pub(super) const EXPORT: &[OptionRow] =
    &[OptionRow("format", Text("--format=")), OptionRow("latest", Text("--latest="))];
/// The options of `create`.
pub(super) const CREATE: &[OptionRow] = &[
    OptionRow("from", Text("--from=")),
    OptionRow("arch", Text("--arch=")),
    OptionRow("include", Texts("--include=")),
    OptionRow("mirror", Text("--mirror=")),
    OptionRow("directory", Flag("--directory")),
    OptionRow("refresh", Flag("--refresh")),
    JSON,
];
/// The options of `update`.
pub(super) const UPDATE: &[OptionRow] = &[
    OptionRow("version", Text("--version=")),
    OptionRow("tries", Number("--tries=")),
    OptionRow("max-size", Text("--max-size=")),
    JSON,
];
/// The options of `prune`.
pub(super) const PRUNE: &[OptionRow] = &[OptionRow("dry-run", Flag("--dry-run"))];

/// The networks of sessions of users: that of the host is none of them.
const NETWORKS: &[&str] = &["none", "nat"];
/// The options of a session. Files of the host are bound by root only.
pub(super) const BEGIN: &[OptionRow] = &[
    OptionRow("name", Text("--name=")),
    OptionRow("user", Text("--user=")),
    OptionRow("network", Choice("--network=", NETWORKS, "")),
    OptionRow("boot", Flag("--boot")),
    OptionRow("memory", Text("--memory=")),
    OptionRow("sync", Flag("--sync")),
    OptionRow("register", Flag("--register")),
    OptionRow("lifetime", Text("--lifetime=")),
    OptionRow("memory-max", Text("--memory-max=")),
    OptionRow("cpu-quota", Text("--cpu-quota=")),
    OptionRow("tasks-max", Text("--tasks-max=")),
    OptionRow("io-weight", Text("--io-weight=")),
    OptionRow("cpus", Text("--cpus=")),
];
/// The options of a command in a session.
pub(super) const RUN: &[OptionRow] = &[
    OptionRow("user", Text("--user=")),
    OptionRow("directory", OptionKind::Directory("--workdir=")),
    OptionRow("environment", OptionKind::Variables("--setenv=")),
    OptionRow("wait-ready", Flag("--wait-ready")),
    OptionRow("no-escape", Flag("--no-escape")),
    OptionRow("terminal", Terminal),
    OptionRow("term", Size),
    OptionRow("rows", Size),
    OptionRow("columns", Size),
    OptionRow("offline", Flag("--offline")),
    OptionRow("keep-processes", Flag("--keep-processes")),
    OptionRow("timeout", Text("--timeout=")),
    OptionRow("failure-status", Text("--failure-status=")),
    OptionRow("max-status", Text("--max-status=")),
];
/// The option of `build end`.
pub(super) const END: &[OptionRow] = &[JSON];
/// The option of `build clean`.
pub(super) const CLEAN: &[OptionRow] = &[OptionRow("all", Flag("--all"))];
