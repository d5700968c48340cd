//! The start of a build session: an ephemeral machine whose supervisor is detached from its caller. Called by
//! `cli`.

use super::{Place, RunMode, StartRequest, prepare_process, root, start, warn};
use crate::config::build::{self as config, BuildOptions};
use crate::error::{Context, Error, Result};
use crate::host::cgroup_leaf;
use crate::image::recovery;
use crate::machine::Machine;
use crate::machine::build::Build;
use crate::machine::init::Personality;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::plan::init::Architecture;
use crate::state::id_ranges::RangeRetention;
use crate::state::record::Record;
use crate::supervisor::detached;
use crate::supervisor::handover::{FdName, Running};
use crate::sys::process::interrupt;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::path::Path;
use std::time::Duration;

/// A session to begin.
#[derive(Debug)]
pub(crate) struct SessionRequest {
    /// Its name. `None` for one with random digits.
    pub(crate) name: Option<Name>,
    /// The settings of its machine.
    pub(crate) options: BuildOptions,
    /// Its build user and its results.
    pub(crate) build: Build,
    /// The time after which it ends.
    pub(crate) lifetime: Option<Duration>,
    /// The processes with whose first it ends.
    pub(crate) with_processes: Vec<u32>,
}

/// Begins a session. It is running when the function returns its name.
///
/// # Errors
/// The reason why it does not run; then nothing of it is left.
pub(crate) fn begin(paths: &Paths, request: SessionRequest) -> Result<Name> {
    crate::host::require_root()?;
    recovery::recover(paths);
    let source = config::base(paths, &request.options.base)?;
    let mut options = request.options;
    if !options.in_memory && !takes_layers(&paths.storage()) {
        log::info!("changes are kept in memory: '{}' cannot hold layers", paths.storage().display());
        options.in_memory = true;
    }
    let name = match request.name {
        Some(name) => name,
        None => random_name(paths, &config::stem(&source))?,
    };
    let resolved = config::session(paths, &name, &source, &options)?;
    warn(&resolved);
    let personality = personality(&resolved.machine)?;
    let machine = resolved.machine.into_session(request.build, personality).map_err(|errors| {
        errors.into_iter().next().unwrap_or_else(|| Error::new("the session is not possible"))
    })?;
    let ends = ends(request.lifetime, &request.with_processes)?;
    prepare_process(RunMode::Run, &machine, None)?;
    detached::detach(paths, || {
        let mut running = launch(paths, &machine)?;
        ends.into_iter().for_each(|end| running.fds.insert(FdName::Until, end));
        Ok(running)
    })?;
    Ok(name)
}

/// Returns whether the file system of a directory, which may be missing, can hold the writable layer of an
/// overlay: another overlay and NFS cannot (`filesystems/overlayfs.rst`).
fn takes_layers(directory: &Path) -> bool {
    let existing = directory.ancestors().find_map(|path| rustix::fs::statfs(path).ok());
    existing.is_none_or(|stat| ![libc::OVERLAYFS_SUPER_MAGIC, libc::NFS_SUPER_MAGIC].contains(&stat.f_type))
}

/// Returns descriptors that are readable when the session has to end.
///
/// # Errors
/// A process that does not exist.
fn ends(lifetime: Option<Duration>, processes: &[u32]) -> Result<Vec<OwnedFd>> {
    let mut ends = Vec::new();
    for pid in processes {
        let missing = || Error::new(format!("process {pid} does not exist"));
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).ok_or_else(missing)?;
        ends.push(rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| missing())?);
    }
    if let Some(lifetime) = lifetime {
        let doing = || "cannot create the timer of the session";
        // A suspended host counts too.
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC).context(doing)?;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm it.
        let it_value = Timespec::try_from(lifetime.max(Duration::from_nanos(1)))
            .unwrap_or(Timespec { tv_sec: i64::MAX, ..zero });
        let at = Itimerspec { it_interval: zero, it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at).context(doing)?;
        ends.push(timer);
    }
    Ok(ends)
}

/// Launches the machine of a session, in its detached process.
fn launch(paths: &Paths, machine: &Machine) -> Result<Running> {
    let signals = interrupt::block()?;
    // It never reboots: the capability is dropped, and the stub init has no reboot.
    let arguments = vec!["supervise".into()];
    let request = StartRequest { paths, machine, keep: RangeRetention::WhileRunning, arguments };
    let running = start(request, Place::in_foreground, None)?;
    signals.keep();
    let record = &running.state.record;
    if let Some(payload) = record.payload_cgroup() {
        // Commands get cgroups beside that of PID 1.
        let separated = cgroup_leaf::separate(&payload, record.leader.unwrap_or_default());
        separated.unwrap_or_else(|error| log::debug!("{error}: commands are not measured"));
    } else {
        log::info!("processes that commands leave stay until the end: the session has no cgroup of its own");
    }
    Ok(running)
}

/// Returns the name of a new session: the base and six random digits of base 32.
fn random_name(paths: &Paths, stem: &str) -> Result<Name> {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    loop {
        let mut random = [0u8; 6];
        getrandom(&mut random, GetRandomFlags::empty()).context(|| "cannot get random numbers")?;
        let digit = |byte: u8| DIGITS.get(usize::from(byte % 32)).copied().unwrap_or(b'a');
        let digits: String = random.into_iter().map(|byte| char::from(digit(byte))).collect();
        let name = Name::new(&format!("{stem}-{digits}"))?;
        if !Record::is_written(paths, &name) {
            return Ok(name);
        }
    }
}

/// Returns the execution domain of a base: that of 32 bit for programs of the 32-bit variant of the processor.
fn personality(machine: &Machine) -> Result<Option<Personality>> {
    let tree = root::open(machine)?.tree;
    let architecture = tree.and_then(|tree| tree.architecture(Path::new("/bin/sh")));
    let is_variant = match std::env::consts::ARCH {
        "x86_64" => architecture == Some(Architecture::Named("x86")),
        "aarch64" => architecture == Some(Architecture::Named("arm")),
        _ => false,
    };
    Ok(is_variant.then_some(Personality::Linux32))
}
