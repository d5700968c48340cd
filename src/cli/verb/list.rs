//! `coracle list`.

use super::VerbResult;
use crate::cli::output::{self, Align, Legend};
use crate::control::list::{self, Include, MachineSummary};
use crate::control::watch;
use crate::paths::Paths;
use clap::Args;
use std::ops::ControlFlow;

/// List running machines
///
/// STATE is 'degraded' for a running guest of systemd with failed units, which 'coracle status' names.
///
/// BOOT is shown with --all: whether the machine starts at boot.
///
/// LEADER is the process id of PID 1 on the host, UPTIME the time since the start, and UNCONFINED names the
/// parts in which the machine is not separated from the host, for example its users, network or devices.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Also list machines that are not running
    #[arg(short, long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// With --json: print the list as one line, and again at each change
    #[arg(short, long, requires = "json")]
    watch: bool,

    /// Print no header
    #[arg(long)]
    no_legend: bool,
}

/// The columns removed from a narrow table, least important first. `status` and `--json` show all of them.
const REMOVABLE: [(&str, Removal); 12] = [
    ("MEMORY", Removal::Empty),
    ("UNCONFINED", Removal::Empty),
    ("TASKS", Removal::Empty),
    ("INIT", Removal::Empty),
    ("LEADER", Removal::Empty),
    ("ADDRESSES", Removal::Empty),
    ("BOOT", Removal::Any),
    ("INIT", Removal::Any),
    ("TASKS", Removal::Any),
    ("LEADER", Removal::Any),
    ("UNCONFINED", Removal::Any),
    ("ADDRESSES", Removal::Any),
];

/// When a column is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// If it is empty for all machines.
    Empty,
    /// Always.
    Any,
}

impl ListArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let include = if self.all { Include::Defined } else { Include::Recorded };
        if self.watch {
            watch::watch(paths, include, &mut |rows| {
                output::json_line(&rows)?;
                Ok(ControlFlow::Continue(()))
            })?;
            return Ok(0);
        }
        let rows = list::rows(paths, include)?;
        let is_shown = !self.json && !self.no_legend && output::is_terminal();
        if self.json {
            output::json(&rows)?;
        } else {
            let legend = if self.no_legend { Legend::Hidden } else { Legend::Shown };
            if !rows.is_empty() || !is_shown {
                output::text(&colored(&rows, &fitted(&rows, legend, output::columns()), legend))?;
            }
            if is_shown && !self.all {
                output::line(&others(&rows, &list::rows(paths, Include::Defined)?))?;
            }
        }
        Ok(0)
    }
}

/// Returns a table with states in colour. The first column is that of names, and the second that of states.
fn colored(rows: &[MachineSummary], table: &str, legend: Legend) -> String {
    let headers = usize::from(legend == Legend::Shown);
    let color = |(number, line): (usize, &str)| {
        let row = number.checked_sub(headers).and_then(|number| rows.get(number));
        let parts = row.and_then(|row| {
            let (name, rest) = line.split_at_checked(row.name.len())?;
            let state = row.shown_state();
            Some(format!("{name}{}\n", rest.replacen(state, &output::colored_state(state), 1)))
        });
        parts.unwrap_or_else(|| format!("{line}\n"))
    };
    table.lines().enumerate().map(color).collect()
}

/// Returns the last line on a terminal: the number of machines that the table does not list. An empty table
/// is replaced by it.
fn others(listed: &[MachineSummary], all: &[MachineSummary]) -> String {
    let missing: Vec<&MachineSummary> =
        all.iter().filter(|row| listed.iter().all(|listed| listed.name != row.name)).collect();
    let failed = missing.iter().filter(|row| row.state == "failed").count();
    let more = if listed.is_empty() { "" } else { " more" };
    let machines = if missing.len() == 1 { "machine" } else { "machines" };
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    match (listed.len(), missing.len()) {
        (0, 0) => "no machines".to_owned(),
        (1, 0) => "1 machine".to_owned(),
        (count, 0) => format!("{count} machines"),
        (0, _) => format!("no running machines, {} stopped{failed}: coracle list -a", missing.len()),
        (_, count) => format!("{count}{more} {machines}{failed}: coracle list -a"),
    }
}

