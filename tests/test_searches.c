/* The searches: Carlini-Wagner, DeepFool, Square, Sign-OPT. Closed forms on linear models,
   PyTorch's distances on a convolutional one, models without gradients or without scores. */
#include "bench.h"

#include "../examples/autoattack.h"
#include "../examples/evaluation.h"

enum { SEARCHES = 6 };

static l2l_attack square_l2(double epsilon)
{
    l2l_attack a = l2l_attack_square(epsilon);
    a.norm = L2L_L2;
    return a;
}

static l2l_attack search(int k, double epsilon)
{
    return k == 0   ? l2l_attack_deepfool(epsilon)
           : k == 1 ? l2l_attack_deepfool_l2(epsilon)
           : k == 2 ? l2l_attack_cw_l2(epsilon)
           : k == 3 ? l2l_attack_square(epsilon)
           : k == 4 ? l2l_attack_sign_opt(epsilon)
                    : square_l2(epsilon);
}

/* -- a linear model behind callbacks, z = W x + b ---------------------------------------------- */

enum { MOST = 28 * 28 * 5, CLASSES = 5 };
typedef struct linear {
    int channels, height, width, size, classes;
    double w[MOST], b[CLASSES];
    int images, vjps, cancel_after;
    bool labels_only;
    void (*seen)(void *user, const l2l_real *x, int n);
    void *user;
} linear;

static linear *linear_new(int height, int width, int classes, uint32_t seed, double scale)
{
    linear *o = (linear *)test_memory(sizeof *o);
    l2l_real *w = test_array((int64_t)classes * height * width);
    int j;
    o->channels = 1;
    o->height = height;
    o->width = width;
    o->size = height * width;
    o->classes = classes;
    golden_fill(w, (int64_t)classes * o->size, seed, -scale, scale);
    for (j = 0; j < classes * o->size; j++) o->w[j] = (double)w[j];
    free(w);
    return o;
}

static double linear_score(const linear *o, const l2l_real *x, int k)
{
    double s = o->b[k];
    int j;
    for (j = 0; j < o->size; j++) s += o->w[k * o->size + j] * (double)x[j];
    return s;
}

static int linear_class(const linear *o, const l2l_real *x)
{
    int k, best = 0;
    for (k = 1; k < o->classes; k++)
        if ((l2l_real)linear_score(o, x, k) > (l2l_real)linear_score(o, x, best)) best = k;
    return best;
}

static bool linear_logits(void *user, const l2l_real *x, int n, l2l_real *z)
{
    linear *o = (linear *)user;
    int i, k;
    if (o->cancel_after && o->images >= o->cancel_after) return false;
    if (o->seen) o->seen(o->user, x, n);
    o->images += n;
    for (i = 0; i < n; i++)
        for (k = 0; k < o->classes; k++)
            z[i * o->classes + k] = (l2l_real)(
                o->labels_only ? k == linear_class(o, x + i * o->size)
                               : linear_score(o, x + i * o->size, k));
    return true;
}

static bool linear_vjp(void *user, const l2l_real *x, int n, const l2l_real *dz, l2l_real *dx)
{
    linear *o = (linear *)user;
    int i, j, k;
    (void)x;
    o->vjps += n;
    for (i = 0; i < n; i++)
        for (j = 0; j < o->size; j++) {
            double s = 0;
            for (k = 0; k < o->classes; k++)
                s += (double)dz[i * o->classes + k] * o->w[k * o->size + j];
            dx[i * o->size + j] = (l2l_real)s;
        }
    return true;
}

static l2l_model *linear_model(l2l_context *c, linear *o, int gradient)
{
    l2l_external e;
    memset(&e, 0, sizeof e);
    e.channels = o->channels;
    e.height = o->height;
    e.width = o->width;
    e.classes = o->classes;
    e.user = o;
    e.logits = linear_logits;
    if (gradient) e.vjp = linear_vjp;
    return l2l_model_external(c, &e);
}

/* -- images, and what came of them ------------------------------------------------------------- */

/* n images in [low,high), labelled as the model sees them. */
static void begin(bench *b, l2l_context *c, l2l_model *m, int n, double low, double high)
{
    bench_begin(b, c, m, n, 500);
    golden_fill(b->x, (int64_t)b->n * b->size, 500, low, high);
    bench_labels_right(b);
}

/* Runs and holds what is promised of every search: the record tells what the model says about the
   image that came back, and its norms; success is a wrong class (the target), no farther than
   epsilon; what is no success is the clean image, or in the ball. */
static bool checked_run(bench *b, const l2l_attack *a)
{
    l2l_real *z = test_array((int64_t)b->n * b->classes);
    int i, j, k, minimal = a->minimal;
    if (!bench_run(b, a)) {
        free(z);
        return false;
    }
    CHECK(l2l_model_logits(b->m, b->adv, b->n, z));
    for (i = 0; i < b->n; i++) {
        const l2l_record *r = &b->records[i];
        const l2l_real *row = z + i * b->classes;
        double linf = 0, l2 = 0, distance;
        int best = 0, reached;
        for (k = 1; k < b->classes; k++) if (row[k] > row[best]) best = k;
        for (j = i * b->size; j < (i + 1) * b->size; j++) {
            double d = (double)b->adv[j] - (double)b->x[j];
            if (!CHECK(b->adv[j] >= 0 && b->adv[j] <= 1)) break;
            linf = fmax(linf, fabs(d));
            l2 += d * d;
        }
        reached = a->targets ? best == a->targets[i] : best != b->labels[i];
        CHECK_INT(best, r->predicted);
        CHECK_INT(b->labels[i], r->label);
        CHECK_NEAR(linf, r->linf, 1e-6);
        CHECK_NEAR(sqrt(l2), r->l2, 1e-6 * (1 + sqrt(l2)));
        distance = a->norm == L2L_LINF ? r->linf : r->l2;
        CHECK_INT(reached && (!minimal || distance <= a->epsilon), r->success);
        if (minimal && !reached) CHECK(linf <= 0);
        if (!minimal) CHECK(distance <= a->epsilon + 1e-6);
    }
    free(z);
    return true;
}

/* -- tests ------------------------------------------------------------------------------------- */

static void defaults(void)
{
    l2l_attack a = l2l_attack_cw_l2(2);
    CHECK(a.norm == L2L_L2 && a.steps == 1000 && a.number[0] == 9);
    CHECK_NEAR(0.01, a.step_size, 0);
    CHECK_NEAR(1e-3, a.number[1], 0);
    CHECK_NEAR(0, a.objective.confidence, 0);
    CHECK_NEAR(2, a.epsilon, 0);
    a = l2l_attack_deepfool(0.1);
    CHECK(a.norm == L2L_LINF && a.steps == 50 && a.number[0] == 10);
    CHECK_NEAR(0.02, a.number[1], 0);
    CHECK(l2l_attack_deepfool_l2(1).norm == L2L_L2);
    a = l2l_attack_square(0.1);
    CHECK(a.norm == L2L_LINF && a.steps == 5000);
    CHECK_NEAR(0.8, a.number[0], 0);
    CHECK_TEXT("margin", a.objective.name);
    a = l2l_attack_sign_opt(1);
    CHECK(a.norm == L2L_L2 && a.steps == 5000 && a.number[0] == 100);
}

