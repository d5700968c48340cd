//! Exported images that Docker and podman load and run, as those programs run any other image.

use crate::archives::with_store;
use crate::oci::with_images_on;
use crate::support::{Host, LONG};

#[test]
fn docker_and_podman_run_exported_images() {
    let (host, _) =
        with_images_on(with_store(Host::builder().on("host-containers").guest_as("busybox", ".base")));
    host.sh_ok(
        "coracle import oci:/run/in/L:run run; echo more >/var/lib/machines/run.mstack/bind@var-lib-data/file
         mkdir /var/lib/machines/run.mstack/rw/data/new; echo new >/var/lib/machines/run.mstack/rw/data/new/file
         coracle export run docker-archive:/run/in/d.tar:localhost/web:1; coracle export run oci-archive:/run/in/o.tar:web",
    );
    // The program, its user, its environment, files of all layers, and none that a layer has deleted.
    let check = "sh -c 'set -e; test $(/bin/busybox id -u):$(/bin/busybox id -g) = 1000:7; test $A = b; test $PWD = /var/lib
         test $(/bin/busybox cat /new/file) = new; test $(/bin/busybox ls /opq) = new; test ! -e /gone; echo checked'";
    host.sh_ok("mkdir -p /etc/docker /etc/containers");
    host.write(
        "/etc/docker/daemon.json",
        r#"{"iptables": false, "ip6tables": false, "bridge": "none", "storage-driver": "vfs"}"#,
    );
    host.sh_ok("systemctl start docker");
    host.wait_until(LONG, "docker info");
    host.sh_ok("docker load -q -i /run/in/d.tar");
    assert_eq!(
        host.sh_ok(&format!("docker run --rm --network=none localhost/web:1 {check}")).trim(),
        "checked"
    );
    host.sh_ok("docker run -d --network=none --name web localhost/web:1; docker exec web /bin/busybox pidof busybox; docker rm -f web");
    host.sh_ok("systemctl stop docker.socket docker containerd");
    host.write("/etc/containers/storage.conf", "[storage]\ndriver = 'vfs'\nrunroot = '/run/containers/storage'\ngraphroot = '/var/lib/containers/storage'\n");
    for source in ["docker-archive:/run/in/d.tar", "oci-archive:/run/in/o.tar"] {
        let id = host.sh_ok(&format!("podman pull -q {source}"));
        let run = format!("podman run --rm --network=none --cgroups=disabled {} {check}", id.trim());
        assert_eq!(host.sh_ok(&run).trim(), "checked");
    }
    host.stop();
}
