/* cifar100.h - CIFAR-100 in its binary form: a file of records of 3074 bytes, the number of one of 20
 * coarse classes, that of one of 100 fine ones, and 3x32x32 pixels. The fine classes are the labels.
 *
 * It stands on shards.h for files and errors; the records stay in memory. C99, and POSIX or Windows.
 * Include it first. Not part of the library. */
#ifndef CIFAR100_H
#define CIFAR100_H

#include "shards.h"

enum { CIFAR100_CLASSES = 100, CIFAR100_PIXELS = 3 * 32 * 32, CIFAR100_RECORD = 2 + CIFAR100_PIXELS };

static inline bool cifar100_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const unsigned char *record = (const unsigned char *)d->self;
    int i;
    if (index < 0 || index >= d->count)
        return npy_fail(d->context, L2L_ERROR_ARGUMENT, "data set", -1, "image %d of %d", index,
                           d->count);
    record += (size_t)index * CIFAR100_RECORD;
    *label = record[1];
    for (i = 0; i < CIFAR100_PIXELS; i++) chw[i] = (l2l_real)record[2 + i] / 255;
    return true;
}

static inline void cifar100_release(l2l_dataset *d) { l2l_free(d->context, d->self); }

/* The records of a file, to be given back with l2l_free; NULL after an error. */
static inline unsigned char *cifar100_records(l2l_context *c, const char *path, const shards_source *s)
{
    unsigned char *records;
    int64_t at;
    if (s->bytes % CIFAR100_RECORD || s->bytes < 1 || s->bytes / CIFAR100_RECORD > INT_MAX) {
        npy_fail(c, L2L_ERROR_FORMAT, path, s->bytes - s->bytes % CIFAR100_RECORD,
                    "truncated, or not a file of CIFAR-100: %lld bytes are not a number of records "
                    "of %d", (long long)s->bytes, CIFAR100_RECORD);
        return NULL;
    }
    records = (unsigned char *)l2l_allocate(c, (size_t)s->bytes);
    if (records && !s->read_at(s->user, 0, records, (size_t)s->bytes))
        npy_fail(c, L2L_ERROR_FILE, path, 0, "cannot read %lld bytes", (long long)s->bytes);
    for (at = 1; records && !l2l_error(c) && at < s->bytes; at += CIFAR100_RECORD)
        if (records[at] >= CIFAR100_CLASSES)
            npy_fail(c, L2L_ERROR_FORMAT, path, at, "label %lld is %d, not in 0..%d",
                        (long long)(at / CIFAR100_RECORD), records[at], CIFAR100_CLASSES - 1);
    if (!l2l_error(c)) return records;
    l2l_free(c, records);
    return NULL;
}

/* train.bin or test.bin; after an error the data set is empty. */
static inline bool cifar100_from_file(l2l_context *c, const char *path, l2l_dataset *d)
{
    shards_source s = {0, NULL, NULL};
    unsigned char *records = NULL;
    if (!shards_empty(c, d) || !npy_given(c, "shards", "the path", path)) return false;
    if (shards_open(c, path, &s)) records = cifar100_records(c, path, &s);
    if (s.user) fclose((FILE *)s.user);
    if (!records) return false;
    d->count = (int)(s.bytes / CIFAR100_RECORD);
    d->channels = 3;
    d->height = d->width = 32;
    d->classes = CIFAR100_CLASSES;
    d->fetch = cifar100_fetch;
    d->release = cifar100_release;
    d->self = records;
    return true;
}

#endif /* CIFAR100_H */
