//! Traces one packet through all rules of the host, to find the rule that drops it. Called by `doctor`. The
//! socket owns the table that marks the packet: the kernel deletes it when the socket is closed, also after a
//! crash.

use super::coexist::foreign;
use super::matches::{SPORT, TCP, UDP, l4proto, port as has_port};
use super::netlink::element::padded;
use super::netlink::expression::{
    Expression, R0, Rule, equal, expression, load, meta, not_equal, rule, set_meta,
};
use super::netlink::nfta::*;
use super::netlink::nlmsg::{
    self, AttributeBuffer, Batch, INET, IPV4, IPV6, IfExists, NetlinkMessage, Operation,
};
use super::netlink::table::{BaseChain, base_chain_attributes};
use super::netlink::{Nfnetlink, TABLE, open, send_by};
use crate::error::{Context, Result};
use crate::machine::network::Protocol;
use libc::{NFT_META_IIFNAME, NFT_META_NFTRACE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::RecvFlags;
use std::time::{Duration, Instant};

/// A socket that receives the steps of marked packets.
#[derive(Debug)]
pub(crate) struct Trace {
    socket: OwnedFd,
}

/// The origin of a drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `ip`, `ip6` or `inet`.
    pub(crate) family: &'static str,
    /// The table.
    pub(crate) table: String,
    /// The chain in it.
    pub(crate) chain: String,
    /// The rule. `None` if the policy of the chain dropped the packet.
    pub(crate) rule: Option<RulePlace>,
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RulePlace {
    /// Its handle, by which nft(8) names it.
    pub(crate) handle: u64,
    /// Its number in the chain, from 1. `None` if the rule is deleted.
    pub(crate) number: Option<usize>,
    /// Its comment.
    pub(crate) comment: Option<String>,
}

impl Trace {
    /// Marks packets from an interface with this source port, and the replies to them.
    ///
    /// # Errors
    /// Any error of the kernel, for example if it has no tracing.
    pub(crate) fn begin(interface: &str, protocol: Protocol, port: u16) -> Result<Self> {
        let doing = || "cannot trace packets through the firewall";
        let socket = open(1 << (libc::NFNLGRP_NFTRACE - 1)).context(doing)?;
        let mut batch = Batch::new();
        create_table(&mut batch, interface, protocol, port);
        send_by(&socket, &batch.finish()).context(doing)?;
        Ok(Self { socket })
    }

    /// Waits for the drop of a marked packet. `None` if none is dropped in this time.
    pub(crate) fn dropped(&self, patience: Duration) -> Option<Refusal> {
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 32768];
        loop {
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok()?;
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut fds, Some(&left)).ok()? == 0 {
                return None;
            }
            // ENOBUFS: some notifications are lost, later ones are not.
            let Ok((_, length)) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)
            else {
                continue;
            };
            let received = buffer.get(..length).unwrap_or_default();
            if let Some(refusal) = nlmsg::messages(received).find_map(|message| read(&message)) {
                return Some(located(refusal));
            }
        }
    }
}

/// Adds a table that the socket owns and that marks packets from an interface with this source port, and the
/// replies.
fn create_table(batch: &mut Batch, interface: &str, protocol: Protocol, port: u16) {
    let table = format!("{TABLE}-trace-{}", std::process::id());
    let owned =
        AttributeBuffer::new().text(NFTA_TABLE_NAME, &table).number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
    batch.push(Operation::NewTable, IfExists::Fail, &owned);
    for (chain, rule) in chains(interface, protocol, port) {
        let name = AttributeBuffer::new().text(NFTA_CHAIN_TABLE, &table).text(NFTA_CHAIN_NAME, chain.name);
        batch.push(Operation::NewChain, IfExists::Fail, &base_chain_attributes(name, &chain));
        let name = AttributeBuffer::new().text(NFTA_RULE_TABLE, &table).text(NFTA_RULE_CHAIN, chain.name);
        batch.push(Operation::NewRule, IfExists::Keep, &name.list(NFTA_RULE_EXPRESSIONS, &rule));
    }
}

