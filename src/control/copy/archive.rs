//! A tar stream as a source and as a sink. Headers are the library's work; nothing is unpacked by
//! it, since paths of an archive are not to be trusted: each entry goes to a sink under a path
//! without any way up.

use super::entry::{Data, Kind, Meta, Notes, Sink};
use crate::error::{Context, Error, Result};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// An archive that is written.
pub struct Writer<W: Write> {
    builder: Builder<W>,
    name: PathBuf,
}

impl<W: Write> Writer<W> {
    /// Begins an archive whose entries lie below `name`.
    pub fn new(to: W, name: &Path) -> Self {
        Self { builder: Builder::new(to), name: name.to_owned() }
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What the stream says.
    pub fn finish(self) -> Result<()> {
        let mut to = self.builder.into_inner().context(|| "cannot write the archive")?;
        to.flush().context(|| "cannot write the archive")
    }

    fn below(&self, path: &Path) -> PathBuf {
        let mut below = self.name.clone();
        below.extend(path);
        below
    }
}

impl<W: Write> Sink for Writer<W> {
    fn take(&mut self, path: &Path, meta: &Meta, kind: Kind<'_>, notes: &mut Notes<'_>) -> Result<()> {
        let writing = || format!("cannot write '{}' to the archive", path.display());
        let attributes = meta.attributes.iter().filter_map(|(name, value)| {
            Some((format!("SCHILY.xattr.{}", std::str::from_utf8(name).ok()?), value.as_slice()))
        });
        let attributes: Vec<(String, &[u8])> = attributes.collect();
        let words = attributes.iter().map(|(name, value)| (name.as_str(), *value));
        if !attributes.is_empty() {
            self.builder.append_pax_extensions(words).context(writing)?;
        }
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode);
        header.set_uid(u64::from(meta.uid));
        header.set_gid(u64::from(meta.gid));
        header.set_mtime(u64::try_from(meta.modified.0).unwrap_or_default());
        header.set_size(0);
        let below = self.below(path);
        match kind {
            Kind::File(Data::File(file, length)) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(length);
                // A file that became shorter meanwhile is filled up: the header is written already.
                let data = file.chain(std::io::repeat(0)).take(length);
                self.builder.append_data(&mut header, below, Counted { data, notes }).context(writing)
            }
            Kind::File(Data::Stream(..)) => Err(Error::new("a stream does not become a stream")),
            Kind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.builder.append_data(&mut header, below, std::io::empty()).context(writing)
            }
            Kind::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, below, std::io::empty()).context(writing)
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.builder.append_link(&mut header, below, target).context(writing)
            }
            Kind::Hard(first) => {
                header.set_entry_type(EntryType::Link);
                let first = self.below(&first);
                self.builder.append_link(&mut header, below, first).context(writing)
            }
        }
    }
}

/// What is read, counted.
struct Counted<'a, 'n, R> {
    data: R,
    notes: &'a mut Notes<'n>,
}

impl<R: Read> Read for Counted<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.data.read(buffer)?;
        self.notes.more(length as u64).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(length)
    }
}

/// Gives every entry of an archive to a sink, in its order. Directories that an archive passes over
/// are made, root's and open to all.
///
/// # Errors
/// An archive that is broken or names a place outside of itself; what the sink does not take.
pub fn read(from: impl Read, sink: &mut impl Sink, notes: &mut Notes<'_>) -> Result<()> {
    let mut archive = Archive::new(from);
    let mut directories = std::collections::HashSet::new();
    make_parents(Path::new("."), &mut directories, sink, notes)?;
    for entry in archive.entries().context(|| "cannot read the archive")? {
        let mut entry = entry.context(|| "cannot read the archive")?;
        let path = plain(&entry.path().context(|| "cannot read a name of the archive")?)?;
        notes.entries += 1;
        notes.more(0)?;
        let meta = meta(&mut entry)?;
        let target = entry.link_name().ok().flatten().map(std::borrow::Cow::into_owned);
        let target = || target.clone().ok_or_else(|| Error::new("a link of the archive leads nowhere"));
        let kind = match entry.header().entry_type() {
            EntryType::Directory if directories.contains(&path) => continue,
            EntryType::Directory => {
                directories.insert(path.clone());
                Kind::Directory
            }
            EntryType::Symlink => Kind::Link(target()?),
            EntryType::Link => Kind::Hard(plain(&target()?)?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let length = entry.size();
                make_parents(&path, &mut directories, sink, notes)?;
                sink.take(&path, &meta, Kind::File(Data::Stream(&mut entry, length)), notes)?;
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => {
                notes.leave_out(&path, "it is a device");
                continue;
            }
        };
        make_parents(&path, &mut directories, sink, notes)?;
        sink.take(&path, &meta, kind, notes)?;
    }
    Ok(())
}

/// Makes what an entry lies in, where the archive has not.
fn make_parents(
    path: &Path,
    directories: &mut std::collections::HashSet<PathBuf>,
    sink: &mut impl Sink,
    notes: &mut Notes<'_>,
) -> Result<()> {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, modified: (0, 0), attributes: Vec::new() };
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for directory in above.into_iter().rev() {
        if directories.insert(directory.to_owned()) {
            sink.take(directory, &meta, Kind::Directory, notes)?;
        }
    }
    Ok(())
}

/// A path of an archive without anything but names; empty for the archive's top.
fn plain(path: &Path) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(format!("the archive names '{}', outside of itself", path.display()))
                    .hint("make it again without '..' in its names"));
            }
        }
    }
    Ok(plain)
}

fn meta(entry: &mut tar::Entry<'_, impl Read>) -> Result<Meta> {
    let number = |number: std::io::Result<u64>| {
        number.ok().and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX)
    };
    let mut attributes = Vec::new();
    if let Some(extensions) = entry.pax_extensions().context(|| "cannot read the archive")? {
        for extension in extensions.flatten() {
            if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
                && name.starts_with("user.")
            {
                attributes.push((name.as_bytes().to_vec(), extension.value_bytes().to_vec()));
            }
        }
    }
    let header = entry.header();
    Ok(Meta {
        mode: header.mode().unwrap_or(0o600) & 0o7777,
        uid: number(header.uid()),
        gid: number(header.gid()),
        modified: (header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or_default(), 0),
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::plain;
    use std::path::Path;

    #[test]
    fn no_path_leads_out() {
        assert_eq!(plain(Path::new("./a//b/./c")).unwrap(), Path::new("a/b/c"));
        assert_eq!(plain(Path::new("/etc/passwd")).unwrap(), Path::new("etc/passwd"));
        assert_eq!(plain(Path::new("./")).unwrap(), Path::new(""));
        assert!(plain(Path::new("a/../../b")).is_err());
    }
}
