/* cost.c: runs a command and prints its minor faults and voluntary context switches. Built and run by
 * tests/budget/host.rs.
 *
 *   cost COMMAND...       of the command and of the children that it waited for, by wait4(2)
 *   cost -e COMMAND...    of the command alone, from SIGTERM, sent at the end of the standard input, to its
 *                         exit: the cost of an end, without that of the payload
 *
 * The exit status is that of the command. Its standard output is redirected to standard error. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char text[4096];

/* Reads a file of the command in procfs. */
static const char *text_of(pid_t pid, const char *name)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
	if (length < 0)
		exit(3);
	text[length] = 0;
	close(file);
	return text;
}

/* The tenth field of proc_pid_stat(5); the second is in parentheses. */
static long faults_of(pid_t pid)
{
	long faults;
	const char *rest = strrchr(text_of(pid, "stat"), ')');
	if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %ld", &faults) != 1)
		exit(3);
	return faults;
}

static long switches_of(pid_t pid)
{
	const char *line = strstr(text_of(pid, "status"), "\nvoluntary_ctxt_switches:");
	if (!line)
		exit(3);
	return atol(strchr(line, ':') + 1);
}

int main(int argc, char **argv)
{
	struct rusage used;
	siginfo_t info;
	char byte;
	int status, end = argc > 2 && !strcmp(argv[1], "-e");
	if (argc < 2)
		return 2;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	/* Not fork(2): the child's copies of pages would be faults of the command. */
	pid_t pid = vfork();
	if (pid < 0)
		return 3;
	if (pid == 0) {
		dup2(null, 0);
		dup2(2, 1);
		execvp(argv[1 + end], argv + 1 + end);
		_exit(127);
	}
	long faults = 0, switches = 0;
	if (end) {
		while (read(0, &byte, 1) > 0)
			;
		faults = faults_of(pid);
		switches = switches_of(pid);
		/* A zombie keeps its counters until it is reaped. */
		if (kill(pid, SIGTERM) < 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0)
			return 3;
		faults = faults_of(pid) - faults;
		switches = switches_of(pid) - switches;
	}
	if (wait4(pid, &status, 0, &used) != pid)
		return 3;
	printf("%ld %ld\n", end ? faults : used.ru_minflt, end ? switches : used.ru_nvcsw);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
