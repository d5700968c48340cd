//! Names of descriptors that the service manager passes or stores (sd_listen_fds(3), sd_notify(3)).

/// The prefix of descriptors that PID 1 of a machine has stored, in the store of the machine's service.
const PREFIX: &str = "payload-";
/// The greatest length of a name, bytes (`FDNAME_MAX`).
const LONGEST: usize = 255;

/// Returns the name in the store of the host for a name that PID 1 of a machine gives. `None` if it is invalid.
pub(crate) fn of_payload(name: &str) -> Option<String> {
    let full = format!("{PREFIX}{name}");
    (is_valid(name) && full.len() <= LONGEST).then_some(full)
}

/// Returns the variable `LISTEN_FDNAMES` for the payload: descriptors that its PID 1 has stored have the names
/// that it has given them. `None` if the names of the manager are not those of `count` descriptors.
pub(crate) fn for_payload(names: &str, count: usize) -> Option<String> {
    let names: Vec<&str> = names.split(':').collect();
    let own = |name: &&str| name.strip_prefix(PREFIX).filter(|own| is_valid(own)).unwrap_or(name).to_owned();
    let is_usable = names.len() == count && names.iter().all(|name| name.is_empty() || is_valid(name));
    is_usable.then(|| names.iter().map(own).collect::<Vec<_>>().join(":"))
}

/// Returns whether systemd accepts a name: printable ASCII without a colon.
fn is_valid(name: &str) -> bool {
    let is_allowed = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b':';
    !name.is_empty() && name.len() <= LONGEST && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_return_to_the_payload_as_it_gave_them() {
        assert_eq!(of_payload("a b").as_deref(), Some("payload-a b"));
        assert_eq!(of_payload(&"x".repeat(247)).map(|name| name.len()), Some(255));
        let names = "web.socket:payload-a b:payload-:payload-payload-x:";
        assert_eq!(for_payload(names, 5).as_deref(), Some("web.socket:a b:payload-:payload-x:"));
        for (names, count) in [("a", 2), ("a:b", 1), ("a\nb", 1), ("\u{e9}", 1)] {
            assert_eq!(for_payload(names, count), None, "{names}");
        }
    }
}
