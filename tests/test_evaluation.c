/* Evaluations: what counts as the worst case, images that are spared, targets, the warnings, states
   that an evaluation goes on from (examples/evaluation_state.h), accuracies of one model on another's
   adversarial images (examples/transfer.h). */
#include "networks.h"

#include "../examples/evaluation_state.h"
#include "../examples/searches.h"
#include "../examples/transfer.h"

enum { MANY = 60, PIXELS = 64, CLASSES = 5 };

typedef struct setup {
    l2l_context *c;
    l2l_model *m;
    l2l_dataset d;
    l2l_real *x;
    int labels[MANY];
} setup;

/* Images with the model's own predictions as labels, but for the first three. */
static int begin(setup *s, l2l_model *(*make)(l2l_context *c))
{
    l2l_real z[MANY * CLASSES];
    int i, k;
    memset(s, 0, sizeof *s);
    s->c = test_context(2);
    s->m = make(s->c);
    s->x = test_array(MANY * PIXELS);
    golden_fill(s->x, MANY * PIXELS, 77, 0, 1);
    if (!CHECK(s->m && l2l_model_logits(s->m, s->x, MANY, z))) return 0;
    for (i = 0; i < MANY; i++) {
        for (k = s->labels[i] = 0; k < CLASSES; k++)
            if (z[i * CLASSES + k] > z[i * CLASSES + s->labels[i]]) s->labels[i] = k;
        if (i < 3) s->labels[i] = (s->labels[i] + 1) % CLASSES;
    }
    return CHECK(l2l_dataset_from_arrays(s->c, s->x, s->labels, MANY, 1, 8, 8, CLASSES, &s->d));
}

static void end(setup *s)
{
    CHECK_OK(s->c);
    l2l_dataset_free(&s->d);
    l2l_model_free(s->m);
    l2l_context_free(s->c);
    free(s->x);
}

static l2l_model *plain(l2l_context *c) { return tiny_model(c, 400); }
static l2l_model *other(l2l_context *c) { return tiny_model(c, 500); }

static char *beside(const char *name) /* to be freed */
{
    size_t n = strlen(name) + 32;
    char *p = (char *)test_memory(n);
    snprintf(p, n, "out-evaluation-%s", name);
    return p;
}

/* -- models that should raise a flag ------------------------------------------------------------ */

/* sign' = 0: no gradient gets through */
static l2l_tensor *flat_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 4, 3, 1, 0, 0);
    return l2l_layer_linear(m, "fc", l2l_sign(c, x), CLASSES, L2L_LAST);
}
static l2l_tensor *softmax_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    return l2l_softmax(l2l_model_context(m), tiny_forward(m, x, user));
}
/* noise of 1 % on the logits, other noise every time */
static l2l_tensor *random_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *z = tiny_forward(m, x, user), *noise;
    l2l_stream s;
    int64_t i;
    memset(&s, 0, sizeof s);
    s.purpose = L2L_RANDOM_USER;
    s.step = (uint32_t)++*(int *)user;
    if (!z || !(noise = l2l_zeros(c, z->shape))) return NULL;
    for (i = 0; i < l2l_count(z->shape); i++)
        noise->data[i] = (l2l_real)(0.01 * l2l_random_normal(&s, (uint32_t)i));
    return l2l_add(c, z, noise);
}

static int draws;
static l2l_model *own_model(l2l_context *c, const char *name, l2l_forward forward)
{
    static const double bound[] = {0.8, 0.2, 0.5, 0.2};
    l2l_model_options o = own_options(name, forward, 1, 8, CLASSES);
    l2l_model *m;
    o.user = &draws;
    m = l2l_model_create(c, &o);
    if (m) seed_parameters(m, 400, bound);
    return m;
}
static l2l_model *flat(l2l_context *c) { return own_model(c, "flat", flat_forward); }
static l2l_model *softmax(l2l_context *c) { return own_model(c, "softmax", softmax_forward); }
static l2l_model *noisy(l2l_context *c) { return own_model(c, "noisy", random_forward); }

/* Runs the attacks; the flags and, in `text`, what is said. */
static unsigned warned(l2l_model *(*make)(l2l_context *c), const l2l_attack *attacks, int n,
                       char *text, size_t size)
{
    setup s;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_result r;
    unsigned flags = ~0u;
    int i;
    o.batch = 25;
    if (begin(&s, make) && CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
        for (i = 0; i < n; i++) CHECK(l2l_evaluation_attack(&e, &attacks[i], &r, NULL, NULL));
        flags = l2l_evaluation_warnings(&e, text, size);
        CHECK_INT(flags, l2l_evaluation_warnings(&e, NULL, 0));
        l2l_evaluation_end(&e);
    }
    end(&s);
    return flags;
}

static void quiet_when_sound(void)
{
    l2l_attack a[4];
    char text[2000];
    a[0] = l2l_attack_fgsm(0.05);
    a[1] = l2l_attack_pgd(0.05);
    a[2] = l2l_attack_pgd(0.05);
    a[2].steps = 40;
    a[3] = l2l_attack_pgd(0.05); /* noise alone: a weak attack without gradients */
    a[3].steps = 0;
    CHECK_INT(0, warned(plain, a, 4, text, sizeof text));
    CHECK_TEXT("", text);
    CHECK_INT(0, warned(plain, a, 0, text, sizeof text));
}

static void flags_of_models(void)
{
    l2l_attack a = l2l_attack_pgd(0.05);
    char text[2000];
    CHECK_INT(L2L_WARN_ZERO_GRADIENTS, warned(flat, &a, 1, text, sizeof text));
    CHECK_CONTAINS("zero-gradients: 100 % of the iterates of pgd (10 steps, 1 runs)", text);
    CHECK_INT(L2L_WARN_SOFTMAX, warned(softmax, &a, 1, text, sizeof text));
    CHECK_CONTAINS("softmax-output: ", text);
    CHECK(warned(noisy, &a, 1, text, sizeof text) & L2L_WARN_RANDOM);
    CHECK_CONTAINS("random: ", text);
    CHECK_INT(L2L_WARN_SOFTMAX, warned(softmax, &a, 1, text, 8));
    CHECK_TEXT("softmax", text);
}

