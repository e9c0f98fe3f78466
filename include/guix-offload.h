/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * guix-offload.h - build offloading for GNU Guix
 *
 * This library does what `guix offload` does for guix-daemon: it chooses a build machine, sends it the store items
 * that it lacks, builds a derivation there, and brings the outputs back into the store, verified.
 *
 * There are three doors to it. A `guix_offload_hook` is all of that behind guix-daemon's own protocol. A
 * `guix_offload_job` is one build that runs beside your event loop. The verbs are its steps one by one, each of which
 * blocks until it is done.
 *
 * LIFECYCLE
 *     Check guix_offload_abi_version() against GUIX_OFFLOAD_ABI_VERSION once. Nothing else needs to be set up or torn
 *     down: before the first call that does work there is no thread, no open descriptor and no initialised library.
 *     The library is not made to be unloaded.
 *
 * OWNERSHIP
 *     Handles are opaque. What a `..._new` function gives belongs to the caller, who frees it once with the matching
 *     `..._free`; freeing NULL is fine. Strings that go in are UTF-8, end with a NUL byte, are shorter than 1 MiB, and
 *     are copied. Strings that come out belong to the handle that they were asked of and live as long as it does.
 *     Outputs are written on success only.
 *
 * THREADS
 *     A handle that a call takes as a pointer to `const` may be used by any number of threads in such calls at once.
 *     A call that takes it as any other pointer must be the only one that uses it.
 *
 *     Threads that the library starts block all signals. It installs no signal handler, raises no SIGPIPE, writes
 *     nothing to the standard output, and changes neither environment, directory nor umask. Each descriptor that it
 *     opens is close-on-exec.
 *
 * FORK
 *     The child of a fork() must not use any handle of its parent; it may exec or _exit, and the parent's work goes
 *     on. Until it does, it holds open what its parent had open: build slots that the parent gives up stay taken.
 *
 * BLOCKING
 *     Calls return at once, unless their description says that they block or wait.
 *
 * ERRORS
 *     A call that can fail returns a guix_offload_status, 0 on success and negative on failure, and takes a last
 *     parameter `guix_offload_error **`: NULL, or where to put an error that says what happened, with which machine,
 *     and what to do about it. There is no per-thread last error. Besides what its description names, any call may
 *     fail with GUIX_OFFLOAD_EXHAUSTED or, for a defect inside the library, with GUIX_OFFLOAD_INTERNAL: nothing ever
 *     unwinds into the caller. A process that has no memory left is aborted, as is usual in Rust.
 *
 * ABI
 *     All names begin with `guix_offload_`. As long as GUIX_OFFLOAD_ABI_VERSION, which is also the number in the
 *     library's SONAME, stays the same, programs compiled against an older header go on working. While it is 0, it
 *     promises that only within one minor version. Values may be added to the enums: expect ones that you do not know.
 *
 * EXAMPLE
 *     This program builds on one of the machines of machines.scm: PROGRAM SYSTEM DERIVATION OUTPUT... <INPUTS
 *
 *     #include <guix-offload.h>
 *     #include <poll.h>
 *     #include <stdio.h>
 *
 *     int main(int argc, char **argv)
 *     {
 *         guix_offload_engine *engine = NULL;
 *         guix_offload_machines *machines = NULL;
 *         guix_offload_request *request = NULL;
 *         guix_offload_job *job = NULL;
 *         guix_offload_error *error = NULL;
 *         int32_t reply = GUIX_OFFLOAD_DECLINE;
 *         char input[4096];
 *         int failed = argc < 3 || guix_offload_engine_new(&engine, &error)
 *             || guix_offload_machines_load(&machines, "/etc/guix/machines.scm", &error)
 *             || guix_offload_request_new(&request, argv[1], argv[2], &error);
 *         for (int i = 3; i < argc && !failed; i++)
 *             failed = guix_offload_request_add_output(request, argv[i], &error);
 *         while (!failed && scanf("%4095s", input) == 1)
 *             failed = guix_offload_request_add_input(request, input, &error);
 *         failed = failed || guix_offload_job_start(&job, &reply, engine, machines, request, &error);
 *         struct pollfd polled = {guix_offload_job_descriptor(job), POLLIN, 0};
 *         for (int over = job == NULL; !over && poll(&polled, 1, -1) >= 0; ) {
 *             guix_offload_event *event = guix_offload_job_next_event(job);
 *             size_t length = 0;
 *             const char *text = guix_offload_event_text(event, &length);
 *             if (guix_offload_event_kind(event) == GUIX_OFFLOAD_EVENT_LOG)
 *                 fwrite(text, 1, length, stderr);
 *             over = guix_offload_event_kind(event) == GUIX_OFFLOAD_EVENT_DONE;
 *             guix_offload_event_free(event);
 *         }
 *         failed = failed || job == NULL || guix_offload_job_result(job, &error);
 *         if (failed)
 *             fprintf(stderr, "%s\n", error ? guix_offload_error_message(error) : "no machine for it");
 *         guix_offload_error_free(error);
 *         guix_offload_job_free(job);
 *         guix_offload_request_free(request);
 *         guix_offload_machines_free(machines);
 *         guix_offload_engine_free(engine);
 *         return failed;
 *     }
 */

#ifndef GUIX_OFFLOAD_H
#define GUIX_OFFLOAD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif


/* Version */

/**
 * Version of the ABI that a header describes. It changes when a program that was compiled before could break; the
 * number in the library's SONAME is the same.
 */
#define GUIX_OFFLOAD_ABI_VERSION 0

/**
 * Version of the ABI that the library has. A program compares it with `GUIX_OFFLOAD_ABI_VERSION` before it calls
 * anything else. Any thread.
 */
