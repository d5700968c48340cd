//! The command line of schroot(1): a word per line, parsed or refused without a panic.
#![no_main]

use coracle::cli::compat::schroot;
use libfuzzer_sys::fuzz_target;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

fuzz_target!(|text: &[u8]| {
    let words = std::iter::once(&b"schroot"[..]).chain(text.split(|byte| *byte == b'\n'));
    let words: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_vec())).collect();
    if let Err(error) = schroot::check(&words) {
        assert!(!error.to_string().is_empty());
    }
});
