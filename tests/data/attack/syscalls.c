/* syscalls NUMBER...: calls each with arguments that can do no harm and prints "NUMBER ERRNO". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		errno = 0;
		long answer = syscall(atol(argv[i]), -1, 0, 0, -1, -1, -1);
		printf("%s %d\n", argv[i], answer < 0 ? errno : 0);
	}
	return 0;
}
