//! OverlayFS from detached mounts (kernel: Documentation/filesystems/overlayfs.rst). Its layers are not visible
//! in any mount namespace. Called by `image`.

use super::mount::{self, Depth, MountAttributes};
use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountFlags};
use std::ffi::CString;
use std::path::Path;

/// The directory of changed files in the writable layer, as in systemd.mstack(7).
pub(crate) const DATA: &str = "data";
/// The directory beside it that the kernel works in.
pub(crate) const WORK: &str = "work";

/// The layers of an overlay, as detached mounts.
#[derive(Debug)]
pub(crate) struct Overlay<'a> {
    /// The read-only layers, the uppermost first.
    pub(crate) lower: Vec<BorrowedFd<'a>>,
    /// The writable layer: a mount with the directories [`DATA`] and an empty [`WORK`].
    pub(crate) upper: Option<BorrowedFd<'a>>,
    /// Whether the writable layer need not survive a crash: it is never synced.
    pub(crate) is_volatile: bool,
}

/// Options of all overlays. `user.` attributes as marks allow guests to use the layers for overlays too, and
/// systemd to mount them; without an index a layer is not bound to one file system.
const OPTIONS: [(&str, &str); 3] = [("userxattr", ""), ("index", "off"), ("xino", "auto")];

/// An overlay.
#[derive(Debug)]
pub(crate) struct MountedOverlay {
    /// Its mount, detached.
    pub(crate) mount: OwnedFd,
    /// Another mount of the writable layer, if that of the caller is used up.
    pub(crate) upper: Option<OwnedFd>,
}

impl Overlay<'_> {
    /// Returns the overlay as a detached mount.
    ///
    /// # Errors
    /// The kernel refuses the layers, with its messages.
    pub(crate) fn mount(&self) -> Result<MountedOverlay> {
        let error = match self.mount_detached() {
            Ok(mount) => return Ok(MountedOverlay { mount, upper: None }),
            Err(error) => error,
        };
        // KERNEL(6.15): before, layers must be attached in the caller's mount namespace.
        prefer_first(self.mount_attached(), error)
    }

    /// Mounts from descriptors (`lowerdir+` by Linux 6.8, descriptors by 6.13, detached layers by 6.15).
    fn mount_detached(&self) -> Result<OwnedFd> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .context(|| "cannot open file system 'overlay'")?;
        let configure = || -> rustix::io::Result<OwnedFd> {
            use rustix::mount::{fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string};
            let context = context.as_fd();
            fsconfig_set_string(context, "source", "overlay")?;
            for layer in &self.lower {
                fsconfig_set_fd(context, "lowerdir+", *layer)?;
            }
            for (key, directory) in self.upper.iter().flat_map(|_| [("upperdir", DATA), ("workdir", WORK)]) {
                fsconfig_set_fd(context, key, self.directory(directory)?)?;
            }
            for (key, value) in self.options() {
                if value.is_empty() {
                    fsconfig_set_flag(context, key)?;
                } else {
                    fsconfig_set_string(context, key, value)?;
                }
            }
            fsconfig_create(context)?;
            rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes())
        };
        configure().map_err(|errno| {
            let error = Error::from(errno).context("cannot mount the layers as an overlay");
            match mount::kernel_messages(context.as_fd()) {
                Some(messages) => error.with_hint(format!("messages of the kernel: {messages}")),
                None => error,
            }
        })
    }

    fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let volatile = (self.is_volatile && self.upper.is_some()).then_some(("volatile", ""));
        let read_only = self.upper.is_none().then_some(("ro", ""));
        OPTIONS.into_iter().chain(volatile).chain(read_only)
    }

    fn attributes(&self) -> rustix::mount::MountAttrFlags {
        let mut flags = rustix::mount::MountAttrFlags::empty();
        flags.set(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY, self.upper.is_none());
        flags
    }

    /// Opens a directory of the writable layer. A link there could have been created by a guest.
    fn directory(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let upper = self.upper.ok_or(rustix::io::Errno::INVAL)?;
        rustix::fs::openat(upper, name, flags, Mode::empty())
    }

    /// Mounts from layers that are attached in a mount namespace of their own, by mount(2).
    fn mount_attached(&self) -> Result<MountedOverlay> {
        mount::in_new_namespace(|| self.mount_in_scratch())
    }

    /// Attaches the layers in a new tmpfs under short names: the options of mount(2) are one page.
    fn mount_in_scratch(&self) -> Result<MountedOverlay> {
        let root = mount::open_directory(Path::new("/"))?;
        let scratch = mount::new_file_system("tmpfs", &[("mode", "700")], MountAttributes::default())?.mount;
        mount::attach(scratch.as_fd(), root.as_fd()).context(|| "cannot attach a tmpfs")?;
        rustix::process::fchdir(&scratch).context(|| "cannot enter a tmpfs")?;
        let attach = |layer: BorrowedFd<'_>, name: &str| -> Result<()> {
            rustix::fs::mkdirat(&scratch, name, Mode::from_raw_mode(0o700))
                .context(|| "cannot create a mount point")?;
            mount::attach_at(layer, scratch.as_fd(), Path::new(name)).context(|| "cannot attach a layer")
        };
        let mut names = Vec::new();
        for (number, layer) in self.lower.iter().enumerate() {
            let name = format!("{number:x}");
            attach(*layer, &name)?;
            names.push(name);
        }
        let mut options = vec![format!("lowerdir={}", names.join(":"))];
        if let Some(upper) = self.upper {
            attach(upper, "u")?;
            options.push(format!("upperdir=u/{DATA},workdir=u/{WORK}"));
        }
        let is_of_mount = |key: &str| key == "ro";
        options.extend(
            self.options()
                .filter(|(key, _)| !is_of_mount(key))
                .map(|(key, value)| if value.is_empty() { key.to_owned() } else { format!("{key}={value}") }),
        );
        rustix::fs::mkdirat(&scratch, "m", Mode::from_raw_mode(0o700))
            .context(|| "cannot create a mount point")?;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.upper.is_none());
        let data = CString::new(options.join(","))
            .map_err(std::io::Error::from)
            .context(|| "invalid options of an overlay")?;
        rustix::mount::mount("overlay", "m", "overlay", flags, Some(data.as_c_str()))
            .context(|| "cannot mount the layers as an overlay")?;
        let copy = |name: &str| {
            mount::copy_tree_at(scratch.as_fd(), Path::new(name), Depth::One)
                .context(|| "cannot copy the overlay's mount")
        };
        Ok(MountedOverlay { mount: copy("m")?, upper: self.upper.map(|_| copy("u")).transpose()? })
    }
}

