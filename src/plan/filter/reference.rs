//! Compares the compiled programs with those of libseccomp for the same lists, for every number of every
//! interface: a test of `filter`. `tests/filter/reference.c` calls the C library, so that Coracle does not
//! link it.

use super::calls::{Abi, CALLS};
use super::decide::{SeccompAction, decide};
use super::interpreter::{SeccompData, run};
use super::{Instruction, Policy, program};
use crate::machine::address_families::AddressFamilies;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

const ALL: [Abi; 3] = [Abi::X86_64, Abi::I386, Abi::Aarch64];

/// The output of libseccomp for a list: its program, and the numbers of each known name on x86-64, i386,
/// aarch64 and x32.
struct Reference {
    program: Vec<Instruction>,
    numbers: BTreeMap<String, [i64; 4]>,
}

/// Returns the word for an action, without its rules on arguments: the tests of `filter` compare those.
fn word(action: SeccompAction) -> &'static str {
    match action {
        SeccompAction::Refuse => "refuse",
        SeccompAction::Absent => "absent",
        _ => "allow",
    }
}

fn reference(policy: &Policy) -> Reference {
    let directory = tempfile::tempdir().unwrap();
    let tool = directory.path().join("reference");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/filter/reference.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-o"]).arg(&tool).arg(source).arg("-lseccomp");
    assert!(cc.status().unwrap().success(), "cannot build with libseccomp: install libseccomp-dev");
    let output = directory.path().join("program");
    let mut child = Command::new(&tool)
        .arg(&output)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let actions = decide(policy).unwrap();
    let list: String =
        CALLS.iter().zip(actions).map(|(call, action)| format!("{} {}\n", call.name, word(action))).collect();
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success());
    let numbers = String::from_utf8(said.stdout).unwrap();
    let numbers = numbers.lines().map(|line| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        let numbers: Vec<i64> = words.map(|word| word.parse().unwrap()).collect();
        (name, numbers.try_into().unwrap())
    });
    let instruction = |bytes: &[u8]| Instruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes(bytes[4..].try_into().unwrap()),
    };
    Reference {
        numbers: numbers.collect(),
        program: std::fs::read(&output).unwrap().chunks_exact(8).map(instruction).collect(),
    }
}

#[test]
fn numbers_are_those_of_libseccomp() {
    let reference = reference(&Policy::default());
    for call in CALLS.iter().filter(|call| reference.numbers.contains_key(call.name)) {
        let theirs = reference.numbers[call.name];
        for (abi, theirs) in ALL.into_iter().zip(theirs) {
            let ours = call.number(abi).map_or(-1, |number| i64::try_from(number).unwrap());
            // A call that is newer on one interface than the table of libseccomp.
            assert!(ours == theirs || theirs == -1, "{} {abi:?}: {ours}, theirs {theirs}", call.name);
        }
    }
    // The table of libseccomp ends some years ago; later calls have the same number everywhere.
    let unknown = CALLS.iter().filter(|call| !reference.numbers.contains_key(call.name));
    let unknown: Vec<&str> = unknown.map(|call| call.name).collect();
    assert!(unknown.len() < 50, "{unknown:?}");
}

#[test]
fn every_number_is_answered_as_by_libseccomp() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    for (capabilities, allow, deny) in [
        (0, &[][..], &[][..]),
        (u64::MAX, &[], &[]),
        (0, &["@keyring", "@clock"], &["@mount"]),
        (1 << 21, &["@known"], &["@swap", "ptrace"]),
    ] {
        let policy = Policy {
            capabilities,
            allow: words(allow),
            deny: words(deny),
            socketcall: true,
            suppress_sync: false,
            families: AddressFamilies::All,
            profile: None,
        };
        let reference = reference(&policy);
        let ours = program::assemble(&ALL, &decide(&policy).unwrap(), &AddressFamilies::All);
        let mut compared = 0;
        for (abi, number) in ALL.into_iter().flat_map(|abi| (0..1024).map(move |number| (abi, number))) {
            let named = CALLS.iter().find(|call| call.number(abi) == Some(number));
            if named.is_some_and(|call| {
                !reference.numbers.get(call.name).is_some_and(|all| all.contains(&(number as i64)))
            }) {
                continue;
            }
            let call =
                || SeccompData { number: u32::try_from(number).unwrap(), arch: abi.audit(), args: [0; 6] };
            let (ours, theirs) = (run(&ours, &call()), run(&reference.program, &call()));
            assert_eq!(ours, theirs, "{abi:?} {number} {:?}", named.map(|call| call.name));
            compared += 1;
        }
        assert!(compared > 2990, "{compared}");
        // Neither program has a tree for x32.
        for number in 0..1024 {
            let call =
                || SeccompData { number: 0x4000_0000 + number, arch: Abi::X86_64.audit(), args: [0; 6] };
            assert_eq!(run(&ours, &call()), run(&reference.program, &call()), "x32 {number}");
        }
    }
}
