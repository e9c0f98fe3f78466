/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Reports on all machines at once, as far as they go when no machine can be reached.  */
#include "world.h"

/* What is known of a machine that does not answer, and of one that is not in the report.  */
static void check_nothing_known(const guix_offload_report *report, size_t index)
{
    CHECK(guix_offload_report_reachable(report, index) == 0);
    CHECK(guix_offload_report_load(report, index) == -1);
    CHECK(guix_offload_report_cores(report, index) == 0);
    CHECK(guix_offload_report_free_space(report, index) == 0);
    CHECK(guix_offload_report_clock_difference(report, index) == 0);
    CHECK(guix_offload_report_guix_version(report, index) == NULL);
    CHECK(guix_offload_report_kernel(report, index) == NULL);
    CHECK(guix_offload_report_architecture(report, index) == NULL);
    CHECK(guix_offload_report_host_name(report, index) == NULL);
    CHECK(guix_offload_report_passed(report, index, 0) == NULL);
    CHECK(guix_offload_report_note(report, index, 0) == NULL);
    CHECK(guix_offload_report_note_hint(report, index, 0) == NULL);
}

static void accessors_of_no_report(void)
{
    CHECK(guix_offload_report_text(NULL) == NULL && guix_offload_report_json(NULL) == NULL);
    CHECK(guix_offload_report_count(NULL) == 0 && guix_offload_report_failures(NULL) == 0);
    CHECK(guix_offload_report_machine(NULL, 0) == NULL && guix_offload_report_error(NULL, 0) == NULL);
    CHECK(guix_offload_report_state(NULL, 0) == NULL);
    CHECK(guix_offload_report_slots_taken(NULL, 0) == -1);
    check_nothing_known(NULL, 0);
    guix_offload_report_free(NULL);
}

/* A machine that refuses connections fails, and the report says so.  */
static void a_machine_that_is_down_is_reported(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *reports[2] = {NULL, NULL};
    const char *name = guix_offload_machine_name(guix_offload_machines_get(world.machines, 0));

    SUCCEEDS(guix_offload_farm_status, &reports[0], world.engine, world.machines);
    SUCCEEDS(guix_offload_farm_test, &reports[1], world.engine, world.machines);
    for (int i = 0; i < 2; i++) {
        const guix_offload_report *report = reports[i];
        CHECK(guix_offload_report_count(report) == 1 && guix_offload_report_failures(report) == 1);
        CHECK_TEXT(guix_offload_machine_name(guix_offload_report_machine(report, 0)), name);
        CHECK_TEXT(guix_offload_report_state(report, 0), "unreachable");
        CHECK(guix_offload_error_code(guix_offload_report_error(report, 0)) == GUIX_OFFLOAD_UNAVAILABLE);
        CHECK(strstr(guix_offload_report_text(report), name) != NULL);
        CHECK(strstr(guix_offload_report_json(report), "\"machines\"") != NULL);
        check_nothing_known(report, 0);
        /* There is no second machine.  */
        CHECK(guix_offload_report_machine(report, 1) == NULL && guix_offload_report_error(report, 1) == NULL);
        CHECK(guix_offload_report_state(report, 1) == NULL && guix_offload_report_slots_taken(report, 1) == -1);
        check_nothing_known(report, 1);
        guix_offload_report_free(reports[i]);
    }
    free_world(&world);
}

/* Counts the machines that are unreachable.  */
static int count_unreachable(void *data, const char *machine, const char *state)
{
    CHECK(strcmp(machine, "127.0.0.1") == 0 && strcmp(state, "unreachable") == 0);
    ++*(int *) data;
    return 0;
}

static int have_enough(void *data, const char *machine, const char *state)
{
    (void) data, (void) machine, (void) state;
    return 1;
}

/* Each machine is told of when it has answered; whoever is told can end it.  */
static void a_machine_that_has_answered_is_told_of(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *report = NULL;
    int told = 0;

    SUCCEEDS(guix_offload_farm_status_each, &report, world.engine, world.machines, count_unreachable, &told, NULL);
    CHECK(told == 1 && guix_offload_report_failures(report) == 1);
    guix_offload_report_free(report);
    SUCCEEDS(guix_offload_farm_test_each, &report, world.engine, world.machines, NULL, NULL, NULL);
    CHECK(guix_offload_report_failures(report) == 1);
    guix_offload_report_free(report);
    report = UNTOUCHED;
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_farm_test_each, &report, world.engine, world.machines, have_enough,
          NULL, NULL);
    REJECTS(guix_offload_farm_test_each, NULL, world.engine, world.machines, NULL, NULL, NULL);
    REJECTS(guix_offload_farm_test_each, &report, NULL, world.machines, NULL, NULL, NULL);
    REJECTS(guix_offload_farm_status_each, &report, world.engine, NULL, NULL, NULL, NULL);
    CHECK(report == UNTOUCHED);
    free_world(&world);
}

