//! Registries of several kinds: with programs that have the credentials, without TLS, with tokens that a registry checks,
//! behind a mirror, with images of buildah; images that are replaced, and layers that are shared with those who have them.

use crate::archives::{has_no_drafts, has_no_drafts_beside, refused};
use crate::oci::{assert_same, by_umoci, outside_in, tree, with_images};
use crate::pull::{AUTH, Servers, log_in};
use crate::support::{Host, LONG};

/// A program with credentials, which notes what it is asked.
const HELPER: &str = "#!/bin/sh
read -r server; echo \"$1 $server\" >>/run/asked
[ \"$server\" = localhost:5000 ] || { echo 'credentials not found in native keychain'; exit 1; }
echo '{\"ServerURL\":\"localhost:5000\",\"Username\":\"user\",\"Secret\":\"secret\"}'
";

fn install_helper(host: &Host) {
    host.write("/usr/local/bin/docker-credential-own", HELPER);
    host.sh_ok("chmod +x /usr/local/bin/docker-credential-own; mkdir -p /etc/containers /run/containers/0");
}

#[test]
fn programs_have_the_credentials() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    install_helper(&host);
    let pull = "coracle pull localhost:5000/team/one web";
    for file in [
        r#"{"credHelpers":{"localhost:5000":"own"}}"#,
        r#"{"auths":{"other.test":{"auth":"dTpw"}},"credsStore":"own"}"#,
    ] {
        host.write("/run/containers/0/auth.json", file);
        host.sh_ok(&format!(
            "rm -f /run/asked; {pull}; coracle remove web; grep -x 'get localhost:5000' /run/asked"
        ));
    }
    // For another registry it has none.
    host.write("/run/containers/0/auth.json", r#"{"credsStore":"own"}"#);
    refused(&host, "coracle pull localhost:5001/team/one web", "the token server replied with status 401");
    host.write("/run/containers/0/auth.json", r#"{"credHelpers":{"localhost:5000":"none"}}"#);
    refused(&host, pull, "'docker-credential-none': it is not installed");
    // A mirror whose program fails does not end the pull.
    host.write(
        "/run/containers/0/auth.json",
        r#"{"credHelpers":{"localhost:5002":"none","localhost:5000":"own"}}"#,
    );
    host.write(
        "/etc/containers/registries.conf",
        "[[registry]]\nlocation = 'localhost:5000'\n[[registry.mirror]]\nlocation = 'localhost:5002'\n",
    );
    let out = host.sh(&format!("{pull} 2>&1; coracle remove web"));
    let warning = "it is not installed, trying the next server";
    assert!(out.status == 0 && out.stdout.contains(warning), "{out}");
    // registries.conf names programs, too.
    host.sh_ok("rm /run/containers/0/auth.json");
    host.write("/etc/containers/registries.conf", "credential-helpers = ['containers-auth.json', 'own']\n");
    host.sh_ok(pull);
    has_no_drafts(&host);
    drop(servers);
    host.stop();
}

#[test]
fn an_insecure_registry_needs_no_certificate_and_no_tls() {
    let (host, images) = with_images();
    let mut servers = Servers::start(&host, &images);
    log_in(&host);
    outside_in(
        &images,
        "sed -e 's/5000/5003/' -e 's/, tls: .*}}/}/' -e '/^auth/d' config.yml >plain.yml; ! grep -e tls -e auth plain.yml",
    );
    servers.spawn(&["docker-registry", "serve", "plain.yml"]);
    host.wait_until(LONG, "ss -tln | grep -q :5003");
    let pull = "coracle pull localhost:5003/team/three:1 web";
    refused(&host, pull, "localhost:5003");
    refused(
        &host,
        "rm /etc/containers/certs.d/localhost:5000/ca.crt; coracle pull localhost:5000/team/one x",
        "certificate",
    );
    host.sh_ok("mkdir -p /etc/containers");
    host.write(
        "/etc/containers/registries.conf",
        "[[registry]]\nlocation = 'localhost:5003'\ninsecure = true\n[[registry]]\nlocation = 'localhost:5000'\n\
         insecure = true\n",
    );
    host.sh_ok(pull);
    assert_same(&tree(&host, "web"), &by_umoci(&images, "L:three"));
    host.coracle(&["pull", "localhost:5000/team/one", "x"]);
    drop(servers);
    host.stop();
}

#[test]
fn a_registry_checks_the_token_and_a_mirror_has_its_images() {
    let (host, images) = with_images();
    let mut servers = Servers::start(&host, &images);
    log_in(&host);
    outside_in(
        &images,
        r#"sed -e 's/5000/5004/' -e '/^auth/d' config.yml >token.yml
        echo "auth: {token: {realm: 'https://localhost:5001/jwt', service: test, issuer: issuer, rootcertbundle: $PWD/ca.crt}}" >>token.yml
        sed -e 's/5000/5003/' -e 's/, tls: .*}}/}/' -e '/^auth/d' config.yml >plain.yml
        sed -e 's/5000/5005/' -e '/^auth/d' -e 's,/registry},/mirror},' config.yml >mirror.yml
        echo "proxy: {remoteurl: 'http://localhost:5003'}" >>mirror.yml"#,
    );
    // The mirror asks its source when it starts.
    for (file, port) in [("token.yml", 5004), ("plain.yml", 5003), ("mirror.yml", 5005)] {
        servers.spawn(&["docker-registry", "serve", file]);
        host.wait_until(LONG, &format!("ss -tln | grep -q :{port}"));
    }
    host.sh_ok("for port in 5004 5005; do install -D /run/in/ca.crt /etc/containers/certs.d/localhost:$port/ca.crt; done");
    // The token is that of the repository, and the token server requires the password.
    refused(
        &host,
        "coracle pull localhost:5004/team/three:1 web",
        "the token server replied with status 401",
    );
    host.write("/run/containers/0/auth.json", &AUTH.replace("localhost:5001", "localhost:5004"));
    host.coracle(&["pull", "localhost:5004/team/three:1", "web"]);
    let log = servers.log();
    assert!(log.contains("/jwt?service=test&scope=repository:team/three:pull"), "{log}");
    let expected = by_umoci(&images, "L:three");
    assert_same(&tree(&host, "web"), &expected);
    host.coracle(&["remove", "web"]);
    host.write(
        "/etc/containers/registries.conf",
        "[[registry]]\nprefix = 'example.test/x'\nlocation = 'localhost:9/x'\n\
         [[registry.mirror]]\nlocation = 'localhost:5005/team'\n",
    );
    let mirrored = host.coracle(&["pull", "example.test/x/three:1", "web"]);
    assert!(mirrored.contains("from localhost:5005"), "{mirrored}");
    assert_same(&tree(&host, "web"), &expected);
    drop(servers);
    host.stop();
}

#[test]
fn images_of_buildah_are_pulled() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    outside_in(
        &images,
        "mkdir -p tree/usr/bin tree/etc; cp $BUSYBOX tree/usr/bin/busybox; ln -s usr/bin tree/bin; echo one >tree/etc/one
         ln -s busybox tree/usr/bin/sh",
    );
    let buildah = "buildah --root $PWD/b --runroot /run/b --storage-driver vfs";
    outside_in(
        &images,
        &format!(
            "c=$({buildah} from scratch); {buildah} copy -q $c tree / >/dev/null
             {buildah} config --cmd '/bin/busybox sleep 1000' --env A=b --port 80/tcp $c
             {buildah} commit -q $c own:oci >/dev/null; {buildah} commit -q --format docker $c own:docker >/dev/null
             {buildah} push -q own:oci oci:B:own"
        ),
    );
    for format in ["oci", "docker"] {
        servers.inside(&format!(
            "{buildah} push -q --tls-verify=false --creds user:secret own:{format} docker://localhost:5000/team/own:{format}"
        ));
        let pulled = host.coracle(&["pull", &format!("localhost:5000/team/own:{format}"), format]);
        assert!(
            pulled.contains("it runs '/bin/busybox sleep 1000'") && pulled.contains("80/tcp"),
            "{pulled}"
        );
        assert_same(&tree(&host, format), &by_umoci(&images, "B:own"));
        host.coracle(&["start", format]);
        host.wait_until(LONG, &format!("coracle exec {format} -- /bin/sh -c 'test $A = b'"));
        host.coracle(&["stop", format]);
    }
    // Three layers are fetched at once.
    servers.set_mode("together");
    host.coracle(&["pull", "localhost:5001/team/three:1", "web"]);
    outside_in(&images, "rm -rf b");
    drop(servers);
    host.stop();
}

#[test]
fn a_pulled_debian_boots_its_init() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    host.add_guest("trixie", ".debian");
    host.sh_ok("coracle import /var/lib/machines/.debian debian; coracle export debian oci:/run/in/D:x; coracle remove debian");
    servers.inside(
        "skopeo copy -q --dest-tls-verify=false --dest-creds user:secret oci:D:x docker://localhost:5000/team/debian",
    );
    let pulled = host.coracle(&["pull", "localhost:5000/team/debian"]);
    assert!(pulled.contains("debian: it boots its init"), "{pulled}");
    host.coracle(&["start", "debian"]);
    host.wait_until(LONG, "coracle exec debian -- systemctl is-system-running | grep -x running");
    host.coracle(&["stop", "debian"]);
    host.assert_clean_stop("debian");
    drop(servers);
    host.stop();
}

