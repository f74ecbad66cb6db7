/* paper.c - the tables and figures of the paper, from training to Markdown and pictures:
 *
 *     examples/bin/paper --table 3 --scale laptop
 *     examples/bin/paper --table 3 --results F.jsonl --measured
 *     examples/bin/paper --figure steps
 *
 * Trains what a table needs with bin/train, attacks it with bin/evaluate, prints the table. Every
 * model and every measurement is a job, named after all that it depends on. What a measurement said
 * is a line of --results, by its name, and is not measured again, nor a model trained that nothing
 * is to be measured on; a job that was stopped goes on from its files under --out; tables share
 * models. --measured prints what there is and runs nothing. paper --help lists the flags. */
#include "cli.h"
#include "l2lda.h"
#include "figures.h"
#include <sys/wait.h>

#define FIGURES "curves|epsilon|steps|surface|optimizer|sheet"
enum { MOST_SEEDS = 16, MOST_WORDS = 96, TABLES = 9 };

/* ---- what a scale is ---- */

typedef struct {
    const char *dataset, *arch, *name, *eps;
    /* [0] laptop, [1] paper; width and depth of the classifier: 0 as it is                       */
    double width[2];
    int depth[2], images[2], epochs[2], seeds[2], test[2], ensemble[2], crop[2];
} subject;

/* The paper does not say its epochs; 100 is ours. Images and test images: 0 is all of them. */
static const subject mnist = {"mnist", "smallcnn", "4-layer CNN, MNIST", "0.3", {0, 0}, {0, 0},
                              {20000, 0}, {5, 100}, {1, 5}, {1000, 0}, {1000, 0}, {0, 0}};
static const subject vgg = {"cifar10", "vgg16", "VGG-16, CIFAR-10", "8/255", {0.25, 0}, {0, 0},
                            {0, 0}, {5, 100}, {1, 5}, {1000, 0}, {1000, 0}, {0, 0}};
static const subject wide = {"cifar10", "wrn", "WideResNet, CIFAR-10", "8/255", {2, 0}, {10, 0},
                             {10000, 0}, {6, 100}, {1, 5}, {1000, 0}, {1000, 0}, {0, 0}};
static const subject restricted = {"restricted-imagenet", "resnet18",
                                   "ResNet-18, Restricted ImageNet", "8/255", {0.25, 0}, {0, 0},
                                   {0, 0}, {5, 30}, {1, 5}, {0, 0}, {0, 0}, {64, 224}};

static struct {
    int table, threads, images, epochs, seeds, test, ensemble, batch, steps;
    double width, average;
    uint64_t seed;
    const char *scale, *figure, *eps, *data, *dataset, *out, *results, *methods;
    bool plan, measured, json;
} set;
static subject now;                          /* the table's, with what the flags change */
static int seeds;
static l2l_context *context;

/* ---- folders, files, texts ---- */

typedef struct {
    char text[1200];
} path;

static path path_of(const char *format, ...)
{
    path p;
    va_list a;
    int n;
    va_start(a, format);
    n = vsnprintf(p.text, sizeof p.text, format, a);
    va_end(a);
    if (n < 0 || n >= (int)sizeof p.text) cli_fail("--out %s: the path is too long", set.out);
    return p;
}

static bool is_there(const char *name) { return !access(name, F_OK); }

static void make_folder(const char *name)
{
    char part[1200];
    size_t i, n = strlen(name);
    for (i = 1; i <= n && n < sizeof part; i++) {
        if (i < n && name[i] != '/') continue;
        memcpy(part, name, i);
        part[i] = 0;
        if (mkdir(part, 0777) && errno != EEXIST) cli_die_errno(part);
    }
}

/* All of a text file, to be freed; NULL if there is none. One that cannot be read is the end. */
static char *read_text(const char *name)
{
    FILE *f = fopen(name, "rb");
    char *text = NULL;
    size_t n = 0, room = 0, got;
    if (!f && errno != ENOENT && errno != ENAMETOOLONG) cli_die_errno(name);
    if (!f) return NULL;
    do {
        if (n + 4096 > room && !(text = (char *)realloc(text, room = 2 * room + 8192)))
            cli_die_errno("memory");
        got = fread(text + n, 1, 4096, f);
        n += got;
    } while (got);
    if (ferror(f)) cli_die_errno(name);
    fclose(f);
    text[n] = 0;
    return text;
}

/* ---- running the other programs ---- */

typedef struct {
    char *word[MOST_WORDS];
    int n;
} command;

static void add(command *c, const char *format, ...)
{
    char text[3000];
    va_list a;
    va_start(a, format);
    vsnprintf(text, sizeof text, format, a);
    va_end(a);
    if (c->n + 1 >= MOST_WORDS) cli_fail("a command of too many words");
    c->word[c->n] = (char *)cli_allocate(strlen(text) + 1, 1);
    strcpy(c->word[c->n++], text);
}

static void add_flag(command *c, const char *name, const char *format, ...)
{
    char text[3000];
    va_list a;
    va_start(a, format);
    vsnprintf(text, sizeof text, format, a);
    va_end(a);
    add(c, "--%s", name);
    add(c, "%s", text);
}

static command program(const char *name)
{
    command c;
    const char *slash = strrchr(cli_path, '/');
    memset(&c, 0, sizeof c);
    if (slash) add(&c, "%.*s/%s", (int)(slash - cli_path), cli_path, name);
    else add(&c, "%s", name);
    return c;
}

/* As a shell reads it. */
static void print_command(FILE *f, const command *c)
{
    int i;
    const char *s;
    for (i = 0; i < c->n; i++) {
        bool plain = !c->word[i][strcspn(c->word[i], " \t\n!\"#$&'()*;<>?[\\]^`{|}~")];
        fprintf(f, i ? " " : "  ");
        if (!plain) fputc('\'', f);
        for (s = c->word[i]; *s; s++)
            if (*s == '\'') fprintf(f, "'\\''");
            else fputc(*s, f);
        if (!plain) fputc('\'', f);
    }
    fputc('\n', f);
}

/* Is it the first time that this file is asked about? Rows share models. */
static bool new_here(const char *name)
{
    static path known[2000];
    static int n;
    int i;
    for (i = 0; i < n; i++) if (!strcmp(known[i].text, name)) return false;
    if (n < (int)(sizeof known / sizeof *known)) known[n++] = path_of("%s", name);
    return true;
}

/* --plan: each command once, by the file that it makes. */
static void plan(const command *c, const char *makes)
{
    if (new_here(makes)) print_command(stdout, c);
}

/* ---- what is known ---- */

/* --results holds JSON lines: {"job":"NAME","result":{...}}, what evaluate printed of it, or of a
 * job that is only timed {"job":"NAME","seconds":S}. Earlier versions gave seconds to all jobs, to
 * trainings, too, but only of the sittings that paper saw the end of: those are not read. */

