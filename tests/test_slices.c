/* Depth first: looks go through the network in slices, by several threads. That changes no bit, no
   record, no error; whoever has not said that it may run in several threads sees whole batches; the
   allocator is asked by the caller's thread alone, and when it has nothing the step ends cleanly. */
#include "networks.h"

#include "../examples/autoattack.h"
#ifdef _OPENMP
#include <omp.h>
#endif

enum { SIDE = 12, SIZE = SIDE * SIDE, MOST = 61, CLASSES = 4 };
static const int threads[] = {1, 2, 3, 5};
static const int batches[] = {MOST, 24, 8, 5};

/* What a network or objective of one's own is asked for, when there is one thread. */
typedef struct asked {
    int most; /* images at once */
    int64_t images;
} asked;

static void asks(asked *a, int n)
{
    if (!a) return;
    if (n > a->most) a->most = n;
    a->images += n;
}

/* Batch norm, pooling, 3x3 layers of Winograd's kind; the log of an image's mean makes a black one
   not finite. */
static l2l_tensor *net_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_unit u = l2l_unit_default(16, 3);
    l2l_tensor *a, *z;
    asks((asked *)user, x->shape.n);
    u.norm = "bn1";
    u.flags = L2L_RELU;
    a = l2l_layer_unit(m, "conv1", x, &u);
    u.norm = "bn2";
    u.flags = L2L_RELU | L2L_POOL;
    a = l2l_layer_unit(m, "conv2", a, &u);
    z = l2l_layer_linear(m, "fc", a, CLASSES, 0);
    return l2l_add(c, z, l2l_log(c, l2l_global_average_pool(c, x)));
}

static l2l_tensor *net_loss(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                            const int *labels, void *user)
{
    (void)clean;
    asks((asked *)user, logits->shape.n);
    return l2l_margin(c, logits, labels);
}

static l2l_model *net(l2l_context *c, bool concurrent, asked *a)
{
    l2l_model_options o = own_options("net", net_forward, 1, SIDE, CLASSES);
    o.concurrent = concurrent;
    o.user = a;
    o.seed = 3;
    return l2l_model_create(c, &o);
}

static l2l_real images[MOST * SIZE];
static int labels[MOST];

static void make_images(void)
{
    int i;
    golden_fill(images, MOST * SIZE, 900, 0.05, 1);
    for (i = 0; i < MOST; i++) labels[i] = i * 7 % CLASSES;
}

static void blacken(int i) { memset(images + i * SIZE, 0, SIZE * sizeof *images); }

/* -- the same bits ------------------------------------------------------------------------------ */

typedef struct outcome {
    l2l_real adversarial[MOST * SIZE], logits[MOST * CLASSES];
    l2l_record records[MOST];
    l2l_status status;
    char text[256];
} outcome;

static outcome reference, got;

static void note(l2l_context *c, outcome *o)
{
    o->status = l2l_error(c);
    strncpy(o->text, l2l_error_text(c), sizeof o->text - 1);
    l2l_error_clear(c);
}

static void attack(l2l_model *m, const l2l_attack *a, int n, outcome *o)
{
    memset(o, 0, sizeof *o);
    l2l_model_logits(m, images, n, o->logits);
    l2l_attack_run(m, a, images, labels, n, o->adversarial, o->records);
    note(l2l_model_context(m), o);
}

static bool same(const char *what, int workers, int batch, int n)
{
    const int before = test_complaints;
    CHECK_INT(reference.status, got.status);
    CHECK_TEXT(reference.text, got.text);
    CHECK_BYTES(reference.logits, got.logits, sizeof got.logits);
    CHECK_BYTES(reference.adversarial, got.adversarial, sizeof got.adversarial);
    CHECK_BYTES(reference.records, got.records, sizeof got.records);
    if (test_complaints == before) return true;
    printf("    %s, %d threads, batch %d, %d images\n", what, workers, batch, n);
    return false;
}

/* Attack number k of several kinds. */
static l2l_attack attack_number(int k, l2l_learned *phi)
{
    l2l_attack a = k == 1 ? l2l_attack_mim(0.1) : k == 2 ? l2l_attack_bls(0.1)
                 : k == 3 ? l2l_attack_learned(phi, 0.1, 4) : l2l_attack_pgd(0.1);
    if (k == 4) a.objective = l2l_objective_kl();
    if (k == 5) a.objective = l2l_objective_dlr();
    if (k == 6) a.last_iterate = true;
    a.steps = 4;
    return a;
}

