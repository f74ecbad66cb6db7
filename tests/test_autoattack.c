/* AutoAttack: APGD against a twin of its own, written image by image from the paper's formulas; FAB-T
   against closed forms; the ensemble against its parts; the ratio of logits against its formula. */
#include "bench.h"

#include "../examples/autoattack.h"
#include "../examples/evaluation_state.h"
#include "../examples/transfer.h"

/* -- the difference of logits ratio ------------------------------------------------------------ */

static double ratio_of(const double *z, int k, int y)
{
    double top[3] = {-1e30, -1e30, -1e30}, other = -1e30;
    int i, j, r;
    for (i = 0; i < k; i++) {
        for (r = 0; r < 3 && z[i] <= top[r]; r++) {}
        for (j = 2; j > r; j--) top[j] = top[j - 1];
        if (r < 3) top[r] = z[i];
        if (i != y && z[i] > other) other = z[i];
    }
    return (other - z[y]) / (top[0] - top[2] + 1e-12);
}

static void ratio(void)
{
    enum { N = 3, K = 5 };
    static const double z[N][K] = {{1, 4, -2, 0.5, 3}, {2, -1, 0.25, 7, 3}, {-3, -8, -4, -6, -5}};
    static const int labels[N] = {1, 2, 0};
    l2l_context *c = test_context(1);
    l2l_objective o = l2l_objective_dlr();
    l2l_tensor *t = l2l_zeros(c, l2l_shape_of(N, 1, 1, K)), *L, *g;
    int i, j;
    for (i = 0; i < N * K; i++) t->data[i] = (l2l_real)z[i / K][i % K];
    l2l_set_recording(c, true);
    L = o.loss(c, t, NULL, labels, o.user);
    if (!CHECK(L && l2l_grad(c, l2l_sum(c, L), &t, 1, &g, 0))) { CHECK_OK(c); return; }
    for (i = 0; i < N; i++) {
        CHECK_NEAR(ratio_of(z[i], K, labels[i]), L->data[i], 1e-6);
        for (j = 0; j < K; j++) {
            double up[K], down[K];
            memcpy(up, z[i], sizeof up);
            memcpy(down, z[i], sizeof down);
            up[j] += 1e-5;
            down[j] -= 1e-5;
            CHECK_NEAR((ratio_of(up, K, labels[i]) - ratio_of(down, K, labels[i])) / 2e-5,
                       g->data[i * K + j], 1e-5);
        }
    }
    l2l_set_recording(c, false);
    t = l2l_zeros(c, l2l_shape_of(1, 1, 1, 2));
    CHECK(!o.loss(c, t, NULL, labels + 2, o.user));
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "2 classes");
    l2l_context_free(c);
}

/* -- many steps -------------------------------------------------------------------------------- */

/* 22 % of a thousand million steps are a window of APGD, and FAB-T's walk does not end at its first
   look. */
static void many_steps(void)
{
    l2l_real pixel[5] = {0, 0, 0, 0, 0};
    l2l_attack apgd = l2l_attack_apgd(0.1), fab = l2l_attack_fab_t(0.1);
    l2l_record record;
    l2l_inner in;
    l2l_spot p;
    aa__walk walk;
    memset(&record, 0, sizeof record);
    memset(&in, 0, sizeof in);
    memset(&p, 0, sizeof p);
    memset(&walk, 0, sizeof walk);
    in.t = 2;
    p.in = &in;
    p.attack = &apgd;
    p.state = &walk;
    p.memory[0] = pixel;
    p.memory[1] = pixel + 1;
    p.memory[2] = pixel + 2;
    p.n = 1;
    p.z = pixel + 3;
    p.g = pixel + 4;
    p.record = &record;
    apgd.steps = 1000000000;
    walk.walks = 2;
    apgd__seen(&p);
    CHECK_INT(220000000, walk.window);
    walk.window = 900000000;
    apgd__check(&p);
    CHECK_INT(870000000, walk.window);
    memset(&walk, 0, sizeof walk);
    walk.walks = 2;
    fab.steps = 2000000000;
    p.attack = &fab;
    fab__seen(&p);
    CHECK_INT(1, walk.k);
    CHECK_INT(0, walk.number);
}

