/* The defences beside PGD training: line search, TRADES, RNN-TRADES, L2LDA in the float build. */
#include "check_defences.h"

/* -- line search: a naive twin, one image at a time ---------------------------------------------- */

typedef struct twin {
    l2l_model *m;
    l2l_objective objective;
    double epsilon, rho, c;
    int sign, steps, size, passes; /* passes: images that the objective was asked about */
    int stays, moves;              /* steps without, with an accepted trial             */
} twin;

/* L at x', and with `g` its gradient. */
static double twin_loss(twin *t, const l2l_real *clean, const l2l_real *x, int label, l2l_real *g)
{
    l2l_context *c = l2l_model_context(t->m);
    const l2l_model_options *o = l2l_model_info(t->m);
    l2l_mark mark = l2l_mark_here(c);
    l2l_shape s = l2l_shape_of(1, o->height, o->width, o->channels);
    l2l_tensor *a = l2l_from_nchw(c, x, s), *b = NULL, *z, *loss, *grad = NULL;
    double value;
    if (t->objective.needs_clean)
        b = l2l_model_forward(t->m, l2l_from_nchw(c, clean, s), L2L_EVALUATE);
    l2l_set_recording(c, g != NULL);
    z = l2l_model_forward(t->m, a, L2L_EVALUATE);
    loss = t->objective.loss(c, z, b, &label, t->objective.user);
    value = l2l_item(c, loss);
    if (g && CHECK(l2l_grad(c, loss, &a, 1, &grad, 0))) l2l_to_nchw(c, grad, g);
    l2l_set_recording(c, false);
    l2l_release(c, mark);
    t->passes++;
    return value;
}

static void twin_run(twin *t, const l2l_real *clean, int label, l2l_real *x)
{
    l2l_real g[128], y[128], step;
    int k, j, trial, accepted;
    for (k = 0; k < t->steps; k++) {
        double L = twin_loss(t, clean, x, label, g), alpha = t->epsilon, rise, M;
        for (trial = accepted = 0; trial < 10 && !accepted; trial++, alpha *= t->rho) {
            for (rise = 0, j = 0; j < t->size; j++) {
                l2l_real low = clean[j] - (l2l_real)t->epsilon, high = clean[j] + (l2l_real)t->epsilon;
                step = t->sign ? (l2l_real)((g[j] > 0) - (g[j] < 0)) : g[j];
                y[j] = x[j] + (l2l_real)alpha * step;
                if (low < 0) low = 0;
                if (high > 1) high = 1;
                if (y[j] < low) y[j] = low;
                if (y[j] > high) y[j] = high;
                rise += (double)g[j] * ((double)y[j] - (double)x[j]);
            }
            M = twin_loss(t, clean, y, label, NULL);
            accepted = M >= L + t->c * rise;
        }
        if (accepted) memcpy(x, y, (size_t)t->size * sizeof *x);
        t->stays += !accepted;
        t->moves += accepted;
    }
}

