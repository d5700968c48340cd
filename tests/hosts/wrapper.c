/* An init that prepares something and becomes the program at the path it reads. Built by `inits`. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char path[4096];
	FILE *file = fopen("/etc/real-init", "r");

	(void)argc;
	if (!file || !fgets(path, sizeof(path), file))
		return 1;
	path[strcspn(path, "\n")] = 0;
	argv[0] = path;
	execv(path, argv);
	return 1;
}
