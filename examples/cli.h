/* cli.h - what the command-line programs share: flags, models and data sets by name, errors and
 * the clock. C99 and POSIX. Include it first. Not part of the library.
 *
 * Exit status: 0 success, 1 something failed, 2 wrong usage. */
#ifndef CLI_H
#define CLI_H

#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700 /* POSIX of 2008, with realpath */
#endif

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../l2ladv.h"
#include "cifar.h"
#include "shards.h"

#define CLI_ARCHS "smallcnn|vgg16|wrn|resnet18"
#define CLI_DATASETS "embedded|mnist|fashion|cifar10|cifar100|restricted-imagenet"

static const char *cli_path = "";    /* the program as it was called */
static const char *cli_program = ""; /* its name */

/* ---- errors ---- */

/* Wrong usage. */
static inline void cli_fail(const char *format, ...)
{
    va_list a;
    fflush(stdout);
    fprintf(stderr, "%s: ", cli_program);
    va_start(a, format);
    vfprintf(stderr, format, a);
    va_end(a);
    fputc('\n', stderr);
    exit(2);
}

/* Something outside the library failed; errno says why. */
static inline void cli_die_errno(const char *what)
{
    int e = errno;
    fflush(stdout);
    fprintf(stderr, "%s: %s: %s\n", cli_program, what, strerror(e));
    exit(1);
}

/* The context holds an error. */
static inline void die(const l2l_context *c)
{
    fflush(stdout);
    fprintf(stderr, "%s: %s (%s)\n", cli_program, c ? l2l_error_text(c) : "no memory",
            l2l_status_name(c ? l2l_error(c) : L2L_ERROR_MEMORY));
    exit(1);
}

/* Is it this file, as a program named it, that could not be read or written? */
static inline bool cli_error_names(const l2l_context *c, const char *path)
{
    const char *text = l2l_error_text(c);
    size_t n = path ? strlen(path) : 0;
    return n && l2l_error(c) == L2L_ERROR_FILE && !strncmp(text, path, n) &&
           (text[n] == ':' || text[n] == ',');
}

/* The context holds an error that other results need not suffer from: it is told, once, and cleared.
 * The exit status that follows: 0 without an error. */
static inline int cli_complain(l2l_context *c)
{
    static char told[512];
    if (!l2l_error(c)) return 0;
    fflush(stdout);
    if (strcmp(told, l2l_error_text(c)))
        fprintf(stderr, "%s: %s (%s)\n", cli_program, l2l_error_text(c),
                l2l_status_name(l2l_error(c)));
    snprintf(told, sizeof told, "%s", l2l_error_text(c));
    l2l_error_clear(c);
    return 1;
}

static inline void *cli_allocate(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p) {
        errno = ENOMEM;
        cli_die_errno("memory");
    }
    return p;
}

/* The exit status of a program that came to its end: was everything printed? */
static inline int cli_end(void)
{
    bool bad = ferror(stdout) != 0;
    errno = 0;
    if (!fclose(stdout) && !bad) return 0;
    fprintf(stderr, "%s: standard output: %s\n", cli_program,
            errno ? strerror(errno) : "not all of it could be written");
    return 1;
}

/* Where a standard stream is closed, the next file that is opened would take its place, and what is
 * printed would go there: something that can be neither read nor written keeps the place. */
static inline void cli_keep_standard(void)
{
    int i;
    for (i = 0; i < 3; i++)
        if (fcntl(i, F_GETFD) < 0) (void)!open("/dev/null", i ? O_RDONLY : O_WRONLY);
}

/* A reader that is gone, a limit on the size of files: failed writes, not ends of the program with
 * all that it has. */
static inline void cli_survive_writes(void)
{
    signal(SIGPIPE, SIG_IGN);
#ifdef SIGXFSZ
    signal(SIGXFSZ, SIG_IGN);
#endif
}

/* The signal that came, of those that cli_catch waits for; 0: none. */
static volatile sig_atomic_t cli_stopped;
static inline void cli_stop(int number) { cli_stopped = number; }

