/* Options: every member of every public struct is checked where an object is made of it, with a
   message that names it, and the object's maker works again afterwards. What a checkpoint and an
   evaluation's state belong to, member by member. What training and attacks do with the members
   that go by image. */
#include "networks.h"
#include "../examples/evaluation_state.h"
#include "../examples/l2lda.h"
#include "../examples/searches.h"
#include "../examples/transfer.h"

enum { IMAGES = 30, SIZE = 64, CLASSES = 5, HELD = 11 };

typedef struct world {
    l2l_context *c;
    l2l_real *x;
    int labels[IMAGES];
    l2l_dataset d;
    l2l_model *m;
    l2l_learned *phi;
    l2l_learned_options lo;
    l2l_train_options o;
} world;

static int world_begin(world *w)
{
    int i;
    memset(w, 0, sizeof *w);
    w->c = test_context(1);
    w->x = test_array(IMAGES * SIZE);
    golden_fill(w->x, IMAGES * SIZE, 71, 0, 1);
    for (i = 0; i < IMAGES; i++) w->labels[i] = i % CLASSES;
    w->m = tiny_model(w->c, 72);
    w->lo = l2l_learned_default();
    w->lo.hidden = 3;
    w->phi = l2l_learned_create(w->c, &w->lo);
    w->o = l2l_train_default();
    w->o.epochs = 2;
    w->o.batch = 8;
    w->o.T = 2;
    w->o.epsilon = 0.1;
    return CHECK(w->m && w->phi) && CHECK(l2l_dataset_from_arrays(w->c, w->x, w->labels, IMAGES, 1,
                                                                  8, 8, CLASSES, &w->d));
}

static void world_end(world *w)
{
    CHECK_OK(w->c);
    l2l_learned_free(w->phi);
    l2l_model_free(w->m);
    l2l_dataset_free(&w->d);
    l2l_context_free(w->c);
    free(w->x);
}

/* -- every member ------------------------------------------------------------------------------ */

enum { MODEL, LEARNED, GENERATOR, OPTIMIZER, TRAIN, ATTACK, SEARCH, EVALUATION };

typedef struct member {
    int in;
    size_t at;
    char type;        /* 'r' double, 'i' int or enum, 'b' bool                                    */
    const char *name;
    const char *bad;  /* of "n" not a number, "+" infinite, "-" -infinite, "h" huge, "m" -1,      */
                      /* "z" 0, "2" 2, "e" 99 for enumerations                                    */
} member;

#define M(in, type, member, kind, bad) {in, offsetof(type, member), kind, #member, bad}
static const member members[] = {
    M(MODEL, l2l_model_options, channels, 'i', "mzhl"),
    M(MODEL, l2l_model_options, height, 'i', "mzhl"),
    M(MODEL, l2l_model_options, width, 'i', "mzhl"),
    M(MODEL, l2l_model_options, classes, 'i', "mzhl"),
    M(MODEL, l2l_model_options, width_multiplier, 'r', "n+-hmz"),
    M(MODEL, l2l_model_options, depth, 'i', "mhl"),
    M(MODEL, l2l_model_options, dropout, 'r', "n+-hm2"),
    M(MODEL, l2l_model_options, last_layer_deviation, 'r', "n+-hm"),
    M(MODEL, l2l_model_options, normalise, 'i', "mhl2"),
    M(MODEL, l2l_model_options, mean, 'r', "n+-h"),
    M(MODEL, l2l_model_options, deviation, 'r', "n+-hmz"),
    M(LEARNED, l2l_learned_options, cell, 'i', "mehl"),
    M(LEARNED, l2l_learned_options, hidden, 'i', "mzhl"),
    M(LEARNED, l2l_learned_options, bias, 'b', "e"),
    M(LEARNED, l2l_learned_options, input, 'i', "mehl"),
    M(LEARNED, l2l_learned_options, raw_output, 'b', "e"),
    M(LEARNED, l2l_learned_options, scale, 'r', "n+-hmz"),
    M(LEARNED, l2l_learned_options, second_order, 'b', "e"),
    M(LEARNED, l2l_learned_options, optimizer.kind, 'i', "mehl"),
    M(LEARNED, l2l_learned_options, optimizer.rate, 'r', "n+-hm"),
    M(GENERATOR, l2lda_options, channels, 'i', "mzhl"),
    M(GENERATOR, l2lda_options, height, 'i', "mzhl"),
    M(GENERATOR, l2lda_options, width, 'i', "mzhl"),
    M(GENERATOR, l2lda_options, classes, 'i', "mzhl"),
    M(GENERATOR, l2lda_options, width_multiplier, 'r', "n+-hmz"),
    M(GENERATOR, l2lda_options, diversity, 'r', "n+-hm"),
    {GENERATOR, offsetof(l2lda_options, optimizer.momentum), 'r', "optimizer: momentum", "n+-hm2"},
    M(OPTIMIZER, l2l_optimizer_options, kind, 'i', "mehl"),
    M(OPTIMIZER, l2l_optimizer_options, rate, 'r', "n+-hm"),
    M(OPTIMIZER, l2l_optimizer_options, momentum, 'r', "n+-hm2"),
    M(OPTIMIZER, l2l_optimizer_options, weight_decay, 'r', "n+-hm"),
    M(OPTIMIZER, l2l_optimizer_options, nesterov, 'b', "e"),
    M(OPTIMIZER, l2l_optimizer_options, beta1, 'r', "n+-hm2"),
    M(OPTIMIZER, l2l_optimizer_options, beta2, 'r', "n+-hm2"),
    M(OPTIMIZER, l2l_optimizer_options, epsilon, 'r', "n+-hmz"),
    M(OPTIMIZER, l2l_optimizer_options, clip, 'r', "n+-m"),
    M(TRAIN, l2l_train_options, method.objective.needs_clean, 'b', "e"),
    M(TRAIN, l2l_train_options, method.objective.cut, 'b', "e"),
    M(TRAIN, l2l_train_options, method.objective.confidence, 'r', "n+-"),
    M(TRAIN, l2l_train_options, method.maximizer.memory, 'i', "mehl"),
    M(TRAIN, l2l_train_options, method.maximizer.number[0], 'r', "n"),
    M(TRAIN, l2l_train_options, method.maximizer.number[1], 'r', "n"),
    M(TRAIN, l2l_train_options, method.outer.number[0], 'r', "n"),
    M(TRAIN, l2l_train_options, method.outer.number[1], 'r', "n"),
    M(TRAIN, l2l_train_options, method.outer.is_objective, 'b', "e"),
    M(TRAIN, l2l_train_options, method.start, 'i', "mehl"),
    M(TRAIN, l2l_train_options, epochs, 'i', "mzl"), M(TRAIN, l2l_train_options, batch, 'i', "mzl"),
    M(TRAIN, l2l_train_options, micro_batch, 'i', "ml"),
    M(TRAIN, l2l_train_options, rank, 'i', "ml"), M(TRAIN, l2l_train_options, ranks, 'i', "ml"),
    M(TRAIN, l2l_train_options, epsilon, 'r', "n+-hm2"), M(TRAIN, l2l_train_options, T, 'i', "mhl"),
    M(TRAIN, l2l_train_options, step_size, 'r', "n+-hm"),
    M(TRAIN, l2l_train_options, epsilon_warm_up, 'r', "n+-hm2"),
    M(TRAIN, l2l_train_options, optimizer.kind, 'i', "mehl"),
    M(TRAIN, l2l_train_options, optimizer.rate, 'r', "n+-hm"),
    M(TRAIN, l2l_train_options, optimizer.beta2, 'r', "n+-hm2"),
    M(TRAIN, l2l_train_options, schedule.kind, 'i', "mehl"),
    M(TRAIN, l2l_train_options, schedule.warm_up, 'r', "n+-hm2"),
    M(TRAIN, l2l_train_options, schedule.milestones[0], 'r', "n+-hm2"),
    M(TRAIN, l2l_train_options, schedule.milestones[7], 'r', "n+-hm2"),
    M(TRAIN, l2l_train_options, schedule.factor, 'r', "n+-hm"),
    M(TRAIN, l2l_train_options, schedule.final, 'r', "n+-hm"),
    M(TRAIN, l2l_train_options, augment.padding, 'i', "mhl"),
    M(TRAIN, l2l_train_options, augment.flip, 'b', "e"),
    M(TRAIN, l2l_train_options, inner_mode, 'i', "mehl"),
    M(TRAIN, l2l_train_options, validation, 'i', "mhl"),
    M(TRAIN, l2l_train_options, stop_on_plateau, 'b', "e"),
    M(TRAIN, l2l_train_options, checkpoint_steps, 'i', "ml"),
    M(TRAIN, l2l_train_options, resume, 'b', "e"),
    M(ATTACK, l2l_attack, objective.cut, 'b', "e"),
    M(ATTACK, l2l_attack, objective.confidence, 'r', "n+-"),
    M(ATTACK, l2l_attack, maximizer.memory, 'i', "mehl"),
    M(ATTACK, l2l_attack, maximizer.number[0], 'r', "n"),
    M(ATTACK, l2l_attack, norm, 'i', "mehl"), M(ATTACK, l2l_attack, epsilon, 'r', "n+-hm2"),
    M(ATTACK, l2l_attack, step_size, 'r', "n+-hm"),
    M(ATTACK, l2l_attack, relative_step, 'r', "n+-hm"), M(ATTACK, l2l_attack, steps, 'i', "mhl"),
    M(ATTACK, l2l_attack, restarts, 'i', "mzl"), M(ATTACK, l2l_attack, start, 'i', "mehl"),
    M(ATTACK, l2l_attack, last_iterate, 'b', "e"), M(ATTACK, l2l_attack, batch, 'i', "mzl"),
    M(SEARCH, l2l_attack, number[0], 'r', "n+-hmz"), M(SEARCH, l2l_attack, number[1], 'r', "n+-hmz"),
    M(SEARCH, l2l_attack, epsilon, 'r', "n-m"),
    M(SEARCH, l2l_attack, objective.confidence, 'r', "n+-m"),
    M(SEARCH, l2l_attack, norm, 'i', "mehl"), M(SEARCH, l2l_attack, step_size, 'r', "n+-hm"),
    M(EVALUATION, l2l_evaluation_options, limit, 'i', "ml"),
    M(EVALUATION, l2l_evaluation_options, batch, 'i', "mzl"),
    M(EVALUATION, l2l_evaluation_options, norm, 'i', "mehl"),
    M(EVALUATION, l2l_evaluation_options, epsilon, 'r', "n-"),
    M(EVALUATION, l2l_evaluation_options, skip_fooled, 'b', "e")};

