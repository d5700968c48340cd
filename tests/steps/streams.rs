//! The input and output of a machine: streams, exit status, notifications.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::HOST_PROGRAMS;
use crate::lab::Lab;
use crate::support::install;
use crate::support::job::{Job, input_of};

#[test]
#[ignore = "needs root"]
fn exit_statuses_are_the_payloads() {
    let lab = Lab::new();
    for status in [0, 1, 7, 125, 255] {
        let output = lab.run_plain(&[], &["sh", "-c", &format!("exit {status}")]);
        assert_eq!(output.status, status, "{output}");
    }
    for signal in [1, 2, 9, 15] {
        let output = lab.run_plain(&["-a"], &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(output.status, 128 + signal, "{output}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_killed_pid_1_is_reported_by_its_signal() {
    let lab = Lab::new();
    let binary = install::binary();
    let binary = binary.to_str().unwrap();
    let coracle = lab.coracle(binary, &[]).join(" ");
    let script = format!(
        "{coracle} run -M {name} -- sh -c 'echo up; sleep 50' &
         run=$!
         until {coracle} kill -s KILL --kill-whom=leader {name} 2>/dev/null; do sleep 0.05; done
         wait $run",
        name = lab.name()
    );
    let output = lab.wait(Job::start(&mut lab.apart(&["sh", "-c", &script]), None));
    assert_eq!(output.status, 128 + 9, "{output}");
}

#[test]
#[ignore = "needs root"]
fn messages_without_a_reader_end_nothing() {
    let lab = Lab::new();
    let binary = install::binary();
    let coracle = lab.coracle(binary.to_str().unwrap(), &[]).join(" ");
    // The reader has ended before the first message.
    for (words, status) in [
        ("check no-such-machine".to_owned(), 1),
        (format!("run -M {} -- no-such-program", lab.name()), 125),
        (format!("--debug run -M {} -- sh -c 'exit 7'", lab.name()), 7),
    ] {
        let script = format!("(sleep 0.1; exec {coracle} {words}) 2>&1 | true; exit ${{PIPESTATUS[0]}}");
        let output = lab.wait(Job::start(&mut lab.apart(&["bash", "-c", &script]), None));
        assert_eq!(output.status, status, "{words}: {output}");
    }
}

#[test]
#[ignore = "needs root"]
fn failures_of_coracle_exit_with_125() {
    let lab = Lab::new();
    for (options, command, said) in [
        ([].as_slice(), ["no-such-program"].as_slice(), "cannot execute 'no-such-program'"),
        (&[], &["/etc/passwd"], "cannot execute '/etc/passwd': permission denied"),
        (&["-u", "nobody"], &["true"], "user 'nobody' does not exist"),
        (&["--chdir=/nowhere"], &["true"], "cannot enter '/nowhere'"),
        (&["--bind=/no/such/source"], &["true"], "cannot bind '/no/such/source'"),
    ] {
        let output = lab.run(options, command);
        assert_eq!(output.status, 125, "{output}");
        assert!(output.stderr.contains(said), "{output}");
        assert!(output.stderr.lines().any(|line| line.starts_with("coracle: ")), "{output}");
        assert_eq!(output.stdout, "", "{output}");
    }
}

#[test]
#[ignore = "needs root"]
fn streams_are_separate_and_pass_every_byte() {
    let lab = Lab::new();
    let output = lab.run(&[], &["sh", "-c", "echo out; echo err >&2"]).success("the streams");
    assert_eq!(output.stdout, "out\n");
    assert!(output.stderr.ends_with("err\n") && !output.stderr.contains("out"), "{output}");
    // All byte values, including the carriage returns, escapes, ends of file and interrupts of a terminal.
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
    let binary = install::binary();
    let words = lab.coracle(binary.to_str().unwrap(), &["run", "-q", "-M", lab.name(), "--", "cat"]);
    let copy = lab.path("/copy");
    let mut command = lab.apart(
        &[
            &["sh", "-c", "out=$1; shift; exec \"$@\" >\"$out\"", "sh", copy.to_str().unwrap()],
            words.as_slice(),
        ]
        .concat(),
    );
    // `Job` reads the streams of its command: the copied bytes go to a separate file.
    command.stdin(input_of(&bytes));
    let output = lab.wait(Job::start(&mut command, None)).success("a copy");
    assert_eq!(output.stderr, "");
    let mut copied = Vec::new();
    std::fs::File::open(copy).unwrap().read_to_end(&mut copied).unwrap();
    assert!(copied == bytes, "{} bytes of {}", copied.len(), bytes.len());
}

#[test]
#[ignore = "needs root"]
fn the_end_of_input_is_forwarded() {
    let lab = Lab::new();
    // /dev/null, and a pipe that stays open for a while.
    assert_eq!(lab.run(&[], &["wc", "-c"]).success("wc").stdout, "0\n");
    let binary = install::binary();
    let words = lab.coracle(binary.to_str().unwrap(), &["run", "-M", lab.name(), "--", "wc", "-c"]);
    let mut command = lab.apart(&words);
    command.stdin(Stdio::piped());
    let mut job = Job::start(&mut command, None);
    std::io::Write::write_all(&mut job.input(), b"typed").unwrap();
    assert_eq!(lab.wait(job).success("wc").stdout, "5\n");
}

/// Returns the notifications received by the service manager until the end of the run.
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut messages = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        messages.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
    }
    messages
}

#[test]
#[ignore = "needs root"]
fn readiness_is_forwarded_on_request() {
    let lab = Lab::new();
    let options = HOST_PROGRAMS;
    let file = lab.path("/notify");
    let socket = UnixDatagram::bind(&file).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let binary = install::binary();
    let hear = |more: &[&str], script: &str| {
        let run =
            [&["run", "-M", lab.name()], options, more, &["--", "perl", "-MSocket", "-e", script]].concat();
        let mut command = lab.apart(&lab.coracle(binary.to_str().unwrap(), &run));
        command.env("NOTIFY_SOCKET", &file);
        lab.wait(Job::start(&mut command, None)).success("a run");
        heard(&socket)
    };
    // At most one status per second is forwarded.
    let say = |messages: &str| {
        format!(
            "socket(S, AF_UNIX, SOCK_DGRAM, 0); \
             for ({messages}) {{ send(S, $_, 0, pack_sockaddr_un($ENV{{NOTIFY_SOCKET}})) or die $!; \
             select(undef, undef, undef, 1.5) }}"
        )
    };
    let told =
        hear(&["--notify-ready=yes"], &say("qq(STATUS=half way\\n), qq(READY=1\\n), qq(STATUS=done\\n)"));
    let at = |wanted: &str| told.iter().position(|line| line.contains(wanted));
    assert!(at("half way") < at("READY=1") && at("READY=1") < at("done"), "{told:?}");
    assert!(at("half way").is_some() && at("done").is_some(), "{told:?}");
    assert_eq!(told.iter().filter(|line| *line == "READY=1").count(), 1, "{told:?}");
    // A guest that never sends READY=1 never becomes ready.
    let told = hear(&["--notify-ready=yes"], "select(undef, undef, undef, 0.1)");
    assert!(!told.contains(&"READY=1".to_owned()), "{told:?}");
    // Without `--notify-ready=yes` the machine is ready at once.
    let told = hear(&["--notify-ready=no"], "select(undef, undef, undef, 0.1)");
    assert!(told.contains(&"READY=1".to_owned()), "{told:?}");
    // Notifications of processes other than PID 1 are ignored.
    let other = format!("if (fork) {{ wait }} else {{ {} }}", say("qq(READY=1\\n)"));
    let told = hear(&["--notify-ready=yes"], &other);
    assert!(!told.contains(&"READY=1".to_owned()), "{told:?}");
}
