/* evaluate.c - accuracy of a model on clean images and under attacks, or of several models on each
 * other's adversarial images. evaluate --help lists the flags and the attacks. */
#include "cli.h"
#include "evaluation_state.h"
#include "npy.h"
#include "progress.h"
#include "specs.h"
#include "transfer.h"

enum { MAX_ATTACKS = 60, MAX_MODELS = 16 };

static const char about[] =
    "Measures the accuracy of a model on the test images, clean and under attacks.\n"
    "\"worst\" counts the images that are right under all attacks in the l-infinity ball of --eps.\n"
    "With --transfer: how each of several models fares on images made for each.\n\n"
    "An attack is NAME[:key=value]...; attacks are separated by commas:\n";

static struct {
    const char *model, *arch, *dataset, *data, *attack, *maximizer, *generator, *init, *dump_logits;
    const char *dump_adv, *transfer, *state;
    double width, eps;
    int depth, first, limit, batch, threads;
    uint64_t seed;
    bool json, skip_fooled, training;
} set;

/* Of n attacks at most one of `from` and `images` is not empty. */
static void check_outputs(const spec *specs, int n)
{
    const cli_file outputs[] = {
        {"dump-logits", set.dump_logits}, {"dump-adv", set.dump_adv}, {"state", set.state}};
    cli_file inputs[4 + MAX_ATTACKS + 1] = {
        {"model", set.model}, {"maximizer", set.maximizer}, {"generator", set.generator},
        {"init", set.init}};
    int i;
    for (i = 0; i < n; i++) {
        inputs[4 + i].flag = "attack";
        inputs[4 + i].path = *specs[i].from ? specs[i].from : specs[i].images;
    }
    cli_check_outputs(outputs, (int)(sizeof outputs / sizeof *outputs), inputs);
    if (set.init) cli_check_input("--init", set.init);
}

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"model", CLI_TEXT, &set.model, 0, 0, "F", "model file (safetensors)"},
        {"arch", CLI_CHOICE, &set.arch, 0, 0, CLI_ARCHS, "if the file does not say it"},
        {"width", CLI_NUMBER, &set.width, 0, 64, NULL, "with --arch: multiplies its channels"},
        {"depth", CLI_INTEGER, &set.depth, 0, 1000, NULL, "with --arch wrn"},
        {"dataset", CLI_CHOICE, &set.dataset, 0, 0, CLI_DATASETS, "whose test images are taken"},
        {"data", CLI_TEXT, &set.data, 0, 0, "DIR", "its files; else where datasets.sh puts them"},
        {"attack", CLI_TEXT, &set.attack, 0, 0, "SPEC[,SPEC...]", "see above"},
        {"eps", CLI_NUMBER, &set.eps, 0, 1, NULL,
         "radius of the l-infinity ball [digits, clothes 0.3; photographs 8/255]"},
        {"maximizer", CLI_TEXT, &set.maximizer, 0, 0, "F", "file of the learned maximizer"},
        {"generator", CLI_TEXT, &set.generator, 0, 0, "F", "file of L2LDA's generator"},
        {"training-images", CLI_SWITCH, &set.training, 0, 0, NULL, "its training images instead"},
        {"first", CLI_INTEGER, &set.first, 0, 1e9, NULL,
         "leave out the N images before; parts give what the whole gives"},
        {"limit", CLI_INTEGER, &set.limit, 0, 1e9, NULL, "N images; 0: all"},
        {"batch", CLI_INTEGER, &set.batch, 1, 65536, NULL, "images at a time; changes no result"},
        {"skip-fooled", CLI_SWITCH, &set.skip_fooled, 0, 0, NULL,
         "attack only images that withstood all attacks before: the worst case, sooner"},
        {"state", CLI_TEXT, &set.state, 0, 0, "F",
         "keep every finished batch there; the same command goes on from it"},
        {"transfer", CLI_TEXT, &set.transfer, 0, 0, "F,F[,F...]",
         "models, instead of --model: images made for each, shown to each"},
        {"seed", CLI_SEED, &set.seed, 0, 0, NULL, "of the attacks' random numbers"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {"json", CLI_SWITCH, &set.json, 0, 0, NULL, "print one JSON object"},
        {"dump-logits", CLI_TEXT, &set.dump_logits, 0, 0, "F.npy", "file for the clean logits"},
        {"dump-adv", CLI_TEXT, &set.dump_adv, 0, 0, "F.npy",
         "file for the attacked images (of one attack)"},
        {"init", CLI_TEXT, &set.init, 0, 0, "F.npy", "where the first run begins, NxCxHxW"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    char text[6000];
    int i, n = snprintf(text, sizeof text, "%s", about);
    for (i = 0; i < SPEC_KINDS; i++) {
        const struct spec_kind *k = &spec_kinds[i];
        n += snprintf(text + n, sizeof text - (size_t)n, "  %-12s %-31s %s\n", k->name, k->help,
                      k->keys);
    }
    snprintf(text + n, sizeof text - (size_t)n, "%s", spec_about);
    set.dataset = "embedded";
    set.eps = -1;
    set.batch = l2l_evaluation_default().batch;
    cli_parse(argc, argv, text, flags);
    if (!set.attack) set.attack = set.transfer ? "pgd" : "none,fgsm,pgd";
    spec_defaults.l2 = cli_default_epsilon(-1, set.dataset) < 0.1 ? 0.5 : 2;
    spec_defaults.eps = set.eps = cli_default_epsilon(set.eps, set.dataset);
    spec_defaults.seed = set.seed;
    check_outputs(NULL, 0);
    if (set.dump_adv && set.skip_fooled)
        cli_fail("--dump-adv and --skip-fooled: images that are skipped are not made");
    if (set.transfer &&
        (set.model || set.init || set.dump_logits || set.dump_adv || set.state || set.skip_fooled))
        cli_fail("--transfer takes its models itself, and none of --model, --init, --dump-logits, "
                 "--dump-adv, --state, --skip-fooled");
}

static int failed; /* the exit status that an output which could not be written leads to */

/* A model that a flag names; its images are shown to `first`, unless that is NULL. */
static l2l_model *open_alike(l2l_context *c, const char *flag, const char *path,
                             const l2l_model *first, const char *first_path)
{
    l2l_model *m = cli_model_open(c, path, set.arch, set.width, set.depth);
    const l2l_model_options *p = l2l_model_info(first), *q = l2l_model_info(m);
    if (p && !transfer__alike(p, q))
        cli_fail("%s: %s is for images of %dx%dx%d and %d classes, but %s for %dx%dx%d and %d",
                 flag, path, q->channels, q->height, q->width, q->classes, first_path,
                 p->channels, p->height, p->width, p->classes);
    return m;
}

static l2l_model *open_foreign(const l2l_model *attacked, const spec *s)
{
    return open_alike(l2l_model_context(attacked), "--attack", s->from, attacked, set.model);
}

/* ---- arrays ---- */

/* Room for the images of an evaluation, which have the model's size. */
static l2l_real *image_room(const l2l_evaluation *e)
{
    return (l2l_real *)cli_allocate((size_t)e->images * es_pixels(e), sizeof(l2l_real));
}

static void save_images(const char *path, const l2l_real *x, const l2l_evaluation *e)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    const int64_t shape[4] = {e->images, o->channels, o->height, o->width};
    npy_save_reals(e->data->context, path, x, shape, 4);
    failed |= cli_complain(e->data->context);
}