static path results_file(void)
{
    return set.results ? path_of("%s", set.results) : path_of("%s/results.jsonl", set.out);
}

/* A job's name in the results: that of its files, without the folder of all jobs. */
static const char *job_name(const char *file) { return file + strlen(set.out) + 1; }

/* The line of a job, from behind its name on, to be freed; NULL: it is not done. A last line that a
 * process was killed in the middle of does not count. */
static char *known(const char *job)
{
    path start = path_of("{\"job\":\"%s\",", job);
    size_t n = strlen(start.text);
    char *text = read_text(results_file().text), *at = text, *end, *found = NULL;
    for (; at && !found && (end = strchr(at, '\n')); at = end + 1) {
        if (strncmp(at, start.text, n)) continue;
        *end = 0;
        found = (char *)cli_allocate(strlen(at + n) + 1, 1);
        strcpy(found, at + n);
    }
    free(text);
    return found;
}

/* A copy without the folder of all jobs in front of names, and in one line; to be freed. */
static char *placeless(const char *text)
{
    char *copy = (char *)cli_allocate(strlen(text) + 1, 1), *to = copy;
    size_t n = strlen(set.out);
    while (*text) {
        if (!strncmp(text, set.out, n) && text[n] == '/') text += n + 1;
        else if (*text++ != '\n') *to++ = text[-1];
    }
    *to = 0;
    return copy;
}

/* A line more; the value is a JSON number or object. */
static void make_known(const char *job, const char *key, const char *value)
{
    path name = results_file();
    char *before = read_text(name.text), *line = placeless(value);
    size_t n = before ? strlen(before) : 0;
    FILE *f = fopen(name.text, "a");
    if (!f || (n && before[n - 1] != '\n' && fputc('\n', f) == EOF) ||
        fprintf(f, "{\"job\":\"%s\",\"%s\":%s}\n", job, key, line) < 0 || fclose(f))
        cli_die_errno(name.text);
    free(before);
    free(line);
}

/* Runs it with its output in a file; returns the seconds that it took. A program that fails ends
 * this one, too. Nothing is run whose results could not be kept. */
