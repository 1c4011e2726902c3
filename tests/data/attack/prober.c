/*
 * Look into processes of the runtime while they enter the container (CVE-2016-9962).
 *
 * prober FILE: until FILE exists, opens fd/, root, cwd, mem of every other process and prints a line for each thing
 * of the host that it reached: a descriptor that is neither a pipe nor a device of ours, a root or a working directory
 * on another mount, the memory of a program that is not in our /bin. At last it prints "looked N".
 * Processes that run our own programs are ours to see.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct stat root;
static long looked;

static int starts(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

static int ours(const char *target)
{
	return starts(target, "pipe:[") || starts(target, "/dev/") || starts(target, "/proc") || starts(target, "/bin/") ||
	       starts(target, "/seen") || !strcmp(target, "/");
}

static void probe_descriptors(const char *pid)
{
	char path[512], target[512];
	struct dirent *entry;

	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	DIR *directory = opendir(path);
	if (!directory)
		return;
	while ((entry = readdir(directory))) {
		snprintf(path, sizeof path, "/proc/%s/fd/%.20s", pid, entry->d_name);
		ssize_t size = readlink(path, target, sizeof target - 1);
		if (entry->d_name[0] == '.' || size < 0)
			continue;
		target[size] = 0;
		if (!ours(target))
			printf("descriptor %s of %s: %s\n", entry->d_name, pid, target);
	}
	closedir(directory);
}

static void probe_directory(const char *pid, const char *name)
{
	char path[64];
	struct stat found;

	snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return;
	if (!fstat(fd, &found) && found.st_dev != root.st_dev)
		printf("%s of %s is on another file system\n", name, pid);
	close(fd);
}

static void probe_memory(const char *pid)
{
	char path[64], target[512];

	snprintf(path, sizeof path, "/proc/%s/mem", pid);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	snprintf(path, sizeof path, "/proc/%s/exe", pid);
	ssize_t size = readlink(path, target, sizeof target - 1);
	if (size > 0) {
		target[size] = 0;
		if (!starts(target, "/bin/"))
			printf("memory of %s, which runs %s\n", pid, target);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	char own[16];

	if (argc != 2 || stat("/", &root))
		return 2;
	snprintf(own, sizeof own, "%d", getpid());
	while (access(argv[1], F_OK)) {
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		if (!proc)
			return 3;
		while ((entry = readdir(proc))) {
			char pid[16];
			if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !strcmp(entry->d_name, own))
				continue;
			snprintf(pid, sizeof pid, "%.12s", entry->d_name);
			looked++;
			probe_memory(pid);
			probe_directory(pid, "root");
			probe_directory(pid, "cwd");
			probe_descriptors(pid);
		}
		closedir(proc);
	}
	printf("looked %ld\n", looked);
	return 0;
}
