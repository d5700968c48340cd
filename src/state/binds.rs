//! The list of bind mounts added to a running machine, in `/run/coracle/NAME/binds.json`. Written and read by
//! `control`, deleted by `cleanup`. It is valid for one boot of the guest: after a reboot only the mounts of
//! the definition exist.

use crate::error::{Context, Error, Result};
use crate::machine::mounts::MountIds;
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The file in a machine's state directory.
pub(crate) const FILE: &str = "binds.json";

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Binding {
    /// Its target inside the machine.
    pub(crate) target: PathBuf,
    /// Its source on the host.
    pub(crate) source: PathBuf,
    /// Whether it is read-only inside.
    pub(crate) read_only: bool,
    /// The mapping of user ids, as requested.
    pub(crate) map: String,
    /// The kernel's unique mount id.
    pub(crate) mount: u64,
    /// PID 1 of the boot that it belongs to.
    pub(crate) leader: u32,
}

/// Returns the remaining mounts of a boot, oldest first.
///
/// # Errors
/// The list cannot be read.
pub(crate) fn read(paths: &Paths, name: &Name, leader: u32) -> Result<Vec<Binding>> {
    let file = paths.machine(name).join(FILE);
    let reading = || format!("cannot read '{}'", file.display());
    let all: Vec<Binding> = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(error.to_string()).context(reading()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context(reading),
    };
    let mounts = std::fs::read_to_string(format!("/proc/{leader}/mountinfo")).context(reading)?;
    let ids: Vec<u64> = mounts.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    Ok(all.into_iter().filter(|one| one.leader == leader && ids.contains(&one.mount)).collect())
}

/// Returns whether root of this boot could act as the owners of files of the host through one of the added
/// mounts. With mapped ids also through read-only ones: it reads files of root there, and connects to sockets and
/// writes to pipes, which a read-only mount does not prevent. Mounts that the guest has unmounted count too,
/// because only root reads the mounts of a process: all users must see the same answer. A list that cannot be
/// read counts as one with such a mount.
pub(crate) fn writes_to_host(paths: &Paths, name: &Name, leader: u32, has_host_ids: bool) -> bool {
    let all: Vec<Binding> = match std::fs::read(paths.machine(name).join(FILE)) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(all) => all,
            Err(_) => return true,
        },
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    };
    let acts_as_owner =
        |one: &Binding| one.map != MountIds::Host.as_text() || (has_host_ids && !one.read_only);
    all.iter().any(|one| one.leader == leader && acts_as_owner(one))
}

/// Writes the list atomically.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(paths: &Paths, name: &Name, bindings: &[Binding]) -> Result<()> {
    let file = paths.machine(name).join(FILE);
    let text = serde_json::to_vec_pretty(bindings).map_err(|error| Error::new(error.to_string()))?;
    store::replace(&file, &text, 0o666).context(|| format!("cannot write '{}'", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_acts_as_an_owner_by_mapped_ids_or_writable_mounts() {
        let root = tempfile::tempdir().unwrap();
        let (paths, name) = (Paths::below(root.path()), Name::new("web").unwrap());
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        let finds = |host_ids| writes_to_host(&paths, &name, 7, host_ids);
        assert!(!finds(false) && !finds(true), "without a list");
        for (map, read_only, expected) in [
            (MountIds::Host, false, [false, true]),
            (MountIds::Host, true, [false, false]),
            (MountIds::Same, false, [true, true]),
            (MountIds::Same, true, [true, true]),
        ] {
            let one = Binding {
                target: "/mnt".into(),
                source: "/srv".into(),
                read_only,
                map: map.as_text().to_owned(),
                mount: 1,
                leader: 7,
            };
            write(&paths, &name, &[one]).unwrap();
            assert_eq!([finds(false), finds(true)], expected, "{map:?}, read-only: {read_only}");
            assert!(!writes_to_host(&paths, &name, 8, true), "of another boot");
        }
        std::fs::write(paths.machine(&name).join(FILE), "{").unwrap();
        assert!(finds(false), "an unreadable list");
    }
}
