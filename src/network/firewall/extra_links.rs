//! The hosts' ends of interfaces beside a machine's link. Called by the supervisor, which records them, and
//! by `part`.

use serde::{Deserialize, Serialize};

/// The host's end of an interface beside a machine's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extra {
    /// Its name.
    name: String,
    /// The receiver of its packets.
    kind: ExtraKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ExtraKind {
    /// The host.
    Link,
    /// A bridge of the host.
    Port,
}

impl Extra {
    /// A pair to the host.
    pub(crate) fn link(name: &str) -> Self {
        Self { name: name.to_owned(), kind: ExtraKind::Link }
    }

    /// A port of a bridge of the host.
    pub(crate) fn port(name: &str) -> Self {
        Self { name: name.to_owned(), kind: ExtraKind::Port }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The input interface of its packets on the host. `None` if that is a bridge of the host.
    pub(super) fn interface(&self) -> Option<&str> {
        (self.kind == ExtraKind::Link).then_some(&self.name)
    }

    /// Whether it needs the table `bridge coracle`.
    pub(super) fn is_port(&self) -> bool {
        self.kind == ExtraKind::Port
    }
}
