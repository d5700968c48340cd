//! SSH host keys of a copy: two machines with the same keys could pass for each other. Called by `identity`.

use super::{LIMIT, remove, write};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::sys::guest_files::GuestRoot;
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

/// Returns whether a system has host keys.
pub(super) fn exist(root: &GuestRoot) -> bool {
    keys(root).next().is_some()
}

/// Removes the host keys of a system that creates new ones, or replaces them. Returns a message about keys
/// that stay.
///
/// # Errors
/// A file that cannot be changed.
pub(super) fn renew(root: &GuestRoot, name: &Name) -> Result<Option<String>> {
    let found: Vec<(&str, PathBuf)> = keys(root).collect();
    if found.is_empty() {
        return Ok(None);
    }
    if creates_keys(root) {
        for (_, key) in found {
            remove(root, &key)?;
            remove(root, &public(&key))?;
        }
        return Ok(None);
    }
    let mut kept = Vec::new();
    for (kind, key) in found {
        match generate(kind, name) {
            Ok((private, its_public)) => {
                write(root, &key, &private)?;
                if root.find_link(&public(&key)).is_ok() {
                    write(root, &public(&key), &its_public)?;
                }
            }
            Err(error) => {
                log::debug!("{error}");
                kept.push(key.display().to_string());
            }
        }
    }
    let message = || {
        format!(
            "the SSH host keys stay those of the source ({}): the host has no ssh-keygen",
            kept.join(", ")
        )
    };
    Ok((!kept.is_empty()).then(message))
}

/// Returns the private keys of a system and their types.
fn keys(root: &GuestRoot) -> impl Iterator<Item = (&'static str, PathBuf)> {
    let path = |kind: &'static str| (kind, PathBuf::from(format!("{DIRECTORY}/ssh_host_{kind}_key")));
    TYPES.into_iter().map(path).filter(|(_, path)| root.find(path).is_ok())
}

fn public(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Returns whether a system creates missing keys.
fn creates_keys(root: &GuestRoot) -> bool {
    let units = ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"];
    let has_unit = units
        .iter()
        .any(|directory| GENERATORS.iter().any(|unit| root.find(&Path::new(directory).join(unit)).is_ok()));
    let creates = |script: &&str| {
        let text = root.read(Path::new(script), LIMIT).unwrap_or_default();
        memchr::memmem::find(&text, b"ssh-keygen").is_some()
    };
    has_unit || SCRIPTS.iter().any(creates)
}

/// Creates a key with the host's ssh-keygen(1). Returns the private and the public key.
fn generate(kind: &str, name: &Name) -> Result<(Vec<u8>, Vec<u8>)> {
    let creating = || "cannot create an SSH host key";
    let directory = std::env::temp_dir().join(format!("coracle-ssh-{}", crate::host::probe::random_id()));
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(&directory)
        .context(creating)?;
    let key = directory.join("key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-N", "", "-t", kind, "-C", &format!("root@{name}"), "-f"]).arg(&key);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let created = command.status().context(creating).and_then(|status| {
        if !status.success() {
            return Err(Error::new("ssh-keygen has failed").context(creating()));
        }
        Ok((std::fs::read(&key).context(creating)?, std::fs::read(public(&key)).context(creating)?))
    });
    let _ = std::fs::remove_dir_all(&directory);
    created
}

#[cfg(test)]
mod tests {
    use super::*;
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
            assert_eq!(creates_keys(&root), creates, "{file}");
            assert!(exist(&root));
            let message = renew(&root, &Name::new("web").unwrap()).unwrap();
            if creates {
                assert!(!exist(&root) && !at("etc/ssh/ssh_host_ed25519_key.pub").exists());
            } else {
                // Replaced, or kept and reported.
                let replaced = fs::read_to_string(at("etc/ssh/ssh_host_ed25519_key")).unwrap() != text;
                assert!(replaced != message.is_some(), "{message:?}");
            }
        }
    }
}
