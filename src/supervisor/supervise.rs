//! The second act: one event loop that idles for as long as the machine runs. It keeps no bus
//! connection and no thread, and wakes up for nothing but events.

mod answers;
mod boot;
mod inboxes;
mod init;
mod leave;
mod reboots;
mod signals;
mod timers;

use super::console::{Console, Guest, Hotkey, Typed};
use super::control::{Control, FIRST_CLIENT};
use super::ending::Ending;
use super::failure;
use super::guest::{self, Word};
use super::handover::{Descriptors, Running, Terms};
use super::inbox::Inbox;
use super::manager::Manager;
use super::registration::{self, Watch};
use super::responder::Responder;
use super::rules::Rules;
use super::stop::{Asking, Stop, Target};
use super::syslog::Syslog;
use crate::error::{Context, Error, Result};
use crate::host::cgroup;
use crate::paths::Paths;
use crate::state::record::Phase;
use crate::sys::process;
use answers::{FREEZING_PAUSE, Freezing};
use boot::Boot;
use init::InitWatch;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use sd_notify::NotifyState;
use std::time::Duration;

/// How the loop ended.
#[derive(Debug)]
pub enum Outcome {
    /// The machine is gone; the exit status of the run.
    Ended(u8),
    /// The guest asked for a reboot: what it is booted again with.
    Reboot(Box<Running>),
    /// machined has lost the machine: it is to be told again.
    Register(Box<Running>),
    /// What was asked of it took memory that an idle machine shall not hold.
    Refresh(Box<Running>),
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Leader,
    Signal,
    Notify,
    Console,
    Input,
    Machined,
    Control,
    Log,
    Link,
    Rules,
}

impl Source {
    const ALL: [Self; 10] = [
        Self::Leader,
        Self::Signal,
        Self::Notify,
        Self::Console,
        Self::Input,
        Self::Machined,
        Self::Control,
        Self::Log,
        Self::Link,
        Self::Rules,
    ];
}

/// The state of the loop.
struct Loop {
    terms: Terms,
    leader: OwnedFd,
    notify: Option<Inbox>,
    log: Option<Syslog>,
    responder: Option<Responder>,
    rules: Option<Rules>,
    network: Option<OwnedFd>,
    kernel_log: Option<OwnedFd>,
    ring: OwnedFd,
    locks: Vec<OwnedFd>,
    console: Console,
    control: Control,
    signals: SignalFd,
    machined: Option<Watch>,
    epoll: Epoll,
    stop: Option<Stop>,
    asking: Asking,
    freezing: Option<Freezing>,
    boot: Boot,
    init: InitWatch,
    /// When a guest is booted again that has just rebooted.
    reboot_at: Option<std::time::Instant>,
    /// Whether it was asked to stop meanwhile.
    is_cancelled: bool,
    manager: Manager,
    ready: bool,
    /// Whether something heavy was done.
    swollen: bool,
    status: String,
}

/// Runs until the machine ends or reboots.
///
/// # Errors
/// Where the kernel refuses what the loop stands on.
pub fn supervise(running: Running) -> Result<Outcome> {
    super::rights::give_up(&running.terms.record);
    let mut watch = Loop::new(running)?;
    watch.begin();
    process::trim_memory();
    let ended = loop {
        if let Some(outcome) = watch.turn()? {
            break outcome;
        }
    };
    watch.end(ended)
}

/// Why the loop was left.
enum Left {
    Ended(Ending),
    Unregistered,
    Swollen,
}

fn new_epoll() -> Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(std::io::Error::from);
    epoll.context(|| "cannot create an epoll instance")
}

impl Loop {
    fn new(running: Running) -> Result<Self> {
        let Running { terms, descriptors } = running;
        let Descriptors {
            leader,
            console,
            kernel_log,
            notify,
            log,
            responder,
            control,
            network,
            ring,
            locks,
        } = descriptors;
        let signals = signals::take()?;
        let epoll = new_epoll()?;
        let memory =
            rustix::io::fcntl_dupfd_cloexec(&ring, 3).context(|| "cannot keep the memory of the console")?;
        let guest = Guest {
            name: &terms.record.name,
            leader: terms.record.leader.unwrap_or_default(),
            boot_id: &terms.boot_id,
        };
        let log = log.map(|socket| Syslog::new(socket, &guest));
        let answering = responder.zip(terms.lease.clone());
        let responder = answering.map(|(socket, lease)| Responder::new(lease, socket, terms.asked));
        let console = Console::new(console, memory, terms.console, &guest);
        let control = control.map_or_else(|| listen(&terms), Control::at);
        let machined = terms.register.then(|| Watch::new(&terms.record.name)).flatten();
        let rules = Rules::watch(&terms.record);
        let boot = Boot::new(terms.record.started, Duration::from_millis(terms.start_timeout));
        let watch = Self {
            ready: terms.record.phase == Phase::Running,
            init: InitWatch::new(&terms),
            terms,
            leader,
            notify: notify.map(Inbox::new),
            log,
            responder,
            network,
            kernel_log,
            ring,
            locks,
            console,
            control,
            signals,
            machined,
            epoll,
            stop: None,
            asking: Asking::default(),
            freezing: None,
            boot,
            reboot_at: None,
            is_cancelled: false,
            manager: Manager::new(),
            swollen: false,
            status: String::new(),
            rules,
        };
        watch.watch_all()?;
        Ok(watch)
    }

