//! Invalid input: it is refused with the step or the cause and a hint, and the host is unchanged.

use crate::support::{Host, LONG, Snapshot};

/// A host with a busybox tree, and a snapshot taken before the test.
struct Bench {
    host: Host,
    before: Snapshot,
}

const TREE: &str = "/var/lib/machines/busybox";

impl Bench {
    /// Starts a host, runs `prepare` on it and takes the snapshot.
    fn new(prepare: &str) -> Self {
        let host = Host::start(&["busybox"]);
        // The first request to machined creates its slice, which remains.
        host.sh_ok(&format!("machinectl -q list; {prepare}"));
        let before = Snapshot::take(&host);
        Self { host, before }
    }

    /// Asserts that a machine with this definition fails to start, that all of these texts are printed, and
    /// that no state is left.
    #[track_caller]
    fn refuses(&self, definition: &str, said: &[&str]) {
        self.host.define("broken", definition);
        self.refuses_start("broken", said);
    }

    #[track_caller]
    fn refuses_start(&self, name: &str, said: &[&str]) {
        let out = self.host.exec(&["coracle", "start", name]);
        assert_eq!(out.status, 1, "{out}");
        for said in said {
            assert!(out.stderr.contains(said), "not said: {said}\n{out}");
        }
        self.is_diagnosed(name, said);
        // A machine refused by its supervisor is a failed unit until `reset-failed`.
        self.host.exec(&["systemctl", "reset-failed", "coracle@broken.service"]);
        self.before.assert_same(&self.host);
    }

    /// Asserts that `coracle doctor` prints the same causes and hints, in at most 24 lines of 80 columns.
    #[track_caller]
    fn is_diagnosed(&self, name: &str, said: &[&str]) {
        let out = self.host.exec(&["coracle", "doctor", name]);
        assert_eq!(out.status, 1, "{out}");
        let lines: usize = out.stdout.lines().map(|line| line.chars().count().div_ceil(80).max(1)).sum();
        assert!(lines <= 24, "{lines} lines of 80 columns: {out}");
        for said in said {
            // Errors in a definition are shown as by 'coracle check', each with its hint.
            assert!(out.stdout.contains(said), "not diagnosed: {said}\n{out}");
        }
    }

    /// Asserts that `coracle run` fails, that all of these texts are printed, and that no state is left.
    #[track_caller]
    fn refuses_run(&self, options: &[&str], said: &[&str]) {
        let out = self.host.exec(&[&["coracle", "run"], options].concat());
        assert_eq!(out.status, 125, "{out}");
        for said in said {
            assert!(out.stderr.contains(said), "not said: {said}\n{out}");
        }
        self.before.assert_same(&self.host);
    }
}

/// Returns a definition with this root directory.
fn at(directory: &str) -> String {
    format!("[root]\ndirectory = \"{directory}\"\n")
}

#[test]
fn trees_that_cannot_boot_are_refused() {
    let bench = Bench::new(&format!(
        "chmod 700 /srv; mkdir -p /srv/noinit/usr/bin /srv/noinit/etc /srv/noroot
         echo ID=x >/srv/noinit/etc/os-release
         cp -a {TREE} /srv/arm
         printf '\\267\\000' | dd of=/srv/arm/usr/bin/busybox bs=1 seek=18 conv=notrunc status=none
         cp -a {TREE} /srv/empty; rm /srv/empty/usr/sbin/init; : >/srv/empty/usr/sbin/init"
    ));
    bench.refuses(
        &at("/srv/noinit"),
        &["there is no init in '/srv/noinit': looked for", "hint: install an init system in the tree"],
    );
    bench.refuses(
        &at("/srv/arm"),
        &["cannot run '/sbin/init' of '/srv/arm'", "init is for aarch64, this host is", "hint: use a tree"],
    );
    bench.refuses(&at("/srv/empty"), &["init is empty", "hint: the tree is incomplete"]);
    bench.refuses(
        &at("/srv/missing"),
        &["cannot open directory '/srv/missing': no such file or directory", "hint: make a root file system"],
    );
    bench.refuses(
        &at("/srv/noroot"),
        &[
            "'/srv/noroot' is not a root file system: it has no /usr",
            "hint: name the directory that holds /usr",
        ],
    );
    bench.refuses_run(&["-D", "/srv/missing"], &["cannot open directory '/srv/missing'", "hint: "]);
    bench.refuses_run(&["-D", "/srv/noroot", "true"], &["is not a root file system", "hint: "]);
    bench.refuses_run(&["-bD", "/srv/arm"], &["init is for aarch64", "hint: "]);
    bench.refuses_run(&["-D", TREE, "/bin/nothere"], &["'/bin/nothere'", "no such file", "hint: "]);
    bench.host.stop();
}

