/* Where files are written: links are followed, modes kept, what is no regular file is written in
   place; two processes that save to one path leave a whole file; a file that is there and cannot be
   opened is not taken for none; a log that cannot be written costs nothing. */
#define _XOPEN_SOURCE 700
#include "../examples/shards.h"
#include "../examples/evaluation_state.h"
#include "../examples/l2lda.h"
#include "../examples/npy.h"
#include "../examples/training_log.h"
#include "networks.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static l2l_tensor *forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_linear(m, "fc", x, 3, L2L_LAST);
}

enum { IMAGES = 24, PIXELS = 16 };
static l2l_real images[IMAGES * PIXELS];
static int labels[IMAGES];
static l2l_context *c;
static l2l_model *model;
static l2l_dataset data;

static l2l_model *make_model(uint64_t seed)
{
    l2l_model_options o = l2l_model_default("own");
    o.forward = forward;
    o.channels = 1;
    o.height = o.width = 4;
    o.classes = 3;
    o.seed = seed;
    return l2l_model_create(c, &o);
}

static void set_up(void)
{
    int i;
    golden_fill(images, IMAGES * PIXELS, 5, 0, 1);
    for (i = 0; i < IMAGES; i++) labels[i] = i % 3;
    c = test_context(1);
    model = make_model(1);
    l2l_dataset_from_arrays(c, images, labels, IMAGES, 1, 4, 4, 3, &data);
}

static void put_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) return;
    fputs(text, f);
    CHECK(!fclose(f));
}
static long size_of(const char *path)
{
    struct stat s;
    return stat(path, &s) ? -1 : (long)s.st_size;
}
static int mode_of(const char *path)
{
    struct stat s;
    return stat(path, &s) ? -1 : (int)(s.st_mode & 07777);
}
static int is_link(const char *path)
{
    struct stat s;
    return !lstat(path, &s) && S_ISLNK(s.st_mode);
}
/* How many temporary files are here? */
static int leftovers(void) { return system("ls | grep -c l2ladv-tmp | grep -qx 0") != 0; }

/* -- every function that writes a file --------------------------------------------------------------- */

enum { SAVERS = 8 };
static bool save(int which, const char *path)
{
    static const int64_t shape[1] = {40}, whole[3] = {1, 2, 3}, three[1] = {3};
    l2l_learned_options lo = l2l_learned_default();
    l2lda_options go = l2lda_default();
    l2l_train_options o = l2l_train_default();
    l2l_evaluation_options eo = l2l_evaluation_default();
    l2l_attack a = l2l_attack_fgsm(0.1);
    l2l_evaluation e;
    evaluation_state kept = {0};
    l2l_result r;
    l2l_learned *phi;
    l2lda *g;
    l2l_trainer *t;
    bool ok = false;
    switch (which) {
    case 0: return npy_save_reals(c, path, images, shape, 1);
    case 1: return npy_save_integers(c, path, whole, three, 1);
    case 2: return l2l_model_save(model, path);
    case 3:
        phi = l2l_learned_create(c, &lo);
        ok = l2l_learned_save(phi, path);
        l2l_learned_free(phi);
        return ok;
    case 4:
        go.width_multiplier = 0.1;
        go.height = go.width = 16;
        g = l2lda_create(c, &go);
        ok = l2lda_save(g, path);
        l2lda_free(g);
        return ok;
    case 5:
        t = l2l_trainer_create(model, &data, &o);
        ok = l2l_trainer_save(t, path);
        l2l_trainer_free(t);
        return ok;
    case 6:
        remove(path); /* a state that is there is read */
        ok = l2l_evaluation_begin(model, &data, &eo, &e) && evaluation_state_open(&kept, &e, path) &&
             evaluation_state_attack(&kept, &a, &r, NULL, NULL);
        evaluation_state_close(&kept);
        l2l_evaluation_end(&e);
        return ok;
    default: return l2l_save_bytes(c, path, "bytes of one's own", 18);
    }
}

