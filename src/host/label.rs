//! Labels of security modules (AppArmor, SELinux): which one a machine's PID 1 has. Called by
//! `control` before a command enters; it is written by the child.

use crate::plan::step::Label;

/// A module's attributes in procfs: what a process has, and where the label of its next program is
/// asked for.
struct Module {
    /// `attr/…` of the label that holds.
    current: &'static str,
    /// The file in which the next one is asked for.
    next: &'static str,
    /// What is written before the label.
    verb: &'static str,
}

const MODULES: [Module; 2] = [
    Module { current: "apparmor/current", next: "/proc/thread-self/attr/apparmor/exec", verb: "exec " },
    Module { current: "current", next: "/proc/thread-self/attr/exec", verb: "" },
];

/// The label that a process gets which enters the machine of this PID 1; nothing where there is no
/// security module, or where it is the one we have.
pub fn of_entering(leader: u32) -> Option<Label> {
    MODULES.iter().find_map(|module| {
        let of = |who: &str| {
            let text = std::fs::read_to_string(format!("/proc/{who}/attr/{}", module.current)).ok()?;
            plain(&text).map(str::to_owned)
        };
        let (theirs, ours) = (of(&leader.to_string())?, of("self")?);
        let wanted = theirs != ours && theirs != "unconfined";
        wanted.then(|| Label { file: module.next, text: format!("{}{theirs}", module.verb) })
    })
}

/// A label without AppArmor's mode behind it and SELinux's NUL; nothing where there is none.
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
