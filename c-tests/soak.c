/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Many jobs on real machines, several at a time, leave as many descriptors, threads and bytes as a few: soak REQUESTS
   COUNT, on a head whose machines have 4 slots.  Each sends something, builds and retrieves.  */
#include "request.h"

#include <poll.h>

enum { FEW = 10, PARALLEL = 4, SLOTS = 4 };

struct use {
    int descriptors, threads;
    long kilobytes;
};

/* How many descriptors of build slots are open.  Which of them stay so depends on who looked when which was taken.  */
static int slots_open(void)
{
    const char *slots = "/var/guix/offload/";
    char link[64], name[4096];
    int number = 0;
    for (int descriptor = 0; descriptor < 1024; descriptor++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        ssize_t length = readlink(link, name, sizeof name);
        number += length > (ssize_t) strlen(slots) && strncmp(name, slots, strlen(slots)) == 0;
    }
    CHECK(number <= SLOTS);
    return number;
}

static struct use measure(void)
{
    struct use use = {.descriptors = DESCRIPTORS() - slots_open(), .threads = THREADS()};
    long total, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2);
    fclose(file);
    use.kilobytes = resident * (sysconf(_SC_PAGESIZE) / 1024);
    return use;
}

/* Runs the next so many jobs of a file, up to PARALLEL at a time.  */
static void run_jobs(int count, FILE *file, const guix_offload_engine *engine, const guix_offload_machines *machines)
{
    guix_offload_job *jobs[PARALLEL] = {NULL};
    struct pollfd polled[PARALLEL];
    for (int started = 0, ended = 0; ended < count; ) {
        for (int i = 0; i < PARALLEL; i++) {
            if (jobs[i] == NULL && started < count) {
                guix_offload_request *request = next_request(file);
                int32_t reply = 77;
                SUCCEEDS(guix_offload_job_start, &jobs[i], &reply, engine, machines, request);
                CHECK(reply == GUIX_OFFLOAD_ACCEPT);
                guix_offload_request_free(request);
                started++;
            }
            polled[i] = (struct pollfd) {.fd = guix_offload_job_descriptor(jobs[i]), .events = POLLIN};
        }
        CHECK(poll(polled, PARALLEL, 60000) > 0);
        for (int i = 0; i < PARALLEL; i++) {
            guix_offload_event *event = guix_offload_job_next_event(jobs[i]);
            if (guix_offload_event_kind(event) == GUIX_OFFLOAD_EVENT_DONE) {
                SUCCEEDS(guix_offload_job_result, jobs[i]);
                guix_offload_job_free(jobs[i]);
                jobs[i] = NULL;
                ended++;
            }
            guix_offload_event_free(event);
        }
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int many = atoi(argv[2]), before = threads_before(), descriptors = DESCRIPTORS();
    FILE *file = fopen(argv[1], "r");
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = load_machines();
    struct use use[2];
    double begun = now();

    CHECK(file != NULL);
    engine = new_engine();
    for (int i = 0; i < 2; i++) {
        run_jobs(i == 0 ? FEW : many - FEW, file, engine, machines);
        /* A connection for each job at a time has a thread; each kind of connection has one that closes old ones.  */
        await_threads(has_keeper() ? before : i == 0 ? before + PARALLEL + 2 : use[0].threads);
        use[i] = measure();
        printf("after %d jobs: %d descriptors besides slots, %d threads, %ld kB; %.1f s\n", i == 0 ? FEW : many,
               use[i].descriptors,
               use[i].threads, use[i].kilobytes, now() - begun);
    }
    CHECK(use[1].descriptors == use[0].descriptors && use[1].threads == use[0].threads);
    /* The keeper's socket, and what makes it and the jobs' events one descriptor.  */
    CHECK(!has_keeper() || use[1].descriptors - 1 == descriptors + 4);
    CHECK(use[1].kilobytes - use[0].kilobytes < 2048);
    guix_offload_engine_free(engine);
    fclose(file);
    await_threads(before);
    CHECK(DESCRIPTORS() == descriptors);
    guix_offload_machines_free(machines);
    return 0;
}
