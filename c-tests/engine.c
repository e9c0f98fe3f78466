/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The engine: directories, and the order of freeing.  */
#include "check.h"

static void engines_come_and_go(void)
{
    guix_offload_engine *engine = NULL;
    guix_offload_engine_free(NULL);
    SUCCEEDS(guix_offload_engine_new, &engine);
    guix_offload_engine_free(engine);
}

/* Here no program is where the installed one would be.  */
static void without_its_program_there_is_no_keeper(void)
{
    guix_offload_engine *engine = UNTOUCHED;
    FAILS(GUIX_OFFLOAD_UNAVAILABLE, guix_offload_engine_connect, &engine);
    REJECTS(guix_offload_engine_connect, NULL);
    CHECK(engine == UNTOUCHED);
}

static void directories_are_set(void)
{
    guix_offload_engine *engine = NULL;
    SUCCEEDS(guix_offload_engine_new, &engine);
    for (int32_t which = GUIX_OFFLOAD_STORE_DIRECTORY; which <= GUIX_OFFLOAD_DAEMON_SOCKET; which++)
        SUCCEEDS(guix_offload_engine_set_directory, engine, which, "/elsewhere");
    for (int32_t which = GUIX_OFFLOAD_STORE_DIRECTORY; which <= GUIX_OFFLOAD_DAEMON_SOCKET; which++)
        CHECK_TEXT(guix_offload_engine_directory(engine, which), "/elsewhere");
    CHECK(guix_offload_engine_directory(engine, -1) == NULL && guix_offload_engine_directory(engine, 5) == NULL);
    CHECK(guix_offload_engine_directory(NULL, 0) == NULL);
    guix_offload_engine_free(engine);
}

static void the_idle_limit_is_any_number(void)
{
    guix_offload_engine *engine = NULL;
    SUCCEEDS(guix_offload_engine_new, &engine);
    CHECK(guix_offload_engine_idle_limit(engine) == 60);
    SUCCEEDS(guix_offload_engine_set_idle_limit, engine, 0);
    CHECK(guix_offload_engine_idle_limit(engine) == 0 && guix_offload_engine_idle_limit(NULL) == 0);
    SUCCEEDS(guix_offload_engine_set_idle_limit, engine, UINT32_MAX);
    CHECK(guix_offload_engine_idle_limit(engine) == UINT32_MAX);
    REJECTS(guix_offload_engine_set_idle_limit, NULL, 60);
    guix_offload_engine_free(engine);
}

static void the_environment_is_looked_at(void)
{
    guix_offload_engine *engine = UNTOUCHED;
    CHECK(setenv("NIX_STORE_DIR", "relative", 1) == 0);
    REJECTS(guix_offload_engine_new, &engine);
    CHECK(engine == UNTOUCHED);
    CHECK(unsetenv("NIX_STORE_DIR") == 0);
}

static void bad_arguments_are_rejected(void)
{
    guix_offload_engine *engine = NULL;
    SUCCEEDS(guix_offload_engine_new, &engine);
    REJECTS(guix_offload_engine_new, NULL);
    REJECTS(guix_offload_engine_set_directory, NULL, GUIX_OFFLOAD_STATE_DIRECTORY, "/x");
    for (int32_t which = GUIX_OFFLOAD_STORE_DIRECTORY; which <= GUIX_OFFLOAD_DAEMON_SOCKET; which++) {
        REJECTS(guix_offload_engine_set_directory, engine, which, NULL);
        REJECTS(guix_offload_engine_set_directory, engine, which, NOT_UTF8);
        REJECTS(guix_offload_engine_set_directory, engine, which, too_long());
        REJECTS(guix_offload_engine_set_directory, engine, which, "relative");
        REJECTS(guix_offload_engine_set_directory, engine, which, "");
    }
    REJECTS(guix_offload_engine_set_directory, engine, -1, "/x");
    REJECTS(guix_offload_engine_set_directory, engine, GUIX_OFFLOAD_DAEMON_SOCKET + 1, "/x");
    REJECTS(guix_offload_engine_set_directory, engine, INT32_MAX, "/x");
    REJECTS(guix_offload_engine_set_directory, engine, INT32_MIN, "/x");
    guix_offload_engine_free(engine);
}

static void an_engine_may_be_freed_before_what_was_made_with_it(void)
{
    guix_offload_engine *engine = NULL;
    guix_offload_hook *hook = NULL;
    SUCCEEDS(guix_offload_engine_new, &engine);
    SUCCEEDS(guix_offload_hook_new, &hook, engine);
    guix_offload_engine_free(engine);
    SUCCEEDS(guix_offload_hook_set_limits, hook, 1, 1);
    guix_offload_hook_free(hook);
}

int main(void)
{
    RUN(engines_come_and_go);
    RUN(without_its_program_there_is_no_keeper);
    RUN(directories_are_set);
    RUN(the_idle_limit_is_any_number);
    RUN(the_environment_is_looked_at);
    RUN(bad_arguments_are_rejected);
    RUN(an_engine_may_be_freed_before_what_was_made_with_it);
    return 0;
}