#[test]
fn a_short_name_is_that_of_systemd() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    host.sh_ok("mkdir -p /etc/systemd/oci-registry");
    host.write(
        "/etc/systemd/oci-registry/image.one.oci-registry",
        r#"{"overrideRegistry": "localhost:5000", "shortImagePrefix": "team/"}"#,
    );
    let pulled = host.coracle(&["pull", "one"]);
    assert!(pulled.starts_with("one: localhost:5000/team/one:latest from localhost:5000"), "{pulled}");
    drop(servers);
    host.stop();
}

#[test]
fn a_replaced_image_becomes_a_snapshot() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    // Without an image it is an ordinary pull.
    let first = host.coracle(&["pull", "--force", "localhost:5000/team/run:1", "web"]);
    assert!(!first.contains("its former state"), "{first}");
    host.sh_ok(
        "cd /var/lib/machines/web.mstack; echo more >>bind@var-lib-data/file; mkdir -p rw/data/etc
         echo mine >rw/data/etc/mine",
    );
    let pull = "coracle pull localhost:5000/team/one web";
    refused(&host, pull, "exists already");
    host.coracle(&["start", "web"]);
    let used = host.sh("coracle pull --force localhost:5000/team/one web");
    assert!(used.status != 0 && used.stderr.contains("is in use by machine 'web'"), "{used}");
    has_no_drafts_beside(&host);
    host.coracle(&["stop", "web"]);
    // A failure changes nothing.
    let before = host.sh_ok("ls -l /var/lib/machines; cat /var/lib/machines/web.oci-config");
    servers.set_mode("without");
    refused(&host, "coracle pull --force localhost:5001/team/three:1 web", "does not exist");
    assert_eq!(host.sh_ok("ls -l /var/lib/machines; cat /var/lib/machines/web.oci-config"), before);
    has_no_drafts(&host);
    let replaced = host.coracle(&["pull", "--force", "localhost:5000/team/one", "web"]);
    assert!(replaced.contains("web: its former state is snapshot 'before-pull-"), "{replaced}");
    assert_same(&tree(&host, "web"), &by_umoci(&images, "L:one"));
    has_no_drafts(&host);
    host.sh_ok("if grep sleep /var/lib/machines/web.oci-config; then exit 1; fi; test $(coracle snapshot --list web --no-legend | wc -l) = 1");
    // A clone of it runs its command.
    host.sh_ok(
        "coracle clone web@$(coracle snapshot --list web --no-legend | awk '{ print $1 }') former
         grep sleep /var/lib/machines/former.oci-config; coracle remove former",
    );
    // The former image comes back with its files, its volume and its command, and the new one after it.
    host.coracle(&["rollback", "web"]);
    host.sh_ok("grep sleep /var/lib/machines/web.oci-config; test $(wc -l </var/lib/machines/web.mstack/bind@var-lib-data/file) = 2");
    host.sh_ok("coracle run -q -M web -- /bin/busybox grep -x mine /etc/mine");
    host.sh_ok("coracle rollback web $(coracle snapshot --list web --no-legend | awk '/before-rollback/ { print $1 }')");
    host.sh_ok("if grep sleep /var/lib/machines/web.oci-config; then exit 1; fi; coracle remove web; ! ls -A /var/lib/coracle/storage/snapshots | grep .");
    host.sh_ok("cp -a /var/lib/machines/.base /var/lib/machines/tree");
    refused(&host, "coracle pull --force localhost:5000/team/one tree", "only stacks are replaced");
    drop(servers);
    host.stop();
}

