//! The service `io.coracle1` against users who flood it, race with it or vanish, and its own end at any moment:
//! nothing is lost, nothing is leaked, and no right is gained.

use std::io::Write;

use crate::bus::{ALL_OF_WEB, by, host, rule, spawn};
use crate::support::{Host, Job, LONG};

/// Whether no job runs.
const NO_JOBS: &str = "! systemctl list-units --no-legend 'coracle-job-*' | grep .";
/// Whether no instance of the service runs.
const ENDED: &str = "! systemctl is-active -q coracle-manager && ! pgrep -fx '/usr/bin/coracle manager'";
/// A call that every user may make.
const CALL: &str = "busctl call io.coracle1 /io/coracle1 io.coracle1.Manager GetMachine s web";

/// Returns the process of the service.
fn service(host: &Host) -> String {
    host.ok(&["systemctl", "show", "-P", "MainPID", "coracle-manager"]).trim().to_owned()
}

/// Starts a command line of a user on a terminal.
fn on_tty(host: &Host, user: &str, line: &str) -> Job {
    host.spawn_on_tty(&format!("setpriv --reuid={user} --regid={user} --init-groups {line}"))
}

/// Calls methods over many connections at once, and prints the number of each answer. Arguments: connections,
/// calls of each.
const AT_ONCE: &str = r#"
import asyncio, collections, sys
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

async def client(calls):
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    async def one():
        reply = await bus.call(Message(destination="io.coracle1", path="/io/coracle1",
            interface="io.coracle1.Manager", member="GetMachine", signature="s", body=["web"]))
        return reply.error_name if reply.message_type == MessageType.ERROR else "ok"
    answers = await asyncio.gather(*[one() for _ in range(calls)])
    bus.disconnect()
    return answers

async def main():
    clients = [client(int(sys.argv[2])) for _ in range(int(sys.argv[1]))]
    answers = [answer for some in await asyncio.gather(*clients) for answer in some]
    for answer, count in collections.Counter(answers).items():
        print(answer, count)

asyncio.run(main())
"#;

/// Sends calls as fast as the bus takes them, and reads nothing. Arguments: member, calls, bytes and descriptors of each.
const UNREAD: &str = r#"
import os, socket, sys
from dbus_fast import Message, MessageFlag

