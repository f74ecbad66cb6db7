/* What the tests of the library share: inputs made from a seed, comparison with golden.h, contexts
   whose errors are checked, tensors from PyTorch's layouts. */
#ifndef L2LADV_TESTS_SUPPORT_H
#define L2LADV_TESTS_SUPPORT_H

#include "../l2ladv.h"
#include "test.h"
#include "golden.h"

/* A tolerance for the float build and one for the double build. */
#define TOLERANCE(single, twice) (sizeof(l2l_real) == 4 ? (single) : (twice))
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

HELPER void *test_memory(size_t size)
{
    void *p = calloc(1, size ? size : 1);
    if (!p) { printf("the test itself ran out of memory\n"); exit(2); }
    return p;
}
HELPER l2l_real *test_array(int64_t n)
{
    return (l2l_real *)test_memory((size_t)n * sizeof(l2l_real));
}

/* -- the numbers of golden.py ------------------------------------------------------------------ */

/* The same linear congruential generator as fill() there: 24 bits mapped to [low,high), rounded to
   float in either build. */
HELPER void golden_fill(l2l_real *v, int64_t n, uint32_t seed, double low, double high)
{
    uint32_t s = (uint32_t)(seed * 2654435761u) + 1u;
    int64_t i;
    for (i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        v[i] = (l2l_real)(float)(low + (high - low) * ((double)(s >> 8) / 16777216.0));
    }
}

/* golden = {count, largest magnitude, projection, samples}. An element may be off by
   tolerance * largest, the projection on noise by that times sqrt(count). */
