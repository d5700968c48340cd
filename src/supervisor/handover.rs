//! The handover from one act to the next across an exec: the descriptors of a running machine by number and
//! its state as JSON, written to a memfd. The process and its child stay the same.

use super::network::dhcp::Solicited;
use super::stop::StopMode;
use crate::error::{Context, Error, Result};
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::machine::id128::Id128;
use crate::network::dhcp::Lease;
use crate::plan::Recognition;
use crate::state::record::Record;
use crate::sys::{descriptor, entry};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// The variable with the number of the memfd, for the next act.
pub(crate) const VARIABLE: &str = "CORACLE_HANDOVER";

/// The state of a machine that the event loop needs, in plain values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SupervisorState {
    /// The state record.
    pub(crate) record: Record,
    /// The root directory of all paths of Coracle.
    pub(crate) paths_root: PathBuf,
    /// The arguments of the launch, for a reboot.
    pub(crate) arguments: Vec<std::ffi::OsString>,
    /// The signal that requests an orderly stop. `None` for the init's own way.
    pub(crate) stop_signal: Option<i32>,
    /// The limit of an orderly stop, milliseconds. `None` if there is no limit.
    pub(crate) stop_timeout: Option<u64>,
    /// The limit of the guest's start, milliseconds.
    #[serde(default = "no_limit")]
    pub(crate) start_timeout: u64,
    /// Whether the unit counts as started only after the guest's `READY=1`.
    pub(crate) waits_for_ready: bool,
    /// How to recognise the init. `None` if the definition names its kind.
    #[serde(default)]
    pub(crate) recognition: Option<Recognition>,
    /// Whether a whole system runs, not a single command.
    pub(crate) is_boot: bool,
    /// The program whose documented behaviour the machine has.
    #[serde(default)]
    pub(crate) contract: Contract,
    /// Whether the machine runs in the unit of the caller.
    #[serde(default)]
    pub(crate) keep_unit: bool,
    /// The destination of the console.
    pub(crate) console: Console,
    /// The machine id, for another registration.
    pub(crate) machine_id: Id128,
    /// The id of this boot of the guest, as in its journal.
    pub(crate) boot_id: Id128,
    /// Whether to register the machine with machined.
    pub(crate) register: bool,
    /// The number of out-of-memory kills in the cgroup before the start.
    pub(crate) out_of_memory_kills: u64,
    /// The answers to the guest's DHCP and router requests. `None` if the supervisor does not answer them.
    pub(crate) lease: Option<Lease>,
    /// The guest's requests so far.
    pub(crate) solicited: Solicited,
    /// Whether the service manager knows that the machine was started.
    #[serde(default)]
    pub(crate) is_announced: bool,
    /// Whether the guest has changed the file descriptor store of the service.
    #[serde(default)]
    pub(crate) has_stored: bool,
    /// The number of reboots since the first launch.
    pub(crate) boots: u32,
    /// The running times of the boots before that rebooted soon, milliseconds.
    #[serde(default)]
    pub(crate) uptimes: Vec<u64>,
}

impl SupervisorState {
    /// Returns how to stop the guest.
    pub(crate) fn stop_mode(&self) -> StopMode {
        if self.record.build.is_some() {
            // Nothing of it is kept.
            return StopMode::Kill;
        }
        match (self.is_boot, self.stop_signal, self.contract) {
            (false, None, _) => StopMode::Kill,
            (_, signal, contract) => StopMode::Request { signal, contract },
        }
    }

    /// Returns whether the supervisor is the process of a machine's service.
    pub(crate) fn is_launched(&self) -> bool {
        self.arguments.first().is_some_and(|verb| verb == "launch")
    }
}

/// The start timeout of a machine launched without one.
fn no_limit() -> u64 {
    u64::MAX
}

/// The names of the descriptors of a running machine. A new descriptor is one line here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FdName {
    /// The pidfd of PID 1.
    Leader,
    /// The supervisor's end of the console.
    Console,
    /// The pipe that stands for the kernel's log in the machine, held open for its readers.
    KernelLog,
    /// The socket of the guest's notifications.
    Notify,
    /// The socket behind the guest's `/dev/log`.
    Log,
    /// The packet socket for DHCP and router requests.
    Dhcp,
    /// The netlink socket that reports the addresses that the guest configures.
    Addresses,
    /// The listening control socket. Clients wait in its queue between the acts.
    Control,
    /// The network namespace, which outlives a reboot.
    Network,
    /// The last 64 KiB of the console, a memfd.
    Ring,
    /// A lock that is held while the machine exists. There are several, the lock of the name first.
    Lock,
    /// A writable layer in memory, a mount. There may be several, in the order of their mounts.
    Layer,
    /// A timer or a process whose end is a request to stop. There may be several.
    Until,
}

