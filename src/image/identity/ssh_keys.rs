//! SSH host keys of a copy: two machines with the same keys could pass for each other. Called by `identity`.

use super::{if_exists, is_regular, read, remove, write};
use crate::error::{Context, Error, Result};
use crate::image::store::Store;
use crate::image::store::draft::Draft;
use crate::machine::name::Name;
use crate::sys::guest_files::GuestRoot;
use rustix::fs::FileType;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory of the keys (sshd(8), FILES).
const DIRECTORY: &str = "/etc/ssh";
/// The types of keys (ssh-keygen(1), `-t`).
const TYPES: [&str; 4] = ["rsa", "ecdsa", "ed25519", "dsa"];
/// Files of guests that create missing keys before the server starts: units of Fedora, Arch, openSUSE and
/// Debian.
const GENERATORS: [&str; 5] = [
    "sshd-keygen@.service",
    "sshd-keygen.target",
    "sshd-keygen.service",
    "sshdgenkeys.service",
    "ssh-keygen.service",
];
/// Scripts that start the server, and create missing keys if they contain `ssh-keygen`: of Alpine, Void and
/// openSUSE.
const SCRIPTS: [&str; 3] = ["/etc/init.d/sshd", "/etc/sv/sshd/run", "/usr/sbin/sshd-gen-keys-start"];

/// Removes the host keys of a system that creates new ones, or replaces them. Returns the keys that stay, with
/// the reasons.
///
/// # Errors
/// A file that cannot be changed.
pub(super) fn renew(root: &GuestRoot, name: &Name, store: &Store) -> Result<Vec<String>> {
    let found = all(root)?;
    let creates_keys = !found.is_empty() && creates_keys(root)?;
    let mut kept = Vec::new();
    for (kind, file, key) in found {
        if creates_keys && file != FileType::Directory {
            remove(root, &key)?;
            remove(root, &public(&key))?;
            continue;
        }
        if file != FileType::RegularFile {
            kept.push(format!("'{}' (it is no regular file)", key.display()));
            continue;
        }
        match generate(kind, name, store) {
            Ok((private, its_public)) => {
                write(root, &key, &private)?;
                if is_regular(root, &public(&key))? {
                    write(root, &public(&key), &its_public)?;
                }
            }
            Err(error) => kept.push(format!("'{}' ({error})", key.display())),
        }
    }
    Ok(kept)
}

/// Returns whether a system has private keys.
///
/// # Errors
/// A key that cannot be looked at.
pub(super) fn exist(root: &GuestRoot) -> Result<bool> {
    Ok(!all(root)?.is_empty())
}

/// Returns the types of the private keys of a system, the types of their files, and their paths.
fn all(root: &GuestRoot) -> Result<Vec<(&'static str, FileType, PathBuf)>> {
    let mut found = Vec::new();
    for kind in TYPES {
        let path = PathBuf::from(format!("{DIRECTORY}/ssh_host_{kind}_key"));
        if let Some(file) = super::kind(root, &path)? {
            found.push((kind, file, path));
        }
    }
    Ok(found)
}

fn public(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Returns whether a system creates missing keys.
fn creates_keys(root: &GuestRoot) -> Result<bool> {
    for directory in ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"] {
        for unit in GENERATORS {
            let unit = Path::new(directory).join(unit);
            if if_exists(root.find(&unit), &unit)?.is_some() {
                return Ok(true);
            }
        }
    }
    for script in SCRIPTS {
        if memchr::memmem::find(&read(root, Path::new(script))?, b"ssh-keygen").is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Creates a key with the host's ssh-keygen(1). Returns the private and the public key.
fn generate(kind: &str, name: &Name, store: &Store) -> Result<(Vec<u8>, Vec<u8>)> {
    let creating = || "cannot create another one";
    let draft = Draft::in_store(store)?;
    draft.create_directory(0o700)?;
    let key = draft.path().join("key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-N", "", "-t", kind, "-C", &format!("root@{name}"), "-f"]).arg(&key);
    command.stdin(Stdio::null());
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new("the host has no ssh-keygen").context(creating()));
        }
        output => output.context(creating)?,
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let line = message.lines().next().unwrap_or("no message");
        return Err(Error::new(format!("ssh-keygen: {line}")).context(creating()));
    }
    Ok((std::fs::read(&key).context(creating)?, std::fs::read(public(&key)).context(creating)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use std::fs;

    #[test]
    fn keys_are_removed_where_the_guest_creates_new_ones() {
        for (file, text, creates) in [
            ("usr/lib/systemd/system/sshdgenkeys.service", "", true),
            ("etc/init.d/sshd", "#!/sbin/openrc-run\nssh-keygen -A\n", true),
            ("etc/init.d/sshd", "#!/bin/sh\n", false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let at = |path: &str| directory.path().join(path);
            for path in [file, "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub"] {
                fs::create_dir_all(at(path).parent().unwrap()).unwrap();
                fs::write(at(path), text).unwrap();
            }
            let root = GuestRoot::of_tree(directory.path()).unwrap();
            assert_eq!(creates_keys(&root).unwrap(), creates, "{file}");
            assert_eq!(all(&root).unwrap().len(), 1);
            let store = Store::of(&Paths::below(directory.path()));
            let kept = renew(&root, &Name::new("web").unwrap(), &store).unwrap();
            if creates {
                assert!(all(&root).unwrap().is_empty() && !at("etc/ssh/ssh_host_ed25519_key.pub").exists());
            } else {
                // Replaced, or kept and reported.
                let replaced = fs::read_to_string(at("etc/ssh/ssh_host_ed25519_key")).unwrap() != text;
                assert!(replaced == kept.is_empty(), "{kept:?}");
            }
        }
    }

    #[test]
    fn keys_that_are_links_do_not_stay_unnoticed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("etc/ssh")).unwrap();
        fs::write(at("key"), "key").unwrap();
        std::os::unix::fs::symlink("/key", at("etc/ssh/ssh_host_rsa_key")).unwrap();
        let root = GuestRoot::of_tree(directory.path()).unwrap();
        let store = Store::of(&Paths::below(directory.path()));
        let renew = || renew(&root, &Name::new("web").unwrap(), &store).unwrap();
        assert!(exist(&root).unwrap());
        assert_eq!(renew(), ["'/etc/ssh/ssh_host_rsa_key' (it is no regular file)"]);
        fs::create_dir_all(at("usr/lib/systemd/system")).unwrap();
        fs::write(at("usr/lib/systemd/system/sshd-keygen.service"), "").unwrap();
        assert_eq!(renew(), [] as [&str; 0]);
        assert!(at("key").exists() && !exist(&root).unwrap());
    }
}
