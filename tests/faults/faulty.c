/* faulty.c: runs a command and lets one system call of one of its processes fail, or kills or terminates the
 * process at that call. Built and run by tests/hosts/matrix.rs.
 *
 *   faulty count|error|kill|term ROLE NUMBER FILE COMMAND...
 *
 * Roles are those of follow.h. The calls of each role are counted separately, so that the numbers do not
 * depend on scheduling. `count` writes "ROLE NUMBER CALL" to the file for every call; the others
 * write their action. A process is detached when it executes another program; the command is detached when it
 * waits for events after executing itself again. Later calls are not counted. FAULTY_EXECUTIONS is the number
 * of executions of the command, by default 2: by this program and by itself. With FAULTY_FOLLOWED, the process of
 * that role is not detached when it executes another program, and the command is when it does. */
#define _GNU_SOURCE
#include "follow.h"

enum mode { COUNT, ERROR, KILL, TERM };

static struct process {
	int executions;
	long calls;
	int failing;
} all[MOST];
static enum mode mode;
static int wanted_role;
static long wanted_call;
static int executions = 2;
static int followed = -1;

/* Returns 0 for calls that affect only the memory, the time, the limits or the end of the process itself, and for
 * umask(2), which cannot fail. */
static int is_counted(long number)
{
	switch (number) {
	case SYS_mmap: case SYS_munmap: case SYS_mprotect: case SYS_brk: case SYS_madvise: case SYS_mremap: case SYS_futex:
	case SYS_rt_sigaction: case SYS_rt_sigprocmask: case SYS_rt_sigreturn: case SYS_sigaltstack: case SYS_exit:
	case SYS_exit_group: case SYS_clock_gettime: case SYS_getpid: case SYS_gettid: case SYS_getrandom:
	case SYS_arch_prctl: case SYS_set_tid_address: case SYS_set_robust_list: case SYS_rseq: case SYS_prlimit64:
	case SYS_umask: case SYS_sched_getaffinity: case SYS_sched_yield: case SYS_restart_syscall:
		return 0;
	}
	return 1;
}

static void say(const char *what, int role, long call)
{
	char line[64];
	int length = snprintf(line, sizeof line, "%s%d %ld %ld\n", what, role, all[role].calls, call);
	if (write(report, line, length) < 0)
		_exit(3);
}

static int at_call(int role, pid_t pid, const struct __ptrace_syscall_info *call)
{
	struct process *one = &all[role];
	struct user_regs_struct registers;
	if (call->op == PTRACE_SYSCALL_INFO_EXIT) {
		if (one->failing) {
			one->failing = 0;
			ptrace(PTRACE_GETREGS, pid, 0, &registers);
			registers.rax = (unsigned long long)-EIO;
			ptrace(PTRACE_SETREGS, pid, 0, &registers);
		}
		return 0;
	}
	long number = (long)call->entry.nr;
	if (call->op != PTRACE_SYSCALL_INFO_ENTRY || !is_counted(number))
		return 0;
	if (role == 0 && one->executions >= executions && (number == SYS_epoll_wait || number == SYS_epoll_pwait))
		return 1;
	one->calls++;
	if (mode == COUNT)
		say("", role, number);
	if (mode == COUNT || role != wanted_role || one->calls != wanted_call)
		return 0;
	say(mode == ERROR ? "error " : mode == KILL ? "kill " : "term ", role, number);
	if (mode != ERROR) {
		kill(pid, mode == KILL ? SIGKILL : SIGTERM);
		return 0;
	}
	/* Make the call fail: -1 is not a system call. */
	ptrace(PTRACE_GETREGS, pid, 0, &registers);
	/* A failing close(2) closes the descriptor as well: execute it. */
	if (number != SYS_close)
		registers.orig_rax = (unsigned long long)-1;
	ptrace(PTRACE_SETREGS, pid, 0, &registers);
	one->failing = 1;
	return 0;
}

static int at_exec(int role, pid_t pid)
{
	(void)pid;
	if (followed >= 0 && role == followed)
		return 0;
	return role != 0 || ++all[role].executions > executions;
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	mode = !strcmp(argv[1], "count") ? COUNT : !strcmp(argv[1], "error") ? ERROR : !strcmp(argv[1], "kill") ? KILL : TERM;
	wanted_role = atoi(argv[2]);
	wanted_call = atol(argv[3]);
	if (getenv("FAULTY_EXECUTIONS"))
		executions = atoi(getenv("FAULTY_EXECUTIONS"));
	if (getenv("FAULTY_FOLLOWED"))
		followed = atoi(getenv("FAULTY_FOLLOWED"));
	return follow(argv[4], argv + 5);
}
