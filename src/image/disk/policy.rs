//! Applies the policy of an image (systemd.image-policy(7)) to its partitions. Coracle uses them without
//! protection only: a partition that the policy wants verified or decrypted is refused, never used without.

use super::partition_types::Role;
use super::partitions::Partition;
use super::superblock::Content;
use crate::error::{Error, Result};
use crate::machine::image_policy::{ImagePolicy, PartitionPolicy};
use std::path::Path;

/// All roles.
const ROLES: [Role; 8] =
    [Role::Root, Role::Usr, Role::Home, Role::Srv, Role::Esp, Role::Xbootldr, Role::Tmp, Role::Var];

/// Returns the partitions of an image that its policy lets a machine use.
///
/// # Errors
/// A partition that is missing, unprotected, encrypted or verified against the policy.
pub(super) fn apply(
    image: &Path,
    partitions: Vec<Partition>,
    policy: Option<&ImagePolicy>,
) -> Result<Vec<Partition>> {
    let of = |role: Role| policy.map_or(PartitionPolicy::OPEN, |policy| policy.of(role.name()));
    let is_present = |role: Role| partitions.iter().any(|partition| partition.role == role);
    if let Some(missing) = ROLES.into_iter().find(|role| !is_present(*role) && !of(*role).permits_absent()) {
        // The root and `/usr` replace each other.
        if !matches!(missing, Role::Root | Role::Usr) || !is_present(Role::Root) {
            return Err(refused(missing, "is missing"));
        }
    }
    let mut used = Vec::new();
    for partition in partitions {
        if is_used(image, &partition, of(partition.role))? {
            used.push(partition);
        }
    }
    Ok(used)
}

/// Returns whether a partition is used.
fn is_used(image: &Path, partition: &Partition, policy: PartitionPolicy) -> Result<bool> {
    let role = partition.role;
    // A disk without a table has no flags.
    if partition.number != 0 && !policy.permits_read_only(partition.read_only) {
        let state = if partition.read_only { "is read-only" } else { "is not read-only" };
        return Err(refused(role, state));
    }
    if partition.content == Content::Encrypted {
        return match (policy.permits_encrypted(), policy.permits_unused()) {
            (true, _) => Err(Error::new(format!("its partition '{}' is encrypted (LUKS), which is not supported", role.name()))
                .with_hint(format!(
                    "open it with cryptsetup(8) and use the opened block device, or leave it out: root.image-policy = \"{}=unused:=open\"",
                    role.name()
                ))),
            (false, true) => Ok(false),
            (false, false) => Err(refused(role, "is encrypted")),
        };
    }
    if policy.permits_verity() && is_verified(image, partition) {
        return Err(Error::new(format!(
            "the hashes of its partition '{}' are to be verified (dm-verity), which is not supported",
            role.name()
        ))
        .with_hint(format!(
            "run it with systemd-nspawn, or use it without verification: root.image-policy = \"{}=unprotected:=open\"",
            role.name()
        )));
    }
    match (policy.permits_unprotected(), policy.permits_unused()) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(refused(role, "is not protected")),
    }
}

/// Returns whether systemd verifies a partition: the image has a signature of its hashes, or a file with the
/// root hash beside it.
fn is_verified(image: &Path, partition: &Partition) -> bool {
    let file = match partition.role {
        Role::Root => image.with_extension("roothash"),
        Role::Usr => image.with_extension("usrhash"),
        _ => return false,
    };
    partition.signed || file.exists()
}

fn refused(role: Role, state: &str) -> Error {
    Error::new(format!("its partition '{}' {state}, which its policy forbids", role.name()))
        .with_hint("use another image, or change root.image-policy (--image-policy=)")
}

#[cfg(test)]
mod tests {
    use super::super::superblock::FileSystem;
    use super::*;

    fn partition(role: Role, content: Content) -> Partition {
        Partition { role, number: 1, start: 0, size: 1, read_only: false, content, signed: false }
    }

    fn applied(partitions: Vec<Partition>, policy: &str) -> std::result::Result<Vec<Role>, String> {
        let policy = Some(policy).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
        let used = apply(Path::new("/missing/web.raw"), partitions, policy.as_ref());
        used.map(|used| used.iter().map(|partition| partition.role).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_permitted_partitions_are_used() {
        let ext4 = Content::FileSystem(FileSystem::Ext4);
        let plain = || vec![partition(Role::Root, ext4), partition(Role::Home, ext4)];
        assert_eq!(applied(plain(), "").unwrap(), [Role::Root, Role::Home]);
        assert_eq!(applied(plain(), "*").unwrap(), [Role::Root, Role::Home]);
        assert_eq!(applied(plain(), "root=unprotected").unwrap(), [Role::Root]);
        for (policy, expected) in [
            ("root=verity:=open", "'root' is not protected"),
            ("root=unprotected:home=encrypted", "'home' is not protected"),
            ("root=unprotected:srv=unprotected", "'srv' is missing"),
            ("root=unprotected+read-only-on", "'root' is not read-only"),
            ("~", "'root' is not protected"),
        ] {
            let error = applied(plain(), policy).unwrap_err();
            assert!(error.contains(expected), "{policy}: {error}");
        }
    }

    #[test]
    fn protected_partitions_are_never_used_without_protection() {
        let ext4 = Content::FileSystem(FileSystem::Ext4);
        let encrypted = || vec![partition(Role::Root, ext4), partition(Role::Home, Content::Encrypted)];
        assert!(applied(encrypted(), "").unwrap_err().contains("'home' is encrypted (LUKS)"));
        assert_eq!(applied(encrypted(), "home=unused:=open").unwrap(), [Role::Root]);
        assert!(
            applied(encrypted(), "home=unprotected:=open")
                .unwrap_err()
                .contains("'home' is encrypted, which")
        );
        let signed = || vec![Partition { signed: true, ..partition(Role::Root, ext4) }];
        for policy in ["", "*", "root=signed+unprotected"] {
            assert!(applied(signed(), policy).unwrap_err().contains("dm-verity"), "{policy}");
        }
        assert_eq!(applied(signed(), "root=unprotected").unwrap(), [Role::Root]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("web.roothash"), "").unwrap();
        let image = directory.path().join("web.raw");
        assert!(apply(&image, vec![partition(Role::Root, ext4)], None).is_err());
    }
}
