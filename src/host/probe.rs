//! Reads facts of the host and of a tree, before the host is changed. Programs of the tree are not executed,
//! and its symbolic links are followed inside of it only.

mod architecture;
mod mounts;
mod users;

use super::binfmt;
use crate::error::{Context, Error, Result};
use crate::machine::contract::Contract;
use crate::machine::id128::Id128;
use crate::machine::init::{Init, InitChoice};
use crate::machine::security::Security;
use crate::paths::MACHINE_ID;
use crate::plan::init::Successor;
use crate::plan::step::Device;
use crate::plan::{NamedDevice, init};
use crate::sys::guest_files::GuestRoot;
use crate::sys::pseudo_file;
use mounts::Mounted;
use rustix::fd::{AsRawFd, BorrowedFd};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The default path of an init, as for systemd-nspawn(1), `--boot`.
const SBIN_INIT: &str = "/sbin/init";
const INITS: [&str; 3] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd", SBIN_INIT];

/// The greatest number of nested scripts followed to an init.
const SCRIPTS: u32 = 2;
/// The greatest number of programs inspected that a script may execute.
const SUCCESSORS: usize = 4;

/// The greatest size of a file read from a tree.
const LIMIT: u64 = 16 << 20;
/// The part of a program that names its architecture or interpreter: the kernel reads no more than 256 bytes
/// (`BINPRM_BUF_SIZE` of `linux/binfmts.h`).
const HEAD: u64 = 256;

/// A tree's root, held open.
#[derive(Debug)]
pub struct Tree {
    root: GuestRoot,
    /// The mounts of the definition, last one first.
    mounted: Vec<Mounted>,
    /// The name of the tree in messages.
    name: String,
    /// The error of a file that exists and could not be read because the host lacks a resource.
    lacking: Cell<Option<i32>>,
}

impl Tree {
    /// Opens a directory as a root.
    ///
    /// # Errors
    /// The path is missing or is not a directory.
    pub fn open(path: &Path) -> Result<Self> {
        let root = GuestRoot::of_tree(path).map_err(|error| {
            error.with_hint("make a root file system there first, for instance with mmdebstrap(1), or correct root.directory")
        })?;
        Ok(Self {
            root,
            mounted: Vec::new(),
            lacking: Cell::new(None),
            name: format!("'{}'", path.display()),
        })
    }

