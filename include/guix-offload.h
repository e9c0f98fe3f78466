/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * guix-offload.h - build offloading for GNU Guix
 *
 * This library does what `guix offload` does for guix-daemon: it chooses a build machine, sends it the store items
 * that it lacks, builds a derivation there, and brings the outputs back into the store, verified.
 *
 * There are three ways to use it. A `guix_offload_hook` does all of that, and speaks guix-daemon's own protocol. A
 * `guix_offload_job` is one build that runs beside your event loop. The verbs are the steps of a build, one by one;
 * each blocks until it is done.
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
 *     Any number of threads may use a handle at once in calls that take it as a pointer to `const`. A call that takes
 *     the handle as any other pointer must be the only one that uses it.
 *
 *     Threads that the library starts block all signals. It installs no signal handler, raises no SIGPIPE, writes
 *     nothing to the standard output, and changes neither environment, directory nor umask. Each descriptor that it
 *     opens is close-on-exec.
 *
 * FORK
 *     The child of a fork() must not use any handle of its parent; it may exec or _exit, and the parent's work goes
 *     on. Until the child does one of the two, it holds open what its parent had open: if the parent dies meanwhile,
 *     its build slots stay taken.
 *
 *     A host that makes children with clone(2) instead, as guix-daemon makes its builders, must have no thread of the
 *     library. A thread may hold a lock of malloc at that moment, and the child would wait for that lock for ever. Such
 *     a host takes its engine from guix_offload_engine_connect and uses jobs only.
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
 *     library's SONAME, stays the same, programs compiled against an older header go on working. It is counted up by
 *     whatever breaks them, and by nothing else. How new a header is, GUIX_OFFLOAD_VERSION_NUMBER says. Values may be
 *     added to the enums: expect ones that you do not know.
 *
 * EXAMPLE
 *     This program builds a derivation, if it is not built yet, on one of the machines of machines.scm. It runs as the
 *     user that the store belongs to: PROGRAM SYSTEM DERIVATION
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
 *         size_t missing = 1;
 *         int failed = argc < 3 || guix_offload_engine_new(&engine, &error)
 *             || guix_offload_machines_load(&machines, NULL, &error)
 *             || guix_offload_request_new(&request, argv[1], argv[2], &error)
 *             || guix_offload_request_add_closure(request, engine, NULL, &error)
 *             || guix_offload_request_lock_outputs(request, engine, NULL, &missing, &error);
 *         if (missing > 0)
 *             failed = failed || guix_offload_job_start(&job, &reply, engine, machines, request, &error);
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
 *         failed = failed || (missing > 0 && (job == NULL || guix_offload_job_result(job, &error)));
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
 * Version of the library that this header is of. GUIX_OFFLOAD_VERSION_NUMBER, to compare with, is
 * 1000000 * MAJOR + 1000 * MINOR + PATCH.
 */
#define GUIX_OFFLOAD_VERSION "0.1.0"
#define GUIX_OFFLOAD_VERSION_MAJOR 0
#define GUIX_OFFLOAD_VERSION_MINOR 1
#define GUIX_OFFLOAD_VERSION_PATCH 0
#define GUIX_OFFLOAD_VERSION_NUMBER 1000

/**
 * Version of the ABI that this header describes. It changes when programs that were compiled earlier could break. The
 * library's SONAME has the same number.
 */
#define GUIX_OFFLOAD_ABI_VERSION 1

/**
 * Returns the version of the ABI that the library has. A program compares it with `GUIX_OFFLOAD_ABI_VERSION`
 * before it calls anything else. Any thread.
 */
uint32_t guix_offload_abi_version(void);

/**
 * Returns the version of the library, such as "0.1.0". Static, never NULL. Any thread.
 */
const char *guix_offload_version(void);


/* Errors */

/**
 * The status that a call returns: `GUIX_OFFLOAD_OK`, or the kind of its failure. Failures are negative.
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
     * The machine file, or a file that it names, is missing, unreadable or wrong; or the machine's SSH server or
     * account is set up so that it cannot be used.
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
     * The machine accepts the login, but has no Guix, or one that is not running.
     */
    GUIX_OFFLOAD_NO_GUIX = -15,
} guix_offload_status;

/**
 * Why a call failed. Every call that can fail has a last parameter `guix_offload_error **`, which may be NULL. On
 * failure the call puts an error there, which the caller frees with `guix_offload_error_free`; on success it leaves
 * the pointer as it is. An error does not change.
 */
typedef struct guix_offload_error guix_offload_error;

/**
 * Returns the name of a `guix_offload_status`: that of the constant without its prefix, in lower case, with
 * hyphens, such as "timed-out". Returns "unknown" for any other value. Static, never NULL. Any thread.
 */
const char *guix_offload_status_name(int32_t status);

/**
 * Frees an error. NULL is fine.
 */
void guix_offload_error_free(guix_offload_error *error);

/**
 * Returns the status that the failed call returned; `GUIX_OFFLOAD_OK` if `error` is NULL.
 */
int32_t guix_offload_error_code(const guix_offload_error *error);

/**
 * Returns what went wrong, and where: UTF-8, one line. The text lives as long as the error. NULL only if `error`
 * is.
 */
const char *guix_offload_error_message(const guix_offload_error *error);

/**
 * Returns the name of the machine that the error is about, or NULL if there is none. The name lives as long as the
 * error.
 */
const char *guix_offload_error_machine(const guix_offload_error *error);

/**
 * Returns what the user can do about the error, or NULL if that is not known. The text lives as long as the error.
 */
const char *guix_offload_error_hint(const guix_offload_error *error);

/**
 * Returns the exit status of a build hook that fails with this error: 100 if the build itself failed and would
 * fail again, 101 if the build exceeded a time limit, 1 if it may be tried again. 0 if `error` is NULL.
 */
int32_t guix_offload_error_exit_status(const guix_offload_error *error);

/**
 * Returns the lines with which a build hook reports the error, each with a newline at its end: what is wrong, with
 * which machine, and what to do about it. The lines live as long as the error. NULL only if `error` is.
 */
const char *guix_offload_error_lines(const guix_offload_error *error);

/**
 * Returns the lines with which a build hook warns of the error and goes on, as it does for problems of a machine
 * file. Otherwise as `guix_offload_error_lines`.
 */
const char *guix_offload_error_warning_lines(const guix_offload_error *error);


/* Cancellation */

/**
 * A means to stop calls that block. If it is given to a call that makes a lease or a connection, it also stops what is
 * done with that. One cancellation may be given to any number of calls,
 * and may be freed before what was made with it.
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
 * Cancels permanently. Calls that were given this cancellation, or that use a connection made with it, fail with
 * `GUIX_OFFLOAD_CANCELLED`: calls under way within a second as a rule, later ones at once. A build that is under
 * way on a machine is stopped. Any thread may call this at any time, but a signal handler must not. NULL is fine.
 */
void guix_offload_cancellation_cancel(const guix_offload_cancellation *cancellation);

/**
 * Frees a cancellation. That cancels nothing. NULL is fine.
 */
void guix_offload_cancellation_free(guix_offload_cancellation *cancellation);


/* Machines */

/**
 * A build machine: what `build-machine` is in machines.scm.
 */
typedef struct guix_offload_machine guix_offload_machine;

/**
 * Makes a machine that builds for the system type `system`, such as "x86_64-linux". `system` may be NULL: add
 * systems later. `name` is a host name or an address; an IPv6 address may stand in brackets. `user` is the account
 * to log in to. `host_key` is the only host key that is accepted from the machine's SSH server: "ssh-ed25519
 * AAAA...", a line of its `/etc/ssh/ssh_host_*_key.pub`.
 *
 * All other fields get Guix's defaults. The private key is the first of `id_ed25519` and `id_rsa` that exists in
 * `~/.ssh` of the process's user. Strings are copied. The caller frees the machine with
 * `guix_offload_machine_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or a text is not allowed in a machine
 * file: texts must not be empty, have control characters, or have more than 4096 bytes. Fails with
 * `GUIX_OFFLOAD_CONFIGURATION` if `host_key` is no host key.
 */
