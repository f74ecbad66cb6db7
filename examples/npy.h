/* npy.h - .npy, NumPy's file of one array, read and written. C99 or C++11. Needs ../l2ladv.h alone,
 * and of it only the public interface. Every function is static: include it where it is used.
 *
 *     npy_array a;
 *     if (npy_load(c, "x.npy", &a)) ...                 a.shape, a.reals or a.integers
 *     npy_array_free(c, &a);
 *     npy_save_reals(c, "y.npy", values, shape, rank);
 *
 * Read are versions 1.0 to 3.0 of <f2, <f4, <f8, integers and booleans of any size, both byte
 * orders, C's and Fortran's order; written are <f4 (<f8 under L2LADV_DOUBLE) and <i8. A file is
 * distrusted: its header is checked against its length before memory is asked for, and an array is
 * empty after an error. Files are opened and written by the library, as all of its own. */
#ifndef NPY_H
#define NPY_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../l2ladv.h"

typedef struct npy_array {
    int rank;
    int64_t shape[8];
    int64_t count;
    bool integer; /* then `integers` holds the values, else `reals` */
    l2l_real *reals;
    int64_t *integers;
} npy_array;

/* What a header says of an array, for one that is read in parts. */
typedef struct npy_info {
    char type;          /* 'f', 'i', 'u' (unsigned) or 'b' (boolean), of */
    int size;           /* so many bytes each */
    bool big_endian;    /* false for single bytes */
    bool fortran_order; /* the first axis varies fastest */
    int rank;
    int64_t shape[8];
    int64_t count;      /* of numbers */
    int64_t begin;      /* the byte where they begin; the file ends with them */
} npy_info;

enum { NPY_HEAD = 12 + 65535 }; /* bytes of the longest header that is read, which NumPy writes */

/* ---- errors ---- */

/* "NAME, byte 10: what is wrong"; no byte where `at` is negative. What control characters a file
 * may have put into it are taken out. Always false. */