    /// Returns the tree of a root that is mounted already, detached: its mount, its name in messages, and
    /// further mounts in it with their mount points.
    ///
    /// # Errors
    /// No free descriptors.
    pub(crate) fn of_mounts<'m>(
        root: BorrowedFd<'_>,
        path: &Path,
        further: impl Iterator<Item = (&'m Path, BorrowedFd<'m>)>,
    ) -> Result<Self> {
        let root = GuestRoot::of_mount(root)?;
        let mut tree = Self {
            root,
            mounted: Vec::new(),
            lacking: Cell::new(None),
            name: format!("'{}'", path.display()),
        };
        for (target, mount) in further {
            tree.add_mount(target, GuestRoot::of_mount(mount)?);
        }
        Ok(tree)
    }

    /// Opens the tree of a running machine, for a child inside it.
    ///
    /// # Errors
    /// Any error of openat(2).
    pub(crate) fn of_machine(name: &str) -> Result<Self> {
        Ok(Self {
            root: GuestRoot::of_caller()?,
            mounted: Vec::new(),
            lacking: Cell::new(None),
            name: format!("machine '{name}'"),
        })
    }

    /// Returns whether the tree has a file at a path; symbolic links are followed inside.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let path = self.resolve(path);
        self.nearest(&path).is_some_and(|(root, inside)| root.find(&inside).is_ok())
    }

    /// Returns the path on the host of a directory; links are followed inside.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn directory(&self, path: &Path) -> Result<PathBuf> {
        let doing = || format!("cannot find the root '{}' in {}", path.display(), self.name);
        let found = self.root.open_directory(path).context(doing)?;
        std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).context(doing)
    }

    /// Returns owner and group of the file at a path; a symbolic link at its end is not followed.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn owner(&self, path: &Path) -> Result<(u32, u32)> {
        let place = self.root.find_link(path);
        let place = place.context(|| format!("cannot look at '{}'", path.display()))?;
        let stat = rustix::fs::fstat(&place).context(|| format!("cannot look at '{}'", path.display()))?;
        Ok((stat.st_uid, stat.st_gid))
    }

    /// Reads a regular file of the tree. `None` if there is no such file. Never opens a fifo or device.
    pub(crate) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.read_start(path, LIMIT)
    }

    /// Reads the first `limit` bytes of a regular file of the tree. `None` if there is no such file.
    fn read_start(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        let resolved = self.resolve(path);
        let (root, inside) = self.nearest(&resolved)?;
        match root.read(&inside, limit) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) {
                    self.lacking.set(error.raw_os_error());
                }
                if error.kind() == std::io::ErrorKind::WouldBlock {
                    log::warn!(
                        "cannot read '{}' of {}: a process holds a lease on it, ignoring",
                        path.display(),
                        self.name
                    );
                }
                None
            }
        }
    }

    /// Returns an error if a file counted as missing because it could not be read.
    ///
    /// # Errors
    /// The host lacks descriptors or memory.
    pub(crate) fn check_reads(&self) -> Result<()> {
        match self.lacking.get() {
            None => Ok(()),
            Some(number) => Err(std::io::Error::from_raw_os_error(number))
                .context(|| format!("cannot read the files of {}", self.name)),
        }
    }

    /// Reads a regular file as text.
    pub fn read_text(&self, path: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read(Path::new(path))?).into_owned())
    }

    /// Checks that the tree is a root file system.
    ///
    /// # Errors
    /// A directory without `/usr`, or without os-release(5) if it is booted. For systemd-nspawn(1), programs in
    /// another directory do not replace `/usr`.
    pub fn check_is_root(&self, contract: Contract, booting: bool) -> Result<()> {
        let exists = |path: &str| self.has_link(Path::new(path));
        let wrong = |what: &str| {
            Err(Error::new(format!("{} is not a root file system: {what}", self.name))
                .with_hint("name the directory that holds /usr and /etc of the guest"))
        };
        let any: &[&str] =
            if contract == Contract::Nspawn { &["/usr"] } else { &["/usr", "/bin", SBIN_INIT] };
        if !any.iter().any(|path| exists(path)) {
            return wrong("it has no /usr");
        }
        if booting && !exists("/usr/lib/os-release") && !exists("/etc/os-release") {
            return wrong("it has neither /etc/os-release nor /usr/lib/os-release");
        }
        Ok(())
    }

    /// Returns the init executed at boot, and its kind.
    ///
    /// # Errors
    /// There is no init, or it is for another architecture.
    pub fn find_init(&self, choice: &InitChoice) -> Result<(PathBuf, Init)> {
        let candidates: Vec<PathBuf> = match choice {
            InitChoice::Path(path) => vec![path.clone()],
            // The package of systemd may be installed for its tools, with another init in use.
            InitChoice::Auto if self.has_other_init() => vec![SBIN_INIT.into()],
            InitChoice::Kind(Init::Systemd) | InitChoice::Auto => INITS.iter().map(PathBuf::from).collect(),
            InitChoice::Kind(_) => vec![SBIN_INIT.into()],
        };
        let Some((path, start)) =
            candidates.iter().find_map(|path| Some((path.clone(), self.read_start(path, HEAD)?)))
        else {
            self.check_reads()?;
            let names: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            return Err(Error::new(format!(
                "there is no init in {}: looked for {}",
                self.name,
                names.join(", ")
            ))
            .with_hint("install an init system in the tree, or name a program with boot.init"));
        };
        let built_for = init::architecture(&start);
        built_for
            .and_then(|built_for| match built_for.check(std::env::consts::ARCH) {
                Err(error) if !binfmt::takes(&start) => Err(error),
                _ => Ok(()),
            })
            .map_err(|error| error.context(format!("cannot run '{}' of {}", path.display(), self.name)))?;
        let kind = match choice {
            InitChoice::Kind(kind) => *kind,
            _ => self.recognise(&path, SCRIPTS),
        };
        Ok((path, kind))
    }

    /// Returns whether `/sbin/init` is a known init other than systemd.
    fn has_other_init(&self) -> bool {
        let path = Path::new(SBIN_INIT);
        let exists = self.read_start(path, HEAD).is_some();
        exists && !matches!(self.recognise(path, SCRIPTS), Init::Systemd | Init::Unknown)
    }

    /// Recognises an init by its names, and reads it if they do not suffice; a script by the programs that it
    /// executes, up to the given number of nested scripts.
    fn recognise(&self, path: &Path, scripts: u32) -> Init {
        if let Some(named) = init::recognise_names(&self.links(path)) {
            return named;
        }
        let binary = self.read(path).unwrap_or_default();
        let found = init::recognise_content(&binary);
        if found != Init::Unknown || scripts == 0 {
            return found;
        }
        let kind = |next: Successor| match self.recognise(&next.program, scripts - 1) {
            Init::Unknown => None,
            // For example a shell.
            Init::Busybox if !next.is_init_applet() => None,
            kind => Some(kind),
        };
        init::successors(&binary).into_iter().take(SUCCESSORS).find_map(kind).unwrap_or(Init::Unknown)
    }

    /// Returns whether an init of unknown kind may execute another one in its place.
    pub(crate) fn may_have_successor(&self, path: &Path) -> bool {
        self.read(path).is_some_and(|binary| init::may_have_successor(&binary))
    }

    /// Returns the names of a path, symbolic link after link, the file itself last.
    fn links(&self, path: &Path) -> Vec<PathBuf> {
        let mut names = vec![path.to_owned()];
        let mut at = path.to_owned();
        for _ in 0..16 {
            let place = self.place(&at);
            let Some(target) = self.link(&place) else { break };
            at = match place.parent() {
                Some(parent) if target.is_relative() => parent.join(target),
                _ => target,
            };
            names.push(at.clone());
        }
        names
    }

    /// Returns the machine id of the tree (machine-id(5)). `None` if it has none.
    pub fn machine_id(&self) -> Option<Id128> {
        parse_id(&self.read_text(MACHINE_ID)?)
    }
}

