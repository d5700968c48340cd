//! File systems with trees of machines: support of idmapped mounts, and free space.

use super::{Finding, FindingSeverity};
use crate::image::disk::mounts::{Disk, DiskAccess};
use crate::image::stack::Stack;
use crate::machine::Machine;
use crate::machine::root::RootSource;
use crate::machine::users::Users;
use crate::paths::Paths;
use crate::paths::access::refuse_open;
use crate::state::id_ranges;
use std::path::Path;

/// File systems without idmapped mounts (mount_setattr(2)), by their magic number (statfs(2)).
const UNMAPPED: [(u32, &str); 6] = [
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "afs"),
];
/// The minimum of free space, percent.
const LITTLE: u64 = 5;

/// Returns the findings about trees.
pub(super) fn findings(paths: &Paths, machines: &[Machine]) -> Vec<Finding> {
    let mut findings = look(&paths.images(), "trees of machines");
    machines.iter().for_each(|machine| findings.extend(findings_of(paths, machine)));
    findings.extend(exposed_store(paths));
    // A full file system is reported once.
    let mut reported = std::collections::BTreeSet::new();
    findings.retain(|finding| reported.insert(finding.message.clone()));
    findings
}

/// Returns the finding for a store in a directory of images, where machined takes it for a hidden image.
fn exposed_store(paths: &Paths) -> Option<Finding> {
    let store = paths.storage().canonicalize().ok()?;
    let directories = paths.image_directories();
    let mut directories = directories.iter().filter_map(|directory| directory.canonicalize().ok());
    directories.any(|directory| store.starts_with(directory)).then(|| {
        Finding::risk(
            format!(
                "the store '{}' is in a directory of images: 'machinectl clean' deletes it",
                store.display()
            ),
            format!(
                "move it to another directory of this disk, and link '{}' there",
                paths.storage().display()
            ),
        )
    })
}

/// Returns the findings about the root of one machine.
pub(super) fn findings_of(paths: &Paths, machine: &Machine) -> Vec<Finding> {
    let root = machine.root.path();
    if is_hidden(root) {
        return vec![hidden()];
    }
    if let RootSource::Image(image) = &machine.root.source {
        return if root.exists() { of_disk(machine, image) } else { vec![missing(paths, machine)] };
    }
    if !root.is_dir() {
        return vec![missing(paths, machine)];
    }
    if let RootSource::Stack(path) = &machine.root.source
        && let Err(error) = Stack::read(path)
    {
        let hint = error.hint().unwrap_or("correct the entries of the stack (systemd.mstack(7))").to_owned();
        return vec![Finding::wrong(format!("machine '{}' has no root: {error}", machine.name), hint)];
    }
    let mut findings = look(root, &format!("machine '{}'", machine.name));
    findings.retain(|finding| finding.severity != FindingSeverity::Wrong || machine.users != Users::Host);
    let trees = machine.owned_trees();
    findings.extend(trees.into_iter().filter_map(open));
    findings
}

/// Returns whether this user may not look at a path.
fn is_hidden(path: &Path) -> bool {
    path.metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Returns the finding for trees that this user may not look at. It is the same for all of them.
fn hidden() -> Finding {
    Finding::note("trees of machines are not visible without root", "run it with sudo(8)")
}

/// Returns the findings about a disk image.
fn of_disk(machine: &Machine, image: &Path) -> Vec<Finding> {
    let mut findings = look(image, &format!("machine '{}'", machine.name));
    // Its own file system maps the ids.
    findings.retain(|finding| finding.severity != FindingSeverity::Wrong);
    if let Err(error) = Disk::open(image, DiskAccess::Read)
        .and_then(|disk| disk.under(&machine.root))
        .and_then(|disk| disk.root().map(|_| ()))
    {
        let hint = error.hint().unwrap_or("use another copy of the image").to_owned();
        findings.push(Finding::wrong(format!("machine '{}' has no root: {error}", machine.name), hint));
    }
    if !Path::new("/dev/loop-control").exists() {
        findings.push(Finding::wrong(
            format!("machine '{}' has a disk image, and the kernel has no loop devices", machine.name),
            "load the module: modprobe loop",
        ));
    }
    findings
}

/// Returns the finding for a missing root. `machinectl remove` and `machinectl rename` change the image
/// alone.
fn missing(paths: &Paths, machine: &Machine) -> Finding {
    let (name, root) = (&machine.name, machine.root.path());
    let mut message = format!("machine '{name}' has no root: '{}' is missing", root.display());
    let ids: Vec<String> = id_ranges::recorded(paths, name).iter().map(u32::to_string).collect();
    if !ids.is_empty() {
        message.push_str(&format!("; its user ids from {} are still recorded", ids.join(", ")));
    }
    let is_image = paths.image_directories().iter().any(|directory| root.starts_with(directory));
    let hint = if is_image {
        format!(
            "create a root file system there, for example with mmdebstrap(1); if machinectl(1) has removed or renamed \
             the image, run 'coracle remove --purge {name}', or rename the image back and run 'coracle rename'"
        )
    } else {
        "create a root file system there, for example with mmdebstrap(1), or correct root.directory"
            .to_owned()
    };
    Finding::wrong(message, hint)
}

/// Returns the finding for a tree that users of the host can reach: its machine does not start.
pub(super) fn open(tree: &Path) -> Option<Finding> {
    let error = refuse_open(tree).err()?;
    Some(Finding::wrong(error.to_string(), error.hint().unwrap_or_default()))
}

fn look(place: &Path, user: &str) -> Vec<Finding> {
    let Ok(found) = rustix::fs::statfs(place) else { return Vec::new() };
    let magic = u32::try_from(found.f_type).unwrap_or(0);
    let mut findings = Vec::new();
    if let Some((_, kind)) = UNMAPPED.iter().find(|(known, _)| *known == magic) {
        findings.push(Finding::wrong(
            format!("'{}', for {user}, is on {kind}, which has no idmapped mounts", place.display()),
            "move it to ext4, xfs or btrfs, or set users.private = \"no\"",
        ));
    }
    let (free, all) = (found.f_bavail, found.f_blocks);
    if all > 0 && free.saturating_mul(100) < all.saturating_mul(LITTLE) {
        findings.push(Finding::risk(
            format!("the file system of '{}', for {user}, is nearly full", place.display()),
            "free some space: guests that cannot write do not boot",
        ));
    }
    findings
}
