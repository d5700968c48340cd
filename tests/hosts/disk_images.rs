//! Disk images as roots of machines: with and without a partition table, written to, shared, and discarded.

use crate::support::{Host, LONG, Snapshot};
use std::process::Command;

/// The loop devices in use whose file lies on the host.
const NO_LOOPS: &str =
    "! grep -l . /sys/block/loop*/loop/backing_file 2>/dev/null | xargs -r cat | grep /machines/";

/// Starts a host with a tree `.base`, and with the store beside it: the host's own root is an overlay.
fn host(tree: &str) -> Host {
    host_of("trixie", tree)
}

/// Starts such a host of a suite.
fn host_of(suite: &str, tree: &str) -> Host {
    let host = Host::builder().suite(suite).guest_as(tree, ".base").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.activate_machined();
    host
}

/// Creates the image `NAME.raw` with an ext4 of the tree.
fn ext4(host: &Host, name: &str, size: &str) {
    host.sh_ok(&format!(
        "cd /var/lib/machines; mke2fs -q -t ext4 -d .base {name}.raw {size}; touch {name}.raw"
    ));
}

#[test]
fn debian_boots_from_an_ext4_image_and_leaves_no_loop_device() {
    let host = host("trixie");
    ext4(&host, "web", "1G");
    let before = Snapshot::take(&host);
    host.coracle(&["start", "web"]);
    host.wait_until(LONG, "coracle exec web -- systemctl is-system-running | grep -x running");
    host.sh_ok("coracle exec web -- sh -ec 'grep \" / ext4 rw\" /proc/mounts; echo kept >/root/kept; stat -c %u /root/kept'");
    let leader = host.machine_leader("web");
    // Its own ids: files of root are not those of the host's root.
    assert_ne!(host.sh_ok(&format!("stat -c %u /proc/{leader}")).trim(), "0");
    host.ask_in_guest("web", &["reboot"]);
    host.wait_for_reboot("web", leader);
    host.wait_until(LONG, "coracle exec web -- systemctl is-system-running | grep -x running");
    host.sh_ok(
        "coracle exec web -- grep -x kept /root/kept; coracle status web | grep /var/lib/machines/web.raw",
    );
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
    before.assert_same(&host);
    // On the disk the owners are from 0 on.
    host.sh_ok("debugfs -R 'stat /root/kept' /var/lib/machines/web.raw 2>&1 | grep -E 'User: +0 +Group: +0'");
    host.coracle(&["start", "web"]);
    host.kill_supervisor("web");
    host.wait_for_unit("web", "failed");
    host.sh_ok("systemctl reset-failed");
    before.assert_same(&host);
    host.wait_until(LONG, NO_LOOPS);
    host.coracle(&["start", "web"]);
    host.coracle(&["stop", "web"]);
    host.sh_ok("e2fsck -fn /var/lib/machines/web.raw");
    host.stop();
}

#[test]
fn debian_boots_from_squashfs_and_erofs() {
    let host = host("trixie");
    host.sh_ok("cd /var/lib/machines; mksquashfs .base squashfs.raw -quiet -no-progress >&2");
    let mut made = Command::new("mkfs.erofs");
    made.arg(host.machines().join("erofs.raw")).arg(host.machines().join(".base"));
    assert!(made.output().expect("mkfs.erofs").status.success());
    for kind in ["squashfs", "erofs"] {
        host.define(kind, "[root]\nvolatile = \"overlay\"\n");
        host.coracle(&["start", kind]);
        host.wait_until(
            LONG,
            &format!("coracle exec {kind} -- systemctl is-system-running | grep -x running"),
        );
        host.sh_ok(&format!(
            "coracle exec {kind} -- sh -ec 'grep \" / overlay rw\" /proc/mounts; touch /usr/new'"
        ));
        host.coracle(&["stop", kind]);
        host.assert_clean_stop(kind);
        // Its file system is recognised, and nothing was written to it.
        host.sh_ok(&format!("coracle run -q -M {kind} --read-only sh -ec 'grep \" / {kind} ro\" /proc/mounts; test ! -e /usr/new'"));
    }
    host.wait_until(LONG, NO_LOOPS);
    host.stop();
}

