//! The way of one packet through all rules of the host, told by the kernel: for finding the rule that
//! drops it. Called by `doctor`. The table that marks the packet belongs to our socket: it goes when
//! that is closed, whatever becomes of us.

use super::coexist::rules;
use super::message;
use super::message::{Batch, Kind, Message};
use super::{ask_by, inet};
use crate::error::{Context, Result};
use crate::machine::network::Protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::RecvFlags;
use std::time::{Duration, Instant};

/// `NFNLGRP_NFTRACE` as a bit.
const GROUP: u32 = 1 << 8;

/// Listens to what becomes of marked packets.
#[derive(Debug)]
pub struct Trace {
    socket: OwnedFd,
}

/// What dropped a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain in it.
    pub chain: String,
    /// The rule; none where it was the policy of the chain.
    pub rule: Option<RulePlace>,
}

/// A rule among those of its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlace {
    /// By which nft(8) names it.
    pub handle: u64,
    /// The how manieth, from 1; nothing where it has gone.
    pub number: Option<usize>,
    /// What is written beside it.
    pub comment: Option<String>,
}

impl Trace {
    /// Marks packets that come from an interface with this source port, and the answers to them.
    ///
    /// # Errors
    /// A kernel that cannot.
    pub fn begin(interface: &str, protocol: Protocol, port: u16) -> Result<Self> {
        let doing = || "cannot trace packets through the firewall";
        let socket = crate::network::firewall::open(GROUP).context(doing)?;
        let mut batch = Batch::new();
        inet::make_trace(&mut batch, interface, protocol, port);
        ask_by(&socket, &batch.finish()).context(doing)?;
        Ok(Self { socket })
    }

    /// Waits until one is dropped, so long at most.
    pub fn dropped(&self, patience: Duration) -> Option<Refusal> {
        let end = Instant::now() + patience;
        let mut buffer = vec![0; 32768];
        loop {
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok()?;
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut fds, Some(&left)).ok()? == 0 {
                return None;
            }
            // What did not fit its buffer is lost, not what comes after.
            let Ok((_, length)) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT)
            else {
                continue;
            };
            let heard = buffer.get(..length).unwrap_or_default();
            if let Some(drop) = message::messages(heard).find_map(|message| read(&message)) {
                return Some(located(drop));
            }
        }
    }
}

/// Reads that a packet was dropped.
fn read(message: &Message<'_>) -> Option<Refusal> {
    const POLICY: u32 = 1;
    const RULE: u32 = 3;
    const DROP: u32 = 0;
    if !message.is(Kind::Trace) {
        return None;
    }
    let body = message.body;
    let is_dropped = match body.number(4)? {
        POLICY => body.number(16) == Some(DROP),
        RULE => body.nested(5)?.number(1) == Some(DROP),
        _ => false,
    };
    is_dropped.then_some(Refusal {
        family: match message.family {
            message::IP => "ip",
            message::IP6 => "ip6",
            message::INET => "inet",
            _ => "unknown",
        },
        table: body.text(1)?.to_owned(),
        chain: body.text(2)?.to_owned(),
        rule: body.long(3).map(|handle| RulePlace { handle, number: None, comment: None }),
    })
}

/// The same with the place of the rule.
fn located(mut drop: Refusal) -> Refusal {
    let family = match drop.family {
        "ip" => message::IP,
        "ip6" => message::IP6,
        _ => message::INET,
    };
    if let Some(rule) = &mut drop.rule {
        let all = rules(family, &drop.table, &drop.chain);
        let at = all.iter().position(|other| other.handle == rule.handle);
        rule.number = at.map(|at| at + 1);
        rule.comment = at.and_then(|at| all.get(at)?.comment.clone());
    }
    drop
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::firewall::message::Attributes;

    #[test]
    fn drops_are_read_and_other_words_are_not() {
        let told = |kind: u32, verdict: u32| {
            let verdict = Attributes::new().number(1, verdict);
            let told = Attributes::new().text(1, "filter").text(2, "forward").long(3, 7).number(4, kind);
            Batch::dump(message::IP, Kind::Trace, &told.nested(5, &verdict).number(16, 0))
        };
        let read = |bytes: &[u8]| message::messages(bytes).find_map(|message| super::read(&message));
        let drop = read(&told(3, 0)).unwrap();
        assert_eq!((drop.family, drop.table.as_str(), drop.chain.as_str()), ("ip", "filter", "forward"));
        assert_eq!(drop.rule.map(|rule| rule.handle), Some(7));
        assert!(read(&told(1, 1)).is_some());
        assert_eq!(read(&told(3, 1)), None);
        assert_eq!(read(&told(2, 0)), None);
        assert_eq!(read(&[0xff; 64]), None);
    }
}
