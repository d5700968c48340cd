//! `coracle migrate`: machines that ran with the systemd-nspawn of the host, with addresses of the host's
//! networkd, run with Coracle in the same unit, and with systemd-nspawn again.

use std::time::Duration;

use super::machines::logs_in;
use crate::support::{Host, LONG};

const UNIT: &str = "systemd-nspawn@web.service";
const DEFINITION: &str = "/etc/coracle/machines.d/web.toml";
const FILE: &str = "[Exec]\nEnvironment=FROM=file\nHostname=shop\n[Files]\nBindReadOnly=/srv:/srv\n";
const DROP_IN: &str = "[Service]\nMemoryMax=900M\n";

const FIXED_PREFIX: &str = "[Match]\nName=ve-*\n[Network]\nAddress=192.168.99.1/28\nDHCPServer=yes\n";

/// Starts a host whose networkd serves the links of containers, with the image `web` of systemd-nspawn.
fn host() -> Host {
    let host = Host::builder().guest_as("trixie", "web").networkd().on_disk().start();
    host.activate_machined();
    host.enable_networkd("web");
    if host.ok(&["systemctl", "--version"]).starts_with("systemd 252 ") {
        // This networkd chooses another prefix whenever the link is created; later ones choose the same.
        host.write("/etc/systemd/network/70-container-ve.network", FIXED_PREFIX);
        host.ok(&["networkctl", "reload"]);
    }
    host.sh_ok("echo data >/srv/file");
    host.write("/etc/systemd/nspawn/web.nspawn", FILE);
    host.write(&format!("/etc/systemd/system/{UNIT}.d/limits.conf"), DROP_IN);
    host.ok(&["systemctl", "daemon-reload"]);
    host
}

/// The state of a machine that a migration keeps.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    /// The link-layer addresses of both ends of the link.
    link_layer: String,
    /// The address that the guest got by DHCP.
    lease: String,
    /// Whether the unit is enabled.
    enabled: String,
    /// Names, owners and modes of files of the tree that a boot does not change.
    tree: String,
    /// The effects of the .nspawn file and of the drop-in.
    settings: String,
}

impl Kept {
    /// Waits until the machine has an address, and returns its state.
    #[track_caller]
    fn of(host: &Host) -> Self {
        let inside = "nsenter -t $(machinectl show web -p Leader --value) -n ip -o";
        let lease = format!("{inside} -4 addr show dev host0 scope global");
        host.wait_until(LONG, &format!("{lease} | grep dynamic"));
        let word = |out: String, at: usize| out.split_whitespace().nth(at).unwrap_or_default().to_owned();
        let settings = "hostname; cat /srv/file; tr '\\0' '\\n' </proc/1/environ | grep ^FROM=";
        Self {
            link_layer: host.sh_ok(&format!(
                "cat /sys/class/net/ve-web/address; {inside} link show dev host0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'"
            )),
            lease: word(host.sh_ok(&lease), 3),
            enabled: host.sh(&format!("systemctl is-enabled {UNIT}")).stdout,
            tree: host.sh_ok(
                "cd /var/lib/machines/web; find . -xdev \\( -path ./var -o -path ./tmp -o -path ./root \\) -prune -o \
                 -printf '%p %U %G %m %y %l\\n' | sort; find . -xdev -uid +65535",
            ),
            settings: host.in_guest("web", &["sh", "-euc", settings]).success("settings").stdout
                + &host.ok(&["systemctl", "show", "-P", "MemoryMax", UNIT]),
        }
    }
}

/// Returns whether the machine runs with Coracle.
fn runs_coracle(host: &Host) -> bool {
    host.sh_ok(&format!("cat /proc/$(systemctl show -P MainPID {UNIT})/comm")) == "coracle\n"
}

#[track_caller]
fn wait_for(host: &Host, state: &str) {
    host.wait_until(LONG, &format!("[ $(systemctl show -P ActiveState {UNIT}) = {state} ]"));
}

