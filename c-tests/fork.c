/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A process with jobs under way that forks: the child may exec, and then has no descriptor of the library, or _exit;
   the parent's jobs take no notice.  */
#include "world.h"

#include <sys/wait.h>

static const char *program;

/* The status of a child that executes this program again, with the argument "count", or just exits.  */
static int status_of_child(int executes)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (executes)
            execl(program, program, "count", (char *) NULL);
        _exit(executes ? 99 : 42);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_child_may_exec_or_exit(void)
{
    enum { JOBS = 4 };
    int threads = THREADS(), descriptors = DESCRIPTORS();
    struct world world = new_world(SILENT);
    guix_offload_job *jobs[JOBS];
    int inherited = status_of_child(1); /* what a child has after exec without any jobs */
    int32_t reply;

    for (int i = 0; i < JOBS; i++)
        SUCCEEDS(guix_offload_job_start, &jobs[i], &reply, world.engine, world.machines, world.request);
    for (int i = 0; i < 20; i++) {
        CHECK(status_of_child(1) == inherited);
        CHECK(status_of_child(0) == 42);
    }
    CHECK(DESCRIPTORS() > descriptors + JOBS); /* there were some to inherit */
    for (int i = 0; i < JOBS; i++) {
        CHECK(guix_offload_job_wait(jobs[i], 0) == 0);
        guix_offload_job_cancel(jobs[i]);
        CHECK(guix_offload_job_wait(jobs[i], 20000) == 1);
        FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_job_result, jobs[i]);
        guix_offload_job_free(jobs[i]);
    }
    free_world(&world); /* the engine keeps the files of build slots open */
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "count") == 0)
        return DESCRIPTORS();
    program = argv[0];
    RUN(a_child_may_exec_or_exit);
    return 0;
}
