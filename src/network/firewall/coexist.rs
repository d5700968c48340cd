//! Chains of other programs that drop unknown packets, for example of Docker, of ufw or of a handwritten
//! ruleset. A packet passes a hook only if each base chain there accepts it. So Coracle inserts rules into
//! such chains, marked by a comment, while machines exist. It does not change the rules of other programs.
//! Called by the supervisor when it adds a machine and after the last machine. The comment identifies the
//! inserted rules, so no crash leaves them behind.

pub(super) mod foreign;

use super::matches::{ICMPV6, l4proto};
use super::netlink::element::padded;
use super::netlink::expression::{R0, Rule, accept, counter, equal, meta, rule};
use super::netlink::nfta::*;
use super::netlink::nlmsg::{
    AttributeBuffer, AttributeReader, Batch, INET, IPV4, IPV6, IfExists, Operation, UNSPEC,
};
use super::netlink::{Nfnetlink, TABLE, ignore_missing};
use crate::error::{Error, Result};
use foreign::{ForeignRule, Verdict, user_data};
use libc::{NFT_META_IIFNAME, NFT_META_OIFNAME};
use rustix::io::Errno;
use std::ffi::c_int;

/// The start of the comment of inserted rules, before the name of the interface.
const COMMENT: &str = "machines of coracle";
/// firewalld's table, which only firewalld may change: `firewalld` sends it requests.
pub(super) const FIREWALLD: &str = "firewalld";
/// Docker's chain for rules of the administrator, in Docker's own table.
const DOCKER_USER: &str = "DOCKER-USER";
/// The depth of jumps in which a refusing rule is searched.
const DEPTH: u8 = 8;

/// A base chain of another program, or Docker's chain for rules of the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    /// Its hook and whether its policy is drop. `None` if it is not a base chain.
    base: Option<(c_int, bool)>,
}

impl Chain {
    fn read(family: u8, body: AttributeReader<'_>) -> Option<Self> {
        let base = body.nested(NFTA_CHAIN_HOOK).and_then(|hook| {
            let is_filter = body.text(NFTA_CHAIN_TYPE) == Some("filter");
            let drops = body.constant(NFTA_CHAIN_POLICY) == Some(libc::NF_DROP);
            is_filter.then_some((hook.constant(NFTA_HOOK_HOOKNUM)?, drops))
        });
        let table = body.text(NFTA_CHAIN_TABLE)?.to_owned();
        Some(Self { family, table, name: body.text(NFTA_CHAIN_NAME)?.to_owned(), base })
    }

    /// The attributes that name it in messages about rules.
    fn attributes(&self) -> AttributeBuffer {
        AttributeBuffer::new().text(NFTA_RULE_TABLE, &self.table).text(NFTA_RULE_CHAIN, &self.name)
    }

    fn rules(&self, socket: &Nfnetlink) -> Vec<ForeignRule> {
        foreign::rules(socket, self.family, &self.table, &self.name)
    }

    fn delete_rule(&self, batch: &mut Batch, handle: u64) {
        let rule = self.attributes().long(NFTA_RULE_HANDLE, handle);
        batch.push_for(self.family, Operation::DeleteRule, IfExists::Keep, &rule);
    }
}

/// The hooks that packets of machines pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Input,
    Forward,
    Output,
}

impl Hook {
    /// `None` if packets of machines need no rule in this hook.
    fn from_number(hook: c_int) -> Option<Self> {
        match hook {
            libc::NF_INET_LOCAL_IN => Some(Self::Input),
            libc::NF_INET_FORWARD => Some(Self::Forward),
            libc::NF_INET_LOCAL_OUT => Some(Self::Output),
            _ => None,
        }
    }
}

/// The position of an inserted rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InsertAt {
    First,
    Before(u64),
    Last,
}

/// Inserts rules for these interfaces into the chains that would drop packets of machines. Existing rules
/// stay.
///
/// # Errors
/// The chains cannot be listed.
pub(crate) fn open(interfaces: &[&str]) -> Result<()> {
    let socket = &Nfnetlink::open();
    let chains = match chains(socket) {
        Ok(chains) => chains,
        Err(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT) => return Ok(()),
        Err(errno) => return Err(Error::from(errno).context("cannot list the chains of the firewall")),
    };
    for chain in chains.iter().filter(|chain| chain.table != FIREWALLD) {
        let base = chain.base.and_then(|(hook, drops)| Some((Hook::from_number(hook)?, drops)));
        let Some((hook, drops)) = base else { continue };
        // Packets to and from the host itself need rules for neighbour discovery alone, which is IPv6.
        if hook != Hook::Forward && chain.family == IPV4 {
            continue;
        }
        if let Err(errno) = insert(socket, &chains, chain, (hook, drops), interfaces) {
            log::warn!(
                "cannot insert a rule for machines into the chain '{}' of the firewall table '{}': {errno}, ignoring",
                chain.name,
                chain.table
            );
        }
    }
    Ok(())
}

