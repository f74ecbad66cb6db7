/* evaluation.h - natural accuracy first, then any number of attacks, and the share of images that are
 * right under all of them at once. With it come the checks of Croce and Hein's AutoAttack (2020): a
 * number that looks like robustness but is none should not go by unnoticed. C99 or C++11, on the public
 * calls of ../l2ladv.h; the functions are static.
 *
 *     l2l_evaluation_begin(m, &d, NULL, &e);                     e.natural
 *     l2l_evaluation_attack(&e, &pgd, &result, NULL, NULL);      result.accuracy, e.worst
 *     l2l_evaluation_warnings(&e, text, sizeof text);
 *     l2l_evaluation_end(&e);
 *
 * One object per model and data set. Errors are those of the model's context. */
#ifndef EVALUATION_H
#define EVALUATION_H

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../l2ladv.h"

#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FAST_MATH__) || \
    defined(_M_FP_FAST)
#error "evaluation.h: -ffinite-math-only (in -ffast-math, -Ofast) takes the checks for NaN away"
#endif

typedef struct l2l_evaluation_options {
    int limit;        /* the first so many images; 0: all */
    int batch;        /* 100 */
    l2l_norm norm;    /* L2L_LINF and */
    double epsilon;   /* -1: the ball that `worst` is about; below 0: that of the first attack */
    bool skip_fooled; /* attacks in that ball spare the images that are wrong already: the worst case
                       * at less cost. Their accuracy is then `worst` as it is after them */
} l2l_evaluation_options;

/* What counts as one attack: one, or several one after the other, each on the images that withstood
 * those before it, as AutoAttack. */
enum { L2L_EVALUATION_STAGES = 8 }; /* at most */
typedef struct l2l_series {
    const char *name;
    const l2l_attack *attacks;
    int count;
} l2l_series;

typedef struct l2l_result {
    double accuracy;       /* share of all images that are right: under an attack that looks for the
                            * nearest adversarial image those, too, where it is too far */
    int attacked;          /* images */
    bool counted;          /* in `worst` */
    double success;        /* share of the images right at first that the attack led astray (to the
                            * target, if there is one), however far, of those that it did not leave
                            * alone because their target is their label; and */
    double success_linf, success_l2; /* the mean norms of its perturbation there */
    double mean_loss;      /* of the attack's objective */
    double mean_linf;
    double zero_gradients; /* share of iterates with a gradient of exactly zero */
    int64_t forwards, backwards;
    double stages[L2L_EVALUATION_STAGES]; /* of a series: accuracy after each attack; else 0 */
} l2l_result;

struct evaluation__ran;
typedef struct l2l_evaluation {
    int images;
    double natural;      /* accuracy on clean images */
    l2l_norm norm;       /* of the ball that `worst` is about, and */
    double epsilon;      /* its radius; below 0 until an attack says it */
    double worst;        /* share right on the clean image and under every attack so far there */
    int *labels, *clean; /* per image: true class, prediction */
    bool *right;         /* per image: right so far */
    /* private */
    l2l_context *context;
    l2l_model *model;
    const l2l_dataset *data;
    l2l_evaluation_options options;
    struct evaluation__ran *ran;   /* the attacks so far */
    int n_ran;
    bool *by_gradient, *by_query;  /* per image: right under all attacks with, without gradients */
    unsigned checked;              /* warnings about the model itself */
} l2l_evaluation;

/* Reasons to doubt the figures. */
enum {
    L2L_WARN_SOFTMAX = 1,        /* the model's outputs are probabilities (rows in [0,1] that sum to 1,
                                  * within 1e-5): the losses want logits */
    L2L_WARN_RANDOM = 2,         /* of five passes over the same images one predicts otherwise, or
                                  * z/|z|_2 moves by more than 1e-4 */
    L2L_WARN_ZERO_GRADIENTS = 4, /* over 1 % of the iterates of a gradient attack had none; of a search
                                  * by gradients or a walk on a cut loss (`flat`, `cut`): over 1 % of
                                  * the images withstood it and never had one, or it gave up for want
                                  * of one (`gives_up`) */
    L2L_WARN_QUERIES = 8,        /* attacks without gradients fool over 0.2 % of the images that
                                  * withstood all those with gradients */
    L2L_WARN_ORDER = 16,         /* more steps or restarts of the same were weaker (by over 0.5
                                  * points where more are no continuation: with last_iterate, and
                                  * where the steps may depend on their number, as decay's); or one
                                  * step of the length of several was stronger than they, by over
                                  * 0.5 points */
    L2L_WARN_TARGETS = 32        /* images were left alone: their target is their label */
};

static inline l2l_evaluation_options l2l_evaluation_default(void)
{
    l2l_evaluation_options o;
    memset(&o, 0, sizeof o);
    o.batch = 100;
    o.norm = L2L_LINF;
    o.epsilon = -1;
    return o;
}

static inline bool evaluation__fail(l2l_context *c, l2l_status status, const char *format, ...)
{
    char text[400];
    va_list a;
    va_start(a, format);
    vsnprintf(text, sizeof text, format, a);
    va_end(a);
    l2l_error_set(c, status, text);
    return false;
}

