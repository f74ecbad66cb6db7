/* train.c - trains a classifier by Algorithm 1: with clean images, against PGD or a line search, as
 * TRADES, or against a learned maximizer that is trained with it. train --help lists the flags. */
#include "cli.h"
#include "l2lda.h"
#include "training.h"
#include "training_log.h"

#define METHODS TRAINING_METHODS "|advtrain-decay|advtrain-adam|l2lda"
#define MAXIMIZER_FLAGS \
    "cell|hidden|bias|phi-lr|phi-opt|phi-decay|grad-input|delta-scale|loss-weights|second-order|" \
    "init-maximizer|save-maximizer"
#define CELL_FLAGS "cell|hidden|bias|grad-input|delta-scale|loss-weights|second-order"

/* What the flags set. A number that is 0 here is explained in its help text. */
static struct {
    const char *dataset, *data, *arch, *method, *opt, *phi_opt, *schedule, *cell, *grad_input;
    const char *start, *inner_mode, *mean, *deviation, *loss_weights, *init, *init_maximizer, *save;
    const char *save_best, *save_average, *save_maximizer;
    const char *checkpoint, *log;
    int depth, epochs, batch, micro_batch, steps, hidden, val, threads, limit, checkpoint_steps;
    int crop, augment;
    double width, eps, step_size, eps_warmup, lr, lr_warmup, momentum, weight_decay, clip;
    double phi_lr, phi_decay, delta_scale, beta, lambda, generator_width, average;
    bool bias, second_order, stop_on_plateau, resume;
    uint64_t seed;
} set;

static void set_defaults(void)
{
    l2l_train_options t = l2l_train_default();
    l2l_learned_options l = l2l_learned_default();
    set.dataset = "embedded";
    set.augment = -1; /* not said */
    set.arch = "smallcnn";
    set.method = "rnn-adv";
    set.epochs = t.epochs;
    set.batch = t.batch;
    set.eps = -1;
    set.steps = t.T;
    set.eps_warmup = t.epsilon_warm_up;
    set.opt = t.optimizer.kind == L2L_ADAM ? "adam" : "sgd";
    set.momentum = l2l_sgd_default().momentum;
    set.schedule = "constant";
    set.inner_mode = "evaluate";
    set.loss_weights = "rising";
    set.cell = l.cell == L2L_LSTM ? "lstm" : "rnn";
    set.hidden = l.hidden;
    set.bias = l.bias;
    set.beta = set.lambda = set.phi_decay = -1; /* not said */
    set.generator_width = l2lda_default().width_multiplier;
    set.phi_lr = l.optimizer.rate;
    set.grad_input = "sign";
    set.delta_scale = l.scale;
    set.second_order = l.second_order;
}

static void check_outputs(void)
{
    const cli_file outputs[] = {
        {"save", set.save}, {"save-best", set.save_best}, {"save-average", set.save_average},
        {"save-maximizer", set.save_maximizer},
        {"checkpoint", set.checkpoint}, {"log", set.log}};
    const cli_file inputs[] = {
        {"init", set.init}, {"init-maximizer", set.init_maximizer}, {NULL, NULL}};
    cli_check_outputs(outputs, (int)(sizeof outputs / sizeof *outputs), inputs);
}

static bool method_is(const char *list) { return cli_listed(list, set.method, strlen(set.method)); }

/* A flag that was given, or NULL, and the methods that hear it. */
static void refuse_idle(const char *flag, const char *methods)
{
    if (flag && !method_is(methods))
        cli_fail("--%s: not for --method %s; it is for %s", flag, set.method, methods);
}

