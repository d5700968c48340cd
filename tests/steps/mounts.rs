//! Additional mounts and the properties of the root, checked in the guest.

use std::os::unix::fs::{MetadataExt, chown, symlink};

use crate::lab::Lab;

#[test]
#[ignore = "needs root"]
fn a_mount_on_the_root_replaces_it() {
    let lab = Lab::new();
    let other = lab.path("/srv/other");
    std::fs::create_dir_all(lab.path("/srv/upper")).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(lab.tree()).arg(&other).status().unwrap();
    assert!(copied.success());
    std::fs::write(other.join("which"), "other\n").unwrap();
    let script = "cat /which 2>/dev/null || :; ls -d /usr /proc/self >/dev/null; : >/new; ls /new";
    let of = |path: &str| lab.path(path).to_str().unwrap().to_owned();
    let bind = format!("--bind={}:/", of("/srv/other"));
    let overlay = format!("--overlay={}:{}:/", lab.tree().display(), of("/srv/upper"));
    let usr = format!("--bind-ro={}/usr:/usr", lab.tree().display());
    for (run, map) in [(Lab::sh_plain as fn(&Lab, &[&str], &str) -> String, ""), (Lab::sh, ":idmap")] {
        assert_eq!(run(&lab, &[&format!("{bind}{map}")], script), "other\n/new\n");
        assert!(other.join("new").exists());
        std::fs::remove_file(other.join("new")).unwrap();
        assert_eq!(run(&lab, &[&overlay], script), "/new\n");
        assert!(lab.path("/srv/upper/new").exists() && !lab.tree().join("new").exists());
        let empty = run(&lab, &["--tmpfs=/", &usr, "--setenv=PATH=/usr/bin"], "echo /* | tr ' ' '\\n'");
        assert!(empty.contains("/usr\n") && !empty.contains("/etc\n"), "{empty}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_read_only_root_stays_so() {
    let lab = Lab::new();
    lab.sh(&[], "true");
    let script = "touch /new /usr/new 2>/dev/null || echo refused
        mount -o remount,rw / 2>/dev/null || echo refused
        mount -o remount,rw,bind / 2>/dev/null || echo refused
        touch /var/new /run/new /tmp/new && ls /var";
    std::fs::create_dir(lab.tree().join("var")).unwrap();
    let told = lab.sh(&["--read-only", "--tmpfs=/var"], script);
    assert_eq!(told, "refused\nrefused\nrefused\nnew\n");
    assert!(!lab.tree().join("new").exists());
}

#[test]
#[ignore = "needs root"]
fn binds_show_their_source() {
    let lab = Lab::new();
    let file = lab.file("/srv/data/file", "text");
    let data = lab.path("/srv/data");
    let data = data.to_str().unwrap();
    let script = "cat /data/file /copy/file /deep/er/file
        { echo more >/data/file; } 2>/dev/null || echo refused
        { echo more >/copy/file; } 2>/dev/null || echo refused
        mount -o remount,rw,bind /copy 2>/dev/null || echo refused
        umount /copy 2>/dev/null || echo refused
        stat -c %u /data/file";
    let options = [
        format!("--bind={data}:/data"),
        format!("--bind-ro={data}:/copy"),
        format!("--bind-ro={file}:/deep/er/file"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    // The ids of a bind mount are mapped on request only.
    assert_eq!(lab.sh(&options, script), "texttexttextrefused\nrefused\nrefused\nrefused\n65534\n");
    // With the host's ids, root can write to the writable mount.
    let told = lab
        .sh_plain(&options, "{ echo more >/copy/file; } 2>/dev/null || echo refused; echo more >/data/file");
    assert_eq!((told.as_str(), std::fs::read_to_string(&file).unwrap().as_str()), ("refused\n", "more\n"));
}

#[test]
#[ignore = "needs root"]
fn ids_of_a_bind_are_mapped_on_request() {
    let lab = Lab::new();
    let file = lab.file("/srv/data/file", "text");
    chown(&file, Some(1000), Some(1000)).unwrap();
    let option = format!("--bind={}:/data:idmap", lab.path("/srv/data").display());
    let script = "stat -c '%u:%g' /data /data/file; touch /data/new; chown 7:8 /data/new";
    assert_eq!(lab.sh(&[&option], script), "0:0\n1000:1000\n");
    let made = std::fs::metadata(lab.path("/srv/data/new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 8));
}

#[test]
#[ignore = "needs root"]
fn a_mapped_root_is_unchanged_on_disk() {
    let lab = Lab::new();
    chown(lab.tree().join("etc/passwd"), Some(3), Some(4)).unwrap();
    let script = "stat -c '%u:%g' / /etc/passwd /usr/bin/busybox; touch /root/new; chown 1000:1000 /root/new
        cat /proc/self/uid_map";
    let told = lab.sh(&[], script);
    let (owners, map) = told.split_at(told.find(" ").unwrap());
    assert_eq!(owners.trim(), "0:0\n3:4\n0:0");
    let map: Vec<u32> = map.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(map[0] == 0 && map[1] >= 65536 && map[1].trailing_zeros() >= 16 && map[2] == 65536, "{map:?}");
    let owner = |path: &str| {
        let found = std::fs::metadata(lab.tree().join(path)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!((owner("etc/passwd"), owner("root/new"), owner("dev")), ((3, 4), (1000, 1000), (0, 0)));
}

#[test]
#[ignore = "needs root"]
fn inaccessible_paths_cannot_be_opened() {
    let lab = Lab::new();
    let secrets = lab.tree().join("etc/secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("key"), "secret").unwrap();
    std::fs::write(lab.tree().join("etc/token"), "secret").unwrap();
    let options = ["--inaccessible=/etc/secrets", "--inaccessible=/etc/token"];
    let script = "ls -A /etc/secrets; cat /etc/token; stat -c %a /etc/secrets /etc/token
        umount /etc/secrets 2>/dev/null || echo refused
        umount -l /etc/token 2>/dev/null || echo refused
        mkdir /root/etc; mount -o bind /etc /root/etc 2>/dev/null || echo refused
        mount --rbind /etc /root/etc; cat /root/etc/secrets/key 2>/dev/null || echo refused";
    assert_eq!(lab.sh(&options, script), "0\n0\nrefused\nrefused\nrefused\nrefused\n");
    let missing = lab.run(&["--inaccessible=/etc/none"], &["true"]);
    assert!(missing.status == 125 && missing.stderr.contains("'/etc/none'"), "{missing}");
}

#[test]
#[ignore = "needs root"]
fn tmpfs_has_the_options_given() {
    let lab = Lab::new();
    let script = "stat -c '%a %u:%g' /scratch /plain; df -k /scratch | tail -n 1 | awk '{print $2}'
        ls -A /scratch; grep -c ' /scratch rw,nosuid,nodev' /proc/self/mountinfo";
    let told = lab.sh(&["--tmpfs=/scratch:mode=1770,size=1M,uid=1000", "--tmpfs=/plain"], script);
    assert_eq!(told, "1770 1000:0\n755 0:0\n1024\n1\n");
    let told = lab.sh(&["--tmpfs=/scratch:noexec,ro,dev"], "grep ' /scratch ' /proc/self/mountinfo");
    assert!(told.contains(" /scratch ro,nosuid,noexec"), "{told}");
    for (option, said) in
        [("bogus", "unknown tmpfs option 'bogus'"), ("size=lots", "mount tmpfs on '/scratch'")]
    {
        let output = lab.run(&[&format!("--tmpfs=/scratch:{option}")], &["true"]);
        assert!(output.status == 125 && output.stderr.contains(said), "{output}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_mount_target_behind_a_link_is_inside_the_tree() {
    let lab = Lab::new();
    let outside = lab.path("/outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, lab.tree().join("link")).unwrap();
    std::fs::write(lab.tree().join("token"), "secret").unwrap();
    symlink("token", lab.tree().join("alias")).unwrap();
    let bind = format!("--bind={}:/link", lab.path("/etc").display());
    let missing = lab.run(&["--inaccessible=/link"], &["true"]);
    assert_eq!(missing.status, 125, "{missing}");
    let place = outside.display().to_string();
    for option in ["--tmpfs=/link", &bind] {
        assert_eq!(
            lab.sh(&[option], &format!("grep -c ' {place} ' /proc/self/mountinfo")),
            "1\n",
            "{option}"
        );
    }
    assert_eq!(lab.sh(&["--inaccessible=/alias"], "cat /token; stat -c %a /token"), "0\n");
    // Missing directories are created there.
    let below = format!("--bind={}:/link/sub", lab.path("/etc").display());
    let output = lab.run(&[&below], &["true"]);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{output}");
}

#[test]
#[ignore = "needs root"]
fn links_stay_in_the_tree() {
    let lab = Lab::new();
    let outside = lab.path("/outside");
    std::fs::create_dir(&outside).unwrap();
    // A tree with links to the host at /tmp and /dev.
    for (name, to) in [("tmp", outside.to_str().unwrap()), ("dev", "../../../../../../../../../dev")] {
        let _ = std::fs::remove_dir(lab.tree().join(name));
        symlink(to, lab.tree().join(name)).unwrap();
        let output = lab.run(&[], &["true"]);
        assert_eq!(output.status, 125, "{output}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{output}");
        std::fs::remove_file(lab.tree().join(name)).unwrap();
    }
}
