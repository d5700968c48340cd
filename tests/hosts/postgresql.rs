//! PostgreSQL of Debian in a machine, and a machine with an application that needs it: the database is killed, both come
//! back in their order, and no committed row is lost.

use crate::support::{Host, LONG};

/// The machine of the database: other machines of its zone may connect.
const DATABASE: &str = "
[network]
zone = \"lan\"
[unit]
restart = \"on-failure\"
restart-delay = \"100ms\"
[health]
command = \"pg_isready -q -h 127.0.0.1\"
interval = \"1s\"
retries = 2
action = \"restart\"
";
/// The machine of the application.
const APPLICATION: &str = "
[network]
zone = \"lan\"
[unit]
requires = \"db\"
after = \"db\"
restart = \"on-failure\"
[health]
command = \"systemctl -q is-active application\"
interval = \"1s\"
retries = 5
";
/// The settings of PostgreSQL for its zone.
const SETTINGS: &str = "listen_addresses = '*'\nfsync = off\n";
/// The application: it counts in the database for ever, and ends with the first error.
const PROGRAM: &str = "#!/bin/sh
until psql -q -h db -U postgres -c 'create table if not exists counter (number serial)'; do sleep 0.2; done
while psql -q -h db -U postgres -c 'insert into counter default values'; do sleep 0.2; done
";
const SERVICE: &str = "[Service]\nExecStart=/usr/local/bin/application\nRestart=always\nRestartSec=200ms\n\
                       [Install]\nWantedBy=multi-user.target\n";

/// Returns a host with both machines as stacks on one Debian.
fn start_host() -> Host {
    let host = Host::builder().guest_as("trixie-untrimmed", "debian").start();
    host.coracle(&["read-only", "debian", "yes"]);
    host.coracle(&["clone", "debian", "db"]);
    host.coracle(&["clone", "debian", "app"]);
    host.define("db", DATABASE);
    host.define("app", APPLICATION);
    host.write("/root/zone.conf", SETTINGS);
    host.write("/root/application", PROGRAM);
    host.write("/root/application.service", SERVICE);
    host
}

/// Installs the application in its machine, and opens the database to it.
fn set_up(host: &Host) {
    host.coracle(&["start", "--wait=ready", "db"]);
    host.coracle(&["copy-to", "db", "/root/zone.conf", "/etc/postgresql/17/main/conf.d/zone.conf"]);
    host.sh_ok(
        "coracle exec db -- sh -c 'echo host all all all trust >>/etc/postgresql/17/main/pg_hba.conf
         systemctl restart postgresql'",
    );
    host.coracle(&["start", "--wait=ready", "app"]);
    host.sh_ok("coracle copy-to app /root/application /usr/local/bin/application");
    host.sh_ok("coracle copy-to app /root/application.service /etc/systemd/system/application.service");
    host.sh_ok(
        "coracle exec app -- sh -c 'systemctl disable --now postgresql
         chmod 755 /usr/local/bin/application; systemctl enable --now application'",
    );
}

/// Returns the number of rows that the application has written.
fn rows(host: &Host) -> u64 {
    let count = "coracle exec db -- su postgres -c \"psql -qtA -c 'select count(*) from counter'\"";
    host.wait_until(LONG, count).stdout.trim().parse().expect("a number of rows")
}

/// Waits until the application has written further rows.
fn wait_for_more(host: &Host) {
    let before = rows(host);
    host.wait_until(
        LONG,
        &format!(
            "test $(coracle exec db -- su postgres -c \"psql -qtA -c 'select count(*) from counter'\") -gt {before}"
        ),
    );
}

fn wait_for_health(host: &Host, name: &str) {
    host.wait_until(LONG, &format!("coracle status {name} | grep -E '^ +health: healthy'"));
}

/// Returns the time of a unit's last change, microseconds.
fn time(host: &Host, name: &str, property: &str) -> u64 {
    host.unit(name, &format!("{property}TimestampMonotonic")).parse().expect("a time")
}

#[test]
fn a_killed_postgresql_recovers_with_its_application() {
    let host = start_host();
    set_up(&host);
    wait_for_health(&host, "db");
    wait_for_health(&host, "app");
    wait_for_more(&host);

    // The server dies: the check notices it, the application stops first and starts last.
    let (before, leaders) = (rows(&host), ["db", "app"].map(|name| host.machine_leader(name)));
    host.sh_ok("coracle exec db -- pkill -KILL -u postgres");
    for (name, leader) in ["db", "app"].into_iter().zip(leaders) {
        host.wait_for_reboot(name, leader);
    }
    assert!(time(&host, "app", "InactiveEnter") <= time(&host, "db", "ActiveExit"), "app stops first");
    assert!(time(&host, "db", "ActiveEnter") <= time(&host, "app", "InactiveExit"), "db starts first");
    wait_for_health(&host, "db");
    wait_for_health(&host, "app");
    assert!(rows(&host) >= before, "no row is lost");
    wait_for_more(&host);

    // Its machine dies: it is started again, and the application goes on by itself.
    let (before, leader) = (rows(&host), host.machine_leader("db"));
    host.sh_ok(&format!("kill -KILL {leader}"));
    host.wait_for_reboot("db", leader);
    wait_for_health(&host, "db");
    assert!(rows(&host) >= before, "no row is lost");
    wait_for_more(&host);
    wait_for_health(&host, "app");

    host.ok(&["journalctl", "--sync"]);
    let events = host.coracle(&["events", "--json"]);
    for event in ["\"machine\":\"db\",\"event\":\"unhealthy\"", "\"machine\":\"db\",\"event\":\"failure\""] {
        assert!(events.contains(event), "no {event} in {events}");
    }
    host.coracle(&["stop", "app", "db"]);
    host.stop();
}
