/* Operations of the float build: on every instruction set against PyTorch, conventions at kinks,
   random streams, optimizers and schedules, errors. */
#include "check_operators.h"

static void random_streams(void)
{
    l2l_stream s;
    uint32_t e;
    double mean = 0, square = 0;
    s.seed = 0x0123456789ABCDEFu; s.purpose = 4; s.epoch = 3; s.image = 70000; s.step = 1234567;
    for (e = 0; e < 40; e++) {
        CHECK_INT(golden_bits[e], l2l_random_bits(&s, e));
        CHECK_NEAR(golden_uniform[3 + e], l2l_random_uniform(&s, e), 1e-12);
        CHECK_NEAR(golden_normal[3 + e], l2l_random_normal(&s, e), 1e-12);
    }
    /* Known answer of Salmon et al., key and counter 0. */
    s.seed = 0; s.purpose = 0; s.epoch = 0; s.image = 0; s.step = 0;
    CHECK_INT(0x6627e8d5u, l2l_random_bits(&s, 0));
    CHECK_INT(0xe169c58du, l2l_random_bits(&s, 1));
    CHECK_INT(0xbc57ac4cu, l2l_random_bits(&s, 2));
    CHECK_INT(0x9b00dbd8u, l2l_random_bits(&s, 3));
    s.seed = 42;
    s.purpose = L2L_RANDOM_USER;
    for (e = 0; e < 20000; e++) {
        double z = l2l_random_normal(&s, e);
        mean += z / 20000;
        square += z * z / 20000;
    }
    CHECK_NEAR(0, mean, 0.03);
    CHECK_NEAR(1, square, 0.04);
}

static l2l_tensor *row(const double *v, int n)
{
    l2l_tensor *t = l2l_zeros(c, l2l_shape_of(1, 1, 1, n));
    int i;
    if (t) for (i = 0; i < n; i++) t->data[i] = (l2l_real)v[i];
    return t;
}

static void check_row(l2l_tensor *t, const double *v, int n)
{
    int i;
    if (CHECK(t && t->data)) for (i = 0; i < n; i++) CHECK_NEAR(v[i], t->data[i], 0);
}

static void kinks(void)
{
    static const double x[] = {0, -1, 1, -0.5, 0.5}, one[] = {1, 1, 1, 1, 1};
    static const double relu[] = {0, 0, 1, 0, 1}, clamp[] = {1, 0, 0, 1, 1}, sign[] = {0, -1, 1, -1, 1},
                        zero[] = {0, 0, 0, 0, 0}, first[] = {1, 0, 0, 0};
    scope q = scope_begin();
    l2l_tensor *in = row(x, 5), *g, *ones = row(one, 5), *four;
    int classes[2];
    vjp(l2l_relu(c, in), ones, &in, 1, &g);
    check_row(g, relu, 5);
    vjp(l2l_clamp(c, in, -0.5, 0.5), ones, &in, 1, &g);
    check_row(g, clamp, 5);
    check_row(l2l_sign(c, in), sign, 5);
    vjp(l2l_sign(c, in), ones, &in, 1, &g);
    check_row(g, zero, 5);
    four = l2l_full(c, l2l_shape_of(1, 2, 2, 1), 3);
    vjp(l2l_max_pool(c, four, 2, 2, 0), row(one, 1), &four, 1, &g);
    check_row(g, first, 4);
    in = l2l_full(c, l2l_shape_of(2, 1, 1, 4), 1);
    if (in) in->data[5] = in->data[7] = 2;
    if (CHECK(l2l_predict(c, in, classes))) {
        CHECK_INT(0, classes[0]);
        CHECK_INT(1, classes[1]);
    }
    scope_end(q);
}

static void extreme_logits(void)
{
    static const double z[] = {1000, -1000, 0, 80, -1e30, 1e30, 0, 0};
    static const int labels[] = {1, 0};
    scope q = scope_begin();
    l2l_tensor *in = l2l_reshape(c, row(z, 8), l2l_shape_of(2, 1, 1, 4)), *y, *g;
    int i;
    y = l2l_cross_entropy(c, in, labels);
    if (CHECK(y != NULL)) {
        CHECK_NEAR(2000, y->data[0], 1e-3);
        CHECK(y->data[1] > (l2l_real)1e29);
        vjp(y, l2l_full(c, y->shape, 1), &in, 1, &g);
        if (CHECK(g != NULL)) for (i = 0; i < 8; i++) CHECK(g->data[i] >= -1 && g->data[i] <= 1);
    }
    y = l2l_softmax(c, in);
    if (CHECK(y != NULL)) for (i = 0; i < 8; i++) CHECK(y->data[i] >= 0 && y->data[i] <= 1);
    y = l2l_sigmoid(c, in);
    if (CHECK(y != NULL)) for (i = 0; i < 8; i++) CHECK(y->data[i] >= 0 && y->data[i] <= 1);
    y = l2l_tanh(c, in);
    if (CHECK(y != NULL)) for (i = 0; i < 8; i++) CHECK(y->data[i] >= -1 && y->data[i] <= 1);
    scope_end(q);
}

