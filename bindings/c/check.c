/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload check: what is wrong in a machine file, and whether guix-daemon uses this library.  */

#include "report.h"

int check(int count, char **arguments)
{
    struct options options;
    struct farm farm;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    int status;

    if (read_options(&options, NULL, "check", &count, arguments, &status) != 0)
        return status;
    if (count > 1 || (count == 1 && options.file != NULL))
        return usage();
    status = open_farm(&farm, count == 1 ? arguments[0] : options.file, 0);
    if (status == 0) {
        guix_offload_status asked = guix_offload_farm_check(&report, farm.engine, farm.machines, &error);
        status = print_report(asked, report, error, options.json);
    }
    close_farm(&farm);
    return status;
}
