//! Operations on a running machine of busybox: run a command in it, stop, restart, reboot. Called by `main`, in
//! the host.

use super::boot::compare;
use super::contenders;
use super::managers::{self, MACHINES, Manager};
use super::rest;
use super::run;
use super::table::{self, number};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;
const ENTER_ROUNDS: usize = 30;
const BOUND: Duration = Duration::from_secs(30);
/// The guest, with [`INIT`].
const GUEST: &str = "quick";
/// An init that ends the machine as soon as it is asked to: that of busybox sleeps for two seconds before, which is no
/// time of a manager. The first signals are those of [`managers::add`], the last one that of a reboot.
const INIT: &str = "#!/bin/sh
trap 'exec /usr/bin/busybox poweroff -n -f' USR2 37
trap 'exec /usr/bin/busybox reboot -n -f' TERM
while :; do sleep 1000 & wait $!; done
";

/// Prints all tables except that of [`enter`].
pub fn all() {
    contenders::prepare();
    managers::add("busybox", GUEST);
    let init = format!("{MACHINES}/{GUEST}/usr/sbin/init");
    let replaced = std::fs::remove_file(&init).and_then(|()| std::fs::write(&init, INIT));
    replaced.expect("replace the init");
    let signal = r#"[boot]\nstop-signal = "SIGUSR2"\n"#;
    run::shell(&format!("chmod 755 {init}; printf '{signal}' >>/etc/coracle/machines.d/{GUEST}.toml"))
        .expect("an init and its signal");
    let all = || managers::ALL.iter();
    compare(
        "Stop, by the guest's own means",
        all().map(|one| (one.name, move || stop(one))).collect(),
        ROUNDS,
    );
    let both = || all().filter(|one| one.restart.is_some());
    compare("Restart", both().map(|one| (one.name, move || restart(one))).collect(), ROUNDS);
    compare(
        "Reboot from inside, to the new PID 1",
        both().map(|one| (one.name, move || reboot(one))).collect(),
        ROUNDS,
    );
}

/// Measures commands in a running machine of each manager, interleaved, and then the cost of an open session.
pub fn enter() {
    contenders::prepare();
    let mut ways = Vec::new();
    for (number, one) in managers::ALL.iter().enumerate() {
        let guest = format!("bb{number}");
        managers::add("busybox", &guest);
        let up = run::once(&one.command(one.up, &guest)).and_then(|_| {
            // wait until the init has started completely
            std::thread::sleep(Duration::from_secs(1));
            one.ask(one.leader, &guest)
        });
        match up {
            Ok(leader) => {
                let container = run::shell(&format!("podman inspect -f '{{{{.Id}}}}' {guest}"));
                let container = container.unwrap_or_default();
                ways.extend(one.enter.iter().map(|&(name, command)| {
                    (name, one.command(&command.replace("@P@", &leader).replace("@C@", &container), &guest))
                }));
            }
            Err(why) => println!("\n  {} cannot run here: {why}", one.name),
        }
    }
    let measured = |words: &Vec<String>| {
        let words = words.clone();
        move || run::once(&words).map(|sample| sample.wall)
    };
    compare(
        "Enter: /bin/true in a running machine",
        ways.iter().map(|(name, words)| (*name, measured(words))).collect(),
        ENTER_ROUNDS,
    );
    let rows: Vec<Vec<String>> = ways.iter().filter_map(|(name, words)| session(name, words)).collect();
    let head = ["name", "private dirty KiB", "private KiB", "proportional KiB"];
    table::print("An open session: who was called, while a command sleeps in the machine", &head, &rows);
    managers::ALL.iter().enumerate().for_each(|(number, one)| one.end(&format!("bb{number}")));
}

/// Measures the program that holds a session open.
fn session(name: &str, words: &[String]) -> Option<Vec<String>> {
    let (last, words) = words.split_last()?;
    let (program, arguments) = words.split_first()?;
    assert_eq!(last, "/bin/true", "every way ends with the command");
    let mut called = Command::new(program)
        .args(arguments)
        .args(["/bin/sleep", "100"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    std::thread::sleep(Duration::from_secs(1));
    let pid = called.id().to_string();
    let kib = |keys: &[&str]| number(rest::memory(&pid, keys));
    let row = vec![
        name.to_owned(),
        kib(&["Private_Dirty:"]),
        kib(&["Private_Dirty:", "Private_Clean:"]),
        kib(&["Pss:"]),
    ];
    let _ = called.kill();
    let _ = called.wait();
    Some(row)
}

/// Starts a machine, waits until it is running, and measures an operation on it.
fn with_machine(one: &Manager, what: impl FnOnce() -> Result<f64, String>) -> Result<f64, String> {
    let done = run::once(&one.command(one.up, GUEST)).and_then(|_| {
        // the init ignores signals until it has set its traps
        std::thread::sleep(Duration::from_millis(300));
        what()
    });
    one.end(GUEST);
    done
}

fn stop(one: &Manager) -> Result<f64, String> {
    with_machine(one, || run::once(&one.command(one.down, GUEST)).map(|sample| sample.wall))
}

fn restart(one: &Manager) -> Result<f64, String> {
    let command = one.restart.ok_or("no such verb")?;
    with_machine(one, || run::once(&one.command(command, GUEST)).map(|sample| sample.wall))
}

fn reboot(one: &Manager) -> Result<f64, String> {
    with_machine(one, || {
        let first = one.ask(one.leader, GUEST)?;
        let began = Instant::now();
        // the reboot signal of the init
        run::shell(&format!("kill -TERM {first}"))?;
        while began.elapsed() < BOUND {
            if one.ask(one.leader, GUEST).is_ok_and(|now| now != first && now != "0" && !now.is_empty()) {
                return Ok(began.elapsed().as_secs_f64() * 1e3);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("no new PID 1 within half a minute".into())
    })
}
