/* cifar.h - CIFAR-10 and CIFAR-100 in their binary form: files of records, each of 3x32x32 pixels
 * behind its label or, of CIFAR-100, behind the number of one of 20 coarse classes and that of one
 * of 100 fine ones. The fine classes are the labels. C99 or C++11. Needs ../l2ladv.h, of it only
 * the public interface, and npy.h for the texts of errors. Every function is static.
 *
 *     cifar10_from_files(c, paths, 5, &d);      data_batch_1.bin to _5.bin, or test_batch.bin
 *     cifar100_from_file(c, "train.bin", &d);
 *
 * The records stay in memory, a byte for each pixel, which becomes v/255. After an error the data
 * set is empty. */
#ifndef CIFAR_H
#define CIFAR_H

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "../l2ladv.h"
#include "npy.h"

enum { CIFAR_PIXELS = 3 * 32 * 32 };

typedef struct cifar_part {
    const unsigned char *records;
    void *owned; /* to be given back with l2l_free, or NULL: they are the caller's */
    int count;
} cifar_part;

typedef struct cifar_set {
    cifar_part *parts;
    int n;
    size_t labels; /* bytes in front of the pixels, of which the last is the label */
} cifar_set;

static inline bool cifar_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const cifar_set *s = (const cifar_set *)d->self;
    const cifar_part *p = s->parts;
    const unsigned char *pixels;
    int at = index, i;
    if (index < 0 || index >= d->count)
        return npy_fail(d->context, L2L_ERROR_ARGUMENT, "data set", -1, "image %d of %d", index,
                        d->count);
    for (; at >= p->count; p++) at -= p->count;
    pixels = p->records + (size_t)at * (s->labels + CIFAR_PIXELS) + s->labels;
    *label = pixels[-1];
    for (i = 0; i < CIFAR_PIXELS; i++) chw[i] = (l2l_real)pixels[i] / 255;
    return true;
}

static inline void cifar_release(l2l_dataset *d)
{
    cifar_set *s = (cifar_set *)d->self;
    int k;
    for (k = 0; s->parts && k < s->n; k++) l2l_free(d->context, s->parts[k].owned);
    l2l_free(d->context, s->parts);
    l2l_free(d->context, s);
}

/* A data set of n files in the making. */
static inline bool cifar__begin(l2l_context *c, int n, int classes, l2l_dataset *d)
{
    cifar_set *s;
    if (!npy_given(c, "CIFAR", "the data set", d)) return false;
    memset(d, 0, sizeof *d);
    d->context = c;
    if (!c || l2l_error(c)) return false;
    if (n < 1) return npy_fail(c, L2L_ERROR_ARGUMENT, "data set", -1, "made from no files");
    if (!(s = (cifar_set *)l2l_allocate(c, sizeof *s))) return false;
    d->channels = 3;
    d->height = d->width = 32;
    d->classes = classes;
    d->fetch = cifar_fetch;
    d->release = cifar_release;
    d->self = s;
    s->n = n;
    s->labels = classes > 10 ? 2 : 1;
    s->parts = (cifar_part *)l2l_allocate(c, (size_t)n * sizeof *s->parts);
    return true;
}

/* Whether a length is that of records, after those that there are. */
static inline bool cifar__length(const l2l_dataset *d, const char *name, size_t bytes)
{
    const size_t record = ((const cifar_set *)d->self)->labels + CIFAR_PIXELS, n = bytes / record;
    return (bytes % record == 0 && n > 0 && n <= (size_t)(INT_MAX - d->count)) ||
           npy_fail(d->context, L2L_ERROR_FORMAT, name, (int64_t)(n * record), "truncated, or not "
                    "a file of CIFAR-%d: %lld bytes are not a number of records of %d", d->classes,
                    (long long)bytes, (int)record);
}

/* The next part, whose length is right. */
static inline void cifar__take(l2l_dataset *d, cifar_part *p, const char *name, size_t bytes)
{
    const size_t labels = ((const cifar_set *)d->self)->labels, record = labels + CIFAR_PIXELS;
    size_t at;
    p->count = (int)(bytes / record);
    d->count += p->count;
    for (at = labels - 1; at < bytes; at += record)
        if (p->records[at] >= d->classes) {
            npy_fail(d->context, L2L_ERROR_FORMAT, name, (int64_t)at,
                     "label %lld is %d, not in 0..%d", (long long)(at / record), p->records[at],
                     d->classes - 1);
            return;
        }
}

/* Whether it can be used; it is given back if not. */
static inline bool cifar__end(l2l_context *c, l2l_dataset *d)
{
    if (!l2l_error(c)) return true;
    l2l_dataset_free(d);
    d->context = c;
    return false;
}

static inline bool cifar__from_files(l2l_context *c, const char *const *paths, int n, int classes,
                                     l2l_dataset *d)
{
    int k;
    if (!cifar__begin(c, n, classes, d)) return false;
    for (k = 0; k < n && !l2l_error(c) && npy_given(c, "CIFAR", "paths", paths); k++) {
        cifar_part *p = ((cifar_set *)d->self)->parts + k;
        size_t bytes, again = 0;
        void *none;
        if (!npy_given(c, "CIFAR", "the path", paths[k]) ||
            !l2l_load_bytes(c, paths[k], 0, &none, &bytes) || !cifar__length(d, paths[k], bytes) ||
            !l2l_load_bytes(c, paths[k], bytes, &p->owned, &again))
            break;
        p->records = (const unsigned char *)p->owned;
        if (again != bytes)
            npy_fail(c, L2L_ERROR_FILE, paths[k], -1, "its length changes while it is read");
        else
            cifar__take(d, p, paths[k], bytes);
    }
    return cifar__end(c, d);
}

/* Files of CIFAR-10, one after the other. */
static inline bool cifar10_from_files(l2l_context *c, const char *const *paths, int n,
                                      l2l_dataset *d)
{
    return cifar__from_files(c, paths, n, 10, d);
}

/* train.bin or test.bin of CIFAR-100. */
static inline bool cifar100_from_file(l2l_context *c, const char *path, l2l_dataset *d)
{
    const char *const paths[1] = {path};
    return cifar__from_files(c, paths, 1, 100, d);
}

/* The same of files in memory, which are borrowed until l2l_dataset_free; 10 or 100 classes. */
static inline bool cifar_from_memory(l2l_context *c, const void *const *files, const size_t *bytes,
                                     int n, int classes, l2l_dataset *d)
{
    char name[40];
    int k;
    if (!cifar__begin(c, n, classes, d)) return false;
    for (k = 0; k < n && !l2l_error(c); k++) {
        cifar_part *p = ((cifar_set *)d->self)->parts + k;
        snprintf(name, sizeof name, "file %d in memory", k);
        if (!npy_given(c, "CIFAR", "files", files) || !npy_given(c, "CIFAR", "bytes", bytes) ||
            !cifar__length(d, name, files[k] ? bytes[k] : 0))
            break;
        p->records = (const unsigned char *)files[k];
        cifar__take(d, p, name, bytes[k]);
    }
    return cifar__end(c, d);
}

#endif /* CIFAR_H */
