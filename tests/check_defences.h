/* TRADES, RNN-TRADES and L2LDA against PyTorch, in whatever build includes this. */
#ifndef L2LADV_TESTS_CHECK_DEFENCES_H
#define L2LADV_TESTS_CHECK_DEFENCES_H

#include "check_norm_meta.h"
#include "../examples/l2lda.h"
#include "../examples/searches.h"

/* Largest magnitude, projection and first number of `value` as golden.py's brief() has them. */
static int check_brief(const char *what, const double golden[3], const l2l_real *v, int64_t n,
                       double tolerance)
{
    l2l_real *noise = test_array(n);
    double largest = 0, projection = 0, allowed = tolerance * golden[0];
    int before = test_complaints;
    int64_t i;
    golden_fill(noise, n, 77, -1, 1);
    for (i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)v[i]));
        projection += (double)v[i] * (double)noise[i];
    }
    free(noise);
    CHECK_NEAR(golden[0], largest, allowed);
    CHECK_NEAR(golden[1], projection, allowed * sqrt((double)n));
    CHECK_NEAR(golden[2], v[0], allowed);
    if (test_complaints > before) printf("    %s\n", what);
    return test_complaints == before;
}

/* -- TRADES ------------------------------------------------------------------------------------ */

/* The loss, its gradient through both arguments of KL, and the running statistics after the three
   passes, on a network with batch norm. Another order of the passes leaves other statistics. */
