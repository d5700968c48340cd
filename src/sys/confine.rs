//! Confines a process that parses hostile bytes: a filter that allows a list of system calls and kills the
//! process at any other one, limits of its resources, and the loss of capabilities. Called by `image`.

use super::filter::{self, Instruction};
use crate::error::{Context, Result};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The calls of any process: reads, writes, its end, and memory that is not executable.
const BASE: [libc::c_long; 12] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Of the allocators and of the generators of random numbers of the C libraries.
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_rt_sigprocmask,
];

/// The calls that write a tree below an open directory.
pub(crate) const OF_TREES: [libc::c_long; 22] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
];

/// `AUDIT_ARCH_*` of `linux/audit.h`.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
/// The offsets in `struct seccomp_data`: number, architecture, lower half of the third argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const THIRD: u32 = 32;

/// Returns the program of a filter: `calls` and those of any process.
fn program(calls: &[libc::c_long]) -> Vec<Instruction> {
    let load = |k| Instruction { code: 0x20, jt: 0, jf: 0, k };
    let answer = |k| Instruction { code: 0x06, jt: 0, jf: 0, k };
    let skip_one_unless_equal = |k| Instruction { code: 0x15, jt: 0, jf: 1, k };
    let (allow, kill) = (answer(libc::SECCOMP_RET_ALLOW), answer(libc::SECCOMP_RET_KILL_PROCESS));
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let mut program =
        vec![load(ARCH), Instruction { jt: 1, jf: 0, ..skip_one_unless_equal(ARCHITECTURE) }, kill];
    program.push(load(NUMBER));
    for call in BASE.iter().chain(calls) {
        program.extend([skip_one_unless_equal(number(*call)), allow]);
    }
    // mmap(2) without PROT_EXEC.
    let mmap = number(libc::SYS_mmap);
    program.push(Instruction { jt: 1, jf: 0, ..skip_one_unless_equal(mmap) });
    program.push(kill);
    program.push(load(THIRD));
    program.push(Instruction { code: 0x45, jt: 0, jf: 1, k: libc::PROT_EXEC.cast_unsigned() });
    program.extend([kill, allow]);
    program
}

/// Limits this process to `memory` bytes, and to no core file and no other process.
///
/// # Errors
/// Any error of setrlimit(2).
pub(crate) fn limit(memory: u64) -> Result<()> {
    let limits = [(Resource::As, memory), (Resource::Core, 0), (Resource::Nproc, 0)];
    for (resource, limit) in limits {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(resource, limit)
            .context(|| "cannot limit the resources of the process")?;
    }
    Ok(())
}

/// Drops all capabilities but these, forever.
///
/// # Errors
/// Any error of capset(2) and prctl(2).
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
        .and_then(|()| rustix::thread::set_no_new_privs(true))
        .context(|| "cannot drop capabilities")
}

/// Allows this process `calls` and those of any process only, forever. Any other one kills it.
///
/// # Errors
/// Any error of seccomp(2).
pub(crate) fn allow(calls: &[libc::c_long]) -> Result<()> {
    filter::install(&program(calls)).context(|| "cannot install the system call filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_ends_in_the_program() {
        let program = program(&OF_TREES);
        for (at, instruction) in program.iter().enumerate() {
            let longest = usize::from(instruction.jt.max(instruction.jf));
            assert!(at + longest < program.len(), "{at}");
        }
        assert_eq!(program.last().unwrap().k, libc::SECCOMP_RET_ALLOW);
    }
}