/* A recorded gradient goes by the positions that the pooling saved: gone with its tape. */
static void positions_given_back(void)
{
    scope q = scope_begin();
    l2l_tensor *x = seeded(c, 2, 3, 4, 4, 42200, -1, 1), *w = seeded(c, 2, 3, 2, 2, 42201, -1, 1);
    l2l_tensor *loss = l2l_sum(c, l2l_mul(c, l2l_max_pool(c, x, 2, 2, 0), w)), *g, *h;
    CHECK(l2l_grad(c, loss, &x, 1, &g, L2L_CREATE_GRAPH));
    CHECK(l2l_grad(c, l2l_sum(c, l2l_mul(c, g, g)), &w, 1, &h, 0)); /* 2 w */
    if (CHECK_OK(c)) CHECK_NEAR(2 * (double)w->data[5], h->data[5], 1e-6);
    CHECK(l2l_grad(c, loss, &x, 1, &h, L2L_FREE_GRAPH));
    CHECK(!l2l_grad(c, l2l_sum(c, g), &w, 1, &h, 0));
    CHECK_INT(L2L_ERROR_ARGUMENT, l2l_error(c));
    l2l_error_clear(c);
    scope_end(q);
}

static void layouts(void)
{
    l2l_mark mark = l2l_mark_here(c);
    l2l_real v[24], w[24];
    l2l_tensor *t, *s;
    int i;
    for (i = 0; i < 24; i++) v[i] = (l2l_real)i;
    t = l2l_from_nchw(c, v, l2l_shape_of(1, 3, 4, 2));
    if (CHECK(t != NULL)) {
        CHECK_NEAR(12, t->data[1], 0); /* pixel 0, channel 1 */
        CHECK_NEAR(1, t->data[2], 0);  /* pixel 1, channel 0 */
        CHECK(l2l_to_nchw(c, t, w));
        CHECK_BYTES(v, w, sizeof v);
    }
    s = l2l_slice(c, l2l_place(c, t, 3, 7), 3, 2);
    if (CHECK(s != NULL)) CHECK_BYTES(t->data, s->data, sizeof v);
    s = l2l_place(c, l2l_slice(c, t, 1, 1), 0, 2);
    if (CHECK(s != NULL)) {
        CHECK_NEAR(12, s->data[0], 0);
        CHECK_NEAR(0, s->data[1], 0);
    }
    s = l2l_broadcast_to(c, l2l_full(c, l2l_shape_of(1, 1, 1, 2), 4), l2l_shape_of(2, 3, 1, 2));
    if (CHECK(s != NULL)) CHECK_NEAR(48, l2l_item(c, l2l_sum(c, s)), 0);
    CHECK_OK(c);
    l2l_release(c, mark);
}

/* What conditional generators are made of: concatenation, rows of a table by class, transposed
   convolution. Whole numbers, so that closed forms hold to the bit. */
static void concatenation(void)
{
    scope q = scope_begin();
    l2l_tensor *in[2], *g[2], *y, *z, *dy = seeded(c, 3, 7, 4, 5, 42002, -1, 1);
    int i, j;
    in[0] = seeded(c, 3, 5, 4, 5, 42000, -1, 1);
    in[1] = seeded(c, 3, 2, 4, 5, 42001, -1, 1);
    y = l2l_concat(c, in, 2);
    z = l2l_add(c, l2l_place(c, in[0], 0, 7), l2l_place(c, in[1], 5, 7));
    if (CHECK(y && z)) {
        CHECK_INT(7, y->shape.c);
        CHECK_BYTES(z->data, y->data, 3 * 4 * 5 * 7 * sizeof(l2l_real));
    }
    vjp(y, dy, in, 2, g);
    if (CHECK(g[0] && g[1]))
        for (i = 0; i < 3 * 4 * 5; i++)
            for (j = 0; j < 7; j++)
                CHECK_NEAR(dy->data[7 * i + j],
                           j < 5 ? g[0]->data[5 * i + j] : g[1]->data[2 * i + j - 5], 0);
    CHECK_OK(c);
    in[1] = l2l_full(c, l2l_shape_of(3, 4, 6, 2), 1);
    CHECK(!l2l_concat(c, in, 2));
    CHECK_INT(L2L_ERROR_SHAPE, l2l_error(c));
    l2l_error_clear(c);
    scope_end(q);
}

/* A sure network has a gradient still: entry y is not p_y - 1, which is 0 in single precision. */
static void sure_cross_entropy(void)
{
    scope q = scope_begin();
    const int labels[1] = {1};
    const l2l_real logits[3] = {0, 30, 1};
    l2l_tensor *z = l2l_from_nchw(c, logits, l2l_shape_of(1, 1, 1, 3)), *g[1];
    double rest[2] = {exp(-30.0), exp(-29.0)};
    vjp(l2l_cross_entropy(c, z, labels), l2l_full(c, l2l_shape_of(1, 1, 1, 1), 1), &z, 1, g);
    if (CHECK(g[0] != NULL)) {
        CHECK_NEAR(rest[0], g[0]->data[0], 1e-5 * rest[0]);
        CHECK_NEAR(rest[1], g[0]->data[2], 1e-5 * rest[1]);
        CHECK_NEAR(-rest[0] - rest[1], g[0]->data[1], 1e-5 * rest[1]);
    }
    CHECK_OK(c);
    scope_end(q);
}

