//! The service `io.coracle1` on the system bus: verbs of users without the rights of root, polkit's answers, the
//! interface for programs, hostile users, and the life of the service.

use std::time::Duration;

use crate::support::{Builder, Host, Job, LONG, Output};

/// The rule that lets `ann` do everything with the machine `web`.
pub(crate) const ALL_OF_WEB: &str = "polkit.addRule(function (action, subject) {\n\
    if (action.id.indexOf('io.coracle1.') == 0 && action.lookup('machine') == 'web' && subject.user == 'ann') {\n\
    return polkit.Result.YES; } });\n";

/// Starts a host with the machine `web` and the users `ann` and `bob`.
pub(crate) fn host() -> Host {
    host_on(Host::builder())
}

/// Starts such a host of another tree.
pub(crate) fn host_on(builder: Builder) -> Host {
    let host = builder.guest_as("busybox", "web").start();
    host.sh_ok("useradd -m ann; useradd -m bob");
    host.start_machine("web");
    host
}

/// Writes the rules of polkit, which reads them again by itself when it starts.
pub(crate) fn rule(host: &Host, text: &str) {
    host.write("/etc/polkit-1/rules.d/10-test.rules", text);
    host.sh_ok("chmod -R a+rX /etc/polkit-1/rules.d; systemctl stop polkit.service");
}

/// Runs a shell command line as a user.
pub(crate) fn by(host: &Host, user: &str, line: &str) -> Output {
    let script = "exec setpriv --reuid=$1 --regid=$1 --init-groups env HOME=/home/$1 sh -c \"$2\"";
    host.exec_for(LONG, &["sh", "-euc", script, "sh", user, line])
}

/// Starts a command as the user `ann`.
pub(crate) fn spawn(host: &Host, command: &[&str]) -> Job {
    host.spawn(&[&["setpriv", "--reuid=ann", "--regid=ann", "--init-groups"], command].concat())
}

/// Asserts that a user's command is refused, with the action and the cure.
#[track_caller]
pub(crate) fn is_refused(host: &Host, line: &str, status: i32, action: &str) {
    let out = by(host, "ann", line);
    assert_eq!(out.status, status, "{out}");
    assert!(out.stderr.contains(&format!("io.coracle1.{action}")), "{out}");
    assert!(out.stderr.contains("hint: as an administrator: 'sudo coracle "), "{out}");
}

#[test]
fn refusals_name_the_action_and_the_cure() {
    let host = host();
    for verb in ["start", "stop", "restart", "enable", "disable", "poweroff", "reboot", "terminate"] {
        is_refused(&host, &format!("coracle {verb} web"), 1, "control");
    }
    for verb in ["kill", "freeze", "thaw"] {
        is_refused(&host, &format!("coracle {verb} web"), 1, "control");
    }
    is_refused(&host, "coracle exec web -- id", 125, "enter");
    is_refused(&host, "coracle shell web", 125, "enter");
    is_refused(&host, "coracle login web", 125, "enter");
    is_refused(&host, "coracle attach web", 1, "enter");
    is_refused(&host, "coracle logs web", 1, "logs");
    is_refused(&host, "coracle inspect web", 1, "inspect");
    is_refused(&host, "coracle doctor web", 1, "inspect");
    // No question was asked: there is no terminal. What all may read needs none.
    for line in ["coracle list", "coracle status web", "coracle stats", "coracle show web"] {
        by(&host, "ann", line).success("a verb that reads");
    }
    let out = by(&host, "ann", "coracle start no-such-machine");
    assert!(out.status == 1 && out.stderr.contains("machine 'no-such-machine' does not exist"), "{out}");
    let out = by(&host, "ann", "coracle exec no-such-machine -- true");
    assert!(out.status == 125 && out.stderr.contains("does not exist"), "{out}");
    host.sh_ok("systemctl mask --runtime polkit.service; systemctl stop polkit.service");
    let out = by(&host, "ann", "coracle start web");
    assert_eq!(
        out.stderr,
        "coracle: starting machine 'web' needs root\nhint: run it with sudo(8), or install polkitd\n"
    );
    host.stop();
}

