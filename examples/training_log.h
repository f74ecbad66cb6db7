/* training_log.h - the log of a training, a line of JSON for each step. C99 or C++11, on the public
 * interface of ../l2ladv.h; what concerns links, devices and two writers needs POSIX. Include it
 * first. Every function is static.
 *
 *     training_log log;
 *     training_log_add(&log, c, "run.jsonl", &how);       before l2l_trainer_create
 *     t = l2l_trainer_create(m, &d, &how);
 *     training_log_train(&log, t);                        in place of l2l_train
 *
 * The last line of an epoch has the epoch's figures, too. A new training begins a new log. One that
 * goes on cuts it to where the checkpoint was made, and gives the bytes of one that never stopped.
 * A log that cannot be written ends the training behind a whole step with an error; with the error
 * cleared training_log_train goes on, beginning with the line that the log lacks, which a
 * checkpoint made meanwhile knows, too. A pipe or a device is never cut. A log that another
 * training writes to is refused. Numbers have as many digits as lead back to them, in any locale. */
#ifndef TRAINING_LOG_H
#define TRAINING_LOG_H

#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700
#endif

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#ifdef _WIN32
#include <wchar.h>
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned, unsigned long, const char *, int,
                                                        wchar_t *, int);
#else
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#endif

#include "../l2ladv.h"

#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FAST_MATH__) || \
    defined(_M_FP_FAST)
#error "training_log.h: -ffinite-math-only (in -ffast-math, -Ofast) takes the checks for NaN away"
#endif

typedef struct training_log {
    l2l_context *context;
    const char *path;       /* borrowed; NULL: none, and training_log_train is l2l_train */
    const char *checkpoint; /* to resume from, the first time */
    double rate;            /* of the optimizer */
    bool (*progress)(void *user, const l2l_progress *p); /* the caller's, and */
    void *user;                                          /* what it gets */
    l2l_note *note;         /* of the trainer: bytes written, if they can be cut; the line that is
                               not written yet */
    FILE *file;
    bool in_place;          /* it is no regular file, and keeps what it has */
    int lock;               /* on the file, so that it has one writer; below 0: none */
} training_log;

/* ---- what the lines are made of ---- */

/* Up to 15 significant digits or, if those are another number, 16 or 17: d.ddd, 0.00ddd or d.dddex;
 * null where it is no finite number. */
typedef struct training_log_number { char text[40]; } training_log_number;

static inline training_log_number training_log_real(double v)
{
    training_log_number n = {"null"};
    char all[40], d[20];
    const char *s = all;
    char *o = n.text;
    int digits = 15, last = -1, e, point, i;
    if (!(v - v == 0)) return n;
    do snprintf(all, sizeof all, "%.*e", digits - 1, v);
    while (strtod(all, NULL) != v && ++digits <= 17);
    if (*s == '-') *o++ = *s++;
    for (; *s != 'e'; s++) /* the point is the locale's */
        if (*s >= '0' && *s <= '9') d[++last] = *s;
    while (last > 0 && d[last] == '0') last--;
    e = atoi(s + 1);
    point = e < -5 || e >= 17 ? 0 : e;
    if (point < 0) {
        *o++ = '0';
        *o++ = '.';
        for (i = point; i < -1; i++) *o++ = '0';
    }
    for (i = 0; i <= last || i <= point; i++) {
        *o++ = i <= last ? d[i] : '0';
        if (i == point && last > i) *o++ = '.';
    }
    *o = 0;
    if (point != e) snprintf(o, 8, "e%d", e);
    return n;
}

static inline void training_log_line(const training_log *l, const l2l_progress *p)
{
    char *to = l->note->text;
    const size_t room = sizeof l->note->text;
    int n = snprintf(to, room, "{\"step\":%lld,\"epoch\":%d,\"loss\":%s,\"accuracy\":%s,"
                     "\"epsilon\":%s,\"rate\":%s,\"gain\":%s,\"saturated\":%s",
                     (long long)p->step, p->epoch, training_log_real(p->loss).text,
                     training_log_real(p->accuracy).text, training_log_real(p->epsilon).text,
                     training_log_real(p->rate * l->rate).text, training_log_real(p->gain).text,
                     training_log_real(p->saturated).text);
    if (p->epoch_ended)
        n += snprintf(to + n, room - (size_t)n, ",\"epoch_loss\":%s,\"epoch_accuracy\":%s,"
                      "\"validation_natural\":%s,\"validation_robust\":%s,\"best\":%s",
                      training_log_real(p->epoch_loss).text,
                      training_log_real(p->epoch_accuracy).text,
                      training_log_real(p->validation_natural).text,
                      training_log_real(p->validation_robust).text, p->best ? "true" : "false");
    snprintf(to + n, room - (size_t)n, "}\n");
}

/* ---- the file ---- */

/* Always false. */
static inline bool training_log_cannot(const training_log *l, const char *what, bool at)
{
    char text[1500];
    const char *why = errno ? strerror(errno) : "unknown cause";
    if (at)
        snprintf(text, sizeof text, "%s, byte %lld: cannot %s: %s", l->path,
                 (long long)l->note->number, what, why);
    else
        snprintf(text, sizeof text, "%s: cannot %s: %s", l->path, what, why);
    l2l_error_set(l->context, L2L_ERROR_FILE, text);
    return false;
}

/* To append to a file; whether something is there, be it readable or not. Names are UTF-8. */
#ifdef _WIN32
static inline FILE *training_log_open(const char *path, const wchar_t *mode)
{
    wchar_t wide[1024];
    return MultiByteToWideChar(65001, 0, path, -1, wide, 1024) ? _wfopen(wide, mode) : NULL;
}
static inline FILE *training_log_append(const char *path) { return training_log_open(path, L"ab"); }
static inline bool training_log_there(const char *path)
{
    FILE *f = training_log_open(path, L"rb");
    const bool there = f || errno != ENOENT;
    if (f) fclose(f);
    return there;
}
#else
static inline FILE *training_log_append(const char *path) { return fopen(path, "ab"); }
static inline bool training_log_there(const char *path)
{
    struct stat s;
    return !stat(path, &s) || errno != ENOENT;
}
#endif