guix_offload_status guix_offload_machine_new(guix_offload_machine **machine,
                                             const char *name,
                                             const char *system,
                                             const char *user,
                                             const char *host_key,
                                             guix_offload_error **error);

/**
 * Frees a machine that `guix_offload_machine_new` made. NULL is fine.
 */
void guix_offload_machine_free(guix_offload_machine *machine);

/**
 * Adds a system type that the machine builds for. The string is copied. Setters may be called in any order.
 *
 * This function and each of the setters below fails with `GUIX_OFFLOAD_INVALID_ARGUMENT`, and changes nothing, if
 * a pointer is NULL, a string is not UTF-8, or a value is not allowed in a machine file: texts must not be empty,
 * have control characters, or have more than 4096 bytes.
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
 * Sets the port of the machine's SSH server: 1 to 65535. Default: 22.
 */
guix_offload_status guix_offload_machine_set_port(guix_offload_machine *machine,
                                                  uint32_t port,
                                                  guix_offload_error **error);

/**
 * Sets the file with the private key to log in with.
 */
guix_offload_status guix_offload_machine_set_private_key(guix_offload_machine *machine,
                                                         const char *file,
                                                         guix_offload_error **error);

/**
 * Sets which compression methods may be used, a comma-separated list, and the level, 0 to 9. Default:
 * "zlib@openssh.com,zlib", 3.
 */
guix_offload_status guix_offload_machine_set_compression(guix_offload_machine *machine,
                                                         const char *methods,
                                                         uint32_t level,
                                                         guix_offload_error **error);

/**
 * Sets the socket of the machine's daemon, an absolute file name. Default: "/var/guix/daemon-socket/socket".
 */
guix_offload_status guix_offload_machine_set_daemon_socket(guix_offload_machine *machine,
                                                           const char *socket,
                                                           guix_offload_error **error);

/**
 * Sets how many builds may run on the machine at once. With 0 it gets none. Default: 1.
 */
guix_offload_status guix_offload_machine_set_parallel_builds(guix_offload_machine *machine,
                                                             uint32_t builds,
                                                             guix_offload_error **error);

/**
 * Sets the machine's speed relative to other machines, not negative. Default: 1.
 */
guix_offload_status guix_offload_machine_set_speed(guix_offload_machine *machine,
                                                   double speed,
                                                   guix_offload_error **error);

/**
 * Sets the load, divided by the number of cores, at which the machine gets no more builds. If `load` is negative,
 * any load is fine. Default: 0.8.
 */
guix_offload_status guix_offload_machine_set_overload_threshold(guix_offload_machine *machine,
                                                                double load,
                                                                guix_offload_error **error);

/**
 * Returns the machine's host name or address. This text and those of the functions below live until the machine is
 * freed or changed. If `machine` is NULL, texts are NULL and numbers 0.
 */
const char *guix_offload_machine_name(const guix_offload_machine *machine);

/**
 * Returns 1 if `other` is the same machine, perhaps listed for other systems: one with the same name and port. 0
 * otherwise, and if a pointer is NULL. Machines that are the same share their build slots.
 */
int guix_offload_machine_is_same(const guix_offload_machine *machine,
                                 const guix_offload_machine *other);

/**
 * Returns the port of the machine's SSH server.
 */
uint32_t guix_offload_machine_port(const guix_offload_machine *machine);

/**
 * Returns the account to log in to.
 */
const char *guix_offload_machine_user(const guix_offload_machine *machine);

/**
 * Returns the file with the private key.
 */
const char *guix_offload_machine_private_key(const guix_offload_machine *machine);

/**
 * Returns the pinned host key: its type, a space, and the key.
 */
const char *guix_offload_machine_host_key(const guix_offload_machine *machine);

/**
 * Returns the compression methods that may be used, a comma-separated list.
 */
const char *guix_offload_machine_compression(const guix_offload_machine *machine);

/**
 * Returns the compression level, 0 to 9.
 */
uint32_t guix_offload_machine_compression_level(const guix_offload_machine *machine);

/**
 * Returns the socket of the machine's daemon.
 */
const char *guix_offload_machine_daemon_socket(const guix_offload_machine *machine);

/**
 * Returns how many builds may run on the machine at once.
 */
uint32_t guix_offload_machine_parallel_builds(const guix_offload_machine *machine);

/**
 * Returns the machine's speed relative to other machines.
 */
double guix_offload_machine_speed(const guix_offload_machine *machine);

/**
 * Returns the load at which the machine gets no more builds; negative if any load is fine.
 */
double guix_offload_machine_overload_threshold(const guix_offload_machine *machine);

/**
 * Returns the `index`th system type that the machine builds for, counted from 0; NULL if there are no more.
 */
const char *guix_offload_machine_system(const guix_offload_machine *machine, size_t index);

/**
 * Returns the `index`th feature that the machine offers, counted from 0; NULL if there are no more.
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
 * Makes the list of the machines in the machine file `file`. NULL stands for the one that Guix reads,
 * `machines.scm` in the configuration directory that the environment names. The list is empty if the file does not
 * exist. A file that is too complicated to be read in process is evaluated by a child process, `guile` or `guix
 * repl`: then this call blocks until that is done, for at most 30 s. A machine that is malformed is left out. If
 * the file returns no list of machines, the list is empty. `guix_offload_machines_problem` reports both. The
 * caller frees the list with `guix_offload_machines_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `machines` is NULL, and with `GUIX_OFFLOAD_CONFIGURATION` and a
 * message `FILE:LINE:COLUMN: ...` if the file cannot be read or evaluated.
 */
guix_offload_status guix_offload_machines_load(guix_offload_machines **machines,
                                               const char *file,
                                               guix_offload_error **error);

/**
 * Makes the list of the machines in a machine file as `guix_offload_machines_load`. `cancellation` may be NULL;
 * otherwise it stops this call, which then fails with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_machines_load_cancellable(guix_offload_machines **machines,
                                                           const char *file,
                                                           const guix_offload_cancellation *cancellation,
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
 * Returns the name of the file that the list was loaded from; NULL if it was not loaded, or if `machines` is NULL.
 * The name belongs to the list, and lives until the list is freed.
 */
const char *guix_offload_machines_file(const guix_offload_machines *machines);

/**
 * Returns the number of machines; 0 if `machines` is NULL.
 */
size_t guix_offload_machines_count(const guix_offload_machines *machines);

/**
 * Returns the `index`th machine, counted from 0; NULL if there are no more. It belongs to the list, and lives
 * until a machine is added to the list or the list is freed.
 */
const guix_offload_machine *guix_offload_machines_get(const guix_offload_machines *machines, size_t index);

/**
 * Returns the `index`th problem, counted from 0, of the file that the list was loaded from; NULL if there are no
 * more. A problem is something wrong, such as a machine that was left out, or something odd, such as a system that
 * Guix does not know. Those that `guix_offload_machines_left_out` counts come first. Each has a hint. The problem
 * belongs to the list, and lives until the list is freed.
 */
const guix_offload_error *guix_offload_machines_problem(const guix_offload_machines *machines,
                                                        size_t index);

/**
 * Returns how many problems, the first ones, are about what was left out: malformed machines, or a result that is
 * no list of machines. The other problems are about machines that are used nevertheless. 0 if `machines` is NULL.
 */
size_t guix_offload_machines_left_out(const guix_offload_machines *machines);

/**
 * Returns 1 if the file that the list was loaded from would return the same machines now, else 0. For a caller who
 * keeps a list. Compares the state of the file, and of the files that it reads, with what it was. A result that
 * may depend on other things (the time, other programs) counts as current for 5 seconds, any result for ten
 * minutes at most. Returns 0 for lists that were not loaded, and for NULL.
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
 * What all builds of a process share: the directories of this host's Guix, and connections to machines. A connection
 * is kept for a while after a build, with a thread of its own, for the next build. Handles made with an engine keep
 * what they need of it, so it may be freed before them.
 */
