/* shards.h - data sets larger than memory: pairs of .npy arrays ("shards"), images of unsigned bytes
 * (u1) as N×H×W×C or N×H×W, with H, W, C the same in all, and N labels 0..classes-1 of any integer
 * type. Labels are read at once, images one at a time when they are fetched.
 *
 * It is also an example of a data set of one's own: all that the library sees is `fetch`. C99, and
 * POSIX or Windows for files of 2 GB and more. Include it first. Not part of the library. */
#ifndef SHARDS_H
#define SHARDS_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#ifdef _WIN32
#include <wchar.h>
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned, unsigned long, const char *, int,
                                                        wchar_t *, int);
#endif

#include "../l2ladv.h"
#include "npy.h"

/* Where bytes come from: `read_at` copies `bytes` of them from `offset` on, false if it cannot. */
typedef struct shards_source {
    int64_t bytes; /* length of the whole */
    bool (*read_at)(void *user, int64_t offset, void *to, size_t bytes);
    void *user;
} shards_source;

typedef struct shards_part {
    shards_source images; /* H×W×C */
    int64_t first;        /* where the pixels begin in it */
    int count;
} shards_part;

typedef struct shards_set {
    shards_part *parts;
    int n;
    int *labels;
    unsigned char *one; /* room for an image */
    bool files;         /* the sources are files, which are closed at the end */
} shards_set;

/* An empty data set: also what an error leaves. */
static inline bool shards_empty(l2l_context *c, l2l_dataset *d)
{
    if (!npy_given(c, "shards", "the data set", d)) return false;
    memset(d, 0, sizeof *d);
    d->context = c;
    return !l2l_error(c);
}

/* ---- what the library sees ---- */

static inline bool shards_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const shards_set *s = (const shards_set *)d->self;
    const shards_part *p = s->parts;
    size_t channels = (size_t)d->channels, plane = (size_t)d->height * (size_t)d->width, k, i;
    size_t size = channels * plane;
    char name[64];
    int at = index;
    int64_t offset;
    if (index < 0 || index >= d->count)
        return npy_fail(d->context, L2L_ERROR_ARGUMENT, "data set", -1, "image %d of %d", index,
                           d->count);
    for (; at >= p->count; p++) at -= p->count;
    offset = p->first + (int64_t)at * (int64_t)size;
    if (!p->images.read_at(p->images.user, offset, s->one, size)) {
        snprintf(name, sizeof name, "images of shard %d", (int)(p - s->parts));
        return npy_fail(d->context, L2L_ERROR_FILE, name, offset, "cannot read image %d", index);
    }
    for (k = 0; k < channels; k++)
        for (i = 0; i < plane; i++) *chw++ = (l2l_real)s->one[i * channels + k] / 255;
    *label = s->labels[index];
    return true;
}

static inline void shards_release(l2l_dataset *d)
{
    shards_set *s = (shards_set *)d->self;
    int k;
    for (k = 0; s->files && k < s->n; k++) fclose((FILE *)s->parts[k].images.user);
    l2l_free(d->context, s->parts);
    l2l_free(d->context, s->labels);
    l2l_free(d->context, s->one);
    l2l_free(d->context, s);
}

/* ---- one shard ---- */

/* The first bytes of a source, at most `most`, and what its .npy header says of the whole. To be
 * given back with l2l_free; NULL after an error. */
static inline unsigned char *shards_head(l2l_context *c, const char *name, const shards_source *s,
                                         int64_t most, npy_info *h)
{
    size_t n = (size_t)(s->bytes < most ? s->bytes : most);
    unsigned char *head;
    if (s->bytes < 0) {
        npy_fail(c, L2L_ERROR_FORMAT, name, -1, "%lld bytes: no file is so long here",
                    (long long)s->bytes);
        return NULL;
    }
    head = (unsigned char *)l2l_allocate(c, n);
    if (head && !s->read_at(s->user, 0, head, n))
        npy_fail(c, L2L_ERROR_FILE, name, 0, "cannot read %zu bytes", n);
    else if (head && npy_header(c, name, head, n, s->bytes, h))
        return head;
    l2l_free(c, head);
    return NULL;
}

/* "2, 3" */
static inline const char *shards_shape(const npy_info *h, char text[200])
{
    int i, n = 0;
    for (text[0] = 0, i = 0; i < h->rank; i++)
        n += snprintf(text + n, 200 - (size_t)n, i ? ", %lld" : "%lld", (long long)h->shape[i]);
    return text;
}

