//! The second act: one event loop that idles while the machine runs. It keeps no bus connection and no
//! thread, and wakes up for events only.

mod answers;
mod boot_progress;
mod console;
mod inboxes;
mod init;
mod leave;
mod reboots;
mod signals;
mod timers;
mod trial;

use super::control_socket::{ControlSocket, FIRST_CLIENT};
use super::exit::Exit;
use super::failure;
use super::guest::console::{GuestConsole, GuestIdentity};
use super::guest::descriptor_store::DescriptorStore;
use super::guest::inbox::Inbox;
use super::guest::notify_in::{self, Notification};
use super::guest::syslog::Syslog;
use super::handover::{FdName, Fds, Running, SupervisorState};
use super::network::dhcp::DhcpServer;
use super::network::firewall::watch::FirewallWatch;
use super::network::forwarding::AddressWatch;
use super::notify_out::ServiceManager;
use super::registration::{self, Watch};
use super::stop::{GuestAccess, RequestChild, Stop};
use crate::error::{Context, Error, Result};
use crate::host::cgroup;
use crate::paths::Paths;
use crate::state::record::Phase;
use crate::sys::process;
use answers::Freezing;
use boot_progress::BootProgress;
use init::InitWatch;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The result of the loop.
#[derive(Debug)]
pub(crate) enum SupervisionResult {
    /// The machine ended, with this exit status of the run.
    Ended(u8),
    /// The guest requested a reboot. Contains everything for the next boot.
    Reboot(Box<Running>),
    /// machined does not know the machine any more: it has to be registered again.
    Register(Box<Running>),
    /// The loop has allocated memory that an idle supervisor must not keep: it has to be executed again.
    Reexec(Box<Running>),
}

/// The source of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventSource {
    Leader,
    Signal,
    Notify,
    Console,
    Input,
    Machined,
    Control,
    Log,
    Dhcp,
    Firewall,
    Addresses,
    Until,
}

impl EventSource {
    const ALL: [Self; 12] = [
        Self::Leader,
        Self::Signal,
        Self::Notify,
        Self::Console,
        Self::Input,
        Self::Machined,
        Self::Control,
        Self::Log,
        Self::Dhcp,
        Self::Firewall,
        Self::Addresses,
        Self::Until,
    ];
}

/// The state of the loop.
struct Loop {
    state: SupervisorState,
    /// The descriptors that the loop only keeps for the next act.
    fds: Fds,
    leader: OwnedFd,
    notify: Option<Inbox>,
    store: Option<DescriptorStore>,
    log: Option<Syslog>,
    dhcp: Option<DhcpServer>,
    firewall_watch: Option<FirewallWatch>,
    address_watch: Option<AddressWatch>,
    console: GuestConsole,
    control: ControlSocket,
    signals: SignalFd,
    machined: Option<Watch>,
    epoll: Epoll,
    stop: Option<Stop>,
    request_child: RequestChild,
    freezing: Option<Freezing>,
    is_held: bool,
    boot: BootProgress,
    init: InitWatch,
    /// The time of the next boot, during the pause after a reboot.
    reboot_at: Option<std::time::Instant>,
    /// Whether a stop was requested during that pause.
    is_cancelled: bool,
    /// The end of a version that an older one follows.
    failed_trial: Option<Exit>,
    service_manager: ServiceManager,
    ready: bool,
    /// Whether the loop has allocated memory that it must not keep.
    needs_reexec: bool,
    status: String,
}

/// Runs until the machine ends or reboots.
///
/// # Errors
/// Any error of the system calls that the loop depends on.
pub(crate) fn supervise(running: Box<Running>) -> Result<SupervisionResult> {
    super::drop_privileges::apply(&running.state.record);
    let mut watch = Loop::new(running)?;
    watch.begin();
    process::trim_memory();
    let exit = loop {
        if let Some(exit) = watch.turn()? {
            break exit;
        }
    };
    watch.end(exit)
}

