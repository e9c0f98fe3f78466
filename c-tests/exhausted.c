/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A process that is out of descriptors or threads gets an error, loses nothing, and can go on when it has some again.
   With any number left, from none to enough: somewhere in between, each step on the way is the one that fails.  */
#include "world.h"

#include <sys/resource.h>
#include <sys/wait.h>

enum { ENOUGH = 12, NOBODYS_UID = 54321 };

static void set_limit(int resource, rlim_t limit)
{
    struct rlimit both;
    CHECK(getrlimit(resource, &both) == 0);
    both.rlim_cur = limit;
    CHECK(setrlimit(resource, &both) == 0);
}

static rlim_t limit(int resource)
{
    struct rlimit both;
    CHECK(getrlimit(resource, &both) == 0);
    return both.rlim_cur;
}

/* Does `call` with only `left` more of the resource than are in `used`: nonzero if that was too few.  */
static int with_limit(int resource, int used, int left, int (*call)(struct world *), struct world *world)
{
    rlim_t before = limit(resource);
    int threads = THREADS(), descriptors = DESCRIPTORS(), too_few;
    set_limit(resource, (rlim_t) (used + left));
    too_few = call(world);
    set_limit(resource, before);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return too_few;
}

/* Nonzero for GUIX_OFFLOAD_EXHAUSTED, 0 for success; anything else is wrong.  */
static int is_exhausted(guix_offload_status status, guix_offload_error *error)
{
    if (status != GUIX_OFFLOAD_OK)
        check_failure(__FILE__, __LINE__, status, GUIX_OFFLOAD_EXHAUSTED, error);
    guix_offload_error_free(error);
    return status != GUIX_OFFLOAD_OK;
}

/* A job that finds the only machine away, or comes to nothing before.  */
static int run_job(struct world *world)
{
    guix_offload_job *job = NULL;
    guix_offload_error *error = NULL;
    int32_t reply = 77;
    guix_offload_status status =
        guix_offload_job_start(&job, &reply, world->engine, world->machines, world->request, &error);
    if (is_exhausted(status, error)) {
        CHECK(job == NULL && reply == 77);
        return 1;
    }
    error = NULL;
    if (!guix_offload_job_wait(job, 50)) {
        guix_offload_job_free(job);
        return 0;
    }
    status = guix_offload_job_result(job, &error);
    guix_offload_job_free(job);
    return is_exhausted(status, error);
}

static int choose(struct world *world)
{
    guix_offload_lease *lease = UNTOUCHED;
    guix_offload_error *error = NULL;
    int32_t reply = 77;
    guix_offload_status status =
        guix_offload_choose(&lease, &reply, world->engine, world->machines, world->request, NULL, &error);
    int exhausted = is_exhausted(status, error);
    CHECK(lease == UNTOUCHED && reply == (exhausted ? 77 : GUIX_OFFLOAD_POSTPONE));
    return exhausted;
}

/* A hook whose daemon hangs up at once: what it would do with a request is what `choose` does.  */
static int serve(struct world *world)
{
    guix_offload_hook *hook = NULL;
    guix_offload_error *error = NULL;
    int exit_status = 77, exhausted;
    SUCCEEDS(guix_offload_hook_new, &hook, world->engine);
    guix_offload_status status = guix_offload_hook_serve(hook, 0, 2, 2, &exit_status, &error);
    exhausted = is_exhausted(status, error);
    CHECK(exit_status == (exhausted ? 77 : 0));
    guix_offload_hook_free(hook);
    return exhausted;
}

/* Does `call` with more and more of the resource, which is in use `used` times; a world itself has a descriptor.  */
static void starve(int resource, int used, int (*call)(struct world *))
{
    int failures = 0;
    for (int left = 0; left <= ENOUGH; left++) {
        struct world world = new_world(CLOSED); /* anew: a machine that was away is left alone for a while */
        int too_few = with_limit(resource, used + (resource == RLIMIT_NOFILE), left, call, &world);
        CHECK(left > 0 || too_few);
        CHECK(left < ENOUGH || !too_few);
        failures += too_few;
        if (too_few) /* the same engine goes on */
            CHECK(!with_limit(resource, 0, (int) limit(resource), call, &world));
        free_world(&world);
    }
    printf("  %d of %d with too few\n", failures, ENOUGH + 1);
}

static void out_of_descriptors(void)
{
    int used = DESCRIPTORS();
    starve(RLIMIT_NOFILE, used, run_job);
    starve(RLIMIT_NOFILE, used, choose);
    starve(RLIMIT_NOFILE, used, serve);
}

/* Threads are counted for each user, and root is never refused one: so a child of another user does it.  */
static void out_of_threads(void)
{
    int status;
    pid_t child;
    char key[] = "/tmp/key-XXXXXX", command[512];
    CHECK(close(mkstemp(key)) == 0);
    snprintf(command, sizeof command, "cp %s %s", key_file, key);
    CHECK(system(command) == 0 && chown(key, NOBODYS_UID, NOBODYS_UID) == 0);
    fflush(NULL);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setgid(NOBODYS_UID) == 0 && setuid(NOBODYS_UID) == 0);
        key_file = key;
        starve(RLIMIT_NPROC, THREADS(), run_job);
        starve(RLIMIT_NPROC, THREADS(), choose);
        starve(RLIMIT_NPROC, THREADS(), serve);
        exit(0); /* the sanitizer looks for leaks */
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(unlink(key) == 0);
}

int main(void)
{
    for (int descriptor = 3; descriptor < 1024; descriptor++)
        close(descriptor); /* what this program was started with; now they are numbered without a gap */
    CHECK(close(0) == 0 && open("/dev/null", O_RDONLY) == 0);
    RUN(out_of_descriptors);
    RUN(out_of_threads);
    return 0;
}
