//! PID 1's own steps: what a process sets for itself before it becomes the payload.

use super::{check, stub};
use crate::error::{Context, Error, Result};
use crate::link::ChildEnd;
use crate::plan::step::LeadStep;
use crate::sys::{descriptor, filter, mount, process, terminal};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Standard streams given to the payload instead of a console.
pub type Streams = Option<[OwnedFd; 3]>;

/// The state between steps.
#[derive(Debug)]
pub struct Session {
    streams: Streams,
}

impl Session {
    /// Before the first step.
    pub fn new(streams: Streams) -> Self {
        Self { streams }
    }

    /// Does one step.
    pub fn run(&mut self, step: &LeadStep, link: &ChildEnd) -> Result<()> {
        match step {
            LeadStep::Meet(sync) => link.meet(*sync),
            LeadStep::BecomeRoot => become_user(0, 0, &[]),
            LeadStep::CgroupNamespace => enter(CloneFlags::CLONE_NEWCGROUP),
            LeadStep::MountNamespace => mount_namespace(),
            LeadStep::Hostname(name) => {
                nix::unistd::sethostname(name).map_err(std::io::Error::from).context(|| "cannot set it")
            }
            LeadStep::Keyring => keyring(),
            LeadStep::Console => console(),
            LeadStep::Streams => self.take_streams(),
            LeadStep::TimeNamespace => time_namespace(),
            LeadStep::Limits => limits(),
            LeadStep::Capabilities(kept) => capabilities(*kept),
            LeadStep::User { uid, gid, groups } => {
                // Loading the filter takes CAP_SYS_ADMIN, without `no_new_privs`; the exec drops all.
                rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities")?;
                become_user(*uid, *gid, groups)
            }
            LeadStep::NoNewPrivileges => {
                rustix::thread::set_no_new_privs(true).context(|| "cannot give them up")
            }
            LeadStep::Directory(path) => directory(path),
            LeadStep::CleanSlate => clean_slate(),
            LeadStep::Filter(program) => load(program),
            LeadStep::Stub => stub::fork(),
            LeadStep::Execute { programs, argv, environment } => execute(programs, argv, environment),
        }
    }

    fn take_streams(&mut self) -> Result<()> {
        // A session of its own: no terminal of ours is controlled from inside (TIOCSTI).
        rustix::process::setsid().context(|| "cannot begin a session")?;
        match self.streams.take() {
            Some(streams) => standard_streams(streams.iter().map(AsFd::as_fd)),
            None => Ok(()),
        }
    }
}

/// Becomes a user, and asks again to die with the supervisor: a change of ids takes that back
/// (PR_SET_PDEATHSIG(2const)). The next meeting finds one that is gone already.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    process::become_user(uid, gid, groups)?;
    super::die_with_supervisor();
    Ok(())
}

fn enter(namespace: CloneFlags) -> Result<()> {
    unshare(namespace).map_err(std::io::Error::from).context(|| "cannot enter it")
}

fn mount_namespace() -> Result<()> {
    enter(CloneFlags::CLONE_NEWNS)?;
    let root = mount::open_directory(Path::new("/"))?;
    check("cannot share its mounts", mount::propagate(root.as_fd(), libc::MS_SHARED))
}

fn keyring() -> Result<()> {
    match process::join_new_session_keyring() {
        // A kernel without keyrings, or a filter above us that denies them: there is none to share.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES)) => {
            Ok(())
        }
        result => check("cannot join it", result),
    }
}

fn console() -> Result<()> {
    rustix::process::setsid().context(|| "cannot begin a session")?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // The node itself, not /dev/console: in our own devpts nobody else can have put it there.
    let console =
        rustix::fs::open("/dev/pts/0", flags, Mode::empty()).context(|| "cannot open the console")?;
    check("cannot control the console", terminal::take_control(console.as_fd()))?;
    standard_streams([console.as_fd(), console.as_fd(), console.as_fd()])
}

fn standard_streams<'f>(streams: impl IntoIterator<Item = rustix::fd::BorrowedFd<'f>>) -> Result<()> {
    let mut streams = streams.into_iter();
    let mut next = || streams.next().ok_or_else(|| Error::new("a standard stream is missing"));
    rustix::stdio::dup2_stdin(next()?).context(|| "cannot set standard input")?;
    rustix::stdio::dup2_stdout(next()?).context(|| "cannot set standard output")?;
    rustix::stdio::dup2_stderr(next()?).context(|| "cannot set standard error")
}

/// Takes effect with the exec (Linux 5.6, time_namespaces(7)).
fn time_namespace() -> Result<()> {
    enter(CloneFlags::from_bits_retain(0x80))?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let offset = format!("boottime {} 0\nmonotonic {} 0\n", -now.tv_sec, -now.tv_sec);
    // After the change of ids our files in /proc are root's of the host, as of any process that
    // others must not look into. Nobody is there yet who could.
    process::set_dumpable(true);
    let written = std::fs::write("/proc/self/timens_offsets", offset);
    process::set_dumpable(false);
    written.context(|| "cannot set its offsets")
}

