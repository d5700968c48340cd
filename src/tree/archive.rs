//! A tar stream as source and as sink. The library handles headers only. Paths of an archive are not trusted:
//! each entry is passed to a sink under a path without `..`.

use super::entry::{Content, EntryKind, Meta, Monitor, Sink, read_part};
use crate::error::{Context, Error, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, EntryType, Header};

/// The bytes per read of a file.
const PART: usize = 256 << 10;

/// A written archive.
pub(crate) struct Writer<W: Write> {
    builder: Builder<W>,
    name: PathBuf,
}

impl<W: Write> Writer<W> {
    /// Creates an archive with all entries below `name`.
    pub(crate) fn new(to: W, name: &Path) -> Self {
        Self { builder: Builder::new(to), name: name.to_owned() }
    }

    /// Finishes the archive.
    ///
    /// # Errors
    /// Any write error.
    pub(crate) fn finish(self) -> Result<()> {
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
    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
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
            EntryKind::File(content) => {
                header.set_entry_type(EntryType::Regular);
                match content.expected_length() {
                    Some(length) => {
                        header.set_size(length);
                        let mut data = FlatReader::new(content, monitor);
                        let written = self.builder.append_data(&mut header, below, (&mut data).take(length));
                        written.context(writing)?;
                        data.finish(path, length)
                    }
                    None => {
                        let (spooled, length) =
                            spool(content, monitor).map_err(|error| error.context(writing()))?;
                        header.set_size(length);
                        self.builder.append_data(&mut header, below, spooled).context(writing)
                    }
                }
            }
            EntryKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.builder.append_data(&mut header, below, std::io::empty()).context(writing)
            }
            EntryKind::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, below, std::io::empty()).context(writing)
            }
            EntryKind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                self.builder.append_link(&mut header, below, target).context(writing)
            }
            EntryKind::Node(..) => Err(Error::new("a device or socket in an archive").context(writing())),
            EntryKind::Hard(first) => {
                header.set_entry_type(EntryType::Link);
                let first = self.below(&first);
                self.builder.append_link(&mut header, below, first).context(writing)
            }
        }
    }
}

/// Content as a stream, with zeros for holes.
struct FlatReader<'a> {
    content: &'a mut dyn Content,
    monitor: &'a mut dyn Monitor,
    part: Vec<u8>,
    /// The read offset in the part.
    from: usize,
    /// The position of the stream in the file.
    at: u64,
    /// The position of the part in the file.
    begin: u64,
    ended: bool,
}

impl<'a> FlatReader<'a> {
    fn new(content: &'a mut dyn Content, monitor: &'a mut dyn Monitor) -> Self {
        Self { content, monitor, part: Vec::new(), from: 0, at: 0, begin: 0, ended: false }
    }

    /// Discards the content beyond the expected length: the header is already written.
    fn finish(mut self, path: &Path, expected_length: u64) -> Result<()> {
        while !self.ended {
            self.ended = self.content.next(&mut self.part, PART, self.monitor)?.is_none();
        }
        if self.content.length() != expected_length {
            log::warn!("'{}' changed while it was read", path.display());
        }
        Ok(())
    }
}

impl Read for FlatReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let failed = |error: Error| std::io::Error::other(error.to_string());
        if !self.ended && self.from >= self.part.len() {
            match self.content.next(&mut self.part, PART, self.monitor).map_err(failed)? {
                Some(begin) => (self.begin, self.from) = (begin, 0),
                None => self.ended = true,
            }
            self.monitor.advance(self.part.len() as u64).map_err(failed)?;
        }
        // A hole, or the end of a file that was truncated in the meantime.
        let hole = if self.ended { u64::MAX } else { self.begin.saturating_sub(self.at) };
        let length = if hole > 0 {
            let length = usize::try_from(hole).unwrap_or(usize::MAX).min(buffer.len());
            buffer.iter_mut().take(length).for_each(|byte| *byte = 0);
            length
        } else {
            let rest = self.part.get(self.from..).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.from += length;
            self.begin += length as u64;
            length
        };
        self.at += length as u64;
        Ok(length)
    }
}

