//! The groups of system calls, with the names of systemd.exec(5) as of systemd 262. Each group is one bit in
//! the rows of `calls`; a group of other groups is the union of their bits. Used by `calls`, `defaults` and
//! `decide`.

/// A set of groups, a mask of bits.
pub(crate) type Groups = u32;

pub(crate) const AIO: Groups = 1 << 0;
pub(crate) const BASIC_IO: Groups = 1 << 1;
pub(crate) const CHOWN: Groups = 1 << 2;
pub(crate) const CLOCK: Groups = 1 << 3;
pub(crate) const CPU_EMULATION: Groups = 1 << 4;
pub(crate) const DEBUG: Groups = 1 << 5;
pub(crate) const DEFAULT: Groups = 1 << 6;
pub(crate) const FILE_SYSTEM: Groups = 1 << 7;
pub(crate) const IO_EVENT: Groups = 1 << 8;
pub(crate) const IPC: Groups = 1 << 9;
pub(crate) const KEYRING: Groups = 1 << 10;
pub(crate) const MEMLOCK: Groups = 1 << 11;
pub(crate) const MODULE: Groups = 1 << 12;
pub(crate) const MOUNT: Groups = 1 << 13;
pub(crate) const NETWORK_IO: Groups = 1 << 14;
pub(crate) const OBSOLETE: Groups = 1 << 15;
pub(crate) const PKEY: Groups = 1 << 16;
pub(crate) const PRIVILEGED: Groups = 1 << 17;
pub(crate) const PROCESS: Groups = 1 << 18;
pub(crate) const RAW_IO: Groups = 1 << 19;
pub(crate) const REBOOT: Groups = 1 << 20;
pub(crate) const RESOURCES: Groups = 1 << 21;
pub(crate) const SANDBOX: Groups = 1 << 22;
pub(crate) const SETUID: Groups = 1 << 23;
pub(crate) const SIGNAL: Groups = 1 << 24;
pub(crate) const SWAP: Groups = 1 << 25;
pub(crate) const SYNC: Groups = 1 << 26;
pub(crate) const SYSTEM_SERVICE: Groups = 1 << 27;
pub(crate) const TIMER: Groups = 1 << 28;
/// Every call of the table, with or without a group.
pub(crate) const KNOWN: Groups = 1 << 29;

/// Every group with its bits, sorted by name. A call with any of these bits is in the group.
const NAMES: [(&str, Groups); 30] = [
    ("@aio", AIO),
    ("@basic-io", BASIC_IO),
    ("@chown", CHOWN),
    ("@clock", CLOCK),
    ("@cpu-emulation", CPU_EMULATION),
    ("@debug", DEBUG),
    ("@default", DEFAULT | SANDBOX),
    ("@file-system", FILE_SYSTEM),
    ("@io-event", IO_EVENT),
    ("@ipc", IPC),
    ("@keyring", KEYRING),
    ("@known", KNOWN),
    ("@memlock", MEMLOCK),
    ("@module", MODULE),
    ("@mount", MOUNT),
    ("@network-io", NETWORK_IO),
    ("@obsolete", OBSOLETE),
    ("@pkey", PKEY),
    ("@privileged", PRIVILEGED | CHOWN | CLOCK | MODULE | RAW_IO | REBOOT | SWAP),
    ("@process", PROCESS),
    ("@raw-io", RAW_IO),
    ("@reboot", REBOOT),
    ("@resources", RESOURCES),
    ("@sandbox", SANDBOX),
    ("@setuid", SETUID),
    ("@signal", SIGNAL),
    ("@swap", SWAP),
    ("@sync", SYNC),
    ("@system-service", SERVICE),
    ("@timer", TIMER),
];

/// The groups in `@system-service`.
const SERVICE: Groups = SYSTEM_SERVICE
    | AIO
    | BASIC_IO
    | CHOWN
    | DEFAULT
    | SANDBOX
    | FILE_SYSTEM
    | IO_EVENT
    | IPC
    | KEYRING
    | MEMLOCK
    | NETWORK_IO
    | PROCESS
    | RESOURCES
    | SETUID
    | SIGNAL
    | SYNC
    | TIMER;

/// Returns the bits of a group by its name, with the leading `@`.
pub(crate) fn find(name: &str) -> Option<Groups> {
    NAMES.binary_search_by(|(known, _)| known.cmp(&name)).ok().map(|at| NAMES[at].1)
}

/// Returns the names of all groups, for hints.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_found_by_its_name() {
        assert!(names().is_sorted());
        assert_eq!(names().filter(|name| find(name).is_some()).count(), 30);
        assert_eq!(find("@chown"), Some(CHOWN));
        assert_eq!(find("chown"), None);
    }
}
