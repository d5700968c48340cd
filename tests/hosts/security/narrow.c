/* A program for 32 bit x86 without a C library: it creates an Internet socket as the C libraries of that architecture do,
 * by socketcall(2), and ends with 0 if that succeeds. Built with -m32 -nostdlib -static. */

static int call(int number, int first, const void *second)
{
	int result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second) : "memory");
	return result;
}

void _start(void)
{
	static const int inet_stream[] = { 2, 1, 0 };
	int made = call(102, 1, inet_stream);
	call(1, made < 0 ? -made : 0, 0);
	for (;;)
		;
}
