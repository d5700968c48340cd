//! Calls at a machine's control socket.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let _ = coracle::supervisor::control_socket::parse_call(message);
});
