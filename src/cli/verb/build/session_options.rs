//! The options of a session, of `begin` and `once`.

use super::session_mounts::{bind, cache, read, refuse_doubles, result, text};
use crate::ask::Options;
use crate::config::build::definition::Definition;
use crate::config::build::settings::{BuildSettings, CacheDirectory, ResultsDirectory, UserName, escaped};
use crate::config::build::{self, BuildBind, BuildNetwork, BuildOptions, size};
use crate::config::values::{RawValue, Value};
use crate::control::build::caller::{Caller, caller};
use crate::error::{Context, Error, Result};
use crate::machine::build::{Build, BuildUser};
use crate::machine::build_cache::PackageCache;
use crate::machine::name::Name;
use crate::machine::size::rounded;
use crate::paths::Paths;
use crate::run::session::{SessionRequest, memory};
use clap::{Args, ValueEnum};
use std::time::Duration;

/// The options of a session.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct SessionOptions {
    /// The base: the name of a definition in build.d or of an image, or a path with a slash
    #[arg(value_name = "BASE")]
    base: String,

    /// The name of the session; BASE and six random digits by default
    #[arg(long, value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,

    /// The build user, who is created if the base does not have it; the caller by default
    #[arg(long, value_name = "NAME[:UID]")]
    user: Option<String>,

    /// The ids of its users: a range of their own (default), or those of the host with or without a user namespace
    #[arg(long, value_name = "USERS", value_enum)]
    users: Option<SessionUsers>,

    /// Its network: a loopback interface only (default), that of the host, or a link with address translation
    #[arg(long, value_name = "NETWORK", value_enum)]
    network: Option<SessionNetwork>,

    /// Boot the init of the base, and wait until it is ready
    #[arg(long)]
    boot: bool,

    /// Keep changes in memory instead of on the disk, up to this size; half of the memory of the host by default
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    memory: Option<String>,

    /// Write changes to the disk when a command requests it, for example by fsync(2)
    #[arg(long, conflicts_with = "memory")]
    sync: bool,

    /// Register the session with systemd-machined
    #[arg(long)]
    register: bool,

    /// Bind a directory or file; the files of the caller belong to the build user inside
    #[arg(long, value_name = "SRC[:DST[:ro]]")]
    bind: Vec<String>,

    /// Bind a directory for results, whose files belong to the caller at the end; /results by default
    #[arg(long, value_name = "DIR[:INSIDE]")]
    results: Vec<String>,

    /// Share downloaded packages with other sessions; in /var/cache/coracle/MANAGER by default
    #[arg(long, value_name = "MANAGER[:DIR]")]
    cache: Vec<String>,

    /// End the session after this time, for example 2h
    #[arg(long, value_name = "TIME", value_parser = crate::config::build::duration)]
    lifetime: Option<Duration>,

    /// End the session with this process
    #[arg(long = "while", value_name = "PID")]
    with_process: Option<u32>,

    /// The limit of memory, for example 4G
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<String>,

    /// The limit of processor time, for example 200% for two processors
    #[arg(long, value_name = "PERCENT")]
    cpu_quota: Option<String>,

    /// The limit of tasks; 16384 by default
    #[arg(long, value_name = "COUNT")]
    tasks_max: Option<String>,

    /// The weight of disk accesses, 1 to 10000
    #[arg(long, value_name = "WEIGHT")]
    io_weight: Option<String>,

    /// The processors, for example 0-3
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,

    /// What the caller is used to, unless the definition of the base chooses it.
    #[arg(skip)]
    usual: UsualOptions,
}

/// Options that neither the caller nor a definition has chosen.
#[derive(Debug, Clone, Copy, Default)]
struct UsualOptions {
    network: Option<SessionNetwork>,
    user: Option<&'static str>,
}

/// The user of a testbed of root.
const TESTER: &str = "tester";

/// The ids of the users of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SessionUsers {
    /// A range of their own.
    Pick,
    /// Those of the host, in a user namespace.
    Identity,
    /// Those of the host.
    No,
}

/// The network of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SessionNetwork {
    /// A loopback interface only.
    None,
    /// That of the host.
    Host,
    /// A link to the host with address translation.
    Nat,
}

impl SessionOptions {
    /// Chooses what a testbed has by default: a network, and a user without privileges.
    pub(in crate::cli) fn for_testbed(mut self) -> Self {
        let network = if self.boot { SessionNetwork::Nat } else { SessionNetwork::Host };
        let user = (caller().ids.0 == 0).then_some(TESTER);
        self.usual = UsualOptions { network: Some(network), user };
        self
    }

    /// Returns those of a session of schroot(1), which has the network of the host by default.
    pub(in crate::cli) fn of_schroot(base: &str, name: Option<Name>) -> Self {
        let usual = UsualOptions { network: Some(SessionNetwork::Host), user: None };
        Self { base: base.to_owned(), name, usual, ..Self::default() }
    }