#[test]
fn a_rule_allows_every_verb_on_one_machine() {
    let host = host();
    host.add_guest("busybox", "other");
    rule(&host, ALL_OF_WEB);
    let ok = |line: &str| by(&host, "ann", line).success(line).stdout;
    for line in
        ["coracle stop web", "coracle start web", "coracle restart web", "coracle start --wait=ready web"]
    {
        ok(line);
    }
    assert_eq!(host.ok(&["coracle", "list", "--no-legend"]).split_whitespace().nth(1), Some("running"));
    ok("coracle freeze web");
    assert_eq!(host.property("web", "state"), "frozen");
    ok("coracle thaw web");
    assert!(ok("coracle enable web").contains("created link"));
    assert!(ok("coracle disable web").contains("removed link"));
    assert!(ok("coracle logs web --lines=5").lines().count() <= 5);
    assert!(ok("coracle inspect web").contains("web: PID 1 is process"));
    assert!(ok("coracle inspect --security web").contains("exposure"));
    assert!(ok("coracle doctor web").starts_with("web: running"));
    ok("coracle kill --signal=SIGCONT web");
    ok("coracle reboot web");
    host.wait_for_phase("web", "running");
    ok("coracle terminate web");
    host.wait_until(LONG, "! coracle list --no-legend | grep -q web");
    ok("coracle start web");
    ok("coracle poweroff web");
    host.wait_until(LONG, "! coracle list --no-legend | grep -q web");
    // Neither another machine nor another user is included.
    is_refused(&host, "coracle start other", 1, "control");
    let out = by(&host, "ann", "coracle start web other");
    assert!(out.status == 1 && out.stderr.contains("machine 'other' is not allowed"), "{out}");
    assert_eq!(by(&host, "bob", "coracle start web").status, 1);
    host.stop();
}

#[test]
fn exec_is_as_for_root() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    for line in [
        "printf x | coracle exec web -- sh -c 'cat; echo e >&2; exit 7'",
        "coracle exec web -- sh -c 'kill -9 $$'",
        "coracle exec web -- /no/such",
        "coracle exec web -- /etc/passwd",
        "coracle exec -u nobody -w /tmp -E A=1 -E B='x y' web -- sh -c 'id -u; pwd; echo $A$B'",
        "coracle exec -u nosuch web -- true",
        "coracle exec web -- sh -c 'exit 255' </dev/null",
        "head -c 3000000 /dev/zero | coracle exec web -- cat | sha256sum",
        "coracle exec web -- sh -c 'head -c 3000000 /dev/zero; exit 3' >/dev/null",
        "coracle exec web -- echo --report --expect=x -- -x",
        "coracle exec web -- yes | head -n1",
        "coracle exec -E LANG=de web -- env | sort",
        "coracle exec web -- echo '$HOME' '${PATH}' '$$' '%n' '%%' \\\\ ' '",
    ] {
        let (root, user) = (host.sh(line), by(&host, "ann", line));
        let of = |out: &Output| (out.status, out.stdout.clone(), out.stderr.clone());
        assert_eq!(of(&user), of(&root), "{line}");
    }
    let line =
        "setpriv --reuid=ann --regid=ann --init-groups coracle exec -t web -- sh -c 'tty; stty size; exit 5'";
    let out = host.exec_on_tty(Duration::from_secs(30), &format!("stty rows 30 cols 90; {line}"));
    assert!(out.status == 5 && out.stdout.contains("/dev/pts/") && out.stdout.contains("30 90"), "{out}");
    a_job_keeps_its_words(&host);
    // Nothing is left: neither a job nor a command whose caller has died.
    let mut job = spawn(&host, &["coracle", "exec", "web", "--", "sleep", "98765"]);
    host.wait_until(LONG, "pgrep -fx 'sleep 98765'");
    job.kill();
    host.wait_until(LONG, "! pgrep -fx 'sleep 98765'");
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    host.stop();
}

