/* Attacks: closed forms on linear models, ball and range, the rules for what is returned, the same
   result for any batch and thread count, inputs that are refused. */
#include "bench.h"

#include "../examples/evaluation.h"
#include "../examples/searches.h"

enum { SIDE = 5, D = SIDE * SIDE, MANY = 40 };

/* -- a linear model of two classes, z = W x + b, inside and outside ----------------------------- */

typedef struct outside {
    double w[2][D], b[2];
    int images, vjps, cancel_after;
} outside;

static void outside_fill(outside *o, double bias)
{
    l2l_real w[2 * D];
    int k, j;
    memset(o, 0, sizeof *o);
    golden_fill(w, 2 * D, 300, -1, 1);
    for (k = 0; k < 2; k++)
        for (j = 0; j < D; j++) o->w[k][j] = (double)w[k * D + j];
    o->b[1] = bias;
}

static bool outside_logits(void *user, const l2l_real *x, int n, l2l_real *z)
{
    outside *o = (outside *)user;
    int i, j, k;
    if (o->cancel_after && o->images >= o->cancel_after) return false;
    o->images += n;
    for (i = 0; i < n; i++)
        for (k = 0; k < 2; k++) {
            double s = o->b[k];
            for (j = 0; j < D; j++) s += o->w[k][j] * (double)x[i * D + j];
            z[i * 2 + k] = (l2l_real)s;
        }
    return true;
}

static bool outside_vjp(void *user, const l2l_real *x, int n, const l2l_real *dz, l2l_real *dx)
{
    outside *o = (outside *)user;
    int i, j;
    (void)x;
    o->vjps += n;
    for (i = 0; i < n; i++)
        for (j = 0; j < D; j++)
            dx[i * D + j] = (l2l_real)((double)dz[i * 2] * o->w[0][j] +
                                       (double)dz[i * 2 + 1] * o->w[1][j]);
    return true;
}

static l2l_model *outside_model(l2l_context *c, outside *o, int gradient)
{
    l2l_external e;
    memset(&e, 0, sizeof e);
    e.channels = 1;
    e.height = e.width = SIDE;
    e.classes = 2;
    e.user = o;
    e.logits = outside_logits;
    if (gradient) e.vjp = outside_vjp;
    return l2l_model_external(c, &e);
}

static l2l_model *inside_model(l2l_context *c, const outside *o)
{
    l2l_model_options options = own_options("linear", linear_forward, 1, SIDE, 2);
    l2l_model *m = l2l_model_create(c, &options);
    l2l_real w[2 * D], b[2];
    int k, j;
    for (k = 0; k < 2; k++) {
        for (j = 0; j < D; j++) w[k * D + j] = (l2l_real)o->w[k][j];
        b[k] = (l2l_real)o->b[k];
    }
    if (m && !(l2l_parameter_set(m, 0, w) && l2l_parameter_set(m, 1, b))) printf("no parameters\n");
    return m;
}

static double outside_margin(const outside *o, const double *x, int label)
{
    double m = o->b[1 - label] - o->b[label];
    int j;
    for (j = 0; j < D; j++) m += (o->w[1 - label][j] - o->w[label][j]) * x[j];
    return m;
}

static void project_into(double *z, const l2l_real *x, double epsilon)
{
    int j;
    for (j = 0; j < D; j++) {
        double low = fmax((double)x[j] - epsilon, 0), high = fmin((double)x[j] + epsilon, 1);
        z[j] = fmin(fmax(z[j], low), high);
    }
}

/* -- the same images for all -------------------------------------------------------------------- */

/* Every returned image is in the attack's ball (if it keeps to one) and in [0,1], and the record
   tells its norms. Rounding of x +- epsilon is allowed: 1e-6 in float. */
static void check_inside(const bench *b, const l2l_attack *a)
{
    int i, j;
    for (i = 0; i < b->n; i++) {
        double linf = 0, l2 = 0;
        for (j = 0; j < b->size; j++) {
            double v = (double)b->adv[i * b->size + j], d = v - (double)b->x[i * b->size + j];
            if (!CHECK(v >= 0 && v <= 1)) return;
            linf = fmax(linf, fabs(d));
            l2 += d * d;
        }
        if (!a->minimal && a->norm == L2L_LINF) CHECK(linf <= a->epsilon + 1e-6);
        if (!a->minimal && a->norm == L2L_L2) CHECK(sqrt(l2) <= a->epsilon + 1e-6);
        CHECK_NEAR(linf, b->records[i].linf, 1e-6);
        CHECK_NEAR(sqrt(l2), b->records[i].l2, 1e-5 * (1 + sqrt(l2)));
    }
}

static void check_ball(const bench *b, double epsilon)
{
    l2l_attack a = l2l_attack_pgd(epsilon);
    check_inside(b, &a);
}

static double log_sum(const l2l_real *z, int k)
{
    double largest = (double)z[0], sum = 0;
    int j;
    for (j = 1; j < k; j++) largest = fmax(largest, (double)z[j]);
    for (j = 0; j < k; j++) sum += exp((double)z[j] - largest);
    return log(sum) + largest;
}

/* L by the attack's objective, from the logits of the image and of the clean one. */
static double loss_of(const l2l_attack *a, const l2l_real *z, const l2l_real *clean, int k, int y)
{
    double L = log_sum(z, k) - (double)z[y], other = -1e30;
    int j;
    if (strcmp(a->objective.name, "margin") == 0) {
        for (j = 0; j < k; j++)
            if (j != y) other = fmax(other, (double)z[j]);
        L = other - (double)z[y];
    } else if (strcmp(a->objective.name, "kl") == 0) {
        for (L = 0, j = 0; j < k; j++) {
            double p = (double)clean[j] - log_sum(clean, k);
            L += exp(p) * (p - ((double)z[j] - log_sum(z, k)));
        }
    } else
        CHECK_TEXT("cross-entropy", a->objective.name);
    if (a->targets) L = -L;
    return a->objective.cut ? fmin(L, a->objective.confidence) : L;
}

/* Record i is what the model says about image i as returned. */
static void check_records_of(const bench *b, const l2l_attack *a)
{
    int k = b->classes, i, j;
    l2l_real *z = test_array((int64_t)b->n * k), *clean = test_array((int64_t)b->n * k);
    if (CHECK(l2l_model_logits(b->m, b->adv, b->n, z) && l2l_model_logits(b->m, b->x, b->n, clean)))
        for (i = 0; i < b->n; i++) {
            const l2l_real *row = z + i * k, *first = clean + i * k;
            const l2l_record *r = &b->records[i];
            int best = 0, best_clean = 0, target = a->targets ? a->targets[i] : b->labels[i];
            double L = loss_of(a, row, first, k, target);
            for (j = 1; j < k; j++) {
                if (row[j] > row[best]) best = j;
                if (first[j] > first[best_clean]) best_clean = j;
            }
            CHECK_INT(b->labels[i], r->label);
            CHECK_INT(best, r->predicted);
            CHECK_INT(best_clean, r->clean);
            CHECK_INT(a->targets ? best == target && target != r->label : best != target,
                      r->success);
            CHECK_NEAR(L, r->loss, 1e-4 * fmax(1, fabs(L)));
        }
    free(z);
    free(clean);
}

static void check_records(const bench *b)
{
    l2l_attack a = l2l_attack_pgd(1);
    check_records_of(b, &a);
}

/* -- every attack ------------------------------------------------------------------------------ */

/* A new attack is one line here: how it is made, and an epsilon at which it fools some but not all
   images of tiny_model. */
static const struct {
    l2l_attack (*make)(double epsilon);
    double epsilon;
} attacks[] = {
    {l2l_attack_fgsm, 0.08},
    {l2l_attack_ifgsm, 0.08},
    {l2l_attack_pgd, 0.08},
    {l2l_attack_pgd_l2, 0.4},
    {l2l_attack_mim, 0.08},
    {l2l_attack_cw_pgd, 0.08},
    {l2l_attack_cw_l2lda, 0.08},
};

static l2l_attack attack_number(int k) { return attacks[k].make(attacks[k].epsilon); }

/* Other classes than the labels; to be freed. */
static int *other_classes(const bench *b)
{
    int *targets = (int *)test_memory((size_t)b->n * sizeof *targets), i;
    for (i = 0; i < b->n; i++)
        targets[i] = (b->labels[i] + 1 + i % (b->classes - 1)) % b->classes;
    return targets;
}

static int successes(const bench *b)
{
    int i, n = 0;
    for (i = 0; i < b->n; i++) n += b->records[i].success;
    return n;
}

/* 2.9: a step of 0 is relative_step * epsilon. */
static double step_of(const l2l_attack *a)
{
    return a->step_size > 0 ? a->step_size : a->relative_step * a->epsilon;
}