/// Whether firewalld has a table in the kernel.
pub(crate) fn has_firewalld(socket: &Nfnetlink) -> bool {
    let table = AttributeBuffer::new().text(NFTA_TABLE_NAME, FIREWALLD);
    let exists = |family: &u8| socket.send(&Batch::request(*family, Operation::GetTable, &table)).is_ok();
    [INET, IPV4, IPV6].iter().any(exists)
}

/// Deletes the inserted rules of an interface, or all of them, from all chains. Missing rules are not an
/// error.
pub(crate) fn close(socket: &Nfnetlink, interface: Option<&str>) {
    let wanted = interface.map(comment);
    let is_inserted = |rule: &ForeignRule| match (&wanted, &rule.comment) {
        (Some(wanted), Some(comment)) => comment == wanted,
        (None, Some(comment)) => comment.starts_with(COMMENT),
        (_, None) => false,
    };
    let Ok(chains) = chains(socket) else { return };
    for chain in chains.iter().filter(|chain| chain.table != FIREWALLD) {
        for rule in chain.rules(socket).iter().filter(|rule| is_inserted(rule)) {
            let mut batch = Batch::new();
            chain.delete_rule(&mut batch, rule.handle);
            if let Err(errno) = ignore_missing(socket.commit(batch)) {
                log::warn!(
                    "cannot delete the rule for machines from the chain '{}' of the firewall table '{}': {errno}, \
                     ignoring",
                    chain.name,
                    chain.table
                );
            }
        }
    }
}

/// Returns the base chains of other programs that packets of machines pass, and Docker's chain.
fn chains(socket: &Nfnetlink) -> rustix::io::Result<Vec<Chain>> {
    let mut chains = Vec::new();
    socket.dump(&Batch::dump_request(UNSPEC, Operation::GetChain, &AttributeBuffer::new()), |message| {
        if message.is(Operation::NewChain)
            && [IPV4, IPV6, INET].contains(&message.family)
            && let Some(chain) = Chain::read(message.family, message.body)
            && chain.table != TABLE
            && (chain.name == DOCKER_USER
                || chain.base.is_some_and(|(hook, _)| Hook::from_number(hook).is_some()))
        {
            chains.push(chain);
        }
    })?;
    Ok(chains)
}

/// Inserts missing rules into a chain that would drop packets of machines.
fn insert(
    socket: &Nfnetlink,
    chains: &[Chain],
    base: &Chain,
    (hook, drops): (Hook, bool),
    interfaces: &[&str],
) -> rustix::io::Result<()> {
    let rules = base.rules(socket);
    let mut of_chain = |name: &str| foreign::rules(socket, base.family, &base.table, name);
    let Some(position) = position(&rules, drops, &mut of_chain) else { return Ok(()) };
    // Docker reorders its own chains, but does not change this one.
    let docker_user = chains.iter().find(|chain| {
        hook == Hook::Forward
            && chain.name == DOCKER_USER
            && (chain.family, &chain.table) == (base.family, &base.table)
            && rules.iter().any(|rule| rule.verdict == Verdict::Jump(DOCKER_USER.to_owned()))
    });
    let (chain, position, rules) = match docker_user {
        Some(chain) => (chain, InsertAt::First, chain.rules(socket)),
        None => (base, position, rules),
    };
    let has = |text: &str| rules.iter().any(|rule| rule.comment.as_deref() == Some(text));
    let missing: Vec<&str> =
        interfaces.iter().copied().filter(|interface| !has(&comment(interface))).collect();
    // An earlier version inserted a rule for all interfaces.
    let stale: Vec<u64> = rules
        .iter()
        .filter(|rule| rule.comment.as_deref() == Some(COMMENT))
        .map(|rule| rule.handle)
        .collect();
    if missing.is_empty() && stale.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    push_rules(&mut batch, chain, position, hook, &missing);
    stale.iter().for_each(|handle| chain.delete_rule(&mut batch, *handle));
    log::info!(
        "inserting rules for {} into the chain '{}' of the firewall table '{}'",
        interfaces.join(", "),
        chain.name,
        chain.table
    );
    socket.commit(batch)
}

