//! binfmt_misc: whether this host has an emulator for a program of another architecture, registered or only
//! installed. Called by `probe`, and by `run` for build sessions. It reads the kernel's list and runs no program.

use crate::plan::Emulator;
use std::io::Read;
use std::path::{Path, PathBuf};

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

/// Returns whether the kernel has a binfmt_misc for each user namespace (Linux 6.7).
pub(crate) fn is_separate() -> bool {
    let kernel = rustix::system::uname();
    let mut numbers =
        kernel.release().to_str().unwrap_or_default().split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    (number(), number()) >= (6, 7)
}

/// The directories of emulators.
const DIRECTORIES: [&str; 2] = ["/usr/local/bin", "/usr/bin"];
/// The part of a program before which its program headers are expected: they follow its header (elf(5)).
const HEAD: u64 = 4096;

/// Returns an emulator of QEMU that is installed on this host, for programs with this header and of this
/// architecture. It needs no file of a tree: a linked one would need the libraries of the host there.
pub(crate) fn installed(program: &[u8], architecture: &str) -> Option<Emulator> {
    installed_in(&DIRECTORIES.map(Path::new), program, architecture)
}

fn installed_in(directories: &[&Path], program: &[u8], architecture: &str) -> Option<Emulator> {
    let name = format!("qemu-{}", of_qemu(architecture, program.get(5) == Some(&2)));
    let paths = [format!("{name}-static"), name.clone()];
    let candidates =
        paths.iter().flat_map(|path| directories.iter().map(move |directory| directory.join(path)));
    let found: PathBuf =
        candidates.into_iter().find(|path| head(path).is_some_and(|head| is_static(&head)))?;
    Some(Emulator { program: found, name, magic: magic(program)? })
}

/// Returns the name of an architecture in the names of the programs of QEMU.
fn of_qemu(architecture: &str, is_big: bool) -> &str {
    match (architecture, is_big) {
        ("x86", _) => "i386",
        ("arm", true) => "armeb",
        ("aarch64", true) => "aarch64_be",
        ("powerpc", _) => "ppc",
        ("powerpc64", true) => "ppc64",
        ("powerpc64", false) => "ppc64le",
        ("mips", false) => "mipsel",
        ("mips64", false) => "mips64el",
        (other, _) => other,
    }
}

/// Returns the start of a file. `None` if there is none.
fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Returns whether a program of 64 bits and of this byte order has no interpreter (elf(5), `PT_INTERP`).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let bytes = |at: usize, length: usize| program.get(at..at.checked_add(length)?);
    let short = |at| bytes(at, 2).and_then(|two| Some(usize::from(u16::from_ne_bytes(two.try_into().ok()?))));
    let headers = || {
        let start = usize::try_from(u64::from_ne_bytes(bytes(32, 8)?.try_into().ok()?)).ok()?;
        let (size, count) = (short(54)?, short(56)?);
        let kind = |number: usize| {
            let at = start.checked_add(number.checked_mul(size)?)?;
            Some(u32::from_ne_bytes(bytes(at, 4)?.try_into().ok()?))
        };
        (0..count).map(kind).collect::<Option<Vec<u32>>>()
    };
    program.starts_with(b"\x7fELF\x02") && headers().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}

/// Returns the start of programs like this one, and the bits that count, in the notation of the kernel: class,
/// byte order and machine, for executables and for those that are position-independent.
fn magic(program: &[u8]) -> Option<String> {
    let mut magic = program.get(..20)?.to_vec();
    let mut mask = vec![0xff; 20];
    // e_ident[EI_OSABI] and the padding after it, then e_type: ET_EXEC is 2, ET_DYN 3.
    magic.get_mut(7..16)?.fill(0);
    *mask.get_mut(7)? = 0;
    let low = if program.get(5) == Some(&2) { 17 } else { 16 };
    *magic.get_mut(low)? = 2;
    *mask.get_mut(low)? = 0xfe;
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    Some(format!("{}:{}", escaped(&magic), escaped(&mask)))
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
    fn an_emulator_must_not_need_libraries() {
        let directory = tempfile::tempdir().unwrap();
        let mut arm = b"\x7fELF\x02\x01\x01\x03".to_vec();
        arm.resize(16, 0);
        arm.extend([3, 0, 183, 0]);
        let find = || installed_in(&[directory.path()], &arm, "aarch64");
        assert_eq!(find(), None);
        // This program is linked.
        std::fs::copy("/bin/sh", directory.path().join("qemu-aarch64")).unwrap();
        assert_eq!(find(), None);
        let mut linked_static = b"\x7fELF\x02\x01\x01".to_vec();
        linked_static.resize(120, 0);
        (linked_static[32], linked_static[54], linked_static[56], linked_static[64]) = (64, 56, 1, 1);
        std::fs::write(directory.path().join("qemu-aarch64"), &linked_static).unwrap();
        let found = find().unwrap();
        assert_eq!(
            (found.program, found.name.as_str()),
            (directory.path().join("qemu-aarch64"), "qemu-aarch64")
        );
        assert_eq!(
            found.magic,
            r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
        );
        linked_static[64] = 3;
        std::fs::write(directory.path().join("qemu-aarch64"), &linked_static).unwrap();
        assert_eq!(find(), None);
        assert_eq!(of_qemu("powerpc64", false), "ppc64le");
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
