/* layers.c - how fast each convolution of the four classifiers is: forward, input gradient and
 * weight gradient, beside the multiply-adds that the machine could make at best.
 *
 * A rate counts the multiply-adds of the direct method, 2 * n*oh*ow*k * c*kh*kw over the time, so
 * that layers can be compared; Winograd's method makes fewer of them, and its rate may exceed the
 * peak. Best of all runs that fit into --seconds, at least 3 after one that does not count. */
#include "cli.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

static struct {
    int threads;
    const char *filter;
    double seconds;
    bool json;
} set;

/* height x height x c to k channels, kernel x kernel. */
typedef struct {
    const char *network, *name;
    int batch, height, c, k, kernel, stride, padding;
} layer;

static const layer layers[] = {
    {"smallcnn", "s1", 128, 28, 1, 32, 3, 1, 0},
    {"smallcnn", "s2", 128, 26, 32, 32, 3, 1, 0},
    {"smallcnn", "s3", 128, 12, 32, 64, 3, 1, 0},
    {"smallcnn", "s4", 128, 10, 64, 64, 3, 1, 0},
    {"vgg16", "v1", 64, 32, 3, 64, 3, 1, 1},
    {"vgg16", "v2", 64, 32, 64, 64, 3, 1, 1},
    {"vgg16", "v3", 64, 16, 64, 128, 3, 1, 1},
    {"vgg16", "v4", 64, 16, 128, 128, 3, 1, 1},
    {"vgg16", "v5", 64, 8, 128, 256, 3, 1, 1},
    {"vgg16", "v6", 64, 8, 256, 256, 3, 1, 1},
    {"vgg16", "v7", 64, 4, 256, 512, 3, 1, 1},
    {"vgg16", "v8", 64, 4, 512, 512, 3, 1, 1},
    {"vgg16", "v9", 64, 2, 512, 512, 3, 1, 1},
    {"wrn", "stem", 8, 32, 3, 16, 3, 1, 1},
    {"wrn", "w1", 8, 32, 16, 160, 3, 1, 1},
    {"wrn", "w2", 8, 32, 160, 160, 3, 1, 1},
    {"wrn", "w3", 8, 16, 320, 320, 3, 1, 1},
    {"wrn", "w4", 8, 8, 640, 640, 3, 1, 1},
    {"wrn", "strided3", 8, 32, 160, 320, 3, 2, 1},
    {"wrn", "strided4", 8, 16, 320, 640, 3, 2, 1},
    {"wrn", "shortcut2", 8, 32, 16, 160, 1, 1, 0},
    {"wrn", "shortcut3", 8, 32, 160, 320, 1, 2, 0},
    {"wrn", "shortcut4", 8, 16, 320, 640, 1, 2, 0},
    {"resnet18", "stem", 8, 224, 3, 64, 7, 2, 3},
    {"resnet18", "r1", 8, 56, 64, 64, 3, 1, 1},
    {"resnet18", "r2", 8, 28, 128, 128, 3, 1, 1},
    {"resnet18", "r3", 8, 14, 256, 256, 3, 1, 1},
    {"resnet18", "r4", 8, 7, 512, 512, 3, 1, 1},
    {"resnet18", "strided2", 8, 56, 64, 128, 3, 2, 1},
    {"resnet18", "strided3", 8, 28, 128, 256, 3, 2, 1},
    {"resnet18", "strided4", 8, 14, 256, 512, 3, 2, 1},
    {"resnet18", "shortcut2", 8, 56, 64, 128, 1, 2, 0},
    {"resnet18", "shortcut3", 8, 28, 128, 256, 1, 2, 0},
    {"resnet18", "shortcut4", 8, 14, 256, 512, 1, 2, 0},
};
enum { LAYERS = sizeof layers / sizeof *layers };

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {"filter", CLI_TEXT, &set.filter, 0, 0, "TEXT",
         "only layers whose network and name, as in \"vgg16 v2\", contain this"},
        {"seconds", CLI_NUMBER, &set.seconds, 0, 3600, NULL, "to spend on each layer"},
        {"json", CLI_SWITCH, &set.json, 0, 0, NULL, "print one JSON object"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    set.seconds = 1.5;
    cli_parse(argc, argv,
              "Measures each convolution of the four classifiers by itself, and the learned\n"
              "maximizer, as --filter maximizer.", flags);
}