static inline bool npy_fail(l2l_context *c, l2l_status status, const char *name, int64_t at,
                            const char *format, ...)
{
    char text[1500], *p;
    va_list a;
    int n = at < 0 ? snprintf(text, sizeof text, "%s: ", name)
                   : snprintf(text, sizeof text, "%s, byte %lld: ", name, (long long)at);
    va_start(a, format);
    if (n > 0 && (size_t)n < sizeof text)
        vsnprintf(text + n, sizeof text - (size_t)n, format, a);
    va_end(a);
    for (p = text; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    l2l_error_set(c, status, text);
    return false;
}

/* What cannot be left out; false, and an error, if it is NULL. */
static inline bool npy_given(l2l_context *c, const char *where, const char *what,
                             const void *argument)
{
    return argument || npy_fail(c, L2L_ERROR_ARGUMENT, where, -1, "%s is NULL", what);
}

/* ---- the header, a Python literal ---- */

/* Bytes at .. end-1 of the file are yet to be read. The first error stays in the context and ends
 * every list, so few results need a look. */
typedef struct npy__scan {
    l2l_context *c;
    const char *name;
    const unsigned char *file;
    size_t at, end;
    bool longs; /* whole numbers also as Python 2 wrote them: 3L */
    bool comma; /* whether one was behind the last element of a list */
} npy__scan;

static inline bool npy__scan_fail(const npy__scan *s, const char *what)
{
    return npy_fail(s->c, L2L_ERROR_FORMAT, s->name, (int64_t)s->at, "%s", what);
}

/* What is next, behind white space; 0 at the end. */
static inline int npy__look(npy__scan *s)
{
    for (; s->at < s->end; s->at++) {
        int ch = s->file[s->at];
        if (ch != ' ' && ch != '\t' && ch != '\n' && ch != '\r') return ch;
    }
    return 0;
}

static inline bool npy__take(npy__scan *s, char ch)
{
    if (npy__look(s) != ch) return false;
    s->at++;
    return true;
}

static inline bool npy__want(npy__scan *s, char ch)
{
    return npy__take(s, ch) || npy_fail(s->c, L2L_ERROR_FORMAT, s->name, (int64_t)s->at,
                                        "expected %c here", ch);
}

/* In front of element n of a list: true if there is one, false behind `close` or after an error. */
static inline bool npy__element(npy__scan *s, char close, int64_t n)
{
    if (l2l_error(s->c)) return false;
    if (n == 0) return !npy__take(s, close);
    s->comma = npy__take(s, ',');
    if (s->comma) return !npy__take(s, close);
    npy__want(s, close);
    return false;
}

/* 'text', "text" or, of Python 2, u'text'. */
typedef struct npy__text {
    const char *at;
    int length;
} npy__text;

static inline npy__text npy__string(npy__scan *s)
{
    npy__text t = {"", 0};
    size_t start;
    char quote;
    npy__take(s, 'u');
    quote = npy__take(s, '\'') ? '\'' : '"';
    if (quote == '"' && !npy__want(s, '"')) return t;
    for (start = s->at; s->at < s->end && s->file[s->at] != quote; s->at++)
        if (s->file[s->at] < 32 || s->file[s->at] == '\\') break;
    if (s->at == s->end || s->file[s->at] != quote) {
        npy__scan_fail(s, "a string without an end, with a control character or with \\");
        return t;
    }
    t.at = (const char *)s->file + start;
    t.length = (int)(s->at++ - start);
    return t;
}

static inline bool npy__is(npy__text t, const char *text)
{
    return (size_t)t.length == strlen(text) && !memcmp(t.at, text, (size_t)t.length);
}

static inline int64_t npy__whole(npy__scan *s)
{
    int first = npy__look(s);
    size_t start = s->at;
    int64_t v = 0;
    for (; s->at < s->end && s->file[s->at] >= '0' && s->file[s->at] <= '9'; s->at++) {
        int digit = s->file[s->at] - '0';
        if (v > (INT64_MAX - digit) / 10) npy__scan_fail(s, "a number beyond 2^63-1");
        else v = v * 10 + digit;
    }
    if (s->at == start || (first == '0' && s->at > start + 1))
        npy__scan_fail(s, "expected a whole number, not negative, no leading zeros");
    s->at += s->longs && s->at < s->end && s->file[s->at] == 'L';
    return v;
}

/* A tuple of whole numbers. */
static inline void npy__shape(npy__scan *s, npy_info *h)
{
    npy__want(s, '(');
    for (h->rank = 0; npy__element(s, ')', h->rank); h->rank++) {
        int64_t v = npy__whole(s);
        if (h->rank < 8) h->shape[h->rank] = v;
    }
    if (h->rank == 1 && !s->comma) npy__scan_fail(s, "a tuple of one needs a comma");
}

static inline bool npy__big_machine(void)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return !first;
}

/* Of two names the one with the size or the one of a letter; without a mark in front, or behind =
 * or |, it is in the machine's byte order. */
static inline void npy__type(npy__scan *s, npy_info *h)
{
    static const char types[][4] = {"f2e", "f4f", "f8d", "i8q", "i4i", "i2h", "i1b", "u1B", "u2H",
                                    "u4I", "u8Q", "b1?"};
    const npy__text all = npy__string(s);
    npy__text t = all;
    size_t k;
    char mark = t.length && strchr("<>=|", *t.at) ? *t.at : '=';
    if (t.length && *t.at == mark) t.at++, t.length--;
    for (k = 0; k < sizeof types / sizeof *types; k++)
        if ((t.length == 2 && !memcmp(t.at, types[k], 2)) ||
            (t.length == 1 && *t.at == types[k][2])) {
            h->type = types[k][0];
            h->size = types[k][1] - '0';
            h->big_endian = h->size > 1 && (mark == '>' || (mark != '<' && npy__big_machine()));
            return;
        }
    npy_fail(s->c, L2L_ERROR_FORMAT, s->name, (int64_t)s->at, "unsupported descr (known: f2, f4, "
             "f8, i1 to i8, u1 to u8, b1): '%.*s'", all.length, all.at);
}

static inline bool npy__bool(npy__scan *s)
{
    const bool yes = npy__look(s) == 'T';
    const size_t length = yes ? 4 : 5;
    if (s->end - s->at < length || memcmp(s->file + s->at, yes ? "True" : "False", length))
        return npy__scan_fail(s, "expected True or False here");
    s->at += length;
    return yes;
}

