//! Users and groups of a tree, from its passwd(5) and group(5). Called by `run` and `control`.

use super::Tree;
use crate::error::{Error, Kind, Result};
use crate::plan::User;
use std::collections::HashSet;
use std::path::Path;

impl Tree {
    /// Looks up a user of the tree, by name or number, in its passwd(5) and group(5). The root directory
    /// replaces a missing home.
    ///
    /// # Errors
    /// There is no such user.
    pub fn user(&self, wanted: &str) -> Result<User> {
        self.listed_user(wanted).map(|user| self.with_existing_home(user))
    }

    /// Replaces a missing home of a user by the root directory.
    pub(crate) fn with_existing_home(&self, user: User) -> User {
        let home = if self.has_link(Path::new(&user.home)) { user.home } else { "/".into() };
        User { home, ..user }
    }

    /// Returns user and group of a name, or of a number, which needs no entry in passwd(5): then the number is
    /// also the group's.
    ///
    /// # Errors
    /// There is no such user.
    pub(crate) fn user_ids(&self, name: &str) -> Result<(u32, u32)> {
        let user = self.listed_user(name)?;
        let is_listed = user.name != name || name.parse::<u32>().is_err();
        Ok((user.uid, if is_listed || user.uid == 0 { user.gid } else { user.uid }))
    }

    /// Looks up a user like [`Tree::user`], with the home of passwd(5) even if it is missing.
    ///
    /// # Errors
    /// There is no such user.
    pub(crate) fn listed_user(&self, wanted: &str) -> Result<User> {
        let passwd = self.read_text("/etc/passwd").unwrap_or_default();
        let found = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (name, uid) = (*fields.first()?, *fields.get(2)?);
            (name == wanted || uid == wanted).then(|| User {
                name: name.to_owned(),
                uid: uid.parse().unwrap_or(u32::MAX),
                gid: fields.get(3).and_then(|gid| gid.parse().ok()).unwrap_or(u32::MAX),
                groups: Vec::new(),
                home: fields.get(5).filter(|home| home.starts_with('/')).unwrap_or(&"/").to_string(),
                shell: fields.get(6).filter(|shell| shell.starts_with('/')).unwrap_or(&"/bin/sh").to_string(),
            })
        });
        let user = match found {
            Some(user) if user.uid != u32::MAX && user.gid != u32::MAX => user,
            None if wanted == "root" || wanted == "0" => User {
                name: "root".into(),
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                home: "/root".into(),
                shell: "/bin/sh".into(),
            },
            // A number without an entry is a valid user too, with group 0 as in other container managers.
            None if wanted.parse::<u32>().is_ok_and(|uid| uid != u32::MAX) => User {
                name: wanted.to_owned(),
                uid: wanted.parse().unwrap_or_default(),
                gid: 0,
                groups: Vec::new(),
                home: "/".into(),
                shell: "/bin/sh".into(),
            },
            _ => {
                return Err(Error::new(format!("user '{wanted}' does not exist in {}", self.name))
                    .with_kind(Kind::UnknownUser)
                    .with_hint("name a user of its /etc/passwd, or a number"));
            }
        };
        Ok(User { groups: self.groups(&user.name), ..user })
    }

    /// Returns the names and numbers of all users and groups of the tree, in its passwd(5) and group(5).
    pub(crate) fn names(&self) -> HashSet<String> {
        let texts = ["/etc/passwd", "/etc/group"].map(|file| self.read_text(file).unwrap_or_default());
        let of_line = |line: &str| {
            let mut fields = line.split(':').map(str::to_owned);
            [fields.next(), fields.nth(1)].into_iter().flatten()
        };
        texts.iter().flat_map(|text| text.lines().flat_map(of_line)).collect()
    }

    /// Returns whether no user can log in with a password: each one of its shadow(5) is locked. `false`
    /// without this file.
    pub(crate) fn has_locked_users(&self) -> bool {
        let is_locked = |line: &str| line.split(':').nth(1).is_none_or(|field| field.starts_with(['!', '*']));
        self.read_text("/etc/shadow").is_some_and(|text| text.lines().all(is_locked))
    }

    /// Looks up a group of the tree, by name or number.
    ///
    /// # Errors
    /// There is no such group.
    pub fn group(&self, wanted: &str) -> Result<u32> {
        let group = self.read_text("/etc/group").unwrap_or_default();
        let of = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let (name, gid) = (*fields.first()?, *fields.get(2)?);
            (name == wanted || gid == wanted).then(|| gid.parse().ok()).flatten()
        };
        let number = || wanted.parse().ok().filter(|gid| *gid != u32::MAX);
        group.lines().find_map(of).or_else(number).ok_or_else(|| {
            Error::new(format!("group '{wanted}' does not exist in {}", self.name))
                .with_kind(Kind::UnknownUser)
                .with_hint("name a group of its /etc/group, or a number")
        })
    }

    fn groups(&self, name: &str) -> Vec<u32> {
        let group = self.read_text("/etc/group").unwrap_or_default();
        let of = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let member = fields.get(3)?.split(',').any(|member| member == name);
            member.then(|| fields.get(2)?.parse().ok()).flatten()
        };
        group.lines().filter_map(of).take(1024).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_journals_is_found() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let group = |text: &str| {
            std::fs::write(root.path().join("etc/group"), text).unwrap();
            Tree::open(root.path()).unwrap().group("systemd-journal").ok()
        };
        let text = "root:x:0:\nsystemd-journal2:x:7:\nsystemd-journal:x:999:web\n";
        assert_eq!(group(text), Some(999));
        assert_eq!(group("systemd-journal:x:\n"), None);
        assert_eq!(group(""), None);
    }

    #[test]
    fn names_and_numbers_of_users_and_groups_are_listed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "web:x:60514:7::/:/bin/sh\nbad\n").unwrap();
        std::fs::write(root.path().join("etc/group"), "users:x:100:web\n").unwrap();
        let mut names: Vec<String> = Tree::open(root.path()).unwrap().names().into_iter().collect();
        names.sort();
        assert_eq!(names, ["100", "60514", "bad", "users", "web"]);
    }
}
