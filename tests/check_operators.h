/* Every operation and its VJP against PyTorch's values, in whatever build includes this. */
#ifndef L2LADV_TESTS_CHECK_OPERATORS_H
#define L2LADV_TESTS_CHECK_OPERATORS_H

#include "support.h"

static l2l_context *c; /* of all tests in this program */

/* Sums of a few hundred products: float is off by 1e-6 of the largest entry or so. */
#define CLOSE TOLERANCE(1e-5, 1e-10)
/* exp, log and the like may be approximations of their own. */
#define FUNCTION TOLERANCE(4e-6, 1e-10)

typedef struct scope {
    l2l_mark mark;
} scope;
static scope scope_begin(void)
{
    scope s;
    s.mark = l2l_mark_here(c);
    l2l_set_recording(c, true);
    return s;
}
static void scope_end(scope s)
{
    CHECK_OK(c);
    l2l_set_recording(c, false);
    l2l_release(c, s.mark);
}

/* Gradients of y with the given cotangent; all NULL after an error. */
static void vjp(l2l_tensor *y, l2l_tensor *dy, l2l_tensor **in, int n, l2l_tensor **g)
{
    int i;
    for (i = 0; i < n; i++) g[i] = NULL;
    if (!l2l_vjp(c, y, dy, in, n, g, 0))
        for (i = 0; i < n; i++) g[i] = NULL;
}

static void golden_convolutions(void)
{
    int i;
    for (i = 0; i < COUNT(golden_conv); i++) {
        const golden_conv_case *p = &golden_conv[i];
        uint32_t s = (uint32_t)i;
        scope q = scope_begin();
        l2l_conv_options o = l2l_conv_default();
        l2l_tensor *in[3], *g[3], *y, *dy;
        in[0] = seeded(c, p->n, p->c, p->h, p->w, 1000 + s, -1, 1);
        in[1] = seeded_weight(c, p->k, p->c, p->kernel, p->kernel, 1100 + s, -1, 1);
        in[2] = o.bias = seeded_vector(c, p->k, 1200 + s, -1, 1);
        o.stride = p->stride;
        o.padding = p->padding;
        y = l2l_conv(c, in[0], in[1], &o);
        if (!CHECK_TENSOR(c, p->y, y, CLOSE)) {
            printf("    in case %d: x %dx%dx%dx%d, %d outputs, kernel %d, stride %d, padding %d\n", i,
                   p->n, p->c, p->h, p->w, p->k, p->kernel, p->stride, p->padding);
            scope_end(q);
            continue;
        }
        dy = seeded(c, p->n, p->k, y->shape.h, y->shape.w, 1300 + s, -1, 1);
        vjp(y, dy, in, 3, g);
        if (!(CHECK_TENSOR(c, p->dx, g[0], CLOSE) & CHECK_WEIGHT(c, p->dw, g[1], CLOSE) &
              CHECK_TENSOR(c, p->db, g[2], CLOSE)))
            printf("    in case %d: x %dx%dx%dx%d, %d outputs, kernel %d, stride %d, padding %d\n", i,
                   p->n, p->c, p->h, p->w, p->k, p->kernel, p->stride, p->padding);
        CHECK_TENSOR(c, p->dx, l2l_conv_input_grad(c, dy, in[1], in[0]->shape, p->stride, p->padding),
                     CLOSE);
        CHECK_WEIGHT(c, p->dw, l2l_conv_weight_grad(c, in[0], dy, in[1]->shape, p->stride, p->padding),
                     CLOSE);
        scope_end(q);
    }
}

static void golden_linear_layer(void)
{
    scope q = scope_begin();
    l2l_conv_options o = l2l_conv_default();
    l2l_tensor *in[3], *g[3], *y;
    in[0] = seeded(c, 3, 4, 5, 6, 1, -1, 1);
    in[1] = seeded_weight(c, 7, 4, 5, 6, 2, -1, 1);
    in[2] = o.bias = seeded_vector(c, 7, 3, -1, 1);
    y = l2l_linear(c, in[0], in[1], &o);
    CHECK_TENSOR(c, golden_linear_y, y, CLOSE);
    vjp(y, seeded(c, 3, 7, 1, 1, 4, -1, 1), in, 3, g);
    CHECK_TENSOR(c, golden_linear_dx, g[0], CLOSE);
    CHECK_WEIGHT(c, golden_linear_dw, g[1], CLOSE);
    CHECK_TENSOR(c, golden_linear_db, g[2], CLOSE);
    scope_end(q);
}