typedef struct guix_offload_engine guix_offload_engine;

/**
 * A function that is called with a line about what happens to a build or is decided about it, and why. `text` is the
 * line, without its newline, for people to read. `derivation` is the derivation of the build; NULL if the line is
 * about no build. Both live for the call. Any thread may make the call, and several may at the same time. The function
 * must return soon, and must not throw, jump out, or call the library.
 */
typedef void (*guix_offload_listener_function)(void *data, const char *derivation, const char *text);

/**
 * Makes an engine with the directories that the environment names, or else those of Guix. Does not connect to
 * anything. The caller frees it with `guix_offload_engine_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL or `NIX_STORE_DIR` is no absolute file name.
 */
guix_offload_status guix_offload_engine_new(guix_offload_engine **engine, guix_offload_error **error);

/**
 * Makes an engine whose jobs are done by the keeper, the process that does the builds of hooks (see
 * `guix_offload_hook_serve`). All other calls work as with any engine. This call neither connects to anything nor
 * starts a thread: the first job connects, and starts the keeper if there is none. The caller frees the engine
 * with `guix_offload_engine_free`.
 *
 * Jobs of such an engine have no thread in this process. They share one descriptor, for which the process has four
 * open. Messages from the keeper wait in the socket until a call for a job reads them. When the process ends, its
 * jobs are cancelled. Outputs become valid in a call for their job. If the keeper ends, the jobs that it has begun
 * fail with `GUIX_OFFLOAD_UNAVAILABLE`, and the next job gets another keeper. The listener of the engine is not
 * called for its jobs.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` as `guix_offload_engine_new`, and with `GUIX_OFFLOAD_UNAVAILABLE` if
 * the program "../libexec/guix-offload", seen from the library, is missing, or the environment has
 * `GUIX_OFFLOAD_KEEPER=no` or `GUIX_OFFLOAD_LOG=stderr`.
 */
guix_offload_status guix_offload_engine_connect(guix_offload_engine **engine,
                                                guix_offload_error **error);

/**
 * Frees an engine and closes the connections that it keeps. NULL is fine.
 */
void guix_offload_engine_free(guix_offload_engine *engine);

/**
 * Sets the directory `which`, a `guix_offload_directory`, to `name`, an absolute file name that is copied. No
 * other thread may use the engine meanwhile. Jobs, hooks and connections that were made with it before keep the
 * old directories.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, `which` is no `guix_offload_directory`, or
 * `name` is not absolute.
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

/**
 * Sets the listener: a function that is called with what `GUIX_OFFLOAD_LOG` would write. That is then written
 * nowhere. NULL: no listener. `data` is passed to the function, and must live until the engine and all that was
 * made with it are freed. No other thread may use the engine meanwhile. What was made with it before goes on as
 * before. With a listener, a hook does its build in this process, without the keeper.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL.
 */
guix_offload_status guix_offload_engine_set_listener(guix_offload_engine *engine,
                                                     guix_offload_listener_function listener,
                                                     void *data,
                                                     guix_offload_error **error);

/**
 * Returns the directory `which`, a `guix_offload_directory`; NULL if it is none, or if `engine` is NULL. The name
 * lives until a setter changes the engine, or it is freed.
 */
const char *guix_offload_engine_directory(const guix_offload_engine *engine,
                                          int32_t which);

/**
 * Returns for how many seconds a connection waits for the next build; 0 if `engine` is NULL.
 */
uint32_t guix_offload_engine_idle_limit(const guix_offload_engine *engine);


/* Requests */

/**
 * What is to be built: a derivation, what it requires of a machine, its inputs and outputs, and time limits.
 * Calls that take it copy what they need.
 */
typedef struct guix_offload_request guix_offload_request;

/**
 * Makes a request to build `derivation`, a store file name that ends in ".drv", for the system type `system`. It
 * has no features, inputs, outputs or time limits yet. Strings are copied. The caller frees it with
 * `guix_offload_request_free`. Calls that take the request fail with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a file
 * name in it is not that of a store item.
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
 * This function and the next two fail with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a string is not
 * UTF-8.
 */
guix_offload_status guix_offload_request_add_feature(guix_offload_request *request,
                                                     const char *feature,
                                                     guix_offload_error **error);

/**
 * Adds a store item that the build needs. The inputs and the derivation together must be a closure: each item that
 * one of them refers to is among them. `guix_offload_request_add_closure` adds all of it.
 */
guix_offload_status guix_offload_request_add_input(guix_offload_request *request,
                                                   const char *item,
                                                   guix_offload_error **error);

/**
 * Adds an output that is to become valid in the local store. Its lock must be held until the build is over: by
 * guix-daemon, whose build hook the caller is, or with `guix_offload_request_lock_outputs`. After that, fails with
 * `GUIX_OFFLOAD_INVALID_ARGUMENT`.
 */
guix_offload_status guix_offload_request_add_output(guix_offload_request *request,
                                                    const char *item,
                                                    guix_offload_error **error);

/**
 * Adds all inputs of the build, and those of its outputs that are not valid in the local store, as the store's
 * database says. The inputs are what guix-daemon would give the build, with all that it refers to. What the
 * request has already is not added again. Blocks while another process has the database locked. `cancellation` may
 * be NULL; otherwise it stops this call.
 *
 * If no output is missing, none is added. Nothing here protects the inputs from the garbage collector.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, the derivation is none of the store, or
 * the request has the locks on its outputs; with `GUIX_OFFLOAD_STORE` if the derivation or an input is not valid,
 * or the database cannot be read; and with `GUIX_OFFLOAD_CANCELLED`. Then adds nothing.
 */
guix_offload_status guix_offload_request_add_closure(guix_offload_request *request,
                                                     const guix_offload_engine *engine,
                                                     const guix_offload_cancellation *cancellation,
                                                     guix_offload_error **error);

/**
 * Locks the outputs of the request as guix-daemon does, so that nobody else builds them meanwhile. For a caller
 * who is not guix-daemon's build hook: that has them locked. Call this when the request has all its outputs.
 * Blocks until all others who have locked an output are done. `cancellation` may be NULL; otherwise it stops this
 * call.
 *
 * Outputs that are valid by then, because others have built them, are removed from the request. Unless `missing`
 * is NULL, sets `*missing` to the number of outputs that are left. If that is 0, there is nothing to build.
 *
 * The request has the locks, and each job that is started with it shares them. They are released when the request
 * is freed and these jobs are over, or when the process ends. Whoever locks the outputs of several requests at
 * once waits for ever if another process does so in another order.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` or `engine` is NULL, the request names something that is
 * no store item, or its outputs are locked already; with `GUIX_OFFLOAD_STORE` if the local store cannot be written
 * to, or its daemon or database fails; and with `GUIX_OFFLOAD_CANCELLED`. Then has no lock.
 */
guix_offload_status guix_offload_request_lock_outputs(guix_offload_request *request,
                                                      const guix_offload_engine *engine,
                                                      const guix_offload_cancellation *cancellation,
                                                      size_t *missing,
                                                      guix_offload_error **error);

/**
 * Sets after how many seconds the build is killed: `timeout` in all, `max_silent_time` without output. 0 means no
 * limit. Both count only the build itself. The daemon of the build machine enforces them; if it does not, this
 * host does some seconds later.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL.
 */
guix_offload_status guix_offload_request_set_limits(guix_offload_request *request,
                                                    uint64_t timeout,
                                                    uint64_t max_silent_time,
                                                    guix_offload_error **error);

/**
 * Sets whether the log has lines for programs, such as `@ build-started`: 0 or 1.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `print` is neither.
 */
guix_offload_status guix_offload_request_set_build_trace(guix_offload_request *request,
                                                         int print,
                                                         guix_offload_error **error);

/**
 * Sets how many cores the build may use; 0 means all. By default the machine's daemon decides. This and
 * `guix_offload_request_set_rounds` also apply to later builds over the same `guix_offload_connection`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL.
 */
guix_offload_status guix_offload_request_set_cores(guix_offload_request *request,
                                                   uint32_t cores,
                                                   guix_offload_error **error);

