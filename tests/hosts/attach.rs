//! `coracle attach`, `login` and `shell --session`, and the control socket of a machine: access, invalid
//! calls, and memory use.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::{Host, Snapshot};

const BOUND: Duration = Duration::from_secs(20);

/// Connects to the control socket of a machine from outside the test host.
fn connect(host: &Host, machine: &str) -> UnixStream {
    let path = format!("/proc/{}/root/run/coracle/{machine}/control", host.leader());
    let stream = UnixStream::connect(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    stream.set_read_timeout(Some(BOUND)).expect("set a time-out");
    stream
}

/// Calls a method and returns the reply as text.
fn call(stream: &mut UnixStream, method: &str) -> String {
    stream.write_all(format!("{{\"method\":\"{method}\"}}\0").as_bytes()).expect("call");
    let mut answer = Vec::new();
    let mut byte = [0u8];
    while stream.read(&mut byte).expect("an answer") == 1 && byte[0] != 0 {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).expect("text")
}

/// Returns the anonymous memory of a machine's supervisor in KiB.
fn private_memory(host: &Host, machine: &str) -> u64 {
    let script = format!(
        "p=$(coracle show {machine} -p supervisor --json | tr -dc 0-9); \
         awk '/^Anonymous/ {{ sum += $2 }} END {{ print sum }}' /proc/$p/smaps"
    );
    host.sh_ok(&script).trim().parse().expect("a number")
}

#[test]
fn viewers_share_the_console() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.ok(&["coracle", "start", "busybox"]);
    let mut first = host.spawn_on_tty("coracle attach busybox");
    // A new viewer receives the earlier console output.
    first.wait_for_stdout("busybox: up", BOUND);
    let mut second = host.spawn_on_tty("stty rows 33 cols 77; coracle attach busybox");
    second.wait_for_stdout("busybox: up", BOUND);
    let script =
        "exec </dev/console; echo reading; read x; echo heard $x >/dev/console; stty size >/dev/console";
    let mut reader = host.spawn(&["coracle", "exec", "busybox", "--", "sh", "-c", script]);
    let mut keys = first.input();
    reader.wait_for_stdout("reading", BOUND);
    keys.write_all(b"hello\r").expect("type");
    for viewer in [&mut first, &mut second] {
        viewer.wait_for_stdout("heard hello", BOUND);
        viewer.wait_for_stdout("33 77", BOUND);
    }
    assert_eq!(reader.wait_for_exit(BOUND), 0);
    // The key detaches the first viewer. The second viewer stays attached, also at a reboot of the guest.
    keys.write_all(b"\x1d\x1d\x1d").expect("type");
    let out = first.wait(BOUND);
    assert!(out.status == 0 && out.stdout.contains("detached"), "{out}");
    host.ok(&["coracle", "reboot", "busybox"]);
    second.wait_for_stdout("busybox: down", BOUND);
    second.wait_for_nth_stdout("busybox: up", 2, BOUND);
    host.ok(&["coracle", "exec", "busybox", "--", "sh", "-c", "echo once more >/dev/console"]);
    second.wait_for_stdout("once more", BOUND);
    host.ok(&["coracle", "stop", "busybox"]);
    let out = second.wait(BOUND);
    assert!(out.status == 0 && out.stdout.contains("ended"), "{out}");
    before.assert_same(&host);
    host.stop();
}

/// Returns a host with the running machine `busybox` and its idle supervisor, which has re-executed itself.
fn supervised_host() -> Host {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    host.wait_until(
        BOUND,
        "grep -z supervise /proc/$(coracle show busybox -p supervisor --json | tr -dc 0-9)/cmdline",
    );
    // The supervisor has checked the firewall once: it has created the deleted table again.
    host.sh_ok("nft delete table inet coracle");
    host.wait_until(BOUND, "nft list chain inet coracle antispoof");
    host
}