/* That no keeper runs is no failure.  */
static void without_a_keeper_there_is_nothing_to_report(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *report = NULL;
    int32_t stopped = 77;

    SUCCEEDS(guix_offload_keeper_status, &report, world.engine);
    CHECK(guix_offload_report_count(report) == 0 && guix_offload_report_failures(report) == 0);
    CHECK_TEXT(guix_offload_report_text(report), "no keeper is running\n");
    CHECK_TEXT(guix_offload_report_json(report), "{\"schema\": 1, \"machines\": [], \"keeper\": null}\n");
    SUCCEEDS(guix_offload_keeper_stop, world.engine, &stopped);
    CHECK(stopped == 0);
    guix_offload_report_free(report);
    free_world(&world);
}

/* The mark is there until it is removed, whether the machine answers or not.  */
static void a_machine_is_drained_until_it_is_resumed(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *drained = NULL, *listed = NULL, *status = NULL, *resumed = NULL, *none = NULL;
    const char *name = guix_offload_machine_name(guix_offload_machines_get(world.machines, 0));

    SUCCEEDS(guix_offload_farm_drain, &drained, world.engine, world.machines, name);
    SUCCEEDS(guix_offload_farm_drained, &listed, world.engine, world.machines);
    SUCCEEDS(guix_offload_farm_status, &status, world.engine, world.machines);
    CHECK_TEXT(guix_offload_report_state(drained, 0), "drained");
    CHECK_TEXT(guix_offload_report_state(status, 0), "drained");
    CHECK(guix_offload_report_failures(drained) == 0 && guix_offload_report_failures(status) == 1);
    CHECK(guix_offload_report_count(listed) == 1 && strstr(guix_offload_report_json(listed), "\"drained\": true"));
    SUCCEEDS(guix_offload_farm_resume, &resumed, world.engine, world.machines, name);
    SUCCEEDS(guix_offload_farm_drained, &none, world.engine, world.machines);
    CHECK(strstr(guix_offload_report_text(resumed), "builds again") && guix_offload_report_count(none) == 0);
    guix_offload_report_free(drained);
    guix_offload_report_free(listed);
    guix_offload_report_free(status);
    guix_offload_report_free(resumed);
    guix_offload_report_free(none);
    free_world(&world);
}

/* A malformed entry is no machine, and still an error.  */
static void a_machine_file_is_checked(void)
{
    struct world world = new_world(LOCKED);
    guix_offload_machines *machines = NULL;
    guix_offload_report *report = NULL;
    char file[64];
    FILE *written;

    snprintf(file, sizeof file, "%s/checked.scm", world.directory);
    written = fopen(file, "w");
    CHECK(written != NULL && fputs("(list (build-machine (name \"m\")))", written) >= 0 && fclose(written) == 0);
    SUCCEEDS(guix_offload_machines_load, &machines, file);
    SUCCEEDS(guix_offload_farm_check, &report, world.engine, machines);
    CHECK(guix_offload_report_count(report) == 0 && guix_offload_report_failures(report) == 1);
    CHECK(strstr(guix_offload_report_json(report), "\"severity\": \"error\"") != NULL);
    guix_offload_report_free(report);
    report = NULL;
    SUCCEEDS(guix_offload_farm_check, &report, world.engine, world.machines);
    CHECK(guix_offload_report_failures(report) == 1 && guix_offload_report_note(report, 0, 0) != NULL);
    guix_offload_report_free(report);
    guix_offload_machines_free(machines);
    free_world(&world);
}

/* Nothing is known of a machine that was never asked, so it would be.  */
static void what_would_become_of_a_build_is_explained(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *would = NULL, *never = NULL;
    const char *note;

    SUCCEEDS(guix_offload_farm_explain, &would, world.engine, world.machines, "x86_64-linux", NULL);
    CHECK(guix_offload_report_failures(would) == 0 && strstr(guix_offload_report_json(would), "\"accept\"") != NULL);
    CHECK(guix_offload_report_note(would, 0, 0) == NULL);
    SUCCEEDS(guix_offload_farm_explain, &never, world.engine, world.machines, "x86_64-linux", "kvm,big");
    CHECK(guix_offload_report_failures(never) == 1 && strstr(guix_offload_report_text(never), "decline") != NULL);
    note = guix_offload_report_note(never, 0, 0);
    CHECK_TEXT(note, "it does not offer kvm, big");
    guix_offload_report_free(would);
    guix_offload_report_free(never);
    free_world(&world);
}

