//! Checks an image without changing it: the entries of a stack and what they lead to, and what killed verbs
//! have left of it. Called by `control`.

use super::disk::mounts::{Disk, DiskAccess};
use super::stack::{Stack, StackPart};
use super::store::redo::RedoFile;
use super::store::{Store, layer};
use super::{changes, find};
use crate::error::Result;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use std::path::Path;

/// Returns the problems of the image of a name, for messages.
///
/// # Errors
/// A missing image.
pub(crate) fn problems(paths: &Paths, name: &Name) -> Result<Vec<String>> {
    let image = find::existing(paths, name)?;
    let store = Store::of(paths);
    let mut found = Vec::new();
    match &image {
        RootSource::Directory(path) => found.extend(unreadable(path)),
        RootSource::Stack(path) => check_stack(&store, path, &mut found),
        RootSource::Image(path) => {
            found.extend(Disk::open(path, DiskAccess::Read).err().map(|error| error.to_string()));
        }
    }
    let mut operations = RedoFile::all(&store)?.into_iter().map(|redo| redo.operation);
    let is_of_name = |other: &&Path| find::name_of(other).as_ref() == Some(name);
    if changes::are_begun(paths, name)
        || operations.any(|operation| operation.images().iter().any(is_of_name))
    {
        found.push("an operation on it was interrupted: 'coracle prune' completes it".to_owned());
    }
    Ok(found)
}

fn check_stack(store: &Store, path: &Path, found: &mut Vec<String>) {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut dangling = false;
    for entry in entries.filter(|entry| entry.is_symlink()) {
        let name = entry.file_name().unwrap_or_default().display();
        match (entry.canonicalize(), std::fs::read_link(&entry)) {
            (Err(_), Ok(target)) => {
                dangling = true;
                found.push(format!(
                    "its entry '{name}' leads to '{}', which does not exist",
                    target.display()
                ));
            }
            (Ok(target), _) => {
                let layer = layer::of_path(store, &target);
                if layer.is_some_and(|layer| !layer.join("info.json").is_file()) {
                    found.push(format!("the layer of its entry '{name}' has no description"));
                }
            }
            _ => {}
        }
    }
    if dangling {
        return;
    }
    match Stack::read(path) {
        Err(error) => found.push(error.to_string()),
        Ok(stack) => {
            found.extend(stack.directories().into_iter().filter_map(|(directory, _)| unreadable(directory)));
            if stack.root == StackPart::Tmpfs {
                found.push("it has no layers: its root is empty".to_owned());
            }
        }
    }
}

/// Returns the reason why a directory cannot be read.
fn unreadable(directory: &Path) -> Option<String> {
    let error = std::fs::read_dir(directory).err()?;
    Some(
        crate::error::Error::from(error)
            .context(format!("cannot read '{}'", directory.display()))
            .to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn broken_stacks_are_named() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let web = Name::new("web").unwrap();
        assert!(problems(&paths, &web).is_err());
        let stack = root.path().join("var/lib/machines/web.mstack");
        let layer = paths.storage().join("layers/1");
        fs::create_dir_all(stack.join("rw")).unwrap();
        fs::create_dir_all(layer.join("tree")).unwrap();
        symlink(layer.join("tree"), stack.join("layer@0")).unwrap();
        let found = problems(&paths, &web).unwrap();
        assert!(found.len() == 1 && found[0].contains("has no description"), "{found:?}");
        fs::write(layer.join("info.json"), "{}").unwrap();
        assert_eq!(problems(&paths, &web).unwrap(), Vec::<String>::new());
        symlink("/missing", stack.join("layer@1")).unwrap();
        let found = problems(&paths, &web).unwrap();
        assert!(found[0].contains("'layer@1' leads to '/missing', which does not exist"), "{found:?}");
        fs::remove_file(stack.join("layer@1")).unwrap();
        fs::create_dir(stack.join("other")).unwrap();
        let found = problems(&paths, &web).unwrap();
        assert!(found[0].contains("unknown entry 'other'"), "{found:?}");
    }
}
