/* A library that leaves a file where it was loaded: whoever has it in their process ran code of the container. */
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	close(open("/poisoned", O_CREAT | O_WRONLY, 0644));
}
