/* demo.c - a tour in two minutes: trains the same classifier twice on the embedded digits, against
 * PGD (AdvTrain) and against a learned maximizer (RNN-Adv), attacks both, and draws what happened.
 * demo --help lists the flags. */
#include "cli.h"
#include "evaluation.h"
#include "picture.h"

enum { ADVTRAIN, RNN_ADV, METHODS };
enum { FGSM, PGD10, PGD40, LEARNED, ATTACKS };
enum { MAX_EPOCHS = 1000, DIGITS = 10, SIDE = 28, PIXELS = SIDE * SIDE };

static const char *const method_names[METHODS] = {"AdvTrain", "RNN-Adv"};

static struct {
    const char *data, *out;
    int epochs, batch, val, threads;
    double width, eps, eps_warmup, lr;
    uint64_t seed;
} set;

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"data", CLI_TEXT, &set.data, 0, 0, "DIR", "folder of the digits"},
        {"out", CLI_TEXT, &set.out, 0, 0, "DIR", "folder for the pictures; else the program's"},
        {"epochs", CLI_INTEGER, &set.epochs, 1, MAX_EPOCHS, NULL, "passes over the digits"},
        {"batch", CLI_INTEGER, &set.batch, 1, 2000, NULL, "digits in a step"},
        {"width", CLI_NUMBER, &set.width, 0.1, 8, NULL, "multiplies the classifier's channels"},
        {"eps", CLI_NUMBER, &set.eps, 0, 1, NULL, "radius of the l-infinity ball"},
        {"eps-warmup", CLI_NUMBER, &set.eps_warmup, 0, 1, NULL,
         "share of the training in which eps rises from 0"},
        {"lr", CLI_NUMBER, &set.lr, 0, 1, NULL, "rate of Adam"},
        {"val", CLI_INTEGER, &set.val, 1, 1000, NULL, "digits held out for the curves"},
        {"seed", CLI_SEED, &set.seed, 0, 0, NULL, "of every random number"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    set.epochs = 8;
    set.batch = 32;
    set.width = 0.5;
    set.eps = 0.3;
    set.eps_warmup = 0.4;
    set.lr = 2e-3;
    set.val = 150;
    cli_parse(argc, argv, "Trains AdvTrain and RNN-Adv on 2,000 digits, attacks both, draws both.",
              flags);
}

/* Where the pictures go: to --out, else to the folder that this program is in. */
static char sheet[1100], curves[1100];

static void name_pictures(void)
{
    const char *slash = strrchr(cli_path, '/');
    char folder[1024] = ".";
    if (set.out)
        snprintf(folder, sizeof folder, "%s", set.out);
    else if (slash)
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - cli_path), cli_path);
    snprintf(sheet, sizeof sheet, "%s/demo.png", folder);
    snprintf(curves, sizeof curves, "%s/demo.svg", folder);
    cli_check_output("out", sheet);
    cli_check_output("out", curves);
}

/* The pictures have room for images of one size, and for ten of the test digits. */
static void open_digits(l2l_context *c, bool training, l2l_dataset *d)
{
    cli_dataset(c, "embedded", set.data, training, d);
    if (d->height != SIDE || d->width != SIDE)
        cli_fail("--data: images of %dx%d, expected %dx%d", d->height, d->width, SIDE, SIDE);
    if (d->count < DIGITS)
        cli_fail("--data: %d %s digits, expected at least %d", d->count,
                 training ? "training" : "test", DIGITS);
}

/* ---- training ---- */

typedef struct {
    const char *name;
    l2l_model *model;
    double seconds, begin;
    double epoch[MAX_EPOCHS + 1], robust[MAX_EPOCHS + 1]; /* the curve */
    int epochs;
    double natural, accuracy[ATTACKS], worst; /* on the test digits */
    l2l_real adversarial[DIGITS * PIXELS];    /* the first ten of them, attacked */
    l2l_record records[DIGITS];
} competitor;

static bool progress(void *user, const l2l_progress *p)
{
    competitor *r = (competitor *)user;
    if (!p->epoch_ended) return true;
    r->epoch[r->epochs] = p->epoch + 1;
    r->robust[r->epochs++] = 100 * p->validation_robust;
    printf("  epoch %2d/%d  eps %.2f  loss %.3f  held out: natural %5.1f %%, PGD-10 %5.1f %%  %s\n",
           p->epoch + 1, p->epochs, p->epsilon, p->epoch_loss, 100 * p->validation_natural,
           100 * p->validation_robust, cli_duration(cli_seconds() - r->begin).text);
    fflush(stdout);
    return true;
}