static void flag_of_queries(void)
{
    l2l_attack a[2];
    char text[2000];
    a[0] = l2l_attack_ifgsm(0.2); /* stays where it is, without gradients */
    a[1] = l2l_attack_pgd(0.2);
    a[1].steps = 0;
    a[1].restarts = 50;
    CHECK_INT(L2L_WARN_ZERO_GRADIENTS | L2L_WARN_QUERIES, warned(flat, a, 2, text, sizeof text));
    CHECK_CONTAINS("queries: attacks without gradients fool ", text);
    CHECK_INT(0, warned(flat, a + 1, 1, text, sizeof text)); /* none to compare with */
    a[1].epsilon = 0.4; /* another ball */
    CHECK_INT(L2L_WARN_ZERO_GRADIENTS, warned(flat, a, 2, text, sizeof text));
}

/* Descends the loss, under a false name. */
static bool wrong_way(void *self, l2l_inner *in)
{
    int64_t i;
    (void)self;
    for (i = 0; i < l2l_count(in->shape); i++)
        in->delta->data[i] = (l2l_real)(in->g[in->t]->data[i] > 0   ? -in->step_size
                                        : in->g[in->t]->data[i] < 0 ? in->step_size
                                                                    : 0);
    return true;
}

static void flag_of_order(void)
{
    l2l_attack a[3];
    char text[2000];
    a[0] = l2l_attack_fgsm(0.1);
    a[1] = l2l_attack_pgd(0.1);
    a[1].maximizer.step = wrong_way;
    a[1].last_iterate = true;
    CHECK_INT(L2L_WARN_ORDER, warned(plain, a, 2, text, sizeof text));
    CHECK_CONTAINS("order: fgsm (1 steps, 1 runs) leaves ", text);
    a[1].step_size = 0.001; /* ten of these do not get as far */
    a[1].maximizer = l2l_maximizer_sign();
    CHECK_INT(0, warned(plain, a, 2, text, sizeof text));
    a[0] = l2l_attack_pgd(0.1); /* the same with more steps, from the same start */
    a[1] = a[0];
    a[0].maximizer.step = wrong_way;
    a[0].last_iterate = true;
    a[0].steps = 30;
    a[1].last_iterate = true;
    CHECK_INT(L2L_WARN_ORDER, warned(plain, a, 2, text, sizeof text));
    CHECK_CONTAINS("order: pgd (10 steps, 1 runs) leaves ", text);
    CHECK_CONTAINS("but pgd (30 steps, 1 runs) ", text);
    a[0].seed = 1; /* another start */
    CHECK_INT(0, warned(plain, a, 2, text, sizeof text));
}

/* -- the worst case ----------------------------------------------------------------------------- */

static void balls(void)
{
    setup s;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack own = l2l_attack_pgd(0.2), small = l2l_attack_pgd(0.05), l2 = l2l_attack_pgd_l2(1);
    l2l_result r, strong, none;
    l2l_record records[MANY];
    int round, i, right;
    if (begin(&s, plain)) {
        for (round = 0; round < 2; round++) {
            o.epsilon = round ? 0.05 : -1; /* -1: the first attack says which */
            if (!CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) break;
            CHECK(l2l_evaluation_attack(&e, round ? &own : &small, &r, records, NULL));
            CHECK_INT(!round, r.counted);
            if (round) CHECK_NEAR(e.natural, e.worst, 0);
            CHECK(l2l_evaluation_attack(&e, &l2, &strong, NULL, NULL));
            CHECK(!strong.counted);
            CHECK(strong.accuracy < 0.5);
            CHECK(strong.success > 0.5 && strong.success_l2 <= 1 + 1e-6 && strong.success_l2 > 0.1);
            if (round) CHECK(l2l_evaluation_attack(&e, &small, &r, records, NULL));
            CHECK(r.counted);
            CHECK_INT(MANY, r.attacked);
            CHECK_NEAR(r.accuracy, e.worst, 1e-12);
            for (i = right = 0; i < MANY; i++) {
                right += e.right[i];
                CHECK_INT(!records[i].success, e.right[i]);
            }
            CHECK_NEAR((double)right / MANY, e.worst, 1e-12);
            l2l_evaluation_end(&e);
        }
        o.epsilon = 0.05; /* the nearest adversarial images count as far as they are that near */
        l2 = l2l_attack_deepfool(0.05);
        if (CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
            CHECK(l2l_evaluation_attack(&e, &l2, &r, records, NULL));
            CHECK(r.counted && r.accuracy > 0.05 && r.accuracy < 0.95);
            CHECK(r.success > 1 - r.accuracy); /* farther ones too */
            CHECK(r.success_linf > r.mean_linf * 0.9);
            for (i = 0; i < MANY; i++)
                CHECK_INT(records[i].predicted == s.labels[i] || records[i].linf > 0.05,
                          e.right[i]);
            CHECK_NEAR(r.accuracy, e.worst, 1e-12);
            l2l_evaluation_end(&e);
        }
        small = l2l_attack_pgd(0);
        o.epsilon = -1;
        if (CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
            CHECK(l2l_evaluation_attack(&e, &small, &none, NULL, NULL));
            CHECK_NEAR(e.natural, none.accuracy, 1e-12);
            CHECK_NEAR(0, none.success, 0);
            l2l_evaluation_end(&e);
        }
    }
    end(&s);
}

