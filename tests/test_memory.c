/* Memory: the k-th allocation fails, for every k, in everything that allocates. The error is then
   L2L_ERROR_MEMORY (or the call got by without), nothing leaks, and the context works once the
   error is cleared. And a warm training step allocates nothing. */
#include "../examples/shards.h"
#include "../examples/cifar.h"
#include "../examples/evaluation_state.h"
#include "../examples/transfer.h"
#include "check_micro.h"

typedef struct heap {
    long calls, fail_at, live;
    int once; /* only that call fails, not all after it */
} heap;

static void *heap_allocate(void *user, size_t size)
{
    heap *h = (heap *)user;
    void *p;
    h->calls++;
    if (h->fail_at && (h->calls == h->fail_at || (!h->once && h->calls > h->fail_at))) return NULL;
    p = malloc(size ? size : 1);
    if (p) {
        memset(p, 0xA5, size); /* nothing may rely on zeros */
        h->live++;
    }
    return p;
}
static void heap_release(void *user, void *p)
{
    heap *h = (heap *)user;
    if (p) h->live--;
    free(p);
}
static l2l_context *heap_context(heap *h)
{
    l2l_options o = l2l_options_default();
    o.threads = 1;
    o.allocator.allocate = heap_allocate;
    o.allocator.release = heap_release;
    o.allocator.user = h;
    return l2l_context_create(&o);
}

/* -- what is tried: each makes and frees all that it needs and says whether it worked --------------- */

enum { N = 6 };
static l2l_real images[N * 64];
static int labels[N];

static bool try_model(l2l_context *c)
{
    l2l_model *m = tiny_model(c, 700), *clone = m ? l2l_model_clone(c, m) : NULL;
    bool ok = m && clone && l2l_model_copy(clone, m);
    l2l_model_free(clone);
    l2l_model_free(m);
    return ok;
}

static bool try_grad(l2l_context *c)
{
    l2l_model *m = tiny_model(c, 700);
    l2l_mark mark = l2l_mark_here(c);
    bool ok = false;
    if (m) {
        l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(N, 8, 8, 1)), *g, *h, *y;
        bool was = l2l_set_recording(c, true);
        y = l2l_sum(c, l2l_cross_entropy(c, l2l_model_forward(m, x, L2L_TRAIN), labels));
        ok = l2l_grad(c, y, &x, 1, &g, L2L_CREATE_GRAPH) &&
             l2l_grad(c, l2l_sum(c, l2l_mul(c, g, g)), &x, 1, &h, L2L_FREE_GRAPH);
        l2l_set_recording(c, was);
    }
    l2l_release(c, mark);
    l2l_model_free(m);
    return ok;
}

static bool try_attack(l2l_context *c)
{
    l2l_model *m = tiny_model(c, 700);
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_real adv[N * 64];
    l2l_record r[N];
    bool ok;
    a.steps = 2;
    a.restarts = 2;
    ok = m && l2l_attack_run(m, &a, images, labels, N, adv, r);
    l2l_model_free(m);
    return ok;
}

static bool train_learned(l2l_context *c, int micro_batch)
{
    l2l_model *m = tiny_model(c, 700);
    l2l_learned_options lo = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &lo);
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t = NULL;
    l2l_dataset d;
    bool data = false, ok = false;
    if (m && phi) {
        data = l2l_dataset_from_arrays(c, images, labels, N, 1, 8, 8, 5, &d);
        o.method = l2l_method_rnn_adv(phi);
        o.epochs = 1;
        o.batch = 3;
        o.micro_batch = micro_batch;
        o.T = 2;
        o.validation = 2;
        t = data ? l2l_trainer_create(m, &d, &o) : NULL;
        ok = t && l2l_train(t);
    }
    l2l_trainer_free(t);
    if (data) l2l_dataset_free(&d);
    l2l_learned_free(phi);
    l2l_model_free(m);
    return ok;
}

static bool try_learned_training(l2l_context *c) { return train_learned(c, 0); }
static bool try_training_in_parts(l2l_context *c) { return train_learned(c, 2); }

static bool try_second_order(l2l_context *c)
{
    l2l_model *m = smooth_model(c);
    l2l_learned_options lo = l2l_learned_default();
    l2l_learned *phi;
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t = NULL;
    l2l_dataset d;
    l2l_progress p;
    l2l_real x[2 * 72];
    static const int y[2] = {0, 1};
    bool data = false, ok = false;
    golden_fill(x, 2 * 72, 701, 0, 1);
    lo.second_order = true;
    lo.input = L2L_INPUT_L1;
    phi = l2l_learned_create(c, &lo);
    if (m && phi) {
        data = l2l_dataset_from_arrays(c, x, y, 2, 2, 6, 6, 4, &d);
        o.method = l2l_method_rnn_adv(phi);
        o.T = 2;
        t = data ? l2l_trainer_create(m, &d, &o) : NULL;
        ok = t && l2l_train_step(t, x, y, 2, &p);
    }
    l2l_trainer_free(t);
    if (data) l2l_dataset_free(&d);
    l2l_learned_free(phi);
    l2l_model_free(m);
    return ok;
}

