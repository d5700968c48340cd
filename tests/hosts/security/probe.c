/* probe.c: what root of a container can do to its host and to the kernel, point by point. Built statically; run inside
 * by tests/hosts/security and by `make probe`, of coracle and of others alike. It needs no file of its tree.
 *
 * A line for each point: "open" or "closed", its weight, its name, what was found. The last one counts what is open.
 * high: acts on the host or reads its secrets; medium: much of the kernel for little use, or a wall that the guest can
 * take down; low: tells of the host, or takes more than a share. What a whole system needs is no point: mounts and user
 * namespaces of its own, reboot(2) of its own pid namespace. Each point is tried in a process of its own. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum weight { HIGH, MEDIUM, LOW };
static const char *const weights[] = { "high", "medium", "low" };

/* What was found, for people. */
static char found[200];

/* A check gives 1 for open. */
struct point {
	enum weight weight;
	const char *name;
	int (*check)(const void *);
	const void *with;
};

/* ---- small things --------------------------------------------------------------------------------------------- */

static ssize_t slurp(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -1;
	ssize_t all = 0, length;
	while ((size_t)all < size - 1 && (length = read(fd, text + all, size - 1 - all)) > 0)
		all += length;
	text[all] = 0;
	close(fd);
	return all;
}

/* The value of a line of /proc/self/status, as hexadecimal. */
static unsigned long long status_of(const char *key)
{
	static char text[16384];
	char *line;
	if (slurp("/proc/self/status", text, sizeof text) <= 0 || !(line = strstr(text, key)))
		return 0;
	return strtoull(line + strlen(key), NULL, 16);
}

/* Whether the call is made; what it was told otherwise is refused or not there. */
static int made(long result)
{
	return result >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS && errno != EAFNOSUPPORT &&
			       errno != ENODEV && errno != EROFS && errno != EOPNOTSUPP);
}

