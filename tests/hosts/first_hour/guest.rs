//! Rows about the state of guests, as they report it themselves.

use super::expect;
use crate::support::{Host, LONG};

const READY: &str = "coracle exec --wait-ready web -- true";

pub(super) fn failed_units(host: &Host) {
    expect(host, READY, 0, &[]);
    let state = "coracle exec web -- systemctl is-system-running --wait";
    host.exec(&["sh", "-c", state]);
    host.sh_ok("coracle exec web -- systemctl reset-failed");
    host.wait_until(LONG, "test \"$(coracle exec web -- systemctl is-system-running)\" = running");
    let healthy = expect(host, "coracle status web", 0, &["web: running\n"]);
    assert!(!healthy.contains("guest:"), "{healthy}");
    host.sh_ok("! coracle exec web -- systemd-run -q --wait --unit=bad.service false");
    expect(
        host,
        "coracle status web",
        0,
        &["web: running\n", "guest: degraded, 1 failed unit (bad.service)\n"],
    );
    expect(host, "coracle list | grep ^web", 0, &["web   degraded  systemd"]);
    expect(
        host,
        "coracle list --json",
        0,
        &["\"state\": \"running\"", "\"state\": \"degraded\"", "\"failed\": 1"],
    );
    expect(host, "coracle show web -p guest", 0, &["bad.service"]);
    let finding = "risk: its guest is degraded, 1 failed unit (bad.service)\n";
    expect(host, "coracle doctor web", 0, &[finding, "coracle logs web -u bad.service"]);
    expect(host, "coracle logs web -u bad.service", 0, &["bad.service"]);
    host.sh_ok("coracle exec web -- systemctl reset-failed");
    let healed = expect(host, "coracle doctor web", 0, &[]);
    assert!(!healed.contains("degraded"), "{healed}");
    a_silent_guest_has_no_state(host);
}

/// A guest that replaces the socket of its message bus by another one.
fn a_silent_guest_has_no_state(host: &Host) {
    let socket = "/run/dbus/system_bus_socket";
    for server in ["sleep 1000", "head -c 300000000 /dev/zero"] {
        host.sh_ok(&format!(
            "coracle exec web -- sh -c 'mv {socket} {socket}.kept; systemd-socket-activate -l {socket} --inetd -a \
             {server} >/dev/null 2>&1 & until test -S {socket}; do sleep .1; done'"
        ));
        let listed = expect(host, "coracle list --json", 0, &["\"guest\": null"]);
        assert!(!listed.contains("degraded"), "{listed}");
        expect(host, "coracle status web", 0, &["web: running\n"]);
        host.sh_ok(&format!(
            "coracle exec web -- sh -c 'kill $(pidof systemd-socket-activate); mv {socket}.kept {socket}'"
        ));
    }
}

pub(super) fn addresses(host: &Host) {
    host.sh_ok("ip link add br0 type bridge; ip link set br0 up; ip addr add 198.51.100.1/24 dev br0");
    host.define("bb", "[network]\nbridge = \"br0\"\n");
    host.coracle(&["restart", "bb"]);
    let finding = "risk: host0 has no address: no DHCP answer on br0\n";
    expect(host, "coracle doctor bb", 0, &[finding, "coracle set bb address="]);
    expect(host, "coracle exec bb -- ip addr add 198.51.100.7/24 dev host0", 0, &[]);
    expect(host, "coracle list | grep ^bb", 0, &["198.51.100.7"]);
    expect(host, "coracle status bb", 0, &["addresses: 198.51.100.7\n"]);
    expect(host, "coracle show bb -p addresses -p dynamic", 0, &["addresses=198.51.100.7\ndynamic=true\n"]);
    let healed = expect(host, "coracle doctor bb", 0, &[]);
    assert!(!healed.contains("has no address"), "{healed}");
    host.sh_ok("rm /etc/coracle/machines.d/bb.toml && coracle restart bb && ip link del br0");
    expect(host, "coracle show bb -p dynamic", 0, &["dynamic=false\n"]);
}

/// Docker enables netfilter on bridges. The kernel of the test machine may lack it.
pub(super) fn loopback_ports(host: &Host) {
    let sysctl = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";
    if host.exec(&["test", "-e", sysctl]).status != 0 {
        return;
    }
    host.define("bb", "[network]\nzone = \"lan\"\n");
    host.sh_ok(&format!("echo 1 >{sysctl}; coracle restart bb"));
    let message = "port 8080 does not answer at ::1: the host filters bridged packets";
    expect(host, "coracle set bb ports=8080:80", 0, &[message, "connect to 127.0.0.1"]);
    let finding = format!("risk: {message}");
    // A connection is refused at once, also after a start with that sysctl.
    let connect = |address: &str| host.exec(&["bash", "-c", &format!("exec 3<>/dev/tcp/{address}/8080")]);
    for restart in ["true", "coracle restart bb"] {
        expect(host, restart, 0, &[]);
        expect(host, "coracle doctor bb", 0, &[&finding, "net.bridge.bridge-nf-call-ip6tables=0"]);
        host.wait_until(LONG, "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'");
        let refused = connect("::1");
        assert!(refused.status == 1 && refused.stderr.contains("Connection refused"), "{refused}");
    }
    expect(host, "coracle restart bb", 0, &[message]);
    host.sh_ok(&format!("echo 0 >{sysctl}"));
    let healed = expect(host, "coracle doctor bb", 0, &[]);
    assert!(!healed.contains("::1"), "{healed}");
    host.sh_ok("rm -r /etc/coracle/machines.d/bb.toml*; coracle restart bb");
}
