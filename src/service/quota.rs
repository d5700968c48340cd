//! The limits of the service against users who flood it, and the count of what keeps it running. Root is not
//! limited.

use crate::error::{Error, ErrorName, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A resource whose number is limited for each user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    /// Calls without an answer.
    Call,
    /// Running jobs.
    Job,
    /// Subscriptions.
    Subscription,
    /// Open dialogs for a password.
    Dialog,
}

impl Resource {
    /// Returns the name, the limit of a user, and the limit of all users.
    fn limits(self) -> (&'static str, usize, usize) {
        match self {
            Self::Call => ("calls", 16, 256),
            Self::Job => ("jobs", 8, 64),
            Self::Subscription => ("subscriptions", 4, 64),
            Self::Dialog => ("questions for a password", 1, 64),
        }
    }
}

/// The counts, by user and resource.
#[derive(Debug, Default)]
pub(super) struct Quota(Mutex<HashMap<(u32, Resource), usize>>);

/// One of a resource, returned when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    quota: Arc<Quota>,
    uid: u32,
    resource: Resource,
}

impl Quota {
    /// Takes one of a resource.
    ///
    /// # Errors
    /// The user, or all users together, have too many.
    pub(super) fn take(self: &Arc<Self>, uid: u32, resource: Resource) -> Result<Permit> {
        let mut counts = super::lock(&self.0);
        let (name, own_limit, limit) = resource.limits();
        let others = counts.iter().filter(|((uid, is), _)| *uid != 0 && *is == resource);
        let all: usize = others.map(|(_, count)| count).sum();
        let own = counts.entry((uid, resource)).or_default();
        if uid != 0 && (*own >= own_limit || all >= limit) {
            return Err(Error::new(format!("too many {name} of user {uid}"))
                .named(ErrorName::LimitsExceeded)
                .with_hint("wait for the end of others"));
        }
        *own += 1;
        Ok(Permit { quota: Arc::clone(self), uid, resource })
    }

    /// Returns whether a call has no answer yet.
    pub(super) fn has_calls(&self) -> bool {
        super::lock(&self.0).keys().any(|(_, resource)| *resource == Resource::Call)
    }

    /// Returns whether nothing is taken.
    pub(super) fn is_unused(&self) -> bool {
        super::lock(&self.0).is_empty()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = super::lock(&self.quota.0);
        let key = (self.uid, self.resource);
        match counts.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_limits_that_others_do_not_feel() {
        let quota = Arc::new(Quota::default());
        let mut taken: Vec<Permit> = (0..8).map(|_| quota.take(1000, Resource::Job).unwrap()).collect();
        let error = quota.take(1000, Resource::Job).unwrap_err();
        assert_eq!(error.name(), ErrorName::LimitsExceeded);
        assert!(quota.take(1001, Resource::Job).is_ok());
        assert!(quota.take(1000, Resource::Call).is_ok());
        taken.pop();
        drop(quota.take(1000, Resource::Job).unwrap());
        let root: Vec<Permit> = (0..300).map(|_| quota.take(0, Resource::Job).unwrap()).collect();
        assert!(quota.take(1002, Resource::Job).is_ok());
        drop((taken, root));
        assert!(quota.is_unused());
    }

    #[test]
    fn all_users_together_have_a_limit() {
        let quota = Arc::new(Quota::default());
        let taken: Vec<Permit> =
            (0..64).map(|user| quota.take(1000 + user / 8, Resource::Job).unwrap()).collect();
        assert!(quota.take(2000, Resource::Job).is_err());
        assert!(quota.take(0, Resource::Job).is_ok());
        drop(taken);
        assert!(quota.take(2000, Resource::Job).is_ok());
    }
}