/// Notifies the service manager of the start before the supervisor is executed, which takes milliseconds:
/// clients and stop requests wait for it.
///
/// # Errors
/// Any error of sigprocmask(2).
pub(crate) fn announce(running: &mut Running) -> Result<()> {
    signals::block();
    if running.fds.get(FdName::Control).is_none() {
        running.fds.insert(FdName::Control, listen(&running.state).into_listener());
    }
    send_start(&running.state, &ServiceManager::new());
    running.state.is_announced = true;
    Ok(())
}

/// Sends the state of a machine that was just started, in one message.
fn send_start(state: &SupervisorState, service_manager: &ServiceManager) {
    let ready = state.record.phase == Phase::Running;
    if ready {
        failure::clear(state);
    }
    service_manager.send_start(&state.record, ready || !state.waits_for_ready);
}

/// The reason to leave the loop.
enum LoopExit {
    Ended(Exit),
    Unregistered,
    NeedsReexec,
}

fn new_epoll() -> Result<Epoll> {
    Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(|| "cannot create an epoll instance")
}

impl Loop {
    fn new(running: Box<Running>) -> Result<Self> {
        let Running { state, mut fds } = *running;
        let signals = signals::take()?;
        let epoll = new_epoll()?;
        let ring = fds.get(FdName::Ring).map(|ring| rustix::io::fcntl_dupfd_cloexec(ring, 3));
        let memory = ring.transpose().context(|| "cannot keep the memory of the console")?;
        let guest = GuestIdentity {
            name: state.record.name.as_str(),
            leader: state.record.leader.unwrap_or_default(),
            boot_id: state.boot_id,
        };
        let log = fds.take(FdName::Log).map(|socket| Syslog::new(socket, &guest));
        let dhcp = fds.take(FdName::Dhcp).zip(state.lease.clone());
        let dhcp = dhcp.map(|(socket, lease)| DhcpServer::new(lease, socket, state.solicited));
        let console = GuestConsole::new(fds.take(FdName::Console), memory, state.console, &guest);
        let control = fds.take(FdName::Control);
        let control = control.map_or_else(|| listen(&state), ControlSocket::from_listener);
        let machined = state.register.then(|| Watch::new(&state.record.name)).flatten();
        let firewall_watch = FirewallWatch::watch(&state.record);
        let address_watch = fds.take(FdName::Addresses).map(AddressWatch::new);
        let boot = BootProgress::new(state.record.started, Duration::from_millis(state.start_timeout));
        let watch = Self {
            leader: fds.require(FdName::Leader)?,
            notify: fds.take(FdName::Notify).map(Inbox::new),
            store: DescriptorStore::of_service(),
            fds,
            ready: state.record.phase == Phase::Running,
            init: InitWatch::new(&state),
            state,
            log,
            dhcp,
            console,
            control,
            signals,
            machined,
            epoll,
            stop: None,
            request_child: RequestChild::default(),
            freezing: None,
            is_held: false,
            boot,
            reboot_at: None,
            is_cancelled: false,
            failed_trial: None,
            service_manager: ServiceManager::new(),
            needs_reexec: false,
            status: String::new(),
            firewall_watch,
            address_watch,
        };
        watch.watch_all()?;
        Ok(watch)
    }