uint32_t guix_offload_abi_version(void);

/**
 * Version of the library, such as "0.1.0". Static, never NULL. Any thread.
 */
const char *guix_offload_version(void);


/* Errors */

/**
 * What a call returns: `GUIX_OFFLOAD_OK`, or why it failed. Failures are negative.
 */
typedef enum {
    /**
     * The call did what it says.
     */
    GUIX_OFFLOAD_OK = 0,
    /**
     * An argument is NULL, malformed or out of range; nothing was done.
     */
    GUIX_OFFLOAD_INVALID_ARGUMENT = -1,
    /**
     * The machine file, or a file that it names, is missing, unreadable or wrong; or the machine's SSH server or account
     * is set up so that it cannot be used.
     */
    GUIX_OFFLOAD_CONFIGURATION = -2,
    /**
     * A machine cannot be reached, went away, or lacks what a build needs.
     */
    GUIX_OFFLOAD_UNAVAILABLE = -3,
    /**
     * The machine rejects the user's key.
     */
    GUIX_OFFLOAD_AUTHENTICATION = -4,
    /**
     * The other side broke a protocol or a format.
     */
    GUIX_OFFLOAD_PROTOCOL = -5,
    /**
     * An archive is not signed by an authorized key, or is not what was asked for.
     */
    GUIX_OFFLOAD_UNTRUSTED = -6,
    /**
     * A guix-daemon refused a request.
     */
    GUIX_OFFLOAD_DAEMON = -7,
    /**
     * The local store, its database or its file system failed.
     */
    GUIX_OFFLOAD_STORE = -8,
    /**
     * The builder failed: trying again would fail again.
     */
    GUIX_OFFLOAD_BUILD_FAILED = -9,
    /**
     * The build exceeded a time limit.
     */
    GUIX_OFFLOAD_TIMED_OUT = -10,
    /**
     * The caller cancelled.
     */
    GUIX_OFFLOAD_CANCELLED = -11,
    /**
     * Out of descriptors or threads, or the system is out of memory. Nothing is lost: the call may be made again.
     */
    GUIX_OFFLOAD_EXHAUSTED = -12,
    /**
     * A defect of the library.
     */
    GUIX_OFFLOAD_INTERNAL = -13,
    /**
     * The machine's host key is not the pinned one.
     */
    GUIX_OFFLOAD_HOST_KEY = -14,
    /**
     * The machine can be logged in to and has no Guix, or one that is not running.
     */
    GUIX_OFFLOAD_NO_GUIX = -15,
} guix_offload_status;

/**
 * Why a call failed. Every call that can fail has a last parameter `guix_offload_error **`: NULL, or where to put one
 * on failure, which the caller frees with `guix_offload_error_free`. It is not touched on success. An error does not
 * change.
 */
typedef struct guix_offload_error guix_offload_error;

/**
 * Frees an error. NULL is fine.
 */
void guix_offload_error_free(guix_offload_error *error);

/**
 * The status that the failed call returned; `GUIX_OFFLOAD_OK` if `error` is NULL.
 */
int32_t guix_offload_error_code(const guix_offload_error *error);

/**
 * What went wrong, and where. UTF-8; lives as long as the error; NULL only if `error` is NULL.
 */
const char *guix_offload_error_message(const guix_offload_error *error);

/**
 * Name of the machine with which it happened, or NULL. Lives as long as the error.
 */
const char *guix_offload_error_machine(const guix_offload_error *error);

/**
 * What to do about it, or NULL. Lives as long as the error.
 */
const char *guix_offload_error_hint(const guix_offload_error *error);

/**
 * The status with which a build hook that fails so exits: 100 (the build itself failed, and would again), 101 (it
 * exceeded a time limit) or 1 (it may be tried again); 0 if `error` is NULL.
 */
int32_t guix_offload_error_exit_status(const guix_offload_error *error);


/* Machines */

/**
 * A build machine: what `build-machine` is in machines.scm.
 */
typedef struct guix_offload_machine guix_offload_machine;

/**
 * Makes a machine for builds of the system type `system`, such as "x86_64-linux"; NULL: of none as yet. `name` is
 * its host name or address, of which an IPv6 address may stand in brackets. All other fields get Guix's defaults;
 * the private key is the first of `id_ed25519` and `id_rsa` in `~/.ssh` of the process's user. `host_key` is the
 * only key that is trusted of its SSH server: "ssh-ed25519 AAAA...", a line of its `/etc/ssh/ssh_host_*_key.pub`.
 * Strings are copied. The caller frees it with `guix_offload_machine_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or a text cannot be what it is named, and
 * with `GUIX_OFFLOAD_CONFIGURATION` if `host_key` is no host key.
 */
guix_offload_status guix_offload_machine_new(guix_offload_machine **machine,
                                             const char *name,
                                             const char *system,
                                             const char *user,
                                             const char *host_key,
                                             guix_offload_error **error);

/**
 * Frees a machine that `guix_offload_machine_new` gave. NULL is fine.
 */
void guix_offload_machine_free(guix_offload_machine *machine);

/**
 * Adds a system type that the machine builds for. Strings are copied; setters may follow each other in any order.
 *
 * This and each of the setters below fails with `GUIX_OFFLOAD_INVALID_ARGUMENT`, and changes nothing, if a pointer
 * is NULL, a string is not UTF-8, or a value is out of the range that is given.
 */
guix_offload_status guix_offload_machine_add_system(guix_offload_machine *machine,
                                                    const char *system,
                                                    guix_offload_error **error);

/**
 * Adds a feature that the machine offers, such as "kvm".
 */
