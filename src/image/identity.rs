//! A new identity for a copy of a system: what must differ between two machines on one network is removed, so
//! that the guest creates it again, or is replaced. Called by `clone`. Files of the guest are changed through
//! the root of the copy, in which no link leads out.

mod ssh_keys;

use super::store::Store;
use crate::error::{Context, Result};
use crate::machine::name::Name;
use crate::paths::MACHINE_ID;
use crate::sys::guest_files::{self, GuestRoot};
use rustix::fs::{AtFlags, FileType, OFlags};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The limit of read files, bytes.
const LIMIT: u64 = 1 << 16;
/// The machine id of D-Bus (dbus-uuidgen(1)).
const DBUS_ID: &str = "/var/lib/dbus/machine-id";
/// The seed of random numbers (systemd-random-seed.service(8)).
const RANDOM_SEED: &str = "/var/lib/systemd/random-seed";
/// The host name (hostname(5)).
const HOSTNAME: &str = "/etc/hostname";
/// The name servers (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A change of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// A file is emptied.
    Empty(&'static str),
    /// A file is removed.
    Remove(&'static str),
    /// The host name is replaced.
    Hostname,
}

/// Returns whether a copy of a system needs a new identity. Changes nothing.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn is_needed(root: &GuestRoot, source: &Name) -> Result<bool> {
    Ok(!changes(root, source)?.is_empty() || ssh_keys::exist(root)? || is_unusable(root, MACHINE_ID)?)
}

/// Gives a copy of the system of `source` a new identity. Keys are created in the store. Returns a message about
/// files that could not be renewed.
///
/// # Errors
/// A file that cannot be changed.
pub(super) fn renew(root: &GuestRoot, source: &Name, name: &Name, store: &Store) -> Result<Option<String>> {
    for change in changes(root, source)? {
        match change {
            Change::Empty(path) => write(root, Path::new(path), b""),
            Change::Remove(path) => remove(root, Path::new(path)),
            Change::Hostname => write(root, Path::new(HOSTNAME), format!("{name}\n").as_bytes()),
        }?;
    }
    let mut kept = ssh_keys::renew(root, name, store)?;
    if is_unusable(root, MACHINE_ID)? {
        kept.insert(0, format!("'{MACHINE_ID}' (it leads to no regular file)"));
    }
    let message = || format!("these files of its identity stay those of the source: {}", kept.join(", "));
    Ok((!kept.is_empty()).then(message))
}

/// Removes the identity from a new system that all machines on it are to share nothing of, and the files that the
/// program that has created it took from the host: its name and its name servers.
///
/// # Errors
/// A file that cannot be changed.
pub(super) fn clear(root: &GuestRoot) -> Result<()> {
    for path in [HOSTNAME, RESOLV_CONF, DBUS_ID, RANDOM_SEED] {
        if is_regular(root, Path::new(path))? {
            remove(root, Path::new(path))?;
        }
    }
    if is_regular(root, Path::new(MACHINE_ID))? { write(root, Path::new(MACHINE_ID), b"") } else { Ok(()) }
}

fn changes(root: &GuestRoot, source: &Name) -> Result<Vec<Change>> {
    let mut found = Vec::new();
    // systemd sets the id of an image that is meant to be copied to this word: every boot of a copy is its
    // first.
    let machine_id = read(root, Path::new(MACHINE_ID))?;
    if !machine_id.is_empty() && machine_id != b"uninitialized" {
        found.push(Change::Empty(MACHINE_ID));
    }
    // A link to the machine id stays.
    if is_regular(root, Path::new(DBUS_ID))? {
        found.push(Change::Remove(DBUS_ID));
    }
    if kind(root, Path::new(RANDOM_SEED))?.is_some_and(|kind| kind != FileType::Directory) {
        found.push(Change::Remove(RANDOM_SEED));
    }
    if read(root, Path::new(HOSTNAME))? == source.as_str().as_bytes() {
        found.push(Change::Hostname);
    }
    Ok(found)
}

/// Returns the text of a regular file without blanks around it. Empty if there is none.
fn read(root: &GuestRoot, path: &Path) -> Result<Vec<u8>> {
    let text = if_exists(root.read(path, LIMIT), path)?;
    Ok(text.map_or_else(Vec::new, |text| text.trim_ascii().to_vec()))
}

/// Returns the type of a file, also of a link. `None` if there is none.
fn kind(root: &GuestRoot, path: &Path) -> Result<Option<FileType>> {
    let found = root.find_link(path).and_then(|place| Ok(rustix::fs::fstat(&place)?));
    Ok(if_exists(found, path)?.map(|found| FileType::from_raw_mode(found.st_mode)))
}

/// Returns whether a path is a regular file, and not a link.
fn is_regular(root: &GuestRoot, path: &Path) -> Result<bool> {
    Ok(kind(root, path)? == Some(FileType::RegularFile))
}

