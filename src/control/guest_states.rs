//! The states that guests of systemd report, all at once: each is read by a child process inside the machine,
//! with limits for its time and memory, since the guest is untrusted. A guest that does not answer has none.
//! Called by `list`, `status`, `show` and `doctor`.

use super::guest_child::{Answer, PATIENCE};
use super::signal;
use crate::error::{Context, Result};
use crate::host::cgroup;
use crate::host::systemd::guest_manager::{self, GuestState};
use crate::machine::init::{Init, PayloadKind};
use crate::state::record::{Phase, Record};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::time::Instant;

/// The maximum address space of a child, bytes: a reply may have 128 MiB.
const ADDRESS_SPACE: u64 = 256 << 20;

/// Returns the states of guests, in the order of their records.
pub(super) fn of(records: &[&Record]) -> Vec<Option<GuestState>> {
    let deadline = Instant::now() + PATIENCE;
    let asked: Vec<_> = records.iter().map(|record| is_asked(record).then(|| ask(record))).collect();
    let answers = asked.into_iter().map(|answer| {
        let state = answer?.and_then(|answer| answer.receive(deadline));
        state.inspect_err(|error| log::debug!("{error}, ignoring")).ok()
    });
    answers.collect()
}

fn is_asked(record: &Record) -> bool {
    let is_frozen = || record.payload_cgroup().is_some_and(|payload| cgroup::is_frozen(&payload));
    record.phase == Phase::Running
        && record.init == Some(PayloadKind::Init(Init::Systemd))
        && record.is_alive()
        && rustix::process::geteuid().is_root()
        && !is_frozen()
}

fn ask(record: &Record) -> Result<Answer> {
    Answer::request_visibly(record, &signal::leader(record)?, |pipe| {
        let limit = Rlimit { current: Some(ADDRESS_SPACE), maximum: Some(ADDRESS_SPACE) };
        setrlimit(Resource::As, limit).context(|| "cannot limit memory")?;
        // Messages of an exceeded limit are no answer.
        rustix::stdio::dup2_stderr(pipe).context(|| "cannot redirect messages")?;
        guest_manager::state()
    })
}
