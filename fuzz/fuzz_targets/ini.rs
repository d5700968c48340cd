//! Files in the syntax of systemd.syntax(7), and the words of their values: assignments and problems have
//! lines in order, and no input causes a panic.
#![no_main]

use coracle::config::ini::{read, words};
use coracle::config::layer::Origin;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &[u8]| {
    let (assignments, problems) = read(Path::new("x.service"), text, &["Unit", "Service"]);
    let mut last = 0;
    for assignment in &assignments {
        let Origin::File { line, .. } = assignment.origin else { panic!("an assignment without a line") };
        assert!(line > last);
        last = line;
        assert!(["Unit", "Service"].contains(&assignment.section.as_str()));
        assert!(!assignment.key.is_empty() && !assignment.value.contains('\n'));
        for word in words(&assignment.value).unwrap_or_default() {
            assert!(word.len() <= assignment.value.len());
        }
    }
    for problem in problems {
        assert!(problem.to_string().starts_with("x.service:"));
    }
});
