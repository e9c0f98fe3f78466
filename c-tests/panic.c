/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A defect inside the library comes out as an error.  The library that is tested here has the Cargo feature
   `test-panic`, and with it a function that no header mentions.  */
#include "check.h"

/* Panics on the thread that calls it: 0 with a fixed message, 1 with one that is made, 2 with none.  */
guix_offload_status guix_offload_test_panic(int32_t how, guix_offload_error **error);

static void a_panic_is_an_error(void)
{
    const char *messages[] = {"on purpose", "on purpose, 1", "a panic without a message"};
    for (int32_t how = 0; how < 3; how++) {
        guix_offload_error *error = NULL;
        CHECK(guix_offload_test_panic(how, &error) == GUIX_OFFLOAD_INTERNAL);
        CHECK(guix_offload_error_code(error) == GUIX_OFFLOAD_INTERNAL);
        CHECK(strstr(guix_offload_error_message(error), "defect in libguix_offload") != NULL);
        CHECK(strstr(guix_offload_error_message(error), messages[how]) != NULL);
        CHECK(strstr(guix_offload_error_hint(error), "report") != NULL);
        CHECK(guix_offload_error_exit_status(error) == 1);
        guix_offload_error_free(error);
        CHECK(guix_offload_test_panic(how, NULL) == GUIX_OFFLOAD_INTERNAL);
    }
}

static void the_library_works_afterwards(void)
{
    guix_offload_machines *machines = NULL;
    SUCCEEDS(guix_offload_machines_new, &machines);
    guix_offload_machines_free(machines);
}

int main(void)
{
    RUN(a_panic_is_an_error);
    RUN(the_library_works_afterwards);
    return 0;
}
