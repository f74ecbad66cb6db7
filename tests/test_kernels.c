/* The convolutions of chapter 15 (Winograd's of three sizes, at stride 2 and on planes of 2x2, with
   weights kept and with weights transformed on the way; the indirect direct one; gathered first
   layers; 1x1) against plain double loops, on every instruction set, with 1, 2 and 6 threads. Which
   way a layer goes is decided inside by its shape; the shapes below are spread over all of them.

   bin/test_kernels --table prints the errors of every shape besides; --small leaves out the largest
   shapes and the claim on memory, for machines that are emulated. */
#include "networks.h"

typedef struct layer {
    int n, h, w, c, k, kernel, stride, padding;
} layer;

/* As an AVX2 machine goes, forward; the input gradient and other machines may differ in places. */
static const layer layers[] = {
    /* F(4x4,3x3): whole tiles, then planes that end inside a tile */
    {2, 8, 8, 32, 32, 3, 1, 1}, {1, 26, 26, 32, 32, 3, 1, 0}, {5, 10, 10, 64, 64, 3, 1, 0},
    {2, 7, 7, 48, 64, 3, 1, 1}, {5, 9, 11, 24, 48, 3, 1, 1}, {1, 3, 3, 16, 32, 3, 1, 1},
    {2, 4, 15, 160, 32, 3, 1, 1}, {5, 3, 3, 16, 16, 3, 1, 0}, {1, 31, 33, 24, 16, 3, 1, 1},
    {2, 28, 28, 128, 128, 3, 1, 1}, {32, 26, 26, 32, 32, 3, 1, 0}, {12, 28, 28, 64, 96, 3, 1, 1},
    {5, 12, 11, 40, 56, 3, 1, 1}, {1, 16, 16, 320, 96, 3, 1, 1},
    /* F(5x5,3x3), where fewer tiles are worth more than 36 multiplications for 16 outputs */
    {2, 12, 12, 32, 64, 3, 1, 0}, {2, 34, 34, 16, 16, 3, 1, 1}, {1, 34, 34, 64, 24, 3, 1, 1},
    {2, 13, 7, 32, 24, 3, 1, 2}, {1, 15, 15, 320, 160, 3, 1, 1}, {1, 8, 8, 16, 160, 3, 1, 2},
    {5, 14, 14, 40, 56, 3, 1, 1}, {5, 14, 14, 160, 96, 3, 1, 1}, {2, 5, 5, 64, 64, 3, 1, 1},
    {2, 5, 5, 16, 16, 3, 1, 1}, {9, 3, 3, 160, 16, 3, 1, 2}, {37, 10, 9, 48, 32, 3, 1, 1},
    /* planes of 2x2 as a whole */
    {5, 2, 2, 64, 64, 3, 1, 1}, {2, 2, 2, 96, 160, 3, 1, 1}, {64, 2, 2, 512, 64, 3, 1, 1},
    {13, 2, 2, 160, 320, 3, 1, 1}, {9, 2, 2, 160, 16, 3, 1, 1}, {130, 2, 2, 48, 32, 3, 1, 1},
    /* F(2x2,3x3) */
    {2, 6, 6, 64, 64, 3, 1, 1}, {1, 6, 6, 48, 160, 3, 1, 1},
    {2, 4, 36, 32, 64, 3, 1, 0}, {1, 2, 17, 64, 48, 3, 1, 1}, {2, 4, 4, 32, 48, 3, 1, 0},
    {1, 4, 4, 32, 32, 3, 1, 2},
    /* c*k above 32,768: weights are transformed on the way; more than 128 tiles; all sizes */
    {2, 8, 8, 320, 320, 3, 1, 1}, {3, 34, 34, 272, 256, 3, 1, 1}, {5, 7, 7, 160, 416, 3, 1, 1},
    {2, 5, 5, 512, 512, 3, 1, 1}, {1, 5, 6, 256, 264, 3, 1, 1}, {2, 6, 9, 256, 272, 3, 1, 2},
    {2, 6, 6, 512, 320, 3, 1, 1}, {1, 6, 5, 256, 264, 3, 1, 0},
    /* F(4x4,2x2), at stride 2: odd and even sides, planes that end inside a tile, weights kept and
       on the way, more than 64 tiles */
    {2, 16, 16, 64, 48, 3, 2, 1}, {5, 9, 9, 32, 64, 3, 2, 1}, {3, 28, 28, 64, 128, 3, 2, 1},
    {1, 33, 31, 16, 16, 3, 2, 1}, {2, 15, 8, 48, 32, 3, 2, 1}, {1, 17, 64, 32, 16, 3, 2, 1},
    {5, 32, 16, 160, 320, 3, 2, 1}, {1, 14, 14, 256, 512, 3, 2, 1}, {9, 24, 24, 160, 128, 3, 2, 1},
    {2, 8, 7, 288, 256, 3, 2, 1}, {7, 7, 7, 128, 256, 3, 2, 1}, {2, 13, 13, 16, 272, 3, 2, 1},
    /* direct: too small a plane, channels that do not fit, strides, other kernels */
    {5, 1, 1, 64, 64, 3, 1, 1}, {2, 3, 3, 160, 24, 3, 1, 0}, {2, 3, 4, 16, 16, 3, 1, 0},
    {2, 9, 9, 20, 32, 3, 1, 1}, {1, 11, 8, 32, 9, 3, 1, 1}, {2, 16, 16, 64, 48, 3, 2, 0},
    {5, 9, 9, 32, 60, 3, 2, 1}, {2, 7, 8, 48, 16, 3, 2, 0}, {2, 9, 10, 24, 32, 5, 1, 2},
    {2, 2, 2, 64, 64, 3, 2, 1}, {5, 16, 16, 64, 32, 3, 3, 1},
    {1, 12, 12, 16, 16, 5, 2, 0}, {2, 14, 14, 64, 160, 1, 1, 0}, {5, 10, 9, 48, 32, 1, 2, 0},
    {2, 8, 8, 320, 64, 1, 1, 0},
    /* direct, place by place: without the taps that are beyond the border for all images */
    {64, 2, 3, 512, 64, 3, 1, 1}, {13, 2, 3, 160, 320, 3, 1, 1}, {2, 4, 4, 320, 320, 3, 2, 1},
    {13, 14, 14, 144, 40, 3, 2, 1}, {7, 9, 3, 136, 24, 5, 1, 2}, {13, 14, 14, 144, 44, 3, 2, 1},
    {2, 8, 8, 32, 32, 3, 1, 3}, {5, 2, 3, 160, 32, 3, 1, 2},
    {13, 1, 1, 512, 32, 3, 1, 1}, {13, 3, 4, 272, 9, 3, 1, 0}, {7, 1, 1, 136, 24, 5, 3, 3},
    /* first layers of few channels: line by line, gradients scattered */
    {2, 34, 34, 3, 64, 7, 2, 3}, {5, 28, 28, 1, 32, 3, 1, 0}, {2, 32, 32, 3, 16, 3, 1, 1},
    {1, 9, 9, 4, 24, 5, 1, 2}, {3, 7, 5, 1, 5, 3, 1, 1}, {2, 13, 40, 2, 300, 5, 3, 2},
    {1, 10, 9, 3, 40, 2, 3, 0}, {2, 3, 37, 4, 33, 4, 2, 3}, {7, 2, 2, 1, 64, 5, 1, 2},
    {2, 8, 8, 1, 16, 3, 2000, 1}, {1, 8, 9, 2, 16, 3, 1 << 30, 1}, {3, 12, 9, 3, 24, 4, 4, 0},
    /* kernels as large as the plane: linear layers */
    {9, 4, 4, 24, 40, 4, 1, 0}, {130, 3, 3, 8, 200, 3, 1, 0}, {6, 5, 5, 3, 20, 5, 1, 0},
    {4, 5, 5, 3, 20, 5, 2, 0}, {3, 4, 4, 7, 9, 4, 1, 0}, {17, 3, 3, 64, 5, 3, 1, 0},
    /* last layers of few channels: as the input gradient of the layer turned round */
    {2, 28, 28, 128, 1, 3, 1, 1}, {5, 10, 7, 40, 3, 3, 1, 0}, {1, 9, 9, 24, 4, 5, 1, 2}};