static bool try_files(l2l_context *c)
{
    l2l_model *m = tiny_model(c, 700);
    l2l_learned_options lo = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &lo);
    void *a = NULL, *b = NULL;
    size_t n, k;
    int extra;
    bool ok = m && phi && l2l_model_save_memory(m, &a, &n) && l2l_model_load_memory(m, a, n, &extra) &&
              l2l_learned_save_memory(phi, &b, &k) && l2l_learned_load_memory(phi, b, k);
    l2l_free(c, a);
    l2l_free(c, b);
    l2l_learned_free(phi);
    l2l_model_free(m);
    return ok;
}

static bool try_evaluation(l2l_context *c)
{
    l2l_model *m = tiny_model(c, 700);
    l2l_dataset d;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_fgsm(0.1);
    evaluation_state kept;
    l2l_result r;
    double accuracy;
    int round;
    bool ok = false;
    if (m && l2l_dataset_from_arrays(c, images, labels, N, 1, 8, 8, 5, &d)) {
        if (l2l_evaluation_begin(m, &d, &o, &e)) {
            ok = l2l_evaluation_attack(&e, &a, &r, NULL, NULL);
            l2l_evaluation_end(&e);
        }
        ok = ok && transfer_matrix(&m, 1, &d, l2l_series_of(&a), &o, NULL, &accuracy);
        for (round = 0; ok && round < 2; round++) /* written, and taken up again */
            if ((ok = l2l_evaluation_begin(m, &d, &o, &e)) != false) {
                ok = evaluation_state_open(&kept, &e, "out-memory-state") &&
                     evaluation_state_attack(&kept, &a, &r, NULL, NULL);
                evaluation_state_close(&kept);
                l2l_evaluation_end(&e);
            }
        remove("out-memory-state");
        l2l_dataset_free(&d);
    }
    l2l_model_free(m);
    return ok;
}

static bool try_idx(l2l_context *c)
{
    unsigned char image[16 + 2 * 4] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2},
                  label[8 + 2] = {0, 0, 8, 1, 0, 0, 0, 2, 0, 1};
    l2l_dataset d;
    bool ok = l2l_dataset_idx_memory(c, image, sizeof image, label, sizeof label, 2, &d);
    if (ok) {
        l2l_real x[8];
        int y[2];
        ok = l2l_dataset_read(&d, 0, 2, x, y);
        l2l_dataset_free(&d);
    }
    return ok;
}

static bool read_part(void *user, int64_t offset, void *to, size_t n)
{
    memcpy(to, (const unsigned char *)user + offset, n);
    return true;
}
static bool try_cifar10(l2l_context *c)
{
    static unsigned char file[2 * 3073];
    const void *files[2];
    const size_t sizes[2] = {sizeof file, sizeof file};
    l2l_real *x = test_array(4 * 3072);
    l2l_dataset d;
    int y[4];
    bool ok;
    files[0] = files[1] = file;
    ok = cifar_from_memory(c, files, sizes, 2, 10, &d);
    if (ok) {
        ok = l2l_dataset_read(&d, 0, 4, x, y);
        l2l_dataset_free(&d);
    }
    free(x);
    return ok;
}
static bool try_shards(l2l_context *c)
{
    static const char *const shapes[2] = {"2,3,4,1", "2,"};
    char file[2][10 + 64 + 24];
    shards_source part[2], x[2], y[2];
    l2l_real pixels[48];
    l2l_dataset d;
    int k, label[4];
    bool ok;
    for (k = 0; k < 2; k++) {
        memset(file[k], 1, sizeof file[k]);
        memcpy(file[k], "\x93NUMPY\1\0\x40", 10);
        snprintf(file[k] + 10, 65, "{'descr':'|u1','fortran_order':False,'shape':(%s)}%*s",
                 shapes[k], 16 - (int)strlen(shapes[k]), "");
        file[k][74] = 1;
        part[k].bytes = k ? 74 + 2 : 74 + 24;
        part[k].read_at = read_part;
        part[k].user = file[k];
    }
    x[0] = x[1] = part[0];
    y[0] = y[1] = part[1];
    ok = shards_from_sources(c, NULL, x, y, 2, 2, &d);
    if (ok) {
        ok = l2l_dataset_read(&d, 0, 4, pixels, label);
        l2l_dataset_free(&d);
    }
    return ok;
}

