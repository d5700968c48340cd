//! Machines killed at random moments, and many concurrent machines: no state is left, and the firewall cost
//! of the last machine equals that of the first.

use crate::support::{Host, LONG, Snapshot};
use coracle::machine::egress::Prefix;
use coracle::machine::id128::Id128;
use coracle::machine::name::Name;
use coracle::machine::network::Zone;
use coracle::network::addresses::plan;
use coracle::network::addresses::zone;
use coracle::network::addresses::zone::Present;
use coracle::network::firewall;
use coracle::network::firewall::Added;
use coracle::network::firewall::Member;
use coracle::network::firewall::Nfnetlink;
use coracle::network::firewall::Others;
use coracle::network::firewall::Part;
use coracle::network::firewall::TrafficPolicy;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// A script that starts stopped machines, and kills the main or control process of their units: the launch,
/// the supervisor, the cleanup. It prints the killed processes.
const STORM: &str = r#"
RANDOM=$1
machines=(a b c d e f)
hits=0
end=$((SECONDS + 60))
while [ $hits -lt 50 ] && [ $SECONDS -lt $end ]; do
	m=${machines[RANDOM % 6]}
	state=$(systemctl show -P ActiveState coracle@$m)
	case $state in
	inactive | failed)
		systemctl reset-failed coracle@$m 2>/dev/null
		systemctl start --no-block coracle@$m
		;;
	esac
	sleep 0.0$((RANDOM % 10))$((RANDOM % 10))
	state=$(systemctl show -P SubState coracle@$m)
	for which in MainPID ControlPID; do
		pid=$(systemctl show -P $which coracle@$m)
		if [ "$pid" -gt 1 ] && [ $((RANDOM % 3)) -gt 0 ] && kill -9 "$pid" 2>/dev/null; then
			hits=$((hits + 1))
			echo "$which in $state"
		fi
	done
done
"#;

#[test]
fn kills_at_random_moments_are_cleaned_up() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside();
    host.activate_machined();
    host.wait_for_address_detection();
    for (number, name) in names.iter().enumerate() {
        let bounds = "egress = [\"192.0.2.0/24\", \"fd00::/8\"]\nrate-in = \"1G\"\nrate-out = \"1G\"\n";
        host.define(name, &format!("[network]\nports = [\"80{number}0-80{number}5:80-85\"]\n{bounds}"));
    }
    // The first start adds the anycast routes of a router, which remain.
    host.coracle(&["start", "a"]);
    host.coracle(&["stop", "a"]);
    let rules = "table inet site { chain forward { type filter hook forward priority 0; policy drop; }; }";
    host.sh_ok(&format!("nft '{rules}'"));
    let before = Snapshot::take(&host);
    let seed = std::process::id() % 32768;
    host.write("/run/storm.sh", STORM);
    let hits = host.exec_for(LONG, &["bash", "/run/storm.sh", &seed.to_string()]).success("storm").stdout;
    // The seed is required to reproduce a failure.
    println!("seed {seed}");
    assert_eq!(hits.lines().count().min(50), 50, "{hits}");
    // The next start completes an interrupted cleanup.
    host.wait_until(LONG, "! systemctl list-jobs | grep coracle@");
    let all = [&["start"][..], &names].concat();
    host.sh_ok("systemctl reset-failed; systemctl stop 'coracle@*'");
    host.coracle(&all);
    for name in names {
        host.wait_for_page(&host.address(name));
    }
    host.coracle(&[&["stop"][..], &names].concat());
    assert_ne!(host.sh("nft list table inet coracle").status, 0);
    before.assert_same(&host);
    host.stop();
}

/// The number of machines of a full storm, and of the concurrent processes that operate them.
const MACHINES: usize = 50;
const KEEPERS: usize = 4;

