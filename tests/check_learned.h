/* The learned maximizer: parameter counts, its cell and its meta-gradient against PyTorch, in
   whatever build includes this. */
#ifndef L2LADV_TESTS_CHECK_LEARNED_H
#define L2LADV_TESTS_CHECK_LEARNED_H

#include "networks.h"

HELPER l2l_learned_options learned_options(int cell, int input, int bias, int raw_output,
                                           double scale)
{
    l2l_learned_options o = l2l_learned_default();
    o.cell = (l2l_cell)cell;
    o.input = (l2l_grad_input)input;
    o.bias = bias != 0;
    o.raw_output = raw_output != 0;
    o.scale = scale;
    return o;
}

static void parameter_counts(void)
{
    static const struct { int cell, input, bias, count; } p[] = {
        {L2L_LSTM, L2L_INPUT_SIGN, 1, 491}, {L2L_LSTM, L2L_INPUT_SIGN, 0, 450},
        {L2L_RNN, L2L_INPUT_SIGN, 0, 120},  {L2L_RNN, L2L_INPUT_SIGN, 1, 131},
        {L2L_LSTM, L2L_INPUT_LOG, 1, 531},  {L2L_RNN, L2L_INPUT_LOG, 0, 130}};
    l2l_context *c = test_context(1);
    l2l_learned_options o = l2l_learned_default();
    int i, j;
    CHECK_INT(L2L_LSTM, o.cell);
    CHECK_INT(10, o.hidden);
    CHECK_INT(L2L_INPUT_SIGN, o.input);
    CHECK(!o.raw_output && !o.second_order);
    CHECK_NEAR(0.25, o.scale, 0);
    CHECK_INT(L2L_ADAM, o.optimizer.kind);
    CHECK_NEAR(1e-2, o.optimizer.rate, 0);
    for (i = 0; i < COUNT(p); i++) {
        l2l_learned *m, *n;
        o = learned_options(p[i].cell, p[i].input, p[i].bias, 0, 1);
        o.seed = 5;
        m = l2l_learned_create(c, &o);
        n = l2l_learned_create(c, &o);
        if (CHECK(m && n)) {
            CHECK_INT(p[i].count, l2l_learned_size(m));
            CHECK_BYTES(l2l_learned_parameters(m), l2l_learned_parameters(n),
                        (size_t)p[i].count * sizeof(l2l_real));
            for (j = 0; j < p[i].count; j++) CHECK(fabs((double)l2l_learned_parameters(m)[j]) < 2);
        }
        l2l_learned_free(m);
        l2l_learned_free(n);
    }
    CHECK_OK(c);
    l2l_context_free(c);
}

/* The cell alone: four made-up gradients through begin() and step() of the maximizer. */
static void check_cell(l2l_context *c, const golden_cell_case *p, uint32_t seed)
{
    enum { N = 2, C = 2, H = 3, W = 4, ALL = N * C * H * W };
    l2l_mark mark = l2l_mark_here(c);
    l2l_learned_options o = learned_options(p->cell, p->input, p->bias, p->raw_output, 0.7);
    l2l_learned *m = l2l_learned_create(c, &o);
    l2l_maximizer maximizer;
    l2l_inner in;
    l2l_tensor *g[5];
    l2l_real raw[ALL], delta[4 * ALL];
    const uint32_t images[N] = {0, 1};
    int t, i;
    if (!CHECK(m != NULL) || !CHECK_INT(p->parameters, l2l_learned_size(m))) { CHECK_OK(c); return; }
    golden_fill(l2l_learned_parameters(m), p->parameters, seed, -1, 1);
    maximizer = l2l_learned_maximizer(m);
    memset(&in, 0, sizeof in);
    memset(g, 0, sizeof g);
    in.context = c;
    in.n = N;
    in.shape = l2l_shape_of(N, H, W, C);
    in.images = images;
    in.x = in.adv = in.start = l2l_zeros(c, in.shape);
    in.delta = l2l_zeros(c, in.shape);
    in.epsilon = 0.3;
    in.T = 4;
    in.g = g;
    for (t = 0; t < 4; t++) {
        golden_fill(raw, ALL, 10100 + (uint32_t)t, -1, 1);
        for (i = 0; i < ALL; i++) raw[i] = (l2l_real)pow((double)raw[i], 5);
        g[t] = l2l_from_nchw(c, raw, in.shape);
    }
    if (maximizer.begin) CHECK(maximizer.begin(maximizer.self, &in));
    for (t = 0; t < 4; t++) {
        in.t = t;
        if (!CHECK(maximizer.step(maximizer.self, &in))) break;
        l2l_to_nchw(c, in.delta, delta + t * ALL);
    }
    CHECK_GOLDEN(p->delta, delta, 4 * ALL, TOLERANCE(1e-5, 1e-10));
    CHECK_OK(c);
    l2l_learned_free(m);
    l2l_release(c, mark);
}

