/* The learned maximizer in the double build: PyTorch's values to 1e-9, and central differences.

   Claim 1 (first order): l2l_learned_gradient is the derivative of
       S(phi) = 1/n sum over t of w_t L(f(x'_t(phi))), with the recorded g_0 .. g_(T-1) fed to the
   cell. S is computed here from begin(), step(), the projection and the forward pass alone.
   Claim 2 (second order): it is the derivative of L_phi/n with g_t computed anew, on a smooth
   network with nothing clipped.
   Residual: |difference quotient - gradient|, step 1e-5, for all parameters; accepted is 1e-7 of
   the largest entry plus the quotient's own error, 1e-8. */
#include "check_learned.h"
#include "check_micro.h"
#include "check_norm_meta.h"

static double recorded_S(spy *s, l2l_inner *in)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    l2l_inner own = *in;
    l2l_tensor *adv = in->start;
    double S = 0;
    int t;
    own.delta = l2l_zeros(c, in->shape);
    if (s->inner.begin) CHECK(s->inner.begin(s->inner.self, &own));
    for (t = 0; t < in->T; t++) {
        union { const l2l_tensor *seen; l2l_tensor *used; } x;
        l2l_tensor *loss;
        x.seen = in->x;
        own.t = t;
        own.adv = adv;
        CHECK(s->inner.step(s->inner.self, &own));
        adv = l2l_project(c, l2l_add(c, adv, own.delta), x.used, in->epsilon);
        loss = l2l_cross_entropy(c, l2l_model_forward(in->model, adv, in->mode), in->labels);
        S += in->w[t + 1] * l2l_item(c, l2l_sum(c, loss));
    }
    if (!CHECK_OK(c)) S = (double)NAN;
    l2l_release(c, mark);
    return S / in->n;
}

static void differences(spy *s, l2l_inner *in)
{
    l2l_real *phi = l2l_learned_parameters(s->phi);
    int n = l2l_learned_size(s->phi), i;
    double largest = 0, h = 1e-5;
    bool recording = l2l_set_recording(in->context, false);
    for (i = 0; i < n; i++) largest = fmax(largest, fabs((double)s->gradient[i]));
    CHECK_NEAR(s->L_phi / in->n, recorded_S(s, in), 1e-12 * (1 + fabs(s->L_phi)));
    for (i = 0; i < n; i++) {
        l2l_real kept = phi[i];
        double up, down;
        phi[i] = (l2l_real)((double)kept + h);
        up = recorded_S(s, in);
        phi[i] = (l2l_real)((double)kept - h);
        down = recorded_S(s, in);
        phi[i] = kept;
        if (!CHECK_NEAR((up - down) / (2 * h), s->gradient[i], 1e-7 * largest + 1e-8)) {
            printf("    parameter %d\n", i);
            break;
        }
    }
    l2l_set_recording(in->context, recording);
}

static void first_order(void)
{
    static const struct { int cell, input, bias, raw; double scale, epsilon; } p[] = {
        {L2L_LSTM, L2L_INPUT_SIGN, 1, 0, 1, 0.3}, {L2L_LSTM, L2L_INPUT_L1, 0, 1, 0.2, 0.3},
        {L2L_RNN, L2L_INPUT_SIGN, 0, 0, 1, 0.3},  {L2L_RNN, L2L_INPUT_LINF, 1, 0, 0.5, 0.2},
        {L2L_LSTM, L2L_INPUT_LOG, 1, 0, 1, 0.3},  {L2L_LSTM, L2L_INPUT_SIGN, 1, 0, 1, 0.05}};
    int i;
    for (i = 0; i < COUNT(p); i++) {
        l2l_context *c = test_context(1);
        l2l_learned_options o = learned_options(p[i].cell, p[i].input, p[i].bias, p[i].raw, p[i].scale);
        l2l_learned *phi = l2l_learned_create(c, &o);
        spy *s = (spy *)test_memory(sizeof *s);
        int before = test_complaints;
        s->look = differences;
        if (CHECK(phi != NULL)) {
            golden_fill(l2l_learned_parameters(phi), l2l_learned_size(phi), 500 + (uint32_t)i, -0.6, 0.6);
            CHECK(meta_pass(c, phi, s, p[i].epsilon));
        }
        CHECK_OK(c);
        if (test_complaints > before) printf("    case %d\n", i);
        free(s);
        l2l_learned_free(phi);
        l2l_context_free(c);
    }
}

