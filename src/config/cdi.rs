//! Devices named as in the Container Device Interface (CDI): each name is replaced by the device nodes,
//! mounts and variables of its CDI file. Called by `resolve`; of the host it reads only CDI files.

use super::command::Variable;
use super::layer::{Layer, Sourced};
use super::mounts::{MountEntry, MountType};
use super::security::DeviceName;
use super::values::{RawValue, Value};
use crate::error::{Context, Error, Result};
use crate::machine::mounts::BindPath;
use crate::paths::Paths;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The directories of CDI files; the first takes precedence.
const DIRECTORIES: [&str; 2] = ["/var/run/cdi", "/etc/cdi"];

/// A CDI file. Unknown fields are ignored here, but not in [`Edits`].
#[derive(Debug, Deserialize)]
struct Spec {
    kind: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
    devices: Vec<CdiDevice>,
}

/// A device of a CDI file.
#[derive(Debug, Deserialize)]
struct CdiDevice {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

/// The changes to a machine. Unknown fields are an error: the device would be incomplete without them.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<BindMount>,
    hooks: Vec<CdiHook>,
}

/// A device node. As with other devices, its owner is root of the guest and its mode is that of the host.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    host_path: Option<String>,
}

/// A bind mount.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindMount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

/// A program of the host that changes the tree of a container.
#[derive(Debug, Deserialize)]
struct CdiHook {
    path: String,
}

/// Replaces each CDI name in `layer` by the changes of its device.
///
/// # Errors
/// One error for each name without a definition, or with an invalid or unsupported file.
pub(super) fn expand(paths: &Paths, layer: &mut Layer) -> std::result::Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    for device in layer.security.devices.take() {
        if device.value.is_path() {
            layer.security.devices.push(device.value, device.origin);
        } else if let Err(error) = expand_device(paths, layer, &device) {
            errors.push(error.context(format!("cannot use the device '{}'", device.value.0)));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn expand_device(paths: &Paths, layer: &mut Layer, device: &Sourced<DeviceName>) -> Result<()> {
    let (file, spec, at) = find(paths, &device.value.0)?;
    let named = spec.devices.get(at).map(|named| &named.edits);
    for edits in std::iter::once(&spec.edits).chain(named) {
        apply(layer, device, edits)
            .map_err(|error| error.context(format!("cannot use the CDI file '{}'", file.display())))?;
    }
    Ok(())
}

/// Returns the file that defines the device `name`, its content and the index of the device in it.
fn find(paths: &Paths, name: &str) -> Result<(PathBuf, Spec, usize)> {
    let (kind, device) = name.split_once('=').unwrap_or((name, ""));
    let mut unread = None;
    for directory in DIRECTORIES.map(|directory| paths.join(directory)) {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let file = entry.path();
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                Some("yaml" | "yml") => {
                    unread = Some(file);
                    continue;
                }
                _ => continue,
            }
            let spec = read(&file)?;
            let at = spec.devices.iter().position(|named| named.name == device);
            found.extend(at.filter(|_| spec.kind == kind).map(|at| (file, spec, at)));
        }
        match (found.pop(), found.pop()) {
            (Some((one, ..)), Some((other, ..))) => {
                return Err(Error::new(format!(
                    "both '{}' and '{}' define it",
                    one.display(),
                    other.display()
                ))
                .with_hint("remove one of them"));
            }
            (Some(only), None) => return Ok(only),
            (None, _) => {}
        }
    }
    let error = Error::new("no file in /etc/cdi or /var/run/cdi defines it");
    Err(match unread {
        Some(file) => error.with_hint(format!(
            "'{}' is not supported: create the file as JSON (nvidia-ctk cdi generate --format=json)",
            file.display()
        )),
        None => error.with_hint(
            "create one as JSON with the tool of the vendor (nvidia-ctk cdi generate --format=json)",
        ),
    })
}

fn read(file: &Path) -> Result<Spec> {
    let text = std::fs::read(file).context(|| format!("cannot read '{}'", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::new(error.to_string()).context(format!("cannot parse the CDI file '{}'", file.display()))
    })
}

