//! The identity of the payload: environment, host name, machine id. Called by `plan`.

use super::{Facts, console};
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::machine::credentials::DIRECTORY;
use crate::machine::init::{Init, InitChoice};
use std::ffi::{CString, OsString};

/// The name of the container manager for guests (the Container Interface, `container=`). systemd(1) and
/// scripts of distributions know this name, and Coracle provides the same interface.
pub(crate) const MANAGER: &str = "systemd-nspawn";

/// The search path of the payload.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the directories in which a command with these variables is searched.
pub(crate) fn search_path(environment: &[(String, String)]) -> impl Iterator<Item = &str> {
    let given = environment.iter().rev().find(|(name, _)| name == "PATH");
    let path = given.map_or(PATH, |(_, path)| path);
    // An empty item is the working directory, as in execvp(3).
    path.split(':').map(|directory| if directory.is_empty() { "." } else { directory })
}

/// Returns the name of the container manager of a machine.
pub(super) fn manager(machine: &Machine) -> &str {
    machine.switches.service.as_deref().unwrap_or(MANAGER)
}

/// Returns the kernel host name of a machine.
pub(crate) fn hostname(machine: &Machine) -> String {
    machine.identity.hostname.clone().unwrap_or_else(|| machine.name.to_string())
}

/// Returns the whole environment of the payload. Variables of the definition replace the defaults.
pub(crate) fn environment(machine: &Machine, facts: &Facts) -> Vec<CString> {
    let user = &facts.user;
    // A terminal that the payload may write to, at least by the console.
    let on_terminal = console(machine, facts) != Console::Pipe && facts.terminal != "dumb";
    let mut variables: Vec<(&str, String)> = vec![
        ("PATH", PATH.into()),
        ("container", manager(machine).into()),
        ("TERM", if on_terminal { facts.terminal.clone() } else { "dumb".into() }),
        ("USER", user.name.clone()),
        ("LOGNAME", user.name.clone()),
        ("container_uuid", facts.machine_id.to_uuid()),
        ("NOTIFY_SOCKET", "/run/host/notify".into()),
    ];
    if machine.command.ids.as_ref().is_some_and(|ids| ids.uid != 0) {
        variables.retain(|(name, _)| !["USER", "LOGNAME"].contains(name));
    } else if !facts.finds_user {
        variables.insert(3, ("HOME", user.home.clone()));
    }
    for (key, field) in [
        ("container_host_id", "ID"),
        ("container_host_version_id", "VERSION_ID"),
        ("container_host_build_id", "BUILD_ID"),
        ("container_host_variant_id", "VARIANT_ID"),
    ] {
        if let Some(value) = os_release_field(&facts.host_os_release, field) {
            variables.push((key, value));
        }
    }
    if !machine.credentials.is_empty() {
        variables.push(("CREDENTIALS_DIRECTORY", DIRECTORY.into()));
    }
    variables.extend(facts.color_variables.iter().filter(|_| on_terminal).cloned());
    if facts.passed_descriptors > 0 {
        let is_second = matches!(machine.command.payload, Payload::Command { as_pid2: true, .. });
        variables.push(("LISTEN_FDS", facts.passed_descriptors.to_string()));
        variables.push(("LISTEN_PID", if is_second { "2" } else { "1" }.into()));
        variables.extend(facts.descriptor_names.clone().map(|names| ("LISTEN_FDNAMES", names)));
    }
    if !matches!(machine.command.payload, Payload::Boot { .. }) {
        variables.push(("LANG", "C.UTF-8".into()));
    }
    for (key, value) in &machine.command.environment {
        variables.retain(|(known, _)| known != key);
        variables.push((key, value.clone()));
    }
    variables.into_iter().filter_map(|(key, value)| CString::new(format!("{key}={value}")).ok()).collect()
}

/// Returns one field of an os-release(5) text, without its quotes.
fn os_release_field(text: &str, field: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// Returns the arguments for systemd, which takes kernel parameters from its arguments in a container
/// (kernel-command-line(7)). One disables questions of systemd-firstboot(1), for a console without a user.
/// The other sets a host name over that of the tree, if the definition has one, or if the tree has that of
/// the host.
pub(super) fn systemd_arguments(machine: &Machine, facts: &Facts, given: &[OsString]) -> Vec<OsString> {
    const FIRST_BOOT: &str = "systemd.firstboot";
    const HOSTNAME: &str = "systemd.hostname";
    let kind = init_kind(machine, facts);
    let is_asked = console(machine, facts) == Console::Interactive;
    if machine.contract != Contract::Coracle || kind != Init::Systemd {
        return Vec::new();
    }
    let is_free = |key: &str| given.iter().all(|word| !word.as_encoded_bytes().starts_with(key.as_bytes()));
    let first_boot = (!is_asked && is_free(FIRST_BOOT)).then(|| format!("{FIRST_BOOT}=no"));
    let is_named = machine.identity.hostname.is_some() || facts.has_hosts_name;
    let hostname = (is_named && is_free(HOSTNAME)).then(|| format!("{HOSTNAME}={}", hostname(machine)));
    first_boot.into_iter().chain(hostname).map(OsString::from).collect()
}

/// Returns the kind of the init.
fn init_kind(machine: &Machine, facts: &Facts) -> Init {
    match (&machine.boot.init, &facts.init) {
        (InitChoice::Kind(kind), _) | (_, Some((_, kind))) => *kind,
        _ => Init::Unknown,
    }
}

/// Returns the content of a file over the `/etc/hostname` of the tree: other inits than systemd set the name
/// in it. `None` if the definition has no host name.
pub(super) fn hostname_file(machine: &Machine, facts: &Facts) -> Option<String> {
    let is_boot = matches!(machine.command.payload, Payload::Boot { .. });
    let is_read = machine.contract == Contract::Coracle && init_kind(machine, facts) != Init::Systemd;
    machine.identity.hostname.as_ref().filter(|_| is_boot && is_read).map(|name| format!("{name}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_os_release_is_found_by_its_whole_name() {
        assert_eq!(os_release_field("NAME=x\nVERSION_ID=\"13\"\n", "VERSION_ID").as_deref(), Some("13"));
        assert_eq!(os_release_field("VERSION_ID_X=1\n", "VERSION_ID"), None);
    }
}
