//! Other people's rules: base chains of the host that refuse what they do not know, as those of
//! Docker, ufw or a ruleset written by hand. A packet passes a hook only where each base chain there
//! lets it, so one rule of ours stands in each that would not, marked by a comment, for as long as
//! there are machines. Their own rules are never touched. Called by the supervisor when a machine
//! comes and when the last has gone; what is ours is found by the comment, so no crash loses it.

use super::inet;
use super::inet::{Seen, Way};
use super::message::{Attributes, Batch, EVERY, Existing, INET, IP, IP6, Kind, Read};
use super::{ask, commit, dump};
use crate::error::{Error, Result};
use rustix::io::Errno;

/// The begin of the comment of our rules, before the name of the interface.
const COMMENT: &str = "machines of coracle";
/// firewalld's table, which takes no rules of others: firewalld itself is asked.
pub(super) const FIREWALLD: &str = "firewalld";
/// The chain that Docker leaves to others, in the table of its own rules.
const DOCKER: &str = "DOCKER-USER";
/// How deep chains that refuse everything are looked for.
const DEPTH: u8 = 8;

/// A base chain of somebody else, or Docker's chain for others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    /// Its hook and whether its policy is to drop; nothing for one that is no base chain.
    base: Option<(u32, bool)>,
}

impl Chain {
    fn read(family: u8, body: Read<'_>) -> Option<Self> {
        let base = body.nested(4).and_then(|hook| {
            let filters = body.text(7) == Some("filter");
            filters.then_some((hook.number(1)?, body.number(5) == Some(0)))
        });
        let (table, name) = (body.text(1)?.to_owned(), body.text(3)?.to_owned());
        Some(Self { family, table, name, base })
    }

    /// Its name in messages.
    fn attributes(&self) -> Attributes {
        Attributes::new().text(1, &self.table).text(2, &self.name)
    }

    fn rules(&self) -> Vec<Rule> {
        rules(self.family, &self.table, &self.name)
    }
}

/// A rule as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) comment: Option<String>,
    pub(super) verdict: Verdict,
}

/// What a rule does to every packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Lets it go no further.
    Refuse,
    /// Sends it to another chain.
    Jump(String),
    /// Anything else, or something to some packets only.
    Other,
}

/// The rules of a chain, in order.
pub(super) fn rules(family: u8, table: &str, chain: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    let question = Batch::dump(family, Kind::GetRule, &Attributes::new().text(1, table).text(2, chain));
    let heard = dump(&question, |message| {
        // The kernel asks for no more than the table: the chain may be another.
        let body = message.body;
        if message.is(Kind::NewRule) && body.text(1) == Some(table) && body.text(2) == Some(chain) {
            rules.extend(rule(body));
        }
    });
    if let Err(errno) = heard {
        log::debug!("cannot list the rules of '{table} {chain}': {errno}, ignoring");
    }
    rules
}

fn rule(body: Read<'_>) -> Option<Rule> {
    /// `NFTNL_UDATA_RULE_COMMENT`.
    const COMMENT: u8 = 0;
    let user_data = body.bytes(7).unwrap_or_default();
    let comment = match user_data {
        [COMMENT, length, rest @ ..] => rest.get(..usize::from(*length)),
        _ => None,
    };
    let comment =
        comment.map(|bytes| String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned());
    let mut verdict = Verdict::Other;
    for expression in body.list(4) {
        match inet::seen(expression) {
            Seen::Harmless => {}
            Seen::Refusal => verdict = Verdict::Refuse,
            Seen::Jump(chain) => verdict = Verdict::Jump(chain),
            Seen::Condition => {
                verdict = Verdict::Other;
                break;
            }
        }
    }
    Some(Rule { handle: body.long(3)?, comment, verdict })
}

/// Every base chain for packets that we may have a part in, and Docker's for others.
fn chains() -> rustix::io::Result<Vec<Chain>> {
    let mut chains = Vec::new();
    dump(&Batch::dump(EVERY, Kind::GetChain, &Attributes::new()), |message| {
        if message.is(Kind::NewChain)
            && [IP, IP6, INET].contains(&message.family)
            && let Some(chain) = Chain::read(message.family, message.body)
            && chain.table != inet::TABLE
            && (chain.name == DOCKER || chain.base.is_some_and(|(hook, _)| Way::of_hook(hook).is_some()))
        {
            chains.push(chain);
        }
    })?;
    Ok(chains)
}