/* The first such signal is for the program, which ends in good order; a second one ends it at once. */
static inline void cli_catch(int number)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = cli_stop;
    a.sa_flags = (int)SA_RESETHAND;
    sigaction(number, &a, NULL);
}

/* ---- flags: a table, one row for each, closed by a row of zeros ---- */

typedef enum {
    CLI_SWITCH,  /* bool: --name, or --no-name */
    CLI_EITHER,  /* int: 1 for --name, 0 for --no-name; what is there before says that none came */
    CLI_INTEGER, /* int */
    CLI_SEED,    /* uint64_t */
    CLI_NUMBER,  /* double: 0.3 or 8/255 */
    CLI_TEXT,    /* const char * */
    CLI_CHOICE   /* const char *, one of the names in `allowed` */
} cli_type;

typedef struct {
    const char *name; /* without the dashes */
    cli_type type;
    void *value;         /* what is there before parsing is the default */
    double low, high;    /* of an integer or a number */
    const char *allowed; /* names "sgd|adam" of a choice; else stands for the value in --help */
    const char *help;
} cli_flag;

/* Does a list "a|b|c" hold the first n characters of `word`? */
static inline bool cli_listed(const char *list, const char *word, size_t n)
{
    for (;; list++) {
        size_t length = strcspn(list, "|");
        if (length == n && !strncmp(list, word, n)) return true;
        list += length;
        if (!*list) return false;
    }
}

/* "0.3", "8/255". */
static inline bool cli_number(const char *text, double *value)
{
    char *end;
    double divisor = 1;
    *value = strtod(text, &end);
    if (end == text) return false;
    if (*end == '/') {
        text = end + 1;
        divisor = strtod(text, &end);
        if (end == text || !(divisor > 0)) return false;
    }
    *value /= divisor;
    return !*end && *value - *value == 0; /* no infinity, no NaN */
}

static inline bool cli_integer(const char *text, double low, double high, int *value)
{
    char *end;
    long v;
    errno = 0;
    v = strtol(text, &end, 10);
    if (end == text || *end || errno || (double)v < low || (double)v > high) return false;
    *value = (int)v;
    return true;
}

/* What a flag takes, in words. */
static inline const char *cli_allowed(const cli_flag *f, char *text, size_t size)
{
    switch (f->type) {
    case CLI_SWITCH:
    case CLI_EITHER: snprintf(text, size, "no value"); break;
    case CLI_INTEGER: snprintf(text, size, "an integer from %.0f to %.0f", f->low, f->high); break;
    case CLI_SEED: snprintf(text, size, "an integer from 0 to 2^64-1"); break;
    case CLI_NUMBER:
        snprintf(text, size, "a number from %g to %g%s", f->low, f->high,
                 f->high > 1 ? "" : ", such as 0.3 or 8/255");
        break;
    case CLI_TEXT: snprintf(text, size, "%s, not empty", f->allowed); break;
    case CLI_CHOICE: snprintf(text, size, "one of %s", f->allowed); break;
    }
    return text;
}

static inline bool cli_store(const cli_flag *f, const char *text)
{
    char *end;
    double v;
    switch (f->type) {
    case CLI_SWITCH:
    case CLI_EITHER: return false;
    case CLI_INTEGER: return cli_integer(text, f->low, f->high, (int *)f->value);
    case CLI_SEED:
        errno = 0;
        *(uint64_t *)f->value = strtoull(text, &end, 10);
        return *text >= '0' && *text <= '9' && !*end && !errno;
    case CLI_NUMBER:
        if (!cli_number(text, &v) || v < f->low || v > f->high) return false;
        *(double *)f->value = v;
        return true;
    case CLI_CHOICE:
        if (!cli_listed(f->allowed, text, strlen(text))) return false; /* fall through */
    case CLI_TEXT: *(const char **)f->value = text; return *text != 0;
    }
    return false;
}

