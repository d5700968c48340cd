/* Attacks of root or a user of a machine that delay the host processes serving the machine:
 *   linger PATH    sends 12 sockets that take 300 s to close to the datagram socket PATH
 *   server DIR     mounts a FUSE file system on DIR with a server that answers the first request only
 *   nest DEPTH     nests cgroups with names of 250 letters, and moves itself and PID 1 to the innermost one
 *   prints LINES   writes LINES lines to /dev/console
 * Built by tests/hosts/prolonged.rs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* More than the queue length of a socket (net.unix.max_dgram_qlen). */
enum { SOCKETS = 12 };

static int filled(struct sockaddr_in *to)
{
	static char bytes[4096];
	int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;
	struct linger late = { 1, 300 };
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	if (connect(fd, (struct sockaddr *)to, sizeof *to)) {
		perror("connect");
		exit(1);
	}
	while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
		;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &late, sizeof late);
	return fd;
}

/* Sends one message with one descriptor; returns a negative error number on failure. */
static int pass(int to, const char *path, int fd)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char text[] = "READY=0", space[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec part = { text, sizeof text - 1 };
	struct msghdr message = { .msg_name = &at, .msg_namelen = sizeof at, .msg_iov = &part, .msg_iovlen = 1,
				  .msg_control = space, .msg_controllen = sizeof space };
	struct cmsghdr *control = CMSG_FIRSTHDR(&message);
	strncpy(at.sun_path, path, sizeof at.sun_path - 1);
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(control), &fd, sizeof fd);
	return sendmsg(to, &message, 0) < 0 ? -errno : 0;
}

static void *closes(void *fd)
{
	close(*(int *)fd);
	return NULL;
}

static int lingers(const char *path)
{
	pthread_t thread;
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof here;
	int listener = socket(AF_INET, SOCK_STREAM, 0), small = 4096, fds[SOCKETS];
	int to = socket(AF_UNIX, SOCK_DGRAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
	bind(listener, (struct sockaddr *)&here, sizeof here);
	listen(listener, SOCKETS);
	getsockname(listener, (struct sockaddr *)&here, &length);
	for (int i = 0; i < SOCKETS; i++)
		fds[i] = filled(&here);
	for (int i = 0; i < SOCKETS; i++) {
		int sent = pass(to, path, fds[i]);
		printf("%s\n", sent ? strerror(-sent) : "sent");
		fflush(stdout);
		/* If the message has already been received and closed, this close is the last one and
		 * takes long: do it in a thread. The socket of a rejected message stays open. */
		if (!sent && pthread_create(&thread, NULL, closes, &fds[i]))
			exit(1);
	}
	pause();
	return 0;
}

static int never_answers(const char *directory)
{
	static char request[1 << 18];
	char options[64];
	int fd = open("/dev/fuse", O_RDWR);
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd);
	if (fd < 0 || mount("nobody", directory, "fuse", MS_NOSUID | MS_NODEV, options)) {
		perror("fuse");
		return 1;
	}
	struct fuse_in_header *in = (struct fuse_in_header *)request;
	while (read(fd, request, sizeof request) > 0) {
		if (in->opcode != FUSE_INIT)
			continue;
		struct {
			struct fuse_out_header header;
			struct fuse_init_out body;
		} out = { { sizeof out, 0, in->unique }, { .major = 7, .minor = 31, .max_write = 4096 } };
		if (write(fd, &out, sizeof out) < 0)
			perror("answer");
		printf("serving\n");
		fflush(stdout);
	}
	return 0;
}

static int nests(int depth)
{
	static char name[251];
	int at = open("/sys/fs/cgroup", O_DIRECTORY | O_RDONLY);
	memset(name, 'n', sizeof name - 1);
	for (int level = 0; level < depth; level++) {
		int made = mkdirat(at, name, 0755), next = openat(at, name, O_DIRECTORY | O_RDONLY);
		if (made || next < 0) {
			perror("nest");
			return 1;
		}
		close(at);
		at = next;
	}
	int procs = openat(at, "cgroup.procs", O_WRONLY);
	if (write(procs, "0", 1) != 1 || write(procs, "1", 1) != 1) {
		perror("enter");
		return 1;
	}
	printf("nested\n");
	fflush(stdout);
	pause();
	return 0;
}

static int prints(long lines)
{
	FILE *console = fopen("/dev/console", "w");
	for (long line = 0; console && line < lines; line++)
		fprintf(console, "noise %ld\n", line);
	return console && fclose(console) == 0 ? 0 : 1;
}

int main(int count, char **words)
{
	if (count == 3 && !strcmp(words[1], "linger"))
		return lingers(words[2]);
	if (count == 3 && !strcmp(words[1], "server"))
		return never_answers(words[2]);
	if (count == 3 && !strcmp(words[1], "nest"))
		return nests(atoi(words[2]));
	if (count == 3 && !strcmp(words[1], "prints"))
		return prints(atol(words[2]));
	return 2;
}
