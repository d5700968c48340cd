//! Starts systemd-journal-remote(8), which receives the journal of the guest at a socket and stores it on the
//! host. Called by `launch`.
//!
//! It reads what the guest sends: it keeps the capabilities for files of the host only, and gains none. It
//! ends with the supervisor, and stays when the guest reboots.

use crate::error::{Context, Error, Result};
use crate::machine::credentials::JOURNAL_SOCKET;
use crate::machine::journal::Forwarding;
use crate::sys::process::{self, Side};
use crate::sys::{descriptor, pseudo_file};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The program. It is in no search path.
const PROGRAM: &str = "/usr/lib/systemd/systemd-journal-remote";
/// The capabilities for a directory of another owner.
const KEPT: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::CHOWN).union(CapabilitySet::FOWNER);

/// Starts the receiver, with its socket in a directory of the state of the machine. `owner` is the host id of
/// the guest's root.
///
/// # Errors
/// There is no such program, or it cannot be started.
pub(super) fn start(forwarding: &Forwarding, directory: &Path, owner: u32) -> Result<()> {
    let socket = directory.join(JOURNAL_SOCKET);
    if !Path::new(PROGRAM).exists() {
        return Err(Error::new(format!("'{PROGRAM}' does not exist"))
            .with_hint("install systemd-journal-remote, or remove journal.forward"));
    }
    if !forwarding.is_file() {
        let path = &forwarding.path;
        std::fs::create_dir_all(path).context(|| format!("cannot create '{}'", path.display()))?;
    }
    let listener = listen(directory, &socket, owner)?;
    match process::clone(0, None)? {
        Side::Parent(_) => Ok(()),
        Side::Child => {
            if let Err(error) = execute(forwarding, &listener) {
                log::warn!("cannot start '{PROGRAM}': {error}");
            }
            process::exit_now(127)
        }
    }
}

/// Creates the socket. Only the guest's root can connect.
fn listen(directory: &Path, socket: &Path, owner: u32) -> Result<OwnedFd> {
    let doing = || format!("cannot create the socket '{}'", socket.display());
    std::fs::create_dir_all(directory).context(doing)?;
    let _ = std::fs::remove_file(socket);
    let address = SocketAddrUnix::new(socket).context(doing)?;
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .context(doing)?;
    rustix::net::bind(&listener, &address).context(doing)?;
    // In the state directory, which only root of the host can enter.
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chmodat(CWD, socket, Mode::from_raw_mode(0o600), AtFlags::empty()).context(doing)?;
    rustix::fs::chownat(CWD, socket, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).context(doing)?;
    rustix::net::listen(&listener, 16).context(doing)?;
    Ok(listener)
}

/// Becomes the program. Returns only on failure.
fn execute(forwarding: &Forwarding, listener: &OwnedFd) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    rustix::process::setsid()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    // sd_listen_fds(3): the first one after the standard streams.
    descriptor::place(listener.as_fd(), 3)?;
    descriptor::close_on_exec_from(4)?;
    process::reset_signals(u64::MAX);
    drop_rights()?;
    let text = |word: OsString| {
        CString::new(word.into_vec()).map_err(|_| Error::new("an argument contains a NUL byte"))
    };
    let argv: Vec<CString> = arguments(forwarding).into_iter().map(text).collect::<Result<_>>()?;
    let pid = rustix::process::getpid().as_raw_nonzero();
    let variables = [format!("LISTEN_PID={pid}"), "LISTEN_FDS=1".into(), "PATH=/usr/bin:/bin".into()];
    let environment: Vec<CString> =
        variables.into_iter().map(|line| text(line.into())).collect::<Result<_>>()?;
    let program = text(PROGRAM.into())?;
    Err(process::execute(&program, &argv, &environment, || ()).into())
}

/// Keeps the capabilities for files only.
fn drop_rights() -> Result<()> {
    for number in (0..64).filter(|number| KEPT.bits() >> number & 1 == 0) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Err(rustix::io::Errno::INVAL) => break,
            dropped => dropped?,
        }
    }
    rustix::thread::set_no_new_privs(true)?;
    // The score of the machine is for its processes.
    let _ = pseudo_file::write("/proc/self/oom_score_adj", "0");
    Ok(())
}

/// Returns the arguments of the program, its name first.
fn arguments(forwarding: &Forwarding) -> Vec<OsString> {
    let mut output = OsString::from("--output=");
    output.push(&forwarding.path);
    let mode = if forwarding.is_file() { "none" } else { "host" };
    let limits = [
        ("max-use", forwarding.max_use),
        ("keep-free", forwarding.keep_free),
        ("max-file-size", forwarding.max_file_size),
        ("max-files", forwarding.max_files),
    ];
    let limits = limits.into_iter().filter_map(|(name, limit)| Some(format!("--{name}={}", limit?).into()));
    [PROGRAM.into(), output, format!("--split-mode={mode}").into()].into_iter().chain(limits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_journal_and_a_directory_has_one_per_host() {
        let of = |path: &str, max_files| {
            let path = path.into();
            let forwarding = Forwarding { path, max_files, ..Forwarding::default() };
            arguments(&forwarding)[1..].join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(of("/x/a.journal", None), "--output=/x/a.journal --split-mode=none");
        assert_eq!(of("/x", Some(7)), "--output=/x --split-mode=host --max-files=7");
    }
}