static l2l_context *context;
static unsigned cpus[8];
static int n_cpus, table, small;

/* -- numbers ---------------------------------------------------------------------------------- */

static uint32_t next(uint32_t *state)
{
    return *state = *state * 1664525u + 1013904223u;
}

/* N(0,1), drawn from a store of 65,536 such numbers. */
static double normal(uint32_t *state)
{
    static double store[65536];
    static int filled;
    for (; filled < 65536; filled++) {
        double r = sqrt(-2 * log(((double)(next(state) >> 8) + 0.5) / 16777216));
        store[filled] = r * cos(6.283185307179586 * (double)(next(state) >> 8) / 16777216);
    }
    return store[next(state) >> 16];
}

/* Normal numbers of this deviation; half of them cut to 0 as behind a ReLU. */
static void fill(l2l_tensor *t, uint32_t seed, double deviation, int relu)
{
    int64_t i, n = t ? l2l_count(t->shape) : 0;
    uint32_t state = seed * 2654435761u + 1u;
    for (i = 0; i < n; i++) {
        double v = deviation * normal(&state);
        t->data[i] = (l2l_real)(relu && v < 0 ? 0 : v);
    }
}

static l2l_tensor *made(l2l_shape s, uint32_t seed, double deviation, int relu)
{
    l2l_tensor *t = l2l_zeros(context, s);
    fill(t, seed, deviation, relu);
    return t;
}

static l2l_shape output_of(const layer *q)
{
    return l2l_shape_of(q->n, (q->h + 2 * q->padding - q->kernel) / q->stride + 1,
                        (q->w + 2 * q->padding - q->kernel) / q->stride + 1, q->k);
}

/* What a layer works on: images, Kaiming weights and a cotangent. */
typedef struct operands {
    l2l_tensor *x, *w, *dy;
} operands;

static operands operands_of(const layer *q, uint32_t seed, int relu)
{
    operands o;
    o.x = made(l2l_shape_of(q->n, q->h, q->w, q->c), seed, 1, relu);
    o.w = made(l2l_shape_of(q->kernel, q->kernel, q->c, q->k), seed + 1,
               sqrt(2.0 / (q->kernel * q->kernel * q->c)), 0);
    o.dy = made(output_of(q), seed + 2, 1, 0);
    return o;
}

enum { FORWARD, INPUT, WEIGHT };
static const char *const directions[] = {"forward", "input", "weight"};

/* Not pooled it may go another way. */
static l2l_conv_options geometry_of(const layer *q, bool pool)
{
    l2l_conv_options options = l2l_conv_default();
    options.stride = q->stride;
    options.padding = q->padding;
    options.pool = pool;
    options.unpooled = (q->stride == 2 || q->k <= 4) && !pool;
    return options;
}

