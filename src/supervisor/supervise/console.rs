//! Output of the guest at its console, and input for it. Part of the loop.

use super::Loop;
use crate::machine::contract::Contract;
use crate::supervisor::guest::console::{Hotkey, Typed};
use crate::sys::process;
use rustix::fd::AsFd;

impl Loop {
    pub(super) fn console_output(&mut self) {
        let (mut is_new, is_booting) = (false, !self.ready);
        let is_open = self.console.read(&mut |bytes| {
            is_new = is_booting && self.boot.is_new_output(bytes);
            self.control.show(bytes);
        });
        if self.console.is_incomplete() && self.state.contract == Contract::Nspawn {
            // systemd-nspawn(1) ends with the reader of its output.
            let _ = process::send_signal(self.leader.as_fd(), libc::SIGKILL);
        }
        if is_open {
            self.progress(is_new);
        } else if let Some(master) = self.console.master() {
            let _ = self.epoll.delete(master);
        }
    }

    pub(super) fn console_input(&mut self) {
        match self.console.typed() {
            Typed::Text => {}
            Typed::End => drop(self.epoll.delete(rustix::stdio::stdin())),
            Typed::Hotkey(Hotkey::PowerOff) => self.request_stop(),
            Typed::Hotkey(Hotkey::Reboot) => self.request_reboot(),
            Typed::Hotkey(Hotkey::Kill) => {
                let _ = process::send_signal(self.leader.as_fd(), libc::SIGKILL);
            }
        }
    }
}