/* The images of the part: of a file that reaches so far those from --first on, else the first. */
static l2l_real *load_images(const char *flag, const char *path, const l2l_evaluation *e, npy_array *a)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    const int64_t one = (int64_t)o->channels * o->height * o->width;
    if (!npy_load(e->data->context, path, a)) die(e->data->context);
    if (a->rank != 4 || a->integer || a->shape[0] < e->images || a->shape[1] != o->channels ||
        a->shape[2] != o->height || a->shape[3] != o->width)
        cli_fail("%s %s: expected reals of shape (%d or more, %d, %d, %d)", flag, path, e->images,
                 o->channels, o->height, o->width);
    if (a->shape[0] >= (int64_t)set.first + e->images) return a->reals + set.first * one;
    if (a->shape[0] == e->images) return a->reals;
    cli_fail("%s %s: %d images, but --first %d needs those of the part, %d, or at least %d", flag, path,
             (int)a->shape[0], set.first, e->images, set.first + e->images);
    return NULL;
}

/* The clean images, by an attack that stays where it starts, in an evaluation of their own. */
static l2l_real *clean_logits(const l2l_evaluation *e)
{
    l2l_evaluation_options o = e->options;
    l2l_evaluation own;
    l2l_attack none = spec_none(0);
    l2l_result r;
    l2l_real *x = image_room(e);
    l2l_real *z = (l2l_real *)cli_allocate(
        (size_t)e->images * (size_t)l2l_model_info(e->model)->classes, sizeof *z);
    o.skip_fooled = false; /* which leaves images out */
    none.batch = set.batch;
    if (!l2l_evaluation_begin(e->model, e->data, &o, &own)) die(e->data->context);
    l2l_evaluation_attack(&own, &none, &r, NULL, x);
    l2l_evaluation_end(&own);
    l2l_model_logits(e->model, x, e->images, z);
    free(x);
    return z;
}

