//! The command line of systemd-nspawn(1): a word per line. Each problem is one line of text, and no words
//! cause a panic.
#![no_main]

use coracle::cli::nspawn::Nspawn;
use libfuzzer_sys::fuzz_target;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Options that print a text or read files of the host.
const SKIPPED: [&[u8]; 3] = [b"--h", b"--ver", b"--load"];

fuzz_target!(|text: &[u8]| {
    let lines = || text.split(|byte| *byte == b'\n');
    if lines().any(|line| SKIPPED.iter().any(|option| line.starts_with(option))) || lines().any(is_help) {
        return;
    }
    let words = std::iter::once(&b"systemd-nspawn"[..]).chain(lines());
    let words: Vec<OsString> = words.map(|word| OsString::from_vec(word.to_vec())).collect();
    match Nspawn::parse(&words) {
        Ok(Some(mut nspawn)) => {
            if let Err(failures) = nspawn.options() {
                assert!(!failures.0.is_empty());
            }
        }
        Ok(None) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// Returns whether a word may request a text.
fn is_help(line: &[u8]) -> bool {
    line.ends_with(b"help") || line.starts_with(b"-") && line.contains(&b'h')
}
