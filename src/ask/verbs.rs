//! The verbs of the service: their words, polkit actions, options and outputs. Used by `ask`.

use super::option_rows::{
    APPLY, ATTACH, BEGIN, BIND, CLEAN, CLONE, COPY_FROM, COPY_TO, CREATE, END, EXEC, EXPORT, IMPORT, KILL,
    LOGIN, LOGS, NOW, ONLY_JSON, PRUNE, REMOVE, ROLLBACK, RUN, SET, SHELL, START, UPDATE,
};
use super::options::OptionRow;

/// An action of polkit(8), as in `dbus/io.coracle1.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Reads what only root may read.
    Inspect,
    /// Starts, stops and signals machines.
    Control,
    /// Reads the log of a machine.
    Logs,
    /// Runs commands in a machine, and copies files.
    Enter,
    /// Changes definitions and mounts, and implies the others.
    Configure,
    /// Creates, changes, reads and removes images.
    Images,
    /// Begins, enters and ends build sessions.
    Build,
}

impl Action {
    /// Returns its id.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Inspect => "io.coracle1.inspect",
            Self::Control => "io.coracle1.control",
            Self::Logs => "io.coracle1.logs",
            Self::Enter => "io.coracle1.enter",
            Self::Configure => "io.coracle1.configure",
            Self::Images => "io.coracle1.images",
            Self::Build => "io.coracle1.build",
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
    /// A report, after what the caller writes to standard input.
    Stdin,
}

/// Defines [`AskVerb`]. A verb has the name of its method on the bus.
macro_rules! verbs {
    ($($verb:ident),* $(,)?) => {
        /// A verb of the service.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, clippy::missing_docs_in_private_items, reason = "the names of the verbs")]
        pub(crate) enum AskVerb {
            $($verb),*
        }

        impl AskVerb {
            /// All verbs.
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$verb),*];

            /// Returns the method on the bus.
            pub(crate) fn method(self) -> &'static str {
                match self {
                    // Some words are also those of other interfaces.
                    $(Self::$verb => stringify!($verb).trim_start_matches("Session")),*
                }
            }
        }
    };
}

verbs! {
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
    CopyTo,
    CopyFrom,
    Bind,
    Unbind,
    Set,
    Apply,
    Define,
    Check,
    Snapshot,
    RemoveSnapshot,
    Rollback,
    Clone,
    Rename,
    Remove,
    ReadOnly,
    Convert,
    Import,
    Export,
    Create,
    Update,
    Prune,
    Pull,
    Verify,
    SessionBegin,
    SessionRun,
    SessionShell,
    SessionEnd,
    SessionCommit,
    SessionRecover,
    SessionClean,
}

/// A row of the table: words of the job, participle for messages, action, output, options.
struct Row(&'static [&'static str], &'static str, Action, Output, &'static [OptionRow]);

