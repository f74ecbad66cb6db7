#!/usr/bin/env python3
"""l2ladv.h for Python: attacks on any classifier, and training with a learned optimizer.

One file beside the header, with NumPy and the standard library. With searches.h, autoattack.h and
evaluation.h beside it, too, there are more attacks (DeepFool, Carlini and Wagner's l2 attack,
Sign-OPT, the line search, AutoAttack and its parts), with training_log.h logs of trainings. On first
use it compiles the header with the C compiler at hand, which takes some seconds, and keeps the
shared library in a cache.
PyTorch is used if you hand in a torch model, and only then.

    import l2ladv
    result = l2ladv.autoattack(net, x, y, 8 / 255)      # net: a torch.nn.Module
    print(result.stages)                                # {'clean': 0.94, 'apgd': 0.47, ...}

    python3 examples/l2ladv.py --demo       trains a small network on digits, attacks it
    python3 examples/l2ladv.py --cost       time spent outside of a torch model under attack

What there is
    attack, attack_worst, autoattack        on Model, External, TorchModel or a torch.nn.Module
    External(logits, vjp, ...)              a model behind two functions of yours
    TorchModel(module, shape, mean, std)    the same, of a torch.nn.Module
    Model, Maximizer, train                 the header's classifiers, learned optimizers, methods
    attacks(), methods(), objectives()      their names
    describe(), set_threads(n)              the library; threads of Model, Maximizer and train

Images are NxCxHxW, float32 in [0,1]; labels N integers; epsilon is in pixels, so 8 of 255 is 8/255.
Mean and deviation belong into the model. Numbers, names and defaults are those of l2ladv.h, whose
chapter 2 describes every option: a keyword here is a field of l2l_attack, l2l_train_options,
l2l_model_options or l2l_learned_options there, and a word stands for an enumeration constant:
norm="l2", start="clean", schedule="cosine", optimizer={"kind": "sgd", "rate": 0.1}.

Errors. What the header finds wrong is raised as Error, or as one of its subclasses that are also
ValueError, MemoryError, OSError or ArithmeticError; .code and .text are the header's. An exception
from a function of yours (a model, a progress callback) passes through unchanged. Ctrl-C ends a call
at the next call of a model behind functions, at the end of a training step, or, on the header's own
models, at the end of the attack's `batch` of images.

Threads. Models and maximizers of the header share one context: one of their calls runs at a time,
in any thread. Each External has a context of its own. A thread may be inside of one model's call
and, from a function of yours, call another's; if two threads do so crosswise, each would wait for
the other, and one of them gets an Error instead. After a fork the child uses one thread, because
GNU's OpenMP does not survive it. After torch.set_flush_denormal(True) every call that computes
fails with the header's error: it needs denormal ("subnormal") numbers.

Environment: CC, CFLAGS (-O2), LDFLAGS; L2LADV_CACHE, the folder for libraries, which may be emptied
at any time (~/.cache/l2ladv); L2LADV_HEADER, the header, if it lies neither beside this file nor
one folder up.

Licence: MIT or public domain, as l2ladv.h.
"""
import collections
import contextlib
import ctypes
import errno
import hashlib
import operator
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref

import numpy as np

VERSION = (0, 9)  # of l2ladv.h: major and minor

# ---- the C side ---------------------------------------------------------------------------------

