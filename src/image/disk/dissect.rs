//! Mounts disk images with verified or encrypted partitions by systemd-dissect(1), which knows keys, signatures
//! and the device mapper. Called by `mounts`.
//!
//! It mounts in a namespace that ends here: only the copies of its mounts remain. systemd-dissect marks the
//! devices to be released by the kernel with their last user, so a killed process leaves none.

use super::partition_types::Role;
use crate::error::{Context, Error, Result};
use crate::machine::image_policy::ImagePolicy;
use crate::machine::verity::Verity;
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, OwnedFd};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program.
const PROGRAM: &str = "systemd-dissect";

/// The device of the device mapper.
const DEVICE_MAPPER: &str = "/dev/mapper/control";

/// The mounts of an image, detached, until they are taken.
#[derive(Debug)]
pub(super) struct DissectedMounts(RefCell<Vec<(Role, OwnedFd)>>);

impl DissectedMounts {
    /// Returns whether a role has a mount.
    pub(super) fn has(&self, role: Role) -> bool {
        self.0.borrow().iter().any(|(other, _)| *other == role)
    }

    /// Takes the mount of a role.
    pub(super) fn take(&self, role: Role) -> Option<OwnedFd> {
        let mut mounts = self.0.borrow_mut();
        let at = mounts.iter().position(|(other, _)| *other == role)?;
        Some(mounts.swap_remove(at).1)
    }
}

/// A request to mount an image.
#[derive(Debug)]
pub(super) struct DissectRequest<'a> {
    /// The image.
    pub(super) image: &'a Path,
    /// Whether all mounts are read-only.
    pub(super) read_only: bool,
    /// Its policy.
    pub(super) policy: Option<&'a ImagePolicy>,
    /// The hashes that verify it.
    pub(super) verity: &'a Verity,
    /// The roles of its partitions.
    pub(super) roles: Vec<Role>,
    /// An existing directory of the host.
    pub(super) scratch: &'a Path,
}

/// Mounts the partitions of an image.
///
/// # Errors
/// The host has neither the program nor a device mapper, or the program fails.
pub(super) fn mount(request: &DissectRequest<'_>) -> Result<DissectedMounts> {
    if !Path::new(DEVICE_MAPPER).exists() {
        return Err(Error::new(format!("the host has no device mapper ('{DEVICE_MAPPER}' does not exist)"))
            .with_hint("load it with 'modprobe dm_mod'; a container of another manager cannot have it"));
    }
    mount::in_new_namespace(|| {
        let doing = || format!("cannot mount at '{}'", request.scratch.display());
        let memory = mount::new_file_system("tmpfs", &[("mode", "0700")], MountAttributes::INERT)?;
        let place = mount::open_directory(request.scratch)?;
        mount::attach(memory.mount.as_fd(), place.as_fd()).context(doing)?;
        let root = request.scratch.join("root");
        std::fs::create_dir(&root).context(doing)?;
        run(request, &root)?;
        let mut mounts = Vec::new();
        for role in &request.roles {
            mounts.extend(copy(&root, *role)?.map(|mount| (*role, mount)));
        }
        Ok(DissectedMounts(RefCell::new(mounts)))
    })
}

/// Runs the program. A password is requested by systemd-ask-password(1), or is the credential
/// `dissect.passphrase`.
fn run(request: &DissectRequest<'_>, root: &Path) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("--mount");
    if request.read_only {
        command.arg("--read-only");
    }
    let Verity { root_hash, signature, data } = request.verity;
    command.args(root_hash.iter().map(|hash| format!("--root-hash={hash}")));
    command.args(signature.iter().map(|signature| format!("--root-hash-sig={signature}")));
    if let Some(data) = data {
        command.arg("--verity-data").arg(data);
    }
    command.args(request.policy.iter().map(|policy| format!("--image-policy={policy}")));
    let output = command.arg(request.image).arg(root).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = match output.spawn().and_then(std::process::Child::wait_with_output) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::new(format!("the host has no '{PROGRAM}'")).with_hint(
                "install it: apt install systemd-container; verified and encrypted images also need libcryptsetup12",
            ));
        }
        output => output.context(|| format!("cannot run '{PROGRAM}'"))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it reports no reason");
    let reason: String = last.trim().chars().take(500).flat_map(char::escape_debug).collect();
    Err(Error::new(reason).context(format!("'{PROGRAM}' failed")))
}

/// Copies the mount of a role. `None` if the program has mounted nothing there.
fn copy(root: &Path, role: Role) -> Result<Option<OwnedFd>> {
    let paths: &[&str] = match role {
        Role::Root => &[""],
        Role::Usr => &["usr"],
        Role::Home => &["home"],
        Role::Srv => &["srv"],
        Role::Var => &["var"],
        Role::Tmp => &["var/tmp"],
        Role::Esp => &["efi", "boot"],
        Role::Xbootldr => &["boot"],
    };
    for path in paths {
        let Ok(place) = mount::open_directory(&root.join(path)) else { continue };
        if mount::is_root_of_mount(&place).context(|| "cannot examine the mounts of the image")? {
            let copied = mount::copy_tree(place.as_fd(), Depth::One);
            return copied.map(Some).context(|| format!("cannot copy the mount of '{}'", role.name()));
        }
    }
    Ok(None)
}
