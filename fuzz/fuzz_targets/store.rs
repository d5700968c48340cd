//! Requests of a guest's PID 1 for the descriptor store of its service: their names cannot add further
//! assignments to the message for the service manager.
#![no_main]

use coracle::supervisor::guest::descriptor_store::{StoreRequest, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    if let Some(StoreRequest::Store { name, .. } | StoreRequest::Remove(name)) = parse(datagram) {
        assert!(name.starts_with("payload-") && name.len() <= 255);
        assert!(name.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b':'));
    }
});