/// Returns whether a file exists that cannot be renewed: a link that leads out or to nothing, or no regular
/// file.
fn is_unusable(root: &GuestRoot, path: &str) -> Result<bool> {
    let path = Path::new(path);
    let found = root.find(path).and_then(|place| Ok(rustix::fs::fstat(&place)?));
    let is_regular = if_exists(found, path)?
        .is_some_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
    Ok(!is_regular && kind(root, path)?.is_some())
}

/// Returns `None` if there is no such file, or another kind of file in its place.
fn if_exists<T>(result: std::io::Result<T>, path: &Path) -> Result<Option<T>> {
    use rustix::io::Errno;
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::ISDIR) => Ok(None),
            _ => Err(error).context(|| format!("cannot read '{}' in the copy", path.display())),
        },
    }
}

/// Replaces the content of an existing regular file, and writes it to the disk.
fn write(root: &GuestRoot, path: &Path, content: &[u8]) -> Result<()> {
    let writing = || format!("cannot change '{}' in the copy", path.display());
    let place = root.find(path).context(writing)?;
    let file = guest_files::reopen_file(&place, OFlags::WRONLY | OFlags::TRUNC).context(writing)?;
    if content.is_empty() {
        return Ok(());
    }
    let mut file = File::from(file);
    file.write_all(content).and_then(|()| file.sync_data()).context(writing)
}

/// Removes a file; a missing one is not an error.
fn remove(root: &GuestRoot, path: &Path) -> Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let removed = root
        .open_directory(above)
        .and_then(|above| Ok(rustix::fs::unlinkat(&above, name, AtFlags::empty())?));
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("cannot remove '{}' from the copy", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use std::fs;

    #[test]
    fn a_copy_gets_a_new_identity() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path.trim_start_matches('/'));
        for place in ["etc", "var/lib/dbus", "var/lib/systemd"] {
            fs::create_dir_all(at(place)).unwrap();
        }
        let root = GuestRoot::of_tree(directory.path()).unwrap();
        let (golden, web) = (Name::new("golden").unwrap(), Name::new("web").unwrap());
        let store = Store::of(&Paths::below(directory.path()));
        fs::write(at(MACHINE_ID), "").unwrap();
        fs::write(at(HOSTNAME), "other\n").unwrap();
        assert!(!is_needed(&root, &golden).unwrap());
        fs::write(at(MACHINE_ID), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(at(HOSTNAME), "golden\n").unwrap();
        fs::write(at(RANDOM_SEED), "seed").unwrap();
        std::os::unix::fs::symlink("/etc/machine-id", at(DBUS_ID)).unwrap();
        assert!(is_needed(&root, &golden).unwrap());
        assert_eq!(renew(&root, &golden, &web, &store).unwrap(), None);
        assert_eq!(fs::read_to_string(at(MACHINE_ID)).unwrap(), "");
        assert_eq!(fs::read_to_string(at(HOSTNAME)).unwrap(), "web\n");
        assert!(!at(RANDOM_SEED).exists() && at(DBUS_ID).is_symlink());
        assert!(!is_needed(&root, &golden).unwrap());
        fs::remove_file(at(DBUS_ID)).unwrap();
        fs::write(at(DBUS_ID), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(at(MACHINE_ID), "uninitialized\n").unwrap();
        renew(&root, &golden, &web, &store).unwrap();
        assert!(!at(DBUS_ID).exists());
        assert_eq!(fs::read_to_string(at(MACHINE_ID)).unwrap(), "uninitialized\n");
    }

    #[test]
    fn a_base_has_no_identity() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at("etc")).unwrap();
        fs::write(at(MACHINE_ID), "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::write(at(HOSTNAME), "host\n").unwrap();
        std::os::unix::fs::symlink("../run/resolv.conf", at(RESOLV_CONF)).unwrap();
        clear(&GuestRoot::of_tree(directory.path()).unwrap()).unwrap();
        assert!(!at(HOSTNAME).exists() && at(RESOLV_CONF).is_symlink());
        assert_eq!(fs::read_to_string(at(MACHINE_ID)).unwrap(), "");
    }

    #[test]
    fn links_of_the_guest_do_not_lead_out() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        let outside = directory.path().join("outside");
        fs::write(&outside, "golden\n").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("etc/hostname")).unwrap();
        std::os::unix::fs::symlink("../../outside", tree.join("etc/machine-id")).unwrap();
        let root = GuestRoot::of_tree(&tree).unwrap();
        let (golden, web) = (Name::new("golden").unwrap(), Name::new("web").unwrap());
        let store = Store::of(&Paths::below(directory.path()));
        // Files that cannot be renewed are reported.
        assert!(is_needed(&root, &golden).unwrap());
        let message = renew(&root, &golden, &web, &store).unwrap().unwrap();
        assert!(message.contains("'/etc/machine-id'") && !message.contains("hostname"), "{message}");
        assert_eq!(fs::read_to_string(&outside).unwrap(), "golden\n");
        fs::remove_file(tree.join("etc/machine-id")).unwrap();
        assert!(!is_needed(&root, &golden).unwrap());
    }
}
