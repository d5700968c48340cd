//! The options of a session, of `begin` and `once`.

use crate::config::build::{BuildBind, BuildNetwork, BuildOptions, size};
use crate::control::build::caller::{Caller, caller};
use crate::error::{Context, Error, Result};
use crate::machine::build::{Build, BuildUser};
use crate::machine::build_cache::{PackageCache, PackageManager};
use crate::machine::name::Name;
use crate::machine::size::rounded;
use crate::run::session::{SessionRequest, memory};
use clap::{Args, ValueEnum};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The options of a session.
#[derive(Debug, Args)]
pub(in crate::cli) struct SessionOptions {
    /// The base: the name of an image, or a path with a slash
    #[arg(value_name = "BASE")]
    base: String,

    /// The name of the session; BASE and six random digits by default
    #[arg(long, value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,

    /// The build user, who is created if the base does not have it; the caller by default
    #[arg(long, value_name = "NAME[:UID]")]
    user: Option<String>,

    /// The ids of its users: a range of their own, or those of the host with or without a user namespace
    #[arg(long, value_name = "USERS", value_enum, default_value = "pick")]
    users: SessionUsers,

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
        self.network.get_or_insert(network);
        if caller().ids.0 == 0 {
            self.user.get_or_insert_with(|| TESTER.to_owned());
        }
        self
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

    /// Returns the session to begin.
    ///
    /// # Errors
    /// An invalid option, or a path that does not exist.
    pub(in crate::cli) fn request(&self) -> Result<SessionRequest> {
        let caller = caller();
        let mut binds: Vec<BuildBind> = self.bind.iter().map(|text| bind(text)).collect::<Result<_>>()?;
        let mut results = Vec::new();
        for given in &self.results {
            let bound = result(given, &caller)?;
            results.push(bound.source.clone());
            binds.push(bound);
        }
        refuse_doubles(&binds)?;
        let caches: Vec<PackageCache> = self.cache.iter().map(|text| cache(text)).collect::<Result<_>>()?;
        let users = match self.users {
            SessionUsers::Pick => "pick",
            SessionUsers::Identity => "identity",
            SessionUsers::No => "no",
        };
        let mut settings = vec![("users.private".to_owned(), users.to_owned())];
        let limits = [
            ("resources.memory-max", &self.memory_max),
            ("resources.cpu-quota", &self.cpu_quota),
            ("resources.tasks-max", &self.tasks_max),
            ("resources.io-weight", &self.io_weight),
            ("resources.cpu-affinity", &self.cpus),
        ];
        settings.extend(limits.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
        let options = BuildOptions {
            base: self.base.clone(),
            network: match self.network {
                None | Some(SessionNetwork::None) => BuildNetwork::None,
                Some(SessionNetwork::Host) => BuildNetwork::Host,
                Some(SessionNetwork::Nat) => BuildNetwork::Nat,
            },
            boots: self.boot,
            in_memory: self.memory.is_some(),
            registers: self.register,
            settings,
            binds,
            caches: caches.clone(),
        };
        let user = user(self.user.as_deref(), caller)?;
        let build = Build {
            base: self.base.clone(),
            user,
            results,
            caches,
            is_synced: self.sync,
            memory_size: self
                .memory
                .as_deref()
                .filter(|text| !text.is_empty())
                .map(memory_size)
                .transpose()?,
        };
        let with_processes = self.with_process.into_iter().collect();
        Ok(SessionRequest {
            name: self.name.clone(),
            options,
            build,
            lifetime: self.lifetime,
            with_processes,
        })
    }
}

/// Parses `NAME[:UID]`. The default is the caller.
fn user(text: Option<&str>, caller: Caller) -> Result<BuildUser> {
    let Some(text) = text else {
        return Ok(BuildUser { name: caller.name, uid: None, caller: caller.ids });
    };
    let invalid = || {
        Error::usage(format!("'--user={text}' is not a user"))
            .with_hint("write NAME or NAME:UID, for example builder:1000")
    };
    let (name, uid) = match text.split_once(':') {
        Some((name, uid)) => (name, Some(uid.parse().map_err(|_| invalid())?)),
        None => (text, None),
    };
    let fits = |(at, letter): (usize, char)| {
        letter.is_ascii_lowercase()
            || letter == '_'
            || at > 0 && (letter.is_ascii_digit() || "-.".contains(letter))
    };
    if name.is_empty() || name.len() > 32 || !name.chars().enumerate().all(fits) || uid == Some(u32::MAX) {
        return Err(invalid());
    }
    if name == "root" && uid.is_some_and(|uid| uid != 0) {
        return Err(invalid());
    }
    Ok(BuildUser { name: name.to_owned(), uid, caller: caller.ids })
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

/// Escapes a path for [`fields`].
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace(':', "\\:")
}

/// Splits a text at colons that are not escaped.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, fields.last_mut()) {
            (':', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(letters.next()),
            (letter, Some(field)) => field.push(letter),
            (_, None) => {}
        }
    }
    fields
}