/// Asserts that other users read neither the command of a job nor its environment, with and without a terminal;
/// and that a log without further entries ends with its reader.
fn a_job_keeps_its_words(host: &Host) {
    let user = ["setpriv", "--reuid=ann", "--regid=ann", "--init-groups"];
    // A shell that is hung up leaves its children: each has a time of its own.
    for (terminal, time) in [("-T", "4567"), ("-t", "4568")] {
        let line = format!(
            "export TOKEN=s3cret; exec coracle exec {terminal} -E TOKEN web -- sh -c 'sleep {time}; : pass2word'"
        );
        let mut job = host.spawn(&[&user[..], &["sh", "-c", &line]].concat());
        host.wait_until(LONG, &format!("pgrep -fx 'sleep {time}'"));
        let shown = by(
            host,
            "bob",
            "systemctl show 'coracle-job-*'; systemctl cat 'coracle-job-*'; \
             for id in $(systemctl show -P MainPID 'coracle-job-*'); do tr '\\0' ' ' </proc/$id/cmdline; done",
        );
        assert!(shown.stdout.contains("coracle job exec web"), "{shown}");
        assert!(!shown.stdout.contains("s3cret") && !shown.stdout.contains("pass2word"), "{shown}");
        job.kill();
        host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    }
    let mut log = host.spawn(&[&user[..], &["coracle", "logs", "-f", "web"]].concat());
    host.wait_until(LONG, "systemctl list-units --no-legend 'coracle-job-*' | grep .");
    log.kill();
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
}

#[test]
fn the_example_rules_grant_what_they_say() {
    let host = host();
    host.sh_ok("groupadd deploy; groupadd operators; usermod -aG deploy ann; usermod -aG operators bob; adduser -h /tmp x 2>/dev/null || true");
    host.sh_ok("cp /usr/share/doc/coracle/dbus/*.rules /etc/polkit-1/rules.d/; chmod -R a+rX /etc/polkit-1; systemctl stop polkit");
    host.sh_ok("coracle exec web -- sh -c 'echo www-data:x:33:33::/:/bin/sh >>/etc/passwd'");
    let out = by(&host, "ann", "coracle exec -u www-data web -- id -u").success("the rule");
    assert_eq!(out.stdout, "33\n");
    is_refused(&host, "coracle exec web -- id -u", 125, "enter");
    is_refused(&host, "coracle shell -u www-data web", 125, "enter");
    by(&host, "bob", "coracle restart web").success("the other rule");
    by(&host, "bob", "coracle logs web").success("the other rule");
    assert_eq!(by(&host, "bob", "coracle terminate web").status, 1);
    // A machine with files of the host is not one that the rule is about.
    host.sh_ok("mkdir -m 700 /var/tmp/given; mkdir /var/tmp/given/data");
    let bind = "[[mount]]\nsource = \"/var/tmp/given/data\"\nmap-ids = true\n";
    for (definition, is_open) in [
        (bind, true),
        ("[security]\ndevices = [\"/dev/full\"]\n", true),
        ("[users]\nprivate = \"no\"\n", true),
        ("[security]\nnesting = true\n", true),
        ("[resources]\ntasks-max = 512\n", false),
    ] {
        host.define("web", definition);
        host.coracle(&["restart", "web"]);
        let out = by(&host, "ann", "coracle exec -u www-data web -- id -u");
        assert_eq!(out.status, if is_open { 125 } else { 0 }, "{definition} {out}");
    }
    host.stop();
}

#[test]
fn programs_drive_the_interface() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    let xml = |path: &str| {
        host.ok(&[
            "busctl",
            "call",
            "-j",
            "io.coracle1",
            path,
            "org.freedesktop.DBus.Introspectable",
            "Introspect",
        ])
    };
    let script = "busctl call -j io.coracle1 /io/coracle1/machine/web io.coracle1.Machine Thaw 'a{sv}' 0";
    let reply: serde_json::Value =
        serde_json::from_str(&by(&host, "ann", script).success("a call").stdout).unwrap();
    let job = reply["data"][0].as_str().unwrap().to_owned();
    let written = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/io.coracle1.xml");
    let written = std::fs::read_to_string(written).unwrap();
    for (path, name) in [
        ("/io/coracle1", "Images"),
        ("/io/coracle1", "Session"),
        ("/io/coracle1", "Manager"),
        ("/io/coracle1/machine/web", "Machine"),
        (job.as_str(), "Job"),
    ] {
        let reply: serde_json::Value = serde_json::from_str(&xml(path)).unwrap();
        assert_eq!(interface(&written, name), interface(reply["data"][0].as_str().unwrap(), name));
    }
    let out =
        by(&host, "ann", &format!("busctl call io.coracle1 {job} io.coracle1.Job Wait")).success("waiting");
    assert_eq!(out.stdout, "siss \"done\" 0 \"\" \"\"\n");
    let out = by(&host, "bob", &format!("busctl call io.coracle1 {job} io.coracle1.Job Wait"));
    assert!(out.status != 0 && out.stderr.contains("Access denied"), "{out}");
    let listed = by(
        &host,
        "bob",
        "busctl --json=short get-property io.coracle1 /io/coracle1/machine/web io.coracle1.Machine State",
    );
    assert_eq!(listed.stdout, "{\"type\":\"s\",\"data\":\"running\"}\n");
    let out = by(
        &host,
        "ann",
        "python3 /usr/share/doc/coracle/dbus/client.py web sh -c 'echo out; echo err >&2; exit 7'",
    );
    assert_eq!((out.status, out.stdout.as_str()), (7, "out\n"), "{out}");
    assert!(out.stderr.contains("web running") && out.stderr.ends_with("err\n"), "{out}");
    host.stop();
}

