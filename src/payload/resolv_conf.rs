//! The guest's `/etc/resolv.conf`, written before PID 1 starts. Called by the builder. It writes inside the
//! tree only: symbolic links are read, never followed.

use super::host_mounts::HostMounts;
use super::tree_paths::TreePaths;
use super::{mounts, nodes};
use crate::error::{Context, Error, Result};
use crate::plan::step::ResolvConfAction;
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

const NAME: &str = "resolv.conf";

/// Carries out the action. For a symbolic link into `/run`, for example of systemd-resolved or resolvconf,
/// the file is created at its target: the program that manages it replaces it, and without that program it
/// stays. Any other link belongs to the tree's owner and stays; copies and bind mounts leave every link
/// unchanged.
///
/// # Errors
/// A file that can be neither written nor covered.
pub(crate) fn make(
    paths: &TreePaths,
    host: &HostMounts,
    wanted: &ResolvConfAction,
    owner: u32,
) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let etc = match paths.open_as(Path::new("/etc"), flags) {
        Ok(etc) => etc,
        // A tree of a single program without a resolver.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::from(error).context("cannot open '/etc' in the tree")),
    };
    let link = rustix::fs::readlinkat(&etc, NAME, Vec::new()).ok();
    match (wanted, link) {
        (ResolvConfAction::Write(content) | ResolvConfAction::WriteIfMissing(content), Some(link)) => {
            match in_run(Path::new(&*link.to_string_lossy())) {
                Some(place) => write_in_run(paths, &place, content, owner),
                None => Ok(()),
            }
        }
        (ResolvConfAction::Copy(_) | ResolvConfAction::Bind(_), Some(_)) => Ok(()),
        (ResolvConfAction::WriteIfMissing(content), None) => {
            match rustix::fs::statat(&etc, NAME, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Ok(()),
                Err(_) => unless_read_only(write_in_tree(&etc, host, content, owner), paths, content),
            }
        }
        (ResolvConfAction::Write(content) | ResolvConfAction::Copy(content), None) => {
            unless_read_only(write_in_tree(&etc, host, content, owner), paths, content)
        }
        (ResolvConfAction::Replace(content), _) => {
            let replaced = remove(&etc).and_then(|()| write_in_tree(&etc, host, content, owner));
            unless_read_only(replaced, paths, content)
        }
        (ResolvConfAction::Bind(file), None) => bind(paths, host, &etc, file, owner),
        (ResolvConfAction::Delete, _) => {
            remove(&etc).context(|| "cannot remove '/etc/resolv.conf' in the tree")
        }
    }
}

/// Covers the file if the tree is read-only.
fn unless_read_only(written: std::io::Result<()>, paths: &TreePaths, content: &str) -> Result<()> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => cover(paths, content),
        other => other.context(|| "cannot write '/etc/resolv.conf' in the tree"),
    }
}

/// Deletes the file or link. A directory stays.
fn remove(etc: &OwnedFd) -> std::io::Result<()> {
    match rustix::fs::unlinkat(etc, NAME, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other.map_err(Into::into),
    }
}

/// Mounts a file of the host over the tree's file, which is created if it is missing.
fn bind(paths: &TreePaths, host: &HostMounts, etc: &OwnedFd, file: &Path, owner: u32) -> Result<()> {
    if let Err(Errno::NOENT) = rustix::fs::statat(etc, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        let made = write_in_tree(etc, host, "", owner);
        made.context(|| "cannot create the mount target '/etc/resolv.conf' in the tree")?;
    }
    let tree = host.visit(|| {
        let from = rustix::fs::open(file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        copy(&from.context(|| format!("cannot open '{}'", file.display()))?)
    })?;
    mount_over(paths, &tree)
}

/// Returns the target of a symbolic link in `/etc`, if it is below `/run`.
fn in_run(link: &Path) -> Option<PathBuf> {
    let mut place = PathBuf::from("/etc");
    for part in link.components() {
        match part {
            Component::RootDir => place = PathBuf::from("/"),
            Component::ParentDir => {
                place.pop();
            }
            Component::Normal(name) => place.push(name),
            _ => {}
        }
    }
    let place =
        place.strip_prefix("/var/run").map_or_else(|_| place.clone(), |rest| Path::new("/run").join(rest));
    (place.starts_with("/run") && place != Path::new("/run")).then_some(place)
}

fn write_in_run(paths: &TreePaths, place: &Path, content: &str, owner: u32) -> Result<()> {
    mounts::make_directories(paths, place.parent().unwrap_or(Path::new("/run")), owner)?;
    nodes::file(paths, place, 0o644, content.as_bytes())
}

/// Writes the tree's own file in place: open descriptors and bind mounts of it see the new text.
fn write_in_tree(etc: &OwnedFd, host: &HostMounts, content: &str, owner: u32) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let looked =
        rustix::fs::openat(etc, NAME, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let file = match looked {
        // Only a regular file: opening a device or a pipe has side effects.
        Ok(place) => host.reopen(&place, flags)?,
        Err(Errno::NOENT) => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let file = rustix::fs::openat(etc, NAME, flags, Mode::from_raw_mode(0o644))?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
            file
        }
        Err(errno) => return Err(errno.into()),
    };
    let mut file = std::fs::File::from(file);
    file.set_len(0)?;
    file.write_all(content.as_bytes())
}

/// Mounts a file with the content over the one of a read-only tree. Without such a file there is no mount
/// target, and nothing happens.
fn cover(paths: &TreePaths, content: &str) -> Result<()> {
    let ours = Path::new("/run/host-resolv.conf");
    if paths.open(Path::new("/etc/resolv.conf")).is_err() {
        return Ok(());
    }
    nodes::file(paths, ours, 0o644, content.as_bytes())?;
    mount_over(paths, &copy(&paths.open(ours).context(|| "cannot open the new file")?)?)
}

fn copy(from: &OwnedFd) -> Result<OwnedFd> {
    mount::copy_tree(from.as_fd(), Depth::One).context(|| "cannot copy the mount")
}

fn mount_over(paths: &TreePaths, tree: &OwnedFd) -> Result<()> {
    let place = paths.open(Path::new("/etc/resolv.conf")).context(|| "cannot open '/etc/resolv.conf'")?;
    mount::separate(tree.as_fd(), None, MountAttributes::INERT.read_only())
        .context(|| "cannot restrict it")?;
    mount::attach(tree.as_fd(), place.as_fd()).context(|| "cannot attach it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_into_run_are_recognised() {
        for (link, place) in [
            ("../run/systemd/resolve/stub-resolv.conf", Some("/run/systemd/resolve/stub-resolv.conf")),
            ("/run/resolvconf/resolv.conf", Some("/run/resolvconf/resolv.conf")),
            ("/var/run/NetworkManager/resolv.conf", Some("/run/NetworkManager/resolv.conf")),
            ("../../../../run/x", Some("/run/x")),
            ("/run", None),
            ("/run/../etc/shadow", None),
            ("resolv.conf.head", None),
            ("/etc/static/resolv.conf", None),
        ] {
            assert_eq!(in_run(Path::new(link)), place.map(PathBuf::from), "{link}");
        }
    }
}
