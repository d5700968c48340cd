//! The root trees of hosts and guests: found in the cache, or built by `tests/trees/build.sh`. Called by
//! `host`. A tree is a template: it is copied or used as the lower layer of an overlay, never written to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use super::job;

/// The first build downloads a distribution; later calls find it in the cache.
const BOUND: Duration = Duration::from_secs(3000);

static FOUND: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);

/// Returns the path of the tree `name`, one of the recipes in `tests/trees/recipes`.
pub fn tree(name: &str) -> PathBuf {
    let mut found = FOUND.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = found.get_or_insert_default();
    if let Some(path) = found.get(name) {
        return path.clone();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees/build.sh");
    let out = job::run(Command::new(script).arg(name), BOUND).success("building a tree");
    let path = PathBuf::from(out.stdout.lines().last().unwrap_or_default());
    assert!(path.is_absolute() && path.is_dir(), "build.sh printed no path for '{name}': {out}");
    found.insert(name.to_owned(), path.clone());
    path
}

/// Copies a tree. The copy may share blocks with the tree, but not files, because guests write to them.
pub fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=auto", "--"]).arg(from.join(".")).arg(to);
    job::run(&mut cp, Duration::from_secs(120)).success("copying a tree");
}