/// Returns the mount of the fallback, or the error of the first attempt, which has the kernel's messages.
fn prefer_first(mounted: Result<MountedOverlay>, first: Error) -> Result<MountedOverlay> {
    mounted.map_err(|error| if first.hint().is_some() { first } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Creates layers below a directory and returns their mounts: the uppermost first, the writable one last.
    fn layers(directory: &Path) -> Vec<OwnedFd> {
        for (file, text) in [("low/a", "low"), ("low/b", "low"), ("top/a", "top")] {
            fs::create_dir_all(directory.join(file).parent().unwrap()).unwrap();
            fs::write(directory.join(file), text).unwrap();
        }
        fs::create_dir_all(directory.join("rw/data")).unwrap();
        fs::create_dir_all(directory.join("rw/work")).unwrap();
        let copy = |name: &str| {
            let place = mount::open_directory(&directory.join(name)).unwrap();
            let tree = mount::copy_tree(place.as_fd(), Depth::One).unwrap();
            mount::propagate(tree.as_fd(), libc::MS_PRIVATE).unwrap();
            tree
        };
        ["top", "low", "rw"].map(copy).into()
    }

    fn read(mount: &OwnedFd, name: &str) -> Option<String> {
        let file = rustix::fs::openat(mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        std::io::read_to_string(fs::File::from(file)).ok()
    }

    #[test]
    fn layers_are_mounted_detached_and_attached() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        type Method = fn(&Overlay<'_>) -> Result<OwnedFd>;
        let methods: [Method; 2] =
            [|overlay| overlay.mount_detached(), |overlay| Ok(overlay.mount_attached()?.mount)];
        for method in methods {
            let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
            let mounts = layers(directory.path());
            let lower = || vec![mounts[0].as_fd(), mounts[1].as_fd()];
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let overlay = Overlay { lower: lower(), upper: Some(mounts[2].as_fd()), is_volatile: true };
            let mount = method(&overlay).unwrap();
            assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
            assert_eq!(
                (read(&mount, "a").unwrap(), read(&mount, "b").unwrap()),
                ("top".into(), "low".into())
            );
            rustix::fs::unlinkat(&mount, "b", rustix::fs::AtFlags::empty()).unwrap();
            rustix::fs::mkdirat(&mount, "new", Mode::from_raw_mode(0o755)).unwrap();
            assert_eq!(read(&mount, "b"), None);
            assert!(directory.path().join("rw/data/new").is_dir() && directory.path().join("low/b").exists());
        }
        for method in methods {
            let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
            let mounts = layers(directory.path());
            let overlay = Overlay {
                lower: vec![mounts[0].as_fd(), mounts[1].as_fd()],
                upper: None,
                is_volatile: false,
            };
            let mount = method(&overlay).unwrap();
            let refused = rustix::fs::unlinkat(&mount, "b", rustix::fs::AtFlags::empty());
            assert_eq!(refused, Err(rustix::io::Errno::ROFS));
        }
    }

    #[test]
    fn a_refused_layer_is_an_error_with_the_kernels_words() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let mounts = layers(directory.path());
        fs::remove_dir(directory.path().join("rw/work")).unwrap();
        std::os::unix::fs::symlink("/tmp", directory.path().join("rw/work")).unwrap();
        let overlay =
            Overlay { lower: vec![mounts[0].as_fd()], upper: Some(mounts[2].as_fd()), is_volatile: false };
        assert!(overlay.mount().is_err());
    }
}
