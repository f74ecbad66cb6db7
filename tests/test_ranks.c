/* Several ranks that train one model (chapter 2.12), here threads of one process, each with a context
   of its own, whose `exchange` goes through memory. Whatever their number, theta, phi, running
   statistics, the best model, the reports and the log must have the bits of one process with the same
   micro_batch. A rank that waits for the others for too long gives up: a deadlock fails the test. */
#include "../examples/training_log.h"
#include <pthread.h>
#include <time.h>

#include "networks.h"

enum { IMAGES = 40, SIZE = 64, CLASSES = 5, MOST = 5, PATIENCE = 60 };
enum { PLAIN, ADVTRAIN, TRADES, RNN_ADV, METHODS };
enum { TINY, SMOOTH, MOODY, NETWORKS };

static l2l_real images[IMAGES * SIZE];
static int labels[IMAGES];

/* -- the exchange ------------------------------------------------------------------------------ */

typedef struct hub {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int ranks, here, turn;
    const char *to[MOST];
    size_t bytes[MOST];
    long calls, sent;        /* exchanges, and bytes that left a rank                             */
    int broken;              /* somebody waited in vain, or brought blocks of another size        */
    int fail_rank, fail_at;  /* this rank's exchange number fail_at fails; 0: none                */
} hub;

typedef struct worker worker;

/* Waits until all are here. */
static int meet(hub *h)
{
    struct timespec end;
    int turn = h->turn;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += h->fail_at ? 1 : PATIENCE;
    if (++h->here == h->ranks) {
        h->here = 0;
        h->turn++;
        pthread_cond_broadcast(&h->changed);
    }
    while (h->turn == turn && !h->broken)
        if (pthread_cond_timedwait(&h->changed, &h->mutex, &end)) {
            h->broken = 1;
            pthread_cond_broadcast(&h->changed);
        }
    return !h->broken;
}

/* -- a rank ------------------------------------------------------------------------------------ */

struct worker {
    hub *h;
    int rank, ranks, method, network, micro_batch, threads;
    bool resume, no_sum;
    const char *checkpoint, *log;
    training_log lines;
    int bad_image;           /* that cannot be fetched, on this rank; 0: none                     */
    int nan_image;           /* that has a NaN, on this rank                                      */
    int stop_at, error_at;   /* a step whose callback says stop, or makes an error                */
    double rate;             /* of theta; 0: as the others                                        */
    int starved_at;          /* has no memory between this exchange and the next                  */
    bool starving;
    int exchanges, fetches;
    /* what came of it */
    int created, trained, calls;
    l2l_status status;
    char text[512];
    l2l_real *theta, *best;
    int64_t n_theta, n_phi;
    l2l_real phi[600];
    l2l_progress reports[64];
    l2l_context *c;
};

static bool exchange(void *user, const void *to, void *from, size_t bytes)
{
    worker *w = (worker *)user;
    hub *h = w->h;
    int r, ok;
    if (++w->exchanges == h->fail_at && w->rank == h->fail_rank) return false;
    pthread_mutex_lock(&h->mutex);
    h->to[w->rank] = (const char *)to;
    h->bytes[w->rank] = bytes;
    ok = meet(h);
    if (!w->rank) h->calls++, h->sent += (long)bytes * (h->ranks - 1);
    for (r = 0; ok && r < h->ranks; r++) {
        if (h->bytes[r] != bytes) h->broken = 1;
        else memcpy((char *)from + (size_t)r * bytes, h->to[r] + (size_t)w->rank * bytes, bytes);
    }
    ok = ok && meet(h) && !h->broken;
    pthread_mutex_unlock(&h->mutex);
    return ok != 0;
}

static bool fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    worker *w = (worker *)d->self;
    if (w->bad_image && index == w->bad_image && w->fetches++) { /* once, to know the data         */
        l2l_error_set(d->context, L2L_ERROR_FILE, "an image is not there");
        return false;
    }
    memcpy(chw, images + index * SIZE, SIZE * sizeof *chw);
    *label = labels[index];
    return true;
}

