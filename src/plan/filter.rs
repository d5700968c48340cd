//! The system call filter of a machine, compiled to a program for seccomp(2). Called by `plan`, loaded by
//! `payload`. Pure: it neither reads the host nor loads the program.
//!
//! There are three answers. Permitted calls are allowed. Other known calls fail with EPERM. Unknown numbers
//! fail with ENOSYS, as on a kernel without the call, so that programs fall back to older calls; so do the
//! three calls of io_uring.
//!
//! Each system call interface of the host's kernel has its own tree in the program: on x86-64 the native one
//! and i386. x32, and any interface without a tree, gets ENOSYS. The multiplexers socketcall(2) and ipc(2) of
//! i386 are answered as the calls that they make. The socket family of `socketcall` is in memory, which a
//! filter cannot read: the call exists only for machines that need it.

mod calls;
mod decide;
mod defaults;
mod groups;
#[cfg(test)]
mod interpreter;
mod multiplexer;
mod profile;
mod program;
#[cfg(test)]
mod reference;

use crate::error::{Error, Result};
use crate::machine::address_families::AddressFamilies;
use crate::machine::syscall_profile::SyscallProfile;
use calls::Abi;

/// The system calls of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Its capabilities, bit n for capability n of capabilities(7).
    pub(crate) capabilities: u64,
    /// Calls and `@groups` allowed beyond the default list.
    pub(crate) allow: Vec<String>,
    /// Denied calls and `@groups`; they win over `allow`.
    pub(crate) deny: Vec<String>,
    /// Whether the machine needs socketcall(2): its programs are built for 32 bit x86.
    pub(crate) socketcall: bool,
    /// Whether calls that write files to the disk only pretend to do so.
    pub(crate) suppress_sync: bool,
    /// The address families of sockets.
    pub(crate) families: AddressFamilies,
    /// The profile that replaces all of these.
    pub(crate) profile: Option<SyscallProfile>,
}

pub(crate) use crate::sys::filter::Instruction;
pub(crate) use decide::is_known;

/// The interfaces of a kernel of this architecture that have a tree.
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
/// An unknown name in `allow` or `deny`, or an architecture without a table.
pub fn compile(policy: &Policy) -> Result<Vec<Instruction>> {
    if NATIVE.is_empty() {
        return Err(Error::new(format!("no system call filter for '{}'", std::env::consts::ARCH)));
    }
    if let Some(profile) = &policy.profile {
        return profile::assemble(NATIVE, profile);
    }
    Ok(program::assemble(NATIVE, &decide::decide(policy)?, &policy.families))
}

#[cfg(test)]
mod tests {
    use super::calls::{Abi, CALLS, COUNT};
    use super::decide::{SeccompAction, decide};
    use super::interpreter::{SeccompData, run};
    use super::*;