static void defaults(void)
{
    l2l_attack a = l2l_attack_fgsm(0.3);
    CHECK_INT(1, a.steps);
    CHECK_NEAR(0.3, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_CLEAN, a.start);
    CHECK_INT(1, a.restarts);
    CHECK_INT(100, a.batch);
    CHECK(!a.last_iterate);
    a = l2l_attack_ifgsm(0.2);
    CHECK_INT(10, a.steps);
    CHECK_NEAR(0.05, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_CLEAN, a.start);
    a = l2l_attack_pgd(0.2);
    CHECK_INT(10, a.steps);
    CHECK_NEAR(0.05, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_UNIFORM, a.start);
    CHECK_TEXT("cross-entropy", a.objective.name);
    CHECK_INT(L2L_LINF, a.norm);
    CHECK(!a.targets && !a.objective.cut);
    a = l2l_attack_pgd_l2(2);
    CHECK_INT(10, a.steps);
    CHECK_NEAR(0.5, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_UNIFORM, a.start);
    CHECK_INT(L2L_L2, a.norm);
    a = l2l_attack_mim(0.2);
    CHECK_INT(10, a.steps);
    CHECK_NEAR(0.05, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_CLEAN, a.start);
    CHECK_NEAR(1, a.maximizer.number[0], 0);
    a = l2l_attack_cw_pgd(0.2);
    CHECK_INT(10, a.steps);
    CHECK_NEAR(0.05, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_UNIFORM, a.start);
    CHECK_TEXT("margin", a.objective.name);
    CHECK(a.objective.cut);
    CHECK_NEAR(50, a.objective.confidence, 0);
    a = l2l_attack_cw_l2lda(0.3);
    CHECK_INT(100, a.steps);
    CHECK_NEAR(0.001, step_of(&a), 1e-12);
    CHECK_INT(L2L_START_CLEAN, a.start);
    CHECK(a.objective.cut && a.last_iterate);
    CHECK_NEAR(0, a.objective.confidence, 0);
    CHECK_NEAR(8.0 / 255, a.maximizer.number[0], 1e-15);
}

/* z linear in x, two classes: the gradient's sign is constant, s = sign(w_other - w_label). FGSM is
   x + epsilon s clamped to [0,1]; I-FGSM after 4 of its steps of epsilon/4 the same, MIM, whose
   momentum has that sign, too, and PGD on either loss: ten steps cover 2.5 epsilon from any start.
   Where nothing is clamped the margin has risen by epsilon |w_other - w_label|_1. No success is
   possible with a large bias, so the largest loss is returned, which is that corner. */
static void closed_forms(void)
{
    int kind, where, i, j;
    for (where = 0; where < 2; where++)
        for (kind = 0; kind < 5; kind++) {
            static l2l_attack (*const make[])(double) = {l2l_attack_fgsm, l2l_attack_ifgsm,
                l2l_attack_pgd, l2l_attack_mim, l2l_attack_cw_pgd};
            const double epsilon = 0.15;
            outside o;
            bench b;
            l2l_context *c = test_context(2);
            l2l_attack a = make[kind](epsilon);
            outside_fill(&o, 6);
            for (j = 0; j < D; j++) { o.w[0][j] *= 0.2; o.w[1][j] *= 0.2; }
            bench_begin(&b, c, where ? outside_model(c, &o, 1) : inside_model(c, &o), MANY, 301);
            for (i = 0; i < b.n; i++) b.labels[i] = 1;
            for (j = 0; j < D && b.n; j++) b.x[j] = (l2l_real)(0.3 + 0.4 * (double)b.x[j]);
            if (CHECK(bench_run(&b, &a)))
                for (i = 0; i < b.n; i++) {
                    double rise = 0, l1 = 0, inner = 0;
                    CHECK(!b.records[i].success);
                    for (j = 0; j < D; j++) {
                        double w = o.w[0][j] - o.w[1][j], x = (double)b.x[i * D + j];
                        double corner = x + epsilon * (w > 0 ? 1 : -1);
                        if (!CHECK_NEAR(fmin(fmax(corner, 0), 1), b.adv[i * D + j],
                                        TOLERANCE(1e-6, 1e-12)))
                            break;
                        rise += w * ((double)b.adv[i * D + j] - x);
                        l1 += fabs(w);
                        inner += corner >= 0 && corner <= 1;
                    }
                    CHECK(rise <= epsilon * l1 + 1e-6);
                    if (i == 0) CHECK_NEAR(D, inner, 0);
                    if (i == 0) CHECK_NEAR(epsilon * l1, rise, 1e-6);
                }
            check_ball(&b, epsilon);
            check_records_of(&b, &a);
            bench_end(&b);
        }
}

/* PGD on the linear model against a simulation in double of every iterate: the start from the
   documented random stream, the first misclassified iterate, its step. */
static void pgd_simulated(void)
{
    const double epsilon = 0.1;
    outside o;
    bench b;
    l2l_context *c = test_context(2);
    l2l_attack a = l2l_attack_pgd(epsilon);
    int i, j, t, checked = 0, steps_seen[12];
    memset(steps_seen, 0, sizeof steps_seen);
    outside_fill(&o, 0);
    bench_begin(&b, c, inside_model(c, &o), 200, 302);
    a.seed = 77;
    a.first = 1000;
    a.batch = 37;
    bench_labels_right(&b);
    if (!CHECK(bench_run(&b, &a))) { bench_end(&b); return; }
    for (i = 0; i < b.n; i++) {
        const l2l_real *x = b.x + i * D;
        double z[D], best[D], best_margin = -1e30;
        int step = -1, near_zero = 0, y = b.labels[i];
        l2l_stream s;
        memset(&s, 0, sizeof s);
        s.seed = 77;
        s.purpose = L2L_RANDOM_START;
        s.image = 1000 + (uint32_t)i;
        for (j = 0; j < D; j++)
            z[j] = (double)x[j] + epsilon * (2 * l2l_random_uniform(&s, (uint32_t)j) - 1);
        project_into(z, x, epsilon);
        for (t = 0; t <= 10; t++) {
            double m = outside_margin(&o, z, y);
            near_zero |= fabs(m) < 1e-4;
            if (m > best_margin + 1e-6) { memcpy(best, z, sizeof z); best_margin = m; step = t; }
            if (m > 0) break;
            for (j = 0; j < D; j++) z[j] += epsilon / 4 * (o.w[1 - y][j] > o.w[y][j] ? 1 : -1);
            project_into(z, x, epsilon);
        }
        if (near_zero) continue; /* float may decide otherwise */
        checked++;
        CHECK_INT(best_margin > 0, b.records[i].success);
        if (best_margin > 0) {
            CHECK_INT(step, b.records[i].step);
            steps_seen[step]++;
        }
        for (j = 0; j < D; j++)
            if (!CHECK_NEAR(best[j], b.adv[i * D + j], 1e-6)) break;
    }
    CHECK(checked > 190);
    CHECK(steps_seen[1] + steps_seen[2] + steps_seen[3] + steps_seen[4] > 20); /* it was a test */
    check_ball(&b, epsilon);
    check_records(&b);
    bench_end(&b);
}

static l2l_model *small_model(l2l_context *c) /* untrained, but not flat */
{
    return tiny_model(c, 400);
}

static void random_starts(void)
{
    int start;
    for (start = L2L_START_CLEAN; start <= L2L_START_NORMAL; start++) {
        bench b;
        l2l_context *c = test_context(1);
        l2l_attack a = l2l_attack_pgd(0.05);
        int i, j;
        bench_begin(&b, c, small_model(c), 6, 303);
        a.steps = 0;
        a.start = (l2l_start)start;
        a.seed = 0x123456789u;
        a.last_iterate = true;
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                l2l_stream s;
                memset(&s, 0, sizeof s);
                s.seed = a.seed;
                s.purpose = L2L_RANDOM_START;
                s.image = (uint32_t)i;
                CHECK_INT(0, b.records[i].step);
                for (j = 0; j < b.size; j++) {
                    double x = (double)b.x[i * b.size + j], z = x;
                    if (start == L2L_START_UNIFORM)
                        z += 0.05 * (2 * l2l_random_uniform(&s, (uint32_t)j) - 1);
                    if (start == L2L_START_NORMAL) z += 0.001 * l2l_random_normal(&s, (uint32_t)j);
                    z = fmin(fmax(z, fmax(x - 0.05, 0)), fmin(x + 0.05, 1));
                    if (!CHECK_NEAR(z, b.adv[i * b.size + j], 1e-7)) break;
                }
            }
        check_ball(&b, 0.05);
        bench_end(&b);
    }
}

/* Where nothing succeeded, the loss must not fall; where something did, it must stay. */
static void check_not_weaker(const bench *b, const l2l_record *weak, const l2l_record *strong)
{
    int i;
    for (i = 0; i < b->n; i++) {
        if (weak[i].success) CHECK(strong[i].success);
        else if (!strong[i].success) CHECK(strong[i].loss >= weak[i].loss);
    }
}

static void more_is_never_weaker(void)
{
    static const int steps[] = {0, 1, 3, 10, 25}, restarts[] = {1, 2, 5};
    bench b;
    l2l_context *c = test_context(2);
    l2l_record before[MANY];
    int i, k;
    bench_begin(&b, c, small_model(c), MANY, 304);
    bench_labels_right(&b);
    for (i = 0; i < COUNT(steps) && b.n; i++) {
        l2l_attack a = l2l_attack_pgd(0.08);
        a.steps = steps[i];
        a.step_size = 0.06; /* coarse: the loss goes up and down */
        CHECK(bench_run(&b, &a));
        if (i) {
            check_not_weaker(&b, before, b.records);
            for (k = 0; k < b.n; k++)
                if (before[k].success) CHECK_INT(before[k].step, b.records[k].step);
        }
        memcpy(before, b.records, sizeof before);
        check_ball(&b, 0.08);
        check_records(&b);
    }
    for (i = 0; i < COUNT(restarts) && b.n; i++) {
        l2l_attack a = l2l_attack_pgd(0.08);
        a.restarts = restarts[i];
        a.steps = 3;
        CHECK(bench_run(&b, &a));
        if (i) {
            check_not_weaker(&b, before, b.records);
            for (k = 0; k < b.n; k++) {
                CHECK(b.records[k].restart >= 0 && b.records[k].restart < restarts[i]);
                if (before[k].success) CHECK_INT(before[k].restart, b.records[k].restart);
            }
        }
        memcpy(before, b.records, sizeof before);
        check_records(&b);
    }
    bench_end(&b);
}

