/* autoattack.h - the attacks of AutoAttack (Croce and Hein 2020): APGD, its targeted form, FAB-T and
 * Square, and the ensemble of the four. C99 or C++11, on the seam for searches of one's own
 * (../l2ladv.h, 2.9) and other public calls; the functions are static.
 *
 *     l2l_attack all = l2l_attack_autoattack(8.0 / 255), four[AUTOATTACK_STAGES];
 *     autoattack_stages(m, &all, four);
 *     l2l_attack_worst(m, four, AUTOATTACK_STAGES, images, labels, n, adversarial, records);
 *
 * record.attack says which of them, 0 to 3, fooled an image. */
#ifndef AUTOATTACK_H
#define AUTOATTACK_H

#include <stdlib.h>

#include "searches.h"

static inline l2l_stream aa__stream(const l2l_spot *p, uint32_t walk, uint32_t step)
{
    l2l_stream r;
    r.seed = p->attack->seed;
    r.purpose = L2L_RANDOM_SEARCH;
    r.epoch = walk;
    r.image = p->in->images[p->i];
    r.step = step;
    return r;
}

/* Into the ball and the image range. */
static inline void aa__project(const l2l_spot *p, l2l_real *z)
{
    bool l2 = p->attack->norm == L2L_L2;
    l2l_real epsilon = (l2l_real)p->attack->epsilon;
    double norm = l2 ? l2l_norm2(z, p->x, p->n) : 0;
    l2l_real shrink = norm > p->attack->epsilon ? (l2l_real)(p->attack->epsilon / norm) : 1;
    for (int64_t j = 0; l2 && shrink < 1 && j < p->n; j++)
        z[j] = p->x[j] + shrink * (z[j] - p->x[j]);
    for (int64_t j = 0; j < p->n; j++) {
        l2l_real low = l2 ? 0 : p->x[j] - epsilon, high = l2 ? 1 : p->x[j] + epsilon, v = z[j];
        low = low > 0 ? low : 0;
        high = high < 1 ? high : 1;
        v = v < low ? low : v;
        z[j] = v > high ? high : v;
    }
}

/* ---- the difference of logits ratio ---- */

static inline l2l_objective aa__objective(const char *name,
                                          l2l_tensor *(*loss)(l2l_context *, l2l_tensor *,
                                                              l2l_tensor *, const int *, void *))
{
    l2l_objective o;
    memset(&o, 0, sizeof o);
    o.name = name;
    o.loss = loss;
    o.concurrent = true;
    return o;
}

static inline l2l_tensor *aa__undefined(l2l_context *c, const char *format, int classes)
{
    char text[160];
    snprintf(text, sizeof text, format, classes);
    l2l_error_set(c, L2L_ERROR_UNSUPPORTED, text);
    return NULL;
}

/* Room for a number of each image, on the arena. */
static inline int *aa__ints(l2l_context *c, int n)
{
    l2l_tensor *room = l2l_zeros(c, l2l_shape_of(n, 1, 1, 1));
    return room ? (int *)(void *)room->data : NULL; /* l2l_real is no smaller */
}

/* Of each row the logit number `rank` downwards, from 0. */
static inline l2l_tensor *aa__ranked(l2l_context *c, l2l_tensor *z, int rank)
{
    int *k = aa__ints(c, z->shape.n);
    for (int i = 0; k && i < z->shape.n; i++) {
        k[i] = -1;
        for (int r = 0; r <= rank; r++)
            k[i] = search__next_class(z->data + (int64_t)i * z->shape.c, z->shape.c, -1, k[i]);
    }
    return k ? l2l_pick(c, z, k) : NULL;
}

/* a / (z_pi1 - b + 1e-12) */
static inline l2l_tensor *aa__ratio(l2l_context *c, l2l_tensor *z, l2l_tensor *a, l2l_tensor *b)
{
    l2l_tensor *range = l2l_affine(c, l2l_sub(c, aa__ranked(c, z, 0), b), 1, 1e-12);
    return l2l_mul(c, a, l2l_power(c, range, -1));
}

static inline l2l_tensor *aa__dlr(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                  const int *labels, void *user)
{
    (void)clean;
    (void)user;
    if (logits->shape.c < 3)
        return aa__undefined(c, "the difference of logits ratio is not defined for %d classes, only "
                                "from 3 on: take the margin", logits->shape.c);
    return aa__ratio(c, logits, l2l_margin(c, logits, labels), aa__ranked(c, logits, 2));
}

/* The margin over z_pi1 - z_pi3, pi sorting the logits at x' downwards; neither scaling nor shifting
 * them changes it. From 3 classes on. */
static inline l2l_objective l2l_objective_dlr(void)
{
    return aa__objective("dlr", aa__dlr);
}