guix_offload_status guix_offload_machine_add_feature(guix_offload_machine *machine,
                                                     const char *feature,
                                                     guix_offload_error **error);

/**
 * Sets the port of its SSH server: 1 to 65535. Default: 22.
 */
guix_offload_status guix_offload_machine_set_port(guix_offload_machine *machine,
                                                  uint32_t port,
                                                  guix_offload_error **error);

/**
 * Sets the file with the private key to log in with. Its name is not empty.
 */
guix_offload_status guix_offload_machine_set_private_key(guix_offload_machine *machine,
                                                         const char *file,
                                                         guix_offload_error **error);

/**
 * Sets which compression may be used, a comma-separated list, and its level, 0 to 9. Default:
 * "zlib@openssh.com,zlib", 3.
 */
guix_offload_status guix_offload_machine_set_compression(guix_offload_machine *machine,
                                                         const char *methods,
                                                         uint32_t level,
                                                         guix_offload_error **error);

/**
 * Sets the socket of the daemon there, an absolute file name. Default: "/var/guix/daemon-socket/socket".
 */
guix_offload_status guix_offload_machine_set_daemon_socket(guix_offload_machine *machine,
                                                           const char *socket,
                                                           guix_offload_error **error);

/**
 * Sets how many builds may run there at once. 0: none. Default: 1.
 */
guix_offload_status guix_offload_machine_set_parallel_builds(guix_offload_machine *machine,
                                                             uint32_t builds,
                                                             guix_offload_error **error);

/**
 * Sets its speed relative to other machines, not negative. Default: 1.
 */
guix_offload_status guix_offload_machine_set_speed(guix_offload_machine *machine,
                                                   double speed,
                                                   guix_offload_error **error);

/**
 * Sets the load, normalised by the number of cores, from which on it takes no more builds; negative: any load is
 * fine. Default: 0.8.
 */
guix_offload_status guix_offload_machine_set_overload_threshold(guix_offload_machine *machine,
                                                                double load,
                                                                guix_offload_error **error);

/**
 * The machine's host name or address. This and the texts below live until the machine is freed or changed. If
 * `machine` is NULL, texts are NULL and numbers 0.
 */
const char *guix_offload_machine_name(const guix_offload_machine *machine);

/**
 * The port of its SSH server.
 */
uint32_t guix_offload_machine_port(const guix_offload_machine *machine);

/**
 * The account to log in to.
 */
const char *guix_offload_machine_user(const guix_offload_machine *machine);

/**
 * The file with the private key.
 */
const char *guix_offload_machine_private_key(const guix_offload_machine *machine);

/**
 * The pinned host key, its type and itself.
 */
const char *guix_offload_machine_host_key(const guix_offload_machine *machine);

/**
 * Which compression may be used.
 */
const char *guix_offload_machine_compression(const guix_offload_machine *machine);

/**
 * The compression level, 0 to 9.
 */
uint32_t guix_offload_machine_compression_level(const guix_offload_machine *machine);

/**
 * The socket of the daemon there.
 */
const char *guix_offload_machine_daemon_socket(const guix_offload_machine *machine);

/**
 * How many builds may run there at once.
 */
uint32_t guix_offload_machine_parallel_builds(const guix_offload_machine *machine);

/**
 * Its speed relative to other machines.
 */
double guix_offload_machine_speed(const guix_offload_machine *machine);

/**
 * The load from which on it takes no more builds; negative: any load is fine.
 */
double guix_offload_machine_overload_threshold(const guix_offload_machine *machine);

/**
 * The `index`th system type that it builds for, counted from 0; NULL: there are no more.
 */
const char *guix_offload_machine_system(const guix_offload_machine *machine, size_t index);

/**
 * The `index`th feature that it offers, counted from 0; NULL: there are no more.
 */
const char *guix_offload_machine_feature(const guix_offload_machine *machine, size_t index);


/* Lists of machines */

/**
 * A list of build machines.
 */
typedef struct guix_offload_machines guix_offload_machines;

/**
 * Makes an empty list. The caller frees it with `guix_offload_machines_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `machines` is NULL.
 */
guix_offload_status guix_offload_machines_new(guix_offload_machines **machines, guix_offload_error **error);

/**
 * Makes the list that the machine file `file` returns; a file that does not exist returns an empty one. What is
 * not plain enough to be read in process is evaluated by a child process, `guile` or `guix repl`, within 30 s.
 * A machine that is malformed is left out, and a result that is no list of machines has none:
 * `guix_offload_machines_problem` says so. The caller frees the list with `guix_offload_machines_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, and with `GUIX_OFFLOAD_CONFIGURATION` and a
 * message `FILE:LINE:COLUMN: ...` if the file cannot be read or evaluated.
 */
guix_offload_status guix_offload_machines_load(guix_offload_machines **machines,
                                               const char *file,
                                               guix_offload_error **error);

/**
 * Frees a list, and the machines in it. NULL is fine.
 */
void guix_offload_machines_free(guix_offload_machines *machines);

/**
 * Adds a copy of `machine`, which stays the caller's.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_machines_add(guix_offload_machines *machines,
                                              const guix_offload_machine *machine,
                                              guix_offload_error **error);

/**
 * How many machines there are; 0 if `machines` is NULL.
 */
size_t guix_offload_machines_count(const guix_offload_machines *machines);

/**
 * The `index`th machine, counted from 0; NULL: there are no more. It belongs to the list, and lives until that is
 * freed or added to.
 */
const guix_offload_machine *guix_offload_machines_get(const guix_offload_machines *machines,
                                                      size_t index);

