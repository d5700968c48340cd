//! The empty mount namespace: a read-only tmpfs without files, and no other mount. A machine's mount namespace
//! is a copy of it: no mount of the host is copied, and no pivot_root(2) visits all processes of the host.
//! Created at the first start after a boot, pinned at `/run/coracle/.mounts/empty`. Called by `supervisor`.

use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The type of the file system of namespaces (`NSFS_MAGIC` of `linux/magic.h`).
const NSFS: i64 = 0x6e73_6673;
/// The content of the file below the pinned namespace, for processes of other mount namespaces.
const PINNED: &str = "pinned in another mount namespace";
/// The content if this host is a machine itself, with user ids of its own: there the kernel mounts procfs and sysfs only in
/// namespaces that show one already (`mount_too_revealing` of `fs/namespace.c`).
const CONFINED: &str = "the kernel mounts no procfs in it";

/// Opens the namespace, and creates it if this is the first start after a boot. `None` if that is not
/// possible here: machines are then created in copies of the host's mount namespace, which takes longer.
pub(crate) fn open(paths: &Paths) -> Option<OwnedFd> {
    match open_pinned(paths) {
        Ok(opened) => opened,
        Err(error) => {
            log::debug!("there is no empty mount namespace: {error}");
            None
        }
    }
}

/// Returns the reason why this host has no empty mount namespace. `None` if it has one, or none was needed yet.
pub(crate) fn refusal(paths: &Paths) -> Option<String> {
    let place = paths.empty_mounts();
    let is_pinned = rustix::fs::statfs(&place).is_ok_and(|stat| stat.f_type == NSFS);
    if is_pinned {
        return None;
    }
    std::fs::read_to_string(place).ok().filter(|reason| !["", PINNED, CONFINED].contains(&reason.as_str()))
}

fn open_pinned(paths: &Paths) -> Result<Option<OwnedFd>> {
    let place = paths.empty_mounts();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = || match rustix::fs::open(&place, flags, Mode::empty()) {
        Ok(file) => {
            let stat = rustix::fs::fstatfs(&file).context(|| "cannot look at it")?;
            Ok::<_, Error>(Some((file, stat.f_type == NSFS)))
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot open '{}'", place.display())),
    };
    match open()? {
        Some((namespace, true)) => return Ok(Some(namespace)),
        // The kernel has refused it, or a process of another mount namespace has pinned it.
        Some((file, false)) if rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size > 0) => {
            return Ok(None);
        }
        _ => {}
    }
    create(&place)?;
    Ok(open()?.filter(|(_, is_namespace)| *is_namespace).map(|(namespace, _)| namespace))
}

/// Creates and pins the namespace. Does nothing while another process does so.
fn create(place: &Path) -> Result<()> {
    let directory = place.parent().unwrap_or(Path::new("/"));
    let creating = || format!("cannot create '{}'", directory.display());
    std::fs::create_dir_all(directory.parent().unwrap_or(Path::new("/"))).context(creating)?;
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).context(creating);
        }
        _ => {}
    }
    let locked = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let locked = locked.context(creating)?;
    if rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    make_private_mount(directory)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(place, flags, Mode::from_raw_mode(0o600)).context(creating)?;
    let pinned = on_some_processor(|| new_namespace(directory).and_then(|namespace| pin(&namespace, place)));
    let note = pinned.as_ref().err().map_or_else(|| PINNED.to_owned(), ToString::to_string);
    std::fs::File::from(file).write_all(note.as_bytes()).context(creating)?;
    pinned
}

/// Calls a function, again on each processor of this process if it fails. The kernel does not pin a namespace with
/// a smaller id than that of the namespace of the mount, and each processor has a range of ids (Linux 6.18): on the
/// one that created the namespace of this host, which may be a container, the next id is larger.
fn on_some_processor(mut act: impl FnMut() -> Result<()>) -> Result<()> {
    let mut done = act();
    let Ok(allowed) = sched_getaffinity(None) else { return done };
    for number in (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number)) {
        let mut processor = CpuSet::new();
        processor.set(number);
        if done.is_ok() {
            break;
        }
        if sched_setaffinity(None, &processor).is_ok() {
            done = act();
        }
    }
    let _ = sched_setaffinity(None, &allowed);
    done
}

/// Mounts a directory over itself, unless it is a mount: a namespace can only be pinned in a mount that does
/// not propagate (mount_namespaces(7)).
fn make_private_mount(directory: &Path) -> Result<()> {
    let doing = || format!("cannot mount '{}' over itself", directory.display());
    let opened = mount::open_directory(directory)?;
    if !mount::is_root_of_mount(&opened).context(doing)? {
        let copy = mount::copy_tree(opened.as_fd(), Depth::One).context(doing)?;
        mount::separate(copy.as_fd(), None, MountAttributes::default()).context(doing)?;
        mount::attach(copy.as_fd(), opened.as_fd()).context(doing)?;
    }
    // A mount in a shared one, which those of a host with systemd are, becomes shared itself.
    mount::propagate(directory, libc::MS_PRIVATE).context(doing)
}

/// Creates an empty mount namespace, with the help of a directory to mount its file system at.
fn new_namespace(directory: &Path) -> Result<OwnedFd> {
    mount::in_new_namespace(|| {
        let attributes = MountAttributes::INERT.read_only();
        // The root directory is an inode too.
        let options = [("mode", "0555"), ("nr_inodes", "2"), ("size", "4k")];
        let tmpfs = mount::new_file_system("tmpfs", &options, attributes)?.mount;
        mount::attach(tmpfs.as_fd(), mount::open_directory(directory)?.as_fd())
            .context(|| "cannot attach an empty file system")?;
        // While there is a procfs.
        let namespace = mount::own_namespace()?;
        mount::pivot(tmpfs.as_fd()).context(|| "cannot change the root")?;
        let procfs = mount::new_file_system("proc", &[], MountAttributes::INERT);
        procfs.map_err(|_| Error::new(CONFINED))?;
        Ok(namespace)
    })
}

/// Binds a namespace to a file.
fn pin(namespace: &OwnedFd, place: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    rustix::mount::mount_bind(source, place)
        .context(|| format!("cannot pin the mount namespace at '{}'", place.display()))
}
