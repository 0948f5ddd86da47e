/* Preloaded into a process, stands for /dev/kmsg: opening it connects to the SOCK_SEQPACKET socket KMSG_STAND_IN.
 *
 * One packet is one record, as one read of the device is. A packet "EPIPE" is the answer of a ring that has overwritten
 * what this reader has not read yet, "EINVAL" that of a record that is too long. See Linux's ABI/testing/dev-kmsg.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int stand_in = -1;

static int connected(void) {
    const char *path = getenv("KMSG_STAND_IN");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof address.sun_path) { errno = ENOENT; return -1; }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) { close(fd); return -1; }
    return stand_in = fd;
}

static int opened(const char *symbol, const char *path, int flags, int mode) {
    if (!strcmp(path, "/dev/kmsg")) return connected();
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, symbol);
    return real(path, flags, mode);
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        int mode = 0;                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                      \
            va_list more;                                           \
            va_start(more, flags);                                  \
            mode = va_arg(more, int);                               \
            va_end(more);                                           \
        }                                                           \
        return opened(#name, path, flags, mode);                    \
    }
OPEN(open)
OPEN(open64)

ssize_t read(int fd, void *into, size_t limit) {
    static ssize_t (*real)(int, void *, size_t);
    if (!real) real = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    ssize_t length = real(fd, into, limit);
    if (fd != stand_in || length < 5) return length;
    if (!memcmp(into, "EPIPE", 5)) { errno = EPIPE; return -1; }
    if (length >= 6 && !memcmp(into, "EINVAL", 6)) { errno = EINVAL; return -1; }
    return length;
}
