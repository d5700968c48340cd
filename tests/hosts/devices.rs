//! `coracle device`: a loop device is added to a running machine and removed: the permission of the cgroup, the
//! node, its owner and its properties.

use crate::support::{Host, LONG, Snapshot};

/// Attaches a loop device to a file, and returns its path on the host.
fn loop_device(host: &Host) -> String {
    host.sh_ok("echo content >/var/tmp/disk; truncate -s 1M /var/tmp/disk");
    host.ok(&["losetup", "-f", "--show", "/var/tmp/disk"]).trim().to_owned()
}

/// Returns whether the machine can open its node.
fn can_read(host: &Host, path: &str) -> bool {
    host.exec(&["coracle", "exec", "m", "--", "head", "-c", "8", path]).stdout == "content\n"
}

#[test]
fn a_device_is_added_and_removed() {
    let host = Host::builder().guest_as("trixie", "m").start();
    host.activate_machined();
    let device = loop_device(&host);
    let number = host.ok(&["sh", "-c", &format!("stat -c %t:%T {device}")]);
    let before = Snapshot::take(&host);
    host.coracle(&["start", "--wait=ready", "m"]);
    let allowed = host.unit("m", "DeviceAllow");
    host.coracle(&["exec", "m", "--", "mkdir", "-p", "/run/udev/data"]);
    let properties = host.sh_ok(&format!(
        "mkdir -p /run/udev/data; f=/run/udev/data/b$(printf '%d:%d' 0x$(stat -c %t {device}) 0x$(stat -c %T {device}))
         echo 'E:ID_SERIAL=x' >$f; echo $f"
    ));
    let properties = properties.trim();
    let unconfined = || host.coracle(&["list", "--json"]).contains("\"devices\"");
    assert!(!unconfined());
    host.coracle(&["device", "add", "m", &device, "/dev/disk/by-id/data"]);
    assert!(unconfined());
    let seen = host.ok(&["coracle", "exec", "m", "--", "stat", "-c", "%t:%T %u:%g", "/dev/disk/by-id/data"]);
    assert_eq!(seen, format!("{} 0:0\n", number.trim()));
    assert!(can_read(&host, "/dev/disk/by-id/data"));
    assert_eq!(host.ok(&["coracle", "exec", "m", "--", "cat", properties]), "E:ID_SERIAL=x\n");
    let listed = host.coracle(&["device", "list", "m"]);
    assert!(
        listed.starts_with("PATH") && listed.contains(&format!("/dev/disk/by-id/data  {device}  block")),
        "{listed}"
    );
    assert!(host.coracle(&["device", "list", "--json", "m"]).contains("\"access\": \"rw\""));
    // A second one, at the same number, is refused.
    let again = host.exec(&["coracle", "device", "add", "m", &device]);
    assert!(again.status == 1 && again.stderr.contains("has '/dev/disk/by-id/data' already"), "{again}");
    // A copy of the node cannot be opened after the removal.
    host.coracle(&["exec", "m", "--", "ln", "/dev/disk/by-id/data", "/dev/copy"]);
    assert!(can_read(&host, "/dev/copy"));
    host.coracle(&["device", "remove", "m", "/dev/disk/by-id/data"]);
    assert!(!can_read(&host, "/dev/copy"));
    host.sh_ok(&format!(
        "! coracle exec m -- test -e /dev/disk/by-id/data && ! coracle exec m -- test -e {properties}"
    ));
    assert_eq!(host.unit("m", "DeviceAllow"), allowed);
    assert!(!unconfined());
    // It ends with the machine, and with its restart.
    host.coracle(&["device", "add", "--read-only", "m", &device]);
    assert!(can_read(&host, &device));
    let written = host.exec(&["coracle", "exec", "m", "--", "sh", "-c", &format!("echo x >{device}")]);
    assert_ne!(written.status, 0, "{written}");
    host.coracle(&["restart", "m"]);
    host.sh_ok(&format!("! coracle exec m -- test -e {device}"));
    assert_eq!(host.unit("m", "DeviceAllow"), allowed);
    host.coracle(&["device", "add", "m", &device]);
    host.kill_supervisor("m");
    // The service may still be stopping.
    host.wait_until(LONG, "test ! -e /run/systemd/system.control/coracle@m.service.d");
    host.sh_ok("! systemctl is-active coracle-devices@m.service");
    host.sh_ok("systemctl reset-failed");
    host.sh_ok(&format!("rm {properties}; rmdir /run/udev/data"));
    before.assert_same(&host);
    host.sh_ok(&format!("losetup -d {device}"));
    host.stop();
}

