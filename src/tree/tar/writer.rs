//! Writes archives in the format pax (pax(1)) that depend on the tree alone: no names of users, no time of the
//! archive, and holes by the content of files. A sink of `walk`, and of the copies of `control`.

use super::flat::{self, FlatReader};
use super::header::Block;
use super::sparse::Extent;
use super::{BLOCK, acl, extensions, holes, pax, shown};
use crate::error::{Context, Error, Result};
use crate::tree::entry::{Content, EntryKind, Meta, Monitor, Sink};
use rustix::fs::FileType;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The greatest numbers of fields with 7 and with 11 octal digits.
const SHORT: u64 = 0o7_777_777;
const LONG: u64 = 0o77_777_777_777;
/// The size of the name and of the link target in a header, bytes.
const NAME: usize = 100;
/// `VFS_CAP_REVISION_2` of `linux/capability.h`, and the size of its value.
const CAPABILITY_2: [u8; 3] = [0, 0, 2];
const CAPABILITY_2_SIZE: usize = 20;

/// A written archive.
pub(crate) struct Writer<W: Write> {
    to: W,
    name: PathBuf,
    /// The latest time of files, seconds (`SOURCE_DATE_EPOCH`).
    latest: Option<i64>,
    /// The paths in the archive of entries that are left out where they come from a directory above them.
    hidden: Vec<PathBuf>,
    /// The whiteouts so far. `None` if the archive is not a layer.
    whiteouts: Option<HashSet<PathBuf>>,
}

/// The parts of a header.
struct Member<'a> {
    flag: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    size: u64,
    device: u64,
    records: Vec<u8>,
    meta: &'a Meta,
}

impl<W: Write> Writer<W> {
    /// Creates an archive with all entries below `name`. No file in it is younger than `latest`.
    pub(crate) fn new(to: W, name: &Path, latest: Option<i64>) -> Self {
        Self { to, name: name.to_owned(), latest, hidden: Vec::new(), whiteouts: None }
    }

    /// Creates an archive that is a layer of an OCI image: marks of overlays become those of layers.
    pub(crate) fn of_layer(to: W, name: &Path, latest: Option<i64>) -> Self {
        Self { whiteouts: Some(HashSet::new()), ..Self::new(to, name, latest) }
    }

    /// Writes all further entries below another name.
    pub(crate) fn set_name(&mut self, name: &Path) {
        self.name = name.to_owned();
    }

    /// Leaves out entries with these paths in the archive, and all entries below them, if a tree has them below its
    /// top: another tree with one of these paths as its name covers them.
    pub(crate) fn hide(&mut self, paths: Vec<PathBuf>) {
        self.hidden = paths;
    }

