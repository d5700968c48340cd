//! The signals that a job takes from its user. Used by `job`.

/// Those that `exec` passes on to its command, or follows itself on a terminal.
const PASSED: [i32; 10] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// Returns whether a job takes a signal. Others would stop or end a verb that holds locks.
pub(super) fn is_passed(verb: &str, number: i32) -> bool {
    matches!(verb, "exec" | "shell" | "login" | "attach" | "build-run" | "build-shell")
        && PASSED.contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_receive_signals() {
        assert!(is_passed("exec", libc::SIGTERM) && is_passed("attach", libc::SIGWINCH));
        for number in [libc::SIGSTOP, libc::SIGKILL, libc::SIGABRT, libc::SIGSEGV, 0] {
            assert!(!is_passed("exec", number), "{number}");
        }
        assert!(!is_passed("enable", libc::SIGTERM));
    }
}