/* The dictionary, and nothing behind it. */
static inline bool npy__dictionary(npy__scan *s, npy_info *h)
{
    static const char *const keys[3] = {"descr", "fortran_order", "shape"};
    bool seen[3] = {false, false, false};
    int n, k;
    npy__want(s, '{');
    for (n = 0; npy__element(s, '}', n); n++) {
        const npy__text key = npy__string(s);
        for (k = 0; k < 3 && !npy__is(key, keys[k]); k++) continue;
        if (k == 3 || seen[k])
            return npy_fail(s->c, L2L_ERROR_FORMAT, s->name, (int64_t)s->at,
                            "an unknown key, or one a second time: '%.*s'", key.length, key.at);
        seen[k] = true;
        npy__want(s, ':');
        if (k == 0) npy__type(s, h);
        else if (k == 1) h->fortran_order = npy__bool(s);
        else npy__shape(s, h);
    }
    if (h->rank > 8) npy__scan_fail(s, "too long a shape (more than 8 axes)");
    if (n < 3) npy__scan_fail(s, "descr, fortran_order and shape are all needed");
    npy__look(s);
    if (s->at != s->end) npy__scan_fail(s, "text after the header's end");
    h->fortran_order = h->fortran_order && h->rank > 1;
    return !l2l_error(s->c);
}

/* *count = the product of a shape; false when one is negative or the product does not fit. */
static inline bool npy__product(const int64_t *shape, int rank, int64_t *count)
{
    for (*count = 1; rank > 0; rank--, shape++) {
        if (*shape < 0 || (*shape && *count > INT64_MAX / *shape)) return false;
        *count *= *shape;
    }
    return true;
}

/* An integer of 1 to 8 bytes, by shifts: right on a machine of any byte order. */
static inline uint64_t npy__bits(const unsigned char *p, int size, bool big)
{
    uint64_t v = 0;
    int i;
    for (i = 0; i < size; i++) v |= (uint64_t)p[big ? size - 1 - i : i] << (8 * i);
    return v;
}

/* Where the array is and what it is, of a file of `total` bytes, checked against that length. */
static inline bool npy__open(l2l_context *c, const char *name, const unsigned char *p, size_t bytes,
                             int64_t total, npy_info *h)
{
    int64_t start, n, rest;
    npy__scan s;
    if (total < 0 || (uint64_t)total < bytes || (uint64_t)total > SIZE_MAX / 2)
        return npy_fail(c, L2L_ERROR_FORMAT, name, -1, "%lld bytes: no file is so long here",
                        (long long)total);
    if (bytes < 12 || memcmp(p, "\x93NUMPY", 6) || p[6] < 1 || p[6] > 3 || p[7])
        return npy_fail(c, L2L_ERROR_FORMAT, name, 0, "not a .npy file of version 1.0 to 3.0");
    start = p[6] == 1 ? 10 : 12;
    n = (int64_t)npy__bits(p + 8, (int)start - 8, false);
    if (n > total - start)
        return npy_fail(c, L2L_ERROR_FORMAT, name, 8, "a header of %lld bytes in a file of %lld",
                        (long long)n, (long long)total);
    if (n > 65535)
        return npy_fail(c, L2L_ERROR_FORMAT, name, 8, "a header of more than 65535 bytes");
    if (n > (int64_t)bytes - start)
        return npy_fail(c, L2L_ERROR_FORMAT, name, 8, "a header of %lld bytes, of which only %lld "
                        "were read", (long long)n, (long long)bytes - (long long)start);
    s.c = c;
    s.name = name;
    s.file = p;
    s.at = (size_t)start;
    s.end = (size_t)(start + n);
    s.longs = p[6] < 3;
    s.comma = false;
    if (!npy__dictionary(&s, h)) return false;
    h->begin = start + n;
    rest = total - h->begin;
    if (!npy__product(h->shape, h->rank, &h->count))
        return npy_fail(c, L2L_ERROR_FORMAT, name, start, "a shape whose product is beyond 2^63-1");
    return (rest % h->size == 0 && h->count == rest / h->size) ||
           npy_fail(c, L2L_ERROR_FORMAT, name, h->begin, "%lld elements of %d bytes announced, "
                    "%lld bytes of data", (long long)h->count, h->size, (long long)rest);
}

