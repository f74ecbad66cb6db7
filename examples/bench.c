/* bench.c - images per second of the work that adversarial training is made of:
 *   forward     logits, nothing recorded
 *   input_grad  logits, cross-entropy and its gradient with respect to the images
 *   train       a training step: SGD with momentum, batch norm in training mode
 *   pgd_step    a step of AdvTrain: 10 steps of PGD and a training step
 *   rnn_step    a step of RNN-Adv (Algorithm 1): 10 learned steps, the update of phi, a training
 *               step
 * Best of 3 to 9 runs after one that does not count. With --memory instead: by how many bytes three
 * training steps raise the resident memory of this process (tests/peer/memory.sh compares). */
#include "cli.h"

static struct {
    const char *arch;
    double width;
    int depth, batch, threads;
    bool all, json, memory;
} set;

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"arch", CLI_CHOICE, &set.arch, 0, 0, CLI_ARCHS, "the classifier"},
        {"width", CLI_NUMBER, &set.width, 0, 64, NULL, "multiplies its channels; 0: as it is"},
        {"depth", CLI_INTEGER, &set.depth, 0, 1000, NULL, "of wrn; 0: as it is"},
        {"batch", CLI_INTEGER, &set.batch, 1, 65536, NULL, "images at a time"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {"all", CLI_SWITCH, &set.all, 0, 0, NULL,
         "pgd_step and rnn_step for every architecture, not only for smallcnn"},
        {"json", CLI_SWITCH, &set.json, 0, 0, NULL, "print one JSON object"},
        {"memory", CLI_SWITCH, &set.memory, 0, 0, NULL,
         "print how much memory training steps take, as JSON; no rates (Linux)"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    set.arch = "smallcnn";
    set.batch = 128;
    cli_parse(argc, argv, "Measures images per second on random images.", flags);
}

/* What all measurements work on. */
typedef struct {
    l2l_context *context;
    l2l_model *model;
    l2l_shape shape;
    l2l_real *images, *gradient; /* N×C×H×W */
    int *labels;
    l2l_tensor *x; /* the same images as a tensor */
    l2l_dataset data;
    l2l_trainer *trainer;
} bench;

static void make_batch(bench *b)
{
    const l2l_model_options *o = l2l_model_info(b->model);
    l2l_stream s = {1, L2L_RANDOM_USER, 0, 0, 0};
    size_t i, n;
    b->shape = l2l_shape_of(set.batch, o->height, o->width, o->channels);
    n = (size_t)l2l_count(b->shape);
    b->images = (l2l_real *)cli_allocate(n, sizeof *b->images);
    b->gradient = (l2l_real *)cli_allocate(n, sizeof *b->gradient);
    b->labels = (int *)cli_allocate((size_t)set.batch, sizeof *b->labels);
    for (i = 0; i < n; i++) b->images[i] = (l2l_real)l2l_random_uniform(&s, (uint32_t)i);
    for (i = 0; i < (size_t)set.batch; i++) b->labels[i] = (int)i % o->classes;
    b->x = l2l_from_nchw(b->context, b->images, b->shape);
    l2l_dataset_from_arrays(b->context, b->images, b->labels, set.batch, o->channels, o->height,
                            o->width, o->classes, &b->data);
}

/* ---- the work ---- */

static void forward(bench *b)
{
    l2l_mark mark = l2l_mark_here(b->context);
    l2l_model_forward(b->model, b->x, L2L_EVALUATE);
    l2l_release(b->context, mark);
}

static void input_grad(bench *b)
{
    l2l_model_gradient(b->model, b->images, b->labels, set.batch, NULL, b->gradient);
}

static void train_step(bench *b)
{
    l2l_progress p;
    l2l_train_step(b->trainer, b->images, b->labels, set.batch, &p);
}

/* ---- the clock ---- */

static double rate(bench *b, void (*work)(bench *), double budget)
{
    double best = 1e30, start;
    int runs;
    work(b);
    start = cli_seconds();
    for (runs = 0; runs < 3 || (runs < 9 && cli_seconds() - start < budget); runs++) {
        double begin = cli_seconds(), t;
        work(b);
        t = cli_seconds() - begin;
        if (t < best) best = t;
        if (l2l_error(b->context)) die(b->context);
    }
    return set.batch / best;
}

static void make_trainer(bench *b, l2l_method method)
{
    l2l_train_options o = l2l_train_default();
    o.method = method;
    o.batch = set.batch;
    o.epsilon = 0.3;
    o.epsilon_warm_up = 0;
    o.T = 10;
    o.optimizer = l2l_sgd_default();
    o.optimizer.rate = 1e-4;
    o.optimizer.momentum = 0.9;
    b->trainer = l2l_trainer_create(b->model, &b->data, &o);
    if (!b->trainer) die(b->context);
}

static double trainer_rate(bench *b, l2l_method method, double budget)
{
    double r;
    make_trainer(b, method);
    r = rate(b, train_step, budget);
    l2l_trainer_free(b->trainer);
    return r;
}

static double pgd_rate(bench *b)
{
    l2l_method method = l2l_method_advtrain();
    method.start = L2L_START_CLEAN;
    return trainer_rate(b, method, 8);
}

static double rnn_rate(bench *b)
{
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *phi;
    double r;
    o.optimizer.rate = 1e-3; /* the rest is the default: LSTM of size 10, sign in, tanh out */
    phi = l2l_learned_create(b->context, &o);
    if (!phi) die(b->context);
    r = trainer_rate(b, l2l_method_rnn_adv(phi), 8);
    l2l_learned_free(phi);
    return r;
}

/* ---- memory ---- */

/* An entry of /proc/self/status that is given in kB, as bytes. */
static double status_bytes(const char *key)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double value = -1;
    while (f && value < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) value = 1024 * strtod(line + strlen(key), NULL);
    if (f) fclose(f);
    if (value < 0) cli_fail("--memory needs %s of Linux' /proc/self/status", key);
    return value;
}

