/* custom_network.c - adversarial training with parts of one's own: a network, what the attacker
 * maximizes, and what the classifier minimizes.
 *
 *   cc -O2 -fopenmp examples/custom_network.c -o custom_network -lm && ./custom_network
 *
 * The argument is the folder of the digits; without one it is examples/data. */
#include <stdio.h>
#include <string.h>

#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"

/* A network is one function. Layers have a name, and parameters under it; all else is operations
 * on tensors. It can be differentiated as it stands, any number of times. */
static l2l_tensor *forward(l2l_model *m, l2l_tensor *x, void *user)
{
    const double *slope = (const double *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *y, *gate;
    x = l2l_layer_conv(m, "stem", x, 16, 3, 1, 1, L2L_RELU | L2L_POOL); /* N×14×14×16 */

    /* a residual block, whose channels are weighted by a gate (Hu et al., CVPR 2018); nothing is
     * pooled in it, and saying so is faster */
    y = l2l_layer_conv(m, "block.conv1", x, 16, 3, 1, 1, L2L_RELU | L2L_UNPOOLED);
    y = l2l_layer_conv(m, "block.conv2", y, 16, 3, 1, 1, L2L_UNPOOLED);
    gate = l2l_layer_linear(m, "block.gate", l2l_global_average_pool(c, y), 16, 0); /* N×1×1×16 */
    y = l2l_mul(c, y, l2l_sigmoid(c, gate));
    x = l2l_leaky_relu(c, l2l_add(c, x, y), *slope);

    x = l2l_layer_conv(m, "wide", x, 32, 3, 1, 1, L2L_RELU | L2L_POOL); /* N×7×7×32 */
    x = l2l_layer_linear(m, "fc1", x, 64, L2L_RELU);
    return l2l_layer_linear(m, "fc2", x, 10, L2L_LAST);
}

/* The inner objective, for each image: cross-entropy plus half of Carlini and Wagner's margin. */
static l2l_tensor *inner(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean_logits,
                         const int *labels, void *user)
{
    l2l_tensor *margin = l2l_margin(c, logits, labels);
    (void)clean_logits;
    (void)user;
    return l2l_add(c, l2l_cross_entropy(c, logits, labels), l2l_affine(c, margin, 0.5, 0));
}

/* The outer loss: clean and attacked images count alike (Goodfellow et al., ICLR 2015). */
static l2l_tensor *outer(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                         void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *clean = l2l_cross_entropy(c, l2l_model_forward(m, x, L2L_TRAIN), labels);
    l2l_tensor *robust = l2l_cross_entropy(c, l2l_model_forward(m, adv, L2L_TRAIN), labels);
    (void)user;
    return l2l_affine(c, l2l_add(c, l2l_mean(c, clean), l2l_mean(c, robust)), 0.5, 0);
}

static bool show(void *user, const l2l_progress *p)
{
    (void)user;
    if (p->epoch_ended)
        printf("epoch %d of %d: loss %.3f\n", p->epoch + 1, p->epochs, p->epoch_loss);
    return true;
}

static bool open_digits(l2l_context *c, const char *folder, const char *part, l2l_dataset *d)
{
    char images[512], labels[512];
    snprintf(images, sizeof images, "%s/%s-images-idx3-ubyte", folder, part);
    snprintf(labels, sizeof labels, "%s/%s-labels-idx1-ubyte", folder, part);
    return l2l_dataset_idx(c, images, labels, 10, d);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "examples/data";
    l2l_options options = l2l_options_default();
    l2l_context *c = l2l_context_create(&options);
    l2l_dataset digits, test;
    l2l_model_options network = l2l_model_default("gated residual network");
    l2l_learned_options lstm = l2l_learned_default();
    l2l_train_options train = l2l_train_default();
    l2l_attack pgd = l2l_attack_pgd(0.2);
    double slope = 0.1;
    char summary[2048];

    open_digits(c, folder, "train", &digits);
    open_digits(c, folder, "t10k", &test);

    network.forward = forward;
    network.user = &slope;
    network.channels = 1;
    network.height = network.width = 28;
    network.classes = 10;
    l2l_model *model = l2l_model_create(c, &network);
    l2l_learned *phi = l2l_learned_create(c, &lstm);
    if (model) {
        l2l_model_summary(model, summary, sizeof summary);
        printf("%s\n", summary);
    }

    /* The paper's method with two of its three parts exchanged. */
    train.method = l2l_method_rnn_adv(phi);
    train.method.name = "mine";
    train.method.objective.name = "cross-entropy and margin";
    train.method.objective.loss = inner;
    train.method.outer.name = "clean and attacked";
    train.method.outer.loss = outer;
    train.epochs = 5;
    train.batch = 32;
    train.epsilon = 0.2;
    train.optimizer.rate = 2e-3;
    train.progress = show;
    l2l_trainer *trainer = l2l_trainer_create(model, &digits, &train);
    l2l_train(trainer);

    /* An attack takes an objective of one's own, too. */
    pgd.objective = train.method.objective;
    double natural = l2l_accuracy(model, &test, 0, NULL);
    double attacked = l2l_accuracy(model, &test, 0, &pgd);
    if (l2l_error(c) != L2L_OK) {
        fprintf(stderr, "%s\n", l2l_error_text(c));
        return 1;
    }
    printf("natural %.1f %%, attacked %.1f %%\n", 100 * natural, 100 * attacked);

    l2l_trainer_free(trainer);
    l2l_learned_free(phi);
    l2l_model_free(model);
    l2l_dataset_free(&test);
    l2l_dataset_free(&digits);
    l2l_context_free(c);
    return ferror(stdout) || fclose(stdout); /* a full disk, a reader that is gone */
}
