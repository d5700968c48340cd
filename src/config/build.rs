//! Build sessions: the preset of a session and the options of its caller, over the defaults of a machine.
//! Called by `run`.

use super::definition_files::Files;
use super::layer::{Layer, Origin, Setting};
use super::mounts::MountEntry;
use super::nspawn::SettingsMode;
use super::profile::Profile;
use super::sources::Sources;
use super::values::{RawValue, Size, Value};
use super::{Resolved, resolve};
use crate::error::{Error, Result, nearest};
use crate::image::find;
use crate::machine::build_cache::PackageCache;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The preset: key and value of each setting.
const PRESET: [(&str, &str); 4] = [
    ("identity.hostname", "localhost"),
    ("network.hosts", "off"),
    ("resources.tasks-max", "16384"),
    ("slice", "coracle-build.slice"),
];

/// The options that are settings: the key of each.
const FLAGS: [(&str, &str); 6] = [
    ("--users=", "users.private"),
    ("--memory-max=", "resources.memory-max"),
    ("--cpu-quota=", "resources.cpu-quota"),
    ("--tasks-max=", "resources.tasks-max"),
    ("--io-weight=", "resources.io-weight"),
    ("--cpus=", "resources.cpu-affinity"),
];

/// The network of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BuildNetwork {
    /// A loopback interface only, without a route.
    #[default]
    None,
    /// That of the host.
    Host,
    /// A link to the host, which translates the addresses.
    Nat,
}

/// A directory or file of the host in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BuildBind {
    /// Its path on the host, absolute.
    pub(crate) source: PathBuf,
    /// Its path inside, absolute.
    pub(crate) target: PathBuf,
    /// Whether it is read-only inside.
    pub(crate) read_only: bool,
}

/// The options of a session that are settings of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BuildOptions {
    /// The base: the name of an image, or a path.
    pub(crate) base: String,
    /// The network.
    pub(crate) network: BuildNetwork,
    /// Whether the init of the base is booted.
    #[serde(default)]
    pub(crate) boots: bool,
    /// Whether changes are in memory.
    pub(crate) in_memory: bool,
    /// Whether the session is registered with systemd-machined.
    pub(crate) registers: bool,
    /// Further settings: the key and the value of each.
    pub(crate) settings: Vec<(String, String)>,
    /// Directories and files of the host.
    pub(crate) binds: Vec<BuildBind>,
    /// Caches of packages.
    pub(crate) caches: Vec<PackageCache>,
}

/// Parses a duration of the command line, for example `90m`.
///
/// # Errors
/// An invalid duration.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    Duration::read(&RawValue::Text(text))
}

/// Parses a size of the command line, in bytes, for example `4G`.
///
/// # Errors
/// An invalid size.
pub(crate) fn size(text: &str) -> Result<u64> {
    Size::read(&RawValue::Text(text)).map(|size| size.0)
}

/// Returns the source of a base.
///
/// # Errors
/// A base that does not exist.
pub(crate) fn base(paths: &Paths, base: &str) -> Result<RootSource> {
    if base.contains('/') {
        let path = Path::new(base)
            .canonicalize()
            .map_err(|error| Error::from(error).context(format!("cannot find the base '{base}'")))?;
        return Ok(RootSource::of_path(path));
    }
    let found = Name::new(base).ok().and_then(|name| find::by_name(paths, &name));
    found.ok_or_else(|| {
        let error = Error::new(format!("the base '{base}' does not exist"));
        let names = find::names(paths);
        match nearest(base, names.iter().map(Name::as_str)) {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint(format!(
                "create it, for example with 'mmdebstrap --variant=buildd trixie {}', or name a directory",
                paths.images().join(base).display()
            )),
        }
    })
}

