/* attacker.c: what a hostile root inside tries against processes that enter its machine. Built and run by tests/hosts/escape.rs.
 * It prints "ESCAPED" and the successful attack, or "refused". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Whether a process is the host's program still, as far as we may look. */
static int is_entering(int pid)
{
	char path[64], target[PATH_MAX];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	ssize_t length = readlink(path, target, sizeof target - 1);
	if (length < 0)
		return 0;
	target[length] = 0;
	/* On a mount of its own it is all there is. */
	return strstr(target, "coracle") != NULL || !strcmp(target, "/");
}

static void name_of(int pid, char *name, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, name, size - 1);
	name[length > 0 ? length - 1 : 0] = 0;
	if (fd >= 0)
		close(fd);
}

/* Tries everything on one process. */
static void try(int pid)
{
	char path[64], name[32];
	name_of(pid, name, sizeof name);
	if (!strcmp(name, "coracle"))
		printf("saw %d\n", pid);
	if (is_entering(pid))
		printf("ESCAPED: can look at the program of %d\n", pid);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
		ptrace(PTRACE_INTERRUPT, pid, 0, 0);
		waitpid(pid, NULL, __WALL);
		if (is_entering(pid))
			printf("ESCAPED: traced %d\n", pid);
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
	for (int number = 3; number < 12; number++) {
		char target[PATH_MAX];
		snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, number);
		ssize_t length = readlink(path, target, sizeof target - 1);
		if (length > 0) {
			target[length] = 0;
			if (strstr(target, "[pidfd]") || strstr(target, "socket:"))
				if (is_entering(pid))
					printf("ESCAPED: descriptor %d of %d is %s\n", number, pid, target);
		}
	}
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		if (is_entering(pid))
			printf("ESCAPED: memory of %d\n", pid);
		close(fd);
	}
	fflush(stdout);
}

/* The value of a line of /proc/PID/status, as hexadecimal. */
static unsigned long long status_of(int pid, const char *key)
{
	char path[64], line[256];
	unsigned long long value = 0;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, key, strlen(key)))
			value = strtoull(line + strlen(key), NULL, 16);
	if (file)
		fclose(file);
	return value;
}

/* Whether two paths lead to two files; one that leads nowhere, as in a process that has ended, is not compared. */
static int other_file(const char *one, const char *other)
{
	struct stat a, b;
	return stat(one, &a) == 0 && stat(other, &b) == 0 && (a.st_dev != b.st_dev || a.st_ino != b.st_ino);
}

/* Whether a process, which we may trace, has more than we have. */
static void try_beyond(int pid)
{
	char path[64], name[32];
	name_of(pid, name, sizeof name);
	if (strcmp(name, "coracle"))
		return;
	unsigned long long permitted = status_of(pid, "CapPrm:"), filters = status_of(pid, "Seccomp_filters:");
	name_of(pid, name, sizeof name);
	if (strcmp(name, "coracle"))
		return;
	printf("saw %d\n", pid);
	if (permitted & ~status_of(1, "CapBnd:"))
		printf("ESCAPED: %d has capabilities %llx\n", pid, permitted);
	/* Not as many as PID 1 has: where the host is a machine itself, that depends on where the caller came from. */
	if (filters == 0)
		printf("ESCAPED: %d has no filter\n", pid);
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	if (other_file(path, "/"))
		printf("ESCAPED: %d has another root\n", pid);
	char text[65536];
	snprintf(path, sizeof path, "/proc/%d/environ", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text);
	if (length > 0 && memmem(text, length, "SECRET=", 7))
		printf("ESCAPED: %d tells the host's variables\n", pid);
	if (fd >= 0)
		close(fd);
	for (int number = 3; number < 12; number++) {
		struct stat file;
		snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, number);
		if (stat(path, &file) == 0 && (S_ISDIR(file.st_mode) || S_ISREG(file.st_mode)))
			printf("ESCAPED: descriptor %d of %d is a file or directory\n", number, pid);
	}
	fflush(stdout);
}

