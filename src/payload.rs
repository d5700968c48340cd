//! The children of a machine's supervisor: PID 1 until it executes the payload, and the builder of its tree,
//! if it has a user namespace.
//! Called by `supervisor` and `control` after a clone. Each is a loop over steps. They never print and never
//! log: they report failures over the channel.

mod attached_root;
pub(crate) mod bind;
mod binfmt;
mod builder;
mod credentials;
mod host_mounts;
pub(crate) mod hotplug;
mod init_process;
mod journal;
mod mounts;
mod nodes;
mod overlay;
mod resolv_conf;
mod rlimits;
mod root;
mod stub;
mod submounts;
mod timezone;
mod tree_path;
mod tree_paths;
pub(crate) mod user_lookup;

use crate::channel::{ChildEnd, FromPayload, StepFailure};
use crate::error::{Error, Result};
use crate::plan::step::{BuildStep, InitStep};
use crate::sys::process::{self, Loan};
use rustix::fd::BorrowedFd;

pub use builder::BuildInputs;
pub(crate) use init_process::InitInputs;

/// Runs the steps of PID 1, or of a command in a running machine, and executes the payload.
pub(crate) fn run_init_steps(steps: &[InitStep], link: &ChildEnd, inputs: InitInputs<'_>) -> ! {
    process::die_with_parent();
    let mut process = init_process::InitProcess::new(inputs);
    match run_all_init_steps(steps, link, &mut process) {
        Ok(()) => process::exit_now(0),
        Err(failure) => fail(link, failure),
    }
}

/// Runs the steps that enter a running machine, plans those of the command inside, runs them, and executes
/// the command. For a child that borrows the memory of its parent.
pub(crate) fn run_command_steps(
    entry: &[InitStep],
    plan: &dyn Fn() -> Result<Vec<InitStep>>,
    link: &ChildEnd,
    machine: BorrowedFd<'_>,
    loan: &Loan,
) -> ! {
    process::die_with_parent();
    let mut process = init_process::InitProcess::new(InitInputs::Joins(machine)).on_loan(loan);
    let mut run = || {
        run_all_init_steps(entry, link, &mut process).map_err(FromPayload::Failed)?;
        let command = plan().map_err(|error| FromPayload::Refused(error.into()))?;
        loan.answered();
        run_all_init_steps(&command, link, &mut process).map_err(FromPayload::Failed)
    };
    let done = run();
    if let Err(message) = &done {
        let _ = link.send(message, None);
    }
    loan.set_settled(true);
    process::exit_now(125)
}

fn run_all_init_steps(
    steps: &[InitStep],
    link: &ChildEnd,
    process: &mut init_process::InitProcess<'_>,
) -> std::result::Result<(), StepFailure> {
    let of = steps.iter().map(InitStep::count).sum();
    let mut number = 0;
    for step in steps {
        match step {
            InitStep::Build(tree) => {
                run_build_steps(tree, number, of, link, |step| process.build(step, link))?
            }
            _ => process.run(step, link).map_err(|error| failure(number, of, &step.describe(), &error))?,
        }
        number += step.count();
    }
    Ok(())
}

/// Runs the steps of the builder and exits.
pub fn build(steps: &[BuildStep], link: &ChildEnd, inputs: BuildInputs<'_>) -> ! {
    process::die_with_parent();
    // Created nodes have exactly the modes of the plan, and root's group unless they are given away.
    rustix::process::umask(rustix::fs::Mode::empty());
    process::make_files_in_group_0();
    let mut builder = builder::Builder::new(inputs);
    end(link, run_build_steps(steps, 0, steps.len(), link, |step| builder.run(step, link)))
}

/// Runs steps of the tree in order; the first one is number `first` of all `of` steps of the process. Reports
/// the failures of optional ones to the supervisor, and returns the first other one.
fn run_build_steps(
    steps: &[BuildStep],
    first: usize,
    of: usize,
    link: &ChildEnd,
    mut run: impl FnMut(&BuildStep) -> Result<()>,
) -> std::result::Result<(), StepFailure> {
    for (step, number) in steps.iter().zip(first..) {
        if let Err(error) = run(step) {
            let failure = failure(number, of, &step.describe(), &error);
            if !step.is_optional() {
                return Err(failure);
            }
            warn(link, failure);
        }
    }
    Ok(())
}

/// Reports a failed optional step to the supervisor.
fn warn(link: &ChildEnd, failure: StepFailure) {
    let _ = link.send(&FromPayload::Warned(failure), None);
}

/// Reports the end of all work or a failed step to the supervisor, and exits.
fn end(link: &ChildEnd, done: std::result::Result<(), StepFailure>) -> ! {
    if let Err(failure) = done {
        fail(link, failure);
    }
    let _ = link.send(&FromPayload::Done, None);
    process::exit_now(0)
}

/// Reports a failed step to the supervisor and exits.
fn fail(link: &ChildEnd, failure: StepFailure) -> ! {
    let _ = link.send(&FromPayload::Failed(failure), None);
    process::exit_now(125)
}

fn failure(number: usize, of: usize, doing: &str, error: &Error) -> StepFailure {
    StepFailure {
        step: number + 1,
        of,
        doing: doing.to_owned(),
        cause: error.to_string(),
        hint: error.hint().map(str::to_owned),
    }
}