static double run(command *c, const char *output)
{
    double begin;
    int status = 0, i;
    pid_t child;
    cli_check_output("results", results_file().text);
    begin = cli_seconds();
    fflush(NULL);
    child = fork();
    if (child < 0) cli_die_errno("fork");
    if (!child) {
        int fd = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        if (fd < 0 || dup2(fd, 1) < 0) _exit(126);
        execvp(c->word[0], c->word);
        _exit(127);
    }
    signal(SIGINT, SIG_IGN);                 /* the child writes its checkpoint and ends          */
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    signal(SIGINT, SIG_DFL);
    begin = cli_seconds() - begin;
    if (status) {
        fprintf(stderr, "%s: this ended with status %d; run again, paper goes on there:\n",
                cli_program, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        print_command(stderr, c);
        exit(1);
    }
    for (i = 0; i < c->n; i++) free(c->word[i]);
    return begin;
}

/* ---- models ---- */

typedef struct {
    const char *name, *flag, *more;          /* "RNN-Adv"; --method; further words, "--beta 6"    */
} row;

static const row rows[] = {{"Plain", "plain", ""},
                           {"AdvTrain", "advtrain", ""},
                           {"AdvTrain+BLS", "advtrain-bls", ""},
                           {"TRADES", "trades", ""},
                           {"TRADES, beta 6", "trades", "--beta 6"},
                           {"L2LDA", "l2lda", "--generator-width 0.25"},
                           {"RNN-Adv", "rnn-adv", ""},
                           {"RNN-TRADES", "rnn-trades", ""},
                           {"RNN-TRADES, beta 6", "rnn-trades", "--beta 6"}};
enum { PLAIN, ADVTRAIN, ADVTRAIN_BLS, TRADES, TRADES6, L2LDA, RNN_ADV, RNN_TRADES, RNN_TRADES6 };

/* A number with as many digits as lead back to it, from 6 on. */
static path number(double v)
{
    path p;
    int digits = 6;
    do p = path_of("%.*g", digits, v);
    while (strtod(p.text, NULL) != v && ++digits <= 17);
    return p;
}

/* Images of another folder than the usual one are others: a digest of where it is, or "". But for
 * the embedded ones, which are the same wherever they lie. */
static path data_mark(void)
{
    char usual[1200], *a, *b;
    const char *s;
    unsigned long h = 2166136261ul;
    bool same;
    if (!set.data || !strcmp(now.dataset, "embedded")) return path_of("%s", "");
    cli_data_folder(now.dataset, usual, sizeof usual);
    a = realpath(set.data, NULL);
    b = realpath(usual, NULL);
    same = a && b ? !strcmp(a, b) : !strcmp(set.data, usual);
    for (s = a ? a : set.data; *s; s++) h = ((h ^ (unsigned char)*s) * 16777619ul) & 0xfffffffful;
    free(a);
    free(b);
    return same ? path_of("%s", "") : path_of("-data%08lx", h);
}

/* The start of the names of a model's files, in a folder named after all that is set. */
static path model_name(const row *r, int seed)
{
    path folder;
    char more[64], *at;
    folder = path_of("%s/%s-%s-w%s-d%d-i%d-e%d-b%d-T%d-eps%s", set.out, now.dataset, now.arch,
                     number(now.width[0]).text, now.depth[0], now.images[0], now.epochs[0],
                     set.batch, set.steps, now.eps);
    if (now.crop[0]) folder = path_of("%s-c%d", folder.text, now.crop[0]);
    if (set.average > 0) folder = path_of("%s-a%s", folder.text, number(set.average).text);
    folder = path_of("%s%s", folder.text, data_mark().text);
    for (at = folder.text + strlen(set.out) + 1; *at; at++) if (*at == '/') *at = 'o'; /* 8o255 */
    snprintf(more, sizeof more, "%s", r->more);
    for (at = more; *at; at++) if (*at == ' ') *at = '-';
    return path_of("%s/%s%s-s%llu", folder.text, r->flag, more + (*more != 0),
                   (unsigned long long)set.seed + (unsigned long long)seed);
}

/* The folder that a file of this name will be in. */
static void make_room(const char *file)
{
    make_folder(path_of("%.*s", (int)(strrchr(file, '/') - file), file).text);
}

static void add_subject(command *c)
{
    add_flag(c, "dataset", "%s", now.dataset);
    if (set.data) add_flag(c, "data", "%s", set.data);
    add_flag(c, "eps", "%s", now.eps);
    add_flag(c, "threads", "%d", set.threads);
}

static bool generates(const row *r) { return !strcmp(r->flag, "l2lda"); }
static bool has_maximizer(const row *r) { return generates(r) || !strncmp(r->flag, "rnn", 3); }

static command training(const row *r, int seed)
{
    command c = program("train");
    char more[64], *word;
    add_subject(&c);
    add_flag(&c, "method", "%s", r->flag);
    add_flag(&c, "arch", "%s", now.arch);
    if (now.width[0] > 0) add_flag(&c, "width", "%s", number(now.width[0]).text);
    if (now.depth[0]) add_flag(&c, "depth", "%d", now.depth[0]);
    if (now.crop[0]) add_flag(&c, "crop", "%d", now.crop[0]);
    if (now.images[0]) add_flag(&c, "limit", "%d", now.images[0]);
    add_flag(&c, "epochs", "%d", now.epochs[0]);
    add_flag(&c, "batch", "%d", set.batch);
    if (strcmp(r->flag, "plain")) add_flag(&c, "steps", "%d", set.steps);
    add_flag(&c, "schedule", "cosine");
    add_flag(&c, "seed", "%llu", (unsigned long long)set.seed + (unsigned long long)seed);
    snprintf(more, sizeof more, "%s", r->more);
    for (word = strtok(more, " "); word; word = strtok(NULL, " ")) add(&c, "%s", word);
    return c;
}

static void add_average(command *c, const char *file)
{
    add_flag(c, "average", "%s", number(set.average).text);
    add_flag(c, "save-average", "%s", file);
}

/* Files that are there until a training has come to its end and all its files are written: train
 * saves what it has where it fails, too. What it printed; a checkpoint, which goes last, since
 * without it all would be trained again; what earlier versions noted of sittings that failed. */
static const char *const passing[] = {"unfinished", "seconds", "checkpoint"};
enum { PASSING = 3 };

/* Is this model whole? Who put files of another folder there has none of those that pass. */
static bool is_trained(const row *r, const char *name)
{
    int i;
    for (i = 0; i < PASSING; i++)
        if (is_there(path_of("%s.%s", name, passing[i]).text)) return false;
    return is_there(path_of("%s.safetensors", name).text) &&
           (!has_maximizer(r) || is_there(path_of("%s.phi", name).text));
}

/* Trains the model of a row, if it is not done, and gives the start of its files' names. */
static path trained(const row *r, int seed)
{
    path p = model_name(r, seed), model = path_of("%s.safetensors", p.text);
    path output = path_of("%s.unfinished", p.text), log = path_of("%s.txt", p.text);
    int i;
    if (!is_trained(r, p.text)) {
        command c = training(r, seed);
        add_flag(&c, "save", set.average > 0 ? "%s.last" : "%s.safetensors", p.text);
        if (set.average > 0) add_average(&c, model.text);
        if (has_maximizer(r)) add_flag(&c, "save-maximizer", "%s.phi", p.text);
        add_flag(&c, "checkpoint", "%s.checkpoint", p.text);
        add(&c, "--resume");
        add_flag(&c, "log", "%s.jsonl", p.text);
        if (set.plan) { plan(&c, model.text); return p; }
        make_room(model.text);
        fprintf(stderr, "training %s, seed %llu\n", r->name,
                (unsigned long long)set.seed + (unsigned long long)seed);
        run(&c, output.text);
        if (rename(output.text, log.text)) cli_die_errno(log.text);
        for (i = 0; i < PASSING; i++) remove(path_of("%s.%s", p.text, passing[i]).text);
    }
    return p;
}

/* ---- measurements ---- */

/* The number of `key` behind the attack `spec` (NULL: of the whole) in what evaluate printed. */
static bool json_number(const char *text, const char *spec, const char *key, double *v)
{
    char quoted[400];
    const char *at = text;
    if (spec) {
        snprintf(quoted, sizeof quoted, "\"%s\":{", spec);
        if (!(at = strstr(text, quoted))) return false;
    }
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    if (!(at = strstr(at, quoted))) return false;
    *v = strtod(at + strlen(quoted), NULL);
    return true;
}

/* What an attack needs: the maximizer that RNN-Adv of the same seed was trained with, L2LDA's
 * generator, the models that images of table 7 are made for; and AutoAttack besides. */
enum { WITH_PHI = 1, WITH_GENERATOR = 2, WITH_SOURCES = 4, WITH_ENSEMBLE = 8 };

/* Those are Plain and AdvTrain of the seed behind the last. */
static const int sources[] = {PLAIN, ADVTRAIN};

/* Attacks the model of a row on the first `limit` test images; the JSON text, to be freed. `name`
 * and the attacks name the job. NULL where it is not done and not to be. */
static char *measured(int which, int seed, const char *name, const char *attacks, int limit,
                      int with)
{
    path job, output, model;
    unsigned long h = 2166136261ul;
    char *text = placeless(attacks), *s;
    command c;
    int i;
    for (s = text; *s; s++) h = ((h ^ (unsigned char)*s) * 16777619ul) & 0xfffffffful;
    free(text);
    job = path_of("%s.%s-%d-%08lx", model_name(&rows[which], seed).text, name, limit, h);
    if ((text = known(job_name(job.text))) || set.measured) return text;
    model = trained(&rows[which], seed);
    output = path_of("%s.unfinished", job.text);
    c = program("evaluate");
    add_subject(&c);
    add_flag(&c, "model", "%s.safetensors", model.text);
    add_flag(&c, "attack", "%s", attacks);
    if (limit) add_flag(&c, "limit", "%d", limit);
    if (with & WITH_PHI)
        add_flag(&c, "maximizer", "%s.phi", trained(&rows[RNN_ADV], seed).text);
    if (with & WITH_GENERATOR)
        add_flag(&c, "generator", "%s.phi", trained(&rows[L2LDA], seed).text);
    for (i = 0; i < 2 && with & WITH_SOURCES; i++) trained(&rows[sources[i]], seeds);
    add_flag(&c, "state", "%s.state", job.text);
    add(&c, "--json");
    if (set.plan) { plan(&c, job.text); return NULL; }
    fprintf(stderr, "attacking %s: %s\n", strrchr(model.text, '/') + 1, attacks);
    run(&c, output.text);
    text = read_text(output.text);
    if (!text) cli_die_errno(output.text);
    make_known(job_name(job.text), "result", text);
    free(text);
    remove(output.text);
    remove(path_of("%s.state", job.text).text);
    return known(job_name(job.text));
}

/* ---- tables ---- */

typedef struct {
    double value[MOST_SEEDS];
    int n;
} cell;

static void put(cell *c, double v) { if (c->n < MOST_SEEDS) c->value[c->n++] = v; }

/* One seed: the figure. Several: the mean, half of what lies between the ends, and the lowest. With
 * --measured fewer than `all` may be known, which is said. */
static void print_cell(const cell *c, double factor, const char *format, int all)
{
    char text[32];
    double sum = 0, low, high;
    int i;
    if (!c->n) { printf(" - |"); return; }
    low = high = c->value[0];
    for (i = 0; i < c->n; i++) {
        sum += c->value[i];
        if (c->value[i] < low) low = c->value[i];
        if (c->value[i] > high) high = c->value[i];
    }
    snprintf(text, sizeof text, format, factor * sum / c->n);
    printf(" %s", text);
    if (c->n > 1) {
        snprintf(text, sizeof text, format, factor * (high - low) / 2);
        printf(" ± %s", text);
        snprintf(text, sizeof text, format, factor * low);
        printf(" (%s)", text);
    }
    if (c->n < all) printf(", %d of %d", c->n, all);
    printf(" |");
}

static void print_percent(const cell *c) { print_cell(c, 100, "%.2f", seeds); }

/* --json: the figures of a cell, one a seed. */
static void print_values(const char *name, const cell *c)
{
    int i;
    printf(",\"%s\":[", name);
    for (i = 0; i < c->n; i++) printf("%s%.10g", i ? "," : "", c->value[i]);
    printf("]");
}

/* A head with the first column's name and those in a list "a|b". */
static void print_head(const char *first, const char *list)
{
    const char *s;
    if (set.json || set.plan) return;
    printf("\n| %s | ", first);
    for (s = list; *s; s++) {
        if (*s == '|') printf(" | "); else putchar(*s);
    }
    printf(" |\n|---|");
    for (s = list; *s; s++) if (*s == '|') printf("---|");
    printf("---|\n");
}

static bool wanted(int which)
{
    return !set.methods || cli_listed(set.methods, rows[which].flag, strlen(rows[which].flag));
}

/* A line of the results is read again at once: that takes a file that keeps it. */
static void check_results(void)
{
    struct stat s;
    const path name = results_file();
    if (!stat(name.text, &s) && !S_ISREG(s.st_mode) && !S_ISDIR(s.st_mode))
        cli_fail("--results %s: is no regular file", name.text);
}

/* Every name in --methods is that of a row. */
static void check_methods(void)
{
    const char *s, *end;
    size_t i, n = sizeof rows / sizeof *rows;
    for (s = set.methods; s; s = *end ? end + 1 : NULL) {
        end = s + strcspn(s, "|");
        for (i = 0; i < n; i++)
            if (cli_listed(rows[i].flag, s, (size_t)(end - s))) break;
        if (i == n) cli_fail("--methods %s: no row '%.*s'", set.methods, (int)(end - s), s);
    }
}

/* And one of those that a table or a figure may have is wanted. */
static void expect_rows(const int *list, int n)
{
    int i;
    for (i = 0; i < n; i++) if (wanted(list[i])) return;
    if (set.figure) cli_fail("--methods %s: --figure %s has none of them", set.methods, set.figure);
    cli_fail("--methods %s: --table %d has none of them", set.methods, set.table);
}

/* Accuracies of one row under a list of attacks, over all seeds. */
typedef struct {
    cell natural, attack[16], worst, ensemble;
} figures;

/* Whoever was trained with a maximizer of its own is attacked with RNN-Adv's like all others. */
static figures attacked(int which, const char *name, const char *const *attacks, int n, int with)
{
    char list[3000] = ""; /* two paths, in table 7 */
    figures f;
    int s, i;
    double v;
    memset(&f, 0, sizeof f);
    for (i = 0; i < n; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? "," : "", attacks[i]);
    for (s = 0; s < seeds; s++) {
        char *text = measured(which, s, name, list, now.test[0], with), *key;
        bool seen = text != NULL;
        if (text && json_number(text, NULL, "natural", &v)) put(&f.natural, v);
        if (text && json_number(text, NULL, "worst", &v)) put(&f.worst, v);
        for (i = 0; text && i < n; i++) {
            key = placeless(attacks[i]);
            if (json_number(text, key, "accuracy", &v)) put(&f.attack[i], v);
            free(key);
        }
        free(text);
        if (!(with & WITH_ENSEMBLE)) continue;
        text = measured(which, s, "autoattack", "autoattack", now.ensemble[0], 0);
        if (text && json_number(text, "autoattack", "accuracy", &v)) put(&f.ensemble, v);
        if (text && !seen && now.ensemble[0] == now.test[0] &&
            json_number(text, NULL, "natural", &v)) put(&f.natural, v); /* of the same images */
        free(text);
    }
    return f;
}

static void print_row(const char *name, const figures *f, const char *const *attacks, int n,
                      int with)
{
    int i;
    if (set.plan || (set.measured && !f->natural.n && !f->ensemble.n)) return;
    if (set.json) {
        printf("{\"table\":%d,\"trained with\":\"%s\"", set.table, name);
        print_values("natural", &f->natural);
        for (i = 0; i < n; i++) print_values(attacks[i], &f->attack[i]);
        print_values("worst", &f->worst);
        if (with & WITH_ENSEMBLE) print_values("autoattack", &f->ensemble);
        printf("}\n");
        fflush(stdout);
        return;
    }
    printf("| %s |", name);
    print_percent(&f->natural);
    for (i = 0; i < n; i++) print_percent(&f->attack[i]);
    print_percent(&f->worst);
    if (with & WITH_ENSEMBLE) print_percent(&f->ensemble);
    printf("\n");
    fflush(stdout);
}

/* Tables 1, 3, 4, 5 and 9: robust accuracy under the attacks that see the model. */
static void white_box(const int *list, int n)
{
    static const char *const attacks[] = {"fgsm", "pgd:steps=10", "pgd:steps=100",
                                          "cw-pgd:steps=100", "learned", "l2lda"};
    bool generator = wanted(L2LDA) && set.table != 1 && set.table != 9;
    int with = WITH_PHI | WITH_ENSEMBLE | (generator ? WITH_GENERATOR : 0);
    int count = generator ? 6 : 5, i;
    expect_rows(list, n);
    print_head("trained with", generator
                       ? "natural|FGSM|PGD-10|PGD-100|CW-100|learned|L2LDA's|worst|AutoAttack"
                       : "natural|FGSM|PGD-10|PGD-100|CW-100|learned|worst|AutoAttack");
    for (i = 0; i < n; i++) {
        figures f;
        if (!wanted(list[i])) continue;
        f = attacked(list[i], "white-box", attacks, count, with);
        print_row(rows[list[i]].name, &f, attacks, count, with);
    }
}

/* Table 6: more steps than the optimizer was trained for, beside PGD's. */
static void more_steps(const int *list, int n)
{
    static const char *const attacks[] = {"learned:steps=10", "pgd:steps=10", "learned:steps=20",
                                          "pgd:steps=20", "learned:steps=40", "pgd:steps=40",
                                          "learned:steps=100", "pgd:steps=100"};
    int i;
    expect_rows(list, n);
    print_head("trained with", "natural|learned 10|PGD-10|learned 20|PGD-20|learned 40|PGD-40|"
                               "learned 100|PGD-100|worst");
    for (i = 0; i < n; i++) {
        figures f;
        if (!wanted(list[i])) continue;
        f = attacked(list[i], "steps", attacks, 8, WITH_PHI);
        print_row(rows[list[i]].name, &f, attacks, 8, 0);
    }
}

/* Table 7: images made for another network, one trained plainly and one against PGD. */
static void black_box(const int *list, int n)
{
    char spec[2][1400];
    const char *attacks[2];
    int i;
    expect_rows(list, n);
    if (set.out[strcspn(set.out, ":,\"\\\n")]) /* in the names of attacks, and in JSON */
        cli_fail("--out %s: no colon, comma, quote, backslash or end of line where table 7 is made",
                 set.out);
    for (i = 0; i < 2; i++) {
        path from = model_name(&rows[sources[i]], seeds);
        snprintf(spec[i], sizeof spec[i], "transfer:from=%s.safetensors:attack=pgd:steps=40",
                 from.text);
        attacks[i] = spec[i];
    }
    print_head("trained with", "natural|from Plain|from AdvTrain|worst");
    for (i = 0; i < n; i++) {
        figures f;
        if (!wanted(list[i])) continue;
        f = attacked(list[i], "black-box", attacks, 2, WITH_SOURCES);
        print_row(rows[list[i]].name, &f, attacks, 2, 0);
    }
}

static int images_to_train_on(void)
{
    l2l_dataset d;
    int n;
    cli_dataset(context, now.dataset, set.data, true, &d);
    n = d.count;
    l2l_dataset_free(&d);
    return n;
}

/* Seconds of one epoch, in a data set of `all` images, from a training of some steps of whole
 * batches, less one of a single step: the best of three, taken in turn. */
static cell epoch_seconds(int which, int all)
{
    cell seconds;
    double best[2] = {0, 0}, v;
    int images = now.images[0] && now.images[0] < all ? now.images[0] : all;
    int steps = generates(&rows[which]) ? 4 : 40, round, i;
    if (steps > all / set.batch) steps = all / set.batch;
    if (steps < 2)
        cli_fail("--batch %d: %s has %d images to train on; seconds are told by 2 batches or more",
                 set.batch, now.dataset, all);
    memset(&seconds, 0, sizeof seconds);
    for (round = 0; round < 3; round++)
        for (i = 0; i < 2; i++) {
            int of = i ? steps : 1;
            path p = path_of("%s.time%s-%d-%d-%d", model_name(&rows[which], 0).text,
                             set.average > 0 ? "-average" : "", of, set.threads, round);
            path output = path_of("%s.txt", p.text), average = path_of("%s.average", p.text);
            char *text = known(job_name(p.text));
            if (!text && set.measured) return seconds;
            if (!text) {
                int kept = now.images[0], epochs = now.epochs[0];
                command c;
                now.images[0] = of * set.batch;
                now.epochs[0] = 1;
                c = training(&rows[which], 0);
                now.images[0] = kept;
                now.epochs[0] = epochs;
                if (set.average > 0) add_average(&c, average.text);
                if (set.plan) { plan(&c, p.text); continue; }
                make_room(p.text);
                make_known(job_name(p.text), "seconds",
                           path_of("%.4f", run(&c, output.text)).text);
                remove(average.text);
                text = known(job_name(p.text));
            }
            if (text && json_number(text, NULL, "seconds", &v) && (!round || v < best[i]))
                best[i] = v;
            free(text);
        }
    if (!set.plan) put(&seconds, (best[1] - best[0]) / (steps - 1) * images / set.batch);
    return seconds;
}

/* How many numbers the maximizer of a row learns. */
static double learned_numbers(int which)
{
    path job = path_of("%s.numbers", model_name(&rows[which], 0).text), p;
    char *text = known(job_name(job.text));
    double n = 0;
    if (text || set.measured) {
        if (text) json_number(text, NULL, "numbers", &n);
        free(text);
        return n;
    }
    p = path_of("%s.phi", trained(&rows[which], 0).text);
    if (set.plan) return 0;
    if (generates(&rows[which])) {
        l2lda *g = l2lda_open(context, p.text);
        n = (double)l2l_model_size(l2lda_network(g));
        l2lda_free(g);
    } else {
        l2l_learned *phi = l2l_learned_open(context, p.text);
        n = l2l_learned_size(phi);
        l2l_learned_free(phi);
    }
    if (l2l_error(context)) die(context);
    make_known(job_name(job.text), "result", path_of("{\"numbers\":%.0f}", n).text);
    return n;
}

/* Tables 2 and 8: what an epoch takes. */
static void times(const int *list, int n)
{
    int all = images_to_train_on(), i;
    double numbers = 0;
    expect_rows(list, n);
    print_head("trained with", set.table == 8 ? "seconds an epoch|to the original"
                                                  : "maximizer's parameters|seconds an epoch");
    for (i = 0; i < n; i++) {
        int original = list[i] == RNN_ADV ? ADVTRAIN : TRADES;
        cell t, of;
        double ratio = 0;
        if (!wanted(list[i])) continue;
        t = epoch_seconds(list[i], all);
        if (set.table == 2) numbers = learned_numbers(list[i]);
        else of = epoch_seconds(original, all);
        if (set.plan || (set.measured && !t.n && !(numbers > 0))) continue;
        if (set.table == 8 && t.n && of.n) ratio = t.value[0] / of.value[0];
        if (set.json) {
            printf("{\"table\":%d,\"trained with\":\"%s\"", set.table, rows[list[i]].name);
            print_values("seconds an epoch", &t);
            if (numbers > 0) printf(",\"parameters\":%.0f", numbers);
            if (ratio > 0) printf(",\"to the original\":%.4f", ratio);
            printf("}\n");
            continue;
        }
        printf("| %s |", rows[list[i]].name);
        if (set.table == 2 && numbers > 0) printf(" %.0f |", numbers);
        else if (set.table == 2) printf(" - |");
        print_cell(&t, 1, "%.1f", 1);
        if (ratio > 0) printf(" %.2f (%s) |", ratio, rows[original].name);
        else if (set.table == 8) printf(" - |");
        printf("\n");
    }
}

/* ---- figures ---- */

/* Rows that are drawn: what is attacked the same way and ends in the same file of a figure. */
static const int drawn[] = {PLAIN, ADVTRAIN, TRADES, RNN_ADV, RNN_TRADES};
enum { DRAWN = 5, SIDE = 41, REACH = 2, SHEET = 10, STEPPED = 200 };

static path figure_name(const char *what, const char *ending)
{
    make_folder(set.out);
    return path_of("%s/%s.%s", set.out, what, ending);
}

static l2l_model *model_of(int which)
{
    path p = path_of("%s.safetensors", trained(&rows[which], 0).text);
    l2l_model *m = set.plan ? NULL : l2l_model_open(context, p.text);
    if (!m && !set.plan) die(context);
    return m;
}

static l2l_learned *maximizer_of(int which)
{
    path p = path_of("%s.phi", trained(&rows[which], 0).text);
    l2l_learned *phi = set.plan ? NULL : l2l_learned_open(context, p.text);
    if (!phi && !set.plan) die(context);
    return phi;
}

static double radius(void)
{
    double eps = 0;
    cli_number(now.eps, &eps);
    return eps;
}

/* The first *n test images, or all of fewer, as an attack without steps leaves them: cut to the
 * model's size. To be freed. */
static l2l_real *first_images(l2l_model *m, int *n, int *labels)
{
    const l2l_model_options *o = l2l_model_info(m);
    size_t one = (size_t)o->channels * (size_t)o->height * (size_t)o->width;
    l2l_attack none = l2l_attack_ifgsm(0);
    l2l_record *r;
    l2l_real *x;
    l2l_dataset test;
    int i;
    none.steps = 0;
    cli_dataset(context, now.dataset, set.data, false, &test);
    if (*n > test.count) *n = test.count;
    r = (l2l_record *)cli_allocate((size_t)*n, sizeof *r);
    x = (l2l_real *)cli_allocate((size_t)*n * one, sizeof *x);
    if (!l2l_evaluate(m, &none, 1, &test, 0, *n, x, r)) die(context);
    for (i = 0; i < *n; i++) labels[i] = r[i].label;
    free(r);
    l2l_dataset_free(&test);
    return x;
}

/* The loss that each epoch ended with, and the accuracy at the adversarial images. */
static void figure_curves(void)
{
    static fig_lines loss, accuracy;
    int i;
    expect_rows(drawn + 1, DRAWN - 1);
    for (i = 0; i < DRAWN; i++) {
        path log;
        if (!wanted(drawn[i]) || drawn[i] == PLAIN) continue;
        log = path_of("%s.jsonl", trained(&rows[drawn[i]], 0).text);
        if (set.plan) continue;
        fig_line(&loss, rows[drawn[i]].name);
        fig_curve(&loss, log.text, "epoch_loss");
        fig_line(&accuracy, rows[drawn[i]].name);
        fig_curve(&accuracy, log.text, "epoch_accuracy");
    }
    if (set.plan) return;
    fig_write(context, &loss, "Outer loss, mean over the epoch", "epoch", "loss",
              figure_name("curves-loss", "svg").text);
    fig_write(context, &accuracy, "Accuracy at x'_T, mean over the epoch", "epoch", "accuracy",
              figure_name("curves-accuracy", "svg").text);
}

/* Robust accuracy under PGD-40 in balls of other radii than the one trained in. */
static void figure_epsilon(void)
{
    static fig_lines f;
    int i, k;
    double v;
    expect_rows(drawn, DRAWN);
    for (i = 0; i < DRAWN; i++) {
        if (!wanted(drawn[i])) continue;
        fig_line(&f, rows[drawn[i]].name);
        for (k = 0; k <= 8; k++) {
            char spec[64];
            char *text;
            snprintf(spec, sizeof spec, "pgd:steps=40:eps=%.6g", radius() * k / 6);
            text = measured(drawn[i], 0, "epsilon", k ? spec : "none", now.test[0], 0);
            if (text && json_number(text, k ? spec : "none", "accuracy", &v))
                fig_point(&f, radius() * k / 6, 100 * v);
            free(text);
        }
    }
    if (!set.plan)
        fig_write(context, &f, "Robust accuracy under PGD-40", "epsilon", "accuracy (%)",
                  figure_name("epsilon", "svg").text);
}

/* The loss after each step of PGD and of the learned maximizer, on AdvTrain's and its own model. */
static void figure_steps(void)
{
    static const int on[] = {ADVTRAIN, RNN_ADV};
    static fig_lines f[2];
    l2l_learned *phi = maximizer_of(RNN_ADV);
    int y[STEPPED], n = now.test[0] && now.test[0] < STEPPED ? now.test[0] : STEPPED, i;
    for (i = 0; i < 2; i++) {
        l2l_model *m = model_of(on[i]);
        l2l_real *x;
        char title[96];
        if (set.plan) continue;
        x = first_images(m, &n, y);
        fig_line(&f[i], "learned");
        fig_steps(&f[i], m, l2l_attack_learned(phi, radius(), 1), 2 * set.steps, x, y, n);
        fig_line(&f[i], "PGD, eps/4");
        fig_steps(&f[i], m, l2l_attack_pgd(radius()), 2 * set.steps, x, y, n);
        snprintf(title, sizeof title, "Mean loss after each inner step, %s's model",
                 rows[on[i]].name);
        fig_write(context, &f[i], title, "step", "cross-entropy",
                  figure_name(i ? "steps-rnn-adv" : "steps-advtrain", "svg").text);
        free(x);
        l2l_model_free(m);
    }
    l2l_learned_free(phi);
}

/* delta_t / epsilon for gradients that keep their sign, that change it once, and that alternate. */
static void figure_optimizer(void)
{
    static const char *const names[] = {"+ + + + ...", "- at step 4", "- from step 6",
                                        "+ - + - ..."};
    static fig_lines f;
    l2l_learned *phi = maximizer_of(RNN_ADV);
    int k, t, T = set.steps;
    signed char *sign;
    double *step;
    if (set.plan) return;
    sign = (signed char *)cli_allocate(4 * (size_t)T, sizeof *sign);
    step = (double *)cli_allocate(4 * (size_t)T, sizeof *step);
    for (t = 0; t < T; t++) {
        sign[t] = 1;
        sign[T + t] = (signed char)(t == 3 ? -1 : 1);
        sign[2 * T + t] = (signed char)(t >= 5 ? -1 : 1);
        sign[3 * T + t] = (signed char)(t % 2 ? -1 : 1);
    }
    fig_response(context, phi, T, 4, sign, step);
    for (k = 0; k < 4; k++) {
        fig_line(&f, names[k]);
        for (t = 0; t < T; t++) fig_point(&f, t + 1, step[k * T + t]);
    }
    free(sign);
    free(step);
    fig_write(context, &f, "The learned optimizer's step for a pixel, by its gradients' signs",
              "step t", "delta_t / epsilon", figure_name("optimizer", "svg").text);
    l2l_learned_free(phi);
}

/* u: the signs of the gradient at x by one step of FGSM in an unbounded range; v: random signs. */
static void directions(l2l_model *m, const l2l_real *x, int label, l2l_real *u, l2l_real *v, int n)
{
    l2l_stream stream;
    l2l_attack a = l2l_attack_fgsm(1.0 / 4096);
    l2l_real *out = (l2l_real *)cli_allocate((size_t)n, sizeof *out);
    int i;
    memset(&stream, 0, sizeof stream);
    stream.seed = set.seed;
    a.last_iterate = true;
    if (!l2l_attack_run(m, &a, x, &label, 1, out, NULL)) die(context);
    for (i = 0; i < n; i++) {
        u[i] = (l2l_real)(out[i] > x[i] ? 1 : out[i] < x[i] ? -1 : 0);
        v[i] = (l2l_real)(l2l_random_uniform(&stream, (uint32_t)i) < 0.5 ? -1 : 1);
    }
    free(out);
}

/* Cross-entropy around the first test image, before (Plain) and after. The scale is each one's own,
 * and printed. */
static void figure_surface(void)
{
    static const int shown[] = {PLAIN, ADVTRAIN, RNN_ADV};
    static double loss[3][SIDE * SIDE], most[3];
    enum { SCALE = 6, GAP = 20, EDGE = SCALE * SIDE };
    pic_canvas *p;
    l2l_real *x, *u, *v;
    int label, one = 1, n, i, k;
    char text[96];
    for (i = 0; i < 3; i++) {
        l2l_model *m = model_of(shown[i]);
        const l2l_model_options *o = l2l_model_info(m);
        if (set.plan) continue;
        n = o->channels * o->height * o->width;
        x = first_images(m, &one, &label);
        u = (l2l_real *)cli_allocate(2 * (size_t)n, sizeof *u);
        v = u + n;
        directions(m, x, label, u, v, n);
        fig_surface(m, x, label, u, v, REACH * radius(), SIDE, loss[i]);
        for (k = 0; k < SIDE * SIDE; k++) if (loss[i][k] > most[i]) most[i] = loss[i][k];
        free(x);
        free(u);
        l2l_model_free(m);
    }
    if (set.plan) return;
    p = pic_create(3 * EDGE + 4 * GAP, EDGE + 84, 0xFFFFFF);
    if (!p) cli_die_errno("picture");
    for (i = 0; i < 3; i++) {
        int at = GAP + i * (EDGE + GAP);
        snprintf(text, sizeof text, "%s", rows[shown[i]].name);
        pic_text(p, at, 14, 2, 0x222222, text);
        fig_draw_surface(p, at, 40, SCALE, SIDE, loss[i], most[i]);
        snprintf(text, sizeof text, "loss at x %.2g, at most %.3g", loss[i][SIDE * SIDE / 2],
                 most[i]);
        pic_text(p, at, 48 + EDGE, 1, 0x222222, text);
    }
    snprintf(text, sizeof text, "right: signs of the gradient; up: random signs; to +-%.3g",
             REACH * radius());
    pic_text(p, GAP, 64 + EDGE, 1, 0x666666, text);
    if (pic_write_png(context, p, figure_name("surface", "png").text)) die(context);
    printf("wrote %s\n", figure_name("surface", "png").text);
    pic_free(p);
}

/* The first test images: clean, then attacked by PGD-40 on each defence's own model. */
static void figure_sheet(void)
{
    enum { SCALE = 2, LEFT = 150, TOP = 34 };
    pic_canvas *p = NULL;
    l2l_real *x = NULL, *out = NULL;
    l2l_record record[SHEET];
    int y[SHEET], i, k, step = 0, line = 0, n = 0, images = SHEET, models = 0;
    expect_rows(drawn, DRAWN);
    for (i = 0; i < DRAWN; i++) models += wanted(drawn[i]);
    for (i = 0; i < DRAWN; i++) {
        l2l_attack a = l2l_attack_pgd(radius());
        l2l_model *m = wanted(drawn[i]) ? model_of(drawn[i]) : NULL;
        const l2l_model_options *o = l2l_model_info(m);
        if (!m) continue;
        if (!p) {
            n = o->channels * o->height * o->width;
            step = o->width * SCALE + 6;
            p = pic_create(LEFT + SHEET * step, TOP + (1 + models) * (o->height * SCALE + 18),
                           0xFFFFFF);
            if (!p) cli_die_errno("picture");
            pic_text(p, 8, 10, 2, 0x222222, "PGD-40, each on its own model (red: wrong)");
            x = first_images(m, &images, y);
            out = (l2l_real *)cli_allocate((size_t)(images * n), sizeof *out);
            pic_text(p, 8, TOP + o->height, 2, 0x222222, "clean");
            for (k = 0; k < images; k++)
                pic_image(p, LEFT + k * step, TOP, SCALE, x + k * n, o->channels, o->height,
                          o->width);
        }
        a.steps = 40;
        if (!l2l_attack_run(m, &a, x, y, images, out, record)) die(context);
        line += (line ? 0 : TOP) + o->height * SCALE + 18;
        pic_text(p, 8, line + o->height, 2, 0x222222, rows[drawn[i]].name);
        for (k = 0; k < images; k++) {
            char text[16];
            pic_image(p, LEFT + k * step, line, SCALE, out + k * n, o->channels, o->height,
                      o->width);
            snprintf(text, sizeof text, "%d", record[k].predicted);
            pic_text(p, LEFT + k * step + step / 2 - 6, line + o->height * SCALE + 4, 1,
                     record[k].predicted == y[k] ? 0x00703C : 0xC00000, text);
        }
        l2l_model_free(m);
    }
    if (set.plan) return;
    if (pic_write_png(context, p, figure_name("sheet", "png").text)) die(context);
    printf("wrote %s\n", figure_name("sheet", "png").text);
    pic_free(p);
    free(x);
    free(out);
}

static void figure(void)
{
    static const struct {
        const char *name;
        void (*draw)(void);
    } all[] = {{"curves", figure_curves},   {"epsilon", figure_epsilon},
               {"steps", figure_steps},     {"surface", figure_surface},
               {"optimizer", figure_optimizer}, {"sheet", figure_sheet}};
    size_t i;
    for (i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].name, set.figure)) all[i].draw();
}