    /// Finishes the archive. Returns what it was written to.
    ///
    /// # Errors
    /// Any write error.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.to.flush().context(|| "cannot write the archive")?;
        Ok(self.to)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).context(|| "cannot write the archive")
    }

    fn pad(&mut self, written: u64) -> Result<()> {
        let padding = written.next_multiple_of(BLOCK as u64) - written;
        self.write(&[0; BLOCK][..usize::try_from(padding).unwrap_or_default()])
    }

    /// Returns the path of an entry in the archive.
    fn below(&self, path: &Path) -> Vec<u8> {
        self.path_below(path).into_os_string().as_bytes().to_vec()
    }

    fn path_below(&self, path: &Path) -> PathBuf {
        let mut below = self.name.clone();
        below.extend(path);
        below
    }

    /// Writes the headers of an entry.
    fn headers(&mut self, member: Member<'_>) -> Result<()> {
        let Member { flag, path, link, size, device, mut records, meta } = member;
        let (mut seconds, mut nanoseconds) = meta.modified;
        if let Some(latest) = self.latest.filter(|latest| seconds >= *latest) {
            (seconds, nanoseconds) = (latest, 0);
        }
        if nanoseconds != 0 || !(0..=LONG).contains(&u64::try_from(seconds).unwrap_or(u64::MAX)) {
            records.extend(pax::record(b"mtime", time(seconds, nanoseconds).as_bytes()));
        }
        for (key, value, name) in [(&b"path"[..], &path, "its path"), (b"linkpath", &link, "its target")] {
            if value.contains(&0) {
                return Err(Error::new(format!("{name} contains a NUL")));
            }
            if value.len() > NAME {
                records.extend(pax::record(key, value));
            }
        }
        let numbers = [
            (&b"uid"[..], u64::from(meta.uid), SHORT),
            (b"gid", u64::from(meta.gid), SHORT),
            (b"size", size, LONG),
        ];
        for (key, number, _) in numbers.iter().filter(|(_, number, greatest)| number > greatest) {
            records.extend(pax::record(key, number.to_string().as_bytes()));
        }
        for (name, value) in &meta.attributes {
            records.extend(attribute(name, value));
        }
        if !records.is_empty() {
            let name = [
                b"PaxHeaders/",
                path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).unwrap_or(b""),
            ];
            let plain = Meta { mode: 0o644, uid: 0, gid: 0, modified: (0, 0), attributes: Vec::new() };
            let block = block(b'x', &name.concat(), b"", records.len() as u64, 0, &plain, 0);
            self.write(&block)?;
            self.write(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.write(&block(flag, &path, &link, size, device, meta, seconds))
    }

    fn file(
        &mut self,
        path: Vec<u8>,
        meta: &Meta,
        content: &mut dyn Content,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let Some(length) = content.expected_length() else {
            let (mut spooled, length) = flat::spool(content, monitor)?;
            self.headers(Member { size: length, ..Member::of(b'0', path, meta) })?;
            return self.data(&mut spooled, length);
        };
        if let Some((file, extents)) =
            content.file().and_then(|file| Some((file, holes::data_of(file, length)?)))
        {
            self.sparse(path, meta, length, &extents)?;
            return holes::copy(file, &extents, &mut self.to, monitor);
        }
        self.headers(Member { size: length, ..Member::of(b'0', path.clone(), meta) })?;
        let mut data = FlatReader::new(content, monitor);
        self.data(&mut (&mut data).take(length), length)?;
        if !data.finish(length)? {
            log::warn!("{} changed while it was read", shown(&path));
        }
        Ok(())
    }

    /// Writes a mark of a layer: an empty file.
    fn mark(&mut self, path: &Path) -> Result<()> {
        let plain = Meta { mode: 0, uid: 0, gid: 0, modified: (0, 0), attributes: Vec::new() };
        self.headers(Member::of(b'0', self.below(path), &plain))
    }

    /// Writes the mark of a hidden entry, if an entry is a whiteout. The kernel creates them as hard links.
    fn whiteout(&mut self, path: &Path, kind: &EntryKind<'_>) -> Result<bool> {
        let Some(whiteouts) = &mut self.whiteouts else { return Ok(false) };
        let is_whiteout = match kind {
            EntryKind::Node(FileType::CharacterDevice, 0) => true,
            EntryKind::Hard(first) => whiteouts.contains(first),
            _ => false,
        };
        if is_whiteout {
            whiteouts.insert(path.to_owned());
            let name = [b".wh.", path.file_name().unwrap_or_default().as_bytes()].concat();
            self.mark(&path.with_file_name(OsStr::from_bytes(&name)))?;
        }
        Ok(is_whiteout)
    }

    /// Writes the mark of an opaque directory, if a directory is one.
    fn opaque(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        let (name, value) = super::layer::OPAQUE;
        let is_mark = |(of, is): &(Vec<u8>, Vec<u8>)| of == name.as_bytes() && is == value;
        if self.whiteouts.is_some() && meta.attributes.iter().any(is_mark) {
            return self.mark(&path.join(".wh..wh..opq"));
        }
        Ok(())
    }

    /// Writes data of a known length.
    fn data(&mut self, data: &mut impl Read, length: u64) -> Result<()> {
        std::io::copy(data, &mut self.to).context(|| "cannot write the archive")?;
        self.pad(length)
    }

    /// Writes the headers and the map of a sparse file (GNU tar, format 1.0).
    fn sparse(&mut self, path: Vec<u8>, meta: &Meta, length: u64, extents: &[Extent]) -> Result<()> {
        let mut map = format!("{}\n", extents.len());
        extents.iter().for_each(|(at, length)| map.push_str(&format!("{at}\n{length}\n")));
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let size = map.len() as u64 + extents.iter().map(|(_, length)| length).sum::<u64>();
        let records = [
            pax::record(b"GNU.sparse.major", b"1"),
            pax::record(b"GNU.sparse.minor", b"0"),
            pax::record(b"GNU.sparse.name", &path),
            pax::record(b"GNU.sparse.realsize", length.to_string().as_bytes()),
        ];
        // Readers without sparse files create it under this name.
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = [b"GNUSparseFile.0/", name.get(..NAME - 16).unwrap_or(name)].concat();
        self.headers(Member { size, records: records.concat(), ..Member::of(b'0', name, meta) })?;
        self.write(&map)
    }
}

