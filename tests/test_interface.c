/* The seams of the interface that programs of one's own stand on: what they get is what they can
   hand on, without casts, without reading names, without data that they do not need. */
#include "networks.h"
#include "../examples/autoattack.h"

/* -- gradients of parameters ------------------------------------------------------------------- */

/* Handles go into l2l_grad as they are; each gradient comes out in the file's layout. */
static void parameters_as_inputs(void)
{
    l2l_context *c = test_context(2);
    l2l_model_options o = own_options("tiny", tiny_forward, 2, 8, 3);
    l2l_model *m = l2l_model_create(c, &o);
    const int labels[2] = {1, 2};
    l2l_tensor *theta[4], *grad[4], *loss;
    l2l_mark mark = l2l_mark_here(c);
    int i;
    if (!CHECK(m && l2l_model_parameters(m) == 4)) { CHECK_OK(c); l2l_context_free(c); return; }
    for (i = 0; i < 4; i++) theta[i] = l2l_model_parameter(m, i).value;
    l2l_set_recording(c, true);
    loss = l2l_mean(c, l2l_cross_entropy(
                           c, l2l_model_forward(m, seeded(c, 2, 2, 8, 8, 1, 0, 1), L2L_EVALUATE),
                           labels));
    if (CHECK(l2l_grad(c, loss, theta, 4, grad, 0)))
        for (i = 0; i < 4; i++) {
            l2l_parameter p = l2l_model_parameter(m, i);
            l2l_shape s = p.value->shape;
            int64_t n = l2l_count(s), j;
            l2l_real *file = test_array(n), *expected = test_array(n);
            for (j = 0; j < n; j++) file[j] = -7;
            CHECK(l2l_parameter_to_file(m, i, grad[i], file));
            weight_permute(grad[i]->data, expected, s.c, s.w, s.n, s.h, 1);
            CHECK_BYTES(expected, file, (size_t)n * sizeof *file);
            CHECK(l2l_parameter_to_file(m, i, p.value, file) && l2l_parameter_get(m, i, expected));
            CHECK_BYTES(expected, file, (size_t)n * sizeof *file);
            free(file);
            free(expected);
        }
    CHECK_OK(c);
    l2l_set_recording(c, false);
    l2l_release(c, mark);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Convolution 4x2x3x3, its bias, linear 3x36 of 4x3x3, its bias. */
static void shapes_in_files(void)
{
    static const int64_t expected[4][4] = {{4, 2, 3, 3}, {4, 0, 0, 0}, {3, 36, 0, 0}, {3, 0, 0, 0}};
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("tiny", tiny_forward, 2, 8, 3);
    l2l_model *m = l2l_model_create(c, &o);
    l2l_real v[200] = {0};
    int i, j;
    for (i = 0; i < 4; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        CHECK_INT(i == 0 ? 4 : i == 2 ? 2 : 1, p.rank);
        for (j = 0; j < 4; j++) CHECK_INT(expected[i][j], p.shape[j]);
    }
    CHECK(!l2l_parameter_to_file(m, -1, l2l_model_parameter(m, 0).value, v));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "parameter -1 of 4");
    CHECK(!l2l_parameter_to_file(m, 0, l2l_model_parameter(m, 2).value, v));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "3x3x4x3 does not fit 3x3x2x4");
    CHECK(!l2l_parameter_to_file(m, 0, NULL, v));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "NULL");
    for (i = 0; i < 200; i++) CHECK_NEAR(0, v[i], 0);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- a graph that is given back ---------------------------------------------------------------- */

