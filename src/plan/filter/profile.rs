//! Compiles the profile of a bundle to a program for seccomp(2): one tree of comparisons for each interface, as
//! for the list of every machine, with the rules on arguments as its leaves. Called by `filter`.

use super::Instruction;
use super::calls::{Abi, CALLS, COUNT, find};
use super::program::{Backwards, JumpTarget, NumberRange};
use crate::error::{Error, Result};
use crate::machine::syscall_profile::{
    ArgumentCondition, Comparison, ProfileAnswer, ProfileRule, SyscallProfile,
};

/// The largest number of instructions (BPF_MAXINSNS of linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// Numbers from here on are those of x32 on x86-64, which no profile answers.
const X32: u32 = 0x4000_0000;

/// The offset of the first argument in `struct seccomp_data`; the low half is first.
const ARGUMENTS: u32 = 16;

/// Returns the program of a profile for these interfaces. Apart from the filter of other machines, which needs
/// no stack for its tables.
///
/// # Errors
/// The profile has too many rules on arguments.
#[inline(never)]
pub(super) fn assemble(abis: &[Abi], profile: &SyscallProfile) -> Result<Vec<Instruction>> {
    let mut program = Backwards::new();
    let default = program.answer(value(profile.default));
    let absent = program.fail(libc::ENOSYS);
    let killed = program.answer(libc::SECCOMP_RET_KILL_THREAD);
    let mut leaves = [default; COUNT];
    for (row, leaf) in leaves.iter_mut().enumerate() {
        let named = profile.rules.iter().filter(|rule| rule.names.iter().any(|name| find(name) == Some(row)));
        *leaf = program.rules(&named.collect::<Vec<_>>(), default);
        if program.len() > MAX_INSTRUCTIONS / 2 {
            return Err(Error::new("the profile of system calls is too large")
                .with_hint("use fewer rules with conditions on arguments"));
        }
    }
    let mut next = killed;
    for abi in abis.iter().rev().filter(|abi| **abi != Abi::I386 || profile.has_i386) {
        let tree = program.tree(&ranges(*abi, &leaves, default, absent), default);
        let tree = program.load(0, tree);
        next = program.equal(abi.audit(), tree, next);
    }
    program.load(4, next);
    Ok(program.into_code())
}

/// Returns the ranges of an interface, by number.
fn ranges(
    abi: Abi,
    leaves: &[JumpTarget; COUNT],
    default: JumpTarget,
    absent: JumpTarget,
) -> Vec<NumberRange> {
    let mut by_number = [default; 1024];
    for (call, leaf) in CALLS.iter().zip(leaves) {
        if let Some(slot) = call.number(abi).and_then(|number| by_number.get_mut(number)) {
            *slot = *leaf;
        }
    }
    let mut ranges: Vec<NumberRange> = Vec::new();
    let above = (abi == Abi::X86_64).then_some((X32, absent));
    for (start, target) in (0..).zip(by_number).chain(above) {
        if ranges.last().is_none_or(|range| range.target != target) {
            ranges.push(NumberRange { start, target });
        }
    }
    ranges
}

/// Returns the answer for the kernel.
fn value(answer: ProfileAnswer) -> u32 {
    match answer {
        ProfileAnswer::Allow => libc::SECCOMP_RET_ALLOW,
        ProfileAnswer::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        ProfileAnswer::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        ProfileAnswer::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        ProfileAnswer::Log => libc::SECCOMP_RET_LOG,
        ProfileAnswer::Trap => libc::SECCOMP_RET_TRAP,
    }
}

impl Backwards {
    /// Writes the rules of a call. Without rules its answer is `default`.
    fn rules(&mut self, rules: &[&ProfileRule], default: JumpTarget) -> JumpTarget {
        let mut next = default;
        for rule in rules.iter().rev() {
            let mut holds = self.answer_once(value(rule.answer));
            for condition in rule.conditions.iter().rev() {
                holds = self.condition(condition, holds, next);
            }
            next = holds;
        }
        next
    }

    /// Writes a comparison of an argument with 64 bits, half by half.
    fn condition(&mut self, condition: &ArgumentCondition, yes: JumpTarget, no: JumpTarget) -> JumpTarget {
        let ArgumentCondition { index, comparison, value } = *condition;
        let low = ARGUMENTS + 8 * u32::from(index);
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let (value_high, value_low) = halves(value);
        let (yes, no) = match comparison {
            Comparison::Differs | Comparison::Less | Comparison::AtMost => (no, yes),
            _ => (yes, no),
        };
        if let Comparison::Masked(mask) = comparison {
            let (mask_high, mask_low) = halves(mask);
            let below = self.equal(value_low, yes, no);
            let below = self.and(mask_low, below);
            let below = self.load(low, below);
            let above = self.equal(value_high, below, no);
            let above = self.and(mask_high, above);
            return self.load(low + 4, above);
        }
        let operation = match comparison {
            Comparison::Equal | Comparison::Differs => libc::BPF_JEQ,
            // The opposite of less is at least, and that of at most is greater.
            Comparison::AtLeast | Comparison::Less => libc::BPF_JGE,
            _ => libc::BPF_JGT,
        };
        let below = self.compare(operation, value_low, yes, no);
        let below = self.load(low, below);
        let same = self.equal(value_high, below, no);
        let above = match operation {
            libc::BPF_JEQ => same,
            _ => self.compare(libc::BPF_JGT, value_high, yes, same),
        };
        self.load(low + 4, above)
    }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{SeccompData, run};
    use super::*;