/* ---- scales ---- */

static void print_setting(const char *name, int laptop, int paper, int used)
{
    const char *all = "all";
    char text[3][24];
    int v[3], i;
    v[0] = laptop;
    v[1] = paper;
    v[2] = used;
    for (i = 0; i < 3; i++) {
        if (v[i]) snprintf(text[i], sizeof text[i], "%d", v[i]);
        else snprintf(text[i], sizeof text[i], "%s", all);
    }
    printf("| %s | %s | %s | %s |\n", name, text[0], text[1], text[2]);
}

/* What the scales differ in, and what this run takes. */
static void print_scales(const subject *s)
{
    printf("%s, table %d, scale %s\n\n| setting | laptop | paper | here |\n|---|---|---|---|\n",
           now.name, set.table, set.scale);
    print_setting("training images", s->images[0], s->images[1], now.images[0]);
    print_setting("epochs", s->epochs[0], s->epochs[1], now.epochs[0]);
    print_setting("seeds", s->seeds[0], s->seeds[1], seeds);
    print_setting("test images", s->test[0], s->test[1], now.test[0]);
    print_setting("of them under AutoAttack", s->ensemble[0], s->ensemble[1], now.ensemble[0]);
    printf("| width of the classifier | %g | %g | %g |\n", s->width[0] > 0 ? s->width[0] : 1,
           s->width[1] > 0 ? s->width[1] : s->depth[0] ? 10 : 1,
           now.width[0] > 0 ? now.width[0] : s->depth[0] ? 10 : 1);
    if (s->depth[0])
        printf("| its depth | %d | %d | %d |\n", s->depth[0], 34, now.depth[0] ? now.depth[0] : 34);
    if (s->crop[0])
        printf("| pixels a side | %d | %d | %d |\n", s->crop[0], s->crop[1], now.crop[0]);
}

