/* evaluation_state.h - an evaluation that goes on after a stop, as `evaluate --state` does. C99 or
 * C++11, on evaluation.h: an evaluation is a fold over records, so records that a file kept stand for
 * passes through the model. Every function is static: include it where it is used.
 *
 *     evaluation_state s;
 *     l2l_evaluation_begin(m, &d, &options, &e);
 *     evaluation_state_open(&s, &e, "pgd.state");
 *     evaluation_state_attack(&s, &pgd, &result, NULL, NULL);    in place of l2l_evaluation_attack,
 *                                                                _series of l2l_evaluation_series
 *     evaluation_state_close(&s);
 *     l2l_evaluation_end(&e);
 *
 * Results, warnings and errors are those of an evaluation that was never stopped, to the bit; with a
 * clock (s.clock) s.seconds are those of all sittings. The file is text: the evaluation's settings
 * with digests of the model, the images and the clean predictions; for each attack its settings, its
 * seconds and a line for every record; last a digest of it all. After each batch it is written whole
 * by l2l_save_bytes, so a process killed at any time leaves the old file or the new one. The file of
 * another model, other images or other attacks is refused with the first setting that differs, a
 * damaged one too. Of two evaluations on one file the second to write is told, and writes nothing.
 * Numbers are written in the C locale. */
#ifndef EVALUATION_STATE_H
#define EVALUATION_STATE_H

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evaluation.h"

typedef struct es_attack {
    es_text settings, lines; /* a line for each setting, for each record */
    l2l_record *records;     /* room for one of every image */
    int done;                /* so many are there, */
    double seconds;          /* made in this time, by evaluation_state.clock */
} es_attack;

typedef struct evaluation_state {
    l2l_evaluation *e;
    const char *path;        /* borrowed; NULL: nothing is kept */
    es_text heading;
    es_attack *attacks;      /* those so far, and behind them those of the file */
    int count, added;        /* in `attacks`; of these so many in e */
    double (*clock)(void);   /* seconds from anywhere on; NULL, as it is opened: none are counted */
    double seconds;          /* that the attack added last took, in all sittings */
    uint64_t last;           /* a digest of the file as it was read or written last; 0: none was */
} evaluation_state;

static const char es_format[] = "l2ladv evaluation 8";

/* Attacks of one file; and, with room to spare, bytes of the settings of one, and of a record. */
enum { ES_MOST_ATTACKS = 1000, ES_MOST_SETTINGS = 1 << 14, ES_MOST_RECORD = 400 };

static inline bool es_fail(const evaluation_state *s, l2l_status status, const char *format, ...)
{
    char text[400];
    int n = snprintf(text, sizeof text, "%s: ", s->path ? s->path : "evaluation");
    va_list a;
    if (n > (int)sizeof text - 1) n = (int)sizeof text - 1;
    va_start(a, format);
    vsnprintf(text + n, sizeof text - (size_t)n, format, a);
    va_end(a);
    l2l_error_set(s->e->context, status, text);
    return false;
}

/* ---- what the evaluation is of ---- */

/* Names, shapes and values of the parameters; of a model without any, which lives elsewhere, what it
 * says to the first images. */
static inline uint64_t es_weights(const l2l_evaluation *e)
{
    l2l_context *c = e->context;
    uint64_t h = ES_DIGEST;
    int n = l2l_model_parameters(e->model), some = e->images < 20 ? e->images : 20;
    size_t classes = (size_t)l2l_model_info(e->model)->classes;
    for (int i = 0; i < n; i++) {
        l2l_parameter p = l2l_model_parameter(e->model, i);
        h = es_fold(h, p.name, strlen(p.name));
        h = es_fold(h, p.shape, (size_t)p.rank * sizeof *p.shape);
        h = es_fold(h, p.value->data, (size_t)l2l_count(p.value->shape) * sizeof *p.value->data);
    }
    if (n) return h;
    l2l_attack none = evaluation__none();
    l2l_record *records = (l2l_record *)l2l_allocate(c, (size_t)some * sizeof *records);
    l2l_real *x = (l2l_real *)l2l_allocate(c, (size_t)some * es_pixels(e) * sizeof *x);
    l2l_real *z = (l2l_real *)l2l_allocate(c, (size_t)some * classes * sizeof *z);
    if (z && l2l_evaluate(e->model, &none, 1, e->data, 0, some, x, records) &&
        l2l_model_logits(e->model, x, some, z))
        h = es_fold(h, z, (size_t)some * classes * sizeof *z);
    l2l_free(c, records);
    l2l_free(c, x);
    l2l_free(c, z);
    return h;
}