    /// Returns whether the init of the base is booted.
    pub(in crate::cli) fn boots(&self) -> bool {
        self.boot
    }

    /// Returns whether files of the host are bound.
    pub(super) fn has_binds(&self) -> bool {
        !self.bind.is_empty()
    }

    /// Binds the working directory of the caller.
    ///
    /// # Errors
    /// A working directory that has been removed.
    pub(super) fn bind_working_directory(&mut self, target: &str) -> Result<()> {
        let here = std::env::current_dir().context(|| "cannot find the working directory")?;
        self.bind.push(format!("{}:{target}", escaped(&text(&here)?)));
        Ok(())
    }

    /// Returns the base and the options of a request for the service. Only root binds files of the host, and gives a
    /// session the ids or the network of the host.
    ///
    /// # Errors
    /// Such an option, or a base that is not the name of an image.
    pub(super) fn ask_options(&self) -> Result<(Name, Options)> {
        let refused = [
            ("--bind=", !self.bind.is_empty()),
            ("--results=", !self.results.is_empty()),
            ("--cache=", !self.cache.is_empty()),
            ("--while=", self.with_process.is_some()),
            ("--users=", !matches!(self.users, None | Some(SessionUsers::Pick))),
            ("--network=host", matches!(self.network, Some(SessionNetwork::Host))),
        ];
        let root = |what: &str| Error::new(format!("{what} needs root")).with_hint("run it with sudo(8)");
        if let Some((option, _)) = refused.iter().find(|(_, is_set)| *is_set) {
            return Err(root(option));
        }
        let base = Name::new(&self.base).map_err(|_| root("a session on a path"))?;
        let network = self.network.map(|network| match network {
            SessionNetwork::None | SessionNetwork::Host => "none",
            SessionNetwork::Nat => "nat",
        });
        let lifetime = self.lifetime.map(|lifetime| format!("{}s", lifetime.as_secs()));
        let options = Options::default()
            .with_text("name", self.name.as_ref().map(Name::as_str))
            .with_text("user", self.user.as_deref())
            .with_text("network", network)
            .with_flag("boot", self.boot)
            .with_text("memory", self.memory.as_deref())
            .with_flag("sync", self.sync)
            .with_flag("register", self.register)
            .with_text("memory-max", self.memory_max.as_deref())
            .with_text("cpu-quota", self.cpu_quota.as_deref())
            .with_text("tasks-max", self.tasks_max.as_deref())
            .with_text("io-weight", self.io_weight.as_deref())
            .with_text("cpus", self.cpus.as_deref())
            .with_text("lifetime", lifetime.as_deref());
        Ok((base, options))
    }

    /// Returns the session to begin.
    ///
    /// # Errors
    /// An invalid option, a definition that cannot be used, or a path that does not exist.
    pub(in crate::cli) fn request(&self, paths: &Paths) -> Result<SessionRequest> {
        let caller = caller();
        let definition = build::definition(paths, &self.base)?;
        let settings = definition.as_ref().map_or_else(BuildSettings::default, |one| one.settings.clone());
        let mut binds: Vec<BuildBind> = self.bind.iter().map(|text| bind(text)).collect::<Result<_>>()?;
        let mut results = Vec::new();
        for wanted in self.results(&settings)? {
            let bound = result(&wanted, &caller)?;
            results.push(bound.source.clone());
            binds.push(bound);
        }
        refuse_doubles(&binds)?;
        let caches: Vec<PackageCache> = self.caches(&settings)?.iter().map(cache).collect::<Result<_>>()?;
        let options = BuildOptions {
            base: self.base.clone(),
            is_defined: definition.is_some(),
            network: self.network(definition.as_ref()),
            boots: self.boot,
            in_memory: self.memory.is_some()
                || !self.sync && definition.as_ref().is_some_and(Definition::is_in_memory),
            registers: self.register,
            settings: self.settings(),
            binds,
            caches: caches.clone(),
        };
        let memory_size = self.memory.as_deref().filter(|text| !text.is_empty()).map(memory_size);
        let build = Build {
            base: self.base.clone(),
            user: self.user(&settings, caller)?,
            results,
            caches,
            is_synced: self.sync,
            memory_size: memory_size.transpose()?,
            is_exposed: settings.expose.value() == Some(&true),
        };
        Ok(SessionRequest {
            name: self.name.clone(),
            options,
            build,
            lifetime: self.lifetime.or(settings.lifetime.value().copied()),
            with_processes: self.with_process.into_iter().collect(),
            is_of_user: false,
        })
    }