/* last_iterate: the T-th iterate whatever happened before. On the linear model with a start from x
   that is x + min(T/4, 1) epsilon s, though the first iterate may have succeeded. */
static void last_iterate(void)
{
    const double epsilon = 0.2;
    outside o;
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_ifgsm(epsilon);
    int i, j, early = 0;
    outside_fill(&o, 0);
    bench_begin(&b, c, inside_model(c, &o), MANY, 305);
    bench_labels_right(&b);
    a.steps = 3;
    if (CHECK(bench_run(&b, &a))) for (i = 0; i < b.n; i++) early += b.records[i].step < 3;
    CHECK(early > 5);
    a.last_iterate = true;
    if (CHECK(bench_run(&b, &a)))
        for (i = 0; i < b.n; i++) {
            int y = b.labels[i];
            CHECK_INT(3, b.records[i].step);
            for (j = 0; j < D; j++) {
                double s = o.w[1 - y][j] > o.w[y][j] ? 1 : -1, x = (double)b.x[i * D + j];
                if (!CHECK_NEAR(fmin(fmax(x + 0.75 * epsilon * s, 0), 1), b.adv[i * D + j], 1e-6)) break;
            }
        }
    check_records(&b);
    bench_end(&b);
}

static l2l_tensor *flat_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

static void zero_gradients(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("flat", flat_forward, 1, SIDE, 3);
    l2l_attack a = l2l_attack_pgd(0.1);
    int i;
    o.last_layer_deviation = 0;
    bench_begin(&b, c, l2l_model_create(c, &o), 9, 306);
    for (i = 0; i < b.n; i++) b.labels[i] = 0; /* all logits 0: the lowest index, never a success */
    a.steps = 4;
    if (CHECK(bench_run(&b, &a)))
        for (i = 0; i < b.n; i++) {
            CHECK_INT(4, b.records[i].zero_gradients);
            CHECK_NEAR(log(3.0), b.records[i].loss, 1e-6);
            CHECK(!b.records[i].success);
        }
    l2l_model_free(b.m);
    b.m = small_model(c);
    free(b.x);
    free(b.adv);
    b.x = test_array(9 * 64);
    b.adv = test_array(9 * 64);
    b.size = 64;
    golden_fill(b.x, 9 * 64, 306, 0, 1);
    if (CHECK(bench_run(&b, &a)))
        for (i = 0; i < b.n; i++) CHECK_INT(0, b.records[i].zero_gradients);
    bench_end(&b);
}

/* One attack with several batch sizes and thread counts: always the first's images and records. */
static void compare_everywhere(const l2l_attack *attack, int targeted)
{
    static const int batches[] = {64, 1, 7}, threads[] = {1, 2, 4};
    l2l_real *adv = NULL;
    l2l_record *records = NULL;
    int i, j, k;
    for (i = 0; i < 3; i++)
        for (j = 0; j < 3; j++) {
            bench b;
            l2l_context *c = test_context(threads[i]);
            l2l_attack a = *attack;
            int *targets;
            bench_begin(&b, c, small_model(c), 64, 307);
            bench_labels_right(&b);
            targets = other_classes(&b);
            if (targeted) a.targets = targets;
            a.batch = batches[j];
            a.restarts = 2;
            a.steps = a.steps > 5 ? 5 : a.steps;
            a.seed = 3;
            if (CHECK(bench_run(&b, &a))) {
                size_t bytes = (size_t)b.n * (size_t)b.size * sizeof(l2l_real);
                if (!adv) {
                    memcpy(adv = (l2l_real *)test_memory(bytes), b.adv, bytes);
                    records = (l2l_record *)test_memory((size_t)b.n * sizeof *records);
                    memcpy(records, b.records, (size_t)b.n * sizeof *records);
                }
                CHECK_BYTES(adv, b.adv, bytes);
                for (k = 0; k < b.n; k++) CHECK_BYTES(&records[k], &b.records[k], sizeof *records);
                if (test_complaints)
                    printf("    %s%s, %d threads, batch %d\n", a.name, targeted ? ", targets" : "",
                           threads[i], batches[j]);
            }
            free(targets);
            bench_end(&b);
        }
    free(adv);
    free(records);
}

static void same_result_everywhere(void)
{
    int k;
    for (k = 0; k < 2 * COUNT(attacks); k++) {
        l2l_attack a = attack_number(k / 2);
        compare_everywhere(&a, k % 2);
    }
}

/* -- every attack on every kind of model ------------------------------------------------------- */

static l2l_model *kind_of_model(l2l_context *c, int kind, outside *o)
{
    static const char *const archs[] = {"smallcnn", "vgg16", "wrn", "resnet18"};
    l2l_model_options options;
    if (kind == 4) return small_model(c);
    if (kind == 5) return outside_model(c, o, 1);
    options = l2l_model_default(archs[kind]);
    options.width_multiplier = kind == 2 ? 1 : 0.125;
    options.depth = kind == 2 ? 10 : 0;
    if (kind != 0) options.height = options.width = kind == 1 ? 32 : 16;
    options.last_layer_deviation = 1;
    return l2l_model_create(c, &options);
}

/* Three images at once, in two threads, or one by one: the same, in the ball, with records that
   are the model's word; and the model has all its bits as before. */
static void check_on_model(int kind, int number)
{
    l2l_attack a = attack_number(number);
    l2l_real *before, *after, *adv;
    l2l_record records[3];
    outside o;
    bench b;
    l2l_context *c = test_context(2);
    int i, *targets;
    int64_t count;
    size_t bytes;
    outside_fill(&o, 0);
    bench_begin(&b, c, kind_of_model(c, kind, &o), 3, 320);
    bench_labels_right(&b);
    bytes = (size_t)b.n * (size_t)b.size * sizeof(l2l_real);
    before = all_parameters(b.m, &count);
    targets = other_classes(&b);
    targets[0] = b.labels[0];                /* reached at once, unless the start leads away      */
    if (number % 2) a.targets = targets;
    a.steps = a.steps > 2 ? 2 : a.steps;
    if (CHECK(bench_run(&b, &a))) {
        check_inside(&b, &a);
        check_records_of(&b, &a);
        memcpy(adv = (l2l_real *)test_memory(bytes), b.adv, bytes);
        memcpy(records, b.records, sizeof records);
        a.batch = 1;
        l2l_set_threads(c, 1);
        if (CHECK(bench_run(&b, &a))) CHECK_BYTES(adv, b.adv, bytes);
        for (i = 0; i < b.n; i++) CHECK_BYTES(&records[i], &b.records[i], sizeof records[i]);
        free(adv);
    }
    after = all_parameters(b.m, &count);
    CHECK_BYTES(before, after, (size_t)count * sizeof(l2l_real));
    CHECK(!l2l_recording(c));
    if (test_complaints) printf("    %s on model %d\n", a.name, kind);
    free(before);
    free(after);
    free(targets);
    bench_end(&b);
}

static void every_model(void)
{
    int kind, k;
    for (kind = 0; kind < 6; kind++)
        for (k = 0; k < COUNT(attacks); k++) check_on_model(kind, k);
}

/* -- targets ----------------------------------------------------------------------------------- */

/* Of two classes the one that is not the label is the only target, and every attack's steps are the
   same: the gradients of CE differ in length, those of the margin not even in that. */
static void target_is_the_other(void)
{
    int k;
    for (k = 0; k < COUNT(attacks); k++) {
        l2l_attack a = attack_number(k);
        outside o;
        bench b;
        l2l_context *c = test_context(1);
        l2l_real adv[MANY * D];
        l2l_record records[MANY];
        int targets[MANY], i, j;
        outside_fill(&o, 0);
        bench_begin(&b, c, inside_model(c, &o), MANY, 321);
        bench_labels_right(&b);
        for (i = 0; i < b.n; i++) targets[i] = 1 - b.labels[i];
        if (CHECK(bench_run(&b, &a))) {
            memcpy(adv, b.adv, sizeof adv);
            memcpy(records, b.records, sizeof records);
            CHECK(successes(&b) > 4 && successes(&b) < MANY);
        }
        a.targets = targets;
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                CHECK_INT(records[i].success, b.records[i].success);
                CHECK_INT(records[i].step, b.records[i].step);
                CHECK_INT(records[i].predicted, b.records[i].predicted);
                for (j = 0; j < D; j++)
                    if (!CHECK_NEAR(adv[i * D + j], b.adv[i * D + j], 1e-6)) break;
            }
        if (test_complaints) printf("    %s\n", a.name);
        bench_end(&b);
    }
}

/* Of five classes: it counts whether the target is reached, and nothing else. */
static void targets(void)
{
    int k, elsewhere = 0;
    for (k = 0; k < COUNT(attacks); k++) {
        l2l_attack a = attack_number(k);
        bench b;
        l2l_context *c = test_context(2);
        int *wanted, i;
        bench_begin(&b, c, small_model(c), 100, 322);
        bench_labels_right(&b);
        wanted = other_classes(&b);
        for (i = 0; i < 3 && b.n; i++) wanted[i] = b.labels[i]; /* reached from the beginning */
        a.targets = wanted;
        a.step_size = step_of(&a);          /* as in a ball of two thirds */
        a.epsilon *= 1.5;
        if (CHECK(bench_run(&b, &a))) {
            check_inside(&b, &a);
            check_records_of(&b, &a);
            CHECK(successes(&b) > 5 && successes(&b) < b.n);
            for (i = 0; i < b.n; i++)
                elsewhere += !b.records[i].success && b.records[i].predicted != b.labels[i];
            if (!a.last_iterate) for (i = 0; i < 3; i++) CHECK_INT(0, b.records[i].step);
        }
        if (test_complaints) printf("    %s\n", a.name);
        free(wanted);
        bench_end(&b);
    }
    CHECK(elsewhere > 20);                   /* led away from the label is no success             */
}

