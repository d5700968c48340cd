//! Forwards ports to a machine that configures its addresses itself: the firewall follows the first global
//! address of each family. Called by `launch`, the event loop and `cleanup`. The intervals grow if the guest
//! changes its addresses repeatedly, and during an interval its changes do not wake the loop.

use super::firewall;
use crate::error::Result;
use crate::host::probe;
use crate::network::firewall::{Forwarding, Nfnetlink};
use crate::network::guest_addresses::{self, GuestAddresses};
use crate::network::sysctl;
use crate::paths::Paths;
use crate::state::record::Record;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The pause after a change: several addresses are added at once.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// The time without changes that resets the pause.
const CALM: Duration = Duration::from_secs(60);

/// The watch of one supervisor.
#[derive(Debug)]
pub(crate) struct AddressWatch {
    socket: OwnedFd,
    due: Option<Instant>,
    pause: Duration,
    listed: Option<Instant>,
}

/// The result of [`AddressWatch::look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A list is not due.
    Early,
    /// The addresses are those of before.
    Same,
    /// The ports lead to other addresses.
    Changed,
}

impl AddressWatch {
    /// Takes over a socket of [`guest_addresses::subscribe`]. The first list follows at once: between the acts
    /// of the supervisor the addresses are not watched.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, due: Some(Instant::now()), pause: PAUSE, listed: None }
    }

    /// Returns the socket, for epoll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the socket, for the next act.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Notes that there are notifications. The loop does not watch the socket until the next list.
    pub(crate) fn read(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.pause);
    }

    /// Returns the time until the next list. `None` if there is none.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Lists the addresses if that is due, and forwards the ports to them.
    pub(crate) fn look(&mut self, paths: &Paths, record: &mut Record) -> Look {
        if self.time_left() != Some(Duration::ZERO) {
            return Look::Early;
        }
        self.begin_pause();
        // Before the list: later changes are reported again.
        guest_addresses::discard(&self.socket);
        let changed = guest_addresses::list(&self.socket, probe::host_id())
            .and_then(|found| follow(paths, record, found));
        match changed {
            Ok(true) => Look::Changed,
            Ok(false) => Look::Same,
            Err(error) => {
                log::warn!("{error}: the ports of the machine are not forwarded");
                Look::Same
            }
        }
    }

    /// Begins the pause until the next list, a longer one if the last list was not long ago.
    fn begin_pause(&mut self) {
        self.due = None;
        let is_calm = self.listed.is_none_or(|listed| listed.elapsed() > CALM);
        self.pause = if is_calm { PAUSE } else { (self.pause * 2).min(LONGEST) };
        self.listed = Some(Instant::now());
    }
}

/// Forwards the ports to these addresses. Returns whether they are others than before.
fn follow(paths: &Paths, record: &mut Record, targets: GuestAddresses) -> Result<bool> {
    let Some(before) = record.forwarding.clone().filter(|before| before.targets() != targets) else {
        return Ok(false);
    };
    firewall::leave(&Nfnetlink::open(), paths, record, record.part())?;
    record.forwarding = Some(before.with_targets(targets));
    // The record names the elements before they are created.
    record.write(paths)?;
    firewall::join(paths, record)?;
    if targets != GuestAddresses::default()
        && let Err(error) = sysctl::enable()
    {
        log::warn!("{error}: ports of the machine are forwarded from this host only");
    }
    Ok(true)
}

/// Removes the forwarding of the boot before, and sets that of the definition.
///
/// # Errors
/// Any error of nftables, or a record that cannot be written.
pub(crate) fn begin_boot(paths: &Paths, record: &mut Record, defined: Option<Forwarding>) -> Result<()> {
    if record.forwarding.is_some() {
        follow(paths, record, GuestAddresses::default())?;
    }
    record.forwarding = defined;
    record.write(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_a_guest_changes_its_addresses() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut watch = AddressWatch::new(file.into());
        assert_eq!(watch.time_left(), Some(Duration::ZERO), "the first list is due at once");
        let mut pauses = Vec::new();
        for _ in 0..12 {
            watch.begin_pause();
            assert_eq!(watch.time_left(), None, "nothing is due without a notification");
            watch.read();
            watch.read();
            assert!(watch.time_left().is_some_and(|left| left <= watch.pause));
            pauses.push(watch.pause);
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[11]), (PAUSE, LONGEST));
    }
}