#[test]
fn a_root_in_use_is_refused() {
    let mut bench = Bench::new("");
    let host = &bench.host;
    host.start_machine("busybox");
    // The kernel assigns the link-local address of the link a second later.
    host.wait_until(
        LONG,
        "ip -6 addr show dev ve-busybox scope link | grep inet6 && ! ip addr | grep tentative",
    );
    bench.before = Snapshot::take(host);
    let in_use = format!("root '{TREE}' is in use by machine 'busybox'");
    let hint = "hint: stop it, or copy the tree: two systems on one root corrupt it";
    bench.refuses(&at(TREE), &[&in_use, hint]);
    bench.refuses_run(&["-M", "other", "-D", TREE, "true"], &[&in_use, hint]);
    // Another path to the same directory is the same root.
    host.sh_ok(&format!(
        "chmod 700 /srv; ln -s {TREE} /srv/link; mkdir /srv/bind; mount --bind {TREE} /srv/bind"
    ));
    bench.before = Snapshot::take(host);
    bench.refuses(&at("/srv/link"), &["is in use by"]);
    bench.refuses(&at("/srv/bind"), &["is in use by"]);
    let runs = [
        "machine 'busybox' is already running (supervisor: process ",
        "hint: stop it with 'coracle stop busybox'",
    ];
    bench.refuses_run(&["-D", TREE, "true"], &runs);
    bench.refuses_run(&["-bM", "busybox"], &runs);
    // The running machine is not affected.
    host.assert_registered("busybox", true);
    let address = host.address("busybox");
    host.wait_for_page(&address);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
}

#[test]
fn unsuitable_file_systems_are_refused() {
    let bench = Bench::new(&format!(
        "cp -a {TREE} /var/lib/machines/ro; rmdir /var/lib/machines/ro/proc /var/lib/machines/ro/sys
         mount --bind /var/lib/machines/ro /var/lib/machines/ro
         mount -o remount,bind,ro /var/lib/machines/ro
         cp -a {TREE} /srv/overlay"
    ));
    bench.refuses(
        &at("/var/lib/machines/ro"),
        &[
            "open root '/var/lib/machines/ro'",
            "cannot create mount point '/proc' in the tree: read-only file system",
            "hint: create that directory in the tree",
        ],
    );
    // The root of the host is an overlay, for which the kernel has no idmapped mounts.
    bench.host.ok(&["chmod", "700", "/srv"]);
    bench.refuses(
        &at("/srv/overlay"),
        &[
            "open root '/srv/overlay', idmapped",
            "cannot map the ids of '/srv/overlay': overlay",
            "hint: move the tree to ext4, xfs or btrfs",
            "users.private = \"no\"",
        ],
    );
    bench.refuses_run(&["-UD", "/srv/overlay", "true"], &["overlay", "--private-users=no"]);
    // A machine starts with the setting of the hint, and with a read-only root that has its mount points.
    let host = &bench.host;
    host.define("broken", &format!("{}[users]\nprivate = \"no\"\n", at("/srv/overlay")));
    host.coracle(&["start", "broken"]);
    host.coracle(&["stop", "broken"]);
    host.sh_ok("umount /var/lib/machines/ro; mkdir /var/lib/machines/ro/proc /var/lib/machines/ro/sys");
    host.define("ro", "[root]\nread-only = true\n");
    host.coracle(&["start", "ro"]);
    host.in_guest("ro", &["sh", "-c", "! touch /etc/x"]).success("it is read-only");
    host.coracle(&["stop", "ro"]);
}

