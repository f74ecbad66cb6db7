/* gradients.c - writes the logits, the loss and every gradient of a model on a batch as .npy files,
 * so that they can be compared with those of another implementation. gradients --help. */
#include "cli.h"
#include "npy.h"

static struct {
    const char *model, *arch, *input, *labels, *out;
    double width;
    int depth, threads;
    bool train_mode;
} set;

static const char about[] =
    "Writes DIR/logits.npy, loss.npy (mean cross-entropy), input_grad.npy (of the summed loss),\n"
    "grad/NAME.npy (of the mean loss) and buffers/NAME.npy (after the pass).";

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"model", CLI_TEXT, &set.model, 0, 0, "F", "model file (safetensors)"},
        {"arch", CLI_CHOICE, &set.arch, 0, 0, CLI_ARCHS, "if the file does not say it"},
        {"width", CLI_NUMBER, &set.width, 0, 64, NULL, "with --arch: multiplies its channels"},
        {"depth", CLI_INTEGER, &set.depth, 0, 1000, NULL, "with --arch wrn"},
        {"input", CLI_TEXT, &set.input, 0, 0, "x.npy", "images NxCxHxW in [0,1]"},
        {"labels", CLI_TEXT, &set.labels, 0, 0, "y.npy", "N integers"},
        {"out", CLI_TEXT, &set.out, 0, 0, "DIR", "folder to write to; made if it is not there"},
        {"train-mode", CLI_SWITCH, &set.train_mode, 0, 0, NULL, "batch statistics, dropout"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    cli_parse(argc, argv, about, flags);
    if (!set.input) cli_fail("--input x.npy is needed: images NxCxHxW in [0,1]");
    if (!set.labels) cli_fail("--labels y.npy is needed: N integers");
    if (!set.out) cli_fail("--out DIR is needed: the folder to write to");
}

static void make_folder(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", set.out, name);
    if (mkdir(path, 0777) && errno != EEXIST) cli_die_errno(path);
}

static int failed; /* the exit status that a file which could not be written leads to */

static void save(l2l_context *c, const char *folder, const char *name, const l2l_real *values,
                 const int64_t *shape, int rank)
{
    const char *const inputs[3] = {set.input, set.labels, set.model};
    char path[4096], text[4200];
    int i;
    if (l2l_error(c)) return; /* there is nothing to be written, and why is told at the end */
    snprintf(path, sizeof path, "%s/%s%s.npy", set.out, folder, name);
    for (i = 0; i < 3; i++)
        if (inputs[i] && cli_same_file(path, inputs[i])) {
            snprintf(text, sizeof text, "--out: %s is a file that was read", path);
            l2l_error_set(c, L2L_ERROR_FILE, text);
            failed |= cli_complain(c);
            return;
        }
    npy_save_reals(c, path, values, shape, rank);
    failed |= cli_complain(c);
}

/* ---- input ---- */

static void load_images(const l2l_model *m, npy_array *a)
{
    const l2l_model_options *o = l2l_model_info(m);
    l2l_context *c = l2l_model_context(m);
    int64_t i;
    if (!npy_load(c, set.input, a)) die(c);
    if (a->rank != 4 || a->integer || a->shape[0] < 1 || a->shape[0] > 1 << 20 ||
        a->shape[1] != o->channels || a->shape[2] != o->height || a->shape[3] != o->width)
        cli_fail("--input %s: expected reals of shape (N, %d, %d, %d)", set.input, o->channels,
                 o->height, o->width);
    for (i = 0; i < a->count; i++)
        if (!(a->reals[i] >= 0 && a->reals[i] <= 1))
            cli_fail("--input %s: number %lld is %g, not in [0,1]", set.input, (long long)i,
                     (double)a->reals[i]);
}

