/* reference.c: the filter that libseccomp creates from a list, as the reference of the unit tests of
 * `plan::filter`. Reads lines "NAME allow|refuse|absent" and writes one program for all architectures to
 * the file given as argument. Prints a line "NAME X86-64 I386 AARCH64 X32" with the numbers of each call
 * known to libseccomp, -1 where the architecture lacks the call. Absent and unknown calls, and all
 * interfaces without rules, return ENOSYS. */
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t arches[] = { SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_AARCH64, SCMP_ARCH_X32 };

static void check(int result, const char *doing)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", doing, strerror(-result));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	char name[64], word[16];
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	if (argc != 2 || !filter)
		return 2;
	check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS)), "bad architectures");
	for (int i = 0; i < 3; i++)
		if (arches[i] != seccomp_arch_native())
			check(seccomp_arch_add(filter, arches[i]), "add an architecture");
	while (scanf("%63s %15s", name, word) == 2) {
		int known = 0, numbers[4];
		for (int i = 0; i < 4; i++) {
			/* Calls multiplexed by socketcall(2) and ipc(2) have negative numbers. */
			int number = seccomp_syscall_resolve_name_arch(arches[i], name);
			if (arches[i] == SCMP_ARCH_X32 && number >= 0)
				number &= ~0x40000000;
			known |= number != __NR_SCMP_ERROR;
			numbers[i] = number >= 0 ? number : -1;
		}
		if (!known)
			continue;
		printf("%s %d %d %d %d\n", name, numbers[0], numbers[1], numbers[2], numbers[3]);
		if (!strcmp(word, "absent"))
			continue;
		uint32_t action = !strcmp(word, "allow") ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM);
		int number = seccomp_syscall_resolve_name(name);
		check(seccomp_rule_add(filter, action, number, 0), name);
	}
	int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	check(seccomp_export_bpf(filter, fd), "export");
	return 0;
}
