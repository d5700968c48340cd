//! The known system calls: their numbers by architecture and their groups. Facts only, read by `defaults`,
//! `decide` and `program`.

mod syscall_table;

use super::groups::{Groups, KNOWN};

pub(crate) use syscall_table::{CALLS, COUNT};

/// The number of a call that an architecture lacks.
const NO: u16 = u16::MAX;

/// One system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syscall {
    /// Its name in the kernel's headers.
    pub(crate) name: &'static str,
    /// Its numbers on x86-64, i386 and aarch64, in this order; `NO` if there is none.
    numbers: [u16; 3],
    /// Its groups, always with `KNOWN`.
    pub(crate) groups: Groups,
}

/// A system call interface of a Linux kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    /// 64 bit x86. The x32 interface shares its architecture value, with bit 30 set in the number.
    X86_64,
    /// 32 bit x86.
    I386,
    /// 64 bit ARM.
    Aarch64,
}

impl Abi {
    /// Returns `seccomp_data.arch` for a call by this interface (`AUDIT_ARCH_*` of linux/audit.h).
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

impl Syscall {
    /// Returns its number. `None` if the interface lacks it.
    pub(crate) fn number(&self, abi: Abi) -> Option<usize> {
        let number = match abi {
            Abi::X86_64 => self.numbers[0],
            Abi::I386 => self.numbers[1],
            Abi::Aarch64 => self.numbers[2],
        };
        (number != NO).then_some(usize::from(number))
    }
}

/// A row of the table.
const fn call(name: &'static str, numbers: [u16; 3], groups: Groups) -> Syscall {
    Syscall { name, numbers, groups: groups | KNOWN }
}

/// Returns the row of a call in [`CALLS`], by its name.
pub(crate) fn find(name: &str) -> Option<usize> {
    CALLS.binary_search_by(|call| call.name.cmp(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_without_duplicates() {
        assert!(CALLS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64] {
            let mut numbers: Vec<_> = CALLS.iter().filter_map(|call| call.number(abi)).collect();
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{abi:?}");
        }
    }

    #[test]
    fn numbers_from_424_on_are_the_same_everywhere() {
        for call in CALLS.iter().filter(|call| call.number(Abi::X86_64) >= Some(424)) {
            for abi in [Abi::I386, Abi::Aarch64] {
                let number = call.number(abi);
                assert!(number.is_none() || number == call.number(Abi::X86_64), "{}", call.name);
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_c_library() {
        let native = if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 };
        for (name, number) in [
            ("read", libc::SYS_read),
            ("ioctl", libc::SYS_ioctl),
            ("socket", libc::SYS_socket),
            ("clone3", libc::SYS_clone3),
            ("mseal", libc::SYS_mseal),
        ] {
            let row = find(name).unwrap();
            assert_eq!(CALLS[row].number(native), usize::try_from(number).ok(), "{name}");
        }
    }
}
