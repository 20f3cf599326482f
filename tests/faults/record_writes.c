/* Preloaded into a process (LD_PRELOAD), records what it does to files below the folder RECORD_ROOT.
 *
 * The file that RECORD_FILE names gets one record a call, which bench/power.py reads: a head of 40 bytes, then
 * bytes. A write is recorded after it was done, before its caller knows; a sync is recorded before and after.
 * So a write whose record stands before the begin of a sync that has ended is on the disk, whatever happens then.
 *
 * Not seen: mapped memory (SQLite's -shm, which is made anew), and the C library's own files (fopen).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, SYNC_BEGIN, SYNC_END, NAME, RENAME, UNLINK, FOLDER_BEGIN, FOLDER_END, EXTEND, FOLDER };

struct head {
    uint64_t time, inode, offset, number;
    uint32_t kind, length;
};

static int record_to = -1;
static char root[PATH_MAX];

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static void begin(void)
{
    const char *name = getenv("RECORD_FILE"), *folder = getenv("RECORD_ROOT");

    if (record_to != -1 || !name || !folder || !realpath(folder, root))
        return;
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    record_to = real(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (record_to != -1) {
        int high = fcntl(record_to, F_DUPFD_CLOEXEC, 500); /* out of the way of those who count descriptors */
        if (high != -1) {
            close(record_to);
            record_to = high;
        }
    }
}

__attribute__((constructor)) static void start(void) { begin(); }

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static void record(uint32_t kind, uint64_t inode, uint64_t offset, uint64_t number, const void *bytes, size_t length)
{
    struct head head = {now(), inode, offset, number, kind, (uint32_t)length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)bytes, length}};
    static ssize_t (*real)(int, const struct iovec *, int);
    int before = errno;

    if (!real)
        real = (ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    if (record_to != -1 && real(record_to, parts, 2) != (ssize_t)(sizeof head + length)) {
        static const char text[] = "record_writes: a record could not be written\n";
        ssize_t ignored = write(2, text, sizeof text - 1);
        (void)ignored;
        abort();
    }
    errno = before;
}

/* Is this a path below the root? As an absolute path in `path`. */
static int below(const char *name, char path[PATH_MAX])
{
    if (record_to == -1)
        return 0;
    if (name[0] == '/')
        snprintf(path, PATH_MAX, "%s", name);
    else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here))
            return 0;
        if (name[0] == '.' && name[1] == '/')
            name += 2;
        if ((size_t)snprintf(path, PATH_MAX, "%s/%s", here, name) >= PATH_MAX)
            return 0;
    }
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && path[length] == '/';
}

/* The inode of a descriptor of a file or folder below the root; 0: it is none. */
static uint64_t inode_of(int descriptor, struct stat *found, char path[PATH_MAX])
{
    char link[64];
    int before = errno;
    uint64_t inode = 0;

    if (record_to == -1 || descriptor == record_to || fstat(descriptor, found) != 0)
        goto out;
    if (!S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode))
        goto out;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0)
        goto out;
    path[length] = 0;
    size_t own = strlen(root);
    if (strncmp(path, root, own) == 0 && (path[own] == '/' || path[own] == 0))
        inode = found->st_ino;
out:
    errno = before;
    return inode;
}

static uint64_t next_number(void)
{
    static uint64_t count;
    return (uint64_t)getpid() << 32 | (__atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) & 0xffffffffu);
}

/* --- names ---------------------------------------------------------------------------------------------- */

static int opened(int descriptor, int flags)
{
    struct stat found;
    char path[PATH_MAX];

    if (descriptor == -1)
        return descriptor;
    begin();
    if (!(flags & (O_CREAT | O_TRUNC)))
        return descriptor;
    uint64_t inode = inode_of(descriptor, &found, path);
    if (inode && S_ISREG(found.st_mode)) {
        if (flags & O_CREAT)
            record(NAME, inode, 0, 0, path, strlen(path));
        if (flags & O_TRUNC)
            record(TRUNCATE, inode, 0, 0, "", 0);
    }
    return descriptor;
}

#define MODE_OF(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, last); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...)
{
    REAL(int, open, const char *, int, ...);
    MODE_OF(flags, flags)
    return opened(real(name, flags, mode), flags);
}

