/* A mini-batch in parts (micro_batch), in whatever build includes this: the same training as with
   the whole batch, up to rounding.

   The inner steps have the same bits in any batch, so that after one step only the order of the
   additions behind the two gradients is different. Accepted is, for theta and for phi, the share
   `BOUND` of their largest change; after several steps ten times that. */
#ifndef L2LADV_TESTS_CHECK_MICRO_H
#define L2LADV_TESTS_CHECK_MICRO_H

#include "networks.h"

#define MICRO_BOUND TOLERANCE(1e-5, 1e-10)
enum { MICRO_N = 24, MICRO_PIXELS = 72, MICRO_MOST_PARTS = 8 };
enum { MICRO_PLAIN, MICRO_PGD, MICRO_LEARNED, MICRO_SECOND, MICRO_METHODS };
enum { MICRO_SMOOTH, MICRO_DROPPING, MICRO_NORMED, MICRO_MODELS }; /* the network                   */

/* dropout, so that line 14 cannot be the look at x'_T as well */
static l2l_tensor *dropping_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)user;
    x = l2l_tanh(c, l2l_layer_conv(m, "conv", x, 5, 3, 1, 1, 0));
    return l2l_layer_linear(m, "fc", l2l_layer_dropout(m, x, 0.5), 4, L2L_LAST);
}
/* cross-entropy in evaluation mode: batch norm by the running statistics */
static l2l_tensor *evaluated_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                  void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)x;
    (void)user;
    return l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_EVALUATE), labels));
}

/* A maximizer around another one that notes the parts. */
typedef struct parts {
    l2l_maximizer inner;
    l2l_learned *phi;       /* NULL: nothing is learned */
    int begins, gradients, updates, fail_at;
    int first[MICRO_MOST_PARTS], n[MICRO_MOST_PARTS], batch, last; /* last: `first` at the update */
    double L_phi;                                                  /* and L_phi                   */
    l2l_real adv[MICRO_N * MICRO_PIXELS], gradient[MICRO_MOST_PARTS][600];
} parts;

static bool parts_begin(void *self, l2l_inner *in)
{
    parts *s = (parts *)self;
    s->begins++;
    return !s->inner.begin || s->inner.begin(s->inner.self, in);
}
static bool parts_step(void *self, l2l_inner *in)
{
    parts *s = (parts *)self;
    return s->inner.step(s->inner.self, in);
}
static bool parts_gradient(void *self, l2l_inner *in)
{
    parts *s = (parts *)self;
    int k = s->gradients++;
    if (s->gradients == s->fail_at) return false;
    s->batch = in->batch;
    if (k < MICRO_MOST_PARTS) {
        s->first[k] = in->first;
        s->n[k] = in->n;
        memcpy(s->adv + in->first * MICRO_PIXELS, in->adv->data,
               (size_t)l2l_count(in->shape) * sizeof(l2l_real));
        if (s->phi && !l2l_learned_gradient(s->phi, in, s->gradient[k])) return false;
    }
    return !s->inner.gradient || s->inner.gradient(s->inner.self, in);
}
static bool parts_update(void *self, l2l_inner *in)
{
    parts *s = (parts *)self;
    s->updates++;
    s->last = in->first;
    s->L_phi = in->L_phi;
    return !s->inner.update || s->inner.update(s->inner.self, in);
}

/* Context, model, phi and trainer of one run; 24 images of 2x6x6, SGD with momentum, weight decay
   and clipping on both sides. */
typedef struct micro {
    l2l_context *c;
    l2l_model *m;
    l2l_learned *phi;
    l2l_dataset d;
    l2l_train_options o;
    l2l_trainer *t;
    parts seen;
    l2l_real x[MICRO_N * MICRO_PIXELS], *theta0;
    l2l_real phi0[600];
    int labels[MICRO_N];
    l2l_progress p;
} micro;

