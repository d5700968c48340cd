//! Images in a registry of Debian with TLS, behind a server that requires tokens, cuts, lies, redirects and hangs. All
//! servers are in the network namespace of the host, and programs of this system.

use crate::archives::{has_no_drafts, refused};
use crate::oci::{assert_same, by_umoci, outside_in, tree, with_images};
use crate::support::{Host, LONG};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Certificates, the password file and the configuration of the registry.
const SETUP: &str = r#"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem 2>/dev/null
    openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out cert.pem \
        -extfile <(echo subjectAltName=DNS:localhost) 2>/dev/null
    python3 -W ignore -c 'import crypt; print("user:" + crypt.crypt("secret", crypt.mksalt(crypt.METHOD_BLOWFISH)))' >htpasswd
    mkdir state; echo plain >state/mode
    cat >config.yml <<END
version: 0.1
storage: {filesystem: {rootdirectory: $PWD/registry}}
http: {addr: '127.0.0.1:5000', tls: {certificate: $PWD/cert.pem, key: $PWD/key.pem}}
auth: {htpasswd: {realm: test, path: $PWD/htpasswd}}
END
"#;

/// A registry and the server in front of it. They end with the test.
pub(crate) struct Servers {
    images: PathBuf,
    leader: String,
    children: Vec<Child>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Servers {
    pub(crate) fn start(host: &Host, images: &Path) -> Self {
        outside_in(images, SETUP);
        std::fs::write(images.join("proxy.py"), include_str!("pull/proxy.py")).unwrap();
        let mut servers =
            Self { images: images.to_owned(), leader: host.leader().to_string(), children: Vec::new() };
        servers.spawn(&["docker-registry", "serve", "config.yml"]);
        servers.spawn(&["python3", "proxy.py", "cert.pem", "key.pem", "state"]);
        host.wait_until(LONG, "test -e /run/in/state/ready && ss -tln | grep -q :5000");
        for (source, name) in [("three", "three:1"), ("run", "run:1"), ("one", "one")] {
            servers.inside(&format!(
                "skopeo copy -q --dest-tls-verify=false --dest-creds user:secret oci:L:{source} docker://localhost:5000/team/{name}"
            ));
        }
        let helper = Path::new(env!("CARGO_BIN_EXE_coracle")).with_file_name("coracle-pull");
        let cargo = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--package", "coracle-pull"])
            .status();
        assert!(cargo.expect("cargo").success());
        std::fs::copy(helper, images.join("coracle-pull")).unwrap();
        host.sh_ok(
            "install -D /run/in/coracle-pull /usr/lib/coracle/coracle-pull; mkdir -p /root/.config/containers
             for port in 5000 5001 5002; do install -D /run/in/ca.crt /etc/containers/certs.d/localhost:$port/ca.crt; done",
        );
        servers
    }

    pub(crate) fn spawn(&mut self, command: &[&str]) {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.leader, "-n"]).args(command).current_dir(&self.images);
        self.children.push(nsenter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter"));
    }

    pub(crate) fn inside(&self, script: &str) -> String {
        outside_in(&self.images, &format!("nsenter -t {} -n {script}", self.leader))
    }

    pub(crate) fn set_mode(&self, mode: &str) {
        std::fs::write(self.images.join("state/mode"), mode).unwrap();
        let _ = std::fs::remove_file(self.images.join("state/log"));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.images.join("state/log")).unwrap_or_default()
    }
}

/// The credentials of `user:secret` for both servers.
pub(crate) const AUTH: &str = r#"{"auths":{"localhost:5000":{"auth":"dXNlcjpzZWNyZXQ="},"localhost:5001":{"auth":"dXNlcjpzZWNyZXQ="}}}"#;

pub(crate) fn log_in(host: &Host) {
    host.sh_ok("mkdir -p /run/containers/0");
    host.write("/run/containers/0/auth.json", AUTH);
}