/// Where a rule of ours counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Before(u64),
    Last,
}

/// Lets machines with these interfaces of the host pass the chains that would refuse them. Existing rules stay.
///
/// # Errors
/// Chains that cannot be listed.
pub fn open(interfaces: &[&str]) -> Result<()> {
    let chains = match chains() {
        Ok(chains) => chains,
        Err(Errno::OPNOTSUPP | Errno::PROTONOSUPPORT) => return Ok(()),
        Err(errno) => return Err(Error::from(errno).context("cannot list the chains of the firewall")),
    };
    for chain in chains.iter().filter(|chain| chain.table != FIREWALLD) {
        let Some((way, drops)) = chain.base.and_then(|(hook, drops)| Some((Way::of_hook(hook)?, drops)))
        else {
            continue;
        };
        // Only what is needed: neighbours are found by packets of IPv6.
        if way != Way::Through && chain.family == IP {
            continue;
        }
        if let Err(errno) = pass(&chains, chain, way, drops, interfaces) {
            log::warn!(
                "cannot let machines pass the chain '{}' of the firewall table '{}': {errno}, ignoring",
                chain.name,
                chain.table
            );
        }
    }
    Ok(())
}

/// Whether firewalld has its rules in the kernel.
pub fn has_firewalld() -> bool {
    let table = Attributes::new().text(1, FIREWALLD);
    [INET, IP, IP6].iter().any(|family| ask(&Batch::question(*family, Kind::GetTable, &table)).is_ok())
}

/// Puts our rules into a chain that would refuse machines, where they are not there.
fn pass(
    chains: &[Chain],
    base: &Chain,
    way: Way,
    drops: bool,
    interfaces: &[&str],
) -> rustix::io::Result<()> {
    let rules = base.rules();
    let Some(place) = place(&rules, drops, &mut |name| {
        crate::network::firewall::coexist::rules(base.family, &base.table, name)
    }) else {
        return Ok(());
    };
    // Docker keeps the order of its own chain, and leaves that one alone.
    let docker = chains.iter().find(|chain| {
        way == Way::Through
            && chain.name == DOCKER
            && (chain.family, &chain.table) == (base.family, &base.table)
            && rules.iter().any(|rule| rule.verdict == Verdict::Jump(DOCKER.to_owned()))
    });
    let (chain, place, rules) = match docker {
        Some(docker) => (docker, Place::First, docker.rules()),
        None => (base, place, rules),
    };
    let has = |comment: &str| rules.iter().any(|rule| rule.comment.as_deref() == Some(comment));
    let missing = interfaces.iter().filter(|interface| !has(&comment(interface)));
    let mut ours: Vec<_> = missing
        .flat_map(|interface| inet::passes(way, interface).into_iter().map(move |rule| (interface, rule)))
        .collect();
    let stale: Vec<u64> = rules
        .iter()
        .filter(|rule| rule.comment.as_deref() == Some(COMMENT))
        .map(|rule| rule.handle)
        .collect();
    if ours.is_empty() && stale.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    if place == Place::First {
        ours.reverse();
    }
    for (interface, expressions) in ours {
        let rule = chain.attributes().list(4, &expressions).bytes(7, &user_data(&comment(interface)));
        match place {
            Place::First => batch.insert_rule(chain.family, &rule),
            Place::Before(handle) => batch.insert_rule(chain.family, &rule.long(6, handle)),
            Place::Last => batch.push_for(chain.family, Kind::NewRule, Existing::Keep, &rule),
        }
    }
    // An earlier version let every link with such a name pass.
    for handle in stale {
        let rule = chain.attributes().long(3, handle);
        batch.push_for(chain.family, Kind::DeleteRule, Existing::Keep, &rule);
    }
    log::info!(
        "letting {} pass the chain '{}' of the firewall table '{}'",
        interfaces.join(", "),
        chain.name,
        chain.table
    );
    commit(batch)
}

