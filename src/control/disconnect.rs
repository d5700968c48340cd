//! The key that leaves a terminal of a machine: `^]` three times within one second, as in machinectl(1). Used
//! by `attach` and `exec`.

use std::time::{Duration, Instant};

/// The byte of `^]`.
const ESCAPE: u8 = 0x1d;
/// The time for three of them.
const WITHIN: Duration = Duration::from_secs(1);

/// Watches typed bytes for the key.
#[derive(Debug, Default)]
pub(super) struct DisconnectKey {
    /// Times of recent keys.
    recent: Vec<Instant>,
}

impl DisconnectKey {
    /// Adds typed bytes. Returns whether the key was typed three times.
    pub(super) fn is_typed(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.is_third(*byte))
    }

    fn is_third(&mut self, byte: u8) -> bool {
        if byte != ESCAPE {
            self.recent.clear();
            return false;
        }
        let now = Instant::now();
        self.recent.retain(|before| now.duration_since(*before) < WITHIN);
        self.recent.push(now);
        self.recent.len() >= 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_keys_in_a_row_disconnect() {
        let mut key = DisconnectKey::default();
        assert!(!key.is_typed(b"\x1d\x1dx\x1d"));
        assert!(!key.is_typed(b"\x1d"));
        assert!(key.is_typed(b"\x1d"));
        assert!(DisconnectKey::default().is_typed(b"exit\x1d\x1d\x1d"));
    }
}