static inline bool evaluation__given(l2l_context *c, const char *who, const char *what,
                                     const void *argument)
{
    return argument || evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: %s is NULL", who, what);
}

/* ---- settings as text: what two attacks differ in ---- */

typedef struct es_text {
    char *at; /* with a 0 behind it */
    size_t length, room;
} es_text;

static inline bool es_append(l2l_context *c, es_text *t, const char *bytes, size_t n)
{
    size_t room = 2 * (t->length + n) + 200;
    if (t->length + n >= t->room) {
        char *more = (char *)l2l_allocate(c, room);
        if (!more) return false;
        if (t->at) memcpy(more, t->at, t->length);
        l2l_free(c, t->at);
        t->at = more;
        t->room = room;
    }
    if (n) memcpy(t->at + t->length, bytes, n);
    t->at[t->length += n] = 0;
    return true;
}

static inline bool es_print(l2l_context *c, es_text *t, const char *format, ...)
{
    char line[512];
    va_list a;
    va_start(a, format);
    vsnprintf(line, sizeof line, format, a);
    va_end(a);
    return es_append(c, t, line, strlen(line));
}

/* As many digits as lead back to the number. */
typedef struct es_number { char text[32]; } es_number;
static inline es_number es_real(double v)
{
    es_number n;
    int digits = 15;
    do snprintf(n.text, sizeof n.text, "%.*g", digits, v);
    while (strtod(n.text, NULL) != v && ++digits <= 17);
    return n;
}

/* FNV-1a, 64 bits. */
#define ES_DIGEST 14695981039346656037u
static inline uint64_t es_fold(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    for (; bytes > 0; bytes--) h = (h ^ *p++) * 1099511628211u;
    return h;
}
static inline es_number es_digest(uint64_t h)
{
    es_number n;
    snprintf(n.text, sizeof n.text, "%016llx", (unsigned long long)h);
    return n;
}
static inline es_number es_digest_of(const void *data, size_t bytes)
{
    es_number none = {"0"};
    return data ? es_digest(es_fold(ES_DIGEST, data, bytes)) : none;
}

static inline size_t es_pixels(const l2l_evaluation *e)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    return (size_t)o->channels * (size_t)o->height * (size_t)o->width;
}

/* What the maximizer has learned. */
static inline es_number es_learned(l2l_context *c, const l2l_maximizer *m)
{
    int64_t n = m->pack ? m->pack(m->self, NULL) : 0;
    double *v = n > 0 ? (double *)l2l_allocate(c, (size_t)n * sizeof *v) : NULL;
    if (v) m->pack(m->self, v);
    es_number digest = es_digest_of(v, (size_t)n * sizeof *v);
    l2l_free(c, v);
    return digest;
}

static inline const char *es_name(const char *name) { return name ? name : ""; }

/* In pixels: the same walk however its step was given. A search has no ball to take a part of. */
static inline double evaluation__step(const l2l_attack *a)
{
    return a->step_size > 0 || a->search ? a->step_size : a->relative_step * a->epsilon;
}

static inline es_number evaluation__targets(const l2l_evaluation *e, const l2l_attack *a)
{
    return es_digest_of(a->targets, (size_t)e->images * sizeof *a->targets);
}

/* All that the records of an attack depend on, beyond its name, steps and restarts. */
static inline bool es_settings(const l2l_evaluation *e, const l2l_attack *a, es_text *t)
{
    l2l_context *c = e->context;
    es_print(c, t, "norm: %s\nepsilon: %s\n", a->norm == L2L_L2 ? "l2" : "linf",
             es_real(a->epsilon).text);
    es_print(c, t, "step_size: %s\nstart: %d\nlast_iterate: %d\nseed: %llu\nfirst: %lu\n",
             es_real(evaluation__step(a)).text, (int)a->start, a->last_iterate,
             (unsigned long long)a->seed, (unsigned long)a->first);
    es_print(c, t, "maximizer.number: %s %s\nobjective.cut: %d\nobjective.confidence: %s\n",
             es_real(a->maximizer.number[0]).text, es_real(a->maximizer.number[1]).text,
             a->objective.cut, es_real(a->objective.confidence).text);
    es_print(c, t, "objective.needs_clean: %d\nnumber: %s %s\nminimal: %d\nqueries: %d\n",
             a->objective.needs_clean, es_real(a->number[0]).text, es_real(a->number[1]).text,
             a->minimal, a->queries);
    es_print(c, t, "targets (a digest): %s\nonly (a digest): %s\ninit (a digest): %s\n"
             "learned numbers (a digest): %s\n", evaluation__targets(e, a).text,
             es_digest_of(a->only, (size_t)e->images * sizeof *a->only).text,
             es_digest_of(a->init, (size_t)e->images * es_pixels(e) * sizeof *a->init).text,
             es_learned(c, &a->maximizer).text);
    return !l2l_error(c);
}

