/* external_model.c - attacks a model that the library knows nothing of: here a logistic regression
 * in plain C; it could as well live in another framework, on an accelerator or behind a network.
 * The library sees two functions: logits, and the vector-Jacobian product (VJP) for attacks that
 * follow the gradient. Without the second there are Square, by the logits alone, and Sign-OPT, which
 * looks at nothing but which of them is the largest.
 *
 *   examples/bin/external_model [folder of the digits] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../l2ladv.h"
#include "autoattack.h"

enum { SIDE = 28, PIXELS = SIDE * SIDE, CLASSES = 10, TRAIN = 2000, TEST = 500 };

/* ---- a model of one's own ---- */

typedef struct {
    double weight[CLASSES][PIXELS], bias[CLASSES];
} regression;

static void scores(const regression *r, const l2l_real *x, double z[CLASSES])
{
    int k, i;
    for (k = 0; k < CLASSES; k++) {
        z[k] = r->bias[k];
        for (i = 0; i < PIXELS; i++) z[k] += r->weight[k][i] * (double)x[i];
    }
}

/* A step of stochastic gradient descent on the cross-entropy of one image. */
static void learn(regression *r, const l2l_real *x, int label, double rate)
{
    double z[CLASSES], largest, sum = 0;
    int k, i;
    scores(r, x, z);
    for (k = 1, largest = z[0]; k < CLASSES; k++) largest = fmax(largest, z[k]);
    for (k = 0; k < CLASSES; k++) sum += z[k] = exp(z[k] - largest);
    for (k = 0; k < CLASSES; k++) {
        double d = z[k] / sum - (k == label);
        for (i = 0; i < PIXELS; i++) r->weight[k][i] -= rate * d * (double)x[i];
        r->bias[k] -= rate * d;
    }
}

/* ---- what the library sees ---- */

/* n images, N×C×H×W in [0,1], to n×classes logits. Returning false cancels the attack. */
static bool logits(void *user, const l2l_real *x, int n, l2l_real *out)
{
    double z[CLASSES];
    int j, k;
    for (j = 0; j < n; j++) {
        scores((const regression *)user, x + (size_t)j * PIXELS, z);
        for (k = 0; k < CLASSES; k++) out[j * CLASSES + k] = (l2l_real)z[k];
    }
    return true;
}

/* dx = dlogits · d logits / dx, for each image. A linear model does not need x for that. */
static bool vjp(void *user, const l2l_real *x, int n, const l2l_real *dlogits, l2l_real *dx)
{
    const regression *r = (const regression *)user;
    int j, k, i;
    (void)x;
    for (j = 0; j < n; j++)
        for (i = 0; i < PIXELS; i++) {
            double sum = 0;
            for (k = 0; k < CLASSES; k++) sum += (double)dlogits[j * CLASSES + k] * r->weight[k][i];
            dx[(size_t)j * PIXELS + (size_t)i] = (l2l_real)sum;
        }
    return true;
}

/* ---- the attacks ---- */

static l2l_real train_images[TRAIN * PIXELS], test_images[TEST * PIXELS], attacked[TEST * PIXELS];
static int train_labels[TRAIN], test_labels[TEST];

static void attack(l2l_model *m, const l2l_attack *a, int n)
{
    static l2l_record records[TEST];
    double linf = 0, l2 = 0, passes = 0;
    int right = 0, j;
    if (!l2l_attack_run(m, a, test_images, test_labels, n, attacked, records)) return;
    for (j = 0; j < n; j++) {
        right += !records[j].success;
        linf += records[j].linf / n;
        l2 += records[j].l2 / n;
        passes += (double)(records[j].forwards + records[j].backwards) / n;
    }
    printf("%-8s accuracy %5.1f %%, mean perturbation %.3f (l2 %.2f), %6.1f passes per image\n",
           a->name, 100.0 * right / n, linf, l2, passes);
}

static void natural(l2l_model *m)
{
    static l2l_real z[TEST * CLASSES];
    int right = 0, best, j, k;
    if (!l2l_model_logits(m, test_images, TEST, z)) return;
    for (j = 0; j < TEST; j++) {
        for (k = 1, best = 0; k < CLASSES; k++)
            if (z[j * CLASSES + k] > z[j * CLASSES + best]) best = k;
        right += best == test_labels[j];
    }
    printf("natural  accuracy %5.1f %%\n", 100.0 * right / TEST);
}

static void die(l2l_context *c)
{
    fprintf(stderr, "%s\n", l2l_error_text(c));
    exit(1);
}

static void read_digits(l2l_context *c, const char *folder, const char *part, int n, l2l_real *x,
                        int *y)
{
    char images[512], labels[512];
    l2l_dataset d;
    snprintf(images, sizeof images, "%s/%s-images-idx3-ubyte", folder, part);
    snprintf(labels, sizeof labels, "%s/%s-labels-idx1-ubyte", folder, part);
    if (!l2l_dataset_idx(c, images, labels, CLASSES, &d)) die(c);
    if (d.height != SIDE || d.width != SIDE) { /* x has room for no others */
        fprintf(stderr, "%s: images of %dx%d, expected %dx%d\n", images, d.height, d.width, SIDE,
                SIDE);
        exit(1);
    }
    if (!l2l_dataset_read(&d, 0, n, x, y)) die(c);
    l2l_dataset_free(&d);
}

int main(int argc, char **argv)
{
    static regression r;
    const char *folder = argc > 1 ? argv[1] : "examples/data";
    l2l_options options = l2l_options_default();
    const l2l_external with_vjp = {1, SIDE, SIDE, CLASSES, &r, logits, vjp};
    const l2l_external without = {1, SIDE, SIDE, CLASSES, &r, logits, NULL};
    l2l_attack fgsm = l2l_attack_fgsm(0.05), pgd = l2l_attack_pgd(0.05);
    l2l_attack square = l2l_attack_square(0.05), sign_opt = l2l_attack_sign_opt(0.5);
    l2l_context *c = l2l_context_create(&options);
    l2l_model *m;
    int epoch, j;

    square.steps = 500;   /* a tenth of the default, for the time it takes */
    sign_opt.steps = 2000;
    read_digits(c, folder, "train", TRAIN, train_images, train_labels);
    read_digits(c, folder, "t10k", TEST, test_images, test_labels);
    for (epoch = 0; epoch < 10; epoch++)
        for (j = 0; j < TRAIN; j++)
            learn(&r, train_images + (size_t)j * PIXELS, train_labels[j], 0.02);

    printf("logits and VJP, epsilon %g:\n", pgd.epsilon);
    m = l2l_model_external(c, &with_vjp);
    natural(m);
    attack(m, &fgsm, TEST);
    attack(m, &pgd, TEST);
    if (l2l_error(c)) die(c);
    l2l_model_free(m);

    printf("\nlogits only, epsilon %g, for sign-opt %g in l2 (50 images):\n", square.epsilon,
           sign_opt.epsilon);
    m = l2l_model_external(c, &without);
    natural(m);
    attack(m, &square, TEST);
    attack(m, &sign_opt, 50);
    if (l2l_error(c)) die(c);
    attack(m, &pgd, TEST);
    printf("pgd      %s: %s\n", l2l_status_name(l2l_error(c)), l2l_error_text(c));
    l2l_error_clear(c);

    l2l_model_free(m);
    l2l_context_free(c);
    return 0;
}