static void attacks_same(void)
{
    static const int counts[] = {MOST, 9, 8, 1};
    int k, i, j, n;
    for (k = 0; k < 7; k++)
        for (n = 0; n < COUNT(counts); n++) {
            l2l_context *c = test_context(1);
            l2l_model *m = net(c, false, NULL);
            l2l_learned *phi = l2l_learned_create(c, NULL);
            l2l_attack a = attack_number(k, phi);
            a.batch = MOST;
            attack(m, &a, counts[n], &reference);
            CHECK_INT(L2L_OK, reference.status);
            l2l_model_free(m);
            m = net(c, true, NULL);
            for (i = 0; i < COUNT(threads); i++)
                for (j = 0; j < (n || k % 3 ? 1 : COUNT(batches)); j++) {
                    l2l_set_threads(c, threads[i]);
                    a.batch = batches[j];
                    attack(m, &a, counts[n], &got);
                    same(a.name, threads[i], a.batch, counts[n]);
                }
            l2l_learned_free(phi);
            l2l_model_free(m);
            l2l_context_free(c);
        }
}

/* What was packed for other values, or for other kernels, is not used. */
static void weights_change(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = net(c, true, NULL), *fresh = net(c, false, NULL);
    l2l_attack a = l2l_attack_pgd(0.1);
    unsigned cpus[8];
    int n = test_cpus(c, cpus), round, i, k;
    for (round = 0; round < 3; round++)
        for (i = 0; i < n; i++) {
            l2l_set_cpu(c, cpus[i]);
            for (k = 0; k < 2; k++) {        /* new weights first, then the same ones             */
                attack(m, &a, MOST, &got);
                attack(fresh, &a, MOST, &reference);
                same("changed weights", 2, a.batch, MOST);
            }
            for (k = 0; k < l2l_model_parameters(m); k++) {
                const int64_t count = l2l_count(l2l_model_parameter(m, k).value->shape);
                l2l_real *v = test_array(count);
                golden_fill(v, count, (uint32_t)(1000 + 10 * round + k), 0.01, 0.4);
                CHECK(l2l_parameter_set(m, k, v) && l2l_parameter_set(fresh, k, v));
                free(v);
            }
        }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_model_free(fresh);
    l2l_context_free(c);
}

/* Two steps of training: the model's numbers, or its error. */
static l2l_real *trained(int kind, bool concurrent, int workers, int64_t *count, outcome *o)
{
    l2l_context *c = test_context(workers);
    l2l_model *m = net(c, concurrent, NULL);
    l2l_learned *phi = l2l_learned_create(c, NULL);
    l2l_train_options how = l2l_train_default();
    l2l_trainer *t;
    l2l_real *all;
    int64_t at = 0;
    int i;
    how.method = kind == 1 ? l2l_method_rnn_adv(phi) : kind == 2 ? l2l_method_trades(6)
               : kind == 3 ? l2l_method_advtrain_bls() : l2l_method_advtrain();
    if (kind == 4) how.micro_batch = 20;
    if (kind == 5) how.method.start = L2L_START_CLEAN;
    how.epsilon = 0.1;
    how.T = 3;
    how.steps = 2;
    memset(o, 0, sizeof *o);
    t = l2l_trainer_create(m, NULL, &how);
    for (i = 0; i < 2; i++) l2l_train_step(t, images, labels, MOST, NULL);
    note(c, o);
    for (i = 0, *count = 0; i < l2l_model_parameters(m); i++)
        *count += l2l_count(l2l_model_parameter(m, i).value->shape);
    all = test_array(*count + l2l_learned_size(phi));
    for (i = 0; i < l2l_model_parameters(m); i++) {
        l2l_parameter_get(m, i, all + at);
        at += l2l_count(l2l_model_parameter(m, i).value->shape);
    }
    memcpy(all + at, l2l_learned_parameters(phi), (size_t)l2l_learned_size(phi) * sizeof *all);
    *count += l2l_learned_size(phi);
    l2l_trainer_free(t);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
    return all;
}

