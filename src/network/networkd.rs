//! systemd-networkd, on the host and in the guest. If the host's networkd manages `ve-*` links, it removes
//! addresses missing in its configuration: so Coracle writes a configuration for the link. Called by the
//! supervisor before the link is created; the returned path is written to the state record, and `cleanup`
//! deletes the file.

use super::addresses::{GUEST_INTERFACE, IPV6_LENGTH, LinkPlan};
use crate::error::{Context, Result};
use crate::host::systemd::bus;
use crate::machine::name::Name;
use crate::machine::network::Network;
use crate::paths::Paths;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zbus::proxy;

/// The configuration directories of networkd; the first file of a name wins (systemd.network(5)).
const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];

#[proxy(
    interface = "org.freedesktop.network1.Manager",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1"
)]
trait NetworkdManager {
    #[zbus(no_autostart)]
    fn reload(&self) -> zbus::Result<()>;
}

/// Whether the guest requests an address by DHCP, beside the configured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dhcp {
    /// The host's networkd is the DHCP server.
    Served,
    /// There is no DHCP server.
    Absent,
}

/// Writes the configuration of a machine's link for the host's networkd, if networkd runs and would manage
/// the link. Returns the written file. `None` if networkd does not manage the link.
///
/// # Errors
/// The file cannot be written.
pub(crate) async fn announce(paths: &Paths, plan: &LinkPlan) -> Result<Option<PathBuf>> {
    let interface = plan.router_interface();
    let kind = if plan.zone.is_some() { "bridge" } else { "veth" };
    if !is_active(paths)
        || !is_matched(paths, &interface, kind)
        || !bus::has_owner("org.freedesktop.network1").await
    {
        return Ok(None);
    }
    if let Some(zone) = &plan.zone {
        let file = crate::network::zone::network_file(paths, zone);
        if !file.exists() {
            crate::network::zone::announce(paths, plan, zone)?;
            reload().await;
        }
        return Ok(Some(file));
    }
    let file = host_file(paths, &plan.machine);
    let writing = || format!("cannot write '{}'", file.display());
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).context(writing)?;
    }
    std::fs::write(&file, host_network_file(plan)).context(writing)?;
    reload().await;
    Ok(Some(file))
}

/// Reloads the configuration of the host's networkd, after a file was written or removed. Does nothing unless
/// networkd runs.
pub(crate) async fn reload() {
    if let Err(error) = try_reload().await {
        log::warn!("cannot reload the configuration of networkd: {error}, ignoring");
    }
}

/// Returns the configuration for the guest's networkd, a file in its `/run/systemd/network`
/// (`plan::api_file_systems`): the addresses that `host0` already has.
pub(crate) fn guest_network_file(plan: &LinkPlan, dhcp: Dhcp) -> String {
    let dhcp = if dhcp == Dhcp::Served { "DHCP=yes\n" } else { "" };
    let LinkPlan { ipv4, ipv4_length, ipv6, .. } = plan;
    if !plan.has_ipv6 {
        return format!(
            "[Match]\nName={GUEST_INTERFACE}\nVirtualization=container\n\n\
             [Network]\nAddress={}/{ipv4_length}\nGateway={}\n{dhcp}\
             LinkLocalAddressing=no\nLLDP=yes\nEmitLLDP=customer-bridge\nIPv6AcceptRA=no\n",
            ipv4.guest, ipv4.host,
        );
    }
    format!(
        "[Match]\nName={GUEST_INTERFACE}\nVirtualization=container\n\n\
         [Network]\nAddress={}/{ipv4_length}\nGateway={}\n{dhcp}\
         LinkLocalAddressing=ipv6\nLLDP=yes\nEmitLLDP=customer-bridge\nIPv6AcceptRA=no\n\n\
         [Address]\nAddress={}/{IPV6_LENGTH}\nDuplicateAddressDetection=none\n\n\
         [Route]\nGateway={}\n",
        ipv4.guest, ipv4.host, ipv6.guest, ipv6.host,
    )
}

