/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A defect inside the library comes out as an error.  The library that is tested here has the Cargo feature
   `test-panic`, and with it functions that no header mentions.  */
#include "world.h"

/* Panics on the thread that calls it: 0 with a fixed message, 1 with one that is made, 2 with none.  */
guix_offload_status guix_offload_test_panic(int32_t how, guix_offload_error **error);
/* Has the library's threads panic from now on where they come by `place`; "": nowhere.  */
guix_offload_status guix_offload_test_panic_at(const char *place, guix_offload_error **error);
/* These panic instead of returning something.  */
void guix_offload_test_panic_void(void);
const char *guix_offload_test_panic_pointer(void);
int64_t guix_offload_test_panic_number(void);
double guix_offload_test_panic_fraction(void);

static void a_panic_is_an_error(void)
{
    const char *messages[] = {"on purpose", "on purpose, 1", "a panic without a message"};
    for (int32_t how = 0; how < 3; how++) {
        guix_offload_error *error = NULL;
        CHECK(guix_offload_test_panic(how, &error) == GUIX_OFFLOAD_INTERNAL);
        CHECK(guix_offload_error_code(error) == GUIX_OFFLOAD_INTERNAL);
        CHECK(strstr(guix_offload_error_message(error), "defect in libguix_offload") != NULL);
        CHECK(strstr(guix_offload_error_message(error), messages[how]) != NULL);
        CHECK(strstr(guix_offload_error_hint(error), "report") != NULL);
        CHECK(guix_offload_error_exit_status(error) == 1);
        guix_offload_error_free(error);
        CHECK(guix_offload_test_panic(how, NULL) == GUIX_OFFLOAD_INTERNAL);
    }
}

static void without_a_status_it_is_nothing(void)
{
    guix_offload_test_panic_void();
    CHECK(guix_offload_test_panic_pointer() == NULL);
    CHECK(guix_offload_test_panic_number() == 0);
    CHECK(guix_offload_test_panic_fraction() == 0);
}

/* The result of a job while the library's threads panic at `place`.  */
static void check_job(const char *place)
{
    struct world world = new_world(CLOSED);
    guix_offload_job *job = NULL;
    guix_offload_error *error = NULL;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_test_panic_at, place);
    SUCCEEDS(guix_offload_job_start, &job, &reply, world.engine, world.machines, world.request);
    CHECK(guix_offload_job_wait(job, 20000) == 1);
    CHECK(guix_offload_job_result(job, &error) == GUIX_OFFLOAD_INTERNAL);
    CHECK(strstr(guix_offload_error_message(error), place) != NULL);
    guix_offload_error_free(error);
    guix_offload_job_free(job);
    free_world(&world);
}

static void a_job_that_panics_fails(void)
{
    check_job("job");
    check_job("connect");
    check_job("session");
}

static void verbs_whose_threads_panic_fail(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_connection *connection = UNTOUCHED;
    guix_offload_lease *lease = UNTOUCHED;
    guix_offload_report *report = NULL;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_test_panic_at, "session");
    FAILS(GUIX_OFFLOAD_INTERNAL, guix_offload_connect, &connection, world.engine, machine_of(&world), NULL);
    FAILS(GUIX_OFFLOAD_INTERNAL, guix_offload_choose, &lease, &reply, world.engine, world.machines, world.request,
          NULL);
    CHECK(connection == UNTOUCHED && lease == UNTOUCHED && reply == 77);
    SUCCEEDS(guix_offload_test_panic_at, "farm");
    SUCCEEDS(guix_offload_farm_status, &report, world.engine, world.machines);
    CHECK(guix_offload_error_code(guix_offload_report_error(report, 0)) == GUIX_OFFLOAD_INTERNAL);
    guix_offload_report_free(report);
    free_world(&world);
}

static void the_library_works_afterwards(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_connection *connection = UNTOUCHED;
    SUCCEEDS(guix_offload_test_panic_at, "");
    FAILS(GUIX_OFFLOAD_UNAVAILABLE, guix_offload_connect, &connection, world.engine, machine_of(&world), NULL);
    CHECK(connection == UNTOUCHED);
    free_world(&world);
}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    RUN(a_panic_is_an_error);
    RUN(without_a_status_it_is_nothing);
    RUN(a_job_that_panics_fails);
    RUN(verbs_whose_threads_panic_fail);
    RUN(the_library_works_afterwards);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
