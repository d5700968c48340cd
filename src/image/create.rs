//! Creates an image of a distribution: its base is a layer of the store, which is created once for a recipe, a suite,
//! an architecture and a list of packages, and any number of images stand on it. Called by `control`.

use super::bootstrap::{Bootstrap, BootstrapOutput};
use super::clone::{self, CloneMethod};
use super::locks::{self, HeldLocks};
use super::store::Store;
use super::store::draft;
use super::store::layer::{LayerDraft, LayerInfo};
use super::{bases, find, identity};
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, Held, LockMode};
use crate::machine::name::Name;
use crate::machine::recipe::{Recipe, RecipeValues};
use crate::paths::Paths;
use crate::sys::btrfs;
use crate::sys::guest_files::GuestRoot;
use rustix::fs::Mode;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The time between two attempts to take the lock of a base.
const INTERVAL: Duration = Duration::from_millis(100);

/// A request for a new image.
#[derive(Debug)]
pub(crate) struct CreateRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The name of the image.
    pub(crate) name: &'a Name,
    /// The recipe of the distribution.
    pub(crate) recipe: &'a Recipe,
    /// The values of its placeholders.
    pub(crate) values: &'a RecipeValues,
    /// Whether the image is a directory with files of its own.
    pub(crate) is_directory: bool,
    /// Whether a base is created even if there is one.
    pub(crate) is_refreshed: bool,
}

/// A created image.
#[derive(Debug)]
pub(crate) struct Created {
    /// Its path.
    pub(crate) path: PathBuf,
    /// The method by which it was created from its base.
    pub(crate) method: CloneMethod,
    /// The base.
    pub(crate) base: Base,
    /// The time for the image alone.
    pub(crate) duration: Duration,
    /// The message about files of its identity that could not be renewed.
    pub(crate) kept_identity: Option<String>,
}

/// The base of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// It existed, for this time.
    Existing(Duration),
    /// It was created, in this time.
    Created(Duration),
}

/// Creates an image.
///
/// # Errors
/// An existing image of the name, a missing program or key, or a program that fails. Nothing is left then.
pub(crate) fn create(request: &CreateRequest<'_>, output: &mut BootstrapOutput<'_>) -> Result<Created> {
    let CreateRequest { name, recipe, values, .. } = request;
    create_image(request, output).map_err(|error| {
        error.context(format!("cannot create '{name}' from {}:{}", recipe.name, values.suite))
    })
}

fn create_image(request: &CreateRequest<'_>, output: &mut BootstrapOutput<'_>) -> Result<Created> {
    let CreateRequest { paths, name, .. } = *request;
    find::refuse_suffix(name)?;
    clone::refuse_existing(paths, name)?;
    clone::create_directory(&paths.images())?;
    let store = Store::of(paths);
    draft::sweep_images(&paths.images());
    draft::sweep_store(&store);
    let mut held = HeldLocks::default();
    held.take(paths, [locks::of_name(paths, name, &paths.images().join(name.as_str()))])?;
    // Another command may have created it since.
    clone::refuse_existing(paths, name)?;
    let key = key(request.recipe, request.values);
    let base_lock = lock_base(paths, &key, output)?;
    // Layers without links are not removed meanwhile.
    let mut users = store.lock(LockMode::Shared)?;
    let mut base = if request.is_refreshed {
        None
    } else {
        bases::find(&store, &key).map(|(tree, age)| (tree, Base::Existing(age)))
    };
    let since = Instant::now();
    if base.is_none() {
        drop(users);
        let layer = build_base(request, &store, output)?;
        users = store.lock(LockMode::Shared)?;
        base = Some((bases::publish(&store, &key, layer)?, Base::Created(since.elapsed())));
    }
    drop(base_lock);
    let (tree, base) = base.ok_or_else(|| Error::new("the base is missing"))?;
    let since = Instant::now();
    let cloned = clone::of_base(paths, &tree, name, request.is_directory, &mut |_| output(None))?;
    drop(users);
    let clone::Cloned { path, method, kept_identity, .. } = cloned;
    Ok(Created { path, method, base, duration: since.elapsed(), kept_identity })
}

