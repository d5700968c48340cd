//! Adds a version to an image: its directory `NAME.v` gets an entry with boot attempts (systemd.v(7)), which the next
//! start tries. Called by `control`. An image without versions becomes the first one.

use super::import::{self, ImportSource, Imported, VersionRequest};
use super::locks::{self, HeldLocks};
use super::{find, named_files, refuse, users, version};
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, LockMode};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::tree::copy::CopyProgress;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// The version of an image without versions.
const FIRST: &str = "0";

/// A request for an update.
pub(crate) struct UpdateRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The image.
    pub(crate) name: &'a Name,
    /// The source of the new version.
    pub(crate) source: ImportSource,
    /// The version. `None` for the present time.
    pub(crate) version: Option<&'a str>,
    /// The number of boot attempts.
    pub(crate) tries: u32,
    /// The limit of the bytes of all files.
    pub(crate) largest: Option<u64>,
    /// Images that definitions of machines stand on.
    pub(crate) others: &'a [Name],
}

/// Adds a version, and returns it with its name.
///
/// # Errors
/// A missing image, a version that is not newer, a source that is refused, or a file that cannot be created.
pub(crate) fn update(
    request: UpdateRequest<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<(String, Imported)> {
    let name = request.name;
    add_version(request, progress).map_err(|error| error.context(format!("cannot update image '{name}'")))
}

fn add_version(request: UpdateRequest<'_>, progress: &mut CopyProgress<'_>) -> Result<(String, Imported)> {
    let UpdateRequest { paths, name, tries, largest, .. } = request;
    let Some(_updating) = lock::attempt(paths, &format!("update-{name}"))? else {
        return Err(Error::new("another command updates it").with_hint("try again when that has ended"));
    };
    let image = find::existing(paths, name)?;
    refuse::of_package(paths, &image)?;
    let suffix = match &image {
        RootSource::Directory(_) => "",
        RootSource::Image(_) => ".raw",
        RootSource::Stack(_) => {
            return Err(Error::new("it is a stack, and the new version would be a directory")
                .with_hint(format!("convert it first: coracle convert {name} directory")));
        }
    };
    refuse_verified(image.path())?;
    let version = request.version.map_or_else(now, str::to_owned);
    check(&version)?;
    let directory = match versions_of(image.path()) {
        Some(directory) => {
            refuse_older(&directory, name, suffix, &version)?;
            directory
        }
        None => {
            if version::compare(&version, FIRST) != Ordering::Greater {
                return Err(not_newer(&version, FIRST));
            }
            make_versioned(&request, &image, suffix)?
        }
    };
    let path = directory.join(format!("{name}_{version}+{tries}"));
    let is_disk = !suffix.is_empty();
    let request = VersionRequest { paths, name, source: request.source, path, is_disk, largest };
    Ok((version, import::import_version(request, progress)?))
}

/// Refuses an image with hashes: a version has another name, and would start without verification.
fn refuse_verified(image: &Path) -> Result<()> {
    let refused = |by: String| {
        Error::new(format!("{by} verifies the image, and not a new version")).with_hint(
            "create the version by hand, with its hashes beside it: NAME.raw.v/NAME_VERSION.raw and \
             NAME_VERSION.roothash (systemd.v(7))",
        )
    };
    if image.extension().is_none_or(|suffix| suffix != "raw") {
        return Ok(());
    }
    for suffix in ["roothash", "roothash.p7s", "usrhash", "usrhash.p7s", "verity"] {
        let file = image.with_extension(suffix);
        if named_files::exists(&file)? {
            return Err(refused(format!("'{}'", file.display())));
        }
    }
    for attribute in ["user.verity.roothash", "user.verity.usrhash"] {
        let mut hash = [0; 1024];
        if rustix::fs::getxattr(image, attribute, &mut hash[..]).is_ok() {
            return Err(refused(format!("the attribute '{attribute}'")));
        }
    }
    Ok(())
}

/// Returns the directory `NAME.v` of a version. `None` for an image without versions.
fn versions_of(image: &Path) -> Option<PathBuf> {
    let directory = image.parent()?;
    directory.extension().is_some_and(|suffix| suffix == "v").then(|| directory.to_owned())
}

/// Moves an image into a new directory of versions, as the first one: at each moment one of both is found.
fn make_versioned(request: &UpdateRequest<'_>, image: &RootSource, suffix: &str) -> Result<PathBuf> {
    let UpdateRequest { paths, name, others, .. } = request;
    let path = image.path();
    refuse::writable_link(image)?;
    refuse::mounts(path)?;
    refuse::read_only(name, path)?;
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_image(paths, name, path, LockMode::Exclusive)?)?;
    refuse::used(path, &users::with_links(paths, path)?, others)?;
    let directory = path.with_file_name(format!("{name}{suffix}.v"));
    let creating = || format!("cannot create '{}'", directory.display());
    match std::fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).context(creating);
        }
        _ => {}
    }
    let first = directory.join(format!("{name}_{FIRST}{suffix}"));
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    if let Err(errno) = rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &first, flags) {
        // Empty, unless there are versions in it.
        let _ = std::fs::remove_dir(&directory);
        return Err(errno).context(creating);
    }
    Ok(directory)
}