/**
 * Sets how many times the build is done, at least 1. The build fails if the outputs differ from one time to the
 * next. Outputs that the machine already has are built again and compared. By default the machine's daemon
 * decides.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `rounds` is 0.
 */
guix_offload_status guix_offload_request_set_rounds(guix_offload_request *request,
                                                    uint32_t rounds,
                                                    guix_offload_error **error);

/**
 * Sets whether the machine keeps the build tree of a build that fails: 0 or 1. The hint of the error says on which
 * machine, and where.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `keep` is neither.
 */
guix_offload_status guix_offload_request_set_keep_failed(guix_offload_request *request,
                                                         int keep,
                                                         guix_offload_error **error);

/**
 * Sets whether the machine may fetch inputs from its own substitute servers, if that is faster than sending them:
 * 0 or 1. The default is 1, or 0 if the environment has `GUIX_OFFLOAD_SUBSTITUTES=no`. The machine's daemon checks
 * what it fetches against its own list of authorized keys, as for its own builds.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `fetch` is neither.
 */
guix_offload_status guix_offload_request_set_substitutes(guix_offload_request *request,
                                                         int fetch,
                                                         guix_offload_error **error);

/**
 * Sets how much the machine's daemon adds to the builder's output in the log: from 0 (only errors, the default) to
 * 7.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `level` is out of range.
 */
guix_offload_status guix_offload_request_set_verbosity(guix_offload_request *request,
                                                       uint32_t level,
                                                       guix_offload_error **error);

/**
 * Sets whether a job waits, as long as it takes, while no machine can be reached or has room: 0, or 1 (the
 * default). With 0, the job then fails with `GUIX_OFFLOAD_UNAVAILABLE`, for a caller who can have the build done
 * otherwise. A job waits for a free slot in any case.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `patient` is neither.
 */
guix_offload_status guix_offload_request_set_patient(guix_offload_request *request,
                                                     int patient,
                                                     guix_offload_error **error);

/**
 * Returns how many of `machines` offer the system and the features that the request requires, whether they can be
 * reached or not. If 0, no machine can ever do the build. 0 if a pointer is NULL.
 */
size_t guix_offload_request_matches(const guix_offload_request *request,
                                    const guix_offload_machines *machines);

/**
 * Returns the system type that the request is for. It lives as long as the request. NULL only if `request` is.
 */
const char *guix_offload_request_system(const guix_offload_request *request);

/**
 * Returns the derivation of the request. It lives as long as the request. NULL only if `request` is.
 */
const char *guix_offload_request_derivation(const guix_offload_request *request);

/**
 * Returns the number of inputs; 0 if `request` is NULL.
 */
size_t guix_offload_request_input_count(const guix_offload_request *request);

/**
 * Returns the `index`th input, counted from 0; NULL if there are no more. It lives as long as the request.
 */
const char *guix_offload_request_input(const guix_offload_request *request, size_t index);

/**
 * Returns the number of outputs that are to become valid; 0 if `request` is NULL.
 */
size_t guix_offload_request_output_count(const guix_offload_request *request);

/**
 * Returns the `index`th output, counted from 0; NULL if there are no more. It lives until the outputs are locked
 * or the request is freed.
 */
const char *guix_offload_request_output(const guix_offload_request *request,
                                        size_t index);


/* Why machines were not chosen */

/**
 * Why machines were not chosen: an error for each.
 */
typedef struct guix_offload_refusals guix_offload_refusals;

/**
 * Frees a list of refusals. NULL is fine.
 */
void guix_offload_refusals_free(guix_offload_refusals *refusals);

/**
 * Returns the number of refusals; 0 if `refusals` is NULL.
 */
size_t guix_offload_refusals_count(const guix_offload_refusals *refusals);

/**
 * Returns the `index`th refusal, counted from 0: why the machine that it names was not chosen; NULL if there are
 * no more. It belongs to the list, and lives as long as that.
 */
const guix_offload_error *guix_offload_refusals_get(const guix_offload_refusals *refusals,
                                                    size_t index);


/* The verbs: choose, connect, send, build, retrieve */

/**
 * The answer to a request.
 */
typedef enum {
    /**
     * No machine can ever do the build.
     */
    GUIX_OFFLOAD_DECLINE = 0,
    /**
     * No machine can do the build now.
     */
    GUIX_OFFLOAD_POSTPONE = 1,
    /**
     * The build is accepted.
     */
    GUIX_OFFLOAD_ACCEPT = 2,
} guix_offload_reply;

/**
 * A connection to a machine.
 */
typedef struct guix_offload_connection guix_offload_connection;

/**
 * Names of store items.
 */
typedef struct guix_offload_items guix_offload_items;

/**
 * A machine that was chosen for a build: a connection to it and one of its build slots.
 */
typedef struct guix_offload_lease guix_offload_lease;

/**
 * A function that is called with the number of bytes moved so far and the estimated total, in the thread that called
 * the verb. It returns 0 to go on, or anything else to cancel; after that, the connection can only be freed. It must
 * return, and must not throw, jump out, or use the connection.
 */
typedef int (*guix_offload_progress_function)(void *data, uint64_t bytes, uint64_t total);

/**
 * A function that is called with a piece of a build's log: `length` bytes, without a NUL byte at their end, that live
 * for the call. Otherwise as `guix_offload_progress_function`.
 */
typedef int (*guix_offload_log_function)(void *data, const char *text, size_t length);

/**
 * Returns the name of a `guix_offload_reply`, such as "accept", as `guix_offload_status_name` does.
 */
const char *guix_offload_reply_name(int32_t reply);

/**
 * Chooses one of `machines` for `request`: one that offers the system and the features, has a free slot, answers,
 * and is neither overloaded nor full.
 *
 * Sets `*reply` to a `guix_offload_reply`. If that is `GUIX_OFFLOAD_ACCEPT`, sets `*lease` to a lease of the
 * machine, which the caller frees with `guix_offload_lease_free`. Blocks until machines have answered. If one does
 * not, that takes at most some 15 s for each step of connecting. `cancellation` may be NULL; otherwise it stops
 * this call and everything that is done with the lease.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, with `GUIX_OFFLOAD_CONFIGURATION`,
 * `GUIX_OFFLOAD_AUTHENTICATION`, `GUIX_OFFLOAD_HOST_KEY`, `GUIX_OFFLOAD_NO_GUIX` or `GUIX_OFFLOAD_UNTRUSTED` if
 * all machines that could do it are misconfigured, with `GUIX_OFFLOAD_STORE` if the state directory cannot be
 * used, and with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_choose(guix_offload_lease **lease,
                                        int32_t *reply,
                                        const guix_offload_engine *engine,
                                        const guix_offload_machines *machines,
                                        const guix_offload_request *request,
                                        const guix_offload_cancellation *cancellation,
                                        guix_offload_error **error);

/**
 * Chooses one of `machines` as `guix_offload_choose` does, and says why others were not chosen: sets `*refusals`
 * to a list, which the caller frees with `guix_offload_refusals_free`. Unless the reply is `GUIX_OFFLOAD_ACCEPT`,
 * it has an error for each machine. A machine that failed is left alone for a while, 5 s to a minute, before
 * another call tries it again: then the error is the one with which it failed.
 *
 * Fails as `guix_offload_choose`.
 */
guix_offload_status guix_offload_choose_explained(guix_offload_lease **lease,
                                                  int32_t *reply,
                                                  guix_offload_refusals **refusals,
                                                  const guix_offload_engine *engine,
                                                  const guix_offload_machines *machines,
                                                  const guix_offload_request *request,
                                                  const guix_offload_cancellation *cancellation,
                                                  guix_offload_error **error);

/**
 * Returns the connection to the chosen machine. It belongs to the lease: do not free it. NULL only if `lease` is.
 */
guix_offload_connection *guix_offload_lease_connection(guix_offload_lease *lease);

/**
 * Releases the slot and frees the lease. The engine keeps the connection for the next build. NULL is fine.
 */
