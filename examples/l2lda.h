/* l2lda.h - L2LDA, the baseline that the paper compares with: adversarial training against a
 * learned generator (Jang, Zhao, Hong and Lee, "Adversarial Defense via Learning to Generate
 * Diverse Attacks", ICCV 2019). C99 or C++11. Needs ../l2ladv.h alone, and of it only the public
 * interface: it is an example of a maximizer of one's own that learns, with its own network, outer
 * loss, files and checkpoints. Every function is static: include it where it is used.
 *
 * The generator is a U-Net G that sees whole images, with class-conditional batch norm and a random
 * z ~ N(0,I) of 8 numbers. With ghat = g / |g|_2, for every channel of every image,
 *     delta_{t+1} = clip(delta_t + epsilon/4 G(x, ghat_t, delta_t; y, z), +-epsilon)
 *     x'_{t+1}    = clip(x + delta_{t+1}, 0, 1).
 * It is trained with two draws z_a, z_b for each image and descends, through all T steps, the sum
 * over t of  - mean CE(f(x'_t), y) - lambda mean(|x'_a,t - x'_b,t|_1 / |z_a - z_b|_1),  both norms
 * divided by their number of terms. It remembers the T steps and runs one of them again at a time,
 * so that memory does not grow by T tapes. What the classifier descends is the mean CE over x, x'_a
 * and x'_b together. T is the training's; loss_weights is unused. */
#ifndef L2LDA_H
#define L2LDA_H

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../l2ladv.h"

#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FAST_MATH__) || \
    defined(_M_FP_FAST)
#error "l2lda.h: -ffinite-math-only (in -ffast-math, -Ofast) takes the checks for NaN away"
#endif

typedef struct l2lda_options {
    int channels, height, width, classes; /* of the images: 1x28x28, 10; height and width must be
                                           * multiples of 4, as 28 and 32 are */
    double width_multiplier;              /* 1: 64 filters */
    double diversity;                     /* lambda: 0.02; its authors take 0.5 on CIFAR-10 */
    l2l_optimizer_options optimizer; /* SGD, rate 0.01, momentum 0.9, weight decay 1e-5, clip 1 */
    uint64_t seed;
} l2lda_options;

enum { L2LDA_Z = 8 }; /* numbers in z */

/* ---- the generator ---- */

typedef struct l2lda {
    l2l_context *context;
    l2lda_options options;
    l2l_model *net;              /* G: parameters, running statistics */
    l2l_optimizer *optimizer;
    int n_theta;
    l2l_tensor **theta, **found; /* G's parameters + delta_t, and their gradients */
    l2l_real **values, **sums;   /* parameters; Loss_G's gradient, added up */
    l2l_real *kept;              /* running statistics before the step at hand, and in front 1 until
                                  * it ends, then 0 */
    /* The part of a batch that is trained on: 2n images, in->adv's with z_a, then z_b's. Tensors
     * belong to the step, arrays have room for `room` images, `steps` steps. */
    bool training;               /* else none of it is there */
    int n, room, steps;
    double epsilon;
    const l2l_tensor *clean;     /* in->x, of n images */
    l2l_tensor *x, *z, *second;  /* second: x'_t with z_b, n images */
    l2l_tensor **delta, **g;     /* of t = 0..T */
    int *labels, *predicted;     /* three times the labels; predictions for x, x'_a, x'_b */
} l2lda;

static inline bool l2lda__fail(l2l_context *c, l2l_status status, const char *format, ...)
{
    char text[320];
    va_list a;
    va_start(a, format);
    vsnprintf(text, sizeof text, format, a);
    va_end(a);
    l2l_error_set(c, status, text);
    return false;
}

static inline l2lda_options l2lda_default(void)
{
    l2lda_options o;
    memset(&o, 0, sizeof o);
    o.channels = 1;
    o.height = o.width = 28;
    o.classes = 10;
    o.width_multiplier = 1;
    o.diversity = 0.02;
    o.optimizer = l2l_sgd_default();
    o.optimizer.rate = 0.01;
    o.optimizer.weight_decay = 1e-5;
    o.optimizer.clip = 1;
    return o;
}

/* ---- its network ---- */

/* What G sees beside x. */
typedef struct l2lda__inputs {
    l2l_tensor *ghat, *delta, *z;
    const int *labels;
} l2lda__inputs;

/* y, made of `used`, which is dropped. */
static inline l2l_tensor *l2lda__then(l2l_context *c, l2l_tensor *used, l2l_tensor *y)
{
    l2l_drop(c, used);
    return y;
}

/* The parameter `layer`.`part`. */
static inline l2l_tensor *l2lda__parameter(l2l_model *m, const char *layer, const char *part,
                                           l2l_shape s, int rank, bool trainable, double deviation,
                                           double fill)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", layer, part);
    return l2l_layer_parameter(m, name, s, rank, trainable, deviation, fill);
}

