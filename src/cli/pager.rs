//! A pager for long output on a terminal, with the variables of journalctl(1). Called by `logs`.

use super::output;
use rustix::fs::{Mode, OFlags};
use std::process::{Child, Command, Stdio};

/// The options of less(1) that systemd sets: it ends by itself if the text fits, shows colours, does not fold
/// lines, keeps the screen, and ends by Ctrl-C.
const LESS: &str = "FRSXMK";

/// A running pager, which gets the standard output of this process. Waits for its end on drop.
#[derive(Debug)]
pub(crate) struct Pager(Child);

impl Pager {
    /// Starts a pager. `None` if standard output is not a terminal, the variables disable it, or there is none.
    pub(crate) fn start() -> Option<Self> {
        if !output::is_terminal() {
            return None;
        }
        let mut command = command(|name| std::env::var(name).ok())?;
        let mut child = command.stdin(Stdio::piped()).spawn().ok()?;
        let input = child.stdin.take()?;
        rustix::stdio::dup2_stdout(&input).ok()?;
        Some(Self(child))
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        // The pager reads up to the end: nothing else may hold the pipe open.
        let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        if null.and_then(|null| rustix::stdio::dup2_stdout(&null)).is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// Returns the command of the pager: `$SYSTEMD_PAGER`, else `$PAGER`, else less(1). An empty variable or `cat`
/// disables it. After sudo(8) it is less(1) in its secure mode, from which no other program can be started.
fn command(variable: impl Fn(&str) -> Option<String>) -> Option<Command> {
    let is_secure = match variable("SYSTEMD_PAGERSECURE").as_deref() {
        None | Some("") => variable("SUDO_UID").is_some(),
        Some(value) => !["0", "no", "false", "off"].contains(&value),
    };
    let wanted = variable("SYSTEMD_PAGER").or_else(|| variable("PAGER"));
    if wanted.as_ref().is_some_and(|wanted| ["", "cat"].contains(&wanted.trim())) {
        return None;
    }
    let mut command = match wanted.filter(|_| !is_secure) {
        Some(wanted) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &wanted]);
            shell
        }
        None => Command::new("less"),
    };
    command.env("LESS", variable("SYSTEMD_LESS").unwrap_or_else(|| LESS.to_owned()));
    if is_secure {
        command.env("LESSSECURE", "1");
    }
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the words of the command with these variables.
    fn words(variables: &[(&str, &str)]) -> Option<Vec<String>> {
        let found = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let command = command(found)?;
        let words = [command.get_program()].into_iter().chain(command.get_args());
        Some(words.map(|word| word.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn variables_choose_the_pager() {
        assert_eq!(words(&[]).unwrap(), ["less"]);
        assert_eq!(words(&[("PAGER", "most -s")]).unwrap(), ["sh", "-c", "most -s"]);
        assert_eq!(words(&[("PAGER", "most"), ("SYSTEMD_PAGER", "more")]).unwrap(), ["sh", "-c", "more"]);
        assert_eq!(words(&[("SYSTEMD_PAGER", "")]), None);
        assert_eq!(words(&[("PAGER", "cat")]), None);
        assert_eq!(words(&[("PAGER", "most"), ("SUDO_UID", "1000")]).unwrap(), ["less"]);
        let trusted = [("PAGER", "most"), ("SUDO_UID", "1000"), ("SYSTEMD_PAGERSECURE", "0")];
        assert_eq!(words(&trusted).unwrap(), ["sh", "-c", "most"]);
    }
}
