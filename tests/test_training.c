/* The training loop: resuming, stopping, validation split, short batches, plateaus, schedules of
   epsilon, the same bits for any number of threads. */
#include "../examples/training_log.h"
#include "check_micro.h"
#include "../examples/evaluation.h"
#include "../examples/l2lda.h"
#include "../examples/searches.h"

enum { IMAGES = 90, SIZE = 64, CLASSES = 5 };
static char directory[512] = "./";

static char *path(const char *name) /* beside the program; to be freed */
{
    char *p = (char *)test_memory(strlen(directory) + strlen(name) + 1);
    strcat(strcpy(p, directory), name);
    return p;
}

static char *read_whole(const char *name, size_t *n)
{
    FILE *f = fopen(name, "rb");
    char *v = NULL;
    long size;
    *n = 0;
    if (!f) return NULL;
    if (fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) >= 0) {
        v = (char *)test_memory((size_t)size + 1);
        rewind(f);
        *n = fread(v, 1, (size_t)size, f);
    }
    fclose(f);
    return v;
}
static void copy_file(const char *from, const char *to)
{
    size_t n;
    char *v = read_whole(from, &n);
    FILE *f = fopen(to, "wb");
    if (CHECK(v && f)) CHECK(fwrite(v, 1, n, f) == n);
    if (f) fclose(f);
    free(v);
}
static void check_same_file(const char *a, const char *b)
{
    size_t n, m;
    char *v = read_whole(a, &n), *w = read_whole(b, &m);
    if (CHECK(v && w)) {
        if (!CHECK_INT(n, m) || !CHECK_BYTES(v, w, n))
            printf("    the files %s and %s differ\n", a, b);
    }
    free(v);
    free(w);
}

/* Noise with a bright row that tells the class: easy to learn. */
static void make_images(l2l_real *x, int *labels, int n)
{
    int i, j;
    golden_fill(x, (int64_t)n * SIZE, 600, 0, 1);
    for (i = 0; i < n; i++) {
        labels[i] = i % CLASSES;
        for (j = 0; j < SIZE; j++)
            x[i * SIZE + j] = (l2l_real)(0.3 * (double)x[i * SIZE + j] + (j / 8 == labels[i] + 1 ? 0.7 : 0));
    }
}

/* -- a run: context, data, model, phi, options ---------------------------------------------------- */

typedef struct run {
    l2l_context *c;
    l2l_real *x;
    int labels[IMAGES];
    l2l_dataset d;
    l2l_model *m;
    l2l_learned *phi;
    l2lda *g;
    l2l_train_options o;
    const char *log;
    int kind;
    int64_t stop_at;
    int copy_at;
    const char *copy_from, *copy_to;
    l2l_trainer *saves; /* to save_to, in the callback of step stop_at, going on then              */
    const char *save_to;
    l2l_real *last, *before; /* parameters after the last step that was reported, and the one before */
    int64_t last_count, calls;
    double epsilon_before;
    l2l_progress p;
    l2l_model *best;
} run;

enum { PLAIN, ADVTRAIN, RNN_ADV, METHODS, RNN_PARTS = METHODS, /* RNN_PARTS: of 5 images            */
       BLS, TRADES, RNN_TRADES, L2LDA, L2LDA_PARTS, KINDS };

static bool run_progress(void *user, const l2l_progress *p)
{
    run *r = (run *)user;
    free(r->before);
    r->before = r->last;
    r->last = all_parameters(r->m, &r->last_count);
    r->p = *p;
    r->calls++;
    CHECK(p->epsilon >= r->epsilon_before - 1e-12 && p->epsilon <= r->o.epsilon + 1e-12);
    r->epsilon_before = p->epsilon;
    CHECK(p->saturated >= 0 && p->saturated <= 1);
    if (r->o.method.outer.is_objective || r->kind >= BLS)
        CHECK(p->accuracy >= 0 && p->accuracy <= 1);
    else CHECK_NEAR(-1, p->accuracy, 0);
    if (p->epoch_ended && p->best) {
        l2l_model_free(r->best);
        r->best = l2l_model_clone(r->c, r->m);
    }
    if (r->copy_at && r->calls == r->copy_at) copy_file(r->copy_from, r->copy_to);
    if (r->saves && p->step == r->stop_at) CHECK(l2l_trainer_save(r->saves, r->save_to));
    return !r->stop_at || r->saves || r->calls < r->stop_at;
}

static int run_begin(run *r, int method, int threads)
{
    l2l_learned_options lo = l2l_learned_default();
    l2lda_options go = l2lda_default();
    memset(r, 0, sizeof *r);
    r->kind = method;
    r->c = test_context(threads);
    r->x = test_array(IMAGES * SIZE);
    make_images(r->x, r->labels, IMAGES);
    r->m = tiny_model(r->c, 610);
    lo.seed = 4;
    r->phi = l2l_learned_create(r->c, &lo);
    go.height = go.width = 8;
    go.classes = CLASSES;
    go.width_multiplier = 0.125;
    r->g = l2lda_create(r->c, &go);
    if (!CHECK(r->m && r->phi && r->g) ||
        !CHECK(l2l_dataset_from_arrays(r->c, r->x, r->labels, IMAGES, 1, 8, 8, CLASSES, &r->d)))
        return 0;
    r->o = l2l_train_default();
    r->o.method = method == PLAIN      ? l2l_method_plain()
                  : method == ADVTRAIN ? l2l_method_advtrain()
                  : method == BLS      ? l2l_method_advtrain_bls()
                  : method == TRADES   ? l2l_method_trades(2)
                  : method == RNN_TRADES ? l2l_method_rnn_trades(r->phi, 2)
                  : method >= L2LDA    ? l2lda_method(r->g)
                                       : l2l_method_rnn_adv(r->phi);
    r->o.epochs = 2;
    r->o.batch = 16; /* 70 images after the split: 4 batches and one of 6 */
    r->o.T = 3;
    r->o.epsilon = 0.1;
    r->o.validation = 20;
    r->o.validation_attack = l2l_attack_pgd(0.1);
    r->o.validation_attack.steps = 2;
    r->o.micro_batch = method == RNN_PARTS || method == L2LDA_PARTS ? 5 : 0;
    r->o.seed = 31;
    r->o.progress = run_progress;
    r->o.user = r;
    return 1;
}
static void run_end(run *r)
{
    CHECK_OK(r->c);
    l2l_model_free(r->best);
    l2l_learned_free(r->phi);
    l2lda_free(r->g);
    l2l_model_free(r->m);
    l2l_dataset_free(&r->d);
    l2l_context_free(r->c);
    free(r->last);
    free(r->before);
    free(r->x);
}
static bool run_train(run *r)
{
    l2l_train_options o = r->o;
    training_log log;
    training_log_add(&log, r->c, r->log, &o);
    l2l_trainer *t = l2l_trainer_create(r->m, &r->d, &o);
    bool ok = t && training_log_train(&log, t);
    l2l_trainer_free(t);
    return ok;
}
static void check_same_run(const run *a, const run *b)
{
    CHECK_SAME_MODEL(a->m, b->m);
    CHECK_SAME_MODEL(l2lda_network(a->g), l2lda_network(b->g));
    CHECK_BYTES(l2l_learned_parameters(a->phi), l2l_learned_parameters(b->phi),
                (size_t)l2l_learned_size(a->phi) * sizeof(l2l_real));
}

/* Stopped after step k and resumed gives the bits of never having stopped: theta, phi, log. Steps
   1..10 are two epochs of five. */
