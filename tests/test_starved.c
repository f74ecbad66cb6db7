/* Training with batch norm when memory runs out: the k-th allocation of a step fails, for every k.
   The step then changes nothing - parameters, running statistics, phi, the optimizers - so that
   done again with memory enough it ends where an undisturbed one does; and nothing leaks. */
#include "networks.h"
#include "../examples/l2lda.h"

typedef struct heap {
    long calls, fail_at, live; /* fail_at: that call and all after it; 0: none */
} heap;

static void *heap_allocate(void *user, size_t size)
{
    heap *h = (heap *)user;
    void *p = ++h->calls >= h->fail_at && h->fail_at ? NULL : malloc(size ? size : 1);
    if (!p) return NULL;
    memset(p, 0xA5, size); /* nothing may rely on zeros */
    h->live++;
    return p;
}
static void heap_release(void *user, void *p)
{
    if (p) ((heap *)user)->live--;
    free(p);
}

/* A unit with batch norm, ReLU and pooling, one with a residual, a batch norm of its own. */
static l2l_tensor *block_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_unit u = l2l_unit_default(8, 3);
    l2l_tensor *a;
    (void)user;
    u.norm = "bn1";
    u.flags = L2L_RELU | L2L_POOL;
    a = l2l_layer_unit(m, "conv1", x, &u);
    u.norm = "bn2";
    u.flags = L2L_RELU | L2L_NO_BIAS;
    u.residual = a;
    a = l2l_layer_unit(m, "conv2", a, &u);
    a = l2l_layer_batch_norm(m, "bn3", a, L2L_RELU);
    a = l2l_global_average_pool(l2l_model_context(m), a);
    return l2l_layer_linear(m, "fc", a, 3, L2L_LAST);
}

enum { N = 8, SIDE = 20, SIZE = 2 * SIDE * SIDE };
typedef struct trial {
    const char *name;
    int learned, second_order;
    l2l_mode inner_mode;
} trial;
static const trial trials[] = {{"PGD", 0, 0, L2L_EVALUATE},
                               {"PGD, inner steps in training mode", 0, 0, L2L_TRAIN},
                               {"learned", 1, 0, L2L_EVALUATE},
                               {"learned, second order", 1, 1, L2L_EVALUATE},
                               {"l2lda", 2, 0, L2L_EVALUATE}};

/* Two steps, the first with its k-th allocation failing (0: none) and then done again. All numbers
   of the model and phi after them. *failed: whether it did fail. */
static l2l_real *two_steps(const trial *p, long k, int64_t *count, int *failed)
{
    static const int labels[N] = {2, 0, 1, 1, 0, 2, 2, 1};
    heap h;
    l2l_options co = l2l_options_default();
    l2l_context *c;
    l2l_model_options mo = own_options("block", block_forward, 2, SIDE, 3);
    l2l_learned_options lo = l2l_learned_default();
    l2l_train_options o = l2l_train_default();
    l2l_model *m;
    l2l_learned *phi;
    l2lda_options go = l2lda_default();
    l2lda *g;
    l2l_trainer *t = NULL;
    l2l_dataset d;
    l2l_progress progress;
    l2l_real x[N * SIZE], *before, *after, *all, *more;
    int64_t n, generated;
    memset(&h, 0, sizeof h);
    co.threads = 1;
    co.allocator.allocate = heap_allocate;
    co.allocator.release = heap_release;
    co.allocator.user = &h;
    c = l2l_context_create(&co);
    lo.second_order = p->second_order != 0;
    if (lo.second_order) lo.input = L2L_INPUT_L1;
    m = l2l_model_create(c, &mo);
    phi = l2l_learned_create(c, &lo);
    go.channels = 2;
    go.height = go.width = SIDE;
    go.classes = 3;
    go.width_multiplier = 0.125;
    g = l2lda_create(c, &go);
    o.method = p->learned == 2 ? l2lda_method(g)
               : p->learned    ? l2l_method_rnn_adv(phi)
                               : l2l_method_advtrain();
    o.inner_mode = p->inner_mode;
    o.T = 2;
    golden_fill(x, N * SIZE, 95, 0, 1);
    *failed = 0;
    *count = 0;
    if (CHECK(m && phi && g && l2l_dataset_from_arrays(c, x, labels, N, 2, SIDE, SIDE, 3, &d))) {
        t = l2l_trainer_create(m, &d, &o);
        before = all_parameters(m, &n);
        h.fail_at = k ? h.calls + k : 0;
        if (CHECK(t != NULL) && !l2l_train_step(t, x, labels, N, &progress)) {
            *failed = 1;
            CHECK_ERROR(c, L2L_ERROR_MEMORY, "");
            CHECK(!l2l_recording(c));
            after = all_parameters(m, &n);
            CHECK_BYTES(before, after, (size_t)n * sizeof *after);
            free(after);
            h.fail_at = 0;
            CHECK(l2l_train_step(t, x, labels, N, &progress));
        }
        free(before);
        h.fail_at = 0;
        CHECK(l2l_train_step(t, x, labels, N, &progress));
        CHECK_OK(c);
        l2l_trainer_free(t);
        l2l_dataset_free(&d);
    }
    after = all_parameters(m, &n);
    more = all_parameters(l2lda_network(g), &generated);
    *count = n + l2l_learned_size(phi) + generated;
    all = test_array(*count);
    memcpy(all, after, (size_t)n * sizeof *all);
    memcpy(all + n, more, (size_t)generated * sizeof *all);
    memcpy(all + n + generated, l2l_learned_parameters(phi),
           (size_t)l2l_learned_size(phi) * sizeof *all);
    free(more);
    free(after);
    l2l_learned_free(phi);
    l2lda_free(g);
    l2l_model_free(m);
    CHECK_OK(c);
    l2l_context_free(c);
    CHECK_INT(0, h.live);
    return all;
}

static const trial *current;
static void starved_step(void)
{
    int64_t n, count;
    int failed = 1;
    long k;
    l2l_real *expected = two_steps(current, 0, &n, &failed);
    CHECK_INT(0, failed);
    for (failed = 1, k = 1; failed && k < 10000; k++) {
        int before = test_complaints;
        l2l_real *got = two_steps(current, k, &count, &failed);
        CHECK_INT(n, count);
        CHECK_BYTES(expected, got, (size_t)n * sizeof *got);
        free(got);
        if (test_complaints > before) printf("    %s, allocation %ld\n", current->name, k);
    }
    CHECK(k > 2); /* the step did allocate */
    free(expected);
}

int main(void)
{
    int i;
    for (i = 0; i < COUNT(trials); i++) {
        current = &trials[i];
        RUN(starved_step, current->name);
    }
    return test_end();
}