typedef struct trial {
    const char *name;
    bool (*attempt)(l2l_context *c);
} trial;
static const trial trials[] = {
    {"models", try_model},           {"gradients of gradients", try_grad}, {"attacks", try_attack},
    {"training", try_learned_training}, {"training in parts", try_training_in_parts},
    {"second order", try_second_order},
    {"files", try_files},            {"evaluation", try_evaluation},       {"data sets", try_idx},
    {"CIFAR-10", try_cifar10},       {"shards", try_shards}};

static const trial *current;
static void every_allocation_fails(void)
{
    long k, total;
    heap h;
    l2l_context *c;
    int once;
    memset(&h, 0, sizeof h);
    c = heap_context(&h);
    if (!CHECK(c && current->attempt(c))) { if (c) CHECK_OK(c); return; }
    CHECK_OK(c);
    l2l_context_free(c);
    CHECK_INT(0, h.live);
    total = h.calls;
    CHECK(total > 1);
    for (once = 0; once < 2; once++)
        for (k = 1; k <= total + 1; k++) {
            bool ok;
            int before = test_complaints;
            memset(&h, 0, sizeof h);
            h.fail_at = k;
            h.once = once;
            c = heap_context(&h);
            if (!c) {
                CHECK_INT(1, k);
                CHECK_INT(0, h.live);
                continue;
            }
            ok = current->attempt(c);
            if (ok) CHECK_INT(L2L_OK, l2l_error(c));
            else {
                CHECK_INT(L2L_ERROR_MEMORY, l2l_error(c));
                CHECK(*l2l_error_text(c) != 0);
            }
            CHECK(!l2l_recording(c));
            h.fail_at = 0;
            l2l_error_clear(c);
            CHECK(current->attempt(c)); /* usable again */
            CHECK_OK(c);
            l2l_context_free(c);
            CHECK_INT(0, h.live);
            if (test_complaints > before)
                printf("    %s, allocation %ld of %ld fails%s\n", current->name, k, total,
                       once ? " alone" : " and all after it");
        }
}

static void warm_steps(void)
{
    int method;
    for (method = 0; method < 5; method++) {
        heap h;
        l2l_context *c;
        l2l_learned_options lo = l2l_learned_default();
        l2l_learned *phi;
        l2l_model *m;
        l2l_train_options o = l2l_train_default();
        l2l_trainer *t = NULL;
        l2l_dataset d;
        l2l_progress p;
        long before;
        int i;
        memset(&h, 0, sizeof h);
        c = heap_context(&h);
        m = tiny_model(c, 700);
        phi = l2l_learned_create(c, &lo);
        o.method = method == 0   ? l2l_method_plain()
                   : method == 1 ? l2l_method_advtrain()
                                 : l2l_method_rnn_adv(phi);
        o.T = 3;
        if (method > 2) o.micro_batch = 4;
        if (method > 3) o.batch = 4;         /* the batch of 6 is larger than the trainer expects */
        if (CHECK(m && phi && l2l_dataset_from_arrays(c, images, labels, N, 1, 8, 8, 5, &d))) {
            t = l2l_trainer_create(m, &d, &o);
            for (i = 0; i < 3; i++) CHECK(t && l2l_train_step(t, images, labels, N, &p));
            before = h.calls;
            for (i = 0; i < 5; i++) CHECK(t && l2l_train_step(t, images, labels, N, &p));
            CHECK_INT(0, h.calls - before);
            l2l_trainer_free(t);
            l2l_dataset_free(&d);
        }
        CHECK_OK(c);
        l2l_learned_free(phi);
        l2l_model_free(m);
        l2l_context_free(c);
        CHECK_INT(0, h.live);
    }
}

/* Whole epochs over streamed images that are larger than the model, and padded and flipped: after
   the first epoch the allocator is left alone. */
