//! OCI images of umoci and skopeo, imported and exported: the same trees as by those programs, and hostile images that
//! leave nothing. The images are created outside of the host, which has none of these programs.

use crate::archives::{has_no_drafts, host, list_of, refused, with_store};
use crate::support::{Host, LONG};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Creates an image of three layers by umoci and tar, as a layout and as archives: deleted, replaced and unchanged
/// entries, directories that a layer does not describe, and marks without a meaning.
const MAKE: &str = r#"
    set -e
    mkdir b3
    umoci init --layout L; umoci new --image L:base; umoci unpack --image L:base b1; r=b1/rootfs
    mkdir -p $r/bin $r/etc $r/usr/share/doc/deep/er $r/var/lib/data $r/gone $r/opq
    cp "$BUSYBOX" $r/bin/busybox; ln -s busybox $r/bin/sh
    for i in 1 2 3; do echo $i | tee $r/gone/$i $r/opq/$i >$r/usr/share/doc/deep/er/$i; done
    echo old >$r/etc/file; ln $r/etc/file $r/etc/hard; chmod 4755 $r/bin/busybox; chown 1000:7 $r/etc/file
    chmod 0751 $r/usr/share; chown 5:6 $r/usr/share/doc; mkfifo $r/var/pipe; echo data >$r/var/lib/data/file
    echo 'web:x:1000:7::/var/lib:/bin/sh' >$r/etc/passwd
    touch -d 2001-01-01 $r/usr/share/doc/deep $r/usr $r/usr/share $r/usr/share/doc $r/etc/file
    umoci repack --image L:one b1
    umoci unpack --image L:one b2; r=b2/rootfs
    rm -r $r/gone $r/opq $r/usr/share/doc/deep/er/2 $r/etc/hard; mkdir $r/opq $r/etc/hard
    echo new | tee $r/opq/new $r/etc/hard/x >$r/usr/share/doc/deep/er/4; echo changed >>$r/etc/file
    umoci repack --image L:two b2
    (cd b3; mkdir a etc bottom new; : >a/.wh.nothing; : >etc/.wh.file; echo b >bottom/b; : >bottom/.wh.zz
     : >.wh..wh.aufs; echo 1 >new/1; tar -cf ../hand.tar .)
    umoci raw add-layer --image L:two --tag three hand.tar
    umoci config --image L:three --config.entrypoint /bin/busybox --config.cmd sleep --config.cmd 1000 \
        --config.env A=b --config.env HOME=/var/lib --config.user 1000:7 --config.workingdir /var/lib \
        --config.volume /var/lib/data --config.exposedports 80/tcp --tag run
    umoci config --image L:one --config.cmd sh --tag shell
    umoci gc --layout L; rm -r b1 b2 b3
    skopeo copy -q oci:L:run oci-archive:run.tar:run
    skopeo copy -q oci:L:run docker-archive:docker.tar:web:1
    gzip -k docker.tar
"#;

/// Runs a script outside of the host, in a directory of its disk. Returns its output.
#[track_caller]
pub(crate) fn outside_in(directory: &Path, script: &str) -> String {
    let busybox = directory.with_file_name(".base").join("bin/busybox");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(directory).env("BUSYBOX", busybox);
    let output = command.output().expect("bash");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Starts a host, with the images in `/run/in`. Returns it with their place outside.
pub(crate) fn with_images() -> (Host, PathBuf) {
    with_images_on(host("busybox"))
}

pub(crate) fn with_images_on(host: Host) -> (Host, PathBuf) {
    host.sh_ok("mkdir /var/lib/machines/.in; ln -s /var/lib/machines/.in /run/in");
    let images = host.machines().join(".in");
    outside_in(&images, MAKE);
    (host, images)
}

/// Returns the tree of an image, as its machine has it.
pub(crate) fn tree(host: &Host, name: &str) -> String {
    host.sh_ok(&format!(
        "rm -rf /run/in/tree; mkdir /run/in/tree
         coracle export {name} - | tar --xattrs --xattrs-include='*' -C /run/in/tree -xpf -"
    ));
    list_of(&host.machines().join(".in/tree"))
}

/// Returns the tree of an image in a layout, by umoci.
pub(crate) fn by_umoci(images: &Path, image: &str) -> String {
    outside_in(images, &format!("rm -rf u; umoci unpack --image {image} u"));
    let list = list_of(&images.join("u/rootfs"));
    outside_in(images, "rm -r u");
    list
}

/// Returns a tree without the times of its directories.
pub(crate) fn without_times(top: &Path) -> String {
    outside_in(top, "find . -depth -type d -exec touch -d @0 {} +");
    list_of(top)
}

#[track_caller]
pub(crate) fn assert_same(ours: &str, theirs: &str) {
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.lines().collect(), theirs.lines().collect());
    let only = |one: &[&str], other: &[&str]| {
        one.iter().filter(|line| !other.contains(line)).map(|line| format!("{line}\n")).collect::<String>()
    };
    assert!(ours == theirs, "ours:\n{}\ntheirs:\n{}", only(&ours, &theirs), only(&theirs, &ours));
}