# Compiled with the header: what ctypes cannot know (where fields are, the values of constants), and
# functions that take plain arguments. No layout of a C struct is written down in Python.
SHIM = r"""
#define _XOPEN_SOURCE 700
#ifdef L2LADV_DOUBLE
#error "l2ladv.py hands over float: L2LADV_DOUBLE is for C"
#else
#ifdef _WIN32
#define L2LADVDEF extern __declspec(dllexport)
#else
#define L2LADVDEF extern __attribute__((visibility("default")))
#endif
#define L2LADV_IMPLEMENTATION
#include L2LADV_HEADER
#ifdef SEARCHES
#include "beside/autoattack.h"
#include "beside/evaluation.h"
#endif
#ifdef TRAINING_LOG
#include "beside/training_log.h"
#endif
#include <string.h>

/* The name of a field's type, by a pointer to it; NumPy's, for numbers. An enumeration is one of
   the integers. Pointers are "p", inner structs have their own names. */
#define TYPE(pointer) _Generic((pointer), bool *: "?", int *: "i4", unsigned *: "u4", \
    int64_t *: "i8", uint64_t *: "u8", double *: "f8", double (*)[2]: "(2,)f8", \
    double (*)[4]: "(4,)f8", double (*)[8]: "(8,)f8", const char **: "text", \
    l2l_optimizer_options *: "l2l_optimizer_options", l2l_schedule *: "l2l_schedule", \
    l2l_augment *: "l2l_augment", l2l_objective *: "l2l_objective", default: "p")
#define STRUCT(s) {#s, "", "", 0, sizeof(s)},
#define FIELD(s, f) {#s, #f, TYPE(&((s *)0)->f), offsetof(s, f), sizeof(((s *)0)->f)},

static const struct field {
    const char *structure, *name, *type;
    size_t offset, size;
} fields[] = {
    STRUCT(l2l_objective) FIELD(l2l_objective, confidence)
    STRUCT(l2l_attack)
    FIELD(l2l_attack, objective) FIELD(l2l_attack, norm) FIELD(l2l_attack, epsilon)
    FIELD(l2l_attack, targets) FIELD(l2l_attack, only) FIELD(l2l_attack, step_size) FIELD(l2l_attack, relative_step)
    FIELD(l2l_attack, steps) FIELD(l2l_attack, restarts) FIELD(l2l_attack, start)
    FIELD(l2l_attack, last_iterate) FIELD(l2l_attack, seed) FIELD(l2l_attack, batch)
    FIELD(l2l_attack, first) FIELD(l2l_attack, init) FIELD(l2l_attack, progress)
    FIELD(l2l_attack, number)
    STRUCT(l2l_record)
    FIELD(l2l_record, label) FIELD(l2l_record, clean) FIELD(l2l_record, predicted)
    FIELD(l2l_record, success) FIELD(l2l_record, attack) FIELD(l2l_record, step)
    FIELD(l2l_record, restart) FIELD(l2l_record, loss)
    FIELD(l2l_record, linf) FIELD(l2l_record, l2) FIELD(l2l_record, forwards)
    FIELD(l2l_record, backwards) FIELD(l2l_record, zero_gradients)
    STRUCT(l2l_model_options)
    FIELD(l2l_model_options, channels) FIELD(l2l_model_options, height)
    FIELD(l2l_model_options, width) FIELD(l2l_model_options, classes)
    FIELD(l2l_model_options, width_multiplier) FIELD(l2l_model_options, depth)
    FIELD(l2l_model_options, dropout) FIELD(l2l_model_options, last_layer_deviation)
    FIELD(l2l_model_options, normalise) FIELD(l2l_model_options, mean)
    FIELD(l2l_model_options, deviation) FIELD(l2l_model_options, seed)
    STRUCT(l2l_optimizer_options)
    FIELD(l2l_optimizer_options, kind) FIELD(l2l_optimizer_options, rate)
    FIELD(l2l_optimizer_options, momentum) FIELD(l2l_optimizer_options, weight_decay)
    FIELD(l2l_optimizer_options, nesterov) FIELD(l2l_optimizer_options, beta1)
    FIELD(l2l_optimizer_options, beta2) FIELD(l2l_optimizer_options, epsilon)
    FIELD(l2l_optimizer_options, clip)
    STRUCT(l2l_schedule)
    FIELD(l2l_schedule, kind) FIELD(l2l_schedule, warm_up) FIELD(l2l_schedule, milestones)
    FIELD(l2l_schedule, factor) FIELD(l2l_schedule, final)
    STRUCT(l2l_augment) FIELD(l2l_augment, padding) FIELD(l2l_augment, flip)
    STRUCT(l2l_learned_options)
    FIELD(l2l_learned_options, cell) FIELD(l2l_learned_options, hidden)
    FIELD(l2l_learned_options, bias) FIELD(l2l_learned_options, input)
    FIELD(l2l_learned_options, raw_output) FIELD(l2l_learned_options, scale)
    FIELD(l2l_learned_options, optimizer) FIELD(l2l_learned_options, second_order)
    FIELD(l2l_learned_options, seed)
    STRUCT(l2l_train_options)
    FIELD(l2l_train_options, epochs) FIELD(l2l_train_options, batch)
    FIELD(l2l_train_options, micro_batch) FIELD(l2l_train_options, epsilon)
    FIELD(l2l_train_options, T) FIELD(l2l_train_options, step_size)
    FIELD(l2l_train_options, epsilon_warm_up) FIELD(l2l_train_options, loss_weights)
    FIELD(l2l_train_options, optimizer) FIELD(l2l_train_options, schedule)
    FIELD(l2l_train_options, augment) FIELD(l2l_train_options, inner_mode)
    FIELD(l2l_train_options, validation) FIELD(l2l_train_options, stop_on_plateau)
    FIELD(l2l_train_options, averaging)
    FIELD(l2l_train_options, seed) FIELD(l2l_train_options, progress)
    FIELD(l2l_train_options, checkpoint) FIELD(l2l_train_options, checkpoint_steps)
    FIELD(l2l_train_options, resume)
    STRUCT(l2l_progress)
    FIELD(l2l_progress, epoch) FIELD(l2l_progress, epochs) FIELD(l2l_progress, step)
    FIELD(l2l_progress, steps) FIELD(l2l_progress, step_in_epoch)
    FIELD(l2l_progress, steps_in_epoch) FIELD(l2l_progress, loss) FIELD(l2l_progress, accuracy)
    FIELD(l2l_progress, epsilon) FIELD(l2l_progress, rate) FIELD(l2l_progress, gain)
    FIELD(l2l_progress, saturated) FIELD(l2l_progress, epoch_ended)
    FIELD(l2l_progress, epoch_loss) FIELD(l2l_progress, epoch_accuracy)
    FIELD(l2l_progress, validation_natural) FIELD(l2l_progress, validation_robust)
    FIELD(l2l_progress, best)
};

/* The words for the constants of an enumeration: of a field, or of the codes of errors. */
static const struct word {
    const char *owner, *word;
    int value;
} words[] = {
    {"l2l_attack.norm", "linf", L2L_LINF}, {"l2l_attack.norm", "l2", L2L_L2},
    {"l2l_attack.start", "clean", L2L_START_CLEAN},
    {"l2l_attack.start", "uniform", L2L_START_UNIFORM},
    {"l2l_attack.start", "normal", L2L_START_NORMAL},
    {"l2l_optimizer_options.kind", "sgd", L2L_SGD},
    {"l2l_optimizer_options.kind", "adam", L2L_ADAM},
    {"l2l_schedule.kind", "constant", L2L_CONSTANT}, {"l2l_schedule.kind", "steps", L2L_STEPS},
    {"l2l_schedule.kind", "cosine", L2L_COSINE},
    {"l2l_learned_options.cell", "lstm", L2L_LSTM}, {"l2l_learned_options.cell", "rnn", L2L_RNN},
    {"l2l_learned_options.input", "sign", L2L_INPUT_SIGN},
    {"l2l_learned_options.input", "l1", L2L_INPUT_L1},
    {"l2l_learned_options.input", "linf", L2L_INPUT_LINF},
    {"l2l_learned_options.input", "log", L2L_INPUT_LOG},
    {"l2l_learned_options.input", "raw", L2L_INPUT_RAW},
    {"l2l_train_options.inner_mode", "evaluate", L2L_EVALUATE},
    {"l2l_train_options.inner_mode", "train", L2L_TRAIN},
    {"l2l_status", "memory", L2L_ERROR_MEMORY}, {"l2l_status", "argument", L2L_ERROR_ARGUMENT},
    {"l2l_status", "shape", L2L_ERROR_SHAPE}, {"l2l_status", "file", L2L_ERROR_FILE},
    {"l2l_status", "format", L2L_ERROR_FORMAT}, {"l2l_status", "mismatch", L2L_ERROR_MISMATCH},
    {"l2l_status", "numeric", L2L_ERROR_NUMERIC},
    {"l2l_status", "cancelled", L2L_ERROR_CANCELLED},
    {"l2l_status", "callback", L2L_ERROR_CALLBACK},
    {"l2l_status", "unsupported", L2L_ERROR_UNSUPPORTED},
};

static const struct attack {
    const char *name;
    l2l_attack (*make)(double epsilon);
} attacks[] = {
    {"fgsm", l2l_attack_fgsm}, {"ifgsm", l2l_attack_ifgsm}, {"pgd", l2l_attack_pgd},
    {"pgd-l2", l2l_attack_pgd_l2}, {"mim", l2l_attack_mim}, {"cw-pgd", l2l_attack_cw_pgd},
    {"learned", NULL},
#ifdef SEARCHES
    {"bls", l2l_attack_bls}, {"cw-l2lda", l2l_attack_cw_l2lda}, {"cw-l2", l2l_attack_cw_l2},
    {"deepfool", l2l_attack_deepfool}, {"deepfool-l2", l2l_attack_deepfool_l2},
    {"sign-opt", l2l_attack_sign_opt}, {"square", l2l_attack_square}, {"apgd", l2l_attack_apgd},
    {"apgd-dlr", l2l_attack_apgd_dlr}, {"apgd-t", l2l_attack_apgd_t},
    {"fab-t", l2l_attack_fab_t}, {"autoattack", l2l_attack_autoattack},
#endif
};
static const struct objective {
    const char *name;
    l2l_objective (*make)(void);
} objectives[] = {{"cross-entropy", l2l_objective_cross_entropy}, {"kl", l2l_objective_kl},
#ifdef SEARCHES
                  {"dlr", l2l_objective_dlr},
#endif
                  {"margin", l2l_objective_margin}};
static const char *const methods[] = {"plain", "advtrain", "trades", "rnn-adv", "rnn-trades",
#ifdef SEARCHES
                                      "advtrain-bls"
#endif
};

#define COUNT(table) ((int)(sizeof(table) / sizeof *(table)))

L2LADVDEF const struct field *shim_field(int i);
L2LADVDEF const struct word *shim_word(int i);
L2LADVDEF const char *shim_attack_name(int i);
L2LADVDEF const char *shim_objective_name(int i);
L2LADVDEF const char *shim_method_name(int i);
L2LADVDEF l2l_context *shim_context(int threads);
L2LADVDEF void shim_attack(int i, double epsilon, l2l_learned *phi, l2l_attack *a);
L2LADVDEF void shim_objective(int i, l2l_attack *a);
L2LADVDEF void shim_method(int i, l2l_learned *phi, double beta, l2l_train_options *o);
L2LADVDEF void shim_train_default(l2l_train_options *o);
L2LADVDEF void shim_learned_default(l2l_learned_options *o);
L2LADVDEF void shim_optimizer_default(int kind, l2l_optimizer_options *o);
L2LADVDEF l2l_model *shim_model(l2l_context *c, const char *arch, l2l_model_options *o,
                                bool only_defaults);
L2LADVDEF const char *shim_arch(const l2l_model *m);
L2LADVDEF l2l_model *shim_external(l2l_context *c, int channels, int height, int width,
                                   int classes,
                                   bool (*logits)(void *, const float *, int, float *),
                                   bool (*vjp)(void *, const float *, int, const float *,
                                               float *));
L2LADVDEF bool shim_vjp(l2l_model *m, const float *x, int n, const float *dlogits, float *dx);
L2LADVDEF bool shim_parameter(const l2l_model *m, int i, const char **name, int *rank,
                              int64_t *shape, bool *trainable);
L2LADVDEF bool shim_train(l2l_model *m, const float *x, const int *y, int n, int channels,
                          int height, int width, l2l_train_options *o, const char *log,
                          l2l_model **best, l2l_model **averaged);
L2LADVDEF int shim_stages(l2l_model *m, const l2l_attack *a, l2l_attack *stages);
L2LADVDEF bool shim_autoattack(l2l_model *m, const float *x, const int *y, int n,
                               const l2l_attack *a, float *adversarial, l2l_record *records,
                               double *natural, double *stages, char *warnings, size_t capacity);

/* What a table has in row i; NULL behind its end. */
const struct field *shim_field(int i) { return i < COUNT(fields) ? &fields[i] : NULL; }
const struct word *shim_word(int i) { return i < COUNT(words) ? &words[i] : NULL; }
const char *shim_attack_name(int i) { return i < COUNT(attacks) ? attacks[i].name : NULL; }
const char *shim_objective_name(int i) { return i < COUNT(objectives) ? objectives[i].name : NULL; }
const char *shim_method_name(int i) { return i < COUNT(methods) ? methods[i] : NULL; }

l2l_context *shim_context(int threads)
{
    l2l_options o = l2l_options_default();
    o.threads = threads;
    return l2l_context_create(&o);
}

void shim_attack(int i, double epsilon, l2l_learned *phi, l2l_attack *a)
{
    int T = 0;
    double trained_epsilon;
    if (attacks[i].make) {
        *a = attacks[i].make(epsilon);
        return;
    }
    l2l_learned_trained_with(phi, &T, &trained_epsilon);
    *a = l2l_attack_learned(phi, epsilon, T > 0 ? T : 10);
}

void shim_objective(int i, l2l_attack *a) { a->objective = objectives[i].make(); }

void shim_method(int i, l2l_learned *phi, double beta, l2l_train_options *o)
{
    const char *name = methods[i];
    if (!strcmp(name, "advtrain")) o->method = l2l_method_advtrain();
#ifdef SEARCHES
    else if (!strcmp(name, "advtrain-bls")) o->method = l2l_method_advtrain_bls();
#endif
    else if (!strcmp(name, "trades")) o->method = l2l_method_trades(beta);
    else if (!strcmp(name, "rnn-adv")) o->method = l2l_method_rnn_adv(phi);
    else if (!strcmp(name, "rnn-trades")) o->method = l2l_method_rnn_trades(phi, beta);
    else o->method = l2l_method_plain();
}

void shim_train_default(l2l_train_options *o) { *o = l2l_train_default(); }
void shim_learned_default(l2l_learned_options *o) { *o = l2l_learned_default(); }
void shim_optimizer_default(int kind, l2l_optimizer_options *o)
{
    *o = kind == L2L_SGD ? l2l_sgd_default() : l2l_adam_default();
}

l2l_model *shim_model(l2l_context *c, const char *arch, l2l_model_options *o, bool only_defaults)
{
    l2l_model_options known = l2l_model_default(arch);
    if (only_defaults) {
        *o = known;
        return NULL;
    }
    o->arch = arch;
    o->forward = known.forward;
    return l2l_model_create(c, o);
}

const char *shim_arch(const l2l_model *m) { return l2l_model_info(m)->arch; }

l2l_model *shim_external(l2l_context *c, int channels, int height, int width, int classes,
                         bool (*logits)(void *, const float *, int, float *),
                         bool (*vjp)(void *, const float *, int, const float *, float *))
{
    l2l_external e = {channels, height, width, classes, NULL, logits, vjp};
    return l2l_model_external(c, &e);
}

bool shim_vjp(l2l_model *m, const float *x, int n, const float *dlogits, float *dx)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *o = l2l_model_info(m);
    const size_t one = (size_t)o->channels * (size_t)o->height * (size_t)o->width;
    const bool was = l2l_set_recording(c, true);
    for (int first = 0, batch = 100; first < n && !l2l_error(c); first += batch) {
        l2l_mark mark = l2l_mark_here(c);
        if (batch > n - first) batch = n - first;
        l2l_tensor *in = l2l_from_nchw(c, x + (size_t)first * one,
                                       l2l_shape_of(batch, o->height, o->width, o->channels));
        l2l_tensor *logits = l2l_model_forward(m, in, L2L_EVALUATE), *gradient = NULL;
        l2l_tensor *cotangent = l2l_from_nchw(c, dlogits + (size_t)first * (size_t)o->classes,
                                              l2l_shape_of(batch, 1, 1, o->classes));
        l2l_vjp(c, logits, cotangent, &in, 1, &gradient, L2L_FREE_GRAPH);
        l2l_to_nchw(c, gradient, dx + (size_t)first * one);
        l2l_release(c, mark);
    }
    l2l_set_recording(c, was);
    return !l2l_error(c);
}

bool shim_parameter(const l2l_model *m, int i, const char **name, int *rank, int64_t *shape,
                    bool *trainable)
{
    if (i >= l2l_model_parameters(m)) return false;
    l2l_parameter p = l2l_model_parameter(m, i);
    *name = p.name;
    *rank = p.rank;
    *trainable = p.trainable;
    memcpy(shape, p.shape, sizeof p.shape);
    return true;
}

bool shim_train(l2l_model *m, const float *x, const int *y, int n, int channels, int height,
                int width, l2l_train_options *o, const char *log, l2l_model **best,
                l2l_model **averaged)
{
    l2l_context *c = l2l_model_context(m);
    l2l_dataset d;
    l2l_trainer *t = NULL;
    bool ok = l2l_dataset_from_arrays(c, x, y, n, channels, height, width,
                                      l2l_model_info(m)->classes, &d);
#ifdef TRAINING_LOG
    training_log lines;
    training_log_add(&lines, c, log, o);
#else
    if (log) l2l_error_set(c, L2L_ERROR_UNSUPPORTED, "log: training_log.h is not beside l2ladv.py");
#endif
    if (ok) t = l2l_trainer_create(m, &d, o);
#ifdef TRAINING_LOG
    ok = t && training_log_train(&lines, t);
#else
    ok = t && l2l_train(t);
#endif
    if (ok) *best = l2l_trainer_best(t);
    if (ok && o->averaging > 0) *averaged = l2l_trainer_averaged(t);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    return ok && *best && (*averaged || !(o->averaging > 0));
}

/* An attack as it is, or what AutoAttack consists of; 0 after an error. */
int shim_stages(l2l_model *m, const l2l_attack *a, l2l_attack *stages)
{
#ifdef SEARCHES
    if (autoattack_is(a)) return autoattack_stages(m, a, stages) ? AUTOATTACK_STAGES : 0;
#endif
    *stages = *a;
    return 1;
}

bool shim_autoattack(l2l_model *m, const float *x, const int *y, int n, const l2l_attack *a,
                     float *adversarial, l2l_record *records, double *natural, double *stages,
                     char *warnings, size_t capacity)
{
#ifdef SEARCHES
    const l2l_model_options *model = l2l_model_info(m);
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    l2l_dataset d;
    l2l_result r;
    l2l_attack four[AUTOATTACK_STAGES];
    const l2l_series all = {a->name, four, AUTOATTACK_STAGES};
    bool ok = false;
    if (!autoattack_stages(m, a, four)) return false;
    o.batch = a->batch;
    if (!l2l_dataset_from_arrays(l2l_model_context(m), x, y, n, model->channels, model->height,
                                 model->width, model->classes, &d))
        return false;
    if (l2l_evaluation_begin(m, &d, &o, &e)) {
        ok = l2l_evaluation_series(&e, all, &r, records, adversarial);
        *natural = e.natural;
        if (ok) memcpy(stages, r.stages, AUTOATTACK_STAGES * sizeof *stages);
        l2l_evaluation_warnings(&e, warnings, capacity);
        l2l_evaluation_end(&e);
    }
    l2l_dataset_free(&d);
    return ok;
#else
    return false; /* autoattack() has seen to it */
#endif
}
#endif /* L2LADV_DOUBLE */
"""
# What the numbers of a search are.
NUMBERS = {"cw-l2": ("searches", "constant"), "deepfool": ("candidates", "overshoot"),
           "deepfool-l2": ("candidates", "overshoot"), "sign-opt": ("candidates",),
           "square": ("share",), "apgd-t": ("candidates",), "fab-t": ("candidates", "nearest"),
           "autoattack": ("candidates",)}
