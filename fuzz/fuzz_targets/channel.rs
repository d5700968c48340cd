//! Messages of child processes: decoded or rejected without a panic.
#![no_main]

use coracle::channel::FromPayload;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Ok(FromPayload::Failed(failure)) = serde_json::from_slice(message) {
        let _ = coracle::error::Error::from(failure).to_string();
    }
});