/* ---- Square (Andriushchenko et al. 2020) ----
 * In the ball, by scores, without gradients: random windows, kept when the objective (the margin)
 * rises. A window that changes no pixel counts, but its score is known. In memory: the best point
 * so far, which is the one that will be returned; in l2 also the window's eta. */

typedef struct square__course {
    int number; /* the window's */
    int side;   /* of the bumps in memory, 0: none */
} square__course;

/* The side of window number 1, 2, ...: number[0] of the image, halved after so many. */
static inline int square__side(const l2l_attack *a, l2l_shape s, int window)
{
    static const int halvings[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000};
    int side, most = s.h < s.w ? s.h : s.w;
    double share = a->number[0];
    for (int k = 0; k < (int)(sizeof halvings / sizeof *halvings) && window > halvings[k]; k++)
        share /= 2;
    side = (int)floor(sqrt(share * s.h * s.w) + 0.5);
    if (a->norm == L2L_L2) side = (side < 3 ? 3 : side) | 1; /* odd: the bumps have a middle */
    return side < 1 ? 1 : side > most ? most : side;
}

/* In l-infinity: x +- epsilon in columns left .. right-1 and rows top .. bottom-1 of z, with a sign
 * for each channel and, if it is no window, column. Does that change z? */
static inline bool square__paint(const l2l_spot *p, const l2l_stream *r, int left, int right,
                                 int top, int bottom, bool window)
{
    const l2l_shape s = p->in->shape;
    bool changed = false;
    for (int column = left; column < right; column++)
        for (int k = 0; k < s.c; k++) {
            uint32_t e = (uint32_t)(window ? 2 + k : k * s.w + column);
            double d = l2l_random_bits(r, e) & 1 ? p->in->epsilon : -p->in->epsilon;
            for (int y = top; y < bottom; y++) {
                int64_t j = ((int64_t)y * s.w + column) * s.c + k;
                l2l_real v = search__pixel((double)p->x[j] + d);
                changed = changed || v < p->z[j] || v > p->z[j];
                p->z[j] = v;
            }
        }
    return changed;
}

/* In l2: a bump on h rows and w columns, at row r and column q. The sum of 1/k^2 from k = 1 +
 * max(|r - h/2|, |q - w/2|), the distance from the middle, to 1 + max(h, w)/2. */
static inline double square__bump(int h, int w, int r, int q)
{
    int dr = abs(r - h / 2), dq = abs(q - w / 2), most = 1 + (h > w ? h : w) / 2;
    double sum = 0;
    for (int k = 1 + (dr > dq ? dr : dq); k <= most; k++) sum += 1.0 / k / k;
    return sum;
}

/* eta, side x side: one bump above and below it one of the other sign, each of the same length, 1
 * together. */
static inline void square__bumps(int side, l2l_real *eta)
{
    for (int part = side > 1 ? 0 : 1; part < 2; part++) { /* a single pixel has no upper half */
        const int h = part ? side - side / 2 : side / 2;
        double squares = 0, scale;
        for (int i = 0; i < h * side; i++) {
            double v = square__bump(h, side, i / side, i % side);
            squares += v * v;
        }
        scale = (part ? -1 : 1) / sqrt(side > 1 ? 2 * squares : squares);
        for (int i = 0; i < h * side; i++)
            *eta++ = (l2l_real)(scale * square__bump(h, side, i / side, i % side));
    }
}

/* A square of the image, and how eta lies in it. */
typedef struct square__window {
    int top, left, side;
    bool turned;         /* eta's bumps lie side by side */
    const l2l_real *eta; /* side x side */
} square__window;

static inline bool square__inside(const square__window *w, int row, int column)
{
    return row >= w->top && row < w->top + w->side && column >= w->left &&
           column < w->left + w->side;
}

static inline double square__sign(const l2l_stream *r, int element)
{
    return l2l_random_bits(r, (uint32_t)element) & 1 ? 1 : -1;
}

/* In channel k of the perturbation d, with |.| over the window:
 *     v = sign eta + d/(|d| + 1e-12),   d = length v/(|v| + 1e-12) */
static inline void square__fill(l2l_real *d, l2l_shape s, const square__window *w, int k,
                                double sign, double length)
{
    double old = 0, now = 0;
    for (int pass = 0; pass < 3; pass++) {
        for (int i = 0; i < w->side * w->side; i++) {
            int row = i / w->side, column = i % w->side;
            int64_t j = ((int64_t)(w->top + row) * s.w + w->left + column) * s.c + k;
            double v = (double)d[j], eta = (double)w->eta[w->turned ? column * w->side + row : i];
            if (pass > 0) v = v / old + sign * eta;
            if (pass == 0) old += v * v;
            if (pass == 1) now += v * v;
            if (pass == 2) d[j] = (l2l_real)(now * v);
        }
        if (pass == 0) old = sqrt(old) + 1e-12;
        if (pass == 1) now = length / (sqrt(now) + 1e-12);
    }
}