    const ALL: [Abi; 3] = [Abi::X86_64, Abi::I386, Abi::Aarch64];

    fn rule(names: &[&str], answer: ProfileAnswer, conditions: &[ArgumentCondition]) -> ProfileRule {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        ProfileRule { names, answer, conditions: conditions.to_vec() }
    }

    fn profile(rules: Vec<ProfileRule>) -> SyscallProfile {
        SyscallProfile { default: ProfileAnswer::Errno(1), has_i386: true, rules }
    }

    fn answer(profile: &SyscallProfile, abi: Abi, name: &str, args: [u64; 6]) -> u32 {
        let number = CALLS[find(name).unwrap()].number(abi).unwrap();
        let program = assemble(&ALL, profile).unwrap();
        run(&program, &SeccompData { number: u32::try_from(number).unwrap(), arch: abi.audit(), args })
    }

    #[test]
    fn calls_have_the_answer_of_their_rule() {
        let profile = profile(vec![
            rule(&["read", "write", "unknown"], ProfileAnswer::Allow, &[]),
            rule(&["keyctl"], ProfileAnswer::Errno(38), &[]),
            rule(&["ptrace"], ProfileAnswer::KillProcess, &[]),
        ]);
        for abi in ALL {
            for (name, expected) in [
                ("read", libc::SECCOMP_RET_ALLOW),
                ("keyctl", libc::SECCOMP_RET_ERRNO | 38),
                ("ptrace", libc::SECCOMP_RET_KILL_PROCESS),
                ("mount", libc::SECCOMP_RET_ERRNO | 1),
            ] {
                assert_eq!(answer(&profile, abi, name, [0; 6]), expected, "{abi:?} {name}");
            }
        }
        let program = assemble(&ALL, &profile).unwrap();
        let x32 = SeccompData { number: X32, arch: Abi::X86_64.audit(), args: [0; 6] };
        assert_eq!(run(&program, &x32), libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
        let new = SeccompData { number: 1000, arch: Abi::X86_64.audit(), args: [0; 6] };
        assert_eq!(run(&program, &new), libc::SECCOMP_RET_ERRNO | 1);
    }

    #[test]
    fn other_interfaces_are_killed() {
        let profile = SyscallProfile { has_i386: false, ..profile(Vec::new()) };
        assert_eq!(answer(&profile, Abi::I386, "read", [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
        let program = assemble(&ALL, &profile).unwrap();
        let arm = SeccompData { number: 1, arch: 0x4000_0028, args: [0; 6] };
        assert_eq!(run(&program, &arm), libc::SECCOMP_RET_KILL_THREAD);
    }

    #[test]
    fn arguments_are_compared_with_all_bits() {
        let values =
            [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 32 | 1, u64::MAX - 1, u64::MAX];
        type Compare = fn(u64, u64) -> bool;
        let comparisons: [(Comparison, Compare); 7] = [
            (Comparison::Differs, |a, b| a != b),
            (Comparison::Less, |a, b| a < b),
            (Comparison::AtMost, |a, b| a <= b),
            (Comparison::Equal, |a, b| a == b),
            (Comparison::AtLeast, |a, b| a >= b),
            (Comparison::Greater, |a, b| a > b),
            (Comparison::Masked(0xf_0000_000f), |a, b| a & 0xf_0000_000f == b),
        ];
        for (comparison, holds) in comparisons {
            for value in values {
                let condition = ArgumentCondition { index: 2, comparison, value };
                let profile = profile(vec![rule(&["ioctl"], ProfileAnswer::Allow, &[condition])]);
                for argument in values {
                    let found = answer(&profile, Abi::X86_64, "ioctl", [7, 7, argument, 7, 7, 7]);
                    let is_allowed = found == libc::SECCOMP_RET_ALLOW;
                    assert_eq!(is_allowed, holds(argument, value), "{comparison:?} {argument:#x} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn all_conditions_of_a_rule_hold_and_the_first_rule_counts() {
        let equal = |index, value| ArgumentCondition { index, comparison: Comparison::Equal, value };
        let profile = profile(vec![
            rule(&["socket"], ProfileAnswer::Errno(97), &[equal(0, 16), equal(2, 9)]),
            rule(&["socket"], ProfileAnswer::Allow, &[equal(0, 16)]),
            rule(&["socket"], ProfileAnswer::Trap, &[]),
        ]);
        for (args, expected) in [
            ([16, 0, 9, 0, 0, 0], libc::SECCOMP_RET_ERRNO | 97),
            ([16, 0, 8, 0, 0, 0], libc::SECCOMP_RET_ALLOW),
            ([15, 0, 9, 0, 0, 0], libc::SECCOMP_RET_TRAP),
        ] {
            assert_eq!(answer(&profile, Abi::X86_64, "socket", args), expected, "{args:?}");
        }
    }

    #[test]
    fn a_huge_profile_is_refused() {
        let condition = ArgumentCondition { index: 0, comparison: Comparison::Less, value: 5 };
        let rules = (0..2000).map(|_| rule(&["ioctl"], ProfileAnswer::Allow, &[condition])).collect();
        assert!(assemble(&ALL, &profile(rules)).is_err());
    }
}
