/* test_threads_tsan.c - several contexts at the same time, one in each thread.
 *
 * Claim: there is no global state, so contexts in different threads neither race nor disturb each
 * other. Each thread trains a narrow classifier for some steps, attacks it and saves it; the
 * weights, the adversarial images and the file must have the same bits as when the same work is
 * done alone. The race itself is for the sanitizer to find:
 *
 *   cc -std=c99 -O1 -g -fsanitize=thread -pthread tests/test_threads_tsan.c \
 *      tests/implementation.c -o x -lm && ./x
 *
 * Without OpenMP: its runtime is not instrumented, and each context has one thread here anyway. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../l2ladv.h"

enum { IMAGES = 8, BATCH = 4, PIXELS = 28 * 28, WORKERS = 3, STEPS = 3, MOST = 60000 };

typedef struct worker {
    int number;      /* which method, which seed                       */
    bool done;
    char error[256];
    uint64_t weights, images, file; /* checksums                       */
} worker;

static uint64_t checksum(const void *data, size_t bytes) /* FNV-1a */
{
    const unsigned char *p = (const unsigned char *)data;
    uint64_t h = 14695981039346656037u;
    size_t i;
    for (i = 0; i < bytes; i++) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static void fill(l2l_real *images, int *labels, int seed)
{
    l2l_stream s;
    int i, j;
    memset(&s, 0, sizeof s);
    s.seed = (uint64_t)seed;
    s.purpose = L2L_RANDOM_USER;
    for (i = 0; i < IMAGES; i++) {
        s.image = (uint32_t)i;
        labels[i] = i % 10;
        for (j = 0; j < PIXELS; j++)
            images[i * PIXELS + j] = (l2l_real)l2l_random_uniform(&s, (uint32_t)j);
    }
}

static bool attack(l2l_model *m, l2l_attack a, const l2l_real *images, const int *labels,
                   l2l_real *adversarial)
{
    l2l_record records[IMAGES];
    a.steps = a.steps > 3 ? 3 : a.steps;
    a.batch = BATCH;
    return l2l_attack_run(m, &a, images, labels, IMAGES, adversarial, records);
}

static bool train_and_attack(worker *w, l2l_context *c, l2l_model *m, l2l_learned *phi)
{
    l2l_real images[IMAGES * PIXELS], adversarial[IMAGES * PIXELS];
    l2l_real values[MOST];
    int labels[IMAGES], i;
    l2l_dataset d;
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t;
    l2l_progress p;
    void *file = NULL;
    size_t bytes = 0;
    fill(images, labels, w->number);
    if (!l2l_dataset_from_arrays(c, images, labels, IMAGES, 1, 28, 28, 10, &d)) return false;
    o.method = w->number == 0 ? l2l_method_advtrain() : l2l_method_rnn_adv(phi);
    o.batch = BATCH;
    o.T = 3;
    o.seed = (uint64_t)w->number;
    t = l2l_trainer_create(m, &d, &o);
    for (i = 0; t && i < STEPS; i++)
        if (!l2l_train_step(t, images + i % 2 * BATCH * PIXELS, labels + i % 2 * BATCH, BATCH, &p))
            break;
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    w->images = 0;
    if (!attack(m, l2l_attack_pgd(0.3), images, labels, adversarial)) return false;
    w->images = checksum(adversarial, sizeof adversarial);
    if (!attack(m, l2l_attack_learned(phi, 0.3, 3), images, labels, adversarial)) return false;
    w->images ^= checksum(adversarial, sizeof adversarial);
    w->weights = 0;
    for (i = 0; i < l2l_model_parameters(m); i++) {
        int64_t n = l2l_count(l2l_model_parameter(m, i).value->shape);
        if (n > MOST || !l2l_parameter_get(m, i, values)) return false;
        w->weights = w->weights * 31 + checksum(values, (size_t)n * sizeof *values);
    }
    if (!l2l_model_save_memory(m, &file, &bytes)) return false;
    w->file = checksum(file, bytes);
    l2l_free(c, file);
    return l2l_error(c) == L2L_OK;
}

static void *work(void *argument)
{
    worker *w = (worker *)argument;
    l2l_options options = l2l_options_default();
    l2l_model_options cnn = l2l_model_default("smallcnn");
    l2l_learned_options lstm = l2l_learned_default();
    l2l_context *c;
    l2l_model *m;
    l2l_learned *phi;
    options.threads = 1;
    c = l2l_context_create(&options);
    if (!c) return NULL;
    cnn.width_multiplier = 0.25;
    cnn.seed = (uint64_t)w->number;
    if (w->number == 2) lstm.cell = L2L_RNN;
    m = l2l_model_create(c, &cnn);
    phi = l2l_learned_create(c, &lstm);
    w->done = m && phi && train_and_attack(w, c, m, phi);
    if (!w->done) {
        strncpy(w->error, l2l_error_text(c), sizeof w->error - 1);
        w->error[sizeof w->error - 1] = 0;
    }
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
    return NULL;
}

int main(void)
{
    static worker alone[WORKERS], together[WORKERS];
    pthread_attr_t large;
    pthread_t threads[WORKERS];
    bool started[WORKERS];
    int i, passed = 0, failed = 0;
    pthread_attr_init(&large);
    pthread_attr_setstacksize(&large, (size_t)8 << 20);
    for (i = 0; i < WORKERS; i++) {
        alone[i].number = together[i].number = i;
        started[i] = !pthread_create(&threads[i], &large, work, &together[i]);
    }
    for (i = 0; i < WORKERS; i++)
        if (started[i]) pthread_join(threads[i], NULL);
    pthread_attr_destroy(&large);
    for (i = 0; i < WORKERS; i++) {
        work(&alone[i]);
        if (!started[i] || !alone[i].done || !together[i].done) {
            printf("FAILED: worker %d: %s\n", i,
                   *together[i].error ? together[i].error : alone[i].error);
            failed++;
        } else if (alone[i].weights != together[i].weights ||
                   alone[i].images != together[i].images || alone[i].file != together[i].file) {
            printf("FAILED: worker %d: other bits than alone\n", i);
            failed++;
        } else {
            passed++;
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
