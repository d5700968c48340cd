//! Images: the root file systems of machines, by name. Formats, names and lock files are those of systemd, so
//! that `machinectl`, `importctl` and `systemd-nspawn` work on the same images. Called by `config` (names),
//! `claim` (locks), `run` (mounts) and `control`.

pub(crate) mod attach;
mod base_check;
mod bases;
mod bootstrap;
pub(crate) mod changes;
pub(crate) mod clone;
pub(crate) mod commit;
pub(crate) mod convert;
pub(crate) mod create;
pub mod disk;
pub(crate) mod export;
pub(crate) mod find;
mod freeze;
mod identity;
pub(crate) mod import;
pub(crate) mod layer_files;
mod layers;
pub(crate) mod locks;
mod named_files;
pub mod oci;
pub(crate) mod oci_config;
pub(crate) mod owners;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod quota;
pub(crate) mod read_only;
pub(crate) mod recovery;
mod refuse;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod snapshot;
pub(crate) mod stack;
pub(crate) mod stack_root;
pub(crate) mod store;
pub(crate) mod template;
pub(crate) mod throwaway;
pub(crate) mod trial;
pub(crate) mod update;
pub(crate) mod users;
pub(crate) mod verify;
mod version;
mod volumes;
