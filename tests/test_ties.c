/* What Winograd's tiles may not change: the exact ties that max pooling meets on plain backgrounds;
   and what they do change: how far one large number reaches. */
#include "support.h"

static l2l_context *c;
static unsigned cpus[8];
static int n_cpus;

/* Plain regions with edges between them, and a corner of noise. */
static l2l_tensor *blocks(int n, int size, int channels)
{
    l2l_tensor *x = seeded(c, n, channels, size, size, 7, 0.1, 1);
    int i, h, w, k;
    for (i = 0; i < n; i++)
        for (h = 0; h < size; h++)
            for (w = 0; w < size; w++)
                for (k = 0; k < channels && (h < size / 2 || w < size / 2); k++)
                    x->data[((i * size + h) * size + w) * channels + k] =
                        (l2l_real)((w < size / 3 ? 0.3 : 0.7) + 0.05 * (k % 7));
    return x;
}

/* Two layers on x, and the maximum of each in a call of its own; user: the layers' outputs. */
static l2l_tensor *later_maximum(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_tensor **y = (l2l_tensor **)user;
    l2l_unit u = l2l_unit_default(32, 3);
    u.padding = 1;
    u.norm = "bn";
    y[0] = l2l_layer_unit(m, "unit", x, &u);
    y[1] = l2l_layer_conv(m, "conv", x, 32, 3, 1, 1, L2L_RELU);
    x = l2l_add(c, l2l_max_pool(c, y[0], 2, 2, 0), l2l_max_pool(c, y[1], 2, 2, 0));
    return l2l_layer_linear(m, "fc", x, 2, L2L_LAST);
}

static void layers(void)
{
    int i, mode, layer, h, w, k, j;
    for (i = 0; i < n_cpus; i++)
        for (mode = 0; mode < 2; mode++) {
            l2l_mark mark = l2l_mark_here(c);
            l2l_model_options o = l2l_model_default("later");
            l2l_tensor *y[2] = {NULL, NULL};
            l2l_model *m;
            l2l_set_cpu(c, cpus[i]);
            o.forward = later_maximum;
            o.user = y;
            o.channels = 32;
            o.height = o.width = 26;
            o.classes = 2;
            m = l2l_model_create(c, &o);
            l2l_set_recording(c, true);     /* so that y stays */
            CHECK(l2l_model_forward(m, l2l_full(c, l2l_shape_of(2, 26, 26, 32), 0.37),
                                    mode ? L2L_TRAIN : L2L_EVALUATE) != NULL);
            l2l_set_recording(c, false);
            for (layer = 0; layer < 2 && CHECK(y[layer] != NULL); layer++) {
                int wrong = 0;
                for (h = 2; h < 24; h += 2) /* away from the border */
                    for (w = 2; w < 24; w += 2)
                        for (k = 0; k < 32; k++)
                            for (j = 1; j < 4; j++) {
                                int a = (h * 26 + w) * 32 + k;
                                int b = a + (j / 2 * 26 + j % 2) * 32;
                                wrong += y[layer]->data[a] != y[layer]->data[b];
                            }
                CHECK_INT(0, wrong);
            }
            CHECK_OK(c);
            l2l_model_free(m);
            l2l_release(c, mark);
        }
}

static void windows(void)
{
    static const int sizes[] = {26, 14, 12, 10, 9, 7, 4}; /* tiles of 4 and of 5 */
    int s, padding, i, h, w, k, j;
    for (s = 0; s < COUNT(sizes); s++)
        for (padding = 0; padding <= 2; padding++) {
            l2l_mark mark = l2l_mark_here(c);
            l2l_conv_options o = l2l_conv_default();
            l2l_tensor *x = blocks(2, sizes[s], 32), *plain;
            l2l_tensor *weight = seeded_weight(c, 64, 32, 3, 3, 3, -0.1, 0.1);
            int ties = 0;
            o.padding = padding;
            o.bias = seeded_vector(c, 64, 5, -0.2, 0.2);
            l2l_set_cpu(c, L2L_CPU_PLAIN);
            plain = l2l_conv(c, x, weight, &o);
            for (i = 0; i < n_cpus; i++) {
                l2l_tensor *y;
                int wrong = 0;
                l2l_set_cpu(c, cpus[i]);
                y = l2l_conv(c, x, weight, &o);
                for (h = 0; h + 1 < y->shape.h; h += 2)
                    for (w = 0; w + 1 < y->shape.w; w += 2)
                        for (k = 0; k < 64; k++)
                            for (j = 1; j < 4; j++) {
                                int a = (h * y->shape.w + w) * 64 + k;
                                int b = a + (j / 2 * y->shape.w + j % 2) * 64;
                                if (plain->data[a] != plain->data[b]) continue;
                                ties++;
                                wrong += y->data[a] != y->data[b];
                            }
                CHECK_INT(0, wrong);
            }
            if (sizes[s] > 4) CHECK(ties > 0);
            CHECK_OK(c);
            l2l_release(c, mark);
        }
}

