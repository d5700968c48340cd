//! The terminal of `top`: raw mode, the alternate screen, keys and signals as events. Restored on drop.

use crate::cli::output;
use crate::error::{Context, Error, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, OptionalActions, Termios};
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

/// Switches to the alternate screen, and disables cursor and line wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Undoes [`ENTER`].
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// An event of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TerminalEvent {
    /// A key: its byte, or the equivalent letter of an arrow key.
    Key(u8),
    /// A timeout or a new size of the window.
    Nothing,
    /// A signal or a key requests the end.
    End,
}

/// The terminal of the process, in raw mode.
#[derive(Debug)]
pub(super) struct Terminal {
    before: Termios,
    signals: SignalFd,
    /// Bytes read and not handled yet.
    typed: Vec<u8>,
}

impl Terminal {
    /// Sets the terminal to raw mode and switches to the alternate screen.
    pub(super) fn open() -> Result<Self> {
        let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
        if !termios::isatty(input) || !termios::isatty(output) {
            return Err(Error::new("'coracle top' requires a terminal")
                .with_hint("use 'coracle stats' without a terminal"));
        }
        let mut mask = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGWINCH]
            .into_iter()
            .for_each(|signal| mask.add(signal));
        mask.thread_block().context(|| "cannot block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context(|| "cannot create a signalfd")?;
        let before = termios::tcgetattr(input).context(|| "cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(input, OptionalActions::Flush, &raw).context(|| "cannot set the terminal")?;
        let terminal = Self { before, signals, typed: Vec::new() };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Returns the number of columns and rows; 80 and 24 if unknown.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = termios::tcgetwinsize(rustix::stdio::stdout());
        let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        size.ok().filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
    }

    /// Replaces the content of the screen.
    pub(super) fn show(&mut self, lines: &[String]) -> Result<()> {
        let mut text = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            text.push_str(if number == 0 { "" } else { "\r\n" });
            text.push_str(line);
            text.push_str("\x1b[0m\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }

    /// Waits for a key or a signal, at most `limit`.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<TerminalEvent> {
        if !self.typed.is_empty() {
            return Ok(self.next_key());
        }
        let stdin = rustix::stdio::stdin();
        let mut polled = [
            PollFd::from_borrowed_fd(stdin, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        match poll(&mut polled, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(|| "cannot wait for keys"),
        }
        let (typed, signalled) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
        if signalled {
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if i32::try_from(signal.ssi_signo) != Ok(libc::SIGWINCH) {
                    return Ok(TerminalEvent::End);
                }
            }
        }
        if !typed {
            return Ok(TerminalEvent::Nothing);
        }
        let mut bytes = [0u8; 16];
        Ok(match rustix::io::read(stdin, &mut bytes) {
            Ok(0) => TerminalEvent::End,
            Ok(length) => {
                self.typed.extend_from_slice(bytes.get(..length).unwrap_or_default());
                self.next_key()
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => TerminalEvent::Nothing,
            Err(_) => TerminalEvent::End,
        })
    }

    /// Removes the next key from the bytes read.
    fn next_key(&mut self) -> TerminalEvent {
        let (event, length) = key(&self.typed);
        self.typed.drain(..length.min(self.typed.len()));
        event
    }
}

/// Returns the first key and its length in bytes. Arrow keys return the letters with the same effect.
fn key(bytes: &[u8]) -> (TerminalEvent, usize) {
    match bytes {
        [0x1b, b'[' | b'O', b'A', ..] => (TerminalEvent::Key(b'k'), 3),
        [0x1b, b'[' | b'O', b'B', ..] => (TerminalEvent::Key(b'j'), 3),
        // All other sequences are ignored.
        [0x1b, b'[' | b'O', ..] => (TerminalEvent::Nothing, bytes.len()),
        // ^C and ^D: in raw mode they do not send signals.
        [3 | 4, ..] => (TerminalEvent::End, 1),
        [byte, ..] => (TerminalEvent::Key(*byte), 1),
        [] => (TerminalEvent::Nothing, 0),
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(text: &str) -> Result<()> {
    let mut out = output::Stream;
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(|| "cannot write to the terminal")
}