#[test]
fn a_machine_of_systemd_nspawn_goes_to_coracle_and_back() {
    let host = host();
    host.ok(&["machinectl", "enable", "web"]);
    host.ok(&["machinectl", "start", "web"]);
    let before = Kept::of(&host);
    assert!(!runs_coracle(&host));
    assert_eq!(before.enabled, "enabled\n");
    assert!(before.settings.starts_with("shop\ndata\nFROM=file\n943718400\n"), "{before:?}");

    // Nothing is done to the running machine.
    let leader = host.ok(&["machinectl", "show", "web", "-p", "Leader"]);
    let shown = host.coracle(&["migrate", "--dry-run", "--all"]);
    assert!(shown.contains("[boot]\n") && host.sh(&format!("ls {DEFINITION}")).status != 0, "{shown}");
    let migrated = host.coracle(&["migrate", "web"]);
    for text in [
        "web: /etc/systemd/nspawn/web.nspawn, systemd-nspawn@web.service (enabled), 1 drop-in\n",
        "wrote /etc/coracle/machines.d/web.toml: ",
        "'systemctl restart systemd-nspawn@web' starts it with coracle\n",
    ] {
        assert!(migrated.contains(text), "no '{text}' in {migrated}");
    }
    assert_eq!(host.ok(&["machinectl", "show", "web", "-p", "Leader"]), leader);
    assert!(!runs_coracle(&host));
    let checked = host.coracle(&["check"]);
    assert!(checked.contains("web.nspawn: warning: the file is not read"), "{checked}");

    host.ok(&["systemctl", "restart", UNIT]);
    assert!(runs_coracle(&host));
    assert_eq!(Kept::of(&host), before);
    machinectl_verbs(&host);
    host.ok(&["machinectl", "start", "web"]);
    assert!(runs_coracle(&host));
    assert_eq!(Kept::of(&host), before);

    let back = host.coracle(&["migrate", "--back", "--all"]);
    assert!(back.starts_with("web: removed '/etc/coracle/machines.d/web.toml'"), "{back}");
    assert!(runs_coracle(&host));
    host.ok(&["systemctl", "restart", UNIT]);
    assert!(!runs_coracle(&host));
    assert_eq!(Kept::of(&host), before);
    host.ok(&["systemctl", "stop", UNIT]);
    host.stop();
}

/// Runs the verbs of machinectl on a running machine, which is stopped afterwards.
fn machinectl_verbs(host: &Host) {
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    let list = host.ok(&["machinectl", "list", "--no-legend"]);
    assert!(list.starts_with("web container systemd-nspawn debian 13"), "{list}");
    let status = host.ok(&["machinectl", "status", "web"]);
    for text in ["Service: systemd-nspawn", &format!("Unit: {UNIT}"), "Iface: ve-web", "init.scope"] {
        assert!(status.contains(text), "no '{text}' in {status}");
    }
    assert_eq!(host.ok(&["machinectl", "show", "web", "-p", "Service", "--value"]), "systemd-nspawn\n");
    let shell =
        host.exec_on_tty(Duration::from_secs(30), "machinectl shell web /bin/sh -c 'echo in-$(hostname)'");
    assert!(shell.stdout.contains("in-shop"), "{shell}");
    logs_in(host, "web", "shop");
    host.ok(&["machinectl", "copy-to", "web", "/srv/file", "/root/file"]);
    host.ok(&["machinectl", "copy-from", "web", "/root/file", "/root/file"]);
    assert_eq!(host.read("/root/file"), "data\n");
    // machinectl refuses this for machines with user ids of their own, of both programs.
    let bind = host.exec(&["machinectl", "bind", "web", "/srv", "/mnt"]);
    assert!(bind.status != 0 && bind.stderr.contains("user namespac"), "{bind}");
    host.ok(&["machinectl", "disable", "web"]);
    assert_eq!(host.sh(&format!("systemctl is-enabled {UNIT}")).stdout, "disabled\n");
    host.ok(&["machinectl", "enable", "web"]);

    let leader = host.machine_leader("web");
    host.ok(&["machinectl", "reboot", "web"]);
    host.wait_for_reboot("web", leader);
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    host.ok(&["machinectl", "poweroff", "web"]);
    wait_for(host, "inactive");
    host.ok(&["machinectl", "start", "web"]);
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    host.ok(&["machinectl", "kill", "--kill-whom=leader", "-s", "SIGKILL", "web"]);
    wait_for(host, "failed");
    host.ok(&["machinectl", "start", "web"]);
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    host.ok(&["machinectl", "terminate", "web"]);
    wait_for(host, "inactive");
}

