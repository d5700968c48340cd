//! A command in a running machine, as steps: the way of PID 1 once more, from the door on. Called
//! by `control`; carried out by `payload`.

use super::step::{InitStep, LsmLabel, ResourceLimit};
use super::{User, filter, identity};
use crate::channel::SyncPoint;
use crate::error::Result;
use std::ffi::{CString, OsString};
use std::path::PathBuf;

/// What is to be executed in which surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments; empty: the user's login shell.
    pub argv: Vec<OsString>,
    /// Who executes it.
    pub user: User,
    /// The working directory inside; the user's home where not given.
    pub directory: Option<PathBuf>,
    /// Further variables, which win.
    pub environment: Vec<(String, String)>,
    /// `TERM`.
    pub terminal: String,
    /// Whether it gets a terminal of its own, as opposed to our streams.
    pub on_terminal: bool,
    /// What PID 1 of the machine was limited to.
    pub policy: filter::Policy,
    /// Whether executing gains no privileges.
    pub no_new_privileges: bool,
    /// The label of PID 1 that the security module gives what we execute, where it is not ours.
    pub label: Option<LsmLabel>,
    /// Whether the machine has a user namespace, whose root is to be become.
    pub user_namespace: bool,
    /// Whether the machine has a time namespace.
    pub time_namespace: bool,
    /// The resource limits of PID 1 of the machine.
    pub limits: Vec<ResourceLimit>,
}

/// The steps, in order.
///
/// # Errors
/// A filter that cannot be compiled.
pub fn steps(exec: &Exec) -> Result<Vec<InitStep>> {
    // The label first, while procfs is the host's: it is taken with the exec.
    let mut steps: Vec<InitStep> = exec.label.iter().cloned().map(InitStep::Label).collect();
    // Limits before the door: in the machine's user namespace no hard limit can be raised.
    // Where the host's root stays root too: who calls may have groups.
    steps.push(InitStep::Limits(exec.limits.clone()));
    steps.extend([InitStep::Join { time: exec.time_namespace }, InitStep::BecomeRoot]);
    // Before anything of the guest is touched: from here on we are no more than its PID 1.
    steps.extend([InitStep::Capabilities(exec.policy.capabilities), InitStep::Keyring]);
    let filter = InitStep::Filter(filter::compile(&exec.policy)?);
    if !exec.user_namespace {
        // Its root has rights over every process it sees, which a user namespace would not give him
        // (ptrace(2)). So it sees none of us before that has nothing left which it lacks itself.
        steps.extend([filter.clone(), InitStep::Confine(exec.policy.capabilities), InitStep::Replace]);
    }
    steps.push(if exec.on_terminal { InitStep::Terminal } else { InitStep::Streams });
    let User { uid, gid, groups, .. } = exec.user.clone();
    if uid != 0 || gid != 0 || !groups.is_empty() {
        steps.push(InitStep::User { uid, gid, groups });
    }
    let home = PathBuf::from(&exec.user.home);
    steps.push(InitStep::Directory(exec.directory.clone().unwrap_or(home)));
    if exec.no_new_privileges {
        steps.push(InitStep::NoNewPrivileges);
    }
    steps.extend([InitStep::Sync(SyncPoint::Ready), InitStep::CleanSlate]);
    if exec.user_namespace {
        steps.push(filter);
    }
    let (programs, argv) = if exec.argv.is_empty() {
        let name = format!("-{}", exec.user.shell.rsplit('/').next().unwrap_or("sh"));
        (vec![PathBuf::from(&exec.user.shell)], vec![OsString::from(name)])
    } else {
        (super::candidates(&exec.argv), exec.argv.clone())
    };
    steps.push(InitStep::Execute { programs, argv, environment: environment(exec) });
    Ok(steps)
}

/// The whole environment: what a login gives, and nothing of ours.
fn environment(exec: &Exec) -> Vec<CString> {
    let user = &exec.user;
    let path = identity::search_path().collect::<Vec<_>>().join(":");
    let own = [
        ("PATH", path.as_str()),
        ("container", identity::MANAGER),
        ("TERM", &exec.terminal),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
        ("LANG", "C.UTF-8"),
    ];
    let given = exec.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let kept = own.into_iter().filter(|(name, _)| exec.environment.iter().all(|(given, _)| given != name));
    kept.chain(given).filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Exec {
        Exec {
            argv: Vec::new(),
            user: User {
                name: "ann".into(),
                uid: 1000,
                gid: 1000,
                groups: vec![4],
                home: "/home/ann".into(),
                shell: "/bin/bash".into(),
            },
            directory: None,
            environment: vec![("TERM".into(), "x".into()), ("A".into(), "b".into())],
            terminal: "xterm".into(),
            on_terminal: false,
            policy: filter::Policy {
                capabilities: 1,
                allow: Vec::new(),
                deny: Vec::new(),
                socketcall: false,
            },
            no_new_privileges: true,
            label: Some(LsmLabel { file: "/proc/thread-self/attr/exec", text: "x".into() }),
            user_namespace: true,
            time_namespace: true,
            limits: Vec::new(),
        }
    }

    #[test]
    fn rights_go_before_anything_of_the_guest_is_touched() {
        let steps = steps(&exec()).unwrap();
        let at = |wanted: fn(&InitStep) -> bool| steps.iter().position(wanted).unwrap();
        let rights = at(|step| matches!(step, InitStep::Capabilities(_)));
        let join = at(|step| matches!(step, InitStep::Join { time: true }));
        assert!(at(|step| matches!(step, InitStep::Label(_))) < join && join < rights);
        for later in [
            at(|step| matches!(step, InitStep::Streams)),
            at(|step| matches!(step, InitStep::User { .. })),
            at(|step| matches!(step, InitStep::Directory(_))),
        ] {
            assert!(rights < later);
        }
        assert!(matches!(&steps[steps.len() - 2], InitStep::Filter(_)));
    }

    #[test]
    fn without_users_of_its_own_a_machine_sees_only_what_is_confined() {
        let steps = steps(&Exec { user_namespace: false, on_terminal: true, ..exec() }).unwrap();
        let at = |wanted: fn(&InitStep) -> bool| steps.iter().position(wanted).unwrap();
        let seen = at(|step| matches!(step, InitStep::Replace));
        assert!(
            at(|step| matches!(step, InitStep::Join { .. })) < at(|step| matches!(step, InitStep::Filter(_)))
        );
        assert!(matches!(&steps[seen - 1], InitStep::Confine(1)));
        assert!(matches!(&steps[seen - 2], InitStep::Filter(_)));
        assert!(matches!(&steps[seen + 1], InitStep::Terminal));
        assert_eq!(steps.iter().filter(|step| matches!(step, InitStep::Filter(_))).count(), 1);
    }

    #[test]
    fn a_login_shell_has_its_dash_and_what_is_given_wins() {
        let steps = steps(&exec()).unwrap();
        let Some(InitStep::Execute { programs, argv, environment }) = steps.last() else { panic!() };
        assert_eq!((programs[0].to_str(), argv[0].to_str()), (Some("/bin/bash"), Some("-bash")));
        let has = |text: &str| environment.iter().any(|variable| variable.to_str() == Ok(text));
        assert!(has("TERM=x") && has("A=b") && has("HOME=/home/ann") && !has("TERM=xterm"));
    }
}
