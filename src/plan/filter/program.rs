//! Compiles decisions to a program for seccomp(2): one balanced tree of comparisons for each interface,
//! behind a switch on the architecture. Called by `filter`. It must not decide anything.
//!
//! The program is written from its end to its beginning, so that the target of each jump is known; jumps only
//! go forward. Before the rules on arguments it only uses operations that the kernel can evaluate in advance
//! (loads of number and architecture, comparisons, return), so that the kernel answers allowed calls from a
//! bit map without running the program (Linux 5.11).

use super::Instruction;
use super::calls::{Abi, CALLS, COUNT, find};
use super::decide::SeccompAction;
use super::multiplexer::{IPC, Multiplexer, SOCKETCALL};
use crate::machine::address_families::AddressFamilies;

/// The target of a jump: the instruction's distance from the end of the program.
pub(super) type JumpTarget = usize;

/// A range of numbers with one answer. It ends before the next range; the last one has no end.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumberRange {
    /// The first number.
    pub(super) start: u32,
    /// The answer.
    pub(super) target: JumpTarget,
}

/// Offsets in `struct seccomp_data` (linux/seccomp.h). Rules only compare the low half of an argument: the
/// kernel truncates the register to an int, so a rule on the high half could be bypassed by setting it.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

/// Returns the program that answers calls by these interfaces with the actions of [`CALLS`], and all other
/// calls with ENOSYS. Sockets are of these families.
pub(crate) fn assemble(
    abis: &[Abi],
    actions: &[SeccompAction; COUNT],
    families: &AddressFamilies,
) -> Vec<Instruction> {
    let mut program = Backwards::new();
    let leaves = program.leaves(actions, families);
    let mut ranges = Vec::with_capacity(128);
    let mut next = leaves.absent;
    // The last one tested is the first one written: the host's own interface is tested first.
    for abi in abis.iter().rev() {
        collect(*abi, actions, &leaves, &mut ranges);
        let tree = program.tree(&ranges, leaves.absent);
        let tree = program.load(NUMBER, tree);
        next = program.equal(abi.audit(), tree, next);
    }
    program.load(ARCHITECTURE, next);
    program.into_code()
}

/// Collects the ranges of an interface, by number; unused numbers are absent.
fn collect(abi: Abi, actions: &[SeccompAction; COUNT], leaves: &Leaves, ranges: &mut Vec<NumberRange>) {
    // Larger than any number in the tables, so that the last range consists of unused numbers.
    let mut by_number = [SeccompAction::Absent; 1024];
    for (call, action) in CALLS.iter().zip(actions) {
        if let Some(slot) = call.number(abi).and_then(|number| by_number.get_mut(number)) {
            *slot = *action;
        }
    }
    ranges.clear();
    for (start, action) in (0..).zip(by_number) {
        let target = leaves.of(action);
        if ranges.last().is_none_or(|range| range.target != target) {
            ranges.push(NumberRange { start, target });
        }
    }
}

/// The jump target of each action.
struct Leaves {
    allow: JumpTarget,
    refuse: JumpTarget,
    absent: JumpTarget,
    socket: JumpTarget,
    socket_pair: JumpTarget,
    ioctl: JumpTarget,
    socketcall: JumpTarget,
    ipc: JumpTarget,
    pretend: JumpTarget,
    pretend_on_file: JumpTarget,
}

impl Leaves {
    fn of(&self, action: SeccompAction) -> JumpTarget {
        match action {
            SeccompAction::Allow => self.allow,
            SeccompAction::Refuse => self.refuse,
            SeccompAction::Absent => self.absent,
            SeccompAction::Socket => self.socket,
            SeccompAction::SocketPair => self.socket_pair,
            SeccompAction::Ioctl => self.ioctl,
            SeccompAction::Socketcall => self.socketcall,
            SeccompAction::Ipc => self.ipc,
            SeccompAction::Pretend => self.pretend,
            SeccompAction::PretendOnFile => self.pretend_on_file,
        }
    }
}

/// A program in reverse order of its instructions.
pub(super) struct Backwards {
    code: Vec<Instruction>,
}

