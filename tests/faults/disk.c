/* A disk that can be watched and that fails on command, for programs started with LD_PRELOAD.
 *
 * Everything that the program writes below the directory TT_DISK goes into the log TT_DISK_LOG, in the
 * order in which it happened: what is written, cut off, created, removed and renamed, and what is synced.
 * From that log a test makes the disk of any moment, with or without what no sync had completed.
 *
 *   "W name offset length\n" and the bytes    written
 *   "T name length\n"                         cut or stretched to that length
 *   "C name\n", "U name\n", "R name name\n"   created, removed, renamed
 *   "S name\n"                                synced: what was written to it before is on disk
 *   "F name\n"                                a sync failed: what was written to it and not synced may never
 *                                             get there, also if a later sync succeeds
 *   "D\n"                                     the directory synced: its names are on disk
 *
 * While a file "sync-fails" exists in the directory TT_DISK_FAULTS, syncs fail with EIO; "sync-fails-once"
 * is removed by the first that fails for it; while "full" exists
 * there, writes fail with ENOSPC; while "sync-kills" exists there, the next sync is a kill -9 of the process
 * instead. With TT_DISK_LAZY set, syncs succeed and do nothing, as if the program left
 * them out. One lock makes an operation and its line in the log one step.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_FILES 4096
#define NAME 256

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char disk[4096];
static size_t disk_length;
static char faults[4096];
static int lazy;
static int log_fd = -1;
/* By descriptor: the file's name below the directory, "." for the directory itself. */
static char *names[MOST_FILES];

static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void begin(void) {
    real_openat = dlsym(RTLD_NEXT, "openat");
    real_close = dlsym(RTLD_NEXT, "close");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    lazy = getenv("TT_DISK_LAZY") != NULL;
    const char *directory = getenv("TT_DISK");
    const char *log = getenv("TT_DISK_LOG");
    if (getenv("TT_DISK_FAULTS"))
        snprintf(faults, sizeof faults, "%s", getenv("TT_DISK_FAULTS"));
    if (!directory)
        return;
    snprintf(disk, sizeof disk, "%s", directory);
    disk_length = strlen(disk);
    if (log)
        log_fd = real_openat(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void *bytes, size_t length) {
    const char *at = bytes;
    while (length > 0) {
        ssize_t put = real_write(log_fd, at, length);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            abort(); /* a log with a hole would prove nothing */
        at += put;
        length -= put;
    }
}

static void say(const char *format, ...) {
    if (log_fd < 0)
        return;
    char line[2 * NAME + 64];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    put(line, length);
}

static int fault(const char *name) {
    char path[4200];
    if (!faults[0])
        return 0;
    snprintf(path, sizeof path, "%s/%s", faults, name);
    return access(path, F_OK) == 0;
}

/* The same for a fault that ends with its first use. */
static int once(const char *name) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", faults, name);
    return faults[0] && real_unlink(path) == 0;
}

/* The name of a path below the directory; NULL for others. */
static const char *below(const char *path) {
    if (!disk_length || strncmp(path, disk, disk_length))
        return NULL;
    if (path[disk_length] == '\0')
        return ".";
    if (path[disk_length] != '/' || strlen(path + disk_length) > NAME)
        return NULL;
    return path + disk_length + 1;
}

static const char *name_of(int fd) { return fd >= 0 && fd < MOST_FILES ? names[fd] : NULL; }

static int opened(int at, const char *path, int flags, mode_t mode) {
    const char *name = at == AT_FDCWD || path[0] == '/' ? below(path) : NULL;
    if (!name)
        return real_openat(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    int fd = is_new && fault("full") ? (errno = ENOSPC, -1) : real_openat(at, path, flags, mode);
    int error = errno;
    if (fd >= 0 && fd < MOST_FILES) {
        free(names[fd]);
        names[fd] = strdup(name);
        if (is_new)
            say("C %s\n", name);
        else if (flags & O_TRUNC)
            say("T %s 0\n", name);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

static mode_t mode_of(int flags, va_list list) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; }

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode_t mode = mode_of(flags, list);                                                                            \
        va_end(list);                                                                                                  \
        return opened(AT_FDCWD, path, flags, mode);                                                                    \
    }
#define OPENAT(name)                                                                                                   \
    int name(int at, const char *path, int flags, ...) {                                                               \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode_t mode = mode_of(flags, list);                                                                            \
        va_end(list);                                                                                                  \
        return opened(at, path, flags, mode);                                                                          \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (!name_of(fd))
        return real_close(fd);
    pthread_mutex_lock(&lock);
    free(names[fd]);
    names[fd] = NULL;
    int result = real_close(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

static ssize_t wrote(int fd, const void *bytes, size_t length, off_t offset, int at_cursor) {
    pthread_mutex_lock(&lock);
    ssize_t result;
    int error;
    if (fault("full")) {
        result = -1;
        error = ENOSPC;
    } else {
        if (at_cursor && fcntl(fd, F_GETFL) & O_APPEND)
            offset = lseek(fd, 0, SEEK_END);
        else if (at_cursor)
            offset = lseek(fd, 0, SEEK_CUR);
        result = at_cursor ? real_write(fd, bytes, length) : real_pwrite(fd, bytes, length, offset);
        error = errno;
        if (result > 0 && log_fd >= 0) {
            say("W %s %lld %zd\n", names[fd], (long long)offset, result);
            put(bytes, result);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    return name_of(fd) ? wrote(fd, bytes, length, 0, 1) : real_write(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return name_of(fd) ? wrote(fd, bytes, length, offset, 0) : real_pwrite(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) { return pwrite(fd, bytes, length, offset); }

int ftruncate(int fd, off_t length) {
    if (!name_of(fd))
        return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(fd, length);
    int error = errno;
    if (result == 0)
        say("T %s %lld\n", names[fd], (long long)length);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int synced(int fd, int (*sync)(int)) {
    const char *name = name_of(fd);
    if (!name)
        return sync(fd);
    if (lazy)
        return 0;
    pthread_mutex_lock(&lock);
    int result, error;
    if (fault("sync-kills"))
        raise(SIGKILL);
    if (fault("sync-fails") || once("sync-fails-once")) {
        result = -1;
        error = EIO;
        say("F %s\n", name);
    } else {
        result = sync(fd);
        error = errno;
        if (result == 0 && !strcmp(name, "."))
            say("D\n");
        else if (result == 0)
            say("S %s\n", name);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int unlink(const char *path) {
    const char *name = below(path);
    if (!name)
        return real_unlink(path);
    pthread_mutex_lock(&lock);
    int result = real_unlink(path);
    int error = errno;
    if (result == 0)
        say("U %s\n", name);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    const char *old = below(from), *new = below(to);
    if (!old || !new)
        return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int result = real_rename(from, to);
    int error = errno;
    if (result == 0)
        say("R %s %s\n", old, new);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