    fn watch_all(&self) -> Result<()> {
        let stdin = self.console.is_interactive().then(rustix::stdio::stdin);
        let sources: [(EventSource, Option<BorrowedFd<'_>>); 11] = [
            (EventSource::Leader, Some(self.leader.as_fd())),
            (EventSource::Signal, Some(self.signals.as_fd())),
            (EventSource::Notify, self.notify.as_ref().map(AsFd::as_fd)),
            (EventSource::Console, self.console.master()),
            (EventSource::Input, stdin),
            (EventSource::Machined, self.machined.as_ref().map(AsFd::as_fd)),
            (EventSource::Control, self.control.listener()),
            (EventSource::Log, self.log.as_ref().map(Syslog::as_fd)),
            (EventSource::Dhcp, self.dhcp.as_ref().map(DhcpServer::as_fd)),
            (EventSource::Firewall, self.firewall_watch.as_ref().map(FirewallWatch::as_fd)),
            (EventSource::Addresses, self.address_watch.as_ref().map(AddressWatch::as_fd)),
        ];
        for (source, fd) in sources {
            if let Some(fd) = fd {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, source as u64);
                match self.epoll.add(fd, event) {
                    // Standard input is a file or /dev/null, from which nothing is typed.
                    Err(Errno::EPERM) if source == EventSource::Input => {}
                    added => added.context(|| format!("cannot watch {source:?}"))?,
                }
            }
        }
        for until in self.fds.all(FdName::Until) {
            // It stays readable.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
            let event = EpollEvent::new(flags, EventSource::Until as u64);
            self.epoll.add(until, event).context(|| "cannot watch the end of the session")?;
        }
        Ok(())
    }

    /// Notifies the service manager of the state at the start of the loop, unless the launch has.
    fn begin(&mut self) {
        if !std::mem::take(&mut self.state.is_announced) {
            send_start(&self.state, &self.service_manager);
        }
    }

    fn enter(&mut self, phase: Phase) {
        if self.state.record.phase != phase {
            self.state.record.phase = phase;
            self.write_record();
            self.send_status();
        }
    }

    fn paths(&self) -> Paths {
        Paths::below(&self.state.paths_root)
    }

