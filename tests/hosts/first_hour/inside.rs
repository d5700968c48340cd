//! Rows about commands, terminals and files inside machines.

use super::expect;
use crate::support::{Host, LONG};
use std::io::Write;

pub(super) fn exit_statuses_of_commands(host: &Host) {
    for machine in ["web", "bb"] {
        let missing = format!("coracle: no such command in machine '{machine}': nosuchcmd\nhint: ");
        expect(host, &format!("coracle exec {machine} -- nosuchcmd"), 127, &[&missing]);
        expect(host, &format!("coracle exec {machine} -- /no/such"), 127, &["': /no/such\n"]);
        for file in ["/etc/passwd", "/etc"] {
            let refused =
                format!("coracle: in machine '{machine}': cannot execute '{file}': permission denied\n");
            expect(host, &format!("coracle exec {machine} -- {file}"), 126, &[&refused]);
        }
        expect(host, &format!("coracle exec {machine} -- sh -c nosuchcmd"), 127, &[]);
        expect(
            host,
            &format!("coracle exec -u nosuch {machine} -- id"),
            125,
            &["user 'nosuch' does not exist"],
        );
    }
    expect(host, "coracle exec -u 1234 web -- id -u", 0, &["1234\n"]);
    expect(host, "coracle exec -u 1234:5 web -- id -g", 0, &["5\n"]);
}

pub(super) fn copies(host: &Host) {
    host.sh_ok("mkdir /root/copies");
    expect(host, "cd /root/copies && coracle copy-from web /etc/os-release x && grep Debian x", 0, &[]);
    expect(
        host,
        "cd /root/copies && coracle copy-from -P web /etc/os-release y && readlink y",
        0,
        &["os-release"],
    );
    host.sh_ok("ln -s /etc/os-release /root/copies/link");
    expect(
        host,
        "coracle copy-to web /root/copies/link /root/name && coracle exec web -- cat /root/name",
        0,
        &["Debian"],
    );
    for command in ["copy-to /etc/hostname web:/root/", "copy-from web:/etc/hostname ."] {
        let order = "coracle: invalid value";
        expect(
            host,
            &format!("coracle {command}"),
            2,
            &[order, "the machine is the first argument\nhint: write 'coracle copy-to NAME SRC DST'"],
        );
    }
    // A stopped machine, whose tree nobody else uses meanwhile.
    let file = "/var/lib/machines/db/root/copied";
    host.sh_ok("cd /root/copies && coracle copy-to db /etc/os-release /root/copied && coracle copy-from db /root/copied z && cmp z /etc/os-release");
    assert_eq!(host.ok(&["stat", "-c", "%u:%g", file]), "0:0\n");
    // Links of the tree lead to its own files.
    host.sh_ok(&format!(
        "ln -sf /etc/hostname {file}; rm /root/copies/z; echo in-the-tree >/var/lib/machines/db/etc/hostname"
    ));
    expect(host, "cd /root/copies && coracle copy-from db /root/copied z && cat z", 0, &["in-the-tree\n"]);
    host.sh_ok(&format!("rm {file} /var/lib/machines/db/etc/hostname"));
    host.sh_ok("cp -a /var/lib/machines/bb /var/lib/machines/gone");
    host.define("gone", "[root]\nephemeral = true\n");
    let stopped = ["machine 'gone' is not running", "coracle start gone"];
    expect(host, "coracle copy-to gone /etc/os-release /root/x", 1, &stopped);
    host.sh_ok("rm -r /etc/coracle/machines.d/gone.toml /var/lib/machines/gone; rm -r /root/copies");
}

