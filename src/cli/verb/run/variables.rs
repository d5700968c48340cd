//! The variables of systemd-nspawn(1) in the environment of `coracle run`. Called by `option_layer`, which
//! collects the problems, and by `run` for the log level.

use crate::config::layer::{Layer, Origin, Setting};
use crate::config::values::{RawValue, systemd_boolean};
use crate::error::{Error, Result};
use log::LevelFilter;
use std::ffi::{OsStr, OsString};

/// The effect of a variable.
enum Effect {
    /// It sets this setting, a boolean.
    Switch(&'static str),
    /// It sets this setting, a text.
    Text(&'static str),
    /// It sets this setting, a boolean, or is `network`: settings of a private network are always writable.
    SwitchOrNetwork(&'static str),
    /// Only this value is possible: Coracle has no such option.
    Only(bool),
}

/// All variables with an effect. Those about the hierarchy of cgroups are ignored: there is one.
const VARIABLES: &[(&str, Effect)] = &[
    ("SYSTEMD_NSPAWN_TMPFS_TMP", Effect::Switch("tmpfs-tmp")),
    ("SYSTEMD_NSPAWN_LOCK", Effect::Switch("lock")),
    ("SYSTEMD_NSPAWN_CHECK_OS_RELEASE", Effect::Switch("check-os-release")),
    ("SYSTEMD_NSPAWN_CONTAINER_SERVICE", Effect::Text("container-service")),
    ("SYSTEMD_SECCOMP", Effect::Switch("filter")),
    ("SYSTEMD_SUPPRESS_SYNC", Effect::Switch("boot.suppress-sync")),
    ("SYSTEMD_NSPAWN_USE_CGNS", Effect::Only(true)),
    ("SYSTEMD_NSPAWN_SHARE_NS_IPC", Effect::Only(false)),
    ("SYSTEMD_NSPAWN_SHARE_NS_PID", Effect::Only(false)),
    ("SYSTEMD_NSPAWN_SHARE_NS_UTS", Effect::Only(false)),
    ("SYSTEMD_NSPAWN_SHARE_SYSTEM", Effect::Only(false)),
    ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", Effect::SwitchOrNetwork("writable-api")),
    ("SYSTEMD_NSPAWN_NETWORK_MAC", Effect::Text("network-mac")),
];

/// Returns the value of a variable of this process.
pub(super) fn of_process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Sets the settings of all variables; `value` returns that of one, and `refuse` collects the problems.
pub(super) fn read(
    value: impl Fn(&str) -> Option<OsString>,
    layer: &mut Layer,
    mut refuse: impl FnMut(Error),
) {
    for (name, effect) in VARIABLES {
        let Some(text) = value(name) else { continue };
        if let Err(error) = set(name, effect, &text, layer) {
            refuse(error.context(format!("'{name}={}'", text.to_string_lossy().escape_debug())));
        }
    }
}

/// Sets the setting of one variable.
fn set(name: &'static str, effect: &Effect, text: &OsStr, layer: &mut Layer) -> Result<()> {
    let text = text.to_str().ok_or_else(|| Error::new("the value is not UTF-8"))?;
    let words = if matches!(effect, Effect::SwitchOrNetwork(_)) { "yes, no or network" } else { "yes or no" };
    let truth = || systemd_boolean(text).ok_or_else(|| Error::new(format!("expected {words}")));
    let (key, raw) = match effect {
        Effect::SwitchOrNetwork(_) if text == "network" => ("network-settings", RawValue::Boolean(true)),
        Effect::Switch(key) | Effect::SwitchOrNetwork(key) => (*key, RawValue::Boolean(truth()?)),
        Effect::Text(key) => (*key, RawValue::Text(text)),
        Effect::Only(possible) if truth().ok() == Some(*possible) => return Ok(()),
        Effect::Only(_) => return Err(Error::new("the variable is not supported")),
    };
    let setting = Setting::find(key).ok_or_else(|| Error::new(format!("unknown setting '{key}'")))?;
    layer.set(setting, &raw, Origin::Flag(name))
}

/// Returns the log level of a value of `SYSTEMD_LOG_LEVEL`, a word or number of syslog(3). `None` if it is
/// unknown.
pub(super) fn log_level(value: &OsStr) -> Option<LevelFilter> {
    Some(match value.to_str()?.to_ascii_lowercase().as_str() {
        "emerg" | "alert" | "crit" | "0" | "1" | "2" | "null" => LevelFilter::Off,
        "err" | "3" => LevelFilter::Error,
        "warning" | "notice" | "4" | "5" => LevelFilter::Warn,
        "info" | "6" => LevelFilter::Info,
        "debug" | "7" => LevelFilter::Debug,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one variable. Returns the set values and the problems.
    fn read_one(name: &str, text: &str) -> (Vec<String>, Vec<String>) {
        let (mut layer, mut problems) = (Layer::default(), Vec::new());
        let value = |wanted: &str| (wanted == name).then(|| OsString::from(text));
        read(value, &mut layer, |error| problems.push(error.to_string()));
        let keys = VARIABLES.iter().filter_map(|(_, effect)| match effect {
            Effect::Switch(key) | Effect::SwitchOrNetwork(key) | Effect::Text(key) => Some(*key),
            Effect::Only(_) => None,
        });
        let lines = keys.flat_map(|key| layer.lines(Setting::find(key).unwrap()));
        (lines.map(|line| format!("{} {}", line.origin, line.value)).collect(), problems)
    }

    #[test]
    fn variables_set_settings() {
        for (name, text, expected) in [
            ("SYSTEMD_NSPAWN_TMPFS_TMP", "0", "SYSTEMD_NSPAWN_TMPFS_TMP false"),
            ("SYSTEMD_NSPAWN_LOCK", "no", "SYSTEMD_NSPAWN_LOCK false"),
            ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes", "SYSTEMD_NSPAWN_API_VFS_WRITABLE true"),
            ("SYSTEMD_SECCOMP", "1", "SYSTEMD_SECCOMP true"),
            ("SYSTEMD_NSPAWN_CONTAINER_SERVICE", "x", "SYSTEMD_NSPAWN_CONTAINER_SERVICE \"x\""),
            ("SYSTEMD_NSPAWN_NETWORK_MAC", "2-0-0-0-0-a", "SYSTEMD_NSPAWN_NETWORK_MAC \"02:00:00:00:00:0a\""),
        ] {
            assert_eq!(read_one(name, text), (vec![expected.to_owned()], Vec::new()));
        }
        for (name, text) in [
            ("SYSTEMD_NSPAWN_SHARE_SYSTEM", "0"),
            ("SYSTEMD_NSPAWN_USE_CGNS", "yes"),
            ("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "junk"),
            ("UNIFIED_CGROUP_HIERARCHY", "no"),
        ] {
            assert_eq!(read_one(name, text), (Vec::new(), Vec::new()), "{name}");
        }
    }

    #[test]
    fn junk_and_unsupported_values_are_refused() {
        for (name, effect) in VARIABLES {
            let junk = if matches!(effect, Effect::Text(_)) { "" } else { "junk" };
            let (set, problems) = read_one(name, junk);
            assert!(
                set.is_empty() && problems.len() == 1 && problems[0].starts_with('\''),
                "{name}: {problems:?}"
            );
        }
        for (name, text) in [("SYSTEMD_NSPAWN_USE_CGNS", "0"), ("SYSTEMD_NSPAWN_SHARE_NS_PID", "1")] {
            let problem = format!("'{name}={text}': the variable is not supported");
            assert_eq!(read_one(name, text), (Vec::new(), vec![problem]));
        }
    }

    #[test]
    fn log_levels_are_those_of_syslog() {
        let level = |text: &str| log_level(OsStr::new(text));
        assert_eq!((level("debug"), level("7")), (Some(LevelFilter::Debug), Some(LevelFilter::Debug)));
        assert_eq!((level("err"), level("loud")), (Some(LevelFilter::Error), None));
    }
}
