//! A network outside a host: another namespace with addresses of both families, without a route back to
//! machines. Called by tests.

use super::host::Host;

const SETUP: &str = "
ip netns add outside
ip link add up0 type veth peer name out0 netns outside
ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up
ip -n outside addr add 192.0.2.2/24 dev out0; ip -n outside addr add 2001:db8::2/64 dev out0 nodad
ip -n outside link set lo up; ip -n outside link set out0 up
";

/// The default routes of the host, and the page of a web server at port 80 of the namespace.
const PAGE: &str = "
ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2
mkdir -p /srv/www; echo 'hello from outside' >/srv/www/index.html
ip netns exec outside busybox httpd -p '[::]:80' -h /srv/www
";

impl Host {
    /// Creates the namespace `outside` with 192.0.2.2 and 2001:db8::2; the host has 192.0.2.1 and 2001:db8::1
    /// on `up0`.
    #[track_caller]
    pub fn add_outside(&self) {
        self.sh_ok(SETUP);
    }

    /// Creates the namespace `outside`, the default routes of the host to it, and its web server of
    /// `/srv/www`.
    #[track_caller]
    pub fn add_outside_with_page(&self) {
        self.add_outside();
        self.sh_ok(PAGE);
    }
}
