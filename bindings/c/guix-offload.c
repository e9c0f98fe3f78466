/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A complete build hook for guix-daemon: set GUIX to this program in the daemon's environment.  The daemon runs
   "$GUIX offload SYSTEM MAX-SILENT-TIME PRINT-TRACE TIMEOUT" for builds that another machine should do, and $GUIX with
   other commands for other things: these are handed on to the real guix.  */

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "program.h"

/* Where the daemon wants a build's log.  */
#define LOG_DESCRIPTOR 4

/* Where guix may be when PATH does not say, as for a daemon that an init system started.  */
#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin:/run/current-system/profile/bin" \
                     ":/var/guix/profiles/per-user/root/current-guix/bin"

static int is_this_program(const char *file)
{
    struct stat self, other;
    return stat("/proc/self/exe", &self) == 0 && stat(file, &other) == 0
        && self.st_dev == other.st_dev && self.st_ino == other.st_ino;
}

/* Replaces this process by the guix that GUIX_OFFLOAD_GUIX names, else by the first other one in PATH.  */
static int hand_on(char **argv)
{
    const char *guix = getenv("GUIX_OFFLOAD_GUIX");
    const char *path = getenv("PATH");
    static char file[PATH_MAX];

    if (guix != NULL && *guix != '\0') {
        if (is_this_program(guix)) {
            fprintf(stderr, "guix-offload: GUIX_OFFLOAD_GUIX is '%s', this very program\n", guix);
            return 1;
        }
        argv[0] = (char *) guix;
        execv(guix, argv);
        fprintf(stderr, "guix-offload: cannot run '%s': %s\n", guix, strerror(errno));
        return 1;
    }
    for (const char *dir = path != NULL ? path : DEFAULT_PATH; *dir != '\0'; ) {
        size_t length = strcspn(dir, ":");
        int printed = snprintf(file, sizeof file, "%.*s/guix", (int) length, dir);
        if (length > 0 && printed < (int) sizeof file && access(file, X_OK) == 0 && !is_this_program(file)) {
            argv[0] = file;
            execv(file, argv);
        }
        dir += length + (dir[length] == ':');
    }
    fputs("guix-offload: no other 'guix' is in PATH; set GUIX_OFFLOAD_GUIX to its file name\n", stderr);
    return 1;
}

int usage(void)
{
    fputs("guix offload: error: invalid arguments; see 'guix-offload --help'\n", stderr);
    return MISUSE;
}

int fail(guix_offload_error *error)
{
    fputs(guix_offload_error_lines(error), stderr);
    guix_offload_error_free(error);
    return 1;
}

int help(FILE *output)
{
    fputs("Usage: guix-offload test [FILE [REGEXP]] [--json] [--verbose]\n"
          "Test the machines of FILE, or /etc/guix/machines.scm, whose names match REGEXP.\n"
          "On a terminal, or with --verbose, say so as each machine answers.\n\n"
          "  guix-offload status [FILE [REGEXP]] [--json] [--verbose] [--watch]\n"
          "      Show how they are doing, and what the keeper does.  With --watch, again\n"
          "      every 2 seconds, until interrupted.\n"
          "  guix-offload check [FILE] [--json]\n"
          "      Show what is wrong in FILE, without connecting, and whether guix-daemon uses\n"
          "      this program.\n"
          "  guix-offload drain MACHINE [--file=FILE] [--json]\n"
          "      Let MACHINE of FILE have no new builds.  Those that it has go on.\n"
          "  guix-offload resume MACHINE [--file=FILE] [--json]\n"
          "      Let it have builds again.\n"
          "  guix-offload drained [--file=FILE] [--json]\n"
          "      Show which machines are drained.\n"
          "  guix-offload explain DERIVATION | SYSTEM [FEATURE...] [--file=FILE] [--json]\n"
          "      Show what would become of a build now, and what counts for and against each\n"
          "      machine.\n"
          "  guix-offload keeper status [--json]\n"
          "      Show what the keeper, which does this host's offloaded builds, does now.\n"
          "  guix-offload keeper stop\n"
          "      Have it end once its builds are done.  The next build starts another one.\n"
          "  guix-offload scan HOST[:PORT] [USER] [--accept=SHA256:...] [--key=FILE] [--json]\n"
          "      Describe a machine for machines.scm.  Log in only if ssh knows its host\n"
          "      key, or --accept names it.\n"
          "  guix-offload authorize MACHINE [--file=FILE] [--yes] [--json]\n"
          "      Have this host and MACHINE accept what the other one signs, once you\n"
          "      agree, and test it.\n"
          "  guix-offload log [COUNT] [--json]\n"
          "      Show the last COUNT builds of this host that are over, 20 by default;\n"
          "      0: all that are recorded.\n"
          "  guix-offload stats [--json | --prometheus]\n"
          "      Show what they add up to, machine by machine.\n"
          "  guix-offload offload SYSTEM MAX-SILENT-TIME PRINT-TRACE TIMEOUT\n"
          "      Process build offload requests written on the standard input, possibly\n"
          "      offloading builds to the machines listed in machines.scm.  This is what\n"
          "      guix-daemon runs.\n"
          "  guix-offload --help | --version\n\n"
          "Each of these may follow 'offload'.  All other commands are handed on to guix.\n"
          "The exit status is 1 if a machine cannot be used, 2 if the command line or FILE\n"
          "is wrong, or selects no machine.\n", output);
    return output == stdout ? 0 : MISUSE;
}