/* A series of an evaluation, to be compared with those that differ in steps and restarts only. */
typedef struct evaluation__walk {
    char parts[96];      /* "cross-entropy, sign" */
    l2l_attack attack;   /* its numbers; what it points to may be gone */
    es_number targets;   /* a digest */
    es_text settings;
} evaluation__walk;
typedef struct evaluation__ran {
    char name[32];
    evaluation__walk walks[L2L_EVALUATION_STAGES];
    int count;
    l2l_result result;
    int own_target, stuck; /* images left alone; without gradient all the way */
} evaluation__ran;

static inline bool evaluation__settings(const l2l_evaluation *e, const l2l_series *s,
                                        evaluation__ran *k)
{
    bool ok = true;
    snprintf(k->name, sizeof k->name, "%s", es_name(s->name));
    for (k->count = 0; ok && k->count < s->count; k->count++) {
        evaluation__walk *w = &k->walks[k->count];
        const l2l_attack *a = &s->attacks[k->count];
        snprintf(w->parts, sizeof w->parts, "%.40s, %.40s", es_name(a->objective.name),
                 es_name(a->maximizer.name));
        w->attack = *a;
        w->targets = evaluation__targets(e, a);
        ok = es_settings(e, a, &w->settings);
    }
    return ok;
}

static inline void evaluation__drop(l2l_context *c, evaluation__ran *k)
{
    for (int i = 0; i < k->count; i++) l2l_free(c, k->walks[i].settings.at);
}

/* ---- running over the images ---- */

static inline l2l_series l2l_series_of(const l2l_attack *a)
{
    l2l_series s = {a ? a->name : NULL, a, 1};
    return s;
}

/* An attack that stays where it starts. */
static inline l2l_attack evaluation__none(void)
{
    l2l_attack a = l2l_attack_ifgsm(0);
    a.name = "none";
    a.steps = 0;
    return a;
}

static inline bool evaluation__begun(const l2l_evaluation *e, const char *who)
{
    if (!e || !e->context || l2l_error(e->context)) return false;
    return e->model || evaluation__fail(e->context, L2L_ERROR_ARGUMENT, "%s: the evaluation has not "
                                        "begun", who);
}

static inline bool evaluation__series_ok(l2l_context *c, const char *who, const l2l_series *s)
{
    if (!evaluation__given(c, who, "the attack", s->attacks)) return false;
    return (s->count >= 1 && s->count <= L2L_EVALUATION_STAGES) ||
           evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: %d attacks in a series, not 1..%d", who,
                            s->count, (int)L2L_EVALUATION_STAGES);
}

/* Is the series one on the ball that `worst` is about? The first one may say which. */
static inline bool evaluation__counts(const l2l_evaluation *e, const l2l_series *s)
{
    const l2l_attack *a = s->attacks;
    double epsilon = e->epsilon < 0 ? a->epsilon : e->epsilon;
    l2l_norm norm = e->epsilon < 0 ? a->norm : e->norm;
    for (int i = 0; i < s->count; i++)
        if (a[i].norm != norm || fabs(a[i].epsilon - epsilon) > 0) return false;
    return true;
}

/* The images of `only` that are right so far, to be freed. */
static inline bool *evaluation__both(const l2l_evaluation *e, const bool *only)
{
    const size_t n = (size_t)e->images;
    bool *both = (bool *)l2l_allocate(e->context, n * sizeof *both);
    if (!both) return NULL;
    memcpy(both, only, n * sizeof *both); /* a byte of no bool is left to the library's check */
    for (size_t i = 0; i < n; i++)
        if (!e->right[i]) both[i] = false;
    return both;
}

/* An evaluation is a fold over records. _run makes those of images first .. first+n-1 under a series
 * of attacks, n records and, if wanted, n images NxCxHxW of the model's size, and changes nothing in
 * e. Of images that were spared the record says step -1 and predicted -1, and their place in
 * `adversarial` stays as it is. _add takes the records of all e->images images of a series, in their
 * order: from them come its result and what `worst` and the warnings know of it. _attack and _series
 * run over all images, options.batch at a time, with the first attack's progress, then add. Records
 * that were kept are as good as new ones: evaluation_state.h goes on after a stop by a file of them. */
static inline bool l2l_evaluation_run(const l2l_evaluation *e, l2l_series attacks, int first, int n,
                                      l2l_record *records, l2l_real *adversarial)
{
    const l2l_series *s = &attacks;
    const char *who = "l2l_evaluation_run";
    l2l_attack part[L2L_EVALUATION_STAGES];
    bool *both[L2L_EVALUATION_STAGES] = {NULL};
    if (!evaluation__begun(e, who)) return false;
    l2l_context *c = e->context;
    if (!evaluation__series_ok(c, who, s) || !evaluation__given(c, who, "records", records))
        return false;
    if (first < 0 || n < 1 || n > e->images - first)
        return evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images from %d on are not among %d",
                                who, n, first, e->images);
    for (int k = 0; k < s->count; k++) {
        part[k] = s->attacks[k];
        part[k].progress = NULL;
        if (!e->options.skip_fooled || !evaluation__counts(e, s)) continue;
        part[k].only = !part[k].only ? e->right : (both[k] = evaluation__both(e, part[k].only));
    }
    if (!l2l_error(c))
        l2l_evaluate(e->model, part, s->count, e->data, first, n, adversarial, records);
    for (int k = 0; k < s->count; k++) l2l_free(c, both[k]);
    for (int i = 0; i < n; i++)
        if (records[i].step < 0) {
            records[i].clean = e->clean[first + i];
            records[i].success = true;
        }
    return !l2l_error(c);
}