static void dump_logits(const l2l_evaluation *e, const l2l_real *z)
{
    const int64_t shape[2] = {e->images, l2l_model_info(e->model)->classes};
    npy_save_reals(e->data->context, set.dump_logits, z, shape, 2);
    failed |= cli_complain(e->data->context);
}

/* ---- attacks ---- */

/* The images of a transfer, made for another model or loaded; to be freed. */
static l2l_real *foreign_images(const l2l_evaluation *e, spec *s)
{
    l2l_evaluation_options o = e->options;
    l2l_real *x = image_room(e);
    l2l_evaluation other;
    l2l_attack room[AUTOATTACK_STAGES];
    npy_array a;
    l2l_result r;
    l2l_model *m;
    if (*s->images) {
        l2l_real *from = load_images("images", s->images, e, &a);
        memcpy(x, from, (size_t)e->images * es_pixels(e) * sizeof *x);
        npy_array_free(e->data->context, &a);
        return x;
    }
    m = open_foreign(e->model, s);
    o.skip_fooled = false; /* images that this model gets wrong are wanted, too */
    if (l2l_evaluation_begin(m, e->data, &o, &other)) {
        l2l_evaluation_series(&other, spec_series(s, m, room), &r, NULL, x);
        l2l_evaluation_end(&other); /* whoever goes on sees its error */
    }
    l2l_model_free(m);
    return x;
}

/* Scoring images is an attack that starts there and makes no step. */
static void transfer(spec *s, l2l_real *x)
{
    l2l_attack given = l2l_attack_ifgsm(s->attack.epsilon);
    given.name = "transfer";
    given.norm = s->attack.norm;
    given.steps = 0;
    given.init = x;
    given.progress = progress;
    given.targets = s->attack.targets;
    given.batch = set.batch;
    s->attack = given;
}

/* How many images are not as they were given. */
static int moved(const l2l_evaluation *e, const l2l_real *given, const l2l_real *x)
{
    const size_t one = es_pixels(e);
    size_t i;
    int n = 0;
    for (i = 0; i < (size_t)e->images; i++)
        n += memcmp(given + i * one, x + i * one, one * sizeof *x) != 0;
    return n;
}

/* With a state that cannot be written the attack goes on: with the next batch or, where its images
 * are wanted, which a state does not hold, once more without one. */
static void attack(evaluation_state *state, spec *s, l2l_real *adversarial)
{
    l2l_context *c = state->e->context;
    l2l_attack room[AUTOATTACK_STAGES];
    while (!evaluation_state_series(state, spec_series(s, state->e->model, room), &s->result, NULL,
                                    adversarial) &&
           cli_error_names(c, state->path)) {
        failed |= cli_complain(c);
        if (adversarial) state->path = NULL;
    }
}