STAGES = ("apgd", "apgd-t", "fab-t", "square")  # of autoattack, in this order
ENSEMBLE = ("norm", "steps", "restarts", "candidates", "seed", "first", "batch")  # what it takes

# ---- errors -------------------------------------------------------------------------------------


class Error(Exception):
    """An error of l2ladv.h. code: its l2l_status; text: what was wrong and what was expected."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text

    def __str__(self):
        return self.text

    def __reduce__(self):  # for other processes
        return type(self), (self.code, self.text)


class ArgumentError(Error, ValueError):
    """A value out of its range, or shapes or settings that do not fit."""


class FormatError(Error, ValueError):
    """A file that is not what it should be."""


class OutOfMemory(Error, MemoryError):
    """The memory that a call needs was not to be had."""


class FileError(Error, OSError):
    """A file could not be opened, read, written or renamed. errno is the system's number and
    filename the file, as far as the text tells."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.errno = next((n for n in errno.errorcode if text.endswith(": " + os.strerror(n))),
                          None)
        named = re.match(r"(.+?): cannot ", text, re.S)
        self.filename = named.group(1) if named else None


class FileMissing(FileError, FileNotFoundError):
    """A file or a folder is not there."""


class NumericError(Error, ArithmeticError):
    """NaN or infinity where a number shall be."""


class Cancelled(Error):
    """A progress callback returned False."""


class BuildError(Error, RuntimeError):
    """The header could not be found, compiled or loaded; code is -1."""

    def __init__(self, text):
        super().__init__(-1, text)

    def __reduce__(self):
        return type(self), (self.text,)


_ERRORS = {"memory": OutOfMemory, "argument": ArgumentError, "shape": ArgumentError,
           "file": FileError, "format": FormatError, "mismatch": ArgumentError,
           "numeric": NumericError, "cancelled": Cancelled}

# ---- compiling the header -----------------------------------------------------------------------


