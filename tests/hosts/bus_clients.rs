//! Clients of the service `io.coracle1` in other languages and on other hosts, terminals of users, and the
//! confinement of the service.

use crate::bus::{ALL_OF_WEB, by, host_on, rule};
use crate::support::{Host, LONG, Output};

/// Starts a host with gdbus and ssh, the machine `web`, and a rule for the user `ann`.
fn host() -> Host {
    let suite = std::env::var("CORACLE_HOST_SUITE").unwrap_or_default();
    let tree = match suite.as_str() {
        "" | "trixie" => "host-clients".to_owned(),
        other => format!("host-clients-{other}"),
    };
    let host = host_on(Host::builder().on(&tree));
    rule(&host, ALL_OF_WEB);
    host
}

/// Lists machines, watches one, restarts it and waits for the job.
const CLIENT: &str = r#"
import asyncio
from dbus_fast import BusType, Variant
from dbus_fast.aio import MessageBus

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    async def proxy(path, interface):
        return bus.get_proxy_object("io.coracle1", path, await bus.introspect("io.coracle1", path)).get_interface(interface)
    manager = await proxy("/io/coracle1", "io.coracle1.Manager")
    await manager.call_subscribe()
    path = await manager.call_get_machine("web")
    objects = await (await proxy("/io/coracle1", "org.freedesktop.DBus.ObjectManager")).call_get_managed_objects()
    print(sorted(objects), objects[path]["io.coracle1.Machine"]["State"].value)
    machine = await proxy(path, "io.coracle1.Machine")
    changed = asyncio.Event()
    (await proxy(path, "org.freedesktop.DBus.Properties")).on_properties_changed(
        lambda interface, values, invalid: "Leader" in values and changed.set())
    job = await proxy(await machine.call_restart({"wait": Variant("s", "running")}), "io.coracle1.Job")
    print(await job.call_wait(), await job.get_verb(), await job.get_machines(), await job.get_state())
    await asyncio.wait_for(changed.wait(), 60)
    await manager.call_unsubscribe()
    print(await machine.get_state(), await manager.get_version() != "")

asyncio.run(main())
"#;

#[test]
fn clients_of_several_languages_drive_the_interface() {
    let host = host();
    let ok = |line: &str| by(&host, "ann", line).success(line).stdout;
    let members =
        ok("busctl introspect --no-legend io.coracle1 /io/coracle1/machine/web io.coracle1.Machine");
    for member in [".Exec method asa{sv} oah", ".Kill method is o", ".State property s \"running\""] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(members.lines().any(|line| words(line).starts_with(member)), "no {member} in {members}");
    }
    assert!(!members.contains("(oah)"), "{members}");
    assert!(ok("busctl tree --list io.coracle1").contains("/io/coracle1/machine/web\n"));
    let gdbus = |arguments: &str| ok(&format!("gdbus {arguments}"));
    let seen = gdbus("introspect --system --recurse --dest io.coracle1 --object-path /io/coracle1");
    for part in ["interface io.coracle1.Manager {", "node /io/coracle1/machine/web {", "Exec(in  as command,"]
    {
        assert!(seen.contains(part), "no {part} in {seen}");
    }
    let call = |path: &str, rest: &str| {
        gdbus(&format!("call --system --dest io.coracle1 --object-path {path} --method io.coracle1.{rest}"))
    };
    let found = call("/io/coracle1", "Manager.GetMachine web");
    assert_eq!(found, "(objectpath '/io/coracle1/machine/web',)\n");
    let started = call("/io/coracle1", "Manager.Restart \"['web']\" \"{'wait': <'running'>}\"");
    let job = started.split('\'').nth(1).unwrap().to_owned();
    assert_eq!(call(&job, "Job.Wait"), "('done', 0, '', '')\n");
    let all = call("/io/coracle1/machine/web", "Machine.Describe");
    assert!(all.contains("\"name\""), "{all}");
    let out = by(
        &host,
        "bob",
        &format!(
            "gdbus call --system --dest io.coracle1 --object-path {job} --method io.coracle1.Job.Cancel"
        ),
    );
    assert!(out.status != 0 && out.stderr.contains("AccessDenied"), "{out}");
    host.write("/usr/local/bin/client.py", CLIENT);
    let out = by(&host, "ann", "python3 /usr/local/bin/client.py").success("a client");
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[0].contains("'/io/coracle1/machine/web'") && lines[0].ends_with("running"), "{out}");
    assert_eq!(lines[1], "['done', 0, '', ''] restart ['web'] done");
    assert_eq!(lines[2], "running True");
    host.stop();
}