#[test]
fn images_have_the_trees_that_umoci_unpacks() {
    let (host, images) = with_images();
    for tag in ["one", "two", "three"] {
        let imported = host.coracle(&["import", &format!("oci:/run/in/L:{tag}"), tag]);
        assert!(imported.contains(": stack on "), "{imported}");
        has_no_drafts(&host);
        assert_same(&tree(&host, tag), &by_umoci(&images, &format!("L:{tag}")));
    }
    // Images share their layers, and an archive is the same image.
    assert!(
        host.coracle(&["import", "oci:/run/in/L:two", "again"]).contains("2 of them shared, 0 new entries")
    );
    assert_eq!(host.sh_ok("ls /var/lib/coracle/storage/layers | wc -l").trim(), "3");
    for (source, name) in [
        ("/run/in/run.tar", "run"),
        ("/run/in/docker.tar", "docker"),
        ("/run/in/docker.tar.gz", "packed"),
        ("docker-archive:/run/in/docker.tar:web:1", "named"),
        ("-", "piped"),
    ] {
        let imported = host.sh_ok(&format!("coracle import {source} {name} </run/in/run.tar"));
        assert!(imported.contains("3 of them shared"), "{imported}");
        assert!(imported.contains("it runs '/bin/busybox sleep 1000'"), "{imported}");
        assert!(imported.contains("listen at 80/tcp"), "{imported}");
        host.sh_ok(&format!(
            "cd /var/lib/machines; test $(cat {name}.mstack/bind@var-lib-data/file) = data; grep -q busybox {name}.oci-config"
        ));
    }
    // The layers stay until their last user is gone.
    host.sh_ok("for i in one two three again run docker packed named piped; do coracle remove $i; done");
    host.sh_ok(
        "! ls -d /var/lib/coracle/storage/layers/* /var/lib/machines/*.oci-config 2>/dev/null | grep .",
    );
    host.stop();
}

#[test]
fn generated_images_differ_from_those_of_umoci_by_refusals_only() {
    let host = host("busybox");
    host.sh_ok("mkdir /var/lib/machines/.in; ln -s /var/lib/machines/.in /run/in");
    let images = host.machines().join(".in");
    std::fs::write(images.join("generate.py"), include_str!("oci/generate.py")).unwrap();
    let count = std::env::var("CORACLE_IMAGES").map_or(40, |count| count.parse().unwrap());
    outside_in(&images, &format!("python3 generate.py {count}"));
    let (mut same, mut refused) = (0, 0);
    for number in 0..count {
        if host.sh(&format!("coracle import oci:/run/in/{number} web")).status != 0 {
            refused += 1;
            continue;
        }
        let unpacked = outside_in(
            &images,
            &format!("rm -rf u; umoci unpack --image {number}:x u 2>/dev/null || echo refused"),
        );
        // A directory that no layer describes has the time of the extraction.
        if unpacked.is_empty() {
            tree(&host, "web");
            let ours = without_times(&images.join("tree"));
            assert_same(
                &format!("{number}\n{ours}"),
                &format!("{number}\n{}", without_times(&images.join("u/rootfs"))),
            );
            same += 1;
        }
        host.coracle(&["remove", "web"]);
    }
    has_no_drafts(&host);
    assert!(same > count / 3, "{same} same, {refused} refused");
    host.stop();
}