def _header():
    """The bytes of l2ladv.h, of a version that this file knows."""
    here = os.path.dirname(os.path.abspath(__file__))
    given = os.environ.get("L2LADV_HEADER")
    places = [given] if given else [os.path.join(folder, "l2ladv.h")
                                    for folder in (here, os.path.dirname(here))]
    for place in places:
        if os.path.isfile(place):
            break
    else:
        raise BuildError("l2ladv.h is not there: looked for %s; L2LADV_HEADER may name it"
                         % " and ".join(places))
    with open(place, "rb") as f:
        header = f.read()
    number = re.search(rb"^#define L2LADV_VERSION_NUMBER (\d+)", header, re.M)
    number = int(number.group(1)) if number else 0
    if (number // 10000, number // 100 % 100) != VERSION:
        raise BuildError("%s is version %d.%d.%d, and this l2ladv.py is for version %d.%d"
                         % (place, number // 10000, number // 100 % 100, number % 100, *VERSION))
    return header


# What is used if all of it is beside this file: a macro for the shim, the headers.
BESIDE = {"SEARCHES": ("searches.h", "autoattack.h", "evaluation.h"),
          "TRAINING_LOG": ("training_log.h",)}


def _beside():
    """The bytes of the headers beside this file, by macro and name; those of which all are there."""
    folder, found = os.path.dirname(os.path.abspath(__file__)), {}
    for macro, names in BESIDE.items():
        places = [os.path.join(folder, name) for name in names]
        if not all(map(os.path.isfile, places)):
            continue
        found[macro] = {}
        for name, place in zip(names, places):
            with open(place, "rb") as f:
                found[macro][name] = f.read()
    return found


def _compiler():
    """The command of a C compiler, as a list, and what it says of itself."""
    given = shlex.split(os.environ.get("CC", ""))
    for command in [given] if given else [["cc"], ["gcc"], ["clang"], ["tcc"]]:
        if shutil.which(command[0]):
            about = subprocess.run(command + ["-v"], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            return command, about.stdout
    raise BuildError("no C compiler: %s; l2ladv.py compiles l2ladv.h on first use (Debian: apt "
                     "install gcc)" % ("CC is '%s', which is not there" % os.environ["CC"] if given
                                       else "none of cc, gcc, clang, tcc is in PATH"))


def _cache():
    """The folder for shared libraries: this user's alone, for what lies in it is loaded."""
    folder = os.environ.get("L2LADV_CACHE")
    if not folder:
        base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
        if not base or not os.path.isabs(base):
            base = os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(base, "l2ladv")
        if not os.path.isabs(folder):
            raise BuildError("the cache folder: there is no home folder; L2LADV_CACHE may name one")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        about = os.stat(folder)
    except OSError as e:
        raise BuildError("the cache folder %s: %s; L2LADV_CACHE may name another"
                         % (folder, e.strerror)) from e
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise BuildError("the cache folder %s belongs to another user or can be written to by "
                         "others; L2LADV_CACHE may name another" % folder)
    return folder


def library_path(anew=False):
    """Path of the shared library, compiled now if no library of this header, compiler and flags is
    in the cache (or anew). Several processes may do so at once: each compiles in a folder of its
    own, and the finished file, on the disk by then, is renamed into its place. Its size is part of
    its name: one that was cut off is none."""
    header, beside = _header(), _beside()
    parts = {name: data for macro in beside.values() for name, data in macro.items()}
    compiler, about = _compiler()
    flags = ["-std=c11"] + shlex.split(os.environ.get("CFLAGS", "-O2"))
    flags += ["-fvisibility=hidden", "-shared"] + ([] if os.name == "nt" else ["-fPIC"])
    ending = shlex.split(os.environ.get("LDFLAGS", "")) + ["-lm"]
    if any(flag.endswith("=native") for flag in compiler + flags):  # another on each machine
        about += subprocess.run(compiler + flags + ["-dM", "-E", "-x", "c", os.devnull],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL).stdout
    digest = hashlib.sha256()
    for part in (header, *parts.values(), SHIM.encode(), about,
                 repr((compiler, flags, ending)).encode(),
                 repr((sys.platform, platform.machine(), sys.maxsize)).encode()):
        digest.update(hashlib.sha256(part).digest())
    folder = _cache()
    around = ("l2ladv-%s-" % digest.hexdigest()[:32], ".dll" if os.name == "nt" else ".so")
    if not anew:
        for known in sorted(os.listdir(folder)):
            library = os.path.join(folder, known)
            with contextlib.suppress(OSError):
                if known == ("%d" % os.path.getsize(library)).join(around):
                    return library
    try:
        work = tempfile.mkdtemp(prefix="build-", dir=folder)
    except OSError as e:
        raise BuildError("the cache folder %s: %s; L2LADV_CACHE may name another"
                         % (folder, e.strerror)) from e
    built = os.path.join(work, "library")
    try:
        os.mkdir(os.path.join(work, "beside"))
        for name, data in [("l2ladv.h", header), ("shim.c", SHIM.encode())] + [
                (os.path.join("beside", name), data) for name, data in parts.items()]:
            with open(os.path.join(work, name), "wb") as f:
                f.write(data)
        for openmp in (["-fopenmp"], []):  # without it there is one thread
            command = (compiler + ['-DL2LADV_HEADER="l2ladv.h"', "-I" + work]
                       + ["-D" + macro for macro in beside] + flags + openmp
                       + [os.path.join(work, "shim.c"), "-o", built] + ending)
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  stdin=subprocess.DEVNULL)
            if done.returncode == 0 and os.path.isfile(built):
                break
        else:
            raise BuildError("l2ladv.h could not be compiled by\n  %s\n%s" % (
                " ".join(map(shlex.quote, command)),
                done.stdout.decode(errors="replace")[-2000:]))
        with open(built, "rb+") as f:
            os.fsync(f.fileno())
        library = os.path.join(folder, ("%d" % os.path.getsize(built)).join(around))
        try:
            os.replace(built, library)
        except OSError:  # on Windows, where another process has the same file loaded
            if not os.path.isfile(library):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return library


def _load(path):
    """The library, with threads that sleep while they wait, unless the environment says otherwise
    or OpenMP is there already: it reads this once, and spinning beside other programs is costly."""
    name = "OMP_WAIT_POLICY"
    ours = name not in os.environ
    if ours:
        os.environ[name] = "passive"
    try:
        return ctypes.CDLL(path)
    except OSError as e:
        raise BuildError("%s cannot be loaded: %s" % (path, e)) from e
    finally:
        if ours:
            del os.environ[name]


class _Field(ctypes.Structure):
    _fields_ = [("structure", ctypes.c_char_p), ("name", ctypes.c_char_p),
                ("type", ctypes.c_char_p), ("offset", ctypes.c_size_t), ("size", ctypes.c_size_t)]


class _Word(ctypes.Structure):
    _fields_ = [("owner", ctypes.c_char_p), ("word", ctypes.c_char_p), ("value", ctypes.c_int)]


_P, _INT, _BOOL, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_bool, ctypes.c_char_p
_FUNCTIONS = {  # result, arguments
    "shim_field": (ctypes.POINTER(_Field), _INT), "shim_word": (ctypes.POINTER(_Word), _INT),
    "shim_attack_name": (_TEXT, _INT), "shim_objective_name": (_TEXT, _INT),
    "shim_method_name": (_TEXT, _INT), "shim_context": (_P, _INT),
    "shim_attack": (None, _INT, ctypes.c_double, _P, _P), "shim_objective": (None, _INT, _P),
    "shim_method": (None, _INT, _P, ctypes.c_double, _P), "shim_train_default": (None, _P),
    "shim_learned_default": (None, _P), "shim_optimizer_default": (None, _INT, _P),
    "shim_model": (_P, _P, _TEXT, _P, _BOOL), "shim_arch": (_TEXT, _P),
    "shim_external": (_P, _P, _INT, _INT, _INT, _INT, _P, _P),
    "shim_vjp": (_BOOL, _P, _P, _INT, _P, _P), "shim_parameter": (_BOOL, _P, _INT, _P, _P, _P, _P),
    "shim_train": (_BOOL, _P, _P, _P, _INT, _INT, _INT, _INT, _P, _P, _P, _P),
    "shim_stages": (_INT, _P, _P, _P),
    "shim_autoattack": (_BOOL, _P, _P, _P, _INT, _P, _P, _P, _P, _P, _P, ctypes.c_size_t),
    "l2l_context_free": (None, _P), "l2l_error": (_INT, _P), "l2l_error_text": (_TEXT, _P),
    "l2l_error_clear": (None, _P), "l2l_set_threads": (None, _P, _INT), "l2l_describe": (_TEXT, _P),
    "l2l_model_free": (None, _P), "l2l_model_clone": (_P, _P, _P), "l2l_model_info": (_P, _P),
    "l2l_model_logits": (_BOOL, _P, _P, _INT, _P), "l2l_model_open": (_P, _P, _TEXT),
    "l2l_model_load": (_BOOL, _P, _TEXT, _P), "l2l_model_save": (_BOOL, _P, _TEXT),
    "l2l_model_size": (ctypes.c_int64, _P),
    "l2l_model_summary": (ctypes.c_size_t, _P, _P, ctypes.c_size_t),
    "l2l_parameter_get": (_BOOL, _P, _INT, _P), "l2l_parameter_set": (_BOOL, _P, _INT, _P),
    "l2l_attack_worst": (_BOOL, _P, _P, _INT, _P, _P, _INT, _P, _P),
    "l2l_learned_create": (_P, _P, _P), "l2l_learned_open": (_P, _P, _TEXT),
    "l2l_learned_save": (_BOOL, _P, _TEXT), "l2l_learned_load": (_BOOL, _P, _TEXT),
    "l2l_learned_free": (None, _P), "l2l_learned_size": (_INT, _P),
    "l2l_learned_info": (_P, _P), "l2l_learned_trained_with": (None, _P, _P, _P),
    "l2l_learned_parameters": (_P, _P), "l2l_free": (None, _P, _P),
    "l2l_learned_save_memory": (_BOOL, _P, _P, _P),
    "l2l_learned_load_memory": (_BOOL, _P, _P, ctypes.c_size_t),
}


class _Library:
    """The compiled header: its functions as attributes, its structs as NumPy types."""

    def __init__(self):
        path = library_path()
        try:
            self._c = _load(path)
        except BuildError:  # what lay in the cache may be damaged
            self._c = _load(library_path(anew=True))
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(self._c, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        rows = collections.OrderedDict()
        for field in self._table(self.shim_field):
            rows.setdefault(field.contents.structure.decode(), []).append(field.contents)
        self.types = {}
        for structure in rows:
            self._type(rows, structure)
        self.words = {}  # {"l2l_attack.norm": {"linf": 0, "l2": 1}}
        for word in self._table(self.shim_word):
            w = word.contents
            self.words.setdefault(w.owner.decode(), {})[w.word.decode()] = w.value
        self.attacks, self.objectives, self.methods = (
            [name.decode() for name in self._table(function)] for function in
            (self.shim_attack_name, self.shim_objective_name, self.shim_method_name))
        self.errors = {value: _ERRORS.get(word, Error)
                       for word, value in self.words["l2l_status"].items()}

    @staticmethod
    def _table(function):
        i = 0
        while function(i):
            yield function(i)
            i += 1

    def _type(self, rows, structure):
        """The NumPy type of a C struct; of fields that are structs, theirs first."""
        if structure not in self.types:
            size, *fields = rows[structure]
            formats = []
            for f in fields:
                kind = f.type.decode()
                formats.append(self._type(rows, kind) if kind in rows else
                               np.dtype(np.uintp) if kind in ("p", "text") else np.dtype(kind))
                if formats[-1].itemsize != f.size:
                    raise BuildError("l2ladv.py does not know the type of %s.%s: %d bytes"
                                     % (structure, f.name.decode(), f.size))
            self.types[structure] = np.dtype({
                "names": [f.name.decode() for f in fields], "formats": formats,
                "offsets": [f.offset for f in fields], "itemsize": size.size})
            self.types[structure + "*"] = {f.name.decode(): f.type.decode() for f in fields}
        return self.types[structure]

    def make(self, structure, n=()):
        return np.zeros(n, self.types[structure])

    def at(self, structure, address):
        """A copy of the struct at an address."""
        return np.frombuffer(ctypes.string_at(address, self.types[structure].itemsize),
                             self.types[structure])[0]


_library_lock = threading.Lock()
_loaded = None


def _library():
    global _loaded
    with _library_lock:
        if _loaded is None:
            _loaded = _Library()
        return _loaded


# ---- contexts and calls -------------------------------------------------------------------------


def _free_context(lib, pointer, garbage):
    while garbage:
        free, thing = garbage.pop()
        free(thing)
    lib.l2l_context_free(pointer)


_contexts = weakref.WeakSet()
_threads = 0  # as many as OpenMP would use
_forked = False


class _Context:
    """A context of the library. Python may drop a model at any moment, in any thread and in the
    middle of a call, so that what is to be freed waits in `garbage` for the next call."""

    def __init__(self, threads):
        self.lib = _library()
        self.pointer = self.lib.shim_context(1 if _forked else threads)
        if not self.pointer:
            raise OutOfMemory(-1, "there is no memory for a context")
        self.lock, self.depth, self.garbage = threading.RLock(), 0, []
        self.owner = None  # the thread that holds the lock
        # At the end of the program nothing is freed: another thread may still be in C.
        self._free = weakref.finalize(self, _free_context, self.lib, self.pointer, self.garbage)
        self._free.atexit = False
        _contexts.add(self)

    def owns(self, thing, pointer, free):
        """The thing's C object is freed after it."""
        weakref.finalize(thing, _throw_away, self, free, pointer).atexit = False
        return pointer


def _throw_away(context, free, pointer):
    context.garbage.append((free, pointer))


_shared_lock = threading.Lock()
_shared = None


def _context():
    """The one context of all models and maximizers of the header."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = _Context(_threads)
        return _shared


def _after_fork():
    """In the child: GNU's OpenMP hangs there with several threads, and whoever held a lock in the
    parent is not here to release it."""
    global _forked, _library_lock, _shared_lock
    _forked = True
    _library_lock, _shared_lock = threading.Lock(), threading.Lock()
    _waiting.clear()
    if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), _Call):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # that call ends in the parent
    for context in list(_contexts):
        context.lock, context.depth, context.owner = threading.RLock(), 0, None
        context.lib.l2l_set_threads(context.pointer, 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_running = threading.local()  # .call: the _Call whose C function runs in this thread
_waiting = {}  # {thread: the context whose lock it waits for}
_hook = None  # sys.unraisablehook as it was


def _lost(what):
    """In place of sys.unraisablehook. What a signal's handler raises at the first instruction of a
    function that C calls comes before `guard`, or behind it, and ctypes would print it and let C go
    on: it is the failure of the call at hand. All else goes to the hook that was there."""
    call = getattr(_running, "call", None)
    owner = getattr(what.object, "__self__", what.object)
    if (call is not None and "ctypes callback" in (what.err_msg or "") and
            (owner is None or isinstance(owner, (_Call, _Callbacks, _Steps)))):
        call.guarded = False
        if call.failure is None:
            call.failure = what.exc_type() if what.exc_value is None else what.exc_value
    elif _hook is None or getattr(_running, "passes", False):  # that one hands on to this one
        sys.__unraisablehook__(what)
    else:
        _running.passes = True
        try:
            _hook(what)
        finally:
            _running.passes = False


class _Call:
    """A call into C, as a context manager: locks the context, keeps what Python code that C calls
    raises until C has returned, and turns the context's error into an exception.

    Ctrl-C: Python runs a signal's handler only where Python code runs, here the functions that C
    calls. The handler of this class raises KeyboardInterrupt while they run under `guard`, where it
    is kept like any exception, and else makes a note, which the next of them looks at. It is there
    before the lock is taken and until it is given back, so that none is left locked."""

    def __init__(self, context, progress=None):
        self.context, self.lib, self.progress = context, context.lib, progress
        self.failure, self.interrupted, self.guarded, self.old = None, False, False, None
        self.lock = None  # the context's, while this call holds it

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            old = signal.getsignal(signal.SIGINT)
            if old is signal.default_int_handler or isinstance(getattr(old, "__self__", None),
                                                               _Call):
                self.old = old
                signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._hold()
            if self.context.depth == 1:
                self.lib.l2l_error_clear(self.context.pointer)  # of a call that was cut short
                while self.context.garbage:
                    free, thing = self.context.garbage.pop()
                    free(thing)
        except BaseException:  # also of another signal's handler
            self._give_back()
            raise
        return self

    def __exit__(self, kind, value, traceback):
        self._give_back()
        if self.interrupted and kind is None:
            raise KeyboardInterrupt
        return False

    def _hold(self):
        context, lock, me = self.context, self.context.lock, threading.get_ident()
        try:
            while not lock.acquire(timeout=0.1):
                _waiting[me] = context
                if self.interrupted:
                    raise KeyboardInterrupt
                if self._in_a_circle(me):
                    raise Error(-1, "this thread waits for a model that another thread uses, which "
                                "waits for one that this thread uses: neither would ever go on")
            self.lock = lock
        finally:
            _waiting.pop(me, None)
        context.depth += 1
        context.owner = me

    def _in_a_circle(self, me):
        """Whoever holds what this thread waits for waits, in the end, for this thread."""
        at = self.context
        for _ in range(len(_waiting) + 1):
            if at is None or at.owner is None:
                return False
            if at.owner == me:
                return True
            at = _waiting.get(at.owner)
        return False

    def _give_back(self):
        lock, self.lock = self.lock, None
        if lock is not None:
            if lock is self.context.lock:  # a child of fork has another one
                self.context.depth -= 1
                if self.context.depth == 0:
                    self.context.owner = None
            lock.release()
        if self.old is not None:
            signal.signal(signal.SIGINT, self.old)

    def _interrupt(self, number, frame):
        self.interrupted = True
        if self.guarded:
            raise KeyboardInterrupt

    def guard(self, function, *arguments):
        """Runs Python code for C: true if it went well. Only the first failure counts."""
        if self.failure is not None:
            return False
        was = self.guarded
        try:
            self.guarded = True
            if self.interrupted:
                raise KeyboardInterrupt
            answer = function(*arguments)
            self.guarded = was
            return not isinstance(answer, (bool, np.bool_)) or bool(answer)
        except BaseException as e:
            self.guarded = was
            self.failure = e
            return False

    def run(self, function, *arguments):
        """The result of a C function, or the exception that it ended with."""
        global _hook
        if sys.unraisablehook is not _lost:  # a test framework, say, sets it for each test
            _hook, sys.unraisablehook = sys.unraisablehook, _lost
        outer = getattr(_running, "call", None)
        try:
            _running.call = self
            result = function(*arguments)
        finally:
            _running.call = outer
        pointer = self.context.pointer
        code, text = self.lib.l2l_error(pointer), self.lib.l2l_error_text(pointer)
        if code:
            text = text.decode(errors="replace")
            self.lib.l2l_error_clear(pointer)
        failure, self.failure = self.failure, None
        try:
            if failure is not None:
                raise failure
            if self.interrupted:
                raise KeyboardInterrupt
            if code:
                error = self.lib.errors.get(code, Error)(code, text)
                if isinstance(error, FileError) and error.errno == errno.ENOENT:
                    error = FileMissing(code, text)
                raise error
        finally:
            failure = None  # no cycle of this frame and its exception's traceback
        return result

    def done(self, user, done, total):
        """progress of l2l_attack."""
        return self.guard(self.progress or _nothing, done, total)


def _nothing(*arguments):
    return None


_LOGITS = ctypes.CFUNCTYPE(_BOOL, _P, _P, _INT, _P)
_VJP = ctypes.CFUNCTYPE(_BOOL, _P, _P, _INT, _P, _P)
_DONE = ctypes.CFUNCTYPE(_BOOL, _P, _INT, _INT)
_STEP = ctypes.CFUNCTYPE(_BOOL, _P, _P)


def _address(function):
    return ctypes.cast(function, _P).value


def describe():
    """Version, element, kernels and threads of the library, as text for logs."""
    context = _context()
    with _Call(context) as call:
        return call.run(context.lib.l2l_describe, context.pointer).decode()


def set_threads(n):
    """Threads of the header's own models, of training and of attacks on them; 0: as many as OpenMP
    would use. Changes no result."""
    global _threads
    _threads = _integer("n", n)
    if _threads < 0:
        raise ValueError("n: %d threads" % _threads)
    context = _context()
    with _Call(context) as call:
        call.run(context.lib.l2l_set_threads, context.pointer, 1 if _forked else _threads)


def attacks():
    """The names of all attacks."""
    return list(_library().attacks)


def objectives():
    """The names of what an attack can climb."""
    return list(_library().objectives)


def methods():
    """The names of all methods of training."""
    return list(_library().methods)


# ---- what callers hand in -----------------------------------------------------------------------


def _integer(name, value):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError("%s: %r is not an integer" % (name, value)) from None


def _number(name, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError("%s: %r is not a number" % (name, value)) from None


def _choice(name, value, names):
    """The place of a word in a list; hyphens and underscores are the same."""
    word = value.replace("_", "-") if isinstance(value, str) else value
    if word not in names:
        raise ValueError("%s: %r is not one of %s" % (name, value, ", ".join(names)))
    return names.index(word)


def _path(value):
    """The name of a file for C, where it would end at a null byte."""
    name = os.fsencode(value)
    if b"\0" in name:
        raise ValueError("embedded null byte in the file name %r" % value)
    return name


def _array(value):
    """A NumPy array of what is given, also of a torch tensor of any device, type and graph."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().to("cpu")
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def _floats(name, value, shape, free=()):
    """An aligned C-contiguous float32 array of a shape; axes in `free` may be of any length."""
    a = _array(value)
    if a.dtype.kind != "f":
        raise TypeError("%s: dtype %s, expected float32%s" % (
            name, a.dtype, "; bytes become pixels by x / 255" if a.dtype.kind in "iu" else ""))
    wanted = ["any" if i in free else str(n) for i, n in enumerate(shape)]
    if a.ndim != len(shape) or any(i not in free and n != m
                                   for i, (n, m) in enumerate(zip(a.shape, shape))):
        raise ValueError("%s: shape %s, expected %s" % (name, _by(a.shape), " x ".join(wanted)))
    return np.require(a, np.float32, ["C", "A"])


def _by(shape):
    return " x ".join(map(str, shape)) or "()"


def _images(name, value, shape, n=None):
    """n images of a shape CxHxW in [0,1]; None: any number of them but 0."""
    x = _floats(name, value, (n or 0,) + tuple(shape), () if n else (0,))
    if len(x) == 0:
        raise ValueError("%s: no images" % name)
    if not (x.min() >= 0 and x.max() <= 1):  # NaN fails both
        i = np.argwhere(~((x >= 0) & (x <= 1)))[0]
        raise ValueError("%s: %g in image %d, expected numbers in [0,1] (normalisation belongs "
                         "into the model)" % (name, x[tuple(i)], i[0]))
    return x


def _labels(name, value, n, classes):
    """n class numbers."""
    y = _array(value)
    if y.dtype.kind not in "iu":
        raise TypeError("%s: dtype %s, expected integers" % (name, y.dtype))
    if y.shape != (n,):
        raise ValueError("%s: shape %s, expected %d, one for each image" % (name, _by(y.shape), n))
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        raise ValueError("%s: %d of image %d is not in 0..%d" % (name, y[wrong[0]], wrong[0],
                                                                 classes - 1))
    return np.require(y, np.intc, ["C", "A"])


def _booleans(name, value, n):
    """n truth values."""
    a = _array(value)
    if a.dtype != np.bool_:
        raise TypeError("%s: dtype %s, expected bool" % (name, a.dtype))
    if a.shape != (n,):
        raise ValueError("%s: shape %s, expected %d, one for each image" % (name, _by(a.shape), n))
    return np.require(a, np.bool_, ["C", "A"])


def _set(lib, structure, into, options, keep):
    """Options by name into a struct. `keep` gets what the struct points to."""
    kinds = lib.types[structure + "*"]
    allowed = [k for k, kind in kinds.items() if kind not in ("p", "l2l_objective")]
    for key, value in options.items():
        if key not in allowed:
            raise TypeError("there is no option '%s'; there are %s" % (key, ", ".join(allowed)))
        kind, words = kinds[key], lib.words.get("%s.%s" % (structure, key))
        if words:
            names = list(words)
            into[key] = words[names[_choice(key, value, names)]]
        elif kind == "text":
            if value is not None:
                keep.append(ctypes.c_char_p(_path(value)))
                into[key] = ctypes.cast(keep[-1], _P).value
        elif kind in lib.types:
            inner = {"kind": value} if isinstance(value, str) else dict(value)
            if kind == "l2l_optimizer_options" and "kind" in inner:
                names = lib.words[kind + ".kind"]
                number = names[list(names)[_choice(key, inner["kind"], list(names))]]
                if number != into[key]["kind"]:  # else what is there are this use's own defaults
                    lib.shim_optimizer_default(number, into[key].ctypes.data)
            _set(lib, kind, into[key], inner, keep)
        elif kind == "?":
            if not isinstance(value, (bool, np.bool_)):
                raise TypeError("%s: %r is neither True nor False" % (key, value))
            into[key] = value
        elif kind == "f8":
            into[key] = _number(key, value)
        elif kind.startswith("("):
            numbers = np.asarray(value, np.float64)
            if numbers.ndim != 1 or len(numbers) > into[key].shape[-1]:
                raise ValueError("%s: expected up to %d numbers" % (key, into[key].shape[-1]))
            into[key][:] = 0
            into[key][:len(numbers)] = numbers
        else:
            number, limits = _integer(key, value), np.iinfo(kind)
            if not limits.min <= number <= limits.max:
                raise ValueError("%s: %d is not in %d..%d" % (key, number, limits.min, limits.max))
            into[key] = number


# ---- models -------------------------------------------------------------------------------------


class _Whole:
    """What owns a C object, of which a copy of this object would be a second owner."""

    def __reduce__(self):
        raise TypeError("a %s cannot be copied or pickled: %s" % (
            type(self).__name__, "save() and open() do so" if hasattr(self, "save") else
            "make another one"))


class _Attackable(_Whole):
    """What attacks need: a context, the C model, the shape of images and the number of classes."""

    shape, classes = (0, 0, 0), 0  # CxHxW

    @contextlib.contextmanager
    def _open(self, progress=None):
        with _Call(self._context, progress) as call:
            yield call


class Model(_Attackable):
    """A classifier of the header: "smallcnn", "vgg16", "wrn" or "resnet18".

        Model("smallcnn", width_multiplier=0.25, seed=1)
        Model.open("model.safetensors")

    Options are the fields of l2l_model_options: channels, height, width, classes, width_multiplier,
    depth, dropout, last_layer_deviation, seed; mean and deviation (a number, or one for each
    channel) for a normalisation that is part of the model. Files are safetensors with PyTorch's names."""

    def __init__(self, arch, **options):
        self._context = _context()
        lib, keep = self._context.lib, []
        o, name = lib.make("l2l_model_options"), arch.encode()
        lib.shim_model(None, name, o.ctypes.data, True)
        if o["classes"] == 0:
            raise ValueError("arch: %r is not one of smallcnn, vgg16, wrn, resnet18" % arch)
        if ("mean" in options) != ("deviation" in options):
            raise TypeError("mean and deviation go together")
        for key in ("mean", "deviation"):
            if key in options and np.ndim(options[key]) == 0:  # the same for each channel
                channels = _integer("channels", options.get("channels", o["channels"]))
                options[key] = [_number(key, options[key])] * max(channels, 0)
        if "mean" in options:
            options.setdefault("normalise", len(options["mean"]))
        _set(lib, "l2l_model_options", o, options, keep)
        with _Call(self._context) as call:
            self._take(call.run(lib.shim_model, self._context.pointer, name, o.ctypes.data, False))

    def _take(self, pointer):
        self._pointer = self._context.owns(self, pointer, self._context.lib.l2l_model_free)
        info = self.info
        self.shape = (info["channels"], info["height"], info["width"])
        self.classes = info["classes"]

    @classmethod
    def _of(cls, pointer):
        self = cls.__new__(cls)
        self._context = _context()
        self._take(pointer)
        return self

    @classmethod
    def open(cls, path):
        """The model of a file, architecture included."""
        context = _context()
        with _Call(context) as call:
            return cls._of(call.run(context.lib.l2l_model_open, context.pointer,
                                    _path(path)))

    def save(self, path):
        """Writes a model file; a process killed at any time leaves the old file or the new one."""
        with self._open() as call:
            call.run(call.lib.l2l_model_save, self._pointer, _path(path))

    def load(self, path):
        """Takes the parameters from a file of the same architecture. Returns how many entries of it
        the model does not have."""
        extra = ctypes.c_int()
        with self._open() as call:
            call.run(call.lib.l2l_model_load, self._pointer, _path(path),
                     ctypes.addressof(extra))
        return extra.value

    def clone(self):
        """A copy, as copy.copy() and copy.deepcopy() make it."""
        with self._open() as call:
            return Model._of(call.run(call.lib.l2l_model_clone, self._context.pointer,
                                      self._pointer))

    def __copy__(self):
        return self.clone()

    def __deepcopy__(self, memo):
        return self.clone()

    @property
    def arch(self):
        return self._context.lib.shim_arch(self._pointer).decode()

    @property
    def info(self):
        """Its options, as a dictionary."""
        lib = self._context.lib
        o = lib.at("l2l_model_options", lib.l2l_model_info(self._pointer))
        return {name: o[name].tolist() for name in o.dtype.names}

    @property
    def size(self):
        """How many numbers are trained."""
        return self._context.lib.l2l_model_size(self._pointer)

    def summary(self):
        """A table of layers, shapes and counts."""
        lib = self._context.lib
        text = ctypes.create_string_buffer(lib.l2l_model_summary(self._pointer, None, 0) + 1)
        lib.l2l_model_summary(self._pointer, ctypes.addressof(text), len(text))
        return text.value.decode()

    def logits(self, x):
        """NxK logits of NxCxHxW images, in evaluation mode."""
        x = _floats("x", x, (0,) + self.shape, (0,))
        z = np.empty((len(x), self.classes), np.float32)
        with self._open() as call:
            call.run(call.lib.l2l_model_logits, self._pointer, x.ctypes.data, len(x), z.ctypes.data)
        return z

    def predict(self, x):
        """N class numbers; logits that are NaN are a NumericError."""
        z = self.logits(x)
        classes = z.argmax(1)  # NaN, if there is one, comes first
        wrong = np.flatnonzero(np.isnan(z).any(1))
        if len(wrong):
            code = self._context.lib.words["l2l_status"]["numeric"]
            raise NumericError(code, "predict: class %d of image %d is nan"
                               % (classes[wrong[0]], wrong[0]))
        return classes

    def vjp(self, x, dlogits):
        """The gradient in x (NxCxHxW) of the sum of dlogits (NxK) * logits(x), in evaluation
        mode."""
        x = _floats("x", x, (0,) + self.shape, (0,))
        d = _floats("dlogits", dlogits, (len(x), self.classes))
        dx = np.empty_like(x)
        with self._open() as call:
            call.run(call.lib.shim_vjp, self._pointer, x.ctypes.data, len(x), d.ctypes.data,
                     dx.ctypes.data)
        return dx

    def _parameters(self):
        lib, i = self._context.lib, 0
        name, rank, shape, trainable = _TEXT(), _INT(), (ctypes.c_int64 * 4)(), _BOOL()
        while lib.shim_parameter(self._pointer, i, ctypes.addressof(name), ctypes.addressof(rank),
                                 ctypes.addressof(shape), ctypes.addressof(trainable)):
            yield i, name.value.decode(), tuple(shape[:rank.value])
            i += 1

    def parameters(self):
        """{name: array}, copies of parameters and running statistics with PyTorch's names and
        layouts."""
        found = collections.OrderedDict()
        with self._open() as call:
            for i, name, shape in self._parameters():
                found[name] = np.empty(shape, np.float32)
                call.run(call.lib.l2l_parameter_get, self._pointer, i, found[name].ctypes.data)
        return found

    def set_parameters(self, values):
        """Takes {name: array} as parameters() gives it, e.g. of a state_dict. All names and shapes
        are checked before anything changes; entries that the model does not have are left out, and
        their names returned."""
        with self._open() as call:
            known = list(self._parameters())
            missing = [name for _, name, _ in known if name not in values]
            if missing:
                raise ValueError("values: there is no '%s'" % missing[0])
            arrays = [_floats(name, values[name], shape) for _, name, shape in known]
            for (i, _, _), a in zip(known, arrays):
                call.run(call.lib.l2l_parameter_set, self._pointer, i, a.ctypes.data)
        names = {name for _, name, _ in known}
        return [name for name in values if name not in names]


class _Callbacks:
    """What C calls of an External: turns pointers into arrays and back, without copies."""

    def __init__(self, logits, vjp, shape, classes):
        self.logits, self.vjp, self.shape, self.classes = logits, vjp, shape, classes
        self.call = None  # at hand

    @staticmethod
    def _array(address, shape):
        count = 1
        for n in shape:
            count *= n
        return np.frombuffer((ctypes.c_float * count).from_address(address),
                             np.float32).reshape(shape)

    @staticmethod
    def _put(name, value, into):
        """What a callable returned, into memory of the library."""
        value = _array(value)
        if value.shape != into.shape or value.dtype.kind != "f":
            raise ValueError("%s returned %s of %s, expected float32 of %s" % (
                name, value.dtype, _by(value.shape), _by(into.shape)))
        into[...] = value

    def on_logits(self, user, x, n, z):
        return self.call.guard(self._logits, x, n, z)

    def on_vjp(self, user, x, n, dlogits, dx):
        return self.call.guard(self._vjp, x, n, dlogits, dx)

    def _logits(self, x, n, z):
        images = self._array(x, (n,) + self.shape)
        images.flags.writeable = False
        self._put("logits(x)", self.logits(images), self._array(z, (n, self.classes)))

    def _vjp(self, x, n, dlogits, dx):
        images, d = self._array(x, (n,) + self.shape), self._array(dlogits, (n, self.classes))
        images.flags.writeable = d.flags.writeable = False
        self._put("vjp(x, dlogits)", self.vjp(images, d), self._array(dx, images.shape))


class External(_Attackable):
    """A model that lives elsewhere, as functions of arrays:

        logits(x)        NxCxHxW float32 in [0,1] to NxK
        vjp(x, dlogits)  the gradient in x of the sum of dlogits * logits(x), NxCxHxW; None: attacks
                         without gradients only (square, sign-opt)

    shape is CxHxW, classes K. x and dlogits are read-only views of the library's memory, valid
    until the function returns. The answer for an image must not depend on the others in the batch.
    threads: of the library's own work between the calls, which is little."""

    def __init__(self, logits, vjp=None, *, shape, classes, threads=1):
        if not callable(logits) or not (vjp is None or callable(vjp)):
            raise TypeError("logits and vjp: expected functions")
        shape = tuple(_integer("shape", n) for n in shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError("shape: %s, expected channels x height x width" % _by(shape))
        self.shape, self.classes = shape, _integer("classes", classes)
        self._context = _Context(threads)
        self._callbacks = _Callbacks(logits, vjp, shape, self.classes)
        self._c = (_LOGITS(self._callbacks.on_logits), vjp and _VJP(self._callbacks.on_vjp))
        with _Call(self._context) as call:
            pointer = call.run(call.lib.shim_external, self._context.pointer, *shape, self.classes,
                               _address(self._c[0]), vjp and _address(self._c[1]))
        self._pointer = self._context.owns(self, pointer, self._context.lib.l2l_model_free)

    @contextlib.contextmanager
    def _open(self, progress=None):
        with _Call(self._context, progress) as call, self._ready():
            before, self._callbacks.call = self._callbacks.call, call
            try:
                yield call
            finally:
                self._callbacks.call = before

    def _ready(self):
        """Held during a call, for subclasses."""
        return contextlib.ExitStack()


class TorchModel(External):
    """A torch.nn.Module of NxCxHxW images that returns NxK logits.

    shape is CxHxW. With mean and std (a number, or one for each channel) the module gets
    (x - mean) / std. During a call every submodule is in evaluation mode; afterwards each is in the
    mode that it was in. Images go to the device and in the floating-point type of the module's
    first parameter. Neither parameters nor their .grad and requires_grad change; callers may be
    under torch.no_grad. The number of classes is found by a pass of one black image. One module is
    not to be attacked in two threads at once: they would meet in its modes."""

    def __init__(self, module, shape, *, mean=None, std=None, threads=1):
        import torch
        if not isinstance(module, torch.nn.Module):
            raise TypeError("module: %s, expected a torch.nn.Module" % type(module).__name__)
        self._torch, self.module = torch, module
        if (mean is None) != (std is None):
            raise TypeError("mean and std go together")
        self._scale = None
        if mean is not None:
            self._scale = []
            for name, value in (("mean", mean), ("std", std)):
                v = np.asarray(value, np.float64)
                if v.shape not in ((), (1,), (shape[0],)):
                    raise ValueError("%s: shape %s, expected a number for each of %d channels"
                                     % (name, _by(v.shape), shape[0]))
                self._scale.append(torch.from_numpy(v.reshape(-1, 1, 1).copy()))
            if not bool((self._scale[1] > 0).all()):
                raise ValueError("std: expected numbers above 0")
        self._kept, self._keeps, self._last = None, True, None
        with self._ready():
            z = self._run_logits(np.zeros((1,) + tuple(shape), np.float32))
        if z.ndim != 2 or len(z) != 1:
            raise ValueError("module: %s for one image, expected logits of 1 x K" % _by(z.shape))
        super().__init__(self._run_logits, self._run_vjp, shape=shape, classes=z.shape[1],
                         threads=threads)

    @contextlib.contextmanager
    def _ready(self):
        module, torch = self.module, self._torch
        first = next((p for p in list(module.parameters()) + list(module.buffers())
                      if p.is_floating_point()), torch.zeros(()))
        self._like = {"device": first.device, "dtype": first.dtype}
        # A frozen module of TorchScript has no mode. Of all others train() may be the module's own.
        modes = [(m, m.training) for m in module.modules() if hasattr(m, "training")]
        with contextlib.ExitStack() as stack:
            if hasattr(torch, "inference_mode"):
                stack.enter_context(torch.inference_mode(False))
            try:
                if any(mode for _, mode in modes):
                    module.eval()
                    for m, _ in modes:
                        m.training = False
                yield
            finally:
                self._kept = self._last = None
                try:
                    for m, mode in modes:  # the outer ones first
                        if m.training != mode:
                            m.train(mode)
                finally:
                    for m, mode in modes:
                        if m.training != mode:
                            m.training = mode

    def _input(self, x):
        """x is the library's memory: a copy, which the module may change or keep."""
        return self._torch.from_numpy(np.array(x)).to(**self._like)

    def _forward(self, t):
        if self._scale is not None:
            mean, std = (v.to(**self._like) for v in self._scale)
            t = (t - mean) / std
        return self.module(t)

    def _backward(self, z, t, d):
        return self._torch.autograd.grad(z, t, d)[0]

    def _graph(self, x):
        with self._torch.enable_grad():
            t = self._input(x).requires_grad_()
            return t, self._forward(t.clone())

    @staticmethod
    def _numbers(tensor):
        return tensor.detach().to("cpu").float().numpy()

    # The library asks for logits, and then, if it wants a gradient, for the product at the same
    # images. So the graph of the logits is kept, unless it was in vain the last time.
    def _run_logits(self, x):
        if self._kept is not None:
            self._keeps = False
        self._kept, self._last = None, len(x)
        if self._keeps:
            t, z = self._graph(x)
            self._kept = (np.array(x), t, z)
        else:
            with self._torch.no_grad():
                z = self._forward(self._input(x))
        return self._numbers(z)

    def _run_vjp(self, x, dlogits):
        kept, self._kept = self._kept, None
        self._keeps = self._keeps or self._last == len(x)
        if kept is None or not np.array_equal(kept[0], x):
            kept = (None,) + self._graph(x)
        _, t, z = kept
        d = self._torch.from_numpy(np.array(dlogits)).to(device=z.device, dtype=z.dtype)
        return self._numbers(self._backward(z, t, d))


def _as_model(model, x):
    """A model for attacks; of a torch.nn.Module with the shape of the images."""
    if isinstance(model, _Attackable):
        return model
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        x = _array(x)
        if x.ndim != 4:
            raise ValueError("x: shape %s, expected N x C x H x W" % _by(x.shape))
        _images("x", x, x.shape[1:])
        return TorchModel(model, x.shape[1:])
    raise TypeError("model: %s, expected Model, External, TorchModel or torch.nn.Module"
                    % type(model).__name__)


# ---- attacks ------------------------------------------------------------------------------------

Attacked = collections.namedtuple("Attacked", "adversarial records")
AutoAttack = collections.namedtuple(
    "AutoAttack", "adversarial robust natural stages records warnings seconds")


def _fill(call, into, model, n, name, epsilon, maximizer, keep, *, targets=None, only=None,
          init=None, objective=None, confidence=None, **options):
    """An l2l_attack, by name and options."""
    lib = call.lib
    i = _choice("name", name, lib.attacks)
    phi = None
    if lib.attacks[i] == "autoattack":  # of four attacks, most of whose options are their own
        given = dict(options, targets=targets, only=only, objective=objective,
                     confidence=confidence)
        for key, value in given.items():
            if value is not None and key not in ENSEMBLE:
                raise TypeError("autoattack has no option '%s'; there are %s, init"
                                % (key, ", ".join(ENSEMBLE)))
    if lib.attacks[i] == "learned":
        if maximizer is None:
            raise TypeError("maximizer: the attack 'learned' needs a Maximizer")
        made_with, data = maximizer
        phi = call.run(lib.l2l_learned_create, call.context.pointer, made_with.ctypes.data)
        keep.append(_Owner(call.context, phi, lib.l2l_learned_free))
        call.run(lib.l2l_learned_load_memory, phi, data, len(data))
    lib.shim_attack(i, _number("epsilon", epsilon), phi, into.ctypes.data)
    if objective is not None:
        lib.shim_objective(_choice("objective", objective, lib.objectives), into.ctypes.data)
    if confidence is not None:
        into["objective"]["confidence"] = _number("confidence", confidence)
    for k, word in enumerate(NUMBERS.get(lib.attacks[i], ())):
        if word in options:
            into["number"][k] = _number(word, options.pop(word))
    _set(lib, "l2l_attack", into, options, keep)
    if targets is not None:
        keep.append(_labels("targets", targets, n, model.classes))
        into["targets"] = keep[-1].ctypes.data
    if only is not None:
        keep.append(_booleans("only", only, n))
        into["only"] = keep[-1].ctypes.data
    if init is not None:
        keep.append(_images("init", init, model.shape, n))
        into["init"] = keep[-1].ctypes.data
    keep.append(_DONE(call.done))
    into["progress"] = _address(keep[-1])


class _Owner:
    """Frees a C object when it goes."""

    def __init__(self, context, pointer, free):
        context.owns(self, pointer, free)


def attack(model, x, y, name, epsilon, *, maximizer=None, progress=None, **options):
    """Attacks images; returns (adversarial, records).

    model      a Model, External, TorchModel or torch.nn.Module of logits
    x, y       N x C x H x W float32 in [0,1]; N class numbers
    name       one of attacks(), e.g. "pgd", "cw-l2", "square"
    epsilon    radius of the ball, in pixels: 0.3, 8/255; 'inf' for searches of the nearest image
    maximizer  of the attack "learned": a Maximizer
    progress   progress(done, total) after each batch of images; False cancels
    options    targets (N classes to be reached), only (N booleans: the images to be attacked, the
               others stay), init (N starting points), objective (a name) and confidence; and the fields of l2l_attack: norm, step_size, relative_step, steps,
               restarts, start, last_iterate, seed, batch, first; of cw-l2 searches and constant,
               of deepfool candidates and overshoot, of sign-opt, apgd-t and autoattack candidates,
               of fab-t candidates and nearest, of square share

    adversarial is a NumPy array of float32, whatever x is; records has a row for each image with
    the fields of l2l_record: label, clean, predicted, success, step, loss, linf, l2, forwards, backwards, ... Robust accuracy is
    1 - records["success"].mean()."""
    return attack_worst(model, x, y, [(name, options)], epsilon, maximizer=maximizer,
                        progress=progress)


def attack_worst(model, x, y, attacks, epsilon, *, maximizer=None, progress=None):
    """Several attacks one after the other, each on the images that withstood those before it; the
    arguments and the result are those of attack(). attacks is a list of names or of pairs of a name
    and a dictionary of options, among which epsilon may be; records["attack"] is the number of the
    one that fooled the image."""
    model = _as_model(model, x)
    x = _images("x", x, model.shape)
    y = _labels("y", y, len(x), model.classes)
    pairs = [(a, {}) if isinstance(a, str) else a for a in attacks]
    if not pairs:
        raise ValueError("attacks: none")
    stored = maximizer._stored() if isinstance(maximizer, Maximizer) else None
    keep, adversarial = [], x.copy()  # those that `only` spares stay
    with model._open(progress) as call:
        one, a = call.lib.make("l2l_attack"), call.lib.make("l2l_attack", len(STAGES) * len(pairs))
        records, number = call.lib.make("l2l_record", len(x)), []
        for i, (name, options) in enumerate(pairs):
            options = dict(options)
            _fill(call, one, model, len(x), name, options.pop("epsilon", epsilon), stored, keep,
                  **options)
            number += [i] * call.run(call.lib.shim_stages, model._pointer, one.ctypes.data,
                                     a[len(number):].ctypes.data)
        call.run(call.lib.l2l_attack_worst, model._pointer, a.ctypes.data, len(number),
                 x.ctypes.data, y.ctypes.data, len(x), adversarial.ctypes.data, records.ctypes.data)
    records["attack"] = np.array(number)[records["attack"]]
    return Attacked(adversarial, records)


def autoattack(model, x, y, epsilon, *, progress=None, **options):
    """AutoAttack's standard ensemble in the l-infinity ball (norm="l2": in l2), and the checks of the
    header's evaluation. Arguments as of attack(); options: norm, steps, restarts, candidates, seed,
    first, batch, init. Returns

    adversarial  N x C x H x W
    robust       N booleans: right on the image and under every stage
    natural      accuracy on x
    stages       {"clean": natural, "apgd": accuracy after it, "apgd-t": ..., "fab-t", "square"}
    records      N rows, as of attack(); records["attack"] is the stage that fooled the image, from 0
    warnings     reasons to doubt the figures, e.g. of a model that returns probabilities
    seconds      all of it took"""
    start = time.perf_counter()
    model = _as_model(model, x)
    x = _images("x", x, model.shape)
    y = _labels("y", y, len(x), model.classes)
    keep, adversarial = [], x.copy()
    natural, stages = ctypes.c_double(), (ctypes.c_double * len(STAGES))()
    text = ctypes.create_string_buffer(8192)
    with model._open(progress) as call:
        if "autoattack" not in call.lib.attacks:
            raise BuildError("autoattack() needs %s beside l2ladv.py" % ", ".join(BESIDE["SEARCHES"]))
        a, records = call.lib.make("l2l_attack"), call.lib.make("l2l_record", len(x))
        _fill(call, a, model, len(x), "autoattack", epsilon, None, keep, **options)
        call.run(call.lib.shim_autoattack, model._pointer, x.ctypes.data, y.ctypes.data, len(x),
                 a.ctypes.data, adversarial.ctypes.data, records.ctypes.data,
                 ctypes.addressof(natural), ctypes.addressof(stages), ctypes.addressof(text),
                 len(text))
    after = collections.OrderedDict([("clean", natural.value)])
    after.update(zip(STAGES, stages))
    return AutoAttack(adversarial, ~records["success"], natural.value, after, records,
                      text.value.decode().splitlines(), time.perf_counter() - start)


# ---- the learned maximizer, training ------------------------------------------------------------


class Maximizer(_Whole):
    """The learned optimizer m_phi: a recurrent cell, shared by all pixels.

        Maximizer(cell="lstm", hidden=10, seed=1)
        Maximizer.open("phi.safetensors")

    Options are the fields of l2l_learned_options: cell, hidden, bias, input, raw_output, scale,
    optimizer, second_order, seed."""

    def __init__(self, **options):
        self._context = _context()
        lib, keep = self._context.lib, []
        o = lib.make("l2l_learned_options")
        lib.shim_learned_default(o.ctypes.data)
        _set(lib, "l2l_learned_options", o, options, keep)
        with _Call(self._context) as call:
            self._take(call.run(lib.l2l_learned_create, self._context.pointer, o.ctypes.data))

    def _take(self, pointer):
        self._pointer = self._context.owns(self, pointer, self._context.lib.l2l_learned_free)

    @classmethod
    def open(cls, path):
        """The maximizer of a file, settings included."""
        self = cls.__new__(cls)
        self._context = _context()
        with _Call(self._context) as call:
            self._take(call.run(call.lib.l2l_learned_open, self._context.pointer,
                                _path(path)))
        return self

    def save(self, path):
        with _Call(self._context) as call:
            call.run(call.lib.l2l_learned_save, self._pointer, _path(path))

    def load(self, path):
        """Takes the parameters from a file of the same settings."""
        with _Call(self._context) as call:
            call.run(call.lib.l2l_learned_load, self._pointer, _path(path))

    @property
    def size(self):
        """How many parameters there are."""
        return self._context.lib.l2l_learned_size(self._pointer)

    @property
    def trained_with(self):
        """(T, epsilon) of the last training step; zeros before any."""
        T, epsilon = ctypes.c_int(), ctypes.c_double()
        self._context.lib.l2l_learned_trained_with(self._pointer, ctypes.addressof(T),
                                                   ctypes.addressof(epsilon))
        return T.value, epsilon.value

    def _stored(self):
        """Settings and file, for a copy in another context, whose lock is not needed here."""
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        with _Call(self._context) as call:
            lib, context = call.lib, call.context.pointer
            made_with = np.array(lib.at("l2l_learned_options", lib.l2l_learned_info(self._pointer)))
            try:
                call.run(lib.l2l_learned_save_memory, self._pointer, ctypes.addressof(data),
                         ctypes.addressof(size))
                return made_with, ctypes.string_at(data.value, size.value)
            finally:
                lib.l2l_free(context, data)

    def _view(self):
        return _Callbacks._array(self._context.lib.l2l_learned_parameters(self._pointer),
                                 (self.size,))

    def parameters(self):
        """phi as one array: W_ih, W_hh, b_ih, W_out, b_out; a copy."""
        with _Call(self._context):
            return self._view().copy()

    def set_parameters(self, values):
        values = _floats("values", values, (self.size,))
        with _Call(self._context):
            self._view()[...] = values


class Training(collections.namedtuple("Training", "best history")):
    """What train() returns: a pair, and .averaged, a Model with the option averaging, else None."""

    averaged = None


class _Steps:
    """progress of l2l_train_options."""

    def __init__(self, call, progress):
        self.call, self.progress, self.history = call, progress, []

    def __call__(self, user, address):
        return self.call.guard(self._step, address)

    def _step(self, address):
        p = self.call.lib.at("l2l_progress", address)
        if p["epoch_ended"]:
            self.history.append(p)
        if self.progress:
            return self.progress(dict(zip(p.dtype.names, p.tolist())))


def _apart(log, checkpoint):
    """Each would write over the other."""
    if log is not None and checkpoint is not None and (
            os.path.realpath(log) == os.path.realpath(checkpoint)
            or os.path.isfile(log) and os.path.isfile(checkpoint)
            and os.path.samefile(log, checkpoint)):
        raise ValueError("log: %s is the file of checkpoint, too" % os.fsdecode(log))


def train(model, x, y, method="rnn-adv", *, maximizer=None, beta=None, loss_weights=None,
          progress=None, log=None, **options):
    """Trains a Model, and the maximizer with it, in place: Algorithm 1 of the paper, or another of
    methods(). Returns (best, history).

    x, y          N x C x H x W float32 in [0,1] and N class numbers. Images may be larger than the
                  model's: training crops at random, evaluation in the centre
    maximizer     a Maximizer, of rnn-adv and rnn-trades
    beta          weight of TRADES' KL term, of trades and rnn-trades: 1 on digits, 6 on photographs
    loss_weights  w_1 .. w_T; None: w_t = t
    progress      progress(p) after every step, with l2l_progress as a dictionary; False stops with
                  Cancelled, and the model is as the last step left it
    log           path of a file for a line of JSON each step; cut when a training is resumed
    options       the fields of l2l_train_options: epochs, batch, micro_batch, epsilon, T,
                  step_size, epsilon_warm_up, optimizer, schedule, augment, inner_mode, validation,
                  stop_on_plateau, averaging, seed, checkpoint, checkpoint_steps, resume; e.g.
                  optimizer={"kind": "sgd", "rate": 0.1}, schedule="cosine",
                  augment={"padding": 4, "flip": True}

    best is the Model of the best epoch by the accuracy under PGD of `validation` held-out images,
    or without them a copy of the last; history has a row with the fields of l2l_progress for each
    epoch that ended in this call: a training that goes on from a checkpoint (resume=True) does not
    have those before it. With averaging=0.995, say, the result also has .averaged, the averaged
    Model."""
    if not isinstance(model, Model):
        raise TypeError("model: %s, expected a Model of the header" % type(model).__name__)
    lib, keep, best, averaged = model._context.lib, [], ctypes.c_void_p(), ctypes.c_void_p()
    i = _choice("method", method, lib.methods)
    if lib.methods[i].startswith("rnn"):
        if not isinstance(maximizer, Maximizer):
            raise TypeError("maximizer: %s, and %s needs a Maximizer"
                            % (type(maximizer).__name__, lib.methods[i]))
    elif maximizer is not None:
        raise TypeError("maximizer: %s has no use for it" % lib.methods[i])
    if lib.methods[i].endswith("trades") != (beta is not None):
        raise TypeError("beta: the methods trades and rnn-trades need it, and no other")
    x = _array(x)
    shape = x.shape[1:] if x.ndim == 4 else model.shape
    if shape[0] != model.shape[0] or shape[1] < model.shape[1] or shape[2] < model.shape[2]:
        raise ValueError("x: images of %s, expected those of the model, %s, or larger ones"
                         % (_by(shape), _by(model.shape)))
    x = _images("x", x, shape)
    y = _labels("y", y, len(x), model.classes)
    with model._open() as call:
        o, steps = lib.make("l2l_train_options"), _Steps(call, progress)
        lib.shim_train_default(o.ctypes.data)
        lib.shim_method(i, maximizer._pointer if maximizer is not None else None,
                        0 if beta is None else _number("beta", beta), o.ctypes.data)
        _set(lib, "l2l_train_options", o, options, keep)
        if loss_weights is not None:
            keep.append(np.require(loss_weights, np.float64, ["C", "A"]))
            if keep[-1].shape != (int(o["T"]),):
                raise ValueError("loss_weights: shape %s, expected %d, one for each of T steps"
                                 % (_by(keep[-1].shape), o["T"]))
            o["loss_weights"] = keep[-1].ctypes.data
        _apart(log, options.get("checkpoint"))
        keep.append(_STEP(steps))
        o["progress"] = _address(keep[-1])
        call.run(lib.shim_train, model._pointer, x.ctypes.data, y.ctypes.data, len(x), *shape,
                 o.ctypes.data, None if log is None else _path(log), ctypes.addressof(best),
                 ctypes.addressof(averaged))
        result = Training(Model._of(best.value),
                          np.array(steps.history, lib.types["l2l_progress"]))
        if averaged.value:
            result.averaged = Model._of(averaged.value)
    return result


# ---- data ---------------------------------------------------------------------------------------


def read_idx(images, labels, n=None):
    """The first n images (None: all) of a pair of IDX files, the format of MNIST: (x, y), N x 1 x H
    x W float32 in [0,1] and N integers."""
    if n is not None and n < 0:
        raise ValueError("n: %d, expected how many images, or None for all" % n)
    arrays = []
    for path, rank in ((images, 3), (labels, 1)):
        with open(path, "rb") as f:
            head = f.read(4 + 4 * rank)
            if len(head) < 4 + 4 * rank or head[:4] != bytes((0, 0, 8, rank)):
                raise FormatError(-1, "%s: not an IDX file of bytes with %d axes" % (path, rank))
            shape, count = np.frombuffer(head, ">i4", rank, 4).tolist(), 1
            for axis in shape:
                count *= axis
            about = os.fstat(f.fileno())
            size, data = about.st_size, b""
            if min(shape) >= 0 and (size == len(head) + count or not stat.S_ISREG(about.st_mode)):
                data = f.read(count + 1)
                size = len(head) + len(data)
        if min(shape) < 0 or size != len(head) + count:
            raise FormatError(-1, "%s: %d bytes do not hold %s numbers" % (path, size, _by(shape)))
        arrays.append(np.frombuffer(data, np.uint8).reshape(shape)[:n])
    x, y = arrays
    if len(x) != len(y):
        raise FormatError(-1, "%s has %d images, %s %d labels" % (images, len(x), labels, len(y)))
    return (x[:, None] / 255).astype(np.float32), y.astype(np.int64)


def digits(part="t10k", n=None):
    """The digits that come with the project: "train" (2,000) or "t10k" (500), as read_idx."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
    return read_idx(*(os.path.join(folder, "%s-%s-ubyte" % (part, kind))
                      for kind in ("images-idx3", "labels-idx1")), n)


# ---- from the command line ----------------------------------------------------------------------


def _cnn(torch, width):
    """The 4-layer CNN of TRADES with a multiple of its channels."""
    nn, a, b, f = torch.nn, int(32 * width), int(64 * width), int(200 * width)
    return nn.Sequential(nn.Conv2d(1, a, 3), nn.ReLU(), nn.Conv2d(a, a, 3), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Conv2d(a, b, 3), nn.ReLU(), nn.Conv2d(b, b, 3),
                         nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * b, f), nn.ReLU(),
                         nn.Linear(f, f), nn.ReLU(), nn.Linear(f, 10))


def _train_torch(torch, net, x, y, epochs, epsilon):
    """Adam on images moved by one step of FGSM from a random start; epsilon rises at first."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    loss = torch.nn.functional.cross_entropy
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for epoch in range(epochs):
        eps = epsilon * min(1, epoch / 3)
        for part in torch.randperm(len(x)).split(20):
            clean = x[part]
            start = (clean + eps * (2 * torch.rand_like(clean) - 1)).clamp(0, 1).requires_grad_()
            g, = torch.autograd.grad(loss(net(start), y[part]), start)
            moved = start.detach() + eps * g.sign()
            moved = torch.max(torch.min(moved, clean + eps), clean - eps).clamp(0, 1)
            optimizer.zero_grad()
            loss(net(moved), y[part]).backward()
            optimizer.step()


def demo(n=50, epochs=6, epsilon=0.1):
    """Trains a small network on the digits and attacks it with AutoAttack; returns the result."""
    print(describe())
    x, y = digits("train")
    start = time.perf_counter()
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: a model of the header takes its place")
        net = Model("smallcnn", width_multiplier=0.25, seed=1)
        train(net, x, y, "advtrain", epochs=epochs, batch=20, epsilon=epsilon, T=2, seed=1)
    else:
        torch.manual_seed(1)
        net = _cnn(torch, 0.25)
        _train_torch(torch, net, x, y, epochs, epsilon)
    print("a 4-layer CNN with a quarter of its channels, trained on %d digits in %.1f s"
          % (len(x), time.perf_counter() - start), flush=True)
    x, y = digits("t10k", n)
    result = autoattack(net, x, y, epsilon, batch=25, progress=lambda done, total: print(
        "  %d of %d digits attacked" % (done, total), flush=True))
    print("accuracy in %% on %d test digits, AutoAttack, epsilon %g:" % (n, epsilon))
    for name, accuracy in result.stages.items():
        print("  %-22s %5.1f" % ("natural" if name == "clean" else "after " + name, 100 * accuracy))
    for line in result.warnings:
        print("warning: " + line)
    print("%.1f s" % result.seconds)
    return result


def cost(n=100, steps=50):
    """Time under PGD inside a torch model's own forward and backward passes, and outside of it."""
    import torch

    class Timed(TorchModel):
        inside = 0.0

        def _forward(self, t):
            start = time.perf_counter()
            z = super()._forward(t)
            self.inside += time.perf_counter() - start
            return z

        def _backward(self, z, t, d):
            start = time.perf_counter()
            g = super()._backward(z, t, d)
            self.inside += time.perf_counter() - start
            return g

    x, y = digits("t10k", n)
    print("PyTorch %s, %d threads; PGD with %d steps that all %d images make" % (
        torch.__version__, torch.get_num_threads(), steps, n))
    for width in (1, 0.25):
        torch.manual_seed(1)
        net = Timed(_cnn(torch, width), (1, 28, 28))
        attack(net, x, y, "pgd", 0.3, steps=2, last_iterate=True)
        net.inside, start = 0.0, time.perf_counter()
        attack(net, x, y, "pgd", 0.3, steps=steps, last_iterate=True)
        total = time.perf_counter() - start
        print("4-layer CNN x%g: %.2f s, of it outside of the model %.1f %%, or %.2f ms for a step"
              % (width, total, 100 * (1 - net.inside / total),
                 1000 * (total - net.inside) / steps))


def main(arguments):
    if arguments == ["--demo"]:
        demo()
    elif arguments == ["--cost"]:
        cost()
    elif arguments == ["--library"]:
        print(library_path())
    else:
        print(__doc__.strip())
        return 0 if arguments in (["--help"], ["-h"]) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