fn refuse_older(directory: &Path, name: &Name, suffix: &str, version: &str) -> Result<()> {
    match version::latest(directory, name.as_str(), suffix) {
        Some(latest) if version::compare(version, &latest) != Ordering::Greater => {
            Err(not_newer(version, &latest))
        }
        _ => Ok(()),
    }
}

fn not_newer(version: &str, latest: &str) -> Error {
    Error::new(format!("version '{version}' is not newer than '{latest}'"))
        .with_hint("name a newer one: --version=VERSION")
}

/// Refuses a text that another program would not read as a version.
fn check(version: &str) -> Result<()> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-~^".contains(&byte);
    if !version.is_empty() && version.len() <= 64 && version.bytes().all(is_letter) {
        return Ok(());
    }
    Err(Error::usage(format!("'{version}' is not a version"))
        .with_hint("write letters, digits and .-~^, for example 2.1"))
}

/// Returns the present time as a version.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%d%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host() -> (tempfile::TempDir, Paths, Name) {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let paths = Paths::below(root.path());
        fs::create_dir_all(root.path().join("new/usr")).unwrap();
        fs::create_dir_all(paths.images().join("web/usr")).unwrap();
        (root, paths, Name::new("web").unwrap())
    }

    fn add(paths: &Paths, name: &Name, source: &Path, version: &str) -> Result<PathBuf> {
        let source = ImportSource::open(source)?;
        let version = Some(version);
        let request = UpdateRequest { paths, name, source, version, tries: 3, largest: None, others: &[] };
        update(request, &mut |_| Ok(())).map(|(_, imported)| imported.path)
    }

    #[test]
    fn an_image_gets_versions() {
        let (root, paths, name) = host();
        let (source, images) = (root.path().join("new"), paths.images());
        let path = add(&paths, &name, &source, "1").unwrap();
        assert_eq!(path, images.join("web.v/web_1+3"));
        assert!(images.join("web.v/web_0/usr").is_dir() && !images.join("web").exists());
        assert_eq!(find::by_name(&paths, &name).unwrap().path(), path);
        add(&paths, &name, &source, "1.1").unwrap();
        for (version, expected) in
            [("1.1", "not newer than '1.1'"), ("1", "not newer"), ("a+b", "is not a version")]
        {
            let error = add(&paths, &name, &source, version).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        fs::create_dir_all(images.join("shop.mstack/rw")).unwrap();
        let error = add(&paths, &Name::new("shop").unwrap(), &source, "1").unwrap_err();
        assert!(error.hint().unwrap().contains("coracle convert shop directory"), "{error}");
        assert_eq!(fs::read_dir(images.join("web.v")).unwrap().count(), 3);
    }

    #[test]
    fn one_update_at_a_time() {
        let (root, paths, name) = host();
        let held = lock::attempt(&paths, "update-web").unwrap();
        let error = add(&paths, &name, &root.path().join("new"), "1").unwrap_err().to_string();
        assert!(error.contains("another command updates it"), "{error}");
        drop(held);
        add(&paths, &name, &root.path().join("new"), "1").unwrap();
    }

    #[test]
    fn an_image_with_hashes_keeps_its_name() {
        let (root, paths, _) = host();
        let (image, hash) = (paths.images().join("os.raw"), paths.images().join("os.roothash"));
        fs::write(&image, "").unwrap();
        fs::write(&hash, "00").unwrap();
        let error = add(&paths, &Name::new("os").unwrap(), &root.path().join("new"), "1").unwrap_err();
        assert!(error.to_string().contains("os.roothash' verifies the image"), "{error}");
        assert!(image.is_file() && !paths.images().join("os.raw.v").exists());
    }
}
