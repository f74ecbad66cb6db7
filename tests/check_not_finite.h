/* Numbers that are not finite: wherever a model, an objective, a maximizer or a loss makes one, the
   attack or training ends with an error that names it. Nothing of the kind is ever counted as robust
   or fooled. Subnormal numbers are numbers like others. Warnings of searches without any gradient,
   images whose target is their label. For test_not_finite.c and test_double_not_finite.c. */
#ifndef L2LADV_TESTS_CHECK_NOT_FINITE_H
#define L2LADV_TESTS_CHECK_NOT_FINITE_H

#include "networks.h"
#include "../examples/l2lda.h"
#include "../examples/autoattack.h"
#include "../examples/transfer.h"

enum { SIDE = 4, D = SIDE * SIDE, CLASSES = 3, IMAGES = 5, FIRST = 7, BAD = 2 };

/* -- a linear model behind callbacks that breaks ------------------------------------------------- */

enum { IN_CLASS_0, IN_CLASS_2, IN_ALL, IN_GRADIENT, PLACES };

typedef struct broken {
    l2l_real x[IMAGES * D]; /* the clean images                                                    */
    int labels[IMAGES];
    double scale;           /* of all weights                                                      */
    double value;           /* what turns up                                                       */
    double beyond;          /* farther than this from the clean image; below 0: there, too         */
    int place, only;        /* only: one image; -1: all                                            */
    int times;              /* how often it did                                                    */
} broken;

static double weight(int k, int j) { return k ? 0.1 * (k + (j * 7 + k * 3) % 5 - 3.3) : 0; }

static int nearest(const broken *b, const l2l_real *x, double *distance)
{
    int best = 0, i, j;
    *distance = 1e9;
    for (i = 0; i < IMAGES; i++) {
        double d = 0;
        for (j = 0; j < D; j++) d = fmax(d, fabs((double)x[j] - (double)b->x[i * D + j]));
        if (d < *distance) {
            *distance = d;
            best = i;
        }
    }
    return best;
}

static bool breaks(broken *b, const l2l_real *x)
{
    double distance;
    int i = nearest(b, x, &distance);
    bool now = distance > b->beyond && (b->only < 0 || b->only == i);
    b->times += now;
    return now;
}

static bool broken_logits(void *user, const l2l_real *x, int n, l2l_real *z)
{
    broken *b = (broken *)user;
    int i, j, k;
    for (i = 0; i < n; i++, z += CLASSES, x += D) {
        for (k = 0; k < CLASSES; k++) {
            double s = k ? 0 : 4;
            for (j = 0; j < D; j++) s += weight(k, j) * (double)x[j];
            z[k] = (l2l_real)(b->scale * s);
        }
        if (b->place == IN_GRADIENT || !breaks(b, x)) continue;
        if (b->place == IN_CLASS_0 || b->place == IN_ALL) z[0] = (l2l_real)b->value;
        if (b->place == IN_ALL) z[1] = (l2l_real)b->value;
        if (b->place == IN_CLASS_2 || b->place == IN_ALL) z[2] = (l2l_real)b->value;
    }
    return true;
}

static bool broken_vjp(void *user, const l2l_real *x, int n, const l2l_real *dz, l2l_real *dx)
{
    broken *b = (broken *)user;
    int i, j, k;
    for (i = 0; i < n; i++, dz += CLASSES, x += D, dx += D) {
        for (j = 0; j < D; j++) {
            double s = 0;
            for (k = 0; k < CLASSES; k++) s += b->scale * weight(k, j) * (double)dz[k];
            dx[j] = (l2l_real)s;
        }
        if (b->place == IN_GRADIENT && breaks(b, x)) dx[5] = (l2l_real)b->value;
    }
    return true;
}

static void broken_fill(broken *b)
{
    int i;
    memset(b, 0, sizeof *b);
    golden_fill(b->x, IMAGES * D, 40, 0.1, 0.9);
    for (i = 0; i < IMAGES; i++) b->labels[i] = 0;
    b->scale = 1;
    b->only = -1;
    b->beyond = 9;
}

static l2l_model *broken_model(l2l_context *c, broken *b)
{
    l2l_external e = {1, SIDE, SIDE, CLASSES, NULL, broken_logits, broken_vjp};
    e.user = b;
    return l2l_model_external(c, &e);
}

/* -- every attack ------------------------------------------------------------------------------- */

enum { WALKS = 15, ATTACKS = 20 };
static const double values[] = {(double)NAN, HUGE_VAL, -HUGE_VAL};

typedef struct learners {
    l2l_learned *phi;
    l2lda *g;
} learners;

static learners make_learners(l2l_context *c)
{
    learners l;
    l2l_learned_options o = l2l_learned_default();
    l2lda_options p = l2lda_default();
    o.seed = 3;
    p.height = p.width = SIDE;
    p.channels = 1;
    p.classes = CLASSES;
    p.width_multiplier = 0.125;
    l.phi = l2l_learned_create(c, &o);
    l.g = l2lda_create(c, &p);
    return l;
}

static void free_learners(learners *l)
{
    l2l_learned_free(l->phi);
    l2lda_free(l->g);
}