    fn watch_all(&self) -> Result<()> {
        let stdin = self.console.is_interactive().then(rustix::stdio::stdin);
        let sources: [(Source, Option<BorrowedFd<'_>>); 10] = [
            (Source::Leader, Some(self.leader.as_fd())),
            (Source::Signal, Some(self.signals.as_fd())),
            (Source::Notify, self.notify.as_ref().map(AsFd::as_fd)),
            (Source::Console, self.console.master()),
            (Source::Input, stdin),
            (Source::Machined, self.machined.as_ref().map(AsFd::as_fd)),
            (Source::Control, self.control.listener()),
            (Source::Log, self.log.as_ref().map(Syslog::as_fd)),
            (Source::Link, self.responder.as_ref().map(Responder::as_fd)),
            (Source::Rules, self.rules.as_ref().map(Rules::as_fd)),
        ];
        for (source, fd) in sources {
            if let Some(fd) = fd {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, source as u64);
                self.epoll
                    .add(fd, event)
                    .map_err(std::io::Error::from)
                    .context(|| format!("cannot watch {source:?}"))?;
            }
        }
        Ok(())
    }

    /// Tells the service manager where we are.
    fn begin(&mut self) {
        let leader = self.terms.record.leader.unwrap_or_default();
        if self.ready || !self.terms.waits_for_ready {
            self.manager.tell(&[NotifyState::Ready]);
        }
        if self.ready {
            failure::cleared(&self.terms);
        }
        self.manager.tell(&[NotifyState::Custom(&format!("X_CORACLE_LEADER_PID={leader}"))]);
        self.tell_status();
    }

    fn enter(&mut self, phase: Phase) {
        if self.terms.record.phase != phase {
            self.terms.record.phase = phase;
            if let Err(error) = self.terms.record.write(&self.paths()) {
                log::warn!("{error}, ignoring");
            }
            self.tell_status();
        }
    }

    fn paths(&self) -> Paths {
        Paths::below(&self.terms.paths_root)
    }