/* Tries everything on each new process, until it ends. */
static _Noreturn void watch(void (*try)(int))
{
	int last = getpid();
	printf("looking\n");
	fflush(stdout);
	for (;;) {
		/* Ids are given in order; one that is missed is passed over by the next. */
		for (int pid = last + 1; pid < last + 200; pid++)
			for (int times = 0; times < 200 && kill(pid, 0) == 0; times++, last = pid)
				try(pid);
	}
}

/* CVE-2019-5736: waits for a process that executes the program of the host in here, opens that, and writes once it is not running. */
static int overwrite(void)
{
	int last = getpid(), held = -1;
	char path[64];
	printf("looking\n");
	fflush(stdout);
	while (held < 0) {
		for (int pid = last + 1; pid < last + 200 && held < 0; pid++)
			for (int times = 0; times < 100000 && kill(pid, 0) == 0 && held < 0; times++, last = pid)
				if (is_entering(pid)) {
					snprintf(path, sizeof path, "/proc/%d/exe", pid);
					held = open(path, O_PATH | O_CLOEXEC);
				}
	}
	printf("holds the program\n");
	fflush(stdout);
	snprintf(path, sizeof path, "/proc/self/fd/%d", held);
	/* A program that somebody runs is busy in any case; its mode shows whether the mount could be written to. */
	if (open(path, O_WRONLY | O_CLOEXEC) >= 0 || chmod(path, 0755) == 0)
		printf("ESCAPED: the program can be written to\n");
	else
		printf("refused: %s\n", strerror(errno));
	return 0;
}

/* Types into the terminal, by the number of the request and by one with high bits set. */
static int type(void)
{
	char letter = 'x';
	long requests[] = { TIOCSTI, TIOCSTI | 0x100000000L };
	for (int index = 0; index < 2; index++) {
		if (syscall(SYS_ioctl, 0, requests[index], &letter) == 0)
			printf("ESCAPED: typed\n");
		else
			printf("refused: %s\n", strerror(errno));
	}
	return 0;
}

/* Writes into the log what looks like another machine's entry, and sends descriptors that would have to be held. */
static int forge(void)
{
	static const char *const messages[] = {
		"<13>evil: one\nCORACLE_MACHINE=other\nMESSAGE=forged",
		"<13>evil[7\nCORACLE_MACHINE=other\n]: two",
		"<13>ev\nCORACLE_MACHINE=other\nil: three",
		"<99999999999999999999>four\nCORACLE_MACHINE=other",
		"<13>1 2026-11-25T13:00:00Z h a\nCORACLE_MACHINE=other\n 7 - - five",
		"<13>",
		"\nCORACLE_MACHINE=other\n",
	};
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	int log = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (log < 0 || connect(log, (struct sockaddr *)&address, sizeof address) < 0)
		return 1;
	for (size_t index = 0; index < sizeof messages / sizeof *messages; index++) {
		int held[64];
		for (size_t number = 0; number < sizeof held / sizeof *held; number++)
			held[number] = log;
		char control[CMSG_SPACE(sizeof held)] = { 0 };
		struct iovec text = { (void *)messages[index], strlen(messages[index]) };
		struct msghdr message = { .msg_iov = &text, .msg_iovlen = 1,
			.msg_control = control, .msg_controllen = sizeof control };
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof held);
		memcpy(CMSG_DATA(header), held, sizeof held);
		if (sendmsg(log, &message, 0) < 0) {
			printf("refused: %s\n", strerror(errno));
			/* A socket that takes no descriptors takes the text. */
			message.msg_control = NULL;
			message.msg_controllen = 0;
			sendmsg(log, &message, 0);
		}
	}
	printf("sent\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "overwrite"))
		return overwrite();
	if (argc > 1 && !strcmp(argv[1], "tiocsti"))
		return type();
	if (argc > 1 && !strcmp(argv[1], "forge"))
		return forge();
	watch(argc > 1 && !strcmp(argv[1], "beyond") ? try_beyond : try);
}