/* dy of which whole pixels are 0, or -0: what sees nothing else has a gradient of exactly 0. */
static void zeros(void)
{
    static const int sizes[] = {26, 14, 10, 7, 4, 2};
    enum { N = 3, K = 64, C = 32 };
    int s, way, i, p, k;
    for (s = 0; s < COUNT(sizes); s++)
        for (way = 0; way < 6; way++) {
            l2l_mark mark = l2l_mark_here(c);
            const int padding = way % 3, stride = 1 + way / 3;
            const l2l_shape from = l2l_shape_of(N, sizes[s], sizes[s], C);
            const int room = sizes[s] + 2 * padding - 3, side = room / stride + 1;
            l2l_tensor *dy = room < 0 ? NULL : seeded(c, N, K, side, side, 11, -1, 1), *plain;
            l2l_tensor *weight = seeded_weight(c, K, C, 3, 3, 12, -0.1, 0.1);
            int both = 0, other = 0;
            if (!dy) continue;
            for (p = 0; p < N * side * side; p++)
                if (p % side < side / 2 || p % 7 > 4 || p / side % side == 0)
                    for (k = 0; k < K; k++) dy->data[p * K + k] = p % 2 ? 0 : (l2l_real)-0.0;
            l2l_set_cpu(c, L2L_CPU_PLAIN);
            plain = l2l_conv_input_grad(c, dy, weight, from, stride, padding);
            for (i = 0; i < n_cpus && plain; i++) {
                l2l_tensor *dx;
                l2l_set_cpu(c, cpus[i]);
                dx = l2l_conv_input_grad(c, dy, weight, from, stride, padding);
                for (int64_t j = 0; dx && j < l2l_count(from); j++) {
                    both += plain->data[j] == 0 && dx->data[j] == 0;
                    other += (plain->data[j] == 0) != (dx->data[j] == 0);
                }
            }
            CHECK_INT(0, other);
            if (sizes[s] > 7) CHECK(both > 100);
            CHECK_OK(c);
            l2l_release(c, mark);
        }
}

/* The images' gradient of a network in which convolutions follow one another and are pooled. */
static void input_gradient(l2l_model *m, const l2l_real *images, int n, l2l_real *out)
{
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(n, 28, 28, 1)), *dx = NULL;
    int labels[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    bool was = l2l_set_recording(c, true);
    l2l_grad(c, l2l_sum(c, l2l_cross_entropy(c, l2l_model_forward(m, x, L2L_EVALUATE), labels)), &x,
             1, &dx, 0);
    l2l_set_recording(c, was);
    if (dx) l2l_to_nchw(c, dx, out);
    l2l_release(c, mark);
}

static void gradients(void)
{
    enum { N = 8, SIZE = 784 };
    static l2l_real images[N * SIZE], plain[N * SIZE], got[N * SIZE], other[N * SIZE];
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *m;
    int i, j, n;
    golden_fill(images, N * SIZE, 9, 0, 1);
    for (i = 0; i < N * SIZE; i++)           /* a noisy square on a plain background              */
        if (i % 28 < 10 || i % 28 > 17 || i / 28 % 28 < 9 || i / 28 % 28 > 18)
            images[i] = (l2l_real)0.25;
    m = l2l_model_create(c, &o);
    l2l_set_cpu(c, L2L_CPU_PLAIN);
    input_gradient(m, images, N, plain);
    for (i = 0; i < n_cpus; i++) {
        l2l_set_cpu(c, cpus[i]);
        input_gradient(m, images, N, got);
        for (n = 0; n < N; n++) {
            double largest = 0, worst = 0;
            for (j = n * SIZE; j < (n + 1) * SIZE; j++) {
                largest = fmax(largest, fabs((double)plain[j]));
                worst = fmax(worst, fabs((double)(plain[j] - got[j])));
            }
            CHECK_NEAR(0, worst / largest, 1e-4);
            input_gradient(m, images + n * SIZE, 1, other); /* label 0: only the first is alike */
            if (n == 0) CHECK_BYTES(got, other, SIZE * sizeof *got);
        }
        l2l_set_threads(c, 1);
        input_gradient(m, images, N, other);
        l2l_set_threads(c, 3);
        CHECK_BYTES(got, other, sizeof got);
    }
    CHECK_OK(c);
    l2l_model_free(m);
}

