//! `coracle logs`: entries of the host's journal (console, supervisor, unit) and of the guest's journal, in
//! time order. Stopped machines have logs too.

mod boots;
mod console_filter;
mod several;

pub(crate) use boots::list_boots;
pub(crate) use several::show_several;

use super::{defined, names, service, when};
use crate::error::{Context, Result};
use crate::host::probe;
use crate::host::systemd::journal;
use crate::host::systemd::journal::{Fields, GuestJournal, Journal, JournalEntry, Query};
use crate::machine::Machine;
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::machine::unit_name;
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::guest_files::{GuestRoot, Owners};
use boots::find_boot;
use console_filter::{Console, ConsoleFilter, Sink};
use std::collections::VecDeque;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The directories of a guest's journal: persistent and volatile.
const GUEST_JOURNALS: [&str; 2] = ["var/log/journal", "run/log/journal"];
/// The number of lines before the followed ones, as with journalctl.
const BEFORE_FOLLOWING: u32 = 10;

/// A query for the logs of a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogQuery<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// Whether to follow new entries.
    pub(crate) follow: bool,
    /// The number of last lines.
    pub(crate) lines: Option<u32>,
    /// The units of the guest with the selected entries; all entries if empty.
    pub(crate) units: &'a [String],
    /// The order of entries.
    pub(crate) order: Order,
    /// Whether lines of the console are shown that the guest also writes to its journal.
    pub(crate) with_console: bool,
    /// One boot of the machine: `0` the last, `-1` the one before, `1` the first, or a boot id.
    pub(crate) boot: Option<&'a str>,
    /// The selected entries.
    pub(crate) filter: Filter<'a>,
    /// The output format.
    pub(crate) format: Format,
}

pub(crate) use crate::host::systemd::journal::Order;

/// A selection of entries, with the arguments of journalctl(1).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Filter<'a> {
    /// The first time.
    pub(crate) since: Option<&'a str>,
    /// The last time.
    pub(crate) until: Option<&'a str>,
    /// A priority, which selects more urgent ones as well, or a range.
    pub(crate) priority: Option<&'a str>,
    /// A pattern for the message.
    pub(crate) grep: Option<&'a str>,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// Time, program and process id before the message.
    #[default]
    ShortIso,
    /// The same, with seconds since the epoch.
    ShortUnix,
    /// The message only.
    Cat,
    /// The whole entry as one line of JSON.
    Json,
}

impl LogQuery<'_> {
    /// Returns the part of the query that applies to every journal.
    fn query(&self) -> Query {
        let filter = self.filter;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Query {
            since: owned(filter.since),
            until: owned(filter.until),
            priority: owned(filter.priority),
            grep: owned(filter.grep),
            units: self.units.to_vec(),
            order: self.order,
            fields: if self.format == Format::Json { Fields::All } else { Fields::Shown },
            ..Query::default()
        }
    }
}

/// Writes the log of a machine to `out`, one line per entry. With `follow` it returns when the reader of
/// `out` is gone.
///
/// # Errors
/// A boot that is not recorded, no journalctl, or `out` that cannot be written.
pub(crate) fn show(paths: &Paths, query: &LogQuery<'_>, out: &mut dyn Write) -> Result<()> {
    let definition = defined(paths, query.name);
    let root = definition.as_ref().ok().map(|machine| machine.root.path().to_owned());
    let mut journals = journals(paths, query.name, root.as_deref())?;
    let boot = query.boot.map(|boot| find_boot(&journals[0], query.name, boot)).transpose()?;
    if !query.units.is_empty() {
        // The units of the host have the same names.
        journals.retain(is_of_guest);
    }
    let lines = if query.follow { Some(query.lines.unwrap_or(BEFORE_FOLLOWING)) } else { query.lines };
    let Some(lines) = lines else {
        let queries = queries(&journals, boot.as_deref(), |_| query.query());
        let mut is_empty = true;
        read(&queries, &mut filter(paths, query), &mut |entry| {
            is_empty = false;
            write(out, &entry, query.format)
        })?;
        return if is_empty { known(paths, query.name, definition) } else { Ok(()) };
    };
    let mut filter = filter(paths, query);
    let last = last(&journals, query, boot.as_deref(), lines, &mut filter)?;
    if last.entries.is_empty() && !query.follow {
        known(paths, query.name, definition)?;
    }
    for entry in &last.entries {
        if write(out, entry, query.format)?.is_break() {
            return Ok(());
        }
    }
    if !query.follow {
        return Ok(());
    }
    filter.follow();
    let after = |at: usize| Query { follow: true, after: last.cursors[at].clone(), ..query.query() };
    let queries = queries(&journals, boot.as_deref(), after);
    read(&queries, &mut filter, &mut |entry| {
        let flow = write(out, &entry, query.format)?;
        // Followed entries are shown at once.
        out.flush().context(|| "cannot write the log".to_owned())?;
        Ok(flow)
    })
}

