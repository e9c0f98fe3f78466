/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the commands share that print a report, and those that make one of the machines of a file, without connecting
   to them.  */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "report.h"

int read_options(struct options *options, int *yes, const char *command, int *count, char **arguments, int *status)
{
    int words = 0, only_words = 0;

    *options = (struct options) {NULL, 0};
    for (int i = 0; i < *count; i++) {
        char *argument = arguments[i];
        if (only_words || argument[0] != '-') {
            arguments[words++] = argument;
        } else if (strcmp(argument, "--") == 0) {
            only_words = 1;
        } else if (strcmp(argument, "--json") == 0) {
            options->json = 1;
        } else if (yes != NULL && strcmp(argument, "--yes") == 0) {
            *yes = 1;
        } else if (strncmp(argument, "--file=", 7) == 0) {
            options->file = argument + 7;
        } else if (is_help(argument)) {
            *status = help(stdout);
            return 1;
        } else {
            *status = unknown_option(argument, command);
            return 1;
        }
    }
    *count = words;
    return 0;
}

int open_farm(struct farm *farm, const char *file, int warn)
{
    guix_offload_error *error = NULL;

    *farm = (struct farm) {NULL, NULL};
    if (guix_offload_engine_new(&farm->engine, &error) != GUIX_OFFLOAD_OK)
        return fail(error);
    if (guix_offload_machines_load(&farm->machines, file, &error) != GUIX_OFFLOAD_OK) {
        fail(error);
        return MISUSE;
    }
    file = guix_offload_machines_file(farm->machines);
    /* The library takes a missing file for one without machines, as the daemon does.  */
    if (access(file, F_OK) != 0) {
        fprintf(stderr, "guix offload: error: machine file '%s': %s\n", file, strerror(errno));
        return MISUSE;
    }
    for (size_t i = 0; warn && i < guix_offload_machines_left_out(farm->machines); i++)
        fputs(guix_offload_error_warning_lines(guix_offload_machines_problem(farm->machines, i)), stderr);
    return 0;
}

void close_farm(struct farm *farm)
{
    guix_offload_machines_free(farm->machines);
    guix_offload_engine_free(farm->engine);
}

int unknown_option(const char *option, const char *command)
{
    fprintf(stderr, "guix offload: error: unknown option '%s' of '%s'; see 'guix-offload --help'\n", option, command);
    return MISUSE;
}

int show_report(guix_offload_report *report, int json)
{
    int status = 0;
    fputs(json ? guix_offload_report_json(report) : guix_offload_report_text(report), stdout);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "guix offload: error: writing: %s\n", strerror(errno));
        status = 1;
    }
    guix_offload_report_free(report);
    return status;
}

int print_report(guix_offload_status status, guix_offload_report *report, guix_offload_error *error, int json)
{
    if (status != GUIX_OFFLOAD_OK) {
        fail(error);
        return status == GUIX_OFFLOAD_INVALID_ARGUMENT ? MISUSE : 1;
    }
    int failed = guix_offload_report_failures(report) > 0;
    return show_report(report, json) || failed;
}
