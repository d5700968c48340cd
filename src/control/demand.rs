//! Connections to ports that start a machine (`network.on-demand`). Called in `coracle-on-demand@NAME.service`, which
//! systemd starts at the first one, with the sockets that it listens at. Once the machine runs its ports lead to it
//! past us: what came before that is passed on here as long as it lasts.

use super::progress::Progress;
use super::start::{self, Definition, Wait};
use super::{Outcome, block_on, running};
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

/// How long a guest that is up may take until its program listens.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often such a program is asked.
const PAUSE: Duration = Duration::from_millis(50);
/// How long we stay without a connection: one that came as the ports began to lead past us may be on its way.
const QUIET: Duration = Duration::from_secs(1);
/// How often we look whether the machine is still there: its addresses may be another's when it is gone.
const LOOK: Duration = Duration::from_millis(200);

/// Starts the machine and passes on what waits for it.
///
/// # Errors
/// A call by another than systemd, or a machine that does not start: then what waits is refused.
pub fn answer(paths: &Paths, name: &Name, definition: Definition<'_>) -> Outcome {
    let sockets = received().map_err(|error| vec![error])?;
    log::info!("a connection starts machine '{name}'");
    let started =
        start::start(paths, std::slice::from_ref(name), Wait::Unit, definition, &mut Progress::silent());
    if let Err(errors) = started {
        refuse(&sockets);
        return Err(errors);
    }
    let passed = definition(name).and_then(|machine| {
        let record = running(paths, name)?;
        let ways = Ways { ports: machine.network.on_demand.clone(), guest: record.addresses.clone() };
        block_on(pass_on(sockets, &ways, &record))?
    });
    passed.map_err(|error| vec![error])
}

/// The sockets that systemd has passed (sd_listen_fds(3)).
fn received() -> Result<Vec<std::net::TcpListener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let count = match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if u32::try_from(pid) == Ok(std::process::id()) && count > 0 => count,
        _ => {
            return Err(
                Error::new("systemd has passed no socket").with_hint("its units call this, nobody else")
            );
        }
    };
    let socket = |number| {
        let socket: std::net::TcpListener = descriptor::adopt(number)?.into();
        socket.set_nonblocking(true).context(|| "cannot use a socket of systemd's".to_owned())?;
        Ok(socket)
    };
    (3..3_i32.saturating_add(count)).map(socket).collect()
}

/// Ends all that waits: otherwise it would start the machine again at once, for ever.
fn refuse(sockets: &[std::net::TcpListener]) {
    sockets.iter().for_each(|socket| while socket.accept().is_ok() {});
}

/// Where ports lead.
struct Ways {
    ports: Vec<Port>,
    guest: Vec<IpAddr>,
}

impl Ways {
    /// The guest's end for a connection to this end of ours, in the family that it came by.
    fn of(&self, ours: SocketAddr) -> Option<SocketAddr> {
        let (address, number) = (ours.ip().to_canonical(), ours.port());
        let is_meant = |port: &&Port| {
            port.address.is_none_or(|one| one == address) && (port.host..=port.last).contains(&number)
        };
        let port = self.ports.iter().find(is_meant)?;
        let same = self.guest.iter().find(|one| one.is_ipv4() == address.is_ipv4());
        let guest = same.or_else(|| self.guest.first())?;
        Some(SocketAddr::new(*guest, port.guest + (number - port.host)))
    }
}

/// What may happen while connections are passed on.
enum Event {
    Came(TcpStream),
    Ended,
    Quiet,
}

/// Passes on what waits and what comes, until nothing does, or the machine is gone: then systemd listens again.
async fn pass_on(sockets: Vec<std::net::TcpListener>, ways: &Ways, record: &Record) -> Result<()> {
    let listening = sockets.into_iter().map(TcpListener::from_std).collect::<std::io::Result<Vec<_>>>();
    let listening = listening.context(|| "cannot listen".to_owned())?;
    let mut open = JoinSet::new();
    loop {
        match next(&listening, record, &mut open).await {
            Event::Came(stream) => {
                let way = stream.local_addr().ok().and_then(|ours| ways.of(ours));
                if let Some(guest) = way {
                    open.spawn(pass(stream, guest));
                }
            }
            Event::Ended | Event::Quiet => return Ok(()),
        }
    }
}

async fn next(listening: &[TcpListener], record: &Record, open: &mut JoinSet<()>) -> Event {
    let mut quiet = pin!(sleep(QUIET));
    let mut look = pin!(sleep(LOOK));
    poll_fn(|context| {
        while look.as_mut().poll(context).is_ready() {
            if !record.is_alive() {
                return Poll::Ready(Event::Ended);
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
        for socket in listening {
            if let Poll::Ready(Ok((stream, _))) = socket.poll_accept(context) {
                return Poll::Ready(Event::Came(stream));
            }
        }
        while let Poll::Ready(Some(_)) = open.poll_join_next(context) {
            quiet.as_mut().reset(Instant::now() + QUIET);
        }
        if quiet.as_mut().poll(context).is_ready() && open.is_empty() {
            return Poll::Ready(Event::Quiet);
        }
        Poll::Pending
    })
    .await
}

/// Passes one connection on, both ways, until both ends have ended it.
async fn pass(mut stream: TcpStream, guest: SocketAddr) {
    let passed = match reach(guest).await {
        Ok(mut inside) => copy_bidirectional(&mut stream, &mut inside).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = passed {
        log::info!("a connection to {guest} ended: {error}");
    }
}

/// Connects to the guest, whose program may not listen yet.
async fn reach(guest: SocketAddr) -> std::io::Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(guest).await {
            Err(error) if Instant::now() < end => {
                log::debug!("{guest}: {error}, again");
                sleep(PAUSE).await;
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
    fn a_connection_leads_where_its_port_does() {
        let port = |address: Option<&str>, host, last, guest| Port {
            address: address.map(|address| address.parse().unwrap()),
            protocol: Protocol::Tcp,
            host,
            last,
            guest,
        };
        let ways = Ways {
            ports: vec![port(None, 8000, 8010, 9000), port(Some("::1"), 80, 80, 81)],
            guest: vec!["10.177.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        };
        let leads = |ours: &str| ways.of(ours.parse().unwrap()).map(|to| to.to_string());
        assert_eq!(leads("[::ffff:127.0.0.1]:8003").as_deref(), Some("10.177.0.2:9003"));
        assert_eq!(leads("[2001:db8::1]:8000").as_deref(), Some("[fd00::2]:9000"));
        assert_eq!(leads("[::1]:80").as_deref(), Some("[fd00::2]:81"));
        assert_eq!(leads("[::2]:80"), None);
        assert_eq!(leads("127.0.0.1:8011"), None);
    }
}