/// Refuses the name of a machine without a definition, a tree and a record.
fn known(paths: &Paths, name: &Name, definition: Result<Machine>) -> Result<()> {
    let is_known = names(paths).is_ok_and(|names| names.contains(name.as_str()));
    if is_known { Ok(()) } else { definition.map(drop) }
}

/// Returns the last lines of a machine's log, for `status`.
///
/// # Errors
/// No journalctl.
pub(crate) fn tail(paths: &Paths, name: &Name, root: Option<&Path>, lines: u32) -> Result<Vec<String>> {
    let (filter, format) = (Filter::default(), Format::default());
    let (units, order): (&[String], _) = (&[], Order::OldestFirst);
    let query = LogQuery {
        name,
        follow: false,
        lines: Some(lines),
        units,
        order,
        with_console: false,
        boot: None,
        filter,
        format,
    };
    let mut filter = self::filter(paths, &query);
    let last = last(&journals(paths, name, root)?, &query, None, lines, &mut filter)?;
    Ok(last.entries.iter().map(|entry| line(entry, format)).collect())
}

/// The last entries of several journals.
struct Last {
    /// In time order.
    entries: VecDeque<JournalEntry>,
    /// The cursor of each journal's last entry. `None` if it has no entry.
    cursors: Vec<Option<String>>,
}

/// The number of entries of the host's journal that are read for each shown one: lines of the console may be
/// hidden.
const READ_FOR_ONE: u32 = 8;