/* Makes the object, member `q` of its options (NULL: none) set to `v`. */
static int made(world *w, int in, const member *q, double v)
{
    static l2l_real adversarial[IMAGES * SIZE];
    static l2l_record records[IMAGES];
    const int64_t size = 4;
    l2l_model_options mo = own_options("tiny", tiny_forward, 1, 8, CLASSES);
    l2l_learned_options lo = w->lo;
    l2lda_options go = l2lda_default();
    l2l_optimizer_options oo = l2l_adam_default();
    l2l_train_options to = w->o;
    l2l_attack a = in == SEARCH ? l2l_attack_cw_l2(1) : l2l_attack_pgd(0.1);
    l2l_evaluation_options eo = l2l_evaluation_default();
    l2l_evaluation e;
    void *all[8], *object = NULL;
    int i = v > 2e9 ? 2147483647 : v < -2e9 ? -2147483647 - 1 : v > -2e9 ? (int)v : 0, ok = 0;
    unsigned char b = 99;
    all[MODEL] = &mo; all[LEARNED] = &lo; all[GENERATOR] = &go; all[OPTIMIZER] = &oo;
    all[TRAIN] = &to; all[ATTACK] = all[SEARCH] = &a; all[EVALUATION] = &eo;
    mo.normalise = 1;
    mo.deviation[0] = 1;
    go.height = go.width = 8;
    go.width_multiplier = 0.125;
    a.steps = 2;
    a.number[0] = 2;
    if (q && q->type == 'r') memcpy((char *)all[in] + q->at, &v, sizeof v);
    if (q && q->type == 'i') memcpy((char *)all[in] + q->at, &i, sizeof i);
    if (q && q->type == 'b') memcpy((char *)all[in] + q->at, &b, 1);
    switch (in) {
    case MODEL: l2l_model_free((l2l_model *)(object = l2l_model_create(w->c, &mo))); break;
    case LEARNED: l2l_learned_free((l2l_learned *)(object = l2l_learned_create(w->c, &lo))); break;
    case GENERATOR:
        l2lda_free((l2lda *)(object = l2lda_create(w->c, &go)));
        break;
    case OPTIMIZER:
        l2l_optimizer_free((l2l_optimizer *)(object = l2l_optimizer_create(w->c, &oo, &size, 1)));
        break;
    case TRAIN:
        l2l_trainer_free((l2l_trainer *)(object = l2l_trainer_create(w->m, &w->d, &to)));
        break;
    case EVALUATION:
        if ((ok = l2l_evaluation_begin(w->m, &w->d, &eo, &e)) != 0) l2l_evaluation_end(&e);
        break;
    default: ok = l2l_attack_run(w->m, &a, w->x, w->labels, 4, adversarial, records);
    }
    return ok || object;
}

static void every_member(void)
{
    static const struct { char letter; double value; } values[] = {
        {'n', NAN}, {'+', HUGE_VAL}, {'-', -HUGE_VAL}, {'h', 1e300}, {'l', -1e300}, {'m', -1},
        {'z', 0}, {'2', 2}, {'e', 99}};
    world w;
    int i, k, tried = 0;
    if (!world_begin(&w)) return;
    for (i = 0; i < COUNT(members); i++) {
        for (k = 0; k < COUNT(values); k++) {
            int before = test_complaints;
            if (!strchr(members[i].bad, values[k].letter)) continue;
            CHECK(!made(&w, members[i].in, &members[i], values[k].value));
            CHECK_ERROR(w.c, L2L_ERROR_ARGUMENT, members[i].name);
            if (test_complaints > before)
                printf("    %s, value '%c'\n", members[i].name, values[k].letter);
            tried++;
        }
        CHECK(made(&w, members[i].in, NULL, 0));
        CHECK_OK(w.c);
    }
    CHECK(tried > 3 * COUNT(members));
    world_end(&w);
}

