/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The verbs and jobs on a real machine: live PLAIN FAILING TALKATIVE PLAIN, files with requests of
   such builds.  */
#include "request.h"

#include <poll.h>
#include <signal.h>
#include <sys/un.h>

static guix_offload_engine *engine;
static guix_offload_machines *machines;
static guix_offload_request *plain, *failing, *talkative, *another;

static guix_offload_lease *choose(void)
{
    guix_offload_lease *lease = NULL;
    int32_t reply = 77;
    SUCCEEDS(guix_offload_choose, &lease, &reply, engine, machines, plain, NULL);
    CHECK(reply == GUIX_OFFLOAD_ACCEPT && lease != NULL);
    return lease;
}

static guix_offload_connection *connect_to_first(void)
{
    guix_offload_connection *connection = NULL;
    SUCCEEDS(guix_offload_connect, &connection, engine, guix_offload_machines_get(machines, 0), NULL);
    return connection;
}

/* What the database says is what guix-daemon would give a hook: builds.scm printed that.  */
static void a_closure_is_what_a_hook_is_given(void)
{
    guix_offload_request *request = NULL;
    size_t count = guix_offload_request_input_count(plain);
    SUCCEEDS(guix_offload_request_new, &request, SYSTEM, guix_offload_request_derivation(plain));
    SUCCEEDS(guix_offload_request_add_closure, request, engine, NULL);
    CHECK(count > 1 && guix_offload_request_input_count(request) == count);
    for (size_t i = 0, j; i < count; i++) {
        for (j = 0; j < count; j++)
            if (strcmp(guix_offload_request_input(request, i), guix_offload_request_input(plain, j)) == 0)
                break;
        CHECK(j < count);
    }
    CHECK(guix_offload_request_output_count(request) == 1);
    CHECK_TEXT(guix_offload_request_output(request, 0), guix_offload_request_output(plain, 0));
    SUCCEEDS(guix_offload_request_add_closure, request, engine, NULL); /* adds nothing again */
    CHECK(guix_offload_request_input_count(request) == count && guix_offload_request_output_count(request) == 1);
    guix_offload_request_free(request);
}

static void *cancel_soon(void *data)
{
    pause_ms(100);
    guix_offload_cancellation_cancel(data);
    return NULL;
}

static void outputs_are_locked_until_the_request_is_freed(void)
{
    guix_offload_request *first = NULL, *second = NULL;
    guix_offload_cancellation *cancellation = NULL;
    size_t missing = 77;
    char lock[4096];
    pthread_t thread;
    SUCCEEDS(guix_offload_request_new, &first, SYSTEM, guix_offload_request_derivation(plain));
    SUCCEEDS(guix_offload_request_new, &second, SYSTEM, guix_offload_request_derivation(plain));
    SUCCEEDS(guix_offload_request_add_closure, first, engine, NULL);
    SUCCEEDS(guix_offload_request_add_closure, second, engine, NULL);
    snprintf(lock, sizeof lock, "%s.lock", guix_offload_request_output(first, 0));
    SUCCEEDS(guix_offload_request_lock_outputs, first, engine, NULL, &missing);
    CHECK(missing == 1 && access(lock, F_OK) == 0);
    REJECTS(guix_offload_request_lock_outputs, first, engine, NULL, NULL);
    REJECTS(guix_offload_request_add_closure, first, engine, NULL);
    REJECTS(guix_offload_request_add_output, first, guix_offload_request_output(first, 0));
    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    CHECK(pthread_create(&thread, NULL, cancel_soon, cancellation) == 0);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_request_lock_outputs, second, engine, cancellation, NULL);
    CHECK(pthread_join(thread, NULL) == 0);
    guix_offload_cancellation_free(cancellation);
    guix_offload_request_free(first);
    CHECK(access(lock, F_OK) != 0);
    SUCCEEDS(guix_offload_request_lock_outputs, second, engine, NULL, &missing);
    CHECK(missing == 1);
    guix_offload_request_free(second);
}

