//! Starts `coracle-pull` for a request: nobody, without capabilities, with the host's files read-only, and with two
//! pipes. Nothing that it writes is trusted. Called by `server`.

use crate::error::{Context, Error, Result};
use crate::sys::process::{self, Child, Side};
use crate::sys::{confine, descriptor, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// The program.
const PROGRAM: &std::ffi::CStr = c"/usr/lib/coracle/coracle-pull";
/// The user of the program.
const NOBODY: u32 = 65534;
/// The memory of the program, bytes.
const MEMORY: u64 = 1 << 30;
/// The time limit of a wait for the server.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of a reply to begin: the program may wait for several servers, each with its own limit.
const BEGINNING: Duration = Duration::from_secs(300);
/// The longest head of a reply, bytes.
const LONGEST_HEAD: usize = 1 << 20;
/// The time between two checks for an interruption.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// The namespaces of the program.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// A request to the program; see its source.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Fetch {
    /// The address.
    pub(super) url: String,
    /// The accepted media types.
    pub(super) accept: Vec<&'static str>,
    /// The first byte.
    pub(super) from: u64,
    /// The user, and the password.
    pub(super) credentials: Option<(String, String)>,
    /// The token of an earlier reply.
    pub(super) token: Option<String>,
    /// Further certificates of authorities (PEM).
    pub(super) authorities: Vec<String>,
    /// Whether TLS is not required.
    pub(super) insecure: bool,
    /// The address of a proxy.
    pub(super) proxy: Option<String>,
    /// The time limit of a wait, seconds.
    pub(super) timeout: u64,
}

/// The head of a reply.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FetchHead {
    error: Option<String>,
    /// Whether another attempt may succeed after the error.
    is_transient: bool,
    /// The status.
    pub(super) status: u16,
    /// The position of the body in the file.
    pub(super) from: u64,
    /// The media type.
    pub(super) media_type: Option<String>,
    /// The token for further requests.
    pub(super) token: Option<String>,
    /// The requested pause, seconds.
    pub(super) retry_after: Option<u64>,
}

impl FetchHead {
    /// Returns the error in place of a reply, and whether another attempt may succeed.
    pub(super) fn failure(&self) -> Option<(Error, bool)> {
        let error = self.error.as_ref()?;
        let shown: String = error.chars().take(500).flat_map(char::escape_debug).collect();
        Some((Error::new(shown), self.is_transient))
    }
}

/// A reply. The program is killed when it is dropped.
pub(super) struct Reply {
    output: File,
    child: Option<OwnedFd>,
    /// The part of the head that was received.
    head: Vec<u8>,
    /// Bytes of the body that were read with the head.
    rest: Vec<u8>,
    /// The time until which more has to be received.
    limit: Instant,
}

impl Drop for Reply {
    fn drop(&mut self) {
        process::kill_child(self.child.take());
    }
}

/// Returns the proxy for a host, by the environment.
pub(super) fn proxy(scheme: &str, host: &str) -> Option<String> {
    let variable = |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_uppercase())).ok();
    let name = host.split(':').next().unwrap_or(host);
    let excluded = variable("no_proxy").unwrap_or_default();
    let is_excluded = excluded.split(',').map(str::trim).filter(|one| !one.is_empty()).any(|one| {
        let one = one.trim_start_matches('.');
        one == "*" || name == one || name.ends_with(&format!(".{one}"))
    });
    variable(&format!("{scheme}_proxy")).filter(|proxy| !proxy.is_empty() && !is_excluded)
}

/// Starts the program with a request.
///
/// # Errors
/// A program that is not installed, or any error of clone3(2).
pub(super) fn start(fetch: &Fetch) -> Result<Reply> {
    if !std::path::Path::new("/usr/lib/coracle/coracle-pull").exists() {
        return Err(Error::new("'/usr/lib/coracle/coracle-pull' is not installed").with_hint(
            "install it, or fetch the image with 'skopeo copy docker://IMAGE oci:DIR' and import it",
        ));
    }
    let request = serde_json::to_vec(fetch).map_err(|error| Error::new(error.to_string()))?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe");
    let ((input, requests), (output, replies)) = (pipe()?, pipe()?);
    let child = match process::clone(u64::from(NAMESPACES.cast_unsigned()), None)? {
        Side::Parent(child) => child,
        Side::Child => {
            if confine(&input, &replies).is_ok() {
                process::execute(PROGRAM, &[c"coracle-pull".to_owned()], &[], || {});
            }
            process::exit_now(1)
        }
    };
    drop((input, replies));
    let Child { pidfd, .. } = child;
    let limit = Instant::now() + BEGINNING;
    let reply =
        Reply { output: output.into(), child: Some(pidfd), head: Vec::new(), rest: Vec::new(), limit };
    // Fails if the program has ended: its reply says why.
    let _ = File::from(requests).write_all(&request);
    Ok(reply)
}

/// Takes all rights from this process, the child, and places its pipes.
fn confine(input: &OwnedFd, output: &OwnedFd) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context(|| "cannot create a mount namespace")?;
    mount::make_read_only("/").context(|| "cannot make the files of the host read-only")?;
    process::become_user(NOBODY, NOBODY, &[])?;
    process::die_with_parent();
    confine::keep_capabilities(CapabilitySet::empty())?;
    confine::limit(MEMORY)?;
    descriptor::place(input.as_fd(), 0)
        .and_then(|()| descriptor::place(output.as_fd(), 1))
        .and_then(|()| descriptor::close_on_exec_from(3))
        .context(|| "cannot pass the pipes on")
}

