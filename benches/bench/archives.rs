//! Imports of archives and OCI images, until they are on the disk. Called by `main`, in the host, whose images are on
//! ext4.

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
/// The row that those of OCI images are compared to.
const COMPARED: &str = "podman, then sync";
/// A registry without TLS, with the image, and the scripts that load and pull it.
const REGISTRY: &str = "
    mkdir -p /etc/containers; cat >registry.yml <<END
version: 0.1
storage: {filesystem: {rootdirectory: $PWD/registry}}
http: {addr: '127.0.0.1:5000'}
END
    printf '[[registry]]\nlocation = \"localhost:5000\"\ninsecure = true\n' >/etc/containers/registries.conf
    systemd-run -q --unit=bench-registry docker-registry serve $PWD/registry.yml
    printf 'set -e\npodman load -q -i $1 >/dev/null\nsync -f /var/tmp/podman\n' >load
    printf 'set -e\npodman pull -q $1 >/dev/null\nsync -f /var/tmp/podman\n' >pull
    printf 'set -e\numoci unpack --image $1 $2\nsync -f $2\n' >unpack
    coracle export deb oci-archive:$PWD/image.tar:x; coracle export deb oci:$PWD/layout:x
    podman load -q -i image.tar | sed 's/.*: //' >id
    until podman push -q $(cat id) localhost:5000/deb; do sleep 0.1; done; podman rmi -af >/dev/null
";

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
    shell(&format!("cd {PLACE}; {REGISTRY}")).expect("create an image");
    images(&size);
    shell(&format!("systemctl stop bench-registry; rm -r {PLACE} /etc/containers/registries.conf"))
        .expect("remove the archives");
}

/// Loads and pulls of an OCI image of one layer.
fn images(size: &str) {
    let (remove, forget) = ("coracle remove copy", "podman rmi -af");
    compare_to(
        &format!("Load: an OCI image of a Debian of {size} MB, on ext4"),
        vec![
            (COMPARED, timed(format!("sh {PLACE}/load {PLACE}/image.tar"), forget)),
            (
                "umoci unpack, then sync",
                timed(
                    format!("sh {PLACE}/unpack {PLACE}/layout:x {MACHINES}/copy"),
                    &format!("rm -r {MACHINES}/copy"),
                ),
            ),
            ("coracle import", timed(format!("coracle import oci-archive:{PLACE}/image.tar copy"), remove)),
        ],
        ROUNDS,
        COMPARED,
    );
    compare_to(
        &format!("Pull: an OCI image of a Debian of {size} MB, from a registry of this host"),
        vec![
            (COMPARED, timed(format!("sh {PLACE}/pull localhost:5000/deb"), forget)),
            ("coracle pull", timed("coracle pull localhost:5000/deb copy".to_owned(), remove)),
        ],
        ROUNDS,
        COMPARED,
    );
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