static void what_is_named(void)
{
    world w;
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_record r[4];
    static l2l_real adversarial[4 * SIZE];
    double weights[2] = {1, NAN};
    int targets[HELD] = {0, 1, 2, 3, 4, 5};
    if (!world_begin(&w)) return;
#define REFUSED(set, text)                                                                         \
    do {                                                                                           \
        l2l_train_options kept = w.o;                                                              \
        set;                                                                                       \
        CHECK(!l2l_trainer_create(w.m, &w.d, &w.o));                                               \
        CHECK_ERROR(w.c, L2L_ERROR_ARGUMENT, text);                                                \
        w.o = kept;                                                                                \
    } while (0)
    REFUSED(w.o.schedule.kind = (l2l_schedule_kind)9,
            "training: schedule.kind 9 is not 0 (constant), 1 (steps) or 2 (cosine)");
    REFUSED(w.o.method.start = (l2l_start)7, "method.start 7 is not 0 (clean), 1 (uniform) or 2");
    REFUSED(w.o.inner_mode = (l2l_mode)5, "inner_mode 5 is not 0 (evaluate) or 1 (train)");
    REFUSED(w.o.schedule.warm_up = NAN, "schedule.warm_up nan is not in [0,1]");
    REFUSED(w.o.schedule.milestones[3] = 2, "schedule.milestones[3] 2 is not in [0,1]");
    REFUSED((w.o.schedule.milestones[0] = 0.5, w.o.schedule.milestones[1] = 0.25),
            "schedule.milestones[1] 0.25 behind 0.5: they ascend");
    REFUSED(w.o.schedule.milestones[1] = 0.25, "schedule.milestones[1]");
    REFUSED(w.o.epochs = 0, "training: epochs 0 is not at least 1");
    REFUSED(w.o.epsilon = 8, "training: epsilon 8 is not in [0,1]; pixels are in [0,1]");
    REFUSED(w.o.optimizer.momentum = 1, "optimizer.momentum 1 is not in [0,1)");
    REFUSED(w.o.optimizer.weight_decay = 1e39, "optimizer.weight_decay 1e39 is not at least 0 and "
            "finite as a float"); /* as a double it is finite */
    REFUSED(w.o.loss_weights = weights, "loss_weights[1] nan");
    REFUSED((w.o.method.outer = l2l_outer_trades(1), w.o.method.outer.user = &w),
            "method.outer.user must be NULL");
    w.o.validation = HELD;
    w.o.validation_attack = a;
    REFUSED(w.o.validation_attack.start = (l2l_start)9, "validation_attack: start 9 is not");
    REFUSED(w.o.validation_attack.epsilon = 3, "validation_attack: epsilon 3 is not in [0,1]");
    REFUSED(w.o.validation_attack.targets = targets,
            "validation_attack.targets: label 5 of image 5");
    w.o.validation = 0; /* nobody looks at it then */
    w.o.validation_attack.start = (l2l_start)9;
    l2l_trainer_free(l2l_trainer_create(w.m, &w.d, &w.o));
    CHECK_OK(w.c);
    a.start = (l2l_start)9;
    CHECK(!l2l_attack_run(w.m, &a, w.x, w.labels, 4, adversarial, r));
    CHECK_ERROR(w.c, L2L_ERROR_ARGUMENT, "attack: start 9 is not 0 (clean), 1 (uniform) or 2");
    {
        const int64_t size = 2;
        l2l_optimizer_options o = l2l_sgd_default();
        l2l_optimizer *opt = l2l_optimizer_create(w.c, &o, &size, 1);
        l2l_real x[2] = {1, 2}, g[2] = {1, 1}, *px = x, *pg = g;
        CHECK(opt && !l2l_optimizer_step(opt, &px, &pg, NAN));
        CHECK_ERROR(w.c, L2L_ERROR_ARGUMENT, "rate_factor nan");
        CHECK_NEAR(1, x[0], 0);
        CHECK(l2l_optimizer_step(opt, &px, &pg, 1));
        l2l_optimizer_free(opt);
    }
    world_end(&w);
}

/* -- flags and modes --------------------------------------------------------------------------- */

static l2l_tensor *flagged(l2l_model *m, l2l_tensor *x, void *user)
{
    const unsigned *f = (const unsigned *)user;
    l2l_unit u = l2l_unit_default(4, 3);
    u.flags = f[0];
    x = l2l_layer_unit(m, "conv", x, &u);
    x = l2l_layer_batch_norm(m, "bn", x, f[1]);
    x = l2l_layer_linear(m, "a", x, 6, f[2]);
    return l2l_layer_linear(m, "b", x, CLASSES, L2L_LAST | f[3]);
}

static void layer_flags(void)
{
    static const struct { unsigned flags[4]; const char *name; } bad[] = {
        {{32, 0, 0, 0}, "conv: flags 32"}, {{L2L_LAST, 0, 0, 0}, "conv: flags 8"},
        {{L2L_POOL | L2L_UNPOOLED, 0, 0, 0}, "conv: both L2L_POOL and L2L_UNPOOLED"},
        {{0, 0, L2L_UNPOOLED, 0}, "a: flags 16"}, {{0, L2L_UNPOOLED, 0, 0}, "bn: flags 16"},
        {{0x80000000u, 0, 0, 0}, "conv: flags 2147483648"},
        {{0, L2L_POOL, 0, 0}, "bn: flags 2 are not a sum of those that such a layer knows: L2L_R"},
        {{0, 0, L2L_POOL, 0}, "a: flags 2"}, {{0, 0, L2L_RELU | 64, 0}, "a: flags 65"},
        {{0, 0, 0, L2L_POOL}, "b: flags 10"}};
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("flags", flagged, 1, 8, CLASSES);
    unsigned good[4] = {L2L_RELU | L2L_POOL | L2L_NO_BIAS, L2L_RELU, L2L_RELU | L2L_NO_BIAS, 0};
    l2l_model *m;
    l2l_tensor *x, *y, *g;
    int i;
    for (i = 0; i < COUNT(bad); i++) {
        unsigned flags[4];
        memcpy(flags, bad[i].flags, sizeof flags);
        o.user = flags;
        CHECK(!l2l_model_create(c, &o));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, bad[i].name);
    }
    o.user = good;
    m = l2l_model_create(c, &o);
    x = l2l_zeros(c, l2l_shape_of(2, 8, 8, 1));
    if (CHECK(m && x)) {
        CHECK(!l2l_model_forward(m, x, (l2l_mode)5));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "mode 5");
        CHECK(!l2l_model_memory(m, 2, (l2l_mode)-1));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "mode -1");
        CHECK(!l2l_layer_dropout(m, x, NAN));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "probability nan");
        CHECK(!l2l_layer_dropout(m, x, 1));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "probability 1");
        l2l_set_recording(c, true);
        y = l2l_sum(c, l2l_model_forward(m, x, L2L_EVALUATE));
        CHECK(!l2l_grad(c, y, &x, 1, &g, 4));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "flags 4");
        CHECK(l2l_grad(c, y, &x, 1, &g, 0));
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Sizes at the ends of int: errors of shape or memory, and (under UBSan) no overflow. Nothing that
   could be had is asked for. */
