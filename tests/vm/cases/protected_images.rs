//! Verified and encrypted disk images, which require the device mapper of a kernel of their own. What
//! systemd-nspawn does with an image, coracle does too.

use crate::LONG;
use crate::support::{Output, Snapshot, Vm};

/// The directory of images.
const IMAGES: &str = "/var/lib/machines";

/// Both programs, as a command with a pipe.
const PROGRAMS: [&str; 2] = ["systemd-nspawn -q --register=no -P", "coracle run -q --register=no -P"];

/// Waits until no device of an image is left.
#[track_caller]
fn assert_released(vm: &Vm) {
    vm.wait_until(LONG, "! ls -d /sys/block/dm-* /sys/block/loop*/loop 2>/dev/null | grep .");
}

/// Starts a virtual machine with the modules that systemd-nspawn@.service loads, and with the directories that
/// systemd-nspawn leaves.
fn start() -> Vm {
    let vm = Vm::start();
    vm.sh_ok(&format!(
        "modprobe -a loop dm_mod; {} -D {IMAGES}/busybox true; machinectl -q list",
        PROGRAMS[0]
    ));
    vm
}

/// Runs a command in an image with one of the programs.
fn run(vm: &Vm, program: &str, options: &str, command: &str) -> Output {
    vm.exec_for(LONG, &["sh", "-c", &format!("cd {IMAGES}; {program} {options} {command}")])
}

/// Creates a verified image with its hashes beside it, and returns the root hash.
fn verified_image(vm: &Vm) -> String {
    let hash = vm.sh_ok(&format!(
        "cd {IMAGES}; mksquashfs busybox verified.raw -quiet -no-progress >&2
         veritysetup format verified.raw verified.verity | sed -n 's/^Root hash:[[:space:]]*//p'"
    ));
    hash.trim().to_owned()
}

#[test]
fn verified_images_run_only_unchanged() {
    let vm = start();
    let hash = verified_image(&vm);
    assert_eq!(hash.len(), 64, "{hash}");
    let before = Snapshot::take(&vm);
    let options = format!("-i verified.raw --root-hash={hash} --verity-data=verified.verity");
    for program in PROGRAMS {
        for further in ["", "--private-users=pick", "--volatile=yes"] {
            let out = run(&vm, program, &format!("{options} {further}"), "sh -c 'echo up; ! touch /usr/x'");
            assert_eq!((out.status, out.stdout.as_str()), (0, "up\n"), "{program} {further}: {out}");
            assert_released(&vm);
        }
        let wrong = hash.replace(|digit| digit != '0', "0");
        let options = format!("-i verified.raw --root-hash={wrong} --verity-data=verified.verity");
        let out = run(&vm, program, &options, "echo up");
        assert!(out.status != 0 && !out.stdout.contains("up"), "{program}: {out}");
        assert_released(&vm);
    }
    let refused = vm.exec(&["coracle", "run", "-q", "-D", "/", "--root-hash", &hash, "true"]);
    assert!(refused.status != 0, "{refused}");
    // Every block of data is changed, and the superblock is not.
    vm.sh_ok(&format!(
        "cd {IMAGES}; size=$(stat -c %s verified.raw); cp verified.raw good
         dd if=/dev/zero of=verified.raw bs=4096 seek=1 count=$((size / 4096 - 1)) conv=notrunc status=none"
    ));
    for program in PROGRAMS {
        let out = run(&vm, program, &options, "echo up");
        assert!(out.status != 0 && !out.stdout.contains("up"), "{program}: {out}");
        assert_released(&vm);
    }
    vm.sh_ok(&format!("mv {IMAGES}/good {IMAGES}/verified.raw"));
    before.assert_same(&vm);
    vm.power_off();
}

#[test]
fn a_unit_with_a_verified_image_leaves_no_device() {
    let vm = start();
    let hash = verified_image(&vm);
    vm.sh_ok(&format!("echo {hash} >{IMAGES}/verified.roothash"));
    let image =
        format!("[root]\nimage = \"{IMAGES}/verified.raw\"\nverity-data = \"{IMAGES}/verified.verity\"\n");
    vm.define("verified", &format!("{image}ephemeral = true\n"));
    let before = Snapshot::take(&vm);
    vm.coracle(&["start", "verified"]);
    let out = vm.coracle(&[
        "exec",
        "verified",
        "--",
        "sh",
        "-c",
        "echo x >/new; cat /new; ls /sys/block | grep -c dm-",
    ]);
    assert_eq!(out, "x\n1\n");
    vm.coracle(&["stop", "verified"]);
    assert_released(&vm);
    vm.coracle(&["start", "verified"]);
    vm.sh_ok("systemctl kill --kill-whom=all -s KILL coracle@verified");
    vm.wait_until(LONG, "systemctl is-failed -q coracle@verified");
    assert_released(&vm);
    vm.sh_ok("systemctl reset-failed coracle@verified");
    before.assert_same(&vm);
    vm.power_off();
}

#[test]
fn encrypted_images_are_opened_with_the_credential() {
    let vm = start();
    vm.sh_ok(&format!(
        "cd {IMAGES}; truncate -s 96M crypt.raw; mkdir -m 700 /run/keys; printf secret >/run/keys/dissect.passphrase
         cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 crypt.raw /run/keys/dissect.passphrase
         cryptsetup open --key-file /run/keys/dissect.passphrase crypt.raw crypt
         mke2fs -q -t ext4 -d busybox /dev/mapper/crypt; cryptsetup close crypt"
    ));
    assert_released(&vm);
    vm.define("crypt", &format!("[root]\nimage = \"{IMAGES}/crypt.raw\"\n"));
    vm.sh_ok(
        "mkdir -p /etc/systemd/system/coracle@crypt.service.d
         printf '[Service]\\nLoadCredential=dissect.passphrase:/run/keys/dissect.passphrase\\n' \
         >/etc/systemd/system/coracle@crypt.service.d/key.conf; systemctl daemon-reload",
    );
    let before = Snapshot::take(&vm);
    for (number, program) in PROGRAMS.into_iter().enumerate() {
        let program = format!("CREDENTIALS_DIRECTORY=/run/keys {program}");
        let command = format!("sh -c 'echo {number} >>/new; cat /new'");
        let out = run(&vm, &program, "-i crypt.raw", &command);
        let expected: String = (0..=number).map(|number| format!("{number}\n")).collect();
        assert_eq!((out.status, out.stdout), (0, expected), "{program}");
        assert_released(&vm);
        // The policy is kept.
        let out = run(&vm, &program, "-i crypt.raw --image-policy=root=unprotected", "true");
        assert!(out.status != 0, "{program}: {out}");
        assert_released(&vm);
    }
    vm.coracle(&["start", "crypt"]);
    assert_eq!(vm.coracle(&["exec", "crypt", "--", "cat", "/new"]), "0\n1\n");
    vm.coracle(&["stop", "crypt"]);
    assert_released(&vm);
    before.assert_same(&vm);
    vm.power_off();
}