/* The records of all images. */
static inline bool evaluation__run(const l2l_evaluation *e, const l2l_series *s, l2l_record *records,
                                   l2l_real *adversarial)
{
    int n;
    for (int at = 0; at < e->images; at += n) {
        n = e->images - at < e->options.batch ? e->images - at : e->options.batch;
        if (!l2l_evaluation_run(e, *s, at, n, records + at,
                                adversarial ? adversarial + (size_t)at * es_pixels(e) : NULL))
            return false;
        const l2l_attack *a = s->attacks;
        if (a->progress && !a->progress(a->user, at + n, e->images))
            return evaluation__fail(e->context, L2L_ERROR_CANCELLED, "evaluation: cancelled after %d "
                                    "of %d images", at + n, e->images);
    }
    return true;
}

/* ---- the model itself ---- */

enum { EVALUATION__CHECKED = 20, EVALUATION__PASSES = 5 }; /* images and passes */

/* Finite logits of n images. */
static inline bool evaluation__logits(l2l_model *m, const l2l_real *x, int n, l2l_real *z)
{
    int k = l2l_model_info(m)->classes;
    if (!l2l_model_logits(m, x, n, z)) return false;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++, z++)
            if (!(*z - *z == 0))
                return evaluation__fail(l2l_model_context(m), L2L_ERROR_NUMERIC, "evaluation: the "
                                        "logit of class %d of image %d is %g, not finite", j, i,
                                        (double)*z);
    return true;
}

/* Rows of k numbers in [0,1] that sum to 1. */
static inline bool evaluation__probabilities(const l2l_real *z, int n, int k)
{
    for (int i = 0; i < n; i++, z += k) {
        double sum = 0;
        for (int j = 0; j < k; j++) {
            if (!((double)z[j] >= -1e-5 && (double)z[j] <= 1 + 1e-5)) return false;
            sum += (double)z[j];
        }
        if (!(fabs(sum - 1) <= 1e-5)) return false;
    }
    return true;
}

static inline int evaluation__class(const l2l_real *z, int k)
{
    int best = 0;
    for (int j = 1; j < k; j++)
        if (z[j] > z[best]) best = j;
    return best;
}

/* Does a row of k logits predict otherwise, or is it elsewhere once both have length 1? */
static inline bool evaluation__elsewhere(const l2l_real *a, const l2l_real *b, int k)
{
    double na = l2l_norm2(a, NULL, k) + 1e-10, nb = l2l_norm2(b, NULL, k) + 1e-10, sum = 0;
    for (int j = 0; j < k; j++) {
        double d = (double)a[j] / na - (double)b[j] / nb;
        sum += d * d;
    }
    return evaluation__class(a, k) != evaluation__class(b, k) || sqrt(sum) > 1e-4;
}

/* Asks the model several times about its first n images. */
static inline bool evaluation__check(l2l_evaluation *e, const l2l_real *x, int n)
{
    const int k = l2l_model_info(e->model)->classes;
    const size_t all = (size_t)n * (size_t)k;
    l2l_real *z = (l2l_real *)l2l_allocate(e->context, 2 * all * sizeof *z);
    for (int pass = 0; z && pass < EVALUATION__PASSES; pass++) {
        l2l_real *to = z + (pass ? all : 0);
        if (!evaluation__logits(e->model, x, n, to)) break;
        if (!pass && evaluation__probabilities(z, n, k)) e->checked |= L2L_WARN_SOFTMAX;
        for (int i = 0; pass && i < n; i++)
            if (evaluation__elsewhere(z + i * k, to + i * k, k)) e->checked |= L2L_WARN_RANDOM;
    }
    l2l_free(e->context, z);
    return !l2l_error(e->context);
}

/* ---- an evaluation ---- */

/* The share that is right so far, among all. */
static inline void evaluation__worst(l2l_evaluation *e)
{
    int right = 0;
    for (int i = 0; i < e->images; i++) right += e->right[i];
    e->worst = (double)right / e->images;
}

static inline bool evaluation__options_ok(l2l_context *c, const l2l_evaluation_options *o)
{
    const l2l_status bad = L2L_ERROR_ARGUMENT;
    unsigned char truth;
    memcpy(&truth, &o->skip_fooled, sizeof truth);
    if (truth > 1) /* a byte of no bool */
        return evaluation__fail(c, bad, "evaluation: skip_fooled %d is not in [0,1]", truth);
    if (o->limit < 0)
        return evaluation__fail(c, bad, "evaluation: limit %d is not at least 0", o->limit);
    if (o->batch < 1)
        return evaluation__fail(c, bad, "evaluation: batch %d is not at least 1", o->batch);
    if (o->norm != L2L_LINF && o->norm != L2L_L2)
        return evaluation__fail(c, bad, "evaluation: norm %d is not 0 (linf) or 1 (l2)",
                                (int)o->norm);
    return o->epsilon >= -DBL_MAX ||
           evaluation__fail(c, bad, "evaluation: epsilon %g is not a number", o->epsilon);
}

