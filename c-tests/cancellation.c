/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Verbs that block, stopped from another thread; live.c stops those that need a machine, guile.c the loading of a
   machine file.  */
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

/* The calls that can be stopped.  */
enum call { CHOOSE, CHOOSE_EXPLAINED, CONNECT, TEST, STATUS, SERVE };

static void check_stopped(enum call call)
{
    struct world world = new_world(SILENT);
    guix_offload_cancellation *cancellation = NULL;
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_lease *lease = UNTOUCHED;
    guix_offload_refusals *refusals = UNTOUCHED;
    guix_offload_report *report = UNTOUCHED;
    guix_offload_hook *hook = NULL;
    guix_offload_error *error = NULL;
    guix_offload_status status = GUIX_OFFLOAD_OK;
    int32_t reply = 77;
    int words[2], exit_status = 77;
    pthread_t thread;

    /* A daemon that says nothing.  */
    SUCCEEDS(guix_offload_hook_new, &hook, world.engine);
    CHECK(pipe2(words, O_CLOEXEC) == 0);

    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    double begun = now(); /* not after the thread began: this one may be kept waiting */
    CHECK(pthread_create(&thread, NULL, cancel_soon, cancellation) == 0);
    switch (call) {
    case CHOOSE:
        status = guix_offload_choose(&lease, &reply, world.engine, world.machines, world.request, cancellation, &error);
        break;
    case CHOOSE_EXPLAINED:
        status = guix_offload_choose_explained(&lease, &reply, &refusals, world.engine, world.machines, world.request,
                                               cancellation, &error);
        break;
    case CONNECT:
        status = guix_offload_connect(&connection, world.engine, machine_of(&world), cancellation, &error);
        break;
    case TEST:
        status = guix_offload_farm_test_cancellable(&report, world.engine, world.machines, cancellation, &error);
        break;
    case STATUS:
        status = guix_offload_farm_status_cancellable(&report, world.engine, world.machines, cancellation, &error);
        break;
    case SERVE:
        status = guix_offload_hook_serve_cancellable(hook, words[0], words[1], words[1], &exit_status, cancellation,
                                                     &error);
        break;
    }
    CHECK(now() - begun > 0.045 && now() - begun < 5);
    check_failure(__FILE__, __LINE__, status, GUIX_OFFLOAD_CANCELLED, error);
    CHECK(lease == UNTOUCHED && connection == UNTOUCHED && reply == 77 && refusals == UNTOUCHED);
    CHECK(report == UNTOUCHED && exit_status == 77);
    close(words[0]);
    close(words[1]);
    guix_offload_hook_free(hook);
    CHECK(pthread_join(thread, NULL) == 0);
    guix_offload_error_free(error);
    guix_offload_cancellation_free(cancellation);
    free_world(&world);
}

static void choosing_is_stopped(void)
{
    check_stopped(CHOOSE);
    check_stopped(CHOOSE_EXPLAINED);
}

static void connecting_is_stopped(void)
{
    check_stopped(CONNECT);
}

static void looking_at_all_machines_is_stopped(void)
{
    check_stopped(TEST);
    check_stopped(STATUS);
}

static void a_hook_is_stopped(void)
{
    check_stopped(SERVE);
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
    RUN(looking_at_all_machines_is_stopped);
    RUN(a_hook_is_stopped);
    RUN(what_was_cancelled_before_fails_at_once);
    RUN(one_that_is_not_cancelled_changes_nothing);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
