/* Who holds what, and for how long: tensors dropped before or after a mark is released, models
   freed while the tape needs them, objects freed in any order, tensors of another context, and
   callbacks that return or drop what they should not. Meant for AddressSanitizer as well. */
#include "support.h"
#include "../examples/autoattack.h"
#include "../examples/cifar.h"
#include "../examples/l2lda.h"
#include "../examples/transfer.h"

enum { SIDE = 4, CLASSES = 3, IMAGE = SIDE * SIDE };

/* -- tensors and marks ------------------------------------------------------------------------- */

typedef void round_trip(l2l_context *c, l2l_tensor *x, l2l_mark mark);

static void dropped_first(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_relu(c, x);
    l2l_drop(c, x);
    l2l_release(c, mark);
}
static void dropped_last(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_relu(c, x);
    l2l_release(c, mark);
    l2l_drop(c, x);
}
static void used_twice(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_mul(c, x, l2l_add(c, x, x));
    l2l_drop(c, x);
    l2l_release(c, mark);
}
static void as_view(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_relu(c, l2l_detach(c, l2l_reshape(c, x, l2l_shape_of(1, 1, 1, (int)l2l_count(x->shape)))));
    l2l_drop(c, x);
    l2l_release(c, mark);
}
static void view_last(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_detach(c, x);
    l2l_release(c, mark);
    l2l_drop(c, x);
}
static void view_dropped(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_tensor *view = l2l_detach(c, x);
    l2l_drop(c, x);
    l2l_drop(c, view);
    l2l_release(c, mark);
}
/* The cotangent comes back as the gradient. */
static void as_cotangent(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_tensor *in = l2l_zeros(c, x->shape), *g = NULL;
    bool was = l2l_set_recording(c, true);
    l2l_tensor *y = l2l_add(c, in, in);
    l2l_vjp(c, l2l_reshape(c, y, y->shape), x, &y, 1, &g, 0);
    CHECK(g != NULL && g->data[0] >= x->data[0]);
    l2l_set_recording(c, was);
    l2l_drop(c, x);
    l2l_release(c, mark);
}
/* A failed walk lets go of it as well. */
static void failed_cotangent(l2l_context *c, l2l_tensor *x, l2l_mark mark)
{
    l2l_tensor *in = l2l_zeros(c, x->shape), *g = NULL;
    bool was = l2l_set_recording(c, true);
    l2l_tensor *y = l2l_relu(c, in);
    CHECK(!l2l_vjp(c, y, x, &in, 1, &g, L2L_CREATE_GRAPH | L2L_FREE_GRAPH));
    l2l_error_clear(c);
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    l2l_drop(c, x);
}

static void memory_stays(round_trip *round, bool recording)
{
    l2l_context *c = test_context(1);
    l2l_mark outer = l2l_mark_here(c);
    size_t before = 0;
    l2l_set_recording(c, recording);
    for (int i = 0; i < 60; i++) {
        l2l_tensor *x = l2l_zeros(c, l2l_shape_of(1, 64, 64, 64));
        round(c, x, l2l_mark_here(c));
        if (i == 9) before = l2l_memory_used(c);
    }
    CHECK_OK(c);
    CHECK_INT((long long)before, (long long)l2l_memory_used(c));
    l2l_release(c, outer);
    l2l_context_free(c);
}
static void no_growth(void)
{
    static const struct { const char *name; round_trip *round; } rounds[] = {
        {"dropped, then released", dropped_first}, {"released, then dropped", dropped_last},
        {"used twice", used_twice}, {"shown by views", as_view}, {"a view released", view_last},
        {"a view dropped", view_dropped}, {"as a cotangent", as_cotangent},
        {"as a cotangent of a failed walk", failed_cotangent}};
    for (int i = 0; i < COUNT(rounds); i++)
        for (int recording = 0; recording < 2; recording++) {
            int before = test_complaints;
            memory_stays(rounds[i].round, recording);
            if (test_complaints > before)
                printf("    %s, recording %s\n", rounds[i].name, recording ? "on" : "off");
        }
}

/* What is dropped while the tape needs it keeps its numbers for the walk back. */
static void tape_keeps(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *x = l2l_full(c, l2l_shape_of(1, 1, 1, 2), 3), *two, *y, *g = NULL;
    l2l_mark mark = l2l_mark_here(c);
    l2l_set_recording(c, true);
    two = l2l_full(c, l2l_shape_of(1, 1, 1, 2), 2);
    y = l2l_sum(c, l2l_mul(c, x, two));
    l2l_drop(c, two);
    CHECK(l2l_grad(c, y, &x, 1, &g, 0));
    if (g) CHECK_NEAR(2, g->data[1], 0);
    l2l_release(c, mark);
    CHECK_NEAR(3, x->data[0], 0);
    l2l_drop(c, x);
    CHECK_OK(c);
    l2l_context_free(c);
}

