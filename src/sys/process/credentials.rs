//! Changes the user, the groups and the capabilities of this process or of a program to execute. The calls
//! of the kernel are for one thread: each process that calls them has one. Those of the C library block and
//! unblock all signals around the call.

use crate::error::{Context, Error, Result};

/// Runs an action with this effective user id and all capabilities: the owner of a user namespace has all
/// capabilities in it, also those missing in this process.
///
/// # Errors
/// Those of the action, of seteuid(2) and capset(2).
pub(crate) fn as_effective(id: u32, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = rustix::process::geteuid().as_raw();
    if id == before {
        return action();
    }
    become_effective(id)?;
    let done = action();
    become_effective(before)?;
    done
}

/// Changes the effective user id and keeps the effective capabilities.
pub(super) fn become_effective(id: u32) -> Result<()> {
    let context = || format!("cannot set the effective user id {id}");
    let sets = rustix::thread::capabilities(None).context(context)?;
    rustix::thread::set_thread_res_uid(None, rustix::process::Uid::from_raw(id), None).context(context)?;
    rustix::thread::set_capabilities(None, sets).context(context)
}

/// Changes to a user of the namespace: groups, then group, then user.
///
/// # Errors
/// Any error of the kernel, with the id.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (new_uid, new_gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&groups).context(|| "cannot set groups")?;
    set_thread_res_gid(new_gid, new_gid, new_gid).context(|| format!("cannot become group {gid}"))?;
    set_thread_res_uid(new_uid, new_uid, new_uid).context(|| format!("cannot become user {uid}"))
}

/// Runs a command as the user nobody with the right to read all files: without other capabilities, new
/// privileges and network. For programs that parse files of a guest. A caller without root runs the command
/// as itself.
pub(crate) fn read_only(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    if rustix::process::geteuid().is_root() {
        // SAFETY: the closure makes system calls only, which is allowed between fork(2) and execve(2).
        unsafe { command.pre_exec(become_reader) };
    }
}

fn become_reader() -> std::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    const NOBODY: libc::c_long = 65534;
    // SAFETY: unshare(2) has an integer argument. A host without network namespaces cannot run machines
    // either.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == -1 {
        return Err(std::io::Error::last_os_error());
    }
    rustix::thread::set_keep_capabilities(true)?;
    let calls = [
        (libc::SYS_setgroups, [0, 0, 0]),
        (libc::SYS_setresgid, [NOBODY; 3]),
        (libc::SYS_setresuid, [NOBODY; 3]),
    ];
    for (call, [one, two, three]) in calls {
        // SAFETY: ids are integers, and an empty list of groups needs no address.
        if unsafe { libc::syscall(call, one, two, three) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let kept = CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::configure_capability_in_ambient_set(kept, true)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Accesses files as this user and group from now on, without the capabilities of root over files
/// (setfsuid(2)).
///
/// # Errors
/// Without `CAP_SETUID` and `CAP_SETGID`.
pub(crate) fn use_files_as(id: u32) -> Result<()> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
    // Neither call reports a failure; both return the former id.
    let taken =
        setfsuid(Uid::from_raw(u32::MAX)).as_raw() == id && setfsgid(Gid::from_raw(u32::MAX)).as_raw() == id;
    if taken { Ok(()) } else { Err(Error::new(format!("cannot reach files as user {id}"))) }
}

/// Creates files in root's group from now on (setfsgid(2)), whatever the group of the caller.
pub(crate) fn make_files_in_group_0() {
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
}

/// Creates files as this user and group from now on, with all other rights kept (setfsuid(2)): a file system
/// of a user namespace accepts files of its own ids only.
///
/// # Errors
/// Any error of capset(2).
pub(crate) fn make_files_as(id: u32) -> Result<()> {
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(id));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(id));
    // The kernel has dropped the capabilities over files as well.
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot keep capabilities")
}
