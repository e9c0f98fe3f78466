/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests: what can be asked for.  What becomes of one: connection.c and job.c.  */
#include "check.h"

static guix_offload_request *new_request(void)
{
    guix_offload_request *request = NULL;
    SUCCEEDS(guix_offload_request_new, &request, "x86_64-linux", ITEM("x.drv"));
    return request;
}

static void a_request_is_filled(void)
{
    guix_offload_request *request = new_request();
    SUCCEEDS(guix_offload_request_add_feature, request, "kvm");
    SUCCEEDS(guix_offload_request_add_input, request, ITEM("input"));
    SUCCEEDS(guix_offload_request_add_output, request, ITEM("output"));
    SUCCEEDS(guix_offload_request_set_limits, request, 0, UINT64_MAX);
    SUCCEEDS(guix_offload_request_set_build_trace, request, 0);
    SUCCEEDS(guix_offload_request_set_build_trace, request, 1);
    guix_offload_request_free(request);
}

static void a_request_matches_what_offers_its_system(void)
{
    guix_offload_request *request = new_request();
    guix_offload_machines *machines = NULL;
    guix_offload_machine *machine = NULL;
    SUCCEEDS(guix_offload_machines_new, &machines);
    CHECK(guix_offload_request_matches(request, machines) == 0);
    SUCCEEDS(guix_offload_machine_new, &machine, "m", "x86_64-linux", "u", HOST_KEY);
    SUCCEEDS(guix_offload_machines_add, machines, machine);
    CHECK(guix_offload_request_matches(request, machines) == 1);
    SUCCEEDS(guix_offload_request_add_feature, request, "kvm");
    CHECK(guix_offload_request_matches(request, machines) == 0);
    CHECK(guix_offload_request_matches(NULL, machines) == 0 && guix_offload_request_matches(request, NULL) == 0);
    guix_offload_machine_free(machine);
    guix_offload_machines_free(machines);
    guix_offload_request_free(request);
}

static void bad_arguments_are_rejected(void)
{
    guix_offload_request *request = UNTOUCHED;
    const char *bad[] = {NULL, NOT_UTF8, too_long()};
    guix_offload_request_free(NULL);
    REJECTS(guix_offload_request_new, NULL, "x86_64-linux", ITEM("x.drv"));
    for (int i = 0; i < 3; i++) {
        REJECTS(guix_offload_request_new, &request, bad[i], ITEM("x.drv"));
        REJECTS(guix_offload_request_new, &request, "x86_64-linux", bad[i]);
    }
    CHECK(request == UNTOUCHED);
    request = new_request();
    for (int i = 0; i < 3; i++) {
        REJECTS(guix_offload_request_add_feature, request, bad[i]);
        REJECTS(guix_offload_request_add_input, request, bad[i]);
        REJECTS(guix_offload_request_add_output, request, bad[i]);
    }
    REJECTS(guix_offload_request_set_build_trace, request, 2);
    REJECTS(guix_offload_request_set_build_trace, request, -1);
    guix_offload_request_free(request);
}

static void what_was_asked_for_can_be_read(void)
{
    guix_offload_request *request = new_request();
    CHECK(guix_offload_request_input_count(request) == 0 && guix_offload_request_output(request, 0) == NULL);
    SUCCEEDS(guix_offload_request_add_input, request, ITEM("input"));
    SUCCEEDS(guix_offload_request_add_output, request, ITEM("one"));
    SUCCEEDS(guix_offload_request_add_output, request, ITEM("two"));
    CHECK_TEXT(guix_offload_request_system(request), "x86_64-linux");
    CHECK_TEXT(guix_offload_request_derivation(request), ITEM("x.drv"));
    CHECK(guix_offload_request_input_count(request) == 1 && guix_offload_request_output_count(request) == 2);
    CHECK_TEXT(guix_offload_request_input(request, 0), ITEM("input"));
    CHECK_TEXT(guix_offload_request_output(request, 1), ITEM("two"));
    CHECK(guix_offload_request_input(request, 1) == NULL && guix_offload_request_output(request, SIZE_MAX) == NULL);
    guix_offload_request_free(request);
    CHECK(guix_offload_request_system(NULL) == NULL && guix_offload_request_derivation(NULL) == NULL);
    CHECK(guix_offload_request_input_count(NULL) == 0 && guix_offload_request_output_count(NULL) == 0);
    CHECK(guix_offload_request_input(NULL, 0) == NULL && guix_offload_request_output(NULL, 0) == NULL);
}

static guix_offload_engine *engine_of_nowhere(void)
{
    guix_offload_engine *engine = NULL;
    SUCCEEDS(guix_offload_engine_new, &engine);
    SUCCEEDS(guix_offload_engine_set_directory, engine, GUIX_OFFLOAD_DATABASE_DIRECTORY, "/nowhere");
    SUCCEEDS(guix_offload_engine_set_directory, engine, GUIX_OFFLOAD_DAEMON_SOCKET, "/nowhere/socket");
    return engine;
}

/* What they do with a store: live.c.  */
static void closures_and_locks_want_a_store(void)
{
    guix_offload_engine *engine = engine_of_nowhere();
    guix_offload_request *request = new_request(), *bad = NULL;
    guix_offload_cancellation *cancellation = NULL;
    size_t missing = 77;
    FAILS(GUIX_OFFLOAD_STORE, guix_offload_request_add_closure, request, engine, NULL);
    FAILS(GUIX_OFFLOAD_STORE, guix_offload_request_lock_outputs, request, engine, NULL, &missing);
    SUCCEEDS(guix_offload_request_new, &bad, "x86_64-linux", "/etc/passwd");
    REJECTS(guix_offload_request_add_closure, bad, engine, NULL);
    REJECTS(guix_offload_request_lock_outputs, bad, engine, NULL, &missing);
    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    guix_offload_cancellation_cancel(cancellation);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_request_lock_outputs, request, engine, cancellation, &missing);
    CHECK(missing == 77);
    guix_offload_cancellation_free(cancellation);
    guix_offload_request_free(bad);
    guix_offload_request_free(request);
    guix_offload_engine_free(engine);
}

static void setters_want_a_request(void)
{
    REJECTS(guix_offload_request_add_feature, NULL, "kvm");
    REJECTS(guix_offload_request_add_input, NULL, ITEM("input"));
    REJECTS(guix_offload_request_add_output, NULL, ITEM("output"));
    REJECTS(guix_offload_request_set_limits, NULL, 0, 0);
    REJECTS(guix_offload_request_set_build_trace, NULL, 0);
}

int main(void)
{
    RUN(a_request_is_filled);
    RUN(what_was_asked_for_can_be_read);
    RUN(a_request_matches_what_offers_its_system);
    RUN(bad_arguments_are_rejected);
    RUN(closures_and_locks_want_a_store);
    RUN(setters_want_a_request);
    return 0;
}