/* -- models ------------------------------------------------------------------------------------ */

static l2l_tensor *plain_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 2, 3, 1, 1, L2L_RELU);
    x = l2l_layer_batch_norm(m, "bn", x, 0);
    return l2l_layer_linear(m, "fc", x, CLASSES, L2L_LAST);
}

static l2l_model *model_with(l2l_context *c, l2l_forward forward, void *user, int normalise)
{
    l2l_model_options o = l2l_model_default("mine");
    o.forward = forward;
    o.user = user;
    o.channels = 1;
    o.height = o.width = SIDE;
    o.classes = CLASSES;
    o.normalise = normalise;
    o.mean[0] = 0.5;
    o.deviation[0] = 0.25;
    return l2l_model_create(c, &o);
}

static bool mean_logits(void *user, const l2l_real *x, int n, l2l_real *out)
{
    (void)user;
    for (int i = 0; i < n * CLASSES; i++) out[i] = x[i / CLASSES * IMAGE + i % CLASSES];
    return true;
}
static bool mean_vjp(void *user, const l2l_real *x, int n, const l2l_real *dlogits, l2l_real *dx)
{
    (void)user;
    (void)x;
    for (int i = 0; i < n * IMAGE; i++) dx[i] = 0;
    for (int i = 0; i < n * CLASSES; i++) dx[i / CLASSES * IMAGE + i % CLASSES] = dlogits[i];
    return true;
}

/* Freed between the forward and the backward pass: gradients are as before, and its memory comes
   back with the mark. */
static void freed_early(void)
{
    for (int external = 0; external < 2; external++) {
        l2l_context *c = test_context(1);
        l2l_external e = {1, SIDE, SIDE, CLASSES, NULL, mean_logits, mean_vjp};
        l2l_tensor *x = l2l_full(c, l2l_shape_of(2, SIDE, SIDE, 1), 0.5), *y, *view, *g = NULL;
        l2l_mark mark = l2l_mark_here(c);
        size_t before;
        l2l_model *m, *other;
        l2l_real expected[2 * IMAGE];
        l2l_mark inner;
        l2l_set_recording(c, true);
        before = l2l_memory_used(c);
        m = external ? l2l_model_external(c, &e) : model_with(c, plain_forward, NULL, 0);
        other = model_with(c, plain_forward, NULL, 0);
        y = l2l_sum(c, l2l_model_forward(m, x, L2L_EVALUATE));
        view = external ? NULL : l2l_detach(c, (l2l_tensor *)(uintptr_t)l2l_model_parameter(m, 0).value);
        inner = l2l_mark_here(c);
        CHECK(l2l_grad(c, y, &x, 1, &g, 0));
        if (g) memcpy(expected, g->data, sizeof expected);
        l2l_model_free(other);               /* not needed: gone at once                            */
        l2l_model_free(m);
        l2l_release(c, inner);
        CHECK(l2l_grad(c, y, &x, 1, &g, 0));
        if (g) CHECK_BYTES(expected, g->data, sizeof expected);
        l2l_drop(c, view);
        l2l_release(c, mark);
        CHECK_OK(c);
        CHECK(l2l_memory_used(c) <= before + (1 << 20) + 65536); /* the arena may have grown        */
        l2l_drop(c, x);
        l2l_context_free(c);
    }
}

/* Memory does not pile up while an older mark stays. */
static void freed_early_often(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *x = l2l_full(c, l2l_shape_of(2, SIDE, SIDE, 1), 0.5);
    size_t before = 0;
    l2l_set_recording(c, true);
    for (int i = 0; i < 50; i++) {
        l2l_mark mark = l2l_mark_here(c);
        l2l_model *m = model_with(c, plain_forward, NULL, 0);
        l2l_model_forward(m, x, L2L_TRAIN);
        l2l_model_free(m);
        l2l_release(c, mark);
        if (i == 9) before = l2l_memory_used(c);
    }
    CHECK_INT((long long)before, (long long)l2l_memory_used(c));
    l2l_model_forward(NULL, x, L2L_TRAIN);
    l2l_context_free(c);
}

