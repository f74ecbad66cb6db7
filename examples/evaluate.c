/* evaluate.c - accuracy of a model on clean images and under attacks. evaluate --help lists the
 * flags and the attacks. */
#include "cli.h"

enum { MAX_ATTACKS = 64 };

static const char about[] =
    "Measures the accuracy of a model on the test images, clean and under attacks.\n\n"
    "An attack is NAME[:key=value]...; attacks are separated by commas:\n"
    "  none       clean images\n"
    "  fgsm       one step of eps            step start restarts last seed\n"
    "  ifgsm      from the clean image       steps step start restarts last seed\n"
    "  pgd        from a random start        steps step start restarts last seed\n"
    "  learned    the one of --maximizer     steps start restarts last seed\n"
    "keys:\n"
    "  steps=N    gradient steps [10; learned: as many as it was trained with]\n"
    "  step=X     step size: 0.01, 2/255 or eps/4 [eps/4]\n"
    "  start=S    clean, uniform (in the ball) or normal (x + 0.001 N(0,1))\n"
    "  restarts=N runs from other random starts [1]\n"
    "  last=1     take the last iterate, not the best\n"
    "  seed=N     of the random starts [--seed]\n"
    "for example: pgd:steps=100:step=eps/4:restarts=5,pgd:steps=10:start=clean:last=1";

static const struct {
    const char *name, *keys;
} kinds[] = {
    {"none", ""},
    {"fgsm", "step|start|restarts|last|seed"},
    {"ifgsm", "steps|step|start|restarts|last|seed"},
    {"pgd", "steps|step|start|restarts|last|seed"},
    {"learned", "steps|start|restarts|last|seed"},
};
enum { NONE, FGSM, IFGSM, PGD, LEARNED, KINDS };

