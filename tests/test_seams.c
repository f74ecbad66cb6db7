/* What programs write for themselves: a maximizer that looks where it likes, layers with parameters,
   runs of a network, outer losses, optimizers' states, files of own networks. The largest example is
   examples/l2lda.h, with tests of its own. */
#include "networks.h"
#include "../examples/searches.h"

enum { N = 12, SIDE = 8, SIZE = SIDE * SIDE, K = 5 };

static l2l_model *moody_model(l2l_context *c)
{
    l2l_model_options o = own_options("moody", moody_forward, 1, SIDE, K);
    return l2l_model_create(c, &o);
}

static void some_images(l2l_real *x, int *labels)
{
    int i;
    golden_fill(x, N * SIZE, 41000, 0, 1);
    for (i = 0; i < N; i++) labels[i] = (3 * i + 1) % K;
}

/* -- l2l_look ---------------------------------------------------------------------------------- */

/* l2l_maximizer_line_search on public calls. Every image is looked at in every trial; no image knows
   of the others, so those that are through already can be passed over. */
static bool search_step(void *self, l2l_inner *in)
{
    const double c1 = 1e-4;
    l2l_context *c = in->context;
    int64_t one = l2l_count(in->shape) / in->n, j;
    double alpha = in->epsilon;
    int *through = (int *)test_memory((size_t)in->n * sizeof *through), trial, i;
    l2l_real *loss = test_array(in->n);
    (void)self;
    for (trial = 0; trial < 10 && !l2l_error(c); trial++, alpha /= 2) {
        l2l_mark mark = l2l_mark_here(c);
        l2l_tensor *d = l2l_affine(c, l2l_sign(c, in->g[in->t]), alpha, 0);
        l2l_tensor *z = l2l_project(c, l2l_add(c, in->adv, d), in->x, in->epsilon);
        if (!z || !l2l_look(in, z, loss, NULL, NULL)) break;
        for (i = 0; i < in->n; i++) {
            double rise = 0;
            if (through[i]) continue;
            if (in->trials) in->trials[i]++;
            for (j = i * one; j < (i + 1) * one; j++)
                rise += (double)in->g[in->t]->data[j] *
                        ((double)z->data[j] - (double)in->adv->data[j]);
            through[i] = (double)loss[i] >= (double)in->loss[i] + c1 * rise;
            for (j = i * one; j < (i + 1) * one; j++)
                in->delta->data[j] = through[i] ? d->data[j] : 0;
        }
        l2l_release(c, mark);
    }
    free(through);
    free(loss);
    return !l2l_error(c);
}

static bool stateless(void *self, l2l_inner *in, const int *kept, int n)
{
    (void)self; (void)in; (void)kept; (void)n;
    return true;
}

