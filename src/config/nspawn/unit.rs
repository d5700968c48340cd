//! Reads the unit `systemd-nspawn@NAME.service` with its drop-ins, from the files that systemd reads
//! (systemd.unit(5)). Called by `config::migration`. It does not ask systemd: the result has the lines of its
//! settings, also on a host that is not running.

mod command;

use super::super::definition_files;
use super::super::ini::{self, Assignment};
use super::super::layer::{Origin, Sourced};
use super::super::values::systemd_boolean;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The template of the package.
const TEMPLATE: &str = "systemd-nspawn@.service";
/// Its sections.
const SECTIONS: [&str; 3] = ["Unit", "Service", "Install"];

/// Devices of the template, which systemd-nspawn(1) itself uses.
const OWN_DEVICES: [&str; 6] = [
    "char-pts",
    "/dev/loop-control",
    "block-loop",
    "block-blkext",
    "/dev/mapper/control",
    "block-device-mapper",
];
/// Settings whose values of an administrator have no effect on Coracle: its own drop-in replaces them.
const REPLACED: [&str; 13] = [
    "Type",
    "NotifyAccess",
    "RestartForceExitStatus",
    "SuccessExitStatus",
    "Delegate",
    "DelegateSubgroup",
    "KillMode",
    "TimeoutStartSec",
    "TimeoutSec",
    "WatchdogSec",
    "DevicePolicy",
    "StartLimitIntervalSec",
    "StartLimitInterval",
];
/// Variables of systemd-nspawn(1) without an effect on a machine, or with the effect of the default.
const HARMLESS: [&str; 3] = [
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY",
    "SYSTEMD_NSPAWN_CONTAINER_SERVICE",
    "SYSTEMD_NSPAWN_CHECK_OS_RELEASE",
];

/// The unit of a machine of systemd-nspawn(1).
#[derive(Debug, Default)]
pub(crate) struct NspawnUnit {
    /// The unit file.
    pub(crate) file: PathBuf,
    /// Its drop-ins, in the order in which they apply.
    pub(crate) drop_ins: Vec<PathBuf>,
    /// The options of systemd-nspawn(1), with the origin of `ExecStart=`. `None` if it runs something else.
    pub(crate) options: Option<Sourced<Vec<OsString>>>,
    /// Device nodes of the host that the machine may use.
    pub(crate) devices: Vec<Sourced<PathBuf>>,
    /// `TimeoutStopSec=` of an administrator.
    pub(crate) stop_timeout: Option<Sourced<String>>,
    /// Whether `$SYSTEMD_SUPPRESS_SYNC` is set.
    pub(crate) suppress_sync: Option<Sourced<bool>>,
    /// Settings that the drop-in of Coracle replaces, without a loss for the machine.
    pub(crate) replaced: Vec<Sourced<String>>,
    /// Settings without an equal.
    pub(crate) lost: Vec<Sourced<String>>,
}

impl NspawnUnit {
    /// Reads the unit of a machine.
    ///
    /// # Errors
    /// The unit is missing or masked, or a file of it cannot be read.
    pub(crate) fn read(paths: &Paths, name: &Name) -> Result<Self> {
        let unit = ServiceTemplate::Nspawn.service(name);
        let file = find(paths, &[&unit, TEMPLATE]).ok_or_else(|| {
            Error::new(format!("the unit '{TEMPLATE}' is not installed"))
                .with_hint("install the package systemd-container")
        })?;
        if std::fs::read_link(&file).is_ok_and(|link| link == Path::new("/dev/null")) {
            return Err(Error::new(format!("the unit '{unit}' is masked"))
                .with_hint(format!("run 'systemctl unmask {unit}'")));
        }
        let drop_ins = drop_ins(paths, &unit)?;
        let mut reader = UnitReader { of_package: file.clone(), ..UnitReader::new(name) };
        for path in [&file].into_iter().chain(&drop_ins) {
            reader.read(path)?;
        }
        Ok(NspawnUnit { file, drop_ins, ..reader.finish() })
    }

    /// Iterates over its files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.file].into_iter().chain(&self.drop_ins).map(PathBuf::as_path)
    }
}