/* The clean images; with the first ones the model is asked again. */
static inline bool evaluation__clean(l2l_evaluation *e)
{
    l2l_context *c = e->context;
    const l2l_attack none = evaluation__none();
    const l2l_series clean = l2l_series_of(&none);
    const int some = e->images < EVALUATION__CHECKED ? e->images : EVALUATION__CHECKED;
    l2l_record *records = (l2l_record *)l2l_allocate(c, (size_t)e->images * sizeof *records);
    l2l_real *x = (l2l_real *)l2l_allocate(c, (size_t)some * es_pixels(e) * sizeof *x);
    bool ok = x != NULL;
    memset(e->right, 1, (size_t)e->images); /* none is spared */
    for (int at = 0, n; ok && at < e->images; at += n) {
        n = (at < some ? some : e->images) - at;
        if (n > e->options.batch) n = e->options.batch;
        ok = l2l_evaluation_run(e, clean, at, n, records + at,
                                at < some ? x + (size_t)at * es_pixels(e) : NULL);
    }
    for (int i = 0; ok && i < e->images; i++) {
        e->labels[i] = records[i].label;
        e->clean[i] = records[i].clean;
        e->right[i] = e->clean[i] == e->labels[i];
        e->by_gradient[i] = e->by_query[i] = e->right[i];
    }
    evaluation__worst(e);
    e->natural = e->worst;
    ok = ok && evaluation__check(e, x, some);
    l2l_free(c, records);
    l2l_free(c, x);
    return ok;
}

static inline void l2l_evaluation_end(l2l_evaluation *e)
{
    if (!e || !e->context) return;
    for (int i = 0; i < e->n_ran; i++) evaluation__drop(e->context, &e->ran[i]);
    l2l_free(e->context, e->ran);
    l2l_free(e->context, e->labels);
    l2l_free(e->context, e->right);
    memset(e, 0, sizeof *e);
}

/* The model is also asked five times about its first images (up to 20), for the warnings. */
static inline bool l2l_evaluation_begin(l2l_model *m, const l2l_dataset *d,
                                        const l2l_evaluation_options *o, l2l_evaluation *e)
{
    const l2l_evaluation_options usual = l2l_evaluation_default();
    const l2l_attack none = evaluation__none();
    l2l_context *c = l2l_model_context(m);
    if (!e) return evaluation__given(c, "l2l_evaluation_begin", "the evaluation", e);
    if (!o) o = &usual;
    memset(e, 0, sizeof *e);
    e->context = c;
    if (!c || l2l_error(c) || !evaluation__options_ok(c, o) ||
        !l2l_evaluate(m, &none, 1, d, 0, 0, NULL, NULL)) /* no image: is that a data set for it? */
        return false;
    e->model = m;
    e->data = d;
    e->options = *o;
    e->norm = o->norm;
    e->epsilon = o->epsilon;
    e->images = o->limit && o->limit < d->count ? o->limit : d->count;
    size_t n = (size_t)e->images;
    e->labels = (int *)l2l_allocate(c, 2 * n * sizeof *e->labels);
    e->right = (bool *)l2l_allocate(c, 3 * n * sizeof *e->right);
    if (!l2l_error(c)) {
        e->clean = e->labels + n;
        e->by_gradient = e->right + n;
        e->by_query = e->by_gradient + n;
        if (evaluation__clean(e)) return true;
    }
    l2l_evaluation_end(e);
    e->context = c; /* so that later calls know where the error is */
    return false;
}

/* Is the image wrong, though perhaps not where it shall be? A search for the nearest adversarial
 * image counts up to epsilon. */
static inline bool evaluation__broken(const l2l_attack *a, const l2l_record *b)
{
    return b->predicted != b->label &&
           (!a->minimal || (a->norm == L2L_LINF ? b->linf : b->l2) <= a->epsilon);
}

/* Has it no gradient any more where it has got far enough? */
static inline bool evaluation__goes_flat(const l2l_attack *a)
{
    return (a->search && a->search->flat) || (a->objective.cut && a->last_iterate);
}

/* Did such an attack lead an image nowhere, having had no gradient in any iterate, or given up at the
 * first one without? */
static inline bool evaluation__stuck(const l2l_attack *a, const l2l_record *b, const int *wanted)
{
    bool fooled = wanted ? b->predicted == *wanted : b->predicted != b->label;
    return evaluation__goes_flat(a) && !fooled && b->zero_gradients > 0 &&
           ((a->search && a->search->gives_up) || b->zero_gradients == b->backwards);
}

