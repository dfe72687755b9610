/* LD_PRELOAD: writes down, in one order, what a process asks of the files below RECORD_DIR and what it sends on sockets.
 *
 * One record: op (1 byte), length of path (u32), path, offset (u64), length of data (u32), data.
 *   W write at offset   T truncate to offset   S synced   U unlink   R rename (data: the new path)   M sent on a socket
 * Calls are recorded when they have returned, under one lock: a record stands before another only if its call had
 * returned before the other's did. The -shm of SQLite is mapped memory and needs no record: it is rebuilt.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static int out = -1;
static const char *dir;
static size_t dir_len;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_send)(int, const void *, size_t, int);
static int (*real_ftruncate)(int, off_t), (*real_fsync)(int), (*real_fdatasync)(int);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_send = dlsym(RTLD_NEXT, "send");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    const char *log = getenv("RECORD_LOG");
    dir = getenv("RECORD_DIR");
    if (dir && log) {
        dir_len = strlen(dir);
        out = open(log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    }
}

static int named(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    if (n <= 0) return 0;
    path[n] = 0;
    if (n == (ssize_t)dir_len - 1) return !strncmp(path, dir, n);   /* the folder itself, which is synced */
    return !strncmp(path, dir, dir_len);
}

static void put(char op, const char *path, uint64_t at, const void *data, uint32_t len) {
    char head[4200];
    uint32_t path_len = strlen(path);
    size_t k = 0;
    head[k++] = op;
    memcpy(head + k, &path_len, 4); k += 4;
    memcpy(head + k, path, path_len); k += path_len;
    memcpy(head + k, &at, 8); k += 8;
    memcpy(head + k, &len, 4); k += 4;
    pthread_mutex_lock(&lock);
    if (real_write(out, head, k) != (ssize_t)k || (len && real_write(out, data, len) != (ssize_t)len)) abort();
    pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) {
    char path[4096];
    ssize_t done = real_pwrite(fd, data, len, at);
    if (done > 0 && out >= 0 && named(fd, path)) put('W', path, at, data, done);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }

ssize_t write(int fd, const void *data, size_t len) {
    char path[4096];
    ssize_t done = real_write(fd, data, len);
    if (done > 0 && out >= 0 && fd != out && named(fd, path)) {
        off_t end = lseek(fd, 0, SEEK_CUR);
        put('W', path, end >= done ? end - done : 0, data, done);
    }
    return done;
}

ssize_t send(int fd, const void *data, size_t len, int flags) {
    ssize_t done = real_send(fd, data, len, flags);
    char path[32];
    if (done > 0 && out >= 0) {
        snprintf(path, sizeof path, "%d", fd);
        put('M', path, 0, data, done);
    }
    return done;
}

int ftruncate64(int fd, off_t len) {
    char path[4096];
    int failed = real_ftruncate(fd, len);
    if (!failed && out >= 0 && named(fd, path)) put('T', path, len, 0, 0);
    return failed;
}
int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

static int synced(int fd, int failed) {
    char path[4096];
    if (!failed && out >= 0 && named(fd, path)) put('S', path, 0, 0, 0);
    return failed;
}
int fsync(int fd) { return synced(fd, real_fsync(fd)); }
int fdatasync(int fd) { return synced(fd, real_fdatasync(fd)); }

int unlink(const char *path) {
    int failed = real_unlink(path);
    if (!failed && out >= 0 && !strncmp(path, dir, dir_len)) put('U', path, 0, 0, 0);
    return failed;
}
int rename(const char *from, const char *to) {
    int failed = real_rename(from, to);
    if (!failed && out >= 0 && !strncmp(from, dir, dir_len)) put('R', from, 0, to, strlen(to));
    return failed;
}
