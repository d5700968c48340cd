//! Both ends of the measured TCP connection: this program again, called in the network namespaces of machines
//! and of the outside network. `bench wire serve ADDRESS`, `bench wire out|in|turns ADDRESS MS`. Called by
//! `main`.

use super::table::median;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The size of a read or write, and of the socket buffers at each end. Buffers resized by the kernel differ
/// from run to run, and the results of two identical machines then differ by 6 %.
const BUFFER: usize = 128 << 10;
/// The first byte of a connection selects the operation of the server: receive, send, or reply byte for byte.
const TAKE: u8 = b't';
const GIVE: u8 = b'g';
const ANSWER: u8 = b'a';

/// Serves or measures, depending on the arguments; a measurement prints one line.
pub fn run(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", address] => serve(address),
        [what, address, ms] => {
            let bound = Duration::from_millis(ms.parse().expect("milliseconds"));
            let peer = connect(address).expect("connect");
            peer.set_nodelay(true).expect("send at once");
            println!("{}", measure(what, peer, bound));
        }
        _ => panic!("usage: wire serve ADDRESS | wire out|in|turns ADDRESS MS"),
    }
}

fn socket() -> std::io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
    sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    Ok(socket)
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let socket = socket()?;
    rustix::net::connect(&socket, &address.parse::<SocketAddr>().expect("an address"))?;
    Ok(socket.into())
}

fn listen(address: &str) -> std::io::Result<TcpListener> {
    let socket = socket()?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address.parse::<SocketAddr>().expect("an address"))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket.into())
}

/// Serves one connection at a time.
fn serve(address: &str) {
    let listener = listen(address).expect("listen");
    for peer in listener.incoming() {
        let mut peer = peer.expect("a connection");
        peer.set_nodelay(true).expect("send at once");
        let mut wish = [0];
        let ended = peer.read_exact(&mut wish).and_then(|()| match wish[0] {
            TAKE => take(&mut peer, None).map(|_| ()),
            GIVE => give(&mut peer, None).map(|_| ()),
            _ => answer(&mut peer),
        });
        match ended {
            Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                panic!("a connection: {error}")
            }
            _ => {}
        }
    }
}

/// Returns Gbit/s for `out` and `in`, and microseconds per round trip for `turns`.
fn measure(what: &str, mut peer: TcpStream, bound: Duration) -> f64 {
    let wish = match what {
        "out" => TAKE,
        "in" => GIVE,
        "turns" => ANSWER,
        _ => panic!("'{what}' cannot be measured"),
    };
    peer.write_all(&[wish]).expect("say what is wanted");
    // Let the connection reach its full rate first.
    pass(wish, &mut peer, bound / 5);
    pass(wish, &mut peer, bound)
}

fn pass(wish: u8, peer: &mut TcpStream, bound: Duration) -> f64 {
    let began = Instant::now();
    let end = began + bound;
    let bytes = match wish {
        TAKE => give(peer, Some(end)),
        GIVE => take(peer, Some(end)),
        _ => return turns(peer, end).expect("the connection lasts"),
    };
    bytes.expect("the connection lasts") as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9
}

fn give(peer: &mut TcpStream, end: Option<Instant>) -> std::io::Result<usize> {
    let buffer = vec![0; BUFFER];
    let mut given = 0;
    while end.is_none_or(|end| Instant::now() < end) {
        given += peer.write(&buffer)?;
    }
    Ok(given)
}

fn take(peer: &mut TcpStream, end: Option<Instant>) -> std::io::Result<usize> {
    let mut buffer = vec![0; BUFFER];
    let mut taken = 0;
    while end.is_none_or(|end| Instant::now() < end) {
        match peer.read(&mut buffer)? {
            0 => break,
            some => taken += some,
        }
    }
    Ok(taken)
}

fn answer(peer: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    while peer.read(&mut byte)? == 1 {
        peer.write_all(&byte)?;
    }
    Ok(())
}

/// Returns the median of the round trips: interruptions of a processor affect only a few of them.
fn turns(peer: &mut TcpStream, end: Instant) -> std::io::Result<f64> {
    let mut byte = [0];
    let mut took = Vec::new();
    let mut before = Instant::now();
    while before < end {
        peer.write_all(&byte)?;
        peer.read_exact(&mut byte)?;
        let now = Instant::now();
        took.push((now - before).as_secs_f64() * 1e6);
        before = now;
    }
    Ok(median(&took))
}
