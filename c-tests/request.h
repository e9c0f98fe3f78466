/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests as tests/lab/builds.scm prints them: `derivation SYSTEM FILE`, `input ITEM`..., `output ITEM`..., `end`.  */
#ifndef REQUEST_H
#define REQUEST_H

#include "world.h"

#define SYSTEM "x86_64-linux"

/* An engine of the kind that TEST_ENGINE says: `keeper`, or one that does its jobs in this process.  */
static inline int has_keeper(void)
{
    const char *kind = getenv("TEST_ENGINE");
    return kind != NULL && strcmp(kind, "keeper") == 0;
}

static inline guix_offload_engine *new_engine(void)
{
    guix_offload_engine *engine = NULL;
    if (has_keeper())
        SUCCEEDS(guix_offload_engine_connect, &engine);
    else
        SUCCEEDS(guix_offload_engine_new, &engine);
    return engine;
}

/* The next request in a file; NULL: there are no more.  */
static inline guix_offload_request *next_request(FILE *file)
{
    guix_offload_request *request = NULL;
    char kind[16], system[64], item[4096];
    while (fscanf(file, "%15s", kind) == 1 && strcmp(kind, "end") != 0) {
        CHECK(strcmp(kind, "derivation") != 0 || fscanf(file, "%63s", system) == 1);
        CHECK(fscanf(file, "%4095s", item) == 1);
        if (strcmp(kind, "derivation") == 0)
            SUCCEEDS(guix_offload_request_new, &request, system, item);
        else if (strcmp(kind, "input") == 0)
            SUCCEEDS(guix_offload_request_add_input, request, item);
        else
            SUCCEEDS(guix_offload_request_add_output, request, item);
    }
    return request;
}

/* The only request in a file of that name.  */
static inline guix_offload_request *read_request(const char *name)
{
    FILE *file = fopen(name, "r");
    CHECK(file != NULL);
    guix_offload_request *request = next_request(file);
    CHECK(request != NULL && next_request(file) == NULL);
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
