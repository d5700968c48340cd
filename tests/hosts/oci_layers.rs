//! Layers that images share, and images that claim the layers of others; trees of ten kinds of images, which are those of
//! umoci and podman.

use crate::archives::{has_no_drafts, host, refused};
use crate::oci::{EDIT, assert_same, outside_in, quoted, tree, with_images, without_times};
use crate::support::Host;
use std::path::{Path, PathBuf};

/// Statements of Python for [`EDIT`]: `empty` is a layer without files, `packed` compresses in another way.
const HELPERS: &str = "import gzip, io, tarfile\n\
    raw = io.BytesIO(); tarfile.open(fileobj=raw, mode='w').close(); empty = gzip.compress(raw.getvalue(), mtime=0)\n\
    plain = lambda n: gzip.decompress(open('X/blobs/sha256/' + manifest['layers'][n]['digest'][7:], 'rb').read())\n";

#[test]
fn an_image_does_not_get_a_layer_by_its_name() {
    let (host, images) = with_images();
    let edit = |python: &str| {
        outside_in(&images, &format!("set -- {}\n{EDIT}", quoted(&format!("{HELPERS}{python}"))))
    };
    host.coracle(&["import", "oci:/run/in/L:three", "private"]);
    let layers = host.sh_ok("cd /var/lib/coracle/storage/layers; find . -printf '%p %s %T@\\n' | sort");
    for (python, cause) in [
        // The names of its layers, which anyone may know, with other files.
        ("manifest['layers'][0].update(store(empty))", "layer 1 of 3: the digest of the plain layer is"),
        ("[layer.update(store(empty)) for layer in manifest['layers']]", "layer 1 of 3: "),
        (
            "manifest['layers'] = [dict(manifest['layers'][1], **store(plain(0)[:-512])), *manifest['layers'][1:]]",
            "layer 1 of 3: ",
        ),
        // Its files, which the image does not have.
        (
            "import os; os.remove('X/blobs/sha256/' + manifest['layers'][2]['digest'][7:])",
            "layer 3 of 3: cannot open",
        ),
        (
            "path = 'X/blobs/sha256/' + manifest['layers'][1]['digest'][7:]; size = manifest['layers'][1]['size']; \
             open(path, 'wb').write(bytes(size))",
            "layer 2 of 3: the digest of its file is",
        ),
        (
            "path = 'X/blobs/sha256/' + manifest['layers'][1]['digest'][7:]; open(path, 'ab').write(b'x')",
            "layer 2 of 3: its file has ",
        ),
    ] {
        edit(python);
        refused(&host, "coracle import oci:/run/in/X attacker", cause);
        has_no_drafts(&host);
        host.sh_ok("! ls /var/lib/machines/attacker* 2>/dev/null");
    }
    assert_eq!(
        host.sh_ok("cd /var/lib/coracle/storage/layers; find . -printf '%p %s %T@\\n' | sort"),
        layers
    );
    // The same layers, compressed in another way, are those of the store.
    edit(
        "[layer.update(store(gzip.compress(plain(n), 1, mtime=7))) for n, layer in enumerate(manifest['layers'])]",
    );
    for name in ["packed", "again"] {
        let imported = host.coracle(&["import", "oci:/run/in/X", name]);
        assert!(imported.contains("3 of them shared, 0 new entries"), "{imported}");
        assert_same(&tree(&host, name), &tree(&host, "private"));
    }
    has_no_drafts(&host);
    host.stop();
}