static struct {
    const char *model, *arch, *dataset, *data, *attack, *maximizer, *init, *dump_logits, *dump_adv;
    double width, eps;
    int depth, limit, batch, threads;
    uint64_t seed;
    bool json;
} set;

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
        {"limit", CLI_INTEGER, &set.limit, 0, 1e9, NULL, "the first N images; 0: all"},
        {"batch", CLI_INTEGER, &set.batch, 1, 65536, NULL, "images at a time; changes no result"},
        {"seed", CLI_SEED, &set.seed, 0, 0, NULL, "of the random starts"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {"json", CLI_SWITCH, &set.json, 0, 0, NULL, "print one JSON object"},
        {"dump-logits", CLI_TEXT, &set.dump_logits, 0, 0, "F.npy", "file for the clean logits"},
        {"dump-adv", CLI_TEXT, &set.dump_adv, 0, 0, "F.npy",
         "file for the attacked images (of one attack)"},
        {"init", CLI_TEXT, &set.init, 0, 0, "F.npy", "starting points NxCxHxW of the first run"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    cli_output outputs[] = {{"dump-logits", NULL}, {"dump-adv", NULL}};
    set.dataset = "embedded";
    set.attack = "none,fgsm,pgd";
    set.eps = -1;
    set.batch = l2l_evaluation_default().batch;
    cli_parse(argc, argv, about, flags);
    set.eps = cli_default_epsilon(set.eps, set.dataset);
    outputs[0].path = set.dump_logits;
    outputs[1].path = set.dump_adv;
    cli_check_outputs(outputs, 2);
}

/* ---- SPEC ---- */

typedef struct {
    char spec[256]; /* as typed */
    int kind;
    l2l_attack attack;
    double seconds;
    l2l_result result;
} job;

/* "0.01", "2/255", "eps", "eps/4". */
static bool step_size(const char *text, double *value)
{
    double divisor = 1;
    if (strncmp(text, "eps", 3)) return cli_number(text, value) && *value >= 0 && *value <= 1;
    if (text[3] && (text[3] != '/' || !cli_number(text + 4, &divisor) || divisor <= 0))
        return false;
    *value = set.eps / divisor;
    return true;
}

static bool start_point(const char *text, l2l_start *start)
{
    static const char *const names[] = {"clean", "uniform", "normal"};
    static const l2l_start values[] = {L2L_START_CLEAN, L2L_START_UNIFORM, L2L_START_NORMAL};
    int i;
    for (i = 0; i < 3; i++)
        if (!strcmp(text, names[i])) {
            *start = values[i];
            return true;
        }
    return false;
}

/* Sets one key; what is allowed if that fails. */
static const char *set_key(l2l_attack *a, const char *key, const char *value)
{
    char *end;
    int last = 0;
    if (!strcmp(key, "steps"))
        return cli_integer(value, 1, 1e6, &a->steps) ? NULL : "an integer from 1 to 1000000";
    if (!strcmp(key, "restarts"))
        return cli_integer(value, 1, 1e6, &a->restarts) ? NULL : "an integer from 1 to 1000000";
    if (!strcmp(key, "step"))
        return step_size(value, &a->step_size) ? NULL : "0 to 1, as 0.01, 2/255 or eps/4";
    if (!strcmp(key, "start"))
        return start_point(value, &a->start) ? NULL : "clean, uniform or normal";
    if (!strcmp(key, "last")) {
        if (!cli_integer(value, 0, 1, &last)) return "0 or 1";
        a->last_iterate = last != 0;
        return NULL;
    }
    errno = 0;
    a->seed = strtoull(value, &end, 10);
    return *value >= '0' && *value <= '9' && !*end && !errno ? NULL : "an integer from 0";
}

static l2l_attack default_attack(int kind, l2l_learned *phi)
{
    int T = 0;
    double epsilon;
    if (phi) l2l_learned_trained_with(phi, &T, &epsilon);
    switch (kind) {
    case FGSM: return l2l_attack_fgsm(set.eps);
    case IFGSM: return l2l_attack_ifgsm(set.eps);
    case LEARNED: return l2l_attack_learned(phi, set.eps, T > 0 ? T : 10); /* as it was trained */
    default: return l2l_attack_pgd(set.eps);
    }
}

static int find_kind(const char *spec, const char *name)
{
    char list[128] = "";
    int i;
    for (i = 0; i < KINDS; i++) {
        if (!strcmp(kinds[i].name, name)) return i;
        strcat(strcat(list, i ? ", " : ""), kinds[i].name);
    }
    cli_fail("--attack %s: no attack '%s' in this version of l2ladv.h; available: %s", spec, name,
             list);
    return 0;
}

/* NAME[:key=value]... */
static void parse_spec(job *j, l2l_learned *phi)
{
    char text[256], *key, *value, *next;
    const char *allowed;
    memcpy(text, j->spec, sizeof text);
    if ((next = strchr(text, ':')) != NULL) *next++ = 0;
    j->kind = find_kind(j->spec, text);
    if (j->kind == LEARNED && !phi) cli_fail("--attack %s: needs --maximizer F", j->spec);
    j->attack = default_attack(j->kind, phi);
    j->attack.seed = set.seed;
    while ((key = next) != NULL) {
        if ((next = strchr(key, ':')) != NULL) *next++ = 0;
        if ((value = strchr(key, '=')) != NULL) *value++ = 0;
        if (!cli_listed(kinds[j->kind].keys, key, strlen(key)) || !*key)
            cli_fail("--attack %s: no key '%s'; allowed is %s", j->spec, key,
                     *kinds[j->kind].keys ? kinds[j->kind].keys : "none");
        allowed = value ? set_key(&j->attack, key, value) : "KEY=VALUE";
        if (allowed)
            cli_fail("--attack %s: %s '%s': allowed is %s", j->spec, key, value ? value : "",
                     allowed);
    }
}

static int parse_attacks(job *jobs, l2l_learned *phi)
{
    const char *at = set.attack;
    int n = 0, dumped = 0;
    while (at) {
        size_t length = strcspn(at, ",");
        if (n == MAX_ATTACKS) cli_fail("--attack: at most %d attacks", MAX_ATTACKS);
        if (length >= sizeof jobs->spec) cli_fail("--attack: a SPEC of %zu characters", length);
        snprintf(jobs[n].spec, sizeof jobs->spec, "%.*s", (int)length, at);
        parse_spec(&jobs[n], phi);
        dumped += jobs[n++].kind != NONE;
        at = at[length] ? at + length + 1 : NULL;
    }
    if (set.dump_adv && dumped != 1)
        cli_fail("--dump-adv needs exactly one attack, not %d", dumped);
    return n;
}

/* ---- arrays ---- */

/* Room for the images of an evaluation, which have the model's size. */
static l2l_real *image_room(const l2l_evaluation *e)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    size_t pixels = (size_t)o->channels * (size_t)o->height * (size_t)o->width;
    return (l2l_real *)cli_allocate((size_t)e->images * pixels, sizeof(l2l_real));
}

static void save_images(const char *path, const l2l_real *x, const l2l_evaluation *e)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    const int64_t shape[4] = {e->images, o->channels, o->height, o->width};
    l2l_npy_save_reals(e->data->context, path, x, shape, 4);
}

/* The clean images come from an attack that stays where it starts. */
static void dump_logits(l2l_evaluation *e)
{
    int n = e->images, classes = l2l_model_info(e->model)->classes;
    l2l_real *x = image_room(e);
    l2l_real *z = (l2l_real *)cli_allocate((size_t)n * (size_t)classes, sizeof *z);
    const int64_t shape[2] = {n, classes};
    l2l_attack none = l2l_attack_ifgsm(0);
    l2l_result r;
    none.steps = 0;
    none.batch = set.batch;
    l2l_evaluation_attack(e, &none, &r, NULL, x);
    l2l_model_logits(e->model, x, n, z);
    l2l_npy_save_reals(e->data->context, set.dump_logits, z, shape, 2);
    free(z);
    free(x);
}