/* The results of a series, from its records. */
static inline void evaluation__sum(const l2l_evaluation *e, const l2l_series *s,
                                   const l2l_record *records, evaluation__ran *k)
{
    l2l_result *r = &k->result;
    double zero = 0;
    int right = 0, natural = 0, hits = 0;
    r->counted = evaluation__counts(e, s);
    for (int i = 0; i < e->images; i++) r->attacked += records[i].predicted >= 0;
    for (int i = 0; i < e->images; i++) {
        const l2l_record *b = &records[i];
        if (b->predicted < 0) continue;
        const l2l_attack *a = &s->attacks[b->attack];
        const int *wanted = a->targets ? a->targets + i : NULL;
        const bool own = wanted && *wanted == b->label;
        k->own_target += own;
        k->stuck += s->count == 1 && evaluation__stuck(a, b, wanted);
        right += !evaluation__broken(a, b);
        natural += b->clean == b->label && !own;
        for (int stage = 0; s->count > 1 && stage < s->count; stage++)
            r->stages[stage] += !(b->success && b->attack <= stage);
        r->mean_loss += b->loss / r->attacked;
        r->mean_linf += b->linf / r->attacked;
        r->forwards += b->forwards;
        r->backwards += b->backwards;
        zero += b->zero_gradients;
        if (b->clean != b->label || b->predicted == b->label ||
            (wanted && (own || b->predicted != *wanted)))
            continue;
        hits++;
        r->success_linf += b->linf;
        r->success_l2 += b->l2;
    }
    for (int stage = 0; stage < L2L_EVALUATION_STAGES; stage++) r->stages[stage] /= e->images;
    r->accuracy = (double)right / e->images;
    r->success = natural ? (double)hits / natural : 0;
    if (hits) r->success_linf /= hits;
    if (hits) r->success_l2 /= hits;
    r->zero_gradients = r->backwards ? zero / (double)r->backwards : 0;
}

/* What the series did to the worst case. An image that was spared might have fallen to it. */
static inline void evaluation__count(l2l_evaluation *e, const l2l_series *s,
                                     const l2l_record *records, const l2l_result *r)
{
    if (e->epsilon < 0 && s->attacks->epsilon > 0) { /* the first one says which ball it is about */
        e->epsilon = s->attacks->epsilon;
        e->norm = s->attacks->norm;
    }
    for (int i = 0; r->counted && i < e->images; i++) {
        const l2l_record *b = &records[i];
        const l2l_attack *a = &s->attacks[b->attack];
        bool *by = r->backwards && !a->queries ? e->by_gradient : e->by_query;
        if (b->predicted >= 0 && !evaluation__broken(a, b)) continue;
        e->right[i] = false;
        if (b->predicted >= 0 || r->backwards) by[i] = false;
    }
    evaluation__worst(e);
}

/* Records may come from a file. */
static inline bool evaluation__records_ok(const l2l_evaluation *e, const l2l_series *s,
                                          const l2l_record *records)
{
    const char *who = "l2l_evaluation_add";
    l2l_context *c = e->context;
    int classes = l2l_model_info(e->model)->classes;
    if (!evaluation__given(c, who, "records", records)) return false;
    for (int i = 0; i < e->images; i++) {
        const l2l_record *b = &records[i];
        if (b->label != e->labels[i])
            return evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: record %d is of label %d, but the "
                                    "image's is %d", who, i, b->label, e->labels[i]);
        if (b->predicted < -1 || b->predicted >= classes)
            return evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: record %d: predicted %d is not in "
                                    "-1..%d", who, i, b->predicted, classes - 1);
        if (b->attack < 0 || b->attack >= s->count)
            return evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: record %d: attack %d is not in 0..%d",
                                    who, i, b->attack, s->count - 1);
        if (!(fabs(b->loss) <= DBL_MAX))
            return evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: record %d: the loss %g is not "
                                    "finite", who, i, b->loss);
        if (!(b->linf >= 0 && b->linf <= DBL_MAX && b->l2 >= 0 && b->l2 <= DBL_MAX))
            return evaluation__fail(c, L2L_ERROR_ARGUMENT, "%s: record %d: the norms %g (linf) and "
                                    "%g (l2) are not finite and at least 0", who, i, b->linf,
                                    b->l2);
    }
    return true;
}

/* Do records of anywhere agree on the clean images? A model that does not answer the same twice
 * need not. */
static inline bool evaluation__clean_ok(const l2l_evaluation *e, const l2l_record *records)
{
    for (int i = 0; i < e->images && !(e->checked & L2L_WARN_RANDOM); i++) {
        const l2l_record *b = &records[i];
        if (b->clean != e->clean[i] && (b->predicted >= 0 || b->clean != -1))
            return evaluation__fail(e->context, L2L_ERROR_ARGUMENT, "l2l_evaluation_add: record "
                                    "%d: the clean prediction is %d, but the evaluation's %d", i,
                                    b->clean, e->clean[i]);
    }
    return true;
}