/* The margin is cut off where the image has gone far enough, on either side: a loss of confidence
   gives no gradient beyond 50, but 3000 below 0 there is one. */
static void cut_margin(void)
{
    int kind;
    for (kind = 0; kind < 4; kind++) { /* from far below or far above; without and with targets */
        outside o;
        bench b;
        l2l_context *c = test_context(1);
        l2l_attack a = l2l_attack_cw_pgd(0.1);
        int targets[9], i, j, above = kind % 2;
        outside_fill(&o, 3000);
        bench_begin(&b, c, inside_model(c, &o), 9, 323);
        for (i = 0; i < b.n; i++) {
            b.labels[i] = !above;
            targets[i] = above;
        }
        if (kind / 2) a.targets = targets;
        a.start = L2L_START_CLEAN;
        a.last_iterate = true;
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                int to = above;              /* class 1 wins everywhere by about 3000             */
                if (above) CHECK_NEAR(50, b.records[i].loss, 1e-3);
                else CHECK(b.records[i].loss < -2900);
                CHECK_INT(above ? a.steps : 0, b.records[i].zero_gradients);
                CHECK_INT(above, b.records[i].success);
                for (j = 0; j < D && !above; j++) {
                    double s = o.w[to][j] > o.w[1 - to][j] ? 1 : -1, x = (double)b.x[i * D + j];
                    if (!CHECK_NEAR(fmin(fmax(x + 0.1 * s, 0), 1), b.adv[i * D + j], 1e-6)) break;
                }
                if (above) CHECK_NEAR(0, b.records[i].linf, 0);
            }
        bench_end(&b);
    }
}

/* -- the l2 ball ------------------------------------------------------------------------------- */

static double length_of(const double *d)
{
    double s = 0;
    int j;
    for (j = 0; j < D; j++) s += d[j] * d[j];
    return sqrt(s);
}

/* x' into the l2 ball, then into [0,1]. */
static void project_l2(double *z, const l2l_real *x, double epsilon)
{
    double d[D], length;
    int j;
    for (j = 0; j < D; j++) d[j] = z[j] - (double)x[j];
    length = length_of(d);
    for (j = 0; j < D; j++) {
        if (length > epsilon) z[j] = (double)x[j] + d[j] * (epsilon / length);
        z[j] = fmin(fmax(z[j], 0), 1);
    }
}

/* From x the linear model's margin rises by |w|_2 epsilon t/4, up to t = 4; from the documented
   start all iterates are simulated in double. */
static void l2_simulated(void)
{
    const double epsilon = 0.4;
    int kind;
    for (kind = 0; kind < 2; kind++) {
        outside o;
        bench b;
        l2l_context *c = test_context(2);
        l2l_attack a = l2l_attack_pgd_l2(epsilon);
        int i, j, t, clipped = 0;
        outside_fill(&o, 12);                /* class 1 whatever happens                          */
        bench_begin(&b, c, inside_model(c, &o), MANY, 324);
        for (i = 0; i < b.n; i++) b.labels[i] = 1;
        for (i = 0; i < b.n * D && kind == 0; i++) b.x[i] = (l2l_real)(0.4 + 0.2 * (double)b.x[i]);
        a.objective = l2l_objective_margin();
        a.start = kind ? L2L_START_UNIFORM : L2L_START_CLEAN;
        a.seed = 78;
        a.first = 50;
        a.last_iterate = true;
        a.steps = kind ? 10 : 3;
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                const l2l_real *x = b.x + i * D;
                double z[D], w[D], r[D], clean[D], got[D], length, start = 0;
                l2l_stream s;
                memset(&s, 0, sizeof s);
                s.seed = 78;
                s.purpose = L2L_RANDOM_START;
                s.image = 50 + (uint32_t)i;
                for (j = 0; j < D; j++) r[j] = l2l_random_normal(&s, (uint32_t)j);
                length = length_of(r);
                if (kind) start = epsilon * pow(l2l_random_uniform(&s, D + D % 2), 1.0 / D) / length;
                for (j = 0; j < D; j++) {
                    z[j] = clean[j] = (double)x[j];
                    z[j] += start * r[j];
                    w[j] = o.w[0][j] - o.w[1][j];
                    got[j] = (double)b.adv[i * D + j];
                }
                project_l2(z, x, epsilon);
                for (t = 0; t < a.steps; t++) {
                    for (j = 0; j < D; j++) z[j] += epsilon / 4 * w[j] / length_of(w);
                    project_l2(z, x, epsilon);
                }
                for (j = 0; j < D; j++) {
                    clipped += got[j] <= 0 || got[j] >= 1;
                    if (!CHECK_NEAR(z[j], got[j], 1e-6)) break;
                }
                if (kind) continue;
                CHECK_NEAR(0.75 * epsilon * length_of(w),
                           outside_margin(&o, got, 1) - outside_margin(&o, clean, 1), 1e-5);
                CHECK_NEAR(0.75 * epsilon, b.records[i].l2, 1e-6);
            }
        CHECK(kind == (clipped > MANY));
        check_inside(&b, &a);
        check_records_of(&b, &a);
        bench_end(&b);
    }
}

/* Uniform in the ball of dimension 25: r^25 is uniform, every coordinate has mean 0 and variance
   epsilon^2/27. Bounds of five standard deviations. */
static void l2_start(void)
{
    enum { N = 2000 };
    outside o;
    bench b;
    l2l_context *c = test_context(2);
    l2l_attack a = l2l_attack_pgd_l2(0.45);
    double mean = 0, square = 0, variance = 0.45 * 0.45 / (D + 2);
    int i, j, quarter = 0;
    outside_fill(&o, 0);
    bench_begin(&b, c, inside_model(c, &o), N, 325);
    for (i = 0; i < b.n * D; i++) b.x[i] = (l2l_real)0.5;
    a.steps = 0;
    a.last_iterate = true;
    if (CHECK(bench_run(&b, &a))) {
        for (i = 0; i < N; i++) {
            double u = pow(b.records[i].l2 / 0.45, D);
            mean += u / N;
            quarter += u < 0.25;
        }
        CHECK_NEAR(0.5, mean, 5 * sqrt(1.0 / 12 / N));
        CHECK_NEAR(0.25 * N, quarter, 5 * sqrt(0.25 * 0.75 * N));
        for (j = 0; j < D; j++) {
            for (i = 0, mean = square = 0; i < N; i++) {
                double d = (double)b.adv[i * D + j] - 0.5;
                mean += d / N;
                square += d * d / N;
            }
            CHECK_NEAR(0, mean, 5 * sqrt(variance / N));
            CHECK_NEAR(variance, square, 5 * variance * sqrt(2.0 / N));
        }
    }
    check_inside(&b, &a);
    bench_end(&b);
}

/* A large grey image and a gradient that is the same everywhere: all pixels of x' are rounded the
   same way, which the check of the ball must bear. */
static l2l_tensor *grey_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *sum = l2l_sum_to(c, x, l2l_shape_of(x->shape.n, 1, 1, x->shape.c));
    (void)user;
    return l2l_affine(c, sum, 1e-3, 0);
}

static void l2_rounding(void)
{
    int grey;
    for (grey = 1; grey < 10; grey++) {
        l2l_context *c = test_context(2);
        l2l_model_options o = own_options("grey", grey_forward, 2, 224, 2);
        l2l_attack a = l2l_attack_pgd_l2(0.5);
        bench b;
        int i;
        a.start = L2L_START_CLEAN;
        bench_begin(&b, c, l2l_model_create(c, &o), 2, 326);
        for (i = 0; i < b.n * b.size; i++) b.x[i] = (l2l_real)(0.1 * grey);
        for (i = 0; i < b.n * b.size; i += b.size) b.x[i] = (l2l_real)0; /* class 1 */
        for (i = 0; i < b.n; i++) b.labels[i] = 0;
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) CHECK_NEAR(0, b.records[i].step, 0);
        for (i = 0; i < b.n; i++) b.labels[i] = 1;
        CHECK(bench_run(&b, &a));
        bench_end(&b);
    }
}

/* Gradients so small that 1/|g| is beyond the range of float. */
static void tiny_gradients(void)
{
    int kind;
    for (kind = 0; kind < 2; kind++) {
        outside o;
        bench b;
        l2l_context *c = test_context(1);
        l2l_attack a = kind ? l2l_attack_mim(0.4) : l2l_attack_pgd_l2(0.4);
        int i, j, k;
        outside_fill(&o, 0);
        for (k = 0; k < 2; k++)
            for (j = 0; j < D; j++) o.w[k][j] *= j % 3 ? 1e-40 : 0;
        o.b[1] = 1e-20;
        bench_begin(&b, c, outside_model(c, &o, 1), 9, 327);
        for (i = 0; i < b.n; i++) b.labels[i] = 1;
        for (i = 0; i < b.n * D; i++) b.x[i] = (l2l_real)(0.4 + 0.2 * (double)b.x[i]);
        a.objective = l2l_objective_margin();
        a.start = L2L_START_CLEAN;
        a.last_iterate = true;
        a.steps = 2;
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                CHECK_INT(0, b.records[i].zero_gradients);
                CHECK_NEAR(0.2, kind ? b.records[i].linf : b.records[i].l2, 1e-4);
                for (j = 0; j < D; j++) {
                    double d = (double)b.adv[i * D + j] - (double)b.x[i * D + j];
                    if (!CHECK(j % 3 ? d * (o.w[0][j] - o.w[1][j]) > 0 : fabs(d) <= 0)) break;
                }
            }
        bench_end(&b);
    }
}

