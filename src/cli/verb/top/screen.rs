//! The screen of `top`: turns samples and keys into lines of text, without I/O.

use super::history::{History, Quantity, Values};
use crate::control::stats::{Process, Sample};
use crate::machine::size::rounded as size;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Instant;

/// Clock ticks per second (`USER_HZ`, 100 on all architectures).
const TICKS: u64 = 100;
/// The help in the last line.
const HELP: &str = "q quit  c cpu  m memory  i io  n net  t tasks  p pressure  a name  enter open";
/// The fewest columns with a history.
const NARROWEST_HISTORY: usize = 10;
/// The columns before the bars of an opened machine.
const LABEL: usize = 20;

/// The effect of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The screen may have changed.
    Done,
    /// `top` ends.
    Quit,
}

/// The sort order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Order {
    #[default]
    Cpu,
    Memory,
    Io,
    Network,
    Tasks,
    Pressure,
    Name,
}

impl Order {
    /// Returns the quantity that sorts the rows, and whose history is shown.
    fn quantity(self) -> Quantity {
        match self {
            Self::Cpu | Self::Name => Quantity::Cpu,
            Self::Memory => Quantity::Memory,
            Self::Io => Quantity::Io,
            Self::Network => Quantity::Network,
            Self::Tasks => Quantity::Tasks,
            Self::Pressure => Quantity::Pressure,
        }
    }
}

/// A machine and its usage since the previous sample.
#[derive(Debug, Clone, PartialEq)]
struct UsageRow {
    sample: Sample,
    /// Percent of one CPU.
    cpu: Option<f64>,
    /// Bytes per second.
    read: Option<f64>,
    written: Option<f64>,
    received: Option<f64>,
    sent: Option<f64>,
}

/// The screen's state.
#[derive(Debug, Default)]
pub(super) struct Screen {
    rows: Vec<UsageRow>,
    before: HashMap<String, (Sample, Instant)>,
    history: History,
    order: Order,
    /// The name of the marked machine.
    marked: Option<String>,
    /// Whether the processes of the marked machine are shown.
    is_open: bool,
    processes: Vec<Process>,
}

#[expect(clippy::cast_precision_loss, reason = "rates are approximate")]
fn rate(now: Option<u64>, before: Option<u64>, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then_some(now?.saturating_sub(before?) as f64 / seconds)
}

impl Screen {
    /// Creates a screen, with Unicode or ASCII for bars.
    pub(super) fn new(is_unicode: bool) -> Self {
        Self { history: History::new(is_unicode), ..Self::default() }
    }

    /// Stores new samples. A machine sampled less than 500 ms ago keeps its rates.
    pub(super) fn update(&mut self, samples: Vec<Sample>, now: Instant) {
        let is_moment = |at: &Instant| now.duration_since(*at).as_millis() < 500;
        let known: HashMap<String, UsageRow> =
            self.rows.drain(..).map(|row| (row.sample.name.clone(), row)).collect();
        let mut before = HashMap::new();
        for sample in samples {
            let name = sample.name.clone();
            let last = self.before.remove(&name);
            if let (Some((_, at)), Some(row)) = (&last, known.get(&name))
                && is_moment(at)
            {
                self.rows.push(UsageRow { sample, ..row.clone() });
                before.extend(last.map(|last| (name, last)));
                continue;
            }
            let rate = |value: fn(&Sample) -> Option<u64>| {
                let (old, at) = last.as_ref()?;
                rate(value(&sample), value(old), now.duration_since(*at).as_secs_f64())
            };
            let row = UsageRow {
                cpu: rate(|s| s.cpu).map(|micros| micros / 10_000.0),
                read: rate(|s| s.io_read),
                written: rate(|s| s.io_written),
                received: rate(|s| s.net_received),
                sent: rate(|s| s.net_sent),
                sample: sample.clone(),
            };
            self.history.add(&name, row.values());
            self.rows.push(row);
            before.insert(name, (sample, now));
        }
        self.before = before;
        self.history.retain(|name| self.before.contains_key(name));
        self.sort();
    }