static void the_output_keeps_its_value(void)
{
    l2l_context *c = test_context(1);
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = seeded(c, 2, 3, 4, 4, 5, -1, 1), *square, *loss, *view, *d;
    double before;
    int k;
    for (k = 0; k < 2; k++) { /* the loss itself, or a view of it */
        l2l_set_recording(c, true);
        square = l2l_mul(c, x, x);
        loss = l2l_sum(c, square);
        before = l2l_item(c, loss);
        view = k ? l2l_reshape(c, loss, l2l_shape_of(1, 1, 1, 1)) : loss;
        CHECK(before > 0 && l2l_grad(c, view, &x, 1, &d, L2L_FREE_GRAPH));
        if (CHECK_OK(c)) CHECK_NEAR(2 * (double)x->data[7], d->data[7], 1e-6);
        CHECK_NEAR(before, l2l_item(c, view), 0);
        CHECK_OK(c);
        CHECK(square->data == NULL); /* what it was computed from is gone */
        CHECK(!l2l_grad(c, view, &x, 1, &d, 0) && d == NULL);
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "L2L_FREE_GRAPH");
        CHECK(!l2l_grad(c, l2l_affine(c, view, 2, 0), &x, 1, &d, 0)); /* and so from beyond it */
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "L2L_FREE_GRAPH");
        l2l_set_recording(c, false);
    }
    l2l_release(c, mark);
    l2l_context_free(c);
}

/* Two outputs of one graph: what the walk from the first gave back, the second misses, and says so,
   whatever the operation between them. */
static void the_second_output(void)
{
    l2l_context *c = test_context(1);
    int labels[2] = {0, 2}, k;
    for (k = 0; k < 9; k++) {
        l2l_mark mark = l2l_mark_here(c);
        l2l_tensor *x = seeded(c, 2, 3, 4, 4, 5, -1, 1), *z = seeded(c, 2, 3, 1, 1, 6, -1, 1);
        l2l_tensor *from = k < 5 ? x : z, *in, *y = NULL, *t, *d = NULL;
        l2l_batch_norm_options b = l2l_batch_norm_default();
        l2l_conv_options o = l2l_conv_default();
        b.training = true;
        b.gamma = l2l_full(c, l2l_shape_of(1, 1, 1, 3), 1);
        b.beta = l2l_zeros(c, l2l_shape_of(1, 1, 1, 3));
        b.running_mean = l2l_zeros(c, l2l_shape_of(1, 1, 1, 3));
        b.running_variance = l2l_full(c, l2l_shape_of(1, 1, 1, 3), 1);
        o.padding = 1;
        o.pool = true;
        l2l_set_recording(c, true);
        in = l2l_affine(c, from, 2, 0);
        switch (k) {
        case 0: y = l2l_max_pool(c, in, 2, 2, 0); break;
        case 1: y = l2l_batch_norm(c, in, &b); break;
        case 2: y = l2l_conv(c, in, seeded_weight(c, 3, 3, 3, 3, 3, -1, 1), &o); break;
        case 3: y = l2l_average_pool(c, in, 2, 2, 0); break;
        case 4: y = l2l_tanh(c, in); break;
        case 5: y = l2l_pick(c, in, labels); break;
        case 6: y = l2l_unpick(c, l2l_pick(c, in, labels), labels, 3); break;
        case 7: y = l2l_margin(c, in, labels); break;
        default: y = l2l_cross_entropy(c, in, labels);
        }
        t = l2l_sum(c, l2l_affine(c, y, 3, 0));
        CHECK(l2l_grad(c, l2l_sum(c, y), &from, 1, &d, L2L_FREE_GRAPH));
        CHECK_OK(c);
        CHECK(!l2l_grad(c, t, &from, 1, &d, 0) && d == NULL);
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "given back");
        l2l_set_recording(c, false);
        l2l_release(c, mark);
    }
    l2l_context_free(c);
}

/* -- steps ------------------------------------------------------------------------------------- */

typedef struct target {
    l2l_model *m;
    l2l_real x[4 * 2 * 64], adv[4 * 2 * 64];
    int labels[4];
} target;

static const l2l_real *attacked(target *t, const l2l_attack *a)
{
    l2l_record records[4];
    memset(t->adv, 0, sizeof t->adv);
    CHECK(l2l_attack_run(t->m, a, t->x, t->labels, 4, t->adv, records));
    return t->adv;
}