def connect():
    link = socket.socket(socket.AF_UNIX)
    link.connect("/run/dbus/system_bus_socket")
    link.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    link.recv(4096)
    link.sendall(b"NEGOTIATE_UNIX_FD\r\n")
    link.recv(4096)
    link.sendall(b"BEGIN\r\n")
    link.sendall(Message(destination="org.freedesktop.DBus", path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus", member="Hello", serial=1)._marshall(False))
    return link

member, (calls, size, count) = sys.argv[1], map(int, sys.argv[2:5])
descriptors = [os.open("/dev/null", os.O_RDONLY)] * count
objects = member == "GetManagedObjects"
interface = "org.freedesktop.DBus.ObjectManager" if objects else "io.coracle1.Manager"
arguments = {} if objects else {"signature": "as", "body": [["x" * 8] * (size // 16)]}
flags = MessageFlag.NONE if objects else MessageFlag.NO_REPLY_EXPECTED
call = Message(destination="io.coracle1", path="/io/coracle1", interface=interface, member=member,
    serial=2, flags=flags, unix_fds=descriptors, **arguments)._marshall(False)
links = [connect() for _ in range(20)]
for number in range(calls):
    try:
        link = links[number % len(links)]
        sent = socket.send_fds(link, [call], descriptors) if count else 0
        link.sendall(call[sent:])
    except OSError:
        links[number % len(links)] = connect()
"#;

#[test]
fn calls_at_once_are_answered_and_leave_nothing() {
    let host = host();
    host.write("/usr/local/bin/at-once.py", AT_ONCE);
    host.write("/usr/local/bin/unread.py", UNREAD);
    by(&host, "bob", CALL).success("before the flood");
    let pid = service(&host);
    let descriptors = format!("ls /proc/{pid}/fd | wc -l");
    let before = host.sh_ok(&descriptors);
    // 1000 calls at once, by one user and by two.
    let flood = "python3 /usr/local/bin/at-once.py 40 25";
    let other = host.spawn(&["setpriv", "--reuid=bob", "--regid=bob", "--clear-groups", "sh", "-c", flood]);
    let answers = [by(&host, "ann", flood).success("a flood"), other.wait(LONG).success("another")];
    for out in &answers {
        let counted =
            |line: &str| line.rsplit_once(' ').map(|(name, count)| (name.to_owned(), count.to_owned()));
        let counts: Vec<(String, String)> = out.stdout.lines().filter_map(counted).collect();
        assert_eq!(counts.iter().map(|(_, count)| count.parse::<u32>().unwrap()).sum::<u32>(), 1000, "{out}");
        let known = ["ok", "io.coracle1.Error.LimitsExceeded", "org.freedesktop.DBus.Error.LimitsExceeded"];
        assert!(counts.iter().all(|(name, _)| known.contains(&name.as_str())), "{out}");
        assert!(counts.iter().any(|(name, _)| name == "ok"), "{out}");
    }
    // Calls without an answer, large ones, and large answers that nobody reads.
    host.sh_ok("cd /etc/coracle/machines.d && for i in $(seq 300); do echo '[root]' >more$i.toml; done");
    host.wait_until(LONG, "busctl tree --list io.coracle1 | grep -x /io/coracle1/machine/more300");
    let floods = [
        ("Stats", 5000, 0, 0),
        ("Stats", 200, 8 << 20, 0),
        ("GetManagedObjects", 5000, 0, 0),
        ("Stats", 20000, 0, 16),
        ("GetManagedObjects", 5000, 0, 16),
    ];
    for (member, calls, size, count) in floods {
        let line = format!("python3 /usr/local/bin/unread.py {member} {calls} {size} {count}");
        let flood = spawn(&host, &["sh", "-c", &line]);
        if size == 0 && count == 0 {
            by(&host, "bob", CALL).success("during the flood");
        }
        flood.wait(LONG).success("the flood");
        // The bus has a queue of 127 MiB for each service, and refuses messages beyond it.
        host.wait_until(LONG, &format!("setpriv --reuid=bob --regid=bob --clear-groups {CALL}"));
        assert_eq!(service(&host), pid, "the service ended by {line}: {}", host.journal(20));
    }
    host.wait_until(LONG, NO_JOBS);
    host.wait_until(LONG, &format!("[ $({descriptors}) -le {} ]", before.trim()));
    println!(
        "private memory after the floods:\n{}",
        host.sh_ok(&format!("grep Private_ /proc/{pid}/smaps_rollup"))
    );
    host.stop();
}

/// Calls the service over several connections. Prints a line after each 100 calls, and then the numbers of calls
/// and failures. Arguments: connections, calls of each.
const CALLER: &str = r#"
import asyncio, os, sys
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

async def client(limit):
    done, lost = 0, []
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    while done < limit:
        reply = await bus.call(Message(destination="io.coracle1", path="/io/coracle1",
            interface="io.coracle1.Manager", member="GetMachine", signature="s", body=["web"]))
        if reply.message_type == MessageType.ERROR:
            lost.append(f"{reply.error_name} {reply.body}")
        done += 1
        if done % 100 == 0:
            print("going on", flush=True)
    return done, lost

async def main():
    all = await asyncio.gather(*[client(int(sys.argv[2])) for _ in range(int(sys.argv[1]))])
    print(sum(done for done, _ in all), sum(len(lost) for _, lost in all))
    print("\n".join(sorted({text for _, lost in all for text in lost})))

asyncio.run(main())
"#;

/// Runs a command whenever some calls are done, until all are. Returns how often it succeeded.
fn end_over_and_over(host: &Host, calls: &mut Job, command: &str) -> u32 {
    let (mut seen, mut ends) = (0, 0);
    while calls.poll().is_none() {
        let lines = calls.stdout().lines().count();
        if lines > seen {
            seen = lines;
            ends += u32::from(host.sh(command).status == 0);
        }
    }
    ends
}

#[test]
fn no_call_is_lost_at_the_end_of_the_service() {
    let host = host();
    host.write("/usr/local/bin/caller.py", CALLER);
    // Five callers of one user have 10 000 calls, while systemd stops the service over and over.
    let mut calls = spawn(&host, &["python3", "/usr/local/bin/caller.py", "5", "2000"]);
    // While it starts, a signal kills it before it can answer anybody.
    let end =
        "systemctl is-active -q coracle-manager && systemctl kill -sTERM --kill-who=main coracle-manager";
    let ends = end_over_and_over(&host, &mut calls, end);
    let out = calls.wait(LONG).success("calls around the end");
    println!("{ends} ends during 10000 calls");
    assert!(out.stdout.trim().ends_with("\n10000 0"), "{out}");
    assert!(ends > 10, "{ends}");
    // An upgrade is a restart.
    let mut calls = spawn(&host, &["python3", "/usr/local/bin/caller.py", "5", "400"]);
    end_over_and_over(&host, &mut calls, "systemctl try-restart coracle-manager");
    let out = calls.wait(LONG).success("calls around an upgrade");
    assert!(out.stdout.trim().ends_with("\n2000 0"), "{out}");
    host.stop();
}

#[test]
fn activations_over_and_over_lock_nobody_out() {
    let host = host();
    let rounds = if std::env::var_os("CORACLE_STORM").is_some() { 1000 } else { 200 };
    let script = format!(
        "for i in $(seq {rounds}); do \
             setpriv --reuid=ann --regid=ann --clear-groups {CALL} >/dev/null; \
             systemctl kill -sTERM --kill-who=main coracle-manager; \
             while systemctl is-active -q coracle-manager; do :; done; \
         done"
    );
    let begun = std::time::Instant::now();
    host.exec_for(LONG * 4, &["sh", "-euc", &script]).success("activations");
    println!("{rounds} activations in {:?}", begun.elapsed());
    by(&host, "bob", CALL).success("after many activations");
    assert_eq!(host.ok(&["systemctl", "show", "-P", "Result", "coracle-manager"]), "success\n");
    host.ok(&["systemctl", "stop", "coracle-manager"]);
    host.sh_ok(ENDED);
    let left = "systemctl --failed --no-legend; busctl list --no-legend | grep -c io.coracle1";
    assert_eq!(host.sh(left).stdout.trim(), "1", "only the name that can be activated");
    host.stop();
}

#[test]
fn clients_that_vanish_in_the_dialog_leave_nothing() {
    let host = host();
    host.sh_ok("usermod -aG sudo bob; echo bob:secret | chpasswd");
    let before = host.machine_leader("web");
    for _ in 0..10 {
        let mut asked = on_tty(&host, "ann", "coracle restart web");
        asked.wait_for_stdout("Password:", LONG);
        // A user has one dialog at a time; others are not concerned.
        let out = host.exec_on_tty(LONG, "setpriv --reuid=ann --regid=ann --init-groups coracle stop web");
        assert!(out.status == 1 && out.stdout.contains("too many questions"), "{out}");
        by(&host, "bob", CALL).success("during the dialog");
        asked.kill();
        host.wait_until(LONG, "! pgrep -x pkttyagent");
    }
    // The password comes too late.
    assert_eq!(host.machine_leader("web"), before);
    host.sh_ok(NO_JOBS);
    rule(&host, ALL_OF_WEB);
    by(&host, "ann", "coracle stop web").success("after the dialogs");
    host.stop();
}

#[test]
fn a_machine_replaced_after_the_question_is_not_entered() {
    let host = host();
    // polkit answers when the machine has been replaced.
    let wait = "until test -e /run/replaced; do sleep 0.1; done";
    rule(
        &host,
        &format!(
            "polkit.addRule(function (action, subject) {{\n\
             if (/^io.coracle1.(enter|control|configure)$/.test(action.id)) {{\n\
             polkit.spawn(['/bin/sh', '-c', '{wait}']); return polkit.Result.YES; }} }});\n"
        ),
    );
    let lines = ["exec web -- touch /tmp/entered", "kill --signal=SIGTERM web", "set web memory-max=512M"];
    for line in lines {
        let words: Vec<&str> = std::iter::once("coracle").chain(line.split(' ')).collect();
        let call = spawn(&host, &words);
        host.wait_until(LONG, &format!("pgrep -fx \"/bin/sh -c {wait}\""));
        host.coracle(&["restart", "--wait=running", "web"]);
        let leader = host.machine_leader("web");
        host.sh_ok("touch /run/replaced");
        let out = call.wait(LONG);
        assert!(out.status != 0 && out.stderr.contains("was replaced"), "{out}");
        assert_eq!(host.machine_leader("web"), leader);
        host.sh_ok("! coracle exec web -- test -e /tmp/entered");
        host.sh_ok("! grep -r memory-max /etc/coracle/machines.d");
        host.sh_ok("rm /run/replaced");
    }
    // The answer for a running machine is none for the tree of a stopped one.
    let call = spawn(&host, &["coracle", "copy-to", "web", "/etc/passwd", "/copied"]);
    host.wait_until(LONG, &format!("pgrep -fx \"/bin/sh -c {wait}\""));
    host.coracle(&["stop", "web"]);
    host.sh_ok("touch /run/replaced");
    let out = call.wait(LONG);
    assert!(out.status != 0 && out.stderr.contains("was replaced"), "{out}");
    host.sh_ok("test ! -e /var/lib/machines/web/copied");
    host.stop();
}

#[test]
fn jobs_end_normally_without_their_service() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    let running = "systemctl list-units --no-legend --state=running 'coracle-job-*' | grep .";
    let user = ["setpriv", "--reuid=ann", "--regid=ann", "--init-groups"];
    let ends = ["systemctl kill -sKILL coracle-manager", "systemctl restart coracle-manager", UPGRADE];
    for end in ends {
        // A command has its streams and its exit status.
        let command = ["coracle", "exec", "web", "--", "sh", "-c", "read x; echo $x; echo e >&2; exit 7"];
        let mut piped = host.spawn_with_pipe(&[&user[..], &command].concat());
        let mut typed =
            on_tty(&host, "ann", "coracle exec -t web -- sh -c \"read x; echo got \\$x; exit 9\"");
        let mut signalled = spawn(&host, &["coracle", "exec", "web", "--", "sleep", "4321"]);
        host.wait_until(LONG, &format!("[ $({running} | wc -l) = 3 ] && pgrep -fx 'sleep 4321'"));
        host.sh_ok(end);
        piped.input().write_all(b"line\n").unwrap();
        typed.input().write_all(b"line\n").unwrap();
        let out = piped.wait(LONG);
        assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (7, "line\n", "e\n"), "{end}");
        let out = typed.wait(LONG);
        assert!(out.status == 9 && out.stdout.contains("got line"), "{end}: {out}");
        // The next instance hangs up the command of a client that leaves.
        by(&host, "ann", CALL).success("the next instance");
        signalled.kill();
        host.wait_until(LONG, "! pgrep -fx 'sleep 4321'");
        host.wait_until(LONG, NO_JOBS);
    }
    // A client waits for its job at the next instance.
    host.sh_ok("mkfifo -m 666 /var/tmp/go; systemctl stop coracle@web.service");
    let drop_in = "[Service]\nExecStartPre=/bin/sh -c 'read x </var/tmp/go'\n";
    host.write("/etc/systemd/system/coracle@web.service.d/wait.conf", drop_in);
    host.ok(&["systemctl", "daemon-reload"]);
    for end in ends {
        let start = spawn(&host, &["coracle", "start", "web"]);
        host.wait_until(LONG, "systemctl is-active coracle@web.service | grep -x activating");
        host.wait_until(LONG, running);
        host.sh_ok(end);
        // The next instance finds the jobs that run at its start.
        host.wait_until(LONG, "systemctl is-active -q coracle-manager");
        host.sh_ok("echo >/var/tmp/go");
        start.wait(LONG).success(end);
        host.coracle(&["stop", "web"]);
    }
    host.stop();
}

/// Replaces the program, as a package manager does.
const UPGRADE: &str = "cp /usr/bin/coracle /usr/bin/coracle.new; mv /usr/bin/coracle.new /usr/bin/coracle; \
    systemctl try-restart coracle-manager";

/// The shipped rule, and the group and the user inside that it is about.
fn deploy(host: &Host) {
    host.sh_ok("groupadd deploy; usermod -aG deploy ann");
    host.sh_ok("cp /usr/share/doc/coracle/dbus/deploy.rules /etc/polkit-1/rules.d/; chmod -R a+rX /etc/polkit-1; systemctl stop polkit");
}

#[test]
fn a_right_to_enter_is_none_on_the_host() {
    let host = host();
    deploy(&host);
    host.sh_ok("coracle exec web -- sh -c 'echo www-data:x:33:33::/:/bin/sh >>/etc/passwd'");
    let may_enter = |expected: bool, what: &str| {
        let out = by(&host, "ann", "coracle exec -u www-data web -- id -u");
        assert_eq!(out.status, if expected { 0 } else { 125 }, "{what}: {out}");
        assert!(expected || out.stderr.contains("io.coracle1.enter"), "{what}: {out}");
    };
    may_enter(true, "nothing");
    for (word, definition) in [
        ("users", "[users]\nprivate = \"no\"\n"),
        ("network", "[network]\nmode = \"host\"\n"),
        ("devices", "[security]\ndevices = [\"/dev/full\"]\n"),
        ("capabilities", "[security.capabilities]\nadd = [\"CAP_SYS_TIME\"]\n"),
        ("syscalls", "[security]\nnesting = true\n"),
        ("syscalls", "[security.syscalls]\nallow = [\"@keyring\"]\n"),
    ] {
        host.define("web", definition);
        host.coracle(&["restart", "web"]);
        let listed = host.coracle(&["list", "--json"]);
        assert!(listed.contains(&format!("\"{word}\"")), "{definition}: {listed}");
        may_enter(false, definition);
    }
    // What is opened after the start counts from then on.
    host.define("web", "");
    host.coracle(&["restart", "web"]);
    may_enter(true, "defaults");
    host.sh_ok("mkdir -p -m 700 /var/tmp/given; mkdir -p /var/tmp/given/data");
    host.coracle(&["bind", "--mkdir", "--map=ids", "web", "/var/tmp/given/data", "/srv/data"]);
    may_enter(false, "a writable mount");
    host.coracle(&["restart", "web"]);
    may_enter(true, "without the mount");
    host.coracle(&["device", "add", "web", "/dev/full", "/dev/extra"]);
    may_enter(false, "a device");
    a_reachable_tree_is_open(&host, may_enter);
    host.stop();
}

/// A tree below `/srv` that users of the host can reach: a setuid program in it would be one of the host.
fn a_reachable_tree_is_open(host: &Host, may_enter: impl Fn(bool, &str)) {
    // The root of the host is an overlay, which cannot be mounted with mapped ids.
    host.sh_ok(
        "coracle stop web; mkdir /var/tmp/srv; mount --bind /var/tmp/srv /srv; mkdir -m 700 /srv/trees
         cp -a /var/lib/machines/web /srv/trees/web",
    );
    host.define("web", "[root]\ndirectory = \"/srv/trees/web\"\n");
    host.coracle(&["start", "web"]);
    may_enter(true, "a tree in a closed directory");
    host.sh_ok("coracle copy-to web /usr/bin/id /bin/id0; coracle exec web -- chmod 4755 /bin/id0");
    let attack = "/srv/trees/web/bin/id0 -u";
    assert_ne!(by(host, "bob", attack).status, 0);
    host.sh_ok("chmod 755 /srv/trees");
    // It is as bad as the word says, and nobody else than root had the right to do it.
    assert_eq!(by(host, "bob", attack).stdout, "0\n");
    may_enter(false, "a tree in an open directory");
    host.sh_ok("chmod 700 /srv/trees");
    may_enter(true, "a tree in a closed directory again");
}
