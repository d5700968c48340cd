//! The look-up of the payload's user inside, and the steps that depend on the result.

use super::InitStep;
use crate::plan::User;
use crate::sys::filter::Instruction;
use std::ffi::CString;
use std::path::PathBuf;

/// A look-up of a user by getent(1) of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserLookup {
    /// The name of the user.
    pub(crate) name: String,
    /// The user of this name in passwd(5) of the tree, for a machine without getent. `None` if it has none.
    pub(crate) listed: Option<User>,
    /// Whether the user keeps a missing home, which is created later. Otherwise the root directory replaces
    /// it.
    pub(crate) keeps_home: bool,
    /// Whether getent may gain privileges.
    pub(crate) no_new_privileges: bool,
    /// The system-call filter of getent. `None` without a filter.
    pub(crate) filter: Option<Vec<Instruction>>,
}

impl InitStep {
    /// Returns the step for the user that was found. Steps that do not depend on a user are unchanged.
    pub(crate) fn with_user(&self, user: &User) -> Self {
        let User { uid, gid, groups, home, shell, .. } = user.clone();
        match self.clone() {
            Self::CreateHome { .. } => Self::CreateHome { path: PathBuf::from(home), uid, gid },
            Self::User { .. } => Self::User { uid, gid, groups },
            Self::Home(_) => Self::Home(PathBuf::from(home)),
            Self::Execute { mut programs, argv, is_login, mut environment } => {
                // The login shell of an unknown user has no name yet.
                if programs.is_empty() {
                    programs.push(PathBuf::from(shell));
                }
                if !environment.iter().any(|variable| variable.to_bytes().starts_with(b"HOME=")) {
                    environment.extend(CString::new(format!("HOME={home}")).ok());
                }
                Self::Execute { programs, argv, is_login, environment }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn steps_of_an_unknown_user_become_those_of_the_found_one() {
        let user = User {
            name: "web".into(),
            uid: 3000,
            gid: 3001,
            groups: vec![7],
            home: "/srv".into(),
            shell: "/bin/ash".into(),
        };
        let execute = |programs: &[&str], variables: &[&str]| InitStep::Execute {
            programs: programs.iter().map(PathBuf::from).collect(),
            argv: vec![OsString::from("-")],
            is_login: true,
            environment: variables.iter().map(|text| CString::new(*text).unwrap()).collect(),
        };
        for (planned, found) in [
            (
                InitStep::User { uid: u32::MAX, gid: u32::MAX, groups: Vec::new() },
                InitStep::User { uid: 3000, gid: 3001, groups: vec![7] },
            ),
            (InitStep::Home("/".into()), InitStep::Home("/srv".into())),
            (InitStep::Directory("/etc".into()), InitStep::Directory("/etc".into())),
            (execute(&[], &["A=b"]), execute(&["/bin/ash"], &["A=b", "HOME=/srv"])),
            (execute(&["/bin/true"], &["HOME=/x"]), execute(&["/bin/true"], &["HOME=/x"])),
        ] {
            assert_eq!(planned.with_user(&user), found);
        }
    }
}