static l2l_tensor *run(const layer *q, const operands *o, int direction)
{
    const l2l_conv_options options = geometry_of(q, false);
    if (!o->x || !o->w || !o->dy) return NULL;
    if (direction == FORWARD) return l2l_conv(context, o->x, o->w, &options);
    if (direction == INPUT)
        return l2l_conv_input_grad(context, o->dy, o->w, o->x->shape, q->stride, q->padding);
    return l2l_conv_weight_grad(context, o->x, o->dy, o->w->shape, q->stride, q->padding);
}

/* Naive loops in plain C are slow: they skip what is large. The limit of --small leaves shapes of
   every way. */
static int affordable(const layer *q, unsigned cpu)
{
    double work = (double)l2l_count(output_of(q)) * q->kernel * q->kernel * q->c;
    return work < (cpu == L2L_CPU_PLAIN ? 4e6 : small ? 2.1e8 : HUGE_VAL);
}

static void use(unsigned cpu, int threads)
{
    l2l_set_cpu(context, cpu);
    l2l_set_threads(context, threads);
}

/* -- the reference: one number of each result, in double --------------------------------------- */

static double one_output(const layer *q, const operands *o, int64_t at)
{
    l2l_shape s = o->dy->shape;
    int k = (int)(at % s.c), x = (int)(at / s.c % s.w), y = (int)(at / s.c / s.w % s.h);
    int64_t n = at / s.c / s.w / s.h;
    double sum = 0;
    int i, j, c;
    for (i = 0; i < q->kernel; i++)
        for (j = 0; j < q->kernel; j++) {
            int h = y * q->stride + i - q->padding, w = x * q->stride + j - q->padding;
            const l2l_real *from, *by = o->w->data + (int64_t)(i * q->kernel + j) * q->c * q->k + k;
            if (h < 0 || h >= q->h || w < 0 || w >= q->w) continue;
            from = o->x->data + ((n * q->h + h) * q->w + w) * q->c;
            for (c = 0; c < q->c; c++) sum += (double)from[c] * (double)by[(int64_t)c * q->k];
        }
    return sum;
}

static double one_input(const layer *q, const operands *o, int64_t at)
{
    l2l_shape s = o->dy->shape;
    int c = (int)(at % q->c), w = (int)(at / q->c % q->w), h = (int)(at / q->c / q->w % q->h);
    int64_t n = at / q->c / q->w / q->h;
    double sum = 0;
    int i, j, k;
    for (i = 0; i < q->kernel; i++)
        for (j = 0; j < q->kernel; j++) {
            int y = h + q->padding - i, x = w + q->padding - j;
            const l2l_real *from, *by;
            if (y < 0 || x < 0 || y % q->stride || x % q->stride) continue;
            y /= q->stride;
            x /= q->stride;
            if (y >= s.h || x >= s.w) continue;
            from = o->dy->data + ((n * s.h + y) * s.w + x) * s.c;
            by = o->w->data + ((int64_t)(i * q->kernel + j) * q->c + c) * q->k;
            for (k = 0; k < q->k; k++) sum += (double)from[k] * (double)by[k];
        }
    return sum;
}

static double one_weight(const layer *q, const operands *o, int64_t at)
{
    l2l_shape s = o->dy->shape;
    int k = (int)(at % q->k), c = (int)(at / q->k % q->c);
    int j = (int)(at / q->k / q->c % q->kernel), i = (int)(at / q->k / q->c / q->kernel);
    double sum = 0;
    int n, y, x;
    for (n = 0; n < q->n; n++)
        for (y = 0; y < s.h; y++)
            for (x = 0; x < s.w; x++) {
                int h = y * q->stride + i - q->padding, w = x * q->stride + j - q->padding;
                if (h < 0 || h >= q->h || w < 0 || w >= q->w) continue;
                sum += (double)o->x->data[(((int64_t)n * q->h + h) * q->w + w) * q->c + c] *
                       (double)o->dy->data[(((int64_t)n * s.h + y) * s.w + x) * s.c + k];
            }
    return sum;
}

/* The reference in up to this many places: all, or spread by a step that shares no factor with the
   axes, so that every border, channel and tap has its turn. */
typedef struct reference {
    int count;
    int64_t *at;
    double *value;
} reference;

static reference reference_of(const layer *q, const operands *o, int direction)
{
    l2l_shape s = direction == FORWARD ? o->dy->shape : direction == INPUT ? o->x->shape
                                                                           : o->w->shape;
    int64_t n = l2l_count(s), most = direction == WEIGHT ? 600 : 2000, i;
    reference r;
    r.count = (int)(n < most ? n : most);
    r.at = (int64_t *)test_memory((size_t)r.count * sizeof *r.at);
    r.value = (double *)test_memory((size_t)r.count * sizeof *r.value);
    for (i = 0; i < r.count; i++) {
        r.at[i] = n <= most ? i : (i * 1000003 + i / 3) % n;
        r.value[i] = direction == FORWARD ? one_output(q, o, r.at[i])
                   : direction == INPUT   ? one_input(q, o, r.at[i])
                                          : one_weight(q, o, r.at[i]);
    }
    return r;
}

/* Largest and root mean square error over the largest magnitude of the whole result. Whatever is
   not a number comes out as an error of infinity. */
static void errors_of(const reference *r, const l2l_tensor *t, double *most, double *rms)
{
    int64_t i, n = l2l_count(t->shape);
    double largest = 0, square = 0;
    *most = 0;
    for (i = 0; i < n; i++)
        if (fabs((double)t->data[i]) > largest) largest = fabs((double)t->data[i]);
    for (i = 0; i < r->count; i++) {
        double off = fabs((double)t->data[r->at[i]] - r->value[i]);
        if (!(off <= *most)) *most = off - off == 0 ? off : HUGE_VAL;
        square += off * off;
    }
    *most /= largest;
    *rms = sqrt(square / r->count) / largest;
}

