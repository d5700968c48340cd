//! Machines with `boot.machinectl`: their unit is systemd-nspawn@.service, for machinectl and for the verbs
//! of Coracle.

use crate::support::{Host, LONG, Snapshot};

const UNIT: &str = "systemd-nspawn@web.service";
const DEFINITION: &str = "[boot]\nmachinectl = true\n[resources]\ntasks-max = 1234\n";

/// Starts a host with the image `web` of this tree and its definition.
fn host(tree: &str) -> Host {
    let host = Host::builder().guest_as(tree, "web").start();
    host.activate_machined();
    host.define("web", DEFINITION);
    host.ok(&["systemctl", "daemon-reload"]);
    host
}

/// Returns a property of the unit.
#[track_caller]
fn property(host: &Host, property: &str) -> String {
    host.ok(&["systemctl", "show", "-P", property, UNIT]).trim().to_owned()
}

/// Waits for a state of the unit.
#[track_caller]
fn wait_for(host: &Host, state: &str) {
    host.wait_until(LONG, &format!("[ $(systemctl show -P ActiveState {UNIT}) = {state} ]"));
}

/// Returns whether the supervisor of Coracle is the main process of the unit.
#[track_caller]
fn runs_coracle(host: &Host) -> bool {
    host.supervisor("web").to_string() == property(host, "MainPID")
}