typedef struct epochs {
    heap h;
    long after_first;
} epochs;
static bool epochs_progress(void *user, const l2l_progress *p)
{
    epochs *e = (epochs *)user;
    if (p->epoch == 1 && p->step_in_epoch == 1) e->after_first = e->h.calls;
    if (p->epoch > 0) CHECK_INT(e->after_first, e->h.calls);
    return true;
}
static bool any_image(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    int i;
    for (i = 0; i < d->channels * d->height * d->width; i++)
        chw[i] = (l2l_real)((index + i) % 256) / 255;
    *label = index % d->classes;
    return true;
}
static void warm_epochs(void)
{
    epochs e;
    l2l_context *c;
    l2l_model *m;
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t;
    l2l_dataset d;
    memset(&e, 0, sizeof e);
    memset(&d, 0, sizeof d);
    c = heap_context(&e.h);
    m = tiny_model(c, 700);
    d.context = c;
    d.count = 20;
    d.channels = 1;
    d.height = 11;
    d.width = 9;
    d.classes = 5;
    d.fetch = any_image;
    o.T = 2;
    o.epochs = 4;
    o.batch = 8;
    o.augment.padding = 2;
    o.augment.flip = true;
    o.progress = epochs_progress;
    o.user = &e;
    t = l2l_trainer_create(m, &d, &o);
    CHECK(t && l2l_train(t));
    CHECK(e.after_first > 0);
    CHECK_OK(c);
    l2l_trainer_free(t);
    l2l_model_free(m);
    l2l_context_free(c);
    CHECK_INT(0, e.h.live);
}

/* The same batch in parts: of what is not theta, phi and their like, a fraction. What is counted is
   the peak of a step beyond what stays. */
static size_t step_peak(int micro_batch)
{
    enum { BATCH = 64 };
    static l2l_real x[BATCH * 784];
    static int y[BATCH];
    heap h;
    l2l_context *c;
    l2l_model_options cnn = l2l_model_default("smallcnn");
    l2l_learned_options lo = l2l_learned_default();
    l2l_train_options o = l2l_train_default();
    l2l_dataset d;
    l2l_model *m;
    l2l_learned *phi;
    l2l_trainer *t;
    l2l_progress p;
    size_t before, peak = 0;
    memset(&h, 0, sizeof h);
    c = heap_context(&h);
    golden_fill(x, BATCH * 784, 703, 0, 1);
    cnn.width_multiplier = 0.25;
    m = l2l_model_create(c, &cnn);
    phi = l2l_learned_create(c, &lo);
    if (CHECK(m && phi && l2l_dataset_from_arrays(c, x, y, BATCH, 1, 28, 28, 10, &d))) {
        o.method = l2l_method_rnn_adv(phi);
        o.batch = BATCH;
        o.micro_batch = micro_batch;
        o.T = 3;
        t = l2l_trainer_create(m, &d, &o);
        before = l2l_memory_used(c);
        CHECK(t && l2l_train_step(t, x, y, BATCH, &p));
        peak = l2l_memory_peak(c) - before;
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
    CHECK_INT(0, h.live);
    return peak;
}
static void parts_save_memory(void)
{
    size_t whole = step_peak(0), same = step_peak(64), half = step_peak(32), few = step_peak(8);
    CHECK_INT(whole, same);
    CHECK((double)half < 0.6 * (double)whole);
    CHECK((double)few < 0.16 * (double)whole);
    if (test_complaints)
        printf("    a step takes %lu bytes, in parts of 32 %lu, of 8 %lu\n", (unsigned long)whole,
               (unsigned long)half, (unsigned long)few);
}

/* An outer loss whose call number `at` finds no memory. */
typedef struct exhaustion {
    heap *h;
    int calls, at;
} exhaustion;
static l2l_tensor *exhausted_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *y,
                                  void *user)
{
    exhaustion *e = (exhaustion *)user;
    l2l_context *c = l2l_model_context(m);
    (void)x;
    if (++e->calls == e->at) {
        e->h->fail_at = e->h->calls + 1;
        CHECK(l2l_zeros(c, l2l_shape_of(1, 1, 1 << 24, 4)) == NULL);
    }
    return l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), y));
}

/* A step that fails in its second part (of 9, 9 and 6 images: no memory for the outer loss, or the
   maximizer's gradient refuses) leaves no trace: theta, phi and the running statistics, which the
   first part has moved, are as before, and the next step is that of a training that never failed:
   neither of the sums begun is taken up. */