static void run(evaluation_state *state, spec *s, const l2l_real *init, const l2l_real *logits)
{
    l2l_evaluation *e = state->e;
    int *targets = spec_targets(s, e, logits);
    l2l_real *adv = set.dump_adv || *s->images ? image_room(e) : NULL, *foreign = NULL;
    double begin = cli_seconds();
    int steps = s->attack.steps;
    show_begin(s->spec, passes(&s->attack));
    s->attack.init = init;
    s->attack.targets = targets;
    s->attack.batch = set.batch;
    s->attack.progress = progress;
    if (s->transfer) transfer(s, foreign = foreign_images(e, s));
    if (*s->images) /* of which those that are spared stay as they are */
        memcpy(adv, foreign, (size_t)e->images * es_pixels(e) * sizeof *adv);
    s->seconds = cli_seconds() - begin; /* another model's images are made in every sitting */
    attack(state, s, adv);
    s->seconds += state->seconds;
    show_end();
    if (*s->images && !l2l_error(e->data->context)) s->outside = moved(e, foreign, adv);
    if (set.dump_adv && !l2l_error(e->data->context)) save_images(set.dump_adv, adv, e);
    free(adv);
    free(foreign);
    free(targets);
    s->attack.init = NULL;
    s->attack.targets = NULL;
    s->attack.steps = steps; /* of a transfer: by which the images were made */
}

static void check(const spec *specs, int n)
{
    int i, dumped = 0;
    check_outputs(specs, n);
    for (i = 0; i < n; i++) {
        dumped += specs[i].kind->make != spec_none;
        if (*specs[i].images) cli_check_input("images", specs[i].images);
        if (*specs[i].from) cli_check_input("from", specs[i].from);
        if (set.init && *specs[i].images)
            cli_fail("--init: %s takes no starting points", specs[i].spec);
    }
    if (set.dump_adv && dumped != 1)
        cli_fail("--dump-adv needs exactly one attack, not %d", dumped);
    if (set.transfer &&
        (n != 1 || !dumped || specs->transfer || specs->target != SPEC_UNTARGETED))
        cli_fail("--transfer needs exactly one attack, without targets");
}

/* ---- what is printed ---- */

