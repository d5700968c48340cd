//! The program: reads the command line, calls what it asks for, prints the error, and is the only
//! place that ends the process.

use coracle::cli::{self, Cli, Verb};
use coracle::error::{Error, Result};
use coracle::paths::Paths;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = cli::parse(std::env::args_os()).and_then(|cli| cli.map_or(Ok(()), |cli| run(&cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

/// Does what the verb says.
fn run(cli: &Cli) -> Result<()> {
    let root = std::path::absolute(&cli.root)
        .map_err(|error| Error::from(error).context(format!("cannot find '{}'", cli.root.display())))?;
    let paths = Paths::below(root);
    match &cli.verb {
        Verb::Check(wanted) => cli::check::run(&paths, wanted),
        Verb::Config(wanted) => cli::config::run(&paths, wanted),
        Verb::Completions(wanted) => cli::completions::run(wanted),
        Verb::Run(options) => {
            let resolved = coracle::config::run(&paths, cli::layer::layer(options)?)?;
            Err(Error::new(format!("this build cannot run the machine '{}'", resolved.machine.name)))
        }
        _ => Err(Error::new("this build cannot do that")),
    }
}

/// Prints an error for people.
fn complain(error: &Error) {
    eprintln!("coracle: {error}");
    if let Some(hint) = error.cure() {
        eprintln!("hint: {hint}");
    }
}
