/* The learned maximizer in the float build: against PyTorch, the same bits for any thread count and
   batch, as an attack. */
#include "check_learned.h"
#include "check_micro.h"
#include "check_norm_meta.h"

static void same_gradient(void)
{
    l2l_real kept[600], adv[216];
    int threads;
    for (threads = 1; threads <= 4; threads *= 2) {
        l2l_context *c = test_context(threads);
        l2l_learned_options o = l2l_learned_default();
        l2l_learned *phi = l2l_learned_create(c, &o);
        spy *s = (spy *)test_memory(sizeof *s);
        if (CHECK(phi && meta_pass(c, phi, s, 0.3))) {
            size_t bytes = (size_t)l2l_learned_size(phi) * sizeof(l2l_real);
            if (threads == 1) {
                memcpy(kept, s->gradient, bytes);
                memcpy(adv, s->adv, sizeof adv);
            }
            CHECK_BYTES(kept, s->gradient, bytes);
            CHECK_BYTES(adv, s->adv, sizeof adv);
        }
        CHECK_OK(c);
        free(s);
        l2l_learned_free(phi);
        l2l_context_free(c);
    }
}

/* As an attack it is a maximizer like any other: same result for any batch, in the ball. */
static void learned_attack(void)
{
    static const int batches[] = {16, 1, 7};
    l2l_context *c = test_context(2);
    l2l_model *m = tiny_model(c, 400);
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &o);
    l2l_real x[16 * 64], adv[3][16 * 64], before[491];
    l2l_record r[3][16];
    int labels[16], i, j;
    golden_fill(x, 16 * 64, 420, 0, 1);
    for (i = 0; i < 16; i++) labels[i] = i % 5;
    if (CHECK(m && phi)) {
        golden_fill(l2l_learned_parameters(phi), 491, 421, -1, 1);
        memcpy(before, l2l_learned_parameters(phi), sizeof before);
        for (i = 0; i < 3; i++) {
            l2l_attack a = l2l_attack_learned(phi, 0.1, 6);
            CHECK_INT(6, a.steps);
            CHECK_INT(L2L_START_NORMAL, a.start);
            a.batch = batches[i];
            a.last_iterate = true;
            if (!CHECK(l2l_attack_run(m, &a, x, labels, 16, adv[i], r[i]))) break;
            CHECK_BYTES(adv[0], adv[i], sizeof adv[0]);
            for (j = 0; j < 16; j++) CHECK(r[i][j].linf <= 0.1 + 1e-6 && r[i][j].linf > 0.01);
        }
        CHECK_BYTES(before, l2l_learned_parameters(phi), sizeof before); /* an attack learns nothing */
    }
    CHECK_OK(c);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Fooled images leave, and h and c of the others move up: the same images and records as in batches
   of one, where nobody has to move. 72 pixels are four and a half blocks of 16, 64 are four. */
static void learned_leaving(void)
{
    enum { N = 24, MOST = 72 };
    static const int batches[] = {1, 3, 7, N};
    int kind, i, j;
    for (kind = 0; kind < 6; kind++) {
        l2l_context *c = test_context(1 + kind % 2);
        l2l_model *m = kind < 4 ? smooth_model(c) : tiny_model(c, 400);
        l2l_learned_options o = learned_options(kind % 2 ? L2L_RNN : L2L_LSTM,
                                                kind == 2   ? L2L_INPUT_LOG
                                                : kind == 3 ? L2L_INPUT_L1
                                                            : L2L_INPUT_SIGN,
                                                0, 0, 0.4);
        l2l_learned *phi = l2l_learned_create(c, &o);
        l2l_attack a = l2l_attack_learned(phi, 0.2, 8);
        l2l_real x[N * MOST], adv[N * MOST], z[N * 5], first[N * MOST];
        l2l_record r[N], kept[N];
        counted asked;
        int labels[N], steps[16], classes = kind < 4 ? 4 : 5, different = 0, passes = 0;
        size_t bytes = N * (size_t)(kind < 4 ? 72 : 64) * sizeof *adv;
        memset(steps, 0, sizeof steps);
        golden_fill(x, N * MOST, 422, 0, 1);
        asked.inner = a.objective;
        a.objective.loss = counted_loss;
        a.objective.user = &asked;
        a.restarts = 2;
        a.start = L2L_START_UNIFORM;
        if (CHECK(m && phi && l2l_model_logits(m, x, N, z))) {
            for (i = 0; i < N; i++)
                for (j = labels[i] = 0; j < classes; j++)
                    if (z[i * classes + j] > z[i * classes + labels[i]]) labels[i] = j;
            golden_fill(l2l_learned_parameters(phi), l2l_learned_size(phi), 421, -0.3, 0.7);
            for (j = 0; j < COUNT(batches); j++) {
                a.batch = batches[j];
                asked.images = 0;
                memset(r, 0, sizeof r);
                if (!CHECK(l2l_attack_run(m, &a, x, labels, N, adv, r))) break;
                if (j == 0) {
                    memcpy(first, adv, bytes);
                    memcpy(kept, r, sizeof r);
                    passes = asked.images;
                }
                CHECK_INT(passes, asked.images);
                CHECK_BYTES(first, adv, bytes);
                CHECK_BYTES(kept, r, sizeof r);
            }
            for (i = 0; i < N; i++) steps[r[i].success ? r[i].step : 15]++;
            for (i = 0; i < 15; i++) different += steps[i] > 0;
            CHECK(different >= 3); /* they left at several steps */
            if (test_complaints) printf("    kind %d\n", kind);
        }
        CHECK_OK(c);
        l2l_learned_free(phi);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

static void refused(void)
{
    l2l_context *c = test_context(1);
    l2l_learned_options o = l2l_learned_default();
    o.hidden = 0;
    CHECK(l2l_learned_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "hidden");
    o = l2l_learned_default();
    o.scale = (double)NAN;
    CHECK(l2l_learned_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "scale");
    o = l2l_learned_default();
    o.cell = (l2l_cell)9;
    CHECK(l2l_learned_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "cell");
    o = l2l_learned_default();
    o.input = (l2l_grad_input)9;
    CHECK(l2l_learned_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "input");
    l2l_context_free(c);
}

int main(void)
{
    run_golden_learned();
    run_micro();
    run_golden_norm_meta();
    RUN(same_gradient, "the meta-gradient has the same bits for any number of threads");
    RUN(learned_attack, "the learned attack does not depend on the batch and stays in the ball");
    RUN(learned_leaving, "fooled images leave and the state of the others moves with them");
    RUN(refused, "bad settings are refused by name");
    return test_end();
}
