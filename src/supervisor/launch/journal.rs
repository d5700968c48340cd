//! Connects the journal directories of host and guest: creates the directory or the link on the host before
//! the tree is built. Both stay at the end, as with systemd-nspawn(1): journalctl(1) of the host shows the
//! journal of a stopped machine. Called by `launch`.

use crate::error::{Context, Error, Result};
use crate::machine::journal::JournalLink;
use crate::sys::{guest_files, mount};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The changes on the host.
#[derive(Debug, Clone)]
pub(crate) struct JournalPlan {
    /// The connection.
    pub(crate) link: JournalLink,
    /// The directory of the machine's journal on the host.
    pub(crate) directory: PathBuf,
    /// The root of the machine. `None` for a root that is not one directory of the host.
    pub(crate) tree: Option<PathBuf>,
    /// The owner of a directory on the host and its group. `None` for the host's root.
    pub(crate) owner: Option<(u32, u32)>,
}

/// Makes the changes.
///
/// # Errors
/// A required connection that is not possible.
pub(super) fn connect(plan: &JournalPlan) -> Result<()> {
    let made = match plan.link {
        JournalLink::No => return Ok(()),
        JournalLink::Guest(_) => link_to_guest(plan),
        JournalLink::Host(_) => create_on_host(plan).and_then(|()| own(plan)),
        JournalLink::Auto => own(plan),
    };
    match made {
        Err(error) if plan.link.is_required() => {
            let text = format!("cannot link the journal '{}'", plan.directory.display());
            Err(error.context(text).with_hint("set journal.link to \"no\" or to an optional way"))
        }
        Err(error) => {
            log::info!("the journal is not linked: {error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Creates the directory in the tree and the link to it.
fn link_to_guest(plan: &JournalPlan) -> Result<()> {
    let tree = plan.tree.as_ref().ok_or_else(|| Error::new("there is no directory of the machine"))?;
    let name = plan.directory.file_name().map_or(Path::new("."), Path::new);
    let inside = create_inside(tree, &Path::new("var/log/journal").join(name))?;
    refuse_mount(&inside, Path::new("/var/log/journal"))?;
    // Its real place: the tree may have links, for example of /var/log.
    let place = std::fs::read_link(format!("/proc/self/fd/{}", inside.as_raw_fd()))
        .context(|| "cannot find the directory of the machine")?;
    let directory = &plan.directory;
    match std::fs::read_link(directory) {
        Ok(to) if to == place => return Ok(()),
        Ok(_) => std::fs::remove_file(directory).context(|| "cannot replace the link")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        // A directory with a journal stays: it is that of an earlier connection.
        Err(_) => std::fs::remove_dir(directory).context(|| "cannot replace it by a link")?,
    }
    std::os::unix::fs::symlink(&place, directory).context(|| "cannot create the link")
}

/// Creates a directory of the host, or replaces a link by it. `/var/log/journal` must exist: without it the
/// journal of the host is in memory.
fn create_on_host(plan: &JournalPlan) -> Result<()> {
    let directory = &plan.directory;
    if directory.is_symlink() {
        std::fs::remove_file(directory).context(|| "cannot replace the link")?;
    }
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::new("the host has no persistent journal")
                .with_hint("create '/var/log/journal', see systemd-journald.service(8)"))
        }
        other => other.context(|| "cannot create the directory"),
    }
}

/// Gives a directory of the host and the files in it to the guest's root: files of the host's root would be
/// setuid programs of the host that the guest can write.
fn own(plan: &JournalPlan) -> Result<()> {
    let doing = || "cannot change the owner of the directory";
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&plan.directory, flags, Mode::empty()).context(doing)?;
    refuse_mount(&directory, &plan.directory)?;
    let Some((user, group)) = plan.owner else { return Ok(()) };
    let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    let is_owned = |found: &rustix::fs::Stat| (found.st_uid, found.st_gid) == (user, group);
    if is_owned(&rustix::fs::fstat(&directory).context(doing)?) {
        return Ok(());
    }
    for entry in Dir::read_from(&directory).context(doing)? {
        let entry = entry.context(doing)?;
        let found = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
        let found = found.context(doing)?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        // A file with another name may be one of the host.
        if is_file && found.st_nlink == 1 && !is_owned(&found) {
            let at = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&directory, entry.file_name(), owner.0, owner.1, at).context(doing)?;
        }
    }
    rustix::fs::fchown(&directory, owner.0, owner.1).context(doing)?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o2755)).context(doing)
}

