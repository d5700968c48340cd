//! Applies the policy of an image (systemd.image-policy(7)) to its partitions: which are used, and whether one
//! of them must be verified or decrypted. Such an image is never used without its protection.

use super::partition_types::Role;
use super::partitions::Partition;
use super::superblock::Content;
use crate::error::{Error, Result};
use crate::machine::image_policy::{ImagePolicy, PartitionPolicy};
use crate::machine::verity::Verity;
use std::path::Path;

/// All roles.
const ROLES: [Role; 8] =
    [Role::Root, Role::Usr, Role::Home, Role::Srv, Role::Esp, Role::Xbootldr, Role::Tmp, Role::Var];

/// The partitions of an image that a machine may use.
#[derive(Debug, Default)]
pub(super) struct Permitted {
    /// The partitions.
    pub(super) partitions: Vec<Partition>,
    /// Whether one of them must be verified or decrypted.
    pub(super) is_protected: bool,
}

/// The use of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartitionUse {
    /// It is left out.
    None,
    /// As it is.
    Plain,
    /// Decrypted.
    Decrypted,
    /// With verified hashes.
    Verified,
}

/// Returns the partitions of an image that its policy lets a machine use.
///
/// # Errors
/// A partition that is missing, unprotected, encrypted or verified against the policy.
pub(super) fn apply(
    image: &Path,
    partitions: Vec<Partition>,
    policy: Option<&ImagePolicy>,
    verity: &Verity,
) -> Result<Permitted> {
    let of = |role: Role| policy.map_or(PartitionPolicy::OPEN, |policy| policy.of(role.name()));
    let is_present = |role: Role| partitions.iter().any(|partition| partition.role == role);
    if let Some(missing) = ROLES.into_iter().find(|role| !is_present(*role) && !of(*role).permits_absent()) {
        // The root and `/usr` replace each other.
        if !matches!(missing, Role::Root | Role::Usr) || !is_present(Role::Root) {
            return Err(refused(missing, "is missing"));
        }
    }
    let mut permitted = Permitted::default();
    for partition in partitions {
        let usage = usage(image, &partition, of(partition.role), verity)?;
        permitted.is_protected |= matches!(usage, PartitionUse::Decrypted | PartitionUse::Verified);
        match usage {
            PartitionUse::None => {}
            PartitionUse::Verified => {
                permitted.partitions.push(Partition { read_only: true, ..partition });
            }
            PartitionUse::Plain | PartitionUse::Decrypted => permitted.partitions.push(partition),
        }
    }
    Ok(permitted)
}

/// Returns the use of a partition.
fn usage(
    image: &Path,
    partition: &Partition,
    policy: PartitionPolicy,
    verity: &Verity,
) -> Result<PartitionUse> {
    let role = partition.role;
    // A disk without a table has no flags.
    if partition.number != 0 && !policy.permits_read_only(partition.read_only) {
        let state = if partition.read_only { "is read-only" } else { "is not read-only" };
        return Err(refused(role, state));
    }
    if partition.content == Content::Encrypted {
        return match (policy.permits_encrypted(), policy.permits_unused()) {
            (true, _) => Ok(PartitionUse::Decrypted),
            (false, true) => Ok(PartitionUse::None),
            (false, false) => Err(refused(role, "is encrypted")),
        };
    }
    // With an explicit hash the program that verifies it also compares it with the policy.
    let is_explicit = role == Role::Root && verity.is_required();
    if is_explicit || policy.permits_verity() && is_verified(image, partition) {
        return Ok(PartitionUse::Verified);
    }
    match (policy.permits_unprotected(), policy.permits_unused()) {
        (true, _) => Ok(PartitionUse::Plain),
        (false, true) => Ok(PartitionUse::None),
        (false, false) => Err(refused(role, "is not protected")),
    }
}

/// Returns whether systemd verifies a partition: the image has a signature of its hashes, or the root hash is
/// in an attribute of the image or in a file beside it.
fn is_verified(image: &Path, partition: &Partition) -> bool {
    let (file, attribute) = match partition.role {
        Role::Root => (image.with_extension("roothash"), "user.verity.roothash"),
        Role::Usr => (image.with_extension("usrhash"), "user.verity.usrhash"),
        _ => return false,
    };
    let mut hash = [0; 1024];
    partition.signed || file.exists() || rustix::fs::getxattr(image, attribute, &mut hash[..]).is_ok()
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

    fn applied(partitions: Vec<Partition>, policy: &str) -> std::result::Result<(Vec<Role>, bool), String> {
        let policy = Some(policy).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
        let used = apply(Path::new("/missing/web.raw"), partitions, policy.as_ref(), &Verity::default());
        used.map(|used| (used.partitions.iter().map(|one| one.role).collect(), used.is_protected))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_permitted_partitions_are_used() {
        let ext4 = Content::FileSystem(FileSystem::Ext4);
        let plain = || vec![partition(Role::Root, ext4), partition(Role::Home, ext4)];
        assert_eq!(applied(plain(), "").unwrap(), (vec![Role::Root, Role::Home], false));
        assert_eq!(applied(plain(), "*").unwrap(), (vec![Role::Root, Role::Home], false));
        assert_eq!(applied(plain(), "root=unprotected").unwrap(), (vec![Role::Root], false));
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
        assert_eq!(applied(encrypted(), "").unwrap(), (vec![Role::Root, Role::Home], true));
        assert_eq!(applied(encrypted(), "home=unused:=open").unwrap(), (vec![Role::Root], false));
        assert!(
            applied(encrypted(), "home=unprotected:=open")
                .unwrap_err()
                .contains("'home' is encrypted, which")
        );
        let signed = || vec![Partition { signed: true, ..partition(Role::Root, ext4) }];
        for policy in ["", "*", "root=signed+unprotected"] {
            assert_eq!(applied(signed(), policy).unwrap(), (vec![Role::Root], true), "{policy}");
        }
        assert_eq!(applied(signed(), "root=unprotected").unwrap(), (vec![Role::Root], false));
    }

    #[test]
    fn a_root_hash_makes_the_root_verified_and_read_only() {
        let root = || vec![partition(Role::Root, Content::FileSystem(FileSystem::Ext4))];
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("web.raw");
        std::fs::write(directory.path().join("web.roothash"), "").unwrap();
        let beside = apply(&image, root(), None, &Verity::default()).unwrap();
        let given = Verity { root_hash: Some("ab".repeat(16)), ..Verity::default() };
        let given = apply(Path::new("/missing/web.raw"), root(), None, &given).unwrap();
        for permitted in [beside, given] {
            assert!(permitted.is_protected && permitted.partitions[0].read_only);
        }
    }
}
