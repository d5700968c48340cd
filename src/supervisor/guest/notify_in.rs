//! Notifications of the guest's PID 1 (sd_notify(3)), with bounds. Called by the event loop.

use super::descriptor_store::DescriptorStore;
use super::inbox::{Inbox, Received};

/// A notification of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// `READY=1`: the system is up.
    Ready,
    /// `STATUS=`: one line of text.
    Status(String),
    /// `STOPPING=1`: the system shuts down.
    Stopping,
    /// Any other assignment: possible progress.
    Other(String),
}

/// The longest accepted status, characters.
const STATUS_LIMIT: usize = 200;

/// Receives the pending notifications. Ignores those of other processes than the leader. Requests for the
/// store of the service are sent on.
#[inline(never)]
pub(crate) fn receive(
    inbox: &mut Inbox,
    leader: u32,
    store: &mut Option<DescriptorStore>,
) -> Vec<Notification> {
    let mut words = Vec::new();
    let mut buffer = [0u8; 4096];
    // Bounded: the loop handles other events before further notifications of a flooding guest.
    for _ in 0..32 {
        let Some(received) = next(inbox, &mut buffer, leader, store) else { break };
        if received.sender == Some(leader) {
            words.extend(parse(buffer.get(..received.length).unwrap_or_default()));
        }
    }
    words
}

/// Receives the remaining notifications of an ended guest: only its requests for the store count.
pub(crate) fn drain(inbox: &mut Inbox, leader: u32, store: &mut Option<DescriptorStore>) {
    let mut buffer = [0u8; 4096];
    while next(inbox, &mut buffer, leader, store).is_some() {}
}

/// Receives the next datagram, and sends on what the leader stores or removes.
fn next(
    inbox: &mut Inbox,
    buffer: &mut [u8],
    leader: u32,
    store: &mut Option<DescriptorStore>,
) -> Option<Received> {
    let of_leader = |sender: Option<u32>| sender == Some(leader);
    let received = inbox.receive_sending(buffer, |datagram, sender| {
        store.as_mut().filter(|_| of_leader(sender))?.message(datagram)
    })?;
    if let Some(store) = store.as_mut().filter(|_| of_leader(received.sender)) {
        store.remove(buffer.get(..received.length).unwrap_or_default());
    }
    Some(received)
}

/// Parses the assignments of one datagram.
pub fn parse(datagram: &[u8]) -> Vec<Notification> {
    let text = String::from_utf8_lossy(datagram);
    let bounded = |text: &str| text.chars().filter(|c| !c.is_control()).take(STATUS_LIMIT).collect();
    let word = |line: &str| match line.split_once('=') {
        Some(("READY", "1")) => Notification::Ready,
        Some(("STOPPING", "1")) => Notification::Stopping,
        Some(("STATUS", status)) => Notification::Status(bounded(status)),
        _ => Notification::Other(bounded(line)),
    };
    let mut words: Vec<_> = text.lines().take(64).map(word).collect();
    // The status of a machine that is ready is that of the same datagram.
    words.sort_by_key(|word| *word == Notification::Ready);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_become_notifications() {
        assert_eq!(
            parse(b"READY=1\nSTATUS=Startup \x1bfinished.\nX_SYSTEMD_UNIT_ACTIVE=a.target"),
            [
                Notification::Status("Startup finished.".into()),
                Notification::Other("X_SYSTEMD_UNIT_ACTIVE=a.target".into()),
                Notification::Ready
            ]
        );
        assert_eq!(
            parse(b"READY=0\nSTOPPING=1\n"),
            [Notification::Other("READY=0".into()), Notification::Stopping]
        );
        assert!(parse(b"").is_empty());
    }

    #[test]
    fn invalid_datagrams_are_bounded() {
        assert_eq!(parse(&[b'\n'; 4096]).len(), 64);
        assert_eq!(
            parse(format!("STATUS={}", "x".repeat(4000)).as_bytes()),
            [Notification::Status("x".repeat(200))]
        );
        assert_eq!(parse(&[0xff; 100]), [Notification::Other("\u{fffd}".repeat(100))]);
    }
}
