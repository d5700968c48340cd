//! Tests of the veth pair in temporary network namespaces. Skipped, with a message, unless run as root.

use super::*;
use crate::machine::id128::Id128;
use crate::machine::mac_addr::MacAddr;
use crate::machine::name::Name;
use crate::network::addresses::{AddressPrefix, Pair, plan};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::Prop;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

const ID: Id128 = Id128::new([9; 16]);

fn current_netns() -> OwnedFd {
    std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

fn enter(netns: &OwnedFd) {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Runs `body` in `netns`.
fn within<T>(netns: &OwnedFd, body: impl FnOnce() -> T) -> T {
    let own = current_netns();
    enter(netns);
    let result = body();
    enter(&own);
    result
}

fn new_netns() -> OwnedFd {
    let own = current_netns();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let netns = current_netns();
    enter(&own);
    netns
}

/// Runs a test in a thread with a network namespace that represents the host's.
fn on_a_host<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F + Send) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped {test}: needs root");
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
            runtime.unwrap().block_on(body());
        });
    });
}

fn web() -> LinkPlan {
    plan(&Name::new("web-of-many-letters").unwrap(), ID, &[]).unwrap()
}

/// Sends a datagram from one address to another, each in its namespace.
fn reaches(from: (&OwnedFd, IpAddr), to: (&OwnedFd, IpAddr)) -> bool {
    let receiver = within(to.0, || UdpSocket::bind((to.1, 0)).unwrap());
    let sender = within(from.0, || UdpSocket::bind((from.1, 0)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
    receiver.recv_from(&mut [0; 1]).is_ok_and(|(_, source)| source.ip() == from.1)
}

fn assert_connected(plan: &LinkPlan, guest: &OwnedFd) {
    let host = current_netns();
    for Pair { host: h, guest: g } in [
        Pair { host: IpAddr::V4(plan.ipv4.host), guest: IpAddr::V4(plan.ipv4.guest) },
        Pair { host: IpAddr::V6(plan.ipv6.host), guest: IpAddr::V6(plan.ipv6.guest) },
    ] {
        assert!(reaches((&host, h), (guest, g)), "{h} to {g}");
        assert!(reaches((guest, g), (&host, h)), "{g} to {h}");
    }
}

#[test]
fn both_ends_reach_each_other_and_nothing_stays_behind() {
    on_a_host("both_ends_reach_each_other_and_nothing_stays_behind", || async {
        let (plan, guest) = (web(), new_netns());
        let link = Link::create(&plan, guest.as_fd()).await.unwrap();
        assert_eq!(link.addresses, [IpAddr::V4(plan.ipv4.host), IpAddr::V6(plan.ipv6.host)]);
        let addresses = configure_guest(&plan, guest.as_fd()).await.unwrap();
        assert_eq!(addresses, [IpAddr::V4(plan.ipv4.guest), IpAddr::V6(plan.ipv6.guest)]);
        assert_connected(&plan, &guest);
        // The default route leads to the host: the destination is outside of the pair's prefixes.
        within(&guest, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("192.0.2.1:9").unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), IpAddr::V4(plan.ipv4.guest));
        });
        let handle = connect().unwrap();
        let full = link_by_index(&handle, link.ifindex).await.unwrap().unwrap();
        let altname = Prop::AltIfName("ve-web-of-many-letters".into());
        assert!(full.attributes.contains(&LinkAttribute::PropList(vec![altname])));
        remove(&plan.host_interface).await.unwrap();
        remove(&plan.host_interface).await.unwrap();
        assert!(link_by_index(&handle, link.ifindex).await.unwrap().is_none());
    });
}

#[test]
fn only_a_reboot_replaces_a_pair_and_only_its_own() {
    on_a_host("only_a_reboot_replaces_a_pair_and_only_its_own", || async {
        let (plan, old, new) = (web(), new_netns(), new_netns());
        let first = Link::create(&plan, old.as_fd()).await.unwrap();
        // systemd-nspawn creates pairs with the same name and the same addresses.
        let error = Link::create(&plan, new.as_fd()).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot create the veth pair"), "{error}");
        let second = move_peer(&plan, new.as_fd(), new.as_fd()).await.unwrap();
        assert_ne!(first.ifindex, second.ifindex);
        let foreign = LinkPlan { host_mac: MacAddr::local([2, 0, 0, 0, 0, 1]), ..plan.clone() };
        let error = move_peer(&foreign, old.as_fd(), old.as_fd()).await.unwrap_err();
        assert!(error.to_string().contains("exists and does not belong to the machine"), "{error}");
        assert!(error.hint().unwrap().contains("ip link delete"));
        configure_guest(&plan, new.as_fd()).await.unwrap();
        assert_connected(&plan, &new);
    });
}

#[test]
fn a_reboot_moves_the_peer_and_keeps_the_hosts_end() {
    on_a_host("a_reboot_moves_the_peer_and_keeps_the_hosts_end", || async {
        let (plan, old, new) = (web(), new_netns(), new_netns());
        let link = Link::create(&plan, old.as_fd()).await.unwrap();
        configure_guest(&plan, old.as_fd()).await.unwrap();
        // The guest renames its end and changes its link-layer address.
        let inside = connect_in(old.as_fd()).unwrap();
        let peer = link_by_name(&inside, GUEST_INTERFACE).await.unwrap().unwrap().header.index;
        set(&inside, LinkUnspec::new_with_index(peer).down().build(), "down").await.unwrap();
        let renamed = LinkUnspec::new_with_index(peer).name("eth0").address(vec![2, 0, 0, 0, 0, 1]).build();
        set(&inside, renamed, "rename").await.unwrap();
        let moved = move_peer(&plan, old.as_fd(), new.as_fd()).await.unwrap();
        assert_eq!(moved, link);
        configure_guest(&plan, new.as_fd()).await.unwrap();
        assert_connected(&plan, &new);
        // Once more, without an end to move.
        remove(&plan.host_interface).await.unwrap();
        let made = move_peer(&plan, new.as_fd(), old.as_fd()).await.unwrap();
        assert_ne!(made.ifindex, link.ifindex);
        configure_guest(&plan, old.as_fd()).await.unwrap();
        assert_connected(&plan, &old);
    });
}

#[test]
fn the_hosts_prefixes_are_listed_less_the_machines_own() {
    on_a_host("the_hosts_prefixes_are_listed_less_the_machines_own", || async {
        let (plan, guest) = (web(), new_netns());
        Link::create(&plan, guest.as_fd()).await.unwrap();
        let own = AddressPrefix::host(IpAddr::V4(plan.ipv4.host));
        let seen = taken_prefixes("ve-other").await.unwrap();
        assert!(seen.iter().any(|prefix| prefix.overlaps(&own)));
        let seen = taken_prefixes(&plan.host_interface).await.unwrap();
        assert!(!seen.iter().any(|prefix| prefix.overlaps(&own)), "{seen:?}");
    });
}

#[test]
fn a_failed_step_leaves_no_link() {
    on_a_host("a_failed_step_leaves_no_link", || async {
        let (plan, guest) = (web(), new_netns());
        let broken =
            LinkPlan { ipv4: Pair { host: Ipv4Addr::new(224, 0, 0, 1), ..plan.ipv4 }, ..plan.clone() };
        let error = Link::create(&broken, guest.as_fd()).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot add the address 224.0.0.1 to 've-web-of-"), "{error}");
        assert!(link_by_name(&connect().unwrap(), &plan.host_interface).await.unwrap().is_none());
        let error = configure_guest(&plan, guest.as_fd()).await.unwrap_err();
        assert!(error.to_string().contains("'host0' disappeared"), "{error}");
    });
}