static void golden_cells(void)
{
    l2l_context *c = test_context(2);
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i, j;
    for (j = 0; j < n; j++) {
        l2l_set_cpu(c, cpus[j]);
        for (i = 0; i < COUNT(golden_cell); i++) {
            int before = test_complaints;
            check_cell(c, &golden_cell[i], 10000 + (uint32_t)i);
            if (test_complaints > before) printf("    case %d, %s\n", i, l2l_describe(c));
        }
    }
    l2l_context_free(c);
}

/* -- a maximizer around the learned one that looks at line 15 ------------------------------------ */

typedef struct spy {
    l2l_maximizer inner;
    l2l_learned *phi;
    void (*look)(struct spy *s, l2l_inner *in); /* NULL: only the gradient */
    l2l_real gradient[600];
    double L_phi;
    int n, calls, updates, learn;
    l2l_real start[1024], adv[1024];
    int first_image, epoch, step;
} spy;

static bool spy_begin(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    return !s->inner.begin || s->inner.begin(s->inner.self, in);
}
static bool spy_step(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    return s->inner.step(s->inner.self, in);
}
static bool spy_gradient(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    s->calls++;
    s->n = in->n;
    s->L_phi = in->L_phi;
    s->first_image = (int)in->images[0];
    s->epoch = (int)in->stream.epoch;
    s->step = (int)in->stream.step;
    l2l_to_nchw(in->context, in->start, s->start);
    l2l_to_nchw(in->context, in->adv, s->adv);
    if (!l2l_learned_gradient(s->phi, in, s->gradient)) return false;
    if (s->look) s->look(s, in);
    return !s->learn || s->inner.gradient(s->inner.self, in);
}
static bool spy_update(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    s->updates++;
    return !s->learn || s->inner.update(s->inner.self, in);
}
static l2l_maximizer spy_maximizer(spy *s, l2l_learned *phi)
{
    l2l_maximizer m = l2l_learned_maximizer(phi);
    s->phi = phi;
    s->inner = m;
    m.name = "spy";
    m.self = s;
    m.begin = spy_begin;
    m.step = spy_step;
    m.keep = NULL;
    m.gradient = spy_gradient;
    m.update = spy_update;
    m.pack = NULL;
    m.unpack = NULL;
    return m;
}

/* One pass of Algorithm 1 on the smooth network, three images of seed 11010, w_t = t. */
static bool meta_pass(l2l_context *c, l2l_learned *phi, spy *s, double epsilon)
{
    static const int labels[3] = {1, 3, 0};
    l2l_model *m = smooth_model(c);
    l2l_train_options o = l2l_train_default();
    l2l_real x[3 * 72];
    l2l_dataset d;
    l2l_trainer *t;
    l2l_progress p;
    bool ok = false;
    golden_fill(x, 3 * 72, 11010, 0.3, 0.7);
    o.method = l2l_method_rnn_adv(phi);
    o.method.maximizer = spy_maximizer(s, phi);
    o.epsilon = epsilon;
    o.epsilon_warm_up = 0;
    o.T = 3;
    o.batch = 3;
    o.seed = 12345;
    if (m && l2l_dataset_from_arrays(c, x, labels, 3, 2, 6, 6, 4, &d)) {
        t = l2l_trainer_create(m, &d, &o);
        ok = t && l2l_train_step(t, x, labels, 3, &p);
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
    }
    l2l_model_free(m);
    return ok;
}