static int version(void)
{
    printf("guix offload: libguix_offload %s\n"
           "Copyright (C) 2026 the libguix_offload authors\n"
           "License GPLv3+: GNU GPL version 3 or later <http://gnu.org/licenses/gpl.html>\n"
           "This is free software: you are free to change and redistribute it.\n"
           "There is NO WARRANTY, to the extent permitted by law.\n", guix_offload_version());
    return 0;
}

/* Reads a number of seconds.  */
static int seconds(const char *text, uint64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0;
}

/* What follows "offload" is ARGV[1] and so on.  */
static int serve(char **argv)
{
    uint64_t max_silent_time, timeout;
    guix_offload_engine *engine = NULL;
    guix_offload_hook *hook = NULL;
    guix_offload_error *error = NULL;
    /* As for the script: daemons say "true", and their users get no trace of the machine's daemon.  */
    int status = 1, trace = strcmp(argv[3], "1") == 0;

    if (!seconds(argv[2], &max_silent_time) || !seconds(argv[4], &timeout))
        return usage();
    if (guix_offload_engine_new(&engine, &error) != GUIX_OFFLOAD_OK
        || guix_offload_hook_new(&hook, engine, &error) != GUIX_OFFLOAD_OK
        || guix_offload_hook_set_limits(hook, timeout, max_silent_time, &error) != GUIX_OFFLOAD_OK
        || guix_offload_hook_set_build_trace(hook, trace, &error) != GUIX_OFFLOAD_OK
        || guix_offload_hook_serve(hook, STDIN_FILENO, STDOUT_FILENO, LOG_DESCRIPTOR, &status, &error)
           != GUIX_OFFLOAD_OK)
        status = fail(error);
    guix_offload_hook_free(hook);
    guix_offload_engine_free(engine);
    return status;
}

int is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int is_version(const char *word)
{
    return strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0;
}

/* The commands that have files of their own.  */
static const struct {
    const char *name;
    int (*run)(int count, char **arguments);
} commands[] = {
    {"test", test_machines},
    {"status", show_status},
    {"keeper", keeper},
    {"check", check},
    {"drain", drain},
    {"resume", resume},
    {"drained", show_drained},
    {"explain", explain},
    {"scan", scan},
    {"authorize", authorize},
    {"log", show_log},
    {"stats", show_stats},
};

static const size_t command_count = sizeof commands / sizeof *commands;

/* Returns the index of the command NAME, or the number of commands.  */
static size_t command(const char *name)
{
    size_t i = 0;
    while (i < command_count && strcmp(commands[i].name, name) != 0)
        i++;
    return i;
}

/* Is WORD a command of this program, also without "offload"?  guix-daemon asks for none of these names.  */
static int is_own(const char *word)
{
    return command(word) < command_count || is_help(word) || is_version(word);
}

int main(int argc, char **argv)
{
    if (guix_offload_abi_version() != GUIX_OFFLOAD_ABI_VERSION) {
        fprintf(stderr, "guix-offload: libguix_offload has ABI %u, not %u\n",
                (unsigned) guix_offload_abi_version(), (unsigned) GUIX_OFFLOAD_ABI_VERSION);
        return 1;
    }
    if (argc < 2)
        return help(stderr);
    if (strcmp(argv[1], "offload") == 0)
        argc--, argv++;
    else if (!is_own(argv[1]))
        return hand_on(argv);
    if (argc > 1 && command(argv[1]) < command_count)
        return commands[command(argv[1])].run(argc - 2, argv + 2);
    if (argc == 2 && is_help(argv[1]))
        return help(stdout);
    if (argc == 2 && is_version(argv[1]))
        return version();
    return argc == 5 ? serve(argv) : usage();
}