/* Spared images are those that were wrong before, the worst case is the same, with fewer passes. */
static void sparing(void)
{
    setup s;
    l2l_evaluation e, f;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a[3];
    l2l_result r, q;
    l2l_record all[MANY], some[MANY];
    l2l_real adv[MANY * PIXELS], left[MANY * PIXELS];
    int k, i, standing, before;
    a[0] = l2l_attack_fgsm(0.05);
    a[1] = l2l_attack_pgd(0.05);
    a[2] = l2l_attack_pgd_l2(0.8);
    a[1].targets = NULL;
    o.batch = 7;
    if (begin(&s, plain) && CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
        o.skip_fooled = true;
        o.batch = 11;
        if (CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &f))) {
            for (k = 0; k < 3; k++) {
                for (i = before = 0; i < MANY; i++) before += f.right[i];
                for (i = 0; i < MANY * PIXELS; i++) left[i] = -7;
                CHECK(l2l_evaluation_attack(&e, &a[k], &r, all, adv));
                CHECK(l2l_evaluation_attack(&f, &a[k], &q, some, left));
                CHECK_NEAR(e.worst, f.worst, 0);
                CHECK_BYTES(e.right, f.right, MANY * sizeof *e.right);
                CHECK_NEAR(k < 2 ? e.worst : r.accuracy, q.accuracy, 1e-12);
                CHECK_INT(k < 2 ? before : MANY, q.attacked); /* in another ball all are attacked */
                for (i = standing = 0; i < MANY; i++) {
                    if (some[i].step >= 0) {
                        standing++;
                        CHECK_BYTES(&all[i], &some[i], sizeof *all);
                        CHECK_BYTES(adv + i * PIXELS, left + i * PIXELS, PIXELS * sizeof *adv);
                        continue;
                    }
                    CHECK_INT(-1, some[i].predicted);
                    CHECK_INT(s.labels[i], some[i].label);
                    CHECK_NEAR(-7, left[i * PIXELS], 0);
                }
                CHECK_INT(q.attacked, standing);
            }
            CHECK_INT(0, l2l_evaluation_warnings(&f, NULL, 0));
            l2l_evaluation_end(&f);
        }
        l2l_evaluation_end(&e);
    }
    end(&s);
}

static void targets(void)
{
    setup s;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_pgd(0.05);
    l2l_result r;
    l2l_record records[MANY];
    int target[MANY], i, hit = 0, natural = 0, right = 0;
    double l2 = 0;
    o.batch = 13;
    if (begin(&s, plain) && CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
        for (i = 0; i < MANY; i++) target[i] = (s.labels[i] + 1) % CLASSES;
        a.targets = target;
        CHECK(l2l_evaluation_attack(&e, &a, &r, records, NULL));
        for (i = 0; i < MANY; i++) {
            right += records[i].predicted == s.labels[i];
            if (e.clean[i] != s.labels[i]) continue;
            natural++;
            if (records[i].predicted != target[i]) continue;
            hit++;
            l2 += records[i].l2;
        }
        CHECK(hit > 5 && hit < natural);
        CHECK_NEAR((double)hit / natural, r.success, 1e-12);
        CHECK_NEAR(l2 / hit, r.success_l2, 1e-12);
        CHECK_NEAR((double)right / MANY, r.accuracy, 1e-12);
        l2l_evaluation_end(&e);
    }
    end(&s);
}

/* -- states ------------------------------------------------------------------------------------- */

static bool stop_after(void *user, int done, int total)
{
    (void)done;
    (void)total;
    return --*(int *)user > 0;
}

enum { ATTACKS = 3 };
typedef struct outcome {
    double natural, worst;
    l2l_result results[ATTACKS];
    l2l_record records[ATTACKS][MANY];
    unsigned warnings;
    char text[1000];
} outcome;

/* All attacks, or until the progress has been told `batches` times; true when it got to the end. */
static bool evaluate(const setup *s, const char *state, bool skip, int batches, outcome *out)
{
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a[ATTACKS];
    int k = 0;
    a[0] = l2l_attack_fgsm(0.05);
    a[1] = l2l_attack_pgd(0.05);
    a[2] = l2l_attack_pgd(0.05);
    a[2].restarts = 3;
    a[2].seed = ((uint64_t)1 << 40) + 1;
    memset(out, 0, sizeof *out);
    o.batch = 17;
    o.skip_fooled = skip;
    if (!l2l_evaluation_begin(s->m, &s->d, &o, &e)) return false;
    if (!evaluation_state_open(&kept, &e, state)) {
        l2l_evaluation_end(&e);
        return false;
    }
    for (; k < ATTACKS; k++) {
        a[k].progress = batches ? stop_after : NULL;
        a[k].user = &batches;
        if (!evaluation_state_attack(&kept, &a[k], &out->results[k], out->records[k], NULL)) break;
    }
    out->natural = e.natural;
    out->worst = e.worst;
    out->warnings = l2l_evaluation_warnings(&e, out->text, sizeof out->text);
    evaluation_state_close(&kept);
    l2l_evaluation_end(&e);
    return k == ATTACKS;
}

/* Stopped after every possible batch, and gone on with: the same bits and warnings as in one go. */
static void going_on_with(l2l_model *(*make)(l2l_context *c), unsigned warnings, int step)
{
    static outcome straight, stopped;
    setup s;
    char *state = beside("state");
    int skip, batches, stops;
    if (begin(&s, make))
        for (skip = 0; skip < 2; skip++) {
            remove(state);
            CHECK(evaluate(&s, NULL, skip != 0, 0, &straight));
            CHECK_INT((int)warnings, (int)straight.warnings);
            for (batches = 1; batches < 13; batches += step) {
                CHECK(!evaluate(&s, state, skip != 0, batches, &stopped));
                CHECK_ERROR(s.c, L2L_ERROR_CANCELLED, "cancelled after ");
                for (stops = 0; stops < 20 && !evaluate(&s, state, skip != 0, 2, &stopped); stops++)
                    CHECK_ERROR(s.c, L2L_ERROR_CANCELLED, "cancelled after ");
                CHECK(stops < 20);
                CHECK_BYTES(&straight, &stopped, sizeof straight);
                CHECK(evaluate(&s, state, skip != 0, 1, &stopped)); /* nothing is left to do */
                CHECK_BYTES(&straight, &stopped, sizeof straight);
                remove(state);
            }
        }
    end(&s);
    free(state);
}

static void going_on(void)
{
    going_on_with(plain, 0, 1);
    going_on_with(flat, L2L_WARN_ZERO_GRADIENTS, 3);
    going_on_with(softmax, L2L_WARN_SOFTMAX, 5);
}