impl Reply {
    /// Returns the pipe with the reply.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Reads a part of the reply, which is ready. Returns 0 at its end.
    ///
    /// # Errors
    /// Any read error.
    pub(super) fn receive(&mut self, part: &mut [u8]) -> Result<usize> {
        loop {
            match self.output.read(part) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => {
                    self.limit = Instant::now() + TIMEOUT;
                    return read.context(|| "cannot read from the registry");
                }
            }
        }
    }

    /// Checks the time limit of a reply that is not ready.
    ///
    /// # Errors
    /// It has passed.
    pub(super) fn check_stalled(&self) -> Result<()> {
        if Instant::now() < self.limit {
            return Ok(());
        }
        Err(Error::new("the registry has stopped sending"))
    }

    /// Takes a part of the head. Returns the head with the begin of the body if it is complete.
    ///
    /// # Errors
    /// A program that has failed.
    pub(super) fn take_head(&mut self, part: &[u8]) -> Result<Option<(FetchHead, Vec<u8>)>> {
        self.head.extend_from_slice(part);
        if let Some(end) = self.head.iter().position(|byte| *byte == b'\n') {
            let body = self.head.split_off(end + 1);
            let head = serde_json::from_slice(&self.head);
            return head
                .map(|head| Some((head, body)))
                .map_err(|_| Error::new("coracle-pull sent an invalid reply"));
        }
        if part.is_empty() || self.head.len() > LONGEST_HEAD {
            return Err(Error::new("coracle-pull sent no reply"));
        }
        Ok(None)
    }

    /// Reads the head.
    ///
    /// # Errors
    /// A program that has failed, or an interruption.
    pub(super) fn head(&mut self, advance: &mut dyn FnMut() -> Result<()>) -> Result<FetchHead> {
        let mut part = vec![0; 64 << 10];
        loop {
            let length = self.read(&mut part, advance)?;
            if let Some((head, body)) = self.take_head(part.get(..length).unwrap_or_default())? {
                self.rest = body;
                return Ok(head);
            }
        }
    }

    /// Reads a part of the body. Returns 0 at its end.
    ///
    /// # Errors
    /// Any read error, or an interruption.
    pub(super) fn read(&mut self, part: &mut [u8], advance: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        if !self.rest.is_empty() {
            let length = self.rest.len().min(part.len());
            let rest = self.rest.split_off(length);
            part.iter_mut().zip(&self.rest).for_each(|(to, from)| *to = *from);
            self.rest = rest;
            return Ok(length);
        }
        loop {
            match poll(&mut [PollFd::new(&self.output, PollFlags::IN)], Some(&INTERVAL)) {
                Ok(0) | Err(Errno::INTR) => {
                    advance()?;
                    self.check_stalled()?;
                }
                Err(errno) => return Err(errno).context(|| "cannot wait for the registry"),
                Ok(_) => return self.receive(part),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> Reply {
        let output = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        reply_from(output.unwrap())
    }

    fn reply_from(output: OwnedFd) -> Reply {
        let limit = Instant::now() + BEGINNING;
        Reply { output: output.into(), child: None, head: Vec::new(), rest: Vec::new(), limit }
    }

    #[test]
    fn a_stalled_reply_is_an_error() {
        let (output, replies) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut reply = reply_from(output);
        let mut part = [0; 4];
        rustix::io::write(&replies, b"body").unwrap();
        assert_eq!(reply.read(&mut part, &mut || Ok(())).unwrap(), 4);
        let begins = Instant::now();
        assert!(reply.limit <= begins + TIMEOUT);
        reply.check_stalled().unwrap();
        reply.limit = begins;
        let error = reply.read(&mut part, &mut || Ok(())).unwrap_err().to_string();
        assert!(error.contains("has stopped sending"), "{error}");
        // Received in the meantime.
        rustix::io::write(&replies, b"body").unwrap();
        assert_eq!(reply.read(&mut part, &mut || Ok(())).unwrap(), 4);
        reply.check_stalled().unwrap();
    }

    #[test]
    fn a_head_comes_in_parts() {
        let text = br#"{"error":null,"is-transient":false,"status":206,"from":7,"media-type":null,"token":null,"retry-after":null}"#;
        let mut reply = reply();
        assert!(reply.take_head(&text[..20]).unwrap().is_none());
        let (head, body) = reply.take_head(&[&text[20..], b"\nbody"].concat()).unwrap().unwrap();
        assert_eq!((head.status, head.from, body.as_slice()), (206, 7, &b"body"[..]));
    }

    #[test]
    fn a_reply_without_a_head_is_an_error() {
        assert!(reply().take_head(b"").unwrap_err().to_string().contains("sent no reply"));
        assert!(reply().take_head(b"x\n").unwrap_err().to_string().contains("an invalid reply"));
        assert!(reply().take_head(&vec![b'x'; LONGEST_HEAD + 1]).is_err());
    }
}