/// Returns the first part of the names of the sessions of a base.
pub(crate) fn stem(source: &RootSource) -> String {
    let file = source.path().file_name().unwrap_or_default().to_string_lossy();
    let file = [".mstack", ".raw"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(&file).to_owned();
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-';
    let fit: String = file.chars().filter(fits).take(40).collect();
    let fit = fit.trim_matches('-');
    if fit.is_empty() { "build".to_owned() } else { fit.to_owned() }
}

/// Returns the machine of a session with this name.
///
/// # Errors
/// All invalid options as one error.
pub(crate) fn session(
    paths: &Paths,
    name: &Name,
    source: &RootSource,
    options: &BuildOptions,
) -> Result<Resolved> {
    let mut layer = Layer::default();
    let (root, path) = (&mut layer.root, source.path().to_owned());
    match source {
        RootSource::Directory(_) => root.directory.set(path, Origin::Flag("BASE")),
        RootSource::Stack(_) => root.stack.set(path, Origin::Flag("BASE")),
        RootSource::Image(_) => root.image.set(path, Origin::Flag("BASE")),
    }
    let mut flags: Vec<(&'static str, &'static str, &str)> = vec![
        ("--memory", "root.ephemeral", if options.in_memory { "memory" } else { "disk" }),
        ("--register", "register", if options.registers { "yes" } else { "no" }),
        ("--network=", "network.mode", mode(options.network)),
        ("--network=", "network.resolv-conf", resolv_conf(options.network)),
        ("--boot", "console", if options.boots { "journal" } else { "pipe" }),
    ];
    if !options.boots {
        // A session that reboots would lose its commands.
        flags.push(("coracle build", "security.capabilities.drop", "CAP_SYS_BOOT"));
    }
    let preset = PRESET.iter().map(|(key, value)| ("coracle build", *key, *value));
    let flag =
        |key: &str| FLAGS.iter().find(|(_, known)| *known == key).map_or("coracle build", |(flag, _)| flag);
    let further = options.settings.iter().map(|(key, value)| (flag(key), key.as_str(), value.as_str()));
    for (flag, key, value) in preset.chain(flags).chain(further) {
        let setting = Setting::find(key).ok_or_else(|| Error::new(format!("there is no setting '{key}'")))?;
        layer
            .set(setting, &RawValue::Text(value), Origin::Flag(flag))
            .map_err(|error| Error::usage(error.context(format!("'{flag}{value}'")).to_string()))?;
    }
    for bind in &options.binds {
        layer.mounts.entries.push(MountEntry::of_build(bind), Origin::Flag("--bind="));
    }
    for mount in options.caches.iter().flat_map(|cache| MountEntry::of_cache(cache, options.in_memory)) {
        layer.mounts.entries.push(mount, Origin::Flag("--cache="));
    }
    layer.command.boot.set(options.boots, Origin::Flag("--boot"));
    layer.unit.keep_unit.set(false, Origin::Default);
    let (files, profile) = (Files::default(), Profile::Foreground);
    let sources = Sources { paths, name, options: layer, files: &files, settings: SettingsMode::No, profile };
    resolve(sources, name, &format!("cannot create a session of '{}'", options.base))
}

fn mode(network: BuildNetwork) -> &'static str {
    match network {
        BuildNetwork::None => "none",
        BuildNetwork::Host => "host",
        BuildNetwork::Nat => "veth",
    }
}

/// Returns the handling of resolv.conf(5). Without a network, the session gets an empty file.
fn resolv_conf(network: BuildNetwork) -> &'static str {
    match network {
        BuildNetwork::None => "off",
        BuildNetwork::Host => "replace-host",
        BuildNetwork::Nat => "auto",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_base() {
        for (path, name) in [
            ("/var/lib/machines/trixie", "trixie"),
            ("/srv/a b_c.mstack", "abc"),
            ("/srv/deb-13.raw", "deb-13"),
            ("/srv/...", "build"),
        ] {
            assert_eq!(stem(&RootSource::of_path(path.into())), name);
        }
    }

    #[test]
    fn every_option_is_a_setting() {
        for key in PRESET.map(|(key, _)| key).into_iter().chain(FLAGS.map(|(_, key)| key)) {
            assert!(Setting::find(key).is_some(), "{key}");
        }
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("trixie-abcdef").unwrap();
        let source = RootSource::Directory("/srv/trixie".into());
        for network in [BuildNetwork::None, BuildNetwork::Host, BuildNetwork::Nat] {
            let options = BuildOptions { base: "trixie".into(), network, ..BuildOptions::default() };
            let machine = session(&paths, &name, &source, &options).unwrap().machine;
            assert_eq!(machine.slice.as_deref(), Some("coracle-build.slice"));
            assert!(machine.root.is_shared() && !machine.keep_unit);
        }
        let settings = vec![("resources.memory-max".to_owned(), "much".to_owned())];
        let options = BuildOptions { base: "trixie".into(), settings, ..BuildOptions::default() };
        let error = session(&paths, &name, &source, &options).unwrap_err();
        assert!(error.to_string().contains("--memory-max=much"), "{error}");
    }
}