static void print_string(const char *s)
{
    putchar('"');
    for (; *s; s++)
        if ((unsigned char)*s < ' ')
            printf("\\u%04x", (unsigned)*s);
        else
            printf(*s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
    putchar('"');
}

/* The lines of the warnings as strings of an array. */
static void print_warnings(char *text)
{
    char *end;
    printf("[");
    for (; (end = strchr(text, '\n')) != NULL; text = end + 1) {
        *end = 0;
        print_string(text);
        if (end[1]) putchar(',');
    }
    printf("]");
}

static int trained_steps(const spec *s)
{
    int T = 0;
    double epsilon;
    if (s->kind->make == spec_learned && !*s->images)
        l2l_learned_trained_with(spec_defaults.phi, &T, &epsilon);
    return T;
}

/* A number for JSON: as many digits as lead back to it, null where it is none. */
typedef struct number { char text[32]; } number;
static number json(double v)
{
    number n;
    int digits = 15;
    do snprintf(n.text, sizeof n.text, "%.*g", digits, v);
    while (strtod(n.text, NULL) != v && ++digits <= 17);
    if (!(v - v == 0)) snprintf(n.text, sizeof n.text, "null");
    return n;
}

static void print_json(const l2l_evaluation *e, const spec *specs, int n)
{
    char warnings[4096];
    int i;
    l2l_evaluation_warnings(e, warnings, sizeof warnings);
    printf("{\"images\":%d,\"first\":%d,\"training_images\":%s,\"natural\":%s,\"attacks\":{", e->images,
           set.first, set.training ? "true" : "false", json(e->natural).text);
    for (i = 0; i < n; i++) {
        const spec *s = &specs[i];
        const l2l_result *r = &s->result;
        if (i) putchar(',');
        print_string(s->spec);
        printf(":{\"accuracy\":%s,\"seconds\":%.6g,\"zero_gradients\":%s", json(r->accuracy).text,
               s->seconds, json(r->zero_gradients).text);
        printf(",\"attacked\":%d,\"in_worst\":%s,\"norm\":\"%s\",\"epsilon\":%s,\"success\":%s,"
               "\"success_linf\":%s,\"success_l2\":%s",
               r->attacked, r->counted ? "true" : "false", s->attack.norm == L2L_L2 ? "l2" : "linf",
               json(s->attack.epsilon).text, json(r->success).text, json(r->success_linf).text,
               json(r->success_l2).text);
        printf(",\"forwards\":%.17g,\"backwards\":%.17g", (double)r->forwards,
               (double)r->backwards);
        if (trained_steps(s))
            printf(",\"steps\":%d,\"trained_steps\":%d", s->attack.steps, trained_steps(s));
        if (*s->images) printf(",\"outside\":%d", s->outside);
        if (autoattack_is(&s->attack)) {
            int k;
            printf(",\"stages\":{");
            for (k = 0; k < AUTOATTACK_STAGES; k++)
                printf("%s\"%s\":%s", k ? "," : "", autoattack_names[k], json(r->stages[k]).text);
            printf("}");
        }
        printf("}");
    }
    printf("},\"worst\":%s,\"epsilon\":%s,\"seed\":%llu,\"threads\":%d,\"skip_fooled\":%s,"
           "\"warnings\":", json(e->worst).text, json(set.eps).text, (unsigned long long)set.seed,
           l2l_threads(e->data->context), set.skip_fooled ? "true" : "false");
    print_warnings(warnings);
    printf("}\n");
}

/* What the columns do not say. */
static void print_notes(const spec *s, const l2l_evaluation *e)
{
    const l2l_attack *a = &s->attack;
    const l2l_result *r = &s->result;
    bool l2 = a->norm == L2L_L2;
    const char *norm = l2 ? "l2" : "l-infinity", *next = "  ";
    char eps[32];
    snprintf(eps, sizeof eps, l2 ? "%.4g" : "%.4g (%.4g/255)", a->epsilon, 255 * a->epsilon);
    if (!r->counted) printf("%snot in worst: %s, eps %s", next, norm, eps), next = "; ";
    if (set.skip_fooled && r->attacked < e->images)
        printf("%sof %d images", next, r->attacked), next = "; ";
    if (s->target != SPEC_UNTARGETED)
        printf("%starget reached for %.2f %%", next, 100 * r->success), next = "; ";
    if (a->minimal) printf("%sfound for %.2f %%", next, 100 * r->success), next = "; ";
    if (a->minimal && r->success > 0)
        printf(", at %s %.4g on average", norm, l2 ? r->success_l2 : r->success_linf);
    if (trained_steps(s))
        printf("%s%d steps, trained with %d", next, a->steps, trained_steps(s)), next = "; ";
    for (int k = 0; autoattack_is(a) && k < AUTOATTACK_STAGES; k++)
        printf("%s%s %.2f %%", k ? ", " : next, autoattack_names[k], 100 * r->stages[k]), next = "; ";
    if (s->outside) printf("%s%d images were outside the ball", next, s->outside);
}

static void print_head(l2l_context *c, const l2l_dataset *d, int images, const l2l_model_options *o)
{
    printf("data     %s, %d %simages of %dx%d", set.dataset, images, set.training ? "training " : "",
           d->height, d->width);
    if (set.first) printf(", from number %d on", set.first);
    if (d->height != o->height || d->width != o->width)
        printf(", cut to %dx%d", o->height, o->width);
    printf("\nepsilon  %s, seed %llu, threads %d\n", cli_epsilon(set.eps).text,
           (unsigned long long)set.seed, l2l_threads(c));
}

static void print_table(const l2l_evaluation *e, const spec *specs, int n)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    char warnings[4096], *line, *end;
    size_t width = 7;
    int i;
    for (i = 0; i < n; i++)
        if (strlen(specs[i].spec) > width) width = strlen(specs[i].spec);
    printf("model    %s: %s, %ld parameters\n", set.model, o->arch, (long)l2l_model_size(e->model));
    print_head(e->data->context, e->data, e->images, o);
    if (set.skip_fooled)
        printf("each attack on the images only that withstood those before, accuracy after it\n");
    printf("\n%-*s  accuracy       time  zero gradients\n", (int)width, "attack");
    printf("%-*s  %6.2f %%\n", (int)width, "natural", 100 * e->natural);
    for (i = 0; i < n; i++) {
        if (specs[i].kind->make == spec_none) continue;
        printf("%-*s  %6.2f %%  %9s  %12.2f %%", (int)width, specs[i].spec,
               100 * specs[i].result.accuracy, cli_duration(specs[i].seconds).text,
               100 * specs[i].result.zero_gradients);
        print_notes(&specs[i], e);
        putchar('\n');
    }
    printf("%-*s  %6.2f %%\n", (int)width, "worst", 100 * e->worst);
    l2l_evaluation_warnings(e, warnings, sizeof warnings);
    for (line = warnings; (end = strchr(line, '\n')) != NULL; line = end + 1)
        printf("warning: %.*s\n", (int)(end - line), line);
}