/* The first WALKS walk; the last two ask for no gradient. */
static l2l_attack attack_number(int k, const learners *l)
{
    static const int targets[IMAGES] = {1, 1, 2, 1, 2};
    l2l_attack a = l2l_attack_pgd(0.2);
    switch (k) {
    case 0: a = l2l_attack_fgsm(0.2); break;
    case 1: a = l2l_attack_ifgsm(0.2); break;
    case 2: break;
    case 3: a = l2l_attack_bls(0.2); break;
    case 4: a.maximizer = l2l_maximizer_line_search(false); break;
    case 5: a = l2l_attack_pgd_l2(0.5); break;
    case 6: a = l2l_attack_mim(0.2); break;
    case 7: a = l2l_attack_cw_pgd(0.2); break;
    case 8: a = l2l_attack_cw_l2lda(0.2); break;
    case 9: a.objective = l2l_objective_kl(); break;
    case 10: a.targets = targets; break;
    case 11: a.last_iterate = true; break;
    case 12: a.restarts = 3; break;
    case 13: a = l2l_attack_learned(l->phi, 0.2, 5); break;
    case 14: a = l2lda_attack(l->g, 0.2); break;
    case 15: a = l2l_attack_cw_l2(9); break;
    case 16: a = l2l_attack_deepfool(1); break;
    case 17: a = l2l_attack_deepfool_l2(9); break;
    case 18: a = l2l_attack_square(0.2); break;
    default: a = l2l_attack_sign_opt(9); break;
    }
    if (k == 15) a.number[0] = 3;
    if (k == 15 || k >= 18) a.steps = 60;
    a.first = FIRST;
    return a;
}

static int cases;

/* The attack on a model that breaks ends in an error, the same for any batch. */
static void check_attack(l2l_context *c, broken *b, const learners *l, int k)
{
    l2l_attack a = attack_number(k, l);
    l2l_model *m = broken_model(c, b);
    l2l_real adv[IMAGES * D];
    l2l_record records[IMAGES];
    char first[300] = "", name[40];
    int batch;
    sprintf(name, "image %d, ", FIRST + (b->only < 0 ? 0 : b->only));
    for (batch = IMAGES; batch > 0; batch -= 2) {
        int before = test_complaints;
        a.batch = batch;
        b->times = 0;
        CHECK(!l2l_attack_run(m, &a, b->x, b->labels, IMAGES, adv, records));
        CHECK(b->times > 0);
        CHECK_CONTAINS(name, l2l_error_text(c));
        CHECK_CONTAINS(a.name, l2l_error_text(c));
        CHECK_CONTAINS(b->beyond < 0 && b->place != IN_GRADIENT ? "the clean image" : "step ",
                       l2l_error_text(c));
        CHECK_CONTAINS(b->place == IN_GRADIENT  ? "the gradient of pixel 5 is "
                       : b->place == IN_CLASS_2 ? "the logit of class 2 is "
                                                : "the logit of class 0 is ", l2l_error_text(c));
        CHECK_CONTAINS(b->value > 0 ? "is inf" : b->value < 0 ? "is -inf" : "is nan",
                       l2l_error_text(c));
        if (*first) CHECK_TEXT(first, l2l_error_text(c));
        sprintf(first, "%.299s", l2l_error_text(c));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "");
        if (test_complaints > before)
            printf("    %s (%d), value %g, place %d, beyond %g, batch %d\n", a.name, k, b->value,
                   b->place, b->beyond, batch);
        cases++;
    }
    l2l_model_free(m);
}

static void attacks_end(void)
{
    static const double beyond[] = {-1, 1e-5, 0.02};
    l2l_context *c = test_context(2);
    learners l = make_learners(c);
    broken b;
    int k, v, d, only;
    broken_fill(&b);
    cases = 0;
    for (k = 0; k < ATTACKS; k++)
        for (v = 0; v < COUNT(values); v++)
            for (b.place = 0; b.place < PLACES; b.place++)
                for (d = 0; d < COUNT(beyond); d++)
                    for (only = -1; only <= BAD; only += 1 + BAD) {
                        b.value = values[v];
                        b.beyond = k == 14 && d == 2 ? 1e-3 : beyond[d]; /* G is untrained */
                        b.only = only;
                        /* these go so far that others are nearer */
                        if (only >= 0 && (k == 16 || k == 17 || k == 19)) continue;
                        /* asks for no gradient, or not for one away from the clean image */
                        if (b.place == IN_GRADIENT &&
                            (k >= 18 || (d && (k == 0 || k == 16 || k == 17)))) continue;
                        check_attack(c, &b, &l, k);
                    }
    printf("%d attacks that ended\n", cases);
    free_learners(&l);
    l2l_context_free(c);
}

