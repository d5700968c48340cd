//! Rules of other programs: their verdicts, handles and comments. Called by `coexist` and `trace`.

use crate::network::firewall::netlink::Nfnetlink;
use crate::network::firewall::netlink::nfta::*;
use crate::network::firewall::netlink::nlmsg::{AttributeBuffer, AttributeReader, Batch, Operation};

/// The effect of one expression of a rule on all packets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RuleEffect {
    /// Counts or logs.
    None,
    /// Drops or rejects.
    Refuse,
    /// Jumps to another chain.
    Jump(String),
    /// Matches some packets, or has another verdict.
    Other,
}

/// A rule of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignRule {
    /// Its handle, by which nft(8) names it.
    pub(crate) handle: u64,
    /// Its comment.
    pub(crate) comment: Option<String>,
    /// Its effect on all packets.
    pub(crate) verdict: Verdict,
}

/// The effect of a rule on all packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Drops or rejects.
    Refuse,
    /// Jumps to another chain.
    Jump(String),
    /// Any other effect, or an effect on some packets.
    Other,
}

/// Returns the rules of a chain, in order.
pub(crate) fn rules(socket: &Nfnetlink, family: u8, table: &str, chain: &str) -> Vec<ForeignRule> {
    let mut rules = Vec::new();
    let name = AttributeBuffer::new().text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
    let listed = socket.dump(&Batch::dump_request(family, Operation::GetRule, &name), |message| {
        let body = message.body;
        // The kernel need not filter by chain.
        let is_of_chain =
            body.text(NFTA_RULE_TABLE) == Some(table) && body.text(NFTA_RULE_CHAIN) == Some(chain);
        if message.is(Operation::NewRule) && is_of_chain {
            rules.extend(rule(body));
        }
    });
    if let Err(errno) = listed {
        log::debug!("cannot list the rules of '{table} {chain}': {errno}, ignoring");
    }
    rules
}

fn rule(body: AttributeReader<'_>) -> Option<ForeignRule> {
    let mut verdict = Verdict::Other;
    for expression in body.list(NFTA_RULE_EXPRESSIONS) {
        match classify(expression) {
            RuleEffect::None => {}
            RuleEffect::Refuse => verdict = Verdict::Refuse,
            RuleEffect::Jump(chain) => verdict = Verdict::Jump(chain),
            RuleEffect::Other => {
                verdict = Verdict::Other;
                break;
            }
        }
    }
    let comment = body.bytes(NFTA_RULE_USERDATA).and_then(comment);
    Some(ForeignRule { handle: body.long(NFTA_RULE_HANDLE)?, comment, verdict })
}

fn classify(expression: AttributeReader<'_>) -> RuleEffect {
    let data = expression.nested(NFTA_EXPR_DATA);
    match expression.text(NFTA_EXPR_NAME) {
        Some("counter" | "log" | "notrack") => RuleEffect::None,
        Some("reject") => RuleEffect::Refuse,
        // iptables-nft(8) rejects by an extension of its own.
        Some("target") if data.and_then(|data| data.text(NFTA_TARGET_NAME)) == Some("REJECT") => {
            RuleEffect::Refuse
        }
        Some("immediate") => {
            let value = data.and_then(|data| data.nested(NFTA_IMMEDIATE_DATA));
            let Some(verdict) = value.and_then(|value| value.nested(NFTA_DATA_VERDICT)) else {
                return RuleEffect::Other;
            };
            match (verdict.constant(NFTA_VERDICT_CODE), verdict.text(NFTA_VERDICT_CHAIN)) {
                (Some(libc::NF_DROP), _) => RuleEffect::Refuse,
                (Some(libc::NFT_JUMP | libc::NFT_GOTO), Some(chain)) => RuleEffect::Jump(chain.to_owned()),
                _ => RuleEffect::Other,
            }
        }
        _ => RuleEffect::Other,
    }
}

/// Reads the comment in a rule's user data.
fn comment(user_data: &[u8]) -> Option<String> {
    let [NFTNL_UDATA_RULE_COMMENT, length, rest @ ..] = user_data else { return None };
    let bytes = rest.get(..usize::from(*length))?;
    Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
}

/// Returns the user data of a rule with this comment, as nft(8) and iptables-nft(8) write and show it.
pub(crate) fn user_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [&[NFTNL_UDATA_RULE_COMMENT, length][..], comment.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::firewall::netlink::nlmsg::{INET, messages};

    #[test]
    fn a_comment_is_read_as_it_is_written() {
        let comment = user_data("text");
        assert_eq!(comment.len(), usize::from(comment[1]) + 2);
        let rule = AttributeBuffer::new().long(NFTA_RULE_HANDLE, 5).bytes(NFTA_RULE_USERDATA, &comment);
        let bytes = Batch::request(INET, Operation::NewRule, &rule);
        let rule = super::rule(messages(&bytes).next().unwrap().body).unwrap();
        assert_eq!((rule.handle, rule.comment.as_deref()), (5, Some("text")));
    }
}