static void second_order(void)
{
    static const struct { int cell, input; } p[] = {
        {L2L_LSTM, L2L_INPUT_RAW}, {L2L_LSTM, L2L_INPUT_L1}, {L2L_RNN, L2L_INPUT_RAW},
        {L2L_LSTM, L2L_INPUT_LINF}};
    int i, j;
    for (i = 0; i < COUNT(p); i++) {
        l2l_context *c = test_context(1);
        l2l_learned_options o = learned_options(p[i].cell, p[i].input, 1, 1, 0.1);
        l2l_learned *phi;
        l2l_real *values, first[600];
        spy *s = (spy *)test_memory(sizeof *s);
        double h = 1e-5, largest = 0;
        int before = test_complaints, n;
        o.second_order = true;
        phi = l2l_learned_create(c, &o);
        if (CHECK(phi != NULL)) {
            n = l2l_learned_size(phi);
            values = l2l_learned_parameters(phi);
            golden_fill(values, n, 510 + (uint32_t)i, -0.6, 0.6);
            if (CHECK(meta_pass(c, phi, s, 0.3))) {
                memcpy(first, s->gradient, sizeof first);
                for (j = 0; j < n; j++) largest = fmax(largest, fabs((double)first[j]));
                for (j = 0; j < n; j += 3) {
                    l2l_real kept = values[j];
                    double up, down;
                    values[j] = (l2l_real)((double)kept + h);
                    CHECK(meta_pass(c, phi, s, 0.3));
                    up = s->L_phi / 3;
                    values[j] = (l2l_real)((double)kept - h);
                    CHECK(meta_pass(c, phi, s, 0.3));
                    down = s->L_phi / 3;
                    values[j] = kept;
                    if (!CHECK_NEAR((up - down) / (2 * h), first[j], 2e-7 * largest + 1e-8)) {
                        printf("    parameter %d\n", j);
                        break;
                    }
                }
            }
        }
        CHECK_OK(c);
        if (test_complaints > before) printf("    case %d\n", i);
        free(s);
        l2l_learned_free(phi);
        l2l_context_free(c);
    }
}

/* With sign input the derivative through g is zero: both orders agree to the last digits. */
static void sign_has_no_second_order(void)
{
    l2l_real kept[600];
    int order, j;
    for (order = 0; order < 2; order++) {
        l2l_context *c = test_context(1);
        l2l_learned_options o = learned_options(L2L_LSTM, L2L_INPUT_SIGN, 1, 0, 1);
        l2l_learned *phi;
        spy *s = (spy *)test_memory(sizeof *s);
        o.second_order = order != 0;
        phi = l2l_learned_create(c, &o);
        if (CHECK(phi != NULL)) {
            golden_fill(l2l_learned_parameters(phi), 491, 520, -0.6, 0.6);
            CHECK(meta_pass(c, phi, s, 0.3));
        }
        for (j = 0; j < 491; j++) {
            if (order) CHECK_NEAR(kept[j], s->gradient[j], 1e-11 * (1 + fabs((double)kept[j])));
            else kept[j] = s->gradient[j];
        }
        CHECK_OK(c);
        free(s);
        l2l_learned_free(phi);
        l2l_context_free(c);
    }
}

int main(void)
{
    run_golden_learned();
    run_micro();
    run_golden_norm_meta();
    RUN(first_order, "the fused adjoint is the derivative of S by differences");
    RUN(second_order, "the exact gradient is the derivative of L_phi by differences");
    RUN(sign_has_no_second_order, "with sign input first and second order are the same");
    return test_end();
}
