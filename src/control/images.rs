//! `images` and `read-only`: the images of the host. Called by `cli`.

use super::defined_stacks;
use crate::error::{Context, Result};
use crate::host::{lock, procfs};
use crate::image::disk::mounts::{Disk, DiskAccess};
use crate::image::find;
use crate::image::locks;
use crate::image::read_only::{self, Method};
use crate::image::recovery;
use crate::image::stack::{Stack, StackPart};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::machine::size;
use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::btrfs;
use crate::sys::mount;
use crate::tree::usage;
use rustix::fd::AsFd;
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// An image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ImageRow {
    /// Its name.
    name: Name,
    /// `directory`, `subvolume`, `stack` or `raw`.
    r#type: &'static str,
    /// Whether machines cannot change it.
    read_only: bool,
    /// The machines and processes that use it.
    used_by: Vec<String>,
    /// The disk space of its own files, bytes. `None` if it was not asked for.
    usage: Option<u64>,
    /// The disk space of the layers that a stack shares with others, bytes. `None` if it was not asked for.
    shared: Option<u64>,
    /// Its path.
    path: PathBuf,
    /// The image with the same name that is found instead. `None` for the image of the name.
    hidden_by: Option<PathBuf>,
    /// The reason why it cannot be used.
    problem: Option<String>,
}

/// The columns of [`ImageRow::cells`].
pub(crate) const COLUMNS: [&str; 7] = ["NAME", "TYPE", "READ-ONLY", "USAGE", "SHARED", "USED BY", "PATH"];

impl ImageRow {
    /// Returns the cells of the row of a table.
    pub(crate) fn cells(&self) -> Vec<String> {
        let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
        let note = match (&self.problem, &self.hidden_by) {
            (Some(problem), _) => format!(" ({problem})"),
            (None, Some(other)) => format!(" (hidden by {})", other.display()),
            (None, None) => String::new(),
        };
        vec![
            self.name.to_string(),
            self.r#type.to_owned(),
            yes(self.read_only),
            self.usage.map_or_else(|| "-".to_owned(), size::rounded),
            self.shared.map_or_else(|| "-".to_owned(), size::rounded),
            if self.used_by.is_empty() { "-".to_owned() } else { self.used_by.join(" ") },
            format!("{}{note}", self.path.display()),
        ]
    }
}

/// Whether the disk space of images is found out, which reads all of their directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UsageQuery {
    /// It is not.
    No,
    /// It is.
    Yes,
}

/// Returns the images of all names, or of one, sorted by name; the image that is used for a name first.
///
/// # Errors
/// An unknown name, or a directory that cannot be read.
pub(crate) fn rows(paths: &Paths, name: Option<&Name>, query: UsageQuery) -> Result<Vec<ImageRow>> {
    refuse_unreadable(paths)?;
    let records: Vec<Record> = Record::all(paths).into_iter().filter(Record::is_alive).collect();
    let names = match name {
        Some(name) => [name.clone()].into(),
        None => find::names(paths),
    };
    let mut rows = Vec::new();
    for image_name in names {
        let images: Vec<RootSource> = find::all_of(paths, &image_name).collect();
        let first = images.first().map(|image| image.path().to_owned());
        for (at, image) in images.into_iter().enumerate() {
            let hidden_by = first.clone().filter(|_| at > 0);
            rows.push(row(paths, &records, &image_name, &image, hidden_by, query)?);
        }
    }
    if let (Some(name), true) = (name, rows.is_empty()) {
        return Err(crate::error::Error::new(format!("image '{name}' does not exist"))
            .with_hint("'coracle images' lists all images"));
    }
    Ok(rows)
}