/* The first shard says what size all images have. */
static inline bool shards_images(l2l_dataset *d, shards_part *p, const char *name)
{
    npy_info h;
    const int64_t *s = h.shape; /* N, H, W, C */
    char text[200];
    bool ok;
    int i;
    unsigned char *head = shards_head(d->context, name, &p->images, NPY_HEAD, &h);
    if (!head) return false;
    l2l_free(d->context, head);
    ok = h.type == 'u' && h.size == 1 && (h.rank == 3 || h.rank == 4) && !h.fortran_order;
    if (h.rank == 3) h.shape[3] = 1;
    for (i = 0; i < 4; i++) ok = ok && s[i] > 0 && s[i] <= INT_MAX;
    if (!ok || s[0] > INT_MAX - d->count)
        return npy_fail(d->context, L2L_ERROR_FORMAT, name, 10,
                           "expected images of u1 as (N, H, W, C) or (N, H, W), not %c%d as (%s)",
                           h.type, h.size, shards_shape(&h, text));
    if (d->count && (d->height != s[1] || d->width != s[2] || d->channels != s[3]))
        return npy_fail(d->context, L2L_ERROR_FORMAT, name, 10,
                           "images of %lldx%lldx%lld (CxHxW) after some of %dx%dx%d",
                           (long long)s[3], (long long)s[1], (long long)s[2], d->channels,
                           d->height, d->width);
    p->count = (int)s[0];
    p->first = h.begin;
    d->count += p->count;
    d->height = (int)s[1];
    d->width = (int)s[2];
    d->channels = (int)s[3];
    return true;
}

/* The labels of a shard of n images. */
static inline bool shards_labels(const l2l_dataset *d, const shards_source *s, const char *name,
                                 int n, int *labels)
{
    npy_info h;
    int64_t v, at;
    int i;
    unsigned char *all = shards_head(d->context, name, s, NPY_HEAD + 8 * (int64_t)n, &h);
    if (!all) return false;
    if (h.type == 'f' || h.rank != 1 || h.count != n)
        npy_fail(d->context, L2L_ERROR_FORMAT, name, 10,
                    "expected %d integers as (N), a label for each image", n);
    for (i = 0; i < n && !l2l_error(d->context); i++) {
        at = h.begin + (int64_t)i * h.size;
        v = npy_whole(&h, all + at); /* beyond 2^63 negative, which no label is either */
        if (v < 0 || v >= d->classes || (h.type == 'b' && v > 1))
            npy_fail(d->context, L2L_ERROR_FORMAT, name, at, "label %d is %lld, not in 0..%d", i,
                        (long long)v, d->classes - 1);
        labels[i] = (int)v;
    }
    l2l_free(d->context, all);
    return !l2l_error(d->context);
}

/* ---- all of them ---- */

enum { SHARDS_NAME = 1200 };               /* bytes */

/* "PREFIX-00007-images.npy", or without a prefix "images of shard 7". */
static inline const char *shards_name(char name[SHARDS_NAME], const char *prefix, int k, const char *what)
{
    if (prefix) snprintf(name, SHARDS_NAME, "%s-%05d-%s.npy", prefix, k, what);
    else snprintf(name, SHARDS_NAME, "%s of shard %d", what, k);
    return name;
}

static inline bool shards_read(l2l_dataset *d, const char *prefix, const shards_source *images,
                               const shards_source *labels)
{
    shards_set *s = (shards_set *)d->self;
    char name[SHARDS_NAME];
    int *y, k;
    for (k = 0; k < s->n; k++) {
        s->parts[k].images = images[k];
        if (!shards_images(d, &s->parts[k], shards_name(name, prefix, k, "images"))) return false;
    }
    y = s->labels = (int *)l2l_allocate(d->context, (size_t)d->count * sizeof *y);
    s->one = (unsigned char *)l2l_allocate(d->context, (size_t)d->channels * (size_t)d->height *
                                                           (size_t)d->width);
    if (!y || !s->one) return false;
    for (k = 0; k < s->n; y += s->parts[k++].count)
        if (!shards_labels(d, &labels[k], shards_name(name, prefix, k, "labels"),
                           s->parts[k].count, y))
            return false;
    return true;
}

/* A data set of n shards; the sources are copied, their `user` is borrowed until l2l_dataset_free.
 * After an error it is empty. The prefix is for the texts of errors; it may be NULL. */
static inline bool shards_from_sources(l2l_context *c, const char *prefix,
                                       const shards_source *images, const shards_source *labels,
                                       int n, int classes, l2l_dataset *d)
{
    shards_set *s;
    int k;
    if (!shards_empty(c, d) || !npy_given(c, "shards", "the list of images", images) ||
        !npy_given(c, "shards", "the list of labels", labels))
        return false;
    for (k = 0; k < n; k++)
        if (!images[k].read_at || !labels[k].read_at)
            return npy_given(c, "shards", "read_at", NULL);
    if (n < 1) return npy_fail(c, L2L_ERROR_ARGUMENT, "data set", -1, "made from no files");
    s = (shards_set *)l2l_allocate(c, sizeof *s);
    if (!s) return false;
    d->classes = classes;
    d->fetch = shards_fetch;
    d->release = shards_release;
    d->self = s;
    s->n = n;
    s->parts = (shards_part *)l2l_allocate(c, (size_t)n * sizeof *s->parts);
    if (s->parts && shards_read(d, prefix, images, labels)) return true;
    l2l_dataset_free(d);
    return shards_empty(c, d);
}

