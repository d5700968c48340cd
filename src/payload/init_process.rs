//! The steps of PID 1, or of a command in a running machine: the settings of a process before it executes the
//! payload. Called by `payload`.

use super::builder::{BuildInputs, Builder};
use super::{binfmt, rlimits, stub, user_lookup};
use crate::channel::{ChildEnd, FromPayload};
use crate::error::{Context, Error, Result};
use crate::plan::step::{BuildStep, InitStep, User};
use crate::sys::process::Loan;
use crate::sys::{descriptor, filter, interface, mount, process, pseudo_file, terminal};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::thread::{CapabilitySet, CpuSet, sched_setaffinity};
use std::ffi::{CString, OsString};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// `CLONE_NEWTIME`, which nix does not have.
const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The descriptors and settings of PID 1, or of a command in a running machine.
#[derive(Debug)]
pub(crate) enum InitInputs<'a> {
    /// A PID 1, without a procfs at first.
    Leads {
        /// Device and inode of Coracle's program.
        ourselves: Option<(u64, u64)>,
        /// The emulator for its programs, if it needs one.
        emulator: Option<BorrowedFd<'a>>,
        /// For creating the tree itself. `None` if the builder creates it.
        builds: Option<BuildInputs<'a>>,
    },
    /// A command in the running machine with this pidfd of its PID 1.
    Joins(BorrowedFd<'a>),
}

/// The state between steps.
#[derive(Debug)]
pub(crate) struct InitProcess<'a> {
    machine: Option<BorrowedFd<'a>>,
    builder: Option<Builder<'a>>,
    /// The emulator for its programs.
    emulator: Option<BorrowedFd<'a>>,
    /// Device and inode of Coracle's program, from the host's procfs.
    ourselves: Option<(u64, u64)>,
    /// The payload's user, if it was looked up.
    user: Option<User>,
    /// The memory of this process, if it is borrowed.
    loan: Option<&'a Loan>,
}

impl<'a> InitProcess<'a> {
    /// Creates the state before the first step.
    pub(crate) fn new(inputs: InitInputs<'a>) -> Self {
        let (machine, builder, ourselves, emulator) = match inputs {
            InitInputs::Leads { ourselves, emulator, builds } => {
                let builder = builds.map(|inputs| {
                    // Created nodes have exactly the modes of the plan. The umask of the payload is set later.
                    rustix::process::umask(Mode::empty());
                    Builder::new(inputs)
                });
                (None, builder, ourselves, emulator)
            }
            InitInputs::Joins(machine) => (Some(machine), None, process::own_program(), None),
        };
        Self { machine, builder, emulator, ourselves, user: None, loan: None }
    }

    /// Marks in a loan when its memory is not used any more.
    pub(crate) fn on_loan(self, loan: &'a Loan) -> Self {
        Self { loan: Some(loan), ..self }
    }

    /// Carries out one step of the tree.
    pub(crate) fn build(&mut self, step: &BuildStep, link: &ChildEnd) -> Result<()> {
        let builder = self.builder.as_mut();
        builder.ok_or_else(|| Error::new("this process builds no tree"))?.run(step, link)
    }

    /// Carries out one step, for the user that was looked up, if any.
    pub(crate) fn run(&mut self, step: &InitStep, link: &ChildEnd) -> Result<()> {
        match &self.user {
            None => self.run_planned(step, link),
            Some(user) => {
                let step = step.with_user(user);
                self.run_planned(&step, link)
            }
        }
    }

