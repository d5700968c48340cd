//! The settings of systemd.nspawn(5) that are not one setting of coracle.toml(5). Called by the rows of
//! `table`, and at the end of a file.

use super::table::Row;
use super::{Assignment, NspawnReader, Refusal, Trust, truth};
use crate::config::address_families;
use crate::config::layer::{Layer, Origin};
use crate::config::mounts::{self, MountEntry};
use crate::config::problem::Problem;
use crate::config::security::SyscallName;
use crate::config::users::OwnershipChoice;
use crate::config::values::{RawValue, Value, systemd_boolean, ticked, word_or_auto};
use crate::error::{Error, Result as ConfigResult};
use crate::machine::init::Wait;
use crate::machine::network::{Mode, Port};
use crate::machine::resources::Rlimit;
use crate::machine::root::Volatile;
use crate::machine::users::Users;

/// `Boot=`.
pub(super) fn boot(reader: &mut NspawnReader, _: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    let command = &mut reader.layer.command;
    let is_boot = truth(&assignment.value)?;
    if is_boot && command.as_pid2.value().is_some() || !is_boot && command.boot.value() == Some(&true) {
        return Err(conflict());
    }
    if is_boot || command.boot.value().is_none() {
        command.boot.set(is_boot, assignment.origin.clone());
    }
    Ok(())
}

/// `ProcessTwo=`.
pub(super) fn process_two(
    reader: &mut NspawnReader,
    _: &Row,
    assignment: &Assignment,
) -> Result<(), Refusal> {
    let command = &mut reader.layer.command;
    let is_pid2 = truth(&assignment.value)?;
    if is_pid2 && command.boot.value() == Some(&true) || !is_pid2 && command.as_pid2.value().is_some() {
        return Err(conflict());
    }
    if is_pid2 {
        command.as_pid2.set(true, assignment.origin.clone());
    }
    if is_pid2 || command.boot.value().is_none() {
        command.boot.set(false, assignment.origin.clone());
    }
    Ok(())
}

fn conflict() -> Refusal {
    Error::new("an earlier Boot= or ProcessTwo= contradicts it").into()
}

/// `PrivateUsers=`. `0` is a boolean here, and a range as an option.
pub(super) fn private_users(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let users = match (systemd_boolean(value), value.as_str()) {
        (Some(false), _) => Users::Host,
        (Some(true), _) => Users::OfRoot,
        // For root, a range of systemd-nsresourced is an exclusive range like any other.
        (None, "managed") => Users::Pick,
        (None, text) => {
            let is_range = text.starts_with(|first: char| first.is_ascii_digit());
            let unusable = if is_range { Refusal::Unsupported } else { Refusal::Invalid };
            Users::read(&RawValue::Text(text)).map_err(unusable)?
        }
    };
    reader.layer.users.private.set(users, origin.clone());
    Ok(())
}

/// `PrivateUsersOwnership=`.
pub(super) fn ownership(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let choice = OwnershipChoice::read(&RawValue::Text(value)).map_err(Refusal::Invalid)?;
    reader.layer.users.ownership.set(choice, origin.clone());
    Ok(())
}

/// `PrivateUsersChown=`, an earlier name.
pub(super) fn chown(reader: &mut NspawnReader, row: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    let word = if truth(&assignment.value)? { "chown" } else { "off" };
    ownership(reader, row, &Assignment { value: word.to_owned(), ..assignment.clone() })
}

/// `PrivateUsersDelegate=`. No ranges are delegated.
pub(super) fn delegate(
    _: &mut NspawnReader,
    _: &Row,
    Assignment { value, .. }: &Assignment,
) -> Result<(), Refusal> {
    match value.parse::<u32>() {
        Ok(0) => return Ok(()),
        Err(_) if value.is_empty() => return Ok(()),
        Err(_) => {
            let error = Error::new(format!("{} is not a number of id ranges", ticked(value)));
            return Err(Refusal::Invalid(error));
        }
        Ok(_) => {}
    }
    let error = Error::new("ids are not delegated");
    Err(Refusal::Unsupported(error.with_hint("set security.nesting in a definition for containers inside")))
}

