//! Messages of guest programs to /dev/log: every parsed part is a part of the message.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let parsed = coracle::supervisor::guest::syslog::parse(datagram);
    assert!(parsed.severity < 8 && parsed.facility < 24);
    assert!(parsed.tag.len() + parsed.pid.len() + parsed.text.len() <= datagram.len());
});
