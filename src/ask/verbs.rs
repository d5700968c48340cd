//! The verbs of the service: their words, polkit actions, options and outputs. Used by `ask`.

use super::options::OptionKind::{self, Choice, Flag, Number, Size, Terminal, Text, Texts};
use super::options::OptionRow;

/// The events that a start waits for.
const WAIT: &[&str] = &["ready", "running", "unit", "no"];
/// The formats of logs.
const FORMATS: &[&str] = &["short-iso", "short-unix", "cat", "json"];
/// The options of `start` and `restart`.
const START: &[OptionRow] = &[OptionRow("wait", Choice("--wait=", WAIT, "unit"))];
/// The options of `enable` and `disable`.
const NOW: &[OptionRow] = &[OptionRow("now", Flag("--now"))];
/// The options of `kill`.
const KILL: &[OptionRow] = &[
    OptionRow("signal", Number("--signal=")),
    OptionRow("whom", Choice("--kill-whom=", &["leader", "all"], "")),
];
/// The options of `logs`.
const LOGS: &[OptionRow] = &[
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
const EXEC: &[OptionRow] = &[
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
const SHELL: &[OptionRow] = &[
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
const LOGIN: &[OptionRow] = &[
    OptionRow("no-escape", Flag("--no-escape")),
    OptionRow("term", Size),
    OptionRow("rows", Size),
    OptionRow("columns", Size),
];
/// The options of `attach`.
const ATTACH: &[OptionRow] = &[OptionRow("term", Size), OptionRow("rows", Size), OptionRow("columns", Size)];

/// An action of polkit(8), as in `dbus/io.coracle1.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Reads what only root may read.
    Inspect,
    /// Starts, stops and signals machines.
    Control,
    /// Reads the log of a machine.
    Logs,
    /// Runs commands in a machine.
    Enter,
}

impl Action {
    /// Returns its id.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Inspect => "io.coracle1.inspect",
            Self::Control => "io.coracle1.control",
            Self::Logs => "io.coracle1.logs",
            Self::Enter => "io.coracle1.enter",
        }
    }
}

/// The output of a verb, which determines the streams of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// A report of success or failure; a text for people may precede it.
    Report,
    /// A document, which the service returns.
    Document,
    /// Standard streams or a terminal, connected with those of the caller.
    Streams,
    /// Always a terminal.
    Terminal,
    /// Standard output only.
    Stdout,
}

/// A verb of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, clippy::missing_docs_in_private_items, reason = "the names of the verbs")]
pub(crate) enum AskVerb {
    Start,
    Stop,
    Restart,
    Enable,
    Disable,
    Poweroff,
    Reboot,
    Terminate,
    Kill,
    Freeze,
    Thaw,
    Describe,
    Inspect,
    Config,
    Stats,
    Doctor,
    Network,
    Logs,
    Exec,
    Shell,
    Login,
    Attach,
}

/// A row of the table: words of the job, participle for messages, action, output.
struct Row(&'static [&'static str], &'static str, Action, Output);