#[test]
fn an_image_runs_its_command_or_boots() {
    let (host, _) = with_images();
    host.coracle(&["import", "oci:/run/in/L:run", "run"]);
    host.coracle(&["start", "run"]);
    host.wait_until(LONG, "coracle exec run -- /bin/busybox cat /proc/2/cmdline | tr '\\0' ' ' | grep -x '/bin/busybox sleep 1000 *'");
    let status = "/bin/busybox cat /proc/2/status /proc/2/environ /proc/1/environ";
    let found = host.sh_ok(&format!("coracle exec run -- {status} | tr '\\0' '\\n'"));
    assert!(
        found.contains("Uid:\t1000\t1000") && found.contains("Gid:\t7\t7") && found.contains("A=b"),
        "{found}"
    );
    host.sh_ok("test $(coracle exec run -- /bin/busybox readlink /proc/2/cwd) = /var/lib");
    host.sh_ok("coracle exec run -- /bin/busybox sh -c 'echo more >>/var/lib/data/file'");
    host.coracle(&["stop", "run"]);
    host.sh_ok("test $(wc -l </var/lib/machines/run.mstack/bind@var-lib-data/file) = 2");
    // A clone runs it, too.
    host.sh_ok("coracle clone run copy; coracle start copy; coracle remove run");
    host.wait_until(LONG, "coracle exec copy -- /bin/busybox cat /proc/2/cmdline | grep -q sleep");
    host.coracle(&["stop", "copy"]);
    // A shell, and no init.
    let imported = host.coracle(&["import", "oci:/run/in/L:shell", "shell"]);
    assert!(imported.contains("it has a shell and no init"), "{imported}");
    let refused = host.sh("coracle start shell");
    assert!(
        refused.status != 0 && refused.stderr.contains("no init, and no command but a shell"),
        "{refused}"
    );
    assert!(refused.stderr.contains("hint: run it with 'coracle run -M shell'"), "{refused}");
    assert_eq!(host.sh_ok("echo 'echo $((6*7)); exit' | coracle run -q -M shell").trim(), "42");
    host.sh_ok("coracle run -q -M copy -- /bin/busybox id -u | grep -x 1000");
    // With an init in a further layer, it boots.
    host.sh_ok(
        "cd /var/lib/machines/shell.mstack/rw/data; mkdir etc sbin; : >etc/os-release; ln -s /bin/busybox sbin/init",
    );
    host.coracle(&["start", "--wait=running", "shell"]);
    host.coracle(&["stop", "shell"]);
    host.assert_clean_stop("shell");
    host.stop();
}

#[test]
fn systemd_nspawn_runs_an_imported_image() {
    let (host, _) = with_images_on(with_store(Host::builder().suite("sid").guest_as("busybox", ".base")));
    host.coracle(&["import", "oci:/run/in/L:three", "three"]);
    host.sh_ok(
        "systemd-nspawn -q --register=no --keep-unit --private-users=no --mstack=/var/lib/machines/three.mstack \
             /bin/busybox sh -c 'set -e; test ! -e /gone; test ! -e /etc/file; test -d /etc/hard
                 test $(/bin/busybox ls /opq) = new; /bin/busybox ls /usr/share/doc/deep/er | /bin/busybox grep -vx 2
                 /bin/busybox stat -c %a:%u /usr/share | /bin/busybox grep -x 751:0; echo nspawn >/by'",
    );
    host.sh_ok("coracle run -q -M three -- /bin/busybox cat /by | grep -x nspawn");
    host.stop();
}

