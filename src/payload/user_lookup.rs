//! Looks up the payload's user by getent(1) of the machine, which knows more sources than passwd(5). Called
//! by `init_process`.
//!
//! getent is a program of the guest: it has the rights and the filter of the payload, without CAP_SYS_PTRACE,
//! because this process, which still has rights and descriptors of the host, is visible to it. Its output is
//! untrusted. No process that it has started outlives the look-up.

use crate::error::{Context, Error, Result};
use crate::plan::step::{User, UserLookup};
use crate::sys::process::{self, Child, Ended, Side};
use crate::sys::{descriptor, filter};
use nix::sys::signal::{Signal, kill};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, wait};
use rustix::thread::CapabilitySet;
use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

/// The paths of getent(1).
const PROGRAMS: [&str; 2] = ["/usr/bin/getent", "/bin/getent"];
/// The longest output, bytes.
const LONGEST: usize = 64 * 1024;
/// The time for both calls: getent may ask a server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The exit status of getent(1) for an unknown key.
const UNKNOWN: i32 = 2;

/// Looks up a user. `check` refuses programs that must not be executed.
///
/// # Errors
/// There is no such user, or getent fails, takes too long, or has an invalid output.
pub(super) fn find(lookup: &UserLookup, check: impl Fn(&Path) -> Result<()>) -> Result<User> {
    let missing = || {
        Error::new(format!("user '{}' does not exist in the machine", lookup.name.escape_debug()))
            .with_hint("name a user that 'getent passwd' lists inside, or a number")
    };
    let is_program = |path: &&&str| rustix::fs::access(**path, Access::EXEC_OK).is_ok();
    let Some(program) = PROGRAMS.iter().find(is_program) else {
        return lookup.listed.clone().ok_or_else(missing);
    };
    check(Path::new(program))?;
    // A guest with CAP_SYS_ADMIN of the host can read the environment even then.
    process::replace_title(c"(coracle)", &[]);
    process::set_dumpable(false);
    let until = Instant::now() + PATIENCE;
    let query = |database: &str| {
        let output = query(program, lookup, database, until);
        end_others();
        output.context(|| format!("'getent {database}' of the machine failed"))
    };
    let entry = query("passwd")?.ok_or_else(missing)?;
    let mut user = user_of(&lookup.name, &entry)
        .ok_or_else(|| Error::new("'getent passwd' of the machine returned an invalid entry"))?;
    // Some implementations have no such database.
    user.groups = match query("initgroups") {
        Ok(Some(line)) => groups_of(&line)
            .ok_or_else(|| Error::new("'getent initgroups' of the machine returned an invalid entry"))?,
        Ok(None) => Vec::new(),
        Err(error) => lookup.listed.as_ref().map(|listed| listed.groups.clone()).ok_or(error)?,
    };
    if !lookup.keeps_home && !Path::new(&user.home).is_dir() {
        user.home = "/".into();
    }
    Ok(user)
}

/// Returns the first line that getent prints about the user. `None` if it does not know the user.
fn query(program: &str, lookup: &UserLookup, database: &str, until: Instant) -> Result<Option<String>> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe")?;
    let argv = ["getent", database, &lookup.name].map(CString::new);
    let [Ok(name), Ok(database), Ok(key)] = argv else {
        return Err(Error::new("the name contains a NUL byte"));
    };
    match process::clone(0, None)? {
        Side::Child => {
            let _ = execute(program, &[name, database, key], lookup, write.as_fd());
            process::exit_now(127)
        }
        Side::Parent(child) => {
            drop(write);
            answer(child, &read, until, None)
        }
    }
}

/// A descriptor that is watched while getent runs, and whether its input interrupts the look-up.
pub(crate) struct Interrupt<'a> {
    /// The descriptor.
    pub(crate) watched: BorrowedFd<'a>,
    /// Reads its input. Returns whether it interrupts.
    pub(crate) interrupts: &'a dyn Fn() -> bool,
}

/// Waits for getent, and kills it if it does not end. Returns its first line. `None` if it does not know the
/// key.
///
/// # Errors
/// getent fails, takes longer than `until`, or prints too much; or an interruption.
pub(crate) fn answer(
    child: Child,
    output: &OwnedFd,
    until: Instant,
    interrupt: Option<Interrupt<'_>>,
) -> Result<Option<String>> {
    let output = receive(output, &child, until, interrupt);
    let ended = process::has_ended(child.pidfd.as_fd());
    process::kill_child(ended.is_none().then_some(child.pidfd));
    match (output?, ended) {
        (text, Some(Ended::Exited(0))) => {
            Ok(String::from_utf8_lossy(&text).lines().next().map(str::to_owned))
        }
        (_, Some(Ended::Exited(UNKNOWN))) => Ok(None),
        (_, Some(Ended::Exited(status))) => Err(Error::new(format!("exit status {status}"))),
        (_, Some(Ended::Killed(signal))) => Err(Error::new(format!("killed by signal {signal}"))),
        (_, None) => Err(Error::new("it does not end")),
    }
}

