/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Jobs, as far as they go without a machine: started, watched, cancelled and freed at any time, from several
   threads.  */
#include "world.h"

#include <poll.h>
#include <sys/select.h>

static int threads_at_first;

static guix_offload_job *start(const struct world *world)
{
    guix_offload_job *job = NULL;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_job_start, &job, &reply, world->engine, world->machines, world->request);
    CHECK(reply == GUIX_OFFLOAD_ACCEPT && job != NULL);
    return job;
}

/* Waits for the next event, by poll.  */
static guix_offload_event *next_event(const guix_offload_job *job)
{
    struct pollfd polled = {.fd = guix_offload_job_descriptor(job), .events = POLLIN};
    CHECK(poll(&polled, 1, 20000) == 1 && polled.revents == POLLIN);
    return guix_offload_job_next_event(job);
}

static void await_event(const guix_offload_job *job, int32_t kind)
{
    for (;;) {
        guix_offload_event *event = next_event(job);
        int32_t got = guix_offload_event_kind(event);
        guix_offload_event_free(event);
        if (got == kind)
            return;
        CHECK(got != GUIX_OFFLOAD_EVENT_DONE);
    }
}

static void free_all(guix_offload_job *job, struct world *world)
{
    guix_offload_job_free(job);
    free_world(world);
    await_threads(threads_at_first);
}

static void no_job_and_no_event(void)
{
    size_t length = 77;
    guix_offload_job_free(NULL);
    guix_offload_job_cancel(NULL);
    CHECK(guix_offload_job_descriptor(NULL) == -1);
    CHECK(guix_offload_job_next_event(NULL) == NULL);
    CHECK(guix_offload_job_wait(NULL, -1) == 0);
    REJECTS(guix_offload_job_result, NULL);
    guix_offload_event_free(NULL);
    CHECK(guix_offload_event_kind(NULL) == -1);
    CHECK(guix_offload_event_machine(NULL) == NULL);
    CHECK(guix_offload_event_items(NULL) == 0);
    CHECK(guix_offload_event_bytes(NULL) == 0);
    CHECK(guix_offload_event_text(NULL, &length) == NULL && length == 77);
    CHECK(guix_offload_event_hint(NULL) == NULL);
    CHECK(guix_offload_event_lines(NULL) == NULL);
}

static void bad_arguments_are_rejected(void)
{
    struct world world = new_world(FULL);
    guix_offload_job *job = UNTOUCHED;
    guix_offload_request *bad = NULL;
    int32_t reply = 77;
    REJECTS(guix_offload_job_start, NULL, &reply, world.engine, world.machines, world.request);
    REJECTS(guix_offload_job_start, &job, NULL, world.engine, world.machines, world.request);
    REJECTS(guix_offload_job_start, &job, &reply, NULL, world.machines, world.request);
    REJECTS(guix_offload_job_start, &job, &reply, world.engine, NULL, world.request);
    REJECTS(guix_offload_job_start, &job, &reply, world.engine, world.machines, NULL);
    SUCCEEDS(guix_offload_request_new, &bad, "x86_64-linux", "/etc/passwd");
    REJECTS(guix_offload_job_start, &job, &reply, world.engine, world.machines, bad);
    guix_offload_request_free(bad);
    SUCCEEDS(guix_offload_request_new, &bad, "x86_64-linux", ITEM("not-a-derivation"));
    REJECTS(guix_offload_job_start, &job, &reply, world.engine, world.machines, bad);
    guix_offload_request_free(bad);
    SUCCEEDS(guix_offload_request_add_input, world.request, ITEM("../../../etc/passwd"));
    REJECTS(guix_offload_job_start, &job, &reply, world.engine, world.machines, world.request);
    CHECK(job == UNTOUCHED && reply == 77);
    free_all(NULL, &world);
}

/* What a listener has heard; any thread tells it.  */
struct heard {
    pthread_mutex_t lock;
    int about_the_build, passed_over;
};

static void listen_to(void *data, const char *derivation, const char *text)
{
    struct heard *heard = data;
    pthread_mutex_lock(&heard->lock);
    heard->about_the_build += derivation != NULL && strcmp(derivation, ITEM("x.drv")) == 0;
    heard->passed_over += strstr(text, "127.0.0.1: passed over: ") == text && strchr(text, '\n') == NULL;
    pthread_mutex_unlock(&heard->lock);
}