static void trainings_same(void)
{
    int kind, i;
    for (kind = 0; kind < 6; kind++) {
        int64_t n, count;
        l2l_real *expected = trained(kind, false, 1, &n, &reference), *all;
        CHECK_INT(L2L_OK, reference.status);
        for (i = 0; i < COUNT(threads); i++) {
            all = trained(kind, true, threads[i], &count, &got);
            CHECK_INT(n, count);
            CHECK_TEXT(reference.text, got.text);
            CHECK_BYTES(expected, all, (size_t)n * sizeof *all);
            free(all);
        }
        free(expected);
    }
}

/* The known networks: any threads, any batch. */
static void known_same(void)
{
    static const char *const archs[] = {"smallcnn", "vgg16", "wrn"};
    int k, i, j;
    for (k = 0; k < COUNT(archs); k++) {
        l2l_model_options o = l2l_model_default(archs[k]);
        l2l_attack a = l2l_attack_pgd(0.1);
        l2l_context *c = test_context(1);
        l2l_model *m;
        const int n = 21;
        int64_t size;
        l2l_real *x, *one, *other;
        o.width_multiplier = k == 2 ? 1 : 0.25;
        if (k == 2) o.depth = 10;
        m = l2l_model_create(c, &o);
        size = (int64_t)o.channels * o.height * o.width;
        x = test_array(n * size);
        one = test_array(n * size);
        other = test_array(n * size);
        golden_fill(x, n * size, 901, 0, 1);
        a.steps = 2;
        a.batch = 1;                         /* one slice, which is the batch                     */
        CHECK(l2l_attack_run(m, &a, x, labels, n, one, reference.records));
        for (i = 0; i < COUNT(threads); i++)
            for (j = 0; j < 2; j++) {
                l2l_set_threads(c, threads[i]);
                a.batch = j ? 13 : n;
                CHECK(l2l_attack_run(m, &a, x, labels, n, other, got.records));
                CHECK_BYTES(one, other, (size_t)(n * size) * sizeof *one);
                CHECK_BYTES(reference.records, got.records, (size_t)n * sizeof *got.records);
            }
        CHECK_OK(c);
        free(x);
        free(one);
        free(other);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* Logits by l2l_model_forward, cross-entropy and its gradient on the tape, of the whole batch. */
static void on_the_tape(l2l_model *m, int n, l2l_real *logits, l2l_real *loss, l2l_real *gradient)
{
    l2l_context *c = l2l_model_context(m);
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(n, SIDE, SIDE, 1)), *z, *L, *dx = NULL;
    l2l_set_recording(c, true);
    z = l2l_model_forward(m, x, L2L_EVALUATE);
    L = l2l_cross_entropy(c, z, labels);
    CHECK(l2l_grad(c, l2l_sum(c, L), &x, 1, &dx, 0));
    l2l_set_recording(c, false);
    if (CHECK(z && L && dx)) {
        memcpy(logits, z->data, (size_t)n * CLASSES * sizeof *logits);
        memcpy(loss, L->data, (size_t)n * sizeof *loss);
        l2l_to_nchw(c, dx, gradient);
    }
    l2l_release(c, mark);
}

/* Passes of one's own: l2l_model_forward without a tape, and gradients from arrays. */
static void passes_same(void)
{
    static l2l_real logits[MOST * CLASSES], loss[MOST], gradient[MOST * SIZE];
    static l2l_real again[MOST], back[MOST * SIZE];
    int i, concurrent;
    make_images();
    for (concurrent = 0; concurrent < 2; concurrent++)
        for (i = 0; i < COUNT(threads); i++) {
            l2l_context *c = test_context(threads[i]);
            asked network = {0, 0};
            l2l_model *m = net(c, concurrent, threads[i] == 1 ? &network : NULL);
            l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(MOST, SIDE, SIDE, 1)), *z;
            on_the_tape(m, MOST, logits, loss, gradient);
            network.most = 0;
            z = l2l_model_forward(m, x, L2L_EVALUATE);
            if (CHECK(z != NULL)) CHECK_BYTES(logits, z->data, sizeof logits);
            if (threads[i] == 1) CHECK_INT(concurrent ? 8 : MOST, network.most);
            CHECK(l2l_model_gradient(m, images, labels, MOST, again, back));
            CHECK_BYTES(loss, again, sizeof loss);
            CHECK_BYTES(gradient, back, sizeof gradient);
            memset(back, 0, sizeof back);
            CHECK(l2l_model_gradient(m, images, labels, MOST, NULL, back));
            CHECK_BYTES(gradient, back, sizeof gradient);
            memset(again, 0, sizeof again);
            CHECK(l2l_model_gradient(m, images, labels, MOST, again, NULL));
            CHECK_BYTES(loss, again, sizeof loss);
            CHECK(l2l_model_gradient(m, NULL, NULL, 0, NULL, NULL));
            CHECK_OK(c);
            l2l_set_recording(c, true);      /* which nothing of it is                            */
            CHECK(l2l_model_gradient(m, images, labels, 9, again, back) && l2l_recording(c));
            CHECK_BYTES(gradient, back, 9 * SIZE * sizeof *back);
            l2l_set_recording(c, false);
            labels[5] = CLASSES;
            CHECK(!l2l_model_gradient(m, images, labels, MOST, again, back));
            CHECK_INT(L2L_ERROR_ARGUMENT, l2l_error(c));
            make_images();
            l2l_error_clear(c);
            l2l_model_free(m);
            l2l_context_free(c);
        }
}

