/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload authorize: this host and a machine accept what the other one signs.  */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "report.h"

/* Is MACHINE called NAME, or NAME:PORT?  As for 'drain'.  */
static int is_called(const guix_offload_machine *machine, const char *name)
{
    const char *own = guix_offload_machine_name(machine);
    size_t length = strlen(own);
    char port[16];

    snprintf(port, sizeof port, ":%u", (unsigned) guix_offload_machine_port(machine));
    return strncmp(name, own, length) == 0 && (name[length] == '\0' || strcmp(name + length, port) == 0);
}

/* Is the machine at INDEX in MACHINES listed before, as for another system?  */
static int is_again(const guix_offload_machines *machines, size_t index)
{
    const guix_offload_machine *machine = guix_offload_machines_get(machines, index);
    for (size_t i = 0; i < index; i++)
        if (guix_offload_machine_is_same(guix_offload_machines_get(machines, i), machine))
            return 1;
    return 0;
}

/* Returns the machine of MACHINES that is called NAME.  If none or several are, says so, with the names that there are,
   and returns NULL.  */
static const guix_offload_machine *find(const guix_offload_machines *machines, const char *name)
{
    const guix_offload_machine *machine, *found = NULL;
    const char *before = "";
    size_t count = 0;

    for (size_t i = 0; (machine = guix_offload_machines_get(machines, i)) != NULL; i++)
        if (is_called(machine, name) && !is_again(machines, i) && count++ == 0)
            found = machine;
    if (count == 1)
        return found;
    fprintf(stderr, count == 0 ? "guix offload: error: '%s' has no machine '%s'\n"
                               : "guix offload: error: '%s' has several machines '%s'\n",
            guix_offload_machines_file(machines), name);
    fputs(count == 0 ? "hint: it has these: " : "hint: name one with its port: ", stderr);
    for (size_t i = 0; (machine = guix_offload_machines_get(machines, i)) != NULL; i++) {
        if (is_again(machines, i) || (count > 0 && !is_called(machine, name)))
            continue;
        fprintf(stderr, "%s%s:%u", before, guix_offload_machine_name(machine),
                (unsigned) guix_offload_machine_port(machine));
        before = ", ";
    }
    fputs(*before == '\0' ? "none\n" : "\n", stderr);
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
    struct options options;
    struct farm farm;
    const guix_offload_machine *machine;
    int yes = 0, status;

    if (read_options(&options, &yes, "authorize", &count, arguments, &status) != 0)
        return status;
    if (count == 0) {
        fputs("guix offload: error: 'authorize' takes a machine; see 'guix-offload --help'\n", stderr);
        return MISUSE;
    }
    if (count > 2 || (count == 2 && options.file != NULL))
        return usage();
    status = open_farm(&farm, count == 2 ? arguments[1] : options.file, 1);
    if (status == 0) {
        machine = find(farm.machines, arguments[0]);
        status = machine != NULL ? exchange(farm.engine, machine, yes, options.json) : MISUSE;
    }
    close_farm(&farm);
    return status;
}
