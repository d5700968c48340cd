//! Notifications of a guest's PID 1: bounded in size and safe to print on a terminal.
#![no_main]

use coracle::supervisor::guest::notify_in::{Notification, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let words = parse(datagram);
    assert!(words.len() <= 64);
    for word in words {
        if let Notification::Status(status) | Notification::Other(status) = word {
            assert!(status.chars().count() <= 200 && !status.chars().any(char::is_control));
        }
    }
});
