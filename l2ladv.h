/* l2ladv.h - v0.2.0 - adversarial training with a learned optimizer, in one C header

   Trains image classifiers that withstand adversarial examples: the classifier descends its loss
   while a tiny recurrent network, shared by all pixels, learns to climb it ("Improved Adversarial
   Training via Learned Optimizer", Xiong and Hsieh, ECCV 2020). With it come what that takes:
   tensors, reverse-mode autodiff of any order, convolution kernels for the CPU at hand, four
   classifiers, attacks, checkpoints. C99 or C++11, libc and libm only; OpenMP if the compiler has
   it.

   DO THIS in exactly one C or C++ file before the include:

       #define L2LADV_IMPLEMENTATION
       #include "l2ladv.h"

   and compile it with

       cc -O2 -fopenmp file.c -lm          (without -fopenmp: one thread)

   Other files include it without the #define. "undefined reference" means that no file has the
   #define; for "expf" and the like, that -lm is missing.

   QUICK START: trains on MNIST and reports robust accuracy. examples/quickstart.c does it with the
   digits that come with the project; ./datasets.sh mnist fetches the full set to data/mnist. */
#if 0 /* quick start */
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#include <stdio.h>

int main(void)
{
    l2l_options options = l2l_options_default();
    l2l_context *c = l2l_context_create(&options);
    l2l_dataset digits, test;
    l2l_dataset_idx(c, "data/mnist/train-images-idx3-ubyte", "data/mnist/train-labels-idx1-ubyte",
                    10, &digits);
    l2l_dataset_idx(c, "data/mnist/t10k-images-idx3-ubyte", "data/mnist/t10k-labels-idx1-ubyte",
                    10, &test);
    l2l_model_options cnn = l2l_model_default("smallcnn");
    l2l_model *model = l2l_model_create(c, &cnn);                 /* f_theta */
    l2l_learned_options lstm = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &lstm);              /* m_phi */
    l2l_train_options how = l2l_train_default();                  /* Adam, eps = 0.3, T = 10 */
    how.method = l2l_method_rnn_adv(phi);
    how.epochs = 2;
    l2l_trainer *trainer = l2l_trainer_create(model, &digits, &how);
    l2l_train(trainer);                                           /* Algorithm 1 */
    l2l_evaluation_options first = l2l_evaluation_default();
    first.limit = 1000;
    l2l_evaluation e;
    l2l_result r;
    l2l_attack pgd = l2l_attack_pgd(0.3);
    l2l_evaluation_begin(model, &test, &first, &e);
    l2l_evaluation_attack(&e, &pgd, &r, NULL, NULL);
    if (l2l_error(c)) return fprintf(stderr, "%s\n", l2l_error_text(c)), 1;
    printf("natural %.3f, under PGD-10 %.3f\n", e.natural, r.accuracy);
    return 0;                                /* the system takes the memory back */
}
#endif
/*
   WHERE IS WHAT. Search for the mark.

       1  Configuration macros               >>macros
       2  The public interface               >>interface
          contexts, errors, memory           >>context       attacks               >>attacks
          random numbers                     >>random        the learned maximizer >>learned
          tensors, the tape, gradients       >>tensor        data sets             >>data
          operations                         >>operations    training              >>train
          losses                             >>losses        evaluation            >>evaluate
          classifiers, layers, own networks  >>models        files                 >>files
          outer optimizers, schedules        >>optimizers
          objective, maximizer, outer loss   >>seams
       The implementation, bottom up:
       3  Errors, memory, random numbers     >>foundation
       4  Kernels                            >>kernels
       5  Tensors and reverse-mode autodiff  >>autodiff
       6  Layers and classifiers             >>layers
       7  Losses and outer optimizers        >>losses-code
       8  Attacks                            >>attacks-code
       9  The learned maximizer              >>maximizer
      10  Algorithm 1, the training loop     >>algorithm-1
      11  Evaluation                         >>evaluation
      12  Files                              >>files-code
       History and licence: at the end.

   NOTATION

       paper          here                     shape, unit
       x, y           in->x, in->labels        BxHxWxC in [0,1], class numbers
       f_theta        l2l_model                its logits: Bx1x1xK
       x'_t           in->adv                  BxHxWxC, in the ball and in [0,1]
       g_t            in->g[t]                 grad of L(f_theta(x'_t), y) in x', per image
       delta_t        in->delta                the maximizer's step, in pixels
       m_phi, h_t     l2l_learned              the coordinate-wise LSTM or RNN and its state
       epsilon        in->epsilon              radius of the l-infinity ball, in pixels (0.3, 8/255)
       Proj           l2l_project              clip to [max(x-epsilon,0), min(x+epsilon,1)]
       w_t            in->w[t]                 weights of the inner losses; w_t = t
       L_phi          in->L_phi                sum over the batch and t of w_t L(f(x'_t), y)
       L_theta        progress.loss (mean)     L(f(x'_T), y)
       alpha_1, _2    optimizer.rate           of phi (learned_options), theta (train_options)

   THE METHOD. Adversarial training solves  min over theta of E max over x' in B(x, epsilon) of
   L(f_theta(x'), y).  The inner maximum is commonly walked by PGD, x' <- Proj(x' + alpha sign g).
   The paper learns that walk instead, jointly with the classifier:

        1  Input: data {(x,y)}, batch size B, step sizes alpha_1, alpha_2, inner iterations T,
                  classifier f_theta, recurrent optimizer m_phi
        2  Output: robust classifier f_theta, learned optimizer m_phi
        3  initialise both, at random or from pre-trained ones
        4  repeat
        5     sample a mini-batch M;  L_theta, L_phi <- 0
        6     for (x,y) in M
        7        h_0 <- 0
        8        x'_0 <- Proj(x + 0.001 N(0,I))
        9        for t = 0 .. T-1
       10           g_t <- gradient of L(f_theta(x'_t), y) in x'
       11           delta_t, h_{t+1} <- m_phi(g_t, h_t)          every coordinate alone, phi shared
       12           x'_{t+1} <- Proj(x'_t + delta_t)
       13           L_phi <- L_phi + w_{t+1} L(f_theta(x'_{t+1}), y)
       14        L_theta <- L_theta + L(f_theta(x'_T), y)            x'_T a constant
       15     phi <- phi + alpha_1 gradient of L_phi / B
       16     theta <- theta - alpha_2 gradient of L_theta / B
       17  until converged

   The numbering is ours, after the published listing; sums run over the mini-batch, and x'_0 is
   projected. Published details that we could not check against the paper's text (w_t = t, one layer
   of 10 hidden units) are the defaults and can all be changed; the LSTM cell, the transform of the
   gradient before it (sign) and of its output (epsilon tanh) are choices of this implementation.
   The code is l2l__algorithm1 (>>algorithm-1), line by line with these numbers.

   WHAT IT DOES NOT DO. No GPU. No certified bounds: robust accuracy is measured against attacks,
   and a stronger attack may exist. No text, no detection, no networks beyond what 2.4 can express.
   A model file is checked, but whoever made it decides what the model does.

   Licence: MIT or public domain, your choice; see the end of the file. */

/* ============================================================================================ */
/*  1  CONFIGURATION MACROS                                                          >>macros   */
/* ============================================================================================ */
/*
   macro                      where to define it          effect
   L2LADV_IMPLEMENTATION      in exactly one file         compiles the bodies (chapters 3 to 12)
   L2LADV_STATIC              in the implementing file    everything becomes static to that file
   L2LADV_DOUBLE              everywhere                  l2l_real is double, on the plain kernels
   L2LADV_NO_STDIO            everywhere                  no FILE: only the from-memory loaders
   L2LADV_NO_SIMD             in the implementing file    plain C kernels only
   L2LADV_HEADER              in the implementing file    this file's name for an #include, if you
                                                          renamed it (default "l2ladv.h"): the
                                                          vector kernels include it again
   L2LADV_MALLOC(size)        in the implementing file    with L2LADV_FREE(p): used instead of
   L2LADV_FREE(p)                                         malloc and free; define both or none
   L2LADV_ASSERT(x)           in the implementing file    checks of the library's own invariants;
                                                          nothing by default
   A context can also be given an allocator at run time, see l2l_options. */
#ifndef L2LADV_H
#define L2LADV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define L2LADV_VERSION "0.2.0"

#if defined(__GNUC__) || defined(__clang__)
#define L2L__MAYBE_UNUSED __attribute__((unused))
#else
#define L2L__MAYBE_UNUSED
#endif
#ifdef L2LADV_STATIC
#define L2LADVDEF static L2L__MAYBE_UNUSED
#else
#define L2LADVDEF extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================================ */
/*  2  THE PUBLIC INTERFACE                                                       >>interface   */
/* ============================================================================================ */

/* The element of every tensor: float, or double under L2LADV_DOUBLE (for gradient checks). */
#ifdef L2LADV_DOUBLE
typedef double l2l_real;
#else
typedef float l2l_real;
#endif

/* -- 2.1 Contexts, errors, memory ------------------------------------------------- >>context --
   A context owns the tape, the arena of temporaries, the error and the thread count. There is no
   global state: two contexts may work in two threads at the same time, one context in one only.

   Errors are sticky. The first error stays in the context as a code and a text; from then on every
   call on that context returns NULL or false at once until l2l_error_clear. So a chain of calls is
   checked once, at its end. Nothing in this file exits, aborts or prints. */
typedef struct l2l_context l2l_context;

typedef enum l2l_status {
    L2L_OK = 0,
    L2L_ERROR_MEMORY,      /* the allocator returned NULL, or a size does not fit size_t          */
    L2L_ERROR_ARGUMENT,    /* a value out of its range; the text names it and what is allowed     */
    L2L_ERROR_SHAPE,       /* shapes that do not fit; the text names both                         */
    L2L_ERROR_FILE,        /* a file could not be opened, read, written or renamed                */
    L2L_ERROR_FORMAT,      /* a file that is not what it should be; the text has the byte offset  */
    L2L_ERROR_MISMATCH,    /* a file of other settings; the text names the setting                */
    L2L_ERROR_NUMERIC,     /* a loss is no longer finite; the last good state was kept            */
    L2L_ERROR_CANCELLED,   /* a callback asked to stop                                            */
    L2L_ERROR_CALLBACK,    /* a callback reported failure                                         */
    L2L_ERROR_UNSUPPORTED  /* not to be had here, e.g. the gradient of a model that offers none   */
} l2l_status;

/* Memory from the caller. Both functions or neither; `user` is handed to both. Thread-safety is not
   required: only the thread that calls into the context allocates. */
typedef struct l2l_allocator {
    void *(*allocate)(void *user, size_t size);
    void (*release)(void *user, void *memory);
    void *user;
} l2l_allocator;

/* Instruction sets of the kernels; `cpu` in l2l_options is a sum of them. */
enum {
    L2L_CPU_PLAIN = 0,     /* the naive twins, in plain C                                         */
    L2L_CPU_VECTOR = 1,    /* the machine's baseline vectors: SSE2, NEON                          */
    L2L_CPU_AVX2 = 2,      /* with FMA                                                            */
    L2L_CPU_AVX512 = 4,
    L2L_CPU_DETECT = 255   /* the best that this machine has                                      */
};

typedef struct l2l_options {
    int threads;             /* 0: as many as OpenMP would use; without OpenMP always 1           */
    unsigned cpu;            /* L2L_CPU_DETECT; bits that the machine lacks are ignored           */
    l2l_allocator allocator; /* all zero: L2LADV_MALLOC and L2LADV_FREE                           */
} l2l_options;

L2LADVDEF l2l_options l2l_options_default(void);
/* NULL only if there is no memory, or if `allocator` has one function without the other: the one
   result to check at once. Objects that are NULL after an error may be handed on: the calls that
   get them return NULL or false. */
L2LADVDEF l2l_context *l2l_context_create(const l2l_options *options);
/* Objects made with the context (models, data sets, ...) are freed before it. */
L2LADVDEF void l2l_context_free(l2l_context *c);

L2LADVDEF l2l_status l2l_error(const l2l_context *c);
L2LADVDEF const char *l2l_error_text(const l2l_context *c); /* "" when there is none              */
L2LADVDEF void l2l_error_clear(l2l_context *c);
/* Puts an error of your own into the context, e.g. from a callback. The first one stays. */
L2LADVDEF void l2l_error_set(l2l_context *c, l2l_status status, const char *text);
L2LADVDEF const char *l2l_status_name(l2l_status status);

L2LADVDEF int l2l_threads(const l2l_context *c);
L2LADVDEF void l2l_set_threads(l2l_context *c, int threads);
L2LADVDEF unsigned l2l_cpu(const l2l_context *c);
L2LADVDEF void l2l_set_cpu(l2l_context *c, unsigned cpu);
/* "l2ladv 0.2.0, float, AVX2+FMA kernels, 2 threads": for logs. Lives as long as the context. */
L2LADVDEF const char *l2l_describe(l2l_context *c);

/* Bytes that the context and its objects hold now, and the most they ever held. */
L2LADVDEF size_t l2l_memory_used(const l2l_context *c);
L2LADVDEF size_t l2l_memory_peak(const l2l_context *c);

/* Temporaries live in the arena. A mark notes where it stands; release gives back every tensor made
   since, and the tape's nodes with them. Marks nest: release the newest first. */
typedef struct l2l_mark {
    uint64_t serial;
    int tape;
} l2l_mark;
L2LADVDEF l2l_mark l2l_mark_here(const l2l_context *c);
L2LADVDEF void l2l_release(l2l_context *c, l2l_mark mark);

/* -- 2.2 Random numbers ------------------------------------------------------------- >>random --
   Counter-based (Philox4x32-10; Salmon et al., SC 2011): a number is a function of a stream's name
   and of the element's position in C,H,W order, so it depends neither on the batch nor on the
   threads, and nothing has to be stored to resume. */
enum { /* purposes: two streams with the same numbers but another purpose are independent */
    L2L_RANDOM_INIT = 1,
    L2L_RANDOM_SHUFFLE,
    L2L_RANDOM_SPLIT,
    L2L_RANDOM_START,
    L2L_RANDOM_DROPOUT,
    L2L_RANDOM_AUGMENT,
    L2L_RANDOM_PHI,
    L2L_RANDOM_SEARCH, /* step: the image's pass */
    L2L_RANDOM_USER = 64
};
typedef struct l2l_stream {
    uint64_t seed;
    uint32_t purpose; /* below 256 */
    uint32_t epoch;   /* or restart */
    uint32_t image;   /* index in the data set */
    uint32_t step;    /* below 2^24 */
} l2l_stream;
L2LADVDEF uint32_t l2l_random_bits(const l2l_stream *s, uint32_t element);
L2LADVDEF double l2l_random_uniform(const l2l_stream *s, uint32_t element); /* in [0,1)           */
L2LADVDEF double l2l_random_normal(const l2l_stream *s, uint32_t element);  /* N(0,1)             */

/* -- 2.3 Tensors and the tape -------------------------------------------------------- >>tensor --
   Every tensor has four axes and is dense, channels last: activations are NxHxWxC, logits Nx1x1xK,
   per-image values Nx1x1x1, a sum 1x1x1x1, a bias 1x1x1xK. A weight is khxkwxCxK (K output
   channels). Arrays that a caller hands in or gets back are NxCxHxW, as in PyTorch.

   Operations run at once. While recording is on (it is off in a new context) they also leave a node
   on the tape, and l2l_grad differentiates what the tape holds. Tensors belong to the arena: they
   die with l2l_release, or earlier by l2l_drop. Parameters belong to their model. */
typedef struct l2l_shape {
    int n, h, w, c;
} l2l_shape;

struct l2l__operation;
typedef struct l2l_tensor {
    l2l_shape shape;
    l2l_real *data; /* n*h*w*c numbers, channels last; NULL once the tape gave them back          */
    /* the rest is private */
    const struct l2l__operation *op;
    struct l2l_tensor *in[8];
    struct l2l_tensor *base; /* whose data this one shows (a view), or NULL                       */
    int tape, references;
    int *index;              /* saved positions: pooling, picking, labels                         */
    l2l_real *saved;         /* whatever else the VJP needs                                       */
    int64_t i[8];            /* attributes of the operation                                       */
    double f[4];
    const void *p;
    struct l2l__packed *packed; /* cached transforms of a parameter                               */
} l2l_tensor;

L2LADVDEF l2l_shape l2l_shape_of(int n, int h, int w, int c);
L2LADVDEF int64_t l2l_count(l2l_shape s);
L2LADVDEF l2l_tensor *l2l_zeros(l2l_context *c, l2l_shape s);
L2LADVDEF l2l_tensor *l2l_full(l2l_context *c, l2l_shape s, double value);
/* Copies n*c*h*w numbers in N,C,H,W order into a tensor, and back. */
L2LADVDEF l2l_tensor *l2l_from_nchw(l2l_context *c, const l2l_real *values, l2l_shape s);
L2LADVDEF bool l2l_to_nchw(l2l_context *c, const l2l_tensor *x, l2l_real *values);
/* The only number of a 1x1x1x1 tensor. */
L2LADVDEF double l2l_item(l2l_context *c, const l2l_tensor *x);
/* Gives a temporary back in forward-only code. Does nothing to what the tape still needs. */
L2LADVDEF void l2l_drop(l2l_context *c, l2l_tensor *x);

L2LADVDEF bool l2l_recording(const l2l_context *c);
L2LADVDEF bool l2l_set_recording(l2l_context *c, bool on); /* returns what it was                 */

enum { /* flags of l2l_grad */
    L2L_CREATE_GRAPH = 1, /* record the gradient too, so that it can be differentiated again      */
    L2L_FREE_GRAPH = 2    /* give the tape's activations back on the way: it is the last use      */
};
/* gradients[i] = d sum(output) / d inputs[i], a tensor of inputs[i]'s shape (zeros where the output
   does not depend on it). Only paths to the inputs asked for are followed: a gradient of the images
   never computes one of the weights. */
L2LADVDEF bool l2l_grad(l2l_context *c, l2l_tensor *output, l2l_tensor *const *inputs, int n_inputs,
                        l2l_tensor **gradients, unsigned flags);
/* The same for an output weighted by a cotangent of its shape: the vector-Jacobian product
   (VJP). */
L2LADVDEF bool l2l_vjp(l2l_context *c, l2l_tensor *output, l2l_tensor *cotangent,
                       l2l_tensor *const *inputs, int n_inputs, l2l_tensor **gradients,
                       unsigned flags);

/* -- 2.4 Operations -------------------------------------------------------------- >>operations --
   Each returns a new tensor, or NULL after an error. Each can be differentiated any number of times
   where a derivative exists. Conventions at kinks: relu'(0) = 0, the first maximum wins, clamp's
   derivative is 1 on its bounds, sign' = 0. */

/* Convolution, in one node: y = pool(relu(scale * conv(p(x), w) + bias + residual)), where
   p(x) = relu(pre_scale * x + pre_shift) if pre_scale is given and x otherwise.
   x NxHxWxC, w khxkwxCxK, the vectors 1x1x1xK (pre_ ones 1x1x1xC), the residual as conv's output.
   Fields left NULL or false are left out. */
typedef struct l2l_conv_options {
    int stride, padding; /* 1, 0 */
    l2l_tensor *bias, *scale, *residual, *pre_scale, *pre_shift;
    bool relu;
    bool pool;           /* 2x2 maximum, stride 2, after the ReLU */
} l2l_conv_options;
L2LADVDEF l2l_conv_options l2l_conv_default(void);
L2LADVDEF l2l_tensor *l2l_conv(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                               const l2l_conv_options *o);
/* Its two adjoints: dy NxOHxOWxK to the input's shape, and to the weight's shape khxkwxCxK. */
L2LADVDEF l2l_tensor *l2l_conv_input_grad(l2l_context *c, l2l_tensor *dy, l2l_tensor *w,
                                          l2l_shape x, int stride, int padding);
L2LADVDEF l2l_tensor *l2l_conv_weight_grad(l2l_context *c, l2l_tensor *x, l2l_tensor *dy,
                                           l2l_shape w, int stride, int padding);
/* y Nx1x1xK = x W + b, where x NxHxWxC is flattened and W is hxwxcxK with h*w*c = H*W*C. Options:
   bias, scale, residual, relu. */
L2LADVDEF l2l_tensor *l2l_linear(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                                 const l2l_conv_options *o);

/* Elementwise. In add, sub and mul an axis of length 1 is repeated to fit the other operand. */
L2LADVDEF l2l_tensor *l2l_add(l2l_context *c, l2l_tensor *a, l2l_tensor *b);
L2LADVDEF l2l_tensor *l2l_sub(l2l_context *c, l2l_tensor *a, l2l_tensor *b);
L2LADVDEF l2l_tensor *l2l_mul(l2l_context *c, l2l_tensor *a, l2l_tensor *b);
L2LADVDEF l2l_tensor *l2l_affine(l2l_context *c, l2l_tensor *x, double scale, double shift);
L2LADVDEF l2l_tensor *l2l_relu(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_leaky_relu(l2l_context *c, l2l_tensor *x, double slope);
L2LADVDEF l2l_tensor *l2l_tanh(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_sigmoid(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_exp(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_log(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_power(l2l_context *c, l2l_tensor *x, double exponent);
L2LADVDEF l2l_tensor *l2l_abs(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_sign(l2l_context *c, l2l_tensor *x); /* sign(0) = 0                     */
L2LADVDEF l2l_tensor *l2l_clamp(l2l_context *c, l2l_tensor *x, double low, double high);
/* The projection of Algorithm 1: clamp to [max(x-eps,0), min(x+eps,1)] around the clean x. */
L2LADVDEF l2l_tensor *l2l_project(l2l_context *c, l2l_tensor *z, l2l_tensor *x, double epsilon);
/* A constant copy-free view of x: gradients stop here. */
L2LADVDEF l2l_tensor *l2l_detach(l2l_context *c, l2l_tensor *x);

/* Shapes and reductions. */
L2LADVDEF l2l_tensor *l2l_reshape(l2l_context *c, l2l_tensor *x, l2l_shape s);
/* Sums over every axis that is 1 in s; s's other axes are x's. broadcast_to is its adjoint. */
L2LADVDEF l2l_tensor *l2l_sum_to(l2l_context *c, l2l_tensor *x, l2l_shape s);
L2LADVDEF l2l_tensor *l2l_broadcast_to(l2l_context *c, l2l_tensor *x, l2l_shape s);
L2LADVDEF l2l_tensor *l2l_sum(l2l_context *c, l2l_tensor *x);  /* 1x1x1x1                         */
L2LADVDEF l2l_tensor *l2l_mean(l2l_context *c, l2l_tensor *x); /* 1x1x1x1                         */
/* Channels from .. from+count-1, and the adjoint: x's channels placed into `total` ones, else 0. */
L2LADVDEF l2l_tensor *l2l_slice(l2l_context *c, l2l_tensor *x, int from, int count);
L2LADVDEF l2l_tensor *l2l_place(l2l_context *c, l2l_tensor *x, int from, int total);

/* Pooling: square window, PyTorch's rounding down; padding counts as -inf for max and as 0, with
   the full window as divisor, for the average. */
L2LADVDEF l2l_tensor *l2l_max_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                   int padding);
L2LADVDEF l2l_tensor *l2l_average_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                       int padding);
L2LADVDEF l2l_tensor *l2l_global_average_pool(l2l_context *c, l2l_tensor *x); /* Nx1x1xC          */

/* Batch normalisation over N,H,W with gamma, beta 1x1x1xC. Training mode uses the batch's mean and
   biased variance and moves the running ones (1x1x1xC, never differentiated) by `momentum`, the
   variance unbiased, as PyTorch does; evaluation mode uses the running ones. */
typedef struct l2l_batch_norm_options {
    l2l_tensor *gamma, *beta;
    l2l_tensor *running_mean, *running_variance;
    l2l_tensor *residual;     /* NULL, or added to the result; x's shape */
    bool relu;                /* of the result and the residual */
    double epsilon, momentum; /* 1e-5, 0.1 */
    bool training;
    bool update;              /* false: leave the running statistics alone */
} l2l_batch_norm_options;
L2LADVDEF l2l_batch_norm_options l2l_batch_norm_default(void);
L2LADVDEF l2l_tensor *l2l_batch_norm(l2l_context *c, l2l_tensor *x,
                                     const l2l_batch_norm_options *o);
/* Sets each element to 0 with probability p and scales the rest by 1/(1-p). Element e of image i is
   decided by the stream *s with image = images[i]; images has x's N entries. */
L2LADVDEF l2l_tensor *l2l_dropout(l2l_context *c, l2l_tensor *x, double p, const l2l_stream *s,
                                  const uint32_t *images);

/* Over classes (the channels of Nx1x1xK). */
L2LADVDEF l2l_tensor *l2l_softmax(l2l_context *c, l2l_tensor *logits);
L2LADVDEF l2l_tensor *l2l_log_softmax(l2l_context *c, l2l_tensor *logits);
/* Nx1x1x1: entry classes[i] of row i; classes has N entries in 0..K-1. */
L2LADVDEF l2l_tensor *l2l_pick(l2l_context *c, l2l_tensor *logits, const int *classes);
/* The adjoint of pick: Nx1x1x1 to Nx1x1xK, zero elsewhere. */
L2LADVDEF l2l_tensor *l2l_unpick(l2l_context *c, l2l_tensor *values, const int *classes, int k);

/* -- 2.5 Losses, per image ------------------------------------------------------------ >>losses --
   Each gives Nx1x1x1; l2l_sum and l2l_mean do the rest. */
L2LADVDEF l2l_tensor *l2l_cross_entropy(l2l_context *c, l2l_tensor *logits, const int *labels);
/* KL(softmax(p) || softmax(q)); the gradient flows through both arguments. */
L2LADVDEF l2l_tensor *l2l_kl_divergence(l2l_context *c, l2l_tensor *p, l2l_tensor *q);
/* max over j != y of z_j, minus z_y: positive when the image is misclassified (Carlini-Wagner). */
L2LADVDEF l2l_tensor *l2l_margin(l2l_context *c, l2l_tensor *logits, const int *labels);
/* Row-wise argmax, the lowest index on ties. */
L2LADVDEF bool l2l_predict(l2l_context *c, const l2l_tensor *logits, int *classes);

/* -- 2.6 Classifiers ------------------------------------------------------------------ >>models --
   A network is one forward function written with the layers below. On its first run, when the model
   is made, each layer creates its parameters under its name; later runs find them by name. Weights
   are Kaiming-normal (fan-in), biases zero, the last linear layer N(0, last_layer_deviation^2). */
typedef struct l2l_model l2l_model;
typedef l2l_tensor *(*l2l_forward)(l2l_model *m, l2l_tensor *x, void *user);

typedef struct l2l_model_options {
    const char *arch;     /* one of the known names, or any other for a network of your own       */
    l2l_forward forward;  /* set by l2l_model_default for the known ones                          */
    void *user;           /* handed to forward                                                    */
    int channels, height, width, classes;
    double width_multiplier; /* channels are rounded to multiples of 8; wrn: the widening factor  */
    int depth;               /* of wrn: 10, 16, 22, 28, 34, 40, ...                               */
    double dropout;             /* 0: off                                                         */
    double last_layer_deviation; /* 0.01; TRADES starts from 0: no input gradient at first        */
    int normalise;               /* how many of the channels below count; 0: inputs stay in [0,1] */
    double mean[4], deviation[4];
    uint64_t seed;
} l2l_model_options;
/* The four classifiers of the paper, with their parameter counts:
     "smallcnn"  4-layer CNN of TRADES, 1x28x28, 10 classes                              312,202
     "vgg16"     VGG-16 with batch norm, 3x32x32, 10 classes                          14,728,266
     "wrn"       WideResNet (Zagoruyko and Komodakis 2016), depth 34 and widening factor 10
                 as in TRADES, 3x32x32, 10 classes                                    46,160,474
     "resnet18"  ResNet-18 (He et al. 2016) as in torchvision, 3x224x224, 9 classes   11,181,129
   or another name for your own network, whose forward, channels, height, width and classes you
   set. */
L2LADVDEF l2l_model_options l2l_model_default(const char *arch);
L2LADVDEF l2l_model *l2l_model_create(l2l_context *c, const l2l_model_options *o);
L2LADVDEF l2l_model *l2l_model_clone(l2l_context *c, const l2l_model *m); /* also into another c  */
L2LADVDEF bool l2l_model_copy(l2l_model *to, const l2l_model *from);      /* same architecture    */
L2LADVDEF void l2l_model_free(l2l_model *m);
L2LADVDEF const l2l_model_options *l2l_model_info(const l2l_model *m);

/* Layers, for use inside a forward function. `flags` is a sum of the following. */
enum { L2L_RELU = 1, L2L_POOL = 2, L2L_NO_BIAS = 4, L2L_LAST = 8 };
L2LADVDEF l2l_tensor *l2l_layer_conv(l2l_model *m, const char *name, l2l_tensor *x, int channels,
                                     int kernel, int stride, int padding, unsigned flags);
L2LADVDEF l2l_tensor *l2l_layer_linear(l2l_model *m, const char *name, l2l_tensor *x, int outputs,
                                       unsigned flags); /* flattens; L2L_LAST: the logits         */
L2LADVDEF l2l_tensor *l2l_layer_batch_norm(l2l_model *m, const char *name, l2l_tensor *x,
                                           unsigned flags); /* L2L_RELU or 0                      */
/* A convolution and what commonly follows it, in this order: batch norm, a residual, ReLU, 2x2
   pooling. In evaluation mode all of it is one node. */
typedef struct l2l_unit {
    int channels, kernel, stride, padding;
    const char *norm;     /* name of the batch norm; NULL: none                                   */
    l2l_tensor *residual; /* of the convolution's output shape; NULL: none                        */
    unsigned flags;
} l2l_unit;
L2LADVDEF l2l_unit l2l_unit_default(int channels, int kernel); /* stride 1, padding kernel/2      */
L2LADVDEF l2l_tensor *l2l_layer_unit(l2l_model *m, const char *name, l2l_tensor *x,
                                     const l2l_unit *u);
/* What stands in front of the names of all layers from here on: "layer1.0.". Begins empty. */
L2LADVDEF void l2l_model_scope(l2l_model *m, const char *prefix);
L2LADVDEF l2l_tensor *l2l_layer_dropout(l2l_model *m, l2l_tensor *x, double p);
L2LADVDEF l2l_context *l2l_model_context(const l2l_model *m);

/* Evaluation: running statistics, no dropout. Training: batch statistics, dropout. A forward
   function asks for it with l2l_model_mode if it does anything mode-dependent of its own. */
typedef enum l2l_mode { L2L_EVALUATE = 0, L2L_TRAIN = 1 } l2l_mode;
L2LADVDEF l2l_mode l2l_model_mode(l2l_model *m);
/* Logits Nx1x1xK of a batch NxHxWxC in [0,1]. */
L2LADVDEF l2l_tensor *l2l_model_forward(l2l_model *m, l2l_tensor *x, l2l_mode mode);
/* Logits of n images, NxCxHxW, into n*classes numbers, in evaluation mode, a batch at a time. */
L2LADVDEF bool l2l_model_logits(l2l_model *m, const l2l_real *images, int n, l2l_real *logits);

/* Parameters and buffers (running statistics) in the order of the layers. */
typedef struct l2l_parameter {
    const char *name;          /* e.g. "feature_extractor.conv1.weight" */
    const l2l_tensor *value;   /* khxkwxCxK; a linear layer's is HxWxCxK of the map it flattens   */
    int rank;                  /* in files: 4 = KxCxkhxkw, 2 = Kx(C*H*W), 1 = K                   */
    bool trainable;            /* false: a buffer                                                 */
} l2l_parameter;
L2LADVDEF int l2l_model_parameters(const l2l_model *m); /* how many, buffers included             */
L2LADVDEF l2l_parameter l2l_model_parameter(const l2l_model *m, int i);
L2LADVDEF int64_t l2l_model_size(const l2l_model *m);   /* trainable numbers, e.g. 312,202        */
/* A parameter in file layout, read and written; l2l_count(value->shape) numbers. */
L2LADVDEF bool l2l_parameter_get(const l2l_model *m, int i, l2l_real *values);
L2LADVDEF bool l2l_parameter_set(l2l_model *m, int i, const l2l_real *values);

/* A table of layers, shapes and counts as text, cut to `capacity` bytes with its final zero.
   Returns the length that the whole text has. */
L2LADVDEF size_t l2l_model_summary(const l2l_model *m, char *text, size_t capacity);
/* Bytes that one training step (or with L2L_EVALUATE one input gradient) of a batch will need
   beyond the parameters, by passes of up to 16 images of zeros; the very first step can take half
   as much again. 0 after an error. */
L2LADVDEF size_t l2l_model_memory(l2l_model *m, int batch, l2l_mode mode);

/* A model that lives elsewhere. Called from the caller's thread, NxCxHxW in [0,1]; return false to
   cancel. vjp may be NULL: then only attacks that need no gradient work. */
typedef struct l2l_external {
    int channels, height, width, classes;
    void *user;
    bool (*logits)(void *user, const l2l_real *x, int n, l2l_real *logits);
    bool (*vjp)(void *user, const l2l_real *x, int n, const l2l_real *dlogits, l2l_real *dx);
} l2l_external;
L2LADVDEF l2l_model *l2l_model_external(l2l_context *c, const l2l_external *e);

/* -- 2.7 Outer optimizers and schedules ----------------------------------------- >>optimizers --
   SGD as PyTorch: v = momentum*v + (g + weight_decay*theta), theta -= lr*v (Nesterov: g +
   momentum*v). Adam (Kingma and Ba) with bias correction; weight decay is added to the gradient. */
typedef enum l2l_optimizer_kind { L2L_SGD = 0, L2L_ADAM = 1 } l2l_optimizer_kind;
typedef struct l2l_optimizer_options {
    l2l_optimizer_kind kind;
    double rate;         /* the step size: alpha_2 for theta, alpha_1 for phi                     */
    double momentum, weight_decay;
    bool nesterov;
    double beta1, beta2, epsilon; /* Adam: 0.9, 0.999, 1e-8                                       */
    double clip;         /* rescale the gradient if its l2 norm exceeds this; 0: never            */
} l2l_optimizer_options;
L2LADVDEF l2l_optimizer_options l2l_sgd_default(void);  /* rate 0.1, momentum 0.9 */
L2LADVDEF l2l_optimizer_options l2l_adam_default(void); /* rate 1e-3 */

typedef enum l2l_schedule_kind { L2L_CONSTANT = 0, L2L_STEPS, L2L_COSINE } l2l_schedule_kind;
typedef struct l2l_schedule {
    l2l_schedule_kind kind;
    double warm_up;        /* fraction of all steps with a linear rise from 0                     */
    double milestones[8];  /* L2L_STEPS: fractions of all steps, ascending; unused ones 0         */
    double factor;         /* multiplied in at each milestone: 0.1                                */
    double final;          /* L2L_COSINE: ends at this share of the rate: 0                       */
} l2l_schedule;
L2LADVDEF l2l_schedule l2l_schedule_default(void);
/* The factor on the rate at `step` of `total`. */
L2LADVDEF double l2l_schedule_factor(const l2l_schedule *s, int64_t step, int64_t total);

/* An optimizer over any list of arrays (a trainer makes its own). The gradient is descended. */
typedef struct l2l_optimizer l2l_optimizer;
L2LADVDEF l2l_optimizer *l2l_optimizer_create(l2l_context *c, const l2l_optimizer_options *o,
                                              const int64_t *sizes, int n);
L2LADVDEF bool l2l_optimizer_step(l2l_optimizer *o, l2l_real *const *values,
                                  l2l_real *const *gradients, double rate_factor);
L2LADVDEF void l2l_optimizer_free(l2l_optimizer *o);

/* -- 2.8 The three interfaces of adversarial training --------------------------------- >>seams --
   Training = inner objective x inner maximizer x outer loss. Algorithm 1 is written over these
   three, every method is a combination of them, and an attack is the first two. */

/* What the inner problem maximizes: a per-image loss Nx1x1x1 of the logits at x', of each image's
   own row alone and not of its place in the batch, which changes when others leave (2.9). */
typedef struct l2l_objective {
    const char *name;
    l2l_tensor *(*loss)(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean_logits,
                        const int *labels, void *user);
    bool needs_clean; /* else clean_logits is NULL; they are a constant of the inner problem      */
    void *user;
    bool cut;         /* L, with the sign that targets give it, is cut off above `confidence`:    */
    double confidence; /* an image that has got so far has no gradient any more                   */
} l2l_objective;
L2LADVDEF l2l_objective l2l_objective_cross_entropy(void);
L2LADVDEF l2l_objective l2l_objective_kl(void); /* KL(f(x) || f(x')), the inner loss of TRADES */
L2LADVDEF l2l_objective l2l_objective_margin(void); /* Carlini and Wagner's, never cut off        */

typedef enum l2l_start {
    L2L_START_CLEAN = 0, /* x'_0 = x                                                              */
    L2L_START_UNIFORM,   /* x'_0 = Proj(x + U(-eps, eps)), as PGD                                 */
    L2L_START_NORMAL     /* x'_0 = Proj(x + 0.001 N(0, I)), as TRADES and Algorithm 1, line 8     */
} l2l_start;

/* The norm of the ball B(x, epsilon). */
typedef enum l2l_norm { L2L_LINF = 0, L2L_L2 = 1 } l2l_norm;

/* The inner problem, as a maximizer sees it: n images, channels last. In training they are the
   mini-batch or, with micro_batch, a part of it; in an attack those that are not fooled yet, and
   perhaps others. */
typedef struct l2l_inner {
    l2l_context *context;
    l2l_model *model;
    const l2l_objective *objective;
    int n;                    /* images here                                                      */
    int first, batch;         /* they are number first .. first+n-1 of a mini-batch of `batch`    */
    l2l_shape shape;          /* nxHxWxC                                                          */
    l2l_tensor *x;            /* clean images                                                     */
    const int *labels;        /* n                                                                */
    const uint32_t *images;   /* n indices in the data set, for random streams                    */
    l2l_tensor *clean_logits; /* NULL unless the objective needs them                             */
    l2l_stream stream;        /* seed, epoch or restart, step: fill in purpose and image          */
    l2l_norm norm;            /* of the ball                                                      */
    double epsilon;           /* its radius, in pixels in [0,1]                                   */
    bool targeted;            /* labels are to be reached: L is minus the objective               */
    double step_size;         /* in pixels                                                        */
    int T;                    /* number of steps                                                  */
    const double *w;          /* w[0..T], the weights of L_phi; w[0] = 0                          */
    l2l_mode mode;            /* of the classifier                                                */
    int t;                    /* the step at hand                                                 */
    l2l_tensor *adv;          /* x'_t                                                             */
    l2l_tensor *start;        /* x'_0, kept for maximizers that learn                             */
    l2l_tensor *delta;        /* a maximizer writes its delta_t here                              */
    const struct l2l_maximizer *maximizer;
    l2l_tensor *memory[2];    /* as many as the maximizer asked for: a number for every pixel, 0  */
                              /* at first, that stays with its image                              */
    l2l_tensor **g;           /* g[t], raw per-image gradients; all kept if the maximizer learns, */
                              /* else g[t] is valid only at step t                                */
    l2l_real *loss;           /* n losses at the point last looked at                             */
    int *predicted;           /* n classes at that point                                          */
    double L_phi;             /* sum over images and t of w[t] L(f(x'_t), y), earlier parts' too  */
    int64_t forwards, backwards; /* passes through the classifier so far                          */
} l2l_inner;

/* A maximizer: gradients in, steps out. */
typedef struct l2l_maximizer {
    const char *name;
    void *self;
    int memory;                                /* tensors of in->memory: 0, 1 or 2                */
    double number[2];                          /* parameters, as in->maximizer->number            */
    bool (*begin)(void *self, l2l_inner *in);  /* state to zero (line 7); may be NULL             */
    bool (*step)(void *self, l2l_inner *in);   /* in->delta from in->g[in->t] (line 11)           */
    /* Images leave (only in an attack, between two steps): of in->n those numbered kept[0] < .. <
       kept[n-1] stay and become 0 .. n-1. Moves the state that `self` has by image; called before
       `in` changes. NULL: none ever leaves, unless self is NULL, too. Who wraps a maximizer wraps
       this as well, or sets NULL. */
    bool (*keep)(void *self, l2l_inner *in, const int *kept, int n);
    /* Learning (line 15) in two: for every part of a batch `gradient` adds that of its L_phi, by
       in->g[0..T], over in->batch to a sum, which the first part (in->first is 0) begins anew;
       after the last part `update` makes a step with it. Both NULL: it does not learn. */
    bool (*gradient)(void *self, l2l_inner *in);
    bool (*update)(void *self, l2l_inner *in);
    /* For checkpoints: writes what was learned as numbers (or only counts them if numbers is NULL),
       and takes it back. Both may be NULL. */
    int64_t (*pack)(void *self, double *numbers);
    bool (*unpack)(void *self, const double *numbers, int64_t n);
} l2l_maximizer;
L2LADVDEF l2l_maximizer l2l_maximizer_none(void); /* x'_T = x'_0: plain training                  */
L2LADVDEF l2l_maximizer l2l_maximizer_sign(void); /* delta = step_size * sign(g): FGSM, PGD       */
L2LADVDEF l2l_maximizer l2l_maximizer_gradient(void); /* step_size * g / |g|_2, per image         */

/* What theta descends: a 1x1x1x1 loss with the tape recording, the mean over the images of x. x and
   adv are constants. */
typedef struct l2l_outer {
    const char *name;
    l2l_tensor *(*loss)(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                        void *user);
    void *user;
    bool
        is_objective; /* equals the mean of the inner cross-entropy at x'_T: one pass serves both */
} l2l_outer;
L2LADVDEF l2l_outer l2l_outer_cross_entropy(void); /* mean CE(f(x'_T), y)                         */

/* -- 2.9 Attacks --------------------------------------------------------------------- >>attacks --
   In the ball of radius epsilon and the image range [0,1], pixels in [0,1]. Everything is decided
   per image: its result does not depend on the batch. The classifier is in evaluation
   mode; no parameter gradient is touched. After every attack ball and range are checked.

   Returned is the first iterate that is misclassified, else the one with the largest loss over all
   restarts (so that more steps from the same start are never weaker); with last_iterate the
   last. Without last_iterate fooled images leave the batch, so that a pass costs less and less;
   not so with a maximizer of your own without `keep` (2.8). */
struct l2l__hunt;
typedef struct l2l_attack {
    const char *name;
    l2l_maximizer maximizer;
    l2l_objective objective;
    l2l_norm norm;    /* of the ball: L2L_LINF                                                    */
    double epsilon;   /* its radius: 0.3 or 8/255; in l2 about 2 on digits, 0.5 on CIFAR-10       */
    const int *targets; /* n classes that the images shall be taken for; NULL: any but the label  */
    double step_size; /* PGD: epsilon/4                                                           */
    int steps;        /* gradient steps                                                           */
    int restarts;     /* 1: one run                                                               */
    l2l_start start;
    bool last_iterate;
    uint64_t seed;
    int batch;        /* images at a time: 100; changes no result                                 */
    uint32_t first;   /* index of the first image in the data set, for random numbers             */
    const l2l_real *init; /* n*C*H*W starting points for the first run, or NULL                   */
    bool (*progress)(void *user, int done, int total); /* may be NULL; false cancels              */
    void *user;
    /* only of the searches below */
    int searches;     /* cw_l2: constants tried: 9                                                */
    double constant;  /* cw_l2: the first of them: 1e-3                                           */
    double overshoot; /* deepfool: 0.02                                                           */
    int candidates;   /* deepfool: classes looked at, the likeliest, the label among them: 10;    */
                      /* sign_opt: directions for one gradient: 100                               */
    double share;     /* square: part of the image that the first windows cover: 0.8              */
    /* private */
    bool (*search)(struct l2l__hunt *h); /* instead of the maximizer's steps                      */
    bool minimal;     /* it looks for the nearest adversarial image, in no ball                   */
} l2l_attack;
L2LADVDEF l2l_attack l2l_attack_fgsm(double epsilon);
L2LADVDEF l2l_attack l2l_attack_ifgsm(double epsilon); /* from x, 10 steps of epsilon/4           */
L2LADVDEF l2l_attack l2l_attack_pgd(double epsilon);   /* uniform start, 10 steps of epsilon/4    */
L2LADVDEF l2l_attack l2l_attack_pgd_l2(double epsilon); /* the same in the l2 ball, along g/|g|_2 */

/* Searches: attacks with a course of their own, without maximizer, start and restarts. An image
   that is misclassified as it is comes back as it is. All but square look for the nearest
   adversarial image in `norm`, in no ball, and return the nearest that they saw, or the clean image
   if they saw none; epsilon only says how near is near enough: success is found, and no farther
   than epsilon. So one run with INFINITY can be read at every radius, by record.linf or record.l2.

   Carlini and Wagner 2017, l2: Adam at rate step_size (0.01) in tanh space on |x'-x|^2 + constant *
   max(objective.confidence - margin, 0), `steps` (1,000; the authors' program 10,000) for each of
   the constants, which are searched by bisection; a descent ends early where a tenth of the steps
   gained less than 0.01 %. Nearest of all iterates of all descents. */
L2LADVDEF l2l_attack l2l_attack_cw_l2(double epsilon);
/* DeepFool (Moosavi-Dezfooli et al. 2016) in l-infinity and l2: at most 50 steps, each just across
   the nearest of the linearised boundaries between the label and the candidates. No targets. */
L2LADVDEF l2l_attack l2l_attack_deepfool(double epsilon);
L2LADVDEF l2l_attack l2l_attack_deepfool_l2(double epsilon);
/* The two that ask for no gradient. Square (Andriushchenko et al. 2020; l-infinity), in the ball
   and by scores: random windows at +-epsilon, kept when the objective (the margin) rises; `steps`
   queries: 5,000, windows shrinking as in AutoAttack, where they also leave out the last place on
   either axis, which counts here. Sign-OPT (Cheng et al. 2020; l2), by predicted labels: from a
   noise image, or `init`, to the boundary and along it, `steps` queries: 5,000. A model behind
   callbacks that knows no more than a label may give one-hot logits. */
L2LADVDEF l2l_attack l2l_attack_square(double epsilon);
L2LADVDEF l2l_attack l2l_attack_sign_opt(double epsilon);

typedef struct l2l_record {
    int label, clean, predicted; /* true class, prediction on the clean and the returned image    */
    bool success;                /* predicted != label; with targets: predicted is the target     */
    int step;                    /* of the returned iterate; 0 is the start                       */
    int restart;
    double loss;                 /* the objective at the returned image                           */
    double linf, l2;             /* norms of the perturbation                                     */
    int forwards, backwards;     /* passes through the model until this image was fooled          */
    int zero_gradients;          /* iterates of this image whose gradient was exactly zero        */
} l2l_record;
/* Attacks n images (NxCxHxW, values in [0,1]); `adversarial` gets n images, `records` n records.
   Images, labels and ranges are checked on entry. */
L2LADVDEF bool l2l_attack_run(l2l_model *m, const l2l_attack *a, const l2l_real *images,
                              const int *labels, int n, l2l_real *adversarial,
                              l2l_record *records);

/* -- 2.10 The learned maximizer ------------------------------------------------------ >>learned --
   m_phi: one small recurrent cell, shared by all pixels, that turns the gradient of each pixel into
   its next step (Xiong and Hsieh 2020; Andrychowicz et al. 2016). */
typedef enum l2l_cell { L2L_LSTM = 0, L2L_RNN = 1 } l2l_cell;
typedef enum l2l_grad_input {
    L2L_INPUT_SIGN = 0, /* sign(g)                                                                */
    L2L_INPUT_L1,       /* g * pixels / |g|_1, per image                                          */
    L2L_INPUT_LINF,     /* g / |g|_inf, per image                                                 */
    L2L_INPUT_LOG,      /* two inputs: log|g| and sign, with p = 10 (Andrychowicz et al. 2016)    */
    L2L_INPUT_RAW       /* g itself (for checks)                                                  */
} l2l_grad_input;

typedef struct l2l_learned_options {
    l2l_cell cell;
    int hidden;             /* 10                                                                 */
    bool bias;              /* LSTM 491 parameters with, 450 without; RNN 120 without             */
    l2l_grad_input input;
    bool raw_output;        /* false: delta = scale*eps*tanh(out); true: delta = scale*eps*out    */
    double scale;           /* 1                                                                  */
    l2l_optimizer_options optimizer; /* of phi, ascending L_phi: Adam, rate (alpha_1) 1e-2        */
    bool second_order;      /* differentiate through g_t too: exact, and several times dearer     */
    uint64_t seed;
} l2l_learned_options;
L2LADVDEF l2l_learned_options l2l_learned_default(void);

typedef struct l2l_learned l2l_learned;
L2LADVDEF l2l_learned *l2l_learned_create(l2l_context *c, const l2l_learned_options *o);
L2LADVDEF void l2l_learned_free(l2l_learned *m);
L2LADVDEF const l2l_learned_options *l2l_learned_info(const l2l_learned *m);
L2LADVDEF int l2l_learned_size(const l2l_learned *m); /* number of parameters                     */
/* T and epsilon of the last training step; 0 before any. They are kept in its file. */
L2LADVDEF void l2l_learned_trained_with(const l2l_learned *m, int *T, double *epsilon);
/* phi as one array: W_ih (4HxI, gates i f g o; RNN HxI), W_hh (4HxH), b_ih (4H), W_out (H),
   b_out (1); rows as in PyTorch's LSTMCell and RNNCell. Writing to it is allowed. */
L2LADVDEF l2l_real *l2l_learned_parameters(l2l_learned *m);
L2LADVDEF l2l_maximizer l2l_learned_maximizer(l2l_learned *m);
/* The learned optimizer as an attack, T steps from the start of line 8. */
L2LADVDEF l2l_attack l2l_attack_learned(l2l_learned *m, double epsilon, int steps);
/* The gradient of L_phi / n of these n images by phi, l2l_learned_size numbers, after T steps. */
L2LADVDEF bool l2l_learned_gradient(l2l_learned *m, l2l_inner *in, l2l_real *gradient);

/* -- 2.11 Data sets --------------------------------------------------------------------- >>data --
   `fetch` gives image `index` as CxHxW in [0,1] and its label. Make one with the loaders of 2.14,
   from arrays, or fill in the struct yourself to stream. Training and evaluation cut images that
   are larger than the model's down to its size; smaller ones are an error. */
typedef struct l2l_dataset {
    l2l_context *context;
    int count, channels, height, width, classes;
    bool (*fetch)(const struct l2l_dataset *d, int index, l2l_real *chw, int *label);
    void (*release)(struct l2l_dataset *d); /* frees self; may be NULL */
    void *self;
} l2l_dataset;
/* n images NxCxHxW in [0,1] and their labels, borrowed: they must outlive the data set. */
L2LADVDEF bool l2l_dataset_from_arrays(l2l_context *c, const l2l_real *images, const int *labels,
                                       int n, int channels, int height, int width, int classes,
                                       l2l_dataset *d);
L2LADVDEF void l2l_dataset_free(l2l_dataset *d);
/* Images first .. first+n-1 as NxCxHxW, with labels. */
L2LADVDEF bool l2l_dataset_read(const l2l_dataset *d, int first, int n, l2l_real *images,
                                int *labels);

/* -- 2.12 Training: Algorithm 1 -------------------------------------------------------- >>train --
   l2l_train runs Algorithm 1 over a data set: shuffling, schedules, evaluation on held-out images
   after every epoch, the best model kept, checkpoints, progress. l2l_train_step runs one pass of
   its loop on a batch of yours.

   A batch too large for the memory: with micro_batch lines 6 to 14 take it in parts of so many
   images, gradients are added up, and lines 15 and 16 make one step with those of the whole batch.
   Random numbers go by the image, so nothing but rounding tells that from the batch at once, save
   batch norm in training mode: as in PyTorch, its statistics are each part's, and the running ones
   move once for each part. */
typedef struct l2l_method {
    const char *name;
    l2l_objective objective;
    l2l_maximizer maximizer;
    l2l_outer outer;
    l2l_start start;
} l2l_method;
L2LADVDEF l2l_method l2l_method_plain(void);
L2LADVDEF l2l_method l2l_method_advtrain(void);            /* PGD (Madry et al. 2018)             */
L2LADVDEF l2l_method l2l_method_rnn_adv(l2l_learned *phi); /* the paper's                         */

typedef struct l2l_progress {
    int epoch, epochs;  /* epoch counts from 0                                                    */
    int64_t step, steps, step_in_epoch, steps_in_epoch;
    double loss;        /* outer loss of the last step                                            */
    double accuracy;    /* on the last step's x'_T; -1 under an outer loss of your own            */
    double epsilon, rate; /* rate: the schedule's factor at this step                             */
    double gain;        /* mean over the batch of L(x'_T) - L(x'_0): what the maximizer gained.   */
                        /* With batch norm the latter is in inner_mode, the former in training    */
    double saturated;   /* share of pixels of x'_T on the border of the ball or of [0,1]          */
    bool epoch_ended;   /* then the following are new:                                            */
    double epoch_loss, epoch_accuracy;           /* means over the epoch                          */
    double validation_natural, validation_robust; /* -1 when nothing is held out                  */
    bool best;          /* this epoch's model is the best so far                                  */
} l2l_progress;

/* What training does to the images of a data set, in this order: `padding` black pixels on every
   side; a crop of the model's size, at random; left and right exchanged with probability 1/2. It is
   new in every epoch, whatever batch and threads are (L2L_RANDOM_AUGMENT; elements 0, 1, 2: top,
   left, flip). Validation and evaluation crop in the centre and do nothing else. */
typedef struct l2l_augment {
    int padding;                /* 0; below the model's height and width                          */
    bool flip;                  /* false                                                          */
} l2l_augment;

typedef struct l2l_train_options {
    l2l_method method;
    int epochs, batch;          /* 10, 128 */
    int micro_batch;            /* images at a time, to save memory; 0: the whole batch           */
    double epsilon;             /* 0.3 */
    int T;                      /* 10 inner steps */
    double step_size;           /* PGD's; 0: epsilon/4. Shrinks with epsilon during its warm-up   */
    double epsilon_warm_up;     /* fraction of all steps over which epsilon rises from 0: 0.3     */
    const double *loss_weights; /* w_1 .. w_T of L_phi; NULL: w_t = t                             */
    l2l_optimizer_options optimizer; /* of theta: Adam, 1e-3                                      */
    l2l_schedule schedule;
    l2l_augment augment;
    l2l_mode inner_mode;        /* of the classifier during the inner steps: L2L_EVALUATE. In     */
                                /* training mode, too, they leave running statistics alone        */
    int validation;             /* images split off for evaluation after each epoch: 0            */
    l2l_attack validation_attack; /* name NULL: PGD-10 at epsilon                                 */
    bool stop_on_plateau;       /* see l2l_train */
    uint64_t seed;
    bool (*progress)(void *user, const l2l_progress *p); /* after each step; false: stop          */
    void *user;
    const char *checkpoint;     /* file, NULL: none; written after each epoch and when stopped    */
    int checkpoint_steps;       /* and every so many steps; 0: no                                 */
    bool resume;                /* go on from `checkpoint` if the file is there                   */
    const char *log;            /* file of JSON lines, NULL: none                                 */
} l2l_train_options;
L2LADVDEF l2l_train_options l2l_train_default(void);

typedef struct l2l_trainer l2l_trainer;
/* The model (and phi, inside the method) are trained in place. */
L2LADVDEF l2l_trainer *l2l_trainer_create(l2l_model *m, const l2l_dataset *d,
                                          const l2l_train_options *o);
L2LADVDEF void l2l_trainer_free(l2l_trainer *t);
/* Runs to the end; true when it got there. A progress callback that says stop, a loss that is not
   finite (the parameters for which it last was are kept) or, with stop_on_plateau, a loss within
   0.02 of ln K for 300 steps while one class is predicted for everything, ends it with an error. */
L2LADVDEF bool l2l_train(l2l_trainer *t);
/* One pass of Algorithm 1, lines 5 to 16, on n images NxCxHxW of the model's size, as they are. */
L2LADVDEF bool l2l_train_step(l2l_trainer *t, const l2l_real *images, const int *labels, int n,
                              l2l_progress *p);
/* A copy of the model of the best epoch by held-out robust accuracy (without held-out images: of
   the last epoch). To be freed by the caller. */
L2LADVDEF l2l_model *l2l_trainer_best(l2l_trainer *t);
L2LADVDEF bool l2l_trainer_save(l2l_trainer *t, const char *path);   /* a checkpoint, now         */
L2LADVDEF bool l2l_trainer_resume(l2l_trainer *t, const char *path); /* same settings only        */

/* -- 2.13 Evaluation ---------------------------------------------------------------- >>evaluate --
   One object per model and data set: natural accuracy first, then any number of attacks, and the
   share of images that are right under all of them at once. */
typedef struct l2l_evaluation_options {
    int limit; /* the first so many images; 0: all */
    int batch; /* 100 */
} l2l_evaluation_options;
L2LADVDEF l2l_evaluation_options l2l_evaluation_default(void);

typedef struct l2l_result {
    double accuracy;        /* share of the attacked images that are classified right             */
    double mean_loss;       /* of the attack's objective                                          */
    double mean_linf;
    double zero_gradients;  /* share of iterates with a gradient of exactly zero                  */
    int64_t forwards, backwards;
} l2l_result;

typedef struct l2l_evaluation {
    int images;
    double natural;         /* accuracy on clean images                                           */
    double worst;           /* share right on the clean image and under every attack so far       */
    int *labels, *clean;    /* per image: true class, prediction                                  */
    bool *right;            /* per image: right so far                                            */
    /* private */
    l2l_model *model;
    const l2l_dataset *data;
    l2l_evaluation_options options;
} l2l_evaluation;
L2LADVDEF bool l2l_evaluation_begin(l2l_model *m, const l2l_dataset *d,
                                    const l2l_evaluation_options *o, l2l_evaluation *e);
/* records: e->images of them, or NULL; adversarial: e->images images NxCxHxW, of the model's size,
   or NULL. */
L2LADVDEF bool l2l_evaluation_attack(l2l_evaluation *e, const l2l_attack *a, l2l_result *r,
                                     l2l_record *records, l2l_real *adversarial);
L2LADVDEF void l2l_evaluation_end(l2l_evaluation *e);

/* -- 2.14 Files ------------------------------------------------------------------------ >>files --
   Every loader distrusts its file: sizes are checked before memory is asked for. A failed load
   leaves a model or maximizer as it was, and a data set or array empty. Saving writes to a
   temporary file beside the target, checks it and renames it: a process killed at any time leaves
   the old file or the new one (a power failure is not covered: ISO C cannot flush a disk). The
   from-memory forms work under L2LADV_NO_STDIO. A data set borrows what it is made from in memory
   until l2l_dataset_free; bytes become [0,1] by v/255. */

/* IDX (the format of MNIST): images of unsigned bytes, rank 3 (or 4 with channels), and labels. */
L2LADVDEF bool l2l_dataset_idx_memory(l2l_context *c, const void *images, size_t image_bytes,
                                      const void *labels, size_t label_bytes, int classes,
                                      l2l_dataset *d);
/* CIFAR-10's binary form: n files of records of 3073 bytes, a label 0..9 and 3x32x32 pixels. */
L2LADVDEF bool l2l_dataset_cifar10_memory(l2l_context *c, const void *const *files,
                                          const size_t *bytes, int n, l2l_dataset *d);

/* Data sets larger than memory: n pairs of .npy arrays ("shards"), images of unsigned bytes (u1) as
   NxHxWxC or NxHxW, with H, W, C the same in all, and N labels 0..classes-1 of any integer type.
   Labels are read at once, images one at a time when they are fetched. `read_at` copies `bytes`
   bytes from `offset` on, false if it cannot. The sources are copied, their `user` is borrowed. */
typedef struct l2l_source {
    int64_t bytes;    /* length of the whole */
    bool (*read_at)(void *user, int64_t offset, void *to, size_t bytes);
    void *user;
} l2l_source;
L2LADVDEF bool l2l_dataset_shards_source(l2l_context *c, const l2l_source *images,
                                         const l2l_source *labels, int n, int classes,
                                         l2l_dataset *d);

/* Models as safetensors, with PyTorch's names and layouts, architecture in the metadata. Loading
   needs a model of the same architecture; entries that it does not have are counted in *extra,
   missing or mis-shaped ones are an error that names them. */
L2LADVDEF bool l2l_model_load_memory(l2l_model *m, const void *data, size_t bytes, int *extra);
/* *data is owned by the context's allocator: give it back with l2l_free. */
L2LADVDEF bool l2l_model_save_memory(const l2l_model *m, void **data, size_t *bytes);
L2LADVDEF bool l2l_learned_load_memory(l2l_learned *m, const void *data, size_t bytes);
L2LADVDEF bool l2l_learned_save_memory(const l2l_learned *m, void **data, size_t *bytes);
L2LADVDEF void l2l_free(l2l_context *c, void *memory);

/* .npy arrays: read from <f4, <f8, integers and booleans of any size and both byte orders, C order;
   written as <f4 or <i8. */
typedef struct l2l_array {
    int rank;
    int64_t shape[8];
    int64_t count;
    bool integer;     /* then `integers` holds the values, else `reals` */
    l2l_real *reals;
    int64_t *integers;
} l2l_array;
L2LADVDEF bool l2l_npy_load_memory(l2l_context *c, const void *data, size_t bytes, l2l_array *a);
L2LADVDEF void l2l_array_free(l2l_context *c, l2l_array *a);

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_dataset_idx(l2l_context *c, const char *images, const char *labels, int classes,
                               l2l_dataset *d);
L2LADVDEF bool l2l_dataset_cifar10(l2l_context *c, const char *const *paths, int n, l2l_dataset *d);
/* PREFIX-00000-images.npy with PREFIX-00000-labels.npy and so on, up to the first number of which
   there is nothing. The files of images stay open until l2l_dataset_free. */
L2LADVDEF bool l2l_dataset_shards(l2l_context *c, const char *prefix, int classes, l2l_dataset *d);
L2LADVDEF bool l2l_model_load(l2l_model *m, const char *path, int *extra);
L2LADVDEF bool l2l_model_save(const l2l_model *m, const char *path);
L2LADVDEF bool l2l_learned_load(l2l_learned *m, const char *path);
/* T and epsilon are what phi was trained with; they go into the file's metadata. */
L2LADVDEF bool l2l_learned_save(const l2l_learned *m, const char *path);
/* Makes a model (a maximizer) from a file's own metadata. */
L2LADVDEF l2l_model *l2l_model_open(l2l_context *c, const char *path);
L2LADVDEF l2l_learned *l2l_learned_open(l2l_context *c, const char *path);
L2LADVDEF bool l2l_npy_load(l2l_context *c, const char *path, l2l_array *a);
L2LADVDEF bool l2l_npy_save_reals(l2l_context *c, const char *path, const l2l_real *values,
                                  const int64_t *shape, int rank);
L2LADVDEF bool l2l_npy_save_integers(l2l_context *c, const char *path, const int64_t *values,
                                     const int64_t *shape, int rank);
#endif

#ifdef __cplusplus
}
#endif
#endif /* L2LADV_H */
#if defined(L2LADV_IMPLEMENTATION) && !defined(L2LADV_IMPLEMENTED) && !defined(L2L__LANES)

#ifndef L2LADV_NO_STDIO
#include <errno.h>
#include <stdio.h>
#endif
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#if defined(L2LADV_MALLOC) != defined(L2LADV_FREE)
#error "l2ladv: define both L2LADV_MALLOC and L2LADV_FREE, or neither"
#endif
#ifndef L2LADV_MALLOC
#include <stdlib.h>
#define L2LADV_MALLOC(size) malloc(size)
#define L2LADV_FREE(p) free(p)
#endif
#ifndef L2LADV_ASSERT
#define L2LADV_ASSERT(x) ((void)0)
#endif
#ifdef _OPENMP
#include <omp.h>
/* One macro for all pragmas: without OpenMP a bare one would be warned of. */
#define L2L__PRAGMA(x) _Pragma(#x)
#define L2L__PARALLEL(threads) L2L__PRAGMA(omp parallel for num_threads(threads) schedule(static))
#else
#define L2L__PARALLEL(threads) L2L__UNUSED(threads);
#endif
#define L2L__UNUSED(x) ((void)(x))

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================================ */
/*  3  ERRORS, MEMORY, RANDOM NUMBERS                                             >>foundation  */
/* ============================================================================================ */

struct l2l__kernels;                         /* chapter 4: the kernels of one instruction set     */
static const char *l2l__cpu_name(unsigned cpu);
typedef struct l2l__block l2l__block;
typedef struct l2l__chunk l2l__chunk;

struct l2l_context {
    l2l_allocator allocator;
    int threads;
    unsigned cpu;
    const struct l2l__kernels *kernels;
    l2l_status status;
    char text[512], description[128];
    size_t used, peak;                       /* bytes from the allocator                          */
    l2l__chunk *chunks;                      /* the arena                                         */
    l2l__block *newest, *free_blocks;
    uint64_t serial;
    size_t arena_size, arena_live, arena_peak;
    size_t arena_merged;                     /* arena_peak when the chunks were last made one     */
    l2l_tensor **tape;                       /* nodes in the order of their making                */
    int tape_length, tape_capacity;
    bool recording;
};

/* -- errors ------------------------------------------------------------------------------------ */

/* Writes `value` with up to `digits` significant digits (at most 17), the same in every locale. */
static size_t l2l__number(char *out, double value, int digits)
{
    char *o = out;
    char d[20] = {0};
    int e = 0, i, last;
    double scaled;
    if (value != value) { memcpy(out, "nan", 4); return 3; }
    if (value < 0) { *o++ = '-'; value = -value; }
    if (value > DBL_MAX) { memcpy(o, "inf", 4); return (size_t)(o - out) + 3; }
    if (value > 0) {
        e = (int)floor(log10(value));
        scaled = e < -300 ? value * 1e300 / pow(10.0, e + 300) : value / pow(10.0, e);
        if (scaled < 1) { scaled *= 10; e--; }
        scaled += 0.5 * pow(10.0, 1 - digits);
        if (scaled >= 10) { scaled /= 10; e++; }
    } else {
        scaled = 0;
    }
    for (i = 0, last = 0; i < digits; i++) {
        int digit = (int)scaled;
        if (digit > 9) digit = 9;
        d[i] = (char)('0' + digit);
        if (digit) last = i;
        scaled = (scaled - digit) * 10;
    }
    if (e < -5 || e >= digits) {             /* d.ddde+xx */
        *o++ = d[0];
        if (last) *o++ = '.';
        for (i = 1; i <= last; i++) *o++ = d[i];
        *o++ = 'e';
        if (e < 0) { *o++ = '-'; e = -e; }
        if (e >= 100) *o++ = (char)('0' + e / 100);
        if (e >= 10) *o++ = (char)('0' + e / 10 % 10);
        *o++ = (char)('0' + e % 10);
    } else {
        if (e < 0) {
            *o++ = '0'; *o++ = '.';
            for (i = -1; i > e; i--) *o++ = '0';
        }
        for (i = 0; i <= last || i <= e; i++) {
            *o++ = d[i];
            if (i == e && last > i) *o++ = '.';
        }
    }
    *o = 0;
    return (size_t)(o - out);
}

/* A small vsnprintf: %s string, %d int, %z int64_t, %g double; returns the untruncated length.
   It exists because stdio may be switched off and printf's %g follows the locale. */
static size_t l2l__vformat(char *out, size_t capacity, const char *format, va_list a)
{
    size_t n = 0;
    for (; *format; format++) {
        char buffer[40];
        const char *s = buffer;
        size_t length = 1, i;
        if (*format != '%') {
            buffer[0] = *format;
        } else if (*++format == 's') {
            s = va_arg(a, const char *);
            if (!s) s = "(none)";
            length = strlen(s);
        } else if (*format == 'g') {
            length = l2l__number(buffer, va_arg(a, double), 6);
        } else {
            int64_t v = *format == 'd' ? va_arg(a, int) : va_arg(a, int64_t);
            uint64_t u = v < 0 ? 0u - (uint64_t)v : (uint64_t)v;
            char *p = buffer + sizeof buffer;
            do { *--p = (char)('0' + u % 10); u /= 10; } while (u);
            if (v < 0) *--p = '-';
            s = p;
            length = (size_t)(buffer + sizeof buffer - p);
        }
        for (i = 0; i < length; i++, n++)
            if (n + 1 < capacity) out[n] = s[i];
    }
    if (capacity) out[n < capacity ? n : capacity - 1] = 0;
    return n;
}

static size_t l2l__format(char *out, size_t capacity, const char *format, ...)
{
    va_list a;
    size_t n;
    va_start(a, format);
    n = l2l__vformat(out, capacity, format, a);
    va_end(a);
    return n;
}

/* Keeps the first error. Always false, so that `return l2l__fail(...)` reads well. */
static bool l2l__fail(l2l_context *c, l2l_status status, const char *format, ...)
{
    if (!c->status) {
        va_list a;
        va_start(a, format);
        c->status = status;
        l2l__vformat(c->text, sizeof c->text, format, a);
        va_end(a);
    }
    return false;
}


L2LADVDEF l2l_status l2l_error(const l2l_context *c)
{
    return c ? c->status : L2L_ERROR_MEMORY;
}
L2LADVDEF const char *l2l_error_text(const l2l_context *c)
{
    return c ? c->text : "no context: out of memory";
}

L2LADVDEF void l2l_error_clear(l2l_context *c)
{
    c->status = L2L_OK;
    c->text[0] = 0;
}

L2LADVDEF void l2l_error_set(l2l_context *c, l2l_status status, const char *text)
{
    l2l__fail(c, status, "%s", text);
}

L2LADVDEF const char *l2l_status_name(l2l_status status)
{
    static const char *const names[] = {"ok", "out of memory", "bad argument", "shapes do not fit",
        "file error", "bad format", "settings differ", "not finite", "cancelled",
        "callback failed", "not supported"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

/* -- memory from the allocator ----------------------------------------------------------------- */

enum { L2L__ALIGN = 64 };                    /* a cache line, and the widest vector               */

/* *bytes = count * size, or an error. Every size that a caller or a file has a say in goes here. */
static bool l2l__bytes(l2l_context *c, int64_t count, size_t size, size_t *bytes)
{
    if (count < 0 || (uint64_t)count > (SIZE_MAX / 2) / size)
        return l2l__fail(c, L2L_ERROR_MEMORY, "%z elements of %d bytes do not fit into memory",
                         count, (int)size);
    *bytes = (size_t)count * size;
    return true;
}

typedef struct l2l__heap_header {
    void *raw;
    size_t size;
} l2l__heap_header;

/* Zeroed, aligned memory that lives until l2l_free; NULL and an error when there is none. */
static void *l2l__allocate(l2l_context *c, size_t size)
{
    char *raw, *p;
    l2l__heap_header h;
    if (c->status) return NULL;
    h.size = size + 2 * L2L__ALIGN;
    raw = h.size < size ? NULL : (char *)c->allocator.allocate(c->allocator.user, h.size);
    if (!raw) {
        l2l__fail(c, L2L_ERROR_MEMORY, "out of memory: %z bytes asked for, %z in use",
                  (int64_t)size, (int64_t)c->used);
        return NULL;
    }
    p = raw + 2 * L2L__ALIGN - (size_t)((uintptr_t)raw % L2L__ALIGN);
    h.raw = raw;
    memcpy(p - sizeof h, &h, sizeof h);
    memset(p, 0, size);
    c->used += h.size;
    if (c->used > c->peak) c->peak = c->used;
    return p;
}

static void *l2l__allocate_array(l2l_context *c, int64_t count, size_t size)
{
    size_t bytes = 0;
    return !c->status && l2l__bytes(c, count, size, &bytes) ? l2l__allocate(c, bytes) : NULL;
}

L2LADVDEF void l2l_free(l2l_context *c, void *memory)
{
    l2l__heap_header h;
    if (!memory) return;
    memcpy(&h, (char *)memory - sizeof h, sizeof h);
    c->used -= h.size;
    c->allocator.release(c->allocator.user, h.raw);
}

static char *l2l__copy_text(l2l_context *c, const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = (char *)l2l__allocate(c, n);
    if (copy) memcpy(copy, text, n);
    return copy;
}

L2LADVDEF size_t l2l_memory_used(const l2l_context *c) { return c->used; }
L2LADVDEF size_t l2l_memory_peak(const l2l_context *c) { return c->peak; }

/* -- the arena ----------------------------------------------------------------------------------
   Chunks from the allocator, cut into blocks; neighbours that are free are merged, and an
   allocation takes the free block that fits best. Live blocks form a list in the order of their
   making, which is what a mark cuts off. A few hundred blocks live at a time, so lists do. */
struct l2l__block {
    size_t size;                             /* with this header                                  */
    l2l__block *before;                      /* the block in front in memory, or NULL             */
    l2l__block *older, *newer;               /* live: by age; free: neighbours in the free list   */
    uint64_t serial;
    bool is_free, is_last;
};
struct l2l__chunk {
    l2l__chunk *next;
    size_t size;
};
enum { L2L__BLOCK = 64, L2L__CHUNK = 1 << 20 };

static void l2l__free_list_add(l2l_context *c, l2l__block *b)
{
    b->is_free = true;
    b->older = NULL;
    b->newer = c->free_blocks;
    if (c->free_blocks) c->free_blocks->older = b;
    c->free_blocks = b;
}

static void l2l__free_list_remove(l2l_context *c, l2l__block *b)
{
    if (b->older) b->older->newer = b->newer; else c->free_blocks = b->newer;
    if (b->newer) b->newer->older = b->older;
    b->is_free = false;
}

static l2l__block *l2l__block_after(l2l__block *b)
{
    return b->is_last ? NULL : (l2l__block *)(void *)((char *)b + b->size);
}

static l2l__block *l2l__arena_grow(l2l_context *c, size_t need)
{
    size_t size = need > c->arena_size / 4 ? need : c->arena_size / 4;
    l2l__chunk *chunk;
    l2l__block *b;
    if (size < L2L__CHUNK) size = L2L__CHUNK;
    chunk = (l2l__chunk *)l2l__allocate(c, size + L2L__ALIGN);
    if (!chunk && size > need) {             /* no room to grow ahead: just what is needed        */
        l2l_error_clear(c);
        chunk = (l2l__chunk *)l2l__allocate(c, (size = need) + L2L__ALIGN);
    }
    if (!chunk) return NULL;
    chunk->next = c->chunks;
    chunk->size = size;
    c->chunks = chunk;
    c->arena_size += size;
    b = (l2l__block *)(void *)((char *)chunk + L2L__ALIGN);
    b->size = size;
    b->before = NULL;
    b->is_last = true;
    l2l__free_list_add(c, b);
    return b;
}

/* Memory that lives until it is given back or a mark before it is released; not zeroed. */
static void *l2l__arena(l2l_context *c, size_t size)
{
    size_t need = (size + L2L__BLOCK + L2L__ALIGN - 1) / L2L__ALIGN * L2L__ALIGN;
    l2l__block *best = NULL, *b;
    if (c->status) return NULL;
    if (need < size) {
        l2l__fail(c, L2L_ERROR_MEMORY, "%z bytes do not fit into memory", (int64_t)size);
        return NULL;
    }
    for (b = c->free_blocks; b; b = b->newer)
        if (b->size >= need && (!best || b->size < best->size)) best = b;
    if (!best && !(best = l2l__arena_grow(c, need))) return NULL;
    l2l__free_list_remove(c, best);
    if (best->size - need >= 2 * L2L__BLOCK) {
        l2l__block *rest = (l2l__block *)(void *)((char *)best + need), *after;
        rest->size = best->size - need;
        rest->before = best;
        rest->is_last = best->is_last;
        best->size = need;
        best->is_last = false;
        after = l2l__block_after(rest);
        if (after) after->before = rest;
        l2l__free_list_add(c, rest);
    }
    best->serial = ++c->serial;
    best->older = c->newest;
    best->newer = NULL;
    if (c->newest) c->newest->newer = best;
    c->newest = best;
    c->arena_live += best->size;
    if (c->arena_live > c->arena_peak) c->arena_peak = c->arena_live;
    return (char *)best + L2L__BLOCK;
}

static void *l2l__arena_array(l2l_context *c, int64_t count, size_t size)
{
    size_t bytes = 0;
    return !c->status && l2l__bytes(c, count, size, &bytes) ? l2l__arena(c, bytes) : NULL;
}

static void l2l__arena_drop(l2l_context *c, void *memory)
{
    l2l__block *b, *n;
    if (!memory) return;
    b = (l2l__block *)(void *)((char *)memory - L2L__BLOCK);
    L2LADV_ASSERT(!b->is_free);
    c->arena_live -= b->size;
    if (b->older) b->older->newer = b->newer;
    if (b->newer) b->newer->older = b->older; else c->newest = b->older;
    if ((n = l2l__block_after(b)) != NULL && n->is_free) {
        l2l__free_list_remove(c, n);
        b->size += n->size;
        b->is_last = n->is_last;
    }
    if ((n = b->before) != NULL && n->is_free) {
        l2l__free_list_remove(c, n);
        n->size += b->size;
        n->is_last = b->is_last;
        b = n;
    }
    if ((n = l2l__block_after(b)) != NULL) n->before = b;
    l2l__free_list_add(c, b);
}

static void l2l__arena_free_chunks(l2l_context *c)
{
    l2l__chunk *chunk = c->chunks, *next;
    for (; chunk; chunk = next) {
        next = chunk->next;
        l2l_free(c, chunk);
    }
    c->chunks = NULL;
    c->free_blocks = c->newest = NULL;
    c->arena_size = 0;
}

L2LADVDEF l2l_mark l2l_mark_here(const l2l_context *c)
{
    l2l_mark m;
    m.serial = c->serial;
    m.tape = c->tape_length;
    return m;
}

/* The nodes that a mark cuts off let go of their inputs, which may be older than the mark. */
static void l2l__cut_tape(l2l_context *c, int length)
{
    int i, j;
    for (i = length; i < c->tape_length; i++) {
        l2l_tensor *y = c->tape[i];
        for (j = 0; j < 8; j++)
            if (y->in[j] && y->in[j]->references > 1) y->in[j]->references--;
        if (y->base && y->base->references > 1) y->base->references--;
    }
    if (c->tape_length > length) c->tape_length = length;
}

L2LADVDEF void l2l_release(l2l_context *c, l2l_mark mark)
{
    l2l__cut_tape(c, mark.tape);
    while (c->newest && c->newest->serial > mark.serial)
        l2l__arena_drop(c, (char *)c->newest + L2L__BLOCK);
    if (!c->newest && c->chunks && c->chunks->next) {
        /* Empty, but in pieces: make it one, so that the next round finds the room in one place:
           somewhat more than ever lived at once or, where that did not do before (the room was in
           the wrong places), all there was. If that much is not to be had, pieces will do. */
        bool again = c->arena_merged == c->arena_peak;
        size_t size = again ? c->arena_size : c->arena_peak + c->arena_peak / 8;
        l2l_status status = c->status;
        c->arena_merged = c->arena_peak;
        l2l__arena_free_chunks(c);
        if (!status && !l2l__arena_grow(c, size)) l2l_error_clear(c);
    }
}

/* -- contexts ---------------------------------------------------------------------------------- */

static void *l2l__default_allocate(void *user, size_t size)
{
    L2L__UNUSED(user);
    return L2LADV_MALLOC(size);
}

static void l2l__default_release(void *user, void *memory)
{
    L2L__UNUSED(user);
    L2LADV_FREE(memory);
}

L2LADVDEF l2l_options l2l_options_default(void)
{
    l2l_options o;
    memset(&o, 0, sizeof o);
    o.cpu = L2L_CPU_DETECT;
    return o;
}

L2LADVDEF l2l_context *l2l_context_create(const l2l_options *options)
{
    l2l_allocator a = options->allocator;
    l2l_context *c;
    if (!a.allocate != !a.release) return NULL;
    if (!a.allocate) {
        a.allocate = l2l__default_allocate;
        a.release = l2l__default_release;
    }
    c = (l2l_context *)a.allocate(a.user, sizeof *c);
    if (!c) return NULL;
    memset(c, 0, sizeof *c);
    c->allocator = a;
    c->used = c->peak = sizeof *c;
    l2l_set_threads(c, options->threads);
    l2l_set_cpu(c, options->cpu);
    return c;
}

L2LADVDEF void l2l_context_free(l2l_context *c)
{
    if (!c) return;
    l2l__arena_free_chunks(c);
    l2l_free(c, c->tape);
    c->allocator.release(c->allocator.user, c);
}

L2LADVDEF int l2l_threads(const l2l_context *c) { return c->threads; }
L2LADVDEF unsigned l2l_cpu(const l2l_context *c) { return c->cpu; }

L2LADVDEF void l2l_set_threads(l2l_context *c, int threads)
{
#ifdef _OPENMP
    c->threads = threads > 0 ? (threads < 1024 ? threads : 1024) : omp_get_max_threads();
#else
    L2L__UNUSED(threads);
    c->threads = 1;
#endif
}

L2LADVDEF const char *l2l_describe(l2l_context *c)
{
    l2l__format(c->description, sizeof c->description, "l2ladv %s, %s, %s kernels, %d thread%s",
                L2LADV_VERSION, sizeof(l2l_real) == 4 ? "float" : "double", l2l__cpu_name(c->cpu),
                c->threads, c->threads == 1 ? "" : "s");
    return c->description;
}

static l2l_real l2l__sqrt(l2l_real x) { return (l2l_real)sqrt((double)x); }

/* -- random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) -------------------- */

static void l2l__philox(uint32_t x[4], uint32_t k0, uint32_t k1)
{
    int round;
    for (round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        uint32_t y0 = (uint32_t)(b >> 32) ^ x[1] ^ k0, y2 = (uint32_t)(a >> 32) ^ x[3] ^ k1;
        x[0] = y0; x[1] = (uint32_t)b; x[2] = y2; x[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* Four numbers at a time: the block-th four elements of the stream. */
static void l2l__random_four(const l2l_stream *s, uint32_t block, uint32_t x[4])
{
    x[0] = block;
    x[1] = s->image;
    x[2] = s->epoch;
    x[3] = s->step << 8 | (s->purpose & 255);
    l2l__philox(x, (uint32_t)s->seed, (uint32_t)(s->seed >> 32));
}

static double l2l__unit(uint32_t bits) { return (bits >> 8) * (1.0 / 16777216.0); }

/* Box-Muller on a pair; 1-u is never 0. */
static double l2l__normal_of(const uint32_t x[4], uint32_t element)
{
    const uint32_t *p = x + (element & 2);
    double r = sqrt(-2.0 * log(1.0 - l2l__unit(p[0]))), a = 6.283185307179586 * l2l__unit(p[1]);
    return r * (element & 1 ? sin(a) : cos(a));
}

L2LADVDEF uint32_t l2l_random_bits(const l2l_stream *s, uint32_t element)
{
    uint32_t x[4];
    l2l__random_four(s, element / 4, x);
    return x[element & 3];
}

L2LADVDEF double l2l_random_uniform(const l2l_stream *s, uint32_t element)
{
    return l2l__unit(l2l_random_bits(s, element));
}

L2LADVDEF double l2l_random_normal(const l2l_stream *s, uint32_t element)
{
    uint32_t x[4];
    l2l__random_four(s, element / 4, x);
    return l2l__normal_of(x, element);
}

static l2l_stream l2l__stream(uint64_t seed, uint32_t purpose, uint32_t epoch, uint32_t image,
                              uint32_t step)
{
    l2l_stream s;
    s.seed = seed; s.purpose = purpose; s.epoch = epoch; s.image = image; s.step = step;
    return s;
}

/* ============================================================================================ */
/*  4  KERNELS                                                                        >>kernels */
/* ============================================================================================

   All that is fast, and the only chapter with vector types and block sizes. Three layers:

     4.1  what a kernel gets; the table of kernels of one instruction set
     4.2  naive twins in plain C: what L2L_CPU_PLAIN, L2LADV_DOUBLE, L2LADV_NO_SIMD and other
          compilers use, and what the tests hold the fast ones against
     4.3  vector kernels, written once for any vector length. The header includes itself to compile
          them for each instruction set (the technique is Google Highway's), and the best one that
          the machine has is chosen at run time
     4.4  drivers: plain functions that cut the work into blocks, one or more for each thread

   Same bits: behind every output the order of additions depends on the layer's shape only. */

/* -- 4.1 what a kernel gets -------------------------------------------------------------------- */

/* x is nxhxwxc, y nxohxowxk, the weight khxkwxcxk; pooling has k = c and a square window kh. */
typedef struct l2l__geometry {
    int n, h, w, c, k, kh, kw, stride, padding, oh, ow;
} l2l__geometry;

/* y = relu(scale * (x - mean) + bias + residual), channel by channel; NULL is left out. */
typedef struct l2l__epilogue {
    const l2l_real *mean, *scale, *bias, *residual;
    bool relu;
} l2l__epilogue;

static l2l__epilogue l2l__epilogue_of(const l2l_real *mean, const l2l_real *scale,
                                      const l2l_real *bias, const l2l_real *residual, bool relu)
{
    l2l__epilogue e;
    e.mean = mean; e.scale = scale; e.bias = bias; e.residual = residual;
    e.relu = relu;
    return e;
}

enum {
    L2L__ROWS = 6,                           /* rows of a tile: pixels (or channels) at once      */
    L2L__SLAB = 256,                         /* depth of a pass: a panel of it stays in L1        */
    L2L__PIXELS = 96,                        /* pixels of a block: a multiple of L2L__ROWS        */
    L2L__FEW = 4                             /* channels up to which a kernel's line is one tap   */
};

typedef struct l2l__kernels {
    unsigned cpu;
    int columns;                             /* columns of a tile: two vectors                    */
    /* y[r][0..columns) (+)= sum over taps t, depth d of a[t*L2L__ROWS + r][first + d] *
       b[(t*step + d)*columns + ...]: b is a packed panel whose taps stand `step` rows apart. */
    void (*tile)(int rows, int taps, int depth, const l2l_real *const *a, int first,
                 const l2l_real *b, int step, l2l_real *const *y, bool accumulate);
    /* y[r*columns + ...] += sum over p < count of a[p*sa + r] * b[p*sb + ...] */
    void (*outer)(int rows, int count, const l2l_real *a, int64_t sa, const l2l_real *b, int64_t sb,
                  l2l_real *y);
    /* The epilogue of one pixel of n channels, whose residual begins at `from`. */
    void (*finish)(int n, const l2l_real *x, const l2l__epilogue *e, int64_t from, l2l_real *y);
    /* One pixel: out = t * scale, where t is dy, or 0 where gate <= 0. A gate of NULL is open. */
    void (*gate_scale)(int n, const l2l_real *dy, const l2l_real *gate, const l2l_real *scale,
                       l2l_real *out);
    /* Sums over pixels, for each channel: s0 += t, s1 += t * (x - mu); without dy t is x - mu. */
    void (*moments)(int pixels, int n, const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                    const l2l_real *mu, l2l_real *s0, l2l_real *s1);
    /* One pixel: out = a * t + b * (x - mu) + d, where mu, a, b, d stand in turn in `by`. */
    void (*combine)(int n, const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                    const l2l_real *by, l2l_real *out);
    void (*relu)(int64_t n, const l2l_real *x, l2l_real *y);
    void (*gate)(int64_t n, const l2l_real *dy, const l2l_real *y, l2l_real slope, l2l_real *out);
    void (*add)(int64_t n, const l2l_real *a, const l2l_real *b, l2l_real *out);
    void (*mul)(int64_t n, const l2l_real *a, const l2l_real *b, l2l_real *out);
    void (*axpb)(int64_t n, l2l_real a, const l2l_real *x, l2l_real b, l2l_real *out);
    void (*sign_step)(int64_t n, l2l_real alpha, const l2l_real *g, l2l_real *out);
    void (*project)(int64_t n, const l2l_real *z, const l2l_real *x, l2l_real epsilon,
                    l2l_real *out);
    /* One transform of Winograd's for n numbers of each point: from[i][0..n) to to[j][0..n); a
       target of NULL is left out. n is a multiple of half the columns. An epilogue (or NULL) for
       channels k0 and up of pixels in a tensor that begins at `base`. */
    void (*winograd)(int transform, int64_t n, const l2l_real *const *from, l2l_real *const *to,
                     const l2l__epilogue *e, int k0, const l2l_real *base);
    /* Output row oh of an image: the maxima, and at which pixels they stand. */
    void (*pool_row)(const l2l__geometry *g, const l2l_real *x, int oh, l2l_real *y, int *index);
} l2l__kernels;

/* Winograd's transforms along one side: outputs, and the lengths they lead from and to. */
enum {
    L2L__WIN_IN = 0,                         /* B^T d: f+2 to f+2, of the input                   */
    L2L__WIN_OUT,                            /* A^T m: f+2 to f, of the product                   */
    L2L__WIN_WEIGHT,                         /* G g: 3 to f+2, of the weight                      */
    L2L__WIN_GRAD,                           /* A y: f to f+2, of the output's gradient           */
    L2L__WIN_BACK,                           /* G^T u: f+2 to 3, to the weight's gradient         */
    L2L__WIN_F2 = 5                          /* added for f = 2; without it f = 4                 */
};

/* Packed copies of a parameter: [0] for the forward pass, [1] for the input gradient; [2] and [3]
   the same in Winograd's domain. They are made anew when `version`, which every writer of the
   parameter bumps, has moved on. */
typedef struct l2l__packed {
    uint64_t version;
    struct {
        l2l_real *panels;
        int64_t count;
        int rows, stride;                    /* of what was packed: a view may have another shape */
        uint64_t version;
        const struct l2l__kernels *kernels;
    } cache[4];
} l2l__packed;

static void l2l__packed_free(l2l_context *c, l2l__packed *p)
{
    int i;
    for (i = 0; p && i < 4; i++) {
        l2l_free(c, p->cache[i].panels);
        p->cache[i].panels = NULL;
        p->cache[i].count = 0;
    }
}

/* -- 4.2 naive twins --------------------------------------------------------------------------- */

static void l2l__naive_conv_pixel(const l2l__geometry *g, const l2l_real *x, const l2l_real *w,
                                  int oh, int ow, l2l_real *y)
{
    int i, j, c, k;
    for (k = 0; k < g->k; k++) y[k] = 0;
    for (i = 0; i < g->kh; i++)
        for (j = 0; j < g->kw; j++) {
            int ih = oh * g->stride + i - g->padding, iw = ow * g->stride + j - g->padding;
            const l2l_real *row = w + (int64_t)(i * g->kw + j) * g->c * g->k;
            if (ih < 0 || ih >= g->h || iw < 0 || iw >= g->w) continue;
            for (c = 0; c < g->c; c++, row += g->k) {
                l2l_real a = x[((int64_t)ih * g->w + iw) * g->c + c];
                for (k = 0; k < g->k; k++) y[k] += a * row[k];
            }
        }
}

static void l2l__finish_from(int first, int n, const l2l_real *x, const l2l__epilogue *e,
                             int64_t from, l2l_real *y)
{
    int k;
    for (k = first; k < n; k++) {
        l2l_real v = x[k];
        if (e->mean) v -= e->mean[k];
        if (e->scale) v *= e->scale[k];
        if (e->bias) v += e->bias[k];
        if (e->residual) v += e->residual[from + k];
        y[k] = e->relu && v < 0 ? 0 : v;
    }
}

static void l2l__naive_finish(int n, const l2l_real *x, const l2l__epilogue *e, int64_t from,
                              l2l_real *y)
{
    l2l__finish_from(0, n, x, e, from, y);
}

static void l2l__naive_gate_scale(int n, const l2l_real *dy, const l2l_real *gate,
                                  const l2l_real *scale, l2l_real *out)
{
    int k;
    for (k = 0; k < n; k++) out[k] = (gate && !(gate[k] > 0) ? 0 : dy[k]) * scale[k];
}

/* Channels first .. n-1 of the sums: the vector kernels leave the last ones to this. */
static void l2l__moments_from(int first, int pixels, int n, const l2l_real *dy,
                              const l2l_real *gate, const l2l_real *x, const l2l_real *mu,
                              l2l_real *s0, l2l_real *s1)
{
    int p, k;
    for (p = 0; p < pixels; p++)
        for (k = first; k < n; k++) {
            int64_t i = (int64_t)p * n + k;
            l2l_real d = x ? x[i] - mu[k] : 0, t = dy ? dy[i] : d;
            if (gate && !(gate[i] > 0)) t = 0;
            if (s0) s0[k] += t;
            if (s1) s1[k] += t * d;
        }
}

static void l2l__naive_moments(int pixels, int n, const l2l_real *dy, const l2l_real *gate,
                               const l2l_real *x, const l2l_real *mu, l2l_real *s0, l2l_real *s1)
{
    l2l__moments_from(0, pixels, n, dy, gate, x, mu, s0, s1);
}

static void l2l__combine_from(int first, int n, const l2l_real *dy, const l2l_real *gate,
                              const l2l_real *x, const l2l_real *by, l2l_real *out)
{
    int k;
    for (k = first; k < n; k++) {
        l2l_real t = gate && !(gate[k] > 0) ? 0 : dy[k];
        out[k] = by[n + k] * t + by[2 * n + k] * (x[k] - by[k]) + by[3 * n + k];
    }
}

static void l2l__naive_combine(int n, const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                               const l2l_real *by, l2l_real *out)
{
    l2l__combine_from(0, n, dy, gate, x, by, out);
}

static void l2l__naive_conv_forward(const l2l_context *ctx, const l2l__geometry *g,
                                    const l2l_real *x, const l2l_real *w, const l2l__epilogue *e,
                                    l2l_real *y)
{
    int64_t p, pixels = (int64_t)g->n * g->oh * g->ow;
    L2L__PARALLEL(ctx->threads)
    for (p = 0; p < pixels; p++) {
        int64_t n = p / g->ow / g->oh;
        l2l__naive_conv_pixel(g, x + n * g->h * g->w * g->c, w, (int)(p / g->ow % g->oh),
                              (int)(p % g->ow), y + p * g->k);
        l2l__naive_finish(g->k, y + p * g->k, e, p * g->k, y + p * g->k);
    }
}

/* The output coordinate that input coordinate i reaches through tap t; negative: none. */
static int l2l__reached(int i, int t, int stride, int padding, int outputs)
{
    int o = i + padding - t;
    if (stride == 1) return o < outputs ? o : -1;
    return o < 0 || o % stride || o / stride >= outputs ? -1 : o / stride;
}

static void l2l__naive_conv_input_gradient(const l2l_context *ctx, const l2l__geometry *g,
                                           const l2l_real *dy, const l2l_real *w, l2l_real *dx)
{
    int64_t p, pixels = (int64_t)g->n * g->h * g->w;
    L2L__PARALLEL(ctx->threads)
    for (p = 0; p < pixels; p++) {
        int64_t n = p / g->w / g->h;
        int i, j, c, k;
        for (c = 0; c < g->c; c++) {
            l2l_real sum = 0;
            for (i = 0; i < g->kh; i++)
                for (j = 0; j < g->kw; j++) {
                    int oh = l2l__reached((int)(p / g->w % g->h), i, g->stride, g->padding, g->oh);
                    int ow = l2l__reached((int)(p % g->w), j, g->stride, g->padding, g->ow);
                    int64_t d = ((n * g->oh + oh) * g->ow + ow) * g->k;
                    const l2l_real *row = w + ((int64_t)(i * g->kw + j) * g->c + c) * g->k;
                    for (k = 0; oh >= 0 && ow >= 0 && k < g->k; k++) sum += dy[d + k] * row[k];
                }
            dx[p * g->c + c] = sum;
        }
    }
}

static void l2l__naive_conv_weight_gradient(const l2l_context *ctx, const l2l__geometry *g,
                                            const l2l_real *x, const l2l_real *dy, l2l_real *dw)
{
    int64_t r, rows = (int64_t)g->kh * g->kw * g->c;
    L2L__PARALLEL(ctx->threads)
    for (r = 0; r < rows; r++) {             /* one row of the weight: a tap and an input channel */
        int i = (int)(r / g->c / g->kw), j = (int)(r / g->c % g->kw), c = (int)(r % g->c);
        l2l_real *out = dw + r * g->k;
        int n, oh, ow, k;
        for (k = 0; k < g->k; k++) out[k] = 0;
        for (n = 0; n < g->n; n++)
            for (oh = 0; oh < g->oh; oh++)
                for (ow = 0; ow < g->ow; ow++) {
                    int ih = oh * g->stride + i - g->padding, iw = ow * g->stride + j - g->padding;
                    const l2l_real *d = dy + (((int64_t)n * g->oh + oh) * g->ow + ow) * g->k;
                    l2l_real a;
                    if (ih < 0 || ih >= g->h || iw < 0 || iw >= g->w) continue;
                    a = x[(((int64_t)n * g->h + ih) * g->w + iw) * g->c + c];
                    for (k = 0; k < g->k; k++) out[k] += a * d[k];
                }
    }
}

static void l2l__naive_relu(int64_t n, const l2l_real *x, l2l_real *y)
{
    int64_t i;
    for (i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i]; /* not-a-number stays visible */
}

static void l2l__naive_gate(int64_t n, const l2l_real *dy, const l2l_real *y, l2l_real slope,
                            l2l_real *out)
{
    int64_t i;
    for (i = 0; i < n; i++) out[i] = y[i] > 0 ? dy[i] : slope * dy[i];
}

static void l2l__naive_add(int64_t n, const l2l_real *a, const l2l_real *b, l2l_real *out)
{
    int64_t i;
    for (i = 0; i < n; i++) out[i] = a[i] + b[i];
}

static void l2l__naive_mul(int64_t n, const l2l_real *a, const l2l_real *b, l2l_real *out)
{
    int64_t i;
    for (i = 0; i < n; i++) out[i] = a[i] * b[i];
}

static void l2l__naive_axpb(int64_t n, l2l_real a, const l2l_real *x, l2l_real b, l2l_real *out)
{
    int64_t i;
    for (i = 0; i < n; i++) {
        l2l_real t = a * x[i];
        out[i] = t + b;
    }
}

static void l2l__naive_sign_step(int64_t n, l2l_real alpha, const l2l_real *g, l2l_real *out)
{
    int64_t i;
    for (i = 0; i < n; i++) out[i] = g[i] > 0 ? alpha : g[i] < 0 ? -alpha : 0;
}

/* The bounds of the projection, rounded in one place. */
static l2l_real l2l__low(l2l_real x, l2l_real epsilon) { return x - epsilon > 0 ? x - epsilon : 0; }
static l2l_real l2l__high(l2l_real x, l2l_real epsilon)
{
    return x + epsilon < 1 ? x + epsilon : 1;
}

static void l2l__naive_project(int64_t n, const l2l_real *z, const l2l_real *x, l2l_real epsilon,
                               l2l_real *out)
{
    int64_t i;
    for (i = 0; i < n; i++) {
        l2l_real low = l2l__low(x[i], epsilon), high = l2l__high(x[i], epsilon), v = z[i];
        v = v < low ? low : v;
        out[i] = v > high ? high : v;
    }
}

/* Lines first .. last-1 of a window that lie inside the image. */
static void l2l__window(int at, int window, int padding, int size, int *first, int *last)
{
    *first = at < padding ? padding - at : 0;
    *last = at - padding + window > size ? size - at + padding : window;
}

/* Channels `from` and up. Padding counts as -inf: those places are skipped. */
static void l2l__pool_from(int from, const l2l__geometry *g, const l2l_real *x, int oh, l2l_real *y,
                           int *index)
{
    int ow, i, j, k, i0, i1, j0, j1, h = oh * g->stride, w;
    l2l__window(h, g->kh, g->padding, g->h, &i0, &i1);
    for (ow = 0; ow < g->ow; ow++) {
        w = ow * g->stride;
        l2l__window(w, g->kw, g->padding, g->w, &j0, &j1);
        for (k = from; k < g->c; k++) {
            int best = (h + i0 - g->padding) * g->w + w + j0 - g->padding;
            for (i = i0; i < i1; i++)
                for (j = j0; j < j1; j++) {
                    int place = (h + i - g->padding) * g->w + w + j - g->padding;
                    l2l_real v = x[(int64_t)place * g->c + k];
                    if (v > x[(int64_t)best * g->c + k] || v != v) best = place;
                }
            y[(int64_t)ow * g->c + k] = x[(int64_t)best * g->c + k];
            index[(int64_t)ow * g->c + k] = best;
        }
    }
}

static void l2l__naive_pool_row(const l2l__geometry *g, const l2l_real *x, int oh, l2l_real *y,
                                int *index)
{
    l2l__pool_from(0, g, x, oh, y, index);
}

static const l2l__kernels l2l__naive_kernels = {L2L_CPU_PLAIN,
                                                1,
                                                NULL,
                                                NULL,
                                                l2l__naive_finish,
                                                l2l__naive_gate_scale,
                                                l2l__naive_moments,
                                                l2l__naive_combine,
                                                l2l__naive_relu,
                                                l2l__naive_gate,
                                                l2l__naive_add,
                                                l2l__naive_mul,
                                                l2l__naive_axpb,
                                                l2l__naive_sign_step,
                                                l2l__naive_project,
                                                NULL,
                                                l2l__naive_pool_row};

/* -- the cell of the learned maximizer ------------------------------------------------ >>cell --
   Chapter 9's kernels. All coordinates share one small network, so it runs on blocks of L2L__COORDS
   of them: a row is one number for each coordinate of the block, and a weight meets a whole row.
   The cell reads the rows z_t = (1, h_t, inputs); its bias is the weight of the 1.

       LSTM   i, f, o = sigmoid and g = tanh of the four quarters of W z_t (in the order i f g o),
              c_{t+1} = f c_t + i g,   h_{t+1} = o tanh(c_{t+1})
       RNN    h_{t+1} = tanh(W z_t)
       both   y_t = tanh(w_out (1, h_{t+1})), or without the tanh;   delta_t = scale y_t

   The attack and the adjoint's second run call the same function, so they get the same bits. */
#define L2L__COORDS 16

typedef struct l2l__cell {
    bool lstm, squash;           /* squash: y is a tanh                                           */
    int hidden, inputs;          /* H, I                                                          */
    int gates, columns;          /* G = 4H or H rows and Z = 1+H+I columns of W                   */
    l2l_real *w, *w_out;         /* GxZ and 1+H                                                   */
    l2l_real scale;
} l2l__cell;

typedef struct l2l__cell_step {  /* one step of one block; how many rows each                     */
    l2l_real *z, *c;             /* Z: 1, h_t, inputs;  H: c_t                                    */
    l2l_real *gates, *tanh_c;    /* G: activated;  H                                              */
    l2l_real *h_next, *c_next;   /* H each; may be where h_t and c_t are                          */
    l2l_real *y, *delta;         /* 1 each                                                        */
} l2l__cell_step;

typedef struct l2l__cell_kernels {
    int lanes;                   /* partial sums that `accumulate` keeps of each number           */
    void (*forward)(const l2l__cell *m, const l2l__cell_step *s);
    /* From u_t = dL/d delta_t back to everything before it. dh and dc hold dL/dh_{t+1} and
       dL/dc_{t+1} and get those of t; of dh the first `wanted` rows are made: H, or none, or with
       the cotangents of the inputs behind them H+I. gates and y are replaced by the cotangents of
       W z_t and of the output before its tanh. */
    void (*backward)(const l2l__cell *m, const l2l__cell_step *s, const l2l_real *u, l2l_real *dh,
                     l2l_real *dc, int wanted);
    /* sums[row][column][lane] += d[t][row] z[t][column], over t and the block's coordinates. */
    void (*accumulate)(int rows, int columns, int T, const l2l_real *d, int d_step,
                       const l2l_real *z, int z_step, l2l_real *sums);
} l2l__cell_kernels;

/* The plain twin. */
static l2l_real l2l__cell_tanh(l2l_real x) { return (l2l_real)tanh((double)x); }
static l2l_real l2l__cell_sigmoid(l2l_real x) { return (l2l_real)(1 / (1 + exp(-(double)x))); }

/* y = W z: y[r] = sum over k of w[r*row + k*column] z[k], for rows of a block. */
static void l2l__cell_matrix(const l2l_real *w, int row, int column, int rows, int columns,
                             const l2l_real *z, l2l_real *y)
{
    int r, k, l;
    for (r = 0; r < rows; r++, y += L2L__COORDS) {
        for (l = 0; l < L2L__COORDS; l++) y[l] = 0;
        for (k = 0; k < columns; k++)
            for (l = 0; l < L2L__COORDS; l++)
                y[l] += w[r * row + k * column] * z[k * L2L__COORDS + l];
    }
}

static void l2l__cell_forward(const l2l__cell *m, const l2l__cell_step *s)
{
    int n = m->hidden * L2L__COORDS, p, k, l;
    l2l__cell_matrix(m->w, m->columns, 1, m->gates, m->columns, s->z, s->gates);
    for (p = 0; p < n; p++)
        if (m->lstm) {
            l2l_real *q = s->gates + p;      /* i, f, g, o are n numbers apart                    */
            q[0] = l2l__cell_sigmoid(q[0]);
            q[n] = l2l__cell_sigmoid(q[n]);
            q[2 * n] = l2l__cell_tanh(q[2 * n]);
            q[3 * n] = l2l__cell_sigmoid(q[3 * n]);
            s->c_next[p] = q[n] * s->c[p] + q[0] * q[2 * n];
            s->tanh_c[p] = l2l__cell_tanh(s->c_next[p]);
            s->h_next[p] = q[3 * n] * s->tanh_c[p];
        } else {
            s->gates[p] = s->h_next[p] = l2l__cell_tanh(s->gates[p]);
        }
    for (l = 0; l < L2L__COORDS; l++) {
        l2l_real y = m->w_out[0];
        for (k = 0; k < m->hidden; k++) y += m->w_out[1 + k] * s->h_next[k * L2L__COORDS + l];
        s->y[l] = m->squash ? l2l__cell_tanh(y) : y;
        s->delta[l] = m->scale * s->y[l];
    }
}

static void l2l__cell_backward(const l2l__cell *m, const l2l__cell_step *s, const l2l_real *u,
                               l2l_real *dh, l2l_real *dc, int wanted)
{
    int n = m->hidden * L2L__COORDS, p, l;
    for (l = 0; l < L2L__COORDS; l++)
        s->y[l] = m->scale * u[l] * (m->squash ? 1 - s->y[l] * s->y[l] : 1);
    for (p = 0; p < n; p++) {
        l2l_real d = dh[p] + m->w_out[1 + p / L2L__COORDS] * s->y[p % L2L__COORDS];
        l2l_real *q = s->gates + p;
        if (m->lstm) {
            l2l_real i = q[0], f = q[n], g = q[2 * n], o = q[3 * n], tanh_c = s->tanh_c[p];
            l2l_real e = dc[p] + d * o * (1 - tanh_c * tanh_c); /* dL/dc_{t+1}, all of it         */
            q[0] = e * g * i * (1 - i);
            q[n] = e * s->c[p] * f * (1 - f);
            q[2 * n] = e * i * (1 - g * g);
            q[3 * n] = d * tanh_c * o * (1 - o);
            dc[p] = e * f;
        } else {
            *q = d * (1 - *q * *q);
        }
    }
    l2l__cell_matrix(m->w + 1, 1, m->columns, wanted, m->gates, s->gates, dh);
}

static void l2l__cell_accumulate(int rows, int columns, int T, const l2l_real *d, int d_step,
                                 const l2l_real *z, int z_step, l2l_real *sums)
{
    int t, r, k, l;
    for (t = 0; t < T; t++, d += d_step, z += z_step)
        for (r = 0; r < rows; r++)
            for (k = 0; k < columns; k++)
                for (l = 0; l < L2L__COORDS; l++)
                    sums[r * columns + k] += d[r * L2L__COORDS + l] * z[k * L2L__COORDS + l];
}

static const l2l__cell_kernels l2l__cell_plain = {
    1, l2l__cell_forward, l2l__cell_backward, l2l__cell_accumulate};
/* -- 4.3 vector kernels ------------------------------------------------------------------------ */

#if (defined(__GNUC__) || defined(__clang__)) && !defined(L2LADV_DOUBLE) && !defined(L2LADV_NO_SIMD)
#if defined(__x86_64__) || defined(__i386__)
#define L2L__X86
#define L2L__VECTORS
#elif defined(__ARM_NEON)
#define L2L__VECTORS
#endif
#endif

#ifdef L2L__VECTORS
#ifndef L2LADV_HEADER
#define L2LADV_HEADER "l2ladv.h"
#endif
#ifdef __has_include
#if !__has_include(L2LADV_HEADER)
#error "l2ladv includes itself: define L2LADV_HEADER as its name in quotes, or L2LADV_NO_SIMD"
#endif
#endif
#define L2L__PASTE2(a, b) a##_##b
#define L2L__PASTE(a, b) L2L__PASTE2(a, b)
#define L2L__INLINE static inline __attribute__((always_inline)) L2L__TARGET L2L__MAYBE_UNUSED
#define L2L__KERNEL static __attribute__((noinline)) L2L__TARGET
#ifdef __cplusplus
}
#endif
#ifdef L2L__X86
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif
#ifdef __cplusplus
extern "C" {
#endif

#ifdef L2L__X86
#define L2L__LANES 4
#define L2L__SUFFIX sse2
#define L2L__TARGET __attribute__((target("sse2")))
#include L2LADV_HEADER
#define L2L__LANES 8
#define L2L__SUFFIX avx2
#define L2L__TARGET __attribute__((target("avx2,fma")))
#include L2LADV_HEADER
#define L2L__LANES 16
#define L2L__SUFFIX avx512
#define L2L__TARGET __attribute__((target("avx512f,avx2,fma")))
#include L2LADV_HEADER
#else
#define L2L__LANES 4
#define L2L__SUFFIX neon
#define L2L__TARGET
#include L2LADV_HEADER
#endif
#endif /* L2L__VECTORS */

#endif /* the part that is read once goes on below */

#ifdef L2L__LANES /* from here to the next #endif: once for each instruction set */

#define L2L__NAME(x) L2L__PASTE(l2l__##x, L2L__SUFFIX)
#define L2L__V L2L__NAME(v)
#define L2L__I L2L__NAME(i)

typedef float L2L__V __attribute__((vector_size(4 * L2L__LANES), aligned(4), may_alias));
typedef int L2L__I __attribute__((vector_size(4 * L2L__LANES), aligned(4), may_alias));

L2L__INLINE L2L__V L2L__NAME(load)(const float *p) { return *(const L2L__V *)(const void *)p; }
L2L__INLINE void L2L__NAME(store)(float *p, L2L__V x) { *(L2L__V *)(void *)p = x; }
L2L__INLINE L2L__V L2L__NAME(all)(float x)
{
#if L2L__LANES == 16
    return (L2L__V)_mm512_set1_ps(x);
#elif L2L__LANES == 8
    return (L2L__V)_mm256_set1_ps(x);
#else
    L2L__V v = {x, x, x, x};
    return v;
#endif
}

/* a*b + c, in one rounding where the machine can (gcc -std=c99 does not contract by itself). */
L2L__INLINE L2L__V L2L__NAME(fma)(L2L__V a, L2L__V b, L2L__V c)
{
#if L2L__LANES == 16
    return (L2L__V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif L2L__LANES == 8
    return (L2L__V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_FMA)
    return (L2L__V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* yes where the mask is set, no elsewhere */
L2L__INLINE L2L__V L2L__NAME(pick)(L2L__I mask, L2L__V yes, L2L__V no)
{
    return (L2L__V)((mask & (L2L__I)yes) | (~mask & (L2L__I)no));
}

/* The epilogue for channels k.. of the pixel whose numbers stand at `at` in the residual. */
L2L__INLINE L2L__V L2L__NAME(epilogue)(L2L__V v, const l2l__epilogue *e, int64_t k, int64_t at)
{
    if (e->mean) v -= L2L__NAME(load)(e->mean + k);
    if (e->scale) v *= L2L__NAME(load)(e->scale + k);
    if (e->bias) v += L2L__NAME(load)(e->bias + k);
    if (e->residual) v += L2L__NAME(load)(e->residual + at);
    return e->relu ? (L2L__V)((L2L__I)v & ~(v < L2L__NAME(all)(0))) : v;
}

/* The tile: 6 rows x 2 vectors of accumulators, kept in registers under their own names (compilers
   do not reliably do that for an array). `rows` is a constant after inlining. */
#define L2L__EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)

L2L__INLINE void L2L__NAME(tile_rows)(const int rows, int taps, int depth, const float *const *a,
                                      int first, const float *b, int step, float *const *y,
                                      bool accumulate)
{
    enum { L = L2L__LANES };
    const L2L__V zero = L2L__NAME(all)(0);
    int t, d;
#define X(r) L2L__V s##r = zero, u##r = zero;
    L2L__EACH_ROW(X)
#undef X
    if (accumulate) {
#define X(r) if (rows > r) { s##r = L2L__NAME(load)(y[r]); u##r = L2L__NAME(load)(y[r] + L); }
        L2L__EACH_ROW(X)
#undef X
    }
    for (t = 0; t < taps; t++, a += L2L__ROWS) {
        const float *p = b + (int64_t)t * step * 2 * L;
#define X(r) const float *a##r = a[rows > r ? r : 0] + first;
        L2L__EACH_ROW(X)
#undef X
        for (d = 0; d < depth; d++, p += 2 * L) {
            L2L__V b0 = L2L__NAME(load)(p), b1 = L2L__NAME(load)(p + L), v;
#define X(r)                                                                                       \
    if (rows > r) {                                                                                \
        v = L2L__NAME(all)(a##r[d]);                                                               \
        s##r = L2L__NAME(fma)(v, b0, s##r);                                                        \
        u##r = L2L__NAME(fma)(v, b1, u##r);                                                        \
    }
            L2L__EACH_ROW(X)
#undef X
        }
        (void)a1; (void)a2; (void)a3; (void)a4; (void)a5;
    }
#define X(r) if (rows > r) { L2L__NAME(store)(y[r], s##r); L2L__NAME(store)(y[r] + L, u##r); }
    L2L__EACH_ROW(X)
#undef X
}

L2L__KERNEL void L2L__NAME(tile)(int rows, int taps, int depth, const float *const *a, int first,
                                 const float *b, int step, float *const *y, bool accumulate)
{
    switch (rows) {
    case 6: L2L__NAME(tile_rows)(6, taps, depth, a, first, b, step, y, accumulate); break;
    case 5: L2L__NAME(tile_rows)(5, taps, depth, a, first, b, step, y, accumulate); break;
    case 4: L2L__NAME(tile_rows)(4, taps, depth, a, first, b, step, y, accumulate); break;
    case 3: L2L__NAME(tile_rows)(3, taps, depth, a, first, b, step, y, accumulate); break;
    case 2: L2L__NAME(tile_rows)(2, taps, depth, a, first, b, step, y, accumulate); break;
    default: L2L__NAME(tile_rows)(1, taps, depth, a, first, b, step, y, accumulate);
    }
}

/* The same tile for weight gradients: the rows are neighbours in a, the sum runs over pixels. */
L2L__INLINE void L2L__NAME(outer_rows)(const int rows, int count, const float *a, int64_t sa,
                                       const float *b, int64_t sb, float *y)
{
    enum { L = L2L__LANES };
    const L2L__V zero = L2L__NAME(all)(0);
    int p;
#define X(r) L2L__V s##r = zero, u##r = zero;
    L2L__EACH_ROW(X)
#undef X
#define X(r)                                                                                       \
    if (rows > r) {                                                                                \
        s##r = L2L__NAME(load)(y + 2 * L * r);                                                     \
        u##r = L2L__NAME(load)(y + 2 * L * r + L);                                                 \
    }
    L2L__EACH_ROW(X)
#undef X
    for (p = 0; p < count; p++, a += sa, b += sb) {
        L2L__V b0 = L2L__NAME(load)(b), b1 = L2L__NAME(load)(b + L), v;
#define X(r)                                                                                       \
    if (rows > r) {                                                                                \
        v = L2L__NAME(all)(a[r]);                                                                  \
        s##r = L2L__NAME(fma)(v, b0, s##r);                                                        \
        u##r = L2L__NAME(fma)(v, b1, u##r);                                                        \
    }
        L2L__EACH_ROW(X)
#undef X
    }
#define X(r)                                                                                       \
    if (rows > r) {                                                                                \
        L2L__NAME(store)(y + 2 * L * r, s##r);                                                     \
        L2L__NAME(store)(y + 2 * L * r + L, u##r);                                                 \
    }
    L2L__EACH_ROW(X)
#undef X
}

L2L__KERNEL void L2L__NAME(outer)(int rows, int count, const float *a, int64_t sa, const float *b,
                                  int64_t sb, float *y)
{
    switch (rows) {
    case 6: L2L__NAME(outer_rows)(6, count, a, sa, b, sb, y); break;
    case 5: L2L__NAME(outer_rows)(5, count, a, sa, b, sb, y); break;
    case 4: L2L__NAME(outer_rows)(4, count, a, sa, b, sb, y); break;
    case 3: L2L__NAME(outer_rows)(3, count, a, sa, b, sb, y); break;
    case 2: L2L__NAME(outer_rows)(2, count, a, sa, b, sb, y); break;
    default: L2L__NAME(outer_rows)(1, count, a, sa, b, sb, y);
    }
}

/* Elementwise: whole vectors, then the naive twin on the rest. Same arithmetic, same bits. */
#define L2L__WHOLE(n) ((n) / L2L__LANES * L2L__LANES)

L2L__KERNEL void L2L__NAME(finish)(int n, const float *x, const l2l__epilogue *e, int64_t from,
                                   float *y)
{
    int k, whole = L2L__WHOLE(n);
    for (k = 0; k < whole; k += L2L__LANES)
        L2L__NAME(store)(y + k, L2L__NAME(epilogue)(L2L__NAME(load)(x + k), e, k, from + k));
    if (whole < n) l2l__finish_from(whole, n, x, e, from, y);
}

/* dy where the gate is positive, else 0. */
L2L__INLINE L2L__V L2L__NAME(gated)(const float *dy, const float *gate)
{
    L2L__V t = L2L__NAME(load)(dy);
    return gate ? (L2L__V)((L2L__I)t & (L2L__NAME(load)(gate) > L2L__NAME(all)(0))) : t;
}

L2L__KERNEL void L2L__NAME(gate_scale)(int n, const float *dy, const float *gate,
                                       const float *scale, float *out)
{
    int k, whole = L2L__WHOLE(n);
    for (k = 0; k < whole; k += L2L__LANES)
        L2L__NAME(store)(out + k, L2L__NAME(gated)(dy + k, gate ? gate + k : NULL) *
                                      L2L__NAME(load)(scale + k));
    if (k < n) l2l__naive_gate_scale(n - k, dy + k, gate ? gate + k : NULL, scale + k, out + k);
}

L2L__KERNEL void L2L__NAME(moments)(int pixels, int n, const float *dy, const float *gate,
                                    const float *x, const float *mu, float *s0, float *s1)
{
    int p, k, whole = L2L__WHOLE(n);
    for (p = 0; p < pixels; p++)
        for (k = 0; k < whole; k += L2L__LANES) {
            int64_t i = (int64_t)p * n + k;
            L2L__V d = L2L__NAME(all)(0), t;
            if (x) d = L2L__NAME(load)(x + i) - L2L__NAME(load)(mu + k);
            t = d;
            if (dy) t = L2L__NAME(gated)(dy + i, gate ? gate + i : NULL);
            if (s0) L2L__NAME(store)(s0 + k, L2L__NAME(load)(s0 + k) + t);
            if (s1) L2L__NAME(store)(s1 + k, L2L__NAME(fma)(t, d, L2L__NAME(load)(s1 + k)));
        }
    if (whole < n) l2l__moments_from(whole, pixels, n, dy, gate, x, mu, s0, s1);
}

L2L__KERNEL void L2L__NAME(combine)(int n, const float *dy, const float *gate, const float *x,
                                    const float *by, float *out)
{
    int k, whole = L2L__WHOLE(n);
    for (k = 0; k < whole; k += L2L__LANES) {
        L2L__V t = L2L__NAME(gated)(dy + k, gate ? gate + k : NULL);
        L2L__V d = L2L__NAME(load)(x + k) - L2L__NAME(load)(by + k), v;
        v = L2L__NAME(fma)(L2L__NAME(load)(by + 2 * n + k), d, L2L__NAME(load)(by + 3 * n + k));
        L2L__NAME(store)(out + k, L2L__NAME(fma)(L2L__NAME(load)(by + n + k), t, v));
    }
    if (whole < n) l2l__combine_from(whole, n, dy, gate, x, by, out);
}

/* Winograd's transforms (Lavin and Gray 2016) of one line of at most six vectors, under their own
   names so that they stay in registers.
   F(4,3) interpolates at 0, +-a, +-b and infinity; a = 5/8, b = 3/2 are exact in binary, and their
   powers spread less than those of the usual 1, 2. F(2,3): 0, +-1, infinity. */
typedef struct L2L__NAME(six) {
    L2L__V s0, s1, s2, s3, s4, s5;
} L2L__NAME(six);

L2L__INLINE L2L__NAME(six) L2L__NAME(line)(const int transform, L2L__NAME(six) x)
{
#define X(i) x.s##i
#define Y(i) y.s##i
#define K(value) L2L__NAME(all)((float)(value))
#define FMA(a, b, c) L2L__NAME(fma)(a, b, c)
    const double a = 0.625, b = 1.5, aa = a * a, bb = b * b;
    const double n0 = 1 / (aa * bb), na = 1 / (2 * aa * (aa - bb)), nb = 1 / (2 * bb * (bb - aa));
    L2L__NAME(six) y = x;
    L2L__V e, o, p, q;
    switch (transform) {
    case L2L__WIN_IN:
        Y(0) = FMA(K(aa * bb), X(0), FMA(K(-aa - bb), X(2), X(4)));
        e = FMA(K(-bb), X(2), X(4));
        o = K(a) * FMA(K(-bb), X(1), X(3));
        p = FMA(K(-aa), X(2), X(4));
        q = K(b) * FMA(K(-aa), X(1), X(3));
        Y(5) = FMA(K(aa * bb), X(1), FMA(K(-aa - bb), X(3), X(5)));
        Y(1) = e + o;
        Y(2) = e - o;
        Y(3) = p + q;
        Y(4) = p - q;
        break;
    case L2L__WIN_OUT:
        e = X(1) + X(2);
        o = X(1) - X(2);
        p = X(3) + X(4);
        q = X(3) - X(4);
        Y(0) = X(0) + e + p;
        Y(1) = FMA(K(a), o, K(b) * q);
        Y(2) = FMA(K(aa), e, K(bb) * p);
        Y(3) = FMA(K(a * aa), o, FMA(K(b * bb), q, X(5)));
        break;
    case L2L__WIN_WEIGHT:
        e = K(na) * FMA(K(aa), X(2), X(0));
        o = K(na * a) * X(1);
        p = K(nb) * FMA(K(bb), X(2), X(0));
        q = K(nb * b) * X(1);
        Y(0) = K(n0) * X(0);
        Y(1) = e + o;
        Y(2) = e - o;
        Y(3) = p + q;
        Y(4) = p - q;
        Y(5) = X(2);
        break;
    case L2L__WIN_GRAD:
        e = FMA(K(aa), X(2), X(0));
        o = K(a) * FMA(K(aa), X(3), X(1));
        p = FMA(K(bb), X(2), X(0));
        q = K(b) * FMA(K(bb), X(3), X(1));
        Y(0) = X(0);
        Y(1) = e + o;
        Y(2) = e - o;
        Y(3) = p + q;
        Y(4) = p - q;
        Y(5) = X(3);
        break;
    case L2L__WIN_BACK:
        e = X(1) + X(2);
        o = X(1) - X(2);
        p = X(3) + X(4);
        q = X(3) - X(4);
        Y(0) = FMA(K(n0), X(0), FMA(K(na), e, K(nb) * p));
        Y(1) = FMA(K(na * a), o, K(nb * b) * q);
        Y(2) = FMA(K(na * aa), e, FMA(K(nb * bb), p, X(5)));
        break;
    case L2L__WIN_IN + L2L__WIN_F2:
        Y(0) = X(0) - X(2);
        e = X(1) + X(2);
        o = X(2) - X(1);
        Y(3) = X(1) - X(3);
        Y(1) = e;
        Y(2) = o;
        break;
    case L2L__WIN_OUT + L2L__WIN_F2:
        Y(0) = X(0) + X(1) + X(2);
        Y(1) = X(1) - X(2) - X(3);
        break;
    case L2L__WIN_WEIGHT + L2L__WIN_F2:
        e = K(0.5) * (X(0) + X(2));
        o = K(0.5) * X(1);
        Y(0) = X(0);
        Y(1) = e + o;
        Y(2) = e - o;
        Y(3) = X(2);
        break;
    case L2L__WIN_GRAD + L2L__WIN_F2:
        Y(0) = X(0);
        Y(1) = X(0) + X(1);
        Y(2) = X(0) - X(1);
        Y(3) = K(0) - X(1);
        break;
    default: /* L2L__WIN_BACK + L2L__WIN_F2 */
        e = K(0.5) * (X(1) + X(2));
        Y(0) = X(0) + e;
        Y(1) = K(0.5) * (X(1) - X(2));
        Y(2) = e + X(3);
    }
    return y;
#undef X
#undef Y
#undef K
#undef FMA
}

/* Both sides: all columns of the mxm numbers first, then all rows, to kxk. */
L2L__INLINE void L2L__NAME(square)(const int transform, const int m, const int k, int64_t n,
                                   const float *const *from, float *const *to,
                                   const l2l__epilogue *e, int k0, const float *base)
{
    L2L__V t[36];
    L2L__NAME(six) x;
    int64_t at;
    int i;
    x.s0 = x.s1 = x.s2 = x.s3 = x.s4 = x.s5 = L2L__NAME(all)(0);
    for (at = 0; at < n; at += L2L__LANES) {
        for (i = 0; i < m; i++) {
#define X(j) if (j < m) x.s##j = L2L__NAME(load)(from[j * m + i] + at);
            L2L__EACH_ROW(X)
#undef X
            x = L2L__NAME(line)(transform, x);
#define X(j) if (j < k) t[j * m + i] = x.s##j;
            L2L__EACH_ROW(X)
#undef X
        }
        for (i = 0; i < k; i++) {
#define X(j) if (j < m) x.s##j = t[i * m + j];
            L2L__EACH_ROW(X)
#undef X
            x = L2L__NAME(line)(transform, x);
#define X(j)                                                                                       \
    if (j < k && to[i * k + j]) {                                                                  \
        float *y = to[i * k + j] + at;                                                             \
        L2L__NAME(store)(y, e ? L2L__NAME(epilogue)(x.s##j, e, k0 + at, y - base) : x.s##j);       \
    }
            L2L__EACH_ROW(X)
#undef X
        }
    }
}

L2L__KERNEL void L2L__NAME(winograd)(int transform, int64_t n, const float *const *from,
                                     float *const *to, const l2l__epilogue *e, int k0,
                                     const float *base)
{
#define X(kind, m, k)                                                                              \
    case kind:                                                                                     \
        L2L__NAME(square)(kind, m, k, n, from, to, (kind) % 5 == L2L__WIN_OUT ? e : NULL, k0,      \
                          base);                                                                   \
        break;
    switch (transform) {
        X(L2L__WIN_IN, 6, 6)
        X(L2L__WIN_OUT, 6, 4)
        X(L2L__WIN_WEIGHT, 3, 6)
        X(L2L__WIN_GRAD, 4, 6)
        X(L2L__WIN_BACK, 6, 3)
        X(L2L__WIN_F2 + L2L__WIN_IN, 4, 4)
        X(L2L__WIN_F2 + L2L__WIN_OUT, 4, 2)
        X(L2L__WIN_F2 + L2L__WIN_WEIGHT, 3, 4)
        X(L2L__WIN_F2 + L2L__WIN_GRAD, 2, 4)
        X(L2L__WIN_F2 + L2L__WIN_BACK, 4, 3)
    }
#undef X
}
#undef L2L__EACH_ROW

L2L__KERNEL void L2L__NAME(relu)(int64_t n, const float *x, float *y)
{
    const L2L__V zero = L2L__NAME(all)(0);
    int64_t i, whole = L2L__WHOLE(n);
    for (i = 0; i < whole; i += L2L__LANES) {
        L2L__V v = L2L__NAME(load)(x + i);
        L2L__NAME(store)(y + i, (L2L__V)((L2L__I)v & ~(v < zero)));
    }
    l2l__naive_relu(n - i, x + i, y + i);
}

L2L__KERNEL void L2L__NAME(gate)(int64_t n, const float *dy, const float *y, float slope,
                                 float *out)
{
    const L2L__V zero = L2L__NAME(all)(0), s = L2L__NAME(all)(slope);
    int64_t i, whole = L2L__WHOLE(n);
    for (i = 0; i < whole; i += L2L__LANES) {
        L2L__V d = L2L__NAME(load)(dy + i);
        L2L__NAME(store)(out + i, L2L__NAME(pick)(L2L__NAME(load)(y + i) > zero, d, s * d));
    }
    l2l__naive_gate(n - i, dy + i, y + i, slope, out + i);
}

L2L__KERNEL void L2L__NAME(add)(int64_t n, const float *a, const float *b, float *out)
{
    int64_t i, whole = L2L__WHOLE(n);
    for (i = 0; i < whole; i += L2L__LANES)
        L2L__NAME(store)(out + i, L2L__NAME(load)(a + i) + L2L__NAME(load)(b + i));
    l2l__naive_add(n - i, a + i, b + i, out + i);
}

L2L__KERNEL void L2L__NAME(mul)(int64_t n, const float *a, const float *b, float *out)
{
    int64_t i, whole = L2L__WHOLE(n);
    for (i = 0; i < whole; i += L2L__LANES)
        L2L__NAME(store)(out + i, L2L__NAME(load)(a + i) * L2L__NAME(load)(b + i));
    l2l__naive_mul(n - i, a + i, b + i, out + i);
}

L2L__KERNEL void L2L__NAME(sign_step)(int64_t n, float alpha, const float *g, float *out)
{
    const L2L__V zero = L2L__NAME(all)(0), up = L2L__NAME(all)(alpha), down = zero - up;
    int64_t i, whole = L2L__WHOLE(n);
    for (i = 0; i < whole; i += L2L__LANES) {
        L2L__V v = L2L__NAME(load)(g + i);
        L2L__NAME(store)
        (out + i, (L2L__V)((((L2L__I)up) & (v > zero)) | (((L2L__I)down) & (v < zero))));
    }
    l2l__naive_sign_step(n - i, alpha, g + i, out + i);
}

L2L__KERNEL void L2L__NAME(project)(int64_t n, const float *z, const float *x, float epsilon,
                                    float *out)
{
    const L2L__V zero = L2L__NAME(all)(0), one = L2L__NAME(all)(1), e = L2L__NAME(all)(epsilon);
    int64_t i, whole = L2L__WHOLE(n);
    for (i = 0; i < whole; i += L2L__LANES) {
        L2L__V c = L2L__NAME(load)(x + i), v = L2L__NAME(load)(z + i), low = c - e, high = c + e;
        low = L2L__NAME(pick)(low > zero, low, zero);
        high = L2L__NAME(pick)(high < one, high, one);
        v = L2L__NAME(pick)(v < low, low, v);
        L2L__NAME(store)(out + i, L2L__NAME(pick)(v > high, high, v));
    }
    l2l__naive_project(n - i, z + i, x + i, epsilon, out + i);
}

L2L__KERNEL void L2L__NAME(pool_row)(const l2l__geometry *g, const float *x, int oh, float *y,
                                     int *index)
{
    int ow, k, i, j, i0, i1, j0, j1, h = oh * g->stride - g->padding, whole = L2L__WHOLE(g->c);
    l2l__window(oh * g->stride, g->kh, g->padding, g->h, &i0, &i1);
    for (ow = 0; ow < g->ow; ow++) {
        int w = ow * g->stride - g->padding;
        l2l__window(ow * g->stride, g->kw, g->padding, g->w, &j0, &j1);
        for (k = 0; k < whole; k += L2L__LANES) {
            int first = (h + i0) * g->w + w + j0;
            L2L__V best = L2L__NAME(load)(x + (int64_t)first * g->c + k);
            L2L__I place = {0};
            place += first;
            for (i = i0; i < i1; i++)
                for (j = j0; j < j1; j++) {
                    int at = (h + i) * g->w + w + j;
                    L2L__V v = L2L__NAME(load)(x + (int64_t)at * g->c + k);
                    L2L__I there = {0}, wins = (v > best) | (v != v);
                    there += at;
                    best = L2L__NAME(pick)(wins, v, best);
                    place = (wins & there) | (~wins & place);
                }
            L2L__NAME(store)(y + (int64_t)ow * g->c + k, best);
            *(L2L__I *)(void *)(index + (int64_t)ow * g->c + k) = place;
        }
    }
    if (whole < g->c) l2l__pool_from(whole, g, x, oh, y, index);
}

static const l2l__kernels L2L__NAME(kernels) = {
    L2L__LANES == 4 ? L2L_CPU_VECTOR : L2L__LANES == 8 ? L2L_CPU_AVX2 : L2L_CPU_AVX512,
    2 * L2L__LANES, L2L__NAME(tile), L2L__NAME(outer), L2L__NAME(finish), L2L__NAME(gate_scale),
    L2L__NAME(moments), L2L__NAME(combine), L2L__NAME(relu), L2L__NAME(gate), L2L__NAME(add),
    L2L__NAME(mul), l2l__naive_axpb, L2L__NAME(sign_step), L2L__NAME(project),
    L2L__NAME(winograd), L2L__NAME(pool_row)
};

/* -- the cell of the learned maximizer, in vectors of coordinates ------------------------------ */

/* x cut to -most .. most; not-a-number stays visible. */
L2L__INLINE L2L__V L2L__NAME(cut)(L2L__V x, float most)
{
    const L2L__V high = L2L__NAME(all)(most), low = L2L__NAME(all)(-most);
#if L2L__LANES == 16
    const __mmask16 every = 0xffff;          /* g++ 12 warns of what the unmasked form contains   */
    return (L2L__V)_mm512_maskz_max_ps(every, (__m512)low,
                                       _mm512_maskz_min_ps(every, (__m512)high, (__m512)x));
#elif L2L__LANES == 8
    return (L2L__V)_mm256_max_ps((__m256)low, _mm256_min_ps((__m256)high, (__m256)x));
#elif defined(L2L__X86)
    return (L2L__V)_mm_max_ps((__m128)low, _mm_min_ps((__m128)high, (__m128)x));
#else
    return (L2L__V)vmaxq_f32((float32x4_t)low, vminq_f32((float32x4_t)high, (float32x4_t)x));
#endif
}

/* tanh(x) = p/q: odd and even, of degree 9 and 8, fitted for this file to a relative 6e-9 where |x|
   is at most 7.9; beyond, tanh is 1 up to rounding and x is cut. In float 3.3e-7 off at most. */
L2L__INLINE void L2L__NAME(tanh_parts)(L2L__V x, L2L__V *p, L2L__V *q)
{
    const L2L__V one = L2L__NAME(all)(1);
    L2L__V s, a, b;
    x = L2L__NAME(cut)(x, 7.9f);
    s = x * x;
    a = L2L__NAME(fma)(s, L2L__NAME(all)(1.5427961e-8f), L2L__NAME(all)(2.2023236e-5f));
    b = L2L__NAME(fma)(s, L2L__NAME(all)(8.5987756e-7f), L2L__NAME(all)(3.4236498e-4f));
    a = L2L__NAME(fma)(s, a, L2L__NAME(all)(3.5789916e-3f));
    b = L2L__NAME(fma)(s, b, L2L__NAME(all)(2.6192237e-2f));
    a = L2L__NAME(fma)(s, a, L2L__NAME(all)(1.345062e-1f));
    b = L2L__NAME(fma)(s, b, L2L__NAME(all)(4.6783948e-1f));
    *p = L2L__NAME(fma)(s, a, one) * x;
    *q = L2L__NAME(fma)(s, b, one);
}

L2L__INLINE L2L__V L2L__NAME(tanh)(L2L__V x)
{
    L2L__V p, q;
    L2L__NAME(tanh_parts)(x, &p, &q);
    return p / q;
}

/* y = W z, a tile of up to 10 rows by one vector in registers; compare l2l__cell_matrix. */
#define L2L__EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)

L2L__INLINE void L2L__NAME(cell_tile)(const int rows, const float *w, int row, int column,
                                      int columns, const float *z, float *y)
{
    int k;
#define X(r) L2L__V s##r = L2L__NAME(all)(0); const float *w##r = w + (rows > r ? r : 0) * row;
    L2L__EACH_ROW(X)
#undef X
    for (k = 0; k < columns; k++, z += L2L__COORDS) {
        const L2L__V v = L2L__NAME(load)(z);
#define X(r) if (rows > r) s##r = L2L__NAME(fma)(L2L__NAME(all)(w##r[k * column]), v, s##r);
        L2L__EACH_ROW(X)
#undef X
    }
#define X(r) if (rows > r) L2L__NAME(store)(y + r * L2L__COORDS, s##r);
    L2L__EACH_ROW(X)
#undef X
    (void)w1; (void)w2; (void)w3; (void)w4; (void)w5; (void)w6; (void)w7; (void)w8; (void)w9;
}

L2L__INLINE void L2L__NAME(cell_matrix)(const float *w, int row, int column, int rows, int columns,
                                        const float *z, float *y)
{
    int l, r;
    for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
        for (r = 0; r + 10 <= rows; r += 10)
            L2L__NAME(cell_tile)(10, w + r * row, row, column, columns, z + l,
                                 y + r * L2L__COORDS + l);
        for (; r + 4 <= rows; r += 4)
            L2L__NAME(cell_tile)(4, w + r * row, row, column, columns, z + l,
                                 y + r * L2L__COORDS + l);
        for (; r < rows; r++)
            L2L__NAME(cell_tile)(1, w + r * row, row, column, columns, z + l,
                                 y + r * L2L__COORDS + l);
    }
}
#undef L2L__EACH_ROW

/* The four gates and c of one unit, at p in its rows, which are n numbers apart. One division
   serves all four: 1/q_1 = 1/(q_1 q_2 q_3 q_4) (q_3 q_4) q_2, and so on; every q is in 1..230. */
L2L__INLINE void L2L__NAME(lstm_unit)(const l2l__cell_step *s, int n, int p)
{
    const L2L__V half = L2L__NAME(all)(0.5f);
    float *gate = s->gates + p;
    L2L__V pi, pf, pg, po, qi, qf, qg, qo, r, qif, qgo, i, f, g;
    L2L__NAME(tanh_parts)(half * L2L__NAME(load)(gate), &pi, &qi);
    L2L__NAME(tanh_parts)(half * L2L__NAME(load)(gate + n), &pf, &qf);
    L2L__NAME(tanh_parts)(L2L__NAME(load)(gate + 2 * n), &pg, &qg);
    L2L__NAME(tanh_parts)(half * L2L__NAME(load)(gate + 3 * n), &po, &qo);
    qif = qi * qf;
    qgo = qg * qo;
    r = L2L__NAME(all)(1) / (qif * qgo);
    qgo *= r;                                /* 1/(q_i q_f)                                       */
    qif *= r;                                /* 1/(q_g q_o)                                       */
    i = L2L__NAME(fma)(half, pi * (qgo * qf), half); /* sigmoid(x) = (1 + tanh(x/2)) / 2          */
    f = L2L__NAME(fma)(half, pf * (qgo * qi), half);
    g = pg * (qif * qo);
    L2L__NAME(store)(gate, i);
    L2L__NAME(store)(gate + n, f);
    L2L__NAME(store)(gate + 2 * n, g);
    L2L__NAME(store)(gate + 3 * n, L2L__NAME(fma)(half, po * (qif * qg), half));
    L2L__NAME(store)(s->c_next + p, L2L__NAME(fma)(f, L2L__NAME(load)(s->c + p), i * g));
}

L2L__KERNEL void L2L__NAME(cell_forward)(const l2l__cell *m, const l2l__cell_step *s)
{
    int n = m->hidden * L2L__COORDS, l, p, k;
    L2L__NAME(cell_matrix)(m->w, m->columns, 1, m->gates, m->columns, s->z, s->gates);
    for (p = 0; m->lstm && p < n; p += L2L__LANES) L2L__NAME(lstm_unit)(s, n, p);
    for (p = 0; p < n; p += L2L__LANES) {    /* apart from the gates, so that divisions overlap   */
        L2L__V t = L2L__NAME(tanh)(L2L__NAME(load)((m->lstm ? s->c_next : s->gates) + p));
        L2L__NAME(store)((m->lstm ? s->tanh_c : s->gates) + p, t);
        if (m->lstm) t *= L2L__NAME(load)(s->gates + 3 * n + p);
        L2L__NAME(store)(s->h_next + p, t);
    }
    for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
        L2L__V y = L2L__NAME(all)(m->w_out[0]);
        for (k = 0; k < m->hidden; k++)
            y = L2L__NAME(fma)(L2L__NAME(all)(m->w_out[1 + k]),
                               L2L__NAME(load)(s->h_next + k * L2L__COORDS + l), y);
        if (m->squash) y = L2L__NAME(tanh)(y);
        L2L__NAME(store)(s->y + l, y);
        L2L__NAME(store)(s->delta + l, L2L__NAME(all)(m->scale) * y);
    }
}

/* The cotangents of one unit; d is dL/dh_{t+1}, all of it. */
L2L__INLINE void L2L__NAME(lstm_unit_back)(const l2l__cell_step *s, int n, int p, L2L__V d,
                                           float *dc)
{
    const L2L__V one = L2L__NAME(all)(1);
    float *gate = s->gates + p;
    L2L__V i = L2L__NAME(load)(gate), f = L2L__NAME(load)(gate + n);
    L2L__V g = L2L__NAME(load)(gate + 2 * n), o = L2L__NAME(load)(gate + 3 * n);
    L2L__V tanh_c = L2L__NAME(load)(s->tanh_c + p), c = L2L__NAME(load)(s->c + p);
    L2L__V e = L2L__NAME(fma)(d * o, one - tanh_c * tanh_c, L2L__NAME(load)(dc + p));
    L2L__NAME(store)(gate, e * g * i * (one - i));
    L2L__NAME(store)(gate + n, e * c * f * (one - f));
    L2L__NAME(store)(gate + 2 * n, e * i * (one - g * g));
    L2L__NAME(store)(gate + 3 * n, d * tanh_c * o * (one - o));
    L2L__NAME(store)(dc + p, e * f);
}

L2L__KERNEL void L2L__NAME(cell_backward)(const l2l__cell *m, const l2l__cell_step *s,
                                          const float *u, float *dh, float *dc, int wanted)
{
    const L2L__V one = L2L__NAME(all)(1), scale = L2L__NAME(all)(m->scale);
    int n = m->hidden * L2L__COORDS, l, p;
    for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
        L2L__V y = L2L__NAME(load)(s->y + l), d = scale * L2L__NAME(load)(u + l);
        if (m->squash) d *= one - y * y;
        L2L__NAME(store)(s->y + l, d);
        for (p = l; p < n; p += L2L__COORDS) {
            L2L__V w = L2L__NAME(all)(m->w_out[1 + p / L2L__COORDS]);
            L2L__V e = L2L__NAME(fma)(w, d, L2L__NAME(load)(dh + p));
            if (m->lstm) {
                L2L__NAME(lstm_unit_back)(s, n, p, e, dc);
            } else {
                y = L2L__NAME(load)(s->gates + p);
                L2L__NAME(store)(s->gates + p, e * (one - y * y));
            }
        }
    }
    L2L__NAME(cell_matrix)(m->w + 1, 1, m->columns, wanted, m->gates, s->gates, dh);
}

/* A tile of `rows` (4 or 1) by `columns` (3 or 1) sums, kept in registers. */
#define L2L__EACH_SUM(X) X(0, 0) X(0, 1) X(0, 2) X(1, 0) X(1, 1) X(1, 2) \
                         X(2, 0) X(2, 1) X(2, 2) X(3, 0) X(3, 1) X(3, 2)

L2L__INLINE void L2L__NAME(cell_sums)(const int rows, const int columns, int T, const float *d,
                                      int d_step, const float *z, int z_step, int stride,
                                      float *sums)
{
    int t, l;
#define X(r, k) L2L__V s##r##k = L2L__NAME(load)(                                                  \
        sums + (r < rows && k < columns ? (r * stride + k) * L2L__LANES : 0));
    L2L__EACH_SUM(X)
#undef X
    for (t = 0; t < T; t++, d += d_step, z += z_step)
        for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
#define X(r, k) if (r < rows && k < columns)                                                       \
        s##r##k = L2L__NAME(fma)(L2L__NAME(load)(d + r * L2L__COORDS + l),                         \
                                 L2L__NAME(load)(z + k * L2L__COORDS + l), s##r##k);
            L2L__EACH_SUM(X)
#undef X
        }
#define X(r, k) if (r < rows && k < columns)                                                       \
        L2L__NAME(store)(sums + (r * stride + k) * L2L__LANES, s##r##k);
    L2L__EACH_SUM(X)
#undef X
}
#undef L2L__EACH_SUM

L2L__KERNEL void L2L__NAME(cell_accumulate)(int rows, int columns, int T, const float *d,
                                            int d_step, const float *z, int z_step, float *sums)
{
    int r, k, step;
    for (r = 0; r < rows; r += step) {
        float *at = sums + r * columns * L2L__LANES;
        const float *dr = d + r * L2L__COORDS;
        step = r + 4 <= rows ? 4 : 1;
        for (k = 0; k + 3 <= columns; k += 3)
            if (step == 4)
                L2L__NAME(cell_sums)(4, 3, T, dr, d_step, z + k * L2L__COORDS, z_step, columns,
                                     at + k * L2L__LANES);
            else
                L2L__NAME(cell_sums)(1, 3, T, dr, d_step, z + k * L2L__COORDS, z_step, columns,
                                     at + k * L2L__LANES);
        for (; k < columns; k++)
            if (step == 4)
                L2L__NAME(cell_sums)(4, 1, T, dr, d_step, z + k * L2L__COORDS, z_step, columns,
                                     at + k * L2L__LANES);
            else
                L2L__NAME(cell_sums)(1, 1, T, dr, d_step, z + k * L2L__COORDS, z_step, columns,
                                     at + k * L2L__LANES);
    }
}

static const l2l__cell_kernels L2L__NAME(cell_kernels) = {
    L2L__LANES, L2L__NAME(cell_forward), L2L__NAME(cell_backward), L2L__NAME(cell_accumulate)
};

#undef L2L__WHOLE
#undef L2L__NAME
#undef L2L__V
#undef L2L__I
#undef L2L__LANES
#undef L2L__SUFFIX
#undef L2L__TARGET
#elif defined(L2LADV_IMPLEMENTATION) && !defined(L2LADV_IMPLEMENTED)
#define L2LADV_IMPLEMENTED

/* -- 4.4 drivers ------------------------------------------------------------------------------- */

/* What this machine has, as bits of l2l_options.cpu. */
static unsigned l2l__cpu_detect(void)
{
    unsigned found = 0;
#if defined(L2L__VECTORS) && defined(L2L__X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse2")) found |= L2L_CPU_VECTOR;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= L2L_CPU_AVX2;
    if (__builtin_cpu_supports("avx512f")) found |= L2L_CPU_AVX512;
#elif defined(L2L__VECTORS)
    found = L2L_CPU_VECTOR;
#endif
    return found;
}

static const l2l__kernels *l2l__kernels_of(unsigned cpu)
{
    const l2l__kernels *best = &l2l__naive_kernels;
    L2L__UNUSED(cpu);
#if defined(L2L__VECTORS) && defined(L2L__X86)
    if (cpu & L2L_CPU_VECTOR) best = &l2l__kernels_sse2;
    if (cpu & L2L_CPU_AVX2) best = &l2l__kernels_avx2;
    if (cpu & L2L_CPU_AVX512) best = &l2l__kernels_avx512;
#elif defined(L2L__VECTORS)
    if (cpu & L2L_CPU_VECTOR) best = &l2l__kernels_neon;
#endif
    return best;
}

L2LADVDEF void l2l_set_cpu(l2l_context *c, unsigned cpu)
{
    c->cpu = cpu & l2l__cpu_detect();
    c->kernels = l2l__kernels_of(c->cpu);
}

static const char *l2l__cpu_name(unsigned cpu)
{
#ifdef __ARM_NEON
    if (cpu & L2L_CPU_VECTOR) return "NEON";
#endif
    return cpu & L2L_CPU_AVX512 ? "AVX-512" : cpu & L2L_CPU_AVX2 ? "AVX2+FMA"
         : cpu & L2L_CPU_VECTOR ? "SSE2" : "plain C";
}

/* Threads worth waking for so many elementary operations. */
static int l2l__workers(const l2l_context *c, int64_t work)
{
    return work < 32768 ? 1 : c->threads;
}

/* Elementwise drivers: blocks of 8192 numbers, shared out to the threads. */
enum { L2L__PIECE = 8192 };
#define L2L__IN_PIECES(call)                                                                       \
    const l2l__kernels *kernels = c->kernels;                                                      \
    int64_t piece, pieces = (n + L2L__PIECE - 1) / L2L__PIECE;                                     \
    L2L__PARALLEL(l2l__workers(c, n))                                                              \
    for (piece = 0; piece < pieces; piece++) {                                                     \
        int64_t at = piece * L2L__PIECE, m = n - at;                                               \
        if (m > L2L__PIECE) m = L2L__PIECE;                                                        \
        kernels->call;                                                                             \
    }

static void l2l__ew_relu(l2l_context *c, int64_t n, const l2l_real *x, l2l_real *y)
{
    L2L__IN_PIECES(relu(m, x + at, y + at))
}

static void l2l__ew_gate(l2l_context *c, int64_t n, const l2l_real *dy, const l2l_real *y,
                         l2l_real slope, l2l_real *out)
{
    L2L__IN_PIECES(gate(m, dy + at, y + at, slope, out + at))
}

static void l2l__ew_add(l2l_context *c, int64_t n, const l2l_real *a, const l2l_real *b,
                        l2l_real *out)
{
    L2L__IN_PIECES(add(m, a + at, b + at, out + at))
}

static void l2l__ew_mul(l2l_context *c, int64_t n, const l2l_real *a, const l2l_real *b,
                        l2l_real *out)
{
    L2L__IN_PIECES(mul(m, a + at, b + at, out + at))
}

static void l2l__ew_axpb(l2l_context *c, int64_t n, l2l_real a, const l2l_real *x, l2l_real b,
                         l2l_real *out)
{
    L2L__IN_PIECES(axpb(m, a, x + at, b, out + at))
}

static void l2l__ew_sign_step(l2l_context *c, int64_t n, l2l_real alpha, const l2l_real *g,
                              l2l_real *out)
{
    L2L__IN_PIECES(sign_step(m, alpha, g + at, out + at))
}

static void l2l__ew_project(l2l_context *c, int64_t n, const l2l_real *z, const l2l_real *x,
                            l2l_real epsilon, l2l_real *out)
{
    L2L__IN_PIECES(project(m, z + at, x + at, epsilon, out + at))
}

/* Drivers by pixels of n channels each; a pointer of NULL stays NULL. */
#define L2L__EACH_PIXEL(call)                                                                      \
    const l2l__kernels *kernels = c->kernels;                                                      \
    int64_t p;                                                                                     \
    L2L__PARALLEL(l2l__workers(c, pixels * n))                                                     \
    for (p = 0; p < pixels; p++) kernels->call;
#define L2L__AT(x) ((x) ? (x) + p * n : NULL)

static void l2l__channel_finish(l2l_context *c, int64_t pixels, int n, const l2l_real *x,
                                const l2l__epilogue *e, l2l_real *y)
{
    L2L__EACH_PIXEL(finish(n, x + p * n, e, p * n, y + p * n))
}

static void l2l__channel_gate(l2l_context *c, int64_t pixels, int n, const l2l_real *dy,
                              const l2l_real *gate, const l2l_real *scale, l2l_real *out)
{
    L2L__EACH_PIXEL(gate_scale(n, dy + p * n, L2L__AT(gate), scale, out + p * n))
}

static void l2l__channel_combine(l2l_context *c, int64_t pixels, int n, const l2l_real *dy,
                                 const l2l_real *gate, const l2l_real *x, const l2l_real *by,
                                 l2l_real *out)
{
    L2L__EACH_PIXEL(combine(n, dy + p * n, L2L__AT(gate), x + p * n, by, out + p * n))
}

/* Sums over all pixels into the doubles s0[0..n) and s1[0..n) (either may be NULL): runs of 32
   pixels in l2l_real, the runs in double, in up to 16 parts that the shape alone decides. */
static bool l2l__channel_moments(l2l_context *c, int64_t pixels, int n, const l2l_real *dy,
                                 const l2l_real *gate, const l2l_real *x, const l2l_real *mu,
                                 double *s0, double *s1)
{
    enum { RUN = 32, PARTS = 16 };
    const l2l__kernels *kernels = c->kernels;
    int64_t runs = (pixels + RUN - 1) / RUN, i;
    int parts = runs < PARTS ? (int)runs : PARTS, part;
    double *sums = (double *)l2l__arena_array(c, 2 * (int64_t)parts * n, sizeof *sums);
    l2l_real *run = (l2l_real *)l2l__arena_array(c, 2 * (int64_t)parts * n, sizeof *run);
    L2L__PARALLEL(l2l__workers(c, run ? pixels * n : 0))
    for (part = 0; part < (run ? parts : 0); part++) {
        double *mine = sums + 2 * (int64_t)part * n;
        l2l_real *f = run + 2 * (int64_t)part * n;
        int64_t r, last = runs * (part + 1) / parts, p, k;
        memset(mine, 0, 2 * (size_t)n * sizeof *mine);
        for (r = runs * part / parts; r < last; r++) {
            int count = pixels - r * RUN < RUN ? (int)(pixels - r * RUN) : RUN;
            p = r * RUN;
            memset(f, 0, 2 * (size_t)n * sizeof *f);
            kernels->moments(count, n, L2L__AT(dy), L2L__AT(gate), L2L__AT(x), mu,
                             s0 ? f : NULL, s1 ? f + n : NULL);
            for (k = 0; k < 2 * n; k++) mine[k] += (double)f[k];
        }
    }
    for (part = 1; run && part < parts; part++)
        for (i = 0; i < 2 * n; i++) sums[i] += sums[2 * (int64_t)part * n + i];
    if (run && s0) memcpy(s0, sums, (size_t)n * sizeof *s0);
    if (run && s1) memcpy(s1, sums + n, (size_t)n * sizeof *s1);
    l2l__arena_drop(c, run);
    l2l__arena_drop(c, sums);
    return !c->status;
}

/* -- packing: a matrix of rows (t, d) and columns q, element data[t*st + d*sd + q*sq], as panels of
   `columns` columns: [panel][t*depth + d][column], the last one filled up with zeros. The taps of a
   khxkw kernel stand in groups (i % stride, j % stride), see l2l__indirect. */
typedef struct l2l__matrix {
    int kh, kw, stride, depth, columns;
    int64_t st, sd, sq;
} l2l__matrix;

static void l2l__pack(const l2l_context *c, const l2l__matrix *m, const l2l_real *data, int width,
                      l2l_real *panels)
{
    int64_t rows = (int64_t)m->kh * m->kw * m->depth;
    int p, count = (m->columns + width - 1) / width, s = m->stride;
    L2L__PARALLEL(l2l__workers(c, rows * m->columns))
    for (p = 0; p < count; p++) {
        l2l_real *out = panels + p * rows * width;
        int g, i, j, d, q, valid = m->columns - p * width < width ? m->columns - p * width : width;
        for (g = 0; g < s * s; g++)
            for (i = g / s; i < m->kh; i += s)
                for (j = g % s; j < m->kw; j += s)
                    for (d = 0; d < m->depth; d++, out += width) {
                        const l2l_real *row = data + (int64_t)(i * m->kw + j) * m->st +
                                              d * m->sd + p * width * m->sq;
                        for (q = 0; q < valid; q++) out[q] = row[q * m->sq];
                        for (; q < width; q++) out[q] = 0;
                    }
    }
}

/* Room for `count` numbers in a parameter's cache, and whether they must be made anew; NULL without
   a parameter, or after an error. */
static l2l_real *l2l__cached(l2l_context *c, l2l__packed *p, int which, int64_t count, bool *fresh)
{
    *fresh = true;
    if (!p) return NULL;
    if (p->cache[which].count != count) {
        l2l_free(c, p->cache[which].panels);
        p->cache[which].count = 0;
        p->cache[which].panels = (l2l_real *)l2l__allocate_array(c, count, sizeof(l2l_real));
        if (!p->cache[which].panels) return NULL;
        p->cache[which].count = count;
        p->cache[which].kernels = NULL;
    }
    *fresh = p->cache[which].kernels != c->kernels || p->cache[which].version != p->version;
    p->cache[which].kernels = c->kernels;
    p->cache[which].version = p->version;
    return p->cache[which].panels;
}

/* The panels of a weight for one direction: from the parameter's cache, or (*temporary set, to be
   given back to the arena) packed for this once. */
static const l2l_real *l2l__panels(l2l_context *c, const l2l_tensor *w, const l2l__matrix *m,
                                   int direction, l2l_real **temporary)
{
    int width = c->kernels->columns;
    int64_t count = (int64_t)m->kh * m->kw * m->depth * ((m->columns + width - 1) / width) * width;
    bool fresh;
    l2l_real *panels = l2l__cached(c, w->packed, direction, count, &fresh);
    *temporary = NULL;
    if (panels) {
        l2l__packed *p = w->packed;
        int rows = m->kh * m->depth;
        fresh = fresh || p->cache[direction].stride != m->stride ||
                p->cache[direction].rows != rows;
        p->cache[direction].stride = m->stride;
        p->cache[direction].rows = rows;
    }
    if (!w->packed) panels = *temporary = (l2l_real *)l2l__arena_array(c, count, sizeof *panels);
    if (panels && fresh) l2l__pack(c, m, w->data, width, panels);
    return panels;
}

/* -- indirect convolution. One routine for the forward pass and the input gradient: each output
   pixel has, for each tap, a pointer to the source pixel (or to zeros), and the tile kernel sums
   over taps and channels. Nothing is copied, and strides, padding and odd sizes are all the
   pointer's affair. Where there are few channels, a line of the kernel over a source with its
   padding written out is one tap of kw*c numbers. The input gradient of a strided layer goes by
   phases: all input lines of one remainder by the stride are reached through the same taps. */
typedef struct l2l__indirect {
    const l2l__kernels *kernels;
    const l2l__geometry *g;
    bool backward;                           /* false: x -> y; true: dy -> dx                     */
    bool wide;                               /* a line of the kernel is one tap                   */
    int taps, depth, columns;                /* of the packed weight                              */
    int py, px, first, count;                /* the phase, and which taps it has                  */
    int oh, ow;                              /* the output plane, or the phase's part of it       */
    int64_t pixels;
    const l2l_real *source, *zero, *panels;
    const l2l__epilogue *epilogue;           /* NULL: none                                        */
    l2l_real *out;
} l2l__indirect;

/* What one thread works with: pointers for a block, its targets, the last panel's columns. */
typedef struct l2l__bench {
    const l2l_real **pointers;
    l2l_real **targets, *tail;
} l2l__bench;

/* The taps' pointers of output pixel (n,h,w), L2L__ROWS apart, in the order of l2l__pack; returns
   the pixel. */
static l2l_real *l2l__point_pixel(const l2l__indirect *q, int64_t n, int h, int w,
                                  const l2l_real **at)
{
    const l2l__geometry *g = q->g;
    int s = g->stride, step = q->backward ? s : 1, i, j;
    int height = q->backward ? g->oh : g->h, width = q->backward ? g->ow : g->w;
    int channels = q->backward ? g->k : g->c;
    int y0 = q->backward ? h * s + q->py + g->padding : h * s - g->padding;
    int x0 = q->backward ? w * s + q->px + g->padding : w * s - g->padding;
    for (i = q->backward ? y0 % s : 0; i < g->kh; i += step) {
        int y = q->backward ? (y0 < i ? -1 : (y0 - i) / s) : y0 + i;
        const l2l_real *line = NULL;
        if (y >= 0 && y < height) line = q->source + (n * height + y) * width * channels;
        for (j = q->backward ? x0 % s : 0; j < (q->wide ? 1 : g->kw); j += step, at += L2L__ROWS) {
            int x = q->backward ? (x0 < j ? -1 : (x0 - j) / s) : x0 + j;
            *at = line && x >= 0 && x < width ? line + (int64_t)x * channels : q->zero;
        }
    }
    if (!q->backward) return q->out + ((n * g->oh + h) * g->ow + w) * q->columns;
    return q->out + ((n * g->h + h * s + q->py) * g->w + w * s + q->px) * q->columns;
}

/* pointers[group][tap][row of the group], for m pixels from p0; the last group repeats its last
   pixel. */
static void l2l__point(const l2l__indirect *q, int64_t p0, int m, l2l__bench *b)
{
    int64_t n = p0 / q->ow / q->oh;
    int h = (int)(p0 / q->ow % q->oh), w = (int)(p0 % q->ow), r;
    const l2l_real **before = NULL;
    for (r = 0; r < m || r % L2L__ROWS; r++) {
        const l2l_real **at = b->pointers +
                              (int64_t)(r / L2L__ROWS) * q->count * L2L__ROWS + r % L2L__ROWS;
        if (q->wide && r > 0 && r < m && w > 0) { /* no borders: one pixel further              */
            int t, step = q->g->stride * q->g->c;
            for (t = 0; t < q->count; t++) at[t * L2L__ROWS] = before[t * L2L__ROWS] + step;
            b->targets[r] = b->targets[r - 1] + q->columns;
        } else {
            b->targets[r] = l2l__point_pixel(q, n, h, w, at);
        }
        before = at;
        if (r + 1 >= m) continue;
        if (++w == q->ow) { w = 0; h++; }
        if (h == q->oh) { h = 0; n++; }
    }
}

/* One block of up to L2L__PIXELS output pixels: every panel over every slab of the depth. */
static void l2l__indirect_block(const l2l__indirect *q, int64_t p0, int m, l2l__bench *b)
{
    int width = q->kernels->columns, panels = (q->columns + width - 1) / width, t0, d0, j, i, r;
    int together = q->depth < L2L__SLAB ? L2L__SLAB / q->depth : 1;      /* taps of one slab      */
    int deep = q->depth < L2L__SLAB ? q->depth : L2L__SLAB;
    int tail = q->columns % width ? panels - 1 : -1;
    l2l__point(q, p0, m, b);
    for (t0 = 0; t0 < q->count; t0 += together)
        for (d0 = 0; d0 < q->depth; d0 += deep) {
            int taps = q->count - t0 < together ? q->count - t0 : together;
            int depth = q->depth - d0 < deep ? q->depth - d0 : deep;
            for (j = 0; j < panels; j++) {
                const l2l_real *panel = q->panels + (((int64_t)j * q->taps + q->first + t0) *
                                                         q->depth + d0) * width;
                for (i = 0; i < m; i += L2L__ROWS) {
                    l2l_real *y[L2L__ROWS];
                    int rows = m - i < L2L__ROWS ? m - i : L2L__ROWS;
                    for (r = 0; r < rows; r++)
                        y[r] = j == tail ? b->tail + (i + r) * width
                                         : b->targets[i + r] + j * width;
                    q->kernels->tile(rows, taps, depth,
                                     b->pointers +
                                         ((int64_t)i / L2L__ROWS * q->count + t0) * L2L__ROWS,
                                     d0, panel, q->depth, y, t0 + d0 > 0);
                }
            }
        }
    for (i = 0; tail >= 0 && i < m; i++)
        memcpy(b->targets[i] + tail * width, b->tail + i * width,
               (size_t)(q->columns % width) * sizeof *b->tail);
    for (i = 0; q->epilogue && i < m; i++)
        q->kernels->finish(q->columns, b->targets[i], q->epilogue, b->targets[i] - q->out,
                           b->targets[i]);
}

static bool l2l__indirect_run(l2l_context *c, l2l__indirect *q)
{
    int64_t blocks = (q->pixels + L2L__PIXELS - 1) / L2L__PIXELS;
    int64_t groups = L2L__PIXELS * (int64_t)q->count;
    int workers = l2l__workers(c, q->pixels * q->count * q->depth * q->columns), i;
    int deepest = q->g->c > q->g->k ? q->g->c : q->g->k;
    l2l_mark mark = l2l_mark_here(c);
    l2l__bench *b = (l2l__bench *)l2l__arena_array(c, workers, sizeof *b);
    l2l_real *zero = (l2l_real *)l2l__arena_array(c, deepest, sizeof *zero);
    for (i = 0; zero && b && i < workers; i++) {
        b[i].pointers = (const l2l_real **)l2l__arena_array(c, groups, sizeof *b[i].pointers);
        b[i].targets = (l2l_real **)l2l__arena_array(c, L2L__PIXELS, sizeof *b[i].targets);
        b[i].tail = (l2l_real *)l2l__arena_array(c, L2L__PIXELS * (int64_t)q->kernels->columns,
                                                 sizeof *b[i].tail);
    }
    if (!c->status) {
        memset(zero, 0, (size_t)deepest * sizeof *zero);
        q->zero = zero;
        L2L__PARALLEL(workers)
        for (i = 0; i < workers; i++) {
            int64_t block;
            for (block = i; block < blocks; block += workers) {
                int64_t p0 = block * L2L__PIXELS, m = q->pixels - p0;
                l2l__indirect_block(q, p0, m < L2L__PIXELS ? (int)m : (int)L2L__PIXELS, &b[i]);
            }
        }
    }
    l2l_release(c, mark);
    return !c->status;
}

/* The input gradient, a phase after the other. Lines that no tap reaches are zero. */
static bool l2l__indirect_phases(l2l_context *c, l2l__indirect *q)
{
    const l2l__geometry *g = q->g;
    int s = g->stride, phase;
    if (g->kh < s || g->kw < s)
        memset(q->out, 0, (size_t)g->n * (size_t)g->h * (size_t)g->w * (size_t)g->c *
                              sizeof *q->out);
    for (phase = 0; phase < s * s; phase++) {
        int u, v, i, lines, before = 0, columns;
        q->py = phase / s;
        q->px = phase % s;
        u = (q->py + g->padding) % s;
        v = (q->px + g->padding) % s;
        lines = u < g->kh ? (g->kh - u + s - 1) / s : 0;
        columns = v < g->kw ? (g->kw - v + s - 1) / s : 0;
        for (i = 0; i < v && i < g->kw; i++) before += (g->kw - i + s - 1) / s;
        for (q->first = i = 0; i < u && i < g->kh; i++) q->first += (g->kh - i + s - 1) / s;
        q->first = q->first * g->kw + lines * before;
        q->count = lines * columns;
        q->oh = (g->h - q->py + s - 1) / s;
        q->ow = (g->w - q->px + s - 1) / s;
        q->pixels = (int64_t)g->n * q->oh * q->ow;
        if (q->count && q->pixels > 0 && !l2l__indirect_run(c, q)) return false;
    }
    return true;
}

/* x with its padding written out, and its geometry; x itself where there is none. *temporary is to
   be given back. */
static const l2l_real *l2l__padded(l2l_context *c, l2l__geometry *g, const l2l_real *x,
                                   l2l_real **temporary)
{
    int h = g->h, w = g->w, p = g->padding, n;
    int64_t line, row;
    *temporary = NULL;
    if (!p) return x;
    g->h += 2 * p;
    g->w += 2 * p;
    g->padding = 0;
    line = (int64_t)g->w * g->c;
    row = (int64_t)w * g->c;
    *temporary = (l2l_real *)l2l__arena_array(c, g->n * (g->h * line), sizeof **temporary);
    if (!*temporary) return NULL;
    L2L__PARALLEL(l2l__workers(c, g->n * (g->h * line)))
    for (n = 0; n < g->n; n++) {
        l2l_real *to = *temporary + n * (g->h * line);
        int y;
        for (y = 0; y < g->h; y++, to += line) {
            memset(to, 0, (size_t)line * sizeof *to);
            if (y >= p && y < p + h)
                memcpy(to + (int64_t)p * g->c, x + ((int64_t)n * h + y - p) * row,
                       (size_t)row * sizeof *to);
        }
    }
    return *temporary;
}

/* -- Winograd convolution: 3x3, stride 1. A tile of fxf outputs (f = 4 or 2) is A^T [(G g G^T) .
   (B^T d B)] A, where d is its (f+2)x(f+2) patch of the input: for each of the (f+2)^2 points a
   matrix product over the channels, 36 or 16 multiplications where the direct way has 9 f^2. The
   input gradient is the same with the kernel turned over, the weight gradient G^T [(B^T d B) .
   (A dy A^T)] G summed over the tiles. */
typedef struct l2l__winograd {
    const l2l__kernels *kernels;
    int f, side, points, transform;          /* side f+2, points side^2; 0 or L2L__WIN_F2         */
    int h, w, c;                             /* the source's plane and channels                   */
    int oh, ow, k, padding;                  /* the output's                                      */
    int th, tw, tiles;                       /* tiles of a plane; of the batch                    */
    int most;                                /* tiles at a time                                   */
    int slab, panel;                         /* channels, columns that stand together in v, m:    */
    int vrow, mrow;                          /* v[point][slab][tile][vrow], m likewise            */
    bool turned;                             /* input gradient: taps in reverse                   */
    const l2l_real *source, *zero;
    const l2l_real *panels;                  /* the weight, [panel][tap][c][columns]              */
    const l2l_real *u;                       /* the same transformed, [panel][point][c][columns]  */
    const l2l__epilogue *epilogue;
    l2l_real *out;
} l2l__winograd;

enum {
    L2L__CACHED = 1 << 16,                   /* c*k up to which transformed weights are kept      */
    L2L__WIN_SLAB = 128,                     /* channels that are transformed at a time otherwise */
    L2L__WIN_CHUNK = 192,                    /* tiles at a time when all threads share them       */
    L2L__WIN_GROUP = 48,                     /* channels of a weight gradient's block             */
    L2L__WIN_ROOM = 1 << 23                  /* numbers that its transformed tiles may take       */
};

/* Which way a layer goes, by its shape alone. The costs are vector operations for each tile: the
   product, and what the transforms of input and output take. 0: the direct way. */
static int l2l__winograd_side(const l2l__kernels *kernels, int oh, int ow, int c, int k, int kh,
                              int kw, int stride, int padding)
{
    int lanes = kernels->columns / 2;
    double ck = (double)c * k, direct = 9.0 * oh * ow * ck;
    double four = ((oh + 3) / 4) * (double)((ow + 3) / 4) * (36 * ck + 300.0 * c + 250.0 * k);
    double two = ((oh + 1) / 2) * (double)((ow + 1) / 2) * (16 * ck + 90.0 * c + 70.0 * k);
    if (!kernels->winograd || kh != 3 || kw != 3 || stride != 1 || padding > 2 || c % lanes ||
        k % lanes || c < 16 || k < 16)
        return 0;
    if (four <= two && four < direct) return 4;
    return two < direct ? 2 : 0;
}

/* n planes of hxwxc to ohxowxk. */
static l2l__winograd l2l__winograd_of(const l2l_context *c, int f, int n, int h, int w,
                                      int channels, int oh, int ow, int k, int padding)
{
    l2l__winograd q;
    int width = c->kernels->columns;
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.f = f;
    q.side = f + 2;
    q.points = q.side * q.side;
    q.transform = f == 4 ? 0 : L2L__WIN_F2;
    q.h = h; q.w = w; q.c = channels;
    q.oh = oh; q.ow = ow; q.k = k;
    q.padding = padding;
    q.th = (oh + f - 1) / f;
    q.tw = (ow + f - 1) / f;
    q.tiles = n * q.th * q.tw;
    q.slab = channels;
    q.panel = (k + width - 1) / width * width;
    q.vrow = channels + (channels % 128 ? 0 : 16); /* rows that do not fall onto each other in L1 */
    q.mrow = q.panel + (q.panel % 128 ? 0 : 16);
    return q;
}

/* Where tile t begins in a plane that it covers with steps of f; the plane's number. */
static int l2l__tile_place(const l2l__winograd *q, int t, int *y, int *x)
{
    *x = t % q->tw * q->f;
    *y = t / q->tw % q->th * q->f;
    return t / q->tw / q->th;
}

/* Pointers to the size x size pixels of a plane from (y, x) on; zeros outside. */
static void l2l__patch(const l2l_real *plane, int h, int w, int c, int y, int x, int size,
                       const l2l_real *zero, const l2l_real **at)
{
    int i, j;
    for (i = y; i < y + size; i++)
        for (j = x; j < x + size; j++)
            *at++ = i < 0 || i >= h || j < 0 || j >= w ? zero : plane + ((int64_t)i * w + j) * c;
}

/* Numbers of one point in v, in m and in a slab of weights: a line more than there are, or all
   points' would fall onto the same few places of the first cache. */
static int64_t l2l__winograd_v(const l2l__winograd *q)
{
    return (int64_t)((q->c + q->slab - 1) / q->slab) * q->most * q->vrow + 16;
}

static int64_t l2l__winograd_m(const l2l__winograd *q)
{
    return (int64_t)((q->k + q->panel - 1) / q->panel) * q->most * q->mrow + 16;
}

/* Tiles t0 .. t0+count-1 of the source into v, as its tiles from `first` on. */
static void l2l__winograd_in(const l2l__winograd *q, int t0, int count, int first, l2l_real *v)
{
    const l2l_real *from[36];
    l2l_real *to[36];
    int64_t point = l2l__winograd_v(q);
    int t, p, y, x, d0;
    for (t = 0; t < count; t++) {
        int n = l2l__tile_place(q, t0 + t, &y, &x);
        l2l__patch(q->source + (int64_t)n * q->h * q->w * q->c, q->h, q->w, q->c, y - q->padding,
                   x - q->padding, q->side, q->zero, from);
        for (p = 0; p < q->points; p++) to[p] = v + p * point + (int64_t)(first + t) * q->vrow;
        for (d0 = 0; d0 < q->c; d0 += q->slab) {
            q->kernels->winograd(q->transform + L2L__WIN_IN, q->c - d0 < q->slab ? q->c - d0
                                                                                 : q->slab,
                                 from, to, NULL, 0, NULL);
            for (p = 0; p < q->points && d0 + q->slab < q->c; p++) {
                from[p] += q->slab;
                to[p] += (int64_t)q->most * q->vrow;
            }
        }
    }
}

/* m back to output pixels, with the epilogue. */
static void l2l__winograd_out(const l2l__winograd *q, int t0, int count, int first,
                              const l2l_real *m)
{
    const l2l_real *from[36];
    l2l_real *to[16];
    int64_t point = l2l__winograd_m(q);
    int t, p, y, x, i, j, k0;
    for (t = 0; t < count; t++) {
        int64_t plane = l2l__tile_place(q, t0 + t, &y, &x) * (int64_t)q->oh;
        for (p = 0; p < q->points; p++) from[p] = m + p * point + (int64_t)(first + t) * q->mrow;
        for (i = 0; i < q->f; i++)
            for (j = 0; j < q->f; j++)
                to[i * q->f + j] = y + i < q->oh && x + j < q->ow
                                       ? q->out + ((plane + y + i) * q->ow + x + j) * q->k : NULL;
        for (k0 = 0; k0 < q->k; k0 += q->panel) {
            q->kernels->winograd(q->transform + L2L__WIN_OUT, q->k - k0 < q->panel ? q->k - k0
                                                                                   : q->panel,
                                 from, to, q->epilogue, k0, q->out);
            if (k0 + q->panel >= q->k) break;
            for (p = 0; p < q->points; p++) from[p] += (int64_t)q->most * q->mrow;
            for (i = 0; i < q->f * q->f; i++) if (to[i]) to[i] += q->panel;
        }
    }
}

/* The product of one point over a slab of channels, for all tiles: v[tile][0..depth) b to
   m[tile][a panel's columns]. */
static void l2l__winograd_product(const l2l__winograd *q, int count, const l2l_real *v, int depth,
                                  const l2l_real *b, l2l_real *m, bool accumulate)
{
    int i, r;
    for (i = 0; i < count; i += L2L__ROWS) {
        const l2l_real *a[L2L__ROWS];
        l2l_real *y[L2L__ROWS];
        int rows = count - i < L2L__ROWS ? count - i : L2L__ROWS;
        for (r = 0; r < L2L__ROWS; r++) {
            a[r] = v + (int64_t)(i + (r < rows ? r : 0)) * q->vrow;
            y[r] = m + (int64_t)(i + (r < rows ? r : 0)) * q->mrow;
        }
        q->kernels->tile(rows, 1, depth, a, 0, b, depth, y, accumulate);
    }
}

/* Channels d0 .. d0+depth-1 of a panel into Winograd's domain: u[point][d][columns], its points
   `step` numbers apart. */
static void l2l__winograd_weight(const l2l__winograd *q, int panel, int d0, int depth,
                                 l2l_real *u, int64_t step)
{
    const l2l_real *from[9];
    l2l_real *to[36];
    int i, width = q->kernels->columns;
    for (i = 0; i < 9; i++)
        from[i] = q->panels +
                  (((int64_t)panel * 9 + (q->turned ? 8 - i : i)) * q->c + d0) * width;
    for (i = 0; i < q->points; i++) to[i] = u + i * step;
    q->kernels->winograd(q->transform + L2L__WIN_WEIGHT, (int64_t)depth * width, from, to, NULL,
                         0, NULL);
}

/* Small layers: a thread takes a block of tiles from patch to output. */
static bool l2l__winograd_blocks(l2l_context *c, l2l__winograd *q)
{
    int width = q->kernels->columns, panels = (q->k + width - 1) / width, blocks, worker;
    int workers = l2l__workers(c, (int64_t)q->tiles * q->points * q->c * q->k);
    int64_t vs, ms;
    l2l_real *space;
    q->most = q->c + q->k <= 128 ? 48 : 24;
    if (q->most > q->tiles) q->most = q->tiles;
    blocks = (q->tiles + q->most - 1) / q->most;
    vs = l2l__winograd_v(q);
    ms = l2l__winograd_m(q);
    space = (l2l_real *)l2l__arena_array(c, workers * (q->points * (vs + ms)), sizeof *space);
    if (!space) return false;
    L2L__PARALLEL(workers)
    for (worker = 0; worker < workers; worker++) {
        l2l_real *v = space + worker * (q->points * (vs + ms)), *m = v + q->points * vs;
        int block, p, j, d0;
        for (block = worker; block < blocks; block += workers) {
            int t0 = block * q->most, count = q->tiles - t0 < q->most ? q->tiles - t0 : q->most;
            l2l__winograd_in(q, t0, count, 0, v);
            for (p = 0; p < q->points; p++)
                for (j = 0; j < panels; j++)
                    for (d0 = 0; d0 < q->c; d0 += L2L__WIN_SLAB)
                        l2l__winograd_product(
                            q, count, v + p * vs + d0,
                            q->c - d0 < L2L__WIN_SLAB ? q->c - d0 : L2L__WIN_SLAB,
                            q->u + (((int64_t)j * q->points + p) * q->c + d0) * width,
                            m + p * ms + j * width, d0 > 0);
            l2l__winograd_out(q, t0, count, 0, m);
        }
    }
    l2l__arena_drop(c, space);
    return true;
}

/* Large layers: their transformed weights would not stay in any cache, so all threads share a chunk
   of tiles, and each transforms the panels of its own, a slab at a time, just before use. */
static bool l2l__winograd_panels(l2l_context *c, l2l__winograd *q)
{
    int width = q->kernels->columns, panels = (q->k + width - 1) / width, t0, t;
    int workers = l2l__workers(c, (int64_t)q->tiles * q->points * q->c * q->k), count, worker;
    int64_t size = (int64_t)L2L__WIN_SLAB * width + 16, vs, ms;
    l2l_real *v, *m, *u;
    q->most = q->tiles < L2L__WIN_CHUNK ? q->tiles : L2L__WIN_CHUNK;
    q->slab = q->vrow = L2L__WIN_SLAB;
    q->panel = q->mrow = width;
    vs = l2l__winograd_v(q);
    ms = l2l__winograd_m(q);
    v = (l2l_real *)l2l__arena_array(c, q->points * vs, sizeof *v);
    m = (l2l_real *)l2l__arena_array(c, q->points * ms, sizeof *m);
    u = (l2l_real *)l2l__arena_array(c, workers * (q->points * size), sizeof *u);
    for (t0 = 0; u && m && v && t0 < q->tiles; t0 += count) {
        count = q->tiles - t0 < q->most ? q->tiles - t0 : q->most;
        L2L__PARALLEL(workers)
        for (t = 0; t < count; t++) l2l__winograd_in(q, t0 + t, 1, t, v);
        L2L__PARALLEL(workers)
        for (worker = 0; worker < workers; worker++) {
            l2l_real *mine = u + worker * (q->points * size);
            int p, j, d0, depth;
            for (j = worker; j < panels; j += workers)
                for (d0 = 0; d0 < q->c; d0 += depth) {
                    depth = q->c - d0 < L2L__WIN_SLAB ? q->c - d0 : L2L__WIN_SLAB;
                    l2l__winograd_weight(q, j, d0, depth, mine, size);
                    for (p = 0; p < q->points; p++)
                        l2l__winograd_product(
                            q, count, v + p * vs + (int64_t)d0 / q->slab * q->most * q->vrow,
                            depth, mine + p * size, m + p * ms + (int64_t)j * q->most * q->mrow,
                            d0 > 0);
                }
        }
        L2L__PARALLEL(workers)
        for (t = 0; t < count; t++) l2l__winograd_out(q, t0 + t, 1, t, m);
    }
    l2l__arena_drop(c, u);
    l2l__arena_drop(c, m);
    l2l__arena_drop(c, v);
    return !c->status;
}

/* The weight's panels, transformed if the layer is small enough to keep them so; then the product.
   direction 0: x to y; 1: dy to dx. */
static bool l2l__winograd_run(l2l_context *c, l2l__winograd *q, const l2l_tensor *w,
                              const l2l__matrix *matrix, int direction)
{
    int width = q->kernels->columns, panels = (q->k + width - 1) / width, j;
    int64_t one = (int64_t)q->points * q->c * width;
    bool small = (int64_t)q->c * q->k <= L2L__CACHED, ok = false, fresh = true;
    l2l_mark mark = l2l_mark_here(c);
    l2l_real *zero = (l2l_real *)l2l__arena_array(c, q->c, sizeof *zero), *temporary, *u = NULL;
    if (!zero) return false;
    memset(zero, 0, (size_t)q->c * sizeof *zero);
    q->zero = zero;
    q->turned = direction == 1;
    if (small) u = l2l__cached(c, w->packed, 2 + direction, panels * one, &fresh);
    if (!c->status && fresh) {
        l2l_tensor bare = *w;                /* its untransformed panels need not be kept         */
        if (small) bare.packed = NULL;
        q->panels = l2l__panels(c, &bare, matrix, direction, &temporary);
    }
    if (!c->status && small && !u) u = (l2l_real *)l2l__arena_array(c, panels * one, sizeof *u);
    if (!c->status && small && fresh) {
        L2L__PARALLEL(l2l__workers(c, panels * one))
        for (j = 0; j < panels; j++)
            l2l__winograd_weight(q, j, 0, q->c, u + j * one, (int64_t)q->c * width);
    }
    q->u = u;
    if (!c->status) ok = small ? l2l__winograd_blocks(c, q) : l2l__winograd_panels(c, q);
    if (!ok && w->packed) w->packed->cache[2 + direction].kernels = NULL; /* perhaps not filled   */
    l2l_release(c, mark);
    return ok;
}

/* Channels c0 .. c1-1 of x by a panel of dy's, points p0 .. p1-1: adds the tiles of a chunk to the
   sums, whose points stand `step` numbers apart. */
static void l2l__winograd_sum(const l2l__winograd *q, int count, const l2l_real *v,
                              const l2l_real *z, int p0, int p1, int c0, int c1, int panel,
                              l2l_real *sums, int64_t step)
{
    int width = q->kernels->columns, p, band;
    for (p = p0; p < p1; p++)
        for (band = c0; band < c1; band += L2L__ROWS)
            q->kernels->outer(c1 - band < L2L__ROWS ? c1 - band : L2L__ROWS, count,
                              v + p * l2l__winograd_v(q) + band, q->vrow,
                              z + p * l2l__winograd_m(q) + panel * width, q->mrow,
                              sums + p * step + (int64_t)(band - c0) * width);
}

/* The sums of channels c0 .. c1-1 to the weight's gradient; `out` is room for nine points. */
static void l2l__winograd_collect(const l2l__winograd *q, const l2l_real *sums, int64_t step,
                                  int c0, int c1, int panel, l2l_real *out, l2l_real *dw)
{
    const l2l_real *from[36];
    l2l_real *to[9];
    int width = q->kernels->columns, one = (c1 - c0) * width, i, r;
    int valid = q->k - panel * width < width ? q->k - panel * width : width;
    for (i = 0; i < q->points; i++) from[i] = sums + i * step;
    for (i = 0; i < 9; i++) to[i] = out + i * one;
    q->kernels->winograd(q->transform + L2L__WIN_BACK, one, from, to, NULL, 0, NULL);
    for (i = 0; i < 9; i++)
        for (r = c0; r < c1; r++)
            memcpy(dw + ((int64_t)i * q->c + r) * q->k + panel * width, to[i] + (r - c0) * width,
                   (size_t)valid * sizeof *dw);
}

/* One tile of x and of dy into v and z. */
static void l2l__winograd_pair(const l2l__winograd *q, const l2l_real *dy, int tile, int t,
                               l2l_real *v, l2l_real *z)
{
    const l2l_real *from[16];
    l2l_real *to[36];
    int p, y, x, n = l2l__tile_place(q, tile, &y, &x);
    l2l__winograd_in(q, tile, 1, t, v);
    l2l__patch(dy + (int64_t)n * q->oh * q->ow * q->k, q->oh, q->ow, q->k, y, x, q->f, q->zero,
               from);
    for (p = 0; p < q->points; p++) to[p] = z + p * l2l__winograd_m(q) + (int64_t)t * q->mrow;
    q->kernels->winograd(q->transform + L2L__WIN_GRAD, q->k, from, to, NULL, 0, NULL);
}

/* dW over the tiles of x and dy. Every sum runs over the tiles in order, whatever the threads.
   Small layers keep all sums and take the tiles in chunks that stay in a cache; the threads share
   out panels and points. Large ones take as many tiles at once as L2L__WIN_ROOM holds; the threads
   share out blocks of channels and panels, and only if there are more tiles do their sums wait. */
static bool l2l__winograd_weight_gradient(l2l_context *c, l2l__winograd *q, const l2l_real *dy,
                                          l2l_real *dw)
{
    int width = q->kernels->columns, panels = (q->k + width - 1) / width, t0, t, count, worker;
    bool small = (int64_t)q->c * q->k <= L2L__CACHED / 2;
    int group = small ? (q->c + L2L__ROWS - 1) / L2L__ROWS * L2L__ROWS : L2L__WIN_GROUP;
    int groups = (q->c + group - 1) / group, items = panels * groups, kept, shares;
    int workers = l2l__workers(c, (int64_t)q->tiles * q->points * q->c * q->k);
    int64_t step = (int64_t)group * width + 16, size = q->points * step, zs;
    l2l_mark mark = l2l_mark_here(c);
    l2l_real *zero, *sums, *v, *z, *out;
    q->most = small ? L2L__WIN_CHUNK : L2L__WIN_ROOM / (q->points * (q->vrow + q->mrow));
    if (q->most < L2L__WIN_GROUP) q->most = L2L__WIN_GROUP;
    if (q->most > q->tiles) q->most = q->tiles;
    kept = small || q->most < q->tiles ? items : workers;
    shares = small ? items * q->points : items;
    zs = q->points * l2l__winograd_m(q);
    zero = (l2l_real *)l2l__arena_array(c, q->c > q->k ? q->c : q->k, sizeof *zero);
    sums = (l2l_real *)l2l__arena_array(c, kept * size, sizeof *sums);
    v = (l2l_real *)l2l__arena_array(c, q->points * l2l__winograd_v(q), sizeof *v);
    z = (l2l_real *)l2l__arena_array(c, zs, sizeof *z);
    out = (l2l_real *)l2l__arena_array(c, workers * (9 * step), sizeof *out);
    if (!c->status) {
        memset(zero, 0, (size_t)(q->c > q->k ? q->c : q->k) * sizeof *zero);
        if (kept == items) memset(sums, 0, (size_t)(items * size) * sizeof *sums);
        if (q->k % width) memset(z, 0, (size_t)zs * sizeof *z); /* the last panel's empty columns */
        q->zero = zero;
    }
    for (t0 = 0; !c->status && t0 < q->tiles; t0 += count) {
        bool last;
        count = q->tiles - t0 < q->most ? q->tiles - t0 : q->most;
        last = t0 + count == q->tiles;
        L2L__PARALLEL(workers)
        for (t = 0; t < count; t++) l2l__winograd_pair(q, dy, t0 + t, t, v, z);
        L2L__PARALLEL(workers)
        for (worker = 0; worker < workers; worker++) {
            int from = (int)((int64_t)shares * worker / workers), share;
            int to = (int)((int64_t)shares * (worker + 1) / workers);
            for (share = from; share < to; share++) {
                int item = small ? share / q->points : share, p = small ? share % q->points : 0;
                int c0 = item / panels * group, c1 = c0 + group < q->c ? c0 + group : q->c;
                l2l_real *mine = sums + (kept == items ? item : worker) * size;
                if (kept != items) memset(mine, 0, (size_t)size * sizeof *mine);
                l2l__winograd_sum(q, count, v, z, p, small ? p + 1 : q->points, c0, c1,
                                  item % panels, mine, step);
                if (last && !small)
                    l2l__winograd_collect(q, mine, step, c0, c1, item % panels,
                                          out + worker * (9 * step), dw);
            }
        }
    }
    for (t = 0; !c->status && small && t < panels; t++)
        l2l__winograd_collect(q, sums + t * size, step, 0, q->c, t, out, dw);
    l2l_release(c, mark);
    return !c->status;
}

/* The matrix of a weight for x -> y (direction 0) or dy -> dx (1). */
static l2l__matrix l2l__matrix_of(const l2l__geometry *g, int direction)
{
    l2l__matrix m;
    m.kh = g->kh; m.kw = g->kw;
    m.stride = direction ? g->stride : 1;
    m.depth = direction ? g->k : g->c;
    m.columns = direction ? g->c : g->k;
    m.st = (int64_t)g->c * g->k;
    m.sd = direction ? 1 : g->k;
    m.sq = direction ? g->k : 1;
    return m;
}

static bool l2l__conv_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                              const l2l_tensor *w, const l2l__epilogue *e, l2l_real *y)
{
    const l2l__epilogue *last = e->scale || e->bias || e->residual || e->relu ? e : NULL;
    l2l__geometry in = *g;
    l2l__indirect q;
    l2l__matrix m = l2l__matrix_of(g, 0);
    l2l_real *temporary, *padded = NULL;
    int side = l2l__winograd_side(c->kernels, g->oh, g->ow, g->c, g->k, g->kh, g->kw, g->stride,
                                  g->padding);
    bool ok;
    if (!c->kernels->tile) {
        l2l__naive_conv_forward(c, g, x, w->data, e, y);
        return true;
    }
    if (side) {
        l2l__winograd v = l2l__winograd_of(c, side, g->n, g->h, g->w, g->c, g->oh, g->ow, g->k,
                                           g->padding);
        v.source = x;
        v.out = y;
        v.epilogue = last;
        return l2l__winograd_run(c, &v, w, &m, 0);
    }
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.g = &in;
    q.wide = g->c <= L2L__FEW && g->kh * g->kw > 1;
    if (q.wide) {
        m.kw = 1;
        m.depth = g->kw * g->c;
        m.st = (int64_t)m.depth * g->k;
        x = l2l__padded(c, &in, x, &padded);
    }
    q.taps = q.count = m.kh * m.kw;
    q.depth = m.depth;
    q.columns = g->k;
    q.oh = g->oh;
    q.ow = g->ow;
    q.pixels = (int64_t)g->n * g->oh * g->ow;
    q.source = x;
    q.epilogue = last;
    q.out = y;
    q.panels = l2l__panels(c, w, &m, 0, &temporary);
    ok = x && q.panels && l2l__indirect_run(c, &q);
    l2l__arena_drop(c, temporary);
    l2l__arena_drop(c, padded);
    return ok;
}

/* -- input gradient of a layer with few input channels: the product dy x W^T gives each output
   pixel's contribution to its whole patch, which is added line by line into an image with its
   padding, one image at a time. `room` holds six patches and that image. */
static void l2l__scatter_image(const l2l__kernels *kernels, const l2l__geometry *g,
                               const l2l_real *dy, const l2l_real *panels, l2l_real *room,
                               l2l_real *dx)
{
    int columns = g->kh * g->kw * g->c, width = kernels->columns, pixels = g->oh * g->ow, p, j, r,
        d0, i, e, line = g->kw * g->c, long_line = (g->w + 2 * g->padding) * g->c;
    int padded = (columns + width - 1) / width * width;
    l2l_real *image = room + (int64_t)L2L__ROWS * padded;
    const l2l_real *a[L2L__ROWS];
    l2l_real *y[L2L__ROWS];
    memset(image, 0, (size_t)(g->h + 2 * g->padding) * (size_t)long_line * sizeof *image);
    for (p = 0; p < pixels; p += L2L__ROWS) {
        int rows = pixels - p < L2L__ROWS ? pixels - p : L2L__ROWS;
        for (r = 0; r < L2L__ROWS; r++) a[r] = dy + (int64_t)(p + (r < rows ? r : 0)) * g->k;
        for (j = 0; j < padded; j += width) {
            for (r = 0; r < rows; r++) y[r] = room + r * padded + j;
            for (d0 = 0; d0 < g->k; d0 += L2L__SLAB)
                kernels->tile(rows, 1, g->k - d0 < L2L__SLAB ? g->k - d0 : L2L__SLAB, a, d0,
                              panels + (int64_t)j * g->k + (int64_t)d0 * width, 0, y, d0 > 0);
        }
        for (r = 0; r < rows; r++) {
            const l2l_real *patch = room + r * padded;
            l2l_real *to = image + (int64_t)((p + r) / g->ow * g->stride) * long_line +
                           (p + r) % g->ow * g->stride * g->c;
            for (i = 0; i < g->kh; i++, patch += line, to += long_line)
                if (line >= 16) kernels->add(line, to, patch, to);
                else for (e = 0; e < line; e++) to[e] += patch[e];
        }
    }
    for (i = 0; i < g->h; i++)
        memcpy(dx + (int64_t)i * g->w * g->c,
               image + (int64_t)(i + g->padding) * long_line + g->padding * g->c,
               (size_t)g->w * (size_t)g->c * sizeof *dx);
}

static bool l2l__scatter_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *dy,
                                  const l2l_tensor *w, l2l_real *dx)
{
    const l2l__kernels *kernels = c->kernels;
    int columns = g->kh * g->kw * g->c, worker;
    int padded = (columns + kernels->columns - 1) / kernels->columns * kernels->columns;
    int64_t from = (int64_t)g->oh * g->ow * g->k, to = (int64_t)g->h * g->w * g->c;
    int64_t size = L2L__ROWS * (int64_t)padded +
                   (int64_t)(g->h + 2 * g->padding) * (g->w + 2 * g->padding) * g->c;
    int workers = l2l__workers(c, g->n * from * columns);
    l2l__matrix m;
    l2l_real *temporary, *room;
    const l2l_real *panels;
    m.kh = m.kw = m.stride = 1;
    m.depth = g->k; m.columns = columns;
    m.st = 0; m.sd = 1; m.sq = g->k;
    panels = l2l__panels(c, w, &m, 1, &temporary);
    room = (l2l_real *)l2l__arena_array(c, workers * size, sizeof *room);
    if (room) {
        L2L__PARALLEL(workers)
        for (worker = 0; worker < workers; worker++) {
            int n;
            for (n = worker; n < g->n; n += workers)
                l2l__scatter_image(kernels, g, dy + n * from, panels, room + worker * size,
                                   dx + n * to);
        }
    }
    l2l__arena_drop(c, room);
    l2l__arena_drop(c, temporary);
    return !c->status;
}

static bool l2l__conv_input_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *dy,
                                     const l2l_tensor *w, l2l_real *dx)
{
    l2l__indirect q;
    l2l__matrix m = l2l__matrix_of(g, 1);
    l2l_real *temporary;
    int side = l2l__winograd_side(c->kernels, g->h, g->w, g->k, g->c, g->kh, g->kw, g->stride,
                                  g->padding);
    bool ok;
    if (!c->kernels->tile) {
        l2l__naive_conv_input_gradient(c, g, dy, w->data, dx);
        return true;
    }
    if (g->c <= L2L__FEW && g->kh * g->kw > 1) return l2l__scatter_gradient(c, g, dy, w, dx);
    if (side) {
        l2l__winograd v = l2l__winograd_of(c, side, g->n, g->oh, g->ow, g->k, g->h, g->w, g->c,
                                           2 - g->padding);
        v.source = dy;
        v.out = dx;
        return l2l__winograd_run(c, &v, w, &m, 1);
    }
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.g = g;
    q.backward = true;
    q.taps = g->kh * g->kw;
    q.depth = g->k;
    q.columns = g->c;
    q.source = dy;
    q.out = dx;
    q.panels = l2l__panels(c, w, &m, 1, &temporary);
    ok = q.panels && l2l__indirect_phases(c, &q);
    l2l__arena_drop(c, temporary);
    return ok;
}

/* -- weight gradient: dW[tap][c][k] = sum over output pixels of x[pixel moved by tap][c]
   dy[pixel][k]. Its tiles (six channels of a tap x a panel of k) are shared out to the threads;
   each thread walks over the images in order and adds every image into all of its tiles, so the
   order of additions does not depend on how many threads there are. */
typedef struct l2l__outer_plan {
    const l2l__kernels *kernels;
    l2l__geometry g;
    const l2l_real *x, *dy;
    int pitch, ldy;                          /* distance of pixels in x and in dy                 */
    int bands, panels, tiles;                /* bands of six channels                             */
    l2l_real *sums;                          /* tiles x ROWS x columns                            */
} l2l__outer_plan;

/* Panels of k that would reach beyond the last column begin earlier instead (and overlap). */
static int l2l__panel_start(const l2l__outer_plan *q, int panel)
{
    int at = panel * q->kernels->columns, last = q->ldy - q->kernels->columns;
    return at < last ? at : last;
}

static void l2l__outer_tile(const l2l__outer_plan *q, int n, int tile)
{
    const l2l__geometry *g = &q->g;
    int panel = tile % q->panels, band = tile / q->panels % q->bands,
        t = tile / q->panels / q->bands;
    int i = t / g->kw - g->padding, j = t % g->kw - g->padding, c0 = band * L2L__ROWS, oh;
    int rows = g->c - c0 < L2L__ROWS ? g->c - c0 : L2L__ROWS, first = 0, last = g->ow;
    while (first < last && first * g->stride + j < 0) first++;
    while (last > first && (last - 1) * g->stride + j >= g->w) last--;
    for (oh = 0; oh < g->oh && first < last; oh++) {
        int64_t ih = (int64_t)oh * g->stride + i;
        if (ih < 0 || ih >= g->h) continue;
        q->kernels->outer(rows, last - first,
                          q->x + ((n * (int64_t)g->h + ih) * g->w + first * g->stride + j) *
                                     q->pitch + c0,
                          (int64_t)g->stride * q->pitch,
                          q->dy + ((n * (int64_t)g->oh + oh) * g->ow + first) * q->ldy +
                              l2l__panel_start(q, panel),
                          q->ldy, q->sums + (int64_t)tile * L2L__ROWS * q->kernels->columns);
    }
}

static void l2l__outer_store(const l2l__outer_plan *q, int tile, l2l_real *dw)
{
    const l2l__geometry *g = &q->g;
    int width = q->kernels->columns, panel = tile % q->panels, band = tile / q->panels % q->bands;
    int t = tile / q->panels / q->bands, k0 = panel * width, r;
    int start = l2l__panel_start(q, panel), count = g->k - k0 < width ? g->k - k0 : width;
    for (r = 0; r < L2L__ROWS && band * L2L__ROWS + r < g->c; r++)
        memcpy(dw + ((int64_t)t * g->c + band * L2L__ROWS + r) * g->k + k0,
               q->sums + ((int64_t)tile * L2L__ROWS + r) * width + (k0 - start),
               (size_t)count * sizeof *dw);
}

static bool l2l__outer_run(l2l_context *c, l2l__outer_plan *q, l2l_real *dw)
{
    const l2l__geometry *g = &q->g;
    int64_t size = (int64_t)L2L__ROWS * q->kernels->columns;
    int workers = l2l__workers(c, (int64_t)g->n * g->oh * g->ow * g->c * g->k), w, tile;
    q->bands = (g->c + L2L__ROWS - 1) / L2L__ROWS;
    q->panels = (g->k + q->kernels->columns - 1) / q->kernels->columns;
    q->tiles = g->kh * g->kw * q->bands * q->panels;
    q->sums = (l2l_real *)l2l__arena_array(c, q->tiles * size, sizeof *q->sums);
    if (!q->sums) return false;
    memset(q->sums, 0, (size_t)(q->tiles * size) * sizeof *q->sums);
    L2L__PARALLEL(workers)
    for (w = 0; w < workers; w++) {
        int from = (int)((int64_t)q->tiles * w / workers), n, z;
        int to = (int)((int64_t)q->tiles * (w + 1) / workers);
        for (n = 0; n < g->n; n++)
            for (z = from; z < to; z++) l2l__outer_tile(q, n, z);
    }
    for (tile = 0; tile < q->tiles; tile++) l2l__outer_store(q, tile, dw);
    l2l__arena_drop(c, q->sums);
    return true;
}

/* dy with its rows widened to one whole panel, for layers with fewer output channels than that. */
static l2l_real *l2l__widen(l2l_context *c, const l2l_real *dy, int64_t pixels, int k, int width)
{
    l2l_real *out = (l2l_real *)l2l__arena_array(c, pixels * width, sizeof *out);
    int64_t p;
    for (p = 0; out && p < pixels; p++) {
        memcpy(out + p * width, dy + p * k, (size_t)k * sizeof *out);
        memset(out + p * width + k, 0, (size_t)(width - k) * sizeof *out);
    }
    return out;
}

static bool l2l__conv_weight_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                      const l2l_real *dy, l2l_real *dw)
{
    l2l_mark mark = l2l_mark_here(c);
    l2l__outer_plan q;
    int64_t pixels = (int64_t)g->n * g->oh * g->ow;
    l2l_real *padded;
    int side;
    if (!c->kernels->tile) {
        l2l__naive_conv_weight_gradient(c, g, x, dy, dw);
        return true;
    }
    side = l2l__winograd_side(c->kernels, g->oh, g->ow, g->c, g->k, g->kh, g->kw, g->stride,
                              g->padding);
    if (side) {
        l2l__winograd v = l2l__winograd_of(c, side, g->n, g->h, g->w, g->c, g->oh, g->ow, g->k,
                                           g->padding);
        v.source = x;
        return l2l__winograd_weight_gradient(c, &v, dy, dw);
    }
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.g = *g;
    q.x = x;
    q.dy = dy;
    q.ldy = g->k;
    q.pitch = g->c;
    if (g->k < q.kernels->columns) {
        q.ldy = q.kernels->columns;
        q.dy = l2l__widen(c, dy, pixels, g->k, q.ldy);
    }
    if (g->c <= L2L__FEW && g->kh * g->kw > 1) { /* a line of the kernel is one tap             */
        q.x = l2l__padded(c, &q.g, x, &padded);
        q.g.c = g->kw * g->c;
        q.g.kw = 1;
    }
    if (q.g.kh * q.g.kw == 1 && q.g.stride == 1 && q.g.padding == 0 && q.pitch == q.g.c &&
        pixels <= INT_MAX) {
        q.g.n = q.g.h = q.g.oh = 1;          /* all pixels in one row: a plain matrix product     */
        q.g.w = q.g.ow = (int)pixels;
    }
    if (!c->status) l2l__outer_run(c, &q, dw);
    l2l_release(c, mark);
    return !c->status;
}

/* -- pooling ----------------------------------------------------------------------------------- */

static void l2l__max_pool_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                  l2l_real *y, int *index)
{
    const l2l__kernels *kernels = c->kernels;
    int64_t row, rows = (int64_t)g->n * g->oh, size = (int64_t)g->ow * g->c;
    L2L__PARALLEL(l2l__workers(c, rows * size * g->kh * g->kh))
    for (row = 0; row < rows; row++)
        kernels->pool_row(g, x + row / g->oh * g->h * g->w * g->c, (int)(row % g->oh),
                          y + row * size, index + row * size);
}

static void l2l__unpool(l2l_context *c, const l2l__geometry *g, const l2l_real *dy,
                        const int *index, l2l_real *dx)
{
    int64_t in = (int64_t)g->h * g->w * g->c, out = (int64_t)g->oh * g->ow * g->c;
    int n;
    L2L__PARALLEL(l2l__workers(c, g->n * in))
    for (n = 0; n < g->n; n++) {
        l2l_real *image = dx + n * in;
        const l2l_real *d = dy + n * out;
        const int *place = index + n * out;
        int64_t i;
        int k;
        memset(image, 0, (size_t)in * sizeof *image);
        for (i = 0; i < out; i += g->c)
            for (k = 0; k < g->c; k++) image[(int64_t)place[i + k] * g->c + k] += d[i + k];
    }
}

static void l2l__pool_gather(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                             const int *index, l2l_real *y)
{
    int64_t in = (int64_t)g->h * g->w * g->c, out = (int64_t)g->oh * g->ow * g->c;
    int n;
    L2L__PARALLEL(l2l__workers(c, g->n * out))
    for (n = 0; n < g->n; n++) {
        int64_t i;
        int k;
        for (i = 0; i < out; i += g->c)
            for (k = 0; k < g->c; k++)
                y[n * out + i + k] = x[n * in + (int64_t)index[n * out + i + k] * g->c + k];
    }
}

/* Adds between the window's pixels and the output pixel: towards y (forward) or towards x
   (adjoint). */
static void l2l__average_image(const l2l__geometry *g, bool forward, l2l_real *x, l2l_real *y)
{
    l2l_real share = (l2l_real)(1.0 / g->kh / g->kh);
    int oh, ow, i, j, k;
    for (oh = 0; oh < g->oh; oh++)
        for (ow = 0; ow < g->ow; ow++, y += g->c)
            for (i = 0; i < g->kh; i++)
                for (j = 0; j < g->kh; j++) {
                    int h = oh * g->stride + i - g->padding, w = ow * g->stride + j - g->padding;
                    l2l_real *at;
                    if (h < 0 || h >= g->h || w < 0 || w >= g->w) continue;
                    at = x + ((int64_t)h * g->w + w) * g->c;
                    if (forward) for (k = 0; k < g->c; k++) y[k] += at[k] * share;
                    else for (k = 0; k < g->c; k++) at[k] += y[k] * share;
                }
}

static void l2l__average(l2l_context *c, const l2l__geometry *g, bool forward, l2l_real *x,
                         l2l_real *y)
{
    int64_t in = (int64_t)g->h * g->w * g->c, out = (int64_t)g->oh * g->ow * g->c;
    int n;
    L2L__PARALLEL(l2l__workers(c, g->n * in))
    for (n = 0; n < g->n; n++) {
        if (forward) memset(y + n * out, 0, (size_t)out * sizeof *y);
        else memset(x + n * in, 0, (size_t)in * sizeof *x);
        l2l__average_image(g, forward, x + n * in, y + n * out);
    }
}

/* The cell's kernels for the instruction set in use. */
static const l2l__cell_kernels *l2l__cell_kernels_of(const l2l_context *c)
{
    const l2l__cell_kernels *k = &l2l__cell_plain;
#if defined(L2L__VECTORS) && defined(L2L__X86)
    if (c->kernels->cpu == L2L_CPU_VECTOR) k = &l2l__cell_kernels_sse2;
    if (c->kernels->cpu == L2L_CPU_AVX2) k = &l2l__cell_kernels_avx2;
    if (c->kernels->cpu == L2L_CPU_AVX512) k = &l2l__cell_kernels_avx512;
#elif defined(L2L__VECTORS)
    if (c->kernels->cpu == L2L_CPU_VECTOR) k = &l2l__cell_kernels_neon;
#else
    L2L__UNUSED(c);
#endif
    return k;
}

/* ============================================================================================ */
/*  5  TENSORS AND REVERSE-MODE AUTODIFF                                             >>autodiff  */
/* ============================================================================================

   An operation computes its result at once and, while the context records, leaves a node on the
   tape: which operation, its inputs, what it saved. l2l_vjp walks the tape backwards. Each node's
   vector-Jacobian product (VJP) is written with the operations of this chapter, so with
   L2L_CREATE_GRAPH the walk itself is recorded and can be differentiated again, to any order.
   Convolution, input gradient and weight gradient are each other's VJPs; unpooling and gathering,
   summing and broadcasting, slicing and placing, picking and unpicking are pairs of adjoints. */

typedef struct l2l__vjp {
    l2l_context *c;
    l2l_tensor *y, *dy;                      /* the node and the cotangent of its output          */
    bool need[8];                            /* which inputs' cotangents are asked for            */
    l2l_tensor *dx[8];                       /* the answer; NULL means zero                       */
} l2l__vjp;

typedef struct l2l__operation {
    const char *name;
    void (*vjp)(l2l__vjp *v);
} l2l__operation;

/* -- shapes and storage ------------------------------------------------------------------------ */

L2LADVDEF l2l_shape l2l_shape_of(int n, int h, int w, int c)
{
    l2l_shape s;
    s.n = n; s.h = h; s.w = w; s.c = c;
    return s;
}

L2LADVDEF int64_t l2l_count(l2l_shape s)
{
    return (int64_t)s.n * s.h * ((int64_t)s.w * s.c);
}

static bool l2l__same(l2l_shape a, l2l_shape b)
{
    return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c;
}

static l2l_shape l2l__channels(int channels) { return l2l_shape_of(1, 1, 1, channels); }

/* Axes must be positive, and what they multiply to must leave room for arithmetic on it. */
static bool l2l__shape_ok(l2l_context *c, const char *where, l2l_shape s)
{
    int64_t a, b;
    if (c->status) return false;
    if (s.n < 1 || s.h < 1 || s.w < 1 || s.c < 1)
        return l2l__fail(c, L2L_ERROR_SHAPE, "%s: every axis must be at least 1, not %dx%dx%dx%d",
                         where, s.n, s.h, s.w, s.c);
    a = (int64_t)s.n * s.h;
    b = (int64_t)s.w * s.c;
    if (a > INT64_MAX / 64 / b || (uint64_t)(a * b) > SIZE_MAX / 64)
        return l2l__fail(c, L2L_ERROR_MEMORY, "%s: %dx%dx%dx%d is too large", where, s.n, s.h, s.w,
                         s.c);
    return true;
}

static bool l2l__shapes_differ(l2l_context *c, const char *where, l2l_shape a, l2l_shape b)
{
    return l2l__fail(c, L2L_ERROR_SHAPE, "%s: %dx%dx%dx%d does not fit %dx%dx%dx%d", where, a.n,
                     a.h, a.w, a.c, b.n, b.h, b.w, b.c);
}

/* Every operation begins with this: no earlier error, and data to work on. */
static bool l2l__ready(l2l_context *c, const char *where, const l2l_tensor *x)
{
    if (c->status) return false;
    if (!x) return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: an input tensor is NULL", where);
    for (; x; x = x->base)                   /* a view stands and falls with its base             */
        if (!x->data)
            return l2l__fail(c, L2L_ERROR_ARGUMENT,
                             "%s: an input's data were given back (dropped, or "
                             "freed by L2L_FREE_GRAPH)",
                             where);
    return true;
}

static l2l_tensor *l2l__header(l2l_context *c, l2l_shape s)
{
    l2l_tensor *x = (l2l_tensor *)l2l__arena(c, sizeof *x);
    if (!x) return NULL;
    memset(x, 0, sizeof *x);
    x->shape = s;
    x->tape = -1;
    x->references = 1;
    return x;
}

/* A tensor whose numbers are not set yet. */
static l2l_tensor *l2l__new(l2l_context *c, const char *where, l2l_shape s)
{
    l2l_tensor *x;
    if (!l2l__shape_ok(c, where, s) || !(x = l2l__header(c, s))) return NULL;
    x->data = (l2l_real *)l2l__arena_array(c, l2l_count(s), sizeof(l2l_real));
    if (!x->data) {
        l2l__arena_drop(c, x);
        return NULL;
    }
    return x;
}

static void l2l__drop_data(l2l_context *c, l2l_tensor *x)
{
    if (!x->base) l2l__arena_drop(c, x->data);
    l2l__arena_drop(c, x->index);
    l2l__arena_drop(c, x->saved);
    x->data = x->saved = NULL;
    x->index = NULL;
}

static l2l_tensor *l2l__retain(l2l_tensor *x)
{
    if (x && x->references) x->references++;
    return x;
}

/* Recorded nodes live as long as the tape; parameters (references 0) as long as their model. */
L2LADVDEF void l2l_drop(l2l_context *c, l2l_tensor *x)
{
    while (x && x->tape == -1 && x->references > 0 && --x->references == 0) {
        l2l_tensor *base = x->base;
        l2l__drop_data(c, x);
        l2l__arena_drop(c, x);
        x = base;
    }
}

/* A view: y shows x's data under another shape. */
static l2l_tensor *l2l__view(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    l2l_tensor *y = l2l__header(c, s);
    if (!y) return NULL;
    y->data = x->data;
    y->packed = x->packed;
    y->base = l2l__retain(x);
    return y;
}

/* Puts y on the tape as op(in[0], in[1], ...). What the tape refers to cannot be dropped. */
static l2l_tensor *l2l__record(l2l_context *c, l2l_tensor *y, const l2l__operation *op,
                               l2l_tensor *const *in, int n)
{
    int i;
    if (!y || !c->recording) return y;
    if (c->tape_length == c->tape_capacity) {
        int capacity = c->tape_capacity ? 2 * c->tape_capacity : 1024;
        l2l_tensor **tape = (l2l_tensor **)l2l__allocate_array(c, capacity, sizeof *tape);
        if (!tape) {
            l2l_drop(c, y);
            return NULL;
        }
        if (c->tape) memcpy(tape, c->tape, (size_t)c->tape_length * sizeof *tape);
        l2l_free(c, c->tape);
        c->tape = tape;
        c->tape_capacity = capacity;
    }
    y->op = op;
    for (i = 0; i < n; i++) {
        y->in[i] = in[i];
        if (in[i] && in[i]->references) in[i]->references++;
    }
    y->tape = c->tape_length;
    c->tape[c->tape_length++] = y;
    return y;
}

static l2l_tensor *l2l__record1(l2l_context *c, l2l_tensor *y, const l2l__operation *op,
                                l2l_tensor *x)
{
    return l2l__record(c, y, op, &x, 1);
}

static l2l_tensor *l2l__record2(l2l_context *c, l2l_tensor *y, const l2l__operation *op,
                                l2l_tensor *a, l2l_tensor *b)
{
    l2l_tensor *in[2];
    in[0] = a; in[1] = b;
    return l2l__record(c, y, op, in, 2);
}

L2LADVDEF bool l2l_recording(const l2l_context *c) { return c->recording; }

L2LADVDEF bool l2l_set_recording(l2l_context *c, bool on)
{
    bool was = c->recording;
    c->recording = on;
    return was;
}

L2LADVDEF l2l_tensor *l2l_full(l2l_context *c, l2l_shape s, double value)
{
    l2l_tensor *x = l2l__new(c, "l2l_full", s);
    int64_t i, n = x ? l2l_count(s) : 0;
    for (i = 0; i < n; i++) x->data[i] = (l2l_real)value;
    return x;
}

L2LADVDEF l2l_tensor *l2l_zeros(l2l_context *c, l2l_shape s) { return l2l_full(c, s, 0); }

/* A copy that belongs to nobody's tape. */
static l2l_tensor *l2l__copy(l2l_context *c, const l2l_tensor *x)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "copy", x) || !(y = l2l__new(c, "copy", x->shape))) return NULL;
    memcpy(y->data, x->data, (size_t)l2l_count(x->shape) * sizeof *y->data);
    return y;
}

/* One image between CxHxW and HxWxC. */
static void l2l__image_to_hwc(const l2l_real *chw, int channels, int64_t plane, l2l_real *hwc)
{
    int64_t i;
    int k;
    for (k = 0; k < channels; k++)
        for (i = 0; i < plane; i++) hwc[i * channels + k] = chw[k * plane + i];
}

static void l2l__image_to_chw(const l2l_real *hwc, int channels, int64_t plane, l2l_real *chw)
{
    int64_t i;
    int k;
    for (k = 0; k < channels; k++)
        for (i = 0; i < plane; i++) chw[k * plane + i] = hwc[i * channels + k];
}

L2LADVDEF l2l_tensor *l2l_from_nchw(l2l_context *c, const l2l_real *values, l2l_shape s)
{
    l2l_tensor *x = l2l__new(c, "l2l_from_nchw", s);
    int64_t plane = (int64_t)s.h * s.w, one = plane * s.c;
    int i, n = x ? s.n : 0;
    for (i = 0; i < n; i++) l2l__image_to_hwc(values + i * one, s.c, plane, x->data + i * one);
    return x;
}

L2LADVDEF bool l2l_to_nchw(l2l_context *c, const l2l_tensor *x, l2l_real *values)
{
    int64_t plane, one;
    int i;
    if (!l2l__ready(c, "l2l_to_nchw", x)) return false;
    plane = (int64_t)x->shape.h * x->shape.w;
    one = plane * x->shape.c;
    for (i = 0; i < x->shape.n; i++)
        l2l__image_to_chw(x->data + i * one, x->shape.c, plane, values + i * one);
    return true;
}

L2LADVDEF double l2l_item(l2l_context *c, const l2l_tensor *x)
{
    if (!l2l__ready(c, "l2l_item", x)) return 0;
    if (l2l_count(x->shape) != 1)
        return l2l__shapes_differ(c, "l2l_item", x->shape, l2l__channels(1)) ? 1 : 0;
    return (double)x->data[0];
}

/* -- the backward walk ------------------------------------------------------------------------- */

/* *slot += g; takes over g. */
static void l2l__accumulate(l2l_context *c, l2l_tensor **slot, l2l_tensor *g)
{
    l2l_tensor *a = *slot, *sum;
    if (!g || c->status) return;
    if (!a) {
        *slot = g;
    } else if (!c->recording && a->references == 1 && a->tape == -1 && !a->base) {
        l2l__ew_add(c, l2l_count(a->shape), a->data, g->data, a->data);
        l2l_drop(c, g);
    } else {
        sum = l2l_add(c, a, g);
        l2l_drop(c, a);
        l2l_drop(c, g);
        *slot = sum;
    }
}

/* The state of one walk. Inputs that are leaves carry -2-k in their `tape` while it lasts. */
typedef struct l2l__walk {
    l2l_tensor *const *inputs;
    int n, last;                             /* last: the output's place on the tape              */
    l2l_tensor **gradients;                  /* per input                                         */
    l2l_tensor **slots;                      /* per node: its cotangent so far                    */
    unsigned char *need;                     /* per node: 1 a path to an input, 2 an input itself */
} l2l__walk;

static l2l_tensor **l2l__walk_slot(l2l__walk *w, l2l_tensor *x)
{
    if (x->tape >= 0)
        return x->tape <= w->last && w->need[x->tape] ? &w->slots[x->tape] : NULL;
    if (x->tape > -2 || -2 - x->tape >= w->n || w->inputs[-2 - x->tape] != x) return NULL;
    return &w->gradients[-2 - x->tape];
}

static void l2l__walk_mark(l2l_context *c, l2l__walk *w)
{
    int i, j, last = w->last;
    memset(w->need, 0, (size_t)last + 1);
    memset(w->slots, 0, ((size_t)last + 1) * sizeof *w->slots);
    for (i = 0; i < w->n; i++)
        if (w->inputs[i]->tape >= 0 && w->inputs[i]->tape <= last) w->need[w->inputs[i]->tape] = 2;
    for (i = 0; i <= last; i++)
        for (j = 0; j < 8; j++) {
            l2l_tensor *x = c->tape[i]->in[j];
            if (x && x->tape < i && l2l__walk_slot(w, x)) {
                w->need[i] |= 1;
                break;
            }
        }
}

static void l2l__walk_node(l2l_context *c, l2l__walk *w, l2l_tensor *y, unsigned flags)
{
    l2l__vjp v;
    l2l_tensor **slot;
    int j;
    memset(&v, 0, sizeof v);
    v.c = c;
    v.y = y;
    v.dy = w->slots[y->tape];
    for (j = 0; j < 8; j++) v.need[j] = y->in[j] && l2l__walk_slot(w, y->in[j]);
    y->op->vjp(&v);
    for (j = 0; j < 8; j++) {
        slot = v.need[j] ? l2l__walk_slot(w, y->in[j]) : NULL;
        if (slot) l2l__accumulate(c, slot, v.dx[j]);
        else l2l_drop(c, v.dx[j]);
    }
    if (w->need[y->tape] == 1) {             /* not asked for: no longer needed                   */
        l2l_drop(c, v.dy);
        w->slots[y->tape] = NULL;
    }
    if ((flags & L2L_FREE_GRAPH) && !(w->need[y->tape] & 2)) l2l__drop_data(c, y);
}

static void l2l__walk_back(l2l_context *c, l2l__walk *w, l2l_tensor *output, l2l_tensor *cotangent,
                           unsigned flags)
{
    int i;
    l2l_tensor **slot;
    l2l__walk_mark(c, w);
    slot = l2l__walk_slot(w, output);
    if (slot) *slot = cotangent ? l2l__retain(cotangent) : l2l_full(c, output->shape, 1);
    for (i = w->last; i >= 0 && !c->status; i--)
        if ((w->need[i] & 1) && w->slots[i]) l2l__walk_node(c, w, c->tape[i], flags);
    for (i = 0; i < w->n && !c->status; i++) {
        l2l_tensor **g = l2l__walk_slot(w, w->inputs[i]);
        if (!g) {                            /* recorded after the output                         */
            w->gradients[i] = l2l_zeros(c, w->inputs[i]->shape);
        } else {
            if (!*g) *g = l2l_zeros(c, w->inputs[i]->shape);
            if (g != &w->gradients[i]) w->gradients[i] = l2l__retain(*g);
        }
    }
    for (i = 0; i < w->n && !c->status; i++) /* the walk's own hold on gradients of nodes         */
        if (w->inputs[i]->tape >= 0 && (slot = l2l__walk_slot(w, w->inputs[i])) != NULL) {
            l2l_drop(c, *slot);
            *slot = NULL;
        }
}

L2LADVDEF bool l2l_vjp(l2l_context *c, l2l_tensor *output, l2l_tensor *cotangent,
                       l2l_tensor *const *inputs, int n_inputs, l2l_tensor **gradients,
                       unsigned flags)
{
    l2l_mark mark = l2l_mark_here(c);
    bool was = c->recording;
    l2l__walk w;
    int i, *saved;
    for (i = 0; i < n_inputs; i++) gradients[i] = NULL;
    if (!l2l__ready(c, "l2l_vjp", output)) return false;
    if (output->tape < 0)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_vjp: the output is not on the tape: was "
                         "recording on when it was computed?");
    if (cotangent && !l2l__same(cotangent->shape, output->shape))
        return l2l__shapes_differ(c, "l2l_vjp: the cotangent", cotangent->shape, output->shape);
    if ((flags & L2L_CREATE_GRAPH) && (flags & L2L_FREE_GRAPH))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_vjp: L2L_CREATE_GRAPH needs the tape that "
                         "L2L_FREE_GRAPH gives back");
    for (i = 0; i < n_inputs; i++)
        if (!l2l__ready(c, "l2l_vjp", inputs[i])) return false;
    w.inputs = inputs;
    w.n = n_inputs;
    w.last = output->tape;
    w.gradients = gradients;
    w.slots = (l2l_tensor **)l2l__arena_array(c, output->tape + 1, sizeof *w.slots);
    w.need = (unsigned char *)l2l__arena_array(c, output->tape + 1, 1);
    saved = (int *)l2l__arena_array(c, n_inputs + 1, sizeof *saved);
    if (saved) {
        for (i = 0; i < n_inputs; i++) saved[i] = inputs[i]->tape;
        for (i = 0; i < n_inputs; i++)
            if (inputs[i]->tape < 0) inputs[i]->tape = -2 - i;
        c->recording = (flags & L2L_CREATE_GRAPH) != 0;
        l2l__walk_back(c, &w, output, cotangent, flags);
        c->recording = was;
        for (i = 0; i < n_inputs; i++) inputs[i]->tape = saved[i];
    }
    if (c->status) {
        l2l_release(c, mark);
        for (i = 0; i < n_inputs; i++) gradients[i] = NULL;
        return false;
    }
    l2l__arena_drop(c, w.slots);
    l2l__arena_drop(c, w.need);
    l2l__arena_drop(c, saved);
    return true;
}

L2LADVDEF bool l2l_grad(l2l_context *c, l2l_tensor *output, l2l_tensor *const *inputs, int n_inputs,
                        l2l_tensor **gradients, unsigned flags)
{
    return l2l_vjp(c, output, NULL, inputs, n_inputs, gradients, flags);
}

/* -- elementwise, two operands ----------------------------------------------------------------- */

/* Result shape of a broadcast pair; an axis of length 1 fits any. */
static bool l2l__broadcast(l2l_context *c, const char *where, l2l_shape a, l2l_shape b,
                           l2l_shape *s)
{
    if ((a.n != b.n && a.n != 1 && b.n != 1) || (a.h != b.h && a.h != 1 && b.h != 1) ||
        (a.w != b.w && a.w != 1 && b.w != 1) || (a.c != b.c && a.c != 1 && b.c != 1))
        return l2l__shapes_differ(c, where, a, b);
    *s = l2l_shape_of(a.n > b.n ? a.n : b.n, a.h > b.h ? a.h : b.h, a.w > b.w ? a.w : b.w,
                      a.c > b.c ? a.c : b.c);
    return true;
}

/* Where x's row of channels for pixel p of s begins, x being broadcast to s. */
static const l2l_real *l2l__row(const l2l_tensor *x, l2l_shape s, int64_t p)
{
    int64_t w = x->shape.w == 1 ? 0 : p % s.w, h = x->shape.h == 1 ? 0 : p / s.w % s.h;
    int64_t n = x->shape.n == 1 ? 0 : p / s.w / s.h;
    return x->data + ((n * x->shape.h + h) * x->shape.w + w) * x->shape.c;
}

static void l2l__binary_row(char kind, const l2l_real *a, int sa, const l2l_real *b, int sb, int n,
                            l2l_real *y)
{
    int i;
    if (kind == '+') for (i = 0; i < n; i++) y[i] = a[i * sa] + b[i * sb];
    else if (kind == '-') for (i = 0; i < n; i++) y[i] = a[i * sa] - b[i * sb];
    else for (i = 0; i < n; i++) y[i] = a[i * sa] * b[i * sb];
}

static l2l_tensor *l2l__binary(l2l_context *c, char kind, const char *where,
                               const l2l__operation *op, l2l_tensor *a, l2l_tensor *b)
{
    l2l_tensor *y;
    l2l_shape s;
    int64_t p, pixels, n;
    if (!l2l__ready(c, where, a) || !l2l__ready(c, where, b) ||
        !l2l__broadcast(c, where, a->shape, b->shape, &s) || !(y = l2l__new(c, where, s)))
        return NULL;
    n = l2l_count(s);
    pixels = n / s.c;
    if (l2l__same(a->shape, b->shape) && kind == '+') {
        l2l__ew_add(c, n, a->data, b->data, y->data);
    } else if (l2l__same(a->shape, b->shape) && kind == '*') {
        l2l__ew_mul(c, n, a->data, b->data, y->data);
    } else {
        int sa = a->shape.c > 1 || s.c == 1, sb = b->shape.c > 1 || s.c == 1;
        L2L__PARALLEL(l2l__workers(c, n))
        for (p = 0; p < pixels; p++)
            l2l__binary_row(kind, l2l__row(a, s, p), sa, l2l__row(b, s, p), sb, s.c,
                            y->data + p * s.c);
    }
    return l2l__record2(c, y, op, a, b);
}

/* g, owned, summed down to the shape that was broadcast. */
static l2l_tensor *l2l__unbroadcast(l2l_context *c, l2l_tensor *g, l2l_shape s)
{
    l2l_tensor *r;
    if (!g || l2l__same(g->shape, s)) return g;
    r = l2l_sum_to(c, g, s);
    l2l_drop(c, g);
    return r;
}

static void l2l__add_vjp(l2l__vjp *v)
{
    int j;
    for (j = 0; j < 2; j++)
        if (v->need[j])
            v->dx[j] = l2l__unbroadcast(v->c, l2l__retain(v->dy), v->y->in[j]->shape);
}
static const l2l__operation l2l__add_op = {"add", l2l__add_vjp};

L2LADVDEF l2l_tensor *l2l_add(l2l_context *c, l2l_tensor *a, l2l_tensor *b)
{
    return l2l__binary(c, '+', "l2l_add", &l2l__add_op, a, b);
}

static void l2l__sub_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    if (v->need[0]) v->dx[0] = l2l__unbroadcast(c, l2l__retain(v->dy), v->y->in[0]->shape);
    if (v->need[1])
        v->dx[1] = l2l__unbroadcast(c, l2l_affine(c, v->dy, -1, 0), v->y->in[1]->shape);
}
static const l2l__operation l2l__sub_op = {"sub", l2l__sub_vjp};

L2LADVDEF l2l_tensor *l2l_sub(l2l_context *c, l2l_tensor *a, l2l_tensor *b)
{
    return l2l__binary(c, '-', "l2l_sub", &l2l__sub_op, a, b);
}

static void l2l__mul_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *a = v->y->in[0], *b = v->y->in[1];
    if (v->need[0]) v->dx[0] = l2l__unbroadcast(c, l2l_mul(c, v->dy, b), a->shape);
    if (v->need[1]) v->dx[1] = l2l__unbroadcast(c, l2l_mul(c, v->dy, a), b->shape);
}
static const l2l__operation l2l__mul_op = {"mul", l2l__mul_vjp};

L2LADVDEF l2l_tensor *l2l_mul(l2l_context *c, l2l_tensor *a, l2l_tensor *b)
{
    return l2l__binary(c, '*', "l2l_mul", &l2l__mul_op, a, b);
}

/* -- elementwise, one operand ------------------------------------------------------------------ */

static void l2l__affine_vjp(l2l__vjp *v) { v->dx[0] = l2l_affine(v->c, v->dy, v->y->f[0], 0); }
static const l2l__operation l2l__affine_op = {"affine", l2l__affine_vjp};

/* scale * x + shift */
L2LADVDEF l2l_tensor *l2l_affine(l2l_context *c, l2l_tensor *x, double scale, double shift)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "l2l_affine", x) || !(y = l2l__new(c, "l2l_affine", x->shape))) return NULL;
    l2l__ew_axpb(c, l2l_count(x->shape), (l2l_real)scale, x->data, (l2l_real)shift, y->data);
    y->f[0] = scale;
    return l2l__record1(c, y, &l2l__affine_op, x);
}

/* gate: dy where reference > 0, slope * dy elsewhere. The VJP of ReLU and its relatives, and linear
   in dy, so its own VJP is itself. */
static l2l_tensor *l2l__gate(l2l_context *c, l2l_tensor *dy, l2l_tensor *reference, double slope);
static void l2l__gate_vjp(l2l__vjp *v)
{
    if (v->need[0]) v->dx[0] = l2l__gate(v->c, v->dy, v->y->in[1], v->y->f[0]);
}
static const l2l__operation l2l__gate_op = {"gate", l2l__gate_vjp};

static l2l_tensor *l2l__gate(l2l_context *c, l2l_tensor *dy, l2l_tensor *reference, double slope)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "gate", dy) || !l2l__ready(c, "gate", reference) ||
        !(y = l2l__new(c, "gate", dy->shape)))
        return NULL;
    l2l__ew_gate(c, l2l_count(dy->shape), dy->data, reference->data, (l2l_real)slope, y->data);
    y->f[0] = slope;
    return l2l__record2(c, y, &l2l__gate_op, dy, reference);
}

static void l2l__relu_vjp(l2l__vjp *v) { v->dx[0] = l2l__gate(v->c, v->dy, v->y, 0); }
static const l2l__operation l2l__relu_op = {"relu", l2l__relu_vjp};

L2LADVDEF l2l_tensor *l2l_relu(l2l_context *c, l2l_tensor *x)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "l2l_relu", x) || !(y = l2l__new(c, "l2l_relu", x->shape))) return NULL;
    l2l__ew_relu(c, l2l_count(x->shape), x->data, y->data);
    return l2l__record1(c, y, &l2l__relu_op, x);
}

static void l2l__leaky_relu_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l__gate(v->c, v->dy, v->y->in[0], v->y->f[0]);
}
static const l2l__operation l2l__leaky_relu_op = {"leaky_relu", l2l__leaky_relu_vjp};

L2LADVDEF l2l_tensor *l2l_leaky_relu(l2l_context *c, l2l_tensor *x, double slope)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "l2l_leaky_relu", x) ||
        !(y = l2l__new(c, "l2l_leaky_relu", x->shape)))
        return NULL;
    l2l__ew_gate(c, l2l_count(x->shape), x->data, x->data, (l2l_real)slope, y->data);
    y->f[0] = slope;
    return l2l__record1(c, y, &l2l__leaky_relu_op, x);
}

/* The rest of the pointwise functions: y = f(x), one element at a time in double. */
typedef double (*l2l__function)(double x, double a, double b);

static l2l_tensor *l2l__pointwise(l2l_context *c, const char *where, const l2l__operation *op,
                                  l2l_tensor *x, l2l__function f, double a, double b)
{
    l2l_tensor *y;
    int64_t i, n;
    if (!l2l__ready(c, where, x) || !(y = l2l__new(c, where, x->shape))) return NULL;
    n = l2l_count(x->shape);
    L2L__PARALLEL(l2l__workers(c, n))
    for (i = 0; i < n; i++) y->data[i] = (l2l_real)f((double)x->data[i], a, b);
    y->f[0] = a;
    y->f[1] = b;
    return op ? l2l__record1(c, y, op, x) : y;
}

static double l2l__f_tanh(double x, double a, double b) { (void)a; (void)b; return tanh(x); }
static double l2l__f_exp(double x, double a, double b) { (void)a; (void)b; return exp(x); }
static double l2l__f_log(double x, double a, double b) { (void)a; (void)b; return log(x); }
static double l2l__f_abs(double x, double a, double b) { (void)a; (void)b; return fabs(x); }
static double l2l__f_power(double x, double a, double b) { (void)b; return pow(x, a); }
static double l2l__f_sign(double x, double a, double b)
{
    (void)a; (void)b;
    return x > 0 ? 1 : x < 0 ? -1 : 0;
}
static double l2l__f_sigmoid(double x, double a, double b)
{
    (void)a; (void)b;
    return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}
static double l2l__f_clamp(double x, double a, double b) { return x < a ? a : x > b ? b : x; }
static double l2l__f_inside(double x, double a, double b) { return x >= a && x <= b; }

/* dx = dy * factor; the factor is owned here. */
static void l2l__times(l2l__vjp *v, l2l_tensor *factor)
{
    v->dx[0] = l2l_mul(v->c, v->dy, factor);
    l2l_drop(v->c, factor);
}

static void l2l__tanh_vjp(l2l__vjp *v)       /* 1 - y^2 */
{
    l2l_tensor *square = l2l_mul(v->c, v->y, v->y);
    l2l__times(v, l2l_affine(v->c, square, -1, 1));
    l2l_drop(v->c, square);
}
static const l2l__operation l2l__tanh_op = {"tanh", l2l__tanh_vjp};
L2LADVDEF l2l_tensor *l2l_tanh(l2l_context *c, l2l_tensor *x)
{
    return l2l__pointwise(c, "l2l_tanh", &l2l__tanh_op, x, l2l__f_tanh, 0, 0);
}

static void l2l__sigmoid_vjp(l2l__vjp *v)    /* y (1 - y) */
{
    l2l_tensor *rest = l2l_affine(v->c, v->y, -1, 1);
    l2l__times(v, l2l_mul(v->c, v->y, rest));
    l2l_drop(v->c, rest);
}
static const l2l__operation l2l__sigmoid_op = {"sigmoid", l2l__sigmoid_vjp};
L2LADVDEF l2l_tensor *l2l_sigmoid(l2l_context *c, l2l_tensor *x)
{
    return l2l__pointwise(c, "l2l_sigmoid", &l2l__sigmoid_op, x, l2l__f_sigmoid, 0, 0);
}

static void l2l__exp_vjp(l2l__vjp *v) { v->dx[0] = l2l_mul(v->c, v->dy, v->y); }
static const l2l__operation l2l__exp_op = {"exp", l2l__exp_vjp};
L2LADVDEF l2l_tensor *l2l_exp(l2l_context *c, l2l_tensor *x)
{
    return l2l__pointwise(c, "l2l_exp", &l2l__exp_op, x, l2l__f_exp, 0, 0);
}

static void l2l__log_vjp(l2l__vjp *v) { l2l__times(v, l2l_power(v->c, v->y->in[0], -1)); }
static const l2l__operation l2l__log_op = {"log", l2l__log_vjp};
L2LADVDEF l2l_tensor *l2l_log(l2l_context *c, l2l_tensor *x)
{
    return l2l__pointwise(c, "l2l_log", &l2l__log_op, x, l2l__f_log, 0, 0);
}

static void l2l__power_vjp(l2l__vjp *v)      /* a x^(a-1) */
{
    l2l_tensor *p;
    if (v->y->f[0] == 0) return;             /* constant: zero, also at 0                         */
    p = l2l_power(v->c, v->y->in[0], v->y->f[0] - 1);
    l2l__times(v, l2l_affine(v->c, p, v->y->f[0], 0));
    l2l_drop(v->c, p);
}
static const l2l__operation l2l__power_op = {"power", l2l__power_vjp};
L2LADVDEF l2l_tensor *l2l_power(l2l_context *c, l2l_tensor *x, double exponent)
{
    return l2l__pointwise(c, "l2l_power", &l2l__power_op, x, l2l__f_power, exponent, 0);
}

static void l2l__sign_vjp(l2l__vjp *v) { L2L__UNUSED(v); } /* piecewise constant: zero */
static const l2l__operation l2l__sign_op = {"sign", l2l__sign_vjp};
L2LADVDEF l2l_tensor *l2l_sign(l2l_context *c, l2l_tensor *x)
{
    return l2l__pointwise(c, "l2l_sign", &l2l__sign_op, x, l2l__f_sign, 0, 0);
}

static void l2l__abs_vjp(l2l__vjp *v) { l2l__times(v, l2l_sign(v->c, v->y->in[0])); }
static const l2l__operation l2l__abs_op = {"abs", l2l__abs_vjp};
L2LADVDEF l2l_tensor *l2l_abs(l2l_context *c, l2l_tensor *x)
{
    return l2l__pointwise(c, "l2l_abs", &l2l__abs_op, x, l2l__f_abs, 0, 0);
}

static void l2l__clamp_vjp(l2l__vjp *v)      /* 1 inside and on the bounds */
{
    l2l__times(v, l2l__pointwise(v->c, "l2l_clamp", NULL, v->y->in[0], l2l__f_inside, v->y->f[0],
                                 v->y->f[1]));
}
static const l2l__operation l2l__clamp_op = {"clamp", l2l__clamp_vjp};
L2LADVDEF l2l_tensor *l2l_clamp(l2l_context *c, l2l_tensor *x, double low, double high)
{
    if (!(low <= high)) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_clamp: low %g is not below high %g", low, high);
        return NULL;
    }
    return l2l__pointwise(c, "l2l_clamp", &l2l__clamp_op, x, l2l__f_clamp, (double)(l2l_real)low,
                          (double)(l2l_real)high);
}

static void l2l__project_vjp(l2l__vjp *v)
{
    l2l_tensor *z = v->y->in[0], *x = v->y->in[1], *mask;
    l2l_real epsilon = (l2l_real)v->y->f[0];
    int64_t i, n = l2l_count(z->shape);
    if (!v->need[0] || !(mask = l2l__new(v->c, "l2l_project", z->shape))) return;
    for (i = 0; i < n; i++)
        mask->data[i] = z->data[i] >= l2l__low(x->data[i], epsilon) &&
                        z->data[i] <= l2l__high(x->data[i], epsilon);
    l2l__times(v, mask);
}
static const l2l__operation l2l__project_op = {"project", l2l__project_vjp};

L2LADVDEF l2l_tensor *l2l_project(l2l_context *c, l2l_tensor *z, l2l_tensor *x, double epsilon)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "l2l_project", z) || !l2l__ready(c, "l2l_project", x)) return NULL;
    if (!l2l__same(z->shape, x->shape)) {
        l2l__shapes_differ(c, "l2l_project", z->shape, x->shape);
        return NULL;
    }
    if (!(y = l2l__new(c, "l2l_project", z->shape))) return NULL;
    l2l__ew_project(c, l2l_count(z->shape), z->data, x->data, (l2l_real)epsilon, y->data);
    y->f[0] = epsilon;
    return l2l__record2(c, y, &l2l__project_op, z, x);
}

/* -- shapes and reductions --------------------------------------------------------------------- */

L2LADVDEF l2l_tensor *l2l_detach(l2l_context *c, l2l_tensor *x)
{
    return l2l__ready(c, "l2l_detach", x) ? l2l__view(c, x, x->shape) : NULL;
}

static void l2l__reshape_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_reshape(v->c, v->dy, v->y->in[0]->shape);
}
static const l2l__operation l2l__reshape_op = {"reshape", l2l__reshape_vjp};

L2LADVDEF l2l_tensor *l2l_reshape(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    if (!l2l__ready(c, "l2l_reshape", x) || !l2l__shape_ok(c, "l2l_reshape", s)) return NULL;
    if (l2l_count(s) != l2l_count(x->shape)) {
        l2l__shapes_differ(c, "l2l_reshape", x->shape, s);
        return NULL;
    }
    return l2l__record1(c, l2l__view(c, x, s), &l2l__reshape_op, x);
}

static void l2l__broadcast_to_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_sum_to(v->c, v->dy, v->y->in[0]->shape);
}
static const l2l__operation l2l__broadcast_to_op = {"broadcast_to", l2l__broadcast_to_vjp};

static void l2l__sum_to_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_broadcast_to(v->c, v->dy, v->y->in[0]->shape);
}
static const l2l__operation l2l__sum_to_op = {"sum_to", l2l__sum_to_vjp};

static bool l2l__fits(l2l_context *c, const char *where, l2l_shape small, l2l_shape large)
{
    if ((small.n != large.n && small.n != 1) || (small.h != large.h && small.h != 1) ||
        (small.w != large.w && small.w != 1) || (small.c != large.c && small.c != 1))
        return l2l__shapes_differ(c, where, small, large);
    return true;
}

L2LADVDEF l2l_tensor *l2l_broadcast_to(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    l2l_tensor *y;
    int64_t p, pixels;
    if (!l2l__ready(c, "l2l_broadcast_to", x) ||
        !l2l__fits(c, "l2l_broadcast_to", x->shape, s) || !(y = l2l__new(c, "l2l_broadcast_to", s)))
        return NULL;
    pixels = l2l_count(s) / s.c;
    L2L__PARALLEL(l2l__workers(c, l2l_count(s)))
    for (p = 0; p < pixels; p++) {
        const l2l_real *row = l2l__row(x, s, p);
        l2l_real *out = y->data + p * s.c;
        int k, step = x->shape.c > 1;
        for (k = 0; k < s.c; k++) out[k] = row[k * step];
    }
    return l2l__record1(c, y, &l2l__broadcast_to_op, x);
}

/* Adds one image (hxwxc) into the double sums of shape s.hxs.wxs.c. */
static void l2l__sum_image(const l2l_real *x, l2l_shape from, l2l_shape s, double *sums)
{
    int h, w, k;
    for (h = 0; h < from.h; h++)
        for (w = 0; w < from.w; w++, x += from.c) {
            double *row = sums + ((int64_t)(s.h > 1 ? h : 0) * s.w + (s.w > 1 ? w : 0)) * s.c;
            if (s.c > 1) for (k = 0; k < from.c; k++) row[k] += (double)x[k];
            else for (k = 0; k < from.c; k++) row[0] += (double)x[k];
        }
}

/* Sums are split by image into `parts`, a number that the shape alone decides (the same bits for
   any number of threads), and the parts are added in order. */
static bool l2l__sum_images(l2l_context *c, const l2l_real *x, l2l_shape from, l2l_shape s,
                            l2l_real *y)
{
    int64_t one = l2l_count(from) / from.n, size = l2l_count(s) / s.n, i;
    int parts = s.n > 1 ? from.n : from.n < 16 ? from.n : 16, part;
    double *sums = (double *)l2l__arena_array(c, parts * size, sizeof *sums);
    if (!sums) return false;
    L2L__PARALLEL(l2l__workers(c, l2l_count(from)))
    for (part = 0; part < parts; part++) {
        double *mine = sums + part * size;
        int n, last = (int)((int64_t)(part + 1) * from.n / parts);
        memset(mine, 0, (size_t)size * sizeof *mine);
        for (n = (int)((int64_t)part * from.n / parts); n < last; n++)
            l2l__sum_image(x + n * one, from, s, mine);
    }
    if (s.n == 1)
        for (part = 1; part < parts; part++)
            for (i = 0; i < size; i++) sums[i] += sums[part * size + i];
    for (i = 0; i < l2l_count(s); i++) y[i] = (l2l_real)sums[i];
    l2l__arena_drop(c, sums);
    return true;
}

/* The sums over N,H,W: the gradient of a bias. With mu: of (x - mu)^2 instead. */
static bool l2l__sum_pixels(l2l_context *c, const l2l_tensor *x, const l2l_real *mu, l2l_real *y)
{
    int k, n = x->shape.c;
    double *sums = (double *)l2l__arena_array(c, n, sizeof *sums);
    bool ok = sums && l2l__channel_moments(c, l2l_count(x->shape) / n, n, mu ? NULL : x->data,
                                           NULL, mu ? x->data : NULL, mu, mu ? NULL : sums,
                                           mu ? sums : NULL);
    for (k = 0; ok && k < n; k++) y[k] = (l2l_real)sums[k];
    l2l__arena_drop(c, sums);
    return ok;
}

/* One image is summed as each of a batch is: N,1,1,C and 1,1,1,C are then the same request. */
L2LADVDEF l2l_tensor *l2l_sum_to(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    l2l_tensor *y;
    if (!l2l__ready(c, "l2l_sum_to", x) || !l2l__fits(c, "l2l_sum_to", s, x->shape) ||
        !(y = l2l__new(c, "l2l_sum_to", s)))
        return NULL;
    if (!(x->shape.n > 1 && s.c == x->shape.c && l2l__same(s, l2l__channels(s.c))
              ? l2l__sum_pixels(c, x, NULL, y->data)
              : l2l__sum_images(c, x->data, x->shape, s, y->data))) {
        l2l_drop(c, y);
        return NULL;
    }
    return l2l__record1(c, y, &l2l__sum_to_op, x);
}

L2LADVDEF l2l_tensor *l2l_sum(l2l_context *c, l2l_tensor *x)
{
    return l2l_sum_to(c, x, l2l__channels(1));
}

/* y = sum / count, the intermediate given back. */
static l2l_tensor *l2l__mean_to(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    l2l_tensor *sum = l2l_sum_to(c, x, s), *y;
    if (!sum) return NULL;
    y = l2l_affine(c, sum, (double)l2l_count(s) / (double)l2l_count(x->shape), 0);
    l2l_drop(c, sum);
    return y;
}

L2LADVDEF l2l_tensor *l2l_mean(l2l_context *c, l2l_tensor *x)
{
    return l2l__mean_to(c, x, l2l__channels(1));
}

static void l2l__slice_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_place(v->c, v->dy, (int)v->y->i[0], v->y->in[0]->shape.c);
}
static const l2l__operation l2l__slice_op = {"slice", l2l__slice_vjp};

static void l2l__place_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_slice(v->c, v->dy, (int)v->y->i[0], v->y->in[0]->shape.c);
}
static const l2l__operation l2l__place_op = {"place", l2l__place_vjp};

L2LADVDEF l2l_tensor *l2l_slice(l2l_context *c, l2l_tensor *x, int from, int count)
{
    l2l_tensor *y;
    l2l_shape s;
    int64_t p, pixels;
    if (!l2l__ready(c, "l2l_slice", x)) return NULL;
    s = x->shape;
    if (from < 0 || count < 1 || from > s.c - count) {
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_slice: channels %d to %d of %d", from, from + count,
                  s.c);
        return NULL;
    }
    s.c = count;
    if (!(y = l2l__new(c, "l2l_slice", s))) return NULL;
    pixels = l2l_count(s) / count;
    for (p = 0; p < pixels; p++)
        memcpy(y->data + p * count, x->data + p * x->shape.c + from,
               (size_t)count * sizeof *y->data);
    y->i[0] = from;
    return l2l__record1(c, y, &l2l__slice_op, x);
}

L2LADVDEF l2l_tensor *l2l_place(l2l_context *c, l2l_tensor *x, int from, int total)
{
    l2l_tensor *y;
    l2l_shape s;
    int64_t p, pixels;
    if (!l2l__ready(c, "l2l_place", x)) return NULL;
    s = x->shape;
    if (from < 0 || from > total - s.c) {
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_place: %d channels from %d into %d", s.c, from, total);
        return NULL;
    }
    s.c = total;
    if (!(y = l2l_zeros(c, s))) return NULL;
    pixels = l2l_count(s) / total;
    for (p = 0; p < pixels; p++)
        memcpy(y->data + p * total + from, x->data + p * x->shape.c,
               (size_t)x->shape.c * sizeof *y->data);
    y->i[0] = from;
    return l2l__record1(c, y, &l2l__place_op, x);
}

/* -- scale and shift by channel ---------------------------------------------------------------- */

/* dy where gate > 0 (everywhere without a gate), times scale: linear in dy and in scale. */
static l2l_tensor *l2l__gate_scale(l2l_context *c, l2l_tensor *dy, l2l_tensor *gate,
                                   l2l_tensor *scale);
static void l2l__gate_scale_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *dy = v->y->in[0], *gate = v->y->in[1], *scale = v->y->in[2], *t, *u;
    if (v->need[0]) v->dx[0] = l2l__gate_scale(c, v->dy, gate, scale);
    if (!v->need[2]) return;
    t = gate ? l2l__gate(c, dy, gate, 0) : l2l__retain(dy);
    u = l2l_mul(c, v->dy, t);
    v->dx[2] = l2l_sum_to(c, u, scale->shape);
    l2l_drop(c, t);
    l2l_drop(c, u);
}
static const l2l__operation l2l__gate_scale_op = {"gate_scale", l2l__gate_scale_vjp};

static l2l_tensor *l2l__gate_scale(l2l_context *c, l2l_tensor *dy, l2l_tensor *gate,
                                   l2l_tensor *scale)
{
    l2l_tensor *y, *in[3];
    if (!l2l__ready(c, "gate_scale", dy) || (gate && !l2l__ready(c, "gate_scale", gate)) ||
        !l2l__ready(c, "gate_scale", scale) || !(y = l2l__new(c, "gate_scale", dy->shape)))
        return NULL;
    l2l__channel_gate(c, l2l_count(dy->shape) / dy->shape.c, dy->shape.c, dy->data,
                      gate ? gate->data : NULL, scale->data, y->data);
    in[0] = dy; in[1] = gate; in[2] = scale;
    return l2l__record(c, y, &l2l__gate_scale_op, in, 3);
}

/* y = relu(scale * x + shift + residual): what batch norm is in evaluation mode. */
enum { L2L__SS_X = 0, L2L__SS_SCALE, L2L__SS_SHIFT, L2L__SS_RESIDUAL };
static void l2l__scale_shift_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *const *in = v->y->in;
    l2l_tensor *gate = v->y->i[3] ? v->y : NULL, *t, *u;
    if (v->need[L2L__SS_X]) v->dx[L2L__SS_X] = l2l__gate_scale(c, v->dy, gate, in[L2L__SS_SCALE]);
    if (!v->need[L2L__SS_SCALE] && !v->need[L2L__SS_SHIFT] && !v->need[L2L__SS_RESIDUAL]) return;
    t = gate ? l2l__gate(c, v->dy, gate, 0) : l2l__retain(v->dy);
    if (v->need[L2L__SS_SHIFT]) v->dx[L2L__SS_SHIFT] = l2l_sum_to(c, t, in[L2L__SS_SHIFT]->shape);
    if (v->need[L2L__SS_SCALE]) {
        u = l2l_mul(c, t, in[L2L__SS_X]);
        v->dx[L2L__SS_SCALE] = l2l_sum_to(c, u, in[L2L__SS_SCALE]->shape);
        l2l_drop(c, u);
    }
    if (v->need[L2L__SS_RESIDUAL]) v->dx[L2L__SS_RESIDUAL] = l2l__retain(t);
    l2l_drop(c, t);
}
static const l2l__operation l2l__scale_shift_op = {"scale_shift", l2l__scale_shift_vjp};

static l2l_tensor *l2l__scale_shift(l2l_context *c, l2l_tensor *x, l2l_tensor *scale,
                                    l2l_tensor *shift, l2l_tensor *residual, bool relu)
{
    l2l_tensor *y, *in[4];
    l2l__epilogue e;
    if (!l2l__ready(c, "scale_shift", x) || !l2l__ready(c, "scale_shift", scale) ||
        !l2l__ready(c, "scale_shift", shift) || !(y = l2l__new(c, "scale_shift", x->shape)))
        return NULL;
    e = l2l__epilogue_of(NULL, scale->data, shift->data, residual ? residual->data : NULL, relu);
    l2l__channel_finish(c, l2l_count(x->shape) / x->shape.c, x->shape.c, x->data, &e, y->data);
    y->i[3] = relu;
    in[L2L__SS_X] = x; in[L2L__SS_SCALE] = scale; in[L2L__SS_SHIFT] = shift;
    in[L2L__SS_RESIDUAL] = residual;
    return l2l__record(c, y, &l2l__scale_shift_op, in, 4);
}

/* -- convolution ------------------------------------------------------------------------------- */

/* The geometry of x * w, checked; `where` names the caller in the error. */
static bool l2l__geometry_of(l2l_context *c, const char *where, l2l_shape x, l2l_shape w,
                             int stride, int padding, l2l__geometry *g)
{
    if (c->status) return false;
    if (stride < 1 || padding < 0)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "%s: stride %d must be at least 1 and padding %d at "
                         "least 0",
                         where, stride, padding);
    if (x.c != w.w)
        return l2l__fail(c, L2L_ERROR_SHAPE,
                         "%s: an input of %d channels (%dx%dx%dx%d) and a weight "
                         "for %d (%dx%dx%dx%d)",
                         where, x.c, x.n, x.h, x.w, x.c, w.w, w.n, w.h, w.w, w.c);
    if (padding > 16384 || x.h > INT_MAX / 2 || x.w > INT_MAX / 2 ||
        (int64_t)x.h + 2 * padding < w.n ||
        (int64_t)x.w + 2 * padding < w.h)
        return l2l__fail(c, L2L_ERROR_SHAPE,
                         "%s: a %dx%d kernel does not fit into %dx%d with padding "
                         "%d",
                         where, w.n, w.h, x.h, x.w, padding);
    g->n = x.n; g->h = x.h; g->w = x.w; g->c = x.c;
    g->kh = w.n; g->kw = w.h; g->k = w.c;
    g->stride = stride;
    g->padding = padding;
    g->oh = (x.h + 2 * padding - w.n) / stride + 1;
    g->ow = (x.w + 2 * padding - w.h) / stride + 1;
    return true;
}

static l2l_shape l2l__output_of(const l2l__geometry *g)
{
    return l2l_shape_of(g->n, g->oh, g->ow, g->k);
}

static void l2l__save_geometry(l2l_tensor *y, int stride, int padding)
{
    y->i[0] = stride;
    y->i[1] = padding;
}

L2LADVDEF l2l_conv_options l2l_conv_default(void)
{
    l2l_conv_options o;
    memset(&o, 0, sizeof o);
    o.stride = 1;
    return o;
}

static l2l_tensor *l2l__plain_conv(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                                   const l2l_tensor *y)
{
    l2l_conv_options o = l2l_conv_default();
    o.stride = (int)y->i[0];
    o.padding = (int)y->i[1];
    return l2l_conv(c, x, w, &o);
}

/* dx = adjoint of conv in x. As a function of (dy, w) it is bilinear, and its VJPs are the two
   other members of the family. */
static void l2l__input_grad_vjp(l2l__vjp *v)
{
    l2l_tensor *dy = v->y->in[0], *w = v->y->in[1];
    if (v->need[0]) v->dx[0] = l2l__plain_conv(v->c, v->dy, w, v->y);
    if (v->need[1])
        v->dx[1] = l2l_conv_weight_grad(v->c, v->dy, dy, w->shape, (int)v->y->i[0],
                                        (int)v->y->i[1]);
}
static const l2l__operation l2l__input_grad_op = {"conv_input_grad", l2l__input_grad_vjp};

L2LADVDEF l2l_tensor *l2l_conv_input_grad(l2l_context *c, l2l_tensor *dy, l2l_tensor *w,
                                          l2l_shape x, int stride, int padding)
{
    const char *where = "l2l_conv_input_grad";
    l2l__geometry g;
    l2l_tensor *dx;
    if (!l2l__ready(c, where, dy) || !l2l__ready(c, where, w) || !l2l__shape_ok(c, where, x) ||
        !l2l__geometry_of(c, where, x, w->shape, stride, padding, &g))
        return NULL;
    if (!l2l__same(dy->shape, l2l__output_of(&g))) {
        l2l__shapes_differ(c, where, dy->shape, l2l__output_of(&g));
        return NULL;
    }
    if (!(dx = l2l__new(c, where, x))) return NULL;
    if (!l2l__conv_input_gradient(c, &g, dy->data, w, dx->data)) {
        l2l_drop(c, dx);
        return NULL;
    }
    l2l__save_geometry(dx, stride, padding);
    return l2l__record2(c, dx, &l2l__input_grad_op, dy, w);
}

static void l2l__weight_grad_vjp(l2l__vjp *v)
{
    l2l_tensor *x = v->y->in[0], *dy = v->y->in[1];
    if (v->need[0])
        v->dx[0] = l2l_conv_input_grad(v->c, dy, v->dy, x->shape, (int)v->y->i[0],
                                       (int)v->y->i[1]);
    if (v->need[1]) v->dx[1] = l2l__plain_conv(v->c, x, v->dy, v->y);
}
static const l2l__operation l2l__weight_grad_op = {"conv_weight_grad", l2l__weight_grad_vjp};

L2LADVDEF l2l_tensor *l2l_conv_weight_grad(l2l_context *c, l2l_tensor *x, l2l_tensor *dy,
                                           l2l_shape w, int stride, int padding)
{
    const char *where = "l2l_conv_weight_grad";
    l2l__geometry g;
    l2l_tensor *dw;
    if (!l2l__ready(c, where, x) || !l2l__ready(c, where, dy) || !l2l__shape_ok(c, where, w) ||
        !l2l__geometry_of(c, where, x->shape, w, stride, padding, &g))
        return NULL;
    if (!l2l__same(dy->shape, l2l__output_of(&g))) {
        l2l__shapes_differ(c, where, dy->shape, l2l__output_of(&g));
        return NULL;
    }
    if (!(dw = l2l__new(c, where, w))) return NULL;
    if (!l2l__conv_weight_gradient(c, &g, x->data, dy->data, dw->data)) {
        l2l_drop(c, dw);
        return NULL;
    }
    l2l__save_geometry(dw, stride, padding);
    return l2l__record2(c, dw, &l2l__weight_grad_op, x, dy);
}

/* unpool puts each value back at its maximum's place, gather reads there: adjoints of each other.
   `p` is the index that the pooling node saved. */
static l2l_tensor *l2l__unpool_of(l2l_context *c, l2l_tensor *dy, const l2l_tensor *pooled,
                                  const int *index, l2l_shape x);
static l2l_tensor *l2l__gather_of(l2l_context *c, l2l_tensor *x, const l2l_tensor *pooled,
                                  const int *index, l2l_shape y);

static l2l__geometry l2l__pool_geometry(l2l_shape x, l2l_shape y, const l2l_tensor *pooled)
{
    l2l__geometry g;
    g.n = x.n; g.h = x.h; g.w = x.w; g.c = g.k = x.c;
    g.oh = y.h; g.ow = y.w;
    g.kh = g.kw = (int)pooled->i[4];
    g.stride = (int)pooled->i[5];
    g.padding = (int)pooled->i[6];
    return g;
}

static void l2l__save_pool(l2l_tensor *y, int window, int stride, int padding)
{
    y->i[4] = window;
    y->i[5] = stride;
    y->i[6] = padding;
}

static void l2l__unpool_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l__gather_of(v->c, v->dy, v->y, (const int *)v->y->p, v->y->in[0]->shape);
}
static const l2l__operation l2l__unpool_op = {"unpool", l2l__unpool_vjp};

static void l2l__gather_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l__unpool_of(v->c, v->dy, v->y, (const int *)v->y->p, v->y->in[0]->shape);
}
static const l2l__operation l2l__gather_op = {"gather", l2l__gather_vjp};

static l2l_tensor *l2l__unpool_of(l2l_context *c, l2l_tensor *dy, const l2l_tensor *pooled,
                                  const int *index, l2l_shape x)
{
    l2l_tensor *dx;
    l2l__geometry g;
    if (!l2l__ready(c, "unpool", dy) || !(dx = l2l__new(c, "unpool", x))) return NULL;
    g = l2l__pool_geometry(x, dy->shape, pooled);
    l2l__unpool(c, &g, dy->data, index, dx->data);
    l2l__save_pool(dx, g.kh, g.stride, g.padding);
    dx->p = index;
    return l2l__record1(c, dx, &l2l__unpool_op, dy);
}

static l2l_tensor *l2l__gather_of(l2l_context *c, l2l_tensor *x, const l2l_tensor *pooled,
                                  const int *index, l2l_shape s)
{
    l2l_tensor *y;
    l2l__geometry g;
    if (!l2l__ready(c, "gather", x) || !(y = l2l__new(c, "gather", s))) return NULL;
    g = l2l__pool_geometry(x->shape, s, pooled);
    l2l__pool_gather(c, &g, x->data, index, y->data);
    l2l__save_pool(y, g.kh, g.stride, g.padding);
    y->p = index;
    return l2l__record1(c, y, &l2l__gather_op, x);
}

/* y = pool(x), y->index; y's shape is set by the caller. */
static bool l2l__pool_into(l2l_context *c, const l2l__geometry *g, const l2l_real *x, l2l_tensor *y)
{
    y->index = (int *)l2l__arena_array(c, l2l_count(y->shape), sizeof *y->index);
    if (!y->index) return false;
    l2l__max_pool_forward(c, g, x, y->data, y->index);
    l2l__save_pool(y, g->kh, g->stride, g->padding);
    return true;
}

/* Inputs of the convolution's node, in this order. */
enum { L2L__X = 0, L2L__W, L2L__BIAS, L2L__SCALE, L2L__RESIDUAL, L2L__PRE_SCALE, L2L__PRE_SHIFT };

/* The part of conv's VJP in front of the epilogue: t is the cotangent of conv(p(x), w). */
static void l2l__conv_core_vjp(l2l__vjp *v, l2l_tensor *t)
{
    l2l_context *c = v->c;
    l2l_tensor *const *in = v->y->in;
    l2l_tensor *x = in[L2L__X], *w = in[L2L__W], *p = x, *dp, *g, *m;
    int stride = (int)v->y->i[0], padding = (int)v->y->i[1];
    bool prologue = in[L2L__PRE_SCALE] != NULL;
    if (prologue)
        p = l2l__scale_shift(c, x, in[L2L__PRE_SCALE], in[L2L__PRE_SHIFT], NULL, true);
    if (v->need[L2L__W])
        v->dx[L2L__W] = l2l_conv_weight_grad(c, p, t, w->shape, stride, padding);
    if (v->need[L2L__X] || v->need[L2L__PRE_SCALE] || v->need[L2L__PRE_SHIFT]) {
        dp = l2l_conv_input_grad(c, t, w, x->shape, stride, padding);
        if (prologue) {
            g = l2l__gate(c, dp, p, 0);
            if (v->need[L2L__X]) v->dx[L2L__X] = l2l__gate_scale(c, g, NULL, in[L2L__PRE_SCALE]);
            if (v->need[L2L__PRE_SHIFT])
                v->dx[L2L__PRE_SHIFT] = l2l_sum_to(c, g, l2l__channels(x->shape.c));
            if (v->need[L2L__PRE_SCALE]) {
                m = l2l_mul(c, g, x);
                v->dx[L2L__PRE_SCALE] = l2l_sum_to(c, m, l2l__channels(x->shape.c));
                l2l_drop(c, m);
            }
            l2l_drop(c, g);
            l2l_drop(c, dp);
        } else {
            v->dx[L2L__X] = dp;
        }
    }
    if (p != x) l2l_drop(c, p);
}

static void l2l__conv_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *y = v->y, *t = l2l__retain(v->dy), *u, *m;
    l2l_tensor *const *in = y->in;
    bool relu = (y->i[3] & L2L_RELU) != 0, pool = (y->i[3] & L2L_POOL) != 0, at_once;
    at_once = relu && !pool && in[L2L__SCALE] && !v->need[L2L__RESIDUAL] && !v->need[L2L__BIAS] &&
              !v->need[L2L__SCALE];
    if (relu && !at_once) {                  /* max and ReLU commute: mask by the pooled output   */
        u = l2l__gate(c, t, y, 0);
        l2l_drop(c, t);
        t = u;
    }
    if (pool && t) {
        u = l2l__unpool_of(c, t, y, y->index,
                           l2l_shape_of(y->shape.n, (int)(y->i[7] >> 32),
                                        (int)(y->i[7] & 0x7fffffff), y->shape.c));
        l2l_drop(c, t);
        t = u;
    }
    if (!t) return;
    if (v->need[L2L__RESIDUAL]) v->dx[L2L__RESIDUAL] = l2l__retain(t);
    if (v->need[L2L__BIAS]) v->dx[L2L__BIAS] = l2l_sum_to(c, t, in[L2L__BIAS]->shape);
    if (in[L2L__SCALE]) {
        if (v->need[L2L__SCALE]) {           /* needs the bare convolution again                  */
            l2l_tensor *p = in[L2L__X];
            if (in[L2L__PRE_SCALE])
                p = l2l__scale_shift(c, p, in[L2L__PRE_SCALE], in[L2L__PRE_SHIFT], NULL, true);
            u = l2l__plain_conv(c, p, in[L2L__W], y);
            m = l2l_mul(c, t, u);
            v->dx[L2L__SCALE] = l2l_sum_to(c, m, in[L2L__SCALE]->shape);
            if (p != in[L2L__X]) l2l_drop(c, p);
            l2l_drop(c, u);
            l2l_drop(c, m);
        }
        u = l2l__gate_scale(c, t, at_once ? y : NULL, in[L2L__SCALE]);
        l2l_drop(c, t);
        t = u;
    }
    if (t) l2l__conv_core_vjp(v, t);
    l2l_drop(c, t);
}
static const l2l__operation l2l__conv_op = {"conv", l2l__conv_vjp};

static bool l2l__vector_fits(l2l_context *c, const char *where, const l2l_tensor *x, int channels)
{
    if (!x) return true;
    if (!l2l__ready(c, where, x)) return false;
    return l2l__same(x->shape, l2l__channels(channels)) ||
           l2l__shapes_differ(c, where, x->shape, l2l__channels(channels));
}

static bool l2l__conv_check(l2l_context *c, const l2l_conv_options *o, const l2l__geometry *g)
{
    if (!o->pre_scale != !o->pre_shift)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_conv: pre_scale and pre_shift go together");
    if (o->residual && !l2l__ready(c, "l2l_conv: residual", o->residual)) return false;
    if (o->residual && !l2l__same(o->residual->shape, l2l__output_of(g)))
        return l2l__shapes_differ(c, "l2l_conv: residual", o->residual->shape, l2l__output_of(g));
    if (o->pool && (g->oh < 2 || g->ow < 2))
        return l2l__fail(c, L2L_ERROR_SHAPE, "l2l_conv: nothing to pool in %dx%d", g->oh, g->ow);
    return l2l__vector_fits(c, "l2l_conv: bias", o->bias, g->k) &&
           l2l__vector_fits(c, "l2l_conv: scale", o->scale, g->k) &&
           l2l__vector_fits(c, "l2l_conv: pre_scale", o->pre_scale, g->c) &&
           l2l__vector_fits(c, "l2l_conv: pre_shift", o->pre_shift, g->c);
}

/* Runs the convolution and its epilogue into a new tensor, pooled or not. */
static l2l_tensor *l2l__conv_run(l2l_context *c, const l2l__geometry *g, const l2l_tensor *p,
                                 const l2l_tensor *w, const l2l_conv_options *o)
{
    l2l_tensor *full = l2l__new(c, "l2l_conv", l2l__output_of(g)), *y;
    l2l__epilogue e;
    l2l__geometry pool = *g;
    bool ok;
    if (!full) return NULL;
    e = l2l__epilogue_of(NULL, o->scale ? o->scale->data : NULL, o->bias ? o->bias->data : NULL,
                         o->residual ? o->residual->data : NULL, o->relu);
    if (!l2l__conv_forward(c, g, p->data, w, &e, full->data)) {
        l2l_drop(c, full);
        return NULL;
    }
    if (!o->pool) return full;
    y = l2l__new(c, "l2l_conv", l2l_shape_of(g->n, g->oh / 2, g->ow / 2, g->k));
    pool.h = g->oh; pool.w = g->ow; pool.c = g->k;
    pool.kh = pool.kw = pool.stride = 2;
    pool.padding = 0;
    pool.oh = g->oh / 2; pool.ow = g->ow / 2;
    ok = y && l2l__pool_into(c, &pool, full->data, y);
    l2l_drop(c, full);
    if (ok) return y;
    l2l_drop(c, y);
    return NULL;
}

L2LADVDEF l2l_tensor *l2l_conv(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                               const l2l_conv_options *o)
{
    l2l__geometry g;
    l2l_tensor *in[7], *p = x, *y;
    bool was = c->recording;
    if (!l2l__ready(c, "l2l_conv", x) || !l2l__ready(c, "l2l_conv: weight", w) ||
        !l2l__geometry_of(c, "l2l_conv", x->shape, w->shape, o->stride, o->padding, &g) ||
        !l2l__shape_ok(c, "l2l_conv", l2l__output_of(&g)) || !l2l__conv_check(c, o, &g))
        return NULL;
    if (o->pre_scale) {
        c->recording = false;                /* part of this node, not nodes of their own         */
        p = l2l__scale_shift(c, x, o->pre_scale, o->pre_shift, NULL, true);
        c->recording = was;
        if (!p) return NULL;
    }
    y = l2l__conv_run(c, &g, p, w, o);
    if (p != x) l2l_drop(c, p);
    if (!y) return NULL;
    l2l__save_geometry(y, o->stride, o->padding);
    y->i[3] = (o->relu ? L2L_RELU : 0) | (o->pool ? L2L_POOL : 0);
    y->i[7] = (int64_t)g.oh << 32 | g.ow;
    in[L2L__X] = x; in[L2L__W] = w; in[L2L__BIAS] = o->bias; in[L2L__SCALE] = o->scale;
    in[L2L__RESIDUAL] = o->residual; in[L2L__PRE_SCALE] = o->pre_scale;
    in[L2L__PRE_SHIFT] = o->pre_shift;
    return l2l__record(c, y, &l2l__conv_op, in, 7);
}

/* A linear layer is a 1x1 convolution of one pixel with H*W*C channels. */
L2LADVDEF l2l_tensor *l2l_linear(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                                 const l2l_conv_options *o)
{
    l2l_tensor *flat, *matrix, *y;
    int64_t inputs, rows;
    if (!l2l__ready(c, "l2l_linear", x) || !l2l__ready(c, "l2l_linear: weight", w)) return NULL;
    inputs = l2l_count(x->shape) / x->shape.n;
    rows = l2l_count(w->shape) / w->shape.c;
    if (inputs != rows || inputs > INT_MAX) {
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_linear: %z inputs (%dx%dx%d) and a weight for %z",
                  inputs, x->shape.h, x->shape.w, x->shape.c, rows);
        return NULL;
    }
    flat = l2l_reshape(c, x, l2l_shape_of(x->shape.n, 1, 1, (int)inputs));
    matrix = l2l_reshape(c, w, l2l_shape_of(1, 1, (int)inputs, w->shape.c));
    y = flat && matrix ? l2l_conv(c, flat, matrix, o) : NULL;
    l2l_drop(c, flat);
    l2l_drop(c, matrix);
    return y;
}

/* -- pooling ----------------------------------------------------------------------------------- */

static bool l2l__pool_shape(l2l_context *c, const char *where, const l2l_tensor *x, int window,
                            int stride, int padding, l2l__geometry *g)
{
    if (!l2l__ready(c, where, x)) return false;
    if (window < 1 || padding > window / 2)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "%s: window %d must be at least 1, padding %d at most "
                         "half of it",
                         where, window, padding);
    return l2l__geometry_of(c, where, x->shape,
                            l2l_shape_of(window, window, x->shape.c, x->shape.c), stride, padding,
                            g);
}

static void l2l__max_pool_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l__unpool_of(v->c, v->dy, v->y, v->y->index, v->y->in[0]->shape);
}
static const l2l__operation l2l__max_pool_op = {"max_pool", l2l__max_pool_vjp};

L2LADVDEF l2l_tensor *l2l_max_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                   int padding)
{
    l2l__geometry g;
    l2l_tensor *y;
    if (!l2l__pool_shape(c, "l2l_max_pool", x, window, stride, padding, &g) ||
        !(y = l2l__new(c, "l2l_max_pool", l2l__output_of(&g))))
        return NULL;
    if (!l2l__pool_into(c, &g, x->data, y)) {
        l2l_drop(c, y);
        return NULL;
    }
    return l2l__record1(c, y, &l2l__max_pool_op, x);
}

/* The average and its adjoint are linear: each is the other's VJP. i[2..3] hold the input's
   size. */
static l2l_tensor *l2l__average_adjoint(l2l_context *c, l2l_tensor *dy, const l2l_tensor *pooled,
                                        l2l_shape x);
static void l2l__average_pool_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l__average_adjoint(v->c, v->dy, v->y, v->y->in[0]->shape);
}
static const l2l__operation l2l__average_pool_op = {"average_pool", l2l__average_pool_vjp};

static void l2l__average_adjoint_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_average_pool(v->c, v->dy, (int)v->y->i[4], (int)v->y->i[5], (int)v->y->i[6]);
}
static const l2l__operation l2l__average_adjoint_op = {"average_adjoint", l2l__average_adjoint_vjp};

L2LADVDEF l2l_tensor *l2l_average_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                       int padding)
{
    l2l__geometry g;
    l2l_tensor *y;
    if (!l2l__pool_shape(c, "l2l_average_pool", x, window, stride, padding, &g) ||
        !(y = l2l__new(c, "l2l_average_pool", l2l__output_of(&g))))
        return NULL;
    l2l__average(c, &g, true, x->data, y->data);
    l2l__save_pool(y, window, stride, padding);
    return l2l__record1(c, y, &l2l__average_pool_op, x);
}

static l2l_tensor *l2l__average_adjoint(l2l_context *c, l2l_tensor *dy, const l2l_tensor *pooled,
                                        l2l_shape x)
{
    l2l__geometry g;
    l2l_tensor *dx;
    if (!l2l__ready(c, "average_adjoint", dy) || !(dx = l2l__new(c, "average_adjoint", x)))
        return NULL;
    g = l2l__pool_geometry(x, dy->shape, pooled);
    l2l__average(c, &g, false, dx->data, dy->data);
    l2l__save_pool(dx, g.kh, g.stride, g.padding);
    return l2l__record1(c, dx, &l2l__average_adjoint_op, dy);
}

L2LADVDEF l2l_tensor *l2l_global_average_pool(l2l_context *c, l2l_tensor *x)
{
    if (!l2l__ready(c, "l2l_global_average_pool", x)) return NULL;
    return l2l__mean_to(c, x, l2l_shape_of(x->shape.n, 1, 1, x->shape.c));
}

/* -- batch normalisation --------------------------------------------------------------------------
   Training: m = N*H*W, mu = sum x / m, var = sum (x-mu)^2 / m, r = (var + eps)^-1/2,
   y = relu(gamma (x-mu) r + beta + residual). The node saves mu and r. */

L2LADVDEF l2l_batch_norm_options l2l_batch_norm_default(void)
{
    l2l_batch_norm_options o;
    memset(&o, 0, sizeof o);
    o.epsilon = 1e-5;
    o.momentum = 0.1;
    o.update = true;
    return o;
}

/* The same function from plain operations: the test twin, and what higher derivatives go
   through. */
static l2l_tensor *l2l__batch_norm_plain(l2l_context *c, l2l_tensor *x, l2l_tensor *gamma,
                                         l2l_tensor *beta, double epsilon)
{
    l2l_shape s = l2l__channels(x->shape.c);
    l2l_tensor *d = l2l_sub(c, x, l2l__mean_to(c, x, s));
    l2l_tensor *variance = l2l__mean_to(c, l2l_mul(c, d, d), s);
    l2l_tensor *r = l2l_power(c, l2l_affine(c, variance, 1, epsilon), -0.5);
    return l2l_add(c, l2l_mul(c, d, l2l_mul(c, r, gamma)), beta);
}

/* With t = dy behind the ReLU's mask and xhat = (x-mu) r: dgamma = sum t xhat, dbeta = sum t,
   dx = gamma r (t - mean(t) - xhat mean(t xhat)). */
static void l2l__batch_norm_fused_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *x = v->y->in[0], *gamma = v->y->in[1], *gate = v->y->i[3] ? v->y : NULL;
    const l2l_real *mu = v->y->saved, *g = gate ? gate->data : NULL;
    int n = x->shape.c, k;
    int64_t m = l2l_count(x->shape) / n;
    const l2l_real *r = mu + n;
    double *sums = (double *)l2l__arena_array(c, 2 * (int64_t)n, sizeof *sums);
    l2l_real *by = (l2l_real *)l2l__arena_array(c, 4 * (int64_t)n, sizeof *by);
    l2l_tensor *dgamma = l2l__new(c, "batch_norm", gamma->shape);
    l2l_tensor *dbeta = l2l__new(c, "batch_norm", gamma->shape), *dx = NULL;
    if (v->need[0]) dx = l2l__new(c, "batch_norm", x->shape);
    if (!c->status &&
        l2l__channel_moments(c, m, n, v->dy->data, g, x->data, mu, sums, sums + n)) {
        for (k = 0; k < n; k++) {
            double a = (double)gamma->data[k] * (double)r[k];
            double h = sums[n + k] * (double)r[k];
            dbeta->data[k] = (l2l_real)sums[k];
            dgamma->data[k] = (l2l_real)h;
            by[k] = mu[k];
            by[n + k] = (l2l_real)a;
            by[2 * n + k] = (l2l_real)(-a * (double)r[k] * h / (double)m);
            by[3 * n + k] = (l2l_real)(-a * sums[k] / (double)m);
        }
        if (dx) l2l__channel_combine(c, m, n, v->dy->data, g, x->data, by, dx->data);
    }
    l2l__arena_drop(c, by);
    l2l__arena_drop(c, sums);
    v->dx[0] = dx;
    v->dx[1] = dgamma;
    v->dx[2] = dbeta;
    if (v->need[3]) v->dx[3] = gate ? l2l__gate(c, v->dy, gate, 0) : l2l__retain(v->dy);
}

static void l2l__batch_norm_vjp(l2l__vjp *v)
{
    l2l_tensor *y, *in[4], *wanted[4], *found[4];
    int j, n = 0;
    if (!v->c->recording) {
        l2l__batch_norm_fused_vjp(v);
        return;
    }
    for (j = 0; j < 4; j++) {                /* nodes of their own: one input may depend on       */
        l2l_tensor *x = v->y->in[j];         /* another (a residual block), or be the same        */
        in[j] = x ? l2l_reshape(v->c, x, x->shape) : NULL;
    }
    y = l2l__batch_norm_plain(v->c, in[0], in[1], in[2], v->y->f[0]);
    if (in[3]) y = l2l_add(v->c, y, in[3]);
    if (v->y->i[3]) y = l2l_relu(v->c, y);
    for (j = 0; j < 4; j++) if (v->need[j]) wanted[n++] = in[j];
    if (!y || !l2l_vjp(v->c, y, v->dy, wanted, n, found, L2L_CREATE_GRAPH)) return;
    for (j = n = 0; j < 4; j++) if (v->need[j]) v->dx[j] = found[n++];
}
static const l2l__operation l2l__batch_norm_op = {"batch_norm", l2l__batch_norm_vjp};

static void l2l__move_running(const l2l_batch_norm_options *o, const l2l_real *mu,
                              const l2l_real *variance, int channels, double m)
{
    double a = o->momentum, unbiased = m > 1 ? m / (m - 1) : 1;
    int k;
    for (k = 0; k < channels; k++) {
        l2l_real *mean = o->running_mean->data + k, *var = o->running_variance->data + k;
        *mean = (l2l_real)((1 - a) * (double)*mean + a * (double)mu[k]);
        *var = (l2l_real)((1 - a) * (double)*var + a * unbiased * (double)variance[k]);
    }
}

static l2l_tensor *l2l__batch_norm_train(l2l_context *c, l2l_tensor *x,
                                         const l2l_batch_norm_options *o)
{
    int n = x->shape.c, k;
    int64_t m = l2l_count(x->shape) / n;
    l2l_tensor *y = l2l__new(c, "l2l_batch_norm", x->shape), *in[4];
    l2l_real *mu, *r, *scale = (l2l_real *)l2l__arena_array(c, 2 * (int64_t)n, sizeof *scale);
    l2l_real *variance = scale ? scale + n : NULL;
    l2l__epilogue e;
    if (!y || !scale) goto failed;
    y->saved = mu = (l2l_real *)l2l__arena_array(c, 2 * (int64_t)n, sizeof *mu);
    if (!mu || !l2l__sum_pixels(c, x, NULL, mu)) goto failed;
    for (r = mu + n, k = 0; k < n; k++) mu[k] = (l2l_real)((double)mu[k] / (double)m);
    if (!l2l__sum_pixels(c, x, mu, r)) goto failed;
    for (k = 0; k < n; k++) r[k] = (l2l_real)((double)r[k] / (double)m);
    for (k = 0; k < n; k++) {
        variance[k] = r[k];
        r[k] = (l2l_real)(1 / sqrt((double)r[k] + o->epsilon));
        scale[k] = r[k] * o->gamma->data[k];
    }
    e = l2l__epilogue_of(mu, scale, o->beta->data, o->residual ? o->residual->data : NULL, o->relu);
    l2l__channel_finish(c, m, n, x->data, &e, y->data);
    y->f[0] = o->epsilon;
    y->i[3] = o->relu;
    in[0] = x; in[1] = o->gamma; in[2] = o->beta; in[3] = o->residual;
    y = l2l__record(c, y, &l2l__batch_norm_op, in, 4);
    if (y && o->update) l2l__move_running(o, mu, variance, n, (double)m);
    l2l__arena_drop(c, scale);
    return y;
failed:
    l2l__arena_drop(c, scale);
    l2l_drop(c, y);
    return NULL;
}

/* Evaluation: y = x s + b, s = gamma (variance + eps)^-1/2, b = beta + (before - mean) s, where
   `before` is the bias of a convolution in front that takes s and b into its epilogue. */
static bool l2l__batch_norm_constants(l2l_context *c, const l2l_batch_norm_options *o,
                                      l2l_tensor *before, l2l_tensor **s, l2l_tensor **b)
{
    l2l_tensor *shifted = l2l_affine(c, o->running_variance, 1, o->epsilon);
    l2l_tensor *r = l2l_power(c, shifted, -0.5);
    l2l_tensor *mean = before ? l2l_sub(c, o->running_mean, before) : l2l__retain(o->running_mean);
    l2l_tensor *m;
    *s = l2l_mul(c, o->gamma, r);
    m = l2l_mul(c, mean, *s);
    *b = l2l_sub(c, o->beta, m);
    l2l_drop(c, shifted);
    l2l_drop(c, r);
    l2l_drop(c, mean);
    l2l_drop(c, m);
    return !c->status;
}

static l2l_tensor *l2l__batch_norm_evaluate(l2l_context *c, l2l_tensor *x,
                                            const l2l_batch_norm_options *o)
{
    l2l_tensor *s, *b, *y = NULL;
    if (l2l__batch_norm_constants(c, o, NULL, &s, &b))
        y = l2l__scale_shift(c, x, s, b, o->residual, o->relu);
    l2l_drop(c, s);
    l2l_drop(c, b);
    return y;
}

static bool l2l__batch_norm_ready(l2l_context *c, const l2l_batch_norm_options *o, l2l_shape x)
{
    const char *where = "l2l_batch_norm";
    if (!l2l__ready(c, where, o->gamma) || !l2l__ready(c, where, o->beta) ||
        !l2l__ready(c, where, o->running_mean) || !l2l__ready(c, where, o->running_variance) ||
        !l2l__vector_fits(c, where, o->gamma, x.c) || !l2l__vector_fits(c, where, o->beta, x.c) ||
        !l2l__vector_fits(c, where, o->running_mean, x.c) ||
        !l2l__vector_fits(c, where, o->running_variance, x.c))
        return false;
    if (!o->residual) return true;
    if (!l2l__ready(c, "l2l_batch_norm: residual", o->residual)) return false;
    return l2l__same(o->residual->shape, x) ||
           l2l__shapes_differ(c, "l2l_batch_norm: residual", o->residual->shape, x);
}

L2LADVDEF l2l_tensor *l2l_batch_norm(l2l_context *c, l2l_tensor *x, const l2l_batch_norm_options *o)
{
    if (!l2l__ready(c, "l2l_batch_norm", x) || !l2l__batch_norm_ready(c, o, x->shape)) return NULL;
    return o->training ? l2l__batch_norm_train(c, x, o) : l2l__batch_norm_evaluate(c, x, o);
}

/* -- dropout ----------------------------------------------------------------------------------- */

L2LADVDEF l2l_tensor *l2l_dropout(l2l_context *c, l2l_tensor *x, double p, const l2l_stream *s,
                                  const uint32_t *images)
{
    l2l_tensor *mask, *y;
    int64_t plane, one;
    int n, k;
    if (!l2l__ready(c, "l2l_dropout", x)) return NULL;
    if (!(p >= 0 && p < 1)) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_dropout: the probability %g is not in [0,1)", p);
        return NULL;
    }
    if (!(mask = l2l__new(c, "l2l_dropout", x->shape))) return NULL;
    plane = (int64_t)x->shape.h * x->shape.w;
    one = plane * x->shape.c;
    for (n = 0; n < x->shape.n; n++)
        for (k = 0; k < x->shape.c; k++) {
            l2l_stream mine = *s;
            int64_t i;
            mine.image = images[n];
            for (i = 0; i < plane; i++)      /* the element's number is its place in C,H,W order  */
                mask->data[n * one + i * x->shape.c + k] =
                    l2l_random_uniform(&mine, (uint32_t)(k * plane + i)) < p
                        ? 0 : (l2l_real)(1 / (1 - p));
        }
    y = l2l_mul(c, x, mask);
    l2l_drop(c, mask);
    return y;
}

/* -- over classes ------------------------------------------------------------------------------ */

static bool l2l__rows_ready(l2l_context *c, const char *where, const l2l_tensor *x)
{
    if (!l2l__ready(c, where, x)) return false;
    if (x->shape.h != 1 || x->shape.w != 1)
        return l2l__fail(c, L2L_ERROR_SHAPE, "%s: expected Nx1x1xK, not %dx%dx%dx%d", where,
                         x->shape.n, x->shape.h, x->shape.w, x->shape.c);
    return true;
}

/* log sum exp of a row, by its maximum. */
static double l2l__log_sum_exp(const l2l_real *z, int k)
{
    double top = (double)z[0], sum = 0;
    int j;
    for (j = 1; j < k; j++) if ((double)z[j] > top) top = (double)z[j];
    for (j = 0; j < k; j++) sum += exp((double)z[j] - top);
    return top + log(sum);
}

/* Rows of y = softmax(z), or of its logarithm. */
static l2l_tensor *l2l__softmax_rows(l2l_context *c, const char *where, const l2l_tensor *z,
                                     bool logs)
{
    l2l_tensor *y;
    int i, j, k;
    if (!l2l__rows_ready(c, where, z) || !(y = l2l__new(c, where, z->shape))) return NULL;
    k = z->shape.c;
    for (i = 0; i < z->shape.n; i++) {
        const l2l_real *row = z->data + (int64_t)i * k;
        l2l_real *out = y->data + (int64_t)i * k;
        double lse = l2l__log_sum_exp(row, k);
        for (j = 0; j < k; j++)
            out[j] = (l2l_real)(logs ? (double)row[j] - lse : exp((double)row[j] - lse));
    }
    return y;
}

static l2l_shape l2l__per_image(const l2l_tensor *x) { return l2l_shape_of(x->shape.n, 1, 1, 1); }

static void l2l__softmax_vjp(l2l__vjp *v)    /* y (dy - sum dy y) */
{
    l2l_context *c = v->c;
    l2l_tensor *t = l2l_mul(c, v->dy, v->y), *s, *d;
    if (!t) return;
    s = l2l_sum_to(c, t, l2l__per_image(t));
    d = l2l_sub(c, v->dy, s);
    v->dx[0] = l2l_mul(c, v->y, d);
    l2l_drop(c, t);
    l2l_drop(c, s);
    l2l_drop(c, d);
}
static const l2l__operation l2l__softmax_op = {"softmax", l2l__softmax_vjp};

L2LADVDEF l2l_tensor *l2l_softmax(l2l_context *c, l2l_tensor *logits)
{
    return l2l__record1(c, l2l__softmax_rows(c, "l2l_softmax", logits, false), &l2l__softmax_op,
                        logits);
}

static void l2l__log_softmax_vjp(l2l__vjp *v) /* dy - softmax sum dy */
{
    l2l_context *c = v->c;
    l2l_tensor *s = l2l_sum_to(c, v->dy, l2l__per_image(v->dy));
    l2l_tensor *p = l2l_softmax(c, v->y->in[0]), *t = l2l_mul(c, p, s);
    v->dx[0] = l2l_sub(c, v->dy, t);
    l2l_drop(c, s);
    l2l_drop(c, p);
    l2l_drop(c, t);
}
static const l2l__operation l2l__log_softmax_op = {"log_softmax", l2l__log_softmax_vjp};

L2LADVDEF l2l_tensor *l2l_log_softmax(l2l_context *c, l2l_tensor *logits)
{
    return l2l__record1(c, l2l__softmax_rows(c, "l2l_log_softmax", logits, true),
                        &l2l__log_softmax_op, logits);
}

/* y's own copy of n class numbers, each checked against k. */
static bool l2l__save_classes(l2l_context *c, const char *where, l2l_tensor *y, const int *classes,
                              int n, int k)
{
    int i;
    if (!y) return false;
    y->index = (int *)l2l__arena_array(c, n, sizeof *y->index);
    if (!y->index) return false;
    for (i = 0; i < n; i++) {
        if (classes[i] < 0 || classes[i] >= k)
            return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: class %d of row %d is not in 0..%d", where,
                             classes[i], i, k - 1);
        y->index[i] = classes[i];
    }
    return true;
}

static void l2l__pick_vjp(l2l__vjp *v)
{
    v->dx[0] = l2l_unpick(v->c, v->dy, v->y->index, v->y->in[0]->shape.c);
}
static const l2l__operation l2l__pick_op = {"pick", l2l__pick_vjp};

static void l2l__unpick_vjp(l2l__vjp *v) { v->dx[0] = l2l_pick(v->c, v->dy, v->y->index); }
static const l2l__operation l2l__unpick_op = {"unpick", l2l__unpick_vjp};

L2LADVDEF l2l_tensor *l2l_pick(l2l_context *c, l2l_tensor *logits, const int *classes)
{
    l2l_tensor *y;
    int i, k;
    if (!l2l__rows_ready(c, "l2l_pick", logits)) return NULL;
    k = logits->shape.c;
    y = l2l__new(c, "l2l_pick", l2l__per_image(logits));
    if (!l2l__save_classes(c, "l2l_pick", y, classes, logits->shape.n, k)) {
        l2l_drop(c, y);
        return NULL;
    }
    for (i = 0; i < logits->shape.n; i++) y->data[i] = logits->data[(int64_t)i * k + classes[i]];
    return l2l__record1(c, y, &l2l__pick_op, logits);
}

L2LADVDEF l2l_tensor *l2l_unpick(l2l_context *c, l2l_tensor *values, const int *classes, int k)
{
    l2l_tensor *y;
    int i;
    if (!l2l__rows_ready(c, "l2l_unpick", values)) return NULL;
    y = l2l_zeros(c, l2l_shape_of(values->shape.n, 1, 1, k));
    if (!l2l__save_classes(c, "l2l_unpick", y, classes, values->shape.n, k)) {
        l2l_drop(c, y);
        return NULL;
    }
    for (i = 0; i < values->shape.n; i++) y->data[(int64_t)i * k + classes[i]] = values->data[i];
    return l2l__record1(c, y, &l2l__unpick_op, values);
}

/* ============================================================================================ */
/*  6  LAYERS AND CLASSIFIERS                                                          >>layers  */
/* ============================================================================================ */

typedef struct l2l__slot {                   /* a parameter or a buffer                           */
    char name[96];
    l2l_tensor value;
    int rank;
    bool trainable;
} l2l__slot;

struct l2l_model {
    l2l_context *context;
    l2l_model_options options;
    char arch[32], scope[64];
    l2l__slot **slots;                       /* in the order of the first run                     */
    int n_slots, capacity, cursor;           /* cursor: where the next look-up begins             */
    bool creating;                           /* the first run: layers make what they miss         */
    l2l_mode mode;
    bool frozen;                             /* training mode without moving running statistics   */
    bool mode_matters;                       /* some layer has asked for the mode                 */
    l2l_stream stream;                       /* of dropout: set by whoever runs the model         */
    const uint32_t *images;
    uint32_t draws;                          /* dropout layers so far in this run                 */
    l2l_external external;
};

/* -- file layout: KxCxkhxkw against khxkwxCxK -------------------------------------------------- */

/* Where element i of the file's order stands in memory. A linear layer after a flatten has the same
   permutation: khxkw is then the map's HxW. */
static int64_t l2l__file_place(l2l_shape s, int64_t i)
{
    int64_t w = i % s.h, h = i / s.h % s.n, c = i / s.h / s.n % s.w, k = i / s.h / s.n / s.w;
    return ((h * s.h + w) * s.w + c) * s.c + k;
}

static void l2l__to_file(l2l_shape s, const l2l_real *memory, l2l_real *file)
{
    int64_t i, n = l2l_count(s);
    for (i = 0; i < n; i++) file[i] = memory[l2l__file_place(s, i)];
}

static void l2l__from_file(l2l_shape s, const l2l_real *file, l2l_real *memory)
{
    int64_t i, n = l2l_count(s);
    for (i = 0; i < n; i++) memory[l2l__file_place(s, i)] = file[i];
}

/* -- parameters by name ------------------------------------------------------------------------ */

/* Whoever changes a parameter says so: transforms cached for the old values are void then. */
static void l2l__touch(l2l__slot *p)
{
    if (p->value.packed) p->value.packed->version++;
}

static l2l__slot *l2l__find_slot(l2l_model *m, const char *name)
{
    int i;
    for (i = 0; i < m->n_slots; i++) {
        int j = (m->cursor + i) % m->n_slots;
        if (strcmp(m->slots[j]->name, name) == 0) {
            m->cursor = j + 1;
            return m->slots[j];
        }
    }
    return NULL;
}

/* N(0, deviation^2), drawn in file order; deviation 0 leaves zeros, fill sets a constant. */
static void l2l__initialise(l2l_model *m, l2l__slot *p, double deviation, double fill)
{
    l2l_stream s = l2l__stream(m->options.seed, L2L_RANDOM_INIT, 0, (uint32_t)m->n_slots, 0);
    int64_t i, n = l2l_count(p->value.shape);
    for (i = 0; i < n; i++)
        p->value.data[l2l__file_place(p->value.shape, i)] =
            (l2l_real)(fill + (deviation > 0 ? deviation * l2l_random_normal(&s, (uint32_t)i) : 0));
}

static bool l2l__grow_slots(l2l_model *m)
{
    int capacity = m->capacity ? 2 * m->capacity : 32;
    l2l__slot **slots;
    if (m->n_slots < m->capacity) return true;
    slots = (l2l__slot **)l2l__allocate_array(m->context, capacity, sizeof *slots);
    if (!slots) return false;
    if (m->slots) memcpy(slots, m->slots, (size_t)m->n_slots * sizeof *slots);
    l2l_free(m->context, m->slots);
    m->slots = slots;
    m->capacity = capacity;
    return true;
}

static void l2l__free_slot(l2l_context *c, l2l__slot *p)
{
    if (!p) return;
    l2l__packed_free(c, p->value.packed);
    l2l_free(c, p->value.packed);
    l2l_free(c, p->value.data);
    l2l_free(c, p);
}

static l2l__slot *l2l__add_slot(l2l_model *m, const char *name, l2l_shape s, int rank,
                                bool trainable)
{
    l2l_context *c = m->context;
    l2l__slot *p;
    if (!l2l__shape_ok(c, name, s) || !l2l__grow_slots(m)) return NULL;
    if (!(p = (l2l__slot *)l2l__allocate(c, sizeof *p))) return NULL;
    memcpy(p->name, name, strlen(name) + 1);
    p->rank = rank;
    p->trainable = trainable;
    p->value.shape = s;
    p->value.tape = -1;                      /* references stay 0: owned by the model             */
    p->value.data = (l2l_real *)l2l__allocate_array(c, l2l_count(s), sizeof(l2l_real));
    if (rank > 1)
        p->value.packed = (struct l2l__packed *)l2l__allocate(c, sizeof *p->value.packed);
    if (c->status) {
        l2l__free_slot(c, p);
        return NULL;
    }
    m->slots[m->n_slots++] = p;
    return p;
}

/* The parameter `layer`.`part`; made and initialised on the first run. NULL and an error else. */
static l2l_tensor *l2l__parameter(l2l_model *m, const char *layer, const char *part, l2l_shape s,
                                  int rank, bool trainable, double deviation, double fill)
{
    l2l_context *c = m->context;
    char name[96];
    l2l__slot *p;
    if (c->status) return NULL;
    if (l2l__format(name, sizeof name, "%s%s.%s", m->scope, layer, part) >= sizeof name) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "parameter name '%s%s.%s' is too long", m->scope, layer,
                  part);
        return NULL;
    }
    p = l2l__find_slot(m, name);
    if (m->creating && p) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "two layers are named '%s%s'", m->scope, layer);
        return NULL;
    }
    if (m->creating) {
        p = l2l__add_slot(m, name, s, rank, trainable);
        if (p) l2l__initialise(m, p, deviation, fill);
    } else if (!p) {
        l2l__fail(c, L2L_ERROR_ARGUMENT,
                  "the model has no parameter '%s': did its forward function "
                  "change?",
                  name);
    } else if (!l2l__same(p->value.shape, s)) {
        l2l__shapes_differ(c, name, p->value.shape, s);
        p = NULL;
    }
    return p ? &p->value : NULL;
}

/* -- layers ------------------------------------------------------------------------------------ */

L2LADVDEF l2l_context *l2l_model_context(const l2l_model *m)
{
    return m ? m->context : NULL;
}

L2LADVDEF l2l_mode l2l_model_mode(l2l_model *m)
{
    m->mode_matters = true;
    return m->mode;
}

L2LADVDEF void l2l_model_scope(l2l_model *m, const char *prefix)
{
    if (l2l__format(m->scope, sizeof m->scope, "%s", prefix) >= sizeof m->scope)
        l2l__fail(m->context, L2L_ERROR_ARGUMENT, "l2l_model_scope: '%s' is too long", prefix);
}

/* The parameters of a batch norm over so many channels, and how it runs now. */
static l2l_batch_norm_options l2l__norm(l2l_model *m, const char *name, int channels)
{
    l2l_batch_norm_options o = l2l_batch_norm_default();
    l2l_shape s = l2l__channels(channels);
    o.gamma = l2l__parameter(m, name, "weight", s, 1, true, 0, 1);
    o.beta = l2l__parameter(m, name, "bias", s, 1, true, 0, 0);
    o.running_mean = l2l__parameter(m, name, "running_mean", s, 1, false, 0, 0);
    o.running_variance = l2l__parameter(m, name, "running_var", s, 1, false, 0, 1);
    o.training = l2l_model_mode(m) == L2L_TRAIN;
    o.update = !m->frozen && !m->creating;
    return o;
}

L2LADVDEF l2l_tensor *l2l_layer_batch_norm(l2l_model *m, const char *name, l2l_tensor *x,
                                           unsigned flags)
{
    l2l_batch_norm_options o;
    if (!l2l__ready(m->context, name, x)) return NULL;
    o = l2l__norm(m, name, x->shape.c);
    o.relu = (flags & L2L_RELU) != 0;
    return m->context->status ? NULL : l2l_batch_norm(m->context, x, &o);
}

L2LADVDEF l2l_unit l2l_unit_default(int channels, int kernel)
{
    l2l_unit u;
    memset(&u, 0, sizeof u);
    u.channels = channels;
    u.kernel = kernel;
    u.stride = 1;
    u.padding = kernel / 2;
    return u;
}

/* Training mode: the batch's statistics stand between the convolution and the rest. They take the
   convolution's bias away again, so it enters the running mean only, and its gradient is 0. */
static l2l_tensor *l2l__unit_train(l2l_model *m, l2l_tensor *x, l2l_tensor *w, l2l_conv_options *o,
                                   l2l_batch_norm_options *norm, const l2l_unit *u)
{
    l2l_context *c = m->context;
    const l2l_tensor *bias = o->bias;
    l2l_tensor *z, *y, *p;
    int k;
    o->bias = NULL;
    z = l2l_conv(c, x, w, o);
    norm->residual = u->residual;
    norm->relu = (u->flags & L2L_RELU) != 0;
    y = l2l_batch_norm(c, z, norm);
    l2l_drop(c, z);
    for (k = 0; y && bias && norm->update && k < u->channels; k++)
        norm->running_mean->data[k] += (l2l_real)norm->momentum * bias->data[k];
    if (!(u->flags & L2L_POOL)) return y;
    p = l2l_max_pool(c, y, 2, 2, 0);
    l2l_drop(c, y);
    return p;
}

L2LADVDEF l2l_tensor *l2l_layer_unit(l2l_model *m, const char *name, l2l_tensor *x,
                                     const l2l_unit *u)
{
    l2l_context *c = m->context;
    l2l_conv_options o = l2l_conv_default();
    l2l_batch_norm_options norm;
    l2l_tensor *w, *y, *scale = NULL, *shift = NULL;
    if (!l2l__ready(c, name, x)) return NULL;
    w = l2l__parameter(m, name, "weight",
                       l2l_shape_of(u->kernel, u->kernel, x->shape.c, u->channels), 4, true,
                       sqrt(2 / ((double)u->kernel * u->kernel * x->shape.c)), 0);
    if (!(u->flags & L2L_NO_BIAS))
        o.bias = l2l__parameter(m, name, "bias", l2l__channels(u->channels), 1, true, 0, 0);
    o.stride = u->stride;
    o.padding = u->padding;
    if (u->norm) {
        norm = l2l__norm(m, u->norm, u->channels);
        if (c->status) return NULL;
        if (norm.training) return l2l__unit_train(m, x, w, &o, &norm, u);
        if (!l2l__batch_norm_constants(c, &norm, o.bias, &scale, &shift)) return NULL;
        o.scale = scale;
        o.bias = shift;
    }
    o.residual = u->residual;
    o.relu = (u->flags & L2L_RELU) != 0;
    o.pool = (u->flags & L2L_POOL) != 0;
    y = c->status ? NULL : l2l_conv(c, x, w, &o);
    l2l_drop(c, scale);
    l2l_drop(c, shift);
    return y;
}

L2LADVDEF l2l_tensor *l2l_layer_conv(l2l_model *m, const char *name, l2l_tensor *x, int channels,
                                     int kernel, int stride, int padding, unsigned flags)
{
    l2l_unit u = l2l_unit_default(channels, kernel);
    u.stride = stride;
    u.padding = padding;
    u.flags = flags;
    return l2l_layer_unit(m, name, x, &u);
}

L2LADVDEF l2l_tensor *l2l_layer_linear(l2l_model *m, const char *name, l2l_tensor *x, int outputs,
                                       unsigned flags)
{
    l2l_conv_options o = l2l_conv_default();
    l2l_tensor *w;
    l2l_shape s;
    double deviation = m->options.last_layer_deviation;
    if (!l2l__ready(m->context, name, x)) return NULL;
    s = x->shape;                            /* the weight remembers the map it flattens          */
    if (!(flags & L2L_LAST)) deviation = sqrt(2 / ((double)s.h * s.w * s.c));
    w = l2l__parameter(m, name, "weight", l2l_shape_of(s.h, s.w, s.c, outputs), 2, true, deviation,
                       0);
    if (!(flags & L2L_NO_BIAS))
        o.bias = l2l__parameter(m, name, "bias", l2l__channels(outputs), 1, true, 0, 0);
    o.relu = (flags & L2L_RELU) != 0;
    return m->context->status ? NULL : l2l_linear(m->context, x, w, &o);
}

L2LADVDEF l2l_tensor *l2l_layer_dropout(l2l_model *m, l2l_tensor *x, double p)
{
    l2l_context *c = m->context;
    l2l_stream s = m->stream;
    l2l_tensor *y;
    uint32_t *images;
    int i;
    if (!l2l__ready(c, "l2l_layer_dropout", x)) return NULL;
    if (l2l_model_mode(m) != L2L_TRAIN || p == 0) return l2l_reshape(c, x, x->shape);
    s.purpose = L2L_RANDOM_DROPOUT;
    s.seed += (uint64_t)0x9E3779B97F4A7C15u * m->draws++; /* each layer has its own draws         */
    images = (uint32_t *)l2l__arena_array(c, x->shape.n, sizeof *images);
    if (!images) return NULL;
    for (i = 0; i < x->shape.n; i++) images[i] = m->images ? m->images[i] : (uint32_t)i;
    y = l2l_dropout(c, x, p, &s, images);
    l2l__arena_drop(c, images);
    return y;
}

/* -- the classifiers --------------------------------------------------------------------------- */

/* The next layer of a chain: x has been used up. */
static l2l_tensor *l2l__then(l2l_model *m, l2l_tensor *x, l2l_tensor *y)
{
    l2l_drop(m->context, x);
    return y;
}

/* A channel count under the width multiplier, in multiples of 8. */
static int l2l__width(const l2l_model *m, int channels)
{
    int scaled = (int)(m->options.width_multiplier * channels / 8 + 0.5) * 8;
    return scaled < 8 ? 8 : scaled;
}

/* The 4-layer CNN, TRADES' SmallCNN: 312,202 parameters at width 1. */
static l2l_tensor *l2l__smallcnn(l2l_model *m, l2l_tensor *x, void *user)
{
    int a = l2l__width(m, 32), b = l2l__width(m, 64), f = l2l__width(m, 200);
    L2L__UNUSED(user);
    x = l2l_layer_conv(m, "feature_extractor.conv1", x, a, 3, 1, 0, L2L_RELU);
    x = l2l__then(m, x, l2l_layer_conv(m, "feature_extractor.conv2", x, a, 3, 1, 0,
                                       L2L_RELU | L2L_POOL));
    x = l2l__then(m, x, l2l_layer_conv(m, "feature_extractor.conv3", x, b, 3, 1, 0, L2L_RELU));
    x = l2l__then(m, x, l2l_layer_conv(m, "feature_extractor.conv4", x, b, 3, 1, 0,
                                       L2L_RELU | L2L_POOL));
    x = l2l__then(m, x, l2l_layer_linear(m, "classifier.fc1", x, f, L2L_RELU));
    if (m->options.dropout > 0)
        x = l2l__then(m, x, l2l_layer_dropout(m, x, m->options.dropout));
    x = l2l__then(m, x, l2l_layer_linear(m, "classifier.fc2", x, f, L2L_RELU));
    return l2l__then(m, x, l2l_layer_linear(m, "classifier.fc3", x, m->options.classes, L2L_LAST));
}

/* A unit with padding kernel/2; norm and residual may be NULL. */
static l2l_tensor *l2l__conv_norm(l2l_model *m, const char *conv, const char *norm,
                                  l2l_tensor *x, int channels, int kernel, int stride,
                                  l2l_tensor *residual, unsigned flags)
{
    l2l_unit u = l2l_unit_default(channels, kernel);
    u.stride = stride;
    u.norm = norm;
    u.residual = residual;
    u.flags = flags;
    return l2l_layer_unit(m, conv, x, &u);
}

/* VGG-16 with batch norm (Simonyan and Zisserman 2015), in the form usual for 32x32 pictures. Its
   layers are counted as PyTorch counts them: convolution, norm, ReLU and pooling each. */
static l2l_tensor *l2l__vgg16(l2l_model *m, l2l_tensor *x, void *user)
{
    static const short channels[13] = {64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512,
                                       512};
    static const bool last[13] = {false, true, false, true, false, false, true, false, false, true,
                                  false, false, true}; /* of its group: pooled */
    l2l_tensor *first = x;
    int i, at = 0;
    L2L__UNUSED(user);
    for (i = 0; i < 13; i++) {
        char conv[24], norm[24];
        l2l_tensor *y;
        l2l__format(conv, sizeof conv, "features.%d", at);
        l2l__format(norm, sizeof norm, "features.%d", at + 1);
        y = l2l__conv_norm(m, conv, norm, x, l2l__width(m, channels[i]), 3, 1, NULL,
                      L2L_RELU | (last[i] ? (unsigned)L2L_POOL : 0));
        if (x != first) l2l_drop(m->context, x);
        x = y;
        at += last[i] ? 4 : 3;
    }
    return l2l__then(m, x, l2l_layer_linear(m, "classifier", x, m->options.classes, L2L_LAST));
}

/* A pre-activation block: y = x + conv2(relu(bn2(conv1(a)))), a = relu(bn1(x)); where the shape
   changes, a 1x1 convolution of a replaces x in the sum. Uses x up. */
static l2l_tensor *l2l__wrn_block(l2l_model *m, l2l_tensor *x, int channels, int stride)
{
    l2l_context *c = m->context;
    l2l_tensor *a = l2l_layer_batch_norm(m, "bn1", x, L2L_RELU), *t, *r, *y;
    t = l2l__conv_norm(m, "conv1", "bn2", a, channels, 3, stride, NULL, L2L_RELU | L2L_NO_BIAS);
    if (x && x->shape.c == channels && stride == 1) r = l2l__retain(x);
    else r = l2l_layer_conv(m, "convShortcut", a, channels, 1, stride, 0, L2L_NO_BIAS);
    l2l_drop(c, a);
    y = l2l__conv_norm(m, "conv2", NULL, t, channels, 3, 1, r, L2L_NO_BIAS);
    l2l_drop(c, t);
    l2l_drop(c, r);
    return l2l__then(m, x, y);
}

/* WideResNet (Zagoruyko and Komodakis 2016): 16 channels, then three groups of (depth-4)/6 blocks
   with 16, 32 and 64 times the widening factor. */
static l2l_tensor *l2l__wrn(l2l_model *m, l2l_tensor *x, void *user)
{
    int blocks = (m->options.depth - 4) / 6, group, i;
    L2L__UNUSED(user);
    if (blocks < 1 || m->options.depth != 6 * blocks + 4) {
        l2l__fail(m->context, L2L_ERROR_ARGUMENT, "wrn: depth %d is not 10, 16, 22, 28, 34, ...",
                  m->options.depth);
        return NULL;
    }
    x = l2l_layer_conv(m, "conv1", x, 16, 3, 1, 1, L2L_NO_BIAS);
    for (group = 1; group <= 3; group++)
        for (i = 0; i < blocks; i++) {
            char scope[32];
            l2l__format(scope, sizeof scope, "block%d.layer.%d.", group, i);
            l2l_model_scope(m, scope);
            x = l2l__wrn_block(m, x, l2l__width(m, 8 << group), group > 1 && i == 0 ? 2 : 1);
        }
    l2l_model_scope(m, "");
    x = l2l__then(m, x, l2l_layer_batch_norm(m, "bn1", x, L2L_RELU));
    x = l2l__then(m, x, l2l_global_average_pool(m->context, x));
    return l2l__then(m, x, l2l_layer_linear(m, "fc", x, m->options.classes, L2L_LAST));
}

/* A basic block: y = relu(x + bn2(conv2(relu(bn1(conv1(x)))))); where the shape changes, a 1x1
   convolution with batch norm of x replaces x in the sum. Uses x up. */
static l2l_tensor *l2l__resnet_block(l2l_model *m, l2l_tensor *x, int channels, int stride)
{
    l2l_context *c = m->context;
    l2l_tensor *t, *r, *y;
    t = l2l__conv_norm(m, "conv1", "bn1", x, channels, 3, stride, NULL, L2L_RELU | L2L_NO_BIAS);
    if (x && x->shape.c == channels && stride == 1) r = l2l__retain(x);
    else r = l2l__conv_norm(m, "downsample.0", "downsample.1", x, channels, 1, stride, NULL,
                       L2L_NO_BIAS);
    y = l2l__conv_norm(m, "conv2", "bn2", t, channels, 3, 1, r, L2L_RELU | L2L_NO_BIAS);
    l2l_drop(c, t);
    l2l_drop(c, r);
    return l2l__then(m, x, y);
}

/* ResNet-18 (He et al. 2016): a 7x7 stem and a pooling, then four groups of two blocks. */
static l2l_tensor *l2l__resnet18(l2l_model *m, l2l_tensor *x, void *user)
{
    int group, i;
    L2L__UNUSED(user);
    x = l2l__conv_norm(m, "conv1", "bn1", x, l2l__width(m, 64), 7, 2, NULL, L2L_RELU | L2L_NO_BIAS);
    x = l2l__then(m, x, l2l_max_pool(m->context, x, 3, 2, 1));
    for (group = 1; group <= 4; group++)
        for (i = 0; i < 2; i++) {
            char scope[32];
            l2l__format(scope, sizeof scope, "layer%d.%d.", group, i);
            l2l_model_scope(m, scope);
            x = l2l__resnet_block(m, x, l2l__width(m, 32 << group), group > 1 && i == 0 ? 2 : 1);
        }
    l2l_model_scope(m, "");
    x = l2l__then(m, x, l2l_global_average_pool(m->context, x));
    return l2l__then(m, x, l2l_layer_linear(m, "fc", x, m->options.classes, L2L_LAST));
}

/* -- models ------------------------------------------------------------------------------------ */

L2LADVDEF l2l_model_options l2l_model_default(const char *arch)
{
    static const struct {
        const char *name;
        l2l_forward forward;
        int channels, size, classes, width, depth;
    } known[] = {{"smallcnn", l2l__smallcnn, 1, 28, 10, 1, 0},
                 {"vgg16", l2l__vgg16, 3, 32, 10, 1, 0},
                 {"wrn", l2l__wrn, 3, 32, 10, 10, 34},
                 {"resnet18", l2l__resnet18, 3, 224, 9, 1, 0}};
    l2l_model_options o;
    size_t i;
    memset(&o, 0, sizeof o);
    o.arch = arch;
    o.width_multiplier = 1;
    o.last_layer_deviation = 0.01;
    for (i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(arch, known[i].name) == 0) {
            o.forward = known[i].forward;
            o.channels = known[i].channels;
            o.height = o.width = known[i].size;
            o.classes = known[i].classes;
            o.width_multiplier = known[i].width;
            o.depth = known[i].depth;
        }
    return o;
}

static bool l2l__model_options_ok(l2l_context *c, const l2l_model_options *o)
{
    int i;
    if (c->status) return false;
    if (!o->arch || strlen(o->arch) >= 32)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "l2l_model_create: arch must be a name of at most 31 "
                         "characters");
    if (!o->forward)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "l2l_model_create: '%s' is not a known architecture "
                         "(known: smallcnn, vgg16, wrn, resnet18); for a network of your own set "
                         "`forward`",
                         o->arch);
    if (o->channels < 1 || o->height < 1 || o->width < 1 || o->classes < 2)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "l2l_model_create: channels %d, height %d and width %d "
                         "must be at least 1, classes %d at least 2",
                         o->channels, o->height, o->width, o->classes);
    if (!(o->width_multiplier > 0 && o->width_multiplier <= 64))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_create: width_multiplier %g is not in "
                         "(0,64]", o->width_multiplier);
    if (!(o->dropout >= 0 && o->dropout < 1))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_create: dropout %g is not in [0,1)",
                         o->dropout);
    if (!(o->last_layer_deviation >= 0 && o->last_layer_deviation < 1e6))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_create: last_layer_deviation %g is not "
                         "0 or positive", o->last_layer_deviation);
    if (o->normalise && (o->normalise != o->channels || o->normalise > 4))
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "l2l_model_create: normalise %d must be 0 or the number "
                         "of channels (%d, at most 4)",
                         o->normalise, o->channels);
    for (i = 0; i < o->normalise; i++)
        if (!(o->deviation[i] > 0))
            return l2l__fail(c, L2L_ERROR_ARGUMENT,
                             "l2l_model_create: deviation %g of channel %d is "
                             "not positive",
                             o->deviation[i], i);
    return true;
}

/* Input normalisation is part of the model: (x - mean) / deviation, per channel. */
static l2l_tensor *l2l__normalise(l2l_model *m, l2l_tensor *x)
{
    l2l_context *c = m->context;
    l2l_shape s = l2l__channels(m->options.channels);
    l2l_tensor *scale, *shift, *y;
    int k;
    if (!m->options.normalise) return x;
    scale = l2l_zeros(c, s);
    shift = l2l_zeros(c, s);
    for (k = 0; scale && shift && k < s.c; k++) {
        scale->data[k] = (l2l_real)(1 / m->options.deviation[k]);
        shift->data[k] = (l2l_real)(-m->options.mean[k] / m->options.deviation[k]);
    }
    y = l2l__scale_shift(c, x, scale, shift, NULL, false);
    l2l_drop(c, scale);
    l2l_drop(c, shift);
    return y;
}

static void l2l__model_set_normalisation(l2l_model *m, int channels, const double *mean,
                                         const double *deviation)
{
    m->options.normalise = channels;
    memcpy(m->options.mean, mean, (size_t)channels * sizeof *mean);
    memcpy(m->options.deviation, deviation, (size_t)channels * sizeof *deviation);
}

L2LADVDEF l2l_tensor *l2l_model_forward(l2l_model *m, l2l_tensor *x, l2l_mode mode)
{
    l2l_context *c = m ? m->context : NULL;
    const l2l_model_options *o;
    l2l_tensor *input, *logits;
    l2l_mark mark;
    if (!c || !l2l__ready(c, "l2l_model_forward", x)) return NULL;
    o = &m->options;
    mark = l2l_mark_here(c);
    if (x->shape.h != o->height || x->shape.w != o->width || x->shape.c != o->channels) {
        l2l__fail(c, L2L_ERROR_SHAPE, "%s takes images of %dx%dx%d (HxWxC), not %dx%dx%d", m->arch,
                  o->height, o->width, o->channels, x->shape.h, x->shape.w, x->shape.c);
        return NULL;
    }
    m->mode = mode;
    m->draws = 0;
    m->cursor = 0;
    m->scope[0] = 0;
    input = l2l__normalise(m, x);
    logits = input ? o->forward(m, input, o->user) : NULL;
    if (c->status) logits = NULL;            /* also if the forward function missed its error     */
    if (input != x) l2l_drop(c, input);
    if (logits && !l2l__same(logits->shape, l2l_shape_of(x->shape.n, 1, 1, o->classes))) {
        l2l__shapes_differ(c, "the logits of the forward function", logits->shape,
                           l2l_shape_of(x->shape.n, 1, 1, o->classes));
        logits = NULL;
    }
    if (!logits) {
        l2l__fail(c, L2L_ERROR_CALLBACK, "the forward function of %s returned NULL", m->arch);
        l2l_release(c, mark);
    }
    return logits;
}

/* The first run, on one image of zeros, makes the parameters. */
static bool l2l__create_parameters(l2l_model *m)
{
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, false);
    l2l_tensor *x = l2l_zeros(c, l2l_shape_of(1, m->options.height, m->options.width,
                                              m->options.channels));
    m->creating = true;
    if (x) l2l_model_forward(m, x, L2L_EVALUATE);
    m->creating = false;
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !c->status;
}

L2LADVDEF l2l_model *l2l_model_create(l2l_context *c, const l2l_model_options *o)
{
    l2l_model *m;
    if (!l2l__model_options_ok(c, o) || !(m = (l2l_model *)l2l__allocate(c, sizeof *m)))
        return NULL;
    m->context = c;
    m->options = *o;
    memcpy(m->arch, o->arch, strlen(o->arch) + 1);
    m->options.arch = m->arch;
    if (l2l__create_parameters(m)) return m;
    l2l_model_free(m);
    return NULL;
}

L2LADVDEF void l2l_model_free(l2l_model *m)
{
    int i;
    if (!m) return;
    for (i = 0; i < m->n_slots; i++) l2l__free_slot(m->context, m->slots[i]);
    l2l_free(m->context, m->slots);
    l2l_free(m->context, m);
}

L2LADVDEF const l2l_model_options *l2l_model_info(const l2l_model *m)
{
    return m ? &m->options : NULL;
}

L2LADVDEF bool l2l_model_copy(l2l_model *to, const l2l_model *from)
{
    l2l_context *c = to ? to->context : NULL;
    int i;
    if (!c || c->status) return false;
    if (!from) return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_copy: from is NULL");
    if (to->n_slots != from->n_slots)
        return l2l__fail(c, L2L_ERROR_MISMATCH, "l2l_model_copy: %d parameters against %d",
                         to->n_slots, from->n_slots);
    for (i = 0; i < to->n_slots; i++)
        if (strcmp(to->slots[i]->name, from->slots[i]->name) != 0 ||
            !l2l__same(to->slots[i]->value.shape, from->slots[i]->value.shape))
            return l2l__fail(c, L2L_ERROR_MISMATCH,
                             "l2l_model_copy: '%s' and '%s' differ in name or "
                             "shape",
                             to->slots[i]->name, from->slots[i]->name);
    for (i = 0; i < to->n_slots; i++) {
        l2l_shape s = to->slots[i]->value.shape;
        memcpy(to->slots[i]->value.data, from->slots[i]->value.data,
               (size_t)l2l_count(s) * sizeof(l2l_real));
        l2l__touch(to->slots[i]);
    }
    to->options.normalise = from->options.normalise;
    memcpy(to->options.mean, from->options.mean, sizeof to->options.mean);
    memcpy(to->options.deviation, from->options.deviation, sizeof to->options.deviation);
    return true;
}

L2LADVDEF l2l_model *l2l_model_clone(l2l_context *c, const l2l_model *m)
{
    l2l_model *clone = m ? l2l_model_create(c, &m->options) : NULL;
    if (!clone) return NULL;
    clone->external = m->external;
    if (m->options.user == (const void *)m) clone->options.user = clone; /* an external model */
    if (l2l_model_copy(clone, m)) return clone;
    l2l_model_free(clone);
    return NULL;
}

L2LADVDEF bool l2l_model_logits(l2l_model *m, const l2l_real *images, int n, l2l_real *logits)
{
    l2l_context *c = m ? m->context : NULL;
    const l2l_model_options *o;
    int64_t one;
    int i, batch;
    bool was;
    if (!c || c->status) return false;
    o = &m->options;
    one = (int64_t)o->channels * o->height * o->width;
    was = c->recording;
    for (i = 0; i < n; i += batch) {
        l2l_mark mark = l2l_mark_here(c);
        l2l_tensor *x, *z;
        batch = n - i < 100 ? n - i : 100;
        c->recording = false;
        x = l2l_from_nchw(c, images + i * one,
                          l2l_shape_of(batch, o->height, o->width, o->channels));
        z = x ? l2l_model_forward(m, x, L2L_EVALUATE) : NULL;
        c->recording = was;
        if (z)
            memcpy(logits + (int64_t)i * o->classes, z->data,
                   (size_t)batch * (size_t)o->classes * sizeof *logits);
        l2l_release(c, mark);
        if (!z) return false;
    }
    return true;
}

L2LADVDEF int l2l_model_parameters(const l2l_model *m) { return m ? m->n_slots : 0; }

L2LADVDEF l2l_parameter l2l_model_parameter(const l2l_model *m, int i)
{
    l2l_parameter p;
    memset(&p, 0, sizeof p);
    if (!m || i < 0 || i >= m->n_slots) return p;
    p.name = m->slots[i]->name;
    p.value = &m->slots[i]->value;
    p.rank = m->slots[i]->rank;
    p.trainable = m->slots[i]->trainable;
    return p;
}

L2LADVDEF int64_t l2l_model_size(const l2l_model *m)
{
    int64_t n = 0;
    int i;
    for (i = 0; m && i < m->n_slots; i++)
        if (m->slots[i]->trainable) n += l2l_count(m->slots[i]->value.shape);
    return n;
}

static bool l2l__slot_number(const l2l_model *m, int i)
{
    if (!m || m->context->status) return false;
    return (i >= 0 && i < m->n_slots) ||
           l2l__fail(m->context, L2L_ERROR_ARGUMENT, "parameter %d of %d", i, m->n_slots);
}

L2LADVDEF bool l2l_parameter_get(const l2l_model *m, int i, l2l_real *values)
{
    if (!l2l__slot_number(m, i)) return false;
    l2l__to_file(m->slots[i]->value.shape, m->slots[i]->value.data, values);
    return true;
}

L2LADVDEF bool l2l_parameter_set(l2l_model *m, int i, const l2l_real *values)
{
    if (!l2l__slot_number(m, i)) return false;
    l2l__from_file(m->slots[i]->value.shape, values, m->slots[i]->value.data);
    l2l__touch(m->slots[i]);
    return true;
}

static size_t l2l__append(char *text, size_t capacity, size_t at, const char *format, ...)
{
    va_list a;
    size_t n;
    va_start(a, format);
    n = l2l__vformat(at < capacity ? text + at : NULL, at < capacity ? capacity - at : 0, format,
                     a);
    va_end(a);
    return at + n;
}

static size_t l2l__pad(char *text, size_t capacity, size_t at, size_t to)
{
    while (at < to) at = l2l__append(text, capacity, at, " ");
    return at;
}

/* A parameter's shape as its file has it: "64x32x3x3". */
static void l2l__slot_shape(const l2l__slot *p, char *text, size_t capacity)
{
    l2l_shape s = p->value.shape;
    if (p->rank == 4) l2l__format(text, capacity, "%dx%dx%dx%d", s.c, s.w, s.n, s.h);
    else if (p->rank == 2) l2l__format(text, capacity, "%dx%d", s.c, s.n * s.h * s.w);
    else l2l__format(text, capacity, "%d", s.c);
}

L2LADVDEF size_t l2l_model_summary(const l2l_model *m, char *text, size_t capacity)
{
    const l2l_model_options *o = m ? &m->options : NULL;
    size_t at;
    int i;
    if (!m) return l2l__append(text, capacity, 0, "no model\n");
    at = l2l__append(text, capacity, 0, "%s: images %dx%dx%d, %d classes\n", m->arch, o->channels,
                     o->height, o->width, o->classes);
    for (i = 0; i < m->n_slots; i++) {
        char shape[64];
        size_t line = at;
        l2l__slot_shape(m->slots[i], shape, sizeof shape);
        at = l2l__append(text, capacity, at, "  %s", m->slots[i]->name);
        at = l2l__pad(text, capacity, at, line + 44);
        at = l2l__append(text, capacity, at, " %s", shape);
        at = l2l__pad(text, capacity, at, line + 62);
        at = l2l__append(text, capacity, at, " %z%s\n", l2l_count(m->slots[i]->value.shape),
                         m->slots[i]->trainable ? "" : " (buffer)");
    }
    return l2l__append(text, capacity, at, "  %z parameters\n", l2l_model_size(m));
}

/* The arena's peak over one forward and backward pass of `batch` images of zeros. */
static size_t l2l__pass_peak(l2l_model *m, int batch, l2l_mode mode)
{
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    size_t before = c->arena_live, peak, kept = c->arena_peak;
    bool was = l2l_set_recording(c, true);
    l2l_tensor *inputs[1], *gradient, *x, *z, *loss;
    bool frozen = m->frozen;
    int i;
    c->arena_peak = before;
    m->frozen = true;
    x = l2l_zeros(c, l2l_shape_of(batch, m->options.height, m->options.width, m->options.channels));
    z = x ? l2l_model_forward(m, x, mode) : NULL;
    loss = z ? l2l_sum(c, z) : NULL;
    if (loss && mode == L2L_TRAIN) {
        l2l_tensor **all = (l2l_tensor **)l2l__arena_array(c, 2 * (int64_t)m->n_slots, sizeof *all);
        int n = 0;
        for (i = 0; all && i < m->n_slots; i++)
            if (m->slots[i]->trainable) all[n++] = &m->slots[i]->value;
        if (all) l2l_grad(c, loss, all, n, all + m->n_slots, L2L_FREE_GRAPH);
    } else if (loss) {
        inputs[0] = x;
        l2l_grad(c, loss, inputs, 1, &gradient, L2L_FREE_GRAPH);
    }
    m->frozen = frozen;
    peak = c->arena_peak - before;
    if (kept > c->arena_peak) c->arena_peak = kept;
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return c->status ? 0 : peak;
}

/* What the packed copies of the parameters take. */
static size_t l2l__packed_bytes(const l2l_model *m)
{
    size_t n = 0;
    int i, j;
    for (i = 0; i < m->n_slots; i++)
        for (j = 0; j < 4 && m->slots[i]->value.packed; j++)
            n += (size_t)m->slots[i]->value.packed->cache[j].count;
    return n * sizeof(l2l_real);
}

/* From some size on, what lives at once is an affine function of the batch: two small batches give
   it. The arena grows a quarter ahead of that. */
L2LADVDEF size_t l2l_model_memory(l2l_model *m, int batch, l2l_mode mode)
{
    size_t some, more;
    if (!m || m->context->status) return 0;
    if (batch < 1) {
        l2l__fail(m->context, L2L_ERROR_ARGUMENT, "l2l_model_memory: a batch of %d", batch);
        return 0;
    }
    if (m->external.logits)                  /* is not run for this: four copies of its images    */
        return (size_t)batch * sizeof(l2l_real) * 4 * (size_t)m->options.channels *
               (size_t)m->options.height * (size_t)m->options.width;
    l2l__pass_peak(m, 1, mode);              /* packs the weights, which is not for every pass    */
    some = batch <= 16 ? 0 : l2l__pass_peak(m, 8, mode);
    more = l2l__pass_peak(m, batch <= 16 ? batch : 16, mode);
    if (more < some) more = some;
    if (batch > 16) more += (more - some) / 8 * (size_t)(batch - 16);
    return m->context->status ? 0 : more / 4 * 5 + l2l__packed_bytes(m);
}

/* -- models behind callbacks ------------------------------------------------------------------- */

static void l2l__external_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *x = v->y->in[0], *dx;
    const l2l_external *e = (const l2l_external *)v->y->p;
    l2l_real *images, *gradient;
    if (!e->vjp || c->recording) {
        l2l__fail(
            c, L2L_ERROR_UNSUPPORTED,
            e->vjp
                ? "an external model has no second derivative"
                : "the external model offers no vjp callback: only attacks without gradients work");
        return;
    }
    images = (l2l_real *)l2l__arena_array(c, l2l_count(x->shape), sizeof *images);
    gradient = (l2l_real *)l2l__arena_array(c, l2l_count(x->shape), sizeof *gradient);
    if (images && gradient && l2l_to_nchw(c, x, images)) {
        if (!e->vjp(e->user, images, x->shape.n, v->dy->data, gradient))
            l2l__fail(c, L2L_ERROR_CANCELLED, "the external model's vjp callback returned false");
        else if ((dx = l2l_from_nchw(c, gradient, x->shape)) != NULL)
            v->dx[0] = dx;
    }
    l2l__arena_drop(c, images);
    l2l__arena_drop(c, gradient);
}
static const l2l__operation l2l__external_op = {"external", l2l__external_vjp};

static l2l_tensor *l2l__external_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = m->context;
    l2l_tensor *z =
        l2l__new(c, "external model", l2l_shape_of(x->shape.n, 1, 1, m->options.classes));
    l2l_real *images;
    L2L__UNUSED(user);
    if (!z || m->creating) return z;
    images = (l2l_real *)l2l__arena_array(c, l2l_count(x->shape), sizeof *images);
    if (images && l2l_to_nchw(c, x, images) &&
        !m->external.logits(m->external.user, images, x->shape.n, z->data))
        l2l__fail(c, L2L_ERROR_CANCELLED, "the external model's logits callback returned false");
    l2l__arena_drop(c, images);
    if (c->status) {
        l2l_drop(c, z);
        return NULL;
    }
    z->p = &m->external;
    return l2l__record1(c, z, &l2l__external_op, x);
}

L2LADVDEF l2l_model *l2l_model_external(l2l_context *c, const l2l_external *e)
{
    l2l_model_options o = l2l_model_default("external");
    l2l_model *m;
    if (c->status) return NULL;
    if (!e->logits) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_external: the logits callback is missing");
        return NULL;
    }
    o.forward = l2l__external_forward;
    o.channels = e->channels;
    o.height = e->height;
    o.width = e->width;
    o.classes = e->classes;
    m = l2l_model_create(c, &o);
    if (m) m->external = *e;
    return m;
}

/* ============================================================================================ */
/*  7  LOSSES AND OUTER OPTIMIZERS                                                 >>losses-code */
/* ============================================================================================ */

/* -- losses, per image ------------------------------------------------------------------------- */

/* d CE / d z = (softmax(z) - onehot(y)) dy */
static void l2l__cross_entropy_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *z = v->y->in[0], *p = l2l_softmax(c, z), *d;
    l2l_tensor *one = l2l_full(c, l2l__per_image(z), 1);
    l2l_tensor *onehot = one ? l2l_unpick(c, one, v->y->index, z->shape.c) : NULL;
    d = l2l_sub(c, p, onehot);
    v->dx[0] = l2l_mul(c, d, v->dy);
    l2l_drop(c, p);
    l2l_drop(c, one);
    l2l_drop(c, onehot);
    l2l_drop(c, d);
}
static const l2l__operation l2l__cross_entropy_op = {"cross_entropy", l2l__cross_entropy_vjp};

L2LADVDEF l2l_tensor *l2l_cross_entropy(l2l_context *c, l2l_tensor *logits, const int *labels)
{
    l2l_tensor *y;
    int i, k;
    if (!l2l__rows_ready(c, "l2l_cross_entropy", logits)) return NULL;
    k = logits->shape.c;
    y = l2l__new(c, "l2l_cross_entropy", l2l__per_image(logits));
    if (!l2l__save_classes(c, "l2l_cross_entropy", y, labels, logits->shape.n, k)) {
        l2l_drop(c, y);
        return NULL;
    }
    for (i = 0; i < logits->shape.n; i++) {
        const l2l_real *row = logits->data + (int64_t)i * k;
        y->data[i] = (l2l_real)(l2l__log_sum_exp(row, k) - (double)row[labels[i]]);
    }
    return l2l__record1(c, y, &l2l__cross_entropy_op, logits);
}

/* KL = sum p (log p - log q):  dq logits = (q - p) dy,  dp logits = p (log p - log q - KL) dy */
static void l2l__kl_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *P = v->y->in[0], *Q = v->y->in[1];
    l2l_tensor *p = l2l_softmax(c, P), *q, *a, *b, *d, *e;
    if (v->need[1]) {
        q = l2l_softmax(c, Q);
        d = l2l_sub(c, q, p);
        v->dx[1] = l2l_mul(c, d, v->dy);
        l2l_drop(c, q);
        l2l_drop(c, d);
    }
    if (v->need[0]) {
        a = l2l_log_softmax(c, P);
        b = l2l_log_softmax(c, Q);
        d = l2l_sub(c, a, b);
        e = l2l_sub(c, d, v->y);
        l2l_drop(c, a);
        l2l_drop(c, b);
        a = l2l_mul(c, p, e);
        v->dx[0] = l2l_mul(c, a, v->dy);
        l2l_drop(c, a);
        l2l_drop(c, d);
        l2l_drop(c, e);
    }
    l2l_drop(c, p);
}
static const l2l__operation l2l__kl_op = {"kl_divergence", l2l__kl_vjp};

L2LADVDEF l2l_tensor *l2l_kl_divergence(l2l_context *c, l2l_tensor *p, l2l_tensor *q)
{
    l2l_tensor *y;
    int i, j, k;
    if (!l2l__rows_ready(c, "l2l_kl_divergence", p) || !l2l__rows_ready(c, "l2l_kl_divergence", q))
        return NULL;
    if (!l2l__same(p->shape, q->shape)) {
        l2l__shapes_differ(c, "l2l_kl_divergence", p->shape, q->shape);
        return NULL;
    }
    if (!(y = l2l__new(c, "l2l_kl_divergence", l2l__per_image(p)))) return NULL;
    k = p->shape.c;
    for (i = 0; i < p->shape.n; i++) {
        const l2l_real *a = p->data + (int64_t)i * k, *b = q->data + (int64_t)i * k;
        double la = l2l__log_sum_exp(a, k), lb = l2l__log_sum_exp(b, k), sum = 0;
        for (j = 0; j < k; j++)
            sum += exp((double)a[j] - la) * ((double)a[j] - la - ((double)b[j] - lb));
        y->data[i] = (l2l_real)sum;
    }
    return l2l__record2(c, y, &l2l__kl_op, p, q);
}

/* Row-wise argmax without column `except` (-1: all columns). */
static int l2l__argmax(const l2l_real *z, int k, int except)
{
    int j, best = except == 0 ? 1 : 0;
    for (j = best + 1; j < k; j++)
        if (j != except && z[j] > z[best]) best = j;
    return best;
}

L2LADVDEF l2l_tensor *l2l_margin(l2l_context *c, l2l_tensor *logits, const int *labels)
{
    l2l_tensor *own, *other, *y = NULL;
    int i, *best;
    if (!l2l__rows_ready(c, "l2l_margin", logits)) return NULL;
    own = l2l_pick(c, logits, labels);       /* checks the labels                                 */
    best = own ? (int *)l2l__arena_array(c, logits->shape.n, sizeof *best) : NULL;
    if (!best || logits->shape.c < 2) {
        if (best) l2l__fail(c, L2L_ERROR_SHAPE, "l2l_margin: one class has no other");
    } else {
        for (i = 0; i < logits->shape.n; i++)
            best[i] = l2l__argmax(logits->data + (int64_t)i * logits->shape.c, logits->shape.c,
                                  labels[i]);
        other = l2l_pick(c, logits, best);
        y = l2l_sub(c, other, own);
        l2l_drop(c, other);
    }
    l2l__arena_drop(c, best);
    l2l_drop(c, own);
    return y;
}

L2LADVDEF bool l2l_predict(l2l_context *c, const l2l_tensor *logits, int *classes)
{
    int i;
    if (!l2l__rows_ready(c, "l2l_predict", logits)) return false;
    for (i = 0; i < logits->shape.n; i++)
        classes[i] = l2l__argmax(logits->data + (int64_t)i * logits->shape.c, logits->shape.c, -1);
    return true;
}

/* -- the three interfaces: objectives and outer losses ----------------------------------------- */

static l2l_tensor *l2l__objective_ce(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                     const int *labels, void *user)
{
    L2L__UNUSED(clean);
    L2L__UNUSED(user);
    return l2l_cross_entropy(c, logits, labels);
}

static l2l_tensor *l2l__objective_kl_loss(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                          const int *labels, void *user)
{
    L2L__UNUSED(labels);
    L2L__UNUSED(user);
    return l2l_kl_divergence(c, clean, logits);
}

static l2l_tensor *l2l__objective_margin_loss(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                              const int *labels, void *user)
{
    L2L__UNUSED(clean);
    L2L__UNUSED(user);
    return l2l_margin(c, logits, labels);
}

static l2l_objective l2l__objective(const char *name,
                                    l2l_tensor *(*loss)(l2l_context *, l2l_tensor *, l2l_tensor *,
                                                        const int *, void *), bool needs_clean)
{
    l2l_objective o;
    memset(&o, 0, sizeof o);
    o.name = name;
    o.loss = loss;
    o.needs_clean = needs_clean;
    return o;
}

L2LADVDEF l2l_objective l2l_objective_cross_entropy(void)
{
    return l2l__objective("cross-entropy", l2l__objective_ce, false);
}
L2LADVDEF l2l_objective l2l_objective_kl(void)
{
    return l2l__objective("kl", l2l__objective_kl_loss, true);
}
L2LADVDEF l2l_objective l2l_objective_margin(void)
{
    return l2l__objective("margin", l2l__objective_margin_loss, false);
}

static l2l_tensor *l2l__outer_ce(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                 void *user)
{
    l2l_context *c = m->context;
    l2l_tensor *z = l2l_model_forward(m, adv, L2L_TRAIN);
    L2L__UNUSED(x);
    L2L__UNUSED(user);
    return z ? l2l_mean(c, l2l_cross_entropy(c, z, labels)) : NULL;
}

L2LADVDEF l2l_outer l2l_outer_cross_entropy(void)
{
    l2l_outer o;
    memset(&o, 0, sizeof o);
    o.name = "cross-entropy";
    o.loss = l2l__outer_ce;
    o.is_objective = true;
    return o;
}

/* -- outer optimizers -------------------------------------------------------------------------- */

struct l2l_optimizer {
    l2l_context *context;
    l2l_optimizer_options options;
    int n;
    int64_t *sizes;
    l2l_real **first, **second;              /* momentum; Adam's second moment                    */
    int64_t steps;
};

L2LADVDEF l2l_optimizer_options l2l_sgd_default(void)
{
    l2l_optimizer_options o;
    memset(&o, 0, sizeof o);
    o.kind = L2L_SGD;
    o.rate = 0.1;
    o.momentum = 0.9;
    o.beta1 = 0.9;
    o.beta2 = 0.999;
    o.epsilon = 1e-8;
    return o;
}

L2LADVDEF l2l_optimizer_options l2l_adam_default(void)
{
    l2l_optimizer_options o = l2l_sgd_default();
    o.kind = L2L_ADAM;
    o.rate = 1e-3;
    o.momentum = 0;
    return o;
}

static bool l2l__optimizer_ok(l2l_context *c, const l2l_optimizer_options *o)
{
    if (c->status) return false;
    if (o->kind != L2L_SGD && o->kind != L2L_ADAM)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "optimizer: kind %d is neither L2L_SGD nor L2L_ADAM", (int)o->kind);
    if (!(o->rate >= 0 && o->rate < 1e6))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "optimizer: rate %g is not in [0,1e6)", o->rate);
    if (!(o->momentum >= 0 && o->momentum < 1))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "optimizer: momentum %g is not in [0,1)",
                         o->momentum);
    if (!(o->weight_decay >= 0) || !(o->clip >= 0))
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "optimizer: weight_decay %g and clip %g must not be "
                         "negative",
                         o->weight_decay, o->clip);
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1 && o->epsilon > 0))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "optimizer: beta1 %g, beta2 %g must be in [0,1), "
                         "epsilon %g positive", o->beta1, o->beta2, o->epsilon);
    return true;
}

L2LADVDEF void l2l_optimizer_free(l2l_optimizer *o)
{
    int i;
    if (!o) return;
    for (i = 0; i < o->n; i++) {
        if (o->first) l2l_free(o->context, o->first[i]);
        if (o->second) l2l_free(o->context, o->second[i]);
    }
    l2l_free(o->context, o->first);
    l2l_free(o->context, o->second);
    l2l_free(o->context, o->sizes);
    l2l_free(o->context, o);
}

L2LADVDEF l2l_optimizer *l2l_optimizer_create(l2l_context *c, const l2l_optimizer_options *options,
                                              const int64_t *sizes, int n)
{
    l2l_optimizer *o;
    bool adam = options->kind == L2L_ADAM;
    int i;
    if (!l2l__optimizer_ok(c, options)) return NULL;
    if (!(o = (l2l_optimizer *)l2l__allocate(c, sizeof *o))) return NULL;
    o->context = c;
    o->options = *options;
    o->n = n;
    o->sizes = (int64_t *)l2l__allocate_array(c, n, sizeof *o->sizes);
    o->first = (l2l_real **)l2l__allocate_array(c, n, sizeof *o->first);
    o->second = (l2l_real **)l2l__allocate_array(c, n, sizeof *o->second);
    for (i = 0; i < n && !c->status; i++) {
        o->sizes[i] = sizes[i];
        if (adam || options->momentum > 0)
            o->first[i] = (l2l_real *)l2l__allocate_array(c, sizes[i], sizeof(l2l_real));
        if (adam) o->second[i] = (l2l_real *)l2l__allocate_array(c, sizes[i], sizeof(l2l_real));
    }
    if (!c->status) return o;
    l2l_optimizer_free(o);
    return NULL;
}

/* The factor that brings the gradient's l2 norm down to `clip`. */
static double l2l__clip_factor(const l2l_optimizer *o, l2l_real *const *g, double *norm)
{
    double total = 0, clip = o->options.clip;
    int i;
    int64_t j;
    for (i = 0; i < o->n; i++)
        for (j = 0; j < o->sizes[i]; j++) total += (double)g[i][j] * (double)g[i][j];
    *norm = sqrt(total);
    return clip > 0 && *norm > clip ? clip / *norm : 1;
}

static void l2l__sgd(const l2l_optimizer_options *o, int64_t n, l2l_real *x, const l2l_real *g,
                     l2l_real *v, l2l_real rate, l2l_real scale)
{
    l2l_real momentum = (l2l_real)o->momentum, decay = (l2l_real)o->weight_decay;
    int64_t i;
    for (i = 0; i < n; i++) {
        l2l_real d = scale * g[i] + decay * x[i];
        if (v) {
            v[i] = momentum * v[i] + d;
            d = o->nesterov ? d + momentum * v[i] : v[i];
        }
        x[i] -= rate * d;
    }
}

/* m, v: moving means of g and g^2; x -= rate * mhat / (sqrt(vhat) + epsilon) */
static void l2l__adam(const l2l_optimizer_options *o, int64_t n, l2l_real *x, const l2l_real *g,
                      l2l_real *m, l2l_real *v, double rate, l2l_real scale, int64_t step)
{
    l2l_real b1 = (l2l_real)o->beta1, b2 = (l2l_real)o->beta2, decay = (l2l_real)o->weight_decay;
    l2l_real epsilon = (l2l_real)o->epsilon;
    l2l_real a = (l2l_real)(rate / (1 - pow(o->beta1, (double)step)));
    l2l_real root = (l2l_real)(1 / sqrt(1 - pow(o->beta2, (double)step)));
    int64_t i;
    for (i = 0; i < n; i++) {
        l2l_real d = scale * g[i] + decay * x[i];
        m[i] = b1 * m[i] + (1 - b1) * d;
        v[i] = b2 * v[i] + (1 - b2) * d * d;
        x[i] -= a * m[i] / (l2l__sqrt(v[i]) * root + epsilon);
    }
}

L2LADVDEF bool l2l_optimizer_step(l2l_optimizer *o, l2l_real *const *values,
                                  l2l_real *const *gradients, double rate_factor)
{
    double rate, norm, scale;
    int i;
    if (!o || o->context->status) return false;
    rate = o->options.rate * rate_factor;
    scale = l2l__clip_factor(o, gradients, &norm);
    if (!(norm <= DBL_MAX))                  /* also when it is not a number                      */
        return l2l__fail(o->context, L2L_ERROR_NUMERIC,
                         "the gradient is not finite; the parameters "
                         "stay as they were");
    o->steps++;
    for (i = 0; i < o->n; i++)
        if (o->options.kind == L2L_SGD)
            l2l__sgd(&o->options, o->sizes[i], values[i], gradients[i], o->first[i], (l2l_real)rate,
                     (l2l_real)scale);
        else
            l2l__adam(&o->options, o->sizes[i], values[i], gradients[i], o->first[i], o->second[i],
                      rate, (l2l_real)scale, o->steps);
    return true;
}

/* -- schedules --------------------------------------------------------------------------------- */

L2LADVDEF l2l_schedule l2l_schedule_default(void)
{
    l2l_schedule s;
    memset(&s, 0, sizeof s);
    s.factor = 0.1;
    return s;
}

L2LADVDEF double l2l_schedule_factor(const l2l_schedule *s, int64_t step, int64_t total)
{
    double at = total > 0 ? (double)step / (double)total : 0, factor = 1;
    int i;
    if (s->kind == L2L_STEPS) {
        for (i = 0; i < 8 && s->milestones[i] > 0; i++)
            if (at >= s->milestones[i]) factor *= s->factor;
    } else if (s->kind == L2L_COSINE) {
        double t = s->warm_up < 1 ? (at - s->warm_up) / (1 - s->warm_up) : 0;
        if (t < 0) t = 0;
        if (t > 1) t = 1;
        factor = s->final + (1 - s->final) * 0.5 * (1 + cos(3.14159265358979323846 * t));
    }
    if (s->warm_up > 0 && at < s->warm_up)   /* step 0 already moves: (step+1) of the rise        */
        factor *= (double)(step + 1) / (s->warm_up * (double)total + 1);
    return factor;
}

/* ============================================================================================ */
/*  8  ATTACKS                                                                   >>attacks-code */
/* ============================================================================================

   The inner problem, max over x' in B(x, epsilon) of L(f(x'), y), is walked in three moves that
   training (chapter 10) and attacks share:

       l2l__start   x'_0 = Proj(x + noise)
       l2l__look    L(f(x'_t), y) and g_t = its gradient in x', per image, in one pass
       l2l__move    x'_{t+1} = Proj(x'_t + delta_t)

   with the maximizer's step between look and move. */

/* -- the inner problem ------------------------------------------------------------------------- */

/* Makes room for one batch in the arena; the caller's mark gives it back. With `keep` every g_t is
   kept (for maximizers that learn), else one buffer serves all. What else is in `in` is set by the
   caller. */
static bool l2l__inner_open(l2l_inner *in, bool keep)
{
    l2l_context *c = in->context;
    int t;
    in->shape = in->x->shape;
    in->n = in->shape.n;
    in->t = 0;
    in->clean_logits = NULL;
    in->adv = l2l__new(c, "inner problem", in->shape);
    in->delta = l2l_zeros(c, in->shape);
    for (t = 0; in->maximizer && t < in->maximizer->memory; t++)
        in->memory[t] = l2l__new(c, "inner problem", in->shape);
    in->start = keep ? l2l__new(c, "inner problem", in->shape) : NULL;
    in->g = (l2l_tensor **)l2l__arena_array(c, in->T + 1, sizeof *in->g);
    in->loss = (l2l_real *)l2l__arena_array(c, in->n, sizeof *in->loss);
    in->predicted = (int *)l2l__arena_array(c, in->n, sizeof *in->predicted);
    for (t = 0; in->g && t <= in->T; t++)
        in->g[t] = t && !keep ? in->g[0] : l2l__new(c, "inner problem", in->shape);
    return !c->status;
}

/* The clean logits of objectives that compare with them: a constant of the inner problem. */
static bool l2l__inner_clean(l2l_inner *in)
{
    l2l_context *c = in->context;
    bool was, frozen = in->model->frozen;
    if (!in->objective->needs_clean) return !c->status;
    was = l2l_set_recording(c, false);
    in->model->frozen = true;
    in->clean_logits = l2l_model_forward(in->model, in->x, in->mode);
    in->model->frozen = frozen;
    l2l_set_recording(c, was);
    in->forwards++;
    return !c->status;
}

/* |x|_2 of one image; with y of x - y. */
static double l2l__norm2(const l2l_real *x, const l2l_real *y, int64_t n)
{
    double sum = 0;
    int64_t i;
    for (i = 0; i < n; i++) {
        double d = (double)x[i] - (y ? (double)y[i] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}

/* Proj: x' into the ball around x, then into [0,1], which leads no pixel away from x. */
static void l2l__into_ball(l2l_inner *in)
{
    int64_t count = l2l_count(in->shape), one = count / in->n;
    double epsilon = in->norm == L2L_LINF ? in->epsilon : 1;
    int n;
    if (in->norm == L2L_L2) {
        L2L__PARALLEL(l2l__workers(in->context, count))
        for (n = 0; n < in->n; n++) {
            const l2l_real *x = in->x->data + n * one;
            l2l_real *z = in->adv->data + n * one, shrink;
            double norm = l2l__norm2(z, x, one);
            int64_t j;
            if (norm <= in->epsilon) continue;
            shrink = (l2l_real)(in->epsilon / norm);
            for (j = 0; j < one; j++) z[j] = x[j] + shrink * (z[j] - x[j]);
        }
    }
    l2l__ew_project(in->context, count, in->adv->data, in->x->data, (l2l_real)epsilon,
                    in->adv->data);
}

/* Noise of element i of `one`. Uniform in the l2 ball: along N(0,I), at epsilon u^(1/one). */
static double l2l__start_noise(l2l_start kind, l2l_norm norm, const l2l_stream *s, uint32_t i,
                               double epsilon)
{
    if (kind == L2L_START_NORMAL) return 0.001 * l2l_random_normal(s, i);
    if (norm == L2L_L2) return l2l_random_normal(s, i);
    return epsilon * (2 * l2l_random_uniform(s, i) - 1);
}

/* What the noise of an image is multiplied by. */
static double l2l__start_scale(l2l_start kind, l2l_norm norm, const l2l_stream *s, int64_t one,
                               double epsilon)
{
    double sum = 0;
    int64_t i;
    if (kind == L2L_START_NORMAL || norm == L2L_LINF) return 1;
    for (i = 0; i < one; i++) {
        double z = l2l_random_normal(s, (uint32_t)i);
        sum += z * z;
    }
    return epsilon * pow(l2l_random_uniform(s, (uint32_t)one), 1 / (double)one) / sqrt(sum);
}

/* The place in C,H,W order of element i of an image HxWxC. */
static uint32_t l2l__chw(l2l_shape s, int64_t i)
{
    return (uint32_t)(i % s.c * s.h * s.w + i / s.c);
}

/* x'_0. The noise of a pixel depends on the image's index and its place in C,H,W order only. */
static void l2l__start(l2l_inner *in, l2l_start kind)
{
    l2l_context *c = in->context;
    int64_t one = l2l_count(in->shape) / in->n;
    int n;
    if (c->status) return;
    memcpy(in->adv->data, in->x->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    if (kind != L2L_START_CLEAN) {
        L2L__PARALLEL(l2l__workers(c, l2l_count(in->shape)))
        for (n = 0; n < in->n; n++) {
            l2l_stream s = in->stream;
            l2l_real *x = in->adv->data + n * one;
            double scale;
            int64_t i;
            s.purpose = L2L_RANDOM_START;
            s.image = in->images[n];
            scale = l2l__start_scale(kind, in->norm, &s, one, in->epsilon);
            for (i = 0; i < one; i++) {
                uint32_t e = l2l__chw(in->shape, i);
                x[i] += (l2l_real)(scale * l2l__start_noise(kind, in->norm, &s, e, in->epsilon));
            }
        }
        l2l__into_ball(in);
    }
    if (in->start)
        memcpy(in->start->data, in->adv->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
}

/* Losses and predictions of a pass go into `in`. */
static bool l2l__note(l2l_inner *in, const l2l_tensor *logits, const l2l_tensor *loss)
{
    l2l_context *c = in->context;
    if (!logits || !loss) return false;
    if (!l2l__same(loss->shape, l2l_shape_of(in->n, 1, 1, 1)))
        return l2l__shapes_differ(c, "the inner objective's loss", loss->shape,
                                  l2l_shape_of(in->n, 1, 1, 1));
    memcpy(in->loss, loss->data, (size_t)in->n * sizeof *in->loss);
    return l2l_predict(c, logits, in->predicted);
}

/* One pass through the classifier at x'_t: in->loss, in->predicted and, if asked for, in->g[t].
   The loss is summed over images, so that g is every image's own gradient. Returns sum L. */
static double l2l__look(l2l_inner *in, int t, bool gradient)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, gradient), frozen = in->model->frozen;
    l2l_tensor *logits, *loss, *sum, *g;
    double total = 0;
    int i;
    in->model->frozen = true;                /* looking leaves no trace in running statistics     */
    logits = c->status ? NULL : l2l_model_forward(in->model, in->adv, in->mode);
    loss = logits
               ? in->objective->loss(c, logits, in->clean_logits, in->labels, in->objective->user)
               : NULL;
    if (loss && in->targeted) loss = l2l_affine(c, loss, -1, 0);
    in->forwards++;
    if (l2l__note(in, logits, loss) && gradient) {
        sum = l2l_sum(c, loss);
        in->backwards++;
        if (sum && l2l_grad(c, sum, &in->adv, 1, &g, L2L_FREE_GRAPH))
            memcpy(in->g[t]->data, g->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    }
    in->model->frozen = frozen;
    l2l_set_recording(c, was);
    if (!loss) l2l__fail(c, L2L_ERROR_CALLBACK, "the inner objective returned NULL");
    l2l_release(c, mark);
    for (i = 0; i < in->n && !c->status; i++) total += (double)in->loss[i];
    return total;
}

/* x'_{t+1} = Proj(x'_t + delta_t) */
static void l2l__move(l2l_inner *in)
{
    if (in->context->status) return;
    l2l__ew_add(in->context, l2l_count(in->shape), in->adv->data, in->delta->data, in->adv->data);
    l2l__into_ball(in);
}

/* -- maximizers that do not learn -------------------------------------------------------------- */

static bool l2l__sign_step(void *self, l2l_inner *in)
{
    L2L__UNUSED(self);
    l2l__ew_sign_step(in->context, l2l_count(in->shape), (l2l_real)in->step_size,
                      in->g[in->t]->data, in->delta->data);
    return true;
}

/* Steepest ascent in l2; an image without gradient stays. */
static bool l2l__gradient_step(void *self, l2l_inner *in)
{
    int64_t one = l2l_count(in->shape) / in->n;
    int n;
    L2L__UNUSED(self);
    L2L__PARALLEL(l2l__workers(in->context, l2l_count(in->shape)))
    for (n = 0; n < in->n; n++) {
        const l2l_real *g = in->g[in->t]->data + n * one;
        double norm = l2l__norm2(g, NULL, one);
        l2l_real scale = (l2l_real)(norm > 0 ? in->step_size / norm : 0);
        int64_t j;
        for (j = 0; j < one; j++) in->delta->data[n * one + j] = scale * g[j];
    }
    return true;
}

static l2l_maximizer l2l__maximizer(const char *name, bool (*step)(void *, l2l_inner *))
{
    l2l_maximizer m;
    memset(&m, 0, sizeof m);
    m.name = name;
    m.step = step;
    return m;
}

L2LADVDEF l2l_maximizer l2l_maximizer_none(void) { return l2l__maximizer("none", NULL); }
L2LADVDEF l2l_maximizer l2l_maximizer_sign(void) { return l2l__maximizer("sign", l2l__sign_step); }
L2LADVDEF l2l_maximizer l2l_maximizer_gradient(void)
{
    return l2l__maximizer("gradient", l2l__gradient_step);
}

/* -- attacks by name --------------------------------------------------------------------------- */

static l2l_attack l2l__attack(const char *name, double epsilon, double step, int steps,
                              l2l_start start)
{
    l2l_attack a;
    memset(&a, 0, sizeof a);
    a.name = name;
    a.maximizer = l2l_maximizer_sign();
    a.objective = l2l_objective_cross_entropy();
    a.epsilon = epsilon;
    a.step_size = step;
    a.steps = steps;
    a.restarts = 1;
    a.start = start;
    a.batch = 100;
    return a;
}

/* Goodfellow et al. 2015: x' = clip(x + epsilon sign g) */
L2LADVDEF l2l_attack l2l_attack_fgsm(double epsilon)
{
    return l2l__attack("fgsm", epsilon, epsilon, 1, L2L_START_CLEAN);
}

/* Kurakin et al. 2017: PGD without a random start */
L2LADVDEF l2l_attack l2l_attack_ifgsm(double epsilon)
{
    return l2l__attack("ifgsm", epsilon, epsilon / 4, 10, L2L_START_CLEAN);
}

/* Madry et al. 2018 */
L2LADVDEF l2l_attack l2l_attack_pgd(double epsilon)
{
    return l2l__attack("pgd", epsilon, epsilon / 4, 10, L2L_START_UNIFORM);
}

L2LADVDEF l2l_attack l2l_attack_pgd_l2(double epsilon)
{
    l2l_attack a = l2l__attack("pgd-l2", epsilon, epsilon / 4, 10, L2L_START_UNIFORM);
    a.norm = L2L_L2;
    a.maximizer = l2l_maximizer_gradient();
    return a;
}

/* -- running an attack ------------------------------------------------------------------------- */

static bool l2l__attack_ok(l2l_context *c, const l2l_attack *a, int n)
{
    if (!(a->epsilon >= 0 && (a->minimal || a->epsilon <= DBL_MAX)) ||
        (a->norm == L2L_LINF && a->epsilon > 1 && !a->minimal))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack: epsilon %g is not in [0,1]; pixels are in "
                         "[0,1], so 8 of 255 is 8/255", a->epsilon);
    if (!(a->step_size >= 0 && a->step_size <= DBL_MAX))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack: step_size %g must not be negative",
                         a->step_size);
    if (a->steps < 0 || a->restarts < 1 || a->batch < 1)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "attack: steps %d must be at least 0, restarts %d and "
                         "batch %d at least 1",
                         a->steps, a->restarts, a->batch);
    if (a->steps > 0 && !a->maximizer.step && !a->search)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "attack: %d steps, but the maximizer '%s' has no step", a->steps,
                         a->maximizer.name);
    if (a->search && (a->restarts > 1 || a->last_iterate))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack %s: a search has neither restarts nor "
                         "last_iterate", a->name);
    if (a->search && !(a->searches >= 1 && a->constant > 0 && a->constant <= 1e10 &&
                       a->overshoot >= 0 && a->candidates >= 2 && a->share > 0 && a->share <= 1 &&
                       a->objective.confidence >= 0))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack %s: searches %d must be at least 1, "
                         "constant %g in (0,1e10], overshoot %g and confidence %g not negative, "
                         "candidates %d at least 2, share %g in (0,1]", a->name, a->searches,
                         a->constant, a->overshoot, a->objective.confidence, a->candidates,
                         a->share);
    if (!a->objective.loss)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack: the objective has no loss function");
    if (a->targets && a->objective.needs_clean)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack: targets, but the objective '%s' does not "
                         "look at labels", a->objective.name);
    if (n < 0) return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack: %d images", n);
    return true;
}

static bool l2l__labels_ok(l2l_context *c, const char *where, const l2l_model_options *o,
                           const int *labels, int n)
{
    int i;
    for (i = 0; i < n; i++)
        if (labels[i] < 0 || labels[i] >= o->classes)
            return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: label %d of image %d is not in 0..%d",
                             where, labels[i], i, o->classes - 1);
    return true;
}

/* Pixels in [0,1] and labels in range: what every entry point with images checks. */
static bool l2l__images_ok(l2l_context *c, const char *where, const l2l_model_options *o,
                           const l2l_real *images, const int *labels, int n)
{
    int64_t one = (int64_t)o->channels * o->height * o->width, j;
    int i;
    if (labels && !l2l__labels_ok(c, where, o, labels, n)) return false;
    for (i = 0; i < n; i++)
        for (j = 0; j < one; j++)
            if (!(images[i * one + j] >= 0 && images[i * one + j] <= 1))
                return l2l__fail(c, L2L_ERROR_ARGUMENT,
                                 "%s: pixel %z of image %d is %g, not in [0,1] "
                                 "(normalisation by mean and deviation belongs into the model)",
                                 where, j, i, (double)images[i * one + j]);
    return true;
}

/* h_0 = 0, or whatever state a maximizer has. */
static bool l2l__begin(const l2l_maximizer *m, l2l_inner *in)
{
    int i;
    if (in->context->status) return false;
    for (i = 0; i < m->memory; i++)
        memset(in->memory[i]->data, 0, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    return !m->begin || m->begin(m->self, in) ||
           l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' could not begin",
                     m->name);
}

/* What an attack knows of a batch: the best iterate of each image so far. Images leave `in` when
   they are fooled; their record and best iterate keep their places. */
typedef struct l2l__hunt {
    const l2l_attack *attack;
    l2l_inner in;
    l2l_record *records;                     /* of the whole batch                                */
    l2l_real *best;                          /* of the whole batch, nxHxWxC                       */
    int *place;                              /* where the images still in `in` are in these two   */
    int *labels, *kept;                      /* in->labels; room for a list of images             */
    uint32_t *images;                        /* in->images                                        */
    struct l2l__course *courses;             /* of a search, of the whole batch; else NULL        */
} l2l__hunt;

/* Where a search is with one image. */
typedef struct l2l__course {
    bool done;
    double distance;     /* of the nearest adversarial image so far, else INFINITY                */
    int phase, k;        /* which part of the search, and how far in it                           */
    double low, high;    /* what is bisected is between these                                     */
    double at;           /* cw_l2: the constant; sign_opt: distance looked at; deepfool: the step */
    bool found;          /* in this phase                                                         */
    double previous;     /* cw_l2: the loss a tenth of the steps before; sign_opt: radius before  */
    double radius, alpha, beta, stride; /* of sign_opt                                            */
} l2l__course;

/* Is image i still being attacked? Its passes count until it is fooled, whatever else is in the
   batch. */
static bool l2l__hunted(const l2l__hunt *h, int i)
{
    if (h->courses) return !h->courses[h->place[i]].done;
    return h->attack->last_iterate || !h->records[h->place[i]].success;
}

/* Of a tensor's images those in `kept` move to the front; the others are gone. */
static void l2l__keep_images(l2l_tensor *x, const int *kept, int n)
{
    int64_t one = l2l_count(x->shape) / x->shape.n;
    int i;
    for (i = 0; i < n; i++)
        if (kept[i] > i)
            memcpy(x->data + i * one, x->data + kept[i] * one, (size_t)one * sizeof *x->data);
    x->shape.n = n;
}

/* Fooled images leave where their first success is all that counts. Moving the others costs time
   too, so some have to come together. (A maximizer of the caller's may have state by image: it
   needs `keep` for this.) */
enum { L2L__LEAVE = 32 };                    /* at least one in so many                           */
static void l2l__hunt_leave(l2l__hunt *h)
{
    l2l_inner *in = &h->in;
    const l2l_maximizer *m = &h->attack->maximizer;
    l2l_tensor *z = in->clean_logits;
    const int *kept = h->kept;
    int i, n = 0;
    if (m->self && !m->keep) return;
    for (i = 0; i < in->n; i++)
        if (l2l__hunted(h, i)) h->kept[n++] = i;
    if (in->context->status || n == in->n || in->n - n < in->n / L2L__LEAVE) return;
    if (m->keep && !m->keep(m->self, in, kept, n))
        l2l__fail(in->context, L2L_ERROR_CALLBACK, "attack: the maximizer '%s' could not keep %d "
                  "of %d images", m->name, n, in->n);
    l2l__keep_images(in->adv, kept, n);
    l2l__keep_images(in->delta, kept, n);
    for (i = 0; i < 2 && in->memory[i]; i++) l2l__keep_images(in->memory[i], kept, n);
    l2l__keep_images(in->g[0], kept, n);     /* the only one here                                 */
    if (z && z->data == in->x->data) z->shape.n = n; /* a view                                    */
    else if (z) l2l__keep_images(z, kept, n);
    l2l__keep_images(in->x, kept, n);
    for (i = 0; i < n; i++) {
        h->place[i] = h->place[kept[i]];
        h->labels[i] = h->labels[kept[i]];
        h->images[i] = h->images[kept[i]];
        in->loss[i] = in->loss[kept[i]];
        in->predicted[i] = in->predicted[kept[i]];
    }
    in->n = in->batch = in->shape.n = n;
}

/* Passes of the images still attacked; and an image without gradient does not move: count those
   too. */
static void l2l__count_passes(l2l__hunt *h, int t, bool gradient)
{
    int64_t one = l2l_count(h->in.shape) / h->in.n, j;
    int i;
    for (i = 0; i < h->in.n; i++) {
        const l2l_real *g = h->in.g[t]->data + i * one;
        l2l_record *b = &h->records[h->place[i]];
        if (!l2l__hunted(h, i)) continue;
        b->forwards++;
        if (!gradient) continue;
        b->backwards++;
        for (j = 0; j < one && g[j] == 0; j++) { }
        b->zero_gradients += j == one;
    }
}

/* Did image i go where it shall at the point last looked at? */
static bool l2l__fooled(const l2l__hunt *h, int i)
{
    return (h->in.predicted[i] == h->in.labels[i]) == h->in.targeted;
}

/* Image i will be returned as it is now, in iterate t of restart r, unless a better one comes. */
static void l2l__keep(l2l__hunt *h, int i, bool success, int t, int r)
{
    int64_t one = l2l_count(h->in.shape) / h->in.n;
    l2l_record *b = &h->records[h->place[i]];
    b->success = success;
    b->predicted = h->in.predicted[i];
    b->loss = (double)h->in.loss[i];
    b->step = t;
    b->restart = r;
    memcpy(h->best + h->place[i] * one, h->in.adv->data + i * one, (size_t)one * sizeof *h->best);
}

/* Keeps iterate t of restart r where it is better: the first success, else the largest loss.
   Returns how many images are not fooled yet. */
static int l2l__keep_best(l2l__hunt *h, int t, int r)
{
    l2l_inner *in = &h->in;
    int i, standing = 0;
    for (i = 0; i < in->n; i++) {
        l2l_record *b = &h->records[h->place[i]];
        bool success = l2l__fooled(h, i);
        double loss = (double)in->loss[i];
        bool better = b->step < 0 || (success && !b->success) ||
                      (success == b->success && !success && loss > b->loss);
        if (h->attack->last_iterate && t < in->T) better = false;
        if (better) l2l__keep(h, i, success, t, r);
        standing += !b->success;
    }
    return standing;
}

/* One run from one start. */
static int l2l__hunt_once(l2l__hunt *h, int r)
{
    l2l_inner *in = &h->in;
    const l2l_attack *a = h->attack;
    int standing = in->n;
    if (!l2l__begin(&a->maximizer, in)) return standing;
    for (in->t = 0; !in->context->status; in->t++) {
        bool last = in->t == in->T;
        l2l__look(in, in->t, !last);
        if (in->context->status) break;
        l2l__count_passes(h, in->t, !last);
        standing = l2l__keep_best(h, in->t, r);
        if (last || (standing == 0 && !a->last_iterate)) break;
        l2l__hunt_leave(h);
        if (!in->context->status && !a->maximizer.step(a->maximizer.self, in))
            l2l__fail(in->context, L2L_ERROR_CALLBACK, "attack: the maximizer '%s' failed",
                      a->maximizer.name);
        l2l__move(in);
    }
    return standing;
}

/* x'_0 of restart r: the caller's starting points for the first, noise for the others. */
static void l2l__hunt_start(l2l__hunt *h, const l2l_real *init, int r)
{
    l2l_inner *in = &h->in;
    int64_t one = l2l_count(in->shape) / in->n, plane = (int64_t)in->shape.h * in->shape.w;
    int i;
    in->stream = l2l__stream(h->attack->seed, L2L_RANDOM_START, (uint32_t)r, 0, 0);
    if (r > 0 && h->attack->start == L2L_START_CLEAN) l2l__start(in, L2L_START_UNIFORM);
    else l2l__start(in, h->attack->start);
    if (r > 0 || !init) return;
    for (i = 0; i < in->n; i++)
        l2l__image_to_hwc(init + i * one, in->shape.c, plane, in->adv->data + i * one);
    l2l__into_ball(in);
}

/* -- searches ---------------------------------------------------------------------------------- */

/* What a search has of one image in one pass. */
typedef struct l2l__spot {
    l2l__hunt *h;
    const l2l_attack *attack;
    l2l__course *s;
    int i, t;                                /* the image's number in the batch; passes from 1    */
    bool fooled;                             /* at the point last looked at                       */
    int64_t one;                             /* numbers of an image                               */
    const l2l_real *x;
    l2l_real *z, *d, *g, *m[2];              /* of in->adv, delta, g[0], memory                   */
} l2l__spot;

/* f for every image still in the search. Each has a course of its own and leaves at its end, so no
   image knows what else is in the batch. Returns how many go on. */
static int l2l__each(l2l__hunt *h, void (*f)(const l2l__spot *p), int t)
{
    l2l_inner *in = &h->in;
    int64_t one = l2l_count(in->shape) / in->n;
    int i, standing = 0;
    L2L__PARALLEL(l2l__workers(in->context, l2l_count(in->shape)))
    for (i = 0; i < in->n; i++) {
        l2l__spot p;
        int k;
        if (!l2l__hunted(h, i)) continue;
        p.h = h;
        p.attack = h->attack;
        p.s = &h->courses[h->place[i]];
        p.i = i;
        p.t = t;
        p.fooled = l2l__fooled(h, i);
        p.one = one;
        p.x = in->x->data + i * one;
        p.z = in->adv->data + i * one;
        p.d = in->delta->data + i * one;
        p.g = in->g[0]->data + i * one;
        for (k = 0; k < 2; k++) p.m[k] = in->memory[k] ? in->memory[k]->data + i * one : NULL;
        f(&p);
    }
    for (i = 0; i < in->n; i++) standing += l2l__hunted(h, i);
    return standing;
}

/* An image that is misclassified as it is needs no search. */
static void l2l__clean_seen(const l2l__spot *p)
{
    p->s->done = p->fooled;
    p->s->distance = p->fooled ? 0 : HUGE_VAL;
    l2l__keep(p->h, p->i, p->fooled, 0, 0);
}

/* At most so many passes, after that at the clean images: `before` (may be NULL) prepares the
   batch, `point` puts the next point of an image into in->adv, `seen` draws the conclusions. */
static bool l2l__search(l2l__hunt *h, int memory, int64_t passes, bool gradient,
                        void (*before)(l2l__hunt *h), void (*point)(const l2l__spot *p),
                        void (*seen)(const l2l__spot *p))
{
    l2l_inner *in = &h->in;
    l2l_context *c = in->context;
    int standing, t, i;
    h->courses = (l2l__course *)l2l__arena_array(c, in->n, sizeof *h->courses);
    for (i = 0; i < memory; i++)
        if (!in->memory[i]) in->memory[i] = l2l__new(c, "search", in->shape);
    if (c->status) return false;
    memset(h->courses, 0, (size_t)in->n * sizeof *h->courses);
    standing = l2l__each(h, l2l__clean_seen, 0);
    for (t = 1; t <= passes && standing && !c->status; t++) {
        l2l__hunt_leave(h);
        if (before) before(h);
        if (!c->status) l2l__each(h, point, t);
        l2l__look(in, 0, gradient);
        if (c->status) break;
        l2l__count_passes(h, 0, gradient);
        standing = l2l__each(h, seen, t);
    }
    return !c->status;
}

/* x' is adversarial: keep it if it is the nearest so far. */
static void l2l__keep_nearest(const l2l__spot *p)
{
    double distance = 0;
    int64_t j;
    if (p->attack->norm == L2L_L2) distance = l2l__norm2(p->z, p->x, p->one);
    else
        for (j = 0; j < p->one; j++)
            distance = fmax(distance, fabs((double)p->z[j] - (double)p->x[j]));
    if (!(distance < p->s->distance)) return;
    p->s->distance = distance;
    l2l__keep(p->h, p->i, true, p->t, 0);
}

static l2l_real l2l__pixel(double v) { return (l2l_real)(v < 0 ? 0 : v > 1 ? 1 : v); }

static l2l_attack l2l__search_attack(const char *name, double epsilon, l2l_norm norm, int steps,
                                     bool (*search)(l2l__hunt *h))
{
    l2l_attack a = l2l__attack(name, epsilon, 0, steps, L2L_START_CLEAN);
    a.maximizer = l2l_maximizer_none();
    a.objective = l2l_objective_margin();
    a.norm = norm;
    a.search = search;
    a.minimal = true;
    a.searches = 9;
    a.constant = 1e-3;
    a.overshoot = 0.02;
    a.candidates = 10;
    a.share = 0.8;
    return a;
}

/* Carlini and Wagner. x' = (tanh(w) + 1)/2 keeps the range without clipping; pixels at 0 and 1 are
   first drawn in by 5e-7, or their w were infinite and stayed so. */

static double l2l__cw_base(l2l_real x) { return 0.5 + 0.999999 * ((double)x - 0.5); }

static void l2l__cw_point(const l2l__spot *p)
{
    l2l__course *s = p->s;
    int64_t j;
    if (p->t == 1) {
        s->at = p->attack->constant;
        s->high = 1e10;
    }
    if (s->k == 0) {                         /* another constant: from the start                  */
        s->found = false;
        s->previous = HUGE_VAL;
        for (j = 0; j < p->one; j++) {
            p->m[0][j] = p->m[1][j] = 0;
            p->d[j] = (l2l_real)atanh(2 * l2l__cw_base(p->x[j]) - 1);
        }
    }
    for (j = 0; j < p->one; j++) p->z[j] = (l2l_real)((tanh((double)p->d[j]) + 1) / 2);
}

/* With g the gradient of the margin, which short of the confidence counts, and dx'/dw:
   dw = (2 (x' - x) - constant g) 2 x' (1 - x') */
static void l2l__cw_descend(const l2l__spot *p, bool fallen_short)
{
    const l2l_optimizer_options o = l2l_adam_default();
    int64_t j;
    for (j = 0; j < p->one; j++) {           /* into g, which nobody reads any more               */
        double v = (double)p->z[j], d = 2 * (v - l2l__cw_base(p->x[j]));
        if (fallen_short) d -= p->s->at * (double)p->g[j];
        p->g[j] = (l2l_real)(d * 2 * v * (1 - v));
    }
    l2l__adam(&o, p->one, p->d, p->g, p->m[0], p->m[1], p->attack->step_size, 1, p->s->k);
}

static void l2l__cw_seen(const l2l__spot *p)
{
    const l2l_attack *a = p->attack;
    l2l__course *s = p->s;
    int tenth = a->steps < 10 ? 1 : a->steps / 10;
    double lack = fmax(a->objective.confidence - (double)p->h->in.loss[p->i], 0);
    double d = l2l__norm2(p->z, p->x, p->one), loss = d * d + s->at * lack;
    bool last = ++s->k == a->steps;
    if (p->fooled && lack <= 0) {
        s->found = true;
        l2l__keep_nearest(p);
    }
    if ((s->k - 1) % tenth == 0) {
        last = last || loss > 0.9999 * s->previous;
        s->previous = loss;
    }
    if (!last) {
        l2l__cw_descend(p, lack > 0);
        return;
    }
    if (s->found) s->high = fmin(s->high, s->at);
    else s->low = fmax(s->low, s->at);
    s->at = s->high < 1e10 ? (s->low + s->high) / 2 : 10 * s->at;
    s->k = 0;
    s->done = ++s->phase == a->searches;
}

static bool l2l__cw_search(l2l__hunt *h)
{
    return l2l__search(h, 2, (int64_t)h->attack->searches * h->attack->steps, true, NULL,
                       l2l__cw_point, l2l__cw_seen);
}

L2LADVDEF l2l_attack l2l_attack_cw_l2(double epsilon)
{
    l2l_attack a = l2l__search_attack("cw-l2", epsilon, L2L_L2, 1000, l2l__cw_search);
    a.step_size = 0.01;
    return a;
}

/* DeepFool. With f = z_k - z_y and w its gradient, the boundary to class k is |f|/|w|* away, |w|*
   being the dual norm: |w|_1 for l-infinity, |w|_2 for l2. */

/* After class `last` the next in order of logits, the label left out; -1 begins. */
static int l2l__next_class(const l2l_real *z, int classes, int label, int last)
{
    int k, best = -1;
    for (k = 0; k < classes; k++) {
        if (k == label || k == last) continue;
        if (last >= 0 && (z[k] > z[last] || (!(z[k] < z[last]) && k < last))) continue;
        if (best < 0 || z[k] > z[best]) best = k;
    }
    return best < 0 ? (label + 1) % classes : best; /* not numbers: any                           */
}

static double l2l__dual(l2l_norm norm, const l2l_real *w, int64_t n)
{
    double sum = 0;
    int64_t j;
    if (norm == L2L_L2) return l2l__norm2(w, NULL, n);
    for (j = 0; j < n; j++) sum += fabs((double)w[j]);
    return sum;
}

/* The boundaries between each image's label and the class of the next rank, at logits z: kept where
   they are the nearest so far, the distance in `at` and w in memory[0]. */
static bool l2l__deepfool_rank(l2l__hunt *h, l2l_tensor *z)
{
    l2l_inner *in = &h->in;
    int classes = z->shape.c, i;
    int64_t one = l2l_count(in->shape) / in->n;
    l2l_tensor *dz = l2l_zeros(in->context, z->shape), *g;
    for (i = 0; dz && i < in->n; i++) {
        int y = in->labels[i];
        h->kept[i] = l2l__next_class(z->data + i * classes, classes, y, h->kept[i]);
        dz->data[i * classes + h->kept[i]] = 1;
        dz->data[i * classes + y] = -1;
        h->records[h->place[i]].backwards += l2l__hunted(h, i);
    }
    in->backwards++;
    if (!dz || !l2l_vjp(in->context, z, dz, &in->adv, 1, &g, 0)) return false;
    for (i = 0; i < in->n; i++) {
        const l2l_real *row = z->data + i * classes, *w = g->data + i * one;
        l2l__course *s = &h->courses[h->place[i]];
        double f = fabs((double)row[h->kept[i]] - (double)row[in->labels[i]]);
        double dual = l2l__dual(in->norm, w, one);
        if (!(dual > 0 && f / dual < s->at)) continue;
        s->at = f / dual;
        memcpy(in->memory[0]->data + i * one, w, (size_t)one * sizeof *w);
    }
    return true;
}

/* One pass forward and, for each rank of the candidates, one back. */
static void l2l__deepfool_before(l2l__hunt *h)
{
    l2l_inner *in = &h->in;
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c), here;
    bool was = l2l_set_recording(c, true), frozen = in->model->frozen, more = true;
    int classes = in->model->options.classes, i, rank;
    l2l_tensor *z;
    in->model->frozen = true;
    z = l2l_model_forward(in->model, in->adv, in->mode);
    in->model->frozen = frozen;
    in->forwards++;
    for (i = 0; i < in->n; i++) {
        h->kept[i] = -1;
        h->courses[h->place[i]].at = HUGE_VAL;
        h->records[h->place[i]].forwards += l2l__hunted(h, i);
    }
    for (rank = 1; z && more && rank < classes && rank < h->attack->candidates; rank++) {
        here = l2l_mark_here(c);
        more = l2l__deepfool_rank(h, z);
        l2l_release(c, here);
    }
    for (i = 0; i < in->n; i++) {            /* no gradient at all: nowhere to go                 */
        l2l__course *s = &h->courses[h->place[i]];
        h->records[h->place[i]].zero_gradients += !s->done && s->at > DBL_MAX;
        s->done = s->done || s->at > DBL_MAX;
    }
    l2l_set_recording(c, was);
    l2l_release(c, mark);
}

/* To the boundary and 1e-4 more along w, or in l-infinity along its signs. */
static void l2l__deepfool_point(const l2l__spot *p)
{
    bool l2 = p->attack->norm == L2L_L2;
    double step = p->s->at + 1e-4, over = 1 + p->attack->overshoot;
    int64_t j;
    if (l2) step /= l2l__norm2(p->m[0], NULL, p->one);
    if (p->t == 1) memset(p->d, 0, (size_t)p->one * sizeof *p->d);
    for (j = 0; j < p->one; j++) {
        l2l_real w = p->m[0][j];
        p->d[j] += (l2l_real)(step * (l2 ? (double)w : (w > 0) - (w < 0)));
        p->z[j] = l2l__pixel((double)p->x[j] + over * (double)p->d[j]);
    }
}

static void l2l__deepfool_seen(const l2l__spot *p)
{
    if (p->fooled) l2l__keep_nearest(p);
    p->s->done = p->fooled;
}

static bool l2l__deepfool_search(l2l__hunt *h)
{
    if (h->in.targeted)
        return l2l__fail(h->in.context, L2L_ERROR_ARGUMENT, "attack %s: it has no targeted form",
                         h->attack->name);
    return l2l__search(h, 1, h->attack->steps, false, l2l__deepfool_before, l2l__deepfool_point,
                       l2l__deepfool_seen);
}

L2LADVDEF l2l_attack l2l_attack_deepfool(double epsilon)
{
    return l2l__search_attack("deepfool", epsilon, L2L_LINF, 50, l2l__deepfool_search);
}
L2LADVDEF l2l_attack l2l_attack_deepfool_l2(double epsilon)
{
    return l2l__search_attack("deepfool-l2", epsilon, L2L_L2, 50, l2l__deepfool_search);
}

/* Square. The best point so far is the one that will be returned. */

/* The side of window number 1, 2, ...: `share` of the image, halved after so many. */
static int l2l__square_side(const l2l_attack *a, l2l_shape s, int window)
{
    static const int halvings[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000};
    int k, side, most = s.h < s.w ? s.h : s.w;
    double share = a->share;
    for (k = 0; k < (int)(sizeof halvings / sizeof *halvings) && window > halvings[k]; k++)
        share /= 2;
    side = (int)floor(sqrt(share * s.h * s.w) + 0.5);
    return side < 1 ? 1 : side > most ? most : side;
}

/* First stripes, one pixel wide, at +-epsilon for each column and channel; from then on a window,
   with a sign for each channel. */
static void l2l__square_point(const l2l__spot *p)
{
    const l2l_inner *in = &p->h->in;
    l2l_shape s = in->shape;
    bool window = p->t > 1;
    int side = l2l__square_side(p->attack, s, p->t - 1), high = window ? side : s.h;
    int wide = window ? side : s.w, top = 0, left = 0, y, column, k;
    l2l_stream r = l2l__stream(p->attack->seed, L2L_RANDOM_SEARCH, 0, in->images[p->i],
                               (uint32_t)p->t);
    if (window) {                            /* s.h - side + 1 places, the last among them        */
        memcpy(p->z, p->h->best + p->h->place[p->i] * p->one, (size_t)p->one * sizeof *p->z);
        top = (int)(l2l_random_uniform(&r, 0) * (s.h - side + 1));
        left = (int)(l2l_random_uniform(&r, 1) * (s.w - side + 1));
    }
    for (column = left; column < left + wide; column++)
        for (k = 0; k < s.c; k++) {
            uint32_t e = (uint32_t)(window ? 2 + k : k * s.w + column);
            double d = l2l_random_bits(&r, e) & 1 ? in->epsilon : -in->epsilon;
            for (y = top; y < top + high; y++) {
                int64_t j = ((int64_t)y * s.w + column) * s.c + k;
                p->z[j] = l2l__pixel((double)p->x[j] + d);
            }
        }
}

static void l2l__square_seen(const l2l__spot *p)
{
    l2l__hunt *h = p->h;
    if (p->t == 1 || p->fooled || (double)h->in.loss[p->i] > h->records[h->place[p->i]].loss)
        l2l__keep(h, p->i, p->fooled, p->t, 0);
    p->s->done = p->fooled;
}

static bool l2l__square_search(l2l__hunt *h)
{
    if (h->in.norm != L2L_LINF)
        return l2l__fail(h->in.context, L2L_ERROR_ARGUMENT, "attack %s: only in l-infinity",
                         h->attack->name);
    return l2l__search(h, 0, h->attack->steps, false, NULL, l2l__square_point, l2l__square_seen);
}

L2LADVDEF l2l_attack l2l_attack_square(double epsilon)
{
    l2l_attack a = l2l__search_attack("square", epsilon, L2L_LINF, 5000, l2l__square_search);
    a.minimal = false;
    return a;
}

/* Sign-OPT. Along the unit direction d the boundary is g(d) away. Whether x + g(d) u is adversarial
   for d's neighbour u is the sign of g's slope towards u; the sum of many such signs times their
   directions is close to g's gradient. memory[0] has the gradient, memory[1] the direction tried.
   Where the authors end, at a minimum of g near by, this begins again from other noise. */

enum { L2L__FIND = 0, L2L__GRADIENT, L2L__LINE }; /* phases                                       */
enum { L2L__TRIALS = 100 };                       /* noise images at first                        */

/* v becomes a unit vector; returns what its length was. */
static double l2l__unit_vector(l2l_real *v, int64_t n)
{
    double norm = l2l__norm2(v, NULL, n);
    int64_t j;
    for (j = 0; j < n && norm > 0; j++) v[j] = (l2l_real)((double)v[j] / norm);
    return norm;
}

/* A new direction: towards `init` as long as nothing is found, or noise; on a line down g. */
static void l2l__ray_turn(const l2l__spot *p, const l2l_stream *r)
{
    const l2l_inner *in = &p->h->in;
    l2l__course *s = p->s;
    l2l_real *v = p->m[1];
    int64_t j;
    if (s->phase == L2L__LINE)
        for (j = 0; j < p->one; j++)
            v[j] = (l2l_real)((double)p->d[j] - s->alpha * (double)p->m[0][j]);
    else if (p->attack->init && s->distance > DBL_MAX)
        l2l__image_to_hwc(p->attack->init + (in->images[p->i] - p->attack->first) * p->one,
                          in->shape.c, p->one / in->shape.c, v);
    else
        for (j = 0; j < p->one; j++)
            v[j] = (l2l_real)l2l_random_uniform(r, l2l__chw(in->shape, j));
    for (j = 0; s->phase == L2L__FIND && j < p->one; j++) v[j] -= p->x[j];
    s->at = l2l__unit_vector(v, p->one);
    if (s->radius > 0) s->at = s->radius;
}

static void l2l__ray_point(const l2l__spot *p)
{
    l2l__course *s = p->s;
    l2l_real *v = p->m[1];
    l2l_stream r = l2l__stream(p->attack->seed, L2L_RANDOM_SEARCH, 0, p->h->in.images[p->i],
                               (uint32_t)p->t);
    double far = s->at;
    int64_t j;
    if (p->t == 1) {
        s->alpha = 0.02;
        s->beta = 1e-3;
    }
    if (s->phase == L2L__GRADIENT) {         /* along d + beta v                                  */
        for (j = 0; j < p->one; j++)
            v[j] = (l2l_real)l2l_random_normal(&r, l2l__chw(p->h->in.shape, j));
        l2l__unit_vector(v, p->one);
        for (j = 0; j < p->one; j++) p->z[j] = (l2l_real)((double)p->d[j] + s->beta * (double)v[j]);
        far = s->radius / l2l__norm2(p->z, NULL, p->one);
    } else {
        if (s->stride <= 0) l2l__ray_turn(p, &r);
        memcpy(p->z, v, (size_t)p->one * sizeof *v);
        far = s->at;
    }
    for (j = 0; j < p->one; j++) p->z[j] = l2l__pixel((double)p->x[j] + far * (double)p->z[j]);
}

/* The direction tried led to the boundary at s->high, or no nearer to it than before: what next? On
   a line twice the step as long as that helps, and a quarter until it does. Where that gains too
   little the gradient wants a smaller beta, and with the smallest this is the end of the road. */
static void l2l__ray_next(const l2l__spot *p, bool nearer)
{
    l2l__course *s = p->s;
    size_t bytes = (size_t)p->one * sizeof(l2l_real);
    s->k++;
    s->stride = 0;
    if (nearer) {
        s->radius = s->high;
        memcpy(p->d, p->m[1], bytes);
    }
    if (s->phase == L2L__FIND) {
        if (s->k < L2L__TRIALS) return;
        s->done = !(s->radius > 0);          /* all noise is taken for the label                  */
    } else if (nearer) {
        s->found = true;
        s->alpha *= 2;
        return;
    } else {
        s->alpha /= s->found ? 2 : 4;
        if (!s->found && s->alpha >= 1e-5) return;
        if (s->radius > 0.999 * s->previous) {
            s->alpha = 0.02;
            s->beta /= 10;
        }
    }
    s->phase = s->beta < 5e-5 ? L2L__FIND : L2L__GRADIENT;
    if (s->phase == L2L__FIND) {
        s->beta = 1e-3;
        s->radius = 0;
    }
    s->k = 0;
    s->previous = s->radius;
    memset(p->m[0], 0, bytes);
}

static void l2l__ray_seen(const l2l__spot *p)
{
    l2l__course *s = p->s;
    int64_t j;
    if (p->fooled) l2l__keep_nearest(p);
    if (s->phase == L2L__GRADIENT) {
        for (j = 0; j < p->one; j++) p->m[0][j] += p->fooled ? -p->m[1][j] : p->m[1][j];
        if (++s->k < p->attack->candidates) return;
        l2l__unit_vector(p->m[0], p->one);
        s->phase = L2L__LINE;
        s->found = false;
        return;
    }
    if (s->stride <= 0 && !p->fooled) {
        l2l__ray_next(p, false);
        return;
    }
    if (s->stride <= 0) s->low = 0;          /* the boundary is nearer: bracket it, then bisect   */
    if (p->fooled) s->high = s->at;
    else s->low = s->at;
    s->stride = s->stride > 0 ? 2 * s->stride : 0.01;
    if (s->low <= 0) s->at = s->high / (1 + s->stride);
    else if (s->high - s->low > s->beta / 500 * s->high) s->at = (s->low + s->high) / 2;
    else l2l__ray_next(p, true);
}

static bool l2l__ray_search(l2l__hunt *h)
{
    if (h->in.norm != L2L_L2)
        return l2l__fail(h->in.context, L2L_ERROR_ARGUMENT, "attack %s: only in l2",
                         h->attack->name);
    return l2l__search(h, 2, h->attack->steps, false, NULL, l2l__ray_point, l2l__ray_seen);
}

L2LADVDEF l2l_attack l2l_attack_sign_opt(double epsilon)
{
    l2l_attack a = l2l__search_attack("sign-opt", epsilon, L2L_L2, 5000, l2l__ray_search);
    a.candidates = 100;
    return a;
}

/* -- a whole attack ---------------------------------------------------------------------------- */

/* Clean predictions, then all restarts. Stops early only when every image is fooled, which changes
   no result: the first success is what counts. */
static bool l2l__hunt_batch(l2l__hunt *h, const l2l_real *init)
{
    l2l_inner *in = &h->in;
    const l2l_attack *a = h->attack;
    int i, r;
    memcpy(in->adv->data, in->x->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    if (!l2l__inner_clean(in)) return false;
    l2l__look(in, 0, false);
    for (i = 0; i < in->n && !in->context->status; i++) {
        if (!(fabs((double)in->loss[i]) <= DBL_MAX))
            return l2l__fail(in->context, L2L_ERROR_NUMERIC,
                             "attack %s: the loss of the clean image %d "
                             "is %g: the model's numbers are not finite",
                             a->name, (int)in->images[i], (double)in->loss[i]);
        h->records[i].clean = in->predicted[i];
        h->records[i].step = -1;
        h->records[i].forwards = (int)in->forwards;
    }
    if (a->search) return !in->context->status && a->search(h);
    for (r = 0; r < a->restarts && !in->context->status; r++) {
        if (r > 0) l2l__hunt_leave(h);
        l2l__hunt_start(h, init, r);
        if (l2l__hunt_once(h, r) == 0 && !a->last_iterate) break;
    }
    return !in->context->status;
}

/* A minimal-norm attack counts up to epsilon. */
static bool l2l__near_enough(const l2l_attack *a, const l2l_record *b)
{
    return !a->minimal || (a->norm == L2L_LINF ? b->linf : b->l2) <= a->epsilon;
}

/* Norms of the returned perturbations, and the promise that they keep: inside ball and image
   range. */
static bool l2l__verify(l2l_context *c, const l2l_attack *a, const l2l_real *clean,
                        const l2l_real *adversarial, int64_t one, l2l_record *b, int image)
{
    double linf = 0, l2 = l2l__norm2(adversarial, clean, one), x, d;
    bool pixel = a->norm == L2L_LINF && !a->minimal;
    int64_t j;
    for (j = 0; j < one; j++) {
        x = (double)adversarial[j];
        d = fabs(x - (double)clean[j]);
        if (!(x >= 0 && x <= 1 && (!pixel || d <= a->epsilon + 1e-6)))
            return l2l__fail(c, L2L_ERROR_NUMERIC,
                             "attack %s: pixel %z of image %d became %g, %g away "
                             "from the clean one; epsilon is %g",
                             a->name, j, image, x, d, a->epsilon);
        if (d > linf) linf = d;
    }
    b->linf = linf;
    b->l2 = l2;
    b->success = b->success && l2l__near_enough(a, b);
    return a->norm == L2L_LINF || a->minimal || l2 <= a->epsilon * (1 + 1e-6) + 1e-6 ||
           l2l__fail(c, L2L_ERROR_NUMERIC, "attack %s: image %d is %g away from the clean one in "
                     "l2; epsilon is %g", a->name, image, l2, a->epsilon);
}

static bool l2l__attack_batch(l2l_model *m, const l2l_attack *a, const l2l_real *images,
                              const int *labels, int n, int first, l2l_real *adversarial,
                              l2l_record *records)
{
    l2l_context *c = m->context;
    const l2l_model_options *o = &m->options;
    int64_t one = (int64_t)o->channels * o->height * o->width,
            plane = (int64_t)o->height * o->width;
    l2l__hunt h;
    int i;
    memset(&h, 0, sizeof h);
    memset(records, 0, (size_t)n * sizeof *records);
    h.images = (uint32_t *)l2l__arena_array(c, n, sizeof *h.images);
    h.place = (int *)l2l__arena_array(c, n, 3 * sizeof *h.place);
    for (i = 0; h.place && i < n; i++) {
        h.labels = h.place + n;
        h.kept = h.labels + n;
        h.place[i] = i;
        h.images[i] = a->first + (uint32_t)(first + i);
        records[i].label = labels[first + i];
        h.labels[i] = a->targets ? a->targets[first + i] : labels[first + i];
    }
    h.attack = a;
    h.records = records;
    h.in.context = c;
    h.in.batch = n;
    h.in.model = m;
    h.in.objective = &a->objective;
    h.in.maximizer = &a->maximizer;
    h.in.targeted = a->targets != NULL;
    h.in.labels = h.labels;
    h.in.images = h.images;
    h.in.norm = a->norm;
    h.in.epsilon = a->epsilon;
    h.in.step_size = a->step_size;
    h.in.T = a->steps;
    h.in.mode = L2L_EVALUATE;
    h.in.x = l2l_from_nchw(c, images + first * one, l2l_shape_of(n, o->height, o->width,
                                                                 o->channels));
    h.best = (l2l_real *)l2l__arena_array(c, n * one, sizeof *h.best);
    if (c->status || !l2l__inner_open(&h.in, false) ||
        !l2l__hunt_batch(&h, a->init ? a->init + first * one : NULL))
        return false;
    for (i = 0; i < n; i++) {
        l2l_real *out = adversarial + (first + i) * one;
        l2l__image_to_chw(h.best + i * one, o->channels, plane, out);
        if (!l2l__verify(c, a, images + (first + i) * one, out, one, &records[i], first + i))
            return false;
    }
    return true;
}

L2LADVDEF bool l2l_attack_run(l2l_model *m, const l2l_attack *a, const l2l_real *images,
                              const int *labels, int n, l2l_real *adversarial, l2l_record *records)
{
    l2l_context *c = m ? m->context : NULL;
    l2l_mark mark;
    l2l_mode mode;
    int first, batch;
    bool was;
    if (!c || c->status || !l2l__attack_ok(c, a, n) ||
        !l2l__images_ok(c, "attack", &m->options, images, labels, n) ||
        (a->targets && !l2l__labels_ok(c, "attack: target", &m->options, a->targets, n)) ||
        (a->init && !l2l__images_ok(c, "attack: init", &m->options, a->init, NULL, n)))
        return false;
    mark = l2l_mark_here(c);
    mode = m->mode;
    was = c->recording;
    for (first = 0; first < n && !c->status; first += batch) {
        batch = n - first < a->batch ? n - first : a->batch;
        l2l__attack_batch(m, a, images, labels, batch, first, adversarial, records + first);
        l2l_release(c, mark);
        if (!c->status && a->progress && !a->progress(a->user, first + batch, n))
            l2l__fail(c, L2L_ERROR_CANCELLED, "attack %s: cancelled after %d of %d images", a->name,
                      first + batch, n);
    }
    m->mode = mode;
    c->recording = was;
    l2l_release(c, mark);
    return !c->status;
}

/* ============================================================================================ */
/*  9  THE LEARNED MAXIMIZER                                                       >>maximizer  */
/* ============================================================================================

   Coordinate by coordinate, phi shared by all of them (Algorithm 1, lines 7 to 13):

       delta_t, h_{t+1} = m_phi(g_t, h_t)         g_t = the gradient of L(f(x'_t), y) by x'_t
       x'_{t+1}         = Proj(x'_t + delta_t)
       L_phi            = sum over t = 1..T of w_t L(f(x'_t), y),   which phi ascends (line 15)

   THE ADJOINT. With g_t taken for a constant, x'_{t+1} enters L_phi through its own loss, whose
   derivative w_{t+1} g_{t+1} is made of the very gradient that step t+1 needs anyway, and through
   x'_{t+2}. So the whole adjoint runs backwards through the positions without a further pass of
   the classifier (but for g_T): with a_t = dL_phi/dx'_t and u_t = dL_phi/d delta_t,

       a_T = w_T g_T;    u_t = m_t a_{t+1};    a_t = w_t g_t + u_t  for t >= 1

   where m_t is 1 where Proj did not clip and 0 elsewhere. u_t enters the cell at step t; the rest
   is back-propagation through time. Coordinates never meet in this, so each block of them runs its
   T steps again from h_0 = 0, by the same kernel and thus with the same bits and masks, and goes
   straight back. Between attack and update only x, x'_0, g_0 .. g_T and (h, c) exist: nothing of
   size pixels x hidden x T.

   SECOND ORDER. Exactly, g_t depends on phi too. If the cell hands the cotangent v_t to g_t, then
   a_t = w_t g_t + u_t + H_t v_t with the Hessian H_t of the loss at x'_t. This couples the pixels
   of an image, so here all blocks go back together, step by step. */

enum {
    L2L__MAX_HIDDEN = 64,
    L2L__PARTS = 64,             /* of a parameter gradient: by shape, never by threads           */
    L2L__FLUSH = 8               /* blocks that are summed in l2l_real before going to double     */
};

struct l2l_learned {
    l2l_context *context;
    l2l_learned_options options;
    int size;                    /* numbers in phi                                                */
    l2l_real *phi;               /* in file order                                                 */
    l2l_real *descent;           /* -dL_phi/dphi / batch, added up, for the optimizer             */
    l2l_optimizer *optimizer;
    l2l__cell cell;              /* phi as the kernels read it; its weights are one array         */
    int cell_size;
    l2l_real *state;             /* per block the rows z = (1, h, inputs) and c, since `begin`    */
    int64_t state_blocks, state_capacity;
    int trained_T;               /* 0: not trained yet                                            */
    double trained_epsilon;
};

/* -- making one -------------------------------------------------------------------------------- */

L2LADVDEF l2l_learned_options l2l_learned_default(void)
{
    l2l_learned_options o;
    memset(&o, 0, sizeof o);
    o.cell = L2L_LSTM;
    o.hidden = 10;
    o.bias = true;
    o.input = L2L_INPUT_SIGN;
    o.scale = 1;
    o.optimizer = l2l_adam_default();
    o.optimizer.rate = 1e-2;
    return o;
}

static bool l2l__learned_check(l2l_context *c, const l2l_learned_options *o)
{
    const char *where = "l2l_learned_create";
    if (c->status) return false;
    if (o->cell != L2L_LSTM && o->cell != L2L_RNN)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: cell is %d, but must be L2L_LSTM or L2L_RNN",
                         where, (int)o->cell);
    if (o->hidden < 1 || o->hidden > L2L__MAX_HIDDEN)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: hidden is %d, but must be in 1..%d", where,
                         o->hidden, (int)L2L__MAX_HIDDEN);
    if ((int)o->input < (int)L2L_INPUT_SIGN || (int)o->input > (int)L2L_INPUT_RAW)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: input is %d, but must be one of L2L_INPUT_SIGN"
                         " .. L2L_INPUT_RAW", where, (int)o->input);
    if (!(o->scale > 0 && o->scale <= (double)FLT_MAX))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: scale is %g, but must be positive and finite",
                         where, o->scale);
    return true;
}

/* Where number i of phi's file order (W_ih, W_hh, b_ih, W_out, b_out) stands in the kernels' array:
   W is GxZ with the columns bias, h, inputs; below it w_out, its bias first. */
static int l2l__phi_place(const l2l_learned *m, int i)
{
    int G = m->cell.gates, H = m->cell.hidden, I = m->cell.inputs, Z = m->cell.columns;
    if (i < G * I) return i / I * Z + 1 + H + i % I;
    i -= G * I;
    if (i < G * H) return i / H * Z + 1 + i % H;
    i -= G * H;
    if (m->options.bias) {
        if (i < G) return i * Z;
        i -= G;
    }
    return i < H ? G * Z + 1 + i : G * Z;
}

/* phi as it is now (the caller may write to it), and what makes a delta of the cell's output. */
static void l2l__learned_pack(l2l_learned *m, double epsilon)
{
    int i;
    for (i = 0; i < m->size; i++) m->cell.w[l2l__phi_place(m, i)] = m->phi[i];
    m->cell.scale = (l2l_real)(m->options.scale * epsilon);
}

/* Uniform in +-1/sqrt(H), as PyTorch's LSTMCell, RNNCell and Linear. */
static void l2l__learned_initialise(l2l_learned *m)
{
    l2l_stream s = l2l__stream(m->options.seed, L2L_RANDOM_PHI, 0, 0, 0);
    double bound = 1 / sqrt((double)m->cell.hidden);
    int i;
    for (i = 0; i < m->size; i++)
        m->phi[i] = (l2l_real)(bound * (2 * l2l_random_uniform(&s, (uint32_t)i) - 1));
}

L2LADVDEF l2l_learned *l2l_learned_create(l2l_context *c, const l2l_learned_options *o)
{
    l2l_learned *m;
    l2l__cell k;
    int64_t size;
    if (!l2l__learned_check(c, o)) return NULL;
    memset(&k, 0, sizeof k);
    k.lstm = o->cell == L2L_LSTM;
    k.squash = !o->raw_output;
    k.hidden = o->hidden;
    k.inputs = o->input == L2L_INPUT_LOG ? 2 : 1;
    k.gates = k.lstm ? 4 * k.hidden : k.hidden;
    k.columns = 1 + k.hidden + k.inputs;
    if (!(m = (l2l_learned *)l2l__allocate(c, sizeof *m))) return NULL;
    m->context = c;
    m->options = *o;
    m->size = k.gates * (k.inputs + k.hidden) + k.hidden + (o->bias ? k.gates + 1 : 0);
    m->cell_size = k.gates * k.columns + 1 + k.hidden;
    m->phi = (l2l_real *)l2l__allocate_array(c, m->size, sizeof(l2l_real));
    m->descent = (l2l_real *)l2l__allocate_array(c, m->size, sizeof(l2l_real));
    k.w = (l2l_real *)l2l__allocate_array(c, m->cell_size, sizeof(l2l_real));
    size = m->size;
    m->optimizer = l2l_optimizer_create(c, &o->optimizer, &size, 1);
    m->cell = k;
    if (c->status) {
        l2l_learned_free(m);
        return NULL;
    }
    m->cell.w_out = k.w + k.gates * k.columns;
    l2l__learned_initialise(m);
    return m;
}

L2LADVDEF void l2l_learned_free(l2l_learned *m)
{
    if (!m) return;
    l2l_optimizer_free(m->optimizer);
    l2l_free(m->context, m->phi);
    l2l_free(m->context, m->descent);
    l2l_free(m->context, m->cell.w);
    l2l_free(m->context, m->state);
    l2l_free(m->context, m);
}

L2LADVDEF const l2l_learned_options *l2l_learned_info(const l2l_learned *m)
{
    return m ? &m->options : NULL;
}
L2LADVDEF int l2l_learned_size(const l2l_learned *m) { return m ? m->size : 0; }
L2LADVDEF l2l_real *l2l_learned_parameters(l2l_learned *m) { return m ? m->phi : NULL; }

/* What phi was trained with, for its file. */
L2LADVDEF void l2l_learned_trained_with(const l2l_learned *m, int *T, double *epsilon)
{
    *T = m->trained_T;
    *epsilon = m->trained_epsilon;
}

static void l2l__learned_set_trained_with(l2l_learned *m, int T, double epsilon)
{
    m->trained_T = T;
    m->trained_epsilon = epsilon;
}

/* -- the cell's input: the gradient, transformed ----------------------------------------------- */

/* What one image's gradient is multiplied by: d/|g|_1 or 1/|g|_inf; 0 if it has no length. */
static double l2l__input_norm(l2l_grad_input input, const l2l_real *g, int64_t d)
{
    double length = 0, norm;
    int64_t i;
    for (i = 0; i < d; i++) {
        double a = fabs((double)g[i]);
        if (input == L2L_INPUT_L1) length += a;
        else if (a > length) length = a;
    }
    norm = (input == L2L_INPUT_L1 ? (double)d : 1.0) / length;
    return norm <= DBL_MAX ? norm : 0;
}

/* One such number for each of the n images of g; left alone where the transform needs none. */
static void l2l__input_norms(const l2l_learned *m, const l2l_tensor *g, double *norms)
{
    l2l_grad_input input = m->options.input;
    int64_t d = l2l_count(g->shape) / g->shape.n;
    int i;
    if (input != L2L_INPUT_L1 && input != L2L_INPUT_LINF) return;
    L2L__PARALLEL(m->context->threads)
    for (i = 0; i < g->shape.n; i++) norms[i] = l2l__input_norm(input, g->data + i * d, d);
}

static l2l_real l2l__sign_of(l2l_real g) { return (l2l_real)((g > 0) - (g < 0)); }

static const double l2l__log_p = 10, l2l__log_small = 4.5399929762484854e-5; /* p and e^-p        */

/* (log|g| / p, sign g) where |g| >= e^-p, else (-1, e^p g): Andrychowicz et al. 2016. */
static void l2l__input_log(const l2l_real *g, l2l_real *rows)
{
    int l;
    for (l = 0; l < L2L__COORDS; l++) {
        double a = fabs((double)g[l]);
        bool large = a >= l2l__log_small;
        rows[l] = large ? (l2l_real)(log(a) / l2l__log_p) : -1;
        rows[L2L__COORDS + l] =
            large ? l2l__sign_of(g[l]) : (l2l_real)((double)g[l] / l2l__log_small);
    }
}

/* g_t -> the cell's input rows, for the block that begins at coordinate `first`; d pixels make an
   image. */
static void l2l__input_rows(const l2l_learned *m, const l2l_real *g, const double *norms,
                            int64_t first, int64_t d, l2l_real *rows)
{
    l2l_grad_input input = m->options.input;
    int l;
    if (input == L2L_INPUT_SIGN) {
        for (l = 0; l < L2L__COORDS; l++) rows[l] = l2l__sign_of(g[l]);
    } else if (input == L2L_INPUT_LOG) {
        l2l__input_log(g, rows);
    } else if (input == L2L_INPUT_RAW) {
        memcpy(rows, g, L2L__COORDS * sizeof *rows);
    } else {
        for (l = 0; l < L2L__COORDS; l++)    /* padding is 0 and needs no norm                    */
            rows[l] = g[l] == 0 ? 0 : (l2l_real)((double)g[l] * norms[(first + l) / d]);
    }
}

/* -- blocks of coordinates --------------------------------------------------------------------- */

static int l2l__row_length(int64_t first, int64_t count)
{
    return count - first < L2L__COORDS ? (int)(count - first) : L2L__COORDS;
}

/* A block's coordinates of an array of `count`, padded with zeros, and back. */
static void l2l__row_load(const l2l_real *from, int64_t first, int64_t count, l2l_real *row)
{
    int n = l2l__row_length(first, count);
    if (n < L2L__COORDS) memset(row, 0, L2L__COORDS * sizeof *row);
    memcpy(row, from + first, (size_t)n * sizeof *row);
}

static void l2l__row_store(const l2l_real *row, int64_t first, int64_t count, l2l_real *to)
{
    memcpy(to + first, row, (size_t)l2l__row_length(first, count) * sizeof *row);
}

/* What a thread needs to take a block through `steps` steps and back; pointers: sizes in rows. */
typedef struct l2l__sweep {
    l2l_real *z, *c;             /* (steps+1) x Z, (steps+1) x H                                  */
    l2l_real *gates, *tanh_c;    /* steps x G, steps x H                                          */
    l2l_real *y, *mask;          /* steps: the cell's output, m_t                                 */
    l2l_real *dh, *dc;           /* H+I: dL/d(h_t, inputs); H: dL/dc_t                            */
    l2l_real *sums;              /* of dL/dphi: cell_size x lanes                                 */
    l2l_real x[L2L__COORDS], adv[L2L__COORDS], g[L2L__COORDS], delta[L2L__COORDS]; /* adv: x'_t   */
    l2l_real a[L2L__COORDS], u[L2L__COORDS];   /* a_{t+1}, then a_t; u_t                          */
} l2l__sweep;

static l2l_real *l2l__cut_rows(l2l_real **p, int64_t rows)
{
    l2l_real *q = *p;
    *p += rows * L2L__COORDS;
    return q;
}

static bool l2l__sweep_make(const l2l_learned *m, int64_t steps, int lanes, l2l__sweep *s)
{
    int64_t G = m->cell.gates, H = m->cell.hidden, I = m->cell.inputs, Z = m->cell.columns, i;
    int64_t sums = ((int64_t)m->cell_size * lanes + L2L__COORDS - 1) / L2L__COORDS;
    int64_t rows = (steps + 1) * (Z + H) + steps * (G + H + 2) + 2 * H + I + sums;
    l2l_real *p = (l2l_real *)l2l__arena_array(m->context, rows, L2L__COORDS * sizeof *p);
    if (!p) return false;
    memset(p, 0, (size_t)rows * L2L__COORDS * sizeof *p);
    s->z = l2l__cut_rows(&p, (steps + 1) * Z);
    s->c = l2l__cut_rows(&p, (steps + 1) * H);
    s->gates = l2l__cut_rows(&p, steps * G);
    s->tanh_c = l2l__cut_rows(&p, steps * H);
    s->y = l2l__cut_rows(&p, steps);
    s->mask = l2l__cut_rows(&p, steps);
    s->dh = l2l__cut_rows(&p, H + I);
    s->dc = l2l__cut_rows(&p, H);
    s->sums = p;
    for (i = 0; i < (steps + 1) * L2L__COORDS; i++) /* the 1 of every z_t                         */
        s->z[i / L2L__COORDS * Z * L2L__COORDS + i % L2L__COORDS] = 1;
    return true;
}

/* One sweep for each thread, in the arena. */
static l2l__sweep *l2l__sweeps(const l2l_learned *m, int workers, int64_t steps, int lanes)
{
    l2l__sweep *s = (l2l__sweep *)l2l__arena_array(m->context, workers, sizeof *s);
    int k;
    for (k = 0; s && k < workers; k++)
        if (!l2l__sweep_make(m, steps, lanes, &s[k])) return NULL;
    return s;
}

/* What the kernels work on in slot k of a sweep. */
static l2l__cell_step l2l__sweep_step(const l2l_learned *m, l2l__sweep *s, int k)
{
    size_t Z = (size_t)m->cell.columns * L2L__COORDS, H = (size_t)m->cell.hidden * L2L__COORDS;
    size_t G = (size_t)m->cell.gates * L2L__COORDS, t = (size_t)k;
    l2l__cell_step step;
    step.z = s->z + t * Z;
    step.c = s->c + t * H;
    step.gates = s->gates + t * G;
    step.tanh_c = s->tanh_c + t * H;
    step.h_next = step.z + Z + L2L__COORDS;
    step.c_next = step.c + H;
    step.y = s->y + t * L2L__COORDS;
    step.delta = s->delta;
    return step;
}

/* Where z has the cell's inputs. */
static l2l_real *l2l__input_of(const l2l_learned *m, l2l_real *z)
{
    return z + (1 + m->cell.hidden) * L2L__COORDS;
}

static int64_t l2l__blocks_of(int64_t count) { return (count + L2L__COORDS - 1) / L2L__COORDS; }

static int l2l__at_most(int a, int64_t b) { return b < a ? (int)b : a; }

/* -- in the attack: lines 7 and 11 ------------------------------------------------------------- */

static bool l2l__learned_ready(const l2l_learned *m, const l2l_inner *in)
{
    if (in->context->status) return false;
    if (!m || in->context != m->context)
        return l2l__fail(in->context, L2L_ERROR_ARGUMENT, "l2l_learned: the maximizer belongs to "
                         "another context than the inner problem");
    return true;
}

static size_t l2l__state_size(const l2l_learned *m) /* of one block */
{
    return (size_t)(m->cell.columns + m->cell.hidden) * L2L__COORDS;
}

/* h_0 <- 0, c_0 <- 0. */
static void l2l__state_clear(const l2l_learned *m, int64_t block)
{
    l2l_real *z = m->state + (size_t)block * l2l__state_size(m);
    int l;
    memset(z, 0, l2l__state_size(m) * sizeof *z);
    for (l = 0; l < L2L__COORDS; l++) z[l] = 1;
}

static bool l2l__learned_begin(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    int64_t blocks = l2l__blocks_of(l2l_count(in->shape)), b;
    if (!l2l__learned_ready(m, in)) return false;
    m->state_blocks = 0;
    if (blocks > m->state_capacity) {
        l2l_free(m->context, m->state);
        m->state_capacity = 0;
        m->state = (l2l_real *)l2l__allocate_array(m->context, blocks,
                                                   l2l__state_size(m) * sizeof *m->state);
        if (!m->state) return false;
        m->state_capacity = blocks;
    }
    L2L__PARALLEL(m->context->threads)
    for (b = 0; b < blocks; b++) l2l__state_clear(m, b);
    m->state_blocks = blocks;
    return true;
}

static bool l2l__learned_begun(const l2l_learned *m, const l2l_inner *in)
{
    if (!l2l__learned_ready(m, in)) return false;
    return l2l__blocks_of(l2l_count(in->shape)) == m->state_blocks ||
           l2l__fail(m->context, L2L_ERROR_SHAPE, "l2l_learned: a step on %z coordinates, but "
                     "`begin` saw another batch", l2l_count(in->shape));
}

/* Images leave: h and c of the others move to the front, coordinate q to lane q mod L2L__COORDS of
   its new block, in runs that are whole in an old and a new block. (z's 1 and inputs may stay.) */
static bool l2l__learned_keep(void *self, l2l_inner *in, const int *kept, int n)
{
    l2l_learned *m = (l2l_learned *)self;
    int64_t d = l2l_count(in->shape) / in->n, lanes = L2L__COORDS, rows, from, to, run, j, r;
    if (!l2l__learned_begun(m, in)) return false;
    rows = m->cell.columns + m->cell.hidden;
    for (j = 0; j < n * d; j += run) {
        from = kept[j / d] * d + j % d;
        to = j;
        run = d - j % d;
        if (run > lanes - from % lanes) run = lanes - from % lanes;
        if (run > lanes - to % lanes) run = lanes - to % lanes;
        for (r = 0; r < rows && from > to; r++)
            memmove(m->state + (to / lanes * rows + r) * lanes + to % lanes,
                    m->state + (from / lanes * rows + r) * lanes + from % lanes,
                    (size_t)run * sizeof *m->state);
    }
    m->state_blocks = l2l__blocks_of(n * d);
    return true;
}

/* Blocks from .. to-1: delta_t, h_{t+1} <- m_phi(g_t, h_t). */
static void l2l__learned_run(const l2l_learned *m, const l2l__cell_kernels *kernels,
                             const l2l_inner *in, const double *norms, l2l__sweep *s, int64_t from,
                             int64_t to)
{
    int64_t count = l2l_count(in->shape), d = count / in->shape.n, b;
    l2l__cell_step step = l2l__sweep_step(m, s, 0);
    for (b = from; b < to; b++) {
        int64_t first = b * L2L__COORDS;
        step.z = m->state + (size_t)b * l2l__state_size(m);
        step.c = step.c_next = step.z + m->cell.columns * L2L__COORDS;
        step.h_next = step.z + L2L__COORDS;  /* in place                                          */
        l2l__row_load(in->g[in->t]->data, first, count, s->g);
        l2l__input_rows(m, s->g, norms, first, d, l2l__input_of(m, step.z));
        kernels->forward(&m->cell, &step);
        l2l__row_store(s->delta, first, count, in->delta->data);
    }
}

static bool l2l__learned_step(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    l2l_context *c = m->context;
    const l2l__cell_kernels *kernels = l2l__cell_kernels_of(c);
    l2l_mark mark = l2l_mark_here(c);
    int64_t blocks = l2l__blocks_of(l2l_count(in->shape));
    int workers = l2l__at_most(c->threads, blocks), k;
    l2l__sweep *s;
    double *norms;
    if (!l2l__learned_begun(m, in)) return false;
    l2l__learned_pack(m, in->epsilon);
    norms = (double *)l2l__arena_array(c, in->shape.n, sizeof *norms);
    s = l2l__sweeps(m, workers, 1, 0);
    if (s) {
        l2l__input_norms(m, in->g[in->t], norms);
        L2L__PARALLEL(workers)
        for (k = 0; k < workers; k++)
            l2l__learned_run(m, kernels, in, norms, &s[k], blocks * k / workers,
                             blocks * (k + 1) / workers);
    }
    l2l_release(c, mark);
    return !c->status;
}

/* -- the adjoint, in first order --------------------------------------------------------------- */

typedef struct l2l__adjoint {
    l2l_learned *m;
    l2l_inner *in;
    const l2l__cell_kernels *kernels;
    bool greedy;
    int64_t count, d, blocks;    /* coordinates, coordinates of an image, blocks                  */
    int parts, workers;
    double *norms;               /* Txn, for the input transform                                  */
    double *totals;              /* parts x cell_size, of dL_phi/dphi                             */
    l2l__sweep *sweeps;          /* one for each worker                                           */
    /* second order only */
    l2l_tensor **adv;            /* x'_0 .. x'_{T-1}                                              */
    l2l_real *state;             /* T x blocks x 2H rows: h_t and c_t                             */
    l2l_real *carried;           /* blocks x 2H rows: dL/dh_t and dL/dc_t                         */
    l2l_real *a;                 /* per coordinate: a_{t+1}, then a_t                             */
    l2l_tensor *v;               /* the cotangent of g_t                                          */
} l2l__adjoint;

/* Lines 11 and 12 again, in slot k: x'_t -> x'_{t+1}, with m_t. */
static void l2l__sweep_forward(const l2l__adjoint *a, l2l__sweep *s, int k, int64_t block, int t)
{
    l2l__cell_step step = l2l__sweep_step(a->m, s, k);
    l2l_real *mask = s->mask + k * L2L__COORDS, epsilon = (l2l_real)a->in->epsilon;
    int64_t first = block * L2L__COORDS;
    int l;
    l2l__row_load(a->in->g[t]->data, first, a->count, s->g);
    l2l__input_rows(a->m, s->g, a->norms + (int64_t)t * a->in->shape.n, first, a->d,
                    l2l__input_of(a->m, step.z));
    a->kernels->forward(&a->m->cell, &step);
    for (l = 0; l < L2L__COORDS; l++) {
        l2l_real low = l2l__low(s->x[l], epsilon), high = l2l__high(s->x[l], epsilon);
        l2l_real z = s->adv[l] + s->delta[l];
        mask[l] = z >= low && z <= high;
        s->adv[l] = z < low ? low : z > high ? high : z;
    }
}

/* a_{t+1} -> a_t through step t in slot k; `rows` of dL/d(h_t, inputs) are wanted. */
static void l2l__sweep_backward(const l2l__adjoint *a, l2l__sweep *s, int k, int64_t block, int t,
                                int rows)
{
    l2l__cell_step step = l2l__sweep_step(a->m, s, k);
    const l2l_real *mask = s->mask + k * L2L__COORDS;
    l2l_real w = (l2l_real)a->in->w[t];
    int l;
    for (l = 0; l < L2L__COORDS; l++) s->u[l] = mask[l] * s->a[l];
    a->kernels->backward(&a->m->cell, &step, s->u, s->dh, s->dc, rows);
    l2l__row_load(a->in->g[t]->data, block * L2L__COORDS, a->count, s->g);
    for (l = 0; l < L2L__COORDS; l++) s->a[l] = w * s->g[l] + (a->greedy ? 0 : s->u[l]);
}

/* Slots 0 .. steps-1 into the sums of dL_phi/dphi. */
static void l2l__sweep_accumulate(const l2l__adjoint *a, l2l__sweep *s, int steps)
{
    int G = a->m->cell.gates, H = a->m->cell.hidden, Z = a->m->cell.columns, row = L2L__COORDS;
    a->kernels->accumulate(G, Z, steps, s->gates, G * row, s->z, Z * row, s->sums);
    a->kernels->accumulate(1, 1 + H, steps, s->y, row, s->z + Z * row, Z * row,
                           s->sums + G * Z * a->kernels->lanes);
}

/* A block all the way there and back. */
static void l2l__adjoint_block(const l2l__adjoint *a, l2l__sweep *s, int64_t block)
{
    int T = a->in->T, H = a->m->cell.hidden, t, l;
    size_t row = L2L__COORDS * sizeof *s->dh;
    int64_t first = block * L2L__COORDS;
    l2l__row_load(a->in->x->data, first, a->count, s->x);
    l2l__row_load(a->in->start->data, first, a->count, s->adv);
    for (t = 0; t < T; t++)                  /* slot 0 has h_0 = c_0 = 0 from the start           */
        l2l__sweep_forward(a, s, t, block, t);
    l2l__row_load(a->in->g[T]->data, first, a->count, s->a);
    for (l = 0; l < L2L__COORDS; l++) s->a[l] *= (l2l_real)a->in->w[T];
    memset(s->dh, 0, (size_t)H * row);
    memset(s->dc, 0, (size_t)H * row);
    for (t = T - 1; t >= 0; t--) l2l__sweep_backward(a, s, t, block, t, t ? H : 0);
    l2l__sweep_accumulate(a, s, T);
}

static void l2l__sweep_flush(const l2l__adjoint *a, l2l__sweep *s, double *total)
{
    int lanes = a->kernels->lanes, size = a->m->cell_size, i, l;
    for (i = 0; i < size; i++)
        for (l = 0; l < lanes; l++) total[i] += (double)s->sums[i * lanes + l];
    memset(s->sums, 0, (size_t)size * (size_t)lanes * sizeof *s->sums);
}

static int64_t l2l__part_begin(const l2l__adjoint *a, int part)
{
    return a->blocks * part / a->parts;
}

/* The blocks of one part, one after the other: the order of all additions is the shape's. */
static void l2l__adjoint_part(const l2l__adjoint *a, l2l__sweep *s, int part)
{
    int64_t from = l2l__part_begin(a, part), to = l2l__part_begin(a, part + 1), b;
    double *total = a->totals + (size_t)part * (size_t)a->m->cell_size;
    for (b = from; b < to; b++) {
        l2l__adjoint_block(a, s, b);
        if ((b - from + 1) % L2L__FLUSH == 0 || b + 1 == to) l2l__sweep_flush(a, s, total);
    }
}

/* Parts k, k + workers, ... */
static void l2l__adjoint_work(const l2l__adjoint *a, int k)
{
    int part;
    for (part = k; part < a->parts; part += a->workers) l2l__adjoint_part(a, &a->sweeps[k], part);
}

static void l2l__adjoint_first_order(const l2l__adjoint *a)
{
    int k;
    L2L__PARALLEL(a->workers)
    for (k = 0; k < a->workers; k++) l2l__adjoint_work(a, k);
}

/* -- the adjoint, in second order -------------------------------------------------------------- */

static bool l2l__normalised(const l2l_learned *m)
{
    return m->options.input == L2L_INPUT_L1 || m->options.input == L2L_INPUT_LINF;
}

/* The cotangent dy of the input rows -> the one of g, v, but for the path through the norm. */
static void l2l__input_vjp(const l2l_learned *m, const l2l_real *g, const double *norms,
                           int64_t first, int64_t d, int n, const l2l_real *dy, l2l_real *v)
{
    int l;
    for (l = 0; l < n; l++) {
        double x = (double)g[l], y = (double)dy[l];
        if (m->options.input == L2L_INPUT_SIGN) y = 0;
        else if (l2l__normalised(m)) y *= norms[(first + l) / d];
        else if (m->options.input == L2L_INPUT_LOG)
            y = fabs(x) >= l2l__log_small ? y / (l2l__log_p * x)
                                          : (double)dy[L2L__COORDS + l] / l2l__log_small;
        v[l] = (l2l_real)y;
    }
}

/* The rest of it for one image: y_i = k g_i / N has dy_i/dg_j = k/N (i = j) - y_i/N dN/dg_j. */
static void l2l__norm_vjp(l2l_grad_input input, const l2l_real *g, double norm, int64_t d,
                          l2l_real *v)
{
    double length, dot = 0;
    int64_t i, largest = 0;
    if (norm == 0) return;
    length = (input == L2L_INPUT_L1 ? (double)d : 1.0) / norm;
    for (i = 0; i < d; i++) dot += (double)v[i] * (double)g[i] / length;
    if (input == L2L_INPUT_L1) {
        for (i = 0; i < d; i++) v[i] -= (l2l_real)dot * l2l__sign_of(g[i]);
    } else {
        for (i = 1; i < d; i++)              /* the first maximum wins                            */
            if (fabs((double)g[i]) > fabs((double)g[largest])) largest = i;
        v[largest] -= (l2l_real)dot * l2l__sign_of(g[largest]);
    }
}

/* a += H v, H the Hessian of the per-image losses at x'_t: the derivative of <g(x'), v>. */
static bool l2l__add_hessian_vector(l2l_inner *in, const l2l_tensor *adv, l2l_tensor *v,
                                    l2l_real *a)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, true), frozen = in->model->frozen;
    l2l_tensor *x = l2l__copy(c, adv), *logits, *loss, *g = NULL, *hv = NULL;
    in->model->frozen = true;
    logits = l2l_model_forward(in->model, x, in->mode);
    loss = c->status ? NULL : in->objective->loss(c, logits, in->clean_logits, in->labels,
                                                  in->objective->user);
    in->forwards++;
    in->backwards += 2;
    if (loss && l2l_grad(c, loss, &x, 1, &g, L2L_CREATE_GRAPH) &&
        l2l_vjp(c, g, v, &x, 1, &hv, L2L_FREE_GRAPH))
        l2l__ew_add(c, l2l_count(in->shape), a, hv->data, a);
    in->model->frozen = frozen;
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !c->status;
}

/* h_t, c_t and x'_t of a block into slot 0. */
static void l2l__exact_load(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int t)
{
    size_t H = (size_t)a->m->cell.hidden * L2L__COORDS;
    const l2l_real *state = a->state + 2 * H * (size_t)(t * a->blocks + block);
    int64_t first = block * L2L__COORDS;
    memcpy(s->z + L2L__COORDS, state, H * sizeof *state);
    memcpy(s->c, state + H, H * sizeof *state);
    l2l__row_load(a->in->x->data, first, a->count, s->x);
    l2l__row_load(a->adv[t]->data, first, a->count, s->adv);
}

static void l2l__exact_forward(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int t)
{
    size_t H = (size_t)a->m->cell.hidden * L2L__COORDS;
    l2l_real *next = a->state + 2 * H * (size_t)((t + 1) * a->blocks + block);
    l2l__cell_step step = l2l__sweep_step(a->m, s, 0);
    l2l__exact_load(a, s, block, t);
    l2l__sweep_forward(a, s, 0, block, t);
    memcpy(next, step.h_next, H * sizeof *next);
    memcpy(next + H, step.c_next, H * sizeof *next);
    l2l__row_store(s->adv, block * L2L__COORDS, a->count, a->adv[t + 1]->data);
}

static void l2l__exact_backward(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int t)
{
    int H = a->m->cell.hidden * L2L__COORDS;
    size_t bytes = (size_t)H * sizeof(l2l_real);
    l2l_real *carried = a->carried + (size_t)(2 * H) * (size_t)block;
    int64_t first = block * L2L__COORDS;
    l2l__exact_load(a, s, block, t);
    l2l__sweep_forward(a, s, 0, block, t);
    l2l__row_load(a->a, first, a->count, s->a);
    memcpy(s->dh, carried, bytes);
    memcpy(s->dc, carried + H, bytes);
    l2l__sweep_backward(a, s, 0, block, t, a->m->cell.hidden + a->m->cell.inputs);
    memcpy(carried, s->dh, bytes);
    memcpy(carried + H, s->dc, bytes);
    l2l__row_store(s->a, first, a->count, a->a);
    l2l__input_vjp(a->m, s->g, a->norms + (int64_t)t * a->in->shape.n, first, a->d,
                   l2l__row_length(first, a->count), s->dh + H, a->v->data + first);
    l2l__sweep_accumulate(a, s, 1);
}

/* All blocks of the parts k, k + workers, ... forward or backward through step t. */
static void l2l__exact_work(const l2l__adjoint *a, int k, int t, bool back)
{
    l2l__sweep *s = &a->sweeps[k];
    int part;
    for (part = k; part < a->parts; part += a->workers) {
        int64_t b = l2l__part_begin(a, part), to = l2l__part_begin(a, part + 1);
        for (; b < to; b++)
            if (back) l2l__exact_backward(a, s, b, t); else l2l__exact_forward(a, s, b, t);
        if (back) l2l__sweep_flush(a, s, a->totals + (size_t)part * (size_t)a->m->cell_size);
    }
}

/* a_t is complete but for the path through g_t: v_t, then a_t += H_t v_t. */
static bool l2l__exact_couple(const l2l__adjoint *a, int t)
{
    const l2l_learned *m = a->m;
    const double *norms = a->norms + (int64_t)t * a->in->shape.n;
    int i;
    if (m->options.input == L2L_INPUT_SIGN) return true; /* sign' = 0                             */
    if (l2l__normalised(m))
        for (i = 0; i < a->in->shape.n; i++)
            l2l__norm_vjp(m->options.input, a->in->g[t]->data + i * a->d, norms[i], a->d,
                          a->v->data + i * a->d);
    return l2l__add_hessian_vector(a->in, a->adv[t], a->v, a->a);
}

static bool l2l__exact_prepare(l2l__adjoint *a)
{
    l2l_context *c = a->m->context;
    int64_t rows = a->blocks * 2 * a->m->cell.hidden, i;
    size_t row = L2L__COORDS * sizeof(l2l_real);
    int T = a->in->T, t;
    a->adv = (l2l_tensor **)l2l__arena_array(c, T + (int64_t)1, sizeof *a->adv);
    a->state = (l2l_real *)l2l__arena_array(c, (T + 1) * rows, row);
    a->carried = (l2l_real *)l2l__arena_array(c, rows, row);
    a->a = (l2l_real *)l2l__arena_array(c, a->count, sizeof *a->a);
    a->v = l2l_zeros(c, a->in->shape);
    if (c->status) return false;
    for (t = 0; t <= T; t++) a->adv[t] = t ? l2l_zeros(c, a->in->shape) : a->in->start;
    if (c->status) return false;
    memset(a->state, 0, (size_t)rows * row); /* h_0 = c_0 = 0                                     */
    memset(a->carried, 0, (size_t)rows * row);
    for (i = 0; i < a->count; i++) a->a[i] = (l2l_real)a->in->w[T] * a->in->g[T]->data[i];
    return true;
}

static bool l2l__adjoint_second_order(l2l__adjoint *a)
{
    int t, k;
    if (!l2l__exact_prepare(a)) return false;
    for (t = 0; t < a->in->T; t++) {
        L2L__PARALLEL(a->workers)
        for (k = 0; k < a->workers; k++) l2l__exact_work(a, k, t, false);
    }
    for (t = a->in->T - 1; t >= 0; t--) {
        L2L__PARALLEL(a->workers)
        for (k = 0; k < a->workers; k++) l2l__exact_work(a, k, t, true);
        if (t > 0 && !l2l__exact_couple(a, t)) return false;
    }
    return true;
}

/* -- line 15: phi <- phi + alpha_1 grad L_phi / n ---------------------------------------------- */

static bool l2l__adjoint_prepare(l2l__adjoint *a, l2l_learned *m, l2l_inner *in, bool exact)
{
    l2l_context *c = m->context;
    int64_t totals;
    int t;
    memset(a, 0, sizeof *a);
    a->m = m;
    a->in = in;
    a->kernels = l2l__cell_kernels_of(c);
    a->count = l2l_count(in->shape);
    a->d = a->count / in->shape.n;
    a->blocks = l2l__blocks_of(a->count);
    a->parts = l2l__at_most(L2L__PARTS, a->blocks);
    a->workers = l2l__at_most(c->threads, a->parts);
    totals = (int64_t)a->parts * m->cell_size;
    a->norms = (double *)l2l__arena_array(c, (int64_t)in->T * in->shape.n, sizeof *a->norms);
    a->totals = (double *)l2l__arena_array(c, totals, sizeof *a->totals);
    a->sweeps = l2l__sweeps(m, a->workers, exact ? 1 : in->T, a->kernels->lanes);
    if (c->status) return false;
    memset(a->totals, 0, (size_t)totals * sizeof *a->totals);
    l2l__learned_pack(m, in->epsilon);
    for (t = 0; t < in->T; t++)
        l2l__input_norms(m, in->g[t], a->norms + (int64_t)t * in->shape.n);
    return true;
}

/* dL_phi/dphi / n in file order: the parts in their order. */
static void l2l__adjoint_gather(const l2l__adjoint *a, double *gradient)
{
    const l2l_learned *m = a->m;
    int i, part;
    for (i = 0; i < m->size; i++) {
        double sum = 0;
        for (part = 0; part < a->parts; part++)
            sum += a->totals[(size_t)part * (size_t)m->cell_size + (size_t)l2l__phi_place(m, i)];
        gradient[i] = sum / a->in->shape.n;
    }
}

/* `greedy` leaves u_t out of a_t. That also trains and looks right, but is not the derivative; it
   is here so that a test can show that it would notice. */
static bool l2l__learned_adjoint(l2l_learned *m, l2l_inner *in, bool greedy, double *gradient)
{
    l2l_mark mark = l2l_mark_here(in->context);
    bool exact;
    l2l__adjoint a;
    if (!l2l__learned_ready(m, in)) return false;
    exact = m->options.second_order && !greedy;
    if (in->T < 1)
        return l2l__fail(m->context, L2L_ERROR_ARGUMENT, "l2l_learned_gradient: T is %d, but must "
                         "be at least 1", in->T);
    if (l2l__adjoint_prepare(&a, m, in, exact)) {
        a.greedy = greedy;
        if (!exact) l2l__adjoint_first_order(&a);
        if (!exact || l2l__adjoint_second_order(&a)) l2l__adjoint_gather(&a, gradient);
    }
    l2l_release(m->context, mark);
    return !m->context->status;
}

L2LADVDEF bool l2l_learned_gradient(l2l_learned *m, l2l_inner *in, l2l_real *gradient)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    double *exact = (double *)l2l__arena_array(c, l2l_learned_size(m), sizeof *exact);
    int i;
    if (exact && l2l__learned_adjoint(m, in, false, exact))
        for (i = 0; i < m->size; i++) gradient[i] = (l2l_real)exact[i];
    l2l_release(c, mark);
    return !c->status;
}

/* The optimizer descends, phi is to ascend: hence the minus. */
static bool l2l__learned_gradient(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    double *g = (double *)l2l__arena_array(c, l2l_learned_size(m), sizeof *g);
    double share = (double)in->n / in->batch;
    int i;
    if (g && l2l__learned_adjoint(m, in, false, g))
        for (i = 0; i < m->size; i++)
            m->descent[i] = (in->first ? m->descent[i] : 0) - (l2l_real)(share * g[i]);
    l2l_release(c, mark);
    return !c->status;
}

static bool l2l__learned_update(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    int i;
    for (i = 0; i < m->size; i++)
        if (!(fabs((double)m->descent[i]) <= DBL_MAX))
            return l2l__fail(m->context, L2L_ERROR_NUMERIC, "l2l_learned: the gradient of phi is "
                             "not finite at its number %d; phi was left as it is", i);
    if (!l2l_optimizer_step(m->optimizer, &m->phi, &m->descent, 1)) return false;
    l2l__learned_set_trained_with(m, in->T, in->epsilon);
    return true;
}

/* For checkpoints: phi, the optimizer's two moments, its step count, and the settings they belong
   to, which have to be the same when they are taken back. */
enum { L2L__PHI_SETTINGS = 16 };
static void l2l__learned_settings(const l2l_learned *m, double v[L2L__PHI_SETTINGS])
{
    const l2l_learned_options *o = &m->options;
    const l2l_optimizer_options *a = &o->optimizer;
    v[0] = o->cell; v[1] = o->hidden; v[2] = o->bias; v[3] = o->input; v[4] = o->raw_output;
    v[5] = o->scale; v[6] = o->second_order; v[7] = a->kind; v[8] = a->rate; v[9] = a->momentum;
    v[10] = a->weight_decay; v[11] = a->nesterov; v[12] = a->beta1; v[13] = a->beta2;
    v[14] = a->epsilon; v[15] = a->clip;
}

static int64_t l2l__learned_pack_state(void *self, double *numbers)
{
    l2l_learned *m = (l2l_learned *)self;
    const l2l_real *parts[3];
    int i, j;
    parts[0] = m->phi; parts[1] = m->optimizer->first[0]; parts[2] = m->optimizer->second[0];
    if (numbers) {
        l2l__learned_settings(m, numbers);
        numbers += L2L__PHI_SETTINGS;
        for (j = 0; j < 3; j++)
            for (i = 0; i < m->size; i++) *numbers++ = parts[j] ? (double)parts[j][i] : 0;
        *numbers = (double)m->optimizer->steps;
    }
    return L2L__PHI_SETTINGS + 3 * (int64_t)m->size + 1;
}

static bool l2l__learned_unpack_state(void *self, const double *numbers, int64_t n)
{
    static const char *const names[L2L__PHI_SETTINGS] = {
        "cell", "hidden", "bias", "input", "raw_output", "scale", "second_order", "optimizer",
        "rate", "momentum", "weight_decay", "nesterov", "beta1", "beta2", "epsilon", "clip"};
    l2l_learned *m = (l2l_learned *)self;
    double here[L2L__PHI_SETTINGS];
    l2l_real *parts[3];
    int i, j;
    if (n != l2l__learned_pack_state(self, NULL))
        return l2l__fail(m->context, L2L_ERROR_MISMATCH,
                         "checkpoint: a maximizer of %z numbers, not "
                         "%z",
                         n, l2l__learned_pack_state(self, NULL));
    l2l__learned_settings(m, here);
    for (i = 0; i < L2L__PHI_SETTINGS; i++, numbers++)
        if (*numbers < here[i] || *numbers > here[i])
            return l2l__fail(m->context, L2L_ERROR_MISMATCH,
                             "checkpoint: made with a maximizer whose "
                             "%s is %g, not %g",
                             names[i], *numbers, here[i]);
    parts[0] = m->phi; parts[1] = m->optimizer->first[0]; parts[2] = m->optimizer->second[0];
    for (j = 0; j < 3; j++)
        for (i = 0; i < m->size; i++, numbers++)
            if (parts[j]) parts[j][i] = (l2l_real)*numbers;
    m->optimizer->steps = (int64_t)*numbers;
    return true;
}

L2LADVDEF l2l_maximizer l2l_learned_maximizer(l2l_learned *m)
{
    l2l_maximizer r = l2l__maximizer("learned", l2l__learned_step);
    r.self = m;
    r.begin = l2l__learned_begin;
    r.keep = l2l__learned_keep;
    r.gradient = l2l__learned_gradient;
    r.update = l2l__learned_update;
    r.pack = l2l__learned_pack_state;
    r.unpack = l2l__learned_unpack_state;
    return r;
}

L2LADVDEF l2l_attack l2l_attack_learned(l2l_learned *m, double epsilon, int steps)
{
    l2l_attack a = l2l__attack("learned", epsilon, epsilon / 4, steps, L2L_START_NORMAL);
    a.maximizer = l2l_learned_maximizer(m);
    return a;
}

/* ============================================================================================ */
/*  10  ALGORITHM 1 AND THE TRAINING LOOP                                         >>algorithm-1 */
/* ============================================================================================

   l2l__algorithm1 is the paper's Algorithm 1; a tag [A1:n] marks what realises its line n. It is
   written over the three interfaces of 2.8, so PGD training, the line search and the learned
   optimizer are the same function with another maximizer. What surrounds it (where batches come
   from, when to stop, what to report) stands behind l2l__sample and l2l__until_converged; that a
   batch may be too large for the memory, behind l2l__next_part and the sums of gradients. */

struct l2l_trainer {
    l2l_context *context;
    l2l_model *model;                        /* f_theta                                           */
    l2l_dataset data;
    l2l_train_options options;
    l2l_optimizer *optimizer;                /* of theta                                          */
    int n_theta;
    l2l_real *good;                          /* theta of the last step with finite loss, gradient */
    bool has_good, sampled;
    l2l_tensor **theta, **found;             /* trainable parameters + x'_T, and their gradients  */
    l2l_real **values, **gradients;          /* the same as arrays, for the optimizer             */
    l2l_real *sum;                           /* of the parts' gradients; NULL: there are no parts */
    l2l_real *buffers;                       /* running statistics before the step                */
    l2l_real *part_buffers;                  /* and before line 14 of the part at hand            */
    double *w;                               /* w[0..T]                                           */
    bool shares;                             /* line 14's pass is also the look at x'_T           */
    int *order, *train, *held, n_train, n_held;
    int shuffled;                            /* the epoch whose order stands in `order`           */
    int64_t step;
    l2l_progress progress;
    double epoch_loss, epoch_right;
    int64_t epoch_seen;
    double start_loss;                       /* of this batch so far: sum of L(f(x'_0), y), how   */
    int64_t saturated;                       /* many pixels of x'_T are on the border, how many   */
    int right, guess;                        /* images right, the class of all of them or -1      */
    l2l_model *best;
    double best_score;
    int plateau;
    int64_t log_bytes;
    char *log, *checkpoint;
    double data_digest;                      /* tells a checkpoint of other data                  */
    const l2l_real *given;                   /* the caller's batch, for l2l_train_step            */
    const int *given_labels;
    int given_n;
};

static bool l2l__log_step(l2l_trainer *t);   /* chapter 12 */
static bool l2l__log_begin(l2l_trainer *t);
static bool l2l__maybe_resume(l2l_trainer *t);
static bool l2l__image_ok(const l2l_dataset *d, const char *who, int index, const l2l_real *x,
                          int label);

/* -- methods: objective x maximizer x outer loss ----------------------------------------------- */

static l2l_method l2l__method(const char *name, l2l_maximizer maximizer, l2l_start start)
{
    l2l_method m;
    memset(&m, 0, sizeof m);
    m.name = name;
    m.objective = l2l_objective_cross_entropy();
    m.maximizer = maximizer;
    m.outer = l2l_outer_cross_entropy();
    m.start = start;
    return m;
}

L2LADVDEF l2l_method l2l_method_plain(void)
{
    return l2l__method("plain", l2l_maximizer_none(), L2L_START_CLEAN);
}

L2LADVDEF l2l_method l2l_method_advtrain(void)
{
    return l2l__method("advtrain", l2l_maximizer_sign(), L2L_START_UNIFORM);
}

L2LADVDEF l2l_method l2l_method_rnn_adv(l2l_learned *phi)
{
    return l2l__method("rnn-adv", l2l_learned_maximizer(phi), L2L_START_NORMAL);
}

/* -- line 5: a mini-batch ---------------------------------------------------------------------- */

/* The order of an epoch: a Fisher-Yates shuffle, a function of seed and epoch alone. */
static void l2l__shuffle(int *order, int n, uint64_t seed, uint32_t purpose, uint32_t epoch)
{
    l2l_stream s = l2l__stream(seed, purpose, epoch, 0, 0);
    int i;
    for (i = n - 1; i > 0; i--) {
        int j = (int)((uint64_t)l2l_random_bits(&s, (uint32_t)i) * (uint64_t)(i + 1) >> 32);
        int swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

/* epsilon at this step: it rises linearly during its warm-up. */
static double l2l__epsilon_now(const l2l_trainer *t)
{
    double rise = t->options.epsilon_warm_up * (double)t->progress.steps;
    double share = rise > 0 ? (double)(t->step + 1) / rise : 1;
    return t->options.epsilon * (share < 1 ? share : 1);
}

/* h x w pixels of an image from (top, left) on, mirrored or not; black outside of it. */
static void l2l__crop(const l2l_dataset *d, const l2l_real *from, int top, int left, bool flip,
                      int h, int w, l2l_real *out)
{
    int k, i, j;
    for (k = 0; k < d->channels; k++)
        for (i = top; i < top + h; i++)
            for (j = 0; j < w; j++) {
                int x = left + (flip ? w - 1 - j : j);
                bool inside = i >= 0 && i < d->height && x >= 0 && x < d->width;
                *out++ = inside ? from[((int64_t)k * d->height + i) * d->width + x] : 0;
            }
}

/* Half of what is too much; halves are rounded to even, as torchvision's CenterCrop does. */
static int l2l__margin(int more) { return more / 2 + (more % 4 == 3); }

/* Image `index`, checked, at the size of model `o`: as `a` says, by the numbers of stream `s`, or
   with NULL for both cut out of the centre. */
static bool l2l__fetch(const l2l_dataset *d, const char *who, const l2l_model_options *o,
                       const l2l_augment *a, const l2l_stream *s, int index, l2l_real *chw,
                       int *label)
{
    l2l_context *c = d->context;
    int down = d->height - o->height, right = d->width - o->width;
    int top = l2l__margin(down), left = l2l__margin(right);
    bool flip = a && a->flip && l2l_random_bits(s, 2) >> 31, whole;
    l2l_real *x = chw;
    if (a) {
        uint64_t tops = (uint64_t)down + 2 * (uint64_t)a->padding + 1;
        uint64_t lefts = (uint64_t)right + 2 * (uint64_t)a->padding + 1;
        top = (int)(l2l_random_bits(s, 0) * tops >> 32) - a->padding;
        left = (int)(l2l_random_bits(s, 1) * lefts >> 32) - a->padding;
    }
    whole = !down && !right && !top && !left && !flip;
    if (!whole)
        x = (l2l_real *)l2l__arena_array(c, (int64_t)d->channels * d->height * d->width, sizeof *x);
    if (!x) return false;
    if (!d->fetch(d, index, x, label))
        l2l__fail(c, L2L_ERROR_CALLBACK, "%s: the data set's fetch failed for image %d", who,
                  index);
    else if (l2l__image_ok(d, who, index, x, *label) && !whole)
        l2l__crop(d, x, top, left, flip, o->height, o->width, chw);
    if (!whole) l2l__arena_drop(c, x);
    return !c->status;
}

/* Fills x, labels and images of `in` from the data set or from the caller's batch. */
static bool l2l__fill_batch(l2l_trainer *t, l2l_inner *in, int n, const int *which)
{
    l2l_context *c = t->context;
    const l2l_model_options *o = &t->model->options;
    int64_t plane = (int64_t)o->height * o->width, one = plane * o->channels;
    int *labels = (int *)l2l__arena_array(c, n, sizeof *labels), i;
    uint32_t *images = (uint32_t *)l2l__arena_array(c, n, sizeof *images);
    l2l_real *chw = (l2l_real *)l2l__arena_array(c, one, sizeof *chw);
    l2l_stream s = l2l__stream(t->options.seed, L2L_RANDOM_AUGMENT, (uint32_t)t->progress.epoch, 0,
                               0);
    in->x = l2l__new(c, "batch", l2l_shape_of(n, o->height, o->width, o->channels));
    for (i = 0; i < n && !c->status; i++) {
        const l2l_real *from = t->given ? t->given + (in->first + i) * one : chw;
        images[i] = (uint32_t)(t->given ? in->first + i : which[i]);
        if (t->given) labels[i] = t->given_labels[in->first + i];
        else {
            s.image = images[i];
            if (!l2l__fetch(&t->data, "training", o, &t->options.augment, &s, which[i], chw,
                            &labels[i]))
                return false;
        }
        if (labels[i] < 0 || labels[i] >= o->classes)
            return l2l__fail(c, L2L_ERROR_ARGUMENT,
                             "training: label %d of image %d is not in 0..%d", labels[i],
                             (int)images[i], o->classes - 1);
        l2l__image_to_hwc(from, o->channels, plane, in->x->data + i * one);
    }
    l2l__arena_drop(c, chw);
    in->labels = labels;
    in->images = images;
    return !c->status;
}

/* Running statistics are kept, so that a step that fails can take them back. */
static void l2l__copy_buffers(l2l_trainer *t, l2l_real *at, bool back)
{
    int i;
    for (i = 0; at && i < t->model->n_slots; i++) {
        l2l__slot *p = t->model->slots[i];
        size_t n = (size_t)l2l_count(p->value.shape);
        if (p->trainable) continue;
        memcpy(back ? p->value.data : at, back ? at : p->value.data, n * sizeof *at);
        at += n;
    }
}

/* Exchanges running statistics that were kept and those of now. */
static void l2l__swap_buffers(l2l_trainer *t, l2l_real *at)
{
    int i;
    for (i = 0; at && i < t->model->n_slots; i++) {
        l2l__slot *p = t->model->slots[i];
        int64_t n = l2l_count(p->value.shape), k;
        for (k = 0; k < n && !p->trainable; k++, at++) {
            l2l_real kept = *at;
            *at = p->value.data[k];
            p->value.data[k] = kept;
        }
    }
}

/* The next mini-batch M: which images, and what the inner problem over them is. */
static void l2l__sample(l2l_trainer *t, l2l_inner *in)
{
    const l2l_train_options *o = &t->options;
    l2l_progress *p = &t->progress;
    int at = t->given ? 0 : (int)(p->step_in_epoch * o->batch);
    int n = t->given ? t->given_n : t->n_train - at;
    double epsilon = l2l__epsilon_now(t);
    memset(in, 0, sizeof *in);
    in->context = t->context;
    t->sampled = false;
    if (t->context->status) return;
    if (!t->given && n > o->batch) n = o->batch; /* the last batch of an epoch may be short       */
    if (!t->given && t->shuffled != p->epoch) {
        t->shuffled = p->epoch;
        memcpy(t->order, t->train, (size_t)t->n_train * sizeof *t->order);
        l2l__shuffle(t->order, t->n_train, o->seed, L2L_RANDOM_SHUFFLE, (uint32_t)p->epoch);
    }
    p->rate = l2l_schedule_factor(&o->schedule, t->step, p->steps);
    in->batch = n;
    in->model = t->model;
    in->objective = &o->method.objective;
    in->maximizer = &o->method.maximizer;
    in->stream = l2l__stream(o->seed, 0, (uint32_t)p->epoch, 0, (uint32_t)t->step & 0xffffff);
    in->epsilon = epsilon;
    in->step_size = o->step_size > 0 && o->epsilon > 0 ? o->step_size * (epsilon / o->epsilon)
                                                       : epsilon / 4;
    in->T = o->method.maximizer.step ? o->T : 0;
    in->w = t->w;
    in->mode = o->inner_mode;
    t->start_loss = 0;
    t->saturated = 0;
    t->right = 0;
    l2l__copy_buffers(t, t->buffers, false);
    t->sampled = true;
}

/* Room for the sum of the parts' gradients of theta. */
static bool l2l__make_sum(l2l_trainer *t)
{
    int64_t n = 0;
    int i;
    for (i = 0; i < t->n_theta; i++) n += t->optimizer->sizes[i];
    if (!t->sum) t->sum = (l2l_real *)l2l__allocate_array(t->context, n, sizeof *t->sum);
    return t->sum != NULL;
}

/* The next part of M, all of it unless micro_batch is less, in the memory of the part before. */
static bool l2l__next_part(l2l_trainer *t, l2l_inner *in, l2l_mark mark)
{
    int most = t->options.micro_batch, first = in->first + in->n, n = in->batch - first;
    int64_t at = t->given ? 0 : t->progress.step_in_epoch * t->options.batch + first;
    if (t->context->status || n == 0) return false;
    if (first) l2l_release(t->context, mark);
    if (most && most < n) n = most;
    in->first = first;
    if ((n < in->batch && !l2l__make_sum(t)) || !l2l__fill_batch(t, in, n, t->order + at))
        return false;
    t->model->stream = in->stream;
    t->model->images = in->images;
    l2l__copy_buffers(t, t->part_buffers, false);
    return l2l__inner_open(in, t->options.method.maximizer.gradient != NULL) &&
           l2l__inner_clean(in);
}

/* -- lines 7 to 13 ----------------------------------------------------------------------------- */

/* delta_t from g_t. */
static bool l2l__step(const l2l_maximizer *m, l2l_inner *in)
{
    if (in->context->status) return false;
    return m->step(m->self, in) ||
           l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' failed at step %d",
                     m->name, in->t);
}

/* sum of L(f(x'_t), y) over the batch, by the pass that also finds g_t. Nobody looks at x'_T but a
   maximizer that learns, and where line 14 computes the same function, its pass is the look. */
static double l2l__loss_at(l2l_trainer *t, l2l_inner *in, int step)
{
    if (step == in->T && (!t->options.method.maximizer.gradient || t->shares)) return 0;
    return l2l__look(in, step, true);
}

/* -- line 14 ----------------------------------------------------------------------------------- */

/* L_theta / n on the tape, of the part's n images. The cross-entropy is computed here, where its
   logits give the accuracy. */
static l2l_tensor *l2l__outer_loss(l2l_trainer *t, l2l_inner *in)
{
    const l2l_outer *outer = &t->options.method.outer;
    l2l_context *c = t->context;
    l2l_tensor *logits, *loss;
    if (!outer->is_objective)
        return outer->loss(t->model, in->x, in->adv, in->labels, outer->user);
    logits = l2l_model_forward(t->model, in->adv, L2L_TRAIN);
    loss = logits ? l2l_cross_entropy(c, logits, in->labels) : NULL;
    return l2l__note(in, logits, loss) ? l2l_mean(c, loss) : NULL;
}

static bool l2l__finite(l2l_real *const *arrays, const int64_t *sizes, int n)
{
    int i;
    int64_t j;
    for (i = 0; i < n; i++)
        for (j = 0; j < sizes[i]; j++)
            if (!(fabs((double)arrays[i][j]) <= DBL_MAX)) return false;
    return true;
}

/* A loss that is no longer finite is the fault of the step before: theta goes back to where the
   loss and its gradient last were (the optimizer's moments do not). */
static void l2l__copy_theta(l2l_trainer *t, bool back)
{
    l2l_real *at = t->good;
    int i;
    if (back && !t->has_good) return;
    for (i = 0; i < t->n_theta; i++) {
        size_t n = (size_t)t->optimizer->sizes[i];
        memcpy(back ? t->values[i] : at, back ? at : t->values[i], n * sizeof *at);
        at += n;
    }
    for (i = 0; back && i < t->model->n_slots; i++) l2l__touch(t->model->slots[i]);
    t->has_good = true;
}

/* Where line 14 shares its pass: g_T (of the sum, not the mean) and w_T L(f(x'_T), y). */
static void l2l__share(l2l_trainer *t, l2l_inner *in)
{
    double total = 0;
    int i;
    l2l__ew_axpb(t->context, l2l_count(in->shape), (l2l_real)in->n, t->found[t->n_theta]->data, 0,
                 in->g[in->T]->data);
    for (i = 0; i < in->n; i++) total += (double)in->loss[i];
    in->L_phi += in->w[in->T] * total;
}

/* The gradient of L_theta / B: of the parts', by their share of the images, the sum. */
static void l2l__add_gradient(l2l_trainer *t, const l2l_inner *in)
{
    l2l_real share = (l2l_real)in->n / (l2l_real)in->batch, *sum = t->sum;
    int i;
    for (i = 0; i < t->n_theta; i++) {
        int64_t n = t->optimizer->sizes[i], j;
        const l2l_real *g = t->found[i]->data;
        t->gradients[i] = t->found[i]->data;
        if (in->n == in->batch) continue;
        t->gradients[i] = sum;
        if (!in->first) memset(sum, 0, (size_t)n * sizeof *sum);
        L2L__PARALLEL(l2l__workers(t->context, n))
        for (j = 0; j < n; j++) sum[j] += share * g[j];
        sum += n;
    }
}

/* The part's share of L_theta / B at x'_T and of its gradient in theta. Checked before anything is
   updated. */
static double l2l__outer_gradient(l2l_trainer *t, l2l_inner *in)
{
    l2l_context *c = t->context;
    bool was, share = t->shares && t->options.method.maximizer.gradient;
    l2l_tensor *loss;
    double value = 0;
    if (c->status) return 0;
    was = l2l_set_recording(c, true);
    loss = l2l__outer_loss(t, in);
    if (!loss) l2l__fail(c, L2L_ERROR_CALLBACK, "the outer loss returned NULL");
    value = l2l_item(c, loss);
    if (!c->status && !(fabs(value) <= DBL_MAX))
        l2l__fail(c, L2L_ERROR_NUMERIC,
                  "the loss is %g at step %z; the parameters of the last good "
                  "step were kept",
                  value, t->step);
    t->theta[t->n_theta] = in->adv;
    if (loss && l2l_grad(c, loss, t->theta, t->n_theta + share, t->found, L2L_FREE_GRAPH)) {
        l2l__add_gradient(t, in);
        if (!l2l__finite(t->gradients, t->optimizer->sizes, t->n_theta))
            l2l__fail(c, L2L_ERROR_NUMERIC,
                      "the gradient is not finite at step %z; the parameters of "
                      "the last good step were kept",
                      t->step);
        if (share) l2l__share(t, in);
    }
    l2l_set_recording(c, was);
    if (c->status == L2L_ERROR_NUMERIC) l2l__copy_theta(t, true);
    return value * ((double)in->n / in->batch);
}

/* -- lines 15 and 16 --------------------------------------------------------------------------- */

/* The maximizer may run the classifier again (second order), and must see the one of the inner
   steps: line 14 has moved its running statistics. */
static bool l2l__inner_gradient(l2l_trainer *t, l2l_inner *in)
{
    const l2l_maximizer *m = &t->options.method.maximizer;
    bool ok;
    if (in->context->status) return false;
    if (!m->gradient) return true;
    l2l__swap_buffers(t, t->part_buffers);
    ok = m->gradient(m->self, in) ||
         l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' found no gradient",
                   m->name);
    l2l__swap_buffers(t, t->part_buffers);
    return ok;
}

static bool l2l__ascend(const l2l_maximizer *m, l2l_inner *in)
{
    if (in->context->status) return false;
    return !m->update || m->update(m->self, in) ||
           l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' could not be updated",
                     m->name);
}

static bool l2l__descend(l2l_trainer *t)
{
    int i;
    if (t->context->status) return false;
    l2l__copy_theta(t, false);               /* every part's loss and gradient were finite        */
    if (!l2l_optimizer_step(t->optimizer, t->values, t->gradients, t->progress.rate)) return false;
    for (i = 0; i < t->model->n_slots; i++) l2l__touch(t->model->slots[i]);
    return true;
}

/* -- line 17: what happens between two steps --------------------------------------------------- */

/* Natural and robust accuracy on the held-out images. */
static bool l2l__validate(l2l_trainer *t)
{
    l2l_context *c = t->context;
    const l2l_model_options *o = &t->model->options;
    l2l_attack a = t->options.validation_attack;
    int64_t one = (int64_t)o->channels * o->height * o->width;
    int i, j, n, natural = 0, robust = 0, labels[100];
    int part = t->options.micro_batch ? t->options.micro_batch : t->options.batch;
    int most = part < 100 ? part : 100;      /* no more memory than training takes                */
    l2l_record records[100];
    l2l_mark mark = l2l_mark_here(c);
    l2l_real *x = (l2l_real *)l2l__arena_array(c, most * one, sizeof *x);
    l2l_real *adversarial = (l2l_real *)l2l__arena_array(c, most * one, sizeof *adversarial);
    if (!a.name) a = l2l_attack_pgd(t->options.epsilon);
    for (i = 0; i < t->n_held && !c->status; i += n) {
        n = t->n_held - i < most ? t->n_held - i : most;
        for (j = 0; j < n && !c->status; j++)
            l2l__fetch(&t->data, "validation", o, NULL, NULL, t->held[i + j], x + j * one,
                       &labels[j]);
        a.first = (uint32_t)i;
        if (!l2l_attack_run(t->model, &a, x, labels, n, adversarial, records)) break;
        for (j = 0; j < n; j++) {
            natural += records[j].clean == labels[j];
            robust += records[j].clean == labels[j] && !records[j].success;
        }
    }
    t->progress.validation_natural = (double)natural / t->n_held;
    t->progress.validation_robust = (double)robust / t->n_held;
    l2l_release(c, mark);
    return !c->status;
}

static bool l2l__end_epoch(l2l_trainer *t)
{
    l2l_progress *p = &t->progress;
    p->epoch_ended = true;
    p->epoch_loss = t->epoch_loss / (double)t->epoch_seen;
    p->epoch_accuracy = p->accuracy < 0 ? -1 : t->epoch_right / (double)t->epoch_seen;
    t->epoch_loss = t->epoch_right = 0;
    t->epoch_seen = 0;
    if (t->n_held == 0) return true;
    if (!l2l__validate(t)) return false;
    p->best = p->validation_robust > t->best_score;
    if (!p->best) return true;
    t->best_score = p->validation_robust;
    if (!t->best) return (t->best = l2l_model_clone(t->context, t->model)) != NULL;
    return l2l_model_copy(t->best, t->model);
}

/* Adversarial training can sit on the loss of a constant guess: ln K with one class for
   everything. */
static bool l2l__plateau(l2l_trainer *t)
{
    int classes = t->model->options.classes;
    bool constant = t->progress.accuracy >= 0 && t->guess >= 0;
    if (!constant || fabs(t->progress.loss - log((double)classes)) > 0.02) t->plateau = 0;
    else t->plateau++;
    if (!t->options.stop_on_plateau || t->plateau < 300) return false;
    l2l__fail(
        t->context, L2L_ERROR_NUMERIC,
        "training sits on a plateau: for %d steps the loss is ln %d "
        "and one class is predicted for everything; try a longer epsilon_warm_up, a smaller rate "
        "or another seed",
        t->plateau, classes);
    return true;
}

/* What a part adds to the report: pixels of x'_T on the border of the ball or of the image range,
   and the predictions that were noted at line 14. */
static void l2l__tally(l2l_trainer *t, const l2l_inner *in)
{
    int64_t i, n = l2l_count(in->shape);
    l2l_real epsilon = (l2l_real)in->epsilon;
    if (t->context->status) return;
    for (i = 0; i < n; i++) {
        l2l_real x = in->x->data[i], z = in->adv->data[i];
        t->saturated += z <= l2l__low(x, epsilon) || z >= l2l__high(x, epsilon);
    }
    if (!t->options.method.outer.is_objective) return;
    if (!in->first) t->guess = in->predicted[0];
    for (i = 0; i < in->n; i++) {
        t->right += in->predicted[i] == in->labels[i];
        if (in->predicted[i] != t->guess) t->guess = -1;
    }
}

static void l2l__report(l2l_trainer *t, const l2l_inner *in, double loss)
{
    l2l_progress *p = &t->progress;
    int64_t one = l2l_count(in->shape) / in->n;
    p->loss = loss;
    p->epsilon = in->epsilon;
    p->gain = in->T > 0 && t->options.method.outer.is_objective &&
                      t->options.method.objective.loss == l2l__objective_ce
                  ? loss - t->start_loss / in->batch
                  : 0;
    p->saturated = (double)t->saturated / (double)(one * in->batch);
    p->epoch_ended = p->best = false;
    p->accuracy = t->options.method.outer.is_objective ? (double)t->right / in->batch : -1;
    if (t->given) return;
    t->epoch_loss += loss * in->batch;
    t->epoch_right += t->right;
    t->epoch_seen += in->batch;
}

/* The last step's parameters have no next loss that would tell. */
static bool l2l__last_finite(l2l_trainer *t)
{
    if (t->step < t->progress.steps || l2l__finite(t->values, t->optimizer->sizes, t->n_theta))
        return true;
    l2l__copy_theta(t, true);
    return l2l__fail(t->context, L2L_ERROR_NUMERIC,
                     "the last step's parameters are not finite; those "
                     "of the step before were kept");
}

/* Counts the step, ends epochs, reports, saves. True while there is more to do. */
static bool l2l__until_converged(l2l_trainer *t, const l2l_inner *in, double loss)
{
    l2l_progress *p = &t->progress;
    const l2l_train_options *o = &t->options;
    bool more = true, ended, ok;
    if (t->context->status) {
        if (t->sampled) l2l__copy_buffers(t, t->buffers, true);
        return false;
    }
    l2l__report(t, in, loss);
    p->step = ++t->step;
    if (t->given) return false;
    ended = ++p->step_in_epoch == p->steps_in_epoch;
    ok = l2l__last_finite(t) && !l2l__plateau(t) && (!ended || l2l__end_epoch(t)) &&
         l2l__log_step(t);
    if (ok && o->progress) more = o->progress(o->user, p);
    if (ended) {                             /* also after an error: the trainer stays usable     */
        p->epoch++;
        p->step_in_epoch = 0;
    }
    if (!ok) return false;
    if (t->checkpoint && (p->epoch_ended || !more ||
                          (o->checkpoint_steps > 0 && t->step % o->checkpoint_steps == 0)))
        l2l_trainer_save(t, t->checkpoint);
    if (!more)
        l2l__fail(t->context, L2L_ERROR_CANCELLED,
                  "training: stopped by the progress callback after "
                  "step %z of %z",
                  t->step, p->steps);
    return !t->context->status && t->step < p->steps;
}

/* -- Algorithm 1 ------------------------------------------------------------------------------- */

static void l2l__algorithm1(l2l_trainer *trainer)
{
    /* Input: data, B, alpha_1, alpha_2, T, f_theta, m_phi, all in the trainer */   /* [A1:1] */
    /* Output: f_theta and m_phi, trained in place */                               /* [A1:2] */
    /* Both come initialised: made at random, or loaded */                          /* [A1:3] */
    const l2l_method *method = &trainer->options.method;
    const l2l_maximizer *m_phi = &method->maximizer;
    l2l_mark mark = l2l_mark_here(trainer->context);
    l2l_inner in; /* the inner problem: x, y, x'_t, g_t, delta_t, L_phi */
    double L_theta;
    bool more;
    do {                                                                            /* [A1:4] */
        L_theta = 0;
        l2l__sample(trainer, &in);           /* M; L_theta, L_phi = 0 */            /* [A1:5] */
        while (l2l__next_part(trainer, &in, mark)) { /* n of (x,y) in M at once */  /* [A1:6] */
            l2l__begin(m_phi, &in);          /* h_0 = 0 */                          /* [A1:7] */
            l2l__start(&in, method->start);  /* x'_0 = Proj(x + noise) */           /* [A1:8] */
            if (in.T > 0) trainer->start_loss += l2l__loss_at(trainer, &in, 0); /* finds g_0 */
            for (in.t = 0; in.t < in.T; in.t++) {                                   /* [A1:9] */
                /* g_t = grad L(f(x'_t), y) stands in in.g[t], found with the loss */ /* [A1:10] */
                l2l__step(m_phi, &in);       /* delta_t, h_{t+1} = m_phi(g_t, h_t) */ /* [A1:11] */
                l2l__move(&in);              /* x'_{t+1} = Proj(x'_t + delta_t) */  /* [A1:12] */
                in.L_phi += in.w[in.t + 1] * l2l__loss_at(trainer, &in, in.t + 1);  /* [A1:13] */
            }
            L_theta += l2l__outer_gradient(trainer, &in); /* x'_T is a constant */  /* [A1:14] */
            l2l__inner_gradient(trainer, &in); /* grad L_phi / B, added up */       /* [A1:15] */
            l2l__tally(trainer, &in);        /* for the report */
        }
        l2l__ascend(m_phi, &in);             /* phi   += alpha_1 grad L_phi / B */  /* [A1:15] */
        l2l__descend(trainer);               /* theta -= alpha_2 grad L_theta / B */ /* [A1:16] */
        more = l2l__until_converged(trainer, &in, L_theta);
        trainer->model->images = NULL;
        l2l_release(trainer->context, mark);
    } while (more);                                                                 /* [A1:17] */
}

/* -- trainers ---------------------------------------------------------------------------------- */

L2LADVDEF l2l_train_options l2l_train_default(void)
{
    l2l_train_options o;
    memset(&o, 0, sizeof o);
    o.method = l2l_method_advtrain();
    o.epochs = 10;
    o.batch = 128;
    o.epsilon = 0.3;
    o.T = 10;
    o.epsilon_warm_up = 0.3;
    o.optimizer = l2l_adam_default();
    o.schedule = l2l_schedule_default();
    o.inner_mode = L2L_EVALUATE;
    return o;
}

static bool l2l__train_options_ok(l2l_context *c, const l2l_model *m, const l2l_dataset *d,
                                  const l2l_train_options *o)
{
    const l2l_model_options *a = &m->options;
    if (c->status) return false;
    if (!o->method.objective.loss || !o->method.outer.loss)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: the method lacks an objective or an outer "
                         "loss");
    if (d->channels != a->channels || d->height < a->height || d->width < a->width)
        return l2l__fail(c, L2L_ERROR_SHAPE,
                         "training: images of %dx%dx%d (CxHxW) and a model for "
                         "%dx%dx%d",
                         d->channels, d->height, d->width, a->channels, a->height, a->width);
    if (o->augment.padding < 0 || o->augment.padding >= a->height ||
        o->augment.padding >= a->width)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "training: augment.padding %d is not in 0 to below "
                         "the model's %dx%d", o->augment.padding, a->height, a->width);
    if (d->classes > a->classes)
        return l2l__fail(c, L2L_ERROR_SHAPE, "training: %d classes of data and a model for %d",
                         d->classes, a->classes);
    if (o->epochs < 1 || o->batch < 1 || o->micro_batch < 0 || o->T < 0 || o->T > 10000)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: epochs %d and batch %d must be at least 1, micro_batch %d at "
                         "least 0, T %d in 0..10000",
                         o->epochs, o->batch, o->micro_batch, o->T);
    if (!o->method.maximizer.gradient != !o->method.maximizer.update)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: the maximizer '%s' needs both gradient and update, or neither",
                         o->method.maximizer.name);
    if (o->T < 1 && o->method.maximizer.update)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: T %d, but the maximizer '%s' learns from at least 1 step", o->T,
                         o->method.maximizer.name);
    if (!(o->epsilon >= 0 && o->epsilon <= 1))
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: epsilon %g is not in [0,1]; pixels are in "
                         "[0,1], so 8 of 255 is 8/255",
                         o->epsilon);
    if (!(o->epsilon_warm_up >= 0 && o->epsilon_warm_up <= 1) || !(o->step_size >= 0))
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: epsilon_warm_up %g is not in [0,1], or step_size "
                         "%g is negative",
                         o->epsilon_warm_up, o->step_size);
    if (o->validation < 0 || o->validation >= d->count)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "training: validation %d must leave some of the %d images "
                         "for training",
                         o->validation, d->count);
    return true;
}

/* Splits off the held-out images: a shuffle of all indices by the seed, the last ones held out. */
static void l2l__split(l2l_trainer *t)
{
    int i, n = t->data.count;
    t->n_held = t->options.validation;
    t->n_train = n - t->n_held;
    for (i = 0; i < n; i++) t->train[i] = i;
    if (t->n_held) l2l__shuffle(t->train, n, t->options.seed, L2L_RANDOM_SPLIT, 0);
    t->held = t->train + t->n_train;
}

static bool l2l__trainer_arrays(l2l_trainer *t)
{
    l2l_context *c = t->context;
    l2l_model *m = t->model;
    int64_t *sizes = (int64_t *)l2l__allocate_array(c, m->n_slots, sizeof *sizes), held = 0;
    int64_t held_theta = 0;
    int i, n = 0;
    t->theta = (l2l_tensor **)l2l__allocate_array(c, m->n_slots + 1, sizeof *t->theta);
    t->found = (l2l_tensor **)l2l__allocate_array(c, m->n_slots + 1, sizeof *t->found);
    t->values = (l2l_real **)l2l__allocate_array(c, m->n_slots, sizeof *t->values);
    t->gradients = (l2l_real **)l2l__allocate_array(c, m->n_slots, sizeof *t->gradients);
    t->w = (double *)l2l__allocate_array(c, t->options.T + 1, sizeof *t->w);
    t->train = (int *)l2l__allocate_array(c, t->data.count, sizeof *t->train);
    t->order = (int *)l2l__allocate_array(c, t->data.count, sizeof *t->order);
    for (i = 0; i < m->n_slots && !c->status; i++) {
        l2l__slot *p = m->slots[i];
        if (!p->trainable) {
            held += l2l_count(p->value.shape);
            continue;
        }
        sizes[n] = l2l_count(p->value.shape);
        t->theta[n] = &p->value;
        t->values[n++] = p->value.data;
    }
    t->n_theta = n;
    for (i = 0; i < n && !c->status; i++) held_theta += sizes[i];
    t->good = (l2l_real *)l2l__allocate_array(c, held_theta, sizeof *t->good);
    if (held) t->buffers = (l2l_real *)l2l__allocate_array(c, 2 * held, sizeof *t->buffers);
    if (t->buffers) t->part_buffers = t->buffers + held;
    if (!c->status) t->optimizer = l2l_optimizer_create(c, &t->options.optimizer, sizes, n);
    if (t->optimizer && t->options.micro_batch && t->options.micro_batch < t->options.batch)
        l2l__make_sum(t);
    l2l_free(c, sizes);
    return !c->status;
}

/* A number for a list of numbers, to tell lists apart (FNV-1a, 52 bits: exact in a double). */
L2L__MAYBE_UNUSED
static double l2l__digest(const double *v, int64_t n)
{
    uint64_t h = 14695981039346656037u;
    int64_t i;
    size_t j;
    for (i = 0; i < n; i++) {
        unsigned char bytes[sizeof *v];
        memcpy(bytes, v + i, sizeof bytes);
        for (j = 0; j < sizeof bytes; j++) h = (h ^ bytes[j]) * 1099511628211u;
    }
    return (double)(h >> 12);
}

/* Of the pixels of four images spread over the data set: other data, another number. */
static double l2l__data_digest(const l2l_trainer *t)
{
    l2l_context *c = t->context;
    int64_t one = (int64_t)t->data.channels * t->data.height * t->data.width, j;
    l2l_real *x = (l2l_real *)l2l__arena_array(c, one, sizeof *x);
    double sums[4] = {0}, label_and_sum = 0;
    int i, label = 0;
    for (i = 0; x && i < 4; i++) {
        int which = (int)((int64_t)(t->data.count - 1) * i / 3);
        if (!t->data.fetch(&t->data, which, x, &label)) continue;
        for (label_and_sum = label, j = 0; j < one; j++)
            label_and_sum += (double)x[j] * (double)(j + 1);
        sums[i] = label_and_sum;
    }
    l2l__arena_drop(c, x);
    return l2l__digest(sums, 4);
}

/* options.loss_weights is copied, log and checkpoint names as well. */
static bool l2l__trainer_own(l2l_trainer *t)
{
    l2l_train_options *o = &t->options;
    int i;
    for (i = 1; i <= o->T; i++) t->w[i] = o->loss_weights ? o->loss_weights[i - 1] : i;
    o->loss_weights = NULL;
    if (o->log && !(t->log = l2l__copy_text(t->context, o->log))) return false;
    if (o->checkpoint && !(t->checkpoint = l2l__copy_text(t->context, o->checkpoint))) return false;
    return true;
}

L2LADVDEF l2l_trainer *l2l_trainer_create(l2l_model *m, const l2l_dataset *d,
                                          const l2l_train_options *o)
{
    l2l_context *c = m ? m->context : NULL;
    l2l_trainer *t;
    l2l_progress *p;
    if (!c || !l2l__train_options_ok(c, m, d, o) ||
        !(t = (l2l_trainer *)l2l__allocate(c, sizeof *t)))
        return NULL;
    t->context = c;
    t->model = m;
    t->data = *d;
    t->data.context = c;
    t->options = *o;
    t->best_score = t->shuffled = -1;
    t->shares = o->method.outer.is_objective && o->method.objective.loss == l2l__objective_ce &&
                !m->mode_matters;
    if (!l2l__trainer_arrays(t) || !l2l__trainer_own(t)) {
        l2l_trainer_free(t);
        return NULL;
    }
    l2l__split(t);
    t->data_digest = l2l__data_digest(t);
    if (c->status) {
        l2l_trainer_free(t);
        return NULL;
    }
    p = &t->progress;
    p->epochs = o->epochs;
    p->steps_in_epoch = (t->n_train - 1) / o->batch + 1;
    p->steps = p->steps_in_epoch * o->epochs;
    p->validation_natural = p->validation_robust = -1;
    return t;
}

L2LADVDEF void l2l_trainer_free(l2l_trainer *t)
{
    l2l_context *c;
    if (!t) return;
    c = t->context;
    l2l_model_free(t->best);
    l2l_optimizer_free(t->optimizer);
    l2l_free(c, t->theta);
    l2l_free(c, t->found);
    l2l_free(c, t->values);
    l2l_free(c, t->gradients);
    l2l_free(c, t->w);
    l2l_free(c, t->train);
    l2l_free(c, t->order);
    l2l_free(c, t->buffers);
    l2l_free(c, t->good);
    l2l_free(c, t->sum);
    l2l_free(c, t->log);
    l2l_free(c, t->checkpoint);
    l2l_free(c, t);
}

L2LADVDEF bool l2l_train(l2l_trainer *t)
{
    if (!t || t->context->status || !l2l__maybe_resume(t) || !l2l__log_begin(t)) return false;
    if (t->step < t->progress.steps) l2l__algorithm1(t);
    return !t->context->status;
}

L2LADVDEF bool l2l_train_step(l2l_trainer *t, const l2l_real *images, const int *labels, int n,
                              l2l_progress *p)
{
    l2l_context *c = t ? t->context : NULL;
    memset(p, 0, sizeof *p);
    if (!c || c->status) return false;
    if (n < 1) return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_train_step: %d images", n);
    if (!l2l__images_ok(c, "l2l_train_step", &t->model->options, images, labels, n)) return false;
    t->given = images;
    t->given_labels = labels;
    t->given_n = n;
    l2l__algorithm1(t);
    t->given = NULL;
    *p = t->progress;
    return !c->status;
}

L2LADVDEF l2l_model *l2l_trainer_best(l2l_trainer *t)
{
    return t ? l2l_model_clone(t->context, t->best ? t->best : t->model) : NULL;
}

/* ============================================================================================ */
/*  11  EVALUATION                                                             >>evaluation     */
/* ============================================================================================ */

L2LADVDEF l2l_evaluation_options l2l_evaluation_default(void)
{
    l2l_evaluation_options o;
    o.limit = 0;
    o.batch = 100;
    return o;
}

/* The share that is right so far, among all. */
static void l2l__worst(l2l_evaluation *e)
{
    int i, right = 0;
    for (i = 0; i < e->images; i++) right += e->right[i];
    e->worst = (double)right / e->images;
}

/* Runs `a` over the images of the evaluation, a batch of the data set at a time. */
static bool l2l__evaluation_run(l2l_evaluation *e, const l2l_attack *attack, l2l_record *records,
                                l2l_real *adversarial)
{
    l2l_context *c = e->model->context;
    const l2l_model_options *o = &e->model->options;
    int64_t one = (int64_t)o->channels * o->height * o->width;
    int first, n, i, batch = e->options.batch < e->images ? e->options.batch : e->images;
    l2l_attack a = *attack;
    l2l_dataset data = *e->data;             /* errors and room are the model's context's         */
    l2l_real *x = (l2l_real *)l2l__allocate_array(c, batch * one, sizeof *x);
    l2l_real *out = (l2l_real *)l2l__allocate_array(c, batch * one, sizeof *out);
    data.context = c;
    a.progress = NULL;
    for (first = 0; first < e->images && !c->status; first += n) {
        n = e->images - first < batch ? e->images - first : batch;
        a.first = attack->first + (uint32_t)first;
        a.init = attack->init ? attack->init + first * one : NULL;
        a.targets = attack->targets ? attack->targets + first : NULL;
        for (i = 0; i < n && !c->status; i++)
            l2l__fetch(&data, "evaluation", o, NULL, NULL, first + i, x + i * one,
                       e->labels + first + i);
        if (!l2l_attack_run(e->model, &a, x, e->labels + first, n,
                            adversarial ? adversarial + first * one : out, records + first))
            break;
        if (attack->progress && !attack->progress(attack->user, first + n, e->images))
            l2l__fail(c, L2L_ERROR_CANCELLED, "evaluation: cancelled after %d of %d images",
                      first + n, e->images);
    }
    l2l_free(c, x);
    l2l_free(c, out);
    return !c->status;
}

L2LADVDEF bool l2l_evaluation_begin(l2l_model *m, const l2l_dataset *d,
                                    const l2l_evaluation_options *o, l2l_evaluation *e)
{
    l2l_context *c = m ? m->context : NULL;
    l2l_attack none = l2l__attack("none", 0, 0, 0, L2L_START_CLEAN);
    l2l_record *records;
    int i;
    memset(e, 0, sizeof *e);
    if (!c || c->status) return false;
    if (o->limit < 0 || o->batch < 1 || d->count < 1)
        return l2l__fail(c, L2L_ERROR_ARGUMENT,
                         "evaluation: limit %d must not be negative, batch %d and "
                         "the data set's %d images at least 1",
                         o->limit, o->batch, d->count);
    if (d->channels != m->options.channels || d->height < m->options.height ||
        d->width < m->options.width)
        return l2l__fail(c, L2L_ERROR_SHAPE,
                         "evaluation: images of %dx%dx%d (CxHxW) and a model for "
                         "%dx%dx%d",
                         d->channels, d->height, d->width, m->options.channels, m->options.height,
                         m->options.width);
    if (d->classes > m->options.classes)
        return l2l__fail(c, L2L_ERROR_SHAPE, "evaluation: %d classes of data and a model for %d",
                         d->classes, m->options.classes);
    e->model = m;
    e->data = d;
    e->options = *o;
    e->images = o->limit && o->limit < d->count ? o->limit : d->count;
    e->labels = (int *)l2l__allocate_array(c, e->images, sizeof *e->labels);
    e->clean = (int *)l2l__allocate_array(c, e->images, sizeof *e->clean);
    e->right = (bool *)l2l__allocate_array(c, e->images, sizeof *e->right);
    records = (l2l_record *)l2l__allocate_array(c, e->images, sizeof *records);
    if (records && l2l__evaluation_run(e, &none, records, NULL)) {
        for (i = 0; i < e->images; i++) {
            e->clean[i] = records[i].clean;
            e->right[i] = e->clean[i] == e->labels[i];
        }
        l2l__worst(e);
        e->natural = e->worst;
    }
    l2l_free(c, records);
    if (c->status) l2l_evaluation_end(e);
    return !c->status;
}

/* Right still: by the prediction, or because what a minimal-norm attack found is too far away. */
static bool l2l__withstood(const l2l_attack *a, const l2l_record *b)
{
    return b->predicted == b->label || !l2l__near_enough(a, b);
}

L2LADVDEF bool l2l_evaluation_attack(l2l_evaluation *e, const l2l_attack *a, l2l_result *r,
                                     l2l_record *records, l2l_real *adversarial)
{
    l2l_context *c = e->model ? e->model->context : NULL;
    l2l_record *own = NULL, *b;
    double gradients = 0, zero = 0;
    int i, right = 0;
    memset(r, 0, sizeof *r);
    if (!c || c->status) return false;
    if (!records) own = (l2l_record *)l2l__allocate_array(c, e->images, sizeof *own);
    b = records ? records : own;
    if (b && l2l__evaluation_run(e, a, b, adversarial)) {
        for (i = 0; i < e->images; i++) {
            right += l2l__withstood(a, &b[i]);
            e->right[i] = e->right[i] && l2l__withstood(a, &b[i]);
            r->mean_loss += b[i].loss / e->images;
            r->mean_linf += b[i].linf / e->images;
            r->forwards += b[i].forwards;
            r->backwards += b[i].backwards;
            gradients += b[i].backwards;
            zero += b[i].zero_gradients;
        }
        r->accuracy = (double)right / e->images;
        r->zero_gradients = gradients > 0 ? zero / gradients : 0;
        l2l__worst(e);
    }
    l2l_free(c, own);
    return !c->status;
}

L2LADVDEF void l2l_evaluation_end(l2l_evaluation *e)
{
    l2l_context *c;
    if (!e->model) return;
    c = e->model->context;
    l2l_free(c, e->labels);
    l2l_free(c, e->clean);
    l2l_free(c, e->right);
    memset(e, 0, sizeof *e);
}

/* ============================================================================================ */
/*  12  FILES                                                                     >>files-code  */
/* ============================================================================================ */

/* *count = the product of a shape; false when one is negative or the product does not fit. */
static bool l2l__product(const int64_t *shape, int rank, int64_t *count)
{
    int i;
    for (*count = 1, i = 0; i < rank; i++) {
        if (shape[i] < 0 || (shape[i] && *count > INT64_MAX / shape[i])) return false;
        *count *= shape[i];
    }
    return true;
}

/* -- data sets --------------------------------------------------------------------------------- */

/* Images that lie in one file: bytes in memory, or a source that they are read from. */
typedef struct l2l__shard {
    int count;
    const unsigned char *pixels, *labels;    /* in memory: of the first image, CxHxW              */
    size_t step, label_step;                 /* from one to the next                              */
    void *owned;                             /* a file that goes with the data set                */
    l2l_source source;                       /* HxWxC                                             */
    int64_t first;                           /* where the pixels begin in it                      */
} l2l__shard;

/* What is behind the data sets of this chapter: the caller's arrays or the shards. */
typedef struct l2l__images {
    const l2l_real *reals;
    const int *classes;                      /* NULL: the shards have the labels                  */
    l2l__shard *shards;
    int n_shards;
    unsigned char *one;                      /* room for an image from a source                   */
    void *owned;
} l2l__images;

static bool l2l__images_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const l2l__images *s = (const l2l__images *)d->self;
    const l2l__shard *p = s->shards;
    size_t channels = (size_t)d->channels, plane = (size_t)d->height * (size_t)d->width;
    size_t size = channels * plane, i, k, at = (size_t)index, step = 1, next = plane;
    const unsigned char *from;
    int64_t byte;
    if (index < 0 || index >= d->count)
        return l2l__fail(d->context, L2L_ERROR_ARGUMENT, "data set: image %d of %d", index,
                         d->count);
    if (s->classes) *label = s->classes[index];
    if (s->reals) {
        memcpy(chw, s->reals + at * size, size * sizeof *chw);
        return true;
    }
    for (; at >= (size_t)p->count; p++) at -= (size_t)p->count;
    if (p->labels) *label = p->labels[at * p->label_step];
    from = p->pixels ? p->pixels + at * p->step : s->one;
    if (!p->pixels) {
        byte = p->first + (int64_t)(at * size);
        if (!p->source.read_at(p->source.user, byte, s->one, size))
            return l2l__fail(d->context, L2L_ERROR_FILE, "images of shard %d, byte %z: cannot read "
                             "image %d", (int)(p - s->shards), byte, index);
        step = channels;
        next = 1;
    }
    for (k = 0; k < channels; k++, from += next)
        for (i = 0; i < plane; i++) *chw++ = (l2l_real)from[i * step] / 255;
    return true;
}

static void l2l__images_release(l2l_dataset *d)
{
    l2l__images *s = (l2l__images *)d->self;
    int k;
    for (k = 0; s->shards && k < s->n_shards; k++) l2l_free(d->context, s->shards[k].owned);
    l2l_free(d->context, s->shards);
    l2l_free(d->context, s->one);
    l2l_free(d->context, s->owned);
    l2l_free(d->context, s);
}

/* A data set in the making; NULL, and empty, after an error. */
static l2l__images *l2l__images_create(l2l_context *c, int n_shards, l2l_dataset *d)
{
    l2l__images *s = (l2l__images *)l2l__allocate(c, sizeof *s);
    memset(d, 0, sizeof *d);
    if (!s) return NULL;
    d->context = c;
    d->fetch = l2l__images_fetch;
    d->release = l2l__images_release;
    d->self = s;
    s->n_shards = n_shards;
    s->shards = (l2l__shard *)l2l__allocate_array(c, n_shards, sizeof *s->shards);
    if (s->shards) return s;
    l2l_dataset_free(d);
    return NULL;
}

/* dims: N, C, H, W, each of which fits an int, as does their product an int64_t. */
static void l2l__images_sizes(l2l_dataset *d, const int64_t dims[4], int classes)
{
    d->count = (int)dims[0];
    d->channels = (int)dims[1];
    d->height = (int)dims[2];
    d->width = (int)dims[3];
    d->classes = classes;
}

/* Whether it can be used; it is given back if not. */
static bool l2l__images_end(l2l_context *c, l2l_dataset *d)
{
    if (!c->status && d->count < 1)
        l2l__fail(c, L2L_ERROR_ARGUMENT, "data set: made from no files");
    if (c->status) l2l_dataset_free(d);
    return !c->status;
}

static bool l2l__image_ok(const l2l_dataset *d, const char *who, int index, const l2l_real *x,
                          int label)
{
    int64_t i, size = (int64_t)d->channels * d->height * d->width;
    if (label < 0 || label >= d->classes)
        return l2l__fail(d->context, L2L_ERROR_ARGUMENT, "%s: label %d is %d, not in 0..%d", who,
                         index, label, d->classes - 1);
    for (i = 0; i < size; i++)
        if (!(x[i] >= 0 && x[i] <= 1))       /* what is not a number fails both                   */
            return l2l__fail(d->context, L2L_ERROR_ARGUMENT, "%s: value %z of image %d is %g, not "
                             "in [0,1]", who, i, index, (double)x[i]);
    return true;
}

L2LADVDEF bool l2l_dataset_from_arrays(l2l_context *c, const l2l_real *images, const int *labels,
                                       int n, int channels, int height, int width, int classes,
                                       l2l_dataset *d)
{
    static const char who[] = "l2l_dataset_from_arrays";
    int64_t dims[4], count;
    l2l__images *s;
    int i;
    memset(d, 0, sizeof *d);
    if (c->status) return false;
    dims[0] = n; dims[1] = channels; dims[2] = height; dims[3] = width;
    if (n < 1 || channels < 1 || height < 1 || width < 1 || classes < 1 ||
        !l2l__product(dims, 4, &count))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images of %d x %d x %d in %d classes: too "
                         "few or too many", who, n, channels, height, width, classes);
    if (!(s = l2l__images_create(c, 0, d))) return false;
    l2l__images_sizes(d, dims, classes);
    s->reals = images;
    s->classes = labels;
    count /= n;
    for (i = 0; i < n && l2l__image_ok(d, who, i, images + i * count, labels[i]); i++) continue;
    return l2l__images_end(c, d);
}

L2LADVDEF void l2l_dataset_free(l2l_dataset *d)
{
    if (d->release) d->release(d);
    memset(d, 0, sizeof *d);
}

L2LADVDEF bool l2l_dataset_read(const l2l_dataset *d, int first, int n, l2l_real *images,
                                int *labels)
{
    static const char who[] = "l2l_dataset_read";
    l2l_context *c = d->context;
    size_t size = (size_t)d->channels * (size_t)d->height * (size_t)d->width;
    int i;
    if (c->status) return false;
    if (n < 0 || first < 0 || n > d->count || first > d->count - n)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images from %d on, of %d", who, n, first,
                         d->count);
    for (i = 0; i < n; i++, images += size) {
        if (!d->fetch(d, first + i, images, labels + i))
            return l2l__fail(c, L2L_ERROR_CALLBACK, "%s: no image %d from fetch", who, first + i);
        if (!l2l__image_ok(d, who, first + i, images, labels[i])) return false;
    }
    return true;
}

/* -- files, read at once ----------------------------------------------------------------------- */

/* The bytes of a file: borrowed, or (owned) read into memory of ours. */
typedef struct l2l__file {
    l2l_context *context;
    const char *label;                       /* path or "memory", borrowed                        */
    const unsigned char *data;
    size_t bytes;
    void *owned;                             /* to be given back with l2l_free, or NULL           */
} l2l__file;

static l2l__file l2l__file_of(l2l_context *c, const char *label, const void *data, size_t bytes)
{
    l2l__file f;
    f.context = c;
    f.label = label;
    f.data = (const unsigned char *)data;
    f.bytes = bytes;
    f.owned = NULL;
    return f;
}

/* An error with the file's name and, unless `at` is negative, the byte. What control characters the
   file may have put into it are taken out. */
static bool l2l__bad(const l2l__file *f, l2l_status status, int64_t at, const char *format, ...)
{
    char *text = f->context->text;
    size_t capacity = sizeof f->context->text, n;
    va_list a;
    if (f->context->status) return false;
    f->context->status = status;
    n = l2l__format(text, capacity, at < 0 ? "%s: " : "%s, byte %z: ", f->label, at);
    if (n > capacity) n = capacity;
    va_start(a, format);
    l2l__vformat(text + n, capacity - n, format, a);
    va_end(a);
    for (; *text; text++)
        if ((unsigned char)*text < 32 || *text == 127) *text = '?';
    return false;
}

/* An integer of 1 to 8 bytes, by shifts: right on a machine of any byte order. */
static uint64_t l2l__get_bytes(const unsigned char *p, int size, bool big)
{
    uint64_t v = 0;
    int i;
    for (i = 0; i < size; i++) v |= (uint64_t)p[big ? size - 1 - i : i] << (8 * i);
    return v;
}

/* n numbers of 4 or 8 bytes, of whatever type, as little-endian bytes. */
static void l2l__put_values(unsigned char *p, const void *values, int64_t n, int size)
{
    const char *x = (const char *)values;
    uint32_t u = 0;
    uint64_t v = 0;
    int i;
    for (; n > 0; n--, p += size, x += size) {
        if (size == 4) memcpy(&u, x, 4); else memcpy(&v, x, 8);
        for (i = 0; i < size; i++) p[i] = (unsigned char)((size == 4 ? u : v) >> (8 * i) & 255);
    }
}

/* The number behind 2 (binary16), 4 or 8 bytes. */
static double l2l__real_of(uint64_t bits, int size)
{
    uint32_t u = (uint32_t)bits;
    int e = (int)(bits >> 10 & 31), m = (int)(bits & 1023);
    float f;
    double d;
    memcpy(&f, &u, 4);
    memcpy(&d, &bits, 8);
    if (size != 2) return size == 4 ? (double)f : d;
    d = e == 31 ? (m ? (double)NAN : (double)INFINITY)
      : e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
    return bits & 0x8000 ? -d : d;
}

/* A decimal number, the same in every locale, to about one unit in the 16th digit; *s moves behind
   it. False if there is none, or none that is finite. */
static bool l2l__scan_real(const char **s, double *v)
{
    const char *p = *s;
    double m = 0;
    int e = 0, x = 0;
    bool negative = *p == '-', any = false, point = false, down;
    for (p += negative; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
        if (*p == '.') { point = true; continue; }
        m = m * 10 + (*p - '0');
        e -= point;
        any = true;
    }
    if (any && (*p == 'e' || *p == 'E')) {
        down = *++p == '-';
        p += *p == '-' || *p == '+';
        for (any = false; *p >= '0' && *p <= '9'; p++, any = true)
            if (x < 100000) x = x * 10 + (*p - '0');
        e += down ? -x : x;
    }
    if (e < -300) { m /= 1e300; e += 300; }
    if (m > 0) m = e < 0 ? m / pow(10.0, -e) : m * pow(10.0, e);
    *s = p;
    *v = negative ? -m : m;
    return any && m <= DBL_MAX;
}

/* A file to be written is a list of pieces. */
typedef struct l2l__piece {
    const unsigned char *data;
    size_t bytes;
    struct l2l__piece *next;
} l2l__piece;

/* A piece with room for its bytes behind it. */
static l2l__piece *l2l__piece_create(l2l_context *c, int64_t count, int size, unsigned char **data)
{
    size_t bytes = 0;
    l2l__piece *p;
    if (c->status || !l2l__bytes(c, count, (size_t)size, &bytes)) return NULL;
    if (!(p = (l2l__piece *)l2l__allocate(c, sizeof *p + bytes))) return NULL;
    p->data = *data = (unsigned char *)(p + 1);
    p->bytes = bytes;
    return p;
}

#ifndef L2LADV_NO_STDIO
static bool l2l__file_cannot(const l2l__file *f, const char *what, int64_t at)
{
    return l2l__bad(f, L2L_ERROR_FILE, at, "cannot %s: %s", what,
                    errno ? strerror(errno) : "unknown cause");
}

/* Where the end is, as ftell says; LONG_MAX where it does not know (a pipe, a directory). */
static long l2l__file_end(FILE *f)
{
    long end = fseek(f, 0, SEEK_END) ? -1 : ftell(f);
    return end < 0 ? LONG_MAX : end;
}

/* A file whose length is known; NULL after an error. */
static FILE *l2l__file_begin(l2l_context *c, const char *path, long *end)
{
    l2l__file f = l2l__file_of(c, path, NULL, 0);
    FILE *in;
    if (c->status) return NULL;
    errno = 0;
    if (!(in = fopen(path, "rb"))) {
        l2l__file_cannot(&f, "open it", -1);
        return NULL;
    }
    if ((*end = l2l__file_end(in)) != LONG_MAX) return in;
    l2l__bad(&f, L2L_ERROR_FILE, -1, "not a file of a known length (a directory, a pipe?)");
    fclose(in);
    return NULL;
}

/* A whole file, to be given back with l2l_free; NULL after an error. */
static unsigned char *l2l__file_read(l2l_context *c, const char *path, size_t *bytes)
{
    l2l__file f = l2l__file_of(c, path, NULL, 0);
    unsigned char *data;
    long end = 0;
    FILE *in = l2l__file_begin(c, path, &end);
    if (!in) return NULL;
    rewind(in);
    if ((data = (unsigned char *)l2l__allocate(c, (size_t)end)) != NULL)
        *bytes = fread(data, 1, (size_t)end, in);
    if (data && *bytes != (size_t)end) {
        l2l__file_cannot(&f, "read on", (int64_t)*bytes);
        l2l_free(c, data);
        data = NULL;
    }
    fclose(in);
    return data;
}

static l2l__file l2l__file_open(l2l_context *c, const char *path)
{
    size_t bytes = 0;
    unsigned char *data = l2l__file_read(c, path, &bytes);
    l2l__file f = l2l__file_of(c, path, data, bytes);
    f.owned = data;
    return f;
}

static bool l2l__file_put(const l2l__file *f, FILE *out, const l2l__piece *p)
{
    int64_t at = 0;
    long end;
    bool ok = true;
    for (; ok && p; p = p->next) {
        size_t n = p->bytes ? fwrite(p->data, 1, p->bytes, out) : 0;
        ok = n == p->bytes;
        at += (int64_t)n;
    }
    if (!ok || fflush(out)) ok = l2l__file_cannot(f, "write on", at);
    end = l2l__file_end(out);
    if (ok && end != LONG_MAX && end != at)
        ok = l2l__bad(f, L2L_ERROR_FILE, end, "the file ends here, not after %z bytes", at);
    if (fclose(out) && ok) ok = l2l__file_cannot(f, "close it", at);
    return ok;
}

/* Beside the target first, then renamed: see 2.14 (on Windows there is a moment without either). */
static bool l2l__file_write(l2l_context *c, const char *path, const l2l__piece *pieces)
{
    size_t n = strlen(path);
    char *beside = (char *)l2l__allocate(c, n + 5);
    l2l__file f = l2l__file_of(c, beside, NULL, 0);
    FILE *out;
    bool ok = false;
    if (!beside) return false;
    memcpy(beside, path, n);
    memcpy(beside + n, ".tmp", 5);
    errno = 0;
    if (!(out = fopen(beside, "wb"))) {
        l2l__file_cannot(&f, "open it to write", -1);
    } else {
        ok = l2l__file_put(&f, out, pieces);
#ifdef _WIN32
        if (ok) remove(path);                /* rename does not replace a file there              */
#endif
        errno = 0;
        f.label = path;
        if (ok && rename(beside, path))
            ok = l2l__file_cannot(&f, "put the new file in its place", -1);
        if (!ok) remove(beside);
    }
    l2l_free(c, beside);
    return ok;
}
#endif

/* -- a scanner for the headers of safetensors (JSON) and .npy (a Python literal) --------------- */

/* Text that is parsed, and overwritten, in place; it ends with a zero, which no rule accepts. The
   first error stays in the context and ends every list, so few results need a look. */
typedef struct l2l__scan {
    const l2l__file *file;
    char *text, *at;
    size_t base, length;                     /* where the text lies in the file                   */
    bool python;                             /* 'text', and a comma before a closing bracket      */
    bool comma;                              /* whether one was behind the last element           */
} l2l__scan;

/* A copy of bytes of a file, to be parsed; text is NULL after an error. */
static l2l__scan l2l__scan_of(const l2l__file *f, size_t base, size_t length, bool python)
{
    l2l__scan s;
    s.file = f;
    s.base = base;
    s.length = length;
    s.python = python;
    s.comma = false;
    s.text = s.at = (char *)l2l__allocate(f->context, length + 1);
    if (s.text) memcpy(s.text, f->data + base, length);
    return s;
}

static bool l2l__scan_ok(const l2l__scan *s) { return s->file->context->status == L2L_OK; }

static int64_t l2l__scan_at(const l2l__scan *s) { return (int64_t)s->base + (s->at - s->text); }

/* "what 'which'" at the place that the scanner has come to. */
static bool l2l__scan_fail(const l2l__scan *s, const char *what, const char *which)
{
    return l2l__bad(s->file, L2L_ERROR_FORMAT, l2l__scan_at(s), *which ? "%s '%s'" : "%s", what,
                    which);
}

/* Skips white space, then `ch` if it is there. */
static bool l2l__scan_take(l2l__scan *s, char ch)
{
    while (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r') s->at++;
    if (!ch || *s->at != ch) return false;
    s->at++;
    return true;
}

static bool l2l__scan_want(l2l__scan *s, char ch)
{
    char text[2] = {0, 0};
    text[0] = ch;
    return l2l__scan_take(s, ch) ||
           l2l__bad(s->file, L2L_ERROR_FORMAT, l2l__scan_at(s), "expected %s here", text);
}

/* In front of element n of a list: true if there is one, false behind `close` or after an error. */
static bool l2l__scan_next(l2l__scan *s, char close, int64_t n)
{
    if (!l2l__scan_ok(s)) return false;
    if (n == 0) return !l2l__scan_take(s, close);
    s->comma = l2l__scan_take(s, ',');
    if (s->comma) return !(s->python && l2l__scan_take(s, close));
    if (!l2l__scan_take(s, close))
        l2l__scan_fail(s, close == ')' ? "expected , or ) here" : close == ']' ? "expected ] here"
                                       : "expected , or } here", "");
    return false;
}

static bool l2l__scan_end(l2l__scan *s)
{
    l2l__scan_take(s, 0);
    if (s->at != s->text + s->length) l2l__scan_fail(s, "text after the header's end", "");
    return l2l__scan_ok(s);
}

/* The number of \u and four digits, which are skipped; 0 if they are not there. */
static uint32_t l2l__scan_hex(l2l__scan *s)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *p;
    uint32_t u = 0;
    int i;
    if (s->at[0] != '\\' || s->at[1] != 'u') return 0;
    for (i = 2; i < 6; i++) {
        if (!s->at[i] || !(p = strchr(digits, s->at[i]))) return 0;
        u = u << 4 | (uint32_t)((p - digits) & 15);
    }
    s->at += 6;
    return u;
}

/* \u, or a pair of them, as UTF-8; the end of what was written, or NULL after an error. */
static char *l2l__scan_unicode(l2l__scan *s, char *out)
{
    static const unsigned char lead[4] = {0, 0xC0, 0xE0, 0xF0};
    uint32_t u = l2l__scan_hex(s), low;
    int more;
    if (u >= 0xD800 && u < 0xDC00) {
        low = l2l__scan_hex(s);
        if (low >= 0xDC00 && low < 0xE000) u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
    }
    if (!u || (u >= 0xD800 && u < 0xE000)) {
        l2l__scan_fail(s, "\\u needs four hexadecimal digits, not a zero or half a surrogate", "");
        return NULL;
    }
    more = u < 0x80 ? 0 : u < 0x800 ? 1 : u < 0x10000 ? 2 : 3;
    *out++ = (char)(lead[more] | u >> (6 * more));
    while (more-- > 0) *out++ = (char)(0x80 | (u >> (6 * more) & 63));
    return out;
}

/* A string, decoded in place (it only gets shorter); "" after an error. */
static const char *l2l__scan_string(l2l__scan *s)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char quote = s->python && l2l__scan_take(s, '\'') ? '\'' : '"', *start, *out;
    const char *p;
    if (quote == '"' && !l2l__scan_want(s, '"')) return "";
    for (start = out = s->at; out && *s->at != quote;) {
        p = s->at[0] == '\\' && s->at[1] ? strchr(from, s->at[1]) : NULL;
        if ((unsigned char)*s->at < 32) {
            l2l__scan_fail(s, "a string with a control character or without an end", "");
            return "";
        }
        if (p) { *out++ = to[p - from]; s->at += 2; }
        else if (*s->at == '\\') out = l2l__scan_unicode(s, out);
        else *out++ = *s->at++;
    }
    if (!out) return "";
    s->at++;
    *out = 0;
    return start;
}

/* "key": for one of three keys, each at most once; which, or -1 after an error. */
static int l2l__scan_key(l2l__scan *s, const char *const keys[3], bool seen[3])
{
    const char *key = l2l__scan_string(s);
    int i;
    for (i = 0; i < 3 && strcmp(key, keys[i]); i++) continue;
    if (i == 3 || seen[i]) {
        l2l__scan_fail(s, "an unknown key, or one a second time:", key);
        return -1;
    }
    seen[i] = true;
    return l2l__scan_want(s, ':') ? i : -1;
}

static int64_t l2l__scan_integer(l2l__scan *s)
{
    const char *start;
    int64_t v = 0;
    l2l__scan_take(s, 0);
    for (start = s->at; *s->at >= '0' && *s->at <= '9'; s->at++) {
        int digit = *s->at - '0';
        if (v > (INT64_MAX - digit) / 10) l2l__scan_fail(s, "a number beyond 2^63-1", "");
        else v = v * 10 + digit;
    }
    if (s->at == start || (*start == '0' && s->at > start + 1))
        l2l__scan_fail(s, "expected a whole number, not negative, without leading zeros", "");
    return v;
}

/* A list, in Python a tuple, of at most `most` integers; how many. */
static int l2l__scan_integers(l2l__scan *s, int64_t *v, int most)
{
    int n;
    l2l__scan_want(s, s->python ? '(' : '[');
    for (n = 0; n < most && l2l__scan_next(s, s->python ? ')' : ']', n); n++)
        v[n] = l2l__scan_integer(s);
    if (n == most && l2l__scan_next(s, s->python ? ')' : ']', n))
        l2l__scan_fail(s, "a list that is too long (more than 8 axes or 2 offsets)", "");
    if (s->python && n == 1 && !s->comma) l2l__scan_fail(s, "a tuple of one needs a comma", "");
    return n;
}

/* -- safetensors: eight bytes of header length, a JSON header, the tensors' bytes -------------- */

/* F32 to BF16 can be read as real numbers; of the others only the size is known. */
typedef enum l2l__dtype { L2L__F32, L2L__F64, L2L__F16, L2L__BF16, L2L__I64 } l2l__dtype;
enum { L2L__DTYPES = 15 };
static const struct { char name[8]; int size; } l2l__dtypes[L2L__DTYPES] = {
    {"F32", 4}, {"F64", 8}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"BOOL", 1}, {"U8", 1}, {"I8", 1},
    {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"I32", 4}, {"U32", 4}, {"U64", 8}};

typedef struct l2l__entry {
    const char *name;
    int dtype, rank;
    int64_t shape[8], count;
    size_t begin, end;                       /* in the file                                       */
} l2l__entry;

/* Enough for any model here; few enough that looking through all of them for each is nothing. */
enum { L2L__MOST_ENTRIES = 8192, L2L__MOST_METADATA = 128 };

typedef struct l2l__reader {
    l2l_context *context;
    const char *label;                       /* as in file                                        */
    l2l__file file;
    size_t first;                            /* where the tensors' bytes begin                    */
    char *header;                            /* a copy, decoded in place: names and metadata      */
    l2l__entry *entries;                     /* in the order of their bytes                       */
    int count, capacity;
    const char *metadata[L2L__MOST_METADATA][2]; /* keys and their texts                          */
    int pairs;
    bool has_metadata;
} l2l__reader;

static void l2l__reader_close(l2l__reader *r)
{
    l2l_free(r->context, r->entries);
    l2l_free(r->context, r->header);
    l2l_free(r->context, r->file.owned);
    memset(r, 0, sizeof *r);
}

/* The key's text (of equal keys the first), or NULL. */
static const char *l2l__reader_metadata(const l2l__reader *r, const char *key)
{
    int i;
    for (i = 0; i < r->pairs; i++)
        if (!strcmp(r->metadata[i][0], key)) return r->metadata[i][1];
    return NULL;
}

/* NULL if the file has no such tensor. */
static const l2l__entry *l2l__reader_find(const l2l__reader *r, const char *name)
{
    int i;
    for (i = 0; i < r->count; i++)
        if (!strcmp(r->entries[i].name, name)) return r->entries + i;
    return NULL;
}

static void l2l__parse_metadata(l2l__reader *r, l2l__scan *s)
{
    if (r->has_metadata) l2l__scan_fail(s, "__metadata__ a second time", "");
    r->has_metadata = true;
    l2l__scan_want(s, '{');
    for (; l2l__scan_next(s, '}', r->pairs); r->pairs++) {
        if (r->pairs == L2L__MOST_METADATA) {
            l2l__scan_fail(s, "too many keys in __metadata__", "");
            return;
        }
        r->metadata[r->pairs][0] = l2l__scan_string(s);
        l2l__scan_want(s, ':');
        r->metadata[r->pairs][1] = l2l__scan_string(s);
    }
}

static int l2l__parse_dtype(l2l__scan *s)
{
    const char *name = l2l__scan_string(s);
    int i;
    for (i = 0; i < L2L__DTYPES; i++)
        if (!strcmp(l2l__dtypes[i].name, name)) return i;
    l2l__scan_fail(s, "unknown dtype", name);
    return 0;
}

/* Every size is checked here, before anything is asked for by it. */
static void l2l__entry_add(l2l__reader *r, const l2l__scan *s, l2l__entry *e, const int64_t span[2])
{
    int64_t room = (int64_t)(r->file.bytes - r->first), bytes = span[1] - span[0];
    int size = l2l__dtypes[e->dtype].size, i;
    const char *wrong =
        !*e->name ? "a tensor without a name"
        : l2l__reader_find(r, e->name) ? "two tensors are called"
        : !l2l__product(e->shape, e->rank, &e->count) || bytes % size || e->count != bytes / size
            ? "the bytes are not what shape and dtype ask for, of"
        : r->count == r->capacity ? "no room for so many tensors as to hold" : NULL;
    if (bytes < 0 || span[1] > room)
        l2l__bad(s->file, L2L_ERROR_FORMAT, l2l__scan_at(s), "offsets %z to %z in %z bytes of data,"
                 " of '%s'", span[0], span[1], room, e->name);
    if (wrong) l2l__scan_fail(s, wrong, e->name);
    if (!l2l__scan_ok(s)) return;
    e->begin = r->first + (size_t)span[0];
    e->end = r->first + (size_t)span[1];
    for (i = r->count++; i > 0; i--) {       /* most files are in order already                   */
        const l2l__entry *p = r->entries + i - 1;
        if (p->begin < e->begin || (p->begin == e->begin && p->end <= e->end)) break;
        r->entries[i] = *p;
    }
    r->entries[i] = *e;
}

static void l2l__parse_entry(l2l__reader *r, l2l__scan *s, const char *name)
{
    static const char *const keys[3] = {"dtype", "shape", "data_offsets"};
    bool seen[3] = {false, false, false};
    int64_t span[2] = {0, 0};
    int offsets = 0, n;
    l2l__entry e;
    memset(&e, 0, sizeof e);
    e.name = name;
    l2l__scan_want(s, '{');
    for (n = 0; l2l__scan_next(s, '}', n); n++) {
        int key = l2l__scan_key(s, keys, seen);
        if (key == 0) e.dtype = l2l__parse_dtype(s);
        if (key == 1) e.rank = l2l__scan_integers(s, e.shape, 8);
        if (key == 2) offsets = l2l__scan_integers(s, span, 2);
    }
    if (n != 3 || offsets != 2)
        l2l__scan_fail(s, "dtype, shape and two data_offsets are needed, of", name);
    if (l2l__scan_ok(s)) l2l__entry_add(r, s, &e, span);
}

static bool l2l__reader_parse(l2l__reader *r, l2l__scan *s)
{
    int n;
    l2l__scan_want(s, '{');
    for (n = 0; l2l__scan_next(s, '}', n); n++) {
        const char *name = l2l__scan_string(s);
        l2l__scan_want(s, ':');
        if (strcmp(name, "__metadata__")) l2l__parse_entry(r, s, name);
        else l2l__parse_metadata(r, s);
    }
    return l2l__scan_end(s);
}

/* The tensors must cover the data without holes and without overlap, as the format's reference
   implementation demands. */
static bool l2l__reader_check(const l2l__reader *r)
{
    const l2l__entry *e = r->entries, *end = e + r->count;
    size_t at = r->first;
    for (; e < end; at = e++->end)
        if (e->begin != at)
            return l2l__bad(&r->file, L2L_ERROR_FORMAT, (int64_t)e->begin, "'%s' begins here, but "
                            "the tensor before it ends at byte %z", e->name, (int64_t)at);
    return at == r->file.bytes ||
           l2l__bad(&r->file, L2L_ERROR_FORMAT, (int64_t)at, "%z bytes that belong to no tensor",
                    (int64_t)(r->file.bytes - at));
}

/* Reads the header of a file, which then belongs to the reader. After an error there is nothing to
   close. */
static bool l2l__reader_open(l2l__file f, l2l__reader *r)
{
    l2l_context *c = f.context;
    uint64_t n = f.bytes < 8 ? 0 : l2l__get_bytes(f.data, 8, false);
    l2l__scan s;
    memset(r, 0, sizeof *r);
    r->context = c;
    r->label = f.label;
    r->file = f;
    if (n < 2 || n > f.bytes - 8 || n > 100000000) { /* the reference's own limit */
        l2l__bad(&f, L2L_ERROR_FORMAT, 0, "not a safetensors file: %z bytes, of them %z of header",
                 (int64_t)f.bytes, (int64_t)n);
    } else {
        r->first = 8 + (size_t)n;            /* a tensor takes at least 51 characters of header   */
        r->capacity = n / 48 < L2L__MOST_ENTRIES ? (int)(n / 48) + 1 : (int)L2L__MOST_ENTRIES;
        r->entries = (l2l__entry *)l2l__allocate_array(c, r->capacity, sizeof *r->entries);
        s = l2l__scan_of(&r->file, 8, (size_t)n, false);
        r->header = s.text;
        if (!c->status && l2l__reader_parse(r, &s) && l2l__reader_check(r)) return true;
    }
    l2l__reader_close(r);
    return false;
}

#ifndef L2LADV_NO_STDIO
static bool l2l__reader_open_file(l2l_context *c, const char *path, l2l__reader *r)
{
    return l2l__reader_open(l2l__file_open(c, path), r);
}
#endif

/* Number i of a tensor of real numbers, which whoever asks has made sure of. */
static double l2l__entry_real(const l2l__reader *r, const l2l__entry *e, int64_t i)
{
    int size = l2l__dtypes[e->dtype].size;
    uint64_t bits = l2l__get_bytes(r->file.data + e->begin + (size_t)(i * size), size, false);
    return e->dtype == L2L__BF16 ? l2l__real_of(bits << 16, 4) : l2l__real_of(bits, size);
}

static bool l2l__reader_reals(const l2l__reader *r, const l2l__entry *e, l2l_real *out)
{
    int64_t i;
    for (i = 0; i < e->count; i++) out[i] = (l2l_real)l2l__entry_real(r, e, i);
    return true;
}

L2L__MAYBE_UNUSED
static bool l2l__reader_doubles(const l2l__reader *r, const l2l__entry *e, double *out)
{
    int64_t i;
    for (i = 0; i < e->count; i++) out[i] = l2l__entry_real(r, e, i);
    return true;
}

/* "2, 3" for a shape 2x3. */
static const char *l2l__shape_text(char text[200], const int64_t *shape, int rank)
{
    size_t n = 0;
    int i;
    for (text[0] = 0, i = 0; i < rank; i++)
        n = l2l__append(text, 200, n, i ? ", %z" : "%z", shape[i]);
    return text;
}

/* Finite numbers out of a tensor of this name and shape, or an error that says what is wrong. */
static bool l2l__reader_demand(const l2l__reader *r, const char *name, int rank,
                               const int64_t *shape, l2l_real *out)
{
    const l2l__entry *e = l2l__reader_find(r, name);
    char a[200], b[200];
    int64_t i;
    l2l__shape_text(b, shape, rank);
    if (!e)
        return l2l__bad(&r->file, L2L_ERROR_MISMATCH, -1, "there is no tensor '%s' of shape [%s]",
                        name, b);
    if (e->rank != rank || memcmp(e->shape, shape, (size_t)rank * sizeof *shape))
        return l2l__bad(&r->file, L2L_ERROR_SHAPE, (int64_t)e->begin, "'%s' has the shape [%s] in "
                        "the file and [%s] here", name, l2l__shape_text(a, e->shape, e->rank), b);
    if (e->dtype > L2L__BF16)
        return l2l__bad(&r->file, L2L_ERROR_FORMAT, (int64_t)e->begin, "unsupported type %s, not "
                        "F32, F64, F16 or BF16, of '%s'", l2l__dtypes[e->dtype].name, name);
    l2l__reader_reals(r, e, out);
    for (i = 0; i < e->count; i++)
        if (!(fabs((double)out[i]) <= DBL_MAX))
            return l2l__bad(&r->file, L2L_ERROR_FORMAT, (int64_t)e->begin +
                            i * l2l__dtypes[e->dtype].size, "not a finite number, in '%s'", name);
    return true;
}

/* -- settings in the metadata ------------------------------------------------------------------ */

typedef struct l2l__field {
    const char *key;
    double low, high;
    bool whole;
    const char *const *names;                /* of the numbers 0..high, or NULL                   */
} l2l__field;

/* A value as it stands in a file; nine digits tell any two floats apart. */
static const char *l2l__field_text(const l2l__field *f, double v, char text[40])
{
    if (f->names) return f->names[(int)v];
    l2l__number(text, v, 9);
    return text;
}

/* False where the text is not a value of this field. */
static bool l2l__field_parse(const l2l__field *f, const char *text, double *v)
{
    if (f->names) {
        for (*v = 0; *v <= f->high; ++*v)
            if (!strcmp(text, f->names[(int)*v])) return true;
        return false;
    }
    return l2l__scan_real(&text, v) && !*text && *v >= f->low && *v <= f->high &&
           !(f->whole && *v - floor(*v) > 0);
}

/* The values of n fields; those that the file does not have stay as they are. */
static bool l2l__fields_read(const l2l__reader *r, const l2l__field *f, int n, double *v)
{
    for (; n > 0; n--, f++, v++) {
        const char *text = l2l__reader_metadata(r, f->key);
        if (text && !l2l__field_parse(f, text, v))
            return l2l__bad(&r->file, L2L_ERROR_FORMAT, 8, "metadata %s is '%s': expected a known "
                            "name or a %snumber from %g to %g", f->key, text,
                            f->whole ? "whole " : "", f->low, f->high);
    }
    return true;
}

/* Whether the fields that the file has are those here, however their numbers are written. */
static bool l2l__fields_match(const l2l__reader *r, const l2l__field *f, int n, const double *v)
{
    char mine[40];
    double x;
    for (; n > 0; n--, f++, v++) {
        const char *text = l2l__reader_metadata(r, f->key);
        if (text && (!l2l__field_parse(f, text, &x) || fabs(x - *v) > 1e-8 * fabs(*v)))
            return l2l__bad(&r->file, L2L_ERROR_MISMATCH, 8, "%s is %s here, but in the file %s",
                            f->key, l2l__field_text(f, *v, mine), text);
    }
    return true;
}

/* "a,b,c" as n <= 4 numbers: n; 0 where the key is missing, -1 after an error. */
static int l2l__reader_list(const l2l__reader *r, const char *key, int n, double v[4])
{
    const char *text = l2l__reader_metadata(r, key), *s = text;
    int i;
    if (!text) return 0;
    for (i = 0; i < n && i < 4; i++, s++)
        if (!l2l__scan_real(&s, v + i) || *s != (i + 1 < n ? ',' : 0)) break;
    if (i == n) return n;
    l2l__bad(&r->file, L2L_ERROR_FORMAT, 8, "metadata %s is '%s', not one number for each of %d "
             "channels, with commas between", key, text, n);
    return -1;
}

/* -- writing safetensors ----------------------------------------------------------------------- */

/* All metadata first, then the tensors, whose values are copied. A writer that is NULL, or whose
   context has an error, takes everything and does nothing: only the finish needs a check. */
typedef struct l2l__writer {
    l2l_context *context;
    char *text;                              /* the header, in front of it room for its length    */
    size_t length, capacity;
    int pairs, tensors;
    l2l__piece head, *first, **last;
    int64_t offset;
} l2l__writer;

static void l2l__writer_put(l2l__writer *w, const char *s, size_t n)
{
    if (w->context->status) return;
    if (n > w->capacity - w->length) {
        size_t capacity = 2 * (w->capacity + n) + 1024;
        char *text = (char *)l2l__allocate(w->context, capacity);
        if (!text) return;
        if (w->length) memcpy(text, w->text, w->length);
        l2l_free(w->context, w->text);
        w->text = text;
        w->capacity = capacity;
    }
    if (n) memcpy(w->text + w->length, s, n);
    w->length += n;
}

static void l2l__writer_text(l2l__writer *w, const char *s) { l2l__writer_put(w, s, strlen(s)); }

/* A JSON string. */
static void l2l__writer_quote(l2l__writer *w, const char *s)
{
    static const char hex[] = "0123456789abcdef";
    char escape[] = "\\u0000";
    l2l__writer_put(w, "\"", 1);
    for (; *s; s++) {
        unsigned char u = (unsigned char)*s;
        escape[4] = hex[u >> 4];
        escape[5] = hex[u & 15];
        if (u < 32 || u == '"' || u == '\\') l2l__writer_put(w, escape, 6);
        else l2l__writer_put(w, s, 1);
    }
    l2l__writer_put(w, "\"", 1);
}

static l2l__writer *l2l__writer_create(l2l_context *c)
{
    l2l__writer *w = (l2l__writer *)l2l__allocate(c, sizeof *w);
    if (!w) return NULL;
    w->context = c;
    w->last = &w->first;
    l2l__writer_text(w, "        {\"__metadata__\":{");
    return w;
}

static void l2l__writer_metadata(l2l__writer *w, const char *key, const char *text)
{
    if (!w) return;
    l2l__writer_text(w, w->pairs++ ? "," : "");
    l2l__writer_quote(w, key);
    l2l__writer_text(w, ":");
    l2l__writer_quote(w, text);
}

static void l2l__writer_fields(l2l__writer *w, const l2l__field *f, int n, const double *v)
{
    char text[40];
    l2l__writer_metadata(w, "format", "pt");
    l2l__writer_metadata(w, "l2ladv.version", L2LADV_VERSION);
    for (; n > 0; n--, f++, v++) l2l__writer_metadata(w, f->key, l2l__field_text(f, *v, text));
}

static void l2l__writer_add(l2l__writer *w, const char *name, l2l__dtype dtype, int rank,
                            const int64_t *shape, const void *values)
{
    int size = l2l__dtypes[dtype].size;
    char text[360], list[200];
    int64_t count, begin;
    unsigned char *data;
    l2l__piece *p = NULL;
    if (!w) return;
    if (!l2l__product(shape, rank, &count))
        l2l__fail(w->context, L2L_ERROR_SHAPE, "%s: a shape that no file can hold", name);
    if (!(p = l2l__piece_create(w->context, count, size, &data))) return;
    l2l__put_values(data, values, count, size);
    *w->last = p;
    w->last = &p->next;
    begin = w->offset;
    w->offset += (int64_t)p->bytes;
    l2l__writer_text(w, w->tensors++ ? "," : "},");
    l2l__writer_quote(w, name);
    l2l__format(text, sizeof text, ":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%z,%z]}",
                l2l__dtypes[dtype].name, l2l__shape_text(list, shape, rank), begin, w->offset);
    l2l__writer_text(w, text);
}

/* F32, or F64 in the double build. */
static void l2l__writer_reals(l2l__writer *w, const char *name, int rank, const int64_t *shape,
                              const l2l_real *values)
{
    l2l__writer_add(w, name, sizeof *values == 4 ? L2L__F32 : L2L__F64, rank, shape, values);
}

L2L__MAYBE_UNUSED
static void l2l__writer_doubles(l2l__writer *w, const char *name, int rank, const int64_t *shape,
                                const double *values)
{
    l2l__writer_add(w, name, L2L__F64, rank, shape, values);
}

/* The whole file: the header, with spaces up to a multiple of 8 bytes, before the tensors' pieces;
   NULL after an error. */
static const l2l__piece *l2l__writer_pieces(l2l__writer *w)
{
    uint64_t n;
    if (!w) return NULL;
    l2l__writer_text(w, w->tensors ? "}" : "}}");
    l2l__writer_put(w, "        ", (8 - w->length % 8) % 8);
    if (w->context->status) return NULL;
    n = w->length - 8;
    l2l__put_values((unsigned char *)w->text, &n, 1, 8);
    w->head.data = (const unsigned char *)w->text;
    w->head.bytes = w->length;
    w->head.next = w->first;
    return &w->head;
}

/* Frees the writer and hands `ok` on. */
static bool l2l__writer_end(l2l__writer *w, bool ok)
{
    l2l__piece *p, *next;
    if (!w) return false;
    for (p = w->first; p; p = next) {
        next = p->next;
        l2l_free(w->context, p);
    }
    l2l_free(w->context, w->text);
    l2l_free(w->context, w);
    return ok;
}

/* *data is to be given back with l2l_free. */
static bool l2l__writer_finish_memory(l2l__writer *w, void **data, size_t *bytes)
{
    const l2l__piece *p = l2l__writer_pieces(w);
    size_t n = p ? p->bytes + (size_t)w->offset : 0;
    unsigned char *at = p ? (unsigned char *)l2l__allocate(w->context, n) : NULL;
    if (!at) return l2l__writer_end(w, false);
    *data = at;
    *bytes = n;
    for (; p; at += p->bytes, p = p->next) memcpy(at, p->data, p->bytes);
    return l2l__writer_end(w, true);
}

#ifndef L2LADV_NO_STDIO
static bool l2l__writer_finish_file(l2l__writer *w, const char *path)
{
    const l2l__piece *p = l2l__writer_pieces(w);
    return l2l__writer_end(w, p && l2l__file_write(w->context, path, p));
}
#endif

/* -- models ------------------------------------------------------------------------------------ */

enum { L2L__MODEL_FIELDS = 6, L2L__MODEL_MATCH = 2 };
static const l2l__field l2l__model_fields[L2L__MODEL_FIELDS] = {
    {"classes", 1, 1 << 20, true, NULL}, {"width", 1e-3, 1000, false, NULL},
    {"depth", 0, 10000, true, NULL}, {"channels", 1, 1 << 12, true, NULL},
    {"height", 1, 1 << 14, true, NULL}, {"image_width", 1, 1 << 14, true, NULL}};

static void l2l__model_values(const l2l_model_options *o, double v[L2L__MODEL_FIELDS])
{
    v[0] = o->classes;
    v[1] = o->width_multiplier;
    v[2] = o->depth;
    v[3] = o->channels;
    v[4] = o->height;
    v[5] = o->width;
}

/* The shape in PyTorch's layout: KxCxkhxkw, Kx(C*H*W) or K of a khxkwxCxK tensor. */
static void l2l__file_shape(const l2l_parameter *p, int64_t shape[4])
{
    l2l_shape s = p->value->shape;
    shape[0] = s.c;
    shape[1] = p->rank == 4 ? s.w : (int64_t)s.n * s.h * s.w;
    shape[2] = s.n;
    shape[3] = s.h;
}

/* Where `end` begins at the end of the text, or NULL. */
static const char *l2l__ending(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end) ? text + n - m : NULL;
}

static void l2l__write_list(l2l__writer *w, const char *key, const double *v, int n)
{
    char text[160];
    size_t at = 0;
    int i;
    for (i = 0; i < n; i++) {
        if (i) text[at++] = ',';
        at += l2l__number(text + at, v[i], 9);
    }
    if (n > 0) l2l__writer_metadata(w, key, text);
}

/* A parameter in the file's layout. Beside running statistics PyTorch counts batches, and wants
   that count to be there. */
static void l2l__write_parameter(l2l__writer *w, const l2l_model *m, int i)
{
    static const int64_t none = 0;
    l2l_parameter p = l2l_model_parameter(m, i);
    const char *statistic = l2l__ending(p.name, "running_var");
    l2l_real *x = (l2l_real *)l2l__arena_array(w->context, l2l_count(p.value->shape), sizeof *x);
    char name[160];                          /* names of parameters have at most 95 characters    */
    int64_t shape[4];
    l2l__file_shape(&p, shape);
    if (x && l2l_parameter_get(m, i, x)) l2l__writer_reals(w, p.name, p.rank, shape, x);
    l2l__arena_drop(w->context, x);
    if (!statistic) return;
    l2l__format(name, sizeof name, "%s", p.name);
    l2l__format(name + (statistic - p.name), 32, "num_batches_tracked");
    l2l__writer_add(w, name, L2L__I64, 0, NULL, &none);
}

static l2l__writer *l2l__model_writer(const l2l_model *m)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *o = l2l_model_info(m);
    double v[L2L__MODEL_FIELDS];
    l2l__writer *w;
    int i, n = l2l_model_parameters(m);
    if (n < 1) l2l__fail(c, L2L_ERROR_UNSUPPORTED, "this model has no parameters to save");
    if (!(w = l2l__writer_create(c))) return NULL;
    l2l__model_values(o, v);
    l2l__writer_metadata(w, "arch", o->arch);
    l2l__writer_fields(w, l2l__model_fields, L2L__MODEL_FIELDS, v);
    l2l__write_list(w, "mean", o->mean, o->normalise);
    l2l__write_list(w, "deviation", o->deviation, o->normalise);
    for (i = 0; i < n && !c->status; i++) l2l__write_parameter(w, m, i);
    return w;
}

/* *n numbers in each list, one per channel, or 0 when the file has none. */
static bool l2l__reader_normalisation(const l2l__reader *r, int channels, double mean[4],
                                      double deviation[4], int *n)
{
    int i;
    *n = l2l__reader_list(r, "mean", channels, mean);
    if (*n < 0 || l2l__reader_list(r, "deviation", channels, deviation) != *n)
        return l2l__bad(&r->file, L2L_ERROR_FORMAT, 8, "metadata mean needs deviation");
    for (i = 0; i < *n; i++)
        if (!(deviation[i] > 0))
            return l2l__bad(&r->file, L2L_ERROR_FORMAT, 8, "metadata deviation: %g is not above 0",
                            deviation[i]);
    return true;
}

/* First everything is checked (`write` false), then everything is written. */
static bool l2l__model_pass(l2l_model *m, const l2l__reader *r, bool write)
{
    int i, n = l2l_model_parameters(m);
    bool ok = true;
    for (i = 0; i < n && ok; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        int64_t shape[4], count = l2l_count(p.value->shape);
        l2l_real *x = (l2l_real *)l2l__arena_array(r->context, count, sizeof *x);
        l2l__file_shape(&p, shape);
        ok = x && l2l__reader_demand(r, p.name, p.rank, shape, x) &&
             (!write || l2l_parameter_set(m, i, x));
        l2l__arena_drop(r->context, x);
    }
    return ok;
}

static bool l2l__model_take(l2l_model *m, const l2l__reader *r, int *extra)
{
    const l2l_model_options *o = l2l_model_info(m);
    const char *arch = l2l__reader_metadata(r, "arch");
    double v[L2L__MODEL_FIELDS], mean[4], deviation[4];
    int normalise = 0, i, n = l2l_model_parameters(m);
    if (n < 1) return l2l__bad(&r->file, L2L_ERROR_UNSUPPORTED, -1, "a model without parameters");
    if (arch && strcmp(arch, o->arch))
        return l2l__bad(&r->file, L2L_ERROR_MISMATCH, 8, "arch is %s here, but in the file %s",
                        o->arch, arch);
    l2l__model_values(o, v);
    if (!l2l__fields_match(r, l2l__model_fields, L2L__MODEL_MATCH, v) ||
        !l2l__reader_normalisation(r, o->channels, mean, deviation, &normalise) ||
        !l2l__model_pass(m, r, false) || !l2l__model_pass(m, r, true))
        return false;
    if (normalise) l2l__model_set_normalisation(m, normalise, mean, deviation);
    for (*extra = -n, i = 0; i < r->count; i++)
        *extra += !l2l__ending(r->entries[i].name, "num_batches_tracked");
    return true;
}

static bool l2l__model_load(l2l_model *m, l2l__file f, int *extra)
{
    l2l__reader r;
    bool ok = l2l__reader_open(f, &r) && l2l__model_take(m, &r, extra);
    l2l__reader_close(&r);
    return ok;
}

L2LADVDEF bool l2l_model_load_memory(l2l_model *m, const void *data, size_t bytes, int *extra)
{
    return l2l__model_load(m, l2l__file_of(l2l_model_context(m), "memory", data, bytes), extra);
}

L2LADVDEF bool l2l_model_save_memory(const l2l_model *m, void **data, size_t *bytes)
{
    return l2l__writer_finish_memory(l2l__model_writer(m), data, bytes);
}

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_model_load(l2l_model *m, const char *path, int *extra)
{
    return l2l__model_load(m, l2l__file_open(l2l_model_context(m), path), extra);
}

L2LADVDEF bool l2l_model_save(const l2l_model *m, const char *path)
{
    return l2l__writer_finish_file(l2l__model_writer(m), path);
}

static bool l2l__model_options_of(const l2l__reader *r, l2l_model_options *o)
{
    const char *arch = l2l__reader_metadata(r, "arch");
    double v[L2L__MODEL_FIELDS];
    if (!arch)
        return l2l__bad(&r->file, L2L_ERROR_FORMAT, 8, "there is no metadata 'arch': create the "
                        "model and use l2l_model_load");
    *o = l2l_model_default(arch);
    if (!o->forward)
        return l2l__bad(&r->file, L2L_ERROR_UNSUPPORTED, 8, "an architecture that is not known "
                        "here (create the model and use l2l_model_load): '%s'", arch);
    l2l__model_values(o, v);
    if (!l2l__fields_read(r, l2l__model_fields, L2L__MODEL_FIELDS, v)) return false;
    o->classes = (int)v[0];
    o->width_multiplier = v[1];
    o->depth = (int)v[2];
    o->channels = (int)v[3];
    o->height = (int)v[4];
    o->width = (int)v[5];
    return l2l__reader_normalisation(r, o->channels, o->mean, o->deviation, &o->normalise);
}

L2LADVDEF l2l_model *l2l_model_open(l2l_context *c, const char *path)
{
    l2l_model_options o;
    l2l__reader r;
    l2l_model *m = NULL;
    int extra;
    if (l2l__reader_open_file(c, path, &r) && l2l__model_options_of(&r, &o))
        m = l2l_model_create(c, &o);
    if (m && !l2l__model_take(m, &r, &extra)) {
        l2l_model_free(m);
        m = NULL;
    }
    l2l__reader_close(&r);
    return m;
}
#endif

/* -- maximizers -------------------------------------------------------------------------------- */

static const char *const l2l__phi_cells[] = {"lstm", "rnn"};
static const char *const l2l__phi_inputs[] = {"sign", "l1", "linf", "log", "raw"};
static const char *const l2l__phi_outputs[] = {"tanh", "raw"};
enum { L2L__PHI_FIELDS = 8, L2L__PHI_MATCH = 5, L2L__PHI_TRAINED = 6, L2L__PHI_PARTS = 5 };
static const l2l__field l2l__phi_fields[L2L__PHI_FIELDS] = {
    {"cell", 0, 1, true, l2l__phi_cells}, {"hidden", 1, L2L__MAX_HIDDEN, true, NULL},
    {"input", 0, 4, true, l2l__phi_inputs}, {"output", 0, 1, true, l2l__phi_outputs},
    {"scale", -DBL_MAX, DBL_MAX, false, NULL}, {"second_order", 0, 1, true, NULL},
    {"T", 0, INT_MAX, true, NULL}, {"epsilon", 0, DBL_MAX, false, NULL}};

static void l2l__phi_values(const l2l_learned_options *o, double v[L2L__PHI_FIELDS])
{
    v[0] = (double)o->cell;
    v[1] = o->hidden;
    v[2] = (double)o->input;
    v[3] = o->raw_output;
    v[4] = o->scale;
    v[5] = o->second_order;
    v[6] = v[7] = 0;
}

/* The tensors that phi's flat array is cut into, in its order; those of count 0 are not there. */
typedef struct l2l__part {
    const char *name;
    int rank;
    int64_t shape[2], count;
} l2l__part;

static void l2l__phi_parts(const l2l_learned_options *o, l2l__part parts[L2L__PHI_PARTS])
{
    static const char *const names[] = {"cell.weight_ih", "cell.weight_hh", "cell.bias_ih",
                                        "out.weight", "out.bias"};
    int64_t H = o->hidden, rows = o->cell == L2L_LSTM ? 4 * H : H;
    int i;
    for (i = 0; i < L2L__PHI_PARTS; i++) {
        l2l__part *p = parts + i;
        p->name = names[i];
        p->rank = i == 2 || i == 4 ? 1 : 2;
        p->shape[0] = i < 3 ? rows : 1;
        p->shape[1] = p->rank == 1 ? 1 : i > 0 ? H : o->input == L2L_INPUT_LOG ? 2 : 1;
        p->count = p->rank == 1 && !o->bias ? 0 : p->shape[0] * p->shape[1];
    }
}

static l2l__writer *l2l__phi_writer(const l2l_learned *m)
{
    const l2l_real *values = m->phi;
    l2l__part parts[L2L__PHI_PARTS], *p = parts;
    double v[L2L__PHI_FIELDS];
    l2l__writer *w = l2l__writer_create(m->context);
    int T = 0;
    l2l__phi_values(&m->options, v);
    l2l_learned_trained_with(m, &T, &v[7]);
    v[6] = T;
    l2l__writer_fields(w, l2l__phi_fields, L2L__PHI_FIELDS, v);
    for (l2l__phi_parts(&m->options, parts); p < parts + L2L__PHI_PARTS; values += p++->count)
        if (p->count) l2l__writer_reals(w, p->name, p->rank, p->shape, values);
    return w;
}

/* phi from the file, all of it; `more` has the same room. PyTorch's cells have a second bias, which
   ours keep in the first. */
static bool l2l__phi_read(const l2l__reader *r, const l2l_learned_options *o, l2l_real *x,
                          l2l_real *more)
{
    static const char hh[] = "cell.bias_hh";
    l2l__part parts[L2L__PHI_PARTS], *p = parts;
    int64_t k;
    for (l2l__phi_parts(o, parts); p < parts + L2L__PHI_PARTS; x += p++->count) {
        if (p->rank == 1 && (l2l__reader_find(r, p->name) != NULL) != o->bias)
            return l2l__bad(&r->file, L2L_ERROR_MISMATCH, -1, "bias is %s here, but not in the "
                            "file: '%s'", o->bias ? "on" : "off", p->name);
        if (!p->count) continue;
        if (!l2l__reader_demand(r, p->name, p->rank, p->shape, x)) return false;
        if (p != parts + 2 || !l2l__reader_find(r, hh)) continue;
        if (!l2l__reader_demand(r, hh, p->rank, p->shape, more)) return false;
        for (k = 0; k < p->count; k++) x[k] += more[k];
    }
    return true;
}

static bool l2l__phi_take(l2l_learned *m, const l2l__reader *r)
{
    double v[L2L__PHI_FIELDS];
    l2l_real *x;
    bool ok;
    l2l__phi_values(&m->options, v);
    if (!l2l__fields_match(r, l2l__phi_fields, L2L__PHI_MATCH, v) ||
        !l2l__fields_read(r, l2l__phi_fields + L2L__PHI_TRAINED, 2, v + L2L__PHI_TRAINED))
        return false;
    x = (l2l_real *)l2l__arena_array(r->context, 2 * (int64_t)m->size, sizeof *x);
    ok = x && l2l__phi_read(r, &m->options, x, x + m->size);
    if (ok) {
        memcpy(m->phi, x, (size_t)m->size * sizeof *x);
        l2l__learned_set_trained_with(m, (int)v[6], v[7]);
    }
    l2l__arena_drop(r->context, x);
    return ok;
}

static bool l2l__phi_load(l2l_learned *m, l2l__file f)
{
    l2l__reader r;
    bool ok = l2l__reader_open(f, &r) && l2l__phi_take(m, &r);
    l2l__reader_close(&r);
    return ok;
}

L2LADVDEF bool l2l_learned_load_memory(l2l_learned *m, const void *data, size_t bytes)
{
    return l2l__phi_load(m, l2l__file_of(m->context, "memory", data, bytes));
}

L2LADVDEF bool l2l_learned_save_memory(const l2l_learned *m, void **data, size_t *bytes)
{
    return l2l__writer_finish_memory(l2l__phi_writer(m), data, bytes);
}

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_learned_load(l2l_learned *m, const char *path)
{
    return l2l__phi_load(m, l2l__file_open(m->context, path));
}

L2LADVDEF bool l2l_learned_save(const l2l_learned *m, const char *path)
{
    return l2l__writer_finish_file(l2l__phi_writer(m), path);
}

static bool l2l__phi_options_of(const l2l__reader *r, l2l_learned_options *o)
{
    double v[L2L__PHI_FIELDS];
    l2l__phi_values(o, v);
    if (!l2l__reader_metadata(r, "cell"))
        return l2l__bad(&r->file, L2L_ERROR_FORMAT, 8, "there is no metadata 'cell': create the "
                        "maximizer and use l2l_learned_load");
    if (!l2l__fields_read(r, l2l__phi_fields, L2L__PHI_FIELDS, v)) return false;
    o->cell = (l2l_cell)(int)v[0];
    o->hidden = (int)v[1];
    o->input = (l2l_grad_input)(int)v[2];
    o->raw_output = v[3] > 0;
    o->scale = v[4];
    o->second_order = v[5] > 0;
    o->bias = l2l__reader_find(r, "cell.bias_ih") != NULL;
    return true;
}

L2LADVDEF l2l_learned *l2l_learned_open(l2l_context *c, const char *path)
{
    l2l_learned_options o = l2l_learned_default();
    l2l__reader r;
    l2l_learned *m = NULL;
    if (l2l__reader_open_file(c, path, &r) && l2l__phi_options_of(&r, &o))
        m = l2l_learned_create(c, &o);
    if (m && !l2l__phi_take(m, &r)) {
        l2l_learned_free(m);
        m = NULL;
    }
    l2l__reader_close(&r);
    return m;
}
#endif

/* -- IDX --------------------------------------------------------------------------------------- */

/* The sizes of rank 1 (labels), 3 or 4 (images: NxHxW or NxCxHxW), checked against the length. */
static bool l2l__idx_sizes(const l2l__file *f, bool images, int64_t dims[4], size_t *first)
{
    const unsigned char *p = f->data;
    int64_t total, rest;
    int rank, i;
    if (f->bytes >= 2 && p[0] == 0x1F && p[1] == 0x8B)
        return l2l__bad(f, L2L_ERROR_FORMAT, 0, "this is a gzip file: unpack it first (gunzip)");
    if (f->bytes < 4 || p[0] || p[1] || p[2] != 8 || !(images ? p[3] == 3 || p[3] == 4 : p[3] == 1))
        return l2l__bad(f, L2L_ERROR_FORMAT, 0, "not an IDX file of %s: expected the bytes 0 0 8 "
                        "%s", images ? "images" : "labels", images ? "3 or 4" : "1");
    rank = p[3];
    *first = 4 + 4 * (size_t)rank;
    if (f->bytes < *first)
        return l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)f->bytes, "truncated in the header");
    for (i = 0; i < 4; i++) dims[i] = 1;
    for (i = 0; i < rank; i++) {
        int64_t v = (int64_t)l2l__get_bytes(p + 4 + 4 * i, 4, true);
        if (v < 1 || v > INT_MAX)
            return l2l__bad(f, L2L_ERROR_FORMAT, 4 + 4 * i, "size %d is %z, not 1 to %d", i, v,
                            INT_MAX);
        dims[rank == 3 && i ? i + 1 : i] = v;
    }
    rest = (int64_t)(f->bytes - *first);
    if (!l2l__product(dims, 4, &total)) total = INT64_MAX;
    return total == rest ||
           l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)*first + (total < rest ? total : rest),
                    "%s: the header announces %z bytes of data, the file has %z",
                    total > rest ? "truncated" : "too long", total, rest);
}

/* The files belong to the data set then; they are closed after an error. */
static bool l2l__idx_open(l2l__file images, l2l__file labels, int classes, l2l_dataset *d)
{
    l2l_context *c = images.context;
    int64_t dims[4] = {0, 0, 0, 0}, n[4], i;
    size_t first = 0, offset = 0;
    l2l__images *s = l2l__images_create(c, 1, d);
    l2l__shard *p = s ? s->shards : NULL;
    if (!s) {
        l2l_free(c, images.owned);
        l2l_free(c, labels.owned);
        return false;
    }
    p->owned = images.owned;
    s->owned = labels.owned;
    if (l2l__idx_sizes(&images, true, dims, &first) &&
        l2l__idx_sizes(&labels, false, n, &offset)) {
        if (n[0] != dims[0])
            l2l__bad(&labels, L2L_ERROR_FORMAT, 4, "%z labels for %z images in %s", n[0], dims[0],
                     images.label);
        for (i = 0; i < n[0] && !c->status; i++)
            if (labels.data[offset + (size_t)i] >= classes)
                l2l__bad(&labels, L2L_ERROR_FORMAT, (int64_t)offset + i, "label %z is %d, not below"
                         " %d", i, (int)labels.data[offset + (size_t)i], classes);
        l2l__images_sizes(d, dims, classes);
        p->count = d->count;
        p->pixels = images.data + first;
        p->labels = labels.data + offset;
        p->step = (size_t)(dims[1] * dims[2] * dims[3]);
        p->label_step = 1;
    }
    return l2l__images_end(c, d);
}

L2LADVDEF bool l2l_dataset_idx_memory(l2l_context *c, const void *images, size_t image_bytes,
                                      const void *labels, size_t label_bytes, int classes,
                                      l2l_dataset *d)
{
    return l2l__idx_open(l2l__file_of(c, "images in memory", images, image_bytes),
                         l2l__file_of(c, "labels in memory", labels, label_bytes), classes, d);
}

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_dataset_idx(l2l_context *c, const char *images, const char *labels, int classes,
                               l2l_dataset *d)
{
    l2l__file f = l2l__file_open(c, images);
    return l2l__idx_open(f, l2l__file_open(c, labels), classes, d);
}
#endif

/* -- CIFAR-10 ---------------------------------------------------------------------------------- */

/* One more file, which belongs to the data set then. */
static void l2l__cifar10_add(l2l_dataset *d, l2l__shard *p, l2l__file f)
{
    static const int64_t dims[4] = {0, 3, 32, 32};
    const size_t record = 1 + 3 * 32 * 32;
    size_t n = f.bytes / record, i;
    int before = d->count;
    p->owned = f.owned;
    if (f.bytes % record || n < 1 || n > (size_t)(INT_MAX - before))
        l2l__bad(&f, L2L_ERROR_FORMAT, (int64_t)(n * record), "truncated, or not a file of CIFAR-10"
                 ": %z bytes are not a number of records of %d", (int64_t)f.bytes, (int)record);
    for (i = 0; i < n && !f.context->status; i++)
        if (f.data[i * record] > 9)
            l2l__bad(&f, L2L_ERROR_FORMAT, (int64_t)(i * record), "label %z is %d, not in 0..9",
                     (int64_t)i, (int)f.data[i * record]);
    if (f.context->status) return;
    l2l__images_sizes(d, dims, 10);
    p->count = (int)n;
    d->count = before + p->count;
    p->labels = f.data;
    p->pixels = f.data + 1;
    p->step = p->label_step = record;
}

L2LADVDEF bool l2l_dataset_cifar10_memory(l2l_context *c, const void *const *files,
                                          const size_t *bytes, int n, l2l_dataset *d)
{
    l2l__images *s = l2l__images_create(c, n, d);
    char label[40];
    int k;
    for (k = 0; k < n && !c->status; k++) {
        l2l__format(label, sizeof label, "file %d in memory", k);
        l2l__cifar10_add(d, s->shards + k, l2l__file_of(c, label, files[k], bytes[k]));
    }
    return l2l__images_end(c, d);
}

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_dataset_cifar10(l2l_context *c, const char *const *paths, int n, l2l_dataset *d)
{
    l2l__images *s = l2l__images_create(c, n, d);
    int k;
    for (k = 0; k < n && !c->status; k++) {
        l2l__file f = l2l__file_open(c, paths[k]);
        if (!c->status) l2l__cifar10_add(d, s->shards + k, f);
    }
    return l2l__images_end(c, d);
}
#endif

/* -- .npy -------------------------------------------------------------------------------------- */

/* The header's dictionary. type: "<f4" and the like, cut down to kinds and sizes that are known. */
static bool l2l__npy_header(l2l__scan *s, l2l_array *a, char type[4])
{
    static const char *const keys[3] = {"descr", "fortran_order", "shape"};
    static const char known[] = "f4 f8 b1 i1 i2 i4 i8 u1 u2 u4 u8";
    bool seen[3] = {false, false, false}, fortran = false;
    int n;
    l2l__scan_want(s, '{');
    for (n = 0; l2l__scan_next(s, '}', n); n++) {
        int key = l2l__scan_key(s, keys, seen);
        if (key == 0) {
            const char *t = l2l__scan_string(s);
            if (strlen(t) != 3 || !strchr("<>|", t[0]) || !strchr("fbiu", t[1]) ||
                !strstr(known, t + 1) ||
                (t[0] == '|' && t[2] != '1'))
                l2l__scan_fail(s, "unsupported descr (known: f4, f8, i1 to i8, u1 to u8, b1)", t);
            else memcpy(type, t, 4);
        }
        if (key == 1) {
            l2l__scan_take(s, 0);
            fortran = !strncmp(s->at, "True", 4);
            if (!fortran && strncmp(s->at, "False", 5))
                l2l__scan_fail(s, "expected True or False here", "");
            s->at += l2l__scan_ok(s) ? 5 - fortran : 0;
        }
        if (key == 2) a->rank = l2l__scan_integers(s, a->shape, 8);
    }
    if (n != 3) l2l__scan_fail(s, "descr, fortran_order and shape are all needed", "");
    if (fortran && a->rank > 1)
        l2l__scan_fail(s, "fortran_order is True: save it with numpy.ascontiguousarray", "");
    return l2l__scan_end(s);
}

/* The header, checked against the file's length; *first is where the values begin. */
static bool l2l__npy_open(const l2l__file *f, l2l_array *a, char type[4], size_t *first)
{
    const unsigned char *p = f->data;
    size_t start, n, size;
    l2l__scan s;
    bool ok;
    if (f->bytes < 12 || memcmp(p, "\x93NUMPY", 6) || p[6] < 1 || p[6] > 3 || p[7])
        return l2l__bad(f, L2L_ERROR_FORMAT, 0, "not a .npy file of version 1.0 to 3.0");
    start = p[6] == 1 ? 10 : 12;
    n = (size_t)l2l__get_bytes(p + 8, (int)start - 8, false);
    if (n > f->bytes - start)
        return l2l__bad(f, L2L_ERROR_FORMAT, 8, "a header of %z bytes in a file of %z", (int64_t)n,
                        (int64_t)f->bytes);
    s = l2l__scan_of(f, start, n, true);
    ok = s.text && l2l__npy_header(&s, a, type);
    l2l_free(f->context, s.text);
    if (!ok) return false;
    *first = start + n;
    n = f->bytes - *first;
    size = (size_t)(type[2] - '0');
    if (!l2l__product(a->shape, a->rank, &a->count))
        return l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)start, "a shape whose product is beyond "
                        "2^63-1");
    return (n % size == 0 && (uint64_t)a->count == n / size) ||
           l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)*first, "%z elements of %d bytes announced, %z "
                    "bytes of data", a->count, (int)size, (int64_t)n);
}

/* Bytes as an integer; false when that is not one of its type or does not fit int64_t. */
static bool l2l__npy_integer(char kind, int size, uint64_t u, int64_t *v)
{
    if (kind == 'i' && size < 8 && u >> (8 * size - 1)) u |= ~(uint64_t)0 << (8 * size);
    *v = (int64_t)u;
    return (kind != 'u' || *v >= 0) && (kind != 'b' || u < 2);
}

static bool l2l__npy_read(l2l__file f, l2l_array *a)
{
    l2l_context *c = f.context;
    char type[4] = "";
    size_t first = 0;
    int size;
    l2l_array b;
    int64_t i;
    memset(&b, 0, sizeof b);
    memset(a, 0, sizeof *a);
    if (!c->status && l2l__npy_open(&f, &b, type, &first)) {
        size = type[2] - '0';
        b.integer = type[1] != 'f';
        if (b.integer) b.integers = (int64_t *)l2l__allocate_array(c, b.count, sizeof *b.integers);
        else b.reals = (l2l_real *)l2l__allocate_array(c, b.count, sizeof *b.reals);
        for (i = 0; i < b.count && !c->status; i++) {
            size_t at = first + (size_t)i * (size_t)size;
            uint64_t u = l2l__get_bytes(f.data + at, size, type[0] == '>');
            if (!b.integer) b.reals[i] = (l2l_real)l2l__real_of(u, size);
            else if (!l2l__npy_integer(type[1], size, u, b.integers + i))
                l2l__bad(&f, L2L_ERROR_FORMAT, (int64_t)at, "element %z does not fit (u8: below "
                         "2^63, b1: 0 or 1)", i);
        }
    }
    l2l_free(c, f.owned);
    if (c->status) l2l_array_free(c, &b); else *a = b;
    return !c->status;
}

L2LADVDEF bool l2l_npy_load_memory(l2l_context *c, const void *data, size_t bytes, l2l_array *a)
{
    return l2l__npy_read(l2l__file_of(c, "memory", data, bytes), a);
}

L2LADVDEF void l2l_array_free(l2l_context *c, l2l_array *a)
{
    l2l_free(c, a->reals);
    l2l_free(c, a->integers);
    memset(a, 0, sizeof *a);
}

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_npy_load(l2l_context *c, const char *path, l2l_array *a)
{
    return l2l__npy_read(l2l__file_open(c, path), a);
}

static bool l2l__npy_save(l2l_context *c, const char *path, const char *descr, int size,
                          const void *values, const int64_t *shape, int rank)
{
    unsigned char *data, head[384];
    char text[320], list[200];
    size_t n, total;
    int64_t count;
    l2l__piece front, *back;
    bool ok;
    if (c->status) return false;
    if (rank < 0 || rank > 8 || !l2l__product(shape, rank, &count))
        return l2l__fail(c, L2L_ERROR_SHAPE, "%s: a shape that no file can hold", path);
    if (!(back = l2l__piece_create(c, count, size, &data))) return false;
    l2l__put_values(data, values, count, size);
    n = l2l__format(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (%s%s), }",
                    descr, l2l__shape_text(list, shape, rank), rank == 1 ? "," : "");
    total = (10 + n + 64) / 64 * 64;         /* the values are aligned to 64 bytes                */
    memset(head, ' ', total);
    memcpy(head, "\x93NUMPY\x01", 8);        /* the text's own zero ends the version, 1.0         */
    head[8] = (unsigned char)((total - 10) & 255);
    head[9] = (unsigned char)((total - 10) >> 8);
    memcpy(head + 10, text, n);
    head[total - 1] = '\n';
    front.data = head;
    front.bytes = total;
    front.next = back;
    ok = l2l__file_write(c, path, &front);
    l2l_free(c, back);
    return ok;
}

L2LADVDEF bool l2l_npy_save_reals(l2l_context *c, const char *path, const l2l_real *values,
                                  const int64_t *shape, int rank)
{
    return l2l__npy_save(c, path, sizeof *values == 4 ? "<f4" : "<f8", (int)sizeof *values, values,
                         shape, rank);
}

L2LADVDEF bool l2l_npy_save_integers(l2l_context *c, const char *path, const int64_t *values,
                                     const int64_t *shape, int rank)
{
    return l2l__npy_save(c, path, "<i8", 8, values, shape, rank);
}
#endif

/* -- shards: pairs of .npy, of which the images stay where they are ---------------------------- */

enum { L2L__NPY_HEAD = 12 + 65535 };         /* the longest header that is read                   */

/* A file of which no more than `most` bytes are read into memory, to be given back. */
static l2l__file l2l__source_open(l2l_context *c, const char *label, const l2l_source *s,
                                  int64_t most)
{
    l2l__file f = l2l__file_of(c, label, NULL, 0);
    size_t n = (size_t)(s->bytes < most ? s->bytes : most);
    const unsigned char *p;
    if (s->bytes < 0 || (uint64_t)s->bytes > SIZE_MAX / 2)
        l2l__bad(&f, L2L_ERROR_FORMAT, -1, "%z bytes: no file is so long here", s->bytes);
    if (!(f.owned = l2l__allocate(c, n))) return f;
    f.data = p = (const unsigned char *)f.owned;
    f.bytes = (size_t)s->bytes;
    if (!s->read_at(s->user, 0, f.owned, n))
        l2l__bad(&f, L2L_ERROR_FILE, 0, "cannot read %z bytes", (int64_t)n);
    else if (n >= 12 && l2l__get_bytes(p + 8, p[6] == 1 ? 2 : 4, false) > 65535)
        l2l__bad(&f, L2L_ERROR_FORMAT, 8, "a header of more than 65535 bytes");
    return f;
}

/* The header of a shard's images. The first shard says what size all have. */
static void l2l__shard_images(l2l_dataset *d, l2l__shard *p, const l2l__file *f)
{
    char type[4] = "", text[200];
    size_t first = 0;
    int64_t dims[4];
    l2l_array a;
    int i;
    memset(&a, 0, sizeof a);
    if (f->context->status || !l2l__npy_open(f, &a, type, &first)) return;
    if (a.rank == 3) a.shape[3] = 1;
    for (i = 0; i < 4 && a.shape[i] > 0 && a.shape[i] <= INT_MAX; i++) continue;
    dims[0] = i < 4 ? 0 : d->count + a.shape[0];
    dims[1] = a.shape[3]; dims[2] = a.shape[1]; dims[3] = a.shape[2];
    if (strcmp(type + 1, "u1") || (a.rank != 3 && a.rank != 4) || i < 4 || dims[0] > INT_MAX)
        l2l__bad(f, L2L_ERROR_FORMAT, 10, "expected images of u1 as (N, H, W, C) or (N, H, W), not "
                 "%s as (%s)", type + 1, l2l__shape_text(text, a.shape, a.rank));
    else if (d->count && (d->channels != dims[1] || d->height != dims[2] || d->width != dims[3]))
        l2l__bad(f, L2L_ERROR_FORMAT, 10, "images of %zx%zx%z (CxHxW) after some of %dx%dx%d",
                 dims[1], dims[2], dims[3], d->channels, d->height, d->width);
    else {
        l2l__images_sizes(d, dims, d->classes);
        p->count = (int)a.shape[0];
        p->first = (int64_t)first;
    }
}

static void l2l__shard_labels(const l2l__file *f, int n, int classes, int *out)
{
    char type[4] = "";
    size_t first = 0, at;
    l2l_array a;
    int64_t v = 0;
    int i, size;
    memset(&a, 0, sizeof a);
    if (f->context->status || !l2l__npy_open(f, &a, type, &first)) return;
    if (type[1] == 'f' || a.rank != 1 || a.count != n) {
        l2l__bad(f, L2L_ERROR_FORMAT, 10, "expected %d integers as (N), a label for each image", n);
        return;
    }
    for (size = type[2] - '0', i = 0; i < n && !f->context->status; i++, out++) {
        at = first + (size_t)i * (size_t)size;
        if (!l2l__npy_integer(type[1], size, l2l__get_bytes(f->data + at, size, type[0] == '>'),
                              &v) || v < 0 || v >= classes)
            l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)at, "label %d is not in 0..%d", i, classes - 1);
        *out = (int)v;
    }
}

/* The name of file k out of n of images and n of labels, in which `prefix` may be NULL. */
static const char *l2l__shard_name(char name[1024], const char *prefix, int k, int n)
{
    const char *what = k < n ? "images" : "labels";
    k %= n;
    if (!prefix) l2l__format(name, 1024, "%s of shard %d", what, k);
    else
        l2l__format(name, 1024, "%s-%d%d%d%d%d-%s.npy", prefix, k / 10000, k / 1000 % 10,
                    k / 100 % 10, k / 10 % 10, k % 10, what);
    return name;
}

static bool l2l__shards_open(l2l_context *c, const char *prefix, const l2l_source *images,
                             const l2l_source *labels, int n, int classes, l2l_dataset *d)
{
    l2l__images *s = l2l__images_create(c, n, d);
    char name[1024];
    int *y, k;
    for (k = 0; k < n && !c->status; k++) {
        l2l__file f = l2l__source_open(c, l2l__shard_name(name, prefix, k, n), images + k,
                                       L2L__NPY_HEAD);
        l2l__shard_images(d, s->shards + k, &f);
        l2l_free(c, f.owned);
        s->shards[k].source = images[k];
    }
    if (!c->status) s->owned = l2l__allocate_array(c, d->count, sizeof *y);
    if (!c->status)
        s->one = (unsigned char *)l2l__allocate(c, (size_t)d->channels * (size_t)d->height *
                                                   (size_t)d->width);
    y = s ? (int *)s->owned : NULL;
    for (k = 0; k < n && !c->status; y += s->shards[k++].count) {
        int m = s->shards[k].count;
        l2l__file f = l2l__source_open(c, l2l__shard_name(name, prefix, n + k, n), labels + k,
                                       L2L__NPY_HEAD + 8 * (int64_t)m);
        l2l__shard_labels(&f, m, classes, y);
        l2l_free(c, f.owned);
    }
    d->classes = classes;
    if (s) s->classes = (int *)s->owned;
    return l2l__images_end(c, d);
}

L2LADVDEF bool l2l_dataset_shards_source(l2l_context *c, const l2l_source *images,
                                         const l2l_source *labels, int n, int classes,
                                         l2l_dataset *d)
{
    return l2l__shards_open(c, NULL, images, labels, n, classes, d);
}

#ifndef L2LADV_NO_STDIO
static bool l2l__shards_read(void *user, int64_t offset, void *to, size_t bytes)
{
    return offset <= LONG_MAX && !fseek((FILE *)user, (long)offset, SEEK_SET) &&
           fread(to, 1, bytes, (FILE *)user) == bytes;
}

static void l2l__shards_release(l2l_dataset *d)
{
    l2l__images *s = (l2l__images *)d->self;
    int k;
    for (k = 0; k < s->n_shards; k++) fclose((FILE *)s->shards[k].source.user);
    l2l__images_release(d);
}

L2LADVDEF bool l2l_dataset_shards(l2l_context *c, const char *prefix, int classes, l2l_dataset *d)
{
    char name[1024];
    l2l_source *s;
    FILE *f;
    int n = 0, k;
    bool ok;
    memset(d, 0, sizeof *d);
    if (strlen(prefix) > 1000)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_dataset_shards: a prefix of %z characters",
                         (int64_t)strlen(prefix));
    while (n < 99999 && (f = fopen(l2l__shard_name(name, prefix, n, n + 1), "rb")) != NULL) {
        fclose(f);
        n++;
    }
    /* None: the error is that the first is not there. Labels without images, or a later shard: that
       the images between cannot be opened. */
    if (!n || (f = fopen(l2l__shard_name(name, prefix, n + n + 1, n + 1), "rb")) != NULL ||
        (f = fopen(l2l__shard_name(name, prefix, n + 1, n + 2), "rb")) != NULL) {
        if (n) fclose(f);
        n++;
    }
    if (!(s = (l2l_source *)l2l__allocate_array(c, 2 * n, sizeof *s))) return false;
    for (k = 0; k < 2 * n && !c->status; k++) {
        long end = 0;
        s[k].user = l2l__file_begin(c, l2l__shard_name(name, prefix, k, n), &end);
        s[k].bytes = end;
        s[k].read_at = l2l__shards_read;
    }
    ok = !c->status && l2l__shards_open(c, prefix, s, s + n, n, classes, d);
    for (k = ok ? n : 0; k < 2 * n; k++)
        if (s[k].user) fclose((FILE *)s[k].user);
    l2l_free(c, s);
    if (ok) d->release = l2l__shards_release;
    return ok;
}
#endif

/* -- training logs: JSON lines ----------------------------------------------------------------- */

#ifndef L2LADV_NO_STDIO
static bool l2l__log_append(l2l_trainer *t, const char *line, size_t n)
{
    FILE *f = fopen(t->log, "ab");
    bool ok = f && fwrite(line, 1, n, f) == n;
    if (f && fclose(f)) ok = false;
    t->log_bytes += (int64_t)n;
    return ok || l2l__fail(t->context, L2L_ERROR_FILE, "%s: cannot write the log", t->log);
}

/* A line for each step; the last one of an epoch has the epoch's figures too. */
static bool l2l__log_step(l2l_trainer *t)
{
    const l2l_progress *p = &t->progress;
    char line[640];
    size_t n;
    if (!t->log) return true;
    n = l2l__append(line, sizeof line, 0,
                    "{\"step\":%z,\"epoch\":%d,\"loss\":%g,\"accuracy\":%g,"
                    "\"epsilon\":%g,\"rate\":%g,\"gain\":%g,\"saturated\":%g",
                    p->step, p->epoch, p->loss, p->accuracy, p->epsilon,
                    p->rate * t->options.optimizer.rate, p->gain, p->saturated);
    if (p->epoch_ended)
        n = l2l__append(line, sizeof line, n,
                        ",\"epoch_loss\":%g,\"epoch_accuracy\":%g,"
                        "\"validation_natural\":%g,\"validation_robust\":%g,\"best\":%s",
                        p->epoch_loss, p->epoch_accuracy, p->validation_natural,
                        p->validation_robust, p->best ? "true" : "false");
    n = l2l__append(line, sizeof line, n, "}\n");
    return l2l__log_append(t, line, n);
}

/* A new training begins a new log; a resumed one cuts it to where the checkpoint was made. */
static bool l2l__log_begin(l2l_trainer *t)
{
    l2l__piece *p;
    unsigned char *data = NULL, *copy;
    size_t n = 0, keep = (size_t)t->log_bytes;
    bool ok;
    if (!t->log) return true;
    if (keep && !(data = l2l__file_read(t->context, t->log, &n))) return false;
    if (n < keep) {
        l2l_free(t->context, data);
        return l2l__fail(t->context, L2L_ERROR_MISMATCH,
                         "%s: the log has %z bytes, the checkpoint was "
                         "made at %z",
                         t->log, (int64_t)n, (int64_t)keep);
    }
    p = l2l__piece_create(t->context, (int64_t)keep, 1, &copy);
    if (p && keep) memcpy(copy, data, keep);
    ok = p && l2l__file_write(t->context, t->log, p);
    l2l_free(t->context, p);
    l2l_free(t->context, data);
    return ok;
}
#else
static bool l2l__log_step(l2l_trainer *t) { L2L__UNUSED(t); return true; }
static bool l2l__log_begin(l2l_trainer *t)
{
    return !t->log || l2l__fail(t->context, L2L_ERROR_UNSUPPORTED, "training: a log needs stdio");
}
#endif

/* -- checkpoints: everything that a training needs to go on with the same bits ----------------- */

#ifndef L2LADV_NO_STDIO

/* The settings that a checkpoint belongs to, one at a time: false after the last. */
static bool l2l__setting(const l2l_trainer *t, int i, const char **key, char text[64])
{
    const l2l_train_options *o = &t->options;
    const l2l_optimizer_options *a = &o->optimizer;
    const l2l_schedule *s = &o->schedule;
    const l2l_attack *v = &o->validation_attack;
    const l2l_model_options *m = &t->model->options;
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"width", t->model->options.width_multiplier},
        {"depth", (double)t->model->options.depth},
        {"classes", (double)t->model->options.classes},
        {"dropout", t->model->options.dropout},
        {"images", (double)t->data.count},
        {"epochs", (double)o->epochs},
        {"batch", (double)o->batch},
        {"micro_batch", (double)o->micro_batch},
        {"epsilon", o->epsilon},
        {"T", (double)o->T},
        {"step_size", o->step_size},
        {"epsilon_warm_up", o->epsilon_warm_up},
        {"start", (double)o->method.start},
        {"inner_mode", (double)o->inner_mode},
        {"augment padding", (double)o->augment.padding},
        {"augment flip", (double)o->augment.flip},
        {"validation", (double)o->validation},
        {"seed (low half)", (double)(o->seed & 0xffffffffu)},
        {"seed (high half)", (double)(o->seed >> 32)},
        {"optimizer", (double)a->kind},
        {"rate", a->rate},
        {"momentum", a->momentum},
        {"weight_decay", a->weight_decay},
        {"nesterov", (double)a->nesterov},
        {"beta1", a->beta1},
        {"beta2", a->beta2},
        {"adam epsilon", a->epsilon},
        {"clip", a->clip},
        {"schedule", (double)s->kind},
        {"warm_up", s->warm_up},
        {"factor", s->factor},
        {"final", s->final},
        {"milestones", l2l__digest(s->milestones, 8)},
        {"loss_weights", l2l__digest(t->w, o->T + 1)},
        {"channels", (double)m->channels},
        {"height", (double)m->height},
        {"image width", (double)m->width},
        {"normalise", (double)m->normalise},
        {"mean", l2l__digest(m->mean, 4)},
        {"deviation", l2l__digest(m->deviation, 4)},
        {"stop_on_plateau", (double)o->stop_on_plateau},
        {"validation steps", (double)v->steps},
        {"validation epsilon", v->epsilon},
        {"validation step_size", v->step_size},
        {"data (a sample)", t->data_digest}
    };
    int n = (int)(sizeof numbers / sizeof *numbers);
    const char *names[6], *texts[6];
    names[0] = "arch"; texts[0] = t->model->arch;
    names[1] = "method"; texts[1] = o->method.name;
    names[2] = "objective"; texts[2] = o->method.objective.name;
    names[3] = "maximizer"; texts[3] = o->method.maximizer.name;
    names[4] = "outer loss"; texts[4] = o->method.outer.name;
    names[5] = "validation attack"; texts[5] = v->name;
    if (i >= n + 6) return false;
    *key = i < 6 ? names[i] : numbers[i - 6].name;
    if (i < 6) l2l__format(text, 64, "%s", texts[i] ? texts[i] : "");
    else l2l__number(text, numbers[i - 6].value, 16);
    return true;
}

/* The numbers of the training's own state, in one array. */
enum { L2L__STATE = 16 };
static void l2l__state(l2l_trainer *t, double v[L2L__STATE], bool back)
{
    l2l_progress *p = &t->progress;
    memset(v, 0, back ? 0 : L2L__STATE * sizeof *v);
    if (!back) {
        v[0] = (double)t->step; v[1] = p->epoch; v[2] = (double)p->step_in_epoch;
        v[3] = t->epoch_loss; v[4] = t->epoch_right; v[5] = (double)t->epoch_seen;
        v[6] = t->best_score; v[7] = t->plateau; v[8] = (double)t->log_bytes;
        v[9] = (double)t->optimizer->steps; v[10] = p->validation_natural;
        v[11] = p->validation_robust;
        v[12] = t->has_good;
        return;
    }
    t->step = p->step = (int64_t)v[0]; p->epoch = (int)v[1]; p->step_in_epoch = (int64_t)v[2];
    t->epoch_loss = v[3]; t->epoch_right = v[4]; t->epoch_seen = (int64_t)v[5];
    t->best_score = v[6]; t->plateau = (int)v[7]; t->log_bytes = (int64_t)v[8];
    t->optimizer->steps = (int64_t)v[9];
    p->validation_natural = v[10];
    p->validation_robust = v[11];
    t->has_good = v[12] > 0;
}

/* Every array of the checkpoint by number: name, place and length; false after the last. */
static bool l2l__state_array(l2l_trainer *t, int i, char name[128], l2l_real **data, int64_t *n)
{
    l2l_model *m = t->model;
    int s = m->n_slots, which = i / s, j = i % s, k, trainable = 0;
    static const char *const kinds[] = {"theta", "first", "second", "best"};
    if (i == (t->best ? 4 : 3) * s) {
        l2l__format(name, 128, "good");
        for (*data = t->good, *n = 0, k = 0; k < t->n_theta; k++) *n += t->optimizer->sizes[k];
        return true;
    }
    if (which > 3 || (which == 3 && !t->best)) return false;
    for (k = 0; k < j; k++) trainable += m->slots[k]->trainable;
    l2l__format(name, 128, "%s/%s", kinds[which], m->slots[j]->name);
    *n = l2l_count(m->slots[j]->value.shape);
    if (which == 0) *data = m->slots[j]->value.data;
    else if (which == 3) *data = t->best->slots[j]->value.data;
    else if (!m->slots[j]->trainable) *data = NULL;
    else *data = which == 1 ? t->optimizer->first[trainable] : t->optimizer->second[trainable];
    return true;
}

static double *l2l__maximizer_state(l2l_trainer *t, int64_t *n)
{
    const l2l_maximizer *m = &t->options.method.maximizer;
    double *v;
    *n = m->pack ? m->pack(m->self, NULL) : 0;
    v = *n > 0 ? (double *)l2l__allocate_array(t->context, *n, sizeof *v) : NULL;
    if (v) m->pack(m->self, v);
    return v;
}

L2LADVDEF bool l2l_trainer_save(l2l_trainer *t, const char *path)
{
    l2l__writer *w = t ? l2l__writer_create(t->context) : NULL;
    double state[L2L__STATE], *v;
    char name[128], text[64];
    const char *key;
    l2l_real *data;
    int64_t n, length = L2L__STATE;
    int i;
    if (!w) return false;
    l2l__writer_metadata(w, "format", "l2ladv checkpoint 2");
    for (i = 0; l2l__setting(t, i, &key, text); i++) l2l__writer_metadata(w, key, text);
    l2l__state(t, state, false);
    l2l__writer_doubles(w, "state", 1, &length, state);
    for (i = 0; l2l__state_array(t, i, name, &data, &n); i++)
        if (data) l2l__writer_reals(w, name, 1, &n, data);
    v = l2l__maximizer_state(t, &n);
    if (v) l2l__writer_doubles(w, "maximizer", 1, &n, v);
    l2l_free(t->context, v);
    return l2l__writer_finish_file(w, path);
}

/* The entry `name` of n numbers, or an error that says what is there instead. */
static const l2l__entry *l2l__checkpoint_entry(const l2l__reader *r, const char *name, int64_t n)
{
    const l2l__entry *e = l2l__reader_find(r, name);
    if (e && e->count == n && e->dtype <= L2L__BF16) return e;
    l2l__fail(r->context, L2L_ERROR_FORMAT,
              "%s: the checkpoint's '%s' has %z real numbers, %z are expected", r->label, name,
              e ? e->count : 0, n);
    return NULL;
}

static bool l2l__checkpoint_matches(l2l_trainer *t, const l2l__reader *r)
{
    const char *key, *there = l2l__reader_metadata(r, "format");
    char text[64];
    int i;
    if (!there || strcmp(there, "l2ladv checkpoint 2") != 0)
        return l2l__fail(t->context, L2L_ERROR_FORMAT, "%s: not a checkpoint of this version",
                         r->label);
    for (i = 0; l2l__setting(t, i, &key, text); i++) {
        there = l2l__reader_metadata(r, key);
        if (!there || strcmp(there, text) != 0)
            return l2l__fail(t->context, L2L_ERROR_MISMATCH, "%s: made with %s %s, not %s",
                             r->label, key, there ? there : "(none)", text);
    }
    return true;
}

/* One pass over the arrays: checking (write false) before anything is changed, then reading. */
static bool l2l__checkpoint_arrays(l2l_trainer *t, const l2l__reader *r, bool write)
{
    char name[128];
    l2l_real *data;
    int64_t n;
    int i;
    for (i = 0; l2l__state_array(t, i, name, &data, &n); i++) {
        const l2l__entry *e = data ? l2l__checkpoint_entry(r, name, n) : NULL;
        if (data && (!e || (write && !l2l__reader_reals(r, e, data)))) return false;
    }
    return true;
}

static bool l2l__checkpoint_read(l2l_trainer *t, const l2l__reader *r)
{
    l2l_context *c = t->context;
    const l2l_maximizer *m = &t->options.method.maximizer;
    const l2l__entry *e, *state = l2l__checkpoint_entry(r, "state", L2L__STATE);
    double v[L2L__STATE], *packed = NULL;
    int64_t n = m->pack ? m->pack(m->self, NULL) : 0;
    int i;
    if (!state || !l2l__reader_doubles(r, state, v) || !l2l__checkpoint_matches(t, r)) return false;
    if (v[6] >= 0 && !t->best && !(t->best = l2l_model_clone(c, t->model))) return false;
    e = n > 0 ? l2l__checkpoint_entry(r, "maximizer", n) : NULL;
    if (n > 0) packed = (double *)l2l__allocate_array(c, n, sizeof *packed);
    if (!c->status && l2l__checkpoint_arrays(t, r, false) &&
        (!e ||
         (l2l__reader_doubles(r, e, packed) && (!m->unpack || m->unpack(m->self, packed, n)))) &&
        l2l__checkpoint_arrays(t, r, true)) {
        l2l__state(t, v, true);
        for (i = 0; i < t->model->n_slots; i++) l2l__touch(t->model->slots[i]);
        for (i = 0; t->best && i < t->best->n_slots; i++) l2l__touch(t->best->slots[i]);
    }
    l2l_free(c, packed);
    return !c->status;
}

L2LADVDEF bool l2l_trainer_resume(l2l_trainer *t, const char *path)
{
    l2l__reader r;
    bool ok;
    if (!t || !l2l__reader_open_file(t->context, path, &r)) return false;
    ok = l2l__checkpoint_read(t, &r);
    l2l__reader_close(&r);
    return ok;
}

/* options.resume: go on if there is a checkpoint, else begin. */
static bool l2l__maybe_resume(l2l_trainer *t)
{
    FILE *f;
    if (!t->options.resume || !t->checkpoint || t->step > 0) return true;
    if (!(f = fopen(t->checkpoint, "rb"))) return true;
    fclose(f);
    return l2l_trainer_resume(t, t->checkpoint);
}
#else
static bool l2l__maybe_resume(l2l_trainer *t)
{
    return !t->options.resume ||
           l2l__fail(t->context, L2L_ERROR_UNSUPPORTED, "training: a checkpoint needs stdio");
}
L2LADVDEF bool l2l_trainer_save(l2l_trainer *t, const char *path)
{
    return l2l__fail(t->context, L2L_ERROR_UNSUPPORTED, "l2l_trainer_save: %s needs stdio", path);
}
L2LADVDEF bool l2l_trainer_resume(l2l_trainer *t, const char *path)
{
    return l2l__fail(t->context, L2L_ERROR_UNSUPPORTED, "l2l_trainer_resume: %s needs stdio", path);
}
#endif

#ifdef __cplusplus
}
#endif
#endif /* L2LADV_IMPLEMENTATION */

/* HISTORY
   0.2.0  (2026-11)  VGG-16, WideResNet and ResNet-18; CIFAR-10, streamed shards, crops and flips;
                     micro-batches (a maximizer's `update` is now `gradient` and `update`);
                     Winograd convolution
   0.1.0  (2026-11)  first version: tape, kernels, 4-layer CNN, FGSM, I-FGSM, PGD, learned maximizer
                     with first- and second-order gradients, Algorithm 1, evaluation, files

   LICENCE. This file is available under two licences; choose the one you prefer.

   ALTERNATIVE A - MIT License. Copyright (c) 2026 the l2ladv authors
   Permission is hereby granted, free of charge, to any person obtaining a copy of this software
   and associated documentation files (the "Software"), to deal in the Software without
   restriction, including without limitation the rights to use, copy, modify, merge, publish,
   distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
   Software is furnished to do so, subject to the following conditions: The above copyright notice
   and this permission notice shall be included in all copies or substantial portions of the
   Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED,
   INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR
   PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
   ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
   ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
   SOFTWARE.

   ALTERNATIVE B - Public Domain (www.unlicense.org). This is free and unencumbered software
   released into the public domain. Anyone is free to copy, modify, publish, use, compile, sell,
   or distribute this software, either in source code form or as a compiled binary, for any
   purpose, commercial or non-commercial, and by any means. In jurisdictions that recognize
   copyright laws, the author or authors of this software dedicate any and all copyright interest
   in the software to the public domain. We make this dedication for the benefit of the public at
   large and to the detriment of our heirs and successors. We intend this dedication to be an
   overt act of relinquishment in perpetuity of all present and future rights to this software
   under copyright law. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
   IMPLIED. */
