/* transfer.h - black-box attacks by transfer: how each of several models fares on the adversarial
 * images made for each. C99 or C++11, on evaluation.h; the functions are static. */
#ifndef TRANSFER_H
#define TRANSFER_H

#include <stdio.h>
#include <string.h>

#include "evaluation.h"

static inline bool transfer__fail(l2l_context *c, l2l_status status, const char *format, int a,
                                  int b)
{
    char text[160];
    snprintf(text, sizeof text, format, a, b);
    l2l_error_set(c, status, text);
    return false;
}

/* Are two models for images of one size and the same classes? */
static inline bool transfer__alike(const l2l_model_options *p, const l2l_model_options *q)
{
    return p->channels == q->channels && p->height == q->height && p->width == q->width &&
           p->classes == q->classes;
}

static inline bool transfer__fit(l2l_model *const *models, int n)
{
    l2l_context *c = NULL;
    for (int i = 0; i < n && !c; i++) c = l2l_model_context(models[i]);
    for (int i = 0; i < n; i++) {
        const l2l_model_options *p = l2l_model_info(models[0]), *q = l2l_model_info(models[i]);
        if (!p || !q)
            return transfer__fail(c, L2L_ERROR_ARGUMENT, "transfer_matrix: model %d of %d is NULL",
                                  p ? i : 0, n);
        if (l2l_model_context(models[i]) != c || !transfer__alike(p, q))
            return transfer__fail(c, L2L_ERROR_SHAPE, "transfer_matrix: model %d is not for the "
                                  "images and classes of model 0, in one context, as all %d must be",
                                  i, n);
    }
    return c != NULL;
}

/* Of n images, number `first` and up, those that a model gets right; -1 after an error. */
static inline int transfer__right(l2l_model *m, const l2l_real *x, const int *labels, int first,
                                  int n, l2l_real *z)
{
    int k = l2l_model_info(m)->classes, right = 0;
    if (!l2l_model_logits(m, x, n, z)) return -1;
    for (int i = 0; i < n; i++, z += k) {
        int best = 0;
        for (int j = 0; j < k; j++) {
            if (!(z[j] - z[j] == 0)) {
                transfer__fail(l2l_model_context(m), L2L_ERROR_NUMERIC, "transfer_matrix: the logit "
                               "of class %d of image %d is not finite", j, first + i);
                return -1;
            }
            if (z[j] > z[best]) best = j;
        }
        right += best == labels[i];
    }
    return right;
}

/* accuracies[i*n + j] is that of model j on the images that the attack made on model i, of n models
 * of one context and shape; natural[i] (NULL: not wanted) that of model i on clean images. An attack
 * that walks gives its last iterate, as if with last_iterate: the first that fools its own model
 * hardly crosses the border. Images count whether they fooled model i or not. The attack's progress
 * is told of all models' images. Of the options limit and batch are looked at. */
static inline bool transfer_matrix(l2l_model *const *models, int n, const l2l_dataset *d,
                                   l2l_series attack, const l2l_evaluation_options *options,
                                   double *natural, double *accuracies)
{
    l2l_evaluation_options o = options ? *options : l2l_evaluation_default();
    if (!transfer__fit(models, n)) return false;
    l2l_context *c = l2l_model_context(models[0]);
    const l2l_model_options *p = l2l_model_info(models[0]);
    size_t one = (size_t)p->channels * (size_t)p->height * (size_t)p->width;
    l2l_attack last[L2L_EVALUATION_STAGES];
    if (!evaluation__series_ok(c, "transfer_matrix", &attack) ||
        !evaluation__given(c, "transfer_matrix", "accuracies", accuracies))
        return false;
    for (int k = 0; k < attack.count; k++) {
        last[k] = attack.attacks[k];
        if (last[k].only)
            return transfer__fail(c, L2L_ERROR_ARGUMENT, "transfer_matrix: attack %d of %d has "
                                  "only some images to attack: those that it spares are not made",
                                  k, attack.count);
        last[k].last_iterate |= !last[k].search;
    }
    const l2l_attack *a = last;
    const l2l_series s = {attack.name, last, attack.count};
    o.skip_fooled = false;
    for (int i = 0; i < n * n; i++) accuracies[i] = 0;
    for (int i = 0; i < n && !l2l_error(c); i++) {
        l2l_evaluation e;
        int m, right = 0;
        if (!l2l_evaluation_begin(models[i], d, &o, &e)) return false;
        int batch = o.batch < e.images ? o.batch : e.images;
        l2l_record *records = (l2l_record *)l2l_allocate(c, (size_t)batch * sizeof *records);
        l2l_real *x = (l2l_real *)l2l_allocate(c, (size_t)batch * one * sizeof *x);
        l2l_real *z = (l2l_real *)l2l_allocate(c, (size_t)batch * (size_t)p->classes * sizeof *z);
        for (int at = 0; at < e.images && !l2l_error(c); at += m) {
            m = e.images - at < batch ? e.images - at : batch;
            if (!l2l_evaluation_run(&e, s, at, m, records, x)) break;
            for (int j = 0; j < n && right >= 0; j++) {
                right = transfer__right(models[j], x, e.labels + at, at, m, z);
                accuracies[i * n + j] += right;
            }
            if (right >= 0 && a->progress &&
                !a->progress(a->user, i * e.images + at + m, n * e.images))
                transfer__fail(c, L2L_ERROR_CANCELLED, "transfer_matrix: cancelled after %d of %d "
                               "images", i * e.images + at + m, n * e.images);
        }
        for (int j = 0; j < n; j++) accuracies[i * n + j] /= e.images;
        if (natural) natural[i] = e.natural;
        l2l_free(c, records);
        l2l_free(c, x);
        l2l_free(c, z);
        l2l_evaluation_end(&e);
    }
    return !l2l_error(c);
}

#endif /* TRANSFER_H */
