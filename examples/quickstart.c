/* quickstart.c - trains a small classifier against a learned attacker, and attacks it.
 *
 *   cc -O2 -fopenmp examples/quickstart.c -o quickstart -lm && ./quickstart
 *
 * The argument is the folder of the digits; without one it is examples/data. */
#include <stdio.h>
#include <string.h>

#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"

static bool open_digits(l2l_context *c, const char *folder, const char *part, l2l_dataset *d)
{
    char images[512], labels[512];
    snprintf(images, sizeof images, "%s/%s-images-idx3-ubyte", folder, part);
    snprintf(labels, sizeof labels, "%s/%s-labels-idx1-ubyte", folder, part);
    return l2l_dataset_idx(c, images, labels, 10, d);
}

static bool show(void *user, const l2l_progress *p)
{
    (void)user;
    if (p->epoch_ended)
        printf("epoch %d of %d: loss %.3f\n", p->epoch + 1, p->epochs, p->epoch_loss);
    return true;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "examples/data";
    l2l_options options = l2l_options_default();
    l2l_context *c = l2l_context_create(&options);

    /* 2,000 digits to train on, 500 to test with. */
    l2l_dataset digits, test;
    open_digits(c, folder, "train", &digits);
    open_digits(c, folder, "t10k", &test);

    /* The classifier f_theta and the learned maximizer m_phi. */
    l2l_model_options cnn = l2l_model_default("smallcnn");
    cnn.width_multiplier = 0.5;
    l2l_model *model = l2l_model_create(c, &cnn);
    l2l_learned_options lstm = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &lstm);

    /* Algorithm 1: both are trained at once. */
    l2l_train_options train = l2l_train_default();
    train.method = l2l_method_rnn_adv(phi);
    train.epochs = 6;
    train.batch = 32;
    train.epsilon = 0.3;
    train.optimizer.rate = 2e-3;
    train.progress = show;
    l2l_trainer *trainer = l2l_trainer_create(model, &digits, &train);
    l2l_train(trainer);

    /* How many of the test digits are right, and how many still are under PGD. */
    l2l_attack pgd = l2l_attack_pgd(0.3);
    double natural = l2l_accuracy(model, &test, 0, NULL);
    double robust = l2l_accuracy(model, &test, 0, &pgd);

    /* Errors are sticky: one look at the end is enough. */
    if (l2l_error(c) != L2L_OK) {
        fprintf(stderr, "%s\n", l2l_error_text(c));
        return 1;
    }
    printf("natural %.1f %%, PGD-10 %.1f %%\n", 100 * natural, 100 * robust);

    l2l_trainer_free(trainer);
    l2l_learned_free(phi);
    l2l_model_free(model);
    l2l_dataset_free(&test);
    l2l_dataset_free(&digits);
    l2l_context_free(c);
    return ferror(stdout) || fclose(stdout); /* a full disk, a reader that is gone */
}
