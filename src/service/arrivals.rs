//! The limit of calls before their users are known. Only the bus knows the user of a call, and its reply stands
//! behind all messages of a flood; until it arrives, the calls of a connection count by its name. Used by `calls`.

use super::lock;
use crate::error::{Error, ErrorName, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The greatest number of such calls of a connection: as many as its user may have.
const OF_CONNECTION: usize = 16;
/// The greatest number of all such calls, of 512 KiB each at most.
const ALL: usize = 512;

/// The numbers of calls, by the unique names of the connections.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<HashMap<String, usize>>);

/// A call whose user is not known yet; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Arrival {
    arrivals: Arc<Arrivals>,
    sender: String,
}

impl Arrivals {
    /// Counts a call.
    ///
    /// # Errors
    /// The connection, or all connections together, have too many.
    pub(super) fn take(self: &Arc<Self>, sender: &str) -> Result<Arrival> {
        let mut counts = lock(&self.0);
        let own = counts.get(sender).copied().unwrap_or(0);
        if own >= OF_CONNECTION || counts.values().sum::<usize>() >= ALL {
            return Err(Error::new("too many calls at once")
                .named(ErrorName::LimitsExceeded)
                .with_hint("wait for the end of others"));
        }
        counts.insert(sender.to_owned(), own + 1);
        Ok(Arrival { arrivals: Arc::clone(self), sender: sender.to_owned() })
    }

    /// Returns whether there is no such call.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut counts = lock(&self.arrivals.0);
        match counts.get_mut(&self.sender) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&self.sender);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_have_limits_before_their_users_are_known() {
        let arrivals = Arc::new(Arrivals::default());
        let mut taken: Vec<Arrival> = (0..OF_CONNECTION).map(|_| arrivals.take(":1.7").unwrap()).collect();
        let error = arrivals.take(":1.7").unwrap_err();
        assert_eq!(error.name(), ErrorName::LimitsExceeded);
        assert!(arrivals.take(":1.8").is_ok());
        taken.pop();
        taken.push(arrivals.take(":1.7").unwrap());
        taken.extend((OF_CONNECTION..ALL).map(|number| arrivals.take(&format!(":2.{number}")).unwrap()));
        assert!(arrivals.take(":1.8").is_err());
        drop(taken);
        assert!(arrivals.is_empty());
    }
}