void guix_offload_lease_free(guix_offload_lease *lease);

/**
 * Connects to `machine`, without a build slot. Blocks for at most some 15 s at each step. `cancellation` may be
 * NULL; otherwise it stops this call and everything that is done with the connection. The caller frees the
 * connection with `guix_offload_connection_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, with `GUIX_OFFLOAD_UNAVAILABLE`,
 * `GUIX_OFFLOAD_PROTOCOL`, `GUIX_OFFLOAD_AUTHENTICATION`, `GUIX_OFFLOAD_HOST_KEY`, `GUIX_OFFLOAD_NO_GUIX` or
 * `GUIX_OFFLOAD_CONFIGURATION` if the machine cannot be connected to, and with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_connect(guix_offload_connection **connection,
                                         const guix_offload_engine *engine,
                                         const guix_offload_machine *machine,
                                         const guix_offload_cancellation *cancellation,
                                         guix_offload_error **error);

/**
 * Closes and frees a connection that `guix_offload_connect` made. NULL is fine.
 */
void guix_offload_connection_free(guix_offload_connection *connection);

/**
 * Returns the machine of a connection. It belongs to the connection. NULL only if `connection` is.
 */
const guix_offload_machine *guix_offload_connection_machine(const guix_offload_connection *connection);

/**
 * Sends what the machine lacks of the derivation of `request` and its inputs. Blocks until that is done.
 * `progress` may be NULL. Unless `sent` is NULL, sets `*sent` to a list of what was sent, which the caller frees
 * with `guix_offload_items_free`.
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
 * Builds the derivation of `request` on the machine, which must have all that the build needs. Blocks until that
 * is done. Hands the log to the function `log`, with `data`; if `log` is NULL, writes it to the descriptor
 * `log_descriptor`, which stays the caller's; if that is -1, discards it. If nobody reads from the descriptor any
 * more, cancels the build, without a SIGPIPE.
 *
 * Before the first build on a connection, checks that this host trusts what the machine signs.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the descriptor is not open, with
 * `GUIX_OFFLOAD_UNTRUSTED`, `GUIX_OFFLOAD_CONFIGURATION` or `GUIX_OFFLOAD_STORE` if no output could be imported
 * here, with `GUIX_OFFLOAD_BUILD_FAILED` or `GUIX_OFFLOAD_TIMED_OUT`, with `GUIX_OFFLOAD_DAEMON` if the machine's
 * daemon could not attempt the build, with `GUIX_OFFLOAD_UNAVAILABLE` if the connection is lost, and with
 * `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_build(guix_offload_connection *connection,
                                       const guix_offload_request *request,
                                       int log_descriptor,
                                       guix_offload_log_function log,
                                       void *data,
                                       guix_offload_error **error);

/**
 * Retrieves the outputs of `request`, which the machine has built: verifies them, moves them into the local store
 * and makes them valid, all of them or none. Blocks until that is done. The caller has the locks on
 * them: see `guix_offload_request_add_output`. `progress` may be NULL.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the request names something that is no
 * store item, with `GUIX_OFFLOAD_UNTRUSTED` if an archive is not signed by an authorized key or is not what was
 * asked for, with `GUIX_OFFLOAD_PROTOCOL` if it is malformed, with `GUIX_OFFLOAD_STORE` if the local store fails,
 * with `GUIX_OFFLOAD_DAEMON` if the machine lacks an output, with `GUIX_OFFLOAD_UNAVAILABLE` if the connection is
 * lost, and with `GUIX_OFFLOAD_CANCELLED`.
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
 * Returns the number of items; 0 if `items` is NULL.
 */
size_t guix_offload_items_count(const guix_offload_items *items);

/**
 * Returns the `index`th item, counted from 0; NULL if there are no more. It lives as long as the list.
 */
const char *guix_offload_items_get(const guix_offload_items *items, size_t index);


/* Jobs */

/**
 * What happened to a job.
 */
typedef enum {
    /**
     * The job waits: text. No machine can take it now, or the one that has its inputs cannot: machine. Why the others
     * cannot, `GUIX_OFFLOAD_EVENT_PASSED_OVER` has said of each, unless its build slots are taken.
     */
    GUIX_OFFLOAD_EVENT_QUEUED = 0,
    /**
     * A machine cannot take the job: machine, text, hint. The same reason, whatever the numbers in it, comes again
     * after 10 minutes at the earliest.
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
     * Bytes that have moved since sending or retrieving began: bytes. Those that the machine fetches do not count.
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
     * The machine failed, not the build; another one is tried: machine, text, hint.
     */
    GUIX_OFFLOAD_EVENT_RETRYING = 8,
    /**
     * The job is over; ask for its result. The last event.
     */
    GUIX_OFFLOAD_EVENT_DONE = 9,
    /**
     * The machine fetches some of the items from its substitute servers, which are sent only if that fails: machine,
     * items, bytes.
     */
    GUIX_OFFLOAD_EVENT_FETCHING = 10,
} guix_offload_event_type;

/**
 * Something that happened to a job. It does not change.
 */
typedef struct guix_offload_event guix_offload_event;

/**
 * A build that is under way, or over. Any number of threads may use it at once. One of them frees it, when no other
 * uses it any more.
 */
typedef struct guix_offload_job guix_offload_job;

/**
 * Returns the name of a `guix_offload_event_type`, such as "passed-over", as `guix_offload_status_name` does.
 */
const char *guix_offload_event_type_name(int32_t kind);

/**
 * Starts to build what `request` asks for on one of `machines`, and returns at once. Sets `*reply` to a
 * `guix_offload_reply`. If that is `GUIX_OFFLOAD_ACCEPT`, sets `*job` to the job, which the caller frees with
 * `guix_offload_job_free`. Otherwise there is no job: `GUIX_OFFLOAD_DECLINE` says that no machine can ever do the
 * build, `GUIX_OFFLOAD_POSTPONE` that 256 jobs of this process run (512 if the keeper does them). A job waits for
 * a free machine as long as it takes. `request` and `machines` are copied.
 *
 * The job runs in threads of its own, which block all signals. With an engine of `guix_offload_engine_connect` it
 * runs in the keeper. This call starts the keeper if there is none, which takes milliseconds, or up to two seconds
 * while another one is ending. It does not wait for the keeper's answer; if none comes within 5 s, the job fails
 * with `GUIX_OFFLOAD_UNAVAILABLE`. The job's log waits in memory until `guix_offload_job_next_event` takes it;
 * when 1 MiB of it waits, the build waits too.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or the request names something that is no store
 * item, with `GUIX_OFFLOAD_EXHAUSTED` for lack of a descriptor or thread, and with `GUIX_OFFLOAD_UNAVAILABLE` if
 * there is no keeper and none can be started.
 */
guix_offload_status guix_offload_job_start(guix_offload_job **job,
                                           int32_t *reply,
                                           const guix_offload_engine *engine,
                                           const guix_offload_machines *machines,
                                           const guix_offload_request *request,
                                           guix_offload_error **error);

/**
 * Cancels a job unless it is over, and frees it. Returns at once: the build on the machine, the machine's slot and
 * the job's threads end within a second. From the call on, a job of the keeper touches no output. NULL is
 * fine.
 */
void guix_offload_job_free(guix_offload_job *job);

/**
 * Returns a descriptor that is readable while there is an event to take, and permanently once the job is over. Use
 * it with select and poll only. It belongs to the job. -1 if `job` is NULL.
 *
 * All jobs of an engine of `guix_offload_engine_connect` have the same descriptor. It is readable while one of
 * them needs a call of `guix_offload_job_next_event`: make one for each of them then. A job that is over, and
 * whose events were taken, needs none.
 */
int32_t guix_offload_job_descriptor(const guix_offload_job *job);

/**
 * Takes the next event; returns NULL if there is none now, or if `job` is NULL. Does not block, with two
 * exceptions for a job of the keeper: this call makes outputs valid, which writes to the store's database, and it
 * connects to another keeper if one ends before it has begun with the job. The caller frees the event with
 * `guix_offload_event_free`.
 */