/* -- maximizers with memory -------------------------------------------------------------------- */

/* z = (0, sum over j of k_j (x_j - a_j)^2): under label 1 the margin's gradient is 2 k (a - x),
   which changes its sign on the way. */
typedef struct bowl { double k[D], a[D]; } bowl;

static bool bowl_logits(void *user, const l2l_real *x, int n, l2l_real *z)
{
    const bowl *o = (const bowl *)user;
    int i, j;
    for (i = 0; i < n; i++) {
        double s = 0;
        for (j = 0; j < D; j++) s += o->k[j] * pow((double)x[i * D + j] - o->a[j], 2);
        z[2 * i] = 0;
        z[2 * i + 1] = (l2l_real)s;
    }
    return true;
}

static bool bowl_vjp(void *user, const l2l_real *x, int n, const l2l_real *dz, l2l_real *dx)
{
    const bowl *o = (const bowl *)user;
    int i, j;
    for (i = 0; i < n; i++)
        for (j = 0; j < D; j++)
            dx[i * D + j] = (l2l_real)((double)dz[2 * i + 1] * 2 * o->k[j] *
                                       ((double)x[i * D + j] - o->a[j]));
    return true;
}

/* One step of the simulation: momentum on the sign, or Adam with its penalty. False where rounding
   could decide otherwise. */
static bool memory_step(const bowl *o, int adam, const l2l_real *x, double *z, double *m, double *v,
                        double epsilon, int t)
{
    double g[D], norm = 0, far = 0, second = 0;
    bool sure = true;
    int j, at = 0;
    for (j = 0; j < D; j++) {
        double d = fabs(z[j] - (double)x[j]);
        g[j] = -2 * o->k[j] * (z[j] - o->a[j]);
        norm += fabs(g[j]);
        if (d > far) { second = far; far = d; at = j; }
        else if (d > second) second = d;
    }
    if (adam && far > 8.0 / 255) {
        sure = far - second > 1e-6;
        g[at] -= z[at] > (double)x[at] ? 1 : -1;
    }
    for (j = 0; j < D; j++) {
        if (adam) {
            m[j] = 0.9 * m[j] + 0.1 * g[j];
            v[j] = 0.999 * v[j] + 0.001 * g[j] * g[j];
            z[j] += 0.001 * m[j] / (1 - pow(0.9, t + 1)) /
                    (sqrt(v[j] / (1 - pow(0.999, t + 1))) + 1e-8);
        } else {
            m[j] += g[j] / norm;
            sure = sure && fabs(m[j]) > 1e-5;
            z[j] += epsilon / 4 * (m[j] > 0 ? 1 : -1);
        }
    }
    project_into(z, x, epsilon);
    return sure;
}

static void memory_simulated(void)
{
    static const int steps[] = {1, 2, 10, 60, 100};
    int kind, k;
    for (kind = 0; kind < 2; kind++)
        for (k = 0; k < (kind ? 5 : 3); k++) {
            const double epsilon = 0.2;
            bowl o;
            bench b;
            l2l_external e;
            l2l_context *c = test_context(1);
            l2l_attack a = kind ? l2l_attack_cw_l2lda(epsilon) : l2l_attack_mim(epsilon);
            l2l_real fill[2 * D];
            int i, j, t, checked = 0, penalized = 0;
            golden_fill(fill, 2 * D, 328, 0, 1);
            for (j = 0; j < D; j++) {
                o.k[j] = 0.5 + (double)fill[j];
                o.a[j] = (double)fill[D + j];
            }
            memset(&e, 0, sizeof e);
            e.channels = 1;
            e.height = e.width = SIDE;
            e.classes = 2;
            e.user = &o;
            e.logits = bowl_logits;
            e.vjp = bowl_vjp;
            bench_begin(&b, c, l2l_model_external(c, &e), MANY, 329);
            for (i = 0; i < b.n; i++) b.labels[i] = 1;
            a.objective = l2l_objective_margin();
            a.objective.cut = kind == 1;
            a.last_iterate = true;
            a.steps = steps[k];
            if (CHECK(bench_run(&b, &a)))
                for (i = 0; i < b.n; i++) {
                    const l2l_real *x = b.x + i * D;
                    double z[D], m[D] = {0}, v[D] = {0};
                    bool sure = true;
                    for (j = 0; j < D; j++) z[j] = (double)x[j];
                    for (t = 0; t < steps[k]; t++)
                        sure = memory_step(&o, kind, x, z, m, v, epsilon, t) && sure;
                    penalized += b.records[i].linf > 8.0 / 255;
                    if (!sure) continue;
                    checked++;
                    CHECK(!b.records[i].success);
                    for (j = 0; j < D; j++)
                        if (!CHECK_NEAR(z[j], b.adv[i * D + j], 1e-5)) break;
                }
            CHECK(checked > (steps[k] > 32 ? 5 : MANY / 2)); /* the penalty makes pixels level    */
            if (kind) CHECK((penalized > MANY / 2) == (steps[k] > 32));
            if (test_complaints) printf("    %s, %d steps\n", a.name, steps[k]);
            check_inside(&b, &a);
            bench_end(&b);
        }
}

/* -- several attacks --------------------------------------------------------------------------- */

static bool count_progress(void *user, int done, int total)
{
    int *seen = (int *)user;
    CHECK(done <= total);
    seen[0] += done == total;
    seen[1] = total;
    return true;
}

/* Image by image what the attacks one by one give, put together by hand. */
static void worst_of_several(void)
{
    enum { KINDS = 5, N = 60 };
    bench b;
    l2l_context *c = test_context(2);
    l2l_attack list[KINDS];
    l2l_record *each[KINDS];
    l2l_real *images[KINDS], *init;
    int progress[KINDS][2] = {{0}}, winners[KINDS] = {0}, *wanted, i, k;
    bench_begin(&b, c, small_model(c), N, 330);
    bench_labels_right(&b);
    wanted = other_classes(&b);
    init = test_array((int64_t)b.n * b.size);
    golden_fill(init, (int64_t)b.n * b.size, 331, 0, 1);
    list[0] = l2l_attack_fgsm(0.03);
    list[1] = l2l_attack_mim(0.06);
    list[1].targets = wanted;
    list[2] = l2l_attack_pgd(0.06);
    list[2].init = init;
    list[2].restarts = 2;
    list[3] = l2l_attack_pgd_l2(0.5);
    list[4] = l2l_attack_cw_l2lda(0.3);
    for (k = 0; k < KINDS; k++) {
        size_t bytes = (size_t)b.n * (size_t)b.size * sizeof(l2l_real);
        images[k] = (l2l_real *)test_memory(bytes);
        each[k] = (l2l_record *)test_memory(N * sizeof **each);
        list[k].first = 900;
        list[k].batch = 16;
        list[k].seed = 5;
        CHECK(bench_run(&b, &list[k]));
        memcpy(images[k], b.adv, bytes);
        memcpy(each[k], b.records, N * sizeof **each);
        list[k].progress = count_progress;
        list[k].user = progress[k];
    }
    memset(b.adv, 0, (size_t)b.n * (size_t)b.size * sizeof(l2l_real));
    if (CHECK(l2l_attack_worst(b.m, list, KINDS, b.x, b.labels, b.n, b.adv, b.records))) {
        int standing[KINDS + 1] = {0};
        for (i = 0; i < b.n; i++) {
            l2l_record *r = &b.records[i], expected;
            int winner = 0, moved = 0, last = 0;
            int forwards = 0, backwards = 0, zeros = 0;
            for (k = 0; k < KINDS; k++) {
                bool left = each[k][i].predicted != b.labels[i];
                standing[k]++;
                forwards += each[k][i].forwards;
                backwards += each[k][i].backwards;
                zeros += each[k][i].zero_gradients;
                if (left && !moved) winner = k;
                moved = moved || left;
                last = k;
                if (each[k][i].success) { winner = k; break; }
            }
            winners[winner]++;
            expected = each[winner][i];
            CHECK_INT(winner, r->attack);
            CHECK_INT(forwards, r->forwards);
            CHECK_INT(backwards, r->backwards);
            CHECK_INT(zeros, r->zero_gradients);
            expected.attack = r->attack;
            expected.forwards = r->forwards;
            expected.backwards = r->backwards;
            expected.zero_gradients = r->zero_gradients;
            CHECK_BYTES(&expected, r, sizeof expected);
            CHECK_BYTES(images[winner] + i * b.size, b.adv + i * b.size,
                        (size_t)b.size * sizeof(l2l_real));
            CHECK(last < KINDS);
        }
        for (k = 0; k < KINDS; k++) {        /* only those that stood were attacked               */
            CHECK_INT(1, progress[k][0]);
            CHECK_INT(standing[k], progress[k][1]);
        }
        CHECK(winners[0] > 0 && winners[2] > 0 && winners[3] > 0); /* it was a test */
        CHECK(standing[KINDS - 1] > 0 && standing[KINDS - 1] < standing[1]);
    }
    list[2].restarts = 0;
    progress[0][0] = 0;
    CHECK(!l2l_attack_worst(b.m, list, KINDS, b.x, b.labels, b.n, b.adv, b.records));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "restarts");
    CHECK_INT(0, progress[0][0]);            /* before anything was run                           */
    CHECK(!l2l_attack_worst(b.m, list, 0, b.x, b.labels, b.n, b.adv, b.records));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "0 attacks");
    CHECK(l2l_attack_worst(b.m, list, 1, b.x, b.labels, 0, b.adv, b.records));
    for (k = 0; k < KINDS; k++) {
        free(images[k]);
        free(each[k]);
    }
    free(init);
    free(wanted);
    bench_end(&b);
}