/* Evaluation, several attacks and transfer pass it on. */
static void users_of_attacks_end(void)
{
    l2l_context *c = test_context(1);
    broken b, sound;
    l2l_dataset d;
    l2l_model *m[2];
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_result r;
    l2l_attack a[2];
    l2l_record records[IMAGES];
    l2l_real adv[IMAGES * D];
    double accuracies[4];
    int v;
    broken_fill(&b);
    broken_fill(&sound);
    b.only = BAD;
    b.beyond = 0.01;
    a[0] = l2l_attack_fgsm(0);
    a[1] = l2l_attack_pgd(0.2);
    m[0] = broken_model(c, &b);
    m[1] = broken_model(c, &sound);
    l2l_dataset_from_arrays(c, b.x, b.labels, IMAGES, 1, SIDE, SIDE, CLASSES, &d);
    o.batch = 2;
    for (v = 0; v < COUNT(values); v++) {
        b.value = values[v];
        b.place = IN_CLASS_2;
        CHECK(!l2l_attack_worst(m[0], a, 2, b.x, b.labels, IMAGES, adv, records));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 2, step 0: the logit of class 2");
        CHECK(l2l_evaluation_begin(m[0], &d, &o, &e));
        CHECK(!l2l_evaluation_attack(&e, &a[1], &r, NULL, NULL));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 2, step 0: the logit of class 2");
        l2l_evaluation_end(&e);
        CHECK(!transfer_matrix(m, 2, &d, l2l_series_of(&a[1]), &o, NULL, accuracies));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 2");
        { /* only the other model's images reach where it breaks */
            l2l_model *swapped[2];
            swapped[0] = m[1];
            swapped[1] = m[0];
            CHECK(!transfer_matrix(swapped, 2, &d, l2l_series_of(&a[1]), &o, NULL, accuracies));
            CHECK_ERROR(c, L2L_ERROR_NUMERIC, "transfer_matrix: the logit of class 2 of image 2");
        }
        b.beyond = -1;
        CHECK(!l2l_evaluation_begin(m[0], &d, &o, &e));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 2, the clean image: the logit of class 2");
        b.beyond = 0.01;
    }
    l2l_model_free(m[0]);
    l2l_model_free(m[1]);
    l2l_dataset_free(&d);
    l2l_context_free(c);
}

