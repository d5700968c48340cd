//! Machine names: a valid name is safe in a path, in a unit name and on a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = coracle::machine::name::Name::new(text) {
        let name = name.as_str();
        assert!(name == text && !name.is_empty() && name.len() <= 64);
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{name}");
        assert!(!name.starts_with(['.', '-']) && !name.contains(".."), "{name}");
    }
});