impl FdName {
    /// Whether the descriptor outlives a reboot of the guest.
    fn outlives_reboot(self) -> bool {
        matches!(self, Self::Control | Self::Network | Self::Ring | Self::Lock | Self::Layer | Self::Until)
    }
}

/// The descriptors of a running machine, by name.
#[derive(Debug, Default)]
pub(crate) struct Fds(Vec<(FdName, OwnedFd)>);

impl Fds {
    /// Adds a descriptor, if there is one. Only locks, layers and ends may have the same name; another one is
    /// replaced.
    pub(crate) fn insert(&mut self, name: FdName, fd: impl Into<Option<OwnedFd>>) {
        let Some(fd) = fd.into() else { return };
        if !matches!(name, FdName::Lock | FdName::Layer | FdName::Until) {
            self.take(name);
        }
        self.0.push((name, fd));
    }

    /// Borrows the pidfd of PID 1.
    ///
    /// # Errors
    /// A missing descriptor.
    pub(crate) fn leader(&self) -> Result<BorrowedFd<'_>> {
        self.get(FdName::Leader).map(AsFd::as_fd).ok_or_else(|| missing(FdName::Leader))
    }

    /// Returns the first descriptor of a name.
    pub(crate) fn get(&self, name: FdName) -> Option<&OwnedFd> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, fd)| fd)
    }

    /// Iterates over all descriptors of a name.
    pub(crate) fn all(&self, name: FdName) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, fd)| fd)
    }

    /// Removes and returns the first descriptor of a name.
    pub(crate) fn take(&mut self, name: FdName) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Removes and returns the first descriptor of a name.
    ///
    /// # Errors
    /// A missing descriptor.
    pub(crate) fn require(&mut self, name: FdName) -> Result<OwnedFd> {
        self.take(name).ok_or_else(|| missing(name))
    }

    /// Removes and returns all locks, the lock of the name first.
    pub(crate) fn take_locks(&mut self) -> Vec<OwnedFd> {
        std::iter::from_fn(|| self.take(FdName::Lock)).collect()
    }

    /// Removes and returns all writable layers in memory.
    pub(crate) fn take_layers(&mut self) -> Vec<OwnedFd> {
        std::iter::from_fn(|| self.take(FdName::Layer)).collect()
    }

    /// Keeps the descriptors open across an exec and returns their numbers.
    fn keep(&self) -> Result<Vec<(FdName, RawFd)>> {
        let keep = |(name, fd): &(FdName, OwnedFd)| Ok((*name, descriptor::keep(fd.as_fd())?));
        self.0.iter().map(keep).collect::<std::io::Result<_>>().context(|| "cannot hand over a descriptor")
    }

    /// Takes descriptors over by their numbers, close-on-exec again.
    fn adopt(numbers: Vec<(FdName, RawFd)>) -> Result<Self> {
        let adopt = |(name, number)| Ok((name, descriptor::adopt(number)?));
        numbers.into_iter().map(adopt).collect::<Result<_>>().map(Self)
    }
}

fn missing(name: FdName) -> Error {
    Error::new(format!("the descriptor '{name:?}' was not handed over"))
}

/// A running machine: everything the event loop starts with.
#[derive(Debug)]
pub(crate) struct Running {
    /// Plain values.
    pub(crate) state: SupervisorState,
    /// Descriptors.
    pub(crate) fds: Fds,
}

/// The content of the memfd.
#[derive(Debug, Serialize, Deserialize)]
struct HandoverMessage {
    state: SupervisorState,
    fds: Vec<(FdName, RawFd)>,
}