    /// Returns the machine with shown processes.
    pub(super) fn opened(&self) -> Option<&str> {
        self.marked.as_deref().filter(|_| self.is_open)
    }

    /// Stores the processes of the opened machine.
    pub(super) fn show_processes(&mut self, processes: Vec<Process>) {
        self.processes = processes;
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: u8) -> Key {
        match key {
            b'q' if self.is_open => self.is_open = false,
            b'q' => return Key::Quit,
            b'c' => self.order = Order::Cpu,
            b'm' => self.order = Order::Memory,
            b'i' => self.order = Order::Io,
            b'n' => self.order = Order::Network,
            b't' => self.order = Order::Tasks,
            b'p' => self.order = Order::Pressure,
            b'a' => self.order = Order::Name,
            b'j' => self.mark(1),
            b'k' => self.mark(-1),
            b'\r' | b'\n' => self.is_open = self.marked.is_some() && !self.is_open,
            0x1b => self.is_open = false,
            _ => {}
        }
        self.sort();
        Key::Done
    }

    fn mark(&mut self, by: isize) {
        let marked = self.marked.as_ref();
        let at = marked.and_then(|name| self.rows.iter().position(|row| row.sample.name == *name));
        let last = self.rows.len().saturating_sub(1);
        let at = at.map_or(0, |at| at.saturating_add_signed(by).min(last));
        self.marked = self.rows.get(at).map(|row| row.sample.name.clone());
    }

    fn sort(&mut self) {
        let order = self.order;
        self.rows.sort_by(|one, other| {
            let by = |quantity: Quantity| {
                let value = |row: &UsageRow| row.value(quantity).unwrap_or(-1.0);
                value(other).partial_cmp(&value(one)).unwrap_or(Ordering::Equal)
            };
            let ordered = if order == Order::Name { Ordering::Equal } else { by(order.quantity()) };
            ordered.then_with(|| one.sample.name.cmp(&other.sample.name))
        });
        if !self.rows.iter().any(|row| Some(&row.sample.name) == self.marked.as_ref()) {
            self.marked = self.rows.first().map(|row| row.sample.name.clone());
        }
    }

    /// Returns the lines of a screen of this size.
    pub(super) fn text(&self, columns: usize, rows: usize) -> Vec<String> {
        let (title, body) = match self.opened() {
            Some(name) => (
                format!("coracle top: processes of {name}, {}", self.processes.len()),
                self.opened_lines(name, columns),
            ),
            None => (
                format!("coracle top: {} machines, by {:?}", self.rows.len(), self.order).to_lowercase(),
                self.table(columns),
            ),
        };
        let room = rows.saturating_sub(2).max(1);
        let mut lines = vec![format!("\x1b[1m{}", cut(&title, columns))];
        lines.extend(body.into_iter().take(room).map(|line| match line.strip_prefix('\x07') {
            // The marked row is shown in reverse video.
            Some(line) => format!("\x1b[7m{}", cut(&format!("{line:<columns$}"), columns)),
            None => cut(&line, columns),
        }));
        lines.resize(room + 1, String::new());
        lines.push(format!("\x1b[2m{}", cut(if self.is_open { "q back" } else { HELP }, columns)));
        lines.truncate(rows);
        lines
    }

