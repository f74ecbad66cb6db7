/* specs.h - attacks as text, NAME[:key=value]..., for evaluate.c: one table of names, one of keys.
 * C99. Include cli.h first. Not part of the library. */
#ifndef SPECS_H
#define SPECS_H

#include "cli.h"
#include "autoattack.h"
#include "evaluation.h"
#include "l2lda.h"

/* What a SPEC may refer to. */
static struct {
    double eps, l2; /* radius of the run's l-infinity ball, and of an attack's own l2 ball */
    uint64_t seed;
    l2l_learned *phi;
    l2lda *generator;
    const char *no_phi, *no_generator; /* what an attack that has none of them is told */
} spec_defaults = {0, 0, 0, NULL, NULL, "needs --maximizer F", "needs --generator F"};

static inline l2l_attack spec_none(double eps)
{
    l2l_attack a = l2l_attack_ifgsm(0 * eps);
    a.name = "none";
    a.steps = 0;
    return a;
}
static inline l2l_attack spec_learned(double eps)
{
    int T = 0;
    double epsilon;
    l2l_learned_trained_with(spec_defaults.phi, &T, &epsilon);
    return l2l_attack_learned(spec_defaults.phi, eps, T > 0 ? T : 10); /* as it was trained */
}
static inline l2l_attack spec_l2lda(double eps)
{
    return l2lda_attack(spec_defaults.generator, eps);
}

/* PGD with shrinking steps, and by Adam in place of signs. */
static inline l2l_attack spec_pgd_decay(double eps)
{
    l2l_attack a = l2l_attack_pgd(eps);
    a.name = "pgd-decay";
    a.maximizer = l2l_maximizer_decay();
    return a;
}
static inline l2l_attack spec_pgd_adam(double eps)
{
    l2l_attack a = l2l_attack_pgd(eps);
    a.name = "pgd-adam";
    a.maximizer = l2l_maximizer_adam(1);
    return a;
}

/* Every attack, one line each. apgd-dlr takes no target: where that is third, its ratio is flat. */
#define SPEC_WALK "start|restarts|last|seed|eps|target"
static const struct spec_kind {
    const char *name;
    l2l_attack (*make)(double eps);
    const char *keys, *help;
} spec_kinds[] = {
    {"none", spec_none, "", "clean images"},
    {"fgsm", l2l_attack_fgsm, "step|" SPEC_WALK, "one step of eps"},
    {"ifgsm", l2l_attack_ifgsm, "steps|step|" SPEC_WALK, "from the clean image"},
    {"pgd", l2l_attack_pgd, "steps|step|" SPEC_WALK, "from a random start"},
    {"pgd-decay", spec_pgd_decay, "steps|step|" SPEC_WALK, "with shrinking steps of the same sum"},
    {"pgd-adam", spec_pgd_adam, "steps|step|" SPEC_WALK, "by Adam at rate step"},
    {"mim", l2l_attack_mim, "steps|step|" SPEC_WALK, "I-FGSM with momentum"},
    {"cw-pgd", l2l_attack_cw_pgd, "steps|step|confidence|" SPEC_WALK, "PGD on the margin"},
    {"bls", l2l_attack_bls, "steps|" SPEC_WALK, "PGD with a line search"},
    {"learned", spec_learned, "steps|" SPEC_WALK, "the optimizer of --maximizer"},
    {"l2lda", spec_l2lda, "steps|start|restarts|last|seed|eps", "the generator of --generator"},
    {"cw-l2lda", l2l_attack_cw_l2lda, "steps|step|confidence|" SPEC_WALK, "CW as L2LDA's tables"},
    {"apgd", l2l_attack_apgd, "steps|restarts|seed|eps|target", "AutoAttack's PGD, cross-entropy"},
    {"apgd-dlr", l2l_attack_apgd_dlr, "steps|restarts|seed|eps", "on the ratio of logits"},
    {"apgd-t", l2l_attack_apgd_t, "steps|candidates|seed|eps", "towards 9 classes in turn"},
    {"fab-t", l2l_attack_fab_t, "steps|candidates|nearest|eps", "nearest, towards 9 classes"},
    {"autoattack", l2l_attack_autoattack, "steps|restarts|candidates|seed|eps",
     "apgd, apgd-t, fab-t, square"},
    {"square", l2l_attack_square, "steps|share|seed|eps|target", "by scores, without gradients"},
    {"apgd-l2", l2l_attack_apgd, "steps|restarts|seed|eps|target", "APGD in an l2 ball"},
    {"apgd-dlr-l2", l2l_attack_apgd_dlr, "steps|restarts|seed|eps", "on the ratio of logits, l2"},
    {"apgd-t-l2", l2l_attack_apgd_t, "steps|candidates|seed|eps", "towards 9 classes in turn, l2"},
    {"fab-t-l2", l2l_attack_fab_t, "steps|candidates|nearest|eps", "nearest, l2, 9 classes"},
    {"square-l2", l2l_attack_square, "steps|share|seed|eps|target", "by scores, in an l2 ball"},
    {"autoattack-l2", l2l_attack_autoattack, "steps|restarts|candidates|seed|eps",
     "the same four in an l2 ball"},
    {"deepfool", l2l_attack_deepfool, "steps|overshoot|candidates|eps", "nearest, l-infinity"},
    {"pgd-l2", l2l_attack_pgd_l2, "steps|step|" SPEC_WALK, "PGD in an l2 ball"},
    {"cw-l2", l2l_attack_cw_l2, "steps|step|searches|constant|confidence|eps|target", "nearest, l2"},
    {"deepfool-l2", l2l_attack_deepfool_l2, "steps|overshoot|candidates|eps", "nearest, l2"},
    {"sign-opt", l2l_attack_sign_opt, "steps|candidates|seed|eps|target",
     "nearest, l2, by labels alone"},
    {"transfer", NULL, "from|attack|images", "images made for another model"},
};
enum { SPEC_KINDS = (int)(sizeof spec_kinds / sizeof *spec_kinds) };

