//! The sockets of `network.on-demand` of machines that are removed or renamed. Called after the reload of
//! systemd, which keeps a socket without a unit file, but does not pass it on.

use super::block_on;
use crate::error::Result;
use crate::host::systemd::units::{self, JobAction, Until};
use crate::machine::name::Name;
use crate::machine::unit_name;
use std::future::Future;
use std::ops::ControlFlow;

/// Stops the socket of a machine that has no definition any more. Returns whether it has listened. Errors are
/// logged.
pub(super) fn stop(name: &Name) -> bool {
    let socket = unit_name::on_demand_socket(name);
    logged(async {
        let status = units::unit_properties(&socket).await?;
        let is_left = status.load_state == "not-found" && status.active_state == "active";
        if is_left {
            run(JobAction::Stop, &socket).await?;
        }
        Ok(is_left)
    })
}

/// Starts the socket of a machine. Errors are logged.
pub(super) fn start(name: &Name) {
    let socket = unit_name::on_demand_socket(name);
    logged(async { run(JobAction::Start, &socket).await.map(|()| true) });
}

async fn run(action: JobAction, unit: &str) -> Result<()> {
    let finished =
        units::run(action, &[unit.to_owned()], Until::Done, &mut |_, _| ControlFlow::Continue(())).await?;
    finished.into_iter().try_for_each(|one| one.result)
}

fn logged(change: impl Future<Output = Result<bool>>) -> bool {
    if !units::is_running() {
        return false;
    }
    block_on(change).and_then(|changed| changed).unwrap_or_else(|error| {
        log::warn!("{error}, ignoring");
        false
    })
}