static inline void cli_print_default(const cli_flag *f)
{
    switch (f->type) {
    case CLI_SWITCH: printf(*(bool *)f->value ? " [on]" : " [off]"); break;
    case CLI_EITHER: break; /* the help text says it */
    case CLI_INTEGER: printf(" [%d]", *(int *)f->value); break;
    case CLI_SEED: printf(" [%llu]", (unsigned long long)*(uint64_t *)f->value); break;
    case CLI_NUMBER:
        if (*(double *)f->value >= 0) printf(" [%g]", *(double *)f->value);
        break;
    case CLI_TEXT:
    case CLI_CHOICE:
        if (*(const char **)f->value) printf(" [%s]", *(const char **)f->value);
    }
}

static inline void cli_help(const char *about, const cli_flag *flags)
{
    char left[128];
    printf("usage: %s [--flag value]...\n\n%s\n\nflags [default]:\n", cli_program, about);
    for (; flags->name; flags++) {
        const char *value = flags->allowed ? flags->allowed : flags->type == CLI_NUMBER ? "X" : "N";
        if (flags->type == CLI_SWITCH || flags->type == CLI_EITHER)
            snprintf(left, sizeof left, "--%s, --no-%s", flags->name, flags->name);
        else
            snprintf(left, sizeof left, "--%s %s", flags->name, value);
        printf(strlen(left) > 26 ? "  %s\n%30s" : "  %-26s  %s", left, "");
        printf("%s", flags->help);
        if (flags->type == CLI_INTEGER || flags->type == CLI_NUMBER)
            printf(", %.10g to %.10g", flags->low, flags->high);
        cli_print_default(flags);
        putchar('\n');
    }
    printf("  %-26s  %s\n", "--help", "this text");
}

/* The row of a flag that stands in arg without its dashes, as "name", "name=value" or "no-name". */
static inline const cli_flag *cli_find(const cli_flag *flags, const char *arg)
{
    size_t n = strcspn(arg, "=");
    for (; flags->name; flags++) {
        if (strlen(flags->name) == n && !strncmp(arg, flags->name, n)) return flags;
        if ((flags->type == CLI_SWITCH || flags->type == CLI_EITHER) && !strncmp(arg, "no-", 3) &&
            !strcmp(arg + 3, flags->name))
            return flags;
    }
    return NULL;
}

/* Fills in the values from the command line; what is wrong there ends the program. */
static inline void cli_parse(int argc, char **argv, const char *about, const cli_flag *flags)
{
    char text[256];
    int i;
    cli_keep_standard();
    cli_path = argc > 0 ? argv[0] : "";
    cli_program = strrchr(cli_path, '/') ? strrchr(cli_path, '/') + 1 : cli_path;
    for (i = 1; i < argc; i++) {
        const char *arg = argv[i], *value = strchr(arg, '=');
        const cli_flag *f;
        if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            cli_help(about, flags);
            exit(cli_end());
        }
        f = !strncmp(arg, "--", 2) ? cli_find(flags, arg + 2) : NULL;
        if (!f) cli_fail("unknown flag '%s' (%s --help lists all)", arg, cli_path);
        if (f->type == CLI_SWITCH || f->type == CLI_EITHER) {
            if (value) cli_fail("--%s takes no value", f->name);
            if (f->type == CLI_SWITCH)
                *(bool *)f->value = !strcmp(arg + 2, f->name);
            else
                *(int *)f->value = !strcmp(arg + 2, f->name);
            continue;
        }
        value = value ? value + 1 : argv[++i]; /* argv[argc] is NULL */
        cli_allowed(f, text, sizeof text);
        if (!value) cli_fail("--%s needs a value: %s", f->name, text);
        if (!cli_store(f, value)) cli_fail("--%s '%s': allowed is %s", f->name, value, text);
    }
    cli_survive_writes();
}

/* The first of the flags in the list "a|b|c" that is among the arguments, which cli_parse took. */
static inline const char *cli_given(int argc, char **argv, const cli_flag *flags, const char *list)
{
    int i;
    for (i = 1; i < argc; i++) {
        const cli_flag *f = cli_find(flags, argv[i] + 2);
        if (cli_listed(list, f->name, strlen(f->name))) return f->name;
        if (f->type != CLI_SWITCH && f->type != CLI_EITHER && !strchr(argv[i], '=')) i++;
    }
    return NULL;
}

