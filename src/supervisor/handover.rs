//! What goes from one act to the next across an exec: descriptors by number and a small record,
//! written into a memfd. The process and its child stay the same.

use super::network::dhcp::Solicited;
use crate::error::{Context, Error, Result};
use crate::machine::console::Console;
use crate::network::addresses::Plan as LinkPlan;
use crate::network::dhcp::Lease;
use crate::plan::Recognition;
use crate::state::record::Record;
use crate::sys::descriptor;
use rustix::fd::{AsFd, OwnedFd, RawFd};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// The variable that names the memfd's descriptor to the next act.
pub const VARIABLE: &str = "CORACLE_HANDOVER";

/// What the event loop needs to know of a machine, in plain values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SupervisorState {
    /// The state record.
    pub record: Record,
    /// The root directory all our places lie below.
    pub paths_root: PathBuf,
    /// The arguments that started the machine, to start it again on a reboot.
    pub arguments: Vec<std::ffi::OsString>,
    /// The signal that asks for an orderly stop, where it is not the init's own.
    pub stop_signal: Option<i32>,
    /// How long an orderly stop may take, milliseconds; none means without bound.
    pub stop_timeout: Option<u64>,
    /// How long the guest may take until it is up, milliseconds.
    #[serde(default = "forever")]
    pub start_timeout: u64,
    /// Whether we are started only when the guest says so.
    pub waits_for_ready: bool,
    /// How its init is recognised, where the definition does not tell its kind.
    #[serde(default)]
    pub recognition: Option<Recognition>,
    /// Whether a whole system runs, as opposed to one command.
    pub is_boot: bool,
    /// Where the console goes.
    pub console: Console,
    /// The machine's id, for registering again.
    pub machine_id: [u8; 16],
    /// The id of this boot of the guest, 32 hex digits, as its journal has it.
    pub boot_id: String,
    /// Whether machined is to know the machine.
    pub register: bool,
    /// How often the kernel had killed for want of memory before the start.
    pub out_of_memory_kills: u64,
    /// What the guest is told that asks for its address, where we are the ones to tell it.
    pub lease: Option<Lease>,
    /// What it has asked for by now.
    pub solicited: Solicited,
    /// Whether this is a boot after a reboot from inside.
    pub boots: u32,
    /// How long the boots before lasted that rebooted soon, milliseconds.
    #[serde(default)]
    pub lived: Vec<u64>,
}

impl SupervisorState {
    /// Whether the supervisor is the process of a unit `coracle@.service`.
    pub fn is_launched(&self) -> bool {
        self.arguments.first().is_some_and(|verb| verb == "launch")
    }
}

/// What a machine has whose launch knew no such limit.
fn forever() -> u64 {
    u64::MAX
}

/// Descriptors the event loop holds.
#[derive(Debug)]
pub struct Descriptors {
    /// PID 1's pidfd.
    pub leader: OwnedFd,
    /// Our end of the console.
    pub console: Option<OwnedFd>,
    /// The pipe that stands for the kernel's log inside, held open for its readers.
    pub kernel_log: Option<OwnedFd>,
    /// Where the guest notifies us.
    pub notify: Option<OwnedFd>,
    /// Where its programs log, where it has no journal.
    pub log: Option<OwnedFd>,
    /// Where it asks for its address.
    pub dhcp: Option<OwnedFd>,
    /// Where the machine is asked how it is; who comes meanwhile waits in line.
    pub control: Option<OwnedFd>,
    /// The machine's network namespace, which outlives a reboot.
    pub network: Option<OwnedFd>,
    /// The last 64 KiB of the console.
    pub ring: OwnedFd,
    /// Locks held for as long as the machine exists.
    pub locks: Vec<OwnedFd>,
}

/// A machine that runs: everything the event loop starts from.
#[derive(Debug)]
pub struct Running {
    /// Plain values.
    pub state: SupervisorState,
    /// Descriptors.
    pub descriptors: Descriptors,
}

