/* valgrind_train.c - a short training, for valgrind: memory that is read before it is written, used
 * after it was given back, or never given back.
 *
 *   cc -std=c99 -g -O1 tests/valgrind_train.c -o x -lm
 *   valgrind --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=all ./x [plain|avx2]
 *
 * A narrow classifier, two steps of every method, one attack of each kind, the second-order
 * maximizer, evaluation, files in memory, an error in the middle; then everything is freed. The
 * argument chooses the kernels (valgrind knows no AVX-512, so the best ones cannot be left to
 * chance). Exit status 77: this machine lacks the kernels asked for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"
#include "../examples/evaluation.h"

enum { IMAGES = 5, BATCH = 3, SIDE = 28, PIXELS = SIDE * SIDE };

static l2l_real images[IMAGES * PIXELS];
static int labels[IMAGES];

/* The arrays come from the heap, so that valgrind sees how far they are read and written. */
static void *heap(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p) exit(2);
    return p;
}

static void fill(void)
{
    l2l_stream s;
    int i, j;
    memset(&s, 0, sizeof s);
    s.purpose = L2L_RANDOM_USER;
    for (i = 0; i < IMAGES; i++) {
        s.image = (uint32_t)i;
        labels[i] = (3 * i + 1) % 10;
        for (j = 0; j < PIXELS; j++)
            images[i * PIXELS + j] = (l2l_real)l2l_random_uniform(&s, (uint32_t)j);
    }
}

/* One epoch over five images in batches of three: a whole batch and a short one. */
static bool train(l2l_model *m, const l2l_dataset *d, l2l_method method)
{
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t;
    bool ok;
    o.method = method;
    o.epochs = 1;
    o.batch = BATCH;
    o.T = 2;
    t = l2l_trainer_create(m, d, &o);
    ok = t && l2l_train(t);
    if (ok) {
        l2l_model *best = l2l_trainer_best(t);
        ok = best != NULL;
        l2l_model_free(best);
    }
    l2l_trainer_free(t);
    return ok;
}

static bool attack(l2l_model *m, l2l_attack a)
{
    l2l_real *x = (l2l_real *)heap(sizeof images), *adversarial = (l2l_real *)heap(sizeof images);
    l2l_record *records = (l2l_record *)heap(IMAGES * sizeof *records);
    bool ok;
    memcpy(x, images, sizeof images);
    a.steps = 2;
    a.batch = BATCH;
    ok = l2l_attack_run(m, &a, x, labels, IMAGES, adversarial, records);
    free(records);
    free(adversarial);
    free(x);
    return ok;
}

static bool evaluate(l2l_model *m, const l2l_dataset *d)
{
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack pgd = l2l_attack_pgd(0.3);
    l2l_evaluation e;
    l2l_result r;
    bool ok;
    pgd.steps = 1;
    o.batch = BATCH;
    if (!l2l_evaluation_begin(m, d, &o, &e)) return false;
    ok = l2l_evaluation_attack(&e, &pgd, &r, NULL, NULL);
    l2l_evaluation_end(&e);
    return ok;
}

static bool files(l2l_context *c, l2l_model *m, l2l_learned *phi)
{
    void *data = NULL, *copy;
    size_t bytes = 0;
    int extra;
    bool ok;
    if (!l2l_model_save_memory(m, &data, &bytes)) return false;
    copy = heap(bytes);                      /* ends where the file ends                       */
    memcpy(copy, data, bytes);
    l2l_free(c, data);
    ok = l2l_model_load_memory(m, copy, bytes, &extra);
    if (ok && l2l_model_load_memory(m, copy, bytes / 2, &extra)) ok = false;
    l2l_error_clear(c);
    free(copy);
    if (!ok || !l2l_learned_save_memory(phi, &data, &bytes)) return false;
    ok = l2l_learned_load_memory(phi, data, bytes);
    l2l_free(c, data);
    return ok;
}

static bool everything(l2l_context *c, l2l_model *m, l2l_learned *phi, l2l_learned *second)
{
    l2l_dataset d;
    bool ok = l2l_dataset_from_arrays(c, images, labels, IMAGES, 1, SIDE, SIDE, 10, &d);
    if (!ok) return false;
    ok = train(m, &d, l2l_method_plain()) && train(m, &d, l2l_method_advtrain()) &&
         train(m, &d, l2l_method_rnn_adv(phi)) && train(m, &d, l2l_method_rnn_adv(second)) &&
         attack(m, l2l_attack_fgsm(0.3)) && attack(m, l2l_attack_pgd(0.3)) &&
         attack(m, l2l_attack_learned(phi, 0.3, 2)) && evaluate(m, &d) && files(c, m, phi);
    l2l_dataset_free(&d);
    return ok;
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "plain";
    unsigned cpu = strcmp(which, "avx2") ? L2L_CPU_PLAIN : L2L_CPU_VECTOR | L2L_CPU_AVX2;
    l2l_options options = l2l_options_default();
    l2l_model_options cnn = l2l_model_default("smallcnn");
    l2l_learned_options lstm = l2l_learned_default(), rnn = l2l_learned_default();
    l2l_context *c;
    l2l_model *m;
    l2l_learned *phi, *second;
    bool ok;
    options.threads = 1;
    options.cpu = cpu;
    c = l2l_context_create(&options);
    if (!c) return 2;
    l2l_set_cpu(c, cpu);
    if ((l2l_cpu(c) & cpu) != cpu) {
        printf("skipped: no %s kernels here (%s)\n", which, l2l_describe(c));
        l2l_context_free(c);
        return 77;
    }
    fill();
    cnn.width_multiplier = 0.25;
    rnn.cell = L2L_RNN;
    rnn.hidden = 4;
    rnn.bias = false;
    rnn.input = L2L_INPUT_L1;
    rnn.second_order = true;
    m = l2l_model_create(c, &cnn);
    phi = l2l_learned_create(c, &lstm);
    second = l2l_learned_create(c, &rnn);
    ok = m && phi && second && everything(c, m, phi, second);
    printf("%s: %s\n", l2l_describe(c), ok ? "done" : l2l_error_text(c));
    l2l_learned_free(second);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
    return ok ? 0 : 1;
}
