//! The tree in the guest: the mount table, and masked and read-only files, which root in the guest cannot
//! change.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::lab::{Lab, Mounts};

/// A row of mountinfo: the mounted file system, and the options of the mount itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    kind: String,
    options: String,
    is_shared: bool,
}

/// Parses the mounts of the guest; of several mounts on one path, returns the top one.
fn mounts(text: &str) -> BTreeMap<String, Mount> {
    let row = |line: &str| {
        let (before, after) = line.split_once(" - ").unwrap();
        let fields: Vec<&str> = before.split(' ').collect();
        let options = fields[5].split(',').filter(|option| !["relatime", "idmapped"].contains(option));
        let mount = Mount {
            kind: after.split(' ').next().unwrap().to_owned(),
            options: options.collect::<Vec<_>>().join(","),
            is_shared: fields.iter().any(|field| field.starts_with("shared:")),
        };
        (fields[4].to_owned(), mount)
    };
    text.lines().map(row).collect()
}

/// The documented mounts: target, type, options.
const PROMISED: &[(&str, &str, &str)] = &[
    ("/tmp", "tmpfs", "rw,nosuid,nodev"),
    ("/dev", "tmpfs", "rw,nosuid"),
    ("/dev/pts", "devpts", "rw,nosuid,noexec"),
    ("/dev/shm", "tmpfs", "rw,nosuid,nodev"),
    ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec"),
    ("/run", "tmpfs", "rw,nosuid,nodev"),
    ("/run/host", "tmpfs", "ro,nosuid,nodev,noexec"),
    ("/sys/fs/cgroup", "cgroup2", "rw,nosuid,nodev,noexec"),
    ("/proc", "proc", "rw,nosuid,nodev,noexec"),
    ("/proc/sys", "proc", "ro,nosuid,nodev,noexec"),
    ("/proc/sys/net", "proc", "rw,nosuid,nodev,noexec"),
    ("/proc/sys/kernel/random/boot_id", "tmpfs", "ro,nosuid,nodev,noexec"),
    ("/proc/kmsg", "tmpfs", "ro,nosuid,nodev,noexec"),
];
const MASKED: [&str; 11] = [
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "sysrq-trigger",
    "timer_list",
];
const READ_ONLY: [&str; 4] = ["apm", "bus", "fs", "irq"];
const SYSFS: [&str; 6] = ["block", "bus", "class", "dev", "devices", "kernel"];

/// Returns the entries of `/proc` that this kernel has.
fn present(names: &[&str]) -> Vec<String> {
    let paths = names.iter().map(|name| format!("/proc/{name}"));
    paths.filter(|path| Path::new(path).exists()).collect()
}

/// Returns the complete documented mount table.
fn promised(root: &str, sysfs: &[(&str, &str)]) -> BTreeMap<String, Mount> {
    let inert = "ro,nosuid,nodev,noexec";
    let mut rows: Vec<(String, &str, &str)> = vec![("/".into(), root, "rw")];
    rows.extend(PROMISED.iter().map(|(path, kind, options)| ((*path).into(), *kind, *options)));
    rows.extend(sysfs.iter().map(|(path, kind)| ((*path).into(), *kind, inert)));
    rows.extend(present(&MASKED).into_iter().map(|path| (path, "tmpfs", inert)));
    rows.extend(present(&READ_ONLY).into_iter().map(|path| (path, "proc", inert)));
    let mount = |kind: &str, options: &str| Mount {
        kind: kind.to_owned(),
        options: options.to_owned(),
        is_shared: true,
    };
    rows.into_iter().map(|(path, kind, options)| (path, mount(kind, options))).collect()
}

#[test]
#[ignore = "needs root"]
fn mounts_are_as_documented() {
    let lab = Lab::new();
    for origin in [Mounts::Empty, Mounts::Host] {
        lab.copy_mounts_of(origin);
        assert_mounts(&lab);
    }
}

/// Asserts that the mounts of the machine are the documented ones.
fn assert_mounts(lab: &Lab) {
    let found = mounts(&lab.sh(&[], "cat /proc/self/mountinfo"));
    let root = found["/"].kind.clone();
    let parts = SYSFS.map(|part| format!("/sys/{part}"));
    let mut sysfs = vec![("/sys", "tmpfs")];
    sysfs.extend(parts.iter().map(|path| (path.as_str(), "sysfs")));
    assert_eq!(found, promised(&root, &sysfs));
    // Without a network namespace, sysfs has no restricted subdirectories.
    let found = mounts(&lab.sh_plain(&[], "cat /proc/self/mountinfo"));
    let mut whole = promised(&root, &[("/sys", "sysfs")]);
    whole.remove("/proc/sys/net");
    if Path::new("/sys/firmware").exists() {
        let options = "ro,nosuid,nodev,noexec".to_owned();
        whole.insert("/sys/firmware".into(), Mount { kind: "tmpfs".into(), options, is_shared: true });
    }
    assert_eq!(found, whole);
}