/* z holds a perturbation and becomes the image: x + z, z drawn out to the ball's border, clipped to
 * the image range. Is it another than the best? */
static inline bool square__finish(const l2l_spot *p)
{
    const double scale = p->in->epsilon / (l2l_norm2(p->z, NULL, p->n) + 1e-12);
    bool changed = false;
    for (int64_t j = 0; j < p->n; j++) {
        p->z[j] = search__pixel((double)p->x[j] + scale * (double)p->z[j]);
        changed = changed || p->z[j] < p->memory[0][j] || p->z[j] > p->memory[0][j];
    }
    return changed;
}

/* The eta of this side, kept for the windows that follow. */
static inline const l2l_real *square__eta(const l2l_spot *p, int side)
{
    square__course *s = (square__course *)p->state;
    if (s->side != side) square__bumps(side, p->memory[1]);
    s->side = side;
    return p->memory[1];
}

/* In l2 first a grid of 5 x 5 etas (more along the longer side), each turned or not and with a sign
 * for each channel. */
static inline void square__grid(const l2l_spot *p)
{
    const l2l_shape s = p->in->shape;
    const int least = s.h < s.w ? s.h : s.w, side = least < 5 ? 1 : least / 5;
    const int rows = s.h / side, columns = s.w / side;
    const l2l_stream r = aa__stream(p, 0, 1);
    square__window w = {0, 0, side, false, square__eta(p, side)};
    memset(p->z, 0, (size_t)p->n * sizeof *p->z);
    for (int i = 0; i < rows * columns; i++) {
        const int first = i * (1 + s.c); /* of the tile's random numbers */
        w.top = (s.h - rows * side) / 2 + i / columns * side;
        w.left = (s.w - columns * side) / 2 + i % columns * side;
        w.turned = square__sign(&r, first) > 0;
        for (int k = 0; k < s.c; k++)
            square__fill(p->z, s, &w, k, square__sign(&r, first + 1 + k), 1);
    }
    square__finish(p);
}

/* In l2 two windows of the best point's perturbation d, W and V: V gives what it has to W, which
 * becomes half eta, half what it was, and in each of the C channels as long as
 *     sqrt(max(epsilon^2 - |d|^2, 0)/C + |d in W or V|^2),
 * the second term over all channels as in AutoAttack's program (in the paper over this one). */
static inline bool square__exchange(const l2l_spot *p, int number)
{
    const l2l_shape s = p->in->shape;
    const l2l_stream r = aa__stream(p, 0, (uint32_t)number + 1);
    const int side = square__side(p->attack, s, number);
    const double epsilon = p->in->epsilon;
    square__window at[2] = {{0, 0, side, false, NULL}, {0, 0, side, false, NULL}};
    double all = 0, both = 0, length;
    for (uint32_t i = 0; i < 2; i++) {
        at[i].top = (int)(l2l_random_uniform(&r, 2 * i) * (s.h - side + 1));
        at[i].left = (int)(l2l_random_uniform(&r, 2 * i + 1) * (s.w - side + 1));
    }
    at[0].turned = square__sign(&r, 4) > 0;
    at[0].eta = square__eta(p, side);
    for (int i = 0; i < s.h * s.w; i++) {
        const bool in_w = square__inside(&at[0], i / s.w, i % s.w);
        const bool in_v = square__inside(&at[1], i / s.w, i % s.w);
        for (int64_t j = (int64_t)i * s.c; j < (int64_t)(i + 1) * s.c; j++) {
            const double d = (double)p->memory[0][j] - (double)p->x[j];
            all += d * d;
            both += in_w || in_v ? d * d : 0;
            p->z[j] = in_v && !in_w ? 0 : (l2l_real)d;
        }
    }
    length = sqrt(fmax(epsilon * epsilon - all, 0) / s.c + both);
    for (int k = 0; k < s.c; k++)
        square__fill(p->z, s, &at[0], k, square__sign(&r, 5 + k), length);
    return square__finish(p);
}

/* In l-infinity a window at +-epsilon, with a sign for each channel. Of s.h - side + 1 places the
 * last is one, too. */
static inline bool square__replace(const l2l_spot *p, int number)
{
    const l2l_shape s = p->in->shape;
    const int side = square__side(p->attack, s, number);
    const l2l_stream r = aa__stream(p, 0, (uint32_t)number + 1);
    int top = (int)(l2l_random_uniform(&r, 0) * (s.h - side + 1));
    int left = (int)(l2l_random_uniform(&r, 1) * (s.w - side + 1));
    return square__paint(p, &r, left, left + side, top, top + side, true);
}

