//! Users of the host in the machine, as steps: records in `/run/host/userdb` and directories in
//! `/run/host/home` (systemd's Container Interface and USER_RECORD). Called by `plan`.

use super::Facts;
use super::mount_maps::MountMaps;
use super::step::{BindSource, BuildStep, IfMissing};
use crate::sys::mount::{Depth, MountAttributes};
use std::path::PathBuf;

/// A user of the host in the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundUser {
    /// Its name.
    pub(crate) name: String,
    /// Its home directory on the host.
    pub(crate) home: PathBuf,
    /// User and group on the host.
    pub(crate) outside: (u32, u32),
    /// User and group inside.
    pub(crate) inside: u32,
    /// The user record, in JSON.
    pub(crate) record: String,
    /// The part of the record with the hashed password, in JSON.
    pub(crate) privileged: Option<String>,
    /// The record of its group, in JSON.
    pub(crate) group: String,
    /// The names of further groups.
    pub(crate) groups: Vec<String>,
}

/// Returns the place of a home directory inside.
pub(crate) fn home(name: &str) -> PathBuf {
    format!("/run/host/home/{name}").into()
}

/// Returns the steps that create records and mount points, while `/run/host` can be written.
pub(super) fn records(facts: &Facts) -> Vec<BuildStep> {
    if facts.bound_users.is_empty() {
        return Vec::new();
    }
    let directory = |path: PathBuf| BuildStep::Directory { path, mode: 0o755 };
    let mut steps: Vec<BuildStep> =
        ["/run/host/home", "/run/host/userdb"].map(|path| directory(path.into())).into();
    for user in &facts.bound_users {
        let BoundUser { name, inside, .. } = user;
        let place = |file: String| PathBuf::from("/run/host/userdb").join(file);
        let parts = [
            ("user", 0o644, Some(&user.record)),
            ("user-privileged", 0o600, user.privileged.as_ref()),
            ("group", 0o644, Some(&user.group)),
        ];
        steps.push(directory(home(name)));
        for (kind, mode, content) in parts {
            let Some(content) = content.cloned() else { continue };
            steps.push(BuildStep::File { path: place(format!("{name}.{kind}")), mode, content });
            let to = format!("{name}.{kind}").into();
            steps.push(BuildStep::Symlink { path: place(format!("{inside}.{kind}")), to });
        }
        steps.extend(user.groups.iter().map(|group| BuildStep::File {
            path: place(format!("{name}:{group}.membership")),
            mode: 0o644,
            content: String::new(),
        }));
    }
    steps
}

/// Returns the steps that mount the home directories.
pub(super) fn homes(facts: &Facts, maps: &mut MountMaps) -> Vec<BuildStep> {
    let bind = |user: &super::BoundUser| BuildStep::Bind {
        source: BindSource::Host(user.home.clone()),
        target: home(&user.name),
        attributes: MountAttributes { no_setuid: true, no_devices: true, ..MountAttributes::default() },
        depth: Depth::One,
        ids: Some(maps.of_user(user.outside, user.inside, facts)),
        missing: IfMissing::Error,
    };
    facts.bound_users.iter().map(bind).collect()
}
