//! Sizes in bytes as text, with the suffixes of powers of 1024. Used by configuration and output.

/// The suffixes, from 1024 bytes on.
const SUFFIXES: [&str; 6] = ["K", "M", "G", "T", "P", "E"];

/// Returns a size with one decimal in the largest unit: `33.1M`.
pub(crate) fn rounded(bytes: u64) -> String {
    let (mut whole, mut tenths, mut unit) = (bytes, 0, "");
    for suffix in SUFFIXES {
        if whole < 1024 {
            break;
        }
        (tenths, whole, unit) = (whole % 1024 * 10 / 1024, whole / 1024, suffix);
    }
    if unit.is_empty() { format!("{whole}B") } else { format!("{whole}.{tenths}{unit}") }
}

/// Returns a size without loss, in the largest unit that divides it, as in a definition: `512M`.
pub(crate) fn exact(bytes: u64) -> String {
    let (mut number, mut unit) = (bytes, "");
    for suffix in SUFFIXES {
        if number == 0 || !number.is_multiple_of(1024) {
            break;
        }
        (number, unit) = (number / 1024, suffix);
    }
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_down() {
        for (bytes, expected) in
            [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (34_700_000, "33.0M"), (u64::MAX, "15.9E")]
        {
            assert_eq!(rounded(bytes), expected);
        }
    }

    #[test]
    fn sizes_are_exact() {
        for (bytes, expected) in [(0, "0"), (512 << 20, "512M"), ((1 << 20) + 1, "1048577"), (1 << 60, "1E")]
        {
            assert_eq!(exact(bytes), expected);
        }
    }
}