/* ---- the peak: independent chains of multiply-adds that stay in registers, as many as hide the
 *      latency of one ---- */

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { CHAINS = 12 };

/* `step` is x * m + a, which stays finite. Gives a number that depends on all chains. */
#define CHAINS_OF(name, attributes, vector, all, step)                                             \
    attributes static float name(long rounds, float start)                                         \
    {                                                                                              \
        const vector m = all(0.999f), a = all(0.001f);                                             \
        vector sum = all(0);                                                                       \
        long i;                                                                                    \
        EACH(DECLARE)                                                                              \
        for (i = 0; i < rounds; i++) { EACH(step) }                                                \
        EACH(ADD)                                                                                  \
        return ((const float *)&sum)[0];                                                           \
    }

#if defined(__x86_64__) && defined(__GNUC__)
#define ALL(v) _mm512_set1_ps(v)
#define DECLARE(i) __m512 x##i = _mm512_set1_ps(start + i);
#define STEP(i) x##i = _mm512_fmadd_ps(x##i, m, a);
#define ADD(i) sum = _mm512_add_ps(sum, x##i);
CHAINS_OF(chains_16, __attribute__((target("avx512f"))), __m512, ALL, STEP)
#undef ALL
#undef DECLARE
#undef STEP
#undef ADD
#define ALL(v) _mm256_set1_ps(v)
#define DECLARE(i) __m256 x##i = _mm256_set1_ps(start + i);
#define STEP(i) x##i = _mm256_fmadd_ps(x##i, m, a);
#define ADD(i) sum = _mm256_add_ps(sum, x##i);
CHAINS_OF(chains_8, __attribute__((target("avx2,fma"))), __m256, ALL, STEP)
#undef ALL
#undef DECLARE
#undef STEP
#undef ADD
#endif

#ifdef __GNUC__
typedef float four __attribute__((vector_size(16)));
#define ALL(v) (four){v, v, v, v}
#define DECLARE(i) four x##i = ALL(start + i);
#define STEP(i) x##i = x##i * m + a;
#define ADD(i) sum += x##i;
CHAINS_OF(chains_4, , four, ALL, STEP)
#endif

/* The best that this machine has, and its lanes; NULL: not known how. */
static float (*peak_chains(int *lanes))(long, float)
{
#ifdef __GNUC__
    *lanes = 4;
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return *lanes = 16, chains_16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return *lanes = 8, chains_8;
#endif
    return chains_4;
#else
    *lanes = 0;
    return NULL;
#endif
}

/* GFLOP/s of so many threads, best of 40 runs; 0: cannot be measured. */
static double peak(int threads)
{
    const long rounds = 1000000;
    int lanes, run, i;
    float (*chains)(long, float) = peak_chains(&lanes), sum = 0;
    volatile float keep;
    double best = 1e30;
    for (run = 0; chains && run < 40; run++) {
        double begin = cli_seconds(), t;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
#endif
        for (i = 0; i < threads; i++) sum += chains(rounds, (float)i);
        t = cli_seconds() - begin;
        if (t < best) best = t;
    }
    keep = sum;
    (void)keep;
    return chains ? 2e-9 * CHAINS * lanes * (double)rounds * threads / best : 0;
}

/* ---- one layer: its weight belongs to a model, so that what is derived from it is kept ---- */

static l2l_tensor *forward(l2l_model *m, l2l_tensor *x, void *user)
{
    const layer *q = (const layer *)user;
    x = l2l_layer_conv(m, "conv", x, q->k, q->kernel, q->stride, q->padding, L2L_NO_BIAS);
    x = l2l_global_average_pool(l2l_model_context(m), x);
    return l2l_layer_linear(m, "fc", x, 2, L2L_LAST);
}

static l2l_model *make_model(l2l_context *c, const layer *q, layer *user)
{
    l2l_model_options o = l2l_model_default("one layer");
    *user = *q;
    o.forward = forward;
    o.user = user;
    o.channels = q->c;
    o.height = o.width = q->height;
    o.classes = 2;
    return l2l_model_create(c, &o);
}

static l2l_tensor *noise(l2l_context *c, l2l_shape s)
{
    l2l_tensor *t = l2l_zeros(c, s);
    uint32_t state = 1;
    int64_t i;
    for (i = 0; t && i < l2l_count(s); i++) {
        state = state * 1664525u + 1013904223u;
        t->data[i] = (l2l_real)((state >> 8) / 8388608.0 - 1);
    }
    return t;
}

