//! `provision`, and the same for new images and `run`: the first settings in a tree that no machine runs on: host name,
//! locale, time zone and the password of root by systemd-firstboot(1) of the host, and keys for ssh(1). Called by `cli`
//! and `run`. Files of the tree are found inside it: its links do not lead to files of the host.

use super::{defined, remove, running};
use crate::error::{Context, Error, Result};
use crate::image::locks::{self, HeldLocks};
use crate::image::stack_root::StackRoot;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::sys::guest_files::GuestRoot;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program that writes the settings.
const PROGRAM: &str = "systemd-firstboot";
/// The files of settings, in `/etc`.
const SETTINGS: [&str; 3] = [HOSTNAME, LOCALE, TIMEZONE];
const HOSTNAME: &str = "hostname";
const LOCALE: &str = "locale.conf";
const TIMEZONE: &str = "localtime";
/// The directory of the keys of root inside.
const SSH: &str = "/root/.ssh";
/// The file of keys in it.
const KEYS: &str = "authorized_keys";
/// The greatest size of a file with keys, bytes.
const KEYS_MAX: u64 = 1 << 20;

/// The first settings of a tree. `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProvisionSettings<'a> {
    /// The host name.
    pub(crate) hostname: Option<&'a str>,
    /// The locale, for example `de_DE.UTF-8`.
    pub(crate) locale: Option<&'a str>,
    /// The time zone, for example `Europe/Berlin`.
    pub(crate) timezone: Option<&'a str>,
    /// A file with the password of root.
    pub(crate) root_password: Option<&'a Path>,
    /// Files with public keys, which are added to those of root.
    pub(crate) ssh_keys: &'a [String],
}

impl ProvisionSettings<'_> {
    /// Returns whether no setting is given.
    pub(crate) fn is_empty(&self) -> bool {
        let texts = [self.hostname, self.locale, self.timezone];
        texts.iter().all(Option::is_none) && self.root_password.is_none() && self.ssh_keys.is_empty()
    }

    /// Checks the files and the time zone, before anything is changed. Returns the keys.
    ///
    /// # Errors
    /// A file that cannot be read, one without public keys, or a time zone that the host does not have.
    pub(crate) fn check(&self) -> Result<String> {
        if let Some(file) = self.root_password {
            File::open(file).context(|| format!("cannot read '{}'", file.display()))?;
        }
        check_timezone(self.timezone)?;
        let keys = self.ssh_keys.iter().map(|file| public_keys(Path::new(file)));
        Ok(keys.collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Writes the settings into the tree of a stopped machine.
///
/// # Errors
/// A running machine, a root that is neither a tree nor a stack, a setting that systemd-firstboot refuses, or a file
/// without public keys.
pub(crate) fn provision(paths: &Paths, name: &Name, settings: &ProvisionSettings<'_>) -> Result<()> {
    settings.check()?;
    let machine = defined(paths, name)?;
    if running(paths, name).is_ok() {
        return Err(Error::new(format!("machine '{name}' is running"))
            .with_hint(format!("stop it first: coracle stop {name}")));
    }
    provision_machine(paths, &machine, settings)
}

/// Writes the settings into a new image, which is removed after an error.
///
/// # Errors
/// As of [`provision`].
pub(crate) fn provision_new(paths: &Paths, name: &Name, settings: &ProvisionSettings<'_>) -> Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    provision(paths, name, settings).inspect_err(|_| {
        let removed = remove::remove(paths, std::slice::from_ref(name), remove::Purge::No, |_, _| {});
        removed.unwrap_or_else(|errors| errors.iter().for_each(|error| log::warn!("{error}, ignoring")));
    })
}

/// Writes the settings into the root of a machine that is not running.
///
/// # Errors
/// As of [`provision`].
pub(crate) fn provision_machine(
    paths: &Paths,
    machine: &Machine,
    settings: &ProvisionSettings<'_>,
) -> Result<()> {
    let keys = settings.check()?;
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_root(paths, machine)?)?;
    let tree = Tree::open(machine)?;
    let written = tree.write(&machine.name, settings, &keys);
    written.and(tree.close())
}

/// A root to be changed.
enum Tree<'a> {
    /// A directory.
    Directory(&'a Path),
    /// A mounted stack.
    Stack(StackRoot),
}