/* -- APGD, image by image ---------------------------------------------------------------------- */

/* Loss and gradient of one image, NxCxHxW with N = 1. */
static double look(l2l_model *m, const l2l_objective *o, const double *x, int n, int label,
                   double *g, int *predicted)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *p = l2l_model_info(m);
    l2l_mark mark = l2l_mark_here(c);
    l2l_real *v = test_array(n);
    l2l_tensor *t, *z, *L, *d;
    double loss = 0;
    int i;
    for (i = 0; i < n; i++) v[i] = (l2l_real)x[i];
    t = l2l_from_nchw(c, v, l2l_shape_of(1, p->height, p->width, p->channels));
    l2l_set_recording(c, true);
    z = l2l_model_forward(m, t, L2L_EVALUATE);
    L = o->loss(c, z, NULL, &label, o->user);
    if (CHECK(l2l_grad(c, L, &t, 1, &d, 0) && l2l_to_nchw(c, d, v))) {
        loss = (double)L->data[0];
        for (i = 0; i < n; i++) g[i] = (double)v[i];
        l2l_predict(c, z, predicted);
    }
    l2l_set_recording(c, false);
    l2l_release(c, mark);
    free(v);
    return loss;
}

static double length(const double *v, int n, l2l_norm norm)
{
    double sum = 0, most = 0;
    int j;
    for (j = 0; j < n; j++) {
        sum += v[j] * v[j];
        most = fmax(most, fabs(v[j]));
    }
    return norm == L2L_L2 ? sqrt(sum) : most;
}

static void proj(double *z, const double *x, int n, l2l_norm norm, double eps)
{
    double d[512] = {0}, l;
    int j;
    for (j = 0; j < n; j++) d[j] = z[j] - x[j];
    l = length(d, n, L2L_L2);
    for (j = 0; j < n; j++) {
        if (norm == L2L_L2) d[j] *= l > eps ? eps / l : 1;
        else d[j] = fmax(-eps, fmin(d[j], eps));
        z[j] = fmax(0, fmin(x[j] + d[j], 1));
    }
}

enum { MOST = 300 };
/* The walk from z; the losses of all iterates, and how many there are until one is fooled. */
static int twin(l2l_model *m, const l2l_objective *o, const double *x, double *z, int n, int label,
                l2l_norm norm, double eps, int T, double *losses)
{
    double old[MOST], g[MOST], best[MOST], best_g[MOST], a[MOST], step = 2 * eps, most, checked, l;
    int t, j, predicted, k = T * 22 / 100 > 1 ? T * 22 / 100 : 1, counter = 0, halved = 1, last = 0;
    losses[0] = most = checked = look(m, o, z, n, label, g, &predicted);
    memcpy(old, z, sizeof old);
    memcpy(best, z, sizeof best);
    memcpy(best_g, g, sizeof best_g);
    for (t = 1; t <= T && predicted == label; t++) {
        l = length(g, n, L2L_L2) + 1e-12;
        for (j = 0; j < n; j++)
            a[j] = z[j] + step * (norm == L2L_L2 ? g[j] / l : (g[j] > 0) - (g[j] < 0));
        proj(a, x, n, norm, eps);
        for (j = 0; j < n; j++) {
            double w = t == 1 ? 1 : 0.75, move = z[j] - old[j];
            old[j] = z[j];
            a[j] = z[j] + w * (a[j] - z[j]) + (1 - w) * move;
        }
        proj(a, x, n, norm, eps);
        memcpy(z, a, sizeof a);
        losses[t] = look(m, o, z, n, label, g, &predicted);
        if (losses[t] > most) {
            most = losses[t];
            memcpy(best, z, sizeof best);
            memcpy(best_g, g, sizeof best_g);
        }
        if (++counter < k) continue;
        for (j = last + 1, counter = 0; j <= t; j++)
            counter += losses[j] > (j == 1 ? 0 : losses[j - 1]);
        halved = counter <= 0.75 * k || (!halved && checked >= most);
        checked = most;
        if (halved) {
            step /= 2;
            memcpy(z, best, sizeof best);
            memcpy(g, best_g, sizeof best_g);
        }
        k -= T * 3 / 100 > 1 ? T * 3 / 100 : 1;
        if (k < T * 6 / 100) k = T * 6 / 100;
        if (k < 1) k = 1;
        counter = 0;
        last = t;
    }
    return t;
}

