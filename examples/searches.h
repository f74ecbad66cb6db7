/* searches.h - attacks that look for the nearest adversarial image: Carlini and Wagner's, DeepFool,
 * Sign-OPT; the CW of L2LDA's tables; and maximizers: steps that shrink, Adam, the line search.
 * C99 or C++11, on the seam for searches of one's own (../l2ladv.h, 2.9) and other public calls; the
 * functions are static.
 *
 * Each makes an l2l_attack for l2l_attack_run and evaluations. Where nothing else is said the nearest
 * of all images that the search saw is returned, or the clean one if none was adversarial; epsilon
 * only says how near is near enough. */
#ifndef SEARCHES_H
#define SEARCHES_H

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../l2ladv.h"

#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FAST_MATH__) || \
    defined(_M_FP_FAST)
#error "searches.h: -ffinite-math-only (in -ffast-math, -Ofast) takes the checks for NaN away"
#endif

static inline int64_t search__refuse(l2l_inner *in, const l2l_attack *a, const char *why)
{
    char text[200];
    snprintf(text, sizeof text, "attack %s: %s", a->name, why);
    l2l_error_set(in->context, L2L_ERROR_ARGUMENT, text);
    return 0;
}

static inline l2l_real search__pixel(double v) { return (l2l_real)(v < 0 ? 0 : v > 1 ? 1 : v); }

/* A whole number from `least` to a million. */
static inline bool search__whole(double v, double least)
{
    return v >= least && v <= 1e6 && v <= floor(v);
}

/* The place in C,H,W order of element j of an image, by which random numbers go. */
static inline uint32_t search__place(l2l_shape s, int64_t j)
{
    return (uint32_t)(j % s.c * s.h * s.w + j / s.c);
}

/* After class `last` (-1: the first) the next in the order of logits, the lower number on ties, the
 * label left out. */
static inline int search__next_class(const l2l_real *z, int classes, int label, int last)
{
    int best = -1;
    for (int k = 0; k < classes; k++) {
        if (k == label || k == last) continue;
        if (last >= 0 && (z[k] > z[last] || (!(z[k] < z[last]) && k < last))) continue;
        if (best < 0 || z[k] > z[best]) best = k;
    }
    return best < 0 ? (label + 1) % classes : best; /* not numbers: any */
}

/* ---- Carlini and Wagner 2017, l2 ----
 * Descends |x' - x|^2 + constant * max(confidence - margin, 0) by Adam in w, where x' = (tanh(w) +
 * 1)/2 keeps the range without clipping; pixels at 0 and 1 are first drawn in by 5e-7, or their w
 * were infinite and stayed so. A descent for each of the constants, which are bisected; it ends early
 * where a tenth of the steps gained less than 0.01 %. In memory: w, Adam's two moments. */

typedef struct cw__course {
    double constant, low, high; /* it is bisected between these */
    double previous;            /* the loss a tenth of the steps before */
    int search, k;              /* constants tried, steps made with this one */
    bool found;                 /* with this one */
} cw__course;

static inline double cw__base(l2l_real x) { return 0.5 + 0.999999 * ((double)x - 0.5); }

static inline int64_t cw__begin(l2l_inner *in, const l2l_attack *a)
{
    if (!search__whole(a->number[0], 1))
        return search__refuse(in, a, "number[0], the constants tried, is not a whole number in "
                                     "1..1000000");
    if (!(a->number[1] > 0 && a->number[1] <= 1e10))
        return search__refuse(in, a, "number[1], the first constant, is not in (0,1e10]");
    return (int64_t)a->number[0] * a->steps;
}

static inline void cw__prepare(l2l_inner *in)
{
    if (in->t > 1)
        l2l_finite_images(in, "the gradient is too large: Adam's mean of its square at pixel",
                          in->memory[1]);
}

static inline void cw__point(const l2l_spot *p)
{
    cw__course *s = (cw__course *)p->state;
    l2l_real *w = p->memory[0];
    if (p->in->t == 1) {
        s->constant = p->attack->number[1];
        s->high = 1e10;
    }
    if (s->k == 0) { /* another constant: from the start */
        const l2l_real *start = l2l_spot_init(p, p->z) ? p->z : p->x;
        s->found = false;
        s->previous = HUGE_VAL;
        for (int64_t j = 0; j < p->n; j++) {
            p->memory[1][j] = p->memory[2][j] = 0;
            w[j] = (l2l_real)atanh(2 * cw__base(start[j]) - 1);
        }
    }
    for (int64_t j = 0; j < p->n; j++) p->z[j] = (l2l_real)((tanh((double)w[j]) + 1) / 2);
}