/* A job shares the locks of its request; who waited for them finds the output built.  */
static void a_job_keeps_the_outputs_locked(void)
{
    guix_offload_request *first = NULL, *second = NULL;
    guix_offload_job *job = NULL;
    int32_t reply = 77;
    size_t missing = 77;
    SUCCEEDS(guix_offload_request_new, &first, SYSTEM, guix_offload_request_derivation(another));
    SUCCEEDS(guix_offload_request_new, &second, SYSTEM, guix_offload_request_derivation(another));
    SUCCEEDS(guix_offload_request_add_closure, first, engine, NULL);
    SUCCEEDS(guix_offload_request_add_closure, second, engine, NULL);
    SUCCEEDS(guix_offload_request_lock_outputs, first, engine, NULL, &missing);
    SUCCEEDS(guix_offload_job_start, &job, &reply, engine, machines, first);
    CHECK(reply == GUIX_OFFLOAD_ACCEPT);
    guix_offload_request_free(first);
    CHECK(guix_offload_job_wait(job, 60000) == 1);
    SUCCEEDS(guix_offload_job_result, job);
    CHECK_TEXT(guix_offload_job_machine(job), guix_offload_machine_name(guix_offload_machines_get(machines, 0)));
    CHECK(guix_offload_job_machine(job) == guix_offload_job_machine(job));
    SUCCEEDS(guix_offload_request_lock_outputs, second, engine, NULL, &missing);
    CHECK(missing == 0 && guix_offload_request_output_count(second) == 0);
    guix_offload_request_free(second);
    guix_offload_job_free(job);
}

struct calls {
    int number, cancel_at;
    uint64_t bytes, total;
};

static int count_progress(void *data, uint64_t bytes, uint64_t total)
{
    struct calls *calls = data;
    CHECK(bytes >= calls->bytes);
    calls->bytes = bytes;
    calls->total = total;
    return ++calls->number == calls->cancel_at;
}

static int count_log(void *data, const char *text, size_t length)
{
    struct calls *calls = data;
    CHECK(text != NULL && length > 0);
    calls->bytes += length;
    return ++calls->number == calls->cancel_at;
}

static void the_verbs_want_requests(void)
{
    guix_offload_connection *connection = connect_to_first();
    guix_offload_items *sent = UNTOUCHED;
    guix_offload_request *bad = NULL;
    SUCCEEDS(guix_offload_request_new, &bad, SYSTEM, "/etc/passwd");
    REJECTS(guix_offload_send, connection, NULL, NULL, NULL, &sent);
    REJECTS(guix_offload_build, connection, NULL, -1, NULL, NULL);
    REJECTS(guix_offload_retrieve, connection, NULL, NULL, NULL);
    REJECTS(guix_offload_send, connection, bad, NULL, NULL, &sent);
    REJECTS(guix_offload_build, connection, bad, -1, NULL, NULL);
    REJECTS(guix_offload_build, connection, plain, -2, NULL, NULL);
    REJECTS(guix_offload_build, connection, plain, 12345, NULL, NULL);
    REJECTS(guix_offload_retrieve, connection, bad, NULL, NULL);
    CHECK(sent == UNTOUCHED);
    CHECK_TEXT(guix_offload_machine_name(guix_offload_connection_machine(connection)),
               guix_offload_machine_name(guix_offload_machines_get(machines, 0)));
    guix_offload_request_free(bad);
    guix_offload_connection_free(connection);
}

static void each_verb_does_its_part(void)
{
    guix_offload_lease *lease = choose();
    guix_offload_connection *connection = guix_offload_lease_connection(lease);
    struct calls calls = {0, 0, 0, 0};
    guix_offload_items *sent = NULL;
    SUCCEEDS(guix_offload_send, connection, plain, count_progress, &calls, &sent);
    CHECK(calls.number > 0 && calls.bytes > 0 && calls.total > 0);
    size_t count = guix_offload_items_count(sent);
    CHECK(count > 0 && guix_offload_items_get(sent, count - 1) != NULL);
    CHECK(guix_offload_items_get(sent, count) == NULL && guix_offload_items_get(sent, SIZE_MAX) == NULL);
    guix_offload_items_free(sent);
    SUCCEEDS(guix_offload_send, connection, plain, NULL, NULL, &sent);
    CHECK(guix_offload_items_count(sent) == 0); /* it has all by now */
    guix_offload_items_free(sent);
    SUCCEEDS(guix_offload_build, connection, plain, -1, NULL, NULL);
    calls = (struct calls) {0, 0, 0, 0};
    SUCCEEDS(guix_offload_retrieve, connection, plain, count_progress, &calls);
    CHECK(calls.number > 0 && calls.bytes > 0);
    guix_offload_lease_free(lease);
}