/* Resident memory with model, optimizer and data made, and the peak over three training steps. */
static void memory(bench *b)
{
    FILE *f;
    double before, most;
    int i;
    make_trainer(b, l2l_method_plain());
    f = fopen("/proc/self/clear_refs", "w"); /* the peak so far shall not count */
    if (f) {
        fputs("5", f);
        fclose(f);
    }
    before = status_bytes("VmRSS:");
    for (i = 0; i < 3; i++) train_step(b);
    if (l2l_error(b->context)) die(b->context);
    most = status_bytes("VmHWM:");
    l2l_trainer_free(b->trainer);
    printf("{\"arch\":\"%s\",\"batch\":%d,\"threads\":%d,\"before\":%.0f,\"peak\":%.0f,"
           "\"growth\":%.0f}\n",
           set.arch, set.batch, l2l_threads(b->context), before, most, most - before);
}

static void report(const char *name, double value)
{
    printf(set.json ? ",\"%s\":%.2f" : "%-11s %10.1f images/s\n", name, value);
    fflush(stdout);
}

static void rates(bench *b)
{
    if (set.json)
        printf("{\"arch\":\"%s\",\"batch\":%d,\"threads\":%d", set.arch, set.batch,
               l2l_threads(b->context));
    else
        printf("%s\n%s, batch %d\n", l2l_describe(b->context), set.arch, set.batch);
    report("forward", rate(b, forward, 4));
    report("input_grad", rate(b, input_grad, 4));
    report("train", trainer_rate(b, l2l_method_plain(), 4));
    if (set.all || !strcmp(set.arch, "smallcnn")) {
        report("pgd_step", pgd_rate(b));
        report("rnn_step", rnn_rate(b));
    }
    if (set.json) printf("}\n");
}

int main(int argc, char **argv)
{
    l2l_model_options o;
    bench b;

    parse(argc, argv);
    memset(&b, 0, sizeof b);
    b.context = cli_context(set.threads);
    o = cli_architecture(set.arch, set.width, set.depth);
    b.model = l2l_model_create(b.context, &o);
    if (!b.model) die(b.context);
    make_batch(&b);
    if (l2l_error(b.context)) die(b.context);

    if (set.memory)
        memory(&b);
    else
        rates(&b);

    l2l_dataset_free(&b.data);
    l2l_model_free(b.model);
    l2l_context_free(b.context);
    free(b.labels);
    free(b.images);
    free(b.gradient);
    return cli_end();
}