static void load_init(const l2l_evaluation *e, l2l_array *a)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    if (!l2l_npy_load(e->data->context, set.init, a)) die(e->data->context);
    if (a->rank != 4 || a->integer || a->shape[0] < e->images || a->shape[1] != o->channels ||
        a->shape[2] != o->height || a->shape[3] != o->width)
        cli_fail("--init %s: expected reals of shape (%d or more, %d, %d, %d)", set.init, e->images,
                 o->channels, o->height, o->width);
}

/* ---- attacks and their results ---- */

static void run(l2l_evaluation *e, job *j, const l2l_real *init)
{
    l2l_real *adv = NULL;
    double begin = cli_seconds();
    if (j->kind == NONE) {
        j->result.accuracy = e->natural;
        return;
    }
    if (set.dump_adv) adv = image_room(e);
    j->attack.init = init;
    j->attack.batch = set.batch;
    l2l_evaluation_attack(e, &j->attack, &j->result, NULL, adv);
    j->seconds = cli_seconds() - begin;
    if (adv) save_images(set.dump_adv, adv, e);
    free(adv);
}

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

static void print_json(const l2l_evaluation *e, const job *jobs, int n)
{
    int i;
    printf("{\"images\":%d,\"natural\":%.9g,\"attacks\":{", e->images, e->natural);
    for (i = 0; i < n; i++) {
        if (i) putchar(',');
        print_string(jobs[i].spec);
        printf(":{\"accuracy\":%.9g,\"seconds\":%.6g,\"zero_gradients\":%.9g}",
               jobs[i].result.accuracy, jobs[i].seconds, jobs[i].result.zero_gradients);
    }
    printf("},\"worst\":%.9g,\"epsilon\":%.9g,\"seed\":%llu,\"threads\":%d}\n", e->worst, set.eps,
           (unsigned long long)set.seed, l2l_threads(e->data->context));
}

static void print_table(const l2l_evaluation *e, const job *jobs, int n)
{
    const l2l_model_options *o = l2l_model_info(e->model);
    size_t width = 7;
    int i;
    for (i = 0; i < n; i++)
        if (strlen(jobs[i].spec) > width) width = strlen(jobs[i].spec);
    printf("model    %s: %s, %ld parameters\n", set.model, o->arch, (long)l2l_model_size(e->model));
    printf("data     %s, %d images of %dx%d", set.dataset, e->images, e->data->height,
           e->data->width);
    if (e->data->height != o->height || e->data->width != o->width)
        printf(", cut to %dx%d", o->height, o->width);
    putchar('\n');
    printf("epsilon  %s, seed %llu, threads %d\n\n", cli_epsilon(set.eps).text,
           (unsigned long long)set.seed, l2l_threads(e->data->context));
    printf("%-*s  accuracy       time  zero gradients\n", (int)width, "attack");
    printf("%-*s  %6.2f %%\n", (int)width, "natural", 100 * e->natural);
    for (i = 0; i < n; i++)
        if (jobs[i].kind != NONE)
            printf("%-*s  %6.2f %%  %9s  %12.2f %%\n", (int)width, jobs[i].spec,
                   100 * jobs[i].result.accuracy, cli_duration(jobs[i].seconds).text,
                   100 * jobs[i].result.zero_gradients);
    printf("%-*s  %6.2f %%\n", (int)width, "worst", 100 * e->worst);
}

int main(int argc, char **argv)
{
    static job jobs[MAX_ATTACKS];
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_array init;
    l2l_evaluation e;
    l2l_learned *phi = NULL;
    l2l_context *c;
    l2l_dataset d;
    l2l_model *m;
    double begin;
    int i, n;

    parse(argc, argv);
    c = cli_context(set.threads);
    if (set.maximizer && !(phi = l2l_learned_open(c, set.maximizer))) die(c);
    n = parse_attacks(jobs, phi);
    m = cli_model_open(c, set.model, set.arch, set.width, set.depth);
    cli_dataset(c, set.dataset, set.data, false, &d);
    o.limit = set.limit;
    o.batch = set.batch;
    begin = cli_seconds();
    if (!l2l_evaluation_begin(m, &d, &o, &e)) die(c);
    for (i = 0; i < n; i++)
        if (jobs[i].kind == NONE) jobs[i].seconds = cli_seconds() - begin;
    memset(&init, 0, sizeof init);
    if (set.init) load_init(&e, &init);
    for (i = 0; i < n && !l2l_error(c); i++) {
        if (!set.json && isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K%s ...", jobs[i].spec);
        run(&e, &jobs[i], set.init ? init.reals : NULL);
    }
    if (!set.json && isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
    if (set.dump_logits) dump_logits(&e);
    if (l2l_error(c)) die(c);
    if (set.json)
        print_json(&e, jobs, n);
    else
        print_table(&e, jobs, n);

    if (set.init) l2l_array_free(c, &init);
    l2l_evaluation_end(&e);
    l2l_dataset_free(&d);
    l2l_model_free(m);
    l2l_learned_free(phi);
    l2l_context_free(c);
    return cli_end();
}
