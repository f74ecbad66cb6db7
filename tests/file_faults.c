/* A library to be preloaded: of the calls that a program makes to the functions below, number
   FAULT_AT fails, with the error that it would have on a full or broken disk; what it was, and on
   which file, goes to the file FAULT_REPORT, or else how many calls there were. The clock stands, so
   that what a file has of it is the same in every run. Not a test by itself: see
   test_file_faults.sh. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64 };
static struct {
    const void *file;
    int descriptor;
    char path[512];
} known[MOST];
static long calls;
static int reported;

static void report(const char *name, const char *path, long n)
{
    const char *to = getenv("FAULT_REPORT");
    char line[700];
    static int (*real_open)(const char *, int, ...);
    int f;
    if (!to || reported) return;
    reported = 1;
    *(void **)&real_open = dlsym(RTLD_NEXT, "open");
    f = real_open(to, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    n = snprintf(line, sizeof line, "%ld %s %s\n", n, name, path);
    if (write(f, line, (size_t)n) != n) _exit(99);
    /* not closed: close is one of ours */
}

__attribute__((destructor)) static void count(void) { report("calls", "-", calls); }

static int fails(const char *name, const char *path, int error)
{
    static long at = -1;
    if (at < 0) at = getenv("FAULT_AT") ? atol(getenv("FAULT_AT")) : 0;
    if (++calls != at) return 0;
    report(name, path, calls);
    errno = error;
    return 1;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    (void)clock;
    t->tv_sec = 1000;
    t->tv_nsec = 0;
    return 0;
}

static const char *path_of(const void *file, int descriptor)
{
    int i;
    if (file == stdout) return "standard output";
    if (file == stderr) return "standard error";
    for (i = 0; i < MOST; i++)
        if (file ? known[i].file == file : known[i].path[0] && known[i].descriptor == descriptor)
            return known[i].path;
    return "unknown";
}

static void learn(const void *file, int descriptor, const char *path)
{
    int i = 0;
    while (i < MOST - 1 && known[i].path[0] &&
           (file ? known[i].file != file : known[i].descriptor != descriptor)) i++;
    known[i].file = file;
    known[i].descriptor = file ? -1 : descriptor;
    snprintf(known[i].path, sizeof known[i].path, "%s", path);
}

#define REAL(type, name, parameters) \
    static type(*real) parameters;   \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

FILE *fopen(const char *path, const char *mode)
{
    FILE *f;
    REAL(FILE *, "fopen", (const char *, const char *));
    if (fails("fopen", path, *mode == 'r' ? EMFILE : ENOSPC)) return NULL;
    f = real(path, mode);
    if (f) learn(f, -1, path);
    return f;
}
size_t fread(void *to, size_t size, size_t n, FILE *f)
{
    REAL(size_t, "fread", (void *, size_t, size_t, FILE *));
    if (fails("fread", path_of(f, -1), EIO)) return real(to, size, n / 2, f);
    return real(to, size, n, f);
}
size_t fwrite(const void *from, size_t size, size_t n, FILE *f)
{
    REAL(size_t, "fwrite", (const void *, size_t, size_t, FILE *));
    if (f != stderr && fails("fwrite", path_of(f, -1), ENOSPC)) {
        n = real(from, size, n / 2, f);
        errno = ENOSPC;
        return n;
    }
    return real(from, size, n, f);
}
int fflush(FILE *f)
{
    REAL(int, "fflush", (FILE *));
    if (f != stdout && fails("fflush", path_of(f, -1), ENOSPC)) return EOF;
    return real(f);
}
int fclose(FILE *f)
{
    int fail;
    REAL(int, "fclose", (FILE *));
    fail = fails("fclose", path_of(f, -1), ENOSPC);
    if (real(f) || !fail) return fail ? EOF : 0;
    errno = ENOSPC;
    return EOF;
}
int fseek(FILE *f, long offset, int whence)
{
    REAL(int, "fseek", (FILE *, long, int));
    return fails("fseek", path_of(f, -1), EIO) ? -1 : real(f, offset, whence);
}
long ftell(FILE *f)
{
    REAL(long, "ftell", (FILE *));
    return fails("ftell", path_of(f, -1), EIO) ? -1 : real(f);
}
int rename(const char *from, const char *to)
{
    REAL(int, "rename", (const char *, const char *));
    return fails("rename", to, EIO) ? -1 : real(from, to);
}
int remove(const char *path)
{
    REAL(int, "remove", (const char *));
    return fails("remove", path, EIO) ? -1 : real(path);
}
int open(const char *path, int flags, ...)
{
    va_list a;
    mode_t mode;
    int f;
    REAL(int, "open", (const char *, int, ...));
    va_start(a, flags);
    mode = flags & O_CREAT ? (mode_t)va_arg(a, unsigned) : 0;
    va_end(a);
    if (fails("open", path, ENOSPC)) return -1;
    f = real(path, flags, mode);
    if (f >= 0) learn(NULL, f, path);
    return f;
}
int close(int f)
{
    int fail;
    REAL(int, "close", (int));
    fail = fails("close", path_of(NULL, f), EIO);
    real(f);
    if (fail) errno = EIO;
    return fail ? -1 : 0;
}
int flock(int f, int how)
{
    REAL(int, "flock", (int, int));
    return fails("flock", path_of(NULL, f), ENOLCK) ? -1 : real(f, how);
}
int stat(const char *path, struct stat *s)
{
    REAL(int, "stat", (const char *, struct stat *));
    return fails("stat", path, EIO) ? -1 : real(path, s);
}
int fstat(int f, struct stat *s)
{
    REAL(int, "fstat", (int, struct stat *));
    return fails("fstat", path_of(NULL, f), EIO) ? -1 : real(f, s);
}
ssize_t readlink(const char *path, char *to, size_t size)
{
    REAL(ssize_t, "readlink", (const char *, char *, size_t));
    return fails("readlink", path, EIO) ? -1 : real(path, to, size);
}
int access(const char *path, int how)
{
    REAL(int, "access", (const char *, int));
    return fails("access", path, EACCES) ? -1 : real(path, how);
}
int chmod(const char *path, mode_t mode)
{
    REAL(int, "chmod", (const char *, mode_t));
    return fails("chmod", path, EPERM) ? -1 : real(path, mode);
}
int chown(const char *path, uid_t user, gid_t group)
{
    REAL(int, "chown", (const char *, uid_t, gid_t));
    return fails("chown", path, EPERM) ? -1 : real(path, user, group);
}