/// Returns the first file of these names, in the order of the directories.
fn find(paths: &Paths, names: &[&str]) -> Option<PathBuf> {
    let directories = paths.unit_directories();
    let files = names.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    files.into_iter().find(|file| file.symlink_metadata().is_ok())
}

/// Returns the drop-ins of the unit, of its template and of all services, ordered by file name. Of two files
/// of one name the first one counts.
fn drop_ins(paths: &Paths, unit: &str) -> Result<Vec<PathBuf>> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for of in [unit, TEMPLATE, "service"] {
        for directory in paths.unit_directories() {
            for (name, file) in definition_files::list(&directory.join(format!("{of}.d")), "conf")? {
                files.entry(name).or_insert(file);
            }
        }
    }
    // Written by the generator for a definition.
    files.remove(std::ffi::OsStr::new(crate::machine::unit_name::DROP_IN_OF_NSPAWN));
    // On a system with a merged /usr, one directory has two names.
    let mut seen = std::collections::BTreeSet::new();
    let is_new = |file: &PathBuf| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone()));
    Ok(files.into_values().filter(is_new).collect())
}

/// A walk over the files of a unit.
struct UnitReader<'a> {
    name: &'a Name,
    /// The unit file: its settings are those of the package.
    of_package: PathBuf,
    command: Option<Sourced<String>>,
    devices: Vec<Sourced<String>>,
    environment: Vec<Sourced<String>>,
    unit: NspawnUnit,
}

impl<'a> UnitReader<'a> {
    fn new(name: &'a Name) -> Self {
        Self {
            name,
            of_package: PathBuf::new(),
            command: None,
            devices: Vec::new(),
            environment: Vec::new(),
            unit: NspawnUnit::default(),
        }
    }

    fn read(&mut self, file: &Path) -> Result<()> {
        let context = || format!("cannot read '{}'", file.display());
        let open = definition_files::open(file).map_err(|error| Error::from(error).context(context()))?;
        let text = definition_files::bytes(open).map_err(|error| error.context(context()))?;
        let (assignments, _) = ini::read(file, &text, &SECTIONS);
        assignments.into_iter().for_each(|assignment| self.assignment(assignment));
        Ok(())
    }

    /// Returns whether a setting is in the unit file, not in a drop-in.
    fn is_of_package(&self, origin: &Origin) -> bool {
        matches!(origin, Origin::File { path, .. } if *path == self.of_package)
    }

    fn assignment(&mut self, Assignment { key, value, origin, .. }: Assignment) {
        let is_of_package = self.is_of_package(&origin);
        let sourced = |value: String| Sourced { value, origin: origin.clone() };
        match key.as_str() {
            // An empty value resets a list.
            "ExecStart" => self.command = (!value.is_empty()).then(|| sourced(value)),
            "DeviceAllow" if value.is_empty() => self.devices.clear(),
            "DeviceAllow" => self.devices.push(sourced(value)),
            "Environment" if value.is_empty() => self.environment.clear(),
            "Environment" => self.environment.push(sourced(value)),
            "ExecStopPost" if is_of_package || value.is_empty() => {}
            "ExecStopPost" => self.unit.lost.push(sourced(format!("{key}="))),
            "TimeoutStopSec" if !is_of_package => self.unit.stop_timeout = Some(sourced(value)),
            _ if !is_of_package && REPLACED.contains(&key.as_str()) => {
                self.unit.replaced.push(sourced(format!("{key}=")));
            }
            _ => {}
        }
    }

    fn finish(mut self) -> NspawnUnit {
        for Sourced { value, origin } in std::mem::take(&mut self.environment) {
            for word in ini::words(&value).unwrap_or_default() {
                self.variable(&word, &origin);
            }
        }
        for device in std::mem::take(&mut self.devices) {
            self.device(device);
        }
        match self.command.take() {
            Some(command) => self.command(command),
            None => self.unit.lost.push(Sourced { value: "ExecStart=".into(), origin: Origin::Default }),
        }
        self.unit
    }