/* The folder of a file. */
static inline const char *cli_folder(const char *path, char *folder, size_t size)
{
    const char *slash = strrchr(path, '/');
    int length = !slash ? 1 : slash == path ? 1 : (int)(slash - path);
    snprintf(folder, size, "%.*s", length, slash ? path : ".");
    return folder;
}

/* An output file that cannot be written should be known of before hours of work: one that is there
 * must be writable; a regular file is replaced, which takes its folder, behind links. */
static inline void cli_check_output(const char *flag, const char *path)
{
    char folder[4096], *real;
    struct stat s;
    bool there;
    if (!path) return;
    there = !stat(path, &s);
    if (!there && errno != ENOENT) cli_fail("--%s %s: %s", flag, path, strerror(errno));
    if (there && S_ISDIR(s.st_mode)) cli_fail("--%s %s: is a folder", flag, path);
    if (there && access(path, W_OK)) cli_fail("--%s %s: %s", flag, path, strerror(errno));
    if (there && (!S_ISREG(s.st_mode) || !strncmp(path, "/dev/", 5))) return;
    real = there ? realpath(path, NULL) : NULL;
    cli_folder(real ? real : path, folder, sizeof folder);
    free(real);
    if (access(folder, W_OK)) cli_fail("--%s %s: %s: %s", flag, path, folder, strerror(errno));
}

/* Neither should an input file that is read late be found to be missing then. */
static inline void cli_check_input(const char *flag, const char *path)
{
    if (!access(path, R_OK)) return;
    fprintf(stderr, "%s: %s %s: cannot open it: %s\n", cli_program, flag, path, strerror(errno));
    exit(1);
}

/* What a path leads to by links, though nothing may be there yet. */
static inline const char *cli_behind_links(const char *path, char *at, size_t size)
{
    char to[4096];
    int links;
    snprintf(at, size, "%s", path);
    for (links = 0; links < 40; links++) {
        ssize_t n = readlink(at, to, sizeof to - 1);
        char *slash = strrchr(at, '/');
        if (n < 0) break;
        to[n] = 0;
        slash = *to == '/' || !slash ? at : slash + 1;
        snprintf(slash, size - (size_t)(slash - at), "%s", to);
    }
    return at;
}

/* Do two paths lead to one regular file, whether it is there or yet to be made? */
static inline bool cli_same_file(const char *a, const char *b)
{
    const char *name_a, *name_b;
    char folder[4096], real_a[4096], real_b[4096];
    struct stat s, t;
    bool there = !stat(a, &s);
    if (there != !stat(b, &t)) return false;
    if (there) return S_ISREG(s.st_mode) && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
    a = cli_behind_links(a, real_a, sizeof real_a);
    b = cli_behind_links(b, real_b, sizeof real_b);
    name_a = strrchr(a, '/');
    name_b = strrchr(b, '/');
    return !strcmp(name_a ? name_a + 1 : a, name_b ? name_b + 1 : b) &&
           !stat(cli_folder(a, folder, sizeof folder), &s) &&
           !stat(cli_folder(b, folder, sizeof folder), &t) && s.st_dev == t.st_dev &&
           s.st_ino == t.st_ino;
}

typedef struct {
    const char *flag, *path; /* path: NULL if the flag was not given */
} cli_file;

/* What a program is to write: each where it can be, no two in one file, none over what it reads,
 * which is a list that ends with a flag of NULL. */
static inline void cli_check_outputs(const cli_file *outputs, int n, const cli_file *inputs)
{
    int i, j;
    for (i = 0; i < n; i++) {
        const cli_file *o = &outputs[i];
        cli_check_output(o->flag, o->path);
        for (j = 0; j < i; j++)
            if (o->path && outputs[j].path && cli_same_file(outputs[j].path, o->path))
                cli_fail("--%s %s: is the file of --%s, too", o->flag, o->path, outputs[j].flag);
        for (j = 0; inputs[j].flag; j++)
            if (o->path && inputs[j].path && cli_same_file(inputs[j].path, o->path))
                cli_fail("--%s %s: is the file that --%s reads", o->flag, o->path, inputs[j].flag);
    }
}