/* A call by the i386 gate, which a filter of 64 bit calls does not see. */
static long i386(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static int own_mounts(void)
{
	return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static int mounts(const char *kind, const char *at, unsigned long flags, const char *data)
{
	return own_mounts() && mount(kind, at, kind, flags, data) == 0;
}

/* ---- users and capabilities ----------------------------------------------------------------------------------- */

static int host_root(const void *with)
{
	char text[256];
	unsigned inside = 0, outside = 0;
	(void)with;
	if (slurp("/proc/self/uid_map", text, sizeof text) <= 0)
		return 1;
	sscanf(text, "%u %u", &inside, &outside);
	return inside == 0 && outside == 0;
}

/* Those that user namespaces do not contain, or that act on hardware and the whole kernel. */
static int host_capabilities(const void *with)
{
	static const char *const names[] = { [16] = "module", [17] = "rawio", [20] = "pacct", [25] = "time",
		[32] = "mac_override", [33] = "mac_admin", [34] = "syslog", [35] = "wake_alarm", [36] = "block_suspend",
		[37] = "audit_read", [38] = "perfmon", [39] = "bpf", [40] = "checkpoint_restore" };
	unsigned long long set = status_of("CapBnd:");
	(void)with;
	for (unsigned bit = 0; bit < sizeof names / sizeof *names; bit++)
		if (names[bit] && set >> bit & 1)
			snprintf(found + strlen(found), sizeof found - strlen(found), "%s ", names[bit]);
	return *found != 0;
}

static int set_not_empty(const void *with)
{
	return status_of(with) != 0;
}

static int groups(const void *with)
{
	gid_t all[64];
	int count = getgroups(64, all), others = 0;
	(void)with;
	for (int i = 0; i < count; i++)
		others += all[i] != 0;
	return others > 0;
}

static int seccomp_off(const void *with)
{
	(void)with;
	return prctl(PR_GET_SECCOMP) != 2;
}

/* ---- namespaces ----------------------------------------------------------------------------------------------- */

static int same_namespace(const void *with)
{
	/* The first ones have fixed inodes (linux/proc_ns.h), the first network and mount namespaces have not. */
	char path[64], target[64];
	snprintf(path, sizeof path, "/proc/self/ns/%s", (const char *)with);
	ssize_t length = readlink(path, target, sizeof target - 1);
	target[length > 0 ? length : 0] = 0;
	unsigned long inode = strchr(target, '[') ? strtoul(strchr(target, '[') + 1, NULL, 10) : 0;
	return inode >= 0xEFFFFFF8 && inode <= 0xEFFFFFFF;
}

static int processes_of_others(const void *with)
{
	/* Our parent is 1 or not visible. */
	(void)with;
	struct stat ours, theirs;
	DIR *all = opendir("/proc");
	struct dirent *entry;
	int strange = 0;
	if (!all || stat("/", &ours) < 0)
		return 0;
	while ((entry = readdir(all)) != NULL) {
		char path[300];
		snprintf(path, sizeof path, "/proc/%s/root", entry->d_name);
		if (atoi(entry->d_name) > 0 && stat(path, &theirs) == 0 &&
		    (ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev))
			strange = 1;
	}
	return strange;
}

static int cgroup_path(const void *with)
{
	char text[4096];
	(void)with;
	if (slurp("/proc/self/cgroup", text, sizeof text) <= 0)
		return 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (!strncmp(line, "0::", 3) && (strstr(line, "..") || strstr(line, ".slice/") == line + 3)) {
			snprintf(found, sizeof found, "%s", line);
			return strstr(line, "machine") || strstr(line, "..");
		}
	return 0;
}

static int abstract_sockets(const void *with)
{
	static char text[1 << 20];
	(void)with;
	if (slurp("/proc/net/unix", text, sizeof text) <= 0)
		return 0;
	/* Of the host's manager, bus or of our tests' own. */
	return strstr(text, "/run/systemd/private") != NULL || strstr(text, "@hosts-own") != NULL ||
	       strstr(text, "/run/coracle/") != NULL;
}

static int host_paths(const void *with)
{
	static char text[1 << 18];
	(void)with;
	if (slurp("/proc/self/mountinfo", text, sizeof text) <= 0)
		return 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char root[4096], at[4096];
		if (sscanf(line, "%*s %*s %*s %4095s %4095s", root, at) != 2)
			continue;
		if (strstr(root, "/var/lib/") || strstr(root, "/home/") || strstr(root, "/srv/") ||
		    strstr(root, "/run/systemd") || strstr(root, "/nspawn") || strstr(root, "/var/tmp")) {
			snprintf(found, sizeof found, "%.180s", root);
			return 1;
		}
	}
	return 0;
}

/* ---- procfs and sysfs ----------------------------------------------------------------------------------------- */

static int readable(const void *with)
{
	char text[64];
	struct stat data;
	DIR *directory;
	if (stat(with, &data) < 0)
		return 0;
	if (S_ISDIR(data.st_mode)) {
		int entries = 0;
		if (!(directory = opendir(with)))
			return 0;
		for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
			entries += entry->d_name[0] != '.';
		return entries > 0;
	}
	return slurp(with, text, 2) > 0;
}

static int writable(const void *with)
{
	int fd = open(with, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	struct statfs kind;
	/* A mask of another file system accepts no data. */
	return fd >= 0 && fstatfs(fd, &kind) == 0 && (kind.f_type == 0x9fa0 || kind.f_type == 0x62656572);
}

static int kernel_addresses(const void *with)
{
	char text[64];
	(void)with;
	return slurp("/proc/kallsyms", text, sizeof text) > 16 && strncmp(text, "0000000000000000", 16) != 0;
}

/* Whether what covers a part of procfs can be taken off. */
static int covers_off(const void *with)
{
	if (!own_mounts())
		return 0;
	for (const char *const *place = with; *place; place++)
		if (umount2(*place, MNT_DETACH) == 0) {
			snprintf(found, sizeof found, "%s", *place);
			return 1;
		}
	return 0;
}

/* Whether a fresh procfs shows what the first one covers; the kernel refuses it where the first is covered. */
static int fresh_proc(const void *with)
{
	char text[4];
	(void)with;
	if (unshare(CLONE_NEWPID) < 0 || !own_mounts())
		return 0;
	pid_t child = fork();
	if (child == 0)
		_exit(mount("proc", "/tmp", "proc", 0, NULL) == 0 && slurp("/tmp/kcore", text, 2) > 0);
	int status = 0;
	waitpid(child, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

static int fresh_sys(const void *with)
{
	(void)with;
	return mounts("sysfs", "/tmp", 0, NULL) && access("/tmp/power", F_OK) == 0 && access("/tmp/kernel", W_OK) == 0;
}

static int mountable(const void *with)
{
	return mounts(with, "/tmp", 0, NULL);
}

static int release_agent(const void *with)
{
	(void)with;
	if (mounts("cgroup", "/tmp", 0, "memory") || mounts("cgroup", "/tmp", 0, "none,name=probe"))
		return access("/tmp/release_agent", W_OK) == 0;
	return 0;
}

static int own_limits(const void *with)
{
	(void)with;
	return access("/sys/fs/cgroup/memory.max", W_OK) == 0 || access("/sys/fs/cgroup/pids.max", W_OK) == 0 ||
	       access("/sys/fs/cgroup/cgroup.freeze", W_OK) == 0;
}

/* ---- devices -------------------------------------------------------------------------------------------------- */

static int node_opens(const void *with)
{
	const unsigned *numbers = with;
	/* Not on a file system without devices, where there is another. */
	const char *path = "/.probe-node";
	mode_t kind = numbers[0] ? S_IFBLK : S_IFCHR;
	unlink(path);
	if (mknod(path, kind | 0600, makedev(numbers[1], numbers[2])) < 0) {
		path = "/tmp/.probe-node";
		unlink(path);
		if (mknod(path, kind | 0600, makedev(numbers[1], numbers[2])) < 0)
			return 0;
	}
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int error = errno;
	unlink(path);
	return fd >= 0 || (error != EPERM && error != EACCES && error != ENXIO && error != ENODEV);
}

static int extra_nodes(const void *with)
{
	static const char *const usual[] = { "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx" };
	DIR *all = opendir("/dev");
	(void)with;
	for (struct dirent *entry; all && (entry = readdir(all)) != NULL;) {
		char path[300];
		struct stat data;
		int known = 0;
		snprintf(path, sizeof path, "/dev/%s", entry->d_name);
		if (lstat(path, &data) < 0 || (!S_ISCHR(data.st_mode) && !S_ISBLK(data.st_mode)))
			continue;
		for (unsigned i = 0; i < sizeof usual / sizeof *usual; i++)
			known |= !strcmp(usual[i], entry->d_name);
		if (!known)
			snprintf(found + strlen(found), sizeof found - strlen(found), "%.40s ", entry->d_name);
	}
	struct stat tun;
	if (lstat("/dev/net/tun", &tun) == 0)
		snprintf(found + strlen(found), sizeof found - strlen(found), "net/tun");
	return *found != 0;
}

/* ---- system calls --------------------------------------------------------------------------------------------- */

static int io_uring(const void *with)
{
	(void)with;
	return made(syscall(SYS_io_uring_setup, 1, NULL));
}

static int key_calls(const void *with)
{
	(void)with;
	return made(syscall(SYS_keyctl, 0, -3, 0)) || made(syscall(SYS_add_key, "user", "probe", "x", 1, -2));
}

/* The host puts a key of this name into its session keyring. */
static int host_keys(const void *with)
{
	(void)with;
	return syscall(SYS_keyctl, 10, -3, "user", "hosts-own", 0) >= 0 || syscall(SYS_request_key, "user", "hosts-own", NULL, 0) >= 0;
}

static int userfault(const void *with)
{
	(void)with;
	/* Without UFFD_USER_MODE_ONLY: one that stops the kernel in the middle of a copy. */
	return made(syscall(SYS_userfaultfd, O_CLOEXEC));
}

static int perf(const void *with)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK };
	(void)with;
	return made(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0));
}

static int bpf(const void *with)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
	(void)with;
	return made(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr));
}