typedef struct {
    const layer *q;
    l2l_context *context;
    l2l_tensor *x, *w, *dy;
} work;

static l2l_tensor *work_forward(const work *k)
{
    l2l_conv_options o = l2l_conv_default();
    o.stride = k->q->stride;
    o.padding = k->q->padding;
    o.unpooled = !strcmp(k->q->network, "wrn") || !strcmp(k->q->network, "resnet18");
    return l2l_conv(k->context, k->x, k->w, &o);
}

static l2l_tensor *work_input_grad(const work *k)
{
    return l2l_conv_input_grad(k->context, k->dy, k->w, k->x->shape, k->q->stride, k->q->padding);
}

static l2l_tensor *work_weight_grad(const work *k)
{
    return l2l_conv_weight_grad(k->context, k->x, k->dy, k->w->shape, k->q->stride, k->q->padding);
}

static const struct {
    const char *name, *title;
    l2l_tensor *(*run)(const work *);
} directions[] = {{"forward", "forward", work_forward},
                  {"input_grad", "input", work_input_grad},
                  {"weight_grad", "weight", work_weight_grad}};
enum { DIRECTIONS = sizeof directions / sizeof *directions };

/* The shortest time of one run. */
static double seconds_of(const work *k, int direction)
{
    double best = 1e30, start = 0;
    int runs;
    for (runs = -1; runs < 3 || cli_seconds() - start < set.seconds / DIRECTIONS; runs++) {
        double begin = cli_seconds(), t;
        l2l_tensor *y = directions[direction].run(k);
        t = cli_seconds() - begin;
        l2l_drop(k->context, y);
        if (l2l_error(k->context)) die(k->context);
        if (runs < 0)
            start = cli_seconds();
        else if (t < best)
            best = t;
    }
    return best;
}

static void measure(l2l_context *c, const layer *q, double *rates)
{
    union {
        const l2l_tensor *seen;
        l2l_tensor *used; /* the operations take it so, and only read */
    } weight;
    l2l_mark mark = l2l_mark_here(c);
    layer user;
    l2l_model *m = make_model(c, q, &user);
    int out = (q->height + 2 * q->padding - q->kernel) / q->stride + 1, d;
    double flops = 2.0 * q->batch * out * out * q->k * q->c * q->kernel * q->kernel;
    work k;
    if (!m) die(c);
    weight.seen = l2l_model_parameter(m, 0).value;
    k.q = q;
    k.context = c;
    k.w = weight.used;
    k.x = noise(c, l2l_shape_of(q->batch, q->height, q->height, q->c));
    k.dy = noise(c, l2l_shape_of(q->batch, out, out, q->k));
    if (l2l_error(c)) die(c);
    for (d = 0; d < DIRECTIONS; d++) rates[d] = flops / seconds_of(&k, d) * 1e-9;
    l2l_release(c, mark);
    l2l_model_free(m);
}

/* ---- the learned maximizer ---- */

enum { CELL_IMAGES = 128, CELL_SIDE = 28, CELL_STEPS = 10 };

/* T steps of the maximizer on gradients that are given; or the adjoint of L_phi by phi, which runs
 * the steps again and goes back. Nanoseconds for each coordinate and step, the shortest of all. */
static double cell_time(l2l_learned *phi, l2l_inner *in, bool back)
{
    l2l_maximizer m = l2l_learned_maximizer(phi);
    l2l_real *gradient = (l2l_real *)cli_allocate((size_t)l2l_learned_size(phi), sizeof *gradient);
    double best = 1e30, start = cli_seconds(), begin, t;
    bool ok = true;
    int runs;
    for (runs = 0; ok && (runs < 4 || cli_seconds() - start < set.seconds / 2); runs++) {
        begin = cli_seconds();
        if (back)
            ok = l2l_learned_gradient(phi, in, gradient);
        else
            for (ok = m.begin(phi, in), in->t = 0; ok && in->t < in->T; in->t++)
                ok = m.step(phi, in);
        t = cli_seconds() - begin;
        if (t < best) best = t;
    }
    free(gradient);
    if (!ok) die(in->context);
    return best * 1e9 / (double)l2l_count(in->shape) / in->T;
}

