/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Build machines: defaults, setters, and what is refused.  */
#include "check.h"

#include <math.h>

static guix_offload_machine *new_machine(void)
{
    guix_offload_machine *machine = NULL;
    SUCCEEDS(guix_offload_machine_new, &machine, "m", "x86_64-linux", "builder", HOST_KEY);
    return machine;
}

static void accessors_of_no_machine(void)
{
    guix_offload_machine_free(NULL);
    CHECK(guix_offload_machine_name(NULL) == NULL);
    CHECK(guix_offload_machine_port(NULL) == 0);
    CHECK(guix_offload_machine_user(NULL) == NULL);
    CHECK(guix_offload_machine_private_key(NULL) == NULL);
    CHECK(guix_offload_machine_host_key(NULL) == NULL);
    CHECK(guix_offload_machine_compression(NULL) == NULL);
    CHECK(guix_offload_machine_compression_level(NULL) == 0);
    CHECK(guix_offload_machine_daemon_socket(NULL) == NULL);
    CHECK(guix_offload_machine_parallel_builds(NULL) == 0);
    CHECK(guix_offload_machine_speed(NULL) == 0);
    CHECK(guix_offload_machine_overload_threshold(NULL) == 0);
    CHECK(guix_offload_machine_system(NULL, 0) == NULL);
    CHECK(guix_offload_machine_feature(NULL, 0) == NULL);
    CHECK(guix_offload_machine_is_same(NULL, NULL) == 0);
}

static void a_machine_is_the_same_whatever_it_is_listed_for(void)
{
    guix_offload_machine *one = new_machine(), *other = NULL;
    SUCCEEDS(guix_offload_machine_new, &other, "m", "i686-linux", "somebody", HOST_KEY);
    CHECK(guix_offload_machine_is_same(one, other) == 1 && guix_offload_machine_is_same(other, one) == 1);
    CHECK(guix_offload_machine_is_same(one, NULL) == 0 && guix_offload_machine_is_same(NULL, one) == 0);
    SUCCEEDS(guix_offload_machine_set_port, other, 2222);
    CHECK(guix_offload_machine_is_same(one, other) == 0);
    guix_offload_machine_free(one);
    guix_offload_machine_free(other);
}

static void a_new_machine_has_the_defaults_of_guix(void)
{
    guix_offload_machine *machine = new_machine();
    CHECK_TEXT(guix_offload_machine_name(machine), "m");
    CHECK(guix_offload_machine_port(machine) == 22);
    CHECK_TEXT(guix_offload_machine_user(machine), "builder");
    CHECK(guix_offload_machine_private_key(machine) != NULL);
    CHECK_TEXT(guix_offload_machine_host_key(machine), HOST_KEY);
    CHECK_TEXT(guix_offload_machine_compression(machine), "zlib@openssh.com,zlib");
    CHECK(guix_offload_machine_compression_level(machine) == 3);
    CHECK_TEXT(guix_offload_machine_daemon_socket(machine), "/var/guix/daemon-socket/socket");
    CHECK(guix_offload_machine_parallel_builds(machine) == 1);
    CHECK(guix_offload_machine_speed(machine) == 1.0);
    CHECK(guix_offload_machine_overload_threshold(machine) == 0.8);
    CHECK_TEXT(guix_offload_machine_system(machine, 0), "x86_64-linux");
    CHECK(guix_offload_machine_system(machine, 1) == NULL);
    CHECK(guix_offload_machine_system(machine, SIZE_MAX) == NULL);
    CHECK(guix_offload_machine_feature(machine, 0) == NULL);
    guix_offload_machine_free(machine);
}