/// Adds the rules of interfaces to a transaction.
fn push_rules(batch: &mut Batch, chain: &Chain, position: InsertAt, hook: Hook, interfaces: &[&str]) {
    let with_comment = |interface: &&str| {
        let comment = user_data(&comment(interface));
        let message = |rule: Rule| {
            let rule = chain.attributes().list(NFTA_RULE_EXPRESSIONS, &rule);
            rule.bytes(NFTA_RULE_USERDATA, &comment)
        };
        accept_rules(hook, interface).into_iter().map(message).collect::<Vec<_>>()
    };
    let mut rules: Vec<AttributeBuffer> = interfaces.iter().flat_map(with_comment).collect();
    if position == InsertAt::First {
        // Each is inserted before the previous one.
        rules.reverse();
    }
    for rule in rules {
        match position {
            InsertAt::First => batch.insert_rule(chain.family, &rule),
            InsertAt::Before(handle) => {
                batch.insert_rule(chain.family, &rule.long(NFTA_RULE_POSITION, handle));
            }
            InsertAt::Last => batch.push_for(chain.family, Operation::NewRule, IfExists::Keep, &rule),
        }
    }
}

/// Returns the rules that accept packets of an interface. iptables-nft(8) must be able to read them: it
/// refuses to list a table with an unknown expression. The chains of Coracle judge the packets; to and from
/// the host itself, these rules accept neighbour discovery alone.
fn accept_rules(hook: Hook, interface: &str) -> Vec<Rule> {
    let by = |key| [meta(key, R0), equal(R0, &padded(interface))];
    let end = [counter(), accept()];
    match hook {
        Hook::Forward => vec![
            // iifname "INTERFACE" counter accept
            rule(&[&by(NFT_META_IIFNAME), &end]),
            // oifname "INTERFACE" counter accept
            rule(&[&by(NFT_META_OIFNAME), &end]),
        ],
        // iifname "INTERFACE" meta l4proto ipv6-icmp counter accept
        Hook::Input => vec![rule(&[&by(NFT_META_IIFNAME), &l4proto(ICMPV6, R0), &end])],
        // oifname "INTERFACE" meta l4proto ipv6-icmp counter accept
        Hook::Output => vec![rule(&[&by(NFT_META_OIFNAME), &l4proto(ICMPV6, R0), &end])],
    }
}

/// The comment of the rules of an interface.
fn comment(interface: &str) -> String {
    format!("{COMMENT}: {interface}")
}

/// Returns the position before the first rule that refuses all packets. `None` if the chain accepts packets
/// that it does not name: then no rule is needed, and named packets stay refused.
fn position(
    rules: &[ForeignRule],
    drops: bool,
    of_chain: &mut dyn FnMut(&str) -> Vec<ForeignRule>,
) -> Option<InsertAt> {
    let first = rules.iter().find(|rule| refuses_all(rule, of_chain, DEPTH));
    match first {
        Some(rule) => Some(InsertAt::Before(rule.handle)),
        None => drops.then_some(InsertAt::Last),
    }
}

/// Whether a rule refuses all packets.
fn refuses_all(rule: &ForeignRule, of_chain: &mut dyn FnMut(&str) -> Vec<ForeignRule>, depth: u8) -> bool {
    match &rule.verdict {
        Verdict::Refuse => true,
        Verdict::Jump(chain) if depth > 0 => {
            let inner = of_chain(chain);
            inner.iter().any(|rule| refuses_all(rule, of_chain, depth - 1))
        }
        Verdict::Jump(_) | Verdict::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(handle: u64, verdict: Verdict) -> ForeignRule {
        ForeignRule { handle, comment: None, verdict }
    }

    #[test]
    fn a_rule_is_inserted_before_the_first_that_refuses_all() {
        let jump = |name: &str| Verdict::Jump(name.into());
        let mut none = |_: &str| Vec::new();
        assert_eq!(position(&[], false, &mut none), None);
        assert_eq!(position(&[], true, &mut none), Some(InsertAt::Last));
        let conditional = [rule(1, Verdict::Other)];
        assert_eq!(position(&conditional, false, &mut none), None);
        let last = [rule(1, Verdict::Other), rule(2, Verdict::Refuse)];
        assert_eq!(position(&last, true, &mut none), Some(InsertAt::Before(2)));
        // The kernel refuses a chain that jumps to itself, but not a deep one.
        let mut inner = |name: &str| match name {
            "a" => vec![rule(7, Verdict::Other), rule(8, jump("b"))],
            "b" => vec![rule(9, Verdict::Refuse)],
            "loop" => vec![rule(1, jump("loop"))],
            _ => Vec::new(),
        };
        let jumps = [rule(1, jump("empty")), rule(2, jump("loop")), rule(3, jump("a"))];
        assert_eq!(position(&jumps, true, &mut inner), Some(InsertAt::Before(3)));
    }
}
