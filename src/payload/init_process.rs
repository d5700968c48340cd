//! PID 1's own steps: what a process sets for itself before it becomes the payload.

use super::{check, limits, stub};
use crate::channel::{ChildEnd, FromPayload};
use crate::error::{Context, Error, Result};
use crate::plan::step::InitStep;
use crate::sys::{descriptor, filter, mount, process, terminal};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::thread::CapabilitySet;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// `CLONE_NEWTIME`, which nix does not have.
const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The state between steps.
#[derive(Debug)]
pub struct InitProcess {
    machine: Option<OwnedFd>,
    /// Device and inode of the program we are, as the host's procfs tells.
    ourselves: Option<(u64, u64)>,
}

impl InitProcess {
    /// Before the first step. `machine` is a pidfd of the PID 1 to join, where there is one.
    pub fn new(machine: Option<OwnedFd>) -> Self {
        use std::os::unix::fs::MetadataExt;
        let ourselves = std::fs::metadata("/proc/self/exe").map(|data| (data.dev(), data.ino()));
        Self { machine, ourselves: ourselves.ok() }
    }

    /// Does one step.
    pub fn run(&self, step: &InitStep, link: &ChildEnd) -> Result<()> {
        match step {
            InitStep::Sync(sync) => link.sync(*sync),
            InitStep::BecomeRoot => become_user(0, 0, &[]),
            InitStep::CgroupNamespace => enter(CloneFlags::CLONE_NEWCGROUP),
            InitStep::MountNamespace => mount_namespace(),
            InitStep::Hostname(name) => {
                nix::unistd::sethostname(name).map_err(std::io::Error::from).context(|| "cannot set it")
            }
            InitStep::Keyring => keyring(),
            InitStep::Console => console(),
            InitStep::Streams => streams(),
            InitStep::Terminal => new_terminal(link),
            InitStep::Join { time } => self.join(*time),
            InitStep::TimeNamespace => time_namespace(),
            InitStep::Label(label) => std::fs::write(label.file, &label.text).context(|| "cannot ask for it"),
            InitStep::Limits(limits) => limits::apply(limits),
            InitStep::Capabilities(kept) => capabilities(*kept),
            InitStep::Confine(kept) => confine(*kept),
            InitStep::Replace => replace(link),
            InitStep::User { uid, gid, groups } => become_user(*uid, *gid, groups),
            InitStep::NoNewPrivileges => {
                rustix::thread::set_no_new_privs(true).context(|| "cannot give them up")
            }
            InitStep::Directory(path) => directory(path),
            InitStep::CleanSlate => clean_slate(),
            InitStep::Filter(program) => check("cannot load it", filter::install(program)),
            InitStep::Stub => stub::fork(),
            InitStep::Execute { programs, argv, environment } => self.execute(programs, argv, environment),
        }
    }

    /// Joins all namespaces at once. Where there is a user namespace among them, the pid namespace is
    /// ours from birth. Before the guest's root has
    /// any right over us we are not dumpable, and stay so up to the exec: none of its processes can
    /// trace us, nor look at our descriptors or our program through procfs (ptrace(2)).
    fn join(&self, time: bool) -> Result<()> {
        process::set_dumpable(false);
        let machine = self.machine.as_ref().ok_or_else(|| Error::new("there is no machine to join"))?;
        let mut all = CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP;
        all.set(CLONE_NEWTIME, time);
        let joined = match setns(machine, all) {
            // A machine without a user namespace of its own: its is ours already.
            // Its root could trace us, so we are not born into its pid namespace: who replaces us is.
            Err(nix::errno::Errno::EINVAL) => {
                setns(machine, all & !CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)
            }
            joined => joined,
        };
        joined.map_err(std::io::Error::from).context(|| "cannot join its namespaces")
    }

    /// Executes the first candidate that exists.
    fn execute(&self, programs: &[PathBuf], argv: &[OsString], environment: &[CString]) -> Result<()> {
        let text = |word: OsString| {
            CString::new(word.into_vec()).map_err(|_| Error::new("a word of the command has a NUL in it"))
        };
        let argv: Vec<CString> = argv.iter().cloned().map(text).collect::<Result<_>>()?;
        let mut missing = None;
        for program in programs {
            self.refuse_ourselves(program)?;
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
            .with_hint("the program, or the interpreter it needs, is not in the tree; name one that is"))
    }