/* Begun with the state's file, or neither begun nor anything left. */
static bool begin_with(l2l_model *m, const l2l_dataset *d, const l2l_evaluation_options *o,
                       const char *path, l2l_evaluation *e, evaluation_state *kept)
{
    if (!l2l_evaluation_begin(m, d, o, e)) return false;
    if (evaluation_state_open(kept, e, path)) return true;
    l2l_evaluation_end(e);
    return false;
}

static void end_with(l2l_evaluation *e, evaluation_state *kept)
{
    evaluation_state_close(kept);
    l2l_evaluation_end(e);
}

static void states_refused(void)
{
    static outcome out;
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_fgsm(0.05), pgd = l2l_attack_pgd(0.05);
    l2l_result r;
    l2l_model *another;
    l2l_real first, w[4 * 9];
    char *state = beside("refused");
    FILE *f;
    remove(state);
    o.batch = 17;
    if (begin(&s, plain) && CHECK(evaluate(&s, state, false, 0, &out))) {
        CHECK(!evaluate(&s, state, true, 0, &out));
        CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "skip_fooled is 1 here, but in the file 0");
        another = other(s.c);
        if (CHECK(another && !begin_with(another, &s.d, &o, state, &e, &kept)))
            CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "weights (a digest) is ");
        l2l_model_free(another);
        o.limit = 20;
        CHECK(!begin_with(s.m, &s.d, &o, state, &e, &kept));
        CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "images is 20 here, but in the file 60");
        o.limit = 0;
        first = s.x[5 * PIXELS];
        s.x[5 * PIXELS] = first < (l2l_real)0.5 ? 1 : 0;
        CHECK(!begin_with(s.m, &s.d, &o, state, &e, &kept));
        CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "data (a digest) is ");
        s.x[5 * PIXELS] = first;
        CHECK(l2l_parameter_get(s.m, 0, w));
        w[3] += (l2l_real)1e-3;
        CHECK(l2l_parameter_set(s.m, 0, w) && !begin_with(s.m, &s.d, &o, state, &e, &kept));
        CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "weights (a digest) is ");
        w[3] -= (l2l_real)1e-3;
        CHECK(l2l_parameter_set(s.m, 0, w));
        if (CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) {
            a.step_size = 0.04;
            CHECK(!evaluation_state_attack(&kept, &a, &r, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "attack 1, fgsm, was made with step_size 0.05, "
                        "not 0.04");
            CHECK(!evaluation_state_attack(&kept, &pgd, &r, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "attack 1 was fgsm (cross-entropy, sign), not "
                        "pgd (cross-entropy, sign)");
            a.step_size = 0.05;
            a.relative_step = 3; /* of no effect then: the same walk */
            CHECK(evaluation_state_attack(&kept, &a, &r, NULL, NULL));
            pgd.init = s.x;
            CHECK(!evaluation_state_attack(&kept, &pgd, &r, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "attack 2, pgd, was made with init (a digest) 0");
            end_with(&e, &kept);
        }
        remove(state); /* what fails before its first batch is not remembered */
        if (CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) {
            pgd.init = NULL;
            pgd.epsilon = 2;
            CHECK(!evaluation_state_attack(&kept, &pgd, &r, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "epsilon 2");
            CHECK(evaluation_state_attack(&kept, &a, &r, NULL, NULL));
            CHECK(!evaluation_state_attack(&kept, NULL, &r, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "");
            end_with(&e, &kept);
        }
        f = fopen(state, "wb");
        if (CHECK(f && fputs("nothing that anybody wrote", f) >= 0 && !fclose(f))) {
            CHECK(!begin_with(s.m, &s.d, &o, state, &e, &kept));
            CHECK_ERROR(s.c, L2L_ERROR_FORMAT, state);
        }
        CHECK(l2l_model_save(s.m, state) && !begin_with(s.m, &s.d, &o, state, &e, &kept));
        CHECK_ERROR(s.c, L2L_ERROR_FORMAT, "not an evaluation's state");
    }
    remove(state);
    end(&s);
    free(state);
}

/* The images of an attack are made again, whatever the file knows, and it stays as it is. */
static void states_and_images(void)
{
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_pgd(0.05);
    l2l_result straight, r;
    l2l_record records[MANY], again[MANY];
    l2l_real adv[MANY * PIXELS], back[MANY * PIXELS];
    char *state = beside("images");
    int stops = 2, k;
    long size[2] = {0, 0};
    remove(state);
    o.batch = 17;
    if (begin(&s, plain) && CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
        CHECK(l2l_evaluation_attack(&e, &a, &straight, records, adv));
        l2l_evaluation_end(&e);
        for (k = 0; k < 3; k++) { /* 0: stopped; 1: gone on with, by its images; 2: nothing left */
            FILE *f;
            if (!CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) break;
            memset(back, 0, sizeof back);
            a.progress = k ? NULL : stop_after;
            a.user = &stops;
            if (k) o.batch = 11;
            CHECK(evaluation_state_attack(&kept, &a, &r, again, k ? back : NULL) == (k > 0));
            if (k) CHECK_BYTES(adv, back, sizeof adv);
            if (k) CHECK_BYTES(records, again, sizeof records);
            if (k) CHECK_BYTES(&straight, &r, sizeof r);
            if (!k) CHECK_ERROR(s.c, L2L_ERROR_CANCELLED, "cancelled after 34 of 60 images");
            end_with(&e, &kept);
            f = fopen(state, "rb");
            if (CHECK(f && !fseek(f, 0, SEEK_END))) size[k > 1] = ftell(f);
            if (f) fclose(f);
        }
        CHECK(size[0] > 1000 && size[0] == size[1]);
    }
    remove(state);
    end(&s);
    free(state);
}

static double now; /* a clock that goes on by 3 seconds whenever somebody looks at it */
static double look(void) { return now += 3; }

/* Four batches, two of them in a first sitting, and a third one that finds nothing left to do. */
static void seconds_of_sittings(void)
{
    static const double expected[] = {0, 4 * 3, 4 * 3};
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_fgsm(0.05);
    char *state = beside("seconds");
    int stops = 2, k;
    remove(state);
    o.batch = 17;
    if (begin(&s, plain))
        for (k = 0; k < 3; k++) {
            if (!CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) break;
            kept.clock = look;
            a.progress = k ? NULL : stop_after;
            a.user = &stops;
            CHECK(evaluation_state_attack(&kept, &a, NULL, NULL, NULL) == (k > 0));
            CHECK_NEAR(expected[k], kept.seconds, 0);
            if (!k) CHECK_ERROR(s.c, L2L_ERROR_CANCELLED, "cancelled after 34 of 60 images");
            end_with(&e, &kept);
        }
    if (CHECK(begin_with(s.m, &s.d, &o, NULL, &e, &kept))) { /* without a file */
        kept.clock = look;
        a.progress = NULL;
        CHECK(evaluation_state_attack(&kept, &a, NULL, NULL, NULL));
        CHECK_NEAR(3, kept.seconds, 0);
        end_with(&e, &kept);
    }
    remove(state);
    end(&s);
    free(state);
}

/* Every byte of a state changed, one at a time: refused, and no harm done. */
static void states_distrusted(void)
{
    static unsigned char bytes[40000];
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    char *state = beside("broken");
    size_t n = 0, i;
    FILE *f;
    remove(state);
    o.limit = 12;
    if (begin(&s, plain)) {
        l2l_attack a = l2l_attack_fgsm(0.05);
        l2l_result r;
        if (CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) {
            CHECK(evaluation_state_attack(&kept, &a, &r, NULL, NULL));
            end_with(&e, &kept);
        }
        CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e));
        f = fopen(state, "rb");
        if (CHECK(f != NULL)) {
            n = fread(bytes, 1, sizeof bytes, f);
            fclose(f);
        }
        CHECK(n > 1000 && n < sizeof bytes);
        for (i = 0; i < 2 * n; i++) { /* the second time cut off there */
            size_t length = i < n ? n : i - n;
            if (i < n) bytes[i] ^= i % 2 ? 0x80 : 0x7f;
            f = fopen(state, "wb");
            if (!CHECK(f && fwrite(bytes, 1, length, f) == length && !fclose(f))) break;
            if (i < n) bytes[i] ^= i % 2 ? 0x80 : 0x7f;
            if (!CHECK(!evaluation_state_open(&kept, &e, state))) break;
            CHECK_ERROR(s.c, L2L_ERROR_FORMAT, state);
        }
        l2l_evaluation_end(&e);
    }
    remove(state);
    end(&s);
    free(state);
}

/* An attack's own choice of images holds where wrong ones are spared, too; a state of another
   choice is of another attack. */
static void sparing_among_some(void)
{
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_fgsm(0.05);
    l2l_result r;
    l2l_record records[MANY];
    bool some[MANY];
    char *state = beside("some");
    int i, k, wanted = 0;
    remove(state);
    for (i = 0; i < MANY; i++) some[i] = i % 3 == 1;
    o.batch = 17;
    o.skip_fooled = true;
    if (begin(&s, plain) && CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) {
        for (i = 0; i < MANY; i++) wanted += some[i] && e.right[i];
        a.only = some;
        CHECK(evaluation_state_attack(&kept, &a, &r, records, NULL));
        CHECK(wanted > 10 && wanted < MANY / 3);
        CHECK_INT(wanted, r.attacked);
        for (i = 0; i < MANY; i++) CHECK(some[i] || records[i].predicted == -1);
        end_with(&e, &kept);
        for (k = 0; k < 2; k++) {
            some[0] = k;
            a.only = k ? some : NULL;
            if (!CHECK(begin_with(s.m, &s.d, &o, state, &e, &kept))) break;
            CHECK(!evaluation_state_attack(&kept, &a, &r, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_MISMATCH, "attack 1, fgsm, was made with only (a digest) ");
            end_with(&e, &kept);
        }
    }
    remove(state);
    end(&s);
    free(state);
}

/* No call on a state of an evaluation that could not begin does harm. */
static void states_of_nothing(void)
{
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_fgsm(0.05);
    char *state = beside("nothing");
    FILE *f;
    remove(state);
    o.batch = 0;
    if (begin(&s, plain)) {
        CHECK(!l2l_evaluation_begin(s.m, &s.d, &o, &e));
        CHECK(!evaluation_state_open(&kept, &e, state));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "batch 0");
        CHECK(!evaluation_state_attack(&kept, &a, NULL, NULL, NULL));
        CHECK(!evaluation_state_open(&kept, &e, state));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "evaluation_state_open: the evaluation has not begun");
        CHECK(!evaluation_state_attack(&kept, &a, NULL, NULL, NULL));
        evaluation_state_close(&kept);
        CHECK(!evaluation_state_open(&kept, NULL, state));
        evaluation_state_close(&kept);
        f = fopen(state, "rb");
        if (!CHECK(!f)) fclose(f);
    }
    remove(state);
    end(&s);
    free(state);
}