static l2l_tensor *elementwise(int i, l2l_tensor *x)
{
    switch (i) {
    case 0: return l2l_relu(c, x);
    case 1: return l2l_leaky_relu(c, x, 0.1);
    case 2: return l2l_tanh(c, x);
    case 3: return l2l_sigmoid(c, x);
    case 4: return l2l_exp(c, x);
    case 5: return l2l_log(c, x);
    case 6: return l2l_power(c, x, 2.5);
    case 7: return l2l_abs(c, x);
    case 8: return l2l_clamp(c, x, -0.3, 0.4);
    default: return l2l_affine(c, x, 2.5, -0.75);
    }
}

static void golden_elementwise_functions(void)
{
    int i;
    scope q;
    l2l_tensor *x, *y, *g, *z;
    for (i = 0; i < COUNT(golden_elementwise); i++) {
        const golden_elementwise_case *p = &golden_elementwise[i];
        q = scope_begin();
        x = seeded(c, 2, 3, 7, 5, 2000 + (uint32_t)i, p->low, p->high);
        y = elementwise(i, x);
        vjp(y, seeded(c, 2, 3, 7, 5, 2100 + (uint32_t)i, -1, 1), &x, 1, &g);
        if (!(CHECK_TENSOR(c, p->y, y, FUNCTION) & CHECK_TENSOR(c, p->dx, g, FUNCTION)))
            printf("    in %s\n", p->name);
        scope_end(q);
    }
    q = scope_begin();
    z = seeded(c, 2, 3, 4, 5, 2200, -0.5, 1.5);
    x = seeded(c, 2, 3, 4, 5, 2201, 0, 1);
    y = l2l_project(c, z, x, 0.25);
    vjp(y, seeded(c, 2, 3, 4, 5, 2202, -1, 1), &z, 1, &g);
    CHECK_TENSOR(c, golden_project_y, y, CLOSE);
    CHECK_TENSOR(c, golden_project_dx, g, CLOSE);
    scope_end(q);
}

static void golden_pools(void)
{
    int i;
    scope q;
    l2l_tensor *x, *y, *g;
    for (i = 0; i < COUNT(golden_pool); i++) {
        const golden_pool_case *p = &golden_pool[i];
        q = scope_begin();
        x = seeded(c, p->n, p->c, p->h, p->w, 3000 + (uint32_t)i, -1, 1);
        y = p->maximum ? l2l_max_pool(c, x, p->window, p->stride, p->padding)
                       : l2l_average_pool(c, x, p->window, p->stride, p->padding);
        if (CHECK_TENSOR(c, p->y, y, CLOSE)) {
            vjp(y, seeded(c, p->n, p->c, y->shape.h, y->shape.w, 3100 + (uint32_t)i, -1, 1), &x, 1, &g);
            CHECK_TENSOR(c, p->dx, g, CLOSE);
        }
        if (test_complaints) printf("    in case %d: window %d, stride %d, padding %d\n", i, p->window,
                                    p->stride, p->padding);
        scope_end(q);
    }
    q = scope_begin();
    x = seeded(c, 2, 6, 5, 7, 3200, -1, 1);
    y = l2l_global_average_pool(c, x);
    vjp(y, seeded(c, 2, 6, 1, 1, 3201, -1, 1), &x, 1, &g);
    CHECK_TENSOR(c, golden_global_average_y, y, CLOSE);
    CHECK_TENSOR(c, golden_global_average_dx, g, CLOSE);
    scope_end(q);
}