    fn table(&self, columns: usize) -> Vec<String> {
        // Below 120 columns there is room for sums only, above for both directions and all pressures.
        let is_wide = columns >= 120;
        let widest = self.rows.iter().map(|row| row.sample.name.len()).max().unwrap_or(4);
        let widest = widest.clamp(4, if is_wide { 48 } else { 20 });
        let line = |name: &str, cells: &[String]| {
            let name = cut(name, widest);
            let cells: String = cells.iter().map(|cell| format!(" {cell:>8}")).collect();
            format!("{name:<widest$}{cells}")
        };
        let heads: &[&str] = if is_wide {
            &[
                "CPU%", "MEMORY", "LIMIT", "SWAP", "READ/s", "WRITE/s", "RECV/s", "SENT/s", "TASKS",
                "P-CPU%", "P-MEM%", "P-IO%",
            ]
        } else {
            &["CPU%", "MEMORY", "IO/s", "NET/s", "TASKS", "PRESS%"]
        };
        let quantity = self.order.quantity();
        let width = columns.saturating_sub(widest + heads.len() * 9 + 2);
        let width = if width < NARROWEST_HISTORY { 0 } else { width };
        let top = self.history.top(quantity, width);
        let bars = |name: &str| match width {
            0 => String::new(),
            _ => format!("  {}", self.history.bars(name, quantity, top, width)),
        };
        let head = if width == 0 { String::new() } else { format!("  {:>width$}", heading(quantity)) };
        let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
        let mut lines = vec![line("NAME", &heads) + &head];
        lines.extend(self.rows.iter().map(|row| {
            let text = line(&row.sample.name, &row.cells(is_wide)) + &bars(&row.sample.name);
            if Some(&row.sample.name) == self.marked.as_ref() { format!("\x07{text}") } else { text }
        }));
        lines
    }

    /// Returns the history and the processes of a machine.
    fn opened_lines(&self, name: &str, columns: usize) -> Vec<String> {
        let Some(row) = self.rows.iter().find(|row| row.sample.name == name) else { return self.list() };
        let width = columns.saturating_sub(LABEL);
        let history = Quantity::ALL.iter().filter(|_| width >= NARROWEST_HISTORY).map(|quantity| {
            let top = self.history.top(*quantity, width);
            let label = format!("{:<8} {:>9}", format!("{quantity:?}").to_lowercase(), row.shown(*quantity));
            format!("{label}  {}", self.history.bars(name, *quantity, top, width))
        });
        history.chain([String::new()]).chain(self.list()).collect()
    }

    fn list(&self) -> Vec<String> {
        let line = |process: &Process| {
            let seconds = process.ticks / TICKS;
            let time = format!("{}:{:02}.{:02}", seconds / 60, seconds % 60, process.ticks % TICKS);
            format!("{:>8} {time:>10} {:>8}  {}", process.pid, size(process.memory), process.command)
        };
        let head = format!("{:>8} {:>10} {:>8}  COMMAND", "PID", "TIME", "MEMORY");
        std::iter::once(head).chain(self.processes.iter().map(line)).collect()
    }
}

/// Returns the highest of the three pressures.
fn pressure(sample: &Sample) -> Option<f64> {
    [sample.pressure_cpu, sample.pressure_memory, sample.pressure_io].into_iter().flatten().reduce(f64::max)
}

/// Returns the heading of a history.
fn heading(quantity: Quantity) -> String {
    format!("{quantity:?} HISTORY").to_uppercase()
}

impl UsageRow {
    /// Returns a quantity: percent, bytes, bytes per second, or a number.
    fn value(&self, quantity: Quantity) -> Option<f64> {
        let sum = |one: Option<f64>, other: Option<f64>| Some(one? + other?);
        #[expect(clippy::cast_precision_loss, reason = "bars are approximate")]
        let float = |value: Option<u64>| value.map(|value| value as f64);
        match quantity {
            Quantity::Cpu => self.cpu,
            Quantity::Memory => float(self.sample.memory),
            Quantity::Io => sum(self.read, self.written),
            Quantity::Network => sum(self.received, self.sent),
            Quantity::Tasks => float(self.sample.tasks),
            Quantity::Pressure => pressure(&self.sample),
        }
    }

    fn values(&self) -> Values {
        Quantity::ALL.map(|quantity| self.value(quantity))
    }

