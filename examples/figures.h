/* figures.h - the figures of paper.c, drawn from trained models: SVG for lines, PNG for images.
 * Include picture.h first. Not part of the library. */
#ifndef FIGURES_H
#define FIGURES_H

#include "picture.h"

enum { FIG_LINES = 10 };

/* Lines under construction, of as many points as come: room for twice as many each time. */
typedef struct {
    double *x[FIG_LINES], *y[FIG_LINES];
    pic_series line[FIG_LINES];
    int n;
} fig_lines;

static inline pic_series *fig_line(fig_lines *f, const char *name)
{
    pic_series *s = &f->line[f->n];
    if (f->n == FIG_LINES) cli_fail("figure: more than %d lines", FIG_LINES);
    s->name = name;
    s->n = 0;
    s->rgb = pic_colour(f->n++);
    return s;
}

static inline double *fig_room(double *points, int n)
{
    double *more = (double *)realloc(points, (size_t)(n ? 2 * n : 1) * sizeof *points);
    if (!more) cli_die_errno("memory");
    return more;
}

static inline void fig_point(fig_lines *f, double x, double y)
{
    int k = f->n - 1, n = f->line[k].n++;
    if (!(n & (n - 1))) { /* 0 or a power of two: it is full */
        f->line[k].x = f->x[k] = fig_room(f->x[k], n);
        f->line[k].y = f->y[k] = fig_room(f->y[k], n);
    }
    f->x[k][n] = x;
    f->y[k][n] = y;
}

/* The figure's end: no line is left. */
static inline void fig_write(l2l_context *c, fig_lines *f, const char *title,
                             const char *x_label, const char *y_label, const char *path)
{
    pic_plot plot;
    plot.title = title;
    plot.x_label = x_label;
    plot.y_label = y_label;
    plot.series = f->line;
    plot.n_series = f->n;
    if (pic_write_svg(c, &plot, path)) die(c);
    printf("wrote %s\n", path);
    while (f->n-- > 0) {
        free(f->x[f->n]);
        free(f->y[f->n]);
    }
    memset(f, 0, sizeof *f);
}

/* ---- training curves, from a log of JSON lines ---- */

static inline bool fig_value(const char *line, const char *key, double *v)
{
    char quoted[64];
    const char *at;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    if (!(at = strstr(line, quoted))) return false;
    *v = strtod(at + strlen(quoted), NULL);
    return true;
}

/* A point for each epoch: `key` of the line that ends it. */
static inline void fig_curve(fig_lines *f, const char *log, const char *key)
{
    char line[2048];
    double epoch, v;
    FILE *file = fopen(log, "r");
    if (!file) cli_die_errno(log);
    while (fgets(line, sizeof line, file))
        if (fig_value(line, "epoch_loss", &v) && fig_value(line, "epoch", &epoch) &&
            fig_value(line, key, &v))
            fig_point(f, epoch + 1, v);
    fclose(file);
}

/* ---- the loss that an attack has reached after each of its steps ---- */

static inline double fig_mean_loss(l2l_model *m, const l2l_attack *a, const l2l_real *x,
                                   const int *y, int n)
{
    l2l_record *r = (l2l_record *)cli_allocate((size_t)n, sizeof *r);
    double sum = 0;
    int i;
    if (!l2l_attack_run(m, a, x, y, n, NULL, r)) die(l2l_model_context(m));
    for (i = 0; i < n; i++) sum += r[i].loss / n;
    free(r);
    return sum;
}

static inline void fig_steps(fig_lines *f, l2l_model *m, l2l_attack a, int most, const l2l_real *x,
                             const int *y, int n)
{
    a.last_iterate = true;
    for (a.steps = 1; a.steps <= most; a.steps++)
        fig_point(f, a.steps, fig_mean_loss(m, &a, x, y, n));
}

/* ---- what a maximizer does with a history of gradients ---- */

/* A model whose gradient is dictated: the losses are constant and the gradient of the pixel k at
 * step t is sign[k T + t]. One image of `count` pixels in a row; t goes up with every gradient. */
typedef struct {
    const signed char *sign;
    int count, T, t;
} fig_dictated;

static inline bool fig_dictated_logits(void *user, const l2l_real *x, int n, l2l_real *logits)
{
    int i;
    (void)user;
    (void)x;
    for (i = 0; i < 2 * n; i++) logits[i] = i % 2 ? 0 : 1;
    return true;
}

static inline bool fig_dictated_vjp(void *user, const l2l_real *x, int n, const l2l_real *dlogits,
                                    l2l_real *dx)
{
    fig_dictated *d = (fig_dictated *)user;
    int k;
    (void)x;
    (void)dlogits;
    for (k = 0; k < d->count * n; k++)
        dx[k] = (l2l_real)(d->sign[k % d->count * d->T + d->t] * 1e-3);
    d->t++;
    return true;
}

/* The learned maximizer with its steps noted down, before the ball cuts them off. */
typedef struct {
    l2l_maximizer learned;
    double *step;
    int count, T;
} fig_observer;