/// The greatest exposure of the service.
const EXPOSURE: f64 = 1.5;

#[test]
fn the_service_is_confined_and_goes() {
    let host = host();
    let shown = host.ok(&["systemd-analyze", "security", "--no-pager", "coracle-manager.service"]);
    let line = shown.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
    println!("{}: {}", host.ok(&["systemctl", "--version"]).lines().next().unwrap_or_default(), line.trim());
    let level = line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).unwrap();
    assert!(level <= EXPOSURE, "{shown}");
    // Nothing runs before the first call, and nothing after the last need of it.
    let processes = "pgrep -fx '/usr/bin/coracle manager'";
    let call = "busctl call io.coracle1 /io/coracle1 io.coracle1.Manager GetMachine s web";
    host.sh_ok(&format!("! {processes}"));
    by(&host, "ann", call).success("a call");
    let status = host.sh_ok("cat /proc/$(systemctl show -P MainPID coracle-manager)/status");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "no {line} in {status}");
    }
    println!(
        "memory of an activation:\n{}",
        host.sh_ok(
            "grep -E '^(Rss|Private|Pss)' /proc/$(systemctl show -P MainPID coracle-manager)/smaps_rollup"
        )
    );
    host.wait_until(LONG, &format!("! {processes}"));
    assert_eq!(host.ok(&["systemctl", "show", "-P", "Result", "coracle-manager"]), "success\n");
    host.stop();
}

#[test]
fn another_host_is_reached_by_ssh() {
    let host = host();
    host.sh_ok(
        "mkdir -p /run/sshd; ssh-keygen -A >/dev/null; systemctl start ssh.service
         ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
         for home in /root /home/ann; do
             mkdir -p -m 700 $home/.ssh; cp /root/.ssh/id_ed25519.pub $home/.ssh/authorized_keys
         done
         chown -R ann:ann /home/ann/.ssh; usermod -p '*' ann",
    );
    host.wait_until(LONG, "ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null >/root/.ssh/known_hosts && grep -q . /root/.ssh/known_hosts");
    let of = |out: &Output| (out.status, out.stdout.clone(), out.stderr.clone());
    for line in [
        "printf x | coracle@ exec web -- sh -c 'cat; echo e >&2; exit 7'",
        "coracle@ exec web -- sh -c 'echo \"$@\"; exit 6' x \"it's\" '$HOME' '' '*' -H",
        "head -c 3000000 /dev/zero | coracle@ exec web -- cat | sha256sum",
        "coracle@ exec web -- sh -c 'kill -9 $$'",
        "coracle@ exec no-such-machine -- true",
        "coracle@ show web -p name",
        "coracle@ nonsense",
        "coracle@ restart --wait=running web",
    ] {
        let far = |user: &str| host.sh(&line.replace("coracle@", &format!("coracle -H {user}@127.0.0.1")));
        let (root, here) = (far("root"), host.sh(&line.replace("coracle@", "coracle")));
        assert_eq!(of(&root), of(&here), "{line}");
        // For other users the far side's polkit decides.
        let (ann, here) = (far("ann"), by(&host, "ann", &line.replace("coracle@", "coracle")));
        assert_eq!(of(&ann), of(&here), "{line}");
    }
    let out = host.sh("coracle -H ann@127.0.0.1:22 --no-ask-password exec web -- true");
    assert_eq!(out.status, 0, "{out}");
    rule(&host, "");
    let out = host.sh("coracle -H ann@127.0.0.1 stop web");
    assert!(out.status == 1 && out.stderr.contains("io.coracle1.control"), "{out}");
    let out = host.sh("coracle -H ann@127.0.0.1:1 list");
    assert!(out.status == 255 && out.stderr.contains("refused"), "{out}");
    // A terminal on both sides has its size and its exit status.
    rule(&host, ALL_OF_WEB);
    let line = "stty rows 31 cols 91; coracle -H ann@127.0.0.1 exec web -- sh -c 'tty; stty size; exit 5'";
    let out = host.exec_on_tty(LONG, line);
    assert!(out.status == 5 && out.stdout.contains("/dev/pts/") && out.stdout.contains("31 91"), "{out}");
    host.stop();
}