/// Returns one interface of an introspection, without comments.
fn interface(xml: &str, name: &str) -> String {
    let start = format!("<interface name=\"io.coracle1.{name}\">");
    let text =
        xml.split(&start).nth(1).and_then(|rest| rest.split("</interface>").next()).unwrap_or_default();
    assert!(!text.is_empty(), "no {name} in {xml}");
    text.lines().map(str::trim).filter(|line| !line.starts_with("<!--")).collect()
}

#[test]
fn hostile_calls_are_refused() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    let manager = |method: &str| {
        by(&host, "ann", &format!("busctl call -- io.coracle1 /io/coracle1 io.coracle1.Manager {method}"))
    };
    let web = |method: &str| {
        by(
            &host,
            "ann",
            &format!("busctl call -- io.coracle1 /io/coracle1/machine/web io.coracle1.Machine {method}"),
        )
    };
    for (call, message) in [
        ("GetMachine s ../../etc", "invalid machine name"),
        ("GetMachine s --root=/x", "invalid machine name"),
        ("GetMachine s ''", "invalid machine name"),
        ("Start 'asa{sv}' 0 0", "no machine is named"),
        ("Start 'asa{sv}' 1 web 1 wiat s ready", "use 'wait'"),
        ("Start 'asa{sv}' 1 web 1 wait s later", "use one of ready"),
        ("Start 'asa{sv}' 1 web 1 wait u 1", "another type"),
    ] {
        let out = manager(call);
        assert!(out.status != 0 && out.stderr.contains(message), "{call}: {out}");
    }
    for (call, message) in [
        ("Exec 'asa{sv}' 0 0", "the command is empty"),
        ("Exec 'asa{sv}' 1 true 1 directory s relative", "not an absolute path"),
        ("Exec 'asa{sv}' 1 true 1 environment as 1 LD_PRELOAD", "NAME=VALUE"),
        ("Exec 'asa{sv}' 1 true 1 root s /", "unknown option 'root'"),
        ("Kill is 9 --kill-whom=x", "use one of leader, all"),
        ("Logs 'a{sv}' 1 output s export", "use one of"),
    ] {
        let out = web(call);
        assert!(out.status != 0 && out.stderr.contains(message), "{call}: {out}");
    }
    // A machine that was replaced between the question and the job.
    let out = host.exec(&["coracle", "--expect=web:1:1", "exec", "web", "--", "true"]);
    assert!(out.status == 125 && out.stderr.contains("was replaced"), "{out}");
    jobs_are_limited_and_private(&host);
    host.stop();
}

/// Jobs beyond the limit are refused, those of others still start, and their methods are for their user.
fn jobs_are_limited_and_private(host: &Host) {
    rule(host, "polkit.addRule(function (action, subject) { return polkit.Result.YES; });\n");
    let script = "for i in $(seq 12); do coracle exec web -- sleep 7654 & done; wait";
    let mut flood = spawn(host, &["sh", "-c", script]);
    host.wait_until(
        LONG,
        "[ $(systemctl list-units --no-legend --state=running 'coracle-job-*' | wc -l) = 8 ]",
    );
    let out = by(host, "ann", "coracle exec web -- true");
    assert!(out.status == 125 && out.stderr.contains("too many jobs"), "{out}");
    assert_eq!(by(host, "bob", "coracle exec web -- echo here").stdout, "here\n");
    let jobs = "busctl tree --list io.coracle1 | grep -m1 /job/";
    let job = host.sh_ok(jobs);
    for call in ["Cancel", "Wait", "Signal i 9", "Resize qq 1 1"] {
        let line = format!("busctl call io.coracle1 {} io.coracle1.Job {call}", job.trim());
        let out = by(host, "bob", &line);
        assert!(out.status != 0 && out.stderr.contains("Access denied"), "{out}");
    }
    let own = format!("busctl call io.coracle1 {} io.coracle1.Job Signal i 19", job.trim());
    let out = host.sh(&own);
    assert!(out.status != 0 && out.stderr.contains("signal 19 is not passed"), "{out}");
    flood.kill();
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
}