static void embedding_of_classes(void)
{
    enum { N = 70, K = 6, C = 9 };
    scope q = scope_begin();
    l2l_conv_options o = l2l_conv_default();
    l2l_tensor *in[2], *g[2], *y, *dy = l2l_full(c, l2l_shape_of(N, 1, 1, C), 0);
    int classes[N], n, k, j;
    in[0] = l2l_full(c, l2l_shape_of(1, 1, K, C), 0);
    in[1] = o.bias = l2l_full(c, l2l_shape_of(1, 1, 1, C), 3);
    if (!CHECK(dy && in[0])) return;
    for (j = 0; j < K * C; j++) in[0]->data[j] = (l2l_real)(j * j % 31);
    for (j = 0; j < N * C; j++) dy->data[j] = (l2l_real)(j * j % 17 - 8);
    for (n = 0; n < N; n++) classes[n] = n * n % (K - 1); /* the last class never comes */
    y = l2l_unpick(c, l2l_full(c, l2l_shape_of(N, 1, 1, 1), 1), classes, K);
    y = l2l_linear(c, y, in[0], &o);
    vjp(y, dy, in, 2, g);
    if (CHECK(y && g[0] && g[1])) {
        for (n = 0; n < N; n++)
            for (j = 0; j < C; j++)
                CHECK_NEAR(in[0]->data[classes[n] * C + j] + 3, y->data[n * C + j], 0);
        for (k = 0; k < K; k++)
            for (j = 0; j < C; j++) {
                l2l_real sum = 0;
                for (n = 0; n < N; n++) if (classes[n] == k) sum += dy->data[n * C + j];
                CHECK_NEAR(sum, g[0]->data[k * C + j], 0);
            }
    }
    scope_end(q);
}

static l2l_tensor *strided_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_linear(m, "b", l2l_layer_conv(m, "a", x, 16, 4, 2, 1, L2L_NO_BIAS), 10, L2L_LAST);
}

/* y[oh*stride + i - padding] += x[oh] w[i], with a model's weight, whose packed copies are kept. */
static void transposed_convolution(void)
{
    enum { N = 2, H = 5, W = 4, K = 16, C = 8, KERNEL = 4 };
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *m;
    const l2l_shape s = l2l_shape_of(N, 2 * H, 2 * W, C);
    l2l_real values[KERNEL * KERNEL * C * K];
    int round, n, h, w, k, ch, i, j;
    o.channels = C;
    o.forward = strided_forward;
    o.height = o.width = 8;
    m = l2l_model_create(c, &o);
    for (round = 0; m && round < 2; round++) {
        scope q = scope_begin();
        l2l_tensor *x = seeded(c, N, K, H, W, 42100, -1, 1), *in[2], *g[2], *y, *e;
        golden_fill(values, COUNT(values), 42101 + (uint32_t)round, -1, 1);
        CHECK(l2l_parameter_set(m, 0, values));
        e = l2l_zeros(c, s);
        if (!CHECK(x && e)) return;
        in[0] = x;
        in[1] = l2l_model_parameter(m, 0).value;
        y = l2l_conv_input_grad(c, x, in[1], s, 2, 1);
        for (n = 0; n < N; n++)
            for (h = 0; h < H; h++)
                for (w = 0; w < W; w++)
                    for (i = 0; i < KERNEL; i++)
                        for (j = 0; j < KERNEL; j++) {
                            int row = 2 * h + i - 1, column = 2 * w + j - 1;
                            if (row < 0 || row >= s.h || column < 0 || column >= s.w) continue;
                            for (ch = 0; ch < C; ch++)
                                for (k = 0; k < K; k++)
                                    e->data[((n * s.h + row) * s.w + column) * C + ch] +=
                                        x->data[((n * H + h) * W + w) * K + k] *
                                        in[1]->data[((i * KERNEL + j) * C + ch) * K + k];
                        }
        if (CHECK(y != NULL))
            for (i = 0; i < l2l_count(s); i++) CHECK_NEAR(e->data[i], y->data[i], 1e-5);
        /* d^2/dx dw of sum y^2: with x and w scaled by a, the gradient in x goes as a^3 */
        y = l2l_sum(c, l2l_mul(c, y, y));
        if (CHECK(l2l_grad(c, y, in, 2, g, L2L_CREATE_GRAPH))) {
            double value = l2l_item(c, y), by_x, by_w;
            by_x = l2l_item(c, l2l_sum(c, l2l_mul(c, g[0], x)));
            by_w = l2l_item(c, l2l_sum(c, l2l_mul(c, g[1], in[1])));
            CHECK_NEAR(2 * value, by_x, 1e-4 * value);
            CHECK_NEAR(2 * value, by_w, 1e-4 * value);
            e = l2l_sum(c, l2l_mul(c, g[0], x)); /* <dL/dx, x> = 2 L: its gradient in w is 2 dL/dw */
            if (CHECK(l2l_grad(c, e, in + 1, 1, &y, 0)))
                for (i = 0; i < COUNT(values); i++)
                    CHECK_NEAR(2 * (double)g[1]->data[i], y->data[i], 1e-3);
        }
        scope_end(q);
    }
    CHECK_OK(c);
    l2l_model_free(m);
}

static void tape_rules(void)
{
    scope q = scope_begin();
    l2l_tensor *x = l2l_full(c, l2l_shape_of(1, 1, 1, 3), 2), *other = l2l_full(c, x->shape, 5);
    l2l_tensor *in[2], *g[2], *y, *d;
    in[0] = x;
    in[1] = other;
    y = l2l_sum(c, l2l_mul(c, l2l_mul(c, x, x), l2l_mul(c, x, x))); /* x^4 */
    if (CHECK(l2l_grad(c, y, in, 2, g, L2L_CREATE_GRAPH))) {
        CHECK_NEAR(32, g[0]->data[1], 1e-4);
        CHECK_NEAR(0, g[1]->data[1], 0);
    }
    CHECK(l2l_grad(c, l2l_sum(c, g[0]), &x, 1, &d, L2L_CREATE_GRAPH));
    if (CHECK_OK(c)) CHECK_NEAR(48, d->data[2], 1e-4);
    CHECK(l2l_grad(c, l2l_sum(c, d), &x, 1, &d, L2L_CREATE_GRAPH));
    if (CHECK_OK(c)) CHECK_NEAR(48, d->data[0], 1e-4);
    CHECK(l2l_grad(c, l2l_sum(c, d), &x, 1, &d, 0));
    if (CHECK_OK(c)) CHECK_NEAR(24, d->data[0], 1e-4);
    y = l2l_sum(c, l2l_mul(c, x, l2l_detach(c, x)));
    CHECK(l2l_grad(c, y, &x, 1, &d, L2L_FREE_GRAPH));
    if (CHECK_OK(c)) CHECK_NEAR(2, d->data[0], 0);
    /* The gradient with respect to a tensor in the middle. */
    y = l2l_affine(c, x, 3, 0);
    CHECK(l2l_grad(c, l2l_sum(c, l2l_mul(c, y, y)), &y, 1, &d, 0));
    if (CHECK_OK(c)) CHECK_NEAR(12, d->data[0], 1e-5);
    l2l_set_recording(c, false);
    y = l2l_mul(c, x, x);
    l2l_set_recording(c, true);
    CHECK(l2l_grad(c, l2l_sum(c, y), &x, 1, &d, 0));
    if (CHECK_OK(c)) CHECK_NEAR(0, d->data[0], 0);
    scope_end(q);
}

