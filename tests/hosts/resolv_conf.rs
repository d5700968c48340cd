//! The modes of `network.resolv-conf` with a regular file, a link and a missing file in the tree.

use crate::support::{Host, Snapshot};

/// The `/etc/resolv.conf` of a started machine.
#[derive(Debug, PartialEq, Eq)]
struct ResolvConf {
    text: String,
    is_mounted: bool,
    is_writable: bool,
}

/// Commands that create the `/etc/resolv.conf` of a tree before a start.
const MISSING: &str = "true";
const FILE: &str = "echo own >resolv.conf";
const DANGLING: &str = "ln -s ../run/nowhere resolv.conf";
const ETC: &str = "/var/lib/machines/m/etc";

/// Returns a host with the stopped machine `m`.
fn host_of_modes() -> Host {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.activate_machined();
    host
}

/// Starts and stops `m` in the given mode, with the files created by `setup` in its `/etc` and additional
/// lines in its definition. Returns the file seen by the guest.
fn resolv_conf(host: &Host, setup: &str, mode: &str, definition: &str) -> ResolvConf {
    let before = Snapshot::take(host);
    host.sh_ok(&format!("cd {ETC} && rm -rf resolv.conf && {{ {setup}; }}"));
    host.define("m", &format!("{definition}[network]\nmode = \"none\"\nresolv-conf = \"{mode}\"\n"));
    host.coracle(&["start", "--wait=running", "m"]);
    let succeeds = |command: &[&str]| host.in_guest("m", command).status == 0;
    let found = ResolvConf {
        text: host.in_guest("m", &["cat", "/etc/resolv.conf"]).stdout,
        is_mounted: succeeds(&["grep", "-q", " /etc/resolv.conf ", "/proc/self/mountinfo"]),
        is_writable: succeeds(&["sh", "-c", "echo x >>/etc/resolv.conf"]),
    };
    host.coracle(&["stop", "m"]);
    before.assert_same(host);
    found
}

#[test]
fn each_file_of_the_host_is_copied_bound_and_replaced() {
    let host = host_of_modes();
    for (word, file) in [
        ("host", "/etc/resolv.conf"),
        ("static", "/usr/lib/systemd/resolv.conf"),
        ("uplink", "/run/systemd/resolve/resolv.conf"),
        ("stub", "/run/systemd/resolve/stub-resolv.conf"),
    ] {
        let (copied, bound) = if word == "host" { (MISSING, FILE) } else { (FILE, MISSING) };
        for (mode, setup, is_mounted) in
            [("copy", copied, false), ("bind", bound, true), ("replace", DANGLING, false)]
        {
            let expected = ResolvConf { text: host.read(file), is_mounted, is_writable: !is_mounted };
            let mode = format!("{mode}-{word}");
            assert_eq!(resolv_conf(&host, setup, &mode, ""), expected, "{mode}: {setup}");
        }
    }
    host.stop();
}

#[test]
fn copy_and_bind_keep_a_link() {
    let host = host_of_modes();
    let passwd = host.read("/etc/passwd");
    let elsewhere = "cp /etc/passwd elsewhere; ln -s elsewhere resolv.conf";
    for mode in ["copy-host", "bind-host"] {
        assert_eq!(resolv_conf(&host, DANGLING, mode, "").text, "", "{mode}");
        assert_eq!(resolv_conf(&host, elsewhere, mode, "").text, passwd, "{mode}");
    }
    host.stop();
}

#[test]
fn a_link_out_of_the_tree_is_not_written_through() {
    let host = host_of_modes();
    host.sh_ok("echo victim >/run/victim");
    for mode in ["copy-host", "replace-host", "bind-host", "delete"] {
        resolv_conf(&host, "ln -s ../../../../../run/victim resolv.conf", mode, "");
        assert_eq!(host.read("/run/victim"), "victim\n", "{mode}");
    }
    host.stop();
}

#[test]
fn a_read_only_root_has_the_file_bound() {
    let host = host_of_modes();
    let expected = ResolvConf { text: host.read("/etc/resolv.conf"), is_mounted: true, is_writable: false };
    for mode in ["copy-host", "replace-host", "bind-host"] {
        assert_eq!(resolv_conf(&host, FILE, mode, "[root]\nread-only = true\n"), expected, "{mode}");
        assert_eq!(host.read(&format!("{ETC}/resolv.conf")), "own\n", "{mode}");
    }
    host.stop();
}

#[test]
fn delete_removes_the_file() {
    let host = host_of_modes();
    for setup in [MISSING, FILE, DANGLING] {
        assert_eq!(resolv_conf(&host, setup, "delete", "").text, "", "{setup}");
        host.sh_ok(&format!("! test -L {ETC}/resolv.conf"));
    }
    host.stop();
}

#[test]
fn run_has_the_option_of_nspawn() {
    let host = Host::builder().guest_as("busybox", "m").start();
    let text = host.read("/etc/resolv.conf");
    // The option of `coracle run`, also with a missing file of the host.
    host.sh_ok("rm -f /var/lib/machines/m/etc/resolv.conf; mv /usr/lib/systemd/resolv.conf /run/static");
    let run = |mode: &str| {
        let option = format!("--resolv-conf={mode}");
        host.exec(&["coracle", "run", "-q", "-D", "/var/lib/machines/m", &option, "cat", "/etc/resolv.conf"])
    };
    assert_eq!(run("copy-host").success("run").stdout, text);
    assert_eq!(run("delete").stdout, "");
    let missing = run("copy-static");
    assert!(missing.stderr.contains("cannot read '/usr/lib/systemd/resolv.conf'"), "{missing}");
    host.stop();
}