/* 10^6 in one pixel of one channel, or infinity. Outputs from..to-1 are of tiles that reach it. */
static void local(int size, int stride, int at, int from, int to, double bound)
{
    enum { C = 32 };
    int pass, i, k, h, w;
    for (pass = 0; pass < 2; pass++) {
        l2l_tensor *x = seeded(c, 1, C, size, size, 1, 0, 1), *plain;
        l2l_tensor *weight = seeded_weight(c, C, C, 3, 3, 2, -0.2, 0.2);
        l2l_conv_options o = l2l_conv_default();
        double sums[C] = {0};
        o.padding = 1;
        o.stride = stride;
        o.unpooled = stride > 1;
        for (i = 0; i < 9; i++)              /* of channel 0's weights to each output             */
            for (k = 0; k < C; k++) sums[k] += fabs((double)weight->data[i * C * C + k]);
        x->data[(at * size + at) * C] = pass ? (l2l_real)HUGE_VAL : (l2l_real)1e6;
        l2l_set_cpu(c, L2L_CPU_PLAIN);
        plain = l2l_conv(c, x, weight, &o);
        for (i = 0; i < n_cpus; i++) {
            l2l_tensor *y;
            l2l_set_cpu(c, cpus[i]);
            y = l2l_conv(c, x, weight, &o);
            for (h = 0; h < y->shape.h; h++)
                for (w = 0; w < y->shape.w; w++)
                    for (k = 0; k < C; k++) {
                        int j = (h * y->shape.w + w) * C + k;
                        bool tile = h >= from && h < to && w >= from && w < to;
                        if (tile && pass) continue;
                        CHECK_NEAR((double)plain->data[j], (double)y->data[j],
                                   tile ? bound * 1e6 * sums[k] : 1e-5);
                    }
        }
        CHECK_OK(c);
    }
}

/* One weight, and signs in the channel that it sees: nothing else makes the sum of magnitudes large,
   so this is where an output's error weighs most. */
static void single(int size, int stride)
{
    enum { C = 16, N = 64 };
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = seeded(c, N, C, size, size, 3, -1, 1);
    int tap, i;
    for (int64_t j = 0; j < l2l_count(x->shape); j++)
        x->data[j] = j % C ? 0 : x->data[j] < 0 ? -1 : 1;
    for (tap = 0; tap < 9; tap++) {
        l2l_tensor *weight = l2l_zeros(c, l2l_shape_of(3, 3, C, C)), *plain;
        l2l_conv_options o = l2l_conv_default();
        o.padding = 1;
        o.stride = stride;
        o.unpooled = stride > 1;
        for (i = 0; i < C; i++) weight->data[tap * C * C + i] = (l2l_real)0.7;
        l2l_set_cpu(c, L2L_CPU_PLAIN);
        plain = l2l_conv(c, x, weight, &o);
        for (i = 0; i < n_cpus; i++) {
            double worst = 0;
            l2l_tensor *y;
            l2l_set_cpu(c, cpus[i]);
            y = l2l_conv(c, x, weight, &o);
            for (int64_t j = 0; y && j < l2l_count(y->shape); j++)
                worst = fmax(worst, fabs((double)y->data[j] - (double)plain->data[j]));
            CHECK_NEAR(0, worst / 0.7, 4e-5);
        }
    }
    CHECK_OK(c);
    l2l_release(c, mark);
}

static void locality(void)
{
    local(16, 1, 8, 4, 12, 1e-6);            /* tiles of 4                                        */
    local(10, 1, 7, 5, 10, 4e-6);            /* of 5                                              */
    local(14, 1, 9, 5, 14, 4e-6);
    local(24, 2, 8, 4, 8, 1e-6);             /* of 4 at stride 2, whose patches meet in odd lines */
    local(24, 2, 7, 0, 8, 1e-6);
    single(16, 1);
    single(10, 1);
    single(24, 2);
    single(2, 1);                            /* a whole plane                                     */
}

/* The layers that an unpooled pass turns: the maximum of each window is the first of its equals. */
static void few_outputs(void)
{
    enum { SIDE = 16, C = 16 };
    int k, i, at, size;
    for (i = 0; i < n_cpus; i++)
        for (k = 1; k <= 4; k++) {
            l2l_conv_options o = l2l_conv_default();
            l2l_tensor *x = l2l_full(c, l2l_shape_of(1, SIDE, SIDE, C), 0.37), *g = NULL, *y,
                       *w = seeded(c, 3, C, 3, k, 5, -1, 1),
                       *zero = l2l_zeros(c, l2l_shape_of(1, SIDE - 2, SIDE - 2, k));
            l2l_set_cpu(c, cpus[i]);
            if (w) w->shape = l2l_shape_of(3, 3, C, k);
            o.residual = zero;
            o.pool = true;
            l2l_set_recording(c, true);
            y = l2l_conv(c, x, w, &o);
            if (!CHECK(l2l_grad(c, l2l_sum(c, y), &zero, 1, &g, 0))) return;
            l2l_set_recording(c, false);
            size = (SIDE - 2) * k;
            for (at = 0; at < (SIDE - 2) * size; at++)
                if (!CHECK_NEAR(at / size % 2 == 0 && at / k % 2 == 0, g->data[at], 0)) break;
        }
    CHECK_OK(c);
}

int main(void)
{
    c = test_context(3);
    n_cpus = test_cpus(c, cpus);
    RUN(windows, "equal patches behind a window give equal outputs on every instruction set");
    RUN(layers, "so do layers whose maximum is taken in a call of its own");
    RUN(zeros, "a gradient made of zeros alone is exactly 0");
    RUN(gradients, "ties of plain backgrounds go where the plain kernels' go, any batch and threads");
    RUN(few_outputs, "behind layers of few outputs the first of equals is a pooling's maximum, too");
    RUN(locality, "a large number adds at most 4e-5 of it to the error of its tiles, no other's");
    l2l_context_free(c);
    return test_end();
}
