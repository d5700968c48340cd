//! OverlayFS from detached mounts (kernel: Documentation/filesystems/overlayfs.rst). Its layers are not
//! visible in any mount namespace. Called by `image` and `payload`.

use super::mount::{self, Depth, MountAttributes};
use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountFlags};
use std::ffi::{CString, OsStr};
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
    /// The writable layer.
    pub(crate) upper: Option<Upper<'a>>,
    /// Whether the writable layer need not survive a crash: it is never synced.
    pub(crate) is_volatile: bool,
    /// The attributes of files that mark changes.
    pub(crate) marks: Marks,
}

/// The writable layer of an overlay: a mount, the directory of changed files in it, and that of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upper<'a> {
    /// The mount.
    pub(crate) mount: BorrowedFd<'a>,
    /// The directory of changed files.
    pub(crate) data: &'a OsStr,
    /// The directory beside it that the kernel works in.
    pub(crate) work: &'a OsStr,
}

impl<'a> Upper<'a> {
    /// Returns a layer with the directories of systemd.mstack(7).
    pub(crate) fn of_stack(mount: BorrowedFd<'a>) -> Self {
        Self { mount, data: OsStr::new(DATA), work: OsStr::new(WORK) }
    }

    /// Opens one of its directories. A link there could have been created by a guest.
    fn directory(&self, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.mount, name, flags, Mode::empty())
    }
}

/// The attributes of files that mark changes in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// `user.` attributes: guests can use the layers for overlays too, and systemd mounts them.
    User,
    /// `trusted.` attributes, the default of the kernel and of systemd-nspawn(1).
    Trusted,
}

/// Options of all overlays. Without an index a layer is not bound to one file system.
const OPTIONS: [(&str, &str); 2] = [("index", "off"), ("xino", "auto")];

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
            if let Some(upper) = self.upper {
                fsconfig_set_fd(context, "upperdir", upper.directory(upper.data)?)?;
                fsconfig_set_fd(context, "workdir", upper.directory(upper.work)?)?;
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
        let marks = (self.marks == Marks::User).then_some(("userxattr", ""));
        OPTIONS.into_iter().chain(marks).chain(volatile).chain(read_only)
    }

    fn attributes(&self) -> rustix::mount::MountAttrFlags {
        let mut flags = rustix::mount::MountAttrFlags::empty();
        flags.set(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY, self.upper.is_none());
        flags
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
            attach(upper.mount, "u")?;
            let quoted = |name: &OsStr| name.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,");
            options.push(format!("upperdir=u/{},workdir=u/{}", quoted(upper.data), quoted(upper.work)));
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
            mount::separate(tree.as_fd(), None, MountAttributes::default()).unwrap();
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
            let overlay = Overlay {
                lower: lower(),
                upper: Some(Upper::of_stack(mounts[2].as_fd())),
                is_volatile: true,
                marks: Marks::User,
            };
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
                marks: Marks::User,
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
        let overlay = Overlay {
            lower: vec![mounts[0].as_fd()],
            upper: Some(Upper::of_stack(mounts[2].as_fd())),
            is_volatile: false,
            marks: Marks::User,
        };
        assert!(overlay.mount().is_err());
    }
}
