//! Descriptors that a launch creates for the supervisor. Called by `launch`.

use crate::error::{Context, Result};
use crate::supervisor::guest::inbox;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;

/// A socket that the guest sends us datagrams at; the sender's credentials come with each.
pub(super) fn guest_socket() -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let making = || "cannot make a socket for the guest";
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).context(making)?;
    rustix::net::sockopt::set_socket_passcred(&socket, true).context(making)?;
    inbox::refuse_descriptors(socket.as_fd());
    Ok(socket)
}

/// Memory of the kernel's for the console's tail: it costs this process nothing and crosses an exec.
pub(super) fn ring() -> Result<OwnedFd> {
    rustix::fs::memfd_create("coracle-console", MemfdFlags::CLOEXEC)
        .context(|| "cannot make the console's memory")
}