static void choose(const subject *s)
{
    int paper = !strcmp(set.scale, "paper");
    double eps;
    now = *s;
    now.width[0] = set.width > 0 ? set.width : s->width[paper];
    now.depth[0] = s->depth[paper];
    now.images[0] = set.images >= 0 ? set.images : s->images[paper];
    now.epochs[0] = set.epochs > 0 ? set.epochs : s->epochs[paper];
    now.test[0] = set.test >= 0 ? set.test : s->test[paper];
    now.ensemble[0] = set.ensemble >= 0 ? set.ensemble : s->ensemble[paper];
    now.crop[0] = s->crop[paper];
    if (set.eps) now.eps = set.eps;
    if (!cli_number(now.eps, &eps) || eps < 0 || eps > 1)
        cli_fail("--eps '%s': allowed is a number from 0 to 1, such as 0.3 or 8/255", now.eps);
    if (set.dataset) now.dataset = set.dataset;
    seeds = set.seeds > 0 ? set.seeds : s->seeds[paper];
}

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"table", CLI_INTEGER, &set.table, 1, TABLES, NULL, "which"},
        {"figure", CLI_CHOICE, &set.figure, 0, 0, FIGURES,
         "instead of a table, into --out: see the README"},
        {"scale", CLI_CHOICE, &set.scale, 0, 0, "laptop|paper", "how much of everything"},
        {"dataset", CLI_CHOICE, &set.dataset, 0, 0, CLI_DATASETS, "another than the table's"},
        {"data", CLI_TEXT, &set.data, 0, 0, "DIR", "its files; else where datasets.sh puts them"},
        {"out", CLI_TEXT, &set.out, 0, 0, "DIR", "folder of all jobs"},
        {"results", CLI_TEXT, &set.results, 0, 0, "F.jsonl",
         "what they gave, a line each [results.jsonl in --out]"},
        {"methods", CLI_TEXT, &set.methods, 0, 0, "M|M...", "rows, by train's names; else all"},
        {"images", CLI_INTEGER, &set.images, -1, 1e9, NULL, "to train on; 0: all, -1: the scale's"},
        {"epochs", CLI_INTEGER, &set.epochs, 0, 100000, NULL, "0: the scale's"},
        {"seeds", CLI_INTEGER, &set.seeds, 0, MOST_SEEDS, NULL, "0: the scale's"},
        {"test", CLI_INTEGER, &set.test, -1, 1e9, NULL, "test images; 0: all, -1: the scale's"},
        {"autoattack", CLI_INTEGER, &set.ensemble, -1, 1e9, NULL,
         "of them under AutoAttack; 0: all, -1: the scale's"},
        {"width", CLI_NUMBER, &set.width, 0, 64, NULL, "of the classifier; 0: the scale's"},
        {"batch", CLI_INTEGER, &set.batch, 1, 65536, NULL, "images in a step"},
        {"steps", CLI_INTEGER, &set.steps, 1, 1000, NULL, "inner steps T"},
        {"eps", CLI_TEXT, &set.eps, 0, 0, "X", "radius of the ball; else the table's"},
        {"average", CLI_NUMBER, &set.average, 0, 0.999999, "D",
         "of train, in all rows: the averaged model is what is attacked; 0: the last one"},
        {"seed", CLI_SEED, &set.seed, 0, 0, NULL, "the first"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "0: all that there are"},
        {"plan", CLI_SWITCH, &set.plan, 0, 0, NULL, "print the commands that are still to be run"},
        {"measured", CLI_SWITCH, &set.measured, 0, 0, NULL,
         "print what --results has, - for the rest, and run nothing"},
        {"json", CLI_SWITCH, &set.json, 0, 0, NULL, "JSON lines, one a row, each seed's figures"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    set.table = 3;
    set.scale = "laptop";
    set.out = "out/paper";
    set.images = set.test = set.ensemble = -1;
    set.batch = 128;
    set.steps = 10;
    cli_parse(argc, argv,
              "Makes the paper's tables: trains, attacks, prints Markdown. Jobs are kept in --out.",
              flags);
}