static void extreme_sizes(void)
{
    static const int sizes[] = {-2147483647 - 1, -2147483647, -1, 46341, 65536, 2147483646,
                                2147483647};
    l2l_context *c = test_context(1);
    l2l_tensor *x = l2l_zeros(c, l2l_shape_of(2, 3, 3, 4));
    l2l_tensor *w = l2l_zeros(c, l2l_shape_of(3, 3, 4, 2)), *got;
    l2l_tensor *rows = l2l_zeros(c, l2l_shape_of(2, 1, 1, 4));
    const int classes[2] = {0, 1};
    int i, j, k;
    for (i = 0; i < COUNT(sizes); i++)
        for (j = 0; j < COUNT(sizes); j++) {
            int a = sizes[i], b = sizes[j];
            l2l_conv_options o = l2l_conv_default();
            o.stride = a;
            o.padding = b;
            for (k = 0; k < 9; k++) {
                l2l_mark mark = l2l_mark_here(c);
                bool minus = a < 0 || b < 0;
                got = k == 0   ? l2l_slice(c, x, a, b)
                      : k == 1 ? (a > (double)b - 4 ? l2l_place(c, x, a, b) : NULL)
                      : k == 2 ? (minus ? l2l_conv(c, x, w, &o) : NULL)
                      : k == 3 ? l2l_max_pool(c, x, a, b, 0)
                      : k == 4 ? l2l_average_pool(c, x, 2, a, b)
                      : k == 5 ? l2l_reshape(c, x, l2l_shape_of(a, b, a, b))
                      : k == 6 ? (minus ? l2l_broadcast_to(c, rows, l2l_shape_of(2, a, b, 4))
                                        : NULL)
                      : k == 7 ? (minus ? l2l_conv_input_grad(c, x, w, l2l_shape_of(2, a, b, 4), 1,
                                                              0) : NULL)
                               : (a < 0 ? l2l_unpick(c, x, classes, a) : NULL);
                CHECK(!got);
                l2l_error_clear(c);
                l2l_release(c, mark);
            }
        }
    CHECK(l2l_relu(c, x) != NULL);
    l2l_context_free(c);
}

/* -- outer losses of one's own ----------------------------------------------------------------- */

typedef struct asked { int calls; double number; const void *user; } asked;
static asked outer_asked;

static l2l_tensor *own_outer(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                             void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)x;
    outer_asked.calls++;
    outer_asked.user = user;
    outer_asked.number = *(const double *)user;
    return l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), labels));
}

static void own_outer_loss(void)
{
    int i;
    for (i = 0; i < 8; i++) { /* put into any method, with number and with user */
        world w;
        l2l_progress p;
        l2l_trainer *t;
        double mine = 5;
        if (!world_begin(&w)) return;
        w.o.method = i / 2 == 0   ? l2l_method_plain()
                     : i / 2 == 1 ? l2l_method_advtrain()
                     : i / 2 == 2 ? l2l_method_rnn_adv(w.phi) : l2l_method_trades(2);
        w.o.method.outer.loss = own_outer;
        w.o.method.outer.number[0] = 3;
        if (i % 2) w.o.method.outer.user = &mine;
        memset(&outer_asked, 0, sizeof outer_asked);
        t = l2l_trainer_create(w.m, &w.d, &w.o);
        if (CHECK(l2l_train_step(t, w.x, w.labels, 10, &p))) {
            CHECK_INT(1, outer_asked.calls);
            CHECK_NEAR(i % 2 ? 5 : 3, outer_asked.number, 0);
            CHECK_NEAR(-1, p.accuracy, 0);
        }
        l2l_trainer_free(t);
        world_end(&w);
    }
}

/* -- a cut objective where line 14's pass could be shared -------------------------------------- */

/* One step of RNN-Adv: what phi moved by, and the gain. */
static void phi_step(int cut, double confidence, int micro, bool shared, double *moved,
                     double *gain)
{
    world w;
    l2l_progress p;
    l2l_trainer *t;
    int i;
    *gain = NAN;
    if (!world_begin(&w)) return;
    w.lo.optimizer = l2l_sgd_default();
    w.lo.optimizer.momentum = 0;
    w.lo.optimizer.rate = 1;
    l2l_learned_free(w.phi);
    w.phi = l2l_learned_create(w.c, &w.lo);
    for (i = 0; i < l2l_learned_size(w.phi); i++)
        moved[i] = -(double)l2l_learned_parameters(w.phi)[i];
    w.o.method = l2l_method_rnn_adv(w.phi);
    w.o.method.objective.cut = cut;
    w.o.method.objective.confidence = confidence;
    w.o.epsilon_warm_up = 0;
    w.o.micro_batch = micro;
    if (!shared) { /* the same loss by a pass of its own */
        w.o.method.outer.is_objective = false;
    }
    t = l2l_trainer_create(w.m, &w.d, &w.o);
    if (CHECK(l2l_train_step(t, w.x, w.labels, 12, &p))) *gain = p.gain;
    for (i = 0; i < l2l_learned_size(w.phi); i++)
        moved[i] += (double)l2l_learned_parameters(w.phi)[i];
    l2l_trainer_free(t);
    world_end(&w);
}

static void cut_objective(void)
{
    static double a[600], b[600];
    int i, k;
    for (k = 0; k < 6; k++) {
        int cut = k % 3 > 0, micro = k / 3 * 5;
        double confidence = k % 3 == 2 ? 1.2 : 2.5, one, two, off = 0, size = 0;
        phi_step(cut, confidence, micro, true, a, &one);
        phi_step(cut, confidence, micro, false, b, &two);
        for (i = 0; i < 600; i++) {
            off += (a[i] - b[i]) * (a[i] - b[i]);
            size += b[i] * b[i];
        }
        CHECK(size > 0);
        CHECK_NEAR(0, sqrt(off / size), TOLERANCE(1e-3, 1e-9));
        CHECK_NEAR(two, one, 1e-5);
    }
}

/* With an objective of one's own, a maximizer that learns has looked at x'_T: the gain is there. */
static l2l_tensor *twice(l2l_context *c, l2l_tensor *z, l2l_tensor *clean, const int *labels,
                         void *user)
{
    (void)clean;
    (void)user;
    return l2l_affine(c, l2l_cross_entropy(c, z, labels), 2, 0);
}

static void gain_of_an_own_objective(void)
{
    double gain[2];
    int k;
    for (k = 0; k < 2; k++) {
        world w;
        l2l_progress p;
        l2l_trainer *t;
        if (!world_begin(&w)) return;
        w.o.method = l2l_method_rnn_adv(w.phi);
        w.o.epsilon_warm_up = 0;
        if (k) w.o.method.objective.loss = twice;
        t = l2l_trainer_create(w.m, &w.d, &w.o);
        CHECK(l2l_train_step(t, w.x, w.labels, 12, &p));
        gain[k] = p.gain;
        l2l_trainer_free(t);
        world_end(&w);
    }
    CHECK(fabs(gain[0]) > 1e-6);
    CHECK_NEAR(2 * gain[0], gain[1], 1e-4 * fabs(gain[0]) + 1e-6);
}

/* -- arrays by image --------------------------------------------------------------------------- */

static struct {
    const int *targets;
    const l2l_real *init;
    uint32_t first;
    int seen, wrong;
} by_image;