/* -- kernels by channel: every instruction set against plain C ---------------------------------- */

enum { MOST_CHANNELS = 64, MOST_PIXELS = 1000 };
static const int channel_counts[] = {1, 3, 8, 16, 17, 33, MOST_CHANNELS};

/* Value, gradients of x, gamma, beta and the residual, running statistics, one after the other. Of
   `fused` 1 is a residual, 2 ReLU, 4 gamma and beta by image. */
static int64_t norm_results(l2l_shape s, int training, int fused, l2l_real *out)
{
    scope q = scope_begin();
    l2l_batch_norm_options o = l2l_batch_norm_default();
    l2l_tensor *in[4], *g[4], *y;
    int64_t at = 0, n = l2l_count(s);
    int i, inputs = 3;
    in[0] = seeded(c, s.n, s.c, s.h, s.w, 40000, -1, 3);
    in[1] = o.gamma = seeded(c, fused & 4 ? s.n : 1, s.c, 1, 1, 40001, 0.5, 1.5);
    in[2] = o.beta = seeded(c, fused & 4 ? s.n : 1, s.c, 1, 1, 40002, -1, 1);
    o.running_mean = seeded_vector(c, s.c, 40003, 0, 2);
    o.running_variance = seeded_vector(c, s.c, 40004, 0.5, 1.5);
    if (fused & 1) in[inputs++] = o.residual = seeded(c, s.n, s.c, s.h, s.w, 40005, -1, 1);
    o.relu = (fused & 2) != 0;
    o.training = training != 0;
    y = l2l_batch_norm(c, in[0], &o);
    vjp(y, seeded(c, s.n, s.c, s.h, s.w, 40006, -1, 1), in, inputs, g);
    if (CHECK(y && g[0])) {
        memcpy(out, y->data, (size_t)n * sizeof *out);
        for (at = n, i = 0; i < inputs; at += l2l_count(g[i]->shape), i++)
            memcpy(out + at, g[i]->data, (size_t)l2l_count(g[i]->shape) * sizeof *out);
        memcpy(out + at, o.running_mean->data, (size_t)s.c * sizeof *out);
        memcpy(out + at + s.c, o.running_variance->data, (size_t)s.c * sizeof *out);
        at += 2 * s.c;
    }
    scope_end(q);
    return at;
}

static void batch_norm_kernels(void)
{
    static const l2l_shape pixels[] = {
        {1, 1, 1, 0}, {1, 31, 1, 0}, {2, 4, 4, 0}, {3, 1, 11, 0}, {10, 10, 10, 0}};
    const int64_t most = 3 * MOST_PIXELS * MOST_CHANNELS + 22 * MOST_CHANNELS;
    l2l_real *expected = test_array(most), *got = test_array(most);
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i, j, k, training, fused;
    for (i = 0; i < COUNT(pixels); i++)
        for (j = 0; j < COUNT(channel_counts); j++)
            for (training = 0; training < (i ? 2 : 1); training++) /* one pixel has no variance */
                for (fused = 0; fused < 8; fused++) {
                    l2l_shape s = pixels[i];
                    int64_t count, e;
                    s.c = channel_counts[j];
                    l2l_set_cpu(c, L2L_CPU_PLAIN);
                    count = norm_results(s, training, fused, expected);
                    for (k = 0; k < n; k++) {
                        double worst = 0, largest = 1;
                        l2l_set_cpu(c, cpus[k]);
                        memset(got, 0, (size_t)most * sizeof *got);
                        CHECK_INT(count, norm_results(s, training, fused, got));
                        for (e = 0; e < count; e++) {
                            double off = fabs((double)got[e] - (double)expected[e]);
                            if (!(off <= worst)) worst = off;
                            largest = fmax(largest, fabs((double)expected[e]));
                        }
                        if (!CHECK_NEAR(0, worst / largest, TOLERANCE(2e-6, 1e-13)))
                            printf("    %dx%dx%dx%d, training %d, parts %d, %s\n", s.n, s.h, s.w,
                                   s.c, training, fused, l2l_describe(c));
                    }
                }
    l2l_set_cpu(c, L2L_CPU_DETECT);
    free(expected);
    free(got);
}

/* The batch's mean and variance, which momentum 1 makes the running ones, against sums in double:
   of any number of pixels, of channels whose mean is far larger than their deviation (channel 1) or
   changes from image to image (2), and of one that is constant (3). */
