//! Files of systemd.nspawn(5): every problem has a line, and no input causes a panic.
#![no_main]

use coracle::config::nspawn::{Trust, parse};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &[u8]| {
    for trust in [Trust::Trusted, Trust::Untrusted] {
        let (_, problems) = parse(Path::new("web.nspawn"), trust, text);
        for problem in problems {
            assert!(problem.to_string().starts_with("web.nspawn:"));
        }
    }
});