#[test]
fn wrong_devices_are_refused() {
    let host = Host::builder().guest_as("busybox", "m").guest("busybox").start();
    host.coracle(&["start", "m"]);
    let device = loop_device(&host);
    for (arguments, status, message) in [
        (&["device", "add", "m", "/etc/passwd"][..], 1, "'/etc/passwd' is not a device"),
        (&["device", "add", "m", "usb:1"], 2, "'usb:1' is not a USB device"),
        (
            &["device", "add", "m", "usb:ffff:ffff:no-such"],
            1,
            "there is no USB device 'usb:ffff:ffff:no-such'",
        ),
        (&["device", "add", "m", "/dev/nosuch"], 1, "cannot find device '/dev/nosuch'"),
        (&["device", "add", "m", &device, "/etc/node"], 2, "'/etc/node' is not a path below /dev"),
        (&["device", "add", "m", &device, "/dev/../etc/node"], 2, "is not a path below /dev"),
        (&["device", "add", "m", &device, "/dev/null"], 1, "cannot create '/dev/null' in the machine"),
        (&["device", "remove", "m", &device], 1, "was added to machine 'm'"),
        (&["device", "add", "nosuch", &device], 1, "machine 'nosuch' does not exist"),
    ] {
        let refused = host.exec(&[&["coracle"], arguments].concat());
        assert!(refused.status == status && refused.stderr.contains(message), "{arguments:?}: {refused}");
    }
    assert!(!host.unit("m", "DeviceAllow").contains("block"));
    assert!(host.coracle(&["device", "list", "--json", "m"]).contains("[]"), "a refused device is listed");
    // A link of the guest does not lead out of its /dev, nor a directory that it has put in the place.
    host.coracle(&["exec", "m", "--", "ln", "-s", "/root", "/dev/link"]);
    let refused = host.exec(&["coracle", "device", "add", "m", &device, "/dev/link/node"]);
    assert_eq!(refused.status, 1, "{refused}");
    host.sh_ok("! ls /var/lib/machines/m/root/node");
    // Nor a directory that the guest has mounted there, nor one of the host over that of the properties.
    host.sh_ok("mkdir /srv/data; coracle bind --mkdir --map=none m /srv/data /mnt");
    host.sh_ok("coracle exec m -- sh -c 'mkdir -p /dev/bus /run/udev/data; mount --bind /mnt /dev/bus'");
    let refused = host.exec(&["coracle", "device", "add", "m", &device, "/dev/bus/node"]);
    assert_eq!(refused.status, 1, "{refused}");
    let properties = host.sh_ok(&format!(
        "mkdir -p /run/udev/data; f=/run/udev/data/b$(printf '%d:%d' 0x$(stat -c %t {device}) 0x$(stat -c %T {device}))
         echo 'E:ID_SERIAL=x' >$f; echo $f"
    ));
    host.sh_ok("coracle exec m -- mount --bind /mnt /run/udev/data");
    host.coracle(&["device", "add", "m", &device, "/dev/node"]);
    host.coracle(&["device", "remove", "m", "/dev/node"]);
    host.sh_ok(&format!("test -z \"$(ls /srv/data)\"; rm {}", properties.trim()));
    // Machines in the foreground have no such unit.
    let run = host.spawn(&[
        "coracle",
        "run",
        "-q",
        "-D",
        "/var/lib/machines/busybox",
        "-M",
        "fore",
        "sleep",
        "1000",
    ]);
    host.wait_until(LONG, "coracle show fore -p phase | grep running");
    let refused = host.exec(&["coracle", "device", "add", "fore", &device]);
    assert!(
        refused.status == 1 && refused.stderr.contains("devices are added to machines of the unit"),
        "{refused}"
    );
    host.coracle(&["terminate", "fore"]);
    run.wait(LONG);
    host.sh_ok(&format!("losetup -d {device}"));
    host.stop();
}