static void resuming(void)
{
    static const int stops[] = {1, 4, 5, 7, 9};
    static const l2l_augment augment[KINDS] = {{0, false}, {2, true}, {1, true}, {1, true}, {1, true},
                                               {1, true}, {1, true}, {1, true}, {1, true}};
    char *log = path("straight.jsonl"), *cut = path("resumed.jsonl"), *checkpoint = path("run.l2l");
    int method, i;
    for (method = 0; method < KINDS; method++) {
        run a;
        remove(log);
        if (!run_begin(&a, method, 2)) return;
        a.log = log;
        a.o.augment = augment[method];
        CHECK(run_train(&a));
        CHECK_INT(10, a.calls);
        for (i = 0; i < COUNT(stops); i++) {
            run b, d;
            int before = test_complaints;
            remove(cut);
            remove(checkpoint);
            if (!run_begin(&b, method, 2)) return;
            b.log = cut;
            b.o.augment = augment[method];
            b.o.checkpoint = checkpoint;
            b.stop_at = stops[i];
            CHECK(!run_train(&b));
            CHECK_ERROR(b.c, L2L_ERROR_CANCELLED, "");
            CHECK_INT(stops[i], b.calls);
            run_end(&b);
            if (!run_begin(&d, method, 1)) return;
            d.log = cut;
            d.o.augment = augment[method];
            d.o.checkpoint = checkpoint;
            d.o.resume = true;
            CHECK(run_train(&d));
            CHECK_INT(10 - stops[i], d.calls);
            check_same_run(&a, &d);
            check_same_file(log, cut);
            run_end(&d);
            if (test_complaints > before) printf("    method %d stopped after %d\n", method, stops[i]);
        }
        run_end(&a);
    }
    remove(log);
    remove(cut);
    remove(checkpoint);
    free(log);
    free(cut);
    free(checkpoint);
}

/* A checkpoint that the progress callback makes, also at the end of an epoch (steps 5 and 10). */
static void checkpoints_of_the_callback(void)
{
    static const int stops[] = {4, 5, 6, 10};
    char *file = path("callback.l2l");
    int method, i;
    for (method = 0; method < KINDS; method++)
        for (i = 0; i < COUNT(stops); i++) {
            run a, b;
            l2l_trainer *t;
            if (!run_begin(&a, method, 1) || !run_begin(&b, method, 1)) return;
            a.stop_at = stops[i];
            a.save_to = file;
            t = a.saves = l2l_trainer_create(a.m, &a.d, &a.o);
            CHECK(l2l_train(t));
            l2l_trainer_free(t);
            t = l2l_trainer_create(b.m, &b.d, &b.o);
            CHECK(l2l_trainer_resume(t, file));
            CHECK(l2l_train(t));
            CHECK_INT(10 - stops[i], b.calls);
            l2l_trainer_free(t);
            check_same_run(&a, &b);
            run_end(&b);
            run_end(&a);
        }
    remove(file);
    free(file);
}

/* A loop of one's own: steps on batches as they come, a checkpoint by hand. */
static void own_loop(void)
{
    char *file = path("own.l2l"), *none = path("none.l2l");
    int stop, i;
    for (stop = 0; stop < 7; stop += 3) {    /* 0: in one go                                      */
        static run whole;
        run r;
        l2l_trainer *t;
        l2l_progress p;
        if (!run_begin(&r, RNN_ADV, 1)) return;
        t = l2l_trainer_create(r.m, &r.d, &r.o);
        for (i = 0; i < 7 && CHECK(t != NULL); i++) {
            if (stop && i == stop) {         /* into a new model, by a new trainer                */
                CHECK(l2l_trainer_save(t, file));
                l2l_trainer_free(t);
                run_end(&r);
                if (!run_begin(&r, RNN_ADV, 2)) return;
                t = l2l_trainer_create(r.m, &r.d, &r.o);
                CHECK(!l2l_trainer_resume(t, none));
                CHECK_ERROR(r.c, L2L_ERROR_FILE, none);
                CHECK(l2l_trainer_resume(t, file));
            }
            CHECK(l2l_train_step(t, r.x + 10 * i * SIZE, r.labels + 10 * i, 10, &p));
            CHECK_INT(i + 1, p.step);
        }
        l2l_trainer_free(t);
        if (!stop) {
            whole = r;
            continue;
        }
        check_same_run(&whole, &r);
        run_end(&r);
        if (stop == 6) run_end(&whole);
    }
    remove(file);
    free(file);
    free(none);
}

/* As after a kill: the checkpoint is of step 6, the log goes on to the end; it must be cut. */
static void resuming_after_a_kill(void)
{
    char *log = path("straight.jsonl"), *cut = path("killed.jsonl"), *checkpoint = path("steps.l2l"),
         *kept = path("kept.l2l");
    run a, b;
    remove(log);
    remove(checkpoint);
    if (!run_begin(&a, RNN_ADV, 1)) return;
    a.log = log;
    a.o.checkpoint = checkpoint;
    a.o.checkpoint_steps = 3;
    a.copy_at = 8;
    a.copy_from = checkpoint;
    a.copy_to = kept;
    CHECK(run_train(&a));
    copy_file(log, cut);
    if (!run_begin(&b, RNN_ADV, 1)) return;
    b.log = cut;
    b.o.checkpoint = kept;
    b.o.checkpoint_steps = 3;
    b.o.resume = true;
    CHECK(run_train(&b));
    CHECK(b.calls > 1 && b.calls < 10);
    check_same_run(&a, &b);
    check_same_file(log, cut);
    run_end(&a);
    run_end(&b);
    remove(log);
    remove(cut);
    remove(checkpoint);
    remove(kept);
    free(log);
    free(cut);
    free(checkpoint);
    free(kept);
}

static void other_settings_refused(void)
{
    char *checkpoint = path("settings.l2l");
    int i;
    run a;
    remove(checkpoint);
    if (!run_begin(&a, RNN_ADV, 1)) return;
    a.o.checkpoint = checkpoint;
    a.stop_at = 3;
    CHECK(!run_train(&a));
    CHECK_ERROR(a.c, L2L_ERROR_CANCELLED, "");
    run_end(&a);
    for (i = 0; i < 10; i++) {
        static const char *const names[] = {"epsilon", "batch", "T", "seed", "rate", "method",
                                            "augment.padding", "augment.flip",
                                            "micro_batch is 4 here, but in the file 0",
                                            "method.outer.number[0] is 2 here, but in the "
                                            "file 0"};
        run b;
        l2l_real *before, *after;
        int64_t n;
        if (!run_begin(&b, i == 5 ? ADVTRAIN : RNN_ADV, 1)) return;
        b.o.checkpoint = checkpoint;
        b.o.resume = true;
        if (i == 0) b.o.epsilon = 0.2;
        if (i == 1) b.o.batch = 8;
        if (i == 2) b.o.T = 4;
        if (i == 3) b.o.seed = 32;
        if (i == 4) b.o.optimizer.rate = 2e-3;
        if (i == 6) b.o.augment.padding = 1;
        if (i == 7) b.o.augment.flip = true;
        if (i == 8) b.o.micro_batch = 4;
        if (i == 9) b.o.method.outer.number[0] = 2;
        before = all_parameters(b.m, &n);
        CHECK(!run_train(&b));
        CHECK_ERROR(b.c, L2L_ERROR_MISMATCH, names[i]);
        after = all_parameters(b.m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
        CHECK_INT(0, b.calls);
        free(before);
        free(after);
        run_end(&b);
    }
    remove(checkpoint);
    free(checkpoint);
}

/* A checkpoint whose state no training can be in: refused, and nothing is changed. */
static void impossible_states_refused(void)
{
    static const struct { int number; double value; const char *name; } cases[] = {
        {0, -1, "step is -1"}, {1, 0.5, "epoch is 0.5"}, {1, 1e300, "epoch is 1e300"},
        {2, 5, "step_in_epoch is 5"}, {5, (double)NAN, "epoch_seen is nan"},
        {6, 2, "best_score is 2"}, {8, 1e17, "note.number is 1e17"}, {12, -1, "optimizer.steps is -1"}};
    char *checkpoint = path("state.l2l"), *broken = path("broken.l2l");
    long at = 0;
    int i;
    run a;
    remove(checkpoint);
    if (!run_begin(&a, RNN_ADV, 1)) return;
    a.o.checkpoint = checkpoint;
    a.stop_at = 3;
    CHECK(!run_train(&a));
    CHECK_ERROR(a.c, L2L_ERROR_CANCELLED, "");
    run_end(&a);
    for (i = 0; i < COUNT(cases); i++) {
        run b;
        l2l_real *before, *after;
        int64_t n;
        FILE *f;
        int k;
        copy_file(checkpoint, broken);
        if (!CHECK((f = fopen(broken, "r+b")) != NULL)) break;
        for (at = 8, k = 0; k < 3; k++) at += (long)fgetc(f) << (8 * k); /* the first tensor */
        fseek(f, at + 8 * cases[i].number, SEEK_SET);
        CHECK(fwrite(&cases[i].value, 8, 1, f) == 1); /* of a little-endian machine */
        fclose(f);
        if (!run_begin(&b, RNN_ADV, 1)) return;
        b.o.checkpoint = broken;
        b.o.resume = true;
        before = all_parameters(b.m, &n);
        CHECK(!run_train(&b));
        CHECK_ERROR(b.c, L2L_ERROR_FORMAT, cases[i].name);
        after = all_parameters(b.m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
        free(before);
        free(after);
        run_end(&b);
    }
    remove(checkpoint);
    remove(broken);
    free(checkpoint);
    free(broken);
}

static void threads_do_not_matter(void)
{
    int method;
    for (method = 0; method < KINDS; method++) {
        run r[3];
        int i;
        for (i = 0; i < 3; i++) {
            if (!run_begin(&r[i], method, 1 << i)) return;
            r[i].o.augment.padding = 3;
            r[i].o.augment.flip = true;
            CHECK(run_train(&r[i]));
            check_same_run(&r[0], &r[i]);
        }
        for (i = 0; i < 3; i++) run_end(&r[i]);
    }
}

/* -- an outer loss of our own that watches ------------------------------------------------------- */

typedef struct watcher {
    int calls, nan_at, seen[IMAGES], batches[64];
} watcher;
static l2l_tensor *watching_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                 void *user)
{
    watcher *w = (watcher *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *loss = l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), labels));
    int i;
    for (i = 0; i < x->shape.n; i++) {
        int index = (int)floor((double)x->data[(int64_t)i * SIZE] * 128 + 0.5);
        if (index >= 0 && index < IMAGES) w->seen[index]++;
    }
    if (w->calls < COUNT(w->batches)) w->batches[w->calls] = x->shape.n;
    if (++w->calls == w->nan_at) loss = l2l_affine(c, loss, (double)NAN, 0);
    return loss;
}

