/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload scan: a form for the machine file, of a machine that is not in it.  */

#include <stdio.h>
#include <string.h>

#include "program.h"

/* Returns what follows NAME in ARGUMENT, NULL if that does not begin with it.  */
static const char *value_of(const char *argument, const char *name)
{
    size_t length = strlen(name);
    return strncmp(argument, name, length) == 0 ? argument + length : NULL;
}

int scan(int count, char **arguments)
{
    guix_offload_engine *engine = NULL;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    const char *host = NULL, *user = NULL, *accepted = NULL, *key = NULL, *value;
    int json = 0, status;

    for (int i = 0; i < count; i++) {
        if (is_help(arguments[i]))
            return help(stdout);
        if (strcmp(arguments[i], "--json") == 0)
            json = 1;
        else if ((value = value_of(arguments[i], "--accept=")) != NULL)
            accepted = value;
        else if ((value = value_of(arguments[i], "--key=")) != NULL)
            key = value;
        else if (arguments[i][0] == '-')
            return unknown_option(arguments[i], "scan");
        else if (host == NULL)
            host = arguments[i];
        else if (user == NULL)
            user = arguments[i];
        else
            return usage();
    }
    if (host == NULL) {
        fputs("guix offload: error: 'scan' takes a host; see 'guix-offload --help'\n", stderr);
        return MISUSE;
    }
    if (guix_offload_engine_new(&engine, &error) != GUIX_OFFLOAD_OK)
        return fail(error);
    switch (guix_offload_scan(&report, engine, host, user, accepted, key, &error)) {
    case GUIX_OFFLOAD_OK:
        status = guix_offload_report_failures(report) > 0;
        if (show_report(report, json) != 0)
            status = 1;
        break;
    case GUIX_OFFLOAD_INVALID_ARGUMENT:
        fail(error);
        status = MISUSE;
        break;
    default:
        status = fail(error);
    }
    guix_offload_engine_free(engine);
    return status;
}
