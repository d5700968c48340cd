//! binfmt_misc: whether this host has an emulator for a program of another architecture. Called by `probe`.
//! It reads the kernel's list and runs no program.

use std::path::Path;

/// The kernel's list of registered formats (Documentation/admin-guide/binfmt-misc.rst).
const FORMATS: &str = "/proc/sys/fs/binfmt_misc";

/// Returns whether an enabled interpreter accepts programs with this header. An interpreter without the flag
/// `F` does not count, because the kernel looks it up inside the tree.
pub(crate) fn takes(program: &[u8]) -> bool {
    takes_in(Path::new(FORMATS), program)
}

fn takes_in(formats: &Path, program: &[u8]) -> bool {
    let entries = std::fs::read_dir(formats).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(|text| matches(&text, program))
}

/// Returns whether a format, in the notation of the kernel, is enabled and matches.
fn matches(format: &str, program: &[u8]) -> bool {
    let value = |key: &str| format.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let is_kept_open = value("flags:").is_some_and(|flags| flags.contains('F'));
    let Some(magic) = value("magic ").and_then(bytes).filter(|magic| !magic.is_empty()) else {
        return false;
    };
    let mask = value("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let offset = value("offset ").and_then(|offset| offset.parse().ok()).unwrap_or(0);
    let Some(begin) = program.get(offset..).filter(|rest| rest.len() >= magic.len()) else { return false };
    format.starts_with("enabled")
        && is_kept_open
        && begin.iter().zip(&magic).zip(&mask).all(|((byte, magic), mask)| byte & mask == magic & mask)
}

/// Parses hex digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\noffset 0\n\
                          magic 7f454c460201\nmask ffffffffff00\n";

    #[test]
    fn disabled_and_other_formats_are_ignored() {
        let program = b"\x7fELF\x02\x02rest";
        assert!(matches(FORMAT, program));
        for (from, to) in [("enabled", "disabled"), ("OCF", "OC"), ("7f45", "7f46"), ("magic", "extension")] {
            assert!(!matches(&FORMAT.replace(from, to), program), "{from} {to}");
        }
        assert!(!matches(FORMAT, b"\x7fEL") && !matches("", program) && !matches("magic zz\n", program));
    }

    #[test]
    fn formats_are_files_of_a_directory() {
        let formats = tempfile::tempdir().unwrap();
        assert!(!takes_in(formats.path(), b"\x7fELF\x02\x01"));
        std::fs::write(formats.path().join("status"), "enabled\n").unwrap();
        std::fs::write(formats.path().join("qemu-aarch64"), FORMAT).unwrap();
        assert!(takes_in(formats.path(), b"\x7fELF\x02\x01"));
        assert!(!takes_in(&formats.path().join("none"), b"\x7fELF\x02\x01"));
    }
}
