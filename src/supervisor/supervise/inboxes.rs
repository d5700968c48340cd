//! Pauses of the sockets that the guest sends to. Part of the loop.

use super::{EventSource, Loop};
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
}