/* ---- several models ---- */

static void print_matrix(l2l_context *c, const l2l_dataset *d, l2l_model *const *m,
                         char *const *names, int n, const spec *s, int images,
                         const double *natural, const double *accuracies)
{
    int i, j;
    if (set.json) {
        printf("{\"images\":%d,\"first\":%d,\"training_images\":%s,\"attack\":", images, set.first,
               set.training ? "true" : "false");
        print_string(s->spec);
        printf(",\"models\":[");
        for (i = 0; i < n; i++) {
            if (i) putchar(',');
            print_string(names[i]);
        }
        printf("],\"natural\":[");
        for (i = 0; i < n; i++) printf(i ? ",%s" : "%s", json(natural[i]).text);
        printf("],\"transfer\":[");
        for (i = 0; i < n; i++) {
            printf(i ? ",[" : "[");
            for (j = 0; j < n; j++) printf(j ? ",%s" : "%s", json(accuracies[i * n + j]).text);
            printf("]");
        }
        printf("],\"seconds\":%.6g,\"epsilon\":%s,\"seed\":%llu,\"threads\":%d}\n", s->seconds,
               json(s->attack.epsilon).text, (unsigned long long)set.seed, l2l_threads(c));
        return;
    }
    for (i = 0; i < n; i++)
        printf("model %d  %s: %s, %ld parameters\n", i + 1, names[i], l2l_model_info(m[i])->arch,
               (long)l2l_model_size(m[i]));
    print_head(c, d, images, l2l_model_info(m[0]));
    printf("attack   %s, %s\n\n%-12s", s->spec, cli_duration(s->seconds).text, "accuracy of");
    for (i = 0; i < n; i++) printf("  model %2d", i + 1);
    printf("\n%-12s", "clean images");
    for (i = 0; i < n; i++) printf("  %6.2f %%", 100 * natural[i]);
    for (i = 0; i < n; i++) {
        printf("\nmade for %2d ", i + 1);
        for (j = 0; j < n; j++) printf("  %6.2f %%", 100 * accuracies[i * n + j]);
    }
    putchar('\n');
}

static void cross(l2l_context *c, const l2l_dataset *d, spec *s)
{
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_model *m[MAX_MODELS];
    double natural[MAX_MODELS], accuracies[MAX_MODELS * MAX_MODELS], begin = cli_seconds();
    l2l_attack room[AUTOATTACK_STAGES];
    char *names[MAX_MODELS], *text = (char *)cli_allocate(strlen(set.transfer) + 1, 1), *at, *next;
    int n = 0, i;
    for (at = strcpy(text, set.transfer); at; at = next) {
        if ((next = strchr(at, ',')) != NULL) *next++ = 0;
        if (!*at) cli_fail("--transfer %s: model %d has no name", set.transfer, n + 1);
        if (n == MAX_MODELS) cli_fail("--transfer: at most %d models", MAX_MODELS);
        names[n] = at;
        m[n] = open_alike(c, "--transfer", at, n ? m[0] : NULL, names[0]);
        n++;
    }
    o.limit = set.limit;
    o.batch = set.batch;
    s->attack.batch = set.batch;
    s->attack.progress = progress;
    show_begin(s->spec, show.all = 1);
    if (!transfer_matrix(m, n, d, spec_series(s, m[0], room), &o, natural, accuracies)) die(c);
    show_end();
    s->seconds = cli_seconds() - begin;
    print_matrix(c, d, m, names, n, s, o.limit && o.limit < d->count ? o.limit : d->count, natural,
                 accuracies);
    for (i = 0; i < n; i++) l2l_model_free(m[i]);
    free(text);
}

