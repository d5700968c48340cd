//! The system call filter of a machine: which calls it may make, compiled to a program for
//! seccomp(2). Called by `plan`, executed by `payload`. Pure: it neither reads the host nor installs
//! anything.
//!
//! Three answers are possible. A call that a machine may make is allowed. A call that we know and
//! that it may not make gets EPERM. A number that we do not know gets ENOSYS, as from a kernel
//! without it, so that programs fall back on what they did before it existed; the three calls of
//! io_uring get that answer too.
//!
//! Each system call interface that the host's kernel offers has its own tree in the program: on
//! x86-64 the native one and i386. x32, and any interface without a tree, gets ENOSYS. Two limits,
//! both of the kernel's making: 32 bit programs may make sockets by socketcall(2), whose arguments
//! lie in memory where a filter cannot see them, so the rules on `socket` do not reach them; and
//! refusing a single socket or System V call leaves `socketcall` and `ipc` as they are, to be
//! refused by their own names.

mod calls;
mod decide;
mod defaults;
mod groups;
#[cfg(test)]
mod interpreter;
mod program;
#[cfg(test)]
mod reference;

use crate::error::{Error, Result};
use calls::Abi;

/// What a machine may call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The capabilities it retains, bit n for capability n of capabilities(7).
    pub capabilities: u64,
    /// Calls and `@groups` allowed beyond the default list.
    pub allow: Vec<String>,
    /// Calls and `@groups` taken from it; wins over `allow`.
    pub deny: Vec<String>,
}

pub use crate::sys::filter::Instruction;

/// The interfaces that a kernel of this architecture offers and that have a tree.
const NATIVE: &[Abi] = if cfg!(target_arch = "x86_64") {
    &[Abi::X86_64, Abi::I386]
} else if cfg!(target_arch = "aarch64") {
    &[Abi::Aarch64]
} else {
    &[]
};

/// Compiles a policy to a program for this host's architecture.
///
/// # Errors
/// A name in `allow` or `deny` that no call and no group has; an architecture without a table.
pub fn compile(policy: &Policy) -> Result<Vec<Instruction>> {
    if NATIVE.is_empty() {
        return Err(Error::new(format!("no system call filter for '{}'", std::env::consts::ARCH)));
    }
    Ok(program::assemble(NATIVE, &decide::decide(policy)?))
}

#[cfg(test)]
mod tests {
    use super::calls::{Abi, CALLS, COUNT};
    use super::decide::{Action, decide};
    use super::interpreter::{Call, run};
    use super::*;

