/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The hook, as far as it goes without a machine: this program plays guix-daemon, over pipes.  */
#include "world.h"

#include <signal.h>

#define LOCAL_REQUEST "1 x86_64-linux " ITEM("x.drv") " \n" /* whoever asks could build it as well */
#define REQUEST "0 x86_64-linux " ITEM("x.drv") " \n"

/* A hook at work: what it reads, and what it says.  */
struct daemon {
    struct world world;
    guix_offload_hook *hook;
    int input[2], output[2];
};

static struct daemon new_daemon(enum machine_kind kind)
{
    struct daemon daemon = {.world = new_world(kind)};
    const guix_offload_machine *machine = machine_of(&daemon.world);
    char file[64], text[1024];

    snprintf(text, sizeof text,
             "(list (build-machine (name \"%s\") (port %u) (systems '(\"x86_64-linux\")) (user \"u\")\n"
             "  (host-key \"" HOST_KEY "\") (private-key \"%s\") (parallel-builds %u)))\n",
             guix_offload_machine_name(machine), (unsigned) guix_offload_machine_port(machine),
             guix_offload_machine_private_key(machine), (unsigned) guix_offload_machine_parallel_builds(machine));
    snprintf(file, sizeof file, "%s/machines.scm", daemon.world.directory);
    write_file(file, text, 0600);
    SUCCEEDS(guix_offload_hook_new, &daemon.hook, daemon.world.engine);
    SUCCEEDS(guix_offload_hook_set_machine_file, daemon.hook, file);
    CHECK(pipe2(daemon.input, O_CLOEXEC) == 0 && pipe2(daemon.output, O_CLOEXEC) == 0);
    return daemon;
}

/* Has the hook read `text` and then the end of its input; takes what it said, and its exit status.  */
static int serve(struct daemon *daemon, const char *text, char *said, size_t size)
{
    int status = 77;
    ssize_t length;
    CHECK(write(daemon->input[1], text, strlen(text)) == (ssize_t) strlen(text));
    close(daemon->input[1]);
    SUCCEEDS(guix_offload_hook_serve, daemon->hook, daemon->input[0], daemon->output[1], daemon->output[1], &status);
    close(daemon->output[1]);
    length = read(daemon->output[0], said, size - 1);
    CHECK(length >= 0);
    said[length] = '\0';
    return status;
}

static void free_daemon(struct daemon *daemon)
{
    close(daemon->input[0]);
    close(daemon->output[0]);
    guix_offload_hook_free(daemon->hook);
    free_world(&daemon->world);
}

/* What the hook says to `text`, and the status it asks to exit with.  */
static void conversation(enum machine_kind kind, const char *text, int expected, const char *reply)
{
    struct daemon daemon = new_daemon(kind);
    char said[4096];
    CHECK(serve(&daemon, text, said, sizeof said) == expected);
    if (strstr(said, reply) == NULL)
        fprintf(stderr, "expected '%s' in: %s\n", reply, said);
    CHECK(strstr(said, reply) != NULL);
    free_daemon(&daemon);
}

static void requests_are_answered(void)
{
    conversation(CLOSED, "", 0, "");
    conversation(CLOSED, "1 mips64el-linux " ITEM("x.drv") " \n", 0, "# decline\n");
    conversation(CLOSED, "1 x86_64-linux " ITEM("x.drv") " kvm\n", 0, "# decline\n");
    conversation(CLOSED, REQUEST, 0, "# postpone\n");
#ifdef __x86_64__
    conversation(CLOSED, LOCAL_REQUEST, 0, "# decline\n");
    conversation(LOCKED, LOCAL_REQUEST, 0, "# decline\n");
#endif
    conversation(CLOSED, REQUEST REQUEST, 0, "# postpone\n# postpone\n");
}

static void what_is_wrong_is_said(void)
{
    conversation(CLOSED, "hello\n", 1, "invalid request line");
    conversation(CLOSED, "1 x86_64-linux /etc/passwd \n", 1, "invalid request line");
    conversation(CLOSED, NOT_UTF8 "\n", 1, "UTF-8");
    conversation(LOCKED, REQUEST, 1, "/nonexistent/key");
    conversation(FULL, REQUEST, 1, "# accept\n"); /* and the daemon hangs up */
}