/* The context is freed with the tape full and its model freed before. */
static void context_last(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *x = l2l_full(c, l2l_shape_of(2, SIDE, SIDE, 1), 0.5);
    l2l_model *m = model_with(c, plain_forward, NULL, 0);
    l2l_set_recording(c, true);
    CHECK(l2l_model_forward(m, x, L2L_TRAIN) != NULL);
    l2l_model_free(m);
    CHECK_OK(c);
    l2l_context_free(c);
}

/* Trainer, evaluation, data set and model are freed in this order or the other way around. */
static void any_order(void)
{
    for (int order = 0; order < 2; order++) {
        l2l_context *c = test_context(1);
        static l2l_real images[2 * IMAGE];
        static const int labels[2] = {0, 1};
        l2l_train_options o = l2l_train_default();
        l2l_model *m = model_with(c, plain_forward, NULL, 0);
        l2l_learned *phi = l2l_learned_create(c, NULL);
        l2l_dataset d;
        l2l_evaluation e;
        l2l_trainer *t;
        CHECK(l2l_dataset_from_arrays(c, images, labels, 2, 1, SIDE, SIDE, CLASSES, &d));
        o.batch = 2;
        o.T = 1;
        o.method = l2l_method_rnn_adv(phi);
        t = l2l_trainer_create(m, &d, &o);
        CHECK(l2l_train_step(t, images, labels, 2, NULL));
        CHECK(l2l_evaluation_begin(m, &d, NULL, &e));
        CHECK_OK(c);
        if (order) {
            l2l_model_free(m);
            l2l_learned_free(phi);
            l2l_dataset_free(&d);
            l2l_trainer_free(t);
            l2l_evaluation_end(&e);
        } else {
            l2l_evaluation_end(&e);
            l2l_trainer_free(t);
            l2l_dataset_free(&d);
            l2l_learned_free(phi);
            l2l_model_free(m);
        }
        l2l_context_free(c);
    }
}

/* -- two contexts ------------------------------------------------------------------------------ */

static l2l_tensor *returns_user(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_tensor *z = plain_forward(m, x, NULL);
    return *(l2l_tensor **)user ? *(l2l_tensor **)user : z;
}

static void another_context(void)
{
    l2l_context *c = test_context(1), *d = test_context(1);
    l2l_tensor *x = l2l_full(c, l2l_shape_of(1, SIDE, SIDE, 1), 1);
    l2l_tensor *y = l2l_full(d, l2l_shape_of(1, SIDE, SIDE, 1), 1), *parts[2], *g, *sx, *sy;
    l2l_tensor *theirs = l2l_zeros(d, l2l_shape_of(1, 1, 1, CLASSES)), *chosen = NULL;
    l2l_model *m = model_with(c, returns_user, &chosen, 0);
    l2l_set_recording(c, true);
    l2l_set_recording(d, true);
    sx = l2l_sum(c, x);
    sy = l2l_sum(d, y);
    CHECK(!l2l_add(c, x, y));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    CHECK(!l2l_relu(d, x));
    CHECK_ERROR(d, L2L_ERROR_ARGUMENT, "another context");
    parts[0] = x;
    parts[1] = y;
    CHECK(!l2l_concat(c, parts, 2));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    CHECK(!l2l_grad(c, sy, &x, 1, &g, 0));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    CHECK(!l2l_grad(c, sx, &y, 1, &g, 0) && !g);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    CHECK(!l2l_vjp(c, sx, sy, &x, 1, &g, 0));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    CHECK(!l2l_model_forward(m, y, L2L_EVALUATE));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    chosen = theirs;
    CHECK(!l2l_model_forward(m, x, L2L_EVALUATE));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "another context");
    CHECK_OK(d);
    CHECK(l2l_grad(c, sx, &x, 1, &g, 0));    /* and all works on                                    */
    CHECK(l2l_grad(d, sy, &y, 1, &g, 0));
    l2l_model_free(m);
    l2l_context_free(c);
    l2l_context_free(d);
}

/* An output that was released, or never recorded. */
static void not_on_the_tape(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *x = l2l_full(c, l2l_shape_of(1, 1, 1, 2), 1), *y = l2l_sum(c, x), *g;
    CHECK(!l2l_grad(c, y, &x, 1, &g, 0));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "not on this context's tape");
    CHECK(!l2l_grad(c, y, &x, -1, &g, 0));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "-1 inputs");
    l2l_context_free(c);
}

/* -- callbacks --------------------------------------------------------------------------------- */

