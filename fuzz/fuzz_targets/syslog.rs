//! What programs of a guest write to /dev/log: every part is a part of what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let parsed = coracle::supervisor::guest::syslog::parse(datagram);
    assert!(parsed.severity < 8 && parsed.facility < 24);
    assert!(parsed.tag.len() + parsed.pid.len() + parsed.text.len() <= datagram.len());
});
