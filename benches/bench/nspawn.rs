//! Coracle called as systemd-nspawn, against the systemd-nspawn of the host: the same command lines. Called by
//! `main`, in the host, whose images are on ext4.

use super::boot::{Measure, compare, compare_to};
use super::contenders;
use super::managers::{self, MACHINES};
use super::run::{self, shell};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 40;
const COPY_ROUNDS: usize = 5;
/// The directory of the link to Coracle.
const OURS: &str = "/run/bench-nspawn";
/// Options without a unit and without a bus.
const OPTIONS: &str = "-q --register=no --keep-unit -P";
/// The number of options of a long command line.
const MANY: usize = 40;

/// Prints all tables.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    // With its documentation and translations, as mmdebstrap(1) creates it.
    managers::add("trixie-untrimmed", "whole");
    shell(&format!(
        "mkdir -p {OURS}; ln -sf \"$(command -v coracle)\" {OURS}/systemd-nspawn
         mkdir -p -m 700 {MACHINES}/.storage /var/lib/coracle; ln -sfn {MACHINES}/.storage /var/lib/coracle/storage
         cp -a {MACHINES}/bb {MACHINES}/boot; cd {MACHINES}/boot; rm -f sbin/init usr/sbin/init
         printf '#!/bin/sh\\necho up\\nexit 0\\n' >usr/sbin/init; chmod 755 usr/sbin/init"
    ))
    .expect("a link to the program, and a tree to boot");
    let started = format!("-a -D {MACHINES}/bb /bin/true");
    compare("systemd-nspawn -a: /bin/true as PID 2", both(&started, wall), ROUNDS);
    let discarded = format!("-x -D {MACHINES}/whole /bin/true");
    let title = "systemd-nspawn -x: /bin/true in a whole Debian tree that is thrown away";
    compare(title, both(&discarded, wall), COPY_ROUNDS);
    let booted = format!("-b -D {MACHINES}/boot");
    compare("systemd-nspawn -b: to the first line of PID 1", both(&booted, to_first_line), ROUNDS);
    options();
}

/// Returns the measures of both programs with the same options.
fn both(options: &str, measure: fn(&[String]) -> Result<f64, String>) -> Vec<(&'static str, Measure)> {
    let ours = format!("{OURS}/systemd-nspawn");
    let entry = |(name, program): (&'static str, &str)| {
        let words = run::words(&format!("{program} {OPTIONS} {options}"));
        (name, Box::new(move || measure(&words)) as Measure)
    };
    [("coracle", ours.as_str()), ("systemd-nspawn", "systemd-nspawn")].map(entry).into()
}

fn wall(command: &[String]) -> Result<f64, String> {
    run::once(command).map(|sample| sample.wall)
}

fn to_first_line(command: &[String]) -> Result<f64, String> {
    use std::io::{BufRead, BufReader};
    let began = Instant::now();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut found = None;
    for line in lines.map_while(Result::ok) {
        if line.trim() == "up" && found.is_none() {
            found = Some(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let _ = child.wait();
    found.ok_or_else(|| format!("'{}' printed no 'up'", command[0]))
}

/// Compares a command line of many options with one of few: both print the version.
fn options() {
    let program = format!("{OURS}/systemd-nspawn");
    let many: Vec<String> = (0..MANY).map(|number| format!("--setenv=VARIABLE{number}=value")).collect();
    let measure = |words: Vec<String>| -> Measure { Box::new(move || wall(&words)) };
    let few = vec![program.clone(), "--version".to_owned()];
    let long = [vec![program], many, vec!["--version".to_owned()]].concat();
    compare_to(
        &format!("systemd-nspawn: a command line of {MANY} options"),
        vec![("no options", measure(few)), ("many options", measure(long))],
        ROUNDS,
        "no options",
    );
}