#[test]
#[ignore = "needs root"]
fn masks_cannot_be_unmounted() {
    let lab = Lab::new();
    // Each line tries to access a masked file or to make a mount writable; all must fail.
    let script = r#"
        exec 2>/dev/null
        mkdir /root/place
        while read -r _ _ _ _ target _; do
            umount "$target" && echo "umount $target"
            umount -l "$target" && echo "umount -l $target"
            case $target in
            /proc/sys/net) ;;
            /proc/?* | /sys | /sys/[bcdk]* | /run/host)
                mount -o remount,rw,bind "$target" && echo "remount $target"
                mount --move "$target" /root/place && echo "move $target" ;;
            esac
            [ "$target" = / ] || {
                mount -o bind "${target%/*}/" /root/place && [ "${target%/*}" != /dev ] && echo "bind ${target%/*}"
                umount /root/place
            }
        done </proc/self/mountinfo
        mount -t proc proc /root/place && echo 'a proc of its own'
        mount -t sysfs sysfs /root/place && echo 'a sysfs of its own'
        for kind in debugfs tracefs securityfs bpf; do
            mount -t "$kind" "$kind" /root/place && echo "mount $kind"
        done
        unshare -m sh -c 'umount /proc/sys && echo "umount in a mount namespace"'
        pivot_root / / && echo 'pivot_root'
        exit 0
    "#;
    for origin in [Mounts::Empty, Mounts::Host] {
        lab.copy_mounts_of(origin);
        let output = lab.run(&[], &["sh", "-c", script]).success("trying");
        assert_eq!(output.stdout, "", "{origin:?}: {output}");
    }
}

#[test]
#[ignore = "needs root"]
fn masked_files_are_empty() {
    let lab = Lab::new();
    for plain in [false, true] {
        let script = "for name in acpi asound interrupts kallsyms kcore keys latency_stats sched_debug scsi sysrq-trigger \
            timer_list; do
            path=/proc/$name
            [ ! -e $path ] || stat -c '%n %a %s %F' $path
            if [ -d $path ]; then ls -A $path; else cat $path 2>/dev/null || :; fi
            { echo x >$path; } 2>/dev/null && echo \"wrote $path\"
        done; :";
        let told = if plain { lab.sh_plain(&[], script) } else { lab.sh(&[], script) };
        let empty = |path: &String| match Path::new(path).is_dir() {
            true => format!("{path} 0 40 directory\n"),
            false => format!("{path} 0 0 regular empty file\n"),
        };
        let expected: String = present(&MASKED).iter().map(empty).collect();
        assert_eq!(told, expected);
    }
}

#[test]
#[ignore = "needs root"]
fn only_network_sysctls_are_writable() {
    let lab = Lab::new();
    let script = "
        try() { { echo 1 >$1; } 2>/dev/null && echo $1; :; }
        try /proc/sys/kernel/panic
        try /proc/sys/vm/swappiness
        try /proc/sys/kernel/random/boot_id
        try /proc/sys/net/ipv4/ip_forward
        try /proc/sys/net/ipv4/conf/lo/forwarding
        try /proc/irq/default_smp_affinity
        try /sys/new
        try /sys/kernel/mm/ksm/run
        try /sys/fs/new
        try /run/host/new
        try /run/host/container-manager
        cat /proc/sys/net/ipv4/ip_forward";
    let told = lab.sh(&[], script);
    assert_eq!(told, "/proc/sys/net/ipv4/ip_forward\n/proc/sys/net/ipv4/conf/lo/forwarding\n1\n");
    // For the host's root, only the read-only mount prevents the write; the written value is the current one.
    let script = "try() { read -r old <$1 || :; { echo \"$old\" >$1; } 2>/dev/null && echo $1; :; }
        try /proc/sys/kernel/panic; try /sys/kernel/mm/ksm/run; try /proc/sys/net/ipv4/ip_forward";
    assert_eq!(lab.sh_plain(&["--private-network"], script), "/proc/sys/net/ipv4/ip_forward\n");
    assert_eq!(lab.sh_plain(&[], script), "");
}