fn apply(layer: &mut Layer, device: &Sourced<DeviceName>, edits: &Edits) -> Result<()> {
    if let Some(hook) = edits.hooks.first() {
        return Err(Error::new(format!("hooks are not supported: '{}'", hook.path)).with_hint(
            "create the file without hooks, then create the links inside the machine and run 'ldconfig' there once",
        ));
    }
    for node in &edits.device_nodes {
        if node.host_path.as_ref().is_some_and(|path| *path != node.path) {
            return Err(Error::new(format!("the device node '{}' has another path on the host", node.path)));
        }
        layer.security.devices.push(DeviceName::path(&node.path)?, device.origin.clone());
    }
    for bind in &edits.mounts {
        let known = ["ro", "rw", "bind", "rbind", "nosuid", "nodev", "noexec", "private", "rprivate"];
        if let Some(odd) = bind.options.iter().find(|option| !known.contains(&option.as_str())) {
            return Err(Error::new(format!("unknown mount option '{odd}'")));
        }
        let has = |word: &str| bind.options.iter().any(|option| option == word);
        let mount = MountEntry {
            kind: MountType::Bind,
            source: Some(BindPath::Host(bind.host_path.clone())),
            target: Some(bind.container_path.clone()),
            read_only: Some(has("ro")),
            recursive: Some(!has("bind") || has("rbind")),
            ..MountEntry::default()
        };
        layer.mounts.entries.push(mount, device.origin.clone());
    }
    for variable in &edits.env {
        layer.command.environment.push(Variable::read(&RawValue::Text(variable))?, device.origin.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn expanded(file: &str, name: &str) -> std::result::Result<Layer, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/cdi")).unwrap();
        std::fs::write(root.path().join("etc/cdi/gpu.json"), file).unwrap();
        let mut layer = Layer::default();
        layer.security.devices.push(DeviceName::read(&RawValue::Text(name)).unwrap(), Origin::Default);
        match expand(&Paths::below(root.path()), &mut layer) {
            Ok(()) => Ok(layer),
            Err(errors) => Err(errors[0].to_string()),
        }
    }

    #[test]
    fn names_are_replaced_by_nodes_mounts_and_variables() {
        let file = r#"{"cdiVersion": "0.6.0", "kind": "acme.com/gpu", "annotations": {"a": "b"},
            "containerEdits": {"env": ["ACME=1"], "mounts": [{"hostPath": "/usr/lib/acme", "containerPath": "/opt/acme",
                "options": ["ro", "nosuid", "bind"]}]},
            "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/acme0", "type": "c", "major": 1}]}},
                {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/acme1"}]}}]}"#;
        let layer = expanded(file, "acme.com/gpu=1").unwrap();
        assert_eq!(
            layer.security.devices.values().map(|device| device.0.as_str()).collect::<Vec<_>>(),
            ["/dev/acme1"]
        );
        let mount = layer.mounts.entries.values().next().unwrap();
        assert_eq!((mount.read_only, mount.recursive, mount.setuid), (Some(true), Some(false), None));
        assert_eq!(layer.command.environment.values().next().unwrap().name, "ACME");
        assert!(expanded(file, "acme.com/gpu=2").unwrap_err().contains("no file in /etc/cdi"));
    }

    #[test]
    fn unsupported_changes_are_errors() {
        for (edits, why) in [
            (r#"{"hooks": [{"hookName": "createContainer", "path": "/usr/bin/x"}]}"#, "hooks"),
            (r#"{"intelRdt": {}}"#, "unknown field `intelRdt`"),
            (r#"{"deviceNodes": [{"path": "/etc/passwd"}]}"#, "not the path of a device"),
            (r#"{"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]}"#, "another path"),
            (
                r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["suid"]}]}"#,
                "option 'suid'",
            ),
            (r#"{"env": ["1=2"]}"#, "not the name of a variable"),
            ("7", "invalid type"),
        ] {
            let file =
                format!(r#"{{"kind": "a.b/c", "devices": [{{"name": "x", "containerEdits": {edits}}}]}}"#);
            let error = expanded(&file, "a.b/c=x").unwrap_err();
            assert!(error.contains(why), "{edits}: {error}");
        }
    }
}
