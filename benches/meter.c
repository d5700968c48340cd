/* meter.c: runs a command once and prints its cost on one line:
 *   wall microseconds; of it and its reaped children: user and system microseconds, peak KiB, minor faults,
 *   voluntary context switches; exit status
 * It is a separate small static program, because the peak memory of a child is never below that of its parent
 * (getrusage(2), ru_maxrss). The output of the command is redirected to standard error.
 *
 * usage: meter COMMAND [ARGUMENT...]
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long since(const struct timespec *from)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - from->tv_sec) * 1000000 + (now.tv_nsec - from->tv_nsec) / 1000;
}

int main(int argc, char **argv)
{
	struct timespec from;
	struct rusage used;
	int status;
	long took;
	pid_t pid;

	if (argc < 2)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &from);
	pid = vfork();
	if (pid < 0)
		return 2;
	if (!pid) {
		dup2(2, 1);
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	if (wait4(pid, &status, 0, &used) != pid)
		return 2;
	took = since(&from);
	printf("%ld %ld %ld %ld %ld %ld %d\n", took, used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec,
	       used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec, used.ru_maxrss,
	       used.ru_minflt, used.ru_nvcsw, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
