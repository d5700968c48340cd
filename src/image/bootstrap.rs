//! Creates the root file system of a distribution by the programs of its recipe, as root of the host in mount,
//! pid, ipc and uts namespaces of their own: a killed command takes them, and their mounts, with it. Called by
//! `create`.

use crate::error::{Context, Error, Result};
use crate::machine::recipe::{Recipe, RecipeStep, RecipeValues};
use crate::paths::Paths;
use crate::sys::descriptor;
use crate::sys::mount::{self, MountAttributes};
use crate::sys::process::{self, Ended, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::VecDeque;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Called with each line of the programs, and at least ten times per second with `None`.
pub(crate) type BootstrapOutput<'a> = dyn FnMut(Option<&str>) -> Result<()> + 'a;

/// The namespaces of the programs.
const NAMESPACES: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// The places of programs, in the order of the search.
const PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// The environment of the programs. Further variables are those of the caller.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("TERM", "dumb"),
];
/// The variables of the caller, with the network that the programs use.
const PASSED_ON: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
];
/// The number of lines that are kept for the message about a failure, and the longest line, bytes.
const KEPT_LINES: usize = 200;
const LONGEST_LINE: usize = 4096;
/// The time between two checks for an interruption.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// The exit status of a child that did not execute its program.
const NOT_EXECUTED: i32 = 127;

/// The programs of a recipe on this host.
#[derive(Debug)]
pub(super) struct Bootstrap<'a> {
    recipe: &'a Recipe,
    values: &'a RecipeValues,
    programs: Vec<PathBuf>,
    keyring: PathBuf,
}

impl<'a> Bootstrap<'a> {
    /// Finds the programs and keys of a recipe.
    ///
    /// # Errors
    /// A missing program or missing keys: the hint has the package.
    pub(super) fn find(paths: &Paths, recipe: &'a Recipe, values: &'a RecipeValues) -> Result<Self> {
        let programs = recipe.steps.iter().map(|step| find_program(paths, step)).collect::<Result<_>>()?;
        let places: Vec<PathBuf> = values.keyrings(recipe).iter().map(|place| paths.join(place)).collect();
        let Some(keyring) = places.iter().find(|place| place.exists()).cloned() else {
            let places: Vec<String> = places.iter().map(|place| format!("'{}'", place.display())).collect();
            return Err(Error::new(format!(
                "the keys of {} are missing: {}",
                recipe.name,
                places.join(" or ")
            ))
            .with_hint(format!("install the package '{}'", recipe.keyring_package)));
        };
        Ok(Self { recipe, values, programs, keyring })
    }

    /// Runs the programs, which write into the empty directory `tree`.
    ///
    /// # Errors
    /// A program that fails: the message has its cause. An error of `output`: the programs are killed.
    pub(super) fn run(&self, tree: &Path, output: &mut BootstrapOutput<'_>) -> Result<()> {
        let (tree_text, keyring) = (text(tree)?, text(&self.keyring)?);
        for (step, program) in self.recipe.steps.iter().zip(&self.programs) {
            let arguments = self.values.arguments(step, tree_text, keyring);
            log::debug!("executing {} {}", program.display(), arguments.join(" "));
            run(program, &arguments, output).map_err(|error| {
                error.context(format!("'{}' has not created the root file system", step.program))
            })?;
        }
        Ok(())
    }
}

fn find_program(paths: &Paths, step: &RecipeStep) -> Result<PathBuf> {
    let places = PLACES.iter().map(|place| paths.join(place).join(&step.program));
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        Error::new(format!("the program '{}' is not installed", step.program))
            .with_hint(format!("install the package '{}'", step.package))
    })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(format!("'{}' is not UTF-8", path.display())))
}

/// Runs a program in namespaces of its own.
fn run(program: &Path, arguments: &[String], output: &mut BootstrapOutput<'_>) -> Result<()> {
    let word = |text: &[u8]| CString::new(text).map_err(|_| Error::new("an argument has a zero byte"));
    let path = word(program.as_os_str().as_bytes())?;
    let mut argv = vec![path.clone()];
    for argument in arguments {
        argv.push(word(argument.as_bytes())?);
    }
    let environment = environment()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/null'")?;
    let (lines, to) = pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe")?;
    let child = match process::clone(u64::from(NAMESPACES.cast_unsigned()), None)? {
        Side::Parent(child) => child,
        Side::Child => {
            // Its end is the parent's.
            drop(lines);
            let failed = enter(&null, &to).map_or_else(
                |error| error.to_string(),
                |()| process::execute(&path, &argv, &environment, || {}).to_string(),
            );
            let _ = rustix::io::write(&to, failed.as_bytes());
            process::exit_now(NOT_EXECUTED)
        }
    };
    drop((to, null));
    let mut kept = Lines::default();
    match kept.read(&lines, output) {
        Ok(()) => kept.result(process::wait(child.pidfd.as_fd())?),
        Err(error) => {
            process::kill_child(Some(child.pidfd));
            Err(error)
        }
    }
}