/// Parses the text of machine-id(5). `None` if it is invalid or all zero.
fn parse_id(text: &str) -> Option<Id128> {
    text.trim().parse().ok().filter(|id: &Id128| !id.is_null())
}

/// Returns the host's machine id; all zero if it has none. It is read once.
pub(crate) fn host_id() -> Id128 {
    static ID: OnceLock<Id128> = OnceLock::new();
    *ID.get_or_init(|| {
        let text = pseudo_file::read(MACHINE_ID).unwrap_or_default();
        parse_id(&text).unwrap_or_default()
    })
}

/// Returns the text of the host's os-release(5).
pub(crate) fn host_os_release() -> String {
    ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| pseudo_file::read(path).ok())
        .unwrap_or_default()
}

/// Attributes of this process that a child inherits (proc_pid_status(5)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnStatus {
    /// The capability bounding set, a bit mask.
    pub(crate) bounding: u64,
    /// The ignored signals: bit 0 is signal 1.
    pub(crate) ignored_signals: u64,
    /// Whether all its ids are 0, and all its permitted capabilities are effective.
    pub(crate) is_root: bool,
}

impl OwnStatus {
    /// Reads them. Without procfs, no capability is known and all signals count as ignored.
    pub(crate) fn read() -> Self {
        let status = pseudo_file::read("/proc/self/status").unwrap_or_default();
        Self::parse(&status)
    }