#[test]
fn the_service_comes_and_goes_without_a_loss() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    let call = "busctl get-property io.coracle1 /io/coracle1 io.coracle1.Manager Version";
    for _ in 0..50 {
        by(&host, "ann", call).success("an activation");
        host.ok(&["systemctl", "kill", "-sKILL", "coracle-manager.service"]);
        host.wait_until(LONG, "! systemctl is-active -q coracle-manager");
    }
    by(&host, "bob", call).success("after many activations");
    // A job does not depend on the service.
    let mut job = spawn(&host, &["coracle", "stop", "web"]);
    host.wait_until(LONG, "! coracle list --no-legend | grep -q web");
    let _ = job.poll();
    host.coracle(&["start", "web"]);
    let mut job = spawn(&host, &["coracle", "exec", "web", "--", "sh", "-c", "sleep 3; touch /tmp/ended"]);
    host.wait_until(LONG, "systemctl list-units --no-legend --state=running 'coracle-job-*' | grep .");
    host.ok(&["systemctl", "kill", "-sKILL", "coracle-manager.service"]);
    host.wait_until(LONG, "coracle exec web -- test -e /tmp/ended");
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    let _ = job.poll();
    // It ends by itself when its jobs cannot be waited for any more, and with it the last process.
    by(&host, "ann", call).success("an activation");
    host.wait_until(
        LONG * 4,
        "! systemctl is-active -q coracle-manager && ! pgrep -fx '/usr/bin/coracle manager'",
    );
    assert_eq!(host.ok(&["systemctl", "show", "-P", "Result", "coracle-manager"]), "success\n");
    by(&host, "ann", call).success("the next activation");
    host.stop();
}

