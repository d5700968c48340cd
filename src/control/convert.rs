//! `convert`: the kind of an image. Called by `cli`.

use super::defined_stacks;
use super::progress::Progress;
use crate::error::Result;
use crate::image::convert::{self, ConvertMethod, ImageKind};
use crate::image::{find, prune, recovery};
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::copy::CopyMethod;
use crate::tree::usage;

/// Converts an image to a stack, or to a directory. Returns the method, for a person.
///
/// # Errors
/// A missing image, one in use, or one that others stand on; a file that cannot be created.
pub(crate) fn convert(
    paths: &Paths,
    name: &Name,
    to_stack: bool,
    progress: &mut Progress<'_>,
) -> Result<String> {
    recovery::recover(paths);
    let kind = if to_stack { ImageKind::Stack } else { ImageKind::Directory };
    let total = || usage::of(find::by_name(paths, name)?.path()).ok();
    let mut bar = progress.bar(name.as_str(), &total)?;
    defined_stacks::record(paths)?;
    let image = find::by_name(paths, name);
    let others =
        image.map_or_else(|| Ok(Vec::new()), |image| super::remove::on(paths, name, image.path()))?;
    let method = convert::convert(paths, name, kind, &others, &mut |bytes| bar.advance(bytes))?;
    if !to_stack && method != ConvertMethod::Unchanged {
        prune::after_removal(paths);
    }
    Ok(match method {
        ConvertMethod::Unchanged => "unchanged".to_owned(),
        ConvertMethod::Moved => "its directory was moved".to_owned(),
        ConvertMethod::Copied(copied) if copied.method == CopyMethod::Reflink => {
            format!("copied, sharing blocks ({})", size::rounded(copied.bytes))
        }
        ConvertMethod::Copied(copied) => format!("copied {}", size::rounded(copied.bytes)),
    })
}