#[test]
fn a_replaced_image_is_not_lost() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    host.coracle(&["pull", "localhost:5000/team/run:1", "web"]);
    host.sh_ok("cd /var/lib/machines; mkdir -p web.mstack/rw/data; echo mine >web.mstack/rw/data/mine");
    // The last step fails: the configuration cannot be replaced.
    host.sh_ok("cd /var/lib/machines; mount --bind web.oci-config web.oci-config");
    refused(&host, "coracle pull --force localhost:5000/team/one web", "not all of its files are written");
    host.sh_ok("umount /var/lib/machines/web.oci-config");
    has_no_drafts(&host);
    assert_same(&tree(&host, "web"), &by_umoci(&images, "L:one"));
    host.sh_ok(
        "coracle rollback web
         grep sleep /var/lib/machines/web.oci-config; coracle run -q -M web -- /bin/busybox grep -x mine /mine
         coracle remove web",
    );
    // A snapshot of an image without a configuration does not get that of the following image.
    host.coracle(&["pull", "localhost:5000/team/one", "web"]);
    host.sh_ok(
        "rm /var/lib/machines/web.oci-config; coracle pull --force localhost:5000/team/run:1 web
         grep sleep /var/lib/machines/web.oci-config
         tag=$(coracle snapshot --list web --no-legend | awk '{ print $1 }')
         coracle clone web@$tag former; test -d /var/lib/machines/former.mstack
         if test -e /var/lib/machines/former.oci-config; then exit 1; fi
         coracle export web@$tag oci:/run/in/without; if grep -r sleep /run/in/without/blobs; then exit 1; fi
         coracle rollback web $tag; if test -e /var/lib/machines/web.oci-config; then exit 1; fi
         coracle remove web; coracle remove former",
    );
    has_no_drafts(&host);
    drop(servers);
    host.stop();
}