/* An image that is fooled before its model breaks has been fooled. */
static void fooled_before(void)
{
    l2l_context *c = test_context(1);
    broken b;
    l2l_model *m;
    l2l_record records[IMAGES];
    l2l_real adv[IMAGES * D];
    l2l_attack a = l2l_attack_pgd(0.2);
    int i, k;
    broken_fill(&b);
    m = broken_model(c, &b);
    b.only = BAD;
    b.value = (double)NAN;
    b.beyond = 1e-6;
    b.labels[BAD] = 1; /* wrong as it is: the searches leave it */
    for (k = 0; k < 2; k++) {
        a = attack_number(k ? 18 : 15, NULL);
        a.batch = k ? IMAGES : 1;
        CHECK(l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        CHECK_OK(c);
        CHECK(records[BAD].success && records[BAD].step == 0);
    }
    a = l2l_attack_ifgsm(0.2);
    for (i = 0; i < 2; i++) { /* the others go on for ten steps, alone or in one batch with it */
        a.batch = i ? IMAGES : 1;
        CHECK(l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        CHECK_OK(c);
        CHECK(records[BAD].success && records[BAD].step == 0);
    }
    for (k = 0; k < 3; k++) { /* nor where it has to stay in the batch, and starts again */
        a = attack_number(k == 2 ? 3 : 12, NULL);
        a.maximizer.self = &b;
        a.restarts = 3;
        a.start = k ? L2L_START_CLEAN : L2L_START_UNIFORM;
        b.beyond = k ? 1e-6 : 0.1999;
        b.times = 0;
        CHECK(l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        CHECK_OK(c);
        CHECK(b.times > 0);
        CHECK(records[BAD].success && records[BAD].step == 0);
    }
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- own objectives and maximizers --------------------------------------------------------------- */

static double own_value;
static l2l_tensor *own_loss(l2l_context *c, l2l_tensor *z, l2l_tensor *clean, const int *labels,
                            void *user)
{
    l2l_tensor *L = l2l_cross_entropy(c, z, labels);
    int i;
    (void)clean;
    (void)user;
    for (i = 0; L && i < L->shape.n; i++)
        if (labels[i] == 2) L->data[i] = (l2l_real)own_value;
    return L;
}

static bool own_step(void *self, l2l_inner *in)
{
    int64_t i;
    (void)self;
    for (i = 0; i < l2l_count(in->shape); i++) in->delta->data[i] = (l2l_real)1e-3;
    for (i = 0; i < in->n && in->t == 1; i++)
        if (in->images[i] % IMAGES == (FIRST + BAD) % IMAGES)
            in->delta->data[i * D + 3] = (l2l_real)own_value;
    return true;
}

static void own_parts_end(void)
{
    l2l_context *c = test_context(1);
    learners l = make_learners(c);
    broken b;
    l2l_model *m;
    l2l_record records[IMAGES];
    l2l_real adv[IMAGES * D];
    l2l_attack a;
    int v;
    broken_fill(&b);
    b.labels[4] = 2;
    m = broken_model(c, &b);
    for (v = 0; v < COUNT(values); v++) {
        own_value = values[v];
        a = l2l_attack_pgd(0.2);
        a.first = FIRST;
        a.objective.loss = own_loss;
        CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 11, the clean image: the loss is ");
        a = l2l_attack_pgd(0.2);
        a.first = FIRST;
        a.maximizer.step = own_step;
        CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 9, step 1: the maximizer's step of pixel 3 is ");
        l2l_learned_parameters(l.phi)[490] = (l2l_real)own_value; /* the output's bias */
        a = l2l_attack_learned(l.phi, 0.2, 5);
        if (v == 0) { /* tanh makes +-1 of infinity */
            CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
            CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 0, step 0: the maximizer's step of pixel 0 is ");
        }
    }
    l2l_model_free(m);
    free_learners(&l);
    l2l_context_free(c);
}

/* A finite gradient whose square is not: Adam would stand still. */
static void gradients_beyond_adam(void)
{
    l2l_context *c = test_context(1);
    broken b;
    l2l_model *m;
    l2l_record records[IMAGES];
    l2l_real adv[IMAGES * D];
    l2l_attack a = l2l_attack_cw_l2lda(0.2);
    l2l_optimizer_options o = l2l_adam_default();
    int64_t size = 1;
    l2l_optimizer *adam = l2l_optimizer_create(c, &o, &size, 1);
    l2l_real value = 1, gradient = (l2l_real)(sizeof(l2l_real) == 4 ? 1e30 : 1e200);
    l2l_real *values_[1], *gradients[1];
    values_[0] = &value;
    gradients[0] = &gradient;
    CHECK(!l2l_optimizer_step(adam, values_, gradients, 1));
    CHECK_ERROR(c, L2L_ERROR_NUMERIC, sizeof(l2l_real) == 4 ? "too large for Adam" : "optimizer: ");
    CHECK_NEAR(1, value, 0);
    l2l_optimizer_free(adam);
    broken_fill(&b);
    b.place = IN_GRADIENT;
    b.beyond = -1;
    b.value = (double)gradient;
    m = broken_model(c, &b);
    CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
    CHECK_ERROR(c, L2L_ERROR_NUMERIC, "too large");
    a = l2l_attack_cw_l2(9);
    CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
    CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 0, step ");
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- own networks -------------------------------------------------------------------------------- */

/* z + 0 log(0.95 - x_0): not a number where the first pixel is above. */
static l2l_tensor *log_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *z = linear_forward(m, x, user), *h;
    h = l2l_sum_to(c, l2l_log(c, l2l_affine(c, x, -1, 0.95)), l2l_shape_of(x->shape.n, 1, 1, 1));
    return l2l_add(c, z, l2l_affine(c, h, 0, 0));
}
/* z + 0 sqrt(0 x): finite, but for its gradient. */
static l2l_tensor *root_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *z = linear_forward(m, x, user), *h;
    h = l2l_power(c, l2l_affine(c, x, 0, 0), 0.5);
    h = l2l_sum_to(c, h, l2l_shape_of(x->shape.n, 1, 1, 1));
    return l2l_add(c, z, l2l_affine(c, h, 0, 0));
}
/* ReLU and pooling let not-a-number through. */
static l2l_tensor *sign_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    return linear_forward(m, l2l_sign(l2l_model_context(m), x), user);
}

static void own_networks_end(void)
{
    l2l_context *c = test_context(1);
    learners l = make_learners(c);
    broken b;
    l2l_record records[IMAGES];
    l2l_real adv[IMAGES * D];
    int k, i;
    broken_fill(&b);
    for (i = 0; i < IMAGES; i++) b.x[i * D] = (l2l_real)0.949;
    for (k = 0; k < ATTACKS; k++) {
        static const double bound[] = {0.02, 0};
        l2l_attack a = attack_number(k, &l);
        l2l_model_options o = own_options("own", k % 2 ? log_forward : root_forward, 1, SIDE, CLASSES);
        l2l_model *m;
        l2l_real bias[CLASSES] = {4, 0, 0};
        if (k >= 18) o.forward = log_forward;
        m = l2l_model_create(c, &o);
        seed_parameters(m, 90, bound);
        l2l_parameter_set(m, 1, bias);
        CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        if (!CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 7, ")) printf("    %s (%d)\n", a.name, k);
        l2l_model_free(m);
    }
    for (k = 0; k < 2; k++) { /* one weight is not a number */
        static const double bound[] = {0.8, 0.2, 0.5, 0.2};
        l2l_model_options o = own_options("nan", k ? sign_forward : tiny_forward, 1, SIDE, CLASSES);
        l2l_attack a = l2l_attack_pgd(0.2);
        l2l_model *m = l2l_model_create(c, &o);
        int64_t n = l2l_count(l2l_model_parameter(m, 0).value->shape);
        l2l_real *w = test_array(n);
        seed_parameters(m, 90, bound);
        l2l_parameter_get(m, 0, w);
        w[1] = (l2l_real)NAN;
        l2l_parameter_set(m, 0, w);
        CHECK(!l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv, records));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "image 0, the clean image: the logit of class ");
        free(w);
        l2l_model_free(m);
    }
    {
        l2l_tensor *x = l2l_full(c, l2l_shape_of(1, 1, 1, 3), (double)NAN);
        CHECK(isnan((double)l2l_sign(c, x)->data[1]));
    }
    free_learners(&l);
    l2l_context_free(c);
}

/* -- losses and predictions ----------------------------------------------------------------------- */

static void losses_pass_it_on(void)
{
    l2l_context *c = test_context(1);
    int k, y, classes[2], label[2];
    for (k = 0; k < CLASSES; k++)
        for (y = 0; y < CLASSES; y++) {
            l2l_tensor *z = l2l_zeros(c, l2l_shape_of(2, 1, 1, CLASSES)), *p, *loss[4];
            int i;
            p = l2l_zeros(c, z->shape);
            z->data[CLASSES + k] = (l2l_real)NAN;
            label[0] = label[1] = y;
            loss[0] = l2l_cross_entropy(c, z, label);
            loss[1] = l2l_margin(c, z, label);
            loss[2] = l2l_kl_divergence(c, z, p);
            loss[3] = l2l_kl_divergence(c, p, z);
            for (i = 0; i < 4; i++) CHECK(isnan((double)loss[i]->data[1]) && !isnan((double)loss[i]->data[0]));
            CHECK(!l2l_predict(c, z, classes));
            CHECK_ERROR(c, L2L_ERROR_NUMERIC, "of row 1 is nan");
        }
    l2l_context_free(c);
}

/* -- subnormal numbers ----------------------------------------------------------------------------- */

/* With all weights scaled down the walks by sign, by g/|g| and the searches do the same. */
static void subnormal_is_ordinary(void)
{
    static const int same[] = {0, 1, 2, 5, 6, 12}; /* what they do knows no scale */
    l2l_context *c = test_context(1);
    learners l = make_learners(c);
    broken b;
    l2l_model *m;
    l2l_real adv[2][IMAGES * D];
    l2l_record records[2][IMAGES];
    int k, i, s;
    broken_fill(&b);
    m = broken_model(c, &b);
    for (k = 0; k < COUNT(same); k++) {
        l2l_attack a = attack_number(same[k], &l);
        a.objective = l2l_objective_margin();
        for (s = 0; s < 2; s++) {
            b.scale = s ? (sizeof(l2l_real) == 4 ? 1e-40 : 1e-310) : 1;
            CHECK(l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv[s], records[s]));
            CHECK_OK(c);
            for (i = 0; i < IMAGES; i++) CHECK_INT(0, records[s][i].zero_gradients);
        }
        for (i = 0; i < IMAGES * D; i++)
            if (!CHECK_NEAR(adv[0][i], adv[1][i], 1e-3)) break;
        if (test_complaints) printf("    %s\n", a.name);
    }
    for (k = 0; k < ATTACKS; k++) { /* the others: no error, and no gradient that counts as none */
        l2l_attack a = attack_number(k, &l);
        b.scale = 1e-40;
        CHECK(l2l_attack_run(m, &a, b.x, b.labels, IMAGES, adv[0], records[0]));
        if (!CHECK_OK(c)) printf("    %s\n", a.name);
    }
    l2l_model_free(m);
    free_learners(&l);
    l2l_context_free(c);
}