#[track_caller]
fn assert_supervisor_answers(host: &Host) {
    let status = call(&mut connect(host, "busybox"), "io.systemd.MachineInstance.QueryStatus");
    assert_eq!(status, r#"{"parameters":{"running":true,"status":"running"}}"#);
    host.wait_until(BOUND, "coracle exec busybox -- true");
}

#[test]
fn only_root_of_the_host_may_attach() {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    let attach = "setpriv --reuid 65534 --regid 65534 --clear-groups coracle attach busybox";
    let out = host.sh(attach);
    assert_ne!(out.status, 0, "{out}");
    // Access is refused even if the permissions of the socket include all users.
    host.sh_ok("chmod 755 /run/coracle /run/coracle/busybox; chmod 666 /run/coracle/busybox/control");
    let out = host.sh(attach);
    assert!(out.status == 1, "{out}");
    let inside = "test ! -e /run/coracle && ! grep coracle /proc/net/unix";
    host.ok(&["coracle", "exec", "busybox", "--", "sh", "-c", inside]);
    host.stop();
}

#[test]
fn invalid_calls_are_refused() {
    let host = supervised_host();
    for noise in [&b"\0\0\0"[..], b"{}\0", b"[1]\0", b"{\"method\":7}\0", &[b'x'; 100_000], &[0xff; 5000]] {
        let mut stream = connect(&host, "busybox");
        // The supervisor may close the connection before the write is complete.
        let _ = stream.write_all(noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{noise:?}");
    }
    for (method, error) in
        [("no.such.Method", "MethodNotFound"), ("io.systemd.MachineInstance.AddStorage", "NotSupported")]
    {
        let answer = call(&mut connect(&host, "busybox"), method);
        assert!(answer.contains(error), "{method}: {answer}");
    }
    assert_supervisor_answers(&host);
    host.stop();
}

#[test]
fn idle_and_slow_clients_do_not_block_the_supervisor() {
    let host = supervised_host();
    let memory = private_memory(&host, "busybox");
    let descriptors = format!("ls /proc/{}/fd | wc -l", host.supervisor("busybox"));
    let before = host.sh_ok(&descriptors);
    let idle: Vec<UnixStream> = (0..100).map(|_| connect(&host, "busybox")).collect();
    drop(idle);
    host.wait_until(BOUND, &format!("[ $({descriptors}) -le {} ]", before.trim()));
    // The viewer does not read while the guest floods its console.
    let mut viewer = connect(&host, "busybox");
    assert!(call(&mut viewer, "io.coracle.Machine.Attach").contains("parameters"));
    let flood = "yes $(printf %1000s) | tr ' ' y | head -c 200000 >/dev/console";
    host.ok(&["coracle", "exec", "busybox", "--", "sh", "-c", flood]);
    drop(viewer);
    assert_supervisor_answers(&host);
    let after = private_memory(&host, "busybox");
    assert!(after <= memory + 40, "{memory} KiB before, {after} KiB after");
    host.stop();
}

#[test]
fn the_socket_pauses_resumes_and_stops_a_machine() {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    let instance = |method: &str| format!("io.systemd.MachineInstance.{method}");
    let done = r#"{"parameters":{}}"#;
    assert_eq!(call(&mut connect(&host, "busybox"), &instance("Pause")), done);
    let status = call(&mut connect(&host, "busybox"), &instance("QueryStatus"));
    assert!(status.contains("false") && status.contains("paused"), "{status}");
    assert_eq!(call(&mut connect(&host, "busybox"), &instance("Resume")), done);
    assert_eq!(call(&mut connect(&host, "busybox"), &instance("Pause")), done);
    assert_eq!(call(&mut connect(&host, "busybox"), &instance("PowerOff")), done);
    host.wait_until(BOUND, "[ ! -e /run/coracle/busybox ]");
    host.ok(&["coracle", "start", "busybox"]);
    assert_eq!(call(&mut connect(&host, "busybox"), &instance("Terminate")), done);
    host.wait_until(BOUND, "[ ! -e /run/coracle/busybox ]");
    host.stop();
}

#[test]
fn login_and_shell_open_sessions() {
    let host = Host::start(&["trixie", "busybox"]);
    host.ok(&["coracle", "start", "trixie", "busybox"]);
    let mut login = host.spawn_on_tty("coracle login trixie");
    login.wait_for_stdout("login:", BOUND);
    login.kill();
    // The shell has a session of the guest's logind, and its exit status is returned.
    let mut shell = host.spawn_on_tty("coracle shell --session trixie");
    let mut keys = shell.input();
    keys.write_all(b"echo s=$XDG_SESSION_ID-$((40+2)); loginctl --no-legend list-sessions; exit 6\n")
        .expect("type");
    let out = shell.wait(BOUND);
    assert!(out.status == 6 && out.stdout.contains("-42") && !out.stdout.contains("s=-42"), "{out}");
    let none = host.exec(&["coracle", "shell", "--session", "busybox"]);
    assert!(none.status != 0 && none.stderr.contains("no systemd"), "{none}");
    host.stop();
}
