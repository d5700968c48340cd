//! The loop's replies to calls at the control socket, and its part for viewers of the console.

use super::Loop;
use crate::host::cgroup;
use crate::protocol::{Call, CallError, InstanceStatus, NetworkUpdate, Reply, WindowSize};
use crate::state::record::Phase;
use crate::supervisor::control_socket::{ClientEvent, FIRST_CLIENT};
use crate::supervisor::network::firewall;
use crate::sys::{process, terminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The longest interval between two looks at a pending freeze. The loop never waits for it: the guest decides how
/// long it takes.
const LONGEST_LOOK: Duration = Duration::from_millis(10);

type CallResult<T> = std::result::Result<T, CallError>;

fn failed(error: impl std::fmt::Display) -> CallError {
    CallError::Failed(error.to_string())
}

/// A pending freeze or thaw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezing {
    slot: usize,
    frozen: bool,
    begun: Instant,
}

impl Freezing {
    /// Returns the time until the next look: most guests freeze in less than a millisecond.
    pub(super) fn pause(&self) -> Duration {
        (self.begun.elapsed() / 2).clamp(Duration::from_millis(1), LONGEST_LOOK)
    }
}

impl Loop {
    /// Handles an event of the client with this number.
    pub(super) fn client(&mut self, number: u64) {
        let Ok(slot) = usize::try_from(number.saturating_sub(FIRST_CLIENT)) else { return };
        match self.control.receive(slot) {
            ClientEvent::Nothing => {}
            ClientEvent::Typed(bytes) => self.console.type_in(&bytes),
            ClientEvent::Call(Call::Attach(size)) => self.attach(slot, size),
            ClientEvent::Call(Call::Pause {}) => self.freeze(slot, true),
            ClientEvent::Call(Call::Resume {}) => self.freeze(slot, false),
            ClientEvent::Call(Call::Hold {}) => self.hold(slot),
            ClientEvent::Call(call) => {
                let reply = self.execute(call);
                self.control.reply(slot, reply);
            }
        }
        self.release();
        if self.control.is_idle() {
            process::trim_memory();
        }
    }

    /// Freezes the guest until the connection of a client ends. A guest that is frozen already stays frozen.
    fn hold(&mut self, slot: usize) {
        if !self.is_held && self.payload().is_ok_and(|payload| cgroup::is_frozen(&payload)) {
            self.control.reply(slot, Ok(Reply::Done {}));
            return;
        }
        self.is_held = true;
        // Without it, clients that enter the machine meanwhile are refused.
        if let Err(error) = std::fs::write(self.paths().paused(&self.state.record.name), "") {
            log::debug!("cannot mark the pause: {error}, ignoring");
        }
        self.control.set_holder(slot, true);
        self.freeze(slot, true);
    }

    /// Thaws a guest that was frozen for clients, if all of them are gone.
    fn release(&mut self) {
        if self.is_held && !self.control.has_holder() {
            self.end_hold();
        }
    }

    /// Thaws a guest that was frozen for clients: also before an exec, which closes their connections.
    pub(super) fn end_hold(&mut self) {
        if !std::mem::take(&mut self.is_held) {
            return;
        }
        if let Some(pending) = self.freezing.take() {
            self.control.reply_to_waiting(pending.slot, Err(failed("replaced by the end of a call")));
        }
        if let Ok(payload) = self.payload() {
            cgroup::begin_freezing(&payload, false).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        }
        let _ = std::fs::remove_file(self.paths().paused(&self.state.record.name));
    }

    /// Adds a viewer of the console.
    fn attach(&mut self, slot: usize, size: WindowSize) {
        if self.console.master().is_none() {
            let text = "the machine has no console: its command uses the streams of its caller";
            self.control.reply(slot, Err(failed(text)));
            return;
        }
        self.resize(size);
        // Output for viewers waits in memory, and the allocator does not return all of that.
        self.needs_reexec = true;
        let kept = self.console.kept();
        self.control.begin_viewing(slot, &kept);
    }

    fn execute(&mut self, call: Call) -> CallResult<Reply> {
        match call {
            Call::Reboot {} => {
                self.thaw();
                self.request_reboot();
            }
            Call::PowerOff {} if self.stop.is_some() => {}
            // The same as a SIGTERM of machined: an orderly stop first, a kill with the second call.
            Call::PowerOff {} | Call::Terminate {} => self.request_stop(),
            Call::Resize(size) => self.resize(size),
            Call::Status {} => return Ok(Reply::Status(self.status_reply())),
            Call::UpdateNetwork(update) => self.update_network(update)?,
            Call::Attach(_) | Call::Pause {} | Call::Resume {} | Call::Hold {} => {}
            Call::Unsupported {} | Call::Unknown => {}
        }
        Ok(Reply::Done {})
    }

    fn update_network(&mut self, update: NetworkUpdate) -> CallResult<()> {
        let paths = self.paths();
        self.needs_reexec = true;
        firewall::change(&paths, &mut self.state.record, update.ports, update.bounds).map_err(failed)
    }

    fn payload(&self) -> CallResult<PathBuf> {
        let payload = self.state.record.payload_cgroup();
        payload.ok_or_else(|| failed("the machine has no cgroup of its own"))
    }

    /// Begins to freeze or thaw the guest. The reply follows when that is done.
    fn freeze(&mut self, slot: usize, frozen: bool) {
        if let Some(before) = self.freezing.take() {
            self.control.set_holder(before.slot, false);
            self.control.reply_to_waiting(before.slot, Err(failed("replaced by a later call")));
        }
        let begun =
            self.payload().and_then(|payload| cgroup::begin_freezing(&payload, frozen).map_err(failed));
        match begun {
            Ok(()) => {
                self.control.wait(slot);
                self.freezing = Some(Freezing { slot, frozen, begun: Instant::now() });
                self.answer_freezing();
            }
            Err(error) => {
                self.control.set_holder(slot, false);
                self.control.reply(slot, Err(error));
            }
        }
    }

    /// Replies to the client of a pending freeze or thaw, if that is done or took too long.
    pub(super) fn answer_freezing(&mut self) {
        let Some(Freezing { slot, frozen, begun }) = self.freezing else { return };
        let is_done = self.payload().is_ok_and(|payload| cgroup::is_frozen(&payload) == frozen);
        if !is_done && begun.elapsed() < cgroup::FREEZING {
            return;
        }
        self.freezing = None;
        if !is_done {
            self.control.set_holder(slot, false);
            self.release();
        }
        let reply = if is_done { Ok(Reply::Done {}) } else { Err(failed(cgroup::not_frozen(frozen))) };
        self.control.reply_to_waiting(slot, reply);
    }

    fn status_reply(&self) -> InstanceStatus {
        let is_frozen = self.payload().is_ok_and(|payload| cgroup::is_frozen(&payload));
        let status = match self.state.record.phase {
            _ if is_frozen => "paused",
            // Clients do not wait for a machine with this status.
            Phase::Booting | Phase::Starting => "booting",
            phase => phase.as_str(),
        };
        InstanceStatus { running: !is_frozen, status: status.to_owned() }
    }

    fn resize(&self, size: WindowSize) {
        if let Some(master) = self.console.master().filter(|_| size.rows > 0 && size.columns > 0) {
            terminal::set_size(master, size.rows, size.columns);
        }
    }
}
