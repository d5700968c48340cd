//! Flags of network interfaces (netdevice(7)), for processes without a netlink socket.
#![allow(unsafe_code)]

use crate::error::{Context, Result};
use rustix::fd::AsRawFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::ffi::CStr;

/// Brings up an interface of the network namespace of this process (netdevice(7), SIOCSIFFLAGS).
///
/// # Errors
/// `ENODEV` if it does not exist, `EPERM` without CAP_NET_ADMIN.
pub(crate) fn bring_up(name: &CStr) -> Result<()> {
    // Sockets of all families pass the request on to the interface.
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .context(|| "cannot create a socket")?;
    // SAFETY: all bytes zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is an initialised ifreq, whose name ends with a NUL, and lives across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    if result == -1 {
        return Err(std::io::Error::last_os_error())
            .context(|| format!("cannot bring up '{}'", name.to_string_lossy()));
    }
    Ok(())
}