/* -- training --------------------------------------------------------------------------------------- */

/* The pass of number `at` through the network (0: the next one) has `value` at this row and class,
   or a gradient that is not a number there. */
typedef struct injection {
    int at, row, class_, passes;
    double value;
    bool gradient, off;
} injection;

static l2l_tensor *injected_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    injection *j = (injection *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *z = linear_forward(m, x, NULL), *noise;
    if (j->off || j->passes++ != j->at || !z || j->row >= x->shape.n) return z;
    noise = l2l_zeros(c, z->shape);
    if (j->gradient) {                       /* sqrt of 0 times x: 0, but for the slope           */
        l2l_tensor *h = l2l_sum_to(c, x, l2l_shape_of(x->shape.n, 1, 1, 1)), *zero;
        zero = l2l_full(c, h->shape, 1);
        zero->data[j->row] = 0;
        h = l2l_power(c, l2l_mul(c, h, zero), 0.5);
        return l2l_add(c, z, l2l_affine(c, h, 0, 0));
    }
    noise->data[j->row * CLASSES + j->class_] = (l2l_real)j->value;
    return l2l_add(c, z, noise);
}

static l2l_tensor *own_outer(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                             void *user)
{
    l2l_context *c = l2l_model_context(m);
    (void)x;
    (void)user;
    return l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), labels));
}

enum { METHODS = 11 };
static l2l_method method_number(int k, learners *l)
{
    l2l_method m = l2l_method_plain();
    switch (k) {
    case 0: break;
    case 1: m = l2l_method_advtrain(); break;
    case 2: m = l2l_method_advtrain_bls(); break;
    case 3: m = l2l_method_trades(6); break;
    case 4: case 5: m = l2l_method_rnn_adv(l->phi); break; /* 5: second order */
    case 6: m = l2l_method_rnn_trades(l->phi, 6); break;
    case 7: m = l2lda_method(l->g); break;
    case 8:
        m = l2l_method_advtrain();
        m.outer.loss = own_outer;
        m.outer.is_objective = false;
        break;
    case 9:
        m = l2l_method_advtrain();
        m.objective = l2l_objective_margin();
        break;
    default:
        m = l2l_method_rnn_adv(l->phi);
        m.objective = l2l_objective_margin();
        break;
    }
    return m;
}

