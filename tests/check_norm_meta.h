/* The meta-gradient through a classifier with batch norm in evaluation mode against PyTorch's, of
   first and second order, in whatever build includes this. */
#ifndef L2LADV_TESTS_CHECK_NORM_META_H
#define L2LADV_TESTS_CHECK_NORM_META_H

#include "check_learned.h"

/* conv 3x3 to 4 + bias with batch norm (folded), tanh, 2x2 average, conv 3x3 to 5, batch norm as a
   layer of its own, tanh, linear. *user nonzero: ReLU in place of tanh, fused. */
static l2l_tensor *normed_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    const int relu = *(const int *)user;
    l2l_unit u = l2l_unit_default(4, 3);
    u.norm = "bn1";
    u.flags = relu ? L2L_RELU : 0;
    x = l2l_layer_unit(m, "conv1", x, &u);
    x = l2l_average_pool(c, relu ? x : l2l_tanh(c, x), 2, 2, 0);
    x = l2l_layer_conv(m, "conv2", x, 5, 3, 1, 1, L2L_NO_BIAS);
    x = l2l_layer_batch_norm(m, "bn2", x, relu ? L2L_RELU : 0);
    return l2l_layer_linear(m, "fc", relu ? x : l2l_tanh(c, x), 4, L2L_LAST);
}

static l2l_model *normed_model(l2l_context *c, int *relu) /* of golden.py: 2x6x6, 4 classes */
{
    static const double low[13] = {-0.6, -0.3, 0.5,  -0.3, -0.3, 0.5, -0.6,
                                   0.5,  -0.3, -0.3, 0.5,  -1.5, -1},
                        high[13] = {0.6, 0.3, 1.5, 0.3, 0.3, 1.5, 0.6,
                                    1.5, 0.3, 0.3, 1.5, 1.5, 1};
    l2l_model_options o = own_options("normed", normed_forward, 2, 6, 4);
    l2l_model *m;
    int i;
    o.user = relu;
    m = l2l_model_create(c, &o);
    if (!m || !CHECK_INT(13, l2l_model_parameters(m))) return m;
    for (i = 0; i < 13; i++) {
        int64_t n = l2l_count(l2l_model_parameter(m, i).value->shape);
        l2l_real *v = test_array(n);
        golden_fill(v, n, 13000 + (uint32_t)i, low[i], high[i]);
        CHECK(l2l_parameter_set(m, i, v));
        free(v);
    }
    return m;
}

/* One pass of Algorithm 1 on three images of seed 13020, w_t = t. */
static bool normed_pass(l2l_context *c, int *relu, l2l_learned *phi, spy *s)
{
    static const int labels[3] = {1, 3, 0};
    l2l_model *m = normed_model(c, relu);
    l2l_train_options o = l2l_train_default();
    l2l_real x[3 * 72];
    l2l_dataset d;
    l2l_trainer *t;
    l2l_progress p;
    bool ok = false;
    golden_fill(x, 3 * 72, 13020, 0.3, 0.7);
    o.method = l2l_method_rnn_adv(phi);
    o.method.maximizer = spy_maximizer(s, phi);
    CHECK_INT(L2L_EVALUATE, o.inner_mode);
    o.epsilon_warm_up = 0;
    o.T = 3;
    o.batch = 3;
    o.seed = 12345;
    if (m && l2l_dataset_from_arrays(c, x, labels, 3, 2, 6, 6, 4, &d)) {
        t = l2l_trainer_create(m, &d, &o);
        ok = t && l2l_train_step(t, x, labels, 3, &p);
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
    }
    l2l_model_free(m);
    return ok;
}

/* In double the exact gradient must be told from the first-order one, which is off by some 0.1%. */
static void golden_norm_meta_gradients(void)
{
    int i, j;
    for (i = 0; i < COUNT(golden_norm_meta); i++) {
        const golden_norm_meta_case *p = &golden_norm_meta[i];
        l2l_context *c = test_context(2);
        l2l_learned_options o = learned_options(p->cell, p->input, 1, p->raw_output, p->scale);
        spy *s = (spy *)test_memory(sizeof *s);
        l2l_learned *phi;
        int before = test_complaints, relu = p->relu;
        o.second_order = p->second_order != 0;
        phi = l2l_learned_create(c, &o);
        if (CHECK(phi != NULL) && CHECK_INT(p->parameters, l2l_learned_size(phi))) {
            golden_fill(l2l_learned_parameters(phi), p->parameters, (uint32_t)p->seed, -0.8, 0.8);
            if (CHECK(normed_pass(c, &relu, phi, s))) {
                l2l_real L = (l2l_real)s->L_phi, noise[600];
                double projection = 0, tolerance = TOLERANCE(2e-4, 1e-9);
                CHECK_GOLDEN(p->loss, &L, 1, TOLERANCE(1e-4, 1e-10));
                CHECK_GOLDEN(p->gradient, s->gradient, p->parameters, tolerance);
                golden_fill(noise, p->parameters, 77, -1, 1);
                for (j = 0; j < p->parameters; j++)
                    projection += (double)s->gradient[j] * (double)noise[j];
                if (p->second_order && sizeof(l2l_real) == 8) /* first: largest entry, projection */
                    CHECK(fabs(projection - p->first[4]) > 1e-6 * p->first[3]);
            }
        }
        CHECK_OK(c);
        if (test_complaints > before)
            printf("    case %d: relu %d, cell %d, input %d, raw %d, second order %d\n", i, p->relu,
                   p->cell, p->input, p->raw_output, p->second_order);
        free(s);
        l2l_learned_free(phi);
        l2l_context_free(c);
    }
}

HELPER void run_golden_norm_meta(void)
{
    RUN(golden_norm_meta_gradients,
        "meta-gradients through batch norm equal PyTorch's, both orders");
}

#endif
