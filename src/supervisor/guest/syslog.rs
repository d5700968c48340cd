//! Messages of a guest without a journal to `/dev/log`, as entries of the host's journal. Called by the event
//! loop. All work is bounded: one datagram at a time on the stack, a number of datagrams in each turn, and a
//! rate limit.

use super::console::GuestIdentity;
use super::inbox::Inbox;
use super::rate_limit::RateLimit;
use super::repeats::{LogDecision, Repeats};
use crate::host::systemd::journal::writer::JournalWriter;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// The longest message, bytes; longer ones are truncated.
const LONGEST: usize = 2048;
/// The number of datagrams read in one turn of the loop.
const TURN: usize = 32;

/// The receiving end of a guest's `/dev/log`.
#[derive(Debug)]
pub(crate) struct Syslog {
    inbox: Inbox,
    journal: Option<JournalWriter>,
    own: [(&'static str, String); 2],
    limit: RateLimit,
    repeats: Repeats,
}

/// A parsed message.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The severity; 0 is the highest.
    pub severity: u8,
    /// The number of the facility in syslog(3).
    pub facility: u8,
    /// The name of the program.
    pub tag: &'a [u8],
    /// The process id, according to the message.
    pub pid: &'a [u8],
    /// The message.
    pub text: &'a [u8],
}

impl Syslog {
    /// Takes over the socket.
    pub(crate) fn new(socket: OwnedFd, guest: &GuestIdentity<'_>) -> Self {
        Self {
            inbox: Inbox::new(socket),
            journal: JournalWriter::open(),
            own: [("CORACLE_MACHINE", guest.name.to_owned()), ("CORACLE_BOOT_ID", guest.boot_id.to_string())],
            limit: RateLimit::new(),
            repeats: Repeats::default(),
        }
    }

    /// Returns the socket, for epoll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inbox.as_fd()
    }

    /// Returns the inbox of the socket.
    pub(crate) fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// Returns the socket, for the next act.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.inbox.into_socket()
    }

    /// Reads pending messages.
    #[inline(never)]
    pub(crate) fn read(&mut self) {
        let mut buffer = [0u8; LONGEST];
        for _ in 0..TURN {
            let Some(received) = self.inbox.receive(&mut buffer) else { return };
            self.report_dropped();
            if self.limit.accepts() {
                self.take(&parse(buffer.get(..received.length).unwrap_or_default()));
            }
        }
    }

    /// Reports the dropped messages of a past window, and returns the time until the next report.
    pub(crate) fn report_dropped(&mut self) -> Option<Duration> {
        if let Some(dropped) = self.limit.report() {
            self.pass(&Parsed {
                severity: 4,
                facility: 5,
                tag: b"coracle",
                pid: b"",
                text: format!("suppressed {dropped} messages of the guest (rate limit)").as_bytes(),
            });
        }
        self.limit.time_left()
    }

    /// Passes a message on, unless it is repeated. The process id may differ: a restarted program has another
    /// one.
    fn take(&mut self, message: &Parsed<'_>) {
        let mut hasher = DefaultHasher::new();
        (message.severity, message.facility, message.tag, message.text).hash(&mut hasher);
        match self.repeats.judge(hasher.finish(), Instant::now()) {
            LogDecision::Write => self.pass(message),
            LogDecision::Omit => {}
            LogDecision::Count(count) => {
                let repeated = format!("message repeated {count} times: [ ");
                let text = [repeated.as_bytes(), message.text, b" ]"].concat();
                self.pass(&Parsed { text: &text, ..*message });
            }
        }
    }

    fn pass(&mut self, message: &Parsed<'_>) {
        let Some(journal) = self.journal.as_mut().filter(|_| !message.text.is_empty()) else { return };
        let (severity, facility) = (message.severity.to_string(), message.facility.to_string());
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("MESSAGE", message.text),
            ("PRIORITY", severity.as_bytes()),
            ("SYSLOG_FACILITY", facility.as_bytes()),
        ];
        fields.extend(self.own.iter().map(|(name, value)| (*name, value.as_bytes())));
        let optional = [("SYSLOG_IDENTIFIER", message.tag), ("SYSLOG_PID", message.pid)];
        fields.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        journal.send(&fields);
    }
}

/// Parses a message of RFC 3164, as sent by syslog(3) (`<13>Nov 25 13:00:00 tag[7]: text`), or of RFC 5424.
/// Any other message is text.
pub fn parse(datagram: &[u8]) -> Parsed<'_> {
    let datagram = datagram.strip_suffix(b"\0").unwrap_or(datagram).trim_ascii_end();
    let (priority, rest) = priority(datagram).unwrap_or((13, datagram));
    let (severity, facility) = (priority & 7, priority >> 3);
    let (tag, pid, text) = match rest.strip_prefix(b"1 ").and_then(modern) {
        Some(parts) => parts,
        None => classic(after_date(rest)),
    };
    Parsed { severity, facility, tag, pid, text }
}

