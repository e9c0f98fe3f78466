/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload drain | resume | drained: which machines get no new builds.  */

#include "report.h"

typedef guix_offload_status marking(guix_offload_report **, const guix_offload_engine *, const guix_offload_machines *,
                                    const char *, guix_offload_error **);

/* Has MARK, which is COMMAND, done to the machine that the COUNT ARGUMENTS name; without MARK, shows which ones are
   marked.  */
static int run(const char *command, marking *mark, int count, char **arguments)
{
    struct options options;
    struct farm farm;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    int status;

    if (read_options(&options, NULL, command, &count, arguments, &status) != 0)
        return status;
    if (count != (mark != NULL))
        return usage();
    status = open_farm(&farm, options.file, 1);
    if (status == 0) {
        guix_offload_status asked =
            mark != NULL ? mark(&report, farm.engine, farm.machines, arguments[0], &error)
                         : guix_offload_farm_drained(&report, farm.engine, farm.machines, &error);
        status = print_report(asked, report, error, options.json);
    }
    close_farm(&farm);
    return status;
}

int drain(int count, char **arguments)
{
    return run("drain", guix_offload_farm_drain, count, arguments);
}

int resume(int count, char **arguments)
{
    return run("resume", guix_offload_farm_resume, count, arguments);
}

int show_drained(int count, char **arguments)
{
    return run("drained", NULL, count, arguments);
}