static void batch_statistics(void)
{
    static const l2l_shape shapes[] = {{1, 1, 2, 4}, {1, 31, 1, 4}, {2, 16, 1, 4},
                                       {1, 3, 11, 4}, {5, 10, 21, 4}, {3, 64, 64, 4}};
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i, j, k, threads;
    for (i = 0; i < COUNT(shapes); i++)
        for (j = 0; j < n; j++)
            for (threads = 1; threads <= 3; threads++) {
                scope q = scope_begin();
                l2l_batch_norm_options o = l2l_batch_norm_default();
                const l2l_shape s = shapes[i];
                const int64_t m = l2l_count(s) / s.c;
                l2l_tensor *x = seeded(c, s.n, s.c, s.h, s.w, 40200, -1, 1);
                int64_t p;
                l2l_set_cpu(c, cpus[j]);
                l2l_set_threads(c, threads);
                o.gamma = seeded_vector(c, s.c, 40201, 1, 1);
                o.beta = seeded_vector(c, s.c, 40202, 0, 0);
                o.running_mean = seeded_vector(c, s.c, 40203, 0, 2);
                o.running_variance = seeded_vector(c, s.c, 40204, 0.5, 1.5);
                o.training = true;
                o.momentum = 1;
                for (p = 0; p < m; p++) {
                    x->data[p * s.c + 1] += 3000;
                    x->data[p * s.c + 2] += (l2l_real)(p * s.n / m * 1000);
                    x->data[p * s.c + 3] = (l2l_real)0.1;
                }
                CHECK(l2l_batch_norm(c, x, &o) != NULL);
                for (k = 0; k < s.c; k++) {
                    double mean = 0, variance = 0;
                    for (p = 0; p < m; p++) mean += (double)x->data[p * s.c + k] / (double)m;
                    for (p = 0; p < m; p++)
                        variance += pow((double)x->data[p * s.c + k] - mean, 2) / (double)(m - 1);
                    CHECK_NEAR(mean, (double)o.running_mean->data[k], 1e-6 * (1 + fabs(mean)));
                    CHECK_NEAR(variance, (double)o.running_variance->data[k],
                               1e-5 * variance + 1e-14);
                }
                scope_end(q);
            }
    l2l_set_cpu(c, L2L_CPU_DETECT);
    l2l_set_threads(c, 2);
}

/* Three images: large numbers, small ones, the large ones negated. What is left of the sum shows in
   which order it was taken. */
static void sums_by_channel(void)
{
    l2l_real kept[17];
    int threads, i;
    for (threads = 1; threads <= 4; threads *= 2) {
        scope q = scope_begin();
        l2l_tensor *x = seeded(c, 3, 17, 32, 32, 40100, -1, 1), *y;
        const int one = 32 * 32 * 17;
        l2l_set_threads(c, threads);
        if (CHECK(x != NULL))
            for (i = 0; i < one; i++) {
                x->data[i] *= (l2l_real)1e12;
                x->data[2 * one + i] = -x->data[i];
            }
        y = l2l_sum_to(c, x, l2l_shape_of(1, 1, 1, 17));
        if (CHECK(y != NULL) && threads > 1) CHECK_BYTES(kept, y->data, sizeof kept);
        else if (y) memcpy(kept, y->data, sizeof kept);
        scope_end(q);
    }
    l2l_set_threads(c, 2);
}

/* The definition: padding counts as -inf, the first maximum wins, but the last NaN before all. */
static int pooled_pixel(const l2l_tensor *x, int image, int oh, int ow, int k, int window,
                        int stride, int padding)
{
    int i, j, best = -1;
    double v, most = 0;
    for (i = 0; i < window; i++)
        for (j = 0; j < window; j++) {
            int h = oh * stride + i - padding, w = ow * stride + j - padding;
            int at = h * x->shape.w + w;
            if (h < 0 || w < 0 || h >= x->shape.h || w >= x->shape.w) continue;
            v = (double)x->data[((int64_t)image * x->shape.h * x->shape.w + at) * x->shape.c + k];
            if (best >= 0 && !(v > most) && v == v) continue;
            best = at;
            most = v;
        }
    return best;
}

static void check_pool(l2l_tensor *x, int window, int stride, int padding)
{
    scope q = scope_begin();
    l2l_tensor *y = l2l_max_pool(c, x, window, stride, padding), *dx, *dy, *expected;
    int n, oh, ow, k, bad = 0, out = 0;
    if (!CHECK(y != NULL)) { scope_end(q); return; }
    CHECK_INT((x->shape.h + 2 * padding - window) / stride + 1, y->shape.h);
    CHECK_INT((x->shape.w + 2 * padding - window) / stride + 1, y->shape.w);
    dy = seeded(c, y->shape.n, y->shape.c, y->shape.h, y->shape.w, 41000, 1, 2);
    vjp(y, dy, &x, 1, &dx);
    expected = l2l_zeros(c, x->shape);
    for (n = 0; n < y->shape.n; n++)
        for (oh = 0; oh < y->shape.h; oh++)
            for (ow = 0; ow < y->shape.w; ow++)
                for (k = 0; k < y->shape.c; k++, out++) {
                    int at = pooled_pixel(x, n, oh, ow, k, window, stride, padding);
                    int from = (n * x->shape.h * x->shape.w + at) * x->shape.c + k;
                    bad += memcmp(&y->data[out], &x->data[from], sizeof *y->data) != 0;
                    expected->data[from] += dy->data[out];
                }
    CHECK_INT(0, bad);
    if (CHECK(dx != NULL))
        CHECK_BYTES(expected->data, dx->data, (size_t)l2l_count(x->shape) * sizeof(l2l_real));
    scope_end(q);
}