/* -- claims ------------------------------------------------------------------------------------ */

static double worst[8][3][2]; /* by instruction set, direction; largest and rms error */

static void check_errors(const layer *q, int cpu, int threads, int direction, const reference *r,
                         const l2l_tensor *t)
{
    double most, rms, *w = worst[cpu][direction];
    char what[128];
    errors_of(r, t, &most, &rms);
    if (most > w[0]) w[0] = most;
    if (rms > w[1]) w[1] = rms;
    sprintf(what, "%dx%dx%dx%d to %d, %dx%d/%d+%d, cpu %u, %d threads, %s", q->n, q->h, q->w, q->c,
            q->k, q->kernel, q->kernel, q->stride, q->padding, l2l_cpu(context), threads,
            directions[direction]);
    if (table && threads == 1) printf("%-60s max %.2g rms %.2g\n", what, most, rms);
    /* Measured: 4e-6 and 4e-7 (Winograd), 1.4e-6 and 3e-7 (the others); weights up to 9e-6, of
       either way, where tens of thousands of pixels are summed in float. */
    test_reals(__FILE__, __LINE__, what, 0, most, 1e-5);
    if (direction != WEIGHT) test_reals(__FILE__, __LINE__, what, 0, rms, 2e-6);
}

static void accuracy_of(const layer *q, uint32_t seed, int relu)
{
    l2l_mark mark = l2l_mark_here(context);
    operands o = operands_of(q, seed, relu);
    static const int threads[] = {1, 2, 6}; /* from 5 on, tiles of large layers are shared */
    int direction, i, j;
    for (direction = FORWARD; direction <= WEIGHT; direction++) {
        reference r = reference_of(q, &o, direction);
        for (i = 0; i < n_cpus; i++) {
            l2l_tensor *first = NULL, *t;
            if (!affordable(q, cpus[i])) continue;
            for (j = 0; j < COUNT(threads); j++) {
                use(cpus[i], threads[j]);
                t = run(q, &o, direction);
                if (!CHECK(t != NULL)) break;
                check_errors(q, i, threads[j], direction, &r, t);
                if (j == 0) {
                    first = t;
                } else {
                    CHECK_BYTES(first->data, t->data,
                                (size_t)l2l_count(t->shape) * sizeof(l2l_real));
                    l2l_drop(context, t);
                }
            }
            l2l_drop(context, first);
        }
        free(r.at);
        free(r.value);
    }
    CHECK_OK(context);
    l2l_release(context, mark);
}

static void accuracy(void)
{
    int i, j;
    for (i = 0; i < COUNT(layers); i++) accuracy_of(&layers[i], 100 * (uint32_t)i, i % 2);
    for (i = 0; table && i < n_cpus; i++)
        for (j = 0; j < 3; j++) {
            l2l_set_cpu(context, cpus[i]);
            printf("worst: cpu %u, %s: max %.2g rms %.2g\n", l2l_cpu(context), directions[j],
                   worst[i][j][0], worst[i][j][1]);
        }
}

static double dot(const l2l_tensor *a, const l2l_tensor *b)
{
    double sum = 0;
    int64_t i, n = l2l_count(a->shape);
    for (i = 0; i < n; i++) sum += (double)a->data[i] * (double)b->data[i];
    return sum;
}

/* <conv(x),dy> = <x,input gradient> = <w,weight gradient>. Two random directions are nearly
   orthogonal; so that the product is not made of rounding alone, dy is conv(x) itself. */
static void adjointness(void)
{
    int i, j;
    for (i = 0; i < COUNT(layers); i++)
        for (j = 0; j < n_cpus; j++) {
            l2l_mark mark = l2l_mark_here(context);
            const layer *q = &layers[i];
            operands o;
            l2l_tensor *y, *dx, *dw;
            if (!affordable(q, cpus[j])) continue;
            use(cpus[j], 1);
            o = operands_of(q, 7000 + (uint32_t)i, 0);
            y = run(q, &o, FORWARD);
            o.dy = y;
            dx = run(q, &o, INPUT);
            dw = run(q, &o, WEIGHT);
            if (CHECK(y && dx && dw)) {
                double a = dot(y, o.dy);
                CHECK_NEAR(a, dot(o.x, dx), 2e-6 * a);
                CHECK_NEAR(a, dot(o.w, dw), 2e-6 * a);
            }
            CHECK_OK(context);
            l2l_release(context, mark);
        }
}

/* Image i of a tensor as a batch of its own. */
static l2l_tensor *image(const l2l_tensor *t, int i)
{
    l2l_shape s = l2l_shape_of(1, t->shape.h, t->shape.w, t->shape.c);
    l2l_tensor *one = l2l_zeros(context, s);
    size_t n = (size_t)l2l_count(s);
    if (one) memcpy(one->data, t->data + (size_t)i * n, n * sizeof *one->data);
    return one;
}

static int same_image(const l2l_tensor *a, int i, const l2l_tensor *b, int j)
{
    size_t n = (size_t)l2l_count(a->shape) / (size_t)a->shape.n;
    return CHECK_BYTES(a->data + (size_t)i * n, b->data + (size_t)j * n, n * sizeof *a->data);
}

/* The same images in the batch, alone, and by two threads: the same bits. */
static void shrink(l2l_tensor *t, l2l_real by)
{
    int64_t i, n = l2l_count(t->shape);
    for (i = 0; i < n; i++) t->data[i] *= by;
}

