/* progress.h - how far evaluate.c has come, on a terminal, with the time that is left for an attack and
 * for all; and its end by a signal. C99 and POSIX. Include cli.h first. Not part of the library. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include "cli.h"
#include "autoattack.h"

static struct {
    bool terminal;               /* shown there */
    int batch;                   /* images between two calls */
    const char *name;
    double begin, attack, shown; /* times */
    int first;                   /* images done when this attack began; -1: not known yet */
    double done, now, all;       /* passes in all attacks before, in this one, in all */
} show;

/* About how many forward passes an image costs; a gradient is taken for two more. */
static inline double passes(const l2l_attack *a)
{
    const double aims = a->number[0] - 1; /* classes; FAB-T's steps are four passes */
    double steps = a->steps;
    if (autoattack_is(a)) return 2 + steps * (3 * a->restarts + 3 * aims + 4 * aims + 50);
    if (a->queries) return 2 + steps;
    if (!strcmp(a->name, "cw-l2")) steps *= (int)a->number[0];
    if (!strcmp(a->name, "fab-t")) return 2 + 4 * steps * aims;
    if (!strcmp(a->name, "apgd-t")) steps *= aims;
    return 1 + a->restarts * (1 + 3 * steps);
}

static inline void show_begin(const char *name, double cost)
{
    show.name = name;
    show.attack = cli_seconds();
    show.first = -1;
    show.now = cost;
    if (show.terminal) fprintf(stderr, "\r\033[K%s ...", name);
}

static inline void show_end(void)
{
    show.done += show.now;
    if (show.terminal) fprintf(stderr, "\r\033[K");
}

static inline bool progress(void *user, int done, int total)
{
    double now = cli_seconds(), share = (double)done / total, left, all, cost;
    (void)user;
    if (cli_stopped) return false; /* behind a batch */
    if (show.first < 0) show.first = done > show.batch ? done - show.batch : 0;
    if (!show.terminal || now - show.shown < 0.1) return true;
    left = (now - show.attack) * (total - done) / (done - show.first);
    cost = show.done + show.now * share;
    all = left + (now - show.begin) / cost * (show.all - show.done - show.now);
    fprintf(stderr, "\r\033[K%s  %d/%d, %s left; all %.0f %%, %s left", show.name, done, total,
            cli_duration(left).text, 100 * cost / show.all, cli_duration(all).text);
    show.shown = now;
    return true;
}

#endif /* PROGRESS_H */