/* ---- models and data sets ---- */

/* Options of a known architecture; a width or depth of 0 leaves its own. */
static inline l2l_model_options cli_architecture(const char *arch, double width, int depth)
{
    l2l_model_options o = l2l_model_default(arch);
    if (!o.forward) cli_fail("--arch %s: not known to l2ladv.h", arch);
    if (depth > 0 && !o.depth) cli_fail("--depth %d: %s has a depth of its own", depth, arch);
    if (width > 0) o.width_multiplier = width;
    if (depth > 0) o.depth = depth;
    return o;
}

/* A model from a file. Its architecture is what the file's metadata say, or else what is named. */
static inline l2l_model *cli_model_open(l2l_context *c, const char *path, const char *arch,
                                        double width, int depth)
{
    const l2l_model_options *info;
    l2l_model *m;
    int extra = 0;
    if (!path) cli_fail("--model F is needed: a model file, as written by train");
    m = l2l_model_open(c, path);
    info = l2l_model_info(m);
    if (m && arch && strcmp(arch, info->arch))
        cli_fail("--arch %s: %s holds a model of %s", arch, path, info->arch);
    if (m && width > 0 && fabs(width - info->width_multiplier) > 1e-6)
        cli_fail("--width %g: %s holds a model of width %g", width, path, info->width_multiplier);
    if (m && depth > 0 && depth != info->depth)
        cli_fail("--depth %d: %s holds a model of depth %d", depth, path, info->depth);
    if (m) l2l_model_load(m, path, &extra);
    if (!m && arch && l2l_error(c) == L2L_ERROR_FORMAT) {
        l2l_model_options o = cli_architecture(arch, width, depth);
        l2l_error_clear(c);
        m = l2l_model_create(c, &o);
        if (m) l2l_model_load(m, path, &extra);
    }
    if (l2l_error(c) == L2L_ERROR_FORMAT && !arch)
        fprintf(stderr, "%s: --arch can say what the file does not\n", cli_program);
    if (l2l_error(c)) die(c);
    if (extra) fprintf(stderr, "%s: %s: %d entries not used\n", cli_program, path, extra);
    return m;
}

/* Photographs, unlike digits and clothes, have a usual epsilon, and weights, of their own. */
static inline bool cli_photographs(const char *dataset)
{
    return cli_listed("cifar10|cifar100|restricted-imagenet", dataset, strlen(dataset));
}

/* The usual epsilon where --eps says none (below 0). */
static inline double cli_default_epsilon(double epsilon, const char *dataset)
{
    return epsilon >= 0 ? epsilon : cli_photographs(dataset) ? 8.0 / 255 : 0.3;
}

/* Where the files of a data set are, unless --data says so. */
static inline void cli_data_folder(const char *name, char *path, size_t size)
{
    const char *slash = strrchr(cli_path, '/');
    if (strcmp(name, "embedded"))
        snprintf(path, size, "data/%s", name);
    else if (slash) /* the programs are in examples/bin, the digits in examples/data */
        snprintf(path, size, "%.*s/../data", (int)(slash - cli_path), cli_path);
    else
        snprintf(path, size, "examples/data");
}

static inline void cli_idx(l2l_context *c, const char *folder, bool training, l2l_dataset *d)
{
    const char *part = training ? "train" : "t10k";
    char images[1100], labels[1100];
    snprintf(images, sizeof images, "%s/%s-images-idx3-ubyte", folder, part);
    snprintf(labels, sizeof labels, "%s/%s-labels-idx1-ubyte", folder, part);
    l2l_dataset_idx(c, images, labels, 10, d);
}

static inline void cli_cifar10(l2l_context *c, const char *folder, bool training, l2l_dataset *d)
{
    char names[5][1100];
    const char *paths[5];
    int i, n = training ? 5 : 1;
    for (i = 0; i < n; i++) {
        if (training)
            snprintf(names[i], sizeof names[i], "%s/data_batch_%d.bin", folder, i + 1);
        else
            snprintf(names[i], sizeof names[i], "%s/test_batch.bin", folder);
        paths[i] = names[i];
    }
    cifar10_from_files(c, paths, n, d);
}

