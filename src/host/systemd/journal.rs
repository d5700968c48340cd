//! Reads journals with journalctl(1): entries of several journals, merged in time order as they arrive.
//! Called by `coracle logs` and `status`. It writes nothing: `writer` does.

mod json_entry;
pub(crate) mod writer;

pub(crate) use json_entry::{JournalEntry, printable, printable_line};

use crate::error::{Context, Error, Result};
use crate::sys::guest_files::{GuestRoot, Owners};
use crate::sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The time that a new entry waits for an older one of another journal.
const PATIENCE: Duration = Duration::from_millis(200);
/// The longest accepted line of journalctl: it leaves out values above 4 KiB, and few fields are requested.
const LINE_LIMIT: usize = 256 << 10;

/// One journal.
#[derive(Debug)]
pub(crate) enum Journal {
    /// The host's, with journalctl's matches.
    Host(Vec<String>),
    /// A guest's.
    Guest(GuestJournal),
}

/// A guest's own journal.
#[derive(Debug)]
pub(crate) struct GuestJournal {
    /// The guest's root.
    pub(crate) root: GuestRoot,
    /// The directory of the journal in the root.
    pub(crate) place: PathBuf,
    /// The owners of its files.
    pub(crate) owners: Owners,
}

impl GuestJournal {
    fn files(&self) -> Vec<OwnedFd> {
        self.root.files_of(&self.place, &SUFFIXES, self.owners, MOST_FILES)
    }
}

/// The suffixes of journal files, and of files that were not closed.
const SUFFIXES: [&str; 2] = [".journal", ".journal~"];
/// The greatest number of files read of a journal, newest first: each is an open descriptor.
const MOST_FILES: usize = 400;
/// The interval for reading a followed guest's files again: journalctl detects neither changes nor new files
/// through descriptors.
const RENEWAL: Duration = Duration::from_millis(500);

/// The selection of entries of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Query {
    /// The number of last entries.
    pub(crate) lines: Option<u32>,
    /// Only entries with this value of this field.
    pub(crate) only: Option<(&'static str, String)>,
    /// Only entries after this cursor.
    pub(crate) after: Option<String>,
    /// Whether to follow new entries.
    pub(crate) follow: bool,
    /// Only entries from this time on (systemd.time(7)).
    pub(crate) since: Option<String>,
    /// Only entries up to this time.
    pub(crate) until: Option<String>,
    /// Only entries of this priority or range of priorities.
    pub(crate) priority: Option<String>,
    /// Only entries with a message that matches this expression.
    pub(crate) grep: Option<String>,
    /// Only entries of these units.
    pub(crate) units: Vec<String>,
    /// The order of entries.
    pub(crate) order: Order,
    /// Whether all fields are requested: see [`JournalEntry::whole`].
    pub(crate) fields: Fields,
}

/// The order of entries by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    /// From the oldest to the newest.
    #[default]
    OldestFirst,
    /// From the newest to the oldest.
    NewestFirst,
}

/// The requested fields of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fields {
    /// The fields of a line of `logs`.
    #[default]
    Shown,
    /// All fields.
    All,
}

/// Reads journals, each with its own query, and passes their entries to `sink` in time order until it breaks,
/// and without `follow` until the end. Memory is bounded by one entry per journal.
///
/// # Errors
/// journalctl cannot be executed, or refuses a query. A journal that it cannot read has no entries.
pub(crate) fn read(
    journals: &[(&Journal, Query)],
    sink: &mut dyn FnMut(usize, JournalEntry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut sources = Vec::new();
    for (journal, query) in journals {
        sources.push(Source::start(journal, query)?);
    }
    let follows = journals.iter().any(|(_, query)| query.follow);
    let is_reverse = journals.iter().any(|(_, query)| query.order == Order::NewestFirst);
    loop {
        sources.iter_mut().for_each(Source::advance);
        for (source, (journal, query)) in sources.iter_mut().zip(journals) {
            source.renew(journal, query)?;
        }
        match wait(&mut sources, follows)? {
            Waited::Read => continue,
            Waited::Unread => return Ok(()),
            Waited::Enough => {}
        }
        let heads =
            sources.iter().enumerate().filter_map(|(at, source)| Some((source.head.as_ref()?.time, at)));
        let Some((_, at)) = (if is_reverse { heads.max() } else { heads.min() }) else {
            if sources.iter().any(Source::is_renewed) {
                continue;
            }
            return sources.iter_mut().try_for_each(Source::check);
        };
        if let Some(entry) = sources[at].head.take()
            && sink(at, entry)?.is_break()
        {
            return Ok(());
        }
    }
}

/// The result of waiting for input.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// New input was read.
    Read,
    /// The timeout has expired: the oldest entry is the next one.
    Enough,
    /// The reader of standard output has ended: nobody waits for further entries.
    Unread,
}