/// The line that a command prints when it may be typed to.
const READY: &str = "ready";

#[test]
fn terminals_of_users_are_those_of_root() {
    let host = host();
    host.sh_ok("coracle exec web -- sh -c 'echo root::0:0::/:/bin/sh >/etc/passwd; printf \"root::0:0:99999:7:::\\n\" >/etc/shadow'");
    let prefixes = ["", "setpriv --reuid=ann --regid=ann --init-groups "];
    // What is typed, the exit status, and a part of the output.
    let key = "\u{1d}\u{1d}\u{1d}";
    for (verb, typed, status, part) in [
        ("exec -t web -- sh -c 'echo ready; read x; echo got-$x; exit 7'", "line\n", 7, "got-line"),
        ("exec -t web -- sh -c 'echo ready; sleep 1000'", "\u{3}", 130, READY),
        ("exec -t web -- sh -c 'echo ready; cat; exit 3'", "\u{4}", 3, READY),
        ("exec -t web -- sh -c 'echo ready; exec sleep 1001'", key, 0, "disconnected from machine 'web'"),
        (
            "exec -t --no-escape web -- sh -c 'echo ready; stty raw; head -c 3 | od -An -tx1; exit 4'",
            key,
            4,
            "1d 1d 1d",
        ),
        ("shell -t web", "echo re''ady; exit 9\n", 9, READY),
        ("shell web", "echo re''ady; tty; exit 6\n", 6, "/dev/pts/"),
        ("attach web", key, 0, ""),
    ] {
        for prefix in prefixes {
            let mut job = host.spawn_on_tty(&format!("{prefix}coracle {verb}"));
            let mut input = job.input();
            let waits = verb.contains(READY);
            if waits {
                job.wait_for_stdout(READY, LONG);
            } else {
                job.wait_for_stdout(if verb.starts_with("attach") { "^]" } else { "#" }, LONG);
            }
            std::io::Write::write_all(&mut input, typed.as_bytes()).unwrap();
            let out = job.wait(LONG);
            assert!(out.status == status && out.stdout.contains(part), "{prefix}{verb}: {out}");
            drop(input);
        }
    }
    host.wait_until(LONG, "! pgrep -fx 'sleep 100[01]'");
    // A window that changes its size.
    for prefix in prefixes {
        let command = "trap 'stty size; exit 8' WINCH; echo ready; while :; do sleep 0.1; done";
        let line = format!(
            "tty >/run/tty; stty rows 20 cols 70; {prefix}coracle exec -t web -- sh -c \"{command}\""
        );
        let mut job = host.spawn_on_tty(&line);
        job.wait_for_stdout(READY, LONG);
        host.sh_ok("stty -F $(cat /run/tty) rows 33 cols 99");
        let out = job.wait(LONG);
        assert!(out.status == 8 && out.stdout.contains("33 99"), "{prefix}: {out}");
    }
    // A terminal that is hung up ends the command.
    for prefix in prefixes {
        let mut job =
            host.spawn_on_tty(&format!("{prefix}coracle exec -t web -- sh -c 'echo ready; sleep 1002'"));
        job.wait_for_stdout(READY, LONG);
        job.kill();
        host.wait_until(LONG, "! pgrep -fx 'sleep 1002'");
    }
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    host.stop();
}
