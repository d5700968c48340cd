//! The content of the tables that belongs to one machine: its link and its extra links. Called by `firewall`.

mod dnat;
mod link;
mod policy_elements;

use super::bridge;
use super::extra_links::Extra;
use super::forwarding::Forwarding;
use super::inet::{connections, policy_chains, sets};
use super::member::Member;
use super::netlink::element::{self, Element, padded, push_all};
use super::netlink::nlmsg::{BRIDGE, Batch, INET, Operation};

/// The content of the tables that belongs to one machine.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its link.
    pub(crate) member: Option<&'a Member>,
    /// Its extra links.
    pub(crate) extras: &'a [Extra],
    /// Its ports, if it configures its addresses itself.
    pub(crate) forwarding: Option<&'a Forwarding>,
}

/// The other machines that need parts of the tables, seen from one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// Another machine has a part in the tables.
    pub any: bool,
    /// Another machine has a part in the table `bridge coracle`.
    pub zoned: bool,
    /// Another machine is in the same zone.
    pub same_zone: bool,
}

/// The set and the key that count dropped packets of a machine.
pub(super) struct DropCount {
    pub(crate) family: u8,
    pub(crate) set: &'static str,
    pub(crate) key: Vec<u8>,
    /// Whether it counts packets with a forged address.
    pub(crate) is_forged: bool,
}

impl<'a> From<&'a Member> for Part<'a> {
    fn from(member: &'a Member) -> Self {
        Self { member: Some(member), extras: &[], forwarding: None }
    }
}

impl Part<'_> {
    /// Whether the machine needs nothing in the tables.
    pub(crate) fn is_empty(&self) -> bool {
        self.member.is_none() && self.extras.is_empty() && !self.forwarding.is_some_and(Forwarding::is_active)
    }

    /// Whether it needs the table `bridge coracle`.
    pub(crate) fn is_bridged(&self) -> bool {
        self.member.is_some_and(|member| member.zone().is_some()) || self.extras.iter().any(Extra::is_port)
    }

    /// One of its interfaces, for messages.
    pub(crate) fn interface(&self) -> &str {
        let extra = self.extras.first().map_or("", Extra::name);
        self.member.map_or(extra, Member::interface)
    }

    /// Adds the machine to the tables.
    pub(super) fn create(&self, batch: &mut Batch) {
        let mut elements = self.extra_elements();
        if let Some(member) = self.member {
            policy_chains::create(batch, member);
            policy_elements::create_limits(batch, member);
            connections::create(batch, member);
            elements.extend(member_elements(member));
            if member.zone().is_some() {
                // Only the first machine of a zone adds these; later they exist.
                elements.extend(link::interface(member));
            }
        }
        push_all(batch, Operation::NewElements, elements);
    }

    /// Changes the link of the machine to another definition of the same link, in one transaction.
    pub(super) fn change(&self, other: &Member, batch: &mut Batch) {
        let Some(member) = self.member else { return };
        policy_chains::create(batch, other);
        let before = changeable_elements(member);
        let after = changeable_elements(other);
        // A limit with another rate is another object with the same name.
        let same_limits = policy_elements::limits(member) == policy_elements::limits(other);
        let stays = |element: &Element, others: &[Element]| {
            others.contains(element) && (same_limits || element.object.is_none())
        };
        let deleted = before.iter().filter(|element| !stays(element, &after)).cloned().collect();
        let new = after.iter().filter(|element| !stays(element, &before)).cloned().collect();
        push_all(batch, Operation::DeleteElements, deleted);
        if !same_limits {
            policy_elements::delete_limits(batch, member);
            policy_elements::create_limits(batch, other);
        }
        push_all(batch, Operation::NewElements, new);
        if member.policy().connections != other.policy().connections {
            push_all(batch, Operation::DeleteElements, connections::elements(member, self.extras));
            connections::delete(batch, member);
            connections::create(batch, other);
            push_all(batch, Operation::NewElements, connections::elements(other, self.extras));
        }
    }

    /// Deletes the machine from the tables.
    pub(super) fn delete(&self, batch: &mut Batch, others: Others) {
        push_all(batch, Operation::DeleteElements, self.own_elements(others));
        if let Some(member) = self.member.filter(|member| member.zone().is_none() || others.zoned) {
            policy_elements::delete_limits(batch, member);
        }
        if let Some(member) = self.member {
            connections::delete(batch, member);
        }
    }

    /// Returns transactions that delete one object of the machine each.
    pub(super) fn delete_each(&self, others: Others) -> Vec<Batch> {
        let single = |element: Element| {
            let mut batch = Batch::new();
            element::push(&mut batch, Operation::DeleteElements, &[element]);
            batch
        };
        let elements = self.own_elements(others).into_iter().map(single);
        let limits = self.member.iter().flat_map(|member| policy_elements::delete_each_limit(member));
        let chains = self.member.iter().flat_map(|member| connections::delete_each(member));
        elements.chain(limits).chain(chains).collect()
    }

    /// The elements that no other machine needs.
    pub(super) fn own_elements(&self, others: Others) -> Vec<Element> {
        let mut elements = self.extra_elements();
        if let Some(member) = self.member {
            elements.extend(member_elements(member));
            if member.zone().is_some() && !others.same_zone {
                elements.extend(link::interface(member));
            }
        }
        elements.retain(|element| others.zoned || element.family != BRIDGE);
        elements
    }

    /// The elements of extra links and of forwarded ports, and those that jump to the chain of the machine's connections.
    fn extra_elements(&self) -> Vec<Element> {
        let connections = self.member.map(|member| connections::elements(member, self.extras));
        let mut elements: Vec<Element> = self.extras.iter().flat_map(link::extra).collect();
        elements.extend(connections.into_iter().flatten());
        elements.extend(self.forwarding.into_iter().flat_map(dnat::forwarded));
        elements
    }

    /// The sets that count dropped packets of the machine.
    pub(super) fn drop_counts(&self) -> Vec<DropCount> {
        let count = |family, set, key, is_forged| DropCount { family, set, key, is_forged };
        let mut counts = Vec::new();
        for extra in self.extras {
            let key = || padded(extra.name());
            if extra.is_port() {
                counts.push(count(BRIDGE, bridge::HOST_BRIDGE_PORTS, key(), true));
            } else {
                counts.push(count(INET, sets::ANTISPOOF_DROPS, key(), true));
                counts.push(count(INET, sets::EXTRA_LINK_DROPS, key(), false));
            }
        }
        let Some(member) = self.member else { return counts };
        let mac = || member.mac().octets().to_vec();
        counts.push(count(INET, sets::EGRESS_RESTRICTED, mac(), false));
        let own = padded(member.host_end());
        if member.zone().is_some() {
            counts.push(count(BRIDGE, bridge::ANTISPOOF_DROPS, own, true));
            // Packets that the host would not forward.
            counts.push(count(BRIDGE, bridge::EGRESS_RESTRICTED, mac(), false));
        } else {
            counts.push(count(INET, sets::ANTISPOOF_DROPS, own, true));
        }
        counts
    }
}

/// The elements of a machine's link.
fn member_elements(member: &Member) -> Vec<Element> {
    link::identity(member).into_iter().chain(changeable_elements(member)).collect()
}

/// The elements that change with the definition of a running machine.
fn changeable_elements(member: &Member) -> Vec<Element> {
    let translations = dnat::published(member).into_iter().chain(dnat::dns_redirect(member));
    translations.chain(policy_elements::elements(member)).collect()
}