static void own_line_search(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = tiny_model(c, 610);
    l2l_real x[N * SIZE], theirs[N * SIZE], ours[N * SIZE];
    l2l_record there[N], here[N];
    int labels[N], targets[N], kind, i;
    some_images(x, labels);
    for (i = 0; i < N; i++) targets[i] = (labels[i] + 2) % K;
    for (kind = 0; kind < 4; kind++) { /* as it is; targets; KL; the cut margin */
        l2l_attack a = l2l_attack_bls(0.2);
        a.steps = 4;
        if (kind == 1) a.targets = targets;
        if (kind == 2) a.objective = l2l_objective_kl();
        if (kind == 3) a.objective = l2l_objective_margin();
        a.objective.cut = kind == 3;
        a.objective.confidence = 0.5;
        memset(here, 0, sizeof here);
        memset(there, 0, sizeof there);
        CHECK(l2l_attack_run(m, &a, x, labels, N, theirs, there));
        memset(&a.maximizer, 0, sizeof a.maximizer);
        a.maximizer.name = "own line search";
        a.maximizer.step = search_step;
        a.maximizer.keep = stateless;
        CHECK(l2l_attack_run(m, &a, x, labels, N, ours, here));
        CHECK_BYTES(theirs, ours, sizeof ours);
        CHECK_BYTES(there, here, sizeof here); /* passes, too */
        CHECK_OK(c);
    }
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Looks at x'_t again: it has to be what was found there. */
typedef struct onlooker {
    int looks, off; /* off: looks without */
} onlooker;

static bool onlooker_step(void *self, l2l_inner *in)
{
    onlooker *s = (onlooker *)self;
    int64_t count = l2l_count(in->shape), forwards = in->forwards, backwards = in->backwards;
    l2l_real *loss = test_array(in->n), *g = test_array(count);
    int *predicted = (int *)test_memory((size_t)in->n * sizeof *predicted);
    if (!s->off) {
        s->looks++;
        CHECK(l2l_look(in, in->adv, loss, predicted, g));
        CHECK_BYTES(in->loss, loss, (size_t)in->n * sizeof *loss);
        CHECK_BYTES(in->predicted, predicted, (size_t)in->n * sizeof *predicted);
        CHECK_BYTES(in->g[in->t]->data, g, (size_t)count * sizeof *g);
        CHECK_INT(forwards + 1, in->forwards);
        CHECK_INT(backwards + 1, in->backwards);
        CHECK(l2l_look(in, in->x, NULL, NULL, NULL)); /* somewhere else, for nothing */
        CHECK_INT(forwards + 2, in->forwards);
        CHECK_INT(backwards + 1, in->backwards);
        CHECK_BYTES(in->loss, loss, (size_t)in->n * sizeof *loss);
    }
    free(loss);
    free(g);
    free(predicted);
    return l2l_maximizer_sign().step(NULL, in);
}

static l2l_maximizer onlooker_maximizer(onlooker *s)
{
    l2l_maximizer r = l2l_maximizer_sign();
    r.name = "onlooker";
    r.self = s;
    r.step = onlooker_step;
    r.keep = stateless;
    return r;
}

/* One's own step by the library's, whose memory was not asked for. */
static bool forgetful_step(void *self, l2l_inner *in)
{
    (void)self;
    return l2l_maximizer_momentum(1).step(NULL, in);
}

static void forgotten_memory(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = tiny_model(c, 611);
    l2l_attack a = l2l_attack_mim(0.2);
    l2l_real x[N * SIZE];
    int labels[N], i;
    some_images(x, labels);
    a.maximizer.name = "forgetful";
    a.maximizer.step = forgetful_step;
    for (i = 1; i >= 0; i--) {
        a.maximizer.memory = i;
        CHECK(l2l_attack_run(m, &a, x, labels, N, NULL, NULL) == (i > 0));
        if (!i) CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "'forgetful' steps by momentum: its memory");
    }
    a = l2l_attack_pgd(0.2);
    a.maximizer.step = l2l_maximizer_adam(8.0 / 255).step;
    for (i = 2; i >= 0; i--) {
        a.maximizer.memory = i;
        CHECK(l2l_attack_run(m, &a, x, labels, N, NULL, NULL) == (i > 1));
        if (i < 2) CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "must have a memory of 2");
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void looking_again(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = tiny_model(c, 610);
    l2l_real x[N * SIZE], adv[N * SIZE];
    l2l_record r[N];
    int labels[N], kind;
    onlooker s = {0, 0};
    some_images(x, labels);
    for (kind = 0; kind < 3; kind++) {
        l2l_attack a = l2l_attack_pgd(0.2);
        a.maximizer = onlooker_maximizer(&s);
        if (kind == 1) a.targets = labels;
        if (kind == 2) a.objective = l2l_objective_kl();
        a.objective.cut = kind == 0;
        a.objective.confidence = 1;
        CHECK(l2l_attack_run(m, &a, x, labels, N, adv, r));
    }
    CHECK(s.looks > 10);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Batch norm in training mode, dropout: looks leave no trace in what is trained. */
static void looks_without_trace(void)
{
    l2l_real x[N * SIZE], *trained[2];
    int labels[N], k;
    int64_t n = 0;
    some_images(x, labels);
    for (k = 0; k < 2; k++) {
        l2l_context *c = test_context(1);
        l2l_model *m = moody_model(c);
        l2l_train_options o = l2l_train_default();
        l2l_trainer *t;
        l2l_dataset d;
        onlooker s = {0, 0};
        s.off = k;
        CHECK(l2l_dataset_from_arrays(c, x, labels, N, 1, SIDE, SIDE, K, &d));
        o.method.maximizer = onlooker_maximizer(&s);
        o.inner_mode = L2L_TRAIN;
        o.T = 3;
        o.batch = 4;
        o.epochs = 2;
        t = l2l_trainer_create(m, &d, &o);
        CHECK(l2l_train(t));
        CHECK_INT(k ? 0 : 18, s.looks);
        trained[k] = all_parameters(m, &n);
        CHECK_OK(c);
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
        l2l_model_free(m);
        l2l_context_free(c);
    }
    CHECK_BYTES(trained[0], trained[1], (size_t)n * sizeof(l2l_real));
    free(trained[0]);
    free(trained[1]);
}

static bool astray(void *self, l2l_inner *in)
{
    (void)self;
    return l2l_look(in, l2l_zeros(in->context, l2l_shape_of(1, 2, 3, 4)), NULL, NULL, NULL);
}
static void looking_astray(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = tiny_model(c, 610);
    l2l_attack a = l2l_attack_pgd(0.2);
    l2l_real x[N * SIZE], adv[N * SIZE];
    l2l_record r[N];
    int labels[N];
    some_images(x, labels);
    a.maximizer.step = astray;
    CHECK(!l2l_attack_run(m, &a, x, labels, N, adv, r));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "1x2x3x4");
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- layers with parameters of their own --------------------------------------------------------- */

/* A scale for each channel, a transposed convolution, a table, and a buffer that counts the runs. */
typedef struct wish {
    int rank, kernel;
    double deviation;
    const char *name;
} wish;
static const wish usual = {1, 4, 0.5, "scale"};

static l2l_tensor *made_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    const wish *w = (const wish *)user;
    l2l_context *c = l2l_model_context(m);
    const l2l_conv_options plain = l2l_conv_default();
    l2l_tensor *scale, *up, *table, *runs;
    l2l_shape s = l2l_shape_of(x->shape.n, 2 * SIDE, 2 * SIDE, 6);
    l2l_model_scope(m, "own.");
    scale = l2l_layer_parameter(m, w->name, l2l_shape_of(1, 1, 1, 6), w->rank, true, 0, 1);
    up = l2l_layer_parameter(m, "up.weight", l2l_shape_of(w->kernel, 4, 6, 1), 4, true, w->deviation, 0);
    table = l2l_layer_parameter(m, "table.weight", l2l_shape_of(1, 1, 6, K), 2, true, 0.25, 3);
    runs = l2l_layer_parameter(m, "runs", l2l_shape_of(1, 1, 1, 1), 1, false, 0, 7);
    if (!scale || !up || !table || !runs) return NULL;
    if (l2l_model_mode(m) == L2L_TRAIN && !l2l_model_pass(m).frozen) runs->data[0] += 1;
    x = l2l_mul(c, l2l_conv_input_grad(c, x, up, s, 2, 1), scale);
    return l2l_linear(c, l2l_global_average_pool(c, l2l_relu(c, x)), table, &plain);
}

static l2l_model_options made_options(const wish *w)
{
    l2l_model_options o = own_options("made", made_forward, 1, SIDE, K);
    o.user = (void *)(uintptr_t)w;
    return o;
}

static void own_layers(void)
{
    static const char *const names[] = {"own.scale", "own.up.weight", "own.table.weight", "own.runs"};
    static const int ranks[] = {1, 4, 2, 1}, counts[] = {6, 96, 30, 1};
    l2l_context *c = test_context(1);
    l2l_model_options o = made_options(&usual);
    l2l_model *m = l2l_model_create(c, &o), *other = l2l_model_create(c, &o), *twin;
    l2l_train_options how = l2l_train_default();
    l2l_trainer *t;
    l2l_dataset d;
    l2l_real x[N * SIZE], v[96], *before, *after;
    double sum = 0, squares = 0;
    int labels[N], i;
    int64_t n, k;
    size_t bytes = 0;
    void *data = NULL;
    char text[1024];
    some_images(x, labels);
    if (!CHECK(m && other) || !CHECK_INT(4, l2l_model_parameters(m))) { CHECK_OK(c); return; }
    for (i = 0; i < 4; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        CHECK_TEXT(names[i], p.name);
        CHECK_INT(ranks[i], p.rank);
        CHECK_INT(i < 3, p.trainable);
        CHECK_INT(counts[i], l2l_count(p.value->shape));
    }
    CHECK_INT(132, l2l_model_size(m));
    l2l_model_summary(m, text, sizeof text);
    CHECK_CONTAINS("1x6x4x4", text);
    CHECK_CONTAINS("5x6", text);
    CHECK(l2l_parameter_get(m, 0, v));
    for (i = 0; i < 6; i++) CHECK_NEAR(1, v[i], 0);
    CHECK(l2l_parameter_get(m, 1, v));
    for (i = 0; i < 96; i++) sum += (double)v[i] / 96, squares += (double)v[i] * (double)v[i] / 96;
    CHECK_NEAR(0, sum, 0.2);
    CHECK_NEAR(0.5, sqrt(squares), 0.1);
    CHECK(l2l_parameter_get(m, 2, v));
    for (sum = 0, i = 0; i < 30; i++) sum += (double)v[i] / 30;
    CHECK_NEAR(3, sum, 0.2);
    /* trained, and the buffer moved by nobody but the forward function, in line 14's passes */
    CHECK(l2l_dataset_from_arrays(c, x, labels, N, 1, SIDE, SIDE, K, &d));
    how.method = l2l_method_advtrain();
    how.T = 2;
    how.batch = 4;
    how.epochs = 2;
    before = all_parameters(m, &n);
    t = l2l_trainer_create(m, &d, &how);
    CHECK(l2l_train(t));
    after = all_parameters(m, &n);
    for (k = 0, i = 0; k < n - 1; k++) i += after[k] < before[k] || after[k] > before[k];
    CHECK(i > 100);
    CHECK_NEAR(13, after[n - 1], 0);
    /* a file, a clone */
    CHECK(l2l_model_save_memory(m, &data, &bytes));
    CHECK(l2l_model_load_memory(other, data, bytes, &i));
    twin = l2l_model_clone(c, m);
    free(before);
    before = all_parameters(other, &n);
    CHECK_BYTES(after, before, (size_t)n * sizeof *after);
    free(before);
    before = all_parameters(twin, &n);
    CHECK_BYTES(after, before, (size_t)n * sizeof *after);
    CHECK_OK(c);
    free(before);
    free(after);
    l2l_free(c, data);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2l_model_free(twin);
    l2l_model_free(other);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void own_layers_refused(void)
{
    static const wish bad[] = {{3, 4, 0, "scale"}, {1, 4, (double)NAN, "scale"}, {1, 4, -1, "scale"},
                               {1, 4, 0, "up.weight"}, {1, 4, 0, ""}, {2, 0, 0, "scale"},
                               {1, 4, 0, "bn.num_batches_tracked"},
        {1, 4, 0, "a name that is so long that it does not fit into the ninety-five characters that "
                  "there are for it"}};
    static const char *const texts[] = {"rank 3", "nan", "-1", "'own.up.weight'", "empty", "0x4x6x1",
                                        "means another thing in files", "95"};
    l2l_context *c = test_context(1);
    l2l_model_options o;
    l2l_model *m;
    l2l_real z[K], x[SIZE];
    wish w = usual;
    int i;
    for (i = 0; i < COUNT(bad); i++) {
        o = made_options(&bad[i]);
        CHECK(l2l_model_create(c, &o) == NULL);
        CHECK_ERROR(c, i == 5 ? L2L_ERROR_SHAPE : L2L_ERROR_ARGUMENT, texts[i]);
    }
    o = made_options(&w);
    m = l2l_model_create(c, &o);
    golden_fill(x, SIZE, 1, 0, 1);
    CHECK(l2l_model_logits(m, x, 1, z));
    w.name = "renamed";
    CHECK(!l2l_model_logits(m, x, 1, z));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "'own.renamed'");
    w = usual;
    w.kernel = 2;
    CHECK(!l2l_model_logits(m, x, 1, z));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "own.up.weight");
    w = usual;
    CHECK(l2l_model_logits(m, x, 1, z));
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Values written in place, on a network whose weights are kept in other layouts as well. */
static void changed_in_place(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = tiny_model(c, 610), *twin = tiny_model(c, 611);
    l2l_real x[N * SIZE], a[N * K], b[N * K];
    int labels[N], i;
    some_images(x, labels);
    CHECK(l2l_model_logits(m, x, N, a) && l2l_model_logits(twin, x, N, b));
    for (i = 0; i < l2l_model_parameters(m); i++) {
        l2l_tensor *to = l2l_model_parameter(m, i).value;
        memcpy(to->data, l2l_model_parameter(twin, i).value->data,
               (size_t)l2l_count(to->shape) * sizeof *to->data);
    }
    l2l_model_changed(m);
    CHECK(l2l_model_logits(m, x, N, a));
    CHECK_BYTES(b, a, sizeof a);
    l2l_model_changed(NULL);
    CHECK_OK(c);
    l2l_model_free(twin);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- runs ---------------------------------------------------------------------------------------- */

/* The network up to its features, of whatever size. */
static l2l_tensor *features(l2l_model *m, l2l_tensor *x, void *user)
{
    ++*(int *)user;
    x = l2l_layer_conv(m, "conv", x, 8, 3, 1, 1, L2L_NO_BIAS);
    return l2l_layer_batch_norm(m, "bn", x, L2L_RELU);
}
static l2l_tensor *lost(l2l_model *m, l2l_tensor *x, void *user)
{
    if (user) return NULL;
    return l2l_layer_conv(m, "nowhere", x, 8, 3, 1, 1, 0);
}

static l2l_real *buffers(const l2l_model *m)
{
    int64_t n;
    l2l_real *all = all_parameters(m, &n);
    memmove(all, all + 72 + 16, 16 * sizeof *all); /* conv.weight, bn.weight, bn.bias in front */
    return all;
}

static void runs(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = moody_model(c);
    l2l_tensor *x = seeded(c, 4, 1, SIDE, SIDE, 5, 0, 1), *large = seeded(c, 2, 1, 12, 20, 6, 0, 1);
    l2l_tensor *a, *b;
    l2l_pass p = l2l_model_pass(m), after;
    l2l_real *before = buffers(m), *now;
    int calls = 0;
    CHECK(!p.frozen && !p.forward);
    /* as l2l_model_forward */
    p.mode = L2L_EVALUATE;
    a = l2l_model_run(m, x, &p);
    b = l2l_model_forward(m, x, L2L_EVALUATE);
    if (CHECK(a && b)) CHECK_BYTES(b->data, a->data, 4 * K * sizeof(l2l_real));
    /* training mode that leaves the running statistics alone, and one that does not */
    p.mode = L2L_TRAIN;
    p.frozen = true;
    a = l2l_model_run(m, x, &p);
    now = buffers(m);
    CHECK_BYTES(before, now, 16 * sizeof *now);
    free(now);
    p.frozen = false;
    b = l2l_model_run(m, x, &p);
    now = buffers(m);
    CHECK(memcmp(before, now, 16 * sizeof *now) != 0);
    if (CHECK(a && b)) CHECK_BYTES(a->data, b->data, 4 * K * sizeof(l2l_real));
    free(now);
    free(before);
    a = l2l_model_run(m, x, NULL);
    b = l2l_model_forward(m, x, L2L_EVALUATE);
    if (CHECK(a && b)) CHECK_BYTES(b->data, a->data, 4 * K * sizeof(l2l_real));
    /* another function over the same parameters */
    p.mode = L2L_EVALUATE;
    p.forward = features;
    p.user = &calls;
    a = l2l_model_run(m, large, &p);
    CHECK_INT(1, calls);
    if (CHECK(a != NULL)) {
        CHECK_INT(20, a->shape.w);
        CHECK_INT(8, a->shape.c);
    }
    CHECK_OK(c);
    /* what fails leaves nothing behind */
    p.forward = lost;
    CHECK(l2l_model_run(m, x, &p) == NULL);
    CHECK_ERROR(c, L2L_ERROR_CALLBACK, "moody");
    p.user = NULL;
    CHECK(l2l_model_run(m, x, &p) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "nowhere");
    after = l2l_model_pass(m);
    CHECK(!after.frozen && !after.forward);
    CHECK(l2l_model_forward(m, x, L2L_EVALUATE) != NULL);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* A run within a run: over another function, between two layers with a prefix, two of dropout. */
static l2l_tensor *inner_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_dropout(m, x, 0.5);
}
typedef struct nest {
    bool runs;
    l2l_real first[N * SIZE], second[N * SIZE];
} nest;
static l2l_tensor *outer_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    nest *s = (nest *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *one = l2l_full(c, x->shape, 1), *y;
    l2l_pass p = l2l_model_pass(m);
    size_t bytes = (size_t)l2l_count(x->shape) * sizeof(l2l_real);
    l2l_model_scope(m, "a.");
    x = l2l_layer_linear(m, "fc1", x, 8, L2L_RELU);
    y = inner_forward(m, one, NULL);
    if (y) memcpy(s->first, y->data, bytes);
    p.forward = inner_forward;
    y = s->runs ? l2l_model_run(m, one, &p) : inner_forward(m, one, NULL);
    if (y) memcpy(s->second, y->data, bytes);
    return l2l_layer_linear(m, "fc2", x, K, L2L_LAST);
}

static void runs_within_runs(void)
{
    static nest s[2];
    l2l_context *c = test_context(1);
    l2l_tensor *x = seeded(c, N, 1, SIDE, SIDE, 5, 0, 1);
    int i;
    for (i = 0; i < 2; i++) {
        l2l_model_options o = own_options("nest", outer_forward, 1, SIDE, K);
        l2l_model *m;
        o.user = &s[i];
        s[i].runs = i == 1;
        m = l2l_model_create(c, &o);
        if (CHECK(m && l2l_model_parameters(m) == 4)) {
            CHECK_TEXT("a.fc1.weight", l2l_model_parameter(m, 0).name);
            CHECK_TEXT("a.fc2.weight", l2l_model_parameter(m, 2).name);
            CHECK(l2l_model_forward(m, x, L2L_TRAIN) != NULL);
        }
        CHECK(memcmp(s[i].first, s[i].second, sizeof s[i].first) != 0);
        CHECK_OK(c);
        l2l_model_free(m);
    }
    CHECK_BYTES(s[0].first, s[1].first, sizeof s[0].first);
    CHECK_BYTES(s[0].second, s[1].second, sizeof s[0].second);
    l2l_context_free(c);
}

/* An outer loss that joins two batches, whose last image comes to nothing but NaN. */
static l2l_tensor *spoiled_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_tensor *z = linear_forward(m, x, NULL);
    int n = x->shape.n;
    if (z && *(const bool *)user) z->data[(n - 1) * K + 1] = (l2l_real)NAN;
    return z;
}
static l2l_tensor *spoiled_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_shape twice = x->shape;
    l2l_tensor *z;
    int both[2 * N], i;
    (void)adv;
    for (i = 0; i < 2 * twice.n; i++) both[i] = labels[i % twice.n];
    twice.n *= 2;
    *(bool *)user = true;
    z = l2l_model_forward(m, l2l_zeros(c, twice), L2L_TRAIN);
    return z ? l2l_mean(c, l2l_cross_entropy(c, z, both)) : NULL;
}