impl<'a> Tree<'a> {
    fn open(machine: &'a Machine) -> Result<Self> {
        let name = &machine.name;
        let other = "use credentials instead, for example passwd.hashed-password.root and \
                     ssh.authorized_keys.root, see [credentials] in coracle.toml(5)";
        let tree = match (&machine.root.source, machine.root.plain_directory()) {
            (_, Some(directory)) => Self::Directory(directory),
            (RootSource::Stack(stack), None) if !machine.root.is_throwaway() => {
                Self::Stack(StackRoot::mount_writable(stack)?)
            }
            _ => {
                return Err(Error::new(format!(
                    "the root of machine '{name}' is neither a tree nor a stack"
                ))
                .with_hint(other));
            }
        };
        let owner = match &tree {
            Self::Directory(directory) => {
                directory.metadata().context(|| format!("cannot read '{}'", directory.display()))?.uid()
            }
            Self::Stack(stack) => {
                rustix::fs::fstat(stack).context(|| "cannot read a stack".to_owned())?.st_uid
            }
        };
        if owner != 0 {
            return Err(Error::new(format!("the files of machine '{name}' belong to its range of ids"))
                .with_hint(other));
        }
        Ok(tree)
    }

    fn files(&self) -> Result<GuestRoot> {
        match self {
            Self::Directory(directory) => GuestRoot::of_tree(directory),
            Self::Stack(stack) => stack.files(),
        }
    }

    fn write(&self, name: &Name, settings: &ProvisionSettings<'_>, keys: &str) -> Result<()> {
        self.first_boot(settings)?;
        if keys.is_empty() { Ok(()) } else { add_keys(&self.files()?, name, keys) }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Stack(stack) => stack.unmount(),
        }
    }

    /// Runs systemd-firstboot(1), which leaves existing files alone: those of the given settings are put aside.
    /// For the password it replaces the line of root; its option for that would lock root without a password.
    fn first_boot(&self, settings: &ProvisionSettings<'_>) -> Result<()> {
        let all = [
            ("hostname", HOSTNAME, settings.hostname),
            ("locale", LOCALE, settings.locale),
            ("timezone", TIMEZONE, settings.timezone),
        ];
        let given = all.iter().filter_map(|(option, file, value)| Some((option, file, (*value)?)));
        let options: Vec<String> =
            given.clone().map(|(option, _, value)| format!("--{option}={value}")).collect();
        let files: Vec<&str> = given.map(|(_, file, _)| *file).collect();
        let aside = Aside::put(&self.files()?, &files)?;
        let written = if options.is_empty() { Ok(()) } else { self.run(&options) };
        let written = written.and_then(|()| match settings.root_password {
            Some(file) => {
                self.run(&["--force".to_owned(), format!("--root-password-file={}", file.display())])
            }
            None => Ok(()),
        });
        aside.end(written)
    }

    /// Runs systemd-firstboot(1). A stack has no path, but a descriptor, which the program inherits.
    fn run(&self, options: &[String]) -> Result<()> {
        let inherited = match self {
            Self::Directory(_) => None,
            Self::Stack(stack) => {
                let passing = || format!("cannot pass a mount to '{PROGRAM}'");
                let root = rustix::io::fcntl_dupfd_cloexec(stack.as_fd(), 3).context(passing)?;
                rustix::io::fcntl_setfd(&root, FdFlags::empty()).context(passing)?;
                Some(root)
            }
        };
        let root = match (self, &inherited) {
            (_, Some(root)) => PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())),
            (Self::Directory(directory), _) => directory.to_path_buf(),
            (Self::Stack(_), None) => return Err(Error::new("a stack is not mounted")),
        };
        let mut command = Command::new(PROGRAM);
        command.arg(format!("--root={}", root.display())).args(options);
        let output = command
            .stdin(Stdio::null())
            .output()
            .context(|| format!("cannot run '{PROGRAM}'"))
            .map_err(|error| error.with_hint("install systemd-firstboot (package systemd)"))?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        let line = message.lines().last().unwrap_or("no message");
        Err(Error::new(format!("{PROGRAM}: {}", super::printable(line).trim_end_matches('.'))))
    }
}