impl Backwards {
    /// Creates an empty program.
    pub(super) fn new() -> Self {
        Self { code: Vec::with_capacity(512) }
    }

    /// Returns the number of instructions.
    pub(super) fn len(&self) -> usize {
        self.code.len()
    }

    /// Returns the program in the order of its instructions.
    pub(super) fn into_code(mut self) -> Vec<Instruction> {
        self.code.reverse();
        self.code
    }

    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> JumpTarget {
        // All operations are below 256.
        self.code.push(Instruction { code: code as u16, jt, jf, k });
        self.code.len() - 1
    }

    /// Answers the call.
    pub(super) fn answer(&mut self, value: u32) -> JumpTarget {
        self.push(libc::BPF_RET | libc::BPF_K, 0, 0, value)
    }

    /// Answers the call, by an instruction at the end of the program if there is one.
    pub(super) fn answer_once(&mut self, value: u32) -> JumpTarget {
        let is_it = |one: &Instruction| u32::from(one.code) == libc::BPF_RET | libc::BPF_K && one.k == value;
        match self.code.iter().position(is_it) {
            Some(at) => at,
            None => self.answer(value),
        }
    }

    /// Reduces the loaded word to bits, then continues at `next`.
    pub(super) fn and(&mut self, mask: u32, next: JumpTarget) -> JumpTarget {
        if next + 1 != self.code.len() {
            self.go(next);
        }
        self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask)
    }

    /// Answers the call with an error.
    pub(super) fn fail(&mut self, errno: i32) -> JumpTarget {
        self.answer(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
    }

    /// Loads a word of the call, then continues at `next`.
    pub(super) fn load(&mut self, offset: u32, next: JumpTarget) -> JumpTarget {
        if next + 1 != self.code.len() {
            self.go(next);
        }
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
    }

    /// Continues at `target`, at any distance.
    fn go(&mut self, target: JumpTarget) -> JumpTarget {
        // A program has at most 4096 instructions.
        let skip = (self.code.len() - target - 1) as u32;
        self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, skip)
    }

    /// Returns the jump target for reaching `target` from an instruction written after at most `more` others:
    /// `target` itself, or a long jump to it if eight bits do not suffice.
    fn near(&mut self, target: JumpTarget, more: usize) -> JumpTarget {
        if self.code.len() + more - target - 1 > usize::from(u8::MAX) { self.go(target) } else { target }
    }

    /// Compares the loaded word with `k`.
    pub(super) fn compare(&mut self, operation: u32, k: u32, yes: JumpTarget, no: JumpTarget) -> JumpTarget {
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let skip = |target: JumpTarget| (self.code.len() - target - 1) as u8;
        let (yes, no) = (skip(yes), skip(no));
        self.push(libc::BPF_JMP | operation | libc::BPF_K, yes, no, k)
    }

    pub(super) fn equal(&mut self, k: u32, yes: JumpTarget, no: JumpTarget) -> JumpTarget {
        self.compare(libc::BPF_JEQ, k, yes, no)
    }

    /// Writes the leaves of all trees, at the end of the program, with the rules on arguments.
    fn leaves(&mut self, actions: &[SeccompAction; COUNT], families: &AddressFamilies) -> Leaves {
        let allow = self.answer(libc::SECCOMP_RET_ALLOW);
        let refuse = self.fail(libc::EPERM);
        let absent = self.fail(libc::ENOSYS);
        let socket = self.socket(allow, families);
        let socket_pair = match families {
            AddressFamilies::All => socket,
            _ => self.socket(allow, &AddressFamilies::All),
        };
        let ioctl = self.ioctl(allow, refuse);
        let answers = |action| match action {
            SeccompAction::Refuse => Some(refuse),
            SeccompAction::Absent => Some(absent),
            _ => None,
        };
        let [socketcall, ipc] = [&SOCKETCALL, &IPC]
            .map(|called| self.multiplexer(called, allow, |row: usize| answers(actions[row])));
        let (pretend, pretend_on_file) =
            if actions.contains(&SeccompAction::PretendOnFile) { self.pretend() } else { (refuse, refuse) };
        Leaves {
            allow,
            refuse,
            absent,
            socket,
            socket_pair,
            ioctl,
            socketcall,
            ipc,
            pretend,
            pretend_on_file,
        }
    }

    /// Writes the answers of calls without an effect: success, and success for a descriptor, whose sign bit
    /// is not set.
    fn pretend(&mut self) -> (JumpTarget, JumpTarget) {
        const SIGN: u32 = 1 << 31;
        let pretend = self.fail(0);
        let invalid = self.fail(libc::EBADF);
        let sign = self.compare(libc::BPF_JGE, SIGN, invalid, pretend);
        (pretend, self.load(FIRST_ARGUMENT, sign))
    }

    /// Writes the rules of a multiplexer: denied calls get the same answers as by their own numbers.
    fn multiplexer(
        &mut self,
        called: &Multiplexer,
        allow: JumpTarget,
        answer: impl Fn(usize) -> Option<JumpTarget>,
    ) -> JumpTarget {
        let denied = |name: &str| find(name).and_then(&answer);
        let mut next = allow;
        for (number, name) in called.calls {
            if let Some(answer) = denied(name) {
                next = self.equal(*number, answer, next);
            }
        }
        if next == allow {
            return allow;
        }
        if called.mask != u32::MAX {
            next = self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, called.mask);
        }
        self.load(FIRST_ARGUMENT, next)
    }

    /// Writes the rules of socket(2). Auditing has no namespaces, and programs interpret this error as a
    /// kernel without it; vsock(7) reaches the hypervisor or its guests from any network namespace; AF_ALG
    /// exposes much of the kernel for little use. The machine may restrict the others.
    fn socket(&mut self, allow: JumpTarget, families: &AddressFamilies) -> JumpTarget {
        let unsupported = self.fail(libc::EAFNOSUPPORT);
        let audit = self.equal(libc::NETLINK_AUDIT.cast_unsigned(), unsupported, allow);
        let netlink = self.load(THIRD_ARGUMENT, audit);
        const NETLINK: u32 = libc::AF_NETLINK.cast_unsigned();
        let family = match families {
            AddressFamilies::All => self.equal(NETLINK, netlink, allow),
            AddressFamilies::Except(forbidden) => {
                let others = self.equal(NETLINK, netlink, allow);
                forbidden.iter().fold(others, |next, one| self.equal((*one).into(), unsupported, next))
            }
            AddressFamilies::Only(allowed) => allowed.iter().fold(unsupported, |next, one| {
                let answer = if u32::from(*one) == NETLINK { netlink } else { allow };
                self.equal((*one).into(), answer, next)
            }),
        };
        let family = self.equal(libc::AF_ALG.cast_unsigned(), unsupported, family);
        let family = self.equal(libc::AF_VSOCK.cast_unsigned(), unsupported, family);
        self.load(FIRST_ARGUMENT, family)
    }

    /// Writes the rules of ioctl(2): TIOCSTI and TIOCLINUX insert characters into the input of a terminal,
    /// which may be the terminal of a user of the host.
    fn ioctl(&mut self, allow: JumpTarget, refuse: JumpTarget) -> JumpTarget {
        let request = self.equal(libc::TIOCLINUX as u32, refuse, allow);
        let request = self.equal(libc::TIOCSTI as u32, refuse, request);
        self.load(SECOND_ARGUMENT, request)
    }

    /// Writes the tree that finds the range of the loaded number.
    pub(super) fn tree(&mut self, ranges: &[NumberRange], absent: JumpTarget) -> JumpTarget {
        match ranges {
            [] => absent,
            [only] => only.target,
            // A single number between two equal ranges needs one comparison instead of two.
            [before, one, after] if before.target == after.target && one.start + 1 == after.start => {
                self.equal(one.start, one.target, before.target)
            }
            _ => {
                let (below, above) = ranges.split_at(ranges.len() / 2);
                let yes = self.tree(above, absent);
                let no = self.tree(below, absent);
                self.compare(libc::BPF_JGE, above[0].start, yes, no)
            }
        }
    }
}