/* Starts, losses and numbers of passes are the twin's. */
static void apgd_twin(void)
{
    int kind;
    for (kind = 0; kind < 4; kind++) {
        bench b;
        l2l_context *c = test_context(1);
        l2l_attack a;
        int i, j;
        l2l_set_cpu(c, L2L_CPU_PLAIN);
        bench_begin(&b, c, tiny_model(c, 400), 12, 500);
        golden_fill(b.x, (int64_t)b.n * b.size, 500, 0.2, 0.8);
        bench_labels_right(&b);
        a = kind & 1 ? l2l_attack_apgd_dlr(0.04) : l2l_attack_apgd(0.04);
        if (kind & 2) {
            a.norm = L2L_L2;
            a.epsilon = 0.15;
        }
        a.steps = 40;
        a.init = b.x; /* from the image itself: the same start in either */
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                double x[MOST], z[MOST], losses[MOST], most = -1e30;
                int t, steps;
                for (j = 0; j < b.size; j++) x[j] = z[j] = (double)b.x[i * b.size + j];
                steps = twin(b.m, &a.objective, x, z, b.size, b.labels[i], a.norm, a.epsilon,
                             a.steps, losses);
                for (t = 0; t < steps; t++) most = fmax(most, losses[t]);
                CHECK_INT(steps + 1, b.records[i].forwards);
                CHECK_NEAR(b.records[i].success ? losses[steps - 1] : most, b.records[i].loss, 1e-4);
            }
        bench_end(&b);
    }
}

/* On a linear model the best point of the ball is a corner, and APGD finds it. */
static void apgd_corner(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("linear", linear_forward, 1, 8, 2);
    static const double bound[] = {0.05, 0};
    l2l_attack a = l2l_attack_apgd(0.02);
    l2l_real *w;
    int i, j;
    bench_begin(&b, c, l2l_model_create(c, &o), 20, 300);
    seed_parameters(b.m, 40, bound);
    golden_fill(b.x, (int64_t)b.n * b.size, 300, 0.1, 0.9);
    bench_labels_right(&b);
    w = test_array(2 * (int64_t)b.size);
    l2l_parameter_get(b.m, 0, w);
    if (CHECK(bench_run(&b, &a)))
        for (i = 0; i < b.n; i++) {
            double gap = 0, reach = 0;
            for (j = 0; j < b.size; j++) {
                double d = (double)w[b.size + j] - (double)w[j];
                gap += d * (double)b.x[i * b.size + j];
                reach += fabs(d) * 0.02;
            }
            if (fabs(fabs(gap) - reach) > 1e-4) CHECK_INT(fabs(gap) < reach, b.records[i].success);
            if (!b.records[i].success)
                CHECK_NEAR(log1p(exp(reach - fabs(gap))), b.records[i].loss, 2e-5);
        }
    free(w);
    bench_end(&b);
}

/* -- FAB-T ------------------------------------------------------------------------------------- */

/* Linear models: the nearest boundary to any other class, |f|/|w|_1 or |f|/|w|_2, is reached within
   one per cent, and never undercut. */