static inline uint64_t es_images(const l2l_evaluation *e)
{
    l2l_dataset d = *e->data;
    size_t n = (size_t)d.channels * (size_t)d.height * (size_t)d.width;
    uint64_t h = ES_DIGEST;
    d.context = e->context; /* whose the errors are */
    l2l_real *x = (l2l_real *)l2l_allocate(d.context, n * sizeof *x);
    for (int i = 0, label; x && i < e->images && l2l_dataset_read(&d, i, 1, x, &label); i++)
        h = es_fold(es_fold(h, x, n * sizeof *x), &label, sizeof label);
    l2l_free(d.context, x);
    return h;
}

static inline bool es_heading(const l2l_evaluation *e, es_text *t)
{
    l2l_context *c = e->context;
    const l2l_model_options *m = l2l_model_info(e->model);
    /* another forward function over the same weights; a random one never says the same */
    bool random = (l2l_evaluation_warnings(e, NULL, 0) & L2L_WARN_RANDOM) != 0;
    es_number said = es_digest_of(random ? NULL : e->clean, (size_t)e->images * sizeof *e->clean);
    es_print(c, t, "%s\nimages: %d\nmodel.arch: %.60s\nmodel.channels: %d\nmodel.height: %d\n"
             "model.width: %d\nmodel.classes: %d\nmodel.width_multiplier: %s\nmodel.depth: %d\n"
             "model.normalise: %d\n", es_format, e->images, m->arch, m->channels, m->height,
             m->width, m->classes, es_real(m->width_multiplier).text, m->depth, m->normalise);
    for (int i = 0; i < m->normalise && i < 4; i++)
        es_print(c, t, "model.mean[%d]: %s\nmodel.deviation[%d]: %s\n", i, es_real(m->mean[i]).text,
                 i, es_real(m->deviation[i]).text);
    es_print(c, t, "weights (a digest): %s\n", es_digest(es_weights(e)).text);
    es_print(c, t, "data (a digest): %s\n", es_digest(es_images(e)).text);
    es_print(c, t, "clean predictions (a digest): %s\nskip_fooled: %d\nnorm: %s\nepsilon: %s\n",
             said.text, e->options.skip_fooled, e->options.norm == L2L_L2 ? "l2" : "linf",
             es_real(e->options.epsilon).text);
    return !l2l_error(c);
}

/* All that the records of a series depend on. */
static inline bool es_series(const l2l_evaluation *e, const l2l_series *s, es_text *t)
{
    l2l_context *c = e->context;
    const bool several = s->count > 1;
    if (several) es_print(c, t, "attack: %.30s (%d in series)\n", es_name(s->name), s->count);
    for (int i = 0; i < s->count; i++) {
        const l2l_attack *a = &s->attacks[i];
        es_print(c, t, "%s: %.30s (%.60s, %.60s)\nsteps: %d\nrestarts: %d\n",
                 several ? "stage" : "attack", es_name(a->name), es_name(a->objective.name),
                 es_name(a->maximizer.name), a->steps, a->restarts);
        if (!es_settings(e, a, t)) return false;
    }
    return true;
}

