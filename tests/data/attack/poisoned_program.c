/* Stands for mount, ip, newuidmap …: a program of the container that nobody but the container may run. */
#include <fcntl.h>
#include <unistd.h>

int main(void)
{
	close(open("/poisoned", O_CREAT | O_WRONLY, 0644));
	return 0;
}