static void stops_at_nan(void)
{
    int method;
    for (method = 0; method < KINDS; method++) {
        run r;
        watcher w;
        l2l_real *after;
        int64_t n;
        memset(&w, 0, sizeof w);
        if (!run_begin(&r, method, 1)) return;
        /* batches of 4 parts: the fourth's second part */
        w.nan_at = method == RNN_PARTS || method == L2LDA_PARTS ? 14 : 4;
        r.kind = PLAIN; /* but for its outer loss */
        r.o.method.outer.loss = watching_loss;
        r.o.method.outer.user = &w;
        r.o.method.outer.is_objective = false;
        CHECK(!run_train(&r));
        CHECK_ERROR(r.c, L2L_ERROR_NUMERIC, "");
        CHECK_INT(3, r.calls);
        after = all_parameters(r.m, &n);
        /* step 4 has no loss: back to what step 3 found its finite loss with */
        if (CHECK(r.before != NULL)) CHECK_BYTES(r.before, after, (size_t)n * sizeof(l2l_real));
        free(after);
        run_end(&r);
    }
}

/* Pixel 0 of image i is i/128. Every image that is not held out is trained on once per epoch, held
   out ones never; the last batch of an epoch is the rest. */
static void validation_split(void)
{
    run r;
    watcher w;
    int i, trained = 0;
    memset(&w, 0, sizeof w);
    if (!run_begin(&r, ADVTRAIN, 1)) return;
    for (i = 0; i < IMAGES; i++) r.x[i * SIZE] = (l2l_real)(i / 128.0);
    r.o.method.outer.loss = watching_loss;
    r.o.method.outer.user = &w;
    r.o.method.outer.is_objective = false;
    CHECK(run_train(&r));
    for (i = 0; i < IMAGES; i++) {
        CHECK(w.seen[i] == 0 || w.seen[i] == 2);
        trained += w.seen[i] > 0;
    }
    CHECK_INT(IMAGES - 20, trained);
    CHECK_INT(10, w.calls);
    CHECK_INT(16, w.batches[3]);
    CHECK_INT(6, w.batches[4]);
    CHECK_INT(6, w.batches[9]);
    CHECK(r.p.epoch_ended);
    CHECK(r.p.validation_natural >= 0 && r.p.validation_natural <= 1);
    CHECK(r.p.validation_robust >= 0 && r.p.validation_robust <= r.p.validation_natural + 1e-12);
    run_end(&r);
    if (!run_begin(&r, PLAIN, 1)) return;
    r.o.validation = 0;
    CHECK(run_train(&r));
    CHECK_NEAR(-1, r.p.validation_natural, 0);
    CHECK_NEAR(-1, r.p.validation_robust, 0);
    CHECK_INT(12, r.calls); /* 90 images: 5 batches and one of 10 */
    run_end(&r);
    if (!run_begin(&r, PLAIN, 1)) return;
    r.o.validation = IMAGES;
    CHECK(!run_train(&r));
    CHECK_ERROR(r.c, L2L_ERROR_ARGUMENT, "validation");
    run_end(&r);
}

/* Six images are six images, whatever the batch size says: SGD, whose step follows the size of the
   gradient, goes to the same place. */
static void short_batches(void)
{
    run r[2];
    l2l_progress p[2];
    int i;
    for (i = 0; i < 2; i++) {
        l2l_trainer *t;
        if (!run_begin(&r[i], RNN_ADV, 1)) return;
        r[i].o.batch = i ? 6 : 16;
        r[i].o.optimizer = l2l_sgd_default();
        r[i].o.epsilon_warm_up = 0;
        t = l2l_trainer_create(r[i].m, &r[i].d, &r[i].o);
        CHECK(t && l2l_train_step(t, r[i].x, r[i].labels, 6, &p[i]));
        l2l_trainer_free(t);
    }
    check_same_run(&r[0], &r[1]);
    CHECK_NEAR(p[0].loss, p[1].loss, 0);
    for (i = 0; i < 2; i++) run_end(&r[i]);
}

