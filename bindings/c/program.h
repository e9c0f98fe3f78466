/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the files of the C program share.  Functions that return int return the status to exit with.  */

#ifndef GUIX_OFFLOAD_PROGRAM_H
#define GUIX_OFFLOAD_PROGRAM_H

#include <stdio.h>

#include <guix-offload.h>

/* Exit status of a command line that is wrong, or selects nothing.  */
#define MISUSE 2

/* Says that the command line is wrong.  */
int usage(void);

/* Says how to use the program.  */
int help(FILE *output);

/* Does WORD ask for help?  */
int is_help(const char *word);

/* Says what went wrong, and frees ERROR.  */
int fail(guix_offload_error *error);

/* guix-offload test, and status, with the COUNT arguments that follow.  */
int test_machines(int count, char **arguments);
int show_status(int count, char **arguments);

/* Says that COMMAND has no such OPTION.  */
int unknown_option(const char *option, const char *command);

/* Prints REPORT to the standard output, as text or as JSON, and frees it.  */
int show_report(guix_offload_report *report, int json);

/* guix-offload log, and stats, with the COUNT arguments that follow.  */
int show_log(int count, char **arguments);
int show_stats(int count, char **arguments);

/* guix-offload scan, with the COUNT arguments that follow.  */
int scan(int count, char **arguments);

/* guix-offload authorize, with the COUNT arguments that follow.  */
int authorize(int count, char **arguments);

/* guix-offload drain, resume and drained, with the COUNT arguments that follow.  */
int drain(int count, char **arguments);
int resume(int count, char **arguments);
int show_drained(int count, char **arguments);

/* guix-offload explain, with the COUNT arguments that follow.  */
int explain(int count, char **arguments);

/* guix-offload check, with the COUNT arguments that follow.  */
int check(int count, char **arguments);

/* guix-offload keeper, with the COUNT arguments that follow.  */
int keeper(int count, char **arguments);

#endif
