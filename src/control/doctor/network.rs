//! Connectivity of a running machine: sends a packet from its network namespace to each name server and
//! gateway. If the packet is dropped, the finding names the rule, as traced by the kernel.

use super::Finding;
use crate::control::{guest_addresses, loopback_ports};
use crate::error::Result;
use crate::machine::network::Protocol;
use crate::network::firewall;
use crate::network::firewall::trace::{Refusal, Trace};
use crate::network::interfaces::ExtraInterface;
use crate::network::reachability;
use crate::network::reachability::{Attempt, Probe, ProbeTarget};
use crate::network::resolv_conf;
use crate::network::sysctl;
use crate::paths::Paths;
use crate::state::record::{Phase, Record};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The timeout for a trace of a drop, and for an answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// The maximum number of probed targets.
const MOST: usize = 6;

/// Returns the findings about the connectivity of a machine.
pub(super) fn findings(paths: &Paths, record: &Record) -> Vec<Finding> {
    if let Some(finding) = no_address(record).filter(|_| record.phase == Phase::Running) {
        return vec![finding];
    }
    // The packets of a machine in a zone arrive at the bridge.
    let router = record.firewall.as_ref().map(|member| member.interface().to_owned());
    let (Some(interface), Some(leader)) = (router.or_else(|| record.host_interface.clone()), record.leader)
    else {
        return Vec::new();
    };
    let is_plain = record.interfaces.iter().any(ExtraInterface::is_plain);
    if is_plain || record.phase != Phase::Running && record.phase != Phase::Booting {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = sysctl::missing()
        .into_iter()
        .map(|switch| {
            Finding::wrong(
                format!("the host does not forward packets of machines: {switch} is 0"),
                format!("sysctl {switch}=1"),
            )
        })
        .collect();
    if !firewall::is_complete(record.part()) {
        findings.push(Finding::wrong(
            "the firewall table 'inet coracle' or rules of it are missing",
            "coracle network reload; then see which program flushes the tables of others ('nft monitor')",
        ));
    }
    let unanswered = loopback_ports::unanswered(record.zone.as_ref(), record.ports());
    findings.extend(unanswered.map(|message| Finding::risk(message, loopback_ports::HINT)));
    if record.resolver {
        findings.extend(no_name_server(paths));
        findings.extend(no_redirect(paths, record));
    }
    let gateways = reachability::gateways();
    for target in targets(paths, record, &gateways).into_iter().take(MOST) {
        match probe(&interface, leader, target) {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::note(
                format!("cannot probe {}: {error}", name(target)),
                "check that the kernel supports nftables with tracing",
            )),
        }
    }
    findings
}

/// Returns the finding for a guest without an address in the network of its interface.
fn no_address(record: &Record) -> Option<Finding> {
    if guest_addresses::of(record)?.is_empty() {
        let (inside, outside) = record.interfaces.iter().find_map(ExtraInterface::outside_network)?;
        let name = &record.name;
        return Some(Finding::risk(
            format!("{inside} has no address: no DHCP answer on {outside}"),
            format!(
                "check the DHCP server of the network of '{outside}' and the network configuration of the guest, \
                 or set network.address: 'coracle set {name} address=ADDRESS/LENGTH gateway=ADDRESS'"
            ),
        ));
    }
    None
}

/// Returns the finding for a host without a name server that machines reach.
pub(super) fn no_name_server(paths: &Paths) -> Option<Finding> {
    if resolv_conf::find(paths).is_some() {
        return None;
    }
    Some(match resolv_conf::listed(paths).first() {
        Some(server) => Finding::risk(
            format!("machines have no name server: they cannot reach the host's, '{server}'"),
            "run a resolver at 127.0.0.1, and add 'nameserver 127.0.0.1' to the host's /etc/resolv.conf",
        ),
        None => Finding::note(
            "machines have no name server: the host has none",
            "add one to the host's /etc/resolv.conf or to systemd-resolved: running machines are updated",
        ),
    })
}

/// Returns the finding for a machine that has no redirect to the host's own resolver.
fn no_redirect(paths: &Paths, record: &Record) -> Option<Finding> {
    let own = resolv_conf::find(paths)?.at_loopback?;
    let redirect = record.firewall.as_ref().and_then(firewall::Member::resolver);
    (redirect != Some(own)).then(|| {
        Finding::wrong(
            format!("it has no name server: its gateway does not redirect to the host's at {own}"),
            "check that the kernel supports nftables with NAT, and 'systemctl status coracle-resolver.path'; then restart the machine",
        )
    })
}