/* One good step, then one with the injection; false when it came after all passes of that step. */
static bool check_training(int k, injection *j, int micro)
{
    l2l_context *c = test_context(1);
    learners l = make_learners(c);
    broken b;
    l2l_model_options o = own_options("own", injected_forward, 1, SIDE, CLASSES);
    l2l_train_options t = l2l_train_default();
    l2l_trainer *trainer;
    l2l_dataset d;
    l2l_model *m;
    l2l_progress p;
    l2l_real *before = NULL, *after;
    int64_t n, i;
    int reached, complaints = test_complaints;
    broken_fill(&b);
    o.user = j;
    j->off = true;
    if (k == 5) {
        l2l_learned_options second = l2l_learned_default();
        second.second_order = true;
        second.input = L2L_INPUT_L1;
        l2l_learned_free(l.phi);
        l.phi = l2l_learned_create(c, &second);
    }
    m = l2l_model_create(c, &o);
    for (i = 0; i < IMAGES; i++) b.labels[i] = (int)i % CLASSES;
    l2l_dataset_from_arrays(c, b.x, b.labels, IMAGES, 1, SIDE, SIDE, CLASSES, &d);
    t.method = method_number(k, &l);
    t.T = 2;
    t.epsilon_warm_up = 0;
    t.micro_batch = micro;
    trainer = l2l_trainer_create(m, &d, &t);
    CHECK_OK(c);
    before = all_parameters(m, &n);
    CHECK(l2l_train_step(trainer, b.x, b.labels, IMAGES, &p));
    j->off = false;
    j->passes = 0;
    l2l_train_step(trainer, b.x, b.labels, IMAGES, &p);
    reached = j->passes > j->at;
    if (reached) {
        cases++;
        CHECK_CONTAINS("step 1", l2l_error_text(c));
        if (!j->gradient) { /* of that the outer loss has theta's, of all images at once */
            CHECK(strstr(l2l_error_text(c), "image 1,") ||
                  (micro && strstr(l2l_error_text(c), "image 4,")));
            CHECK_CONTAINS("the logit of class ", l2l_error_text(c));
        }
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "not finite");
        after = all_parameters(m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof *before);
        free(after);
        for (i = 0; i < l2l_learned_size(l.phi); i++)
            CHECK(isfinite((double)l2l_learned_parameters(l.phi)[i]));
        j->off = true;
        CHECK(l2l_train_step(trainer, b.x, b.labels, IMAGES, &p)); /* it stays usable */
    }
    CHECK_OK(c);
    if (test_complaints > complaints)
        printf("    method %d, pass %d, value %g, class %d, gradient %d, parts of %d\n", k, j->at,
               j->value, j->class_, j->gradient, micro);
    free(before);
    l2l_trainer_free(trainer);
    l2l_model_free(m);
    l2l_dataset_free(&d);
    free_learners(&l);
    l2l_context_free(c);
    return reached != 0;
}

static void training_ends(void)
{
    int k, v, micro;
    cases = 0;
    for (k = 0; k < METHODS; k++)
        for (micro = 0; micro <= 3; micro += 3)
            for (v = 0; v < COUNT(values); v++) {
                injection j = {0, 1, 0, 0, 0, false, true};
                j.value = values[v];
                for (j.class_ = 0; j.class_ < CLASSES; j.class_ += 2)
                    for (j.at = 0; check_training(k, &j, micro); j.at++) {}
            }
    printf("%d trainings that ended\n", cases);
}

/* Held-out images, after the only step: the parameters go back to before it. */
static void validation_ends(void)
{
    int v;
    for (v = 0; v < COUNT(values); v++) {
        injection j = {1, 1, 2, 0, 0, false, true};
        l2l_context *c = test_context(1);
        broken b;
        l2l_model_options o = own_options("own", injected_forward, 1, SIDE, CLASSES);
        l2l_train_options t = l2l_train_default();
        l2l_trainer *trainer;
        l2l_dataset d;
        l2l_model *m;
        l2l_real *before, *after;
        int64_t n;
        broken_fill(&b);
        o.user = &j;
        m = l2l_model_create(c, &o);
        l2l_dataset_from_arrays(c, b.x, b.labels, IMAGES, 1, SIDE, SIDE, CLASSES, &d);
        t.method = l2l_method_plain();
        t.epochs = 1;
        t.validation = 2;
        trainer = l2l_trainer_create(m, &d, &t);
        before = all_parameters(m, &n);
        j.off = false;
        j.passes = 0;
        j.value = values[v];
        CHECK(!l2l_train(trainer));
        CHECK_CONTAINS("the logit of class 2 is ", l2l_error_text(c));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "training, validation after step 1, attack pgd: image 1, ");
        after = all_parameters(m, &n);
        CHECK_BYTES(before, after, (size_t)n * sizeof *before);
        free(before);
        free(after);
        l2l_trainer_free(trainer);
        l2l_model_free(m);
        l2l_dataset_free(&d);
        l2l_context_free(c);
    }
}

/* The custom maximizer's step, the objective's loss, and gradients alone. */
static void training_ends_in_parts(void)
{
    int k, v;
    for (v = 0; v < COUNT(values); v++)
        for (k = 0; k < 2; k++) {
            l2l_context *c = test_context(1);
            broken b;
            l2l_model_options o = own_options("own", linear_forward, 1, SIDE, CLASSES);
            l2l_train_options t = l2l_train_default();
            l2l_trainer *trainer;
            l2l_dataset d;
            l2l_model *m = l2l_model_create(c, &o);
            l2l_progress p;
            broken_fill(&b);
            b.labels[4] = 2;
            own_value = values[v];
            l2l_dataset_from_arrays(c, b.x, b.labels, IMAGES, 1, SIDE, SIDE, CLASSES, &d);
            if (k) t.method.objective.loss = own_loss;
            else t.method.maximizer.step = own_step;
            trainer = l2l_trainer_create(m, &d, &t);
            CHECK(!l2l_train_step(trainer, b.x, b.labels, IMAGES, &p));
            CHECK_ERROR(c, L2L_ERROR_NUMERIC,
                        k ? "training, step 0, image 4, step 0: the loss is "
                          : "training, step 0, image 4, step 1: the maximizer's step of pixel 3 is ");
            l2l_trainer_free(trainer);
            l2l_model_free(m);
            l2l_dataset_free(&d);
            l2l_context_free(c);
        }
    for (k = 1; k < METHODS; k++) { /* g_0, behind the clean logits if they are asked for */
        injection j = {0, 1, 0, 0, 0, true, true};
        if (k == 3 || k == 6) j.at = 1;
        CHECK(check_training(k, &j, 0));
    }
}

