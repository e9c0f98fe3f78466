/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload offload test | status: all machines at once.  */

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

static const char *default_file(void)
{
    static char file[4096];
    const char *directory = getenv("GUIX_CONFIGURATION_DIRECTORY");
    snprintf(file, sizeof file, "%s/machines.scm", directory != NULL && *directory != '\0' ? directory : "/etc/guix");
    return file;
}

/* Is MACHINE among MACHINES already, as for another system?  */
static int is_listed(const guix_offload_machines *machines, const guix_offload_machine *machine)
{
    const guix_offload_machine *other;
    for (size_t i = 0; (other = guix_offload_machines_get(machines, i)) != NULL; i++)
        if (strcmp(guix_offload_machine_name(other), guix_offload_machine_name(machine)) == 0
            && guix_offload_machine_port(other) == guix_offload_machine_port(machine))
            return 1;
    return 0;
}

/* Makes *MACHINES the machines of FILE, each once, whose names match PATTERN, an extended regular expression, unless
   that is NULL.  */
static guix_offload_status load(guix_offload_machines **machines, const char *file, const regex_t *pattern,
                                guix_offload_error **error)
{
    guix_offload_machines *all = NULL, *some = NULL;
    const guix_offload_machine *machine;
    const guix_offload_error *problem;
    guix_offload_status status = guix_offload_machines_load(&all, file, error);

    for (size_t i = 0; (problem = guix_offload_machines_problem(all, i)) != NULL; i++) {
        fprintf(stderr, "guix offload: warning: %s\n", guix_offload_error_message(problem));
        fprintf(stderr, "hint: %s\n", guix_offload_error_hint(problem));
    }
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_machines_new(&some, error);
    for (size_t i = 0; status == GUIX_OFFLOAD_OK && (machine = guix_offload_machines_get(all, i)) != NULL; i++)
        if (!is_listed(some, machine)
            && (pattern == NULL || regexec(pattern, guix_offload_machine_name(machine), 0, NULL, 0) == 0))
            status = guix_offload_machines_add(some, machine, error);
    guix_offload_machines_free(all);
    if (status == GUIX_OFFLOAD_OK)
        *machines = some;
    else
        guix_offload_machines_free(some);
    return status;
}

typedef guix_offload_status question(guix_offload_report **, const guix_offload_engine *, const guix_offload_machines *,
                                     guix_offload_error **);

/* Asks all machines at once; DOING says so to the user, but not if JSON.  The answer goes to OUTPUT.  */
static int ask_all(int count, char **arguments, question *ask, const char *doing, int json, FILE *output)
{
    const char *file = count > 0 ? arguments[0] : default_file();
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = NULL;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    regex_t pattern;
    int status;

    if (count > 2)
        return usage();
    if (count > 1 && regcomp(&pattern, arguments[1], REG_EXTENDED | REG_NOSUB) != 0) {
        fprintf(stderr, "guix offload: error: '%s' is not a regular expression\n", arguments[1]);
        return 1;
    }
    status = guix_offload_engine_new(&engine, &error) == GUIX_OFFLOAD_OK
        && load(&machines, file, count > 1 ? &pattern : NULL, &error) == GUIX_OFFLOAD_OK ? 0 : fail(error);
    if (status == 0) {
        if (!json)
            fprintf(stderr, "guix offload: %s %zu build machines defined in '%s'...\n", doing,
                    guix_offload_machines_count(machines), file);
        if (ask(&report, engine, machines, &error) != GUIX_OFFLOAD_OK) {
            status = fail(error);
        } else {
            fputs(json ? guix_offload_report_json(report) : guix_offload_report_text(report), output);
            status = guix_offload_report_failures(report) > 0;
            if (fflush(output) != 0) {
                perror("guix offload: error: writing");
                status = 1;
            }
        }
    }
    guix_offload_report_free(report);
    guix_offload_machines_free(machines);
    guix_offload_engine_free(engine);
    if (count > 1)
        regfree(&pattern);
    return status;
}

int test_machines(int count, char **arguments)
{
    return ask_all(count, arguments, guix_offload_farm_test, "testing", 0, stderr);
}

int show_status(int count, char **arguments)
{
    int json = 0, rest = 0;
    for (int i = 0; i < count; i++)
        if (strcmp(arguments[i], "--json") == 0)
            json = 1;
        else
            arguments[rest++] = arguments[i];
    return ask_all(rest, arguments, guix_offload_farm_status, "getting status of", json, stdout);
}