guix_offload_event *guix_offload_job_next_event(const guix_offload_job *job);

/**
 * Waits until the job is over, for at most `milliseconds`, or without a limit if that is negative. Returns 1 if
 * the job is over, 0 if it is not or if `job` is NULL. Takes no events: a job whose log nobody takes may never
 * end.
 */
int32_t guix_offload_job_wait(const guix_offload_job *job,
                              int64_t milliseconds);

/**
 * Cancels the job unless it is over. Returns at once; the result will be `GUIX_OFFLOAD_CANCELLED`. NULL is fine.
 */
void guix_offload_job_cancel(const guix_offload_job *job);

/**
 * Returns the outcome of the job: `GUIX_OFFLOAD_OK` if all outputs are valid, else why it failed. This function
 * may be called again. `guix_offload_error_exit_status` says how a hook would report a failure.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `job` is NULL or not over.
 */
guix_offload_status guix_offload_job_result(const guix_offload_job *job,
                                            guix_offload_error **error);

/**
 * Returns the name of the machine that does the job, or did it, or was the last to try; NULL if none was chosen
 * yet, or if `job` is NULL. The name lives as long as the job. For a job of the keeper, the answer is as of the
 * last call that took an event of it or waited for it.
 */
const char *guix_offload_job_machine(const guix_offload_job *job);

/**
 * Frees an event. NULL is fine.
 */
void guix_offload_event_free(guix_offload_event *event);

/**
 * Returns what happened, a `guix_offload_event_type`; -1 if `event` is NULL.
 */
int32_t guix_offload_event_kind(const guix_offload_event *event);

/**
 * Returns the name of the machine, or NULL if the event is about none. It lives as long as the event.
 */
const char *guix_offload_event_machine(const guix_offload_event *event);

/**
 * Returns the number of store items; 0 if this kind of event has none, or if `event` is NULL.
 */
size_t guix_offload_event_items(const guix_offload_event *event);

/**
 * Returns the number of bytes; 0 if this kind of event has none, or if `event` is NULL.
 */
uint64_t guix_offload_event_bytes(const guix_offload_event *event);

/**
 * Returns the text, and unless `length` is NULL sets `*length` to its length: a log may contain any byte. A NUL
 * byte follows the text and is not counted. The text lives as long as the event. NULL only if `event` is.
 */
const char *guix_offload_event_text(const guix_offload_event *event,
                                    size_t *length);

/**
 * Returns what the user can do about what happened, or NULL if that is not known. The text lives as long as the
 * event.
 */
const char *guix_offload_event_hint(const guix_offload_event *event);

/**
 * Returns the lines that a build hook shows its user of this event, each with a newline at its end. Empty for
 * progress and for pieces of the log. The lines of `GUIX_OFFLOAD_EVENT_DONE` say how the job ended. The lines live
 * as long as the event. NULL only if `event` is.
 */
const char *guix_offload_event_lines(const guix_offload_event *event);


/* Build hook */

/**
 * The settings of a build hook.
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
 * Gives the hook the machines that its machine file returns, for a caller who has evaluated it. Call it after
 * `guix_offload_hook_set_machine_file`. The hook reads the file itself only once that has changed. The list is
 * copied.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_hook_set_machines(guix_offload_hook *hook,
                                                   const guix_offload_machines *machines,
                                                   guix_offload_error **error);

/**
 * Sets after how many seconds a build is killed: `timeout` in all, `max_silent_time` without output. Otherwise as
 * `guix_offload_request_set_limits`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL.
 */
guix_offload_status guix_offload_hook_set_limits(guix_offload_hook *hook,
                                                 uint64_t timeout,
                                                 uint64_t max_silent_time,
                                                 guix_offload_error **error);

/**
 * Sets whether the log has lines for programs, such as `@ build-started`: 0 or 1.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `print` is neither.
 */
guix_offload_status guix_offload_hook_set_build_trace(guix_offload_hook *hook,
                                                      int print,
                                                      guix_offload_error **error);

/**
 * Serves guix-daemon's requests from the descriptor `input` until a build is done or the daemon hangs up. Blocks.
 * Writes replies and messages to `output`, and the build's log to `log`. The descriptors stay the caller's, who
 * keeps them open. Sets `*exit_status` to what the process should exit with: 0, 1, 100 or 101. A build that fails
 * is reported on `output` and by `*exit_status`; it is no failure of this call. Once nobody reads `output`, the
 * daemon is gone, and the build is cancelled. After a build, waits until what was written to pipes has been read,
 * or nobody has read for 10 s: guix-daemon discards what is left when the process ends.
 *
 * The keeper does the build: a process that has connections to machines for all hooks of this host and user. It is
 * started if there is none. The build is done in this process instead if the program "../libexec/guix-offload",
 * seen from the library, is missing, if the environment has `GUIX_OFFLOAD_KEEPER=no` or `GUIX_OFFLOAD_LOG=stderr`,
 * if the engine has a listener, or if the keeper fails before it accepts the build.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a descriptor is not open, and with
 * `GUIX_OFFLOAD_EXHAUSTED` for lack of a descriptor or thread.
 */
guix_offload_status guix_offload_hook_serve(guix_offload_hook *hook,
                                            int input,
                                            int output,
                                            int log,
                                            int *exit_status,
                                            guix_offload_error **error);

/**
 * Serves guix-daemon's requests as `guix_offload_hook_serve`. `cancellation` may be NULL; otherwise it stops this
 * call, which then fails with `GUIX_OFFLOAD_CANCELLED`: a build under way is cancelled, and the daemon, if it
 * still waits for a reply, gets none.
 */
guix_offload_status guix_offload_hook_serve_cancellable(guix_offload_hook *hook,
                                                        int input,
                                                        int output,
                                                        int log,
                                                        int *exit_status,
                                                        const guix_offload_cancellation *cancellation,
                                                        guix_offload_error **error);


/* All machines at once: test, status */

/**
 * A report about machines, each of which has an index, counted from 0. It does not change: any number of threads may
 * read it. Everything that the functions below return lives as long as the report.
 *
 * If there is no machine with the index, the functions below return NULL, 0, or what they return for a value that is
 * not known.
 */
typedef struct guix_offload_report guix_offload_report;

/**
 * A function that is called when a machine has answered, or failed: with its name, and the word or two that
 * `guix_offload_report_state` returns. Both live for the call. The thread that asks makes the call, and waits for it:
 * the function must return soon. It must not throw or jump out. It returns 0 to go on; anything else cancels the call
 * that calls it.
 */
typedef int (*guix_offload_answered_function)(void *data, const char *machine, const char *state);

/**
 * Tests all `machines` at the same time, each of them once. A test checks that the machine can be connected to,
 * has a Guix that works, imports what this host signs, and signs what this host imports. It leaves two small items
 * as garbage in each of the two stores. Blocks until the slowest machine has answered or failed, for at most some
 * 90 s. A machine that fails is no failure of this call. The caller frees `*report` with
 * `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_farm_test(guix_offload_report **report,
                                           const guix_offload_engine *engine,
                                           const guix_offload_machines *machines,
                                           guix_offload_error **error);

/**
 * Tests all `machines` as `guix_offload_farm_test` does, and calls `answered` once for each as soon as its test is
 * over. NULL for `answered`: nothing is called. `cancellation` may be NULL; otherwise it stops this call. Fails
 * also with `GUIX_OFFLOAD_CANCELLED` if that happens or `answered` cancels.
 */
guix_offload_status guix_offload_farm_test_each(guix_offload_report **report,
                                                const guix_offload_engine *engine,
                                                const guix_offload_machines *machines,
                                                guix_offload_answered_function answered,
                                                void *data,
                                                const guix_offload_cancellation *cancellation,
                                                guix_offload_error **error);

/**
 * Asks all `machines` at the same time, each of them once, for their state. Also asks the keeper, if one runs,
 * what it is doing. Changes nothing anywhere. Otherwise as `guix_offload_farm_test`.
 */
