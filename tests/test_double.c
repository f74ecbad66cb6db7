/* The double build: PyTorch's values to 1e-10, and every operation's VJP and its VJP's VJP against
   central differences, at points without a kink nearby.

   Claim of check_gradients, for y = f(inputs), noise r and q:
     first   d<r, y>/d inputs                       = (<r, y>(+h) - <r, y>(-h)) / 2h
     second  d<q, VJP(r)>/d (inputs and r)          = the same of <q, VJP(r)>
   with h = 1e-5: the truncation is about h^2 = 1e-10 and the rounding 1e-16/h = 1e-11, each times
   the size of derivatives of third order; accepted is 2e-7 of the largest entry, or of 1. */
#include "check_operators.h"

enum { ANY = 8 };
typedef struct operation {
    const char *name;
    l2l_tensor *(*apply)(l2l_tensor **in);
    int inputs;
    double low, high;
    l2l_shape shape[ANY];
} operation;

static const int classes_of[3] = {2, 0, 4};

static l2l_conv_options geometry(int stride, int padding)
{
    l2l_conv_options o = l2l_conv_default();
    o.stride = stride;
    o.padding = padding;
    return o;
}
static l2l_tensor *conv_11(l2l_tensor **in)
{
    l2l_conv_options o = geometry(1, 1);
    o.bias = in[2];
    return l2l_conv(c, in[0], in[1], &o);
}
static l2l_tensor *conv_21(l2l_tensor **in)
{
    l2l_conv_options o = geometry(2, 1);
    return l2l_conv(c, in[0], in[1], &o);
}
static l2l_tensor *conv_relu_pool(l2l_tensor **in)
{
    l2l_conv_options o = geometry(1, 1);
    o.bias = in[2];
    o.relu = o.pool = true;
    return l2l_conv(c, in[0], in[1], &o);
}
static l2l_tensor *conv_fused(l2l_tensor **in)
{
    l2l_conv_options o = geometry(1, 1);
    o.bias = in[2];
    o.scale = in[3];
    o.residual = in[4];
    o.relu = o.pool = true;
    return l2l_conv(c, in[0], in[1], &o);
}
static l2l_tensor *conv_input_grad(l2l_tensor **in)
{
    return l2l_conv_input_grad(c, in[0], in[1], l2l_shape_of(2, 5, 6, 3), 2, 1);
}
/* A layer of a generator: twice the height and width, as trained with w, bias and a nonlinearity. */
static l2l_tensor *transposed_conv(l2l_tensor **in)
{
    l2l_tensor *y = l2l_conv_input_grad(c, in[0], in[1], l2l_shape_of(2, 6, 8, 3), 2, 1);
    return l2l_tanh(c, l2l_add(c, y, in[2]));
}
static l2l_tensor *conv_weight_grad(l2l_tensor **in)
{
    return l2l_conv_weight_grad(c, in[0], in[1], l2l_shape_of(3, 3, 3, 4), 2, 1);
}
static l2l_tensor *linear(l2l_tensor **in)
{
    l2l_conv_options o = l2l_conv_default();
    o.bias = in[2];
    return l2l_linear(c, in[0], in[1], &o);
}
static l2l_tensor *linear_fused(l2l_tensor **in)
{
    l2l_conv_options o = l2l_conv_default();
    o.bias = in[2];
    o.scale = in[3];
    o.residual = in[4];
    o.relu = true;
    return l2l_linear(c, in[0], in[1], &o);
}
static l2l_tensor *add(l2l_tensor **in) { return l2l_add(c, in[0], in[1]); }
static l2l_tensor *sub(l2l_tensor **in) { return l2l_sub(c, in[0], in[1]); }
static l2l_tensor *mul(l2l_tensor **in) { return l2l_mul(c, in[0], in[1]); }
static l2l_tensor *affine(l2l_tensor **in) { return l2l_affine(c, in[0], -1.5, 2); }
static l2l_tensor *relu(l2l_tensor **in) { return l2l_relu(c, in[0]); }
static l2l_tensor *leaky_relu(l2l_tensor **in) { return l2l_leaky_relu(c, in[0], 0.2); }
static l2l_tensor *tanh_(l2l_tensor **in) { return l2l_tanh(c, in[0]); }
static l2l_tensor *sigmoid(l2l_tensor **in) { return l2l_sigmoid(c, in[0]); }
static l2l_tensor *exp_(l2l_tensor **in) { return l2l_exp(c, in[0]); }
static l2l_tensor *log_(l2l_tensor **in) { return l2l_log(c, in[0]); }
static l2l_tensor *power(l2l_tensor **in) { return l2l_power(c, in[0], -1.5); }
static l2l_tensor *square(l2l_tensor **in) { return l2l_power(c, in[0], 2); }
static l2l_tensor *abs_(l2l_tensor **in) { return l2l_abs(c, in[0]); }
static l2l_tensor *clamp(l2l_tensor **in) { return l2l_clamp(c, in[0], -0.4, 0.3); }
static l2l_tensor *project(l2l_tensor **in)
{
    return l2l_project(c, in[0], seeded(c, 2, 3, 4, 5, 900, 0, 1), 0.3);
}
static l2l_tensor *reshape(l2l_tensor **in)
{
    return l2l_tanh(c, l2l_reshape(c, in[0], l2l_shape_of(4, 1, 3, 10)));
}
static l2l_tensor *sum_to(l2l_tensor **in) { return l2l_sum_to(c, in[0], l2l_shape_of(2, 1, 5, 1)); }
static l2l_tensor *broadcast_to(l2l_tensor **in)
{
    return l2l_broadcast_to(c, in[0], l2l_shape_of(2, 4, 5, 3));
}
static l2l_tensor *sum(l2l_tensor **in) { return l2l_sum(c, in[0]); }
static l2l_tensor *mean(l2l_tensor **in) { return l2l_mean(c, in[0]); }
static l2l_tensor *slice(l2l_tensor **in) { return l2l_slice(c, in[0], 1, 2); }
static l2l_tensor *place(l2l_tensor **in) { return l2l_place(c, in[0], 2, 7); }
static l2l_tensor *concat(l2l_tensor **in) { return l2l_tanh(c, l2l_concat(c, in, 2)); }
static l2l_tensor *max_pool(l2l_tensor **in) { return l2l_max_pool(c, in[0], 2, 2, 0); }
static l2l_tensor *max_pool_321(l2l_tensor **in) { return l2l_max_pool(c, in[0], 3, 2, 1); }
static l2l_tensor *average_pool(l2l_tensor **in) { return l2l_average_pool(c, in[0], 3, 2, 1); }
static l2l_tensor *average_pool_2(l2l_tensor **in) { return l2l_average_pool(c, in[0], 2, 2, 0); }
static l2l_tensor *global_average(l2l_tensor **in) { return l2l_global_average_pool(c, in[0]); }
static l2l_tensor *batch_norm(l2l_tensor **in, bool training)
{
    l2l_batch_norm_options o = l2l_batch_norm_default();
    o.gamma = in[1];
    o.beta = in[2];
    o.running_mean = seeded_vector(c, 3, 901, -1, 1);
    o.running_variance = seeded_vector(c, 3, 902, 0.5, 1.5);
    o.training = training;
    o.update = false;
    return l2l_batch_norm(c, in[0], &o);
}
static l2l_tensor *batch_norm_train(l2l_tensor **in) { return batch_norm(in, true); }
static l2l_tensor *batch_norm_eval(l2l_tensor **in) { return batch_norm(in, false); }
static l2l_tensor *batch_norm_fused(l2l_tensor **in, bool training)
{
    l2l_batch_norm_options o = l2l_batch_norm_default();
    o.gamma = in[1];
    o.beta = in[2];
    o.residual = in[3];
    o.running_mean = seeded_vector(c, 3, 901, -1, 1);
    o.running_variance = seeded_vector(c, 3, 902, 0.5, 1.5);
    o.training = training;
    o.update = false;
    o.relu = true;
    return l2l_batch_norm(c, in[0], &o);
}
static l2l_tensor *batch_norm_fused_train(l2l_tensor **in) { return batch_norm_fused(in, true); }
static l2l_tensor *batch_norm_fused_eval(l2l_tensor **in) { return batch_norm_fused(in, false); }
/* What a folded batch norm leaves of a convolution: the gate and the scale go back in one pass. */
static l2l_tensor *conv_gate_scale(l2l_tensor **in)
{
    l2l_conv_options o = geometry(1, 1);
    o.bias = seeded_vector(c, 4, 903, -1, 1);
    o.scale = seeded_vector(c, 4, 904, 0.5, 1.5);
    o.relu = true;
    return l2l_conv(c, in[0], in[1], &o);
}
static l2l_tensor *dropped(l2l_tensor **in)
{
    static const uint32_t images[2] = {4, 5};
    l2l_stream s;
    memset(&s, 0, sizeof s);
    return l2l_dropout(c, in[0], 0.5, &s, images);
}
static l2l_tensor *softmax(l2l_tensor **in) { return l2l_softmax(c, in[0]); }
static l2l_tensor *log_softmax(l2l_tensor **in) { return l2l_log_softmax(c, in[0]); }
static l2l_tensor *pick(l2l_tensor **in) { return l2l_pick(c, in[0], classes_of); }
/* x times the row of a table that belongs to its class, plus what all classes share. */
static l2l_tensor *embedding(l2l_tensor **in)
{
    l2l_conv_options o = l2l_conv_default();
    l2l_tensor *one = l2l_full(c, l2l_shape_of(3, 1, 1, 1), 1);
    o.bias = in[2];
    return l2l_mul(c, in[0], l2l_linear(c, l2l_unpick(c, one, classes_of, 5), in[1], &o));
}
static l2l_tensor *unpick(l2l_tensor **in) { return l2l_unpick(c, in[0], classes_of, 5); }
static l2l_tensor *cross_entropy(l2l_tensor **in) { return l2l_cross_entropy(c, in[0], classes_of); }
static l2l_tensor *kl(l2l_tensor **in) { return l2l_kl_divergence(c, in[0], in[1]); }
static l2l_tensor *margin(l2l_tensor **in) { return l2l_margin(c, in[0], classes_of); }
static l2l_tensor *small_net(l2l_tensor **in)
{
    l2l_conv_options o = geometry(1, 1), p = l2l_conv_default();
    l2l_tensor *y;
    o.bias = in[2];
    o.relu = true;
    y = l2l_max_pool(c, l2l_conv(c, in[0], in[1], &o), 2, 2, 0);
    return l2l_cross_entropy(c, l2l_linear(c, l2l_tanh(c, y), in[3], &p), classes_of);
}

