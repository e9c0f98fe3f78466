/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload authorize: this host and a machine accept what the other one signs.  */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

/* Returns the machine of that NAME, NULL if MACHINES has none.  */
static const guix_offload_machine *find(const guix_offload_machines *machines, const char *name)
{
    const guix_offload_machine *machine;
    for (size_t i = 0; (machine = guix_offload_machines_get(machines, i)) != NULL; i++)
        if (strcmp(guix_offload_machine_name(machine), name) == 0)
            return machine;
    return NULL;
}

/* Asks the user, on a terminal; elsewhere nobody can agree.  */
static int is_agreed(void)
{
    char answer[16];
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return 0;
    fputs("Authorize both keys? [y/N] ", stderr);
    return fgets(answer, sizeof answer, stdin) != NULL && (strcmp(answer, "y\n") == 0 || strcmp(answer, "yes\n") == 0);
}

/* Shows the keys of both, and exchanges them if that is AGREED, or if nothing is to be done.  */
static int exchange(const guix_offload_engine *engine, const guix_offload_machine *machine, int agreed, int json)
{
    guix_offload_report *report = NULL, *keys = NULL;
    guix_offload_error *error = NULL;
    int status;

    if (guix_offload_authorize(&keys, engine, machine, NULL, &error) != GUIX_OFFLOAD_OK)
        return fail(error);
    if (!json)
        fputs(guix_offload_report_text(keys), stderr);
    if (guix_offload_report_failures(keys) > 0 && !agreed && (json || !is_agreed())) {
        if (json)
            return show_report(keys, 1) || 1;
        guix_offload_report_free(keys);
        fputs("guix offload: error: nothing is changed; if these are the right keys, say --yes\n", stderr);
        return 1;
    }
    status = guix_offload_authorize(&report, engine, machine, keys, &error);
    guix_offload_report_free(keys);
    if (status != GUIX_OFFLOAD_OK)
        return fail(error);
    status = guix_offload_report_failures(report) > 0;
    return show_report(report, json) || status;
}

int authorize(int count, char **arguments)
{
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = NULL;
    guix_offload_error *error = NULL;
    const guix_offload_machine *machine;
    const char *name = NULL, *file = NULL;
    int yes = 0, json = 0, status = MISUSE;

    for (int i = 0; i < count; i++) {
        if (is_help(arguments[i]))
            return help(stdout);
        if (strcmp(arguments[i], "--yes") == 0)
            yes = 1;
        else if (strcmp(arguments[i], "--json") == 0)
            json = 1;
        else if (arguments[i][0] == '-')
            return unknown_option(arguments[i], "authorize");
        else if (name == NULL)
            name = arguments[i];
        else if (file == NULL)
            file = arguments[i];
        else
            return usage();
    }
    if (name == NULL) {
        fputs("guix offload: error: 'authorize' takes a machine; see 'guix-offload --help'\n", stderr);
        return MISUSE;
    }
    if (guix_offload_engine_new(&engine, &error) != GUIX_OFFLOAD_OK) {
        status = fail(error);
    } else if (guix_offload_machines_load(&machines, file, &error) != GUIX_OFFLOAD_OK) {
        fail(error);
    } else if ((machine = find(machines, name)) == NULL) {
        fprintf(stderr, "guix offload: error: '%s' has no machine '%s'\n", guix_offload_machines_file(machines), name);
    } else {
        status = exchange(engine, machine, yes, json);
    }
    guix_offload_machines_free(machines);
    guix_offload_engine_free(engine);
    return status;
}