/* With g the gradient of the margin, which short of the confidence counts, and dx'/dw:
 *     dw = (2 (x' - x) - constant g) 2 x' (1 - x') */
static inline void cw__descend(const l2l_spot *p, bool fallen_short)
{
    const l2l_optimizer_options o = l2l_adam_default();
    const cw__course *s = (const cw__course *)p->state;
    const l2l_real b1 = (l2l_real)o.beta1, b2 = (l2l_real)o.beta2, epsilon = (l2l_real)o.epsilon;
    const l2l_real rate = (l2l_real)(p->attack->step_size / (1 - pow(o.beta1, s->k)));
    const l2l_real root = (l2l_real)(1 / sqrt(1 - pow(o.beta2, s->k)));
    l2l_real *w = p->memory[0], *m = p->memory[1], *v = p->memory[2];
    for (int64_t j = 0; j < p->n; j++) {
        double z = (double)p->z[j], d = 2 * (z - cw__base(p->x[j]));
        if (fallen_short) d -= s->constant * (double)p->g[j];
        l2l_real dw = (l2l_real)(d * 2 * z * (1 - z));
        m[j] = b1 * m[j] + (1 - b1) * dw;
        v[j] = b2 * v[j] + (1 - b2) * dw * dw;
        w[j] -= rate * m[j] / ((l2l_real)sqrt((double)v[j]) * root + epsilon);
    }
}

static inline void cw__seen(const l2l_spot *p)
{
    const l2l_attack *a = p->attack;
    cw__course *s = (cw__course *)p->state;
    int tenth = a->steps < 10 ? 1 : a->steps / 10;
    double lack = fmax(a->objective.confidence - p->loss, 0);
    double d = l2l_norm2(p->z, p->x, p->n), loss = d * d + s->constant * lack;
    bool last = ++s->k == a->steps;
    if (p->fooled && lack <= 0) {
        s->found = true;
        l2l_spot_keep_nearest(p);
    }
    if ((s->k - 1) % tenth == 0) {
        last = last || loss > 0.9999 * s->previous;
        s->previous = loss;
    }
    if (!last) {
        cw__descend(p, lack > 0);
        return;
    }
    if (s->found) s->high = fmin(s->high, s->constant);
    else s->low = fmax(s->low, s->constant);
    s->constant = s->high < 1e10 ? (s->low + s->high) / 2 : fmin(10 * s->constant, 1e10);
    s->k = 0;
    if (++s->search == (int)a->number[0]) l2l_spot_end(p);
}

static const l2l_search cw__search = {
    sizeof(cw__course), 3, true, true, false, false, cw__begin, cw__prepare, cw__point, cw__seen};

/* `steps` (1,000; the authors' program 10,000) at rate step_size (0.01) for each of number[0] (9)
 * constants, number[1] (1e-3) first; objective.confidence is 0. */
static inline l2l_attack l2l_attack_cw_l2(double epsilon)
{
    l2l_attack a = l2l_search_attack("cw-l2", epsilon, L2L_L2, 1000, &cw__search);
    a.step_size = 0.01;
    a.number[0] = 9;
    a.number[1] = 1e-3;
    return a;
}

/* ---- DeepFool (Moosavi-Dezfooli et al. 2016) ----
 * With f = z_k - z_y and w its gradient, the boundary to class k is |f|/|w|* away, |w|* being the
 * dual norm: |w|_1 for l-infinity, |w|_2 for l2. Each step goes just across the nearest of these.
 * In memory: the way so far, and w of the nearest boundary. */

typedef struct deepfool__course {
    double at; /* distance of the nearest boundary */
    int rank;  /* the class that was looked at last */
} deepfool__course;

static inline double deepfool__dual(l2l_norm norm, const l2l_real *w, int64_t n)
{
    double sum = 0;
    if (norm == L2L_L2) return l2l_norm2(w, NULL, n);
    for (int64_t j = 0; j < n; j++) sum += fabs((double)w[j]);
    return sum;
}

/* The boundaries between each image's label and the class of the next rank, at logits z: kept where
 * they are the nearest so far. */
