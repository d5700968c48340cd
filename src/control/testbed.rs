//! The testbed of autopkgtest(1): the requests of its line protocol, and files in a session. Called by the front
//! end in `cli`, which begins and ends the session. Executes no program of the guest.
//!
//! The protocol is that of autopkgtest's README.virtualisation-server: a request is one line of words, separated
//! by spaces and encoded as parts of URLs.

use super::build::{running, wait_until_ready};
use super::copy::{self, CopyOwners, CopyRequest, LinkMode, Replace};
use super::progress::Progress;
use super::{guest_child, signal};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::guest_files::GuestRoot;
use rustix::fs::Mode;
use rustix::rand::{GetRandomFlags, getrandom};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The directory of scratch directories: it survives a reboot.
const SCRATCH: &str = "/var/tmp";
/// The mark of a test that waits for the preparation of a reboot.
const PREPARING: &str = "/run/autopkgtest-reboot-prepare-mark";

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The features of the server.
    Capabilities,
    /// Begin a session.
    Open,
    /// Discard all changes.
    Revert,
    /// Reboot, or wait for the reboot that a test begins itself.
    Reboot {
        /// Whether the test begins it.
        prepare_only: bool,
    },
    /// End the session.
    Close,
    /// The command that runs another one in the session.
    PrintExecuteCommand,
    /// Information about a failure.
    DebugFail,
    /// Copy a file or directory of the host.
    CopyDown(Copy),
    /// Copy a file or directory of the session.
    CopyUp(Copy),
    /// Run a shell on the terminal, in a directory and with variables.
    Shell {
        /// The directory.
        directory: PathBuf,
        /// Assignments of variables.
        variables: Vec<String>,
    },
    /// End the server.
    Quit,
}

/// The paths of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The source.
    source: PathBuf,
    /// The destination.
    destination: PathBuf,
    /// Whether both are directories: the source is merged into the destination.
    is_directory: bool,
}

impl Request {
    /// Parses a line without its end.
    ///
    /// # Errors
    /// An unknown request, or one with invalid arguments.
    pub fn parse(line: &[u8]) -> Result<Self> {
        let words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let words: Vec<Vec<u8>> = words.map(decoded).collect::<Result<_>>()?;
        let (name, arguments) = words.split_first().ok_or_else(|| Error::new("empty request"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        let invalid = || Error::new(format!("invalid arguments of request '{name}'"));
        Ok(match (name.as_str(), arguments) {
            ("capabilities", []) => Self::Capabilities,
            ("open", []) => Self::Open,
            ("revert", []) => Self::Revert,
            ("reboot", []) => Self::Reboot { prepare_only: false },
            ("reboot", [word]) if word == b"prepare-only" => Self::Reboot { prepare_only: true },
            ("close", []) => Self::Close,
            ("print-execute-command" | "print-auxverb-command", []) => Self::PrintExecuteCommand,
            ("auxverb_debug_fail" | "auxverb-debug-fail", []) => Self::DebugFail,
            ("copydown", [source, destination]) => {
                Self::CopyDown(Copy::new((source, host_path), (destination, path))?)
            }
            ("copyup", [source, destination]) => {
                Self::CopyUp(Copy::new((source, path), (destination, host_path))?)
            }
            ("shell", [directory, variables @ ..]) => Self::Shell {
                directory: path(directory).ok_or_else(invalid)?,
                variables: variables
                    .iter()
                    .map(|word| variable(word).ok_or_else(invalid))
                    .collect::<Result<_>>()?,
            },
            ("quit", []) => Self::Quit,
            (
                "capabilities"
                | "open"
                | "revert"
                | "reboot"
                | "close"
                | "print-execute-command"
                | "print-auxverb-command"
                | "auxverb_debug_fail"
                | "auxverb-debug-fail"
                | "copydown"
                | "copyup"
                | "shell"
                | "quit",
                _,
            ) => return Err(invalid()),
            _ => return Err(Error::new(format!("unknown request '{name}'"))),
        })
    }
}

impl Copy {
    /// Parses the words of two paths, each with its parser.
    fn new(from: (&[u8], PathParser), to: (&[u8], PathParser)) -> Result<Self> {
        let ((source, source_path), (destination, destination_path)) = (from, to);
        let is_directory = source.ends_with(b"/");
        let paths = source_path(source).zip(destination_path(destination));
        let (source, to) = paths.ok_or_else(|| Error::new("invalid path of a copy"))?;
        if is_directory != destination.ends_with(b"/") {
            return Err(Error::new("either both paths of a copy end in '/', or none"));
        }
        Ok(Self { source, destination: to, is_directory })
    }
}

/// Parses a word as a path.
type PathParser = fn(&[u8]) -> Option<PathBuf>;

/// Returns a path of the host without a slash at its end. A relative one begins at the working directory, which is that
/// of autopkgtest.
fn host_path(word: &[u8]) -> Option<PathBuf> {
    if word.contains(&0) {
        return None;
    }
    let path = std::path::absolute(Path::new(OsStr::from_bytes(word))).ok()?;
    Some(path.components().collect())
}

/// Returns an absolute path without a slash at its end.
fn path(word: &[u8]) -> Option<PathBuf> {
    let is_path = word.starts_with(b"/") && !word.contains(&0);
    is_path.then(|| PathBuf::from(OsString::from_vec(word.to_vec())).components().collect())
}

/// Returns an assignment. autopkgtest quotes values for a shell.
fn variable(word: &[u8]) -> Option<String> {
    let text = String::from_utf8(word.to_vec()).ok()?;
    let (name, value) = text.split_once('=')?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!name.is_empty() && !text.contains('\0')).then(|| format!("{name}={value}"))
}

/// Decodes a word: `%` and two hexadecimal digits stand for a byte.
fn decoded(word: &[u8]) -> Result<Vec<u8>> {
    let mut decoded = Vec::with_capacity(word.len());
    let mut bytes = word.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        let (high, low) = (digit(bytes.next()), digit(bytes.next()));
        let number = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(number.ok_or_else(|| Error::new("invalid encoding of a request"))?);
    }
    Ok(decoded)
}

