//! The guest's console: its output goes to the journal line by line, or to standard output; the last 64 KiB
//! are kept. Memory and the rate of journal entries are bounded. Called by the event loop.

use super::rate_limit::RateLimit;
use crate::error::Error;
use crate::host::systemd::journal::writer::JournalWriter;
use crate::machine::console::Console;
use crate::machine::id128::Id128;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Termios;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The kept part of the output, bytes.
pub(crate) const KEPT: u64 = 64 << 10;
/// The longest line that becomes one entry, bytes.
const LINE: usize = 2048;

/// A request typed at the terminal, `^]^]` and a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hotkey {
    /// `^]^]^]`: kill the machine.
    Kill,
    /// `^]^]r`: reboot it.
    Reboot,
    /// `^]^]p`: power it off.
    PowerOff,
}

/// The identity of a guest in journal entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestIdentity<'a> {
    /// The machine.
    pub(crate) name: &'a str,
    /// Process id of its PID 1 in the host's view.
    pub(crate) leader: u32,
    /// The id of its boot, 32 hex digits.
    pub(crate) boot_id: Id128,
}

/// The console while a machine runs.
#[derive(Debug)]
pub(crate) struct GuestConsole {
    master: Option<OwnedFd>,
    /// The guest's side, held open: without an open slave, reads of the master fail.
    slave: Option<OwnedFd>,
    kind: Console,
    journal: Option<JournalWriter>,
    fields: [(&'static str, String); 4],
    limit: RateLimit,
    line: Vec<u8>,
    /// The memory of the kept output. `None` if the payload has the streams of the caller.
    ring: Option<std::fs::File>,
    written: u64,
    terminal: Option<Termios>,
    escapes: u8,
    /// Whether output was lost, which is reported.
    failed: bool,
    is_incomplete: bool,
}

impl GuestConsole {
    /// Takes over the master of the console and its memory.
    pub(crate) fn new(
        master: Option<OwnedFd>,
        ring: Option<OwnedFd>,
        kind: Console,
        guest: &GuestIdentity<'_>,
    ) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = master.as_ref().and_then(|master| rustix::pty::ioctl_tiocgptpeer(master, flags).ok());
        let ring = ring.map(std::fs::File::from);
        let written = ring.as_ref().and_then(|ring| ring.metadata().ok()).map_or(0, |data| data.len());
        let mut console = Self {
            journal: (kind == Console::Journal).then(JournalWriter::open).flatten(),
            fields: [
                ("CORACLE_MACHINE", guest.name.to_owned()),
                ("CORACLE_LEADER", guest.leader.to_string()),
                ("CORACLE_BOOT_ID", guest.boot_id.to_string()),
                ("SYSLOG_IDENTIFIER", guest.name.to_owned()),
            ],
            master,
            slave,
            kind,
            limit: RateLimit::new(),
            line: Vec::new(),
            ring,
            written,
            terminal: None,
            escapes: 0,
            failed: false,
            is_incomplete: false,
        };
        console.begin();
        console
    }

    fn begin(&mut self) {
        let Some(master) = self.master.as_ref().filter(|_| self.kind == Console::Interactive) else { return };
        let stdin = rustix::stdio::stdin();
        crate::sys::terminal::copy_size(stdin, master.as_fd());
        self.terminal = crate::sys::terminal::make_raw(stdin).ok();
    }

    /// Returns the master, for epoll.
    pub(crate) fn master(&self) -> Option<BorrowedFd<'_>> {
        self.master.as_ref().map(AsFd::as_fd)
    }

    /// Returns whether standard input is connected to the console.
    pub(crate) fn is_interactive(&self) -> bool {
        self.kind == Console::Interactive
    }

    /// Copies the size of the caller's window.
    pub(crate) fn resize(&self) {
        if let Some(master) = self.master.as_ref().filter(|_| self.is_interactive()) {
            crate::sys::terminal::copy_size(rustix::stdio::stdin(), master.as_fd());
        }
    }