impl AskVerb {
    fn row(self) -> Row {
        use Action::{Build, Configure, Control, Enter, Images, Inspect, Logs};
        use Output::{Document, Report, Stdin, Stdout, Streams, Terminal};
        match self {
            Self::Start => Row(&["start"], "starting", Control, Report, START),
            Self::Stop => Row(&["stop"], "stopping", Control, Report, &[]),
            Self::Restart => Row(&["restart"], "restarting", Control, Report, START),
            Self::Enable => Row(&["enable"], "enabling", Control, Report, NOW),
            Self::Disable => Row(&["disable"], "disabling", Control, Report, NOW),
            Self::Poweroff => Row(&["poweroff"], "powering off", Control, Report, &[]),
            Self::Reboot => Row(&["reboot"], "rebooting", Control, Report, &[]),
            Self::Terminate => Row(&["terminate"], "terminating", Control, Report, &[]),
            Self::Kill => Row(&["kill"], "signalling", Control, Report, KILL),
            Self::Freeze => Row(&["freeze"], "freezing", Control, Report, &[]),
            Self::Thaw => Row(&["thaw"], "thawing", Control, Report, &[]),
            Self::Describe => Row(&["show", "--json"], "describing", Inspect, Document, &[]),
            Self::Inspect => Row(&["inspect", "--json"], "inspecting", Inspect, Document, &[]),
            Self::Config => Row(&["config", "--json"], "reading the definition of", Inspect, Document, &[]),
            Self::Stats => Row(&["stats", "--json"], "measuring", Inspect, Document, &[]),
            Self::Doctor => Row(&["doctor", "--json"], "diagnosing", Inspect, Document, &[]),
            Self::Network => Row(&["network", "--json"], "inspecting the network of", Inspect, Document, &[]),
            Self::Logs => Row(&["logs"], "reading the log of", Logs, Stdout, LOGS),
            Self::Exec => Row(&["exec"], "running commands in", Enter, Streams, EXEC),
            Self::Shell => Row(&["shell"], "opening a shell in", Enter, Streams, SHELL),
            Self::Login => Row(&["login"], "logging in to", Enter, Terminal, LOGIN),
            Self::Attach => Row(&["attach"], "attaching to", Enter, Terminal, ATTACH),
            Self::CopyTo => Row(&["copy-to"], "copying files to", Enter, Stdin, COPY_TO),
            Self::CopyFrom => Row(&["copy-from"], "copying files from", Enter, Stdout, COPY_FROM),
            Self::Bind => Row(&["bind"], "binding files in", Configure, Report, BIND),
            Self::Unbind => Row(&["unbind"], "removing bind mounts of", Configure, Report, &[]),
            Self::Set => Row(&["set", "--json"], "changing settings of", Configure, Document, SET),
            Self::Apply => Row(&["apply", "--json"], "applying settings of", Configure, Document, APPLY),
            Self::Define => Row(&["edit", "--from=-"], "defining", Configure, Report, &[]),
            Self::Check => {
                Row(&["check", "--json", "--from=-"], "checking a definition of", Inspect, Document, &[])
            }
            Self::Snapshot => Row(&["snapshot"], "taking a snapshot of", Images, Report, ONLY_JSON),
            Self::RemoveSnapshot => {
                Row(&["snapshot", "--remove"], "removing a snapshot of", Images, Report, &[])
            }
            Self::Rollback => Row(&["rollback"], "restoring a snapshot of", Images, Report, ROLLBACK),
            Self::Clone => Row(&["clone"], "cloning", Images, Report, CLONE),
            Self::Rename => Row(&["rename"], "renaming", Images, Report, &[]),
            Self::Remove => Row(&["remove"], "removing", Images, Report, REMOVE),
            Self::ReadOnly => Row(&["read-only"], "protecting", Images, Report, &[]),
            Self::Convert => Row(&["convert"], "converting", Images, Report, ONLY_JSON),
            Self::Import => Row(&["import"], "importing", Images, Stdin, IMPORT),
            Self::Export => Row(&["export"], "exporting", Images, Stdout, EXPORT),
            Self::Create => Row(&["create"], "creating", Images, Report, CREATE),
            Self::Update => Row(&["update"], "updating", Images, Stdin, UPDATE),
            Self::Prune => Row(&["prune"], "removing unused layers of", Images, Report, PRUNE),
            Self::Pull => Row(&["pull"], "pulling", Images, Report, IMPORT),
            Self::Verify => Row(&["verify"], "verifying", Images, Report, &[]),
            Self::SessionBegin => Row(&["build", "begin"], "beginning a session on", Build, Report, BEGIN),
            Self::SessionRun => Row(&["build", "run"], "running commands in", Build, Streams, RUN),
            Self::SessionShell => Row(&["build", "shell"], "opening a shell in", Build, Streams, EXEC),
            Self::SessionEnd => Row(&["build", "end"], "ending", Build, Report, END),
            // It changes the base, or creates an image.
            Self::SessionCommit => Row(&["build", "commit"], "keeping the changes of", Images, Report, &[]),
            Self::SessionRecover => Row(&["build", "recover"], "recovering", Build, Report, &[]),
            Self::SessionClean => Row(&["build", "clean"], "ending sessions of", Build, Report, CLEAN),
        }
    }

    /// Returns the verb as polkit's rules see it: the word of the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SessionBegin => "build-begin",
            Self::SessionRun => "build-run",
            Self::SessionShell => "build-shell",
            Self::SessionEnd => "build-end",
            Self::SessionCommit => "build-commit",
            Self::SessionRecover => "build-recover",
            Self::SessionClean => "build-clean",
            _ => self.words().first().copied().unwrap_or_default(),
        }
    }

    /// Returns the noun for what it is about.
    pub(crate) fn noun(self) -> &'static str {
        match (self, self.action()) {
            (Self::SessionCommit, _) => "session",
            (Self::SessionBegin, _) | (_, Action::Images) => "image",
            (_, Action::Build) => "session",
            _ => "machine",
        }
    }

    /// Returns the interface, if it is neither that of machines nor of the manager.
    pub(crate) fn own_interface(self) -> Option<&'static str> {
        match (self, self.action()) {
            (Self::SessionCommit, _) | (_, Action::Build) => Some("io.coracle1.Session"),
            (_, Action::Images) => Some("io.coracle1.Images"),
            _ => None,
        }
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

    /// Returns the options.
    pub(crate) fn options(self) -> &'static [OptionRow] {
        self.row().4
    }

    /// Returns whether its words, a command, its environment or settings, are nobody else's business.
    pub(crate) fn has_private_words(self) -> bool {
        matches!(self, Self::Exec | Self::Shell | Self::Set | Self::SessionRun | Self::SessionShell)
    }

    /// Returns the option of the job for a caller without the rights of root.
    pub(crate) fn option_for_users(self) -> Option<&'static str> {
        matches!(self, Self::SessionBegin | Self::SessionRecover).then_some("--for-user")
    }

    /// Returns whether every user may call it.
    pub(crate) fn is_public(self) -> bool {
        self == Self::Stats
    }

    /// Returns whether an exit status other than 0 comes with a document.
    pub(crate) fn judges(self) -> bool {
        matches!(self, Self::Doctor | Self::Check)
    }

    /// Returns whether it is about a running machine only.
    pub(crate) fn enters(self) -> bool {
        matches!(self, Self::Exec | Self::Shell | Self::Login | Self::Attach)
            || matches!(self, Self::SessionRun | Self::SessionShell)
    }

    /// Returns whether its machine need not exist. Snapshots of removed images exist, too.
    pub(crate) fn creates(self) -> bool {
        matches!(self, Self::Define | Self::Check) || self.own_interface().is_some()
    }
}