/// `NotifyReady=`.
pub(super) fn notify_ready(
    reader: &mut NspawnReader,
    _: &Row,
    assignment: &Assignment,
) -> Result<(), Refusal> {
    let wait = if truth(&assignment.value)? { Wait::Ready } else { Wait::Running };
    reader.layer.boot.wait.set(wait, assignment.origin.clone());
    Ok(())
}

/// `SystemCallFilter=`. An untrusted file denies only.
pub(super) fn system_call_filter(
    reader: &mut NspawnReader,
    row: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let (is_denied, list) = value.strip_prefix('~').map_or((false, value.as_str()), |list| (true, list));
    if !is_denied && reader.trust == Trust::Untrusted {
        reader.warn_untrusted(origin, "SystemCallFilter=");
        return Ok(());
    }
    for name in list.split_ascii_whitespace() {
        match SyscallName::read(&RawValue::Text(name)) {
            Ok(name) if is_denied => reader.layer.security.syscalls_deny.push(name, origin.clone()),
            Ok(name) => reader.layer.security.syscalls_allow.push(name, origin.clone()),
            Err(error) => reader.check(row, origin, Err(error.into())),
        }
    }
    Ok(())
}

/// `RestrictAddressFamilies=`. An empty value removes those of earlier lines, and an invalid name is ignored
/// alone.
pub(super) fn address_families(
    reader: &mut NspawnReader,
    row: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    if value.is_empty() {
        return reader.set("security.address-families", &RawValue::Text(""), origin);
    }
    for rule in address_families::rules(value) {
        match rule {
            Ok(rule) => reader.layer.security.address_families.push(rule, origin.clone()),
            Err(error) => reader.check(row, origin, Err(error.into())),
        }
    }
    Ok(())
}

/// `LimitNOFILE=` and the other limits.
pub(super) fn limit(
    reader: &mut NspawnReader,
    row: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let name = row.key.strip_prefix("Limit").unwrap_or(row.key);
    let limit = Rlimit::read_entry(name, &RawValue::Text(value))?;
    reader.layer.resources.rlimits.push(limit, origin.clone());
    Ok(())
}

/// `CPUAffinity=`: numbers and ranges between commas or spaces. An empty value removes those of earlier
/// lines.
pub(super) fn processors(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    if value.is_empty() {
        return reader.set("resources.cpu-affinity", &RawValue::Text(""), origin);
    }
    let is_between = |letter: char| letter == ',' || letter.is_ascii_whitespace();
    for range in value.split(is_between).filter(|range| !range.is_empty()) {
        reader.set("resources.cpu-affinity", &RawValue::Text(range), origin)?;
    }
    Ok(())
}

/// `Timezone=`.
pub(super) fn timezone(reader: &mut NspawnReader, _: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    reader.set("identity.timezone", &RawValue::Text(word_or_auto(&assignment.value)), &assignment.origin)
}

/// `ResolvConf=`.
pub(super) fn resolv_conf(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    reader.set("network.resolv-conf", &RawValue::Text(word_or_auto(value)), origin)
}

/// `Volatile=`.
pub(super) fn volatile(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let raw = systemd_boolean(value).map_or(RawValue::Text(value), RawValue::Boolean);
    reader.layer.root.volatile.set(Volatile::read(&raw)?, origin.clone());
    Ok(())
}

/// `Bind=` and `BindReadOnly=`.
pub(super) fn bind(reader: &mut NspawnReader, row: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    add_mount(reader, assignment, mounts::bind(&assignment.value, row.key == "BindReadOnly"))
}

/// `Overlay=` and `OverlayReadOnly=`.
pub(super) fn overlay(reader: &mut NspawnReader, row: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    add_mount(reader, assignment, mounts::overlay(&assignment.value, row.key == "OverlayReadOnly"))
}

/// `BindUser=`: names between spaces. An empty value removes those of earlier lines.
pub(super) fn bind_user(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    if value.is_empty() {
        return reader.set("users.bind", &RawValue::Text(""), origin);
    }
    value
        .split_ascii_whitespace()
        .try_for_each(|name| reader.set("users.bind", &RawValue::Text(name), origin))
}

/// `BindUserShell=`.
pub(super) fn bind_user_shell(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let raw = systemd_boolean(value).map_or(RawValue::Text(value), RawValue::Boolean);
    reader.set("users.bind-shell", &raw, origin)
}