int open64(const char *name, int flags, ...)
{
    REAL(int, open64, const char *, int, ...);
    MODE_OF(flags, flags)
    return opened(real(name, flags, mode), flags);
}

int openat(int folder, const char *name, int flags, ...)
{
    REAL(int, openat, int, const char *, int, ...);
    MODE_OF(flags, flags)
    return opened(real(folder, name, flags, mode), flags);
}

int openat64(int folder, const char *name, int flags, ...)
{
    REAL(int, openat64, int, const char *, int, ...);
    MODE_OF(flags, flags)
    return opened(real(folder, name, flags, mode), flags);
}

int creat(const char *name, mode_t mode) { return open(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return open(name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static void renamed(const char *before, const char *after)
{
    char both[2 * PATH_MAX], to[PATH_MAX];
    char from[PATH_MAX];

    if (below(before, from) && below(after, to)) {
        size_t length = strlen(from);
        memcpy(both, from, length + 1);
        memcpy(both + length + 1, to, strlen(to));
        record(RENAME, 0, 0, 0, both, length + 1 + strlen(to));
    }
}

int rename(const char *before, const char *after)
{
    REAL(int, rename, const char *, const char *);
    int done = real(before, after);
    if (done == 0)
        renamed(before, after);
    return done;
}

/* A name below the root is new (its inode), or gone (0). */
static void named(uint32_t kind, const char *name)
{
    char path[PATH_MAX];
    struct stat found;
    int before = errno;

    if (below(name, path))
        record(kind, kind != UNLINK && lstat(path, &found) == 0 ? found.st_ino : 0, 0, 0, path, strlen(path));
    errno = before;
}

#define NAMES(function, kind, name, types, arguments) \
    int function types \
    { \
        static int(*real) types; \
        if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #function); \
        int done = real arguments; \
        if (done == 0) named(kind, name); \
        return done; \
    }

NAMES(link, NAME, after, (const char *before, const char *after), (before, after))
NAMES(mkdir, FOLDER, name, (const char *name, mode_t mode), (name, mode))
NAMES(unlink, UNLINK, name, (const char *name), (name))
NAMES(rmdir, UNLINK, name, (const char *name), (name))

/* --- contents ------------------------------------------------------------------------------------------- */

static uint64_t sync_begin(int descriptor, uint64_t *inode, uint32_t *end)
{
    struct stat found;
    char path[PATH_MAX];
    uint64_t number = next_number();

    *inode = inode_of(descriptor, &found, path);
    if (!*inode)
        return 0;
    int folder = S_ISDIR(found.st_mode);
    *end = folder ? FOLDER_END : SYNC_END;
    record(folder ? FOLDER_BEGIN : SYNC_BEGIN, *inode, 0, number, path, strlen(path));
    return number;
}

static void written(int descriptor, const struct iovec *parts, int count, ssize_t done, int64_t offset)
{
    struct stat found;
    char path[PATH_MAX];

    if (done <= 0 || record_to == -1)
        return;
    uint64_t inode = inode_of(descriptor, &found, path);
    if (!inode)
        return;
    if (offset < 0)
        offset = lseek(descriptor, 0, SEEK_CUR) - done;
    for (int each = 0; each < count && done > 0; each++) {
        size_t length = parts[each].iov_len < (size_t)done ? parts[each].iov_len : (size_t)done;
        record(WRITE, inode, (uint64_t)offset, 0, parts[each].iov_base, length);
        offset += (int64_t)length;
        done -= (ssize_t)length;
    }
    if (fcntl(descriptor, F_GETFL) & (O_DSYNC | O_SYNC)) {
        uint64_t number = next_number();
        record(SYNC_BEGIN, inode, 0, number, path, strlen(path));
        record(SYNC_END, inode, 0, number, "", 0);
    }
}

ssize_t write(int descriptor, const void *bytes, size_t length)
{
    REAL(ssize_t, write, int, const void *, size_t);
    ssize_t done = real(descriptor, bytes, length);
    if (done > 0 && record_to != -1 && descriptor != record_to) {
        struct iovec part = {(void *)bytes, length};
        written(descriptor, &part, 1, done, -1);
    }
    return done;
}

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset)
{
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    ssize_t done = real(descriptor, bytes, length, offset);
    struct iovec part = {(void *)bytes, length};
    written(descriptor, &part, 1, done, offset);
    return done;
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t offset)
{
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    ssize_t done = real(descriptor, bytes, length, offset);
    struct iovec part = {(void *)bytes, length};
    written(descriptor, &part, 1, done, offset);
    return done;
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    ssize_t done = real(descriptor, parts, count);
    if (descriptor != record_to)
        written(descriptor, parts, count, done, -1);
    return done;
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset)
{
    REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
    ssize_t done = real(descriptor, parts, count, offset);
    written(descriptor, parts, count, done, offset);
    return done;
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset)
{
    REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t);
    ssize_t done = real(descriptor, parts, count, offset);
    written(descriptor, parts, count, done, offset);
    return done;
}

static void resized(int descriptor, uint32_t kind, uint64_t size)
{
    struct stat found;
    char path[PATH_MAX];
    uint64_t inode = inode_of(descriptor, &found, path);
    if (inode)
        record(kind, inode, size, 0, "", 0);
}

int ftruncate(int descriptor, off_t size)
{
    REAL(int, ftruncate, int, off_t);
    int done = real(descriptor, size);
    if (done == 0)
        resized(descriptor, TRUNCATE, (uint64_t)size);
    return done;
}

int ftruncate64(int descriptor, off64_t size)
{
    REAL(int, ftruncate64, int, off64_t);
    int done = real(descriptor, size);
    if (done == 0)
        resized(descriptor, TRUNCATE, (uint64_t)size);
    return done;
}

static void cut_off(const char *name, uint64_t size)
{
    char path[PATH_MAX];
    struct stat found;
    int before = errno;

    if (below(name, path) && stat(path, &found) == 0)
        record(TRUNCATE, found.st_ino, size, 0, "", 0);
    errno = before;
}

int truncate(const char *name, off_t size)
{
    REAL(int, truncate, const char *, off_t);
    int done = real(name, size);
    if (done == 0)
        cut_off(name, (uint64_t)size);
    return done;
}

int truncate64(const char *name, off64_t size)
{
    REAL(int, truncate64, const char *, off64_t);
    int done = real(name, size);
    if (done == 0)
        cut_off(name, (uint64_t)size);
    return done;
}

int posix_fallocate(int descriptor, off_t offset, off_t length)
{
    REAL(int, posix_fallocate, int, off_t, off_t);
    int done = real(descriptor, offset, length);
    if (done == 0)
        resized(descriptor, EXTEND, (uint64_t)(offset + length));
    return done;
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t length)
{
    REAL(int, posix_fallocate64, int, off64_t, off64_t);
    int done = real(descriptor, offset, length);
    if (done == 0)
        resized(descriptor, EXTEND, (uint64_t)(offset + length));
    return done;
}

int fallocate(int descriptor, int mode, off_t offset, off_t length)
{
    REAL(int, fallocate, int, int, off_t, off_t);
    int done = real(descriptor, mode, offset, length);
    if (done == 0 && mode == 0)
        resized(descriptor, EXTEND, (uint64_t)(offset + length));
    return done;
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length)
{
    REAL(int, fallocate64, int, int, off64_t, off64_t);
    int done = real(descriptor, mode, offset, length);
    if (done == 0 && mode == 0)
        resized(descriptor, EXTEND, (uint64_t)(offset + length));
    return done;
}

int fsync(int descriptor)
{
    uint64_t inode, number;
    uint32_t end = 0;
    REAL(int, fsync, int);
    number = sync_begin(descriptor, &inode, &end);
    int done = real(descriptor);
    if (done == 0 && number)
        record(end, inode, 0, number, "", 0);
    return done;
}

int fdatasync(int descriptor)
{
    uint64_t inode, number;
    uint32_t end = 0;
    REAL(int, fdatasync, int);
    number = sync_begin(descriptor, &inode, &end);
    int done = real(descriptor);
    if (done == 0 && number)
        record(end, inode, 0, number, "", 0);
    return done;
}