/// Returns the configuration for the guest's networkd of an interface with static addresses: those that it
/// already has.
pub(crate) fn guest_interface_file(interface: &str, network: &Network) -> String {
    let lines = |key: &str, values: Vec<String>| -> String {
        values.iter().map(|value| format!("{key}={value}\n")).collect()
    };
    format!(
        "[Match]\nName={interface}\nVirtualization=container\n\n\
         [Network]\n{}{}LLDP=yes\nEmitLLDP=customer-bridge\n",
        lines("Address", network.address.iter().map(ToString::to_string).collect()),
        lines("Gateway", network.gateway.iter().map(ToString::to_string).collect()),
    )
}

/// Returns the path of the configuration of a machine's link for the host's networkd.
pub(crate) fn host_file(paths: &Paths, machine: &Name) -> PathBuf {
    paths.systemd("network").join(format!("75-coracle-{machine}.network"))
}

/// Returns the configuration of a machine's link for the host's networkd: that of systemd's
/// `80-container-ve.network`, with the addresses of Coracle instead of an address pool. Its DHCP server
/// offers exactly the guest's address, and the prefix leads to the guest's IPv6 address. The link is not
/// required for the host to be online, so that a slow guest does not delay the host's boot.
fn host_network_file(plan: &LinkPlan) -> String {
    format!(
        "# Created by coracle for machine '{}', deleted when it stops.\n\
         [Match]\nKind=veth\nName={}\n\n\
         [Link]\nRequiredForOnline=no\n\n\
         [Network]\nAddress={}/{}\nLinkLocalAddressing=ipv6\nDHCPServer=yes\nIPMasquerade=both\n\
         LLMNR=no\nMulticastDNS=no\nLLDP=yes\nEmitLLDP=customer-bridge\nIPv6AcceptRA=no\nIPv6SendRA=yes\n\n\
         [Address]\nAddress={}/{IPV6_LENGTH}\nDuplicateAddressDetection=none\n\n\
         [IPv6Prefix]\nPrefix={}/{IPV6_LENGTH}\n",
        plan.machine,
        plan.host_interface,
        plan.ipv4.host,
        plan.ipv4_length,
        plan.ipv6.host,
        plan.ipv6_prefix(),
    )
}

/// Implements [`reload`], with its error.
async fn try_reload() -> Result<()> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let manager = NetworkdManagerProxy::new(&connection).await.map_err(bus::failure)?;
    manager.reload().await.map_err(bus::failure)
}

/// Returns whether networkd may be active. systemd links the invocation of each active unit, for journald.
fn is_active(paths: &Paths) -> bool {
    let units = paths.systemd("units");
    let is_linked = || units.join("invocation:systemd-networkd.service").is_symlink();
    paths.systemd("netif").is_dir() && (!units.is_dir() || is_linked())
}

/// Returns whether the configuration file that matches a link of this name manages the link.
fn is_matched(paths: &Paths, interface: &str, kind: &str) -> bool {
    let mut files = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = std::fs::read_dir(paths.join(directory).join("systemd/network"));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "network") {
                files.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    files.values().find_map(|file| manages(file, interface, kind)).unwrap_or(false)
}

/// Returns whether a file manages a link of this name and kind. `None` if the file does not match the link.
/// An unknown condition counts as met: a superfluous configuration costs nothing, a missing one costs the
/// link its addresses.
fn manages(file: &Path, interface: &str, kind: &str) -> Option<bool> {
    // An empty file, such as a link to /dev/null, masks files of the same name in other directories.
    let text = std::fs::read_to_string(file).ok().filter(|text| !text.trim().is_empty())?;
    let mut section = String::new();
    let mut managed = true;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        let met = match (section.as_str(), key) {
            ("Match", "Name") => any(value, interface),
            ("Match", "Kind" | "Driver") => any(value, kind),
            ("Match", "Type") => any(value, "ether"),
            ("Link", "Unmanaged") => {
                managed = !matches!(value, "yes" | "true" | "on" | "1");
                true
            }
            _ => true,
        };
        if !met {
            return None;
        }
    }
    Some(managed)
}