/// Reads a file with public keys.
fn public_keys(file: &Path) -> Result<String> {
    let reading = || format!("cannot read '{}'", file.display());
    let text = std::fs::read_to_string(file).context(reading)?;
    let mut keys =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    let is_key = |line: &str| line.split_whitespace().nth(1).is_some() && !line.starts_with("-----");
    if keys.peek().is_none() || !keys.all(is_key) {
        return Err(Error::new(format!("'{}' does not contain public keys", file.display()))
            .with_hint("name a file such as ~/.ssh/id_ed25519.pub"));
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// The former files of settings, under hidden names until the new ones are complete.
struct Aside {
    etc: OwnedFd,
    files: Vec<String>,
}

impl Aside {
    fn put(root: &GuestRoot, files: &[&str]) -> Result<Self> {
        let etc =
            root.open_directory(Path::new("/etc")).context(|| "cannot open '/etc' of the tree".to_owned())?;
        SETTINGS.iter().try_for_each(|file| recover(&etc, file))?;
        let mut aside = Self { etc, files: Vec::new() };
        for file in files {
            match rustix::fs::renameat(&aside.etc, *file, &aside.etc, hidden(file)) {
                Ok(()) => aside.files.push((*file).to_owned()),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    let error = Error::from(errno).context(format!("cannot replace '/etc/{file}'"));
                    aside.end(Err(error.clone()))?;
                    return Err(error);
                }
            }
        }
        Ok(aside)
    }

    /// Deletes the former files, or restores them after an error.
    fn end(self, result: Result<()>) -> Result<()> {
        for file in &self.files {
            let done = match result {
                Ok(()) => delete(&self.etc, file),
                Err(_) => rustix::fs::renameat(&self.etc, hidden(file), &self.etc, file.as_str()),
            };
            done.unwrap_or_else(|error| {
                log::warn!("cannot restore or delete '/etc/{file}': {error}, ignoring")
            });
        }
        result
    }
}

/// Ends what a killed process has begun: a former file without a new one is restored, else it is deleted.
fn recover(etc: &OwnedFd, file: &str) -> Result<()> {
    let recovered = match rustix::fs::statat(etc, file, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(etc, hidden(file), etc, file),
        _ => delete(etc, file),
    };
    match recovered {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => {
            let error = Error::from(errno).context(format!("cannot delete '/etc/{}'", hidden(file)));
            Err(error.with_hint("delete it in the tree of the machine"))
        }
    }
}

/// Deletes a former file, or an empty directory in its place.
fn delete(etc: &OwnedFd, file: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(etc, hidden(file), AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(etc, hidden(file), AtFlags::REMOVEDIR),
        deleted => deleted,
    }
}

/// Returns the hidden name of a file.
fn hidden(file: &str) -> String {
    format!(".{file}.coracle")
}

/// Refuses a time zone that the host does not know, before a file is removed.
fn check_timezone(zone: Option<&str>) -> Result<()> {
    match zone.filter(|zone| !Path::new("/usr/share/zoneinfo").join(zone).is_file()) {
        Some(zone) => Err(Error::new(format!("the host has no time zone '{zone}'"))
            .with_hint("list them with 'timedatectl list-timezones'")),
        None => Ok(()),
    }
}

/// Adds keys to those of root, in a new file that replaces the old one.
fn add_keys(root: &GuestRoot, name: &Name, keys: &str) -> Result<()> {
    let writing = || format!("cannot write '{SSH}/{KEYS}' of machine '{name}'");
    let above = root.open_directory(Path::new("/root")).context(writing)?;
    match rustix::fs::mkdirat(&above, ".ssh", Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).context(writing),
    }
    let ssh = root.open_directory(Path::new(SSH)).context(writing)?;
    // One byte more than the greatest size: a larger file must not be cut.
    let old = match root.read(&Path::new(SSH).join(KEYS), KEYS_MAX + 1) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        old => old.context(|| format!("cannot read '{SSH}/{KEYS}' of machine '{name}'"))?,
    };
    if old.len() as u64 > KEYS_MAX {
        return Err(Error::new(format!("'{SSH}/{KEYS}' of machine '{name}' is larger than 1 MiB")));
    }
    let draft = hidden(KEYS);
    match rustix::fs::unlinkat(&ssh, &draft, AtFlags::empty()) {
        // Of a killed process.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).context(writing),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&ssh, &draft, flags, Mode::RUSR | Mode::WUSR).context(writing)?;
    let mut file = File::from(file);
    file.write_all(&with_keys(&old, keys)).and_then(|()| file.sync_data()).context(writing)?;
    rustix::fs::renameat(&ssh, &draft, &ssh, KEYS).context(writing)
}

