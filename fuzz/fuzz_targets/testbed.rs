//! Requests of autopkgtest(1): parsed or refused without a panic.
#![no_main]

use coracle::control::testbed::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Err(error) = Request::parse(line) {
        assert!(!error.to_string().is_empty());
    }
});
