/* File operations that fail: below a directory, the n-th one kills the process, or the disk is full from then on. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, COUNT, KILL, FULL };
static int kind = NOTHING;
static long moment = 0, count = 0;
static char below[PATH_MAX] = "";

void fault_arm(const char *directory, int what, long when) {
    strncpy(below, directory, sizeof below - 1);
    kind = what, moment = when, count = 0;
}
long fault_count(void) { return count; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int inside(const char *path) {
    char full[PATH_MAX];
    if (kind == NOTHING || !path) return 0;
    if (path[0] != '/' && getcwd(full, sizeof full)) return !strncmp(full, below, strlen(below));
    return !strncmp(path, below, strlen(below));
}
static int inside_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (kind == NOTHING) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return inside(path);
}
static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}
/* Count an operation: 1 where it is to be done by half before the end, -1 where the disk is full. */
static int met(int here, int takes_room) {
    if (!here) return 0;
    long now = __sync_add_and_fetch(&count, 1);
    if (kind == KILL && now == moment) return 1;
    if (kind == FULL && now >= moment && takes_room) {
        errno = ENOSPC;
        return -1;
    }
    return 0;
}
#define SIMPLE(type, name, here, room, parameters, arguments) \
    type name parameters {                                    \
        int fate = met(here, room);                           \
        if (fate > 0) die();                                  \
        return fate < 0 ? -1 : REAL(name) arguments;          \
    }
#define WRITE(name, parameters, half, arguments)              \
    ssize_t name parameters {                                 \
        int fate = met(inside_fd(fd), 1);                     \
        if (fate > 0) {                                       \
            REAL(name) half;                                  \
            die();                                            \
        }                                                     \
        return fate < 0 ? -1 : REAL(name) arguments;          \
    }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size / 2), (fd, data, size))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size / 2, at), (fd, data, size, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size / 2, at), (fd, data, size, at))
WRITE(writev, (int fd, const struct iovec *parts, int size), (fd, parts, size / 2), (fd, parts, size))
WRITE(sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size < 4096 ? size / 2 : 4096), (fd, from, at, size))
WRITE(sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size < 4096 ? size / 2 : 4096), (fd, from, at, size))
SIMPLE(int, rename, inside(to), 0, (const char *from, const char *to), (from, to))
SIMPLE(int, link, inside(to), 1, (const char *from, const char *to), (from, to))
SIMPLE(int, unlink, inside(path), 0, (const char *path), (path))
SIMPLE(int, unlinkat, kind != NOTHING && (path[0] == '/' ? inside(path) : inside_fd(at)), 0, (int at, const char *path, int flags), (at, path, flags))
SIMPLE(int, rmdir, inside(path), 0, (const char *path), (path))
SIMPLE(int, mkdir, inside(path), 1, (const char *path, mode_t mode), (path, mode))
SIMPLE(int, fsync, inside_fd(fd), 0, (int fd), (fd))
SIMPLE(int, ftruncate, inside_fd(fd), 0, (int fd, off_t size), (fd, size))
SIMPLE(int, ftruncate64, inside_fd(fd), 0, (int fd, off64_t size), (fd, size))

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    int fate = met(inside_fd(fd), 1);
    if (fate > 0) die();
    return fate < 0 ? ENOSPC : REAL(posix_fallocate64)(fd, at, size);
}
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }

#define OPEN(name, parameters, here, arguments)                          \
    int name parameters {                                                \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                    \
        int fate = met(flags & (O_CREAT | O_TRUNC) && (here), !!(flags & O_CREAT)); \
        if (fate > 0) {                                                  \
            REAL(name) arguments;                                        \
            die();                                                       \
        }                                                                \
        return fate < 0 ? -1 : REAL(name) arguments;                     \
    }
OPEN(open, (const char *path, int flags, ...), inside(path), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), inside(path), (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), inside(path), (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), inside(path), (at, path, flags, mode))

#define STREAM(name)                                                     \
    FILE *name(const char *path, const char *mode) {                     \
        int fate = met(mode[0] != 'r' && inside(path), 1);               \
        if (fate > 0) {                                                  \
            REAL(name)(path, mode);                                      \
            die();                                                       \
        }                                                                \
        return fate < 0 ? NULL : REAL(name)(path, mode);                 \
    }
STREAM(fopen)
STREAM(fopen64)
size_t fwrite(const void *data, size_t size, size_t many, FILE *file) {
    int fate = kind == NOTHING ? 0 : met(inside_fd(fileno(file)), 1);
    if (fate > 0) {
        REAL(fwrite)(data, size, many / 2, file);
        fflush(file);
        die();
    }
    return fate < 0 ? 0 : REAL(fwrite)(data, size, many, file);
}
