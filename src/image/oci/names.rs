//! The names of OCI layouts and archives on the command line, as those of skopeo(1): `oci:DIR[:TAG]`,
//! `oci-archive:FILE[:TAG]` and `docker-archive:FILE[:NAME]`. Called by `import` and `export`.

use std::path::PathBuf;

/// The kind of a place of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A directory in the OCI layout.
    OciDirectory,
    /// An archive of such a directory.
    OciArchive,
    /// An archive of `docker save`.
    DockerArchive,
}

/// The words of the kinds.
const WORDS: [(&str, Transport); 3] = [
    ("oci:", Transport::OciDirectory),
    ("oci-archive:", Transport::OciArchive),
    ("docker-archive:", Transport::DockerArchive),
];

/// A named place of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransportName {
    /// Its kind.
    pub(crate) transport: Transport,
    /// Its path.
    pub(crate) path: PathBuf,
    /// The tag of an image.
    pub(crate) tag: Option<String>,
}

impl TransportName {
    /// Parses a name. `None` for a path without a kind.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (rest, transport) =
            WORDS.iter().find_map(|(word, transport)| Some((text.strip_prefix(word)?, *transport)))?;
        // A name of Docker has slashes, and a tag of its own: it begins after the first colon.
        let split = match transport {
            Transport::DockerArchive => rest.split_once(':'),
            _ => rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')),
        };
        let (path, tag) = split.map_or((rest, None), |(path, tag)| (path, Some(tag.to_owned())));
        let tag = tag.filter(|tag| !tag.is_empty());
        Some(Self { transport, path: path.into(), tag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_path() {
        let parsed = |text: &str| {
            let TransportName { transport, path, tag } = TransportName::parse(text)?;
            Some((transport, path.to_str().unwrap().to_owned(), tag.unwrap_or_default()))
        };
        for (text, transport, path, tag) in [
            ("oci:dir", Transport::OciDirectory, "dir", ""),
            ("oci:/a/b:1.0", Transport::OciDirectory, "/a/b", "1.0"),
            ("oci:/a:b/c", Transport::OciDirectory, "/a:b/c", ""),
            ("oci-archive:a.tar:x", Transport::OciArchive, "a.tar", "x"),
            ("docker-archive:a.tar:docker.io/x/y:1", Transport::DockerArchive, "a.tar", "docker.io/x/y:1"),
        ] {
            assert_eq!(parsed(text), Some((transport, path.into(), tag.into())), "{text}");
        }
        assert_eq!(parsed("web.tar"), None);
        assert_eq!(parsed("dir:a"), None);
    }
}
