//! One request with its challenges and redirections. Credentials go to the host of the request and to its token server
//! only, never to the target of a redirection on another host, and without TLS only to a registry that is insecure.

use crate::challenge::{self, Challenge};
use crate::message::{Failure, Head, Request};
use crate::tls;
use serde::Deserialize;
use std::io::{Read, Write};
use std::time::Duration;
use ureq::http::header::{HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Proxy};

/// The maximum number of redirections.
const MOST_REDIRECTIONS: usize = 5;
/// The longest reply of a token server, bytes.
const LONGEST_TOKEN: u64 = 1 << 20;

/// The reply of a token server.
#[derive(Debug, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The authorization of a request.
#[derive(Debug, Clone)]
enum Authorization {
    None,
    Basic(String, String),
    Bearer(String),
}

/// Fetches a document or a blob, and writes head and body.
///
/// # Errors
/// Any error of the network, or a refusal.
pub(crate) fn fetch(request: &Request, output: &mut impl Write) -> Result<(), Failure> {
    let agent = agent(request)?;
    let first = uri(&request.url, request)?;
    let mut authorization = request.token.clone().map_or(Authorization::None, Authorization::Bearer);
    let mut token = request.token.clone();
    let mut reply = get(&agent, request, &first, &authorization)?;
    if reply.status() == 401
        && let Some(challenge) = challenge_of(reply.headers())
    {
        authorization = answer(&agent, request, challenge)?;
        if let Authorization::Bearer(new) = &authorization {
            token = Some(new.clone());
        }
        reply = get(&agent, request, &first, &authorization)?;
    }
    let mut place = first.clone();
    for _ in 0..MOST_REDIRECTIONS {
        if !reply.status().is_redirection() {
            break;
        }
        place = redirected(&reply, &place, request)?;
        let is_same = place.authority() == first.authority() && place.scheme() == first.scheme();
        let given = if is_same { authorization.clone() } else { Authorization::None };
        reply = get(&agent, request, &place, &given)?;
    }
    write(request, reply, token, output).map_err(Failure::from)
}

fn agent(request: &Request) -> Result<Agent, String> {
    let timeout = Some(Duration::from_secs(request.timeout));
    let proxy = match &request.proxy {
        Some(proxy) => Some(Proxy::new(proxy).map_err(|error| format!("the proxy: {error}"))?),
        None => None,
    };
    let config = Agent::config_builder()
        .tls_config(tls::config(&request.authorities, request.insecure)?)
        .proxy(proxy)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(timeout)
        .timeout_recv_response(timeout)
        .build();
    Ok(Agent::new_with_config(config))
}

/// Parses an address, which has TLS unless the registry is insecure.
fn uri(text: &str, request: &Request) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "an address is invalid".to_owned())?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if request.insecure => Ok(uri),
        _ => Err("an address without TLS is refused".to_owned()),
    }
}

fn get(
    agent: &Agent,
    request: &Request,
    place: &Uri,
    authorization: &Authorization,
) -> Result<Response<Body>, Failure> {
    let mut builder = agent.get(place);
    for media_type in &request.accept {
        builder = builder.header("Accept", media_type);
    }
    if request.from > 0 {
        builder = builder.header("Range", format!("bytes={}-", request.from));
    }
    // A blob is what its digest names, not what a compressed transfer makes of it.
    builder = builder.header("Accept-Encoding", "identity");
    builder = match authorization {
        Authorization::None => builder,
        Authorization::Basic(user, password) => builder
            .header("Authorization", format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))),
        Authorization::Bearer(token) => builder.header("Authorization", format!("Bearer {token}")),
    };
    builder.call().map_err(|error| {
        let text = error.to_string();
        // A certificate is not valid later.
        let is_transient = !text.contains("certificate");
        Failure { text, is_transient }
    })
}

fn challenge_of(headers: &HeaderMap) -> Option<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(challenge::parse)
}

/// Returns the authorization for a challenge.
fn answer(agent: &Agent, request: &Request, challenge: Challenge) -> Result<Authorization, Failure> {
    let basic = request.credentials.clone().map(|(user, password)| Authorization::Basic(user, password));
    let server = match challenge {
        Challenge::Basic => {
            return basic.ok_or_else(|| "the registry requires a user and a password".to_owned().into());
        }
        Challenge::Bearer(server) => server,
    };
    let server = uri(&server, request)?;
    let plain = Request { accept: Vec::new(), from: 0, ..copy(request) };
    let reply = get(agent, &plain, &server, &basic.unwrap_or(Authorization::None))?;
    if !reply.status().is_success() {
        return Err(format!("the token server replied with status {}", reply.status().as_u16()).into());
    }
    let mut text = Vec::new();
    let mut body = reply.into_body();
    body.as_reader().take(LONGEST_TOKEN).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let token: Token =
        serde_json::from_slice(&text).map_err(|_| "the token server sent an invalid reply".to_owned())?;
    let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
    token.map(Authorization::Bearer).ok_or_else(|| "the token server sent no token".to_owned().into())
}

fn copy(request: &Request) -> Request {
    Request {
        url: request.url.clone(),
        accept: request.accept.clone(),
        from: request.from,
        credentials: None,
        token: None,
        authorities: Vec::new(),
        insecure: request.insecure,
        proxy: None,
        timeout: request.timeout,
    }
}

/// Returns the target of a redirection.
fn redirected(reply: &Response<Body>, from: &Uri, request: &Request) -> Result<Uri, String> {
    let target = reply.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = target.ok_or_else(|| "a redirection has no target".to_owned())?;
    if target.contains("://") {
        return uri(target, request);
    }
    let path = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let (scheme, host) =
        (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |host| host.as_str()));
    uri(&format!("{scheme}://{host}{path}"), request)
}

/// Writes head and body.
fn write(
    request: &Request,
    reply: Response<Body>,
    token: Option<String>,
    output: &mut impl Write,
) -> Result<(), String> {
    let text = |name: &str| Some(reply.headers().get(name)?.to_str().ok()?.to_owned());
    let status = reply.status().as_u16();
    let is_partial = status == 206;
    let from = text("content-range")
        .filter(|_| is_partial)
        .and_then(|range| range.trim_start_matches("bytes ").split('-').next()?.parse().ok());
    let head = Head {
        error: None,
        is_transient: false,
        status,
        from: if is_partial { from.unwrap_or(request.from) } else { 0 },
        media_type: text("content-type"),
        token,
        retry_after: reply.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()),
    };
    let line = serde_json::to_string(&head).map_err(|error| error.to_string())?;
    writeln!(output, "{line}").map_err(|error| error.to_string())?;
    if reply.status().is_success() {
        let mut body = reply.into_body();
        let copied = std::io::copy(&mut body.as_reader(), output);
        if copied.is_err() {
            let _ = output.flush();
            std::process::exit(2);
        }
    }
    output.flush().map_err(|error| error.to_string())
}

/// Encodes bytes (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let number =
            part.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for at in 0..4 {
            let digit = usize::try_from(number >> (18 - 6 * at) & 63).unwrap_or_default();
            let shown = at <= part.len();
            text.push(if shown { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