/* A file that is longer than a state can be is not read whole. */
static void states_too_long(void)
{
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    char *state = beside("long");
    FILE *f;
    if (begin(&s, plain)) {
        f = fopen(state, "wb");
        CHECK(f && fprintf(f, "%s\n", es_format) > 0 && !fseek(f, 99999999, SEEK_SET) &&
              fputc('\n', f) >= 0 && !fclose(f));
        CHECK(!begin_with(s.m, &s.d, NULL, state, &e, &kept));
        CHECK_ERROR(s.c, L2L_ERROR_FORMAT, "100000000 bytes, but a state of 60 images has "
                                           "40424384 at most");
    }
    remove(state);
    end(&s);
    free(state);
}

/* Of two evaluations on one file the second to write is told; the first one's progress stays. */
static void states_of_two(void)
{
    setup s;
    l2l_evaluation e[3];
    evaluation_state kept[3];
    l2l_attack a = l2l_attack_fgsm(0.05), pgd = l2l_attack_pgd(0.05);
    char *state = beside("two");
    int k;
    remove(state);
    if (begin(&s, plain)) {
        for (k = 0; k < 2; k++) CHECK(begin_with(s.m, &s.d, NULL, state, &e[k], &kept[k]));
        CHECK(evaluation_state_attack(&kept[0], &a, NULL, NULL, NULL));
        CHECK(!evaluation_state_attack(&kept[1], &pgd, NULL, NULL, NULL));
        CHECK_ERROR(s.c, L2L_ERROR_FILE, "out-evaluation-two: another evaluation has written to");
        CHECK(evaluation_state_attack(&kept[0], &pgd, NULL, NULL, NULL));
        for (k = 0; k < 2; k++) end_with(&e[k], &kept[k]);
        if (CHECK(begin_with(s.m, &s.d, NULL, state, &e[2], &kept[2]))) {
            CHECK_INT(2, kept[2].count);
            remove(state); /* who takes the file away wants a new one */
            CHECK(evaluation_state_attack(&kept[2], &a, NULL, NULL, NULL));
            CHECK(evaluation_state_attack(&kept[2], &pgd, NULL, NULL, NULL));
            pgd.steps = 3;
            CHECK(evaluation_state_attack(&kept[2], &pgd, NULL, NULL, NULL));
            end_with(&e[2], &kept[2]);
        }
    }
    remove(state);
    end(&s);
    free(state);
}

