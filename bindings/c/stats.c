/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload stats: what the builds of this host add up to.  */

#include <string.h>

#include "program.h"

int show_stats(int count, char **arguments)
{
    guix_offload_engine *engine = NULL;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    int json = 0, metrics = 0, status;

    for (int i = 0; i < count; i++) {
        if (is_help(arguments[i]))
            return help(stdout);
        if (strcmp(arguments[i], "--json") == 0)
            json = 1;
        else if (strcmp(arguments[i], "--prometheus") == 0)
            metrics = 1;
        else if (arguments[i][0] == '-')
            return unknown_option(arguments[i], "stats");
        else
            return usage();
    }
    if (json && metrics) {
        fputs("guix offload: error: 'stats' takes one of '--json' and '--prometheus'\n", stderr);
        return MISUSE;
    }
    status = guix_offload_engine_new(&engine, &error) != GUIX_OFFLOAD_OK
             || (metrics ? guix_offload_journal_metrics : guix_offload_journal_stats)(&report, engine, &error)
                != GUIX_OFFLOAD_OK
             ? fail(error) : show_report(report, json);
    guix_offload_engine_free(engine);
    return status;
}