static void links_are_followed(void)
{
    int k;
    mkdir("inner", 0777);
    for (k = 0; k < SAVERS; k++) {
        put_text("inner/file", "old");
        CHECK(!symlink("inner/file", "near"));
        CHECK(!symlink("../near", "inner/far"));
        CHECK(!symlink("inner/new", "dangling"));
        if (k != 6) CHECK(save(k, "inner/far"));
        if (k != 6) CHECK(save(k, "dangling"));
        CHECK_OK(c);
        CHECK(is_link("near") && is_link("inner/far") && is_link("dangling"));
        if (k != 6) CHECK(size_of("inner/file") > 10);
        if (k != 6) CHECK_INT(size_of("inner/file"), size_of("inner/new"));
        CHECK(!leftovers());
        remove("near");
        remove("inner/far");
        remove("dangling");
        remove("inner/file");
        remove("inner/new");
    }
    CHECK(!symlink("circle", "circle"));
    CHECK(!save(2, "circle"));
    CHECK_ERROR(c, L2L_ERROR_FILE, "circle: cannot open it to write");
    CHECK(is_link("circle"));
    remove("circle");
    rmdir("inner");
}

static void modes_are_kept(void)
{
    static const mode_t modes[] = {0600, 0640, 0664, 0755};
    mode_t mask = umask(027);
    int k, i;
    for (k = 0; k < SAVERS; k++) {
        if (k == 6) continue;
        CHECK(save(k, "new"));
        CHECK_INT(0640, mode_of("new"));
        remove("new");
        for (i = 0; i < COUNT(modes); i++) {
            put_text("old", "old");
            chmod("old", modes[i]);
            CHECK(save(k, "old"));
            CHECK_INT(modes[i], mode_of("old"));
            CHECK(size_of("old") > 10);
            remove("old");
        }
    }
    CHECK_OK(c);
    umask(mask);
}