/* tiny: products underflow, so that sums are zeros of either sign. */
static void any_batch_of(const layer *shape, bool tiny)
{
    int i, j, direction;
    for (j = 0; j < n_cpus; j++)
        for (direction = FORWARD; direction <= INPUT; direction++) {
            l2l_mark mark = l2l_mark_here(context);
            layer q = *shape;
            operands o, one;
            l2l_tensor *all, *alone;
            if (!affordable(&q, cpus[j])) continue;
            use(cpus[j], 2);
            o = one = operands_of(&q, 8000, 0);
            if (tiny) {
                shrink(o.x, (l2l_real)1e-37);
                shrink(o.dy, (l2l_real)1e-37);
                shrink(o.w, (l2l_real)1e-9);
            }
            all = run(&q, &o, direction);
            use(cpus[j], 1);
            for (i = 0; i < q.n && all; i++) {
                one.x = image(o.x, i);
                one.dy = image(o.dy, i);
                alone = run(&q, &one, direction);
                if (!CHECK(alone != NULL) || !same_image(all, i, alone, 0)) break;
            }
            CHECK_OK(context);
            l2l_release(context, mark);
        }
}

/* Shapes of each way: F(4x4) kept, F(5x5) kept, F(2x2) kept, on the way (F4, F5, F2), direct,
   at stride 2 kept, gathered, 1x1, turned round, place by place, direct, at stride 2 kept, planes of
   2x2 kept and on the way, direct, at stride 2 on the way. */
static const layer ways[] = {
    {5, 8, 7, 24, 48, 3, 1, 1},   {5, 10, 10, 32, 64, 3, 1, 1}, {5, 7, 9, 24, 48, 3, 1, 0},
    {5, 6, 6, 64, 64, 3, 1, 1},   {5, 8, 8, 256, 272, 3, 1, 1}, {5, 5, 5, 256, 272, 3, 1, 1},
    {5, 6, 6, 256, 272, 3, 1, 1}, {5, 9, 9, 20, 24, 3, 1, 1},   {5, 9, 9, 32, 24, 3, 2, 1},
    {5, 12, 12, 3, 24, 7, 2, 3},  {5, 6, 6, 48, 24, 1, 1, 0},   {5, 9, 7, 32, 3, 3, 1, 1},
    {25, 2, 3, 160, 320, 3, 1, 1}, {9, 7, 7, 136, 40, 3, 2, 0}, {5, 12, 11, 32, 48, 3, 2, 1},
    {7, 2, 2, 64, 48, 3, 1, 1},   {25, 2, 2, 160, 320, 3, 1, 1},
    {5, 9, 9, 32, 24, 3, 2, 0},   {5, 14, 12, 256, 144, 3, 2, 1}};

static void any_batch(void)
{
    static const layer large = {5, 30, 30, 256, 272, 3, 1, 1}; /* 64 tiles an image, 128 at once */
    int i;
    for (i = 0; i < COUNT(ways); i++) {
        any_batch_of(&ways[i], false);
        any_batch_of(&ways[i], true);
    }
    any_batch_of(&large, false);
}

/* -- the epilogue ------------------------------------------------------------------------------ */

/* The bare convolution of the same instruction set, finished in double: 2x2 maxima if pooled. */
static double finished(const l2l_tensor *bare, const l2l_conv_options *o, int64_t at)
{
    int k = (int)(at % bare->shape.c);
    double v = (double)bare->data[at];
    if (o->scale) v *= (double)o->scale->data[k];
    if (o->bias) v += (double)o->bias->data[k];
    if (o->residual) v += (double)o->residual->data[at];
    return o->relu && v < 0 ? 0 : v;
}

static void check_finished(const l2l_tensor *bare, const l2l_conv_options *o, const l2l_tensor *y)
{
    l2l_shape s = bare->shape, t = y->shape;
    int64_t at, n = l2l_count(t);
    int step = o->pool ? 2 : 1, i, j;
    CHECK_INT(s.h / step, t.h);
    CHECK_INT(s.w / step, t.w);
    for (at = 0; at < n; at++) {
        int k = (int)(at % t.c), x = (int)(at / t.c % t.w) * step;
        int h = (int)(at / t.c / t.w % t.h) * step;
        int64_t image = at / t.c / t.w / t.h;
        double most = -HUGE_VAL, v;
        for (i = 0; i < step; i++)
            for (j = 0; j < step; j++) {
                v = finished(bare, o, ((image * s.h + h + i) * s.w + x + j) * s.c + k);
                if (v > most) most = v;
            }
        if (!CHECK_NEAR(most, y->data[at], 4e-6 + 1e-6 * fabs(most))) return;
    }
}

static void epilogue_of(const layer *q)
{
    int i, set;
    for (i = 0; i < n_cpus; i++) {
        l2l_mark mark = l2l_mark_here(context);
        operands o;
        l2l_tensor *bare[2], *bias, *scale, *residual;
        l2l_conv_options direct = l2l_conv_default();
        if (!affordable(q, cpus[i])) continue;
        use(cpus[i], 2);
        o = operands_of(q, 9000, 1);
        bias = made(l2l_shape_of(1, 1, 1, q->k), 1, 1, 0);
        scale = made(l2l_shape_of(1, 1, 1, q->k), 2, 1, 0);
        residual = made(output_of(q), 3, 1, 0);
        direct.stride = q->stride;
        direct.padding = q->padding;
        bare[0] = run(q, &o, FORWARD);
        bare[1] = l2l_conv(context, o.x, o.w, &direct);
        if (!CHECK(bare[0] && bare[1] && bias && scale && residual)) return;
        for (set = 0; set < 32; set++) {
            l2l_mark inner = l2l_mark_here(context);
            const int pool = set >> 4 & 1;
            l2l_conv_options options = geometry_of(q, pool != 0);
            l2l_tensor *y;
            options.bias = set & 1 ? bias : NULL;
            options.scale = set & 2 ? scale : NULL;
            options.residual = set & 4 ? residual : NULL;
            options.relu = (set & 8) != 0;
            if (pool && (bare[0]->shape.h < 2 || bare[0]->shape.w < 2)) continue;
            y = l2l_conv(context, o.x, o.w, &options);
            if (CHECK(y != NULL)) check_finished(bare[pool], &options, y);
            l2l_release(context, inner);
        }
        CHECK_OK(context);
        direct.pool = direct.unpooled = true;
        CHECK(!l2l_conv(context, o.x, o.w, &direct));
        CHECK_ERROR(context, L2L_ERROR_ARGUMENT, "both pool and unpooled");
        l2l_release(context, mark);
    }
}