/* "key: value" of a line. */
typedef struct es_pair { char key[64], value[200]; } es_pair;
static inline es_pair es_pair_of(const char *line)
{
    es_pair p;
    size_t n = strcspn(line, "\n"), colon = strcspn(line, ":\n");
    const char *value = line + (colon + 2 < n ? colon + 2 : n);
    snprintf(p.key, sizeof p.key, "%.*s", (int)colon, line);
    snprintf(p.value, sizeof p.value, "%.*s", (int)(line + n - value), value);
    return p;
}

/* The first line in which two texts of settings differ; NULL: none. */
static inline const char *es_differ(const char *there, const char *here, es_pair *was, es_pair *is)
{
    while (*here) {
        size_t n = strcspn(here, "\n") + 1;
        if (strncmp(there, here, n)) break;
        there += n;
        here += n;
    }
    if (!*here && !*there) return NULL;
    *was = es_pair_of(there);
    *is = es_pair_of(here);
    return here;
}

/* ---- the file ---- */

/* What a record tells beyond label and clean prediction; and as a line, and back. */
enum { ES_WHOLE = 8, ES_REAL = 3 };
static const char *const es_names[ES_WHOLE + ES_REAL] = {
    "predicted", "success", "attack", "step", "restart", "forwards", "backwards", "zero_gradients",
    "loss", "linf", "l2"};

static inline bool es_record_print(l2l_context *c, es_text *t, const l2l_record *b)
{
    return es_print(c, t, "%d %d %d %d %d %d %d %d %s %s %s\n", b->predicted, b->success, b->attack,
                    b->step, b->restart, b->forwards, b->backwards, b->zero_gradients,
                    es_real(b->loss).text, es_real(b->linf).text, es_real(b->l2).text);
}

/* The number of the first value that is none or out of range; -1: all are well. */
static inline int es_record_read(const char *line, int classes, l2l_record *b)
{
    static const int low[ES_WHOLE] = {-1, 0, 0, -1, 0, 0, 0, 0};
    const int high[ES_WHOLE] = {classes - 1, 1, L2L_EVALUATION_STAGES - 1, INT_MAX, INT_MAX,
                                INT_MAX, INT_MAX, INT_MAX};
    int *const whole[ES_WHOLE] = {&b->predicted, NULL, &b->attack, &b->step, &b->restart,
                                  &b->forwards, &b->backwards, &b->zero_gradients};
    double *const real[ES_REAL] = {&b->loss, &b->linf, &b->l2};
    char *end;
    for (int i = 0; i < ES_WHOLE + ES_REAL; i++, line = end + 1) {
        double v = strtod(line, &end);
        if (end == line || *end != (i < ES_WHOLE + ES_REAL - 1 ? ' ' : '\n')) return i;
        if (i < ES_WHOLE && !(v >= low[i] && v <= high[i] && v == (int)v)) return i;
        if (i >= ES_WHOLE) *real[i - ES_WHOLE] = v;
        else if (whole[i]) *whole[i] = (int)v;
        else b->success = v > 0;
    }
    return -1;
}

/* Room for another attack behind those that count. */
static inline es_attack *es_room(evaluation_state *s)
{
    l2l_context *c = s->e->context;
    es_attack *more, *k;
    if (s->count >= ES_MOST_ATTACKS) {
        es_fail(s, L2L_ERROR_ARGUMENT, "more than %d attacks", (int)ES_MOST_ATTACKS);
        return NULL;
    }
    more = (es_attack *)l2l_allocate(c, ((size_t)s->count + 1) * sizeof *more);
    if (!more) return NULL;
    if (s->count) memcpy(more, s->attacks, (size_t)s->count * sizeof *more);
    l2l_free(c, s->attacks);
    s->attacks = more;
    k = more + s->count;
    k->records = (l2l_record *)l2l_allocate(c, (size_t)s->e->images * sizeof *k->records);
    return k->records ? k : NULL;
}

static inline void es_drop(l2l_context *c, es_attack *k)
{
    l2l_free(c, k->settings.at);
    l2l_free(c, k->lines.at);
    l2l_free(c, k->records);
}

/* An attack of the file: settings up to "records: SECONDS s", then their lines. *from goes on behind
 * it. */
