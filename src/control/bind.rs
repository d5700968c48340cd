//! `bind` and `unbind`: bind mounts of the host's files in a running machine, with mapped ids. The list of
//! bind mounts lasts until the guest reboots.

use super::{defined, freezer, guest_child, running, signal};
use crate::channel::{self, FromPayload};
use crate::error::{Context, Error, Result};
use crate::host::idmap;
use crate::host::lock::{self, Held};
use crate::host::probe::Tree;
use crate::machine::mounts::{BindPath, MountIds, MountKind};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::paths::access::refuse_open;
use crate::payload::bind::{self, Attach, MakeTarget};
use crate::state::binds;
use crate::state::binds::Binding;
use crate::state::record::Record;
use crate::sys::guest_files::GuestRoot;
use crate::sys::mount::{self, Depth, MountAttributes};
use crate::sys::process::{self, Side};
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A request to create a bind mount.
#[derive(Debug, Clone)]
pub(crate) struct BindRequest<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// A file or directory of the host; `-` for that which is open as standard input.
    pub(crate) source: &'a Path,
    /// The target: an absolute path inside.
    pub(crate) target: &'a Path,
    /// Whether the mount is read-only.
    pub(crate) read_only: bool,
    /// Whether setuid bits and file capabilities take effect.
    pub(crate) setuid: bool,
    /// Whether a missing target is created.
    pub(crate) make_target: MakeTarget,
    /// The mapping of owners.
    pub(crate) map: MountIds,
}

/// Creates a bind mount.
///
/// # Errors
/// A source that is missing or cannot be mapped or mounted. Nothing is changed then, except that a missing
/// target may have been created.
pub(crate) fn bind(paths: &Paths, request: &BindRequest<'_>) -> Result<()> {
    if !request.target.is_absolute() || request.target == Path::new("/") {
        return Err(Error::usage(format!(
            "'{}' is not an absolute path below '/'",
            request.target.display()
        ))
        .with_hint("give an absolute path inside the machine"));
    }
    let (source, place) = open_source(request.source)?;
    let record = running(paths, request.name)?;
    warn_open(request, &record, &source);
    freezer::refuse_frozen(paths, &record)?;
    let leader = signal::leader(&record)?;
    let pid = record.leader.unwrap_or_default();
    let _lock = lock(paths, request.name)?;
    let mut list = binds::read(paths, request.name, pid)?;
    if let Some(known) = list.iter().find(|known| known.target == request.target) {
        return Err(Error::new(format!(
            "'{}' is already bound on '{}'",
            known.source.display(),
            known.target.display()
        ))
        .with_hint(format!(
            "remove it first: coracle unbind {} {}",
            request.name,
            request.target.display()
        )));
    }
    let tree = tree(request, &record, &leader, (&source, &place))?;
    let staging_dir = record.id_base.map(|_| paths.machine(request.name));
    attach(Attach {
        leader,
        tree,
        target: request.target.to_owned(),
        staging_dir,
        make_target: request.make_target,
        owner: record.id_base.unwrap_or_default(),
    })?;
    list.push(Binding {
        target: request.target.to_owned(),
        source,
        read_only: request.read_only,
        map: request.map.as_text(),
        mount: mount_at(pid, request.target)?,
        leader: pid,
    });
    binds::write(paths, request.name, &list)
}

/// Warns about a directory that users of the host can reach, if root of the machine can create files of the
/// host's root there.
fn warn_open(request: &BindRequest<'_>, record: &Record, source: &Path) {
    let has_host_ids = record.id_base.is_none_or(|base| base == 0);
    if request.read_only || request.map == MountIds::Host && !has_host_ids {
        return;
    }
    if let Err(error) = refuse_open(source) {
        log::warn!(
            "{error}: setuid programs there run as root of the host; {}",
            error.hint().unwrap_or_default()
        );
    }
}

/// A bind mount in the list. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ListedBind {
    /// Its target inside the machine.
    target: PathBuf,
    /// Its source on the host.
    source: PathBuf,
    /// Whether it is read-only inside.
    read_only: bool,
    /// The mapping of user ids.
    map: String,
    /// `definition`, or `bind` for one that ends with this boot.
    from: &'static str,
}

impl From<Binding> for ListedBind {
    fn from(bound: Binding) -> Self {
        let Binding { target, source, read_only, map, .. } = bound;
        Self { target, source, read_only, map, from: "bind" }
    }
}

