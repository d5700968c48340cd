//! `coracle top`: what machines use, on a terminal, until somebody presses `q`. Called by `main`. The
//! terminal is as it was afterwards, whatever ends it but SIGKILL.

mod screen;
mod terminal;

use super::insight::{Top, records};
use crate::control::stats;
use crate::error::{Error, Result};
use crate::paths::Paths;
use screen::{Key, Screen};
use std::time::{Duration, Instant};
use terminal::{Event, Terminal};

/// Shows what machines use until it is told to end.
///
/// # Errors
/// Standard input or output that is no terminal, or a machine named that does not run.
pub fn run(paths: &Paths, wanted: &Top) -> Result<()> {
    records(paths, &wanted.names)?;
    let delay = Duration::from_secs(u64::from(wanted.delay));
    let mut terminal = Terminal::take()
        .map_err(|error| error.with_hint("without a terminal, 'coracle stats' shows what machines use"))?;
    let mut screen = Screen::default();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next {
            look(paths, wanted, &mut screen, now);
            next = now + delay;
        }
        let (columns, rows) = terminal.size();
        terminal.show(&screen.text(columns, rows))?;
        match terminal.wait(next.saturating_duration_since(Instant::now()))? {
            Event::End => return Ok(()),
            Event::Nothing => {}
            Event::Key(key) => {
                if screen.press(key) == Key::Quit {
                    return Ok(());
                }
                // What was opened is looked at at once.
                look(paths, wanted, &mut screen, Instant::now());
            }
        }
    }
}

/// Counts anew. A machine that is gone leaves the screen.
fn look(paths: &Paths, wanted: &Top, screen: &mut Screen, now: Instant) {
    let all = records(paths, &[]).unwrap_or_default();
    let is_wanted =
        |name: &str| wanted.names.is_empty() || wanted.names.iter().any(|one| one.as_str() == name);
    let records: Vec<_> = all.into_iter().filter(|record| is_wanted(&record.name)).collect();
    screen.update(records.iter().map(stats::sample).collect(), now);
    let opened = screen.opened().and_then(|name| records.iter().find(|record| record.name == name));
    screen.show_processes(opened.map(stats::processes).unwrap_or_default());
}

/// An error where there is no terminal.
fn no_terminal() -> Error {
    Error::new("'coracle top' needs a terminal")
}
