//! Runs a filter program like the kernel, for the tests of `filter`. It implements only the operations in the
//! programs of Coracle and libseccomp, and panics on any other: a program that runs past its end fails the
//! test.

use super::Instruction;

/// A system call as a filter sees it: `struct seccomp_data` of linux/seccomp.h.
pub(crate) struct SeccompData {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

impl SeccompData {
    /// The 32 bit word at an offset, little endian.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 if offset.is_multiple_of(4) => {
                let bytes = self.args[(offset as usize - 16) / 8].to_le_bytes();
                let half = if offset.is_multiple_of(8) { &bytes[..4] } else { &bytes[4..] };
                u32::from_le_bytes(half.try_into().unwrap())
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Returns the program's answer to a call.
pub(crate) fn run(program: &[Instruction], call: &SeccompData) -> u32 {
    let mut at = 0;
    let mut accumulator = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let holds = match u32::from(code) {
            0x20 => {
                accumulator = call.word(k);
                None
            }
            0x05 => {
                at += k as usize;
                None
            }
            0x06 => return k,
            0x54 => {
                accumulator &= k;
                None
            }
            0x15 => Some(accumulator == k),
            0x25 => Some(accumulator > k),
            0x35 => Some(accumulator >= k),
            _ => panic!("operation {code:#x}"),
        };
        at += 1 + holds.map_or(0, |holds| usize::from(if holds { jt } else { jf }));
    }
}
