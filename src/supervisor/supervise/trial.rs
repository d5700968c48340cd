//! The boot of a version that is tried (systemd.v(7)): a guest that is up, or that runs for a while without a report,
//! makes it permanent; one that ends before is followed by the next older version, in the same unit. Part of the loop.

use super::Loop;
use crate::image::trial;
use crate::machine::init::PayloadKind;
use crate::supervisor::exit::Exit;
use crate::supervisor::failure;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The running time that counts as a boot of a guest that does not report it.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

impl Loop {
    /// Returns the time until the version counts as booted without a report. `None` if no version is tried, or the
    /// guest will report.
    pub(super) fn trial_time_left(&mut self) -> Option<Duration> {
        if self.state.record.version.is_none()
            || !self.ready
            || self.stop.is_some()
            || self.reboot_at.is_some()
        {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left =
            LONG_ENOUGH.saturating_sub(now.saturating_sub(Duration::from_micros(self.state.record.started)));
        if left.is_zero() {
            self.bless_version();
            return None;
        }
        Some(left)
    }

    /// Makes the tried version permanent: its guest is up.
    pub(super) fn bless_version(&mut self) {
        let record = &mut self.state.record;
        let Some(version) = record.version.take() else { return };
        record.fallback = None;
        match trial::bless(&version) {
            Ok(blessed) => record.root = moved(&record.root, &version, &blessed),
            Err(error) => log::warn!("{error}, ignoring"),
        }
        self.write_record();
    }

    /// Prepares the boot of an older version after the end of a tried one. Returns false if the end is that of the
    /// machine.
    pub(super) fn falls_back(&mut self, exit: Exit) -> bool {
        if self.stop.is_none() && is_done(exit, self.state.record.init) {
            self.bless_version();
        }
        let record = &self.state.record;
        let is_requested = self.stop.is_some() || matches!(exit, Exit::PowerOff | Exit::Reboot);
        let Some(version) = record.version.clone() else { return false };
        if is_requested || !self.state.is_launched() || !trial::has_older(&version) {
            return false;
        }
        let why = exit.failure().unwrap_or_else(|| "PID 1 exited".to_owned());
        let record = &mut self.state.record;
        let shown = trial::shown(&version);
        log::error!("version '{shown}' of machine '{}' did not boot: {why}", record.name);
        record.fallback = Some(format!("version '{shown}' did not boot: {why}"));
        record.failed_version = Some(version);
        record.version = None;
        self.failed_trial = Some(exit);
        true
    }

    /// Records the failure of a version that an older one follows, when all of its output can be read.
    pub(super) fn record_failed_trial(&mut self) {
        let Some((exit, why)) = self.failed_trial.take().zip(self.state.record.fallback.clone()) else {
            return;
        };
        self.console.drain();
        failure::record_exit(&self.state, exit, &why, self.console.tail(failure::LINES));
    }
}

/// Returns the path of a directory of a version after its rename.
fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    path.strip_prefix(from)
        .map_or_else(|_| path.to_owned(), |inside| to.components().chain(inside.components()).collect())
}

/// Returns whether a command has done its work: it must not run once more. An init does not end by itself.
fn is_done(exit: Exit, payload: Option<PayloadKind>) -> bool {
    exit == Exit::Exited(0) && !matches!(payload, Some(PayloadKind::Init(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::init::Init;

    #[test]
    fn a_root_inside_a_version_follows_its_rename() {
        let after = |path: &str| moved(Path::new(path), Path::new("/v/web_2+2-1"), Path::new("/v/web_2"));
        assert_eq!(after("/v/web_2+2-1").as_os_str(), "/v/web_2");
        assert_eq!(after("/v/web_2+2-1/os/root").as_os_str(), "/v/web_2/os/root");
        assert_eq!(after("/run/web").as_os_str(), "/run/web");
    }

    #[test]
    fn a_command_that_succeeds_has_done_its_work() {
        assert!(is_done(Exit::Exited(0), Some(PayloadKind::Command)));
        assert!(is_done(Exit::Exited(0), None));
        assert!(!is_done(Exit::Exited(1), Some(PayloadKind::Command)));
        assert!(!is_done(Exit::Exited(0), Some(PayloadKind::Init(Init::Unknown))));
    }
}
