/* What is met seldom: infinity behind a mask, derivatives that there are none of, callbacks that go
   back in time, say nothing or the wrong thing, parts of the library called by themselves. */
#include "networks.h"

enum { N = 4, SIZE = 16, CLASSES = 3 };
static l2l_real images[N * SIZE];
static const int labels[N] = {0, 1, 2, 0};
static char file[600] = "seldom.l2ladv"; /* beside the program */

static l2l_tensor *smooth(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_tanh(l2l_model_context(m), l2l_layer_linear(m, "hidden", x, 8, 0));
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

static l2l_model *network(l2l_context *c, l2l_forward forward, int classes)
{
    l2l_model_options o = own_options("seldom", forward, 1, 4, classes);
    o.last_layer_deviation = 0.3;
    golden_fill(images, COUNT(images), 800, 0.2, 0.8);
    return l2l_model_create(c, &o);
}

static l2l_learned *maximizer(l2l_context *c, l2l_grad_input input, bool second_order)
{
    l2l_learned_options o = l2l_learned_default();
    o.input = input;
    o.second_order = second_order;
    o.optimizer = l2l_sgd_default();
    return l2l_learned_create(c, &o);
}

static l2l_train_options options(int T)
{
    l2l_train_options o = l2l_train_default();
    o.T = T;
    o.steps = 3;
    o.epsilon_warm_up = 0;
    return o;
}

/* One step on the images; the trainer is gone afterwards. */
static bool step(l2l_model *m, const l2l_train_options *o, int n, l2l_progress *p)
{
    l2l_trainer *t = l2l_trainer_create(m, NULL, o);
    bool ok = l2l_train_step(t, images, labels, n, p);
    l2l_trainer_free(t);
    return ok;
}

/* -- operations -------------------------------------------------------------------------------- */

/* y of x = (-1, 4), by which d sum(y^0.5) / dx is (0, 0.25) and of 0 times that (0, 0), as PyTorch
   says: the root's slope at 0 is infinite, and 0 times that no number. */
typedef l2l_tensor *(*masked)(l2l_context *c, l2l_tensor *x);
static l2l_tensor *by_relu(l2l_context *c, l2l_tensor *x) { return l2l_relu(c, x); }
static l2l_tensor *by_clamp(l2l_context *c, l2l_tensor *x) { return l2l_clamp(c, x, 0, 9); }
static l2l_tensor *by_project(l2l_context *c, l2l_tensor *x)
{
    l2l_tensor *y = l2l_project(c, l2l_affine(c, x, 0.125, 0), l2l_full(c, x->shape, 0.25), 0.25);
    return l2l_affine(c, y, 8, 0);
}
static l2l_tensor *by_conv(l2l_context *c, l2l_tensor *x, bool scaled)
{
    l2l_conv_options o = l2l_conv_default();
    o.relu = true;
    if (scaled) o.scale = l2l_full(c, l2l_shape_of(1, 1, 1, 1), 1);
    return l2l_conv(c, x, l2l_full(c, l2l_shape_of(1, 1, 1, 1), 1), &o);
}
static l2l_tensor *by_plain(l2l_context *c, l2l_tensor *x) { return by_conv(c, x, false); }
static l2l_tensor *by_scaled(l2l_context *c, l2l_tensor *x) { return by_conv(c, x, true); }
static l2l_tensor *by_norm(l2l_context *c, l2l_tensor *x)
{
    l2l_batch_norm_options o = l2l_batch_norm_default();
    o.gamma = o.running_variance = l2l_full(c, l2l_shape_of(1, 1, 1, 1), 1);
    o.beta = o.running_mean = l2l_full(c, l2l_shape_of(1, 1, 1, 1), 0);
    o.epsilon = 0;
    o.relu = true;
    return l2l_batch_norm(c, x, &o);
}

static void masks(void)
{
    static const masked way[] = {by_relu, by_clamp, by_project, by_plain, by_scaled, by_norm};
    static const l2l_real values[2] = {-1, 4};
    l2l_context *c = test_context(1);
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i, k, flags;
    for (k = 0; k < n * COUNT(way); k++)
        for (flags = 0; flags < 4; flags++) {
            l2l_tensor *x = l2l_full(c, l2l_shape_of(1, 1, 40, 1), 0), *y, *g = NULL;
            const double factor = flags / 2;
            l2l_set_cpu(c, cpus[k / COUNT(way)]);
            for (i = 0; i < 40; i++) x->data[i] = values[i % 2];
            l2l_set_recording(c, true);
            y = l2l_affine(c, l2l_power(c, way[k % COUNT(way)](c, x), 0.5), factor, 0);
            if (CHECK(l2l_grad(c, l2l_sum(c, y), &x, 1, &g, flags % 2 ? L2L_CREATE_GRAPH : 0)))
                for (i = 0; i < 40; i++)
                    if (!CHECK_NEAR(i % 2 ? 0.25 * factor : 0, g->data[i], 1e-6)) break;
            if (i < 40) printf("    way %d, flags %d\n", k % COUNT(way), flags);
            l2l_set_recording(c, false);
        }
    l2l_context_free(c);
}

static void linear_has_no_plane(void)
{
    l2l_context *c = test_context(1);
    l2l_tensor *x = l2l_full(c, l2l_shape_of(2, 4, 4, 1), 1), *w = l2l_full(c, l2l_shape_of(4, 4, 1, 3), 1);
    l2l_conv_options o = l2l_conv_default();
    o.padding = 1;
    CHECK(!l2l_linear(c, x, w, &o));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "l2l_linear: padding 1 and pool 0");
    l2l_error_clear(c);
    o.padding = 0;
    o.pool = true;
    CHECK(!l2l_linear(c, x, w, &o));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "l2l_linear: padding 0 and pool 1");
    l2l_error_clear(c);
    o.pool = false;
    CHECK(l2l_linear(c, x, w, &o) != NULL);
    o.padding = 20000;
    CHECK(!l2l_conv(c, x, l2l_full(c, l2l_shape_of(3, 3, 1, 2), 1), &o));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "padding 20000, which is 16384 at most");
    l2l_error_clear(c);
    CHECK(!l2l_allocate(c, (size_t)-20));
    CHECK(!strstr(l2l_error_text(c), "memory: -"));
    l2l_context_free(c);
}