static bool progress(void *user, const l2l_progress *p)
{
    worker *w = (worker *)user;
    if (w->calls < 64) w->reports[w->calls] = *p;
    w->calls++;
    if (w->error_at && p->step == w->error_at)
        l2l_error_set(w->c, L2L_ERROR_CALLBACK, "the callback's own");
    return !w->stop_at || p->step < w->stop_at;
}

/* What a flip leaves as it is. */
static double brightness(const l2l_real *x)
{
    double sum = 0;
    int j;
    for (j = 0; j < SIZE; j++) sum += (double)x[j];
    return sum;
}

/* cross-entropy; NaN with the image that is marked on this rank */
static l2l_tensor *spoilt_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *y, void *user)
{
    l2l_context *c = l2l_model_context(m);
    const worker *w = (const worker *)user;
    const double marked = brightness(images + w->nan_image * SIZE);
    bool bad = false;
    int i;
    for (i = 0; i < x->shape.n; i++) bad |= fabs(brightness(x->data + i * SIZE) - marked) < 1e-6;
    return l2l_affine(c, l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), y)),
                      bad ? (double)NAN : 1, 0);
}

static l2l_model *network(l2l_context *c, int kind)
{
    static const l2l_forward forwards[] = {tiny_forward, smooth_forward, moody_forward};
    l2l_model_options o = own_options("ranks", forwards[kind], 1, 8, CLASSES);
    o.seed = 77;
    return l2l_model_create(c, &o);
}

static void set_options(worker *w, l2l_train_options *o, l2l_learned *phi)
{
    *o = l2l_train_default();
    o->method = w->method == PLAIN      ? l2l_method_plain()
                : w->method == ADVTRAIN ? l2l_method_advtrain()
                : w->method == TRADES   ? l2l_method_trades(2)
                                        : l2l_method_rnn_adv(phi);
    if (w->no_sum) o->method.maximizer.sum = NULL;
    if (w->nan_image) {
        memset(&o->method.outer, 0, sizeof o->method.outer);
        o->method.outer.name = "spoilt";
        o->method.outer.loss = spoilt_loss;
        o->method.outer.user = w->nan_image ? w : NULL;
    }
    o->epochs = 2;
    o->batch = 12;           /* 26 images after the split: in parts of 3 twice four, then 2 at once */
    o->micro_batch = w->micro_batch;
    o->T = 3;
    o->epsilon = 0.1;
    o->epsilon_warm_up = 0.5;
    o->augment.flip = true;
    o->validation = 14;
    o->validation_attack = l2l_attack_pgd(0.1);
    o->validation_attack.steps = 2;
    o->seed = 31;
    if (w->rate > 0) o->optimizer.rate = w->rate;
    o->progress = progress;
    o->user = w;
    o->checkpoint = w->checkpoint;
    o->resume = w->resume;
    o->rank = w->rank;
    o->ranks = w->ranks;
    o->exchange = exchange;
    o->exchange_user = w;
}

static l2l_trainer *create(worker *w, l2l_model *m, l2l_learned *phi, l2l_dataset *d)
{
    l2l_train_options o;
    memset(d, 0, sizeof *d);
    d->context = w->c;
    d->count = IMAGES;
    d->channels = 1;
    d->height = d->width = 8;
    d->classes = CLASSES;
    d->fetch = fetch;
    d->self = w;
    set_options(w, &o, phi);
    training_log_add(&w->lines, w->c, w->log, &o);
    return l2l_trainer_create(m, d, &o);
}

/* What came of it, with the error cleared. */
static void note(worker *w, l2l_model *m)
{
    w->status = l2l_error(w->c);
    snprintf(w->text, sizeof w->text, "%s", l2l_error_text(w->c));
    l2l_error_clear(w->c);
    free(w->theta);
    w->theta = all_parameters(m, &w->n_theta);
}

