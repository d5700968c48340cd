//! The control socket of a machine, `/run/coracle/NAME/control`: Varlink calls of root, and viewers
//! of the console. Part of the supervisor's one loop; nothing here waits, and what is sent is
//! bounded. The guest cannot reach it: it lies on the host, and only the host's root is answered.

use crate::error::{Context, Result};
use crate::machine::network::Port;
use crate::network::firewall::TrafficPolicy;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// The first number of a client among the events of the loop; those below are the loop's own.
pub const FIRST_CLIENT: u64 = 1000;
/// The longest call, bytes.
const LONGEST: usize = 128 << 10;
/// How many clients there may be at once.
const MOST_CLIENTS: usize = 32;
/// Our own calls, beside those of `io.systemd.MachineInstance`.
pub const ATTACH: &str = "io.coracle.Machine.Attach";
/// Other ports, and other bounds of what the machine sends and gets.
pub const UPDATE_NETWORK: &str = "io.coracle.Machine.UpdateNetwork";
/// The size of a viewer's window.
pub const RESIZE: &str = "io.coracle.Machine.Resize";

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Reboot in order.
    Reboot,
    /// Power off in order.
    PowerOff,
    /// Power off in order; said again, end at once.
    Terminate,
    /// How the machine is.
    Status,
    /// See the console, with a window of so many rows and columns.
    Attach(WindowSize),
    /// The window changed.
    Resize(WindowSize),
    /// Other ports and bounds.
    UpdateNetwork(NetworkUpdate),
}

/// A window's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct WindowSize {
    /// Lines; 0 where there is no window.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What leads to a machine, and what it may send and get.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkUpdate {
    /// Ports of the host.
    pub ports: Vec<Port>,
    /// TrafficPolicy.
    pub bounds: TrafficPolicy,
}

/// What came from a client.
#[derive(Debug)]
pub enum ClientEvent {
    /// A call, to be answered.
    Call(Call),
    /// What a viewer typed.
    Typed(Vec<u8>),
    /// Nothing to be done.
    Nothing,
}

/// One connection.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// What came of a call so far.
    buffer: Vec<u8>,
    is_viewer: bool,
    /// Whether its call is answered later.
    is_waiting: bool,
}

/// The socket and who is connected.
#[derive(Debug, Default)]
pub struct ControlSocket {
    listener: Option<OwnedFd>,
    clients: Vec<Option<Client>>,
}

impl ControlSocket {
    /// Listens at a path, in place of whoever did before.
    ///
    /// # Errors
    /// What bind(2) says.
    pub fn listen(path: &Path) -> Result<Self> {
        let listening = || format!("cannot listen at '{}'", path.display());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .context(listening)?;
        let _ = std::fs::remove_file(path);
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).context(listening)?).context(listening)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::chmod(path, mode).context(listening)?;
        rustix::net::listen(&socket, 16).context(listening)?;
        Ok(Self { listener: Some(socket), clients: Vec::new() })
    }

    /// Listens on, at a socket that did before.
    pub fn from_listener(listener: OwnedFd) -> Self {
        Self { listener: Some(listener), clients: Vec::new() }
    }

    /// The socket, for who listens next.
    pub fn into_listener(self) -> Option<OwnedFd> {
        self.listener
    }

    /// Where clients come, to be watched.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Takes who wants to connect: root, and so many at most.
    pub fn accept(&mut self, epoll: &Epoll) {
        let Some(listener) = &self.listener else { return };
        while let Ok(socket) =
            rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            // nix, since the process id of a caller from outside of our pid namespace is 0.
            let credentials = getsockopt(&socket, PeerCredentials);
            if !credentials.is_ok_and(|credentials| credentials.uid() == 0) {
                continue;
            }
            let slot = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
            if slot >= MOST_CLIENTS {
                continue;
            }
            let event = EpollEvent::new(EpollFlags::EPOLLIN, FIRST_CLIENT + slot as u64);
            if epoll.add(&socket, event).is_err() {
                continue;
            }
            let client = Some(Client { socket, buffer: Vec::new(), is_viewer: false, is_waiting: false });
            match self.clients.get_mut(slot) {
                Some(free) => *free = client,
                None => self.clients.push(client),
            }
        }
    }

    /// Reads from the client of an event. One that ended, or speaks no sense, is gone after that.
    pub fn receive(&mut self, slot: usize) -> ClientEvent {
        let Some(Some(client)) = self.clients.get_mut(slot) else { return ClientEvent::Nothing };
        let mut buffer = [0u8; 1024];
        let length = match rustix::net::recv(&client.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return self.close(slot),
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return ClientEvent::Nothing,
            Err(_) => return self.close(slot),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if client.is_viewer {
            return ClientEvent::Typed(bytes.to_vec());
        }
        client.buffer.extend_from_slice(bytes);
        // A call ends with a NUL (varlink.org). What a client sends behind one before it has the
        // answer is not waited for by anybody.
        let Some(end) = client.buffer.iter().position(|byte| *byte == 0) else {
            return if client.buffer.len() > LONGEST { self.close(slot) } else { ClientEvent::Nothing };
        };
        let message = std::mem::take(&mut client.buffer);
        match parse_call(message.get(..end).unwrap_or_default()) {
            Ok(call) => ClientEvent::Call(call),
            Err(CallError::Noise) => self.close(slot),
            Err(CallError::With(error, parameters)) => {
                self.send(slot, &json!({ "error": error, "parameters": parameters }));
                ClientEvent::Nothing
            }
        }
    }

    /// Whether nobody is connected.
    pub fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// Answers a call.
    pub fn answer(&mut self, slot: usize, outcome: std::result::Result<Value, String>) {
        let message = match outcome {
            Ok(parameters) => json!({ "parameters": parameters }),
            Err(why) => json!({ "error": "io.coracle.Machine.Failed", "parameters": { "message": why } }),
        };
        self.send(slot, &message);
    }

    /// The client is answered by [`Self::answer_waiting`].
    pub fn wait(&mut self, slot: usize) {
        if let Some(Some(client)) = self.clients.get_mut(slot) {
            client.is_waiting = true;
        }
    }

    /// Answers a client that waits, if it still does: another one may have its slot.
    pub fn answer_waiting(&mut self, slot: usize, outcome: std::result::Result<Value, String>) {
        if let Some(Some(client)) = self.clients.get_mut(slot)
            && std::mem::take(&mut client.is_waiting)
        {
            self.answer(slot, outcome);
        }
    }

    /// The client sees the console from here on, first what was kept of it.
    pub fn begin_viewing(&mut self, slot: usize, kept: &[u8]) {
        self.send(slot, &json!({ "parameters": {} }));
        if let Some(Some(client)) = self.clients.get_mut(slot) {
            client.is_viewer = true;
            self.send_bytes(slot, kept);
        }
    }

    /// Shows every viewer what the guest wrote. One that does not read is let go, and not waited for.
    pub fn show(&mut self, bytes: &[u8]) {
        for slot in 0..self.clients.len() {
            if matches!(self.clients.get(slot), Some(Some(client)) if client.is_viewer) {
                self.send_bytes(slot, bytes);
            }
        }
    }

    fn send(&mut self, slot: usize, message: &Value) {
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.send_bytes(slot, &bytes);
    }

    fn send_bytes(&mut self, slot: usize, bytes: &[u8]) {
        let Some(Some(client)) = self.clients.get(slot) else { return };
        if rustix::net::send(&client.socket, bytes, SendFlags::NOSIGNAL) != Ok(bytes.len()) {
            self.close(slot);
        }
    }

    /// Lets a client go, and with the last one what memory they took.
    fn close(&mut self, slot: usize) -> ClientEvent {
        if let Some(client) = self.clients.get_mut(slot) {
            *client = None;
        }
        if self.clients.iter().all(Option::is_none) {
            self.clients = Vec::new();
        }
        ClientEvent::Nothing
    }
}

