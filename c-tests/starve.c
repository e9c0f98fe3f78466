/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Jobs on a real machine with ever more descriptors to work with, from none to enough: each works or says that it had
   too few, and leaves none open: starve REQUEST.  */
#include "request.h"

#include <sys/resource.h>

static void set_limit(rlim_t limit)
{
    struct rlimit both;
    CHECK(getrlimit(RLIMIT_NOFILE, &both) == 0);
    both.rlim_cur = limit;
    CHECK(setrlimit(RLIMIT_NOFILE, &both) == 0);
}

/* Waits for a job, and says what became of one that does not end.  */
static void await(const guix_offload_job *job)
{
    guix_offload_event *event;
    if (guix_offload_job_wait(job, 60000))
        return;
    while ((event = guix_offload_job_next_event(job)) != NULL) {
        fprintf(stderr, "event %d: %s\n", (int) guix_offload_event_kind(event), guix_offload_event_text(event, NULL));
        guix_offload_event_free(event);
    }
    CHECK(!"the job does not end");
}

/* What came of a job with that many descriptors to spare.  */
static int32_t status_with(int spare, const guix_offload_machines *machines, const guix_offload_request *request)
{
    int threads = THREADS(), descriptors = DESCRIPTORS();
    guix_offload_engine *engine = NULL;
    guix_offload_job *job = NULL;
    guix_offload_error *error = NULL;
    int32_t reply = 77;

    SUCCEEDS(guix_offload_engine_new, &engine);
    set_limit((rlim_t) (descriptors + spare));
    int32_t status = guix_offload_job_start(&job, &reply, engine, machines, request, &error);
    if (status == GUIX_OFFLOAD_OK) {
        await(job);
        status = guix_offload_job_result(job, &error);
        guix_offload_job_free(job);
    }
    guix_offload_engine_free(engine);
    set_limit(1024);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    if (status != GUIX_OFFLOAD_OK)
        fprintf(stderr, "with %d: %d, %s\n", spare, (int) status, guix_offload_error_message(error));
    guix_offload_error_free(error);
    return status;
}

int main(int argc, char **argv)
{
    enum { ENOUGH = 20 };
    CHECK(argc == 2);
    threads_before();
    for (int descriptor = 3; descriptor < 1024; descriptor++)
        close(descriptor); /* now they are numbered without a gap */
    guix_offload_machines *machines = load_machines();
    guix_offload_request *request = read_request(argv[1]);

    CHECK(status_with(1000, machines, request) == GUIX_OFFLOAD_OK);
    for (int spare = 0; spare <= ENOUGH; spare++) {
        int32_t status = status_with(spare, machines, request);
        CHECK(status == GUIX_OFFLOAD_OK || status == GUIX_OFFLOAD_EXHAUSTED);
        CHECK(spare > 0 || status == GUIX_OFFLOAD_EXHAUSTED);
        CHECK(spare < ENOUGH || status == GUIX_OFFLOAD_OK);
    }
    guix_offload_request_free(request);
    guix_offload_machines_free(machines);
    return 0;
}