static int by_handle(const void *with)
{
	struct { struct file_handle handle; char bytes[128]; } one = { .handle.handle_bytes = 128 };
	int id, root = open("/", O_RDONLY | O_DIRECTORY);
	(void)with;
	if (name_to_handle_at(AT_FDCWD, "/", &one.handle, &id, 0) < 0)
		return 0;
	return open_by_handle_at(root, &one.handle, O_RDONLY) >= 0;
}

static int fanotify(const void *with)
{
	(void)with;
	return made(syscall(SYS_fanotify_init, FAN_CLASS_PRE_CONTENT, O_RDONLY));
}

static int numbered(const void *with)
{
	const long *call = with;
	return made(syscall(call[0], call[1], call[2], call[3], -1L, -1L, -1L));
}

static int set_clock(const void *with)
{
	struct timespec now;
	(void)with;
	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now) == 0;
}

static int kernel_log(const void *with)
{
	(void)with;
	return syscall(SYS_syslog, 10, NULL, 0) >= 0 || open("/dev/kmsg", O_RDONLY | O_NONBLOCK) >= 0;
}

/* keyctl by the i386 interface, where the 64 bit one is refused or not. */
static int other_interface(const void *with)
{
	(void)with;
	long result = i386(288, 0, -3, 0);
	return result != -EPERM && result != -ENOSYS;
}