/// Parses `<N>`, N up to 191.
fn priority(datagram: &[u8]) -> Option<(u8, &[u8])> {
    let inside = datagram.strip_prefix(b"<")?;
    let end = inside.iter().take(4).position(|byte| *byte == b'>')?;
    let (number, rest) = inside.split_at_checked(end)?;
    let number: u8 = std::str::from_utf8(number).ok()?.parse().ok()?;
    (number <= 191).then_some((number, rest.get(1..)?))
}

/// Skips `Mmm dd hh:mm:ss `, if there is one.
fn after_date(text: &[u8]) -> &[u8] {
    let is_date = text.get(..16).is_some_and(|date| {
        [(3, b' '), (6, b' '), (9, b':'), (12, b':'), (15, b' ')].iter().all(|(at, byte)| date[*at] == *byte)
    });
    if is_date { &text[16..] } else { text }
}

/// Parses `tag[pid]: text`, `tag: text`, or text alone.
fn classic(text: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let end = text.iter().take(64).position(|byte| *byte == b':' || *byte == b' ');
    let Some((head, rest)) = end.and_then(|end| text.split_at_checked(end)) else { return (b"", b"", text) };
    let Some(rest) = rest.strip_prefix(b":") else { return (b"", b"", text) };
    let (tag, pid) = match head.iter().position(|byte| *byte == b'[') {
        Some(open) => (&head[..open], head[open + 1..].strip_suffix(b"]").unwrap_or_default()),
        None => (head, &b""[..]),
    };
    let pid = if pid.iter().all(u8::is_ascii_digit) { pid } else { b"" };
    (tag, pid, rest.strip_prefix(b" ").unwrap_or(rest))
}

/// Parses `TIMESTAMP HOST TAG PID MSGID STRUCTURED TEXT`.
fn modern(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut words = rest.splitn(6, |byte| *byte == b' ');
    let tag = words.nth(2)?;
    let pid = words.next()?;
    let after = {
        words.next()?;
        words.next()?
    };
    let text = match after.strip_prefix(b"-") {
        Some(text) => text,
        None => structured(after)?,
    };
    let or_none = |word: &'_ [u8]| word == b"-";
    let pid = if pid.iter().all(u8::is_ascii_digit) { pid } else { &b""[..] };
    let text = text.strip_prefix(b" ").unwrap_or(text);
    Some((
        if or_none(tag) { b"" } else { tag },
        pid,
        text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text),
    ))
}

/// Skips `[id name="value"]…`, with `\]` and `\"` in values.
fn structured(text: &[u8]) -> Option<&[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b']' if !is_quoted && text.get(at + 1) != Some(&b'[') => return text.get(at + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (u8, u8, String, String, String) {
        let parsed = parse(text.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (parsed.severity, parsed.facility, text(parsed.tag), text(parsed.pid), text(parsed.text))
    }

    #[test]
    fn both_formats_are_parsed() {
        let of =
            |s, f, tag: &str, pid: &str, text: &str| (s, f, tag.to_owned(), pid.to_owned(), text.to_owned());
        assert_eq!(parts("<30>Nov 25 13:00:00 crond[77]: wake up\n"), of(6, 3, "crond", "77", "wake up"));
        assert_eq!(parts("<13>Nov  5 13:00:00 root: hello: you"), of(5, 1, "root", "", "hello: you"));
        assert_eq!(
            parts("<165>1 2026-11-25T13:00:00Z host app 9 ID [a b=\"]\\\"\"][c] text"),
            of(5, 20, "app", "9", "text")
        );
        assert_eq!(parts("<11>1 - - - - - - \u{feff}text"), of(3, 1, "", "", "text"));
        assert_eq!(parts("no form at all"), of(5, 1, "", "", "no form at all"));
    }

    #[test]
    fn an_invalid_message_is_text() {
        for noise in [
            "",
            "<",
            "<>",
            "<999>x",
            "<13",
            "<13>1 ",
            "<13>a[b:",
            "<13>a[x]: y",
            "\0\0",
            "<13>1 a b c d e [f",
        ] {
            parse(noise.as_bytes());
        }
        assert_eq!(parts("<192>x").4, "<192>x");
        assert_eq!(parts("<13>a[x]: y"), (5, 1, "a".into(), String::new(), "y".into()));
        parse(&[0xff; 4096]);
    }
}