/* A convolution's weight, N(0, 0.02^2). */
static inline l2l_tensor *l2lda__weight(l2l_model *m, const char *name, int kernel, int from,
                                        int to)
{
    return l2lda__parameter(m, name, "weight", l2l_shape_of(kernel, kernel, from, to), 4, true,
                            0.02, 0);
}

/* Class-conditional batch norm: scale and shift are the label's row of a table plus its last row,
 * which all share; `rows` has ones at these two. Uses x up. */
static inline l2l_tensor *l2lda__norm(l2l_model *m, const char *name, l2l_tensor *x,
                                      l2l_tensor *rows, bool relu)
{
    l2l_context *c = l2l_model_context(m);
    l2l_batch_norm_options o = l2l_batch_norm_default();
    l2l_shape one, table;
    l2l_tensor *w, *b;
    if (!x || !rows) return NULL;
    one = l2l_shape_of(1, 1, 1, x->shape.c);
    table = l2l_shape_of(1, 1, x->shape.c, rows->shape.c);
    w = l2lda__parameter(m, name, "weight", table, 2, true, 0.02, 0);
    b = l2lda__parameter(m, name, "bias", table, 2, true, 0, 0);
    o.running_mean = l2lda__parameter(m, name, "running_mean", one, 1, false, 0, 0);
    o.running_variance = l2lda__parameter(m, name, "running_var", one, 1, false, 0, 1);
    one.n = x->shape.n; /* rows times the transposed table */
    o.gamma = l2l_conv_input_grad(c, rows, w, one, 1, 0);
    o.beta = l2l_conv_input_grad(c, rows, b, one, 1, 0);
    o.epsilon = 1e-10;
    o.relu = relu;
    o.training = l2l_model_mode(m) == L2L_TRAIN;
    o.update = !l2l_model_pass(m).frozen;
    x = l2lda__then(c, x, l2l_batch_norm(c, x, &o));
    return l2lda__then(c, o.gamma, l2lda__then(c, o.beta, x));
}

/* x and z in every pixel -> conv -> norm unless `rows` is NULL -> leaky ReLU */
static inline l2l_tensor *l2lda__down(l2l_model *m, const char *name, l2l_tensor *x, l2l_tensor *z,
                                      int channels, int kernel, int stride, l2l_tensor *rows)
{
    l2l_context *c = l2l_model_context(m);
    l2l_conv_options o = l2l_conv_default();
    l2l_tensor *in[2], *y;
    char layer[32];
    if (!x) return NULL;
    in[0] = x;
    in[1] = l2l_broadcast_to(c, z, l2l_shape_of(x->shape.n, x->shape.h, x->shape.w, L2LDA_Z));
    y = l2lda__then(c, in[1], l2l_concat(c, in, 2));
    o.stride = stride;
    o.padding = 1;
    o.unpooled = true;
    snprintf(layer, sizeof layer, "%s.conv", name);
    y = l2lda__then(c, y, l2l_conv(c, y, l2lda__weight(m, layer, kernel, x->shape.c + L2LDA_Z,
                                                       channels), &o));
    snprintf(layer, sizeof layer, "%s.norm", name);
    if (rows) y = l2lda__norm(m, layer, y, rows, false);
    return l2lda__then(c, y, l2l_leaky_relu(c, y, 0.2));
}

/* x at twice the size -> norm -> ReLU, and beside it `skip`; both are dropped. */
static inline l2l_tensor *l2lda__up(l2l_model *m, const char *name, l2l_tensor *x,
                                    l2l_tensor *skip, int channels, l2l_tensor *rows)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *in[2], *y;
    l2l_shape s;
    char layer[32];
    if (!x || !skip) return NULL;
    s = skip->shape;
    s.c = channels;
    snprintf(layer, sizeof layer, "%s.upconv", name); /* the transposed convolution */
    y = l2l_conv_input_grad(c, x, l2lda__weight(m, layer, 4, channels, x->shape.c), s, 2, 1);
    y = l2lda__then(c, x, y);
    snprintf(layer, sizeof layer, "%s.norm", name);
    in[0] = l2lda__norm(m, layer, y, rows, true);
    in[1] = skip;
    y = l2lda__then(c, in[0], l2l_concat(c, in, 2));
    return l2lda__then(c, skip, y);
}

/* 64 filters under the width multiplier, in multiples of 8 as the library's own networks have. */
static inline int l2lda__filters(const l2l_model *m)
{
    int k = (int)(l2l_model_info(m)->width_multiplier * 64 / 8 + 0.5) * 8;
    return k < 8 ? 8 : k;
}