static int x32(const void *with)
{
	(void)with;
	return made(syscall(0x40000000 + SYS_getpid));
}

static int typed(const void *with)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
	char c = 'x';
	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
		return 0;
	setsid();
	if ((slave = open(ptsname(master), O_RDWR)) < 0)
		return 0;
	ioctl(slave, TIOCSCTTY, 0);
	return made(syscall(SYS_ioctl, slave, *(const unsigned long *)with, &c));
}

static int on_terminal(const void *with)
{
	/* TIOCLINUX is unknown to a pty: refused means a filter. */
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	char c = 'x';
	return master >= 0 && (syscall(SYS_ioctl, master, *(const unsigned long *)with, &c) == 0 || errno != EPERM);
}

static int family(const void *with)
{
	const int *three = with;
	return socket(three[0], three[1], three[2]) >= 0;
}

/* The same by socketcall of the i386 interface, with arguments that no filter sees. */
static int family_by_socketcall(const void *with)
{
	const int *three = with;
	int *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		return 0;
	memcpy(low, three, 3 * sizeof *low);
	return i386(102, 1, (long)low, 0) >= 0;
}

static int rare_families(const void *with)
{
	static const int rare[] = { AF_X25, AF_IPX, AF_APPLETALK, AF_AX25, AF_CAN, AF_TIPC, AF_BLUETOOTH, AF_RDS, AF_NFC, AF_KCM, AF_SMC, AF_XDP, AF_PHONET, AF_IEEE802154 };
	(void)with;
	for (unsigned i = 0; i < sizeof rare / sizeof *rare; i++)
		for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++)
			if (made(socket(rare[i], type, 0)) && errno != EPROTONOSUPPORT && errno != ESOCKTNOSUPPORT) {
				snprintf(found, sizeof found, "family %d", rare[i]);
				return 1;
			}
	return 0;
}

/* ---- shares of the machine ------------------------------------------------------------------------------------- */

static int realtime(const void *with)
{
	struct sched_param one = { .sched_priority = 1 };
	(void)with;
	return sched_setscheduler(0, SCHED_FIFO, &one) == 0;
}

static int before_others(const void *with)
{
	(void)with;
	return setpriority(PRIO_PROCESS, 0, -20) == 0;
}

static int oom_shield(const void *with)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	(void)with;
	return fd >= 0 && write(fd, "-1000", 5) == 5;
}

static int locks_memory(const void *with)
{
	struct rlimit limit;
	(void)with;
	return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_max == RLIM_INFINITY;
}

static int endless(const void *with)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	return setrlimit(*(const int *)with, &limit) == 0;
}

/* ---- what comes along ----------------------------------------------------------------------------------------- */

static unsigned long long blocked, ignored;
static char descriptors[200];

static int signals_blocked(const void *with)
{
	(void)with;
	return blocked != 0;
}

static int signals_ignored(const void *with)
{
	(void)with;
	return ignored != 0;
}

static int came_along(const void *with)
{
	(void)with;
	snprintf(found, sizeof found, "%s", descriptors);
	return *found != 0;
}

static int outside_directory(const void *with)
{
	char here[4096];
	(void)with;
	return !getcwd(here, sizeof here) || here[0] != '/';
}

