/* floor.c: a lower bound for the start of a container. It creates the namespaces and mounts that every
 * manager creates for an OCI default container, as a plain sequence of system calls, and executes the
 * command: no configuration, no checks, no cgroup, no seccomp filter, no capabilities, no cleanup. The time
 * of a manager beyond this bound is its own overhead.
 *
 * usage: floor [--user] ROOT COMMAND [ARGUMENT...]
 *   --user  create a user namespace as well (0 to 1000000), with an idmapped root
 *
 * The exit status is that of the command, or 125 for an internal failure.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* some versions of libc conflict with linux/mount.h in sys/mount.h */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define DETACH 2
#define PLAIN (MS_NOSUID | MS_NODEV)
#define INERT (PLAIN | MS_NOEXEC)

static const char map[] = "0 1000000 65536\n";
static const char *const masked[] = { "acpi",	     "asound",	    "kcore",	   "keys", "latency_stats",
				      "timer_list", "timer_stats", "sched_debug", "scsi" };
static const char *const read_only[] = { "bus", "fs", "irq", "sys", "sysrq-trigger" };
static const struct {
	const char *name;
	int minor;
} nodes[] = { { "null", 3 }, { "zero", 5 }, { "full", 7 }, { "random", 8 }, { "urandom", 9 } };
static const char *const links[][2] = { { "pts/ptmx", "dev/ptmx" },
					{ "/proc/self/fd", "dev/fd" },
					{ "/proc/self/fd/0", "dev/stdin" },
					{ "/proc/self/fd/1", "dev/stdout" },
					{ "/proc/self/fd/2", "dev/stderr" },
					{ "/proc/kcore", "dev/core" } };

#define must(call)                         \
	do {                               \
		if ((call) < 0)            \
			err(125, "%s", #call); \
	} while (0)

static void api_file_systems(void)
{
	must(mount("proc", "proc", "proc", INERT, NULL));
	must(mount("sysfs", "sys", "sysfs", INERT | MS_RDONLY, NULL));
	must(mount("cgroup2", "sys/fs/cgroup", "cgroup2", INERT | MS_RDONLY, NULL));
	must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=64m"));
	must(mkdir("dev/pts", 0755) | mkdir("dev/shm", 0755) | mkdir("dev/mqueue", 0755));
	must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	must(mount("tmpfs", "dev/shm", "tmpfs", INERT, "mode=1777,size=64m"));
	must(mount("mqueue", "dev/mqueue", "mqueue", INERT, NULL));
	must(mount("tmpfs", "run", "tmpfs", PLAIN, "mode=755"));
	must(mount("tmpfs", "tmp", "tmpfs", PLAIN, "mode=1777"));
}

static void device(const char *name, int minor, int major, int bind)
{
	char here[64], there[64];

	snprintf(here, sizeof(here), "dev/%s", name);
	if (!bind) {
		must(mknod(here, S_IFCHR | 0666, makedev(major, minor)));
		return;
	}
	/* mknod(2) of a device fails in a user namespace: bind mount the host's node */
	snprintf(there, sizeof(there), "/dev/%s", name);
	must(mknod(here, S_IFREG | 0666, 0));
	must(mount(there, here, NULL, MS_BIND, NULL));
}

static void devices(int bind)
{
	for (size_t i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
		device(nodes[i].name, nodes[i].minor, 1, bind);
	device("tty", 0, 5, bind);
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++)
		must(symlink(links[i][0], links[i][1]));
}

static void restrictions(void)
{
	char path[64];
	struct stat is;

	for (size_t i = 0; i < sizeof(read_only) / sizeof(*read_only); i++) {
		snprintf(path, sizeof(path), "proc/%s", read_only[i]);
		if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0 && errno == ENOENT)
			continue;
		must(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | INERT, NULL));
	}
	for (size_t i = 0; i < sizeof(masked) / sizeof(*masked); i++) {
		snprintf(path, sizeof(path), "proc/%s", masked[i]);
		if (stat(path, &is) < 0)
			continue;
		if (S_ISDIR(is.st_mode))
			must(mount("tmpfs", path, "tmpfs", MS_RDONLY, "nr_inodes=2"));
		else
			must(mount("dev/null", path, NULL, MS_BIND, NULL));
	}
}

static void child(int tree, int go, int user, char **argv)
{
	char byte;

	if (user) {
		must(read(go, &byte, 1));
		must(setgid(0) | setuid(0));
	}
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	/* any directory searchable by all users */
	must(syscall(SYS_move_mount, tree, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH));
	must(chdir("/tmp"));
	must(sethostname("floor", 5));
	api_file_systems();
	devices(user);
	restrictions();
	must(syscall(SYS_pivot_root, ".", "."));
	must(umount2(".", DETACH));
	must(chdir("/"));
	must(setsid());
	execv(argv[0], argv);
	err(125, "%s", argv[0]);
}

static void put(pid_t pid, const char *name)
{
	char path[64];
	int file;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	must(file = open(path, O_WRONLY));
	must(write(file, map, sizeof(map) - 1));
	close(file);
}

static void change(int tree, struct mount_attr attributes)
{
	must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)));
}

static void give_ids(pid_t pid, int tree)
{
	char path[64];
	int space;

	put(pid, "uid_map");
	put(pid, "gid_map");
	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	must(space = open(path, O_RDONLY));
	change(tree, (struct mount_attr){ .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = space });
	close(space);
}

int main(int argc, char **argv)
{
	int user = argc > 1 && !strcmp(argv[1], "--user"), tree, go[2], status;
	struct clone_args arguments = { .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC |
						 CLONE_NEWNET | CLONE_NEWCGROUP | (user ? CLONE_NEWUSER : 0),
					.exit_signal = SIGCHLD };
	pid_t pid;

	argv += 1 + user;
	if (argc < 3 + user)
		errx(125, "usage: floor [--user] ROOT COMMAND [ARGUMENT...]");
	must(tree = syscall(SYS_open_tree, AT_FDCWD, argv[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
	/* pivot_root(2) rejects shared mounts */
	change(tree, (struct mount_attr){ .propagation = MS_PRIVATE });
	must(pipe2(go, O_CLOEXEC));
	must(pid = syscall(SYS_clone3, &arguments, sizeof(arguments)));
	if (!pid)
		child(tree, go[0], user, argv + 1);
	if (user) {
		give_ids(pid, tree);
		must(write(go[1], "", 1));
	}
	must(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
