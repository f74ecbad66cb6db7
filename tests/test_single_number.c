/* Batch norm in training mode over one number per channel: an error that names the layer, as
   PyTorch's, wherever it can happen. */
#include "support.h"

static l2l_real images[12 * 64];
static int labels[12];

/* 8x8 images to a map of 1x1, as a unit's norm or as a layer of its own. */
static l2l_tensor *tiny(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_unit u = l2l_unit_default(16, 8);
    u.padding = 0;
    if (!user) u.norm = "bn";
    x = l2l_layer_unit(m, "conv", x, &u);
    if (user) x = l2l_layer_batch_norm(m, "own", x, L2L_RELU);
    return l2l_layer_linear(m, "last", x, 3, L2L_LAST);
}

static l2l_model *model(l2l_context *c, bool own)
{
    l2l_model_options o = l2l_model_default("tiny");
    int i;
    o.forward = tiny;
    o.user = own ? images : NULL;
    o.channels = 1;
    o.height = o.width = 8;
    o.classes = 3;
    golden_fill(images, COUNT(images), 5, 0, 1);
    for (i = 0; i < COUNT(labels); i++) labels[i] = i % 3;
    return l2l_model_create(c, &o);
}

static void operation(void)
{
    l2l_context *c = test_context(1);
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i;
    for (i = 0; i < n; i++) {
        l2l_batch_norm_options o = l2l_batch_norm_default();
        l2l_shape s = l2l_shape_of(1, 1, 1, 5);
        l2l_tensor *x = l2l_full(c, s, 3);
        l2l_set_cpu(c, cpus[i]);
        o.gamma = l2l_full(c, s, 1);
        o.beta = l2l_zeros(c, s);
        o.running_mean = l2l_full(c, s, 2);
        o.running_variance = l2l_full(c, s, 1);
        o.training = o.update = true;
        CHECK(!l2l_batch_norm(c, x, &o));
        CHECK_ERROR(c, L2L_ERROR_SHAPE, "l2l_batch_norm: batch norm in training mode expects more");
        CHECK_NEAR(2, o.running_mean->data[0], 0);
        CHECK(l2l_batch_norm(c, l2l_full(c, l2l_shape_of(2, 1, 1, 5), 3), &o) != NULL);
        CHECK(l2l_batch_norm(c, l2l_full(c, l2l_shape_of(1, 1, 2, 5), 3), &o) != NULL);
        o.training = false;
        CHECK(l2l_batch_norm(c, x, &o) != NULL);
        CHECK_OK(c);
    }
    l2l_context_free(c);
}

static void layers(void)
{
    l2l_context *c = test_context(1);
    int own;
    for (own = 0; own < 2; own++) {
        l2l_model *m = model(c, own);
        l2l_tensor *one = l2l_from_nchw(c, images, l2l_shape_of(1, 8, 8, 1));
        CHECK(m != NULL);
        CHECK(!l2l_model_forward(m, one, L2L_TRAIN));
        CHECK_ERROR(c, L2L_ERROR_SHAPE, own ? "own: batch norm" : "bn: batch norm");
        CHECK(l2l_model_forward(m, one, L2L_EVALUATE) != NULL);
        CHECK(l2l_model_memory(m, 2, L2L_TRAIN) > 0);
        CHECK(l2l_model_memory(m, 40, L2L_TRAIN) > 0);
        CHECK_OK(c);
        l2l_model_free(m);
    }
    l2l_context_free(c);
}

/* n images in batches and parts: does l2l_train refuse at once? Its log tells whether it began. */
static void train(int n, int batch, int part, bool fine)
{
    l2l_context *c = test_context(1);
    l2l_model *m = model(c, false);
    l2l_train_options o = l2l_train_default();
    l2l_dataset d;
    l2l_progress p;
    l2l_trainer *t;
    o.method = l2l_method_advtrain();
    o.T = 1;
    o.epochs = 1;
    o.batch = batch;
    o.micro_batch = part;
    CHECK(l2l_dataset_from_arrays(c, images, labels, n, 1, 8, 8, 3, &d));
    t = l2l_trainer_create(m, &d, &o);
    if (CHECK(t != NULL)) {
        CHECK_INT(fine, l2l_train(t));
        if (!fine) {
            CHECK_ERROR(c, L2L_ERROR_SHAPE, "bn: batch norm in training mode");
            if (part != 1) CHECK(l2l_train_step(t, images, labels, 2, &p)); /* of one's own */
        }
    }
    CHECK_OK(c);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void trainings(void)
{
    train(12, 4, 0, true);
    train(12, 1, 0, false);
    train(12, 4, 1, false);
    train(12, 4, 3, false); /* 3 and 1 */
    train(9, 4, 0, false);  /* 4, 4 and 1 */
    train(9, 9, 3, true);
    train(7, 7, 3, false);
    train(11, 4, 2, false); /* the last batch of 3: 2 and 1 */
    train(1, 4, 0, false);
}

/* The running statistics are left alone by what refuses. */
static void statistics(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = model(c, false);
    l2l_train_options o = l2l_train_default();
    l2l_dataset d;
    l2l_trainer *t;
    l2l_real before[16];
    int i, which = -1;
    for (i = 0; i < l2l_model_parameters(m); i++)
        if (strstr(l2l_model_parameter(m, i).name, "running_mean")) which = i;
    if (!CHECK(which >= 0)) return;
    memcpy(before, l2l_model_parameter(m, which).value->data, sizeof before);
    o.method = l2l_method_plain();
    o.batch = 4;
    CHECK(l2l_dataset_from_arrays(c, images, labels, 9, 1, 8, 8, 3, &d));
    t = l2l_trainer_create(m, &d, &o);
    CHECK(!l2l_train(t));
    CHECK_ERROR(c, L2L_ERROR_SHAPE, "bn: batch norm");
    CHECK_BYTES(before, l2l_model_parameter(m, which).value->data, sizeof before);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_context_free(c);
}

int main(void)
{
    RUN(operation, "one number per channel is an error in training mode only");
    RUN(layers, "layers name themselves in it");
    RUN(trainings, "a training says at its start that some part of a batch will be one image");
    RUN(statistics, "and leaves the running statistics alone");
    return test_end();
}
