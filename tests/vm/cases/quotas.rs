//! `resources.disk-max`: what a machine writes is limited by the file system, and shown. It requires a kernel with
//! quotas.

use crate::LONG;
use crate::support::Vm;
use std::process::Command;

/// Returns a script that creates a disk of 400 MiB with a file system of this kind in `/var/tmp/disk`. The virtual
/// machine has no mkfs.xfs: the disk is sent to it as text.
fn disk(kind: &str) -> String {
    if kind == "ext4" {
        return "truncate -s 400M /var/tmp/disk
            mkfs.ext4 -q -O project,quota -E quotatype=prjquota /var/tmp/disk"
            .to_owned();
    }
    let place = tempfile::tempdir().expect("create a directory");
    // Compressed twice: most of it is zeros.
    let script = "truncate -s 400M disk; mkfs.xfs -q disk; gzip -9c disk | gzip -9 | base64 -w0";
    let output =
        Command::new("sh").args(["-euc", script]).current_dir(place.path()).output().expect("execute sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("base64");
    format!(
        "echo {text} | base64 -d | gzip -d | gzip -d | dd of=/var/tmp/disk conv=sparse bs=64k status=none
         truncate -s 400M /var/tmp/disk"
    )
}

/// Mounts the disk at the directory of images, with copies of the guest: a directory `web` and a stack `shop`.
fn mount(vm: &Vm, options: &str) {
    vm.sh_ok(&format!(
        "mkdir -p /mnt /run/guest; mountpoint -q /run/guest || mount --bind /var/lib/machines/busybox /run/guest
         mount -o loop /var/tmp/disk /mnt
         test -d /mnt/web || {{
             cp -a /run/guest /mnt/web; cp -a /run/guest /mnt/.lower; mkdir -p /mnt/shop.mstack/rw
             ln -s ../.lower /mnt/shop.mstack/layer@0; mkdir -m 700 /mnt/.storage; chmod 700 /mnt
         }}
         umount /mnt; mount -o loop,{options} /var/tmp/disk /var/lib/machines
         mkdir -p /var/lib/coracle /etc/coracle/machines.d; ln -sfn /var/lib/machines/.storage /var/lib/coracle/storage
         printf '[resources]\\ndisk-max = \"64M\"\\n' >/etc/coracle/machines.d/web.toml
         printf '[resources]\\ndisk-max = \"32M\"\\n' >/etc/coracle/machines.d/shop.toml"
    ));
}

#[test]
fn a_machine_cannot_write_more_than_its_limit() {
    for (kind, title) in [("ext4", "ext4"), ("xfs", "XFS")] {
        let vm = Vm::start();
        vm.sh_ok("modprobe -a loop quota_v2");
        vm.sh_ok(&disk(kind));
        // The option is named.
        mount(&vm, "defaults");
        let failed = vm.sh("coracle start web");
        let error = format!("{title} is mounted without 'prjquota'");
        assert!(failed.status != 0 && failed.stderr.contains(&error), "{failed}");
        assert!(failed.stderr.contains("with the option 'prjquota'"), "{failed}");
        vm.sh_ok("umount /var/lib/machines");
        mount(&vm, "prjquota");
        for (name, most) in [("web", 64), ("shop", 32)] {
            limits(&vm, kind, name, most);
        }
        // Files of a project become a layer, which does not count.
        vm.sh_ok("rm -r /etc/coracle/machines.d/shop.toml*");
        vm.sh_ok("coracle start shop; coracle exec shop -- sh -c 'echo kept >/kept'; coracle stop shop");
        vm.coracle(&["snapshot", "shop", "one"]);
        vm.sh_ok("coracle start shop; coracle exec shop -- grep kept /kept; coracle stop shop");
        vm.power_off();
    }
}

/// Checks the limit of a machine, MiB.
fn limits(vm: &Vm, kind: &str, name: &str, most: u64) {
    vm.coracle(&["start", name]);
    let write = |count: u64| {
        let command = format!("dd if=/dev/zero of=/data bs=1M count={count} && sync /data");
        vm.exec_for(LONG, &["coracle", "exec", name, "--", "sh", "-c", &command])
    };
    let out = write(10);
    assert_eq!(out.status, 0, "{kind} {name}: {out}");
    let full = write(most + 5);
    let said = full.stderr.to_lowercase();
    assert!(full.status != 0, "{kind} {name}: {full}");
    assert!(said.contains("quota exceeded") || said.contains("no space left"), "{kind} {name}: {full}");
    vm.sh_ok(&format!("coracle exec {name} -- rm /data"));
    // A running machine gets more.
    let set = vm.coracle(&["set", name, "disk-max=128M"]);
    assert!(!set.contains("restart"), "{kind} {name}: {set}");
    let out = write(most + 5);
    assert_eq!(out.status, 0, "{kind} {name}: {out}");
    let rows: serde_json::Value = serde_json::from_str(&vm.coracle(&["list", "--json"])).expect("JSON");
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name)).expect("its row");
    assert_eq!(row["disk-max"], 128 << 20, "{row}");
    assert!(row["disk"].as_u64().expect("bytes") >= (most + 5) << 20, "{row}");
    assert!(vm.coracle(&["list"]).contains("DISK") && vm.coracle(&["stats"]).contains("DISK"));
    vm.coracle(&["set", name, "disk-max=infinity"]);
    vm.coracle(&["stop", name]);
    // Without the key in the definition the limit is gone at the next start, and by an apply.
    let define = |text: &str| {
        vm.sh_ok(&format!("rm -rf /etc/coracle/machines.d/{name}.toml*; printf '{text}' >/etc/coracle/machines.d/{name}.toml"));
    };
    let limited = "[resources]\ndisk-max = \"16M\"\n";
    for is_running in [false, true] {
        vm.sh_ok(&format!(
            "rm -f /var/lib/machines/{name}/data /var/lib/machines/{name}.mstack/rw/data/data"
        ));
        define(limited);
        vm.coracle(&["start", name]);
        assert!(write(20).status != 0, "{kind} {name}");
        if !is_running {
            vm.coracle(&["stop", name]);
        }
        define("");
        vm.coracle(&[if is_running { "apply" } else { "start" }, name]);
        let out = write(20);
        assert_eq!(out.status, 0, "{kind} {name} {is_running}: {out}");
        vm.coracle(&["stop", name]);
    }
    define(if name == "web" {
        "[resources]\ndisk-max = \"64M\"\n"
    } else {
        "[resources]\ndisk-max = \"32M\"\n"
    });
}
