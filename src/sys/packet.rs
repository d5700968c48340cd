//! Sockets that receive all frames of one interface (packet(7)), and filters of sockets.
#![allow(unsafe_code)]

use super::filter::Instruction;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Opens a non-blocking socket for the frames that arrive at an interface and pass a filter. For all
/// protocols, because such sockets get a frame first and leave it to the kernel unshared, while for a single
/// protocol the kernel copies the header of each of its frames.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW, `ENODEV` for a missing interface, `EINVAL` for an invalid filter.
pub(crate) fn open(ifindex: u32, filter: &[Instruction]) -> std::io::Result<OwnedFd> {
    /// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
    const IGNORE_OUTGOING: libc::c_int = 23;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // No protocol yet: frames must not arrive before the filter is attached. SAFETY: no pointers.
    let number = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the number is a new descriptor without another owner.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    attach_filter(&socket, filter)?;
    // SAFETY: the value is an integer without pointers.
    unsafe { set::<libc::c_int>(&socket, libc::SOL_PACKET, IGNORE_OUTGOING, &1) }?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(|_| rustix::io::Errno::NODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is initialised and of the given length.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), size::<libc::sockaddr_ll>())
    })?;
    Ok(socket)
}

/// Accepts only packets of a socket that pass a filter (socket(7), `SO_ATTACH_FILTER`).
///
/// # Errors
/// `EINVAL` for an invalid filter.
pub(crate) fn attach_filter(socket: &OwnedFd, filter: &[Instruction]) -> std::io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| rustix::io::Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: an instruction has the layout of `sock_filter`; the kernel reads the given number of them, and
    // copies the program before it returns.
    unsafe { set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
}

/// Sets an option.
///
/// # Safety Pointers in the value must fulfil the requirements of the option.
unsafe fn set<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> std::io::Result<()> {
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value is initialised and of the given length; the rest is the caller's responsibility.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, size::<T>()) }).map(drop)
}

fn size<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