/* The meta-gradient of L_phi/n: fused adjoint (first order) or reverse sweep (second order) against
   PyTorch's autograd over the whole unroll. Leaving out the path through x'_t (the greedy variant)
   would be off by half of the gradient: at least 100 tolerances, checked here. */
static void golden_meta_gradients(void)
{
    int i, j;
    for (i = 0; i < COUNT(golden_meta); i++) {
        const golden_meta_case *p = &golden_meta[i];
        l2l_context *c = test_context(2);
        l2l_learned_options o = learned_options(p->cell, p->input, p->bias, p->raw_output, p->scale);
        spy *s = (spy *)test_memory(sizeof *s);
        l2l_learned *phi;
        l2l_real L;
        double tolerance = TOLERANCE(2e-4, 1e-9), greedy = 0;
        int before = test_complaints;
        o.second_order = p->second_order != 0;
        phi = l2l_learned_create(c, &o);
        if (CHECK(phi != NULL) && CHECK_INT(p->parameters, l2l_learned_size(phi))) {
            golden_fill(l2l_learned_parameters(phi), p->parameters, 11100 + (uint32_t)i, -0.8, 0.8);
            if (CHECK(meta_pass(c, phi, s, 0.3))) {
                CHECK_INT(1, s->calls);
                CHECK_INT(1, s->updates);
                CHECK_INT(3, s->n);
                CHECK_INT(0, s->first_image);
                CHECK_INT(0, s->epoch);
                CHECK_INT(0, s->step);
                CHECK_GOLDEN(golden_meta_start, s->start, 216, TOLERANCE(1e-6, 1e-12));
                CHECK_GOLDEN(p->adv, s->adv, 216, TOLERANCE(1e-4, 1e-10));
                L = (l2l_real)s->L_phi;
                CHECK_GOLDEN(p->loss, &L, 1, TOLERANCE(1e-4, 1e-10));
                CHECK_GOLDEN(p->gradient, s->gradient, p->parameters, tolerance);
                for (j = 0; j < (p->parameters <= 40 ? p->parameters : 24); j++) {
                    int at = p->parameters <= 40 ? j : j * (p->parameters - 1) / 23;
                    greedy = fmax(greedy, fabs((double)s->gradient[at] - p->greedy[3 + j]));
                }
                CHECK(greedy > 100 * tolerance * p->gradient[1]);
            }
        }
        CHECK_OK(c);
        if (test_complaints > before)
            printf("    case %d: cell %d, input %d, bias %d, raw %d, second order %d\n", i, p->cell,
                   p->input, p->bias, p->raw_output, p->second_order);
        free(s);
        l2l_learned_free(phi);
        l2l_context_free(c);
    }
}

/* Two whole passes of Algorithm 1, lines 5 to 16: learned maximizer (sign input, epsilon * tanh), T 3,
   epsilon 0.3, Adam on both sides, the starts from the documented random stream. The seed of
   golden.py is one where no gradient entry is nearly zero: float and double see the same signs. */
