//! Volumes for the files of nested containers. The upper layer of an overlay cannot lie on another overlay, so
//! the container storage of a machine on a stack is a directory beside the overlay. Called by `attach`.

use super::stack::{Stack, StackPart};
use crate::error::{Context, Result};
use crate::sys::guest_files;
use crate::sys::mount;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, Dir, DirEntry, Gid, Mode, OFlags, Uid};
use std::path::Path;

/// The entries of a stack, and the directories of podman, CRI-O and Docker that they are mounted at.
const VOLUMES: [(&str, &str); 2] =
    [("bind@var-lib-containers", "/var/lib/containers"), ("bind@var-lib-docker", "/var/lib/docker")];

/// Creates the missing volumes in a stack whose locks are held. A directory that has files in a layer, or that
/// is below another mount of the stack, gets none.
///
/// # Errors
/// A directory that cannot be created.
pub(super) fn create(path: &Path) -> Result<()> {
    let stack = Stack::read(path)?;
    let StackPart::Overlay { layers, writable: Some(writable) } = &stack.root else { return Ok(()) };
    for (entry, target) in VOLUMES {
        let target = Path::new(target);
        let is_mounted = stack.binds.iter().any(|bind| target.starts_with(&bind.target));
        let written = writable.join("data");
        let mut sources = layers.iter().chain(std::iter::once(&written));
        if !is_mounted && sources.all(|layer| is_empty(layer, target)) {
            create_one(&path.join(entry), stack.surface())?;
        }
    }
    Ok(())
}

/// Returns whether a layer has no files in a directory. Any doubt, for example a link, counts as files.
fn is_empty(layer: &Path, directory: &Path) -> bool {
    if layer.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return true;
    }
    let Ok(root) = mount::open_directory(layer) else { return false };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match guest_files::open_inside_as(root.as_fd(), directory, flags, Mode::empty()) {
        Ok(opened) => {
            let is_dot = |entry: &DirEntry| matches!(entry.file_name().to_bytes(), b"." | b"..");
            Dir::new(opened)
                .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| is_dot(&entry))))
        }
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Creates a volume, owned by the owner of the root.
fn create_one(volume: &Path, surface: &Path) -> Result<()> {
    let doing = || format!("cannot create '{}'", volume.display());
    let owner = rustix::fs::stat(surface).context(doing)?;
    rustix::fs::mkdir(volume, Mode::from_raw_mode(0o700)).context(doing)?;
    let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    rustix::fs::chownat(CWD, volume, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context(doing)?;
    log::info!("created '{}' for the files of nested containers", volume.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Creates the volumes of a stack with these directories. Returns its entries.
    fn entries(directories: &[&str]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let stack = root.path().join("web.mstack");
        for directory in [&["layer@0", "rw"], directories].concat() {
            std::fs::create_dir_all(stack.join(directory)).unwrap();
        }
        super::create(&stack).unwrap();
        super::create(&stack).unwrap();
        let names = stack.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut binds: Vec<String> = names.filter(|name| name.contains("bind@")).collect();
        binds.sort();
        binds
    }

    #[test]
    fn volumes_are_created_where_nothing_is_hidden() {
        let both = ["bind@var-lib-containers", "bind@var-lib-docker"];
        for (directories, expected) in [
            (&[][..], &both[..]),
            (&["layer@0/var/lib/docker", "rw/data/var/lib/containers"], &both),
            (&["layer@0/var/lib/docker/overlay2"], &both[..1]),
            (&["rw/data/var/lib/containers/storage"], &both[1..]),
            (&["robind@var-lib-docker"], &["bind@var-lib-containers", "robind@var-lib-docker"]),
            (&["bind@var"], &["bind@var"]),
            (&["bind@var-lib-docker-volumes"], &[both[0], both[1], "bind@var-lib-docker-volumes"]),
        ] {
            assert_eq!(entries(directories), expected, "{directories:?}");
        }
    }

    #[test]
    fn a_link_of_a_guest_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let stack = root.path().join("web.mstack");
        std::fs::create_dir_all(stack.join("layer@0")).unwrap();
        std::fs::create_dir_all(stack.join("rw/data/var/lib")).unwrap();
        std::os::unix::fs::symlink(root.path(), stack.join("rw/data/var/lib/docker")).unwrap();
        super::create(&stack).unwrap();
        assert!(
            stack.join("bind@var-lib-containers").is_dir() && !stack.join("bind@var-lib-docker").exists()
        );
        // A stack without an overlay has none.
        let plain = root.path().join("plain.mstack");
        std::fs::create_dir_all(plain.join("rw")).unwrap();
        super::create(Path::new(&plain)).unwrap();
        assert_eq!(plain.read_dir().unwrap().count(), 1);
    }
}