static void max_pool_kernels(void)
{
    static const int sizes[][2] = {{8, 6}, {7, 9}, {3, 2}};
    static const int kinds[][3] = {{2, 2, 0}, {3, 2, 1}, {3, 1, 1}};
    unsigned cpus[8];
    int n = test_cpus(c, cpus), cpu, size, ch, kind, input;
    for (cpu = 0; cpu < n; cpu++)
        for (size = 0; size < COUNT(sizes); size++)
            for (ch = 0; ch < COUNT(channel_counts); ch++)
                for (input = 0; input < 4; input++) {
                    l2l_mark mark = l2l_mark_here(c);
                    int before = test_complaints;
                    int64_t e;
                    l2l_tensor *x;
                    l2l_set_cpu(c, cpus[cpu]);
                    /* any values; all below what a padding of 0 would be; ties; some NaN */
                    x = seeded(c, 2, channel_counts[ch], sizes[size][0], sizes[size][1],
                               41100 + (uint32_t)input, input == 1 ? -2 : -1, input == 1 ? -1 : 1);
                    if (!CHECK(x != NULL)) return;
                    for (e = 0; e < l2l_count(x->shape); e++) {
                        if (input == 2) x->data[e] = (l2l_real)floor(2 * (double)x->data[e]);
                        if (input == 3 && x->data[e] > (l2l_real)0.6) x->data[e] = (l2l_real)NAN;
                    }
                    for (kind = 0; kind < COUNT(kinds); kind++)
                        check_pool(x, kinds[kind][0], kinds[kind][1], kinds[kind][2]);
                    if (test_complaints > before)
                        printf("    %dx%dx%d, input %d, %s\n", x->shape.h, x->shape.w, x->shape.c,
                               input, l2l_describe(c));
                    l2l_release(c, mark);
                }
    l2l_set_cpu(c, L2L_CPU_DETECT);
}

static void dropout(void)
{
    scope q = scope_begin();
    static const uint32_t images[2] = {11, 12}, other[2] = {12, 11};
    l2l_tensor *x = l2l_full(c, l2l_shape_of(2, 8, 8, 32), 1), *y, *z, *g;
    l2l_stream s;
    int64_t i, zeros = 0, n = l2l_count(x->shape);
    memset(&s, 0, sizeof s);
    s.seed = 5;
    s.purpose = L2L_RANDOM_DROPOUT;
    y = l2l_dropout(c, x, 0.25, &s, images);
    z = l2l_dropout(c, x, 0.25, &s, other);
    if (CHECK(y && z)) {
        for (i = 0; i < n; i++) {
            CHECK(fabs((double)y->data[i]) < 1e-9 || fabs((double)y->data[i] - 4.0 / 3) < 1e-6);
            zeros += fabs((double)y->data[i]) < 1e-9;
        }
        CHECK_NEAR(0.25, (double)zeros / (double)n, 0.03);
        CHECK_BYTES(y->data, z->data + n / 2, (size_t)n / 2 * sizeof(l2l_real));
        vjp(y, l2l_full(c, x->shape, 1), &x, 1, &g);
        if (CHECK(g != NULL)) CHECK_BYTES(y->data, g->data, (size_t)n * sizeof(l2l_real));
    }
    scope_end(q);
}

static void optimizer_steps(void)
{
    int i, step, j;
    for (i = 0; i < COUNT(golden_optimizer); i++) {
        const golden_optimizer_case *p = &golden_optimizer[i];
        static const double factor[5] = {1, 1, 0.5, 0.5, 0.25};
        const int64_t sizes[2] = {7, 5};
        l2l_real v[12], g[12], *values[2], *gradients[2];
        l2l_optimizer_options o = p->kind ? l2l_adam_default() : l2l_sgd_default();
        l2l_optimizer *optimizer;
        o.rate = p->rate;
        o.momentum = p->momentum;
        o.weight_decay = p->weight_decay;
        o.nesterov = p->nesterov != 0;
        o.clip = p->clip;
        values[0] = v; values[1] = v + 7;
        gradients[0] = g; gradients[1] = g + 7;
        for (j = 0; j < 2; j++) golden_fill(values[j], sizes[j], 8000 + (uint32_t)j, -1, 1);
        optimizer = l2l_optimizer_create(c, &o, sizes, 2);
        if (!CHECK(optimizer != NULL)) { CHECK_OK(c); continue; }
        for (step = 0; step < 5; step++) {
            for (j = 0; j < 2; j++)
                golden_fill(gradients[j], sizes[j], 8100 + 10 * (uint32_t)step + (uint32_t)j, -1, 1);
            CHECK(l2l_optimizer_step(optimizer, values, gradients, factor[step]));
        }
        if (!CHECK_GOLDEN(p->values, v, 12, TOLERANCE(2e-6, 1e-11))) printf("    in %s\n", p->name);
        l2l_optimizer_free(optimizer);
        CHECK_OK(c);
    }
}

/* Arrays long enough to be shared out in blocks, and a short one. Settings: plain, with momentum,
   Nesterov's, Adam; clipped and not. */
enum { LONG = 70003, SHORT = 5, BOTH = LONG + SHORT, STEPS = 3, RULES = 5 };

static l2l_optimizer_options rule_number(int i)
{
    l2l_optimizer_options o = i < 3 ? l2l_sgd_default() : l2l_adam_default();
    o.rate = 0.05;
    o.weight_decay = i == 0 ? 0 : 0.01;
    o.momentum = i == 0 ? 0 : 0.9;
    o.nesterov = i == 2;
    o.clip = i == 1 || i == 4 ? 20 : 0;
    return o;
}

