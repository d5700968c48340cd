//! Values of forwarded ports.

use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::network::{Port, Protocol};
use std::net::IpAddr;

impl Value for Port {
    /// Parses `[ADDRESS:]HOST[-LAST][:GUEST[-LAST]][/tcp|/udp]`; `tcp:` or `udp:` may precede it instead.
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Integer(number) => parse(&number.to_string()),
            RawValue::Text(text) => parse(text),
            _ => Err(raw.expected("a port such as \"8080:80\"")),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

fn parse(text: &str) -> Result<Port> {
    let invalid = || {
        Error::new(format!("{} is not a port to forward", quoted(text))).with_hint(
            "write [ADDRESS:]HOST[:GUEST][/udp], for example \"8080:80\", \"[::1]:5353:53/udp\" or \
             \"8000-8010:9000-9010\"",
        )
    };
    let (protocol, rest) = protocol(text).ok_or_else(invalid)?;
    let (address, rest) = address(rest).ok_or_else(invalid)?;
    let (host, guest) = rest.split_once(':').unwrap_or((rest, rest));
    let (host, last) = range(host).ok_or_else(invalid)?;
    let (guest, guest_last) = range(guest).ok_or_else(invalid)?;
    if last - host != guest_last - guest {
        return Err(Error::new(format!("the two ranges of {} differ in length", quoted(text))));
    }
    Ok(Port { address, protocol, host, last, guest })
}

fn protocol(text: &str) -> Option<(Protocol, &str)> {
    for (word, protocol) in [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)] {
        if let Some(rest) = text.strip_prefix(word).and_then(|rest| rest.strip_prefix(':')) {
            return Some((protocol, rest));
        }
        if let Some(rest) = text.strip_suffix(word).and_then(|rest| rest.strip_suffix('/')) {
            return Some((protocol, rest));
        }
    }
    (!text.contains('/')).then_some((Protocol::Tcp, text))
}

/// Splits the leading address off; `None` if it is invalid.
fn address(text: &str) -> Option<(Option<IpAddr>, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once("]:")?;
        return Some((specified(IpAddr::V6(address.parse().ok()?)), rest));
    }
    match text.split_once(':') {
        Some((address, rest)) if address.contains('.') => {
            Some((specified(IpAddr::V4(address.parse().ok()?)), rest))
        }
        _ => Some((None, text)),
    }
}

/// Returns `None` for the unspecified address, which means all addresses.
fn specified(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| plain && *number != 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed_and_shown() {
        for (text, shown) in [
            ("8080:80", "8080:80"),
            ("80", "80:80"),
            ("udp:53", "53:53/udp"),
            ("tcp:8080:80", "8080:80"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080:80"),
            ("0.0.0.0:8080:80", "8080:80"),
            ("[::1]:5353:53/udp", "[::1]:5353:53/udp"),
            ("8000-8010:9000-9010", "8000-8010:9000-9010"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "x",
            "0",
            "65536",
            "8080:",
            ":80",
            "80:80:80",
            "1-2:3",
            "5-4",
            "+80",
            "80/sctp",
            "[::1]80",
            "1.2.3:80",
            "80-90:80-91",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