static const char spec_about[] =
    "keys:\n"
    "  steps=N     gradient steps, or queries [pgd: 10; learned: as many as it was trained with]\n"
    "  step=X      step size: 0.01, 2/255 or eps/4 [pgd: eps/4]\n"
    "  start=S     clean, uniform (in the ball) or normal (x + 0.001 N(0,1))\n"
    "  restarts=N  runs from other random starts [1]\n"
    "  last=1      take the last iterate, not the best\n"
    "  seed=N      of the attack's random numbers [--seed]\n"
    "  eps=X       a radius of its own [--eps; in l2: 2, for photographs 0.5]\n"
    "  target=T    the class to lead to: its number, next (label + 1), least (likely), random\n"
    "  from=F      the model file that images are made for, attack=NAME by which [pgd, its last\n"
    "              iterates], then that attack's keys\n"
    "  images=F    or a file of --dump-adv; what leaves the ball is clipped\n"
    "  confidence, searches, constant, overshoot, candidates, share, nearest: see l2ladv.h, 2.9,\n"
    "              searches.h and autoattack.h\n"
    "for example: pgd:steps=100:restarts=5,transfer:from=b.safetensors:attack=mim:steps=20";

enum { SPEC_UNTARGETED = -4, SPEC_RANDOM = -3, SPEC_NEXT = -2, SPEC_LEAST = -1 };

enum { SPEC_ROOM = 2048 };

typedef struct {
    char spec[SPEC_ROOM];         /* as typed */
    const struct spec_kind *kind; /* of transfer: how the images are made */
    bool transfer;
    l2l_attack attack;
    char from[SPEC_ROOM], images[SPEC_ROOM];
    int target;                   /* a class, or one of the above */
    double seconds;
    l2l_result result;
    int outside;                  /* images of `images` that were not in the ball */
} spec;

/* "0.01", "2/255", "eps", "eps/4". */
static inline bool spec_step(const char *text, double eps, double *value)
{
    double divisor = 1;
    if (strncmp(text, "eps", 3)) return cli_number(text, value) && *value >= 0 && *value <= 1e6;
    if (text[3] && (text[3] != '/' || !cli_number(text + 4, &divisor) || divisor <= 0))
        return false;
    *value = eps / divisor;
    return true;
}

static inline bool spec_real(const char *text, double low, double high, double *value)
{
    return cli_number(text, value) && *value >= low && *value <= high;
}

/* The place of a word in "a|b|c"; -1: not there. */
static inline int spec_word(const char *list, const char *word)
{
    int i;
    for (i = 0; *word; i++) {
        size_t n = strcspn(list, "|");
        if (strlen(word) == n && !strncmp(list, word, n)) return i;
        if (!list[n]) break;
        list += n + 1;
    }
    return -1;
}

static inline bool spec_target(const char *text, int *target)
{
    int i = spec_word("random|next|least", text);
    if (i >= 0) *target = SPEC_RANDOM + i;
    return i >= 0 || cli_integer(text, 0, 1e6, target);
}