#[test]
fn an_exported_debian_boots_again() {
    let host = host("trixie");
    host.sh_ok(
        "mkdir /var/lib/machines/.in; coracle import /var/lib/machines/.base plain
         coracle export plain oci-archive:/var/lib/machines/.in/web.tar; coracle remove plain",
    );
    let imported = host.coracle(&["import", "/var/lib/machines/.in/web.tar"]);
    assert!(imported.contains("web: it boots its init"), "{imported}");
    host.coracle(&["start", "web"]);
    host.wait_until(LONG, "coracle exec web -- systemctl is-system-running | grep -x running");
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
    host.stop();
}

#[test]
fn exported_images_are_read_by_other_programs() {
    let (host, images) = with_images();
    host.coracle(&["import", "oci:/run/in/L:two", "two"]);
    host.sh_ok("cd /var/lib/machines/two.mstack; mkdir -p rw/data/etc; echo more >rw/data/etc/more; mknod rw/data/opq c 0 0");
    let expected = tree(&host, "two");
    let exported = host.coracle(&["export", "two", "oci:/run/in/E:x"]);
    assert!(exported.contains("3 layers, "), "{exported}");
    host.sh_ok(
        "coracle export two oci-archive:/run/in/e.tar:x; coracle export two docker-archive:/run/in/d.tar",
    );
    has_no_drafts(&host);
    outside_in(&images, "skopeo inspect oci:E:x >/dev/null; umoci stat --image E:x");
    assert_same(&by_umoci(&images, "E:x"), &expected);
    outside_in(
        &images,
        "skopeo copy -q oci-archive:e.tar:x oci:F:x; skopeo copy -q docker-archive:d.tar:two:latest oci:G:x",
    );
    assert_same(&by_umoci(&images, "F:x"), &expected);
    assert_same(&by_umoci(&images, "G:x"), &expected);
    // The same image has the same files.
    host.sh_ok(
        "coracle export two oci:/run/in/H:x; diff -r /run/in/E /run/in/H
         coracle export two docker-archive:/run/in/d2.tar; cmp /run/in/d.tar /run/in/d2.tar
         coracle export two oci-archive:/run/in/e2.tar:x; cmp /run/in/e.tar /run/in/e2.tar",
    );
    // It comes in again, also as one layer, and as a directory.
    host.sh_ok("coracle import oci:/run/in/E again; coracle export --squash two oci:/run/in/S; coracle import oci:/run/in/S squashed");
    assert_same(&tree(&host, "again"), &expected);
    assert_same(&tree(&host, "squashed"), &expected);
    host.sh_ok("coracle clone two two2; coracle convert two2 directory; coracle export two2 docker-archive:/run/in/t.tar");
    outside_in(&images, "skopeo inspect --config docker-archive:t.tar | grep -F '\"/bin/sh\"'");
    refused(&host, "coracle export two oci:/run/in/E:x", "is a directory");
    refused(&host, "coracle export two oci-archive:/run/in/e.tar", "exists already");
    refused(&host, "coracle export --squash two /run/in/z.tar", "--squash is for OCI images");
    host.stop();
}

#[test]
fn podman_loads_exported_images() {
    let (host, images) = with_images();
    host.sh_ok("coracle import oci:/run/in/L:three three; coracle export three docker-archive:/run/in/d.tar:localhost/three:1");
    host.sh_ok("coracle export three oci-archive:/run/in/e.tar:two");
    // The times of directories are those of the extraction by podman.
    outside_in(&images, "umoci unpack --image L:three u; cp -a L lower");
    let expected = without_times(&images.join("u/rootfs"));
    let podman = "podman --root $PWD/p --runroot /run/podman --storage-driver vfs --cgroup-manager cgroupfs";
    for source in ["docker-archive:d.tar", "oci-archive:e.tar:two", "oci:lower:three"] {
        let mounted =
            outside_in(&images, &format!("id=$({podman} pull -q {source}); {podman} image mount $id"));
        assert_same(&without_times(Path::new(mounted.trim())), &expected);
        outside_in(&images, &format!("{podman} image umount -a >/dev/null; {podman} rmi -af >/dev/null"));
    }
    outside_in(&images, "rm -rf p r u");
    host.stop();
}

