//! Bundles become settings, each with the JSON pointer of its property.

use super::*;
use crate::config::layer::settings;
use crate::machine::syscall_profile::{Comparison, ProfileAnswer};

/// Returns the values of a bundle, one line each with its pointer, and its problems.
fn read(text: &str) -> (Vec<String>, Vec<String>) {
    let (layer, problems) = layer(Path::new("/b"), text.as_bytes());
    let lines = settings().flat_map(|setting| {
        let lines = layer.lines(setting);
        lines.into_iter().map(|line| format!("{} {} {}", setting.key, line.value, line.origin))
    });
    (lines.collect(), problems.iter().map(ToString::to_string).collect())
}

/// Returns the lines of a document with these further properties, without those of every bundle.
fn lines(properties: &str) -> Vec<String> {
    let (lines, problems) = read(&format!(r#"{{"ociVersion": "1.0.0", {properties}}}"#));
    assert_eq!(problems, [""; 0], "{properties}");
    lines.into_iter().filter(|line| !line.ends_with("/b/config.json#")).collect()
}

/// Returns the problems of a document with these further properties.
fn problems(properties: &str) -> Vec<String> {
    let (_, problems) = read(&format!(r#"{{"ociVersion": "1.0.0", {properties}}}"#));
    let strip = |problem: String| problem.strip_prefix("/b/config.json: ").unwrap_or("no file").to_owned();
    problems.into_iter().map(strip).collect()
}

/// The namespaces that a machine must have.
const NAMESPACES: &str = r#"{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}"#;

#[test]
fn a_bundle_is_a_command_with_its_own_files() {
    let (lines, problems) = read(r#"{"ociVersion": "1.0.2-dev"}"#);
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        lines,
        [
            "network.resolv-conf \"off\" /b/config.json#",
            "boot false /b/config.json#",
            "identity.timezone \"off\" /b/config.json#",
            "journal.link \"no\" /b/config.json#",
        ]
    );
}

#[test]
fn the_process_becomes_the_payload() {
    let process = r#""process": {
        "terminal": false, "cwd": "/srv", "args": ["sh", "-c", "echo \"x\""], "env": ["A=b", "E="],
        "user": {"uid": 7, "gid": 8, "additionalGids": [9]}, "noNewPrivileges": true, "oomScoreAdj": -5,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": -1}]}"#;
    assert_eq!(
        lines(process),
        [
            "resources.oom-score-adjust -5 /b/config.json#/process/oomScoreAdj",
            "resources.rlimits nofile = \"10:infinity\" /b/config.json#/process/rlimits/0",
            "security.no-new-privileges true /b/config.json#/process/noNewPrivileges",
            "environment A = \"b\" /b/config.json#/process/env/0",
            "environment E = \"\" /b/config.json#/process/env/1",
            "command \"sh\" /b/config.json#/process/args/0",
            "command \"-c\" /b/config.json#/process/args/1",
            "command \"echo \\\"x\\\"\" /b/config.json#/process/args/2",
            "chdir \"/srv\" /b/config.json#/process/cwd",
            "user-ids \"7:8\" /b/config.json#/process/user",
            "console \"pipe\" /b/config.json#/process/terminal",
        ]
    );
}

#[test]
fn the_bounding_set_is_exact() {
    let (layer, problems) = layer(
        Path::new("/b"),
        br#"{"ociVersion": "1.0.0", "process": {"capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}}}"#,
    );
    assert!(problems.is_empty(), "{problems:?}");
    let security = &layer.security;
    let count = |list: &[_]| list.len();
    assert_eq!(count(security.capabilities_add.sourced()), 2);
    assert_eq!(count(security.capabilities_drop.sourced()), 39);
    assert_eq!(security.capabilities_ambient.sourced().len(), 1);
    assert_eq!(count(security.capabilities_inheritable.sourced()), 1);
}

#[test]
fn mounts_of_every_machine_are_left_out() {
    let mounts = r#""mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]},
        {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro", "rprivate"]},
        {"destination": "/one", "source": "/srv", "options": ["bind", "nosuid"]},
        {"destination": "/empty", "type": "bind"},
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "size=1m"]}],
        "linux": {"maskedPaths": ["/proc/kcore", "/sys/firmware"], "readonlyPaths": ["/proc/sys", "/proc/x"]}"#;
    let at = |at: &str| format!(" /b/config.json#{at}");
    let bind = "{ type = \"bind\", source =";
    assert_eq!(
        lines(mounts),
        [
            format!(
                "mount {bind} \"/b/data\", target = \"/data\", read-only = true, recursive = true, setuid = true }}{}",
                at("/mounts/2")
            ),
            format!(
                "mount {bind} \"/srv\", target = \"/one\", recursive = false, setuid = false }}{}",
                at("/mounts/3")
            ),
            format!("mount {bind} \"temporary\", target = \"/empty\", setuid = true }}{}", at("/mounts/4")),
            format!(
                "mount {{ type = \"tmpfs\", target = \"/t\", options = \"nosuid,size=1m\" }}{}",
                at("/mounts/5")
            ),
            format!(
                "mount {{ type = \"inaccessible\", target = \"/sys/firmware\" }}{}",
                at("/linux/maskedPaths/1")
            ),
            format!(
                "mount {bind} \"+/proc/x\", target = \"/proc/x\", read-only = true, setuid = true }}{}",
                at("/linux/readonlyPaths/1")
            ),
        ]
    );
}

#[test]
fn resources_become_properties_of_the_scope() {
    let resources = r#""linux": {"cgroupsPath": "/machine.slice/machine-web.slice", "resources": {
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "access": "m"},
            {"allow": true, "type": "b", "major": 8, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
        "memory": {"limit": 1000, "swap": 1500, "reservation": 500},
        "cpu": {"shares": 2048, "quota": 50000, "period": 100000, "cpus": "0-1,3"},
        "blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]},
        "pids": {"limit": -1}}}"#;
    let lines = lines(resources);
    let values: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("properties \"")?.split('"').next()).collect();
    assert_eq!(
        values,
        [
            "DeviceAllow=char-* m",
            "DeviceAllow=block-8 r",
            "DeviceAllow=/dev/char/10:229 rw",
            "MemorySwapMax=500",
            "MemoryMax=1000",
            "MemoryLow=500",
            "CPUWeight=200",
            "CPUQuota=50.00%",
            "CPUQuotaPeriodSec=100000us",
            "IOWeight=200",
            "IODeviceWeight=/dev/block/8:0 2",
            "IOReadBandwidthMax=/dev/block/8:0 7",
            "TasksMax=infinity",
        ]
    );
    assert!(lines.iter().any(|line| line.starts_with("slice \"machine-web.slice\"")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("resources.cpu-affinity")).count(), 2);
}