pub(super) fn terminals_are_left(host: &Host) {
    host.sh_ok("coracle exec web -- sh -c 'cp -a /etc/shadow /etc/kept; sed -i s/:[^:]*:/:*:/ /etc/shadow'");
    let announced = "coracle: connected to machine 'web'; ^] three times within a second disconnects";
    for (command, texts) in [
        ("coracle shell web", &[announced][..]),
        (
            "coracle login web",
            &["no user of machine 'web' has a password", "coracle shell web", announced, "login:"][..],
        ),
        ("coracle exec web -- sh -c 'echo begun; exec sleep 1000'", &["begun"][..]),
    ] {
        let mut job = host.spawn_on_tty(command);
        texts.iter().for_each(|text| job.wait_for_stdout(text, LONG));
        job.input().write_all(&[0x1d; 3]).unwrap();
        let left = job.wait(LONG);
        assert_eq!(left.status, 0, "{left}");
        assert!(left.stdout.contains("coracle: disconnected from machine 'web'"), "{left}");
    }
    let mut job = host.spawn_on_tty("coracle exec --no-escape web -- sh -c 'echo begun; head -n 1 | od -c'");
    job.wait_for_stdout("begun", LONG);
    job.input().write_all(b"\x1d\x1d\x1d\n").unwrap();
    let passed = job.wait(LONG);
    assert!(passed.status == 0 && passed.stdout.contains("035 035 035"), "{passed}");
    host.sh_ok("coracle exec web -- mv /etc/kept /etc/shadow");
}

pub(super) fn maps_of_definitions(host: &Host) {
    host.sh_ok("useradd -u 1001 sam; chmod 700 /srv; mkdir /srv/sam; mount -t tmpfs -o mode=755 sam /srv/sam; echo text >/srv/sam/file; chown -R 1001:1001 /srv/sam");
    let owners = "coracle exec bb -- stat -c %u:%g /data/file";
    let listed = "/data   /srv/sam  read-write  sam:7  definition\n";
    // By 'set', and by the key of a definition; both survive a reboot.
    expect(host, "coracle set bb mount=/srv/sam:/data:map=sam:7", 0, &[]);
    expect(
        host,
        "coracle restart bb && coracle bind bb",
        0,
        &["TARGET  SOURCE    ACCESS      MAP    FROM\n", listed],
    );
    expect(host, owners, 0, &["7:7\n"]);
    expect(host, "coracle exec -u 7:7 bb -- touch /data/new && stat -c %u /srv/sam/new", 0, &["1001\n"]);
    expect(host, "coracle set bb mount=", 0, &[]);
    let mount = "[[mount]]\nsource = \"/srv/sam\"\ntarget = \"/data\"\n";
    for (map, seen) in
        [("sam:7", "7:7\n"), ("root", "0:0\n"), ("ids", "1001:1001\n"), ("none", "65534:65534\n")]
    {
        host.define("bb", &format!("{mount}map = \"{map}\"\n"));
        expect(host, &format!("coracle restart bb && {owners}"), 0, &[seen]);
    }
    host.define("bb", &format!("{mount}map = \"nosuch:7\"\n"));
    expect(host, "coracle check bb", 0, &[]);
    host.define("bb", &format!("{mount}map = \"sam\"\n"));
    expect(host, "coracle check bb", 1, &["'sam' is not an id map", "for example 1001:1000"]);
    host.sh_ok("rm /etc/coracle/machines.d/bb.toml && coracle restart bb");
    // A mount of 'bind' ends with the boot.
    expect(
        host,
        "coracle bind bb /srv/sam /mnt --mkdir --map=1001:7 && coracle bind bb",
        0,
        &["1001:7  bind\n"],
    );
    expect(host, "coracle bind --json bb", 0, &["\"from\": \"bind\""]);
    host.sh_ok("coracle unbind bb /mnt; umount /srv/sam; rmdir /srv/sam; chmod 755 /srv; userdel sam");
}

pub(super) fn variables_of_definitions(host: &Host) {
    host.define("bb", "[environment]\nGREETING = \"hello\"\n");
    host.coracle(&["restart", "bb"]);
    expect(host, "coracle exec bb -- sh -c 'echo $GREETING'", 0, &["hello\n"]);
    expect(host, "coracle exec -E GREETING=other bb -- sh -c 'echo $GREETING'", 0, &["other\n"]);
    assert!(
        host.exec_on_tty(LONG, "echo 'echo $GREETING; exit' | coracle shell bb").stdout.contains("hello")
    );
    host.sh_ok("rm /etc/coracle/machines.d/bb.toml && coracle restart bb");
    let without = host.ok(&["coracle", "exec", "bb", "--", "env"]);
    assert!(!without.contains("GREETING"), "{without}");
}