    const ALL: [Abi; 3] = [Abi::X86_64, Abi::I386, Abi::Aarch64];
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
    }

    fn policy(capabilities: u64, allow: &[&str], deny: &[&str]) -> Policy {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (allow, deny) = (words(allow), words(deny));
        Policy { capabilities, allow, deny, ..Policy::default() }
    }

    /// Runs one call through a program that serves all interfaces.
    fn answer(policy: &Policy, abi: Abi, name: &str, args: [u64; 6]) -> u32 {
        let number = CALLS[calls::find(name).unwrap()].number(abi).unwrap();
        let program = program::assemble(&ALL, &decide(policy).unwrap(), &policy.families);
        run(&program, &SeccompData { number: u32::try_from(number).unwrap(), arch: abi.audit(), args })
    }

    /// Runs the program for every number on every interface and compares the answers with the decisions.
    fn compare(actions: &[SeccompAction; COUNT]) {
        for abis in [&ALL[..], &ALL[..2], &ALL[2..]] {
            let program = program::assemble(abis, actions, &AddressFamilies::All);
            assert!(program.len() <= 4096, "{}", program.len());
            for (abi, number) in ALL.into_iter().flat_map(|abi| (0..600).map(move |number| (abi, number))) {
                let row = CALLS.iter().position(|call| call.number(abi) == Some(number));
                let expected = match row.map(|row| actions[row]) {
                    _ if !abis.contains(&abi) => errno(libc::ENOSYS),
                    None | Some(SeccompAction::Absent) => errno(libc::ENOSYS),
                    Some(SeccompAction::Refuse) => errno(libc::EPERM),
                    Some(_) => ALLOW,
                };
                let call =
                    SeccompData { number: u32::try_from(number).unwrap(), arch: abi.audit(), args: [0; 6] };
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
    fn programs_with_long_jumps_are_correct() {
        for stride in [2, 3, 5] {
            let mut actions = [SeccompAction::Refuse; COUNT];
            for (at, action) in actions.iter_mut().enumerate() {
                *action = if at % stride == 0 { SeccompAction::Allow } else { SeccompAction::Refuse };
            }
            compare(&actions);
        }
        let mut by_number = [SeccompAction::Refuse; COUNT];
        for (call, action) in CALLS.iter().zip(&mut by_number) {
            let odd = ALL.iter().find_map(|abi| call.number(*abi)).is_some_and(|number| number % 2 == 1);
            *action = if odd { SeccompAction::Allow } else { SeccompAction::Refuse };
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
        let program = program::assemble(
            &ALL,
            &decide(&policy(u64::MAX, &["@known"], &[])).unwrap(),
            &AddressFamilies::All,
        );
        let x32 = 0x4000_0000;
        for (number, abi) in [(x32, Abi::X86_64), (x32 + 1, Abi::X86_64), (x32 + 520, Abi::X86_64)]
            .into_iter()
            .chain(ALL.map(|abi| (u32::MAX, abi)))
        {
            let call = SeccompData { number, arch: abi.audit(), args: [0; 6] };
            assert_eq!(run(&program, &call), errno(libc::ENOSYS), "{abi:?} {number:#x}");
        }
        for arch in [0, 0x4000_0028, 0xc000_00f3] {
            let call = SeccompData { number: 1, arch, args: [0; 6] };
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
                for name in ["socket", "socketpair"] {
                    let found = answer(&policy(0, &[], &[]), abi, name, args);
                    assert_eq!(found, expected, "{abi:?} {name} {family}");
                }
            }
        }
        let refused = policy(0, &[], &["socket"]);
        assert_eq!(answer(&refused, Abi::X86_64, "socket", [1, 1, 0, 0, 0, 0]), errno(libc::EPERM));
    }

    #[test]
    fn sockets_of_restricted_families_are_not_supported() {
        let [unix, inet, netlink, vsock] =
            [libc::AF_UNIX, libc::AF_INET, libc::AF_NETLINK, libc::AF_VSOCK].map(|family| family as u16);
        let other = 4711;
        for (families, allowed) in [
            (AddressFamilies::All, &[unix, inet, netlink, other][..]),
            (AddressFamilies::Only(vec![]), &[]),
            (AddressFamilies::Only(vec![netlink, vsock, unix]), &[unix, netlink]),
            (AddressFamilies::Except(vec![inet, netlink]), &[unix, other]),
            (AddressFamilies::Except(vec![]), &[unix, inet, netlink, other]),
        ] {
            let restricted = Policy { families, socketcall: true, ..policy(0, &[], &[]) };
            for family in [unix, inet, netlink, vsock, other] {
                let expected = if allowed.contains(&family) { ALLOW } else { errno(libc::EAFNOSUPPORT) };
                for high in [0, 1 << 32] {
                    for abi in ALL {
                        let args = [u64::from(family) | high, 2, 0, 0, 0, 0];
                        let told = answer(&restricted, abi, "socket", args);
                        assert_eq!(told, expected, "{restricted:?} {family}");
                        let told = answer(&restricted, abi, "socketpair", args);
                        assert_eq!(told == ALLOW, family != vsock, "{restricted:?} {family}");
                    }
                }
            }
            let audit = [u64::from(netlink), 3, 9, 0, 0, 0];
            assert_eq!(answer(&restricted, Abi::X86_64, "socket", audit), errno(libc::EAFNOSUPPORT));
            // Its families are in memory.
            let is_free = restricted.families == AddressFamilies::All;
            let expected = if is_free { ALLOW } else { errno(libc::ENOSYS) };
            let call = [3, 0xffff_0000, 0, 0, 0, 0];
            assert_eq!(answer(&restricted, Abi::I386, "socketcall", call), expected, "{restricted:?}");
        }
    }

    #[test]
    fn socketcall_exists_only_for_machines_that_need_it() {
        let socket = [1, 0xffff_0000, 0, 0, 0, 0];
        for (policy, expected) in [
            (policy(0, &[], &[]), errno(libc::ENOSYS)),
            (policy(u64::MAX, &["@known"], &[]), errno(libc::ENOSYS)),
            (policy(0, &["@network-io"], &[]), errno(libc::ENOSYS)),
            (policy(0, &["socketcall"], &[]), ALLOW),
            (Policy { socketcall: true, ..policy(0, &[], &[]) }, ALLOW),
            (Policy { socketcall: true, ..policy(0, &[], &["socketcall"]) }, errno(libc::EPERM)),
            (policy(0, &["socketcall"], &["socket"]), errno(libc::EPERM)),
        ] {
            assert_eq!(answer(&policy, Abi::I386, "socketcall", socket), expected, "{policy:?}");
        }
    }

    #[test]
    fn multiplexers_are_answered_as_the_calls_that_they_make() {
        let denied =
            Policy { socketcall: true, ..policy(0, &[], &["listen", "sendto", "shmget", "semtimedop"]) };
        let cases = [
            ("socketcall", 4, errno(libc::EPERM)),
            ("socketcall", 9, errno(libc::EPERM)),
            ("socketcall", 11, errno(libc::EPERM)),
            ("socketcall", 3, ALLOW),
            ("ipc", 23, errno(libc::EPERM)),
            // The upper half is the version of the interface, which the kernel ignores.
            ("ipc", 1 << 16 | 23, errno(libc::EPERM)),
            ("ipc", 4, errno(libc::EPERM)),
            ("ipc", 24, ALLOW),
            ("ipc", 1 << 16 | 1, ALLOW),
        ];
        for (name, number, expected) in cases {
            for high in [0, 1 << 32] {
                let args = [number | high, 0, 0, 0, 0, 0];
                assert_eq!(answer(&denied, Abi::I386, name, args), expected, "{name} {number:#x}");
            }
        }
        let all = policy(0, &["socketcall"], &["@ipc"]);
        assert_eq!(answer(&all, Abi::I386, "ipc", [24, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    }

    #[test]
    fn suppressed_calls_succeed_for_open_files_only() {
        let suppressed = Policy { suppress_sync: true, ..policy(0, &[], &[]) };
        for (name, file, expected) in [
            ("sync", u64::MAX, errno(0)),
            ("msync", u64::MAX, errno(0)),
            ("fsync", 3, errno(0)),
            ("fdatasync", 0, errno(0)),
            ("syncfs", 7 | 1 << 40, errno(0)),
            ("sync_file_range", 3, errno(0)),
            ("fsync", u64::from(u32::MAX), errno(libc::EBADF)),
            ("syncfs", 0x8000_0000, errno(libc::EBADF)),
            ("write", 3, ALLOW),
        ] {
            for abi in ALL {
                assert_eq!(answer(&suppressed, abi, name, [file, 0, 0, 0, 0, 0]), expected, "{abi:?} {name}");
            }
        }
        let denied = Policy { deny: vec!["fsync".into()], ..suppressed };
        assert_eq!(answer(&denied, Abi::X86_64, "fsync", [3, 0, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(answer(&policy(0, &[], &[]), Abi::X86_64, "fsync", [3, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn terminal_input_is_denied_for_all_high_bits() {
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
