/* What attacks.py calls: whole attacks and single steps, as a shared library of float builds. ATTACKS
   is X(pgd) X(mim) ...: every l2l_attack_*(double epsilon) that l2ladv.h or searches.h has. */
#define L2LADV_IMPLEMENTATION
#include "../../l2ladv.h"
#include "../../examples/autoattack.h"

typedef struct peer {
    l2l_context *context;
    l2l_model *model;
} peer;

peer *peer_open(const char *path, int threads);
const char *peer_error(const peer *p);
int peer_run(peer *p, const char *name, double epsilon, int steps, double step_size,
             int last_iterate, const float *x, const int *labels, const int *targets,
             const float *init, int n, float *adv, int *success, double *loss, double *linf,
             double *l2);
int peer_step(peer *p, const char *name, double epsilon, int t, const float *x, const int *labels,
              int n, const float *adv, float *memory, float *next);
int peer_stages(peer *p, double epsilon, int l2, int steps, int only, const float *x,
                const int *labels, int n, int *stages);

peer *peer_open(const char *path, int threads)
{
    peer *p = (peer *)malloc(sizeof *p);
    l2l_options o = l2l_options_default();
    int extra = 0;
    o.threads = threads;
    p->context = l2l_context_create(&o);
    p->model = l2l_model_open(p->context, path);
    if (p->model) l2l_model_load(p->model, path, &extra);
    return p;
}

const char *peer_error(const peer *p)
{
    return l2l_error(p->context) ? l2l_error_text(p->context) : "";
}

/* "trades" is the inner problem of TRADES: KL from noise. */
static bool make_attack(peer *p, const char *name, double epsilon, l2l_attack *a)
{
    static const struct {
        const char *name;
        l2l_attack (*make)(double epsilon);
    } known[] = {
#define X(name) {#name, l2l_attack_##name},
        ATTACKS
    };
    size_t i;
    *a = l2l_attack_pgd(epsilon);
    a->objective = l2l_objective_kl();
    a->start = L2L_START_NORMAL;
    if (!strcmp(name, "trades")) return true;
    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) {
            *a = known[i].make(epsilon);
            return true;
        }
    l2l_error_set(p->context, L2L_ERROR_ARGUMENT, "no such attack");
    return false;
}

/* Whole: 0 steps or a step size of 0 stand for the attack's own. */
int peer_run(peer *p, const char *name, double epsilon, int steps, double step_size,
             int last_iterate, const float *x, const int *labels, const int *targets,
             const float *init, int n, float *adv, int *success, double *loss, double *linf,
             double *l2)
{
    l2l_record *records = (l2l_record *)malloc((size_t)n * sizeof *records);
    l2l_attack a;
    int i, ok = make_attack(p, name, epsilon, &a);
    if (steps) a.steps = steps;
    if (step_size > 0) a.step_size = step_size;
    if (last_iterate >= 0) a.last_iterate = last_iterate != 0;
    a.targets = targets;
    a.init = init;
    ok = ok && l2l_attack_run(p->model, &a, x, labels, n, adv, records);
    for (i = 0; ok && i < n; i++) {
        success[i] = records[i].success;
        loss[i] = records[i].loss;
        linf[i] = records[i].linf;
        l2[i] = records[i].l2;
    }
    free(records);
    return ok;
}

/* AutoAttack: the stage that fooled each image, or -1. */
int peer_stages(peer *p, double epsilon, int l2, int steps, int only, const float *x,
                const int *labels, int n, int *stages)
{
    const l2l_model_options *o = l2l_model_info(p->model);
    l2l_record *records = (l2l_record *)malloc((size_t)n * sizeof *records);
    float *adv = (float *)malloc((size_t)n * (size_t)o->height * (size_t)o->width * sizeof *adv);
    l2l_attack a = l2l_attack_autoattack(epsilon), four[AUTOATTACK_STAGES];
    int i, ok;
    a.norm = l2 ? L2L_L2 : L2L_LINF;
    a.steps = steps;
    a.batch = 250;
    ok = autoattack_stages(p->model, &a, four) &&
         l2l_attack_worst(p->model, only < 0 ? four : four + only, only < 0 ? AUTOATTACK_STAGES : 1, x,
                          labels, n, adv, records);
    for (i = 0; ok && i < n; i++)
        stages[i] = !records[i].success                     ? -1
                    : records[i].clean == records[i].label  ? records[i].attack + (only > 0 ? only : 0)
                                                            : 0;
    free(records);
    free(adv);
    return ok;
}

/* From x'_t = adv to x'_{t+1} = next. memory has 2n images: those of the maximizer, before and then
   after the step. One channel, so that both layouts are the same. */
int peer_step(peer *p, const char *name, double epsilon, int t, const float *x, const int *labels,
              int n, const float *adv, float *memory, float *next)
{
    l2l_context *c = p->context;
    l2l_mark mark = l2l_mark_here(c);
    const l2l_model_options *o = l2l_model_info(p->model);
    l2l_inner in;
    l2l_attack a;
    size_t one = (size_t)n * (size_t)o->height * (size_t)o->width;
    uint32_t images[1000];
    int i;
    if (n > 1000) l2l_error_set(c, L2L_ERROR_ARGUMENT, "more than 1000 images in a step");
    for (i = 0; i < n && n <= 1000; i++) images[i] = (uint32_t)i;
    if (!make_attack(p, name, epsilon, &a)) return 0;
    memset(&in, 0, sizeof in);
    in.context = c;
    in.model = p->model;
    in.objective = &a.objective;
    in.maximizer = &a.maximizer;
    in.batch = n;
    in.labels = labels;
    in.images = images;
    in.norm = a.norm;
    in.epsilon = epsilon;
    in.step_size = a.step_size > 0 ? a.step_size : a.relative_step * epsilon;
    in.T = t + 1;
    in.x = l2l_from_nchw(c, x, l2l_shape_of(n, o->height, o->width, 1));
    if (!c->status && l2l__inner_open(&in, false) && l2l__inner_clean(&in)) {
        memcpy(in.adv->data, adv, one * sizeof *adv);
        for (i = 0; i < a.maximizer.memory; i++)
            memcpy(in.memory[i]->data, memory + (size_t)i * one, one * sizeof *memory);
        in.t = t;
        l2l__look(&in, t, true);
        if (!c->status) a.maximizer.step(a.maximizer.self, &in);
        l2l__move(&in);
        memcpy(next, in.adv->data, one * sizeof *next);
        for (i = 0; i < a.maximizer.memory; i++)
            memcpy(memory + (size_t)i * one, in.memory[i]->data, one * sizeof *memory);
    }
    l2l_release(c, mark);
    return !c->status;
}