    /// Reads output of the guest and passes it on, also to `show`. Returns false at the end.
    #[inline(never)]
    pub(crate) fn read(&mut self, show: &mut dyn FnMut(&[u8])) -> bool {
        let Some(master) = &self.master else { return false };
        let mut buffer = [0u8; 4096];
        match rustix::io::read(master, &mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                self.pass(bytes);
                show(bytes);
                true
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(_) => false,
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.keep(bytes);
        match self.kind {
            Console::Interactive | Console::ReadOnly => self.show(bytes),
            Console::Journal => bytes.iter().for_each(|byte| self.push(*byte)),
            Console::Auto | Console::Passive | Console::Pipe => {}
        }
    }

    /// Writes to standard output. Its first failure is reported, but not the end of a reader or a terminal.
    fn show(&mut self, bytes: &[u8]) {
        let Err(errno) = write_all(rustix::stdio::stdout(), bytes) else { return };
        self.is_incomplete = true;
        if !self.failed && errno != Errno::PIPE && errno != Errno::IO {
            log::error!("cannot write the console to standard output: {}", Error::from(errno));
            self.failed = true;
        }
    }

    /// Writes the output of a passive console to standard output, as systemd-nspawn(1) does at the end.
    pub(crate) fn show_passive(&self) {
        if self.kind == Console::Passive {
            // Without a reader it is discarded.
            let _ = write_all(rustix::stdio::stdout(), &self.kept());
        }
    }

    /// Returns whether standard output misses some of the output, because of a failure or the end of its
    /// reader.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Returns whether output was lost because standard output could not be written.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Keeps the last 64 KiB in the memfd, as a ring.
    fn keep(&mut self, bytes: &[u8]) {
        let Some(ring) = &self.ring else { return };
        for chunk in bytes.chunks(1024) {
            let at = self.written % KEPT;
            let (before, after) = chunk.split_at(chunk.len().min(usize::try_from(KEPT - at).unwrap_or(0)));
            let _ = ring.write_all_at(before, at).and_then(|()| ring.write_all_at(after, 0));
            self.written += chunk.len() as u64;
        }
    }

    /// Returns the kept output, oldest first.
    pub(crate) fn kept(&self) -> Vec<u8> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let at = self.written % KEPT;
        let parts =
            if self.written > KEPT { vec![(at, KEPT - at), (0, at)] } else { vec![(0, self.written)] };
        let mut kept = Vec::new();
        for (from, length) in parts {
            let mut part = vec![0u8; usize::try_from(length).unwrap_or_default()];
            let length = ring.read_at(&mut part, from).unwrap_or(0);
            kept.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        kept
    }

    /// Passes input on to the guest, without waiting for it. Input beyond the buffer of the terminal is lost,
    /// as on a serial line.
    pub(crate) fn type_in(&self, bytes: &[u8]) {
        let Some(master) = &self.master else { return };
        if rustix::io::ioctl_fionbio(master, true).is_ok() {
            let _ = write_all(master.as_fd(), bytes);
        }
    }

    /// Returns the last lines of the console, oldest first.
    pub(crate) fn tail(&self, lines: usize) -> Vec<String> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let mut bytes = vec![0u8; 4096];
        let at = self.written % KEPT;
        let from = at.saturating_sub(bytes.len() as u64);
        let length = ring.read_at(&mut bytes, from).unwrap_or(0);
        let used = length.min(usize::try_from(at - from).unwrap_or(0));
        let text = String::from_utf8_lossy(bytes.get(..used).unwrap_or_default()).into_owned();
        let clean = text.lines().map(|line| readable(line.as_bytes())).filter(|line| !line.is_empty());
        let all: Vec<String> = clean.collect();
        all.into_iter().rev().take(lines).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn push(&mut self, byte: u8) {
        if byte == b'\n' || self.line.len() >= LINE {
            self.flush();
        }
        if byte != b'\n' {
            self.line.push(byte);
        }
    }

    /// Sends the pending line.
    pub(crate) fn flush(&mut self) {
        let line = readable(&std::mem::take(&mut self.line));
        if line.is_empty() || self.journal.is_none() {
            return;
        }
        self.report_dropped();
        if self.limit.accepts() {
            self.send(&line, b"6");
        }
    }

    /// Reports the dropped lines of a past window, and returns the time until the next report.
    pub(crate) fn report_dropped(&mut self) -> Option<Duration> {
        if let Some(dropped) = self.limit.report() {
            self.send_dropped(dropped);
        }
        self.limit.time_left()
    }

    fn send_dropped(&mut self, dropped: u64) {
        self.send(&format!("suppressed {dropped} lines of the console (rate limit)"), b"4");
    }

    fn send(&mut self, message: &str, priority: &[u8]) {
        let Some(journal) = self.journal.as_mut() else { return };
        let own = self.fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        let fields: Vec<(&str, &[u8])> =
            [("MESSAGE", message.as_bytes()), ("PRIORITY", priority)].into_iter().chain(own).collect();
        journal.send(&fields);
    }

    /// Reads standard input and passes it on. Recognises hotkeys.
    #[inline(never)]
    pub(crate) fn typed(&mut self) -> Typed {
        let mut buffer = [0u8; 1024];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) | Err(_) => Typed::End,
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                self.type_in(bytes);
                bytes.iter().find_map(|byte| self.hotkey(*byte)).map_or(Typed::Text, Typed::Hotkey)
            }
        }
    }

    /// `^]` twice, then a key.
    fn hotkey(&mut self, byte: u8) -> Option<Hotkey> {
        const ESCAPE: u8 = 0x1d;
        match (self.escapes, byte) {
            (2.., b'r') => Some(Hotkey::Reboot),
            (2.., b'p') => Some(Hotkey::PowerOff),
            (2.., ESCAPE) => Some(Hotkey::Kill),
            (_, ESCAPE) => {
                self.escapes += 1;
                None
            }
            _ => {
                self.escapes = 0;
                None
            }
        }
    }

    /// Reads the remaining output of an ended guest.
    pub(crate) fn drain(&mut self) {
        while self.pending() && self.read(&mut |_| {}) {}
        self.flush();
        if let Some(dropped) = self.limit.finish() {
            self.send_dropped(dropped);
        }
    }

    /// Restores the caller's terminal and returns the master, for the next act.
    pub(crate) fn end(&mut self) -> Option<OwnedFd> {
        self.drain();
        if let Some(settings) = &self.terminal {
            crate::sys::terminal::restore(rustix::stdio::stdin(), settings);
        }
        drop(self.slave.take());
        self.master.take()
    }

    /// Returns whether output is pending.
    fn pending(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(master) = &self.master else { return false };
        let mut watched = [PollFd::new(master, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut watched, Some(&now)).is_ok_and(|ready| ready > 0)
            && watched[0].revents().contains(PollFlags::IN)
    }
}

