//! Calls and replies of the interface `io.systemd.Resolve.Hook`, and records of DNS (RFC 1035, section 3.2.1). Called by
//! `zone_names`. Bytes of a client are untrusted.

use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

const QUERY_FILTER: &str = "io.systemd.Resolve.Hook.QueryFilter";
const RESOLVE_RECORD: &str = "io.systemd.Resolve.Hook.ResolveRecord";
/// The class of the internet.
const CLASS_IN: u16 = 1;
/// The type of IPv4 addresses.
const TYPE_A: u16 = 1;
/// The type of IPv6 addresses.
const TYPE_AAAA: u16 = 28;
/// The type of all records.
const TYPE_ANY: u16 = 255;
/// The response code of an answered question.
const SUCCESS: u8 = 0;

/// A call.
#[derive(Debug)]
pub(super) enum Call {
    /// The domains of the hook are wanted, also later ones if it is a subscription.
    QueryFilter { is_subscription: bool },
    /// Records are wanted.
    ResolveRecord(Vec<ResourceKey>),
    /// Another method, or no call.
    Unknown(String),
}

/// The name, class and type of wanted records.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ResourceKey {
    name: String,
    class: u16,
    #[serde(rename = "type")]
    kind: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCall {
    method: String,
    more: bool,
    parameters: Option<Parameters>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    question: Vec<Question>,
}

#[derive(Debug, Deserialize)]
struct Question {
    key: ResourceKey,
}

impl Call {
    /// Parses a call without its NUL.
    pub(super) fn parse(text: &[u8]) -> Self {
        let RawCall { method, more, parameters } = serde_json::from_slice(text).unwrap_or_default();
        match method.as_str() {
            QUERY_FILTER => Self::QueryFilter { is_subscription: more },
            RESOLVE_RECORD => {
                let question = parameters.unwrap_or_default().question;
                Self::ResolveRecord(question.into_iter().map(|question| question.key).collect())
            }
            _ => Self::Unknown(method),
        }
    }
}

/// A reply.
#[derive(Debug)]
pub(super) struct Reply(Value);

impl Reply {
    /// The domains of the hook. `continues` means that further replies follow.
    pub(super) fn filter(zones: &BTreeSet<String>, continues: bool) -> Self {
        let parameters = json!({ "filterDomains": zones, "filterLabelsMin": 2 });
        Self(match continues {
            true => json!({ "parameters": parameters, "continues": true }),
            false => json!({ "parameters": parameters }),
        })
    }

    /// The records of a question. `find` returns the addresses of a name, and `None` for a name of others, which
    /// resolved looks up as usual.
    pub(super) fn records(keys: &[ResourceKey], find: impl Fn(&str) -> Option<Vec<IpAddr>>) -> Self {
        let found = keys.iter().filter_map(|key| Some((key, find(&key.name)?)));
        let found: Vec<(&ResourceKey, Vec<IpAddr>)> = found.collect();
        if found.is_empty() {
            return Self(json!({ "parameters": {} }));
        }
        let answer: Vec<Value> = found
            .iter()
            .flat_map(|(key, addresses)| addresses.iter().filter_map(|address| record(key, *address)))
            .map(|record| json!({ "raw": base64(&record) }))
            .collect();
        Self(json!({ "parameters": { "rcode": SUCCESS, "answer": answer } }))
    }

    /// The refusal of another method.
    pub(super) fn unknown(method: &str) -> Self {
        Self(json!({ "error": "org.varlink.service.MethodNotFound", "parameters": { "method": method } }))
    }

    /// Returns the message with its NUL.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.to_string().into_bytes();
        bytes.push(0);
        bytes
    }
}

/// Returns the record of an address. `None` if a record of another type is wanted.
fn record(key: &ResourceKey, address: IpAddr) -> Option<Vec<u8>> {
    let (kind, data) = match address {
        IpAddr::V4(address) => (TYPE_A, address.octets().to_vec()),
        IpAddr::V6(address) => (TYPE_AAAA, address.octets().to_vec()),
    };
    if key.class != CLASS_IN || key.kind != kind && key.kind != TYPE_ANY {
        return None;
    }
    let mut record = Vec::new();
    for label in key.name.split('.').filter(|label| !label.is_empty()) {
        record.push(u8::try_from(label.len()).ok().filter(|length| *length < 64)?);
        record.extend_from_slice(label.as_bytes());
    }
    record.push(0);
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&CLASS_IN.to_be_bytes());
    // It is not cached: the machine may stop.
    record.extend_from_slice(&0u32.to_be_bytes());
    record.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
    record.extend_from_slice(&data);
    Some(record)
}

/// Encodes bytes (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |group: &[u8]| {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digit = move |index: usize| match index <= group.len() {
            true => DIGITS.get((bits >> (18 - 6 * index) & 63) as usize).copied().map_or('=', char::from),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_encoded_with_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
