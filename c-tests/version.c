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
    CHECK_TEXT(GUIX_OFFLOAD_VERSION, PACKAGE_VERSION);
    CHECK(guix_offload_version() == guix_offload_version());
}

static void the_parts_of_the_version_are_those_of_its_text(void)
{
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", GUIX_OFFLOAD_VERSION_MAJOR, GUIX_OFFLOAD_VERSION_MINOR,
             GUIX_OFFLOAD_VERSION_PATCH);
    CHECK_TEXT(text, GUIX_OFFLOAD_VERSION);
    CHECK(GUIX_OFFLOAD_VERSION_NUMBER == GUIX_OFFLOAD_VERSION_MAJOR * 1000000 + GUIX_OFFLOAD_VERSION_MINOR * 1000
                                         + GUIX_OFFLOAD_VERSION_PATCH);
#if GUIX_OFFLOAD_VERSION_NUMBER < 1000 || GUIX_OFFLOAD_ABI_VERSION < 1
    CHECK(0);
#endif
}

int main(void)
{
    RUN(the_library_has_the_abi_of_the_header);
    RUN(the_version_is_that_of_the_package);
    RUN(the_parts_of_the_version_are_those_of_its_text);
    return 0;
}