static int *load_labels(const l2l_model *m, int n)
{
    int64_t classes = l2l_model_info(m)->classes;
    l2l_context *c = l2l_model_context(m);
    npy_array a;
    int *y = (int *)cli_allocate((size_t)n, sizeof *y), i;
    if (!npy_load(c, set.labels, &a)) die(c);
    if (a.rank != 1 || !a.integer || a.shape[0] != n)
        cli_fail("--labels %s: expected %d integers", set.labels, n);
    for (i = 0; i < n; i++) {
        if (a.integers[i] < 0 || a.integers[i] >= classes)
            cli_fail("--labels %s: entry %d is %lld; classes are 0 to %d", set.labels, i,
                     (long long)a.integers[i], (int)classes - 1);
        y[i] = (int)a.integers[i];
    }
    npy_array_free(c, &a);
    return y;
}

/* ---- parameters ---- */

/* In the file's layout: parameter i of the model, or what has its shape. */
static void save_like(l2l_model *m, int i, const char *folder, const l2l_tensor *x)
{
    l2l_parameter p = l2l_model_parameter(m, i);
    l2l_real *values = (l2l_real *)cli_allocate((size_t)l2l_count(p.value->shape), sizeof *values);
    if (l2l_parameter_to_file(m, i, x, values))
        save(l2l_model_context(m), folder, p.name, values, p.shape, p.rank);
    free(values);
}

/* ---- one pass ---- */

static void save_tensor(l2l_context *c, const char *name, const l2l_tensor *x, const int64_t *shape,
                        int rank)
{
    l2l_real *values;
    if (!x) die(c);
    values = (l2l_real *)cli_allocate((size_t)l2l_count(x->shape), sizeof *values);
    if (l2l_to_nchw(c, x, values)) save(c, "", name, values, shape, rank);
    free(values);
}

static void pass(l2l_model *m, const npy_array *images, const int *labels)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *o = l2l_model_info(m);
    int n = (int)images->shape[0], count = l2l_model_parameters(m), trainable = 0, i;
    const int64_t logits_shape[2] = {n, o->classes};
    size_t size = (size_t)count;
    l2l_tensor **theta = (l2l_tensor **)cli_allocate(size, sizeof *theta);
    l2l_tensor **grad = (l2l_tensor **)cli_allocate(size, sizeof *grad);
    l2l_tensor *x, *z, *loss, *mean, *dx = NULL;

    for (i = 0; i < count; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        if (p.trainable) theta[trainable++] = p.value;
    }
    l2l_set_recording(c, true);
    x = l2l_from_nchw(c, images->reals, l2l_shape_of(n, o->height, o->width, o->channels));
    z = l2l_model_forward(m, x, set.train_mode ? L2L_TRAIN : L2L_EVALUATE);
    loss = l2l_cross_entropy(c, z, labels);
    mean = l2l_mean(c, loss);
    save_tensor(c, "logits", z, logits_shape, 2);
    save_tensor(c, "loss", mean, NULL, 0);
    l2l_grad(c, loss, &x, 1, &dx, 0);
    l2l_grad(c, mean, theta, trainable, grad, 0);
    if (l2l_error(c)) die(c);

    save_tensor(c, "input_grad", dx, images->shape, 4);
    for (i = 0, trainable = 0; i < count; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        if (p.trainable)
            save_like(m, i, "grad/", grad[trainable++]);
        else
            save_like(m, i, "buffers/", p.value);
    }
    l2l_set_recording(c, false);
    free(grad);
    free(theta);
}

int main(int argc, char **argv)
{
    npy_array images;
    l2l_context *c;
    l2l_model *m;
    l2l_mark mark;
    int *labels;

    parse(argc, argv);
    c = cli_context(set.threads);
    m = cli_model_open(c, set.model, set.arch, set.width, set.depth);
    load_images(m, &images);
    labels = load_labels(m, (int)images.shape[0]);
    make_folder("");
    make_folder("grad");
    make_folder("buffers");
    mark = l2l_mark_here(c);
    pass(m, &images, labels);
    l2l_release(c, mark);
    if (l2l_error(c)) die(c);

    free(labels);
    npy_array_free(c, &images);
    l2l_model_free(m);
    l2l_context_free(c);
    return failed | cli_end();
}