#[test]
#[ignore = "needs root"]
fn devices_are_the_standard_ones() {
    let lab = Lab::new();
    let told = lab.sh(&[], "cd /dev; stat -c '%n %F %a %t:%T %u:%g' * char/* | sort; for link in ptmx fd core; do readlink $link; done");
    let mut expected: Vec<String> =
        ["full 1:7", "null 1:3", "random 1:8", "tty 5:0", "urandom 1:9", "zero 1:5"]
            .iter()
            .map(|device| device.split_once(' ').unwrap())
            .map(|(name, number)| format!("{name} character special file 666 {number} 0:0"))
            .collect();
    let links = ["char/1:3", "char/1:5", "char/1:7", "char/1:8", "char/1:9", "char/5:0"]
        .into_iter()
        .chain(["core", "fd", "ptmx", "stderr", "stdin", "stdout"]);
    expected.extend(links.map(|link| format!("{link} symbolic link 777 0:0 0:0")));
    expected.extend(["char", "net"].map(|name| format!("{name} directory 755 0:0 0:0")));
    expected.push("shm directory 1777 0:0 0:0".into());
    // The terminals belong to the host's root, which is not mapped in the guest. The message queues belong to
    // the owner of the user namespace, which is the machine's root.
    expected.push("mqueue directory 1777 0:0 0:0".into());
    expected.push("pts directory 755 0:0 65534:65534".into());
    expected.sort();
    let (devices, links) = told.split_at(told.find("pts/ptmx").unwrap());
    assert_eq!(devices.lines().collect::<Vec<_>>(), expected);
    assert_eq!(links, "pts/ptmx\n/proc/self/fd\n/proc/kcore\n");
    let works = "echo x >/dev/null; head -c 2 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c
        { echo x >/dev/full; } 2>/dev/null || echo full
        mknod /root/disk b 254 0 2>/dev/null || echo refused
        mknod /tmp/mem c 1 1 2>/dev/null || echo refused";
    assert_eq!(lab.sh(&[], works), "2\n2\nfull\nrefused\nrefused\n");
    // Not by default: tun and fuse require security.nesting or security.devices.
    assert_eq!(lab.sh(&[], "ls /dev/net"), "");
}

#[test]
#[ignore = "needs root"]
fn run_host_describes_the_manager() {
    let lab = Lab::new();
    let told = lab.sh(
        &["--uuid=6d1d3ac08d0f4d2a9a0c5b1f3c7e9d21"],
        "cd /run/host; stat -c '%n %F %a %u' $(find . | sort)
         cat container-manager container-uuid; cmp os-release /root/none 2>&1 | head -c 0
         cmp proc-sys-kernel-random-boot-id /proc/sys/kernel/random/boot_id && echo same",
    );
    let kinds = [
        (". directory 755"),
        ("./container-manager regular file 444"),
        ("./container-uuid regular file 444"),
        ("./inaccessible directory 555"),
        ("./inaccessible/blk block special file 0"),
        ("./inaccessible/chr character special file 0"),
        ("./inaccessible/dir directory 0"),
        ("./inaccessible/fifo fifo 0"),
        ("./inaccessible/reg regular empty file 0"),
        ("./inaccessible/sock socket 0"),
        ("./incoming directory 600"),
        ("./notify socket 200"),
        ("./os-release regular file 444"),
        ("./proc-kmsg fifo 600"),
        ("./proc-sys-kernel-random-boot-id regular file 444"),
    ];
    // In a container, the empty devices cannot be created and are left out.
    let is_device = |line: &&str| line.contains("special file");
    let expected: Vec<String> = kinds
        .iter()
        .filter(|line| !is_device(line) || told.contains("special file"))
        .map(|line| format!("{line} 0"))
        .chain(["systemd-nspawn", "6d1d3ac0-8d0f-4d2a-9a0c-5b1f3c7e9d21", "same"].map(str::to_owned))
        .collect();
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    let host = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    assert_eq!(lab.sh(&[], "cat /run/host/os-release"), host);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let [one, other] = [(), ()].map(|()| lab.sh(&[], "cat /proc/sys/kernel/random/boot_id"));
    assert!(one != boot && other != boot && one != other, "boot ids {one} {other}");
}

#[test]
#[ignore = "needs root"]
fn files_of_the_host_are_invisible() {
    let lab = Lab::new();
    lab.file("/secret", "of the host");
    let look = "ls /; ls -a /.. | tail -n +3; ls /proc/1/root/ /proc/self/cwd/../
        stat -c %i / /.. /proc/1/root/ | uniq | wc -l; set -- /proc/[0-9]*; echo $#; ls -A /tmp /run /dev/shm";
    let told = lab.sh(&[], look);
    let tree = "bin\ndev\netc\nlib\nlib64\nproc\nroot\nrun\nsbin\nsys\ntmp\nusr\n";
    let roots = format!("/proc/1/root/:\n{tree}\n/proc/self/cwd/../:\n{tree}");
    // The only process is the shell.
    let rest = "1\n1\n/dev/shm:\n\n/run:\nhost\nsystemd\n\n/tmp:\n";
    assert_eq!(told, format!("{tree}{tree}{roots}{rest}"));
    // The root of the guest is the root of the tree, compared by device and inode.
    let here = std::fs::metadata(lab.tree()).unwrap();
    assert_eq!(lab.sh(&[], "stat -c %i /").trim(), here.ino().to_string());
}

#[test]
#[ignore = "needs root"]
fn only_mount_points_are_created_in_the_tree() {
    let lab = Lab::new();
    lab.sh(&[], "true");
    let mut names: Vec<String> = std::fs::read_dir(lab.tree())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = ["bin", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr"];
    assert_eq!(names, expected);
    for name in ["dev", "proc", "run", "sys", "tmp"] {
        assert_eq!(std::fs::read_dir(lab.tree().join(name)).unwrap().count(), 0, "{name}");
    }
}
