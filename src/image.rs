//! Images: the root file systems of machines, by name. Formats, names and lock files are those of systemd, so
//! that `machinectl`, `importctl` and `systemd-nspawn` work on the same images. Called by `config` (names),
//! `claim` (locks), `run` and `control`.

pub(crate) mod find;
pub(crate) mod locks;
mod version;