/// A script that changes the manifest or the index of the layout `X`, a copy of `L`, and writes a right digest.
pub(crate) const EDIT: &str = r#"
    rm -rf X; cp -a L X
    python3 - "$1" <<'END'
import hashlib, json, sys
index = json.load(open('X/index.json'))
entry = [one for one in index['manifests'] if one['annotations']['org.opencontainers.image.ref.name'] == 'three'][0]
index['manifests'] = [entry]
load = lambda digest: json.load(open('X/blobs/sha256/' + digest[7:]))
def store(value):
    text = (value if isinstance(value, bytes) else json.dumps(value).encode())
    digest = hashlib.sha256(text).hexdigest()
    open('X/blobs/sha256/' + digest, 'wb').write(text)
    return {'digest': 'sha256:' + digest, 'size': len(text)}
manifest = load(entry['digest']); config = load(manifest['config']['digest'])
exec(sys.argv[1])
manifest['config'].update(store(config)); entry.update(store(manifest))
json.dump(index, open('X/index.json', 'w'))
END
"#;

#[test]
fn hostile_images_are_refused_and_leave_nothing() {
    let (host, images) = with_images();
    let edit = |python: &str| outside_in(&images, &format!("set -- {}\n{EDIT}", quoted(python)));
    for (python, cause) in [
        ("manifest['layers'][0]['size'] += 1", "layer 1 of 3: its file has "),
        ("manifest['layers'][0]['size'] = 2**63", "layer 1 of 3: its file has "),
        (
            "manifest['layers'][0], manifest['layers'][1] = manifest['layers'][1], manifest['layers'][0]",
            "the digest of the plain layer is",
        ),
        (
            "config['rootfs']['diff_ids'][2] = 'sha256:' + 64 * '0'",
            "layer 3 of 3: the digest of the plain layer is",
        ),
        ("config['rootfs']['diff_ids'].pop()", "the manifest has 3 layers, the configuration has 2"),
        ("manifest['layers'] = []; config['rootfs']['diff_ids'] = []", "the image has no layers"),
        ("manifest['layers'][1]['mediaType'] = 'application/x'", "unknown type of a layer: 'application/x'"),
        ("manifest['layers'][1]['digest'] = 'sha256:' + '../' * 21 + 'x'", "is not a digest"),
        ("manifest['config']['mediaType'] = 'application/x'", "it is not the image of a root"),
        ("config['os'] = 'windows'", "an image for the system 'windows'"),
        ("config['x'] = 'x' * 9000000", "larger than 8388608 bytes"),
        ("manifest['layers'] *= 200; config['rootfs']['diff_ids'] *= 200", "the image has 600 layers"),
        ("manifest['layers'][1].update(store(b'none'))", "layer 2 of 3: "),
        ("manifest['layers'][1].update(store(bytes([31, 139, 8])))", "the gzip stream is "),
        ("entry['platform'] = {'os': 'linux', 'architecture': 's390x'}", "it has no image for linux/"),
        ("index['manifests'] = []", "it has no image"),
        (
            "open('X/oci-layout', 'w').write('{\"imageLayoutVersion\": \"2.0\"}')",
            "version '2.0' of the layout",
        ),
    ] {
        edit(python);
        refused(&host, "coracle import oci:/run/in/X web", cause);
        host.sh_ok("! ls -d /var/lib/coracle/storage/layers/* /var/lib/machines/web* 2>/dev/null | grep .");
    }
    // The content of a layer is another one.
    outside_in(
        &images,
        "rm -rf X; cp -a L X; for blob in X/blobs/sha256/*; do
             if head -c 2 $blob | grep -q $'\\x1f\\x8b'; then gzip -dc $blob | gzip -1 >new; cat new >$blob; fi
         done",
    );
    refused(&host, "coracle import oci:/run/in/X:three web", "layer 1 of 3: ");
    outside_in(
        &images,
        "rm -rf X; cp -a L X; rm X/blobs/sha256/*; for f in L/blobs/sha256/*; do ln -s /etc/hostname X/blobs/sha256/$(basename $f); done",
    );
    refused(&host, "coracle import oci:/run/in/X:three web", "leads out of the image");
    refused(&host, "coracle import oci:/run/in/L:none web", "no image with the tag 'none'");
    refused(&host, "coracle import oci:/run/in/L web", "it has several images");
    refused(&host, "coracle import docker-archive:/run/in/docker.tar:x web", "no image with the name 'x'");
    refused(&host, "coracle import --platform=plan9 oci:/run/in/L:three web", "is not a platform");
    refused(&host, "coracle import oci:/run/in/docker.tar web", "is not a directory");
    refused(&host, "coracle import oci:/var/lib/machines/.base web", "neither a layout of OCI images");
    refused(
        &host,
        "coracle import --max-size=1000 oci:/run/in/L:three web",
        "the files are larger than 1000 bytes",
    );
    // A layer of zeros, which its compression hides.
    edit(
        "import gzip, io, tarfile; raw = io.BytesIO(); tar = tarfile.open(fileobj=raw, mode='w'); \
         entry_ = tarfile.TarInfo('zeros'); entry_.size = 1200000000; \
         raw.write(entry_.tobuf()); out = io.BytesIO(); gz = gzip.GzipFile(fileobj=out, mode='wb', mtime=0); \
         gz.write(raw.getvalue()); [gz.write(bytes(1000000)) for i in range(1201)]; gz.close(); \
         manifest['layers'][2].update(store(out.getvalue()))",
    );
    refused(&host, "coracle import oci:/run/in/X web", "a thousand times larger");
    // Whiteouts of everything leave an empty root, whose layers below nobody needs.
    edit(
        "import io, tarfile; raw = io.BytesIO(); tar = tarfile.open(fileobj=raw, mode='w'); \
         tar.addfile(tarfile.TarInfo('.wh..wh..opq')); tar.close(); text = raw.getvalue(); \
         manifest['layers'][2] = dict(manifest['layers'][2], mediaType='application/vnd.oci.image.layer.v1.tar', **store(text)); \
         config['rootfs']['diff_ids'][2] = store(text)['digest']",
    );
    host.sh_ok("coracle import oci:/run/in/X web; test $(coracle export web - | tar -t | wc -l) = 1; coracle remove web");
    host.sh_ok("! ls /var/lib/coracle/storage/layers/* 2>/dev/null");
    host.stop();
}

