//! Telling machined of a machine: at its start, after its reboot, and when machined comes back; and
//! telling its farewell from an order to stop.

use crate::error::{Context, Error, Result};
use crate::host::systemd::machined;
use crate::host::systemd::machined::{Outcome, Previous, Registration};
use crate::host::systemd::units;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Registers the machine of a record, whose PID 1 is behind `leader`. Has to be called by the
/// supervisor itself: machined takes the caller for it (SIGTERM of `machinectl terminate`).
///
/// # Errors
/// A live machine of another manager has the name, or machined refuses.
pub fn register(
    paths: &Paths,
    record: &Record,
    leader: BorrowedFd<'_>,
    machine_id: [u8; 16],
    previous: Previous,
) -> Result<Outcome> {
    block_sigterm()?;
    let name = Name::new(&record.name)?;
    let pid = record.leader.ok_or_else(|| Error::new("the machine has no PID 1"))?;
    let registration = Registration {
        name: &name,
        machine_id,
        leader: pid,
        leader_pidfd: leader,
        root: &record.root,
        ifindex: record.host_ifindex,
        unit: record.unit.as_deref(),
        control: &paths.control(&record.name),
        previous,
    };
    super::runtime()?.block_on(machined::register(&registration))
}

/// Tells machined that a machine has no PID 1 for a moment, because it reboots.
pub fn withdraw(record: &Record) {
    let (Ok(name), Ok(runtime)) = (Name::new(&record.name), super::runtime()) else { return };
    runtime.block_on(machined::withdraw(&name, record.unit.as_deref()));
}

/// Blocks SIGTERM: from now on machined may say farewell at any moment, and whoever died of that would not
/// say any more why its machine did not start.
fn block_sigterm() -> Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.thread_block().map_err(std::io::Error::from).context(|| "cannot block SIGTERM")
}

/// Whether a SIGTERM of process `sender` only says that machined has seen the machine's PID 1 end:
/// then it is no order to stop. SYSTEMD(258): machined ends the supervisor of every machine whose
/// leader has ended, and does not know of reboots.
pub fn is_from_machined(sender: u32, leader: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ended = [PollFd::new(&leader, PollFlags::IN)];
    poll(&mut ended, Some(&now)).is_ok_and(|count| count > 0) && machined::is_machined(sender)
}

/// Takes back the farewell that came too late for the supervisor before a reboot. To be called once
/// the machine is registered again, when machined can send none any more; SIGTERM is blocked.
pub fn discard_machined_sigterm(unit: Option<&str>) {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let pending = SignalFd::with_flags(&mask, flags).and_then(|signals| signals.read_signal());
    let Ok(Some(info)) = pending else { return };
    // Two signals of a kind are one: behind machined's there may be systemd's.
    if !machined::is_machined(info.ssi_pid) || unit.is_some_and(is_being_stopped) {
        let raised = raise(Signal::SIGTERM);
        raised.unwrap_or_else(|error| log::warn!("cannot keep a SIGTERM: {error}, ignoring"));
    }
}

/// Whether systemd has told a unit to stop.
fn is_being_stopped(unit: &str) -> bool {
    let status = super::runtime().and_then(|runtime| runtime.block_on(units::unit_properties(unit)));
    status.is_ok_and(|status| status.active_state == "deactivating")
}

/// Where machined leaves traces of coming and going.
const TRACES: [&str; 4] = ["/run/systemd", "/run/systemd/machine", "/run/systemd/userdb", MACHINES];
/// Where it keeps what it knows of each machine.
const MACHINES: &str = "/run/systemd/machines";

/// A watch over machined, which may be killed and come back at any time. Where it knows the machine, only
/// what it keeps of this one counts: else each start of a machine would wake the supervisors of all.
#[derive(Debug)]
pub struct Watch(Inotify);

impl Watch {
    /// Watches on behalf of the machine of this name.
    pub fn new(name: &str) -> Option<Self> {
        let watch = Self(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?);
        if !watch.follow(name) {
            watch.expect(name);
        }
        Some(watch)
    }

    /// Watches for machined itself.
    fn expect(&self, name: &str) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
        for directory in TRACES {
            if let Err(error) = self.0.add_watch(directory, flags) {
                log::debug!("cannot watch '{directory}' for machine '{name}': {error}, ignoring");
            }
        }
    }

    /// Watches what machined keeps of the machine, as long as it is this file; whether there is one.
    fn follow(&self, name: &str) -> bool {
        // Another file in its place takes its last link, which is a change of attributes.
        let flags = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF;
        self.0.add_watch(&Path::new(MACHINES).join(name), flags).is_ok()
    }

    /// Reads what happened: whether machined came back without knowing the machine.
    pub fn lost(&self, name: &str) -> bool {
        let events = self.0.read_events().unwrap_or_default();
        let known = ["machines", "machine", "io.systemd.Machine", name];
        let concerns = |event: &nix::sys::inotify::InotifyEvent| {
            event.name.as_ref().is_none_or(|name| known.iter().any(|known| name == *known))
        };
        if !events.iter().any(concerns) || self.follow(name) {
            return false;
        }
        self.expect(name);
        Path::new(MACHINES).exists()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
