//! Installs coracle for the tests: `make install` once per test run, into a staging tree. Called by `host`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::{job, state};

static STAGED: OnceLock<PathBuf> = OnceLock::new();

/// Returns the binary under test: `CORACLE_BINARY` (the release binary, in `make test`) or that of cargo.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("CORACLE_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_coracle")), PathBuf::from);
    assert!(path.is_absolute() && path.is_file(), "there is no binary '{}'", path.display());
    path
}

/// Returns a directory with the installed files below `usr`, to be copied to a host's root.
pub fn staged() -> &'static Path {
    STAGED.get_or_init(|| {
        let dir = state::shared("staging");
        let mut make = Command::new("make");
        make.arg("--no-print-directory").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).arg("install");
        make.arg("PREFIX=/usr").arg(format!("DESTDIR={}", dir.display()));
        make.arg(format!("BINARY={}", binary().display()));
        // A parent make would pass on its job server and its flags.
        make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
        job::run(&mut make, Duration::from_secs(60)).success("make install");
        dir
    })
}