static void *work(void *user)
{
    worker *w = (worker *)user;
    l2l_learned_options lo = l2l_learned_default();
    l2l_learned *phi;
    l2l_dataset d;
    l2l_trainer *t;
    l2l_model *m, *best;
    int64_t n;
    w->c = test_context(w->threads ? w->threads : 1);
    m = network(w->c, w->network);
    lo.seed = 4;
    phi = l2l_learned_create(w->c, &lo);
    t = create(w, m, phi, &d);
    w->created = t != NULL;
    w->trained = training_log_train(&w->lines, t);
    note(w, m);
    w->n_phi = l2l_learned_size(phi);
    memcpy(w->phi, l2l_learned_parameters(phi), (size_t)w->n_phi * sizeof *w->phi);
    best = l2l_trainer_best(t);
    w->best = best ? all_parameters(best, &n) : NULL;
    l2l_model_free(best);
    l2l_trainer_free(t);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(w->c);
    return NULL;
}

/* -- runs of so many ranks ----------------------------------------------------------------------- */

typedef struct run {
    hub h;
    worker w[MOST];
} run;

static run *run_of(int ranks, int method, int network_kind)
{
    run *r = (run *)test_memory(sizeof *r);
    int i;
    pthread_mutex_init(&r->h.mutex, NULL);
    pthread_cond_init(&r->h.changed, NULL);
    r->h.ranks = ranks;
    for (i = 0; i < ranks; i++) {
        r->w[i].h = &r->h;
        r->w[i].rank = i;
        r->w[i].ranks = ranks;
        r->w[i].method = method;
        r->w[i].network = network_kind;
        r->w[i].micro_batch = 3;
    }
    return r;
}
static void run_go(run *r)
{
    pthread_t threads[MOST];
    int i;
    for (i = 0; i < r->h.ranks; i++) pthread_create(&threads[i], NULL, work, &r->w[i]);
    for (i = 0; i < r->h.ranks; i++) pthread_join(threads[i], NULL);
}
static void run_end(run *r)
{
    int i;
    for (i = 0; i < r->h.ranks; i++) {
        free(r->w[i].theta);
        free(r->w[i].best);
    }
    pthread_mutex_destroy(&r->h.mutex);
    pthread_cond_destroy(&r->h.changed);
    free(r);
}

static int same_reports(const l2l_progress *a, const l2l_progress *b, int from, int n)
{
    int i;
    for (i = 0; i < n; i++, a++, b++) {
        if (a->step != b->step || a->step != from + i + 1) return 0;
        if (memcmp(&a->loss, &b->loss, sizeof a->loss) || memcmp(&a->gain, &b->gain, sizeof a->gain) ||
            memcmp(&a->accuracy, &b->accuracy, sizeof a->accuracy) ||
            memcmp(&a->saturated, &b->saturated, sizeof a->saturated) ||
            a->epoch_ended != b->epoch_ended || a->best != b->best)
            return 0;
        if (a->epoch_ended && (memcmp(&a->epoch_loss, &b->epoch_loss, sizeof a->epoch_loss) ||
                               memcmp(&a->validation_robust, &b->validation_robust, sizeof(double)) ||
                               memcmp(&a->validation_natural, &b->validation_natural, sizeof(double))))
            return 0;
    }
    return 1;
}

static void check_same(const worker *a, const worker *b)
{
    if (!CHECK(a->theta && b->theta && a->best && b->best) || !CHECK_INT(a->n_theta, b->n_theta)) return;
    CHECK_BYTES(a->theta, b->theta, (size_t)a->n_theta * sizeof(l2l_real));
    CHECK_BYTES(a->best, b->best, (size_t)a->n_theta * sizeof(l2l_real));
    CHECK_BYTES(a->phi, b->phi, (size_t)a->n_phi * sizeof(l2l_real));
}

