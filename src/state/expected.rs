//! The machines that a job of the service was allowed to act on. Between the question of polkit(8) and the job,
//! another machine can take the name: the first read of its record then fails. Set by `main` from the options
//! of a job; empty for all other callers.

use crate::error::{Error, ErrorName, Result};
use crate::machine::name::Name;
use std::sync::Mutex;

/// A supervisor, by its process id and start time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    name: String,
    supervisor: u32,
    start: u64,
}

/// The machines, each until the first read of its record.
static EXPECTED: Mutex<Vec<Expected>> = Mutex::new(Vec::new());

/// Expects machines, each as `NAME:PID:START`.
///
/// # Errors
/// A word in another format.
pub fn expect(words: &[String]) -> Result<()> {
    let parse = |word: &String| {
        let mut parts = word.split(':');
        let expected = Expected {
            name: parts.next()?.to_owned(),
            supervisor: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(expected)
    };
    for word in words {
        let expected = parse(word).ok_or_else(|| Error::usage(format!("'{word}' is not NAME:PID:START")))?;
        EXPECTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(expected);
    }
    Ok(())
}

/// Refuses the record of another machine than the expected one. The restart of an accepted machine is no
/// change: only the first record counts.
pub(super) fn refuse_changed(name: &Name, supervisor: u32, start: u64) -> Result<()> {
    let mut all = EXPECTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(at) = all.iter().position(|one| one.name == name.as_str()) else { return Ok(()) };
    let one = all.swap_remove(at);
    if (one.supervisor, one.start) == (supervisor, start) {
        return Ok(());
    }
    all.push(one);
    Err(changed(name))
}

/// Refuses to go on without the record of an expected machine, which has ended since the request was allowed.
///
/// # Errors
/// Such a machine.
pub(crate) fn refuse_ended(name: &Name) -> Result<()> {
    let all = EXPECTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if all.iter().any(|one| one.name == name.as_str() && one.supervisor != 0) {
        return Err(changed(name));
    }
    Ok(())
}

fn changed(name: &Name) -> Error {
    Error::new(format!("machine '{name}' was replaced after the request was allowed"))
        .named(ErrorName::Changed)
        .with_hint("try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_of_that_name_is_refused() {
        let name = Name::new("only-in-this-test").unwrap();
        assert!(expect(&["x:1".to_owned()]).is_err() && expect(&["x:1:2:3".to_owned()]).is_err());
        expect(&[format!("{name}:7:99")]).unwrap();
        let error = refuse_changed(&name, 8, 99).unwrap_err();
        assert_eq!(error.name(), ErrorName::Changed);
        assert!(refuse_changed(&name, 7, 100).is_err());
        assert_eq!(refuse_ended(&name).unwrap_err().name(), ErrorName::Changed);
        refuse_changed(&name, 7, 99).unwrap();
        refuse_ended(&name).unwrap();
        // Its next supervisor, after a restart.
        refuse_changed(&name, 8, 1).unwrap();
    }
}