static void fab_closed_form(void)
{
    int norm;
    for (norm = 0; norm < 2; norm++) {
        enum { K = 4 };
        bench b;
        l2l_context *c = test_context(1);
        l2l_model_options o = own_options("linear", linear_forward, 1, 8, K);
        static const double bound[] = {0.1, 0.1};
        l2l_attack a = l2l_attack_fab_t(1);
        l2l_real *w;
        int i, j, k;
        a.norm = norm ? L2L_L2 : L2L_LINF;
        a.number[1] = 1;
        a.steps = 40;
        bench_begin(&b, c, l2l_model_create(c, &o), 16, 301);
        seed_parameters(b.m, 50, bound);
        golden_fill(b.x, (int64_t)b.n * b.size, 301, 0.4, 0.6); /* far from 0 and 1 */
        bench_labels_right(&b);
        w = test_array(K * (int64_t)b.size + K);
        l2l_parameter_get(b.m, 0, w);
        l2l_parameter_get(b.m, 1, w + K * b.size);
        if (CHECK(bench_run(&b, &a)))
            for (i = 0; i < b.n; i++) {
                double nearest = 1e30, found = norm ? b.records[i].l2 : b.records[i].linf;
                int y = b.labels[i];
                for (k = 0; k < K; k++) {
                    double f = (double)w[K * b.size + k] - (double)w[K * b.size + y], one = 0, two = 0;
                    if (k == y) continue;
                    for (j = 0; j < b.size; j++) {
                        double d = (double)w[k * b.size + j] - (double)w[y * b.size + j];
                        f += d * (double)b.x[i * b.size + j];
                        one += fabs(d);
                        two += d * d;
                    }
                    nearest = fmin(nearest, fabs(f) / (norm ? sqrt(two) : one));
                }
                CHECK(b.records[i].success);
                CHECK(found > nearest * (1 - 1e-4) && found < nearest * 1.01);
            }
        free(w);
        bench_end(&b);
    }
}

/* Where an image within epsilon ends the search the verdicts are those of the whole search. */
static void fab_early(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_fab_t(0.06);
    l2l_record early[16];
    int i, fewer = 0, success = 0;
    bench_begin(&b, c, tiny_model(c, 400), 16, 502);
    bench_labels_right(&b);
    CHECK(bench_run(&b, &a));
    memcpy(early, b.records, sizeof early);
    a.number[1] = 1;
    CHECK(bench_run(&b, &a));
    for (i = 0; i < b.n; i++) {
        CHECK_INT(b.records[i].success, early[i].success);
        CHECK(b.records[i].linf <= early[i].linf);
        success += early[i].success;
        fewer += early[i].forwards < b.records[i].forwards;
        CHECK_INT(2 + 2 * a.steps * (b.classes - 1), b.records[i].forwards); /* 2: clean logits,  */
        CHECK_INT(a.steps * (b.classes - 1), b.records[i].backwards); /* look; then every second  */
    }
    CHECK(success > 0 && fewer == success);
    bench_end(&b);
}

/* -- the ensemble ------------------------------------------------------------------------------ */

static l2l_attack stages[AUTOATTACK_STAGES];

/* An attack, or the ensemble: as a series, */
static l2l_series series_of(l2l_model *m, const l2l_attack *a)
{
    l2l_series s = l2l_series_of(a);
    if (!autoattack_is(a) || !autoattack_stages(m, a, stages)) return s;
    s.attacks = stages;
    s.count = AUTOATTACK_STAGES;
    return s;
}

/* and on the images of a bench. */
static bool run_into(bench *b, const l2l_attack *a, l2l_real *adv, l2l_record *records)
{
    l2l_series s = series_of(b->m, a);
    return l2l_attack_worst(b->m, s.attacks, s.count, b->x, b->labels, b->n, adv, records);
}
static bool run(bench *b, const l2l_attack *a)
{
    memset(b->adv, 0, (size_t)b->n * (size_t)b->size * sizeof *b->adv);
    memset(b->records, 0, (size_t)b->n * sizeof *b->records);
    return run_into(b, a, b->adv, b->records);
}

/* A radius, and one in l2 about as dangerous on images of 64 pixels. */
static double radius(l2l_norm norm, double epsilon) { return norm == L2L_L2 ? 7 * epsilon : epsilon; }

static l2l_attack part(int k, l2l_norm norm, double epsilon)
{
    l2l_attack a = k == 0   ? l2l_attack_apgd(epsilon)
                   : k == 1 ? l2l_attack_apgd_t(epsilon)
                   : k == 2 ? l2l_attack_fab_t(epsilon)
                            : l2l_attack_square(epsilon);
    a.steps = k == 3 ? 1000 : 20;
    a.norm = norm;
    a.epsilon = radius(norm, epsilon);
    return a;
}

