/* init of the virtual machine's initramfs: loads the modules in /m in the order of their names, mounts what root=
 * names and becomes systemd. Static, no shell: under software emulation every process counts. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	sleep(1);
	_exit(1);
}

static void load(const char *name)
{
	char path[300];
	int fd;

	snprintf(path, sizeof path, "/m/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	char line[4096] = "", root[128] = "/dev/vda";
	struct dirent **entries;
	int fd, count, i;
	ssize_t got;

	(void)argc;
	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mkdir("/r", 0755);
	if (mount("proc", "/proc", "proc", 0, 0) || mount("dev", "/dev", "devtmpfs", 0, "mode=755"))
		die("mount");
	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = read(fd, line, sizeof line - 1);
		line[got > 0 ? got : 0] = 0;
		close(fd);
	}
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, "root=", 5))
			snprintf(root, sizeof root, "%s", word + 5);
	count = scandir("/m", &entries, NULL, alphasort);
	for (i = 0; i < count; i++)
		if (entries[i]->d_name[0] != '.')
			load(entries[i]->d_name);
	for (i = 0; i < 2000 && access(root, F_OK); i++)
		usleep(5000);
	if (mount(root, "/r", "ext4", 0, NULL))
		die("mount the root");
	if (mount("/dev", "/r/dev", NULL, MS_MOVE, NULL) || umount("/proc"))
		die("move /dev");
	if (chdir("/r") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("switch to the root");
	execv("/usr/lib/systemd/systemd", argv);
	die("execute systemd");
}