/* All ranks ended with this error, rank `who` with its own text, the others naming it. */
static void check_all_failed(const run *r, l2l_status status, int who, const char *text)
{
    char named[64];
    int i;
    snprintf(named, sizeof named, "rank %d: ", who);
    CHECK(!r->h.broken);
    for (i = 0; i < r->h.ranks; i++) {
        CHECK(r->w[i].created && !r->w[i].trained);
        CHECK_INT(status, r->w[i].status);
        CHECK_CONTAINS(text, r->w[i].text);
        CHECK((strstr(r->w[i].text, named) != NULL) == (i != who));
        CHECK_BYTES(r->w[0].theta, r->w[i].theta, (size_t)r->w[0].n_theta * sizeof(l2l_real));
        CHECK_INT(r->w[0].calls, r->w[i].calls);
    }
}

static char *slurp(const char *name)
{
    static char text[2][20000];
    static int which;
    FILE *f = fopen(name, "rb");
    size_t n = f ? fread(text[which ^= 1], 1, sizeof text[0] - 1, f) : 0;
    text[which][n] = 0;
    if (f) fclose(f);
    return text[which];
}

static char directory[512] = "";
static const char *path(const char *name)
{
    static char text[16][600];
    static int which;
    which = (which + 1) % 16;
    snprintf(text[which], sizeof text[0], "%s%s", directory, name);
    return text[which];
}

/* -- the tests ----------------------------------------------------------------------------------- */

/* Each log is taken from rank 0, for the others must not write one. */
static void same_bits(void)
{
    int method, kind, ranks, i;
    remove(path("ranks-other.jsonl"));
    for (method = 0; method < METHODS; method++)
        for (kind = 0; kind < NETWORKS; kind++) {
            run *one = run_of(1, method, kind);
            int before = test_complaints;
            one->w[0].log = path("ranks-one.jsonl");
            run_go(one);
            CHECK(one->w[0].trained && one->w[0].calls == 6);
            for (ranks = 2; ranks <= MOST; ranks++) {
                run *r = run_of(ranks, method, kind);
                if (kind == MOODY && ranks == 3) r->w[2].threads = 2;
                for (i = 0; i < ranks; i++) r->w[i].log = path(i ? "ranks-other.jsonl" : "ranks-many.jsonl");
                run_go(r);
                CHECK(!r->h.broken && r->h.calls > 0);
                for (i = 0; i < ranks; i++) {
                    CHECK(r->w[i].trained);
                    CHECK_TEXT("", r->w[i].text);
                    CHECK_INT(6, r->w[i].calls);
                    check_same(&one->w[0], &r->w[i]);
                    CHECK(same_reports(one->w[0].reports, r->w[i].reports, 0, 6));
                }
                CHECK(strlen(slurp(path("ranks-one.jsonl"))) > 500);
                CHECK_TEXT(slurp(path("ranks-one.jsonl")), slurp(path("ranks-many.jsonl")));
                CHECK(!fopen(path("ranks-other.jsonl"), "rb"));
                if (test_complaints > before)
                    printf("    method %d, network %d, %d ranks\n", method, kind, ranks);
                run_end(r);
            }
            run_end(one);
        }
    remove(path("ranks-one.jsonl"));
    remove(path("ranks-many.jsonl"));
}

/* micro_batch 0 is batch/ranks. */
static void usual_parts(void)
{
    run *one = run_of(1, RNN_ADV, TINY), *r = run_of(2, RNN_ADV, TINY);
    one->w[0].micro_batch = 6;
    r->w[0].micro_batch = r->w[1].micro_batch = 0;
    run_go(one);
    run_go(r);
    CHECK(one->w[0].trained && r->w[0].trained && r->w[1].trained);
    check_same(&one->w[0], &r->w[1]);
    run_end(one);
    run_end(r);
}