static inline bool deepfool__rank(l2l_inner *in, l2l_tensor *z)
{
    int classes = z->shape.c;
    l2l_tensor *dz = l2l_zeros(in->context, z->shape), *g;
    for (int i = 0; dz && i < in->n; i++) {
        l2l_spot p = l2l_spot_of(in, i);
        deepfool__course *s = (deepfool__course *)p.state;
        int y = in->labels[i];
        s->rank = search__next_class(z->data + i * classes, classes, y, s->rank);
        dz->data[i * classes + s->rank] = 1;
        dz->data[i * classes + y] = -1;
        p.record->backwards += !in->done[i];
    }
    in->backwards++;
    if (!dz || !l2l_vjp(in->context, z, dz, &in->adv, 1, &g, 0)) return false;
    l2l_finite_images(in, "the gradient of pixel", g);
    for (int i = 0; i < in->n; i++) {
        l2l_spot p = l2l_spot_of(in, i);
        deepfool__course *s = (deepfool__course *)p.state;
        const l2l_real *row = z->data + i * classes, *w = g->data + i * p.n;
        double f = fabs((double)row[s->rank] - (double)row[in->labels[i]]);
        double dual = deepfool__dual(in->norm, w, p.n);
        if (!(dual > 0 && f / dual < s->at)) continue;
        s->at = f / dual;
        memcpy(p.memory[1], w, (size_t)p.n * sizeof *w);
    }
    return true;
}

/* One pass forward and, for each rank of the candidates, one back. */
static inline void deepfool__prepare(l2l_inner *in)
{
    const l2l_attack *a = l2l_spot_of(in, 0).attack;
    if (in->t == 1 && a->init) return; /* a given start may be across the boundary already */
    l2l_context *c = in->context;
    l2l_pass how = l2l_model_pass(in->model);
    l2l_mark mark = l2l_mark_here(c), here;
    int classes = l2l_model_info(in->model)->classes;
    bool was = l2l_set_recording(c, true), more = true;
    how.mode = in->mode;
    how.frozen = true;
    l2l_tensor *z = l2l_model_run(in->model, in->adv, &how);
    in->forwards++;
    l2l_finite_images(in, "the logit of class", z);
    for (int i = 0; i < in->n; i++) {
        l2l_spot p = l2l_spot_of(in, i);
        deepfool__course *s = (deepfool__course *)p.state;
        s->rank = -1;
        s->at = HUGE_VAL;
        p.record->forwards += !in->done[i];
    }
    for (int rank = 1; z && more && rank < classes && rank < a->number[0]; rank++) {
        here = l2l_mark_here(c);
        more = deepfool__rank(in, z);
        l2l_release(c, here);
    }
    for (int i = 0; i < in->n; i++) { /* no gradient at all: nowhere to go */
        l2l_spot p = l2l_spot_of(in, i);
        if (((const deepfool__course *)p.state)->at <= DBL_MAX) continue;
        p.record->zero_gradients += !in->done[i];
        l2l_spot_end(&p);
    }
    l2l_set_recording(c, was);
    l2l_release(c, mark);
}

/* To the boundary and 1e-4 more along w, or in l-infinity along its signs. */
static inline void deepfool__point(const l2l_spot *p)
{
    const deepfool__course *s = (const deepfool__course *)p->state;
    bool l2 = p->attack->norm == L2L_L2, given = p->in->t == 1 && l2l_spot_init(p, p->z);
    double step = fmin(s->at, 1e30) + 1e-4, over = 1 + p->attack->number[1];
    l2l_real *way = p->memory[0];
    if (p->in->t == 1)
        for (int64_t j = 0; j < p->n; j++)
            way[j] = (l2l_real)(((double)p->z[j] - (double)p->x[j]) / over);
    if (given) return;
    if (l2) step /= l2l_norm2(p->memory[1], NULL, p->n);
    for (int64_t j = 0; j < p->n; j++) {
        l2l_real w = p->memory[1][j];
        way[j] += (l2l_real)(step * (l2 ? (double)w : (w > 0) - (w < 0)));
        p->z[j] = search__pixel((double)p->x[j] + over * (double)way[j]);
    }
}

static inline void deepfool__seen(const l2l_spot *p)
{
    if (!p->fooled) return;
    l2l_spot_keep_nearest(p);
    l2l_spot_end(p);
}

