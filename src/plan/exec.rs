//! A command in a running machine, as steps: it joins the machine and then drops the same rights as PID 1.
//! Called by `control`; carried out by `payload`.

use super::step::{InitStep, LsmLabel, ResourceLimit};
use super::{User, filter, identity};
use crate::channel::SyncPoint;
use crate::error::Result;
use std::ffi::{CString, OsString};
use std::path::PathBuf;

/// A command and its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exec {
    /// The program and its arguments; empty: the user's login shell.
    pub(crate) argv: Vec<OsString>,
    /// The working directory inside. `None` for the user's home.
    pub(crate) directory: Option<PathBuf>,
    /// Further variables, which replace the defaults.
    pub(crate) environment: Vec<(String, String)>,
    /// `TERM`.
    pub(crate) terminal: String,
    /// Whether it gets a terminal of its own instead of the caller's streams.
    pub(crate) on_terminal: bool,
    /// The system-call policy of the machine's PID 1.
    pub(crate) policy: filter::Policy,
    /// Whether to set PR_SET_NO_NEW_PRIVS(2const).
    pub(crate) no_new_privileges: bool,
    /// The signals that this process ignores, a mask: bit 0 is signal 1.
    pub(crate) ignored_signals: u64,
    /// Whether all ids of this process are 0, and all its permitted capabilities are effective.
    pub(crate) is_root: bool,
    /// The label of PID 1 in the security module. `None` if the caller has the same one.
    pub(crate) label: Option<LsmLabel>,
    /// Whether the machine has a user namespace.
    pub(crate) user_namespace: bool,
    /// Whether the machine has a time namespace.
    pub(crate) time_namespace: bool,
    /// The resource limits of PID 1 of the machine.
    pub(crate) limits: Vec<ResourceLimit>,
    /// The processors of the machine; empty for all.
    pub(crate) cpu_affinity: Vec<u16>,
    /// The execution domain of the machine (personality(2)); `None` for that of Coracle.
    pub(crate) personality: Option<u32>,
    /// Whether it gets a network namespace of its own, with a loopback interface only.
    pub(crate) is_offline: bool,
}

/// The steps of a command that do not depend on its user.
#[derive(Debug)]
pub(crate) struct EntrySteps {
    /// The steps that enter the machine.
    pub(crate) entry: Vec<InitStep>,
    /// The filter, if the command still loads it.
    filter: Option<InitStep>,
}

/// Returns the steps that enter the machine, in order.
///
/// # Errors
/// A filter that cannot be compiled.
pub(crate) fn entry_steps(exec: &Exec) -> Result<EntrySteps> {
    // The label first, while procfs is the host's: it takes effect with the exec.
    let mut entry: Vec<InitStep> = exec.label.iter().cloned().map(InitStep::Label).collect();
    // Limits before the join: in the machine's user namespace no hard limit can be raised.
    // BecomeRoot also without a user namespace: the caller may have supplementary groups.
    entry.push(InitStep::Limits(exec.limits.clone()));
    entry.extend(of_process(&exec.cpu_affinity, exec.personality));
    let is_root = exec.is_root && !exec.user_namespace;
    entry.extend([InitStep::Join { time: exec.time_namespace }, InitStep::BecomeRoot { is_root }]);
    // With the rights of root inside, which owns the namespace.
    entry.extend(exec.is_offline.then_some(InitStep::Offline));
    // Before any access to files of the guest: from here on the process has no more rights than PID 1.
    entry.extend([InitStep::Capabilities(exec.policy.capabilities), InitStep::Keyring]);
    let mut filter = Some(InitStep::Filter(filter::compile(&exec.policy)?));
    if !exec.user_namespace {
        // Without a user namespace, the guest's root can trace every visible process (ptrace(2)). So the
        // process enters the pid namespace only after it has dropped all rights that the guest's root lacks.
        entry.extend(filter.take());
        entry.extend([InitStep::Confine(exec.policy.capabilities), InitStep::Replace]);
    }
    Ok(EntrySteps { entry, filter })
}

