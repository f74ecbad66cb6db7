/* How many threads work where other programs share the cores, by clocks of our own: the library is
   part of this program. Nothing here measures time. */
#define L2LADV_STATIC
#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"
#include "test.h"
#if defined(_OPENMP) && defined(__SSE__)
#include <omp.h>
#include <xmmintrin.h>
#endif

static l2l_context *context(int threads)
{
    l2l_options o = l2l_options_default();
    o.threads = threads;
    return l2l_context_create(&o);
}

/* A process that lets a thread work and rest in turn. The clock of the processor's time shows only
   what is older than the last tick, of 4 ms, of each thread. */
typedef struct machine {
    l2l_context *c;
    int threads;
    double now, used, cores, between; /* cores that it gets in runs; of one, between them */
} machine;

static l2l__clock clocks(const machine *m)
{
    l2l__clock t;
    const double lag = fmod(m->now, 0.004) * m->cores;
    t.wall = m->now;
    t.cpu = m->used > lag ? m->used - lag : 0;
    return t;
}

/* n runs of so many seconds, a gap behind each; how many of them all threads were chosen for. */
static int runs(machine *m, int n, double length, double gap)
{
    int all = 0;
    for (int i = 0; i < n; i++) {
        l2l__core_count *k = &m->c->core_count;
        double since = k->seen > 0 ? m->now - k->seen : 1; /* l2l__choose_threads, by our clock */
        int workers = l2l__fewer(m->c, since < 0.5 ? k->cores : 0);
        l2l__clock from = clocks(m);
        m->now += length;
        m->used += length * (m->cores < workers ? m->cores : workers);
        if (workers == m->threads) l2l__count_cores(m->c, workers, from, clocks(m));
        all += workers == m->threads;
        m->now += gap;
        m->used += gap * m->between;
    }
    return all;
}

static machine machine_of(int threads, double cores, double between)
{
    machine m;
    m.c = context(threads);
    m.c->threads = threads; /* without OpenMP, too */
    m.threads = threads;
    m.now = 1000;
    m.used = 50;
    m.cores = cores;
    m.between = between;
    return m;
}

static const double lengths[] = {0.001, 0.0047, 0.012, 0.3};

/* All cores are there: whatever a run takes, all threads work in each, with a busy caller between
   them, with threads that spin there, and with a caller that sleeps. */
static void quiet(void)
{
    static const int threads[] = {2, 3, 4, 64};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            for (int g = 0; g < 5; g++)
                for (int kind = 0; kind < 3; kind++) {
                    machine m = machine_of(threads[t], threads[t], kind == 2 ? threads[t] : kind);
                    int n = 2000;
                    CHECK_INT(n, runs(&m, n, lengths[i], lengths[i] * g * 0.3));
                    l2l_context_free(m.c);
                }
}

/* One core is there for several threads: after 50 ms most runs are made by one, and when the others
   come back all work again within half a second. */
static void shared(void)
{
    static const int threads[] = {2, 4};
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            machine m = machine_of(threads[t], 1, 0);
            int n = (int)(6 / lengths[i]), all = runs(&m, n, lengths[i], lengths[i] / 100);
            CHECK(all >= 1 && all <= n / 8 + (lengths[i] > 0.1 ? n / 2 : 1));
            CHECK_INT(1, m.c->core_count.cores);
            m.cores = threads[t];
            runs(&m, (int)(0.5 / lengths[i]) + 1, lengths[i], 0);
            CHECK_INT(50, runs(&m, 50, lengths[i], 0));
            l2l_context_free(m.c);
        }
}

/* As many work as cores are there, not one less. */
static void some(void)
{
    static const int threads[] = {4, 16, 16, 64}, cores[] = {2, 4, 8, 40};
    for (int i = 0; i < 4; i++) {
        machine m = machine_of(threads[i], cores[i] - 0.01, 0);
        runs(&m, 2000, 0.005, 0.0001);
        CHECK_INT(cores[i], m.c->core_count.cores);
        l2l_context_free(m.c);
    }
}

/* Where there are no clocks, all threads work; so do they after l2l_set_threads. */
static void clockless(void)
{
    const l2l__clock none = {0, 0};
    l2l_context *c = context(2);
    for (int i = 0; i < 1000; i++) l2l__count_cores(c, 2, none, none);
    CHECK(!(c->core_count.seen > 0));
    c->core_count.cores = c->core_count.lanes = c->core_count.workers = 1;
    CHECK_INT(1, l2l__workers(c, 1 << 20));
    l2l_set_threads(c, 2);
    CHECK_INT(l2l_threads(c), l2l__workers(c, 1 << 20));
    l2l_context_free(c);
}

#if defined(_OPENMP) && defined(__SSE__)
static void others_round(unsigned add, unsigned remove)
{
#pragma omp parallel num_threads(2)
    if (omp_get_thread_num()) _mm_setcsr((_mm_getcsr() & ~remove) | add);
}

static bool forget(void *user, int done, int n)
{
    ((l2l_context *)user)->core_count.seen = 0;
    (void)done;
    (void)n;
    return true;
}

/* A thread that was not looked at, since only one was to work, is looked at before it does. */
static void looked_at(void)
{
    enum { N = 300 };
    l2l_context *c = context(2);
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_attack a = l2l_attack_pgd_l2(2);
    l2l_real *x = (l2l_real *)calloc(N * 784, sizeof *x), *z = (l2l_real *)calloc(N * 784, sizeof *z);
    int *labels = (int *)calloc(N, sizeof *labels);
    l2l_record *records = (l2l_record *)calloc(N, sizeof *records);
    o.width_multiplier = 0.25;
    l2l_model *m = l2l_model_create(c, &o);
    for (int i = 0; i < N * 784; i++) x[i] = (l2l_real)((int)(i * 7919LL % 1000) / 999.0);
    a.steps = 5;
    a.progress = forget;
    a.user = c;
    others_round(0x6000, 0);
    for (int seen = 0; seen < 2; seen++) {
        c->core_count.cores = seen;
        c->core_count.seen = seen ? omp_get_wtime() : 0;
        CHECK(!l2l_attack_run(m, &a, x, labels, N, z, records));
        CHECK_INT(L2L_ERROR_UNSUPPORTED, l2l_error(c));
        CHECK(strstr(l2l_error_text(c), "rounds otherwise") != NULL);
        l2l_error_clear(c);
    }
    others_round(0, 0x6000);
    CHECK(l2l_attack_run(m, &a, x, labels, N, z, records));
    l2l_model_free(m);
    l2l_context_free(c);
    free(x);
    free(z);
    free(labels);
    free(records);
}
#endif

int main(void)
{
    RUN(quiet, "where all cores are there all threads work, for runs and gaps of any length");
    RUN(shared, "where one is there, one works, until the others are back");
    RUN(some, "as many threads work as cores are there");
    RUN(clockless, "where there is no clock all threads work");
#if defined(_OPENMP) && defined(__SSE__)
    RUN(looked_at, "a thread's rounding is looked at before it works");
#endif
    return test_end();
}
