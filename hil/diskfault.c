/* LD_PRELOAD shim: a disk that is slow, stalled, full or failing, for every path below a prefix.
 *
 * Environment: DISKFAULT_PREFIX (absolute path), DISKFAULT_CONTROL (a small file, read again before each call):
 *   ok                nothing happens
 *   delay SECONDS     fsync and fdatasync take that much longer
 *   stall             writes and syncs wait until the file says something else
 *   full              writes and growing truncates fail with ENOSPC
 *   error             writes and syncs fail with EIO
 *   readonly          writes, syncs, truncates, removals and opening for writing fail with EROFS
 * Files elsewhere (staging on a tmpfs, sockets) are not touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *prefix, *control;
static size_t prefix_length;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_truncate)(int, off64_t);
static int (*real_fallocate)(int, off64_t, off64_t);
static int (*real_fsync)(int), (*real_fdatasync)(int);
static int (*real_open)(const char *, int, ...);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void start(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_truncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fallocate = dlsym(RTLD_NEXT, "posix_fallocate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    prefix = getenv("DISKFAULT_PREFIX");
    control = getenv("DISKFAULT_CONTROL");
    prefix_length = prefix ? strlen(prefix) : 0;
}

static int below(const char *path) {
    return prefix_length && control && !strncmp(path, prefix, prefix_length)
        && (path[prefix_length] == '/' || path[prefix_length] == 0);
}

static int ours(int fd) {
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (!prefix_length || !control) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)prefix_length) return 0;
    path[length] = 0;
    return below(path);
}

static void mode(char *word, size_t size, double *seconds) {
    char text[64] = "ok";
    int fd = real_open(control, O_RDONLY | O_CLOEXEC);
    *seconds = 0;
    if (fd >= 0) {
        ssize_t length = read(fd, text, sizeof text - 1);
        text[length > 0 ? length : 0] = 0;
        close(fd);
    }
    text[strcspn(text, "\n")] = 0;
    char *space = strchr(text, ' ');
    if (space) {
        *space = 0;
        *seconds = atof(space + 1);
    }
    snprintf(word, size, "%s", text);
}

static void nap(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* 0 = go on, otherwise the errno to fail with */
static int fault(int fd, int sync) {
    int saved = errno, out = 0;
    if (ours(fd)) {
        char word[64];
        double seconds;
        mode(word, sizeof word, &seconds);
        while (!strcmp(word, "stall")) {
            nap(0.02);
            mode(word, sizeof word, &seconds);
        }
        if (sync && !strcmp(word, "delay")) nap(seconds);
        if (!sync && !strcmp(word, "full")) out = ENOSPC;
        if (!strcmp(word, "error")) out = EIO;
        if (!strcmp(word, "readonly")) out = EROFS;
    }
    errno = saved;
    return out;
}

#define GUARD(fd, sync) do { int bad = fault(fd, sync); if (bad) { errno = bad; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) { GUARD(fd, 0); return real_write(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { GUARD(fd, 0); return real_writev(fd, parts, count); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { GUARD(fd, 0); return real_pwrite(fd, data, size, at); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { int bad = fault(fd, 0); return bad ? bad : real_fallocate(fd, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }
int fsync(int fd) { GUARD(fd, 1); return real_fsync(fd); }
int fdatasync(int fd) { GUARD(fd, 1); return real_fdatasync(fd); }

/* Whether `path` lies on a disk that is read-only now; relative paths are seen from the working directory. */
static int locked(const char *path) {
    int saved = errno, out = 0;
    char whole[2 * PATH_MAX], here[PATH_MAX];
    if (path && path[0] != '/' && getcwd(here, sizeof here)) {
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    if (path && below(path)) {
        char word[64];
        double seconds;
        mode(word, sizeof word, &seconds);
        out = !strcmp(word, "readonly");
    }
    errno = saved;
    return out;
}

#define LOCKED(path) do { if (locked(path)) { errno = EROFS; return -1; } } while (0)

int open64(const char *path, int flags, ...) {
    mode_t bits = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        bits = va_arg(more, mode_t);
        va_end(more);
    }
    /* as the kernel: O_CREAT of a file that is there is no change */
    if ((flags & O_ACCMODE) != O_RDONLY || ((flags & O_CREAT) && access(path, F_OK))) LOCKED(path);
    return real_open(path, flags, bits);
}
int open(const char *path, int flags, ...) {
    mode_t bits = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        bits = va_arg(more, mode_t);
        va_end(more);
    }
    return open64(path, flags, bits);
}
int unlink(const char *path) { LOCKED(path); return real_unlink(path); }
int rename(const char *from, const char *to) { LOCKED(from); return real_rename(from, to); }

int ftruncate64(int fd, off64_t size) {
    struct stat64 now;
    if (fstat64(fd, &now) || size > now.st_size) GUARD(fd, 0);
    return real_truncate(fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