/// Reads from the sources without a ready entry. Waits for all of them; with `follows` and a ready entry of
/// another source, for a moment only.
fn wait(sources: &mut [Source], follows: bool) -> Result<Waited> {
    let has_entry = sources.iter().any(|source| source.head.is_some());
    let renewed = sources.iter().any(Source::is_renewed);
    let mut waiting: Vec<&mut Source> =
        sources.iter_mut().filter(|source| source.head.is_none() && !source.ended).collect();
    if waiting.is_empty() {
        if renewed && !has_entry {
            std::thread::sleep(RENEWAL);
        }
        return Ok(Waited::Enough);
    }
    let mut polled: Vec<PollFd<'_>> =
        waiting.iter().map(|source| PollFd::from_borrowed_fd(source.output.as_fd(), PollFlags::IN)).collect();
    let stdout = rustix::stdio::stdout();
    if follows {
        polled.push(PollFd::from_borrowed_fd(stdout, PollFlags::empty()));
    }
    let patience = if follows && has_entry { Some(PATIENCE) } else { renewed.then_some(RENEWAL) };
    let patience =
        patience.map(|time| rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) });
    match poll(&mut polled, patience.as_ref()) {
        Ok(0) => return Ok(Waited::Enough),
        Err(rustix::io::Errno::INTR) => return Ok(Waited::Read),
        ready => ready.context(|| "cannot wait for journalctl".to_owned())?,
    };
    let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
    if follows && ready.last() == Some(&true) {
        return Ok(Waited::Unread);
    }
    for (source, _) in waiting.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
        source.fill();
    }
    Ok(Waited::Read)
}

/// A running journalctl.
#[derive(Debug)]
struct Source {
    child: Child,
    output: ChildStdout,
    /// For a followed journal of a guest: the start of journalctl, and the cursor of its last entry.
    followed: Option<(Instant, Option<String>)>,
    buffer: Vec<u8>,
    head: Option<JournalEntry>,
    ended: bool,
    fields: Fields,
}

impl Source {
    fn start(journal: &Journal, query: &Query) -> Result<Self> {
        let files = if let Journal::Guest(guest) = journal { guest.files() } else { Vec::new() };
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--output=json"]);
        if query.fields == Fields::Shown {
            command.arg(format!("--output-fields={}", json_entry::FIELDS.join(",")));
        }
        for (option, value) in [
            ("since", &query.since),
            ("until", &query.until),
            ("priority", &query.priority),
            ("grep", &query.grep),
        ] {
            command.args(value.as_ref().map(|value| format!("--{option}={value}")));
        }
        command.args(query.lines.map(|lines| format!("--lines={lines}")));
        command.args(query.units.iter().map(|unit| format!("--unit={unit}")));
        if query.order == Order::NewestFirst {
            command.arg("--reverse");
        }
        command.args(query.after.as_ref().map(|cursor| format!("--after-cursor={cursor}")));
        let followed = matches!(journal, Journal::Guest(_)) && query.follow;
        if query.follow && !followed {
            command.args(["--follow", "--no-tail"]);
        }
        match journal {
            Journal::Host(matches) => command.args(matches_with(matches, query.only.as_ref())),
            Journal::Guest(_) => {
                for file in &files {
                    // The path refers to the open file, independent of later changes by the guest.
                    rustix::io::fcntl_setfd(file, FdFlags::empty())?;
                    command.arg(format!("--file=/proc/self/fd/{}", file.as_raw_fd()));
                }
                if files.is_empty() {
                    // Without a file journalctl reads the host's journal.
                    command.arg("--file=/dev/null");
                }
                process::read_only(&mut command);
                command.args(query.only.as_ref().map(|(field, value)| format!("{field}={value}")))
            }
        };
        // Messages about a guest's files are no errors of the query.
        let errors = if let Journal::Host(_) = journal { Stdio::piped() } else { Stdio::null() };
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned
            .context(|| "cannot run 'journalctl'".to_owned())
            .map_err(|error| error.with_hint("install journalctl (package systemd)"))?;
        let output = child.stdout.take().ok_or_else(|| Error::new("journalctl has no output"))?;
        let followed = followed.then(|| (Instant::now(), query.after.clone()));
        Ok(Self {
            child,
            output,
            followed,
            buffer: Vec::new(),
            head: None,
            ended: false,
            fields: query.fields,
        })
    }

