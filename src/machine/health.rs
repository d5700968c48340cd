//! The health checks of a machine.

use std::time::Duration;

/// The health checks of a machine: regular looks at its limits and, if defined, a command inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// The command line for the shell of the machine; status 0 is healthy.
    pub(crate) command: Option<String>,
    /// The time between two checks, and the time limit of the command.
    pub(crate) interval: Duration,
    /// The number of failed checks in a row after which the machine is unhealthy.
    pub(crate) retries: u64,
    /// The action on an unhealthy machine.
    pub(crate) action: HealthAction,
}

/// The reaction to an unhealthy machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthAction {
    /// It is reported only.
    #[default]
    None,
    /// The unit is restarted, and the machines that require it with it.
    Restart,
    /// The unit is stopped.
    Stop,
    /// PID 1 is killed: the unit fails.
    Kill,
}