/// `TemporaryFileSystem=`.
pub(super) fn tmpfs(reader: &mut NspawnReader, _: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    add_mount(reader, assignment, mounts::tmpfs(&assignment.value))
}

/// `Inaccessible=`.
pub(super) fn inaccessible(
    reader: &mut NspawnReader,
    _: &Row,
    assignment: &Assignment,
) -> Result<(), Refusal> {
    add_mount(reader, assignment, mounts::inaccessible(&assignment.value))
}

/// Adds a mount.
fn add_mount(
    reader: &mut NspawnReader,
    Assignment { origin, .. }: &Assignment,
    mount: ConfigResult<MountEntry>,
) -> Result<(), Refusal> {
    reader.layer.mounts.entries.push(mount?, origin.clone());
    Ok(())
}

/// `Private=`.
pub(super) fn private(reader: &mut NspawnReader, _: &Row, assignment: &Assignment) -> Result<(), Refusal> {
    reader.private = tristate(assignment)?;
    Ok(())
}

/// `VirtualEthernet=`.
pub(super) fn virtual_ethernet(
    reader: &mut NspawnReader,
    _: &Row,
    assignment: &Assignment,
) -> Result<(), Refusal> {
    reader.veth = tristate(assignment)?;
    Ok(())
}

/// Parses a boolean that an empty value removes.
fn tristate(assignment: &Assignment) -> ConfigResult<Option<(bool, Origin)>> {
    if assignment.value.is_empty() {
        return Ok(None);
    }
    Ok(Some((truth(&assignment.value)?, assignment.origin.clone())))
}

/// `Port=`.
pub(super) fn port(
    reader: &mut NspawnReader,
    _: &Row,
    Assignment { value, origin, .. }: &Assignment,
) -> Result<(), Refusal> {
    let port = Port::read(&RawValue::Text(value))?;
    let ports = &mut reader.layer.network.ports;
    if ports.values().any(|other| *other == port) {
        return Err(Error::new(format!("an earlier line forwards {}", ticked(value))).into());
    }
    ports.push(port, origin.clone());
    Ok(())
}

impl NspawnReader {
    /// Sets the kind of connection, which is the host's network if the file says so and requests nothing
    /// else.
    pub(super) fn finish_network(&mut self) {
        let [veth, private] = [self.veth.take(), self.private.take()];
        let requested = |one: &Option<(bool, Origin)>| {
            one.as_ref().filter(|(is_requested, _)| *is_requested).map(|(_, origin)| origin.clone())
        };
        let network = &mut self.layer.network;
        network.set_requested_mode(requested(&veth), requested(&private));
        if let (None, Some((_, origin))) = (network.mode.value(), private.or(veth)) {
            network.mode.set(Mode::Host, origin);
        }
    }

    /// Sets the user namespace and the ownership that each other implies: files of a given range belong to it
    /// already, and without a range there is nothing to map or to change.
    pub(super) fn finish_users(&mut self) {
        let users = &mut self.layer.users;
        match (users.private.value(), users.ownership.value()) {
            (None, Some(_)) => {
                let origin = users.ownership.origin();
                users.private.set(Users::Host, origin.clone());
                users.ownership.set(OwnershipChoice::Off, origin);
            }
            (Some(Users::Fixed { .. } | Users::OfRoot), None) => {
                users.ownership.set(OwnershipChoice::Off, users.private.origin());
            }
            _ => {}
        }
    }
}

/// Makes a machine of a unit boot unless its file says otherwise; `Parameters=` are arguments of its init.
pub(in crate::config) fn boot_by_default(file: &mut Layer) {
    file.command.boot.fill(|| true);
}

/// Removes `Parameters=` of a file that does not say how the machine starts, as systemd-nspawn(1) does.
/// Returns the warning.
pub(in crate::config) fn drop_parameters(file: &mut Layer) -> Option<Problem> {
    if file.command.boot.value().is_some() {
        return None;
    }
    let first = file.command.command.take().into_iter().next()?;
    let text = "'Parameters=' has no effect without 'Boot=' or 'ProcessTwo=', ignoring".to_owned();
    Some(Problem::warning(&first.origin, text))
}