/// Returns whether a pattern of the list matches; a list that begins with `!` is negated.
fn any(patterns: &str, text: &str) -> bool {
    let (patterns, negated) = patterns.strip_prefix('!').map_or((patterns, false), |rest| (rest, true));
    patterns.split_whitespace().any(|pattern| glob(pattern.as_bytes(), text.as_bytes())) != negated
}

/// Implements fnmatch(3) with `*` and `?`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'*', after)), rest) => glob(after, text) || rest.is_some_and(|(_, tail)| glob(pattern, tail)),
        (Some((b'?', after)), Some((_, tail))) => glob(after, tail),
        (Some((one, after)), Some((is, tail))) => one == is && glob(after, tail),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::id128::Id128;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let paths = Paths::below(root.path());
        (root, paths)
    }

    const SYSTEMD: (&str, &str) =
        ("usr/lib/systemd/network/80-container-ve.network", "[Match]\nKind=veth\nName=ve-*\n[Network]\n");

    #[test]
    fn the_first_file_wins() {
        for (files, expected) in [
            (vec![], false),
            (vec![SYSTEMD], true),
            (vec![SYSTEMD, ("etc/systemd/network/80-container-ve.network", "")], false),
            (vec![SYSTEMD, ("etc/systemd/network/10-a.network", "[Match]\nName=eth* en*\n")], true),
            (
                vec![
                    SYSTEMD,
                    ("etc/systemd/network/10-a.network", "[Match]\nName=!eth*\n[Link]\nUnmanaged=yes\n"),
                ],
                false,
            ),
            (vec![("etc/systemd/network/10-a.network", "[Match]\nType=wlan\n")], false),
            (vec![("run/systemd/network/10-a.network", "[Match]\nName=*\n")], true),
        ] {
            let (_root, paths) = tree(&files);
            assert_eq!(is_matched(&paths, "ve-web", "veth"), expected, "{files:?}");
        }
    }

    #[test]
    fn an_inactive_networkd_has_no_invocation() {
        let (root, paths) = tree(&[("run/systemd/netif/state", "")]);
        assert!(is_active(&paths));
        let units = root.path().join("run/systemd/units");
        std::fs::create_dir(&units).unwrap();
        assert!(!is_active(&paths));
        std::os::unix::fs::symlink("6d04ea73", units.join("invocation:systemd-networkd.service")).unwrap();
        assert!(is_active(&paths));
        std::fs::remove_dir_all(root.path().join("run/systemd/netif")).unwrap();
        assert!(!is_active(&paths));
    }

    #[test]
    fn files_have_the_addresses_of_the_plan() {
        let name = Name::new("web").unwrap();
        let plan = crate::network::addresses::plan(&name, Id128::new([1; 16]), &[]).unwrap();
        let host = host_network_file(&plan);
        assert!(host.contains("Name=ve-web\n") && host.contains(&format!("Address={}/30\n", plan.ipv4.host)));
        let guest = guest_network_file(&plan, Dhcp::Absent);
        assert!(
            guest.contains(&format!("Gateway={}\n", plan.ipv4.host)) && !guest.contains("DHCP"),
            "{guest}"
        );
        assert!(guest_network_file(&plan, Dhcp::Served).contains("\nDHCP=yes\n"));
        let without = guest_network_file(&LinkPlan { has_ipv6: false, ..plan }, Dhcp::Absent);
        assert!(!without.contains("::") && without.contains("LinkLocalAddressing=no\n"), "{without}");
    }

    #[test]
    fn patterns_match_as_in_networkd() {
        assert!(any("en* ve-*", "ve-web") && !any("en*", "ve-web") && any("!en*", "ve-web"));
        assert!(glob(b"v?-*b", b"ve-web") && !glob(b"ve-", b"ve-web") && glob(b"*", b""));
    }
}