/// Writes content of unknown length to an unnamed file, to determine its length.
fn spool(content: &mut dyn Content, monitor: &mut dyn Monitor) -> Result<(File, u64)> {
    use std::io::{Seek, SeekFrom};
    let directory = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&directory, flags, Mode::RUSR | Mode::WUSR)
        .context(|| format!("cannot create a file in '{}'", directory.display()))?;
    let mut file = File::from(file);
    let mut part = Vec::new();
    while let Some(at) = content.next(&mut part, PART, monitor)? {
        std::os::unix::fs::FileExt::write_all_at(&file, &part, at)
            .context(|| format!("cannot write to '{}'", directory.display()))?;
        monitor.advance(part.len() as u64)?;
    }
    let length = content.length();
    file.set_len(length)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .context(|| "cannot rewind the temporary file")?;
    Ok((file, length))
}

/// The content of an entry of an archive.
struct StreamContent<R> {
    from: std::io::Take<R>,
    expected_length: u64,
    at: u64,
}

impl<R: Read> Content for StreamContent<R> {
    fn next(&mut self, buffer: &mut Vec<u8>, most: usize, _: &mut dyn Monitor) -> Result<Option<u64>> {
        let read = read_part(buffer, most, |buffer| self.from.read(buffer));
        let length = read.context(|| "cannot read the archive")?;
        let at = self.at;
        self.at += length as u64;
        Ok((length > 0).then_some(at))
    }

    fn length(&self) -> u64 {
        self.at
    }

    fn expected_length(&self) -> Option<u64> {
        Some(self.expected_length)
    }
}

/// Passes the entries of an archive to a sink, in order. Missing parent directories are created with owner
/// root and mode 0755.
///
/// # Errors
/// A corrupt archive, a path outside of the archive, or any error of the sink.
pub(crate) fn read(from: impl Read, sink: &mut impl Sink, monitor: &mut dyn Monitor) -> Result<()> {
    let mut archive = Archive::new(from);
    let mut directories = std::collections::HashSet::new();
    make_parents(Path::new("."), &mut directories, sink, monitor)?;
    for entry in archive.entries().context(|| "cannot read the archive")? {
        let mut entry = entry.context(|| "cannot read the archive")?;
        let path = plain(&entry.path().context(|| "cannot read a path of the archive")?)?;
        monitor.count_entry()?;
        let meta = meta(&mut entry)?;
        let target = entry.link_name().ok().flatten().map(std::borrow::Cow::into_owned);
        let target = || target.clone().ok_or_else(|| Error::new("a link of the archive has no target"));
        let kind = match entry.header().entry_type() {
            EntryType::Directory if directories.contains(&path) => continue,
            EntryType::Directory => {
                directories.insert(path.clone());
                EntryKind::Directory
            }
            EntryType::Symlink => EntryKind::Link(target()?),
            EntryType::Link => EntryKind::Hard(plain(&target()?)?),
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let length = entry.size();
                make_parents(&path, &mut directories, sink, monitor)?;
                let mut content =
                    StreamContent { from: (&mut entry).take(length), expected_length: length, at: 0 };
                sink.take(&path, &meta, EntryKind::File(&mut content), monitor)?;
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => {
                monitor.skip(&path, "it is a device");
                continue;
            }
        };
        make_parents(&path, &mut directories, sink, monitor)?;
        sink.take(&path, &meta, kind, monitor)?;
    }
    Ok(())
}

/// Creates the missing parent directories of an entry.
fn make_parents(
    path: &Path,
    directories: &mut std::collections::HashSet<PathBuf>,
    sink: &mut impl Sink,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, modified: (0, 0), attributes: Vec::new() };
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for directory in above.into_iter().rev() {
        if directories.insert(directory.to_owned()) {
            sink.take(directory, &meta, EntryKind::Directory, monitor)?;
        }
    }
    Ok(())
}

/// Normalises a path of an archive to its names; empty for the top.
pub(crate) fn plain(path: &Path) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(format!("the path '{}' leads out of the archive", path.display()))
                    .with_hint("create the archive without '..' in its paths"));
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
    fn paths_stay_below_the_top() {
        assert_eq!(plain(Path::new("./a//b/./c")).unwrap(), Path::new("a/b/c"));
        assert_eq!(plain(Path::new("/etc/passwd")).unwrap(), Path::new("etc/passwd"));
        assert_eq!(plain(Path::new("./")).unwrap(), Path::new(""));
        assert!(plain(Path::new("a/../../b")).is_err());
    }
}