static l2l_model *make_model(l2l_context *c)
{
    l2l_model_options o = l2l_model_default("smallcnn");
    o.width_multiplier = set.width;
    o.seed = set.seed;
    return l2l_model_create(c, &o);
}

static void train(l2l_context *c, const l2l_dataset *digits, l2l_method method, competitor *r)
{
    l2l_train_options o = l2l_train_default();
    l2l_trainer *t;
    o.method = method;
    o.epochs = set.epochs;
    o.batch = set.batch;
    o.epsilon = set.eps;
    o.epsilon_warm_up = set.eps_warmup;
    o.optimizer = l2l_adam_default();
    o.optimizer.rate = set.lr;
    o.validation = set.val;
    o.validation_attack = l2l_attack_pgd(set.eps);
    o.seed = set.seed;
    o.progress = progress;
    o.user = r;
    r->model = make_model(c);
    r->begin = cli_seconds();
    printf("%s:\n", r->name);
    t = l2l_trainer_create(r->model, digits, &o);
    l2l_train(t);
    r->seconds = cli_seconds() - r->begin;
    l2l_trainer_free(t);
    if (l2l_error(c)) die(c);
}

/* ---- attacks ---- */

static l2l_attack make_attack(int which, l2l_learned *phi)
{
    l2l_attack a = l2l_attack_pgd(set.eps);
    if (which == FGSM) a = l2l_attack_fgsm(set.eps);
    if (which == LEARNED) a = l2l_attack_learned(phi, set.eps, 10);
    if (which == PGD40) {
        a.steps = 40;
        a.step_size = set.eps / 30; /* 0.01 of 0.3 */
    }
    a.seed = set.seed;
    return a;
}

static void attack(const l2l_dataset *test, l2l_learned *phi, competitor *r)
{
    l2l_evaluation_options all = l2l_evaluation_default();
    l2l_evaluation e;
    l2l_result result;
    int i;
    if (!l2l_evaluation_begin(r->model, test, &all, &e)) die(test->context);
    r->natural = e.natural;
    for (i = 0; i < ATTACKS; i++) {
        l2l_attack a = make_attack(i, phi);
        if (!l2l_evaluation_attack(&e, &a, &result, NULL, NULL)) die(test->context);
        r->accuracy[i] = result.accuracy;
    }
    r->worst = e.worst;
    l2l_evaluation_end(&e);
}

static void print_results(const competitor *r, int images)
{
    int i, k;
    printf("\naccuracy in %% on %d test digits, eps %.4g\n", images, set.eps);
    printf("%-10s %8s %8s %8s %8s %8s %8s %10s\n", "", "natural", "FGSM", "PGD-10", "PGD-40",
           "learned", "worst", "trained in");
    for (k = 0; k < METHODS; k++) {
        printf("%-10s %8.1f", r[k].name, 100 * r[k].natural);
        for (i = 0; i < ATTACKS; i++) printf(" %8.1f", 100 * r[k].accuracy[i]);
        printf(" %8.1f %10s\n", 100 * r[k].worst, cli_duration(r[k].seconds).text);
    }
    printf("learned: the maximizer that RNN-Adv was trained with, used on both\n\n");
}

/* ---- pictures ---- */

enum { SCALE = 3, CELL = SIDE * SCALE, STEP = CELL + 8, LEFT = 132, TOP = 36, LINE = 24 };

static void draw_images(pic_canvas *p, int y, const l2l_real *x, const l2l_real *minus)
{
    float image[PIXELS];
    int i, k;
    for (k = 0; k < DIGITS; k++, x += PIXELS) {
        for (i = 0; i < PIXELS; i++) image[i] = (float)(minus ? x[i] - *minus++ : x[i]);
        if (minus)
            pic_signed(p, LEFT + k * STEP, y, SCALE, image, 1, SIDE, SIDE, (float)set.eps);
        else
            pic_image(p, LEFT + k * STEP, y, SCALE, image, 1, SIDE, SIDE);
    }
}

/* What the classifier says below each image: clean, then attacked; red when wrong. */
static void draw_labels(pic_canvas *p, int y, const l2l_record *records)
{
    char text[32];
    int k;
    for (k = 0; k < DIGITS; k++) {
        const l2l_record *r = &records[k];
        snprintf(text, sizeof text, "%d -> %d", r->clean, r->predicted);
        pic_text(p, LEFT + k * STEP + (CELL - pic_text_width(2, text)) / 2, y + 5, 2,
                 r->predicted == r->label ? 0x00703C : 0xC00000, text);
    }
}

