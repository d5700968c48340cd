//! systemd-networkd, on the host and in the guest. Where the host's networkd manages `ve-*` links,
//! it takes addresses off that its configuration does not name: so it gets ours to name. Called by
//! the supervisor before the link is made; the path returned goes into the state record, by which
//! `cleanup` removes the file.

use super::addresses::{GUEST_INTERFACE, IPV4_LENGTH, IPV6_LENGTH, Plan};
use crate::error::{Context, Result};
use crate::host::systemd::bus;
use crate::machine::name::Name;
use crate::paths::Paths;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zbus::proxy;

/// Where networkd looks for its files, the first of a name wins (systemd.network(5)).
const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];

#[proxy(
    interface = "org.freedesktop.network1.Manager",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1"
)]
trait Manager {
    #[zbus(no_autostart)]
    fn reload(&self) -> zbus::Result<()>;
}

/// Whether the guest asks for an address by DHCP, beside the one we gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcp {
    /// The host's networkd serves it.
    Served,
    /// Nobody does.
    Absent,
}

/// Tells the host's networkd of a machine's link before it is made, where networkd runs and would
/// manage it. Returns the file written, or nothing where networkd has no part in it.
///
/// # Errors
/// Where the file cannot be written.
pub async fn announce(paths: &Paths, plan: &Plan) -> Result<Option<PathBuf>> {
    let interface = plan.router_interface();
    let kind = if plan.zone.is_some() { "bridge" } else { "veth" };
    if !paths.join("/run/systemd/netif").is_dir() || !is_matched(paths, &interface, kind) || !is_up().await {
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

/// Makes the host's networkd read its files again, after one was written or removed. One that does
/// not run needs no telling.
pub async fn reload() {
    if let Err(error) = try_reload().await {
        log::warn!("cannot make networkd read its files again: {error}, ignoring");
    }
}

/// What the guest's networkd, where it has one, is to know, for a file in its
/// `/run/systemd/network` (`plan::files`): the addresses that `host0` has already.
pub fn guest_network_file(plan: &Plan, dhcp: Dhcp) -> String {
    let dhcp = if dhcp == Dhcp::Served { "DHCP=yes\n" } else { "" };
    let Plan { ipv4, ipv4_length, ipv6, .. } = plan;
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

/// The file by which the host's networkd knows a machine's link.
pub fn host_file(paths: &Paths, machine: &Name) -> PathBuf {
    paths.join(format!("/run/systemd/network/75-coracle-{machine}.network"))
}

/// What the host's networkd does to a machine's link: what systemd's `80-container-ve.network`
/// does, with our addresses instead of one from its own pools. Its DHCP server then has exactly the
/// guest's address to give, and from the prefix the guest makes the one that it has. A machine that is slow to come up is no reason for the host to wait.
fn host_network_file(plan: &Plan) -> String {
    format!(
        "# Made by coracle for machine '{}', gone when it stops.\n\
         [Match]\nKind=veth\nName={}\n\n\
         [Link]\nRequiredForOnline=no\n\n\
         [Network]\nAddress={}/{IPV4_LENGTH}\nLinkLocalAddressing=ipv6\nDHCPServer=yes\nIPMasquerade=both\n\
         LLMNR=no\nMulticastDNS=no\nLLDP=yes\nEmitLLDP=customer-bridge\nIPv6AcceptRA=no\nIPv6SendRA=yes\n\n\
         [Address]\nAddress={}/{IPV6_LENGTH}\nDuplicateAddressDetection=none\n\n\
         [IPv6Prefix]\nPrefix={}/{IPV6_LENGTH}\n",
        plan.machine,
        plan.host_interface,
        plan.ipv4.host,
        plan.ipv6.host,
        plan.ipv6_prefix(),
    )
}

/// Whether networkd is on the bus.
async fn is_up() -> bool {
    let asking = async {
        let connection = bus::connect(bus::PATIENCE).await.ok()?;
        let bus = zbus::fdo::DBusProxy::new(&connection).await.ok()?;
        bus.name_has_owner("org.freedesktop.network1".try_into().ok()?).await.ok()
    };
    asking.await.unwrap_or(false)
}

/// [`reload`] with its error.
async fn try_reload() -> Result<()> {
    let connection = bus::connect(bus::PATIENCE).await?;
    let manager = ManagerProxy::new(&connection).await.map_err(bus::failure)?;
    manager.reload().await.map_err(bus::failure)
}

/// Whether the file that networkd would take for a link of this name manages it.
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

/// Whether a file manages a link of this name and kind; nothing where it does not match it. A condition that
/// we do not know counts as met: announcing a link to a networkd that leaves it alone costs nothing,
/// not announcing it costs its addresses.
fn manages(file: &Path, interface: &str, kind: &str) -> Option<bool> {
    // An empty file, as the link to /dev/null is, masks one of the same name elsewhere.
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

/// Whether one of the patterns of a list matches; a list that begins with `!` is negated.
fn any(patterns: &str, text: &str) -> bool {
    let (patterns, negated) = patterns.strip_prefix('!').map_or((patterns, false), |rest| (rest, true));
    patterns.split_whitespace().any(|pattern| glob(pattern.as_bytes(), text.as_bytes())) != negated
}

/// fnmatch(3) with `*` and `?`.
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
    fn the_file_that_comes_first_decides() {
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
    fn files_name_our_addresses() {
        let name = Name::new("web").unwrap();
        let plan = crate::network::addresses::plan(&name, &[1; 16], &[]).unwrap();
        let host = host_network_file(&plan);
        assert!(host.contains("Name=ve-web\n") && host.contains(&format!("Address={}/30\n", plan.ipv4.host)));
        let guest = guest_network_file(&plan, Dhcp::Absent);
        assert!(
            guest.contains(&format!("Gateway={}\n", plan.ipv4.host)) && !guest.contains("DHCP"),
            "{guest}"
        );
        assert!(guest_network_file(&plan, Dhcp::Served).contains("\nDHCP=yes\n"));
        let without = guest_network_file(&Plan { has_ipv6: false, ..plan }, Dhcp::Absent);
        assert!(!without.contains("::") && without.contains("LinkLocalAddressing=no\n"), "{without}");
    }

    #[test]
    fn patterns_match_as_in_networkd() {
        assert!(any("en* ve-*", "ve-web") && !any("en*", "ve-web") && any("!en*", "ve-web"));
        assert!(glob(b"v?-*b", b"ve-web") && !glob(b"ve-", b"ve-web") && glob(b"*", b""));
    }
}