/* What the numbers of a file are and where they begin, by its first bytes, at least the whole
 * header (NPY_HEAD hold what NumPy writes), and its length. Errors call it `name`. shards.h streams
 * images by it. After an error *h is all zero. */
static inline bool npy_header(l2l_context *c, const char *name, const void *head, size_t bytes,
                              int64_t total, npy_info *h)
{
    if (h) memset(h, 0, sizeof *h);
    if (!c || l2l_error(c) || !npy_given(c, "npy_header", "h", h) ||
        (bytes && !npy_given(c, "npy_header", "head", head)))
        return false;
    if (npy__open(c, name ? name : "memory", (const unsigned char *)head, bytes, total, h))
        return true;
    memset(h, 0, sizeof *h);
    return false;
}

/* ---- reading ---- */

/* Where element i, counted with the last axis the fastest, stands in the file's order. */
static inline int64_t npy__place(const npy_info *h, int64_t i)
{
    int64_t step = h->count, place = 0;
    int k;
    if (!h->fortran_order) return i;
    for (k = h->rank - 1; k >= 0; k--) {
        step /= h->shape[k];
        place += i % h->shape[k] * step;
        i /= h->shape[k];
    }
    return place;
}

static inline double npy__real(uint64_t bits, int size)
{
    const uint32_t u = (uint32_t)bits;
    const int exponent = (int)(bits >> 10 & 31), m = (int)(bits & 1023);
    float single;
    double v;
    memcpy(&single, &u, 4);
    memcpy(&v, &bits, 8);
    if (size == 8) return v;
    if (size == 4) return (double)single;
    v = exponent == 31 ? (m ? (double)NAN : (double)INFINITY)
      : exponent == 0 ? ldexp(m, -24) : ldexp(1024 + m, exponent - 25);
    return bits & 0x8000 ? -v : v;
}

/* A whole number at p, of type and size as h says. One beyond 2^63 becomes negative. */
static inline int64_t npy_whole(const npy_info *h, const unsigned char *p)
{
    uint64_t v = npy__bits(p, h->size, h->big_endian);
    if (h->type == 'i' && h->size < 8 && v >> (8 * h->size - 1))
        v |= ~(uint64_t)0 << (8 * h->size);
    return (int64_t)v;
}

static inline void npy_array_free(l2l_context *c, npy_array *a)
{
    if (!a) return;
    l2l_free(c, a->reals);
    l2l_free(c, a->integers);
    memset(a, 0, sizeof *a);
}

/* The array of a file that has been checked. */
static inline bool npy__read(l2l_context *c, const char *name, const unsigned char *file,
                             const npy_info *h, npy_array *a)
{
    int64_t i;
    void *values;
    a->rank = h->rank;
    memcpy(a->shape, h->shape, sizeof a->shape);
    a->count = h->count;
    a->integer = h->type != 'f';
    values = (uint64_t)h->count > SIZE_MAX / 8 ? l2l_allocate(c, SIZE_MAX) /* not to be had */
             : l2l_allocate(c, (size_t)h->count * (a->integer ? 8 : sizeof(l2l_real)));
    if (a->integer) a->integers = (int64_t *)values;
    else a->reals = (l2l_real *)values;
    for (i = 0; i < h->count && !l2l_error(c); i++) {
        const int64_t at = h->begin + npy__place(h, i) * h->size;
        const unsigned char *p = file + at;
        if (!a->integer) {
            a->reals[i] = (l2l_real)npy__real(npy__bits(p, h->size, h->big_endian), h->size);
            continue;
        }
        a->integers[i] = npy_whole(h, p);
        if ((h->type == 'u' && a->integers[i] < 0) || (h->type == 'b' && a->integers[i] > 1))
            npy_fail(c, L2L_ERROR_FORMAT, name, at, "element %lld does not fit (unsigned: below "
                     "2^63, boolean: 0 or 1)", (long long)(at - h->begin) / h->size);
    }
    if (!l2l_error(c)) return true;
    npy_array_free(c, a);
    return false;
}

