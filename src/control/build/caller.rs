//! The caller of a verb on build sessions: under sudo(8) the user who has called it. Called by `cli`.

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Its name.
    pub(crate) name: String,
    /// User and group.
    pub(crate) ids: (u32, u32),
}

/// Returns the user who has called this program.
pub(crate) fn caller() -> Caller {
    let variable = |name: &str| std::env::var(name).ok();
    let number = |name: &str| variable(name)?.parse::<u32>().ok();
    of(variable("SUDO_USER"), number("SUDO_UID"), number("SUDO_GID"))
}

/// The name of a caller whose own does not fit into passwd(5), for example `EXAMPLE\ann`.
const OTHER: &str = "builder";

/// Returns the caller by the variables of sudo(8).
fn of(name: Option<String>, uid: Option<u32>, gid: Option<u32>) -> Caller {
    let fits = |name: &String| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        !name.is_empty() && name.len() <= 32 && name.bytes().all(is_part)
    };
    match (name, uid, gid) {
        (Some(name), Some(uid), Some(gid)) if uid != 0 => {
            Caller { name: Some(name).filter(fits).unwrap_or_else(|| OTHER.to_owned()), ids: (uid, gid) }
        }
        _ => Caller { name: "root".to_owned(), ids: (0, 0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_that_of_sudo() {
        let ann = of(Some("ann".into()), Some(1000), Some(100));
        assert_eq!((ann.name.as_str(), ann.ids), ("ann", (1000, 100)));
        for (name, uid) in [(None, Some(1000)), (Some("root"), Some(0)), (Some("ann"), None)] {
            assert_eq!(of(name.map(Into::into), uid, Some(0)).name, "root");
        }
    }

    #[test]
    fn a_name_of_a_domain_keeps_its_ids() {
        let long = "a".repeat(33);
        for name in ["ann@example.com", "EXAMPLE\\ann", "a:b", "a b", "", &long] {
            let caller = of(Some(name.into()), Some(7), Some(8));
            assert_eq!((caller.name.as_str(), caller.ids), (OTHER, (7, 8)), "{name:?}");
        }
    }
}