/* A state is read by the name that it was written by, on Windows, too. */
static void states_in_utf8(void)
{
    setup s;
    l2l_evaluation e;
    evaluation_state kept;
    l2l_attack a = l2l_attack_fgsm(0.05);
    char *state = beside("K\303\266ln");
    int k;
    if (begin(&s, plain))
        for (k = 0; k < 2; k++) {
            if (!CHECK(begin_with(s.m, &s.d, NULL, state, &e, &kept))) break;
            if (k) CHECK_INT(1, kept.count);
            CHECK(evaluation_state_attack(&kept, &a, NULL, NULL, NULL));
            end_with(&e, &kept);
        }
    remove(state);
    end(&s);
    free(state);
}

/* One image of 400, in which 20 steps are weaker than 10: where these are the first of those the
   figures contradict each other, and where steps depend on their number they do not. */
static void order_of_shrinking_steps(void)
{
    enum { N = 400 };
    static const char *const names[] = {"sign", "decay", "one of my own", "decay"};
    static l2l_record records[N];
    setup s;
    l2l_evaluation e;
    l2l_dataset d;
    l2l_real *x = test_array(N * PIXELS);
    static int labels[N];
    int i, k, more;
    golden_fill(x, N * PIXELS, 78, 0, 1);
    if (begin(&s, plain) &&
        CHECK(l2l_dataset_from_arrays(s.c, x, labels, N, 1, 8, 8, CLASSES, &d))) {
        for (k = 0; k < COUNT(names); k++) {
            l2l_attack a = l2l_attack_pgd(0.1);
            a.maximizer.name = names[k];
            if (!CHECK(l2l_evaluation_begin(s.m, &d, NULL, &e))) break;
            for (more = 0; more < 2; more++) {
                if (k < 3) a.steps = more ? 20 : 10;
                else a.restarts = 1 + more;
                memset(records, 0, sizeof records);
                for (i = 0; i < N; i++) {
                    records[i].label = labels[i];
                    records[i].clean = e.clean[i];
                    records[i].predicted = i < 200 + more ? labels[i] : 1;
                }
                CHECK(l2l_evaluation_add(&e, l2l_series_of(&a), records, NULL));
            }
            CHECK_INT(k % 3 ? 0 : L2L_WARN_ORDER, l2l_evaluation_warnings(&e, NULL, 0));
            l2l_evaluation_end(&e);
        }
        l2l_dataset_free(&d);
    }
    free(x);
    end(&s);
}

/* Records are taken from anywhere, in any batches; those of other images are not. */
static void folded(void)
{
    setup s;
    l2l_evaluation e, f;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a[2];
    l2l_result r, q;
    l2l_record records[MANY], parts[MANY];
    l2l_real adv[MANY * PIXELS], some[MANY * PIXELS];
    char text[2][1000];
    int k, at;
    a[0] = l2l_attack_fgsm(0.05);
    a[1] = l2l_attack_pgd(0.05);
    o.batch = 17;
    o.skip_fooled = true;
    memset(adv, 0, sizeof adv);
    memset(some, 0, sizeof some);
    if (begin(&s, plain) && CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &e))) {
        if (CHECK(l2l_evaluation_begin(s.m, &s.d, &o, &f))) {
            for (k = 0; k < 2; k++) {
                CHECK(l2l_evaluation_attack(&e, &a[k], &r, records, adv));
                for (at = MANY - 7; at >= 0; at -= at < 7 && at > 0 ? at : 7) /* from the end */
                    CHECK(l2l_evaluation_run(&f, l2l_series_of(&a[k]), at, 7, parts + at,
                                             some + at * PIXELS));
                CHECK_BYTES(records, parts, sizeof parts);
                CHECK_BYTES(adv, some, sizeof adv);
                CHECK(k || f.worst == f.natural); /* until they are added */
                CHECK(l2l_evaluation_add(&f, l2l_series_of(&a[k]), parts, &q));
                CHECK_BYTES(&r, &q, sizeof r);
                CHECK_BYTES(e.right, f.right, MANY * sizeof *e.right);
            }
            CHECK_NEAR(e.worst, f.worst, 0);
            CHECK(e.worst < e.natural);
            CHECK_INT(l2l_evaluation_warnings(&e, text[0], sizeof *text),
                      l2l_evaluation_warnings(&f, text[1], sizeof *text));
            CHECK_TEXT(text[0], text[1]);
            CHECK(!l2l_evaluation_run(&f, l2l_series_of(&a[0]), MANY - 3, 4, parts, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "4 images from 57 on are not among 60");
            CHECK(!l2l_evaluation_run(&f, l2l_series_of(&a[0]), -1, 4, parts, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "4 images from -1 on are not among 60");
            CHECK(!l2l_evaluation_run(&f, l2l_series_of(&a[0]), 0, 4, NULL, NULL));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "records");
            parts[5].predicted = CLASSES;
            CHECK(!l2l_evaluation_add(&f, l2l_series_of(&a[1]), parts, &q));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "record 5: predicted 5 is not in -1..4");
            parts[5].predicted = 0;
            parts[7].l2 = (double)NAN;
            CHECK(!l2l_evaluation_add(&f, l2l_series_of(&a[1]), parts, &q));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "record 7: the norms ");
            parts[7].l2 = 0;
            parts[7].linf = HUGE_VAL;
            CHECK(!l2l_evaluation_add(&f, l2l_series_of(&a[1]), parts, &q));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "record 7: the norms ");
            parts[7].linf = 0;
            parts[8].loss = (double)NAN;
            CHECK(!l2l_evaluation_add(&f, l2l_series_of(&a[1]), parts, &q));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "record 8: the loss ");
            parts[8].loss = 0;
            parts[9].clean = parts[9].predicted = (f.clean[9] + 1) % CLASSES;
            CHECK(!l2l_evaluation_add(&f, l2l_series_of(&a[1]), parts, &q));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "record 9: the clean prediction is ");
            parts[9].clean = f.clean[9];
            parts[6].label++;
            CHECK(!l2l_evaluation_add(&f, l2l_series_of(&a[1]), parts, &q));
            CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "record 6 is of label ");
            CHECK_NEAR(e.worst, f.worst, 0);
            l2l_evaluation_end(&f);
        }
        l2l_evaluation_end(&e);
    }
    end(&s);
}