/// The comment of the rules for an interface.
fn comment(interface: &str) -> String {
    format!("{COMMENT}: {interface}")
}

/// A comment, as nft(8) and iptables-nft(8) write and show it.
fn user_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [&[0, length][..], comment.as_bytes(), &[0]].concat()
}

/// Where in a chain a rule has to be so that not everything is refused before it; nothing where the
/// chain refuses only what it names. What it names it refuses to machines too.
fn place(rules: &[Rule], drops: bool, others: &mut dyn FnMut(&str) -> Vec<Rule>) -> Option<Place> {
    let first = rules.iter().find(|rule| refuses(rule, others, DEPTH));
    match first {
        Some(rule) => Some(Place::Before(rule.handle)),
        None => drops.then_some(Place::Last),
    }
}

/// Whether a rule refuses whatever comes to it.
fn refuses(rule: &Rule, others: &mut dyn FnMut(&str) -> Vec<Rule>, depth: u8) -> bool {
    match &rule.verdict {
        Verdict::Refuse => true,
        Verdict::Jump(chain) if depth > 0 => {
            let inner = others(chain);
            inner.iter().any(|rule| refuses(rule, others, depth - 1))
        }
        Verdict::Jump(_) | Verdict::Other => false,
    }
}

/// Deletes our rules for an interface, or all of them, from all chains. None is fine.
pub fn close(interface: Option<&str>) {
    let wanted = interface.map(comment);
    let is_ours = |rule: &Rule| match (&wanted, &rule.comment) {
        (Some(wanted), Some(comment)) => comment == wanted,
        (None, Some(comment)) => comment.starts_with(COMMENT),
        (_, None) => false,
    };
    let Ok(chains) = chains() else { return };
    for chain in chains.iter().filter(|chain| chain.table != FIREWALLD) {
        let rules = chain.rules();
        for rule in rules.iter().filter(|rule| is_ours(rule)) {
            let mut batch = Batch::new();
            let name = chain.attributes().long(3, rule.handle);
            batch.push_for(chain.family, Kind::DeleteRule, Existing::Keep, &name);
            if let Err(errno) = crate::network::firewall::gone(commit(batch)) {
                log::warn!(
                    "cannot take our rule out of the chain '{}' of the firewall table '{}': {errno}, ignoring",
                    chain.name,
                    chain.table
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(handle: u64, verdict: Verdict) -> Rule {
        Rule { handle, comment: None, verdict }
    }

    #[test]
    fn our_rule_comes_before_what_refuses_all() {
        let jump = |name: &str| Verdict::Jump(name.into());
        let mut none = |_: &str| Vec::new();
        assert_eq!(place(&[], false, &mut none), None);
        assert_eq!(place(&[], true, &mut none), Some(Place::Last));
        let conditional = [rule(1, Verdict::Other)];
        assert_eq!(place(&conditional, false, &mut none), None);
        let last = [rule(1, Verdict::Other), rule(2, Verdict::Refuse)];
        assert_eq!(place(&last, true, &mut none), Some(Place::Before(2)));
        // A chain that sends to itself cannot be made, one that is deep can.
        let mut inner = |name: &str| match name {
            "a" => vec![rule(7, Verdict::Other), rule(8, jump("b"))],
            "b" => vec![rule(9, Verdict::Refuse)],
            "loop" => vec![rule(1, jump("loop"))],
            _ => Vec::new(),
        };
        let jumps = [rule(1, jump("empty")), rule(2, jump("loop")), rule(3, jump("a"))];
        assert_eq!(place(&jumps, true, &mut inner), Some(Place::Before(3)));
    }

    #[test]
    fn a_comment_is_read_as_it_is_written() {
        let text = super::comment("ve-web");
        let comment = user_data(&text);
        assert_eq!(comment.len(), usize::from(comment[1]) + 2);
        let bytes = Batch::dump(INET, Kind::NewRule, &Attributes::new().long(3, 5).bytes(7, &comment));
        let read = crate::network::firewall::message::messages(&bytes).next().unwrap();
        let rule = super::rule(read.body).unwrap();
        assert_eq!((rule.handle, rule.comment.as_deref()), (5, Some(text.as_str())));
    }
}
