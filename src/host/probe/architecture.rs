//! The architectures of programs of a tree. Called by the methods of `Tree` and their callers. It executes none of
//! them.

use super::{HEAD, Tree};
use crate::plan::init;
use std::path::Path;

impl Tree {
    /// Returns the architecture of a program of the tree, or of the interpreter of a script. `None` if there
    /// is no such program.
    pub(crate) fn architecture(&self, program: &Path) -> Option<init::Architecture> {
        let binary = self.read_start(program, HEAD)?;
        match init::architecture(&binary).ok()? {
            init::Architecture::Any => {
                let line = binary.split(|byte| *byte == b'\n').next()?;
                let line = String::from_utf8_lossy(line.get(2..)?).into_owned();
                let interpreter = self.read_start(Path::new(line.split_whitespace().next()?), HEAD)?;
                init::architecture(&interpreter).ok()
            }
            named => Some(named),
        }
    }

    /// Returns the first bytes of a program, and its architecture. `None` if there is no such program.
    pub(crate) fn program_head(&self, program: &Path) -> Option<(Vec<u8>, init::Architecture)> {
        let head = self.read_start(program, HEAD)?;
        let architecture = init::architecture(&head).ok()?;
        Some((head, architecture))
    }

    /// Returns the name of the architecture of a program, as in [`std::env::consts::ARCH`]. `None` if there is no
    /// such program.
    pub(crate) fn architecture_name(&self, program: &Path) -> Option<&'static str> {
        match self.architecture(program)? {
            init::Architecture::Named(name) => Some(name),
            init::Architecture::Any => None,
        }
    }
}
