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
