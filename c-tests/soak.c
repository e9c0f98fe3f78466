/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Many jobs on a real machine, one after the other, leave as many descriptors, threads and bytes as a few: soak REQUEST
   COUNT. The first builds; the others send nothing, and retrieve the output again.  */
#include "request.h"

#include <poll.h>

struct use {
    int descriptors, threads;
    long kilobytes;
};

static struct use measure(void)
{
    struct use use = {.descriptors = DESCRIPTORS(), .threads = THREADS()};
    long total, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2);
    fclose(file);
    use.kilobytes = resident * (sysconf(_SC_PAGESIZE) / 1024);
    return use;
}

static void run_job(const guix_offload_engine *engine, const guix_offload_machines *machines,
                    const guix_offload_request *request)
{
    guix_offload_job *job = NULL;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_job_start, &job, &reply, engine, machines, request);
    CHECK(reply == GUIX_OFFLOAD_ACCEPT);
    struct pollfd polled = {.fd = guix_offload_job_descriptor(job), .events = POLLIN};
    for (int over = 0; !over; ) {
        CHECK(poll(&polled, 1, 60000) == 1);
        guix_offload_event *event = guix_offload_job_next_event(job);
        over = guix_offload_event_kind(event) == GUIX_OFFLOAD_EVENT_DONE;
        guix_offload_event_free(event);
    }
    SUCCEEDS(guix_offload_job_result, job);
    guix_offload_job_free(job);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int many = atoi(argv[2]), before = threads_before(), descriptors = DESCRIPTORS();
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = load_machines();
    guix_offload_request *request = read_request(argv[1]);
    struct use few = {0, 0, 0}, use = few;
    double begun = now();

    SUCCEEDS(guix_offload_engine_new, &engine);
    for (int i = 1; i <= many; i++) {
        run_job(engine, machines, request);
        if (i != 10 && i != many)
            continue;
        await_threads(i == 10 ? before + 8 : few.threads);
        use = measure();
        printf("after %d jobs: %d descriptors, %d threads, %ld kB; %.1f s\n", i, use.descriptors, use.threads,
               use.kilobytes, now() - begun);
        if (i == 10)
            few = use;
    }
    CHECK(use.descriptors == few.descriptors && use.threads == few.threads);
    CHECK(use.kilobytes - few.kilobytes < 2048);
    guix_offload_engine_free(engine);
    await_threads(before);
    CHECK(DESCRIPTORS() == descriptors);
    guix_offload_request_free(request);
    guix_offload_machines_free(machines);
    return 0;
}