    /// Reads a variable of the unit. All others stay in effect, for `ExecStartPre=`, for example.
    fn variable(&mut self, word: &str, origin: &Origin) {
        let Some((name, value)) = word.split_once('=') else { return };
        let is_of_nspawn = name.starts_with("SYSTEMD_NSPAWN_") || name == "SYSTEMD_SECCOMP";
        match (name, systemd_boolean(value)) {
            ("SYSTEMD_SUPPRESS_SYNC", Some(value)) => {
                self.unit.suppress_sync = Some(Sourced { value, origin: origin.clone() });
            }
            ("SYSTEMD_NSPAWN_LOCK" | "SYSTEMD_NSPAWN_USE_CGNS" | "SYSTEMD_SECCOMP", Some(true)) => {}
            _ if !is_of_nspawn || HARMLESS.contains(&name) => {}
            _ => {
                self.unit.lost.push(Sourced { value: format!("Environment={name}"), origin: origin.clone() })
            }
        }
    }

    /// Reads `NODE [rwm]`. A class or pattern of devices has no equal, except those that systemd-nspawn(1)
    /// uses.
    fn device(&mut self, Sourced { value, origin }: Sourced<String>) {
        let node = value.split_ascii_whitespace().next().unwrap_or_default();
        if OWN_DEVICES.contains(&node) {
            return;
        }
        if !node.starts_with("/dev/") || node.contains(['*', '?', '[']) {
            let value = format!("DeviceAllow={node}");
            return self.unit.lost.push(Sourced { value, origin });
        }
        self.unit.devices.push(Sourced { value: node.into(), origin });
    }

