//! Drops privileges of the supervisor before it idles: it is not dumpable, and keeps only the capabilities
//! for supervision and cleanup. Called by `supervise` at its start.
//!
//! All of it holds until the next exec: after a reboot this process launches the guest again, with all
//! capabilities. For the same reason the supervisor has no system-call filter and no Landlock domain: both
//! outlive an exec, and the guest cloned afterwards would inherit them.

use crate::machine::init::{Init, PayloadKind};
use crate::state::record::Record;
use crate::supervisor::guest::descriptor_store;
use crate::sys::process;
use rustix::thread::CapabilitySet;

/// For the hosts file and the cgroup, owned by ids of the guest; for the guest's processes and their files in
/// procfs; for network links and the firewall.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_PTRACE);

/// Drops the privileges that the supervisor of this machine does not need any more.
pub(crate) fn apply(record: &Record) {
    process::set_dumpable(false);
    if rustix::thread::no_new_privs().unwrap_or(true) {
        // An exec would not restore them.
        return;
    }
    let mut kept = KEPT;
    if let Some(PayloadKind::Init(Init::SysVinit | Init::Runit | Init::Unknown)) = record.init {
        // They receive requests by files, which a child opens as the guest's root. An unknown init may
        // execute one of them.
        kept |= CapabilitySet::SETUID | CapabilitySet::SETGID;
    }
    if !record.interfaces.is_empty() {
        // Cleanup enters the guest's network namespace to move borrowed interfaces back to the host.
        kept |= CapabilitySet::SYS_ADMIN;
    }
    if record.build.as_ref().is_some_and(|build| build.is_exposed) {
        // Cleanup unmounts the root.
        kept |= CapabilitySet::SYS_ADMIN;
    }
    if descriptor_store::is_enabled() {
        // The store of the service accepts descriptors of the main process only: a child sends in its name.
        kept |= CapabilitySet::SYS_ADMIN;
    }
    let dropped = rustix::thread::capabilities(None).and_then(|mut sets| {
        sets.permitted &= kept;
        sets.effective = sets.permitted;
        sets.inheritable = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets)
    });
    dropped.unwrap_or_else(|error| log::warn!("cannot drop capabilities: {error}, ignoring"));
}