/* One weight for planes of 14, 12, 10, 8 and 4: Winograd's tiles of 5, of 4, of 2 and the direct
   way. `user` says whether a pass took more than the images of a slice. */
static l2l_tensor *one_weight_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *w;
    l2l_conv_options o = l2l_conv_default();
    if (x->shape.n == MOST) *(bool *)user = true; /* slices are smaller: nobody else writes then */
    x = l2l_layer_conv(m, "first", x, 32, 3, 1, 1, L2L_RELU);
    w = l2l_layer_parameter(m, "weight", l2l_shape_of(3, 3, 32, 32), 4, true, 0.08, 0);
    o.relu = true;
    o.padding = 1;
    x = l2l_conv(c, x, w, &o);
    o.padding = 0;
    x = l2l_conv(c, l2l_conv(c, x, w, &o), w, &o);
    o.pool = true;
    x = l2l_conv(c, x, w, &o);
    o.pool = false;
    o.padding = 1;
    return l2l_layer_linear(m, "fc", l2l_conv(c, x, w, &o), CLASSES, L2L_LAST);
}

static void one_weight(void)
{
    enum { BIG = 14 * 14 };
    static l2l_real x[MOST * BIG], first[MOST * BIG], now[MOST * BIG];
    bool whole;
    int i, pass;
    golden_fill(x, MOST * BIG, 901, 0, 1);
    for (i = 0; i < COUNT(threads); i++) {
        l2l_context *c = test_context(threads[i]);
        l2l_model_options o = own_options("one weight", one_weight_forward, 1, 14, CLASSES);
        l2l_model *m;
        o.user = &whole;
        o.concurrent = true;
        m = l2l_model_create(c, &o);
        for (pass = 0; pass < 3; pass++) {
            whole = false;
            CHECK(l2l_model_gradient(m, x, labels, MOST, NULL, i ? now : first));
            CHECK(!whole);
            if (i) CHECK_BYTES(first, now, sizeof now);
        }
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* A network of one's own around another one, which has the slices to itself. */
static l2l_tensor *around_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *z = l2l_model_forward((l2l_model *)user, x, L2L_EVALUATE);
    return l2l_layer_linear(m, "fc", l2l_relu(c, z), CLASSES, 0);
}

static void inside_another(void)
{
    int i;
    make_images();
    for (i = 0; i < COUNT(threads); i++) {
        l2l_context *c = test_context(threads[i]);
        asked network = {0, 0};
        l2l_model *inner = net(c, true, threads[i] == 1 ? &network : NULL), *m;
        l2l_model_options o = own_options("around", around_forward, 1, SIDE, CLASSES);
        l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(MOST, SIDE, SIDE, 1)), *z;
        o.user = inner;
        o.seed = 4;
        m = l2l_model_create(c, &o);
        network.most = 0;
        z = l2l_model_forward(m, x, L2L_EVALUATE);
        if (threads[i] == 1) CHECK_INT(8, network.most);
        memset(got.logits, 0, sizeof got.logits);
        if (CHECK(z != NULL)) memcpy(got.logits, z->data, sizeof got.logits);
        if (i == 0) memcpy(reference.logits, got.logits, sizeof got.logits);
        CHECK_BYTES(reference.logits, got.logits, sizeof got.logits);
        l2l_set_recording(c, true);          /* the whole batch                                   */
        z = l2l_model_forward(m, x, L2L_EVALUATE);
        if (CHECK(z != NULL)) CHECK_BYTES(reference.logits, z->data, sizeof got.logits);
        if (threads[i] == 1) CHECK_INT(MOST, network.most);
        l2l_set_recording(c, false);
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_model_free(inner);
        l2l_context_free(c);
    }
}