static void epilogue(void)
{
    int i;
    for (i = 0; i < COUNT(ways); i++) {
        layer q = ways[i];
        q.n = 2;
        epilogue_of(&q);
    }
}

/* -- not a number ------------------------------------------------------------------------------ */

static void keeps_to_itself(const layer *q, double poison)
{
    int i, direction;
    for (i = 0; i < n_cpus; i++)
        for (direction = FORWARD; direction <= INPUT; direction++) {
            l2l_mark mark = l2l_mark_here(context);
            operands o;
            l2l_tensor *clean, *dirty, *in;
            int64_t j, size;
            if (!affordable(q, cpus[i])) continue;
            use(cpus[i], 2);
            o = operands_of(q, 9100, 0);
            clean = run(q, &o, direction);
            in = direction == FORWARD ? o.x : o.dy;
            size = l2l_count(in->shape) / q->n;
            for (j = 2 * size; j < 3 * size; j++) in->data[j] = (l2l_real)poison;
            dirty = run(q, &o, direction);
            if (CHECK(clean && dirty)) {
                int seen = 1, n;
                for (n = 0; n < q->n; n++)
                    if (n != 2) same_image(clean, n, dirty, n);
                size = l2l_count(dirty->shape) / q->n;
                for (j = 2 * size; j < 3 * size; j++)
                    if (dirty->data[j] - dirty->data[j] == 0) seen = 0;
                /* a stride may leave pixels out, whose gradient is 0 */
                if (q->stride == 1 || direction == FORWARD) CHECK(seen);
            }
            CHECK_OK(context);
            l2l_release(context, mark);
        }
}

static void not_a_number(void)
{
    int i;
    for (i = 0; i < COUNT(ways); i++) {
        keeps_to_itself(&ways[i], HUGE_VAL - HUGE_VAL);
        keeps_to_itself(&ways[i], HUGE_VAL);
    }
}

/* -- cached transforms ------------------------------------------------------------------------- */

static l2l_tensor *layer_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    const layer *q = (const layer *)user;
    x = l2l_layer_conv(m, "conv", x, q->k, q->kernel, q->stride, q->padding, L2L_NO_BIAS);
    x = l2l_global_average_pool(l2l_model_context(m), x);
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

static l2l_model *layer_model(l2l_context *c, layer *q, uint64_t seed)
{
    l2l_model_options o = own_options("layer", layer_forward, q->c, q->h, 10);
    o.width = q->w;
    o.user = q;
    o.seed = seed;
    o.last_layer_deviation = 1;
    return l2l_model_create(c, &o);
}

/* The model's weight as an operand: it carries the cached transforms. */
static l2l_tensor *weight_of(const l2l_model *m)
{
    union { const l2l_tensor *seen; l2l_tensor *used; } p;
    p.seen = l2l_model_parameter(m, 0).value;
    return p.used;
}

/* Both directions through the model's weight must be what a bare copy of its numbers gives. */
static void check_fresh(const layer *q, const l2l_model *m)
{
    l2l_mark mark = l2l_mark_here(context);
    operands o = operands_of(q, 9200, 0), bare = o;
    l2l_tensor *cached, *fresh;
    int direction;
    o.w = weight_of(m);
    memcpy(bare.w->data, o.w->data, (size_t)l2l_count(o.w->shape) * sizeof(l2l_real));
    for (direction = FORWARD; direction <= INPUT; direction++) {
        cached = run(q, &o, direction);
        fresh = run(q, &bare, direction);
        if (CHECK(cached && fresh))
            CHECK_BYTES(fresh->data, cached->data,
                        (size_t)l2l_count(fresh->shape) * sizeof(l2l_real));
    }
    CHECK_OK(context);
    l2l_release(context, mark);
}

static void train_once(l2l_model *m, const layer *q)
{
    l2l_train_options o = l2l_train_default();
    int64_t n = (int64_t)q->n * q->c * q->h * q->w;
    l2l_real *images = test_array(n);
    int labels[32], i;
    l2l_dataset data;
    l2l_trainer *t;
    l2l_progress p;
    golden_fill(images, n, 5, 0, 1);
    for (i = 0; i < 32; i++) labels[i] = i % 10;
    l2l_dataset_from_arrays(context, images, labels, q->n, q->c, q->h, q->w, 10, &data);
    o.method = l2l_method_plain();
    o.batch = q->n;
    o.optimizer = l2l_sgd_default();
    t = l2l_trainer_create(m, &data, &o);
    CHECK(t && l2l_train_step(t, images, labels, q->n, &p));
    l2l_trainer_free(t);
    l2l_dataset_free(&data);
    free(images);
}