static void bad_batches(void)
{
    run r;
    l2l_trainer *t;
    l2l_progress p;
    l2l_real *before, *after;
    int64_t n;
    if (!run_begin(&r, RNN_ADV, 1)) return;
    t = l2l_trainer_create(r.m, &r.d, &r.o);
    before = all_parameters(r.m, &n);
    if (CHECK(t != NULL)) {
        r.labels[2] = CLASSES;
        CHECK(!l2l_train_step(t, r.x, r.labels, 6, &p));
        CHECK_ERROR(r.c, L2L_ERROR_ARGUMENT, "label");
        r.labels[2] = 0;
        r.x[3] = (l2l_real)NAN;
        CHECK(!l2l_train_step(t, r.x, r.labels, 6, &p));
        CHECK(l2l_error(r.c) == L2L_ERROR_ARGUMENT || l2l_error(r.c) == L2L_ERROR_NUMERIC);
        l2l_error_clear(r.c);
        r.x[3] = 0;
        CHECK(!l2l_train_step(t, r.x, r.labels, 0, &p));
        CHECK_ERROR(r.c, L2L_ERROR_ARGUMENT, "");
        after = all_parameters(r.m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
        free(after);
        CHECK(l2l_train_step(t, r.x, r.labels, 6, &p));
    }
    free(before);
    l2l_trainer_free(t);
    run_end(&r);
}

static bool refuse(void *self, l2l_inner *in)
{
    (void)self;
    (void)in;
    return false;
}
static bool agree(void *self, l2l_inner *in)
{
    (void)self;
    (void)in;
    return true;
}

static void bad_settings(void)
{
    static const char *const names[] = {"epochs", "batch", "epsilon", "T", "rate", "warm",
                                        "augment.padding 8", "augment.padding -1", "micro_batch",
                                        "gradient and update", "gradient and update"};
    int i;
    for (i = 0; i < COUNT(names); i++) {
        run r;
        l2l_trainer *t;
        if (!run_begin(&r, ADVTRAIN, 1)) return;
        if (i == 0) r.o.epochs = -1;
        if (i == 1) r.o.batch = 0;
        if (i == 2) r.o.epsilon = -0.1;
        if (i == 3) r.o.T = -1;
        if (i == 4) r.o.optimizer.rate = (double)NAN;
        if (i == 5) r.o.epsilon_warm_up = -0.5;
        if (i == 6) r.o.augment.padding = 8;
        if (i == 7) r.o.augment.padding = -1;
        if (i == 8) r.o.micro_batch = -1;
        if (i == 9) r.o.method.maximizer.update = refuse;
        if (i == 10) r.o.method.maximizer.gradient = refuse;
        t = l2l_trainer_create(r.m, &r.d, &r.o);
        CHECK(t == NULL);
        CHECK_ERROR(r.c, L2L_ERROR_ARGUMENT, names[i]);
        l2l_trainer_free(t);
        run_end(&r);
    }
}

static void learning(void)
{
    int method;
    for (method = 0; method < METHODS; method++) {
        run r;
        l2l_real *phi;
        if (!run_begin(&r, method, 2)) return;
        phi = test_array(491);
        memcpy(phi, l2l_learned_parameters(r.phi), 491 * sizeof(l2l_real));
        r.o.epochs = 30;
        r.o.optimizer.rate = 1e-2;
        CHECK(run_train(&r));
        CHECK_NEAR(0.1, r.p.epsilon, 1e-9); /* after the warm-up */
        CHECK_INT(150, r.calls);
        CHECK(r.p.validation_natural > 0.9);
        if (method != PLAIN) CHECK(r.p.validation_robust > 0.6);
        if (method != PLAIN) CHECK(r.p.gain > 0);
        CHECK((memcmp(phi, l2l_learned_parameters(r.phi), 491 * sizeof(l2l_real)) != 0) ==
              (method == RNN_ADV));
        if (test_complaints)
            printf("    method %d: natural %g, robust %g, gain %g\n", method, r.p.validation_natural,
                   r.p.validation_robust, r.p.gain);
        free(phi);
        run_end(&r);
    }
}

static void best_model(void)
{
    run r;
    l2l_trainer *t;
    l2l_model *best;
    if (!run_begin(&r, ADVTRAIN, 1)) return;
    r.o.epochs = 6;
    r.o.optimizer.rate = 2e-2;
    t = l2l_trainer_create(r.m, &r.d, &r.o);
    CHECK(t && l2l_train(t));
    best = t ? l2l_trainer_best(t) : NULL;
    if (CHECK(best && r.best)) CHECK_SAME_MODEL(r.best, best);
    l2l_model_free(best);
    l2l_trainer_free(t);
    run_end(&r);
}

/* What comes behind the last step of an epoch, validation, callback and checkpoint, is made up for
   where it failed. */
static int refusals;
static bool refuse_once(void *user, int done, int total)
{
    (void)user;
    (void)done;
    (void)total;
    return refusals-- <= 0;
}

static bool unpack_nothing(void *self, const double *numbers, int64_t n)
{
    (void)self;
    (void)numbers;
    return n == 0;
}

static void epochs_end_is_owed(void)
{
    char *checkpoint = path("owed.l2l");
    run a, b;
    l2l_trainer *t;
    FILE *f;
    if (!run_begin(&a, RNN_ADV, 2) || !run_begin(&b, RNN_ADV, 2)) return;
    a.o.epochs = b.o.epochs = 1;
    a.o.validation_attack.progress = b.o.validation_attack.progress = refuse_once;
    refusals = 0;
    CHECK(run_train(&a));
    remove(checkpoint);
    b.o.checkpoint = checkpoint;
    refusals = 1;
    t = l2l_trainer_create(b.m, &b.d, &b.o);
    CHECK(t && !l2l_train(t));
    CHECK_ERROR(b.c, L2L_ERROR_CANCELLED, "");
    l2l_error_clear(b.c);
    CHECK_INT(a.calls - 1, b.calls);
    CHECK(l2l_train(t));
    CHECK_INT(a.calls, b.calls);
    CHECK(b.p.epoch_ended && b.p.best && b.p.epoch == 0);
    CHECK_NEAR(a.p.epoch_loss, b.p.epoch_loss, 0);
    CHECK_NEAR(a.p.epoch_accuracy, b.p.epoch_accuracy, 0);
    CHECK_NEAR(a.p.validation_natural, b.p.validation_natural, 0);
    CHECK_NEAR(a.p.validation_robust, b.p.validation_robust, 0);
    f = fopen(checkpoint, "rb");
    if (CHECK(f)) fclose(f);
    check_same_run(&a, &b);
    CHECK(l2l_train(t)); /* and that is the end */
    CHECK_INT(a.calls, b.calls);
    l2l_trainer_free(t);
    run_end(&a);
    run_end(&b);
    free(checkpoint);
}

/* A checkpoint that is saved before the end has been made up for has it to be made up for. */
static void owed_in_a_checkpoint(void)
{
    char *checkpoint = path("owes.l2l");
    run a, b, d;
    l2l_trainer *t;
    if (!run_begin(&a, RNN_ADV, 2) || !run_begin(&b, RNN_ADV, 2) || !run_begin(&d, RNN_ADV, 1)) return;
    a.o.validation_attack.progress = b.o.validation_attack.progress = refuse_once;
    refusals = 0;
    CHECK(run_train(&a));
    refusals = 1;
    t = l2l_trainer_create(b.m, &b.d, &b.o);
    CHECK(t && !l2l_train(t));
    CHECK_ERROR(b.c, L2L_ERROR_CANCELLED, "");
    l2l_error_clear(b.c);
    CHECK(l2l_trainer_save(t, checkpoint));
    l2l_trainer_free(t);
    t = l2l_trainer_create(d.m, &d.d, &d.o);
    CHECK(t && l2l_trainer_resume(t, checkpoint) && l2l_train(t));
    CHECK_INT(a.calls, b.calls + d.calls);
    CHECK_NEAR(a.p.epoch_loss, d.p.epoch_loss, 0);
    if (CHECK(a.best && d.best)) CHECK_SAME_MODEL(a.best, d.best);
    CHECK_SAME_MODEL(a.m, d.m);
    l2l_trainer_free(t);
    remove(checkpoint);
    run_end(&a);
    run_end(&b);
    run_end(&d);
    free(checkpoint);
}

static void owed_report(void)
{
    char *checkpoint = path("owed_report.l2l");
    run a, b, d;
    l2l_trainer *t;
    if (!run_begin(&a, RNN_ADV, 2) || !run_begin(&b, RNN_ADV, 2) || !run_begin(&d, RNN_ADV, 1)) return;
    a.o.epochs = b.o.epochs = d.o.epochs = 1;
    a.o.validation_attack.progress = b.o.validation_attack.progress = refuse_once;
    refusals = 0;
    CHECK(run_train(&a));
    refusals = 1;
    t = l2l_trainer_create(b.m, &b.d, &b.o);
    CHECK(t && !l2l_train(t));
    CHECK_ERROR(b.c, L2L_ERROR_CANCELLED, "");
    l2l_error_clear(b.c);
    CHECK(l2l_trainer_save(t, checkpoint));
    l2l_trainer_free(t);
    t = l2l_trainer_create(d.m, &d.d, &d.o);
    CHECK(t && l2l_trainer_resume(t, checkpoint) && l2l_train(t));
    CHECK(d.p.loss > 0 && d.p.epsilon > 0);
    CHECK_NEAR(a.p.loss, d.p.loss, 0);
    CHECK_NEAR(a.p.accuracy, d.p.accuracy, 0);
    CHECK_NEAR(a.p.epsilon, d.p.epsilon, 0);
    CHECK_NEAR(a.p.rate, d.p.rate, 0);
    CHECK_NEAR(a.p.gain, d.p.gain, 0);
    CHECK_NEAR(a.p.saturated, d.p.saturated, 0);
    l2l_trainer_free(t);
    remove(checkpoint);
    run_end(&a);
    run_end(&b);
    run_end(&d);
    free(checkpoint);
}

/* To a checkpoint from before there was a best model, in a trainer that has one by now; and one that
   is refused leaves it. */
static void back_again(void)
{
    char *checkpoint = path("begun.l2l");
    run a;
    l2l_trainer *t;
    l2l_model *best, *first;
    l2l_real *values, *again;
    int64_t n, m;
    if (!run_begin(&a, RNN_ADV, 2)) return;
    t = l2l_trainer_create(a.m, &a.d, &a.o);
    CHECK(t && l2l_trainer_save(t, checkpoint) && l2l_train(t));
    values = all_parameters(a.m, &n);
    best = t ? l2l_trainer_best(t) : NULL;
    a.epsilon_before = 0;
    CHECK(t && l2l_trainer_resume(t, checkpoint) && l2l_train(t));
    again = all_parameters(a.m, &m);
    if (CHECK_INT(n, m)) CHECK_BYTES(values, again, (size_t)n * sizeof *again);
    first = t ? l2l_trainer_best(t) : NULL;
    if (CHECK(best && first)) CHECK_SAME_MODEL(best, first);
    l2l_trainer_note(t)->number = -1;
    CHECK(!l2l_trainer_save(t, checkpoint));
    CHECK_ERROR(a.c, L2L_ERROR_ARGUMENT, "note.number is -1, not in 0 to 2^53");
    l2l_trainer_note(t)->number = 0;
    CHECK(l2l_trainer_resume(t, checkpoint)); /* it is what it was */
    l2l_model_free(best);
    l2l_model_free(first);
    l2l_trainer_free(t);
    remove(checkpoint);
    free(values);
    free(again);
    free(checkpoint);
    run_end(&a);
}

/* The last step's parameters are checked where the images are the caller's, too; and whoever makes
   steps by hand goes on by hand. */
static void steps_by_hand(void)
{
    run a;
    l2l_trainer *t;
    l2l_progress p;
    l2l_real *before, *after;
    int64_t n;
    if (!run_begin(&a, PLAIN, 1)) return;
    a.o.steps = 1;
    a.o.validation = 0;
    a.o.optimizer = l2l_sgd_default();
    a.o.optimizer.rate = 9e5;
    a.o.optimizer.weight_decay = 3e38;
    before = all_parameters(a.m, &n);
    t = l2l_trainer_create(a.m, NULL, &a.o);
    CHECK(t && !l2l_train_step(t, a.x, a.labels, 4, &p));
    CHECK_ERROR(a.c, L2L_ERROR_NUMERIC, "the last step's parameters are not finite");
    after = all_parameters(a.m, &n);
    CHECK_BYTES(before, after, (size_t)n * sizeof *after);
    l2l_trainer_free(t);
    a.o = l2l_train_default();
    t = l2l_trainer_create(a.m, &a.d, &a.o);
    CHECK(t && l2l_train_step(t, a.x, a.labels, 4, &p) && !l2l_train(t));
    CHECK_ERROR(a.c, L2L_ERROR_ARGUMENT, "l2l_train: of this trainer's 1 steps some");
    CHECK(l2l_train_step(t, a.x, a.labels, 4, &p));
    l2l_trainer_free(t);
    a.o.method.maximizer.pack = (int64_t (*)(void *, double *))NULL;
    a.o.method.maximizer.unpack = unpack_nothing;
    CHECK(!l2l_trainer_create(a.m, &a.d, &a.o));
    CHECK_ERROR(a.c, L2L_ERROR_ARGUMENT, "needs both pack and unpack");
    free(before);
    free(after);
    run_end(&a);
}

/* m <- d_s m + (1-d_s) theta in double, beside the training of a run. */
static double folded[4096];
static bool folding_progress(void *user, const l2l_progress *p)
{
    run *r = (run *)user;
    double s = (double)p->step, d = fmin(r->o.averaging, (1 + s) / (10 + s));
    bool on = run_progress(user, p);
    int64_t i;
    for (i = 0; i < r->last_count; i++)
        folded[i] = d * folded[i] + (1 - d) * (double)r->last[i];
    return on;
}

/* Trains from the checkpoint, if it is there, to step `stop` (0: the end); the averaged model. */
static l2l_model *averaged_run(run *r, const char *checkpoint, int64_t stop)
{
    l2l_trainer *t;
    l2l_model *mean;
    if (!run_begin(r, RNN_ADV, 2)) return NULL;
    r->o.averaging = 0.4;
    r->o.checkpoint = checkpoint;
    r->o.resume = checkpoint != NULL;
    r->o.progress = folding_progress;
    r->stop_at = stop;
    t = l2l_trainer_create(r->m, &r->d, &r->o);
    CHECK(t && l2l_train(t) == !stop);
    l2l_error_clear(r->c);
    mean = t ? l2l_trainer_averaged(t) : NULL;
    l2l_trainer_free(t);
    return mean;
}

static void averaging(void)
{
    char *checkpoint = path("averaged.l2l");
    run a, b, d;
    l2l_model *mean, *part, *whole;
    l2l_real *values;
    int64_t n, i;
    if (!run_begin(&a, RNN_ADV, 2)) return;
    values = all_parameters(a.m, &n);
    for (i = 0; CHECK(n <= COUNT(folded)) && i < n; i++) folded[i] = (double)values[i];
    free(values);
    run_end(&a);
    mean = averaged_run(&a, NULL, 0);
    values = mean ? all_parameters(mean, &n) : NULL;
    for (i = 0; CHECK(values) && i < n; i++) CHECK_NEAR(folded[i], (double)values[i], 1e-6);
    free(values);
    remove(checkpoint);
    part = averaged_run(&b, checkpoint, 4);
    whole = averaged_run(&d, checkpoint, 0);
    if (CHECK(mean && whole)) CHECK_SAME_MODEL(mean, whole);
    l2l_model_free(mean);
    l2l_model_free(part);
    l2l_model_free(whole);
    run_end(&a);
    run_end(&b);
    run_end(&d);
    free(checkpoint);
}

/* Neither an option that is off nor parameters that blew up give an average that is none. */
static void no_averaging(void)
{
    run r;
    l2l_trainer *t;
    l2l_model *mean;
    l2l_real *values;
    int64_t n = 0, i;
    if (!run_begin(&r, PLAIN, 1)) return;
    t = l2l_trainer_create(r.m, &r.d, &r.o);
    CHECK(!l2l_trainer_averaged(t));
    CHECK_ERROR(r.c, L2L_ERROR_ARGUMENT, "averaging is 0");
    l2l_error_clear(r.c);
    l2l_trainer_free(t);
    r.o.averaging = 1;
    CHECK(!l2l_trainer_create(r.m, &r.d, &r.o));
    CHECK_ERROR(r.c, L2L_ERROR_ARGUMENT, "averaging");
    l2l_error_clear(r.c);
    r.o.averaging = 0.9;
    r.o.optimizer = l2l_sgd_default();
    r.o.optimizer.rate = 9e5;
    r.o.optimizer.weight_decay = 1e12;
    t = l2l_trainer_create(r.m, &r.d, &r.o);
    CHECK(t && !l2l_train(t));
    l2l_error_clear(r.c);
    mean = l2l_trainer_averaged(t);
    values = mean ? all_parameters(mean, &n) : NULL;
    for (i = 0; CHECK(values) && i < n; i++) CHECK(fabs((double)values[i]) <= 3.4e38);
    free(values);
    l2l_model_free(mean);
    l2l_trainer_free(t);
    run_end(&r);
}

static l2l_tensor *flat_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_linear(m, "fc", x, CLASSES, L2L_LAST);
}

