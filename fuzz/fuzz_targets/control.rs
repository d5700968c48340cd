//! Requests to the control socket of a machine.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let _ = coracle::protocol::Call::parse(message);
});