/* l2l_evaluation_add, of records that are this evaluation's own where `own` says so. */
static inline bool evaluation__add(l2l_evaluation *e, const l2l_series *s,
                                   const l2l_record *records, bool own, l2l_result *r)
{
    evaluation__ran here, *all;
    memset(&here, 0, sizeof here);
    if (r) *r = here.result;
    if (!evaluation__begun(e, "l2l_evaluation_add")) return false;
    l2l_context *c = e->context;
    if (!evaluation__series_ok(c, "l2l_evaluation_add", s) ||
        !l2l_attack_worst(e->model, s->attacks, s->count, NULL, NULL, 0, NULL, NULL) || /* checks */
        !evaluation__records_ok(e, s, records) || (!own && !evaluation__clean_ok(e, records)))
        return false;
    all = evaluation__settings(e, s, &here)
              ? (evaluation__ran *)l2l_allocate(c, ((size_t)e->n_ran + 1) * sizeof *all) : NULL;
    if (!all) {
        evaluation__drop(c, &here);
        return false;
    }
    evaluation__sum(e, s, records, &here);
    evaluation__count(e, s, records, &here.result);
    if (e->ran) memcpy(all, e->ran, (size_t)e->n_ran * sizeof *all);
    l2l_free(c, e->ran);
    e->ran = all;
    e->ran[e->n_ran++] = here;
    if (r) *r = here.result;
    return true;
}

static inline bool l2l_evaluation_add(l2l_evaluation *e, l2l_series attacks,
                                      const l2l_record *records, l2l_result *r)
{
    return evaluation__add(e, &attacks, records, false, r);
}

/* records: e->images of them, or NULL; adversarial: e->images images, or NULL. */
static inline bool l2l_evaluation_series(l2l_evaluation *e, l2l_series s, l2l_result *r,
                                         l2l_record *records, l2l_real *adversarial)
{
    const char *who = "l2l_evaluation_series";
    l2l_record *own = NULL; /* where the caller wants none */
    if (r) memset(r, 0, sizeof *r);
    if (!evaluation__begun(e, who)) return false;
    if (!evaluation__series_ok(e->context, who, &s)) return false;
    if (!records)
        records = own = (l2l_record *)l2l_allocate(e->context, (size_t)e->images * sizeof *own);
    bool ok = records && evaluation__run(e, &s, records, adversarial) &&
              evaluation__add(e, &s, records, true, r);
    l2l_free(e->context, own);
    return ok;
}

static inline bool l2l_evaluation_attack(l2l_evaluation *e, const l2l_attack *a, l2l_result *r,
                                         l2l_record *records, l2l_real *adversarial)
{
    return l2l_evaluation_series(e, l2l_series_of(a), r, records, adversarial);
}

/* ---- reasons to doubt ---- */

/* Appends to what is `at` bytes long, as much as fits with a final 0. */
static inline size_t evaluation__append(char *text, size_t capacity, size_t at, const char *format,
                                        ...)
{
    va_list a;
    va_start(a, format);
    int n = vsnprintf(at < capacity ? text + at : NULL, at < capacity ? capacity - at : 0, format, a);
    va_end(a);
    return at + (n > 0 ? (size_t)n : 0);
}

/* "pgd (10 steps, 1 runs)" */
static inline const char *evaluation__text(const evaluation__ran *k, char text[80])
{
    const l2l_attack *a = &k->walks[0].attack;
    snprintf(text, 80, "%s (%d steps, %d runs)", k->name, a->steps, a->restarts);
    return text;
}

/* Is a walk the same as another with less of it? Or one step as far as all of its steps? */
static inline bool evaluation__less(const evaluation__walk *a, const evaluation__walk *b)
{
    const l2l_attack *p = &a->attack, *q = &b->attack;
    return p->steps <= q->steps && p->restarts <= q->restarts && p->search == q->search &&
           !strcmp(a->parts, b->parts) && !strcmp(a->settings.at, b->settings.at);
}
static inline bool evaluation__one_step(const evaluation__walk *a, const evaluation__walk *b)
{
    const l2l_attack *p = &a->attack, *q = &b->attack;
    return !p->search && !q->search && p->steps <= 1 && q->steps > 1 && p->norm == q->norm &&
           !(fabs(p->epsilon - q->epsilon) > 0) && !strcmp(a->parts, b->parts) &&
           !strcmp(a->targets.text, b->targets.text) &&
           q->steps * evaluation__step(q) >= evaluation__step(p);
}

/* Are T steps of the attack the first T of more? A maximizer of one's own may look at in->T, and
 * that which lets its steps shrink does. */
static inline bool evaluation__continued(const l2l_attack *a)
{
    static const char known[] =
        ",none,sign,gradient,momentum,learned,adam,line search,line search along g,l2lda,";
    char name[64];
    snprintf(name, sizeof name, ",%s,", es_name(a->maximizer.name));
    return !a->last_iterate && !a->search && strstr(known, name) != NULL;
}

/* Is a, which is less than b, the beginning of b, so that it cannot be stronger? */
static inline bool evaluation__beginning(const evaluation__ran *a, const evaluation__ran *b)
{
    for (int i = 0; i < a->count; i++) {
        const l2l_attack *p = &a->walks[i].attack, *q = &b->walks[i].attack;
        bool more = !p->last_iterate && !p->search && p->steps == q->steps;
        if (!more && !evaluation__continued(p)) return false;
    }
    return true;
}