/// Refuses a directory of images that this user cannot read.
fn refuse_unreadable(paths: &Paths) -> Result<()> {
    for directory in paths.image_directories() {
        match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(error)
                    .context(|| format!("cannot read '{}'", directory.display()))
                    .map_err(|error| error.with_hint("run it with sudo(8)"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the image of a name read-only, or writable again. Returns the line for a person.
///
/// # Errors
/// An image that cannot be changed.
pub(crate) fn set_read_only(paths: &Paths, name: &Name, read_only: bool) -> Result<String> {
    recovery::recover(paths);
    defined_stacks::record(paths)?;
    let method = read_only::set(paths, name, read_only)?;
    let state = if read_only { "read-only" } else { "writable" };
    Ok(match method {
        Method::Unchanged => format!("{name}: {state}, {method}"),
        _ if read_only => format!("{name}: {state}, by {method}"),
        _ => format!("{name}: {state}, without {method}"),
    })
}

fn row(
    paths: &Paths,
    records: &[Record],
    name: &Name,
    image: &RootSource,
    hidden_by: Option<PathBuf>,
    query: UsageQuery,
) -> Result<ImageRow> {
    let path = image.path();
    let mut outside = Vec::new();
    let (kind, writable, problem) = match image {
        RootSource::Directory(_) => {
            let is_subvolume =
                mount::open_directory(path).is_ok_and(|directory| btrfs::is_subvolume(directory.as_fd()));
            (if is_subvolume { "subvolume" } else { "directory" }, true, None)
        }
        RootSource::Stack(_) => match Stack::read(path) {
            Ok(stack) => {
                outside = stack.outside().into_iter().map(|(directory, _)| directory).collect();
                ("stack", has_writable_root(&stack), None)
            }
            Err(error) => ("stack", false, Some(error.to_string())),
        },
        RootSource::Image(_) => {
            let problem = Disk::open(path, DiskAccess::Read).err().map(|error| error.to_string());
            ("raw", !read_only::is_protected(path), problem)
        }
    };
    // An immutable directory and a read-only subvolume or file system refuse it too.
    let is_writable = writable && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    Ok(ImageRow {
        name: name.clone(),
        r#type: kind,
        read_only: !is_writable,
        used_by: users(paths, records, path),
        usage: (query == UsageQuery::Yes).then(|| usage_of(image)).transpose()?,
        shared: (query == UsageQuery::Yes).then(|| usage_of_all(outside)).transpose()?,
        path: path.to_owned(),
        hidden_by,
        problem,
    })
}

/// Returns the disk space of an image.
fn usage_of(image: &RootSource) -> Result<u64> {
    let path = real(image.path());
    match image {
        RootSource::Image(_) => {
            let found = path.metadata().context(|| format!("cannot look at '{}'", path.display()))?;
            // `stat(2)` counts blocks of 512 bytes.
            Ok(found.blocks().saturating_mul(512))
        }
        RootSource::Directory(_) | RootSource::Stack(_) => usage::of(&path),
    }
}

/// Returns the path of an image without a link: links in the directories of images are followed.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Returns the disk space of directories. One that lies in another one is counted once.
fn usage_of_all(mut directories: Vec<PathBuf>) -> Result<u64> {
    directories.sort();
    directories.dedup_by(|below, above| below.starts_with(above));
    directories.iter().map(|directory| usage::of(directory)).sum()
}

fn has_writable_root(stack: &Stack) -> bool {
    match &stack.root {
        StackPart::Overlay { writable, .. } => writable.is_some(),
        StackPart::Directory(bind) => !bind.read_only,
        StackPart::Partition(_) | StackPart::Tmpfs => true,
    }
}

/// Returns the running machines that hold the lock of an image, or another process that does.
fn users(paths: &Paths, records: &[Record], image: &Path) -> Vec<String> {
    let Ok(file) = locks::inode_file(paths, image) else { return Vec::new() };
    if !lock::is_taken(&file) {
        return Vec::new();
    }
    let machines = records.iter().filter(|record| record.files.contains(&file));
    let machines: Vec<String> = machines.map(|record| record.name.to_string()).collect();
    if !machines.is_empty() {
        return machines;
    }
    let process = lock::holder(&file);
    process.map_or_else(Vec::new, |pid| {
        vec![
            procfs::command_name(pid)
                .map_or_else(|| format!("process-{pid}"), |name| format!("{name}[{pid}]")),
        ]
    })
}