/* -- who is asked for slices ---------------------------------------------------------------------- */

static void flags_matter(void)
{
    int by_net, by_loss;
    for (by_net = 0; by_net < 2; by_net++)
        for (by_loss = 0; by_loss < 2; by_loss++) {
            asked network = {0, 0}, loss = {0, 0};
            l2l_context *c = test_context(1);
            l2l_model *m = net(c, by_net, &network);
            l2l_attack a = l2l_attack_pgd(0.1);
            a.objective.loss = net_loss;
            a.objective.user = &loss;
            a.objective.concurrent = by_loss;
            a.batch = MOST;
            a.steps = 2;
            a.last_iterate = true;
            network.most = 0;
            CHECK(l2l_attack_run(m, &a, images, labels, MOST, NULL, NULL));
            CHECK_OK(c);
            CHECK_INT(4 * MOST, loss.images); /* the clean look and three                         */
            CHECK_INT(by_net && by_loss ? 8 : MOST, network.most);
            CHECK_INT(by_net && by_loss ? 8 : MOST, loss.most);
            network.most = 0;
            CHECK(l2l_model_logits(m, images, MOST, got.logits));
            CHECK_INT(by_net ? 8 : MOST, network.most);
            l2l_model_free(m);
            l2l_context_free(c);
        }
}

/* -- errors ----------------------------------------------------------------------------------------- */

static void errors_same(void)
{
    static const int bad[][3] = {{0, -1, -1}, {3, 5, -1}, {50, 12, 33}, {60, 59, -1}, {17, 60, 8}};
    int k, i;
    int64_t n;
    for (k = 0; k < COUNT(bad); k++) {
        l2l_attack a = l2l_attack_pgd(0.1);
        l2l_context *c = test_context(1);
        l2l_model *m = net(c, false, NULL);
        make_images();
        for (i = 0; i < 3; i++)
            if (bad[k][i] >= 0) blacken(bad[k][i]);
        attack(m, &a, MOST, &reference);
        CHECK_INT(L2L_ERROR_NUMERIC, reference.status);
        l2l_model_free(m);
        m = net(c, true, NULL);
        for (i = 0; i < COUNT(threads); i++) {
            l2l_set_threads(c, threads[i]);
            attack(m, &a, MOST, &got);
            same("black images", threads[i], a.batch, MOST);
        }
        l2l_model_free(m);
        l2l_context_free(c);
        free(trained(5, false, 1, &n, &reference));
        CHECK_INT(L2L_ERROR_NUMERIC, reference.status);
        for (i = 0; i < COUNT(threads); i++) {
            free(trained(5, true, threads[i], &n, &got));
            CHECK_INT(reference.status, got.status);
            CHECK_TEXT(reference.text, got.text);
        }
    }
    make_images();
}

static bool stop(void *user, int done, int total)
{
    (void)total;
    *(int *)user = done;
    return done < 24;
}