/**
 * The `index`th thing, counted from 0, that is wrong in the file that the list was loaded from, such as a machine
 * that was left out, or odd, such as a system that Guix does not know; NULL: there are no more. Each has a hint.
 * It belongs to the list, and lives until that is freed.
 */
const guix_offload_error *guix_offload_machines_problem(const guix_offload_machines *machines,
                                                        size_t index);

/**
 * 1 if the file that the list was loaded from would return the same now, else 0; for a caller who keeps it. Looks
 * at the file and at the files that it reads, in no time. What may depend on other things (the time, other programs)
 * is taken to be the same for 5 seconds, everything for ten minutes at most. 0 for other lists, and for NULL.
 */
int guix_offload_machines_are_current(const guix_offload_machines *machines);


/* Engine */

/**
 * A directory or file of this host's Guix.
 */
typedef enum {
    /**
     * The store. Default: `NIX_STORE_DIR`, or "/gnu/store".
     */
    GUIX_OFFLOAD_STORE_DIRECTORY = 0,
    /**
     * Mutable state. Default: `GUIX_STATE_DIRECTORY`, or "/var/guix". Build slots are in "offload" below it.
     */
    GUIX_OFFLOAD_STATE_DIRECTORY = 1,
    /**
     * The store's database. Default: `GUIX_DATABASE_DIRECTORY`, or "/var/guix/db".
     */
    GUIX_OFFLOAD_DATABASE_DIRECTORY = 2,
    /**
     * The list of authorized keys and the machine file. Default: `GUIX_CONFIGURATION_DIRECTORY`, or "/etc/guix".
     */
    GUIX_OFFLOAD_CONFIGURATION_DIRECTORY = 3,
    /**
     * The local daemon's socket. Default: `GUIX_DAEMON_SOCKET`, or "/var/guix/daemon-socket/socket".
     */
    GUIX_OFFLOAD_DAEMON_SOCKET = 4,
} guix_offload_directory;

/**
 * What all builds of a process share: where things are on this host, and connections to machines, which are kept for
 * a while after a build for the next one, each with a thread. Handles made with it keep what they need of it: it may
 * be freed before them.
 */
typedef struct guix_offload_engine guix_offload_engine;

/**
 * Makes an engine with the directories that the environment names, else those of Guix. Connects to nothing. The
 * caller frees it with `guix_offload_engine_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL or `NIX_STORE_DIR` is no absolute file name.
 */
guix_offload_status guix_offload_engine_new(guix_offload_engine **engine,
                                            guix_offload_error **error);

/**
 * Frees an engine and closes the connections that it keeps. NULL is fine.
 */
void guix_offload_engine_free(guix_offload_engine *engine);

/**
 * Sets one of the directories, a `guix_offload_directory`; `name` is absolute, and copied. No other thread may use
 * the engine meanwhile. What was made with it before keeps the old ones.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, `which` is none of them, or `name` is not
 * absolute.
 */
guix_offload_status guix_offload_engine_set_directory(guix_offload_engine *engine,
                                                      int32_t which,
                                                      const char *name,
                                                      guix_offload_error **error);

/**
 * Sets for how many seconds a connection waits for the next build before it is closed: 60 by default. No other
 * thread may use the engine meanwhile. What was made with it before keeps the old limit.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL.
 */
guix_offload_status guix_offload_engine_set_idle_limit(guix_offload_engine *engine,
                                                       uint32_t seconds,
                                                       guix_offload_error **error);


/* Requests */

/**
 * What is to be built: a derivation, what it requires of a machine, its inputs and outputs, and time limits.
 * Calls that take it copy what they need.
 */
typedef struct guix_offload_request guix_offload_request;

/**
 * Makes a request to build `derivation`, a store file name that ends in ".drv", for the system type `system`,
 * without features, inputs, outputs or time limits. Strings are copied. The caller frees it with
 * `guix_offload_request_free`. Whether file names are those of store items is checked by the calls that take the
 * request, which fail with `GUIX_OFFLOAD_INVALID_ARGUMENT`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a string is not UTF-8.
 */
guix_offload_status guix_offload_request_new(guix_offload_request **request,
                                             const char *system,
                                             const char *derivation,
                                             guix_offload_error **error);

/**
 * Frees a request. NULL is fine.
 */
void guix_offload_request_free(guix_offload_request *request);

/**
 * Adds a feature that the build requires of its machine, such as "kvm".
 *
 * This and the two below fail with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a string is not UTF-8.
 */
guix_offload_status guix_offload_request_add_feature(guix_offload_request *request,
                                                     const char *feature,
                                                     guix_offload_error **error);

/**
 * Adds a store item that the build needs. All of them together, with the derivation, must be a closure: whatever
 * one refers to is among them.
 */
guix_offload_status guix_offload_request_add_input(guix_offload_request *request,
                                                   const char *item,
                                                   guix_offload_error **error);

/**
 * Adds an output that is to become valid in the local store. Whoever makes the request holds the locks on them.
 */
guix_offload_status guix_offload_request_add_output(guix_offload_request *request,
                                                    const char *item,
                                                    guix_offload_error **error);

/**
 * Sets after how many seconds the build is killed, in all and without output. 0: no limit. Both count the build
 * alone; they are enforced by the daemon of the build machine, and some seconds later here.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL.
 */
guix_offload_status guix_offload_request_set_limits(guix_offload_request *request,
                                                    uint64_t timeout,
                                                    uint64_t max_silent_time,
                                                    guix_offload_error **error);

/**
 * Sets whether the log has lines for machines, such as `@ build-started`: 0 or 1.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `print` is neither.
 */