/* What a path leads to and is no regular file, or what the process has open (say /dev/stdout). */
static inline bool training_log_in_place(const char *path)
{
#ifdef _WIN32
    (void)path;
    return false;
#else
    char at[4096], to[4096];
    struct stat s;
    int links;
    snprintf(at, sizeof at, "%s", path);
    for (links = 0; links < 40; links++) {
        ssize_t n;
        char *slash;
        if (!strncmp(at, "/dev/fd/", 8) || !strncmp(at, "/dev/std", 8) ||
            !strncmp(at, "/proc/", 6))
            return true;
        n = readlink(at, to, sizeof to - 1);
        if (n < 0) break;
        to[n] = 0;
        slash = *to == '/' ? NULL : strrchr(at, '/');
        slash = slash ? slash + 1 : at;
        snprintf(slash, sizeof at - (size_t)(slash - at), "%s", to);
    }
    return !stat(path, &s) && !S_ISREG(s.st_mode);
#endif
}

static inline void training_log_unlock(training_log *l)
{
#ifndef _WIN32
    if (l->lock >= 0) close(l->lock);
#endif
    l->lock = -1;
}

/* Locks the file that is there now, on a disk that knows locks. */
static inline bool training_log_lock(training_log *l)
{
    training_log_unlock(l);
#ifndef _WIN32
    if (l->in_place || (l->lock = open(l->path, O_WRONLY | O_NONBLOCK)) < 0) return true;
    if (flock(l->lock, LOCK_EX | LOCK_NB)) {
        const bool taken = errno == EWOULDBLOCK;
        training_log_unlock(l);
        if (taken) {
            char text[1200];
            snprintf(text, sizeof text, "%s: another training writes to it", l->path);
            l2l_error_set(l->context, L2L_ERROR_FILE, text);
        }
        return !taken;
    }
#endif
    return true;
}

/* Cuts it to what was written for sure, or to where the checkpoint was made. */
static inline bool training_log_cut(training_log *l)
{
    l2l_context *c = l->context;
    const size_t keep = (size_t)l->note->number;
    size_t bytes = 0;
    void *data = NULL;
    bool ok = !keep || l2l_load_bytes(c, l->path, keep, &data, &bytes);
    if (ok && bytes < keep) {
        char text[1200];
        snprintf(text, sizeof text, "%s: the log has %lld bytes, the checkpoint was made at %lld",
                 l->path, (long long)bytes, (long long)keep);
        l2l_error_set(c, L2L_ERROR_MISMATCH, text);
        ok = false;
    }
    if (ok && (!keep || bytes > keep)) /* another file lies there then */
        ok = l2l_save_bytes(c, l->path, data, keep) && training_log_lock(l);
    l2l_free(c, data);
    return ok;
}

/* Writes the line that the log does not have yet. */
static inline bool training_log_write(training_log *l)
{
    const size_t n = strlen(l->note->text);
    errno = 0;
    if (n && (fwrite(l->note->text, 1, n, l->file) != n || fflush(l->file)))
        return training_log_cannot(l, "write on", true);
    if (!l->in_place) l->note->number += (int64_t)n;
    l->note->text[0] = 0;
    return true;
}

/* It stays open: whoever reads a FIFO would take its closing for the end. */
static inline bool training_log_begin(training_log *l)
{
    l->in_place = training_log_in_place(l->path);
    if (!training_log_lock(l) || (!l->in_place && !training_log_cut(l))) return false;
    errno = 0;
    l->file = training_log_append(l->path);
    return l->file ? training_log_write(l) : training_log_cannot(l, "open it to write", false);
}

static inline void training_log_end(training_log *l)
{
    if (l->file) fclose(l->file); /* every line has been flushed */
    l->file = NULL;
    training_log_unlock(l);
}

/* ---- the training ---- */

static inline bool training_log_step(void *user, const l2l_progress *p)
{
    training_log *l = (training_log *)user;
    bool go_on;
    if (l->file) training_log_line(l, p); /* before the callback, which may make a checkpoint */
    go_on = !l->progress || l->progress(l->user, p);
    if (l->file) training_log_write(l);
    return go_on;
}

/* The trainer that is made with *o has its log at this path; NULL, or any rank but 0: none. */
static inline void training_log_add(training_log *l, l2l_context *c, const char *path,
                                    l2l_train_options *o)
{
    memset(l, 0, sizeof *l);
    l->context = c;
    l->lock = -1;
    if (!path || o->rank) return;
    l->path = path;
    l->checkpoint = o->resume ? o->checkpoint : NULL;
    l->rate = o->optimizer.rate;
    l->progress = o->progress;
    l->user = o->user;
    o->progress = training_log_step;
    o->user = l;
}

/* l2l_train, with the log. The log has to be where the checkpoint is before the first step. */
static inline bool training_log_train(training_log *l, l2l_trainer *t)
{
    const char *checkpoint = l->checkpoint;
    bool ok;
    if (!l->path || !t || l2l_error(l->context)) return l2l_train(t);
    l->checkpoint = NULL;
    l->note = l2l_trainer_note(t);
    if (!checkpoint || !training_log_there(checkpoint) || l2l_trainer_resume(t, checkpoint))
        training_log_begin(l);
    ok = l2l_train(t); /* after an error, too: other ranks are told of it */
    training_log_end(l);
    return ok;
}

#endif /* TRAINING_LOG_H */