/* Looks whether each image has the target and the starting point of its number. */
static bool watch(void *self, l2l_inner *in)
{
    int64_t one = l2l_count(in->shape) / in->n;
    int i;
    (void)self;
    for (i = 0; i < in->n; i++) {
        uint32_t k = in->images[i] - by_image.first;
        by_image.seen++;
        if (k >= IMAGES) by_image.wrong++;
        else by_image.wrong += in->labels[i] != by_image.targets[k] ||
                               (in->t == 0 && in->stream.epoch == 0 &&
                                memcmp(in->adv->data + i * one, by_image.init + k * one,
                                       (size_t)one * sizeof(l2l_real)) != 0);
    }
    memset(in->delta->data, 0, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    return true;
}

static void arrays_by_image(void)
{
    static int targets[IMAGES];
    static l2l_real init[IMAGES * SIZE], adversarial[IMAGES * SIZE];
    static l2l_record records[IMAGES];
    int i, k;
    for (i = 0; i < IMAGES; i++) targets[i] = i * 7 / 3 % CLASSES;
    golden_fill(init, IMAGES * SIZE, 73, 0, 1);
    for (k = 0; k < 10; k++) {
        world w;
        l2l_attack a[2];
        l2l_evaluation_options eo = l2l_evaluation_default();
        l2l_evaluation e;
        l2l_result r;
        l2l_trainer *t;
        double accuracies[4];
        if (!world_begin(&w)) return;
        a[0] = l2l_attack_pgd(1);
        a[0].steps = 2;
        a[0].restarts = 2;
        a[0].batch = k % 2 ? 4 : 100;
        a[0].first = k % 2 ? 1000 : 0;
        a[0].targets = targets;
        a[0].init = init;
        a[0].maximizer = l2l_maximizer_sign();
        a[0].maximizer.name = "watch";
        a[0].maximizer.step = watch;
        a[1] = a[0];
        a[1].seed = 1;
        memset(&by_image, 0, sizeof by_image);
        by_image.targets = targets;
        by_image.init = init;
        by_image.first = a[0].first;
        eo.batch = 7;
        if (k / 2 == 0) CHECK(l2l_attack_run(w.m, a, w.x, w.labels, IMAGES, adversarial, records));
        if (k / 2 == 1)
            CHECK(l2l_attack_worst(w.m, a, 2, w.x, w.labels, IMAGES, adversarial, records));
        if (k / 2 == 2 && CHECK(l2l_evaluation_begin(w.m, &w.d, &eo, &e))) {
            CHECK(l2l_evaluation_attack(&e, &a[0], &r, NULL, NULL));
            eo.skip_fooled = true;
            l2l_evaluation_end(&e);
            CHECK(l2l_evaluation_begin(w.m, &w.d, &eo, &e));
            CHECK(l2l_evaluation_attack(&e, &a[1], &r, NULL, NULL));
            l2l_evaluation_end(&e);
        }
        if (k / 2 == 3) {
            l2l_model *both[2];
            both[0] = both[1] = w.m;
            CHECK(transfer_matrix(both, 2, &w.d, l2l_series_of(a), &eo, NULL, accuracies));
        }
        if (k / 2 == 4) {
            w.o.epochs = 1;
            w.o.batch = 3; /* validation takes as many at a time */
            w.o.validation = HELD;
            w.o.validation_attack = a[0];
            t = l2l_trainer_create(w.m, &w.d, &w.o);
            CHECK(l2l_train(t));
            l2l_trainer_free(t);
        }
        CHECK(by_image.seen > 10);
        CHECK_INT(0, by_image.wrong);
        world_end(&w);
    }
}

/* -- checkpoints ------------------------------------------------------------------------------- */

static const char checkpoint[] = "bin/options.l2l", broken[] = "bin/options_broken.l2l";
static int held_targets[HELD];
static l2l_real held_init[HELD * SIZE];
static double loss_weights[3] = {1, 2, 3};

static bool stop_at_3(void *user, const l2l_progress *p)
{
    (void)user;
    return p->step != 3;
}

/* The training whose checkpoint is written; `search`: validated by a search. */
static void base(world *w, bool search)
{
    int i;
    for (i = 0; i < HELD; i++) held_targets[i] = i % CLASSES;
    golden_fill(held_init, HELD * SIZE, 74, 0, 1);
    w->o.method = l2l_method_rnn_adv(w->phi);
    w->o.validation = HELD;
    w->o.validation_attack = search ? l2l_attack_cw_l2(1) : l2l_attack_pgd(0.1);
    w->o.validation_attack.steps = 3;
    w->o.validation_attack.number[0] = 2;
    if (!search) w->o.validation_attack.targets = held_targets;
    w->o.validation_attack.init = held_init;
    w->o.loss_weights = loss_weights;
    w->o.checkpoint = checkpoint;
}

enum { CHANGES = 79 };
/* Change number k of the settings; its name. */
static const char *change(world *w, int k)
{
    l2l_train_options *o = &w->o;
    l2l_attack *v = &o->validation_attack;
    static double weights[3] = {1, 2, 4};
    static int targets[HELD];
    static l2l_real init[HELD * SIZE];
#define SET(number, member, value) case number: o->member = value; return #member
#define HELD_SET(number, member, value) \
    case number: v->member = value; return "validation_attack." #member
    memcpy(targets, held_targets, sizeof targets);
    memcpy(init, held_init, sizeof init);
    targets[HELD - 1] ^= 1;
    init[HELD * SIZE - 1] = (l2l_real)0.5;
    switch (k) {
    SET(0, method.name, "other");
    SET(1, method.objective.name, "other");
    SET(2, method.objective.cut, true);
    SET(3, method.objective.confidence, 0.25);
    SET(4, method.objective.needs_clean, true);
    SET(5, method.maximizer.name, "other");
    SET(6, method.maximizer.number[0], 0.25);
    SET(7, method.maximizer.number[1], 0.25);
    SET(8, method.outer.name, "other");
    SET(9, method.outer.number[0], 0.25);
    SET(10, method.outer.number[1], 0.25);
    SET(11, method.outer.is_objective, false);
    SET(12, method.start, L2L_START_UNIFORM);
    SET(13, epochs, 3);
    SET(14, batch, 9);
    SET(15, micro_batch, 3);
    SET(16, epsilon, 0.2);
    SET(17, T, 3);
    SET(18, step_size, 0.1);
    SET(19, epsilon_warm_up, 0.4);
    SET(20, loss_weights, weights + 1);
    SET(21, optimizer.kind, L2L_SGD);
    SET(22, optimizer.rate, 0.002);
    SET(23, optimizer.momentum, 0.5);
    SET(24, optimizer.weight_decay, 0.5);
    SET(25, optimizer.nesterov, true);
    SET(26, optimizer.beta1, 0.5);
    SET(27, optimizer.beta2, 0.5);
    SET(28, optimizer.epsilon, 0.5);
    SET(29, optimizer.clip, 0.5);
    SET(30, schedule.kind, L2L_COSINE);
    SET(31, schedule.warm_up, 0.5);
    SET(33, schedule.factor, 0.5);
    SET(34, schedule.final, 0.5);
    SET(35, augment.padding, 1);
    SET(36, augment.flip, true);
    SET(37, inner_mode, L2L_TRAIN);
    SET(38, validation, HELD - 1);
    SET(39, stop_on_plateau, true);
    SET(40, seed, 1);
    HELD_SET(42, name, "other");
    HELD_SET(43, maximizer.name, "other");
    HELD_SET(44, maximizer.number[0], 0.5);
    HELD_SET(45, maximizer.number[1], 0.5);
    HELD_SET(46, objective.name, "other");
    HELD_SET(47, objective.cut, true);
    HELD_SET(48, objective.confidence, 0.5);
    HELD_SET(49, norm, v->norm == L2L_L2 ? L2L_LINF : L2L_L2);
    HELD_SET(50, epsilon, 0.5);
    HELD_SET(51, targets, v->targets ? targets : v->targets);
    HELD_SET(52, step_size, 0.5);
    HELD_SET(53, steps, 4);
    HELD_SET(54, restarts, 2);
    HELD_SET(55, start, L2L_START_NORMAL);
    HELD_SET(56, last_iterate, true);
    HELD_SET(57, seed, 1);
    HELD_SET(58, first, 1);
    HELD_SET(59, init, init);
    HELD_SET(60, number[0], 3);
    HELD_SET(61, number[1], 0.5);
    case 32: o->schedule.milestones[0] = 0.5; return "schedule.milestones";
    case 41: o->seed = (uint64_t)1 << 40; return "seed";
    case 62: v->seed = (uint64_t)1 << 40; return "validation_attack.seed";
    case 63: w->labels[1] ^= 1; return "data (a digest)";
    case 64: w->x[(IMAGES - 2) * SIZE + 5] = (l2l_real)0.5; return "data (a digest)";
    case 65: w->d.count--; return "data.count";
    case 66: w->lo.raw_output = true; return "raw_output";
    case 67: w->lo.scale = 0.5; return "scale";
    case 68: w->lo.input = L2L_INPUT_L1; return "input";
    case 69: w->lo.second_order = true; return "second_order";
    case 70: w->lo.optimizer.rate = 0.5; return "optimizer.rate";
    case 71: w->lo.optimizer.beta2 = 0.5; return "optimizer.beta2";
    case 72: w->lo.optimizer.clip = 0.5; return "optimizer.clip";
    case 73: w->lo.optimizer.epsilon = 0.5; return "optimizer.epsilon";
    case 74: w->lo.optimizer.weight_decay = 0.5; return "optimizer.weight_decay";
    case 75: v->relative_step = 0.5; return "validation_attack.step_size"; /* in pixels */
    case 76: w->lo.hidden = 4; return "hidden"; /* these three change how many numbers phi has */
    case 77: w->lo.cell = L2L_RNN; return "cell";
    case 78: w->lo.bias = !w->lo.bias; return "bias";
    default: return NULL;
    }
}

static l2l_tensor *smooth_named_tiny(l2l_model *m, l2l_tensor *x, void *user)
{
    return tiny_forward(m, x, user);
}

/* One training: to step 3 (stop), or resumed. */
static int trained(world *w, bool stop)
{
    l2l_trainer *t;
    int ok;
    w->o.progress = stop ? stop_at_3 : NULL;
    t = l2l_trainer_create(w->m, &w->d, &w->o);
    ok = t && l2l_train(t);
    l2l_trainer_free(t);
    return ok;
}

static void fingerprint(void)
{
    int k, search, refused = 0;
    for (search = 0; search < 2; search++) {
        remove(checkpoint);
        for (k = -1; k < CHANGES; k++) {
            world w;
            l2l_real *before, *after;
            const char *name;
            int64_t n;
            if (search && k >= 0 && (k < 42 || k > 62)) continue;
            if (search && (k == 51 || k == 54 || k == 56)) continue; /* searches have none */
            if (!world_begin(&w)) return;
            base(&w, search);
            if (k < 0) {
                CHECK(!trained(&w, true));
                CHECK_ERROR(w.c, L2L_ERROR_CANCELLED, "");
                world_end(&w);
                continue;
            }
            w.o.resume = true;
            name = change(&w, k);
            if (k == 58) name = "validation_attack.first";
            if (k > 65) {
                l2l_learned_free(w.phi);
                w.phi = l2l_learned_create(w.c, &w.lo);
                w.o.method.maximizer.self = w.phi;
            }
            before = all_parameters(w.m, &n);
            CHECK(!trained(&w, false));
            if (!CHECK_ERROR(w.c, L2L_ERROR_MISMATCH, name)) printf("    %s\n", name);
            after = all_parameters(w.m, &n);
            CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
            refused++;
            free(before);
            free(after);
            world_end(&w);
        }
    }
    CHECK_INT(CHANGES + 18, refused);
    remove(checkpoint);
}

/* The model's members, in a training of their own. */
static void fingerprint_of_the_model(void)
{
    int k;
    remove(checkpoint);
    for (k = -1; k < 6; k++) {
        static const char *const names[] = {"model.arch", "model.mean", "model.deviation",
                                            "model.dropout", "model.depth", "model.normalise"};
        world w;
        l2l_model_options o = own_options(k == 0 ? "other" : "tiny", smooth_named_tiny, 1, 8,
                                          CLASSES);
        if (!world_begin(&w)) return;
        o.normalise = k == 5 ? 0 : 1;
        o.mean[0] = k == 1 ? 0.25 : 0.5;
        o.deviation[0] = k == 2 ? 0.25 : 0.5;
        o.dropout = k == 3 ? 0.25 : 0;
        o.depth = k == 4 ? 10 : 0;
        l2l_model_free(w.m);
        w.m = l2l_model_create(w.c, &o);
        w.o.checkpoint = checkpoint;
        w.o.resume = k >= 0;
        CHECK(!trained(&w, k < 0));
        CHECK_ERROR(w.c, k < 0 ? L2L_ERROR_CANCELLED : L2L_ERROR_MISMATCH, k < 0 ? "" : names[k]);
        world_end(&w);
    }
    remove(checkpoint);
}

/* Nothing changed, or only what changes no result: the bits of a training that never stopped. */
static void resumes(void)
{
    world a, b, d;
    l2l_real *phi;
    int T = -1;
    double epsilon = -1;
    remove(checkpoint);
    if (!world_begin(&a) || !world_begin(&b) || !world_begin(&d)) return;
    base(&a, false);
    a.o.checkpoint = NULL;
    CHECK(trained(&a, false));
    base(&b, false);
    CHECK(!trained(&b, true));
    CHECK_ERROR(b.c, L2L_ERROR_CANCELLED, "");
    base(&d, false);
    d.o.resume = true;
    d.o.checkpoint_steps = 2;
    d.o.validation_attack.batch = 3;
    d.o.validation_attack.step_size = /* the same steps, said in pixels */
        d.o.validation_attack.relative_step * d.o.validation_attack.epsilon;
    d.o.validation_attack.relative_step = 3;
    CHECK(trained(&d, false));
    CHECK_SAME_MODEL(a.m, d.m);
    phi = l2l_learned_parameters(a.phi);
    CHECK_BYTES(phi, l2l_learned_parameters(d.phi),
                (size_t)l2l_learned_size(a.phi) * sizeof *phi);
    l2l_learned_trained_with(a.phi, &T, &epsilon);
    CHECK_INT(2, T);
    CHECK_NEAR(0.1, epsilon, 1e-12);
    world_end(&d);
    if (!world_begin(&d)) return; /* the whole is there already */
    base(&d, false);
    d.o.resume = true;
    CHECK(trained(&d, false));
    CHECK_SAME_MODEL(a.m, d.m);
    l2l_learned_trained_with(d.phi, &T, &epsilon);
    CHECK_INT(2, T);
    CHECK_NEAR(0.1, epsilon, 1e-12);
    remove(checkpoint);
    world_end(&a);
    world_end(&b);
    world_end(&d);
}

/* Where the values of a file's tensor begin; 0 if it is not there. */
static long begins(const char *file, const char *tensor)
{
    char *text = (char *)test_memory(200000), name[80];
    const char *p;
    long at = 0, from;
    int k;
    size_t n;
    FILE *f = fopen(file, "rb");
    n = f ? fread(text, 1, 199999, f) : 0;
    if (f) fclose(f);
    for (k = 0; n && k < 3; k++) at += (long)(unsigned char)text[k] << (8 * k);
    sprintf(name, "\"%s\":{", tensor);
    p = n > 8 ? strstr(text + 8, name) : NULL;
    p = p ? strstr(p, "\"data_offsets\":[") : NULL;
    if (!p || sscanf(p, "\"data_offsets\":[%ld", &from) != 1) from = -1;
    free(text);
    return from < 0 ? 0 : 8 + at + from;
}

/* `from` with another double at `at`. */
static void patch(const char *from, const char *to, long at, double value)
{
    FILE *f = fopen(from, "rb"), *g = fopen(to, "wb");
    int ch;
    if (!CHECK(f && g)) return;
    while ((ch = fgetc(f)) != EOF) fputc(ch, g);
    fseek(g, at, SEEK_SET);
    CHECK(fwrite(&value, 8, 1, g) == 1); /* of a little-endian machine */
    fclose(f);
    fclose(g);
}

static void numbers_of_a_checkpoint(void)
{
    enum { SETTINGS = 16 }; /* of a learned maximizer, before its numbers */
    static const struct {
        const char *tensor;
        int number;
        double value;
        const char *name;
    } cases[] = {
        {"state", 0, 1e107, "step is"}, {"state", 0, 2, "step_in_epoch is"},
        {"state", 1, 2147483647, "epoch is 2.147"},
        {"state", 1, 3, "epoch is 3"}, {"state", 1, 2, "step_in_epoch is"},
        {"state", 1, NAN, "epoch is nan"},
        {"state", 2, 2147483647, "step_in_epoch is"}, {"state", 3, HUGE_VAL, "epoch_loss is inf"},
        {"state", 4, -1, "epoch_right is -1"}, {"state", 7, 1e10, "plateau is"},
        {"state", 8, -1, "note.number is -1"}, {"state", 9, 1.5, "validation_natural is"},
        {"state", 11, 2, "has_good is 2"}, {"state", 12, 1e107, "optimizer.steps is"},
        {"state", 12, 0.5, "optimizer.steps is 0.5"},
        {"maximizer", SETTINGS, 1e107, "the steps of its optimizer, is"},
        {"maximizer", SETTINGS, -1, "the steps of its optimizer, is -1"},
        {"maximizer", SETTINGS, NAN, "the steps of its optimizer, is nan"},
        {"maximizer", SETTINGS, 1.5, "the steps of its optimizer, is 1.5"},
        {"maximizer", SETTINGS + 1, 1e10, "its T, is"},
        {"maximizer", SETTINGS + 1, -1, "its T, is -1"},
        {"maximizer", SETTINGS + 2, NAN, "its epsilon, is nan"},
        {"maximizer", SETTINGS + 3, 1e300, "is 1e300: too large"}};
    int i;
    remove(checkpoint);
    for (i = -1; i < COUNT(cases); i++) {
        world w;
        l2l_real *before, *after, *phi;
        int64_t n;
        long at;
        if (!world_begin(&w)) return;
        base(&w, false);
        if (i < 0) {
            CHECK(!trained(&w, true));
            CHECK_ERROR(w.c, L2L_ERROR_CANCELLED, "");
            world_end(&w);
            continue;
        }
        if (sizeof(l2l_real) == 8 && i == COUNT(cases) - 1) { world_end(&w); break; }
        if (!CHECK((at = begins(checkpoint, cases[i].tensor)) > 0)) return;
        patch(checkpoint, broken, at + 8 * cases[i].number, cases[i].value);
        w.o.checkpoint = broken;
        w.o.resume = true;
        before = all_parameters(w.m, &n);
        phi = test_array(l2l_learned_size(w.phi));
        memcpy(phi, l2l_learned_parameters(w.phi), (size_t)l2l_learned_size(w.phi) * sizeof *phi);
        CHECK(!trained(&w, false));
        CHECK_ERROR(w.c, L2L_ERROR_FORMAT, cases[i].name);
        after = all_parameters(w.m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
        CHECK_BYTES(phi, l2l_learned_parameters(w.phi),
                    (size_t)l2l_learned_size(w.phi) * sizeof *phi);
        free(before);
        free(after);
        free(phi);
        world_end(&w);
    }
    remove(checkpoint);
    remove(broken);
}

/* The number of a file's format, one less. */
static void make_older(const char *file, const char *format)
{
    static char text[200000];
    size_t n = 0, k = strlen(format), i;
    FILE *f = fopen(file, "rb");
    if (f) n = fread(text, 1, sizeof text, f);
    if (f) fclose(f);
    for (i = 0; i + k < n && memcmp(text + i, format, k); i++) continue;
    if (!CHECK(i + k < n) || !CHECK((f = fopen(file, "wb")) != NULL)) return;
    text[i + k]--;
    CHECK(fwrite(text, 1, n, f) == n);
    fclose(f);
}

static void older_versions(void)
{
    static const char state[] = "bin/options_state.l2l";
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    evaluation_state kept;
    l2l_attack a = l2l_attack_fgsm(0.1);
    world w;
    if (!world_begin(&w)) return;
    remove(checkpoint);
    remove(state);
    base(&w, false);
    CHECK(!trained(&w, true));
    CHECK_ERROR(w.c, L2L_ERROR_CANCELLED, "");
    make_older(checkpoint, "l2ladv checkpoint ");
    w.o.resume = true;
    CHECK(!trained(&w, false));
    CHECK_ERROR(w.c, L2L_ERROR_FORMAT, "not a checkpoint of this version: its format is 'l2ladv "
                "checkpoint 5', not 'l2ladv checkpoint 6'; the version that wrote it can go on");
    if (CHECK(l2l_evaluation_begin(w.m, &w.d, &o, &e))) {
        CHECK(evaluation_state_open(&kept, &e, state));
        CHECK(evaluation_state_attack(&kept, &a, NULL, NULL, NULL));
        evaluation_state_close(&kept);
        make_older(state, "l2ladv evaluation ");
        CHECK(!evaluation_state_open(&kept, &e, state));
        CHECK_ERROR(w.c, L2L_ERROR_FORMAT, "not an evaluation's state of this version: its first "
                    "line is 'l2ladv evaluation 7', not 'l2ladv evaluation 8'; the version that");
        l2l_evaluation_end(&e);
    }
    remove(checkpoint);
    remove(state);
    world_end(&w);
}

/* -- states of evaluations --------------------------------------------------------------------- */

/* As tiny_forward, to another function of the same parameters. */
static l2l_tensor *turned_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    return l2l_affine(c, tiny_forward(m, x, user), -1, 0);
}

static l2l_model *variant(world *w, int k)
{
    static const double bound[] = {0.8, 0.2, 0.5, 0.2};
    l2l_model_options o = own_options(k == 3 ? "other" : "tiny",
                                      k == 4 ? turned_forward : tiny_forward, 1, 8, CLASSES);
    l2l_model *m;
    o.normalise = 1;
    o.mean[0] = k == 1 ? 0.25 : 0.5;
    o.deviation[0] = k == 2 ? 0.25 : 0.5;
    m = l2l_model_create(w->c, &o);
    if (m) seed_parameters(m, 75, bound);
    return m;
}

/* The same file with another text, and with the digest that fits. */
static void rewrite(const char *from, const char *to, const char *text, const char *other)
{
    static char all[20000];
    FILE *f = fopen(from, "rb"), *g = fopen(to, "wb");
    char *end, *at;
    all[f ? fread(all, 1, sizeof all - 1, f) : 0] = 0;
    end = strstr(all, "\nend: ");
    at = strstr(all, text);
    if (CHECK(f && g && end && at && at < end)) {
        uint64_t h;
        end[1] = 0;
        h = es_fold(ES_DIGEST, all, (size_t)(at - all));
        h = es_fold(h, other, strlen(other));
        h = es_fold(h, at + strlen(text), strlen(at + strlen(text)));
        fwrite(all, 1, (size_t)(at - all), g);
        fprintf(g, "%s%send: %s\n", other, at + strlen(text), es_digest(h).text);
    }
    if (f) fclose(f);
    if (g) fclose(g);
}

static void states_of_other_models(void)
{
    static const char *const names[] = {"", "model.mean", "model.deviation", "model.arch",
                                        "clean predictions"};
    /* the first record is rewritten: whole numbers beyond what they can be, and no numbers */
    static const char *const bad[][2] = {
        {"5 ", "predicted of record 0"}, {"-2 ", "predicted of record 0"},
        {"1e99 ", "predicted of record 0"}, {"nan ", "predicted of record 0"},
        {"0.5 ", "predicted of record 0"},
        {"1 2 ", "success of record 0"}, {"1 0 8 ", "attack of record 0"},
        {"1 0 0 -2 ", "step of record 0"}, {"1 0 0 0 -1 ", "restart of record 0"},
        {"1 0 0 0 0 -1 ", "forwards of record 0"}, {"1 0 0 0 0 1 2147483648 ", "backwards of "},
        {"1 0 0 0 0 1 1 0.5 ", "zero_gradients of "}, {"1 0 0 0 0 1 1 0 x ", "loss of record 0"},
        {"1 0 0 0 0 1 1 0 1 1\n", "linf of record 0"}, {"1 0 0 0 0 1 1 0 1 1 1 ", "l2 of rec"}};
    static const char *const times[] = {"records: -1 s\n", "records: nan s\n", "records: inf s\n",
                                        "records:  s\n", "records: 1\n", "records: 1 h\n"};
    static const char state[] = "bin/options_state.l2l";
    world w;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    evaluation_state kept;
    l2l_attack a = l2l_attack_pgd(0.1);
    l2l_result r;
    l2l_model *m;
    int k;
    if (!world_begin(&w)) return;
    remove(state);
    o.batch = 7;
    for (k = -1; k < 5; k++) {
        m = variant(&w, k);
        if (!CHECK(m && l2l_evaluation_begin(m, &w.d, &o, &e))) break;
        if (k < 1) {
            CHECK(evaluation_state_open(&kept, &e, state));
            CHECK(evaluation_state_attack(&kept, &a, &r, NULL, NULL));
            evaluation_state_close(&kept);
        }
        if (k == 0) {
            l2l_attack cut = a;
            cut.objective.cut = true; /* another attack */
            CHECK(evaluation_state_open(&kept, &e, state));
            CHECK(!evaluation_state_attack(&kept, &cut, &r, NULL, NULL));
            CHECK_ERROR(w.c, L2L_ERROR_MISMATCH, "made with objective.cut 0, not 1");
            evaluation_state_close(&kept);
        }
        if (k > 0) {
            CHECK(!evaluation_state_open(&kept, &e, state));
            CHECK_ERROR(w.c, L2L_ERROR_MISMATCH, names[k]);
        }
        l2l_evaluation_end(&e);
        l2l_model_free(m);
    }
    m = variant(&w, 0);
    if (CHECK(m && l2l_evaluation_begin(m, &w.d, &o, &e))) {
        for (k = 0; k < COUNT(bad); k++) {
            char text[80];
            snprintf(text, sizeof text, "records: 0 s\n%s", bad[k][0]);
            rewrite(state, broken, "records: 0 s\n", text);
            CHECK(!evaluation_state_open(&kept, &e, broken));
            CHECK_ERROR(w.c, L2L_ERROR_FORMAT, bad[k][1]);
        }
        for (k = 0; k < COUNT(times); k++) {
            rewrite(state, broken, "records: 0 s\n", times[k]);
            CHECK(!evaluation_state_open(&kept, &e, broken));
            CHECK_ERROR(w.c, L2L_ERROR_FORMAT, "the seconds of attack 1 are out of range");
        }
        rewrite(state, broken, "records: ", "recorded: ");
        CHECK(!evaluation_state_open(&kept, &e, broken));
        CHECK_ERROR(w.c, L2L_ERROR_FORMAT, "attack 1 has no records");
        rewrite(state, broken, "images: ", "pictures: ");
        CHECK(!evaluation_state_open(&kept, &e, broken));
        CHECK_ERROR(w.c, L2L_ERROR_MISMATCH, "but in the file (none)");
        l2l_evaluation_end(&e);
    }
    l2l_model_free(m);
    remove(state);
    remove(broken);
    world_end(&w);
}

/* -- files ------------------------------------------------------------------------------------- */

/* What can be made can be saved and made again of its file: the ends of what is allowed. */
static void made_saved_and_opened(void)
{
    static const char file[] = "bin/options_file.safetensors";
    static const double widths[] = {1e-6, 0.0123456789, 1}, scales[] = {1e-30, 1e30};
    l2l_context *c = test_context(1);
    int k;
    for (k = 0; k < COUNT(widths); k++) {
        l2l_model_options o = l2l_model_default("smallcnn");
        l2l_model *m, *again;
        o.width_multiplier = widths[k] * (k == 2 ? 0.125 : 1);
        m = l2l_model_create(c, &o);
        if (!CHECK(m && l2l_model_save(m, file))) break;
        again = l2l_model_open(c, file);
        if (CHECK(again != NULL)) CHECK_SAME_MODEL(m, again);
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_model_free(again);
    }
    for (k = 0; k < COUNT(scales); k++) {
        l2l_learned_options o = l2l_learned_default();
        l2l_learned *m, *again;
        o.scale = scales[k];
        m = l2l_learned_create(c, &o);
        if (!CHECK(m && l2l_learned_save(m, file))) break;
        again = l2l_learned_open(c, file);
        CHECK(again != NULL);
        if (again) CHECK_NEAR(1, l2l_learned_info(again)->scale / scales[k], 1e-8);
        CHECK_OK(c);
        l2l_learned_free(m);
        l2l_learned_free(again);
    }
    remove(file);
    l2l_context_free(c);
}

int main(void)
{
    RUN(every_member, "every member of every options struct is checked and named");
    RUN(what_is_named, "errors name member, value and what is allowed");
    RUN(layer_flags, "unknown flags and modes are refused by layer and bit");
    RUN(extreme_sizes, "sizes at the ends of int are errors");
    RUN(own_outer_loss, "an outer loss of one's own is called, whatever method it is put into");
    RUN(cut_objective, "a cut objective trains phi alike whether line 14 shares its pass or not");
    RUN(gain_of_an_own_objective, "the gain is that of the objective, where somebody looks");
    RUN(arrays_by_image, "targets and starting points go with their images, in every batch");
    RUN(fingerprint, "a checkpoint of any other setting is refused by name");
    RUN(fingerprint_of_the_model, "a checkpoint of another model is refused by name");
    RUN(resumes, "the same settings go on with the same bits; T and epsilon of phi come back");
    RUN(numbers_of_a_checkpoint, "numbers that no checkpoint has are refused, nothing changes");
    RUN(older_versions, "checkpoints and states of older formats are refused, the format named");
    RUN(states_of_other_models, "the state of another model's evaluation is refused by name");
    RUN(made_saved_and_opened, "what can be made can be saved and opened");
    return test_end();
}
