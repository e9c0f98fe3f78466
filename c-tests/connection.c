/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The verbs, as far as they go without a machine; live.c has the rest.  */
#include "world.h"

static void the_verbs_want_handles(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_lease *lease = UNTOUCHED;
    guix_offload_items *items = UNTOUCHED;
    int32_t reply = 77;

    REJECTS(guix_offload_choose, NULL, &reply, world.engine, world.machines, world.request, NULL);
    REJECTS(guix_offload_choose, &lease, NULL, world.engine, world.machines, world.request, NULL);
    REJECTS(guix_offload_choose, &lease, &reply, NULL, world.machines, world.request, NULL);
    REJECTS(guix_offload_choose, &lease, &reply, world.engine, NULL, world.request, NULL);
    REJECTS(guix_offload_choose, &lease, &reply, world.engine, world.machines, NULL, NULL);
    REJECTS(guix_offload_connect, NULL, world.engine, machine_of(&world), NULL);
    REJECTS(guix_offload_connect, &connection, NULL, machine_of(&world), NULL);
    REJECTS(guix_offload_connect, &connection, world.engine, NULL, NULL);
    REJECTS(guix_offload_send, NULL, world.request, NULL, NULL, &items);
    REJECTS(guix_offload_build, NULL, world.request, -1, NULL, NULL);
    REJECTS(guix_offload_retrieve, NULL, world.request, NULL, NULL);
    CHECK(lease == UNTOUCHED && connection == UNTOUCHED && items == UNTOUCHED && reply == 77);

    guix_offload_lease_free(NULL);
    guix_offload_connection_free(NULL);
    guix_offload_items_free(NULL);
    CHECK(guix_offload_lease_connection(NULL) == NULL);
    CHECK(guix_offload_connection_machine(NULL) == NULL);
    CHECK(guix_offload_items_get(NULL, 0) == NULL && guix_offload_items_count(NULL) == 0);
    free_world(&world);
}

static void a_closed_port_is_unavailable(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_error *error = NULL;
    CHECK(guix_offload_connect(&connection, world.engine, machine_of(&world), NULL, &error)
          == GUIX_OFFLOAD_UNAVAILABLE);
    CHECK_TEXT(guix_offload_error_machine(error), "127.0.0.1");
    CHECK(strstr(guix_offload_error_message(error), "refused") != NULL);
    CHECK(strstr(guix_offload_error_hint(error), "is up") != NULL);
    CHECK(guix_offload_error_exit_status(error) == 1);
    CHECK(connection == UNTOUCHED);
    guix_offload_error_free(error);
    free_world(&world);
}

static void a_missing_key_is_a_matter_of_configuration(void)
{
    struct world world = new_world(LOCKED);
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_lease *lease = UNTOUCHED;
    int32_t reply = 77;
    FAILS(GUIX_OFFLOAD_CONFIGURATION, guix_offload_connect, &connection, world.engine, machine_of(&world), NULL);
    FAILS(GUIX_OFFLOAD_CONFIGURATION, guix_offload_choose, &lease, &reply, world.engine, world.machines, world.request,
          NULL);
    CHECK(lease == UNTOUCHED && connection == UNTOUCHED && reply == 77);
    free_world(&world);
}

/* What becomes of a request in a world of that kind; no lease comes of any.  */
static int32_t reply_of(enum machine_kind kind, int other)
{
    struct world world = new_world(kind);
    guix_offload_lease *lease = UNTOUCHED;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_choose, &lease, &reply, world.engine, world.machines,
                 other ? world.other : world.request, NULL);
    CHECK(lease == UNTOUCHED);
    free_world(&world);
    return reply;
}

static void what_no_machine_can_do_is_declined_or_postponed(void)
{
    CHECK(reply_of(CLOSED, 1) == GUIX_OFFLOAD_DECLINE);
    CHECK(reply_of(CLOSED, 0) == GUIX_OFFLOAD_POSTPONE);
    CHECK(reply_of(FULL, 0) == GUIX_OFFLOAD_POSTPONE);
}

/* Why no machine of such a world gets a build; the code of the only reason.  */
static int32_t refusal_of(enum machine_kind kind, int other, const char *expected)
{
    struct world world = new_world(kind);
    guix_offload_refusals *refusals = NULL;
    guix_offload_lease *lease = UNTOUCHED;
    int32_t reply = 77, code = 77;
    for (int again = 0; again < 2; again++) { /* a machine that is left alone is not tried again */
        SUCCEEDS(guix_offload_choose_explained, &lease, &reply, &refusals, world.engine, world.machines,
                 other ? world.other : world.request, NULL);
        CHECK(lease == UNTOUCHED && reply == (other ? GUIX_OFFLOAD_DECLINE : GUIX_OFFLOAD_POSTPONE));
        CHECK(guix_offload_refusals_count(refusals) == 1 && guix_offload_refusals_get(refusals, 1) == NULL);
        const guix_offload_error *reason = guix_offload_refusals_get(refusals, 0);
        CHECK_TEXT(guix_offload_error_machine(reason), "127.0.0.1");
        if (strstr(guix_offload_error_message(reason), expected) == NULL)
            fprintf(stderr, "%s\n", guix_offload_error_message(reason));
        CHECK(strstr(guix_offload_error_message(reason), expected) != NULL);
        code = guix_offload_error_code(reason);
        guix_offload_refusals_free(refusals);
    }
    free_world(&world);
    return code;
}

static void why_no_machine_is_chosen_is_said(void)
{
    CHECK(refusal_of(CLOSED, 1, "does not build for 'mips64el-linux'") == GUIX_OFFLOAD_UNAVAILABLE);
    CHECK(refusal_of(CLOSED, 0, "refused") == GUIX_OFFLOAD_UNAVAILABLE);
    CHECK(refusal_of(FULL, 0, "build slots are taken") == GUIX_OFFLOAD_UNAVAILABLE);
    guix_offload_refusals_free(NULL);
    CHECK(guix_offload_refusals_count(NULL) == 0 && guix_offload_refusals_get(NULL, 0) == NULL);
}

static void a_state_directory_that_is_none_is_reported(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_lease *lease = UNTOUCHED;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_engine_set_directory, world.engine, GUIX_OFFLOAD_STATE_DIRECTORY, "/dev/null");
    FAILS(GUIX_OFFLOAD_STORE, guix_offload_choose, &lease, &reply, world.engine, world.machines, world.request, NULL);
    CHECK(lease == UNTOUCHED && reply == 77);
    free_world(&world);
}

int main(void)
{
    int threads = THREADS(), descriptors = DESCRIPTORS();
    RUN(the_verbs_want_handles);
    RUN(a_closed_port_is_unavailable);
    RUN(a_missing_key_is_a_matter_of_configuration);
    RUN(what_no_machine_can_do_is_declined_or_postponed);
    RUN(why_no_machine_is_chosen_is_said);
    RUN(a_state_directory_that_is_none_is_reported);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
