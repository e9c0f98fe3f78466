/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the files of the C program share.  Functions that return int return the status to exit with.  */

#include <guix-offload.h>

/* Says that the command line is wrong.  */
int usage(void);

/* Says what went wrong, and frees ERROR.  */
int fail(guix_offload_error *error);

/* guix-offload offload test, and status, with the COUNT arguments that follow.  */
int test_machines(int count, char **arguments);
int show_status(int count, char **arguments);
