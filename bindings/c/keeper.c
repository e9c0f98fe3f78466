/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload keeper serve | status | stop: the process that does the builds of this host's hooks.  */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

/* What the library starts for the hooks of this host: see guix_offload_keeper_serve.  No child of theirs.  */
static int serve(void)
{
    guix_offload_error *error = NULL;
    pid_t child = fork();

    if (child != 0)
        return child < 0;
    setsid();
    if (chdir("/") != 0)
        return 1;
    return guix_offload_keeper_serve(STDIN_FILENO, STDOUT_FILENO, &error) == GUIX_OFFLOAD_OK ? 0 : fail(error);
}

/* Prints what it does, if it runs.  */
static int show(const guix_offload_engine *engine, int json)
{
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;

    if (guix_offload_keeper_status(&report, engine, &error) != GUIX_OFFLOAD_OK)
        return fail(error);
    return show_report(report, json);
}

static int stop(const guix_offload_engine *engine)
{
    guix_offload_error *error = NULL;
    int32_t stopped = 0;

    if (guix_offload_keeper_stop(engine, &stopped, &error) != GUIX_OFFLOAD_OK)
        return fail(error);
    fputs(stopped ? "guix offload: the keeper ends once its builds are done; it shows no status any more\n"
                  : "guix offload: no keeper is running\n", stderr);
    return 0;
}

int keeper(int count, char **arguments)
{
    guix_offload_engine *engine = NULL;
    guix_offload_error *error = NULL;
    const char *command = count > 0 ? arguments[0] : "", *option = count > 1 ? arguments[1] : "";
    int json = strcmp(option, "--json") == 0, status;

    if (count == 1 && strcmp(command, "serve") == 0)
        return serve();
    if (count > 0 && (is_help(command) || is_help(option)))
        return help(stdout);
    if (count > 0 && strcmp(command, "status") != 0 && strcmp(command, "stop") != 0) {
        fprintf(stderr, "guix offload: error: unknown command 'keeper %s'; see 'guix-offload --help'\n", command);
        return MISUSE;
    }
    if (count > 1 && strcmp(command, "stop") == 0)
        return unknown_option(option, "keeper stop");
    if (count > 1 && !json)
        return unknown_option(option, "keeper status");
    if (count != 1 + json)
        return usage();
    if (guix_offload_engine_new(&engine, &error) != GUIX_OFFLOAD_OK)
        return fail(error);
    status = strcmp(command, "stop") == 0 ? stop(engine) : show(engine, json);
    guix_offload_engine_free(engine);
    return status;
}
