//! Access to the host that a definition, or the location of a tree, gives to a machine or to users of the
//! host: it is refused, or reported by all commands.

use super::machines::Machines;
use crate::support::{Host, LONG};

/// The command prefix for an unprivileged user. The execve(2) of setpriv itself still has the capabilities of
/// root.
const UNPRIVILEGED: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups --";

#[test]
fn a_tree_reachable_by_users_of_the_host_is_refused() {
    let machines = Machines::shared();
    let host = machines.host();
    let tree = "/var/tmp/open/reach";
    host.sh_ok(&format!(
        "mkdir -p -m 755 /var/tmp/open; cp -a /var/lib/machines/own {tree}; chmod 755 {tree}"
    ));
    let root = format!("[root]\ndirectory = \"{tree}\"\n");
    let bind = "[root]\ndirectory = \"/var/lib/machines/own2\"\n[[mount]]\nsource = \"/var/tmp/open\"\n";
    host.add_guest("busybox", "own2");
    let starts = |definition: &str| {
        host.define("reach", definition);
        let out = host.exec_for(LONG, &["coracle", "start", "reach"]);
        let named = out.stderr.contains("can be reached by every user of this host")
            && out.stderr.contains("chmod 700");
        assert!(out.status == 0 || named, "{out}");
        let check = host.exec(&["coracle", "check", "/etc/coracle/machines.d/reach.toml"]);
        assert_eq!(check.status, 0, "{check}");
        assert_eq!(check.stdout.contains("can be reached"), out.status != 0, "{check}");
        host.exec(&["coracle", "stop", "reach"]);
        host.exec(&["systemctl", "reset-failed", "coracle@reach"]);
        out.status == 0
    };
    for (mode, own, closed) in
        [("755", "755", false), ("711", "700", false), ("750", "755", true), ("700", "755", true)]
    {
        host.sh_ok(&format!("chmod {mode} /var/tmp/open; chmod {own} {tree}"));
        for users in ["", "[users]\nprivate = \"no\"\n", "[users]\nprivate = \"identity\"\n"] {
            assert_eq!(starts(&format!("{root}{users}")), closed, "{mode} {own} {users}");
        }
    }
    // A directory with mode 700 is accessible to its owner.
    host.sh_ok("chown 1000 /var/tmp/open; chmod 700 /var/tmp/open");
    assert!(!starts(&root));
    host.sh_ok("chown 0 /var/tmp/open; chmod 755 /var/tmp/open; mkdir /var/tmp/open/data");
    let data = bind.replace("/var/tmp/open", "/var/tmp/open/data");
    assert!(!starts(&format!("{data}map-ids = true\n")));
    assert!(!starts(&format!("{data}[users]\nprivate = \"no\"\n")));
    for harmless in ["", "read-only = true\nmap-ids = true\n"] {
        assert!(starts(&format!("{data}{harmless}")), "{harmless}");
    }
    // In the foreground the location is the choice of the caller: it is a warning.
    let out = host.exec(&["coracle", "run", "--console=pipe", "-UD", tree, "true"]);
    assert!(out.status == 0 && out.stderr.contains("can be reached by every user"), "{out}");
    host.sh_ok("rm -r /var/tmp/open /etc/coracle/machines.d/reach.toml");
}