/// Lists the bind mounts added to a running machine.
///
/// # Errors
/// The machine is not running.
pub(super) fn added(paths: &Paths, name: &Name) -> Result<Vec<Binding>> {
    let record = running(paths, name)?;
    binds::read(paths, name, record.leader.unwrap_or_default())
}

/// Lists the bind mounts of a machine: those of its definition, and if it is running those added since.
///
/// # Errors
/// A missing machine, or an invalid definition of one that is not running.
pub(crate) fn list(paths: &Paths, name: &Name) -> Result<Vec<ListedBind>> {
    let added = added(paths, name);
    let machine = match (defined(paths, name), &added) {
        (Err(error), Err(_)) => return Err(error),
        (machine, _) => machine.ok(),
    };
    let mounts = machine.map(|machine| machine.mounts.clone()).unwrap_or_default();
    let defined = mounts.into_iter().filter_map(|mount| match mount.kind {
        MountKind::Bind { source: BindPath::Host(source), read_only, ids, .. } => Some(ListedBind {
            target: mount.target,
            source,
            read_only,
            map: ids.as_text(),
            from: "definition",
        }),
        _ => None,
    });
    let mut all: Vec<ListedBind> = defined.collect();
    // 'apply' has mounted those that the definition has got since the start.
    let new = added.unwrap_or_default().into_iter().map(ListedBind::from);
    let new: Vec<_> = new.filter(|new| all.iter().all(|one| one.target != new.target)).collect();
    all.extend(new);
    Ok(all)
}

/// Returns the cells of a bind mount for the table: target, source, access, mapping, origin.
pub(crate) fn cells(bound: &ListedBind) -> Vec<String> {
    let access = if bound.read_only { "read-only" } else { "read-write" };
    vec![
        bound.target.display().to_string(),
        bound.source.display().to_string(),
        access.to_owned(),
        bound.map.clone(),
        bound.from.to_owned(),
    ]
}

/// Removes a bind mount.
///
/// # Errors
/// No bind mount at this target.
pub(crate) fn unbind(paths: &Paths, name: &Name, target: &Path) -> Result<()> {
    let record = running(paths, name)?;
    let leader = signal::leader(&record)?;
    let pid = record.leader.unwrap_or_default();
    let _lock = lock(paths, name)?;
    let mut list = binds::read(paths, name, pid)?;
    let at = list.iter().position(|known| known.target == target).ok_or_else(|| {
        Error::new(format!("machine '{name}' has no bind mount on '{}'", target.display()))
            .with_hint(format!("list the bind mounts: coracle bind {name}"))
    })?;
    let known = list.remove(at);
    if mount_at(pid, target).ok() != Some(known.mount) {
        return Err(Error::new(format!("the guest has mounted over '{}'", target.display()))
            .with_hint("unmount it inside first"));
    }
    let enter = |namespace: &OwnedFd| {
        setns(namespace, CloneFlags::CLONE_NEWNS).context(|| "cannot enter a mount namespace")
    };
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the mount namespace of this process")?;
    enter(&leader)?;
    let detached = detach(target);
    enter(&own)?;
    detached.context(|| format!("cannot unmount '{}'", target.display()))?;
    binds::write(paths, name, &list)
}

/// Locks the list of bind mounts.
fn lock(paths: &Paths, name: &Name) -> Result<Held> {
    lock::wait(paths, &format!("binds-{name}"))
}

/// Unmounts a target by its name in its directory, without following links.
fn detach(target: &Path) -> std::io::Result<()> {
    let root = GuestRoot::of_caller().map_err(std::io::Error::other)?;
    let parent = root.find(target.parent().unwrap_or(Path::new("/")))?;
    rustix::process::fchdir(&parent)?;
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    Ok(rustix::mount::unmount(target.file_name().unwrap_or_default(), flags)?)
}

/// Opens a source for reference. Returns its path, too.
fn open_source(source: &Path) -> Result<(PathBuf, OwnedFd)> {
    if source == Path::new("-") {
        return standard_input();
    }
    let path = std::fs::canonicalize(source)
        .context(|| format!("cannot find bind source '{}'", source.display()))?;
    let place = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open bind source '{}'", path.display()))?;
    Ok((path, place))
}