/* -- searches without a gradient -------------------------------------------------------------------- */

static unsigned warnings(broken *b, const l2l_attack *a, char *text, size_t size, l2l_result *r,
                         l2l_record *records, l2l_real *adv)
{
    l2l_context *c = test_context(1);
    l2l_model *m = broken_model(c, b);
    l2l_dataset d;
    l2l_evaluation e;
    l2l_evaluation_options o = l2l_evaluation_default();
    unsigned flags = ~0u;
    l2l_dataset_from_arrays(c, b->x, b->labels, IMAGES, 1, SIDE, SIDE, CLASSES, &d);
    if (CHECK(l2l_evaluation_begin(m, &d, &o, &e))) {
        CHECK(l2l_evaluation_attack(&e, a, r, records, adv));
        flags = l2l_evaluation_warnings(&e, text, size);
        l2l_evaluation_end(&e);
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_dataset_free(&d);
    l2l_context_free(c);
    return flags;
}

static bool step_logits(void *user, const l2l_real *x, int n, l2l_real *z)
{
    int i, k;
    (void)user;
    for (i = 0; i < n; i++)
        for (k = 0; k < CLASSES; k++) z[i * CLASSES + k] = (l2l_real)(k == 0 ? x[i * D] < 2 : 0);
    return true;
}
static bool no_vjp(void *user, const l2l_real *x, int n, const l2l_real *dz, l2l_real *dx)
{
    (void)user;
    (void)x;
    (void)dz;
    memset(dx, 0, (size_t)n * D * sizeof *dx);
    return true;
}

static void searches_without_gradient(void)
{
    static const int which[] = {8, 15, 16, 17, 2, 5};
    int k;
    for (k = 0; k < COUNT(which); k++) {
        l2l_attack a = attack_number(which[k], NULL);
        l2l_external e = {1, SIDE, SIDE, CLASSES, NULL, step_logits, no_vjp};
        l2l_context *c = test_context(1);
        l2l_model *m = l2l_model_external(c, &e);
        l2l_dataset d;
        l2l_evaluation ev;
        l2l_evaluation_options o = l2l_evaluation_default();
        l2l_result r;
        broken b;
        char text[1000];
        broken_fill(&b);
        a.first = 0;
        l2l_dataset_from_arrays(c, b.x, b.labels, IMAGES, 1, SIDE, SIDE, CLASSES, &d);
        CHECK(l2l_evaluation_begin(m, &d, &o, &ev));
        CHECK(l2l_evaluation_attack(&ev, &a, &r, NULL, NULL));
        CHECK(l2l_evaluation_warnings(&ev, text, sizeof text) & L2L_WARN_ZERO_GRADIENTS);
        CHECK_CONTAINS("zero-gradients: 100 % of the ", text);
        CHECK_CONTAINS(a.name, text);
        l2l_evaluation_end(&ev);
        l2l_model_free(m);
        l2l_dataset_free(&d);
        l2l_context_free(c);
        { /* a sound model, at distances that fool all, some or none, wrong at first or not */
            int s;
            for (s = 0; s < 4; s++) {
                l2l_record records[IMAGES];
                broken_fill(&b);
                b.scale = s == 3 ? 1e-3 : 1;
                if (s == 2) b.labels[1] = b.labels[3] = 1;
                if (!(a.search)) a.epsilon = s ? 1 : 0.05;
                CHECK_INT(0, warnings(&b, &a, text, sizeof text, &r, records, NULL) &
                                 L2L_WARN_ZERO_GRADIENTS);
            }
        }
    }
}

/* -- targets that are the label ------------------------------------------------------------------------ */

static void own_targets(void)
{
    static const int which[] = {1, 2, 5, 7, 8, 11, 12, 15, 18, 19};
    int k, i, j;
    for (k = 0; k < COUNT(which); k++) {
        int targets[IMAGES] = {1, 0, 1, 1, 2}, hits = 0, right = 0, complaints = test_complaints;
        l2l_attack a = attack_number(which[k], NULL);
        l2l_real adv[IMAGES * D];
        l2l_record records[IMAGES];
        l2l_result r;
        broken b;
        char text[1000];
        broken_fill(&b);
        b.labels[3] = 1; /* predicted 0: wrong, and its target is its label */
        b.scale = 3;
        a.epsilon = a.search && a.norm == L2L_L2 ? 9 : 1;
        if (a.norm == L2L_L2 && !a.search) a.epsilon = 3;
        a.targets = targets;
        CHECK_INT(L2L_WARN_TARGETS, warnings(&b, &a, text, sizeof text, &r, records, adv));
        CHECK_CONTAINS("targets: 2 of the images have their own label for a target of ", text);
        for (i = 0; i < IMAGES; i++) {
            const l2l_record *q = &records[i];
            bool own = targets[i] == b.labels[i];
            if (own) {
                CHECK(!q->success && q->predicted == q->clean && q->step == 0);
                CHECK_NEAR(0, q->linf + q->l2, 0);
                CHECK_BYTES(b.x + i * D, adv + i * D, D * sizeof(l2l_real));
            } else CHECK_INT(q->predicted == targets[i], q->success);
            hits += q->success && q->clean == q->label;
            right += q->predicted == q->label;
        }
        CHECK_NEAR(hits / 3.0, r.success, 1e-12); /* of 4 right at first one was left alone */
        CHECK_NEAR(right / (double)IMAGES, r.accuracy, 1e-12);
        for (i = 0; i < IMAGES; i++) targets[i] = 2 - (i % 2) * (b.labels[i] != 1); /* none */
        for (j = 0; j < IMAGES; j++) CHECK(targets[j] != b.labels[j]);
        CHECK_INT(0, warnings(&b, &a, text, sizeof text, &r, records, adv) & L2L_WARN_TARGETS);
        if (test_complaints > complaints) printf("    %s (%d)\n", a.name, which[k]);
    }
}

/* -- a gradient of theta that is refused ---------------------------------------------------------- */

typedef struct refused {
    int calls, at; /* the pass of the outer loss that is spoiled */
    bool nan;
} refused;

/* Cross-entropy; once its gradient is beyond what Adam can square (in double: whose square is not
   finite), or not a number. */
static l2l_tensor *refused_loss(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                void *user)
{
    l2l_context *c = l2l_model_context(m);
    refused *r = (refused *)user;
    l2l_tensor *loss = l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), labels));
    (void)x;
    if (r->calls++ != r->at) return loss;
    if (!r->nan) return l2l_affine(c, loss, sizeof(l2l_real) == 4 ? 1e25 : 1e160, 0);
    return l2l_add(c, loss, l2l_power(c, l2l_affine(c, loss, 0, 0), 0.5)); /* + sqrt(0) */
}