guix_offload_status guix_offload_request_set_build_trace(guix_offload_request *request,
                                                         int print,
                                                         guix_offload_error **error);

/**
 * Sets how many cores the build may use; 0: all. Without, it is what the machine's daemon is set to. This and
 * `guix_offload_request_set_rounds` count for what is built later over the same `guix_offload_connection`, too.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL.
 */
guix_offload_status guix_offload_request_set_cores(guix_offload_request *request,
                                                   uint32_t cores,
                                                   guix_offload_error **error);

/**
 * Sets how often the build is done, at least once. If the outputs are not the same each time, it has failed.
 * Outputs that the machine has are built again, and compared with. Without, it is what the machine's daemon is
 * set to.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `rounds` is 0.
 */
guix_offload_status guix_offload_request_set_rounds(guix_offload_request *request,
                                                    uint32_t rounds,
                                                    guix_offload_error **error);

/**
 * Sets whether the machine keeps the tree of a build that fails: 0 or 1. The hint of the error says on which
 * machine, and where.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `keep` is neither.
 */
guix_offload_status guix_offload_request_set_keep_failed(guix_offload_request *request,
                                                         int keep,
                                                         guix_offload_error **error);

/**
 * Sets how much the machine's daemon says in the log besides what the builder does: 0, errors only, which is the
 * default, to 7.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `level` is out of range.
 */
guix_offload_status guix_offload_request_set_verbosity(guix_offload_request *request,
                                                       uint32_t level,
                                                       guix_offload_error **error);

/**
 * How many of `machines` offer the system and the features that the request requires, whether they can be reached
 * or not; if 0, no machine can ever do it. 0 if a pointer is NULL.
 */
size_t guix_offload_request_matches(const guix_offload_request *request,
                                    const guix_offload_machines *machines);


/* Cancellation */

/**
 * A way to stop verbs that block: it is given to `guix_offload_choose` or `guix_offload_connect`, and holds for what is
 * done with the connection that comes of it, too. One may be given to any number of calls. What was made with it keeps
 * what it needs of it: it may be freed before.
 */
typedef struct guix_offload_cancellation guix_offload_cancellation;

/**
 * Makes a cancellation. The caller frees it with `guix_offload_cancellation_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `cancellation` is NULL.
 */
guix_offload_status guix_offload_cancellation_new(guix_offload_cancellation **cancellation,
                                                  guix_offload_error **error);

/**
 * Cancels, for good: the calls under way that it was given to, or whose connection was made with it, return with
 * `GUIX_OFFLOAD_CANCELLED`, as a rule within a second, and later ones fail so at once. A build that is under way on
 * a machine is stopped. Any thread, at any time, but not a signal handler. NULL is fine.
 */
void guix_offload_cancellation_cancel(const guix_offload_cancellation *cancellation);

/**
 * Frees a cancellation, which cancels nothing. NULL is fine.
 */
void guix_offload_cancellation_free(guix_offload_cancellation *cancellation);


/* The verbs: choose, connect, send, build, retrieve */

/**
 * What becomes of a request.
 */
typedef enum {
    /**
     * No machine can ever do it.
     */
    GUIX_OFFLOAD_DECLINE = 0,
    /**
     * No machine can do it now.
     */
    GUIX_OFFLOAD_POSTPONE = 1,
    /**
     * It is accepted.
     */
    GUIX_OFFLOAD_ACCEPT = 2,
} guix_offload_reply;

/**
 * A machine that is connected to.
 */
typedef struct guix_offload_connection guix_offload_connection;

/**
 * Names of store items.
 */
typedef struct guix_offload_items guix_offload_items;

/**
 * A chosen machine, connected to, and a build slot on it.
 */
typedef struct guix_offload_lease guix_offload_lease;

/**
 * Is told how much has moved, in bytes, out of a total that is an estimate. Called by the thread that called the verb.
 * It returns 0, or anything else to cancel, after which the connection is good for nothing but to be freed. It must
 * return, not throw nor jump out, and not use the connection.
 */
typedef int (*guix_offload_progress_function)(void *data, uint64_t bytes, uint64_t total);

/**
 * Is given a piece of a build's log, `length` bytes that do not end with a NUL byte and live for the call. Otherwise
 * as `guix_offload_progress_function`.
 */
typedef int (*guix_offload_log_function)(void *data, const char *text, size_t length);

/**
 * Chooses one of `machines` for `request`: one that offers the system and features, has a free slot, answers, and
 * is neither overloaded nor full. `*reply` is a `guix_offload_reply`; if that is `GUIX_OFFLOAD_ACCEPT`, `*lease` is
 * the machine, which the caller frees with `guix_offload_lease_free`. Blocks for the time that machines take to
 * answer: some 15 s at most for each step of connecting to one that does not. `cancellation` may be NULL; else it
 * stops this call, and what is done with the lease.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, with `GUIX_OFFLOAD_CONFIGURATION`,
 * `GUIX_OFFLOAD_AUTHENTICATION`, `GUIX_OFFLOAD_HOST_KEY` or `GUIX_OFFLOAD_NO_GUIX` if all machines that could do it
 * are misconfigured, with `GUIX_OFFLOAD_STORE` if the state directory cannot be used, and with
 * `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_choose(guix_offload_lease **lease,
                                        int32_t *reply,
                                        const guix_offload_engine *engine,
                                        const guix_offload_machines *machines,
                                        const guix_offload_request *request,
                                        const guix_offload_cancellation *cancellation,
                                        guix_offload_error **error);

/**
 * The connection to the chosen machine. It belongs to the lease. NULL only if `lease` is.
 */
guix_offload_connection *guix_offload_lease_connection(guix_offload_lease *lease);