    const ALL: [Abi; 3] = [Abi::X86_64, Abi::I386, Abi::Aarch64];
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
    }

    fn policy(capabilities: u64, allow: &[&str], deny: &[&str]) -> Policy {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Policy { capabilities, allow: words(allow), deny: words(deny) }
    }

    /// Runs one call through a program that serves all interfaces.
    fn answer(policy: &Policy, abi: Abi, name: &str, args: [u64; 6]) -> u32 {
        let number = CALLS[calls::find(name).unwrap()].number(abi).unwrap();
        let program = program::assemble(&ALL, &decide(policy).unwrap());
        run(&program, &Call { number: u32::try_from(number).unwrap(), arch: abi.audit(), args })
    }

    /// Interprets the program for every number on every interface against the decisions.
    fn compare(actions: &[Action; COUNT]) {
        for abis in [&ALL[..], &ALL[..2], &ALL[2..]] {
            let program = program::assemble(abis, actions);
            assert!(program.len() <= 4096, "{}", program.len());
            for (abi, number) in ALL.into_iter().flat_map(|abi| (0..600).map(move |number| (abi, number))) {
                let row = CALLS.iter().position(|call| call.number(abi) == Some(number));
                let expected = match row.map(|row| actions[row]) {
                    _ if !abis.contains(&abi) => errno(libc::ENOSYS),
                    None | Some(Action::Absent) => errno(libc::ENOSYS),
                    Some(Action::Refuse) => errno(libc::EPERM),
                    Some(Action::Allow | Action::Socket | Action::Ioctl) => ALLOW,
                };
                let call = Call { number: u32::try_from(number).unwrap(), arch: abi.audit(), args: [0; 6] };
                assert_eq!(run(&program, &call), expected, "{abi:?} {number}");
            }
        }
    }

    #[test]
    fn every_number_of_every_interface_is_answered_as_decided() {
        compare(&decide(&policy(0, &[], &[])).unwrap());
        compare(&decide(&policy(u64::MAX, &[], &[])).unwrap());
        compare(&decide(&policy(0, &["@known"], &[])).unwrap());
        compare(&decide(&policy(0, &[], &["@known"])).unwrap());
    }

    #[test]
    fn programs_that_need_long_jumps_are_right_too() {
        for stride in [2, 3, 5] {
            let mut actions = [Action::Refuse; COUNT];
            for (at, action) in actions.iter_mut().enumerate() {
                *action = if at % stride == 0 { Action::Allow } else { Action::Refuse };
            }
            compare(&actions);
        }
        let mut by_number = [Action::Refuse; COUNT];
        for (call, action) in CALLS.iter().zip(&mut by_number) {
            let odd = ALL.iter().find_map(|abi| call.number(*abi)).is_some_and(|number| number % 2 == 1);
            *action = if odd { Action::Allow } else { Action::Refuse };
        }
        compare(&by_number);
    }

    #[test]
    fn the_program_of_this_host_is_small() {
        let program = compile(&policy(0, &[], &[])).unwrap();
        assert!(program.len() < 260, "{} instructions", program.len());
    }

    #[test]
    fn numbers_beyond_the_tables_do_not_exist() {
        let program = program::assemble(&ALL, &decide(&policy(u64::MAX, &["@known"], &[])).unwrap());
        let x32 = 0x4000_0000;
        for (number, abi) in [(x32, Abi::X86_64), (x32 + 1, Abi::X86_64), (x32 + 520, Abi::X86_64)]
            .into_iter()
            .chain(ALL.map(|abi| (u32::MAX, abi)))
        {
            let call = Call { number, arch: abi.audit(), args: [0; 6] };
            assert_eq!(run(&program, &call), errno(libc::ENOSYS), "{abi:?} {number:#x}");
        }
        for arch in [0, 0x4000_0028, 0xc000_00f3] {
            let call = Call { number: 1, arch, args: [0; 6] };
            assert_eq!(run(&program, &call), errno(libc::ENOSYS), "{arch:#x}");
        }
    }

    #[test]
    fn sockets_of_refused_families_are_not_supported() {
        let dirt = 0xdead_beef_0000_0000;
        for (family, protocol, expected) in [
            (libc::AF_VSOCK, 0, errno(libc::EAFNOSUPPORT)),
            (libc::AF_ALG, 0, errno(libc::EAFNOSUPPORT)),
            (libc::AF_NETLINK, libc::NETLINK_AUDIT, errno(libc::EAFNOSUPPORT)),
            (libc::AF_NETLINK, libc::NETLINK_ROUTE, ALLOW),
            (libc::AF_INET, libc::NETLINK_AUDIT, ALLOW),
            (libc::AF_UNIX, 0, ALLOW),
        ] {
            for (abi, dirt) in ALL.into_iter().flat_map(|abi| [(abi, 0), (abi, dirt)]) {
                let word = |value: i32| u64::from(value.cast_unsigned()) | dirt;
                let args = [word(family), word(2), word(protocol), 0, 0, 0];
                assert_eq!(answer(&policy(0, &[], &[]), abi, "socket", args), expected, "{abi:?} {family}");
            }
        }
        let refused = policy(0, &[], &["socket"]);
        assert_eq!(answer(&refused, Abi::X86_64, "socket", [1, 1, 0, 0, 0, 0]), errno(libc::EPERM));
    }

    #[test]
    fn nothing_types_into_terminals_whatever_the_high_bits_say() {
        for (request, expected) in [(0x5412, errno(1)), (0x541c, errno(1)), (0x5413, ALLOW), (0, ALLOW)] {
            for (abi, high) in
                ALL.into_iter().flat_map(|abi| [(abi, 0), (abi, 1 << 32), (abi, u64::MAX << 32)])
            {
                let args = [0, request | high, 0, 0, 0, 0];
                assert_eq!(
                    answer(&policy(0, &[], &[]), abi, "ioctl", args),
                    expected,
                    "{abi:?} {request:#x}"
                );
            }
        }
        assert_eq!(
            answer(&policy(0, &["ioctl"], &[]), Abi::I386, "ioctl", [0, 0x5412, 0, 0, 0, 0]),
            errno(1)
        );
    }
}
