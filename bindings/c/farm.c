/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload test | status: all machines at once.  */

#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

/* Is MACHINE among MACHINES already, as for another system?  */
static int is_listed(const guix_offload_machines *machines, const guix_offload_machine *machine)
{
    const guix_offload_machine *other;
    for (size_t i = 0; (other = guix_offload_machines_get(machines, i)) != NULL; i++)
        if (guix_offload_machine_is_same(other, machine))
            return 1;
    return 0;
}

static int matches(const regex_t *pattern, const char *name)
{
    return pattern == NULL || name == NULL || regexec(pattern, name, 0, NULL, 0) == 0;
}

/* Makes *SELECTED the machines of ALL, each once, whose names match PATTERN, an extended regular expression, unless
   that is NULL.  Says what is wrong in the file of ALL, and adds the number of machines that were left out of it to
   *MALFORMED.  */
static guix_offload_status choose(guix_offload_machines **selected, size_t *malformed,
                                  const guix_offload_machines *all, const regex_t *pattern, guix_offload_error **error)
{
    const guix_offload_machine *machine;
    const guix_offload_error *problem;
    guix_offload_status status = guix_offload_machines_new(selected, error);

    for (size_t i = 0; (problem = guix_offload_machines_problem(all, i)) != NULL; i++) {
        if (!matches(pattern, guix_offload_error_machine(problem)))
            continue;
        *malformed += i < guix_offload_machines_left_out(all);
        fputs(guix_offload_error_warning_lines(problem), stderr);
    }
    for (size_t i = 0; status == GUIX_OFFLOAD_OK && (machine = guix_offload_machines_get(all, i)) != NULL; i++)
        if (!is_listed(*selected, machine) && matches(pattern, guix_offload_machine_name(machine)))
            status = guix_offload_machines_add(*selected, machine, error);
    return status;
}

typedef guix_offload_status question(guix_offload_report **, const guix_offload_engine *, const guix_offload_machines *,
                                     guix_offload_answered_function, void *, const guix_offload_cancellation *,
                                     guix_offload_error **);

/* How long a status that is watched stands, in seconds.  */
#define WATCH_PAUSE 2

/* Says that a machine has answered, or failed.  */
static int say(void *data, const char *machine, const char *state)
{
    (void) data;
    fprintf(stderr, "guix offload: %s: %s\n", machine, state);
    return 0;
}

/* What a command line selects.  */
struct selection {
    const char *file;    /* NULL: the one that Guix reads */
    const char *pattern; /* NULL: all machines */
    int json, verbose, watch;
    int again; /* this is not the first time */
};

/* Reads [FILE [REGEXP]] and options from the COUNT ARGUMENTS of COMMAND.  Returns 0, or MISUSE after having said
   why.  */
static int select_machines(struct selection *selection, const char *command, int count, char **arguments)
{
    int only_names = 0, names = 0;

    *selection = (struct selection) {.file = NULL};
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i];
        if (only_names || argument[0] != '-') {
            if (++names > 2)
                return usage();
            *(names == 1 ? &selection->file : &selection->pattern) = argument;
        } else if (strcmp(argument, "--") == 0) {
            only_names = 1;
        } else if (strcmp(argument, "--json") == 0) {
            selection->json = 1;
        } else if (strcmp(argument, "--verbose") == 0) {
            selection->verbose = 1;
        } else if (strcmp(argument, "--watch") == 0) {
            selection->watch = 1;
        } else {
            return unknown_option(argument, command);
        }
    }
    return 0;
}

/* Says why no machine of FILE whose name matches PATTERN can be asked; MALFORMED of them are left out.  */
static int nothing_to_ask(const char *file, const char *pattern, size_t malformed)
{
    if (malformed > 0) {
        fputs("guix offload: error: no other build machine is selected\n", stderr);
        return 1;
    }
    if (pattern != NULL)
        fprintf(stderr, "guix offload: error: no build machine of '%s' matches '%s'\n", file, pattern);
    else
        fprintf(stderr, "guix offload: error: '%s' has no build machine\n", file);
    return MISUSE;
}