#[test]
fn changes_are_signals_and_lines() {
    let host = host();
    let mut lines = host.spawn(&["coracle", "list", "--all", "--watch", "--json"]);
    let mut signals = host.spawn(&["busctl", "monitor", "--json=short", "io.coracle1"]);
    let call = "busctl get-property io.coracle1 /io/coracle1/machine/web io.coracle1.Machine State";
    host.sh_ok(call);
    let state = |state: &str| host.wait_until(LONG, &format!("{call} | grep -q '\"{state}\"'"));
    host.coracle(&["freeze", "web"]);
    state("frozen");
    host.coracle(&["thaw", "web"]);
    state("running");
    host.coracle(&["stop", "web"]);
    state("stopped");
    host.define("later", "");
    host.add_guest("busybox", "later");
    host.wait_until(LONG, "busctl tree --list io.coracle1 | grep -x /io/coracle1/machine/later");
    host.sh_ok("rm -r /etc/coracle/machines.d/later.toml /var/lib/machines/later");
    host.wait_until(LONG, "! busctl tree --list io.coracle1 | grep -x /io/coracle1/machine/later");
    signals.kill();
    let text = signals.stdout();
    for part in ["\"State\":{\"type\":\"s\",\"data\":\"frozen\"}", "InterfacesAdded", "InterfacesRemoved"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    lines.kill();
    let text = lines.stdout();
    let lists: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let states: Vec<&str> = lists
        .iter()
        .filter_map(|list| list.as_array()?.iter().find(|row| row["name"] == "web")?["state"].as_str())
        .collect();
    for state in ["running", "frozen", "stopped"] {
        assert!(states.contains(&state), "no {state} in {states:?}");
    }
    host.stop();
}

#[test]
fn another_host_executes_the_words_as_they_are() {
    let host = host();
    host.write(
        "/usr/local/bin/to-here",
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do echo \"option $1\" >&2; shift; done\necho \"host $2\" >&2\nexec sh -c \"$3\"\n",
    );
    host.sh_ok("chmod 755 /usr/local/bin/to-here");
    let line = "CORACLE_SSH=to-here coracle -H admin@[fd00::1]:2222 exec web -- sh -c 'echo \"$@\"; exit 6' x \"it's\" '$HOME' -H";
    let out = host.sh(line);
    assert_eq!((out.status, out.stdout.as_str()), (6, "it's $HOME -H\n"), "{out}");
    assert_eq!(out.stderr, "option -p\noption 2222\nhost admin@fd00::1\n");
    let out = host.sh("CORACLE_SSH=to-here coracle -H web copy-to a /etc/passwd");
    assert!(out.status == 2 && out.stderr.contains("cannot be executed on another host"), "{out}");
    let out = host.sh("CORACLE_SSH=/no/such coracle --host=web list");
    assert!(out.status == 1 && out.stderr.contains("cannot execute '/no/such'"), "{out}");
    host.stop();
}

#[test]
fn passwords_are_asked_for_on_a_terminal() {
    let host = host();
    host.sh_ok("usermod -aG sudo bob; echo bob:secret | chpasswd");
    let ann = "setpriv --reuid=ann --regid=ann --init-groups";
    for (password, status) in [("secret", 0), ("wrong", 1)] {
        let mut job = host.spawn_on_tty(&format!("{ann} coracle restart web"));
        let end = std::time::Instant::now() + LONG;
        while !job.stdout().contains("Password:") {
            assert!(std::time::Instant::now() < end && job.poll().is_none(), "{}", job.stdout());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(
            job.stdout().contains("Authentication is required to restart machine 'web'."),
            "{}",
            job.stdout()
        );
        std::io::Write::write_all(&mut job.input(), format!("{password}\n").as_bytes()).unwrap();
        let out = job.wait(LONG);
        assert_eq!(out.status, status, "{out}");
    }
    let out = host.exec_on_tty(LONG, &format!("{ann} coracle --no-ask-password restart web"));
    assert!(out.status == 1 && out.stdout.contains("requires authentication"), "{out}");
    // A caller that leaves closes the question, and nothing was done.
    let before = host.machine_leader("web");
    let mut job = host.spawn_on_tty(&format!("{ann} coracle restart web"));
    host.wait_until(LONG, "pgrep -x pkttyagent");
    job.kill();
    host.wait_until(LONG, "! pgrep -x pkttyagent");
    by(&host, "ann", "coracle --no-ask-password start web");
    assert_eq!(host.machine_leader("web"), before);
    host.stop();
}

/// Calls a method a thousand times at once, and prints the number of each answer.
const FLOOD: &str = r#"
import asyncio, collections
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()

    async def one():
        reply = await bus.call(Message(destination="io.coracle1", path="/io/coracle1",
            interface="io.coracle1.Manager", member="Stats", signature="as", body=[[]]))
        return reply.error_name if reply.message_type == MessageType.ERROR else "ok"

    tasks = []
    for _ in range(1000):
        tasks.append(asyncio.ensure_future(one()))
        # The library does not wait for a full socket.
        await asyncio.sleep(0.001)
    for answer, count in collections.Counter(await asyncio.gather(*tasks)).items():
        print(answer, count)

asyncio.run(main())
"#;

#[test]
fn a_flood_of_calls_is_answered_and_leaves_nothing() {
    let host = host();
    host.write("/usr/local/bin/flood.py", FLOOD);
    let call = "busctl call io.coracle1 /io/coracle1 io.coracle1.Manager Stats as 0";
    by(&host, "bob", call).success("before the flood");
    let descriptors = "ls /proc/$(systemctl show -P MainPID coracle-manager)/fd | wc -l";
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    let before = host.sh_ok(descriptors);
    let out = by(&host, "ann", "python3 /usr/local/bin/flood.py").success("the flood");
    let answers: Vec<(&str, u32)> = out
        .stdout
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, count)| (name, count.parse().unwrap()))
        .collect();
    assert_eq!(answers.iter().map(|(_, count)| count).sum::<u32>(), 1000, "{out}");
    let known = ["ok", "io.coracle1.Error.LimitsExceeded"];
    assert!(answers.iter().all(|(name, _)| known.contains(name)), "{out}");
    by(&host, "bob", call).success("after the flood");
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    assert_eq!(host.sh_ok(descriptors), before);
    host.stop();
}