/**
 * Releases the slot and frees the lease; the engine keeps the connection for the next build. NULL is fine.
 */
void guix_offload_lease_free(guix_offload_lease *lease);

/**
 * Connects to `machine`, without a build slot. Blocks for at most some 15 s at each step. `cancellation` may
 * be NULL; else it stops this call, and what is done with the connection. The caller frees the connection with
 * `guix_offload_connection_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, with `GUIX_OFFLOAD_UNAVAILABLE`,
 * `GUIX_OFFLOAD_AUTHENTICATION`, `GUIX_OFFLOAD_HOST_KEY`, `GUIX_OFFLOAD_NO_GUIX` or `GUIX_OFFLOAD_CONFIGURATION` if
 * there is no connection to be had, and with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_connect(guix_offload_connection **connection,
                                         const guix_offload_engine *engine,
                                         const guix_offload_machine *machine,
                                         const guix_offload_cancellation *cancellation,
                                         guix_offload_error **error);

/**
 * Closes and frees a connection that `guix_offload_connect` gave. NULL is fine.
 */
void guix_offload_connection_free(guix_offload_connection *connection);

/**
 * The machine. It belongs to the connection. NULL only if `connection` is.
 */
const guix_offload_machine *guix_offload_connection_machine(const guix_offload_connection *connection);

/**
 * Sends the derivation of `request` and those of its inputs that the machine lacks. `progress` may be NULL. Unless
 * `sent` is NULL, `*sent` lists what was sent; the caller frees it with `guix_offload_items_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the request names something that is no
 * store item, with `GUIX_OFFLOAD_STORE` if the local store cannot be read or this host has no signing key, with
 * `GUIX_OFFLOAD_DAEMON` if the machine's daemon does not take an item, with `GUIX_OFFLOAD_UNAVAILABLE` if the
 * connection is lost, and with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_send(guix_offload_connection *connection,
                                      const guix_offload_request *request,
                                      guix_offload_progress_function progress,
                                      void *data,
                                      guix_offload_items **sent,
                                      guix_offload_error **error);

/**
 * Builds the derivation of `request` on the machine, which has all that it needs. The log goes to the function
 * `log` with `data`, unless that is NULL, else to the descriptor `log_descriptor`, which stays the caller's,
 * unless that is -1. If nobody reads there any more, the build is cancelled; there is no SIGPIPE.
 *
 * Before the first build on a connection it is seen, by an archive of the derivation, whether what the machine signs
 * is trusted here.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the descriptor is not open, with
 * `GUIX_OFFLOAD_UNTRUSTED`, `GUIX_OFFLOAD_CONFIGURATION` or `GUIX_OFFLOAD_STORE` if no output could be brought in, with
 * `GUIX_OFFLOAD_BUILD_FAILED` or `GUIX_OFFLOAD_TIMED_OUT`, with `GUIX_OFFLOAD_DAEMON` if the machine's daemon could
 * not try, with `GUIX_OFFLOAD_UNAVAILABLE` if the connection is lost, and with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_build(guix_offload_connection *connection,
                                       const guix_offload_request *request,
                                       int log_descriptor,
                                       guix_offload_log_function log,
                                       void *data,
                                       guix_offload_error **error);

/**
 * Brings the outputs of `request`, which the machine has built, into the local store and makes them valid, all of
 * them or none. The caller holds the locks on them. `progress` may be NULL.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the request names something that is no
 * store item, with `GUIX_OFFLOAD_UNTRUSTED` if an archive is not signed by an authorized key or not what was asked
 * for, with `GUIX_OFFLOAD_PROTOCOL` if it is malformed, with `GUIX_OFFLOAD_STORE` if the local store fails, with
 * `GUIX_OFFLOAD_DAEMON` if the machine lacks an output, with `GUIX_OFFLOAD_UNAVAILABLE` if the connection is lost,
 * and with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_retrieve(guix_offload_connection *connection,
                                          const guix_offload_request *request,
                                          guix_offload_progress_function progress,
                                          void *data,
                                          guix_offload_error **error);

/**
 * Frees a list of items. NULL is fine.
 */
void guix_offload_items_free(guix_offload_items *items);

/**
 * The `index`th item, counted from 0; NULL: there are no more. Lives as long as the list.
 */
const char *guix_offload_items_get(const guix_offload_items *items, size_t index);


/* Jobs */

/**
 * What happened to a job.
 */
typedef enum {
    /**
     * No machine is free; the job waits.
     */
    GUIX_OFFLOAD_EVENT_QUEUED = 0,
    /**
     * A machine cannot take the job: machine, text. Each reason comes once, whatever the numbers in it.
     */
    GUIX_OFFLOAD_EVENT_PASSED_OVER = 1,
    /**
     * A machine does the job: machine.
     */
    GUIX_OFFLOAD_EVENT_CHOSEN = 2,
    /**
     * Items are about to be sent: machine, items, bytes.
     */
    GUIX_OFFLOAD_EVENT_SENDING = 3,
    /**
     * Bytes that have moved since sending or retrieving began: bytes.
     */
    GUIX_OFFLOAD_EVENT_TRANSFERRED = 4,
    /**
     * The machine builds: machine.
     */
    GUIX_OFFLOAD_EVENT_BUILDING = 5,
    /**
     * A piece of the build's log: text.
     */
    GUIX_OFFLOAD_EVENT_LOG = 6,
    /**
     * Outputs are about to be retrieved: machine, items, bytes.
     */
    GUIX_OFFLOAD_EVENT_RETRIEVING = 7,
    /**
     * The machine failed, not the build; another one is tried: machine, text.
     */
    GUIX_OFFLOAD_EVENT_RETRYING = 8,
    /**
     * The job is over; ask for its result. The last event.
     */
    GUIX_OFFLOAD_EVENT_DONE = 9,
} guix_offload_event_type;

