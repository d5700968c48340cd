//! The children of a machine's supervisor: PID 1 until it executes the payload, and the builder
//! of its tree. Each is a loop over steps. They never print and never log: what fails is told to
//! the supervisor over the link.

pub mod bind;
mod builder;
mod init_process;
mod limits;
mod mounts;
mod nodes;
mod resolv_conf;
mod stub;
mod submounts;
mod tree_paths;

use crate::channel::{ChildEnd, Failure, FromPayload};
use crate::error::{Error, Result};
use crate::plan::step::{BuildStep, InitStep};
use crate::sys::process;
use rustix::fd::OwnedFd;

pub use builder::BuildInputs;

/// Goes through the steps of PID 1, or of a command in the machine whose PID 1 is behind `machine`,
/// and becomes the payload.
pub fn run_init_steps(steps: &[InitStep], link: &ChildEnd, machine: Option<OwnedFd>) -> ! {
    die_with_supervisor();
    let process = init_process::InitProcess::new(machine);
    for (number, step) in steps.iter().enumerate() {
        if let Err(error) = process.run(step, link) {
            fail(link, number, steps.len(), &step.describe(), &error);
        }
    }
    process::exit_now(0)
}

/// Goes through the builder's steps, hands the console over and ends.
pub fn build(steps: &[BuildStep], link: &ChildEnd, inputs: BuildInputs) -> ! {
    die_with_supervisor();
    // What it makes has the mode that is written down for it.
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut builder = builder::Builder::new(inputs);
    for (number, step) in steps.iter().enumerate() {
        match builder.run(step) {
            Err(error) if step.is_optional() => {
                let _ = link
                    .send(&FromPayload::Warned(failure(number, steps.len(), &step.describe(), &error)), None);
            }
            Err(error) => fail(link, number, steps.len(), &step.describe(), &error),
            Ok(()) => {}
        }
    }
    let (console, kernel_log) = builder.into_descriptors();
    if let Some(kernel_log) = kernel_log {
        let _ = link.send(&FromPayload::KernelLog, Some(rustix::fd::AsFd::as_fd(&kernel_log)));
    }
    let _ = link.send(&FromPayload::Done, console.as_ref().map(rustix::fd::AsFd::as_fd));
    process::exit_now(0)
}

/// A supervisor that is killed takes us along; it outlives the exec of the payload.
fn die_with_supervisor() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// Tells the supervisor which step failed and why, and ends.
fn fail(link: &ChildEnd, number: usize, of: usize, doing: &str, error: &Error) -> ! {
    let _ = link.send(&FromPayload::Failed(failure(number, of, doing, error)), None);
    process::exit_now(125)
}

fn failure(number: usize, of: usize, doing: &str, error: &Error) -> Failure {
    Failure {
        step: number + 1,
        of,
        doing: doing.to_owned(),
        cause: error.to_string(),
        hint: error.hint().map(str::to_owned),
    }
}

/// An error with the system's text for the last failed call.
fn failed(doing: &str, error: std::io::Error) -> Error {
    Error::from(error).context(doing)
}

/// The same for results.
fn check<T>(doing: &str, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| failed(doing, error))
}