HELPER int golden_check(const char *file, int line, const char *what, const double *golden,
                        const l2l_real *got, int64_t n, double tolerance)
{
    int64_t count = (int64_t)golden[0], samples = count <= 40 ? count : 24, j;
    double largest = golden[1], allowed = tolerance * (largest > 0 ? largest : 1), projection = 0;
    l2l_real *noise;
    if (n != count) {
        if (test_complain(file, line, what))
            printf("expected %ld numbers, got %ld\n", (long)count, (long)n);
        return 0;
    }
    for (j = 0; j < samples; j++) {
        int64_t at = count <= 40 ? j : j * (count - 1) / 23;
        double off = fabs((double)got[at] - golden[3 + j]);
        if (!(off <= allowed)) {
            if (test_complain(file, line, what))
                printf("element %ld: expected %.9g within %.2g, got %.9g (off by %.2g)\n", (long)at,
                       golden[3 + j], allowed, (double)got[at], off);
            return 0;
        }
    }
    noise = test_array(n);
    golden_fill(noise, n, 77, -1, 1);
    for (j = 0; j < n; j++) projection += (double)got[j] * (double)noise[j];
    free(noise);
    allowed *= sqrt((double)n);
    if (!(fabs(projection - golden[2]) <= allowed)) {
        if (test_complain(file, line, what))
            printf("sum of all elements times noise: expected %.9g within %.2g, got %.9g\n",
                   golden[2], allowed, projection);
        return 0;
    }
    return 1;
}
#define CHECK_GOLDEN(golden, values, n, tolerance) \
    golden_check(__FILE__, __LINE__, #golden, golden, values, n, tolerance)

/* -- contexts ---------------------------------------------------------------------------------- */

HELPER l2l_context *test_context(int threads)
{
    l2l_options o = l2l_options_default();
    l2l_context *c;
    o.threads = threads;
    c = l2l_context_create(&o);
    if (!c) { printf("l2l_context_create gave NULL\n"); exit(2); }
    return c;
}

HELPER int test_no_error(const char *file, int line, l2l_context *c)
{
    if (l2l_error(c) == L2L_OK) return 1;
    if (test_complain(file, line, "l2l_error"))
        printf("expected none, got %s: %s\n", l2l_status_name(l2l_error(c)), l2l_error_text(c));
    return 0;
}
/* No error. It is cleared, so that one cause is told once. */
#define CHECK_OK(c) (test_no_error(__FILE__, __LINE__, c) ? 1 : (l2l_error_clear(c), 0))

/* An error of this kind whose text contains `text`; cleared. */
HELPER int test_error(const char *file, int line, l2l_context *c, l2l_status status,
                      const char *text)
{
    int ok = l2l_error(c) == status && strstr(l2l_error_text(c), text) != NULL;
    if (!ok && test_complain(file, line, "l2l_error"))
        printf("expected \"%s\" with \"%s\" in it, got \"%s\": %s\n", l2l_status_name(status), text,
               l2l_status_name(l2l_error(c)), l2l_error_text(c));
    l2l_error_clear(c);
    return ok;
}
#define CHECK_ERROR(c, status, text) test_error(__FILE__, __LINE__, c, status, text)

/* The instruction sets to try: each one that the machine has, and all together. */
HELPER int test_cpus(l2l_context *c, unsigned *cpus)
{
    static const unsigned known[] = {L2L_CPU_PLAIN, L2L_CPU_VECTOR, L2L_CPU_VECTOR | L2L_CPU_AVX2,
                                     L2L_CPU_DETECT};
    unsigned seen[COUNT(known)];
    int n = 0, i, j;
    for (i = 0; i < COUNT(known); i++) {
        l2l_set_cpu(c, known[i]);
        for (j = 0; j < n && seen[j] != l2l_cpu(c); j++) {}
        if (j < n) continue;
        seen[n] = l2l_cpu(c);
        cpus[n++] = known[i];
    }
    return n;
}

/* -- tensors from PyTorch's layouts ------------------------------------------------------------- */

/* N×C×H×W numbers of a seed, as an N×H×W×C tensor. */
HELPER l2l_tensor *seeded(l2l_context *c, int n, int channels, int h, int w, uint32_t seed,
                          double low, double high)
{
    int64_t count = (int64_t)n * channels * h * w;
    l2l_real *v = test_array(count);
    l2l_tensor *t;
    golden_fill(v, count, seed, low, high);
    t = l2l_from_nchw(c, v, l2l_shape_of(n, h, w, channels));
    free(v);
    return t;
}

/* K×C×kh×kw (or K×(C*H*W) of a linear layer) to kh×kw×C×K, and back. */
HELPER void weight_permute(const l2l_real *from, l2l_real *to, int k, int c, int kh, int kw,
                           int back)
{
    int i, j, y, x;
    for (i = 0; i < k; i++)
        for (j = 0; j < c; j++)
            for (y = 0; y < kh; y++)
                for (x = 0; x < kw; x++) {
                    int64_t file = (((int64_t)i * c + j) * kh + y) * kw + x;
                    int64_t memory = (((int64_t)y * kw + x) * c + j) * k + i;
                    if (back) to[file] = from[memory]; else to[memory] = from[file];
                }
}
HELPER l2l_tensor *seeded_weight(l2l_context *c, int k, int channels, int kh, int kw, uint32_t seed,
                                 double low, double high)
{
    int64_t count = (int64_t)k * channels * kh * kw;
    l2l_real *v = test_array(count);
    l2l_tensor *t = l2l_zeros(c, l2l_shape_of(kh, kw, channels, k));
    golden_fill(v, count, seed, low, high);
    if (t) weight_permute(v, t->data, k, channels, kh, kw, 0);
    free(v);
    return t;
}
HELPER l2l_tensor *seeded_vector(l2l_context *c, int k, uint32_t seed, double low, double high)
{
    return seeded(c, 1, k, 1, 1, seed, low, high);
}

/* Compares a tensor with golden values: an activation (N,C,H,W there), or a weight. */
HELPER int golden_tensor(const char *file, int line, const char *what, l2l_context *c,
                         const double *golden, const l2l_tensor *t, int weight, double tolerance)
{
    l2l_real *v;
    int ok;
    if (!t || !t->data) {
        if (test_complain(file, line, what))
            printf("no tensor: %s\n", *l2l_error_text(c) ? l2l_error_text(c) : "and no error");
        return 0;
    }
    v = test_array(l2l_count(t->shape));
    if (weight)
        weight_permute(t->data, v, t->shape.c, t->shape.w, t->shape.n, t->shape.h, 1);
    else
        l2l_to_nchw(c, t, v);
    ok = golden_check(file, line, what, golden, v, l2l_count(t->shape), tolerance);
    free(v);
    return ok;
}
#define CHECK_TENSOR(c, golden, tensor, tolerance) \
    golden_tensor(__FILE__, __LINE__, #golden, c, golden, tensor, 0, tolerance)
#define CHECK_WEIGHT(c, golden, tensor, tolerance) \
    golden_tensor(__FILE__, __LINE__, #golden, c, golden, tensor, 1, tolerance)

/* Sum of a * b as a 1×1×1×1 tensor. */
HELPER l2l_tensor *inner_product(l2l_context *c, l2l_tensor *a, l2l_tensor *b)
{
    return l2l_sum(c, l2l_mul(c, a, b));
}

#endif
