//! Connects the machine to its network. Called by `launch`.

use super::{Launch, namespace};
use crate::error::{Context, Error, Result};
use crate::machine::network::Addresses;
use crate::network::addresses::LinkPlan;
use crate::network::firewall::Forwarding;
use crate::network::resolved::PendingSettings;
use crate::network::{guest_addresses, networkd, veth, zone};
use crate::state::record::Record;
use crate::supervisor::cleanup;
use crate::supervisor::handover::FdName;
use crate::supervisor::network::hosts_file::{self, ZoneChange};
use crate::supervisor::network::{dhcp, firewall, forwarding, interfaces};
use crate::sys::process::Child;
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// Joins a network namespace. Returns the previous one.
pub(super) fn enter(path: &std::path::Path) -> Result<OwnedFd> {
    let own = namespace("net")?;
    let joining = || format!("cannot join the network namespace '{}'", path.display());
    let there = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(joining)?;
    setns(&there, CloneFlags::CLONE_NEWNET).context(joining).map_err(|error| {
        error.with_hint("name a file of a network namespace, as 'ip netns add' makes it in /run/netns")
    })?;
    Ok(own)
}

/// Opens the network namespace of a child.
pub(super) fn open_of(child: &Child) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/net", child.pid.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{path}'"))
}

/// Returns whether a machine had the addresses of a plan at the boot before.
fn has_addresses(before: &Record, plan: &LinkPlan) -> bool {
    let own = (plan.ipv4.guest, plan.ipv6.guest);
    before.firewall.as_ref().is_none_or(|member| member.addresses() == own)
}

impl Launch<'_> {
    /// Creates the hosts(5) file bound over the guest's, with the guest's content.
    pub(super) fn create_hosts(&self) -> Result<()> {
        let Some(hosts) = &self.request.hosts else { return Ok(()) };
        let Some(text) = &hosts.bound else { return Ok(()) };
        let file = hosts.file.path();
        std::fs::write(&file, text).context(|| format!("cannot write '{}'", file.display()))?;
        let owner = Some(self.owner());
        std::os::unix::fs::chown(&file, owner, owner)
            .context(|| format!("cannot give '{}' to the machine", file.display()))
    }

    pub(super) fn link(&mut self) -> Result<()> {
        let (Some(plan), Some(network)) = (&self.link, self.fds.get(FdName::Network)) else { return Ok(()) };
        if let Some(before) = self.request.kept.as_ref().map(|kept| &kept.state.record)
            && (before.zone != plan.zone || !has_addresses(before, plan))
        {
            // The definition has another zone, or other static addresses now.
            cleanup::leave_network(self.request.paths, before);
        }
        // Before the link: the firewall filters each packet of the machine from the first one on.
        firewall::join(self.request.paths, &mut self.record)?;
        if self.request.kept.is_some() {
            firewall::apply_definition(self.request.paths, &mut self.record, &self.request.machine.network);
        }
        // Held until the machine is a member of the zone: a machine that leaves earlier would delete the
        // bridge.
        let _held = plan.zone.as_ref().map(|_| zone::lock(self.request.paths)).transpose()?;
        let bus = self.bus()?;
        let (link, addresses, settings) = bus.block_on(async {
            let link = match &self.old_network {
                Some(old) => veth::move_peer(plan, old.as_fd(), network.as_fd()).await?,
                None => {
                    networkd::announce(self.request.paths, plan).await?;
                    veth::Link::create(plan, network.as_fd()).await?
                }
            };
            let settings = PendingSettings::disable_multicast_names(bus.connection(), link.router_ifindex);
            let addresses = veth::configure_guest(plan, network.as_fd()).await?;
            Ok::<_, Error>((link, addresses, settings))
        })?;
        if let Some(member) = self.record.firewall.as_ref().filter(|member| !member.ports().is_empty()) {
            firewall::enable_loopback_ports(member);
        }
        self.record.firewall.as_ref().into_iter().for_each(firewall::allow_resolver_replies);
        // The host's networkd is the DHCP server of a link that it manages.
        if networkd::host_file(self.request.paths, &plan.machine).exists() {
            self.request.lease = None;
        }
        if let Some(lease) = &self.request.lease {
            let socket = dhcp::open(lease, link.router_ifindex)
                .inspect_err(|error| log::warn!("{error}; the machine has no DHCP server"));
            self.fds.insert(FdName::Dhcp, socket.ok());
        }
        self.settings = Some(settings);
        self.record.host_ifindex = Some(link.ifindex);
        self.record.host_addresses = link.addresses;
        self.record.addresses = addresses;
        self.record.write(self.request.paths)?;
        match &plan.zone {
            Some(zone) => hosts_file::update_zone(self.request.paths, zone, &self.record, ZoneChange::Joins),
            None => hosts_file::write_own(&self.record),
        }
        Ok(())
    }

    /// Waits until the host's resolved has the settings of the link: before the payload can use the link.
    pub(super) fn await_settings(&mut self) {
        if let Some((settings, bus)) = self.settings.take().zip(self.bus.get()) {
            bus.block_on(settings.confirmed());
        }
    }

    /// Sets the ports that are forwarded to the addresses that the guest configures, and watches for these.
    pub(super) fn watch_addresses(&mut self) -> Result<()> {
        let network = &self.request.machine.network;
        let is_plain = network.addresses == Addresses::None;
        let defined = is_plain.then(|| Forwarding::new(&network.ports)).flatten();
        if self.request.kept.is_some() && self.record.forwarding != defined {
            forwarding::begin_boot(self.request.paths, &mut self.record, defined)?;
        }
        // Opened when the payload was cloned: it may have exited already.
        if self.record.forwarding.is_some()
            && let Some(network) = self.fds.get(FdName::Network)
        {
            let socket = guest_addresses::subscribe(network.as_fd())?;
            self.fds.insert(FdName::Addresses, socket);
        }
        Ok(())
    }

    pub(super) fn connect_interfaces(&mut self) -> Result<()> {
        let Some(network) = self.fds.get(FdName::Network) else { return Ok(()) };
        if self.link.is_none() {
            firewall::join(self.request.paths, &mut self.record)?;
        }
        self.bus()?;
        let Some(bus) = self.bus.get() else { return Ok(()) };
        interfaces::connect(bus, self.request.paths, &mut self.record, network.as_fd())
    }
}
