//! The registration of a machine with machined: at its start, after its reboot, and after a restart of
//! machined. Called by `launch` and the event loop. Also distinguishes machined's SIGTERM after the end of
//! PID 1 from a stop request.

use crate::error::{Context, Error, Result};
use crate::host::runtime::runtime;
use crate::host::systemd::machined;
use crate::host::systemd::machined::{PreviousOwner, Registration, RegistrationResult};
use crate::host::systemd::session::BusSession;
use crate::host::systemd::units;
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;
use crate::paths::running_systemd;
use crate::state::record::Record;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};

/// Registers the machine of a record with the pidfd of its PID 1. The caller must be the supervisor: machined
/// sends the SIGTERM of `machinectl terminate` to it.
///
/// # Errors
/// A running machine of another manager with the same name, or an error of machined.
pub(crate) fn register(
    bus: &BusSession,
    paths: &Paths,
    record: &Record,
    leader: BorrowedFd<'_>,
    machine_id: Id128,
    previous: PreviousOwner,
) -> Result<RegistrationResult> {
    block_sigterm()?;
    let pid = record.leader.ok_or_else(|| Error::new("the machine has no PID 1"))?;
    let template = record.unit.as_deref().and_then(ServiceTemplate::of_unit);
    let manager = record.manager.as_deref();
    let registration = Registration {
        paths,
        name: &record.name,
        machine_id,
        leader: pid,
        leader_pidfd: leader,
        root: &record.root,
        ifindex: record.host_ifindex,
        unit: record.unit.as_deref(),
        manager: manager.unwrap_or_else(|| template.unwrap_or(ServiceTemplate::Coracle).manager()),
        previous,
    };
    bus.block_on(machined::register(&bus.connection(), &registration))
}

/// Unregisters a machine from machined during its reboot, while it has no PID 1.
pub(crate) fn unregister(record: &Record) {
    let Ok(runtime) = runtime() else { return };
    if let Err(error) = runtime.block_on(machined::unregister(&record.name, record.unit.as_deref())) {
        log::debug!("{error}, ignoring");
    }
}

/// Blocks SIGTERM: from now on machined may send it at any moment, and a killed supervisor could not report
/// the failure of its launch.
fn block_sigterm() -> Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.thread_block().context(|| "cannot block SIGTERM")
}

/// Returns whether a SIGTERM of process `sender` is machined's reaction to the end of PID 1, and not a stop
/// request. SYSTEMD(258): machined terminates the supervisor of every machine after the end of its leader,
/// also for a reboot.
pub(crate) fn is_from_machined(sender: u32, leader: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ended = [PollFd::new(&leader, PollFlags::IN)];
    poll(&mut ended, Some(&now)).is_ok_and(|count| count > 0) && machined::is_machined(sender)
}

/// Discards a pending SIGTERM of machined from before a reboot. Called after the new registration, when
/// machined sends no further one; SIGTERM is blocked.
pub(crate) fn discard_machined_sigterm(unit: Option<&str>) {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let pending = SignalFd::with_flags(&mask, flags).and_then(|signals| signals.read_signal());
    let Ok(Some(info)) = pending else { return };
    // Pending signals of one kind are merged: systemd may have sent SIGTERM too.
    if !machined::is_machined(info.ssi_pid) || unit.is_some_and(is_being_stopped) {
        let raised = raise(Signal::SIGTERM);
        raised.unwrap_or_else(|error| log::warn!("cannot keep a SIGTERM: {error}, ignoring"));
    }
}

/// Returns whether systemd is stopping a unit.
fn is_being_stopped(unit: &str) -> bool {
    let status = runtime().and_then(|runtime| runtime.block_on(units::unit_properties(unit)));
    status.is_ok_and(|status| status.active_state == "deactivating")
}

/// The directories that machined creates files in at its start and end.
const TRACES: [&str; 4] = ["", "machine", "userdb", MACHINES];
/// The directory of its files about machines.
const MACHINES: &str = "machines";

/// A watch for restarts of machined. While machined knows the machine, only its file about this machine is
/// watched: otherwise each start of a machine would wake the supervisors of all machines.
#[derive(Debug)]
pub(crate) struct Watch(Inotify);

impl Watch {
    /// Creates the watch for a machine.
    pub(crate) fn new(name: &Name) -> Option<Self> {
        let watch = Self(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?);
        if !watch.follow(name) {
            watch.expect(name);
        }
        Some(watch)
    }

    /// Watches for a start of machined.
    fn expect(&self, name: &Name) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        for directory in TRACES.map(running_systemd) {
            if let Err(error) = self.0.add_watch(&directory, flags) {
                log::debug!("cannot watch '{}' for machine '{name}': {error}, ignoring", directory.display());
            }
        }
    }

    /// Watches machined's file about the machine. Returns whether it exists.
    fn follow(&self, name: &Name) -> bool {
        // A replaced file loses its last link, which is a change of attributes.
        let flags = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF;
        self.0.add_watch(&running_systemd(MACHINES).join(name), flags).is_ok()
    }

    /// Reads events. Returns whether machined was started again without knowledge of the machine.
    pub(crate) fn lost(&self, name: &Name) -> bool {
        let events = self.0.read_events().unwrap_or_default();
        let known = ["machines", "machine", "io.systemd.Machine", name.as_str()];
        let concerns = |event: &nix::sys::inotify::InotifyEvent| {
            event.name.as_ref().is_none_or(|name| known.iter().any(|known| name == *known))
        };
        if !events.iter().any(concerns) || self.follow(name) {
            return false;
        }
        self.expect(name);
        running_systemd(MACHINES).exists()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