#define X {2, 4, 5, 3}
#define V {1, 1, 1, 3}
#define K4 {1, 1, 1, 4}
#define Z {3, 1, 1, 5}
static const operation operations[] = {
    {"conv, stride 1, padding 1, bias", conv_11, 3, -1, 1, {X, {3, 3, 3, 4}, K4}},
    {"conv, stride 2, padding 1", conv_21, 2, -1, 1, {{2, 5, 6, 3}, {3, 3, 3, 4}}},
    {"conv, relu, pool", conv_relu_pool, 3, -1, 1, {X, {3, 3, 3, 4}, K4}},
    {"conv, everything fused", conv_fused, 5, -1, 1, {X, {3, 3, 3, 4}, K4, K4, {2, 4, 5, 4}}},
    {"conv_input_grad", conv_input_grad, 2, -1, 1, {{2, 3, 3, 4}, {3, 3, 3, 4}}},
    {"transposed conv 4/2/1, bias, tanh", transposed_conv, 3, -1, 1, {{2, 3, 4, 5}, {4, 4, 3, 5}, V}},
    {"conv_weight_grad", conv_weight_grad, 2, -1, 1, {{2, 5, 6, 3}, {2, 3, 3, 4}}},
    {"linear", linear, 3, -1, 1, {X, {4, 5, 3, 4}, K4}},
    {"linear, everything fused", linear_fused, 5, -1, 1, {X, {4, 5, 3, 4}, K4, K4, {2, 1, 1, 4}}},
    {"add", add, 2, -1, 1, {X, V}},
    {"add, the other way", add, 2, -1, 1, {{2, 1, 1, 1}, X}},
    {"sub", sub, 2, -1, 1, {X, V}},
    {"mul", mul, 2, -1, 1, {X, X}},
    {"mul, repeated channel", mul, 2, -1, 1, {X, V}},
    {"mul, both repeated", mul, 2, -1, 1, {{2, 4, 1, 3}, {1, 4, 5, 1}}},
    {"affine", affine, 1, -1, 1, {X}},
    {"relu", relu, 1, -1, 1, {X}},
    {"leaky_relu", leaky_relu, 1, -1, 1, {X}},
    {"tanh", tanh_, 1, -2, 2, {X}},
    {"sigmoid", sigmoid, 1, -3, 3, {X}},
    {"exp", exp_, 1, -1, 1, {X}},
    {"log", log_, 1, 0.5, 2, {X}},
    {"power -1.5", power, 1, 0.7, 2, {X}},
    {"power 2", square, 1, -1, 1, {X}},
    {"abs", abs_, 1, -1, 1, {X}},
    {"clamp", clamp, 1, -1, 1, {X}},
    {"project", project, 1, -0.5, 1.5, {X}},
    {"reshape", reshape, 1, -1, 1, {X}},
    {"sum_to", sum_to, 1, -1, 1, {X}},
    {"broadcast_to", broadcast_to, 1, -1, 1, {{2, 1, 5, 1}}},
    {"sum", sum, 1, -1, 1, {X}},
    {"mean", mean, 1, -1, 1, {X}},
    {"slice", slice, 1, -1, 1, {{2, 2, 2, 5}}},
    {"place", place, 1, -1, 1, {X}},
    {"concat", concat, 2, -1, 1, {X, {2, 4, 5, 2}}},
    {"max_pool 2/2/0", max_pool, 1, -1, 1, {X}},
    {"max_pool 3/2/1", max_pool_321, 1, -1, 1, {{2, 7, 6, 2}}},
    {"average_pool 3/2/1", average_pool, 1, -1, 1, {{2, 7, 6, 2}}},
    {"average_pool 2/2/0", average_pool_2, 1, -1, 1, {X}},
    {"global_average_pool", global_average, 1, -1, 1, {X}},
    {"batch_norm, training", batch_norm_train, 3, -1, 1, {X, V, V}},
    {"batch_norm, evaluation", batch_norm_eval, 3, -1, 1, {X, V, V}},
    {"batch_norm by image, training", batch_norm_train, 3, -1, 1, {X, {2, 1, 1, 3}, {2, 1, 1, 3}}},
    {"batch_norm by image, evaluation", batch_norm_eval, 3, -1, 1, {X, {2, 1, 1, 3}, {2, 1, 1, 3}}},
    {"batch_norm by image, relu, training", batch_norm_fused_train, 4, -1, 1,
     {X, {2, 1, 1, 3}, {2, 1, 1, 3}, X}},
    {"batch_norm by image, relu, evaluation", batch_norm_fused_eval, 4, -1, 1,
     {X, {2, 1, 1, 3}, {2, 1, 1, 3}, X}},
    {"batch_norm, residual, relu, training", batch_norm_fused_train, 4, -1, 1, {X, V, V, X}},
    {"batch_norm, residual, relu, evaluation", batch_norm_fused_eval, 4, -1, 1, {X, V, V, X}},
    {"conv, scale and relu of constants", conv_gate_scale, 2, -1, 1, {X, {3, 3, 3, 4}}},
    {"dropout", dropped, 1, -1, 1, {X}},
    {"softmax", softmax, 1, -2, 2, {Z}},
    {"log_softmax", log_softmax, 1, -2, 2, {Z}},
    {"pick", pick, 1, -1, 1, {Z}},
    {"unpick", unpick, 1, -1, 1, {{3, 1, 1, 1}}},
    {"embedding", embedding, 3, -1, 1, {{3, 2, 2, 4}, {1, 1, 5, 4}, K4}},
    {"cross_entropy", cross_entropy, 1, -2, 2, {Z}},
    {"kl_divergence", kl, 2, -2, 2, {Z, Z}},
    {"margin", margin, 1, -2, 2, {Z}},
    {"a small network", small_net, 4, -1, 1, {{3, 4, 5, 3}, {3, 3, 3, 4}, K4, {2, 2, 4, 5}}},
};