/* An update that blows the parameters up shows one step later: what is left must still classify. */
static void survives_divergence(void)
{
    run r;
    l2l_real logits[CLASSES * 4];
    int i;
    if (!run_begin(&r, PLAIN, 1)) return;
    r.o.optimizer = l2l_sgd_default();
    r.o.optimizer.rate = 9e5;
    r.o.optimizer.weight_decay = 1e12;
    CHECK(!run_train(&r));
    CHECK_ERROR(r.c, L2L_ERROR_NUMERIC, "");
    l2l_error_clear(r.c);
    if (CHECK(l2l_model_logits(r.m, r.x, 4, logits)))
        for (i = 0; i < CLASSES * 4; i++) CHECK(fabs((double)logits[i]) <= 3.4e38);
    run_end(&r);
}

static bool failing_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    int i;
    (void)index;
    for (i = 0; i < SIZE; i++) chw[i] = (l2l_real)0.5;
    *label = 0;
    return *(int *)d->self != 0;
}

static void callbacks_fail(void)
{
    int kind;
    for (kind = 0; kind < 4; kind++) {
        run r;
        int works = kind > 0;
        l2l_dataset own;
        if (!run_begin(&r, ADVTRAIN, 1)) return;
        own = r.d;
        if (kind < 2) {
            r.d.fetch = failing_fetch;
            r.d.self = &works;
            r.d.release = NULL;
        }
        if (kind == 1) r.d.count = 0x7fffffff / 1024; /* streamed; only a few are ever asked for */
        if (kind == 1 || kind == 3) {
            r.o.method.maximizer.gradient = kind == 1 ? refuse : agree;
            r.o.method.maximizer.update = kind == 1 ? agree : refuse;
        }
        if (kind == 2) r.o.method.maximizer.begin = refuse;
        CHECK(!run_train(&r));
        CHECK_ERROR(r.c, L2L_ERROR_CALLBACK, "");
        r.d = own;
        run_end(&r);
    }
}

