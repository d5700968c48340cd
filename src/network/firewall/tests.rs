//! The tables of example machines, loaded into the kernel in a throw-away network namespace and listed by
//! nft(8). `tests/firewall/*.nft` has the expected lists; `BLESS=1` writes them. Without root or nft(8):
//! skipped, by name.

use super::traffic_policy::ZoneReach;
use super::*;
use crate::machine::egress::Prefix;
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::machine::network::{Port, Protocol, Zone};
use crate::network::addresses::{self, zone};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::process::Command;

const ID: Id128 = Id128::new([9; 16]);
const CASES: [&str; 4] = ["default", "ports", "policy", "zone"];

/// Runs a test on a thread with a network namespace of its own.
fn in_netns(test: &str, body: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() || Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped {test}: needs root and nft(8)");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        body();
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn expected(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/firewall").join(format!("{case}.nft"))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn web() -> Member {
    Member::new(&addresses::plan(&name("web"), ID, &[]).unwrap(), &[])
}

fn published() -> Member {
    let port = |address: Option<&str>, host, last, guest, protocol| Port {
        address: address.map(|text| text.parse().unwrap()),
        protocol,
        host,
        last,
        guest,
    };
    let ports = [
        port(None, 8080, 8081, 80, Protocol::Tcp),
        port(Some("192.0.2.1"), 53, 53, 5353, Protocol::Udp),
        port(Some("2001:db8::1"), 443, 443, 443, Protocol::Tcp),
    ];
    let on_demand = vec![ports[0], ports[2], port(Some("192.0.2.1"), 9, 9, 9, Protocol::Tcp)];
    web()
        .with_ports([&ports[..], &on_demand[2..]].concat())
        .with_on_demand(on_demand)
        .with_resolver(Some("127.0.0.53".parse().unwrap()))
}

fn policy() -> TrafficPolicy {
    let range = |text: &str, length| Prefix::new(text.parse().unwrap(), length).unwrap();
    TrafficPolicy {
        egress: Some(vec![range("192.0.2.0", 24), range("2001:db8::", 32)]),
        zone_reach: ZoneReach::All,
        rate_in: Some(80_000_000),
        rate_out: Some(8_000_000),
        connections: Some(3200),
    }
}

/// Two machines of a zone, the second with a policy.
fn zone_of_two() -> [Member; 2] {
    let lan = Zone::new("lan").unwrap();
    let db = zone::plan(&name("db"), &lan, ID, &[], &zone::Present::default()).unwrap();
    let present = zone::Present { members: vec![db.ipv4.guest], ..zone::Present::default() };
    let app = zone::plan(&name("app"), &lan, ID, &[], &present).unwrap();
    [Member::new(&db, &[]), Member::new(&app, &[]).with_policy(policy())]
}

/// Adds machines and compares the list with the expected one, which other versions of nft(8) may print
/// differently.
fn assert_listed(case: &str, parts: &[Part<'_>]) {
    for part in parts {
        assert!(matches!(add(*part).unwrap(), Added::Done));
        assert!(is_complete(*part), "{case}");
        assert!(counters::of_machine(*part).is_some(), "{case}");
    }
    let version = nft(&["--version"]);
    let header = format!("# {}\n", version.split(" (").next().unwrap());
    let listed = header.clone() + &nft(&["-s", "list", "ruleset"]);
    let file = expected(case);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &listed).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    if expected.starts_with(&header) {
        assert_eq!(listed, expected, "{case}");
    } else {
        eprintln!("skipped the list of '{case}': it is of another version of nft(8)");
    }
    for (index, part) in parts.iter().enumerate() {
        let others = parts.get(index + 1..).unwrap_or_default();
        let others = Others {
            any: !others.is_empty(),
            zoned: others.iter().any(Part::is_bridged),
            same_zone: !others.is_empty(),
        };
        remove(&Nfnetlink::open(), *part, others).unwrap();
    }
    assert_eq!(nft(&["list", "ruleset"]), "", "{case}");
}

#[test]
fn a_default_machine_is_listed() {
    in_netns("a_default_machine_is_listed", || assert_listed("default", &[Part::from(&web())]));
}

#[test]
fn published_ports_are_listed() {
    in_netns("published_ports_are_listed", || assert_listed("ports", &[Part::from(&published())]));
}

#[test]
fn a_policy_and_extra_links_are_listed() {
    in_netns("a_policy_and_extra_links_are_listed", || {
        let member = web().with_policy(policy());
        let extras = [Extra::link("ve-web-x"), Extra::port("vb-web-y")];
        let part = Part { member: Some(&member), extras: &extras, forwarding: None };
        assert!(matches!(add(part).unwrap(), Added::Done));
        change(&member, &web(), &extras).unwrap();
        assert!(is_complete(Part { member: Some(&web()), extras: &extras, forwarding: None }));
        change(&web(), &member, &extras).unwrap();
        PolicyChain::existing(&Nfnetlink::open()).for_each(|chain| assert!(chain.is_needed_by(&member)));
        remove(&Nfnetlink::open(), part, Others::default()).unwrap();
        assert_listed("policy", &[part]);
    });
}

#[test]
fn a_zone_of_two_is_listed() {
    in_netns("a_zone_of_two_is_listed", || {
        let [db, app] = zone_of_two();
        assert_listed("zone", &[Part::from(&db), Part::from(&app)]);
    });
}

#[test]
fn tables_of_another_version_are_created_again() {
    const OTHER: &str = "table inet coracle { set links { type ifname; }; chain forward { \
        type filter hook forward priority 0; }; }; \
        table bridge coracle { set egress-restricted { type ifname; }; }";
    in_netns("tables_of_another_version_are_created_again", || {
        let [db, app] = zone_of_two();
        nft(&[OTHER]);
        for member in [&web(), &db, &app] {
            assert!(matches!(add(Part::from(member)).unwrap(), Added::Incompatible));
            assert!(!is_complete(Part::from(member)));
            let others = Others { any: true, zoned: true, same_zone: true };
            remove(&Nfnetlink::open(), Part::from(member), others).unwrap();
        }
        recreate(&[Part::from(&db), Part::from(&app)]).unwrap();
        assert!(is_complete(Part::from(&db)) && is_complete(Part::from(&app)));
    });
}

/// The comments of the sources of the firewall, each line alone and joined with the next.
fn comments(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            comments(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Option<&str>> = text.lines().map(|line| line.trim().strip_prefix("// ")).collect();
        found.extend(lines.iter().flatten().map(|line| (*line).to_owned()));
        let joined = lines.windows(2).filter_map(|pair| Some(format!("{} {}", pair[0]?, pair[1]?)));
        found.extend(joined);
    }
}

/// Whether a comment is a rule's line: its words in capitals stand for any word.
fn is_line(comment: &str, rule: &str) -> bool {
    let (comment, rule): (Vec<_>, Vec<_>) = (comment.split(' ').collect(), rule.split(' ').collect());
    let is_any = |word: &str| word.trim_matches(['@', '"']).bytes().all(|byte| byte.is_ascii_uppercase());
    comment.len() == rule.len() && comment.iter().zip(&rule).all(|(one, other)| one == other || is_any(one))
}

#[test]
fn each_listed_rule_is_a_comment() {
    let mut found = Vec::new();
    comments(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/network/firewall"), &mut found);
    let mut missing = Vec::new();
    for case in CASES {
        let text = std::fs::read_to_string(expected(case)).unwrap();
        let mut in_chain = false;
        for line in text.lines().map(str::trim) {
            in_chain = (in_chain || line.starts_with("chain ")) && line != "}";
            let is_rule = in_chain && !line.starts_with("chain ") && !line.starts_with("type ");
            if is_rule && !found.iter().any(|comment| is_line(comment, line)) {
                missing.push(line.to_owned());
            }
        }
    }
    missing.sort();
    missing.dedup();
    assert!(missing.is_empty(), "rules without a comment:\n{}", missing.join("\n"));
}