#[test]
fn a_tree_that_becomes_reachable_is_reported() {
    let machines = Machines::shared();
    let host = machines.host();
    host.sh_ok("mkdir -p -m 700 /var/tmp/later; cp -a /var/lib/machines/own /var/tmp/later/tree");
    host.define("later", "[root]\ndirectory = \"/var/tmp/later/tree\"\n");
    host.coracle(&["start", "later"]);
    machines
        .sh("later", "cp /usr/bin/probe /usr/bin/left; chmod 4755 /usr/bin/left")
        .success("a setuid program");
    let left = format!("{UNPRIVILEGED} sh -c '/var/tmp/later/tree/usr/bin/left user'");
    assert_ne!(host.sh(&left).status, 0);
    // Only of this machine: the lists also contain the machines of other tests.
    let reported = |expected: bool| {
        let list = host.coracle(&["list"]);
        let line = list.lines().find(|line| line.starts_with("later ")).unwrap();
        assert_eq!(line.trim_end().ends_with("tree"), expected, "{list}");
        let list: serde_json::Value = serde_json::from_str(&host.coracle(&["list", "--json"])).unwrap();
        let row = list.as_array().unwrap().iter().find(|row| row["name"] == "later").unwrap();
        assert_eq!(row["unconfined"][0] == "tree", expected, "{row}");
        for words in [&["inspect", "later", "--security"][..], &["doctor", "later"]] {
            let out = host.exec(&[&["coracle"], words].concat());
            assert_eq!(out.stdout.contains("every user of th"), expected, "{out}");
            assert_eq!(out.status != 0, expected && words[0] == "doctor", "{out}");
        }
    };
    reported(false);
    host.ok(&["chmod", "755", "/var/tmp/later"]);
    // The reported risk: users of the host can execute a setuid program of the guest.
    assert_eq!(host.sh_ok(&left).trim(), "0");
    reported(true);
    host.coracle(&["stop", "later"]);
    host.sh_ok("rm -r /var/tmp/later /etc/coracle/machines.d/later.toml");
}

#[test]
fn a_bind_reachable_by_users_of_the_host_is_warned_of() {
    let machines = Machines::shared();
    let host = machines.host();
    host.sh_ok("mkdir -p /var/tmp/live");
    for (map, warned) in [("ids", true), ("none", false)] {
        let option = format!("--map={map}");
        let out = host
            .exec(&["coracle", "bind", "--mkdir", &option, "own", "/var/tmp/live", "/srv/live"])
            .success("bind");
        assert_eq!(out.stderr.contains("can be reached by every user"), warned, "{map}: {out}");
        host.coracle(&["unbind", "own", "/srv/live"]);
    }
}

/// Returns whether root in the machine can write a file of procfs or sysfs.
fn writes(host: &Host, machine: &str, file: &str) -> bool {
    let script = format!("old=$(cat {file}) && echo \"$old\" >{file}");
    host.exec(&["coracle", "exec", "-T", machine, "--", "sh", "-c", &script]).status == 0
}

#[test]
fn the_ids_of_the_host_are_reported_and_never_nest() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "ids");
    let both = "[users]\nprivate = \"identity\"\n[security]\nnesting = true\n";
    host.define("ids", both);
    for verb in [&["check", "/etc/coracle/machines.d/ids.toml"][..], &["start", "ids"]] {
        let out = host.exec(&[&["coracle"], verb].concat());
        let all = format!("{}{}", out.stdout, out.stderr);
        assert!(out.status != 0 && all.contains("security.nesting requires separate user ids"), "{out}");
        assert!(all.contains("users.private = \"pick\""), "{out}");
    }
    host.exec(&["systemctl", "reset-failed", "coracle@ids"]);
    host.define("ids", "[users]\nprivate = \"identity\"\n");
    let out = host.exec(&["coracle", "set", "ids", "security.nesting=true"]);
    assert!(out.status != 0 && out.stderr.contains("security.nesting requires separate user ids"), "{out}");
    host.coracle(&["start", "ids"]);
    for words in [&["list", "--no-legend"][..], &["inspect", "ids"], &["show", "ids", "-p", "unconfined"]] {
        assert!(host.coracle(words).contains("users"), "{words:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&host.coracle(&["list", "--json"])).unwrap();
    let row = json.as_array().unwrap().iter().find(|row| row["name"] == "ids").unwrap();
    assert_eq!(row["unconfined"][0], "users", "{row}");
    assert!(host.coracle(&["doctor", "ids"]).contains("its user ids are those of the host"));
    for file in ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sys/net/ipv4/tcp_rmem"] {
        // The sysctls of its network namespace belong to the machine.
        assert_eq!(writes(host, "ids", file), file.contains("/net/"), "{file}");
    }
    host.coracle(&["stop", "ids"]);
    host.sh_ok("rm -r /etc/coracle/machines.d/ids.toml*");
}