/* Is series a less than b, and yet stronger? */
static inline bool evaluation__suspicious(const l2l_evaluation *e, const evaluation__ran *a,
                                          const evaluation__ran *b)
{
    double by = b->result.accuracy - a->result.accuracy;
    bool less = a->count == b->count;
    if (a->result.attacked < e->images || b->result.attacked < e->images || by <= 0) return false;
    for (int i = 0; less && i < a->count; i++) less = evaluation__less(&a->walks[i], &b->walks[i]);
    if (less) return by > (evaluation__beginning(a, b) ? 0 : 0.005);
    return a->count == 1 && b->count == 1 && evaluation__one_step(&a->walks[0], &b->walks[0]) &&
           a->result.backwards && by > 0.005;
}

/* Appends what the attacks look like; the worst case of each kind. */
static inline size_t evaluation__warn_attacks(const l2l_evaluation *e, char *text, size_t capacity,
                                              size_t at, unsigned *flags)
{
    const evaluation__ran *zero = NULL, *own = NULL, *a, *b, *end = e->ran ? e->ran + e->n_ran : NULL;
    char first[80], second[80];
    double most = 0.01, share;
    for (a = e->ran; a < end; a++) {
        bool flat = a->count == 1 && evaluation__goes_flat(&a->walks[0].attack);
        if (a->own_target > (own ? own->own_target : 0)) own = a;
        share = !flat ? a->result.zero_gradients : a->stuck / (double)(a->result.attacked + 1e-300);
        if (share <= most) continue;
        most = share;
        zero = a;
    }
    if (zero) {
        *flags |= L2L_WARN_ZERO_GRADIENTS;
        at = evaluation__append(text, capacity, at, zero->stuck
                                ? "zero-gradients: %g %% of the images of %s had no gradient but "
                                  "exactly zero (more than 1 %%): masked, perhaps, not robust\n"
                                : "zero-gradients: %g %% of the iterates of %s had a gradient of "
                                  "exactly zero (more than 1 %%): masked, perhaps, not robust\n",
                                100 * most, evaluation__text(zero, first));
    }
    if (own) {
        *flags |= L2L_WARN_TARGETS;
        at = evaluation__append(text, capacity, at, "targets: %d of the images have their own label "
                                "for a target of %s: left as they are, and never a success\n",
                                own->own_target, evaluation__text(own, first));
    }
    for (a = e->ran; a < end && !(*flags & L2L_WARN_ORDER); a++)
        for (b = e->ran; b < end && !(*flags & L2L_WARN_ORDER); b++) {
            if (!evaluation__suspicious(e, a, b)) continue;
            *flags |= L2L_WARN_ORDER;
            at = evaluation__append(text, capacity, at, "order: %s leaves %g %% right, but %s %g "
                                    "%%\n", evaluation__text(a, first), 100 * a->result.accuracy,
                                    evaluation__text(b, second), 100 * b->result.accuracy);
        }
    return at;
}

/* Appends whether attacks without gradients found what those with them did not. */
static inline size_t evaluation__warn_queries(const l2l_evaluation *e, char *text, size_t capacity,
                                              size_t at, unsigned *flags)
{
    int gradients = 0, found = 0;
    for (int i = 0; i < e->n_ran; i++)
        gradients += e->ran[i].result.counted && e->ran[i].result.backwards;
    for (int i = 0; i < e->images; i++) found += e->by_gradient[i] && !e->by_query[i];
    if (!gradients || found <= 0.002 * e->images) return at;
    *flags |= L2L_WARN_QUERIES;
    return evaluation__append(text, capacity, at, "queries: attacks without gradients fool %g %% of "
                              "the images that withstood all those with gradients (more than 0.2 "
                              "%%): masked gradients, or too few steps\n",
                              100.0 * found / e->images);
}

/* Reasons to doubt the figures so far: the sum of L2L_WARN_..., and a line for each as text, cut to
 * `capacity` bytes with its final zero: the name ("softmax-output", "random", "zero-gradients",
 * "targets", "order", "queries"), a colon and what was seen. */
static inline unsigned l2l_evaluation_warnings(const l2l_evaluation *e, char *text, size_t capacity)
{
    unsigned flags = e ? e->checked : 0;
    if (!text) capacity = 0;
    size_t at = evaluation__append(text, capacity, 0, "%s", "");
    if (!e) return 0;
    if (flags & L2L_WARN_SOFTMAX)
        at = evaluation__append(text, capacity, at, "softmax-output: the model's outputs are "
                                "probabilities; the losses want logits, or gradients vanish\n");
    if (flags & L2L_WARN_RANDOM)
        at = evaluation__append(text, capacity, at, "random: the model does not answer the same "
                                "twice; attacks and accuracies are those of single draws\n");
    at = evaluation__warn_attacks(e, text, capacity, at, &flags);
    evaluation__warn_queries(e, text, capacity, at, &flags);
    return flags;
}

#endif /* EVALUATION_H */
