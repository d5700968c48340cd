//! The file descriptor store of the machine's service (`FileDescriptorStoreMax=` of systemd.service(5)): what
//! PID 1 of the guest stores is sent on to the service manager under names of the payload, as
//! systemd-nspawn(1) does since version 261. The manager passes it to the next start. Called by the event
//! loop.
//!
//! Only a service with a store accepts descriptors of the guest. No descriptor is received by the supervisor
//! itself, see [`inbox`](super::inbox).

use super::rate_limit::RateLimit;
use crate::machine::descriptor_name;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, UCred,
};
use rustix::process::{Pid, getgid, getuid};
use sd_notify::NotifyState;
use std::io::{IoSlice, Result};
use std::mem::MaybeUninit;

/// The variable with the number of descriptors that the manager stores for the service (SYSTEMD(254)).
const STORE: &str = "FDSTORE";
/// The variable with the address of the manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";
/// The name that descriptors without a name get (sd_notify(3)).
const UNNAMED: &str = "stored";
/// The largest number of descriptors in one message (`SCM_MAX_FD`).
pub(super) const MOST_DESCRIPTORS: usize = 253;

/// Returns whether the service of this process has a store.
pub(crate) fn is_enabled() -> bool {
    let limit = std::env::var(STORE).ok().and_then(|limit| limit.parse::<u32>().ok());
    limit.is_some_and(|limit| limit > 0) && std::env::var_os(SOCKET).is_some()
}

/// A request of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// `FDSTORE=1`: stores the descriptors of the message.
    Store {
        /// Their name in the store of the host.
        name: String,
        /// Whether they stay after an error or a hangup (`FDPOLL=0`).
        stays: bool,
    },
    /// `FDSTOREREMOVE=1`: removes all descriptors of a name, that in the store of the host.
    Remove(String),
}

/// Returns the request of a datagram. `None` if it has none, or an invalid name to remove.
pub fn parse(datagram: &[u8]) -> Option<StoreRequest> {
    let lines = || datagram.split(|byte| *byte == b'\n').take(64);
    let has = |wanted: &[u8]| lines().any(|line| line == wanted);
    let name = lines().find_map(|line| line.strip_prefix(b"FDNAME="));
    let name = name.and_then(|name| descriptor_name::of_payload(std::str::from_utf8(name).ok()?));
    if has(b"FDSTOREREMOVE=1") {
        return name.map(StoreRequest::Remove);
    }
    let unnamed = || descriptor_name::of_payload(UNNAMED).unwrap_or_default();
    let store = || StoreRequest::Store { name: name.unwrap_or_else(unnamed), stays: has(b"FDPOLL=0") };
    has(b"FDSTORE=1").then(store)
}

/// The store of the service, seen by the event loop.
#[derive(Debug)]
pub(crate) struct DescriptorStore {
    limit: RateLimit,
    has_changed: bool,
}

impl DescriptorStore {
    /// Returns the store of the service. `None` if it has none.
    pub(crate) fn of_service() -> Option<Self> {
        is_enabled().then(|| Self { limit: RateLimit::new(), has_changed: false })
    }

    /// Returns whether the guest has stored or removed a descriptor.
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Returns the message to the manager for a datagram with descriptors. `None` if they are discarded.
    pub(super) fn message(&mut self, datagram: &[u8]) -> Option<String> {
        let StoreRequest::Store { name, stays } = parse(datagram)? else { return None };
        self.accepts().then(|| {
            let poll = if stays { "\nFDPOLL=0" } else { "" };
            format!("FDSTORE=1\nFDNAME={name}{poll}")
        })
    }

    /// Removes descriptors from the store, if the datagram requests it.
    pub(super) fn remove(&mut self, datagram: &[u8]) {
        let Some(StoreRequest::Remove(name)) = parse(datagram) else { return };
        if !self.accepts() {
            return;
        }
        let states = [NotifyState::Custom("FDSTOREREMOVE=1"), NotifyState::Custom(&format!("FDNAME={name}"))];
        if let Err(error) = sd_notify::notify(&states) {
            log::warn!("cannot remove '{name}' from the store of the service: {error}, ignoring");
        }
    }

    fn accepts(&mut self) -> bool {
        if let Some(dropped) = self.limit.report() {
            log::warn!("the machine stores descriptors too fast: ignored {dropped} requests");
        }
        let accepts = self.limit.accepts();
        self.has_changed |= accepts;
        accepts
    }
}

/// Sends descriptors to the service manager in the name of the main process of the service, which requires
/// CAP_SYS_ADMIN in a child of it (unix(7)). Directories are not sent: they would lead out of the next machine.
pub(super) fn send(main: Pid, message: &str, descriptors: &[OwnedFd]) -> Result<()> {
    let is_sendable = |fd: &&OwnedFd| is_directory(fd.as_fd()) == Some(false);
    let sendable: Vec<BorrowedFd<'_>> = descriptors.iter().filter(is_sendable).map(AsFd::as_fd).collect();
    if sendable.is_empty() {
        return Ok(());
    }
    let socket = std::env::var(SOCKET).unwrap_or_default();
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(socket.as_str())?,
    };
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmCredentials(UCred { pid: main, uid: getuid(), gid: getgid() }));
    control.push(SendAncillaryMessage::ScmRights(&sendable));
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let slices = [IoSlice::new(message.as_bytes())];
    rustix::net::sendmsg_addr(&socket, &address, &slices, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Returns whether a descriptor is one of a directory. `None` if that is unknown.
fn is_directory(fd: BorrowedFd<'_>) -> Option<bool> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(fd, "", flags, StatxFlags::TYPE).ok()?;
    Some(FileType::from_raw_mode(u32::from(found.stx_mode)) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, stays: bool) -> Option<StoreRequest> {
        Some(StoreRequest::Store { name: name.into(), stays })
    }

    #[test]
    fn requests_have_names_of_the_payload() {
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=web.socket\n"), stored("payload-web.socket", false));
        assert_eq!(parse(b"FDPOLL=0\nFDNAME=a\nFDSTORE=1"), stored("payload-a", true));
        assert_eq!(parse(b"FDSTORE=1"), stored("payload-stored", false));
        assert_eq!(parse(b"FDSTOREREMOVE=1\nFDNAME=a"), Some(StoreRequest::Remove("payload-a".into())));
        for none in [&b"READY=1\nFDNAME=a"[..], b"FDSTORE=0", b"FDSTOREREMOVE=1", b""] {
            assert_eq!(parse(none), None);
        }
    }

    #[test]
    fn invalid_names_are_not_sent_on() {
        let long = "x".repeat(248);
        for name in ["a:b", "a\tb", "", "\u{e9}", long.as_str()] {
            assert_eq!(
                parse(format!("FDSTORE=1\nFDNAME={name}").as_bytes()),
                stored("payload-stored", false)
            );
            assert_eq!(parse(format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes()), None);
        }
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=\xff"), stored("payload-stored", false));
    }

    #[test]
    fn messages_are_bounded_in_time() {
        let mut store = DescriptorStore { limit: RateLimit::new(), has_changed: false };
        assert_eq!(store.message(b"READY=1"), None);
        assert!(!store.has_changed());
        let sent = (0..10_000).filter(|_| store.message(b"FDSTORE=1\nFDPOLL=0").is_some()).count();
        assert!(sent < 10_000 && store.has_changed(), "{sent}");
    }

    #[test]
    fn directories_are_found() {
        let directory: OwnedFd = std::fs::File::open("/").unwrap().into();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        assert_eq!((is_directory(directory.as_fd()), is_directory(file.as_fd())), (Some(true), Some(false)));
    }
}