/* First, but for the caller's start, that grid or in l-infinity stripes, one pixel wide, at
 * +-epsilon for each column and channel. */
static inline void square__point(const l2l_spot *p)
{
    const l2l_inner *in = p->in;
    const bool l2 = p->attack->norm == L2L_L2;
    l2l_stream r = aa__stream(p, 0, 1);
    if (in->t > 1) return; /* square__seen has made the next point */
    if (!l2l_spot_init(p, p->z)) {
        if (l2) square__grid(p);
        else square__paint(p, &r, 0, in->shape.w, 0, in->shape.h, false);
        return;
    }
    if (l2) aa__project(p, p->z);
    for (int64_t j = 0; !l2 && j < p->n; j++) {
        double x = (double)p->x[j], d = (double)p->z[j] - x;
        p->z[j] = search__pixel(x + fmax(-in->epsilon, fmin(d, in->epsilon)));
    }
}

/* From then on the best point with the next window that changes it. */
static inline void square__seen(const l2l_spot *p)
{
    const size_t bytes = (size_t)p->n * sizeof *p->z;
    const bool l2 = p->attack->norm == L2L_L2;
    square__course *s = (square__course *)p->state;
    bool changed = false;
    if (p->in->t == 1 || p->fooled || p->loss > p->record->loss) {
        l2l_spot_keep(p, p->fooled);
        p->record->step = 1 + s->number;
        memcpy(p->memory[0], p->z, bytes);
    } else {
        memcpy(p->z, p->memory[0], bytes);
    }
    while (!p->fooled && !changed && ++s->number < p->attack->steps)
        changed = l2 ? square__exchange(p, s->number) : square__replace(p, s->number);
    if (!changed) l2l_spot_end(p);
}

static inline int64_t square__begin(l2l_inner *in, const l2l_attack *a)
{
    if (!(a->number[0] > 0 && a->number[0] <= 1))
        return search__refuse(in, a, "number[0], the share, is not in (0,1]");
    return a->steps;
}

static const l2l_search square__search = {
    sizeof(square__course), 2, false, false, false, false, square__begin, NULL, square__point,
    square__seen};

/* In l-infinity or, if `norm` says so, l2: `steps` windows, a query each but for those that change
 * nothing: 5,000, shrinking as in AutoAttack, which also leaves out the last place on either axis;
 * number[0] is the part of the image that the first windows cover, 0.8. */
static inline l2l_attack l2l_attack_square(double epsilon)
{
    l2l_attack a = l2l_search_attack("square", epsilon, L2L_LINF, 5000, &square__search);
    a.minimal = false;
    a.queries = true;
    a.number[0] = 0.8;
    return a;
}

/* ---- walks: what APGD and FAB share ---- */

/* Where one image is. */
typedef struct aa__walk {
    int number, k;             /* of the walk; the look in it */
    int walks;                 /* one for each class that is aimed at, or restart */
    int aim;                   /* the class of this walk */
    double eta, high, low, previous; /* apgd: the step's length; the maximum, now and at the last
                                      * check; the last loss */
    bool halved;               /* apgd: at the last check */
    int window, inside, rises; /* apgd: steps from check to check, those in this window, rises among
                                * them */
    l2l_objective aimed;       /* of the first image: the objective of all, which knows of the walks */
} aa__walk;

/* The logits of the classes aimed at now, of the images that `labels` are those of: some of the
 * inner problem's. */
static inline l2l_tensor *aa__aimed_logits(l2l_context *c, l2l_tensor *logits, const int *labels,
                                           l2l_inner *in)
{
    int *k = aa__ints(c, logits->shape.n), first = (int)(labels - in->labels);
    for (int i = 0; k && i < logits->shape.n; i++)
        k[i] = ((const aa__walk *)l2l_spot_of(in, first + i).state)->aim;
    return k ? l2l_pick(c, logits, k) : NULL;
}

/* z_t - z_y. At the clean image, without an inner problem in `user`, nothing is aimed at yet: the
 * margin. */
static inline l2l_tensor *aa__aimed_difference(l2l_context *c, l2l_tensor *logits,
                                               l2l_tensor *clean, const int *labels, void *user)
{
    (void)clean;
    if (!user) return l2l_margin(c, logits, labels);
    return l2l_sub(c, aa__aimed_logits(c, logits, labels, (l2l_inner *)user),
                   l2l_pick(c, logits, labels));
}

