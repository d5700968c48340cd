//! Imports an OCI image: its layers become layers of the store, which images share, and the image is a stack on them
//! with its configuration beside it. Called by `import`. The image is not trusted: documents and layers are checked
//! by their digests.

mod below;
mod docker;
mod layers;
mod layout;
mod stack;

pub(super) use layout::Layout;
pub(in crate::image) use layout::choose as choose_platform;

use crate::error::{Error, Result};
use crate::host::lock::LockMode;
use crate::image::oci::digest::Digest;
use crate::image::oci::names::Transport;
use crate::image::oci::platform::Platform;
use crate::image::snapshot::Tag;
use crate::image::store::Store;
use crate::image::{layer_files, prune};
use crate::machine::image_config::{ImageCommand, ImageConfig};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::mount;
use crate::tree::copy::CopyProgress;
use crate::tree::entry::quoted;
use layers::LayerImport;
use rustix::fd::AsFd;
use std::path::PathBuf;

/// The choice of an image among those of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageSelection {
    /// The kind of the source. `None` if its content decides.
    pub(crate) transport: Option<Transport>,
    /// The tag or name.
    pub(crate) tag: Option<String>,
    /// The platform. `None` for that of this host.
    pub(crate) platform: Option<Platform>,
    /// The registry that the source was fetched from.
    pub(crate) origin: Option<Origin>,
}

/// The registry that a layout was fetched from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The host, with a port if it has one.
    pub(crate) registry: String,
    /// The layers that are not in the layout: the store has them from this registry, whose repository has them now.
    pub(crate) held: Vec<Digest>,
}

/// The choices for a new stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct StackOptions<'a> {
    /// The choice among the images of the source.
    pub(super) selection: &'a ImageSelection,
    /// Whether no machine can change the image.
    pub(super) is_read_only: bool,
    /// The limit of the bytes of all files.
    pub(super) largest: Option<u64>,
    /// The snapshot that the existing stack becomes. `None` if there is no stack of this name.
    pub(super) former: Option<&'a Tag>,
}

/// A layer of an image.
#[derive(Debug, Clone)]
struct LayerSource {
    /// The path of its file in the layout.
    path: PathBuf,
    /// The size of the file, bytes. `None` if the layout does not say.
    size: Option<u64>,
    /// The digest of the file. `None` if the layout does not say.
    digest: Option<Digest>,
    /// The digest of the plain layer.
    diff_id: Digest,
}

/// An image in a layout.
#[derive(Debug)]
struct LayoutImage {
    /// Its configuration.
    config_text: Vec<u8>,
    /// The same, parsed.
    config: ImageConfig,
    /// The layers, the lowest first.
    layers: Vec<LayerSource>,
}

/// An imported OCI image.
#[derive(Debug)]
pub(crate) struct ImportedOci {
    /// The number of layers.
    pub(crate) layers: usize,
    /// The number of those that were in the store.
    pub(crate) shared: usize,
    /// The number of entries of the other ones.
    pub(crate) entries: u64,
    /// The line about what a machine runs.
    pub(crate) runs: String,
    /// The ports that its services listen at.
    pub(crate) ports: Vec<String>,
    /// The lines about what was left out or ignored.
    pub(crate) warnings: Vec<String>,
}

/// A finished import of a layout.
pub(super) struct StackImport {
    /// The path of the stack.
    pub(super) path: PathBuf,
    /// The bytes of all new files.
    pub(super) bytes: u64,
    /// The image.
    pub(super) image: ImportedOci,
}

/// Imports an image of a layout as a stack. The lock of the name is held.
///
/// # Errors
/// An image that is refused, or a file that cannot be created. Layers without other users are removed then.
pub(super) fn import(
    paths: &Paths,
    name: &Name,
    layout: &Layout,
    options: StackOptions<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<StackImport> {
    let selection = options.selection;
    let platform = selection.platform.clone().unwrap_or_else(Platform::of_host);
    let image = layout.image(selection.tag.as_deref(), &platform)?;
    let store = Store::of(paths);
    // No sweep removes layers before the stack has links to them.
    let users = store.lock(LockMode::Shared)?;
    let imported = import_image(paths, name, layout, &image, &store, options, progress);
    drop(users);
    if imported.is_err() {
        prune::after_removal(paths);
    }
    let mut imported = imported?;
    imported.image.warnings.extend(wrong_platform(&image.config, &platform));
    Ok(imported)
}

fn import_image(
    paths: &Paths,
    name: &Name,
    layout: &Layout,
    image: &LayoutImage,
    store: &Store,
    options: StackOptions<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<StackImport> {
    let origin = options.selection.origin.as_ref();
    let mut import = LayerImport::new(paths, name, store, (origin, options.largest));
    for (number, source) in image.layers.iter().enumerate() {
        import.add(layout, source, progress).map_err(|error| {
            let (number, of) = (number + 1, image.layers.len());
            error.context(format!("layer {number} of {of}"))
        })?;
    }
    let total = import.bytes;
    let mut go_on = |_| progress(0);
    let left = import.left(mount::open_directory(&paths.images())?.as_fd())?;
    let (path, mut warnings) =
        stack::create(paths, name, &import.layers, image, (options, left), &mut go_on)?;
    let execution = &image.config.config;
    let has_init = layer_files::of_stack(&path).is_ok_and(|layers| layer_files::has_init(&layers));
    warnings.extend(import.left_out.summary());
    let is_plain =
        |port: &&String| port.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-".contains(&byte));
    let image = ImportedOci {
        layers: image.layers.len(),
        shared: import.shared,
        entries: import.entries,
        runs: runs(name, &execution.command(), has_init),
        ports: execution.exposed_ports.keys().filter(is_plain).cloned().collect(),
        warnings,
    };
    Ok(StackImport { path, bytes: total, image })
}

/// Returns the line about what a machine on an image runs.
fn runs(name: &Name, command: &ImageCommand, has_init: bool) -> String {
    match command {
        ImageCommand::Init(_) => "it boots its init".to_owned(),
        ImageCommand::Shell(_) if has_init => "it boots its init, in place of its shell".to_owned(),
        ImageCommand::Shell(_) => format!(
            "it has a shell and no init: run it with 'coracle run -M {name}', or choose what 'coracle start' runs: \
             Boot= and Parameters= in '/etc/systemd/nspawn/{name}.nspawn'"
        ),
        ImageCommand::Supervisor(words) | ImageCommand::Program(words) => {
            let words = words.join(" ");
            let shown: String = words.chars().take(200).collect();
            format!("it runs {}", quoted(shown.as_bytes()))
        }
    }
}

/// Returns the warning about an image for another platform.
fn wrong_platform(config: &ImageConfig, platform: &Platform) -> Option<String> {
    let architecture = config.architecture.as_ref().filter(|found| **found != platform.architecture)?;
    Some(format!(
        "the image is for {}, and not for {platform}: its programs need an emulator",
        quoted(architecture.as_bytes())
    ))
}

/// Refuses an image of another system.
fn check_config(config: &ImageConfig) -> Result<Vec<Digest>> {
    if let Some(os) = config.os.as_ref().filter(|os| !matches!(os.as_str(), "linux" | "")) {
        return Err(Error::new(format!("it is an image for the system {}", quoted(os.as_bytes()))));
    }
    let rootfs = config.rootfs.as_ref().filter(|rootfs| rootfs.kind == "layers");
    let rootfs = rootfs.ok_or_else(|| Error::new("the configuration of the image has no layers"))?;
    rootfs.diff_ids.iter().map(|text| Digest::parse(text)).collect()
}