static void stale_of(const layer *shape)
{
    layer q = *shape, other;
    l2l_model *m = layer_model(context, &q, 1), *n = layer_model(context, &q, 2);
    l2l_real *v;
    int i;
    if (CHECK(m && n)) {
        use(L2L_CPU_DETECT, 1);
        check_fresh(&q, m);
        check_fresh(&q, m);                  /* now from the cache */
        v = test_array(l2l_count(weight_of(n)->shape));
        l2l_parameter_get(n, 0, v);
        CHECK(l2l_parameter_set(m, 0, v));
        CHECK_BYTES(weight_of(n)->data, weight_of(m)->data,
                    (size_t)l2l_count(weight_of(n)->shape) * sizeof(l2l_real));
        check_fresh(&q, m);
        free(v);
        train_once(m, &q);
        CHECK(memcmp(weight_of(n)->data, weight_of(m)->data,
                     (size_t)l2l_count(weight_of(n)->shape) * sizeof(l2l_real)) != 0);
        check_fresh(&q, m);
        CHECK(l2l_model_copy(m, n));
        check_fresh(&q, m);
        for (i = 0; i < n_cpus; i++) {
            l2l_set_cpu(context, cpus[i]);
            if (affordable(&q, cpus[i])) check_fresh(&q, m);
        }
        other = q;                           /* another plane may go another way */
        other.h = other.w = q.kernel == 3 ? 4 : q.h + 1;
        check_fresh(&other, m);
        check_fresh(&q, m);
        other.h = other.w = q.kernel == 3 ? 3 : q.h + 2;
        check_fresh(&other, m);
        check_fresh(&q, m);
    }
    CHECK_OK(context);
    l2l_model_free(n);
    l2l_model_free(m);
}

static void stale(void)
{
    int i;
    for (i = 0; i < COUNT(ways); i++) stale_of(&ways[i]);
}

/* -- out of memory ----------------------------------------------------------------------------- */

static int refuse; /* every request to the allocator */

static void *meagre_allocate(void *user, size_t size)
{
    (void)user;
    return refuse ? NULL : malloc(size ? size : 1);
}
static void meagre_release(void *user, void *p)
{
    (void)user;
    free(p);
}

/* One convolution with a new weight in an arena that has `room` blocks of 8,192 numbers left and
   cannot grow. False: the room was enough. */
static int cramped(const layer *q, l2l_model *m, const l2l_real *numbers, int room, int direction)
{
    enum { MOST = 4096, BLOCK = 8192 };
    static l2l_tensor *filler[MOST];
    l2l_mark mark = l2l_mark_here(context);
    operands o = operands_of(q, 9300, 0);
    int n, failed;
    o.w = weight_of(m);
    CHECK(l2l_parameter_set(m, 0, numbers));
    refuse = 1;
    for (n = 0; n < MOST; n++)
        if (!(filler[n] = l2l_zeros(context, l2l_shape_of(1, 1, 1, BLOCK)))) break;
    l2l_error_clear(context);
    while (room-- && n) l2l_drop(context, filler[--n]);
    failed = !run(q, &o, direction);
    refuse = 0;
    CHECK_INT(failed ? L2L_ERROR_MEMORY : L2L_OK, l2l_error(context));
    l2l_error_clear(context);
    l2l_release(context, mark);
    return failed && n;
}

/* A convolution runs out of memory, wherever that may be; called again with memory it is right: no
   cache passes for filled that was only reserved. */
static void after_failure(const layer *shape, int direction)
{
    l2l_context *common = context;
    l2l_options options = l2l_options_default();
    layer q = *shape;
    l2l_model *m, *n;
    int room, failed = 1;
    options.threads = 1;
    options.allocator.allocate = meagre_allocate;
    options.allocator.release = meagre_release;
    context = l2l_context_create(&options);
    m = layer_model(context, &q, 3);
    n = layer_model(context, &q, 4);
    if (CHECK(m && n)) {
        int64_t size = l2l_count(weight_of(m)->shape);
        l2l_real *v[2];
        v[0] = test_array(size);
        v[1] = test_array(size);
        l2l_parameter_get(m, 0, v[0]);
        l2l_parameter_get(n, 0, v[1]);
        for (room = 0; failed; room++) {
            check_fresh(&q, m);
            failed = cramped(&q, m, v[~room & 1], room, direction);
        }
        if (table) printf("enough room: %d blocks\n", room - 1);
        check_fresh(&q, m);
        free(v[1]);
        free(v[0]);
    }
    l2l_model_free(n);
    l2l_model_free(m);
    l2l_context_free(context);
    context = common;
}

static void out_of_memory(void)
{
    int i, direction;
    for (i = 0; i < COUNT(ways); i++)
        for (direction = FORWARD; direction <= INPUT; direction++)
            after_failure(&ways[i], direction);
}

static l2l_tensor *strides_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 24, 3, 1, 1, 0);
    return l2l_layer_linear(m, "fc", x, 3, L2L_LAST);
}

/* A model whose first parameter is the weight w, and a copy of w that is no parameter: `bare`. */
static l2l_model *weight_model(l2l_context *c, l2l_forward forward, int channels, l2l_tensor **w,
                               l2l_tensor **bare)
{
    l2l_model_options o = l2l_model_default("weight");
    l2l_model *m;
    o.forward = forward;
    o.channels = channels;
    o.height = o.width = 8;
    o.classes = 3;
    m = l2l_model_create(c, &o);
    *w = l2l_model_parameter(m, 0).value;
    *bare = l2l_zeros(c, (*w)->shape);
    memcpy((*bare)->data, (*w)->data, (size_t)l2l_count((*w)->shape) * sizeof *(*w)->data);
    return m;
}

