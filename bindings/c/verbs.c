/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One build, step by step: choose a machine, send it what it lacks, build, retrieve the outputs.

     verbs SYSTEM DERIVATION

   The machines are those of /etc/guix/machines.scm.  Run it as the user that the store belongs to.  The outputs are
   locked, so that no daemon makes the same ones meanwhile.  A build hook need not do that: guix-daemon holds the locks
   while its hook works.  */

#include <stdio.h>

#include <guix-offload.h>

static int show_progress(void *what, uint64_t bytes, uint64_t total)
{
    fprintf(stderr, "\r%s: %llu of %llu bytes", (const char *) what, (unsigned long long) bytes,
            (unsigned long long) total);
    return 0; /* anything else would cancel */
}

static int print_log(void *file, const char *text, size_t length)
{
    return fwrite(text, 1, length, file) != length;
}

/* The four verbs.  */
static int offload(const guix_offload_engine *engine, const guix_offload_machines *machines,
                   const guix_offload_request *request, guix_offload_error **error)
{
    guix_offload_lease *lease = NULL;
    guix_offload_connection *machine;
    guix_offload_items *sent = NULL;
    int32_t reply;
    int status = guix_offload_choose(&lease, &reply, engine, machines, request, NULL, error);

    if (status != GUIX_OFFLOAD_OK)
        return status;
    if (reply != GUIX_OFFLOAD_ACCEPT) {
        fputs(reply == GUIX_OFFLOAD_DECLINE ? "no machine can do this\n" : "no machine is free\n", stderr);
        return 1;
    }
    machine = guix_offload_lease_connection(lease);
    fprintf(stderr, "building on %s\n", guix_offload_machine_name(guix_offload_connection_machine(machine)));
    status = guix_offload_send(machine, request, show_progress, "sent", &sent, error);
    for (size_t i = 0; guix_offload_items_get(sent, i) != NULL; i++)
        printf("sent %s\n", guix_offload_items_get(sent, i));
    guix_offload_items_free(sent);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_build(machine, request, -1, print_log, stderr, error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_retrieve(machine, request, show_progress, "retrieved", error);
    guix_offload_lease_free(lease); /* the build slot is free again */
    return status;
}

int main(int argc, char **argv)
{
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = NULL;
    guix_offload_request *request = NULL;
    guix_offload_error *error = NULL;
    size_t missing = 0;
    int status;

    if (argc != 3) {
        fprintf(stderr, "Usage: %s SYSTEM DERIVATION\n", argv[0]);
        return 1;
    }
    status = guix_offload_engine_new(&engine, &error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_machines_load(&machines, "/etc/guix/machines.scm", &error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_request_new(&request, argv[1], argv[2], &error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_request_add_closure(request, engine, NULL, &error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_request_lock_outputs(request, engine, NULL, &missing, &error);
    if (status == GUIX_OFFLOAD_OK && missing > 0)
        status = offload(engine, machines, request, &error);
    else if (status == GUIX_OFFLOAD_OK)
        fputs("all outputs are there\n", stderr);
    if (error != NULL)
        fprintf(stderr, "error: %s\n", guix_offload_error_message(error));
    if (guix_offload_error_hint(error) != NULL)
        fprintf(stderr, "hint: %s\n", guix_offload_error_hint(error));
    guix_offload_error_free(error);
    guix_offload_request_free(request); /* the outputs are unlocked */
    guix_offload_machines_free(machines);
    guix_offload_engine_free(engine);
    return status != GUIX_OFFLOAD_OK;
}
