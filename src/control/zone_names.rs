//! The hook of systemd-resolved for names of machines in zones, `NAME.ZONE`: the Varlink interface
//! `io.systemd.Resolve.Hook` (systemd 258). Run by coracle-zone-names.service, which ends when resolved has closed its
//! connections. It reads what all users may read, and has no privileges.

mod message;

use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use crate::state::changes::{COLLECTED, Changes};
use crate::state::record::Record;
use crate::sys::descriptor;
use message::{Call, Reply};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};

/// The most connections at a time: resolved keeps a few open.
const MOST_CONNECTIONS: usize = 64;
/// The longest call, bytes.
const LONGEST: usize = 64 << 10;

/// A machine in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ZoneMember {
    /// `NAME.ZONE`.
    name: String,
    zone: String,
    addresses: Vec<IpAddr>,
}

/// A connection of resolved.
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// The zones that it was notified of, if it waits for changes.
    notified: Option<BTreeSet<String>>,
}

/// Answers calls until no connection is left.
///
/// # Errors
/// No socket of systemd, or any error of poll(2).
pub(crate) fn serve(paths: &Paths) -> Result<()> {
    let listener = received()?;
    let changes = Changes::new()?;
    changes.renew(paths);
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        wait(&listener, &changes, &connections)?;
        accept(&listener, &mut connections);
        changes.clear();
        changes.renew(paths);
        let members = members(paths);
        connections.retain_mut(|connection| connection.serve(&members).is_ok());
        if connections.is_empty() {
            return Ok(());
        }
    }
}

/// Returns the listening socket passed by systemd (sd_listen_fds(3)).
fn received() -> Result<UnixListener> {
    let receiving = || "cannot receive a socket of systemd".to_owned();
    let number = sd_notify::listen_fds().context(receiving)?.next();
    let number = number.ok_or_else(|| {
        Error::new("received no socket from systemd")
            .with_hint("'zone-names' is run by coracle-zone-names.service only")
    })?;
    let listener: UnixListener = descriptor::adopt(number)?.into();
    listener.set_nonblocking(true).context(receiving)?;
    Ok(listener)
}

/// Waits for a call, a connection or a change of machines.
fn wait(listener: &UnixListener, changes: &Changes, connections: &[Connection]) -> Result<()> {
    let streams = connections.iter().map(|connection| connection.stream.as_fd());
    let watched = [listener.as_fd(), changes.as_fd()].into_iter().chain(streams);
    let mut watched: Vec<PollFd<'_>> =
        watched.map(|one| PollFd::from_borrowed_fd(one, PollFlags::IN)).collect();
    match poll(&mut watched, None) {
        Err(rustix::io::Errno::INTR) => {}
        waited => waited.context(|| "cannot wait for calls").map(drop)?,
    }
    let is_changed = watched.get(1).is_some_and(|changes| !changes.revents().is_empty());
    let is_called = watched.iter().enumerate().any(|(number, one)| number != 1 && !one.revents().is_empty());
    if is_changed && !is_called {
        std::thread::sleep(COLLECTED);
    }
    Ok(())
}

fn accept(listener: &UnixListener, connections: &mut Vec<Connection>) {
    while let Ok((stream, _)) = listener.accept() {
        if connections.len() < MOST_CONNECTIONS && stream.set_nonblocking(true).is_ok() {
            connections.push(Connection { stream, received: Vec::new(), notified: None });
        }
    }
}

/// Returns the running machines in zones.
fn members(paths: &Paths) -> Vec<ZoneMember> {
    let records = Record::all(paths).into_iter().filter(Record::is_alive);
    let member = |record: Record| {
        let zone = record.zone?.to_string();
        let addresses = record.addresses.into_iter().filter(is_global).collect();
        Some(ZoneMember { name: format!("{}.{zone}", record.name), zone, addresses })
    };
    records.filter_map(member).collect()
}

/// Whether an address means the same on the host as in the zone.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