/// The numbers of [`Descriptors`], as they cross the exec.
#[derive(Debug, Serialize, Deserialize)]
struct Numbers {
    leader: RawFd,
    console: Option<RawFd>,
    #[serde(default)]
    kernel_log: Option<RawFd>,
    notify: Option<RawFd>,
    log: Option<RawFd>,
    dhcp: Option<RawFd>,
    control: Option<RawFd>,
    network: Option<RawFd>,
    ring: RawFd,
    locks: Vec<RawFd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HandoverMessage {
    state: SupervisorState,
    numbers: Numbers,
}

impl Running {
    /// Executes ourselves again with other arguments, handing everything over. Returns only when
    /// that failed.
    pub fn execute(&self, arguments: &[std::ffi::OsString]) -> Error {
        match self.message() {
            Ok(message) => {
                let number = rustix::fd::AsRawFd::as_raw_fd(&message);
                let error = std::process::Command::new("/proc/self/exe")
                    .arg0("coracle")
                    .args(arguments)
                    .env(VARIABLE, number.to_string())
                    .exec();
                Error::from(error).context("cannot execute coracle again")
            }
            Err(error) => error,
        }
    }

    fn message(&self) -> Result<OwnedFd> {
        let keep = |fd: &OwnedFd| descriptor::keep(fd.as_fd()).context(|| "cannot hand a descriptor over");
        let optional = |fd: &Option<OwnedFd>| fd.as_ref().map(keep).transpose();
        let held = &self.descriptors;
        let numbers = Numbers {
            leader: keep(&held.leader)?,
            console: optional(&held.console)?,
            kernel_log: optional(&held.kernel_log)?,
            notify: optional(&held.notify)?,
            log: optional(&held.log)?,
            dhcp: optional(&held.dhcp)?,
            control: optional(&held.control)?,
            network: optional(&held.network)?,
            ring: keep(&held.ring)?,
            locks: held.locks.iter().map(keep).collect::<Result<_>>()?,
        };
        let message = HandoverMessage { state: self.state.clone(), numbers };
        let bytes = serde_json::to_vec(&message).map_err(|error| Error::new(error.to_string()))?;
        // Without MFD_CLOEXEC: it is read by the program we execute.
        let memfd = rustix::fs::memfd_create("coracle-handover", MemfdFlags::empty())
            .context(|| "cannot make the handover")?;
        let mut file = std::fs::File::from(memfd);
        file.write_all(&bytes).and_then(|()| file.rewind()).context(|| "cannot write the handover")?;
        Ok(file.into())
    }
}

/// Takes over what the act before handed to us; nothing where there was none.
///
/// # Errors
/// A handover that cannot be read, or names descriptors that are not there.
pub fn receive() -> Result<Option<Running>> {
    let Some(number) = std::env::var_os(VARIABLE) else { return Ok(None) };
    // The kernel named us after the file we were executed by, '/proc/self/exe'.
    if let Err(error) = rustix::thread::set_name(c"coracle") {
        log::debug!("cannot name the process: {error}, ignoring");
    }
    let number = number.to_str().and_then(|text| text.parse().ok()).unwrap_or(-1);
    let mut bytes = Vec::new();
    std::fs::File::from(descriptor::adopt(number)?)
        .read_to_end(&mut bytes)
        .context(|| "cannot read the handover")?;
    let message: HandoverMessage =
        serde_json::from_slice(&bytes).map_err(|error| Error::new(format!("strange handover: {error}")))?;
    let optional = |number: Option<RawFd>| number.map(descriptor::adopt).transpose();
    let numbers = message.numbers;
    Ok(Some(Running {
        state: message.state,
        descriptors: Descriptors {
            leader: descriptor::adopt(numbers.leader)?,
            console: optional(numbers.console)?,
            kernel_log: optional(numbers.kernel_log)?,
            notify: optional(numbers.notify)?,
            log: optional(numbers.log)?,
            dhcp: optional(numbers.dhcp)?,
            control: optional(numbers.control)?,
            network: optional(numbers.network)?,
            ring: descriptor::adopt(numbers.ring)?,
            locks: numbers.locks.into_iter().map(descriptor::adopt).collect::<Result<_>>()?,
        },
    }))
}

/// What a reboot keeps of the machine before it.
#[derive(Debug)]
pub struct Carried {
    /// The record, with names, addresses and places.
    pub state: SupervisorState,
    /// The network namespace the guest's end of the link is in.
    pub network: Option<OwnedFd>,
    /// Where the machine is asked how it is.
    pub control: Option<OwnedFd>,
    /// The console's last 64 KiB.
    pub ring: OwnedFd,
    /// Locks.
    pub locks: Vec<OwnedFd>,
}

impl From<Running> for Carried {
    fn from(running: Running) -> Self {
        let Descriptors { control, network, ring, locks, .. } = running.descriptors;
        Self { state: running.state, network, control, ring, locks }
    }
}

/// Names and addresses of the link, where the machine has one.
pub type Link = Option<LinkPlan>;
