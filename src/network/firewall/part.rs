//! The part of one machine in the tables: its link and the interfaces beside it. Called by the file above.

use super::connections;
use super::element;
use super::element::{Element, padded, push_all};
use super::extras::Extra;
use super::member::{Member, Others};
use super::message::{BRIDGE, Batch, Kind};
use super::{bridge, inet, message};

/// What the tables have of one machine.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its link.
    pub member: Option<&'a Member>,
    /// The interfaces beside it.
    pub extras: &'a [Extra],
}

impl<'a> From<&'a Member> for Part<'a> {
    fn from(member: &'a Member) -> Self {
        Self { member: Some(member), extras: &[] }
    }
}

impl Part<'_> {
    /// Whether it has nothing in the tables.
    pub fn is_empty(&self) -> bool {
        self.member.is_none() && self.extras.is_empty()
    }

    /// Whether it needs the table of bridges.
    pub fn is_bridged(&self) -> bool {
        self.member.is_some_and(|member| member.zone().is_some()) || self.extras.iter().any(Extra::is_port)
    }

    /// An interface of it, for messages.
    pub fn interface(&self) -> &str {
        let extra = self.extras.first().map_or("", Extra::name);
        self.member.map_or(extra, Member::interface)
    }

    /// Comes into the tables.
    pub(super) fn enter(&self, batch: &mut Batch) {
        if let Some(member) = self.member {
            member.enter(batch);
            connections::create(batch, member);
        }
        let extras = self.extras.iter().flat_map(Extra::elements);
        push_all(batch, Kind::NewElements, extras.chain(self.connections()).collect());
    }

    /// The elements that go with it; those that others need stay.
    pub(super) fn going(&self, others: Others) -> Vec<Element> {
        let extras = self.extras.iter().flat_map(Extra::elements);
        let mut elements: Vec<Element> = extras.filter(|one| others.zoned || one.family != BRIDGE).collect();
        elements.extend(self.member.iter().flat_map(|member| member.going(others)));
        elements.extend(self.connections());
        elements
    }

    /// The elements that lead to the counts of its connections.
    fn connections(&self) -> Vec<Element> {
        self.member.map(|member| connections::elements(member, self.extras)).unwrap_or_default()
    }

    /// Goes out of the tables.
    pub(super) fn leave(&self, batch: &mut Batch, others: Others) {
        push_all(batch, Kind::DeleteElements, self.going(others));
        if let Some(member) = self.member.filter(|member| member.zone().is_none() || others.zoned) {
            member.drop_limits(batch);
        }
        if let Some(member) = self.member {
            connections::delete(batch, member);
        }
    }

    /// The sets that count its dropped packets: family, set, the key there, whether they are forged.
    pub(super) fn counted(&self) -> Vec<(u8, &'static str, Vec<u8>, bool)> {
        let mut counted = Vec::new();
        for extra in self.extras {
            let key = || padded(extra.name());
            if extra.is_port() {
                counted.push((BRIDGE, bridge::GUESTS, key(), true));
            } else {
                counted.push((message::INET, inet::FORGED, key(), true));
                counted.push((message::INET, inet::REFUSED, key(), false));
            }
        }
        let Some(member) = self.member else { return counted };
        // In a zone it is known by its port.
        let (family, forged) = match member.zone() {
            Some(_) => (BRIDGE, bridge::FORGED),
            None => (message::INET, inet::FORGED),
        };
        counted.push((family, forged, padded(member.own_interface()), true));
        counted.push((message::INET, inet::CONFINED, member.mac().to_vec(), false));
        if member.zone().is_some() {
            // Packets that no router would forward.
            counted.push((BRIDGE, inet::CONFINED, member.mac().to_vec(), false));
        }
        counted
    }

    /// What removes it piece by piece.
    pub(super) fn pieces(&self, others: Others) -> Vec<Batch> {
        let alone = |element: Element| {
            let mut batch = Batch::new();
            element::push(&mut batch, Kind::DeleteElements, &[element]);
            batch
        };
        let elements = self.going(others).into_iter().map(alone);
        let limits = self.member.iter().flat_map(|member| member.drop_each_limit());
        let counts = self.member.iter().flat_map(|member| connections::delete_each(member));
        elements.chain(limits).chain(counts).collect()
    }
}