    /// Waits for events and handles them.
    fn turn(&mut self) -> Result<Option<Left>> {
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
            let source = usize::try_from(event.data()).ok().and_then(|number| Source::ALL.get(number));
            match source {
                Some(Source::Leader) => {
                    let ending = self.reap()?;
                    ended = self.after_end(ending);
                }
                Some(Source::Signal) => self.signalled(),
                Some(Source::Notify) => self.notified(),
                Some(Source::Console) => self.console_output(),
                Some(Source::Input) => self.console_input(),
                Some(Source::Log) => self.log.iter_mut().for_each(Syslog::read),
                Some(Source::Link) => self.responder.iter_mut().for_each(Responder::read),
                Some(Source::Rules) => self.rules.iter_mut().for_each(Rules::read),
                Some(Source::Machined) if ended.is_none() && self.lost_by_machined() => {
                    ended = Some(Left::Unregistered);
                }
                Some(Source::Machined) => {}
                Some(Source::Control) => self.control.accept(&self.epoll),
                None if event.data() >= FIRST_CLIENT => self.client(event.data()),
                None => {}
            }
        }
        self.responder.iter_mut().for_each(Responder::advertise);
        let paths = self.paths();
        self.rules.iter_mut().for_each(|rules| rules.look(&paths, &self.terms.record));
        self.answer_freezing();
        self.end_late_start();
        self.recognise();
        if let Some(stop) = &mut self.stop {
            let record = &self.terms.record;
            stop.escalate(self.leader.as_fd(), Target::of(record), record.cgroup.as_deref());
        }
        // Nobody is cut off: the last who asked has gone.
        let rests = self.swollen && self.reboot_at.is_none() && self.control.is_idle() && self.stop.is_none();
        let ended = ended.or_else(|| self.paused_reboot());
        Ok(ended.or_else(|| rests.then_some(Left::Swollen)))
    }

    fn reap(&mut self) -> Result<Ending> {
        let ended = process::wait(self.leader.as_fd())?;
        let payload = self.terms.record.cgroup.as_ref().map(|cgroup| cgroup.join("payload"));
        let kills = payload.map_or(0, |directory| cgroup::out_of_memory_kills(&directory));
        Ok(Ending::of(ended, self.terms.is_boot, kills > self.terms.out_of_memory_kills))
    }

    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(i32::try_from(info.ssi_signo).unwrap_or(0)) {
                Ok(Signal::SIGTERM) if registration::is_farewell(info.ssi_pid, self.leader.as_fd()) => {}
                Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP) => self.ask_to_stop(),
                // systemd stops the scope we are in (`systemd1::STOP_SIGNAL`).
                Ok(Signal::SIGURG) => self.ask_to_stop(),
                Ok(Signal::SIGUSR1) => self.ask_to_reboot(),
                Ok(Signal::SIGWINCH) => self.console.resize(),
                _ => {}
            }
        }
    }

    /// Asks the guest to stop in order; asked again, kills it.
    fn ask_to_stop(&mut self) {
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
        let limit = self.terms.stop_timeout.map(Duration::from_millis);
        self.stop = Some(Stop::begin(
            init,
            self.terms.is_boot,
            self.terms.stop_signal,
            limit,
            self.leader.as_fd(),
            Target::of(&self.terms.record),
        ));
        self.status.clear();
        self.manager.tell_stopping(limit);
        self.enter(Phase::Stopping);
    }

    /// A guest that stands still could not be asked anything.
    fn thaw(&self) {
        let payload = self.terms.record.cgroup.as_ref().map(|cgroup| cgroup.join("payload"));
        if let Some(payload) = payload.filter(|payload| cgroup::is_frozen(payload)) {
            cgroup::begin_freezing(&payload, false).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        }
    }

    fn ask_to_reboot(&mut self) {
        if self.stop.is_none() && self.reboot_at.is_none() {
            let init = self.running_init();
            let target = Target::of(&self.terms.record);
            super::stop::reboot(&mut self.asking, init, self.leader.as_fd(), target);
        }
    }

    fn notified(&mut self) {
        let Some(inbox) = &mut self.notify else { return };
        for word in guest::hear(inbox, self.terms.record.leader.unwrap_or_default()) {
            match word {
                Word::Ready => {
                    self.recognise_ready();
                    self.became_ready();
                }
                Word::Status(status) if self.stop.is_none() || !status.is_empty() => {
                    let is_new = self.boot.said(&status);
                    self.status = status;
                    let text = self.status_text();
                    self.manager.tell_status_soon(&self.terms.record, &text);
                    self.progress(is_new);
                }
                Word::Stopping => {
                    if let Some(stop) = &mut self.stop {
                        stop.heard();
                    }
                }
                Word::Other(text) => {
                    let is_new = self.boot.said(&text);
                    self.progress(is_new);
                }
                Word::Status(_) => {}
            }
        }
    }

    fn console_output(&mut self) {
        let (mut is_new, is_booting) = (false, !self.ready);
        let is_open = self.console.read(&mut |bytes| {
            is_new = is_booting && self.boot.printed(bytes);
            self.control.show(bytes);
        });
        if is_open {
            self.progress(is_new);
        } else if let Some(master) = self.console.master() {
            let _ = self.epoll.delete(master);
        }
    }

    fn console_input(&mut self) {
        match self.console.typed() {
            Typed::Text => {}
            Typed::End => drop(self.epoll.delete(rustix::stdio::stdin())),
            Typed::Hotkey(Hotkey::PowerOff) => self.ask_to_stop(),
            Typed::Hotkey(Hotkey::Reboot) => self.ask_to_reboot(),
            Typed::Hotkey(Hotkey::Kill) => {
                let _ = process::send_signal(self.leader.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// Whether machined came back without knowing the machine.
    fn lost_by_machined(&mut self) -> bool {
        let lost = self.machined.as_ref().is_some_and(|machined| machined.lost(&self.terms.record.name));
        lost && self.stop.is_none() && self.reboot_at.is_none()
    }
}

/// Listens at the machine's control socket. A machine can do without one.
fn listen(terms: &Terms) -> Control {
    let place = Paths::below(&terms.paths_root).control(&terms.record.name);
    Control::listen(&place).unwrap_or_else(|error| {
        log::warn!("{error}, ignoring");
        Control::default()
    })
}