static void golden_algorithm_one(void)
{
    static const double *const L_phi[] = {golden_algorithm_L_phi0, golden_algorithm_L_phi1};
    static const double *const loss[] = {golden_algorithm_loss0, golden_algorithm_loss1};
    static const double *const g_phi[] = {golden_algorithm_g_phi0, golden_algorithm_g_phi1};
    static const double *const adv[] = {golden_algorithm_adv0, golden_algorithm_adv1};
    static const double *const theta[] = {golden_algorithm_theta0, golden_algorithm_theta1,
                                          golden_algorithm_theta2, golden_algorithm_theta3};
    static const int labels[4] = {2, 0, 4, 1};
    const uint32_t seed = GOLDEN_ALGORITHM_SEED;
    l2l_context *c = test_context(2);
    l2l_model *m = tiny_model(c, seed);
    l2l_learned_options lo = learned_options(L2L_LSTM, L2L_INPUT_SIGN, 1, 0, 1);
    l2l_learned *phi = l2l_learned_create(c, &lo);
    l2l_train_options o = l2l_train_default();
    spy *s = (spy *)test_memory(sizeof *s);
    l2l_real x[4 * 64];
    l2l_dataset d;
    l2l_trainer *t = NULL;
    l2l_progress p;
    int step, i;
    if (CHECK(m && phi)) {
        golden_fill(l2l_learned_parameters(phi), 491, seed + 4, -0.5, 0.5);
        golden_fill(x, 4 * 64, seed + 5, 0, 1);
        o.method = l2l_method_rnn_adv(phi);
        CHECK_TEXT("rnn-adv", o.method.name);
        CHECK_INT(L2L_START_NORMAL, o.method.start);
        o.method.maximizer = spy_maximizer(s, phi);
        s->learn = 1;
        o.epsilon = 0.3;
        o.epsilon_warm_up = 0;
        o.T = 3;
        o.batch = 4;
        o.seed = 999;
        CHECK_INT(L2L_ADAM, o.optimizer.kind);
        CHECK_NEAR(1e-3, o.optimizer.rate, 0);
        if (CHECK(l2l_dataset_from_arrays(c, x, labels, 4, 1, 8, 8, 5, &d)))
            t = l2l_trainer_create(m, &d, &o);
        for (step = 0; step < 2 && CHECK(t != NULL); step++) {
            l2l_real L;
            golden_fill(x, 4 * 64, seed + 5 + (uint32_t)step, 0, 1);
            if (!CHECK(l2l_train_step(t, x, labels, 4, &p))) break;
            CHECK_INT(step, s->step);
            L = (l2l_real)s->L_phi;
            CHECK_GOLDEN(L_phi[step], &L, 1, TOLERANCE(1e-4, 1e-10));
            L = (l2l_real)p.loss;
            CHECK_GOLDEN(loss[step], &L, 1, TOLERANCE(1e-4, 1e-10));
            CHECK_GOLDEN(adv[step], s->adv, 256, TOLERANCE(1e-4, 1e-10));
            CHECK_GOLDEN(g_phi[step], s->gradient, 491, TOLERANCE(2e-4, 1e-9));
        }
        /* Adam divides by |g|: an entry of phi may be off by a share of 1e-2, of theta of 1e-3 */
        CHECK_GOLDEN(golden_algorithm_phi, l2l_learned_parameters(phi), 491, TOLERANCE(1e-3, 1e-8));
        for (i = 0; i < 4; i++) {
            l2l_real v[512];
            CHECK(l2l_parameter_get(m, i, v));
            CHECK_GOLDEN(theta[i], v, l2l_count(l2l_model_parameter(m, i).value->shape),
                         TOLERANCE(1e-4, 1e-8));
        }
        l2l_trainer_free(t);
        if (t) l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    free(s);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
}

HELPER void run_golden_learned(void)
{
    RUN(parameter_counts, "491, 450 and 120 parameters, documented defaults");
    RUN(golden_cells, "every cell and input equals PyTorch's over four steps");
    RUN(golden_meta_gradients, "meta-gradients equal PyTorch's, first and second order, not greedy");
    RUN(golden_algorithm_one, "two passes of Algorithm 1 equal PyTorch's: phi and theta after Adam");
}

#endif
