/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the tests of the C ABI share: checks that end the program, and arguments that no function should accept.  */
#ifndef CHECK_H
#define CHECK_H

#include <guix-offload.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Fails the program unless `condition` holds.  */
#define CHECK(condition) \
    ((condition) ? (void) 0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), abort()))

/* Fails the program unless the two strings are equal, and says what they are.  */
#define CHECK_TEXT(actual, expected) check_text(__FILE__, __LINE__, actual, expected)

/* Calls a function, without its last argument, which must succeed and make no error.  */
#define SUCCEEDS(function, ...) \
    do { \
        guix_offload_error *error_ = NULL; \
        check_success(__FILE__, __LINE__, function(__VA_ARGS__, &error_), error_); \
    } while (0)

/* Calls a function, without its last argument, which must fail with `status`: once where it may explain, once not.  */
#define FAILS(status, function, ...) \
    do { \
        guix_offload_error *error_ = NULL; \
        guix_offload_status status_ = function(__VA_ARGS__, &error_); \
        check_failure(__FILE__, __LINE__, status_, status, error_); \
        guix_offload_error_free(error_); \
        CHECK(function(__VA_ARGS__, NULL) == (status)); \
    } while (0)

/* As FAILS, for an argument that is wrong.  */
#define REJECTS(function, ...) FAILS(GUIX_OFFLOAD_INVALID_ARGUMENT, function, __VA_ARGS__)

#define RUN(test) (test(), printf("%s\n", #test))

/* What an output holds before the call: a failure must leave it.  */
#define UNTOUCHED ((void *) (uintptr_t) 0x5a5a)

/* Strings that no function takes.  */
#define NOT_UTF8 "caf\xe9"
static const char *too_long(void);

/* A host key that is well-formed, and nobody's.  */
#define HOST_KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI"

#define ITEM(name) "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-" name

static inline void check_text(const char *file, int line, const char *actual, const char *expected)
{
    if (actual == NULL || strcmp(actual, expected) != 0) {
        fprintf(stderr, "%s:%d: \"%s\" is not \"%s\"\n", file, line, actual == NULL ? "(null)" : actual, expected);
        abort();
    }
}

static inline void check_success(const char *file, int line, guix_offload_status status, guix_offload_error *error)
{
    if (status != GUIX_OFFLOAD_OK || error != NULL) {
        fprintf(stderr, "%s:%d: status %d: %s\n", file, line, (int) status,
                error == NULL ? "(no message)" : guix_offload_error_message(error));
        abort();
    }
}

static inline void check_failure(const char *file, int line, guix_offload_status status, guix_offload_status expected,
                                 const guix_offload_error *error)
{
    const char *message = error == NULL ? NULL : guix_offload_error_message(error);
    if (status != expected || message == NULL || *message == '\0'
        || guix_offload_error_code(error) != (int32_t) status) {
        fprintf(stderr, "%s:%d: status %d instead of %d: %s\n", file, line, (int) status, (int) expected,
                message == NULL ? "(no message)" : message);
        abort();
    }
}

/* A string of more than 1 MiB.  */
static inline const char *too_long(void)
{
    static char text[(1 << 20) + 2];
    memset(text, 'x', sizeof text - 1);
    text[0] = '/';
    return text;
}

static inline double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static inline void pause_ms(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Writes a file of that text and mode.  */
static inline void write_file(const char *name, const char *text, int mode)
{
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    CHECK(file >= 0 && write(file, text, strlen(text)) == (ssize_t) strlen(text) && close(file) == 0);
}

#endif /* CHECK_H */