/// Why a call is not done.
#[derive(Debug, PartialEq, Eq)]
pub enum CallError {
    /// It is no call.
    Noise,
    /// With this error and its parameters.
    With(&'static str, Value),
}

/// Reads a call.
///
/// # Errors
/// What is none, or none that we know.
pub fn parse_call(message: &[u8]) -> std::result::Result<Call, CallError> {
    #[derive(Deserialize)]
    struct Message {
        method: String,
        #[serde(default)]
        parameters: Option<Value>,
    }
    let message: Message = serde_json::from_slice(message).map_err(|_| CallError::Noise)?;
    let given = message.parameters.unwrap_or_else(|| json!({}));
    let window = |given| serde_json::from_value(given).map_err(|_| CallError::Noise);
    match message.method.as_str() {
        ATTACH => return window(given).map(Call::Attach),
        RESIZE => return window(given).map(Call::Resize),
        UPDATE_NETWORK => {
            return serde_json::from_value(given).map(Call::UpdateNetwork).map_err(|_| CallError::Noise);
        }
        _ => {}
    }
    match message.method.strip_prefix("io.systemd.MachineInstance.") {
        Some("Pause") => Ok(Call::Pause),
        Some("Resume") => Ok(Call::Resume),
        Some("Reboot") => Ok(Call::Reboot),
        Some("PowerOff") => Ok(Call::PowerOff),
        Some("Terminate") => Ok(Call::Terminate),
        // SYSTEMD(263): the same under another name.
        Some("QueryStatus" | "Describe") => Ok(Call::Status),
        Some("AddStorage" | "RemoveStorage" | "ReplaceStorage" | "SubscribeEvents" | "SetMemory") => {
            Err(CallError::With("io.systemd.MachineInstance.NotSupported", json!({})))
        }
        _ => {
            let parameters = json!({ "method": message.method });
            Err(CallError::With("org.varlink.service.MethodNotFound", parameters))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_understood_and_noise_is_not() {
        let call = |text: &str| parse_call(text.as_bytes());
        assert_eq!(call(r#"{"method":"io.systemd.MachineInstance.Pause"}"#), Ok(Call::Pause));
        assert_eq!(call(r#"{"method":"io.systemd.MachineInstance.Pause","parameters":{}}"#), Ok(Call::Pause));
        let window = WindowSize { rows: 5, columns: 9 };
        let attach = r#"{"method":"io.coracle.Machine.Attach","parameters":{"rows":5,"columns":9}}"#;
        assert_eq!(call(attach), Ok(Call::Attach(window)));
        for noise in ["", "{", "[]", r#"{"method":7}"#, "\u{0}", &"[".repeat(4000)] {
            assert_eq!(call(noise), Err(CallError::Noise), "{noise}");
        }
        let unknown = call(r#"{"method":"a.b"}"#);
        assert!(matches!(unknown, Err(CallError::With("org.varlink.service.MethodNotFound", _))));
        let storage = call(r#"{"method":"io.systemd.MachineInstance.AddStorage","parameters":{"name":"x"}}"#);
        assert!(matches!(storage, Err(CallError::With("io.systemd.MachineInstance.NotSupported", _))));
    }
}