static inline bool es_attack_read(evaluation_state *s, const char **from)
{
    l2l_context *c = s->e->context;
    const char *at = *from, *lines = strstr(at, "\nrecords: "), *next;
    char *end;
    int classes = l2l_model_info(s->e->model)->classes, bad = -1;
    es_attack *k = es_room(s);
    if (!k) return false;
    s->count++;
    if (!lines) return es_fail(s, L2L_ERROR_FORMAT, "attack %d has no records", s->count);
    lines += strlen("\n");
    if (!es_append(c, &k->settings, at, (size_t)(lines - at))) return false;
    lines += strlen("records: ");
    k->seconds = strtod(lines, &end);
    if (end == lines || !(k->seconds >= 0 && k->seconds <= DBL_MAX) || strncmp(end, " s\n", 3))
        return es_fail(s, L2L_ERROR_FORMAT, "the seconds of attack %d are out of range in '%.60s'",
                       s->count, es_pair_of(lines).key);
    lines = end + 3;
    for (at = lines; *at && strncmp(at, "attack: ", 8) && bad < 0; at = next) {
        l2l_record *b = &k->records[k->done];
        next = at + strcspn(at, "\n");
        next += *next == '\n';
        if (k->done == s->e->images)
            return es_fail(s, L2L_ERROR_FORMAT, "attack %d has records of more than %d images",
                           s->count, s->e->images);
        b->label = s->e->labels[k->done];
        b->clean = s->e->clean[k->done];
        if ((bad = es_record_read(at, classes, b)) >= 0)
            return es_fail(s, L2L_ERROR_FORMAT, "%s of record %d of attack %d is out of range in "
                           "'%.60s'", es_names[bad], k->done, s->count, es_pair_of(at).key);
        k->done++;
    }
    *from = at;
    return es_append(c, &k->lines, lines, (size_t)(at - lines));
}

/* So many bytes has a file at most. */
static inline size_t es_most(const evaluation_state *s)
{
    uint64_t most = ES_MOST_SETTINGS + (uint64_t)s->e->images * ES_MOST_RECORD;
    most *= ES_MOST_ATTACKS + 1;
    return most < SIZE_MAX / 2 ? (size_t)most : SIZE_MAX / 2;
}

/* The first `most` bytes of the file, and its length; `missing` if there is none. A pipe is
 * refused. */
static inline bool es_bytes(const evaluation_state *s, size_t most, es_text *t, size_t *length,
                            bool *missing)
{
    l2l_context *c = s->e->context;
    void *data = NULL;
    errno = 0;
    bool ok = l2l_load_bytes(c, s->path, most, &data, length);
    *missing = !ok && l2l_error(c) == L2L_ERROR_FILE && errno == ENOENT;
    if (*missing) l2l_error_clear(c);
    ok = ok && es_append(c, t, (const char *)data, *length < most ? *length : most);
    l2l_free(c, data);
    return ok || *missing;
}

/* Is the file as this evaluation left it? It may be gone; another evaluation's progress stays. */
static inline bool es_unchanged(const evaluation_state *s)
{
    es_text t = {NULL, 0, 0};
    size_t length = 0;
    bool missing, ok = es_bytes(s, es_most(s), &t, &length, &missing);
    if (ok && !missing && (length > t.length || es_fold(ES_DIGEST, t.at, t.length) != s->last))
        ok = es_fail(s, L2L_ERROR_FILE, "another evaluation has written to it meanwhile: that one "
                     "goes on with it, this one must not");
    l2l_free(s->e->context, t.at);
    return ok;
}

