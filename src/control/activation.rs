//! Activation of a machine by its ports (`network.on-demand`). `coracle-on-demand@NAME.service` calls it with
//! the listening sockets of systemd at the first connection. In a running machine the firewall forwards the
//! ports; this process relays the connections accepted before that, until they end.

use super::progress::Progress;
use super::start::{self, StartWait};
use super::{BatchResult, block_on, defined, running};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::machine::network::Port;
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::descriptor;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Time for a program in a started guest to begin to listen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two attempts to connect to it.
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);
/// Idle time until the end: a connection may have arrived just before the firewall began to forward the
/// ports.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two checks that the machine is alive: later its addresses may belong to another machine.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Starts the machine and relays the waiting connections.
///
/// # Errors
/// A call without sockets of systemd, or a machine that does not start; then the waiting connections are
/// closed.
pub(crate) fn activate(paths: &Paths, name: &Name) -> BatchResult {
    let sockets = received().map_err(|error| vec![error])?;
    log::info!("starting machine '{name}' for an incoming connection");
    if let Err(errors) =
        start::start(paths, std::slice::from_ref(name), StartWait::Unit, &mut Progress::silent())
    {
        close_waiting(&sockets);
        return Err(errors);
    }
    let relayed = defined(paths, name).and_then(|machine| {
        let record = running(paths, name)?;
        let ports = PortMap { ports: machine.network.on_demand.clone(), guest: record.addresses.clone() };
        block_on(relay(sockets, &ports, &record))?
    });
    relayed.map_err(|error| vec![error])
}

/// Returns the listening sockets passed by systemd (sd_listen_fds(3)).
fn received() -> Result<Vec<std::net::TcpListener>> {
    let numbers = sd_notify::listen_fds().context(|| "cannot receive sockets of systemd".to_owned())?;
    let socket = |number| {
        let socket: std::net::TcpListener = descriptor::adopt(number)?.into();
        socket.set_nonblocking(true).context(|| "cannot use a socket of systemd".to_owned())?;
        Ok(socket)
    };
    let sockets = numbers.map(socket).collect::<Result<Vec<_>>>()?;
    if sockets.is_empty() {
        return Err(Error::new("received no socket from systemd")
            .with_hint("'activate' is run by coracle-on-demand@NAME.service only"));
    }
    Ok(sockets)
}

/// Closes all waiting connections: they would start the machine again at once, in an endless loop.
fn close_waiting(sockets: &[std::net::TcpListener]) {
    sockets.iter().for_each(|socket| while socket.accept().is_ok() {});
}

/// Maps ports of the host to addresses of the guest.
struct PortMap {
    ports: Vec<Port>,
    guest: Vec<IpAddr>,
}

impl PortMap {
    /// Returns the destination of a connection to `local`, an address of the host, preferably in the same
    /// address family. `None` for a port without mapping.
    fn destination(&self, local: SocketAddr) -> Option<SocketAddr> {
        let (address, number) = (local.ip().to_canonical(), local.port());
        let matches = |port: &&Port| {
            port.address.is_none_or(|one| one == address) && (port.host..=port.last).contains(&number)
        };
        let port = self.ports.iter().find(matches)?;
        let same = self.guest.iter().find(|one| one.is_ipv4() == address.is_ipv4());
        let guest = same.or_else(|| self.guest.first())?;
        Some(SocketAddr::new(*guest, port.guest + (number - port.host)))
    }
}

/// An event of the relay.
enum RelayEvent {
    Accepted(TcpStream),
    MachineEnded,
    Idle,
}

/// Relays waiting and new connections until none is left or the machine ends. Then systemd listens again.
async fn relay(sockets: Vec<std::net::TcpListener>, ports: &PortMap, record: &Record) -> Result<()> {
    let listening = sockets.into_iter().map(TcpListener::from_std).collect::<std::io::Result<Vec<_>>>();
    let listening = listening.context(|| "cannot listen".to_owned())?;
    let mut open = JoinSet::new();
    loop {
        match next_event(&listening, record, &mut open).await {
            RelayEvent::Accepted(stream) => {
                let local = stream.local_addr().ok();
                if let Some(guest) = local.and_then(|local| ports.destination(local)) {
                    open.spawn(relay_connection(stream, guest));
                }
            }
            RelayEvent::MachineEnded | RelayEvent::Idle => return Ok(()),
        }
    }
}

async fn next_event(listening: &[TcpListener], record: &Record, open: &mut JoinSet<()>) -> RelayEvent {
    let mut idle = pin!(sleep(IDLE_TIMEOUT));
    let mut check = pin!(sleep(CHECK_INTERVAL));
    poll_fn(|context| {
        while check.as_mut().poll(context).is_ready() {
            if !record.is_alive() {
                return Poll::Ready(RelayEvent::MachineEnded);
            }
            check.as_mut().reset(Instant::now() + CHECK_INTERVAL);
        }
        for socket in listening {
            if let Poll::Ready(Ok((stream, _))) = socket.poll_accept(context) {
                return Poll::Ready(RelayEvent::Accepted(stream));
            }
        }
        while let Poll::Ready(Some(_)) = open.poll_join_next(context) {
            idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
        }
        if idle.as_mut().poll(context).is_ready() && open.is_empty() {
            return Poll::Ready(RelayEvent::Idle);
        }
        Poll::Pending
    })
    .await
}

/// Relays one connection in both directions until both ends have closed it.
async fn relay_connection(mut stream: TcpStream, guest: SocketAddr) {
    let relayed = match connect(guest).await {
        Ok(mut inside) => copy_bidirectional(&mut stream, &mut inside).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = relayed {
        log::info!("a connection to {guest} ended: {error}");
    }
}

/// Connects to the guest, with retries until its program listens.
async fn connect(guest: SocketAddr) -> std::io::Result<TcpStream> {
    let end = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match TcpStream::connect(guest).await {
            Err(error) if Instant::now() < end => {
                log::debug!("cannot connect to {guest}: {error}, trying again");
                sleep(CONNECT_INTERVAL).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::network::Protocol;

    #[test]
    fn connections_map_to_guest_ports() {
        let port = |address: Option<&str>, host, last, guest| Port {
            address: address.map(|address| address.parse().unwrap()),
            protocol: Protocol::Tcp,
            host,
            last,
            guest,
        };
        let ports = PortMap {
            ports: vec![port(None, 8000, 8010, 9000), port(Some("::1"), 80, 80, 81)],
            guest: vec!["10.177.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        };
        let destination = |local: &str| ports.destination(local.parse().unwrap()).map(|to| to.to_string());
        assert_eq!(destination("[::ffff:127.0.0.1]:8003").as_deref(), Some("10.177.0.2:9003"));
        assert_eq!(destination("[2001:db8::1]:8000").as_deref(), Some("[fd00::2]:9000"));
        assert_eq!(destination("[::1]:80").as_deref(), Some("[fd00::2]:81"));
        assert_eq!(destination("[::2]:80"), None);
        assert_eq!(destination("127.0.0.1:8011"), None);
    }
}
