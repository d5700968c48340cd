//! Imports of archives, until they are on the disk. Called by `main`, in the host, whose images are on ext4.

use super::boot::compare_to;
use super::contenders;
use super::managers::{self, MACHINES};
use super::run::shell;
use super::storage::timed;

const ROUNDS: usize = 8;
/// The number of small files.
const FILES: usize = 20_000;
/// The row that the others are compared to.
const TAR: &str = "tar, then sync";
/// The archives and the script that extracts one.
const PLACE: &str = "/var/tmp/bench-archives";

/// Prints all tables.
pub fn all() {
    contenders::prepare();
    managers::add("trixie", "deb");
    shell(&format!(
        "test -d {PLACE} && exit; mkdir -p {PLACE}/small/etc; cd {PLACE}
         for n in $(seq {FILES}); do head -c 2k /dev/zero >small/$n; done
         tar -C {MACHINES}/deb --xattrs --acls -cf debian.tar .; zstd -q debian.tar; gzip -k debian.tar
         tar -C small -cf small.tar .; rm -r small
         printf 'set -e\\nmkdir {MACHINES}/copy\\ntar -C {MACHINES}/copy --xattrs --acls -xf $1\\nsync -f {MACHINES}/copy\\n' >untar; sync"
    ))
    .expect("create archives");
    let size = shell(&format!("du -sm {PLACE}/debian.tar | cut -f1")).unwrap_or_default();
    for (title, file) in [
        (format!("Import: a Debian of {size} MB, tar.zst, on ext4"), "debian.tar.zst"),
        (format!("Import: a Debian of {size} MB, tar.gz, on ext4"), "debian.tar.gz"),
        (format!("Import: {FILES} files of 2 KB, tar, on ext4"), "small.tar"),
    ] {
        imports(&title, &format!("{PLACE}/{file}"));
    }
    shell(&format!("rm -r {PLACE}")).expect("remove the archives");
}

fn imports(title: &str, file: &str) {
    let remove = "machinectl remove copy";
    compare_to(
        title,
        vec![
            (TAR, timed(format!("sh {PLACE}/untar {file}"), &format!("rm -r {MACHINES}/copy"))),
            (
                "importctl import-tar",
                timed(format!("importctl -q --class=machine import-tar {file} copy"), remove),
            ),
            ("coracle import", timed(format!("coracle import {file} copy"), "coracle remove copy")),
        ],
        ROUNDS,
        TAR,
    );
}