static void golden_batch_norm(void)
{
    int training;
    for (training = 0; training < 2; training++) {
        scope q = scope_begin();
        l2l_batch_norm_options o = l2l_batch_norm_default();
        l2l_tensor *in[3], *g[3], *y, *dy = seeded(c, 4, 6, 5, 3, 4005, -1, 1);
        in[0] = seeded(c, 4, 6, 5, 3, 4004, -2, 3);
        in[1] = o.gamma = seeded_vector(c, 6, 4000, 0.5, 1.5);
        in[2] = o.beta = seeded_vector(c, 6, 4001, -1, 1);
        o.running_mean = seeded_vector(c, 6, 4002, -1, 1);
        o.running_variance = seeded_vector(c, 6, 4003, 0.5, 2);
        CHECK_NEAR(1e-5, o.epsilon, 1e-12);
        CHECK_NEAR(0.1, o.momentum, 1e-12);
        o.training = training != 0;
        o.update = true;
        y = l2l_batch_norm(c, in[0], &o);
        vjp(y, dy, in, 3, g);
        CHECK_TENSOR(c, training ? golden_bn_train_y : golden_bn_eval_y, y, CLOSE);
        CHECK_TENSOR(c, training ? golden_bn_train_dx : golden_bn_eval_dx, g[0], CLOSE);
        CHECK_TENSOR(c, training ? golden_bn_train_dgamma : golden_bn_eval_dgamma, g[1], CLOSE);
        CHECK_TENSOR(c, training ? golden_bn_train_dbeta : golden_bn_eval_dbeta, g[2], CLOSE);
        if (training) { /* a second batch; then one that must leave the statistics alone */
            l2l_batch_norm(c, seeded(c, 4, 6, 5, 3, 4006, 0, 1), &o);
            o.update = false;
            l2l_batch_norm(c, in[0], &o);
            CHECK_TENSOR(c, golden_bn_running_mean, o.running_mean, CLOSE);
            CHECK_TENSOR(c, golden_bn_running_variance, o.running_variance, CLOSE);
        }
        scope_end(q);
    }
}

static const int loss_labels[6] = {3, 0, 9, 5, 5, 1};

static void golden_losses(void)
{
    scope q = scope_begin();
    l2l_tensor *in[2], *g[2], *y, *dy = seeded(c, 6, 1, 1, 1, 5003, -1, 1);
    in[0] = seeded(c, 6, 10, 1, 1, 5000, -4, 4);
    in[1] = seeded(c, 6, 10, 1, 1, 5001, -4, 4);
    y = l2l_softmax(c, in[0]);
    vjp(y, seeded(c, 6, 10, 1, 1, 5002, -1, 1), in, 1, g);
    CHECK_TENSOR(c, golden_softmax_y, y, FUNCTION);
    CHECK_TENSOR(c, golden_softmax_dx, g[0], FUNCTION);
    y = l2l_log_softmax(c, in[0]);
    vjp(y, seeded(c, 6, 10, 1, 1, 5002, -1, 1), in, 1, g);
    CHECK_TENSOR(c, golden_log_softmax_y, y, FUNCTION);
    CHECK_TENSOR(c, golden_log_softmax_dx, g[0], FUNCTION);
    y = l2l_cross_entropy(c, in[0], loss_labels);
    vjp(y, dy, in, 1, g);
    CHECK_TENSOR(c, golden_cross_entropy_y, y, FUNCTION);
    CHECK_TENSOR(c, golden_cross_entropy_dx, g[0], FUNCTION);
    y = l2l_kl_divergence(c, in[0], in[1]);
    vjp(y, dy, in, 2, g);
    CHECK_TENSOR(c, golden_kl_y, y, FUNCTION);
    CHECK_TENSOR(c, golden_kl_dp, g[0], FUNCTION);
    CHECK_TENSOR(c, golden_kl_dq, g[1], FUNCTION);
    y = l2l_margin(c, in[0], loss_labels);
    vjp(y, dy, in, 1, g);
    CHECK_TENSOR(c, golden_margin_y, y, FUNCTION);
    CHECK_TENSOR(c, golden_margin_dx, g[0], FUNCTION);
    scope_end(q);
}