static void what_is_set_can_be_read(void)
{
    guix_offload_machine *machine = new_machine();
    SUCCEEDS(guix_offload_machine_add_system, machine, "i686-linux");
    SUCCEEDS(guix_offload_machine_add_feature, machine, "kvm");
    SUCCEEDS(guix_offload_machine_set_port, machine, 65535);
    SUCCEEDS(guix_offload_machine_set_private_key, machine, "/etc/keys/m\xc3\xbcller");
    SUCCEEDS(guix_offload_machine_set_compression, machine, "none", 9);
    SUCCEEDS(guix_offload_machine_set_daemon_socket, machine, "/run/guix");
    SUCCEEDS(guix_offload_machine_set_parallel_builds, machine, UINT32_MAX);
    SUCCEEDS(guix_offload_machine_set_speed, machine, 0.0);
    SUCCEEDS(guix_offload_machine_set_overload_threshold, machine, -3.0);
    CHECK_TEXT(guix_offload_machine_system(machine, 1), "i686-linux");
    CHECK_TEXT(guix_offload_machine_feature(machine, 0), "kvm");
    CHECK(guix_offload_machine_port(machine) == 65535);
    CHECK_TEXT(guix_offload_machine_private_key(machine), "/etc/keys/m\xc3\xbcller");
    CHECK_TEXT(guix_offload_machine_compression(machine), "none");
    CHECK(guix_offload_machine_compression_level(machine) == 9);
    CHECK_TEXT(guix_offload_machine_daemon_socket(machine), "/run/guix");
    CHECK(guix_offload_machine_parallel_builds(machine) == UINT32_MAX);
    CHECK(guix_offload_machine_speed(machine) == 0.0);
    CHECK(guix_offload_machine_overload_threshold(machine) < 0.0);
    guix_offload_machine_free(machine);
}

static void brackets_around_an_address_are_taken_off(void)
{
    guix_offload_machine *machine = NULL;
    SUCCEEDS(guix_offload_machine_new, &machine, "[fe80::1%eth0]", NULL, "u", HOST_KEY);
    CHECK_TEXT(guix_offload_machine_name(machine), "fe80::1%eth0");
    guix_offload_machine_free(machine);
}

static void strings_are_copied(void)
{
    char name[] = "m", system[] = "x86_64-linux", user[] = "u", key[] = HOST_KEY;
    guix_offload_machine *machine = NULL;
    SUCCEEDS(guix_offload_machine_new, &machine, name, system, user, key);
    name[0] = system[0] = user[0] = key[0] = '?';
    CHECK_TEXT(guix_offload_machine_name(machine), "m");
    CHECK_TEXT(guix_offload_machine_system(machine, 0), "x86_64-linux");
    CHECK_TEXT(guix_offload_machine_user(machine), "u");
    CHECK_TEXT(guix_offload_machine_host_key(machine), HOST_KEY);
    guix_offload_machine_free(machine);
}

static void no_machine_is_made_of_bad_texts(void)
{
    guix_offload_machine *machine = UNTOUCHED;
    const char *bad[] = {NULL, NOT_UTF8, too_long()};
    REJECTS(guix_offload_machine_new, NULL, "m", "x86_64-linux", "u", HOST_KEY);
    for (int i = 0; i < 3; i++) {
        REJECTS(guix_offload_machine_new, &machine, bad[i], "x86_64-linux", "u", HOST_KEY);
        if (bad[i] != NULL) /* a system may come later */
            REJECTS(guix_offload_machine_new, &machine, "m", bad[i], "u", HOST_KEY);
        REJECTS(guix_offload_machine_new, &machine, "m", "x86_64-linux", bad[i], HOST_KEY);
        REJECTS(guix_offload_machine_new, &machine, "m", "x86_64-linux", "u", bad[i]);
    }
    REJECTS(guix_offload_machine_new, &machine, "", "x86_64-linux", "u", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "../m", "x86_64-linux", "u", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "w1\n# decline\n@ build-succeeded x", "x86_64-linux", "u", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "root@w1", "x86_64-linux", "u", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "w1:22", "x86_64-linux", "u", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "m", "x86_64-linux\n", "u", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "m", "x86_64-linux", "u\n# accept", HOST_KEY);
    REJECTS(guix_offload_machine_new, &machine, "m", "x86_64-linux", "", HOST_KEY);
    FAILS(GUIX_OFFLOAD_CONFIGURATION, guix_offload_machine_new, &machine, "m", "x86_64-linux", "u", "");
    FAILS(GUIX_OFFLOAD_CONFIGURATION, guix_offload_machine_new, &machine, "m", "x86_64-linux", "u", "ssh-rsa AAAA");
    CHECK(machine == UNTOUCHED);
}