/* Before anything is opened. */
static void look_at_ourselves(void)
{
	blocked = status_of("SigBlk:");
	ignored = status_of("SigIgn:");
	for (int fd = 3; fd < 256; fd++) {
		char path[64], target[128];
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(path, target, sizeof target - 1);
		if (length < 0)
			continue;
		target[length] = 0;
		snprintf(descriptors + strlen(descriptors), sizeof descriptors - strlen(descriptors), "%d=%.40s ", fd, target);
	}
}

/* ---- the list ------------------------------------------------------------------------------------------------- */

static const unsigned mem[] = { 0, 1, 1 }, kmsg[] = { 0, 1, 11 }, loop[] = { 1, 7, 0 }, control[] = { 0, 10, 237 },
		      kvm[] = { 0, 10, 232 }, disk[] = { 1, 254, 0 }, terminal[] = { 0, 4, 0 };
static const unsigned long sti = TIOCSTI, high_sti = TIOCSTI | 1UL << 32, tioclinux = TIOCLINUX, high_linux = TIOCLINUX | 1UL << 32;
static const int vsock[] = { AF_VSOCK, SOCK_STREAM, 0 }, alg[] = { AF_ALG, SOCK_SEQPACKET, 0 },
		 audit[] = { AF_NETLINK, SOCK_RAW, 9 }, af_key[] = { AF_KEY, SOCK_RAW, 2 };
/* With arguments that are refused only after the rights to the call were looked at. */
static const long init_module[] = { SYS_init_module, 0, 0, 0 }, kexec[] = { SYS_kexec_load, 0, 0, 0 },
		  swapon_call[] = { SYS_swapon, 0, 0, 0 }, acct_call[] = { SYS_acct, 1, 0, 0 },
		  quotactl_call[] = { SYS_quotactl, -1, -1, -1 }, iopl_call[] = { SYS_iopl, 3, 0, 0 },
		  ldt[] = { SYS_modify_ldt, 0, 0, 0 }, lookup[] = { SYS_lookup_dcookie, -1, -1, -1 },
		  migrate[] = { SYS_move_pages, 0, 0, 0 }, uselib_call[] = { SYS_uselib, 1, 0, 0 },
		  pkey[] = { SYS_pkey_alloc, -1, -1, 0 }, nfsservctl[] = { SYS_nfsservctl, -1, -1, -1 };
static const char *const masks[] = { "/proc/kcore", "/proc/keys", "/proc/timer_list", NULL };
static const char *const covers[] = { "/proc/sys", "/proc/bus", "/proc/sysrq-trigger", NULL };
static const int files = RLIMIT_NOFILE, queue = RLIMIT_MSGQUEUE;

