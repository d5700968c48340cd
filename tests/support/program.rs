//! Static C programs that tests run in guests and on hosts. Called by tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::job;

/// Builds a source file of the repository, with additional flags of cc(1). Each call creates a separate file.
pub fn build(source: &str, flags: &[&str]) -> PathBuf {
    static BUILT: AtomicU32 = AtomicU32::new(0);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let name = source.file_stem().expect("a source file").to_string_lossy().into_owned();
    let number = BUILT.fetch_add(1, Ordering::Relaxed);
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o"]).arg(&program).arg(&source).args(flags);
    job::run(&mut cc, Duration::from_secs(60)).success(&format!("build '{}'", source.display()));
    program
}
