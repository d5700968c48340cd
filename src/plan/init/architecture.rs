//! The architecture of a program, so that a tree of another architecture is refused by name instead of "exec
//! format error". Called through `plan::init`; the caller checks for an emulator on the host (binfmt_misc).

use crate::error::{Error, Result};

/// The magic numbers of elf(5) and of scripts, execve(2).
const ELF: &[u8] = b"\x7fELF";
const SCRIPT: &[u8] = b"#!";

/// The architecture that a program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Any: a script, which depends on its interpreter.
    Any,
    /// A name of [`std::env::consts::ARCH`], or `x32`.
    Named(&'static str),
}

impl Architecture {
    /// Refuses a program that a host of architecture `host` cannot run. 64 bit x86 runs 32 bit x86; other 32
    /// bit programs have no system call filter and run only on a host of their own architecture.
    ///
    /// # Errors
    /// `init is for aarch64, this host is x86_64`, for example.
    pub(crate) fn check(self, host: &str) -> Result<()> {
        match self {
            Self::Named(name) if name != host && (name, host) != ("x86", "x86_64") => {
                Err(Error::new(format!("init is for {name}, this host is {host}"))
                    .with_hint(format!("use a tree for {host}")))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the architecture of a program from its first bytes; 20 suffice.
///
/// # Errors
/// An empty or truncated file, neither ELF nor a script, or an architecture unknown to Linux.
pub(crate) fn architecture(binary: &[u8]) -> Result<Architecture> {
    if binary.starts_with(SCRIPT) {
        return Ok(Architecture::Any);
    }
    if binary.is_empty() {
        return Err(Error::new("init is empty").with_hint("the tree is incomplete: create or copy it again"));
    }
    if !binary.starts_with(ELF) {
        return Err(Error::new("init is not a program: neither an ELF file nor a script"));
    }
    // e_ident[EI_CLASS], e_ident[EI_DATA], e_machine.
    let &[_, _, _, _, class, order, _, _, _, _, _, _, _, _, _, _, _, _, first, second, ..] = binary else {
        return Err(
            Error::new("init is truncated").with_hint("the tree is incomplete: create or copy it again")
        );
    };
    let machine = match order {
        1 => u16::from_le_bytes([first, second]),
        2 => u16::from_be_bytes([first, second]),
        _ => return Err(Error::new("init is not a program: its ELF header is damaged")),
    };
    name(machine, class == 2)
        .map(Architecture::Named)
        .ok_or_else(|| Error::new(format!("init is for an unknown architecture (ELF machine {machine})")))
}

/// Returns the name of an ELF machine, `EM_*` of linux/elf-em.h.
fn name(machine: u16, wide: bool) -> Option<&'static str> {
    Some(match (machine, wide) {
        (3, _) => "x86",
        (62, true) => "x86_64",
        (62, false) => "x32",
        (40, _) => "arm",
        (183, _) => "aarch64",
        (243, true) => "riscv64",
        (243, false) => "riscv32",
        (20, _) => "powerpc",
        (21, _) => "powerpc64",
        (22, _) => "s390x",
        (8, true) => "mips64",
        (8, false) => "mips",
        (258, _) => "loongarch64",
        (2 | 18, _) => "sparc",
        (43, _) => "sparc64",
        (4, _) => "m68k",
        (15, _) => "hppa",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut bytes = ELF.to_vec();
        bytes.extend([class, order]);
        bytes.resize(18, 0);
        bytes.extend(machine);
        bytes
    }

    #[test]
    fn architectures_are_read_from_the_elf_header() {
        for (bytes, name) in [
            (elf(2, 1, [62, 0]), "x86_64"),
            (elf(1, 1, [62, 0]), "x32"),
            (elf(1, 1, [3, 0]), "x86"),
            (elf(2, 1, [183, 0]), "aarch64"),
            (elf(2, 2, [0, 22]), "s390x"),
            (elf(2, 1, [2, 1]), "loongarch64"),
        ] {
            assert_eq!(architecture(&bytes).unwrap(), Architecture::Named(name));
        }
        assert_eq!(architecture(b"#!/bin/sh\n").unwrap(), Architecture::Any);
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(architecture(&own).unwrap(), Architecture::Named(std::env::consts::ARCH));
    }

    #[test]
    fn invalid_programs_are_errors() {
        for (bytes, message) in [
            (Vec::new(), "init is empty"),
            (b"hello".to_vec(), "init is not a program: neither an ELF file nor a script"),
            (elf(2, 1, [62, 0])[..19].to_vec(), "init is truncated"),
            (elf(2, 7, [62, 0]), "init is not a program: its ELF header is damaged"),
            (elf(2, 1, [255, 255]), "init is for an unknown architecture (ELF machine 65535)"),
        ] {
            assert_eq!(architecture(&bytes).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn foreign_programs_are_refused_by_name() {
        let error = Architecture::Named("aarch64").check("x86_64").unwrap_err();
        assert_eq!(error.to_string(), "init is for aarch64, this host is x86_64");
        assert!(Architecture::Named("x32").check("x86_64").is_err());
        assert!(Architecture::Named("x86_64").check("x86").is_err());
        for (name, host) in [("x86_64", "x86_64"), ("x86", "x86_64"), ("aarch64", "aarch64")] {
            assert!(Architecture::Named(name).check(host).is_ok());
        }
        assert!(Architecture::Any.check("aarch64").is_ok());
    }
}