static const struct point points[] = {
	{ HIGH, "root is the host's root", host_root, NULL },
	{ HIGH, "no system-call filter", seccomp_off, NULL },
	{ HIGH, "the host's pid namespace", same_namespace, "pid" },
	{ HIGH, "processes with another root", processes_of_others, NULL },
	{ HIGH, "descriptors of the host", came_along, NULL },
	{ HIGH, "working directory outside", outside_directory, NULL },
	{ HIGH, "sockets of the host by name", abstract_sockets, NULL },
	{ HIGH, "keys of the host", host_keys, NULL },
	{ HIGH, "release_agent (cgroup v1)", release_agent, NULL },
	{ HIGH, "device: memory", node_opens, mem },
	{ HIGH, "device: loop", node_opens, loop },
	{ HIGH, "device: loop-control", node_opens, control },
	{ HIGH, "device: disk", node_opens, disk },
	{ HIGH, "device: virtual terminal", node_opens, terminal },
	{ HIGH, "writes core_pattern", writable, "/proc/sys/kernel/core_pattern" },
	{ HIGH, "writes modprobe", writable, "/proc/sys/kernel/modprobe" },
	{ HIGH, "writes sysrq", writable, "/proc/sys/kernel/sysrq" },
	{ HIGH, "writes sysrq-trigger", writable, "/proc/sysrq-trigger" },
	{ HIGH, "writes vm settings", writable, "/proc/sys/vm/drop_caches" },
	{ HIGH, "writes uevent_helper", writable, "/sys/kernel/uevent_helper" },
	{ HIGH, "writes power/state", writable, "/sys/power/state" },
	{ HIGH, "reads kcore", readable, "/proc/kcore" },
	{ HIGH, "sets the clock", set_clock, NULL },
	{ HIGH, "loads modules", numbered, init_module },
	{ HIGH, "loads kernels", numbered, kexec },
	{ HIGH, "swaps", numbered, swapon_call },
	{ HIGH, "opens by handle", by_handle, NULL },
	{ HIGH, "input and output ports", numbered, iopl_call },
	{ HIGH, "types into terminals", typed, &sti },
	{ HIGH, "types into terminals, high bits", typed, &high_sti },
	{ MEDIUM, "pastes on consoles", on_terminal, &tioclinux },
	{ MEDIUM, "pastes on consoles, high bits", on_terminal, &high_linux },
	{ MEDIUM, "capabilities of the host", host_capabilities, NULL },
	{ MEDIUM, "inheritable capabilities", set_not_empty, "CapInh:" },
	{ MEDIUM, "ambient capabilities", set_not_empty, "CapAmb:" },
	{ MEDIUM, "supplementary groups", groups, NULL },
	{ MEDIUM, "the host's network", same_namespace, "net" },
	{ MEDIUM, "the host's ipc namespace", same_namespace, "ipc" },
	{ MEDIUM, "the host's cgroup namespace", cgroup_path, NULL },
	{ MEDIUM, "paths of the host in mountinfo", host_paths, NULL },
	{ MEDIUM, "limits of its own cgroup", own_limits, NULL },
	{ MEDIUM, "masks come off", covers_off, masks },
	{ MEDIUM, "what is read-only becomes writable", covers_off, covers },
	{ MEDIUM, "fresh procfs without masks", fresh_proc, NULL },
	{ MEDIUM, "fresh sysfs, writable", fresh_sys, NULL },
	{ MEDIUM, "reads kernel addresses", kernel_addresses, NULL },
	{ MEDIUM, "reads /proc/keys", readable, "/proc/keys" },
	{ MEDIUM, "reads /sys/firmware", readable, "/sys/firmware" },
	{ MEDIUM, "reads powercap", readable, "/sys/devices/virtual/powercap" },
	{ MEDIUM, "reads the kernel's log", kernel_log, NULL },
	{ MEDIUM, "device: kernel log", node_opens, kmsg },
	{ MEDIUM, "device: virtual machines", node_opens, kvm },
	{ MEDIUM, "mounts debugfs", mountable, "debugfs" },
	{ MEDIUM, "mounts tracefs", mountable, "tracefs" },
	{ MEDIUM, "mounts securityfs", mountable, "securityfs" },
	{ MEDIUM, "mounts bpffs", mountable, "bpf" },
	{ MEDIUM, "mounts binfmt_misc", mountable, "binfmt_misc" },
	{ MEDIUM, "mounts pstore", mountable, "pstore" },
	{ MEDIUM, "mounts devtmpfs", mountable, "devtmpfs" },
	{ MEDIUM, "io_uring", io_uring, NULL },
	{ MEDIUM, "keyctl, add_key", key_calls, NULL },
	{ MEDIUM, "userfaultfd of kernel faults", userfault, NULL },
	{ MEDIUM, "perf_event_open", perf, NULL },
	{ MEDIUM, "bpf", bpf, NULL },
	{ MEDIUM, "i386 calls beside the filter", other_interface, NULL },
	{ MEDIUM, "x32 calls beside the filter", x32, NULL },
	{ MEDIUM, "AF_VSOCK", family, vsock },
	{ MEDIUM, "AF_ALG", family, alg },
	{ MEDIUM, "AF_VSOCK by socketcall", family_by_socketcall, vsock },
	{ MEDIUM, "AF_ALG by socketcall", family_by_socketcall, alg },
	{ MEDIUM, "audit by socketcall", family_by_socketcall, audit },
	{ MEDIUM, "AF_KEY", family, af_key },
	{ MEDIUM, "audit", family, audit },
	{ MEDIUM, "rare socket families", rare_families, NULL },
	{ MEDIUM, "real-time scheduling", realtime, NULL },
	{ MEDIUM, "accounting", numbered, acct_call },
	{ MEDIUM, "quotas", numbered, quotactl_call },
	{ LOW, "fanotify of all", fanotify, NULL },
	{ LOW, "modify_ldt", numbered, ldt },
	{ LOW, "lookup_dcookie", numbered, lookup },
	{ LOW, "move_pages", numbered, migrate },
	{ LOW, "uselib", numbered, uselib_call },
	{ LOW, "pkey_alloc", numbered, pkey },
	{ LOW, "nfsservctl", numbered, nfsservctl },
	{ LOW, "negative nice", before_others, NULL },
	{ LOW, "out of the OOM killer's reach", oom_shield, NULL },
	{ LOW, "locks memory without bound", locks_memory, NULL },
	{ LOW, "files without bound", endless, &files },
	{ LOW, "message queues without bound", endless, &queue },
	{ LOW, "signals blocked", signals_blocked, NULL },
	{ LOW, "signals ignored", signals_ignored, NULL },
	{ LOW, "further device nodes", extra_nodes, NULL },
	{ LOW, "the host's host name", same_namespace, "uts" },
	{ LOW, "reads timer_list", readable, "/proc/timer_list" },
	{ LOW, "reads latency_stats", readable, "/proc/latency_stats" },
	{ LOW, "reads sched_debug", readable, "/proc/sched_debug" },
	{ LOW, "reads interrupts", readable, "/proc/interrupts" },
	{ LOW, "reads acpi", readable, "/proc/acpi" },
	{ LOW, "reads scsi", readable, "/proc/scsi" },
	{ LOW, "reads thermal sensors", readable, "/sys/class/thermal" },
	{ LOW, "reads the machine's serial number", readable, "/sys/class/dmi/id/product_uuid" },
};