/* Hangs up when the hook has accepted.  */
static void *hang_up(void *data)
{
    struct daemon *daemon = data;
    char said[4096];
    size_t length = 0;
    do {
        ssize_t more = read(daemon->output[0], said + length, sizeof said - 1 - length);
        CHECK(more > 0);
        length += (size_t) more;
        said[length] = '\0';
    } while (strstr(said, "# accept\n") == NULL);
    CHECK(write(daemon->input[1], "\n" ITEM("x") " \n", strlen("\n" ITEM("x") " \n")) > 0);
    pause_ms(50);
    close(daemon->output[0]);
    return NULL;
}

static void a_build_ends_with_the_daemon(void)
{
    struct daemon daemon = new_daemon(FULL);
    pthread_t thread;
    int status = 77;
    CHECK(write(daemon.input[1], REQUEST, strlen(REQUEST)) > 0);
    CHECK(pthread_create(&thread, NULL, hang_up, &daemon) == 0);
    SUCCEEDS(guix_offload_hook_serve, daemon.hook, daemon.input[0], daemon.output[1], daemon.output[1], &status);
    CHECK(status == 1);
    CHECK(pthread_join(thread, NULL) == 0);
    close(daemon.input[1]);
    close(daemon.output[1]);
    close(daemon.input[0]);
    guix_offload_hook_free(daemon.hook);
    free_world(&daemon.world);
}

static void descriptors_stay_the_callers(void)
{
    struct daemon daemon = new_daemon(CLOSED);
    int status = 77;
    CHECK(write(daemon.input[1], "hello\n", 6) == 6);
    close(daemon.input[1]);
    SUCCEEDS(guix_offload_hook_serve, daemon.hook, daemon.input[0], daemon.output[1], daemon.output[1], &status);
    CHECK(status == 1);
    CHECK(fcntl(daemon.input[0], F_GETFD) >= 0 && fcntl(daemon.output[1], F_GETFD) >= 0);
    CHECK((fcntl(daemon.output[1], F_GETFL) & O_NONBLOCK) == 0);
    close(daemon.output[1]);
    free_daemon(&daemon);
}

static void bad_arguments_are_rejected(void)
{
    struct daemon daemon = new_daemon(CLOSED);
    guix_offload_hook *hook = UNTOUCHED;
    int in = daemon.input[0], out = daemon.output[1], status = 77;
    guix_offload_hook_free(NULL);
    REJECTS(guix_offload_hook_new, NULL, daemon.world.engine);
    REJECTS(guix_offload_hook_new, &hook, NULL);
    CHECK(hook == UNTOUCHED);
    REJECTS(guix_offload_hook_set_machine_file, NULL, "/x");
    REJECTS(guix_offload_hook_set_machine_file, daemon.hook, NULL);
    REJECTS(guix_offload_hook_set_machine_file, daemon.hook, NOT_UTF8);
    REJECTS(guix_offload_hook_set_machine_file, daemon.hook, too_long());
    REJECTS(guix_offload_hook_set_machines, NULL, daemon.world.machines);
    REJECTS(guix_offload_hook_set_machines, daemon.hook, NULL);
    SUCCEEDS(guix_offload_hook_set_machines, daemon.hook, daemon.world.machines);
    REJECTS(guix_offload_hook_set_limits, NULL, 0, 0);
    SUCCEEDS(guix_offload_hook_set_limits, daemon.hook, UINT64_MAX, 0);
    REJECTS(guix_offload_hook_set_build_trace, NULL, 0);
    REJECTS(guix_offload_hook_set_build_trace, daemon.hook, 2);
    SUCCEEDS(guix_offload_hook_set_build_trace, daemon.hook, 1);
    REJECTS(guix_offload_hook_serve, NULL, in, out, out, &status);
    REJECTS(guix_offload_hook_serve, daemon.hook, in, out, out, NULL);
    REJECTS(guix_offload_hook_serve, daemon.hook, -1, out, out, &status);
    REJECTS(guix_offload_hook_serve, daemon.hook, in, -1, out, &status);
    REJECTS(guix_offload_hook_serve, daemon.hook, in, out, -1, &status);
    REJECTS(guix_offload_hook_serve, daemon.hook, in, out, 12345, &status);
    CHECK(status == 77);
    close(daemon.input[1]);
    close(daemon.output[1]);
    free_daemon(&daemon);
}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    signal(SIGPIPE, SIG_DFL); /* a hook without a reader must not take the host process with it */
    RUN(requests_are_answered);
    RUN(what_is_wrong_is_said);
    RUN(a_build_ends_with_the_daemon);
    RUN(descriptors_stay_the_callers);
    RUN(bad_arguments_are_rejected);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