/* Logits whose sum with ln 3 is rounded to themselves, three of them level. */
static void large_logits(void)
{
    static const double sizes[] = {1e10, 1e18, 3e38, -1e18};
    static const int labels[2] = {1, 3};
    const double none = -HUGE_VAL;
    int i, j;
    for (i = 0; i < COUNT(sizes); i++) {
        scope q = scope_begin();
        l2l_tensor *z = l2l_full(c, l2l_shape_of(2, 1, 1, 4), sizes[i]), *y[4], *g, *other;
        z->data[3] = z->data[7] = (l2l_real)(sizes[i] > 0 ? -sizes[i] : 2 * sizes[i]);
        other = l2l_affine(c, z, 0.5, 0);
        l2l_set_recording(c, true);
        y[0] = l2l_softmax(c, z);
        y[1] = l2l_log_softmax(c, z);
        y[2] = l2l_cross_entropy(c, z, labels);
        y[3] = l2l_kl_divergence(c, z, other);
        CHECK(l2l_grad(c, l2l_sum(c, y[2]), &z, 1, &g, 0));
        for (j = 0; j < 3; j++) {
            CHECK_NEAR(1.0 / 3, (double)y[0]->data[j], 1e-7);
            CHECK_NEAR(-log(3), (double)y[1]->data[j], 1e-6);
            CHECK_NEAR(1.0 / 3 - (j == 1), (double)g->data[j], 1e-7);
        }
        CHECK_NEAR(0, (double)y[0]->data[3], 0);
        CHECK(none <= (double)y[1]->data[3] && (double)y[1]->data[3] < -1e9);
        CHECK_NEAR(log(3), (double)y[2]->data[0], 1e-6);
        CHECK((double)y[2]->data[1] > 1e9);
        CHECK_NEAR(0, (double)y[3]->data[0], 1e-6);
        CHECK_OK(c);
        l2l_set_recording(c, false);
        scope_end(q);
    }
}

static void golden_shapes(void)
{
    scope q = scope_begin();
    l2l_tensor *in[2], *g[2], *y[3], *dy = seeded(c, 3, 4, 5, 6, 6002, -1, 1);
    int i;
    in[0] = seeded(c, 3, 4, 5, 6, 6000, -1, 1);
    in[1] = seeded_vector(c, 4, 6001, -1, 1);
    CHECK_TENSOR(c, golden_sum_to_c, l2l_sum_to(c, in[0], l2l_shape_of(1, 1, 1, 4)), CLOSE);
    CHECK_TENSOR(c, golden_sum_to_n, l2l_sum_to(c, in[0], l2l_shape_of(3, 1, 1, 1)), CLOSE);
    CHECK_TENSOR(c, golden_sum_to_nhw, l2l_sum_to(c, in[0], l2l_shape_of(3, 5, 6, 1)), CLOSE);
    CHECK_TENSOR(c, golden_sum, l2l_sum(c, in[0]), CLOSE * 10);
    CHECK_TENSOR(c, golden_mean, l2l_mean(c, in[0]), CLOSE * 10);
    y[0] = l2l_add(c, in[0], in[1]);
    y[1] = l2l_sub(c, in[0], in[1]);
    y[2] = l2l_mul(c, in[0], in[1]);
    for (i = 0; i < 3; i++) {
        static const double *const value[] = {golden_add_y, golden_sub_y, golden_mul_y};
        static const double *const da[] = {golden_add_da, golden_sub_da, golden_mul_da};
        static const double *const db[] = {golden_add_db, golden_sub_db, golden_mul_db};
        vjp(y[i], dy, in, 2, g);
        CHECK_TENSOR(c, value[i], y[i], CLOSE);
        CHECK_TENSOR(c, da[i], g[0], CLOSE);
        CHECK_TENSOR(c, db[i], g[1], CLOSE);
    }
    scope_end(q);
}