static void a_listener_hears_what_is_decided(void)
{
    struct world world = new_world(CLOSED);
    struct heard heard = {.lock = PTHREAD_MUTEX_INITIALIZER};
    guix_offload_job *job;

    REJECTS(guix_offload_engine_set_listener, NULL, listen_to, &heard);
    SUCCEEDS(guix_offload_engine_set_listener, world.engine, listen_to, &heard);
    /* Another setting leaves it in place.  */
    SUCCEEDS(guix_offload_engine_set_idle_limit, world.engine, 1);
    job = start(&world);
    await_event(job, GUIX_OFFLOAD_EVENT_PASSED_OVER);
    pthread_mutex_lock(&heard.lock);
    CHECK(heard.about_the_build > 0 && heard.passed_over > 0);
    pthread_mutex_unlock(&heard.lock);
    guix_offload_job_free(job);
    await_threads(threads_at_first); /* which may tell until they end */

    SUCCEEDS(guix_offload_engine_set_listener, world.engine, NULL, NULL);
    pthread_mutex_lock(&heard.lock);
    heard.about_the_build = heard.passed_over = 0;
    pthread_mutex_unlock(&heard.lock);
    job = start(&world);
    await_event(job, GUIX_OFFLOAD_EVENT_QUEUED);
    free_all(job, &world);
    pthread_mutex_lock(&heard.lock);
    CHECK(heard.about_the_build == 0 && heard.passed_over == 0);
    pthread_mutex_unlock(&heard.lock);
}

static void what_no_machine_can_do_is_declined(void)
{
    struct world world = new_world(FULL);
    guix_offload_job *job = UNTOUCHED;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_job_start, &job, &reply, world.engine, world.machines, world.other);
    CHECK(job == UNTOUCHED && reply == GUIX_OFFLOAD_DECLINE);
    reply = 77;
    SUCCEEDS(guix_offload_request_add_feature, world.request, "kvm");
    SUCCEEDS(guix_offload_job_start, &job, &reply, world.engine, world.machines, world.request);
    CHECK(job == UNTOUCHED && reply == GUIX_OFFLOAD_DECLINE);
    free_all(NULL, &world);
}

static void a_job_that_waits_can_be_watched_and_cancelled(void)
{
    struct world world = new_world(FULL);
    guix_offload_job *job = start(&world);
    guix_offload_error *error = NULL;
    guix_offload_event *event = next_event(job);
    struct pollfd polled = {.fd = guix_offload_job_descriptor(job), .events = POLLIN};
    fd_set set;
    struct timeval limit = {.tv_sec = 20};
    size_t length = 77;

    CHECK(guix_offload_event_kind(event) == GUIX_OFFLOAD_EVENT_QUEUED);
    CHECK(guix_offload_event_machine(event) == NULL);
    CHECK(guix_offload_event_items(event) == 0 && guix_offload_event_bytes(event) == 0);
    CHECK_TEXT(guix_offload_event_text(event, &length), "all build machines are busy, waiting for a build slot");
    CHECK(guix_offload_job_machine(job) == NULL && guix_offload_job_machine(NULL) == NULL);
    CHECK(length == strlen(guix_offload_event_text(event, NULL)) && guix_offload_event_text(event, NULL) != NULL);
    CHECK(guix_offload_event_hint(event) == NULL);
    CHECK(strncmp(guix_offload_event_lines(event), "guix offload: all build machines are busy", 41) == 0);
    guix_offload_event_free(event);

    CHECK(guix_offload_job_next_event(job) == NULL);
    CHECK(poll(&polled, 1, 0) == 0);
    CHECK(guix_offload_job_wait(job, 0) == 0);
    double begun = now();
    CHECK(guix_offload_job_wait(job, 50) == 0);
    CHECK(now() - begun > 0.045);
    REJECTS(guix_offload_job_result, job);

    guix_offload_job_cancel(job);
    guix_offload_job_cancel(job);
    CHECK(guix_offload_job_wait(job, -1) == 1);
    FD_ZERO(&set);
    FD_SET(polled.fd, &set);
    CHECK(select(polled.fd + 1, &set, NULL, NULL, &limit) == 1);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_job_result, job);
    CHECK(guix_offload_job_result(job, &error) == GUIX_OFFLOAD_CANCELLED);
    CHECK(guix_offload_error_exit_status(error) == 1);
    guix_offload_error_free(error);

    await_event(job, GUIX_OFFLOAD_EVENT_DONE);
    CHECK(guix_offload_job_next_event(job) == NULL);
    CHECK(poll(&polled, 1, 0) == 1); /* for good */
    CHECK(guix_offload_job_wait(job, 0) == 1 && guix_offload_job_wait(job, INT64_MIN) == 1);
    free_all(job, &world);
}

static void a_machine_that_is_away_is_passed_over(void)
{
    struct world world = new_world(CLOSED);
    guix_offload_job *job = start(&world);
    guix_offload_event *event = next_event(job);
    CHECK(guix_offload_event_kind(event) == GUIX_OFFLOAD_EVENT_PASSED_OVER);
    CHECK_TEXT(guix_offload_event_machine(event), "127.0.0.1");
    CHECK(strstr(guix_offload_event_text(event, NULL), "refused") != NULL);
    CHECK(strstr(guix_offload_event_hint(event), "127.0.0.1") != NULL);
    CHECK(strncmp(guix_offload_event_lines(event), "guix offload: skipping machine '127.0.0.1': ", 44) == 0);
    guix_offload_event_free(event);
    free_all(job, &world);
}

