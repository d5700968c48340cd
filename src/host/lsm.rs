//! Labels of Linux security modules (AppArmor, SELinux): the label for a machine's PID 1, and its current
//! one. Called by `run` before a start and by `control` before a command enters; the children write them.

use crate::error::{Error, Result};
use crate::machine::security::{APPARMOR_NESTING_PROFILE, APPARMOR_PROFILE, Security};
use crate::plan::step::LsmLabel;
use crate::sys::pseudo_file;
use std::path::Path;
use std::sync::OnceLock;

/// A module's attributes in procfs: the current label of a process, and the label at its next exec.
struct Module {
    /// `attr/…` with the current label.
    current: &'static str,
    /// The file for the label at the next exec.
    next: &'static str,
    /// The text written before the label.
    verb: &'static str,
}

const APPARMOR: Module =
    Module { current: "apparmor/current", next: "/proc/thread-self/attr/apparmor/exec", verb: "exec " };
const SELINUX: Module = Module { current: "current", next: "/proc/thread-self/attr/exec", verb: "" };
const MODULES: [Module; 2] = [APPARMOR, SELINUX];

/// AppArmor's list of profiles, `NAME (MODE)` a line.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// Returns whether AppArmor is active on this host, which does not change before the next boot.
pub(crate) fn has_apparmor() -> bool {
    static IS_ACTIVE: OnceLock<bool> = OnceLock::new();
    let read = || pseudo_file::read("/sys/module/apparmor/parameters/enabled");
    *IS_ACTIVE.get_or_init(|| read().is_ok_and(|text| text.trim() == "Y"))
}

/// Returns whether an AppArmor profile is loaded. `false` if AppArmor is inactive.
pub(crate) fn is_loaded(profile: &str) -> bool {
    // Reading the file needs no AppArmor permission, and it lists the profiles of the current policy
    // namespace.
    let profiles = if has_apparmor() { std::fs::read_to_string(PROFILES) } else { Ok(String::new()) };
    let is_it = |line: &str| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile);
    profiles.is_ok_and(|profiles| profiles.lines().any(is_it))
}

/// Returns whether the machine's profile is Coracle's own and enforced; it denies socket families however the
/// sockets are created.
pub(crate) fn refuses_families(security: &Security) -> bool {
    let profile = security.apparmor_profile.as_deref().unwrap_or(security.own_profile());
    let is_ours = [APPARMOR_PROFILE, APPARMOR_NESTING_PROFILE].contains(&profile);
    let profiles = if has_apparmor() { std::fs::read_to_string(PROFILES) } else { Ok(String::new()) };
    let enforced = format!("{profile} (enforce)");
    is_ours
        && security.selinux_context.is_none()
        && profiles.is_ok_and(|text| text.lines().any(|line| line == enforced))
}

/// Returns the label for the processes of a machine: that of its definition, else Coracle's own profile if it
/// is loaded.
///
/// # Errors
/// The label's module is not active, or does not know the label.
pub(crate) fn of_machine(security: &Security) -> Result<Option<LsmLabel>> {
    let has_selinux = || Path::new("/sys/fs/selinux/enforce").exists();
    let contexts = [&security.selinux_context, &security.selinux_apifs_context];
    if let Some(context) = contexts.into_iter().flatten().next().filter(|_| !has_selinux()) {
        return Err(Error::new(format!(
            "cannot use the SELinux context '{context}': SELinux is not active on this host"
        ))
        .with_hint("boot the host with security=selinux, or remove security.selinux-* from the definition"));
    }
    let of = |module: &Module, label: &str| {
        Some(LsmLabel { file: module.next, text: format!("{}{label}", module.verb) })
    };
    match (&security.selinux_context, security.apparmor_profile.as_deref()) {
        (Some(context), _) => Ok(of(&SELINUX, context)),
        (None, Some("unconfined")) => Ok(None),
        (None, Some(profile)) if is_loaded(profile) => Ok(of(&APPARMOR, profile)),
        (None, Some(profile)) => Err(not_loaded(profile)),
        (None, None) => {
            Ok(Some(security.own_profile()).filter(|own| is_loaded(own)).and_then(|own| of(&APPARMOR, own)))
        }
    }
}

fn not_loaded(profile: &str) -> Error {
    let error = Error::new(format!("cannot use the AppArmor profile '{profile}'"));
    if has_apparmor() {
        Error::new("it is not loaded").context(error.to_string())
            .with_hint("load it with apparmor_parser(8), as 'aa-status' lists them, or remove security.apparmor-profile from the definition")
    } else {
        Error::new("AppArmor is not active on this host").context(error.to_string()).with_hint(
            "boot the host with security=apparmor, or remove security.apparmor-profile from the definition",
        )
    }
}

/// Returns the label for a process that enters the machine of this PID 1. `None` if there is no security
/// module, or if the process has the label already.
pub(crate) fn of_entering(leader: u32) -> Option<LsmLabel> {
    MODULES.iter().find_map(|module| {
        let of = |process: &str| {
            let text = pseudo_file::read(format!("/proc/{process}/attr/{}", module.current)).ok()?;
            plain(&text).map(str::to_owned)
        };
        let (target, own) = (of(&leader.to_string())?, of("self")?);
        let wanted = target != own && target != "unconfined";
        wanted.then(|| LsmLabel { file: module.next, text: format!("{}{target}", module.verb) })
    })
}

/// Returns a label without AppArmor's mode suffix and SELinux's NUL. `None` if it is empty.
fn plain(text: &str) -> Option<&str> {
    let text = text.trim_end_matches(['\0', '\n']);
    let label = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((label, _)) => label,
        None => text,
    };
    (!label.is_empty()).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_plain() {
        assert_eq!(plain("coracle-web (enforce)\n"), Some("coracle-web"));
        assert_eq!(plain("unconfined\n"), Some("unconfined"));
        assert_eq!(plain("system_u:system_r:kernel_t:s0\0"), Some("system_u:system_r:kernel_t:s0"));
        assert_eq!(plain("\n"), None);
    }
}
