//! The init of a tree: which one it is, whether this host can run it, and how it is asked to stop or
//! to reboot. Called by `plan` and `supervisor` with what the host's prober read. Pure: it neither
//! opens files nor sends signals.

mod architecture;
mod recognise;
mod stop;

pub use architecture::{Architecture, architecture};
pub use recognise::{
    Successor, may_have_successor, recognise, recognise_process, recognise_program, successors,
};
pub use stop::{MissingFile, StopAction, orderly_reboot, orderly_stop};