/* Which order the cached taps stand in depends on the stride. */
static void two_strides(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *w, *bare, *dy, *a, *b;
    l2l_model *m = weight_model(c, strides_forward, 12, &w, &bare);
    int stride;
    for (stride = 2; stride > 0; stride--) {
        dy = seeded(c, 1, 24, 8 / stride, 8 / stride, 5, -1, 1);
        a = l2l_conv_input_grad(c, dy, w, l2l_shape_of(1, 8, 8, 12), stride, 1);
        b = l2l_conv_input_grad(c, dy, bare, l2l_shape_of(1, 8, 8, 12), stride, 1);
        if (CHECK(a && b)) CHECK_BYTES(b->data, a->data, 768 * sizeof(l2l_real));
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* The same numbers as a weight of another shape, one call after the other: each as by a weight that
   is no parameter, and so has no cache. */
static l2l_tensor *shapes_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    l2l_layer_parameter(m, "w", l2l_shape_of(1, 2, 32, 64), 4, true, 1, 0);
    return l2l_layer_linear(m, "last", l2l_global_average_pool(l2l_model_context(m), x), 3, L2L_LAST);
}

static void two_shapes(void)
{
    static const int shapes[][4] = {{1, 1, 32, 128}, {1, 2, 32, 64}, {1, 4, 32, 32}, {2, 1, 32, 64},
                                    {1, 1, 64, 64},  {1, 1, 128, 32}, {2, 2, 16, 64}, {1, 2, 64, 32}};
    int cpu, i;
    for (cpu = 0; cpu < n_cpus; cpu++) {
        l2l_context *c = test_context(1);
        l2l_tensor *w, *bare;
        l2l_model *m;
        l2l_set_cpu(c, cpus[cpu]);
        m = weight_model(c, shapes_forward, 4, &w, &bare);
        for (i = 0; i < 4 * COUNT(shapes); i++) { /* by two, forward and back, planes of one line, too */
            const int *k = shapes[i * 5 / 2 % COUNT(shapes)];
            const l2l_shape s = l2l_shape_of(k[0], k[1], k[2], k[3]);
            int high = i % 3 ? 5 : k[0], wide = i % 2 ? 6 : k[1];
            l2l_tensor *x = seeded(c, 2, k[2], high, wide, 7, -1, 1), *a, *b;
            a = l2l_conv(c, x, l2l_reshape(c, w, s), NULL);
            b = l2l_conv(c, x, l2l_reshape(c, bare, s), NULL);
            if (!CHECK(a && b)) { CHECK_OK(c); continue; }
            CHECK_BYTES(b->data, a->data, (size_t)l2l_count(a->shape) * sizeof *a->data);
            x = seeded(c, 2, k[3], a->shape.h, a->shape.w, 8, -1, 1);
            a = l2l_conv_input_grad(c, x, l2l_reshape(c, w, s), l2l_shape_of(2, high, wide, k[2]), 1, 0);
            b = l2l_conv_input_grad(c, x, l2l_reshape(c, bare, s), l2l_shape_of(2, high, wide, k[2]), 1, 0);
            if (CHECK(a && b)) CHECK_BYTES(b->data, a->data, (size_t)l2l_count(a->shape) * sizeof *a->data);
        }
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* A stride far beyond the kernel, whose square is no int. */
static void huge_stride(void)
{
    l2l_context *c = test_context(1);
    const int wide = 140001, stride = 70000;
    l2l_tensor *w = seeded(c, 6, 5, 1, 2, 3, -1, 1), *k, *x, *y, *dy, *dx;
    double expected = 0;
    int i, j;
    k = l2l_zeros(c, l2l_shape_of(1, 2, 5, 6)); /* w is 6x1x2x5; k 1x2x5x6 */
    for (i = 0; i < 6; i++)
        for (j = 0; j < 10; j++) k->data[j * 6 + i] = w->data[i * 10 + j];
    x = seeded(c, 1, 5, 1, wide, 4, -1, 1);
    l2l_conv_options o = l2l_conv_default();
    o.stride = stride;
    y = l2l_conv(c, x, k, &o);
    if (!CHECK(y && y->shape.w == 2)) { CHECK_OK(c); l2l_context_free(c); return; }
    dy = seeded(c, 1, 6, 1, 2, 5, -1, 1);
    dx = l2l_conv_input_grad(c, dy, k, x->shape, stride, 0);
    if (CHECK(dx)) {
        double inner = 0;
        for (i = 0; i < 12; i++) expected += (double)dy->data[i] * (double)y->data[i];
        for (i = 0; i < 5 * wide; i++) inner += (double)dx->data[i] * (double)x->data[i];
        CHECK_NEAR(expected, inner, 1e-4);
    }
    l2l_context_free(c);
}

int main(int argc, char **argv)
{
    table = argc > 1 && !strcmp(argv[1], "--table");
    small = argc > 1 && !strcmp(argv[1], "--small");
    context = test_context(2);
    n_cpus = test_cpus(context, cpus);
    RUN(accuracy, "every convolution is near one in double, in the same bits for 1, 2 and 6 threads");
    RUN(adjointness, "<conv(x),dy> = <x,input gradient> = <w,weight gradient>");
    RUN(any_batch, "an image has the same bits in any batch and for any number of threads");
    RUN(epilogue, "scale, bias, residual, relu and pool in all combinations, in every way");
    RUN(not_a_number, "what is not a number stays in its image, and is seen there");
    RUN(stale, "no cached transform outlives its weight or its instruction set");
    RUN(two_strides, "a weight may be used with one stride after another");
    RUN(two_shapes, "and in one shape after another");
    RUN(huge_stride, "a stride may be larger than the root of the largest int");
    if (!small) RUN(out_of_memory, "after a convolution that ran out of memory the next one is right");
    l2l_context_free(context);
    return test_end();
}