fn environment() -> Result<Vec<CString>> {
    let own = ENVIRONMENT.iter().map(|(name, value)| format!("{name}={value}").into_bytes());
    let passed_on = PASSED_ON.iter().filter_map(|name| {
        let value = std::env::var_os(name)?;
        Some([name.as_bytes(), b"=", value.as_bytes()].concat())
    });
    own.chain(passed_on)
        .map(|variable| CString::new(variable).map_err(|_| Error::new("a variable has a zero byte")))
        .collect()
}

/// Sets this process, the init of a pid namespace, up: with a procfs of its own, without a terminal, and without
/// descriptors but its output.
fn enter(null: &OwnedFd, output: &OwnedFd) -> Result<()> {
    process::die_with_parent();
    let mut ends = [PollFd::new(output, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut ends, Some(&now)).is_ok_and(|ready| ready > 0) {
        return Err(Error::new("the parent has ended"));
    }
    process::reset_signals(u64::MAX);
    rustix::process::setsid().context(|| "cannot create a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    mount::propagate("/", libc::MS_PRIVATE).context(|| "cannot separate the mounts")?;
    let attributes = MountAttributes::INERT;
    let procfs = mount::new_file_system("proc", &[], attributes)
        .map_err(|error| error.context("cannot create a procfs"))?;
    mount::open_directory(Path::new("/proc")).and_then(|place| {
        mount::attach(procfs.mount.as_fd(), place.as_fd()).context(|| "cannot mount a procfs")
    })?;
    rustix::process::chdir("/").context(|| "cannot change the directory")?;
    descriptor::place(null.as_fd(), 0)
        .and_then(|()| descriptor::place(output.as_fd(), 1))
        .and_then(|()| descriptor::place(output.as_fd(), 2))
        .and_then(|()| descriptor::close_on_exec_from(3))
        .context(|| "cannot pass the output on")
}

/// The last lines of a program.
#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    line: Vec<u8>,
}

impl Lines {
    /// Reads lines until the end of the output.
    fn read(&mut self, from: &OwnedFd, output: &mut BootstrapOutput<'_>) -> Result<()> {
        let mut part = [0; 4096];
        loop {
            match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&INTERVAL)) {
                Ok(0) | Err(Errno::INTR) => {
                    output(None)?;
                    continue;
                }
                ready => ready.context(|| "cannot wait for a program")?,
            };
            let length = rustix::io::read(from, &mut part).context(|| "cannot read from a program")?;
            if length == 0 {
                return self.end_line(output);
            }
            for byte in part.get(..length).unwrap_or_default() {
                match byte {
                    b'\n' | b'\r' => self.end_line(output)?,
                    byte if self.line.len() < LONGEST_LINE => self.line.push(*byte),
                    _ => {}
                }
            }
        }
    }

    fn end_line(&mut self, output: &mut BootstrapOutput<'_>) -> Result<()> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim().to_owned();
        if line.is_empty() {
            return output(None);
        }
        log::debug!("{line}");
        output(Some(&line))?;
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
        Ok(())
    }

    /// Returns the error of a program that has failed.
    fn result(&self, ended: Ended) -> Result<()> {
        let how = match ended {
            Ended::Exited(0) => return Ok(()),
            Ended::Exited(status) => format!("it failed with exit status {status}"),
            Ended::Killed(signal) => format!("it was killed by signal {signal}"),
        };
        // The first error is the cause of the others.
        let is_error = |line: &&String| {
            let line = line.to_ascii_lowercase();
            ["e: ", "err:", "error", "fatal"].iter().any(|word| line.starts_with(word))
        };
        let cause = self.kept.iter().find(is_error).or(self.kept.back());
        Err(Error::new(cause.map_or_else(|| how.clone(), |cause| format!("{how}: {cause}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_program_is_the_cause() {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&to, b"I: begins\rE: no such suite\n\nE: cannot go on\nlast").unwrap();
        drop(to);
        let (mut lines, mut shown) = (Lines::default(), Vec::new());
        lines
            .read(&from, &mut |line| {
                shown.extend(line.map(str::to_owned));
                Ok(())
            })
            .unwrap();
        assert_eq!(shown, ["I: begins", "E: no such suite", "E: cannot go on", "last"]);
        assert_eq!(lines.result(Ended::Exited(0)), Ok(()));
        let error = lines.result(Ended::Exited(25)).unwrap_err().to_string();
        assert_eq!(error, "it failed with exit status 25: E: no such suite");
        let error = Lines::default().result(Ended::Killed(9)).unwrap_err().to_string();
        assert_eq!(error, "it was killed by signal 9");
    }

    #[test]
    fn an_interruption_ends_the_wait() {
        let (from, _to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let error = Lines::default().read(&from, &mut |_| Err(Error::new("interrupted"))).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }
}
