//! Descriptors that PID 1 of a machine stores in the service manager of the host, and gets back with the next
//! start (`FileDescriptorStoreMax=`).

use crate::support::{Host, LONG, Snapshot};

/// A first process that stores a file and a directory, gets the file back twice, and then removes it.
const INIT: &str = r#"#!/bin/sh
echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES" >>/root/seen
case $(wc -l </root/seen) in
1)
	exec 4</root/text 5</
	exec systemd-notify --exec --fd=4 --fd=5 --fdname=state READY=1 ';' /root/wait
	;;
2 | 3) head -n1 <&3 >>/root/text.seen ;;
*) exec systemd-notify --exec FDSTOREREMOVE=1 FDNAME=state ';' /root/wait ;;
esac
exec /root/wait
"#;

/// Waits until it is stopped.
const WAIT: &str = "#!/bin/sh\ntrap 'exit 0' TERM\nsleep 1000 &\nwait\n";

/// Waits for a number of stored descriptors.
#[track_caller]
fn wait_for_stored(host: &Host, unit: &str, count: u32) {
    host.wait_until(LONG, &format!("[ $(systemctl show -P NFileDescriptorStore {unit}) = {count} ]"));
}

/// Asserts that the machine `m`, whose service is `unit`, keeps a descriptor in the store of the host.
#[track_caller]
fn stores_and_gets_back(unit: &str, definition: &str) {
    let host = Host::builder().guest_as("trixie", "m").start();
    let version = host.sh_ok("systemctl --version | head -n1 | cut -d' ' -f2");
    if version.trim().parse::<u32>().is_ok_and(|version| version < 254) {
        // The service manager does not tell a service of its store.
        return host.stop();
    }
    let before = Snapshot::take(&host);
    host.define("m", &format!("[boot]\ninit = \"/root/init\"\nstop-signal = \"SIGTERM\"\n{definition}"));
    host.write("/var/lib/machines/m/root/init", INIT);
    host.write("/var/lib/machines/m/root/wait", WAIT);
    host.sh_ok(&format!(
        "cd /var/lib/machines/m/root; chmod 755 init wait; printf 'first\nsecond\n' >text
         mkdir -p /run/systemd/system/{unit}.d; cd /run/systemd/system/{unit}.d
         printf '[Service]\nFileDescriptorStoreMax=8\n' >store.conf; systemctl daemon-reload"
    ));
    host.ok(&["systemctl", "start", unit]);
    // Without the directory, which would lead out of the next machine.
    wait_for_stored(&host, unit, 1);

    // A reboot restarts the service, because the manager passes descriptors to a new process only.
    let supervisor = host.supervisor("m");
    host.sh("coracle exec m -- systemctl --force --force reboot");
    host.wait_until(LONG, "[ $(wc -l </var/lib/machines/m/root/seen) = 2 ]");
    assert_ne!(host.supervisor("m"), supervisor);
    wait_for_stored(&host, unit, 1);
    host.ok(&["systemctl", "restart", unit]);
    host.wait_until(LONG, "[ $(wc -l </var/lib/machines/m/root/seen) = 3 ]");
    host.ok(&["systemctl", "restart", unit]);
    wait_for_stored(&host, unit, 0);
    assert_eq!(
        host.read("/var/lib/machines/m/root/seen"),
        "  \n1 1 state\n1 1 state\n1 1 state\n",
        "number, process and names of the passed descriptors"
    );
    // One open file, with its position.
    assert_eq!(host.read("/var/lib/machines/m/root/text.seen"), "first\nsecond\n");
    host.ok(&["systemctl", "stop", unit]);
    host.sh_ok(&format!("rm -r /run/systemd/system/{unit}.d; systemctl daemon-reload"));
    before.assert_same(&host);
    host.stop();
}

#[test]
fn the_service_of_a_machine_keeps_descriptors_of_pid_1() {
    stores_and_gets_back("coracle@m.service", "");
}

#[test]
fn so_does_a_service_of_systemd_nspawn() {
    stores_and_gets_back("systemd-nspawn@m.service", "machinectl = true\n");
}

#[test]
fn without_a_store_no_descriptor_of_pid_1_is_accepted() {
    let host = Host::start(&["trixie"]);
    host.start_machine("trixie");
    let send = "NOTIFY_SOCKET=/run/host/notify systemd-notify --no-block --fd=3 --fdname=x 3</etc/passwd";
    host.sh(&format!("coracle exec trixie -- sh -c '{send}'"));
    assert_eq!(host.unit("trixie", "NFileDescriptorStore"), "0");
    let capabilities = format!("grep CapPrm: /proc/{}/status", host.supervisor("trixie"));
    let text = host.sh_ok(&capabilities);
    let mask = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    // CAP_SYS_ADMIN is number 21.
    assert_eq!(mask >> 21 & 1, 0, "{text}");
    host.stop();
}