/**
 * Something that happened to a job. It does not change.
 */
typedef struct guix_offload_event guix_offload_event;

/**
 * A build that is under way, or over. Any number of threads may use it at once; one frees it, when no other uses it any
 * more.
 */
typedef struct guix_offload_job guix_offload_job;

/**
 * Starts to build what `request` asks for on one of `machines`, and returns at once. `*reply` is a
 * `guix_offload_reply`: if that is `GUIX_OFFLOAD_ACCEPT`, `*job` is the job, which the caller frees with
 * `guix_offload_job_free`; else there is no job, because no machine can ever do it or because 256 jobs are
 * running. A job waits as long as need be for a free machine. `request` and `machines` are copied.
 *
 * The job runs in threads of its own, which block all signals. Its log waits in memory until it is taken with
 * `guix_offload_job_next_event`; when 1 MiB of it waits, the build does.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or the request names something that is no store
 * item, and with `GUIX_OFFLOAD_EXHAUSTED` for want of a descriptor or thread.
 */
guix_offload_status guix_offload_job_start(guix_offload_job **job,
                                           int32_t *reply,
                                           const guix_offload_engine *engine,
                                           const guix_offload_machines *machines,
                                           const guix_offload_request *request,
                                           guix_offload_error **error);

/**
 * Cancels a job unless it is over, and frees it. Returns at once: the machine's build, its slot and the job's
 * threads end within a second. NULL is fine.
 */
void guix_offload_job_free(guix_offload_job *job);

/**
 * A descriptor that is readable while there is an event to take, and for good once the job is over. For select and
 * poll only. It belongs to the job. -1 if `job` is NULL.
 */
int32_t guix_offload_job_descriptor(const guix_offload_job *job);

/**
 * Takes the next event; NULL: there is none now, or `job` is NULL. Does not block. The caller frees it with
 * `guix_offload_event_free`.
 */
guix_offload_event *guix_offload_job_next_event(const guix_offload_job *job);

/**
 * Waits until the job is over, for at most `milliseconds`, or for good if that is negative. 1: it is over; 0: not
 * yet, or `job` is NULL. Takes no events, and a job whose log is not taken may never end.
 */
int32_t guix_offload_job_wait(const guix_offload_job *job,
                              int64_t milliseconds);

/**
 * Cancels the job unless it is over. Returns at once; the result will be `GUIX_OFFLOAD_CANCELLED`. NULL is fine.
 */
void guix_offload_job_cancel(const guix_offload_job *job);

/**
 * What came of the job: `GUIX_OFFLOAD_OK`, all outputs are valid; or why it failed, as often as it is asked.
 * `guix_offload_error_exit_status` says how a hook would report that.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `job` is NULL or not over.
 */
guix_offload_status guix_offload_job_result(const guix_offload_job *job, guix_offload_error **error);

/**
 * Frees an event. NULL is fine.
 */
void guix_offload_event_free(guix_offload_event *event);

/**
 * What happened, a `guix_offload_event_type`; -1 if `event` is NULL.
 */
int32_t guix_offload_event_kind(const guix_offload_event *event);

/**
 * Name of the machine, or NULL. Lives as long as the event.
 */
const char *guix_offload_event_machine(const guix_offload_event *event);

/**
 * How many store items; 0 if that is not said with this kind of event, or `event` is NULL.
 */
size_t guix_offload_event_items(const guix_offload_event *event);

/**
 * How many bytes; 0 if that is not said with this kind of event, or `event` is NULL.
 */
uint64_t guix_offload_event_bytes(const guix_offload_event *event);

/**
 * The text, whose length goes to `*length` unless that is NULL: a log may contain any byte. A NUL byte follows,
 * which does not count. Lives as long as the event; NULL only if `event` is.
 */
const char *guix_offload_event_text(const guix_offload_event *event,
                                    size_t *length);


/* Build hook */

/**
 * How a build hook is to work.
 */
typedef struct guix_offload_hook guix_offload_hook;

/**
 * Makes a hook that reads the machine file `machines.scm` in the engine's configuration directory and sets no time
 * limits. The caller frees it with `guix_offload_hook_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_hook_new(guix_offload_hook **hook,
                                          const guix_offload_engine *engine,
                                          guix_offload_error **error);

/**
 * Frees a hook. NULL is fine.
 */
void guix_offload_hook_free(guix_offload_hook *hook);

/**
 * Sets the machine file. `file` is copied.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or `file` is not UTF-8.
 */
guix_offload_status guix_offload_hook_set_machine_file(guix_offload_hook *hook,
                                                       const char *file,
                                                       guix_offload_error **error);

/**
 * Takes `machines` for what the machine file returns, for a caller who evaluated it after naming it here: as long
 * as the file does not change, the hook does not read it. They are copied.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_hook_set_machines(guix_offload_hook *hook,
                                                   const guix_offload_machines *machines,
                                                   guix_offload_error **error);

/**
 * Sets after how many seconds a build is killed, in all and without output, as for
 * `guix_offload_request_set_limits`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL.
 */
guix_offload_status guix_offload_hook_set_limits(guix_offload_hook *hook,
                                                 uint64_t timeout,
                                                 uint64_t max_silent_time,
                                                 guix_offload_error **error);

/**
 * Sets whether the log has lines for machines, such as `@ build-started`: 0 or 1.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `print` is neither.
 */