/* (z_t - z_y) / (z_pi1 - (z_pi3 + z_pi4)/2 + 1e-12) */
static inline l2l_tensor *aa__aimed_dlr(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                        const int *labels, void *user)
{
    l2l_tensor *d = aa__aimed_difference(c, logits, clean, labels, user), *low;
    if (logits->shape.c < 4)
        return aa__undefined(c, "the targeted difference of logits ratio is not defined for %d "
                                "classes, only from 4 on", logits->shape.c);
    low = l2l_add(c, aa__ranked(c, logits, 2), aa__ranked(c, logits, 3));
    return aa__ratio(c, logits, d, l2l_affine(c, low, 0.5, 0));
}

/* Is the objective one of these two, which aim at one class after the other? */
static inline bool aa__aims(const l2l_attack *a)
{
    return a->objective.loss == aa__aimed_dlr || a->objective.loss == aa__aimed_difference;
}

/* The class that each image is led to now: of the rank of its walk by the clean logits. */
static inline void aa__aim(l2l_inner *in)
{
    const l2l_tensor *z = in->clean_logits;
    for (int i = 0; i < in->n; i++) {
        l2l_spot p = l2l_spot_of(in, i);
        aa__walk *walk = (aa__walk *)p.state;
        if (!aa__aims(p.attack)) return;
        walk->aim = -1;
        for (int rank = 0; rank <= walk->number; rank++)
            walk->aim = search__next_class(z->data + (int64_t)i * z->shape.c, z->shape.c,
                                           in->labels[i], walk->aim);
    }
}

/* So many passes for each walk: towards one of number[0] - 1 classes, or of a restart. */
static inline int64_t aa__begin(l2l_inner *in, const l2l_attack *a, int64_t passes)
{
    int classes = l2l_model_info(in->model)->classes, walks = a->restarts;
    aa__walk *first = (aa__walk *)l2l_spot_of(in, 0).state;
    if (aa__aims(a)) {
        if (!search__whole(a->number[0], 2))
            return search__refuse(in, a, "number[0], the candidates, is not a whole number in "
                                         "2..1000000");
        if (walks > 1) return search__refuse(in, a, "no restarts where it aims at classes");
        walks = (a->number[0] < classes ? (int)a->number[0] : classes) - 1;
        first->aimed = a->objective;
        first->aimed.user = in;
        in->objective = &first->aimed;
    }
    for (int i = 0; i < in->n; i++) ((aa__walk *)l2l_spot_of(in, i).state)->walks = walks;
    return passes * walks;
}

/* ---- APGD (Croce and Hein 2020) ----
 * With s(g) the sign of g or g/|g|_2 and a = 3/4 (1 in the first step):
 *
 *     z = Proj(x'_k + eta s(g_k)),   x'_{k+1} = Proj(x'_k + a (z - x'_k) + (1-a)(x'_k - x'_{k-1}))
 *
 * eta, 2 epsilon at first, is halved at checks, ever closer together, where the loss rose in no
 * more than 3/4 of the steps since the last one, or where its maximum has not moved since then and
 * eta was not halved there; the walk then goes on from the maximum, x'_{k-1} staying what it was.
 * As in the authors' program the first loss counts as a rise if it is above 0. In memory: x'_{k-1},
 * the maximum so far and its gradient. */

/* v becomes a direction: its sign, or in l2 of length 1. */
static inline void apgd__direction(const l2l_spot *p, l2l_real *v)
{
    const bool l2 = p->attack->norm == L2L_L2;
    double norm = l2 ? l2l_norm2(v, NULL, p->n) + 1e-12 : 1;
    for (int64_t j = 0; j < p->n; j++)
        v[j] = (l2l_real)(l2 ? (double)v[j] / norm : (v[j] > 0) - (v[j] < 0));
}

/* Noise of length epsilon (in l-infinity: of one pixel at least), or the caller's start. */
static inline void apgd__start(const l2l_spot *p)
{
    const l2l_inner *in = p->in;
    const aa__walk *walk = (const aa__walk *)p->state;
    const bool l2 = p->attack->norm == L2L_L2;
    l2l_stream r = aa__stream(p, (uint32_t)walk->number, 0);
    double longest = 0;
    if (walk->number > 0 || !l2l_spot_init(p, p->z)) {
        for (int64_t j = 0; j < p->n; j++) {
            uint32_t e = search__place(in->shape, j);
            p->z[j] = (l2l_real)(l2 ? l2l_random_normal(&r, e) : 2 * l2l_random_uniform(&r, e) - 1);
            longest = fmax(longest, fabs((double)p->z[j]));
        }
        if (l2) longest = l2l_norm2(p->z, NULL, p->n);
        for (int64_t j = 0; j < p->n; j++)
            p->z[j] = (l2l_real)((double)p->x[j] +
                                 in->epsilon * (double)p->z[j] / (longest + 1e-12));
    }
    aa__project(p, p->z);
    memcpy(p->memory[0], p->z, (size_t)p->n * sizeof *p->z);
}

