//! The timers of the loop. Called before each wait for events.

use super::{Freezing, Loop};
use crate::supervisor::guest::syslog::Syslog;
use crate::supervisor::network::dhcp::DhcpServer;
use crate::supervisor::network::firewall::watch::FirewallWatch;
use crate::supervisor::network::forwarding::AddressWatch;
use crate::supervisor::stop::Stop;
use std::time::Duration;

impl Loop {
    /// Does the due work and returns the time until the next timer. `None` if there is none.
    pub(super) fn do_due(&mut self) -> Option<Duration> {
        let times = [
            self.stop.as_ref().and_then(Stop::time_left),
            self.service_manager.feed_watchdog(),
            self.service_manager.send_pending_status(),
            self.dhcp.as_ref().and_then(DhcpServer::time_left),
            self.watch_inboxes(),
            self.start_time_left(),
            self.reboot_pause(),
            self.trial_time_left(),
            self.init.time_left(),
            self.firewall_watch.as_ref().and_then(FirewallWatch::time_left),
            self.address_watch.as_ref().and_then(AddressWatch::time_left),
            self.freezing.as_ref().map(Freezing::pause),
            self.console.report_dropped(),
            self.log.as_mut().and_then(Syslog::report_dropped),
        ];
        times.into_iter().flatten().min()
    }
}
