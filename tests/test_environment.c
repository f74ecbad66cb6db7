/* What a program does around the library: the floating-point environment of its threads, fork. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L
#define HAVE_FORK
#include <sys/wait.h>
#include <unistd.h>
#endif
#include <fenv.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include "support.h"

enum { N = 32 };
static l2l_real images[N * 784], attacked[N * 784], logits[2][N * 10];

static l2l_model *cnn(l2l_context *c)
{
    l2l_model_options o = l2l_model_default("smallcnn");
    golden_fill(images, COUNT(images), 3, 0, 1);
    return l2l_model_create(c, &o);
}

static void rounding(void)
{
#if defined(FE_UPWARD) && defined(FE_DOWNWARD) && defined(FE_TOWARDZERO)
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    int threads, i;
    for (threads = 1; threads <= 2; threads++) {
        l2l_context *c = test_context(threads);
        l2l_model *m = cnn(c);
        l2l_attack a = l2l_attack_pgd(0.1);
        l2l_record records[N];
        int labels[N] = {0};
        bool ok;
        CHECK(l2l_model_logits(m, images, N, logits[0]));
        for (i = 0; i < COUNT(modes); i++) {
            if (fesetround(modes[i])) continue; /* not on this machine */
            ok = l2l_model_logits(m, images, N, logits[1]);
            fesetround(FE_TONEAREST);
            CHECK(!ok);
            CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "rounds otherwise than to nearest");
            fesetround(modes[i]);
            ok = l2l_attack_run(m, &a, images, labels, N, attacked, records);
            fesetround(FE_TONEAREST);
            CHECK(!ok);
            CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "rounds otherwise than to nearest");
        }
        CHECK(l2l_model_logits(m, images, N, logits[1]));
        CHECK_BYTES(logits[0], logits[1], sizeof logits[0]);
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
#else
    printf("skipped: no rounding modes here\n");
#endif
}

#if defined(__SSE__)
static void flushed(void)
{
    static const unsigned bits[] = {0x8000, 0x0040, 0x8040}; /* of results, of operands, both */
    unsigned before = _mm_getcsr();
    l2l_context *c = test_context(1);
    l2l_model *m = cnn(c);
    int i;
    for (i = 0; i < COUNT(bits); i++) {
        bool ok;
        _mm_setcsr(before | bits[i]);
        ok = l2l_model_logits(m, images, N, logits[0]);
        _mm_setcsr(before);
        CHECK(!ok);
        CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "subnormal numbers");
    }
    CHECK(l2l_model_logits(m, images, N, logits[0]));
    l2l_model_free(m);
    l2l_context_free(c);
}

#ifdef _OPENMP
#include <omp.h>
/* Gives every thread but the caller's another environment, or its old one. */
static void others(unsigned add, unsigned remove)
{
#pragma omp parallel num_threads(2)
    if (omp_get_thread_num()) _mm_setcsr((_mm_getcsr() & ~remove) | add);
}

static void workers(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = cnn(c);
    CHECK(l2l_model_logits(m, images, N, logits[0]));
    others(0x6000, 0); /* towards zero */
    CHECK(!l2l_model_logits(m, images, N, logits[1]));
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "rounds otherwise");
    others(0x8000, 0x6000);
    CHECK(!l2l_model_logits(m, images, N, logits[1]));
    CHECK_ERROR(c, L2L_ERROR_UNSUPPORTED, "subnormal numbers");
    others(0, 0x8000);
    CHECK(l2l_model_logits(m, images, N, logits[1]));
    CHECK_BYTES(logits[0], logits[1], sizeof logits[0]);
    l2l_model_free(m);
    l2l_context_free(c);
}
#endif
#endif

#ifdef HAVE_FORK
static void forked(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = cnn(c);
    pid_t child;
    int status = -1;
    CHECK(l2l_model_logits(m, images, N, logits[0]));
    child = fork();
    if (child == 0) {
        alarm(60);
        l2l_set_threads(c, 1);
        if (!l2l_model_logits(m, images, N, logits[1])) _exit(1);
        _exit(memcmp(logits[0], logits[1], sizeof logits[0]) ? 2 : 0);
    }
    if (CHECK(child > 0)) {
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_INT(0, status);
    }
    CHECK(l2l_model_logits(m, images, N, logits[1])); /* and the parent goes on with two */
    CHECK_BYTES(logits[0], logits[1], sizeof logits[0]);
    l2l_model_free(m);
    l2l_context_free(c);
}
#endif

int main(void)
{
#ifdef HAVE_FORK
    RUN(forked, "a forked child that uses one thread computes the parent's bits");
#endif
    RUN(rounding, "another rounding mode is an error, for any number of threads");
#if defined(__SSE__)
    RUN(flushed, "flushing subnormal numbers to zero is an error");
#ifdef _OPENMP
    RUN(workers, "so is another environment in the threads that work for the caller");
#endif
#endif
    return test_end();
}