/// Input from standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Text, passed on.
    Text,
    /// A request.
    Hotkey(Hotkey),
    /// The end of the input.
    End,
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Returns a console line as text, without escape sequences, carriage returns and control characters.
pub(crate) fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut clean = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // CSI: up to a letter; OSC: up to BEL or the string terminator; otherwise one character.
            '\x1b' => match letters.next() {
                Some('[') => drop(letters.find(|c| ('@'..='~').contains(c))),
                Some(']') => drop(letters.find(|c| matches!(c, '\x07' | '\\'))),
                _ => {}
            },
            '\t' => clean.push(' '),
            letter if letter.is_control() => {}
            letter => clean.push(letter),
        }
    }
    clean.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: GuestIdentity<'_> = GuestIdentity { name: "web", leader: 1, boot_id: Id128::NULL };

    #[test]
    fn lines_are_readable() {
        assert_eq!(readable(b"[\x1b[0;32m  OK  \x1b[0m] Started\r"), "[  OK  ] Started");
        assert_eq!(readable(b"\x1b]0;title\x07a\tb\x00\xff"), "a b\u{fffd}");
        assert_eq!(readable(b"\x1b["), "");
    }

    #[test]
    fn the_ring_keeps_the_last_output() {
        let ring = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut console = GuestConsole::new(None, Some(ring), Console::Passive, &WEB);
        for number in 0..20_000 {
            console.keep(format!("line {number}\n").as_bytes());
        }
        assert!(console.ring.as_ref().unwrap().metadata().unwrap().len() <= KEPT);
        console.keep(b"the last\n");
        assert_eq!(console.tail(1), ["the last"]);
    }

    #[test]
    fn kept_output_is_in_order() {
        let ring = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut console = GuestConsole::new(None, Some(ring), Console::Passive, &WEB);
        console.keep(b"first ");
        assert_eq!(console.kept(), b"first ");
        let all: Vec<u8> = (0..30_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
        all.chunks(4096).for_each(|chunk| console.keep(chunk));
        let kept = console.kept();
        assert_eq!(kept.len() as u64, KEPT);
        assert!(all.ends_with(&kept));
    }

    #[test]
    fn hotkeys_need_two_escapes() {
        let ring = rustix::fs::memfd_create("ring", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut console = GuestConsole::new(None, Some(ring), Console::Passive, &WEB);
        let mut type_keys = |keys: &[u8]| keys.iter().find_map(|key| console.hotkey(*key));
        assert_eq!(type_keys(b"r\x1dr\x1dp"), None);
        assert_eq!(type_keys(b"\x1d\x1dp"), Some(Hotkey::PowerOff));
        assert_eq!(type_keys(b"x\x1d\x1dr"), Some(Hotkey::Reboot));
        assert_eq!(type_keys(b"x\x1d\x1d\x1d"), Some(Hotkey::Kill));
    }
}