/* A finite gradient that Adam refuses leaves theta as it is; for one that is not finite the step
   before is to blame, and theta is again as that found it. The whole batch at once or in parts. */
static void gradients_refused(void)
{
    int k, micro, i;
    for (k = 0; k < 2; k++)
        for (micro = 0; micro < 3; micro++) {
            static const double bound[] = {0.5, 0.2};
            l2l_context *c = test_context(2);
            l2l_model_options mo = own_options("refused", linear_forward, 1, SIDE, CLASSES);
            l2l_model *m = l2l_model_create(c, &mo), *before = NULL;
            bool finite = k == 0 && sizeof(l2l_real) == 4;
            l2l_train_options o = l2l_train_default();
            l2l_progress p;
            l2l_trainer *t;
            broken b;
            refused r;
            seed_parameters(m, 90, bound);
            broken_fill(&b);
            memset(&r, 0, sizeof r);
            o.method = l2l_method_plain();
            o.method.outer.loss = refused_loss;
            o.method.outer.user = &r;
            o.optimizer = l2l_adam_default();
            o.steps = 9;
            o.T = 0;
            o.micro_batch = micro;
            r.nan = k == 1;
            r.at = 3 * (micro ? (IMAGES + micro - 1) / micro : 1) + (micro == 1);
            t = l2l_trainer_create(m, NULL, &o);
            for (i = 0; i < 3; i++) {
                if (i == 2 && !finite) before = l2l_model_clone(c, m);
                CHECK(l2l_train_step(t, b.x, b.labels, IMAGES, &p));
            }
            if (finite) before = l2l_model_clone(c, m);
            CHECK(!l2l_train_step(t, b.x, b.labels, IMAGES, &p));
            CHECK_ERROR(c, L2L_ERROR_NUMERIC, finite ? "too large for Adam"
                                                     : "the gradient of the outer loss is not finite");
            for (i = 0; i < l2l_model_parameters(m); i++) {
                const l2l_tensor *a = l2l_model_parameter(before, i).value;
                CHECK_BYTES(a->data, l2l_model_parameter(m, i).value->data,
                            (size_t)l2l_count(a->shape) * sizeof(l2l_real));
            }
            CHECK(l2l_train_step(t, b.x, b.labels, IMAGES, &p)); /* and it goes on */
            CHECK_OK(c);
            l2l_model_free(before);
            l2l_trainer_free(t);
            l2l_model_free(m);
            l2l_context_free(c);
        }
}

HELPER void run_not_finite(void)
{
    RUN(attacks_end, "what is not finite ends every attack, named with image, step and class, the "
                     "same for any batch");
    RUN(users_of_attacks_end, "it ends worst cases, evaluations and transfer");
    RUN(fooled_before, "an image that was fooled before is fooled");
    RUN(own_parts_end, "own objectives, maximizers and phi that are not finite end an attack");
    RUN(gradients_beyond_adam, "gradients whose squares are infinite are refused by Adam");
    RUN(own_networks_end, "own networks that are not finite end an attack");
    RUN(losses_pass_it_on, "losses pass NaN on, predictions of NaN are errors");
    RUN(subnormal_is_ordinary, "subnormal gradients and logits are like others");
    RUN(training_ends, "what is not finite in any pass ends every training, with the parameters of "
                       "the last good step");
    RUN(gradients_refused, "a gradient of theta that is refused changes no good theta");
    RUN(validation_ends, "so does what is not finite in validation");
    RUN(training_ends_in_parts, "steps, losses and gradients that are not finite end a training");
    RUN(searches_without_gradient, "searches without any gradient are warned of, sound ones not");
    RUN(own_targets, "images whose target is their label are left alone, told of and no success");
}

#endif
