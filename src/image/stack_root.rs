//! The root of a stack that no machine runs on, mounted to be changed. Called by `clone`, and by `control` for first
//! settings and copies. The caller holds the locks of the image.

use super::freeze;
use super::layers::Layers;
use super::stack::{Stack, StackPart};
use crate::error::{Error, Result};
use crate::sys::guest_files::GuestRoot;
use crate::sys::overlay::WORK;
use crate::tree;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mounted root, detached.
#[derive(Debug)]
pub(crate) struct StackRoot {
    mount: OwnedFd,
    /// The stack with a writable layer.
    written: Option<PathBuf>,
}

impl StackRoot {
    /// Mounts the root of a stack.
    ///
    /// # Errors
    /// An invalid stack, or layers that the kernel refuses.
    pub(crate) fn mount(stack: &Path) -> Result<Self> {
        let root = Stack::read(stack)?.root;
        let mount = Layers::of_host().writable(&root)?;
        let is_written = matches!(root, StackPart::Overlay { writable: Some(_), .. });
        Ok(Self { mount, written: is_written.then(|| stack.to_owned()) })
    }

    /// Mounts the root of a stack with a writable layer.
    ///
    /// # Errors
    /// As of [`Self::mount`], and a stack without one.
    pub(crate) fn mount_writable(stack: &Path) -> Result<Self> {
        let mounted = Self::mount(stack)?;
        if mounted.written.is_none() {
            return Err(Error::new(format!("'{}' is read-only", stack.display()))
                .with_hint("create a machine of its own from it with 'coracle clone'"));
        }
        Ok(mounted)
    }

    /// Returns its files.
    ///
    /// # Errors
    /// No free descriptors.
    pub(crate) fn files(&self) -> Result<GuestRoot> {
        GuestRoot::of_mount(self.mount.as_fd())
    }

    /// Unmounts it, and removes the working directory of the overlay: the next mount creates it again.
    ///
    /// # Errors
    /// A directory that cannot be removed.
    pub(crate) fn unmount(self) -> Result<()> {
        drop(self.mount);
        match self.written.as_deref().map(freeze::open_writable).transpose()?.flatten() {
            Some(writable) => tree::walk::remove(writable.as_fd(), WORK.as_ref()),
            None => Ok(()),
        }
    }
}

impl AsFd for StackRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}