static void a_lease_holds_a_slot(void)
{
    guix_offload_lease *leases[8], *none = UNTOUCHED;
    uint32_t slots = guix_offload_machine_parallel_builds(guix_offload_machines_get(machines, 0));
    int32_t reply = 77;
    CHECK(slots <= 8 && guix_offload_machines_count(machines) == 1);
    for (uint32_t i = 0; i < slots; i++)
        leases[i] = choose();
    SUCCEEDS(guix_offload_choose, &none, &reply, engine, machines, plain, NULL);
    CHECK(reply == GUIX_OFFLOAD_POSTPONE && none == UNTOUCHED);
    guix_offload_lease_free(leases[0]);
    leases[0] = choose();
    for (uint32_t i = 0; i < slots; i++)
        guix_offload_lease_free(leases[i]);
}

static void a_failing_build_is_told_from_other_failures(void)
{
    guix_offload_connection *connection = connect_to_first();
    guix_offload_error *error = NULL;
    struct calls calls = {0, 0, 0, 0};
    SUCCEEDS(guix_offload_send, connection, failing, NULL, NULL, NULL);
    CHECK(guix_offload_build(connection, failing, -1, count_log, &calls, &error) == GUIX_OFFLOAD_BUILD_FAILED);
    CHECK(guix_offload_error_exit_status(error) == 100);
    CHECK(calls.bytes > 0);
    guix_offload_error_free(error);
    guix_offload_connection_free(connection);
}

struct stopping {
    guix_offload_connection *connection;
    guix_offload_cancellation *cancellation;
    int pieces;
    double cancelled;
};

static int note_log(void *data, const char *text, size_t length)
{
    struct stopping *stopping = data;
    CHECK(text != NULL && length > 0);
    __atomic_add_fetch(&stopping->pieces, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void *cancel_when_building(void *data)
{
    struct stopping *stopping = data;
    while (__atomic_load_n(&stopping->pieces, __ATOMIC_SEQ_CST) == 0)
        pause_ms(1);
    stopping->cancelled = now();
    guix_offload_cancellation_cancel(stopping->cancellation);
    return NULL;
}

static void a_cancellation_stops_a_build_and_lets_go_of_the_slot(void)
{
    struct stopping stopping = {NULL, NULL, 0, 0};
    guix_offload_lease *lease = NULL;
    int32_t reply = 77;
    pthread_t thread;
    SUCCEEDS(guix_offload_cancellation_new, &stopping.cancellation);
    SUCCEEDS(guix_offload_choose, &lease, &reply, engine, machines, talkative, stopping.cancellation);
    stopping.connection = guix_offload_lease_connection(lease);
    SUCCEEDS(guix_offload_send, stopping.connection, talkative, NULL, NULL, NULL);
    CHECK(pthread_create(&thread, NULL, cancel_when_building, &stopping) == 0);
    CHECK(guix_offload_build(stopping.connection, talkative, -1, note_log, &stopping, NULL) == GUIX_OFFLOAD_CANCELLED);
    double returned = now();
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(returned - stopping.cancelled < 1);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_retrieve, stopping.connection, talkative, NULL, NULL);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_send, stopping.connection, talkative, NULL, NULL, NULL);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_build, stopping.connection, talkative, -1, NULL, NULL);
    guix_offload_cancellation_free(stopping.cancellation);
    guix_offload_lease_free(lease);
    a_lease_holds_a_slot(); /* all of them can be had */
}

static void callbacks_can_cancel(void)
{
    guix_offload_connection *connection = connect_to_first();
    struct calls calls = {.cancel_at = 1};
    CHECK(guix_offload_send(connection, talkative, count_progress, &calls, NULL, NULL) == GUIX_OFFLOAD_CANCELLED);
    CHECK(calls.number == 1);
    guix_offload_connection_free(connection);

    connection = connect_to_first();
    SUCCEEDS(guix_offload_send, connection, talkative, NULL, NULL, NULL);
    calls = (struct calls) {.cancel_at = 2};
    double begun = now();
    CHECK(guix_offload_build(connection, talkative, -1, count_log, &calls, NULL) == GUIX_OFFLOAD_CANCELLED);
    CHECK(calls.number == 2 && now() - begun < 20);
    guix_offload_connection_free(connection);
}

