/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests that the farm's tests write into files: the derivation, a line; its output, a line; the inputs, one a line.  */
#ifndef REQUEST_H
#define REQUEST_H

#include "world.h"

#define SYSTEM "x86_64-linux"

static inline guix_offload_request *read_request(const char *name)
{
    guix_offload_request *request = NULL;
    char item[4096], output[4096];
    FILE *file = fopen(name, "r");
    CHECK(file != NULL && fscanf(file, "%4095s %4095s", item, output) == 2);
    SUCCEEDS(guix_offload_request_new, &request, SYSTEM, item);
    SUCCEEDS(guix_offload_request_add_output, request, output);
    while (fscanf(file, "%4095s", item) == 1)
        SUCCEEDS(guix_offload_request_add_input, request, item);
    fclose(file);
    return request;
}

static inline guix_offload_machines *load_machines(void)
{
    guix_offload_machines *machines = NULL;
    SUCCEEDS(guix_offload_machines_load, &machines, "/etc/guix/machines.scm");
    CHECK(guix_offload_machines_count(machines) > 0);
    return machines;
}

#endif /* REQUEST_H */
