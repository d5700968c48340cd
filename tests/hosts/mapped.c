// mapped DIR: writes a counter to 20 files of a directory, one after the other and without end, through mappings. A
// state of all files at one moment has at most two values, which do not increase.
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FILES = 20, SIZE = 4096 };

int main(int argc, char **argv)
{
	volatile unsigned long *maps[FILES];
	if (argc != 2 || chdir(argv[1]) != 0)
		return 2;
	for (int i = 0; i < FILES; i++) {
		char name[8];
		snprintf(name, sizeof name, "%02d", i);
		int fd = open(name, O_RDWR | O_CREAT, 0644);
		if (fd < 0 || ftruncate(fd, SIZE) != 0)
			return 3;
		maps[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (maps[i] == MAP_FAILED)
			return 4;
	}
	for (unsigned long count = 1;; count++)
		for (int i = 0; i < FILES; i++) {
			*maps[i] = count;
			if (count == 1 && i == FILES - 1 && close(open("ready", O_WRONLY | O_CREAT, 0644)) != 0)
				return 5;
		}
}
