/* training.h - what train.c and mpi_train.c make of the same flags, so that both train alike. C99.
 * Include cli.h first. Not part of the library. */
#ifndef TRAINING_H
#define TRAINING_H

#include "cli.h"
#include "searches.h"

#define TRAINING_METHODS "plain|advtrain|advtrain-bls|trades|rnn-adv|rnn-trades" /* of both */

/* The weight of KL in TRADES where --beta says none (below 0). */
static inline double training_beta(double beta, const char *dataset)
{
    return beta >= 0 ? beta : cli_photographs(dataset) ? 6 : 1;
}

/* What a method and the images of a data set ask of a new model. They are cut to crop x crop; 0:
 * whole ones, of restricted-imagenet 224 x 224. */
static inline void training_fit(l2l_model_options *o, const char *method, const l2l_dataset *d,
                                const char *dataset, int crop)
{
    if (!crop && !strcmp(dataset, "restricted-imagenet")) crop = 224;
    if (crop > d->height || crop > d->width)
        cli_fail("a crop of %dx%d: the images are %dx%d", crop, crop, d->height, d->width);
    o->channels = d->channels;
    o->height = crop ? crop : d->height;
    o->width = crop ? crop : d->width;
    o->classes = d->classes;
    if (strstr(method, "trades")) o->last_layer_deviation = 0; /* as its authors' code */
}

/* `on` for photographs, unless a flag says otherwise. */
static inline l2l_augment training_augment(const char *dataset, bool on)
{
    l2l_augment a = {0, false};
    a.padding = on && cli_listed("cifar10|cifar100", dataset, strlen(dataset)) ? 4 : 0;
    a.flip = on;
    return a;
}

/* "sgd" or "adam"; a rate of 0 leaves its own. */
static inline l2l_optimizer_options training_optimizer(const char *name, double rate)
{
    l2l_optimizer_options o = strcmp(name, "sgd") ? l2l_adam_default() : l2l_sgd_default();
    if (rate > 0) o.rate = rate;
    return o;
}

/* One of TRAINING_METHODS; phi is for those of the name rnn, beta for those with KL. */
static inline l2l_method training_method(const char *name, l2l_learned *phi, double beta)
{
    if (!strcmp(name, "rnn-adv")) return l2l_method_rnn_adv(phi);
    if (!strcmp(name, "rnn-trades")) return l2l_method_rnn_trades(phi, beta);
    if (!strcmp(name, "trades")) return l2l_method_trades(beta);
    if (!strcmp(name, "advtrain-bls")) return l2l_method_advtrain_bls();
    return strcmp(name, "plain") ? l2l_method_advtrain() : l2l_method_plain();
}

#endif /* TRAINING_H */