/* Noise in memory order: layout does not matter here. */
static l2l_tensor *noise(l2l_shape s, uint32_t seed, double low, double high)
{
    l2l_tensor *t = l2l_zeros(c, s);
    if (t) golden_fill(t->data, l2l_count(s), seed, low, high);
    return t;
}

/* <r, y>, and the inputs' gradients of it when g is given. in[inputs] is r. */
static double first_order(const operation *p, l2l_tensor **in, l2l_tensor **g)
{
    double value;
    l2l_tensor *y, *s;
    l2l_mark mark = l2l_mark_here(c);
    l2l_set_recording(c, g != NULL);
    y = p->apply(in);
    s = inner_product(c, y, in[p->inputs]);
    value = l2l_error(c) ? (double)NAN : l2l_item(c, s);
    if (g) l2l_vjp(c, y, in[p->inputs], in, p->inputs, g, 0);
    else l2l_release(c, mark);
    return value;
}

/* <q, VJP(r)>, and its gradients with respect to the inputs and r. */
static double second_order(const operation *p, l2l_tensor **in, l2l_tensor **g)
{
    double value;
    l2l_tensor *y, *d[ANY], *s = NULL;
    int i;
    l2l_mark mark = l2l_mark_here(c);
    l2l_set_recording(c, true);
    y = p->apply(in);
    if (!l2l_vjp(c, y, in[p->inputs], in, p->inputs, d, L2L_CREATE_GRAPH)) return (double)NAN;
    for (i = 0; i < p->inputs; i++) {
        l2l_tensor *q = inner_product(c, d[i], noise(d[i]->shape, 700 + (uint32_t)i, -1, 1));
        s = s ? l2l_add(c, s, q) : q;
    }
    value = l2l_error(c) ? (double)NAN : l2l_item(c, s);
    if (g) l2l_grad(c, s, in, p->inputs + 1, g, 0);
    else l2l_release(c, mark);
    return value;
}

