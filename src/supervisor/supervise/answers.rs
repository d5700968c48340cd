//! What the loop does on a call at its control socket, and for viewers of the console.

use super::Loop;
use crate::host::cgroup;
use crate::state::record::Phase;
use crate::supervisor::control_socket::{Call, ClientEvent, FIRST_CLIENT, NetworkUpdate, WindowSize};
use crate::supervisor::network::firewall;
use crate::sys::{process, terminal};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the loop looks whether processes have stopped. It never waits for them: the guest decides how long that
/// takes.
pub(super) const FREEZING_PAUSE: Duration = Duration::from_millis(10);

/// A pending freeze or thaw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezing {
    slot: usize,
    frozen: bool,
    begun: Instant,
}

impl Loop {
    /// An event of the client with this number.
    pub(super) fn client(&mut self, number: u64) {
        let Ok(slot) = usize::try_from(number.saturating_sub(FIRST_CLIENT)) else { return };
        match self.control.receive(slot) {
            ClientEvent::Nothing => {}
            ClientEvent::Typed(bytes) => self.console.type_in(&bytes),
            ClientEvent::Call(Call::Attach(window)) => self.attach(slot, window),
            ClientEvent::Call(Call::Pause) => self.freeze(slot, true),
            ClientEvent::Call(Call::Resume) => self.freeze(slot, false),
            ClientEvent::Call(call) => {
                let outcome = self.answer(call);
                self.control.answer(slot, outcome);
            }
        }
        if self.control.is_idle() {
            process::trim_memory();
        }
    }

    /// A new viewer of the console.
    fn attach(&mut self, slot: usize, window: WindowSize) {
        if self.console.master().is_none() {
            let why = "the machine has no console: its command has the streams it was started with";
            self.control.answer(slot, Err(why.into()));
            return;
        }
        self.resize(window);
        // What a viewer is sent waits in memory, and not all of that can be given back.
        self.needs_reexec = true;
        let kept = self.console.kept();
        self.control.begin_viewing(slot, &kept);
    }

    fn answer(&mut self, call: Call) -> std::result::Result<Value, String> {
        match call {
            Call::Reboot => {
                self.thaw();
                self.request_reboot();
            }
            Call::PowerOff if self.stop.is_some() => {}
            // As for a SIGTERM of machined's: in order, and at once where it is said again.
            Call::PowerOff | Call::Terminate => self.request_stop(),
            Call::Resize(window) => self.resize(window),
            Call::Status => return Ok(self.status_reply()),
            Call::UpdateNetwork(update) => self.update_network(update)?,
            Call::Attach(_) | Call::Pause | Call::Resume => {}
        }
        Ok(json!({}))
    }

    fn update_network(&mut self, update: NetworkUpdate) -> std::result::Result<(), String> {
        let paths = self.paths();
        self.needs_reexec = true;
        let changed = firewall::change(&paths, &mut self.state.record, update.ports, update.bounds);
        changed.map_err(|error| error.to_string())
    }

    fn payload(&self) -> std::result::Result<PathBuf, String> {
        let cgroup = self.state.record.cgroup.as_ref().ok_or("the machine has no cgroup of its own")?;
        Ok(cgroup.join("payload"))
    }

    /// Begins to freeze or to thaw the guest. It is answered when that is done.
    fn freeze(&mut self, slot: usize, frozen: bool) {
        if let Some(before) = self.freezing.take() {
            self.control.answer_waiting(before.slot, Err("asked for anew meanwhile".into()));
        }
        let begun = self
            .payload()
            .and_then(|payload| cgroup::begin_freezing(&payload, frozen).map_err(|error| error.to_string()));
        match begun {
            Ok(()) => {
                self.control.wait(slot);
                self.freezing = Some(Freezing { slot, frozen, begun: Instant::now() });
                self.answer_freezing();
            }
            Err(why) => self.control.answer(slot, Err(why)),
        }
    }

    /// Answers the client that waits for the guest to stand still or to go on, if it does.
    pub(super) fn answer_freezing(&mut self) {
        let Some(Freezing { slot, frozen, begun }) = self.freezing else { return };
        let is_done = self.payload().is_ok_and(|payload| cgroup::is_frozen(&payload) == frozen);
        if !is_done && begun.elapsed() < cgroup::FREEZING {
            return;
        }
        self.freezing = None;
        let outcome = if is_done { Ok(json!({})) } else { Err(cgroup::not_frozen(frozen).to_string()) };
        self.control.answer_waiting(slot, outcome);
    }

    fn status_reply(&self) -> Value {
        let payload = self.state.record.cgroup.as_ref().map(|cgroup| cgroup.join("payload"));
        let is_frozen = payload.is_some_and(|payload| cgroup::is_frozen(&payload));
        let status = match self.state.record.phase {
            _ if is_frozen => "paused",
            // The word that asks nobody to wait.
            Phase::Booting | Phase::Starting => "booting",
            phase => phase.as_str(),
        };
        json!({ "running": !is_frozen, "status": status })
    }

    fn resize(&self, window: WindowSize) {
        if let Some(master) = self.console.master().filter(|_| window.rows > 0 && window.columns > 0) {
            terminal::set_size(master, window.rows, window.columns);
        }
    }
}