    /// A tree whose program is a link to `/proc/self/exe` would execute the host's binary and could
    /// then open it for writing (CVE-2019-5736). What leads there another way, as the interpreter of
    /// a script, finds a file that is not the guest's, or where root inside is root outside, one on a
    /// read-only mount.
    fn refuse_ourselves(&self, program: &Path) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let theirs = std::fs::metadata(program).map(|data| (data.dev(), data.ino()));
        if self.ourselves.is_some() && self.ourselves == theirs.ok() {
            return Err(Error::new(format!("'{}' is the host's own program", program.display()))
                .with_hint("the tree's program is a link to /proc/self/exe; do not trust this tree"));
        }
        Ok(())
    }
}

/// A session of its own: no terminal of ours is controlled from inside (TIOCSTI).
fn streams() -> Result<()> {
    rustix::process::setsid().context(|| "cannot begin a session").map(|_| ())
}

/// A new pty of the guest's own devpts. That it is one is checked: whoever has put something else
/// there shall not get our terminal's bytes.
fn new_terminal(link: &ChildEnd) -> Result<()> {
    const DEVPTS: i64 = 0x1cd1;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let ours = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).context(|| "cannot open a pty")?;
    let stat = rustix::fs::fstatfs(&ours).context(|| "cannot look at the pty")?;
    if stat.f_type != DEVPTS {
        return Err(Error::new("the machine's /dev/pts is no devpts")
            .with_hint("the guest has mounted something else there; use -T for no terminal"));
    }
    rustix::pty::unlockpt(&ours).context(|| "cannot unlock the pty")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs =
        rustix::pty::ioctl_tiocgptpeer(&ours, flags).context(|| "cannot open the pty's other side")?;
    streams()?;
    check("cannot control the terminal", terminal::take_control(theirs.as_fd()))?;
    link.send(&FromPayload::Terminal, Some(ours.as_fd()))?;
    standard_streams([theirs.as_fd(), theirs.as_fd(), theirs.as_fd()])
}

/// Becomes a user, and asks again to die with the supervisor: a change of ids takes that back
/// (PR_SET_PDEATHSIG(2const)). The next meeting finds one that is gone already.
///
/// Capabilities are kept for what follows, the filter among it; the exec of the payload takes them.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities until the exec")?;
    process::become_user(uid, gid, groups)?;
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot keep capabilities until the exec")?;
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
    enter(CLONE_NEWTIME)?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let offset = format!("boottime {} 0\nmonotonic {} 0\n", -now.tv_sec, -now.tv_sec);
    // After the change of ids our files in /proc are root's of the host, as of any process that
    // others must not look into. Nobody is there yet who could.
    process::set_dumpable(true);
    let written = std::fs::write("/proc/self/timens_offsets", offset);
    process::set_dumpable(false);
    written.context(|| "cannot set its offsets")
}

/// Takes every capability that is not kept from the bounding set and empties the inheritable one.
/// What root has after the exec follows from both (capabilities(7)). A new user namespace begins with
/// all there are, those that we lack ourselves among them.
fn capabilities(kept: u64) -> Result<()> {
    for number in (0..64).filter(|number| kept >> number & 1 == 0) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel knows no capability of this number and none above.
            Err(rustix::io::Errno::INVAL) => break,
            dropped => dropped.context(|| format!("cannot drop capability {number}"))?,
        }
    }
    rustix::thread::clear_ambient_capability_set().context(|| "cannot clear ambient capabilities")?;
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets).context(|| "cannot clear inheritable capabilities")
}

/// Gives up every capability that is not kept, now.
fn confine(kept: u64) -> Result<()> {
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.permitted &= CapabilitySet::from_bits_retain(kept);
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot give capabilities up")
}

/// Goes on as a child of our parent, and ends ourselves.
fn replace(link: &ChildEnd) -> Result<()> {
    // All that is joined is joined; what is left open would lead whoever traces us to the host.
    descriptor::close_from(3, link.as_fd());
    match process::clone_sibling()? {
        process::Side::Child => {
            super::die_with_supervisor();
            Ok(())
        }
        process::Side::Parent(child) => {
            let _ = link.send(&FromPayload::Replaced, Some(child.pidfd.as_fd()));
            process::exit_now(0)
        }
    }
}

fn directory(path: &Path) -> Result<()> {
    rustix::process::chdir(path).context(|| format!("cannot enter '{}'", path.display()))?;
    // "(unreachable)…": a working directory outside the root would lead to the host (CVE-2024-21626).
    let reached = rustix::process::getcwd(Vec::new()).context(|| "cannot tell the working directory")?;
    if reached.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Error::new("it is outside the machine")) }
}

fn clean_slate() -> Result<()> {
    process::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    check("cannot close descriptors", descriptor::close_on_exec_from(3))
}
