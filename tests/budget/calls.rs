//! The report of tracer.c: counts of system calls by group, of processes, of executed programs and of round
//! trips. Called by `host`.

use std::collections::{BTreeMap, BTreeSet};

/// Waiting for events. The number of these calls depends on scheduling, as events arrive together or one by
/// one: they are counted separately, together with calls that had nothing to do yet.
const WAITS: &[i64] = &[
    libc::SYS_futex,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
];

const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // statmount(2) and listmount(2).
    457,
    458,
    // open_tree_attr(2).
    467,
];

const PROCESSES: &[i64] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_prlimit64,
    libc::SYS_setpriority,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
];

const NETWORK: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

const MEMORY: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
];

/// Neither files nor any group above: the state of the process itself, signals, time.
const OTHER: &[i64] = &[
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_eventfd2,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_bpf,
    libc::SYS_keyctl,
];

/// The groups with their calls; all remaining calls are of files and descriptors.
const GROUPS: &[(&str, &[i64])] = &[
    ("mounts", MOUNTS),
    ("processes", PROCESSES),
    ("network", NETWORK),
    ("memory", MEMORY),
    ("other", OTHER),
];

/// Counts the lines of a report. `calls` is the sum of the groups.
pub fn count(report: &str) -> BTreeMap<String, u64> {
    let names = ["calls", "calls-files", "waits", "execs", "bus-trips", "varlink-trips"].into_iter();
    let names = names.map(str::to_owned).chain(GROUPS.iter().map(|(name, _)| format!("calls-{name}")));
    let mut counts: BTreeMap<String, u64> = names.map(|name| (name, 0)).collect();
    let mut add = |name: &str, change: i64| {
        let count = counts.get_mut(name).unwrap_or_else(|| panic!("no count '{name}'"));
        *count = count.checked_add_signed(change).expect("a call ends after it has begun");
    };
    let mut roles = BTreeSet::new();
    for line in report.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [what @ ("call" | "vain"), role, number] => {
                roles.insert(role.to_owned());
                let number: i64 = number.parse().expect("a number");
                let change = if what == "call" { 1 } else { -1 };
                if WAITS.contains(&number) {
                    add("waits", change.max(0));
                    continue;
                }
                add("calls", change);
                add(&group(number), change);
                add("waits", i64::from(what == "vain"));
            }
            ["exec", _] => add("execs", 1),
            ["trip", _, service] => add(&format!("{service}-trips"), 1),
            ["idle", _] => {}
            _ => panic!("strange: {line}"),
        }
    }
    counts.insert("processes".into(), roles.len() as u64);
    counts
}

/// Returns the row of a call's group.
fn group(number: i64) -> String {
    let group = GROUPS.iter().find(|(_, calls)| calls.contains(&number));
    format!("calls-{}", group.map_or("files", |(name, _)| name))
}