static inline int64_t deepfool__begin(l2l_inner *in, const l2l_attack *a)
{
    if (in->targeted) return search__refuse(in, a, "it has no targeted form");
    if (!search__whole(a->number[0], 2))
        return search__refuse(in, a, "number[0], the candidates, is not a whole number in "
                                     "2..1000000");
    if (!(a->number[1] >= 0))
        return search__refuse(in, a, "number[1], the overshoot, is not at least 0");
    return (int64_t)a->steps + (a->init != NULL);
}

static const l2l_search deepfool__search = {
    sizeof(deepfool__course), 2, false, true, true, false, deepfool__begin, deepfool__prepare,
    deepfool__point, deepfool__seen};

/* In l-infinity and l2: at most 50 steps, among the number[0] (10) likeliest classes, the label one of
 * them; number[1] is the overshoot, 0.02. No targets. An `init` is looked at first, one pass
 * more; where it is adversarial it is the answer. */
static inline l2l_attack l2l_attack_deepfool(double epsilon)
{
    l2l_attack a = l2l_search_attack("deepfool", epsilon, L2L_LINF, 50, &deepfool__search);
    a.number[0] = 10;
    a.number[1] = 0.02;
    return a;
}
static inline l2l_attack l2l_attack_deepfool_l2(double epsilon)
{
    l2l_attack a = l2l_attack_deepfool(epsilon);
    a.name = "deepfool-l2";
    a.norm = L2L_L2;
    return a;
}

/* ---- Sign-OPT (Cheng et al. 2020), l2 ----
 * By predicted labels alone. Along the unit direction d the boundary is g(d) away. Whether x + g(d) u
 * is adversarial for d's neighbour u is the sign of g's slope towards u; the sum of many such signs
 * times their directions is close to g's gradient. Its states, a query each:
 *
 *     FIND      the nearest of 100 noise images, each followed to the boundary    -> GRADIENT
 *     GRADIENT  a sign, for each of the candidates                               -> LINE
 *     LINE      down the gradient, twice the step as long as that helps          -> GRADIENT, or,
 *               at a minimum of g near by, where the authors end                 -> FIND
 *
 * In memory: d, the gradient, the direction tried. */

enum { SIGN_OPT__FIND = 0, SIGN_OPT__GRADIENT, SIGN_OPT__LINE };
enum { SIGN_OPT__TRIALS = 100 }; /* noise images at first */

typedef struct sign_opt__course {
    int phase, k;       /* the state; trials, signs or steps in it */
    double low, high;   /* the boundary is bisected between these, */
    double at, stride;  /* looked at here; 0: along a new direction */
    double radius, previous; /* g(d), and as it was before this line */
    double alpha, beta; /* the step of the line, of the signs */
    bool found;         /* on this line */
} sign_opt__course;

/* v becomes a unit vector; returns what its length was. */
static inline double sign_opt__unit(l2l_real *v, int64_t n)
{
    double norm = l2l_norm2(v, NULL, n);
    for (int64_t j = 0; j < n && norm > 0; j++) v[j] = (l2l_real)((double)v[j] / norm);
    return norm;
}

/* A new direction: first towards `init`, then noise, every other time of black and white, as much
 * of them as it happens (gray noise is often of one class); on a line down g. */
static inline void sign_opt__turn(const l2l_spot *p, const l2l_stream *r)
{
    sign_opt__course *s = (sign_opt__course *)p->state;
    l2l_real *v = p->memory[2];
    double share = l2l_random_uniform(r, (uint32_t)p->n), u;
    if (s->phase == SIGN_OPT__LINE)
        for (int64_t j = 0; j < p->n; j++)
            v[j] = (l2l_real)((double)p->memory[0][j] - s->alpha * (double)p->memory[1][j]);
    else if (s->k > 0 || p->distance < HUGE_VAL || !l2l_spot_init(p, v))
        for (int64_t j = 0; j < p->n; j++) {
            u = l2l_random_uniform(r, search__place(p->in->shape, j));
            v[j] = (l2l_real)(s->k % 2 ? u < share : u);
        }
    for (int64_t j = 0; s->phase == SIGN_OPT__FIND && j < p->n; j++) v[j] -= p->x[j];
    s->at = sign_opt__unit(v, p->n);
    if (s->radius > 0) s->at = s->radius;
}

