//! The guest's `/etc/resolv.conf`, written before PID 1 starts. Called by the builder. It writes
//! inside the tree only: links are read, never followed.

use super::places::Places;
use super::{check, mounts, nodes};
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self, Attributes, Depth};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

const NAME: &str = "resolv.conf";

/// Writes the file. Where a link leads to `/run`, as resolved's and resolvconf's do, it is made
/// there: who manages it takes it over, and without one it stands. A link elsewhere is the owner's.
///
/// # Errors
/// A file that can neither be written nor covered.
pub fn write(places: &Places, content: &str, owner: u32) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let etc = match places.open_as(Path::new("/etc"), flags) {
        Ok(etc) => etc,
        // A tree of one program: nothing in it resolves names.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::from(error).context("cannot open '/etc' in the tree")),
    };
    if let Ok(link) = rustix::fs::readlinkat(&etc, NAME, Vec::new()) {
        return match in_run(Path::new(&*link.to_string_lossy())) {
            Some(place) => write_in_run(places, &place, content, owner),
            None => Ok(()),
        };
    }
    match write_in_tree(&etc, content, owner) {
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => cover(places, content, owner),
        other => other.context(|| "cannot write '/etc/resolv.conf' in the tree"),
    }
}

/// Where a link in `/etc` leads, if to a place below `/run`.
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

fn write_in_run(places: &Places, place: &Path, content: &str, owner: u32) -> Result<()> {
    mounts::make_directories(places, place.parent().unwrap_or(Path::new("/run")), owner)?;
    nodes::file(places, place, 0o644, content, owner)
}

/// Writes the tree's own file, in place: who has it open or bound sees the new text.
fn write_in_tree(etc: &OwnedFd, content: &str, owner: u32) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let looked =
        rustix::fs::openat(etc, NAME, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let file = match looked {
        // To open a device or a pipe is to do something.
        Ok(place) => mount::reopen_file(&place, flags)?,
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

/// Binds a file of ours over the one of a read-only tree; without one there is no place for it.
fn cover(places: &Places, content: &str, owner: u32) -> Result<()> {
    let ours = Path::new("/run/host-resolv.conf");
    let Ok(place) = places.open(Path::new("/etc/resolv.conf")) else { return Ok(()) };
    nodes::file(places, ours, 0o644, content, owner)?;
    let from = places.open(ours).context(|| "cannot open the resolver's file")?;
    let tree = check("cannot copy the mount", mount::copy_tree(from.as_fd(), Depth::One))?;
    check("cannot restrict it", mount::restrict(tree.as_fd(), Depth::One, Attributes::INERT.read_only()))?;
    check("cannot attach it", mount::attach(tree.as_fd(), place.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_and_not_followed() {
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