static void draw_name(pic_canvas *p, int y, const char *name, const char *row)
{
    pic_text(p, 10, y, 2, 0x222222, name);
    pic_text(p, 10, y + 20, 1, 0x666666, row);
}

static int draw_sheet(l2l_context *c, const competitor *r, const l2l_real *clean, const char *path)
{
    const int block = LINE + 2 * STEP + LINE;
    pic_canvas *p = pic_create(LEFT + DIGITS * STEP, TOP + STEP + METHODS * block + 8, 0xFFFFFF);
    int k, y = TOP;
    if (!p) cli_die_errno("picture");
    pic_text(p, 10, 10, 2, 0x222222,
             "Test digits under the learned attack; prediction before -> after (red: wrong)");
    draw_name(p, y + CELL / 2 - 8, "clean", "");
    draw_images(p, y, clean, NULL);
    for (k = 0, y += STEP; k < METHODS; k++, y += block) {
        pic_rect(p, 10, y + 2, LEFT + DIGITS * STEP - 18, 1, 0xAAAAAA);
        draw_name(p, y + LINE / 2 + CELL / 2 - 8, r[k].name, "perturbation");
        draw_images(p, y + LINE / 2, r[k].adversarial, clean);
        draw_name(p, y + LINE / 2 + STEP + CELL / 2 - 8, r[k].name, "attacked digit");
        draw_images(p, y + LINE / 2 + STEP, r[k].adversarial, NULL);
        draw_labels(p, y + LINE / 2 + 2 * STEP - 6, r[k].records);
    }
    if (!pic_write_png(c, p, path)) printf("wrote %s\n", path);
    else if (!l2l_error(c)) cli_die_errno("picture");
    pic_free(p);
    return cli_complain(c);
}

static int draw_curves(l2l_context *c, const competitor *r, const char *path)
{
    pic_series series[METHODS];
    pic_plot plot = {"Robustness while training", "epoch", "accuracy under PGD-10, held out (%)",
                     series, METHODS};
    int k;
    for (k = 0; k < METHODS; k++) {
        series[k].name = r[k].name;
        series[k].x = r[k].epoch;
        series[k].y = r[k].robust;
        series[k].n = r[k].epochs;
        series[k].rgb = pic_colour(k);
    }
    if (!pic_write_svg(c, &plot, path)) printf("wrote %s\n", path);
    else if (!l2l_error(c)) cli_die_errno("picture");
    return cli_complain(c);
}

static int draw(l2l_context *c, const l2l_dataset *test, l2l_learned *phi, competitor *r)
{
    static l2l_real clean[DIGITS * PIXELS];
    l2l_attack a = make_attack(LEARNED, phi);
    int labels[DIGITS], k, status;
    l2l_dataset_read(test, 0, DIGITS, clean, labels);
    for (k = 0; k < METHODS; k++)
        l2l_attack_run(r[k].model, &a, clean, labels, DIGITS, r[k].adversarial, r[k].records);
    if (l2l_error(c)) die(c);
    status = draw_sheet(c, r, clean, sheet);
    return draw_curves(c, r, curves) | status;
}

int main(int argc, char **argv)
{
    static competitor results[METHODS];
    l2l_learned_options lstm = l2l_learned_default();
    l2l_learned *phi;
    l2l_context *c;
    l2l_dataset digits, test;
    int k, status;

    parse(argc, argv);
    name_pictures();
    c = cli_context(set.threads);
    printf("%s\n", l2l_describe(c));
    open_digits(c, true, &digits);
    open_digits(c, false, &test);
    lstm.seed = set.seed;
    phi = l2l_learned_create(c, &lstm);
    if (!phi) die(c);

    for (k = 0; k < METHODS; k++) {
        results[k].name = method_names[k];
        train(c, &digits, k == ADVTRAIN ? l2l_method_advtrain() : l2l_method_rnn_adv(phi),
              &results[k]);
    }
    for (k = 0; k < METHODS; k++) attack(&test, phi, &results[k]);
    print_results(results, test.count);
    status = draw(c, &test, phi, results);

    for (k = 0; k < METHODS; k++) l2l_model_free(results[k].model);
    l2l_learned_free(phi);
    l2l_dataset_free(&test);
    l2l_dataset_free(&digits);
    l2l_context_free(c);
    return status | cli_end();
}