/* Sets one key; what is allowed if that fails. */
static inline const char *spec_set(spec *s, const char *key, const char *value)
{
    static const char count[] = "an integer from 1 to 1000000", real[] = "a number from 0 to 1e6";
    l2l_attack *a = &s->attack;
    char *end;
    int i;
    if (!strcmp(key, "steps")) return cli_integer(value, 1, 1e6, &a->steps) ? NULL : count;
    if (!strcmp(key, "restarts")) return cli_integer(value, 1, 1e6, &a->restarts) ? NULL : count;
    if (!strcmp(key, "searches")) {
        a->number[0] = cli_integer(value, 1, 1e6, &i) ? i : 0;
        return a->number[0] > 0 ? NULL : count;
    }
    if (!strcmp(key, "candidates")) {
        a->number[0] = cli_integer(value, 1, 1e6, &i) ? i : 0;
        return a->number[0] > 0 ? NULL : count;
    }
    if (!strcmp(key, "step")) {
        a->relative_step = 0; /* step=0 is none */
        return spec_step(value, a->epsilon, &a->step_size) ? NULL : "as 0.01, 2/255 or eps/4";
    }
    if (!strcmp(key, "constant")) return spec_real(value, 0, 1e6, &a->number[1]) ? NULL : real;
    if (!strcmp(key, "overshoot")) return spec_real(value, 0, 1e6, &a->number[1]) ? NULL : real;
    if (!strcmp(key, "confidence"))
        return spec_real(value, 0, 1e6, &a->objective.confidence) ? NULL : real;
    if (!strcmp(key, "share"))
        return spec_real(value, 0, 1, &a->number[0]) ? NULL : "a number from 0 to 1";
    if (!strcmp(key, "target"))
        return spec_target(value, &s->target) ? NULL : "random, next, least or a class number";
    if (!strcmp(key, "start")) {
        i = spec_word("clean|uniform|normal", value);
        if (i >= 0) a->start = (l2l_start)i;
        return i >= 0 ? NULL : "clean, uniform or normal";
    }
    if (!strcmp(key, "last") || !strcmp(key, "nearest")) {
        if (!cli_integer(value, 0, 1, &i)) return "0 or 1";
        if (*key == 'l') a->last_iterate = i != 0;
        else a->number[1] = i;
        return NULL;
    }
    errno = 0; /* seed */
    a->seed = strtoull(value, &end, 10);
    return *value >= '0' && *value <= '9' && !*end && !errno ? NULL : "an integer from 0";
}

static inline const struct spec_kind *spec_find(const char *text, const char *name)
{
    char list[512] = "";
    int i;
    for (i = 0; i < SPEC_KINDS; i++) {
        if (!strcmp(spec_kinds[i].name, name)) return &spec_kinds[i];
        strcat(strcat(list, i ? ", " : ""), spec_kinds[i].name);
    }
    cli_fail("--attack %s: no attack '%s'; there are %s", text, name, list);
    return NULL;
}

/* The attack of a kind; a name that ends in -l2 is one in l2. */
static inline l2l_attack spec_kind_make(const struct spec_kind *kind, double radius)
{
    l2l_attack a = kind->make(radius);
    size_t n = strlen(kind->name);
    if (n > 3 && !strcmp(kind->name + n - 3, "-l2")) {
        a.norm = L2L_L2;
        a.name = kind->name;
    }
    return a;
}

/* Makes the attack of s->kind, in the ball of its key eps or the usual one. */
static inline void spec_make(spec *s, const char *eps)
{
    l2l_attack a;
    double radius;
    if (s->kind->make == spec_learned && !spec_defaults.phi)
        cli_fail("--attack %s: %s", s->spec, spec_defaults.no_phi);
    if (s->kind->make == spec_l2lda && !spec_defaults.generator)
        cli_fail("--attack %s: %s", s->spec, spec_defaults.no_generator);
    a = spec_kind_make(s->kind, spec_defaults.eps);
    radius = a.norm == L2L_L2 ? spec_defaults.l2 : spec_defaults.eps;
    if (eps && !spec_real(eps, 0, a.norm == L2L_L2 ? 1e6 : 1, &radius))
        cli_fail("--attack %s: eps '%s': allowed is a number from 0 to %s", s->spec, eps,
                 a.norm == L2L_L2 ? "1000000" : "1, such as 0.3 or 8/255");
    s->attack = spec_kind_make(s->kind, radius);
    s->attack.seed = spec_defaults.seed;
}

enum { SPEC_MOST_KEYS = 24 };

