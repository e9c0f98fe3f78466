/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload log: the last builds of this host.  */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

/* How many builds are shown unless it is said.  */
#define DEFAULT_COUNT 20

int show_log(int count, char **arguments)
{
    guix_offload_engine *engine = NULL;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    unsigned long builds = DEFAULT_COUNT;
    int json = 0, counts = 0, status;

    for (int i = 0; i < count; i++) {
        char *end;
        if (is_help(arguments[i]))
            return help(stdout);
        if (strcmp(arguments[i], "--json") == 0) {
            json = 1;
        } else if (arguments[i][0] == '-') {
            return unknown_option(arguments[i], "log");
        } else {
            errno = 0;
            builds = strtoul(arguments[i], &end, 10);
            if (counts++ > 0 || arguments[i][0] < '0' || arguments[i][0] > '9' || *end != '\0' || errno != 0) {
                fprintf(stderr, "guix offload: error: 'log' takes one number of builds, not '%s'\n", arguments[i]);
                return MISUSE;
            }
        }
    }
    status = guix_offload_engine_new(&engine, &error) != GUIX_OFFLOAD_OK
             || guix_offload_journal_log(&report, engine, builds, &error) != GUIX_OFFLOAD_OK
             ? fail(error) : show_report(report, json);
    guix_offload_engine_free(engine);
    return status;
}