/* A step of 0 is the attack's own part of epsilon, whenever epsilon was said. */
static void steps_follow_epsilon(void)
{
    static l2l_attack (*const make[])(double) = {
        l2l_attack_fgsm, l2l_attack_ifgsm, l2l_attack_pgd, l2l_attack_pgd_l2, l2l_attack_mim,
        l2l_attack_cw_pgd};
    static const double radius[] = {0.05, 0.2};
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("smooth", smooth_forward, 2, 8, 3);
    static target t;
    l2l_real expected[4 * 2 * 64];
    l2l_record records[4];
    int i, j;
    t.m = l2l_model_create(c, &o);
    for (i = 0; i < 4; i++) t.labels[i] = i % 3;
    golden_fill(t.x, COUNT(t.x), 9, 0, 1);
    for (i = 0; i < COUNT(make); i++)
        for (j = 0; j < 2; j++) {
            l2l_attack a = make[i](radius[j]), b = make[i](0.3);
            double part = i == 0 ? 1 : 0.25;
            a.last_iterate = b.last_iterate = true;
            a.steps = b.steps = i == 0 ? 1 : 2;
            memcpy(expected, attacked(&t, &a), sizeof expected);
            CHECK(memcmp(expected, t.x, sizeof expected) != 0);
            CHECK_NEAR(0, a.step_size, 0);
            CHECK_NEAR(part, a.relative_step, 0);
            b.epsilon = radius[j];                  /* changed later */
            CHECK_BYTES(expected, attacked(&t, &b), sizeof expected);
            b.step_size = part * radius[j];         /* the same, said in pixels */
            CHECK_BYTES(expected, attacked(&t, &b), sizeof expected);
            b.step_size = 0.5 * part * radius[j];
            CHECK(memcmp(expected, attacked(&t, &b), sizeof expected) != 0);
            b.step_size = 0;                        /* and 0 is the attack's own again */
            CHECK_BYTES(expected, attacked(&t, &b), sizeof expected);
            b.relative_step = 0.5 * part;
            a.step_size = 0.5 * part * radius[j];
            memcpy(expected, attacked(&t, &a), sizeof expected);
            CHECK_BYTES(expected, attacked(&t, &b), sizeof expected);
            b.relative_step = -1;
            CHECK(!l2l_attack_run(t.m, &b, t.x, t.labels, 4, t.adv, records));
            CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "relative_step -1");
        }
    l2l_model_free(t.m);
    l2l_context_free(c);
}

/* What a program asks of an attack, it need not know by name. */
static void kinds_of_attacks(void)
{
    l2l_attack walk = l2l_attack_pgd(0.1), square = l2l_attack_square(0.1);
    l2l_attack cw = l2l_attack_cw_l2(1), sign_opt = l2l_attack_sign_opt(1);
    CHECK(!walk.minimal && !walk.queries && !walk.search);
    CHECK(!square.minimal && square.queries && square.search);
    CHECK(cw.minimal && !cw.queries && cw.search);
    CHECK(sign_opt.minimal && sign_opt.queries && sign_opt.search);
    CHECK(l2l_attack_deepfool(1).minimal && l2l_attack_deepfool_l2(1).minimal);
}

/* -- training without a data set --------------------------------------------------------------- */

enum { IMAGES = 40, BATCH = 10, STEPS = 8 };
static l2l_real given[IMAGES * 2 * 64];
static int given_labels[IMAGES];

static l2l_train_options step_options(l2l_learned *phi)
{
    l2l_train_options o = l2l_train_default();
    o.method = l2l_method_rnn_adv(phi);
    o.batch = BATCH;
    o.T = 3;
    o.schedule.kind = L2L_COSINE;
    o.schedule.warm_up = 0.25;
    return o;
}

/* Steps first .. last-1 of a trainer over the given images, batch by batch. */
static void make_steps(l2l_trainer *t, int first, int last)
{
    for (; t && first < last; first++) {
        int at = first % (IMAGES / BATCH) * BATCH;
        l2l_progress p;
        if (!CHECK(l2l_train_step(t, given + at * 2 * 64, given_labels + at, BATCH, &p))) return;
        CHECK_INT(first + 1, p.step);
        CHECK_INT(STEPS, p.steps);
    }
}