static inline void sign_opt__point(const l2l_spot *p)
{
    sign_opt__course *s = (sign_opt__course *)p->state;
    l2l_real *d = p->memory[0], *v = p->memory[2];
    l2l_stream r;
    double away;
    memset(&r, 0, sizeof r);
    r.seed = p->attack->seed;
    r.purpose = L2L_RANDOM_SEARCH;
    r.image = p->in->images[p->i];
    r.step = (uint32_t)p->in->t;
    if (p->in->t == 1) {
        s->alpha = 0.02;
        s->beta = 1e-3;
    }
    if (s->phase == SIGN_OPT__GRADIENT) { /* along d + beta v */
        for (int64_t j = 0; j < p->n; j++)
            v[j] = (l2l_real)l2l_random_normal(&r, search__place(p->in->shape, j));
        sign_opt__unit(v, p->n);
        for (int64_t j = 0; j < p->n; j++)
            p->z[j] = (l2l_real)((double)d[j] + s->beta * (double)v[j]);
        away = s->radius / l2l_norm2(p->z, NULL, p->n);
    } else {
        if (s->stride <= 0) sign_opt__turn(p, &r);
        memcpy(p->z, v, (size_t)p->n * sizeof *v);
        away = s->at;
    }
    for (int64_t j = 0; j < p->n; j++)
        p->z[j] = search__pixel((double)p->x[j] + away * (double)p->z[j]);
}

/* The direction tried led to the boundary at s->high, or no nearer to it than before: what next? On a
 * line twice the step as long as that helps, and a quarter until it does. Where that gains too little
 * the gradient wants a smaller beta, and with the smallest this is the end of the road. */
static inline void sign_opt__next(const l2l_spot *p, bool nearer)
{
    sign_opt__course *s = (sign_opt__course *)p->state;
    size_t bytes = (size_t)p->n * sizeof(l2l_real);
    s->k++;
    s->stride = 0;
    if (nearer) {
        s->radius = s->high;
        memcpy(p->memory[0], p->memory[2], bytes);
    }
    if (s->phase == SIGN_OPT__FIND) {
        if (s->k < SIGN_OPT__TRIALS) return;
        if (!(s->radius > 0)) l2l_spot_end(p); /* all noise is taken for the label */
    } else if (nearer) {
        s->found = true;
        s->alpha *= 2;
        return;
    } else {
        s->alpha /= s->found ? 2 : 4;
        if (!s->found && s->alpha >= 1e-5) return;
        if (s->radius > 0.999 * s->previous) {
            s->alpha = 0.02;
            s->beta /= 10;
        }
    }
    s->phase = s->beta < 5e-5 ? SIGN_OPT__FIND : SIGN_OPT__GRADIENT;
    if (s->phase == SIGN_OPT__FIND) {
        s->beta = 1e-3;
        s->radius = 0;
    }
    s->k = 0;
    s->previous = s->radius;
    memset(p->memory[1], 0, bytes);
}

static inline void sign_opt__seen(const l2l_spot *p)
{
    sign_opt__course *s = (sign_opt__course *)p->state;
    if (p->fooled) l2l_spot_keep_nearest(p);
    if (s->phase == SIGN_OPT__GRADIENT) {
        l2l_real *g = p->memory[1], *v = p->memory[2];
        for (int64_t j = 0; j < p->n; j++) g[j] += p->fooled ? -v[j] : v[j];
        if (++s->k < p->attack->number[0]) return;
        sign_opt__unit(g, p->n);
        s->phase = SIGN_OPT__LINE;
        s->found = false;
        return;
    }
    if (s->stride <= 0 && !p->fooled) {
        sign_opt__next(p, false);
        return;
    }
    if (s->stride <= 0) s->low = 0; /* the boundary is nearer: bracket it, then bisect */
    if (p->fooled) s->high = s->at;
    else s->low = s->at;
    s->stride = s->stride > 0 ? 2 * s->stride : 0.01;
    if (s->low <= 0) s->at = s->high / (1 + s->stride);
    else if (s->high - s->low > s->beta / 500 * s->high) s->at = (s->low + s->high) / 2;
    else sign_opt__next(p, true);
}

static inline int64_t sign_opt__begin(l2l_inner *in, const l2l_attack *a)
{
    if (!search__whole(a->number[0], 2))
        return search__refuse(in, a, "number[0], the candidates, is not a whole number in "
                                     "2..1000000");
    return in->norm == L2L_L2 ? a->steps : search__refuse(in, a, "only in l2");
}

