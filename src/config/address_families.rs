//! Names of address families, as RestrictAddressFamilies= of systemd.exec(5) has them. Called by `security`,
//! `nspawn` and the options of `run`.

use super::values::{RawValue, Value, quoted};
use crate::error::{Error, Result, nearest};
use crate::machine::address_families::{AddressFamilies, FAMILIES};

/// A word about address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyRule {
    /// `none`: no family is allowed.
    None,
    /// `AF_NAME`: this family is allowed.
    Allowed(&'static str),
    /// `~AF_NAME`: this family is forbidden.
    Forbidden(&'static str),
}

impl Value for FamilyRule {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else {
            return Err(raw.expected("an address family such as \"AF_INET\""));
        };
        if *text == "none" {
            return Ok(Self::None);
        }
        let (name, is_forbidden) = text.strip_prefix('~').map_or((*text, false), |name| (name, true));
        let short = name.strip_prefix("AF_").unwrap_or_default();
        match FAMILIES.iter().find(|(known, _)| *known == short) {
            Some((known, _)) if is_forbidden => Ok(Self::Forbidden(known)),
            Some((known, _)) => Ok(Self::Allowed(known)),
            None => {
                let error = Error::new(format!("unknown address family {}", quoted(text)));
                let short = name.strip_prefix("AF_").unwrap_or(name).to_ascii_uppercase();
                Err(match nearest(&short, FAMILIES.iter().map(|(name, _)| *name)) {
                    Some(near) => error.with_hint(format!("did you mean \"AF_{near}\"?")),
                    None => error.with_hint("see address_families(7) for the list"),
                })
            }
        }
    }

    fn show(&self) -> String {
        match self {
            Self::None => quoted("none"),
            Self::Allowed(name) => quoted(&format!("AF_{name}")),
            Self::Forbidden(name) => quoted(&format!("~AF_{name}")),
        }
    }
}

/// Reads the words of an option or of a line in a .nspawn file: `none`, or names between blanks, all of them
/// forbidden after a leading `~`.
pub(crate) fn rules(text: &str) -> impl Iterator<Item = Result<FamilyRule>> {
    let (sign, names) = text.strip_prefix('~').map_or(("", text), |names| ("~", names));
    names
        .split_ascii_whitespace()
        .map(move |name| FamilyRule::read(&RawValue::Text(&format!("{sign}{name}"))))
}

/// Returns the allowed families of rules, in order.
pub(super) fn build<'r>(rules: impl Iterator<Item = &'r FamilyRule>) -> AddressFamilies {
    let number =
        |name: &str| FAMILIES.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| *number);
    let mut families = AddressFamilies::All;
    for rule in rules {
        match rule {
            FamilyRule::None => families.forbid_all(),
            FamilyRule::Allowed(name) => families.allow(number(name)),
            FamilyRule::Forbidden(name) => families.forbid(number(name)),
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(text: &str) -> Result<AddressFamilies> {
        let rules: Vec<FamilyRule> = rules(text).collect::<Result<_>>()?;
        Ok(build(rules.iter()))
    }

    #[test]
    fn words_are_those_of_systemd() {
        assert_eq!(families("AF_UNIX  AF_INET6").unwrap(), AddressFamilies::Only(vec![1, 10]));
        assert_eq!(families("~AF_VSOCK AF_ALG").unwrap(), AddressFamilies::Except(vec![40, 38]));
        assert_eq!(families("none").unwrap(), AddressFamilies::Only(vec![]));
        assert_eq!(families("none AF_UNIX").unwrap(), AddressFamilies::Only(vec![1]));
        for bad in ["AF_NONSENSE", "INET", "~~AF_INET", "~none", "af_inet", "AF_"] {
            assert!(families(bad).is_err(), "{bad}");
        }
        let error = families("AF_INET7").unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"AF_INET\"?"));
    }
}