static void failed_second_part(void)
{
    int kind, i;
    for (kind = 0; kind < 2; kind++) {
        heap h[2];
        exhaustion e[2];
        micro *r[2];
        int64_t n;
        int before = test_complaints;
        for (i = 0; i < 2; i++) {
            memset(&h[i], 0, sizeof h[i]);
            memset(&e[i], 0, sizeof e[i]);
            e[i].h = &h[i];
            r[i] = micro_make(heap_context(&h[i]), MICRO_LEARNED, MICRO_NORMED, 9);
            l2l_trainer_free(r[i]->t);
            r[i]->o.method.outer.loss = exhausted_loss;
            r[i]->o.method.outer.user = &e[i];
            r[i]->o.method.outer.is_objective = false;
            r[i]->t = l2l_trainer_create(r[i]->m, &r[i]->d, &r[i]->o);
        }
        if (kind == 0) e[0].at = 2; else r[0]->seen.fail_at = 2;
        CHECK(!micro_step(r[0]));
        if (kind == 0) CHECK_ERROR(r[0]->c, L2L_ERROR_MEMORY, "");
        else CHECK_ERROR(r[0]->c, L2L_ERROR_CALLBACK, "gradient");
        CHECK_INT(2, e[0].calls);
        h[0].fail_at = 0;
        {
            l2l_real *theta = all_parameters(r[0]->m, &n);
            CHECK_BYTES(r[0]->theta0, theta, (size_t)n * sizeof *theta);
            CHECK_BYTES(r[0]->phi0, l2l_learned_parameters(r[0]->phi),
                        (size_t)l2l_learned_size(r[0]->phi) * sizeof *theta);
            free(theta);
        }
        CHECK(micro_step(r[0]) && micro_step(r[1]));
        CHECK_SAME_MODEL(r[1]->m, r[0]->m);
        CHECK_BYTES(l2l_learned_parameters(r[1]->phi), l2l_learned_parameters(r[0]->phi),
                    (size_t)l2l_learned_size(r[0]->phi) * sizeof(l2l_real));
        if (test_complaints > before) printf("    kind %d\n", kind);
        for (i = 0; i < 2; i++) {
            micro_end(r[i]);
            CHECK_INT(0, h[i].live);
        }
    }
}

/* A call that fails gives the arena back what it took: memory does not creep up. */
static void failed_calls_roll_back(void)
{
    heap h;
    l2l_context *c;
    l2l_tensor *x, *w;
    l2l_conv_options o = l2l_conv_default();
    size_t used = 0;
    int i;
    memset(&h, 0, sizeof h);
    c = heap_context(&h);
    x = l2l_zeros(c, l2l_shape_of(2, 8, 8, 3));
    w = l2l_zeros(c, l2l_shape_of(3, 3, 4, 8));
    for (i = 0; i < 20000; i++) {
        CHECK(l2l_conv(c, x, w, &o) == NULL);
        CHECK(l2l_zeros(c, l2l_shape_of(1, 1, 1, 1)) == NULL);
        l2l_error_clear(c);
        if (i == 0) used = l2l_memory_used(c);
    }
    CHECK_INT(used, l2l_memory_used(c));
    CHECK(l2l_memory_peak(c) >= used);
    l2l_context_free(c);
    CHECK_INT(0, h.live);
}

static void half_an_allocator(void)
{
    l2l_options o = l2l_options_default();
    o.allocator.allocate = heap_allocate;
    CHECK(l2l_context_create(&o) == NULL);
    o.allocator.allocate = NULL;
    o.allocator.release = heap_release;
    CHECK(l2l_context_create(&o) == NULL);
}

static void recycling(void)
{
    l2l_context *c = test_context(1);
    size_t after_one = 0;
    int i;
    for (i = 0; i < 200; i++) {
        l2l_mark mark = l2l_mark_here(c), inner;
        l2l_tensor *x = l2l_full(c, l2l_shape_of(4, 16, 16, 8), 1), *y;
        inner = l2l_mark_here(c);
        y = l2l_mul(c, x, x);
        l2l_release(c, inner);
        y = l2l_mul(c, x, x);
        if (CHECK(y != NULL)) CHECK_NEAR(8192, l2l_item(c, l2l_sum(c, y)), 0);
        l2l_drop(c, y);
        l2l_release(c, mark);
        if (i == 0) after_one = l2l_memory_used(c);
    }
    CHECK_INT(after_one, l2l_memory_used(c));
    CHECK_OK(c);
    l2l_context_free(c);
}

int main(void)
{
    unsigned i;
    golden_fill(images, N * 64, 702, 0, 1);
    for (i = 0; i < N; i++) labels[i] = (int)i % 5;
    for (i = 0; i < sizeof trials / sizeof *trials; i++) {
        current = &trials[i];
        RUN(every_allocation_fails, current->name);
    }
    RUN(warm_steps, "a warm training step makes no call to the allocator");
    RUN(warm_epochs, "nor does one that crops, pads and flips");
    RUN(parts_save_memory, "a step in parts takes a fraction of the memory");
    RUN(failed_second_part, "a step that fails in its second part leaves everything as before");
    RUN(failed_calls_roll_back, "a failed call gives back what it took");
    RUN(half_an_allocator, "an allocator with one function is refused");
    RUN(recycling, "marks give memory back");
    return test_end();
}
