//! `linux.seccomp` of a bundle: the profile of its system calls. Called by `settings`.

use super::document::{Seccomp, SeccompArgument, SeccompRule};
use super::layer_builder::LayerBuilder;
use crate::config::security::Profile;
use crate::config::values::quoted;
use crate::error::{Error, Result, nearest};
use crate::machine::syscall_profile::{
    ArgumentCondition, Comparison, ProfileAnswer, ProfileRule, SyscallProfile,
};

/// The architectures of libseccomp.
const ARCHITECTURES: [&str; 21] = [
    "AARCH64",
    "ARM",
    "LOONGARCH64",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "NATIVE",
    "PARISC",
    "PARISC64",
    "PPC",
    "PPC64",
    "PPC64LE",
    "RISCV64",
    "S390",
    "S390X",
    "X32",
    "X86",
    "X86_64",
];

/// The highest error of a call (MAX_ERRNO of linux/err.h).
const MAX_ERRNO: u32 = 4095;

const POINTER: &str = "/linux/seccomp";

/// Sets the profile.
pub(super) fn read(builder: &mut LayerBuilder, seccomp: &Seccomp<'_>) {
    let default = answer(&seccomp.default_action, seccomp.default_errno_ret);
    let default = builder.check(&format!("{POINTER}/defaultAction"), default);
    let mut has_i386 = false;
    for (at, name) in seccomp.architectures.iter().enumerate() {
        let known = name.strip_prefix("SCMP_ARCH_").filter(|name| ARCHITECTURES.contains(name));
        if known.is_none() {
            let error = Error::new(format!("unknown architecture {}", quoted(name)));
            builder.refuse(&format!("{POINTER}/architectures/{at}"), &error);
        }
        has_i386 |= known == Some("X86");
    }
    let mut rules = Vec::new();
    for (at, given) in seccomp.syscalls.iter().enumerate() {
        let read = rules_of(given);
        rules.extend(builder.check(&format!("{POINTER}/syscalls/{at}"), read).into_iter().flatten());
    }
    if let Some(default) = default {
        let origin = builder.origin(POINTER);
        let profile = SyscallProfile { default, has_i386, rules };
        builder.layer.security.syscalls_profile.set(Profile(profile), origin);
    }
}

/// Returns the answer to a call.
fn answer(text: &str, errno: Option<u32>) -> Result<ProfileAnswer> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    let errno = u16::try_from(errno).ok().filter(|errno| u32::from(*errno) <= MAX_ERRNO);
    let errno = errno.ok_or_else(|| Error::new("an error is a number up to 4095"))?;
    let known = [
        ("SCMP_ACT_ALLOW", ProfileAnswer::Allow),
        ("SCMP_ACT_ERRNO", ProfileAnswer::Errno(errno)),
        ("SCMP_ACT_KILL", ProfileAnswer::KillThread),
        ("SCMP_ACT_KILL_THREAD", ProfileAnswer::KillThread),
        ("SCMP_ACT_KILL_PROCESS", ProfileAnswer::KillProcess),
        ("SCMP_ACT_LOG", ProfileAnswer::Log),
        ("SCMP_ACT_TRAP", ProfileAnswer::Trap),
    ];
    one_of("action", text, &known)
}

/// Returns the value of a word.
fn one_of<T: Copy>(what: &str, text: &str, known: &[(&'static str, T)]) -> Result<T> {
    if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let error = Error::new(format!("unknown {what} {}", quoted(text)));
    Err(match nearest(text, known.iter().map(|(word, _)| *word)) {
        Some(near) => error.with_hint(format!("did you mean {}?", quoted(near))),
        None => error,
    })
}

/// Returns the rules of an entry: of several conditions of one argument, one suffices.
fn rules_of(given: &SeccompRule<'_>) -> Result<Vec<ProfileRule>> {
    if given.names.is_empty() {
        return Err(Error::new("the list of names is empty"));
    }
    let answer = answer(&given.action, given.errno_ret)?;
    let conditions: Vec<ArgumentCondition> = given.args.iter().map(condition).collect::<Result<_>>()?;
    let names: Vec<String> = given.names.iter().map(|name| name.clone().into_owned()).collect();
    let is_repeated = (1..conditions.len())
        .any(|at| conditions[..at].iter().any(|earlier| earlier.index == conditions[at].index));
    let rule = |conditions: Vec<ArgumentCondition>| ProfileRule { names: names.clone(), answer, conditions };
    if is_repeated {
        return Ok(conditions.into_iter().map(|condition| rule(vec![condition])).collect());
    }
    Ok(vec![rule(conditions)])
}

fn condition(given: &SeccompArgument<'_>) -> Result<ArgumentCondition> {
    let index = u8::try_from(given.index).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| Error::new("a system call has the arguments 0 to 5"))?;
    let known = [
        ("SCMP_CMP_NE", Comparison::Differs),
        ("SCMP_CMP_LT", Comparison::Less),
        ("SCMP_CMP_LE", Comparison::AtMost),
        ("SCMP_CMP_EQ", Comparison::Equal),
        ("SCMP_CMP_GE", Comparison::AtLeast),
        ("SCMP_CMP_GT", Comparison::Greater),
        ("SCMP_CMP_MASKED_EQ", Comparison::Masked(given.value)),
    ];
    let comparison = one_of("operator", &given.op, &known)?;
    // The value of a mask is the second one.
    let value = if let Comparison::Masked(_) = comparison { given.value_two } else { given.value };
    Ok(ArgumentCondition { index, comparison, value })
}