/* A zero last layer that is not moved (rate 0) stays at ln 5 with one class for everything. */
static void plateau(void)
{
    run r;
    l2l_model_options o = own_options("flat", flat_forward, 1, 8, CLASSES);
    int on;
    o.last_layer_deviation = 0;
    for (on = 0; on < 2; on++) {
        if (!run_begin(&r, PLAIN, 1)) return;
        l2l_model_free(r.m);
        r.m = l2l_model_create(r.c, &o);
        r.o.optimizer = l2l_sgd_default();
        r.o.optimizer.rate = 0;
        r.o.epochs = 70;
        r.o.validation = 0;
        r.o.batch = 18; /* 5 steps an epoch */
        r.o.stop_on_plateau = on != 0;
        if (on) {
            CHECK(!run_train(&r));
            CHECK(r.calls >= 299 && r.calls <= 301);
            CHECK(l2l_error(r.c) != L2L_OK);
            CHECK_CONTAINS("plateau", l2l_error_text(r.c));
            l2l_error_clear(r.c);
        } else {
            CHECK(run_train(&r));
            CHECK_INT(350, r.calls);
        }
        run_end(&r);
    }
}

/* An epoch of 70 images in batches of 16 and parts of 5 has four times 5 + 5 + 5 + 1 and once 5 + 1;
   the first part of a batch is number 0. */
static void calls_of_the_maximizer(void)
{
    run r;
    parts *s = (parts *)test_memory(sizeof *s);
    if (!run_begin(&r, RNN_PARTS, 1)) return;
    s->inner = r.o.method.maximizer;
    r.o.method.maximizer.self = s;
    r.o.method.maximizer.begin = parts_begin;
    r.o.method.maximizer.step = parts_step;
    r.o.method.maximizer.gradient = parts_gradient;
    r.o.method.maximizer.update = parts_update;
    r.o.method.maximizer.pack = NULL;
    r.o.method.maximizer.unpack = NULL;
    CHECK(run_train(&r));
    CHECK_INT(2 * 18, s->begins);
    CHECK_INT(2 * 18, s->gradients);
    CHECK_INT(2 * 5, s->updates);
    CHECK_INT(10, s->first[2]);
    CHECK_INT(5, s->n[2]);
    CHECK_INT(15, s->first[3]);
    CHECK_INT(1, s->n[3]);
    CHECK_INT(0, s->first[4]);
    CHECK_INT(6, s->batch);                  /* the last batch                                    */
    CHECK_INT(5, s->last);
    run_end(&r);
    free(s);
}

/* The figures of an epoch are those of whole batches: nothing in plain training depends on signs, so
   rounding stays small. */
static void epoch_in_parts(void)
{
    run a, b;
    if (!run_begin(&a, PLAIN, 1) || !run_begin(&b, PLAIN, 1)) return;
    b.o.micro_batch = 5;
    a.o.optimizer = b.o.optimizer = l2l_sgd_default();
    CHECK(run_train(&a) && run_train(&b));
    CHECK_INT(a.calls, b.calls);
    CHECK(a.p.epoch_ended && b.p.epoch_ended);
    CHECK_NEAR(a.p.epoch_loss, b.p.epoch_loss, 1e-5);
    CHECK_NEAR(a.p.epoch_accuracy, b.p.epoch_accuracy, 1e-12);
    CHECK_NEAR(a.p.validation_robust, b.p.validation_robust, 1e-12);
    run_end(&a);
    run_end(&b);
}

/* Training mode: the running statistics move once for a step, by the mean of the moves that the parts
   make when they pass through the classifier by hand, each from where the statistics were. */
static void batch_norm_in_parts(void)
{
    micro *r = micro_begin(MICRO_PLAIN, MICRO_NORMED, 9, 1);
    l2l_model *twin = l2l_model_clone(r->c, r->m);
    double mean[2][8] = {{0}};
    l2l_real was[8], is[8];
    int i, k, first, n, found = 0, statistics[2] = {0, 0};
    l2l_trainer_free(r->t);
    r->o.method.outer = l2l_outer_cross_entropy();
    r->t = l2l_trainer_create(r->m, &r->d, &r->o);
    for (i = 0; i < l2l_model_parameters(twin) && found < 2; i++)
        if (!l2l_model_parameter(twin, i).trainable &&
            l2l_count(l2l_model_parameter(twin, i).value->shape) == 8)
            statistics[found++] = i;
    CHECK_INT(2, found);
    for (first = 0; first < MICRO_N; first += n) {
        l2l_mark mark = l2l_mark_here(r->c);
        n = MICRO_N - first < 9 ? MICRO_N - first : 9;
        CHECK(l2l_model_copy(twin, r->m));
        CHECK(l2l_model_forward(twin, l2l_from_nchw(r->c, r->x + first * MICRO_PIXELS,
                                                    l2l_shape_of(n, 6, 6, 2)), L2L_TRAIN));
        for (i = 0; i < 2; i++) {
            CHECK(l2l_parameter_get(twin, statistics[i], is));
            for (k = 0; k < 8; k++) mean[i][k] += n * (double)is[k] / MICRO_N;
        }
        l2l_release(r->c, mark);
    }
    CHECK(l2l_model_copy(twin, r->m) && micro_step(r));
    for (i = 0; i < 2; i++) {
        CHECK(l2l_parameter_get(twin, statistics[i], was));
        CHECK(l2l_parameter_get(r->m, statistics[i], is));
        for (k = 0; k < 8; k++) {
            CHECK(fabs(mean[i][k] - (double)was[k]) > 1e-3);
            CHECK_NEAR(mean[i][k], is[k], 1e-6);
        }
    }
    l2l_model_free(twin);
    micro_end(r);
}

/* In parts of one image each part says one class, but a plateau is one class for the whole batch: here
   of all images, or of half of them. Pixel 0 decides by a hair, so that the loss is near ln 4. */
static void plateau_in_parts(void)
{
    int constant, i;
    for (constant = 0; constant < 2; constant++) {
        micro *r = micro_begin(MICRO_PLAIN, MICRO_SMOOTH, 1, 1);
        l2l_model_options o = own_options("one pixel", linear_forward, 2, 6, 4);
        l2l_model *m = l2l_model_create(r->c, &o);
        l2l_real weight[4 * MICRO_PIXELS] = {0}, bias[4] = {0};
        l2l_trainer *t;
        weight[0] = (l2l_real)1e-3;
        bias[1] = (l2l_real)5e-4;
        CHECK(m && l2l_parameter_set(m, 0, weight) && l2l_parameter_set(m, 1, bias));
        for (i = 0; i < MICRO_N; i++) r->x[i * MICRO_PIXELS] = (l2l_real)(constant ? 0 : i % 2);
        r->o.epochs = 310;
        r->o.optimizer.rate = 0;
        r->o.stop_on_plateau = true;
        t = l2l_trainer_create(m, &r->d, &r->o);
        CHECK(t && l2l_train(t) == !constant);
        if (constant) CHECK_ERROR(r->c, L2L_ERROR_NUMERIC, "plateau");
        l2l_trainer_free(t);
        l2l_model_free(m);
        micro_end(r);
    }
}

/* -- crops and flips: 40 images of 2 x HIGH x WIDE for a model of 2 x 6 x 6. The label of an image
   is its number. -------------------------------------------------------------------------------- */

enum { CROPPED = 40, HIGH = 9, WIDE = 7, CROP = 6, PAD = 2,
       TOPS = HIGH + 2 * PAD - CROP + 1, LEFTS = WIDE + 2 * PAD - CROP + 1 };

typedef struct crops {
    l2l_context *c;
    l2l_real *x;
    int labels[CROPPED];
    l2l_dataset d;
    l2l_model *m;
    l2l_train_options o;
    l2l_progress p;
    int64_t images;          /* that the outer loss was shown */
    int seen[TOPS][LEFTS], flips;
} crops;