static inline bool fig_observe_begin(void *self, l2l_inner *in)
{
    const fig_observer *o = (const fig_observer *)self;
    return !o->learned.begin || o->learned.begin(o->learned.self, in);
}

static inline bool fig_observe_step(void *self, l2l_inner *in)
{
    const fig_observer *o = (const fig_observer *)self;
    l2l_real *delta = (l2l_real *)cli_allocate((size_t)o->count, sizeof *delta);
    bool ok = o->learned.step(o->learned.self, in) && l2l_to_nchw(in->context, in->delta, delta);
    int k;
    for (k = 0; ok && k < o->count; k++)
        o->step[k * o->T + in->t] = (double)delta[k] / in->epsilon;
    free(delta);
    return ok;
}

/* delta_t / epsilon for each of `count` histories of T gradients, into step[k T + t]. */
static inline void fig_response(l2l_context *c, l2l_learned *phi, int T, int count,
                                const signed char *sign, double *step)
{
    l2l_attack a = l2l_attack_learned(phi, 0.25, T);
    fig_observer observer;
    fig_dictated d;
    l2l_external e;
    l2l_model *m;
    l2l_real *x = (l2l_real *)cli_allocate((size_t)count, sizeof *x);
    int label = 0, k;
    memset(&e, 0, sizeof e);
    d.sign = sign;
    d.count = count;
    d.T = T;
    d.t = 0;
    e.channels = e.height = 1;
    e.width = count;
    e.classes = 2;
    e.user = &d;
    e.logits = fig_dictated_logits;
    e.vjp = fig_dictated_vjp;
    observer.learned = a.maximizer;
    observer.step = step;
    observer.count = count;
    observer.T = T;
    a.maximizer.self = &observer;
    a.maximizer.begin = fig_observe_begin;
    a.maximizer.step = fig_observe_step;
    a.maximizer.keep = NULL;
    a.start = L2L_START_CLEAN;
    a.last_iterate = true;
    m = l2l_model_external(c, &e);
    for (k = 0; k < count; k++) x[k] = (l2l_real)0.5;
    if (!l2l_attack_run(m, &a, x, &label, 1, NULL, NULL)) die(c);
    l2l_model_free(m);
    free(x);
}

/* ---- the loss surface around an image ---- */

/* A colour between dark blue (0, or no number) and yellow (1), of growing lightness. */
static inline unsigned fig_heat(double v)
{
    static const double stop[5][3] = {
        {68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}};
    double at = 4 * (v > 1 ? 1 : v > 0 ? v : 0), part;
    int i = at >= 4 ? 3 : (int)at, k;
    unsigned rgb = 0;
    part = at - i;
    for (k = 0; k < 3; k++)
        rgb = rgb << 8 | (unsigned)(stop[i][k] + part * (stop[i + 1][k] - stop[i][k]) + 0.5);
    return rgb;
}

/* Cross-entropy on the plane x + a u + b v, a and b from -reach to reach in `side` steps each. */
static inline void fig_surface(l2l_model *m, const l2l_real *x, int label, const l2l_real *u,
                               const l2l_real *v, double reach, int side, double *loss)
{
    const l2l_model_options *o = l2l_model_info(m);
    int pixels = o->channels * o->height * o->width, i, j, k;
    l2l_real *row = (l2l_real *)cli_allocate((size_t)(side * pixels), sizeof *row);
    l2l_real *z = (l2l_real *)cli_allocate((size_t)(side * o->classes), sizeof *z);
    for (i = 0; i < side; i++) {
        double b = reach * (1 - 2.0 * i / (side - 1));
        for (j = 0; j < side; j++) {
            double a = reach * (2.0 * j / (side - 1) - 1);
            for (k = 0; k < pixels; k++) {
                double p = (double)x[k] + a * (double)u[k] + b * (double)v[k];
                row[j * pixels + k] = (l2l_real)(p < 0 ? 0 : p > 1 ? 1 : p);
            }
        }
        if (!l2l_model_logits(m, row, side, z)) die(l2l_model_context(m));
        for (j = 0; j < side; j++) {
            const l2l_real *at = z + j * o->classes;
            double top = (double)at[0], sum = 0;
            for (k = 1; k < o->classes; k++) if ((double)at[k] > top) top = (double)at[k];
            for (k = 0; k < o->classes; k++) sum += exp((double)at[k] - top);
            loss[i * side + j] = log(sum) + top - (double)at[label];
        }
    }
    free(row);
    free(z);
}

static inline void fig_draw_surface(pic_canvas *p, int x, int y, int scale, int side,
                                    const double *loss, double most)
{
    int i, j;
    for (i = 0; i < side; i++)
        for (j = 0; j < side; j++)
            pic_rect(p, x + j * scale, y + i * scale, scale, scale,
                     fig_heat(loss[i * side + j] / most));
    pic_rect(p, x + side / 2 * scale - 1, y + side / 2 * scale - 5, 3, 11, 0xFFFFFF);
    pic_rect(p, x + side / 2 * scale - 5, y + side / 2 * scale - 1, 11, 3, 0xFFFFFF);
}

#endif /* FIGURES_H */
