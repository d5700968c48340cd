//! The host's name servers, as far as machines can reach them (resolv.conf(5)). Called by `run` before a
//! machine is created, and by `control` when they change. It changes nothing.

use super::listeners;
use crate::paths::Paths;
use std::net::{IpAddr, Ipv4Addr};

/// The content of a machine's `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// Name servers, the first preferred.
    pub(crate) servers: Vec<IpAddr>,
    /// Search domains.
    pub(crate) search: Vec<String>,
    /// Options, for example `edns0`.
    pub(crate) options: Vec<String>,
    /// The address of a resolver of the host at its loopback interface, if the host has no other server:
    /// machines reach it at their gateway's address.
    pub(crate) at_loopback: Option<Ipv4Addr>,
}

/// The upstream servers of systemd-resolved, below the directory of systemd.
const STUB_SERVERS: &str = "resolve/resolv.conf";
/// The first line of a file created by Coracle.
pub(crate) const MARK: &str = "# The host's, from coracle, renewed as they change; ";
/// The greatest number of servers used by a resolver (MAXNS).
const MOST: usize = 3;

/// Stub listeners of systemd-resolved, reachable on the loopback interface only; their upstream servers are
/// in another file.
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// Returns whether the stub of systemd-resolved listens.
pub(crate) fn stub_listens(paths: &Paths) -> bool {
    listeners::has_udp(paths, STUBS[0].into(), 53)
}

/// Returns the host's name servers. `None` if no file has a server reachable from machines.
pub(crate) fn find(paths: &Paths) -> Option<Resolver> {
    let all: Vec<Resolver> = texts(paths).map(|text| parse(&text)).collect();
    let direct = all.iter().find(|resolver| !resolver.servers.is_empty());
    direct.or_else(|| all.iter().find(|resolver| resolver.at_loopback.is_some())).cloned()
}

/// Returns the name servers in the host's files as written, reachable from machines or not. The stub of
/// systemd-resolved is left out if the file with its servers exists.
pub(crate) fn listed(paths: &Paths) -> Vec<String> {
    let has_servers = paths.systemd(STUB_SERVERS).exists();
    let is_stub = |word: &str| word.parse().is_ok_and(|address| STUBS.contains(&address));
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let word = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        (!(has_servers && is_stub(word))).then(|| word.chars().filter(|char| !char.is_control()).collect())
    };
    texts(paths).flat_map(|text| text.lines().filter_map(server).collect::<Vec<String>>()).collect()
}

/// Returns the texts of the files in the order of reading: programs listening at a loopback address keep
/// their upstream servers in a file of their own.
fn texts(paths: &Paths) -> impl Iterator<Item = String> + use<> {
    let files = [
        paths.join("/etc/resolv.conf"),
        paths.systemd(STUB_SERVERS),
        paths.join("/run/NetworkManager/no-stub-resolv.conf"),
    ];
    files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok())
}

impl Resolver {
    /// Returns the resolver as seen by a machine with this gateway.
    #[must_use]
    pub(crate) fn behind(mut self, gateway: Option<Ipv4Addr>) -> Self {
        if self.at_loopback.is_some() {
            self.servers = gateway.into_iter().map(IpAddr::V4).collect();
        }
        self
    }

    /// Returns the drop-in for the guest's systemd-resolved. The guest's own servers take precedence.
    pub(crate) fn drop_in(&self) -> String {
        let list = |key: &str, words: Vec<String>| match words.is_empty() {
            true => String::new(),
            false => format!("{key}={}\n", words.join(" ")),
        };
        let servers = list("FallbackDNS", self.servers.iter().map(ToString::to_string).collect());
        let search = list("Domains", self.search.clone());
        format!("{MARK}network.resolv-conf = \"off\" leaves it out.\n[Resolve]\n{servers}{search}")
    }
}

/// Parses resolv.conf(5), without servers valid for the host only: loopback and link-local addresses.
fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                if let Some(IpAddr::V4(own)) = server
                    && own.is_loopback()
                    && !STUBS.contains(&own)
                {
                    resolver.at_loopback.get_or_insert(own);
                }
                resolver.servers.extend(server.filter(is_reachable));
            }
            Some("search" | "domain") => resolver.search = words.filter(is_plain).map(Into::into).collect(),
            Some("options") => resolver.options.extend(words.filter(is_plain).map(String::from)),
            _ => {}
        }
    }
    resolver.servers.truncate(MOST);
    if !resolver.servers.is_empty() {
        resolver.at_loopback = None;
    }
    resolver.search.retain(|domain| domain != ".");
    // The option tells the host to trust its own stub; a machine's queries cross a network.
    resolver.options.retain(|option| option != "trust-ad");
    resolver
}

