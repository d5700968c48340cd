//! The path from a machine through its host to another network and back, with masquerading. Called by `main`,
//! in the host. All machines run at the same time and are measured in short turns, so that other load on the
//! processors affects all of them alike. The rules of the waiting machines are disabled, so that each packet
//! passes only the rules of its own manager.

use super::contenders;
use super::host::TOOLS;
use super::managers;
use super::run::shell;
use super::table::{self, bounds, median, number, spread};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 300;
/// The duration of each of the three measurements, ms.
const SPAN: u32 = 20;
const SERVER: &str = "192.0.2.2:7000";
const WHAT: [&str; 3] = ["out", "in", "turns"];
/// Each end has its own processor: migrations between processors cause most of the spread between rounds.
const INSIDE: &str = "taskset -c 0";
const BEYOND: &str = "taskset -c 1";

/// A network in another namespace, without a route back to the machines.
const OUTSIDE: &str = "
ip netns add outside
ip link add up0 type veth peer name out0 netns outside
ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
ip -n outside addr add 192.0.2.2/24 dev out0
ip -n outside link set lo up; ip -n outside link set out0 up
";

/// A manager that connects a machine.
struct Network {
    name: &'static str,
    /// Starts the machine and connects it.
    up: &'static str,
    /// Prints its PID 1.
    leader: &'static str,
    /// Terminates the machine and removes the additional setup of `up`.
    down: &'static str,
}

/// All contenders: the connection without a machine first, coracle second.
const ALL: &[Network] = &[
    Network { name: "(the host itself)", up: "true", leader: "echo 1", down: "true" },
    Network {
        name: "coracle",
        up: "coracle start --wait=running bb",
        leader: "machinectl show bb -P Leader",
        down: "coracle terminate bb",
    },
    Network {
        name: "systemd-nspawn, nft",
        up: "systemctl start systemd-nspawn@nb.service
             leader=$(machinectl show nb -P Leader)
             ip addr add 10.99.0.1/24 dev ve-nb; ip link set ve-nb up
             in_nb() { nsenter -t $leader -n \"$@\"; }
             in_nb ip link set lo up; in_nb ip addr add 10.99.0.2/24 dev host0; in_nb ip link set host0 up
             in_nb ip route add default via 10.99.0.1
             nft 'table ip bench { chain leave { type nat hook postrouting priority srcnat;
                  ip saddr 10.99.0.0/24 oifname up0 masquerade; }; }'",
        leader: "machinectl show nb -P Leader",
        down: "systemctl kill -s KILL systemd-nspawn@nb.service || true; nft delete table ip bench || true
               while machinectl show nb; do sleep 0.05; done; systemctl reset-failed systemd-nspawn@nb.service || true",
    },
    Network {
        name: "podman, bridge",
        up: "podman run -d --name=pb --network=podman --runtime=crun --cgroups=disabled \
             --rootfs /var/lib/machines/pb /sbin/init",
        leader: "podman inspect -f '{{.State.Pid}}' pb",
        down: "podman rm -f -t 0 pb",
    },
];

/// A running machine with its network.
struct Up {
    leader: String,
    /// The nft tables added with it.
    tables: Vec<String>,
}

/// Prints one table: throughput in both directions, round trips, and the ratios of coracle to each contender.
pub fn all() {
    contenders::prepare();
    ["bb", "nb", "pb"].iter().for_each(|name| managers::add("busybox", name));
    shell(OUTSIDE).and_then(|_| shell("sysctl -q net.ipv4.ip_forward=1")).expect("make an outside");
    let mut server = serve();
    let ups: Vec<Result<Up, String>> = ALL.iter().map(up).collect();
    let mut results: Vec<Result<[Vec<f64>; 3], String>> =
        ups.iter().map(|up| up.as_ref().map(|_| Default::default()).map_err(Clone::clone)).collect();
    for round in 0..ROUNDS {
        for place in 0..ALL.len() {
            let place = (round + place) % ALL.len();
            let (Some(Ok(_)), Some(result)) = (ups.get(place), results.get_mut(place)) else { continue };
            let Ok(kept) = result else { continue };
            match once(&ups, place) {
                Ok(values) => kept.iter_mut().zip(values).for_each(|(kept, value)| kept.push(value)),
                Err(why) => *result = Err(why),
            }
        }
    }
    let _ = server.kill();
    let _ = server.wait();
    for (network, result) in ALL.iter().zip(&mut results) {
        if let Err(why) = shell(network.down) {
            *result = Err(why);
        }
    }
    let _ = shell("ip link del up0; ip netns del outside");
    show(&results);
}