static void check_gradients(const operation *p,
                            double (*value)(const operation *, l2l_tensor **, l2l_tensor **),
                            int leaves, const char *order)
{
    scope q = scope_begin();
    l2l_tensor *in[ANY + 1], *g[ANY + 1], *y;
    int i;
    const double h = 1e-5;
    l2l_set_recording(c, false);
    for (i = 0; i < p->inputs; i++) in[i] = noise(p->shape[i], 600 + (uint32_t)i, p->low, p->high);
    y = p->apply(in);
    if (!y) { printf("    in %s\n", p->name); CHECK_OK(c); scope_end(q); return; }
    in[p->inputs] = noise(y->shape, 650, -1, 1);
    for (i = 0; i <= p->inputs; i++) g[i] = NULL;
    value(p, in, g);
    if (l2l_error(c)) { printf("    in %s, %s order\n", p->name, order); scope_end(q); return; }
    for (i = 0; i < leaves; i++) {
        int64_t n = l2l_count(in[i]->shape), j, stride = n > 30 ? n / 23 : 1;
        double largest = 1;
        if (!CHECK(g[i] && g[i]->data)) break;
        for (j = 0; j < n; j++)
            if (fabs((double)g[i]->data[j]) > largest) largest = fabs((double)g[i]->data[j]);
        for (j = 0; j < n; j += stride) {
            l2l_real kept = in[i]->data[j];
            double up, down;
            in[i]->data[j] = (l2l_real)((double)kept + h);
            up = value(p, in, NULL);
            in[i]->data[j] = (l2l_real)((double)kept - h);
            down = value(p, in, NULL);
            in[i]->data[j] = kept;
            if (!CHECK_NEAR((up - down) / (2 * h), g[i]->data[j], 2e-7 * largest)) {
                printf("    in %s, %s order, input %d (%d is the cotangent), element %ld\n", p->name,
                       order, i, p->inputs, (long)j);
                break;
            }
        }
    }
    scope_end(q);
}

static const operation *current;
static void current_operation(void)
{
    check_gradients(current, first_order, current->inputs, "first");
    check_gradients(current, second_order, current->inputs + 1, "second");
}

static void is_double(void) { CHECK_INT(8, sizeof(l2l_real)); }

int main(void)
{
    unsigned i;
    c = test_context(1);
    RUN(is_double, "l2l_real is double");
    run_golden_operators();
    for (i = 0; i < sizeof operations / sizeof *operations; i++) {
        current = &operations[i];
        RUN(current_operation, current->name);
    }
    l2l_context_free(c);
    return test_end();
}