/// Encodes a word for a reply.
pub(crate) fn encoded(word: &[u8]) -> String {
    let mut text = String::new();
    for byte in word {
        if byte.is_ascii_alphanumeric() || b"-_./=".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Returns a new name of a scratch directory. Creates nothing.
///
/// # Errors
/// Any error of getrandom(2).
pub(crate) fn choose_scratch() -> Result<PathBuf> {
    let mut random = [0u8; 6];
    getrandom(&mut random, GetRandomFlags::empty()).context(|| "cannot get random numbers")?;
    let letter = |byte: u8| char::from(b'a' + byte % 26);
    let name: String = random.into_iter().map(letter).collect();
    Ok(Path::new(SCRATCH).join(format!("autopkgtest.{name}")))
}

/// Creates the scratch directory of a session. All users of the session can create files in it.
///
/// # Errors
/// A session without its parent directory.
pub(crate) fn create_scratch(paths: &Paths, session: &Name, scratch: &Path) -> Result<()> {
    inside(paths, session, || {
        let created = GuestRoot::of_caller()?.create_directory(scratch, Mode::from_raw_mode(0o1777));
        created.context(|| format!("cannot create '{}' in session '{session}'", scratch.display()))
    })
}

/// Reboots the guest of a booted session, and waits until the next boot is ready. With `prepare_only`, a test of
/// the session waits until it may reboot the guest itself.
///
/// # Errors
/// A session that is not running, or does not become ready.
pub(crate) fn reboot(paths: &Paths, session: &Name, prepare_only: bool) -> Result<()> {
    let (record, _) = running(paths, session)?;
    if prepare_only {
        inside(paths, session, || {
            let removed = GuestRoot::of_caller()?.remove_file(Path::new(PREPARING));
            removed.context(|| format!("cannot remove '{PREPARING}' in session '{session}'"))
        })?;
    } else {
        signal::request_reboot(&record)?;
    }
    wait_until_ready(paths, session, Some(record.started))
}

fn inside(paths: &Paths, session: &Name, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (record, _) = running(paths, session)?;
    guest_child::run(&record, &signal::leader(&record)?, work)
}

/// Copies from the host into a session; the files belong to its root.
///
/// # Errors
/// A file that cannot be copied.
pub(crate) fn copy_down(paths: &Paths, session: &Name, copy: &Copy) -> Result<()> {
    copy::copy_to(paths, &copy.request(session), Progress::silent())
}

/// Copies from a session to the host; the files belong to the caller.
///
/// # Errors
/// A file that cannot be copied.
pub(crate) fn copy_up(paths: &Paths, session: &Name, copy: &Copy) -> Result<()> {
    copy::copy_from(paths, &copy.request(session), Progress::silent())
}

impl Copy {
    fn request<'a>(&'a self, session: &'a Name) -> CopyRequest<'a> {
        CopyRequest {
            name: session,
            source: &self.source,
            archived: None,
            destination: &self.destination,
            replace: if self.is_directory { Replace::Merged } else { Replace::Yes },
            links: LinkMode::Follow,
            owners: CopyOwners::Root,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_words_of_a_line() {
        assert_eq!(Request::parse(b"open").unwrap(), Request::Open);
        assert_eq!(
            Request::parse(b" reboot  prepare-only\r").unwrap(),
            Request::Reboot { prepare_only: true }
        );
        let copy = Copy { source: "/a b".into(), destination: "/c".into(), is_directory: true };
        assert_eq!(Request::parse(b"copydown /a%20b/ /c/").unwrap(), Request::CopyDown(copy));
        let here = std::env::current_dir().unwrap();
        let copy = Copy { source: "/a".into(), destination: here.join("out/b"), is_directory: false };
        assert_eq!(Request::parse(b"copyup /a out/b").unwrap(), Request::CopyUp(copy));
        let shell = Request::parse(b"shell /tmp A%3D%22b%20c%22 D=e").unwrap();
        let variables = vec!["A=b c".to_owned(), "D=e".to_owned()];
        assert_eq!(shell, Request::Shell { directory: "/tmp".into(), variables });
    }

    #[test]
    fn other_lines_are_errors() {
        for line in [
            &b""[..],
            b"  ",
            b"Open",
            b"open now",
            b"copyup /a",
            b"copyup /a/ /b",
            b"copyup a /b",
            b"copydown /a b",
            b"copyup /a%00 /b",
            b"copyup /a%2 /b",
            b"copyup /a%zz /b",
            b"shell",
            b"shell /tmp =x",
            b"reboot now",
            b"\xff\xfe",
        ] {
            assert!(Request::parse(line).is_err(), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn replies_are_encoded() {
        assert_eq!(encoded(b"/usr/bin/coracle"), "/usr/bin/coracle");
        assert_eq!(encoded(b"a,b c%"), "a%2Cb%20c%25");
        assert_eq!(decoded(encoded(b"a,b \xff").as_bytes()).unwrap(), b"a,b \xff");
    }
}