/// Returns the name of a base: all that its files depend on, but for the time.
fn key(recipe: &Recipe, values: &RecipeValues) -> String {
    let RecipeValues { suite, architecture, mirror, packages } = values;
    let mut packages = packages.clone();
    packages.sort();
    let all = serde_json::to_vec(&(recipe, suite, architecture, mirror, packages)).unwrap_or_default();
    let digest: String = Sha256::digest(all).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let suite = suite.replace('/', "-");
    format!("{}-{suite}-{architecture}-{digest}", recipe.name)
}

/// Waits for other commands that create the same base.
fn lock_base(paths: &Paths, key: &str, output: &mut BootstrapOutput<'_>) -> Result<Held> {
    let mut line = Some("waiting for another command, which creates the same base");
    loop {
        if let Some(held) = lock::attempt(paths, &format!("base-{key}"))? {
            return Ok(held);
        }
        output(line.take())?;
        std::thread::sleep(INTERVAL);
    }
}

/// Creates the files of a base.
fn build_base(
    request: &CreateRequest<'_>,
    store: &Store,
    output: &mut BootstrapOutput<'_>,
) -> Result<LayerDraft> {
    let CreateRequest { paths, name, recipe, values, .. } = *request;
    let bootstrap = Bootstrap::find(paths, recipe, values)?;
    let layer = LayerDraft::create(store, &LayerInfo::of(name))?;
    let tree = layer.path().join(LayerDraft::tree_name());
    let creating = || format!("cannot create '{}'", tree.display());
    let name = LayerDraft::tree_name();
    let is_subvolume =
        btrfs::lies_on(layer.directory()) && btrfs::create(layer.directory(), name.as_ref()).is_ok();
    if !is_subvolume {
        rustix::fs::mkdirat(layer.directory(), name, Mode::from_raw_mode(0o755)).context(creating)?;
    }
    bootstrap.run(&tree, output)?;
    identity::clear(&GuestRoot::of_tree(&tree)?)?;
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::recipe::RecipeStep;
    use std::collections::BTreeMap;
    use std::fs;

    fn recipe(program: &str) -> Recipe {
        let arguments = ["{tree}", "{suite}"].map(str::to_owned).to_vec();
        Recipe {
            name: "own".into(),
            suite: "one".into(),
            architectures: BTreeMap::new(),
            packages: Vec::new(),
            keyrings: vec!["/keys".into()],
            keyring_package: "own-keyring".into(),
            mirror: None,
            requires_mirror: false,
            steps: vec![RecipeStep { program: program.into(), package: "maker".into(), arguments }],
        }
    }

    fn values(packages: &[&str]) -> RecipeValues {
        RecipeValues {
            suite: "one".into(),
            architecture: "amd64".into(),
            mirror: None,
            packages: packages.iter().map(|package| (*package).to_owned()).collect(),
        }
    }

    #[test]
    fn a_base_has_the_name_of_all_that_it_depends_on() {
        let own = recipe("make-own");
        let one = key(&own, &values(&["a", "b"]));
        assert!(one.starts_with("own-one-amd64-"), "{one}");
        assert_eq!(one, key(&own, &values(&["b", "a"])));
        assert_ne!(one, key(&own, &values(&["a"])));
        assert_ne!(one, key(&recipe("other"), &values(&["a", "b"])));
    }

    #[test]
    fn missing_programs_and_keys_are_named_with_their_packages() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let (own, values, name) = (recipe("make-own"), values(&[]), Name::new("web").unwrap());
        let request = CreateRequest {
            paths: &paths,
            name: &name,
            recipe: &own,
            values: &values,
            is_directory: false,
            is_refreshed: false,
        };
        let hint = || create(&request, &mut |_| Ok(())).unwrap_err();
        let error = hint();
        assert!(error.to_string().contains("the program 'make-own' is not installed"), "{error}");
        assert_eq!(error.hint(), Some("install the package 'maker'"));
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/make-own"), "").unwrap();
        assert_eq!(hint().hint(), Some("install the package 'own-keyring'"));
        assert_eq!(fs::read_dir(paths.images()).unwrap().count(), 0);
    }
}