/// A script that prints the files in procfs and sysfs instances without masks that root in the machine can
/// open for writing, except for files of processes and of the network namespace.
const WRITABLE: &str = "mkdir -p /tmp/p /tmp/s; mount -t proc proc /tmp/p; mount -t sysfs sysfs /tmp/s; \
    for f in $(find /tmp/p /tmp/s -maxdepth 7 ! -path '/tmp/p/[0-9]*' ! -path '/tmp/p/self*' ! -path '/tmp/p/thread-self*' \
        ! -path '/tmp/p/sys/net/*' ! -path '/tmp/p/pressure/*' ! -path '/tmp/s/devices/virtual/net/*' -type f 2>/dev/null); do \
        (exec 3>>$f) 2>/dev/null && echo $f; done; umount /tmp/p /tmp/s";

#[test]
fn a_full_procfs_has_no_writable_global_settings() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "full");
    let unlocked = "[users]\nprivate = \"no\"\n";
    for (definition, is_full) in [
        ("", false),
        ("[security]\nprocfs = \"masked\"\n", false),
        ("[security]\nprocfs = \"full\"\n", true),
        (unlocked, false),
        ("[users]\nprivate = \"no\"\n[security.capabilities]\ndrop = [\"CAP_SYS_ADMIN\"]\n", false),
    ] {
        host.define("full", definition);
        host.coracle(&["start", "full"]);
        for kind in ["proc", "sysfs"] {
            let out = machines
                .sh("full", &format!("mkdir -p /tmp/x; mount -t {kind} {kind} /tmp/x && umount /tmp/x"));
            assert_eq!(out.status == 0, is_full || definition == unlocked, "{definition} {kind}: {out}");
        }
        let said = host.coracle(&["inspect", "--security", "full"]);
        assert_eq!(said.contains("procfs is full"), is_full, "{said}");
        assert_eq!(said.contains("procfs is masked"), !is_full, "{said}");
        assert_eq!(said.contains("no fresh procfs"), !is_full && definition != unlocked, "{said}");
        // Unprivileged users cannot list the full instance: it does not show processes hidden in the procfs
        // of a service.
        let out = machines
            .sh("full", "setpriv --reuid=1000 true; su -s /bin/sh nobody -c 'ls /run/host/full/proc'");
        assert_eq!(out.stdout, "", "{out}");
        if is_full {
            let out = machines.sh("full", WRITABLE).stdout;
            let own = [
                "/sys/user/",
                "/sys/kernel/shm",
                "/sys/kernel/msg",
                "/sys/kernel/sem",
                "/sys/kernel/hostname",
                "/sys/kernel/domainname",
                "/sys/kernel/ns_last_pid",
                "/sys/kernel/cap_last_cap",
                "/sys/fs/mqueue/",
                "/sys/kernel/auto_msgmni",
                "/sys/kernel/pid_max",
            ];
            let global: Vec<&str> =
                out.lines().filter(|file| !own.iter().any(|own| file.contains(own))).collect();
            assert!(global.is_empty(), "{global:?}");
        }
        host.coracle(&["stop", "full"]);
    }
    for definition in ["[users]\nprivate = \"no\"\n", "[users]\nprivate = \"identity\"\n"] {
        host.define("full", &format!("{definition}[security]\nprocfs = \"full\"\n"));
        let out = host.exec(&["coracle", "check", "/etc/coracle/machines.d/full.toml"]);
        assert!(out.status != 0 && out.stdout.contains("requires separate user ids"), "{out}");
    }
    host.sh_ok("rm /etc/coracle/machines.d/full.toml");
}

#[test]
fn masked_files_do_not_block_open() {
    let machines = Machines::shared();
    for machine in ["own", "same"] {
        let script = "mkfifo /tmp/covered; for f in /proc/kmsg $(find /run/host -maxdepth 2 ! -type d ! -type l); do \
            for how in '<' '<>'; do \
            timeout 5 sh -c \"exec 3$how$f\" 2>/dev/null; [ $? != 124 ] && [ $? != 143 ] || echo $how $f; done; done";
        let out = machines.sh(machine, script);
        assert_eq!(out.stdout, "", "{machine}: {out}");
        // A reader waits like for a log without new entries, instead of reading end of file repeatedly.
        let out = machines.sh(machine, "timeout 1 cat /proc/kmsg; echo $?");
        assert!(["124\n", "143\n"].contains(&out.stdout.as_str()), "{machine}: {out}");
    }
    let out = machines.sh("own", "grep ' /run/host ' /proc/self/mountinfo");
    assert!(out.stdout.contains(" / /run/host "), "a mount of its own: {out}");
}

