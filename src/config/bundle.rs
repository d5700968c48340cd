//! Reads `config.json` of an OCI runtime bundle (runtime specification, "Bundle"). Called by `config`; the
//! types of the document are in `document`, the settings of a machine that follow from it in `settings`.
//!
//! The reader follows the specification: it ignores unknown properties, and reports the first error of syntax
//! or type with its place. It knows nothing of machines.

mod devices;
mod document;
mod layer_builder;
mod mounts;
mod process;
mod properties;
mod resources;
mod seccomp;
mod settings;

pub use settings::layer;
pub(super) use settings::load;

use crate::error::{Context, Error, Result};
use document::Document;
use serde_path_to_error::Segment;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The name of the file in a bundle.
const NAME: &str = "config.json";

/// The maximum size of the file.
const MAX_SIZE: u64 = 16 << 20;

/// Reads the file of a bundle once.
///
/// # Errors
/// Any error of open(2) and read(2), another type of file, or a file above 16 MiB.
fn bytes(file: &Path) -> Result<Vec<u8>> {
    let doing = || "cannot read the file";
    let mut options = std::fs::OpenOptions::new();
    let open = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(file);
    let open = open.context(doing).map_err(|error| error.with_hint("name the directory of a bundle"))?;
    if !open.metadata().context(doing)?.is_file() {
        return Err(Error::new("not a regular file"));
    }
    let mut bytes = Vec::new();
    open.take(MAX_SIZE + 1).read_to_end(&mut bytes).context(doing)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Error::new("the file is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Parses the text of the file.
///
/// # Errors
/// The first error of syntax with its line, or of a type with its JSON pointer.
fn parse(text: &[u8]) -> Result<Document<'_>> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let document: Document<'_> = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => push(&mut pointer, &index.to_string()),
                Segment::Map { key } => push(&mut pointer, key),
                Segment::Enum { variant } => push(&mut pointer, variant),
                Segment::Unknown => {}
            }
        }
        let cause = Error::new(error.inner().to_string());
        if error.inner().is_data() && !pointer.is_empty() { cause.context(pointer) } else { cause }
    })?;
    json.end().map_err(|error| Error::new(error.to_string()))?;
    match document.oci_version.split(['.', '-', '+']).next() {
        Some("1") => Ok(document),
        _ => Err(Error::new(format!(
            "version {:?} of the runtime specification is not supported",
            document.oci_version
        ))
        .context("/ociVersion")
        .with_hint("use a bundle of version 1")),
    }
}

/// Appends a key to a JSON pointer (RFC 6901), without control characters.
fn push(pointer: &mut String, key: &str) {
    pointer.push('/');
    pointer.extend(key.replace('~', "~0").replace('/', "~1").escape_debug());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_place() {
        for (text, expected) in [
            (r#"{"ociVersion": "1.0.0", "process": {"args": ["a", 1]}}"#, "/process/args/1: invalid type"),
            (
                r#"{"ociVersion": "1.0.0", "linux": {"resources": {"pids": {"limit": "x"}}}}"#,
                "/linux/resources/pids/limit: ",
            ),
            (r#"{"ociVersion": "1.0.0","#, "EOF while parsing"),
            (r#"{"ociVersion": "1.0.0"} x"#, "trailing characters"),
            (r#"{"hostname": "a"}"#, "missing field `ociVersion`"),
            (r#"{"ociVersion": "2.0.0"}"#, "/ociVersion: version \"2.0.0\""),
            ("[]", "invalid"),
            ("", "EOF"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn minor_versions_and_unknown_properties_are_read() {
        for version in ["1.0.0", "1.0.2-dev", "1.2.1", "1"] {
            let text =
                format!(r#"{{"ociVersion": "{version}", "vm": {{}}, "linux": {{"timeOffsets": {{}}}}}}"#);
            assert!(parse(text.as_bytes()).is_ok(), "{version}");
        }
    }

    #[test]
    fn pointers_are_escaped() {
        let mut pointer = String::new();
        push(&mut pointer, "a/b~c\n");
        assert_eq!(pointer, "/a~1b~0c\\n");
    }
}