static l2l_tensor *drops_input(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_tensor *z = plain_forward(m, x, user);
    l2l_drop(l2l_model_context(m), x);
    return z;
}
static l2l_tensor *returns_null(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_tensor *z = plain_forward(m, x, user);
    return *(const int *)user ? NULL : z;
}

/* Attacks and logits go on with images that a forward function dropped. */
static void forward_drops(void)
{
    for (int normalise = 0; normalise < 2; normalise++) {
        static const int labels[2] = {0, 1};
        l2l_context *c = test_context(1);
        l2l_model *kind = model_with(c, plain_forward, NULL, normalise);
        l2l_model *rude = model_with(c, drops_input, NULL, normalise);
        l2l_attack a = l2l_attack_pgd(0.1);
        l2l_real x[2 * IMAGE], adv[2][2 * IMAGE], z[2][2 * CLASSES];
        l2l_tensor *mine;
        golden_fill(x, 2 * IMAGE, 3, 0, 1);
        CHECK(l2l_attack_run(kind, &a, x, labels, 2, adv[0], NULL));
        CHECK(l2l_attack_run(rude, &a, x, labels, 2, adv[1], NULL));
        CHECK_BYTES(adv[0], adv[1], sizeof adv[0]);
        CHECK(l2l_model_logits(kind, x, 2, z[0]) && l2l_model_logits(rude, x, 2, z[1]));
        CHECK_BYTES(z[0], z[1], sizeof z[0]);
        mine = l2l_from_nchw(c, x, l2l_shape_of(2, SIDE, SIDE, 1));
        CHECK(l2l_model_forward(rude, mine, L2L_EVALUATE) != NULL);
        CHECK(l2l_relu(c, mine) != NULL);
        CHECK_OK(c);
        l2l_model_free(kind);
        l2l_model_free(rude);
        l2l_context_free(c);
    }
}

static l2l_tensor *identity(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)m;
    (void)user;
    return x;
}

/* A network whose logits are its input, with and without normalisation. */
static void forward_returns_input(void)
{
    for (int normalise = 0; normalise < 2; normalise++) {
        l2l_context *c = test_context(1);
        l2l_model_options o = l2l_model_default("identity");
        static const l2l_real x[3] = {(l2l_real)0.25, (l2l_real)0.5, 1};
        l2l_real z[3];
        l2l_model *m;
        o.forward = identity;
        o.channels = o.classes = 3;
        o.height = o.width = 1;
        o.normalise = normalise ? 3 : 0;
        for (int i = 0; i < 3; i++) o.deviation[i] = 0.5;
        m = l2l_model_create(c, &o);
        for (int i = 0; i < 3; i++) {
            l2l_tensor *t = l2l_from_nchw(c, x, l2l_shape_of(1, 1, 1, 3));
            l2l_tensor *y = l2l_model_forward(m, t, L2L_EVALUATE);
            CHECK(y && l2l_softmax(c, y));
        }
        CHECK(l2l_model_logits(m, x, 1, z));
        CHECK_NEAR(normalise ? 0.5 : 0.25, z[0], 1e-6);
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

static l2l_tensor *returns_other(l2l_model *m, l2l_tensor *x, void *user)
{
    return *(const int *)user ? l2l_reshape(l2l_model_context(m), x, l2l_shape_of(1, 1, SIDE, SIDE))
                              : plain_forward(m, x, user);
}

static void forward_fails(void)
{
    l2l_context *c = test_context(1);
    int bad = 0;
    l2l_tensor *x = l2l_zeros(c, l2l_shape_of(1, SIDE, SIDE, 1));
    l2l_model *nothing, *other;
    bad = 1;
    nothing = model_with(c, returns_null, &bad, 0);
    CHECK(!nothing);
    CHECK_ERROR(c, L2L_ERROR_CALLBACK, "returned NULL");
    bad = 0;
    nothing = model_with(c, returns_null, &bad, 0);
    CHECK_OK(c);
    other = model_with(c, returns_other, &bad, 0);
    CHECK_OK(c);
    bad = 1;
    CHECK(!l2l_model_forward(other, x, L2L_EVALUATE));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "the logits of the forward function");
    CHECK(!l2l_model_forward(nothing, x, L2L_EVALUATE));
    CHECK_ERROR(c, L2L_ERROR_CALLBACK, "returned NULL");
    CHECK(!l2l_model_logits(other, x->data, -1, x->data));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "-1 images");
    CHECK(l2l_model_logits(other, NULL, 0, NULL));
    CHECK_OK(c);
    l2l_model_free(other);
    l2l_model_free(nothing);
    l2l_context_free(c);
}