/// Returns a file of keys with further ones, each on a line of its own.
fn with_keys(old: &[u8], keys: &str) -> Vec<u8> {
    let is_known = |key: &str| old.split(|byte| *byte == b'\n').any(|known| known == key.as_bytes());
    let mut text = old.to_owned();
    for key in keys.lines().filter(|key| !is_known(key)) {
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(key.as_bytes());
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines_of_their_own() {
        for (old, expected) in [("", "a\nb\n"), ("x\n", "x\na\nb\n"), ("x", "x\na\nb\n"), ("a", "a\nb\n")] {
            assert_eq!(with_keys(old.as_bytes(), "a\nb\n"), expected.as_bytes(), "{old:?}");
        }
        assert_eq!(with_keys(b"b\na", "a\n"), b"b\na");
        assert_eq!(with_keys(b"\xff", "a\n"), b"\xff\na\n", "other text stays");
    }

    #[test]
    fn settings_put_aside_by_a_killed_process_come_back() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let tree = GuestRoot::of_tree(root.path()).unwrap();
        let read = |file: &str| std::fs::read_to_string(etc.join(file)).ok();
        std::fs::write(etc.join("hostname"), "old").unwrap();
        let _killed = Aside::put(&tree, &["hostname"]).unwrap();
        assert_eq!((read("hostname"), read(".hostname.coracle").as_deref()), (None, Some("old")));
        let aside = Aside::put(&tree, &["localtime"]).unwrap();
        assert_eq!((read("hostname").as_deref(), read(".hostname.coracle")), (Some("old"), None));
        aside.end(Ok(())).unwrap();
        // Killed after the new file was written: the former one is not wanted any more.
        let _killed = Aside::put(&tree, &["hostname"]).unwrap();
        std::fs::write(etc.join("hostname"), "new").unwrap();
        let aside = Aside::put(&tree, &["hostname"]).unwrap();
        assert_eq!(read(".hostname.coracle").as_deref(), Some("new"));
        assert!(aside.end(Err(Error::new("x"))).is_err());
        assert_eq!((read("hostname").as_deref(), read(".hostname.coracle")), (Some("new"), None));
        // An empty directory of the guest in the place of a hidden file does not count, a full one is named.
        let hidden = etc.join(".hostname.coracle");
        std::fs::create_dir(&hidden).unwrap();
        Aside::put(&tree, &[]).unwrap();
        assert!(!hidden.exists());
        std::fs::create_dir_all(hidden.join("x")).unwrap();
        let error = Aside::put(&tree, &[]).err().unwrap();
        assert!(error.to_string().contains("/etc/.hostname.coracle"), "{error}");
    }

    #[test]
    fn keys_replace_those_of_a_killed_process() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("root")).unwrap();
        let tree = GuestRoot::of_tree(root.path()).unwrap();
        let name = Name::new("web").unwrap();
        add_keys(&tree, &name, "a\n").unwrap();
        std::fs::write(root.path().join("root/.ssh/.authorized_keys.coracle"), "x").unwrap();
        add_keys(&tree, &name, "b\n").unwrap();
        let keys = std::fs::read_to_string(root.path().join("root/.ssh/authorized_keys")).unwrap();
        assert_eq!(keys, "a\nb\n");
        assert_eq!(std::fs::read_dir(root.path().join("root/.ssh")).unwrap().count(), 1);
    }

    #[test]
    fn private_keys_and_other_files_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            public_keys(file.path())
        };
        assert_eq!(read("# mine\nssh-ed25519 AAAA joe@x\n\n").unwrap(), "# mine\nssh-ed25519 AAAA joe@x\n");
        for bad in ["", "# none\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc def\n", "word\n"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
