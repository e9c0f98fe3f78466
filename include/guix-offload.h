/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * guix-offload.h - build offloading for GNU Guix
 *
 * This library does what `guix offload` does for guix-daemon: it chooses a build machine, sends it the store items
 * that it lacks, builds a derivation there, and brings the outputs back into the store, verified.
 *
 * LIFECYCLE
 *     Check guix_offload_abi_version() against GUIX_OFFLOAD_ABI_VERSION once. Nothing else needs to be set up or torn
 *     down: before the first call that does work there is no thread, no open descriptor and no initialised library.
 *
 * OWNERSHIP
 *     Handles are opaque. What a `..._new` function gives belongs to the caller, who frees it once with the matching
 *     `..._free`; freeing NULL is fine. Strings that go in are UTF-8, end with a NUL byte, and are copied. Strings that
 *     come out belong to the handle that they were asked of and live as long as it does. Outputs are written on
 *     success only.
 *
 * THREADS
 *     Calls on different handles may be made from different threads at once; calls on one handle may not, unless the
 *     function says otherwise. Threads that the library starts block all signals. It installs no signal handler,
 *     raises no SIGPIPE for its connections, and changes neither environment, directory nor umask. Each descriptor
 *     that it opens is close-on-exec.
 *
 * FORK
 *     The child of a fork() must not use any handle of its parent; it may exec or _exit.
 *
 * ERRORS
 *     A call that can fail returns a guix_offload_status, 0 on success and negative on failure, and takes a last
 *     parameter `guix_offload_error **`: NULL, or where to put an error that says what happened, with which machine,
 *     and what to do about it. There is no per-thread last error. A defect inside the library is reported as
 *     GUIX_OFFLOAD_INTERNAL; it never unwinds into the caller.
 *
 * ABI
 *     All names begin with `guix_offload_`. As long as GUIX_OFFLOAD_ABI_VERSION, which is also the number in the
 *     library's SONAME, stays the same, programs compiled against an older header go on working. While it is 0, it
 *     promises that only within one minor version.
 */


#ifndef GUIX_OFFLOAD_H
#define GUIX_OFFLOAD_H

#include <stdint.h>


/**
 * Version of the ABI that a header describes. It changes when a program that was compiled before could break; the
 * number in the library's SONAME is the same.
 */
#define GUIX_OFFLOAD_ABI_VERSION 0

/**
 * What a call returns: `GUIX_OFFLOAD_OK`, or why it failed. Failures are negative.
 */
typedef enum guix_offload_status {
    /**
     * The call did what it says.
     */
    GUIX_OFFLOAD_OK = 0,
    /**
     * An argument is NULL, malformed or out of range; nothing was done.
     */
    GUIX_OFFLOAD_INVALID_ARGUMENT = -1,
    /**
     * The machine file, or a file that it names, is missing, unreadable or wrong.
     */
    GUIX_OFFLOAD_CONFIGURATION = -2,
    /**
     * A machine cannot be reached, went away, or lacks what a build machine needs.
     */
    GUIX_OFFLOAD_UNAVAILABLE = -3,
    /**
     * The machine's host key is not the pinned one, or it rejects the user's key.
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
     * Out of descriptors, threads or memory.
     */
    GUIX_OFFLOAD_EXHAUSTED = -12,
    /**
     * A defect of the library.
     */
    GUIX_OFFLOAD_INTERNAL = -13,
} guix_offload_status;

/**
 * Why a call failed. Every call that can fail has a last parameter `guix_offload_error **`: NULL, or where to put one
 * on failure, which the caller frees with `guix_offload_error_free`. It is not touched on success. An error does not
 * change: any number of threads may read it.
 */
typedef struct guix_offload_error guix_offload_error;

/**
 * How a build hook is to work. Not for two threads at once.
 */
typedef struct guix_offload_hook guix_offload_hook;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the ABI that the library has. A program compares it with `GUIX_OFFLOAD_ABI_VERSION` before it calls
 * anything else. Any thread.
 */
uint32_t guix_offload_abi_version(void);

/**
 * Version of the library, such as "0.1.0". Static, never NULL. Any thread.
 */
const char *guix_offload_version(void);

/**
 * Frees an error. NULL is fine.
 */
void guix_offload_error_free(struct guix_offload_error *error);

/**
 * The status that the failed call returned; `GUIX_OFFLOAD_OK` if `error` is NULL.
 */
int32_t guix_offload_error_code(const struct guix_offload_error *error);

/**
 * What went wrong, and where. UTF-8; lives as long as the error; NULL only if `error` is NULL.
 */
const char *guix_offload_error_message(const struct guix_offload_error *error);

/**
 * Name of the machine with which it happened, or NULL. Lives as long as the error.
 */
const char *guix_offload_error_machine(const struct guix_offload_error *error);

/**
 * What to do about it, or NULL. Lives as long as the error.
 */
const char *guix_offload_error_hint(const struct guix_offload_error *error);

/**
 * The status with which a build hook that fails so exits: 100 (the build itself failed, and would again), 101 (it
 * exceeded a time limit) or 1 (it may be tried again); 0 if `error` is NULL.
 */
int32_t guix_offload_error_exit_status(const struct guix_offload_error *error);

/**
 * Makes a hook with the directories that the environment names (`NIX_STORE_DIR`, `GUIX_STATE_DIRECTORY`,
 * `GUIX_DATABASE_DIRECTORY`, `GUIX_CONFIGURATION_DIRECTORY`, `GUIX_DAEMON_SOCKET`; else those of Guix), the
 * machine file `machines.scm` in the configuration directory, and no time limits. The caller frees it with
 * `guix_offload_hook_free`.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `NIX_STORE_DIR` is no absolute file name.
 */
enum guix_offload_status guix_offload_hook_new(struct guix_offload_hook **hook,
                                               struct guix_offload_error **error);

/**
 * Frees a hook. NULL is fine.
 */
void guix_offload_hook_free(struct guix_offload_hook *hook);

/**
 * Sets the machine file. `file` is copied.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if an argument is NULL or not UTF-8.
 */
enum guix_offload_status guix_offload_hook_set_machine_file(struct guix_offload_hook *hook,
                                                            const char *file,
                                                            struct guix_offload_error **error);

/**
 * Sets after how many seconds a build is killed, in all and without output. 0: no limit. Both are enforced by the
 * daemon of the build machine, and some seconds later here.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL.
 */
enum guix_offload_status guix_offload_hook_set_limits(struct guix_offload_hook *hook,
                                                      uint64_t timeout,
                                                      uint64_t max_silent_time,
                                                      struct guix_offload_error **error);

/**
 * Sets whether the log has lines for machines, such as `@ build-started`: 0 or 1.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `print` is neither.
 */
enum guix_offload_status guix_offload_hook_set_build_trace(struct guix_offload_hook *hook,
                                                           int print,
                                                           struct guix_offload_error **error);

/**
 * Serves guix-daemon's requests from the descriptor `input` until a build is done or the daemon hangs up. Blocks.
 * Replies and messages go to `output`, the build's log to `log`; the descriptors stay the caller's, who keeps them
 * open. Afterwards `*exit_status` is what the process should exit with: 0, 1, 100 or 101. A build's failure is
 * reported on `output` and in `*exit_status`; it is not a failure of this call.
 *
 * Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a descriptor is not open.
 */
enum guix_offload_status guix_offload_hook_serve(struct guix_offload_hook *hook,
                                                 int input,
                                                 int output,
                                                 int log,
                                                 int *exit_status,
                                                 struct guix_offload_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GUIX_OFFLOAD_H */
