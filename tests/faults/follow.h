/* follow.h: executes a command under a tracer that follows all of its processes. Included by faulty.c and by
 * tests/budget/tracer.c, which define the two functions declared here.
 *
 * Processes and threads have roles, numbered in order of creation: 0 is the command, 1 its first child, 2 its
 * second. The command remains a child of the caller; the tracer is a detached process without a parent in the
 * test. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 64

/* The request that continues a process. With STEPS, it stops after each instruction, too. */
#ifdef STEPS
#define CONTINUE PTRACE_SINGLESTEP
#else
#define CONTINUE PTRACE_SYSCALL
#endif

static pid_t pids[MOST];
static int processes;
static int report;

/* Handles the entry or exit of a system call. Returns whether to detach the process. */
static int at_call(int role, pid_t pid, const struct __ptrace_syscall_info *call);

#ifdef STEPS
/* Handles a stop after an instruction. */
static void at_step(pid_t pid);
#endif

/* Handles the execution of a program. Returns whether to detach the process. */
static int at_exec(int role, pid_t pid);

static int role_of(pid_t pid)
{
	for (int role = 0; role < processes; role++)
		if (pids[role] == pid)
			return role;
	if (processes == MOST)
		_exit(3);
	pids[processes] = pid;
	return processes++;
}

static void trace(void)
{
	struct __ptrace_syscall_info call;
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;) {
		if (pid < 0 || !WIFSTOPPED(status))
			continue;
		int role = role_of(pid), signal = WSTOPSIG(status), event = status >> 16, leave = 0;
		if (signal == (SIGTRAP | 0x80)) {
			if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call) > 0)
				leave = at_call(role, pid, &call);
			signal = 0;
#ifdef STEPS
		} else if (signal == SIGTRAP && !event) {
			at_step(pid);
			signal = 0;
#endif
		} else if (event == PTRACE_EVENT_EXEC) {
			leave = at_exec(role, pid);
			signal = 0;
		} else if (event == PTRACE_EVENT_STOP) {
			signal = 0;
		} else if (event) {
			unsigned long child;
			ptrace(PTRACE_GETEVENTMSG, pid, 0, &child);
			role_of((pid_t)child);
			signal = 0;
		}
		ptrace(leave ? PTRACE_DETACH : CONTINUE, pid, 0, signal);
	}
}

/* Opens the report and executes the command under the tracer. Returns the exit status of a failure. */
static int follow(const char *file, char **command)
{
	int ready[2];
	char byte;
	pid_t own = getpid();
	report = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (report < 0 || pipe2(ready, O_CLOEXEC) < 0)
		return 3;
	pid_t between = fork();
	if (between == 0) {
		if (fork() != 0)
			_exit(0);
		setsid();
		long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
			       PTRACE_O_TRACEEXEC;
		if (ptrace(PTRACE_SEIZE, own, 0, options) < 0)
			_exit(3);
		ptrace(PTRACE_INTERRUPT, own, 0, 0);
		role_of(own);
		close(ready[0]);
		if (write(ready[1], "x", 1) < 0)
			_exit(3);
		close(ready[1]);
		/* Do not hold the streams of the command open. */
		for (int fd = 0; fd < 3; fd++)
			close(fd);
		trace();
		_exit(0);
	}
	close(ready[1]);
	waitpid(between, NULL, 0);
	if (read(ready[0], &byte, 1) != 1)
		return 3;
	close(ready[0]);
	execv(command[0], command);
	return 3;
}