static inline void apgd__point(const l2l_spot *p)
{
    const aa__walk *s = (const aa__walk *)p->state;
    const l2l_real a = s->k == 1 ? 1 : (l2l_real)0.75, eta = (l2l_real)s->eta;
    l2l_real *d = p->memory[0];
    if (s->k == 0) {
        apgd__start(p);
        return;
    }
    apgd__direction(p, p->g);
    for (int64_t j = 0; j < p->n; j++) { /* g: z; z: x'_k - x'_{k-1}; d: x'_k */
        l2l_real x = p->z[j];
        p->g[j] = x + eta * p->g[j];
        p->z[j] = x - d[j];
        d[j] = x;
    }
    aa__project(p, p->g);
    for (int64_t j = 0; j < p->n; j++)
        p->z[j] = d[j] + a * (p->g[j] - d[j]) + (1 - a) * p->z[j];
    aa__project(p, p->z);
}

/* So many percent of n, rounded down. */
static inline int aa__percent(int n, int percent) { return (int)((int64_t)n * percent / 100); }

/* The end of a window: halve the step? */
static inline void apgd__check(const l2l_spot *p)
{
    aa__walk *s = (aa__walk *)p->state;
    const int T = p->attack->steps, least = aa__percent(T, 6), less = aa__percent(T, 3);
    const size_t bytes = (size_t)p->n * sizeof *p->z;
    s->halved = s->rises <= 0.75 * s->window || (!s->halved && s->low >= s->high);
    s->low = s->high;
    if (s->halved) {
        s->eta /= 2;
        memcpy(p->z, p->memory[1], bytes);
        memcpy(p->g, p->memory[2], bytes);
    }
    s->window -= less > 1 ? less : 1;
    if (s->window < least) s->window = least;
    if (s->window < 1) s->window = 1;
    s->inside = s->rises = 0;
}

static inline void apgd__seen(const l2l_spot *p)
{
    aa__walk *s = (aa__walk *)p->state;
    const l2l_attack *a = p->attack;
    const size_t bytes = (size_t)p->n * sizeof *p->z;
    double loss = p->loss;
    bool first = s->k == 0;
    if (p->in->t == 1 || p->fooled || loss > p->record->loss) {
        l2l_spot_keep(p, p->fooled);
        p->record->step = s->k;
        p->record->restart = s->number;
    }
    if (p->fooled) l2l_spot_end(p);
    if (first) {
        s->eta = 2 * a->epsilon;
        s->window = aa__percent(a->steps, 22);
        if (s->window < 1) s->window = 1;
        s->inside = s->rises = 0;
        s->halved = true;
        s->low = loss;
    }
    if (first || loss > s->high) {
        s->high = loss;
        memcpy(p->memory[1], p->z, bytes);
        memcpy(p->memory[2], p->g, bytes);
    }
    if (!first) {
        s->rises += loss > (s->k == 1 ? 0 : s->previous);
        if (++s->inside == s->window) apgd__check(p);
    }
    s->previous = loss;
    if (s->k++ < a->steps) return;
    s->k = 0;
    if (++s->number == s->walks) l2l_spot_end(p);
}

static inline int64_t apgd__begin(l2l_inner *in, const l2l_attack *a)
{
    return aa__begin(in, a, a->steps + (int64_t)1);
}

static const l2l_search apgd__search = {
    sizeof(aa__walk), 3, true, false, false, true, apgd__begin, aa__aim, apgd__point, apgd__seen};

/* In l-infinity or, if `norm` says so, l2: `steps` 100; each of the `restarts` begins at other noise.
 * apgd is on the cross-entropy, apgd_dlr on the difference of logits ratio; apgd_t on its targeted
 * form, one walk for each of the likeliest other classes, number[0] - 1 of them: 9. No targets in
 * apgd_t; in apgd_dlr they do not work well: where the target comes third, the ratio is -1 and has no
 * gradient. */
static inline l2l_attack apgd__attack(const char *name, double epsilon, l2l_objective objective)
{
    l2l_attack a = l2l_search_attack(name, epsilon, L2L_LINF, 100, &apgd__search);
    a.minimal = false;
    a.objective = objective;
    return a;
}

static inline l2l_attack l2l_attack_apgd(double epsilon)
{
    return apgd__attack("apgd", epsilon, l2l_objective_cross_entropy());
}
static inline l2l_attack l2l_attack_apgd_dlr(double epsilon)
{
    return apgd__attack("apgd-dlr", epsilon, l2l_objective_dlr());
}
static inline l2l_attack l2l_attack_apgd_t(double epsilon)
{
    l2l_attack a = apgd__attack("apgd-t", epsilon, aa__objective("targeted dlr", aa__aimed_dlr));
    a.objective.needs_clean = true;
    a.number[0] = 10;
    return a;
}