impl<'a> Member<'a> {
    fn of(flag: u8, path: Vec<u8>, meta: &'a Meta) -> Self {
        Self { flag, path, link: Vec::new(), size: 0, device: 0, records: Vec::new(), meta }
    }
}

impl<W: Write> Sink for Writer<W> {
    fn is_hidden(&self, path: &Path) -> bool {
        !self.hidden.is_empty() && self.hidden.contains(&self.path_below(path))
    }

    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        if self.whiteout(path, &kind)? {
            return Ok(());
        }
        let below = self.below(path);
        let written = match kind {
            EntryKind::File(content) => self.file(below, meta, content, monitor),
            EntryKind::Directory => self
                .headers(Member::of(b'5', [&below[..], b"/"].concat(), meta))
                .and_then(|()| self.opaque(path, meta)),
            EntryKind::Fifo => self.headers(Member::of(b'6', below, meta)),
            EntryKind::Link(target) => {
                let link = target.into_os_string().as_bytes().to_vec();
                self.headers(Member { link, ..Member::of(b'2', below, meta) })
            }
            EntryKind::Hard(first) => {
                let link = self.below(&first);
                self.headers(Member { link, ..Member::of(b'1', below, meta) })
            }
            EntryKind::Node(FileType::CharacterDevice, device) => {
                self.headers(Member { device, ..Member::of(b'3', below, meta) })
            }
            EntryKind::Node(FileType::BlockDevice, device) => {
                self.headers(Member { device, ..Member::of(b'4', below, meta) })
            }
            EntryKind::Node(..) => {
                monitor.skip(path, "it is a socket");
                Ok(())
            }
        };
        written.context(|| format!("cannot write {} to the archive", shown(&self.below(path))))
    }
}

/// Returns a time as text: seconds, and a fraction without zeros at its end.
fn time(seconds: i64, nanoseconds: i64) -> String {
    let (sign, seconds, nanoseconds) = match seconds {
        ..0 if nanoseconds > 0 => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        ..0 => ("-", seconds.unsigned_abs(), 0),
        _ => ("", seconds.unsigned_abs(), nanoseconds),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns the record of an extended attribute. Empty for one that is valid on this host only.
fn attribute(name: &[u8], value: &[u8]) -> Vec<u8> {
    if let Some((key, _)) = extensions::LISTS.iter().find(|(_, list)| *list == name) {
        return acl::to_text(value).map(|text| pax::record(key, text.as_bytes())).unwrap_or_default();
    }
    let key = [extensions::ATTRIBUTE, name].concat();
    match name {
        // The user namespace of its root is that of the reader.
        b"security.capability" if value.len() > CAPABILITY_2_SIZE => {
            let mut plain = value.get(..CAPABILITY_2_SIZE).unwrap_or_default().to_vec();
            if let Some(revision) = plain.get_mut(1..4) {
                revision.copy_from_slice(&CAPABILITY_2);
            }
            pax::record(&key, &plain)
        }
        b"security.capability" => pax::record(&key, value),
        _ if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && !name.contains(&b'=') => {
            pax::record(&key, value)
        }
        _ => Vec::new(),
    }
}

/// Returns the block of a header. Numbers without a place in it are in its extension header.
fn block(flag: u8, path: &[u8], link: &[u8], size: u64, device: u64, meta: &Meta, modified: i64) -> Block {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        block.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
    };
    let octal = |number: u64, greatest: u64, digits: usize| {
        format!("{:0digits$o}\0", if number > greatest { 0 } else { number })
    };
    put(0, path.get(..NAME).unwrap_or(path));
    put(100, octal(u64::from(meta.mode), SHORT, 7).as_bytes());
    put(108, octal(u64::from(meta.uid), SHORT, 7).as_bytes());
    put(116, octal(u64::from(meta.gid), SHORT, 7).as_bytes());
    put(124, octal(size, LONG, 11).as_bytes());
    put(136, octal(u64::try_from(modified).unwrap_or_default(), LONG, 11).as_bytes());
    put(148, b"        ");
    put(156, &[flag]);
    put(157, link.get(..NAME).unwrap_or(link));
    put(257, b"ustar\x0000");
    put(329, octal(rustix::fs::major(device).into(), SHORT, 7).as_bytes());
    put(337, octal(rustix::fs::minor(device).into(), SHORT, 7).as_bytes());
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block.iter_mut().skip(148).zip(sum.as_bytes()).for_each(|(place, byte)| *place = *byte);
    block
}
