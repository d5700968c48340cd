//! The console of a machine.

/// The connection of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Console {
    /// [`Console::Interactive`] with a terminal, otherwise [`Console::ReadOnly`].
    Auto,
    /// A pty connected to the terminal of the caller.
    Interactive,
    /// A pty with its output copied to standard output.
    ReadOnly,
    /// A pty without a reader in Coracle.
    Passive,
    /// The standard streams of the caller, without a pty.
    Pipe,
    /// A pty with its lines written to the journal of the host.
    Journal,
}