    fn run_planned(&mut self, step: &InitStep, link: &ChildEnd) -> Result<()> {
        match step {
            InitStep::Sync(sync) => link.sync(*sync),
            InitStep::Report(sync) => link.report(*sync),
            InitStep::BecomeRoot { is_root: true } => leave_groups(),
            InitStep::BecomeRoot { is_root: false } => become_user(0, 0, &[]),
            InitStep::Offline => enter(CloneFlags::CLONE_NEWNET).and_then(|()| interface::bring_up(c"lo")),
            InitStep::CgroupNamespace => enter(CloneFlags::CLONE_NEWCGROUP),
            InitStep::MountNamespace => mount_namespace(),
            InitStep::Build(_) => Err(Error::new("the steps of a tree are run one by one")),
            InitStep::SharedMounts => propagate("/", libc::MS_SHARED, "cannot make all mounts shared"),
            InitStep::ReceivedMounts(at) => {
                propagate(at, libc::MS_SLAVE, "cannot let a mount receive mounts")
            }
            InitStep::Hostname(name) => nix::unistd::sethostname(name).context(|| "cannot set it"),
            InitStep::Domainname(name) => {
                rustix::system::setdomainname(name.as_bytes()).context(|| "cannot set it")
            }
            InitStep::Keyring => keyring(),
            InitStep::Console => console(),
            InitStep::Streams => streams(),
            InitStep::Terminal => new_terminal(link),
            InitStep::Join { time } => self.join(*time),
            InitStep::TimeNamespace => time_namespace(),
            InitStep::Label(label) => pseudo_file::write(label.file, &label.text).map_err(Error::from),
            InitStep::CpuAffinity(numbers) => cpu_affinity(numbers),
            InitStep::Personality(domain) => process::set_personality(*domain).map_err(Error::from),
            InitStep::Emulator { name, magic } => {
                let emulator = self.emulator.ok_or_else(|| Error::new("this process has no emulator"))?;
                binfmt::register(emulator, name, magic)
            }
            InitStep::Limits(limits) => rlimits::apply(limits),
            InitStep::Capabilities(kept) => capabilities(*kept),
            InitStep::Inheritable(added) => inheritable(*added),
            InitStep::Ambient(raised) => ambient(*raised),
            InitStep::Confine(kept) => confine(*kept),
            InitStep::Replace => replace(link),
            InitStep::FindUser(lookup) => {
                self.user = Some(user_lookup::find(lookup, |program| self.refuse_ourselves(program))?);
                Ok(())
            }
            InitStep::CreateHome { path, uid, gid } => create_home(path, *uid, *gid),
            InitStep::User { uid, gid, groups } => become_user(*uid, *gid, groups),
            InitStep::NoNewPrivileges => rustix::thread::set_no_new_privs(true).map_err(Error::from),
            InitStep::Directory(path) => directory(path),
            InitStep::Home(path) => directory(path).or_else(|_| directory(Path::new("/"))),
            InitStep::CleanSlate { ignored_signals, passed_descriptors } => {
                clean_slate(*ignored_signals, *passed_descriptors)
            }
            InitStep::Filter(program) => filter::install(program).context(|| "cannot load it"),
            InitStep::Stub(settings) => stub::fork(settings),
            InitStep::Hold(settings) => stub::hold(settings),
            InitStep::Execute { programs, argv, is_login, environment } => {
                self.execute(programs, argv, *is_login, environment)
            }
        }
    }

    /// Joins all namespaces at once. If the machine has a user namespace, this process was cloned into its
    /// pid namespace. It is not dumpable before the guest's root gets any right over it, and stays so until
    /// the exec: no process of the guest can trace it, or read its descriptors or its program in procfs
    /// (ptrace(2)).
    fn join(&self, time: bool) -> Result<()> {
        process::set_dumpable(false);
        let machine = self.machine.ok_or_else(|| Error::new("there is no machine to join"))?;
        let mut all = CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP;
        all.set(CLONE_NEWTIME, time);
        let joined = match setns(machine, all) {
            // The machine shares the host's user namespace. Its root could trace this process, so this
            // process does not enter the pid namespace: only its replacement is cloned into it.
            Err(nix::errno::Errno::EINVAL) => {
                setns(machine, all & !CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)
            }
            joined => joined,
        };
        joined.context(|| "cannot join its namespaces")
    }

    /// Executes the first candidate that exists.
    fn execute(
        &self,
        programs: &[PathBuf],
        argv: &[OsString],
        is_login: bool,
        environment: &[CString],
    ) -> Result<()> {
        let text = |word: OsString| {
            CString::new(word.into_vec()).map_err(|_| Error::new("the command contains a NUL byte"))
        };
        let mut argv: Vec<CString> = argv.iter().cloned().map(text).collect::<Result<_>>()?;
        let mut missing = None;
        for program in programs {
            self.refuse_ourselves(program)?;
            let path = text(program.clone().into_os_string())?;
            if let Some(name) = argv.first_mut().filter(|_| is_login) {
                let mut login = OsString::from("-");
                login.push(program.file_name().unwrap_or_default());
                *name = text(login)?;
            }
            let settle = |settled| self.loan.iter().for_each(|loan| loan.set_settled(settled));
            let error = process::execute(&path, &argv, environment, || settle(true));
            settle(false);
            if error.kind() != std::io::ErrorKind::NotFound {
                return Err(error).context(|| format!("cannot execute '{}'", program.display()));
            }
            missing = Some(error);
        }
        let error = missing.unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
        let name = argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        Err(Error::from(error)
            .context(format!("cannot execute '{name}'"))
            .with_hint("the program or its interpreter is not in the tree; choose an existing one"))
    }