/* g = dloss/dleaves, h = d(sum of <g_i, noise_i>)/dleaves; weight[i]: compare as a weight. */
static void check_hessian(l2l_tensor *loss, l2l_tensor **leaves, int n, const int *weight,
                          uint32_t seed, const double *const *golden_g,
                          const double *const *golden_h)
{
    l2l_tensor *g[8], *h[8], *s = NULL;
    int i;
    if (!l2l_grad(c, loss, leaves, n, g, L2L_CREATE_GRAPH)) { CHECK_OK(c); return; }
    for (i = 0; i < n; i++) {
        l2l_shape t = leaves[i]->shape;
        l2l_tensor *v = weight[i]
                            ? seeded_weight(c, t.c, t.w, t.n, t.h, seed + (uint32_t)i, -1, 1)
                            : seeded(c, t.n, t.c, t.h, t.w, seed + (uint32_t)i, -1, 1);
        l2l_tensor *p = inner_product(c, g[i], v);
        s = s ? l2l_add(c, s, p) : p;
    }
    if (!l2l_grad(c, s, leaves, n, h, 0)) { CHECK_OK(c); return; }
    for (i = 0; i < n; i++) {
        golden_tensor(__FILE__, __LINE__, "gradient", c, golden_g[i], g[i], weight[i], CLOSE);
        if (!golden_tensor(__FILE__, __LINE__, "Hessian-vector product", c, golden_h[i], h[i],
                           weight[i], CLOSE * 3))
            printf("    for leaf %d\n", i);
    }
}

static void golden_hessian_a(void)
{
    static const int labels[] = {1, 4, 0}, weight[] = {0, 1, 0, 1, 0};
    static const double *const g[] = {golden_hess_a_g_x, golden_hess_a_g_w, golden_hess_a_g_b,
                                      golden_hess_a_g_w2, golden_hess_a_g_b2};
    static const double *const h[] = {golden_hess_a_h_x, golden_hess_a_h_w, golden_hess_a_h_b,
                                      golden_hess_a_h_w2, golden_hess_a_h_b2};
    scope q = scope_begin();
    l2l_conv_options conv = l2l_conv_default(), linear = l2l_conv_default();
    l2l_tensor *in[5], *y;
    in[0] = seeded(c, 3, 2, 9, 9, 7000, -1, 1);
    in[1] = seeded_weight(c, 4, 2, 3, 3, 7001, -1, 1);
    in[2] = conv.bias = seeded_vector(c, 4, 7002, -1, 1);
    in[3] = seeded_weight(c, 5, 4, 3, 3, 7003, -1, 1);
    in[4] = linear.bias = seeded_vector(c, 5, 7004, -1, 1);
    y = l2l_max_pool(c, l2l_tanh(c, l2l_conv(c, in[0], in[1], &conv)), 2, 2, 0);
    y = l2l_mean(c, l2l_cross_entropy(c, l2l_linear(c, y, in[3], &linear), labels));
    CHECK_TENSOR(c, golden_hess_a_loss, y, CLOSE);
    check_hessian(y, in, 5, weight, 7010, g, h);
    scope_end(q);
}

static void golden_hessian_b(void)
{
    static const int labels[] = {1, 3, 0, 2}, weight[] = {0, 1, 0, 0, 1, 0};
    static const double *const g[] = {golden_hess_b_g_x,    golden_hess_b_g_w,  golden_hess_b_g_gamma,
                                      golden_hess_b_g_beta, golden_hess_b_g_w2, golden_hess_b_g_b2};
    static const double *const h[] = {golden_hess_b_h_x,    golden_hess_b_h_w,  golden_hess_b_h_gamma,
                                      golden_hess_b_h_beta, golden_hess_b_h_w2, golden_hess_b_h_b2};
    scope q = scope_begin();
    l2l_conv_options conv = l2l_conv_default(), linear = l2l_conv_default();
    l2l_batch_norm_options o = l2l_batch_norm_default();
    l2l_tensor *in[6], *y;
    in[0] = seeded(c, 4, 2, 6, 6, 7100, -1, 1);
    in[1] = seeded_weight(c, 3, 2, 3, 3, 7101, -1, 1);
    in[2] = o.gamma = seeded_vector(c, 3, 7102, 0.5, 1.5);
    in[3] = o.beta = seeded_vector(c, 3, 7103, -1, 1);
    in[4] = seeded_weight(c, 4, 3, 1, 1, 7104, -3, 3);
    in[5] = linear.bias = seeded_vector(c, 4, 7105, -1, 1);
    o.running_mean = l2l_zeros(c, l2l_shape_of(1, 1, 1, 3));
    o.running_variance = l2l_full(c, l2l_shape_of(1, 1, 1, 3), 1);
    o.training = true;
    conv.padding = 1;
    y = l2l_sigmoid(c, l2l_batch_norm(c, l2l_conv(c, in[0], in[1], &conv), &o));
    y = l2l_linear(c, l2l_global_average_pool(c, y), in[4], &linear);
    y = l2l_sum(c, l2l_cross_entropy(c, y, labels));
    CHECK_TENSOR(c, golden_hess_b_loss, y, CLOSE);
    check_hessian(y, in, 6, weight, 7110, g, h);
    scope_end(q);
}