/// Starts and ends machines by all operations while services of the host are restarted: for `CORACLE_STORM`
/// seconds with all machines, or by default for a short time with a few.
#[test]
fn random_operations_lose_no_machine() {
    let whole = std::env::var("CORACLE_STORM").ok().map(|seconds| seconds.parse().expect("seconds"));
    let (count, seconds): (usize, u64) = whole.map_or((8, 15), |seconds| (MACHINES, seconds));
    let names: Vec<String> = (0..count).map(|number| format!("m{number}")).collect();
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.activate_machined();
    names.iter().for_each(|name| host.define(name, ""));
    // The first machine creates state that remains.
    host.coracle(&["start", &names[0]]);
    host.coracle(&["stop", &names[0]]);
    let before = Snapshot::take(&host);
    host.write("/run/life.sh", include_str!("../storm/life.sh"));
    host.write("/run/restart-services.sh", include_str!("../storm/restart-services.sh"));
    let (seed, time) = (std::process::id() % 32768, seconds.to_string());
    let mut jobs = vec![host.spawn(&["bash", "/run/restart-services.sh", &seed.to_string(), &time])];
    for (number, names) in names.chunks(count.div_ceil(KEEPERS)).enumerate() {
        let seed = (seed as usize + number).to_string();
        let names = names.iter().map(String::as_str);
        let command: Vec<&str> = ["bash", "/run/life.sh", &seed, &time].into_iter().chain(names).collect();
        jobs.push(host.spawn(&command));
    }
    let bound = Duration::from_secs(seconds + 300);
    let said: Vec<String> =
        jobs.into_iter().map(|job| job.wait(bound).success("a keeper of the storm").stdout).collect();
    let lines: Vec<&str> = said.iter().flat_map(|said| said.lines()).collect();
    let mut counts = std::collections::BTreeMap::new();
    for line in &lines {
        let kind = if ["lost", "leaked", "refused"].iter().any(|bad| line.starts_with(bad)) {
            line.split(' ').next().unwrap_or_default()
        } else {
            line
        };
        *counts.entry(kind).or_insert(0u32) += 1;
    }
    println!("seed {seed}, {count} machines, {seconds} s:");
    counts.iter().for_each(|(kind, count)| println!("{count:>7} {kind}"));
    let bad = |line: &&&str| line.starts_with("lost") || line.starts_with("leaked");
    let bad: Vec<&str> = lines.iter().filter(bad).copied().collect();
    let refused: Vec<&str> = lines.iter().filter(|line| line.starts_with("refused")).copied().collect();
    println!("{}", refused.join("\n"));
    assert_eq!(bad, [""; 0], "{} lost or leaked:\n{}", bad.len(), bad.join("\n"));
    before.assert_same(&host);
    host.stop();
}

/// 299 machines exist only as records and in the firewall: a test cannot boot this many.
#[test]
fn start_time_is_independent_of_the_number_of_machines() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    host.define(
        "busybox",
        "[network]\nports = [\"8080:80\"]\negress = [\"192.0.2.0/24\"]\nrate-in = \"1G\"\n",
    );
    let cycle = || {
        let once = || {
            let begun = Instant::now();
            host.coracle(&["start", "busybox"]);
            let up = begun.elapsed();
            host.coracle(&["stop", "busybox"]);
            (up, begun.elapsed() - up)
        };
        let mut all = [once(), once(), once(), once(), once()];
        all.sort_unstable();
        all[2]
    };
    let first = cycle();
    // The count excludes the chains of connection limits: each machine has one, which only its packets
    // traverse.
    let size = |host: &Host| {
        host.sh_ok(
            "nft -j list ruleset | wc -c
             nft list ruleset | grep -v connection-limit- | grep -cE 'chain|accept|drop|masq|dnat' || true",
        )
    };
    host.coracle(&["start", "busybox"]);
    let one = size(&host);
    host.sh_ok(OTHERS);
    let many = size(&host);
    host.coracle(&["stop", "busybox"]);
    let last = cycle();
    let limit = |time: Duration| time * 3 + Duration::from_secs(1);
    assert!(last.0 < limit(first.0) && last.1 < limit(first.1), "first: {first:.1?}, 300th: {last:.1?}");
    assert_eq!(one.lines().nth(1), many.lines().nth(1), "the chains and rules of all never change");
    host.stop();
}