impl AskVerb {
    /// All verbs.
    #[cfg(test)]
    pub(super) const ALL: [Self; 22] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Enable,
        Self::Disable,
        Self::Poweroff,
        Self::Reboot,
        Self::Terminate,
        Self::Kill,
        Self::Freeze,
        Self::Thaw,
        Self::Describe,
        Self::Inspect,
        Self::Config,
        Self::Stats,
        Self::Doctor,
        Self::Network,
        Self::Logs,
        Self::Exec,
        Self::Shell,
        Self::Login,
        Self::Attach,
    ];

    fn row(self) -> Row {
        use Output::{Document, Report, Stdout, Streams, Terminal};
        match self {
            Self::Start => Row(&["start"], "starting", Action::Control, Report),
            Self::Stop => Row(&["stop"], "stopping", Action::Control, Report),
            Self::Restart => Row(&["restart"], "restarting", Action::Control, Report),
            Self::Enable => Row(&["enable"], "enabling", Action::Control, Report),
            Self::Disable => Row(&["disable"], "disabling", Action::Control, Report),
            Self::Poweroff => Row(&["poweroff"], "powering off", Action::Control, Report),
            Self::Reboot => Row(&["reboot"], "rebooting", Action::Control, Report),
            Self::Terminate => Row(&["terminate"], "terminating", Action::Control, Report),
            Self::Kill => Row(&["kill"], "signalling", Action::Control, Report),
            Self::Freeze => Row(&["freeze"], "freezing", Action::Control, Report),
            Self::Thaw => Row(&["thaw"], "thawing", Action::Control, Report),
            Self::Describe => Row(&["show", "--json"], "describing", Action::Inspect, Document),
            Self::Inspect => Row(&["inspect", "--json"], "inspecting", Action::Inspect, Document),
            Self::Config => {
                Row(&["config", "--json"], "reading the definition of", Action::Inspect, Document)
            }
            Self::Stats => Row(&["stats", "--json"], "measuring", Action::Inspect, Document),
            Self::Doctor => Row(&["doctor", "--json"], "diagnosing", Action::Inspect, Document),
            Self::Network => {
                Row(&["network", "--json"], "inspecting the network of", Action::Inspect, Document)
            }
            Self::Logs => Row(&["logs"], "reading the log of", Action::Logs, Stdout),
            Self::Exec => Row(&["exec"], "running commands in", Action::Enter, Streams),
            Self::Shell => Row(&["shell"], "opening a shell in", Action::Enter, Streams),
            Self::Login => Row(&["login"], "logging in to", Action::Enter, Terminal),
            Self::Attach => Row(&["attach"], "attaching to", Action::Enter, Terminal),
        }
    }

    /// Returns the verb as polkit's rules see it: the word of the command line.
    pub(crate) fn as_str(self) -> &'static str {
        if self == Self::Describe { "show" } else { self.words().first().copied().unwrap_or_default() }
    }

    /// Returns the first words of the job.
    pub(crate) fn words(self) -> &'static [&'static str] {
        self.row().0
    }

    /// Returns the participle for messages, followed by `machine 'NAME'`.
    pub(crate) fn doing(self) -> &'static str {
        self.row().1
    }

    /// Returns the action of polkit.
    pub(crate) fn action(self) -> Action {
        self.row().2
    }

    /// Returns the output.
    pub(crate) fn output(self) -> Output {
        self.row().3
    }

    /// Returns whether its words, a command or its environment, are nobody else's business.
    pub(crate) fn has_private_words(self) -> bool {
        matches!(self, Self::Exec | Self::Shell)
    }

    /// Returns whether every user may call it.
    pub(crate) fn is_public(self) -> bool {
        self == Self::Stats
    }

    /// Returns whether an exit status other than 0 comes with a document.
    pub(crate) fn judges(self) -> bool {
        self == Self::Doctor
    }

    /// Returns the method on the bus.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Stop => "Stop",
            Self::Restart => "Restart",
            Self::Enable => "Enable",
            Self::Disable => "Disable",
            Self::Poweroff => "Poweroff",
            Self::Reboot => "Reboot",
            Self::Terminate => "Terminate",
            Self::Kill => "Kill",
            Self::Freeze => "Freeze",
            Self::Thaw => "Thaw",
            Self::Describe => "Describe",
            Self::Inspect => "Inspect",
            Self::Config => "Config",
            Self::Stats => "Stats",
            Self::Doctor => "Doctor",
            Self::Network => "Network",
            Self::Logs => "Logs",
            Self::Exec => "Exec",
            Self::Shell => "Shell",
            Self::Login => "Login",
            Self::Attach => "Attach",
        }
    }

    /// Returns the options of the verb.
    pub(crate) fn options(self) -> &'static [OptionRow] {
        match self {
            Self::Start | Self::Restart => START,
            Self::Enable | Self::Disable => NOW,
            Self::Kill => KILL,
            Self::Logs => LOGS,
            Self::Exec => EXEC,
            Self::Shell => SHELL,
            Self::Login => LOGIN,
            Self::Attach => ATTACH,
            _ => &[],
        }
    }
}