/// Reads the last `lines` entries.
fn last(
    journals: &[Journal],
    query: &LogQuery<'_>,
    boot: Option<&str>,
    lines: u32,
    filter: &mut ConsoleFilter,
) -> Result<Last> {
    let mut last = Last { entries: VecDeque::new(), cursors: vec![None; journals.len()] };
    // journalctl reverses the order of a pattern with a number of lines.
    let limit = query.filter.grep.is_none().then_some(lines);
    let read_for = |at| if at == 0 && !query.with_console { READ_FOR_ONE } else { 1 };
    let limited =
        |at| Query { lines: limit.map(|lines| lines.saturating_mul(read_for(at))), ..query.query() };
    let queries = queries(journals, boot, limited);
    let Last { entries, cursors } = &mut last;
    let mut keep = |entry| {
        let is_full = entries.len() >= lines as usize;
        match query.order {
            Order::NewestFirst if is_full => {}
            Order::NewestFirst => entries.push_back(entry),
            Order::OldestFirst => {
                entries.push_back(entry);
                if is_full {
                    entries.pop_front();
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    journal::read(&queries, &mut |at, entry| {
        cursors[at].clone_from(&entry.cursor);
        pass(filter, queries[at].0, entry, &mut keep)
    })?;
    let _ = filter.finish(&mut keep)?;
    Ok(last)
}

fn is_of_guest(journal: &Journal) -> bool {
    matches!(journal, Journal::Guest(_))
}

/// Returns the filter of a query.
fn filter(paths: &Paths, query: &LogQuery<'_>) -> ConsoleFilter {
    let is_running =
        || Record::read(paths, query.name).ok().flatten().is_some_and(|record| record.is_alive());
    ConsoleFilter::new(match query.with_console {
        true => Console::Shown,
        false if is_running() => Console::OfRunning,
        false => Console::WithoutJournal,
    })
}

/// Reads the entries that a filter does not hide.
fn read(queries: &[(&Journal, Query)], filter: &mut ConsoleFilter, sink: &mut Sink<'_>) -> Result<()> {
    let mut is_over = false;
    journal::read(queries, &mut |at, entry| {
        let flow = pass(filter, queries[at].0, entry, sink)?;
        is_over |= flow.is_break();
        Ok(flow)
    })?;
    if !is_over {
        let _ = filter.finish(sink)?;
    }
    Ok(())
}

/// Passes an entry through a filter. Programs of the host are marked: their names are those of the guest's.
fn pass(
    filter: &mut ConsoleFilter,
    journal: &Journal,
    mut entry: JournalEntry,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>> {
    let is_of_guest = is_of_guest(journal);
    if !is_of_guest && !entry.is_console && entry.boot.is_none() {
        entry.source.insert_str(0, "host ");
    }
    filter.pass(is_of_guest, entry, sink)
}

/// Returns the query for each journal, restricted to one boot if given: the guest's journal has the boot id
/// in `_BOOT_ID`, the host's in `CORACLE_BOOT_ID`.
fn queries<'a>(
    journals: &'a [Journal],
    boot: Option<&str>,
    query: impl Fn(usize) -> Query,
) -> Vec<(&'a Journal, Query)> {
    let field = |journal: &Journal| match journal {
        Journal::Host(_) => "CORACLE_BOOT_ID",
        Journal::Guest(_) => "_BOOT_ID",
    };
    let only = |journal: &Journal| boot.map(|boot| (field(journal), boot.to_owned()));
    let with_boot = |(at, journal)| (journal, Query { only: only(journal), ..query(at) });
    journals.iter().enumerate().map(with_boot).collect()
}

/// Returns the journals with entries of a machine, the host's first.
fn journals(paths: &Paths, name: &Name, root: Option<&Path>) -> Result<Vec<Journal>> {
    let record = Record::read(paths, name)?;
    let mut journals = vec![Journal::Host(matches(paths, name))];
    if let Some(root) = root_of(record.as_ref(), root) {
        let owners = match (&root, record.as_ref().and_then(|record| record.id_base)) {
            (GuestFiles::Running(_), Some(first)) => Owners { first, count: RANGE_SIZE },
            _ => Owners::ALL,
        };
        for place in GUEST_JOURNALS {
            match root.open() {
                Ok(root) => journals.push(Journal::Guest(GuestJournal { root, place: place.into(), owners })),
                Err(error) => log::debug!("cannot open a journal of the guest: {error}, ignoring"),
            }
        }
        let id = root.open().ok().and_then(|root| machine_id(record.as_ref(), &root));
        journals.extend(id.and_then(|id| linked_journal(paths, id)));
    }
    Ok(journals)
}

/// Returns the machine id of a machine.
fn machine_id(record: Option<&Record>, root: &GuestRoot) -> Option<Id128> {
    record.and_then(|record| record.machine_id).or_else(|| {
        let text = root.read(Path::new("etc/machine-id"), 64).ok()?;
        std::str::from_utf8(&text).ok()?.trim().parse().ok()
    })
}

/// Returns the guest's journal in a directory of the host (`journal.link`). `None` if there is none, or only
/// a link to the tree.
fn linked_journal(paths: &Paths, id: Id128) -> Option<Journal> {
    let directory = paths.join("/var/log/journal").join(id.to_string());
    let is_directory = std::fs::symlink_metadata(&directory).is_ok_and(|found| found.is_dir());
    if !is_directory || id == Id128::NULL || id == probe::host_id() {
        return None;
    }
    let root = GuestRoot::of_tree(&directory).ok()?;
    Some(Journal::Guest(GuestJournal { root, place: ".".into(), owners: Owners::ALL }))
}

/// Returns the location of the guest's files: the running machine's view, or the tree.
fn root_of(record: Option<&Record>, given: Option<&Path>) -> Option<GuestFiles> {
    let alive = record.filter(|record| record.is_alive()).and_then(|record| record.leader);
    let recorded = record.map(|record| record.root.clone()).filter(|root| root.is_absolute());
    let tree = |root: PathBuf| RootSource::of_path(root).written_files().map(GuestFiles::Tree);
    alive.map(GuestFiles::Running).or_else(|| tree(recorded.or(given.map(Path::to_owned))?))
}

/// The location of a guest's files.
#[derive(Debug, PartialEq, Eq)]
enum GuestFiles {
    /// A running machine, by the process id of its PID 1.
    Running(u32),
    /// A tree.
    Tree(PathBuf),
}

impl GuestFiles {
    fn open(&self) -> Result<GuestRoot> {
        match self {
            Self::Running(leader) => GuestRoot::of_process(*leader),
            Self::Tree(path) => GuestRoot::of_tree(path),
        }
    }
}

/// Returns the matches that select a machine's entries in the host's journal.
fn matches(paths: &Paths, name: &Name) -> Vec<String> {
    let unit = service(paths, name);
    let mut matches = vec![format!("CORACLE_MACHINE={name}"), format!("_SYSTEMD_UNIT={unit}")];
    matches.extend(unit_name::scopes(name).iter().map(|scope| format!("_SYSTEMD_UNIT={scope}")));
    // Messages of systemd about the unit.
    matches.push(format!("_PID=1 UNIT={unit}"));
    matches
}

/// Writes an entry. Breaks if the reader is gone.
fn write(out: &mut dyn Write, entry: &JournalEntry, format: Format) -> Result<ControlFlow<()>> {
    match writeln!(out, "{}", line(entry, format)) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        written => written.map(ControlFlow::Continue).context(|| "cannot write the log".to_owned()),
    }
}

/// Formats an entry; further lines of a message are indented below the first.
fn line(entry: &JournalEntry, format: Format) -> String {
    let time = match format {
        Format::Cat => return entry.message.clone(),
        Format::Json => return entry.whole.clone().unwrap_or_default(),
        Format::ShortIso => when(entry.time),
        Format::ShortUnix => format!("{}.{:06}", entry.time / 1_000_000, entry.time % 1_000_000),
    };
    let pid = entry.pid.map(|pid| format!("[{pid}]")).unwrap_or_default();
    let head = format!("{time} {}{pid}: ", entry.source);
    let indent = format!("\n{}", " ".repeat(head.chars().count()));
    format!("{head}{}", entry.message.replace('\n', &indent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> JournalEntry {
        JournalEntry {
            time: 1_795_460_628_790_644,
            source: "systemd".into(),
            pid: Some(1),
            priority: None,
            message: message.into(),
            boot: None,
            is_console: false,
            cursor: None,
            whole: Some("{}".into()),
        }
    }

    #[test]
    fn lines_of_a_message_are_aligned() {
        let text = line(&entry("one\ntwo"), Format::ShortIso);
        let (first, second) = text.split_once('\n').unwrap();
        assert!(first.ends_with(" systemd[1]: one"), "{first}");
        assert_eq!(second.find("two"), first.find("one"));
        let of = |format| line(&entry("one"), format);
        assert_eq!(of(Format::ShortUnix), "1795460628.790644 systemd[1]: one");
        assert_eq!((of(Format::Cat), of(Format::Json)), ("one".to_owned(), "{}".to_owned()));
    }

    #[test]
    fn a_closed_reader_ends_the_log() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(write(&mut Gone, &entry("x"), Format::Cat), Ok(ControlFlow::Break(())));
    }

    #[test]
    fn a_running_guest_is_read_as_it_sees_itself() {
        let start = crate::host::procfs::start_time(std::process::id()).unwrap();
        let running = Record {
            supervisor: std::process::id(),
            supervisor_start: start,
            leader: Some(7),
            root: "/srv/web".into(),
            ..Record::new(Name::new("web").unwrap())
        };
        assert_eq!(root_of(Some(&running), None), Some(GuestFiles::Running(7)));
        let dead = Record { supervisor: 0, ..running };
        assert_eq!(root_of(Some(&dead), Some(Path::new("/x"))), Some(GuestFiles::Tree("/srv/web".into())));
        assert_eq!(root_of(None, Some(Path::new("/x"))), Some(GuestFiles::Tree("/x".into())));
    }
}