static void measure_cell(l2l_context *c, double *times)
{
    l2l_mark mark = l2l_mark_here(c);
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &o);
    l2l_tensor *g[CELL_STEPS + 1];
    double w[CELL_STEPS + 1];
    l2l_inner in;
    int t;
    memset(&in, 0, sizeof in);
    in.context = c;
    in.n = in.batch = CELL_IMAGES;
    in.shape = l2l_shape_of(CELL_IMAGES, CELL_SIDE, CELL_SIDE, 1);
    in.T = CELL_STEPS;
    in.epsilon = 0.3;
    in.x = l2l_full(c, in.shape, 0.5);
    in.adv = in.start = l2l_full(c, in.shape, 0.5);
    in.delta = l2l_zeros(c, in.shape);
    for (t = 0; t <= in.T; t++) {
        g[t] = noise(c, in.shape);
        w[t] = t;
    }
    in.g = g;
    in.w = w;
    if (l2l_error(c)) die(c);
    times[0] = cell_time(phi, &in, false);
    times[1] = cell_time(phi, &in, true);
    l2l_learned_free(phi);
    l2l_release(c, mark);
}

/* ---- what is printed ---- */

static void print_cell(const double *times)
{
    if (set.json)
        printf(",\"cell_forward\":%.2f,\"cell_backward\":%.2f", times[0], times[1]);
    else
        printf("\nmaximizer: LSTM of hidden size 10, %dx%dx%d, T %d, ns for a coordinate and step:\n"
               "forward %.1f, again and back with all gradients %.1f\n",
               CELL_IMAGES, CELL_SIDE, CELL_SIDE, CELL_STEPS, times[0], times[1]);
}

static void print_head(l2l_context *c, double most)
{
    int d;
    if (set.json) {
        printf("{\"version\":\"%s\",\"threads\":%d,\"peak\":%.1f,\"layers\":[", l2l_describe(c),
               l2l_threads(c), most);
        return;
    }
    printf("%s\n", l2l_describe(c));
    if (most > 0)
        printf("peak of the machine, %d thread%s: %.0f GFLOP/s\n", l2l_threads(c),
               l2l_threads(c) == 1 ? "" : "s", most);
    else
        printf("the peak of this machine cannot be measured with this compiler\n");
    printf("effective GFLOP/s%s\n\n%-41s", most > 0 ? " (times the peak)" : "", "layer");
    for (d = 0; d < DIRECTIONS; d++) printf(most > 0 ? "%15s" : "%9s", directions[d].title);
    printf("\n");
}

static void print_layer(const layer *q, const double *rates, double most, bool first)
{
    char text[64];
    int d;
    if (set.json) {
        printf("%s\n{\"network\":\"%s\",\"name\":\"%s\",\"batch\":%d,\"height\":%d,\"c\":%d,"
               "\"k\":%d,\"kernel\":%d,\"stride\":%d,\"padding\":%d",
               first ? "" : ",", q->network, q->name, q->batch, q->height, q->c, q->k, q->kernel,
               q->stride, q->padding);
        for (d = 0; d < DIRECTIONS; d++) printf(",\"%s\":%.2f", directions[d].name, rates[d]);
        printf("}");
    } else {
        snprintf(text, sizeof text, "%dx%dx%d", q->batch, q->height, q->height);
        printf("%-8s %-9s %11s %3d-%-3d %d/%d", q->network, q->name, text, q->c, q->k, q->kernel,
               q->stride);
        for (d = 0; d < DIRECTIONS; d++) {
            printf("%9.1f", rates[d]);
            if (most > 0) printf("(%4.2f)", rates[d] / most);
        }
        printf("\n");
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    l2l_context *c;
    double most, rates[DIRECTIONS], times[2];
    char name[64];
    int i, shown = 0;

    parse(argc, argv);
    c = cli_context(set.threads);
    most = peak(l2l_threads(c));
    print_head(c, most);
    for (i = 0; i < LAYERS; i++) {
        snprintf(name, sizeof name, "%s %s", layers[i].network, layers[i].name);
        if (set.filter && !strstr(name, set.filter)) continue;
        measure(c, &layers[i], rates);
        print_layer(&layers[i], rates, most, shown++ == 0);
    }
    if (set.json) printf("]");
    if (!set.filter || strstr("maximizer", set.filter)) {
        measure_cell(c, times);
        print_cell(times);
        shown++;
    }
    if (set.json) printf("}\n");
    l2l_context_free(c);
    if (!shown) cli_fail("--filter %s: no layer is called so", set.filter);
    return cli_end();
}