guix_offload_status guix_offload_farm_status(guix_offload_report **report,
                                             const guix_offload_engine *engine,
                                             const guix_offload_machines *machines,
                                             guix_offload_error **error);

/**
 * Asks all `machines` as `guix_offload_farm_status` does, and calls `answered` once for each as soon as it has
 * answered or failed. `answered` and `cancellation` are as for `guix_offload_farm_test_each`.
 */
guix_offload_status guix_offload_farm_status_each(guix_offload_report **report,
                                                  const guix_offload_engine *engine,
                                                  const guix_offload_machines *machines,
                                                  guix_offload_answered_function answered,
                                                  void *data,
                                                  const guix_offload_cancellation *cancellation,
                                                  guix_offload_error **error);

/**
 * Frees a report. NULL is fine.
 */
void guix_offload_report_free(guix_offload_report *report);

/**
 * Returns the report for people: what `guix offload test` writes to standard error, or `guix offload status` to
 * standard output. Each line ends with a newline. NULL only if `report` is.
 */
const char *guix_offload_report_text(const guix_offload_report *report);

/**
 * Returns the report for programs: a line of JSON, an object. Its first member "schema" is 1; that is raised when
 * a member goes away or means something else, but not when one is added. Of `guix_offload_farm_test`,
 * `guix_offload_farm_status` and `guix_offload_keeper_status`, the member "machines" has an object for each
 * machine, and the member "keeper" is an object, or null if no keeper runs.
 */
const char *guix_offload_report_json(const guix_offload_report *report);

/**
 * Returns the number of machines.
 */
size_t guix_offload_report_count(const guix_offload_report *report);

/**
 * Returns the number of machines that failed. The functions that make a report of something else than the state of
 * machines say what counts as a failure there.
 */
size_t guix_offload_report_failures(const guix_offload_report *report);

/**
 * Returns the `index`th machine.
 */
const guix_offload_machine *guix_offload_report_machine(const guix_offload_report *report, size_t index);

/**
 * Returns why the machine failed; NULL if it did not. The error belongs to the report.
 */
const guix_offload_error *guix_offload_report_error(const guix_offload_report *report, size_t index);

/**
 * Returns the `number`th sentence, counted from 0, about what works on the machine; NULL if there are no more.
 */
const char *guix_offload_report_passed(const guix_offload_report *report,
                                       size_t index,
                                       size_t number);

/**
 * Returns the `number`th thing, counted from 0, that is odd about the machine; NULL if there are no more.
 */
const char *guix_offload_report_note(const guix_offload_report *report, size_t index, size_t number);

/**
 * Returns what to do about the `number`th odd thing, or NULL if there is nothing to do.
 */
const char *guix_offload_report_note_hint(const guix_offload_report *report, size_t index, size_t number);

/**
 * Returns in a word or two whether the machine gets builds: "ready", "overloaded", "low on space", "short of
 * memory" or "failed", or "drained", whatever else is the matter. If the machine could not be connected to, the
 * words say why: "misconfigured", "refused", "host key differs", "no Guix", "unreachable" or "failed".
 */
const char *guix_offload_report_state(const guix_offload_report *report,
                                      size_t index);

/**
 * Returns 1 if the machine was connected to, so that the functions below know its state; else 0.
 */
int32_t guix_offload_report_reachable(const guix_offload_report *report, size_t index);

/**
 * Returns how many of the machine's build slots are taken by hooks of this host, whether it is reachable or not;
 * -1 if that is not known.
 */
int64_t guix_offload_report_slots_taken(const guix_offload_report *report,
                                        size_t index);

/**
 * Returns the machine's load, divided by its number of cores; -1 if it is not known.
 */
double guix_offload_report_load(const guix_offload_report *report, size_t index);

/**
 * Returns the number of the machine's cores; 0 if it is not known.
 */
uint32_t guix_offload_report_cores(const guix_offload_report *report, size_t index);

/**
 * Returns the free space where the machine's store is, in bytes.
 */
uint64_t guix_offload_report_free_space(const guix_offload_report *report, size_t index);

/**
 * Returns by how many seconds the machine's clock is ahead of ours; negative if it is behind. 0 also if that is
 * not known.
 */
int64_t guix_offload_report_clock_difference(const guix_offload_report *report,
                                             size_t index);

/**
 * Returns the version of the `guix` that the login user finds on the machine, or NULL.
 */
const char *guix_offload_report_guix_version(const guix_offload_report *report, size_t index);

/**
 * Returns the name and release of the machine's kernel, or NULL.
 */
const char *guix_offload_report_kernel(const guix_offload_report *report, size_t index);

/**
 * Returns the machine's hardware, such as "x86_64", or NULL.
 */
const char *guix_offload_report_architecture(const guix_offload_report *report, size_t index);

/**
 * Returns the host name that the machine gives itself, or NULL.
 */
const char *guix_offload_report_host_name(const guix_offload_report *report, size_t index);


/* Looking after machines, without connecting */

/**
 * Drains the machine of `machines` that is called `name`: it gets no new builds, and finishes those that it has.
 * If the same host is listed with several ports, `name` is "NAME:PORT". The machine stays drained until it is
 * resumed, also after a reboot. The mark is in the state directory, where all hooks, jobs and keepers of this host
 * see it at their next choice of a machine; Guix's own `guix offload` does not know it. The report is about that
 * machine. The caller frees `*report` with `guix_offload_report_free`.
 *
 * A machine that was drained before is no failure. Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL
 * or `name` is none of the machines, or several of them, and with `GUIX_OFFLOAD_STORE` if the mark cannot be
 * written.
 */
guix_offload_status guix_offload_farm_drain(guix_offload_report **report,
                                            const guix_offload_engine *engine,
                                            const guix_offload_machines *machines,
                                            const char *name,
                                            guix_offload_error **error);

/**
 * Lets the machine of `machines` that is called `name` have builds again. Otherwise as `guix_offload_farm_drain`.
 */
guix_offload_status guix_offload_farm_resume(guix_offload_report **report,
                                             const guix_offload_engine *engine,
                                             const guix_offload_machines *machines,
                                             const char *name,
                                             guix_offload_error **error);

/**
 * Reports which of `machines` are drained, since when, and how many of their slots are still taken. The report is
 * about these machines alone. The caller frees `*report` with `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_farm_drained(guix_offload_report **report,
                                              const guix_offload_engine *engine,
                                              const guix_offload_machines *machines,
                                              guix_offload_error **error);

/**
 * Explains what would become of a build now, and what counts for and against each of `machines`. `what` is a
 * derivation of the store, whose file says what it needs; or a system type, and then `features` are those that the
 * build needs besides, separated by commas; NULL: none.
 *
 * The text and the JSON say what a build hook would answer to guix-daemon and why; and of each machine, those
 * first that would be tried, in that order: slots, load, free space and memory as builds saw them last, the bytes
 * of the derivation's inputs that it is not known to have and the time that sending them takes, for how long it is
 * left alone and why, whether it is drained, and what it does not offer. Machines that are equal stand in the
 * order of `machines`; a hook takes them by chance. A note of the report is something that counts against a
 * machine. `guix_offload_report_failures` is 1 if the build would not be accepted.
 *
 * Connects to no machine. Asks the keeper, if one runs, for at most 5 s: it alone knows what machines have. The
 * caller frees `*report` with `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer but `features` is NULL, or `what` is neither a system
 * type nor a derivation that can be read, and with `GUIX_OFFLOAD_STORE` if the state directory cannot be used.
 */
guix_offload_status guix_offload_farm_explain(guix_offload_report **report,
                                              const guix_offload_engine *engine,
                                              const guix_offload_machines *machines,
                                              const char *what,
                                              const char *features,
                                              guix_offload_error **error);

/**
 * Checks `machines`, as they were loaded from a file, without connecting to any: malformed entries, systems that
 * Guix does not know, private keys that guix-daemon's user cannot read, machines that are listed twice for a
 * system, have no slots or no systems, or are drained; and whether the guix-daemon that runs on this host uses
 * this library, as the environment of its process says. Root sees that; another user may not.
 *
 * A note of the report is a problem of a machine. Malformed entries are no machines, so they are only in the text
 * and the JSON. `guix_offload_report_failures` is the number of errors, which keep machines from being used. The
 * caller frees `*report` with `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
 */