static void a_log_that_nobody_reads_cancels_without_a_signal(void)
{
    guix_offload_connection *connection = connect_to_first();
    int log[2];
    signal(SIGPIPE, SIG_DFL);
    CHECK(pipe2(log, O_CLOEXEC) == 0 && close(log[0]) == 0);
    SUCCEEDS(guix_offload_send, connection, talkative, NULL, NULL, NULL);
    CHECK(guix_offload_build(connection, talkative, log[1], NULL, NULL, NULL) == GUIX_OFFLOAD_CANCELLED);
    close(log[1]);
    guix_offload_connection_free(connection);
}

static void a_job_tells_what_happens(void)
{
    guix_offload_job *job = NULL;
    guix_offload_event *event;
    unsigned seen = 0;
    int32_t reply = 77, kind, last = -1;
    SUCCEEDS(guix_offload_job_start, &job, &reply, engine, machines, failing);
    CHECK(guix_offload_job_wait(job, 60000) == 1);
    while ((event = guix_offload_job_next_event(job)) != NULL) {
        kind = guix_offload_event_kind(event);
        seen |= 1u << kind;
        CHECK(kind > last || (kind == last && kind == GUIX_OFFLOAD_EVENT_LOG)); /* numbered in order */
        last = kind;
        if (kind == GUIX_OFFLOAD_EVENT_LOG)
            CHECK(strstr(guix_offload_event_text(event, NULL), "about to fail") != NULL);
        if (kind == GUIX_OFFLOAD_EVENT_BUILDING)
            CHECK_TEXT(guix_offload_event_machine(event),
               guix_offload_machine_name(guix_offload_machines_get(machines, 0)));
        guix_offload_event_free(event);
    }
    CHECK(seen & 1u << GUIX_OFFLOAD_EVENT_CHOSEN && seen & 1u << GUIX_OFFLOAD_EVENT_BUILDING);
    CHECK(seen & 1u << GUIX_OFFLOAD_EVENT_LOG && seen & 1u << GUIX_OFFLOAD_EVENT_DONE);
    FAILS(GUIX_OFFLOAD_BUILD_FAILED, guix_offload_job_result, job);
    guix_offload_job_free(job);
}

/* A job whose local daemon takes connections and says nothing.  */
static void a_silent_local_daemon_does_not_hold_up_a_cancel(void)
{
    guix_offload_engine *other = new_engine();
    guix_offload_job *job = NULL;
    int32_t reply = 77;
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/tmp/silent-daemon"};
    int daemon = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pollfd connecting = {.fd = daemon, .events = POLLIN};
    unlink(address.sun_path);
    CHECK(bind(daemon, (struct sockaddr *) &address, sizeof address) == 0 && listen(daemon, 5) == 0);
    SUCCEEDS(guix_offload_engine_set_directory, other, GUIX_OFFLOAD_DAEMON_SOCKET, address.sun_path);
    SUCCEEDS(guix_offload_job_start, &job, &reply, other, machines, plain);
    double begun = now();
    /* A keeper for the other socket is found in calls for the job.  */
    while (poll(&connecting, 1, 10) == 0) {
        guix_offload_event_free(guix_offload_job_next_event(job));
        CHECK(now() - begun < 60);
    }
    pause_ms(100);
    begun = now();
    guix_offload_job_cancel(job);
    CHECK(guix_offload_job_wait(job, 20000) == 1 && now() - begun < 1);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_job_result, job);
    guix_offload_job_free(job);
    guix_offload_engine_free(other);
    close(daemon);
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    int threads = threads_before(), descriptors = DESCRIPTORS();
    engine = new_engine();
    machines = load_machines();
    plain = read_request(argv[1]);
    failing = read_request(argv[2]);
    talkative = read_request(argv[3]);
    another = read_request(argv[4]);
    RUN(the_verbs_want_requests);
    RUN(a_closure_is_what_a_hook_is_given);
    RUN(outputs_are_locked_until_the_request_is_freed);
    RUN(each_verb_does_its_part);
    RUN(a_lease_holds_a_slot);
    RUN(a_failing_build_is_told_from_other_failures);
    RUN(callbacks_can_cancel);
    RUN(a_cancellation_stops_a_build_and_lets_go_of_the_slot);
    RUN(a_log_that_nobody_reads_cancels_without_a_signal);
    RUN(a_silent_local_daemon_does_not_hold_up_a_cancel);
    RUN(a_job_tells_what_happens);
    RUN(a_job_keeps_the_outputs_locked);
    guix_offload_request_free(another);
    guix_offload_request_free(talkative);
    guix_offload_request_free(failing);
    guix_offload_request_free(plain);
    guix_offload_machines_free(machines);
    guix_offload_engine_free(engine);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}