#[test]
fn machinectl_starts_and_stops_the_unit() {
    let host = host("trixie");
    let before = Snapshot::take(&host);
    host.ok(&["machinectl", "start", "web"]);
    assert!(runs_coracle(&host));
    let list = host.ok(&["machinectl", "list", "--no-legend"]);
    assert!(list.starts_with("web container systemd-nspawn debian"), "{list}");
    assert_eq!(property(&host, "TasksMax"), "1234");
    assert!(property(&host, "DeviceAllow").lines().eq(["char-pts rw"]), "{}", property(&host, "DeviceAllow"));
    assert_eq!(host.sh("systemctl is-active coracle@web.service").stdout, "inactive\n");

    // A reboot by machinectl stays in the unit.
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    let leader = host.machine_leader("web");
    host.ok(&["machinectl", "reboot", "web"]);
    host.wait_for_reboot("web", leader);
    assert!(runs_coracle(&host));
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    host.ok(&["machinectl", "poweroff", "web"]);
    wait_for(&host, "inactive");
    assert_eq!(property(&host, "Result"), "success");
    host.ok(&["machinectl", "start", "web"]);
    host.wait_until(LONG, "coracle exec --wait-ready web -- true");
    host.ok(&["machinectl", "terminate", "web"]);
    wait_for(&host, "inactive");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn verbs_use_the_unit() {
    let host = host("busybox");
    let before = Snapshot::take(&host);
    let listed = host.coracle(&["list", "--all", "--json"]);
    assert!(listed.contains(UNIT) && !listed.contains("coracle@web"), "{listed}");
    host.coracle(&["start", "web"]);
    assert!(runs_coracle(&host));
    assert!(host.coracle(&["status", "web"]).contains(&format!("unit: {UNIT} (active, running; disabled)")));
    assert_eq!(host.coracle(&["exec", "web", "--", "hostname"]), "web\n");
    host.coracle(&["set", "--runtime", "web", "tasks-max=999"]);
    assert_eq!(property(&host, "TasksMax"), "999");
    assert!(host.coracle(&["apply", "web"]).is_empty() || runs_coracle(&host));
    let first = host.supervisor("web");
    host.coracle(&["restart", "web"]);
    assert_ne!(host.supervisor("web"), first);
    assert!(host.coracle(&["logs", "web"]).contains(UNIT));
    host.coracle(&["stop", "web"]);
    assert_eq!(property(&host, "ActiveState"), "inactive");

    // Both tools enable the same unit.
    host.coracle(&["enable", "web"]);
    let enabled = ["systemctl", "is-enabled", UNIT, "machines.target"];
    assert_eq!(host.ok(&enabled), "enabled\nenabled\n");
    // As at the boot of the host.
    host.ok(&["systemctl", "start", "machines.target"]);
    assert!(runs_coracle(&host));
    host.ok(&["systemctl", "stop", "machines.target"]);
    wait_for(&host, "inactive");
    assert_eq!(host.sh("systemctl is-enabled coracle@web.service").stdout, "disabled\n");
    host.ok(&["machinectl", "disable", "web"]);
    host.ok(&["machinectl", "enable", "web"]);
    host.coracle(&["disable", "web"]);
    assert_eq!(host.sh(&format!("systemctl is-enabled {UNIT}")).stdout, "disabled\n");
    host.sh_ok("rm -r /run/coracle/machines.d");
    host.ok(&["systemctl", "daemon-reload"]);

    // A rename takes the drop-ins and the enablement along.
    host.write("/etc/systemd/system/systemd-nspawn@web.service.d/own.conf", "[Service]\nNice=3\n");
    host.coracle(&["enable", "web"]);
    host.coracle(&["rename", "web", "shop"]);
    let shop = "systemd-nspawn@shop.service";
    assert_eq!(host.ok(&["systemctl", "is-enabled", shop]), "enabled\n");
    assert_eq!(host.ok(&["systemctl", "show", "-P", "Nice", shop]), "3\n");
    host.ok(&["machinectl", "start", "shop"]);
    assert_eq!(host.coracle(&["exec", "shop", "--", "hostname"]), "shop\n");
    host.coracle(&["stop", "shop"]);
    host.coracle(&["remove", "--purge", "shop"]);
    assert_eq!(host.sh_ok("ls /etc/systemd/system | grep shop || true"), "");
    host.sh_ok("systemctl disable machines.target");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn the_unit_of_the_other_template_is_refused() {
    let host = host("busybox");
    let refused = host.exec_for(LONG, &["systemctl", "start", "coracle@web.service"]);
    assert_ne!(refused.status, 0, "{refused}");
    let why = "the unit of machine 'web' is 'systemd-nspawn@web.service', not 'coracle@web.service'";
    let status = host.ok(&["systemctl", "show", "-P", "StatusText", "coracle@web.service"]);
    assert!(status.contains(why), "{status}");
    host.sh_ok("systemctl reset-failed");
    // The former unit is enabled too.
    host.ok(&["systemctl", "-q", "enable", "coracle@web.service"]);
    let diagnosis = host.exec(&["coracle", "doctor", "web"]).stdout;
    assert!(diagnosis.contains("the unit 'coracle@web.service' is enabled"), "{diagnosis}");
    host.ok(&["systemctl", "-q", "disable", "coracle@web.service"]);
    // A machine in its former unit is stopped there.
    host.define("web", "");
    host.coracle(&["start", "web"]);
    host.define("web", DEFINITION);
    let refused = host.exec(&["coracle", "restart", "web"]);
    assert!(refused.stderr.contains("outside of its unit 'systemd-nspawn@web.service'"), "{refused}");
    host.coracle(&["stop", "web"]);
    assert_eq!(host.unit("web", "ActiveState"), "inactive");
    // systemd has not read the definition.
    let diagnosis = host.exec(&["coracle", "doctor", "web"]).stdout;
    assert!(diagnosis.contains("'machinectl start web' ignores it"), "{diagnosis}");
    host.coracle(&["start", "web"]);
    assert!(runs_coracle(&host));
    let diagnosis = host.exec(&["coracle", "doctor", "web"]).stdout;
    assert!(!diagnosis.contains("ignores it"), "{diagnosis}");
    host.coracle(&["stop", "web"]);
    host.stop();
}

#[test]
fn image_verbs_of_machinectl_respect_a_running_machine() {
    let host = host("busybox");
    host.ok(&["machinectl", "start", "web"]);
    host.sh_ok("ls /var/lib/machines/.#web.lck");
    for verb in [&["remove", "web"][..], &["rename", "web", "shop"]] {
        let refused = host.exec(&[&["machinectl"], verb].concat());
        assert!(refused.status != 0 && refused.stderr.to_lowercase().contains("busy"), "{refused}");
    }
    host.coracle(&["stop", "web"]);
    // The image is gone, the definition and the user ids are not.
    host.ok(&["machinectl", "rename", "web", "shop"]);
    for diagnosis in [["doctor", "web"].as_slice(), &["doctor"]] {
        let found = host.exec(&[&["coracle"], diagnosis].concat()).stdout;
        for text in ["machine 'web' has no root", "are still recorded", "coracle remove --purge web"] {
            assert!(found.contains(text), "no '{text}' in {found}");
        }
    }
    host.coracle(&["remove", "--purge", "web"]);
    let found = host.exec(&["coracle", "doctor"]).stdout;
    assert!(!found.contains("'web'"), "{found}");
    host.stop();
}

#[test]
fn machinectl_binds_directories_without_user_namespace() {
    let host = host("busybox");
    host.define("web", &format!("{DEFINITION}[users]\nprivate = \"no\"\n"));
    host.coracle(&["start", "web"]);
    host.coracle(&["stop", "web"]);
    let before = Snapshot::take(&host);
    host.sh_ok("mkdir /srv/one /srv/two; echo one >/srv/one/file; echo two >/srv/two/file");
    host.ok(&["machinectl", "start", "web"]);
    host.ok(&["machinectl", "bind", "--mkdir", "web", "/srv/one", "/mnt/one"]);
    host.ok(&["machinectl", "bind", "--mkdir", "--read-only", "web", "/srv/two", "/mnt/two"]);
    let inside =
        "grep -x one /mnt/one/file; grep -x two /mnt/two/file; touch /mnt/one/new; ! touch /mnt/two/new";
    host.in_guest("web", &["sh", "-euc", inside]).success("bound");
    host.sh_ok("ls /srv/one/new");
    // The machine can neither write to the host's directory nor mount there.
    let inside = "if touch /run/host/incoming/x; then exit 1; fi; mount -t tmpfs none /run/host/incoming; grep -q incoming /proc/mounts";
    host.in_guest("web", &["sh", "-euc", inside]).success("incoming");
    host.sh_ok("! grep propagate/web /proc/mounts");
    host.coracle(&["stop", "web"]);
    host.sh_ok("[ ! -e /run/systemd/nspawn/propagate/web ]; rm -r /srv/one /srv/two");
    before.assert_same(&host);
    host.stop();
}
