/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Verbs that block, stopped from another thread; live.c stops those that need a machine.  */
#include "world.h"

static void no_cancellation(void)
{
    guix_offload_cancellation_cancel(NULL);
    guix_offload_cancellation_free(NULL);
    REJECTS(guix_offload_cancellation_new, NULL);
}

/* Cancels after a while; the verbs would block for 15 s.  */
static void *cancel_soon(void *data)
{
    pause_ms(50);
    guix_offload_cancellation_cancel(data);
    return NULL;
}

static void check_stopped(int choosing)
{
    struct world world = new_world(SILENT);
    guix_offload_cancellation *cancellation = NULL;
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_lease *lease = UNTOUCHED;
    guix_offload_error *error = NULL;
    guix_offload_status status;
    int32_t reply = 77;
    pthread_t thread;

    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    double begun = now(); /* not after the thread began: this one may be kept waiting */
    CHECK(pthread_create(&thread, NULL, cancel_soon, cancellation) == 0);
    if (choosing)
        status = guix_offload_choose(&lease, &reply, world.engine, world.machines, world.request, cancellation, &error);
    else
        status = guix_offload_connect(&connection, world.engine, machine_of(&world), cancellation, &error);
    CHECK(now() - begun > 0.045 && now() - begun < 5);
    check_failure(__FILE__, __LINE__, status, GUIX_OFFLOAD_CANCELLED, error);
    CHECK(lease == UNTOUCHED && connection == UNTOUCHED && reply == 77);
    CHECK(pthread_join(thread, NULL) == 0);
    guix_offload_error_free(error);
    guix_offload_cancellation_free(cancellation);
    free_world(&world);
}

static void choosing_is_stopped(void)
{
    check_stopped(1);
}

static void connecting_is_stopped(void)
{
    check_stopped(0);
}

static void what_was_cancelled_before_fails_at_once(void)
{
    struct world world = new_world(SILENT);
    guix_offload_cancellation *cancellation = NULL;
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_lease *lease = UNTOUCHED;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    guix_offload_cancellation_cancel(cancellation);
    guix_offload_cancellation_cancel(cancellation);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_choose, &lease, &reply, world.engine, world.machines, world.request,
          cancellation);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_connect, &connection, world.engine, machine_of(&world), cancellation);
    CHECK(lease == UNTOUCHED && connection == UNTOUCHED && reply == 77);
    guix_offload_cancellation_free(cancellation);
    free_world(&world);
}

static void one_that_is_not_cancelled_changes_nothing(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_cancellation *cancellation = NULL;
    guix_offload_connection *connection = UNTOUCHED;
    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    FAILS(GUIX_OFFLOAD_UNAVAILABLE, guix_offload_connect, &connection, world.engine, machine_of(&world), cancellation);
    guix_offload_cancellation_free(cancellation);
    free_world(&world);
}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    RUN(no_cancellation);
    RUN(choosing_is_stopped);
    RUN(connecting_is_stopped);
    RUN(what_was_cancelled_before_fails_at_once);
    RUN(one_that_is_not_cancelled_changes_nothing);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