    fn parse(status: &str) -> Self {
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let mask = |key: &str| u64::from_str_radix(value(key)?, 16).ok();
        let are_zero =
            |key: &str| value(key).is_some_and(|ids| ids.split_ascii_whitespace().all(|id| id == "0"));
        let (permitted, effective) = (mask("CapPrm:"), mask("CapEff:"));
        Self {
            bounding: mask("CapBnd:").unwrap_or(0),
            ignored_signals: mask("SigIgn:").unwrap_or(u64::MAX),
            is_root: are_zero("Uid:") && are_zero("Gid:") && permitted.is_some() && permitted == effective,
        }
    }
}

/// Returns a new random id (getrandom(2), which gives 16 bytes at once).
pub(crate) fn random_id() -> Id128 {
    let mut bytes = [0u8; 16];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    Id128::of_random(bytes)
}

/// Returns the devices named by a definition, without those that all machines have.
///
/// # Errors
/// A device is missing, or the file is not a device.
pub(crate) fn named_devices(security: &Security) -> Result<Vec<NamedDevice>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let named = security.devices.iter().filter(|path| !security.optional_devices.contains(path));
    let look = |path: &PathBuf| {
        let data = std::fs::metadata(path).context(|| format!("cannot find device '{}'", path.display()))?;
        let kind = data.file_type();
        if !kind.is_char_device() && !kind.is_block_device() {
            return Err(Error::new(format!("'{}' is not a device", path.display()))
                .with_hint("security.devices names device nodes of the host"));
        }
        let (major, minor) = (rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()));
        let device = Device { block: kind.is_block_device(), major, minor };
        Ok(NamedDevice { path: path.clone(), device, mode: data.mode() & 0o777 })
    };
    named.map(look).collect()
}

/// Returns the default device nodes of machines that exist on the host.
pub(crate) fn devices() -> Vec<String> {
    ["net/tun", "fuse"]
        .iter()
        .filter(|name| Path::new("/dev").join(name).exists())
        .map(|name| (*name).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_its_ids_and_all_its_capabilities() {
        let is_root = |status: &str| OwnStatus::parse(status).is_root;
        let capabilities = "CapPrm:\t00000000000000ff\nCapEff:\t00000000000000ff\n";
        assert!(is_root(&format!("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n{capabilities}")));
        assert!(!is_root(&format!("Uid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\n{capabilities}")));
        assert!(!is_root(&format!("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t10\t0\n{capabilities}")));
        let fewer = "CapPrm:\t00000000000000ff\nCapEff:\t000000000000000f\n";
        assert!(!is_root(&format!("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n{fewer}")));
        assert!(!is_root(""));
    }

    /// Creates a tree with these programs, each a text.
    fn tree(name: &str, programs: &[(&str, &str)]) -> (PathBuf, Tree) {
        let root = std::env::temp_dir().join(format!("coracle-probe-{}-{name}", std::process::id()));
        for (path, text) in programs {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let opened = Tree::open(&root).unwrap();
        (root, opened)
    }

    #[test]
    fn another_known_init_is_preferred_to_an_installed_systemd() {
        let systemd = ("usr/lib/systemd/systemd", "#!libsystemd-core-257.so");
        for (name, own, expected) in [
            ("sysvinit", "#!INIT_VERSION=sysvinit-3.14", (SBIN_INIT, Init::SysVinit)),
            ("systemd", "#!libsystemd-core-257.so", (INITS[0], Init::Systemd)),
            ("script", "#!/bin/sh\nexec /usr/lib/systemd/systemd\n", (INITS[0], Init::Systemd)),
            ("other", "#!/bin/sh\nexec /sbin/real\n", (SBIN_INIT, Init::SysVinit)),
        ] {
            let real = ("sbin/real", "#!INIT_VERSION=sysvinit-3.14");
            let (root, tree) = tree(name, &[("sbin/init", own), real, systemd]);
            let found = tree.find_init(&InitChoice::Auto).unwrap();
            assert_eq!(found, (PathBuf::from(expected.0), expected.1), "{name}");
            let chosen = tree.find_init(&InitChoice::Kind(Init::Systemd)).unwrap();
            assert_eq!(chosen.0, Path::new(INITS[0]), "{name}");
            std::fs::remove_dir_all(root).unwrap();
        }
    }
}