/* conv, batch norm + 1x1 conv + ReLU, 2x2 average, linear: c in evaluation, d in training mode. */
static void golden_norm_hessian(int training)
{
    static const int labels[] = {1, 3, 0, 2}, weight[] = {0, 1, 0, 0, 1, 1, 0};
    static const double *const g[2][7] = {
        {golden_hess_c_g_x, golden_hess_c_g_w, golden_hess_c_g_gamma, golden_hess_c_g_beta,
         golden_hess_c_g_wr, golden_hess_c_g_w2, golden_hess_c_g_b2},
        {golden_hess_d_g_x, golden_hess_d_g_w, golden_hess_d_g_gamma, golden_hess_d_g_beta,
         golden_hess_d_g_wr, golden_hess_d_g_w2, golden_hess_d_g_b2}};
    static const double *const h[2][7] = {
        {golden_hess_c_h_x, golden_hess_c_h_w, golden_hess_c_h_gamma, golden_hess_c_h_beta,
         golden_hess_c_h_wr, golden_hess_c_h_w2, golden_hess_c_h_b2},
        {golden_hess_d_h_x, golden_hess_d_h_w, golden_hess_d_h_gamma, golden_hess_d_h_beta,
         golden_hess_d_h_wr, golden_hess_d_h_w2, golden_hess_d_h_b2}};
    const uint32_t s = training ? GOLDEN_HESS_D_SEED : GOLDEN_HESS_C_SEED;
    scope q = scope_begin();
    l2l_conv_options conv = l2l_conv_default(), side = l2l_conv_default(),
                     linear = l2l_conv_default();
    l2l_batch_norm_options o = l2l_batch_norm_default();
    l2l_tensor *in[7], *y;
    in[0] = seeded(c, 4, 2, 6, 6, s, -1, 1);
    in[1] = seeded_weight(c, 3, 2, 3, 3, s + 1, -1, 1);
    in[2] = o.gamma = seeded_vector(c, 3, s + 2, 0.5, 1.5);
    in[3] = o.beta = seeded_vector(c, 3, s + 3, -0.3, 0.3);
    o.running_mean = seeded_vector(c, 3, s + 4, -0.3, 0.3);
    o.running_variance = seeded_vector(c, 3, s + 5, 0.5, 1.5);
    in[4] = seeded_weight(c, 3, 2, 1, 1, s + 6, -1, 1);
    in[5] = seeded_weight(c, 4, 3, 3, 3, s + 7, -1, 1);
    in[6] = linear.bias = seeded_vector(c, 4, s + 8, -1, 1);
    o.training = training != 0;
    o.relu = true;
    o.residual = l2l_conv(c, in[0], in[4], &side);
    conv.padding = 1;
    y = l2l_batch_norm(c, l2l_conv(c, in[0], in[1], &conv), &o);
    y = l2l_linear(c, l2l_average_pool(c, y, 2, 2, 0), in[5], &linear);
    y = l2l_sum(c, l2l_cross_entropy(c, y, labels));
    CHECK_TENSOR(c, training ? golden_hess_d_loss : golden_hess_c_loss, y, CLOSE);
    check_hessian(y, in, 7, weight, s + 10, g[training], h[training]);
    scope_end(q);
}

static void golden_hessian_c(void) { golden_norm_hessian(0); }
static void golden_hessian_d(void) { golden_norm_hessian(1); }

