//! A profile of system calls, which replaces the list of every machine: that of an OCI bundle.

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyscallProfile {
    /// The answer to calls without a rule.
    pub(crate) default: ProfileAnswer,
    /// Whether programs for 32 bit x86 may run. Otherwise they are killed.
    pub(crate) has_i386: bool,
    /// The rules. The first one that matches a call counts.
    pub(crate) rules: Vec<ProfileRule>,
}

/// A rule for calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProfileRule {
    /// The names of the calls. Unknown ones are skipped.
    pub(crate) names: Vec<String>,
    /// The answer.
    pub(crate) answer: ProfileAnswer,
    /// Conditions that all hold.
    pub(crate) conditions: Vec<ArgumentCondition>,
}

/// The answer to a call (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProfileAnswer {
    /// It is allowed.
    Allow,
    /// It fails with this error.
    Errno(u16),
    /// Its thread is killed.
    KillThread,
    /// Its process is killed.
    KillProcess,
    /// It is allowed, and logged.
    Log,
    /// Its thread receives SIGSYS.
    Trap,
}

/// A condition of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArgumentCondition {
    /// The number of the argument, from 0 to 5.
    pub(crate) index: u8,
    /// The comparison.
    pub(crate) comparison: Comparison,
    /// The value it is compared with.
    pub(crate) value: u64,
}

/// A comparison of an argument, without sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// It is another one.
    Differs,
    /// It is less.
    Less,
    /// It is less or the same.
    AtMost,
    /// It is the same.
    Equal,
    /// It is the same or greater.
    AtLeast,
    /// It is greater.
    Greater,
    /// Of these bits it is the same.
    Masked(u64),
}
