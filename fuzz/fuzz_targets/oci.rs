//! Documents of OCI images and the configuration beside a stack: parsed or refused without a panic. A digest that is
//! read is a name of a file, and what is read is an image with a bounded number of layers.
#![no_main]

use coracle::image::oci::digest::Digest;
use coracle::image::oci::document::{DockerManifest, Index, MOST_LAYERS, Manifest, parse};
use coracle::machine::image_config::ImageConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(index) = Index::parse(text) {
        std::hint::black_box(index);
    }
    if let Ok(manifest) = Manifest::parse(text) {
        let layers = manifest.layers();
        assert!((1..=MOST_LAYERS).contains(&layers.len()));
        for digest in layers.iter().filter_map(|layer| layer.checked_digest().ok()) {
            assert!(
                digest.digits().len() == 64 && digest.digits().bytes().all(|byte| byte.is_ascii_hexdigit())
            );
        }
    }
    if let Ok(images) = parse::<Vec<DockerManifest>>(text) {
        std::hint::black_box(images);
    }
    if let Ok(config) = ImageConfig::parse(text) {
        std::hint::black_box(config.command());
    }
    if let Ok(digest) = std::str::from_utf8(text).map(Digest::parse) {
        assert!(digest.is_err() || text.len() == 71);
    }
});