impl Connection {
    /// Answers the received calls, and notifies of changed zones.
    fn serve(&mut self, members: &[ZoneMember]) -> std::io::Result<()> {
        self.receive()?;
        while let Some(end) = self.received.iter().position(|byte| *byte == 0) {
            let text: Vec<u8> = self.received.drain(..=end).collect();
            let reply = match Call::parse(text.get(..end).unwrap_or_default()) {
                Call::QueryFilter { is_subscription } => {
                    let zones = zones(members);
                    let reply = Reply::filter(&zones, is_subscription);
                    self.notified = is_subscription.then_some(zones);
                    reply
                }
                Call::ResolveRecord(keys) => Reply::records(&keys, |name| find(members, name)),
                Call::Unknown(method) => Reply::unknown(&method),
            };
            self.send(&reply)?;
        }
        let zones = zones(members);
        if self.notified.as_ref().is_some_and(|notified| *notified != zones) {
            self.send(&Reply::filter(&zones, true))?;
            self.notified = Some(zones);
        }
        Ok(())
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.received.len() > LONGEST {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// Sends a reply. A client that does not read replies is disconnected.
    fn send(&mut self, reply: &Reply) -> std::io::Result<()> {
        self.stream.write_all(&reply.bytes())
    }
}

/// Returns the zones of machines.
fn zones(members: &[ZoneMember]) -> BTreeSet<String> {
    members.iter().map(|member| member.zone.clone()).collect()
}

/// Returns the addresses of a name. `None` if no machine has it.
fn find(members: &[ZoneMember], name: &str) -> Option<Vec<IpAddr>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let member = members.iter().find(|member| member.name.eq_ignore_ascii_case(name))?;
    Some(member.addresses.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn member(name: &str, zone: &str, addresses: &[&str]) -> ZoneMember {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        ZoneMember { name: format!("{name}.{zone}"), zone: zone.into(), addresses }
    }

    /// Returns the replies to calls.
    fn ask(members: &[ZoneMember], calls: &[Value]) -> Vec<Value> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut connection = Connection { stream: theirs, received: Vec::new(), notified: None };
        for call in calls {
            (&ours).write_all(format!("{call}\0").as_bytes()).unwrap();
        }
        connection.serve(members).unwrap();
        drop(connection);
        let mut text = String::new();
        (&ours).read_to_string(&mut text).unwrap();
        text.split_terminator('\0').map(|reply| serde_json::from_str(reply).unwrap()).collect()
    }

    fn question(name: &str, kind: u16) -> Value {
        json!({ "method": "io.systemd.Resolve.Hook.ResolveRecord",
            "parameters": { "question": [{ "key": { "class": 1, "type": kind, "name": name } }] } })
    }

    #[test]
    fn names_of_zones_are_answered_and_others_are_left_to_resolved() {
        let members = [member("web", "lan", &["10.0.0.2", "fd00::2"]), member("db", "lab", &[])];
        let filter = json!({ "method": "io.systemd.Resolve.Hook.QueryFilter" });
        let replies = ask(
            &members,
            &[filter, question("WEB.lan", 1), question("web.lan.", 28), question("web.lan", 16)],
        );
        assert_eq!(
            replies[0],
            json!({ "parameters": { "filterDomains": ["lab", "lan"], "filterLabelsMin": 2 } })
        );
        // 3web3lan, A, IN, no time to live, four bytes.
        let raw = "A1dFQgNsYW4AAAEAAQAAAAAABAoAAAI=";
        assert_eq!(replies[1], json!({ "parameters": { "rcode": 0, "answer": [{ "raw": raw }] } }));
        assert_eq!(replies[2]["parameters"]["answer"].as_array().unwrap().len(), 1);
        assert_eq!(replies[3], json!({ "parameters": { "rcode": 0, "answer": [] } }));
        for name in ["other.lan", "web", "web.lab", "", "lan"] {
            assert_eq!(ask(&members, &[question(name, 1)]), [json!({ "parameters": {} })], "{name}");
        }
        let unknown = ask(&members, &[json!({ "method": "x.y" }), json!(3)]);
        assert!(unknown.iter().all(|reply| reply["error"] == "org.varlink.service.MethodNotFound"));
    }

    #[test]
    fn subscribers_learn_of_new_zones() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut connection = Connection { stream: theirs, received: Vec::new(), notified: None };
        let call = json!({ "method": "io.systemd.Resolve.Hook.QueryFilter", "more": true });
        (&ours).write_all(format!("{call}\0").as_bytes()).unwrap();
        for members in [vec![], vec![], vec![member("web", "lan", &[])]] {
            connection.serve(&members).unwrap();
        }
        drop(connection);
        let mut text = String::new();
        (&ours).read_to_string(&mut text).unwrap();
        let replies: Vec<Value> =
            text.split_terminator('\0').map(|reply| serde_json::from_str(reply).unwrap()).collect();
        let domains: Vec<&Value> =
            replies.iter().map(|reply| &reply["parameters"]["filterDomains"]).collect();
        assert_eq!(domains, [&json!([]), &json!(["lan"])]);
        assert!(replies.iter().all(|reply| reply["continues"] == true));
    }
}
