//! Mounts below the root of a tree on the host. Called by the step that attaches the root.

use crate::error::{Context, Error, Result};
use rustix::fd::BorrowedFd;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Returns the mount points below a directory, as paths inside it, in the order of their mounts.
///
/// # Errors
/// A missing directory or procfs.
pub(crate) fn of(directory: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("cannot find the mounts below '{}'", directory.display());
    let directory = std::fs::canonicalize(directory).context(reading)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context(reading)?;
    Ok(below(&directory, &mounts))
}

/// Returns the mount points below a directory from the text of proc_pid_mountinfo(5).
fn below(directory: &Path, mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped) {
        let Ok(inside) = point.strip_prefix(directory) else { continue };
        let inside = Path::new("/").join(inside);
        // Of several mounts at one path only the last is visible.
        found.retain(|other| *other != inside);
        if inside != Path::new("/") {
            found.push(inside);
        }
    }
    found
}

/// Decodes a path of mountinfo: white space and backslashes are three octal digits.
fn unescaped(path: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Returns the error for a file system that cannot map ids: of the tree, or of the mount at `path` in it.
pub(crate) fn no_idmap(
    directory: &Path,
    path: &Path,
    mounted: BorrowedFd<'_>,
    error: std::io::Error,
) -> Error {
    let magic = rustix::fs::fstatfs(mounted).map_or(0, |stat| i128::from(stat.f_type));
    let kind = match magic {
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x0102_1994 => "tmpfs",
        0x6573_5546 => "fuse",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        0x1cd1 => "devpts",
        _ => "its file system",
    };
    if path != Path::new("/") {
        let place = directory.join(path.strip_prefix("/").unwrap_or(path));
        return Error::from(error)
            .context(format!(
                "cannot map the ids of the mount at '{}': {kind} (type {magic:#x}) refuses",
                place.display()
            ))
            .with_hint(format!("unmount it: umount '{}'", place.display()));
    }
    if error.raw_os_error() == Some(libc::EPERM) {
        return Error::from(error)
            .context(format!("cannot map the ids of '{}': it was mounted by another user namespace", directory.display()))
            .with_hint(
                "this host is itself a container: mount a tmpfs in it for the tree, or run the tree without a user \
                 namespace of its own (users.private = \"no\", --private-users=no)",
            );
    }
    Error::from(error)
        .context(format!("cannot map the ids of '{}': {kind} (type {magic:#x}) refuses", directory.display()))
        .with_hint(
            "move the tree to ext4, xfs or btrfs, or run it without a user namespace (users.private = \"no\", \
             --private-users=no)",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_tree_are_found() {
        let line = |point: &str| format!("31 24 0:27 / {point} rw shared:1 - ext4 /dev/x rw\n");
        let points = ["/", "/srv/web", "/srv/web/proc", "/srv/webs/x", "/srv/web/a\\040b", "/srv/web/proc"];
        let mounts: String = points.into_iter().map(line).collect();
        assert_eq!(below(Path::new("/srv/web"), &mounts), [Path::new("/a b"), Path::new("/proc")]);
    }
}