static inline bool es_save(evaluation_state *s)
{
    l2l_context *c = s->e->context;
    es_text all = {NULL, 0, 0};
    bool ok = es_unchanged(s) && es_append(c, &all, s->heading.at, s->heading.length);
    for (int i = 0; ok && i < s->count; i++) {
        const es_attack *k = &s->attacks[i];
        ok = es_append(c, &all, k->settings.at, k->settings.length) &&
             es_print(c, &all, "records: %s s\n", es_real(k->seconds).text) &&
             es_append(c, &all, k->lines.at, k->lines.length);
    }
    ok = ok && es_print(c, &all, "end: %s\n", es_digest_of(all.at, all.length).text) &&
         l2l_save_bytes(c, s->path, all.at, all.length);
    if (ok) s->last = es_fold(ES_DIGEST, all.at, all.length);
    l2l_free(c, all.at);
    return ok;
}

/* The whole file, if its first line is that of a state and it is no longer than one can be. */
static inline bool es_read(const evaluation_state *s, es_text *t, bool *missing)
{
    es_text head = {NULL, 0, 0};
    size_t line = sizeof es_format - 1, length = 0;
    bool ok = es_bytes(s, 64, &head, &length, missing) && !*missing;
    if (ok && (strncmp(head.at, es_format, line) || head.at[line] != '\n'))
        ok = es_fail(s, L2L_ERROR_FORMAT, "not an evaluation's state of this version: its first "
                     "line is '%.40s', not '%s'; the version that wrote it can go on with it",
                     es_pair_of(head.at).key, es_format);
    if (ok && length > es_most(s))
        ok = es_fail(s, L2L_ERROR_FORMAT, "%zu bytes, but a state of %d images has %zu at most",
                     length, s->e->images, es_most(s));
    ok = ok && es_bytes(s, es_most(s), t, &length, missing) && !*missing;
    l2l_free(s->e->context, head.at);
    return ok || *missing;
}

/* Takes its last line, the digest of all lines before it, away. */
static inline bool es_check_digest(const evaluation_state *s, es_text *t)
{
    size_t n = sizeof "end: 0123456789abcdef\n" - 1;
    char end[40];
    t->length -= t->length < n ? t->length : n;
    snprintf(end, sizeof end, "end: %s\n", es_digest_of(t->at, t->length).text);
    if (strlen(t->at) != t->length + n || strcmp(t->at + t->length, end))
        return es_fail(s, L2L_ERROR_FORMAT, "a damaged state: its bytes do not have the digest "
                       "that it ends with");
    t->at[t->length] = 0;
    return true;
}

/* What the file knows, if it is there, for the attacks to come. */
static inline bool es_load(evaluation_state *s)
{
    es_text t = {NULL, 0, 0}, head = t;
    es_pair was, is;
    bool missing, ok = es_read(s, &t, &missing);
    if (ok && !missing) s->last = es_fold(ES_DIGEST, t.at, t.length);
    if (ok && !missing && (ok = es_check_digest(s, &t)) != false) {
        const char *attacks = strstr(t.at, "\nattack: "), *at = attacks ? attacks + 1 : "";
        ok = es_append(s->e->context, &head, t.at, attacks ? (size_t)(at - t.at) : t.length);
        if (ok && es_differ(head.at, s->heading.at, &was, &is))
            ok = es_fail(s, L2L_ERROR_MISMATCH, "%s is %s here, but in the file %s", is.key,
                         is.value, strcmp(was.key, is.key) ? "(none)" : was.value);
        while (ok && *at) ok = es_attack_read(s, &at);
    }
    l2l_free(s->e->context, t.at);
    l2l_free(s->e->context, head.at);
    return !l2l_error(s->e->context);
}

/* ---- the calls ---- */

static inline void evaluation_state_close(evaluation_state *s)
{
    if (!s || !s->e) return;
    for (int i = 0; i < s->count; i++) es_drop(s->e->context, &s->attacks[i]);
    l2l_free(s->e->context, s->attacks);
    l2l_free(s->e->context, s->heading.at);
    memset(s, 0, sizeof *s);
}

/* For an evaluation that has begun and made no attack. Without a path nothing is kept. */
static inline bool evaluation_state_open(evaluation_state *s, l2l_evaluation *e, const char *path)
{
    const char *who = "evaluation_state_open";
    if (!s) return evaluation__given(e ? e->context : NULL, who, "the state", s);
    memset(s, 0, sizeof *s);
    if (!evaluation__begun(e, who)) return false;
    s->e = e;
    s->path = path;
    if (!path || (es_heading(e, &s->heading) && es_load(s))) return true;
    evaluation_state_close(s);
    return false;
}