/// Creates a directory of the tree with its parents, and opens it. Links are resolved inside the tree.
fn create_inside(tree: &Path, path: &Path) -> Result<OwnedFd> {
    let doing = || format!("cannot create '/{}' in the tree", path.display());
    let root = mount::open_directory(tree)?;
    let owner = rustix::fs::fstat(&root).context(doing)?;
    let open = |path: &Path| {
        guest_files::open_inside_as(root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    };
    let mut parent = open(Path::new(".")).context(doing)?;
    let mut reached = PathBuf::new();
    for name in path {
        reached.push(name);
        parent = match open(&reached) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mode = Mode::from_raw_mode(0o755);
                match rustix::fs::mkdirat(&parent, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno).context(doing),
                }
                let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
                let at = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&parent, name, Some(user), Some(group), at).context(doing)?;
                open(&reached).context(doing)?
            }
            opened => opened.context(doing)?,
        };
    }
    Ok(parent)
}

/// Refuses a mount point: another program shares the directory.
fn refuse_mount(directory: &OwnedFd, name: &Path) -> Result<()> {
    if mount::is_root_of_mount(directory).context(|| "cannot examine the directory")? {
        return Err(Error::new(format!("'{}' is a mount point", name.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::journal::LinkNeed;

    fn plan(root: &Path, link: JournalLink) -> JournalPlan {
        let tree = Some(root.join("tree"));
        JournalPlan { link, directory: root.join("journal/id"), tree, owner: None }
    }

    #[test]
    fn a_link_leads_to_the_real_place_in_the_tree() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for directory in ["journal", "tree/var", "tree/data"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        // Absolute, and resolved inside the tree.
        std::os::unix::fs::symlink("/data", root.join("tree/var/log")).unwrap();
        let guest = plan(root, JournalLink::Guest(LinkNeed::Required));
        for _ in 0..2 {
            connect(&guest).unwrap();
            assert_eq!(
                std::fs::read_link(root.join("journal/id")).unwrap(),
                root.join("tree/data/journal/id")
            );
        }
        assert!(root.join("tree/data/journal/id").is_dir());
        // A link of another tree is replaced, a directory with files is not.
        connect(&plan(root, JournalLink::Host(LinkNeed::Required))).unwrap();
        assert!(!root.join("journal/id").is_symlink());
        std::fs::write(root.join("journal/id/system.journal"), "").unwrap();
        assert!(connect(&guest).unwrap_err().to_string().contains("cannot replace it by a link"));
        connect(&plan(root, JournalLink::Guest(LinkNeed::Optional))).unwrap();
        assert!(root.join("journal/id/system.journal").exists());
    }

    #[test]
    fn a_host_without_a_journal_on_disk_keeps_none() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("tree")).unwrap();
        for (link, is_refused) in [
            (JournalLink::Host(LinkNeed::Required), true),
            (JournalLink::Host(LinkNeed::Optional), false),
            (JournalLink::Guest(LinkNeed::Required), true),
            (JournalLink::Guest(LinkNeed::Optional), false),
            (JournalLink::Auto, false),
            (JournalLink::No, false),
        ] {
            assert_eq!(connect(&plan(root.path(), link)).is_err(), is_refused, "{link:?}");
            assert!(!root.path().join("journal").exists());
        }
    }

    #[test]
    fn files_with_several_names_keep_their_owner() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped files_with_several_names_keep_their_owner: needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("journal/id");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("system.journal"), "").unwrap();
        std::fs::write(root.path().join("secret"), "").unwrap();
        std::fs::hard_link(root.path().join("secret"), directory.join("other")).unwrap();
        std::os::unix::fs::symlink("../../secret", directory.join("link")).unwrap();
        let owned = JournalPlan { owner: Some((700_000, 999)), ..plan(root.path(), JournalLink::Auto) };
        connect(&owned).unwrap();
        let owner = |path: &str| {
            let found = rustix::fs::lstat(root.path().join(path)).unwrap();
            (found.st_uid, found.st_gid)
        };
        assert_eq!([owner("journal/id"), owner("journal/id/system.journal")], [(700_000, 999); 2]);
        assert_eq!([owner("secret"), owner("journal/id/link")], [(0, 0); 2]);
    }
}
