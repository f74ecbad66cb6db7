/* A model, images, labels, and what an attack makes of them. */
#ifndef L2LADV_TESTS_BENCH_H
#define L2LADV_TESTS_BENCH_H

#include "networks.h"

typedef struct bench {
    l2l_context *c;
    l2l_model *m;
    int n, size, classes;
    l2l_real *x, *adv;
    int *labels;
    l2l_record *records;
} bench;

HELPER void bench_begin(bench *b, l2l_context *c, l2l_model *m, int n, uint32_t seed)
{
    int i;
    const l2l_model_options *o;
    b->c = c;
    b->m = m;
    b->n = n;
    if (!CHECK(m != NULL)) { CHECK_OK(c); b->n = 0; b->size = 1; b->classes = 1; }
    else {
        o = l2l_model_info(m);
        b->size = o->channels * o->height * o->width;
        b->classes = o->classes;
    }
    b->x = test_array((int64_t)n * b->size);
    b->adv = test_array((int64_t)n * b->size);
    b->labels = (int *)test_memory((size_t)n * sizeof(int));
    b->records = (l2l_record *)test_memory((size_t)n * sizeof(l2l_record));
    golden_fill(b->x, (int64_t)n * b->size, seed, 0, 1);
    for (i = 0; i < n; i++) b->labels[i] = i % b->classes;
}

/* The model's own predictions, so that all start right. */
HELPER void bench_labels_right(bench *b)
{
    l2l_real *z = test_array((int64_t)b->n * b->classes);
    int i, k;
    if (b->n && CHECK(l2l_model_logits(b->m, b->x, b->n, z)))
        for (i = 0; i < b->n; i++)
            for (k = b->labels[i] = 0; k < b->classes; k++)
                if (z[i * b->classes + k] > z[i * b->classes + b->labels[i]]) b->labels[i] = k;
    free(z);
}

HELPER bool bench_run(bench *b, const l2l_attack *a)
{
    memset(b->adv, 0, (size_t)b->n * (size_t)b->size * sizeof(l2l_real));
    memset(b->records, 0, (size_t)b->n * sizeof(l2l_record));
    return b->n && l2l_attack_run(b->m, a, b->x, b->labels, b->n, b->adv, b->records);
}

HELPER void bench_end(bench *b)
{
    CHECK_OK(b->c);
    free(b->x);
    free(b->adv);
    free(b->labels);
    free(b->records);
    l2l_model_free(b->m);
    l2l_context_free(b->c);
}

#endif
