//! `config.json` of OCI bundles: every problem names the file, and no input causes a panic.
#![no_main]

use coracle::config::bundle::layer;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &[u8]| {
    let (_, problems) = layer(Path::new("/b"), text);
    for problem in problems {
        assert!(problem.to_string().starts_with("/b/config.json: "));
    }
});
