/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A program with a libssh2 of its own, the version of which is its argument, and with our static library, which has
   another one inside.  */
#include "check.h"

extern const char *libssh2_version(int required);

static const char *expected;

static void the_libssh2_of_the_program_is_the_one_that_it_asked_for(void)
{
    CHECK_TEXT(libssh2_version(0), expected);
    CHECK_TEXT(guix_offload_version(), PACKAGE_VERSION);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    expected = argv[1];
    RUN(the_libssh2_of_the_program_is_the_one_that_it_asked_for);
    return 0;
}
