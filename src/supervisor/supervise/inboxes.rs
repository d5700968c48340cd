//! Pauses of the sockets that the guest sends to, or sends notifications by the kernel. Part of the loop.

use super::{EventSource, Loop};
use crate::paths::Paths;
use crate::supervisor::network::forwarding::{AddressWatch, Look};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use rustix::fd::AsFd;
use std::time::Duration;

impl Loop {
    /// Stops watching paused inboxes, and watches inboxes again after their pause. Returns the shortest
    /// remaining pause.
    pub(super) fn watch_inboxes(&mut self) -> Option<Duration> {
        let log = self.log.as_mut().map(|log| (EventSource::Log, log.inbox()));
        let notify = self.notify.as_mut().map(|notify| (EventSource::Notify, notify));
        let mut least = None;
        for (source, inbox) in notify.into_iter().chain(log) {
            let flags = match inbox.paused() {
                Some(_) if inbox.resume() => EpollFlags::EPOLLIN,
                Some(left) => {
                    least = least.into_iter().chain([left]).min();
                    EpollFlags::empty()
                }
                None => continue,
            };
            if let Err(error) = self.epoll.modify(inbox.as_fd(), &mut EpollEvent::new(flags, source as u64)) {
                log::warn!("cannot watch {source:?}: {error}, ignoring");
            }
        }
        least
    }

    /// Forwards the ports to changed addresses of the guest, and watches for changes again after a list.
    pub(super) fn follow_addresses(&mut self, paths: &Paths) {
        let Some(watch) = &mut self.address_watch else { return };
        let look = watch.look(paths, &mut self.state.record);
        self.needs_reexec |= look == Look::Changed;
        if look != Look::Early {
            self.watch(EventSource::Addresses, EpollFlags::EPOLLIN);
        }
    }

    /// Notes that the addresses of the guest have changed.
    pub(super) fn addresses_changed(&mut self) {
        self.address_watch.iter_mut().for_each(AddressWatch::read);
        self.watch(EventSource::Addresses, EpollFlags::empty());
    }

    /// Changes the events of the socket for addresses.
    fn watch(&self, source: EventSource, flags: EpollFlags) {
        let Some(watch) = &self.address_watch else { return };
        if let Err(error) = self.epoll.modify(watch.as_fd(), &mut EpollEvent::new(flags, source as u64)) {
            log::warn!("cannot watch {source:?}: {error}, ignoring");
        }
    }
}