static void parse(int argc, char **argv)
{
    const char *idle;
    const cli_flag flags[] = {
        {"dataset", CLI_CHOICE, &set.dataset, 0, 0, CLI_DATASETS, "images to train on"},
        {"data", CLI_TEXT, &set.data, 0, 0, "DIR", "its files; else where datasets.sh puts them"},
        {"arch", CLI_CHOICE, &set.arch, 0, 0, CLI_ARCHS, "the classifier"},
        {"width", CLI_NUMBER, &set.width, 0, 64, NULL, "multiplies its channels; 0: as it is"},
        {"depth", CLI_INTEGER, &set.depth, 0, 1000, NULL, "of wrn; 0: as it is"},
        {"mean", CLI_TEXT, &set.mean, 0, 0, "M1,M2,...",
         "the classifier sees (x - mean) / deviation, by channel"},
        {"deviation", CLI_TEXT, &set.deviation, 0, 0, "D1,D2,...", "see --mean"},
        {"method", CLI_CHOICE, &set.method, 0, 0, METHODS, "of training"},
        {"epochs", CLI_INTEGER, &set.epochs, 1, 100000, NULL, "passes over the images"},
        {"batch", CLI_INTEGER, &set.batch, 1, 65536, NULL, "images in a step"},
        {"micro-batch", CLI_INTEGER, &set.micro_batch, 0, 65536, NULL,
         "images at a time; gradients are added up; 0: the whole batch"},
        {"eps", CLI_NUMBER, &set.eps, 0, 1, NULL,
         "radius of the l-infinity ball [digits, clothes 0.3; photographs 8/255]"},
        {"steps", CLI_INTEGER, &set.steps, 1, 1000, "T", "inner steps"},
        {"step-size", CLI_NUMBER, &set.step_size, 0, 1, NULL, "of PGD; 0: eps/4"},
        {"start", CLI_CHOICE, &set.start, 0, 0, "clean|uniform|normal",
         "of the inner steps: x, anywhere in the ball, x + 0.001 N(0,1) [the method's own]"},
        {"inner-mode", CLI_CHOICE, &set.inner_mode, 0, 0, "evaluate|train",
         "statistics of batch norm in the inner steps"},
        {"eps-warmup", CLI_NUMBER, &set.eps_warmup, 0, 1, NULL,
         "share of the training in which eps rises from 0"},
        {"lr", CLI_NUMBER, &set.lr, 0, 1000, NULL, "rate of theta; 0: adam 0.001, sgd 0.1"},
        {"opt", CLI_CHOICE, &set.opt, 0, 0, "sgd|adam", "optimizer of theta"},
        {"momentum", CLI_NUMBER, &set.momentum, 0, 1, NULL, "of sgd"},
        {"weight-decay", CLI_NUMBER, &set.weight_decay, 0, 1, NULL, "of theta"},
        {"clip", CLI_NUMBER, &set.clip, 0, 1e9, NULL, "largest norm of theta's gradient; 0: any"},
        {"schedule", CLI_CHOICE, &set.schedule, 0, 0, "constant|steps|cosine",
         "of the rate; steps: times 0.1 at 1/2 and 3/4"},
        {"lr-warmup", CLI_NUMBER, &set.lr_warmup, 0, 1, NULL,
         "share of the training in which the rate rises from 0"},
        {"cell", CLI_CHOICE, &set.cell, 0, 0, "lstm|rnn", "of the learned maximizer"},
        {"hidden", CLI_INTEGER, &set.hidden, 1, 64, NULL, "its hidden size"},
        {"bias", CLI_SWITCH, &set.bias, 0, 0, NULL, "its biases"},
        {"phi-lr", CLI_NUMBER, &set.phi_lr, 0, 1000, NULL, "its rate, or the generator's"},
        {"phi-opt", CLI_CHOICE, &set.phi_opt, 0, 0, "sgd|adam",
         "its optimizer [adam; the generator's: sgd]"},
        {"phi-decay", CLI_NUMBER, &set.phi_decay, 0, 1000, NULL,
         "its weight decay [0; the generator's: 1e-5]"},
        {"grad-input", CLI_CHOICE, &set.grad_input, 0, 0, "sign|l1|linf|log",
         "how it is shown the gradient"},
        {"delta-scale", CLI_NUMBER, &set.delta_scale, 0, 100, NULL,
         "its largest step, as a multiple of eps"},
        {"loss-weights", CLI_TEXT, &set.loss_weights, 0, 0, "rising|uniform|last|W1,W2,...",
         "weights of the T losses that it maximizes; rising: w_t = t"},
        {"second-order", CLI_SWITCH, &set.second_order, 0, 0, NULL,
         "differentiate it through the gradients, too"},
        {"beta", CLI_NUMBER, &set.beta, 0, 1e6, NULL,
         "weight of KL in trades, rnn-trades [digits, clothes 1; photographs 6]"},
        {"lambda", CLI_NUMBER, &set.lambda, 0, 1e6, NULL,
         "weight of diversity in l2lda [digits, clothes 0.02; photographs 0.5]"},
        {"generator-width", CLI_NUMBER, &set.generator_width, 0, 64, NULL,
         "multiplies the channels of l2lda's generator"},
        {"crop", CLI_INTEGER, &set.crop, 0, 4096, NULL,
         "height and width of what is cut out; 0: all, restricted-imagenet 224"},
        {"augment", CLI_EITHER, &set.augment, 0, 0, NULL,
         "flip at random; cifar10, cifar100: shift by up to 4, too [on for photographs]"},
        {"val", CLI_INTEGER, &set.val, 0, 1e6, NULL, "images held out and attacked every epoch"},
        {"average", CLI_NUMBER, &set.average, 0, 0.999999, "D",
         "of the model's average over the steps, 0.995 or 0.999; 0: none (--save-average)"},
        {"stop-on-plateau", CLI_SWITCH, &set.stop_on_plateau, 0, 0, NULL,
         "stop when nothing is learned any more"},
        {"seed", CLI_SEED, &set.seed, 0, 0, NULL, "of every random number"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {"limit", CLI_INTEGER, &set.limit, 0, 1e9, NULL, "train on the first N images; 0: all"},
        {"init", CLI_TEXT, &set.init, 0, 0, "F", "model file to start from"},
        {"init-maximizer", CLI_TEXT, &set.init_maximizer, 0, 0, "F", "maximizer to start from"},
        {"save", CLI_TEXT, &set.save, 0, 0, "F", "file for the trained model (safetensors)"},
        {"save-best", CLI_TEXT, &set.save_best, 0, 0, "F", "file for the best epoch's (see --val)"},
        {"save-average", CLI_TEXT, &set.save_average, 0, 0, "F", "file for the averaged model"},
        {"save-maximizer", CLI_TEXT, &set.save_maximizer, 0, 0, "F", "file for the maximizer"},
        {"checkpoint", CLI_TEXT, &set.checkpoint, 0, 0, "F",
         "file that is written every epoch and when stopped by ctrl-C"},
        {"checkpoint-steps", CLI_INTEGER, &set.checkpoint_steps, 0, 1e9, NULL,
         "write it every N steps, too; 0: no"},
        {"resume", CLI_SWITCH, &set.resume, 0, 0, NULL, "go on from the checkpoint, if there"},
        {"log", CLI_TEXT, &set.log, 0, 0, "F.jsonl", "file for a line of JSON each step"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    set_defaults();
    cli_parse(argc, argv, "Trains a classifier, plainly or adversarially (Algorithm 1).", flags);
    set.eps = cli_default_epsilon(set.eps, set.dataset);
    if (set.resume && !set.checkpoint) cli_fail("--resume needs --checkpoint F");
    if (cli_given(argc, argv, flags, "checkpoint-steps") && !set.checkpoint)
        cli_fail("--checkpoint-steps needs --checkpoint F");
    if (cli_given(argc, argv, flags, "momentum") && strcmp(set.opt, "sgd"))
        cli_fail("--momentum: not for --opt %s; it is for sgd", set.opt);
    if ((!strncmp(set.method, "rnn", 3) || method_is("l2lda")) && set.phi_lr <= 0)
        cli_fail("--phi-lr '0': allowed is a number above 0");
    idle = cli_given(argc, argv, flags, MAXIMIZER_FLAGS);
    if (idle && method_is("plain|advtrain|advtrain-decay|advtrain-adam|advtrain-bls|trades"))
        cli_fail("--%s: --method %s has no learned maximizer; --method rnn-adv has one", idle,
                 set.method);
    refuse_idle(cli_given(argc, argv, flags, CELL_FLAGS), "rnn-adv|rnn-trades");
    refuse_idle(cli_given(argc, argv, flags, "beta"), "trades|rnn-trades");
    refuse_idle(cli_given(argc, argv, flags, "lambda|generator-width"), "l2lda");
    refuse_idle(cli_given(argc, argv, flags, "step-size"), "advtrain|trades");
    refuse_idle(cli_given(argc, argv, flags, "steps|start|inner-mode|eps-warmup"),
                "advtrain|advtrain-decay|advtrain-adam|advtrain-bls|trades|rnn-adv|rnn-trades|l2lda");
    set.beta = training_beta(set.beta, set.dataset);
    if (set.augment < 0) set.augment = cli_photographs(set.dataset);
    if (set.lambda < 0) set.lambda = cli_photographs(set.dataset) ? 0.5 : 0.02;
    check_outputs();
    if (!(set.average > 0) != !set.save_average)
        cli_fail("--average D and --save-average F go together");
}

/* ---- from flags to options ---- */

static l2l_schedule schedule(void)
{
    l2l_schedule s = l2l_schedule_default();
    s.warm_up = set.lr_warmup;
    if (!strcmp(set.schedule, "cosine")) s.kind = L2L_COSINE;
    if (!strcmp(set.schedule, "steps")) {
        s.kind = L2L_STEPS;
        s.milestones[0] = 0.5;
        s.milestones[1] = 0.75;
        s.factor = 0.1;
    }
    return s;
}

/* "a,b,c" into n numbers; false if there are not just n of them. */
static bool numbers(const char *text, double *v, int n)
{
    int i;
    for (i = 0; i < n && text; i++) {
        char number[64];
        snprintf(number, sizeof number, "%.*s", (int)strcspn(text, ","), text);
        if (!cli_number(number, &v[i])) return false;
        text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL;
    }
    return i == n && !text;
}

/* w_1 .. w_T; NULL is the library's w_t = t. */
static const double *loss_weights(void)
{
    const char *text = set.loss_weights;
    double *w;
    int t;
    if (!strcmp(text, "rising")) return NULL;
    w = (double *)cli_allocate((size_t)set.steps, sizeof *w);
    for (t = 0; t < set.steps; t++) w[t] = strcmp(text, "last") ? 1 : t + 1 == set.steps;
    if (!strcmp(text, "last") || !strcmp(text, "uniform")) return w;
    if (!numbers(text, w, set.steps))
        cli_fail("--loss-weights '%s': allowed is rising, uniform, last, or %d numbers (--steps)",
                 set.loss_weights, set.steps);
    return w;
}

static l2l_learned *make_learned(l2l_context *c)
{
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *phi;
    if (!strcmp(set.cell, "rnn")) o.cell = L2L_RNN;
    if (!strcmp(set.grad_input, "l1")) o.input = L2L_INPUT_L1;
    if (!strcmp(set.grad_input, "linf")) o.input = L2L_INPUT_LINF;
    if (!strcmp(set.grad_input, "log")) o.input = L2L_INPUT_LOG;
    o.hidden = set.hidden;
    o.bias = set.bias;
    o.scale = set.delta_scale;
    o.optimizer = training_optimizer(set.phi_opt ? set.phi_opt : "adam", set.phi_lr);
    if (set.phi_decay >= 0) o.optimizer.weight_decay = set.phi_decay;
    o.second_order = set.second_order;
    o.seed = set.seed;
    phi = l2l_learned_create(c, &o);
    if (phi && set.init_maximizer) l2l_learned_load(phi, set.init_maximizer);
    return phi;
}

/* Rate, weight decay and clipping are those of its authors unless a flag says otherwise. */
static l2lda *make_generator(l2l_context *c, const l2l_model *m)
{
    const l2l_model_options *images = l2l_model_info(m);
    l2lda_options o = l2lda_default();
    l2lda *g;
    if (!images) return NULL;
    o.channels = images->channels;
    o.height = images->height;
    o.width = images->width;
    o.classes = images->classes;
    o.width_multiplier = set.generator_width;
    o.diversity = set.lambda;
    if (set.phi_opt && !strcmp(set.phi_opt, "adam")) o.optimizer = l2l_adam_default();
    o.optimizer.rate = set.phi_lr;
    if (set.phi_decay >= 0) o.optimizer.weight_decay = set.phi_decay;
    o.seed = set.seed;
    g = l2lda_create(c, &o);
    if (g && set.init_maximizer) l2lda_load(g, set.init_maximizer);
    return g;
}

/* The training of PGD by another maximizer, to compare a learned one with. */
static l2l_method advtrain_by(const char *name, l2l_maximizer maximizer)
{
    l2l_method m = l2l_method_advtrain();
    m.name = name;
    m.maximizer = maximizer;
    return m;
}

static l2l_method make_method(l2l_learned *phi, l2lda *g)
{
    if (method_is("advtrain-decay")) return advtrain_by("advtrain-decay", l2l_maximizer_decay());
    if (method_is("advtrain-adam")) return advtrain_by("advtrain-adam", l2l_maximizer_adam(1));
    return method_is("l2lda") ? l2lda_method(g) : training_method(set.method, phi, set.beta);
}

/* A file's normalisation is the model's: another --mean and --deviation would not be heard. */
static void check_normalisation(const l2l_model *m, const l2l_model_options *o)
{
    const l2l_model_options *own = l2l_model_info(m);
    int i;
    if (own->normalise != o->normalise)
        cli_fail("--mean: for %d channels; %s has a normalisation of %d (0: none), which stays",
                 o->normalise, set.init, own->normalise);
    for (i = 0; i < o->normalise; i++)
        if (fabs(own->mean[i] - o->mean[i]) > 0 || fabs(own->deviation[i] - o->deviation[i]) > 0)
            cli_fail("--mean, --deviation: %.9g, %.9g for channel %d; %s has %.9g, %.9g, which "
                     "stay", o->mean[i], o->deviation[i], i, set.init, own->mean[i],
                     own->deviation[i]);
}

static l2l_model *make_model(l2l_context *c, const l2l_dataset *d)
{
    l2l_model_options o = cli_architecture(set.arch, set.width, set.depth);
    l2l_model *m;
    int extra;
    training_fit(&o, set.method, d, set.dataset, set.crop);
    o.seed = set.seed;
    if (set.mean && d->channels > 4)
        cli_fail("--mean: for 4 channels at most; these images have %d", d->channels);
    if (!set.mean != !set.deviation) cli_fail("--mean and --deviation go together");
    if (set.mean) o.normalise = o.channels;
    if (set.mean && !numbers(set.mean, o.mean, o.channels))
        cli_fail("--mean '%s': expected %d numbers, one for each channel", set.mean, o.channels);
    if (set.deviation && !numbers(set.deviation, o.deviation, o.channels))
        cli_fail("--deviation '%s': expected %d numbers, one for each channel", set.deviation,
                 o.channels);
    m = l2l_model_create(c, &o);
    if (m && set.init && l2l_model_load(m, set.init, &extra) && set.mean)
        check_normalisation(m, &o);
    return m;
}

/* ---- progress ---- */

typedef struct {
    bool terminal;
    double begin, epoch_begin, last, shown; /* times; last: of the last step */
    int64_t epoch_steps;                    /* steps of this epoch until then */
    int64_t first;                          /* step at which this run began, -1: not known yet */
    int64_t step, steps;
    double inner;                           /* largest share of pixels that a step of this epoch
                                             * left inside the ball */
} display;

/* Time that this epoch took, without the attack on the held-out images that follows its last step:
 * the time of that step is taken from the others. */
static double epoch_seconds(const display *s, const l2l_progress *p, double now)
{
    double n = (double)s->epoch_steps;
    if (p->validation_natural < 0 || n < 1) return now - s->epoch_begin;
    return (s->last - s->epoch_begin) * (n + 1) / n;
}

static void show_epoch(const l2l_progress *p, double seconds)
{
    printf("epoch %2d/%d  loss %.4f", p->epoch + 1, p->epochs, p->epoch_loss);
    if (p->epoch_accuracy >= 0) printf("  accuracy %5.1f %%", 100 * p->epoch_accuracy);
    if (p->validation_natural >= 0)
        printf("  held out: natural %5.1f %%, robust %5.1f %%", 100 * p->validation_natural,
               100 * p->validation_robust);
    printf("  in %s%s\n", cli_duration(seconds).text,
           p->best && p->validation_natural >= 0 ? "  (best so far)" : "");
}

/* A maximizer that has come to jump to the border and stay there is FGSM. */
static void warn_of_collapse(const display *s)
{
    if (s->inner < 1e-3 && method_is("rnn-adv|rnn-trades|l2lda"))
        printf("warning: the maximizer leaves no pixel inside the ball: the classifier may learn\n"
               "         to withstand corners alone; see what PGD does to held-out ones (--val)\n");
}

static void show_step(const display *s, const l2l_progress *p, double now)
{
    double left = (now - s->begin) / (double)(p->step - s->first) * (double)(p->steps - p->step);
    printf("epoch %2d/%d  step %ld/%ld  loss %.4f", p->epoch + 1, p->epochs, (long)p->step_in_epoch,
           (long)p->steps_in_epoch, p->loss);
    if (p->accuracy >= 0) printf("  accuracy %5.1f %%", 100 * p->accuracy);
    printf("  eps %.3f  gain %.3f  ETA %s", p->epsilon, p->gain, cli_duration(left).text);
}

/* Is all that there will be to see printed, and nobody there to see it? */
static bool unheard(void)
{
    return ferror(stdout) && !set.save && !set.save_best && !set.save_average &&
           !set.save_maximizer && !set.checkpoint && !set.log;
}

/* On a terminal one line that is written over and over; else a line every now and then. */
static bool progress(void *user, const l2l_progress *p)
{
    display *s = (display *)user;
    double now = cli_seconds(), inside;
    if (s->first < 0) s->first = p->step - 1;
    s->step = p->step;
    s->steps = p->steps;
    inside = p->epsilon > 0 ? 1 - p->saturated : 1;
    if (inside > s->inner) s->inner = inside;
    if (p->epoch_ended) {
        if (s->terminal) printf("\r\033[K");
        show_epoch(p, epoch_seconds(s, p, now));
        warn_of_collapse(s);
        s->inner = 0;
        s->epoch_begin = s->shown = now;
        s->epoch_steps = 0;
    } else if (s->terminal ? now - s->shown > 0.1 : now - s->shown > 10) {
        if (s->terminal) printf("\r\033[K");
        show_step(s, p, now);
        if (!s->terminal) putchar('\n');
        s->shown = now;
    }
    if (!p->epoch_ended) {
        s->last = now;
        s->epoch_steps++;
    }
    fflush(stdout);
    return !cli_stopped && !unheard();
}

static void introduce(l2l_context *c, l2l_model *m, const l2l_dataset *d, const l2l_learned *phi,
                      const l2lda *g, const l2l_augment *a)
{
    const l2l_model_options *o = l2l_model_info(m);
    int part = set.micro_batch && set.micro_batch < set.batch ? set.micro_batch : set.batch;
    printf("%s\n", l2l_describe(c));
    printf("data       %s: %d images %dx%dx%d, %d classes\n", set.dataset, d->count, d->channels,
           d->height, d->width, d->classes);
    if (a->padding || a->flip || o->height != d->height || o->width != d->width)
        printf("augment    padding %d, a crop of %dx%d%s\n", a->padding, o->height, o->width,
               a->flip ? ", a flip half of the time" : "");
    printf("classifier %s, %ld parameters\n", set.arch, (long)l2l_model_size(m));
    if (phi) printf("maximizer  %s, %d parameters\n", set.cell, l2l_learned_size(phi));
    if (g) printf("maximizer  generator, %ld parameters\n", (long)l2lda_size(g));
    printf("method     %s, %d epochs, batch %d, eps %s, T %d, seed %llu\n", set.method, set.epochs,
           set.batch, cli_epsilon(set.eps).text, set.steps, (unsigned long long)set.seed);
    if (method_is("trades|rnn-trades")) printf("beta       %g\n", set.beta);
    if (g) printf("lambda     %g\n", set.lambda);
    printf("memory     %.1f MB for a step of the classifier, by estimate\n",
           (double)l2l_model_memory(m, part, L2L_TRAIN) / 1e6);
    fflush(stdout);
}

/* ---- the end ---- */

static int saved(l2l_context *c, bool ok, const char *path)
{
    if (ok) printf("saved %s\n", path);
    return cli_complain(c);
}

/* What one file's disk has no room for does not keep the others from being written. */
static int save_results(l2l_context *c, const l2l_model *m, l2l_trainer *t, l2l_learned *phi,
                        l2lda *g)
{
    int status = 0;
    if (set.save) status |= saved(c, l2l_model_save(m, set.save), set.save);
    if (set.save_best) {
        l2l_model *best = l2l_trainer_best(t);
        status |= saved(c, best && l2l_model_save(best, set.save_best), set.save_best);
        l2l_model_free(best);
    }
    if (set.save_average) {
        l2l_model *mean = l2l_trainer_averaged(t);
        status |= saved(c, mean && l2l_model_save(mean, set.save_average), set.save_average);
        l2l_model_free(mean);
    }
    if (set.save_maximizer)
        status |= saved(c, g ? l2lda_save(g, set.save_maximizer)
                             : l2l_learned_save(phi, set.save_maximizer), set.save_maximizer);
    return status;
}

/* Trains to the end, also where a checkpoint cannot be written: the next one may. */
static bool train(l2l_context *c, l2l_trainer *t, training_log *log, const display *s, int *status)
{
    int64_t before;
    do {
        before = s->step;
        if (training_log_train(log, t)) return true;
        if (!cli_error_names(c, set.checkpoint) || s->step == before || cli_stopped) return false;
        if (s->terminal) printf("\r\033[K");
        *status = cli_complain(c);
    } while (s->step < s->steps);
    return true;
}

/* Training ended early. Exit status 130 after ctrl-C; else 1, with what there is saved: the last good
 * state and, if that is one to go on from, a checkpoint. Before the first step there is nothing. */
static int explain_stop(l2l_context *c, const l2l_model *m, l2l_trainer *t, l2l_learned *phi,
                        l2lda *g, const display *s)
{
    l2l_status status = l2l_error(c);
    bool in_vain = cli_error_names(c, set.checkpoint);
    if (s->terminal) printf("\r\033[K");
    if (status == L2L_ERROR_CANCELLED && unheard()) return 1;
    if (status == L2L_ERROR_CANCELLED && cli_stopped) {
        printf("stopped after step %ld of %ld\n", (long)s->step, (long)s->steps);
        if (set.checkpoint)
            printf("the checkpoint is %s; the same command with --resume goes on\n",
                   set.checkpoint);
        else
            printf("nothing is kept: with --checkpoint F it could go on later\n");
        return 128 + (int)cli_stopped;
    }
    if (status != L2L_ERROR_NUMERIC && s->first < 0) die(c);
    cli_complain(c);
    if (status != L2L_ERROR_NUMERIC) {
        printf("stopped after step %ld of %ld\n", (long)s->step, (long)s->steps);
        if (set.checkpoint && !in_vain && l2l_trainer_save(t, set.checkpoint))
            printf("the checkpoint is %s; the same command with --resume goes on\n",
                   set.checkpoint);
        cli_complain(c);
    }
    save_results(c, m, t, phi, g);
    return 1;
}

int main(int argc, char **argv)
{
    l2l_train_options o = l2l_train_default();
    display s = {false, 0, 0, 0, 0, 0, -1, 0, 0, 0};
    training_log log;
    l2l_learned *phi = NULL;
    l2lda *g = NULL;
    l2l_context *c;
    l2l_dataset d;
    l2l_model *m;
    l2l_trainer *t;
    int status = 0;

    parse(argc, argv);
    o.loss_weights = loss_weights();
    c = cli_context(set.threads);
    cli_dataset(c, set.dataset, set.data, true, &d);
    if (set.limit && set.limit < d.count) d.count = set.limit;
    m = make_model(c, &d);
    if (!strncmp(set.method, "rnn", 3)) phi = make_learned(c);
    if (method_is("l2lda")) g = make_generator(c, m);
    if (l2l_error(c)) die(c);

    o.method = make_method(phi, g);
    if (set.start)
        o.method.start = !strcmp(set.start, "clean")     ? L2L_START_CLEAN
                         : !strcmp(set.start, "uniform") ? L2L_START_UNIFORM
                                                         : L2L_START_NORMAL;
    o.epochs = set.epochs;
    o.batch = set.batch;
    o.micro_batch = set.micro_batch;
    o.epsilon = set.eps;
    o.T = set.steps;
    o.step_size = set.step_size;
    o.epsilon_warm_up = set.eps_warmup;
    o.optimizer = training_optimizer(set.opt, set.lr);
    if (!strcmp(set.opt, "sgd")) o.optimizer.momentum = set.momentum;
    o.optimizer.weight_decay = set.weight_decay;
    o.optimizer.clip = set.clip;
    o.schedule = schedule();
    o.inner_mode = strcmp(set.inner_mode, "train") ? L2L_EVALUATE : L2L_TRAIN;
    o.augment = training_augment(set.dataset, set.augment);
    o.validation = set.val;
    o.validation_attack = l2l_attack_pgd(set.eps);
    o.averaging = set.average;
    o.stop_on_plateau = set.stop_on_plateau;
    o.seed = set.seed;
    o.progress = progress;
    o.user = &s;
    o.checkpoint = set.checkpoint;
    o.checkpoint_steps = set.checkpoint_steps;
    o.resume = set.resume;
    training_log_add(&log, c, set.log, &o);
    t = l2l_trainer_create(m, &d, &o);
    if (!l2l_error(c)) introduce(c, m, &d, phi, g, &o.augment);
    if (l2l_error(c)) die(c);

    s.terminal = isatty(STDOUT_FILENO);
    s.begin = s.epoch_begin = s.shown = cli_seconds();
    cli_catch(SIGINT);
    cli_catch(SIGTERM);
    if (train(c, t, &log, &s, &status)) {
        printf("trained in %s\n", cli_duration(cli_seconds() - s.begin).text);
        status |= save_results(c, m, t, phi, g);
    } else {
        status = explain_stop(c, m, t, phi, g, &s);
    }
    if (cli_end()) status = 1;

    l2l_trainer_free(t);
    l2l_learned_free(phi);
    l2lda_free(g);
    l2l_model_free(m);
    l2l_dataset_free(&d);
    l2l_context_free(c);
    free((void *)(uintptr_t)o.loss_weights);
    return status;
}