/* The image that the documentation promises: padded, cut out, turned round, one after the other. */
static void crop_twin(crops *k, int image, uint32_t epoch, l2l_real *chw)
{
    static const int H = HIGH + 2 * PAD, W = WIDE + 2 * PAD;
    l2l_real padded[2][HIGH + 2 * PAD][WIDE + 2 * PAD], cut[2][CROP][CROP];
    int pad = k->o.augment.padding, ch, i, j, top, left;
    bool flip;
    l2l_stream s;
    s.seed = k->o.seed;
    s.purpose = L2L_RANDOM_AUGMENT;
    s.epoch = epoch;
    s.image = (uint32_t)image;
    s.step = 0;
    top = (int)floor((double)l2l_random_bits(&s, 0) * (HIGH + 2 * pad - CROP + 1) / 4294967296.0);
    left = (int)floor((double)l2l_random_bits(&s, 1) * (WIDE + 2 * pad - CROP + 1) / 4294967296.0);
    flip = k->o.augment.flip && l2l_random_bits(&s, 2) >= 0x80000000u;
    for (ch = 0; ch < 2; ch++)
        for (i = 0; i < H; i++)
            for (j = 0; j < W; j++) padded[ch][i][j] = 0;
    for (ch = 0; ch < 2; ch++)
        for (i = 0; i < HIGH; i++)
            for (j = 0; j < WIDE; j++)
                padded[ch][pad + i][pad + j] = k->x[((image * 2 + ch) * HIGH + i) * WIDE + j];
    for (ch = 0; ch < 2; ch++)
        for (i = 0; i < CROP; i++)
            for (j = 0; j < CROP; j++) cut[ch][i][j] = padded[ch][top + i][left + j];
    for (ch = 0; ch < 2; ch++)
        for (i = 0; i < CROP; i++)
            for (j = 0; j < CROP; j++)
                *chw++ = flip ? cut[ch][i][CROP - 1 - j] : cut[ch][i][j];
    k->seen[top][left]++;
    k->flips += flip;
}

static l2l_tensor *crops_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                              void *user)
{
    crops *k = (crops *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_real *got = test_array(l2l_count(x->shape)), expected[2 * CROP * CROP];
    int i;
    CHECK(l2l_to_nchw(c, x, got));
    for (i = 0; i < x->shape.n; i++, k->images++) {
        crop_twin(k, labels[i], (uint32_t)(k->images / CROPPED), expected);
        if (!CHECK_BYTES(expected, got + i * COUNT(expected), sizeof expected))
            printf("    image %d, shown as number %ld\n", labels[i], (long)k->images);
    }
    free(got);
    return l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), labels));
}

static bool crops_progress(void *user, const l2l_progress *p)
{
    ((crops *)user)->p = *p;
    return true;
}

static int crops_begin(crops *k, int threads)
{
    l2l_model_options o = own_options("linear", linear_forward, 2, CROP, CROPPED);
    int i;
    memset(k, 0, sizeof *k);
    k->c = test_context(threads);
    k->x = test_array(CROPPED * 2 * HIGH * WIDE);
    golden_fill(k->x, CROPPED * 2 * HIGH * WIDE, 640, 0.1, 1); /* nothing is black but the padding */
    for (i = 0; i < CROPPED; i++) k->labels[i] = i;
    k->m = l2l_model_create(k->c, &o);
    k->o = l2l_train_default();
    k->o.method = l2l_method_plain();
    k->o.epochs = 2;
    k->o.batch = 16;
    k->o.augment.padding = PAD;
    k->o.augment.flip = true;
    k->o.seed = 0x123456789u;
    k->o.progress = crops_progress;
    k->o.user = k;
    return CHECK(k->m != NULL) &&
           CHECK(l2l_dataset_from_arrays(k->c, k->x, k->labels, CROPPED, 2, HIGH, WIDE, CROPPED,
                                         &k->d));
}
static void crops_watch(crops *k)
{
    k->o.method.outer.loss = crops_loss;
    k->o.method.outer.user = k;
    k->o.method.outer.is_objective = false;
}
static void crops_train(crops *k)
{
    l2l_trainer *t = l2l_trainer_create(k->m, &k->d, &k->o);
    CHECK(t && l2l_train(t));
    CHECK_OK(k->c);
    l2l_trainer_free(t);
}
static void crops_end(crops *k)
{
    CHECK_OK(k->c);
    l2l_model_free(k->m);
    l2l_dataset_free(&k->d);
    l2l_context_free(k->c);
    free(k->x);
}

/* The twin knows neither batch nor threads. */
static void crops_and_flips(void)
{
    static const struct { int padding; bool flip; int batch, micro_batch, threads; } cases[] = {
        {PAD, true, 16, 0, 1}, {PAD, true, 16, 5, 1}, {PAD, true, 7, 0, 2}, {PAD, true, 1, 0, 1},
        {PAD, false, 16, 0, 2}, {0, true, 40, 0, 1}, {0, false, 40, 0, 1}, {1, true, 64, 0, 2}};
    int i;
    for (i = 0; i < COUNT(cases); i++) {
        crops k;
        int before = test_complaints;
        if (!crops_begin(&k, cases[i].threads)) return;
        crops_watch(&k);
        k.o.augment.padding = cases[i].padding;
        k.o.augment.flip = cases[i].flip;
        k.o.batch = cases[i].batch;
        k.o.micro_batch = cases[i].micro_batch;
        crops_train(&k);
        CHECK_INT(2 * CROPPED, k.images);
        crops_end(&k);
        if (test_complaints > before) printf("    case %d\n", i);
    }
}

static void all_crops_occur(void)
{
    crops k;
    int i, j;
    double draws = 60 * CROPPED, each = draws / (TOPS * LEFTS), off = 0;
    if (!crops_begin(&k, 1)) return;
    crops_watch(&k);
    k.o.epochs = 60;
    crops_train(&k);
    for (i = 0; i < TOPS; i++)
        for (j = 0; j < LEFTS; j++) {
            CHECK(k.seen[i][j] > 0);
            off += (k.seen[i][j] - each) * (k.seen[i][j] - each) / each;
        }
    CHECK(off < 95); /* chi-squared, 47 degrees of freedom: more with a probability of 4e-5 */
    CHECK_NEAR(draws / 2, k.flips, 4 * sqrt(draws) / 2);
    crops_end(&k);
}

/* Images of the caller's own batch stay as they are. */
static void given_images_stay(void)
{
    crops k;
    l2l_trainer *t;
    l2l_progress p[2];
    l2l_real x[3 * 2 * CROP * CROP];
    int i;
    golden_fill(x, COUNT(x), 641, 0, 1);
    for (i = 0; i < 2; i++) {
        if (!crops_begin(&k, 1)) return;
        if (i) k.o.augment.padding = k.o.augment.flip = 0;
        t = l2l_trainer_create(k.m, &k.d, &k.o);
        CHECK(t && l2l_train_step(t, x, k.labels, 3, &p[i]));
        l2l_trainer_free(t);
        crops_end(&k);
    }
    CHECK_NEAR(p[0].loss, p[1].loss, 0);
}

/* Evaluation and validation take the centre, where torchvision's CenterCrop has it. */
static void centre_crops(void)
{
    static const int margin[] = {0, 0, 1, 2, 2, 2, 3, 4, 4}; /* Python's round(more / 2) */
    int more;
    for (more = 0; more < COUNT(margin); more++) {
        crops k;
        int high = CROP + more, wide = CROP + (more + 3) % COUNT(margin), which, i, j, ch, at = 0;
        int top = margin[more], left = margin[wide - CROP];
        l2l_real *x = test_array(CROPPED * 2 * high * wide);
        l2l_real *cut = test_array(CROPPED * 2 * CROP * CROP), *out = test_array(CROPPED * 72);
        double natural[2], validation[2];
        if (!crops_begin(&k, 1)) return;
        golden_fill(x, CROPPED * 2 * high * wide, 642, 0, 1);
        for (i = 0; i < CROPPED * 2; i++)
            for (j = 0; j < CROP; j++)
                for (ch = 0; ch < CROP; ch++)
                    cut[at++] = x[(i * high + top + j) * wide + left + ch];
        for (i = 0; i < CROPPED; i++) k.labels[i] = i % 2 ? 0 : i; /* an accuracy that is not 0 */
        for (which = 0; which < 2; which++) {
            l2l_evaluation_options eo = l2l_evaluation_default();
            l2l_attack none = l2l_attack_ifgsm(0), fgsm = l2l_attack_fgsm(0.1);
            l2l_evaluation e;
            l2l_result r;
            l2l_dataset_free(&k.d);
            CHECK(l2l_dataset_from_arrays(k.c, which ? cut : x, k.labels, CROPPED, 2,
                                          which ? CROP : high, which ? CROP : wide, CROPPED, &k.d));
            none.steps = 0;
            eo.batch = which ? 40 : 7;
            if (CHECK(l2l_evaluation_begin(k.m, &k.d, &eo, &e))) {
                CHECK(l2l_evaluation_attack(&e, &none, &r, NULL, out));
                CHECK_BYTES(cut, out, (size_t)CROPPED * 72 * sizeof *out);
                CHECK(l2l_evaluation_attack(&e, &fgsm, &r, NULL, NULL));
                natural[which] = e.natural;
                l2l_evaluation_end(&e);
            }
            k.o.validation = 20;
            k.o.optimizer = l2l_sgd_default();
            k.o.optimizer.rate = 0; /* the model stays what it is */
            crops_train(&k);
            validation[which] = k.p.validation_natural;
        }
        CHECK_NEAR(natural[1], natural[0], 0);
        CHECK_NEAR(validation[1], validation[0], 0);
        crops_end(&k);
        free(x);
        free(cut);
        free(out);
    }
}