/* ---- one model ---- */

/* Stopped by a signal: 128 + its number, as a shell has it. */
static int stopped(l2l_context *c)
{
    if (l2l_error(c) != L2L_ERROR_CANCELLED || !cli_stopped) die(c);
    if (show.terminal) fprintf(stderr, "\r\033[K");
    fprintf(stderr, "%s: stopped; the same command goes on from %s\n", cli_program, set.state);
    return 128 + (int)cli_stopped;
}

static int one_model(l2l_context *c, const l2l_dataset *d, spec *specs, int n)
{
    l2l_model *m = cli_model_open(c, set.model, set.arch, set.width, set.depth);
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    evaluation_state state;
    npy_array init;
    l2l_real *logits = NULL, *start = NULL;
    double begin = cli_seconds();
    int i, needed = set.dump_logits != NULL, status = 0;
    o.limit = set.limit;
    o.batch = set.batch;
    o.epsilon = set.eps;
    o.skip_fooled = set.skip_fooled;
    if (!l2l_evaluation_begin(m, d, &o, &e) || !evaluation_state_open(&state, &e, set.state))
        die(c);
    state.clock = cli_seconds;
    for (i = 0; i < n; i++) {
        if (specs[i].kind->make == spec_none) specs[i].seconds = cli_seconds() - begin;
        if (*specs[i].from) l2l_model_free(open_foreign(m, &specs[i])); /* fails now, not later */
        needed |= specs[i].target == SPEC_LEAST;
        show.all += passes(&specs[i].attack);
    }
    if (needed) logits = clean_logits(&e);
    memset(&init, 0, sizeof init);
    if (set.init) start = load_images("--init", set.init, &e, &init);
    if (set.state) {
        cli_catch(SIGINT);
        cli_catch(SIGTERM);
    }
    show.begin = cli_seconds();
    for (i = 0; i < n && !l2l_error(c); i++) {
        if (specs[i].kind->make != spec_none) {
            run(&state, &specs[i], start, logits);
        } else {
            specs[i].result.accuracy = e.natural;
            specs[i].result.attacked = e.images;
            specs[i].result.counted = true;
        }
    }
    if (set.dump_logits && !l2l_error(c)) dump_logits(&e, logits);
    if (l2l_error(c))
        status = stopped(c);
    else if (set.json)
        print_json(&e, specs, n);
    else
        print_table(&e, specs, n);
    if (set.init) npy_array_free(c, &init);
    free(logits);
    evaluation_state_close(&state);
    l2l_evaluation_end(&e);
    l2l_model_free(m);
    return status;
}

int main(int argc, char **argv)
{
    static spec specs[MAX_ATTACKS];
    l2l_context *c;
    l2l_dataset all, d;
    cli_slice slice;
    int n, i, status = 0;

    parse(argc, argv);
    c = cli_context(set.threads);
    show.terminal = !set.json && isatty(STDERR_FILENO);
    show.batch = set.batch;
    show.begin = cli_seconds();
    if ((set.maximizer && !(spec_defaults.phi = l2l_learned_open(c, set.maximizer))) ||
        (set.generator && !(spec_defaults.generator = l2lda_open(c, set.generator))))
        die(c);
    n = spec_list(set.attack, specs, MAX_ATTACKS);
    check(specs, n);
    if (!set.transfer && !set.model) cli_fail("--model F is needed: a model file, as train writes");
    cli_dataset(c, set.dataset, set.data, set.training, &all);
    if (set.first >= all.count) cli_fail("--first %d: there are %d images", set.first, all.count);
    d = cli_slice_of(&slice, &all, set.first, all.count);
    for (i = 0; i < n; i++) specs[i].attack.first = (uint32_t)set.first; /* random numbers' */
    if (set.transfer)
        cross(c, &d, specs);
    else
        status = one_model(c, &d, specs, n);
    l2l_dataset_free(&all);
    l2l_learned_free(spec_defaults.phi);
    l2lda_free(spec_defaults.generator);
    l2l_context_free(c);
    failed |= cli_end();
    return status ? status : failed;
}
