//! Power cuts while images come in: an image with its final name is whole.

use crate::support::Vm;

/// Creates an archive with files of several sizes, and the list of what it contains.
const ARCHIVE: &str = "cd /var/lib/machines; mkdir -p busybox/srv/many; cd busybox/srv/many
    for number in $(seq 300); do echo \"$number\" >small-$number; done
    for number in $(seq 8); do head -c 2M /dev/urandom >large-$number; done
    cd /var/lib/machines/busybox; tar -cf /var/tmp/web.tar .
    find . -type f -exec sha256sum {} + | sort >/var/tmp/expected; sync";

/// How far an import is when the power is cut: the condition, as a shell command. The draft has a hidden name.
const STAGES: [(&str, &str); 4] = [
    ("it begins", "find /var/lib/machines -maxdepth 1 -type d -name '.#web*' | grep ."),
    ("it extracts", "find /var/lib/machines -path '*/.#web*/small-100' | grep ."),
    ("it has extracted", "find /var/lib/machines -path '*/.#web*/large-8' | grep ."),
    ("it has its name", "test -e /var/lib/machines/web"),
];

/// What is said of a whole image.
const WHOLE: &str = "web\nwhole\n";

#[test]
fn a_power_cut_leaves_no_half_made_image() {
    let vm = Vm::start();
    vm.sh_ok(ARCHIVE);
    for (stage, condition) in STAGES {
        let boot = vm.boot_id();
        // The guest itself waits, because a call to it takes as long as an import.
        vm.sh_ok(&format!(
            "systemd-run -q --collect --unit=import coracle import /var/tmp/web.tar web
             until ({condition}) >/dev/null || ! systemctl is-active -q import; do :; done"
        ));
        vm.cut_power(&boot);
        let shown = vm.sh_ok(
            "cd /var/lib/machines; ls -d web 2>/dev/null || exit 0
             cd web; find . -type f -exec sha256sum {} + | sort | diff /var/tmp/expected - >&2; echo whole",
        );
        let expected = match stage {
            "it begins" => [""; 2],
            "it has its name" => [WHOLE; 2],
            _ => ["", WHOLE],
        };
        assert!(expected.contains(&shown.as_str()), "{stage}: {shown}");
        // What is left of a cut import is removed by the next one.
        vm.sh_ok("if [ -e /var/lib/machines/web ]; then coracle remove web; fi; coracle import /var/tmp/web.tar web");
        vm.sh_ok("if find /var/lib/machines -maxdepth 1 -type d -name '.#web*' | grep .; then exit 1; fi; coracle remove web; sync");
    }
    vm.power_off();
}