/* ---- the host's side of some tests ----------------------------------------------------------------------------- */

/* Goes on as a command with a key in the session keyring that its children must not find. */
static int with_key(char **command)
{
	if (syscall(SYS_keyctl, 1, NULL) < 0 || syscall(SYS_add_key, "user", "hosts-own", "secret", 6, -3) < 0)
		return 1;
	execvp(*command, command);
	return 1;
}

/* Listens and never answers: at a path, or in the abstract namespace after an '@'. */
static int listen_at(const char *where)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s", where);
	socklen_t length = sizeof address.sun_family + strlen(where);
	if (*where == '@')
		address.sun_path[0] = 0;
	else
		unlink(where);
	if (bind(fd, (struct sockaddr *)&address, length + (*where != '@')) < 0 || listen(fd, 64) < 0)
		return 1;
	puts("listening");
	fflush(stdout);
	for (;;)
		pause();
}

/* Swaps a directory with a link to elsewhere, for as long as it is there. */
static int swap(const char *one, const char *other)
{
	puts("swapping");
	fflush(stdout);
	for (;;)
		if (syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2) < 0)
			return 1;
}

/* Tries a point without a lasting effect. */
static int try(const struct point *point, int *said)
{
	int status = 0;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		alarm(5);
		int open = point->check(point->with);
		if (*found && write(said[1], found, strlen(found)) < 0)
			_exit(0);
		_exit(open ? 1 : 0);
	}
	waitpid(child, &status, 0);
	/* A point that a filter kills for is closed. */
	return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "user"))
		return printf("%u\n", (unsigned)geteuid()) < 0;
	if (argc > 2 && !strcmp(argv[1], "with-key"))
		return with_key(argv + 2);
	if (argc > 2 && !strcmp(argv[1], "listen"))
		return listen_at(argv[2]);
	if (argc > 3 && !strcmp(argv[1], "swap"))
		return swap(argv[2], argv[3]);
	int count[3] = { 0 }, said[2];
	const int all = sizeof points / sizeof *points;
	look_at_ourselves();
	if (pipe2(said, O_CLOEXEC | O_NONBLOCK) < 0)
		return 1;
	for (int i = 0; i < all; i++) {
		char text[201] = "";
		int open = try(&points[i], said);
		ssize_t length = read(said[0], text, sizeof text - 1);
		text[length > 0 ? length : 0] = 0;
		count[points[i].weight] += open;
		printf("%s\t%s\t%s\t%s\n", open ? "open" : "closed", weights[points[i].weight], points[i].name, open ? text : "");
	}
	printf("total\t%d\t%d\t%d\tof %d points\n", count[HIGH], count[MEDIUM], count[LOW], all);
	return 0;
}