/* -- attacks on a data set ----------------------------------------------------------------------- */

/* A part of a data set as an array of the same images would be; some of them spared; accuracies. */
static void on_a_data_set(void)
{
    setup s;
    l2l_attack a[2] = {l2l_attack_pgd(0.05), l2l_attack_fgsm(0.1)}, part[2];
    static l2l_real adv[MANY * PIXELS], same[MANY * PIXELS], init[MANY * PIXELS];
    l2l_record records[MANY], again[MANY];
    int targets[MANY], i, k, right = 0, robust = 0;
    bool only[MANY];
    if (begin(&s, plain)) {
        golden_fill(init, MANY * PIXELS, 78, 0, 1);
        for (i = 0; i < MANY; i++) {
            targets[i] = (s.labels[i] + 1 + i % 2) % CLASSES;
            only[i] = i % 3 > 0;
        }
        a[0].restarts = 2;
        a[0].init = init;
        a[1].targets = targets;
        for (k = 0; k < 2; k++) {
            part[k] = a[k];
            part[k].first = 20;
        }
        part[0].init += 20 * PIXELS;
        part[1].targets += 20;
        CHECK(l2l_evaluate(s.m, a, 2, &s.d, 20, 30, adv, records));
        CHECK(l2l_attack_worst(s.m, part, 2, s.x + 20 * PIXELS, s.labels + 20, 30, same, again));
        CHECK_BYTES(again, records, 30 * sizeof *records);
        CHECK_BYTES(same, adv, 30 * PIXELS * sizeof *adv);
        for (k = 0; k < 2; k++) a[k].only = only;
        memset(adv, 0, sizeof adv);
        CHECK(l2l_evaluate(s.m, a, 2, &s.d, 20, 30, adv, records));
        for (i = 0; i < 30; i++) {
            if (only[20 + i]) {
                CHECK_BYTES(&again[i], &records[i], sizeof *records);
                CHECK_BYTES(same + i * PIXELS, adv + i * PIXELS, PIXELS * sizeof *adv);
                continue;
            }
            CHECK(records[i].label == s.labels[20 + i] && records[i].clean == -1);
            CHECK(records[i].predicted == -1 && records[i].step == -1 && !records[i].forwards);
            CHECK(adv[i * PIXELS] == 0 && !memcmp(adv + i * PIXELS, adv + i * PIXELS + 1,
                                                  (PIXELS - 1) * sizeof *adv));
        }
        a[0] = l2l_attack_pgd(0.05);
        CHECK(l2l_attack_run(s.m, a, s.x, s.labels, MANY, NULL, records));
        for (i = 0; i < MANY; i++) {
            right += records[i].clean == s.labels[i];
            robust += !records[i].success;
        }
        CHECK(robust > 0 && robust < right);
        CHECK_NEAR((double)right / MANY, l2l_accuracy(s.m, &s.d, 0, NULL), 0);
        CHECK_NEAR((double)robust / MANY, l2l_accuracy(s.m, &s.d, MANY + 1, a), 0);
        for (i = right = 0; i < 7; i++) right += !records[i].success;
        CHECK_NEAR(right / 7.0, l2l_accuracy(s.m, &s.d, 7, a), 0);
        CHECK(!l2l_evaluate(s.m, a, 1, &s.d, MANY - 3, 4, NULL, records));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "evaluation: 4 images from 57 on are not among 60");
        CHECK(!l2l_evaluate(s.m, a, 1, &s.d, -1, 4, NULL, records));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "4 images from -1 on");
        CHECK(!l2l_evaluate(s.m, a, 1, NULL, 0, 4, NULL, records));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "the data set");
        CHECK(!l2l_evaluate(s.m, a, 0, &s.d, 0, 4, NULL, records));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "0 attacks");
        CHECK_NEAR(0, l2l_accuracy(s.m, NULL, 5, a), 0);
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "the data set");
    }
    end(&s);
}

/* -- transfer ----------------------------------------------------------------------------------- */

