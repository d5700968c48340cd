//! The program: parses the command line, runs the verb, prints its errors, and exits.

#![no_main]

use coracle::cli::nspawn::Nspawn;
use coracle::cli::{self, Cli, VerbResult, compat};
use coracle::control::printable;
use coracle::error::Error;
use coracle::generator;
use coracle::paths::Paths;
use coracle::service;
use coracle::state::expected;
use coracle::sys::entry;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

coracle::entry_point!(coracle::run::protect_early, program);

/// Runs the program. Returns its exit status. Apart from the entry point: a process that executes the program
/// again at once needs no stack for it.
#[inline(never)]
fn program() -> u8 {
    if let Err(error) = entry::prepare() {
        return failed(&error);
    }
    // The modes of records, definitions and directories do not depend on the caller.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let arguments = entry::arguments();
    if is_generator(&arguments) {
        generate(&arguments);
        return 0;
    }
    if entry::is_nspawn() {
        return nspawn(&arguments);
    }
    if entry::is_schroot() {
        return schroot(&arguments);
    }
    if arguments.get(1).is_some_and(|verb| verb == "run" || verb == "launch") {
        entry::provide_memory();
    }
    if entry::is_testbed_server() {
        return testbed_server(&arguments);
    }
    if arguments.get(1).is_some_and(|verb| verb == "supervise") {
        return supervise(&arguments);
    }
    if arguments.get(1).is_some_and(|verb| verb == service::VERB) {
        return serve();
    }
    if arguments.get(1).is_some_and(|verb| verb == service::JOB_VERB) {
        return run_job(arguments.into_iter().next());
    }
    parse_and_run(&arguments)
}

/// Runs a job of the service, with the arguments that it sends.
#[inline(never)]
fn run_job(program: Option<OsString>) -> u8 {
    match service::receive_words(program) {
        Ok(job) => {
            let status = parse_and_run(&job.arguments);
            job.end(status)
        }
        Err(error) => failed(&error),
    }
}

/// Parses the command line and runs its verb.
fn parse_and_run(arguments: &[OsString]) -> u8 {
    let outcome = match cli::parse(arguments) {
        Ok(Some(cli)) => run(cli, arguments),
        Ok(None) => Ok(0),
        Err(error) => Err(error.into()),
    };
    outcome.unwrap_or_else(|failures| failures.0.iter().map(failed).max().unwrap_or(1))
}

/// Runs under the name of systemd-nspawn(1). Every failure has the same exit status, and one of the command
/// line is a single line. Its many options take stack, which no other verb needs.
#[inline(never)]
fn nspawn(arguments: &[OsString]) -> u8 {
    log_to(false);
    let outcome = match Nspawn::parse(arguments) {
        Ok(Some(nspawn)) => nspawn.run(&Paths::default()),
        Ok(None) => Ok(0),
        Err(error) => Err(error.into()),
    };
    outcome.unwrap_or_else(|failures| {
        failures.0.iter().for_each(print_error);
        1
    })
}

/// Runs under the name of schroot(1), whose failures have one exit status and a prefix of their own.
#[inline(never)]
fn schroot(arguments: &[OsString]) -> u8 {
    log_to(false);
    compat::schroot::main(&Paths::default(), arguments).unwrap_or_else(|error| {
        print_line("E", &error.to_string());
        error.hint().into_iter().for_each(|hint| print_line("I", hint));
        1
    })
}

/// Runs as a server of testbeds for autopkgtest(1), in which a failure has a status of its own.
#[inline(never)]
fn testbed_server(arguments: &[OsString]) -> u8 {
    match compat::autopkgtest::parse(arguments) {
        Ok(None) => 0,
        Ok(Some(server)) => {
            log_to(server.is_debugged());
            server.run(&Paths::default()).unwrap_or_else(|error| {
                print_error(&error);
                compat::autopkgtest::FAILURE
            })
        }
        Err(error) => failed(&error),
    }
}

/// Prints an error. Returns its exit status.
fn failed(error: &Error) -> u8 {
    print_error(error);
    error.exit_status()
}

/// Runs the verb that stays in memory as long as its machine. It is handled before the command line: the
/// definition of the command line would stay in memory too.
fn supervise(arguments: &[OsString]) -> u8 {
    if arguments.get(2).is_some_and(|argument| argument == coracle::run::DETACHED) {
        log_to_journal(log::LevelFilter::Info);
    } else {
        log_to(false);
    }
    if arguments.get(3).is_some_and(|argument| argument == coracle::run::REBOOT)
        && let Err(error) = coracle::run::session::reboot()
    {
        log::error!("{error}");
        return failed(&error);
    }
    coracle::run::supervise_unit().unwrap_or_else(|error| failed(&error))
}

/// Runs the service on the system bus.
fn serve() -> u8 {
    log_to(false);
    service::run(&Paths::default()).map_or_else(|error| failed(&error), |()| 0)
}

/// Returns whether systemd called the program as its generator, by the name of the program.
fn is_generator(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == generator::PROGRAM)
}

/// Runs as a generator. The first argument is the directory for units of normal priority
/// (systemd.generator(7)).
fn generate(arguments: &[OsString]) {
    if let Some(directory) = arguments.get(1) {
        generator::run(Path::new(directory), &Paths::default());
    }
}

/// Runs the verb of the command line, and returns its exit status. The one place that decides who runs it: this
/// process as root, the service for other users, or another host.
fn run(cli: Cli, arguments: &[OsString]) -> VerbResult {
    if let Some(host) = &cli.host {
        return Ok(cli::far::execute(arguments, host)?);
    }
    let root = std::path::absolute(&cli.common.root).map_err(|error| {
        Error::from(error).context(format!("cannot find '{}'", cli.common.root.display()))
    })?;
    log_to(cli.common.debug);
    let paths = Paths::below(root);
    if !entry::is_root() {
        return cli.verb.run_as_user(&paths, !cli.common.no_ask_password);
    }
    expected::expect(&cli.common.expect)?;
    let is_reported = cli.common.report;
    let outcome = cli.verb.run(&paths);
    if is_reported {
        service::report(outcome.as_ref().err().map_or(&[], |failures| &failures.0));
    }
    outcome
}

/// Sends the log to the journal as structured entries if the program runs in a unit, else to standard error.
fn log_to(debug: bool) {
    let level = if debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
    // The variable first: without it, the question costs a system call.
    let is_connected =
        || std::env::var_os("JOURNAL_STREAM").is_some() && systemd_journal_logger::connected_to_journal();
    if !(is_connected() && log_to_journal(level)) {
        log::set_max_level(level);
        let _ = log::set_logger(&StandardError);
    }
}

/// Sends the log to the journal. Returns whether it can.
fn log_to_journal(level: log::LevelFilter) -> bool {
    log::set_max_level(level);
    systemd_journal_logger::JournalLog::new().is_ok_and(|journal| journal.install().is_ok())
}

/// The log on standard error, in the format of errors.
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("coracle") {
            print_line(program_name(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Returns the name of the program in messages.
fn program_name() -> &'static str {
    entry::process_name().to_str().unwrap_or_default()
}

/// Prints an error and its hint.
fn print_error(error: &Error) {
    print_line(program_name(), &error.to_string());
    if let Some(hint) = error.hint() {
        print_line("hint", hint);
    }
}

/// Prints a line to standard error by one write(2): lines of several processes are not mixed. The reader of a
/// pipe may have ended: nothing depends on the line, and `eprintln!` would abort a supervisor.
fn print_line(start: &str, text: &str) {
    let line = format!("{start}: {}\n", printable(text));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