guix_offload_status guix_offload_hook_set_build_trace(guix_offload_hook *hook,
                                                      int print,
                                                      guix_offload_error **error);

/**
 * Serves guix-daemon's requests from the descriptor `input` until a build is done or the daemon hangs up. Blocks.
 * Replies and messages go to `output`, the build's log to `log`; the descriptors stay the caller's, who keeps them
 * open. Afterwards `*exit_status` is what the process should exit with: 0, 1, 100 or 101. A build's failure is
 * reported on `output` and in `*exit_status`; it is not a failure of this call. If nobody reads `output` any more,
 * the daemon is gone, and the build is cancelled.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a descriptor is not open, and with
 * `GUIX_OFFLOAD_EXHAUSTED` for want of a descriptor or thread.
 */
guix_offload_status guix_offload_hook_serve(guix_offload_hook *hook,
                                            int input,
                                            int output,
                                            int log,
                                            int *exit_status,
                                            guix_offload_error **error);


/* All machines at once: test, status */

/**
 * What was found out about machines, each of which has an index, counted from 0. Does not change: any number of
 * threads may read it. Everything that it gives lives as long as it does.
 *
 * A function below that takes an index gives NULL, 0 or what it says for an unknown value, if there is no such machine.
 */
typedef struct guix_offload_report guix_offload_report;

/**
 * Tests all `machines` at once, each of them once: that it can be connected to, has a Guix that works, imports
 * what this host signs and signs what this host imports. Two small items are left as garbage in either store.
 * Blocks until the slowest machine has answered or failed, for at most some 90 s. That machines fail is no failure
 * of this call. `*report` is freed by the caller with `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_farm_test(guix_offload_report **report,
                                           const guix_offload_engine *engine,
                                           const guix_offload_machines *machines,
                                           guix_offload_error **error);

/**
 * Asks all `machines` at once, each of them once, how they are doing. Nothing is changed anywhere. Otherwise as
 * `guix_offload_farm_test`.
 */
guix_offload_status guix_offload_farm_status(guix_offload_report **report,
                                             const guix_offload_engine *engine,
                                             const guix_offload_machines *machines,
                                             guix_offload_error **error);

/**
 * Frees a report. NULL is fine.
 */
void guix_offload_report_free(guix_offload_report *report);

/**
 * All of it, for people: what `guix offload test` says on standard error, or `guix offload status` on standard
 * output. Lines, each with a newline. NULL only if `report` is.
 */
const char *guix_offload_report_text(const guix_offload_report *report);

/**
 * All of it, for programs: a line of JSON, an object whose member "machines" has an object for each machine.
 */
const char *guix_offload_report_json(const guix_offload_report *report);

/**
 * How many machines there are.
 */
size_t guix_offload_report_count(const guix_offload_report *report);

/**
 * How many of them failed.
 */
size_t guix_offload_report_failures(const guix_offload_report *report);

/**
 * The machine.
 */
const guix_offload_machine *guix_offload_report_machine(const guix_offload_report *report, size_t index);

/**
 * Why the machine failed; NULL: it did not. Belongs to the report.
 */
const guix_offload_error *guix_offload_report_error(const guix_offload_report *report, size_t index);

/**
 * The `number`th sentence on what the machine was found to do, counted from 0; NULL: there are no more.
 */
const char *guix_offload_report_passed(const guix_offload_report *report, size_t index, size_t number);

/**
 * The `number`th thing that is odd about the machine, counted from 0; NULL: there are no more.
 */
const char *guix_offload_report_note(const guix_offload_report *report, size_t index, size_t number);

/**
 * What to do about that, or NULL.
 */
const char *guix_offload_report_note_hint(const guix_offload_report *report, size_t index, size_t number);

/**
 * In a word or two, whether the machine gets builds: "ready", "overloaded", "low on space" or "failed"; and if it
 * was not connected to, why: "misconfigured", "refused", "host key differs", "no Guix", "unreachable" or "failed".
 */
const char *guix_offload_report_state(const guix_offload_report *report,
                                      size_t index);

/**
 * 1: the machine was connected to, and the functions below know something; 0: it was not.
 */
int32_t guix_offload_report_reachable(const guix_offload_report *report, size_t index);

/**
 * How many of the machine's build slots are taken by hooks of this host, reachable or not; -1: not known.
 */
int64_t guix_offload_report_slots_taken(const guix_offload_report *report, size_t index);

/**
 * Its load, normalised by the number of cores; -1: not known.
 */
double guix_offload_report_load(const guix_offload_report *report, size_t index);

/**
 * How many cores it has; 0: not known.
 */
uint32_t guix_offload_report_cores(const guix_offload_report *report, size_t index);

/**
 * Free space where its store is, in bytes.
 */
uint64_t guix_offload_report_free_space(const guix_offload_report *report, size_t index);

/**
 * By how much its clock is ahead of ours, in seconds; negative: behind. 0 if not known, too.
 */
int64_t guix_offload_report_clock_difference(const guix_offload_report *report, size_t index);

/**
 * Version of the `guix` that its user finds there, or NULL.
 */
const char *guix_offload_report_guix_version(const guix_offload_report *report, size_t index);

/**
 * Name and release of its kernel, or NULL.
 */
const char *guix_offload_report_kernel(const guix_offload_report *report, size_t index);

/**
 * Its hardware, such as "x86_64", or NULL.
 */
const char *guix_offload_report_architecture(const guix_offload_report *report, size_t index);

/**
 * What it calls itself, or NULL.
 */
const char *guix_offload_report_host_name(const guix_offload_report *report, size_t index);

#ifdef __cplusplus
}
#endif

#endif /* GUIX_OFFLOAD_H */