/* G, NxHxWxC in (-1,1). `user` is the other inputs. */
static inline l2l_tensor *l2lda__unet(l2l_model *m, l2l_tensor *x, void *user)
{
    const l2lda__inputs *also = (const l2lda__inputs *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_conv_options o = l2l_conv_default();
    int k = l2lda__filters(m), classes = l2l_model_info(m)->classes, i;
    l2l_tensor *in[3], *rows, *z, *y, *d0, *d1;
    rows = l2l_zeros(c, l2l_shape_of(x->shape.n, 1, 1, classes + 1));
    for (i = 0; rows && i < x->shape.n; i++) {
        l2l_real *row = rows->data + (int64_t)i * (classes + 1);
        row[also->labels[i]] = row[classes] = 1;
    }
    z = l2l_layer_linear(m, "z_encoder.0", also->z, L2LDA_Z, L2L_RELU);
    z = l2lda__then(c, z, l2l_layer_linear(m, "z_encoder.2", z, L2LDA_Z, L2L_RELU));
    in[0] = x;
    in[1] = also->ghat;
    in[2] = also->delta;
    y = l2l_concat(c, in, 3);
    d0 = l2lda__then(c, y, l2lda__down(m, "down0", y, z, k, 3, 1, NULL));
    d1 = l2lda__down(m, "down1", d0, z, k, 4, 2, rows);
    y = l2lda__down(m, "down2", d1, z, 2 * k, 4, 2, NULL);
    y = l2lda__up(m, "up2", y, d1, k, rows);
    y = l2lda__up(m, "up1", y, d0, k, rows);
    o.padding = 1;
    o.unpooled = true;
    y = l2lda__then(c, y, l2l_conv(c, y, l2lda__weight(m, "final.0", 3, 2 * k, x->shape.c), &o));
    l2l_drop(c, z);
    l2l_drop(c, rows);
    return l2lda__then(c, y, l2l_tanh(c, y));
}

/* The network's own run, the first, which makes the parameters; a model wants logits back. */
static inline l2l_tensor *l2lda__first_run(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    const int label = 0;
    l2lda__inputs also;
    (void)user;
    if (l2l_model_parameters(m) > 0) {
        l2lda__fail(c, L2L_ERROR_UNSUPPORTED, "a generator does not classify");
        return NULL;
    }
    if (x->shape.h % 4 || x->shape.w % 4) {
        l2lda__fail(c, L2L_ERROR_SHAPE, "l2lda: images of %dx%d; height and width must be "
                    "multiples of 4 (it halves them twice)", x->shape.h, x->shape.w);
        return NULL;
    }
    also.ghat = also.delta = x;
    also.z = l2l_zeros(c, l2l_shape_of(x->shape.n, 1, 1, L2LDA_Z));
    also.labels = &label;
    if (!l2lda__unet(m, x, &also)) return NULL;
    return l2l_zeros(c, l2l_shape_of(x->shape.n, 1, 1, l2l_model_info(m)->classes));
}

static inline l2l_model_options l2lda__network(const l2lda_options *o)
{
    l2l_model_options net = l2l_model_default("l2lda generator");
    net.forward = l2lda__first_run;
    net.channels = o->channels;
    net.height = o->height;
    net.width = o->width;
    net.classes = o->classes;
    net.width_multiplier = o->width_multiplier;
    net.seed = o->seed;
    return net;
}

/* ---- making one ---- */

static inline void l2lda_free(l2lda *m)
{
    int i;
    if (!m) return;
    for (i = 0; m->sums && i < m->n_theta; i++) l2l_free(m->context, m->sums[i]);
    l2l_optimizer_free(m->optimizer);
    l2l_free(m->context, m->theta);
    l2l_free(m->context, m->found);
    l2l_free(m->context, m->values);
    l2l_free(m->context, m->sums);
    l2l_free(m->context, m->kept);
    l2l_free(m->context, m->delta);
    l2l_free(m->context, m->labels);
    l2l_model_free(m->net);
    l2l_free(m->context, m);
}

/* Room beside the network, which is the generator's from now on. */
static inline bool l2lda__prepare(l2lda *m)
{
    l2l_context *c = m->context;
    int parameters = l2l_model_parameters(m->net), i, n = 0;
    size_t pointers = (size_t)(parameters + 1) * sizeof(void *), statistics = 1;
    int64_t sizes[16];
    m->theta = (l2l_tensor **)l2l_allocate(c, pointers);
    m->found = (l2l_tensor **)l2l_allocate(c, pointers);
    m->values = (l2l_real **)l2l_allocate(c, pointers);
    m->sums = (l2l_real **)l2l_allocate(c, pointers);
    for (i = 0; i < parameters && !l2l_error(c); i++) {
        l2l_parameter p = l2l_model_parameter(m->net, i);
        int64_t size = l2l_count(p.value->shape);
        if (!p.trainable) {
            statistics += (size_t)size;
            continue;
        }
        sizes[n] = size;
        m->theta[n] = p.value;
        m->values[n] = p.value->data;
        m->sums[n] = (l2l_real *)l2l_allocate(c, (size_t)size * sizeof(l2l_real));
        m->n_theta = ++n;
    }
    m->kept = (l2l_real *)l2l_allocate(c, statistics * sizeof *m->kept);
    if (!l2l_error(c)) m->optimizer = l2l_optimizer_create(c, &m->options.optimizer, sizes, n);
    return !l2l_error(c);
}

/* Around a network, NULL if that failed. */
static inline l2lda *l2lda__around(l2l_context *c, l2l_model *net, const l2lda_options *o)
{
    l2lda *m = net ? (l2lda *)l2l_allocate(c, sizeof *m) : NULL;
    if (!m) {
        l2l_model_free(net);
        return NULL;
    }
    m->context = c;
    m->options = *o;
    m->net = net;
    if (l2lda__prepare(m)) return m;
    l2lda_free(m);
    return NULL;
}

/* NULL for the options: the default ones. */
static inline l2lda *l2lda_create(l2l_context *c, const l2lda_options *given)
{
    const l2lda_options usual = l2lda_default(), *o = given ? given : &usual;
    l2l_model_options net = l2lda__network(o);
    l2l_model *m;
    int i, k;
    if (!(o->diversity >= 0 && o->diversity <= (double)FLT_MAX))
        l2lda__fail(c, L2L_ERROR_ARGUMENT, "l2lda_create: diversity %g is not in [0,%g]",
                    o->diversity, (double)FLT_MAX);
    m = l2l_model_create(c, &net);
    for (i = 0; i < l2l_model_parameters(m); i++) { /* scales begin near 1, by their shared row */
        l2l_parameter p = l2l_model_parameter(m, i);
        if (!strstr(p.name, ".norm.weight")) continue;
        for (k = 1; k <= p.value->shape.w; k++) p.value->data[k * p.value->shape.c - 1] += 1;
    }
    l2l_model_changed(m);
    return l2lda__around(c, m, o);
}

static inline const l2lda_options *l2lda_info(const l2lda *m) { return m ? &m->options : NULL; }

/* Number of parameters: 495,184 for 1x28x28, 500,944 for 3x32x32 and 10 classes. */
static inline int64_t l2lda_size(const l2lda *m) { return m ? l2l_model_size(m->net) : 0; }

/* G, for l2l_model_parameter, l2l_parameter_get, _set and l2l_model_summary. No classifier. */
static inline l2l_model *l2lda_network(l2lda *m) { return m ? m->net : NULL; }

/* ---- a step ---- */

/* Keeps the running statistics; or, if the step that moved them did not end, takes them back. */
static inline bool l2lda__statistics(const l2lda *m, bool back)
{
    l2l_real *at = m->kept + 1;
    int i;
    if (back && !(m->kept[0] > 0)) return true;
    for (i = 0; i < l2l_model_parameters(m->net); i++) {
        l2l_parameter p = l2l_model_parameter(m->net, i);
        size_t n = (size_t)l2l_count(p.value->shape);
        if (p.trainable) continue;
        memcpy(back ? p.value->data : at, back ? at : p.value->data, n * sizeof *at);
        at += n;
    }
    m->kept[0] = !back;
    return true;
}

/* z of draw 0 or 1 for the images of `in`. */
static inline void l2lda__draw(const l2l_inner *in, int draw, l2l_real *z)
{
    l2l_stream s = in->stream;
    int i, k;
    s.purpose = L2L_RANDOM_GENERATOR;
    for (i = 0; i < in->n; i++)
        for (s.image = in->images[i], k = 0; k < L2LDA_Z; k++)
            *z++ = (l2l_real)l2l_random_normal(&s, (uint32_t)(draw * L2LDA_Z + k));
}

/* g / |g|_2, per image and channel; the 1e-15 is the authors'. Before anything is computed with g:
 * a classifier whose gradient is not finite must not reach G's statistics. */
static inline l2l_tensor *l2lda__ghat(l2l_context *c, const l2l_tensor *g)
{
    l2l_tensor *y = l2l_zeros(c, g->shape);
    int64_t channels = g->shape.c, one = l2l_count(g->shape) / g->shape.n, i, k;
    int n;
    for (n = 0; y && n < g->shape.n; n++)
        for (k = 0; k < channels; k++) {
            const l2l_real *from = g->data + n * one;
            l2l_real *to = y->data + n * one;
            double sum = 0;
            for (i = k; i < one; i += channels)
                sum += ((double)from[i] + 1e-15) * ((double)from[i] + 1e-15);
            if (!(sum <= DBL_MAX))
                l2lda__fail(c, L2L_ERROR_NUMERIC, "the generator: the classifier's gradient is not "
                            "finite");
            for (i = k; i < one; i += channels) to[i] = (l2l_real)((double)from[i] / sqrt(sum));
        }
    return l2l_error(c) ? NULL : y;
}

/* delta_{t+1}; `also` has delta_t, z and labels. */
static inline l2l_tensor *l2lda__next(const l2lda *m, l2l_tensor *x, const l2l_tensor *g,
                                      l2lda__inputs *also, l2l_mode mode, bool frozen,
                                      double epsilon)
{
    l2l_context *c = m->context;
    l2l_pass pass = l2l_model_pass(m->net);
    l2l_tensor *y;
    if (!(also->ghat = l2lda__ghat(c, g))) return NULL;
    pass.mode = mode;
    pass.frozen = frozen;
    pass.forward = l2lda__unet;
    pass.user = also;
    y = l2l_model_run(m->net, x, &pass);
    return l2l_clamp(c, l2l_add(c, also->delta, l2l_affine(c, y, epsilon / 4, 0)), -epsilon,
                     epsilon);
}

/* x' = clip(x + delta, 0, 1) of a pixel. */
static inline l2l_real l2lda__image(l2l_real x, l2l_real delta)
{
    l2l_real y = x + delta;
    return y < 0 ? 0 : y > 1 ? 1 : y;
}

/* Arrays for a part of n images and T steps. */
static inline bool l2lda__room(l2lda *m, int n, int T)
{
    l2l_context *c = m->context;
    if (n > m->room) {
        l2l_free(c, m->labels);
        m->room = 0;
        m->labels = (int *)l2l_allocate(c, 6 * (size_t)n * sizeof(int));
        if (!m->labels) return false;
        m->predicted = m->labels + 3 * (size_t)n;
        m->room = n;
    }
    if (T > m->steps) {
        l2l_free(c, m->delta);
        m->steps = 0;
        m->delta = (l2l_tensor **)l2l_allocate(c, 2 * ((size_t)T + 1) * sizeof *m->delta);
        if (!m->delta) return false;
        m->steps = T;
    }
    m->g = m->delta + m->steps + 1;
    return true;
}

static inline bool l2lda__begin_training(l2lda *m, l2l_inner *in)
{
    l2l_context *c = m->context;
    l2l_shape twice = in->shape;
    int64_t one = l2l_count(in->shape);
    int n = in->n, t, i;
    twice.n *= 2;
    if (!l2lda__room(m, n, in->T)) return false;
    m->n = n;
    m->epsilon = in->epsilon;
    m->clean = in->x;
    m->x = l2l_zeros(c, twice);
    m->z = l2l_zeros(c, l2l_shape_of(2 * n, 1, 1, L2LDA_Z));
    m->second = l2l_zeros(c, in->shape);
    for (t = 0; t <= in->T; t++) {
        m->delta[t] = l2l_zeros(c, twice);
        m->g[t] = l2l_zeros(c, twice);
    }
    if (l2l_error(c)) return false;
    for (i = 0; i < 2; i++)
        memcpy(m->x->data + i * one, in->x->data, (size_t)one * sizeof *in->x->data);
    for (i = 0; i < 3; i++)
        memcpy(m->labels + (int64_t)i * n, in->labels, (size_t)n * sizeof *m->labels);
    l2lda__draw(in, 0, m->z->data);
    l2lda__draw(in, 1, m->z->data + (int64_t)n * L2LDA_Z);
    return true;
}

/* An attack's later restarts begin at x again, with another z. */
static inline bool l2lda__begin(void *self, l2l_inner *in)
{
    l2lda *m = (l2lda *)self;
    l2l_context *c = in->context;
    const l2l_model_options *o = l2l_model_info(l2lda_network(m));
    int classes = l2l_model_info(in->model)->classes;
    if (l2l_error(c)) return false;
    if (!m) return l2lda__fail(c, L2L_ERROR_ARGUMENT, "the generator is NULL: not created?");
    if (c != m->context || in->norm != L2L_LINF || in->targeted)
        return l2lda__fail(c, L2L_ERROR_ARGUMENT, "the generator belongs to another context, or "
                           "the attack has targets or another ball than l-infinity's");
    if (in->shape.h != o->height || in->shape.w != o->width || in->shape.c != o->channels ||
        classes != o->classes)
        return l2lda__fail(c, L2L_ERROR_SHAPE, "the generator was made for images of %dx%dx%d "
                           "(HxWxC) and %d classes, not for %dx%dx%d and %d", o->height, o->width,
                           o->channels, o->classes, in->shape.h, in->shape.w, in->shape.c,
                           classes);
    m->training = in->start != NULL;
    if (!m->training || !in->first) l2lda__statistics(m, true);
    if (m->training && !in->first) l2lda__statistics(m, false);
    if (m->training) return l2lda__begin_training(m, in);
    if (in->stream.epoch > 0)
        memcpy(in->adv->data, in->x->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    return true;
}

/* g_t of both draws; at t = 0 both are at the same point. */
static inline bool l2lda__gather(l2lda *m, l2l_inner *in, int t)
{
    int64_t one = l2l_count(in->shape);
    size_t bytes = (size_t)one * sizeof(l2l_real);
    memcpy(m->g[t]->data, in->g[t]->data, bytes);
    if (t > 0) return l2l_look(in, m->second, NULL, NULL, m->g[t]->data + one);
    memcpy(m->g[t]->data + one, in->g[t]->data, bytes);
    return !l2l_error(in->context);
}

/* delta_0 = x'_0 - x. x'_{t+1} of in->adv is left to the caller: in->delta leads there. */
static inline bool l2lda__step(void *self, l2l_inner *in)
{
    l2lda *m = (l2lda *)self;
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *from = in->memory[0], *to = from, *next = NULL;
    l2lda__inputs also;
    bool was = l2l_set_recording(c, false);
    int64_t one = l2l_count(in->shape), i;
    also.z = m->z;
    also.labels = m->labels;
    if (m->training) {
        from = m->delta[in->t];
        to = m->delta[in->t + 1];
        l2lda__gather(m, in, in->t);
    } else {
        also.z = l2l_zeros(c, l2l_shape_of(in->n, 1, 1, L2LDA_Z));
        also.labels = in->labels;
        if (also.z) l2lda__draw(in, 0, also.z->data);
    }
    for (i = 0; i < one && in->t == 0; i++) from->data[i] = in->adv->data[i] - in->x->data[i];
    if (m->training && in->t == 0)
        memcpy(from->data + one, from->data, (size_t)one * sizeof *from->data);
    also.delta = from;
    if (!l2l_error(c))
        next = l2lda__next(m, m->training ? m->x : in->x, m->training ? m->g[in->t] : in->g[in->t],
                           &also, m->training ? L2L_TRAIN : L2L_EVALUATE, false, in->epsilon);
    if (next) memcpy(to->data, next->data, (size_t)l2l_count(next->shape) * sizeof *to->data);
    for (i = 0; i < one && next; i++) {
        l2l_real x = in->x->data[i];
        in->delta->data[i] = l2lda__image(x, to->data[i]) - in->adv->data[i];
        if (m->training) m->second->data[i] = l2lda__image(x, to->data[one + i]);
    }
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !l2l_error(c);
}

/* All that an attack remembers of an image is in in->memory. */
static inline bool l2lda__keep(void *self, l2l_inner *in, const int *kept, int n)
{
    (void)self;
    (void)in;
    (void)kept;
    (void)n;
    return true;
}

/* ---- learning ----
 * With g_t taken for a constant: backwards over the steps, the cotangent of delta_{t+1} is what
 * step t+1 handed down plus, where x'_{t+1} was not clipped, the loss's own: of the cross-entropy
 * it is made of g_{t+1}, so the classifier does not run again. */

/* cotangent += that of Loss_G by delta_t directly, both halves; `batch` images in all its parts. */
static inline void l2lda__direct(const l2lda *m, int t, int batch, l2l_real *cotangent)
{
    int64_t all = l2l_count(m->x->shape) / 2, one = all / m->n, i;
    int n, k;
    for (n = 0; n < m->n; n++) {
        const l2l_real *za = m->z->data + (int64_t)n * L2LDA_Z;
        const l2l_real *zb = za + (int64_t)m->n * L2LDA_Z;
        double apart = 1e-8, pull; /* the authors' guard; lambda / (batch d |za - zb|) */
        for (k = 0; k < L2LDA_Z; k++) apart += fabs((double)za[k] - (double)zb[k]) / (int)L2LDA_Z;
        pull = m->options.diversity / ((double)batch * (double)one * apart);
        for (i = n * one; i < (n + 1) * one; i++) {
            l2l_real x = m->x->data[i], a = x + m->delta[t]->data[i];
            l2l_real b = x + m->delta[t]->data[all + i];
            l2l_real xa = l2lda__image(x, m->delta[t]->data[i]);
            l2l_real xb = l2lda__image(x, m->delta[t]->data[all + i]);
            double side = (xa > xb) - (xa < xb);
            if (a >= 0 && a <= 1)
                cotangent[i] -= (l2l_real)((double)m->g[t]->data[i] / (2.0 * batch) + side * pull);
            if (b >= 0 && b <= 1)
                cotangent[all + i] -= (l2l_real)((double)m->g[t]->data[all + i] / (2.0 * batch) -
                                                 side * pull);
        }
    }
}

/* Step t once more, on the tape, and back: adds to the sums; the cotangent of delta_{t+1} becomes
 * that of delta_t. Running statistics have moved already. */
static inline bool l2lda__back(l2lda *m, int t, l2l_tensor *cotangent)
{
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, true);
    l2lda__inputs also;
    l2l_tensor *y;
    int64_t j;
    int i;
    also.delta = m->theta[m->n_theta] = m->delta[t];
    also.z = m->z;
    also.labels = m->labels;
    y = l2lda__next(m, m->x, m->g[t], &also, L2L_TRAIN, true, m->epsilon);
    if (y && l2l_vjp(c, y, cotangent, m->theta, m->n_theta + (t > 0), m->found, L2L_FREE_GRAPH)) {
        for (i = 0; i < m->n_theta; i++)
            for (j = 0; j < l2l_count(m->theta[i]->shape); j++)
                m->sums[i][j] += m->found[i]->data[j];
        if (t > 0)
            memcpy(cotangent->data, m->found[m->n_theta]->data,
                   (size_t)l2l_count(cotangent->shape) * sizeof *cotangent->data);
    }
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !l2l_error(c);
}

static inline bool l2lda__gradient(void *self, l2l_inner *in)
{
    l2lda *m = (l2lda *)self;
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *cotangent = l2l_zeros(c, m->x->shape);
    int i, t;
    for (i = 0; !in->first && i < m->n_theta; i++)
        memset(m->sums[i], 0, (size_t)l2l_count(m->theta[i]->shape) * sizeof *m->sums[i]);
    if (cotangent && l2lda__gather(m, in, in->T))
        for (t = in->T; t > 0; t--) {
            l2lda__direct(m, t, in->batch, cotangent->data);
            if (!l2lda__back(m, t - 1, cotangent)) break;
        }
    l2l_release(c, mark);
    return !l2l_error(c);
}

static inline bool l2lda__update(void *self, l2l_inner *in)
{
    l2lda *m = (l2lda *)self;
    (void)in;
    if (!l2l_optimizer_step(m->optimizer, m->values, m->sums, 1)) return false;
    m->kept[0] = 0;
    l2l_model_changed(m->net);
    return true;
}

/* What theta descends: the mean CE over x, x'_a and x'_b, in one batch. */
static inline l2l_tensor *l2lda__outer(l2l_model *f, l2l_tensor *x, l2l_tensor *adv,
                                       const int *labels, void *user)
{
    l2lda *m = (l2lda *)user;
    l2l_context *c = l2l_model_context(f);
    const l2l_tensor *from[3];
    l2l_tensor *all, *z;
    l2l_shape s = x->shape;
    int64_t one = l2l_count(s);
    int n = s.n, i;
    (void)labels;
    if (!m || !m->training || m->clean != x) {
        l2lda__fail(c, L2L_ERROR_ARGUMENT, "l2lda: its outer loss needs its own maximizer");
        return NULL;
    }
    from[0] = x;
    from[1] = adv;
    from[2] = m->second;
    s.n = 3 * n;
    if (!(all = l2l_zeros(c, s))) return NULL;
    for (i = 0; i < 3; i++)
        memcpy(all->data + i * one, from[i]->data, (size_t)one * sizeof *all->data);
    z = l2l_model_forward(f, all, L2L_TRAIN);
    if (!z || !l2l_predict(c, z, m->predicted)) return NULL;
    l2l_outer_predicted(f, m->predicted + n, n);
    return l2l_mean(c, l2l_cross_entropy(c, z, m->labels));
}

/* ---- checkpoints ----
 * Two settings, the optimizer's, its number of steps; G with its running statistics; the
 * optimizer's moments: the order of version 0.4.1, in which the optimizer's numbers are apart. */

enum { L2LDA__OWN = 2, L2LDA__OPTIMIZER = 10 };

static inline int64_t l2lda__numbers(const l2lda *m)
{
    int64_t n = 0;
    int i;
    for (i = 0; i < l2l_model_parameters(m->net); i++)
        n += l2l_count(l2l_model_parameter(m->net, i).value->shape);
    return n;
}

static inline int64_t l2lda__pack(void *self, double *numbers)
{
    const l2lda *m = (const l2lda *)self;
    int64_t inside, outside, j;
    int i;
    if (!m) return 0; /* its creation failed: `begin` says so */
    inside = l2lda__numbers(m);
    outside = l2l_optimizer_pack(m->optimizer, NULL);
    l2lda__statistics(m, true);
    if (!numbers) return L2LDA__OWN + inside + outside;
    numbers[0] = m->options.width_multiplier;
    numbers[1] = m->options.diversity;
    numbers += L2LDA__OWN;
    l2l_optimizer_pack(m->optimizer, numbers);
    numbers += L2LDA__OPTIMIZER;
    memmove(numbers + inside, numbers, (size_t)(outside - L2LDA__OPTIMIZER) * sizeof *numbers);
    for (i = 0; i < l2l_model_parameters(m->net); i++) {
        const l2l_tensor *v = l2l_model_parameter(m->net, i).value;
        for (j = 0; j < l2l_count(v->shape); j++) *numbers++ = (double)v->data[j];
    }
    return L2LDA__OWN + inside + outside;
}

static inline bool l2lda__unpack(void *self, const double *numbers, int64_t count)
{
    static const char *const names[L2LDA__OWN] = {"width_multiplier", "diversity"};
    const double most = sizeof(l2l_real) == sizeof(float) ? (double)FLT_MAX : DBL_MAX;
    l2lda *m = (l2lda *)self;
    l2l_context *c;
    int64_t inside, outside, j;
    double here[L2LDA__OWN], *moments;
    bool ok;
    int i;
    if (!m) return false;
    c = m->context;
    inside = l2lda__numbers(m);
    outside = l2l_optimizer_pack(m->optimizer, NULL);
    here[0] = m->options.width_multiplier;
    here[1] = m->options.diversity;
    if (count != L2LDA__OWN + inside + outside)
        return l2lda__fail(c, L2L_ERROR_MISMATCH, "checkpoint: a generator of %.0f numbers, not "
                           "%.0f", (double)count, (double)(L2LDA__OWN + inside + outside));
    for (i = 0; i < L2LDA__OWN; i++)
        if (!(numbers[i] >= here[i] && numbers[i] <= here[i]))
            return l2lda__fail(c, L2L_ERROR_MISMATCH, "checkpoint: made with a generator whose %s "
                               "is %g, not %g", names[i], numbers[i], here[i]);
    numbers += L2LDA__OWN;
    for (j = L2LDA__OPTIMIZER; j < L2LDA__OPTIMIZER + inside; j++)
        if (fabs(numbers[j]) > most && fabs(numbers[j]) <= DBL_MAX)
            return l2lda__fail(c, L2L_ERROR_FORMAT, "checkpoint: a weight of the generator is %g: "
                               "too large", numbers[j]);
    moments = (double *)l2l_allocate(c, (size_t)outside * sizeof *moments);
    if (!moments) return false;
    memcpy(moments, numbers, L2LDA__OPTIMIZER * sizeof *moments);
    numbers += L2LDA__OPTIMIZER;
    memcpy(moments + L2LDA__OPTIMIZER, numbers + inside,
           (size_t)(outside - L2LDA__OPTIMIZER) * sizeof *moments);
    ok = l2l_optimizer_unpack(m->optimizer, moments, outside);
    l2l_free(c, moments);
    if (!ok) return false;
    for (i = 0; i < l2l_model_parameters(m->net); i++) {
        l2l_tensor *v = l2l_model_parameter(m->net, i).value;
        for (j = 0; j < l2l_count(v->shape); j++) v->data[j] = (l2l_real)*numbers++;
    }
    m->kept[0] = 0;
    l2l_model_changed(m->net);
    return true;
}

/* ---- as a maximizer, an attack, a method ---- */

static inline l2l_maximizer l2lda_maximizer(l2lda *m)
{
    l2l_maximizer r;
    memset(&r, 0, sizeof r);
    r.name = "l2lda";
    r.self = m;
    r.memory = 1; /* an attack's delta_t */
    r.begin = l2lda__begin;
    r.step = l2lda__step;
    r.keep = l2lda__keep;
    r.gradient = l2lda__gradient;
    r.update = l2lda__update;
    r.pack = l2lda__pack;
    r.unpack = l2lda__unpack;
    return r;
}

/* As an attack, "l2lda": 10 steps from x; each restart draws another z. */
static inline l2l_attack l2lda_attack(l2lda *m, double epsilon)
{
    l2l_attack a = l2l_attack_ifgsm(epsilon);
    a.name = "l2lda";
    a.maximizer = l2lda_maximizer(m);
    return a;
}

/* Its maximizer and its outer loss. */
static inline l2l_method l2lda_method(l2lda *m)
{
    l2l_method r = l2l_method_plain();
    r.name = "l2lda";
    r.maximizer = l2lda_maximizer(m);
    memset(&r.outer, 0, sizeof r.outer);
    r.outer.name = "l2lda";
    r.outer.loss = l2lda__outer;
    r.outer.user = m;
    return r;
}

/* ---- files, with the tensors' names of its authors' code ----
 * A failed load leaves the generator as it was. */

/* The running statistics are the file's, not those kept of a step that failed before. */
static inline bool l2lda__loaded(l2lda *m, bool ok)
{
    if (ok) m->kept[0] = 0;
    return ok;
}

static inline bool l2lda_load_memory(l2lda *m, const void *data, size_t bytes)
{
    int extra;
    return l2lda__loaded(m, l2l_model_load_memory(l2lda_network(m), data, bytes, &extra));
}

/* *data is to be given back with l2l_free. */
static inline bool l2lda_save_memory(const l2lda *m, void **data, size_t *bytes)
{
    return m && l2lda__statistics(m, true) && l2l_model_save_memory(m->net, data, bytes);
}

#ifndef L2LADV_NO_STDIO
static inline bool l2lda_load(l2lda *m, const char *path)
{
    int extra;
    return l2lda__loaded(m, l2l_model_load(l2lda_network(m), path, &extra));
}

static inline bool l2lda_save(const l2lda *m, const char *path)
{
    return m && l2lda__statistics(m, true) && l2l_model_save(m->net, path);
}

/* Makes a generator from a file's own metadata. */
static inline l2lda *l2lda_open(l2l_context *c, const char *path)
{
    l2lda_options o = l2lda_default();
    l2l_model_options any = l2lda__network(&o);
    l2l_model *net = l2l_model_open_as(c, path, &any);
    if (!net) return NULL;
    o.channels = l2l_model_info(net)->channels;
    o.height = l2l_model_info(net)->height;
    o.width = l2l_model_info(net)->width;
    o.classes = l2l_model_info(net)->classes;
    o.width_multiplier = l2l_model_info(net)->width_multiplier;
    return l2lda__around(c, net, &o);
}
#endif

#endif /* L2LDA_H */