static void texts_that_are_refused_change_nothing(void)
{
    guix_offload_machine *machine = new_machine();
    const char *bad[] = {NULL, NOT_UTF8, too_long()};
    for (int i = 0; i < 3; i++) {
        REJECTS(guix_offload_machine_add_system, machine, bad[i]);
        REJECTS(guix_offload_machine_add_feature, machine, bad[i]);
        REJECTS(guix_offload_machine_set_private_key, machine, bad[i]);
        REJECTS(guix_offload_machine_set_compression, machine, bad[i], 3);
        REJECTS(guix_offload_machine_set_daemon_socket, machine, bad[i]);
    }
    REJECTS(guix_offload_machine_set_daemon_socket, machine, "relative");
    REJECTS(guix_offload_machine_set_daemon_socket, machine, "/socket\n# accept");
    REJECTS(guix_offload_machine_set_private_key, machine, "");
    REJECTS(guix_offload_machine_add_feature, machine, "kvm\n");
    CHECK(guix_offload_machine_system(machine, 1) == NULL);
    CHECK(guix_offload_machine_feature(machine, 0) == NULL);
    CHECK_TEXT(guix_offload_machine_compression(machine), "zlib@openssh.com,zlib");
    CHECK_TEXT(guix_offload_machine_daemon_socket(machine), "/var/guix/daemon-socket/socket");
    guix_offload_machine_free(machine);
}

static void numbers_that_are_refused_change_nothing(void)
{
    guix_offload_machine *machine = new_machine();
    const double bad[] = {NAN, INFINITY};
    REJECTS(guix_offload_machine_set_port, machine, 0);
    REJECTS(guix_offload_machine_set_port, machine, 65536);
    REJECTS(guix_offload_machine_set_port, machine, UINT32_MAX);
    REJECTS(guix_offload_machine_set_compression, machine, "none", 10);
    REJECTS(guix_offload_machine_set_compression, machine, "none", UINT32_MAX);
    REJECTS(guix_offload_machine_set_speed, machine, -1.0);
    for (int i = 0; i < 2; i++) {
        REJECTS(guix_offload_machine_set_speed, machine, bad[i]);
        REJECTS(guix_offload_machine_set_overload_threshold, machine, bad[i]);
    }
    CHECK(guix_offload_machine_port(machine) == 22);
    CHECK_TEXT(guix_offload_machine_compression(machine), "zlib@openssh.com,zlib");
    CHECK(guix_offload_machine_compression_level(machine) == 3);
    CHECK(guix_offload_machine_speed(machine) == 1.0);
    CHECK(guix_offload_machine_overload_threshold(machine) == 0.8);
    guix_offload_machine_free(machine);
}

static void setters_want_a_machine(void)
{
    REJECTS(guix_offload_machine_add_system, NULL, "x86_64-linux");
    REJECTS(guix_offload_machine_add_feature, NULL, "kvm");
    REJECTS(guix_offload_machine_set_port, NULL, 22);
    REJECTS(guix_offload_machine_set_private_key, NULL, "/key");
    REJECTS(guix_offload_machine_set_compression, NULL, "none", 3);
    REJECTS(guix_offload_machine_set_daemon_socket, NULL, "/socket");
    REJECTS(guix_offload_machine_set_parallel_builds, NULL, 1);
    REJECTS(guix_offload_machine_set_speed, NULL, 1.0);
    REJECTS(guix_offload_machine_set_overload_threshold, NULL, 1.0);
}

int main(void)
{
    RUN(accessors_of_no_machine);
    RUN(a_machine_is_the_same_whatever_it_is_listed_for);
    RUN(a_new_machine_has_the_defaults_of_guix);
    RUN(what_is_set_can_be_read);
    RUN(brackets_around_an_address_are_taken_off);
    RUN(strings_are_copied);
    RUN(no_machine_is_made_of_bad_texts);
    RUN(texts_that_are_refused_change_nothing);
    RUN(numbers_that_are_refused_change_nothing);
    RUN(setters_want_a_machine);
    return 0;
}