static void matrix(void)
{
    enum { MODELS = 3 };
    setup s;
    l2l_model *m[MODELS];
    l2l_attack a = l2l_attack_pgd(0.1), last;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_real adv[MANY * PIXELS], z[MANY * CLASSES];
    l2l_record records[MANY];
    double accuracies[MODELS * MODELS], naive[MODELS * MODELS];
    bool some[MANY] = {true};
    int i, j, k, n, right, threads;
    if (begin(&s, plain)) {
        m[0] = s.m;
        m[1] = other(s.c);
        m[2] = tiny_model(s.c, 600);
        last = a;
        last.last_iterate = true;
        o.limit = 50;
        for (i = 0; i < MODELS; i++) {
            CHECK(l2l_attack_run(m[i], &last, s.x, s.labels, 50, adv, records));
            for (j = 0; j < MODELS; j++) {
                CHECK(l2l_model_logits(m[j], adv, 50, z));
                for (n = right = 0; n < 50; n++) {
                    int best = 0;
                    for (k = 1; k < CLASSES; k++)
                        if (z[n * CLASSES + k] > z[n * CLASSES + best]) best = k;
                    right += best == s.labels[n];
                }
                naive[i * MODELS + j] = right / 50.0;
            }
        }
        for (threads = 1; threads < 4; threads += 2) {
            l2l_set_threads(s.c, threads);
            o.batch = threads == 1 ? 100 : 7;
            if (CHECK(transfer_matrix(m, MODELS, &s.d, l2l_series_of(&a), &o, NULL, accuracies)))
                for (i = 0; i < MODELS * MODELS; i++) CHECK_NEAR(naive[i], accuracies[i], 1e-12);
        }
        CHECK(accuracies[0] < 0.3 && accuracies[3] > accuracies[0]);
        CHECK(!transfer_matrix(m, MODELS, &s.d, l2l_series_of(&a), &o, NULL, NULL));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "transfer_matrix: accuracies is NULL");
        i = 2;
        a.user = &i;
        a.progress = stop_after;
        CHECK(!transfer_matrix(m, MODELS, &s.d, l2l_series_of(&a), &o, NULL, accuracies));
        CHECK_ERROR(s.c, L2L_ERROR_CANCELLED, "transfer_matrix: cancelled after 14 of 150");
        a.only = some;
        CHECK(!transfer_matrix(m, MODELS, &s.d, l2l_series_of(&a), &o, NULL, accuracies));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "attack 0 of 1 has only some images to attack");
        a.only = NULL;
        l2l_model_free(m[2]);
        m[2] = NULL;
        CHECK(!transfer_matrix(m, MODELS, &s.d, l2l_series_of(&a), &o, NULL, accuracies));
        CHECK_ERROR(s.c, L2L_ERROR_ARGUMENT, "model 2 of 3 is NULL");
        m[2] = smooth_model(s.c);
        CHECK(!transfer_matrix(m, MODELS, &s.d, l2l_series_of(&a), &o, NULL, accuracies));
        CHECK_ERROR(s.c, L2L_ERROR_SHAPE, "model 2 is not for the images and classes of model 0");
        l2l_model_free(m[1]);
        l2l_model_free(m[2]);
    }
    end(&s);
}

/* Images that were made elsewhere, as starting points without steps: scored, held to the ball. */
static void images_from_elsewhere(void)
{
    setup s;
    l2l_model *m;
    l2l_evaluation e, f;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_attack a = l2l_attack_pgd(0.1), given = l2l_attack_ifgsm(0.1);
    l2l_result r;
    l2l_real adv[MANY * PIXELS], back[MANY * PIXELS];
    double accuracies[4], natural[2];
    if (begin(&s, plain)) {
        l2l_model *both[2];
        m = other(s.c);
        both[0] = m;
        both[1] = s.m;
        a.last_iterate = true;
        if (CHECK(l2l_evaluation_begin(m, &s.d, &o, &e) && l2l_evaluation_begin(s.m, &s.d, &o, &f))) {
            CHECK(l2l_evaluation_attack(&e, &a, &r, NULL, adv));
            given.steps = 0;
            given.init = adv;
            CHECK(l2l_evaluation_attack(&f, &given, &r, NULL, back));
            CHECK_BYTES(adv, back, sizeof adv);
            CHECK(transfer_matrix(both, 2, &s.d, l2l_series_of(&a), &o, natural, accuracies));
            CHECK_NEAR(e.natural, natural[0], 0);
            CHECK_NEAR(f.natural, natural[1], 0);
            CHECK_NEAR(accuracies[1], r.accuracy, 1e-12);
            CHECK_NEAR(accuracies[0], e.worst, 1);
            given.epsilon = 0.01;
            CHECK(l2l_evaluation_attack(&f, &given, &r, NULL, back));
            CHECK(r.mean_linf <= 0.01 + 1e-6 && r.mean_linf > 0.005);
            l2l_evaluation_end(&e);
            l2l_evaluation_end(&f);
        }
        l2l_model_free(m);
    }
    end(&s);
}

int main(void)
{
    RUN(quiet_when_sound, "a sound model under ordinary attacks raises no flag");
    RUN(flags_of_models, "a zero-gradient, a softmax-output and a random model raise their flag each");
    RUN(flag_of_queries, "attacks without gradients that win raise a flag");
    RUN(flag_of_order, "a longer attack that is weaker, and FGSM before PGD, raise a flag");
    RUN(balls, "the worst case is about one ball");
    RUN(sparing, "sparing wrong images leaves the worst case as it is");
    RUN(targets, "success and norms under targets");
    RUN(on_a_data_set, "an attack on a part of a data set is that on an array; images can be spared");
    RUN(going_on, "an evaluation stopped after any batch goes on to the same bits");
    RUN(states_refused, "the state of another model, data or attack is refused by name");
    RUN(seconds_of_sittings, "seconds are those of all sittings");
    RUN(states_and_images, "images are made again, and a state stays as it is");
    RUN(states_distrusted, "a state with any byte changed, or cut off, is refused");
    RUN(sparing_among_some, "an attack on some images spares the others, also in its state");
    RUN(states_of_nothing, "an evaluation that has not begun has no state");
    RUN(states_too_long, "a file too long for a state is not read");
    RUN(states_of_two, "two evaluations on one file do not lose each other's progress");
    RUN(states_in_utf8, "names of states are UTF-8");
    RUN(order_of_shrinking_steps, "steps that depend on their number may be weaker by a little");
    RUN(folded, "records made in any batches add up to the same");
    RUN(matrix, "the transfer matrix is what attack and model give one by one");
    RUN(images_from_elsewhere, "images made elsewhere are scored in the ball");
    return test_end();
}