/// A USB device in sysfs: its own node and that of a disk, which stand for devices that the kernel of the tests has.
const PLUG: &str = "mkdir -p /sys/bus/usb/devices/3-1/3-1:1.0/block/disk; cd /sys/bus/usb/devices/3-1
    echo 046d >idVendor; echo c52b >idProduct; echo 4C53 >serial; echo 10:229 >dev; echo DEVNAME=fuse >uevent
    cd 3-1:1.0/block/disk; echo 7:7 >dev; echo DEVNAME=loop7 >uevent";

/// Runs the unit of an event of udev.
fn event(host: &Host, number: u32) {
    host.sh_ok(&format!("systemctl start coracle-hotplug@{number}"));
}

#[test]
fn usb_devices_are_added_when_they_are_plugged_in_and_removed_when_they_are_unplugged() {
    let host = Host::builder().guest_as("busybox", "m").guest_as("busybox", "other").start();
    host.activate_machined();
    host.sh_ok("mount -t tmpfs tmpfs /sys/bus; mkdir -p /sys/bus/usb/devices");
    host.define("m", "[security]\nhotplug = [\"usb:046d:c52b:4C53\"]\n");
    let mark = "/run/coracle/.hotplug";
    host.coracle(&["start", "other"]);
    host.sh_ok(&format!("! test -e {mark}"));
    host.coracle(&["start", "m"]);
    host.wait_until(LONG, &format!("test -e {mark}"));
    let listed = |name: &str| host.coracle(&["device", "list", "--json", name]);
    assert_eq!(listed("m").trim(), "[]");
    host.sh_ok(PLUG);
    event(&host, 4711);
    let devices = listed("m");
    assert!(devices.contains("\"/dev/fuse\"") && devices.contains("\"/dev/loop7\""), "{devices}");
    assert_eq!(listed("other").trim(), "[]");
    assert_eq!(host.ok(&["coracle", "exec", "m", "--", "stat", "-c", "%t:%T", "/dev/loop7"]), "7:7\n");
    // A device of another product, and a repeated event.
    host.sh_ok("cp -r /sys/bus/usb/devices/3-1 /sys/bus/usb/devices/3-2; echo 0000 >/sys/bus/usb/devices/3-2/idProduct");
    event(&host, 4712);
    assert_eq!(listed("m"), devices);
    // Devices of the user stay, also those that are plugged in. One that cannot be added does not affect the others.
    host.coracle(&["device", "add", "m", "/dev/loop6"]);
    host.sh_ok(
        "cd /sys/bus/usb/devices/3-1; mkdir a b c; echo 7:6 >a/dev; echo DEVNAME=loop6 >a/uevent
         echo 7:4 >b/dev; echo DEVNAME=loop4 >b/uevent; echo 7:5 >c/dev; echo DEVNAME=loop5 >c/uevent
         coracle exec m -- touch /dev/loop4",
    );
    let failed = host.exec(&["systemctl", "start", "coracle-hotplug@4715"]);
    assert_ne!(failed.status, 0, "{failed}");
    let more = listed("m");
    assert!(more.contains("loop5") && !more.contains("loop4"), "{more}");
    assert_eq!(host.ok(&["systemctl", "list-units", "--failed", "--no-legend", "coracle-hotplug@*"]), "");
    host.sh_ok("coracle exec m -- rm /dev/loop4");
    event(&host, 4716);
    assert!(listed("m").contains("loop4"));
    host.sh_ok("rm -r /sys/bus/usb/devices/3-1");
    event(&host, 4713);
    let devices = listed("m");
    assert!(
        !devices.contains("fuse") && !devices.contains("loop7") && devices.contains("loop6"),
        "{devices}"
    );
    host.sh_ok("! coracle exec m -- test -e /dev/loop7");
    // It is there at the next start.
    host.sh_ok(PLUG);
    host.coracle(&["restart", "m"]);
    host.wait_until(LONG, "coracle device list m | grep -q loop7");
    host.coracle(&["stop", "m"]);
    event(&host, 4714);
    host.sh_ok(&format!("! test -e {mark}"));
    host.define("m", "[security]\nhotplug = [\"usb:46d:1\"]\n");
    let refused = host.exec(&["coracle", "check", "m"]);
    assert!(refused.status == 1 && refused.stdout.contains("is not a USB device"), "{refused}");
    host.coracle(&["stop", "other"]);
    host.stop();
}

#[test]
fn udev_accepts_the_rules() {
    let host = Host::builder().suite("sid").start();
    host.ok(&["udevadm", "verify", "/usr/lib/udev/rules.d/90-coracle.rules"]);
    host.stop();
}
