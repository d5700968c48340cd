//! The attacked tree, and the attackers that change it.

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

/// The changing names: the directory, and the name in it.
const NAMES: [(&str, &str); 14] = [
    ("", "dev"),
    ("", "proc"),
    ("", "sys"),
    ("", "run"),
    ("", "tmp"),
    ("", "etc"),
    ("etc", "resolv.conf"),
    ("etc", "hosts"),
    ("etc", "passwd"),
    ("", "srv"),
    ("srv", "a"),
    ("srv/a", "deep"),
    ("srv", "b"),
    ("", "usr"),
];
/// The number of files that are renamed to those names.
const DECOYS: usize = 10;

/// Creates a tree, and below it the files that are renamed to its names.
pub fn grow(tree: &Path, victim: &Path) {
    for place in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "etc",
        "usr/lib",
        "sbin",
        "srv/a/deep/place",
        "srv/b",
        "srv/secret",
    ] {
        fs::create_dir_all(tree.join(place)).unwrap();
    }
    for (file, text) in [
        ("etc/resolv.conf", "nameserver 192.0.2.1\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("usr/lib/os-release", "ID=x\n"),
        ("sbin/init", "#!/bin/sh\n"),
    ] {
        fs::write(tree.join(file), text).unwrap();
    }
    let up = format!("../../../../../../../..{}", victim.display());
    for attacker in 0..2 {
        let decoys = tree.join(format!("decoys{attacker}"));
        fs::create_dir(&decoys).unwrap();
        let at = |number: usize| decoys.join(number.to_string());
        symlink(&up, at(0)).unwrap();
        symlink(victim, at(1)).unwrap();
        symlink(format!("/proc/self/root{}", victim.display()), at(2)).unwrap();
        symlink(format!("{up}/hosts"), at(3)).unwrap();
        nix::unistd::mkfifo(&at(4), nix::sys::stat::Mode::S_IRWXU).unwrap();
        node(&at(5));
        fs::write(at(6), "x\n").unwrap();
        // Directories with all entries that the replaced directories have.
        pretend(&at(7), &up);
        pretend(&at(8), &up);
        fs::create_dir(at(9)).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(crate::mount_table::DECOY, at(9), "tmpfs", flags, None).unwrap();
    }
}

/// Creates a node of `/dev/full`: a write to it fails with ENOSPC.
fn node(at: &Path) {
    let device = rustix::fs::makedev(1, 7);
    rustix::fs::mknodat(CWD, at, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).unwrap();
}

fn pretend(at: &Path, up: &str) {
    for directory in
        ["pts", "host/inaccessible/dir", "fs/cgroup", "kernel", "bus", "deep/place", "systemd/network"]
    {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    for file in ["keys", "kcore", "timer_list", "hosts", "host/inaccessible/reg"] {
        fs::write(at.join(file), "x\n").unwrap();
    }
    for link in ["resolv.conf", "passwd", "shm", "mqueue", "secret", "sysrq-trigger", "firmware"] {
        symlink(up, at.join(link)).unwrap();
    }
    symlink(format!("{up}/notify"), at.join("log")).unwrap();
    symlink(format!("{up}/notify"), at.join("host/notify")).unwrap();
    node(&at.join("pts/ptmx"));
}

/// Exchanges names until it is killed. Uses descriptors, so that it always finds the directories again.
pub fn run(tree: &Path, seed: u64) -> ! {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let open = |path: &str| -> OwnedFd {
        rustix::fs::open(tree.join(path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    let names = NAMES.map(|(directory, name)| (open(directory), name));
    let decoys = open(&format!("decoys{seed}"));
    let mut random = seed * 2 + 1;
    let mut next = move |below: usize| {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).unwrap() % below
    };
    loop {
        // Each attacker has its own names: two attackers on one name would not restore it.
        let own = next(NAMES.len() / 2) * 2 + usize::from(seed != 0);
        let (directory, name) = &names[own];
        let decoy = next(DECOYS).to_string();
        let swap = || rustix::fs::renameat_with(directory, *name, &decoys, &decoy, RenameFlags::EXCHANGE);
        // The exchange fails if the name is missing in a directory that has just been replaced.
        let swapped = swap();
        pause(next(300));
        if swapped.is_ok() {
            swap().unwrap();
        }
        pause(1 << next(14));
    }
}

fn pause(microseconds: usize) {
    std::thread::sleep(Duration::from_micros(microseconds as u64));
}

/// Unmounts the mounts of the attackers, so that the tree can be removed.
pub fn clear(tree: &Path) {
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let at = Path::new(line.split(' ').nth(4).unwrap());
        if at.starts_with(tree) {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
