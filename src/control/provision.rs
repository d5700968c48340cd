//! `provision`: the first settings in the tree of a stopped machine: host name, locale, time zone and the
//! password of root by systemd-firstboot(1) of the host, and keys for ssh(1). Called by `cli`. Files of the tree
//! are found inside it: its links do not lead to files of the host.

use super::copy::{self, CopyOwners, CopyRequest, LinkMode, Replace};
use super::progress::Progress;
use super::{defined, running};
use crate::error::{Context, Error, Result};
use crate::image::locks::{self, HeldLocks};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::guest_files::GuestRoot;
use rustix::fd::OwnedFd;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program that writes the settings.
const PROGRAM: &str = "systemd-firstboot";
/// The files of settings, in `/etc`.
const SETTINGS: [&str; 3] = [HOSTNAME, LOCALE, TIMEZONE];
const HOSTNAME: &str = "hostname";
const LOCALE: &str = "locale.conf";
const TIMEZONE: &str = "localtime";
/// The keys of root inside.
const KEYS: &str = "/root/.ssh/authorized_keys";
/// The greatest size of a file with keys, bytes.
const KEYS_MAX: u64 = 1 << 20;

/// The settings of a tree. `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProvisionRequest<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// The host name.
    pub(crate) hostname: Option<&'a str>,
    /// The locale, for example `de_DE.UTF-8`.
    pub(crate) locale: Option<&'a str>,
    /// The time zone, for example `Europe/Berlin`.
    pub(crate) timezone: Option<&'a str>,
    /// A file with the password of root.
    pub(crate) root_password: Option<&'a Path>,
    /// Files with public keys, which are added to those of root.
    pub(crate) ssh_keys: &'a [PathBuf],
}

/// Writes the settings.
///
/// # Errors
/// A running machine, a root that is not a tree, a setting that systemd-firstboot refuses, or a file without
/// public keys.
pub(crate) fn provision(paths: &Paths, request: &ProvisionRequest<'_>) -> Result<()> {
    let name = request.name;
    let keys = request.ssh_keys.iter().map(|file| public_keys(file)).collect::<Result<Vec<_>>>()?.concat();
    if let Some(file) = request.root_password {
        file.metadata().context(|| format!("cannot read '{}'", file.display()))?;
    }
    let machine = defined(paths, name)?;
    if running(paths, name).is_ok() {
        return Err(Error::new(format!("machine '{name}' is running"))
            .with_hint(format!("stop it first: coracle stop {name}")));
    }
    let other = "use credentials instead, for example passwd.hashed-password.root and \
                 ssh.authorized_keys.root, see [credentials] in coracle.toml(5)";
    let Some(directory) = machine.root.plain_directory() else {
        return Err(Error::new(format!("the root of machine '{name}' is not a tree")).with_hint(other));
    };
    let owner = directory.metadata().context(|| format!("cannot read '{}'", directory.display()))?.uid();
    if owner != 0 {
        return Err(
            Error::new(format!("the files of machine '{name}' belong to its range of ids")).with_hint(other)
        );
    }
    first_boot(paths, request, directory)?;
    if keys.is_empty() { Ok(()) } else { add_keys(paths, name, directory, &keys) }
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

/// Runs systemd-firstboot(1), which leaves existing files alone: those of the given settings are put aside.
/// For the password it replaces the line of root; its option for that would lock root without a password.
fn first_boot(paths: &Paths, request: &ProvisionRequest<'_>, directory: &Path) -> Result<()> {
    let settings = [
        ("hostname", HOSTNAME, request.hostname),
        ("locale", LOCALE, request.locale),
        ("timezone", TIMEZONE, request.timezone),
    ];
    let given = settings.iter().filter_map(|(option, file, value)| Some((option, file, (*value)?)));
    let options: Vec<String> =
        given.clone().map(|(option, _, value)| format!("--{option}={value}")).collect();
    let machine = defined(paths, request.name)?;
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_root(paths, &machine)?)?;
    check_timezone(request.timezone)?;
    let files: Vec<&str> = given.map(|(_, file, _)| *file).collect();
    let aside = Aside::put(directory, &files)?;
    let written = if options.is_empty() { Ok(()) } else { run(directory, &options) };
    let written = written.and_then(|()| match request.root_password {
        Some(file) => {
            run(directory, &["--force".to_owned(), format!("--root-password-file={}", file.display())])
        }
        None => Ok(()),
    });
    aside.end(written)
}

/// The former files of settings, under hidden names until the new ones are complete.
struct Aside {
    etc: OwnedFd,
    files: Vec<String>,
}