#[test]
fn invalid_definitions_are_refused() {
    let bench = Bench::new("");
    bench.refuses(
        "[root]\ndirektory = \"/srv\"\n",
        &[
            "/etc/coracle/machines.d/broken.toml:2:1: unknown key 'direktory' in [root]",
            "  2 | direktory = \"/srv\"",
            "    | ^^^^^^^^^",
            "hint: did you mean 'directory'?",
        ],
    );
    bench.refuses(
        "[root]\nread-only = \"perhaps\"\n",
        &["broken.toml:2:13: 'read-only': expected a boolean, found a string", "^^^^^^^^^"],
    );
    bench.refuses("[root\n", &["broken.toml:1:"]);
    let host = &bench.host;
    for name in ["../up", "-x-", "a..b", "x y"] {
        let out = host.exec(&["coracle", "start", "--", name]);
        assert!(out.status == 2 && out.stderr.contains("invalid machine name"), "{out}");
        assert!(out.stderr.contains("hint: "), "{out}");
    }
    host.write("/etc/coracle/machines.d/bad_.name-.toml", "[root]\n");
    let check = host.exec(&["coracle", "check"]);
    assert!(check.status == 1 && check.stdout.contains("invalid machine name \"bad_.name-\""), "{check}");
    assert!(check.stdout.contains("hint: use letters, digits"), "{check}");
    let out = host.exec(&["coracle", "start", "missing"]);
    assert!(out.status == 1 && out.stderr.contains("machine 'missing' does not exist"), "{out}");
    assert!(out.stderr.contains("hint: create '/etc/coracle/machines.d/missing.toml'"), "{out}");
    bench.is_diagnosed("missing", &["machine 'missing' does not exist", "hint: create '/etc/coracle/"]);
    bench.before.assert_same(host);
}

#[test]
fn machines_start_without_machined() {
    let bench = Bench::new("systemctl -q mask --now systemd-machined");
    let host = &bench.host;
    host.start_machine("busybox");
    let said = host.unit_journal("busybox");
    assert!(said.contains("not registered with machined: "), "{said}");
    assert_eq!(host.property("busybox", "registered"), "false");
    let address = host.address("busybox");
    host.wait_for_page(&address);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    bench.before.assert_same(host);
    bench.refuses_run(
        &["-D", TREE, "--register=yes", "true"],
        &["cannot register with machined: ", "hint: install systemd-container, or run with --register=no"],
    );
    let out = host.exec(&["coracle", "run", "-D", TREE, "true"]);
    assert!(out.status == 0 && out.stderr.contains("not registered with machined"), "{out}");
    bench.before.assert_same(host);
}

#[test]
fn exhausted_ids_are_reported() {
    let bench = Bench::new("cp /etc/subuid /srv/subuid; echo all:0:4294967295 >/etc/subuid");
    bench.refuses(
        &at(TREE),
        &["no range of 65536 user ids is free for machine 'broken'", "hint: free ranges in /etc/subuid"],
    );
    bench.host.sh_ok("cp /srv/subuid /etc/subuid");
    bench.host.start_machine("busybox");
    bench.host.coracle(&["stop", "busybox"]);
}

#[test]
fn links_out_of_the_tree_are_not_followed() {
    let bench = Bench::new(&format!(
        "mkdir -p /srv/source /srv/victim
         ln -s /srv/victim {TREE}/absolute
         ln -s ../../../../../../../srv/victim {TREE}/relative
         ln -s / {TREE}/top"
    ));
    let mount = |target: &str| {
        format!("{}[[mount]]\ntype = \"bind\"\nsource = \"/srv/source\"\ntarget = \"{target}\"\n", at(TREE))
    };
    // Links are followed inside the tree, and created directories belong to the guest's root.
    let host = &bench.host;
    for (target, place) in [
        ("/absolute", "/srv/victim"),
        ("/relative", "/srv/victim"),
        ("/absolute/below", "/srv/victim/below"),
        ("/relative/other", "/srv/victim/other"),
        ("/top/opt/new", "/opt/new"),
    ] {
        host.define("broken", &mount(target));
        host.coracle(&["start", "broken"]);
        let seen = format!("grep ' {place} ' /proc/self/mountinfo");
        host.in_guest("broken", &["sh", "-c", &seen]).success(target);
        host.coracle(&["stop", "broken"]);
        assert_eq!(host.ok(&["stat", "-c", "%u:%g", &format!("{TREE}{place}")]), "0:0\n");
    }
    assert_eq!(host.ok(&["ls", "/srv/victim", "/srv/source"]), "/srv/source:\n\n/srv/victim:\n");
    bench.before.assert_same(host);
}