/* The stage that fools an image is the first of its parts that does so alone. */
static void ensemble_in(l2l_norm norm)
{
    enum { N = 40 };
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_autoattack(radius(norm, 0.035));
    l2l_record all[N];
    int i, k, first[N], standing = 0;
    a.steps = 20;
    a.norm = norm;
    bench_begin(&b, c, tiny_model(c, 400), N, 503);
    bench_labels_right(&b);
    b.labels[3] = (b.labels[3] + 1) % b.classes; /* wrong from the start */
    for (i = 0; i < N; i++) first[i] = -1;
    CHECK(run(&b, &a));
    memcpy(all, b.records, sizeof all);
    for (k = 3; k >= 0; k--) {
        l2l_attack p = part(k, norm, 0.035);
        CHECK(bench_run(&b, &p));
        for (i = 0; i < N; i++)
            if (b.records[i].success) first[i] = k;
    }
    for (i = 0; i < N; i++) {
        CHECK_INT(first[i], all[i].success ? all[i].attack : -1);
        CHECK((norm == L2L_L2 ? all[i].l2 : all[i].linf) <= radius(norm, 0.035) + 1e-6);
        standing += first[i] < 0;
    }
    CHECK(standing > 0 && standing < N - 5);
    if (test_complaints) printf("    %d stand\n", standing);
    bench_end(&b);
}

static void ensemble(void)
{
    ensemble_in(L2L_LINF);
    ensemble_in(L2L_L2);
}

static void same_everywhere(void)
{
    enum { N = 21 };
    int run_of, k, batch;
    for (run_of = 0; run_of < 10; run_of++) {
        bench b, d;
        l2l_context *c = test_context(1), *e = test_context(3);
        l2l_norm norm = run_of < 5 ? L2L_LINF : L2L_L2;
        l2l_attack a;
        k = run_of % 5;
        a = k < 4 ? part(k, norm, 0.04) : l2l_attack_autoattack(radius(norm, 0.04));
        a.norm = norm;
        if (k == 4) a.steps = 10;
        if (k == 3) a.steps = 60;
        bench_begin(&b, c, tiny_model(c, 400), N, 504);
        bench_labels_right(&b);
        CHECK(run(&b, &a));
        bench_begin(&d, e, tiny_model(e, 400), N, 504);
        bench_labels_right(&d);
        for (batch = 1; batch < N; batch += 9) {
            a.batch = batch;
            CHECK(run(&d, &a));
            CHECK_BYTES(b.adv, d.adv, (size_t)N * (size_t)b.size * sizeof *b.adv);
            CHECK_BYTES(b.records, d.records, sizeof *b.records * N);
        }
        bench_end(&d);
        bench_end(&b);
    }
}

static void stronger_than_pgd(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack apgd = l2l_attack_apgd(0.03), pgd = l2l_attack_pgd(0.03);
    int i, k, success[2] = {0, 0};
    pgd.steps = 100;
    bench_begin(&b, c, tiny_model(c, 400), 60, 505);
    bench_labels_right(&b);
    for (k = 0; k < 2; k++) {
        CHECK(bench_run(&b, k ? &apgd : &pgd));
        for (i = 0; i < b.n; i++) success[k] += b.records[i].success;
    }
    CHECK(success[1] >= success[0]);
    bench_end(&b);
}

/* Without room for images or records, in batches. */
static void without_images(void)
{
    enum { N = 23 };
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_autoattack(0.035);
    l2l_record kept[N];
    a.steps = 4;
    a.batch = 5;
    bench_begin(&b, c, tiny_model(c, 400), N, 509);
    bench_labels_right(&b);
    CHECK(run(&b, &a));
    memcpy(kept, b.records, sizeof kept);
    memset(b.records, 0, sizeof kept);
    CHECK(run_into(&b, &a, NULL, b.records));
    CHECK_BYTES(kept, b.records, sizeof kept);
    CHECK(run_into(&b, &a, b.adv, NULL));
    bench_end(&b);
}