impl Aside {
    fn put(directory: &Path, files: &[&str]) -> Result<Self> {
        let etc = GuestRoot::of_tree(directory)?
            .open_directory(Path::new("/etc"))
            .context(|| format!("cannot open '/etc' of '{}'", directory.display()))?;
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

fn run(directory: &Path, options: &[String]) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg(format!("--root={}", directory.display())).args(options);
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

/// Adds keys to those of root, in a new file that replaces the old one.
fn add_keys(paths: &Paths, name: &Name, directory: &Path, keys: &str) -> Result<()> {
    let tree = GuestRoot::of_tree(directory)?;
    // One byte more than the greatest size: a larger file must not be cut.
    let old = match tree.read(Path::new(KEYS), KEYS_MAX + 1) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        old => old.context(|| format!("cannot read '{KEYS}' of machine '{name}'"))?,
    };
    if old.len() as u64 > KEYS_MAX {
        return Err(Error::new(format!("'{KEYS}' of machine '{name}' is larger than 1 MiB")));
    }
    let new = with_keys(&old, keys);
    let has_directory = tree.open_directory(Path::new("/root/.ssh")).is_ok();
    drop(tree);
    let writing = || "cannot write the keys".to_owned();
    let draft = create_draft(&paths.state()).context(writing)?;
    let (ssh, file) = (draft.0.join(".ssh"), draft.0.join(".ssh/authorized_keys"));
    let mode = |path: &Path, bits| std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits));
    std::fs::create_dir(&ssh).and_then(|()| mode(&ssh, 0o700)).context(writing)?;
    std::fs::write(&file, new).and_then(|()| mode(&file, 0o600)).context(writing)?;
    let (source, destination) = if has_directory { (&file, KEYS) } else { (&ssh, "/root/.ssh") };
    let request = CopyRequest {
        name,
        source,
        archived: None,
        destination: Path::new(destination),
        replace: Replace::Yes,
        links: LinkMode::Keep,
        owners: CopyOwners::Kept,
    };
    copy::copy_to(paths, &request, Progress::silent())
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

/// A directory that is removed on drop.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Creates a directory that only root can enter.
fn create_draft(directory: &Path) -> std::io::Result<Draft> {
    std::fs::create_dir_all(directory)?;
    let draft = directory.join(format!(".provision-{}", std::process::id()));
    // A killed process of the same number may have left one.
    match std::fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::create_dir(&draft)?,
    }
    let draft = Draft(draft);
    std::fs::set_permissions(&draft.0, std::fs::Permissions::from_mode(0o700))?;
    Ok(draft)
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
        let read = |file: &str| std::fs::read_to_string(etc.join(file)).ok();
        std::fs::write(etc.join("hostname"), "old").unwrap();
        let _killed = Aside::put(root.path(), &["hostname"]).unwrap();
        assert_eq!((read("hostname"), read(".hostname.coracle").as_deref()), (None, Some("old")));
        let aside = Aside::put(root.path(), &["localtime"]).unwrap();
        assert_eq!((read("hostname").as_deref(), read(".hostname.coracle")), (Some("old"), None));
        aside.end(Ok(())).unwrap();
        // Killed after the new file was written: the former one is not wanted any more.
        let _killed = Aside::put(root.path(), &["hostname"]).unwrap();
        std::fs::write(etc.join("hostname"), "new").unwrap();
        let aside = Aside::put(root.path(), &["hostname"]).unwrap();
        assert_eq!(read(".hostname.coracle").as_deref(), Some("new"));
        assert!(aside.end(Err(Error::new("x"))).is_err());
        assert_eq!((read("hostname").as_deref(), read(".hostname.coracle")), (Some("new"), None));
        // An empty directory of the guest in the place of a hidden file does not count, a full one is named.
        let hidden = etc.join(".hostname.coracle");
        std::fs::create_dir(&hidden).unwrap();
        Aside::put(root.path(), &[]).unwrap();
        assert!(!hidden.exists());
        std::fs::create_dir_all(hidden.join("x")).unwrap();
        let error = Aside::put(root.path(), &[]).err().unwrap();
        assert!(error.to_string().contains("/etc/.hostname.coracle"), "{error}");
    }

    #[test]
    fn a_draft_of_a_killed_process_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let killed = create_draft(root.path()).unwrap();
        std::fs::write(killed.0.join("file"), "").unwrap();
        let draft = create_draft(root.path()).unwrap();
        assert!(draft.0.is_dir() && !draft.0.join("file").exists());
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