/* Asks all machines of SELECTION at once; DOING says so to the user.  The answer goes to OUTPUT; once that cannot be
   written, there is nothing left to watch.  */
static int ask_all(struct selection *selection, question *ask, const char *doing, FILE *output)
{
    guix_offload_engine *engine = NULL;
    guix_offload_machines *all = NULL, *machines = NULL;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    regex_t pattern;
    const char *file;
    size_t count, malformed = 0;
    int status;

    if (selection->pattern != NULL && regcomp(&pattern, selection->pattern, REG_EXTENDED | REG_NOSUB) != 0) {
        fprintf(stderr, "guix offload: error: '%s' is not a regular expression\n", selection->pattern);
        return MISUSE;
    }
    status = guix_offload_engine_new(&engine, &error) == GUIX_OFFLOAD_OK ? 0 : fail(error);
    if (status == 0
        && (guix_offload_machines_load(&all, selection->file, &error) != GUIX_OFFLOAD_OK
            || choose(&machines, &malformed, all, selection->pattern != NULL ? &pattern : NULL, &error)
               != GUIX_OFFLOAD_OK)) {
        fail(error);
        status = MISUSE;
    }
    file = guix_offload_machines_file(all);
    /* The library takes a missing file for one without machines, as the daemon does.  */
    if (status == 0 && access(file, F_OK) != 0) {
        fprintf(stderr, "guix offload: error: machine file '%s': %s\n", file, strerror(errno));
        status = MISUSE;
    }
    count = guix_offload_machines_count(machines);
    if (status == 0 && count == 0)
        status = nothing_to_ask(file, selection->pattern, malformed);
    if (status == 0) {
        int shows = selection->verbose || (isatty(STDERR_FILENO) && !selection->json && !selection->watch);
        if (!selection->json && !selection->again)
            fprintf(stderr, "guix offload: %s %zu build machine%s defined in '%s'...\n", doing, count,
                    count == 1 ? "" : "s", file);
        if (ask(&report, engine, machines, shows ? say : NULL, NULL, NULL, &error) != GUIX_OFFLOAD_OK) {
            status = fail(error);
        } else {
            if (selection->watch && !selection->json && isatty(fileno(output)))
                fputs("\033[H\033[2J", output);
            fputs(selection->json ? guix_offload_report_json(report) : guix_offload_report_text(report), output);
            status = guix_offload_report_failures(report) > 0 || malformed > 0;
            if (fflush(output) != 0 || ferror(output)) {
                perror("guix offload: error: writing");
                selection->watch = 0;
                status = 1;
            }
        }
    }
    guix_offload_report_free(report);
    guix_offload_machines_free(machines);
    guix_offload_machines_free(all);
    guix_offload_engine_free(engine);
    if (selection->pattern != NULL)
        regfree(&pattern);
    return status;
}

/* Does one of the COUNT ARGUMENTS ask for help?  */
static int wants_help(int count, char **arguments)
{
    for (int i = 0; i < count && strcmp(arguments[i], "--") != 0; i++)
        if (is_help(arguments[i]))
            return 1;
    return 0;
}

int test_machines(int count, char **arguments)
{
    struct selection selection;
    if (wants_help(count, arguments))
        return help(stdout);
    if (select_machines(&selection, "test", count, arguments) != 0)
        return MISUSE;
    if (selection.watch)
        return unknown_option("--watch", "test");
    return ask_all(&selection, guix_offload_farm_test_each, "testing", selection.json ? stdout : stderr);
}

int show_status(int count, char **arguments)
{
    struct selection selection;
    int status;
    if (wants_help(count, arguments))
        return help(stdout);
    if (select_machines(&selection, "status", count, arguments) != 0)
        return MISUSE;
    while ((status = ask_all(&selection, guix_offload_farm_status_each, "getting status of", stdout)) != MISUSE
           && selection.watch) {
        selection.again = 1;
        sleep(WATCH_PAUSE);
    }
    return status;
}