/* ---- FAB (Croce and Hein 2020), targeted ----
 * With f = z_t - z_y and w its gradient at x'_k, the boundary is taken for the plane
 * f + <w, v - x'_k> = 0. d and d_0 lead from x'_k and from x to its nearest points in [0,1], and with
 * alpha = min(|d|/(|d| + |d_0|), 1/10)
 *
 *     x'_{k+1} = clip((1-alpha)(x'_k + 1.05 d) + alpha (x + 1.05 d_0))
 *
 * Where that is adversarial, as every second look without a gradient tells, it is kept if it is the
 * nearest, and the walk goes on from x + 0.9 (x'_{k+1} - x). The next look, for f and w, is at the
 * point where it goes on. In memory: d and d_0. */

/* How far the pixel v can move where f changes by w: to its end of [0,1] on the way to `gap` = 0. */
static inline double fab__room(double w, double gap, double v)
{
    double down = (w > 0) == (gap > 0); /* 0 or 1: no branch, for signs are as good as random */
    return down * v + (1 - down) * (1 - v);
}

/* d: from v to the nearest point of the plane, which is `gap` = <w,v> - b away along w, in [0,1].
 * A pixel moves by min(lambda s, its room), s = 1 in l-infinity and |w| in l2. What that gains is
 * concave and piecewise linear in lambda, so that Newton's steps from 0 end at the lambda sought;
 * where there is not room enough all of it is used. */
static inline void fab__onto_plane(const l2l_spot *p, const l2l_real *w, double gap,
                                   const l2l_real *v, l2l_real *d)
{
    bool l2 = p->attack->norm == L2L_L2;
    double lambda = 0, next = 0;
    do {
        double gained = 0, slope = 0;
        lambda = next;
        for (int64_t j = 0; j < p->n; j++) {
            double a = fabs((double)w[j]), s = l2 ? a : 1;
            double room = fab__room((double)w[j], gap, (double)v[j]);
            double full = room <= lambda * s; /* 0 or 1 */
            gained += full * a * room;
            slope += (1 - full) * a * s;
        }
        next = slope > 0 ? (fabs(gap) - gained) / slope : HUGE_VAL;
    } while (next > lambda);
    for (int64_t j = 0; j < p->n; j++) {
        double a = fabs((double)w[j]), step = lambda * (l2 ? a : 1);
        double room = fab__room((double)w[j], gap, (double)v[j]);
        double along = (double)((w[j] > 0) - (w[j] < 0)) * (gap > 0 ? -1 : 1);
        d[j] = (l2l_real)(along * (step < room ? step : room));
    }
}

static inline double fab__norm(const l2l_spot *p, const l2l_real *d)
{
    l2l_real most = (l2l_real)1e-8;
    if (p->attack->norm == L2L_L2) return fmax(l2l_norm2(d, NULL, p->n), 1e-8);
    for (int64_t j = 0; j < p->n; j++) {
        l2l_real a = d[j] < 0 ? -d[j] : d[j];
        most = a > most ? a : most;
    }
    return (double)most;
}

static inline void fab__point(const l2l_spot *p)
{
    const aa__walk *s = (const aa__walk *)p->state;
    l2l_real *d = p->memory[0], *d0 = p->memory[1];
    double f = p->loss, origin = f, alpha;
    if (s->k == 0 && (s->number || !l2l_spot_init(p, p->z)))
        memcpy(p->z, p->x, (size_t)p->n * sizeof *p->z);
    if (s->k % 2 == 0) return;
    for (int64_t j = 0; j < p->n; j++)
        origin -= (double)p->g[j] * ((double)p->z[j] - (double)p->x[j]);
    fab__onto_plane(p, p->g, f, p->z, d);
    fab__onto_plane(p, p->g, origin, p->x, d0);
    alpha = fab__norm(p, d);
    alpha = fmin(alpha / (alpha + fab__norm(p, d0)), 0.1);
    for (int64_t j = 0; j < p->n; j++)
        p->z[j] = search__pixel((1 - alpha) * ((double)p->z[j] + 1.05 * (double)d[j]) +
                                alpha * ((double)p->x[j] + 1.05 * (double)d0[j]));
}