/* All parameters of model and maximizer; to be freed. */
static l2l_real *all_values(const l2l_model *m, l2l_learned *phi, size_t *bytes)
{
    int64_t n = l2l_learned_size(phi);
    l2l_real *v;
    int i;
    for (i = 0; i < l2l_model_parameters(m); i++)
        n += l2l_count(l2l_model_parameter(m, i).value->shape);
    v = test_array(n);
    *bytes = (size_t)n * sizeof *v;
    memcpy(v, l2l_learned_parameters(phi), (size_t)l2l_learned_size(phi) * sizeof *v);
    for (n = l2l_learned_size(phi), i = 0; i < l2l_model_parameters(m); i++) {
        l2l_parameter_get(m, i, v + n);
        n += l2l_count(l2l_model_parameter(m, i).value->shape);
    }
    return v;
}

/* Warm-ups and schedule go by the steps that the options say, not by the size of some data. */
static void steps_without_data(void)
{
    static const char file[] = "out/steps.checkpoint";
    l2l_real *expected = NULL;
    size_t bytes = 0;
    int kind, i;
    golden_fill(given, COUNT(given), 31, 0, 1);
    for (i = 0; i < IMAGES; i++) given_labels[i] = i % 3;
    for (kind = 0; kind < 3; kind++) { /* with data of as many steps, without, and resumed */
        l2l_context *c = test_context(2);
        l2l_model_options network = own_options("tiny", tiny_forward, 2, 8, 3);
        l2l_model *m = l2l_model_create(c, &network);
        l2l_learned_options lstm = l2l_learned_default();
        l2l_learned *phi = l2l_learned_create(c, &lstm);
        l2l_train_options o = step_options(phi);
        l2l_trainer *t;
        l2l_dataset d;
        l2l_real *got;
        CHECK(l2l_dataset_from_arrays(c, given, given_labels, IMAGES, 2, 8, 8, 3, &d));
        o.epochs = kind ? 77 : STEPS * BATCH / IMAGES;
        o.steps = kind ? STEPS : 0;
        t = l2l_trainer_create(m, kind ? NULL : &d, &o);
        if (!CHECK(t != NULL)) CHECK_OK(c);
        if (kind == 2) CHECK(l2l_trainer_resume(t, file));
        make_steps(t, kind < 2 ? 0 : 3, kind == 1 ? 3 : STEPS);
        if (kind == 1) CHECK(l2l_trainer_save(t, file));
        if (kind == 1) make_steps(t, 3, STEPS);
        got = all_values(m, phi, &bytes);
        if (kind) CHECK_BYTES(expected, got, bytes);
        if (kind) free(got); else expected = got;
        CHECK_OK(c);
        if (kind == 2) {
            l2l_trainer *other;
            o.steps = STEPS + 1;
            other = l2l_trainer_create(m, NULL, &o);
            CHECK(other && !l2l_trainer_resume(other, file));
            CHECK_ERROR(c, L2L_ERROR_MISMATCH, "steps is 9 here, but in the file 8");
            l2l_trainer_free(other);
        }
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
        l2l_learned_free(phi);
        l2l_model_free(m);
        l2l_context_free(c);
    }
    remove(file);
    free(expected);
}

static int64_t pack_one(void *self, double *numbers)
{
    if (numbers) *numbers = *(double *)self;
    return 1;
}
static bool unpack_none(void *self, const double *numbers, int64_t n)
{
    (void)self;
    (void)numbers;
    return n == 0;
}

/* A maximizer of one's own that refuses its numbers: the failure has a cause, and touches nothing. */
static void numbers_not_taken_back(void)
{
    static const char file[] = "out/refused.checkpoint";
    l2l_context *c = test_context(1);
    l2l_model_options network = own_options("tiny", tiny_forward, 2, 8, 3);
    l2l_model *m = l2l_model_create(c, &network);
    l2l_train_options o = l2l_train_default();
    double one = 1;
    l2l_trainer *t;
    l2l_progress p;
    l2l_real before[24], after[24];
    o.steps = 10;
    o.method.maximizer.self = &one;
    o.method.maximizer.name = "mine";
    o.method.maximizer.pack = pack_one;
    o.method.maximizer.unpack = unpack_none;
    t = l2l_trainer_create(m, NULL, &o);
    CHECK(l2l_trainer_save(t, file));
    CHECK(l2l_train_step(t, given, given_labels, 4, &p));
    CHECK(l2l_count(l2l_model_parameter(m, 3).value->shape) == 3 &&
          l2l_parameter_get(m, 3, before));
    CHECK(!l2l_trainer_resume(t, file));
    CHECK_ERROR(c, L2L_ERROR_CALLBACK, "the maximizer 'mine' did not take back");
    CHECK(l2l_parameter_get(m, 3, after));
    CHECK_BYTES(before, after, 3 * sizeof *after);
    l2l_trainer_free(t);
    l2l_model_free(m);
    l2l_context_free(c);
    remove(file);
}

