//! The methods of machined that register machines, newest first. Those that the running machined does not have are
//! noted at `/run/coracle/.machined`: it is called with them once, not at each start of a machine. Called by
//! `machined`.

use super::{MachinedManagerProxy, Registration, is};
use crate::host::systemd::varlink;
use crate::paths::{Paths, running_systemd};
use std::path::Path;
use zbus::Variant;

/// The Varlink socket of machined, below the directory of systemd.
const VARLINK: &str = "machine/io.systemd.Machine";
/// The Varlink method for registering a machine.
const REGISTER: &str = "io.systemd.Machine.Register";
/// The class of containers (`machinectl shell`, `systemctl -M`).
const CLASS: &str = "container";

/// The link of systemd to the invocation of machined: a restarted one has another invocation.
const INVOCATION: &str = "units/invocation:systemd-machined.service";

/// A method of the bus that registers machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusMethod {
    /// `RegisterMachineEx`.
    Extended,
    /// `RegisterMachineWithNetwork`.
    WithNetwork,
}

impl BusMethod {
    /// Returns the method as a word of the note.
    fn word(self) -> &'static str {
        match self {
            Self::Extended => "extended",
            Self::WithNetwork => "with-network",
        }
    }
}

/// Returns the newest method of the running machined if it supports no control sockets. `None` if that is unknown.
pub(super) fn noted(paths: &Paths) -> Option<BusMethod> {
    noted_for(&paths.machined_methods(), &running_systemd(INVOCATION))
}

/// Notes that the running machined supports no control sockets, and its newest method.
pub(super) fn note(paths: &Paths, method: BusMethod) {
    note_for(&paths.machined_methods(), &running_systemd(INVOCATION), method);
}

fn noted_for(file: &Path, invocation: &Path) -> Option<BusMethod> {
    let noted = std::fs::read_link(file).ok()?;
    let invocation = std::fs::read_link(invocation).ok()?;
    let (word, noted) = noted.to_str()?.split_once(':')?;
    let is_same = invocation.to_str() == Some(noted);
    [BusMethod::Extended, BusMethod::WithNetwork].into_iter().find(|method| is_same && method.word() == word)
}

fn note_for(file: &Path, invocation: &Path, method: BusMethod) {
    // Without systemd's link, another machined could not be distinguished from this one.
    let Ok(invocation) = std::fs::read_link(invocation) else { return };
    let content = format!("{}:{}", method.word(), invocation.display());
    // A link is created together with its content. Without it, machined is called with all methods again.
    let _ = std::fs::remove_file(file);
    let _ = std::os::unix::fs::symlink(content, file);
}

/// The reply of machined over Varlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The machine is registered.
    Registered,
    /// The name is in use.
    Exists,
    /// It has no such method, or not with a control socket.
    Unsupported,
    /// It cannot be called.
    Unable,
}

/// Tries the only method that passes a control socket to machined, used by `machinectl pause`, `resume`,
/// `reboot`, `poweroff` and `terminate`. SYSTEMD(261): older versions refuse the parameter, and those before
/// 256 have no socket.
pub(super) fn with_control(registration: &Registration<'_>) -> Answer {
    let socket = running_systemd(VARLINK);
    if !socket.exists() {
        return Answer::Unable;
    }
    let answer = varlink::connect(&socket)
        .and_then(|mut stream| varlink::try_call(&mut stream, REGISTER, &parameters(registration)));
    match answer {
        Ok(Ok(_)) => Answer::Registered,
        Ok(Err(refused)) if refused.name == "io.systemd.Machine.MachineExists" => Answer::Exists,
        Ok(Err(refused)) => {
            log::debug!("machined does not support control sockets: {}", refused.name);
            let is_unknown = refused.name.starts_with("org.varlink.service.");
            if is_unknown { Answer::Unsupported } else { Answer::Unable }
        }
        Err(error) => {
            log::debug!("{error}, ignoring");
            Answer::Unable
        }
    }
}