/// Returns the name servers offered to machines, and the host's gateways.
fn targets(paths: &Paths, record: &Record, gateways: &[IpAddr]) -> Vec<ProbeTarget> {
    let servers =
        resolv_conf::find(paths).map(|found| found.behind(record.gateway()).servers).unwrap_or_default();
    let servers = servers.into_iter().filter(|server| !server.is_loopback());
    let asked =
        servers.map(|server| ProbeTarget { address: SocketAddr::new(server, 53), protocol: Protocol::Udp });
    let connected = gateways
        .iter()
        .map(|gateway| ProbeTarget { address: SocketAddr::new(*gateway, 80), protocol: Protocol::Tcp });
    asked.chain(connected).collect()
}

fn name(target: ProbeTarget) -> String {
    match target.protocol {
        Protocol::Udp => format!("name server {}", target.address.ip()),
        Protocol::Tcp => format!("gateway {}", target.address.ip()),
    }
}

/// Sends one packet to a target, and returns the finding if it is not answered.
fn probe(interface: &str, leader: u32, target: ProbeTarget) -> Result<Option<Finding>> {
    let probe = Probe::new(leader, target)?;
    let trace = Trace::begin(interface, target.protocol, probe.port)?;
    if probe.send()? == Attempt::NoRoute {
        return Ok(Some(Finding::wrong(
            format!("it has no route to {}", name(target)),
            "its own system removed the route: see 'ip route' inside, or restart it",
        )));
    }
    // A forwarded packet is answered at once, or by a distant host.
    if let Some(drop) = trace.dropped(PATIENCE) {
        return Ok(Some(dropped(&drop, target)));
    }
    if probe.is_answered(PATIENCE) {
        return Ok(None);
    }
    Ok(trace.dropped(PATIENCE).map(|drop| dropped(&drop, target)).or_else(|| {
        Some(Finding::note(
            format!("{} does not answer, and no rule of this host drops the packet", name(target)),
            "check whether the host itself gets an answer, and whether iptables-legacy has rules, which nft does not show",
        ))
    }))
}

/// Returns the finding for a dropped packet.
fn dropped(drop: &Refusal, target: ProbeTarget) -> Finding {
    let Refusal { family, table, chain, rule } = drop;
    let to = name(target);
    if (*family, table.as_str()) == ("inet", "coracle") {
        return match chain.as_str() {
            "egress" => Finding::note(
                format!("its network.egress does not allow packets to {to}"),
                "add that address to network.egress, then 'coracle apply'",
            ),
            chain if chain.starts_with("connection-limit-") => Finding::wrong(
                format!("a packet to {to} exceeded its network.connections-max"),
                "find the program that opens many connections, or raise network.connections-max, then \
                 'coracle apply'",
            ),
            "rate-out" | "rate-in" => Finding::note(
                format!("a packet to {to} exceeded its network.rate-in or network.rate-out"),
                "raise the rate, then 'coracle apply'",
            ),
            _ => Finding::wrong(
                format!("a packet to {to} was dropped by chain '{chain}' of 'inet coracle': not its address"),
                "the guest has changed its own address: restart it",
            ),
        };
    }
    let what = match rule {
        Some(rule) => {
            let number = rule.number.map(|number| format!("rule {number}, ")).unwrap_or_default();
            let comment =
                rule.comment.as_ref().map(|text| format!(", comment \"{text}\"")).unwrap_or_default();
            format!("{number}handle {}{comment}", rule.handle)
        }
        None => "its policy".to_owned(),
    };
    Finding::wrong(
        format!("packets to {to} are dropped by table '{family} {table}', chain '{chain}', {what}"),
        format!(
            "see it with 'nft -a list chain {family} {table} {chain}'; let 've-*' pass there, or 'coracle network reload' \
             where it came after the machine"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::firewall::trace::RulePlace;

    #[test]
    fn the_rule_that_drops_has_its_name() {
        let target = ProbeTarget { address: "192.0.2.2:53".parse().unwrap(), protocol: Protocol::Udp };
        let rule = RulePlace { handle: 7, number: Some(2), comment: Some("no games".into()) };
        let mut drop =
            Refusal { family: "ip", table: "filter".into(), chain: "FORWARD".into(), rule: Some(rule) };
        assert_eq!(
            dropped(&drop, target).message,
            "packets to name server 192.0.2.2 are dropped by table 'ip filter', chain 'FORWARD', rule 2, handle 7, \
             comment \"no games\""
        );
        drop.rule = None;
        assert!(dropped(&drop, target).message.ends_with("chain 'FORWARD', its policy"));
        drop = Refusal { family: "inet", table: "coracle".into(), chain: "egress".into(), rule: None };
        assert!(dropped(&drop, target).message.contains("network.egress"));
    }
}
