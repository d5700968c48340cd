//! `coracle bind`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::arguments::word;
use crate::cli::output::{self, Align, Legend};
use crate::control::bind;
use crate::error::{Error, Result};
use crate::machine::mounts::MountIds;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::path::{Path, PathBuf};

/// Bind-mount a file or directory of the host in a running machine, or list bind mounts
///
/// The mount exists until it is removed or the machine stops or reboots. Define permanent mounts in the
/// definition. With SRC '-' the file or directory that is open as standard input is mounted, on DST. FROM in the
/// list is 'definition' for these and 'bind' for the others.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// A file or directory of the host; without it, bind mounts are listed
    #[arg(value_name = "SRC")]
    source: Option<PathBuf>,

    /// The path inside; the path of the source by default
    #[arg(value_name = "DST")]
    target: Option<PathBuf>,

    /// Mount read-only
    #[arg(long)]
    read_only: bool,

    /// Create a missing mount point
    #[arg(long)]
    mkdir: bool,

    /// How user ids are mapped: 'ids', each owner keeps its id; 'root', the owner of the source is root
    /// inside; 'owner', the owner of the source is the owner of the mount point inside; USER:USER, a user of
    /// the host is a user of the machine; with these three all other owners are nobody. 'none', all files
    /// have host ids
    #[arg(long, value_name = "ids|root|owner|none|USER:USER", default_value = "ids", value_parser = MountIds::new)]
    map: MountIds,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl BindArgs {
    /// Returns whether a mount is requested, not the list.
    pub(super) fn is_request(&self) -> bool {
        self.source.is_some()
    }

    /// Returns the request for the service. `None` for the list.
    ///
    /// # Errors
    /// A path that is not UTF-8, or too long.
    pub(in crate::cli) fn ask(&self) -> Result<Option<Ask>> {
        let Some(source) = &self.source else { return Ok(None) };
        let options = Options::default()
            .with_flag("read-only", self.read_only)
            .with_flag("mkdir", self.mkdir)
            .with_text("map", Some(&self.map.as_text()));
        let target = self.target(source)?;
        // Opened by this process.
        let source = if source == Path::new("-") { Path::new("/proc/self/fd/0") } else { source };
        let words = [source, target].into_iter().map(word).collect::<Result<_>>()?;
        Ask::new(AskVerb::Bind, vec![self.name.clone()], options, words).map(Some)
    }

    /// Returns the path inside.
    fn target<'a>(&'a self, source: &'a Path) -> Result<&'a Path> {
        match &self.target {
            None if source == Path::new("-") => Err(Error::usage("standard input requires a path inside")
                .with_hint("usage: coracle bind NAME - DST")),
            target => Ok(target.as_deref().unwrap_or(source)),
        }
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let Some(source) = &self.source else { return self.list(paths) };
        let request = bind::BindRequest {
            name: &self.name,
            source,
            target: self.target(source)?,
            read_only: self.read_only,
            setuid: false,
            make_target: self.mkdir.into(),
            map: self.map.clone(),
        };
        bind::bind(paths, &request)?;
        Ok(0)
    }

    fn list(&self, paths: &Paths) -> VerbResult {
        let list = bind::list(paths, &self.name)?;
        if self.json {
            output::json(&list)?;
        } else {
            let columns = ["TARGET", "SOURCE", "ACCESS", "MAP", "FROM"].map(|name| (name, Align::Left));
            let rows: Vec<Vec<String>> = list.iter().map(bind::cells).collect();
            output::text(&output::table(&columns, &rows, Legend::Shown))?;
        }
        Ok(0)
    }
}