static void trades_loss(void)
{
    static const int labels[3] = {1, 3, 0};
    l2l_context *c = test_context(2);
    int relu = 0, i, n = 0;
    l2l_model *m = normed_model(c, &relu);
    l2l_outer o = l2l_outer_trades(2.5);
    l2l_tensor *theta[13], *found[13], *loss, *x, *adv;
    l2l_real value[200], got;
    CHECK_TEXT("trades", o.name);
    CHECK(!o.is_objective && !o.user);
    CHECK_NEAR(2.5, o.number[0], 0);
    if (!CHECK(m != NULL)) { CHECK_OK(c); l2l_context_free(c); return; }
    x = seeded(c, 3, 2, 6, 6, 14000, 0, 1);
    adv = seeded(c, 3, 2, 6, 6, 14001, 0, 1);
    l2l_set_recording(c, true);
    loss = o.loss(m, x, adv, labels, o.number);
    for (i = 0; i < 13; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        if (p.trainable) theta[n++] = p.value;
    }
    got = (l2l_real)l2l_item(c, loss);
    CHECK_GOLDEN(golden_trades_loss, &got, 1, TOLERANCE(1e-5, 1e-11));
    if (CHECK(loss && l2l_grad(c, loss, theta, n, found, L2L_FREE_GRAPH)))
        for (i = n = 0; i < 13; i++) {
            l2l_parameter p = l2l_model_parameter(m, i);
            int64_t count = l2l_count(p.value->shape);
            if (p.trainable) weight_permute(found[n]->data, value, found[n]->shape.c,
                                            found[n]->shape.w, found[n]->shape.n,
                                            found[n]->shape.h, 1);
            else CHECK(l2l_parameter_get(m, i, value));
            n += p.trainable;
            check_brief(p.name, golden_trades[i], value, count, TOLERANCE(2e-5, 1e-11));
        }
    l2l_set_recording(c, false);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* KL(f(x) || f(x')) has no gradient at x' = x, and has one after line 8's noise. */
static void kl_needs_noise(void)
{
    static const int labels[3] = {1, 3, 0};
    l2l_context *c = test_context(1);
    l2l_model *m = smooth_model(c);
    l2l_objective kl = l2l_objective_kl();
    int noisy, i;
    CHECK(kl.needs_clean);
    for (noisy = 0; noisy < 2 && CHECK(m != NULL); noisy++) {
        l2l_tensor *x = seeded(c, 3, 2, 6, 6, 11010, 0.3, 0.7), *clean, *z, *loss, *g = NULL;
        double largest = 0;
        clean = l2l_model_forward(m, x, L2L_EVALUATE);
        for (i = 0; noisy && i < 216; i++) x->data[i] += (l2l_real)(i % 3 - 1) / 1000;
        l2l_set_recording(c, true);
        z = l2l_model_forward(m, x, L2L_EVALUATE);
        loss = kl.loss(c, z, clean, labels, kl.user);
        CHECK(l2l_grad(c, loss, &x, 1, &g, 0));
        l2l_set_recording(c, false);
        for (i = 0; g && i < 216; i++) largest = fmax(largest, fabs((double)g->data[i]));
        if (noisy) CHECK(largest > 1e-6);
        else CHECK(largest == 0);
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* An outer loss that keeps x'_T before it asks another one. */
typedef struct keeper {
    l2l_outer inner;
    l2l_real adv[3 * 72];
} keeper;
static l2l_tensor *keeping_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                void *user)
{
    keeper *k = (keeper *)user;
    l2l_to_nchw(l2l_model_context(m), adv, k->adv);
    return k->inner.loss(m, x, adv, labels, k->inner.user ? k->inner.user : k->inner.number);
}

/* A whole step of TRADES on the network with batch norm: x'_T after three sign steps on KL in
   evaluation mode, the loss, theta after SGD. Near the start q - p cancels, so that float and double
   see other signs: only in double. In float: the same up to some pixels. */
static void trades_step(void)
{
    static const int labels[3] = {1, 3, 0};
    l2l_context *c = test_context(2);
    int relu = 0, i, off = 0;
    l2l_model *m = normed_model(c, &relu);
    l2l_train_options o = l2l_train_default();
    keeper k;
    l2l_real x[3 * 72], theta[180], got;
    l2l_dataset d;
    l2l_trainer *t = NULL;
    l2l_progress p;
    memset(&k, 0, sizeof k);
    golden_fill(x, 3 * 72, 14000, 0, 1);
    o.method = l2l_method_trades(2.5);
    CHECK_TEXT("trades", o.method.name);
    CHECK_INT(L2L_START_NORMAL, o.method.start);
    CHECK_TEXT("kl", o.method.objective.name);
    k.inner = o.method.outer;
    o.method.outer.loss = keeping_loss;
    o.method.outer.user = &k;
    o.epsilon = 0.1;
    o.epsilon_warm_up = 0;
    o.step_size = 0.04;
    o.T = 3;
    o.batch = 3;
    o.seed = 12345;
    o.optimizer = l2l_sgd_default();
    o.optimizer.rate = 0.5;
    o.optimizer.momentum = 0;
    if (CHECK(m && l2l_dataset_from_arrays(c, x, labels, 3, 2, 6, 6, 4, &d))) {
        t = l2l_trainer_create(m, &d, &o);
        CHECK(t && l2l_train_step(t, x, labels, 3, &p));
        got = (l2l_real)p.loss;
        if (sizeof got == 8) {
            CHECK_GOLDEN(golden_trades_step_adv, k.adv, 216, 1e-10);
            CHECK_GOLDEN(golden_trades_step_loss, &got, 1, 1e-10);
            CHECK(l2l_parameter_get(m, 11, theta));
            CHECK_GOLDEN(golden_trades_step_theta, theta, 180, 1e-9);
        } else {
            for (i = 0; i < 24; i++)
                off += fabs((double)k.adv[i * 215 / 23] - golden_trades_step_adv[3 + i]) > 1e-5;
            CHECK(off <= 2);
            CHECK_NEAR(golden_trades_step_loss[1], got, 0.02);
        }
        CHECK(p.accuracy >= 0 && p.accuracy <= 1); /* noted by the loss that is asked             */
        CHECK_NEAR(0, p.gain, 0);                  /* nobody looks at x'_T                        */
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* The meta-gradient with KL as the inner objective, of first and second order, while line 14 moves
   batch norm's statistics; from a uniform start, where KL is not small. */
static void rnn_trades_gradients(void)
{
    static const int labels[3] = {1, 3, 0};
    int i;
    for (i = 0; i < COUNT(golden_rnn_trades); i++) {
        const golden_rnn_trades_case *p = &golden_rnn_trades[i];
        l2l_context *c = test_context(2);
        l2l_learned_options lo = learned_options(p->cell, p->input, 1, p->raw_output, p->scale);
        spy *s = (spy *)test_memory(sizeof *s);
        int relu = 0, before = test_complaints;
        l2l_model *m = normed_model(c, &relu);
        l2l_train_options o = l2l_train_default();
        l2l_learned *phi;
        l2l_real x[3 * 72], L;
        l2l_dataset d;
        l2l_trainer *t = NULL;
        l2l_progress progress;
        lo.second_order = p->second_order != 0;
        phi = l2l_learned_create(c, &lo);
        golden_fill(x, 3 * 72, 13020, 0.3, 0.7);
        if (CHECK(m && phi) && CHECK_INT(p->parameters, l2l_learned_size(phi)) &&
            CHECK(l2l_dataset_from_arrays(c, x, labels, 3, 2, 6, 6, 4, &d))) {
            golden_fill(l2l_learned_parameters(phi), p->parameters, (uint32_t)p->seed, -0.8, 0.8);
            o.method = l2l_method_rnn_trades(phi, 6);
            CHECK_TEXT("rnn-trades", o.method.name);
            CHECK_INT(L2L_START_NORMAL, o.method.start);
            CHECK_TEXT("kl", o.method.objective.name);
            CHECK_NEAR(6, o.method.outer.number[0], 0);
            o.method.start = L2L_START_UNIFORM;
            o.method.maximizer = spy_maximizer(s, phi);
            o.epsilon_warm_up = 0;
            o.T = 3;
            o.batch = 3;
            o.seed = 12345;
            t = l2l_trainer_create(m, &d, &o);
            CHECK(t && l2l_train_step(t, x, labels, 3, &progress));
            L = (l2l_real)s->L_phi;
            CHECK_GOLDEN(p->loss, &L, 1, TOLERANCE(1e-4, 1e-10));
            CHECK_GOLDEN(p->gradient, s->gradient, p->parameters, TOLERANCE(5e-4, 1e-9));
            CHECK(fabs(progress.gain) > 0 && progress.accuracy >= 0);
            l2l_trainer_free(t);
            l2l_dataset_free(&d);
        }
        CHECK_OK(c);
        if (test_complaints > before) printf("    case %d\n", i);
        free(s);
        l2l_learned_free(phi);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* -- L2LDA ------------------------------------------------------------------------------------- */

HELPER l2lda *small_generator(l2l_context *c, double rate)
{
    l2lda_options o = l2lda_default();
    o.height = o.width = 8;
    o.classes = 5;
    o.width_multiplier = 0.125;
    o.diversity = 0.5;
    o.optimizer.rate = rate;
    o.seed = 3;
    return l2lda_create(c, &o);
}

/* Parameter i of the generator as golden.py makes it. */
static l2l_real *generator_numbers(int i)
{
    const golden_generator_tensor *p = &golden_generator[i];
    l2l_real *v = test_array(p->count);
    golden_fill(v, p->count, GOLDEN_GENERATOR_SEED + (uint32_t)i, p->low, p->high);
    return v;
}

static l2lda *seeded_generator(l2l_context *c)
{
    l2lda_options o = l2lda_default();
    l2lda *g;
    int i;
    o.height = o.width = 8;
    o.classes = 5;
    o.width_multiplier = 0.125;
    o.diversity = 0.5;
    o.optimizer.rate = 16; /* the step is then well above the parameters' rounding */
    o.optimizer.momentum = o.optimizer.weight_decay = o.optimizer.clip = 0;
    g = l2lda_create(c, &o);
    if (!CHECK(g != NULL) ||
        !CHECK_INT(COUNT(golden_generator), l2l_model_parameters(l2lda_network(g))))
        return g;
    for (i = 0; i < COUNT(golden_generator); i++) {
        const golden_generator_tensor *p = &golden_generator[i];
        l2l_parameter q = l2l_model_parameter(l2lda_network(g), i);
        l2l_real *v = generator_numbers(i);
        CHECK_TEXT(p->name, q.name);
        if (CHECK_INT(p->count, l2l_count(q.value->shape)))
            CHECK(l2l_parameter_set(l2lda_network(g), i, v));
        free(v);
    }
    return g;
}

static l2l_model *generator_classifier(l2l_context *c)
{
    static const double bound[] = {0.8, 1, 2.5, 1};
    l2l_model_options o = own_options("smooth", smooth_forward, 1, 8, 5);
    l2l_model *m = l2l_model_create(c, &o);
    if (m) seed_parameters(m, 15000, bound);
    return m;
}

/* One training step: the gradient of Loss_G by autograd through the three unrolled steps, with class-
   conditional batch norm in training mode and its running statistics; the classifier's loss on the
   three copies and its step. Leaving out the diversity or a step would show. */
static void generator_step(void)
{
    static const int labels[3] = {2, 0, 4};
    l2l_context *c = test_context(2);
    l2lda *g = seeded_generator(c);
    l2l_model *m = generator_classifier(c), *net = l2lda_network(g);
    l2l_train_options o = l2l_train_default();
    l2l_real x[3 * 64], loss, fc[5 * 80];
    l2l_dataset d;
    l2l_trainer *t = NULL;
    l2l_progress p;
    int i;
    int64_t j;
    golden_fill(x, 3 * 64, 15010, 0, 1);
    o.method = l2lda_method(g);
    CHECK_TEXT("l2lda", o.method.name);
    CHECK_INT(L2L_START_CLEAN, o.method.start);
    o.epsilon = 0.3;
    o.epsilon_warm_up = 0;
    o.T = 3;
    o.batch = 3;
    o.seed = 777;
    o.optimizer = l2l_sgd_default();
    o.optimizer.rate = 0.25;
    o.optimizer.momentum = 0;
    if (CHECK(m && g && l2l_dataset_from_arrays(c, x, labels, 3, 1, 8, 8, 5, &d))) {
        t = l2l_trainer_create(m, &d, &o);
        CHECK(t && l2l_train_step(t, x, labels, 3, &p));
        loss = (l2l_real)p.loss;
        CHECK_GOLDEN(golden_generator_f_loss, &loss, 1, TOLERANCE(2e-5, 1e-10));
        CHECK_NEAR(golden_generator_right[3] / 3, p.accuracy, 1e-12);
        CHECK(l2l_parameter_get(m, 2, fc));
        CHECK_GOLDEN(golden_generator_f, fc, 400, TOLERANCE(2e-5, 1e-10));
        for (i = 0; i < COUNT(golden_generator); i++) {
            const golden_generator_tensor *q = &golden_generator[i];
            l2l_real *v = test_array(q->count), *before = generator_numbers(i);
            CHECK(l2l_parameter_get(net, i, v));
            for (j = 0; j < q->count && l2l_model_parameter(net, i).trainable; j++)
                v[j] = (l2l_real)(((double)before[j] - (double)v[j]) / 16);
            check_brief(q->name, q->value, v, q->count, TOLERANCE(1e-4, 1e-8));
            free(before);
            free(v);
        }
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    l2lda_free(g);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* As an attack: running statistics in place of the batch's. */
static void generator_evaluation(void)
{
    static const int labels[3] = {2, 0, 4};
    l2l_context *c = test_context(2);
    l2lda *g = seeded_generator(c);
    l2l_model *m = generator_classifier(c);
    l2l_attack a = l2lda_attack(g, 0.3);
    l2l_real x[3 * 64], adv[3 * 64];
    l2l_record r[3];
    golden_fill(x, 3 * 64, 15010, 0, 1);
    CHECK_TEXT("l2lda", a.name);
    CHECK_INT(10, a.steps);
    CHECK_INT(L2L_START_CLEAN, a.start);
    a.steps = 3;
    a.last_iterate = true;
    a.seed = 5;
    if (CHECK(m && g && l2l_attack_run(m, &a, x, labels, 3, adv, r)))
        CHECK_GOLDEN(golden_generator_attack, adv, 192, TOLERANCE(1e-5, 1e-10));
    CHECK_OK(c);
    l2lda_free(g);
    l2l_model_free(m);
    l2l_context_free(c);
}

HELPER void run_golden_defences(void)
{
    RUN(trades_loss, "TRADES' loss, gradient and running statistics equal PyTorch's");
    RUN(kl_needs_noise, "KL's gradient is zero at x' = x and is not after noise");
    RUN(trades_step, "a whole step of TRADES equals PyTorch's");
    RUN(rnn_trades_gradients, "RNN-TRADES' meta-gradients equal PyTorch's, both orders");
    RUN(generator_step, "a step of L2LDA equals PyTorch's through the unrolled steps");
    RUN(generator_evaluation, "the generator in evaluation mode equals PyTorch's");
}

#endif