static void images_too_small(void)
{
    crops k;
    l2l_evaluation_options eo = l2l_evaluation_default();
    l2l_evaluation e;
    int i;
    if (!crops_begin(&k, 1)) return;
    for (i = 0; i < 2; i++) {
        k.d.height = i ? HIGH : CROP - 1;
        k.d.width = i ? CROP - 1 : WIDE;
        CHECK(l2l_trainer_create(k.m, &k.d, &k.o) == NULL);
        CHECK_ERROR(k.c, L2L_ERROR_SHAPE, i ? "2x9x5 (CxHxW) and a model for 2x6x6" : "2x5x7");
        CHECK(!l2l_evaluation_begin(k.m, &k.d, &eo, &e));
        CHECK_ERROR(k.c, L2L_ERROR_SHAPE, i ? "2x9x5 (CxHxW) and a model for 2x6x6" : "2x5x7");
    }
    crops_end(&k);
}

/* What a data set gives is checked before it is cut: the error names the image by its number. */
static void cropped_images_are_checked(void)
{
    crops k;
    l2l_evaluation_options eo = l2l_evaluation_default();
    l2l_evaluation e;
    l2l_trainer *t;
    if (!crops_begin(&k, 1)) return;
    k.x[(13 * 2 + 1) * HIGH * WIDE] = 2; /* a corner: no crop in the centre has it */
    CHECK(!l2l_evaluation_begin(k.m, &k.d, &eo, &e));
    CHECK_ERROR(k.c, L2L_ERROR_ARGUMENT, "evaluation: value 63 of image 13 is 2");
    t = l2l_trainer_create(k.m, &k.d, &k.o);
    CHECK(t && !l2l_train(t));
    CHECK_ERROR(k.c, L2L_ERROR_ARGUMENT, "training: value 63 of image 13 is 2");
    l2l_trainer_free(t);
    crops_end(&k);
}

/* Half the rate from the middle on; a short linear rise at the beginning. */
static bool schedule_progress(void *user, const l2l_progress *p)
{
    run *r = (run *)user;
    /* p->step counts the steps made: this one was number p->step - 1. p->rate is the factor, or the
       rate itself: with rate 1 that is the same. */
    CHECK_NEAR(l2l_schedule_factor(&r->o.schedule, p->step - 1, p->steps), p->rate, 1e-12);
    r->calls++;
    return true;
}
static void rate_schedule(void)
{
    run r, s;
    int i;
    l2l_real *a, *b;
    int64_t n;
    if (!run_begin(&r, PLAIN, 1)) return;
    r.o.optimizer = l2l_sgd_default();
    r.o.optimizer.rate = 1;
    r.o.optimizer.momentum = 0;
    r.o.schedule.kind = L2L_STEPS;
    r.o.schedule.warm_up = 0.2;
    r.o.schedule.milestones[0] = 0.5;
    r.o.schedule.factor = 0.5;
    r.o.progress = schedule_progress;
    CHECK(run_train(&r));
    CHECK_INT(10, r.calls);
    run_end(&r);
    /* A factor of 0 from the first milestone on leaves theta where it was. */
    for (i = 0; i < 2; i++) {
        if (!run_begin(i ? &s : &r, PLAIN, 1)) return;
        (i ? &s : &r)->o.epochs = 2;
        (i ? &s : &r)->o.optimizer = l2l_sgd_default();
        (i ? &s : &r)->o.optimizer.momentum = 0;
    }
    s.o.schedule.kind = L2L_STEPS;
    s.o.schedule.milestones[0] = 0.5;
    s.o.schedule.factor = 0;
    r.stop_at = 5;
    CHECK(!run_train(&r));
    CHECK_ERROR(r.c, L2L_ERROR_CANCELLED, "");
    CHECK(run_train(&s));
    a = all_parameters(r.m, &n);
    b = all_parameters(s.m, &n);
    CHECK_BYTES(a, b, (size_t)n * sizeof(l2l_real));
    free(a);
    free(b);
    run_end(&r);
    run_end(&s);
}

static void warm_up(void)
{
    run r;
    if (!run_begin(&r, ADVTRAIN, 1)) return;
    r.o.epochs = 10; /* 50 steps, epsilon rises over 15 */
    r.stop_at = 8;
    CHECK(!run_train(&r));
    CHECK_ERROR(r.c, L2L_ERROR_CANCELLED, "");
    CHECK_NEAR(0.1 * 8 / 15, r.p.epsilon, 0.1 / 15 + 1e-9);
    run_end(&r);
}

int main(int argc, char **argv)
{
    char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    if (slash && (size_t)(slash - argv[0]) + 2 < sizeof directory) {
        memcpy(directory, argv[0], (size_t)(slash - argv[0]) + 1);
        directory[slash - argv[0] + 1] = 0;
    }
    RUN(resuming, "stopping and resuming gives the bits of never having stopped");
    RUN(checkpoints_of_the_callback, "checkpoints that the callback makes open, also at an epoch's end");
    RUN(own_loop, "steps of a loop of one's own, saved and resumed, are those of one go");
    RUN(resuming_after_a_kill, "resuming from a periodic checkpoint cuts the log to its step");
    RUN(other_settings_refused, "a checkpoint of other settings is refused by name");
    RUN(impossible_states_refused, "a checkpoint with an impossible state is refused");
    RUN(threads_do_not_matter, "training has the same bits for any number of threads");
    RUN(survives_divergence, "after an update that blew up, the parameters before it are left");
    RUN(callbacks_fail, "a fetch, begin, gradient or update that fails ends the training with an error");
    RUN(stops_at_nan, "a loss that is not finite stops with the parameters of the last finite one kept");
    RUN(validation_split, "held-out images are never trained on, the others once an epoch");
    RUN(short_batches, "a short batch is divided by its real size");
    RUN(bad_batches, "bad labels and images leave the model as it was");
    RUN(bad_settings, "bad settings are refused by name");
    RUN(calls_of_the_maximizer, "a maximizer's gradient is asked for each part, its update each batch");
    RUN(epoch_in_parts, "an epoch in parts has the figures of whole batches");
    RUN(batch_norm_in_parts, "batch norm's running statistics move by the mean of the parts' moves");
    RUN(plateau_in_parts, "a plateau is one class for all parts of a batch");
    RUN(learning, "plain, advtrain and rnn-adv learn an easy problem");
    RUN(best_model, "the best model is that of the epoch reported as best");
    RUN(epochs_end_is_owed, "an epoch's end that failed is made up for by the next l2l_train");
    RUN(owed_in_a_checkpoint, "and so it is behind a checkpoint that was saved in between");
    RUN(owed_report, "whose report has the numbers of its last step");
    RUN(back_again, "a trainer goes back to an earlier checkpoint of its own, and on to the same bits");
    RUN(steps_by_hand, "steps on the caller's images are checked to the last, and go on by hand");
    RUN(averaging, "the averaged model is the sum that it should be, also of a training that went on");
    RUN(no_averaging, "an average that was not asked for is refused, one of numbers that blew up has none");
    RUN(crops_and_flips, "pad, crop and flip are as documented, for any batch and threads");
    RUN(all_crops_occur, "every crop and both sides occur as often as they should");
    RUN(given_images_stay, "a batch of the caller's own is not augmented");
    RUN(centre_crops, "evaluation and validation crop in the centre as torchvision does");
    RUN(images_too_small, "images smaller than the model's are refused");
    RUN(cropped_images_are_checked, "an image is checked before it is cropped");
    RUN(plateau, "a plateau is detected when asked for");
    RUN(rate_schedule, "the schedule moves the rate, step by step");
    RUN(warm_up, "epsilon warms up");
    return test_end();
}
