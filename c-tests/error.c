/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Errors: what they say, and that there is none where none is wanted.  */
#include "check.h"

static void accessors_of_no_error(void)
{
    guix_offload_error_free(NULL);
    CHECK(guix_offload_error_code(NULL) == GUIX_OFFLOAD_OK);
    CHECK(guix_offload_error_message(NULL) == NULL);
    CHECK(guix_offload_error_machine(NULL) == NULL);
    CHECK(guix_offload_error_hint(NULL) == NULL);
    CHECK(guix_offload_error_exit_status(NULL) == 0);
    CHECK(guix_offload_error_lines(NULL) == NULL && guix_offload_error_warning_lines(NULL) == NULL);
}

static void an_error_says_what_and_how_to_mend_it(void)
{
    guix_offload_machine *machine = NULL;
    guix_offload_error *error = NULL;
    CHECK(guix_offload_machine_new(&machine, "m", "x86_64-linux", "u", "no key", &error) == GUIX_OFFLOAD_CONFIGURATION);
    CHECK(guix_offload_error_code(error) == GUIX_OFFLOAD_CONFIGURATION);
    CHECK(strstr(guix_offload_error_message(error), "\"no key\" is not a host key") != NULL);
    CHECK(strstr(guix_offload_error_hint(error), "/etc/ssh/ssh_host_ed25519_key.pub") != NULL);
    CHECK(guix_offload_error_exit_status(error) == 1);
    CHECK(guix_offload_error_message(error) == guix_offload_error_message(error));
    CHECK(strstr(guix_offload_error_lines(error), "\nhint: copy the line from") != NULL);
    guix_offload_error_free(error);
    CHECK(machine == NULL);
}

static void an_error_names_the_argument(void)
{
    guix_offload_error *error = NULL;
    CHECK(guix_offload_machines_new(NULL, &error) == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK_TEXT(guix_offload_error_message(error), "argument 'machines' is NULL");
    CHECK_TEXT(guix_offload_error_lines(error), "guix offload: error: argument 'machines' is NULL\n");
    CHECK_TEXT(guix_offload_error_warning_lines(error), "guix offload: warning: argument 'machines' is NULL\n");
    CHECK(guix_offload_error_machine(error) == NULL && guix_offload_error_hint(error) == NULL);
    guix_offload_error_free(error);
}

static void an_error_names_the_machine(void)
{
    guix_offload_machine *machine = NULL;
    guix_offload_error *error = NULL;
    SUCCEEDS(guix_offload_machine_new, &machine, "m.example.org", "x86_64-linux", "u", HOST_KEY);
    CHECK(guix_offload_machine_set_port(machine, 0, &error) == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK_TEXT(guix_offload_error_machine(error), "m.example.org");
    guix_offload_error_free(error);
    guix_offload_machine_free(machine);
}

static void values_have_names(void)
{
    CHECK_TEXT(guix_offload_status_name(GUIX_OFFLOAD_OK), "ok");
    CHECK_TEXT(guix_offload_status_name(GUIX_OFFLOAD_NO_GUIX), "no-guix");
    CHECK_TEXT(guix_offload_reply_name(GUIX_OFFLOAD_POSTPONE), "postpone");
    CHECK_TEXT(guix_offload_event_type_name(GUIX_OFFLOAD_EVENT_PASSED_OVER), "passed-over");
    CHECK_TEXT(guix_offload_status_name(1), "unknown");
    CHECK_TEXT(guix_offload_reply_name(-1), "unknown");
    CHECK_TEXT(guix_offload_event_type_name(INT32_MAX), "unknown");
}

static void success_leaves_the_error_alone(void)
{
    guix_offload_machines *machines = NULL;
    guix_offload_error *error = UNTOUCHED;
    CHECK(guix_offload_machines_new(&machines, &error) == GUIX_OFFLOAD_OK);
    CHECK(error == UNTOUCHED);
    guix_offload_machines_free(machines);
}

int main(void)
{
    RUN(accessors_of_no_error);
    RUN(an_error_says_what_and_how_to_mend_it);
    RUN(an_error_names_the_argument);
    RUN(an_error_names_the_machine);
    RUN(values_have_names);
    RUN(success_leaves_the_error_alone);
    return 0;
}
