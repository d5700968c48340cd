//! Requests credentials from a program `docker-credential-NAME`: the server goes to its standard input, and it replies
//! with JSON. The program is chosen by the files of the host's root, and runs with root's rights. Called by
//! `credentials`.

use crate::error::{Context, Error, Result};
use crate::tree::copy::CopyProgress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Deserialize;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};

/// The longest reply, bytes.
const LONGEST: usize = 1 << 20;
/// The time between two checks for an interruption.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// The reply of a program that has no credentials for a server.
const NOT_FOUND: &str = "credentials not found";
/// The user of a token that is not a password.
const TOKEN: &str = "<token>";

/// The reply.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    username: String,
    secret: String,
}

/// A program that is killed when this is dropped, unless it has ended.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails if the program has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns user and password for a server. `None` if the program has none. `progress` is called while it waits.
///
/// # Errors
/// A program that cannot be executed or that fails, or an interruption.
pub(super) fn get(
    name: &str,
    server: &str,
    progress: &mut CopyProgress<'_>,
) -> Result<Option<(String, String)>> {
    let program = format!("docker-credential-{name}");
    let asking = || format!("cannot get the credentials for '{server}' from '{}'", program.escape_debug());
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if name.is_empty() || !name.chars().all(is_word) {
        return Err(Error::new("it is not the name of a program").context(asking()));
    }
    run(&program, server, progress).map_err(|error| error.context(asking()))
}

fn run(program: &str, server: &str, progress: &mut CopyProgress<'_>) -> Result<Option<(String, String)>> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::new("it is not installed")
                .with_hint("install it, or remove it from the files of containers-auth.json(5)"));
        }
        child => Killed(child.context(|| "it cannot be executed")?),
    };
    if let Some(mut input) = child.0.stdin.take() {
        // Fails if the program has ended: its reply says why.
        let _ = writeln!(input, "{server}");
    }
    let text = reply(&mut child.0, progress)?;
    let status = child.0.wait().context(|| "cannot wait for it")?;
    if !status.success() {
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or_default().trim();
        if line.contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(Error::new(format!("it failed: {}", line.escape_debug())));
    }
    let Reply { username, secret } =
        serde_json::from_slice(&text).map_err(|_| Error::new("it sent an invalid reply"))?;
    if username == TOKEN {
        return Err(Error::new("it has a token for another protocol and not a password")
            .with_hint("log in with a password or an access token: 'podman login REGISTRY' as root"));
    }
    Ok(Some((username, secret)))
}

/// Reads the output of the program.
fn reply(child: &mut Child, progress: &mut CopyProgress<'_>) -> Result<Vec<u8>> {
    let mut output = child.stdout.take().ok_or_else(|| Error::new("it has no output"))?;
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&INTERVAL)) {
            Ok(0) | Err(Errno::INTR) => progress(0)?,
            Err(errno) => return Err(errno).context(|| "cannot wait for it"),
            Ok(_) => {
                let length = output.read(&mut part).context(|| "cannot read its output")?;
                if length == 0 {
                    return Ok(text);
                }
                text.extend_from_slice(part.get(..length).unwrap_or_default());
                if text.len() > LONGEST {
                    return Err(Error::new("its reply is too long"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_replies_refuses_or_fails() {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("program");
        let ask = |script: &str| {
            std::fs::write(&program, format!("#!/bin/sh\n[ \"$1\" = get ] || exit 9\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            run(program.to_str().unwrap(), "x.org", &mut |_| Ok(()))
        };
        let found = ask("read s; echo '{\"ServerURL\":\"'$s'\",\"Username\":\"'$s'\",\"Secret\":\"pass\"}'");
        assert_eq!(found.unwrap(), Some(("x.org".into(), "pass".into())));
        assert_eq!(ask("echo credentials not found in native keychain; exit 1").unwrap(), None);
        for (script, cause) in [
            ("echo no keyring; exit 1", "it failed: no keyring"),
            ("echo '{}'", "an invalid reply"),
            ("echo '{\"Username\":\"<token>\",\"Secret\":\"x\"}'", "a token for another protocol"),
            ("head -c 2000000 /dev/zero", "its reply is too long"),
        ] {
            let error = ask(script).unwrap_err().to_string();
            assert!(error.contains(cause), "{script}: {error}");
        }
        let interrupted = run("sleep", "x", &mut |_| Err(Error::new("interrupted")));
        // sleep(1) refuses the word 'get' at once.
        assert!(interrupted.is_err());
        assert!(get("../x", "x.org", &mut |_| Ok(())).unwrap_err().to_string().contains("name of a program"));
        let missing = get("no-such-helper", "x.org", &mut |_| Ok(())).unwrap_err();
        assert!(missing.to_string().contains("is not installed") && missing.hint().is_some(), "{missing}");
    }
}
