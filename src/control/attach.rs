//! `attach`: the console of a running machine, over the control socket of its supervisor. Several viewers can
//! be attached; each first receives the buffered output of the console.

use super::disconnect::DisconnectKey;
use super::exec::forward;
use super::running;
use crate::error::{Context, Error, Result};
use crate::host::systemd::varlink;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::protocol::{Call, WindowSize};
use crate::state::record::Record;
use crate::sys::terminal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The time that a reboot of the guest may take.
const REBOOT_TIME: Duration = Duration::from_secs(20);

/// The reason why `attach` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachEnd {
    /// The detach key.
    Detached,
    /// The end of the machine.
    Machine,
    /// A signal.
    Signal,
    /// The end of the reader of standard output.
    Reader,
}

/// Shows the console until the machine ends or the user detaches.
///
/// # Errors
/// The machine is not running, has no console, or its supervisor does not answer.
pub(crate) fn attach(paths: &Paths, name: &Name) -> Result<AttachEnd> {
    let record = running(paths, name)?;
    let mut viewer = Viewer {
        paths: paths.clone(),
        name: name.clone(),
        socket: paths.control(&record.name),
        signals: forward::signals()?,
        detach_key: DisconnectKey::default(),
        reads_input: true,
    };
    let mut stream = viewer.connect()?;
    let before = terminal::make_raw(rustix::stdio::stdin()).ok();
    let ended = loop {
        match viewer.view(&mut stream) {
            Ok(Some(ended)) => break Ok(ended),
            // The supervisor executes itself again when its guest reboots.
            Ok(None) => match viewer.connect_again() {
                Some(again) => stream = again,
                None => break Ok(AttachEnd::Machine),
            },
            Err(error) => break Err(error),
        }
    };
    if let Some(before) = &before {
        terminal::restore(rustix::stdio::stdin(), before);
    }
    ended
}

struct Viewer {
    paths: Paths,
    name: Name,
    socket: PathBuf,
    signals: SignalFd,
    detach_key: DisconnectKey,
    reads_input: bool,
}

impl Viewer {
    fn connect(&self) -> Result<UnixStream> {
        let mut stream = varlink::connect(&self.socket).map_err(|error| {
            error.with_hint(
                "its supervisor is starting or is of an older version; try again, or restart the machine",
            )
        })?;
        let (method, parameters) = Call::Attach(window()).into_parts();
        varlink::call(&mut stream, &method, &parameters)?;
        Ok(stream)
    }

    /// Connects to the same machine after a reboot. `None` if the machine ended.
    fn connect_again(&self) -> Option<UnixStream> {
        let begun = Instant::now();
        while begun.elapsed() < REBOOT_TIME {
            std::thread::sleep(Duration::from_millis(50));
            let record = Record::read(&self.paths, &self.name).ok().flatten();
            if !record.is_some_and(|record| record.is_alive()) {
                return None;
            }
            if let Ok(stream) = self.connect() {
                return Some(stream);
            }
        }
        None
    }

    /// Transfers bytes until one side ends. Returns `None` if the supervisor closed the connection.
    fn view(&mut self, stream: &mut UnixStream) -> Result<Option<AttachEnd>> {
        loop {
            let stdin = rustix::stdio::stdin();
            let mut watched = vec![
                PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            if self.reads_input {
                watched.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.context(|| "cannot wait for the console")?,
            };
            let ready: Vec<bool> = watched.iter().map(|one| !one.revents().is_empty()).collect();
            drop(watched);
            if ready.get(1) == Some(&true) && self.handle_signals() {
                return Ok(Some(AttachEnd::Signal));
            }
            if ready.first() == Some(&true) {
                let mut buffer = [0u8; 8192];
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return Ok(None),
                    Ok(length) => {
                        if show(buffer.get(..length).unwrap_or_default())?.is_break() {
                            return Ok(Some(AttachEnd::Reader));
                        }
                    }
                }
            }
            if ready.get(2) == Some(&true) {
                let mut buffer = [0u8; 1024];
                let length = rustix::io::read(stdin, &mut buffer).unwrap_or(0);
                self.reads_input = length > 0;
                let typed = buffer.get(..length).unwrap_or_default();
                if self.detach_key.is_typed(typed) {
                    return Ok(Some(AttachEnd::Detached));
                }
                if stream.write_all(typed).is_err() {
                    return Ok(None);
                }
            }
        }
    }

    fn handle_signals(&self) -> bool {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).unwrap_or_default() {
                libc::SIGWINCH => {
                    let (method, parameters) = Call::Resize(window()).into_parts();
                    let sent = varlink::connect(&self.socket)
                        .and_then(|mut stream| varlink::call(&mut stream, &method, &parameters));
                    if let Err(error) = sent {
                        log::debug!("cannot send the window size: {error}, ignoring");
                    }
                }
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT => return true,
                _ => {}
            }
        }
        false
    }
}

/// Returns the size of the caller's window. Zero if there is none.
fn window() -> WindowSize {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin());
    size.map_or_else(|_| WindowSize::default(), |size| WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Writes to standard output, until its reader ends.
fn show(mut bytes: &[u8]) -> Result<ControlFlow<()>> {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::PIPE) => return Ok(ControlFlow::Break(())),
            Err(errno) => {
                return Err(Error::from(errno).context("cannot write the console to standard output"));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}
