//! What the loop does at a time, not at an event. Called before each wait.

use super::{FREEZING_PAUSE, Loop};
use crate::supervisor::responder::Responder;
use crate::supervisor::rules::Rules;
use crate::supervisor::stop::Stop;
use crate::supervisor::syslog::Syslog;
use std::time::Duration;

impl Loop {
    /// Does what is due, and returns the time until the next is. `None` if only events count.
    pub(super) fn do_due(&mut self) -> Option<Duration> {
        let times = [
            self.stop.as_ref().and_then(Stop::time_left),
            self.manager.feed_watchdog(),
            self.manager.send_pending_status(),
            self.responder.as_ref().and_then(Responder::time_left),
            self.watch_inboxes(),
            self.start_time_left(),
            self.reboot_pause(),
            self.init.time_left(),
            self.rules.as_ref().and_then(Rules::time_left),
            self.freezing.as_ref().map(|_| FREEZING_PAUSE),
            self.console.report_dropped(),
            self.log.as_mut().and_then(Syslog::report_dropped),
        ];
        times.into_iter().flatten().min()
    }
}
