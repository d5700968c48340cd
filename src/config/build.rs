//! Build sessions: the preset of a session, its definition and the options of its caller, over the defaults of a
//! machine. Called by `run`.

pub(crate) mod definition;
pub(crate) mod settings;

use super::layer::{Layer, Origin, Setting};
use super::mounts::MountEntry;
use super::problem::{self, Problem};
use super::profile::Profile;
use super::resolve::{Resolved, resolve};
use super::values::{RawValue, Size, Value};
use crate::error::{Error, Result, nearest};
use crate::image::find;
use crate::machine::build_cache::PackageCache;
use crate::machine::name::Name;
use crate::machine::network::Mode;
use crate::machine::root::RootSource;
use crate::machine::users::Users;
use crate::paths::Paths;
use definition::Definition;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The preset: key and value of each setting that neither the definition nor the caller chooses.
const PRESET: [(&str, &str); 6] = [
    ("identity.hostname", "localhost"),
    ("network.hosts", "off"),
    ("resources.tasks-max", "16384"),
    ("slice", "coracle-build.slice"),
    ("register", "no"),
    ("users.private", "pick"),
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
    /// The base: the name of a definition or an image, or a path.
    pub(crate) base: String,
    /// Whether the base is a definition.
    #[serde(default)]
    pub(crate) is_defined: bool,
    /// The network. `None` for that of the definition, or none.
    #[serde(default)]
    pub(crate) network: Option<BuildNetwork>,
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

/// Returns the definition of a base. `None` for an image, a path, or a base that does not exist.
///
/// # Errors
/// A definition that cannot be used.
pub(crate) fn definition(paths: &Paths, base: &str) -> Result<Option<Definition>> {
    match Name::new(base) {
        Ok(name) if !base.contains('/') => Definition::find(paths, &name),
        _ => Ok(None),
    }
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
    if let Some(definition) = definition(paths, base)? {
        return definition.source(paths);
    }
    let found = Name::new(base).ok().and_then(|name| find::by_name(paths, &name));
    found.ok_or_else(|| {
        let error = Error::new(format!("the base '{base}' does not exist"));
        let mut names = find::names(paths);
        names.extend(definition::names(paths).map(|(names, _)| names).unwrap_or_default());
        match nearest(base, names.iter().map(Name::as_str)) {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint(format!(
                "create it, for example with 'mmdebstrap --variant=buildd trixie {}', or name a directory",
                paths.images().join(base).display()
            )),
        }
    })
}

/// Returns the first part of the names of the sessions of a base: that of its definition, or of its file.
pub(crate) fn stem(definition: Option<&str>, source: &RootSource) -> String {
    let file = source.path().file_name().unwrap_or_default().to_string_lossy();
    let file = [".mstack", ".raw"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(&file);
    let file = definition.unwrap_or(file);
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
    definition: Option<&Definition>,
) -> Result<Resolved> {
    let layer = layer(source, options, definition)?;
    let context = || match definition {
        Some(definition) => definition::context(&definition.name),
        None => format!("cannot create a session of '{}'", options.base),
    };
    let resolved = resolve(paths, name, layer, Profile::Foreground);
    let refused = |errors: Vec<Error>| {
        let problems: Vec<Problem> = errors.iter().map(|error| Problem::new(None, error)).collect();
        problem::combined(&context(), &problems)
    };
    let resolved = resolved.map_err(refused)?;
    let exposes = definition.is_some_and(|definition| definition.settings.expose.value() == Some(&true));
    if exposes {
        refuse_exposed(&resolved).map_err(|error| error.context(context()))?;
    }
    Ok(resolved)
}

/// Refuses a session whose root is to have a path on the host, where its files would have the owners of a range.
fn refuse_exposed(resolved: &Resolved) -> Result<()> {
    if matches!(resolved.machine.users, Users::Host | Users::Identity) {
        return Ok(());
    }
    Err(Error::new("build.expose requires the user ids of the host")
        .with_hint("set users.private = \"identity\" or \"no\", or pass --users="))
}

/// Returns the settings of a session: the options over the definition over the preset.
fn layer(source: &RootSource, options: &BuildOptions, definition: Option<&Definition>) -> Result<Layer> {
    let mut layer = Layer::default();
    let (root, path) = (&mut layer.root, source.path().to_owned());
    match source {
        RootSource::Directory(_) => root.directory.set(path, Origin::Flag("BASE")),
        RootSource::Stack(_) => root.stack.set(path, Origin::Flag("BASE")),
        RootSource::Image(_) => root.image.set(path, Origin::Flag("BASE")),
    }
    let mut flags: Vec<(&'static str, &'static str, &str)> = vec![
        ("--memory", "root.ephemeral", if options.in_memory { "memory" } else { "disk" }),
        ("--boot", "console", if options.boots { "journal" } else { "pipe" }),
    ];
    if options.registers {
        flags.push(("--register", "register", "yes"));
    }
    if let Some(network) = options.network {
        flags.push(("--network=", "network.mode", mode(network)));
    }
    if !options.boots {
        // A session that reboots would lose its commands.
        flags.push(("coracle build", "security.capabilities.drop", "CAP_SYS_BOOT"));
    }
    let flag =
        |key: &str| FLAGS.iter().find(|(_, known)| *known == key).map_or("coracle build", |(flag, _)| flag);
    let further = options.settings.iter().map(|(key, value)| (flag(key), key.as_str(), value.as_str()));
    flags.into_iter().chain(further).try_for_each(|(flag, key, value)| set(&mut layer, flag, key, value))?;
    for bind in &options.binds {
        layer.mounts.entries.push(MountEntry::of_build(bind), Origin::Flag("--bind="));
    }
    for mount in options.caches.iter().flat_map(|cache| MountEntry::of_cache(cache, options.in_memory)) {
        layer.mounts.entries.push(mount, Origin::Flag("--cache="));
    }
    layer.command.boot.set(options.boots, Origin::Flag("--boot"));
    layer.unit.keep_unit.set(false, Origin::Default);
    let mut preset = Layer::default();
    PRESET.iter().try_for_each(|(key, value)| set(&mut preset, "coracle build", key, value))?;
    layer = layer.over(definition.map_or_else(Layer::default, |definition| definition.layer.clone()));
    layer = layer.over(preset);
    if options.network.is_none() && !definition.is_some_and(Definition::has_network) {
        set(&mut layer, "coracle build", "network.mode", mode(BuildNetwork::None))?;
    }
    if layer.network.resolv_conf.value().is_none() {
        let resolver = resolv_conf(layer.network.mode.value().copied());
        set(&mut layer, "coracle build", "network.resolv-conf", resolver)?;
    }
    Ok(layer)
}

fn set(layer: &mut Layer, flag: &'static str, key: &str, value: &str) -> Result<()> {
    let setting = Setting::find(key).ok_or_else(|| Error::new(format!("there is no setting '{key}'")))?;
    layer
        .set(setting, &RawValue::Text(value), Origin::Flag(flag))
        .map_err(|error| Error::usage(error.context(format!("'{flag}{value}'")).to_string()))
}

/// Returns the machine of a definition without options, for a check.
///
/// # Errors
/// All invalid settings.
pub(super) fn check(paths: &Paths, definition: &Definition) -> std::result::Result<Resolved, Vec<Error>> {
    let options = BuildOptions { base: definition.name.to_string(), ..BuildOptions::default() };
    let source = definition.planned_source(paths);
    let layer = layer(&source, &options, Some(definition)).map_err(|error| vec![error])?;
    let resolved = resolve(paths, &definition.name, layer, Profile::Foreground)?;
    match definition.settings.expose.value() {
        Some(true) => refuse_exposed(&resolved).map(|()| resolved).map_err(|error| vec![error]),
        _ => Ok(resolved),
    }
}

fn mode(network: BuildNetwork) -> &'static str {
    match network {
        BuildNetwork::None => "none",
        BuildNetwork::Host => "host",
        BuildNetwork::Nat => "veth",
    }
}

/// Returns the handling of resolv.conf(5). Without a network, the session gets an empty file.
fn resolv_conf(network: Option<Mode>) -> &'static str {
    match network {
        Some(Mode::None) => "off",
        Some(Mode::Host) => "replace-host",
        _ => "auto",
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
            assert_eq!(stem(None, &RootSource::of_path(path.into())), name);
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
        for network in [None, Some(BuildNetwork::Host), Some(BuildNetwork::Nat)] {
            let options = BuildOptions { base: "trixie".into(), network, ..BuildOptions::default() };
            let machine = session(&paths, &name, &source, &options, None).unwrap().machine;
            assert_eq!(machine.slice.as_deref(), Some("coracle-build.slice"));
            assert!(machine.root.is_shared() && !machine.keep_unit);
        }
        let settings = vec![("resources.memory-max".to_owned(), "much".to_owned())];
        let options = BuildOptions { base: "trixie".into(), settings, ..BuildOptions::default() };
        let error = session(&paths, &name, &source, &options, None).unwrap_err();
        assert!(error.to_string().contains("--memory-max=much"), "{error}");
    }

    /// Returns the machine of a definition with this text, with options.
    fn defined(text: &str, options: BuildOptions) -> Result<crate::machine::Machine> {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.images().join("sid")).unwrap();
        let directory = &paths.build_definitions()[0];
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("sid.toml"), text).unwrap();
        let definition = definition(&paths, "sid")?.unwrap();
        let source = definition.source(&paths)?;
        let name = Name::new("sid-abcdef").unwrap();
        Ok(*session(&paths, &name, &source, &options, Some(&definition))?.machine)
    }

    #[test]
    fn a_definition_is_between_the_preset_and_the_options() {
        let text = "[network]\nmode = 'host'\n[resources]\nmemory-max = '4G'\ntasks-max = 99\n\
                    [users]\nprivate = 'identity'\n[identity]\nhostname = 'builder'\n[build]\nexpose = true\n";
        let machine = defined(text, BuildOptions::default()).unwrap();
        assert_eq!((machine.network.mode, machine.users), (Mode::Host, Users::Identity));
        assert_eq!(machine.slice.as_deref(), Some("coracle-build.slice"));
        assert!(machine.root.is_shared());
        let settings = vec![("users.private".to_owned(), "no".to_owned())];
        let options = BuildOptions { network: Some(BuildNetwork::None), settings, ..BuildOptions::default() };
        let machine = defined(text, options).unwrap();
        assert_eq!((machine.network.mode, machine.users), (Mode::None, Users::Host));
        let options = BuildOptions {
            settings: vec![("users.private".to_owned(), "pick".to_owned())],
            ..BuildOptions::default()
        };
        let error = defined(text, options).unwrap_err();
        assert!(error.to_string().contains("build.expose"), "{error}");
    }

    #[test]
    fn a_zone_of_a_definition_is_its_network() {
        let machine = defined("[network]\nzone = 'lan'\n", BuildOptions::default()).unwrap();
        assert_eq!(machine.network.mode, Mode::Zone);
        assert_eq!(defined("[root]\n", BuildOptions::default()).unwrap().network.mode, Mode::None);
    }
}