/* Whatever the order, the record is that of the first attack that succeeded, else of the first that
   led the image astray, else of the first. Targeted attacks lead astray without success. */
static void among_others(void)
{
    enum { N = 30 };
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a[3] = {l2l_attack_autoattack(0.01), l2l_attack_pgd(0.06), l2l_attack_fgsm(0.12)};
    l2l_record alone[3][N];
    int targets[N], i, k, o, astray = 0;
    bench_begin(&b, c, tiny_model(c, 400), N, 510);
    bench_labels_right(&b);
    for (i = 0; i < N; i++) targets[i] = (b.labels[i] + 1 + i % 4) % b.classes;
    a[0].steps = 4;
    a[1].targets = targets;
    a[2].targets = targets;
    for (k = 0; k < 3; k++) {
        a[k].batch = 7;
        CHECK(run(&b, &a[k]));
        memcpy(alone[k], b.records, sizeof alone[k]);
    }
    for (o = 0; o < 6; o++) {
        l2l_attack in_order[2 + AUTOATTACK_STAGES];
        int whose[2 + AUTOATTACK_STAGES], stage[2 + AUTOATTACK_STAGES], n = 0, j;
        for (k = 0; k < 3; k++) {
            l2l_series s = series_of(b.m, &a[orders[o][k]]);
            for (j = 0; j < s.count; j++, n++) {
                in_order[n] = s.attacks[j];
                whose[n] = orders[o][k];
                stage[n] = j;
            }
        }
        memset(b.records, 0, sizeof alone[0]);
        CHECK(l2l_attack_worst(b.m, in_order, n, b.x, b.labels, N, b.adv, b.records));
        for (i = 0; i < N; i++) {
            const l2l_record *r = NULL, *got = &b.records[i];
            for (k = 0; k < 3 && !r; k++)
                if (alone[orders[o][k]][i].success) r = &alone[orders[o][k]][i];
            for (k = 0; k < 3 && !r; k++)
                if (alone[orders[o][k]][i].predicted != b.labels[i]) {
                    r = &alone[orders[o][k]][i];
                    astray++;
                }
            if (!r) r = &alone[orders[o][0]][i];
            CHECK_INT((r - alone[0]) / N, whose[got->attack]);
            CHECK_INT(r->success, got->success);
            CHECK_INT(r->predicted, got->predicted);
            CHECK_INT(r->attack, stage[got->attack]);
            CHECK_NEAR(r->linf, got->linf, 0);
        }
    }
    CHECK(astray > 0);
    bench_end(&b);
}

/* From each of two models to the other; on itself at most what its last stage left standing. */
static void transferred(void)
{
    enum { N = 20 };
    bench b;
    l2l_context *c = test_context(1);
    l2l_model *models[2];
    l2l_dataset d;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_autoattack(0.04);
    double accuracies[4];
    int i, right = 0;
    a.steps = 4;
    bench_begin(&b, c, tiny_model(c, 400), N, 511);
    models[0] = b.m;
    models[1] = tiny_model(c, 401);
    bench_labels_right(&b);
    CHECK(l2l_dataset_from_arrays(c, b.x, b.labels, N, 1, 8, 8, b.classes, &d));
    CHECK(transfer_matrix(models, 2, &d, series_of(b.m, &a), &o, NULL, accuracies));
    CHECK(run(&b, &a));
    for (i = 0; i < N; i++) right += !b.records[i].success;
    CHECK_NEAR((double)right / N, accuracies[0], 1e-12);
    l2l_dataset_free(&d);
    l2l_model_free(models[1]);
    bench_end(&b);
}

/* An objective that needs clean logits does not aim at classes for that: it keeps its `user`, and
   the walks are the restarts. */
static int asked, asked_with_user;
static l2l_tensor *own_kl(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean, const int *labels,
                          void *user)
{
    (void)labels;
    asked++;
    asked_with_user += user == &asked;
    return l2l_kl_divergence(c, clean, logits);
}