static void data_that_are_missed(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options network = own_options("tiny", tiny_forward, 2, 8, 3);
    l2l_model *m = l2l_model_create(c, &network);
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t;
    l2l_dataset d;
    CHECK(l2l_trainer_create(m, NULL, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "without a data set steps must say");
    o.steps = -5;
    CHECK(l2l_trainer_create(m, NULL, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "steps -5 is not");
    o.steps = 10;
    o.validation = 1;
    CHECK(l2l_trainer_create(m, NULL, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "validation 1 must leave some of the 0 images");
    o.validation = 0;
    CHECK(l2l_dataset_from_arrays(c, given, given_labels, IMAGES, 2, 8, 8, 3, &d));
    CHECK(l2l_trainer_create(m, &d, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "steps 10 with a data set");
    t = l2l_trainer_create(m, NULL, &o);
    CHECK(t && !l2l_train(t));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "without a data set: use l2l_train_step");
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- what cannot be said ------------------------------------------------------------------------ */

/* A maximizer that learns, wrapped: its step asks for phi's gradient, in an attack. */
static l2l_maximizer wrapped;
static bool asks_for_gradient(void *self, l2l_inner *in)
{
    static l2l_real gradient[491];
    return l2l_learned_gradient((l2l_learned *)self, in, gradient) && wrapped.step(self, in);
}

static void gradients_in_an_attack(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options network = own_options("tiny", tiny_forward, 2, 8, 3);
    l2l_model *m = l2l_model_create(c, &network);
    l2l_learned_options lstm = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &lstm);
    l2l_attack a = l2l_attack_learned(phi, 0.1, 5);
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t;
    l2l_progress p;
    wrapped = a.maximizer;
    a.maximizer.step = asks_for_gradient;
    CHECK(!l2l_attack_run(m, &a, given, given_labels, 2, NULL, NULL));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "are kept only in a training whose maximizer learns");
    o.steps = 1;
    o.method = l2l_method_rnn_adv(phi);
    o.method.maximizer.step = asks_for_gradient;
    o.method.maximizer.gradient = NULL;
    o.method.maximizer.update = NULL;
    t = l2l_trainer_create(m, NULL, &o);
    CHECK(!l2l_train_step(t, given, given_labels, 2, &p));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "are kept only in a training whose maximizer learns");
    l2l_trainer_free(t);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* out = w + b with a cotangent that is itself a node on the way: b's gradient is that node's numbers,
   which L2L_FREE_GRAPH gives back. */
static void own_cotangent(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *w = seeded(c, 1, 2, 1, 3, 1, -1, 1), *b = seeded(c, 1, 2, 1, 3, 2, -1, 1);
    l2l_tensor *in[2], *grad[2], *a, *out;
    double expected[6];
    int i;
    in[0] = b;
    in[1] = w;
    l2l_set_recording(c, true);
    w->tape = b->tape = -1;
    a = l2l_affine(c, w, 2, 1);
    out = l2l_add(c, a, b);
    for (i = 0; i < 6; i++) expected[i] = (double)a->data[i];
    CHECK(l2l_vjp(c, out, a, in, 2, grad, L2L_FREE_GRAPH));
    for (i = 0; i < 6 && CHECK(grad[0] && grad[0]->data); i++) {
        CHECK_NEAR(expected[i], (double)grad[0]->data[i], 0);
        CHECK_NEAR(2 * expected[i], (double)grad[1]->data[i], 1e-6);
    }
    CHECK_OK(c);
    l2l_context_free(c);
}

static bool count_progress(void *user, int done, int total)
{
    int *seen = (int *)user;
    CHECK(done == (seen[0] < 2 ? 100 * (seen[0] + 1) : 250));
    CHECK_INT(250, total);
    return ++seen[0] != seen[1];
}

/* An accuracy of some images, asked of attacks that spare some or want to be asked. */
static void accuracies(void)
{
    enum { N = 250 };
    l2l_context *c = test_context(1);
    l2l_model_options network = own_options("tiny", tiny_forward, 2, 8, 3);
    l2l_model *m = l2l_model_create(c, &network);
    l2l_real *x = test_array(N * 128);
    bool only[N] = {true};
    int labels[N], i, seen[2] = {0, 0};
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_dataset d;
    golden_fill(x, N * 128, 33, 0, 1);
    for (i = 0; i < N; i++) labels[i] = i % 3;
    CHECK(l2l_dataset_from_arrays(c, x, labels, N, 2, 8, 8, 3, &d));
    a.only = only;
    CHECK_NEAR(0, l2l_accuracy(m, &d, 0, &a), 0);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "`only` must be NULL");
    a.only = NULL;
    a.steps = 1;
    a.progress = count_progress;
    a.user = seen;
    l2l_accuracy(m, &d, 0, &a);
    CHECK_INT(3, seen[0]);
    seen[0] = 0;
    seen[1] = 2;
    CHECK_NEAR(0, l2l_accuracy(m, &d, 0, &a), 0);
    CHECK_ERROR(c, L2L_ERROR_CANCELLED, "cancelled after 200 of 250");
    free(x);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Copies between networks whose parameters do not tell how many channels they have. */
static l2l_tensor *pooled_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)user;
    x = l2l_sum_to(c, x, l2l_shape_of(x->shape.n, 1, 1, 1));
    return l2l_layer_linear(m, "last", x, 3, L2L_LAST);
}