/* In a child that is no root: its exit status is 0 if `test` says so. */
static int as_nobody(int (*test)(void))
{
    pid_t child;
    int status = -1;
    fflush(stdout);
    if (!(child = fork())) {
        if (getuid() == 0 && (setgid(65534) || setuid(65534))) _exit(3);
        _exit(!test());
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

static int is_refused(void)
{
    return !save(2, "protected") && l2l_error(c) == L2L_ERROR_FILE &&
           strstr(l2l_error_text(c), "protected: cannot open it to write") && size_of("protected") == 3;
}
static void a_protected_file_is_refused(void)
{
    put_text("protected", "old");
    chmod("protected", 0444);
    chmod(".", 0777);
    CHECK_INT(0, as_nobody(is_refused));
    CHECK_INT(3, size_of("protected"));
    remove("protected");
}

/* -- what is no regular file ------------------------------------------------------------------------- */

static void pipes_and_devices_stay(void)
{
    struct stat s;
    int k;
    CHECK(!mkfifo("pipe", 0600));
    CHECK(!symlink("pipe", "to the pipe"));
    for (k = 0; k < SAVERS; k++) {
        int status = 0;
        pid_t child;
        if (k == 6) continue;
        CHECK(save(k, "file"));
        fflush(stdout);
        if (!(child = fork())) { /* whoever reads gets the bytes of the file */
            execlp("cmp", "cmp", "-s", "pipe", "file", (char *)NULL);
            _exit(9);
        }
        CHECK(save(k, k % 2 ? "to the pipe" : "pipe"));
        waitpid(child, &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(!stat("pipe", &s) && S_ISFIFO(s.st_mode) && is_link("to the pipe"));
        remove("file");
    }
    CHECK_OK(c);
    remove("pipe");
    remove("to the pipe");
    if (getuid() == 0 && mknod("node", S_IFCHR | 0666, 1 << 8 | 3) == 0) { /* one of our own, like null */
        FILE *f = fopen("node", "wb");           /* some containers forbid its use */
        if (f) {
            fclose(f);
            for (k = 0; k < SAVERS; k++) CHECK(k == 6 || save(k, "node"));
            CHECK_OK(c);
            CHECK(!stat("node", &s) && S_ISCHR(s.st_mode));
        }
        remove("node");
    }
    CHECK(!leftovers());
}

/* A regular file that is open as a descriptor: whoever holds it sees what is written. */
static void descriptors_are_written_in_place(void)
{
    char path[40];
    int f = open("opened", O_RDWR | O_CREAT | O_TRUNC, 0600), k;
    struct stat before, after;
    if (!CHECK(f >= 0)) return;
    CHECK(!fstat(f, &before));
    for (k = 0; k < 2; k++) {
        snprintf(path, sizeof path, k ? "/dev/fd/%d" : "/proc/self/fd/%d", f);
        if (access(path, F_OK)) continue;
        CHECK(save(2, path));
        CHECK_OK(c);
        CHECK(!stat("opened", &after) && after.st_ino == before.st_ino);
        CHECK(size_of("opened") > 100);
    }
    close(f);
    remove("opened");
}

/* -- several writers --------------------------------------------------------------------------------- */

static void two_processes_one_path(void)
{
    enum { N = 60000, SAVES = 150 };
    static const int64_t shape[1] = {N};
    l2l_real *v = test_array(N);
    pid_t child[2];
    const struct timespec moment = {0, 500000};
    int k, i, status, whole = 0;
    fflush(stdout);
    for (k = 0; k < 2; k++)
        if (!(child[k] = fork())) {
            for (i = 0; i < N; i++) v[i] = (l2l_real)(k + 1);
            for (i = 0; i < SAVES; i++)
                if (!npy_save_reals(c, "both", v, shape, 1)) {
                    printf("%s\n", l2l_error_text(c));
                    fflush(stdout);
                    _exit(1);
                }
            _exit(0);
        }
    for (k = i = 0; i < 2 * SAVES; i++) {
        npy_array a;
        nanosleep(&moment, NULL);
        if (!npy_load(c, "both", &a)) {
            k += l2l_error(c) != L2L_ERROR_FILE; /* not there yet */
            l2l_error_clear(c);
            continue;
        }
        for (int j = 1; j < N; j++) k += a.reals[j] != a.reals[0];
        whole++;
        npy_array_free(c, &a);
    }
    CHECK_INT(0, k);
    CHECK(whole > 0);
    for (k = 0; k < 2; k++) {
        waitpid(child[k], &status, 0);
        CHECK_INT(0, status); /* and no save failed */
    }
    CHECK(!leftovers());
    remove("both");
    free(v);
}

static void what_a_killed_process_left(void)
{
    int k, locked;
    for (k = 0; k < 3; k++) {
        put_text("it.l2ladv-tmp0", "half");
        put_text("it.tmp", "somebody's");
        CHECK(save(2, "it"));
        CHECK(!leftovers());
        CHECK_INT(10, size_of("it.tmp"));
    }
    put_text("it.l2ladv-tmp0", "half"); /* one that another process is at */
    locked = open("it.l2ladv-tmp0", O_WRONLY);
    CHECK(!flock(locked, LOCK_EX));
    CHECK(save(2, "it"));
    CHECK_INT(4, size_of("it.l2ladv-tmp0"));
    CHECK(size_of("it.l2ladv-tmp1") < 0);
    close(locked);
    CHECK(save(2, "it"));
    CHECK(!leftovers());
    CHECK_OK(c);
    remove("it");
    remove("it.tmp");
}

/* Also of bytes that look like the middle of a character: some code pages' names are nothing else. */
static void long_names(void)
{
    static const int of[] = {'n', 0x90};
    int i;
    for (i = 0; i < COUNT(of); i++) {
        char name[256];
        memset(name, of[i], 255);
        name[255] = 0;
        CHECK(save(2, name));
        CHECK(save(2, name));
        CHECK_OK(c);
        CHECK(size_of(name) > 100);
        CHECK(!leftovers());
        remove(name);
    }
}

/* -- there, but not to be opened --------------------------------------------------------------------- */

static l2l_train_options training(void)
{
    l2l_train_options o = l2l_train_default();
    o.epochs = 3;
    o.batch = 8;
    o.T = 1;
    o.checkpoint = "checkpoint";
    return o;
}

/* A trainer with a log. */
static l2l_trainer *with_log(training_log *log, l2l_model *m, const l2l_train_options *o)
{
    l2l_train_options own = *o;
    training_log_add(log, c, "log", &own);
    return l2l_trainer_create(m, &data, &own);
}

/* Trains a new model, in parts if there are errors, and gives the error of the first part. */
static l2l_status train(const l2l_train_options *o, l2l_model **trained)
{
    l2l_model *m = make_model(2);
    training_log log;
    l2l_trainer *t = with_log(&log, m, o);
    l2l_status status;
    training_log_train(&log, t);
    status = l2l_error(c);
    l2l_trainer_free(t);
    if (trained) *trained = m; else l2l_model_free(m);
    return status;
}

static int cannot_open(void)
{
    l2l_train_options o = training();
    o.resume = true;
    return train(&o, NULL) == L2L_ERROR_FILE && strstr(l2l_error_text(c), "checkpoint: cannot open it");
}
static void an_unreadable_checkpoint(void)
{
    l2l_train_options o = training();
    chmod(".", 0777);
    put_text("log", "the old log");
    put_text("checkpoint", "there");
    chmod("checkpoint", 0);
    CHECK_INT(0, as_nobody(cannot_open));
    CHECK_INT(11, size_of("log"));
    CHECK_INT(5, size_of("checkpoint"));
    remove("checkpoint");
    CHECK(!symlink("checkpoint", "checkpoint")); /* what not even root can open */
    CHECK(cannot_open());
    l2l_error_clear(c);
    CHECK_INT(11, size_of("log"));
    CHECK(is_link("checkpoint"));
    remove("checkpoint");
    CHECK(!mkdir("checkpoint", 0777));
    o.resume = true;
    CHECK_INT(L2L_ERROR_FILE, train(&o, NULL));
    CHECK_ERROR(c, L2L_ERROR_FILE, "checkpoint: ");
    CHECK_INT(11, size_of("log"));
    rmdir("checkpoint");
    CHECK_INT(L2L_OK, train(&o, NULL)); /* and where there is none, it begins */
    CHECK(size_of("log") > 100);
    CHECK_OK(c);
    remove("log");
    remove("checkpoint");
}

static void an_unreadable_state(void)
{
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    evaluation_state kept;
    CHECK(!symlink("state", "state"));
    if (!CHECK(l2l_evaluation_begin(model, &data, &o, &e))) return;
    CHECK(!evaluation_state_open(&kept, &e, "state"));
    CHECK_ERROR(c, L2L_ERROR_FILE, "state: cannot open it");
    l2l_evaluation_end(&e);
    CHECK(is_link("state"));
    remove("state");
}

static void an_unreadable_shard(void)
{
    static const char head[] = "\x93NUMPY\x01\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': ";
    l2l_dataset d;
    FILE *f;
    int k;
    for (k = 0; k < 4; k++) {
        char name[60];
        snprintf(name, sizeof name, "set-0000%d-%s.npy", k / 2, k % 2 ? "labels" : "images");
        if (k == 2) { CHECK(!symlink(name, name)); continue; }
        if (k == 3) continue;
        if (!CHECK((f = fopen(name, "wb")) != NULL)) return;
        fwrite(head, 1, sizeof head - 1, f);
        fprintf(f, "%-*s\n", (int)(127 - (sizeof head - 1)), k % 2 ? "(1,), }" : "(1, 2, 2), }");
        fwrite("\1\1\1\1", 1, k % 2 ? 1 : 4, f);
        CHECK(!fclose(f));
    }
    CHECK(!shards_from_files(c, "set", 3, &d));
    CHECK_ERROR(c, L2L_ERROR_FILE, "set-00001-images.npy: cannot open it");
    remove("set-00001-images.npy");
    CHECK(shards_from_files(c, "set", 3, &d));
    CHECK_OK(c);
    l2l_dataset_free(&d);
    remove("set-00000-images.npy");
    remove("set-00000-labels.npy");
}

/* -- logs -------------------------------------------------------------------------------------------- */

static void limit_files(rlim_t to)
{
    struct rlimit r;
    if (!CHECK(!getrlimit(RLIMIT_FSIZE, &r))) return;
    r.rlim_cur = to;
    CHECK(!setrlimit(RLIMIT_FSIZE, &r));
}

/* The disk is full for a while. The trainer goes on, and so does a checkpoint made meanwhile. */
static void a_log_that_fails(void)
{
    l2l_train_options o = training();
    l2l_model *straight, *m, *again;
    l2l_trainer *t, *u;
    training_log log, another;
    int at;
    o.checkpoint = NULL;
    CHECK_INT(L2L_OK, train(&o, &straight));
    rename("log", "whole");
    for (at = 0; at < 3; at++) {
        m = make_model(2);
        t = with_log(&log, m, &o);
        limit_files((rlim_t)(at == 0 ? 1 : at == 1 ? size_of("whole") / 2 : size_of("whole") - 2));
        CHECK(!training_log_train(&log, t));
        CHECK_ERROR(c, L2L_ERROR_FILE, "log, byte ");
        CHECK(!training_log_train(&log, t)); /* no room yet */
        CHECK_ERROR(c, L2L_ERROR_FILE, "log, byte ");
        limit_files(RLIM_INFINITY);
        CHECK(l2l_trainer_save(t, "by hand"));
        CHECK(training_log_train(&log, t));
        CHECK_OK(c);
        CHECK(!system("cmp log whole"));
        CHECK_BYTES(l2l_model_parameter(straight, 0).value->data, l2l_model_parameter(m, 0).value->data,
                    3 * PIXELS * sizeof(l2l_real));
        again = make_model(3);
        u = with_log(&another, again, &o);
        CHECK(l2l_trainer_resume(u, "by hand"));
        CHECK(training_log_train(&another, u));
        CHECK_OK(c);
        CHECK(!system("cmp log whole"));
        CHECK_BYTES(l2l_model_parameter(straight, 0).value->data,
                    l2l_model_parameter(again, 0).value->data, 3 * PIXELS * sizeof(l2l_real));
        l2l_trainer_free(u);
        l2l_model_free(again);
        l2l_trainer_free(t);
        l2l_model_free(m);
    }
    l2l_model_free(straight);
    remove("log");
    remove("whole");
    remove("by hand");
}

static void a_checkpoint_that_fails(void)
{
    l2l_train_options o = training();
    l2l_model *straight, *m = make_model(2);
    training_log log;
    l2l_trainer *t = with_log(&log, m, &o);
    int failures = 0;
    CHECK_INT(L2L_OK, train(&o, &straight));
    remove("checkpoint");
    mkdir("checkpoint", 0777); /* nothing can be written there */
    while (!training_log_train(&log, t) && failures++ < 9) CHECK_ERROR(c, L2L_ERROR_FILE, "checkpoint: ");
    CHECK_INT(3, failures); /* at each epoch's end; all were trained */
    CHECK_BYTES(l2l_model_parameter(straight, 0).value->data, l2l_model_parameter(m, 0).value->data,
                3 * PIXELS * sizeof(l2l_real));
    rmdir("checkpoint");
    l2l_trainer_free(t);
    l2l_model_free(m);
    l2l_model_free(straight);
    remove("log");
}

/* A FIFO stays one, its reader gets every line, and a training that goes on does not cut it. */
static void a_log_into_a_pipe(void)
{
    l2l_train_options o = training();
    struct stat s;
    pid_t child;
    int status = 0;
    o.checkpoint = NULL;
    CHECK_INT(L2L_OK, train(&o, NULL));
    rename("log", "whole");
    CHECK(!mkfifo("log", 0600));
    fflush(stdout);
    if (!(child = fork())) {
        execlp("cmp", "cmp", "-s", "log", "whole", (char *)NULL);
        _exit(9);
    }
    CHECK_INT(L2L_OK, train(&o, NULL));
    CHECK_OK(c);
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(!stat("log", &s) && S_ISFIFO(s.st_mode));
    remove("log");
    remove("whole");
}

static void a_log_with_two_writers(void)
{
    l2l_train_options o = training();
    int other, k;
    o.checkpoint = NULL;
    put_text("log", "another's");
    other = open("log", O_WRONLY);
    CHECK(!flock(other, LOCK_EX));
    CHECK_INT(L2L_ERROR_FILE, train(&o, NULL));
    CHECK_ERROR(c, L2L_ERROR_FILE, "log: another training writes to it");
    CHECK_INT(9, size_of("log"));
    close(other);
    for (k = 0; k < 2; k++) CHECK_INT(L2L_OK, train(&o, NULL)); /* nothing of our own is in the way */
    CHECK_OK(c);
    CHECK(size_of("log") > 100);
    remove("log");
}

static void a_log_behind_a_link(void)
{
    l2l_train_options o = training();
    put_text("there", "old");
    chmod("there", 0600);
    CHECK(!symlink("there", "log"));
    CHECK_INT(L2L_OK, train(&o, NULL));
    CHECK(is_link("log"));
    CHECK_INT(0600, mode_of("there"));
    CHECK(size_of("there") > 100);
    remove("log");
    remove("there");
    remove("checkpoint");
}

int main(void)
{
    const char *temporary = getenv("TMPDIR");
    char folder[4000], remover[4096];
    snprintf(folder, sizeof folder, "%s/l2ladv-targets.XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(folder) || chdir(folder)) { printf("no folder to work in\n"); return 2; }
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    set_up();
    RUN(links_are_followed, "a link stays one, and what it leads to is replaced");
    RUN(modes_are_kept, "a file that is replaced keeps its mode; a new one has the umask's");
    RUN(a_protected_file_is_refused, "a file that may not be written to is not replaced");
    RUN(pipes_and_devices_stay, "a FIFO or a device is written in place");
    RUN(descriptors_are_written_in_place, "what the process has open is written in place");
    RUN(two_processes_one_path, "two processes save to one path: no save fails, no file is a mixture");
    RUN(what_a_killed_process_left, "a killed process' file is taken away, others' are not");
    RUN(long_names, "the longest name can be saved to");
    RUN(an_unreadable_checkpoint, "a checkpoint that cannot be opened is an error, before any writing");
    RUN(an_unreadable_state, "so is an evaluation's state");
    RUN(an_unreadable_shard, "and a shard, which does not end the data set");
    RUN(a_log_that_fails, "a line that the log had no room for is written later");
    RUN(a_checkpoint_that_fails, "training goes on after a checkpoint that could not be written");
    RUN(a_log_into_a_pipe, "a log into a FIFO reaches its reader, line by line");
    RUN(a_log_with_two_writers, "a log that another training writes to is refused, and stays");
    RUN(a_log_behind_a_link, "a log behind a link, with its mode");
    l2l_dataset_free(&data);
    l2l_model_free(model);
    l2l_context_free(c);
    snprintf(remover, sizeof remover, "rm -rf '%s'", folder);
    if (chdir("/") || system(remover)) printf("%s stays\n", folder);
    return test_end();
}