static void bad_arguments_are_rejected(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *report = UNTOUCHED;
    int32_t stopped = 77;
    REJECTS(guix_offload_keeper_status, NULL, world.engine);
    REJECTS(guix_offload_keeper_status, &report, NULL);
    REJECTS(guix_offload_keeper_stop, NULL, &stopped);
    REJECTS(guix_offload_keeper_stop, world.engine, NULL);
    CHECK(stopped == 77);
    REJECTS(guix_offload_farm_test, NULL, world.engine, world.machines);
    REJECTS(guix_offload_farm_test, &report, NULL, world.machines);
    REJECTS(guix_offload_farm_test, &report, world.engine, NULL);
    REJECTS(guix_offload_farm_status, NULL, world.engine, world.machines);
    REJECTS(guix_offload_farm_status, &report, NULL, world.machines);
    REJECTS(guix_offload_farm_status, &report, world.engine, NULL);
    REJECTS(guix_offload_farm_drain, NULL, world.engine, world.machines, "m");
    REJECTS(guix_offload_farm_drain, &report, NULL, world.machines, "m");
    REJECTS(guix_offload_farm_drain, &report, world.engine, NULL, "m");
    REJECTS(guix_offload_farm_drain, &report, world.engine, world.machines, NULL);
    REJECTS(guix_offload_farm_drain, &report, world.engine, world.machines, "nobody");
    REJECTS(guix_offload_farm_resume, &report, world.engine, world.machines, "nobody");
    REJECTS(guix_offload_farm_explain, NULL, world.engine, world.machines, "x86_64-linux", NULL);
    REJECTS(guix_offload_farm_explain, &report, NULL, world.machines, "x86_64-linux", NULL);
    REJECTS(guix_offload_farm_explain, &report, world.engine, NULL, "x86_64-linux", NULL);
    REJECTS(guix_offload_farm_explain, &report, world.engine, world.machines, NULL, NULL);
    REJECTS(guix_offload_farm_explain, &report, world.engine, world.machines, "/nowhere/x.drv", NULL);
    REJECTS(guix_offload_farm_explain, &report, world.engine, world.machines, "a b", NULL);
    REJECTS(guix_offload_farm_check, NULL, world.engine, world.machines);
    REJECTS(guix_offload_farm_check, &report, NULL, world.machines);
    REJECTS(guix_offload_farm_check, &report, world.engine, NULL);
    REJECTS(guix_offload_farm_drained, NULL, world.engine, world.machines);
    REJECTS(guix_offload_farm_drained, &report, NULL, world.machines);
    REJECTS(guix_offload_farm_drained, &report, world.engine, NULL);
    CHECK(report == UNTOUCHED);
    free_world(&world);
}

/* Without a signing key here, none can be exchanged.  */
static void a_host_without_a_key_authorizes_nobody(void)
{
    struct world world = new_world(CLOSED);
    const guix_offload_machine *machine = machine_of(&world);
    guix_offload_report *report = UNTOUCHED, *other = NULL;

    FAILS(GUIX_OFFLOAD_STORE, guix_offload_authorize, &report, world.engine, machine, NULL);
    REJECTS(guix_offload_authorize, NULL, world.engine, machine, NULL);
    REJECTS(guix_offload_authorize, &report, NULL, machine, NULL);
    REJECTS(guix_offload_authorize, &report, world.engine, NULL, NULL);
    SUCCEEDS(guix_offload_keeper_status, &other, world.engine);
    REJECTS(guix_offload_authorize, &report, world.engine, machine, other);
    guix_offload_report_free(other);
    CHECK(report == UNTOUCHED);
    free_world(&world);
}

/* Before the first build there is none to tell of.  */
static void a_journal_without_builds_is_empty(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_report *report = NULL;

    SUCCEEDS(guix_offload_journal_log, &report, world.engine, 0);
    CHECK_TEXT(guix_offload_report_text(report), "no build is recorded\n");
    CHECK_TEXT(guix_offload_report_json(report), "{\"schema\":1,\"builds\":[]}\n");
    guix_offload_report_free(report);
    SUCCEEDS(guix_offload_journal_stats, &report, world.engine);
    CHECK_TEXT(guix_offload_report_json(report), "{\"schema\":1,\"since\":null,\"machines\":[]}\n");
    guix_offload_report_free(report);
    SUCCEEDS(guix_offload_journal_metrics, &report, world.engine);
    CHECK(strncmp(guix_offload_report_text(report), "# HELP guix_offload_", 20) == 0);
    CHECK(guix_offload_report_count(report) == 0);
    guix_offload_report_free(report);
    report = UNTOUCHED;
    REJECTS(guix_offload_journal_log, NULL, world.engine, 0);
    REJECTS(guix_offload_journal_log, &report, NULL, 0);
    REJECTS(guix_offload_journal_stats, NULL, world.engine);
    REJECTS(guix_offload_journal_stats, &report, NULL);
    REJECTS(guix_offload_journal_metrics, NULL, world.engine);
    REJECTS(guix_offload_journal_metrics, &report, NULL);
    CHECK(report == UNTOUCHED);
    free_world(&world);
}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    RUN(accessors_of_no_report);
    RUN(a_machine_that_is_down_is_reported);
    RUN(a_machine_that_has_answered_is_told_of);
    RUN(without_a_keeper_there_is_nothing_to_report);
    RUN(a_machine_file_is_checked);
    RUN(what_would_become_of_a_build_is_explained);
    RUN(a_machine_is_drained_until_it_is_resumed);
    RUN(bad_arguments_are_rejected);
    RUN(a_host_without_a_key_authorizes_nobody);
    RUN(a_journal_without_builds_is_empty);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