/* -- second order ------------------------------------------------------------------------------ */

/* g does not depend on x: the network sees signs alone. */
static l2l_tensor *by_signs(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)user;
    return l2l_layer_linear(m, "fc", l2l_sign(c, l2l_affine(c, x, 1, -0.5)), CLASSES, L2L_LAST);
}

static void no_second_derivative(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = network(c, by_signs, CLASSES);
    l2l_learned *phi = maximizer(c, L2L_INPUT_RAW, true);
    l2l_train_options o = options(2);
    l2l_progress p;
    o.method = l2l_method_rnn_adv(phi);
    if (!CHECK(step(m, &o, N, &p))) printf("    %s\n", l2l_error_text(c));
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* One linear layer of that margin at images of 0.25: from 88 on the loss's gradient is subnormal, and
   1 over its norm beyond any float. Later iterates, closer to the border, have large gradients. */
static void sure_images(void)
{
    double margin;
    int input, i;
    for (input = 0; input < 2; input++)
        for (margin = 60; margin <= 103; margin += margin < 88 ? 14 : 1.5) {
            l2l_context *c = test_context(1);
            l2l_model *m = network(c, linear_forward, 2);
            l2l_learned_options lo = l2l_learned_default();
            l2l_learned *phi;
            l2l_real weight[2 * SIZE];
            l2l_train_options o = options(60);
            l2l_progress p;
            for (i = 0; i < 2 * SIZE; i++) weight[i] = (l2l_real)((i < SIZE ? 1 : -1) * margin / 8);
            for (i = 0; i < SIZE; i++) images[i] = (l2l_real)0.25;
            l2l_parameter_set(m, 0, weight);
            lo.input = input ? L2L_INPUT_L1 : L2L_INPUT_LINF;
            lo.second_order = true;
            lo.cell = L2L_RNN;
            lo.hidden = 1;
            lo.bias = false;
            lo.scale = 0.04;
            phi = l2l_learned_create(c, &lo);
            for (i = 0; i < l2l_learned_size(phi); i++) l2l_learned_parameters(phi)[i] = i == 1 ? 0 : 1;
            o.method = l2l_method_rnn_adv(phi);
            if (!CHECK(step(m, &o, 1, &p)))
                printf("    margin %g: %s\n", margin, l2l_error_text(c));
            l2l_learned_free(phi);
            l2l_model_free(m);
            l2l_context_free(c);
        }
}

/* -- callbacks of a training ------------------------------------------------------------------- */

static int looks, null_at, nan_at; /* a look of the objective's, from 0 on; -1: none */
static l2l_tensor *objective(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean, const int *y, void *user)
{
    l2l_tensor *loss = l2l_cross_entropy(c, logits, y);
    (void)clean;
    (void)user;
    if (looks == nan_at && loss) loss->data[1] = (l2l_real)NAN;
    return looks++ == null_at ? NULL : loss;
}

static bool with_objective(int silent, int spoilt, bool second_order, char text[200])
{
    l2l_context *c = test_context(1);
    l2l_model *m = network(c, smooth, CLASSES);
    l2l_learned *phi = maximizer(c, second_order ? L2L_INPUT_RAW : L2L_INPUT_SIGN, second_order);
    l2l_train_options o = options(3);
    l2l_progress p;
    bool ok;
    o.method = l2l_method_rnn_adv(phi);
    o.method.objective.loss = objective;
    looks = 0;
    null_at = silent;
    nan_at = spoilt;
    ok = step(m, &o, N, &p);
    snprintf(text, 200, "%s", l2l_error_text(c));
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
    return ok;
}

/* T = 3: looks at x'_0 .. x'_3, then in second order again, at x'_2, x'_1 and maybe x'_0. */
static void silent_objective(void)
{
    char text[200];
    int all, i;
    CHECK(with_objective(-1, -1, true, text));
    all = looks;
    CHECK(all >= 6);
    for (i = 0; i < all; i++) {
        CHECK(!with_objective(i, -1, true, text));
        CHECK_CONTAINS("the inner objective returned NULL", text);
    }
}

static void step_is_named(void)
{
    char text[200], named[32];
    int t;
    for (t = 0; t <= 3; t++) {
        CHECK(!with_objective(-1, t, false, text));
        snprintf(named, sizeof named, "image 1, step %d: the loss", t);
        CHECK_CONTAINS(named, text);
    }
}

/* An outer loss that does not tell what was predicted. */
static l2l_tensor *silent_outer(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *y, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *loss = l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), y);
    (void)x;
    return user == images ? loss : l2l_mean(c, loss); /* that user: one for each image */
}

