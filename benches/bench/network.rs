//! The way from a machine through its host to another network, and back, under the host's address. Called by `main`, in
//! the host. One machine at a time is up, so that each meets no rules but its own.

use super::contenders;
use super::host::TOOLS;
use super::managers;
use super::run::shell;
use super::table::{self, median, number, spread};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 6;
/// How long each of the three measurements lasts, ms.
const SPAN: u32 = 300;
const SERVER: &str = "192.0.2.2:7000";
const WHAT: [&str; 3] = ["out", "in", "turns"];

/// A network of another namespace, which has no way back to machines.
const OUTSIDE: &str = "
ip netns add outside
ip link add up0 type veth peer name out0 netns outside
ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
ip -n outside addr add 192.0.2.2/24 dev out0
ip -n outside link set lo up; ip -n outside link set out0 up
";

/// Somebody that connects a machine.
struct Network {
    name: &'static str,
    /// Starts the machine and connects it.
    up: &'static str,
    /// Prints its PID 1.
    leader: &'static str,
    /// Ends it and takes away what `up` has set up beside it.
    down: &'static str,
}

/// Everybody: the way without a machine first, coracle second.
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
        up: "systemctl start systemd-nspawn@bb.service
             leader=$(machinectl show bb -P Leader)
             ip addr add 10.99.0.1/24 dev ve-bb; ip link set ve-bb up
             in_bb() { nsenter -t $leader -n \"$@\"; }
             in_bb ip link set lo up; in_bb ip addr add 10.99.0.2/24 dev host0; in_bb ip link set host0 up
             in_bb ip route add default via 10.99.0.1
             nft 'table ip bench { chain leave { type nat hook postrouting priority srcnat;
                  ip saddr 10.99.0.0/24 oifname up0 masquerade; }; }'",
        leader: "machinectl show bb -P Leader",
        down: "systemctl kill -s KILL systemd-nspawn@bb.service || true; nft delete table ip bench || true
               while machinectl show bb; do sleep 0.05; done; systemctl reset-failed systemd-nspawn@bb.service || true",
    },
    Network {
        name: "podman, bridge",
        up: "podman run -d --name=bb --network=podman --runtime=crun --cgroups=disabled \
             --rootfs /var/lib/machines/bb /sbin/init",
        leader: "podman inspect -f '{{.State.Pid}}' bb",
        down: "podman rm -f -t 0 bb",
    },
];

/// One table: throughput both ways, round trips, and each over the others'.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    shell(OUTSIDE).and_then(|_| shell("sysctl -q net.ipv4.ip_forward=1")).expect("make an outside");
    let mut server = serve();
    let mut results: Vec<Result<[Vec<f64>; 3], String>> =
        ALL.iter().map(|_| Ok(Default::default())).collect();
    for round in 0..ROUNDS {
        for place in 0..ALL.len() {
            let place = (round + place) % ALL.len();
            let (Some(network), Some(result)) = (ALL.get(place), results.get_mut(place)) else { continue };
            let Ok(kept) = result else { continue };
            match once(network) {
                Ok(values) => kept.iter_mut().zip(values).for_each(|(kept, value)| kept.push(value)),
                Err(why) => *result = Err(why),
            }
        }
    }
    let _ = server.kill();
    let _ = server.wait();
    let _ = shell("ip link del up0; ip netns del outside");
    show(&results);
}

fn serve() -> Child {
    let command = ["netns", "exec", "outside", &format!("{TOOLS}/bench"), "wire", "serve", SERVER];
    let server = Command::new("ip").args(command).stdin(Stdio::null()).spawn().expect("serve outside");
    std::thread::sleep(Duration::from_millis(300));
    server
}

/// Starts one, measures all three, ends it.
fn once(network: &Network) -> Result<[f64; 3], String> {
    let measured = shell(network.up).and_then(|_| {
        let leader = shell(network.leader)?;
        let enter = format!("nsenter -t {leader} -n {TOOLS}/bench wire");
        // The first packet finds the neighbours.
        shell(&format!("{enter} turns {SERVER} 50"))?;
        let mut values = [0.0; 3];
        for (value, what) in values.iter_mut().zip(WHAT) {
            let text = shell(&format!("{enter} {what} {SERVER} {SPAN}"))?;
            *value = text.parse().map_err(|_| format!("strange: {text}"))?;
        }
        Ok(values)
    });
    let ended = shell(network.down);
    measured.and_then(|values| ended.map(|_| values))
}

fn show(results: &[Result<[Vec<f64>; 3], String>]) {
    let own = ALL.iter().position(|one| one.name == "coracle").and_then(|at| results.get(at)?.as_ref().ok());
    // Each round of coracle's over the same round of the other: what else the machine does is in both.
    let over = |values: &[f64], at: usize| {
        let own = own.and_then(|own| own.get(at)).map(Vec::as_slice).unwrap_or_default();
        let ratios: Vec<f64> = own.iter().zip(values).map(|(own, other)| own / other).collect();
        format!("{}x", number(median(&ratios)))
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
        &format!("Network: TCP between a machine and a network beyond its host ({ROUNDS} rounds)"),
        &head,
        &rows,
    );
    for (network, result) in ALL.iter().zip(results) {
        if let Err(why) = result {
            println!("  {} cannot run here: {why}", network.name);
        }
    }
}
