//! The owner of a port of the host: a listening program, or a machine with a published port. Called by `run`
//! and the supervisor before a machine is created. It changes nothing.

use crate::error::{Error, Result};
use crate::machine::network::{Port, Protocol};
use crate::paths::Paths;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket bound to a port.
struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// Refuses ports with a listening program on the host.
///
/// # Errors
/// The port, and the program if it can be found.
pub(crate) fn refuse_listening(paths: &Paths, ports: &[Port]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let sockets = sockets(paths, protocol);
        let of_protocol = || ports.iter().filter(|port| port.protocol == protocol);
        let clash = sockets
            .iter()
            .find_map(|socket| of_protocol().find(|port| meets(port, socket)).map(|port| (port, socket)));
        if let Some((port, socket)) = clash {
            let program = owner(paths, socket.inode).unwrap_or_else(|| "another program".to_owned());
            let protocol = protocol.as_str();
            return Err(Error::new(format!(
                "cannot forward '{port}': {program} listens on port {}/{protocol} of {}",
                socket.port, socket.address
            ))
            .with_hint("stop it, or publish another port or address"));
        }
    }
    Ok(())
}

/// Returns whether a program listens for UDP packets at a port of an address.
pub(crate) fn has_udp(paths: &Paths, address: IpAddr, port: u16) -> bool {
    sockets(paths, Protocol::Udp).iter().any(|socket| (socket.address, socket.port) == (address, port))
}

fn meets(port: &Port, socket: &Socket) -> bool {
    let address = port.address.is_none_or(|address| {
        address == socket.address || (socket.address.is_unspecified() && receives(socket.address, address))
    });
    address && (port.host..=port.last).contains(&socket.port)
}

/// Returns whether a socket bound to the wildcard address `all` receives packets for `address`: an IPv6
/// socket receives both families.
fn receives(all: IpAddr, address: IpAddr) -> bool {
    all.is_ipv6() || address.is_ipv4()
}

/// Returns the unconnected sockets of a protocol.
fn sockets(paths: &Paths, protocol: Protocol) -> Vec<Socket> {
    let (files, state) = match protocol {
        Protocol::Tcp => (["tcp", "tcp6"], "0A"),
        Protocol::Udp => (["udp", "udp6"], "07"),
    };
    let texts =
        files.map(|file| std::fs::read_to_string(paths.join("/proc/net").join(file)).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines().skip(1)).filter_map(|line| socket(line, state)).collect()
}

/// Parses a line of `/proc/net/tcp`: the second field is the local end, the fourth the state, the tenth the
/// inode.
fn socket(line: &str, state: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != state {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some(Socket {
        address: address_of(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Parses an address of 32-bit words in host byte order.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let bytes: [u8; 16] = words.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

/// Returns the program that has a socket open.
fn owner(paths: &Paths, inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir(paths.join("/proc")).ok()?.flatten();
    let numbered = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    numbered.map(|entry| entry.path()).find_map(|process| {
        let held = std::fs::read_dir(process.join("fd")).ok()?.flatten();
        let mut links = held.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.find(|link| link.as_os_str() == wanted.as_str())?;
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        let pid = process.file_name()?.to_string_lossy().into_owned();
        Some(format!("process {pid} ({})", name.trim().escape_debug()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let port = |address: Option<&str>| Port {
            address: address.map(|address| address.parse().unwrap()),
            protocol: Protocol::Tcp,
            host: number,
            last: number,
            guest: 80,
        };
        let paths = Paths::default();
        for taken in [None, Some("127.0.0.1")] {
            let error = refuse_listening(&paths, &[port(taken)]).unwrap_err().to_string();
            assert!(error.contains(&format!("process {} (", std::process::id())), "{error}");
        }
        refuse_listening(&paths, &[port(Some("127.0.0.2"))]).unwrap();
        refuse_listening(&paths, &[Port { protocol: Protocol::Udp, ..port(None) }]).unwrap();
    }

    #[test]
    fn invalid_lines_are_ignored() {
        for line in ["", "0: 0100007F:1F90", "0: x:y 0:0 0A 0 0 0 0 0 1", "0: 01:1F90 0:0 0A 0 0 0 0 0 1"] {
            assert!(socket(line, "0A").is_none(), "{line}");
        }
        let mapped = socket("0: 0000000000000000FFFF00000100007F:0050 0:0 0A 0 0 0 0 0 7", "0A").unwrap();
        assert_eq!((mapped.address.to_string().as_str(), mapped.port, mapped.inode), ("127.0.0.1", 80, 7));
    }
}
