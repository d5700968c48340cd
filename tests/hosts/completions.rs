//! Completions of zsh and fish, requested in the shell itself: they contain the defined machines. `stats`
//! tests the completions of bash.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::job;

const BOUND: Duration = Duration::from_secs(20);

/// Returns a directory with a wrapper `coracle` that uses a root directory with three definitions.
fn bench() -> tempfile::TempDir {
    let bench = tempfile::tempdir().expect("a directory");
    let definitions = bench.path().join("root/etc/coracle/machines.d");
    std::fs::create_dir_all(&definitions).expect("make the definitions' directory");
    for name in ["busybox", "web-1", "web-2"] {
        std::fs::write(definitions.join(format!("{name}.toml")), "[root]\n").expect("write a definition");
    }
    let script = format!(
        "#!/bin/sh\nexec {} --root {} \"$@\"\n",
        env!("CARGO_BIN_EXE_coracle"),
        bench.path().join("root").display()
    );
    let program = bench.path().join("coracle");
    std::fs::write(&program, script).expect("write the program");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("make it executable");
    bench
}

/// Returns the environment of a shell in the bench, with the search path and the home directory.
fn environment(bench: &Path) -> [String; 4] {
    let home = bench.display();
    [
        format!("PATH={home}:/usr/bin:/bin"),
        format!("HOME={home}"),
        format!("ZDOTDIR={home}"),
        "TERM=screen".into(),
    ]
}

#[test]
fn fish_completes_machines() {
    let bench = bench();
    let complete = |line: &str| {
        let script = format!("source (coracle completions fish | psub); complete -C '{line}'");
        let mut fish = Command::new("env");
        fish.arg("-i").args(environment(bench.path())).args(["fish", "--no-config", "-c", &script]);
        job::run(&mut fish, BOUND).success("fish").stdout
    };
    assert_eq!(complete("coracle start web"), "web-1\nweb-2\n");
    assert_eq!(complete("coracle status web-1 bus"), "busybox\n");
    assert!(complete("coracle sto").starts_with("stop"), "{}", complete("coracle sto"));
    assert!(complete("coracle logs --fol").starts_with("--follow"), "{}", complete("coracle logs --fol"));
    assert_eq!(complete("coracle list web"), "");
    assert_eq!(complete("coracle start web-1 web"), "web-2\n", "a named one is not offered again");
    assert_eq!(complete("coracle shell web"), "", "none is running");
    assert_eq!(complete("coracle set web-1 memory-m"), "memory-max=\n");
    assert_eq!(complete("coracle show -p lead"), "leader\n");
    assert_eq!(complete("coracle run -M bus"), "busybox\n");
}

#[test]
fn zsh_completes_machines() {
    let bench = bench();
    let socket = format!("coracle-zsh-{}", std::process::id());
    let tmux = |words: &[&str]| {
        let mut command = Command::new("tmux");
        command.args(["-L", &socket, "-f", "/dev/null"]).args(words);
        job::run(&mut command, BOUND).success("tmux").stdout
    };
    let sees = |text: &str| {
        let end = Instant::now() + BOUND;
        loop {
            let screen = tmux(&["capture-pane", "-p"]);
            if screen.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "'{text}' does not come:\n{screen}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    let shell = format!("env -i {} PS1='zsh> ' zsh -f -i", environment(bench.path()).join(" "));
    tmux(&["new-session", "-d", "-x", "100", "-y", "30", &shell]);
    sees("zsh>");
    tmux(&[
        "send-keys",
        "-l",
        "autoload -Uz compinit; compinit -u -D; source <(coracle completions zsh); echo it-is-$((1+1))",
    ]);
    tmux(&["send-keys", "Enter"]);
    sees("it-is-2");
    for (typed, completed) in [
        ("coracle start bus", "coracle start busybox"),
        ("coracle status we", "coracle status web-"),
        ("coracle status web-1 bus", "coracle status web-1 busybox"),
        ("coracle set web-1 memory-m", "coracle set web-1 memory-max="),
        ("coracle show -p lead", "coracle show -p leader"),
        ("coracle run -M bus", "coracle run -M busybox"),
        ("coracle docto", "coracle doctor"),
        ("coracle logs --fol", "coracle logs --follow"),
    ] {
        tmux(&["send-keys", "C-u"]);
        tmux(&["send-keys", "-l", typed]);
        tmux(&["send-keys", "Tab"]);
        sees(&format!("zsh> {completed}"));
    }
    // An ambiguous name lists the remaining machines.
    tmux(&["send-keys", "C-u"]);
    tmux(&["send-keys", "-l", "coracle status web-"]);
    tmux(&["send-keys", "Tab", "Tab"]);
    sees("web-1  web-2");
    tmux(&["kill-server"]);
}