guix_offload_status guix_offload_farm_check(guix_offload_report **report,
                                            const guix_offload_engine *engine,
                                            const guix_offload_machines *machines,
                                            guix_offload_error **error);


/* Keeper */

/**
 * Does the builds of the hooks that connect to the listening socket `listener`. Blocks until no hook has come for
 * a minute. If the library or the program is replaced, or the keeper is told to stop, blocks only until the builds
 * that have begun are done. Holds `lock` open as long as hooks may come. Takes ownership of both descriptors.
 *
 * This call is for the program that `guix_offload_hook_serve` starts as "../libexec/guix-offload keeper serve",
 * seen from the library, with the socket as its standard input and the lock as its standard output. No other
 * thread may run in that program.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a descriptor is not open or `listener` is no listening socket, and
 * with `GUIX_OFFLOAD_UNAVAILABLE` if that program is not there.
 */
guix_offload_status guix_offload_keeper_serve(int listener,
                                              int lock,
                                              guix_offload_error **error);

/**
 * Asks the keeper of this host and user, that is, of the directories of `engine`, what it is doing. The report has
 * text and JSON, and no machines. It tells where each build is, in what phase and since when, how many bytes of
 * how many have moved, which machines a build waits for, and which machines get no builds and for how long. Waits
 * for at most 5 s. The caller frees `*report` with `guix_offload_report_free`.
 *
 * If no keeper is running, that is no failure. Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL,
 * with `GUIX_OFFLOAD_UNAVAILABLE` if the keeper does not answer, and with `GUIX_OFFLOAD_PROTOCOL` if its version
 * does not understand the question.
 */
guix_offload_status guix_offload_keeper_status(guix_offload_report **report,
                                               const guix_offload_engine *engine,
                                               guix_offload_error **error);

/**
 * Tells the keeper of this host and user to end once the builds that it has accepted are done. Sets `*stopped` to
 * 1, or to 0 if no keeper is running. The next hook starts another one. Waits for at most 5 s. Fails as
 * `guix_offload_keeper_status` does.
 */
guix_offload_status guix_offload_keeper_stop(const guix_offload_engine *engine,
                                             int32_t *stopped,
                                             guix_offload_error **error);


/* New machines: scan, authorize */

/**
 * Connects to a machine that no machine file has yet, and makes a form for the machine file of what it finds. The
 * report has one machine; its text is the form in Scheme, with comments. `host` is "HOST" or "HOST:PORT", an IPv6
 * address in brackets. `user` is the account to log in to, NULL for root.
 *
 * Nothing is sent to the machine, and nobody logs in, before its host key is confirmed: ssh knows the machine
 * under that key (`ssh-keygen -F`), or `accepted`, which may be NULL, is its fingerprint, "SHA256:...". If the key
 * is not confirmed, the report's form has only what the server shows to everybody, and the machine counts as
 * failed, with a hint on how to go on. `private_key` is the file to log in with; if it is NULL, those that the
 * machine file names are tried, and then `~/.ssh/id_ed25519` and `~/.ssh/id_rsa`. If logging in fails, the machine
 * counts as failed, too. The caller frees `*report` with `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `report`, `engine` or `host` is NULL, or a text is malformed, with
 * `GUIX_OFFLOAD_UNAVAILABLE` if the server does not answer, and with `GUIX_OFFLOAD_HOST_KEY` if its key is not the
 * one that is accepted, is not the one that ssh knows, or is revoked.
 */
guix_offload_status guix_offload_scan(guix_offload_report **report,
                                      const guix_offload_engine *engine,
                                      const char *host,
                                      const char *user,
                                      const char *accepted,
                                      const char *private_key,
                                      guix_offload_error **error);

/**
 * Describes a machine as `guix_offload_scan`. `cancellation` may be NULL; otherwise it stops this call, which then
 * fails with `GUIX_OFFLOAD_CANCELLED`.
 */
guix_offload_status guix_offload_scan_cancellable(guix_offload_report **report,
                                                  const guix_offload_engine *engine,
                                                  const char *host,
                                                  const char *user,
                                                  const char *accepted,
                                                  const char *private_key,
                                                  const guix_offload_cancellation *cancellation,
                                                  guix_offload_error **error);

/**
 * Exchanges signing keys with `machine`, so that each of the two accepts what the other one signs.
 *
 * If `confirmed` is NULL, changes nothing: the report's text shows both keys and who accepts which. The machine
 * counts as failed if something is to be done. Once the user has confirmed the keys, the caller calls this again
 * with that report as `confirmed`. Then runs `guix archive --authorize` there, as the machine's user, and here,
 * where that is needed, and tests the machine as `guix_offload_farm_test` does. The text of the new report says
 * what was done, which command does what could not be done, and what the test says. To do it again does no harm.
 * Blocks for some minutes at most. The caller frees `*report` with `guix_offload_report_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `report`, `engine` or `machine` is NULL or `confirmed` shows no
 * keys; with `GUIX_OFFLOAD_STORE` if this host has no signing key; with `GUIX_OFFLOAD_UNTRUSTED` if the machine
 * has none, or the keys are not those that `confirmed` shows; and if the machine cannot be connected to, as
 * `guix_offload_connect` does.
 */
guix_offload_status guix_offload_authorize(guix_offload_report **report,
                                           const guix_offload_engine *engine,
                                           const guix_offload_machine *machine,
                                           const guix_offload_report *confirmed,
                                           guix_offload_error **error);

/**
 * Exchanges signing keys as `guix_offload_authorize`. `cancellation` may be NULL; otherwise it stops this call,
 * which then fails with `GUIX_OFFLOAD_CANCELLED`. One of the two may accept the other one's key by then.
 */
guix_offload_status guix_offload_authorize_cancellable(guix_offload_report **report,
                                                       const guix_offload_engine *engine,
                                                       const guix_offload_machine *machine,
                                                       const guix_offload_report *confirmed,
                                                       const guix_offload_cancellation *cancellation,
                                                       guix_offload_error **error);


/* Journal of builds */

/**
 * Reads the last `count` builds of this host, or if that is 0, all that the journal in the state directory of
 * `engine` still has: some thousand. Each build that an engine was given is there once it is over: those of hooks,
 * of the keeper, of jobs, and of the verbs. The report has text and JSON, and no machines. The caller frees
 * `*report` with `guix_offload_report_free`.
 *
 * It tells when a build ended, its derivation and machine, what came of it and why, which machines failed it
 * before, how long each phase took, and how many bytes were sent and received. The JSON is a line, an object whose
 * member "schema" is 1 and whose member "builds" has an object for each build, the oldest first.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, and with `GUIX_OFFLOAD_UNAVAILABLE` if the
 * journal cannot be read. That there is none is no failure.
 */
guix_offload_status guix_offload_journal_log(guix_offload_report **report,
                                             const guix_offload_engine *engine,
                                             size_t count,
                                             guix_offload_error **error);

/**
 * Adds up the builds of this host, machine by machine, since its journal began: builds by what came of them,
 * failures of the machine, bytes each way, time of each phase. Otherwise as `guix_offload_journal_log`. The member
 * "machines" of the JSON has an object for each machine.
 */
guix_offload_status guix_offload_journal_stats(guix_offload_report **report,
                                               const guix_offload_engine *engine,
                                               guix_offload_error **error);

/**
 * Adds up the builds of this host as `guix_offload_journal_stats` does. The text of the report is what Prometheus
 * reads, version 0.0.4 of its text format. No counter in it decreases, unless the journal is removed.
 */
guix_offload_status guix_offload_journal_metrics(guix_offload_report **report,
                                                 const guix_offload_engine *engine,
                                                 guix_offload_error **error);

#ifdef __cplusplus
}
#endif

#endif /* GUIX_OFFLOAD_H */