/// The kernel's boot defaults (`include/asm-generic/resource.h`), so that a guest is the same
/// wherever it was started from. What the host's PID 1 has is the ceiling.
fn limits() -> Result<()> {
    let infinite = RLIM_INFINITY;
    for (resource, soft, hard) in [
        (Resource::RLIMIT_CPU, infinite, infinite),
        (Resource::RLIMIT_FSIZE, infinite, infinite),
        (Resource::RLIMIT_DATA, infinite, infinite),
        (Resource::RLIMIT_STACK, 8 << 20, infinite),
        (Resource::RLIMIT_CORE, 0, infinite),
        (Resource::RLIMIT_RSS, infinite, infinite),
        (Resource::RLIMIT_NOFILE, 1024, 524_288),
        (Resource::RLIMIT_AS, infinite, infinite),
        (Resource::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
        (Resource::RLIMIT_LOCKS, infinite, infinite),
        (Resource::RLIMIT_MSGQUEUE, 819_200, 819_200),
        (Resource::RLIMIT_NICE, 0, 0),
        (Resource::RLIMIT_RTPRIO, 0, 0),
        (Resource::RLIMIT_RTTIME, infinite, infinite),
    ] {
        // In a user namespace a hard limit cannot be raised: what there is then stays the ceiling.
        if setrlimit(resource, soft, hard).is_err() {
            let (_, ceiling) = nix::sys::resource::getrlimit(resource)
                .map_err(std::io::Error::from)
                .context(|| format!("cannot read {resource:?}"))?;
            setrlimit(resource, soft.min(ceiling), hard.min(ceiling))
                .map_err(std::io::Error::from)
                .context(|| format!("cannot set {resource:?}"))?;
        }
    }
    Ok(())
}

/// Takes every capability not kept from the bounding set and empties the inheritable one. What
/// root has after the exec follows from both (capabilities(7)).
fn capabilities(kept: u64) -> Result<()> {
    let kept = CapabilitySet::from_bits_retain(kept);
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) if !kept.contains(one) => rustix::thread::remove_capability_from_bounding_set(one)
                .context(|| format!("cannot drop capability {number}"))?,
            Ok(_) => {}
            // The kernel knows no capability of this number and none above.
            Err(_) => break,
        }
    }
    rustix::thread::clear_ambient_capability_set().context(|| "cannot clear ambient capabilities")?;
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets).context(|| "cannot clear inheritable capabilities")
}

fn directory(path: &Path) -> Result<()> {
    rustix::process::chdir(path).context(|| format!("cannot enter '{}'", path.display()))?;
    // "(unreachable)…": a working directory outside the root would lead to the host (CVE-2024-21626).
    let reached = rustix::process::getcwd(Vec::new()).context(|| "cannot tell the working directory")?;
    if reached.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Error::new("it is outside the machine")) }
}

/// Loads the filter with the capability it takes, which another user than root has not in effect.
fn load(program: &[filter::Instruction]) -> Result<()> {
    let sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    let mut able = sets;
    able.effective |= able.permitted & CapabilitySet::SYS_ADMIN;
    rustix::thread::set_capabilities(None, able).context(|| "cannot use CAP_SYS_ADMIN")?;
    check("cannot load it", filter::install(program))?;
    if !rustix::process::geteuid().is_root() {
        // For a stub init, which executes nothing. A filter may deny the call: the payload's exec
        // drops them all the same.
        let none = CapabilitySet::empty();
        let nothing = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        let _ = rustix::thread::set_capabilities(None, nothing);
    }
    Ok(())
}

fn clean_slate() -> Result<()> {
    process::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    check("cannot close descriptors", descriptor::close_on_exec_from(3))
}

/// Executes the first candidate that exists.
fn execute(programs: &[PathBuf], argv: &[OsString], environment: &[CString]) -> Result<()> {
    let text = |word: OsString| {
        CString::new(word.into_vec()).map_err(|_| Error::new("a word of the command has a NUL in it"))
    };
    let argv: Vec<CString> = argv.iter().cloned().map(text).collect::<Result<_>>()?;
    let mut missing = None;
    for program in programs {
        refuse_own_binary(program)?;
        let path = text(program.clone().into_os_string())?;
        let error = process::execute(&path, &argv, environment);
        if error.kind() != std::io::ErrorKind::NotFound {
            return Err(error).context(|| format!("cannot execute '{}'", program.display()));
        }
        missing = Some(error);
    }
    let error = missing.unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
    let name = argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    Err(Error::from(error)
        .context(format!("cannot execute '{name}'"))
        .hint("the program, or the interpreter it needs, is not in the tree; name one that is"))
}

/// A tree whose program is a link to `/proc/self/exe` would execute the host's binary and could
/// then open it for writing (CVE-2019-5736).
fn refuse_own_binary(program: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(ours), Ok(theirs)) = (std::fs::metadata("/proc/self/exe"), std::fs::metadata(program)) else {
        return Ok(());
    };
    if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
        return Err(Error::new(format!("'{}' is the host's own program", program.display()))
            .hint("the tree's program is a link to /proc/self/exe; do not trust this tree"));
    }
    Ok(())
}