/* The file's attack that comes next, if it is this one, or a new one; NULL after an error. */
static inline es_attack *es_next(evaluation_state *s, const l2l_series *a)
{
    l2l_context *c = s->e->context;
    es_text here = {NULL, 0, 0};
    es_pair was, is;
    const char *line;
    es_attack *k = s->added < s->count ? &s->attacks[s->added] : es_room(s);
    bool ok = k && es_series(s->e, a, &here);
    if (ok && k->settings.at && (line = es_differ(k->settings.at, here.at, &was, &is)) != NULL)
        ok = line == here.at ? es_fail(s, L2L_ERROR_MISMATCH, "attack %d was %s, not %s",
                                       s->added + 1, was.value, is.value)
                             : es_fail(s, L2L_ERROR_MISMATCH, "attack %d, %s, was made with %s %s, "
                                       "not %s", s->added + 1, a->name, was.key, was.value,
                                       is.value);
    if (ok && !k->settings.at) k->settings = here;
    else l2l_free(c, here.at);
    if (!ok && k && s->added == s->count) es_drop(c, k);
    return ok ? k : NULL;
}

/* As l2l_evaluation_series, from the batch on that the file does not have; images that are wanted
 * are made again. A file that cannot be written is an error behind a finished batch: with the error
 * cleared, the same call goes on with the next one. */
static inline bool evaluation_state_series(evaluation_state *s, l2l_series a, l2l_result *r,
                                           l2l_record *records, l2l_real *adversarial)
{
    l2l_evaluation *e = s ? s->e : NULL;
    es_attack *k;
    double begin = s && s->clock ? s->clock() : 0, before;
    bool ok;
    int n;
    if (r) memset(r, 0, sizeof *r);
    if (!evaluation__begun(e, "evaluation_state_series")) return false;
    l2l_context *c = e->context;
    if (!s->path) {
        ok = l2l_evaluation_series(e, a, r, records, adversarial);
        s->seconds = s->clock ? s->clock() - begin : 0;
        return ok;
    }
    if (!evaluation__series_ok(c, "evaluation_state_series", &a) || (k = es_next(s, &a)) == NULL)
        return false;
    before = adversarial ? 0 : k->seconds;
    for (int at = adversarial ? 0 : k->done; at < e->images && !l2l_error(c); at += n) {
        const l2l_attack *told = a.attacks;
        n = e->images - at < e->options.batch ? e->images - at : e->options.batch;
        if (!l2l_evaluation_run(e, a, at, n, k->records + at,
                                adversarial ? adversarial + (size_t)at * es_pixels(e) : NULL))
            break;
        if (s->clock) k->seconds = before + s->clock() - begin;
        for (; k->done < at + n; k->done++)
            if (!es_record_print(c, &k->lines, &k->records[k->done])) break;
        if (s->added == s->count && k->done) s->count++;
        if (!l2l_error(c) && es_save(s) && told->progress &&
            !told->progress(told->user, at + n, e->images))
            es_fail(s, L2L_ERROR_CANCELLED, "cancelled after %d of %d images", at + n, e->images);
    }
    if (evaluation__add(e, &a, k->records, true, r)) {
        if (records) memcpy(records, k->records, (size_t)e->images * sizeof *records);
        s->seconds = k->seconds;
        s->added++;
    }
    if (s->added == s->count && l2l_error(c) && !k->done) es_drop(c, k);
    return !l2l_error(c);
}

static inline bool evaluation_state_attack(evaluation_state *s, const l2l_attack *a, l2l_result *r,
                                           l2l_record *records, l2l_real *adversarial)
{
    return evaluation_state_series(s, l2l_series_of(a), r, records, adversarial);
}

#endif /* EVALUATION_STATE_H */