#[test]
fn pulled_images_are_those_of_the_registry() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    refused(&host, "coracle pull localhost:5000/team/three:1", "requires a user and a password");
    log_in(&host);
    let pulled = host.coracle(&["pull", "localhost:5000/team/three:1"]);
    assert!(
        pulled.starts_with("three: localhost:5000/team/three:1 from localhost:5000, sha256:"),
        "{pulled}"
    );
    has_no_drafts(&host);
    assert_same(&tree(&host, "three"), &by_umoci(&images, "L:three"));
    // Layers are fetched once.
    let again = host.coracle(&["pull", "localhost:5000/team/run:1", "web"]);
    assert!(
        again.contains("3 of them shared") && again.contains("it runs '/bin/busybox sleep 1000'"),
        "{again}"
    );
    host.coracle(&["start", "web"]);
    host.coracle(&["stop", "web"]);
    // By a mirror, by a short name, and by a digest.
    host.write(
        "/etc/containers/registries.conf",
        "unqualified-search-registries = ['nowhere.test', 'localhost:5000']\n[[registry]]\nprefix = 'example.test/x'\n\
         location = 'localhost:9/x'\n[[registry.mirror]]\nlocation = 'localhost:5000/team'\n\
         [[registry]]\nprefix = 'blocked.test'\nblocked = true\n",
    );
    let mirrored = host.coracle(&["pull", "example.test/x/one", "mirrored"]);
    assert!(mirrored.contains("from localhost:5000"), "{mirrored}");
    host.coracle(&["pull", "team/one", "short"]);
    let json = host.sh_ok("coracle pull --json localhost:5000/team/one json");
    let digest = json.split('"').find(|word| word.starts_with("sha256:")).unwrap().to_owned();
    host.coracle(&["pull", &format!("localhost:5000/team/one@{digest}"), "by-digest"]);
    let other = format!("localhost:5000/team/one@sha256:{}", "0".repeat(64));
    refused(&host, &format!("coracle pull {other} x"), "does not exist");
    refused(&host, "coracle pull blocked.test/a x", "is blocked");
    refused(&host, "coracle pull localhost:5000/team/none x", "does not exist");
    refused(&host, "coracle pull localhost:5000/team/one:x/y x", "is not the name of an image");
    host.sh_ok("rm -r /etc/containers/certs.d");
    refused(&host, "coracle pull localhost:5000/team/one x", "certificate");
    drop(servers);
    host.stop();
}

#[test]
fn servers_that_cut_lie_and_redirect_do_no_harm() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    let pull = "coracle pull localhost:5001/team/three:1 web";
    servers.set_mode("cut");
    host.sh_ok(pull);
    assert_same(&tree(&host, "web"), &by_umoci(&images, "L:three"));
    let log = servers.log();
    assert!(log.contains("range=bytes=") && log.contains("/token?service=test&scope="), "{log}");
    host.coracle(&["remove", "web"]);
    // It stops sending, and keeps the connection.
    servers.set_mode("stall");
    host.sh_ok(pull);
    assert_same(&tree(&host, "web"), &by_umoci(&images, "L:three"));
    let log = servers.log();
    assert!(log.contains("range=bytes="), "{log}");
    host.coracle(&["remove", "web"]);
    servers.set_mode("busy");
    host.sh_ok(pull);
    host.coracle(&["remove", "web"]);
    servers.set_mode("lie");
    refused(&host, pull, "another content");
    servers.set_mode("redirect");
    host.sh_ok(pull);
    let log = servers.log();
    let redirected: Vec<&str> = log.lines().filter(|line| line.starts_with("5002 ")).collect();
    assert!(redirected.len() > 2 && redirected.iter().all(|line| line.ends_with("authorization=")), "{log}");
    host.coracle(&["remove", "web"]);
    // The program has no rights, and an interruption ends it.
    servers.set_mode("hang");
    let job = host.spawn(&["sh", "-c", pull]);
    host.wait_until(LONG, "pgrep -x coracle-pull");
    let status =
        host.sh_ok("grep -e ^Uid -e ^CapEff -e ^CapPrm -e ^NoNewPrivs /proc/$(pgrep -x coracle-pull)/status");
    assert!(status.contains("Uid:\t65534") && status.contains("CapEff:\t0000000000000000"), "{status}");
    host.sh_ok("! cut -d' ' -f6 /proc/$(pgrep -x coracle-pull)/mountinfo | grep -q '^rw'");
    host.sh_ok("kill -INT $(pgrep -x coracle)");
    assert_ne!(job.wait(LONG).status, 0);
    host.sh_ok("! pgrep -x coracle-pull");
    has_no_drafts(&host);
    host.sh_ok("! ls -d /var/lib/machines/web* /var/lib/coracle/storage/layers/* 2>/dev/null | grep .");
    drop(servers);
    host.stop();
}
