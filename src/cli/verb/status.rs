//! `coracle status`.

use super::{Failures, VerbResult};
use crate::cli::arguments::RunningMachines;
use crate::cli::output;
use crate::control::{named_or_running, status};
use crate::paths::Paths;
use clap::Args;

/// Show the status of machines
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    machines: RunningMachines,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Returns the text with the states in the first lines in colour.
fn colored(all: &[status::Status], text: &str) -> String {
    all.iter().fold(text.to_owned(), |text, status| {
        let (name, state) = (&status.machine.name, &status.machine.state);
        let head = format!("{name}: {state}\n");
        text.replacen(&head, &format!("{name}: {}\n", output::colored_state(state)), 1)
    })
}

impl StatusArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let (mut all, mut failures) = (Vec::new(), Vec::new());
        for name in named_or_running(paths, self.machines.names) {
            match status::collect(paths, &name) {
                Ok(status) => all.push(status),
                Err(error) => failures.push(error),
            }
        }
        let written = if self.json {
            output::json(&all)
        } else {
            let mut text = Vec::new();
            let blocks = all.iter().enumerate().try_for_each(|(number, status)| {
                if number > 0 {
                    text.push(b'\n');
                }
                status.write(&mut text)
            });
            blocks.and_then(|()| output::folded(&colored(&all, &String::from_utf8_lossy(&text))))
        };
        failures.extend(written.err());
        if failures.is_empty() { Ok(0) } else { Err(Failures(failures)) }
    }
}