static void own_objective(void)
{
    enum { N = 6 };
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a = l2l_attack_apgd(0.01);
    int restarts;
    bench_begin(&b, c, tiny_model(c, 400), N, 512);
    bench_labels_right(&b);
    memset(&a.objective, 0, sizeof a.objective);
    a.objective.name = "own";
    a.objective.loss = own_kl;
    a.objective.needs_clean = true;
    a.objective.user = &asked;
    a.steps = 3;
    for (restarts = 1; restarts < 3; restarts++) {
        a.restarts = restarts;
        asked = asked_with_user = 0;
        CHECK(bench_run(&b, &a));
        CHECK(asked >= restarts * a.steps && asked <= 1 + restarts * (a.steps + 1));
        CHECK_INT(asked, asked_with_user);
    }
    bench_end(&b);
}

static bool stopped(void *user, int done, int all)
{
    (void)user;
    return done >= all;
}

/* Interrupted after its first batch of PGD and gone on with: the same warnings. */
static void same_warnings(void)
{
    enum { N = 30 };
    const char *file = "autoattack-state.tmp";
    bench b;
    l2l_context *c = test_context(1);
    l2l_dataset d;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a[3] = {l2l_attack_fgsm(0.03), l2l_attack_autoattack(0.03), l2l_attack_pgd(0.03)};
    int targets[N], i, k, run;
    unsigned warned[2] = {0, 0};
    char text[2][2000];
    bench_begin(&b, c, tiny_model(c, 400), N, 513);
    bench_labels_right(&b);
    for (i = 0; i < N; i++) targets[i] = (b.labels[i] + i % 4) % b.classes;
    a[1].steps = 2;
    a[2].targets = targets;
    CHECK(l2l_dataset_from_arrays(c, b.x, b.labels, N, 1, 8, 8, b.classes, &d));
    remove(file);
    for (run = 0; run < 3; run++) { /* 0: no state; 1: stopped; 2: gone on with */
        l2l_evaluation e;
        evaluation_state kept;
        o.batch = 10;
        o.epsilon = 0.03;
        if (!CHECK(l2l_evaluation_begin(b.m, &d, &o, &e))) break;
        if (!CHECK(evaluation_state_open(&kept, &e, run ? file : NULL))) break;
        for (k = 0; k < 3; k++) {
            a[k].progress = run == 1 && k == 2 ? stopped : NULL;
            CHECK(evaluation_state_series(&kept, series_of(b.m, &a[k]), NULL, NULL, NULL) ==
                  !a[k].progress);
            if (a[k].progress) CHECK_ERROR(c, L2L_ERROR_CANCELLED, "");
        }
        if (run != 1) warned[run / 2] = l2l_evaluation_warnings(&e, text[run / 2], sizeof text[0]);
        evaluation_state_close(&kept);
        l2l_evaluation_end(&e);
    }
    CHECK(warned[0] & L2L_WARN_TARGETS);
    CHECK_INT(warned[0], warned[1]);
    CHECK_TEXT(text[0], text[1]);
    remove(file);
    l2l_dataset_free(&d);
    bench_end(&b);
}

static void evaluated(void)
{
    enum { N = 30 };
    l2l_context *c = test_context(1);
    bench b;
    l2l_dataset d;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_result r;
    l2l_attack a = l2l_attack_autoattack(0.035);
    int k;
    a.steps = 10;
    bench_begin(&b, c, tiny_model(c, 400), N, 506);
    bench_labels_right(&b);
    b.labels[0] = (b.labels[0] + 1) % b.classes;
    CHECK(l2l_dataset_from_arrays(c, b.x, b.labels, N, 1, 8, 8, b.classes, &d));
    if (CHECK(l2l_evaluation_begin(b.m, &d, &o, &e) &&
              l2l_evaluation_series(&e, series_of(b.m, &a), &r, NULL, NULL))) {
        CHECK_NEAR(r.accuracy, r.stages[3], 0);
        for (k = 1; k < 4; k++) CHECK(r.stages[k] <= r.stages[k - 1]);
        CHECK(r.stages[0] <= e.natural);
        CHECK_NEAR(e.worst, r.accuracy, 1e-12);
        l2l_evaluation_end(&e);
    }
    l2l_dataset_free(&d);
    bench_end(&b);
}