    /// Reads the command of `ExecStart=`.
    fn command(&mut self, Sourced { value, origin }: Sourced<String>) {
        let lost = |value: String| Sourced { value, origin: origin.clone() };
        let words = match command::words(&value, self.name) {
            Ok(words) => words,
            Err(error) => return self.unit.lost.push(lost(format!("ExecStart=: {error}"))),
        };
        if !self.is_of_package(&origin) {
            // Its options are settings of the machine.
            self.unit.replaced.push(lost("ExecStart=".to_owned()));
        }
        let command::OptionWords { options, properties } = command::sort(words);
        for property in properties {
            match property.strip_prefix("DeviceAllow=") {
                Some(device) => self.device(Sourced { value: device.to_owned(), origin: origin.clone() }),
                None => self.unit.lost.push(lost(format!("--property={property}"))),
            }
        }
        let options = options.into_iter().map(OsString::from).collect();
        self.unit.options = Some(Sourced { value: options, origin });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE_TEXT: &str = "[Service]\nExecStart=systemd-nspawn --quiet --keep-unit --boot \
        --link-journal=try-guest --network-veth -U --settings=override --machine=%i\n\
        ExecStopPost=systemd-nspawn --cleanup --machine=%i\nWatchdogSec=3min\n\
        DeviceAllow=/dev/net/tun rwm\nDeviceAllow=char-pts rw\nDeviceAllow=/dev/loop-control rw\n";

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let template = ("usr/lib/systemd/system/systemd-nspawn@.service", TEMPLATE_TEXT);
        for (file, text) in [template].iter().chain(files) {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let paths = Paths::below(root.path());
        (root, paths)
    }

    fn read(files: &[(&str, &str)]) -> NspawnUnit {
        let (_root, paths) = host(files);
        NspawnUnit::read(&paths, &Name::new("web").unwrap()).unwrap()
    }

    fn values(list: &[Sourced<String>]) -> Vec<&str> {
        list.iter().map(|sourced| sourced.value.as_str()).collect()
    }

    #[test]
    fn the_template_has_options_and_no_losses() {
        let unit = read(&[]);
        let options: Vec<_> =
            unit.options.as_ref().unwrap().value.iter().map(|word| word.to_str().unwrap()).collect();
        let expected = [
            "--quiet",
            "--keep-unit",
            "--boot",
            "--link-journal=try-guest",
            "--network-veth",
            "-U",
            "--settings=override",
            "--machine=web",
        ];
        assert_eq!(options, expected);
        assert_eq!(unit.devices.len(), 1);
        assert_eq!((unit.lost.len(), unit.replaced.len()), (0, 0));
    }

    #[test]
    fn drop_ins_apply_in_the_order_of_their_names() {
        let unit = read(&[
            (
                "etc/systemd/system/systemd-nspawn@web.service.d/b.conf",
                "[Service]\nExecStart=\nExecStart=-/usr/bin/systemd-nspawn -b -M %i \"--bind=/a b\"\n",
            ),
            (
                "run/systemd/system/systemd-nspawn@.service.d/a.conf",
                "[Service]\nExecStart=\nExecStart=/bin/false\nDeviceAllow=/dev/dri/card0 rw\n",
            ),
            ("usr/lib/systemd/system/systemd-nspawn@web.service.d/b.conf", "[Service]\nExecStart=\n"),
            ("run/systemd/generator/systemd-nspawn@web.service.d/zz-coracle.conf", "[Service]\nExecStart=\n"),
            (
                "run/systemd/system/service.d/c.conf",
                "[Unit]\nStartLimitIntervalSec=3\n[Service]\nWatchdogSec=1\nTimeoutStopSec=5min\nMemoryMax=1G\n",
            ),
        ]);
        assert_eq!(unit.drop_ins.len(), 3);
        let options = unit.options.unwrap();
        assert_eq!(options.value, ["-b", "-M", "web", "--bind=/a b"]);
        assert!(options.origin.to_string().ends_with("systemd-nspawn@web.service.d/b.conf:3"));
        assert_eq!(unit.devices[1].value, Path::new("/dev/dri/card0"));
        assert_eq!(values(&unit.replaced), ["StartLimitIntervalSec=", "WatchdogSec=", "ExecStart="]);
        assert_eq!(unit.stop_timeout.unwrap().value, "5min");
        assert_eq!(unit.lost, []);
    }

    #[test]
    fn settings_without_an_equal_are_listed() {
        let unit = read(&[(
            "etc/systemd/system/systemd-nspawn@web.service.d/a.conf",
            "[Service]\nExecStopPost=/bin/hook\nDeviceAllow=char-usb_device\nEnvironment=A=b SYSTEMD_SECCOMP=0 SYSTEMD_SUPPRESS_SYNC=1\n\
             Environment=SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes SYSTEMD_NSPAWN_LOCK=1\n\
             ExecStart=\nExecStart=systemd-nspawn -bj --property=DeviceAllow=/dev/kvm --property CPUWeight=3 --link-journal=host\n",
        )]);
        assert_eq!(
            values(&unit.lost),
            [
                "ExecStopPost=",
                "Environment=SYSTEMD_SECCOMP",
                "Environment=SYSTEMD_NSPAWN_API_VFS_WRITABLE",
                "DeviceAllow=char-usb_device",
                "--property=CPUWeight=3"
            ]
        );
        assert_eq!(values(&unit.replaced), ["ExecStart="]);
        assert_eq!(unit.devices.last().unwrap().value, Path::new("/dev/kvm"));
        assert!(unit.suppress_sync.unwrap().value);
        for command in [
            "/usr/bin/env systemd-nspawn -b",
            "systemd-nspawn -b $OPTIONS",
            "systemd-nspawn %x",
            "a\\ b",
            "'",
        ] {
            let text = format!("[Service]\nExecStart=\nExecStart={command}\n");
            let unit = read(&[("etc/systemd/system/systemd-nspawn@web.service", &text)]);
            assert!(unit.lost[0].value.starts_with("ExecStart=: "), "{command}");
        }
    }

    #[test]
    fn a_missing_or_masked_unit_is_an_error() {
        let (root, paths) = host(&[]);
        let name = Name::new("web").unwrap();
        let etc = root.path().join("etc/systemd/system");
        std::fs::create_dir_all(&etc).unwrap();
        std::os::unix::fs::symlink("/dev/null", etc.join("systemd-nspawn@web.service")).unwrap();
        assert!(NspawnUnit::read(&paths, &name).unwrap_err().to_string().contains("is masked"));
        let empty = tempfile::tempdir().unwrap();
        let missing = NspawnUnit::read(&Paths::below(empty.path()), &name).unwrap_err();
        assert!(missing.to_string().contains("is not installed"), "{missing}");
    }
}
