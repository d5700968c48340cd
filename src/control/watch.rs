//! `list --watch`: the list again at each change.

use super::list::{self, Include, MachineSummary};
use crate::error::{Context, Result};
use crate::paths::Paths;
use crate::state::changes::{COLLECTED, Changes};
use rustix::event::{PollFd, PollFlags, poll};
use std::ops::ControlFlow;

/// Calls `show` with the list, and again whenever it has changed, until it breaks or the reader of standard
/// output has ended. Uses of resources are no changes.
///
/// # Errors
/// A directory of definitions cannot be read, or any error of inotify(7).
pub(crate) fn watch(
    paths: &Paths,
    include: Include,
    show: &mut dyn FnMut(&[MachineSummary]) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let changes = Changes::new()?;
    let mut before = None;
    loop {
        changes.renew(paths);
        let rows = list::rows(paths, include)?;
        let key: Vec<MachineSummary> = rows.iter().map(without_use).collect();
        if before.as_ref() != Some(&key) {
            if show(&rows)?.is_break() {
                return Ok(());
            }
            before = Some(key);
        }
        let stdout = rustix::stdio::stdout();
        let mut watched = [PollFd::new(&changes, PollFlags::IN), PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            waited => waited.context(|| "cannot wait for changes").map(|_| ())?,
        }
        if !watched[1].revents().is_empty() {
            return Ok(());
        }
        std::thread::sleep(COLLECTED);
        changes.clear();
    }
}

/// Returns a row without numbers that change by themselves.
fn without_use(row: &MachineSummary) -> MachineSummary {
    MachineSummary { memory: None, tasks: None, uptime: None, ..row.clone() }
}
