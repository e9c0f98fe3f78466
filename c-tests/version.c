/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The library is the one that the header describes.  (The versions of the installed files: installed.sh.)  */
#include "check.h"

static void the_library_has_the_abi_of_the_header(void)
{
    CHECK(guix_offload_abi_version() == GUIX_OFFLOAD_ABI_VERSION);
}

static void the_version_is_that_of_the_package(void)
{
    CHECK_TEXT(guix_offload_version(), PACKAGE_VERSION);
    CHECK(guix_offload_version() == guix_offload_version());
}

int main(void)
{
    RUN(the_library_has_the_abi_of_the_header);
    RUN(the_version_is_that_of_the_package);
    return 0;
}