static int seen[N], truly[N];
static bool watch(void *self, l2l_inner *in)
{
    (void)self;
    memcpy(seen, in->predicted, sizeof seen);
    return l2l_look(in, in->adv, NULL, truly, NULL);
}
static bool nothing(void *self, l2l_inner *in) { (void)self; (void)in; return true; }

static void predictions_stay(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = network(c, smooth, CLASSES);
    l2l_train_options o = options(2);
    l2l_progress p;
    o.method.maximizer.gradient = watch;
    o.method.maximizer.update = nothing;
    o.method.outer.loss = silent_outer;
    o.method.outer.is_objective = false;
    if (CHECK(step(m, &o, N, &p))) CHECK_BYTES(truly, seen, sizeof seen);
    CHECK_NEAR(-1, p.accuracy, 0);
    o.method.outer.user = images;
    CHECK(!step(m, &o, N, &p));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "the outer loss: 4x1x1x1");
    l2l_model_free(m);
    l2l_context_free(c);
}

/* One that tells: for some parts only, or classes that there are not. */
static int told[N], parts_told;
static l2l_tensor *telling_outer(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *y, void *user)
{
    if (parts_told-- > 0) l2l_outer_predicted(m, told, x->shape.n);
    return silent_outer(m, x, adv, y, user);
}

