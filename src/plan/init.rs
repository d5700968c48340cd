//! The init of a tree: its kind, its architecture, and its requests to stop or reboot. Called by `plan` and
//! `supervisor` with file contents read by `host`. Pure: it neither opens files nor sends signals.

mod architecture;
mod recognise;
mod stop;

pub(crate) use architecture::{Architecture, architecture};
pub(crate) use recognise::{
    Successor, may_have_successor, recognise_content, recognise_names, recognise_process, recognise_program,
    successors,
};
pub(crate) use stop::{MissingFile, StopAction, orderly_reboot, orderly_stop};
