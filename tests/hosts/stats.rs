//! Reports on running machines: `stats`, `top` on a terminal, `inspect`, and completions of machine names.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::support::{Host, Snapshot};

const SHORT: Duration = Duration::from_secs(20);

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "no '{expected}' in\n{text}");
    }
}

/// Returns a file of `examples/`.
fn example(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    std::fs::read_to_string(&file).expect("an example")
}

#[test]
fn stats_count_what_machines_use() {
    let host = Host::builder().guest("busybox").guest_as("busybox", "other").start();
    host.start_machine("busybox");
    host.start_machine("other");
    let cpu = || -> f64 {
        let text = host.coracle(&["stats", "--metrics"]);
        let line =
            text.lines().find(|line| line.starts_with("coracle_cpu_seconds_total{machine=\"busybox\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("processor time")
    };
    let before = cpu();
    host.coracle(&["exec", "busybox", "--", "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
    assert!(cpu() > before + 0.05, "{before} {}", cpu());
    let text = host.coracle(&["stats", "--metrics"]);
    says(&text, &["# TYPE coracle_cpu_seconds counter", "coracle_tasks{machine=\"other\"} ", "# EOF"]);
    host.coracle(&["stop", "other"]);
    let text = host.coracle(&["stats", "--metrics=prometheus"]);
    let states = [
        "coracle_machine_state{machine=\"busybox\",state=\"running\"} 1\n",
        "coracle_machine_state{machine=\"other\",state=\"running\"} 0\n",
        "coracle_machine_state{machine=\"other\",state=\"stopped\"} 1\n",
        "coracle_machine_start_time_seconds{machine=\"busybox\"} 1",
        "# TYPE coracle_cpu_seconds_total counter\ncoracle_cpu_seconds_total{machine=\"busybox\"} ",
    ];
    says(&text, &states);
    assert!(!text.contains("start_time_seconds{machine=\"other\"}"), "{text}");
    let other = host.coracle(&["stats", "--metrics=prometheus", "other"]);
    assert!(other.contains("machine=\"other\"") && !other.contains("busybox"), "{other}");
    assert_eq!(host.exec(&["coracle", "stats", "--metrics", "nosuch"]).status, 1);
    // The example writes a file that the collector reads whole.
    host.sh_ok("mkdir -p /var/lib/prometheus/node-exporter");
    for unit in ["coracle-metrics.service", "coracle-metrics.timer"] {
        host.write(&format!("/etc/systemd/system/{unit}"), &example(unit));
    }
    host.sh_ok("systemctl daemon-reload && systemctl enable --now coracle-metrics.timer");
    let file = "/var/lib/prometheus/node-exporter/coracle.prom";
    host.wait_until(SHORT, &format!("grep -q 'machine=\"other\",state=\"stopped\"}} 1' {file}"));
    host.sh_ok("systemctl disable --now coracle-metrics.timer");
    host.coracle(&["start", "other"]);
    let json = host.coracle(&["stats", "other", "--json"]);
    says(&json, &["\"name\": \"other\"", "\"memory\": null", "\"net-received\": "]);
    assert!(!json.contains("\"busybox\""), "{json}");
    let table = host.coracle(&["stats"]);
    says(&table, &["NAME", "MEMORY", "busybox", "other"]);
    host.stop();
}

/// Runs `top` at a given width: sorts, opens a machine, returns to the list, and restores the terminal.
fn watch(host: &Host, columns: u32) {
    let line = format!(
        "stty cols {columns} rows 24; stty -a >/tmp/before; coracle top -d 1; stty -a >/tmp/after; echo left $?"
    );
    let mut job = host.spawn_on_tty(&line);
    let mut keys = job.input();
    let mut press = |key: &str| keys.write_all(key.as_bytes()).and_then(|()| keys.flush()).expect("type");
    job.wait_for_stdout("coracle top: 2 machines, by cpu", SHORT);
    job.wait_for_stdout(if columns >= 120 { "P-IO%" } else { "PRESS%" }, SHORT);
    press("a");
    job.wait_for_stdout("by name", SHORT);
    press("j\r");
    job.wait_for_stdout("coracle top: processes of other", SHORT);
    job.wait_for_stdout("COMMAND", SHORT);
    press("q");
    press("q");
    job.wait_for_stdout("left 0", SHORT);
    let shown = job.stdout();
    says(&shown, &["\u{1b}[?1049h", "\u{1b}[?1049l", "\u{1b}[?25h"]);
    host.sh("cmp /tmp/before /tmp/after").success("the terminal is as it was");
}

#[test]
fn top_shows_machines_and_restores_the_terminal() {
    let host = Host::builder().guest("busybox").guest_as("busybox", "other").start();
    host.start_machine("busybox");
    host.start_machine("other");
    let before = Snapshot::take(&host);
    watch(&host, 80);
    watch(&host, 200);
    // After SIGTERM, `top` restores the terminal and exits with status 0.
    let mut job = host.spawn_on_tty("coracle top; echo left $?; stty -a");
    job.wait_for_stdout("2 machines", SHORT);
    host.sh_ok("kill -TERM $(pgrep -x coracle -a | grep -w 'coracle top' | cut -d' ' -f1)");
    job.wait_for_stdout("left 0", SHORT);
    job.wait_for_stdout(" echo ", SHORT);
    let out = host.exec(&["coracle", "top"]);
    assert!(out.status == 1 && out.stderr.contains("requires a terminal"), "{out}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn inspect_shows_the_isolation_of_the_kernel() {
    let host = Host::builder().guest("busybox").guest_as("busybox", "open").start();
    host.define("open", "[users]\nprivate = \"no\"\n[network]\nmode = \"host\"\n");
    host.start_machine("busybox");
    host.coracle(&["start", "open"]);
    let text = host.coracle(&["inspect", "busybox"]);
    says(
        &text,
        &[
            "  user    ",
            "its own\n",
            "system-call filter: the default",
            "sys_admin",
            "/proc ",
            "user ids: 0 ",
        ],
    );
    let leader = host.machine_leader("busybox");
    let inode = host.ok(&["stat", "-Lc", "%i", &format!("/proc/{leader}/ns/net")]);
    says(&host.coracle(&["inspect", "busybox", "--json"]), &[&format!("\"id\": {}", inode.trim())]);
    // A process of the host that has joined a namespace is reported.
    let mut inside = host.spawn(&["nsenter", "-t", &leader.to_string(), "-n", "sleep", "1000"]);
    host.wait_until(
        SHORT,
        "coracle inspect busybox | grep -E 'net .*shared with process [0-9]+ \\(sleep\\)'",
    );
    inside.kill();
    says(&host.coracle(&["inspect", "open"]), &["the host's"]);

    let score = |name: &str| -> u32 {
        let json = host.coracle(&["inspect", name, "--security", "--json"]);
        let value = json.split("\"score\": ").nth(1).and_then(|rest| rest.split(',').next());
        value.and_then(|value| value.parse().ok()).expect("a score")
    };
    let (strong, weak) = (score("busybox"), score("open"));
    assert!(strong < 20 && weak >= 60, "{strong} {weak}");
    let text = host.coracle(&["inspect", "open", "--security"]);
    says(
        &text,
        &[
            "+4.0  root inside is root of the host (hint: set users.private = \"pick\")",
            "the net namespace is the host's",
        ],
    );
    host.stop();
}

#[test]
fn completions_know_the_machines() {
    let host = Host::builder().guest("busybox").guest_as("busybox", "web-1").start();
    host.define("web-2", "[root]\ndirectory = \"/srv/web\"\n");
    assert_eq!(host.coracle(&["names"]), "busybox\nweb-1\nweb-2\n");
    let complete = |words: &str, count: usize| {
        host.ok(&[
            "bash",
            "-c",
            &format!(
                "source <(coracle completions bash)
                 COMP_WORDS=({words}); COMP_CWORD={count}
                 _coracle_machines coracle \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
                 printf '%s\\n' \"${{COMPREPLY[@]}}\""
            ),
        ])
    };
    assert_eq!(complete("coracle start web", 2), "web-1\nweb-2\n");
    assert_eq!(complete("coracle logs -f b", 3), "busybox\n");
    assert_eq!(complete("coracle status web-1 ''", 3), "busybox\nweb-2\n");
    // By their state.
    host.coracle(&["start", "busybox"]);
    assert_eq!(complete("coracle start ''", 2), "web-1\nweb-2\n");
    assert_eq!(complete("coracle shell ''", 2), "busybox\n");
    host.coracle(&["stop", "busybox"]);
    // Settings, properties and values of options.
    assert_eq!(complete("coracle set web-1 memory-m", 3), "memory-max=\n");
    assert_eq!(complete("coracle set web-1 memory-max = ''", 5), "\n");
    assert_eq!(complete("coracle show -p lead", 3), "leader\n");
    assert_eq!(complete("coracle run -M bus", 3), "busybox\n");
    assert_eq!(complete("coracle sto", 1), "stop\n");
    says(&complete("coracle logs --", 2), &["--follow\n"]);
    says(&complete("coracle start --wait ''", 3), &["ready"]);
    host.stop();
}
