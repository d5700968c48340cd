//! Layouts: the choice of an image, and documents that lie.

use super::*;
use crate::image::oci::document::{CONFIG, INDEX, LAYER_GZIP, MANIFEST};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A layout in work.
struct Maker(tempfile::TempDir);

impl Maker {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(directory)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Writes a blob. Returns the first properties of its descriptor.
    fn blob(&self, media_type: &str, text: &str) -> String {
        let digest = Digest::of(text.as_bytes());
        fs::write(self.at(&digest.blob()), text).unwrap();
        format!(r#""mediaType":"{media_type}","digest":"{digest}","size":{}"#, text.len())
    }

    /// Writes an image of two layers, which do not exist. Returns the first properties of its descriptor.
    fn image(&self, mark: &str) -> String {
        let diff_ids: Vec<String> = ["a", "b"].map(|of| format!(r#""{}""#, Digest::of(of.as_bytes()))).into();
        let diff_ids = diff_ids.join(",");
        let config = format!(
            r#"{{"os":"linux","config":{{"Cmd":["{mark}"]}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
        );
        let config = self.blob(CONFIG, &config);
        let layer = |of: &str| {
            format!(r#"{{"mediaType":"{LAYER_GZIP}","digest":"{}","size":9}}"#, Digest::of(of.as_bytes()))
        };
        let layers = [layer("1"), layer("2")].join(",");
        self.blob(MANIFEST, &format!(r#"{{"schemaVersion":2,"config":{{{config}}},"layers":[{layers}]}}"#))
    }

    /// Writes an index of descriptors as a blob.
    fn nested(&self, descriptors: &[String]) -> String {
        self.blob(INDEX, &index(descriptors))
    }

    /// Reads an image of an index of descriptors.
    fn read(&self, descriptors: &[String], tag: Option<&str>) -> Result<String> {
        fs::write(self.at("index.json"), index(descriptors)).unwrap();
        let directory = fs::File::open(self.0.path()).unwrap();
        let layout = Layout::find(directory.as_fd()).unwrap().unwrap();
        layout.image(tag, &"linux/amd64".parse().unwrap()).map(|image| image.config.config.cmd.concat())
    }
}

fn index(descriptors: &[String]) -> String {
    let all: Vec<String> = descriptors.iter().map(|one| format!("{{{one}}}")).collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, all.join(","))
}

fn tagged_as(image: &str, tag: &str) -> String {
    format!(r#"{image},"annotations":{{"{}":"{tag}"}}"#, document::REF_NAME)
}

fn on(image: &str, os: &str, architecture: &str) -> String {
    format!(r#"{image},"platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
}

#[test]
fn images_are_chosen_by_tag_and_platform() {
    let layout = Maker::new();
    let (one, two) = (layout.image("one"), layout.image("two"));
    assert_eq!(layout.read(std::slice::from_ref(&one), None).unwrap(), "one");
    let tagged = [tagged_as(&one, "1"), tagged_as(&two, "2")];
    assert_eq!(layout.read(&tagged, Some("2")).unwrap(), "two");
    let error = layout.read(&tagged, None).unwrap_err();
    assert!(error.hint().unwrap().contains("'1', '2'"), "{error}");
    let error = layout.read(&tagged, Some("3")).unwrap_err();
    assert!(error.to_string().contains("no image with the tag '3'") && error.hint().is_some());
    let platforms = [on(&one, "linux", "arm64"), on(&two, "linux", "amd64"), on(&one, "unknown", "unknown")];
    assert_eq!(layout.read(&platforms, None).unwrap(), "two");
    let nested = layout.nested(&platforms);
    assert_eq!(layout.read(&[tagged_as(&nested, "x")], Some("x")).unwrap(), "two");
    let error = layout.read(&platforms[..1], None).unwrap_err();
    assert!(error.hint().unwrap().contains("'linux/arm64'"), "{error}");
    assert!(layout.read(&[one, two], None).unwrap_err().to_string().contains("several images"));
}

#[test]
fn documents_that_lie_are_refused() {
    let layout = Maker::new();
    let image = layout.image("one");
    let read = |descriptor: &str| layout.read(&[descriptor.to_owned()], None).unwrap_err().to_string();
    let digest = image.split('"').nth(7).unwrap().to_owned();
    let sized = |size: &str| format!(r#""mediaType":"{MANIFEST}","digest":"{digest}","size":{size}"#);
    assert!(read(&sized("1")).contains("bytes instead of 1"));
    assert!(read(&sized("99999999")).contains("larger than 4194304 bytes"));
    assert!(read(&image.replace("sha256:", "sha512:")).contains("is not a SHA-256 digest"));
    let path = format!(r#""mediaType":"{MANIFEST}","digest":"sha256:../../../index.json","size":9"#);
    assert!(read(&path).contains("is not a digest"));
    assert!(read(&sized("1").replace(MANIFEST, "text/plain")).contains("it has no image"));
    // The content of a blob is another one.
    let blob = layout.at(&Digest::parse(&digest).unwrap().blob());
    let text = fs::read_to_string(&blob).unwrap();
    fs::write(&blob, text.replace(":9", ":8")).unwrap();
    assert!(read(&image).contains("its digest is sha256:"));
    // It leads out of the layout, or blocks.
    for file in ["/etc/passwd", "../../../../../../../../etc/passwd", "/dev/zero"] {
        fs::remove_file(&blob).unwrap();
        symlink(file, &blob).unwrap();
        assert!(read(&image).contains("leads out of the image"), "{file}");
    }
    fs::remove_file(&blob).unwrap();
    let directory = fs::File::open(layout.at("blobs/sha256")).unwrap();
    let name = blob.file_name().unwrap();
    rustix::fs::mknodat(directory, name, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(read(&image).contains("is not a file"));
}

#[test]
fn indexes_end() {
    let layout = Maker::new();
    let mut descriptor = layout.image("one");
    for depth in 0..6 {
        let read = layout.read(&[descriptor.clone()], None);
        assert_eq!(read.is_ok(), depth < DEEPEST, "{depth}");
        descriptor = layout.nested(&[descriptor]);
    }
}

#[test]
fn a_root_is_no_layout() {
    let layout = Maker::new();
    fs::write(layout.at("index.json"), "{}").unwrap();
    fs::write(layout.at("manifest.json"), "{}").unwrap();
    let found = || Layout::find(fs::File::open(layout.0.path()).unwrap().as_fd());
    assert!(found().unwrap().is_some());
    fs::create_dir(layout.at("etc")).unwrap();
    assert!(found().unwrap().is_none());
    fs::remove_dir(layout.at("etc")).unwrap();
    for file in ["index.json", "manifest.json"] {
        fs::remove_file(layout.at(file)).unwrap();
    }
    assert!(found().unwrap().is_none());
    fs::write(layout.at("repositories"), "{}").unwrap();
    assert!(found().unwrap_err().to_string().contains("before version 1.10"));
}
