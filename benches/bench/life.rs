//! In the life of a busybox machine: a command in it, its stop, restart and reboot. Called by `main`, in the host.

use super::boot::compare;
use super::contenders;
use super::managers::{self, Manager};
use super::run;
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;
const ENTER_ROUNDS: usize = 30;
const BOUND: Duration = Duration::from_secs(30);

/// All four tables.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    enter();
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

/// A machine of each is up in turn; the ways into it are interleaved.
fn enter() {
    for one in managers::ALL {
        let up = run::once(&one.command(one.up, "bb")).and_then(|_| {
            // an init that has only just begun is not the one that is entered
            std::thread::sleep(Duration::from_secs(1));
            one.ask(one.leader, "bb")
        });
        match up {
            Ok(leader) => {
                let container = run::shell("podman inspect -f '{{.Id}}' bb").unwrap_or_default();
                let ways = one.enter.iter().map(|&(name, command)| {
                    let command = command.replace("@P@", &leader).replace("@C@", &container);
                    (name, move || run::once(&one.command(&command, "bb")).map(|sample| sample.wall))
                });
                compare(
                    &format!("Enter: /bin/true in a running machine of {}", one.name),
                    ways.collect(),
                    ENTER_ROUNDS,
                );
            }
            Err(why) => println!("\n  {} cannot run here: {why}", one.name),
        }
        one.end("bb");
    }
}

/// Starts a machine, waits until it is up, and does something to it.
fn with_machine(one: &Manager, what: impl FnOnce() -> Result<f64, String>) -> Result<f64, String> {
    let done = run::once(&one.command(one.up, "bb")).and_then(|_| {
        // busybox hears no signal before it has read its inittab
        std::thread::sleep(Duration::from_millis(300));
        what()
    });
    one.end("bb");
    done
}

fn stop(one: &Manager) -> Result<f64, String> {
    with_machine(one, || run::once(&one.command(one.down, "bb")).map(|sample| sample.wall))
}

fn restart(one: &Manager) -> Result<f64, String> {
    let command = one.restart.ok_or("no such verb")?;
    with_machine(one, || run::once(&one.command(command, "bb")).map(|sample| sample.wall))
}

fn reboot(one: &Manager) -> Result<f64, String> {
    with_machine(one, || {
        let first = one.ask(one.leader, "bb")?;
        let began = Instant::now();
        // what busybox takes for a reboot
        run::shell(&format!("kill -TERM {first}"))?;
        while began.elapsed() < BOUND {
            if one.ask(one.leader, "bb").is_ok_and(|now| now != first && now != "0" && !now.is_empty()) {
                return Ok(began.elapsed().as_secs_f64() * 1e3);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("no new PID 1 within half a minute".into())
    })
}