static inline void cli_cifar100(l2l_context *c, const char *folder, bool training, l2l_dataset *d)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/%s.bin", folder, training ? "train" : "test");
    cifar100_from_file(c, path, d);
}

/* Restricted ImageNet has nine classes. Whoever made no shards of test images is told so. */
static inline void cli_shards(l2l_context *c, const char *folder, bool training, l2l_dataset *d)
{
    char train[1100], val[1100], first[1200];
    snprintf(train, sizeof train, "%s/train", folder);
    snprintf(val, sizeof val, "%s/val", folder);
    snprintf(first, sizeof first, "%s-00000-images.npy", val);
    if (!training && access(first, F_OK) && errno == ENOENT) {
        fprintf(stderr, "%s: there is no %s: taking the images of training\n", cli_program, first);
        training = true;
    }
    shards_from_files(c, training ? train : val, 9, d);
}

/* The training or the test images of a data set; folder may be NULL. */
static inline void cli_dataset(l2l_context *c, const char *name, const char *folder, bool training,
                               l2l_dataset *d)
{
    char path[1024];
    if (folder)
        snprintf(path, sizeof path, "%s", folder);
    else
        cli_data_folder(name, path, sizeof path);
    if (!strcmp(name, "cifar10"))
        cli_cifar10(c, path, training, d);
    else if (!strcmp(name, "cifar100"))
        cli_cifar100(c, path, training, d);
    else if (!strcmp(name, "restricted-imagenet"))
        cli_shards(c, path, training, d);
    else
        cli_idx(c, path, training, d);
    if (!l2l_error(c)) return;
    if (l2l_error(c) == L2L_ERROR_FILE && !strcmp(name, "restricted-imagenet"))
        fprintf(stderr, "%s: \"./datasets.sh %s IMAGENET_DIR %s\" makes it out of an ImageNet that "
                "you have\n", cli_program, name, path);
    else if (l2l_error(c) == L2L_ERROR_FILE && strcmp(name, "embedded"))
        fprintf(stderr, "%s: \"./datasets.sh %s %s\" fetches it\n", cli_program, name, path);
    die(c);
}

/* Images number `first` to before `end` of a data set, which must outlive them, as one of their own. */
typedef struct {
    const l2l_dataset *all;
    int first;
} cli_slice;

static inline bool cli_slice_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const cli_slice *s = (const cli_slice *)d->self;
    return s->all->fetch(s->all, s->first + index, chw, label);
}

static inline l2l_dataset cli_slice_of(cli_slice *s, const l2l_dataset *all, int first, int end)
{
    l2l_dataset d = *all;
    s->all = all;
    s->first = first;
    d.count = end - first;
    d.fetch = cli_slice_fetch;
    d.release = NULL;
    d.self = s;
    return d;
}

static inline l2l_context *cli_context(int threads)
{
    l2l_options o = l2l_options_default();
    l2l_context *c;
    o.threads = threads;
    c = l2l_context_create(&o);
    if (!c) die(c);
    return c;
}

/* ---- time ---- */

static inline double cli_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    char text[32];
} cli_text;

/* "0.35 s", "12.1 s", "2 min 05 s", "3 h 20 min". */
static inline cli_text cli_duration(double seconds)
{
    cli_text t;
    long s = (long)(seconds + 0.5);
    if (seconds < 9.995)
        snprintf(t.text, sizeof t.text, "%.2f s", seconds);
    else if (seconds < 99.95)
        snprintf(t.text, sizeof t.text, "%.1f s", seconds);
    else if (s < 3600)
        snprintf(t.text, sizeof t.text, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(t.text, sizeof t.text, "%ld h %02ld min", s / 3600, s / 60 % 60);
    return t;
}

/* "0.3 (76.5/255)". */
static inline cli_text cli_epsilon(double epsilon)
{
    cli_text t;
    snprintf(t.text, sizeof t.text, "%.4g (%.4g/255)", epsilon, 255 * epsilon);
    return t;
}

#endif /* CLI_H */
