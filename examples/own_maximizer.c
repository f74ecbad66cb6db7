/* own_maximizer.c - adversarial training with an inner maximizer of one's own that learns, and its
 * checkpoints. It steps along the sign of the gradient, as PGD does, but how far at each of the T
 * steps is learned: phi is T lengths, and ascends L_phi as the LSTM of the paper does.
 *
 *   examples/bin/own_maximizer [folder of the digits] */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../l2ladv.h"

enum { T = 5 };

typedef struct {
    double length[T];   /* phi, in parts of epsilon */
    double gradient[T]; /* of L_phi */
} lengths;

static double sign(double x) { return (x > 0) - (x < 0); }

/* ---- the maximizer: one function for each thing that Algorithm 1 asks of it ---- */

/* Line 7: h_0 = 0. There is no state that goes by the image; what does not fit is said here. */
static bool begin(void *self, l2l_inner *in)
{
    (void)self;
    if (in->T > T) l2l_error_set(in->context, L2L_ERROR_ARGUMENT, "lengths: more steps than T");
    return in->T <= T;
}

/* Line 11: delta_t from g_t. */
static bool step(void *self, l2l_inner *in)
{
    const double length = ((const lengths *)self)->length[in->t] * in->epsilon;
    int64_t i, n = l2l_count(in->shape);
    for (i = 0; i < n; i++)
        in->delta->data[i] = (l2l_real)(length * sign((double)in->g[in->t]->data[i]));
    return true;
}

/* In an attack images leave once they are fooled; nothing here goes by their number. */
static bool keep(void *self, l2l_inner *in, const int *kept, int n)
{
    (void)self, (void)in, (void)kept, (void)n;
    return true;
}

/* Line 15, first half: the gradient of L_phi = sum over t of w_t L(f(x'_t), y). With m_t = 0 where
 * the projection of line 12 clipped and 1 elsewhere, and the signs taken for constants,
 *     a_t = dL_phi / dx'_t = w_t g_t + m_t a_{t+1},    dL_phi / dlength_t = epsilon sign(g_t) m_t a_{t+1}.
 * No pixel needs another, so each goes forward and back alone. */
static bool gradient(void *self, l2l_inner *in)
{
    lengths *phi = (lengths *)self;
    int64_t i, n = l2l_count(in->shape);
    int t;
    if (in->first == 0) memset(phi->gradient, 0, sizeof phi->gradient); /* a new batch */
    for (i = 0; i < n; i++) {
        double x = (double)in->x->data[i], adv = (double)in->start->data[i], a = 0;
        double low = fmax(x - in->epsilon, 0), high = fmin(x + in->epsilon, 1), move[T];
        for (t = 0; t < in->T; t++) {      /* x'_0 .. x'_T again */
            move[t] = in->epsilon * sign((double)in->g[t]->data[i]);
            adv += phi->length[t] * move[t];
            if (adv < low || adv > high) move[t] = 0;
            adv = fmin(fmax(adv, low), high);
        }
        for (t = in->T - 1; t >= 0; t--) { /* a_{t+1}, and what it says about length t */
            a += in->w[t + 1] * (double)in->g[t + 1]->data[i];
            phi->gradient[t] += move[t] * a / in->batch;
            if (move[t] == 0) a = 0;
        }
    }
    return true;
}

/* Line 15, second half: a step of ascent. No step shall cross the ball at once. */
static bool update(void *self, l2l_inner *in)
{
    lengths *phi = (lengths *)self;
    int t;
    for (t = 0; t < in->T; t++)
        phi->length[t] = fmin(fmax(phi->length[t] + 2e-3 * phi->gradient[t], 0.01), 0.5);
    return true;
}

/* For checkpoints: what was learned, as numbers, and back. */
static int64_t pack(void *self, double *numbers)
{
    if (numbers) memcpy(numbers, ((const lengths *)self)->length, T * sizeof *numbers);
    return T;
}
static bool unpack(void *self, const double *numbers, int64_t n)
{
    if (n == T) memcpy(((lengths *)self)->length, numbers, T * sizeof *numbers);
    return n == T;
}

