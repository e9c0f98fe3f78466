/* SPDX-License-Identifier: GPL-3.0-or-later */
/* guix-offload explain: what would become of a build, and why.  */

#include <stdlib.h>
#include <string.h>

#include "report.h"

/* Returns the COUNT WORDS with commas between them, for the caller to free; NULL if there is no memory.  */
static char *join(int count, char **words)
{
    size_t length = 1;
    char *joined;

    for (int i = 0; i < count; i++)
        length += strlen(words[i]) + 1;
    joined = calloc(length, 1);
    for (int i = 0; joined != NULL && i < count; i++) {
        strcat(joined, words[i]);
        if (i + 1 < count)
            strcat(joined, ",");
    }
    return joined;
}

int explain(int count, char **arguments)
{
    struct options options;
    struct farm farm;
    guix_offload_report *report = NULL;
    guix_offload_error *error = NULL;
    char *features;
    int status;

    if (read_options(&options, NULL, "explain", &count, arguments, &status) != 0)
        return status;
    if (count < 1)
        return usage();
    features = join(count - 1, arguments + 1);
    if (features == NULL) {
        perror("guix offload: error");
        return 1;
    }
    status = open_farm(&farm, options.file, 1);
    if (status == 0) {
        guix_offload_status asked = guix_offload_farm_explain(&report, farm.engine, farm.machines, arguments[0],
                                                              features, &error);
        status = print_report(asked, report, error, options.json);
    }
    close_farm(&farm);
    free(features);
    return status;
}