static const l2l_search sign_opt__search = {
    sizeof(sign_opt__course), 3, false, false, false, false, sign_opt__begin, NULL, sign_opt__point,
    sign_opt__seen};

/* From `init`, where that is adversarial, or a noise image to the boundary and along it; `steps`
 * queries: 5,000; number[0] directions for one gradient: 100. A model behind callbacks that knows
 * no more than a label may give one-hot logits. */
static inline l2l_attack l2l_attack_sign_opt(double epsilon)
{
    l2l_attack a = l2l_search_attack("sign-opt", epsilon, L2L_L2, 5000, &sign_opt__search);
    a.number[0] = 100;
    a.queries = true;
    return a;
}

/* ---- maximizers: steps that shrink, Adam ---- */

/* alpha_t = 2 alpha (T-t) / (T+1), t = 0 .. T-1: their sum is T alpha. */
static inline bool decay__step(void *self, l2l_inner *in)
{
    const l2l_real alpha = (l2l_real)(2 * in->step_size * (in->T - in->t) / (in->T + 1.0));
    const l2l_real *g = in->g[in->t]->data;
    int64_t n = l2l_count(in->shape), j;
    (void)self;
    for (j = 0; j < n; j++) in->delta->data[j] = g[j] > 0 ? alpha : g[j] < 0 ? -alpha : 0;
    return true;
}

/* 2 step_size (T-t)/(T+1) sign(g): PGD whose steps shrink, and add up to those of PGD. */
static inline l2l_maximizer l2l_maximizer_decay(void)
{
    l2l_maximizer m = l2l_maximizer_none();
    m.name = "decay";
    m.step = decay__step;
    return m;
}

/* The penalty's gradient is that of the pixel that is farthest away, the first of several. Beyond
 * sqrt(FLT_MAX) a gradient's square is infinite, and Adam would stand still. */
static inline bool adam__step(void *self, l2l_inner *in)
{
    const l2l_optimizer_options o = l2l_adam_default();
    const double t = in->t + 1;
    const l2l_real b1 = (l2l_real)o.beta1, b2 = (l2l_real)o.beta2, epsilon = (l2l_real)o.epsilon;
    const l2l_real rate = (l2l_real)(in->step_size / (1 - pow(o.beta1, t)));
    const l2l_real root = (l2l_real)(1 / sqrt(1 - pow(o.beta2, t)));
    int64_t one = l2l_count(in->shape) / in->n, at, j;
    (void)self;
    if (!in->memory[1]) {
        l2l_error_set(in->context, L2L_ERROR_ARGUMENT, "a maximizer that steps by Adam must have a "
                      "memory of 2");
        return false;
    }
    for (at = 0; at < in->n * one; at += one) {
        const l2l_real *x = in->x->data + at, *z = in->adv->data + at;
        l2l_real *g = in->g[in->t]->data + at; /* ours to change: nobody reads it any more */
        l2l_real *m = in->memory[0]->data + at, *v = in->memory[1]->data + at;
        int64_t most = 0;
        for (j = 1; j < one; j++)
            if (fabs((double)(z[j] - x[j])) > fabs((double)(z[most] - x[most]))) most = j;
        if (fabs((double)(z[most] - x[most])) > in->maximizer->number[0])
            g[most] -= z[most] > x[most] ? (l2l_real)1 : (l2l_real)-1;
        for (j = 0; j < one; j++) { /* Adam descends, L is to rise: hence the minus */
            const l2l_real d = -g[j];
            m[j] = b1 * m[j] + (1 - b1) * d;
            v[j] = b2 * v[j] + (1 - b2) * d * d;
            in->delta->data[at + j] =
                0 - rate * m[j] / ((l2l_real)sqrt((double)v[j]) * root + epsilon);
        }
    }
    l2l_finite_images(in, "the gradient is too large: Adam's mean of its square at pixel",
                      in->memory[1]);
    return !l2l_error(in->context);
}

/* Adam (0.9, 0.999, 1e-8) at rate step_size, up L - max over pixels of max(|x'_t - x| - tau, 0), per
 * image; tau = 1 leaves L alone. */
static inline l2l_maximizer l2l_maximizer_adam(double tau)
{
    l2l_maximizer m = l2l_maximizer_none();
    m.name = "adam";
    m.step = adam__step;
    m.memory = 2;
    m.number[0] = tau;
    return m;
}

