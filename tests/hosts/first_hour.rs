//! Commands of a first user, each with its status and its text. All rows share one host,
//! and each row leaves it as it was: `web` and `bb` are running, `db` is stopped. `CORACLE_ROWS='guest'` runs
//! the rows whose claim contains the text.

mod definitions;
mod guest;
mod inside;
mod life;
mod logs;

use crate::support::Host;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A claim and its test.
type Row = (&'static str, fn(&Host));

/// The rows, in the order of their run.
const ROWS: &[Row] = &[
    ("a broken rule names its settings, and 'set' cures it", definitions::broken_rules),
    ("a machine that does not exist is an error", life::unknown_machines),
    ("errors of journalctl are passed on", logs::bad_queries_of_logs),
    ("restart leaves a machine running whose next start would fail", definitions::restarts_that_would_fail),
    ("check takes names of machines", definitions::checks_by_name),
    ("commands have the exit statuses of a shell", inside::exit_statuses_of_commands),
    ("a requested kill is no failure", life::requested_kills),
    ("lists are changed by value, and 'set' removes its own changes only", definitions::changes_of_lists),
    ("a source that is a link is followed, and the order of scp is explained", inside::copies),
    ("logs select units, order and boots", logs::selections_of_logs),
    ("the console is shown while a guest has no journal", logs::console_of_systemd),
    ("limits without a controller are not reported as done", definitions::unenforced_limits),
    ("secrets in the environment are reported", definitions::secrets_in_the_environment),
    ("a plan of a running machine is refused", life::plans_of_running_machines),
    ("a guest of systemd has the host name of its definition", life::host_names),
    ("a stop after a kill is orderly, and a slow one names what it waits for", life::stops_after_a_kill),
    ("machines with the same machine id are reported", life::shared_machine_ids),
    ("a terminal of a machine can be left", inside::terminals_are_left),
    ("what is left of a machine without a tree is removed", life::leftovers),
    ("a definition is edited, checked and compared", definitions::edited_definitions),
    ("failed units of a guest are reported", guest::failed_units),
    ("the addresses of a guest at a bridge are shown, and missing ones reported", guest::addresses),
    ("a bind mount of the definition maps a user", inside::maps_of_definitions),
    ("a port of a zone that does not answer at ::1 is reported", guest::loopback_ports),
    ("states of machines are in colour on a terminal", life::colors),
    ("other users are told about sudo", life::other_users),
    ("an image of a registry is not a root directory", life::images_of_registries),
    ("logs are shown by a pager", logs::pager),
    ("variables of the definition reach commands", inside::variables_of_definitions),
    ("list tells of machines that it does not show", life::lists_on_a_terminal),
];

/// The properties of a row's command: its status, and parts of its output.
#[track_caller]
fn expect(host: &Host, command: &str, status: i32, texts: &[&str]) -> String {
    let out = host.exec(&["sh", "-c", command]);
    let all = format!("{}{}", out.stdout, out.stderr);
    assert_eq!(out.status, status, "{command}: {out}");
    for text in texts {
        assert!(all.contains(text), "{command}: no '{text}' in {all}");
    }
    assert!(!all.contains("/proc/"), "{command}: a path of a process in {all}");
    all
}

#[test]
fn first_hour_rows_hold() {
    let host =
        Host::builder().guest_as("trixie", "web").guest_as("busybox", "bb").guest_as("trixie", "db").start();
    host.coracle(&["start", "web", "bb"]);
    let failed = |(name, row): &Row| catch_unwind(AssertUnwindSafe(|| row(&host))).is_err().then_some(*name);
    let wanted = std::env::var("CORACLE_ROWS").unwrap_or_default();
    let rows = ROWS.iter().filter(|(name, _)| name.contains(&wanted));
    let failed: Vec<&str> = rows.filter_map(failed).collect();
    assert!(failed.is_empty(), "rows that do not hold: {failed:#?}");
    host.coracle(&["stop", "web", "bb"]);
    host.stop();
}