/* Stopped by rank 1's callback with 4 ranks, and gone on with 2: the bits of one that never stopped. */
static void resumed_with_fewer(void)
{
    const char *checkpoint = path("ranks.l2l");
    run *one = run_of(1, RNN_ADV, MOODY), *four = run_of(4, RNN_ADV, MOODY);
    run *two = run_of(2, RNN_ADV, MOODY), *other = run_of(2, RNN_ADV, MOODY);
    int i;
    remove(checkpoint);
    run_go(one);
    for (i = 0; i < 4; i++) four->w[i].checkpoint = checkpoint;
    four->w[1].stop_at = 4;
    run_go(four);
    CHECK(!four->h.broken);
    for (i = 0; i < 4; i++) {
        CHECK_INT(L2L_ERROR_CANCELLED, four->w[i].status);
        CHECK_INT(4, four->w[i].calls);
    }
    for (i = 0; i < 2; i++) {
        two->w[i].checkpoint = other->w[i].checkpoint = checkpoint;
        two->w[i].resume = other->w[i].resume = true;
        other->w[i].micro_batch = 0;
    }
    run_go(other);                           /* 0 is 6 here: other bits, refused                  */
    for (i = 0; i < 2; i++) {
        CHECK_INT(L2L_ERROR_MISMATCH, other->w[i].status);
        CHECK_CONTAINS("micro_batch is 6 here, but in the file 3", other->w[i].text);
    }
    run_go(two);
    for (i = 0; i < 2; i++) {
        CHECK(two->w[i].trained);
        CHECK_INT(2, two->w[i].calls);
        check_same(&one->w[0], &two->w[i]);
        CHECK(same_reports(one->w[0].reports + 4, two->w[i].reports, 4, 2));
    }
    remove(checkpoint);
    run_end(one);
    run_end(two);
    run_end(four);
    run_end(other);
}

static void errors_end_all(void)
{
    int kind;
    for (kind = 0; kind < 5; kind++) {
        run *r = run_of(3, RNN_ADV, TINY);
        worker *w = &r->w[2];
        int i;
        for (i = 0; i < 3; i++) r->w[i].nan_image = kind == 1 ? 10 : 0;
        for (i = 0; i < 3; i++) r->w[i].bad_image = kind == 0 ? 11 : 0; /* met by one of them */
        if (kind == 2) w->error_at = 2;
        if (kind == 3) w->error_at = 3;      /* the end of an epoch                               */
        for (i = 0; kind == 4 && i < 3; i++) r->w[i].checkpoint = path("no/folder/ranks.l2l");
        run_go(r);
        if (kind < 2) {
            int who = -1;
            for (i = 0; i < 3; i++)
                if (!strstr(r->w[i].text, "rank ")) who = i;
            CHECK(who >= 0);
            check_all_failed(r, kind ? L2L_ERROR_NUMERIC : L2L_ERROR_FILE, who,
                             kind ? "the outer loss is nan" : "an image is not there");
        } else if (kind < 4) {
            check_all_failed(r, L2L_ERROR_CALLBACK, 2, "the callback's own");
            CHECK_INT(kind == 2 ? 2 : 3, w->calls);
        } else {
            check_all_failed(r, L2L_ERROR_FILE, 0, "no/folder");
        }
        run_end(r);
    }
}

static void unlike_ranks(void)
{
    run *r = run_of(2, ADVTRAIN, TINY), *s = run_of(2, ADVTRAIN, TINY);
    int i;
    r->w[1].rate = 0.5;
    s->w[1].network = SMOOTH;
    run_go(r);
    run_go(s);
    for (i = 0; i < 2; i++) {
        CHECK_INT(L2L_ERROR_MISMATCH, r->w[i].status);
        CHECK_CONTAINS("rank 1 has another settings or data than rank 0", r->w[i].text);
        CHECK_INT(L2L_ERROR_MISMATCH, s->w[i].status);
        CHECK_INT(0, s->w[i].calls);
    }
    run_end(r);
    run_end(s);
}

/* An exchange that fails ends its own rank at once; the others find out when they wait in vain. */
static void exchange_fails(void)
{
    int at;
    for (at = 1; at < 40; at += 13) {
        run *r = run_of(2, RNN_ADV, TINY);
        int i;
        r->h.fail_rank = 1;
        r->h.fail_at = at;
        run_go(r);
        for (i = 0; i < 2; i++) {
            CHECK(!r->w[i].trained);
            CHECK_INT(L2L_ERROR_CALLBACK, r->w[i].status);
            CHECK_CONTAINS(i ? "`exchange` failed on rank 1" : "`exchange` failed on rank 0",
                           r->w[i].text);
        }
        run_end(r);
    }
}