/// Returns the file that is open as standard input, which may be open for reference only, and its path.
fn standard_input() -> Result<(PathBuf, OwnedFd)> {
    const HINT: &str = "redirect standard input from a file or directory of this host";
    let inspecting = || "cannot inspect standard input";
    let place = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).context(inspecting)?;
    let stat = rustix::fs::fstat(&place).context(inspecting)?;
    if matches!(FileType::from_raw_mode(stat.st_mode), FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Error::usage("standard input is a device").with_hint(HINT));
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd())).context(inspecting)?;
    // A deleted file, or one of another mount namespace, has no path here.
    let named = rustix::fs::stat(&path).map(|named| (named.st_dev, named.st_ino));
    if named != Ok((stat.st_dev, stat.st_ino)) {
        let message = format!("the file of standard input is not '{}' of this host", path.display());
        return Err(Error::usage(message).with_hint(HINT));
    }
    Ok((path, place))
}

/// Creates the detached mount to attach.
fn tree(
    request: &BindRequest<'_>,
    record: &Record,
    leader: &OwnedFd,
    (source, place): (&Path, &OwnedFd),
) -> Result<OwnedFd> {
    let tree = mount::copy_tree(place.as_fd(), Depth::Tree)
        .context(|| format!("cannot copy the mount of '{}'", source.display()))?;
    let userns = id_map(request, record, leader, place)?;
    let attributes = MountAttributes {
        read_only: request.read_only,
        no_setuid: !request.setuid,
        // A device node of the host would grant access to the device.
        no_devices: true,
        ..MountAttributes::default()
    };
    // Mounts of the guest below the target do not propagate to the host.
    let separated = mount::separate(tree.as_fd(), userns.as_ref().map(AsFd::as_fd), attributes);
    match userns {
        None => separated.context(|| "cannot restrict the mount")?,
        Some(_) => separated
            .context(|| format!("cannot map the ids of '{}'", source.display()))
            .map_err(|error| error.with_hint("use a source on ext4, xfs, btrfs or tmpfs"))?,
    }
    Ok(tree)
}

/// Creates the user namespace that maps the ids of a source. `None` if the ids are not mapped.
fn id_map(
    request: &BindRequest<'_>,
    record: &Record,
    leader: &OwnedFd,
    place: &OwnedFd,
) -> Result<Option<OwnedFd>> {
    let base = record.id_base.unwrap_or_default();
    let stat = rustix::fs::fstat(place).context(|| "cannot inspect the bind source")?;
    let single = |outside: (u32, u32), inside: (u32, u32)| {
        let seen = |id: u32| base.saturating_add(id);
        idmap::namespace(&[(outside.0, seen(inside.0), 1)], &[(outside.1, seen(inside.1), 1)]).map(Some)
    };
    match &request.map {
        // That of a session is set at its start.
        MountIds::Host | MountIds::BuildUser => Ok(None),
        MountIds::Same if record.id_base.is_none() => Ok(None),
        MountIds::Same => {
            let all = [(0, base, crate::machine::users::RANGE_SIZE)];
            idmap::namespace(&all, &all).map(Some)
        }
        MountIds::Root => single((stat.st_uid, stat.st_gid), (0, 0)),
        MountIds::Owner => {
            let owner = guest_child::read_tree(record, leader, |tree| tree.owner(request.target))
                .map_err(|error| error.with_hint("create the target first: its owner is the mapped owner"))?;
            single((stat.st_uid, stat.st_gid), owner)
        }
        MountIds::User(outside, inside) => {
            let outside = Tree::open(Path::new("/"))?.user_ids(outside)?;
            single(outside, guest_child::read_tree(record, leader, |tree| tree.user_ids(inside))?)
        }
    }
}

/// Returns the kernel's id of the topmost mount at a path of the guest.
fn mount_at(leader: u32, target: &Path) -> Result<u64> {
    let place = GuestRoot::of_process(leader)?
        .find_link(target)
        .context(|| format!("cannot inspect '{}'", target.display()))?;
    let stat = rustix::fs::statx(&place, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "cannot read the mount id")?;
    Ok(stat.stx_mnt_id)
}

/// Attaches the mount by a child, and returns its result.
fn attach(request: Attach) -> Result<()> {
    let (ours, theirs) = channel::pair()?;
    match process::clone(0, None)? {
        Side::Child => {
            drop(ours);
            bind::attach(request, &theirs)
        }
        Side::Parent(child) => {
            drop(theirs);
            let said = ours.receive();
            process::wait(child.pidfd.as_fd())?;
            match said? {
                Some((FromPayload::Done, _)) => Ok(()),
                Some((FromPayload::Failed(failure), _)) => Err(failure.into()),
                _ => Err(Error::new("the machine ended while it was being entered")),
            }
        }
    }
}
