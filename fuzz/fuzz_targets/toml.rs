//! Definitions: every error has a position in the text, and no input causes a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let (_, problems) = coracle::config::toml::read(Path::new("web.toml"), text);
    for problem in problems {
        let _ = problem.to_string();
    }
});
