/* Preloaded into a process (LD_PRELOAD), makes its fsync and fdatasync wait, as a disk does that stalls.
 *
 * While the file that SLOW_FSYNC_FILE names exists, each call waits for as many milliseconds as it says, or
 * until it is gone. What is synced is synced then.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STEP_MS 5

static void wait_for_disk(void)
{
    const char *name = getenv("SLOW_FSYNC_FILE");
    long milliseconds = 0;
    FILE *file = name ? fopen(name, "re") : NULL;

    if (!file)
        return;
    if (fscanf(file, "%ld", &milliseconds) != 1)
        milliseconds = 0;
    fclose(file);
    for (long waited = 0; waited < milliseconds && access(name, F_OK) == 0; waited += STEP_MS)
        usleep(STEP_MS * 1000);
}

int fsync(int descriptor)
{
    static int (*real)(int);

    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    wait_for_disk();
    return real(descriptor);
}

int fdatasync(int descriptor)
{
    static int (*real)(int);

    if (!real)
        real = dlsym(RTLD_NEXT, "fdatasync");
    wait_for_disk();
    return real(descriptor);
}