/* o.scale etc. of the fused convolution against the same made of single operations. */
static void fused_convolution_case(int stride, int padding, unsigned parts, int h, int w)
{
    scope q = scope_begin();
    l2l_conv_options o = l2l_conv_default(), plain = l2l_conv_default();
    l2l_tensor *in[7], *a[7], *b[7], *x, *wt, *y, *z, *dy;
    int n = 2, k = 11, ch = 5, oh = (h + 2 * padding - 3) / stride + 1,
        ow = (w + 2 * padding - 3) / stride + 1, inputs = 2, i;
    in[0] = x = seeded(c, n, ch, h, w, 20000, -1, 1);
    in[1] = wt = seeded_weight(c, k, ch, 3, 3, 20001, -1, 1);
    if (parts & 1) in[inputs++] = o.bias = seeded_vector(c, k, 20002, -1, 1);
    if (parts & 2) in[inputs++] = o.scale = seeded_vector(c, k, 20003, -2, 2);
    if (parts & 4) in[inputs++] = o.residual = seeded(c, n, k, oh, ow, 20004, -1, 1);
    o.stride = plain.stride = stride;
    o.padding = plain.padding = padding;
    o.relu = (parts & 8) != 0;
    o.pool = (parts & 16) != 0;
    y = l2l_conv(c, x, wt, &o);
    z = l2l_conv(c, x, wt, &plain);
    if (o.scale) z = l2l_mul(c, z, o.scale);
    if (o.bias) z = l2l_add(c, z, o.bias);
    if (o.residual) z = l2l_add(c, z, o.residual);
    if (o.relu) z = l2l_relu(c, z);
    if (o.pool) z = l2l_max_pool(c, z, 2, 2, 0);
    if (!CHECK(y && z)) { scope_end(q); return; }
    CHECK_INT(l2l_count(z->shape), l2l_count(y->shape));
    dy = seeded(c, n, k, y->shape.h, y->shape.w, 20010, -1, 1);
    vjp(y, dy, in, inputs, a);
    vjp(z, dy, in, inputs, b);
    for (i = -1; i < inputs; i++) {
        const l2l_tensor *s = i < 0 ? y : a[i], *t = i < 0 ? z : b[i];
        double largest = 1, worst = 0;
        int64_t j;
        if (!CHECK(s && t && s->data && t->data)) break;
        for (j = 0; j < l2l_count(t->shape); j++) {
            double v = (double)t->data[j], off = fabs((double)s->data[j] - v);
            if (fabs(v) > largest) largest = fabs(v);
            if (!(off <= worst)) worst = off;
        }
        if (!CHECK_NEAR(0, worst / largest, CLOSE))
            printf("    %s, parts %u, stride %d, padding %d, input %d\n", i < 0 ? "value" : "gradient",
                   parts, stride, padding, i);
    }
    scope_end(q);
}

static void fused_convolutions(void)
{
    unsigned parts;
    for (parts = 0; parts < 32; parts++) {
        fused_convolution_case(1, 1, parts, 7, 8);
        if (parts % 5 == 0) fused_convolution_case(2, 1, parts, 9, 7);
        if (parts % 7 == 0) fused_convolution_case(1, 0, parts, 6, 9);
    }
}

HELPER void run_golden_operators(void)
{
    RUN(golden_convolutions, "convolution and its three gradients equal PyTorch's");
    RUN(golden_linear_layer, "linear after a flatten of C,H,W equals PyTorch's");
    RUN(golden_elementwise_functions, "elementwise functions and their VJPs equal PyTorch's");
    RUN(golden_pools, "pooling and its VJPs equal PyTorch's");
    RUN(golden_batch_norm, "batch norm, its gradients and running statistics equal PyTorch's");
    RUN(golden_losses, "softmax, cross-entropy, KL and margin equal PyTorch's");
    RUN(large_logits, "no logits are too large for them");
    RUN(golden_shapes, "reductions and broadcasting equal PyTorch's");
    RUN(golden_hessian_a, "Hessian-vector products of conv, tanh, max-pool, CE equal PyTorch's");
    RUN(golden_hessian_b, "Hessian-vector products through batch norm equal PyTorch's");
    RUN(golden_hessian_c, "and through batch norm, residual and ReLU in evaluation mode");
    RUN(golden_hessian_d, "and through batch norm, residual and ReLU in training mode");
    RUN(fused_convolutions, "a fused convolution equals its parts, values and gradients");
}

#endif