static void refused(void)
{
    bench b;
    l2l_context *c = test_context(1);
    l2l_attack a;
    int targets[4] = {0, 0, 0, 0};
    bench_begin(&b, c, tiny_model(c, 400), 4, 507);
    bench_labels_right(&b);
#define REFUSED(make, set, text)                                                                   \
    do {                                                                                           \
        a = make;                                                                                  \
        a.steps = 2;                                                                               \
        set;                                                                                       \
        CHECK(!run(&b, &a));                                                                       \
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, text);                                                  \
    } while (0)
    REFUSED(l2l_attack_autoattack(0.1), a.targets = targets, "targets");
    REFUSED(l2l_attack_autoattack(0.1), a.last_iterate = true, "last_iterate");
    REFUSED(l2l_attack_apgd_t(0.1), a.targets = targets, "targets");
    REFUSED(l2l_attack_fab_t(0.1), a.targets = targets, "targets");
    REFUSED(l2l_attack_apgd_t(0.1), a.restarts = 2, "restarts");
    REFUSED(l2l_attack_fab_t(0.1), a.restarts = 2, "restarts");
    REFUSED(l2l_attack_apgd(0.1), a.last_iterate = true, "last_iterate");
    REFUSED(l2l_attack_apgd_t(0.1), a.number[0] = 1, "number[0], the candidates");
    REFUSED(l2l_attack_fab_t(0.1), a.number[0] = 2.5, "number[0], the candidates");
    REFUSED(l2l_attack_fab_t(0.1), a.number[1] = 2, "number[1]");
    REFUSED(l2l_attack_autoattack(0.0), a.number[0] = 0, "number[0], the candidates");
    a = l2l_attack_autoattack(0.1); /* what the stages are made of is none itself */
    CHECK(!bench_run(&b, &a));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "attack autoattack: several attacks in series");
    bench_end(&b);
}

/* Three classes: no targeted ratio, but the ensemble still works. */
static void few_classes(void)
{
    int classes;
    for (classes = 2; classes < 4; classes++) {
        bench b;
        l2l_context *c = test_context(1);
        l2l_model_options o = own_options("linear", linear_forward, 1, 6, classes);
        static const double bound[] = {0.1, 0};
        l2l_attack a = l2l_attack_autoattack(0.02), t = l2l_attack_apgd_t(0.02);
        a.steps = 10;
        bench_begin(&b, c, l2l_model_create(c, &o), 10, 508);
        seed_parameters(b.m, 60, bound);
        bench_labels_right(&b);
        CHECK(run(&b, &a));
        CHECK(!bench_run(&b, &t));
        CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "from 4 on");
        bench_end(&b);
    }
}

int main(void)
{
    RUN(ratio, "the difference of logits ratio and its gradient are those of the formula");
    RUN(many_steps, "numbers of steps that are large do not overflow");
    RUN(apgd_twin, "APGD's losses and numbers of steps are those of a twin, in both norms");
    RUN(apgd_corner, "APGD reaches the best corner of the ball on a linear model");
    RUN(fab_closed_form, "FAB-T comes within a per cent of the nearest boundary of a linear model");
    RUN(fab_early, "ending FAB-T at the first image within epsilon changes no verdict");
    RUN(ensemble, "an image falls to the first of AutoAttack's attacks that fools it alone");
    RUN(same_everywhere, "results do not depend on batch and threads");
    RUN(stronger_than_pgd, "APGD fools at least as many images as PGD with as many steps");
    RUN(without_images, "the ensemble needs no room for images");
    RUN(among_others, "among other attacks, in any order, the ensemble takes nothing from them");
    RUN(transferred, "the ensemble's images transfer");
    RUN(own_objective, "an own objective with clean logits is not taken for one that aims at classes");
    RUN(same_warnings, "an evaluation that goes on gives the warnings of one go");
    RUN(evaluated, "an evaluation tells the accuracy after each stage");
    RUN(refused, "settings that make no sense are refused by name");
    RUN(few_classes, "with two or three classes the ensemble goes without the targeted ratio");
    return test_end();
}
