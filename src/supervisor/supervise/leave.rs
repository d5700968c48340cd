//! The end of the loop: hands the machine on to the next act, or cleans up after it. Called once by
//! `supervise`.

use super::super::control_socket::ControlSocket;
use super::super::exit::{Exit, RESTART};
use super::super::stop::Stop;
use super::super::{cleanup, failure};
use super::{Loop, LoopExit, SupervisionResult};
use crate::error::{LAUNCH_STATUS, Result};
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::supervisor::guest::descriptor_store::DescriptorStore;
use crate::supervisor::guest::inbox::Inbox;
use crate::supervisor::guest::notify_in;
use crate::supervisor::guest::syslog::Syslog;
use crate::supervisor::handover::{FdName, Running};
use crate::supervisor::network::dhcp::DhcpServer;
use crate::supervisor::network::firewall::watch::FirewallWatch;
use crate::supervisor::network::forwarding::AddressWatch;
use crate::supervisor::registration;
use sd_notify::NotifyState;

/// Notifies the manager of the end as systemd-nspawn(1) does.
fn announce_end(exit: Exit) {
    let status = format!("EXIT_STATUS={}", exit.nspawn_status());
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Custom(&status)]);
}

/// The number of lines of the console in the log of a failure.
const SHOWN_LINES: usize = 5;

impl Loop {
    /// Leaves the loop: hands on after a reboot and for a registration, cleans up after an end.
    pub(super) fn end(mut self, reason: LoopExit) -> Result<SupervisionResult> {
        if matches!(reason, LoopExit::Ended(_)) {
            // Unread messages also hold descriptors, which this process would close.
            self.log.iter_mut().for_each(Syslog::read);
            self.log.as_mut().map(Syslog::inbox).into_iter().for_each(Inbox::drain);
            let leader = self.state.record.leader.unwrap_or_default();
            self.notify.iter_mut().for_each(|inbox| notify_in::drain(inbox, leader, &mut self.store));
        }
        self.state.has_stored |= self.store.as_ref().is_some_and(DescriptorStore::has_changed);
        match reason {
            LoopExit::Unregistered => Ok(SupervisionResult::Register(Box::new(self.hand_on()))),
            LoopExit::NeedsReexec => Ok(SupervisionResult::Reexec(Box::new(self.hand_on()))),
            // A reboot during a requested stop is a stop.
            LoopExit::Ended(Exit::Reboot) if self.stop.is_none() && !self.restarts_unit() => {
                if self.state.record.registered && self.reboot_at.is_none() {
                    registration::unregister(&self.state.record);
                }
                self.record_failed_trial();
                log::info!("machine '{}' reboots", self.state.record.name);
                Ok(SupervisionResult::Reboot(Box::new(self.hand_on())))
            }
            LoopExit::Ended(exit) => {
                let status = self.finish(exit);
                // This process ends now: its descriptors are closed at once.
                std::mem::forget(self);
                Ok(SupervisionResult::Ended(status))
            }
        }
    }

    /// Requests an orderly stop for systemd, for example at a shutdown of the host.
    pub(super) fn interrupt(&mut self) {
        if let Some(build) = &mut self.state.record.build {
            build.is_interrupted = true;
        }
        self.request_stop();
    }

