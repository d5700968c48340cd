//! Reading journals by journalctl(1): entries of several journals, merged in time order as they
//! come. Called by `coracle logs` and `status`. It writes nothing: `entries` does.

mod entry;
pub mod writer;

pub use entry::{Entry, printable, printable_line};

use crate::error::{Context, Error, Result};
use crate::sys::guest_files::{Owners, Root};
use crate::sys::process;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a live entry waits for an older one of another journal.
const PATIENCE: Duration = Duration::from_millis(200);
/// The longest line taken of journalctl: it leaves out values above 4 KiB, and we ask for few.
const LINE_LIMIT: usize = 256 << 10;

/// One journal.
#[derive(Debug)]
pub enum Journal {
    /// The host's, with journalctl's matches that pick entries.
    Host(Vec<String>),
    /// One of a guest.
    Guest(Guest),
}

/// A journal that a guest keeps.
#[derive(Debug)]
pub struct Guest {
    /// The guest's root.
    pub root: Root,
    /// The directory of the journal in it.
    pub place: PathBuf,
    /// The owners of its files.
    pub owners: Owners,
}

impl Guest {
    fn files(&self) -> Vec<OwnedFd> {
        self.root.files_of(&self.place, &SUFFIXES, self.owners, MOST_FILES)
    }
}

/// The names of journal files, and of those that were not closed.
const SUFFIXES: [&str; 2] = [".journal", ".journal~"];
/// How many files of a journal are read, the newest: each is an open descriptor.
const MOST_FILES: usize = 400;
/// How often the files of a guest are read again while entries are followed: journalctl finds neither their
/// changes nor new ones by descriptors.
const RENEWAL: Duration = Duration::from_millis(500);

/// What is wanted of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// The last entries only, so many.
    pub lines: Option<u32>,
    /// Entries with this value of this field only.
    pub only: Option<(&'static str, String)>,
    /// Entries after this one only, by its cursor.
    pub after: Option<String>,
    /// Whether to go on as entries come.
    pub follow: bool,
    /// Entries from this time on, as systemd.time(7) has it.
    pub since: Option<String>,
    /// Entries up to this time.
    pub until: Option<String>,
    /// Entries of this priority, or of a range of them.
    pub priority: Option<String>,
    /// Entries whose message matches this expression.
    pub grep: Option<String>,
    /// Whether entries are wanted whole: see [`Entry::whole`].
    pub fields: Fields,
}

/// Which fields of entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fields {
    /// Those that a line of a log shows.
    #[default]
    Shown,
    /// All there are.
    All,
}

/// Reads journals, each with its own query, and gives their entries to `sink` in time order until
/// it breaks, and without `follow` until the end. Memory is bounded by one entry for each journal.
///
/// # Errors
/// Where journalctl cannot be run. A journal that it cannot read has no entries.
pub fn read(
    journals: &[(&Journal, Query)],
    sink: &mut dyn FnMut(usize, Entry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut sources = Vec::new();
    for (journal, query) in journals {
        sources.push(Source::start(journal, query)?);
    }
    let follows = journals.iter().any(|(_, query)| query.follow);
    loop {
        sources.iter_mut().for_each(Source::advance);
        for (source, (journal, query)) in sources.iter_mut().zip(journals) {
            source.renew(journal, query)?;
        }
        if wait(&mut sources, follows)? == Waited::Read {
            continue;
        }
        let oldest = sources
            .iter()
            .enumerate()
            .filter_map(|(at, source)| Some((source.head.as_ref()?.time, at)))
            .min();
        let Some((_, at)) = oldest else {
            if sources.iter().any(Source::is_renewed) {
                continue;
            }
            return Ok(());
        };
        if let Some(entry) = sources[at].head.take()
            && sink(at, entry)?.is_break()
        {
            return Ok(());
        }
    }
}

/// What waiting for input led to.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// Something was read: look again.
    Read,
    /// Nothing more is waited for: the oldest entry is the next.
    Enough,
}

/// Reads from the sources that have no entry ready. Waits for all of them, but with `follows` and
/// an entry ready elsewhere for a moment only.
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
    let patience = if follows && has_entry { Some(PATIENCE) } else { renewed.then_some(RENEWAL) };
    let patience =
        patience.map(|time| rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) });
    match poll(&mut polled, patience.as_ref()) {
        Ok(0) => return Ok(Waited::Enough),
        Err(rustix::io::Errno::INTR) => return Ok(Waited::Read),
        ready => ready.context(|| "cannot wait for journalctl".to_owned())?,
    };
    let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
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
    /// For a guest's journal that is followed: when it was begun, and its last entry.
    followed: Option<(Instant, Option<String>)>,
    buffer: Vec<u8>,
    head: Option<Entry>,
    ended: bool,
    fields: Fields,
}

impl Source {
    fn start(journal: &Journal, query: &Query) -> Result<Self> {
        let files = if let Journal::Guest(guest) = journal { guest.files() } else { Vec::new() };
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--output=json"]);
        if query.fields == Fields::Shown {
            command.arg(format!("--output-fields={}", entry::FIELDS.join(",")));
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
        command.args(query.after.as_ref().map(|cursor| format!("--after-cursor={cursor}")));
        let followed = matches!(journal, Journal::Guest(_)) && query.follow;
        if query.follow && !followed {
            command.args(["--follow", "--no-tail"]);
        }
        match journal {
            Journal::Host(matches) => command.args(matches_with(matches, query.only.as_ref())),
            Journal::Guest(_) => {
                for file in &files {
                    // The path stands for the open file, whatever the guest puts in its place meanwhile.
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
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned
            .context(|| "cannot run 'journalctl'".to_owned())
            .map_err(|error| error.with_hint("install systemd's journalctl; without it there are no logs"))?;
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

    /// Whether it is begun again after its end.
    fn is_renewed(&self) -> bool {
        self.followed.is_some()
    }

    /// Reads the files of a guest again, after the entry that was last.
    fn renew(&mut self, journal: &Journal, query: &Query) -> Result<()> {
        let Some((begun, last)) = &self.followed else { return Ok(()) };
        if self.ended && self.head.is_none() && begun.elapsed() >= RENEWAL {
            *self = Self::start(journal, &Query { after: last.clone(), ..query.clone() })?;
        }
        Ok(())
    }

    /// Reads once, what there is. The caller knows that there is something.
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

    /// Takes the next entry out of what was read, where none is ready.
    fn advance(&mut self) {
        while self.head.is_none() {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else { break };
            self.head = Entry::parse(&self.buffer[..end], self.fields);
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
        // It may have ended by itself; both calls fail then, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Alternatives of matches, each further restricted: journalctl's `+` binds weakest.
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

    /// Sources without journalctl: each a program that prints lines and ends.
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
    fn entries_come_in_time_order() {
        let line = |time: u64, message: &str| {
            format!("{{\"__REALTIME_TIMESTAMP\":\"{time}\",\"MESSAGE\":\"{message}\"}}\\n")
        };
        let one = line(1, "a") + "garbage\\n" + &line(5, "d");
        let two = line(2, "b") + &line(3, "c") + &line(9, "e");
        assert_eq!(merged(&[&one, &two, ""]), ["a", "b", "c", "d", "e"]);
    }
}
