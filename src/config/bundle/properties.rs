//! The properties that a bundle may have, by their objects: systemd-nspawn(1) refuses unknown ones. Called by
//! `settings`. Facts only: the meaning of the accepted properties is in the features.

use super::layer_builder::LayerBuilder;
use super::push;
use crate::error::{Error, nearest};
use serde_json::Value;

/// The properties of an object.
struct Object {
    /// Its JSON pointer; `*` stands for each item of a list.
    pattern: &'static str,
    /// Properties with a meaning.
    accepted: &'static [&'static str],
    /// Properties without effect, with a warning.
    ignored: &'static [&'static str],
    /// Properties that Coracle and systemd-nspawn(1) do not support.
    unsupported: &'static [&'static str],
}

const fn object(pattern: &'static str, accepted: &'static [&'static str]) -> Object {
    Object { pattern, accepted, ignored: &[], unsupported: &[] }
}

/// The objects of the document. Properties of other objects are names of their own.
const OBJECTS: &[Object] = &[
    object("", &["ociVersion", "process", "root", "hostname", "mounts", "linux", "hooks", "annotations"]),
    Object {
        ignored: &["apparmorProfile", "selinuxLabel"],
        ..object(
            "/process",
            &[
                "terminal",
                "consoleSize",
                "cwd",
                "env",
                "args",
                "rlimits",
                "capabilities",
                "noNewPrivileges",
                "oomScoreAdj",
                "user",
            ],
        )
    },
    object("/process/consoleSize", &["height", "width"]),
    object("/process/rlimits/*", &["soft", "hard", "type"]),
    object("/process/capabilities", &["effective", "bounding", "inheritable", "permitted", "ambient"]),
    object("/process/user", &["uid", "gid", "additionalGids"]),
    object("/root", &["path", "readonly"]),
    object("/mounts/*", &["destination", "source", "options", "type"]),
    object("/hooks", &["prestart", "poststart", "poststop"]),
    object("/hooks/prestart/*", &["path", "args", "env", "timeout"]),
    object("/hooks/poststart/*", &["path", "args", "env", "timeout"]),
    object("/hooks/poststop/*", &["path", "args", "env", "timeout"]),
    Object {
        ignored: &["intelRdt", "mountLabel"],
        ..object(
            "/linux",
            &[
                "namespaces",
                "uidMappings",
                "gidMappings",
                "devices",
                "cgroupsPath",
                "resources",
                "sysctl",
                "seccomp",
                "rootfsPropagation",
                "maskedPaths",
                "readonlyPaths",
            ],
        )
    },
    object("/linux/namespaces/*", &["type", "path"]),
    object("/linux/uidMappings/*", &["containerID", "hostID", "size"]),
    object("/linux/gidMappings/*", &["containerID", "hostID", "size"]),
    object("/linux/devices/*", &["type", "path", "major", "minor", "fileMode", "uid", "gid"]),
    Object {
        unsupported: &["hugepageLimits", "network", "rdma"],
        ..object("/linux/resources", &["devices", "memory", "cpu", "blockIO", "pids"])
    },
    object("/linux/resources/devices/*", &["allow", "type", "major", "minor", "access"]),
    Object {
        ignored: &["kernel", "kernelTCP", "swapiness", "swappiness", "disableOOMKiller"],
        ..object("/linux/resources/memory", &["limit", "reservation", "swap"])
    },
    Object {
        unsupported: &["realtimeRuntime", "realtimePeriod", "mems"],
        ..object("/linux/resources/cpu", &["shares", "quota", "period", "cpus"])
    },
    Object {
        ignored: &["leafWeight"],
        ..object(
            "/linux/resources/blockIO",
            &[
                "weight",
                "weightDevice",
                "throttleReadBpsDevice",
                "throttleWriteBpsDevice",
                "throttleReadIOPSDevice",
                "throttleWriteIOPSDevice",
            ],
        )
    },
    Object {
        ignored: &["leafWeight"],
        ..object("/linux/resources/blockIO/weightDevice/*", &["major", "minor", "weight"])
    },
    object("/linux/resources/blockIO/throttleReadBpsDevice/*", &["major", "minor", "rate"]),
    object("/linux/resources/blockIO/throttleWriteBpsDevice/*", &["major", "minor", "rate"]),
    object("/linux/resources/blockIO/throttleReadIOPSDevice/*", &["major", "minor", "rate"]),
    object("/linux/resources/blockIO/throttleWriteIOPSDevice/*", &["major", "minor", "rate"]),
    object("/linux/resources/pids", &["limit"]),
    object("/linux/seccomp", &["defaultAction", "defaultErrnoRet", "architectures", "syscalls"]),
    object("/linux/seccomp/syscalls/*", &["names", "action", "errnoRet", "args", "comment"]),
    object("/linux/seccomp/syscalls/*/args/*", &["index", "value", "valueTwo", "op"]),
];

/// Checks the properties of the whole document.
pub(super) fn check(builder: &mut LayerBuilder, document: &Value) {
    visit(builder, document, "", "");
}

fn visit(builder: &mut LayerBuilder, value: &Value, pattern: &str, pointer: &str) {
    let child = |parent: &str, key: &str| {
        let mut child = parent.to_owned();
        push(&mut child, key);
        child
    };
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                visit(builder, item, &format!("{pattern}/*"), &child(pointer, &at.to_string()));
            }
        }
        Value::Object(properties) => {
            let Some(object) = OBJECTS.iter().find(|object| object.pattern == pattern) else { return };
            for (key, value) in properties {
                let pointer = child(pointer, key);
                if object.accepted.contains(&key.as_str()) {
                    visit(builder, value, &child(pattern, key), &pointer);
                } else {
                    report(builder, object, key, &pointer);
                }
            }
        }
        _ => {}
    }
}

/// Reports a property without a meaning.
fn report(builder: &mut LayerBuilder, object: &Object, key: &str, pointer: &str) {
    if object.ignored.contains(&key) {
        return builder.warn(pointer, "the property is not supported, ignoring");
    }
    if object.unsupported.contains(&key) {
        let error = Error::new("the property is not supported").with_hint("remove it from the bundle");
        return builder.refuse(pointer, &error);
    }
    let error = Error::new("unknown property");
    let error = match nearest(key, object.accepted.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean '{near}'?")),
        None => error.with_hint("remove it from the bundle"),
    };
    builder.refuse(pointer, &error);
}
