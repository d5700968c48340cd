//! Front ends under the names of other programs: they parse the command line of the program and print in its
//! format. Called by `main`.

pub mod autopkgtest;
pub mod schroot;

use crate::error::{Error, Result};

/// Refuses a program with the rights of its owner: schroot(1) has them, and Coracle does not check its caller.
fn refuse_setuid() -> Result<()> {
    let is_same = rustix::process::getuid() == rustix::process::geteuid()
        && rustix::process::getgid() == rustix::process::getegid();
    if is_same { Ok(()) } else { Err(Error::new("must not be installed setuid or setgid")) }
}
