/* faulty.c: runs a command and lets one system call of one of its processes fail, or kills the process at
 * that call. Built and run by tests/hosts/matrix.rs.
 *
 *   faulty count|error|kill ROLE NUMBER FILE COMMAND...
 *
 * Roles are numbered in order of creation: 0 is the command, 1 its first child, 2 its second. The calls of
 * each role are counted separately, so that the numbers do not depend on scheduling. `count` writes "ROLE
 * NUMBER CALL" to the file for every call; `error` and `kill` write their action. A process is detached
 * when it executes another program; the command is detached when it waits for events after executing
 * itself again. Later calls are not counted. The command remains a child of the caller; the tracer is a
 * detached process without a parent in the test. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

enum mode { COUNT, ERROR, KILL };

struct process {
	pid_t pid;
	int role, inside, executions;
	long calls;
	int failing;
};

static struct process all[64];
static int processes;
static enum mode mode;
static int wanted_role;
static long wanted_call;
static int report;

/* Returns 0 for calls that affect only the memory, the time, the limits or the end of the process itself. */
static int is_counted(long number)
{
	switch (number) {
	case SYS_mmap: case SYS_munmap: case SYS_mprotect: case SYS_brk: case SYS_madvise: case SYS_mremap: case SYS_futex:
	case SYS_rt_sigaction: case SYS_rt_sigprocmask: case SYS_rt_sigreturn: case SYS_sigaltstack: case SYS_exit:
	case SYS_exit_group: case SYS_clock_gettime: case SYS_getpid: case SYS_gettid: case SYS_getrandom:
	case SYS_arch_prctl: case SYS_set_tid_address: case SYS_set_robust_list: case SYS_rseq: case SYS_prlimit64:
	case SYS_sched_getaffinity: case SYS_sched_yield: case SYS_restart_syscall:
		return 0;
	}
	return 1;
}

static void say(const char *what, const struct process *one, long call)
{
	char line[64];
	int length = snprintf(line, sizeof line, "%s%d %ld %ld\n", what, one->role, one->calls, call);
	if (write(report, line, length) < 0)
		_exit(3);
}

static struct process *find(pid_t pid)
{
	for (int i = 0; i < processes; i++)
		if (all[i].pid == pid)
			return &all[i];
	if (processes == sizeof all / sizeof *all)
		_exit(3);
	all[processes] = (struct process){ .pid = pid, .role = processes };
	return &all[processes++];
}

/* Handles the entry or exit of a system call. Returns whether to detach the process. */
static int at_call(struct process *one)
{
	struct __ptrace_syscall_info call;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, one->pid, sizeof call, &call) <= 0)
		return 0;
	if (call.op == PTRACE_SYSCALL_INFO_EXIT) {
		if (one->failing) {
			struct user_regs_struct registers;
			one->failing = 0;
			ptrace(PTRACE_GETREGS, one->pid, 0, &registers);
			registers.rax = (unsigned long long)-EIO;
			ptrace(PTRACE_SETREGS, one->pid, 0, &registers);
		}
		return 0;
	}
	long number = (long)call.entry.nr;
	if (call.op != PTRACE_SYSCALL_INFO_ENTRY || !is_counted(number))
		return 0;
	if (one->role == 0 && one->executions > 1 && (number == SYS_epoll_wait || number == SYS_epoll_pwait))
		return 1;
	one->calls++;
	if (mode == COUNT)
		say("", one, number);
	if (mode == COUNT || one->role != wanted_role || one->calls != wanted_call)
		return 0;
	say(mode == ERROR ? "error " : "kill ", one, number);
	if (mode == KILL) {
		kill(one->pid, SIGKILL);
		return 0;
	}
	/* Make the call fail: -1 is not a system call. */
	struct user_regs_struct registers;
	ptrace(PTRACE_GETREGS, one->pid, 0, &registers);
	/* A failing close(2) closes the descriptor as well: execute it. */
	if (number != SYS_close)
		registers.orig_rax = (unsigned long long)-1;
	ptrace(PTRACE_SETREGS, one->pid, 0, &registers);
	one->failing = 1;
	return 0;
}

static void trace(void)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR;) {
		if (pid < 0 || !WIFSTOPPED(status))
			continue;
		struct process *one = find(pid);
		int signal = WSTOPSIG(status), event = status >> 16, leave = 0;
		if (signal == (SIGTRAP | 0x80)) {
			leave = at_call(one);
			signal = 0;
		} else if (event == PTRACE_EVENT_EXEC) {
			/* The command is executed twice: by this program and by itself. */
			leave = one->role != 0 || ++one->executions > 2;
			signal = 0;
		} else if (event == PTRACE_EVENT_STOP) {
			signal = 0;
		} else if (event) {
			unsigned long child;
			ptrace(PTRACE_GETEVENTMSG, pid, 0, &child);
			find((pid_t)child);
			signal = 0;
		}
		ptrace(leave ? PTRACE_DETACH : PTRACE_SYSCALL, pid, 0, signal);
	}
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	mode = !strcmp(argv[1], "count") ? COUNT : !strcmp(argv[1], "error") ? ERROR : KILL;
	wanted_role = atoi(argv[2]);
	wanted_call = atol(argv[3]);
	report = open(argv[4], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int ready[2];
	char byte;
	pid_t command = getpid();
	if (report < 0 || pipe2(ready, O_CLOEXEC) < 0)
		return 3;
	pid_t between = fork();
	if (between == 0) {
		if (fork() != 0)
			_exit(0);
		setsid();
		long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
			       PTRACE_O_TRACEEXEC;
		if (ptrace(PTRACE_SEIZE, command, 0, options) < 0)
			_exit(3);
		ptrace(PTRACE_INTERRUPT, command, 0, 0);
		find(command);
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
	execv(argv[5], argv + 5);
	return 3;
}
