/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Lists of machines, made one by one and from a machine file.  */
#include "check.h"

static guix_offload_machine *new_machine(const char *name)
{
    guix_offload_machine *machine = NULL;
    SUCCEEDS(guix_offload_machine_new, &machine, name, "x86_64-linux", "u", HOST_KEY);
    return machine;
}

static void accessors_of_no_list(void)
{
    guix_offload_machines_free(NULL);
    CHECK(guix_offload_machines_count(NULL) == 0 && guix_offload_machines_left_out(NULL) == 0);
    CHECK(guix_offload_machines_get(NULL, 0) == NULL);
    CHECK(guix_offload_machines_file(NULL) == NULL);
}

static void a_list_has_copies(void)
{
    guix_offload_machines *machines = NULL;
    guix_offload_machine *machine = new_machine("one");
    SUCCEEDS(guix_offload_machines_new, &machines);
    CHECK(guix_offload_machines_count(machines) == 0 && guix_offload_machines_file(machines) == NULL);
    SUCCEEDS(guix_offload_machines_add, machines, machine);
    SUCCEEDS(guix_offload_machine_set_port, machine, 2222);
    SUCCEEDS(guix_offload_machines_add, machines, machine);
    guix_offload_machine_free(machine);
    CHECK(guix_offload_machines_count(machines) == 2);
    CHECK_TEXT(guix_offload_machine_name(guix_offload_machines_get(machines, 0)), "one");
    CHECK(guix_offload_machine_port(guix_offload_machines_get(machines, 0)) == 22);
    CHECK(guix_offload_machine_port(guix_offload_machines_get(machines, 1)) == 2222);
    CHECK(guix_offload_machines_get(machines, 2) == NULL);
    CHECK(guix_offload_machines_get(machines, SIZE_MAX) == NULL);
    guix_offload_machines_free(machines);
}

static void a_machine_file_is_loaded(void)
{
    guix_offload_machines *machines = NULL;
    char file[] = "/tmp/machines-XXXXXX";
    CHECK(close(mkstemp(file)) == 0);
    write_file(file, "(list (build-machine (name \"m.example.org\") (systems '(\"x86_64-linux\"))\n"
                     "  (user \"u\") (host-key \"" HOST_KEY "\") (private-key \"/key\") (port 2222)))\n", 0600);
    SUCCEEDS(guix_offload_machines_load, &machines, file);
    CHECK(guix_offload_machines_count(machines) == 1);
    CHECK_TEXT(guix_offload_machines_file(machines), file);
    CHECK_TEXT(guix_offload_machine_name(guix_offload_machines_get(machines, 0)), "m.example.org");
    CHECK(guix_offload_machine_port(guix_offload_machines_get(machines, 0)) == 2222);
    guix_offload_machines_free(machines);
    CHECK(unlink(file) == 0);
}

static void a_list_is_current_until_its_file_changes(void)
{
    guix_offload_machines *machines = NULL;
    char file[] = "/tmp/machines-XXXXXX";
    CHECK(close(mkstemp(file)) == 0);
    write_file(file, "(list)", 0600);
    SUCCEEDS(guix_offload_machines_load, &machines, file);
    CHECK(guix_offload_machines_are_current(machines) == 1);
    write_file(file, "(list) ", 0600);
    CHECK(guix_offload_machines_are_current(machines) == 0);
    guix_offload_machines_free(machines);
    SUCCEEDS(guix_offload_machines_load, &machines, file);
    CHECK(guix_offload_machines_are_current(machines) == 1);
    CHECK(unlink(file) == 0);
    CHECK(guix_offload_machines_are_current(machines) == 0);
    guix_offload_machines_free(machines);
    SUCCEEDS(guix_offload_machines_new, &machines);
    CHECK(guix_offload_machines_are_current(machines) == 0);
    CHECK(guix_offload_machines_are_current(NULL) == 0);
    guix_offload_machines_free(machines);
}

static void the_machine_file_that_guix_reads_is_the_default(void)
{
    guix_offload_machines *machines = NULL;
    CHECK(setenv("GUIX_CONFIGURATION_DIRECTORY", "/nonexistent", 1) == 0);
    SUCCEEDS(guix_offload_machines_load, &machines, NULL);
    CHECK_TEXT(guix_offload_machines_file(machines), "/nonexistent/machines.scm");
    CHECK(guix_offload_machines_count(machines) == 0);
    guix_offload_machines_free(machines);
    CHECK(unsetenv("GUIX_CONFIGURATION_DIRECTORY") == 0);
}