static void settings_refused(void)
{
    int kind;
    for (kind = 0; kind < 3; kind++) {
        static const char *const texts[] = {"rank 2 is not below ranks, 2", "`exchange` is NULL",
                                            "`sum` of the maximizer 'learned'"};
        worker w;
        l2l_learned_options lo = l2l_learned_default();
        l2l_learned *phi;
        l2l_dataset d;
        l2l_train_options o;
        l2l_model *m;
        memset(&w, 0, sizeof w);
        w.c = test_context(1);
        w.method = RNN_ADV;
        w.ranks = 2;
        w.rank = kind ? 0 : 2;
        w.no_sum = kind == 2;
        m = network(w.c, TINY);
        phi = l2l_learned_create(w.c, &lo);
        set_options(&w, &o, phi);
        if (kind == 1) o.exchange = NULL;
        CHECK(l2l_dataset_from_arrays(w.c, images, labels, IMAGES, 1, 8, 8, CLASSES, &d));
        CHECK(l2l_trainer_create(m, &d, &o) == NULL);
        CHECK_ERROR(w.c, kind == 2 ? L2L_ERROR_UNSUPPORTED : L2L_ERROR_ARGUMENT, texts[kind]);
        l2l_learned_free(phi);
        l2l_model_free(m);
        l2l_dataset_free(&d);
        l2l_context_free(w.c);
    }
}