static void a_job_that_no_machine_can_be_configured_for_fails(void)
{
    struct world world = new_world(LOCKED);
    guix_offload_job *job = start(&world);
    CHECK(guix_offload_job_wait(job, 20000) == 1);
    FAILS(GUIX_OFFLOAD_CONFIGURATION, guix_offload_job_result, job);
    guix_offload_job_cancel(job); /* too late to matter */
    FAILS(GUIX_OFFLOAD_CONFIGURATION, guix_offload_job_result, job);
    free_all(job, &world);
}

static void jobs_are_freed_while_they_run(void)
{
    const enum machine_kind kinds[] = {SILENT, FULL, CLOSED};
    for (int i = 0; i < 3; i++) {
        for (int delay = 0; delay <= 40; delay += 20) {
            struct world world = new_world(kinds[i]);
            guix_offload_job *job = start(&world);
            pause_ms(delay);
            free_all(job, &world);
        }
    }
}

static void a_job_outlives_what_it_was_made_of(void)
{
    struct world world = new_world(FULL);
    guix_offload_job *job = start(&world);
    /* But for its directory: a job that cannot use that fails.  */
    free_handles(&world);
    await_event(job, GUIX_OFFLOAD_EVENT_QUEUED);
    guix_offload_job_cancel(job);
    CHECK(guix_offload_job_wait(job, 20000) == 1);
    free_all(job, &world);
}

static void there_is_a_limit_to_jobs(void)
{
    enum { LIMIT = 256 };
    static guix_offload_job *jobs[LIMIT];
    struct world world = new_world(FULL);
    guix_offload_job *more = UNTOUCHED;
    int32_t reply = 77;
    for (int i = 0; i < LIMIT; i++)
        jobs[i] = start(&world);
    SUCCEEDS(guix_offload_job_start, &more, &reply, world.engine, world.machines, world.request);
    CHECK(more == UNTOUCHED && reply == GUIX_OFFLOAD_POSTPONE);
    for (int i = 0; i < LIMIT; i++)
        guix_offload_job_free(jobs[i]);
    await_threads(threads_at_first);
    free_all(start(&world), &world);
}

/* What two threads do with one job.  */
static void *take_events(void *data)
{
    const guix_offload_job *job = data;
    size_t bytes = 0;
    while (!guix_offload_job_wait(job, 1)) {
        guix_offload_event *event = guix_offload_job_next_event(job);
        const char *text = guix_offload_event_text(event, NULL);
        bytes += text == NULL ? 0 : strlen(text);
        guix_offload_event_free(event);
    }
    CHECK(guix_offload_job_result(job, NULL) == GUIX_OFFLOAD_CANCELLED);
    return (void *) (uintptr_t) bytes;
}

static void several_threads_use_one_job(void)
{
    struct world world = new_world(SILENT);
    for (int round = 0; round < 5; round++) {
        guix_offload_job *job = start(&world);
        pthread_t takers[2];
        for (int i = 0; i < 2; i++)
            CHECK(pthread_create(&takers[i], NULL, take_events, job) == 0);
        pause_ms(5);
        guix_offload_job_cancel(job);
        for (int i = 0; i < 2; i++)
            CHECK(pthread_join(takers[i], NULL) == 0);
        guix_offload_job_free(job);
    }
    free_all(NULL, &world);
}

/* Uses a machine list, a request and an engine that other threads use too: all of them `const`.  */
static void *start_and_cancel(void *data)
{
    const struct world *world = data;
    for (int i = 0; i < 5; i++) {
        guix_offload_job *job = start(world);
        CHECK_TEXT(guix_offload_machine_name(machine_of(world)), "127.0.0.1");
        guix_offload_job_cancel(job);
        CHECK(guix_offload_job_wait(job, 20000) == 1);
        guix_offload_job_free(job);
    }
    return NULL;
}

static void several_threads_share_what_is_const(void)
{
    struct world world = new_world(SILENT);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, start_and_cancel, &world) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    free_all(NULL, &world);
}

int main(void)
{
    int descriptors = DESCRIPTORS();
    threads_at_first = threads_before();
    RUN(no_job_and_no_event);
    RUN(bad_arguments_are_rejected);
    RUN(a_listener_hears_what_is_decided);
    RUN(what_no_machine_can_do_is_declined);
    RUN(a_job_that_waits_can_be_watched_and_cancelled);
    RUN(a_machine_that_is_away_is_passed_over);
    RUN(a_job_that_no_machine_can_be_configured_for_fails);
    RUN(jobs_are_freed_while_they_run);
    RUN(a_job_outlives_what_it_was_made_of);
    RUN(there_is_a_limit_to_jobs);
    RUN(several_threads_use_one_job);
    RUN(several_threads_share_what_is_const);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