static void spoiled_image_of_joined_batches(void)
{
    int n;
    for (n = 3; n <= N; n++) {
        l2l_context *c = test_context(1);
        bool spoiled = false;
        l2l_model_options mo = own_options("spoiled", spoiled_forward, 1, SIDE, K);
        l2l_train_options o = l2l_train_default();
        l2l_real x[N * SIZE];
        int labels[N];
        char said[80];
        l2l_trainer *t;
        l2l_model *m;
        mo.user = &spoiled;
        m = l2l_model_create(c, &mo);
        some_images(x, labels);
        o.method = l2l_method_plain();
        memset(&o.method.outer, 0, sizeof o.method.outer);
        o.method.outer.name = "spoiled";
        o.method.outer.loss = spoiled_loss;
        o.method.outer.user = &spoiled;
        o.batch = n;
        o.steps = 1;
        t = l2l_trainer_create(m, NULL, &o);
        CHECK(!l2l_train_step(t, x, labels, n, NULL));
        snprintf(said, sizeof said, "image %d, outer loss: the logit of class 1 is ", n - 1);
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, said);
        l2l_trainer_free(t);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

static l2l_tensor *thinned_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 8, 3, 1, 1, L2L_RELU);
    return l2l_layer_linear(m, "fc", l2l_layer_dropout(m, x, 0.5), K, L2L_LAST);
}

