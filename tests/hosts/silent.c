/* Mounts a file system that never answers in the mount namespace of a process: silent PID DIRECTORY. Prints a
 * line when it is mounted. Built by `exec`. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char path[64], options[128];
	int device = open("/dev/fuse", O_RDWR), namespace;

	if (argc != 3)
		return 2;
	snprintf(path, sizeof(path), "/proc/%s/ns/mnt", argv[1]);
	namespace = open(path, O_RDONLY);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
	if (namespace < 0 || setns(namespace, CLONE_NEWNS) < 0 || mount("silent", argv[2], "fuse", 0, options) < 0) {
		perror("silent");
		return 1;
	}
	puts("mounted");
	fflush(stdout);
	for (;;)
		pause();
}