static inline void fab__seen(const l2l_spot *p)
{
    aa__walk *s = (aa__walk *)p->state;
    const l2l_attack *a = p->attack;
    if (s->k % 2 && p->fooled) {
        double nearest = l2l_spot_keep_nearest(p);
        bool kept = nearest < p->distance && (a->minimal || nearest <= a->epsilon);
        bool near_enough = nearest <= a->epsilon && !(a->number[1] > 0);
        if (kept) p->record->step = s->k / 2 + 1;
        if (kept) p->record->restart = s->number;
        if (near_enough) l2l_spot_end(p);
        for (int64_t j = 0; j < p->n && !near_enough; j++)
            p->z[j] = p->x[j] + (l2l_real)0.9 * (p->z[j] - p->x[j]);
    }
    if (++s->k / 2 < a->steps) return; /* two looks a step */
    s->k = 0;
    if (++s->number == s->walks) l2l_spot_end(p);
}

/* The looks of all images are in step. */
static inline void fab__prepare(l2l_inner *in)
{
    aa__aim(in);
    in->gradient = in->t % 2 == 1;
}

static inline int64_t fab__begin(l2l_inner *in, const l2l_attack *a)
{
    if (!search__whole(a->number[1], 0) || a->number[1] > 1)
        return search__refuse(in, a, "number[1], all the way to the nearest, is not 0 or 1");
    return aa__begin(in, a, 2 * (int64_t)a->steps);
}

static const l2l_search fab__search = {
    sizeof(aa__walk), 2, true, true, false, false, fab__begin, fab__prepare, fab__point, fab__seen};

/* The nearest image across the boundaries to the number[0] - 1 (9) likeliest other classes, `steps`
 * 100 for each, that a step came to, not `init` or the way back. It ends with the first within epsilon
 * or, if number[1] is 1, not before it has seen them all. No targets. */
static inline l2l_attack l2l_attack_fab_t(double epsilon)
{
    l2l_attack a = l2l_search_attack("fab-t", epsilon, L2L_LINF, 100, &fab__search);
    a.objective = aa__objective("z_t - z_y", aa__aimed_difference);
    a.objective.needs_clean = true;
    a.number[0] = 10;
    return a;
}


/* ---- AutoAttack ---- */

enum { AUTOATTACK_STAGES = 4 };
static const char *const autoattack_names[AUTOATTACK_STAGES] = {"apgd-ce", "apgd-t", "fab-t",
                                                                "square"};

static inline int64_t autoattack__begin(l2l_inner *in, const l2l_attack *a)
{
    return search__refuse(in, a, "several attacks in series: autoattack_stages gives them");
}
static const l2l_search autoattack__search = {
    0, 0, true, false, false, true, autoattack__begin, NULL, square__point, square__seen};

/* The standard ensemble, one attack after the other on the images that are still right: apgd, apgd_t,
 * fab_t and square, with 100 steps, 9 classes and 5,000 queries. This is not yet an attack, but what
 * its stages are made of: `steps`, of which there are 50 queries each, `restarts` (of apgd), number[0]
 * (candidates, as of apgd_t), norm, seed, first, batch, only, init and progress may be set. Without
 * targets. */
static inline l2l_attack l2l_attack_autoattack(double epsilon)
{
    l2l_attack a = l2l_attack_apgd(epsilon);
    a.name = "autoattack";
    a.search = &autoattack__search;
    a.number[0] = 10;
    return a;
}

static inline bool autoattack_is(const l2l_attack *a) { return a->search == &autoattack__search; }

/* The four attacks, for a model. With fewer than four classes the targeted ratio is not defined, and
 * apgd on the margin takes its place. */
static inline bool autoattack_stages(const l2l_model *m, const l2l_attack *all, l2l_attack *stages)
{
    l2l_context *c = l2l_model_context(m);
    const double epsilon = all->epsilon;
    if (!c || l2l_error(c)) return false;
    if (all->targets) {
        l2l_error_set(c, L2L_ERROR_ARGUMENT, "attack autoattack: only without targets");
        return false;
    }
    stages[0] = l2l_attack_apgd(epsilon);
    stages[1] = l2l_model_info(m)->classes < 4
                    ? apgd__attack("apgd", epsilon, l2l_objective_margin())
                    : l2l_attack_apgd_t(epsilon);
    stages[2] = l2l_attack_fab_t(epsilon);
    stages[3] = l2l_attack_square(epsilon);
    for (int i = 0; i < AUTOATTACK_STAGES; i++) {
        l2l_attack *a = &stages[i];
        const bool aims = aa__aims(a);
        a->steps = all->steps;
        a->norm = all->norm;
        a->batch = all->batch;
        a->seed = all->seed;
        a->first = all->first;
        a->init = all->init;
        a->only = all->only;
        a->last_iterate = all->last_iterate; /* which is refused */
        a->progress = all->progress;
        a->user = all->user;
        a->minimal = false; /* success is in the ball */
        if (aims) a->number[0] = all->number[0];
    }
    stages[0].restarts = all->restarts;
    stages[3].steps = all->steps < 20000000 ? 50 * all->steps : 1000000000;
    return true;
}

#endif /* AUTOATTACK_H */