static l2l_maximizer maximizer(lengths *phi)
{
    l2l_maximizer m;
    int t;
    memset(&m, 0, sizeof m);
    m.name = "learned lengths";
    m.self = phi;
    m.begin = begin;
    m.step = step;
    m.keep = keep;
    m.gradient = gradient;
    m.update = update;
    m.pack = pack;
    m.unpack = unpack;
    for (t = 0; t < T; t++) phi->length[t] = 0.25;
    return m;
}

/* ---- training ---- */

static const char checkpoint[] = "own_maximizer.checkpoint"; /* in this folder, while it runs */
static int stop_at; /* the step behind which training is stopped; 0: none */

static bool progress(void *user, const l2l_progress *p)
{
    (void)user;
    if (p->step % 20 == 0 || p->epoch_ended)
        printf("step %d of %d: loss %.3f, gained %.3f\n", (int)p->step, (int)p->steps, p->loss,
               p->gain);
    return p->step != stop_at;
}

/* Takes the checkpoint's place: nobody's file is lost to it, and where none can be written that is
 * known before the training. */
static bool take_place(void)
{
    FILE *f = fopen(checkpoint, "rb");
    if (f || errno != ENOENT) {
        fprintf(stderr, "%s: is there already; expected none\n", checkpoint);
        if (f) fclose(f);
        return false;
    }
    f = fopen(checkpoint, "wb");
    if (!f) fprintf(stderr, "%s: cannot write it: %s\n", checkpoint, strerror(errno));
    return f && !fclose(f);
}

/* Trains a new classifier and new lengths, or goes on from the checkpoint. Returns the classifier. */
static l2l_model *train(l2l_context *c, const l2l_dataset *digits, lengths *phi, bool resume)
{
    l2l_model_options cnn = l2l_model_default("smallcnn");
    l2l_train_options o = l2l_train_default();
    l2l_trainer *trainer;
    l2l_model *model;
    cnn.width_multiplier = 0.125;
    model = l2l_model_create(c, &cnn);
    o.method = l2l_method_advtrain();
    o.method.name = "advtrain with learned lengths";
    o.method.maximizer = maximizer(phi);
    o.T = T;
    o.epsilon = 0.1;
    o.epochs = 1;
    o.batch = 50;
    o.optimizer.rate = 3e-3;
    o.checkpoint = checkpoint; /* written when training ends or is stopped */
    o.resume = resume;
    o.progress = progress;
    trainer = l2l_trainer_create(model, digits, &o);
    l2l_train(trainer);
    l2l_trainer_free(trainer);
    return model;
}

/* Have both classifiers the same bits? */
static bool same(l2l_context *c, const l2l_model *a, const l2l_model *b)
{
    void *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    bool equal = l2l_model_save_memory(a, &x, &n) && l2l_model_save_memory(b, &y, &m) && n == m &&
                 !memcmp(x, y, n);
    l2l_free(c, x);
    l2l_free(c, y);
    return equal;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "examples/data";
    char images[512], labels[512];
    l2l_options options = l2l_options_default();
    l2l_context *c = l2l_context_create(&options);
    l2l_dataset digits;
    l2l_model *whole, *stopped, *resumed;
    lengths phi, other;
    bool ok;
    int t;

    if (!take_place()) return 1;
    snprintf(images, sizeof images, "%s/train-images-idx3-ubyte", folder);
    snprintf(labels, sizeof labels, "%s/train-labels-idx1-ubyte", folder);
    l2l_dataset_idx(c, images, labels, 10, &digits);
    whole = train(c, &digits, &phi, false);

    stop_at = 25;
    stopped = train(c, &digits, &other, false);
    if (l2l_error(c) == L2L_ERROR_CANCELLED) l2l_error_clear(c); /* by us */
    stop_at = 0;
    resumed = train(c, &digits, &other, true);
    remove(checkpoint);
    if (l2l_error(c) != L2L_OK) {
        fprintf(stderr, "%s\n", l2l_error_text(c));
        return 1;
    }
    ok = same(c, whole, resumed) && !memcmp(phi.length, other.length, sizeof phi.length);
    printf("step lengths learned, in parts of epsilon:");
    for (t = 0; t < T; t++) printf(" %.3f", phi.length[t]);
    printf("\nstopped and resumed: %s bits\n", ok ? "the same" : "OTHER");

    l2l_model_free(resumed);
    l2l_model_free(stopped);
    l2l_model_free(whole);
    l2l_dataset_free(&digits);
    l2l_context_free(c);
    return ok ? 0 : 1;
}