HELPER micro *micro_make(l2l_context *c, int method, int network, int micro_batch)
{
    static const double bound[] = {0.8, 1, 2.5, 1};
    micro *r = (micro *)test_memory(sizeof *r);
    l2l_learned_options lo = l2l_learned_default();
    l2l_model_options mo = own_options("micro", network == MICRO_NORMED     ? moody_forward
                                                : network == MICRO_DROPPING ? dropping_forward
                                                                            : smooth_forward,
                                       2, 6, 4);
    int64_t n;
    int i;
    r->c = c;
    golden_fill(r->x, MICRO_N * MICRO_PIXELS, 800, 0.1, 0.9);
    for (i = 0; i < MICRO_N; i++) r->labels[i] = i * i % 4;
    r->m = l2l_model_create(r->c, &mo);
    if (r->m && network != MICRO_NORMED) seed_parameters(r->m, 801, bound);
    lo.input = L2L_INPUT_L1;
    lo.raw_output = true;
    lo.scale = 0.5;
    lo.second_order = method == MICRO_SECOND;
    lo.optimizer = l2l_sgd_default();
    lo.optimizer.rate = 0.2;
    lo.optimizer.clip = 0.5;
    lo.optimizer.weight_decay = 0.01;
    r->phi = l2l_learned_create(r->c, &lo);
    r->o = l2l_train_default();
    r->o.method = method == MICRO_PLAIN ? l2l_method_plain()
                  : method == MICRO_PGD ? l2l_method_advtrain()
                                        : l2l_method_rnn_adv(r->phi);
    if (network == MICRO_NORMED) {
        r->o.method.outer.loss = evaluated_loss;
        r->o.method.outer.is_objective = false;
    }
    r->seen.inner = r->o.method.maximizer;
    r->seen.phi = method >= MICRO_LEARNED ? r->phi : NULL;
    r->o.method.maximizer.self = &r->seen;
    r->o.method.maximizer.begin = parts_begin;
    if (method != MICRO_PLAIN) {
        r->o.method.maximizer.step = parts_step;
        r->o.method.maximizer.gradient = parts_gradient;
        r->o.method.maximizer.update = parts_update;
    }
    r->o.batch = MICRO_N;
    r->o.micro_batch = micro_batch;
    r->o.T = 3;
    r->o.epsilon = 0.2;
    r->o.epsilon_warm_up = 0;
    r->o.optimizer = l2l_sgd_default();
    r->o.optimizer.rate = 1;
    r->o.optimizer.clip = 0.3;
    r->o.optimizer.weight_decay = 0.01;
    if (CHECK(r->m && r->phi) &&
        CHECK(l2l_dataset_from_arrays(r->c, r->x, r->labels, MICRO_N, 2, 6, 6, 4, &r->d))) {
        memcpy(r->phi0, l2l_learned_parameters(r->phi),
               (size_t)l2l_learned_size(r->phi) * sizeof(l2l_real));
        r->theta0 = all_parameters(r->m, &n);
        r->t = l2l_trainer_create(r->m, &r->d, &r->o);
    }
    CHECK(r->t != NULL);
    return r;
}
HELPER micro *micro_begin(int method, int network, int micro_batch, int threads)
{
    return micro_make(test_context(threads), method, network, micro_batch);
}
static bool micro_step(micro *r)
{
    return r->t && l2l_train_step(r->t, r->x, r->labels, MICRO_N, &r->p);
}
static void micro_end(micro *r)
{
    CHECK_OK(r->c);
    l2l_trainer_free(r->t);
    l2l_learned_free(r->phi);
    l2l_model_free(r->m);
    l2l_dataset_free(&r->d);
    l2l_context_free(r->c);
    free(r->theta0);
    free(r);
}