/* The attack's last iterates, for three batch sizes, against the twin's; as many passes by image. */
static void line_search_twin(void)
{
    enum { N = 14, SIZE = 72 };
    static const struct { int sign, kl; double rho, c, epsilon; } cases[] = {
        {1, 0, 0.5, 1e-4, 0.3}, {1, 0, 0.7, 0.6, 0.3}, {0, 0, 0.5, 1e-4, 0.9}, {1, 1, 0.5, 1e-4, 0.2},
        {1, 0, 0.5, 1.5, 0.2}};
    static const int batches[] = {N, 1, 5};
    int stays = 0, i, k;
    for (k = 0; k < COUNT(cases); k++) {
        l2l_context *c = test_context(2);
        l2l_model *m = smooth_model(c);
        l2l_real x[N * SIZE], expected[N * SIZE], adv[N * SIZE], first[N * SIZE], noise[N * SIZE];
        l2l_attack a = l2l_attack_bls(cases[k].epsilon);
        l2l_record r[N];
        counted asked;
        twin t;
        int labels[N], before = test_complaints;
        CHECK_TEXT("bls", a.name);
        CHECK_INT(10, a.steps);
        CHECK_INT(L2L_START_UNIFORM, a.start);
        CHECK_NEAR(0.5, a.maximizer.number[0], 0);
        CHECK_NEAR(1e-4, a.maximizer.number[1], 0);
        if (!CHECK(m != NULL)) { l2l_context_free(c); return; }
        golden_fill(x, N * SIZE, 16000, 0, 1);
        golden_fill(noise, N * SIZE, 16001, -0.05, 0.05);
        for (i = 0; i < N; i++) labels[i] = i % 4;
        for (i = 0; i < N * SIZE; i++) {
            l2l_real z = x[i] + noise[i];
            noise[i] = z < 0 ? 0 : z > 1 ? 1 : z;
        }
        memset(&t, 0, sizeof t);
        t.m = m;
        t.objective = cases[k].kl ? l2l_objective_kl() : l2l_objective_cross_entropy();
        t.epsilon = cases[k].epsilon;
        t.sign = cases[k].sign;
        t.rho = cases[k].rho;
        t.c = cases[k].c;
        t.steps = 4;
        t.size = SIZE;
        memcpy(expected, noise, sizeof noise);
        for (i = 0; i < N; i++) twin_run(&t, x + i * SIZE, labels[i], expected + i * SIZE);
        a.maximizer = l2l_maximizer_line_search(cases[k].sign != 0);
        a.maximizer.number[0] = cases[k].rho;
        a.maximizer.number[1] = cases[k].c;
        a.objective = t.objective;
        asked.inner = a.objective;
        a.objective.loss = counted_loss;
        a.objective.user = &asked;
        a.steps = t.steps;
        a.last_iterate = true;
        a.init = noise;
        for (i = 0; i < COUNT(batches); i++) {
            int j;
            asked.images = 0;
            a.batch = batches[i];
            if (!CHECK(l2l_attack_run(m, &a, x, labels, N, adv, r))) break;
            if (i == 0) memcpy(first, adv, sizeof adv);
            CHECK_BYTES(first, adv, sizeof adv);
            /* beside the twin's the clean image and the last iterate */
            CHECK_INT(t.passes + 2 * N, asked.images);
            for (j = 0; j < N * SIZE; j++)
                if (!CHECK_NEAR(expected[j], adv[j], 1e-5)) break;
        }
        CHECK(t.moves > 3);
        stays += t.stays;
        if (test_complaints > before)
            printf("    case %d: %d steps accepted, %d not\n", k, t.moves, t.stays);
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
    CHECK(stays > 0); /* that path was taken, too */
}

/* From the same start the loss at the last iterate never falls with the number of steps. */
static void line_search_never_falls(void)
{
    enum { N = 24 };
    l2l_context *c = test_context(2);
    l2l_model *m = tiny_model(c, 400);
    l2l_attack a = l2l_attack_bls(0.2);
    l2l_real x[N * 64], adv[N * 64];
    l2l_record r[N];
    double last[N];
    int labels[N], i, rose = 0;
    golden_fill(x, N * 64, 420, 0, 1);
    for (i = 0; i < N; i++) labels[i] = i % 5;
    a.last_iterate = true;
    for (a.steps = 0; a.steps < 7 && CHECK(m != NULL); a.steps++) {
        if (!CHECK(l2l_attack_run(m, &a, x, labels, N, adv, r))) break;
        for (i = 0; i < N; i++) {
            if (a.steps) CHECK(r[i].loss >= last[i]);
            rose += a.steps && r[i].loss > last[i];
            last[i] = r[i].loss;
        }
    }
    CHECK(rose > N);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Fooled images leave: the same images and records in any batch. */
static void line_search_leaving(void)
{
    enum { N = 24 };
    static const int batches[] = {1, 7, N};
    l2l_context *c = test_context(2);
    l2l_model *m = tiny_model(c, 400);
    l2l_attack a = l2l_attack_bls(0.1);
    l2l_real x[N * 64], adv[N * 64], first[N * 64], z[N * 5];
    l2l_record r[N], kept[N];
    int labels[N], i, j, fooled = 0;
    golden_fill(x, N * 64, 422, 0, 1);
    a.restarts = 2;
    if (CHECK(m && l2l_model_logits(m, x, N, z))) {
        for (i = 0; i < N; i++)
            for (j = labels[i] = 0; j < 5; j++)
                if (z[i * 5 + j] > z[i * 5 + labels[i]]) labels[i] = j;
        for (i = 0; i < COUNT(batches); i++) {
            a.batch = batches[i];
            memset(r, 0, sizeof r);
            if (!CHECK(l2l_attack_run(m, &a, x, labels, N, adv, r))) break;
            if (i == 0) {
                memcpy(first, adv, sizeof adv);
                memcpy(kept, r, sizeof r);
            }
            CHECK_BYTES(first, adv, sizeof adv);
            CHECK_BYTES(kept, r, sizeof r);
        }
        for (i = 0; i < N; i++) fooled += r[i].success;
        CHECK(fooled > 4 && fooled < N);
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* In training mode an image's loss depends on the others, where a layer knows the mode. */
static void line_search_refused(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options mo = own_options("moody", moody_forward, 2, 6, 4);
    l2l_model *m = l2l_model_create(c, &mo);
    l2l_train_options o = l2l_train_default();
    l2l_real x[3 * 72];
    const int labels[3] = {0, 1, 2};
    l2l_dataset d;
    l2l_trainer *t;
    l2l_progress p;
    int kind;
    golden_fill(x, 3 * 72, 1, 0, 1);
    if (CHECK(m && l2l_dataset_from_arrays(c, x, labels, 3, 2, 6, 6, 4, &d)))
        for (kind = 0; kind < 3; kind++) {
            o.method = l2l_method_advtrain_bls();
            CHECK_TEXT("advtrain-bls", o.method.name);
            o.inner_mode = kind == 1 ? L2L_TRAIN : L2L_EVALUATE;
            if (kind == 2) o.method.maximizer.number[0] = 1;
            t = l2l_trainer_create(m, &d, &o);
            CHECK(t && l2l_train_step(t, x, labels, 3, &p) == (kind == 0));
            if (kind) CHECK_ERROR(c, L2L_ERROR_ARGUMENT, kind == 1 ? "training mode" : "rho");
            l2l_trainer_free(t);
        }
    l2l_dataset_free(&d);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- TRADES: what has to hold for any network ---------------------------------------------------- */

/* Where the mode does not matter the third pass is left out: same loss as with it. With dropout the
   two clean passes draw by themselves, so that at beta > 0 KL is not that of equal logits. */
static void trades_passes(void)
{
    static const int labels[3] = {1, 3, 0};
    l2l_context *c = test_context(1);
    l2l_model *m = smooth_model(c);
    l2l_model_options mo = own_options("moody", moody_forward, 2, 6, 4);
    l2l_model *moody = l2l_model_create(c, &mo);
    l2l_outer o = l2l_outer_trades(3);
    double beta = 3, none = 0, bad = -1;
    if (CHECK(m && moody)) {
        l2l_tensor *x = seeded(c, 3, 2, 6, 6, 1, 0, 1), *adv = seeded(c, 3, 2, 6, 6, 2, 0, 1);
        l2l_tensor *z = l2l_model_forward(m, x, L2L_TRAIN), *q = l2l_model_forward(m, adv, L2L_TRAIN);
        double ce = l2l_item(c, l2l_mean(c, l2l_cross_entropy(c, z, labels)));
        double kl = l2l_item(c, l2l_mean(c, l2l_kl_divergence(c, z, q)));
        CHECK_NEAR(ce + 3 * kl, l2l_item(c, o.loss(m, x, adv, labels, &beta)), 1e-5);
        CHECK_NEAR(ce, l2l_item(c, o.loss(m, x, adv, labels, &none)), 1e-6);
        CHECK(l2l_item(c, o.loss(moody, x, x, labels, &beta)) >
              l2l_item(c, o.loss(moody, x, x, labels, &none)) + 1e-3);
        CHECK(o.loss(m, x, adv, labels, &bad) == NULL);
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "beta");
    }
    CHECK_OK(c);
    l2l_model_free(moody);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- L2LDA --------------------------------------------------------------------------------------- */

static void generator_sizes(void)
{
    l2l_context *c = test_context(1);
    l2lda_options o = l2lda_default();
    l2lda *g = l2lda_create(c, &o);
    CHECK_INT(495184, l2lda_size(g));
    CHECK_INT(L2L_SGD, o.optimizer.kind);
    CHECK_NEAR(0.01, o.optimizer.rate, 0);
    CHECK_NEAR(1, o.optimizer.clip, 0);
    CHECK_NEAR(0.02, o.diversity, 0);
    l2lda_free(g);
    o.channels = 3;
    o.height = o.width = 32;
    g = l2lda_create(c, &o);
    CHECK_INT(500944, l2lda_size(g));
    if (g) CHECK_INT(32, l2lda_info(g)->height);
    l2lda_free(g);
    o.width = 30;
    CHECK(l2lda_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "multiples of 4");
    o.width = 32;
    o.diversity = -1;
    CHECK(l2lda_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "diversity");
    o.diversity = 0;
    o.optimizer.rate = -1;
    CHECK(l2lda_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "rate");
    CHECK_OK(c);
    l2l_context_free(c);
}

/* The shared row of a scale begins near 1, the classes' rows near 0; shifts at 0. */
static void generator_starts(void)
{
    l2l_context *c = test_context(1);
    l2lda *g = small_generator(c, 0.01);
    l2l_model *net = l2lda_network(g);
    int i, j, seen = 0;
    for (i = 0; i < l2l_model_parameters(net); i++) {
        l2l_parameter p = l2l_model_parameter(net, i);
        l2l_real v[6 * 8];
        if (!strstr(p.name, ".norm.weight") || !CHECK_INT(48, l2l_count(p.value->shape))) continue;
        CHECK(l2l_parameter_get(net, i, v)); /* 6 rows of 8 in the file's order */
        for (j = 0; j < 48; j++) CHECK_NEAR(j / 8 == 5, v[j], 0.1);
        seen++;
    }
    CHECK_INT(3, seen);
    CHECK_OK(c);
    l2lda_free(g);
    l2l_context_free(c);
}

/* The attack's result is each image's own, fooled images leave, restarts draw other z. */
static void generator_attack(void)
{
    enum { N = 12 };
    static const int batches[] = {N, 1, 5};
    l2l_context *c = test_context(2);
    l2lda *g = seeded_generator(c);
    l2l_model *m = generator_classifier(c);
    l2l_attack a = l2lda_attack(g, 0.2);
    l2l_real x[N * 64], adv[N * 64], first[N * 64], z[N * 5];
    l2l_record r[N], kept[N];
    int labels[N], i, j, later = 0;
    golden_fill(x, N * 64, 17000, 0, 1);
    if (CHECK(m && g && l2l_model_logits(m, x, N, z))) {
        for (i = 0; i < N; i++)
            for (j = labels[i] = 0; j < 5; j++)
                if (z[i * 5 + j] > z[i * 5 + labels[i]]) labels[i] = j;
        a.steps = 4;
        a.restarts = 3;
        for (i = 0; i < COUNT(batches); i++) {
            a.batch = batches[i];
            memset(r, 0, sizeof r);
            if (!CHECK(l2l_attack_run(m, &a, x, labels, N, adv, r))) break;
            if (i == 0) {
                memcpy(first, adv, sizeof adv);
                memcpy(kept, r, sizeof r);
            }
            CHECK_BYTES(first, adv, sizeof adv);
            CHECK_BYTES(kept, r, sizeof r);
        }
        for (i = 0; i < N; i++) later += r[i].restart > 0;
        CHECK(later > 0);
        a.targets = labels;
        CHECK(!l2l_attack_run(m, &a, x, labels, N, adv, r));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "targets");
    }
    CHECK_OK(c);
    l2lda_free(g);
    l2l_model_free(m);
    m = tiny_model(c, 1);
    {
        l2lda_options o = l2lda_default();
        o.width_multiplier = 0.125;
        g = l2lda_create(c, &o);
        a = l2lda_attack(g, 0.2);
        CHECK(!l2l_attack_run(m, &a, x, labels, N, adv, r));
        CHECK_ERROR(c, L2L_ERROR_SHAPE, "made for images of 28x28x1");
    }
    l2lda_free(g);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Packed numbers that cannot be a generator's are refused, and nothing is changed then. */
static void generator_states(void)
{
    l2l_context *c = test_context(1);
    l2lda *g = seeded_generator(c);
    l2l_maximizer m = l2lda_maximizer(g);
    int64_t n = m.pack(m.self, NULL);
    double *v = (double *)test_memory((size_t)n * sizeof *v), *again, kept;
    again = (double *)test_memory((size_t)n * sizeof *v);
    CHECK_INT(n, m.pack(m.self, v));
    CHECK(m.unpack(m.self, v, n));
    CHECK_OK(c);
    kept = v[0];
    v[0] = NAN; /* width_multiplier */
    CHECK(!m.unpack(m.self, v, n));
    CHECK_ERROR(c, L2L_ERROR_MISMATCH, "width_multiplier");
    v[0] = kept;
    if (sizeof(l2l_real) == sizeof(float)) {
        int64_t at[2];
        int i;
        at[0] = L2LDA__OWN + L2LDA__OPTIMIZER + 5; /* a weight, and a moment of the optimizer */
        at[1] = n - 3;
        for (i = 0; i < 2; i++) {
            kept = v[at[i]];
            v[at[i]] = -1e300;
            CHECK(!m.unpack(m.self, v, n));
            CHECK_ERROR(c, L2L_ERROR_FORMAT, "too large");
            v[at[i]] = kept;
        }
    }
    m.pack(m.self, again);
    CHECK_BYTES(v, again, (size_t)n * sizeof *v);
    CHECK(!m.unpack(NULL, v, n));
    free(v);
    free(again);
    l2lda_free(g);
    l2l_context_free(c);
}

/* What is loaded after a step that failed stays as the file has it: running statistics, too. */
static void generator_loaded_after_a_failure(void)
{
    l2l_context *c = test_context(1);
    l2lda *g = seeded_generator(c), *h = small_generator(c, 0.01);
    void *data = NULL, *back = NULL;
    size_t bytes = 0, size = 0;
    CHECK(l2lda_save_memory(g, &data, &bytes));
    CHECK(l2lda__statistics(h, false)); /* as a step begins, and comes to nothing */
    CHECK(l2lda_load_memory(h, data, bytes));
    CHECK(l2lda_save_memory(h, &back, &size));
    if (CHECK_INT(bytes, size)) CHECK_BYTES(data, back, bytes);
    CHECK_SAME_MODEL(l2lda_network(g), l2lda_network(h));
    l2l_free(c, data);
    l2l_free(c, back);
    l2lda_free(g);
    l2lda_free(h);
    CHECK_OK(c);
    l2l_context_free(c);
}

/* In memory and as a file; with its own metadata; not as a classifier, nor a classifier as one. */
static void generator_files(void)
{
    l2l_context *c = test_context(1);
    l2lda *g = seeded_generator(c), *h = small_generator(c, 0.01), *k;
    l2l_model *m = tiny_model(c, 1), *clone;
    l2l_real v[64] = {0};
    const char *file = "out/generator.safetensors", *other = "out/classifier.safetensors";
    void *data = NULL;
    size_t bytes = 0;
    CHECK(l2lda_save_memory(g, &data, &bytes));
    CHECK(l2lda_load_memory(h, data, bytes));
    CHECK_SAME_MODEL(l2lda_network(g), l2lda_network(h));
    l2l_free(c, data);
    CHECK(l2lda_save(g, file));
    l2lda_free(h);
    h = small_generator(c, 0.01);
    CHECK(l2lda_load(h, file));
    CHECK_SAME_MODEL(l2lda_network(g), l2lda_network(h));
    k = l2lda_open(c, file);
    if (CHECK(k != NULL)) CHECK_SAME_MODEL(l2lda_network(g), l2lda_network(k));
    CHECK_OK(c);
    CHECK(l2l_model_open(c, file) == NULL);
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "");
    CHECK(!l2l_model_logits(l2lda_network(g), v, 1, v));
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "does not classify");
    clone = l2l_model_clone(c, l2lda_network(g));
    if (CHECK(clone != NULL)) CHECK_SAME_MODEL(l2lda_network(g), clone);
    l2l_model_free(clone);
    CHECK(l2l_model_save(m, other));
    CHECK(l2lda_open(c, other) == NULL);
    CHECK_ERROR(c, L2L_ERROR_FORMAT, "l2lda generator");
    CHECK(!l2lda_load(h, other));
    CHECK_ERROR(c, L2L_ERROR_MISMATCH, "arch");
    remove(file);
    remove(other);
    l2lda_free(k);
    l2lda_free(h);
    l2lda_free(g);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* l2l_concat and its adjoint, of any order: <concat(a,b), y> differentiated twice through a product. */
static void concatenation(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *a = seeded(c, 2, 3, 2, 4, 1, -1, 1), *b = seeded(c, 2, 2, 2, 4, 2, -1, 1);
    l2l_tensor *parts[2], *y, *g[2], *h[2];
    int p, k;
    parts[0] = a;
    parts[1] = b;
    l2l_set_recording(c, true);
    y = l2l_concat(c, parts, 2);
    if (CHECK(y != NULL)) {
        for (p = 0; p < 16; p++)
            for (k = 0; k < 5; k++)
                CHECK_NEAR(k < 3 ? a->data[p * 3 + k] : b->data[p * 2 + k - 3], y->data[p * 5 + k], 0);
        y = l2l_power(c, y, 3);
        CHECK(l2l_grad(c, y, parts, 2, g, L2L_CREATE_GRAPH));
        CHECK(l2l_grad(c, l2l_concat(c, g, 2), parts, 2, h, 0));
        for (p = 0; p < 48 && h[0]; p++) CHECK_NEAR(6 * (double)a->data[p], h[0]->data[p], 1e-4);
        for (p = 0; p < 32 && h[1]; p++) CHECK_NEAR(6 * (double)b->data[p], h[1]->data[p], 1e-4);
    }
    l2l_set_recording(c, false);
    parts[1] = seeded(c, 2, 2, 2, 3, 2, -1, 1);
    CHECK(l2l_concat(c, parts, 2) == NULL);
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "l2l_concat");
    CHECK(l2l_concat(c, parts, 9) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "1 to 8");
    l2l_context_free(c);
}

/* -- learning ------------------------------------------------------------------------------------ */

typedef struct first_last {
    double first, last, gain;
    int64_t calls;
} first_last;
static bool note_epochs(void *user, const l2l_progress *p)
{
    first_last *f = (first_last *)user;
    f->calls++;
    f->gain = p->gain;
    if (p->epoch_ended && p->epoch == 0) f->first = p->epoch_loss;
    if (p->epoch_ended) f->last = p->epoch_loss;
    return true;
}

/* The digits that come with the project, from tests/ or from the top. */
static bool digits(l2l_context *c, l2l_dataset *d)
{
    const char *image[] = {"../examples/data/train-images-idx3-ubyte",
                           "examples/data/train-images-idx3-ubyte"};
    const char *label[] = {"../examples/data/train-labels-idx1-ubyte",
                           "examples/data/train-labels-idx1-ubyte"};
    FILE *f = fopen(image[0], "rb");
    int i = f == NULL;
    if (f) fclose(f);
    return l2l_dataset_idx(c, image[i], label[i], 10, d);
}

/* Mean loss of an attack on the first digits. */
static double attack_loss(l2l_model *m, const l2l_dataset *d, const l2l_attack *attack)
{
    enum { N = 50 };
    l2l_real *x = test_array(N * 784), *adv = test_array(N * 784);
    l2l_record r[N];
    int labels[N], i;
    double loss = 0;
    l2l_attack a = *attack;
    a.last_iterate = true;
    if (CHECK(l2l_dataset_read(d, 0, N, x, labels) &&
              l2l_attack_run(m, &a, x, labels, N, adv, r)))
        for (i = 0; i < N; i++) loss += r[i].loss / N;
    free(x);
    free(adv);
    return loss;
}

/* A small net learns the embedded digits by each method. The generator's attack on a classifier that
   stays as it is gets stronger: as it is trained. */
static void learning(void)
{
    enum { BLS, TRADES, RNN_TRADES, L2LDA, METHODS };
    static const char *const names[] = {"advtrain-bls", "trades", "rnn-trades", "l2lda"};
    int method;
    for (method = 0; method < METHODS; method++) {
        l2l_context *c = test_context(1); /* small layers: threads would only wait */
        l2l_model_options mo = l2l_model_default("smallcnn");
        l2l_learned_options lo = l2l_learned_default();
        l2lda_options go = l2lda_default();
        l2l_train_options o = l2l_train_default();
        l2l_dataset d;
        l2l_learned *phi;
        l2lda *g;
        l2l_model *m;
        l2l_trainer *t;
        first_last f = {0, 0, 0, 0};
        if (!CHECK(digits(c, &d))) { CHECK_OK(c); l2l_context_free(c); return; }
        mo.width_multiplier = 0.25;
        go.width_multiplier = 0.125;
        d.count = 300;
        m = l2l_model_create(c, &mo);
        phi = l2l_learned_create(c, &lo);
        g = l2lda_create(c, &go);
        o.method = method == BLS          ? l2l_method_advtrain_bls()
                   : method == TRADES     ? l2l_method_trades(1)
                   : method == RNN_TRADES ? l2l_method_rnn_trades(phi, 1)
                                          : l2lda_method(g);
        CHECK_TEXT(names[method], o.method.name);
        o.epochs = 6;
        o.batch = 30;
        o.T = 2;
        o.epsilon = 0.1;
        o.optimizer.rate = 3e-3;
        o.progress = note_epochs;
        o.user = &f;
        t = l2l_trainer_create(m, &d, &o);
        CHECK(t && l2l_train(t));
        CHECK(f.first > 0.5 && f.last < 0.6 * f.first);
        if (method >= RNN_TRADES) CHECK(f.gain > 0);
        l2l_trainer_free(t);
        if (method == L2LDA) {
            l2l_attack a = l2lda_attack(g, 0.3);
            double before, after;
            l2lda_free(g);
            go.optimizer.rate = 0.05;
            g = l2lda_create(c, &go);
            a.maximizer = l2lda_maximizer(g);
            o.method = l2lda_method(g);
            o.optimizer.rate = 0; /* the classifier stays */
            o.epochs = 2;
            o.epsilon = 0.3;
            o.epsilon_warm_up = 0;
            before = attack_loss(m, &d, &a);
            t = l2l_trainer_create(m, &d, &o);
            CHECK(t && l2l_train(t));
            l2l_trainer_free(t);
            after = attack_loss(m, &d, &a);
            CHECK(after > 1.5 * before);
            if (test_complaints)
                printf("    loss under a new generator %g, under a trained one %g\n", before, after);
        }
        if (test_complaints)
            printf("    %s: loss %g, then %g, gain %g\n", names[method], f.first, f.last, f.gain);
        CHECK_OK(c);
        l2l_learned_free(phi);
        l2lda_free(g);
        l2l_model_free(m);
        l2l_dataset_free(&d);
        l2l_context_free(c);
    }
}

int main(void)
{
    run_golden_defences();
    RUN(line_search_twin, "the line search is that of a naive twin, image by image, pass by pass");
    RUN(line_search_never_falls, "under the line search the loss never falls");
    RUN(line_search_leaving, "fooled images leave the line search without a trace in the others");
    RUN(line_search_refused, "the line search is refused where images depend on each other");
    RUN(trades_passes, "TRADES' passes: the third is left out only where it is the first again");
    RUN(generator_sizes, "500,944 and 495,184 parameters; bad settings are refused by name");
    RUN(generator_starts, "class-conditional scales begin near 1, shared by all classes");
    RUN(generator_attack, "the generator's attack is each image's own; restarts draw other z");
    RUN(generator_states, "states that cannot be a generator's are refused, and change nothing");
    RUN(generator_loaded_after_a_failure, "a generator loaded after a failed step is the file's");
    RUN(generator_files, "a generator comes back from its file, and is no classifier");
    RUN(concatenation, "l2l_concat and its gradients of first and second order");
    RUN(learning, "each method learns the embedded digits, the generator's attack gets stronger");
    return test_end();
}
