//! The verbs on machines: from their arguments to `control`, and what comes back to the output.
//! Called by `main`.

use super::output::{self, Align, Legend};
use super::verbs::{
    Bind, Copy, Entry, Kill, LogFormat, Logs, One, Shell, Show, Start, Status, Switch, Unbind, WaitFor, Whom,
};
use crate::config;
use crate::control::progress::Progress;
use crate::control::{
    Outcome, attach, bind, copy, demand, exec, login, logs, resolver, show, signal, start, status,
};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use rustix::termios;
use std::ffi::OsString;
use std::path::Path;

/// Which of the two verbs that bring machines up.
#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq)]
pub enum Up {
    /// `start`
    Start,
    /// `restart`
    Restart,
}

/// Which of the two verbs that decide on the next boot of the host.
#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq)]
pub enum AtBoot {
    /// `enable`
    Enable,
    /// `disable`
    Disable,
}

/// Which way `copy-to` and `copy-from` copy.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// Into the machine.
    To,
    /// Out of it.
    From,
}

/// The machine a name means by its definition.
fn definition(paths: &Paths) -> impl FnMut(&Name) -> Result<Machine> {
    move |name| config::machine(paths, name).map(|resolved| resolved.machine)
}

/// Does something with progress on standard error, where that is a terminal.
fn with_progress<T>(action: impl FnOnce(&mut Progress<'_>) -> T) -> T {
    let error = rustix::stdio::stderr();
    if !termios::isatty(error) {
        return action(&mut Progress::silent());
    }
    let columns = termios::tcgetwinsize(error).map_or(80, |size| usize::from(size.ws_col.max(20)));
    let mut terminal = std::io::stderr();
    action(&mut Progress::on_terminal(&mut terminal, columns))
}

/// `start` and `restart`.
///
/// # Errors
/// One for each machine that did not come up.
pub fn up(paths: &Paths, which: Up, wanted: &Start) -> Outcome {
    let wait = match wanted.wait {
        None => start::Wait::Unit,
        Some(WaitFor::Ready) => start::Wait::Ready,
        Some(WaitFor::Running) => start::Wait::Running,
        Some(WaitFor::No) => start::Wait::No,
    };
    let action = if which == Up::Start { start::start } else { start::restart };
    with_progress(|progress| action(paths, &wanted.names, wait, &mut definition(paths), progress))
}

/// `answer`.
///
/// # Errors
/// A machine that did not come up.
pub fn answer(paths: &Paths, name: &Name) -> Outcome {
    demand::answer(paths, name, &mut definition(paths))
}

/// `resolve`.
///
/// # Errors
/// Machines that could not be told.
pub fn resolve(paths: &Paths, name: Option<&Name>) -> Outcome {
    match name {
        Some(name) => alone(resolver::renew_one(paths, name)),
        None => resolver::renew_all(paths),
    }
}

/// `stop`.
///
/// # Errors
/// One for each machine that did not stop as it should.
pub fn stop(paths: &Paths, names: &[Name]) -> Outcome {
    with_progress(|progress| start::stop(paths, names, progress))
}

/// `enable` and `disable`.
///
/// # Errors
/// What systemd refuses, or with `--now` one for each machine that did not start or stop.
pub fn at_boot(paths: &Paths, which: AtBoot, wanted: &Switch) -> Outcome {
    let one = |error| vec![error];
    let changes = match which {
        AtBoot::Enable => start::enable(&wanted.names, &mut definition(paths)),
        AtBoot::Disable => start::disable(&wanted.names),
    };
    for change in changes.map_err(one)? {
        output::line(&change).map_err(one)?;
    }
    match (wanted.now, which) {
        (false, _) => Ok(()),
        (true, AtBoot::Enable) => with_progress(|progress| {
            start::start(paths, &wanted.names, start::Wait::Unit, &mut definition(paths), progress)
        }),
        (true, AtBoot::Disable) => stop(paths, &wanted.names),
    }
}

/// `kill`.
///
/// # Errors
/// One for each machine that does not run or cannot be signalled.
pub fn kill(paths: &Paths, wanted: &Kill) -> Outcome {
    let whom = match wanted.kill_whom {
        Whom::Leader => signal::Whom::Leader,
        Whom::All => signal::Whom::All,
    };
    signal::kill(paths, &wanted.names, wanted.signal, whom)
}

/// The machines named, or all that run.
fn named_or_running(paths: &Paths, names: &[Name]) -> Vec<Name> {
    if !names.is_empty() {
        return names.to_vec();
    }
    let running = Record::all(paths).into_iter().filter(Record::is_alive);
    running.filter_map(|record| Name::new(&record.name).ok()).collect()
}

/// `status`.
///
/// # Errors
/// A machine that nothing is known of.
pub fn status(paths: &Paths, wanted: &Status) -> Outcome {
    let mut failures = Vec::new();
    let mut all = Vec::new();
    for name in named_or_running(paths, &wanted.names) {
        match status::collect(paths, &name, &mut definition(paths)) {
            Ok(status) => all.push(status),
            Err(error) => failures.push(error),
        }
    }
    let written = if wanted.json {
        output::json(&all)
    } else {
        let mut text = Vec::new();
        let blocks = all.iter().enumerate().try_for_each(|(number, status)| {
            if number > 0 {
                text.push(b'\n');
            }
            status.write(&mut text)
        });
        blocks.and_then(|()| output::folded(&String::from_utf8_lossy(&text)))
    };
    failures.extend(written.err());
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// `show`.
///
/// # Errors
/// A machine that does not run, or a property that there is not.
pub fn show(paths: &Paths, wanted: &Show) -> Result<()> {
    let names = named_or_running(paths, &wanted.names);
    let of = |name| show::properties(paths, name, &wanted.property);
    let all = names.iter().map(of).collect::<Result<Vec<_>>>()?;
    if wanted.json {
        let values: Vec<_> = all.iter().map(show::Properties::to_json).collect();
        return match (values.as_slice(), wanted.names.len()) {
            ([one], 1) => output::json(one),
            _ => output::json(&values),
        };
    }
    for (number, properties) in all.iter().enumerate() {
        let mut text = if number > 0 { vec![b'\n'] } else { Vec::new() };
        properties.write(&mut text)?;
        output::text(&String::from_utf8_lossy(&text))?;
    }
    Ok(())
}

/// `logs`.
///
/// # Errors
/// No journal, a boot that is not recorded.
pub fn logs(paths: &Paths, wanted: &Logs) -> Result<()> {
    let resolved = config::machine(paths, &wanted.name).ok();
    let root = resolved.map(|resolved| resolved.machine.root.directory.clone());
    let ask = logs::Ask {
        name: &wanted.name,
        root: root.as_deref(),
        follow: wanted.follow,
        lines: wanted.lines,
        boot: wanted.boot.as_deref(),
        filter: logs::Filter {
            since: wanted.since.as_deref(),
            until: wanted.until.as_deref(),
            priority: wanted.priority.as_deref(),
            grep: wanted.grep.as_deref(),
        },
        format: match wanted.output {
            LogFormat::ShortIso => logs::Format::ShortIso,
            LogFormat::ShortUnix => logs::Format::ShortUnix,
            LogFormat::Cat => logs::Format::Cat,
            LogFormat::Json => logs::Format::Json,
        },
    };
    logs::show(paths, &ask, &mut output::Stream)
}

/// `exec` and `shell`: `argv` empty means the login shell.
///
/// # Errors
/// Why the command was not executed.
pub fn exec(paths: &Paths, name: &Name, argv: &[OsString], entry: &Entry) -> Result<u8> {
    exec::exec(paths, &asked(name, argv, entry))
}

/// What the options of `exec` and `shell` ask for.
fn asked<'a>(name: &'a Name, argv: &[OsString], entry: &'a Entry) -> exec::Ask<'a> {
    let variable = |given: &String| match given.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(given).ok().map(|value| (given.clone(), value)),
    };
    exec::Ask {
        name,
        argv: argv.to_vec(),
        user: entry.user.as_deref(),
        directory: entry.workdir.clone(),
        environment: entry.setenv.iter().filter_map(variable).collect(),
        terminal: match (entry.tty, entry.no_tty) {
            (true, _) => exec::Terminal::Yes,
            (_, true) => exec::Terminal::No,
            _ => exec::Terminal::Auto,
        },
        wait_ready: entry.wait_ready,
    }
}

/// `copy-to` and `copy-from`.
///
/// # Errors
/// What cannot be copied.
pub fn copy(paths: &Paths, way: Way, wanted: &Copy) -> Result<()> {
    let destination = wanted.destination.as_deref();
    if destination.is_none() && wanted.source == Path::new("-") {
        return Err(Error::usage("an archive needs a directory it is put into")
            .with_hint("usage: coracle copy-to NAME - DST"));
    }
    let ask = copy::Ask {
        name: &wanted.name,
        source: &wanted.source,
        destination: destination.unwrap_or(&wanted.source),
        replace: if wanted.force { copy::Replace::Yes } else { copy::Replace::No },
    };
    with_progress(|progress| match way {
        Way::To => copy::copy_to(paths, &ask, std::mem::replace(progress, Progress::silent())),
        Way::From => copy::copy_from(paths, &ask, std::mem::replace(progress, Progress::silent())),
    })
}

/// `bind`.
///
/// # Errors
/// What cannot be bound.
pub fn bind(paths: &Paths, wanted: &Bind) -> Result<()> {
    let Some(source) = &wanted.source else {
        let list = bind::list(paths, &wanted.name)?;
        if wanted.json {
            return output::json(&list);
        }
        let columns = ["TARGET", "SOURCE", "ACCESS", "MAP"].map(|name| (name, Align::Left));
        let cells: Vec<Vec<String>> = list.iter().map(bind::cells).collect();
        return output::text(&output::table(&columns, &cells, Legend::Shown));
    };
    let ask = bind::Ask {
        name: &wanted.name,
        source,
        target: wanted.target.as_ref().unwrap_or(source),
        read_only: wanted.read_only,
        setuid: false,
        make_target: wanted.mkdir.into(),
        map: wanted.map.clone(),
    };
    bind::bind(paths, &ask)
}

/// `unbind`.
///
/// # Errors
/// One for each that cannot be taken off.
pub fn unbind(paths: &Paths, wanted: &Unbind) -> Outcome {
    let each = wanted.targets.iter();
    let failures: Vec<Error> =
        each.filter_map(|target| bind::unbind(paths, &wanted.name, target).err()).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// `attach`. Its exit status is 0 however it ended.
///
/// # Errors
/// A machine whose console cannot be seen.
pub fn attach(paths: &Paths, wanted: &One) -> Result<()> {
    if termios::isatty(rustix::stdio::stdin()) {
        log::info!("attached to machine '{}'; type ^] three times within a second to detach", wanted.name);
    }
    let ended = attach::attach(paths, &wanted.name)?;
    match ended {
        attach::Ended::Detached => log::info!("detached from machine '{}'", wanted.name),
        attach::Ended::Machine => log::info!("machine '{}' ended", wanted.name),
        attach::Ended::Told => {}
    }
    Ok(())
}

/// `login`. Returns the exit status of what asks for the name.
///
/// # Errors
/// A machine that has nothing to log in by.
pub fn login(paths: &Paths, wanted: &One) -> Result<u8> {
    exec::exec(paths, &login::login(paths, &wanted.name)?)
}

/// `shell`. Returns the shell's exit status.
///
/// # Errors
/// Why there is none.
pub fn shell(paths: &Paths, wanted: &Shell) -> Result<u8> {
    let mut ask = asked(&wanted.name, &[], &wanted.entry);
    if wanted.session {
        login::as_session(paths, &mut ask)?;
    }
    exec::exec(paths, &ask)
}

/// One error as the outcome of several.
///
/// # Errors
/// The one.
pub fn alone(result: Result<()>) -> std::result::Result<(), Vec<Error>> {
    result.map_err(|error| vec![error])
}
