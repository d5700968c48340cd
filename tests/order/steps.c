/* steps.c: runs a command, and reports each address of its text in the order of its first execution, by it or by one of
 * its processes, until they execute another program. Built and run by order.sh.
 *
 *   steps REPORT COMMAND... */
#define _GNU_SOURCE
#define STEPS
#include "../faults/follow.h"
#include <stddef.h>
#include <sys/stat.h>

/* The text of the program lies below: it is linked at a fixed address. */
#define LIMIT (64UL << 20)

static unsigned char seen[LIMIT];
static struct stat program;

static void at_step(pid_t pid)
{
	errno = 0;
	unsigned long address = (unsigned long)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
	if (errno || address >= LIMIT || seen[address])
		return;
	seen[address] = 1;
	dprintf(report, "%lx\n", address);
}

static int at_call(int role, pid_t pid, const struct __ptrace_syscall_info *call)
{
	(void)role, (void)pid, (void)call;
	return 0;
}

static int at_exec(int role, pid_t pid)
{
	char link[64];
	struct stat now;
	(void)role;
	snprintf(link, sizeof link, "/proc/%d/exe", pid);
	return stat(link, &now) < 0 || now.st_dev != program.st_dev || now.st_ino != program.st_ino;
}

int main(int argc, char **argv)
{
	if (argc < 3 || stat(argv[2], &program) < 0)
		return 2;
	return follow(argv[1], argv + 2);
}
