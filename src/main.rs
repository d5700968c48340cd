//! The program: reads the command line, calls what it asks for, prints the error, and is the only
//! place that ends the process.

use coracle::cli::{self, Cli, Verb};
use coracle::error::{Error, Result};
use coracle::paths::Paths;
use coracle::run::Mode;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let outcome = cli::parse(arguments.clone())
        .and_then(|cli| cli.map_or(Ok(0), |cli| run(&cli, arguments.into_iter().skip(1).collect())));
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// Does what the verb says; the exit status of a run is its payload's.
fn run(cli: &Cli, arguments: Vec<OsString>) -> Result<u8> {
    let root = std::path::absolute(&cli.root)
        .map_err(|error| Error::from(error).context(format!("cannot find '{}'", cli.root.display())))?;
    let paths = Paths::below(root);
    log_to(cli.debug);
    match &cli.verb {
        Verb::Check(wanted) => cli::check::run(&paths, wanted),
        Verb::Config(wanted) => cli::config::run(&paths, wanted),
        Verb::Completions(wanted) => cli::completions::run(wanted),
        Verb::Run(options) => {
            let mode = if options.dry_run { Mode::DryRun } else { Mode::Run };
            return coracle::run::foreground(&paths, cli::layer::layer(options)?, mode, arguments);
        }
        Verb::Launch(wanted) => coracle::run::launch_unit(&paths, &wanted.name),
        Verb::Supervise => return coracle::run::supervise_unit(),
        Verb::Cleanup(wanted) => coracle::run::clean_up(&paths, &wanted.name),
        _ => Err(Error::new("this build cannot do that")),
    }
    .map(|()| 0)
}

/// Where the log goes: in a unit to the journal as structured entries, else to standard error.
fn log_to(debug: bool) {
    let level = if debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
    log::set_max_level(level);
    if systemd_journal_logger::connected_to_journal()
        && let Ok(journal) = systemd_journal_logger::JournalLog::new()
        && journal.install().is_ok()
    {
        return;
    }
    let _ = log::set_logger(&Standard);
}

/// The log on standard error, in the form of our errors.
struct Standard;

impl log::Log for Standard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("coracle") {
            eprintln!("coracle: {}", record.args());
        }
    }

    fn flush(&self) {}
}

/// Prints an error for people.
fn complain(error: &Error) {
    eprintln!("coracle: {error}");
    if let Some(hint) = error.cure() {
        eprintln!("hint: {hint}");
    }
}
