/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A machine file that another process evaluates, which is stopped meanwhile.  */
#include "check.h"

#include <pthread.h>

static void *cancel_soon(void *data)
{
    pause_ms(50);
    guix_offload_cancellation_cancel(data);
    return NULL;
}

static void loading_is_stopped(void)
{
    guix_offload_machines *machines = UNTOUCHED;
    guix_offload_cancellation *cancellation = NULL;
    guix_offload_error *error = NULL;
    char file[] = "/tmp/slow-XXXXXX";
    pthread_t thread;

    CHECK(close(mkstemp(file)) == 0);
    write_file(file, "(begin (sleep 60) (list))", 0600);
    SUCCEEDS(guix_offload_cancellation_new, &cancellation);
    double begun = now();
    CHECK(pthread_create(&thread, NULL, cancel_soon, cancellation) == 0);
    guix_offload_status status = guix_offload_machines_load_cancellable(&machines, file, cancellation, &error);
    check_failure(__FILE__, __LINE__, status, GUIX_OFFLOAD_CANCELLED, error);
    CHECK(now() - begun > 0.045 && now() - begun < 10);
    CHECK(pthread_join(thread, NULL) == 0 && machines == UNTOUCHED);
    FAILS(GUIX_OFFLOAD_CANCELLED, guix_offload_machines_load_cancellable, &machines, NULL, cancellation);
    CHECK(machines == UNTOUCHED && unlink(file) == 0);
    guix_offload_error_free(error);
    guix_offload_cancellation_free(cancellation);
}

int main(void)
{
    RUN(loading_is_stopped);
    return 0;
}
