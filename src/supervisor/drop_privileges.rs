//! What a supervisor gives up before it idles: nobody looks into it, and it keeps the capabilities that watching over a
//! machine and cleaning up after it take. Called by `supervise` at its begin.
//!
//! All of it holds up to the next exec: a guest that reboots is launched again by this process, with all rights. For the
//! same reason there is no system-call filter and no Landlock domain of our own: both outlive an exec, and the guest that
//! is cloned after it would have them too.

use crate::state::record::Record;
use crate::sys::process;
use rustix::thread::CapabilitySet;

/// For its files of names and its cgroup, whoever of the guest owns them; for its processes and what procfs tells of
/// them; for links and the firewall.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_PTRACE);

/// Gives up what the supervisor of this machine does not need any more.
pub fn apply(record: &Record) {
    process::set_dumpable(false);
    if rustix::thread::no_new_privs().unwrap_or(true) {
        // An exec would not give them back.
        return;
    }
    let mut kept = KEPT;
    if ["sysvinit", "runit", "unknown"].contains(&record.init.as_str()) {
        // They are asked by files, which a child reaches as the guest's root. An unknown init may become one of them.
        kept |= CapabilitySet::SETUID | CapabilitySet::SETGID;
    }
    if !record.wires.is_empty() {
        // They are fetched back from the guest's network namespace, which is entered for it.
        kept |= CapabilitySet::SYS_ADMIN;
    }
    let given_up = rustix::thread::capabilities(None).and_then(|mut sets| {
        sets.permitted &= kept;
        sets.effective = sets.permitted;
        sets.inheritable = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets)
    });
    given_up.unwrap_or_else(|error| log::warn!("cannot give up capabilities: {error}, ignoring"));
}