#[test]
fn another_registry_is_not_asked_after_a_local_failure() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    host.write(
        "/etc/containers/registries.conf",
        "unqualified-search-registries = ['localhost:5001', 'localhost:5000']\n",
    );
    // An interruption.
    servers.set_mode("hang");
    let job = host.spawn(&["coracle", "pull", "team/one", "web"]);
    host.wait_until(LONG, "pgrep -x coracle-pull");
    host.sh_ok("kill -INT $(pgrep -x coracle)");
    assert_ne!(job.wait(LONG).status, 0);
    host.sh_ok("if ls /var/lib/machines/web*; then exit 1; fi");
    // A layer that is larger than the disk.
    servers.set_mode("huge");
    refused(
        &host,
        "coracle pull team/one web 2>/run/error || { cat /run/error >&2; false; }",
        "bytes are free",
    );
    host.sh_ok("if grep trying /run/error; then exit 1; fi; if ls /var/lib/machines/web*; then exit 1; fi");
    // An image that cannot be replaced: nothing is fetched.
    servers.set_mode("plain");
    host.coracle(&["pull", "localhost:5000/team/run:1", "web"]);
    host.coracle(&["start", "web"]);
    for (options, reason) in [("--force", "is in use by machine 'web'"), ("", "exists already")] {
        let out = host.sh(&format!("coracle pull {options} team/one web"));
        assert!(out.status == 1 && out.stderr.contains(reason), "{out}");
    }
    assert_eq!(servers.log(), "");
    host.coracle(&["stop", "web"]);
    has_no_drafts(&host);
    drop(servers);
    host.stop();
}

#[test]
fn a_layer_is_shared_with_those_who_have_its_file() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    let pull = |name: &str| format!("coracle pull localhost:5001/team/three:1 {name}");
    servers.set_mode("plain");
    host.sh_ok(&pull("web"));
    // The same registry need not send it again.
    servers.set_mode("plain");
    let again = host.sh_ok(&pull("again"));
    assert!(again.contains("3 of them shared, 0 new entries"), "{again}");
    let log = servers.log();
    let blobs: Vec<&str> =
        log.lines().filter(|line| line.contains("/blobs/") && line.ends_with("Bearer")).collect();
    let ends = blobs.iter().filter(|line| line.contains("range=bytes=")).count();
    assert!(ends == 3 && blobs.len() == 4, "{log}");
    // A registry without the layers does not get them by their names.
    servers.set_mode("without");
    refused(&host, &pull("attacker"), "does not exist");
    servers.set_mode("plain");
    host.sh_ok("coracle remove web again; coracle pull localhost:5000/team/three:1 web");
    servers.set_mode("without");
    refused(&host, &pull("attacker"), "does not exist");
    // Another registry that has them sends them, and they are shared.
    servers.set_mode("plain");
    let other = host.sh_ok(&pull("other"));
    assert!(other.contains("3 of them shared, 0 new entries"), "{other}");
    has_no_drafts(&host);
    drop(servers);
    host.stop();
}

#[test]
fn a_pull_whose_connection_ends_anywhere_leaves_nothing() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    let pull = "coracle pull localhost:5001/team/three:1 web";
    servers.set_mode("plain");
    host.sh_ok(&format!("{pull}; coracle remove web"));
    let requests = servers.log().lines().count();
    assert!(requests > 6, "{requests}");
    for number in 1..=requests {
        servers.set_mode(&format!("close-{number}"));
        let failed = host.sh(pull);
        assert!(failed.status != 0, "{number} {failed}");
        has_no_drafts(&host);
        host.sh_ok("! ls -d /var/lib/machines/web* /var/lib/coracle/storage/layers/* 2>/dev/null | grep .");
    }
    servers.set_mode("plain");
    host.sh_ok(pull);
    drop(servers);
    host.stop();
}