    /// Records the end, and cleans up. Returns the exit status of the run.
    fn finish(&mut self, exit: Exit) -> u8 {
        // The last descriptors of the namespace: meanwhile the kernel deletes the links.
        drop((self.fds.take(FdName::Network), self.address_watch.take()));
        // A unit that the administrator kills has stopped; in the foreground the status tells of the kill.
        let is_requested = |stop: &Stop| !stop.was_killed() || stop.is_forced() && self.state.is_launched();
        let stopped = self.stop.as_ref().is_some_and(is_requested);
        let failure = if stopped { None } else { exit.failure() };
        self.console.drain();
        let tail = self.console.tail(failure::LINES);
        if self.state.contract == Contract::Nspawn {
            self.console.show_passive();
        }
        let (lost_output, is_incomplete) = (self.console.has_failed(), self.console.is_incomplete());
        drop(self.console.end());
        let may_be_late = self.stop.is_some() && self.state.waits_for_ready && !self.ready;
        if may_be_late && failure::record_timeout(&self.state, self.boot.waits_for(), &tail) {
            log::error!("machine '{}' was not up in time", self.state.record.name);
        } else if let Some(why) = &failure
            && self.state.console == Console::Journal
        {
            log::error!("machine '{}' failed: {why}", self.state.record.name);
            if !tail.is_empty() {
                // One entry, less urgent than the failure: priority notice.
                let said = &tail[tail.len().saturating_sub(SHOWN_LINES)..];
                log::info!("last lines of its console:\n{}", said.join("\n"));
            }
            failure::record_exit(&self.state, exit, why, tail);
        }
        let restarts = exit == Exit::Reboot && self.stop.is_none();
        let text = match failure {
            _ if restarts => "restarts".to_owned(),
            Some(why) => format!("failed: {why}"),
            None => "stopped".to_owned(),
        };
        let _ = sd_notify::notify(&[NotifyState::Status(&text)]);
        if self.state.contract == Contract::Nspawn {
            announce_end(exit);
        }
        self.end_children();
        // Keeps the lock of the name: no second machine of that name starts before this process has exited.
        let mut locks = self.fds.take_locks();
        locks.truncate(1);
        std::mem::forget(locks);
        let trash = cleanup::after_end(&self.state, self.dhcp.take().map(DhcpServer::into_socket));
        // The answer to clients that wait for the end: what follows takes its time.
        self.control = ControlSocket::default();
        drop(trash);
        if self.state.contract == Contract::Nspawn {
            return match exit.nspawn_status() {
                _ if restarts => RESTART,
                0 if is_incomplete => 1,
                status => status,
            };
        }
        match exit.exit_status() {
            _ if restarts => RESTART,
            status if lost_output && (stopped || status == 0) => LAUNCH_STATUS,
            _ if stopped => 0,
            // The guest's own exit status must not restart the unit.
            RESTART if self.state.is_launched() => 1,
            status => status,
        }
    }

    /// Ends the children, which may have copies of the locks' descriptors: files of held locks are not
    /// deleted.
    fn end_children(&mut self) {
        self.init.end();
        self.request_child.end();
        self.firewall_watch.iter_mut().for_each(FirewallWatch::end);
    }

    /// Returns whether the unit has to restart for a reboot: systemd-nspawn(1) leaves it to the unit of its
    /// caller, and the service manager passes stored descriptors to a new process only.
    fn restarts_unit(&self) -> bool {
        self.state.contract == Contract::Nspawn && self.state.keep_unit
            || self.state.is_launched() && self.state.has_stored
            || self.is_outdated()
    }

    /// Returns whether systemd has to restart the unit for a reboot: the program was replaced, and the
    /// running one would read a definition for a newer one.
    fn is_outdated(&self) -> bool {
        let replaced = self.state.record.replaced_program().filter(|_| self.state.is_launched());
        if let Some(program) = replaced {
            let name = &self.state.record.name;
            log::info!("machine '{name}' reboots, its unit restarts with the newer '{}'", program.display());
        }
        replaced.is_some()
    }

    fn hand_on(mut self) -> Running {
        self.end_hold();
        self.state.solicited = self.dhcp.as_ref().map_or(self.state.solicited, DhcpServer::solicited);
        let mut fds = self.fds;
        fds.insert(FdName::Leader, self.leader);
        fds.insert(FdName::Console, self.console.end());
        fds.insert(FdName::Notify, self.notify.map(Inbox::into_socket));
        fds.insert(FdName::Log, self.log.map(Syslog::into_socket));
        fds.insert(FdName::Dhcp, self.dhcp.map(DhcpServer::into_socket));
        fds.insert(FdName::Addresses, self.address_watch.map(AddressWatch::into_socket));
        fds.insert(FdName::Control, self.control.into_listener());
        Running { state: self.state, fds }
    }
}