/// The chains of the table, with the rule of each.
fn chains(interface: &str, protocol: Protocol, port: u16) -> [(BaseChain, Rule); 2] {
    let chain = |name, priority| {
        let hook = libc::NF_INET_PRE_ROUTING;
        BaseChain { name, kind: "filter", hook, priority }
    };
    let interface = padded(interface);
    let protocol = l4proto(if protocol == Protocol::Udp { UDP } else { TCP }, R0);
    let mark = [load(&[1], R0), set_meta(NFT_META_NFTRACE, R0)];
    [
        // Before every other chain.
        // iifname "INTERFACE" udp sport PORT meta nftrace set 1
        (
            chain("requests", libc::NF_IP_PRI_RAW_BEFORE_DEFRAG),
            rule(&[
                &[meta(NFT_META_IIFNAME, R0), equal(R0, &interface)],
                &protocol,
                &has_port(SPORT, port, R0),
                &mark,
            ]),
        ),
        // After connection tracking: the source port of the first packet, before its translation.
        // iifname != "INTERFACE" meta l4proto udp ct original proto-src PORT meta nftrace set 1
        (
            chain("replies", libc::NF_IP_PRI_CONNTRACK + 1),
            rule(&[
                &[meta(NFT_META_IIFNAME, R0), not_equal(R0, &interface)],
                &protocol,
                &original_source_port(port),
                &mark,
            ]),
        ),
    ]
}

/// `ct original proto-src PORT`.
fn original_source_port(port: u16) -> [Expression; 2] {
    let data = AttributeBuffer::new()
        .number(NFTA_CT_DREG, R0)
        .constant(NFTA_CT_KEY, libc::NFT_CT_PROTO_SRC)
        .bytes(NFTA_CT_DIRECTION, &[IP_CT_DIR_ORIGINAL]);
    [expression("ct", &data), equal(R0, &port.to_be_bytes())]
}

/// Reads the drop of a packet. `None` if the message is another step.
fn read(message: &NetlinkMessage<'_>) -> Option<Refusal> {
    if !message.is(Operation::Trace) {
        return None;
    }
    let body = message.body;
    let is_dropped = match body.constant(NFTA_TRACE_TYPE)? {
        libc::NFT_TRACETYPE_POLICY => body.constant(NFTA_TRACE_POLICY) == Some(libc::NF_DROP),
        libc::NFT_TRACETYPE_RULE => {
            body.nested(NFTA_TRACE_VERDICT)?.constant(NFTA_VERDICT_CODE) == Some(libc::NF_DROP)
        }
        _ => false,
    };
    let rule = |handle| RulePlace { handle, number: None, comment: None };
    is_dropped.then_some(Refusal {
        family: match message.family {
            IPV4 => "ip",
            IPV6 => "ip6",
            INET => "inet",
            _ => "unknown",
        },
        table: body.text(NFTA_TRACE_TABLE)?.to_owned(),
        chain: body.text(NFTA_TRACE_CHAIN)?.to_owned(),
        rule: body.long(NFTA_TRACE_RULE_HANDLE).map(rule),
    })
}

/// Adds the number and the comment of the rule.
fn located(mut refusal: Refusal) -> Refusal {
    let family = match refusal.family {
        "ip" => IPV4,
        "ip6" => IPV6,
        _ => INET,
    };
    if let Some(rule) = &mut refusal.rule {
        let all = foreign::rules(&Nfnetlink::open(), family, &refusal.table, &refusal.chain);
        let index = all.iter().position(|other| other.handle == rule.handle);
        rule.number = index.map(|index| index + 1);
        rule.comment = index.and_then(|index| all.get(index)?.comment.clone());
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_and_other_steps_are_not() {
        let step = |kind, verdict| {
            let verdict = AttributeBuffer::new().constant(NFTA_VERDICT_CODE, verdict);
            let step = AttributeBuffer::new()
                .text(NFTA_TRACE_TABLE, "filter")
                .text(NFTA_TRACE_CHAIN, "forward")
                .long(NFTA_TRACE_RULE_HANDLE, 7)
                .constant(NFTA_TRACE_TYPE, kind)
                .nested(NFTA_TRACE_VERDICT, &verdict)
                .constant(NFTA_TRACE_POLICY, libc::NF_DROP);
            Batch::request(IPV4, Operation::Trace, &step)
        };
        let read = |bytes: &[u8]| nlmsg::messages(bytes).find_map(|message| super::read(&message));
        let refusal = read(&step(libc::NFT_TRACETYPE_RULE, libc::NF_DROP)).unwrap();
        assert_eq!(
            (refusal.family, refusal.table.as_str(), refusal.chain.as_str()),
            ("ip", "filter", "forward")
        );
        assert_eq!(refusal.rule.map(|rule| rule.handle), Some(7));
        assert!(read(&step(libc::NFT_TRACETYPE_POLICY, libc::NF_ACCEPT)).is_some());
        assert_eq!(read(&step(libc::NFT_TRACETYPE_RULE, libc::NF_ACCEPT)), None);
        assert_eq!(read(&step(libc::NFT_TRACETYPE_RETURN, libc::NF_DROP)), None);
        assert_eq!(read(&[0xff; 64]), None);
    }
}
