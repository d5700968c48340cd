//! Devices by the names that their makers give them in files of the Container Device Interface (CDI): the nodes, mounts
//! and variables that such a name stands for are said in its place. Called by `resolve`; of the host it reads those files
//! alone.

use super::layer::{Layer, Mount, MountWord, Said};
use super::values::{Device, Given, Value, Variable};
use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the files are; a name of the first is not looked for in the second.
const DIRECTORIES: [&str; 2] = ["/var/run/cdi", "/etc/cdi"];

/// A file. What is not of use is not read, but for what is to be done.
#[derive(Debug, Deserialize)]
struct Spec {
    kind: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
    devices: Vec<Named>,
}

/// A device of a file.
#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

/// What is to be done. What we do not know is refused: a device without it would be half of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<Hook>,
}

/// A device node. Whose it is and its mode are as with any device: the guest's root's, and the host's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<String>,
}

/// A bind mount.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bind {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

/// A program of the host that would work on the tree.
#[derive(Debug, Deserialize)]
struct Hook {
    path: String,
}

/// Says in the place of each CDI name what it stands for.
///
/// # Errors
/// Names that no file has, and files that cannot be taken.
pub(super) fn expand(paths: &Paths, said: &mut Layer) -> std::result::Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    for device in said.devices.take() {
        if device.value.is_path() {
            said.devices.push(device.value, device.origin);
        } else if let Err(error) = say(paths, said, &device) {
            errors.push(error.context(format!("cannot use the device '{}'", device.value.0)));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn say(paths: &Paths, said: &mut Layer, device: &Said<Device>) -> Result<()> {
    let (file, spec, at) = find(paths, &device.value.0)?;
    let named = spec.devices.get(at).map(|named| &named.edits);
    for edits in std::iter::once(&spec.edits).chain(named) {
        add(said, device, edits).map_err(|error| error.context(format!("its file '{}'", file.display())))?;
    }
    Ok(())
}

/// The file that has this device, what is in it, and which one of it it is.
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
                    "'{}' and '{}' both have it",
                    one.display(),
                    other.display()
                ))
                .with_hint("remove one of them"));
            }
            (Some(only), None) => return Ok(only),
            (None, _) => {}
        }
    }
    let error = Error::new("no file in /etc/cdi or /var/run/cdi has it");
    Err(match unread {
        Some(file) => error.with_hint(format!(
            "'{}' is not read: have it written as JSON (nvidia-ctk cdi generate --format=json)",
            file.display()
        )),
        None => error.with_hint(
            "have its maker's tool write one there, as JSON (nvidia-ctk cdi generate --format=json)",
        ),
    })
}

fn read(file: &Path) -> Result<Spec> {
    let text = std::fs::read(file).context(|| format!("cannot read '{}'", file.display()))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::new(error.to_string()).context(format!("cannot take the CDI file '{}'", file.display()))
    })
}

fn add(said: &mut Layer, device: &Said<Device>, edits: &Edits) -> Result<()> {
    if let Some(hook) = edits.hooks.first() {
        return Err(Error::new(format!("it has hooks, which machines do not run: '{}'", hook.path)).with_hint(
            "have the file written without hooks, and do what they do inside, once: links and 'ldconfig' for the libraries",
        ));
    }
    for node in &edits.device_nodes {
        if node.host_path.as_ref().is_some_and(|path| *path != node.path) {
            return Err(Error::new(format!("the node '{}' has another name on the host", node.path)));
        }
        said.devices.push(Device::path(&node.path)?, device.origin.clone());
    }
    for bind in &edits.mounts {
        let known = ["ro", "rw", "bind", "rbind", "nosuid", "nodev", "noexec", "private", "rprivate"];
        if let Some(odd) = bind.options.iter().find(|option| !known.contains(&option.as_str())) {
            return Err(Error::new(format!("a mount has the option '{odd}', which is not known")));
        }
        let has = |word: &str| bind.options.iter().any(|option| option == word);
        let mount = Mount {
            kind: MountWord::Bind,
            source: Some(bind.host_path.clone()),
            target: Some(bind.container_path.clone()),
            read_only: Some(has("ro")),
            recursive: Some(!has("bind") || has("rbind")),
            ..Mount::default()
        };
        said.mounts.push(mount, device.origin.clone());
    }
    for variable in &edits.env {
        said.environment.push(Variable::read(&Given::Text(variable))?, device.origin.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layer::Origin;

    fn expanded(file: &str, name: &str) -> std::result::Result<Layer, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/cdi")).unwrap();
        std::fs::write(root.path().join("etc/cdi/gpu.json"), file).unwrap();
        let mut layer = Layer::default();
        layer.devices.push(Device::read(&Given::Text(name)).unwrap(), Origin::Default);
        match expand(&Paths::below(root.path()), &mut layer) {
            Ok(()) => Ok(layer),
            Err(errors) => Err(errors[0].to_string()),
        }
    }

    #[test]
    fn a_name_stands_for_nodes_mounts_and_variables() {
        let file = r#"{"cdiVersion": "0.6.0", "kind": "acme.com/gpu", "annotations": {"a": "b"},
            "containerEdits": {"env": ["ACME=1"], "mounts": [{"hostPath": "/usr/lib/acme", "containerPath": "/opt/acme",
                "options": ["ro", "nosuid", "bind"]}]},
            "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/acme0", "type": "c", "major": 1}]}},
                {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/acme1"}]}}]}"#;
        let layer = expanded(file, "acme.com/gpu=1").unwrap();
        assert_eq!(
            layer.devices.values().map(|device| device.0.as_str()).collect::<Vec<_>>(),
            ["/dev/acme1"]
        );
        let mount = layer.mounts.values().next().unwrap();
        assert_eq!((mount.read_only, mount.recursive, mount.setuid), (Some(true), Some(false), None));
        assert_eq!(layer.environment.values().next().unwrap().name, "ACME");
        assert!(expanded(file, "acme.com/gpu=2").unwrap_err().contains("no file in /etc/cdi"));
    }

    #[test]
    fn what_would_be_half_of_a_device_is_refused() {
        for (edits, why) in [
            (r#"{"hooks": [{"hookName": "createContainer", "path": "/usr/bin/x"}]}"#, "hooks"),
            (r#"{"intelRdt": {}}"#, "unknown field `intelRdt`"),
            (r#"{"deviceNodes": [{"path": "/etc/passwd"}]}"#, "not the path of a device"),
            (r#"{"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]}"#, "another name"),
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