/// Returns the steps for the processors and the execution domain of a process.
pub(super) fn of_process(cpu_affinity: &[u16], personality: Option<u32>) -> impl Iterator<Item = InitStep> {
    let affinity = (!cpu_affinity.is_empty()).then(|| InitStep::CpuAffinity(cpu_affinity.to_vec()));
    affinity.into_iter().chain(personality.map(InitStep::Personality))
}

/// Returns the steps of a command of a user, in order, after those that enter the machine.
pub(crate) fn command_steps(exec: &Exec, user: &User, entered: &EntrySteps) -> Vec<InitStep> {
    let mut steps = vec![if exec.on_terminal { InitStep::Terminal } else { InitStep::Streams }];
    let User { uid, gid, groups, .. } = user;
    if *uid != 0 || *gid != 0 || !groups.is_empty() {
        steps.push(InitStep::User { uid: *uid, gid: *gid, groups: groups.clone() });
    }
    let home = || PathBuf::from(&user.home);
    steps.push(InitStep::Directory(exec.directory.clone().unwrap_or_else(home)));
    if exec.no_new_privileges {
        steps.push(InitStep::NoNewPrivileges);
    }
    steps.extend([
        // The parent sets the size of a terminal before the command can query it.
        if exec.on_terminal { InitStep::Sync(SyncPoint::Ready) } else { InitStep::Report(SyncPoint::Ready) },
        InitStep::CleanSlate { ignored_signals: exec.ignored_signals, passed_descriptors: 0 },
    ]);
    steps.extend(entered.filter.clone());
    let (programs, argv) = if exec.argv.is_empty() {
        let name = format!("-{}", user.shell.rsplit('/').next().unwrap_or("sh"));
        (vec![PathBuf::from(&user.shell)], vec![OsString::from(name)])
    } else {
        (super::candidates(&exec.argv, &exec.environment), exec.argv.clone())
    };
    let environment = environment(exec, user);
    steps.push(InitStep::Execute { programs, argv, is_login: false, environment });
    steps
}

/// Returns the whole environment: that of a login, without variables of the caller.
fn environment(exec: &Exec, user: &User) -> Vec<CString> {
    let path = identity::search_path(&[]).collect::<Vec<_>>().join(":");
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
            directory: None,
            environment: vec![("TERM".into(), "x".into()), ("A".into(), "b".into())],
            terminal: "xterm".into(),
            on_terminal: false,
            policy: filter::Policy {
                capabilities: 1,
                allow: Vec::new(),
                deny: Vec::new(),
                socketcall: false,
                suppress_sync: false,
                families: crate::machine::address_families::AddressFamilies::All,
                profile: None,
            },
            no_new_privileges: true,
            ignored_signals: 0,
            is_root: true,
            label: Some(LsmLabel { file: "/proc/thread-self/attr/exec", text: "x".into() }),
            user_namespace: true,
            time_namespace: true,
            limits: Vec::new(),
            cpu_affinity: Vec::new(),
            personality: None,
            is_offline: false,
        }
    }

    fn steps(exec: &Exec) -> Vec<InitStep> {
        let user = User {
            name: "ann".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![4],
            home: "/home/ann".into(),
            shell: "/bin/bash".into(),
        };
        let entered = entry_steps(exec).unwrap();
        let command = command_steps(exec, &user, &entered);
        entered.entry.into_iter().chain(command).collect()
    }

    #[test]
    fn rights_are_dropped_before_files_of_the_guest_are_used() {
        let steps = steps(&exec());
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
    fn without_a_user_namespace_the_guest_sees_only_a_confined_process() {
        let steps = steps(&Exec { user_namespace: false, on_terminal: true, ..exec() });
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
    fn a_login_shell_has_a_dash_and_given_variables_win() {
        let steps = steps(&exec());
        let Some(InitStep::Execute { programs, argv, environment, .. }) = steps.last() else { panic!() };
        assert_eq!((programs[0].to_str(), argv[0].to_str()), (Some("/bin/bash"), Some("-bash")));
        let has = |text: &str| environment.iter().any(|variable| variable.to_str() == Ok(text));
        assert!(has("TERM=x") && has("A=b") && has("HOME=/home/ann") && !has("TERM=xterm"));
    }
}