/* |a - b| is at most the share `bound` of the largest |b - origin|, for all n numbers. */
HELPER int micro_near(const char *file, int line, const char *what, const l2l_real *a,
                      const l2l_real *b, const l2l_real *origin, int64_t n, double bound)
{
    double largest = 0, off = 0;
    int64_t i;
    for (i = 0; i < n; i++) {
        double change = fabs((double)b[i] - (double)origin[i]), d = fabs((double)a[i] - (double)b[i]);
        if (change > largest) largest = change;
        if (!(d <= off)) off = d; /* also when it is not a number */
    }
    if (largest > 0 && off <= bound * largest) return 1;
    if (test_complain(file, line, what))
        printf("off by %.2g, changed by %.2g, accepted is %.2g of that\n", off, largest, bound);
    return 0;
}
#define CHECK_CHANGE(a, b, origin, n, bound) \
    micro_near(__FILE__, __LINE__, #a, a, b, origin, n, bound)

HELPER void micro_compare(const micro *a, const micro *whole, double bound)
{
    int64_t n, phi = l2l_learned_size(whole->phi);
    l2l_real *theta = all_parameters(a->m, &n), *expected = all_parameters(whole->m, &n);
    CHECK_CHANGE(theta, expected, whole->theta0, n, bound);
    if (whole->seen.phi)
        CHECK_CHANGE(l2l_learned_parameters(a->phi), l2l_learned_parameters(whole->phi),
                     whole->phi0, phi, bound);
    CHECK_NEAR(whole->p.loss, a->p.loss, bound * (1 + whole->p.loss));
    CHECK_NEAR(whole->p.gain, a->p.gain, bound * (1 + whole->p.loss));
    CHECK_NEAR(whole->p.accuracy, a->p.accuracy, 0);
    CHECK_NEAR(whole->p.saturated, a->p.saturated, 0);
    CHECK_NEAR(whole->seen.L_phi, a->seen.L_phi, bound * fabs(whole->seen.L_phi));
    free(theta);
    free(expected);
}

/* 24 images at once, and in parts of 24 (the same bits), of 8, and of 7 with a rest of 3. */
HELPER void parts_equal_whole(void)
{
    static const int sizes[] = {24, 8, 7};
    int method, network, i, step;
    for (method = 0; method < MICRO_METHODS; method++)
        for (network = 0; network < MICRO_MODELS; network++)
            for (i = 0; i < COUNT(sizes); i++) {
                micro *whole = micro_begin(method, network, 0, 2);
                micro *a = micro_begin(method, network, sizes[i], 2);
                int before = test_complaints;
                for (step = 0; step < 4; step++) {
                    if (!CHECK(micro_step(whole) && micro_step(a))) break;
                    micro_compare(a, whole, step ? 10 * MICRO_BOUND : MICRO_BOUND);
                    if (sizes[i] == MICRO_N) CHECK_SAME_MODEL(a->m, whole->m);
                    if (sizes[i] == MICRO_N)
                        CHECK_BYTES(l2l_learned_parameters(whole->phi),
                                    l2l_learned_parameters(a->phi),
                                    (size_t)l2l_learned_size(a->phi) * sizeof(l2l_real));
                }
                if (test_complaints > before)
                    printf("    method %d, network %d, parts of %d\n", method, network, sizes[i]);
                micro_end(whole);
                micro_end(a);
            }
}

/* With batch 8 and a caller's batch of 24 there are parts, though the trainer expected none. */
HELPER void large_given_batch(void)
{
    micro *whole = micro_begin(MICRO_LEARNED, MICRO_SMOOTH, 0, 1);
    micro *a = micro_begin(MICRO_LEARNED, MICRO_SMOOTH, 8, 1);
    l2l_trainer_free(a->t);
    a->o.batch = 8;
    a->t = l2l_trainer_create(a->m, &a->d, &a->o);
    if (CHECK(micro_step(whole) && micro_step(a))) micro_compare(a, whole, MICRO_BOUND);
    CHECK_INT(3, a->seen.gradients);
    micro_end(whole);
    micro_end(a);
}

/* theta and phi after one SGD step, by hand, with the gradients g that are to be descended. */
HELPER void naive_step(const l2l_optimizer_options *o, const l2l_real *from, const double *g,
                       int64_t n, l2l_real *to)
{
    double norm = 0, scale;
    int64_t i;
    for (i = 0; i < n; i++) norm += g[i] * g[i];
    norm = sqrt(norm);
    CHECK(norm > o->clip); /* else clipping is not tested */
    scale = o->clip / norm;
    for (i = 0; i < n; i++)
        to[i] = (l2l_real)((double)from[i] -
                           o->rate * (scale * g[i] + o->weight_decay * (double)from[i]));
}

/* The gradient of the mean cross-entropy of the images x in all parameters, times `share`, is added
   to g, in the order of memory. Returns how many images are classified right. */
HELPER int naive_gradient(l2l_model *m, const l2l_real *x, const int *labels, int n, double share,
                           double *g)
{
    l2l_context *c = l2l_model_context(m);
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, true);
    l2l_tensor *images = l2l_zeros(c, l2l_shape_of(n, 6, 6, 2)), *logits, *loss;
    l2l_tensor *theta[8], *found[8];
    int i, count = l2l_model_parameters(m), predicted[MICRO_N], right = 0;
    for (i = 0; i < count; i++) {
        union { const l2l_tensor *seen; l2l_tensor *used; } value;
        value.seen = l2l_model_parameter(m, i).value;
        theta[i] = value.used;
    }
    memcpy(images->data, x, (size_t)n * MICRO_PIXELS * sizeof *x);
    logits = l2l_model_forward(m, images, L2L_TRAIN);
    loss = l2l_mean(c, l2l_cross_entropy(c, logits, labels));
    if (CHECK(l2l_predict(c, logits, predicted)))
        for (i = 0; i < n; i++) right += predicted[i] == labels[i];
    if (CHECK(l2l_grad(c, loss, theta, count, found, 0)))
        for (i = 0; i < count; i++) {
            int64_t j, size = l2l_count(found[i]->shape);
            for (j = 0; j < size; j++) *g++ += share * (double)found[i]->data[j];
        }
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return right;
}