/* Steps of a loop of one's own: every rank is given the whole batch. */
typedef struct stepper {
    worker w;
    int n;                   /* images that it gives                                              */
    l2l_progress p[3];
} stepper;
static void *step(void *user)
{
    stepper *s = (stepper *)user;
    worker *w = &s->w;
    l2l_learned_options lo = l2l_learned_default();
    l2l_train_options o;
    l2l_learned *phi;
    l2l_trainer *t;
    l2l_model *m;
    int i;
    w->c = test_context(1);
    m = network(w->c, w->network);
    phi = l2l_learned_create(w->c, &lo);
    set_options(w, &o, phi);
    o.validation = 0;
    o.steps = 3;
    t = l2l_trainer_create(m, NULL, &o);
    for (i = 0; i < 3; i++)
        w->trained = l2l_train_step(t, images, labels, s->n, &s->p[i]);
    note(w, m);
    l2l_trainer_free(t);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(w->c);
    return NULL;
}
static void steps_of_ones_own(void)
{
    int unlike, i;
    for (unlike = 0; unlike < 2; unlike++) {
        run *one = run_of(1, RNN_ADV, MOODY), *two = run_of(2, RNN_ADV, MOODY);
        stepper *s = (stepper *)test_memory(3 * sizeof *s);
        pthread_t threads[2];
        s[0].w = one->w[0];
        s[1].w = two->w[0];
        s[2].w = two->w[1];
        for (i = 0; i < 3; i++) s[i].n = 20;
        if (unlike) s[2].n = 21;
        step(&s[0]);
        for (i = 0; i < 2; i++) pthread_create(&threads[i], NULL, step, &s[i + 1]);
        for (i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        CHECK(s[0].w.trained);
        for (i = 1; i < 3; i++) {
            if (unlike) {
                CHECK_INT(L2L_ERROR_MISMATCH, s[i].w.status);
                CHECK_CONTAINS("rank 1 has another number of images than rank 0", s[i].w.text);
                continue;
            }
            CHECK_TEXT("", s[i].w.text);
            CHECK(s[i].w.trained && same_reports(s[0].p, s[i].p, 0, 3));
            CHECK_BYTES(s[0].w.theta, s[i].w.theta, (size_t)s[0].w.n_theta * sizeof(l2l_real));
        }
        for (i = 0; i < 3; i++) free(s[i].w.theta);
        free(s);
        run_end(one);
        run_end(two);
    }
}

/* One rank has no memory between two exchanges: all end with its error. With the errors cleared the
   training goes on to the bits of one that never lacked any, wherever that was. */
static void *starved_allocate(void *user, size_t size)
{
    const worker *w = (const worker *)user;
    return w->starving && w->exchanges == w->starved_at ? NULL : malloc(size);
}
static void starved_release(void *user, void *p)
{
    (void)user;
    free(p);
}
static void *starved_work(void *user)
{
    worker *w = (worker *)user;
    l2l_options o = l2l_options_default();
    l2l_learned_options lo = l2l_learned_default();
    l2l_learned *phi;
    l2l_dataset d;
    l2l_trainer *t;
    l2l_model *m;
    l2l_status status;
    o.threads = 1;
    o.allocator.allocate = starved_allocate;
    o.allocator.release = starved_release;
    o.allocator.user = w;
    w->c = l2l_context_create(&o);
    m = network(w->c, w->network);
    phi = l2l_learned_create(w->c, &lo);
    t = create(w, m, phi, &d);
    w->created = t != NULL;
    w->exchanges = 0;
    w->starving = w->starved_at > 0;
    w->trained = l2l_train(t);
    w->starving = false;
    note(w, m);
    status = w->status;                      /* of the first time                                 */
    if (!w->trained) {
        w->trained = l2l_train(t);
        note(w, m);
    }
    w->status = status;
    l2l_trainer_free(t);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(w->c);
    return NULL;
}
static run *starved_run(int at)
{
    run *r = run_of(2, RNN_ADV, MOODY);
    pthread_t threads[2];
    int i;
    r->w[1].starved_at = at;
    for (i = 0; i < 2; i++) pthread_create(&threads[i], NULL, starved_work, &r->w[i]);
    for (i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return r;
}
static void starved_rank(void)
{
    run *whole = starved_run(0);
    int at, i, met = 0;
    for (at = 1; CHECK(whole->w[0].trained && !whole->h.broken) && at < whole->w[0].exchanges; at++) {
        run *r = starved_run(at);
        met += r->w[1].status == L2L_ERROR_MEMORY;
        for (i = 0; i < 2; i++) {
            CHECK(!r->h.broken && r->w[i].status == r->w[!i].status);
            if (!CHECK(r->w[i].trained)) printf("    again, after exchange %d: %s\n", at, r->w[i].text);
            CHECK_BYTES(whole->w[i].theta, r->w[i].theta, (size_t)whole->w[i].n_theta * sizeof(l2l_real));
        }
        run_end(r);
    }
    CHECK(met > 2);
    run_end(whole);
}

int main(int argc, char **argv)
{
    char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    int i;
    if (slash && (size_t)(slash - argv[0]) + 2 < sizeof directory) {
        memcpy(directory, argv[0], (size_t)(slash - argv[0]) + 1);
        directory[slash - argv[0] + 1] = 0;
    }
    golden_fill(images, IMAGES * SIZE, 500, 0, 1);
    for (i = 0; i < IMAGES; i++) labels[i] = i * i % CLASSES;
    RUN(same_bits, "2 to 5 ranks give the bits of one process with the same parts");
    RUN(usual_parts, "without micro_batch a part is batch/ranks");
    RUN(resumed_with_fewer, "4 ranks that one stops go on as 2, with the same bits");
    RUN(errors_end_all, "an error on one rank ends all, which name it, at the same step");
    RUN(unlike_ranks, "ranks with other settings or another model are refused");
    RUN(exchange_fails, "an exchange that fails ends the training with an error");
    RUN(settings_refused, "ranks without what they need are refused by name");
    RUN(steps_of_ones_own, "l2l_train_step: every rank is given the same batch");
    RUN(starved_rank, "a rank that has no memory, wherever it is, ends all, which then go on together");
    return test_end();
}