/* An empty array to load into. */
static inline bool npy__begin(l2l_context *c, npy_array *a)
{
    if (!npy_given(c, "npy_load", "the array", a)) return false;
    memset(a, 0, sizeof *a);
    return c != NULL;
}

static inline bool npy_load_memory(l2l_context *c, const void *data, size_t bytes, npy_array *a)
{
    npy_info h;
    return npy__begin(c, a) && npy_header(c, "memory", data, bytes, (int64_t)bytes, &h) &&
           npy__read(c, "memory", (const unsigned char *)data, &h, a);
}

/* What is in front is looked at before the rest is read. */
static inline bool npy_load(l2l_context *c, const char *path, npy_array *a)
{
    size_t most = NPY_HEAD, total;
    void *data = NULL;
    npy_info h;
    bool ok;
    if (!npy__begin(c, a)) return false;
    for (;; most = SIZE_MAX) {
        ok = l2l_load_bytes(c, path, most, &data, &total) &&
             npy_header(c, path, data, total < most ? total : most, (int64_t)total, &h);
        if (!ok || total <= most) break;
        l2l_free(c, data);
    }
    ok = ok && npy__read(c, path, (const unsigned char *)data, &h, a);
    l2l_free(c, data);
    return ok;
}

/* ---- writing ---- */

/* `values` in C's order, little-endian on every machine. */
static inline bool npy__save(l2l_context *c, const char *path, char type, size_t size,
                             const void *values, const int64_t *shape, int rank)
{
    char head[384];
    const unsigned char *from = (const unsigned char *)values;
    unsigned char *turned = NULL;
    size_t total, bytes, i;
    int64_t count;
    int n, k;
    bool ok;
    if (!c || l2l_error(c) || !npy_given(c, "saving", "the path", path) ||
        (rank > 0 && !npy_given(c, path, "shape", shape)))
        return false;
    if (rank < 0 || rank > 8 || !npy__product(shape, rank, &count) ||
        (uint64_t)count > SIZE_MAX / size)
        return npy_fail(c, L2L_ERROR_SHAPE, path, -1, "a shape that no file can hold");
    if (count && !npy_given(c, path, "values", values)) return false;
    bytes = (size_t)count * size;
    memcpy(head, "\x93NUMPY\x01", 8);        /* the text's own zero ends the version, 1.0 */
    n = 10 + snprintf(head + 10, sizeof head - 10,
                      "{'descr': '<%c%d', 'fortran_order': False, 'shape': (", type, (int)size);
    for (k = 0; k < rank; k++)
        n += snprintf(head + n, sizeof head - (size_t)n, k ? ", %lld" : "%lld",
                      (long long)shape[k]);
    n += snprintf(head + n, sizeof head - (size_t)n, "%s), }", rank == 1 ? "," : "");
    total = ((size_t)n + 64) / 64 * 64;      /* the values are aligned to 64 bytes */
    memset(head + n, ' ', total - (size_t)n);
    head[total - 1] = '\n';
    head[8] = (char)((total - 10) & 255);
    head[9] = (char)((total - 10) >> 8);
    if (npy__big_machine() && bytes) {
        if (!(turned = (unsigned char *)l2l_allocate(c, bytes))) return false;
        for (i = 0; i < bytes; i++) turned[i] = from[i / size * size + size - 1 - i % size];
        from = turned;
    }
    ok = l2l_save_with_head(c, path, head, total, from, bytes);
    l2l_free(c, turned);
    return ok;
}

static inline bool npy_save_reals(l2l_context *c, const char *path, const l2l_real *values,
                                  const int64_t *shape, int rank)
{
    return npy__save(c, path, 'f', sizeof *values, values, shape, rank);
}

static inline bool npy_save_integers(l2l_context *c, const char *path, const int64_t *values,
                                     const int64_t *shape, int rank)
{
    return npy__save(c, path, 'i', sizeof *values, values, shape, rank);
}

#endif /* NPY_H */
