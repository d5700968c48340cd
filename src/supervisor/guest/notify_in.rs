//! What the guest's PID 1 tells its manager (sd_notify(3)), read with bounds and passed on.

use super::inbox::Inbox;

/// Something a guest said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// `READY=1`: the system is up.
    Ready,
    /// `STATUS=`: one line for people.
    Status(String),
    /// `STOPPING=1`: it goes down.
    Stopping,
    /// Anything else: it may make progress.
    Other(String),
}

/// The longest status passed on, characters.
const STATUS_LIMIT: usize = 200;

/// Receives the pending notifications. Those of other processes than the leader do not count.
pub fn receive(inbox: &mut Inbox, leader: u32) -> Vec<Notification> {
    let mut words = Vec::new();
    let mut buffer = [0u8; 4096];
    // Bounded: a guest that speaks without end gets its turn again after everybody else had one.
    for _ in 0..32 {
        let Some(received) = inbox.receive(&mut buffer) else { break };
        if received.sender == Some(leader) {
            words.extend(parse(buffer.get(..received.length).unwrap_or_default()));
        }
    }
    words
}

/// The assignments of one datagram.
pub fn parse(datagram: &[u8]) -> Vec<Notification> {
    let text = String::from_utf8_lossy(datagram);
    let bounded = |text: &str| text.chars().filter(|c| !c.is_control()).take(STATUS_LIMIT).collect();
    let word = |line: &str| match line.split_once('=') {
        Some(("READY", "1")) => Notification::Ready,
        Some(("STOPPING", "1")) => Notification::Stopping,
        Some(("STATUS", status)) => Notification::Status(bounded(status)),
        _ => Notification::Other(bounded(line)),
    };
    text.lines().take(64).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_become_words() {
        assert_eq!(
            parse(b"READY=1\nSTATUS=Startup \x1bfinished.\nX_SYSTEMD_UNIT_ACTIVE=a.target"),
            [
                Notification::Ready,
                Notification::Status("Startup finished.".into()),
                Notification::Other("X_SYSTEMD_UNIT_ACTIVE=a.target".into())
            ]
        );
        assert_eq!(
            parse(b"READY=0\nSTOPPING=1\n"),
            [Notification::Other("READY=0".into()), Notification::Stopping]
        );
        assert!(parse(b"").is_empty());
    }

    #[test]
    fn noise_has_bounds() {
        assert_eq!(parse(&[b'\n'; 4096]).len(), 64);
        assert_eq!(
            parse(format!("STATUS={}", "x".repeat(4000)).as_bytes()),
            [Notification::Status("x".repeat(200))]
        );
        assert_eq!(parse(&[0xff; 100]), [Notification::Other("\u{fffd}".repeat(100))]);
    }
}
