//! Descriptors that a launch creates for the supervisor. Called by `launch`.

use crate::error::{Context, Result};
use crate::supervisor::guest::{descriptor_store, inbox};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;

/// Creates the socket for the guest's notifications. A service with a file descriptor store accepts descriptors
/// of the guest.
pub(super) fn notify_socket() -> Result<OwnedFd> {
    if descriptor_store::is_enabled() { accepting_socket() } else { guest_socket() }
}

/// Creates a socket for datagrams of the guest, which come with the sender's credentials.
pub(super) fn guest_socket() -> Result<OwnedFd> {
    let socket = accepting_socket()?;
    inbox::refuse_descriptors(socket.as_fd());
    Ok(socket)
}

fn accepting_socket() -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let making = || "cannot make a socket for the guest";
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).context(making)?;
    rustix::net::sockopt::set_socket_passcred(&socket, true).context(making)?;
    Ok(socket)
}

/// Memory of the kernel's for the console's tail: it costs this process nothing and crosses an exec.
pub(super) fn ring() -> Result<OwnedFd> {
    rustix::fs::memfd_create("coracle-console", MemfdFlags::CLOEXEC)
        .context(|| "cannot make the console's memory")
}