/* An objective and an outer loss that drop what they were given. */
static l2l_tensor *rude_loss(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                             const int *labels, void *user)
{
    l2l_tensor *y = l2l_cross_entropy(c, logits, labels);
    (void)user;
    l2l_drop(c, logits);
    l2l_drop(c, clean);
    return y;
}
static l2l_tensor *rude_outer(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                              void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *z = l2l_model_forward(m, adv, L2L_TRAIN);
    (void)user;
    l2l_drop(c, x);
    l2l_drop(c, adv);
    return l2l_mean(c, l2l_cross_entropy(c, z, labels));
}
static void losses_drop(void)
{
    static const int labels[2] = {0, 1};
    l2l_context *c = test_context(1);
    l2l_model *m = model_with(c, plain_forward, NULL, 0);
    l2l_train_options o = l2l_train_default();
    l2l_attack square = l2l_attack_square(0.1);
    l2l_real x[2 * IMAGE];
    l2l_dataset d;
    l2l_trainer *t;
    golden_fill(x, 2 * IMAGE, 3, 0, 1);
    CHECK(l2l_dataset_from_arrays(c, x, labels, 2, 1, SIDE, SIDE, CLASSES, &d));
    o.batch = 2;
    o.method.objective.loss = rude_loss;
    o.method.objective.needs_clean = true;
    o.method.outer.loss = rude_outer;
    o.method.outer.is_objective = false;
    t = l2l_trainer_create(m, &d, &o);
    for (int i = 0; i < 2; i++) CHECK(l2l_train_step(t, x, labels, 2, NULL));
    square.steps = 20;
    square.objective.loss = rude_loss;
    CHECK(l2l_attack_run(m, &square, x, labels, 2, NULL, NULL));
    CHECK_OK(c);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- data sets of the caller's ----------------------------------------------------------------- */

static bool fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const int mode = *(const int *)d->self;
    for (int i = 0; i < IMAGE; i++) chw[i] = (l2l_real)0.5;
    *label = mode == 2 ? CLASSES : mode == 3 ? -1 : 0;
    if (mode == 4) chw[5] = (l2l_real)NAN;
    if (mode == 5) chw[5] = (l2l_real)1.5;
    if (mode == 6 && index == 3) l2l_error_set(d->context, L2L_ERROR_FILE, "no disk");
    return mode != 1 || index < 1;
}

static void own_data_sets(void)
{
    static const char *const text[] = {"", "1", "label 3", "label -1", "value 5", "value 5",
                                       "no disk"}; /* of the last image, and yet it says true */
    l2l_context *c = test_context(1);
    l2l_model *m = model_with(c, plain_forward, NULL, 0);
    l2l_train_options o = l2l_train_default();
    for (int mode = 0; mode < 7; mode++) {
        const l2l_status status = mode == 1 ? L2L_ERROR_CALLBACK
                                  : mode == 6 ? L2L_ERROR_FILE : L2L_ERROR_ARGUMENT;
        l2l_dataset d = {c, 4, 1, SIDE, SIDE, CLASSES, fetch, NULL, NULL};
        l2l_real x[4 * IMAGE];
        int y[4];
        l2l_evaluation e;
        l2l_trainer *t;
        d.self = &mode;
        o.batch = 4;
        o.epochs = 1;
        o.T = 1;
        CHECK(l2l_dataset_read(&d, 0, 4, x, y) == !mode);
        if (mode) CHECK_ERROR(c, status, text[mode]);
        CHECK(l2l_evaluation_begin(m, &d, NULL, &e) == !mode);
        if (mode) CHECK_ERROR(c, status, text[mode]);
        l2l_evaluation_end(&e);
        t = l2l_trainer_create(m, &d, &o);
        CHECK((t != NULL) == (mode != 1 && mode != 6)); /* it asks for images, to know them again */
        CHECK(l2l_train(t) == !mode);
        if (mode) CHECK_ERROR(c, status, text[mode]);
        l2l_trainer_free(t);
        d.fetch = NULL;
        CHECK(!l2l_dataset_read(&d, 0, 4, x, y));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "no `fetch`");
        CHECK(!l2l_evaluation_begin(m, &d, NULL, &e));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "no `fetch`");
        CHECK(!l2l_trainer_create(m, &d, &o));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "no `fetch`");
        d.fetch = fetch;
        CHECK(!l2l_dataset_read(&d, 0, -1, x, y) && l2l_error(c) == L2L_ERROR_ARGUMENT);
        l2l_error_clear(c);
        CHECK(l2l_dataset_read(&d, 4, 0, NULL, NULL));
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* A chain of calls on a data set whose files are missing ends with the first error's text. */
static void missing_files(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = model_with(c, plain_forward, NULL, 0);
    l2l_dataset d, never;
    l2l_evaluation e;
    l2l_real x[IMAGE];
    int y;
    memset(&d, 0xA5, sizeof d);
    memset(&never, 0xA5, sizeof never);
    memset(&e, 0xA5, sizeof e);
    CHECK(!l2l_dataset_idx(c, "missing-images", "missing-labels", 10, &d));
    CHECK(!cifar_from_memory(c, NULL, NULL, 1, 10, &never));
    CHECK(!l2l_dataset_read(&d, 0, 1, x, &y));
    CHECK(!l2l_dataset_read(&never, 0, 1, x, &y));
    CHECK(!l2l_evaluation_begin(m, &d, NULL, &e));
    CHECK(!l2l_evaluation_attack(&e, NULL, NULL, NULL, NULL));
    CHECK(!l2l_trainer_create(m, &d, NULL));
    CHECK_ERROR(c, L2L_ERROR_FILE, "missing-images");
    CHECK(!l2l_dataset_read(&d, 0, 1, x, &y)); /* cleared: each says it anew                        */
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "the data set is empty");
    CHECK(!l2l_evaluation_begin(m, &d, NULL, &e));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "the data set is empty");
    CHECK(!l2l_evaluation_attack(&e, NULL, NULL, NULL, NULL));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "has not begun");
    l2l_evaluation_end(&e);
    l2l_dataset_free(&d);
    l2l_dataset_free(&never);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- maximizers whose creation failed ---------------------------------------------------------- */

