/* tracer.c: runs a command and writes a line to a file for each system call of its processes. Built and run
 * by tests/budget/host.rs.
 *
 *   tracer FILE COMMAND...
 *
 *   call ROLE NUMBER   a system call begins
 *   vain ROLE NUMBER   it was interrupted or had nothing to do yet (EAGAIN): it will be repeated
 *   idle ROLE          the call is the wait of a supervisor's event loop: its epoll instance has a signalfd
 *   exec ROLE          a program was executed
 *   trip ROLE SERVICE  the first answer after a request to a service: "bus" for D-Bus, "varlink"
 *
 * Roles are those of follow.h. A process other than the command is detached when it executes a program: that
 * is the payload or a program of the host. A line is written before the call continues: the file is complete
 * when the command has ended. */
#define _GNU_SOURCE
#include "../faults/follow.h"
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define FILES 256

enum service { NONE, BUS, VARLINK };

static const char *const services[] = { "", "bus", "varlink" };

static struct {
	int executed;
	/* The running call. */
	long number;
	unsigned long first, second;
	/* The descriptors of the signals and of the event loop; 0 for none. */
	long signals, loop;
	/* The service at each descriptor, and whether an answer is pending. */
	unsigned char service[FILES], pending[FILES];
} all[MOST];

static void say(const char *what, int role, const char *rest)
{
	char line[64];
	int length = snprintf(line, sizeof line, "%s %d%s\n", what, role, rest);
	if (write(report, line, length) < 0)
		_exit(3);
}

/* Returns the service at an address of connect(2). */
static enum service service_at(pid_t pid, unsigned long address, unsigned long size)
{
	struct sockaddr_un name = { .sun_family = AF_UNSPEC };
	struct iovec to = { &name, size < sizeof name ? size : sizeof name };
	struct iovec from = { (void *)address, to.iov_len };
	if (process_vm_readv(pid, &to, 1, &from, 1, 0) < 0 || name.sun_family != AF_UNIX)
		return NONE;
	name.sun_path[sizeof name.sun_path - 1] = 0;
	if (strstr(name.sun_path, "system_bus_socket") || strstr(name.sun_path, "systemd/private"))
		return BUS;
	return strstr(name.sun_path, "io.systemd.") ? VARLINK : NONE;
}

static void at_entry(int role, pid_t pid, const struct __ptrace_syscall_info *call)
{
	char rest[32];
	unsigned long file = call->entry.args[0];
	all[role].number = (long)call->entry.nr;
	all[role].first = file;
	all[role].second = call->entry.args[1];
	snprintf(rest, sizeof rest, " %ld", all[role].number);
	say("call", role, rest);
	if (file >= FILES)
		return;
	switch (all[role].number) {
	case SYS_connect:
		all[role].service[file] = service_at(pid, call->entry.args[1], call->entry.args[2]);
		break;
	case SYS_close:
		all[role].service[file] = NONE;
		all[role].pending[file] = 0;
		if ((long)file == all[role].signals)
			all[role].signals = 0;
		if ((long)file == all[role].loop)
			all[role].loop = 0;
		break;
	case SYS_epoll_ctl:
		if (call->entry.args[1] == EPOLL_CTL_ADD && all[role].signals &&
		    (long)call->entry.args[2] == all[role].signals)
			all[role].loop = (long)file;
		break;
	case SYS_epoll_wait: case SYS_epoll_pwait: case SYS_epoll_pwait2:
		if (all[role].loop && (long)file == all[role].loop)
			say("idle", role, "");
		break;
	case SYS_write: case SYS_writev: case SYS_sendto: case SYS_sendmsg:
		all[role].pending[file] = all[role].service[file] != NONE;
		break;
	}
}

static void at_exit(int role, long result)
{
	char rest[32];
	unsigned long file = all[role].first;
	/* ERESTARTSYS to ERESTART_RESTARTBLOCK of the kernel's errno.h are visible to tracers only. */
	if (result == -EAGAIN || result == -EINTR || (result <= -512 && result >= -516)) {
		snprintf(rest, sizeof rest, " %ld", all[role].number);
		say("vain", role, rest);
	}
	if (all[role].number == SYS_signalfd4 && result > 0)
		all[role].signals = result;
	if (file >= FILES || result <= 0)
		return;
	switch (all[role].number) {
	case SYS_fcntl:
		if (all[role].second != F_DUPFD && all[role].second != F_DUPFD_CLOEXEC)
			break;
		if (result < FILES)
			all[role].service[result] = all[role].service[file];
		break;
	case SYS_read: case SYS_readv: case SYS_recvfrom: case SYS_recvmsg:
		if (!all[role].pending[file])
			break;
		all[role].pending[file] = 0;
		snprintf(rest, sizeof rest, " %s", services[all[role].service[file]]);
		say("trip", role, rest);
		break;
	}
}

static int at_call(int role, pid_t pid, const struct __ptrace_syscall_info *call)
{
	/* The calls of this program before it executes the command. */
	if (role == 0 && !all[role].executed)
		return 0;
	if (call->op == PTRACE_SYSCALL_INFO_ENTRY)
		at_entry(role, pid, call);
	else if (call->op == PTRACE_SYSCALL_INFO_EXIT)
		at_exit(role, (long)call->exit.rval);
	return 0;
}

static int at_exec(int role, pid_t pid)
{
	(void)pid;
	all[role].executed = 1;
	all[role].signals = all[role].loop = 0;
	say("exec", role, "");
	return role != 0;
}

int main(int argc, char **argv)
{
	return argc < 3 ? 2 : follow(argv[1], argv + 2);
}