/* One step in parts of 7 against the explicit sums: of the parts' l2l_grad at the x'_T that the
   maximizer was shown, and of the parts' l2l_learned_gradient. */
HELPER void naive_sum_of_parts(void)
{
    micro *r = micro_begin(MICRO_LEARNED, MICRO_SMOOTH, 7, 1);
    l2l_model *before = l2l_model_clone(r->c, r->m);
    int64_t size = l2l_model_size(r->m), n = l2l_learned_size(r->phi), at = 0, j;
    double *g = (double *)test_memory((size_t)size * sizeof *g), g_phi[600] = {0};
    l2l_real *theta = test_array(size), *expected = test_array(size), phi[600];
    int k, i, right = 0;
    if (CHECK(before && micro_step(r)) && CHECK_INT(4, r->seen.gradients)) {
        for (k = 0; k < 4; k++) {
            int first = r->seen.first[k], count = r->seen.n[k];
            CHECK_INT(7 * k, first);
            CHECK_INT(k < 3 ? 7 : 3, count);
            right += naive_gradient(before, r->seen.adv + first * MICRO_PIXELS, r->labels + first,
                                    count, count / (double)MICRO_N, g);
            for (j = 0; j < n; j++)          /* phi ascends */
                g_phi[j] -= count * (double)r->seen.gradient[k][j] / MICRO_N;
        }
        CHECK_NEAR(right / (double)MICRO_N, r->p.accuracy, 1e-12);
        for (i = 0; i < l2l_model_parameters(r->m); i++) {
            const l2l_tensor *a = l2l_model_parameter(before, i).value;
            const l2l_tensor *b = l2l_model_parameter(r->m, i).value;
            memcpy(expected + at, a->data, (size_t)l2l_count(a->shape) * sizeof *theta);
            memcpy(theta + at, b->data, (size_t)l2l_count(b->shape) * sizeof *theta);
            at += l2l_count(a->shape);
        }
        if (CHECK_INT(size, at)) {
            l2l_real *origin = test_array(size);
            memcpy(origin, expected, (size_t)size * sizeof *origin);
            naive_step(&r->o.optimizer, origin, g, size, expected);
            CHECK_CHANGE(theta, expected, origin, size, MICRO_BOUND);
            free(origin);
        }
        naive_step(&l2l_learned_info(r->phi)->optimizer, r->phi0, g_phi, n, phi);
        CHECK_CHANGE(l2l_learned_parameters(r->phi), phi, r->phi0, n, MICRO_BOUND);
    }
    free(g);
    free(theta);
    free(expected);
    l2l_model_free(before);
    micro_end(r);
}

HELPER void run_micro(void)
{
    RUN(parts_equal_whole, "a batch in parts trains as the whole batch, over several steps");
    RUN(large_given_batch, "a caller's batch larger than `batch` comes in parts, too");
    RUN(naive_sum_of_parts, "a step in parts is that of the explicit sums of the parts' gradients");
}

#endif