    /// Refuses Coracle's own program: a tree with a link to `/proc/self/exe` as its program would execute the
    /// host's binary and could then open it for writing (CVE-2019-5736). Other ways to it, for example as the
    /// interpreter of a script, lead to a file that the guest does not own, or, if root inside is root
    /// outside, to one on a read-only mount.
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

/// Creates a session: the payload has no terminal of the host as controlling terminal (TIOCSTI).
fn streams() -> Result<()> {
    rustix::process::setsid().context(|| "cannot create a session").map(|_| ())
}

/// Opens a new pty of the guest's own devpts. The type of the file system is checked: the guest may have
/// mounted another one there to read the caller's input.
fn new_terminal(link: &ChildEnd) -> Result<()> {
    const DEVPTS: i64 = 0x1cd1;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let ours = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).context(|| "cannot open a pty")?;
    let stat = rustix::fs::fstatfs(&ours).context(|| "cannot get the file system of the pty")?;
    if stat.f_type != DEVPTS {
        return Err(Error::new("the machine's /dev/pts is not a devpts")
            .with_hint("the guest has mounted another file system there; use -T for no terminal"));
    }
    rustix::pty::unlockpt(&ours).context(|| "cannot unlock the pty")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs =
        rustix::pty::ioctl_tiocgptpeer(&ours, flags).context(|| "cannot open the pty's other side")?;
    streams()?;
    terminal::take_control(theirs.as_fd()).context(|| "cannot control the terminal")?;
    link.send(&FromPayload::Terminal, Some(ours.as_fd()))?;
    standard_streams([theirs.as_fd(), theirs.as_fd(), theirs.as_fd()])
}

/// Becomes a user, and sets the parent death signal again: a change of ids cancels it
/// (PR_SET_PDEATHSIG(2const)). The report before the execution detects a supervisor that has
/// ended meanwhile.
///
/// The process keeps its capabilities for the next steps, the filter among them; the exec of the payload
/// drops them.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities until the exec")?;
    process::become_user(uid, gid, groups)?;
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot keep capabilities until the exec")?;
    process::die_with_parent();
    Ok(())
}

/// Leaves the supplementary groups of the caller. The parent death signal stays.
fn leave_groups() -> Result<()> {
    rustix::thread::set_thread_groups(&[]).context(|| "cannot set groups")
}

fn enter(namespace: CloneFlags) -> Result<()> {
    unshare(namespace).context(|| "cannot enter it")
}

/// Changes to the root that the builder has attached, and copies the mount namespace. The parent of the root
/// directory is the topmost mount over it.
fn mount_namespace() -> Result<()> {
    rustix::process::chroot("/..").context(|| "cannot change to the built root")?;
    enter(CloneFlags::CLONE_NEWNS)
}

fn propagate(mount_point: &str, kind: libc::c_ulong, doing: &'static str) -> Result<()> {
    mount::propagate(mount_point, kind).context(|| doing)
}

fn keyring() -> Result<()> {
    match process::join_new_session_keyring() {
        // A kernel without keyrings, or an outer filter that denies them: there is no keyring to share.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES)) => {
            Ok(())
        }
        result => result.context(|| "cannot join it"),
    }
}

fn console() -> Result<()> {
    rustix::process::setsid().context(|| "cannot create a session")?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // The node itself, not /dev/console: only the kernel creates nodes in a devpts.
    let console =
        rustix::fs::open("/dev/pts/0", flags, Mode::empty()).context(|| "cannot open the console")?;
    terminal::take_control(console.as_fd()).context(|| "cannot control the console")?;
    standard_streams([console.as_fd(), console.as_fd(), console.as_fd()])
}

fn standard_streams<'f>(streams: impl IntoIterator<Item = rustix::fd::BorrowedFd<'f>>) -> Result<()> {
    let mut streams = streams.into_iter();
    let mut next = || streams.next().ok_or_else(|| Error::new("a standard stream is missing"));
    rustix::stdio::dup2_stdin(next()?).context(|| "cannot set standard input")?;
    rustix::stdio::dup2_stdout(next()?).context(|| "cannot set standard output")?;
    rustix::stdio::dup2_stderr(next()?).context(|| "cannot set standard error")
}