/* x after some steps as the formulas say, in double; g[step][i]. */
static void rule_in_double(const l2l_optimizer_options *o, const l2l_real *const *g, double *x)
{
    double *m = (double *)test_memory(2 * BOTH * sizeof *m), *v = m + BOTH, norm, scale;
    int i, t;
    memset(m, 0, 2 * BOTH * sizeof *m);
    for (t = 1; t <= STEPS; t++) {
        for (norm = 0, i = 0; i < BOTH; i++) norm += (double)g[t - 1][i] * (double)g[t - 1][i];
        norm = sqrt(norm);
        scale = o->clip > 0 && norm > o->clip ? o->clip / norm : 1;
        for (i = 0; i < BOTH; i++) {
            double d = scale * (double)g[t - 1][i] + o->weight_decay * x[i];
            if (o->kind == L2L_ADAM) {
                m[i] = o->beta1 * m[i] + (1 - o->beta1) * d;
                v[i] = o->beta2 * v[i] + (1 - o->beta2) * d * d;
                x[i] -= o->rate * (m[i] / (1 - pow(o->beta1, t))) /
                        (sqrt(v[i] / (1 - pow(o->beta2, t))) + o->epsilon);
            } else {
                m[i] = o->momentum * m[i] + d;
                x[i] -= o->rate * (o->nesterov ? d + o->momentum * m[i] : m[i]);
            }
        }
    }
    free(m);
}

static void optimizer_kernels(void)
{
    static const int threads[] = {1, 2, 5};
    const int64_t sizes[2] = {LONG, SHORT};
    unsigned cpus[8];
    int n = test_cpus(c, cpus), rule, cpu, k, t, i;
    l2l_real *start = test_array(BOTH), *x = test_array(BOTH), *first = test_array(BOTH);
    l2l_real *g[STEPS], *values[2], *gradients[2];
    const l2l_real *given[STEPS];
    double *expected = (double *)test_memory(BOTH * sizeof *expected);
    golden_fill(start, BOTH, 8300, -1, 1);
    for (t = 0; t < STEPS; t++) {
        given[t] = g[t] = test_array(BOTH);
        golden_fill(g[t], BOTH, 8301 + (uint32_t)t, -1, 1);
    }
    values[0] = x; values[1] = x + LONG;
    for (rule = 0; rule < RULES; rule++) {
        l2l_optimizer_options o = rule_number(rule);
        for (i = 0; i < BOTH; i++) expected[i] = (double)start[i];
        rule_in_double(&o, given, expected);
        for (cpu = 0; cpu < n; cpu++)
            for (k = 0; k < COUNT(threads); k++) {
                l2l_optimizer *optimizer;
                double off = 0;
                l2l_set_cpu(c, cpus[cpu]);
                l2l_set_threads(c, threads[k]);
                optimizer = l2l_optimizer_create(c, &o, sizes, 2);
                memcpy(x, start, BOTH * sizeof *x);
                for (t = 0; t < STEPS; t++) {
                    gradients[0] = g[t]; gradients[1] = g[t] + LONG;
                    CHECK(l2l_optimizer_step(optimizer, values, gradients, 1));
                }
                for (i = 0; i < BOTH; i++) {
                    double d = fabs((double)x[i] - expected[i]);
                    if (!(d <= off)) off = d; /* also when it is not a number */
                }
                if (!CHECK(off < 1e-5)) printf("    rule %d: %g, %s\n", rule, off, l2l_describe(c));
                if (k == 0) memcpy(first, x, BOTH * sizeof *x);
                else CHECK_BYTES(first, x, BOTH * sizeof *x);
                l2l_optimizer_free(optimizer);
            }
    }
    l2l_set_cpu(c, L2L_CPU_DETECT);
    l2l_set_threads(c, 1);
    for (t = 0; t < STEPS; t++) free(g[t]);
    free(start);
    free(x);
    free(first);
    free(expected);
    CHECK_OK(c);
}

static void defaults(void)
{
    l2l_optimizer_options sgd = l2l_sgd_default(), adam = l2l_adam_default();
    l2l_conv_options conv = l2l_conv_default();
    CHECK_INT(L2L_SGD, sgd.kind);
    CHECK_NEAR(0.1, sgd.rate, 0);
    CHECK_NEAR(0.9, sgd.momentum, 0);
    CHECK_INT(L2L_ADAM, adam.kind);
    CHECK_NEAR(1e-3, adam.rate, 0);
    CHECK_NEAR(0.9, adam.beta1, 0);
    CHECK_NEAR(0.999, adam.beta2, 0);
    CHECK_NEAR(1e-8, adam.epsilon, 0);
    CHECK_INT(1, conv.stride);
    CHECK_INT(0, conv.padding);
}