    /// Returns the options that are settings of a machine: the key and the value of each.
    fn settings(&self) -> Vec<(String, String)> {
        let users = self.users.map(|users| match users {
            SessionUsers::Pick => "pick".to_owned(),
            SessionUsers::Identity => "identity".to_owned(),
            SessionUsers::No => "no".to_owned(),
        });
        let given = [
            ("users.private", &users),
            ("resources.memory-max", &self.memory_max),
            ("resources.cpu-quota", &self.cpu_quota),
            ("resources.tasks-max", &self.tasks_max),
            ("resources.io-weight", &self.io_weight),
            ("resources.cpu-affinity", &self.cpus),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))).collect()
    }

    /// Returns the network. `None` for that of the definition, or none.
    fn network(&self, definition: Option<&Definition>) -> Option<BuildNetwork> {
        let usual = self.usual.network.filter(|_| !definition.is_some_and(Definition::has_network));
        self.network.or(usual).map(|network| match network {
            SessionNetwork::None => BuildNetwork::None,
            SessionNetwork::Host => BuildNetwork::Host,
            SessionNetwork::Nat => BuildNetwork::Nat,
        })
    }

    /// Returns the build user: that of the caller's options, of the definition, or the caller.
    fn user(&self, settings: &BuildSettings, caller: Caller) -> Result<BuildUser> {
        let read = |text: &str| read("--user=", text, |text| UserName::read(&RawValue::Text(text)));
        let user = match (&self.user, settings.user.value(), self.usual.user) {
            (Some(text), ..) => read(text)?,
            (None, Some(user), _) => user.clone(),
            (None, None, Some(user)) => read(user)?,
            (None, None, None) => UserName { name: caller.name, uid: None },
        };
        Ok(BuildUser { name: user.name, uid: user.uid, caller: caller.ids })
    }

    /// Returns the directories of results: those of the definition, and those of the caller in the place of or
    /// beside them.
    fn results(&self, settings: &BuildSettings) -> Result<Vec<ResultsDirectory>> {
        let given = self.results.iter().map(|text| read("--results=", text, ResultsDirectory::parse));
        let given: Vec<ResultsDirectory> = given.collect::<Result<_>>()?;
        let is_kept = |one: &&ResultsDirectory| given.iter().all(|other| other.target != one.target);
        let kept: Vec<_> = settings.results.values().filter(is_kept).cloned().collect();
        Ok([kept, given].concat())
    }

    /// Returns the caches: those of the definition, and those of the caller in the place of or beside them.
    fn caches(&self, settings: &BuildSettings) -> Result<Vec<CacheDirectory>> {
        let given = self.cache.iter().map(|text| read("--cache=", text, CacheDirectory::parse));
        let given: Vec<CacheDirectory> = given.collect::<Result<_>>()?;
        let is_kept = |one: &&CacheDirectory| given.iter().all(|other| other.manager != one.manager);
        let kept: Vec<_> = settings.caches.values().filter(is_kept).cloned().collect();
        Ok([kept, given].concat())
    }
}

/// Parses the size of changes in memory.
fn memory_size(text: &str) -> Result<u64> {
    let size = size(text).map_err(|error| Error::usage(error.context("'--memory='").to_string()))?;
    let memory = memory();
    if size > memory {
        return Err(Error::usage(format!(
            "'--memory={text}' is more than the memory of the host, {}",
            rounded(memory)
        ))
        .with_hint("choose a smaller size, or keep the changes on the disk"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_overrides_the_definition() {
        let mut settings = BuildSettings::default();
        let origin = || crate::config::Origin::Default;
        settings.user.set(UserName { name: "builder".into(), uid: Some(900) }, origin());
        for text in ["/srv/a", "/srv/b:/logs"] {
            settings.results.push(ResultsDirectory::parse(text).unwrap(), origin());
        }
        settings.caches.push(CacheDirectory::parse("apt:/srv/deb").unwrap(), origin());
        let root = || Caller { name: "root".into(), ids: (0, 0) };
        let plain = SessionOptions::default();
        assert_eq!(plain.user(&settings, root()).unwrap().uid, Some(900));
        assert_eq!(plain.user(&BuildSettings::default(), root()).unwrap().name, "root");
        assert_eq!(plain.for_testbed().user(&settings, root()).unwrap().name, "builder");
        let given = SessionOptions {
            user: Some("ann".into()),
            results: vec!["out".into()],
            cache: vec!["apt".into(), "dnf".into()],
            ..SessionOptions::default()
        };
        assert_eq!(given.user(&settings, root()).unwrap().name, "ann");
        let results = given.results(&settings).unwrap();
        let directories: Vec<_> = results.iter().map(|one| one.directory.to_str().unwrap()).collect();
        assert_eq!(directories, ["/srv/b", "out"]);
        assert_eq!(given.caches(&settings).unwrap().len(), 2);
        let wrong = SessionOptions { user: Some("A".into()), ..SessionOptions::default() };
        assert!(wrong.user(&settings, root()).unwrap_err().to_string().contains("--user=A"));
    }
}