static void what_is_refused(void)
{
    static const int64_t below[1] = {-5};
    static const int classes[2] = {0, 1};
    static const l2l_search lacking = {0, 0, false, false, false, false, NULL, NULL, NULL, NULL};
    l2l_context *c = test_context(1);
    l2l_model_options network = own_options("pooled", pooled_forward, 2, 8, 3);
    l2l_model_options deep = l2l_model_default("vgg16");
    l2l_model *m, *other;
    l2l_optimizer_options o = l2l_adam_default();
    l2l_schedule rising = {L2L_CONSTANT, 0, {0}, 0, 0};
    l2l_attack a = l2l_search_attack("lacking", 0.1, L2L_LINF, 5, &lacking), long_way = l2l_attack_pgd_l2(1e39);
    l2l_tensor *x = seeded(c, 2, 3, 1, 1, 1, -1, 1);
    void *data = &m;
    size_t bytes = 77;
    int extra = 5;
    l2l_context *elsewhere = test_context(1);
    l2l_attack endless = l2l_attack_mim(0.1);
    l2l_train_options resumed = l2l_train_default();
    l2l_optimizer_options decaying = l2l_adam_default();
    l2l_optimizer *optimizer;
    l2l_real value = (l2l_real)1e16, gradient = 0, *values = &value, *gradients = &gradient;
    l2l_tensor plane;
    static const int64_t one[1] = {1};
    memset(&plane, 0, sizeof plane);
    endless.maximizer = l2l_maximizer_momentum(1e39);
    network.normalise = 2;
    network.deviation[0] = network.deviation[1] = 1;
    m = l2l_model_create(c, &network);
    network.normalise = 0;
    network.channels = 6;
    other = l2l_model_create(c, &network);
    CHECK(!l2l_model_copy(other, m));
    CHECK_ERROR(c, L2L_ERROR_MISMATCH, "6 channels against the 2 of a model that normalises");
    CHECK(l2l_model_copy(m, other));
    network.channels = network.normalise = 2;
    network.mean[0] = 10;
    network.deviation[0] = 2e-38;
    CHECK(!l2l_model_create(c, &network));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "mean 10 of channel 0");
    deep.dropout = 0.5;
    CHECK(!l2l_model_create(c, &deep));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "dropout 0.5, but 'vgg16' has none");
    CHECK(!l2l_unpick(c, x, classes, 3));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "expected Nx1x1x1, not 2x1x1x3");
    CHECK(!l2l_project(c, x, x, -0.1));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "epsilon -0.1 is not at least 0");
    CHECK(!l2l_project(c, x, x, (double)NAN));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "is not at least 0");
    CHECK(!l2l_optimizer_create(c, &o, below, 1));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "array 0 of -5 numbers");
    o.beta2 = 0.99999999;
    CHECK(!l2l_optimizer_create(c, &o, NULL, 0));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "beta2");
    o = l2l_adam_default();
    o.epsilon = 1e-50;
    CHECK(!l2l_optimizer_create(c, &o, NULL, 0));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "epsilon");
    CHECK(!l2l_attack_run(m, &a, given, given_labels, 1, NULL, NULL));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "the search lacks begin, point or seen");
    CHECK(!l2l_attack_run(m, &long_way, given, given_labels, 1, NULL, NULL));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "epsilon 1e39 is not finite");
    CHECK(!l2l_model_save_memory(NULL, &data, &bytes));
    CHECK(!data && !bytes);
    CHECK(!l2l_model_load(m, "out/is not there", &extra));
    CHECK_INT(0, extra);
    l2l_error_clear(c);
    CHECK(!l2l_attack_run(m, &endless, given, given_labels, 1, NULL, NULL));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "number[0] 1e39 is not a number that is finite as a float");
    resumed.resume = true;
    resumed.steps = 1;
    CHECK(!l2l_trainer_create(m, NULL, &resumed));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "resume is true, but `checkpoint`");
    l2l_error_set(c, L2L_OK, "a text");
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "L2L_OK is the code of no error; the text with it: a text");
    plane.shape = l2l_shape_of(1, 65536, 32768, 1);
    plane.data = x->data;
    plane.tape = -1;
    CHECK(!l2l_max_pool(c, &plane, 1, 1 << 30, 0));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "a plane of 65536x32768 has more than 2147483647 pixels");
    decaying.weight_decay = 1e4;
    optimizer = l2l_optimizer_create(c, &decaying, one, 1);
    CHECK(!l2l_optimizer_step(optimizer, &values, &gradients, 1));
    CHECK_ERROR(c, L2L_ERROR_NUMERIC, "weight_decay 10000 times the parameters");
    CHECK_NEAR(1e16f, value, 0);
    l2l_optimizer_free(optimizer);
    l2l_drop(elsewhere, x);
    CHECK(x->data);
    CHECK_OK(elsewhere);
    l2l_context_free(elsewhere);
    rising.warm_up = 0.5;
    CHECK_NEAR(1, l2l_schedule_factor(&rising, 7, 0), 0);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_model_free(other);
    l2l_context_free(c);
}

int main(void)
{
    RUN(parameters_as_inputs, "parameters are inputs of l2l_grad without a cast, and their "
                              "gradients come in the file's layout");
    RUN(shapes_in_files, "a parameter tells its shape in files; what does not fit it is refused");
    RUN(the_second_output, "a second output of a graph that was given back is an error, not a crash");
    RUN(the_output_keeps_its_value, "L2L_FREE_GRAPH leaves the output its value, and no way back");
    RUN(steps_follow_epsilon, "a step_size of 0 is a part of epsilon, whenever epsilon was said");
    RUN(kinds_of_attacks, "whether an attack is minimal or works by queries can be read");
    RUN(steps_without_data, "steps of one's own loop need no data set, and resume to the same bits");
    RUN(numbers_not_taken_back, "a maximizer that does not take its numbers back is an error");
    RUN(data_that_are_missed, "a trainer without data says what it misses");
    RUN(gradients_in_an_attack, "phi's gradient is refused where what it needs is not kept");
    RUN(own_cotangent, "a cotangent that is a node of the graph survives L2L_FREE_GRAPH");
    RUN(accuracies, "l2l_accuracy is of all images, and says how many are done");
    RUN(what_is_refused, "values that would go wrong silently are refused by name");
    return test_end();
}