/* The boundary to class k lies |f|/|w|* away, f and w the differences of scores and weights. */
static double boundary(const linear *o, const l2l_real *x, int y, int k, l2l_norm norm)
{
    double f = linear_score(o, x, y) - linear_score(o, x, k), sum = 0;
    int j;
    for (j = 0; j < o->size; j++) {
        double w = o->w[k * o->size + j] - o->w[y * o->size + j];
        sum += norm == L2L_L2 ? w * w : fabs(w);
    }
    return f / (norm == L2L_L2 ? sqrt(sum) : sum);
}

/* Away from the borders of [0,1] one step suffices: 1.02 (d + 1e-4), to the nearest of all classes.
   The images are of all classes, the last too. With two candidates the only boundary looked at is
   that of the runner-up. */
static void deepfool_closed_form(void)
{
    int kind, classes, i, k, last = 0, differs = 0;
    for (kind = 0; kind < 2; kind++)
        for (classes = 2; classes <= 5; classes += 3) {
            bench b;
            l2l_context *c = test_context(2);
            linear *o = linear_new(5, 6, classes, 600, 1);
            l2l_attack a = search(kind, HUGE_VAL);
            begin(&b, c, linear_model(c, o, 1), 40, 0.45, 0.55);
            for (i = 0; i < classes; i++) o->b[i] = -linear_score(o, b.x, i); /* all are near     */
            for (i = 0; i < b.n; i++) b.labels[i] = linear_class(o, b.x + i * b.size);
            if (CHECK(checked_run(&b, &a)))
                for (i = 1; i < b.n; i++) {
                    const l2l_real *x = b.x + i * b.size;
                    int y = b.labels[i], nearest = -1, second = -1;
                    double d;
                    for (k = 0; k < classes; k++) {
                        if (k == y) continue;
                        if (nearest < 0 || boundary(o, x, y, k, a.norm) <
                                               boundary(o, x, y, nearest, a.norm)) nearest = k;
                        if (second < 0 || linear_score(o, x, k) > linear_score(o, x, second))
                            second = k;
                    }
                    last += y == classes - 1;
                    differs += nearest != second;
                    d = 1.02 * (boundary(o, x, y, nearest, a.norm) + 1e-4);
                    CHECK_NEAR(d, kind ? b.records[i].l2 : b.records[i].linf, 1e-5 * (1 + d));
                    CHECK(b.records[i].success);
                    CHECK_INT(nearest, b.records[i].predicted);
                    CHECK_INT(1, b.records[i].step);
                    CHECK_INT(3, b.records[i].forwards);
                    CHECK_INT(classes - 1, b.records[i].backwards);
                }
            a.number[0] = 2;
            if (CHECK(checked_run(&b, &a)))
                for (i = 1; i < b.n; i++) CHECK(b.records[i].backwards <= b.records[i].step);
            bench_end(&b);
            free(o);
        }
    CHECK(last > 10 && differs > 5);
}

/* The smallest |d|_2 with w.d >= f and x + d in [0,1]: d = clip(lambda w), lambda by bisection. */
static double nearest_in_box(const double *w, double f, const l2l_real *x, int n)
{
    double low = 0, high = 1e6, sum = 0, norm = 0;
    int j, t;
    for (t = 0; t < 200; t++) {
        double lambda = (low + high) / 2;
        for (j = 0, sum = 0, norm = 0; j < n; j++) {
            double d = fmin(fmax((double)x[j] + lambda * w[j], 0), 1) - (double)x[j];
            sum += w[j] * d;
            norm += d * d;
        }
        if (sum < f) low = lambda;
        else high = lambda;
    }
    return sqrt(norm);
}

/* Two classes: the nearest point beyond the boundary, or where the margin is the confidence, is
   known; a third of the pixels are at 0 or 1 and have to move. */