fn is_reachable(server: &IpAddr) -> bool {
    let alone = server.is_loopback() || server.is_unspecified() || server.is_multicast();
    let link_local = match server {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !alone && !link_local
}

fn is_plain(word: &&str) -> bool {
    word.len() < 256 && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b';')
}

/// The content of the file for a machine.
impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{MARK}network.resolv-conf = \"off\" keeps your own.")?;
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        for (word, list) in [("search", &self.search), ("options", &self.options)] {
            if !list.is_empty() {
                writeln!(f, "{word} {}", list.join(" "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)]) -> Option<Resolver> {
        find(&Paths::below(below(files).path()))
    }

    const STUB: (&str, &str) =
        ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n");

    #[test]
    fn loopback_resolvers_are_skipped() {
        let uplink = ("run/systemd/resolve/resolv.conf", "# x\nnameserver 192.0.2.53\nsearch lan\n");
        let resolver = found(&[STUB, uplink]).unwrap();
        assert_eq!(resolver.servers, ["192.0.2.53".parse::<IpAddr>().unwrap()]);
        assert!(resolver.to_string().ends_with("nameserver 192.0.2.53\nsearch lan\n"), "{resolver}");
        assert_eq!(found(&[STUB]), None);
        assert_eq!(found(&[]), None);
        let manager = ("run/NetworkManager/no-stub-resolv.conf", "nameserver 2001:db8::53\n");
        let local = ("etc/resolv.conf", "nameserver ::1\nnameserver fe80::1\nnameserver 0.0.0.0\n");
        assert_eq!(found(&[local, manager]).unwrap().servers.len(), 1);
    }

    #[test]
    fn a_resolver_at_loopback_is_reached_at_the_gateway() {
        let own = ("etc/resolv.conf", "nameserver ::1\nnameserver 127.0.0.1\nsearch lan\n");
        let resolver = found(&[own]).unwrap();
        assert_eq!((resolver.servers.len(), resolver.at_loopback), (0, Some(Ipv4Addr::LOCALHOST)));
        let seen = resolver.behind(Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(seen.to_string().ends_with("nameserver 10.0.0.1\nsearch lan\n"), "{seen}");
        assert!(
            seen.drop_in().ends_with("[Resolve]\nFallbackDNS=10.0.0.1\nDomains=lan\n"),
            "{}",
            seen.drop_in()
        );
        let behind = ("run/NetworkManager/no-stub-resolv.conf", "nameserver 192.0.2.1\n");
        assert_eq!(found(&[own, behind]).unwrap().at_loopback, None);
    }

    #[test]
    fn unreachable_name_servers_are_listed() {
        let listed = |files: &[(&str, &str)]| {
            let root = below(files);
            assert_eq!(find(&Paths::below(root.path())), None);
            listed(&Paths::below(root.path()))
        };
        let own = ("etc/resolv.conf", "nameserver ::1\nnameserver fe80::1%eth0\nnameserver\noptions x\n");
        assert_eq!(listed(&[own]), ["::1", "fe80::1%eth0"]);
        assert_eq!(listed(&[STUB]), ["127.0.0.53"]);
        assert!(listed(&[STUB, ("run/systemd/resolve/resolv.conf", "# none\n")]).is_empty());
        assert!(listed(&[]).is_empty());
    }

    #[test]
    fn the_first_file_wins_and_invalid_lines_are_ignored() {
        let text = "nameserver\nnameserver x\nnameserver 192.0.2.1 y\nnameserver 127.0.0.1\n\u{7f}\nsearch a #b c\n\
                    options ndots:2\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let resolver = found(&[("etc/resolv.conf", text)]).unwrap();
        assert_eq!(resolver.servers.len(), 3);
        assert_eq!(
            (resolver.search, resolver.options),
            (vec!["a".into(), "c".into()], vec!["ndots:2".into()])
        );
    }
}