impl Running {
    /// Executes this program again with other arguments and hands everything over. Returns only after an
    /// error.
    pub(crate) fn execute(&self, arguments: &[std::ffi::OsString]) -> Error {
        match self.message() {
            Ok(message) => {
                // Those of the payload, which a reboot starts again.
                let passed = sd_notify::listen_fds().map_or(0, |passed| passed.len());
                if let Err(error) = descriptor::pass_on(u32::try_from(passed).unwrap_or(0)) {
                    log::warn!("cannot pass on the descriptors of LISTEN_FDS: {error}, ignoring");
                }
                let number = rustix::fd::AsRawFd::as_raw_fd(&message);
                let error = std::process::Command::new("/proc/self/exe")
                    .arg0(OsStr::from_bytes(entry::process_name().to_bytes()))
                    .args(arguments)
                    .env(VARIABLE, number.to_string())
                    .exec();
                Error::from(error).context("cannot execute coracle again")
            }
            Err(error) => error,
        }
    }

    fn message(&self) -> Result<OwnedFd> {
        let message = HandoverMessage { state: self.state.clone(), fds: self.fds.keep()? };
        let bytes = serde_json::to_vec(&message).map_err(|error| Error::new(error.to_string()))?;
        // Without MFD_CLOEXEC: the next act reads it.
        let memfd = rustix::fs::memfd_create("coracle-handover", MemfdFlags::empty())
            .context(|| "cannot create the handover")?;
        let mut file = std::fs::File::from(memfd);
        file.write_all(&bytes).and_then(|()| file.rewind()).context(|| "cannot write the handover")?;
        Ok(file.into())
    }
}

/// Receives the handover of the act before. `None` if there is none.
///
/// # Errors
/// An unreadable or invalid handover, or a descriptor that is not open.
pub(crate) fn receive() -> Result<Option<Box<Running>>> {
    std::env::var_os(VARIABLE).map(|number| adopt(&number)).transpose()
}

/// Takes over the machine whose state is in the memfd of this number. Apart from the first start of a
/// machine, which has no state to decode and needs no stack for it.
#[inline(never)]
fn adopt(number: &OsStr) -> Result<Box<Running>> {
    // The kernel names a process after the executed file, here '/proc/self/exe'.
    if let Err(error) = rustix::thread::set_name(entry::process_name()) {
        log::debug!("cannot name the process: {error}, ignoring");
    }
    let number = number.to_str().and_then(|text| text.parse().ok()).unwrap_or(-1);
    let mut bytes = Vec::new();
    std::fs::File::from(descriptor::adopt(number)?)
        .read_to_end(&mut bytes)
        .context(|| "cannot read the handover")?;
    let message: HandoverMessage = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(format!("invalid handover data: {error}")))?;
    Ok(Box::new(Running { state: message.state, fds: Fds::adopt(message.fds)? }))
}

/// The state and descriptors carried from a machine to its next boot.
#[derive(Debug)]
pub(crate) struct Carried {
    /// The state before the reboot: names, addresses and paths.
    pub(crate) state: SupervisorState,
    /// The descriptors that outlive a reboot.
    pub(crate) fds: Fds,
}

impl Carried {
    /// Returns what is carried from a running machine.
    #[inline(never)]
    pub(crate) fn from_running(mut running: Box<Running>) -> Box<Self> {
        running.fds.0.retain(|(name, _)| name.outlives_reboot());
        let Running { state, fds } = *running;
        Box::new(Self { state, fds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn descriptors_are_found_by_name_and_locks_keep_their_order() {
        use rustix::fd::AsRawFd;
        let mut fds = Fds::default();
        let (first, second) = (fd(), fd());
        let numbers = [first.as_raw_fd(), second.as_raw_fd()];
        fds.insert(FdName::Lock, first);
        fds.insert(FdName::Leader, fd());
        fds.insert(FdName::Lock, second);
        fds.insert(FdName::Console, None);
        assert!(fds.get(FdName::Leader).is_some() && fds.get(FdName::Console).is_none());
        assert!(fds.require(FdName::Leader).is_ok() && fds.require(FdName::Leader).is_err());
        let locks: Vec<RawFd> = fds.take_locks().iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(locks, numbers);
    }

    #[test]
    fn names_and_numbers_cross_the_exec() {
        let mut fds = Fds::default();
        fds.insert(FdName::Ring, fd());
        let text = serde_json::to_string(&fds.keep().unwrap()).unwrap();
        let numbers: Vec<(FdName, RawFd)> = serde_json::from_str(&text).unwrap();
        // The number is owned once: by the table that adopts it.
        std::mem::forget(fds);
        assert!(Fds::adopt(numbers).unwrap().get(FdName::Ring).is_some());
    }
}