/* ---- files ---- */

#ifdef _WIN32
static inline bool shards_seek(FILE *f, int64_t to, int from) { return !_fseeki64(f, to, from); }
static inline int64_t shards_tell(FILE *f) { return _ftelli64(f); }
#else
static inline bool shards_seek(FILE *f, int64_t to, int from)
{
    return (int64_t)(off_t)to == to && !fseeko(f, (off_t)to, from);
}
static inline int64_t shards_tell(FILE *f) { return ftello(f); }
#endif

static inline bool shards_read_file(void *user, int64_t offset, void *to, size_t bytes)
{
    FILE *f = (FILE *)user;
    return shards_seek(f, offset, SEEK_SET) && fread(to, 1, bytes, f) == bytes;
}

/* Names are UTF-8, as all those of the library. A pipe is refused: to open one waits for whoever
 * writes to it. */
#ifdef _WIN32
static inline FILE *shards_file(const char *name)
{
    wchar_t wide[SHARDS_NAME];
    return MultiByteToWideChar(65001, 0, name, -1, wide, SHARDS_NAME) ? _wfopen(wide, L"rb") : NULL;
}
#else
static inline FILE *shards_file(const char *name)
{
    struct stat s;
    if (!stat(name, &s) && S_ISFIFO(s.st_mode)) {
        errno = ESPIPE;
        return NULL;
    }
    return fopen(name, "rb");
}
#endif

/* 1: can be opened; 0: there is none; -1: something is there that cannot be opened. */
static inline int shards_there(const char *prefix, int k, const char *what)
{
    char name[SHARDS_NAME];
    FILE *f = shards_file(shards_name(name, prefix, k, what));
    if (!f) return errno == ENOENT ? 0 : -1;
    fclose(f);
    return 1;
}

/* How many: up to the first number of which there are no images; that one, too, if it should be
 * there, as opening it will say: the very first, one that cannot be opened, one with labels, one
 * with another behind it. */
static inline int shards_count(const char *prefix)
{
    int n = 0;
    while (n < 99999 && shards_there(prefix, n, "images") > 0) n++;
    return n + (!n || shards_there(prefix, n, "images") || shards_there(prefix, n, "labels") ||
                shards_there(prefix, n + 1, "images"));
}

static inline bool shards_open(l2l_context *c, const char *name, shards_source *s)
{
    FILE *f = shards_file(name);
    if (!f)
        return npy_fail(c, L2L_ERROR_FILE, name, -1, "cannot open it: %s", strerror(errno));
    s->user = f;
    s->read_at = shards_read_file;
    s->bytes = shards_seek(f, 0, SEEK_END) ? shards_tell(f) : -1;
    return (s->bytes >= 0 && s->bytes < INT64_MAX) ||
           npy_fail(c, L2L_ERROR_FILE, name, -1,
                       "not a file of a known length (a directory, a pipe?)");
}

/* PREFIX-00000-images.npy with PREFIX-00000-labels.npy and so on, up to the first number of which
 * there is nothing. The files of images stay open until l2l_dataset_free. */
static inline bool shards_from_files(l2l_context *c, const char *prefix, int classes,
                                     l2l_dataset *d)
{
    char name[SHARDS_NAME];
    shards_source *s;
    int n, k;
    bool ok;
    if (!shards_empty(c, d) || !npy_given(c, "shards", "the prefix", prefix)) return false;
    if (strlen(prefix) > 1000)
        return npy_fail(c, L2L_ERROR_ARGUMENT, "shards", -1, "a prefix of %zu characters",
                           strlen(prefix));
    n = shards_count(prefix);
    s = (shards_source *)l2l_allocate(c, 2 * (size_t)n * sizeof *s);
    if (!s) return false;
    for (k = 0; k < 2 * n && !l2l_error(c); k++)
        shards_open(c, shards_name(name, prefix, k % n, k < n ? "images" : "labels"), &s[k]);
    ok = !l2l_error(c) && shards_from_sources(c, prefix, s, s + n, n, classes, d);
    if (ok) ((shards_set *)d->self)->files = true;
    for (k = ok ? n : 0; k < 2 * n; k++)
        if (s[k].user) fclose((FILE *)s[k].user);
    l2l_free(c, s);
    return ok;
}

#endif /* SHARDS_H */