/// Parses `SRC[:DST[:ro]]`. A relative source is below the working directory.
fn bind(text: &str) -> Result<BuildBind> {
    let parts = fields(text);
    let (source, target, read_only) = match parts.as_slice() {
        [source] => (source, source, false),
        [source, target] => (source, target, false),
        [source, target, option] if option == "ro" => (source, target, true),
        _ => {
            return Err(Error::usage(format!("'--bind={text}' is not a mount"))
                .with_hint("write SRC, SRC:DST or SRC:DST:ro; write '\\:' for a colon in a path"));
        }
    };
    let source = existing(source)?;
    let target = if parts.len() == 1 { source.clone() } else { inside("--bind=", target)? };
    Ok(BuildBind { source, target, read_only })
}

/// Parses `DIR[:INSIDE]`. A missing directory is created, and belongs to the caller.
fn result(text: &str, caller: &Caller) -> Result<BuildBind> {
    let parts = fields(text);
    let (source, target) = match parts.as_slice() {
        [source] => (source, "/results"),
        [source, target] => (source, target.as_str()),
        _ => {
            return Err(Error::usage(format!("'--results={text}' is not a directory"))
                .with_hint("write DIR or DIR:INSIDE; write '\\:' for a colon in a path"));
        }
    };
    let doing = || format!("cannot create the directory of results '{source}'");
    match std::fs::create_dir(source) {
        Ok(()) => {
            let (uid, gid) = caller.ids;
            std::os::unix::fs::lchown(source, Some(uid), Some(gid)).context(doing)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).context(doing),
    }
    let source = existing(source)?;
    if !source.is_dir() {
        return Err(Error::new(format!("'{}' is not a directory", source.display()))
            .with_hint("name a directory for results"));
    }
    Ok(BuildBind { source, target: inside("--results=", target)?, read_only: false })
}

/// Parses `MANAGER[:DIR]`. A missing directory is created.
fn cache(text: &str) -> Result<PackageCache> {
    let parts = fields(text);
    let (name, directory) = match parts.as_slice() {
        [name] => (name, format!("/var/cache/coracle/{name}")),
        [name, directory] => (name, directory.clone()),
        _ => {
            return Err(Error::usage(format!("'--cache={text}' is not a cache"))
                .with_hint("write MANAGER or MANAGER:DIR; write '\\:' for a colon in a path"));
        }
    };
    let manager = PackageManager::new(name)?;
    let mut builder = std::fs::DirBuilder::new();
    builder
        .mode(0o755)
        .recursive(true)
        .create(&directory)
        .context(|| format!("cannot create '{directory}'"))?;
    Ok(PackageCache { manager, directory: existing(&directory)? })
}

fn existing(path: &str) -> Result<PathBuf> {
    Path::new(path).canonicalize().context(|| format!("cannot find '{path}'"))
}

fn inside(flag: &str, path: &str) -> Result<PathBuf> {
    if path.starts_with('/') && path != "/" {
        return Ok(Path::new(path).components().collect());
    }
    Err(Error::usage(format!("'{flag}…:{path}' is not a path inside the session"))
        .with_hint("write an absolute path below '/'"))
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::new(format!("'{}' is not UTF-8", path.display())));
    text.map(str::to_owned)
}

/// Refuses two mounts on one path.
fn refuse_doubles(binds: &[BuildBind]) -> Result<()> {
    for (at, bind) in binds.iter().enumerate() {
        if let Some(other) = binds.iter().take(at).find(|other| other.target == bind.target) {
            let (one, two) = (other.source.display(), bind.source.display());
            return Err(Error::usage(format!(
                "both '{one}' and '{two}' are bound to '{}'",
                bind.target.display()
            ))
            .with_hint("choose another path inside for one of them"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Caller {
        Caller { name: "root".into(), ids: (0, 0) }
    }

    #[test]
    fn users_have_a_name_and_maybe_a_number() {
        assert_eq!(user(None, root()).unwrap().name, "root");
        let builder = user(Some("builder:900"), root()).unwrap();
        assert_eq!((builder.name.as_str(), builder.uid), ("builder", Some(900)));
        for bad in ["", ":", "a:", "a:x", "a b", "A", "1a", "root:7", "a:4294967295", "a\n"] {
            assert!(user(Some(bad), root()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mounts_have_a_source_that_exists() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().to_str().unwrap();
        let bound = bind(&format!("{path}:/data:ro")).unwrap();
        assert!(bound.read_only && bound.target == Path::new("/data"));
        assert_eq!(bind(path).unwrap().target, here.path());
        for bad in [format!("{path}:data"), format!("{path}:/"), format!("{path}:/a:rw"), format!("{path}/x")]
        {
            assert!(bind(&bad).is_err(), "{bad}");
        }
        let odd = here.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(bind(&format!("{path}/a\\:b:/x")).unwrap().source, odd);
        assert!(refuse_doubles(&[bound.clone(), bound]).is_err());
    }

    #[test]
    fn an_escaped_path_is_one_field() {
        for path in ["/a", "/a:b", "/a\\b", "/a\\:b\\", "/\\\\::"] {
            assert_eq!(fields(&format!("{}:/x", escaped(path))), [path, "/x"]);
        }
    }

    #[test]
    fn a_missing_directory_of_results_is_created() {
        let here = tempfile::tempdir().unwrap();
        let out = here.path().join("out");
        let caller = Caller { name: "x".into(), ids: (rustix::process::geteuid().as_raw(), 0) };
        let bound = result(out.to_str().unwrap(), &caller).unwrap();
        assert!(out.is_dir() && bound.target == Path::new("/results"));
        assert!(result("/nowhere/out", &caller).is_err());
    }
}
