/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Programs with a mistake that a tool must find, or its silence about the others would say nothing.  The memory is the
   library's, so this shows too that the tool looks into it.  */
#include "check.h"

#include <pthread.h>

static int shared;

static void *add(void *data)
{
    for (int i = 0; i < 1000; i++)
        shared++;
    return data;
}

int main(int argc, char **argv)
{
    const char *mistake = argc == 2 ? argv[1] : "";
    guix_offload_machine *machine = NULL;

    SUCCEEDS(guix_offload_machine_new, &machine, "m", "x86_64-linux", "u", HOST_KEY);
    if (strcmp(mistake, "leak") == 0) {
        machine = NULL;
    } else if (strcmp(mistake, "use-after-free") == 0) {
        const char *volatile name = guix_offload_machine_name(machine);
        guix_offload_machine_free(machine);
        printf("%c\n", *name);
    } else if (strcmp(mistake, "overflow") == 0) {
        volatile int number = INT32_MAX;
        guix_offload_machine_free(machine);
        number = number + 1;
    } else if (strcmp(mistake, "race") == 0) {
        pthread_t thread;
        guix_offload_machine_free(machine);
        CHECK(pthread_create(&thread, NULL, add, NULL) == 0);
        add(NULL);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    return 0;
}