static void failed_maximizers(void)
{
    static l2l_real x[2 * IMAGE];
    static const int labels[2] = {0, 1};
    l2l_context *c = test_context(1);
    l2l_model *m = model_with(c, plain_forward, NULL, 0);
    l2l_dataset d;
    l2l_evaluation e;
    CHECK(l2l_dataset_from_arrays(c, x, labels, 2, 1, SIDE, SIDE, CLASSES, &d));
    CHECK(l2l_evaluation_begin(m, &d, NULL, &e));
    for (int kind = 0; kind < 2; kind++) {
        l2l_attack a = kind ? l2lda_attack(NULL, 0.3) : l2l_attack_learned(NULL, 0.3, 2);
        l2l_train_options o = l2l_train_default();
        l2l_trainer *t;
        CHECK(!l2l_attack_run(m, &a, x, labels, 2, NULL, NULL));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "is NULL");
        CHECK(!l2l_evaluation_attack(&e, &a, NULL, NULL, NULL));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "is NULL");
        CHECK(!transfer_matrix(&m, 1, &d, l2l_series_of(&a), NULL, NULL, (double[1]){0}));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "is NULL");
        o.batch = 2;
        o.method = kind ? l2lda_method(NULL) : l2l_method_rnn_adv(NULL);
        t = l2l_trainer_create(m, &d, &o);
        CHECK(!l2l_train_step(t, x, labels, 2, NULL));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "is NULL");
        l2l_trainer_free(t);
    }
    l2l_evaluation_end(&e);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
}

int main(void)
{
    RUN(no_growth, "what is dropped before or after l2l_release, shown or walked, goes: memory stays");
    RUN(tape_keeps, "what is dropped while the tape needs it serves the walk back");
    RUN(freed_early, "a model freed before its tape is released stays until then");
    RUN(freed_early_often, "and does not pile up behind an older mark");
    RUN(context_last, "a context is freed with a full tape and its model freed before");
    RUN(any_order, "models, maximizers, data sets, trainers, evaluations are freed in any order");
    RUN(another_context, "a tensor of another context is refused everywhere");
    RUN(not_on_the_tape, "an output that is not on the tape is refused");
    RUN(forward_drops, "a forward function may drop its input: it was lent");
    RUN(forward_returns_input, "a forward function may return its input");
    RUN(forward_fails, "a forward function that returns no or other logits gives an error");
    RUN(losses_drop, "objectives and outer losses may drop what they were lent");
    RUN(own_data_sets, "a data set without fetch, or with bad images or labels, is refused");
    RUN(missing_files, "a data set that failed to open gives the first error, not a crash");
    RUN(failed_maximizers, "attacks and methods of a maximizer that is NULL are refused");
    return test_end();
}