/* Runs x, twice over in one batch; notes the logits, and those of x alone, by image. */
typedef struct joiner {
    l2l_real alone[N * K], first[N * K], again[N * K], other_seed[N * K];
    int seen;
} joiner;
static l2l_tensor *joined_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                               void *user)
{
    joiner *s = (joiner *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_pass p = l2l_model_pass(m);
    l2l_shape twice = x->shape;
    l2l_tensor *both, *one, *z;
    int n = twice.n, at = s->seen * K;
    size_t bytes = (size_t)l2l_count(x->shape) * sizeof(l2l_real);
    size_t rows = (size_t)(n * K) * sizeof(l2l_real);
    (void)adv;
    twice.n *= 2;
    both = l2l_zeros(c, twice);
    memcpy(both->data, x->data, bytes);
    memcpy(both->data + l2l_count(x->shape), x->data, bytes);
    one = l2l_model_forward(m, x, L2L_TRAIN);
    z = l2l_model_forward(m, both, L2L_TRAIN);
    memcpy(s->alone + at, one->data, rows);
    memcpy(s->first + at, z->data, rows);
    memcpy(s->again + at, z->data + n * K, rows);
    p.mode = L2L_TRAIN;
    p.stream.seed++;
    z = l2l_model_run(m, x, &p);
    memcpy(s->other_seed + at, z->data, rows);
    s->seen += n;
    return l2l_mean(c, l2l_cross_entropy(c, one, labels));
}

/* In a training step dropout draws by the image, whatever the parts; for a second batch joined to
   the first, and for another stream, anew. */
static void dropout_of_joined_batches(void)
{
    static joiner s[2];
    int k;
    for (k = 0; k < 2; k++) {
        l2l_context *c = test_context(1);
        l2l_model_options mo = own_options("thinned", thinned_forward, 1, SIDE, K);
        l2l_model *m = l2l_model_create(c, &mo);
        l2l_train_options o = l2l_train_default();
        l2l_real x[N * SIZE];
        l2l_progress p;
        l2l_dataset d;
        l2l_trainer *t;
        int labels[N];
        some_images(x, labels);
        memset(&s[k], 0, sizeof s[k]);
        CHECK(l2l_dataset_from_arrays(c, x, labels, N, 1, SIDE, SIDE, K, &d));
        o.method = l2l_method_plain();
        memset(&o.method.outer, 0, sizeof o.method.outer);
        o.method.outer.name = "joined";
        o.method.outer.loss = joined_loss;
        o.method.outer.user = &s[k];
        o.micro_batch = k ? 5 : 0;
        t = l2l_trainer_create(m, &d, &o);
        CHECK(l2l_train_step(t, x, labels, N, &p));
        CHECK_INT(N, s[k].seen);
        CHECK_OK(c);
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
        l2l_model_free(m);
        l2l_context_free(c);
    }
    CHECK_BYTES(&s[0], &s[1], sizeof s[0]);
    CHECK_BYTES(s[0].alone, s[0].first, sizeof s[0].first);
    for (k = 0; k < N; k++) {
        CHECK(memcmp(s[0].first + k * K, s[0].again + k * K, K * sizeof(l2l_real)) != 0);
        CHECK(memcmp(s[0].first + k * K, s[0].other_seed + k * K, K * sizeof(l2l_real)) != 0);
    }
}

/* The library's own, called by one of the caller's: on the batch, or on it twice over. */
static l2l_tensor *wrapping_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                 void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *twice = NULL;
    int kind = *(const int *)user, n = adv->shape.n, i, all[2 * N];
    int64_t size = l2l_count(adv->shape);
    l2l_outer o = kind < 2 ? l2l_outer_cross_entropy() : l2l_outer_trades(1);
    if (kind % 2) twice = l2l_zeros(c, l2l_shape_of(2 * n, adv->shape.h, adv->shape.w, adv->shape.c));
    for (i = 0; i < 2 && twice; i++) {
        memcpy(twice->data + i * size, adv->data, (size_t)size * sizeof(l2l_real));
        memcpy(all + i * n, labels, (size_t)n * sizeof *all);
    }
    return twice ? o.loss(m, twice, twice, all, o.number) : o.loss(m, x, adv, labels, o.number);
}

