//! The challenge of a registry (RFC 9110, "Authentication"; distribution specification of Docker, "Token
//! Authentication").

/// A challenge.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password.
    Basic,
    /// A token, from the server at this address.
    Bearer(String),
}

/// Parses the value of a header. `None` for an unknown challenge.
pub(crate) fn parse(value: &str) -> Option<Challenge> {
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut query) = (None, Vec::new());
    for (name, value) in parameters(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            name @ ("service" | "scope") => query.push(format!("{name}={}", encoded(&value))),
            _ => {}
        }
    }
    let realm = realm?;
    let separator = if realm.contains('?') { '&' } else { '?' };
    let query = if query.is_empty() { String::new() } else { format!("{separator}{}", query.join("&")) };
    Some(Challenge::Bearer(format!("{realm}{query}")))
}

/// Splits `NAME="VALUE", NAME=VALUE`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = after;
    }
    found
}

/// Encodes a value of a query (RFC 3986).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_name_their_server() {
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        let bearer = "Bearer realm=\"https://auth/token\",service=\"a b\",scope=\"repository:x/y:pull,push\"";
        let expected = "https://auth/token?service=a%20b&scope=repository:x/y:pull,push";
        assert_eq!(parse(bearer), Some(Challenge::Bearer(expected.to_owned())));
        assert_eq!(
            parse("bearer realm=https://a?b=c,service=d"),
            Some(Challenge::Bearer("https://a?b=c&service=d".into()))
        );
        for text in ["", "Negotiate", "Bearer", "Bearer service=\"x\""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