/// Returns a word for a shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[test]
fn a_killed_import_leaves_nothing() {
    let (host, _) = with_images();
    let faulty = crate::support::program::build("tests/faults/faulty.c", &[]);
    std::fs::copy(faulty, host.machines().join(".in/faulty")).expect("copy the tool");
    let run = |mode: &str, call: usize| {
        host.sh(&format!(
            "/run/in/faulty {mode} 0 {call} /run/faulty.out /usr/bin/coracle import oci:/run/in/L:three web"
        ))
    };
    run("count", 0);
    let calls = host.read("/run/faulty.out").lines().filter(|line| line.starts_with("0 ")).count();
    assert!(calls > 300, "{calls}");
    host.sh_ok("test -d /var/lib/machines/web.mstack; coracle remove web");
    let empty = "cd /var/lib/coracle/storage
         ! ls -d /var/lib/machines/web* /var/lib/machines/.#web* layers/* redo/* tmp/* trash/* 2>/dev/null | grep .";
    let stride = if std::env::var_os("CORACLE_FAULTS").is_some() { 1 } else { calls / 15 };
    for (mode, offset) in [("kill", 0), ("error", 7)] {
        for call in (50 + offset..calls).step_by(stride) {
            host.sh_ok("rm -f /run/faulty.out");
            run(mode, call);
            // The next verb removes what is left, or the import was complete.
            host.sh_ok("coracle prune >/dev/null");
            let complete =
                host.sh("test -d /var/lib/machines/web.mstack && test -f /var/lib/machines/web.oci-config");
            if complete.status == 0 {
                host.coracle(&["remove", "web"]);
            }
            host.sh_ok(empty);
        }
    }
    host.stop();
}
