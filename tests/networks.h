/* Small networks of our own for the tests, and models with parameters made from a seed. */
#ifndef L2LADV_TESTS_NETWORKS_H
#define L2LADV_TESTS_NETWORKS_H

#include "support.h"

/* conv 3x3 to 4 + bias, ReLU, 2x2 maximum, linear */
HELPER l2l_tensor *tiny_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 4, 3, 1, 0, L2L_RELU | L2L_POOL);
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

/* conv 3x3 padded to 5 + bias, tanh, 2x2 average, linear */
HELPER l2l_tensor *smooth_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 5, 3, 1, 1, 0);
    x = l2l_average_pool(c, l2l_tanh(c, x), 2, 2, 0);
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

/* conv without bias, batch norm, ReLU, dropout, linear: everything that knows the mode */
HELPER l2l_tensor *moody_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 8, 3, 1, 1, L2L_NO_BIAS);
    x = l2l_layer_batch_norm(m, "bn", x, L2L_RELU);
    x = l2l_layer_dropout(m, x, 0.5);
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

/* one linear layer */
HELPER l2l_tensor *linear_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, L2L_LAST);
}

HELPER l2l_model_options own_options(const char *name, l2l_forward forward, int channels, int size,
                                     int classes)
{
    l2l_model_options o = l2l_model_default(name);
    o.forward = forward;
    o.channels = channels;
    o.height = o.width = size;
    o.classes = classes;
    return o;
}

/* Parameter i gets numbers of seed + i in [-bound[i], bound[i]), in file layout. */
HELPER int seed_parameters(l2l_model *m, uint32_t seed, const double *bound)
{
    int i, ok = 1;
    for (i = 0; i < l2l_model_parameters(m); i++) {
        int64_t n = l2l_count(l2l_model_parameter(m, i).value->shape);
        l2l_real *v = test_array(n);
        golden_fill(v, n, seed + (uint32_t)i, -bound[i], bound[i]);
        ok = l2l_parameter_set(m, i, v) && ok;
        free(v);
    }
    return ok;
}

HELPER l2l_model *smooth_model(l2l_context *c) /* of golden.py: 2x6x6, 4 classes */
{
    static const double bound[] = {0.8, 1, 2.5, 1};
    l2l_model_options o = own_options("smooth", smooth_forward, 2, 6, 4);
    l2l_model *m = l2l_model_create(c, &o);
    if (m && l2l_model_parameters(m) == 4) seed_parameters(m, 11000, bound);
    return m;
}

HELPER l2l_model *tiny_model(l2l_context *c, uint32_t seed) /* of golden.py: 1x8x8, 5 classes */
{
    static const double bound[] = {0.8, 0.2, 0.5, 0.2};
    l2l_model_options o = own_options("tiny", tiny_forward, 1, 8, 5);
    l2l_model *m = l2l_model_create(c, &o);
    if (m && l2l_model_parameters(m) == 4) seed_parameters(m, seed, bound);
    return m;
}

/* An objective around another one that counts the images it is asked about. */
typedef struct counted {
    l2l_objective inner;
    int images;
} counted;

HELPER l2l_tensor *counted_loss(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                const int *labels, void *user)
{
    counted *o = (counted *)user;
    o->images += logits->shape.n;
    return o->inner.loss(c, logits, clean, labels, o->inner.user);
}

/* All parameters and buffers one after the other, to be freed with free(). */
HELPER l2l_real *all_parameters(const l2l_model *m, int64_t *count)
{
    int64_t n = 0, at = 0;
    int i;
    l2l_real *v;
    for (i = 0; i < l2l_model_parameters(m); i++)
        n += l2l_count(l2l_model_parameter(m, i).value->shape);
    v = test_array(n);
    for (i = 0; i < l2l_model_parameters(m); i++) {
        l2l_parameter_get(m, i, v + at);
        at += l2l_count(l2l_model_parameter(m, i).value->shape);
    }
    *count = n;
    return v;
}

HELPER int same_models(const char *file, int line, const l2l_model *a, const l2l_model *b)
{
    int64_t n, m;
    l2l_real *v = all_parameters(a, &n), *w = all_parameters(b, &m);
    int ok = n == m && test_bytes(file, line, "all parameters and buffers", v, w,
                                  (size_t)n * sizeof(l2l_real));
    free(v);
    free(w);
    return ok;
}
#define CHECK_SAME_MODEL(a, b) same_models(__FILE__, __LINE__, a, b)

#endif