/* NAME[:key=value]... */
static inline void spec_parse(spec *s)
{
    char text[SPEC_ROOM], *keys[SPEC_MOST_KEYS], *values[SPEC_MOST_KEYS], *next;
    const char *eps = NULL, *allowed;
    int i, j, n = 0;
    memcpy(text, s->spec, sizeof text);
    if ((next = strchr(text, ':')) != NULL) *next++ = 0;
    s->kind = spec_find(s->spec, text);
    s->transfer = !s->kind->make;
    if (s->transfer) s->kind = spec_find(s->spec, "pgd");
    s->target = SPEC_UNTARGETED;
    for (; next; n++) {
        if (n == SPEC_MOST_KEYS) cli_fail("--attack %s: too many keys", s->spec);
        keys[n] = next;
        if ((next = strchr(next, ':')) != NULL) *next++ = 0;
        if ((values[n] = strchr(keys[n], '=')) != NULL) *values[n]++ = 0;
        if (!values[n]) cli_fail("--attack %s: '%s': allowed is KEY=VALUE", s->spec, keys[n]);
        for (j = 0; j < n; j++)
            if (!strcmp(keys[j], keys[n])) cli_fail("--attack %s: %s twice", s->spec, keys[n]);
        if (!strcmp(keys[n], "eps")) eps = values[n];
        if (!s->transfer) continue;
        if (!strcmp(keys[n], "attack")) s->kind = spec_find(s->spec, values[n]);
        if (!strcmp(keys[n], "from")) snprintf(s->from, sizeof s->from, "%s", values[n]);
        if (!strcmp(keys[n], "images")) snprintf(s->images, sizeof s->images, "%s", values[n]);
    }
    if (s->transfer && (!s->kind->make || s->kind->make == spec_none))
        cli_fail("--attack %s: attack=%s makes no images", s->spec, s->kind->name);
    if (s->transfer && !*s->from == !*s->images)
        cli_fail("--attack %s: needs from=F or images=F", s->spec);
    spec_make(s, eps);
    s->attack.last_iterate |= s->transfer && !s->attack.search;
    for (i = 0; i < n; i++) {
        bool own = s->transfer && cli_listed("from|attack|images", keys[i], strlen(keys[i]));
        if (!*keys[i] || (!own && !cli_listed(s->kind->keys, keys[i], strlen(keys[i]))))
            cli_fail("--attack %s: no key '%s'; %s takes %s", s->spec, keys[i], s->kind->name,
                     *s->kind->keys ? s->kind->keys : "none at all");
        if (own || !strcmp(keys[i], "eps")) continue; /* that is in already */
        if (*s->images) cli_fail("--attack %s: images are made: no key '%s'", s->spec, keys[i]);
        allowed = spec_set(s, keys[i], values[i]);
        if (allowed)
            cli_fail("--attack %s: %s '%s': allowed is %s", s->spec, keys[i], values[i], allowed);
    }
}

/* SPEC[,SPEC...]; returns how many. */
static inline int spec_list(const char *at, spec *specs, int most)
{
    int i, n = 0;
    while (at) {
        size_t length = strcspn(at, ",");
        if (n == most) cli_fail("--attack: at most %d attacks", most);
        if (length >= sizeof specs->spec) cli_fail("--attack: a SPEC of %zu characters", length);
        snprintf(specs[n].spec, sizeof specs->spec, "%.*s", (int)length, at);
        for (i = 0; i < n; i++)
            if (!strcmp(specs[i].spec, specs[n].spec))
                cli_fail("--attack %s: twice", specs[n].spec);
        spec_parse(&specs[n++]);
        at = at[length] ? at + length + 1 : NULL;
    }
    return n;
}

/* What s is made of, for a model: one attack, or those of AutoAttack, for which there is `room`. */
static inline l2l_series spec_series(const spec *s, const l2l_model *m,
                                     l2l_attack room[AUTOATTACK_STAGES])
{
    l2l_series one = l2l_series_of(&s->attack);
    if (!autoattack_is(&s->attack)) return one;
    if (!autoattack_stages(m, &s->attack, room)) return one; /* the error stays */
    one.attacks = room;
    one.count = AUTOATTACK_STAGES;
    return one;
}

/* The classes that e's images shall be taken for, to be freed; NULL for an attack without. */
static inline int *spec_targets(const spec *s, const l2l_evaluation *e, const l2l_real *logits)
{
    int classes = l2l_model_info(e->model)->classes, i, k, *t;
    if (s->target == SPEC_UNTARGETED) return NULL;
    if (s->target >= classes)
        cli_fail("--attack %s: target %d: the model has the classes 0 to %d", s->spec, s->target,
                 classes - 1);
    t = (int *)cli_allocate((size_t)e->images, sizeof *t);
    for (i = 0; i < e->images; i++) {
        l2l_stream r = {0};
        const l2l_real *z = logits + (int64_t)i * classes;
        r.seed = s->attack.seed;
        r.purpose = L2L_RANDOM_USER;
        r.image = s->attack.first + (uint32_t)i;
        k = s->target;
        if (k == SPEC_NEXT) k = (e->labels[i] + 1) % classes;
        if (k == SPEC_RANDOM) /* any but the label */
            k = (e->labels[i] + 1 + (int)(l2l_random_uniform(&r, 0) * (classes - 1))) % classes;
        if (k == SPEC_LEAST) {
            int j;
            for (k = e->labels[i] == 0 && classes > 1, j = k + 1; j < classes; j++)
                if (j != e->labels[i] && z[j] < z[k]) k = j;
        }
        t[i] = k;
    }
    return t;
}

#endif /* SPECS_H */
