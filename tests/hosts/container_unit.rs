//! A unit with the command line of systemd-nspawn(1), as NixOS generates for its containers: the start script
//! configures a plain link by hand, and a reboot of the guest restarts the unit. The same unit also runs with
//! the systemd-nspawn of the host.

use crate::support::{Host, LONG, Snapshot};

/// The program of the unit: ours, and that of the host.
const PROGRAMS: [&str; 2] = ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"];

/// The start script in the guest. It ends at the first failure.
const SCRIPT: &str = "#!/bin/sh -e
if [ -n \"$HOST_ADDRESS\" ]; then
    ip link set host0 name eth0
    ip link set dev eth0 up
    ip addr add \"$LOCAL_ADDRESS\" dev eth0
    ip route add \"$HOST_ADDRESS\" dev eth0
    ip route add default via \"$HOST_ADDRESS\"
fi
exec \"$1\"
";

/// The unit; `PROGRAM` stands for the program.
const UNIT: &str = "[Service]
Type=notify
Delegate=yes
Slice=machine.slice
KillMode=mixed
RestartForceExitStatus=133
SuccessExitStatus=133
ExecStart=PROGRAM --keep-unit -M web -D /var/lib/machines/web --link-journal=try-guest --kill-signal=SIGUSR2 \
 --network-veth --setenv=HOST_ADDRESS=192.168.100.10 --setenv=LOCAL_ADDRESS=192.168.100.11 /start /sbin/init
ExecStartPost=ip link set dev ve-web up
ExecStartPost=ip addr add 192.168.100.10 dev ve-web
ExecStartPost=ip route add 192.168.100.11 dev ve-web
";

#[test]
fn a_script_configures_the_link_and_a_reboot_restarts_the_unit() {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.activate_machined();
    host.write("/var/lib/machines/web/start", SCRIPT);
    host.sh_ok(
        "chmod 755 /var/lib/machines/web/start; systemd-id128 new >/var/lib/machines/web/etc/machine-id",
    );
    let before = Snapshot::take(&host);
    for program in PROGRAMS {
        host.write("/run/systemd/system/web.service", &UNIT.replace("PROGRAM", program));
        host.sh_ok("systemctl daemon-reload");
        host.exec_for(LONG, &["systemctl", "start", "web"]).success("start the unit");
        host.wait_for_page("192.168.100.11");
        let leader = host.ok(&["machinectl", "show", "web", "-P", "Leader"]);
        // Its init may end it first.
        host.sh("nsenter -a -t $(machinectl show web -P Leader) busybox reboot");
        let restarted = "[ $(systemctl show -P NRestarts web) = 1 ] && systemctl is-active web";
        // The unit has no Restart=: only the exit status restarts it.
        host.wait_until(
            LONG,
            &format!("{restarted} && [ $(machinectl show web -P Leader) != {} ]", leader.trim()),
        );
        host.wait_for_page("192.168.100.11");
        host.exec_for(LONG, &["systemctl", "stop", "web"]).success("stop the unit");
        assert_eq!(host.unit_state("web.service"), "inactive", "{program}");
        host.sh_ok(
            "if ip link show ve-web; then exit 1; fi; rm /run/systemd/system/web.service; journalctl --rotate --vacuum-time=1s",
        );
        let options = "-q --register=no --keep-unit --console=pipe -D /var/lib/machines/web";
        let rebooted = host.sh(&format!(
            "systemd-run -q --wait --pipe --collect -p Delegate=yes {program} {options} busybox reboot -f </dev/null"
        ));
        assert_eq!(rebooted.status, 133, "{rebooted}");
        if program == PROGRAMS[0] {
            host.sh_ok("systemctl daemon-reload");
            before.assert_same(&host);
        }
    }
    host.stop();
}
