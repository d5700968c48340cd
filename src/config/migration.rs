//! The definition that means the same as a unit of systemd-nspawn(1) with its .nspawn file, with the origin
//! of each line. Called by `control::migrate`. It writes no file.
//!
//! Options and file are merged and get the defaults of systemd-nspawn(1). Written are the settings that one
//! of them has, and those whose default differs from that of a definition.

mod document;

use super::Options;
use super::definition_files::Files;
use super::layer::{Layer, Origin, Setting, Shape, Sourced, definition_settings, settings as all_settings};
use super::nspawn::NspawnUnit;
use super::problem::Problem;
use super::profile::Profile;
use super::resolve;
use super::sources::Sources;
use super::values::RawValue;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::network::{Addresses, Mode};
use crate::machine::security::OPTIONAL_DEVICES;
use crate::paths::Paths;
use document::Document;
pub(crate) use document::is_unchanged;
use std::path::{Path, PathBuf};

/// A definition for a machine of systemd-nspawn(1).
#[derive(Debug)]
pub(crate) struct Migration {
    /// The text of the definition.
    pub(crate) text: String,
    /// The number of its settings.
    pub(crate) settings: usize,
    /// The .nspawn file.
    pub(crate) file: Option<PathBuf>,
    /// The machine that the definition describes.
    pub(crate) machine: Machine,
    /// Settings that are not written, without a loss for the machine.
    pub(crate) replaced: Vec<String>,
    /// Settings without an equal.
    pub(crate) lost: Vec<String>,
}

/// Returns the definition of a machine with these options of its unit.
///
/// # Errors
/// The .nspawn file cannot be opened, or the settings with an equal do not describe a machine.
pub(crate) fn migration(
    paths: &Paths,
    name: &Name,
    unit: &NspawnUnit,
    options: Options,
) -> Result<Migration> {
    let files = &Files::default();
    let profile = Profile::Nspawn;
    let (options, settings) = (options.layer, options.settings);
    let merged = Sources { paths, name, options, files, settings, profile }.merge()?;
    let mut lost: Vec<String> = unit.lost.iter().map(|one| shown(paths, &one.value, &one.origin)).collect();
    let mut replaced: Vec<String> =
        unit.replaced.iter().map(|one| shown(paths, &one.value, &one.origin)).collect();
    lost.extend(merged.errors.iter().map(|problem| described(paths, problem)));
    replaced.extend(merged.ignored.iter().map(|problem| described(paths, problem)));
    let mut plan = MigrationPlan { paths, unit, said: merged.layer, lost, replaced };
    plan.sort_out(name);
    let document = plan.document(name, merged.main.as_deref());
    let (definition, problems) = super::toml::read(&paths.definitions()[0], &document.text);
    let machine = match (resolve::resolve(paths, name, definition, Profile::Unit), problems.as_slice()) {
        (Ok(resolved), []) => resolved.machine,
        (Err(errors), _) => return Err(super::problem::combined(&context(name), &of_machine(&errors))),
        (Ok(_), problems) => return Err(super::problem::combined(&context(name), problems)),
    };
    let MigrationPlan { lost, replaced, .. } = plan;
    let Document { text, settings } = document;
    Ok(Migration { text, settings, file: merged.main, machine: *machine, replaced, lost })
}

fn context(name: &Name) -> String {
    format!("cannot define the machine '{name}'")
}

fn of_machine(errors: &[Error]) -> Vec<Problem> {
    errors.iter().map(|error| Problem::new(None, error)).collect()
}

/// Formats a setting with its file and line.
fn shown(paths: &Paths, what: &str, origin: &Origin) -> String {
    match origin {
        Origin::File { path, line } => format!("{what} ({}:{line})", paths.strip(path).display()),
        // A unit has no bundle.
        Origin::Flag(_) | Origin::Bundle { .. } | Origin::Default => what.to_owned(),
    }
}

/// Formats a problem of the .nspawn file in one line.
fn described(paths: &Paths, problem: &Problem) -> String {
    let message = problem.message.trim_end_matches(", ignoring");
    match (&problem.file, problem.line) {
        (Some(file), Some(line)) => format!("{message} ({}:{line})", paths.strip(file).display()),
        (Some(file), None) => format!("{message} ({})", paths.strip(file).display()),
        (None, _) => message.to_owned(),
    }
}

/// The settings of a machine, sorted into those with and without an equal.
struct MigrationPlan<'a> {
    paths: &'a Paths,
    unit: &'a NspawnUnit,
    /// The settings of options and file.
    said: Layer,
    lost: Vec<String>,
    replaced: Vec<String>,
}

/// A value of a definition, with the text of its origin.
type DocumentValue = (String, String);