static void cancelled(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = net(c, true, NULL);
    l2l_attack a = l2l_attack_pgd(0.1);
    int done = 0;
    a.batch = 24;
    a.progress = stop;
    a.user = &done;
    CHECK(!l2l_attack_run(m, &a, images, labels, MOST, NULL, NULL));
    CHECK_ERROR(c, L2L_ERROR_CANCELLED, "cancelled after 24 of 61 images");
    CHECK_INT(24, done);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- memory ---------------------------------------------------------------------------------------- */

typedef struct heap {
    long calls, fail_at, live; /* fail_at: that call and all after it; 0: none                    */
    int elsewhere;             /* called by another thread than the one that called in            */
} heap;

static void *heap_allocate(void *user, size_t size)
{
    heap *h = (heap *)user;
    void *p = ++h->calls >= h->fail_at && h->fail_at ? NULL : malloc(size ? size : 1);
#ifdef _OPENMP
    h->elsewhere |= omp_get_thread_num() != 0;
#endif
    if (p) memset(p, 0xA5, size);
    h->live += p != NULL;
    return p;
}

static void heap_release(void *user, void *p)
{
    heap *h = (heap *)user;
#ifdef _OPENMP
    h->elsewhere |= omp_get_thread_num() != 0;
#endif
    h->live -= p != NULL;
    free(p);
}

static void starved(void)
{
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_context *c = test_context(1);
    l2l_model *m = net(c, false, NULL);
    long k;
    bool failed = true;
    a.steps = 3;
    attack(m, &a, MOST, &reference);
    l2l_model_free(m);
    l2l_context_free(c);
    for (k = 1; failed && k < 1000; k++) {
        l2l_options o = l2l_options_default();
        heap h = {0, 0, 0, 0};
        o.threads = 2;
        o.allocator.allocate = heap_allocate;
        o.allocator.release = heap_release;
        o.allocator.user = &h;
        c = l2l_context_create(&o);
        m = net(c, true, NULL);
        h.fail_at = h.calls + k;
        attack(m, &a, MOST, &got);
        failed = got.status != L2L_OK;
        if (failed) CHECK_INT(L2L_ERROR_MEMORY, got.status);
        h.fail_at = 0;
        attack(m, &a, MOST, &got);
        same("after no memory", 2, a.batch, MOST);
        l2l_model_free(m);
        l2l_context_free(c);
        CHECK_INT(0, h.live);
        CHECK_INT(0, h.elsewhere);
    }
    CHECK(k > 2 && !failed);
}

/* A tensor of the caller's context counts its references: a lane may not have it. Whatever slices
   there are then, the results are those of one thread, and nobody hears of it. */
static l2l_tensor *multiplied(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor **factor = (l2l_tensor **)user, *y = l2l_mul(c, x, factor[0]);
    if (y && factor[0]->context != c) factor[1] = factor[0]; /* a lane had it                     */
    return l2l_layer_linear(m, "fc", y, CLASSES, L2L_LAST);
}

static void tensors_of_the_caller(void)
{
    static l2l_real adversarial[2][MOST * SIZE];
    int i, k;
    for (i = 0; i < 2; i++) {
        l2l_context *c = test_context(i ? 3 : 1);
        l2l_tensor *factor[2] = {l2l_full(c, l2l_shape_of(1, SIDE, SIDE, 1), 0.75), NULL};
        l2l_model_options o = own_options("multiplied", multiplied, 1, SIDE, CLASSES);
        l2l_attack a = l2l_attack_pgd(0.1);
        l2l_model *m;
        o.concurrent = true;
        o.user = factor;
        o.last_layer_deviation = 1;
        m = l2l_model_create(c, &o);
        a.batch = MOST;
        a.last_iterate = true;
        for (k = 0; k < 5; k++)
            CHECK(l2l_attack_run(m, &a, images, labels, MOST, adversarial[i], NULL));
        CHECK_OK(c);
        CHECK(!factor[1]);
        CHECK_INT(1, factor[0]->references);
        if (CHECK(factor[0]->data)) CHECK_NEAR(0.75, factor[0]->data[SIZE - 1], 0);
        l2l_model_free(m);
        l2l_context_free(c);
    }
    CHECK_BYTES(adversarial[0], adversarial[1], sizeof adversarial[0]);
}

int main(void)
{
    make_images();
    RUN(attacks_same, "attacks by slices have the bits and records of attacks by batches");
    RUN(weights_change, "packed weights are those of the weights and kernels of now");
    RUN(trainings_same, "trainings have the same bits");
    RUN(known_same, "the known networks, too, for any threads and any batch");
    RUN(passes_same, "passes of one's own without a tape, and gradients from arrays, have the tape's bits");
    RUN(one_weight, "a weight that serves planes of many sizes is kept for all of them");
    RUN(inside_another, "a network inside a network of one's own, too");
    RUN(flags_matter, "only who says so is asked for slices");
    RUN(tensors_of_the_caller, "a tensor of the caller's context in an own network is no lane's");
    RUN(errors_same, "numbers that are not finite are told as of the whole batch");
    RUN(cancelled, "cancellation is as before");
    RUN(starved, "without memory the attack ends cleanly, and only the caller allocates");
    return test_end();
}