static void schedules(void)
{
    l2l_schedule s = l2l_schedule_default();
    int i;
    double before = 0, rise = 0;
    for (i = 0; i <= 100; i++) CHECK_NEAR(1, l2l_schedule_factor(&s, i, 100), 0);
    s.kind = L2L_STEPS;
    s.milestones[0] = 0.5;
    s.milestones[1] = 0.75;
    CHECK_NEAR(0.1, s.factor, 0);
    CHECK_NEAR(1, l2l_schedule_factor(&s, 49, 100), 1e-12);
    CHECK_NEAR(0.1, l2l_schedule_factor(&s, 50, 100), 1e-12);
    CHECK_NEAR(0.1, l2l_schedule_factor(&s, 74, 100), 1e-12);
    CHECK_NEAR(0.01, l2l_schedule_factor(&s, 75, 100), 1e-12);
    CHECK_NEAR(0.01, l2l_schedule_factor(&s, 99, 100), 1e-12);
    s = l2l_schedule_default();
    s.kind = L2L_COSINE;
    s.final = 0.2;
    CHECK_NEAR(1, l2l_schedule_factor(&s, 0, 100), 1e-12);
    CHECK_NEAR(0.6, l2l_schedule_factor(&s, 50, 100), 1e-12);
    CHECK_NEAR(0.2, l2l_schedule_factor(&s, 100, 100), 1e-12);
    s.final = 0;
    CHECK_NEAR(0.5 * (1 + cos(3.14159265358979 * 0.3)), l2l_schedule_factor(&s, 30, 100), 1e-12);
    s = l2l_schedule_default();
    s.warm_up = 0.2;
    for (i = 0; i < 20; i++) {
        double f = l2l_schedule_factor(&s, i, 100);
        CHECK(f >= 0 && f < 1);
        if (i > 1) CHECK_NEAR(rise, f - before, 1e-9);
        rise = f - before;
        before = f;
        CHECK_NEAR(i / 20.0, f, 1.0 / 20 + 1e-9);
    }
    CHECK_NEAR(1, l2l_schedule_factor(&s, 20, 100), 1e-12);
    CHECK_NEAR(1, l2l_schedule_factor(&s, 99, 100), 1e-12);
}

static void named_errors(void)
{
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = l2l_zeros(c, l2l_shape_of(2, 5, 5, 3)), *w = l2l_zeros(c, l2l_shape_of(3, 3, 4, 8));
    l2l_conv_options o = l2l_conv_default();
    static const int bad[2] = {0, 3};
    CHECK(l2l_conv(c, x, w, &o) == NULL); /* 3 channels against 4 */
    CHECK(l2l_relu(c, x) == NULL);        /* sticky */
    CHECK_CONTAINS("conv", l2l_error_text(c));
    CHECK_CONTAINS("3", l2l_error_text(c));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "4");
    CHECK(l2l_relu(c, x) != NULL);
    CHECK(l2l_add(c, x, w) == NULL);
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "add");
    CHECK(l2l_reshape(c, x, l2l_shape_of(1, 1, 1, 7)) == NULL);
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "reshape");
    CHECK(l2l_cross_entropy(c, l2l_zeros(c, l2l_shape_of(2, 1, 1, 3)), bad) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "class 3 of row 1");
    CHECK(l2l_max_pool(c, x, 0, 1, 0) == NULL);
    CHECK(l2l_error(c) != L2L_OK);
    l2l_error_clear(c);
    CHECK(l2l_max_pool(c, x, 9, 1, 0) == NULL); /* larger than the image */
    CHECK(l2l_error(c) != L2L_OK);
    l2l_error_clear(c);
    o.stride = 0;
    CHECK(l2l_conv(c, x, l2l_zeros(c, l2l_shape_of(3, 3, 3, 8)), &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "stride");
    CHECK(l2l_zeros(c, l2l_shape_of(2000000000, 2000000000, 2000000000, 1)) == NULL);
    CHECK_ERROR(c, L2L_ERROR_MEMORY, "");
    CHECK(l2l_zeros(c, l2l_shape_of(-1, 1, 1, 1)) == NULL);
    CHECK(l2l_error(c) != L2L_OK);
    l2l_error_clear(c);
    l2l_item(c, x);
    CHECK(l2l_error(c) != L2L_OK);
    l2l_error_clear(c);
    l2l_error_set(c, L2L_ERROR_CALLBACK, "mine");
    l2l_error_set(c, L2L_ERROR_FILE, "second");
    CHECK_ERROR(c, L2L_ERROR_CALLBACK, "mine");
    CHECK_OK(c);
    l2l_release(c, mark);
}

int main(void)
{
    unsigned cpus[8];
    int n, i;
    c = test_context(2);
    n = test_cpus(c, cpus);
    for (i = 0; i < n; i++) {
        l2l_set_cpu(c, cpus[i]);
        printf("%s\n", l2l_describe(c));
        run_golden_operators();
        RUN(extreme_logits, "losses and squashing functions stay finite for extreme inputs");
    }
    RUN(batch_norm_kernels, "batch norm is the same on every instruction set, of any size");
    RUN(batch_statistics, "a batch's mean and variance are right however far the mean is from 0");
    RUN(sums_by_channel, "sums by channel have the same bits for any number of threads");
    RUN(max_pool_kernels, "max pooling: padding, ties and NaN, any size, every instruction set");
    RUN(random_streams, "random numbers are Philox4x32-10 and Box-Muller");
    RUN(kinks, "conventions at kinks and ties");
    RUN(layouts, "N,C,H,W outside, channels last inside");
    RUN(positions_given_back, "a pooling's positions are missed once its tape is given back");
    RUN(concatenation, "concatenation and its gradient");
    RUN(sure_cross_entropy, "the cross-entropy of a sure network keeps its gradient");
    RUN(embedding_of_classes, "rows of a table by class, and the table's gradient");
    RUN(transposed_convolution, "transposed convolution with a model's weight, twice differentiated");
    RUN(tape_rules, "gradients of gradients, detached and unrelated tensors");
    RUN(dropout, "dropout's rate, scale, gradient and independence of the batch");
    RUN(optimizer_steps, "SGD and Adam equal PyTorch's over five steps");
    RUN(optimizer_kernels, "they follow their formulas on every instruction set, with the same bits "
                           "for any number of threads");
    RUN(defaults, "documented defaults");
    RUN(schedules, "schedules have their closed forms");
    RUN(named_errors, "errors are sticky, named and cleared");
    l2l_context_free(c);
    return test_end();
}