#[test]
fn an_image_is_shared_only_if_nobody_writes_to_it() {
    let host = host("busybox");
    host.sh_ok("cd /var/lib/machines; mksquashfs .base golden.raw -quiet -no-progress >&2");
    ext4(&host, "web", "256M");
    let before = Snapshot::take(&host);
    for name in ["a", "b"] {
        host.define(name, "[root]\nimage = \"/var/lib/machines/golden.raw\"\n");
        host.coracle(&["start", name]);
    }
    host.sh_ok("for name in a b; do coracle exec $name -- sh -ec 'grep \" / squashfs ro\" /proc/mounts; ! touch /x'; done");
    host.coracle(&["start", "web"]);
    let refused =
        host.exec(&["coracle", "run", "-q", "-i", "/var/lib/machines/web.raw", "-M", "other", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("is in use by machine 'web'"), "{refused}");
    let refused = host.exec(&[
        "/usr/lib/coracle/systemd-nspawn",
        "-q",
        "-i",
        "/var/lib/machines/web.raw",
        "-M",
        "other",
        "true",
    ]);
    assert!(refused.status == 1 && refused.stderr.contains("is in use by"), "{refused}");
    // A discarded change does not need the image alone, but nobody may write to it.
    let refused =
        host.exec(&["coracle", "run", "-q", "-x", "-i", "/var/lib/machines/web.raw", "-M", "other", "true"]);
    assert!(refused.stderr.contains("is in use by machine 'web'"), "{refused}");
    for name in ["a", "b", "web"] {
        host.coracle(&["stop", name]);
    }
    // A device of another program.
    host.sh_ok("losetup -f --show /var/lib/machines/web.raw >/tmp/device");
    let refused =
        host.exec(&["coracle", "run", "-q", "-i", "/var/lib/machines/web.raw", "-M", "other", "true"]);
    assert!(refused.stderr.contains("it is in use by '/dev/loop"), "{refused}");
    host.sh_ok("losetup -d $(cat /tmp/device)");
    host.wait_until(LONG, NO_LOOPS);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn changes_of_an_image_are_discarded_on_request() {
    let host = host("busybox");
    ext4(&host, "web", "256M");
    host.sh_ok("cd /var/lib/machines; mksquashfs .base fixed.raw -quiet -no-progress >&2; sha256sum *.raw >/tmp/sums");
    let before = Snapshot::take(&host);
    for users in ["", "-U"] {
        for image in ["web.raw", "fixed.raw"] {
            let run = format!("coracle run -q {users} -i /var/lib/machines/{image}");
            host.sh_ok(&format!("{run} -x sh -c 'echo new >/etc/new; grep \" / overlay rw\" /proc/mounts'"));
            host.sh_ok(&format!("{run} --volatile=overlay sh -c 'echo new >/etc/new'"));
            host.sh_ok(&format!("{run} --volatile=state sh -ec 'touch /var/new; ! touch /etc/new'"));
            host.sh_ok(&format!("{run} --read-only sh -c '! touch /etc/new'"));
            // A tree with all programs in /usr.
            host.sh_ok(&format!(
                "{run} --volatile=yes sh -ec 'touch /etc/new; test -x /bin/sh; ! touch /usr/new'"
            ));
        }
    }
    host.sh_ok("cd /var/lib/machines; sha256sum -c /tmp/sums");
    before.assert_same(&host);
    host.wait_until(LONG, NO_LOOPS);
    host.stop();
}

#[test]
fn partitions_of_a_gpt_are_mounted_at_their_places() {
    // It has systemd-repart.
    let host = host_of("bookworm", "busybox");
    host.sh_ok(
        "cd /var/lib/machines; mkdir -p /tmp/repart .base/home .base/srv .base/efi /tmp/home/user
         echo data >/tmp/home/user/file
         printf '[Partition]\nType=root\nFormat=ext4\nCopyFiles=/var/lib/machines/.base:/\nSizeMinBytes=128M\n' >/tmp/repart/10-root.conf
         printf '[Partition]\nType=home\nFormat=ext4\nCopyFiles=/tmp/home:/\nSizeMinBytes=64M\n' >/tmp/repart/20-home.conf
         printf '[Partition]\nType=srv\nFormat=ext4\nReadOnly=yes\nSizeMinBytes=64M\n' >/tmp/repart/30-srv.conf
         systemd-repart --empty=create --size=300M --definitions=/tmp/repart --no-pager web.raw >&2",
    );
    let before = Snapshot::take(&host);
    for users in ["pick", "no"] {
        host.define("web", &format!("[users]\nprivate = \"{users}\"\n"));
        host.coracle(&["start", "web"]);
        host.sh_ok(
            "coracle exec web -- sh -euc 'grep data /home/user/file; stat -c %u /home/user/file | grep -x 0
             grep \" /home ext4 rw\" /proc/mounts; grep \" /srv ext4 ro\" /proc/mounts; if touch /srv/x; then exit 1; fi
             echo more >>/home/user/file; ! mknod /home/loop0 b 7 0'",
        );
        host.coracle(&["stop", "web"]);
        before.assert_same(&host);
    }
    host.sh_ok("coracle run -q -x -M web sh -ec 'wc -l </home/user/file | grep -x 3; rm -r /home/user'");
    host.sh_ok(
        "coracle run -q -M web --read-only sh -ec 'wc -l </home/user/file | grep -x 3; ! touch /home/x'",
    );
    // Partitions that the policy does not name are left out, and no protection is left out.
    host.sh_ok(
        "coracle run -q -M web --read-only --image-policy=root=unprotected sh -c 'test ! -e /home/user'",
    );
    let refused =
        host.exec(&["coracle", "run", "-q", "-M", "web", "--image-policy=root=verity:=open", "true"]);
    assert!(refused.stderr.contains("its partition 'root' is not protected"), "{refused}");
    host.sh_ok("touch /var/lib/machines/web.roothash");
    let refused = host.exec(&["coracle", "start", "web"]);
    assert!(
        refused.status != 0 && refused.stderr.contains("cannot use the protected disk image"),
        "{refused}"
    );
    host.sh_ok("rm /var/lib/machines/web.roothash; coracle cleanup web; systemctl reset-failed");
    // The copy of a damaged table is used, and a damaged copy is not.
    host.sh_ok("cd /var/lib/machines; printf x | dd of=web.raw bs=1 seek=600 conv=notrunc status=none");
    host.sh_ok("coracle run -q -M web --read-only true; coracle verify web");
    host.sh_ok("cd /var/lib/machines; truncate -s 299M web.raw");
    let refused = host.exec(&["coracle", "run", "-q", "-M", "web", "true"]);
    assert!(refused.stderr.contains("its partition table (GPT) is damaged"), "{refused}");
    host.sh_ok("coracle images | grep damaged; ! coracle verify web");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn verbs_change_disk_images_as_other_images() {
    let host = host("busybox");
    ext4(&host, "web", "256M");
    host.sh_ok("coracle images web | grep -E '^web +raw +no '; coracle images --usage web; coracle check");
    host.coracle(&["read-only", "web", "yes"]);
    host.sh_ok("machinectl list-images | grep -E '^web +raw +(yes|ro)'; coracle images web | grep -E '^web +raw +yes'");
    host.sh_ok("coracle start web; coracle exec web -- sh -c '! touch /x'; coracle stop web");
    let refused = host.exec(&["coracle", "remove", "web"]);
    assert!(refused.status != 0 && refused.stderr.contains("is read-only"), "{refused}");
    host.coracle(&["read-only", "web", "no"]);
    host.sh_ok("machinectl list-images | grep -E '^web +raw +(no|rw)'");
    // A clone has an identity of its own.
    host.sh_ok("coracle run -q -M web sh -c 'echo web >/etc/hostname; echo 0123456789abcdef0123456789abcdef >/etc/machine-id'");
    host.coracle(&["clone", "web", "copy"]);
    host.sh_ok(
        "coracle run -q -M copy sh -ec 'cat /etc/hostname | grep -x copy; ! grep 0123 /etc/machine-id'",
    );
    host.sh_ok(
        "coracle clone --exact --read-only web exact; coracle images exact | grep -E '^exact +raw +yes'",
    );
    for words in [&["snapshot", "web"][..], &["convert", "web", "stack"], &["convert", "web", "directory"]] {
        let refused = host.exec(&[&["coracle"], words].concat());
        assert!(refused.status != 0 && refused.stderr.contains("the disk image"), "{refused}");
    }
    host.coracle(&["rename", "copy", "other"]);
    host.sh_ok(
        "test -f /var/lib/machines/other.raw; test ! -e /var/lib/machines/copy.raw; coracle verify other",
    );
    host.coracle(&["start", "other"]);
    for words in [&["rename", "other", "more"][..], &["remove", "other"], &["read-only", "other", "yes"]] {
        let refused = host.exec(&[&["coracle"], words].concat());
        assert!(refused.status != 0, "{refused}");
    }
    host.coracle(&["stop", "other"]);
    host.coracle(&["remove", "other"]);
    host.sh_ok("if ls -A /var/lib/machines | grep other; then exit 1; fi; coracle doctor >&2 || true");
    host.wait_until(LONG, NO_LOOPS);
    host.stop();
}

#[test]
fn xfs_btrfs_and_block_devices_are_roots_too() {
    let host = host("busybox");
    for kind in ["xfs", "btrfs"] {
        let file = host.machines().join(format!("{kind}.raw"));
        std::fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(&file).status().unwrap();
        assert!(made.success(), "mkfs.{kind}");
        host.sh_ok(&format!(
            "mkdir -p /mnt; mount /var/lib/machines/{kind}.raw /mnt; cp -a /var/lib/machines/.base/. /mnt; umount /mnt"
        ));
    }
    ext4(&host, "ext4", "128M");
    let before = Snapshot::take(&host);
    for kind in ["xfs", "btrfs"] {
        for options in ["", "-U"] {
            let run = format!("coracle run -q {options} -i /var/lib/machines/{kind}.raw");
            host.sh_ok(&format!(
                "{run} sh -ec 'grep \" / {kind} rw\" /proc/mounts; echo x >>/root/x; stat -c %u /root/x | grep -x 0'"
            ));
            host.sh_ok(&format!("{run} --read-only sh -ec 'grep \" / {kind} ro\" /proc/mounts; ! touch /x'"));
            host.sh_ok(&format!("{run} -x sh -c 'rm /root/x; touch /y'; {run} test -e /root/x"));
        }
    }
    before.assert_same(&host);
    // A block device: mounted itself, and locked by its number.
    host.sh_ok(
        "device=$(losetup -f --show /var/lib/machines/ext4.raw); echo \"$device\" >/tmp/device
         coracle run -q -i \"$device\" sh -ec \"grep '^$device / ext4 rw' /proc/mounts; echo block >/root/block\"
         systemd-run -q --unit=holder coracle run -q -i \"$device\" -M holder sleep 600",
    );
    host.wait_until(LONG, "coracle exec holder -- true");
    let refused = host.sh("coracle run -q -i \"$(cat /tmp/device)\" -M other true");
    assert!(refused.stderr.contains("is in use by machine 'holder'"), "{refused}");
    host.sh_ok("systemctl stop holder");
    let device = host.sh_ok("cat /tmp/device");
    host.define("unit", &format!("[root]\nimage = \"{}\"\n", device.trim()));
    host.coracle(&["start", "unit"]);
    host.sh_ok(
        "coracle exec unit -- test -e /root/block; systemctl show -P DeviceAllow coracle@unit | grep loop",
    );
    host.coracle(&["stop", "unit"]);
    host.sh_ok("losetup -d $(cat /tmp/device)");
    host.sh_ok("debugfs -R 'cat /root/block' /var/lib/machines/ext4.raw 2>/dev/null | grep block");
    host.wait_until(LONG, NO_LOOPS);
    host.stop();
}

#[test]
fn a_start_killed_at_any_moment_leaves_no_loop_device() {
    let host = host("busybox");
    ext4(&host, "web", "128M");
    host.sh_ok("coracle run -q -i /var/lib/machines/web.raw true");
    let before = Snapshot::take(&host);
    for users in ["", "-U"] {
        host.sh_ok(&format!(
            "for delay in $(seq -f %03g 1 4 80); do
                 timeout -s KILL 0.$delay coracle run -q {users} -i /var/lib/machines/web.raw sleep 600 || true
             done"
        ));
        host.wait_until(LONG, NO_LOOPS);
        host.sh_ok(&format!("coracle run -q {users} -i /var/lib/machines/web.raw true"));
        before.assert_same(&host);
    }
    host.sh_ok("e2fsck -fn /var/lib/machines/web.raw");
    host.stop();
}
