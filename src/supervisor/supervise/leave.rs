//! How the loop is left: handed on to what follows, or ended and cleaned up after. `supervise` comes here once.

use super::super::{cleanup, ending::Ending, failure};
use super::{Left, Loop, Outcome};
use crate::error::Result;
use crate::machine::console::Console as ConsoleKind;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::supervisor::handover::{Descriptors, Running};
use crate::supervisor::inbox::Inbox;
use crate::supervisor::registration;
use crate::supervisor::responder::Responder;
use crate::supervisor::syslog::Syslog;
use sd_notify::NotifyState;

/// The exit status by which the unit is restarted (`RestartForceExitStatus=` in `units/coracle@.service`).
const RESTART: u8 = 133;

impl Loop {
    /// Leaves the loop: a reboot and a registration hand the machine on, an end cleans up.
    pub(super) fn end(mut self, left: Left) -> Result<Outcome> {
        if matches!(left, Left::Ended(_)) {
            // Also what is left unread holds descriptors that would be closed by this process.
            self.log.iter_mut().for_each(Syslog::read);
            self.notify.iter_mut().chain(self.log.as_mut().map(Syslog::inbox)).for_each(Inbox::drain);
        }
        let ending = match left {
            Left::Unregistered => return Ok(Outcome::Register(Box::new(self.hand_on()))),
            Left::Swollen => return Ok(Outcome::Refresh(Box::new(self.hand_on()))),
            // A reboot that was asked for while we were told to stop is a stop.
            Left::Ended(Ending::Reboot) if self.stop.is_none() && !self.is_outdated() => {
                if self.terms.record.registered && self.reboot_at.is_none() {
                    registration::withdraw(&self.terms.record);
                }
                log::info!("machine '{}' reboots", self.terms.record.name);
                return Ok(Outcome::Reboot(Box::new(self.hand_on())));
            }
            Left::Ended(ending) => ending,
        };
        let stopped = self.stop.as_ref().is_some_and(|stop| !stop.was_killed());
        let failure = if stopped { None } else { ending.failure() };
        self.console.drain();
        let tail = self.console.tail(failure::LINES);
        drop(self.console.end());
        let may_be_late = self.stop.is_some() && self.terms.waits_for_ready && !self.ready;
        if may_be_late && failure::timed_out(&self.terms, self.boot.waits_for(), &tail) {
            log::error!("machine '{}' was not up in time", self.terms.record.name);
        } else if let Some(why) = &failure
            && self.terms.console == ConsoleKind::Journal
        {
            log::error!("machine '{}' failed: {why}", self.terms.record.name);
            tail.iter().rev().take(5).rev().for_each(|line| log::error!("its console said: {line}"));
            failure::guest_failed(&self.terms, ending, why, tail);
        }
        let restarts = ending == Ending::Reboot && self.stop.is_none();
        let text = match failure {
            _ if restarts => "restarts with the newer program".to_owned(),
            Some(why) => format!("failed: {why}"),
            None => "stopped".to_owned(),
        };
        let _ = sd_notify::notify(&[NotifyState::Status(&text)]);
        // All but the name's, so that no second machine of it begins before we are gone.
        self.locks.truncate(1);
        let paths = Paths::below(&self.terms.paths_root);
        if let Ok(name) = Name::new(&self.terms.record.name) {
            cleanup::after(&paths, &name)?;
        }
        Ok(Outcome::Ended(match ending.exit_status() {
            _ if restarts => RESTART,
            _ if stopped => 0,
            // A guest does not restart its unit.
            RESTART if self.terms.is_launched() => 1,
            status => status,
        }))
    }

    /// Whether a reboot is for systemd, since the program was replaced: the old one would read a newer definition.
    fn is_outdated(&self) -> bool {
        let replaced = self.terms.record.replaced_program().filter(|_| self.terms.is_launched());
        if let Some(program) = replaced {
            let name = &self.terms.record.name;
            log::info!("machine '{name}' reboots, its unit restarts with the newer '{}'", program.display());
        }
        replaced.is_some()
    }

    fn hand_on(mut self) -> Running {
        self.terms.asked = self.responder.as_ref().map_or(self.terms.asked, Responder::asked);
        Running {
            terms: self.terms,
            descriptors: Descriptors {
                leader: self.leader,
                console: self.console.end(),
                notify: self.notify.map(Inbox::into_socket),
                log: self.log.map(Syslog::into_socket),
                responder: self.responder.map(Responder::into_socket),
                control: self.control.into_listener(),
                kernel_log: self.kernel_log,
                network: self.network,
                ring: self.ring,
                locks: self.locks,
            },
        }
    }
}
