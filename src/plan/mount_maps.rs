//! The mappings of ids of mounts. Steps refer to them by number: each is one user namespace. Called by `plan`.

use super::Facts;
use crate::machine::mounts::{Mount, MountIds};

/// A mapping of the users and groups of a mount (mount_setattr(2), MOUNT_ATTR_IDMAP): each the first id on the
/// disk, the first id that processes see, and the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountMap {
    /// The users.
    pub users: (u32, u32, u32),
    /// The groups.
    pub groups: (u32, u32, u32),
    /// A user on the disk that processes see as one of these instead.
    pub user: Option<(u32, u32)>,
    /// A group on the disk that processes see as one of these instead.
    pub group: Option<(u32, u32)>,
}

impl MountMap {
    /// Returns the mapping of `count` ids from `disk` on to those from `base` on.
    pub(crate) fn of_range(disk: u32, base: u32, count: u32) -> Self {
        Self { users: (disk, base, count), groups: (disk, base, count), user: None, group: None }
    }

    /// Returns the mapping of one user and its group.
    fn of_owner(disk: (u32, u32), seen: (u32, u32)) -> Self {
        Self { users: (disk.0, seen.0, 1), groups: (disk.1, seen.1, 1), user: None, group: None }
    }
}

/// The owners of the source and of the target of a bind mount, as processes of the host see them; for a map of
/// users, the two users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindOwners {
    /// User and group of the source.
    pub source: (u32, u32),
    /// User and group of the target, through a mapping of the root.
    pub target: (u32, u32),
}

/// The mappings of a plan.
#[derive(Debug, Default)]
pub(super) struct MountMaps(pub(super) Vec<MountMap>);

impl MountMaps {
    /// Returns the number of a mapping.
    fn number(&mut self, map: MountMap) -> usize {
        self.0.iter().position(|known| *known == map).unwrap_or_else(|| {
            self.0.push(map);
            self.0.len() - 1
        })
    }

    /// Returns the mapping of the root. `None` if its files keep their owners.
    pub(super) fn of_root(&mut self, facts: &Facts, count: u32) -> Option<usize> {
        let ranges = facts.mapped_from.zip(facts.id_base.filter(|_| facts.user_namespace));
        ranges.map(|(disk, base)| self.number(MountMap::of_range(disk, base, count)))
    }

    /// Returns the mapping of the ids of the host to those with the same number inside. `None` without a user
    /// namespace.
    pub(super) fn of_host(&mut self, facts: &Facts, count: u32) -> Option<usize> {
        let base = facts.id_base.filter(|_| facts.user_namespace)?;
        Some(self.number(MountMap::of_range(0, base, count)))
    }

    /// Returns the mapping of a journal directory with files of the machine's own range: the group on the disk
    /// is the one inside. `None` if its files keep their group.
    pub(super) fn of_journal(
        &mut self,
        groups: Option<(u32, u32)>,
        facts: &Facts,
        count: u32,
    ) -> Option<usize> {
        let base = facts.id_base.filter(|_| facts.user_namespace)?;
        let (disk, inside) = groups.filter(|(_, inside)| *inside < count)?;
        let range = (base, base, count);
        let group = Some((disk, base.saturating_add(inside)));
        Some(self.number(MountMap { users: range, groups: range, user: None, group }))
    }

    /// Returns the mapping of a user and group of the host to an id inside.
    pub(super) fn of_user(&mut self, outside: (u32, u32), inside: u32, facts: &Facts) -> usize {
        let seen = facts.owner().saturating_add(inside);
        self.number(MountMap::of_owner(outside, (seen, seen)))
    }

    /// Returns the mapping of the caller of a build session to its build user. All other ids are those of the
    /// session on the disk too. `None` without a range of its own.
    fn of_build_user(&mut self, facts: &Facts, count: u32) -> Option<usize> {
        let base = facts.id_base.filter(|base| facts.user_namespace && *base != 0)?;
        let build = facts.build.as_ref()?;
        let (range, (uid, gid)) = ((base, base, count), build.caller);
        let (inside, group) = build.inside;
        Some(self.number(MountMap {
            users: range,
            groups: range,
            user: Some((uid, base.saturating_add(inside))),
            group: Some((gid, base.saturating_add(group))),
        }))
    }

    /// Returns the mapping of a bind mount.
    pub(super) fn of_bind(
        &mut self,
        mount: &Mount,
        ids: &MountIds,
        facts: &Facts,
        count: u32,
    ) -> Option<usize> {
        let root = (facts.owner(), facts.owner());
        let owners = facts.bind_owners.iter().find(|(target, _)| *target == mount.target);
        match (ids, owners) {
            (MountIds::Host, _) | (MountIds::Root | MountIds::Owner | MountIds::User(..), None) => None,
            (MountIds::Same, _) => self.of_host(facts, count),
            (MountIds::BuildUser, _) => self.of_build_user(facts, count),
            (MountIds::Root, Some((_, owners))) => Some(self.number(MountMap::of_owner(owners.source, root))),
            (MountIds::Owner | MountIds::User(..), Some((_, owners))) => {
                Some(self.number(MountMap::of_owner(owners.source, owners.target)))
            }
        }
    }
}
