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

static void *cancel_soon(void *data)
{
    pause_ms(50);
    guix_offload_cancellation_cancel(data);
    return NULL;
}

/* Gives this host a signing key.  */
static void make_key(const struct world *world)
{
    char name[80];
    FILE *key;

    snprintf(name, sizeof name, "%s/signing-key.pub", world->directory);
    key = fopen(name, "w");
    CHECK(key != NULL && fputs("(public-key (ecc (curve Ed25519) (q #AB#)))", key) >= 0 && fclose(key) == 0);
}

/* A machine that takes connections and says nothing is not waited for once the call is cancelled.  */
static void waiting_for_a_new_machine_is_stopped(void)
{
    for (int exchanges = 0; exchanges < 2; exchanges++) {
        struct world world = new_world(SILENT);
        guix_offload_cancellation *cancellation = NULL;
        guix_offload_report *report = UNTOUCHED;
        pthread_t thread;
        char host[32];
        double begun;

        make_key(&world);
        snprintf(host, sizeof host, "127.0.0.1:%u", (unsigned) guix_offload_machine_port(machine_of(&world)));
        SUCCEEDS(guix_offload_cancellation_new, &cancellation);
        begun = now();
        CHECK(pthread_create(&thread, NULL, cancel_soon, cancellation) == 0);
        if (exchanges)
            FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_authorize_cancellable, &report, world.engine,
                  machine_of(&world), NULL, cancellation);
        else
            FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_scan_cancellable, &report, world.engine, host, NULL, NULL, NULL,
                  cancellation);
        CHECK(now() - begun > 0.045 && now() - begun < 5);
        CHECK(pthread_join(thread, NULL) == 0 && report == UNTOUCHED);
        guix_offload_cancellation_free(cancellation);
        free_world(&world);
    }
}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    RUN(a_host_that_is_down_is_not_described);
    RUN(waiting_for_a_new_machine_is_stopped);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
