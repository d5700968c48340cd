//! Rows about logs.

use super::expect;
use crate::support::{Host, LONG};

pub(super) fn bad_queries_of_logs(host: &Host) {
    expect(host, "coracle logs web --since garbage", 1, &["coracle: journalctl: Failed to parse timestamp"]);
    expect(host, "coracle logs web -p foo", 1, &["coracle: journalctl: Unknown log level foo"]);
    expect(host, "coracle logs web -g '('", 1, &["coracle: journalctl: Bad pattern \"(\""]);
}

pub(super) fn selections_of_logs(host: &Host) {
    host.wait_until(LONG, "coracle logs web -u dbus.service | grep 'Started dbus.service'");
    let units = expect(host, "coracle logs web -u dbus.service", 0, &[]);
    assert!(!units.contains("systemd-logind.service"), "{units}");
    let forward =
        expect(host, "coracle logs web -u systemd-logind -u dbus.service -o short-unix", 0, &["logind"]);
    let backward = expect(host, "coracle logs web -u systemd-logind -u dbus -r -o short-unix", 0, &[]);
    let mut lines: Vec<&str> = backward.lines().collect();
    let times = |lines: &[&str]| {
        lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(times(&lines).is_sorted_by(|one, next| one >= next), "{backward}");
    lines.reverse();
    assert_eq!(times(&lines), times(&forward.lines().collect::<Vec<_>>()));
    let last = expect(host, "coracle logs web -r -n 1 -u dbus --no-pager", 0, &[]);
    assert_eq!(last.lines().count(), 1, "{last}");
    let found = expect(host, "coracle logs web -g Started -n 2 -o short-unix", 0, &[]);
    let found: Vec<&str> = found.lines().collect();
    assert!(found.len() == 2 && times(&found).is_sorted(), "{found:?}");
    // Of several machines in one order, each with its name. The other one has just stopped and started.
    host.sh_ok("coracle exec web -- systemd-cat echo the latest");
    host.wait_until(LONG, "coracle logs web bb -n 40 -o short-unix | grep -q ' web .*the latest'");
    let both = expect(host, "coracle logs web bb -n 40 -o short-unix", 0, &[" web ", " bb "]);
    // Further lines of a message are indented.
    let lines: Vec<&str> = both.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(lines.len() == 40 && times(&lines).is_sorted(), "{both}");
    expect(host, "coracle logs web nosuch", 1, &["machine 'nosuch' does not exist"]);
    expect(host, "coracle logs web bb --follow", 2, &["--follow and --boot require a single machine"]);
    let boots = expect(host, "coracle logs bb --list-boots", 0, &["\n  0 "]);
    assert!(boots.lines().all(|line| line.split_whitespace().count() == 4), "{boots}");
    expect(host, "coracle logs nosuch --list-boots", 1, &["machine 'nosuch' does not exist"]);
    host.sh_ok("id joe || useradd joe");
    expect(
        host,
        "runuser -u joe -- coracle logs web",
        1,
        &["is not allowed to you", "'sudo coracle logs web'"],
    );
}

pub(super) fn console_of_systemd(host: &Host) {
    host.wait_until(LONG, "coracle logs web -u dbus.service | grep 'Started dbus.service'");
    let started = |options: &str| {
        let log = host.sh_ok(&format!("coracle logs web{options}"));
        log.lines().filter(|line| line.contains("Started dbus.service")).count()
    };
    assert_eq!(started(""), started(" --console") / 2, "the console repeats the journal");
    expect(host, "coracle logs web | grep Started", 0, &[" host systemd[1]: Started coracle@web.service"]);
    // A guest without a journal.
    expect(host, "coracle logs bb", 0, &[" console: "]);
}

pub(super) fn pager(host: &Host) {
    let shown = |line: &str| host.exec_on_tty(LONG, line).stdout;
    let pager = "SYSTEMD_PAGER='sed s/^/PAGED:/'";
    let paged = shown(&format!("{pager} coracle logs bb -n 2"));
    assert!(paged.lines().count() == 2 && paged.lines().all(|line| line.starts_with("PAGED:")), "{paged}");
    for plain in [
        format!("{pager} coracle logs bb -n 2 --no-pager"),
        format!("{pager} coracle logs bb -n 2 | cat"),
        "SYSTEMD_PAGER= coracle logs bb -n 2".to_owned(),
    ] {
        assert!(!shown(&plain).contains("PAGED"), "{plain}");
    }
    // An error is printed after the pager has ended, and a pager may end before the log.
    let failed = shown(&format!("{pager} coracle logs bb --since garbage"));
    assert!(failed.contains("coracle: journalctl: ") && !failed.contains("PAGED"), "{failed}");
    assert_eq!(host.exec_on_tty(LONG, "SYSTEMD_PAGER='head -n 1' coracle logs web").status, 0);
}
