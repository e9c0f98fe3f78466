/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the commands share that make a report of the machines of a file, without connecting to them.  */

#ifndef GUIX_OFFLOAD_REPORT_H
#define GUIX_OFFLOAD_REPORT_H

#include "program.h"

/* The options of a command line.  */
struct options {
    const char *file; /* --file=FILE; NULL: the one that Guix reads */
    int json;         /* --json */
};

/* The machines of a file, and where things are.  */
struct farm {
    guix_offload_engine *engine;
    guix_offload_machines *machines;
};

/* Takes the options of COMMAND out of the *COUNT ARGUMENTS.  It has --yes, which sets *YES, unless YES is NULL.
   Returns 0; or the status to exit with in *STATUS and 1, after having shown the help or said what is wrong.  */
int read_options(struct options *options, int *yes, const char *command, int *count, char **arguments, int *status);

/* Loads the machines of FILE, or if that is NULL, of the file that Guix reads, and warns of those that are malformed
   if WARN is not 0.  Returns 0; otherwise the status to exit with, after having said why.  The caller closes FARM in
   any case.  */
int open_farm(struct farm *farm, const char *file, int warn);
void close_farm(struct farm *farm);

/* Prints REPORT, which STATUS says whether there is, or else says what is wrong, and frees it.  Returns the status to
   exit with: 1 if the report has failures, or if there is none because of something that is not the command line.  */
int print_report(guix_offload_status status, guix_offload_report *report, guix_offload_error *error, int json);

#endif
