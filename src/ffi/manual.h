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