    /// Returns a quantity for people.
    fn shown(&self, quantity: Quantity) -> String {
        let Some(value) = self.value(quantity) else { return "-".into() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are approximate")]
        let bytes = size(value as u64);
        match quantity {
            Quantity::Cpu | Quantity::Pressure => format!("{value:.1}%"),
            Quantity::Memory => bytes,
            Quantity::Io | Quantity::Network => format!("{bytes}/s"),
            Quantity::Tasks => format!("{value:.0}"),
        }
    }

    fn cells(&self, is_wide: bool) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let percent = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.1}")));
        let bytes = |value: Option<u64>| or_dash(value.map(size));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are approximate")]
        let rate = |value: Option<f64>| or_dash(value.map(|value| size(value as u64)));
        let (sample, tasks) = (&self.sample, or_dash(self.sample.tasks.map(|tasks| tasks.to_string())));
        if !is_wide {
            return vec![
                percent(self.cpu),
                bytes(sample.memory),
                rate(self.value(Quantity::Io)),
                rate(self.value(Quantity::Network)),
                tasks,
                percent(pressure(sample)),
            ];
        }
        vec![
            percent(self.cpu),
            bytes(sample.memory),
            bytes(sample.memory_max),
            bytes(sample.swap),
            rate(self.read),
            rate(self.written),
            rate(self.received),
            rate(self.sent),
            tasks,
            percent(sample.pressure_cpu),
            percent(sample.pressure_memory),
            percent(sample.pressure_io),
        ]
    }
}

/// Cuts a text to `columns` columns, and removes control characters.
fn cut(text: &str, columns: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(name: &str, cpu: u64) -> Sample {
        Sample { name: name.into(), cpu: Some(cpu), tasks: Some(3), ..Sample::default() }
    }

    fn screen() -> Screen {
        let (mut screen, start) = (Screen::default(), Instant::now());
        screen.update(vec![sample("web", 0), sample("db", 0)], start);
        screen.update(vec![sample("web", 500_000), sample("db", 2_000_000)], start + Duration::from_secs(2));
        screen
    }

    #[test]
    fn rates_are_shown_and_unknown_values_are_dashes() {
        let lines = screen().text(80, 6);
        assert_eq!(lines.len(), 6);
        assert!(lines[2].contains("db") && lines[2].contains(" 100.0        -"), "{lines:?}");
        assert!(lines[3].starts_with("web      25.0"), "{lines:?}");
        for columns in [10, 80, 200] {
            for line in screen().text(columns, 5) {
                let bare = line.replace("\x1b[1m", "").replace("\x1b[7m", "").replace("\x1b[2m", "");
                assert!(bare.chars().count() <= columns, "{line:?}");
            }
        }
    }

    #[test]
    fn histories_are_shown_if_there_is_room() {
        let lines = screen().text(80, 6);
        assert!(lines[1].ends_with("  CPU HISTORY") && lines[2].trim_end().ends_with(" #"), "{lines:?}");
        assert!(lines[3].ends_with(" ."), "{lines:?}");
        let mut screen = screen();
        screen.press(b't');
        assert!(screen.text(80, 6)[1].ends_with("  TASKS HISTORY"));
        let narrow = screen.text(60, 6);
        assert!(narrow[1].ends_with("PRESS%"), "{narrow:?}");
    }

    #[test]
    fn keys_sort_mark_and_open() {
        let mut screen = screen();
        screen.press(b'a');
        assert_eq!(screen.rows[0].sample.name, "db");
        screen.press(b'k');
        screen.press(b'j');
        screen.press(b'\r');
        assert_eq!(screen.opened(), Some("web"));
        screen.show_processes(vec![Process { pid: 7, ticks: 250, memory: 2048, command: "init".into() }]);
        let lines = screen.text(80, 12);
        assert!(lines[1].starts_with("cpu          25.0%  ") && lines[1].ends_with('.'), "{lines:?}");
        assert!(lines[9].contains("7    0:02.50     2.0K  init"), "{lines:?}");
        assert_eq!(screen.press(b'q'), Key::Done);
        assert_eq!(screen.opened(), None);
        assert_eq!(screen.press(b'q'), Key::Quit);
    }
}