static void a_missing_machine_file_has_no_machines(void)
{
    guix_offload_machines *machines = NULL;
    SUCCEEDS(guix_offload_machines_load, &machines, "/nonexistent/machines.scm");
    CHECK(guix_offload_machines_count(machines) == 0);
    CHECK(guix_offload_machines_are_current(machines) == 1);
    guix_offload_machines_free(machines);
}

/* One that Guile must be asked about is no matter for valgrind, which does not know pidfd_open(2).  */
static void a_wrong_machine_file_is_reported(void)
{
    guix_offload_machines *machines = UNTOUCHED;
    guix_offload_error *error = NULL;
    CHECK(guix_offload_machines_load(&machines, "/tmp", &error) == GUIX_OFFLOAD_CONFIGURATION);
    CHECK(strstr(guix_offload_error_message(error), "/tmp") != NULL);
    CHECK(machines == UNTOUCHED);
    guix_offload_error_free(error);
}

static void a_malformed_machine_is_left_out_and_reported(void)
{
    guix_offload_machines *machines = NULL;
    const guix_offload_error *problem;
    char file[] = "/tmp/machines-XXXXXX", place[64];
    CHECK(close(mkstemp(file)) == 0);
    write_file(file, "(list (build-machine (name \"a\") (systems '(\"x86_64-linux\"))\n"
                     "  (user \"u\") (host-key \"" HOST_KEY "\") (private-key \"/key\"))\n"
                     " (build-machine (name \"m\")\n    (speeed 3)))\n", 0600);
    SUCCEEDS(guix_offload_machines_load, &machines, file);
    CHECK(guix_offload_machines_count(machines) == 1);
    CHECK_TEXT(guix_offload_machine_name(guix_offload_machines_get(machines, 0)), "a");
    problem = guix_offload_machines_problem(machines, 0);
    snprintf(place, sizeof place, "%s:4:4: machine 'm', field 'speeed': ", file);
    CHECK(strstr(guix_offload_error_message(problem), place) == guix_offload_error_message(problem));
    CHECK_TEXT(guix_offload_error_machine(problem), "m");
    CHECK(guix_offload_error_hint(problem) != NULL);
    CHECK(guix_offload_error_code(problem) == GUIX_OFFLOAD_CONFIGURATION);
    CHECK(guix_offload_machines_problem(machines, 1) == NULL);
    CHECK(guix_offload_machines_problem(NULL, 0) == NULL);
    CHECK(guix_offload_machines_left_out(machines) == 1);
    guix_offload_machines_free(machines);
    write_file(file, "(list (build-machine (name \"a\") (systems '(\"x86_64_linux\"))\n"
                     "  (user \"u\") (host-key \"" HOST_KEY "\") (private-key \"/key\")))\n", 0600);
    SUCCEEDS(guix_offload_machines_load, &machines, file);
    CHECK(guix_offload_machines_count(machines) == 1 && guix_offload_machines_left_out(machines) == 0);
    CHECK(guix_offload_machines_problem(machines, 0) != NULL);
    guix_offload_machines_free(machines);
    CHECK(unlink(file) == 0);
}

static void bad_arguments_are_rejected(void)
{
    guix_offload_machines *machines = UNTOUCHED;
    guix_offload_machine *machine = new_machine("one");
    REJECTS(guix_offload_machines_new, NULL);
    REJECTS(guix_offload_machines_load, NULL, "/nonexistent");
    REJECTS(guix_offload_machines_load, &machines, NOT_UTF8);
    REJECTS(guix_offload_machines_load, &machines, too_long());
    CHECK(machines == UNTOUCHED);
    REJECTS(guix_offload_machines_add, NULL, machine);
    SUCCEEDS(guix_offload_machines_new, &machines);
    REJECTS(guix_offload_machines_add, machines, NULL);
    CHECK(guix_offload_machines_count(machines) == 0);
    guix_offload_machines_free(machines);
    guix_offload_machine_free(machine);
}

int main(void)
{
    RUN(accessors_of_no_list);
    RUN(a_list_has_copies);
    RUN(a_machine_file_is_loaded);
    RUN(a_list_is_current_until_its_file_changes);
    RUN(the_machine_file_that_guix_reads_is_the_default);
    RUN(a_missing_machine_file_has_no_machines);
    RUN(a_wrong_machine_file_is_reported);
    RUN(a_malformed_machine_is_left_out_and_reported);
    RUN(bad_arguments_are_rejected);
    return 0;
}
