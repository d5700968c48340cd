//! Recognition of the guest's init by its PID 1: a script or wrapper of the tree executes another program.
//! Part of the loop.

use super::Loop;
use crate::machine::init::{Init, PayloadKind};
use crate::supervisor::drop_privileges;
use crate::supervisor::handover::SupervisorState;
use crate::supervisor::recognition::{self, Recogniser, RecognitionResult};
use crate::supervisor::stop::Stop;
use rustix::fd::AsFd;
use std::time::{Duration, Instant};

/// The first pause between two looks, and the longest. Each look doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The time for an unknown program, other than the first one, to execute an init.
const UNKNOWN: Duration = Duration::from_millis(200);

/// Recognises the init of a running guest.
#[derive(Debug)]
pub(super) struct InitWatch {
    recogniser: Recogniser,
    looks: Option<Looks>,
}

impl InitWatch {
    pub(super) fn new(state: &SupervisorState) -> Self {
        Self { recogniser: Recogniser::default(), looks: Looks::of(state) }
    }

    /// Ends a look that has not ended in time.
    pub(super) fn end(&mut self) {
        self.recogniser.end();
    }

    /// Returns the time until the next look. `None` if there is none.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.looks.as_ref().map(Looks::time_left)
    }
}

/// The schedule of looks at an unknown PID 1 after its start.
#[derive(Debug)]
struct Looks {
    next: Instant,
    pause: Duration,
    until: Instant,
    is_another: bool,
}

impl Looks {
    /// Creates the schedule. `None` if the kind is known, or was not recognised in time before.
    fn of(state: &SupervisorState) -> Option<Self> {
        let limit = state.recognition.as_ref().map(|how| how.limit).filter(|limit| *limit > 0)?;
        let now = Instant::now();
        Some(Self {
            next: now,
            pause: FIRST_PAUSE,
            until: now + Duration::from_millis(limit),
            is_another: false,
        })
    }

    fn time_left(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Adds the result of a look that did not find an init. Returns whether it was the last look.
    fn is_over(&mut self, found: RecognitionResult) -> bool {
        let now = Instant::now();
        if found == RecognitionResult::Unknown && !self.is_another {
            self.is_another = true;
            self.until = self.until.min(now + UNKNOWN);
        }
        self.next = (now + self.pause).min(self.until.max(now));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        now >= self.until
    }
}

impl Loop {
    /// Returns the kind of the running init: from the definition, else from PID 1, else from the tree.
    pub(super) fn running_init(&mut self) -> Init {
        if let RecognitionResult::Init(init) = self.look() {
            self.set_init(init);
        }
        match self.state.record.init {
            Some(PayloadKind::Init(init)) => init,
            Some(PayloadKind::Command) | None => Init::Unknown,
        }
    }

    fn look(&mut self) -> RecognitionResult {
        let Some(how) = &self.state.recognition else { return RecognitionResult::Unknown };
        let pid = self.state.record.leader.unwrap_or_default();
        self.init.recogniser.look(pid, self.leader.as_fd(), &how.program)
    }

    fn set_init(&mut self, init: Init) {
        let init_of_record = Some(PayloadKind::Init(init));
        if self.state.record.init == init_of_record {
            return;
        }
        log::debug!("PID 1 of machine '{}' is {}", self.state.record.name, init.as_str());
        self.state.record.init = init_of_record;
        self.write_record();
        drop_privileges::apply(&self.state.record);
    }

    /// Looks at an unknown PID 1 if that is due, also before a stop request is repeated.
    pub(super) fn recognise(&mut self) {
        if self.stop.as_ref().is_some_and(Stop::is_repeated) {
            let init = self.running_init();
            self.stop.iter_mut().for_each(|stop| stop.set_init(init));
        }
        if self.stop.is_some() || self.reboot_at.is_some() {
            self.init.looks = None;
        }
        if self.init.looks.as_ref().is_none_or(|looks| !looks.time_left().is_zero()) {
            return;
        }
        let found = self.look();
        let is_init = if let RecognitionResult::Init(init) = found {
            self.set_init(init);
            true
        } else {
            false
        };
        let is_over = self.init.looks.as_mut().is_some_and(|looks| looks.is_over(found));
        if is_init || is_over {
            self.end_recognising(found);
        }
    }

    fn end_recognising(&mut self, found: RecognitionResult) {
        self.init.looks = None;
        let Some(how) = &mut self.state.recognition else { return };
        how.limit = 0;
        let reports = matches!(found, RecognitionResult::Init(init) if init.reports_readiness());
        if how.decides_start && !reports {
            self.became_ready();
        }
    }

    /// Recognises the init of a guest that is up: it does not execute another one any more.
    pub(super) fn recognise_ready(&mut self) {
        if self.state.recognition.is_some()
            && let Some(init) = recognition::by_path(self.state.record.leader.unwrap_or_default())
        {
            self.set_init(init);
        }
    }
}