/* ---- the CW of L2LDA's tables ----
 * What the program of Jang et al. (L2LDA, ICCV 2019) computes for its tables' CW100: 100 steps of
 * Adam from x at rate 0.001 on the margin, cut off at 0, with l2l_maximizer_adam's penalty at tau =
 * 8/255, and the last iterate. It is weak where epsilon is large, and this is how: no pixel gets much
 * beyond 100 * 0.001; tau is 8/255 on MNIST too; once fooled only the momentum is left, which can
 * lead back; and its search for the weight of the margin, ten runs, never hands that weight (1) to
 * the loss, so that all ten are this one. For comparison with those tables only. */
static inline l2l_attack l2l_attack_cw_l2lda(double epsilon)
{
    l2l_attack a = l2l_attack_ifgsm(epsilon);
    a.name = "cw-l2lda";
    a.steps = 100;
    a.step_size = 1e-3;
    a.maximizer = l2l_maximizer_adam(8.0 / 255);
    a.objective = l2l_objective_margin();
    a.objective.cut = true;
    a.last_iterate = true;
    return a;
}

/* ---- the line search, the paper's AdvTrain + BLS ----
 * Ascent with backtracking, per image: x+ = Proj(x'_t + alpha d), where d is sign(g) or, without
 * `sign`, g; accepted if L(x+) >= L(x'_t) + c <g, x+ - x'_t>. alpha begins at epsilon and shrinks by
 * rho, ten trials at most, else the image stays: L never falls. number[0] is rho, 1/2, number[1] c,
 * 1e-4. A trial is one more pass of the images still searching. Not for inner_mode L2L_TRAIN if a
 * layer knows the mode: L of an image would then depend on the others. */

/* n integers of 4 bytes, which the next l2l_release takes back. */
static inline void *bls__integers(l2l_context *c, int n)
{
    l2l_tensor *t = l2l_zeros(c, l2l_shape_of(n, 1, 1, 1));
    return t ? t->data : NULL;
}

static inline void bls__copy(l2l_tensor *to, int at, const l2l_tensor *from, int image)
{
    size_t one = (size_t)(l2l_count(from->shape) / from->shape.n);
    memcpy(to->data + (size_t)at * one, from->data + (size_t)image * one, one * sizeof *to->data);
}

/* x'_t + delta, put into the ball around x and into [0,1]; NULL after an error. */
static inline l2l_tensor *bls__moved(l2l_inner *in)
{
    int64_t one = l2l_count(in->shape) / in->n, j;
    l2l_tensor *z;
    l2l_finite_images(in, "the maximizer's step of pixel", in->delta);
    z = l2l_add(in->context, in->adv, in->delta);
    for (int n = 0; z && in->norm == L2L_L2 && n < in->n; n++) {
        l2l_real *v = z->data + n * one;
        const l2l_real *x = in->x->data + n * one;
        double norm = l2l_norm2(v, x, one);
        l2l_real shrink = (l2l_real)(in->epsilon / norm);
        for (j = 0; norm > in->epsilon && j < one; j++) v[j] = x[j] + shrink * (v[j] - x[j]);
    }
    return z ? l2l_project(in->context, z, in->x, in->norm == L2L_L2 ? 1 : in->epsilon) : NULL;
}

/* A trial of the images numbered search[0..m-1]: delta = alpha d, and L at what it leads to by one
 * pass of them alone. Those that do not accept move to the front of `search`; how many. */