/// Opens descriptor 4 as a pipe without a reader.
const NO_READER: &str = "mkfifo /run/pipe; exec 3<>/run/pipe 4>/run/pipe 3>&-; rm /run/pipe";

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    host.wait_for_console("busybox", "up");
    let own = [
        "--help",
        "--version",
        "list",
        "list --json",
        "status busybox",
        "show busybox",
        "inspect busybox",
        "inspect --security busybox",
        "logs busybox",
        "attach busybox",
        "stats",
        "network",
        "bind busybox",
        "doctor",
        "check",
        "config busybox",
        "completions bash",
        "copy-from busybox /etc -",
        "run --help",
    ];
    let of_payloads = [
        "exec busybox -- echo text".to_owned(),
        "exec -t busybox -- echo text".to_owned(),
        format!("run -M other -D {TREE}2 --console=read-only echo text"),
        format!("run -M other -D {TREE}2 --dry-run true"),
    ];
    host.sh_ok(&format!("cp -a {TREE} {TREE}2"));
    let all = own.iter().map(|line| (1, *line)).chain(of_payloads.iter().map(|line| (125, line.as_str())));
    for (status, line) in all {
        let out = host.sh(&format!("timeout 20 coracle {line} >/dev/full"));
        assert!(out.status == status && out.stderr.contains("no space left on device"), "{out}");
        // The end of a reader is no failure, unless an archive is incomplete.
        let out = host.exec(&["bash", "-c", &format!("{NO_READER}; timeout 20 coracle {line} >&4")]);
        let is_silent = [0, 141].contains(&out.status) && !out.stderr.contains("coracle: ");
        assert_eq!(is_silent, !line.starts_with("copy-from"), "{out}");
    }
    // A failure of the payload has its own status.
    assert_eq!(
        host.sh("coracle exec busybox -- sh -c 'trap \"\" PIPE; echo text; exit 7' >/dev/full").status,
        7
    );
    host.stop();
}

#[test]
fn empty_values_of_options_are_usage_errors() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    for words in [&["-E", ""][..], &["-E", "=x"], &["-u", ""], &["-u", ":0"], &["-u", "0:"], &["-w", "etc"]] {
        let out = host.exec(&[&["coracle", "exec"], words, &["busybox", "true"]].concat());
        assert!(out.status == 2 && out.stderr.contains("hint: "), "{out}");
    }
    for words in [&["-E", ""][..], &["-E", "=x"], &["-E", "a b"], &["-u", ""], &["--private-users=5"]] {
        let out = host.exec(&[&["coracle", "run", "-D", TREE], words, &["true"]].concat());
        assert!(out.status == 2 && out.stderr.contains("coracle: "), "{out}");
    }
    for line in [
        "exec busybox -- ''",
        "exec busybox '' text",
        "run -D /var/lib/machines/busybox ''",
        "copy-to busybox /etc/passwd etc/copy",
        "copy-from busybox etc/passwd /tmp/copy",
    ] {
        let out = host.sh(&format!("coracle {line}"));
        assert!(out.status == 2 && out.stderr.contains("hint: "), "{out}");
    }
    host.stop();
}

#[test]
fn other_users_are_told_to_be_root() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    for (status, line) in [(125, "run -D / true"), (1, "cleanup busybox"), (1, "network reload")] {
        let out = host.sh(&format!("setpriv --reuid=nobody --regid=nogroup --clear-groups coracle {line}"));
        assert_eq!(out.status, status, "{out}");
        assert_eq!(out.stderr, "coracle: must be run as root\nhint: run it with sudo(8)\n", "{line}");
    }
    // These go through the service on the bus, which is missing here.
    host.sh_ok("systemctl mask --runtime coracle-manager.service; systemctl stop coracle-manager.service");
    for (status, line) in [
        (125, "exec busybox -- true"),
        (125, "shell --session busybox"),
        (125, "login busybox"),
        (1, "start busybox"),
        (1, "stop busybox"),
        (1, "enable busybox"),
        (1, "kill busybox"),
        (1, "attach busybox"),
        (1, "freeze busybox"),
        (1, "terminate busybox"),
        (1, "bind busybox /srv"),
        (1, "unbind busybox /srv"),
        (1, "copy-to busybox /etc/passwd"),
        (1, "copy-from busybox /etc/passwd"),
        (1, "set busybox memory-max=1G"),
        (1, "apply busybox"),
    ] {
        let out = host.sh(&format!("setpriv --reuid=nobody --regid=nogroup --clear-groups coracle {line}"));
        assert!(
            out.status == status && out.stderr.contains("needs root\nhint: run it with sudo(8)"),
            "{out}"
        );
    }
    host.stop();
}