/// Starts one machine.
fn up(network: &Network) -> Result<Up, String> {
    let before = tables()?;
    shell(network.up)?;
    let leader = shell(network.leader)?;
    let tables = tables()?.into_iter().filter(|table| !before.contains(table)).collect();
    Ok(Up { leader, tables })
}

fn tables() -> Result<Vec<String>, String> {
    Ok(shell("nft list tables")?.lines().map(str::to_owned).collect())
}

/// Enables the nft tables of one machine and disables those of all others (nft(8), flag `dormant`).
fn wake(ups: &[Result<Up, String>], place: usize) -> Result<(), String> {
    let mut rules = String::new();
    for (at, up) in ups.iter().enumerate() {
        let flags = if at == place { "" } else { " { flags dormant; }" };
        for table in up.iter().flat_map(|up| &up.tables) {
            rules.push_str(&format!("add {table}{flags}\n"));
        }
    }
    shell(&format!("nft -f - <<'EOF'\n{rules}EOF")).map(drop)
}

fn serve() -> Child {
    let command = format!("exec ip netns exec outside {BEYOND} {TOOLS}/bench wire serve {SERVER}");
    let server =
        Command::new("sh").args(["-c", &command]).stdin(Stdio::null()).spawn().expect("serve outside");
    std::thread::sleep(Duration::from_millis(300));
    server
}

/// Takes all three measurements of one machine.
fn once(ups: &[Result<Up, String>], place: usize) -> Result<[f64; 3], String> {
    let Some(Ok(Up { leader, .. })) = ups.get(place) else { return Err("is not up".into()) };
    wake(ups, place)?;
    let enter = format!("nsenter -t {leader} -n {INSIDE} {TOOLS}/bench wire");
    // The first packets resolve the neighbours.
    shell(&format!("{enter} turns {SERVER} 10"))?;
    let mut values = [0.0; 3];
    for (value, what) in values.iter_mut().zip(WHAT) {
        let text = shell(&format!("{enter} {what} {SERVER} {SPAN}"))?;
        *value = text.parse().map_err(|_| format!("strange: {text}"))?;
    }
    Ok(values)
}

fn show(results: &[Result<[Vec<f64>; 3], String>]) {
    let own = ALL.iter().position(|one| one.name == "coracle").and_then(|at| results.get(at)?.as_ref().ok());
    // Each round of coracle is divided by the same round of the contender: both have the same background
    // load.
    let over = |values: &[f64], at: usize| {
        let own = own.and_then(|own| own.get(at)).map(Vec::as_slice).unwrap_or_default();
        let ratios: Vec<f64> = own.iter().zip(values).map(|(own, other)| own / other).collect();
        let (low, high) = bounds(&ratios);
        format!("{:.3}x ({low:.3}-{high:.3})", median(&ratios))
    };
    let row = |(network, result): (&Network, &Result<[Vec<f64>; 3], String>)| {
        let values = result.as_ref().ok()?;
        let cells = values.iter().enumerate().flat_map(|(at, values)| {
            [number(median(values)), format!("{:.0}%", spread(values) * 100.0), over(values, at)]
        });
        Some(std::iter::once(network.name.to_owned()).chain(cells).collect())
    };
    let rows: Vec<Vec<String>> = ALL.iter().zip(results).filter_map(row).collect();
    let ours = "coracle's /";
    let head =
        ["name", "out Gbit/s", "spread", ours, "in Gbit/s", "spread", ours, "round trip us", "spread", ours];
    table::print(
        &format!(
            "Network: TCP between a machine and a network beyond its host ({ROUNDS} rounds; ratios of each round: \
             their median, and the bounds that hold it in 19 of 20 runs)"
        ),
        &head,
        &rows,
    );
    for (network, result) in ALL.iter().zip(results) {
        if let Err(why) = result {
            println!("  {} cannot run here: {why}", network.name);
        }
    }
}
