//! `coracle top`. Except after SIGKILL the terminal is restored at the end.

mod history;
mod screen;
mod terminal;

use super::VerbResult;
use crate::cli::arguments::RunningMachines;
use crate::cli::output;
use crate::control::{running_records, stats};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use screen::{Key, Screen};
use std::time::{Duration, Instant};
use terminal::{Terminal, TerminalEvent};

/// Monitor the resource usage of machines on a terminal
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    machines: RunningMachines,

    /// Seconds between two updates
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=60))]
    delay: u8,
}

impl TopArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let names = &self.machines.names;
        running_records(paths, names)?;
        let delay = Duration::from_secs(u64::from(self.delay));
        let mut terminal = Terminal::open()?;
        let mut screen = Screen::new(output::is_unicode());
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next {
                update(paths, names, &mut screen, now);
                next = now + delay;
            }
            let (columns, rows) = terminal.size();
            terminal.show(&screen.text(columns, rows))?;
            match terminal.wait(next.saturating_duration_since(Instant::now()))? {
                TerminalEvent::End => return Ok(0),
                TerminalEvent::Nothing => {}
                TerminalEvent::Key(key) => {
                    if screen.press(key) == Key::Quit {
                        return Ok(0);
                    }
                    // The key may have opened the processes of a machine.
                    update(paths, names, &mut screen, Instant::now());
                }
            }
        }
    }
}

/// Samples all running machines of `names`, or all running machines if `names` is empty.
fn update(paths: &Paths, names: &[Name], screen: &mut Screen, now: Instant) {
    let all = running_records(paths, &[]).unwrap_or_default();
    let is_named = |name: &Name| names.is_empty() || names.contains(name);
    let records: Vec<_> = all.into_iter().filter(|record| is_named(&record.name)).collect();
    screen.update(records.iter().map(stats::sample).collect(), now);
    let opened = screen.opened().and_then(|name| records.iter().find(|record| record.name.as_str() == name));
    screen.show_processes(opened.map(stats::processes).unwrap_or_default());
}
