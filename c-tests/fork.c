/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A process with jobs under way that forks: the child may exec, and then has no descriptor of the library, or _exit;
   the parent's jobs take no notice.  */
#include "world.h"

#include <sys/wait.h>

static const char *program;

/* What this process has open, and how much that is.  */
static int show_descriptors(void)
{
    int descriptors = DESCRIPTORS();
    for (int number = 0; number < 256; number++) {
        char link[32], file[256];
        snprintf(link, sizeof link, "/proc/self/fd/%d", number);
        ssize_t length = readlink(link, file, sizeof file - 1);
        if (length >= 0)
            fprintf(stderr, "# %d: %.*s\n", number, (int) length, file);
    }
    return descriptors;
}

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

static volatile int configured;

/* Lets OpenSSL have its configuration, which takes a while.  */
static void *configure(void *file)
{
    int fifo = open(file, O_WRONLY);
    CHECK(fifo >= 0);
    usleep(200000);
    configured = 1;
    CHECK(close(fifo) == 0);
    return NULL;
}

/* OpenSSL reads its configuration through a descriptor that a child inherits: it does so before there is a thread that
   could have it open while another forks.  */
static void what_is_inherited_is_read_before_a_job_starts(void)
{
    int threads = THREADS(), descriptors = DESCRIPTORS();
    struct world world = new_world(SILENT);
    guix_offload_job *job;
    pthread_t thread;
    char fifo[300];
    int32_t reply;

    snprintf(fifo, sizeof fifo, "%s/openssl.cnf", world.directory);
    CHECK(mkfifo(fifo, 0600) == 0 && setenv("OPENSSL_CONF", fifo, 1) == 0);
    CHECK(pthread_create(&thread, NULL, configure, fifo) == 0);
    SUCCEEDS(guix_offload_job_start, &job, &reply, world.engine, world.machines, world.request);
    CHECK(configured);
    CHECK(pthread_join(thread, NULL) == 0);
    guix_offload_job_free(job);
    unsetenv("OPENSSL_CONF");
    CHECK(unlink(fifo) == 0);
    free_world(&world);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
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
        return show_descriptors();
    program = argv[0];
    RUN(what_is_inherited_is_read_before_a_job_starts);
    RUN(a_child_may_exec_or_exit);
    return 0;
}