/// Returns the Varlink parameters of a registration.
fn parameters(registration: &Registration<'_>) -> serde_json::Value {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut leader = serde_json::json!({ "pid": registration.leader });
    // The inode of a pidfd identifies a process during this boot (Linux 6.9).
    if let Ok(stat) = rustix::fs::fstat(registration.leader_pidfd) {
        leader["pidfdId"] = stat.st_ino.into();
        leader["bootId"] = boot.trim().replace('-', "").into();
    }
    let mut parameters = serde_json::json!({
        "name": registration.name.as_str(),
        "service": registration.manager,
        "class": CLASS,
        "leaderProcessId": leader,
        "controlAddress": registration.paths.control(registration.name),
    });
    if !registration.machine_id.is_null() {
        parameters["id"] = registration.machine_id.to_string().into();
    }
    if let Some(root) = registration.root.to_str() {
        parameters["rootDirectory"] = root.into();
    }
    if let Some(index) = registration.ifindex {
        parameters["ifIndices"] = [index].into();
    }
    parameters
}

/// Tries the D-Bus methods, newest first, or the noted one. Returns the one that machined has.
pub(super) async fn call(
    manager: &MachinedManagerProxy<'_>,
    registration: &Registration<'_>,
    noted: Option<BusMethod>,
) -> zbus::Result<BusMethod> {
    let name = registration.name.as_str();
    // D-Bus cannot pass a path that is not UTF-8; machined treats an empty one as unknown.
    let root = registration.root.to_str().unwrap_or_default();
    let interfaces: Vec<i32> =
        registration.ifindex.and_then(|index| i32::try_from(index).ok()).into_iter().collect();
    let properties = [
        ("Id", Variant::from(registration.machine_id.as_bytes().to_vec())),
        ("Service", Variant::from(registration.manager)),
        ("Class", Variant::from(CLASS)),
        ("LeaderPIDFD", Variant::from(zbus::Fd::from(registration.leader_pidfd))),
        ("RootDirectory", Variant::from(root)),
        ("NetworkInterfaces", Variant::from(interfaces.clone())),
    ];
    if noted != Some(BusMethod::WithNetwork) {
        match manager.register_machine_ex(name, &properties).await {
            Err(error) if is_unsupported(&error) => {
                log::debug!("machined: {error}, using the older call")
            }
            registered => return registered.map(|_| BusMethod::Extended),
        }
    }
    let (id, service) = (registration.machine_id.as_bytes(), registration.manager);
    manager
        .register_machine_with_network(name, id, service, CLASS, registration.leader, root, &interfaces)
        .await
        .map(|_| BusMethod::WithNetwork)
}

/// Returns whether machined does not support the call or an argument of it.
fn is_unsupported(error: &zbus::Error) -> bool {
    ["UnknownMethod", "InvalidArgs", "NotSupported", "UnknownInterface", "InvalidSignature"]
        .iter()
        .any(|kind| is(error, &format!("org.freedesktop.DBus.Error.{kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_note_holds_for_one_invocation_of_machined() {
        let directory = tempfile::tempdir().unwrap();
        let (file, invocation) = (directory.path().join("note"), directory.path().join("invocation"));
        note_for(&file, &invocation, BusMethod::Extended);
        assert!(!file.is_symlink(), "machined does not run");
        symlink("6d04ea73", &invocation).unwrap();
        assert_eq!(noted_for(&file, &invocation), None);
        for method in [BusMethod::WithNetwork, BusMethod::Extended] {
            note_for(&file, &invocation, method);
            assert_eq!(noted_for(&file, &invocation), Some(method));
        }
        std::fs::remove_file(&invocation).unwrap();
        symlink("7e15fb84", &invocation).unwrap();
        assert_eq!(noted_for(&file, &invocation), None);
    }

    #[test]
    fn an_unknown_method_differs_from_a_refusal() {
        let reply = |error: zbus::fdo::Error| zbus::Error::FDO(Box::new(error));
        assert!(is_unsupported(&reply(zbus::fdo::Error::UnknownMethod("x".into()))));
        assert!(!is_unsupported(&reply(zbus::fdo::Error::AccessDenied("no".into()))));
    }

    #[test]
    fn an_invalid_note_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let (file, invocation) = (directory.path().join("note"), directory.path().join("invocation"));
        symlink("6d04ea73", &invocation).unwrap();
        for content in ["6d04ea73", "other:6d04ea73", ":", "extended:"] {
            symlink(content, &file).unwrap();
            assert_eq!(noted_for(&file, &invocation), None, "{content}");
            std::fs::remove_file(&file).unwrap();
        }
    }
}