/// Restricts this process to processors. The kernel ignores those that do not exist.
fn cpu_affinity(numbers: &[u16]) -> Result<()> {
    let mut processors = CpuSet::new();
    numbers.iter().for_each(|number| processors.set(usize::from(*number)));
    sched_setaffinity(None, &processors).map_err(|error| {
        let error = Error::from(error);
        error.with_hint("name processors of this host that its cpuset cgroups allow: see nproc(1)")
    })
}

/// Creates a time namespace with a boot time of zero. It takes effect with the exec (Linux 5.6,
/// time_namespaces(7)).
fn time_namespace() -> Result<()> {
    enter(CLONE_NEWTIME)?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let offset = format!("boottime {} 0\nmonotonic {} 0\n", -now.tv_sec, -now.tv_sec);
    // After the change of ids this process is not dumpable, so its files in /proc belong to the host's root.
    // No other process of the guest exists yet.
    process::set_dumpable(true);
    let written = pseudo_file::write("/proc/self/timens_offsets", offset);
    process::set_dumpable(false);
    written.context(|| "cannot set its offsets")
}

/// Drops all other capabilities from the bounding set and clears the inheritable set. Both determine the
/// capabilities of root after the exec (capabilities(7)). A new user namespace starts with all capabilities,
/// also with those that the supervisor lacks.
fn capabilities(kept: u64) -> Result<()> {
    for number in (0..64).filter(|number| kept >> number & 1 == 0) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel has no capability of this number or above.
            Err(rustix::io::Errno::INVAL) => break,
            dropped => dropped.context(|| format!("cannot drop capability {number}"))?,
        }
    }
    rustix::thread::clear_ambient_capability_set().context(|| "cannot clear ambient capabilities")?;
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets).context(|| "cannot clear inheritable capabilities")
}

/// Raises ambient capabilities, which must be permitted and inheritable (capabilities(7)).
fn ambient(raised: u64) -> Result<()> {
    inheritable(raised)?;
    for number in (0..64).filter(|number| raised >> number & 1 == 1) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .context(|| format!("cannot raise capability {number}"))?;
    }
    Ok(())
}

/// Adds capabilities to the inheritable set.
fn inheritable(added: u64) -> Result<()> {
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.inheritable |= CapabilitySet::from_bits_retain(added);
    rustix::thread::set_capabilities(None, sets).context(|| "cannot set inheritable capabilities")
}

/// Drops all other capabilities at once.
fn confine(kept: u64) -> Result<()> {
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.permitted &= CapabilitySet::from_bits_retain(kept);
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot drop capabilities")
}

/// Continues in a clone that is a child of the parent, and ends this process.
fn replace(link: &ChildEnd) -> Result<()> {
    // All namespaces are joined. A process that traces the clone could reach the host through an open
    // descriptor.
    descriptor::close_from(3, link.as_fd());
    match process::clone_sibling()? {
        process::Side::Child => {
            process::die_with_parent();
            Ok(())
        }
        process::Side::Parent(child) => {
            let _ = link.send(&FromPayload::Replaced, Some(child.pidfd.as_fd()));
            process::exit_now(0)
        }
    }
}

/// Creates a home directory with its parents unless there is a file of this path. The root directory is that
/// of the machine. Only the created directory gets another owner: the path is one of the guest.
///
/// # Errors
/// A path with `..`, whose directory may exist once its parents do.
fn create_home(path: &Path, uid: u32, gid: u32) -> Result<()> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let doing = || format!("cannot create '{}'", path.display());
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::new("a home directory contains no '..'")).context(doing);
    }
    let mut builder = DirBuilder::new();
    builder.mode(0o755);
    if let Some(above) = path.parent() {
        builder.recursive(true).create(above).context(doing)?;
    }
    match builder.recursive(false).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => {
            created.context(doing)?;
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).context(doing)
        }
    }
}

fn directory(path: &Path) -> Result<()> {
    rustix::process::chdir(path).context(|| format!("cannot enter '{}'", path.display()))?;
    // "(unreachable)…": a working directory outside the root would give access to the host (CVE-2024-21626).
    let reached = rustix::process::getcwd(Vec::new()).context(|| "cannot get the working directory")?;
    if reached.to_bytes().starts_with(b"/") { Ok(()) } else { Err(Error::new("it is outside the machine")) }
}

fn clean_slate(ignored_signals: u64, passed_descriptors: u32) -> Result<()> {
    process::reset_signals(ignored_signals);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    descriptor::pass_on(passed_descriptors).context(|| "cannot pass on descriptors")?;
    let first = i32::try_from(passed_descriptors).map_or(i32::MAX, |count| count.saturating_add(3));
    descriptor::close_on_exec_from(first).context(|| "cannot close descriptors")
}