impl MigrationPlan<'_> {
    /// Removes settings that a definition cannot contain, after their use or their report.
    fn sort_out(&mut self, name: &Name) {
        let root = &mut self.said.root;
        if root.sources().into_iter().all(|source| source.origin() == Origin::Default) {
            // The image of the name, which every machine has by default.
            root.clear_source();
        }
        if self.said.identity.name.value().is_some_and(|other| other != name) {
            self.lost.push(self.named("--machine=", &self.said.identity.name.origin()));
        }
        let command = &self.said.command;
        if command.boot.value() != Some(&true) {
            let what = "a command instead of an init, which only 'coracle run' starts";
            self.lost.push(self.named(what, &command.boot.origin()));
        }
        for (what, origin) in [
            ("the user of a command", command.user.value().map(|_| command.user.origin())),
            ("the working directory of a command", command.chdir.value().map(|_| command.chdir.origin())),
        ] {
            self.lost.extend(origin.map(|origin| self.named(what, &origin)));
        }
        let arguments = self.said.command.command.take();
        if self.said.command.boot.value() == Some(&true) {
            arguments.into_iter().for_each(|one| self.said.boot.arguments.push(one.value, one.origin));
        }
        for (key, what) in
            [("console", "--console="), ("register", "--register="), ("slice", "--slice= without a scope")]
        {
            let lines = Setting::find(key).map(|setting| self.said.lines(setting)).unwrap_or_default();
            self.replaced.extend(lines.first().map(|line| self.named(what, &line.origin)));
        }
        for setting in all_settings().filter(|setting| setting.shape == Shape::FlagOnly) {
            self.said.unset(setting);
        }
    }

    /// Adds what only the unit has.
    fn add_settings_of_unit(&mut self) {
        let (said, lost) = (&mut self.said, &mut self.lost);
        let mut set = |key: &str, raw: &RawValue, origin: &Origin, named: &str| {
            let set = Setting::find(key).map(|setting| said.set(setting, raw, origin.clone()));
            if !matches!(set, Some(Ok(()))) {
                lost.push(shown(self.paths, named, origin));
            }
        };
        if let Some(Sourced { value, origin }) = &self.unit.stop_timeout {
            set("boot.stop-timeout", &RawValue::Text(value), origin, "TimeoutStopSec=");
        }
        if let Some(Sourced { value, origin }) = &self.unit.suppress_sync {
            set("boot.suppress-sync", &RawValue::Boolean(*value), origin, "SYSTEMD_SUPPRESS_SYNC");
        }
        for Sourced { value, origin } in &self.unit.devices {
            let device = value.to_string_lossy();
            // Devices that the template allows, with or without them on the host.
            let is_optional = OPTIONAL_DEVICES.contains(&&*device);
            if !is_optional || self.paths.join(value).exists() {
                let named = format!("DeviceAllow={device}");
                set("security.devices", &RawValue::Text(&device), origin, &named);
            }
        }
    }

    /// Leaves the addresses of links to the host and the guest, as systemd-nspawn(1) does.
    fn leave_links_alone(theirs: &mut Layer) {
        let network = &mut theirs.network;
        let is_private = network.mode.value().is_some_and(|mode| mode.is_private() && *mode != Mode::None);
        let has_links = is_private || !network.veth_extra.sourced().is_empty();
        let addresses = if has_links { Addresses::None } else { Addresses::Auto };
        network.addresses.set(addresses, Origin::Default);
    }

    /// Returns the definition.
    fn document(&mut self, name: &Name, file: Option<&Path>) -> Document {
        self.add_settings_of_unit();
        let defaults = |profile| resolve::with_defaults(self.paths, name, self.said.clone(), profile);
        let (mut theirs, ours) = (defaults(Profile::Nspawn), defaults(Profile::Unit));
        Self::leave_links_alone(&mut theirs);
        let values = |layer: &Layer, setting| -> Vec<String> {
            layer.lines(setting).into_iter().map(|line| line.value).collect()
        };
        let mut document = document::begin(self.paths, name, file, self.unit);
        for setting in definition_settings() {
            if setting.key == "boot.machinectl" {
                document.add(setting, &[("true".to_owned(), String::new())]);
            } else if self.said.is_set(setting) || values(&theirs, setting) != values(&ours, setting) {
                let lines: Vec<DocumentValue> = theirs
                    .lines(setting)
                    .into_iter()
                    .map(|line| (line.value, self.origin(&line.origin)))
                    .collect();
                document.add(setting, &lines);
            }
        }
        document.finish(name)
    }

    /// Formats an origin for a comment.
    fn origin(&self, origin: &Origin) -> String {
        match origin {
            Origin::File { path, line } => format!("{}:{line}", self.paths.strip(path).display()),
            Origin::Flag(flag) => self.named(flag, origin),
            Origin::Bundle { .. } | Origin::Default => "default of systemd-nspawn".to_owned(),
        }
    }

    /// Formats a setting with its origin, for options the line of `ExecStart=`.
    fn named(&self, what: &str, origin: &Origin) -> String {
        let of_unit = self.unit.options.as_ref().map(|options| &options.origin);
        match (origin, of_unit) {
            (Origin::Flag(_), Some(of_unit)) => shown(self.paths, what, of_unit),
            _ => shown(self.paths, what, origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::nspawn::{SettingsMode, Trust};
    use super::*;
    use crate::machine::contract::Contract;

    /// Returns the paths of a host with the template and the image `web`.
    fn host() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let units = paths.join("/usr/lib/systemd/system");
        for directory in [&units, &paths.nspawn_directories()[0], &paths.images().join("web/usr")] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let command = "[Service]\nExecStart=systemd-nspawn -b\nDeviceAllow=/dev/net/tun rwm\n";
        std::fs::write(units.join("systemd-nspawn@.service"), command).unwrap();
        (root, paths)
    }

    fn options(settings: &[(&str, RawValue)]) -> Layer {
        let mut layer = Layer::default();
        for (key, value) in settings {
            layer.set(Setting::find(key).unwrap(), value, Origin::Flag("option")).unwrap();
        }
        layer
    }

    /// The files of the test, each with the options of its unit.
    const FILES: [&str; 5] = [
        "",
        "[Exec]\nBoot=yes\nParameters=a \"b c\"\nEnvironment=A=1 \"B=x \\\\ y\"\nHostname=h\nKillSignal=SIGTERM\n",
        "[Exec]\nCapability=CAP_BPF\nDropCapability=CAP_MKNOD\nSystemCallFilter=@keyring\nSystemCallFilter=~ptrace\nNoNewPrivileges=yes\n\
         PrivateUsers=1000000\n[Files]\nReadOnly=yes\nVolatile=state\n",
        "[Exec]\nPrivateUsers=no\nNotifyReady=yes\n[Files]\nBind=/a:/b:norbind\nBindReadOnly=/c\nTemporaryFileSystem=/d\n\
         Inaccessible=/e\n[Network]\nPrivate=no\n",
        "[Network]\nZone=lan\nPort=tcp:80:8080\nPort=443\nVirtualEthernetExtra=x:y\nMACVLAN=eth0:z\n",
    ];

    #[test]
    fn a_definition_means_the_same_as_the_unit() {
        for file in FILES {
            let (_root, paths) = host();
            let name = Name::new("web").unwrap();
            let path = paths.nspawn_directories()[0].join("web.nspawn");
            std::fs::write(&path, file).unwrap();
            let unit = NspawnUnit::read(&paths, &name).unwrap();
            let set = [("boot", RawValue::Boolean(true)), ("users.private", RawValue::Text("pick"))];
            let set = || Options {
                layer: options(&set),
                settings: SettingsMode::Override,
                contract: Contract::Nspawn,
                bundle: None,
            };
            let migrated = migration(&paths, &name, &unit, set()).unwrap();
            assert_eq!((&migrated.lost[..], &migrated.replaced[..]), (&[][..], &[][..]), "{file}");
            // As systemd-nspawn(1) would run it.
            let (settings, _) = super::super::nspawn::parse(&path, Trust::Trusted, file.as_bytes());
            let layer = settings.over(set().layer);
            let theirs = resolve::resolve(&paths, &name, layer, Profile::Nspawn).unwrap().machine;
            let ours = &migrated.machine;
            assert!(ours.boot.machinectl && !theirs.boot.machinectl);
            assert_eq!(ours.root, theirs.root, "{file}");
            assert_eq!(ours.command, theirs.command, "{file}");
            assert_eq!(ours.mounts, theirs.mounts, "{file}");
            assert_eq!((ours.users, ours.ownership), (theirs.users, theirs.ownership), "{file}");
            assert_eq!((&ours.resources, &ours.identity), (&theirs.resources, &theirs.identity), "{file}");
            assert_eq!((ours.boot.wait, ours.boot.stop_signal), (theirs.boot.wait, theirs.boot.stop_signal));
            let (one, other) = (&ours.network, &theirs.network);
            assert_eq!((one.mode, &one.zone, &one.ports), (other.mode, &other.zone, &other.ports), "{file}");
            assert_eq!(one.interfaces, other.interfaces, "{file}");
            let capabilities = |machine: &Machine| {
                let security = &machine.security;
                (
                    security.capabilities_add.clone(),
                    security.capabilities_drop.clone(),
                    security.no_new_privileges,
                )
            };
            assert_eq!(capabilities(ours), capabilities(&theirs), "{file}");
            assert_eq!(ours.security.syscalls_allow, theirs.security.syscalls_allow, "{file}");
            assert_eq!(ours.security.syscalls_deny, theirs.security.syscalls_deny, "{file}");
        }
    }

    #[test]
    fn devices_of_the_template_are_those_of_the_host() {
        let (_root, paths) = host();
        let name = Name::new("web").unwrap();
        let unit = NspawnUnit::read(&paths, &name).unwrap();
        let devices = || {
            let boot = options(&[("boot", RawValue::Boolean(true))]);
            let options = Options {
                layer: boot,
                settings: SettingsMode::Override,
                contract: Contract::Nspawn,
                bundle: None,
            };
            migration(&paths, &name, &unit, options).unwrap().machine.security.devices.len()
        };
        assert_eq!(devices(), 0);
        let tun = paths.join("/dev/net/tun");
        std::fs::create_dir_all(tun.parent().unwrap()).unwrap();
        std::fs::write(tun, "").unwrap();
        assert_eq!(devices(), 1);
    }
}
