/* attack_arrays.c - loads a classifier and attacks images that lie in an array of the program.
 *
 *   examples/bin/train --epochs 3 --save model.safetensors
 *   examples/bin/attack_arrays model.safetensors [folder of the digits] */
#include <stdio.h>

#include "../l2ladv.h"

enum { N = 100 };
static l2l_real images[N * 28 * 28], adversarial[N * 28 * 28]; /* N×C×H×W in [0,1] */
static int labels[N];
static l2l_record records[N];

/* Any numbers in [0,1] will do; here they are the first test digits. */
static void fill_arrays(l2l_context *c, const char *folder)
{
    char x[512], y[512], text[600];
    l2l_dataset digits;
    snprintf(x, sizeof x, "%s/t10k-images-idx3-ubyte", folder);
    snprintf(y, sizeof y, "%s/t10k-labels-idx1-ubyte", folder);
    if (!l2l_dataset_idx(c, x, y, 10, &digits)) return;
    if (digits.height != 28 || digits.width != 28) { /* the array has room for no others */
        snprintf(text, sizeof text, "%s: images of %dx%d, expected 28x28", x, digits.height,
                 digits.width);
        l2l_error_set(c, L2L_ERROR_SHAPE, text);
    }
    l2l_dataset_read(&digits, 0, N, images, labels);
    l2l_dataset_free(&digits);
}

int main(int argc, char **argv)
{
    l2l_options options = l2l_options_default();
    l2l_context *c = l2l_context_create(&options);
    l2l_model *model = l2l_model_open(c, argc > 1 ? argv[1] : "model.safetensors");
    const l2l_model_options *info = l2l_model_info(model);
    l2l_attack pgd = l2l_attack_pgd(0.3);
    int i, natural = 0, robust = 0;

    if (info && (info->channels != 1 || info->height != 28 || info->width != 28))
        l2l_error_set(c, L2L_ERROR_SHAPE, "the model is not one for images of 1x28x28");
    fill_arrays(c, argc > 2 ? argv[2] : "examples/data");
    pgd.steps = 20;
    l2l_attack_run(model, &pgd, images, labels, N, adversarial, records);
    if (l2l_error(c) != L2L_OK) { /* errors are sticky: one look at the end is enough */
        fprintf(stderr, "%s\n", l2l_error_text(c));
        return 1;
    }
    for (i = 0; i < N; i++) {
        natural += records[i].clean == labels[i];
        robust += !records[i].success;
    }
    printf("%d of %d images are right, %d under %s; the first became a %d at step %d\n", natural, N,
           robust, pgd.name, records[0].predicted, records[0].step);
    l2l_model_free(model);
    l2l_context_free(c);
    return 0;
}