static void wrapped_losses(void)
{
    int kind, spoilt;
    for (kind = 0; kind < 4; kind++) {
        l2l_context *c = test_context(1);
        l2l_model *m = tiny_model(c, 610);
        l2l_train_options o = l2l_train_default();
        l2l_real x[N * SIZE];
        l2l_progress p;
        l2l_trainer *t;
        int labels[N];
        some_images(x, labels);
        memset(&o.method.outer, 0, sizeof o.method.outer);
        o.method.outer.name = "wrapping";
        o.method.outer.loss = wrapping_loss;
        o.method.outer.user = &kind;
        o.T = 1;
        o.steps = 2;
        t = l2l_trainer_create(m, NULL, &o);
        if (CHECK(l2l_train_step(t, x, labels, N, &p)))
            CHECK(kind % 2 ? p.accuracy < 0 : p.accuracy >= 0);
        CHECK_OK(c);
        l2l_trainer_free(t);
        /* a logit at the clean images is named as in attacks */
        o.method = l2l_method_trades(1);
        t = l2l_trainer_create(m, NULL, &o);
        for (spoilt = 0; spoilt < l2l_model_parameters(m); spoilt++)
            l2l_model_parameter(m, spoilt).value->data[0] = (l2l_real)NAN;
        l2l_model_changed(m);
        CHECK(!l2l_train_step(t, x, labels, N, &p));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 0, the clean image: the logit");
        l2l_trainer_free(t);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* -- outer losses that tell what they saw -------------------------------------------------------- */

static l2l_tensor *telling_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_pass p = l2l_model_pass(m);
    int told = *(const int *)user, i, classes[N];
    (void)adv;
    p.mode = L2L_TRAIN;
    for (i = 0; i < x->shape.n; i++) classes[i] = i % 2 ? labels[i] : (labels[i] + 1) % K;
    if (told >= 0) l2l_outer_predicted(m, classes, x->shape.n + told);
    return l2l_mean(c, l2l_cross_entropy(c, l2l_model_run(m, x, &p), labels));
}

static void told_accuracy(void)
{
    int kind;
    for (kind = -1; kind < 2; kind++) { /* -1: nothing is told; 1: for too many images */
        l2l_context *c = test_context(1);
        l2l_model *m = tiny_model(c, 610);
        l2l_train_options o = l2l_train_default();
        l2l_real x[N * SIZE];
        l2l_progress p;
        l2l_dataset d;
        l2l_trainer *t;
        int labels[N];
        some_images(x, labels);
        CHECK(l2l_dataset_from_arrays(c, x, labels, N, 1, SIDE, SIDE, K, &d));
        memset(&o.method.outer, 0, sizeof o.method.outer);
        o.method.outer.name = "telling";
        o.method.outer.loss = telling_loss;
        o.method.outer.user = &kind;
        o.T = 1;
        o.micro_batch = 4;
        t = l2l_trainer_create(m, &d, &o);
        CHECK(l2l_train_step(t, x, labels, N, &p) == (kind < 1));
        if (kind == 1) CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "5 classes for 4 images");
        else CHECK_NEAR(kind ? -1 : 0.5, p.accuracy, 0);
        CHECK_OK(c);
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* -- states of optimizers ------------------------------------------------------------------------ */

static void optimizer_states(void)
{
    enum { A = 7, B = 3 };
    static const int64_t sizes[2] = {A, B};
    int kind, i;
    for (kind = 0; kind < 3; kind++) {
        l2l_context *c = test_context(1);
        l2l_optimizer_options o = kind ? l2l_adam_default() : l2l_sgd_default();
        l2l_real v[A + B], g[A + B], kept[A + B], *values[2], *gradients[2];
        l2l_optimizer *one, *other;
        double *numbers, *again;
        int64_t n;
        if (kind == 2) o = l2l_sgd_default(), o.momentum = 0;
        one = l2l_optimizer_create(c, &o, sizes, 2);
        other = l2l_optimizer_create(c, &o, sizes, 2);
        values[0] = v; values[1] = v + A;
        gradients[0] = g; gradients[1] = g + A;
        golden_fill(v, A + B, 1, -1, 1);
        for (i = 0; i < 3; i++) {
            golden_fill(g, A + B, 2 + (uint32_t)i, -1, 1);
            CHECK(l2l_optimizer_step(one, values, gradients, 1));
        }
        n = l2l_optimizer_pack(one, NULL);
        CHECK_INT(10 + (kind == 2 ? 0 : kind ? 2 : 1) * (A + B), n);
        numbers = (double *)test_memory((size_t)n * sizeof *numbers);
        again = (double *)test_memory((size_t)n * sizeof *numbers);
        CHECK_INT(n, l2l_optimizer_pack(one, numbers));
        CHECK_NEAR(3, numbers[9], 0);
        memcpy(kept, v, sizeof v);
        CHECK(l2l_optimizer_step(one, values, gradients, 1));
        for (i = 0; i < A + B; i++) { /* the other goes on from the state, with the same bits */
            l2l_real swap = v[i];
            v[i] = kept[i];
            kept[i] = swap;
        }
        CHECK(l2l_optimizer_unpack(other, numbers, n));
        CHECK(l2l_optimizer_step(other, values, gradients, 1));
        CHECK_BYTES(kept, v, sizeof v);
        /* refused, and left as it is */
        l2l_optimizer_pack(other, again);
        numbers[1] *= 2;
        CHECK(!l2l_optimizer_unpack(other, numbers, n));
        CHECK_ERROR(c, L2L_ERROR_MISMATCH, "rate");
        numbers[1] /= 2;
        CHECK(!l2l_optimizer_unpack(other, numbers, n - 1));
        CHECK_ERROR(c, L2L_ERROR_MISMATCH, "numbers");
        numbers[9] = 1e107;
        CHECK(!l2l_optimizer_unpack(other, numbers, n));
        CHECK_ERROR(c, L2L_ERROR_FORMAT, "steps");
        numbers[9] = (double)NAN;
        CHECK(!l2l_optimizer_unpack(other, numbers, n));
        CHECK_ERROR(c, L2L_ERROR_FORMAT, "steps");
        l2l_optimizer_pack(other, numbers);
        CHECK_BYTES(again, numbers, (size_t)n * sizeof *numbers);
        CHECK_INT(0, l2l_optimizer_pack(NULL, NULL));
        CHECK(!l2l_optimizer_unpack(NULL, numbers, n));
        CHECK_OK(c);
        free(numbers);
        free(again);
        l2l_optimizer_free(one);
        l2l_optimizer_free(other);
        l2l_context_free(c);
    }
}

/* -- files of own networks ----------------------------------------------------------------------- */

static void opening_own_networks(void)
{
    const char *file = "seams.safetensors.tmp", *known = "seams-known.safetensors.tmp";
    l2l_context *c = test_context(1);
    l2l_model *m = tiny_model(c, 610), *k = NULL, *small;
    l2l_model_options o = own_options("tiny", tiny_forward, 3, 40, 2), cnn = l2l_model_default("smallcnn");
    l2l_real *a, *b;
    int64_t n;
    CHECK(l2l_model_save(m, file));
    k = l2l_model_open_as(c, file, &o); /* its sizes are the file's */
    if (CHECK(k != NULL)) {
        CHECK_INT(8, l2l_model_info(k)->height);
        CHECK_INT(1, l2l_model_info(k)->channels);
        CHECK_INT(5, l2l_model_info(k)->classes);
        a = all_parameters(m, &n);
        b = all_parameters(k, &n);
        CHECK_BYTES(a, b, (size_t)n * sizeof *a);
        free(a);
        free(b);
    }
    CHECK_OK(c);
    l2l_model_free(k);
    CHECK(l2l_model_open(c, file) == NULL);
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "tiny");
    o.normalise = 1;                        /* which the file does not: as asked then */
    o.mean[0] = 0.5;
    o.deviation[0] = 0.25;
    k = l2l_model_open_as(c, file, &o);
    if (CHECK(k != NULL)) {
        CHECK_INT(1, l2l_model_info(k)->normalise);
        CHECK_NEAR(0.25, l2l_model_info(k)->deviation[0], 0);
        CHECK(!l2l_parameter_get(k, 0, NULL));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "l2l_parameter_get");
    }
    l2l_model_free(k);
    o.normalise = 0;
    o.arch = "smooth";
    CHECK(l2l_model_open_as(c, file, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_FORMAT, "'tiny', not 'smooth'");
    o.arch = "tiny";
    o.forward = smooth_forward;             /* of that name, but another network */
    CHECK(l2l_model_open_as(c, file, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "conv.weight");
    o.forward = NULL;
    CHECK(l2l_model_open_as(c, file, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "tiny");
    cnn.width_multiplier = 0.25;
    small = l2l_model_create(c, &cnn);
    CHECK(l2l_model_save(small, known));
    k = l2l_model_open_as(c, known, NULL);
    if (CHECK(k != NULL)) CHECK_INT(l2l_model_size(small), l2l_model_size(k));
    CHECK_OK(c);
    remove(file);
    CHECK(l2l_model_open_as(c, file, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_FILE, file);
    remove(known);
    l2l_model_free(k);
    l2l_model_free(small);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Every kind of operation, numbers read in between, and a gradient inside. */
static l2l_tensor *any_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_unit u = l2l_unit_default(4, 3);
    l2l_batch_norm_options norm = l2l_batch_norm_default();
    l2l_tensor *in[2], *scale, *y, *g = NULL;
    l2l_shape s = x->shape;
    l2l_real most = 0, *copy = test_array(l2l_count(s));
    bool was;
    int64_t i;
    (void)user;
    for (i = 0; i < l2l_count(s); i++) most = x->data[i] > most ? x->data[i] : most;
    CHECK(l2l_to_nchw(c, x, copy) && (double)l2l_item(c, l2l_sum(c, x)) >= (double)most);
    x = l2l_add(c, l2l_from_nchw(c, copy, s), l2l_full(c, s, (double)most));
    free(copy);
    scale = l2l_layer_parameter(m, "scale", l2l_shape_of(1, 1, 1, s.c), 1, true, 0.1, 1);
    x = l2l_mul(c, x, l2l_broadcast_to(c, scale, s));
    was = l2l_set_recording(c, true);
    y = l2l_sum(c, l2l_power(c, l2l_affine(c, x, 1, 2), 2));
    CHECK(l2l_grad(c, y, &x, 1, &g, 0));
    l2l_set_recording(c, was);
    x = l2l_sub(c, x, l2l_clamp(c, l2l_abs(c, g), -1, 1));
    x = l2l_layer_batch_norm(m, "first", x, L2L_RELU);
    u.norm = "second";
    in[0] = l2l_layer_unit(m, "unit", x, &u);
    in[1] = l2l_tanh(c, l2l_layer_conv(m, "conv", x, 2, 3, 1, 1, L2L_RELU));
    x = l2l_concat(c, in, 2);
    in[0] = l2l_max_pool(c, x, 2, 2, 0);
    in[1] = l2l_average_pool(c, x, 2, 2, 0);
    x = l2l_leaky_relu(c, l2l_concat(c, in, 2), 0.1);
    norm.training = true;
    if (!(norm.gamma = l2l_full(c, l2l_shape_of(1, 1, 1, 12), 2))) return NULL;
    norm.beta = norm.running_mean = l2l_zeros(c, norm.gamma->shape);
    norm.running_variance = l2l_full(c, norm.gamma->shape, 1);
    norm.update = false;
    x = l2l_batch_norm(c, x, &norm);
    x = l2l_slice(c, l2l_place(c, l2l_sigmoid(c, x), 1, 14), 1, 12);
    x = l2l_layer_dropout(m, l2l_log(c, l2l_affine(c, l2l_exp(c, x), 1, 1)), 0.1);
    x = l2l_add(c, l2l_reshape(c, x, l2l_shape_of(s.n, 4, 4, 12)), l2l_sign(c, l2l_detach(c, x)));
    in[0] = l2l_global_average_pool(c, x);
    in[1] = l2l_softmax(c, l2l_layer_linear(m, "hidden", x, 6, L2L_RELU));
    return l2l_log_softmax(c, l2l_layer_linear(m, "last", l2l_concat(c, in, 2), 5, L2L_LAST));
}

static void opening_any_network(void)
{
    const char *file = "seams-any.safetensors.tmp";
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("any", any_forward, 2, 8, 5);
    l2l_model *m = l2l_model_create(c, &o), *k;
    l2l_real x[3 * 128], z[2][15];
    o.height = o.width = 40;                /* its sizes are the file's */
    golden_fill(x, 3 * 128, 611, 0, 1);
    CHECK(m && l2l_model_save(m, file));
    k = l2l_model_open_as(c, file, &o);
    if (CHECK(m && k)) {
        CHECK_SAME_MODEL(m, k);
        CHECK(l2l_model_logits(m, x, 3, z[0]) && l2l_model_logits(k, x, 3, z[1]));
        CHECK_BYTES(z[0], z[1], sizeof z[0]);
    }
    CHECK_OK(c);
    o.arch = NULL;
    CHECK(!l2l_model_open_as(c, file, &o));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "options.arch is NULL");
    remove(file);
    l2l_model_free(k);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- memory -------------------------------------------------------------------------------------- */

static void own_memory(void)
{
    l2l_context *c = test_context(1);
    size_t used = l2l_memory_used(c), i;
    unsigned char *p = (unsigned char *)l2l_allocate(c, 1000), sum = 0;
    if (CHECK(p != NULL)) {
        for (i = 0; i < 1000; i++) sum = (unsigned char)(sum | p[i]);
        CHECK_INT(0, sum);
    }
    CHECK(l2l_memory_used(c) >= used + 1000);
    l2l_free(c, p);
    CHECK_INT(used, l2l_memory_used(c));
    CHECK(l2l_allocate(c, SIZE_MAX - 8) == NULL);
    CHECK_ERROR(c, L2L_ERROR_MEMORY, "");
    l2l_error_set(c, L2L_ERROR_ARGUMENT, "earlier");
    CHECK(l2l_allocate(c, 8) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "earlier");
    l2l_context_free(c);
}

int main(void)
{
    RUN(own_line_search, "a line search of one's own has the library's images, losses and passes");
    RUN(looking_again, "l2l_look sees what training and attacks saw, with targets, cut and KL; it counts");
    RUN(forgotten_memory, "a step by momentum or Adam says that its memory was not asked for");
    RUN(looks_without_trace, "looks leave running statistics and dropout's draws alone");
    RUN(looking_astray, "l2l_look refuses images of another shape");
    RUN(own_layers, "parameters of own layers are named, drawn, trained, saved and copied as asked");
    RUN(own_layers_refused, "bad parameters of own layers are refused by name");
    RUN(changed_in_place, "values written in place count after l2l_model_changed");
    RUN(runs, "a run is frozen, in a mode, by another function, as asked, and leaves nothing behind");
    RUN(runs_within_runs, "a run within a forward function leaves its prefix and its dropout alone");
    RUN(spoiled_image_of_joined_batches, "an outer loss's NaN is told with its image, batches joined or not");
    RUN(dropout_of_joined_batches, "dropout draws by image and stream, anew for batches that are joined");
    RUN(wrapped_losses, "the library's outer losses tell from within another, of as many images only");
    RUN(told_accuracy, "accuracy is what an own outer loss tells, else -1");
    RUN(optimizer_states, "an optimizer goes on from its packed state with the same bits");
    RUN(opening_any_network, "an own network with any operation opens, its first run sees zeros");
    RUN(opening_own_networks, "own networks are opened by their files, others refused by name");
    RUN(own_memory, "memory of the context's allocator is zeroed, counted and given back");
    return test_end();
}
