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
    RUN(refused, "bad settings are refused by name");
    return test_end();
}
