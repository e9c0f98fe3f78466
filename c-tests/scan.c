/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A machine that no machine file has yet.  Starts ssh-keygen.  */
#include "world.h"

/* A host that refuses connections cannot be scanned.  */
static void a_host_that_is_down_is_not_described(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *report = UNTOUCHED;
    char host[32];

    snprintf(host, sizeof host, "127.0.0.1:%u", (unsigned) guix_offload_machine_port(machine_of(&world)));
    FAILS(GUIX_OFFLOAD_UNAVAILABLE, guix_offload_scan, &report, world.engine, host, NULL, NULL, NULL);
    REJECTS(guix_offload_scan, &report, world.engine, "w1:ssh", NULL, NULL, NULL);
    REJECTS(guix_offload_scan, &report, world.engine, NULL, "u", NULL, NULL);
    REJECTS(guix_offload_scan, &report, world.engine, "w1", NOT_UTF8, NULL, NULL);
    REJECTS(guix_offload_scan, &report, NULL, "w1", NULL, NULL, NULL);
    REJECTS(guix_offload_scan, NULL, world.engine, "w1", NULL, NULL, NULL);
    CHECK(report == UNTOUCHED);
    free_world(&world);
}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    RUN(a_host_that_is_down_is_not_described);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