    /// Returns the error of an ended journalctl that refused its query. It also fails without a message: if
    /// no entry matches a pattern.
    fn check(&mut self) -> Result<()> {
        let mut text = String::new();
        let _ = self.child.stderr.take().map(|errors| errors.take(4096).read_to_string(&mut text));
        let has_failed = self.child.wait().is_ok_and(|status| !status.success());
        match text.lines().next().filter(|_| has_failed) {
            Some(line) => {
                let hint = match line.contains("insufficient permissions") {
                    true => "run it with sudo(8), or add the user to the group systemd-journal",
                    false => "see journalctl(1) for its times, priorities and patterns",
                };
                let message = printable_line(line.as_bytes());
                Err(Error::new(format!("journalctl: {}", message.trim_end_matches('.'))).with_hint(hint))
            }
            None => Ok(()),
        }
    }

    /// Returns whether journalctl is started again after its end.
    fn is_renewed(&self) -> bool {
        self.followed.is_some()
    }

    /// Starts journalctl again, after the last entry.
    fn renew(&mut self, journal: &Journal, query: &Query) -> Result<()> {
        let Some((begun, last)) = &self.followed else { return Ok(()) };
        if self.ended && self.head.is_none() && begun.elapsed() >= RENEWAL {
            *self = Self::start(journal, &Query { after: last.clone(), ..query.clone() })?;
        }
        Ok(())
    }

    /// Reads once. The caller has polled for input.
    fn fill(&mut self) {
        let mut chunk = [0; 8192];
        match self.output.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                log::warn!("cannot read from journalctl: {error}, ignoring");
                self.ended = true;
            }
        }
    }

    /// Parses the next entry of the input, unless one is ready.
    fn advance(&mut self) {
        while self.head.is_none() {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else { break };
            self.head = JournalEntry::parse(&self.buffer[..end], self.fields);
            self.buffer.drain(..=end);
            if let (Some((_, last)), Some(entry)) = (&mut self.followed, &self.head) {
                last.clone_from(&entry.cursor);
            }
        }
        if self.buffer.len() > LINE_LIMIT {
            log::warn!("an entry of the journal is too long, ignoring");
            self.buffer.clear();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The process may have ended already; both calls fail then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns alternatives of matches, each restricted by `only`: journalctl's `+` has the lowest precedence.
fn matches_with(alternatives: &[String], only: Option<&(&'static str, String)>) -> Vec<String> {
    let mut words = Vec::new();
    for alternative in alternatives {
        if !words.is_empty() {
            words.push("+".to_owned());
        }
        words.extend(alternative.split(' ').map(str::to_owned));
        words.extend(only.map(|(field, value)| format!("{field}={value}")));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restriction_holds_for_every_alternative() {
        let alternatives = ["A=1".to_owned(), "_PID=1 UNIT=x".to_owned()];
        assert_eq!(matches_with(&alternatives, None), ["A=1", "+", "_PID=1", "UNIT=x"]);
        let only = ("B", "2".to_owned());
        let words = matches_with(&alternatives, Some(&only));
        assert_eq!(words, ["A=1", "B=2", "+", "_PID=1", "UNIT=x", "B=2"]);
    }

    /// Returns the entries merged from programs that print lines and end, in place of journalctl.
    fn merged(outputs: &[&str]) -> Vec<String> {
        let mut sources: Vec<Source> = outputs
            .iter()
            .map(|text| {
                let mut child =
                    Command::new("printf").args(["%b", text]).stdout(Stdio::piped()).spawn().unwrap();
                let output = child.stdout.take().unwrap();
                Source {
                    child,
                    output,
                    followed: None,
                    buffer: Vec::new(),
                    head: None,
                    ended: false,
                    fields: Fields::Shown,
                }
            })
            .collect();
        let mut messages = Vec::new();
        loop {
            sources.iter_mut().for_each(Source::advance);
            if wait(&mut sources, false).unwrap() == Waited::Read {
                continue;
            }
            let oldest = sources.iter_mut().filter(|one| one.head.is_some());
            let Some(source) = oldest.min_by_key(|one| one.head.as_ref().unwrap().time) else { break };
            messages.push(source.head.take().unwrap().message);
        }
        messages
    }

    #[test]
    fn entries_are_in_time_order() {
        let line = |time: u64, message: &str| {
            format!("{{\"__REALTIME_TIMESTAMP\":\"{time}\",\"MESSAGE\":\"{message}\"}}\\n")
        };
        let one = line(1, "a") + "garbage\\n" + &line(5, "d");
        let two = line(2, "b") + &line(3, "c") + &line(9, "e");
        assert_eq!(merged(&[&one, &two, ""]), ["a", "b", "c", "d", "e"]);
    }
}