static void cw_closed_form(void)
{
    int kind, i, j;
    for (kind = 0; kind < 2; kind++) {
        bench b;
        l2l_context *c = test_context(2);
        linear *o = linear_new(5, 6, 2, 610, 1);
        l2l_attack a = l2l_attack_cw_l2(HUGE_VAL);
        double w[30];
        int stuck = 0, moved = 0;
        begin(&b, c, linear_model(c, o, 1), 12, -0.3, 1.3);
        for (j = 0; j < b.n * b.size; j++) {
            b.x[j] = b.x[j] < 0 ? 0 : b.x[j] > 1 ? 1 : b.x[j];
            stuck += b.x[j] <= 0 || b.x[j] >= 1;
        }
        CHECK(stuck > b.n * b.size / 4);
        for (i = 0; i < b.n; i++) b.labels[i] = linear_class(o, b.x + i * b.size);
        if (kind) a.objective.confidence = 1;
        if (CHECK(checked_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                const l2l_real *x = b.x + i * b.size;
                int y = b.labels[i];
                double f = linear_score(o, x, y) - linear_score(o, x, 1 - y) + kind, d;
                for (j = 0; j < b.size; j++) {
                    w[j] = o->w[(1 - y) * b.size + j] - o->w[y * b.size + j];
                    moved += (x[j] <= 0 || x[j] >= 1) &&
                             fabs((double)(b.adv[i * b.size + j] - x[j])) > 0.01;
                }
                d = nearest_in_box(w, f, x, b.size);
                CHECK(b.records[i].success);
                CHECK_NEAR(d, b.records[i].l2, 0.01 * d);
                CHECK(b.records[i].l2 >= d * (1 - 1e-5));
                CHECK(b.records[i].loss >= a.objective.confidence);
            }
        CHECK(moved > 20);
        bench_end(&b);
        free(o);
    }
}

/* PyTorch's distances on the smooth network, half of whose images have pixels at 0 and 1. */
static void golden_distances(void)
{
    static const double *golden[] = {golden_deepfool_linf, golden_deepfool_l2, golden_cw_l2,
                                     golden_cw_l2_confident, golden_cw_l2_targeted};
    int k, i, j, targets[8];
    for (k = 0; k < COUNT(golden); k++) {
        bench b;
        l2l_context *c = test_context(2);
        l2l_attack a = search(k < 2 ? k : 2, HUGE_VAL);
        double mean = 0, expected = 0, tolerance = k < 2 ? 1e-4 : 0.02;
        l2l_real *z = test_array(8 * 4);
        begin(&b, c, smooth_model(c), 8, 0, 1);
        golden_fill(b.x, 8 * 72, 14000, 0, 1);
        for (i = 0; i < 8 * 72; i++)
            if (i % 36 < 6) b.x[i] = b.x[i] > (l2l_real)0.5 ? 1 : 0;
        CHECK(l2l_model_logits(b.m, b.x, 8, z));
        for (i = 0; i < 8; i++) {
            for (j = b.labels[i] = 0; j < 4; j++)
                if (z[i * 4 + j] > z[i * 4 + b.labels[i]]) b.labels[i] = j;
            targets[i] = (b.labels[i] + 1) % 4;
        }
        if (k >= 2) a.steps = 300;
        if (k == 3) a.objective.confidence = 2;
        if (k == 4) a.targets = targets;
        if (CHECK(checked_run(&b, &a)))
            for (i = 0; i < 8; i++) {
                double d = k ? b.records[i].l2 : b.records[i].linf;
                CHECK_NEAR(golden[k][3 + i], d, tolerance * golden[k][3 + i]);
                mean += d / 8;
                expected += golden[k][3 + i] / 8;
            }
        CHECK_NEAR(expected, mean, 0.01 * expected);
        free(z);
        bench_end(&b);
    }
}

/* Square step by step, on one image of two classes and one channel, as the model above scores it: the
   best point and, for each query from 1 on, the window's number in `asked` (0: there is none). Windows
   that change nothing ask nothing. Returns the number of queries. */
static int square_twin(const linear *o, const l2l_attack *a, const l2l_real *x, int label,
                       uint32_t image, l2l_real *best, int *asked)
{
    static const int until[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 1000000};
    const int H = o->height, W = o->width, most = H < W ? H : W;
    l2l_real *z = test_array(o->size), loss = 0;
    int queries = 0, k = 0;
    for (int number = 0; number < a->steps; number++) {
        l2l_stream r = {a->seed, L2L_RANDOM_SEARCH, 0, image, (uint32_t)number + 1};
        bool changed = number == 0;
        while (number > until[k]) k++;
        int side = (int)floor(sqrt(0.8 / (1 << k) * H * W) + 0.5), top = 0, left = 0;
        side = side > most ? most : side < 1 ? 1 : side;
        if (number) {
            memcpy(z, best, (size_t)o->size * sizeof *z);
            top = (int)(l2l_random_uniform(&r, 0) * (H - side + 1));
            left = (int)(l2l_random_uniform(&r, 1) * (W - side + 1));
        }
        for (int j = 0; j < o->size; j++) {
            int h = j / W, w = j % W;
            bool up = l2l_random_bits(&r, number ? 2 : (uint32_t)w) & 1;
            double v = (double)x[j] + (up ? a->epsilon : -a->epsilon);
            if (number && (h < top || h >= top + side || w < left || w >= left + side)) continue;
            changed = changed || z[j] != (l2l_real)fmin(fmax(v, 0), 1);
            z[j] = (l2l_real)fmin(fmax(v, 0), 1);
        }
        if (!changed) continue;
        if (asked) asked[queries] = number;
        queries++;
        l2l_real margin = (l2l_real)linear_score(o, z, !label) - (l2l_real)linear_score(o, z, label);
        if (number && !(margin > loss)) continue;
        loss = margin;
        memcpy(best, z, (size_t)o->size * sizeof *z);
    }
    free(z);
    return queries;
}

/* Square on a linear model: margins rise to the corner of ball and range, epsilon |w|_1 where no
   border is near. The bias forbids a success, so the whole budget is spent. The twin ends there,
   too, by as many queries. */
static void square_closed_form(void)
{
    static const int heights[] = {5, 28, 20}, widths[] = {5, 20, 28};
    int kind, i, j;
    for (kind = 0; kind < 3; kind++) {
        const double epsilon = 0.1;
        bench b;
        l2l_context *c = test_context(2);
        linear *o = linear_new(heights[kind], widths[kind], 2, 620, kind ? 0.05 : 1);
        l2l_attack a = l2l_attack_square(epsilon);
        l2l_real *best = test_array(o->size);
        int queries = 0;
        for (j = 0; kind && j < 2 * o->size; j++) /* the same weight in blocks of 4x4             */
            o->w[j] = o->w[j - j / o->width % 4 * o->width - j % o->width % 4];
        begin(&b, c, linear_model(c, o, 0), 4, 0, 1);
        o->b[1] = 100;
        o->images = 0;
        for (i = 0; i < b.n; i++) b.labels[i] = 1;
        if (CHECK(checked_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                const l2l_real *x = b.x + i * b.size;
                double clean = linear_score(o, x, 0) - linear_score(o, x, 1), gain = 0;
                for (j = 0; j < b.size; j++) {
                    double w = o->w[j] - o->w[b.size + j], d = w > 0 ? epsilon : -epsilon;
                    gain += w * (fmin(fmax((double)x[j] + d, 0), 1) - (double)x[j]);
                }
                int asked = square_twin(o, &a, x, 1, (uint32_t)i, best, NULL);
                CHECK(asked > 2000 && asked < 5000);
                CHECK_INT(1 + asked, b.records[i].forwards);
                CHECK_BYTES(best, b.adv + i * b.size, (size_t)b.size * sizeof *best);
                queries += 1 + asked;
                CHECK_INT(0, b.records[i].backwards);
                CHECK(!b.records[i].success);
                CHECK(b.records[i].loss - clean <= gain * (1 + 1e-4));
                CHECK(b.records[i].loss - clean >= gain * (kind ? 0.97 : 0.999));
            }
        if (b.n) CHECK_INT(queries, o->images - b.n); /* bench_run asks once more                 */
        free(best);
        bench_end(&b);
        free(o);
    }
}

/* What Square asks a flat model, where no window is ever kept: each query differs from the first,
   the stripes, in a square of the schedule's side at most; the last row and column are reached
   by windows of one pixel. */
typedef struct windows {
    l2l_real first[28 * 28], best[28 * 28];
    int query, side[12], corners, asked[12000];
} windows;

static void windows_seen(void *user, const l2l_real *x, int n)
{
    static const int until[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 100000};
    windows *w = (windows *)user;
    int top = 28, bottom = -1, left = 28, right = -1, j, k = 0;
    CHECK_INT(1, n);
    if (w->query == 1) memcpy(w->first, x, sizeof w->first);
    for (j = 0; j < 28 * 28; j++) {
        if (fabs((double)(x[j] - w->first[j])) < 1e-6) continue;
        top = j / 28 < top ? j / 28 : top;
        bottom = j / 28 > bottom ? j / 28 : bottom;
        left = j % 28 < left ? j % 28 : left;
        right = j % 28 > right ? j % 28 : right;
    }
    if (w->query >= 1) {
        while (w->asked[w->query - 1] > until[k]) k++;
        if (bottom - top + 1 > w->side[k]) w->side[k] = bottom - top + 1;
        if (right - left + 1 > w->side[k]) w->side[k] = right - left + 1;
        w->corners += top == 27 && left == 27;
    }
    w->query++;
}

static void square_windows(void)
{
    static const int side[] = {25, 18, 13, 9, 6, 4, 3, 2, 2, 1};
    bench b;
    l2l_context *c = test_context(1);
    linear *o = linear_new(28, 28, 2, 630, 0);
    windows *w = (windows *)test_memory(sizeof *w);
    l2l_attack a = l2l_attack_square(0.1);
    int k, queries;
    begin(&b, c, linear_model(c, o, 0), 1, 0.2, 0.8);
    o->seen = windows_seen;
    o->user = w;
    b.labels[0] = 0; /* of two equal logits */
    a.steps = 12000;
    queries = square_twin(o, &a, b.x, 0, 0, w->best, w->asked);
    CHECK(l2l_attack_run(b.m, &a, b.x, b.labels, 1, b.adv, b.records));
    CHECK_INT(1 + queries, w->query);
    CHECK(queries > 6000 && queries < 12000);
    for (k = 0; k < COUNT(side); k++) CHECK_INT(side[k], w->side[k]);
    CHECK(w->corners >= 1);
    o->seen = NULL;
    bench_end(&b);
    free(w);
    free(o);
}

/* Square in l2 as its paper has it, step by step, with images C x H x W in double. eta: nested squares
   on either half, each 1/k^2, the halves of opposite signs. */
static void eta_twin(int side, bool turned, double *eta)
{
    double *upright = (double *)test_memory((size_t)(side * side) * sizeof *upright), sum = 0;
    for (int part = 0; part < 2; part++) {
        int top = part ? side / 2 : 0, h = part ? side - side / 2 : side / 2;
        int most = 1 + (h > side ? h : side) / 2;
        double norm = 0;
        for (int i = top * side; i < (top + h) * side; i++) upright[i] = 0;
        for (int k = 0; k < most; k++)
            for (int row = h / 2 - k; row <= h / 2 + k; row++)
                for (int column = side / 2 - k; column <= side / 2 + k; column++)
                    if (row >= 0 && row < h && column >= 0 && column < side)
                        upright[(top + row) * side + column] += pow(k + 1, -2);
        for (int i = top * side; i < (top + h) * side; i++) norm += pow(upright[i], 2);
        for (int i = top * side; i < (top + h) * side; i++)
            upright[i] *= (part ? -1 : 1) / sqrt(norm);
    }
    for (int i = 0; i < side * side; i++) sum += pow(upright[i], 2);
    for (int i = 0; i < side * side; i++)
        eta[turned ? i % side * side + i / side : i] = upright[i] / sqrt(sum);
    free(upright);
}

/* |d|, of channel `channel` or (-1) of all, in the first or in both windows of that side. */
static double part_norm(const linear *o, const double *d, int channel, int side, const int at[4],
                        bool both)
{
    double sum = 0;
    for (int j = 0; j < o->size; j++) {
        int k = j / (o->height * o->width), h = j / o->width % o->height, w = j % o->width;
        bool inside = h >= at[0] && h < at[0] + side && w >= at[1] && w < at[1] + side;
        bool second = h >= at[2] && h < at[2] + side && w >= at[3] && w < at[3] + side;
        if ((channel < 0 || k == channel) && (inside || (both && second))) sum += d[j] * d[j];
    }
    return sqrt(sum);
}

static int square_l2_twin(const linear *o, const l2l_attack *a, const l2l_real *x, int label,
                          l2l_real *best)
{
    static const int until[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 1000000};
    const int C = o->channels, H = o->height, W = o->width, least = H < W ? H : W;
    double *d = (double *)test_memory((size_t)o->size * sizeof *d), loss = 0;
    double *eta = (double *)test_memory((size_t)(H * W) * sizeof *eta);
    l2l_real *z = test_array(o->size);
    int kept = 0, half = 0;
    for (int number = 0; number < a->steps; number++) {
        l2l_stream r = {a->seed, L2L_RANDOM_SEARCH, 0, 0, (uint32_t)number + 1};
        double norm = 0;
        while (number > until[half]) half++;
        if (!number) {
            int tile = least / 5 > 0 ? least / 5 : 1, rows = H / tile, columns = W / tile;
            for (int i = 0; i < rows * columns; i++) {
                uint32_t first = (uint32_t)(i * (1 + C));
                int top = (H - rows * tile) / 2 + i / columns * tile;
                int left = (W - columns * tile) / 2 + i % columns * tile;
                eta_twin(tile, l2l_random_bits(&r, first) & 1, eta);
                for (int k = 0; k < C; k++)
                    for (int e = 0; e < tile * tile; e++)
                        d[k * H * W + (top + e / tile) * W + left + e % tile] =
                            l2l_random_bits(&r, first + 1 + (uint32_t)k) & 1 ? eta[e] : -eta[e];
            }
        } else {
            int side = (int)floor(sqrt(0.8 / (1 << half) * H * W) + 0.5), at[4];
            double unused, length;
            side = side < 3 ? 3 : side % 2 ? side : side + 1;
            if (side > least) side = least;
            for (int i = 0; i < 4; i++)
                at[i] = (int)(l2l_random_uniform(&r, (uint32_t)i) * ((i % 2 ? W : H) - side + 1));
            for (int j = 0; j < o->size; j++) d[j] = (double)best[j] - (double)x[j];
            for (int j = 0; j < o->size; j++) norm += d[j] * d[j];
            unused = a->epsilon * a->epsilon - norm > 0 ? a->epsilon * a->epsilon - norm : 0;
            length = sqrt(unused / C + pow(part_norm(o, d, -1, side, at, true), 2));
            eta_twin(side, l2l_random_bits(&r, 4) & 1, eta);
            for (int k = 0; k < C; k++) {
                double v[28 * 28], n1 = part_norm(o, d, k, side, at, false), n = 0;
                bool up = l2l_random_bits(&r, 5 + (uint32_t)k) & 1;
                for (int e = 0; e < side * side; e++) {
                    int j = k * H * W + (at[0] + e / side) * W + at[1] + e % side;
                    v[e] = (up ? eta[e] : -eta[e]) + d[j] / (n1 + 1e-12);
                    n += v[e] * v[e];
                }
                for (int e = 0; e < side * side; e++)
                    d[k * H * W + (at[2] + e / side) * W + at[3] + e % side] = 0;
                for (int e = 0; e < side * side; e++)
                    d[k * H * W + (at[0] + e / side) * W + at[1] + e % side] =
                        length * v[e] / (sqrt(n) + 1e-12);
            }
        }
        norm = 0;
        for (int j = 0; j < o->size; j++) norm += d[j] * d[j];
        for (int j = 0; j < o->size; j++) {
            double v = (double)x[j] + a->epsilon * d[j] / (sqrt(norm) + 1e-12);
            z[j] = (l2l_real)fmin(fmax(v, 0), 1);
        }
        double margin = (double)((l2l_real)linear_score(o, z, !label) -
                                 (l2l_real)linear_score(o, z, label));
        if (number && !(margin > loss)) continue;
        loss = margin;
        kept = number + 1;
        memcpy(best, z, (size_t)o->size * sizeof *z);
    }
    free(d);
    free(eta);
    free(z);
    return kept;
}

/* On linear models of one and of three channels, square and oblong, smaller than a window too: the
   same queries kept as the twin's, the same points; in no more than the ball the margin rises by
   several times what a random direction gives, epsilon |w|_2 / sqrt(pixels). */
static void square_in_l2(void)
{
    static const int shapes[][3] = {{1, 12, 12}, {3, 9, 14}, {3, 16, 7}, {2, 2, 5}, {1, 28, 28}};
    for (int kind = 0; kind < COUNT(shapes); kind++) {
        const int *s = shapes[kind], least = s[1] < s[2] ? s[1] : s[2];
        bench b;
        l2l_context *c = test_context(2);
        linear *o = linear_new(s[0] * s[1], s[2], 2, 640, 1);
        l2l_attack a = square_l2(0.5);
        l2l_real *best = test_array(o->size);
        double most = 0, w = 0;
        o->channels = s[0];
        o->height = s[1];
        begin(&b, c, linear_model(c, o, 0), 1, 0.2, 0.8);
        o->b[1] = 30; /* nobody is fooled */
        b.labels[0] = 1;
        a.steps = least > 2 ? 300 : 60; /* where d is about -eta, what is rounded off grows */
        if (CHECK(checked_run(&b, &a))) {
            int kept = square_l2_twin(o, &a, b.x, 1, best);
            CHECK_INT(kept, b.records[0].step);
            CHECK(kept > a.steps / 10);
            for (int j = 0; j < o->size; j++) CHECK_NEAR(best[j], b.adv[j], 1e-4);
            CHECK(b.records[0].forwards <= 1 + a.steps && b.records[0].forwards > a.steps - 5);
            for (int j = 0; j < o->size; j++) {
                double v = o->w[j] - o->w[o->size + j];
                w += v * v;
                most += v * ((double)b.adv[j] - (double)b.x[j]);
            }
            if (test_complaints) printf("    %d: %g of what there is\n", kind, most / sqrt(w) / 0.5);
            CHECK(most > 0.15 * 0.5 * sqrt(w) && most <= 0.5 * sqrt(w) * (1 + 1e-6));
        }
        free(best);
        bench_end(&b);
        free(o);
    }
}

/* Nobody to attack, or one, or images that are wrong from the start and come back as they were. */
static void few_active(void)
{
    int k, i;
    for (k = 0; k < SEARCHES; k++) {
        bench b;
        l2l_context *c = test_context(1);
        l2l_attack a = search(k, 0.2);
        begin(&b, c, tiny_model(c, 400), 6, 0, 1);
        a.steps = 40;
        if (k < 2 || k == 4) a.number[0] = 5;
        CHECK(l2l_attack_run(b.m, &a, b.x, b.labels, 0, b.adv, b.records));
        for (i = 0; i < b.n; i++) b.labels[i] = (b.labels[i] + (i != 4)) % b.classes;
        if (CHECK(checked_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                if (i == 4) continue;
                CHECK(b.records[i].success);
                CHECK_INT(1, b.records[i].forwards);
                CHECK_INT(0, b.records[i].step);
                CHECK_BYTES(b.x + i * b.size, b.adv + i * b.size,
                            (size_t)b.size * sizeof(l2l_real));
            }
        CHECK(b.records[4].forwards > 1);
        bench_end(&b);
    }
}

/* The distance to the hyperplane of a linear model, within 3 %, by labels alone: the model's scores
   are one-hot. Where everything is one class, the clean image comes back. */
static void sign_opt_closed_form(void)
{
    bench b;
    l2l_context *c = test_context(2);
    linear *o = linear_new(5, 6, 2, 640, 1);
    l2l_attack a = l2l_attack_sign_opt(HUGE_VAL);
    l2l_real *init;
    int targets[10], i;
    begin(&b, c, linear_model(c, o, 0), 10, 0.4, 0.6);
    o->b[0] = linear_score(o, b.x, 1) - linear_score(o, b.x, 0);
    o->labels_only = true;
    for (i = 0; i < b.n; i++) b.labels[i] = linear_class(o, b.x + i * b.size);
    a.number[0] = 60;
    if (CHECK(checked_run(&b, &a)))
        for (i = 1; i < b.n; i++) {
            double d = boundary(o, b.x + i * b.size, b.labels[i], 1 - b.labels[i], L2L_L2);
            CHECK(b.records[i].success);
            CHECK(b.records[i].l2 >= d * (1 - 1e-4) && b.records[i].l2 <= d * 1.03 + 1e-3);
            CHECK_INT(0, b.records[i].backwards);
            CHECK(b.records[i].forwards <= 5001);
        }
    o->b[0] = 100; /* class 0 is all there is */
    for (i = 0; i < b.n; i++) b.labels[i] = 0;
    if (CHECK(checked_run(&b, &a)))
        for (i = 0; i < b.n; i++) {
            CHECK(!b.records[i].success);
            CHECK_INT(101, b.records[i].forwards);
        }
    /* only images far from noise are of class 1: `init` shows one, and makes it a target, too */
    init = test_array(b.n * (int64_t)b.size);
    for (i = 0; i < b.n * b.size; i++) init[i] = o->w[30 + i % 30] > o->w[i % 30];
    o->b[0] = linear_score(o, init, 1) - linear_score(o, init, 0) + o->b[0] - 0.5;
    for (i = 0; i < b.n; i++) targets[i] = 1;
    a.init = init;
    a.targets = targets;
    if (CHECK(checked_run(&b, &a)))
        for (i = 0; i < b.n; i++) CHECK(b.records[i].success);
    free(init);
    bench_end(&b);
    free(o);
}

/* The second query of an attack; the first shows the clean images. */
typedef struct second_query {
    l2l_real *x;
    int query, numbers;
} second_query;

static void second_seen(void *user, const l2l_real *x, int n)
{
    second_query *q = (second_query *)user;
    if (q->query++ == 1) memcpy(q->x, x, (size_t)n * (size_t)q->numbers * sizeof *x);
}

/* `init` is what Carlini-Wagner, DeepFool and Square look at after the clean images: as it is but
   for tanh space, which ends 5e-7 before 0 and 1, or in the ball. DeepFool goes on from there, in
   one step across the boundary of a linear model, and stays where that was crossed already. */
static void begins_where_told(void)
{
    enum { N = 12, CHANNELS = 3 };
    int k, i, j;
    for (k = 0; k < 4; k++) {
        bench b;
        l2l_context *c = test_context(1);
        linear *o = linear_new(6, 5, 2, 645, 1);
        l2l_attack a = search(k, k == 3 ? 0.1 : HUGE_VAL);
        second_query q = {NULL, 0, 30};
        l2l_real *init = test_array(N * 30);
        int across = 0;
        o->channels = CHANNELS;
        o->height = 2;
        begin(&b, c, linear_model(c, o, 1), N, 0.4, 0.6);
        o->b[0] = linear_score(o, b.x, 1) - linear_score(o, b.x, 0);
        for (i = 0; i < b.n; i++) b.labels[i] = linear_class(o, b.x + i * b.size);
        golden_fill(init, N * 30, 646, k < 2 ? 0.3 : 0, k < 2 ? 0.7 : 1);
        a.init = init;
        a.steps = k == 2 ? 300 : k == 3 ? 200 : 1;
        q.x = test_array(N * 30);
        o->seen = second_seen;
        o->user = &q;
        if (!CHECK(l2l_attack_run(b.m, &a, b.x, b.labels, b.n, b.adv, b.records))) b.n = 0;
        o->seen = NULL;
        for (i = 0; i < b.n * b.size; i++) {
            double x = (double)b.x[i], z = (double)init[i];
            if (k == 3) z = fmin(fmax(fmin(fmax(z, x - 0.1), x + 0.1), 0), 1);
            CHECK_NEAR(z, q.x[i], k < 2 ? 0 : 1e-6);
        }
        for (i = 0; i < b.n && k < 2; i++) {
            const l2l_real *x = init + i * b.size;
            int y = b.labels[i], crossed = linear_class(o, x) != y;
            double d = 1.02 * (boundary(o, x, y, 1 - y, a.norm) + 1e-4), w2 = 0;
            if (i == 0) continue;            /* on the boundary                                   */
            across += crossed;
            for (j = 0; j < 30; j++) w2 += pow(o->w[j] - o->w[30 + j], 2);
            for (j = 0; j < 30; j++) {
                double w = o->w[(1 - y) * 30 + j] - o->w[y * 30 + j];
                double step = k ? w / sqrt(w2) : (w > 0) - (w < 0);
                CHECK_NEAR((double)x[j] + (crossed ? 0 : d * step), b.adv[i * 30 + j], 1e-5);
            }
            CHECK(b.records[i].success);
            CHECK_INT(crossed ? 2 : 4, b.records[i].forwards);
            CHECK_INT(!crossed, b.records[i].backwards);
        }
        CHECK(k >= 2 || (across > 2 && across < N - 2));
        free(init);
        free(q.x);
        bench_end(&b);
        free(o);
    }
}

/* Where `init` is not adversarial Sign-OPT looks at noise, as without one. */
static void begins_elsewhere(void)
{
    bench b;
    l2l_context *c = test_context(1);
    linear *o = linear_new(6, 5, 2, 645, 1);
    l2l_attack a = l2l_attack_sign_opt(HUGE_VAL);
    int i, found = 0;
    begin(&b, c, linear_model(c, o, 1), 12, 0.4, 0.6);
    for (i = 0; i < b.n; i++) b.labels[i] = linear_class(o, b.x + i * b.size);
    a.steps = 300;
    if (CHECK(checked_run(&b, &a)))
        for (i = 0; i < b.n; i++) found += b.records[i].success;
    CHECK(found > 0);
    a.init = b.x; /* right, as all of them */
    if (CHECK(checked_run(&b, &a)))
        for (i = 0; i < b.n; i++) found -= b.records[i].success;
    CHECK_INT(0, found);
    bench_end(&b);
    free(o);
}

/* Where nothing is adversarial the constant of Carlini and Wagner stays within its bounds. */
static void constant_within_bounds(void)
{
    bench b;
    l2l_context *c = test_context(1);
    linear *o = linear_new(6, 5, 2, 645, 1);
    l2l_attack a = l2l_attack_cw_l2(HUGE_VAL);
    int i;
    begin(&b, c, linear_model(c, o, 1), 3, 0.4, 0.6);
    o->b[0] = 1e4;
    memset(b.labels, 0, 3 * sizeof *b.labels);
    a.steps = 2;
    a.number[0] = 400; /* times 10 each would be beyond the largest double */
    a.number[1] = 1e10;
    if (CHECK(checked_run(&b, &a)))
        for (i = 0; i < b.n; i++) CHECK(!b.records[i].success && b.records[i].forwards > 800);
    bench_end(&b);
    free(o);
}

/* On a network and by labels alone not much farther than what the gradient finds; Square fools more
   than noise does. */
static void black_box_is_strong(void)
{
    bench b;
    l2l_context *c = test_context(2);
    l2l_attack cw = l2l_attack_cw_l2(HUGE_VAL), sign_opt = l2l_attack_sign_opt(HUGE_VAL);
    l2l_attack square = l2l_attack_square(0.06), noise = l2l_attack_pgd(0.06);
    double near = 0, far = 0;
    int i, fooled = 0, by_noise = 0;
    begin(&b, c, tiny_model(c, 400), 20, 0, 1);
    cw.steps = 200;
    if (CHECK(checked_run(&b, &cw)))
        for (i = 0; i < b.n; i++) near += b.records[i].l2;
    if (CHECK(checked_run(&b, &sign_opt)))
        for (i = 0; i < b.n; i++) {
            CHECK(b.records[i].success);
            far += b.records[i].l2;
        }
    CHECK(far < 1.1 * near);
    if (test_complaints) printf("    mean l2: cw %g, sign_opt %g\n", near / b.n, far / b.n);
    square.steps = noise.restarts = 300;
    noise.steps = 0;
    if (CHECK(checked_run(&b, &square)))
        for (i = 0; i < b.n; i++) fooled += b.records[i].success;
    if (CHECK(l2l_attack_run(b.m, &noise, b.x, b.labels, b.n, b.adv, b.records)))
        for (i = 0; i < b.n; i++) by_noise += b.records[i].success;
    CHECK(fooled >= by_noise + 3);
    if (test_complaints) printf("    square %d, noise %d of %d\n", fooled, by_noise, b.n);
    bench_end(&b);
}

/* In batches of 1, 7 and all, by 1, 2 and 4 threads, in one call or two: the same bits; as they
   are, with targets, from given starting points. */
static void same_everywhere(void)
{
    int k, i, run;
    for (k = 0; k < 3 * SEARCHES; k++) {
        l2l_real *adv, *init;
        l2l_record records[20];
        int targets[20];
        if (k / SEARCHES == 1 && k % SEARCHES < 2) continue; /* DeepFool has no targets */
        adv = test_array(20 * 64);
        init = test_array(20 * 64);
        golden_fill(init, 20 * 64, 648, 0, 1);
        for (run = 0; run < 4; run++) {
            static const int batches[] = {1, 7, 100, 3}, threads[] = {1, 2, 4, 1};
            bench b;
            l2l_context *c = test_context(threads[run]);
            l2l_attack a = search(k % SEARCHES, k % SEARCHES == 3   ? 0.05
                                                  : k % SEARCHES == 5 ? 0.3
                                                                      : 1.0);
            begin(&b, c, tiny_model(c, 400), 20, 0, 1);
            for (i = 0; i < b.n; i++) targets[i] = (b.labels[i] + 1) % b.classes;
            b.labels[3] = (b.labels[3] + 1) % b.classes;
            if (k / SEARCHES == 1) a.targets = targets;
            if (k / SEARCHES == 2) a.init = init;
            a.batch = batches[run];
            a.seed = 12;
            a.first = 30;
            a.steps = k % SEARCHES < 2 ? 50 : k % SEARCHES == 2 ? 60 : 400;
            if (k % SEARCHES == 2) a.number[0] = 4;
            if (k % SEARCHES == 4) a.number[0] = 30;
            if (run < 3) CHECK(checked_run(&b, &a));
            else {
                CHECK(l2l_attack_run(b.m, &a, b.x, b.labels, 5, b.adv, b.records));
                a.first += 5;
                if (a.targets) a.targets += 5;
                if (a.init) a.init += 5 * 64;
                CHECK(l2l_attack_run(b.m, &a, b.x + 5 * 64, b.labels + 5, 15, b.adv + 5 * 64,
                                     b.records + 5));
            }
            if (run == 0) {
                memcpy(adv, b.adv, 20 * 64 * sizeof *adv);
                memcpy(records, b.records, sizeof records);
            }
            CHECK_BYTES(adv, b.adv, 20 * 64 * sizeof *adv);
            for (i = 0; i < 20; i++) CHECK_BYTES(&records[i], &b.records[i], sizeof records[i]);
            if (test_complaints) printf("    %s, run %d\n", a.name, run);
            bench_end(&b);
        }
        free(adv);
        free(init);
    }
}

static void passes_are_counted(void)
{
    int k, i;
    for (k = 0; k < SEARCHES; k++) {
        bench b;
        l2l_context *c = test_context(1);
        linear *o = linear_new(5, 6, 5, 650, 1);
        l2l_attack a = search(k, 0.03);
        long forwards = 0, backwards = 0;
        size_t used;
        begin(&b, c, linear_model(c, o, 1), 12, 0, 1);
        b.labels[2] = (b.labels[2] + 1) % 5;
        a.batch = 5;
        a.steps = k == 2 ? 30 : 150;
        if (k == 4) a.number[0] = 20;
        o->images = o->vjps = 0;
        CHECK(l2l_attack_run(b.m, &a, b.x, b.labels, b.n, b.adv, b.records));
        for (i = 0; i < b.n; i++) {
            forwards += b.records[i].forwards;
            backwards += b.records[i].backwards;
        }
        CHECK(forwards > b.n && (backwards > b.n) == (k < 3));
        CHECK_INT(forwards, o->images);
        CHECK_INT(backwards, o->vjps);
        used = l2l_memory_used(c);
        for (i = 1; i <= forwards - a.batch; i += (int)forwards / 12) { /* stops answering        */
            o->images = 0;
            o->cancel_after = i;
            CHECK(!l2l_attack_run(b.m, &a, b.x, b.labels, b.n, b.adv, b.records));
            CHECK_ERROR(c, L2L_ERROR_CANCELLED, "");
            CHECK_INT((int)used, (int)l2l_memory_used(c));
            CHECK(!l2l_recording(c));
        }
        if (test_complaints) printf("    %s\n", a.name);
        o->cancel_after = 0;
        l2l_model_free(b.m);
        b.m = linear_model(c, o, 0);
        if (k < 3) {
            CHECK(!checked_run(&b, &a));
            CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "vjp");
        } else
            CHECK(checked_run(&b, &a));
        bench_end(&b);
        free(o);
    }
}

/* A model without any gradient: DeepFool and Carlini-Wagner end, with the clean image. */
static void no_gradient_at_all(void)
{
    int k, i;
    for (k = 0; k < 3; k++) {
        bench b;
        l2l_context *c = test_context(1);
        linear *o = linear_new(5, 6, 3, 660, 0);
        l2l_attack a = search(k, 1);
        a.steps = 20;
        begin(&b, c, linear_model(c, o, 1), 3, 0, 1);
        if (CHECK(checked_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                CHECK(!b.records[i].success);
                CHECK(b.records[i].zero_gradients > 0);
                CHECK_BYTES(b.x, b.adv, (size_t)(b.n * b.size) * sizeof(l2l_real));
            }
        bench_end(&b);
        free(o);
    }
}

/* One run with INFINITY, read at any radius, is what an evaluation at that radius counts. */
static void read_at_any_radius(void)
{
    static const double radii[] = {0, 0.05, 0.1, 0.2, 0.4};
    bench b;
    l2l_context *c = test_context(2);
    l2l_dataset d;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    int i, k, kind, some = 0;
    begin(&b, c, tiny_model(c, 400), 30, 0, 1);
    for (i = 0; i < 4; i++) b.labels[i] = (b.labels[i] + 1) % b.classes;
    CHECK(l2l_dataset_from_arrays(c, b.x, b.labels, b.n, 1, 8, 8, 5, &d));
    for (kind = 0; kind < 2; kind++) {
        l2l_attack all = search(kind, HUGE_VAL);
        l2l_record *found = (l2l_record *)test_memory((size_t)b.n * sizeof *found);
        CHECK(checked_run(&b, &all));
        memcpy(found, b.records, (size_t)b.n * sizeof *found);
        for (k = 0; k < COUNT(radii); k++) {
            l2l_attack a = search(kind, radii[k]);
            l2l_result r;
            int right = 0;
            if (!CHECK(l2l_evaluation_begin(b.m, &d, &o, &e))) break;
            CHECK(l2l_evaluation_attack(&e, &a, &r, b.records, b.adv));
            for (i = 0; i < b.n; i++) {
                double distance = kind ? found[i].l2 : found[i].linf;
                right += !(found[i].success && distance <= radii[k]);
                CHECK_INT(found[i].success && distance <= radii[k], b.records[i].success);
                CHECK_INT(!b.records[i].success, e.right[i]);
            }
            some += right > 0 && right < b.n - 4;
            CHECK_NEAR((double)right / b.n, r.accuracy, 1e-12);
            CHECK_NEAR(r.accuracy, e.worst, 1e-12);
            l2l_evaluation_end(&e);
        }
        free(found);
    }
    CHECK(some > 2);
    l2l_dataset_free(&d);
    bench_end(&b);
}

static void refused(void)
{
    int k;
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a;
    begin(&b, c, tiny_model(c, 400), 2, 0, 1);
#define REFUSED(set, text)                                                                         \
    do {                                                                                           \
        a = search(k, 0.1);                                                                        \
        set;                                                                                       \
        CHECK(!l2l_attack_run(b.m, &a, b.x, b.labels, b.n, b.adv, b.records));                     \
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, text);                                                  \
    } while (0)
    for (k = 0; k < SEARCHES; k++) {
        REFUSED(a.restarts = 2, "restarts");
        REFUSED(a.last_iterate = true, "last_iterate");
        REFUSED(a.epsilon = -0.1, "-0.1");
        REFUSED(a.epsilon = (double)NAN, "epsilon");
        REFUSED(a.number[0] = (double)NAN, "number[0]");
        REFUSED(a.number[1] = HUGE_VAL, "number[1]");
        if (k == 2) REFUSED(a.number[0] = 0, "number[0], the constants tried");
        if (k == 2) REFUSED(a.number[0] = 1.5, "number[0], the constants tried");
        if (k == 2) REFUSED(a.number[1] = 0, "number[1], the first constant");
        if (k < 2) REFUSED(a.number[1] = -1, "number[1], the overshoot");
        if (k < 2 || k == 4) REFUSED(a.number[0] = 1, "number[0], the candidates");
        if (k < 2 || k == 4) REFUSED(a.number[0] = 2.5, "number[0], the candidates");
        if (k == 3 || k == 5) REFUSED(a.number[0] = 1.5, "number[0], the share");
        if (k == 3 || k == 5) REFUSED(a.number[0] = 0, "number[0], the share");
        REFUSED(a.objective.confidence = -1, "confidence -1");
        if (k < 2) REFUSED(a.targets = b.labels, "targeted");
        if (k == 3) REFUSED(a.epsilon = 2, "epsilon 2");
        if (k == 4) REFUSED(a.norm = L2L_LINF, "only in l2");
    }
    bench_end(&b);
}

/* -- a search of one's own: the way to `init`, bisected down to number[0] ----------------------- */

typedef struct way {
    double low, high; /* shares of the way: right at low, fooled at high */
    double length;
} way;

static int64_t way_begin(l2l_inner *in, const l2l_attack *a)
{
    if (!a->init) l2l_error_set(in->context, L2L_ERROR_ARGUMENT, "attack way: it wants init");
    return a->steps;
}

static void way_point(const l2l_spot *p)
{
    way *s = (way *)p->state;
    int64_t j;
    double share;
    if (p->in->t == 1) {
        l2l_spot_init(p, p->memory[2]);
        s->length = l2l_norm2(p->memory[2], p->x, p->n);
        s->high = 2;
    }
    share = (s->low + s->high) / 2;
    for (j = 0; j < p->n; j++)
        p->z[j] = (l2l_real)((1 - share) * (double)p->x[j] + share * (double)p->memory[2][j]);
}

static void way_seen(const l2l_spot *p)
{
    way *s = (way *)p->state;
    *(p->fooled ? &s->high : &s->low) = (s->low + s->high) / 2;
    if (p->fooled) l2l_spot_keep_nearest(p);
    if (s->high > 1 || (s->high - s->low) * s->length < p->attack->number[0]) l2l_spot_end(p);
}

static const l2l_search way_search = {
    sizeof(way), 3, false, false, false, false, way_begin, NULL, way_point, way_seen};

/* The same for one image, without a library; how many looks. */
static int way_twin(const bench *b, int i, const l2l_real *init, double tolerance, int steps,
                    l2l_real *best)
{
    const l2l_real *x = b->x + i * b->size;
    l2l_real z[64], logits[8];
    double low = 0, high = 2, sum = 0;
    int t, j, k;
    for (j = 0; j < b->size; j++) sum += ((double)init[j] - (double)x[j]) * ((double)init[j] - (double)x[j]);
    memcpy(best, x, (size_t)b->size * sizeof *best);
    for (t = 0; t < steps; t++) {
        double share = (low + high) / 2;
        int top = 0;
        for (j = 0; j < b->size; j++)
            z[j] = (l2l_real)((1 - share) * (double)x[j] + share * (double)init[j]);
        CHECK(l2l_model_logits(b->m, z, 1, logits));
        for (k = 1; k < b->classes; k++)
            if (logits[k] > logits[top]) top = k;
        if (t == 0 && top == b->labels[i]) return 1;
        *(top == b->labels[i] ? &low : &high) = share;
        if (top != b->labels[i]) memcpy(best, z, (size_t)b->size * sizeof *best);
        if ((high - low) * sqrt(sum) < tolerance) return t + 1;
    }
    return steps;
}

static void of_ones_own(void)
{
    enum { N = 24 };
    static const int batches[] = {100, 1, 7, 5}, threads[] = {1, 2, 3, 1};
    l2l_real *init = test_array(N * 64), best[64];
    int run, i, most = 0, least = 1000, missed = 0;
    for (run = 0; run < 4; run++) {
        bench b;
        l2l_context *c = test_context(threads[run]);
        l2l_attack a = l2l_search_attack("way", HUGE_VAL, L2L_L2, 12, &way_search);
        begin(&b, c, tiny_model(c, 400), N, 0, 1);
        b.labels[3] = (b.labels[3] + 1) % b.classes;
        for (i = 0; i < N; i++) { /* ways of different lengths, to images of other classes or nowhere */
            int k = (i + 1) % N, j;
            while (b.labels[k] == b.labels[i] && k != i) k = (k + 1) % N;
            for (j = 0; j < 64; j++) {
                double x = (double)b.x[i * 64 + j], d = (double)b.x[k * 64 + j] - x;
                init[i * 64 + j] = (l2l_real)fmin(1, fmax(0, x + d * (i % 5 * (i % 5))));
            }
        }
        a.batch = batches[run];
        a.number[0] = 0.01;
        CHECK(!bench_run(&b, &a));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "attack way: it wants init");
        a.init = init;
        CHECK(checked_run(&b, &a));
        for (i = 0; i < N; i++) {
            int looks = i == 3 ? 0 : way_twin(&b, i, init + i * 64, 0.01, 12, best);
            CHECK_INT(looks + 1, b.records[i].forwards);
            CHECK_INT(0, b.records[i].backwards);
            if (i == 3) continue;
            CHECK_BYTES(best, b.adv + i * 64, sizeof best);
            CHECK_INT(memcmp(best, b.x + i * 64, sizeof best) != 0, b.records[i].success);
            missed += !b.records[i].success;
            if (looks > most) most = looks;
            if (looks > 1 && looks < least) least = looks;
        }
        bench_end(&b);
    }
    CHECK(most > least && missed > 0 && missed < 3 * N);
    free(init);
}

static void norms(void)
{
    static const l2l_real x[4] = {3, -4, 0, 12}, y[4] = {0, 0, 0, 12};
    l2l_real far_off[3] = {(l2l_real)3e30, (l2l_real)-4e30, 0}, tiny[2] = {0, 0}, odd[2] = {1, 0};
    CHECK_NEAR(13, l2l_norm2(x, NULL, 4), 1e-14);
    CHECK_NEAR(5, l2l_norm2(x, y, 4), 1e-14);
    CHECK(l2l_norm2(x, x, 4) == 0 && l2l_norm2(x, NULL, 0) == 0 && l2l_norm2(NULL, NULL, 4) == 0);
    CHECK(fabs(l2l_norm2(far_off, NULL, 3) - 5e30) < 1e24);
    tiny[1] = (l2l_real)-1e-37;
    CHECK(fabs(l2l_norm2(tiny, NULL, 2) - 1e-37) < 1e-43);
    odd[1] = (l2l_real)-INFINITY;
    CHECK(l2l_norm2(odd, NULL, 2) > DBL_MAX && l2l_norm2(x, odd, 2) > DBL_MAX);
    odd[0] = (l2l_real)NAN;
    CHECK(isnan(l2l_norm2(odd, NULL, 2)) && isnan(l2l_norm2(odd, x, 1)));
}

int main(void)
{
    RUN(defaults, "documented defaults of the searches");
    RUN(norms, "norms neither overflow nor vanish, and of infinity are infinite");
    RUN(deepfool_closed_form, "DeepFool goes |f|/dual norm to the nearest class of a linear model");
    RUN(cw_closed_form, "Carlini-Wagner finds the nearest point beyond a linear boundary in [0,1]");
    RUN(golden_distances, "DeepFool's and Carlini-Wagner's distances are PyTorch's");
    RUN(square_closed_form, "Square reaches the corner of the ball on a linear model of any shape");
    RUN(square_windows, "Square's windows shrink as in AutoAttack and reach the last offset");
    RUN(square_in_l2, "Square in l2 keeps the points that a twin does, on planes of any shape");
    RUN(few_active, "no image, one image, images that are wrong already");
    RUN(sign_opt_closed_form, "Sign-OPT finds a linear boundary by labels alone");
    RUN(begins_where_told, "searches begin at given starting points");
    RUN(begins_elsewhere, "a start of Sign-OPT that is not adversarial takes nothing from it");
    RUN(constant_within_bounds, "the constant of Carlini and Wagner is bounded");
    RUN(black_box_is_strong, "Sign-OPT comes near Carlini-Wagner, Square beats noise");
    RUN(same_everywhere, "results of searches do not depend on batch, threads or place");
    RUN(passes_are_counted, "an external model is asked as often as records say, and may stop");
    RUN(no_gradient_at_all, "without any gradient a search ends with the clean image");
    RUN(read_at_any_radius, "one run without a radius can be read at every radius");
    RUN(of_ones_own, "a search of one's own goes as it does alone, in any batch and threads");
    RUN(refused, "settings that make no sense are refused by name");
    return test_end();
}