#[test]
fn a_tree_keeps_the_owners_that_systemd_nspawn_gave_it() {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.activate_machined();
    let options =
        "--quiet --keep-unit --boot --private-users=pick --private-users-ownership=chown --machine=%i";
    host.write(
        &format!("/etc/systemd/system/{UNIT}.d/chown.conf"),
        &format!("[Service]\nExecStart=\nExecStart=systemd-nspawn {options}\n"),
    );
    host.ok(&["systemctl", "daemon-reload"]);
    host.ok(&["machinectl", "start", "web"]);
    // Busybox does not know the signal of systemd-nspawn.
    host.sh_ok("kill -9 $(machinectl show web -p Leader --value)");
    host.wait_until(LONG, &format!("systemctl is-active {UNIT} | grep -e ^inactive -e ^failed"));
    let owners = || host.sh_ok("cd /var/lib/machines/web; find . -xdev -printf '%p %U %G %m\\n' | sort");
    let before = owners();
    let base: u32 = host.ok(&["stat", "-c", "%u", "/var/lib/machines/web"]).trim().parse().unwrap();
    assert!(base >= 65536, "{before}");

    let migrated = host.coracle(&["migrate", "web"]);
    assert!(migrated.contains(&format!("; ids from {base} (owner of its tree)\n")), "{migrated}");
    host.ok(&["machinectl", "start", "web"]);
    assert!(runs_coracle(&host));
    let map = host.sh_ok("cat /proc/$(machinectl show web -p Leader --value)/uid_map");
    assert!(map.split_whitespace().eq(["0", &base.to_string(), "65536"]), "{map}");
    host.in_guest("web", &["sh", "-euc", "touch /root/new; rm /root/new"]).success("write");
    host.coracle(&["stop", "web"]);
    assert_eq!(owners(), before);
    host.stop();
}

#[test]
fn settings_without_an_equal_are_not_lost_silently() {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.activate_machined();
    host.write("/etc/systemd/nspawn/web.nspawn", "[Exec]\nPrivateUsers=pick\nPrivateUsersDelegate=1\n");
    let hook = format!("/etc/systemd/system/{UNIT}.d/hook.conf");
    host.write(&hook, "[Service]\nExecStopPost=/bin/true\n");
    let refused = host.exec(&["coracle", "migrate", "web"]);
    assert_eq!((refused.status, refused.stdout.as_str()), (1, ""), "{refused}");
    for text in [
        "'PrivateUsersDelegate=': ids are not delegated (/etc/systemd/nspawn/web.nspawn:3)",
        "hook.conf:2",
        "--force web",
    ] {
        assert!(refused.stderr.contains(text), "no '{text}' in {refused}");
    }
    host.sh_ok(&format!("[ ! -e {DEFINITION} ]; chmod 600 /etc/systemd/nspawn/web.nspawn"));
    let forced = host.coracle(&["migrate", "--force", "web"]);
    assert!(
        forced.contains("without an equal: 'PrivateUsersDelegate='")
            && forced.contains("machinectl start web"),
        "{forced}"
    );
    // The .nspawn file may contain secrets.
    assert_eq!(host.ok(&["stat", "-c", "%a %U", DEFINITION]), "600 root\n");
    host.ok(&["machinectl", "start", "web"]);
    assert!(runs_coracle(&host));
    host.coracle(&["stop", "web"]);

    let refused = host.exec(&["coracle", "migrate", "--force", "web"]);
    assert!(refused.status == 1 && refused.stderr.contains("it has the definition"), "{refused}");
    let shown = host.coracle(&["migrate", "--all"]);
    assert_eq!(shown, "no machine of systemd-nspawn without a definition\n");
    host.sh_ok(&format!("echo '# edited' >>{DEFINITION}"));
    let refused = host.exec(&["coracle", "migrate", "--back", "web"]);
    assert!(
        refused.status == 1 && refused.stderr.contains("has changed since 'coracle migrate'"),
        "{refused}"
    );
    host.sh_ok(&format!("[ -e {DEFINITION} ]"));
    host.stop();
}