/// Becomes getent, with the rights of the payload. Returns only on failure.
fn execute(program: &str, argv: &[CString], lookup: &UserLookup, output: BorrowedFd<'_>) -> Result<()> {
    process::die_with_parent();
    // Neither the terminal of the console nor a stream of the caller.
    rustix::process::setsid()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(&null)?;
    descriptor::close_on_exec_from(3)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    process::reset_signals(0);
    rustix::thread::remove_capability_from_bounding_set(CapabilitySet::SYS_PTRACE)?;
    if lookup.no_new_privileges {
        rustix::thread::set_no_new_privs(true)?;
    }
    let path = CString::new(program).map_err(|_| Error::new("the path contains a NUL byte"))?;
    if let Some(program) = &lookup.filter {
        filter::install(program)?;
    }
    Err(process::execute(&path, argv, &[], || ()).into())
}

/// Receives the output of getent until it ends. Processes that it has left may keep the pipe open.
fn receive(
    output: &OwnedFd,
    child: &Child,
    until: Instant,
    interrupt: Option<Interrupt<'_>>,
) -> Result<Vec<u8>> {
    let (mut text, mut is_open) = (Vec::new(), true);
    let mut buffer = [0; 4096];
    // Without an interruption, the child takes the place of its descriptor.
    let other = interrupt.as_ref().map_or(child.pidfd.as_fd(), |interrupt| interrupt.watched);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(format!("it did not end within {} seconds", PATIENCE.as_secs())));
        }
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut ready = [child.pidfd.as_fd(), other, output.as_fd()]
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
        let watched = if is_open { 3 } else { 2 };
        match poll(&mut ready[..watched], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot wait for it"),
        }
        let [has_ended, has_input, has_text] = [0, 1, 2].map(|at: usize| !ready[at].revents().is_empty());
        if has_input && interrupt.as_ref().is_some_and(|interrupt| (interrupt.interrupts)()) {
            return Err(Error::new("interrupted"));
        }
        if is_open && has_text {
            match rustix::io::read(output, &mut buffer).context(|| "cannot read its output")? {
                0 => is_open = false,
                count => text.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            }
            if text.len() > LONGEST {
                return Err(Error::new(format!("its output is longer than {LONGEST} bytes")));
            }
        } else if has_ended {
            return Ok(text);
        }
    }
}

/// Ends and reaps all processes that getent has left: this process is PID 1, and no other one exists yet. A
/// process that the kernel keeps longer is left to the payload.
fn end_others() {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        return;
    }
    let _ = kill(nix::unistd::Pid::from_raw(-1), Signal::SIGKILL);
    for _ in 0..1000 {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return,
        }
    }
}

/// Returns the user of an entry of passwd(5).
pub(crate) fn user_of(name: &str, line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let path = |at: usize, default: &str| {
        let is_path = |path: &&&str| path.starts_with('/') && !path.contains(char::is_control);
        fields.get(at).filter(is_path).map_or(default, |path| path).to_owned()
    };
    Some(User {
        name: name.to_owned(),
        uid: id(fields.get(2)?)?,
        gid: id(fields.get(3)?)?,
        groups: Vec::new(),
        home: path(5, "/"),
        shell: path(6, "/bin/sh"),
    })
}

/// Returns the groups of an entry of the database `initgroups`: the name of the user and numbers.
pub(crate) fn groups_of(line: &str) -> Option<Vec<u32>> {
    line.split_whitespace().skip(1).map(id).collect()
}

/// Returns a valid id.
pub(crate) fn id(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_getent_are_checked() {
        let user = user_of("web", "other:x:3000:3001:Web:/srv:/bin/ash").unwrap();
        assert_eq!((user.name.as_str(), user.uid, user.gid), ("web", 3000, 3001));
        assert_eq!((user.home.as_str(), user.shell.as_str()), ("/srv", "/bin/ash"));
        let bare = user_of("web", "web:x:1:2").unwrap();
        assert_eq!((bare.home.as_str(), bare.shell.as_str()), ("/", "/bin/sh"));
        for (home, expected) in [("srv", "/"), ("", "/"), ("/a\u{1b}[2J", "/")] {
            assert_eq!(user_of("web", &format!("web:x:1:2::{home}:")).unwrap().home, expected);
        }
        for line in ["", "web", "web:x:1", "web:x:-1:1", "web:x:+1:1", "web:x:1:4294967295", "web:x: 1:1"] {
            assert_eq!(user_of("web", line), None, "{line}");
        }
    }

    #[test]
    fn groups_of_getent_are_numbers() {
        assert_eq!(groups_of("web            7 8"), Some(vec![7, 8]));
        assert_eq!(groups_of("web"), Some(vec![]));
        assert_eq!(groups_of("web 7 x"), None);
        assert_eq!(groups_of("web 4294967295"), None);
    }
}
