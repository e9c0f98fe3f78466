/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One build, step by step: choose a machine, send it what it lacks, build, retrieve the outputs.

     verbs SYSTEM DERIVATION OUTPUT... <INPUTS

   INPUTS are the store items that the derivation needs, all of its closure, one a line.  The machines are those of
   /etc/guix/machines.scm.  Run it as the user that the store belongs to.

   Whoever retrieves an output holds the lock on it, so that no daemon makes the same one meanwhile.  A build hook need
   not care: guix-daemon holds the locks while its hook works.  This program takes them as the daemon does, with
   fcntl(F_SETLK) on OUTPUT.lock, and gives up where somebody else has one.  */

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <guix-offload.h>

/* Locks OUTPUT; -1 if somebody else has it, or there is no such place.  */
static int lock_output(const char *output)
{
    char file[PATH_MAX];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat status;
    int lock;

    if (snprintf(file, sizeof file, "%s.lock", output) >= (int) sizeof file)
        return -1;
    lock = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    /* A lock file that is not empty has been given up, and is gone by now: its holder was done a moment ago.  */
    if (lock < 0 || (fcntl(lock, F_SETLK, &whole) == 0 && fstat(lock, &status) == 0 && status.st_size == 0))
        return lock;
    close(lock);
    return -1;
}

static void unlock_output(const char *output, int lock)
{
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s.lock", output);
    if (unlink(file) != 0 || write(lock, "d", 1) != 1)
        perror(file);
    close(lock);
}

static int show_progress(void *what, uint64_t bytes, uint64_t total)
{
    fprintf(stderr, "\r%s: %llu of %llu bytes", (const char *) what, (unsigned long long) bytes,
            (unsigned long long) total);
    return 0; /* anything else would cancel */
}

static int print_log(void *file, const char *text, size_t length)
{
    return fwrite(text, 1, length, file) != length;
}

/* The four verbs.  */
static int offload(const guix_offload_engine *engine, const guix_offload_machines *machines,
                   const guix_offload_request *request, guix_offload_error **error)
{
    guix_offload_lease *lease = NULL;
    guix_offload_connection *machine;
    guix_offload_items *sent = NULL;
    int32_t reply;
    int status = guix_offload_choose(&lease, &reply, engine, machines, request, NULL, error);

    if (status != GUIX_OFFLOAD_OK)
        return status;
    if (reply != GUIX_OFFLOAD_ACCEPT) {
        fputs(reply == GUIX_OFFLOAD_DECLINE ? "no machine can do this\n" : "no machine is free\n", stderr);
        return 1;
    }
    machine = guix_offload_lease_connection(lease);
    fprintf(stderr, "building on %s\n", guix_offload_machine_name(guix_offload_connection_machine(machine)));
    status = guix_offload_send(machine, request, show_progress, "sent", &sent, error);
    for (size_t i = 0; guix_offload_items_get(sent, i) != NULL; i++)
        printf("sent %s\n", guix_offload_items_get(sent, i));
    guix_offload_items_free(sent);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_build(machine, request, -1, print_log, stderr, error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_retrieve(machine, request, show_progress, "retrieved", error);
    guix_offload_lease_free(lease); /* the build slot is free again */
    return status;
}

/* Builds what the arguments say, whose outputs are locked.  */
static int run(int argc, char **argv)
{
    guix_offload_engine *engine = NULL;
    guix_offload_machines *machines = NULL;
    guix_offload_request *request = NULL;
    guix_offload_error *error = NULL;
    char input[PATH_MAX];
    int status = guix_offload_engine_new(&engine, &error);

    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_machines_load(&machines, "/etc/guix/machines.scm", &error);
    if (status == GUIX_OFFLOAD_OK)
        status = guix_offload_request_new(&request, argv[1], argv[2], &error);
    for (int i = 3; status == GUIX_OFFLOAD_OK && i < argc; i++)
        status = guix_offload_request_add_output(request, argv[i], &error);
    while (status == GUIX_OFFLOAD_OK && fgets(input, sizeof input, stdin) != NULL) {
        input[strcspn(input, "\n")] = '\0';
        status = guix_offload_request_add_input(request, input, &error);
    }
    if (status == GUIX_OFFLOAD_OK)
        status = offload(engine, machines, request, &error);
    if (error != NULL)
        fprintf(stderr, "error: %s\n", guix_offload_error_message(error));
    if (guix_offload_error_hint(error) != NULL)
        fprintf(stderr, "hint: %s\n", guix_offload_error_hint(error));
    guix_offload_error_free(error);
    guix_offload_request_free(request);
    guix_offload_machines_free(machines);
    guix_offload_engine_free(engine);
    return status != GUIX_OFFLOAD_OK;
}

int main(int argc, char **argv)
{
    enum { MAX_OUTPUTS = 64 };
    int locks[MAX_OUTPUTS], locked = 0, status = 1;

    if (argc < 4 || argc - 3 > MAX_OUTPUTS) {
        fprintf(stderr, "Usage: %s SYSTEM DERIVATION OUTPUT... <INPUTS\n", argv[0]);
        return 1;
    }
    while (locked < argc - 3 && (locks[locked] = lock_output(argv[3 + locked])) >= 0)
        locked++;
    if (locked == argc - 3)
        status = run(argc, argv);
    else
        fprintf(stderr, "cannot lock %s\n", argv[3 + locked]);
    while (locked-- > 0)
        unlock_output(argv[3 + locked], locks[locked]);
    return status;
}
