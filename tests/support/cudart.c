/* A CUDA runtime that is not there: it keeps the flags of its device, and fails as CUDART_ERROR says. What it is asked
   for goes into the file CUDART_LOG. */
#include <stdio.h>
#include <stdlib.h>

static unsigned int kept;

static int error(void) {
    const char *text = getenv("CUDART_ERROR");
    return text ? atoi(text) : 0;
}

int cudaSetDeviceFlags(unsigned int flags) {
    const char *path = getenv("CUDART_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%u\n", flags);
        fclose(log);
    }
    if (!error())
        kept = flags;
    return error();
}

int cudaGetDeviceFlags(unsigned int *flags) {
    *flags = kept | 0x08; /* and one that has nothing to do with waiting */
    return error();
}
