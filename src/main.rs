//! The program: reads the command line, calls what it asks for, prints the error, and is the only
//! place that ends the process.

use coracle::cli::{self, Cli, Verb, machines};
use coracle::control::{Outcome, freezer, printable, signal};
use coracle::error::Error;
use coracle::paths::Paths;
use coracle::run::Mode;
use coracle::{config, generator};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // The modes of records, definitions and directories do not depend on the caller.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if is_generator(&arguments) {
        generate(&arguments);
        return ExitCode::SUCCESS;
    }
    if arguments.get(1).is_some_and(|verb| verb == "supervise") {
        return supervise();
    }
    coracle::run::protect_early(&arguments);
    let outcome = cli::parse(&arguments).map_err(|error| vec![error]).and_then(|cli| match cli {
        Some(cli) => run(&cli, arguments.into_iter().skip(1).collect()),
        None => Ok(0),
    });
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(errors) => {
            errors.iter().for_each(complain);
            ExitCode::from(errors.iter().map(Error::exit_status).max().unwrap_or(1))
        }
    }
}

/// The verb that stays for as long as its machine runs. It is met before the command line's
/// definition is built: that would stay in memory as long.
fn supervise() -> ExitCode {
    log_to(false);
    coracle::run::supervise_unit().map_or_else(
        |error| {
            complain(&error);
            ExitCode::from(error.exit_status())
        },
        ExitCode::from,
    )
}

/// Whether we were called by systemd as its generator, by our name.
fn is_generator(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == generator::PROGRAM)
}

/// systemd.generator(7): the first argument is the directory for units of normal priority.
fn generate(arguments: &[OsString]) {
    let paths = Paths::default();
    let (Some(directory), Ok(names)) = (arguments.get(1), config::names(&paths)) else { return };
    generator::run(Path::new(directory), names, &mut |name| {
        config::machine(&paths, name).map(|resolved| resolved.machine)
    });
}

/// Does what the verb says; the exit status of a run is its payload's.
fn run(cli: &Cli, arguments: Vec<OsString>) -> std::result::Result<u8, Vec<Error>> {
    let root = std::path::absolute(&cli.common.root).map_err(|error| {
        vec![Error::from(error).context(format!("cannot find '{}'", cli.common.root.display()))]
    })?;
    let paths = Paths::below(root);
    log_to(cli.common.debug);
    let status = match &cli.verb {
        Verb::Run(options) => {
            if options.quiet {
                log::set_max_level(log::LevelFilter::Warn);
            }
            let mode = if options.dry_run { Mode::DryRun } else { Mode::Run };
            cli::layer::layer(options)
                .and_then(|flags| coracle::run::foreground(&paths, flags, mode, arguments))
        }
        Verb::Launch(wanted) => coracle::run::launch_unit(&paths, &wanted.name).map(|()| 0),
        Verb::Exec(wanted) => machines::exec(&paths, &wanted.name, &wanted.command, &wanted.entry),
        Verb::Shell(wanted) => machines::shell(&paths, wanted),
        Verb::Login(wanted) => machines::login(&paths, wanted),
        Verb::Doctor(wanted) => cli::insight::doctor(&paths, wanted),
        verb => return several(&paths, verb).map(|()| 0),
    };
    status.map_err(|error| vec![error])
}

/// The verbs on machines, several at once, and those on definitions.
fn several(paths: &Paths, verb: &Verb) -> Outcome {
    match verb {
        Verb::Start(wanted) => machines::up(paths, machines::Up::Start, wanted),
        Verb::Restart(wanted) => machines::up(paths, machines::Up::Restart, wanted),
        Verb::Answer(wanted) => machines::answer(paths, &wanted.name),
        Verb::Stop(wanted) => machines::stop(paths, &wanted.names),
        Verb::Enable(wanted) => machines::at_boot(paths, machines::AtBoot::Enable, wanted),
        Verb::Disable(wanted) => machines::at_boot(paths, machines::AtBoot::Disable, wanted),
        Verb::Poweroff(wanted) => signal::poweroff(paths, &wanted.names),
        Verb::Reboot(wanted) => signal::reboot(paths, &wanted.names),
        Verb::Terminate(wanted) => signal::terminate(paths, &wanted.names),
        Verb::Kill(wanted) => machines::kill(paths, wanted),
        Verb::Freeze(wanted) => freezer::freeze(paths, &wanted.names),
        Verb::Thaw(wanted) => freezer::thaw(paths, &wanted.names),
        Verb::Status(wanted) => machines::status(paths, wanted),
        Verb::List(wanted) => machines::alone(cli::list::list(paths, wanted)),
        Verb::Show(wanted) => machines::alone(machines::show(paths, wanted)),
        Verb::Logs(wanted) => machines::alone(machines::logs(paths, wanted)),
        Verb::CopyTo(wanted) => machines::alone(machines::copy(paths, machines::Way::To, wanted)),
        Verb::CopyFrom(wanted) => machines::alone(machines::copy(paths, machines::Way::From, wanted)),
        Verb::Attach(wanted) => machines::alone(machines::attach(paths, wanted)),
        Verb::Set(wanted) => machines::alone(cli::change::set(paths, wanted)),
        Verb::Apply(wanted) => machines::alone(cli::change::apply(paths, wanted)),
        Verb::Bind(wanted) => machines::alone(machines::bind(paths, wanted)),
        Verb::Unbind(wanted) => machines::unbind(paths, wanted),
        Verb::Stats(wanted) => machines::alone(cli::insight::stats(paths, wanted)),
        Verb::Network(wanted) => machines::alone(cli::network::network(paths, wanted)),
        Verb::Top(wanted) => machines::alone(cli::top::run(paths, wanted)),
        Verb::Inspect(wanted) => machines::alone(cli::insight::inspect(paths, wanted)),
        Verb::Names => machines::alone(cli::insight::names(paths)),
        Verb::Check(wanted) => machines::alone(cli::check::run(paths, wanted)),
        Verb::Config(wanted) => machines::alone(cli::config::run(paths, wanted)),
        Verb::Completions(wanted) => machines::alone(cli::completions::run(wanted)),
        Verb::Cleanup(wanted) => machines::alone(coracle::run::clean_up(paths, &wanted.name)),
        Verb::Refit => machines::alone(coracle::run::refit(paths)),
        Verb::Resolve(wanted) => machines::resolve(paths, wanted.name.as_ref()),
        Verb::Run(_)
        | Verb::Launch(_)
        | Verb::Doctor(_)
        | Verb::Exec(_)
        | Verb::Shell(_)
        | Verb::Login(_) => Ok(()),
    }
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
            eprintln!("coracle: {}", printable(&record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Prints an error for people.
fn complain(error: &Error) {
    eprintln!("coracle: {}", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        eprintln!("hint: {}", printable(hint));
    }
}