int main(int argc, char **argv)
{
    static const int first[] = {ADVTRAIN, ADVTRAIN_BLS};
    static const int all[] = {PLAIN, ADVTRAIN, ADVTRAIN_BLS, TRADES, TRADES6,
                              L2LDA, RNN_ADV, RNN_TRADES, RNN_TRADES6};
    static const int large[] = {PLAIN, ADVTRAIN, TRADES, RNN_ADV, RNN_TRADES};
    static const int learned[] = {L2LDA, RNN_ADV, RNN_TRADES}, two[] = {RNN_ADV, RNN_TRADES};
    static const int defended[] = {ADVTRAIN, TRADES, RNN_ADV, RNN_TRADES};
    const subject *s;
    parse(argc, argv);
    if (set.measured && (set.plan || set.figure))
        cli_fail("--measured: is for tables, and not beside --plan");
    check_methods();
    check_results();
    s = set.table == 4 ? &vgg : set.table == 5 ? &wide : set.table == 9 ? &restricted : &mnist;
    choose(s);
    context = cli_context(set.threads);
    if (set.figure) {
        figure();
        l2l_context_free(context);
        return cli_end();
    }
    if (!set.json) print_scales(s);
    fflush(stdout);
    switch (set.table) {
    case 1: white_box(first, 2); break;
    case 2: times(learned, 3); break;
    case 3: white_box(all, 9); break;
    case 6: more_steps(defended, 4); break;
    case 7: black_box(all, 9); break;
    case 8: times(two, 2); break;
    default: white_box(large, 5);
    }
    if (!set.plan && !set.json) {
        printf("\n%s; %s, images of %s, T %d, eps %s, batch %d, ", l2l_describe(context), now.name,
               now.dataset, set.steps, now.eps, set.batch);
        if (set.average > 0) printf("models averaged with %s, ", number(set.average).text);
        printf(seeds > 1 ? "seeds %llu to %llu\n" : "seed %llu\n", (unsigned long long)set.seed,
               (unsigned long long)set.seed + (unsigned long long)seeds - 1);
    }
    l2l_context_free(context);
    return cli_end();
}
