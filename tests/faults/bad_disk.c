/* Preloaded into a process (LD_PRELOAD), lets its calls on files below the folder BAD_DISK_ROOT fail.
 *
 * While the file that BAD_DISK_FILE names exists, it says which: `run errno kinds first last`. Of the calls of
 * these kinds (r: read, w: write, s: sync, n: new, other or fewer names), counted from 0 since `run` has another
 * number, those from the first to the last fail with this errno, and do nothing. Kind p: writes write a part.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Whether this path is below the root. */
static int below(const char *path)
{
    const char *root = getenv("BAD_DISK_ROOT");
    size_t length = root ? strlen(root) : 0;
    return length && strncmp(path, root, length) == 0 && path[length] == '/';
}

/* Whether a call of this kind on this path fails; sets errno. */
static int fails(char kind, const char *path)
{
    static long run = -1, count;
    const char *name = getenv("BAD_DISK_FILE");
    long now = 0, first = 0, last = 0;
    int number = 0, failed = 0, before = errno;
    char kinds[8] = "", text[128] = "";

    if (!name || !below(path) || access(name, F_OK) != 0) {
        errno = before;
        return 0;
    }
    static ssize_t (*read_real)(int, void *, size_t);
    static int (*open_real)(const char *, int, ...);
    if (!read_real) {
        read_real = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
        open_real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    }
    int file = open_real(name, O_RDONLY | O_CLOEXEC);
    if (file != -1) {
        if (read_real(file, text, sizeof text - 1) < 0)
            text[0] = 0;
        close(file);
    }
    if (sscanf(text, "%ld %d %7s %ld %ld", &now, &number, kinds, &first, &last) == 5 && strchr(kinds, kind)) {
        pthread_mutex_lock(&lock);
        if (now != run) {
            run = now;
            count = 0;
        }
        failed = count >= first && count <= last;
        count++;
        pthread_mutex_unlock(&lock);
    }
    errno = failed ? number : before;
    return failed;
}

/* The same for a descriptor. */
static int fails_at(char kind, int descriptor)
{
    char link[64], path[PATH_MAX];
    int before = errno;

    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = before;
    if (length <= 0)
        return 0;
    path[length] = 0;
    return fails(kind, path);
}

/* How many of so many bytes are written: a disk that is nearly full takes some. */
static size_t part(int descriptor, size_t length)
{
    int before = errno;
    size_t some = length > 1 && fails_at('p', descriptor) ? length / 2 : length;
    errno = before;
    return some;
}

#define CALL(result, function, bad, types, arguments) \
    result function types \
    { \
        static result(*real) types; \
        if (!real) real = (result(*) types)dlsym(RTLD_NEXT, #function); \
        if (bad) return -1; \
        return real arguments; \
    }
#define AT(kind) fails_at(kind, fd)

CALL(ssize_t, read, AT('r'), (int fd, void *to, size_t length), (fd, to, length))
CALL(ssize_t, pread, AT('r'), (int fd, void *to, size_t length, off_t at), (fd, to, length, at))
CALL(ssize_t, pread64, AT('r'), (int fd, void *to, size_t length, off64_t at), (fd, to, length, at))
CALL(ssize_t, write, AT('w'), (int fd, const void *from, size_t length), (fd, from, part(fd, length)))
CALL(ssize_t, writev, AT('w'), (int fd, const struct iovec *parts, int count), (fd, parts, count))
CALL(ssize_t, pwrite, AT('w'), (int fd, const void *from, size_t length, off_t at), (fd, from, length, at))
CALL(ssize_t, pwrite64, AT('w'), (int fd, const void *from, size_t length, off64_t at), (fd, from, length, at))
CALL(int, fsync, AT('s'), (int fd), (fd))
CALL(int, fdatasync, AT('s'), (int fd), (fd))
CALL(int, rename, fails('n', after), (const char *before, const char *after), (before, after))
CALL(int, link, fails('n', after), (const char *before, const char *after), (before, after))
CALL(int, mkdir, fails('n', path), (const char *path, mode_t mode), (path, mode))
CALL(int, unlink, fails('n', path), (const char *path), (path))

#define OPEN(function, types, arguments) \
    int function types \
    { \
        static int(*real) types; \
        mode_t mode = 0; \
        if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #function); \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
            if (fails('n', path)) return -1; \
        } \
        return real arguments; \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