/* One step of FGSM, ten of PGD, a hundred of PGD: accuracy does not rise. */
static void order_of_strength(void)
{
    bench b;
    l2l_context *c = test_context(1);
    int kind, i, right[4] = {0};
    bench_begin(&b, c, small_model(c), 100, 332);
    bench_labels_right(&b);
    for (kind = 0; kind < 4 && b.n; kind++) {
        l2l_attack a = kind == 0 ? l2l_attack_fgsm(0.06) : l2l_attack_pgd(0.06);
        if (kind >= 2) a.steps = 100;
        if (kind == 2) a.step_size = 0.06 / 12;
        if (kind == 3) a.restarts = 5;
        if (!CHECK(bench_run(&b, &a))) break;
        for (i = 0; i < b.n; i++) right[kind] += !b.records[i].success;
    }
    CHECK(b.n > right[0] && right[0] >= right[1] && right[1] >= right[2] && right[2] >= right[3]);
    CHECK(right[0] > right[3] && right[3] > 0);
    bench_end(&b);
}

/* KL(f(x) || f(x')) has its minimum at x' = x: the gradient there is 0 up to rounding, which a sign
   step would follow all the same. That is why TRADES starts from noise. */
static void kl_at_x(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = small_model(c);
    double largest[2] = {0, 0};
    int kind, i;
    for (kind = 0; kind < 2; kind++) {
        l2l_tensor *x = seeded(c, 8, 1, 8, 8, 333, 0.1, 0.9), *z, *adv, *clean, *loss, *g = NULL;
        adv = l2l_add(c, x, l2l_affine(c, seeded(c, 8, 1, 8, 8, 334, -1, 1), kind ? 1e-3 : 0, 0));
        clean = l2l_model_forward(m, x, L2L_EVALUATE);
        l2l_set_recording(c, true);
        z = l2l_model_forward(m, adv, L2L_EVALUATE);
        loss = l2l_sum(c, l2l_objective_kl().loss(c, z, clean, NULL, NULL));
        if (CHECK(loss && l2l_grad(c, loss, &adv, 1, &g, L2L_FREE_GRAPH)))
            for (i = 0; i < 8 * 64; i++) {
                double size = fabs((double)g->data[i]);
                if (!(size <= largest[kind])) largest[kind] = size;
            }
        l2l_set_recording(c, false);
    }
    CHECK(largest[0] < 1e-6);
    CHECK(largest[1] > 1e-4);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Images 0..19 at once, or 0..6 and 7..19 with `first` told: the same starts, the same result. */
static void index_of_first(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_pgd(0.08);
    l2l_real *whole;
    bench_begin(&b, c, small_model(c), 20, 308);
    whole = test_array(20 * (int64_t)b.size);
    a.steps = 2;
    if (CHECK(bench_run(&b, &a))) {
        memcpy(whole, b.adv, 20 * (size_t)b.size * sizeof(l2l_real));
        memset(b.adv, 0, 20 * (size_t)b.size * sizeof(l2l_real));
        CHECK(l2l_attack_run(b.m, &a, b.x, b.labels, 7, b.adv, b.records));
        a.first = 7;
        CHECK(l2l_attack_run(b.m, &a, b.x + 7 * b.size, b.labels + 7, 13, b.adv + 7 * b.size,
                             b.records + 7));
        CHECK_BYTES(whole, b.adv, 20 * (size_t)b.size * sizeof(l2l_real));
    }
    free(whole);
    bench_end(&b);
}

static void initial_points(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_real *init;
    int i;
    bench_begin(&b, c, small_model(c), 8, 309);
    init = test_array(8 * (int64_t)b.size);
    golden_fill(init, 8 * (int64_t)b.size, 310, 0, 1);
    for (i = 0; i < 8 * b.size && b.n; i++) {
        double x = (double)b.x[i], z = (double)init[i] * 0.18 - 0.09 + x; /* well inside */
        init[i] = (l2l_real)fmin(fmax(z, 0), 1);
    }
    a.init = init;
    a.steps = 0;
    a.last_iterate = true;
    if (CHECK(bench_run(&b, &a))) CHECK_BYTES(init, b.adv, 8 * (size_t)b.size * sizeof(l2l_real));
    check_records(&b);
    free(init);
    bench_end(&b);
}

static bool stop_at_once(void *user, int done, int total)
{
    int *calls = (int *)user;
    CHECK(done >= 0 && done <= total);
    return ++*calls < 2;
}

static void refused(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack good = l2l_attack_pgd(0.1), a;
    int calls = 0;
    bench_begin(&b, c, small_model(c), 5, 311);
    if (!b.n) { bench_end(&b); return; }
    b.x[70] = (l2l_real)NAN;
    CHECK(!bench_run(&b, &good));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "image");
    b.x[70] = (l2l_real)1.5;
    CHECK(!bench_run(&b, &good));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "1.5");
    b.x[70] = (l2l_real)-0.25;
    CHECK(!bench_run(&b, &good));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "-0.25");
    b.x[70] = (l2l_real)0.5;
    b.labels[3] = 5;
    CHECK(!bench_run(&b, &good));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "label");
    b.labels[3] = -1;
    CHECK(!bench_run(&b, &good));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "label");
    b.labels[3] = 0;
    a = good; a.epsilon = -0.1;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "epsilon");
    a = good; a.epsilon = (double)NAN;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "epsilon");
    a = good; a.step_size = -1;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "step");
    a = good; a.steps = -1;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "steps");
    a = good; a.restarts = 0;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "restarts");
    a = good; a.batch = 0;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "batch");
    CHECK(!l2l_attack_run(b.m, &good, b.x, b.labels, -1, b.adv, b.records));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "");
    a = good; a.progress = stop_at_once; a.user = &calls; a.batch = 1;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_CANCELLED, "");
    CHECK_INT(2, calls);
    l2l_error_set(c, L2L_ERROR_CALLBACK, "earlier");
    CHECK(!bench_run(&b, &good));
    CHECK_ERROR(c, L2L_ERROR_CALLBACK, "earlier");
    a = good; a.epsilon = 0;
    if (CHECK(bench_run(&b, &a))) CHECK_BYTES(b.x, b.adv, 5 * (size_t)b.size * sizeof(l2l_real));
    CHECK(bench_run(&b, &good));
    bench_end(&b);
}

static void external_models(void)
{
    outside o;
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_bls(0.1);
    long forwards = 0, backwards = 0;
    int i;
    outside_fill(&o, 0);
    bench_begin(&b, c, outside_model(c, &o, 1), 30, 312);
    bench_labels_right(&b);
    a.batch = 8;
    o.images = o.vjps = 0;
    if (CHECK(bench_run(&b, &a)))            /* the trials of the line search, too                */
        for (i = 0; i < b.n; i++) forwards += b.records[i].forwards;
    CHECK(forwards > b.n * 2 + o.vjps);
    CHECK_INT(forwards, o.images);
    a = l2l_attack_pgd(0.1);
    a.batch = 8;
    o.images = o.vjps = 0;
    forwards = 0;
    if (CHECK(bench_run(&b, &a))) {
        for (i = 0; i < b.n; i++) {
            forwards += b.records[i].forwards;
            backwards += b.records[i].backwards;
        }
        /* the records count each image's passes until it was fooled; then it leaves, at once where
           batches are as small as here, and the model is not asked about it any more */
        CHECK(forwards >= 2 * b.n && backwards >= b.n && backwards < 10 * b.n);
        CHECK_INT(forwards, o.images);
        CHECK_INT(backwards, o.vjps);
    }
    o.images = 0;
    o.cancel_after = 20;
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_CANCELLED, "");
    o.cancel_after = 0;
    CHECK(bench_run(&b, &a));
    l2l_model_free(b.m);
    b.m = outside_model(c, &o, 0);
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "");
    a.maximizer = l2l_maximizer_none(); /* needs no gradient */
    a.steps = 0;
    CHECK(bench_run(&b, &a));
    bench_end(&b);
}