/// Compares the median times to add and remove the firewall part of the second and of the 300th machine, with
/// veth links and in one zone.
#[test]
fn firewall_updates_are_independent_of_the_number_of_machines() {
    assert!(rustix::process::geteuid().is_root(), "must be run as root");
    // The network namespace of this thread only.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    for zone in [None, Some(Zone::new("lan").expect("a zone"))] {
        let members = members(zone.as_ref());
        let place = zone.map_or("links of their own".into(), |zone| format!("zone {zone}"));
        assert!(matches!(firewall::add(Part::from(&members[0])).expect("the first"), Added::Done));
        let second = comes_and_goes(&members[1]);
        let one = rules();
        for member in &members[1..299] {
            firewall::add(Part::from(member)).expect("come");
        }
        let last = comes_and_goes(&members[299]);
        firewall::add(Part::from(&members[299])).expect("come");
        let all = rules();
        let limit = |time: Duration| time * 5 + Duration::from_millis(5);
        assert!(
            last[0] < limit(second[0]) && last[1] < limit(second[1]),
            "{place}: added and removed as the second in {second:.2?}, as the 300th in {last:.2?}"
        );
        assert_eq!(one, all, "{place}: the number of rules is constant");
        firewall::remove(&Nfnetlink::open(), Part::from(&members[0]), Others::default()).expect("the table");
    }
}

/// Returns the firewall parts of 300 machines.
fn members(zone: Option<&Zone>) -> Vec<Member> {
    let mut present = Present::default();
    let member = |number: u32| {
        let name = Name::new(&format!("m{number}")).expect("a name");
        let plan = match zone {
            None => {
                let mut plan = plan(&name, Id128::new([7; 16]), &[]).expect("a plan");
                // Each machine has distinct addresses.
                plan.ipv4.guest = Ipv4Addr::from_bits(0x0ab1_0000 + number * 4 + 2);
                plan.ipv6.guest = Ipv6Addr::from_bits(0xfd00_u128 << 112 | u128::from(number) << 64 | 2);
                plan
            }
            Some(zone) => zone::plan(&name, zone, Id128::new([7; 16]), &[], &present).expect("a plan"),
        };
        present.members.push(plan.ipv4.guest);
        let range = Prefix::new("192.0.2.0".parse().expect("one"), 24);
        let bounds = TrafficPolicy {
            egress: range.map(|range| vec![range]),
            rate_in: Some(1 << 30),
            ..TrafficPolicy::default()
        };
        Member::new(&plan, &[]).with_policy(bounds)
    };
    (0..300).map(member).collect()
}

/// Returns the median times to add and to remove the firewall part of a machine.
fn comes_and_goes(member: &Member) -> [Duration; 2] {
    let others = Others { any: true, zoned: true, same_zone: true };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..21 {
        let begun = Instant::now();
        assert!(matches!(firewall::add(Part::from(member)).expect("come"), Added::Done));
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        firewall::remove(&Nfnetlink::open(), Part::from(member), others).expect("go");
        times[1].push(begun.elapsed());
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[10]
    })
}

/// Returns the number of rules in the tables.
fn rules() -> u64 {
    firewall::counters::dropped().expect("the rules").iter().map(|chain| chain.rules).sum()
}

/// A script that writes records of 299 running machines, with PID 1 as their supervisor, and adds them to the
/// table by `network reload`.
const OTHERS: &str = r#"
start=$(cut -d' ' -f22 /proc/1/stat)
record=$(cat /run/coracle/busybox/state.json)
for i in $(seq 1 299); do
	mkdir -p /run/coracle/m$i
	mac="[2,0,0,0,$((i / 256)),$((i % 256))]"
	echo "$record" | perl -0pe 's/"name": "busybox"/"name": "m'$i'"/; s/ve-busybox/ve-m'$i'/g; s/"supervisor": \d+/"supervisor": 1/;
		s/"supervisor-start": \d+/"supervisor-start": '$start'/; s/"mac": \[[^\]]*\]/"mac": '"$mac"'/; s/"ipv4": "[^"]*"/"ipv4": "10.178.'$((i / 256)).$((i % 256))'"/;
		s/"ipv6": "[^"]*"/"ipv6": "fd12:0:0:'$i'::2"/; s/"(host|last)": 8080/"$1": '$((20000 + i))'/g' >/run/coracle/m$i/state.json
done
coracle network reload
[ "$(nft list set inet coracle machine-links | grep -o 've-[a-z0-9]*' | sort -u | wc -l)" = 300 ]
"#;