#[test]
fn namespaces_decide_about_network_and_users() {
    let of = |more: &str, mappings: &str| {
        let text = format!(r#""linux": {{"namespaces": [{NAMESPACES}{more}]{mappings}}}"#);
        let words = |line: String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        lines(&text).into_iter().map(words).collect::<Vec<String>>()
    };
    assert_eq!(of("", ""), ["users.private \"no\"", "network.mode \"host\""]);
    let mapping = r#"[{"containerID": 0, "hostID": 1000000, "size": 65536}]"#;
    let mappings = format!(r#", "uidMappings": {mapping}, "gidMappings": {mapping}"#);
    assert_eq!(
        of(r#", {"type": "user"}, {"type": "network"}, {"type": "cgroup"}"#, &mappings),
        ["users.private \"1000000:65536\"", "users.ownership \"off\"", "network.mode \"none\""]
    );
    assert_eq!(
        of(r#", {"type": "network", "path": "/run/netns/x"}"#, ""),
        ["users.private \"no\"", "network.mode \"namespace\"", "network.namespace-path \"/run/netns/x\""]
    );
}

#[test]
fn nodes_and_parameters_are_set() {
    let linux = r#""linux": {"devices": [
        {"type": "c", "path": "/dev/null", "major": 1, "minor": 3},
        {"type": "b", "path": "/dev/disk/x", "major": 8, "minor": 1, "fileMode": 384, "uid": 5, "gid": 6},
        {"type": "p", "path": "/dev/pipe"}], "sysctl": {"kernel.shmmax": "1", "net.ipv4.ip_forward": "1"}}"#;
    let (layer, problems) =
        layer(Path::new("/b"), format!(r#"{{"ociVersion": "1.0.0", {linux}}}"#).as_bytes());
    assert!(problems.is_empty(), "{problems:?}");
    let nodes: Vec<_> =
        layer.security.nodes.values().map(|node| (node.0.mode, node.0.uid, node.0.gid)).collect();
    assert_eq!(nodes, [(0o600, 5, 6), (0o644, 0, 0)]);
    assert_eq!(layer.security.sysctls.sourced().len(), 2);
}

#[test]
fn filters_become_profiles() {
    let seccomp = r#""linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}}"#;
    let (layer, problems) =
        layer(Path::new("/b"), format!(r#"{{"ociVersion": "1.0.0", {seccomp}}}"#).as_bytes());
    assert!(problems.is_empty(), "{problems:?}");
    let profile = &layer.security.syscalls_profile.value().unwrap().0;
    assert!(profile.has_i386);
    let conditions: Vec<usize> = profile.rules.iter().map(|rule| rule.conditions.len()).collect();
    // One of two conditions of one argument suffices.
    assert_eq!(conditions, [0, 1, 1, 1]);
    assert_eq!(profile.default, ProfileAnswer::Errno(38));
    assert_eq!(profile.rules[1].conditions[0].comparison, Comparison::Masked(2_114_060_288));
}

#[test]
fn all_problems_are_reported_together() {
    let found = problems(
        r#""process": {"args": [""], "capabilities": {"bounding": ["KILL"]}, "apparmorProfile": "x", "scheduler": {},
            "rlimits": [{"type": "NOFILE", "soft": 1, "hard": 1}]},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}, {"type": "time"}], "cgroupsPath": "system.slice:a:b",
            "sysctl": {"a..b": "1"}, "resources": {"network": {}, "cpu": {"quota": 5}}},
        "hooks": {"prestart": [{"path": "/x"}]}"#,
    );
    let begins = [
        "/hooks/prestart/0: hooks are not",
        "/linux/cgroupsPath: the cgroup \"system.slice:a:b\"",
        "/linux/namespaces/1: the namespace \"mount\" is repeated",
        "/linux/namespaces/2: unknown namespace \"time\"",
        "/linux/namespaces: a machine without its own namespace \"pid\"",
        "/linux/resources/cpu: 'quota' and 'period'",
        "/linux/resources/network: the property is not supported",
        "/linux/sysctl/a..b: ",
        "/process/apparmorProfile: ",
        "/process/args: the program is empty",
        "/process/capabilities/bounding/0: unknown capability \"KILL\"",
        "/process/rlimits/0: unknown resource limit \"NOFILE\"",
        "/process/scheduler: unknown property",
    ];
    for begin in begins {
        assert!(
            found.iter().any(|problem| problem.replace("warning: ", "").starts_with(begin)),
            "{begin}: {found:#?}"
        );
    }
}
