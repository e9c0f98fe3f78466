/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One job after the other in one process, as whoever reads and writes its pipes wishes: jobs IDLE-LIMIT, in seconds.
   Standard input: names of files with a request, a line each.  Standard output, for each: its events, but for progress
   and log, a line each; then `ok`, or `failed STATUS MACHINE MESSAGE`.  */
#include "request.h"

#include <poll.h>

static const char *const names[] = {"queued",   "passed-over", "chosen",     "sending",  "transferred",
                                    "building", "log",         "retrieving", "retrying", "done",
                                    "fetching"};

static void tell_events(const guix_offload_job *job)
{
    struct pollfd polled = {.fd = guix_offload_job_descriptor(job), .events = POLLIN};
    int32_t kind = -1;
    while (kind != GUIX_OFFLOAD_EVENT_DONE) {
        CHECK(poll(&polled, 1, 60000) == 1);
        guix_offload_event *event = guix_offload_job_next_event(job);
        kind = guix_offload_event_kind(event);
        guix_offload_event_free(event);
        if (kind >= 0 && kind != GUIX_OFFLOAD_EVENT_TRANSFERRED && kind != GUIX_OFFLOAD_EVENT_LOG)
            puts(names[kind]);
    }
}

int main(int argc, char **argv)
{
    char name[4096];
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = load_machines();
    CHECK(argc == 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int threads = threads_before(), descriptors = DESCRIPTORS();
    engine = new_engine();
    SUCCEEDS(guix_offload_engine_set_idle_limit, engine, (uint32_t) atoi(argv[1]));
    while (scanf("%4095s", name) == 1) {
        guix_offload_request *request = read_request(name);
        guix_offload_error *error = NULL;
        guix_offload_job *job = NULL;
        int32_t reply = 77;
        SUCCEEDS(guix_offload_job_start, &job, &reply, engine, machines, request);
        tell_events(job);
        if (guix_offload_job_result(job, &error) == GUIX_OFFLOAD_OK)
            puts("ok");
        else
            printf("failed %d %s %s\n", (int) guix_offload_error_code(error),
                   guix_offload_error_machine(error) ? guix_offload_error_machine(error) : "-",
                   guix_offload_error_message(error));
        guix_offload_error_free(error);
        guix_offload_job_free(job);
        guix_offload_request_free(request);
    }
    guix_offload_engine_free(engine);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    guix_offload_machines_free(machines);
    return 0;
}