    /// Waits for events and handles them. Functions with a buffer are not inlined: the frame of the loop
    /// would contain all buffers, and an idle supervisor their pages.
    fn turn(&mut self) -> Result<Option<LoopExit>> {
        let mut events = [EpollEvent::empty(); 8];
        let timeout = self.do_due().map_or(EpollTimeout::NONE, |left| {
            EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        });
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => {
                return Err(Error::from(std::io::Error::from(errno)).context("cannot wait for events"));
            }
        };
        let mut ended = None;
        for event in events.iter().take(count) {
            let source = usize::try_from(event.data()).ok().and_then(|number| EventSource::ALL.get(number));
            match source {
                Some(EventSource::Leader) => {
                    let exit = self.reap()?;
                    ended = self.after_end(exit);
                }
                Some(EventSource::Signal) => self.signalled(),
                Some(EventSource::Until) => self.request_stop(),
                Some(EventSource::Notify) => self.notified(),
                Some(EventSource::Console) => self.console_output(),
                Some(EventSource::Input) => self.console_input(),
                Some(EventSource::Log) => self.log.iter_mut().for_each(Syslog::read),
                Some(EventSource::Dhcp) => self.dhcp.iter_mut().for_each(DhcpServer::read),
                Some(EventSource::Firewall) => self.firewall_watch.iter_mut().for_each(FirewallWatch::read),
                Some(EventSource::Addresses) => self.addresses_changed(),
                Some(EventSource::Machined) if ended.is_none() && self.lost_by_machined() => {
                    ended = Some(LoopExit::Unregistered);
                }
                Some(EventSource::Machined) => {}
                Some(EventSource::Control) => self.control.accept(&self.epoll),
                None if event.data() >= FIRST_CLIENT => self.client(event.data()),
                None => {}
            }
        }
        self.dhcp.iter_mut().for_each(DhcpServer::advertise);
        let paths = self.paths();
        self.firewall_watch.iter_mut().for_each(|watch| watch.look(&paths, &self.state.record));
        self.follow_addresses(&paths);
        self.answer_freezing();
        self.end_late_start();
        self.recognise();
        if let Some(stop) = &mut self.stop {
            let record = &self.state.record;
            stop.escalate(self.leader.as_fd(), GuestAccess::of(record), record.cgroup.as_deref());
        }
        // Only without clients: an exec closes their connections.
        let reexecs =
            self.needs_reexec && self.reboot_at.is_none() && self.control.is_idle() && self.stop.is_none();
        let ended = ended.or_else(|| self.paused_reboot());
        Ok(ended.or_else(|| reexecs.then_some(LoopExit::NeedsReexec)))
    }

    fn reap(&mut self) -> Result<Exit> {
        let ended = process::wait(self.leader.as_fd())?;
        let kills =
            || self.state.record.payload_cgroup().map(|payload| cgroup::out_of_memory_kills(&payload));
        Ok(Exit::of(ended, || kills().unwrap_or_default() > self.state.out_of_memory_kills))
    }

    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(i32::try_from(info.ssi_signo).unwrap_or(0)) {
                Ok(Signal::SIGTERM) if registration::is_from_machined(info.ssi_pid, self.leader.as_fd()) => {}
                Ok(Signal::SIGHUP) if process::is_ignored_hangup(info.ssi_signo) => {}
                Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP) => self.request_stop(),
                // systemd stops the supervisor's scope (`systemd1::STOP_SIGNAL`).
                Ok(Signal::SIGURG) => self.interrupt(),
                Ok(Signal::SIGUSR1) => self.request_reboot(),
                Ok(Signal::SIGWINCH) => self.console.resize(),
                _ => {}
            }
        }
    }

    /// Requests an orderly stop of the guest. A second request kills it.
    fn request_stop(&mut self) {
        if self.reboot_at.is_some() {
            self.is_cancelled = true;
            return;
        }
        self.thaw();
        if let Some(stop) = &mut self.stop {
            stop.kill_now();
            return;
        }
        let init = self.running_init();
        let limit = self.state.stop_timeout.map(Duration::from_millis);
        self.stop = Some(Stop::begin(
            init,
            self.state.stop_mode(),
            limit,
            self.leader.as_fd(),
            GuestAccess::of(&self.state.record),
        ));
        self.status.clear();
        self.state.record.phase = Phase::Stopping;
        self.service_manager.send_stopping(&self.state.record, limit);
        self.write_record();
    }

    /// Thaws a frozen guest: it could not handle a request.
    fn thaw(&self) {
        let payload = self.state.record.payload_cgroup();
        if let Some(payload) = payload.filter(|payload| cgroup::is_frozen(payload)) {
            cgroup::begin_freezing(&payload, false).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        }
    }

    fn request_reboot(&mut self) {
        if self.stop.is_none() && self.reboot_at.is_none() {
            let init = self.running_init();
            let target = GuestAccess::of(&self.state.record);
            super::stop::request_reboot(&mut self.request_child, init, self.leader.as_fd(), target);
        }
    }

    fn notified(&mut self) {
        let Some(inbox) = &mut self.notify else { return };
        let leader = self.state.record.leader.unwrap_or_default();
        for notification in notify_in::receive(inbox, leader, &mut self.store) {
            match notification {
                Notification::Ready => {
                    self.recognise_ready();
                    self.reported_ready();
                }
                Notification::Status(status) if self.stop.is_none() || !status.is_empty() => {
                    let is_new = self.boot.is_new_text(&status);
                    self.status = status;
                    let text = self.status_text();
                    self.service_manager.queue_status(&self.state.record, &text);
                    self.progress(is_new);
                }
                Notification::Stopping => {
                    if let Some(stop) = &mut self.stop {
                        stop.acknowledge();
                    }
                }
                Notification::Other(text) => {
                    let is_new = self.boot.is_new_text(&text);
                    self.progress(is_new);
                }
                Notification::Status(_) => {}
            }
        }
    }

    /// Returns whether machined was started again without knowledge of the machine.
    fn lost_by_machined(&mut self) -> bool {
        let lost = self.machined.as_ref().is_some_and(|machined| machined.lost(&self.state.record.name));
        lost && self.stop.is_none() && self.reboot_at.is_none()
    }
}

/// Listens at the machine's control socket. A failure is not fatal.
fn listen(state: &SupervisorState) -> ControlSocket {
    let path = Paths::below(&state.paths_root).control(&state.record.name);
    ControlSocket::listen(&path).unwrap_or_else(|error| {
        log::warn!("{error}, ignoring");
        ControlSocket::default()
    })
}