static void model_untouched(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("moody", moody_forward, 3, 8, 10);
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_real *before, *after, first[10 * 12], second[10 * 12];
    int64_t n;
    bench_begin(&b, c, l2l_model_create(c, &o), 12, 313);
    if (b.n) {
        before = all_parameters(b.m, &n);
        CHECK(l2l_model_logits(b.m, b.x, 12, first));
        CHECK(bench_run(&b, &a));
        CHECK(l2l_model_logits(b.m, b.x, 12, second));
        after = all_parameters(b.m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
        CHECK_BYTES(first, second, sizeof first);
        CHECK(!l2l_recording(c));
        free(before);
        free(after);
        check_ball(&b, 0.1);
        check_records(&b);
    }
    bench_end(&b);
}

static void objectives(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_pgd(0.05);
    int i, kind;
    bench_begin(&b, c, small_model(c), MANY, 314);
    bench_labels_right(&b);
    for (kind = 0; kind < 2; kind++) {
        a.objective = kind ? l2l_objective_margin() : l2l_objective_kl();
        if (!CHECK(bench_run(&b, &a))) break;
        check_ball(&b, 0.05);
        for (i = 0; i < b.n; i++)
            if (kind) CHECK((b.records[i].loss > 0) == b.records[i].success);
            else CHECK(b.records[i].loss > 0);
    }
    bench_end(&b);
}

/* -- images that are fooled leave -------------------------------------------------------------- */

/* The logits are the 5 channels of a 1x1 image: a view of the input. */
static l2l_tensor *view_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_reshape(l2l_model_context(m), x, l2l_shape_of(x->shape.n, 1, 1, 5));
}

static l2l_model *view_model(l2l_context *c)
{
    l2l_model_options o = own_options("view", view_forward, 5, 1, 5);
    return l2l_model_create(c, &o);
}

/* Runs `a` in batches of 1, where there is nobody to leave, 3, 7 and all: the same records and
   images. In batches below 64 nobody is attacked any longer than needed, so the passes are those of
   the records; in a larger one less than a thirty-second of each is wasted. */
static void check_leaving(bench *b, const l2l_attack *attack)
{
    static const int batches[] = {1, 3, 7, 100};
    size_t bytes = (size_t)b->n * (size_t)b->size * sizeof(l2l_real), used = 0;
    l2l_real *adv = (l2l_real *)test_memory(bytes);
    l2l_record *records = (l2l_record *)test_memory((size_t)b->n * sizeof *records);
    l2l_attack a = *attack;
    counted o;
    int i, k;
    o.inner = attack->objective;
    a.objective.loss = counted_loss;
    a.objective.user = &o;
    for (k = 0; k < COUNT(batches); k++) {
        int needed = 0;
        a.batch = batches[k];
        o.images = 0;
        if (!CHECK(bench_run(b, &a))) break;
        if (k == 0) {
            memcpy(adv, b->adv, bytes);
            memcpy(records, b->records, (size_t)b->n * sizeof *records);
        }
        CHECK_BYTES(adv, b->adv, bytes);
        for (i = 0; i < b->n; i++) {
            needed += b->records[i].forwards - a.objective.needs_clean;
            CHECK_BYTES(&records[i], &b->records[i], sizeof records[i]);
        }
        if (a.batch < 64) CHECK_INT(needed, o.images);
        CHECK(o.images >= needed && 31 * o.images <= 32 * needed);
        CHECK(needed < b->n * (1 + a.restarts * (a.steps + 1))); /* somebody left                 */
        if (test_complaints) printf("    %s, %s, batch %d\n", a.name, o.inner.name, a.batch);
    }
    used = l2l_memory_used(b->c);
    CHECK(bench_run(b, &a));
    CHECK_INT((int)used, (int)l2l_memory_used(b->c));
    free(adv);
    free(records);
}

static void leaving(void)
{
    int kind, i;
    for (kind = 0; kind < 8 + COUNT(attacks); kind++) {
        bench b;
        l2l_context *c = test_context(1 + kind % 2);
        l2l_attack a = kind == 0   ? l2l_attack_fgsm(0.05)
                       : kind == 1 ? l2l_attack_ifgsm(0.08)
                       : kind < 8  ? l2l_attack_pgd(0.08)
                                   : attack_number(kind - 8);
        l2l_real *init;
        bench_begin(&b, c, kind == 6 ? view_model(c) : small_model(c), 100, 316);
        init = test_array((int64_t)b.n * b.size);
        bench_labels_right(&b);
        for (i = 0; i < 5 && b.n; i++) b.labels[7 * i] = (b.labels[7 * i] + 1) % b.classes;
        a.name = kind == 6 ? "view" : a.name;
        a.seed = 9;
        a.first = 500;
        a.restarts = kind == 3 || kind == 5 ? 3 : kind > 7 ? 2 : 1;
        if (a.last_iterate) a.steps = 5;
        a.last_iterate = false;              /* there nobody leaves                               */
        if (kind == 4) a.objective = l2l_objective_margin();
        if (kind == 5 || kind == 6) a.objective = l2l_objective_kl();
        if (kind == 7) {
            golden_fill(init, (int64_t)b.n * b.size, 317, 0, 1);
            a.init = init;
            a.restarts = 2;
        }
        if (b.n) check_leaving(&b, &a);
        free(init);
        bench_end(&b);
    }
}

/* A maximizer of one's own with state by image: momentum in `v` and in in->delta. */
typedef struct own_state {
    const bench *b;
    l2l_real v[MANY * 64];
    int n, most, least, keeps, fail_at;
} own_state;

