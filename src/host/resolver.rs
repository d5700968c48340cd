//! The host's name servers, as far as machines can reach them (resolv.conf(5)). Called by `run`,
//! which looks them up before anything is made, and by `control` when they change. It changes nothing.

use crate::paths::Paths;
use std::net::IpAddr;

/// What a machine's `/etc/resolv.conf` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// Name servers, the first preferred.
    pub servers: Vec<IpAddr>,
    /// Domains that are searched.
    pub search: Vec<String>,
    /// Options, as `edns0`.
    pub options: Vec<String>,
}

/// What is read, in this order: programs that listen at a loopback address keep the servers they
/// ask themselves in a file of their own.
const FILES: [&str; 3] =
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];
/// How a file begins that is ours.
pub const MARK: &str = "# The host's, from coracle, renewed as they change; ";
/// More than this a resolver does not ask (MAXNS).
const MOST: usize = 3;

/// The host's name servers; none where no file has one that a machine can reach.
pub fn find(paths: &Paths) -> Option<Resolver> {
    let found = FILES.iter().filter_map(|file| std::fs::read_to_string(paths.join(file)).ok());
    found.map(|text| parse(&text)).find(|resolver| !resolver.servers.is_empty())
}

/// Reads resolv.conf(5), less what means the host alone: loopback and link-local addresses.
fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse().ok());
                resolver.servers.extend(server.filter(is_reachable));
            }
            Some("search" | "domain") => resolver.search = words.filter(is_plain).map(Into::into).collect(),
            Some("options") => resolver.options.extend(words.filter(is_plain).map(String::from)),
            _ => {}
        }
    }
    resolver.servers.truncate(MOST);
    resolver.search.retain(|domain| domain != ".");
    // It tells the host to believe its own stub; a machine asks over a wire.
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

/// The file of a machine.
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

    fn found(files: &[(&str, &str)]) -> Option<Resolver> {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        find(&Paths::below(root.path()))
    }

    const STUB: (&str, &str) =
        ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n");

    #[test]
    fn loopback_resolvers_are_passed_by() {
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
    fn the_hosts_own_file_comes_first_and_rubbish_is_left_out() {
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