static inline int bls__trial(l2l_inner *in, l2l_real alpha, bool sign, int *search, int m)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    l2l_inner some = *in; /* the inner problem of these images */
    l2l_tensor *clean = in->clean_logits, *moved, *loss = l2l_zeros(c, l2l_shape_of(m, 1, 1, 1));
    int64_t one = l2l_count(in->shape) / in->n, j;
    int *labels = (int *)bls__integers(c, m), left = 0, k;
    uint32_t *images = (uint32_t *)bls__integers(c, m);
    some.n = some.shape.n = m;
    some.done = NULL;
    some.x = l2l_zeros(c, some.shape);
    some.adv = l2l_zeros(c, some.shape);
    some.delta = l2l_zeros(c, some.shape);
    if (clean) some.clean_logits = l2l_zeros(c, l2l_shape_of(m, 1, 1, clean->shape.c));
    for (k = 0; k < m && !l2l_error(c); k++) {
        const l2l_real *g = in->g[in->t]->data + search[k] * one;
        l2l_real *d = in->delta->data + search[k] * one;
        for (j = 0; j < one; j++)
            d[j] = !sign ? (l2l_real)(alpha * g[j]) : g[j] > 0 ? alpha : g[j] < 0 ? -alpha : 0;
        bls__copy(some.x, k, in->x, search[k]);
        bls__copy(some.adv, k, in->adv, search[k]);
        bls__copy(some.delta, k, in->delta, search[k]);
        if (clean) bls__copy(some.clean_logits, k, clean, search[k]);
        labels[k] = in->labels[search[k]];
        images[k] = in->images[search[k]];
    }
    some.labels = labels;
    some.images = images;
    moved = l2l_error(c) ? NULL : bls__moved(&some);
    if (moved) l2l_look(&some, moved, loss->data, NULL, NULL);
    in->forwards = some.forwards;
    for (k = 0; k < m && !l2l_error(c); k++) {
        const l2l_real *g = in->g[in->t]->data + search[k] * one;
        const l2l_real *x = in->adv->data + search[k] * one, *z = moved->data + k * one;
        double rise = 0;
        if (in->trials) in->trials[search[k]]++;
        for (j = 0; j < one; j++) rise += (double)g[j] * ((double)z[j] - (double)x[j]);
        if (!((double)loss->data[k] >=
              (double)in->loss[search[k]] + in->maximizer->number[1] * rise))
            search[left++] = search[k];
    }
    l2l_release(c, mark);
    return left;
}

/* in->loss is L(x'_t), left there by the look that found g_t. */
static inline bool bls__step(l2l_inner *in, bool sign)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    const double rho = in->maximizer->number[0], least = in->maximizer->number[1];
    size_t one = (size_t)(l2l_count(in->shape) / in->n);
    int *search = (int *)bls__integers(c, in->n), n = 0, trial, i;
    double alpha = in->epsilon;
    char text[160];
    if (in->mode == L2L_TRAIN && l2l_model_mode_matters(in->model))
        l2l_error_set(c, L2L_ERROR_ARGUMENT, "line search: in training mode (inner_mode) this "
                      "model's loss of one image depends on the others");
    snprintf(text, sizeof text, "line search: rho %g (number[0]) is not in (0,1), or c %g "
             "(number[1]) is negative", rho, least);
    if (!(rho > 0 && rho < 1 && least >= 0)) l2l_error_set(c, L2L_ERROR_ARGUMENT, text);
    for (i = 0; search && i < in->n; i++)
        if (in->done && in->done[i])
            memset(in->delta->data + (size_t)i * one, 0, one * sizeof(l2l_real));
        else search[n++] = i;
    for (trial = 0; trial < 10 && n > 0 && !l2l_error(c); trial++, alpha *= rho)
        n = bls__trial(in, (l2l_real)alpha, sign, search, n);
    for (i = 0; i < n && !l2l_error(c); i++) /* no step is long enough and good: stay */
        memset(in->delta->data + (size_t)search[i] * one, 0, one * sizeof(l2l_real));
    l2l_release(c, mark);
    return !l2l_error(c);
}

static inline bool bls__along_sign(void *self, l2l_inner *in)
{
    (void)self;
    return bls__step(in, true);
}
static inline bool bls__along_gradient(void *self, l2l_inner *in)
{
    (void)self;
    return bls__step(in, false);
}

static inline l2l_maximizer l2l_maximizer_line_search(bool sign)
{
    l2l_maximizer m = l2l_maximizer_none();
    m.name = sign ? "line search" : "line search along g";
    m.step = sign ? bls__along_sign : bls__along_gradient;
    m.number[0] = 0.5;
    m.number[1] = 1e-4;
    return m;
}

/* Uniform start, 10 steps of the line search. */
static inline l2l_attack l2l_attack_bls(double epsilon)
{
    l2l_attack a = l2l_attack_pgd(epsilon);
    a.name = "bls";
    a.relative_step = 1;
    a.maximizer = l2l_maximizer_line_search(true);
    return a;
}

/* The line search in place of PGD. */
static inline l2l_method l2l_method_advtrain_bls(void)
{
    l2l_method m = l2l_method_advtrain();
    m.name = "advtrain-bls";
    m.maximizer = l2l_maximizer_line_search(true);
    return m;
}

#endif /* SEARCHES_H */
