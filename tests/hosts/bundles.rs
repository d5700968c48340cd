//! OCI bundles of other programs: systemd-nspawn and Coracle run them alike.

use crate::support::{Host, LONG, Snapshot};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The programs, called as systemd-nspawn.
const PROGRAMS: [&str; 2] = ["/usr/bin/systemd-nspawn", "/usr/lib/coracle/systemd-nspawn"];

/// What is seen inside. The machine id and the name of a terminal differ.
const SCRIPT: &str = "hostname; id; pwd; grep -E 'Cap|NoNew' /proc/self/status; ulimit -n; ls /sys/class/net
    env | grep -vE '^container_uuid' | sort; touch /new 2>/dev/null && echo writable; ls /proc/kcore; exit 3";

/// Runs a program of this machine, which writes `config.json`, and returns the file.
fn config(directory: &Path, script: &str) -> Value {
    let status = Command::new("sh").args(["-euc", script]).current_dir(directory).status();
    assert!(status.expect("run sh").success(), "{script}");
    let text = std::fs::read(directory.join("config.json")).expect("read the bundle");
    serde_json::from_slice(&text).expect("JSON")
}

/// Runs a bundle with both programs and compares what they print. The root is the busybox tree.
fn compare(host: &Host, name: &str, mut config: Value) {
    let process = &mut config["process"];
    process["args"] = json!(["/bin/sh", "-c", SCRIPT]);
    process["terminal"] = json!(false);
    // Before version 262, ambient capabilities that are not inheritable are left out.
    process["capabilities"]["inheritable"] = process["capabilities"]["ambient"].clone();
    config["root"]["path"] = json!("rootfs");
    host.sh_ok(&format!("mkdir -p /run/{name}; ln -sfn /var/lib/machines/busybox /run/{name}/rootfs"));
    host.write(&format!("/run/{name}/config.json"), &config.to_string());
    let outputs = PROGRAMS.map(|program| {
        host.exec_for(LONG, &["sh", "-c", &format!("{program} -q --oci-bundle=/run/{name} </dev/null")])
    });
    let [real, ours] = &outputs;
    assert_eq!(real.status, 3, "{name}: {real}");
    assert_eq!((real.status, &real.stdout), (ours.status, &ours.stdout), "{name}: {real}\n{ours}");
}

#[test]
fn bundles_of_other_programs_run_as_by_systemd_nspawn() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    // systemd-nspawn leaves its directories.
    host.sh_ok(&format!("{} -q -P -D /var/lib/machines/busybox true", PROGRAMS[0]));
    let before = Snapshot::take(&host);
    let directory = tempfile::tempdir().expect("a directory");
    compare(&host, "crun", config(directory.path(), "crun spec"));
    let unpack = "umoci init --layout image; umoci new --image image:new
        umoci config --image image:new --config.env A=b --config.user 7:8 --config.workingdir /usr
        umoci unpack --image image:new bundle; cp bundle/config.json .";
    let mut umoci = config(directory.path(), unpack);
    // systemd-nspawn knows one version only.
    umoci["ociVersion"] = json!("1.0.0");
    compare(&host, "umoci", umoci);
    // A bundle is an ordinary machine.
    let own = "coracle run -q --oci-bundle=/run/crun -M bundled sh -c 'hostname; exit 4' </dev/null";
    let out = host.exec_for(LONG, &["sh", "-c", own]);
    assert_eq!((out.status, out.stdout.as_str()), (4, "crun\n"), "{out}");
    host.sh_ok("rm -r /run/crun /run/umoci");
    before.assert_same(&host);
    host.stop();
}