static bool own_begin(void *self, l2l_inner *in)
{
    own_state *s = (own_state *)self;
    memset(s->v, 0, sizeof s->v);
    memset(in->delta->data, 0, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    s->n = in->n;
    return true;
}

static bool own_step(void *self, l2l_inner *in)
{
    own_state *s = (own_state *)self;
    int i, j, size = s->b->size;
    CHECK_INT(s->n, in->n);
    CHECK_INT(in->n, in->batch);
    CHECK_INT(in->n, in->x->shape.n);
    CHECK_INT(in->n, in->g[in->t]->shape.n);
    if (in->n > s->most) s->most = in->n;
    if (in->n < s->least) s->least = in->n;
    for (i = 0; i < in->n; i++) {
        uint32_t image = in->images[i];
        CHECK_BYTES(s->b->x + (int)image * size, in->x->data + i * size,
                    (size_t)size * sizeof(l2l_real));
        CHECK_INT(s->b->labels[image], in->labels[i]);
        for (j = i * size; j < (i + 1) * size; j++) {
            s->v[j] = (l2l_real)0.7 * s->v[j] + in->g[in->t]->data[j];
            in->delta->data[j] = (l2l_real)0.5 * in->delta->data[j] +
                                 (s->v[j] > 0 ? (l2l_real)0.01 : (l2l_real)-0.01) *
                                     (1 + in->loss[i] + (l2l_real)in->predicted[i]);
        }
    }
    return true;
}

static bool own_keep(void *self, l2l_inner *in, const int *kept, int n)
{
    own_state *s = (own_state *)self;
    int i, size = s->b->size;
    CHECK_INT(s->n, in->n);
    CHECK(n > 0 && n < in->n);
    for (i = 0; i < n; i++) {
        CHECK(kept[i] < in->n && kept[i] >= (i ? kept[i - 1] + 1 : 0));
        memmove(s->v + i * size, s->v + kept[i] * size, (size_t)size * sizeof *s->v);
    }
    s->n = n;
    return ++s->keeps != s->fail_at;
}

/* Without `keep` every step sees its whole batch; with it fewer and fewer images, each with all
   that is its own, and the same results. */
static void leaving_own(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_pgd(0.08);
    own_state *s = (own_state *)test_memory(sizeof *s);
    l2l_real adv[MANY * 64];
    l2l_record records[MANY];
    size_t peak = 0;
    int kind, i;
    bench_begin(&b, c, small_model(c), MANY, 318);
    bench_labels_right(&b);
    a.steps = 8;
    a.restarts = 2;
    a.maximizer.self = s; /* PGD's with another step: it must not pass for PGD's */
    a.maximizer.begin = own_begin;
    a.maximizer.step = own_step;
    for (kind = 0; kind < 3 && b.n; kind++) {
        memset(s, 0, sizeof *s);
        s->b = &b;
        s->least = MANY;
        a.batch = kind ? MANY : 1;
        if (kind == 2) a.maximizer.keep = own_keep;
        if (!CHECK(bench_run(&b, &a))) break;
        if (kind == 0) {
            memcpy(adv, b.adv, sizeof adv);
            memcpy(records, b.records, sizeof records);
        }
        CHECK_BYTES(adv, b.adv, sizeof adv);
        for (i = 0; i < MANY; i++) CHECK_BYTES(&records[i], &b.records[i], sizeof records[i]);
        if (kind < 2) CHECK(s->most == a.batch && s->least == a.batch);
        else CHECK(s->keeps > 3 && s->least < MANY / 2);
        if (kind == 2) CHECK(peak == l2l_memory_peak(c)); /* fewer images, no more memory */
        peak = l2l_memory_peak(c);
    }
    if (b.n) {
        size_t used = l2l_memory_used(c);
        memset(s, 0, sizeof *s);
        s->b = &b;
        s->fail_at = 2;
        a.maximizer.name = "stubborn";
        CHECK(!bench_run(&b, &a));
        CHECK_ERROR(c, L2L_ERROR_CALLBACK, "'stubborn' could not keep");
        CHECK_INT(2, s->keeps);
        CHECK_INT((int)used, (int)l2l_memory_used(c));
        s->fail_at = 0;
        if (CHECK(bench_run(&b, &a))) CHECK_BYTES(adv, b.adv, sizeof adv);
        a.last_iterate = true; /* where every step counts nobody leaves */
        s->keeps = 0;
        s->least = MANY;
        CHECK(bench_run(&b, &a));
        CHECK_INT(0, s->keeps);
        CHECK_INT(MANY, s->least);
    }
    free(s);
    bench_end(&b);
}

/* A model that stops answering, at whatever point, leaves nothing behind. */
static void leaving_cancelled(void)
{
    outside o;
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_real adv[30 * D];
    size_t used;
    int all, k;
    outside_fill(&o, 0);
    bench_begin(&b, c, outside_model(c, &o, 1), 30, 319);
    bench_labels_right(&b);
    a.restarts = 2;
    o.images = 0;
    if (CHECK(bench_run(&b, &a))) {
        all = o.images;
        used = l2l_memory_used(c);
        memcpy(adv, b.adv, sizeof adv);
        CHECK(all > 100 && all < 30 * 15);
        for (k = 30; k < all; k += 20) {
            o.images = 0;
            o.cancel_after = k;
            CHECK(!bench_run(&b, &a));
            CHECK_ERROR(c, L2L_ERROR_CANCELLED, "");
            CHECK_INT((int)used, (int)l2l_memory_used(c));
            CHECK(!l2l_recording(c));
        }
        o.cancel_after = 0;
        if (CHECK(bench_run(&b, &a))) CHECK_BYTES(adv, b.adv, sizeof adv);
    }
    bench_end(&b);
}

static void evaluation(void)
{
    bench b;
    l2l_context *c = test_context(2);
    l2l_dataset d;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_result r[2];
    l2l_attack a[2];
    int i, k, right[MANY], natural = 0, worst = 0;
    bench_begin(&b, c, small_model(c), MANY, 315);
    bench_labels_right(&b);
    for (i = 0; i < 5 && b.n; i++) b.labels[i] = (b.labels[i] + 1) % b.classes; /* wrong already */
    CHECK_INT(100, o.batch);
    o.batch = 9;
    a[0] = l2l_attack_fgsm(0.05);
    a[1] = l2l_attack_pgd(0.05);
    if (b.n && CHECK(l2l_dataset_from_arrays(c, b.x, b.labels, b.n, 1, 8, 8, 5, &d))) {
        if (CHECK(l2l_evaluation_begin(b.m, &d, &o, &e))) {
            CHECK_INT(b.n, e.images);
            for (i = 0; i < b.n; i++) {
                right[i] = e.clean[i] == b.labels[i];
                natural += right[i];
            }
            CHECK_INT(b.n - 5, natural);
            CHECK_NEAR((double)natural / b.n, e.natural, 1e-12);
            CHECK_NEAR(e.natural, e.worst, 1e-12);
            for (k = 0; k < 2; k++) {
                int held = 0;
                double loss = 0;
                if (!CHECK(l2l_evaluation_attack(&e, &a[k], &r[k], b.records, b.adv))) break;
                for (i = 0; i < b.n; i++) {
                    held += !b.records[i].success;
                    right[i] = right[i] && !b.records[i].success;
                    loss += b.records[i].loss / b.n;
                }
                CHECK_NEAR((double)held / b.n, r[k].accuracy, 1e-12);
                CHECK_NEAR(loss, r[k].mean_loss, 1e-9);
                check_ball(&b, 0.05);
                check_records(&b);
            }
            for (i = 0; i < b.n; i++) worst += right[i];
            CHECK_NEAR((double)worst / b.n, e.worst, 1e-12);
            for (i = 0; i < b.n; i++) CHECK_INT(right[i], e.right[i]);
            l2l_evaluation_end(&e);
        }
        o.limit = 12;
        if (CHECK(l2l_evaluation_begin(b.m, &d, &o, &e))) {
            CHECK_INT(12, e.images);
            l2l_evaluation_end(&e);
        }
        l2l_dataset_free(&d);
    }
    bench_end(&b);
}

/* -- maximizers to compare a learned one with -------------------------------------------------- */

/* PGD with shrinking steps is a chain of single steps, each from where the last one led. */
static void decaying_steps(void)
{
    enum { N = 6, T = 7 };
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_ifgsm(0.1), one = l2l_attack_ifgsm(0.1);
    l2l_real *at;
    double sum = 0;
    int t;
    bench_begin(&b, c, tiny_model(c, 400), N, 515);
    at = test_array((int64_t)N * b.size);
    memcpy(at, b.x, (size_t)(N * b.size) * sizeof *at);
    one.steps = 1;
    one.last_iterate = a.last_iterate = true;
    one.init = at;
    for (t = 0; t < T; t++) { /* 2 alpha (T - t) / (T + 1), alpha 0.01 */
        one.step_size = 2 * 0.01 * (T - t) / (T + 1.0);
        sum += one.step_size;
        CHECK(bench_run(&b, &one));
        memcpy(at, b.adv, (size_t)(N * b.size) * sizeof *at);
    }
    CHECK_NEAR(T * 0.01, sum, 1e-12);
    a.maximizer = l2l_maximizer_decay();
    a.steps = T;
    a.step_size = 0.01;
    CHECK_TEXT("decay", a.maximizer.name);
    CHECK(bench_run(&b, &a));
    CHECK_BYTES(at, b.adv, (size_t)(N * b.size) * sizeof *at);
    free(at);
    bench_end(&b);
}

/* Adam, from the formulas, in double; the moments of the first images stand in `self`. */
typedef struct adam_twin { double m[8 * 64], v[8 * 64]; } adam_twin;
static bool adam_twin_step(void *self, l2l_inner *in)
{
    adam_twin *s = (adam_twin *)self;
    int64_t j, n = l2l_count(in->shape);
    for (j = 0; j < n; j++) {
        double g = (double)in->g[in->t]->data[j];
        s->m[j] = in->t ? 0.9 * s->m[j] + 0.1 * g : 0.1 * g;
        s->v[j] = in->t ? 0.999 * s->v[j] + 0.001 * g * g : 0.001 * g * g;
        in->delta->data[j] = (l2l_real)(in->step_size * s->m[j] / (1 - pow(0.9, in->t + 1)) /
                                        (sqrt(s->v[j] / (1 - pow(0.999, in->t + 1))) + 1e-8));
    }
    return true;
}

static void adam_of_the_loss(void)
{
    enum { N = 8 };
    static adam_twin twin;
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_maximizer own = l2l_maximizer_none();
    l2l_real *first;
    int64_t j;
    double apart = 0, moved = 0;
    bench_begin(&b, c, tiny_model(c, 400), N, 516);
    first = test_array((int64_t)N * b.size);
    a.last_iterate = true;
    a.steps = 5;
    a.step_size = 0.02;
    a.maximizer = l2l_maximizer_adam(1);
    CHECK(bench_run(&b, &a));
    memcpy(first, b.adv, (size_t)(N * b.size) * sizeof *first);
    own.name = "twin";
    own.self = &twin;
    own.step = adam_twin_step;
    a.maximizer = own;
    CHECK(bench_run(&b, &a));
    for (j = 0; j < N * b.size; j++) {
        double d = fabs((double)first[j] - (double)b.adv[j]);
        double m = fabs((double)first[j] - (double)b.x[j]);
        if (!(d <= apart)) apart = d; /* also when it is not a number */
        if (m > moved) moved = m;
    }
    CHECK_NEAR(0, apart, 1e-4); /* a gradient near 0 hangs on its last bits */
    CHECK(moved > 0.05);
    free(first);
    bench_end(&b);
}

int main(void)
{
    RUN(defaults, "documented defaults of FGSM, I-FGSM and PGD");
    RUN(closed_forms, "on a linear model sign steps, with momentum or not, reach the ball's corner");
    RUN(pgd_simulated, "PGD on a linear model equals its simulation, iterate by iterate");
    RUN(random_starts, "starts come from the documented random stream");
    RUN(more_is_never_weaker, "more steps and more restarts are never weaker");
    RUN(last_iterate, "last_iterate returns the last iterate");
    RUN(zero_gradients, "gradients of exactly zero are counted");
    RUN(same_result_everywhere, "no attack's images and records depend on batch or threads");
    RUN(every_model, "every attack on the four classifiers, an own network and an external model");
    RUN(target_is_the_other, "of two classes the target is what untargeted attacks reach");
    RUN(targets, "with targets, reaching them is success");
    RUN(cut_margin, "the margin is cut off beyond its confidence, with and without targets");
    RUN(l2_simulated, "PGD in l2 on a linear model: closed form and simulation");
    RUN(l2_start, "its start is uniform in the l2 ball");
    RUN(l2_rounding, "rounding of large images keeps to the l2 ball");
    RUN(tiny_gradients, "gradients near the end of float's range are followed");
    RUN(memory_simulated, "MIM and L2LDA's CW equal their simulation");
    RUN(worst_of_several, "the worst case of several attacks is that of each image");
    RUN(order_of_strength, "FGSM, PGD-10, PGD-100 and restarts are ever stronger");
    RUN(kl_at_x, "the gradient of TRADES' KL is 0 at x and not beside it");
    RUN(index_of_first, "an image's result depends on its index in the data set only");
    RUN(initial_points, "given starting points are used");
    RUN(refused, "bad images, labels and settings are refused by name");
    RUN(external_models, "external models: counted queries, cancelling, missing gradient");
    RUN(model_untouched, "an attack leaves model, running statistics and mode alone");
    RUN(objectives, "other objectives are maximized");
    RUN(leaving, "fooled images leave the batch, which changes no bit of any record or image");
    RUN(leaving_own, "a maximizer of one's own sees whole batches, or moves its state in `keep`");
    RUN(leaving_cancelled, "an attack cancelled at any point leaves nothing behind");
    RUN(evaluation, "an evaluation counts natural, robust and worst-case accuracy");
    RUN(decaying_steps, "shrinking steps are single steps of their lengths, which add up to PGD's");
    RUN(adam_of_the_loss, "Adam on the loss is Adam's formula");
    return test_end();
}