#[test]
fn sysctls_of_a_shared_network_are_read_only() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "shared");
    host.sh_ok("ip netns add given");
    let given = "mode = \"namespace\"\nnamespace-path = \"/run/netns/given\"";
    for network in ["mode = \"host\"", given] {
        for users in ["no", "identity", "pick"] {
            host.define("shared", &format!("[network]\n{network}\n[users]\nprivate = \"{users}\"\n"));
            host.coracle(&["start", "shared"]);
            for file in ["ipv4/conf/lo/accept_source_route", "ipv4/conf/all/log_martians", "core/somaxconn"] {
                assert!(
                    !writes(host, "shared", &format!("/proc/sys/net/{file}")),
                    "{network} {users} {file}"
                );
            }
            host.coracle(&["stop", "shared"]);
        }
    }
    host.sh_ok("ip netns del given; umount /run/netns; rm /etc/coracle/machines.d/shared.toml");
    assert!(writes(host, "own", "/proc/sys/net/ipv4/conf/lo/accept_source_route"));
}

#[test]
fn additions_to_a_confined_machine_are_reported() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "added");
    host.sh_ok("mkdir -m 700 /var/tmp/added; mkdir /var/tmp/added/data");
    let mount = |more: &str| format!("[[mount]]\nsource = \"/var/tmp/added/data\"\n{more}");
    let words = || {
        let list: serde_json::Value = serde_json::from_str(&host.coracle(&["list", "--json"])).unwrap();
        let row = list.as_array().unwrap().iter().find(|row| row["name"] == "added").unwrap();
        let words = row["unconfined"].as_array().unwrap().iter();
        words.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (definition, expected) in [
        (String::new(), ""),
        (mount("map-ids = true\n"), "binds"),
        (mount("map = \"owner\"\n"), "binds"),
        (mount(""), ""),
        // Sockets and pipes of the host are open through it.
        (mount("map-ids = true\nread-only = true\n"), "binds"),
        ("[security]\ndevices = [\"/dev/full\"]\n".to_owned(), "devices"),
        ("[security.capabilities]\nadd = [\"CAP_SYS_TIME\"]\n".to_owned(), "capabilities"),
        ("[security.capabilities]\nadd = [\"CAP_SYS_TIME\"]\ndrop = [\"CAP_SYS_TIME\"]\n".to_owned(), ""),
        ("[security.syscalls]\nallow = [\"@keyring\"]\n".to_owned(), "syscalls"),
    ] {
        host.define("added", &definition);
        host.coracle(&["start", "added"]);
        assert_eq!(words(), expected, "{definition}");
        let notes = host.coracle(&["doctor", "added"]);
        let named = ["its mounts", "devices of the host", "more capabilities", "more system calls"];
        let found = named.iter().filter(|text| notes.contains(**text)).count();
        assert_eq!(found, usize::from(!expected.is_empty()), "{definition}: {notes}");
        host.coracle(&["stop", "added"]);
    }
    host.define("added", "");
    host.coracle(&["start", "added"]);
    // Mounts added later count as well, for every user.
    host.coracle(&["bind", "--mkdir", "--map=none", "added", "/var/tmp/added/data", "/srv/none"]);
    assert_eq!(words(), "");
    host.coracle(&["bind", "--mkdir", "--map=ids", "added", "/var/tmp/added/data", "/srv/ids"]);
    assert_eq!(words(), "binds");
    let seen = host.sh_ok(&format!("{UNPRIVILEGED} coracle list --json"));
    assert!(seen.contains("\"binds\""), "{seen}");
    assert!(host.coracle(&["inspect", "--security", "added"]).contains("writes files of the host"));
    host.coracle(&["stop", "added"]);
    host.sh_ok("rm -r /var/tmp/added /etc/coracle/machines.d/added.toml");
}