/// Returns the table fitted to a terminal of `columns` columns: with one address per machine, then without
/// empty columns, then without [`REMOVABLE`] columns. `None` is no limit.
fn fitted(rows: &[MachineSummary], legend: Legend, columns: Option<usize>) -> String {
    let mut names = list::COLUMNS.to_vec();
    let mut cells: Vec<Vec<String>> = rows.iter().map(MachineSummary::cells).collect();
    let is_unused = |row: &MachineSummary, name| match name {
        "BOOT" => row.enabled.is_none(),
        _ => row.disk.is_none(),
    };
    for optional in ["BOOT", "DISK"] {
        if rows.iter().all(|row| is_unused(row, optional))
            && let Some(at) = names.iter().position(|name| *name == optional)
        {
            names.remove(at);
            cells.iter_mut().for_each(|row| drop(row.remove(at)));
        }
    }
    let fits = |table: &String| {
        columns.is_none_or(|columns| table.lines().all(|line| line.chars().count() <= columns))
    };
    let mut shown = table(&names, &cells, legend);
    if let Some(at) = names.iter().position(|name| *name == "ADDRESSES")
        && !fits(&shown)
    {
        for (row, cells) in rows.iter().zip(&mut cells) {
            if let Some(cell) = cells.get_mut(at) {
                *cell = row.main_address();
            }
        }
        shown = table(&names, &cells, legend);
    }
    let is_empty =
        |cells: &[Vec<String>], at: usize| cells.iter().all(|row| row.get(at).is_none_or(|cell| cell == "-"));
    for (removable, when) in REMOVABLE {
        let Some(at) = names.iter().position(|name| *name == removable) else { continue };
        if fits(&shown) {
            break;
        }
        if when == Removal::Any || is_empty(&cells, at) {
            names.remove(at);
            cells.iter_mut().for_each(|row| drop(row.remove(at)));
            shown = table(&names, &cells, legend);
        }
    }
    shown
}

fn table(names: &[&str], cells: &[Vec<String>], legend: Legend) -> String {
    let right = ["LEADER", "MEMORY", "DISK", "TASKS", "UPTIME"];
    let align = |name: &str| if right.contains(&name) { Align::Right } else { Align::Left };
    let columns: Vec<_> = names.iter().map(|name| (*name, align(name))).collect();
    output::table(&columns, cells, legend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, unconfined: &[&str]) -> MachineSummary {
        let addresses = ["fd00:1234:5678:9abc:def0:1234:5678:9abc", "192.168.245.13", "fe80::1"];
        MachineSummary {
            name: name.into(),
            state: "running".into(),
            guest: None,
            init: Some("systemd".into()),
            leader: Some(123_456),
            addresses: addresses.map(|address| address.parse().unwrap()).to_vec(),
            dynamic: false,
            memory: Some(123 << 20),
            disk: None,
            disk_max: None,
            tasks: Some(17),
            started: None,
            uptime: Some(90_061),
            enabled: None,
            unit: None,
            root: None,
            unconfined: unconfined.iter().map(|word| (*word).to_owned()).collect(),
            outdated: false,
        }
    }

    #[test]
    fn wide_terminals_and_files_have_all_columns() {
        for columns in [None, Some(200)] {
            let table = fitted(&[row("web", &[])], Legend::Shown, columns);
            assert!(
                table.contains("fd00:1234:5678:9abc:def0:1234:5678:9abc 192.168.245.13 fe80::1"),
                "{table}"
            );
            assert!(table.contains("UNCONFINED"), "{table}");
        }
    }

    #[test]
    fn narrow_terminals_have_the_important_columns() {
        for columns in 30..200 {
            let table =
                fitted(&[row("web", &[]), row("database", &["network"])], Legend::Shown, Some(columns));
            assert!(table.lines().all(|line| line.len() <= columns.max(40)), "{columns}\n{table}");
            assert!(table.contains("UPTIME") && table.contains("MEMORY"), "{columns}\n{table}");
        }
        let table = fitted(&[row("web", &[])], Legend::Shown, Some(80));
        assert!(table.contains("192.168.245.13 +2") && table.contains("LEADER"), "{table}");
        assert!(!table.contains("UNCONFINED"), "{table}");
        let table = fitted(&[row("web", &["network"])], Legend::Shown, Some(80));
        assert!(table.contains("network") && table.contains("192.168.245.13 +2"), "{table}");
    }
}