static void told_of_some(void)
{
    int k;
    for (k = 0; k < 4; k++) {
        l2l_context *c = test_context(1);
        l2l_model *m = network(c, smooth, CLASSES);
        l2l_train_options o = options(1);
        l2l_progress p;
        o.method.outer.loss = telling_outer;
        o.method.outer.is_objective = false;
        o.micro_batch = 2;
        memcpy(told, labels, sizeof told);
        parts_told = k < 3 ? k : 2;
        if (k == 3) told[1] = CLASSES;
        CHECK((k < 3) == step(m, &o, N, &p));
        /* 0 1 are told of each part, 0 1 and 2 0 are right */
        if (k < 3) CHECK_NEAR(k == 2 ? 0.5 : -1, p.accuracy, 0);
        else CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "l2l_outer_predicted: label 3 of image 1 is not in 0..2");
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* A callback that goes back to a checkpoint, in an epoch's middle or at its end, once: the training
   then ends with the bits of one whose callback never did. */
typedef struct traveller {
    l2l_trainer *t;
    int calls, save_at, back_at;
    int64_t steps[64];
    int epochs[64], places[64];
} traveller;

static bool travel(void *user, const l2l_progress *p)
{
    traveller *w = (traveller *)user;
    if (w->calls < 64) {
        w->steps[w->calls] = p->step;
        w->epochs[w->calls] = p->epoch;
        w->places[w->calls] = (int)p->step_in_epoch;
    }
    w->calls++;
    if (w->calls == w->save_at) CHECK(l2l_trainer_save(w->t, file));
    if (w->calls == w->back_at) CHECK(l2l_trainer_resume(w->t, file));
    return w->calls < 60;
}

static void trip(traveller *w, int save_at, int back_at, l2l_real **theta, int64_t *n)
{
    l2l_context *c = test_context(1);
    l2l_model *m = network(c, smooth, CLASSES);
    l2l_train_options o = options(1);
    l2l_dataset d;
    memset(w, 0, sizeof *w);
    w->save_at = save_at;
    w->back_at = back_at;
    o.steps = 0;
    o.batch = 1;
    o.epochs = 3;
    o.validation = 2;
    o.progress = travel;
    o.user = w;
    CHECK(l2l_dataset_from_arrays(c, images, labels, N, 1, 4, 4, CLASSES, &d));
    w->t = l2l_trainer_create(m, &d, &o);
    if (!CHECK(l2l_train(w->t))) printf("    %s\n", l2l_error_text(c));
    CHECK(l2l_train(w->t)); /* nothing to do, and no error */
    *theta = all_parameters(m, n);
    l2l_trainer_free(w->t);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
    remove(file);
}

static void going_back_in_time(void)
{
    static const int trips[][2] = {{1, 3}, {1, 4}, {1, 6}, {2, 4}, {2, 5}, {2, 6}, {2, 2}, {3, 6}};
    traveller straight, w;
    l2l_real *theta, *mine;
    int64_t n, k;
    int i, j, from;
    trip(&straight, 0, 0, &theta, &n);
    CHECK_INT(6, straight.calls);
    for (i = 0; i < COUNT(trips); i++) {
        trip(&w, trips[i][0], trips[i][1], &mine, &k);
        CHECK_BYTES(theta, mine, (size_t)n * sizeof *theta);
        from = trips[i][1] - trips[i][0];
        if (!CHECK_INT(6 + from, w.calls)) printf("    saved at %d, back at %d\n", trips[i][0], trips[i][1]);
        for (j = trips[i][1]; j < w.calls && j - from < 6; j++) { /* behind the jump the same once more */
            CHECK_INT(straight.steps[j - from], w.steps[j]);
            CHECK_INT(straight.epochs[j - from], w.epochs[j]);
            CHECK_INT(straight.places[j - from], w.places[j]);
        }
        free(mine);
    }
    free(theta);
}

/* -- called by themselves ---------------------------------------------------------------------- */

static bool nobody_step(void *self, l2l_inner *in)
{
    l2l_maximizer none = l2l_learned_maximizer(NULL);
    (void)self;
    return none.step(none.self, in);
}
static bool nobody_update(void *self, l2l_inner *in)
{
    l2l_maximizer none = l2l_learned_maximizer(NULL);
    (void)self;
    return none.update(none.self, in);
}
static l2l_learned *asked;
static bool gradient_in_attack(void *self, l2l_inner *in)
{
    l2l_maximizer a = l2l_learned_maximizer(asked);
    (void)self;
    return a.gradient(a.self, in);
}
static bool wrong_images(void *self, l2l_inner *in)
{
    (void)self;
    l2l_finite_images(in, "something", l2l_full(in->context, l2l_shape_of(999999, 1, 1, 1), NAN));
    return true;
}

static void by_themselves(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = network(c, smooth, CLASSES);
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_outer trades = l2l_outer_trades(6);
    l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(N, 4, 4, 1));
    static const struct {
        bool (*step)(void *self, l2l_inner *in);
        l2l_status status;
        const char *text;
    } wrong[] = {
        {nobody_step, L2L_ERROR_ARGUMENT, "the maximizer is NULL"},
        {nobody_update, L2L_ERROR_ARGUMENT, "the maximizer is NULL"},
        {gradient_in_attack, L2L_ERROR_ARGUMENT, "not in an attack"},
        {wrong_images, L2L_ERROR_SHAPE, "l2l_finite_images: something of 999999 images, not "},
    };
    int i;
    asked = maximizer(c, L2L_INPUT_SIGN, false);
    for (i = 0; i < COUNT(wrong); i++) {
        a.maximizer.step = wrong[i].step;
        CHECK(!l2l_attack_run(m, &a, images, labels, N, NULL, NULL));
        CHECK_ERROR(c, wrong[i].status, wrong[i].text);
        l2l_error_clear(c);
    }
    l2l_set_recording(c, true);
    CHECK(!trades.loss(m, x, x, labels, trades.user));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "TRADES: user, the address of beta, is NULL");
    l2l_error_clear(c);
    CHECK(trades.loss(m, x, x, labels, trades.number) != NULL);
    l2l_learned_free(asked);
    l2l_model_free(m);
    l2l_context_free(c);
}

int main(int argc, char **argv)
{
    char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    if (slash && slash - argv[0] < 500)
        snprintf(file, sizeof file, "%.*sseldom.l2ladv", (int)(slash - argv[0]) + 1, argv[0]);
    RUN(masks, "what a mask takes is 0, also where it was infinite, by every way there is");
    RUN(linear_has_no_plane, "a linear map with padding or pooling is refused; messages name the limit");
    RUN(no_second_derivative, "second order: a gradient that does not depend on the image has none");
    RUN(sure_images, "second order: an image of which the model is all but certain ends no training");
    RUN(silent_objective, "an objective that returns NULL is told, also in second order");
    RUN(step_is_named, "a loss that is not finite is told with the step of its iterate");
    RUN(predictions_stay, "an outer loss that does not tell leaves the look's predictions; its shape is checked");
    RUN(told_of_some, "accuracy is told where every part's was; classes are checked");
    RUN(going_back_in_time, "a callback may go back to a checkpoint, also at an epoch's end");
    RUN(by_themselves, "a maximizer's and a loss's functions called by themselves give errors");
    return test_end();
}
