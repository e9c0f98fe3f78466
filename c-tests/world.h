/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A host without a build machine that works: what can be tested of the verbs, jobs and the hook with no Guix around.
   KEY_FILE is a private key, given on the compiler's command line.  */
#ifndef WORLD_H
#define WORLD_H

#include "check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

static const char *key_file = KEY_FILE;

/* What the one machine of a world does.  */
enum machine_kind {
    CLOSED, /* it refuses connections */
    SILENT, /* it takes them, and says nothing */
    FULL,   /* its build slot is taken, though not for long: whoever wants it waits */
    LOCKED  /* the private key for it is missing */
};

struct world {
    char directory[32];
    int port;                       /* a socket at the machine's port */
    int slot;                       /* its build slot, if that is taken, else -1 */
    guix_offload_engine *engine;
    guix_offload_machines *machines;
    guix_offload_request *request;  /* that the machine could do */
    guix_offload_request *other;    /* that no machine can do */
};

/* The number of entries in a directory of /proc.  */
static inline int count(const char *directory)
{
    int number = -3; /* ".", "..", and in /proc/self/fd the one that is read */
    DIR *dir = opendir(directory);
    CHECK(dir != NULL);
    while (readdir(dir) != NULL)
        number++;
    closedir(dir);
    return number;
}

#define DESCRIPTORS() count("/proc/self/fd")
#define THREADS() (count("/proc/self/task") + 1)

static inline void *do_nothing(void *data)
{
    return data;
}

/* How many threads there are before the first job.  ThreadSanitizer starts one of its own with the first other.  */
static inline int threads_before(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
    pause_ms(10);
    return THREADS();
}

/* Waits until that many threads are left; they are to end within a second, on a machine that is not overloaded.  */
static inline void await_threads(int number)
{
    double begun = now();
    while (THREADS() > number) {
        CHECK(now() - begun < 20);
        pause_ms(2);
    }
}

/* Takes the build slot of the machine at that port, of which it is known that builds take four seconds.  */
static inline int take_slot(const char *state, int port)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char directory[80], name[120];
    FILE *history;
    int slot;

    snprintf(directory, sizeof directory, "%s/offload", state);
    CHECK(mkdir(directory, 0700) == 0);
    snprintf(directory, sizeof directory, "%s/offload/127.0.0.1:%d", state, port);
    CHECK(mkdir(directory, 0700) == 0);
    snprintf(name, sizeof name, "%s/history", directory);
    history = fopen(name, "w");
    CHECK(history != NULL && fprintf(history, "took %ld 4000\n", (long) time(NULL)) > 0 && fclose(history) == 0);
    snprintf(name, sizeof name, "%s/0", directory);
    slot = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(slot >= 0 && fcntl(slot, F_OFD_SETLK, &whole) == 0);
    return slot;
}

static inline struct world new_world(enum machine_kind kind)
{
    struct world world = {.directory = "/tmp/world-XXXXXX", .slot = -1};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    guix_offload_machine *machine = NULL;
    char file[64];

    CHECK(mkdtemp(world.directory) != NULL);
    world.port = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(world.port, (struct sockaddr *) &address, sizeof address) == 0);
    CHECK(getsockname(world.port, (struct sockaddr *) &address, &length) == 0);
    CHECK(kind != SILENT || listen(world.port, 512) == 0);

    SUCCEEDS(guix_offload_engine_new, &world.engine);
    SUCCEEDS(guix_offload_engine_set_directory, world.engine, GUIX_OFFLOAD_STATE_DIRECTORY, world.directory);
    SUCCEEDS(guix_offload_engine_set_directory, world.engine, GUIX_OFFLOAD_CONFIGURATION_DIRECTORY, world.directory);
    snprintf(file, sizeof file, "%s/acl", world.directory);
    write_file(file, "(acl)", 0600);
    SUCCEEDS(guix_offload_machine_new, &machine, "127.0.0.1", "x86_64-linux", "u", HOST_KEY);
    SUCCEEDS(guix_offload_machine_set_port, machine, ntohs(address.sin_port));
    SUCCEEDS(guix_offload_machine_set_private_key, machine, kind == LOCKED ? "/nonexistent/key" : key_file);
    SUCCEEDS(guix_offload_machine_set_parallel_builds, machine, kind == FULL ? 1 : 300);
    if (kind == FULL)
        world.slot = take_slot(world.directory, ntohs(address.sin_port));
    SUCCEEDS(guix_offload_machines_new, &world.machines);
    SUCCEEDS(guix_offload_machines_add, world.machines, machine);
    guix_offload_machine_free(machine);
    SUCCEEDS(guix_offload_request_new, &world.request, "x86_64-linux", ITEM("x.drv"));
    SUCCEEDS(guix_offload_request_add_output, world.request, ITEM("x"));
    SUCCEEDS(guix_offload_request_new, &world.other, "mips64el-linux", ITEM("x.drv"));
    return world;
}

static inline const guix_offload_machine *machine_of(const struct world *world)
{
    return guix_offload_machines_get(world->machines, 0);
}

/* Frees what the library has given; the directory and the slot stay.  */
static inline void free_handles(struct world *world)
{
    guix_offload_request_free(world->other);
    guix_offload_request_free(world->request);
    guix_offload_machines_free(world->machines);
    guix_offload_engine_free(world->engine);
    world->other = world->request = NULL;
    world->machines = NULL;
    world->engine = NULL;
}

static inline void free_world(struct world *world)
{
    char command[64];
    free_handles(world);
    close(world->port);
    if (world->slot >= 0)
        close(world->slot);
    /* A job that was freed may write into it for a moment.  */
    snprintf(command, sizeof command, "rm -rf %s 2>/dev/null", world->directory);
    double begun = now();
    while (system(command) != 0) {
        CHECK(now() - begun < 20);
        pause_ms(10);
    }
}

#endif /* WORLD_H */