/// Ten images in the layout `ten`: a name, and a script that has a layout and the program `layer IMAGE DIRECTORY [OPTION...]`,
/// which adds a directory by tar(1).
const IMAGES: [(&str, &str); 10] = [
    (
        "links",
        "mkdir a b; echo 1 >a/1; ln a/1 b/2; ln a/1 a/3; ln -s ../a/1 b/s; ln -s /nowhere b/t; mkfifo b/p; layer links .
         rm a/1; ln -s 3 a/1; mkdir c; ln b/2 c/4; layer links .",
    ),
    (
        "whiteouts",
        "mkdir -p keep d/e/f; for i in 1 2 3; do echo $i | tee keep/$i d/$i >d/e/f/$i; done; layer whiteouts .
         rm -r keep d; mkdir -p keep d/e; : >keep/.wh.2; : >d/e/.wh.f; : >d/.wh.1; : >.wh.nothing; layer whiteouts .
         rm -r keep d .wh.nothing; mkdir -p d/e; echo again >d/e/f; : >d/.wh.2; layer whiteouts .",
    ),
    (
        "opaque",
        "mkdir -p a/b/c; for i in 1 2 3; do echo $i | tee a/$i a/b/$i >a/b/c/$i; done; layer opaque .
         rm -r a; mkdir -p a/b; : >a/b/.wh..wh..opq; echo new >a/b/new; layer opaque .
         rm -r a; mkdir -p a/b; echo more >a/b/more; layer opaque .",
    ),
    (
        "attributes",
        "mkdir d; echo 1 >f; cp /bin/true capable; setcap cap_net_raw+ep capable
         set_attribute() { python3 -c 'import os, sys; os.setxattr(sys.argv[1], sys.argv[2], sys.argv[3].encode())' \"$@\"; }
         set_attribute f user.note text; set_attribute d user.dir directory
         layer attributes . --xattrs --xattrs-include='*'; set_attribute f user.note other; set_attribute d user.more more
         layer attributes . --xattrs --xattrs-include='*'",
    ),
    (
        "sparse",
        "truncate -s 3M s; echo middle | dd of=s bs=1M seek=1 conv=notrunc status=none; truncate -s 100k empty
         layer sparse . --sparse --format=pax; echo end | dd of=s bs=1 seek=3145728 conv=notrunc status=none
         layer sparse . --sparse --format=pax",
    ),
    (
        "names",
        "n=$(printf '%0200d' 7); mkdir -p $n/$n; echo 1 >$n/$n/$n; ln -s $n/$n/$n l; printf x >\"$(printf 'a\\nb')\"
         touch 'sp ace' '*' 'ü' -- '-dash'; layer names . --format=gnu; echo 2 >$n/$n/2; layer names . --format=pax",
    ),
    (
        "users",
        "mkdir d; touch a b d/c; chown 65535:65534 a; chown 1000:7 b; chown 70000:100000 d/c; chown 0:70000 d; layer users .
         chown 7:70000 a; layer users .",
    ),
    (
        "empty",
        "mkdir e; layer empty e; echo 1 >f; layer empty .; rm f; layer empty e; layer empty e",
    ),
    (
        "modes",
        "mkdir -m 1777 t; mkdir -m 2750 g; mkdir -m 000 none; touch s; chmod 6755 s; touch -d @5 old; touch -d @1.25 part
         touch -d @100 none; layer modes . --format=pax; rmdir none; echo f >none; chmod 400 none; rm s; mkdir -m 700 s; layer modes . --format=pax",
    ),
    (
        "kinds",
        "mkdir -p dir/sub link; echo 1 >dir/sub/f; echo 1 >file; ln -s dir l2; echo 2 >link/x; layer kinds .
         rm -r dir link file l2; echo now >dir; ln -s file link; mkdir file; echo y >file/y; mkdir l2; echo z >l2/z
         layer kinds .",
    ),
];

/// The programs of the scripts of [`IMAGES`].
const LAYER: &str = r#"
    layer() {
        local image=$1 directory=$2; shift 2
        find "$directory" -depth -type d -exec touch -d @7 {} +
        tar -C "$directory" --sort=name --numeric-owner "$@" -cf ../layer.tar .
        (cd ..; umoci raw add-layer --image "ten:$image" layer.tar)
    }
"#;

/// Starts a host, with the images in the layout `ten` in `/run/in`.
fn with_ten_images() -> (Host, PathBuf) {
    let host = host("busybox");
    host.sh_ok("mkdir /var/lib/machines/.in; ln -s /var/lib/machines/.in /run/in");
    let images = host.machines().join(".in");
    outside_in(&images, "umoci init --layout ten");
    for (name, script) in IMAGES {
        outside_in(
            &images,
            &format!(
                "umoci new --image ten:{name}; mkdir work; cd work\n{LAYER}\n{script}\ncd ..; rm -rf work layer.tar"
            ),
        );
    }
    (host, images)
}

/// Makes users and groups above those of a machine nobody, as an import does.
fn as_imported(top: &Path) -> String {
    outside_in(
        top,
        "find . -uid +65535 -exec chown -h 65534 {} +; find . -gid +65535 -exec chgrp -h 65534 {} +",
    );
    without_times(top)
}

#[test]
fn ten_images_have_the_trees_of_umoci_and_podman() {
    let (host, images) = with_ten_images();
    let podman =
        "podman --root $PWD/p --runroot /run/podman-ten --storage-driver vfs --cgroup-manager cgroupfs";
    for (name, _) in IMAGES {
        outside_in(&images, &format!("rm -rf u; umoci unpack --image ten:{name} u"));
        let expected = format!("{name}\n{}", as_imported(&images.join("u/rootfs")));
        let mounted = outside_in(
            &images,
            &format!(
                "{podman} pull -q oci:ten:{name} >/dev/null; {podman} image mount $({podman} images -q)"
            ),
        );
        assert_same(&format!("{name}\n{}", as_imported(Path::new(mounted.trim()))), &expected);
        // Also with layers of zstd, and as an image of Docker.
        outside_in(
            &images,
            &format!(
                "{podman} image umount -a >/dev/null; {podman} rmi -af >/dev/null
                 skopeo copy -q --dest-compress --dest-compress-format zstd oci:ten:{name} oci:zstd:{name}
                 skopeo copy -q oci:ten:{name} docker-archive:{name}.tar:{name}:1
                 grep -q zstd zstd/blobs/sha256/*"
            ),
        );
        for source in ["oci:/run/in/ten:", "oci:/run/in/zstd:", "docker-archive:/run/in/"] {
            let end = if source.starts_with("docker") { ".tar" } else { "" };
            host.coracle(&["import", &format!("{source}{name}{end}"), name]);
            tree(&host, name);
            let ours = format!("{name}\n{}", without_times(&images.join("tree")));
            assert_same(&ours, &expected);
            host.coracle(&["remove", name]);
        }
    }
    has_no_drafts(&host);
    outside_in(&images, "rm -rf p u");
    host.stop();
}

#[test]
fn exported_images_are_valid() {
    let (host, images) = with_ten_images();
    for (name, _) in IMAGES {
        host.sh_ok(&format!(
            "coracle import oci:/run/in/ten:{name} {name}; coracle export {name} oci:/run/in/E-{name}:x"
        ));
        let expected = {
            tree(&host, name);
            without_times(&images.join("tree"))
        };
        outside_in(
            &images,
            &format!(
                "oci-image-tool validate --type image --ref name=x E-{name}
                 skopeo inspect oci:E-{name}:x >/dev/null; rm -rf u; umoci unpack --image E-{name}:x u"
            ),
        );
        assert_same(&expected, &without_times(&images.join("u/rootfs")));
    }
    outside_in(&images, "rm -rf u");
    host.stop();
}
