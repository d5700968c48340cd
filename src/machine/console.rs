//! What the machine's console is connected to.

/// The console of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Console {
    /// A pty joined to our terminal where there is one, otherwise read-only.
    Auto,
    /// A pty joined to our terminal.
    Interactive,
    /// A pty whose output is copied to our standard output.
    ReadOnly,
    /// A pty that nobody reads here.
    Passive,
    /// Our standard streams themselves.
    Pipe,
    /// A pty whose lines become entries of the host's journal.
    Journal,
}
