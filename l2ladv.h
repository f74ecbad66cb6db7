/* l2ladv.h - v0.9.2 - adversarial training with a learned optimizer, in one C header

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
    l2l_attack pgd = l2l_attack_pgd(0.3);
    double natural = l2l_accuracy(model, &test, 1000, NULL);
    double robust = l2l_accuracy(model, &test, 1000, &pgd);
    if (l2l_error(c)) return fprintf(stderr, "%s\n", l2l_error_text(c)), 1;
    printf("natural %.3f, under PGD-10 %.3f\n", natural, robust);
    return 0;                                /* the system takes the memory back */
}
#endif
/*
   WHERE IS WHAT, by line (tests/test_navigation.sh --write sets the numbers); or search for a mark.

   Part I: what a user needs
      1  Configuration macros                         145  >>macros
      2  The public interface                         207  >>interface
           contexts, errors, memory                   246  >>context
           random numbers                             361  >>random
           tensors, the tape, gradients               384  >>tensor
           operations                                 453  >>operations
           losses                                     577  >>losses
           classifiers, layers, own networks          589  >>models
           outer optimizers, schedules                752  >>optimizers
           objective, maximizer, outer loss           795  >>seams
           attacks                                    951  >>attacks
           the learned maximizer                     1100  >>learned
           data sets                                 1146  >>data
           training                                  1172  >>train
           evaluation                                1329  >>evaluate
           files                                     1345  >>files
   Part II: the paper
      3  Algorithm 1, line by line                   1463  >>algorithm-1
      4  The learned maximizer                       2673  >>maximizer
      5  Maximizers that do not learn                3601  >>maximizers
      6  Methods and trainers                        3693  >>methods
   Part III: the machine
      7  Errors, memory, random numbers, options     4180  >>foundation
      8  Tensors and reverse-mode autodiff           5295  >>autodiff
      9  Layers and classifiers                      7116  >>layers
     10  Losses and outer optimizers                 8810  >>losses-code
   Part IV: appendices
     11  Attacks                                     9398  >>attacks-code
     12  Evaluation                                 10267  >>evaluation
     13  Data sets                                  10330  >>data-code
     14  Files                                      10430  >>files-code
     15  Kernels                                    12433  >>kernels
   History and licence: at the end.

   NOTATION

       paper          here                     shape, unit
       x, y           in->x, in->labels        BxHxWxC in [0,1], class numbers
       f_theta        l2l_model                its logits: Bx1x1xK
       x'_t           in->adv                  BxHxWxC, in the ball and in [0,1]
       g_t            in->g[t]                 grad of L(f_theta(x'_t), y) in x', per image
       delta_t        in->delta                the maximizer's step, in pixel values
       m_phi, h_t     l2l_learned              the coordinate-wise LSTM or RNN and its state
       epsilon        in->epsilon              radius of the ball, in pixel values (0.3, 8/255)
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
   gradient before it (sign) and of its output (epsilon/4 tanh) are choices of this implementation.
   The code is l2l__algorithm1 (>>algorithm-1), line by line with these numbers.

   WHAT IT DOES NOT DO. No GPU. No certified bounds: robust accuracy is measured against attacks,
   and a stronger attack may exist. No text, no detection, no networks beyond what 2.4 can express.
   A model file is checked, but whoever made it decides what the model does.

   Licence: MIT or public domain, your choice; see the end of the file. */

/* ============================================================================================ */
/*  1  CONFIGURATION MACROS                                                           >>macros  */
/* ============================================================================================ */
/*
   macro                      where to define it          effect
   L2LADV_IMPLEMENTATION      in exactly one file         compiles the bodies (chapters 3 to 15)
   L2LADV_STATIC              in the implementing file    everything becomes static to that file
   L2LADVDEF                  everywhere                  what stands before public functions in
                                                          place of extern; in a shared library e.g.
                                                          __attribute__((visibility("default"))) or
                                                          __declspec(dllexport). They stay
                                                          extern "C". Not beside L2LADV_STATIC
   L2LADV_DOUBLE              everywhere                  l2l_real is double, on the plain kernels;
                                                          files without it do not link
   L2LADV_NO_STDIO            everywhere                  no FILE: only the from-memory loaders
   L2LADV_NO_POSIX            in the implementing file    ISO C alone: what 2.14 says of links,
                                                          devices, modes and two writers is off,
                                                          and no cores are counted (2.1)
   L2LADV_NO_SIMD             in the implementing file    plain C kernels only
   L2LADV_HEADER              in the implementing file    this file's name for an #include, if you
                                                          renamed it (default "l2ladv.h"): the
                                                          vector kernels include it again
   L2LADV_MALLOC(size)        in the implementing file    with L2LADV_FREE(p): used instead of
   L2LADV_FREE(p)                                         malloc and free; define both or none
   L2LADV_ASSERT(x)           in the implementing file    checks of the library's own invariants;
                                                          nothing by default
   A context can also be given an allocator at run time, see l2l_options.

   The implementing file is not to be compiled with -ffast-math or -Ofast: without NaN and infinity
   every check for them is gone, so that is an #error. -funsafe-math-optimizations and its parts
   (-fassociative-math, ...) do compile, but the promises about bits (the same for any batch and any
   number of threads) do not hold under them, and -ffast-math at the linking of a program makes the
   whole process flush subnormal numbers to zero. */
#ifndef L2LADV_H
#define L2LADV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define L2LADV_VERSION "0.9.2"
#define L2LADV_VERSION_NUMBER 902            /* 10000 major + 100 minor + patch, for #if          */

#if defined(__GNUC__) || defined(__clang__)
#define L2L__MAYBE_UNUSED __attribute__((__unused__))
#else
#define L2L__MAYBE_UNUSED
#endif
#ifdef L2LADVDEF
#ifdef L2LADV_STATIC
#error "l2ladv: L2LADVDEF exports functions, L2LADV_STATIC hides them: define one of the two"
#endif
#elif defined(L2LADV_STATIC)
#define L2LADVDEF static L2L__MAYBE_UNUSED
#else
#define L2LADVDEF extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================================ */
/*  2  THE PUBLIC INTERFACE                                                        >>interface  */
/* ============================================================================================ */

/* The element of every tensor: float, or double under L2LADV_DOUBLE (for gradient checks). */
#ifdef L2LADV_DOUBLE
typedef double l2l_real;
/* Other symbols for all that arrays of numbers pass through, and for where tensors come from: a
   file that has the other element does not link. */
#define l2l_context_create l2l_context_create_double
#define l2l_model_context l2l_model_context_double
#define l2l_zeros l2l_zeros_double
#define l2l_full l2l_full_double
#define l2l_from_nchw l2l_from_nchw_double
#define l2l_to_nchw l2l_to_nchw_double
#define l2l_model_forward l2l_model_forward_double
#define l2l_model_logits l2l_model_logits_double
#define l2l_model_gradient l2l_model_gradient_double
#define l2l_model_external l2l_model_external_double
#define l2l_layer_parameter l2l_layer_parameter_double
#define l2l_parameter_get l2l_parameter_get_double
#define l2l_parameter_set l2l_parameter_set_double
#define l2l_parameter_to_file l2l_parameter_to_file_double
#define l2l_optimizer_step l2l_optimizer_step_double
#define l2l_look l2l_look_double
#define l2l_attack_run l2l_attack_run_double
#define l2l_attack_worst l2l_attack_worst_double
#define l2l_spot_of l2l_spot_of_double
#define l2l_spot_init l2l_spot_init_double
#define l2l_norm2 l2l_norm2_double
#define l2l_learned_parameters l2l_learned_parameters_double
#define l2l_learned_gradient l2l_learned_gradient_double
#define l2l_dataset_from_arrays l2l_dataset_from_arrays_double
#define l2l_dataset_read l2l_dataset_read_double
#define l2l_train_step l2l_train_step_double
#define l2l_evaluate l2l_evaluate_double
#else
typedef float l2l_real;
#endif

/* -- 2.1 Contexts, errors, memory ------------------------------------------------- >>context --
   A context owns the tape, the arena of temporaries, the error and the thread count. There is no
   global state: two contexts may work in two threads at the same time, one context in one only.

   Errors are sticky. The first error stays in the context as a code and a text; from then on every
   call on that context returns NULL or false at once until l2l_error_clear. So a chain of calls is
   checked once, at its end. (Lack of memory that work can do without is no error: where there is no
   room for several threads' slices of a batch, a pass is made as a whole, and only what that lacks
   is one.) What a training keeps when memory runs out in the middle of a step: l2l_train (2.12).
   Nothing in this file exits, aborts or prints.

   Threads are OpenMP's, and results have the same bits for any number of them. Three things that a
   program may do to them:
   - fork. GNU's libgomp does not survive it: once the parent has used several threads, a child that
     uses several hangs, with a new context too. Call l2l_set_threads(c, 1) in the child, or fork
     first. LLVM's libomp has no such limit.
   - Change the floating-point environment (fesetround; flushing subnormal numbers to zero, as
     libraries linked with -ffast-math do for the whole process). Each thread has its own. The
     library needs the default one, and fails with L2L_ERROR_UNSUPPORTED otherwise:
     l2l_model_forward and l2l_vjp look at the calling thread; attacks, steps of training,
     l2l_model_logits and l2l_model_gradient, once each, at every thread that works for them.
   - Keep the cores busy. Threads that wait for each other then spin in vain, by default, unless
     OMP_WAIT_POLICY=passive is set before the program starts (OpenMP reads it then). So attacks and
     inner steps wait once in a pass, not behind each layer (chapter 9, depth first), and on POSIX
     systems go on with as many threads as were seen to run at once: beside one busy process on two
     cores training by PGD made 370 and 364 images per second, in 0.4.1, layer by layer, 51 and 51.
     What is recorded on the tape goes layer by layer.
   Numbers below 1e-38 in magnitude, subnormal ones, are computed with exactly; on some processors
   that makes a convolution of nothing but such numbers up to 77 times slower, on others (AMD Zen 5)
   at most 1.1 times with FMA and 3.5 times without. */
typedef struct l2l_context l2l_context;

typedef enum l2l_status {
    L2L_OK = 0,
    L2L_ERROR_MEMORY,      /* the allocator returned NULL, or a size does not fit size_t          */
    L2L_ERROR_ARGUMENT,    /* a value out of its range; the text names it and what is allowed     */
    L2L_ERROR_SHAPE,       /* shapes that do not fit; the text names both                         */
    L2L_ERROR_FILE,        /* a file could not be opened, read, written or renamed                */
    L2L_ERROR_FORMAT,      /* a file that is not what it should be; the text has the byte offset  */
    L2L_ERROR_MISMATCH,    /* a file of other settings; the text names the setting                */
    L2L_ERROR_NUMERIC,     /* NaN or infinity where a number shall be; the text says what, and in */
                           /* which image and step; training keeps the last good theta            */
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
    L2L_CPU_PLAIN = 0,     /* plain C, number by number                                           */
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
/* NULL only if there is no memory, or if `allocator` has one function without the other: an
   L2L_ERROR_MEMORY, too, to all who ask l2l_error(NULL). Objects that are NULL after an error may
   be handed on: the calls that get them return NULL or false. In all of this interface NULL means
   the defaults for options and "not wanted" for an output beside others; where a NULL can mean
   neither it is an error. */
L2LADVDEF l2l_context *l2l_context_create(const l2l_options *options);
/* Objects made with the context (models, data sets, ...) are freed before it. */
L2LADVDEF void l2l_context_free(l2l_context *c);

L2LADVDEF l2l_status l2l_error(const l2l_context *c);
L2LADVDEF const char *l2l_error_text(const l2l_context *c); /* "" when there is none              */
L2LADVDEF void l2l_error_clear(l2l_context *c);
/* Puts an error of your own into the context, e.g. from a callback. The first one stays. L2L_OK is
   no error's code: an L2L_ERROR_ARGUMENT with your text. */
L2LADVDEF void l2l_error_set(l2l_context *c, l2l_status status, const char *text);
/* "out of memory", "file error", ...: the code in words, for messages of your own. */
L2LADVDEF const char *l2l_status_name(l2l_status status);

/* As in l2l_options, between two calls: threads from 1 to 1024, 0 for OpenMP's own number; another
   instruction set rounds otherwise, and weights are packed anew for it. */
L2LADVDEF int l2l_threads(const l2l_context *c);
L2LADVDEF void l2l_set_threads(l2l_context *c, int threads);
L2LADVDEF unsigned l2l_cpu(const l2l_context *c);
L2LADVDEF void l2l_set_cpu(l2l_context *c, unsigned cpu);
/* "l2ladv 0.9.2, float, AVX2+FMA kernels, 2 threads": for logs. Lives as long as the context. */
L2LADVDEF const char *l2l_describe(l2l_context *c);

/* Bytes that the context and its objects hold now, and the most they ever held. */
L2LADVDEF size_t l2l_memory_used(const l2l_context *c);
L2LADVDEF size_t l2l_memory_peak(const l2l_context *c);
/* Memory from the context's allocator, zeroed; NULL and an error if there is none. l2l_free gives
   it back, also what l2l_model_save_memory and its like made. Not for threads of your own. */
L2LADVDEF void *l2l_allocate(l2l_context *c, size_t bytes);
L2LADVDEF void l2l_free(l2l_context *c, void *memory);

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
    L2L_RANDOM_INIT = 1, L2L_RANDOM_SHUFFLE, L2L_RANDOM_SPLIT, L2L_RANDOM_START,
    L2L_RANDOM_DROPOUT, L2L_RANDOM_AUGMENT, L2L_RANDOM_PHI, L2L_RANDOM_GENERATOR,
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
/* Number `element` of a stream, in any order and from any thread: 32 bits; a multiple of 2^-24;
   and, by Box and Muller's method from two of these, a normal one. */
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
    l2l_real *data; /* n*h*w*c numbers, channels last; NULL once the tape gave them back (of a    */
                    /* view, another tensor's numbers, that one's tells)                          */
    /* the rest is private */
    const struct l2l__operation *op;
    struct l2l_tensor *in[8];
    struct l2l_tensor *base; /* whose data this one shows (a view), or NULL                       */
    int tape, references;
    bool lent;               /* to a callback, which cannot drop it                               */
    l2l_context *context;
    int *index;              /* saved positions: pooling, picking, labels                         */
    l2l_real *saved;         /* whatever else the VJP needs                                       */
    int64_t i[8];            /* attributes of the operation                                       */
    double f[4];
    const void *p;
    struct l2l__packed *packed; /* cached transforms of a parameter                               */
} l2l_tensor;

/* Axes are at least 1; anything else is an L2L_ERROR_SHAPE where a tensor is made of it. */
L2LADVDEF l2l_shape l2l_shape_of(int n, int h, int w, int c);
L2LADVDEF int64_t l2l_count(l2l_shape s); /* n*h*w*c                                              */
/* Constants, all numbers 0 or `value`: temporaries of which the tape knows nothing. */
L2LADVDEF l2l_tensor *l2l_zeros(l2l_context *c, l2l_shape s);
L2LADVDEF l2l_tensor *l2l_full(l2l_context *c, l2l_shape s, double value);
/* Copies n*c*h*w numbers in N,C,H,W order into a tensor, and back. */
L2LADVDEF l2l_tensor *l2l_from_nchw(l2l_context *c, const l2l_real *values, l2l_shape s);
L2LADVDEF bool l2l_to_nchw(l2l_context *c, const l2l_tensor *x, l2l_real *values);
/* The only number of a 1x1x1x1 tensor. */
L2LADVDEF double l2l_item(l2l_context *c, const l2l_tensor *x);
/* Gives a temporary back in forward-only code. What the tape still needs goes when that is
   released; what a callback was lent (a network's input, a loss's logits) is not its to drop; what
   is another context's stays. */
L2LADVDEF void l2l_drop(l2l_context *c, l2l_tensor *x);

/* On around what shall be differentiated; what was made before is a constant there, unless it is an
   input of l2l_grad or a parameter. */
L2LADVDEF bool l2l_recording(const l2l_context *c);
L2LADVDEF bool l2l_set_recording(l2l_context *c, bool on); /* returns what it was                 */

enum { /* flags of l2l_grad */
    L2L_CREATE_GRAPH = 1, /* record the gradient too, so that it can be differentiated again      */
    L2L_FREE_GRAPH = 2    /* give the tape's activations back on the way: it is the last use. The */
                          /* output keeps its value                                               */
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
   derivative is 1 on its bounds, sign' = 0.

   The vector kernels compute most 3x3 convolutions of stride 1 with 16 channels or more, and those
   of stride 2 with padding 1 and no pooling behind, in tiles of 4x4 to 7x7 inputs or, where they
   are 2x2, whole planes (Winograd's algorithm), which rounds otherwise than the plain sum:
   - An output's error is relative to the largest number in its tile, not in its own patch: at most
     4e-5 of that times the sum of its weights' magnitudes. Infinity or not-a-number may reach any
     output of the tile as not-a-number. Other tiles see nothing of it.
   - What is exactly 0 in the plain sum may come out as a number of that error's size, on either
     side of a kink: a gradient of 1e-12 has a sign, where one of 0 has none. But an input
     gradient is 0 where all that it is made of is 0 (corners, dead units).
   - Outputs of equal patches would differ by it. Within the 2x2 windows of a pooling with stride 2
     and without padding, by `pool` of l2l_conv or after it, they are made equal again (equal: to
     4e-6 of their largest number; but not where two of a pixel's first 4 to 16 channels differ by
     1/4096 of themselves), so that the first maximum wins on plain backgrounds as well. Under max
     pooling of other windows such ties fall at random. Where `unpooled` says that no maximum is
     taken, the time for this is saved. */

/* Convolution, in one node: y = pool(relu(scale * conv(x, w) + bias + residual)). x NxHxWxC,
   w khxkwxCxK, the vectors 1x1x1xK, the residual as conv's output. Fields left NULL or false are
   left out. */
typedef struct l2l_conv_options {
    int stride, padding; /* 1, 0 */
    l2l_tensor *bias, *scale, *residual;
    bool relu;
    bool pool;           /* 2x2 maximum, stride 2, after the ReLU                                 */
    bool unpooled;       /* no maximum of the result's pixels is taken, later either: see above   */
} l2l_conv_options;
L2LADVDEF l2l_conv_options l2l_conv_default(void); /* nothing but the convolution                 */
L2LADVDEF l2l_tensor *l2l_conv(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                               const l2l_conv_options *o);
/* Its two adjoints: dy NxOHxOWxK to the input's shape, and to the weight's shape khxkwxCxK. The
   first is the transposed convolution of dy, from K to C channels; e.g. a 4x4 kernel with stride 2
   and padding 1 doubles height and width. */
L2LADVDEF l2l_tensor *l2l_conv_input_grad(l2l_context *c, l2l_tensor *dy, l2l_tensor *w,
                                          l2l_shape x, int stride, int padding);
L2LADVDEF l2l_tensor *l2l_conv_weight_grad(l2l_context *c, l2l_tensor *x, l2l_tensor *dy,
                                           l2l_shape w, int stride, int padding);
/* y Nx1x1xK = x W + b, where x NxHxWxC is flattened and W is hxwxcxK with h*w*c = H*W*C. Options:
   bias, scale, residual, relu. */
L2LADVDEF l2l_tensor *l2l_linear(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                                 const l2l_conv_options *o);

/* Elementwise. In add, sub and mul an axis of length 1 is repeated to fit the other operand, and
   its gradient is the sum over the repetitions. Outside of their domains log and power give NaN or
   infinity, as libm does, and no error; so does exp above 88.7 (double: 709.7). */
L2LADVDEF l2l_tensor *l2l_add(l2l_context *c, l2l_tensor *a, l2l_tensor *b);
L2LADVDEF l2l_tensor *l2l_sub(l2l_context *c, l2l_tensor *a, l2l_tensor *b);
L2LADVDEF l2l_tensor *l2l_mul(l2l_context *c, l2l_tensor *a, l2l_tensor *b);
/* scale * x + shift */
L2LADVDEF l2l_tensor *l2l_affine(l2l_context *c, l2l_tensor *x, double scale, double shift);
L2LADVDEF l2l_tensor *l2l_relu(l2l_context *c, l2l_tensor *x); /* max(x, 0)                       */
/* x where it is positive, else slope * x */
L2LADVDEF l2l_tensor *l2l_leaky_relu(l2l_context *c, l2l_tensor *x, double slope);
L2LADVDEF l2l_tensor *l2l_tanh(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_sigmoid(l2l_context *c, l2l_tensor *x); /* 1/(1 + e^-x)                 */
L2LADVDEF l2l_tensor *l2l_exp(l2l_context *c, l2l_tensor *x);
L2LADVDEF l2l_tensor *l2l_log(l2l_context *c, l2l_tensor *x); /* to base e                        */
/* x^exponent; the derivative of x^0 is 0, at x = 0 too */
L2LADVDEF l2l_tensor *l2l_power(l2l_context *c, l2l_tensor *x, double exponent);
L2LADVDEF l2l_tensor *l2l_abs(l2l_context *c, l2l_tensor *x); /* |x|' = sign(x)                   */
L2LADVDEF l2l_tensor *l2l_sign(l2l_context *c, l2l_tensor *x); /* sign(0) = 0                     */
/* min(max(x, low), high), low <= high; what is not a number stays so */
L2LADVDEF l2l_tensor *l2l_clamp(l2l_context *c, l2l_tensor *x, double low, double high);
/* The projection of Algorithm 1: clamp to [max(x-eps,0), min(x+eps,1)] around the clean x. */
L2LADVDEF l2l_tensor *l2l_project(l2l_context *c, l2l_tensor *z, l2l_tensor *x, double epsilon);
/* A constant copy-free view of x: gradients stop here. */
L2LADVDEF l2l_tensor *l2l_detach(l2l_context *c, l2l_tensor *x);

/* Shapes and reductions. A reshaped tensor is a view of x with as many numbers, in the order of
   x->data: channels last. */
L2LADVDEF l2l_tensor *l2l_reshape(l2l_context *c, l2l_tensor *x, l2l_shape s);
/* Sums over every axis that is 1 in s; s's other axes are x's. broadcast_to is its adjoint. */
L2LADVDEF l2l_tensor *l2l_sum_to(l2l_context *c, l2l_tensor *x, l2l_shape s);
L2LADVDEF l2l_tensor *l2l_broadcast_to(l2l_context *c, l2l_tensor *x, l2l_shape s);
L2LADVDEF l2l_tensor *l2l_sum(l2l_context *c, l2l_tensor *x);  /* 1x1x1x1                         */
L2LADVDEF l2l_tensor *l2l_mean(l2l_context *c, l2l_tensor *x); /* 1x1x1x1                         */
/* Channels from .. from+count-1, and the adjoint: x's channels placed into `total` ones, else 0. */
L2LADVDEF l2l_tensor *l2l_slice(l2l_context *c, l2l_tensor *x, int from, int count);
L2LADVDEF l2l_tensor *l2l_place(l2l_context *c, l2l_tensor *x, int from, int total);
/* The channels of n tensors, 1 to 8, one after the other; N, H and W are the same in all. */
L2LADVDEF l2l_tensor *l2l_concat(l2l_context *c, l2l_tensor *const *parts, int n);

/* Pooling: square window, PyTorch's rounding down; padding counts as -inf for max and as 0, with
   the full window as divisor, for the average. */
L2LADVDEF l2l_tensor *l2l_max_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                   int padding);
L2LADVDEF l2l_tensor *l2l_average_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                       int padding);
L2LADVDEF l2l_tensor *l2l_global_average_pool(l2l_context *c, l2l_tensor *x); /* Nx1x1xC          */

/* Batch normalisation over N,H,W with gamma, beta 1x1x1xC or, by image, Nx1x1xC. Training mode uses
   the batch's mean and biased variance and moves the running ones (1x1x1xC, never differentiated)
   by `momentum`, the variance unbiased, as PyTorch does, and wants more than one number per channel
   (L2L_ERROR_SHAPE); evaluation mode uses the running ones. */
typedef struct l2l_batch_norm_options {
    l2l_tensor *gamma, *beta;
    l2l_tensor *running_mean, *running_variance;
    l2l_tensor *residual;     /* NULL, or added to the result; x's shape */
    bool relu;                /* of the result and the residual */
    double epsilon, momentum; /* 1e-5, 0.1 */
    bool training;            /* by the batch's own statistics, else by the running ones */
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
/* The adjoint of pick: Nx1x1x1 to Nx1x1xK, zero elsewhere. Of ones it makes one-hot rows, and
   l2l_linear of those with a 1x1xKxC table looks up its rows (an embedding of the classes). */
L2LADVDEF l2l_tensor *l2l_unpick(l2l_context *c, l2l_tensor *values, const int *classes, int k);

/* -- 2.5 Losses, per image ------------------------------------------------------------ >>losses --
   Each gives Nx1x1x1; l2l_sum and l2l_mean do the rest. */
/* -log softmax(z)_y, by log-sum-exp in double: no logit is too large for it. */
L2LADVDEF l2l_tensor *l2l_cross_entropy(l2l_context *c, l2l_tensor *logits, const int *labels);
/* KL(softmax(p) || softmax(q)); the gradient flows through both arguments. */
L2LADVDEF l2l_tensor *l2l_kl_divergence(l2l_context *c, l2l_tensor *p, l2l_tensor *q);
/* max over j != y of z_j, minus z_y: positive when the image is misclassified (Carlini-Wagner). */
L2LADVDEF l2l_tensor *l2l_margin(l2l_context *c, l2l_tensor *logits, const int *labels);
/* Row-wise argmax, the lowest index on ties. NaN in a row is an L2L_ERROR_NUMERIC that names it;
   the losses pass NaN on. */
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
    bool concurrent;      /* forward may run in several threads at a time (known networks do)     */
    int channels, height, width, classes; /* images CxHxW, K logits: of the known ones as below   */
    double width_multiplier; /* channels are rounded to multiples of 8; wrn: the widening factor  */
    int depth;               /* of wrn: 10, 16, 22, 28, 34, 40, ...                               */
    double dropout;             /* of smallcnn, behind fc1; 0: off. Files do not keep it          */
    double last_layer_deviation; /* 0.01; TRADES starts from 0: no input gradient at first        */
    int normalise;               /* how many of the channels below count; 0: inputs stay in [0,1] */
    double mean[4], deviation[4]; /* the network gets (x - mean) / deviation, channel by channel  */
    uint64_t seed;               /* of the first parameters                                       */
} l2l_model_options;
/* The four classifiers of the paper, with their parameter counts:
     "smallcnn"  4-layer CNN of TRADES, 1x28x28, 10 classes                              312,202
     "vgg16"     VGG-16 with batch norm, 3x32x32, 10 classes                          14,728,266
     "wrn"       WideResNet (Zagoruyko and Komodakis 2016), depth 34 and widening factor 10
                 as in TRADES, 3x32x32, 10 classes                                    46,160,474
     "resnet18"  ResNet-18 (He et al. 2016) as in torchvision, 3x224x224, 9 classes   11,181,129
   or another name for your own network, whose forward, channels, height, width and classes you
   set. If it is `concurrent`, passes in which the mode does not matter take a few images at a time,
   each thread with a model and a context of its own over the same parameters. Then `forward` makes
   an image's logits of that image alone, runs no other model, changes nothing that others see, in
   `user` either, and has no memory but what operations give it; it may be called again for the same
   images, and an error that it set the first time is then forgotten. A tensor of yours that it uses
   has to be made in each call: with one of the model's context the pass is not cut. Objectives,
   too. */
L2LADVDEF l2l_model_options l2l_model_default(const char *arch);
L2LADVDEF l2l_model *l2l_model_create(l2l_context *c, const l2l_model_options *o);
L2LADVDEF l2l_model *l2l_model_clone(l2l_context *c, const l2l_model *m); /* also into another c  */
/* Parameters and running statistics. Other names or shapes are an L2L_ERROR_MISMATCH, which names
   the first, and nothing is copied. */
L2LADVDEF bool l2l_model_copy(l2l_model *to, const l2l_model *from);
/* A tape that still needs the model keeps it until it is released. */
L2LADVDEF void l2l_model_free(l2l_model *m);
L2LADVDEF const l2l_model_options *l2l_model_info(const l2l_model *m); /* as it was made          */

/* Layers, for use inside a forward function. `flags` is a sum of the following; one that a layer
   does not know (L2L_POOL of a linear one) is an error. */
enum {
    L2L_RELU = 1,          /* max(y, 0) of the layer's result                                     */
    L2L_POOL = 2,          /* then the 2x2 maximum, stride 2                                      */
    L2L_NO_BIAS = 4,
    L2L_LAST = 8,          /* the logits: begins at N(0, last_layer_deviation^2)                  */
    L2L_UNPOOLED = 16      /* of a convolution: as in l2l_conv_options                            */
};
/* Parameters NAME.weight, kernel x kernel x C x channels, and NAME.bias. Side H of x becomes
   (H + 2 padding - kernel) / stride + 1, rounded down. */
L2LADVDEF l2l_tensor *l2l_layer_conv(l2l_model *m, const char *name, l2l_tensor *x, int channels,
                                     int kernel, int stride, int padding, unsigned flags);
/* Flattens x to Nx1x1xoutputs. NAME.weight HxWxCxoutputs, in files outputs x (C*H*W); NAME.bias. */
L2LADVDEF l2l_tensor *l2l_layer_linear(l2l_model *m, const char *name, l2l_tensor *x, int outputs,
                                       unsigned flags);
/* NAME.weight (gamma, begins at 1) and .bias (beta), .running_mean and .running_var: C each. */
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
/* A parameter for a layer of your own, khxkwxCxK: made in the first run, N(fill, deviation^2), and
   found by its name in later ones. It is the model's: trained, copied and saved with it. Files have
   it, by `rank`, as KxCxkhxkw (4), Kx(C*kh*kw) (2) or, if it is 1x1x1xK, as K (1). Not trainable: a
   buffer, which only the forward function changes, unless the pass (below) is `frozen`. */
L2LADVDEF l2l_tensor *l2l_layer_parameter(l2l_model *m, const char *name, l2l_shape s, int rank,
                                          bool trainable, double deviation, double fill);
/* What stands in front of the names of all layers from here on: "layer1.0.". Begins empty. */
L2LADVDEF void l2l_model_scope(l2l_model *m, const char *prefix);
/* In a training step each image draws by its index in the data set. Where an outer loss of your own
   runs several batches joined to one, each of them draws anew. */
L2LADVDEF l2l_tensor *l2l_layer_dropout(l2l_model *m, l2l_tensor *x, double p);
/* The context that it was made with, whose error and memory are the model's. */
L2LADVDEF l2l_context *l2l_model_context(const l2l_model *m);

/* Evaluation: running statistics, no dropout. Training: batch statistics, dropout. A forward
   function asks for it with l2l_model_mode if it does anything mode-dependent of its own. */
typedef enum l2l_mode { L2L_EVALUATE = 0, L2L_TRAIN = 1 } l2l_mode;
L2LADVDEF l2l_mode l2l_model_mode(l2l_model *m);
/* Has a layer asked for it? Then a batch in training mode is more than its images one by one. */
L2LADVDEF bool l2l_model_mode_matters(const l2l_model *m);
/* Logits Nx1x1xK of a batch NxHxWxC in [0,1]. */
L2LADVDEF l2l_tensor *l2l_model_forward(l2l_model *m, l2l_tensor *x, l2l_mode mode);
/* All that a run depends on beside the input, for layers, outer losses, networks of your own. */
typedef struct l2l_pass {
    l2l_mode mode;
    bool frozen;         /* running statistics stay as they are, in training mode, too            */
    l2l_stream stream;   /* of dropout: seed, epoch, step                                         */
    l2l_forward forward; /* NULL: the model's own                                                 */
    void *user;          /* handed to `forward`                                                   */
} l2l_pass;
/* In a forward function the pass at hand (frozen also in the first run); else what
   l2l_model_forward goes by, in a training step with that step's stream. `forward` is NULL. */
L2LADVDEF l2l_pass l2l_model_pass(const l2l_model *m);
/* Runs the model so; NULL: in evaluation mode. A `forward` given here runs over the model's
   parameters, by their names: a part of the network, or one with more inputs, in `user`; x comes as
   it is, not normalised, and x and the result may have any shape. The first run, which makes the
   parameters, is the model's own. */
L2LADVDEF l2l_tensor *l2l_model_run(l2l_model *m, l2l_tensor *x, const l2l_pass *p);
/* Logits of n images, NxCxHxW, into n*classes numbers, in evaluation mode, a batch at a time; as
   the model gives them, NaN and infinity too. */
L2LADVDEF bool l2l_model_logits(l2l_model *m, const l2l_real *images, int n, l2l_real *logits);
/* And of each image its cross-entropy L(f_theta(x), y) (n) and the gradient of that in its pixels
   (NxCxHxW), in evaluation mode, too. What is NULL is not wanted. Nothing is recorded; for other
   losses: l2l_grad, or in an attack l2l_look. */
L2LADVDEF bool l2l_model_gradient(l2l_model *m, const l2l_real *images, const int *labels, int n,
                                  l2l_real *loss, l2l_real *gradient);

/* Parameters and buffers (running statistics) in the order of the layers. */
typedef struct l2l_parameter {
    const char *name;          /* e.g. "feature_extractor.conv1.weight" */
    l2l_tensor *value;         /* khxkwxCxK; a linear layer's is HxWxCxK of the map it flattens   */
    int rank;                  /* in files: 4 = KxCxkhxkw, 2 = Kx(C*H*W), 1 = K                   */
    bool trainable;            /* false: a buffer                                                 */
    int64_t shape[4];          /* in files: `rank` numbers                                        */
} l2l_parameter;
L2LADVDEF int l2l_model_parameters(const l2l_model *m); /* how many, buffers included             */
L2LADVDEF l2l_parameter l2l_model_parameter(const l2l_model *m, int i);
L2LADVDEF int64_t l2l_model_size(const l2l_model *m);   /* trainable numbers, e.g. 312,202        */
/* A parameter in file layout, read and written; l2l_count(value->shape) numbers. The third does it
   for another tensor of the parameter's shape, such as its gradient by l2l_grad. */
L2LADVDEF bool l2l_parameter_get(const l2l_model *m, int i, l2l_real *values);
L2LADVDEF bool l2l_parameter_set(l2l_model *m, int i, const l2l_real *values);
L2LADVDEF bool l2l_parameter_to_file(const l2l_model *m, int i, const l2l_tensor *x,
                                     l2l_real *values);
/* To be called after writing to value->data in place, as l2l_optimizer_step does: what was derived
   from the old values is void. */
L2LADVDEF void l2l_model_changed(l2l_model *m);

/* A table of layers, shapes and counts as text, cut to `capacity` bytes with its final zero.
   Returns the length that the whole text has. */
L2LADVDEF size_t l2l_model_summary(const l2l_model *m, char *text, size_t capacity);
/* Bytes that one training step of the classifier (or with L2L_EVALUATE one input gradient) of a
   batch will need beyond the parameters, without what a trainer keeps of inner steps, by passes of
   up to 16 images of zeros; the very first step can take half as much again. 0 after an error. */
L2LADVDEF size_t l2l_model_memory(l2l_model *m, int batch, l2l_mode mode);

/* A model that lives elsewhere. Called from the caller's thread, NxCxHxW in [0,1]; return false to
   cancel. vjp may be NULL: then only attacks that need no gradient work. */
typedef struct l2l_external {
    int channels, height, width, classes;
    void *user;
    /* n images to n rows of logits */
    bool (*logits)(void *user, const l2l_real *x, int n, l2l_real *logits);
    /* image by image dx = J^T dlogits, J the logits' derivative by the pixels at x */
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
    double momentum;     /* SGD: 0 is plain descent                                               */
    double weight_decay; /* of both                                                               */
    bool nesterov;       /* SGD: as above                                                         */
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
L2LADVDEF l2l_schedule l2l_schedule_default(void); /* constant                                    */
/* The factor on the rate at `step` of `total`. */
L2LADVDEF double l2l_schedule_factor(const l2l_schedule *s, int64_t step, int64_t total);

/* An optimizer over any list of arrays (a trainer makes its own). The gradient is descended. */
typedef struct l2l_optimizer l2l_optimizer;
/* n arrays of sizes[0] .. sizes[n-1] numbers. A step takes them all, with o->rate * rate_factor;
   a gradient that is not finite is an L2L_ERROR_NUMERIC and changes nothing. */
L2LADVDEF l2l_optimizer *l2l_optimizer_create(l2l_context *c, const l2l_optimizer_options *o,
                                              const int64_t *sizes, int n);
L2LADVDEF bool l2l_optimizer_step(l2l_optimizer *o, l2l_real *const *values,
                                  l2l_real *const *gradients, double rate_factor);
L2LADVDEF void l2l_optimizer_free(l2l_optimizer *o); /* the arrays are the caller's, and stay     */
/* Its state as numbers, for checkpoints (2.8: pack): 9 settings, the number of steps, then for each
   array the momentum, if there is one, and Adam's second moment. Returns how many; writes none if
   numbers is NULL. Numbers of other settings or sizes are refused, and change nothing. */
L2LADVDEF int64_t l2l_optimizer_pack(const l2l_optimizer *o, double *numbers);
L2LADVDEF bool l2l_optimizer_unpack(l2l_optimizer *o, const double *numbers, int64_t n);

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
    bool cut;         /* L is min(L, confidence): an image that has got so far has no gradient    */
    double confidence; /* any more. With targets L is minus the loss, and that is cut             */
    bool concurrent;  /* `loss` may run in several threads at a time, as those below: see 2.6.    */
                      /* Each has some of the images, and its `labels` are a part of in->labels   */
} l2l_objective;
/* One of your own, 1 - p_y:
       l2l_tensor *miss(l2l_context *c, l2l_tensor *z, l2l_tensor *clean, const int *y, void *user)
       { return l2l_affine(c, l2l_pick(c, l2l_softmax(c, z), y), -1, 1); }
       ...
       l2l_objective mine = {0};            the fields that are left 0 are off
       mine.name = "1 - p_y";
       mine.loss = miss;
       mine.concurrent = true;              it changes nothing that others see
       how.method.objective = mine;         behind how.method = l2l_method_..., how being
                                            l2l_train_options; or attack.objective
   The outer loss is another seam, and stays what it is. */
L2LADVDEF l2l_objective l2l_objective_cross_entropy(void);
L2LADVDEF l2l_objective l2l_objective_kl(void); /* KL(f(x) || f(x')), the inner loss of TRADES */
L2LADVDEF l2l_objective l2l_objective_margin(void); /* max of z_j, j != y, minus z_y; not cut off */

typedef enum l2l_start {
    L2L_START_CLEAN = 0, /* x'_0 = x                                                              */
    L2L_START_UNIFORM,   /* x'_0 = Proj(x + U(-eps, eps)), as PGD                                 */
    L2L_START_NORMAL     /* x'_0 = Proj(x + 0.001 N(0, I)), as Algorithm 1, line 8. TRADES does   */
                         /* not clip this start                                                   */
} l2l_start;

/* The norm of the ball B(x, epsilon). */
typedef enum l2l_norm { L2L_LINF = 0, L2L_L2 = 1 } l2l_norm;

/* The inner problem, as a maximizer sees it: n images, channels last. In training they are the
   mini-batch or, with micro_batch, a part of it; in an attack those that are not fooled yet, and
   perhaps others. */
struct l2l__hunt;
struct l2l_search;
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
    double epsilon;           /* its radius, in units of pixel values, which are in [0,1]         */
    bool targeted;            /* labels are to be reached: L is minus the objective               */
    double step_size;         /* in these units, too                                              */
    int T;                    /* number of steps                                                  */
    const double *w;          /* w[0..T], the weights of L_phi; w[0] = 0; NULL in an attack       */
    l2l_mode mode;            /* of the classifier                                                */
    int t;                    /* the step at hand                                                 */
    l2l_tensor *adv;          /* x'_t                                                             */
    l2l_tensor *start;        /* x'_0; NULL but in training by a maximizer that learns            */
    l2l_tensor *delta;        /* a maximizer writes its delta_t here                              */
    const struct l2l_maximizer *maximizer;
    l2l_tensor *memory[2];    /* as many as the maximizer asked for: a number for every pixel, 0  */
                              /* at first, that stays with its image                              */
    l2l_tensor **g;           /* g[t], raw per-image gradients; all kept in training if the       */
                              /* maximizer learns, else g[t] is valid only at step t              */
    l2l_real *loss;           /* n losses at the point last looked at                             */
    int *predicted;           /* n classes at that point. In a maximizer's `gradient` both are of */
                              /* x'_T: of line 14's pass the classes, where its outer loss told   */
                              /* them, and the losses, where it is the objective's cross-entropy  */
    double L_phi;             /* sum over images and t of w[t] L(f(x'_t), y), earlier parts' too; */
                              /* its last term where a maximizer learns                           */
    int64_t forwards, backwards; /* passes through the classifier so far                          */
    int *trials;              /* n passes forward that a maximizer makes beyond the look at each  */
                              /* x'_t, for the records of an attack; NULL in training             */
    bool *done;               /* n: images that are not attacked any more; NULL: there are none   */
    bool gradient;            /* in a search (2.9): the next look asks for it                     */
    struct l2l__hunt *hunt;   /* private: the attack; NULL in training                            */
} l2l_inner;

/* A maximizer: gradients in, steps out. */
typedef struct l2l_maximizer {
    const char *name;
    void *self;
    int memory;                                /* tensors of in->memory: 0, 1 or 2                */
    double number[2];                          /* parameters, as in->maximizer->number            */
    bool (*begin)(void *self, l2l_inner *in);  /* state to zero (line 7); may be NULL. Must not   */
                                               /* read in->adv: x'_0 may be made after it         */
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
    /* Where that sum is, always, and of how many numbers: for several ranks (2.12). May be NULL. */
    l2l_real *(*sum)(void *self, int64_t *n);
    /* For checkpoints: writes what was learned as numbers (or only counts them if numbers is NULL),
       and takes it back. Both may be NULL. */
    int64_t (*pack)(void *self, double *numbers);
    bool (*unpack)(void *self, const double *numbers, int64_t n);
} l2l_maximizer;
L2LADVDEF l2l_maximizer l2l_maximizer_none(void); /* x'_T = x'_0: plain training                  */
L2LADVDEF l2l_maximizer l2l_maximizer_sign(void); /* delta = step_size * sign(g): FGSM, PGD       */
L2LADVDEF l2l_maximizer l2l_maximizer_gradient(void); /* step_size * g / |g|_2, per image         */
L2LADVDEF l2l_maximizer l2l_maximizer_momentum(double mu); /* sign of m, m <- mu m + g / |g|_1    */
/* In examples/searches.h, on public calls: steps that shrink, Adam, and a line search with its
   attack (bls) and training (AdvTrain + BLS). */

/* For maximizers of your own, in any of their functions: a pass through the classifier at `at`, of
   in->shape, like the one that found g_t: in the same mode, with targets and `cut`, and running
   statistics left alone. Each image's L goes into `loss`, the class predicted for it into
   `predicted` (n each), the gradient of its L into `gradient`, in the order of at->data. What is
   NULL is not wanted; without a gradient there is no pass back. Counted in in->forwards and
   in->backwards, not in in->trials. The line search of examples/searches.h takes some of the images
   to places of its own; examples/l2lda.h is a maximizer that looks elsewhere and learns, with
   layers, files and an outer loss of its own, all on the calls of this chapter. */
L2LADVDEF bool l2l_look(l2l_inner *in, l2l_tensor *at, l2l_real *loss, int *predicted,
                        l2l_real *gradient);

/* What theta descends: a 1x1x1x1 loss with the tape recording, the mean over the images of x. x and
   adv are constants. */
typedef struct l2l_outer {
    const char *name;
    l2l_tensor *(*loss)(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                        void *user);
    void *user;       /* NULL: a trainer calls `loss` with the address of `number` in its place,  */
                      /* as yours does that calls one of the losses below                         */
    double number[2]; /* parameters that are copied along                                         */
    bool is_objective; /* of l2l_outer_cross_entropy alone, elsewhere without effect: one pass    */
                       /* serves L_theta and the look at x'_T where both are the same function    */
} l2l_outer;
L2LADVDEF l2l_outer l2l_outer_cross_entropy(void); /* mean CE(f(x'_T), y)                         */
/* TRADES (Zhang et al. 2019): mean of CE(f(x), y) + beta KL(f(x) || f(x'_T)), with the gradient
   through both arguments of KL. As in its authors' code the classifier runs in training mode on x,
   x'_T and x again: batch norm's running statistics move three times, dropout draws three times.
   beta, 0 or more, is number[0]. */
L2LADVDEF l2l_outer l2l_outer_trades(double beta);
/* For the report, from an outer loss of your own: the classes predicted at x'_T of the n images.
   The `loss` of the two above says it itself where yours calls it with as many; what is said last
   counts. */
L2LADVDEF bool l2l_outer_predicted(l2l_model *m, const int *classes, int n);

/* -- 2.9 Attacks --------------------------------------------------------------------- >>attacks --
   In the ball of radius epsilon and the image range [0,1], pixels in [0,1]. Everything is decided
   per image: its result does not depend on the batch. The classifier is in evaluation
   mode; no parameter gradient is touched. After every attack ball and range are checked.

   Returned is the first iterate that is misclassified, else the one with the largest loss over all
   restarts (so that more steps from the same start are never weaker); with last_iterate the last of
   each restart is all that is compared. Without last_iterate fooled images leave the batch, so that
   a pass costs less and less; not so with a maximizer of your own without `keep` (2.8).

   What is not finite is neither robust nor fooled: logits, losses, gradients or steps with NaN or
   infinity in them, in an image that is still attacked or, of logits, on a clean image, end the
   attack with an L2L_ERROR_NUMERIC. It names the image by its index in the data set (first + i),
   the step (of a search: the pass), what is not finite and, of logits, the class: those of the
   first such image, whatever the batch is. So a model that rules a class out gives it a large
   negative logit, -1e30, not -INFINITY.

   With targets, an image whose target is its own label is left alone: it comes back as it is, with
   success false. */
typedef struct l2l_attack {
    const char *name;
    l2l_maximizer maximizer;
    l2l_objective objective;
    l2l_norm norm;    /* of the ball: L2L_LINF                                                    */
    double epsilon;   /* its radius: 0.3 or 8/255; in l2 about 2 on digits, 0.5 on CIFAR-10       */
    const int *targets; /* n classes that the images shall be taken for; NULL: any but the label  */
    const bool *only; /* n: attacks these images, spares the others; NULL: attacks all            */
    double step_size; /* in pixel values; 0: relative_step * epsilon, with epsilon as it is then  */
    double relative_step; /* 1/4; fgsm: 1                                                         */
    int steps;        /* gradient steps                                                           */
    int restarts;     /* 1: one run                                                               */
    l2l_start start;
    bool last_iterate;
    uint64_t seed;
    int batch;        /* images at a time: 100; changes no result                                 */
    uint32_t first;   /* index of the first image in the data set, for random numbers             */
    const l2l_real *init; /* n*C*H*W starting points for the first run, or NULL                   */
    bool (*progress)(void *user, int done, int total); /* of the images that it attacks; may be   */
                      /* NULL; false cancels                                                      */
    void *user;
    double number[2]; /* parameters of a search                                                   */
    /* what kind it is: to be read */
    bool minimal;     /* it looks for the nearest adversarial image, in no ball                   */
    bool queries;     /* it asks for no gradient: `steps` are passes forward. On smallcnn those   */
                      /* cost less whose point differs in a small window only from the one kept   */
    const struct l2l_search *search; /* not NULL: a search, see below                             */
} l2l_attack;
L2LADVDEF l2l_attack l2l_attack_fgsm(double epsilon);
L2LADVDEF l2l_attack l2l_attack_ifgsm(double epsilon); /* from x, 10 steps of epsilon/4           */
L2LADVDEF l2l_attack l2l_attack_pgd(double epsilon);   /* uniform start, 10 steps of epsilon/4    */
L2LADVDEF l2l_attack l2l_attack_pgd_l2(double epsilon); /* the same in the l2 ball, along g/|g|_2 */
/* I-FGSM with momentum (MI-FGSM; Dong et al. 2018, there with steps of epsilon/10), mu = 1. */
L2LADVDEF l2l_attack l2l_attack_mim(double epsilon);
/* PGD on the margin, cut off at 50 (Carlini and Wagner 2017; Madry et al. 2018): what most tables
   of l-infinity attacks call CW. */
L2LADVDEF l2l_attack l2l_attack_cw_pgd(double epsilon);

typedef struct l2l_record {
    int label, clean, predicted; /* true class, prediction on the clean and the returned image    */
    bool success;                /* predicted != label; with targets: predicted is the target,    */
                                 /* and that is not the label                                     */
    int attack;                  /* which of several: l2l_attack_worst                            */
    int step;                    /* of the returned iterate; 0 is the start                       */
    int restart;
    double loss;                 /* the objective at the returned image; with targets minus it    */
    double linf, l2;             /* norms of the perturbation                                     */
    int forwards, backwards;     /* passes through the model until this image was fooled          */
    int zero_gradients;          /* iterates of this image whose gradient was exactly zero        */
} l2l_record;
/* Attacks n images (NxCxHxW, values in [0,1]); `adversarial` gets n images, `records` n records
   (NULL: not wanted). Images, labels and ranges are checked on entry. */
L2LADVDEF bool l2l_attack_run(l2l_model *m, const l2l_attack *a, const l2l_real *images,
                              const int *labels, int n, l2l_real *adversarial,
                              l2l_record *records);
/* Several attacks one after the other, each on the images that withstood those before it, by their
   records' `success`. An image's record and adversarial image are those of the attack that
   succeeded (record.attack is its number), else of the first after which its prediction was not the
   label (of one that looks for the nearest: within epsilon), else of the first on it; passes and
   zero gradients are summed over all attacks on it. Of an image that they all spared the record has
   the label, and -1 for clean, predicted and step; its place in `adversarial` stays as it is. */
L2LADVDEF bool l2l_attack_worst(l2l_model *m, const l2l_attack *attacks, int n_attacks,
                                const l2l_real *images, const int *labels, int n,
                                l2l_real *adversarial, l2l_record *records);

/* Searches: attacks with a course of their own, without maximizer and start; they begin at `init`,
   where given. An image that is misclassified as it is comes back as it is. Most look for the
   nearest adversarial image in `norm`, in no ball (`minimal`), and return the nearest that they
   saw, or the clean image if they saw none; epsilon only says how near is near enough: success is
   found, and no farther than epsilon. So one run with INFINITY can be read at every radius, by
   record.linf or record.l2. In examples/searches.h are Carlini and Wagner's, DeepFool and Sign-OPT,
   in examples/autoattack.h Square, APGD, FAB-T and the ensemble of them, AutoAttack.

   A search of your own: a pass looks at one point for each image: `point` moves it, and `seen`
   draws the conclusions. An image's search knows nothing of the others, and where it ends the image
   leaves the batch; `point` and `seen` run for several images at once, in threads. Logits, losses,
   gradients and points are checked for numbers that are not finite, results as those of all
   attacks. */
typedef struct l2l_spot {  /* one image in one pass, which is number in->t, from 1 on             */
    l2l_inner *in;
    int i;                 /* it is image i of in->n                                              */
    const l2l_attack *attack;
    void *state;           /* search->state bytes; like `memory` 0 at first, and the image's own; */
                           /* they stay where they are until the search ends                      */
    l2l_real *memory[3];   /* a number for each pixel, search->memory times: in->delta and        */
                           /* in->memory, of this image                                           */
    int64_t n;             /* numbers of an image, channels last                                  */
    const l2l_real *x;     /* the clean image                                                     */
    l2l_real *z;           /* the point: at first x, and where the last pass left it              */
    l2l_real *g;           /* the gradient of L at the point looked at last; the search may use   */
                           /* its room until the next look                                        */
    double loss;           /* L there                                                             */
    bool fooled;           /* there the image goes where it shall                                 */
    double distance;       /* of the nearest image so far to l2l_spot_keep_nearest, or HUGE_VAL   */
    l2l_record *record;    /* to count passes that a search makes itself, and to say step and     */
                           /* restart otherwise than l2l_spot_keep: in->t and 0                   */
} l2l_spot;
typedef struct l2l_search {
    size_t state;          /* bytes for each image                                                */
    int memory;            /* 0 to 3                                                              */
    bool gradient;         /* a look asks for the gradient, unless `prepare` sets in->gradient    */
    bool flat;             /* zero gradients on its way are no reason for an evaluation to warn,  */
                           /* where it got far enough                                             */
    bool gives_up;         /* an image whose gradient is zero is counted so, and its search ends  */
    bool restarts;         /* attack->restarts may be above 1: it begins anew so many times       */
    int64_t (*begin)(l2l_inner *in, const l2l_attack *a); /* so many passes at most; checks what  */
                                             /* the attack sets, by l2l_error_set; may lead       */
                                             /* in->objective to another one                      */
    void (*prepare)(l2l_inner *in);          /* before the points of a pass; may be NULL          */
    void (*point)(const l2l_spot *p);
    void (*seen)(const l2l_spot *p);
} l2l_search;
/* On the margin (l2l_objective_margin), for the nearest image: `minimal`, which may be unset for a
   search in the ball. */
L2LADVDEF l2l_attack l2l_search_attack(const char *name, double epsilon, l2l_norm norm, int steps,
                                       const l2l_search *search);
L2LADVDEF l2l_spot l2l_spot_of(l2l_inner *in, int i);           /* for `begin` and `prepare`      */
L2LADVDEF bool l2l_spot_init(const l2l_spot *p, l2l_real *z);   /* the image of `init`, if given  */
L2LADVDEF void l2l_spot_keep(const l2l_spot *p, bool success);  /* z is the result from now on    */
/* The same for an adversarial z, if it is the nearest so far, and in a search in the ball within
   epsilon. Returns the nearest's distance; p->distance has it from the next pass on. */
L2LADVDEF double l2l_spot_keep_nearest(const l2l_spot *p);
L2LADVDEF void l2l_spot_end(const l2l_spot *p);                 /* nothing is left to look for    */
/* All numbers of x, `what` they are, of in->n images, are finite: an image (of training: the first)
   where they are not ends the attack, by the name of its index, its pass and `what`. Those of
   images that are not attacked any more become 0. For maximizers, too. */
L2LADVDEF void l2l_finite_images(l2l_inner *in, const char *what, l2l_tensor *x);
/* |x|_2 of n numbers, or |x - y|_2, without overflow. */
L2LADVDEF double l2l_norm2(const l2l_real *x, const l2l_real *y, int64_t n);

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
    l2l_cell cell;          /* LSTM                                                               */
    int hidden;             /* numbers of a pixel's state h: 10                                   */
    bool bias;              /* LSTM 491 parameters with, 450 without; RNN 120 without             */
    l2l_grad_input input;
    bool raw_output;        /* false: delta = scale*eps*tanh(out); true: delta = scale*eps*out    */
    double scale;           /* 0.25: no step is longer than PGD's; see l2l_method                 */
    l2l_optimizer_options optimizer; /* of phi, ascending L_phi: Adam, rate (alpha_1) 1e-2        */
    bool second_order;      /* differentiate through g_t too: exact, and several times dearer; the*/
                            /* same where the input is the sign, which has no derivative          */
    uint64_t seed;
} l2l_learned_options;
L2LADVDEF l2l_learned_options l2l_learned_default(void);

typedef struct l2l_learned l2l_learned;
/* phi begins uniform in +-1/sqrt(hidden), as PyTorch's cells and linear layers, by the seed. */
L2LADVDEF l2l_learned *l2l_learned_create(l2l_context *c, const l2l_learned_options *o);
/* Maximizers, methods and attacks that were made of it are void then. */
L2LADVDEF void l2l_learned_free(l2l_learned *m);
/* What it was made with, as long as it lives. */
L2LADVDEF const l2l_learned_options *l2l_learned_info(const l2l_learned *m);
L2LADVDEF int l2l_learned_size(const l2l_learned *m); /* number of parameters                     */
/* T and epsilon of the last training step; 0 before any. They are kept in its file. */
L2LADVDEF void l2l_learned_trained_with(const l2l_learned *m, int *T, double *epsilon);
/* phi as one array: W_ih (4HxI, gates i f g o; RNN HxI), W_hh (4HxH), b_ih (4H), W_out (H),
   b_out (1); rows as in PyTorch's LSTMCell and RNNCell. Writing to it is allowed. */
L2LADVDEF l2l_real *l2l_learned_parameters(l2l_learned *m);
/* The seam's form of it (2.8), for methods and attacks of your own: lines 7, 11, 13 and 15. */
L2LADVDEF l2l_maximizer l2l_learned_maximizer(l2l_learned *m);
/* The learned optimizer as an attack, T steps from the start of line 8. */
L2LADVDEF l2l_attack l2l_attack_learned(l2l_learned *m, double epsilon, int steps);
/* The gradient of L_phi / n of these n images by phi, l2l_learned_size numbers, after T steps. */
L2LADVDEF bool l2l_learned_gradient(l2l_learned *m, l2l_inner *in, l2l_real *gradient);

/* -- 2.11 Data sets --------------------------------------------------------------------- >>data --
   `fetch` gives image `index` as CxHxW in [0,1] and its label below `classes`, always the same;
   false, it failed, is an L2L_ERROR_CALLBACK unless it has set another error. A trainer asks for
   some images as it is made, to know the data again when it resumes. Make one with the loaders of
   2.14, from arrays, or fill in the struct yourself: examples/cifar.h does, for CIFAR-10 and
   CIFAR-100, and examples/shards.h, which streams .npy files.
   Training and evaluation cut images that are larger than the model's down to its size; smaller
   ones are an error. */
typedef struct l2l_dataset {
    l2l_context *context;
    int count, channels, height, width, classes;
    bool (*fetch)(const struct l2l_dataset *d, int index, l2l_real *chw, int *label);
    void (*release)(struct l2l_dataset *d); /* frees self; may be NULL */
    void *self;
} l2l_dataset;
/* n images NxCxHxW in [0,1] and their labels, borrowed: they must outlive the data set. Whatever
   makes a data set leaves an empty one when it fails, of which only `context` is set. */
L2LADVDEF bool l2l_dataset_from_arrays(l2l_context *c, const l2l_real *images, const int *labels,
                                       int n, int channels, int height, int width, int classes,
                                       l2l_dataset *d);
/* *d is all 0 then; the arrays that it borrowed stay. */
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
   batch norm in training mode: as in PyTorch, its statistics are each part's. The running ones move
   once for a step, by the mean of the parts' moves; until then all parts see those from before it.

   Several processes, on one machine or many, train one model: each makes the same model, maximizer,
   data set and trainer, with a `rank` of its own, and makes the same calls. Each takes every
   ranks-th part of a batch (micro_batch, if 0: batch/ranks), and all sums are taken in the order of
   the parts: bits depend on micro_batch alone, and any number of ranks, also on resuming, gives
   those of one process. Held-out images are shared out, too. Rank 0 writes the checkpoint, which
   all read; `progress` is called on each. An error or a callback's stop on one rank ends all; it is
   for `exchange` to notice that a rank is gone. With MPI: examples/mpi_train.c. */
typedef struct l2l_method {
    const char *name;
    l2l_objective objective;
    l2l_maximizer maximizer;
    l2l_outer outer;
    l2l_start start;
} l2l_method;
L2LADVDEF l2l_method l2l_method_plain(void);
L2LADVDEF l2l_method l2l_method_advtrain(void);            /* PGD (Madry et al. 2018)             */
L2LADVDEF l2l_method l2l_method_trades(double beta);       /* PGD on KL(f(x) || f(x')) from line  */
                                                           /* 8's start; l2l_outer_trades         */
L2LADVDEF l2l_method l2l_method_rnn_adv(l2l_learned *phi); /* the paper's two: in place of PGD in */
L2LADVDEF l2l_method l2l_method_rnn_trades(l2l_learned *phi, double beta); /* advtrain and trades */
/* A learned maximizer may collapse. When a single step can cross the ball (learned_options.scale 1)
   it may come to jump to a corner and stay; there neither tanh nor the projection hands it a
   gradient to learn better from: it is FGSM then, and the classifier overfits to its corners, as in
   training by FGSM (Wong et al. 2020). It shows in progress.saturated, which is 1 then, and in the
   held-out images (`validation`), which PGD attacks. */

typedef struct l2l_progress {
    int epoch, epochs;  /* epoch counts from 0                                                    */
    int64_t step, steps, step_in_epoch, steps_in_epoch; /* so many are made, of so many           */
    double loss;        /* outer loss of the last step                                            */
    double accuracy;    /* on the last step's x'_T, as line 14 sees it; -1 under an outer loss of */
                        /* your own that does not tell (l2l_outer_predicted)                      */
    double epsilon, rate; /* rate: the schedule's factor at this step, not times optimizer.rate   */
    double gain;        /* mean over the batch of L(x'_T) - L(x'_0): what the maximizer gained; 0 */
                        /* where nobody looks at x'_T. Under the outer loss cross-entropy L(x'_T) */
                        /* is line 14's, which with batch norm is in training mode                */
    double saturated;   /* share of pixels of x'_T on the border of the ball or of [0,1]          */
    bool epoch_ended;   /* then the following are new:                                            */
    double epoch_loss, epoch_accuracy;           /* means over the epoch; the second may be -1    */
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
    int64_t steps;              /* without a data set: all steps, of which warm-ups and schedule  */
                                /* are fractions. With a data set 0: they follow from epochs and  */
                                /* batch                                                          */
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
    l2l_attack validation_attack; /* name NULL: PGD-10 at epsilon. Its targets and init, borrowed */
                                /* until the trainer is freed, are of the held-out images in the  */
                                /* order in which they are fetched. One whose target is its own   */
                                /* label is not attacked, and counts as robust where it is right. */
                                /* Robust is what is right as it is and withstands the attack, by */
                                /* its record's `success`                                         */
    double averaging;           /* 0: off; else d of the averaged model, below 1: 0.995, 0.999    */
    bool stop_on_plateau;       /* see l2l_train */
    uint64_t seed;
    bool (*progress)(void *user, const l2l_progress *p); /* after each step of l2l_train; false:  */
                                /* stop. It may go back by l2l_trainer_resume                     */
    void *user;
    const char *checkpoint;     /* file, NULL: none; written after each epoch and when stopped    */
    int checkpoint_steps;       /* and every so many steps; 0: no                                 */
    bool resume;                /* go on from `checkpoint` if the file is there. It is an error   */
                                /* if it cannot be opened, or if `checkpoint` is NULL             */
    int rank, ranks;            /* this process, 0 to ranks-1, of so many; 0 or 1: it is alone    */
    /* All to all, in blocks of so many bytes: block k of `to` goes to rank k, block k of `from`
       comes from rank k (the own one, too). False, it failed, ends the training on this rank. */
    bool (*exchange)(void *exchange_user, const void *to, void *from, size_t bytes);
    void *exchange_user;
} l2l_train_options;
L2LADVDEF l2l_train_options l2l_train_default(void);

typedef struct l2l_trainer l2l_trainer;
/* The model (and phi, inside the method) are trained in place. The options and *d are copied, and
   the text of `checkpoint` and the loss_weights; all else that they point to, names too, must stay
   as long as the trainer. d may be NULL: then the images come
   by l2l_train_step alone, options.steps times, and none can be held out. What else writes to the
   model between two steps (another trainer, l2l_model_load) is undone where the next one meets
   numbers that are not finite: theta is then again what it was before this trainer's last step. */
L2LADVDEF l2l_trainer *l2l_trainer_create(l2l_model *m, const l2l_dataset *d,
                                          const l2l_train_options *o);
/* Model, phi and data set stay: they are the caller's. */
L2LADVDEF void l2l_trainer_free(l2l_trainer *t);
/* Runs to the end; true when it got there. What ends it with an error:
   - a progress callback that says stop;
   - numbers that are not finite (2.9: in the inner steps, in the losses and gradients of theta and
     phi). The theta for which they last were is kept; phi, the optimizers' moments and the number
     of steps are as they are then;
   - with stop_on_plateau, 300 steps in each of which the loss is within 0.02 of ln K and one class
     is predicted for the whole batch (of one image it always is);
   - a checkpoint that cannot be written, behind a whole step: model and maximizer can be saved, and
     with the error cleared l2l_train goes on;
   - a step that has no memory (L2L_ERROR_MEMORY), which leaves everything as it was before it: with
     the error cleared l2l_train makes the same step, or the end of an epoch that failed, again, and
     ends with the bits of a training that never lacked any.
   A log, as JSON lines: examples/training_log.h. */
L2LADVDEF bool l2l_train(l2l_trainer *t);
/* One pass of Algorithm 1, lines 5 to 16, on n images NxCxHxW of the model's size, as they are; not
   for a trainer that l2l_train shall go on with, which counts epochs by its own steps.
   *p is of no use where it fails; a step that had no memory can be made again, as above, by the
   same call. */
L2LADVDEF bool l2l_train_step(l2l_trainer *t, const l2l_real *images, const int *labels, int n,
                              l2l_progress *p);
/* A copy of the model of the best epoch by held-out robust accuracy (without held-out images, or
   before the first epoch's end: as it is now). To be freed by the caller. */
L2LADVDEF l2l_model *l2l_trainer_best(l2l_trainer *t);
/* A copy of the averaged model, to be freed by the caller: after step s its numbers, running
   statistics too, are m <- d m + (1-d) theta with d = min(averaging, (1+s)/(10+s)), which forgets
   the start as TensorFlow's ExponentialMovingAverage does. Robust training gains by it (Gowal et
   al. 2020: 0.995). Training itself, `best` and the held-out accuracy go by theta. NULL and an
   error without the option. */
L2LADVDEF l2l_model *l2l_trainer_averaged(l2l_trainer *t);
L2LADVDEF bool l2l_trainer_save(l2l_trainer *t, const char *path);   /* a checkpoint, now         */
/* A checkpoint of other settings, another model or other data is refused by the setting's name;
   what changes no result (checkpoint_steps, an attack's batch) may differ. */
L2LADVDEF bool l2l_trainer_resume(l2l_trainer *t, const char *path);
/* Room for what a program of yours has to know where a training goes on: checkpoints keep it, and
   l2l_trainer_resume brings it back. NULL for no trainer. */
typedef struct l2l_note {
    int64_t number;             /* 0 to 2^53                                                      */
    char text[640];             /* UTF-8, with a zero at its end                                  */
} l2l_note;
L2LADVDEF l2l_note *l2l_trainer_note(l2l_trainer *t);

/* -- 2.13 Evaluation ---------------------------------------------------------------- >>evaluate --
   Attacks on a data set, whose images are cut down to the model's size as in training. What else an
   evaluation is, the worst case of many attacks and reasons to doubt the numbers, is a fold over
   their records: examples/evaluation.h. */
/* l2l_attack_worst on images first .. first+n-1 of a data set, which are all in memory then.
   `init`, `targets` and `only` are of the whole data set, and random numbers go by the index in it
   (and `first` of the attack). */
L2LADVDEF bool l2l_evaluate(l2l_model *m, const l2l_attack *attacks, int n_attacks,
                            const l2l_dataset *d, int first, int n, l2l_real *adversarial,
                            l2l_record *records);
/* The share of the first `images` of a data set (0: of all) that are right under an attack, whose
   `only` is NULL, or with NULL for it on the clean images: whose returned image has the prediction
   `label`. So with targets one that is taken for a third class is not robust here, and an image
   that is wrong as it is may be. After an error it is 0. */
L2LADVDEF double l2l_accuracy(l2l_model *m, const l2l_dataset *d, int images, const l2l_attack *a);

/* -- 2.14 Files ------------------------------------------------------------------------ >>files --
   Every loader distrusts its file: sizes are checked before memory is asked for. A failed load
   leaves a model or maximizer as it was, and a data set empty. The from-memory forms work
   under L2LADV_NO_STDIO. A data set borrows what it is made from in memory until l2l_dataset_free;
   bytes become [0,1] by v/255.

   Saving writes a temporary file beside the target, PATH.l2ladv-tmpN, and renames it when every
   write has succeeded: a process killed at any time leaves the old file or the new one (a power
   failure is not covered: ISO C cannot flush a disk), and of two that save to one path the last one
   wins. On POSIX systems a symbolic link is followed, to replace what it leads to; the new file has
   the mode of the old one, and its owner if the process may give files away; a file that the
   process may not write to is refused. Other hard links to the old file keep it, and access control
   lists are not copied. A device, a pipe or a socket, and what the process has open (/dev/stdout,
   /dev/fd/N), is written in place. A temporary file that a killed process left behind is taken away
   by the next save to that path. Elsewhere, and with L2LADV_NO_POSIX, the file is replaced as
   rename does it, and two processes must not save to one path at a time. */

/* IDX (the format of MNIST): images of unsigned bytes, NxHxW, and labels. */
L2LADVDEF bool l2l_dataset_idx_memory(l2l_context *c, const void *images, size_t image_bytes,
                                      const void *labels, size_t label_bytes, int classes,
                                      l2l_dataset *d);
/* Models as safetensors, with PyTorch's names and layouts, architecture in the metadata. Loading
   needs a model of the same architecture; entries that it does not have are counted in *extra,
   missing or mis-shaped ones are an error that names them. */
L2LADVDEF bool l2l_model_load_memory(l2l_model *m, const void *data, size_t bytes, int *extra);
/* *data is owned by the context's allocator: give it back with l2l_free. */
L2LADVDEF bool l2l_model_save_memory(const l2l_model *m, void **data, size_t *bytes);
L2LADVDEF bool l2l_learned_load_memory(l2l_learned *m, const void *data, size_t bytes);
L2LADVDEF bool l2l_learned_save_memory(const l2l_learned *m, void **data, size_t *bytes);

#ifndef L2LADV_NO_STDIO
/* Both files are read whole, and kept by the data set. */
L2LADVDEF bool l2l_dataset_idx(l2l_context *c, const char *images, const char *labels, int classes,
                               l2l_dataset *d);
L2LADVDEF bool l2l_model_load(l2l_model *m, const char *path, int *extra);
L2LADVDEF bool l2l_model_save(const l2l_model *m, const char *path);
L2LADVDEF bool l2l_learned_load(l2l_learned *m, const char *path);
/* With T and epsilon of l2l_learned_trained_with, in the file's metadata. */
L2LADVDEF bool l2l_learned_save(const l2l_learned *m, const char *path);
/* Makes a model (a maximizer) from a file's own metadata. */
L2LADVDEF l2l_model *l2l_model_open(l2l_context *c, const char *path);
/* The same for a network of your own: arch, which the file must be of, forward, user, and whatever
   the file does not say are those of `o`. NULL: as l2l_model_open. */
L2LADVDEF l2l_model *l2l_model_open_as(l2l_context *c, const char *path,
                                       const l2l_model_options *o);
L2LADVDEF l2l_learned *l2l_learned_open(l2l_context *c, const char *path);
/* For files of your own (examples/npy.h): bytes as a file, written as all others are; the same with
   others in front; the first `most` bytes of a file, to be given back with l2l_free, and its
   length, which may be more. */
L2LADVDEF bool l2l_save_bytes(l2l_context *c, const char *path, const void *data, size_t bytes);
L2LADVDEF bool l2l_save_with_head(l2l_context *c, const char *path, const void *head,
                                  size_t head_bytes, const void *data, size_t bytes);
L2LADVDEF bool l2l_load_bytes(l2l_context *c, const char *path, size_t most, void **data,
                              size_t *bytes);
#endif

#ifdef __cplusplus
}
#endif
#endif /* L2LADV_H */
#if defined(L2LADV_IMPLEMENTATION) && !defined(L2LADV_IMPLEMENTED) && !defined(L2L__AGAIN)

#ifndef L2LADV_NO_STDIO
#include <errno.h>
#include <stdio.h>
#if (defined(__unix__) || defined(__APPLE__)) && !defined(L2LADV_NO_POSIX)
#define L2L__POSIX                           /* for l2l__target in chapter 14, and nothing else   */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#endif
#endif
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#if (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(__FAST_MATH__) || \
    defined(_M_FP_FAST)
#error "l2ladv: -ffinite-math-only (part of -ffast-math and -Ofast) takes the checks for NaN away"
#endif
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
#include <time.h>                            /* clock, for l2l__count_cores alone                 */
/* One macro for all pragmas: without OpenMP a bare one would be warned of. */
#define L2L__PRAGMA(x) _Pragma(#x)
#define L2L__PARALLEL(threads) L2L__PRAGMA(omp parallel for num_threads(threads) schedule(static))
#else
#define L2L__PARALLEL(threads) L2L__UNUSED(threads);
#endif
#define L2L__UNUSED(x) ((void)(x))
#ifdef __cplusplus
#define L2L__ZERO {}                         /* `l2l_x x = L2L__ZERO;`: all of it 0               */
#else
#define L2L__ZERO {0}
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __clang__
#pragma mark - 3  Algorithm 1
#endif
/* ============================================================================================ */
/*  3  ALGORITHM 1                                                               >>algorithm-1  */
/* ============================================================================================

   l2l__algorithm1 is the paper's Algorithm 1; a tag [A1:n] marks what realises its line n. It is
   written over the three interfaces of 2.8, so PGD training, a line search and the learned
   optimizer are the same function with another maximizer. What surrounds it (where batches come
   from, when to stop, what to report) stands behind l2l__sample and l2l__until_converged; that a
   batch may be too large for the memory, behind l2l__next_part and the sums of gradients. */

/* -- what the paper stands on ------------------------------------------------------------------ */

/* What is private in the chapters of the paper (3 to 6), and what they call of the others, group by
   group: they need nothing else. Words of all chapters; "part", "slice" and "lane" mean shares of
   a sum, too, where it is cut up for ranks, threads or vectors:

       part      images of a mini-batch that are taken at once (micro_batch); else all of it
       look      a pass through the classifier at x'_t: losses, predictions and gradients
       slice     a few images that one thread takes through the whole network and back
       lane      what a thread needs for its slices: a context and a model over shared parameters
       mark      a place in the arena of temporaries, which l2l_release goes back to
       slot      a parameter or a buffer of a model, with its name
       held      memory of an object, in one list that is given back at once
       sweep     what a thread needs to take a block of coordinates through T steps and back
       hunt      an attack on one batch: the inner problem and the best iterate of each image so far
       spot      an image in one pass of a search
       series    several attacks, each on the images that those before did not fool
       pass      once through the classifier, forward or back
       seam      where code of a user's own is called: objective, maximizer, outer loss, search
       bundle    named tensors and texts: a safetensors file */

typedef struct l2l__told {                   /* by a rank: of its part, and at a step's end       */
    int status;                              /* of its context                                    */
    int n, right;                            /* images, and those that are right                  */
    int guess;                               /* the class predicted for all of them or -1         */
    bool noted, stop;                        /* line 14 saw predictions; a callback says stop     */
    int64_t saturated;                       /* how many pixels of x'_T are on the border         */
    double L_theta, L_phi;                   /* the part's share of L_theta / B; its L_phi        */
    double start_loss, end_loss;             /* sums of L(f(x'_0), y), L(f(x'_T), y)              */
    double digest[4];                        /* what must be equal, see l2l__alike                */
} l2l__told;

struct l2l_trainer {
    l2l_context *context;
    l2l_model *model;                        /* f_theta                                           */
    l2l_dataset data;
    l2l_train_options options;
    l2l_optimizer *optimizer;                /* of theta                                          */
    void *held_memory;                       /* of the arrays and texts below                     */
    int n_theta;
    int64_t theta_size;                      /* numbers in all of theta                           */
    l2l_real *good;                          /* theta of the last step with finite loss, gradient */
    bool has_good, sampled;
    bool end_told;                           /* the callback is called for the end of an epoch    */
    l2l_tensor **theta, **found;             /* trainable parameters + x'_T, and their gradients  */
    l2l_real **values, **gradients;          /* the same as arrays, for the optimizer; behind     */
    int64_t *sizes;                          /* theta's values the running statistics'            */
    l2l_real *sum;                           /* over the parts: l2l__lay_out; NULL: there is 1    */
    int64_t sum_size, slice;                 /* its numbers; as many of a chunk as a rank adds up */
    l2l_real *phi_sum;                       /* the maximizer's sum, if there are other ranks,    */
    int64_t n_phi;                           /* and its numbers                                   */
    double norm;                             /* of the gradient of L_theta / B                    */
    l2l_real *buffers;                       /* running statistics before the step                */
    int64_t n_buffers;
    int ranks, round, rounds;                /* in a round every rank takes a part                */
    l2l__told part, whole, *told;            /* of the part at hand, the batch so far, all ranks  */
    char *talk;                              /* room for the ranks' texts                         */
    bool apart;                              /* an error has been told: the ranks talk no more    */
    double *w;                               /* w[0..T]                                           */
    bool cross_entropy;                      /* line 14 is the library's own: it notes its logits */
    bool one_pass;                           /* line 14's pass is also the look at x'_T           */
    int *order, *train, *held_out, n_train, n_held_out;
    int shuffled;                            /* the epoch whose order stands in `order`           */
    int64_t step;
    l2l_progress progress;
    double epoch_loss, epoch_right;
    int64_t epoch_seen;
    l2l_model *best, *mean;                  /* of the best epoch; averaged, if that is asked for */
    double best_score;
    int plateau;
    char *checkpoint;
    l2l_note note;                           /* the caller's own                                  */
    double data_digest, w_digest;            /* tell a checkpoint of other data, other weights    */
    double held_digests[3];                  /* of validation_attack's targets, init, maximizer   */
    const l2l_real *given;                   /* the caller's batch, for l2l_train_step            */
    const int *given_labels;
    int given_n;
};

/* its lines, realised below in the order of their numbers; where a batch is taken in parts, by one
   rank or several, their sums are added up in chapter 10 */
static void l2l__sample(l2l_trainer *t, l2l_inner *in);
static bool l2l__next_part(l2l_trainer *t, l2l_inner *in, l2l_mark mark);
static bool l2l__begin(const l2l_maximizer *m, l2l_inner *in);
static void l2l__start(l2l_inner *in, l2l_start kind);
static double l2l__loss_at(l2l_trainer *t, l2l_inner *in, int step);
static bool l2l__step(const l2l_maximizer *m, l2l_inner *in);
static void l2l__move(l2l_inner *in);
static double l2l__theta_gradient(l2l_trainer *t, l2l_inner *in);
static bool l2l__phi_gradient(l2l_trainer *t, l2l_inner *in);
static bool l2l__add_up(l2l_trainer *t, l2l_inner *in);
static bool l2l__ascend(const l2l_maximizer *m, l2l_inner *in);
static bool l2l__descend(l2l_trainer *t);
static bool l2l__until_converged(l2l_trainer *t, const l2l_inner *in);

/* -- Algorithm 1 ------------------------------------------------------------------------------- */

/* No line looks at what the one before returned: errors stay in the context (2.1), and with one in
   it every call does nothing. */
static void l2l__algorithm1(l2l_trainer *trainer)
{
    /* Input: data, B, alpha_1, alpha_2, T, f_theta, m_phi, all in the trainer */   /* [A1:1] */
    /* Output: f_theta and m_phi, trained in place */                               /* [A1:2] */
    /* Both come initialised: made at random, or loaded */                          /* [A1:3] */
    const l2l_method *method = &trainer->options.method;
    const l2l_maximizer *m_phi = &method->maximizer;
    l2l_mark mark = l2l_mark_here(trainer->context);
    l2l_inner in; /* the inner problem: x, y, x'_t, g_t, delta_t, L_phi */
    bool more;
    do {                                                                            /* [A1:4] */
        l2l__sample(trainer, &in);           /* M; L_theta, L_phi = 0 */            /* [A1:5] */
        while (l2l__next_part(trainer, &in, mark)) { /* n of (x,y) in M at once */  /* [A1:6] */
            l2l__begin(m_phi, &in);          /* h_0 = 0 */                          /* [A1:7] */
            l2l__start(&in, method->start);  /* x'_0 = Proj(x + noise) */           /* [A1:8] */
            if (in.T > 0) trainer->part.start_loss = l2l__loss_at(trainer, &in, 0); /* and g_0 */
            for (in.t = 0; in.t < in.T; in.t++) {                                   /* [A1:9] */
                /* g_t = grad L(f(x'_t), y) stands in in.g[t], found with the loss */ /* [A1:10] */
                l2l__step(m_phi, &in);       /* delta_t, h_{t+1} = m_phi(g_t, h_t) */ /* [A1:11] */
                l2l__move(&in);              /* x'_{t+1} = Proj(x'_t + delta_t) */  /* [A1:12] */
                in.L_phi += in.w[in.t + 1] * l2l__loss_at(trainer, &in, in.t + 1);  /* [A1:13] */
                /* where line 14 sees the same loss, its pass gives the last: l2l__looked_at */
            }
            trainer->part.L_theta = l2l__theta_gradient(trainer, &in); /* at x'_T */ /* [A1:14] */
            l2l__phi_gradient(trainer, &in); /* grad L_phi / B, added up */         /* [A1:15] */
            l2l__add_up(trainer, &in);       /* all that with the other parts */
        }
        l2l__ascend(m_phi, &in);             /* phi   += alpha_1 grad L_phi / B */  /* [A1:15] */
        l2l__descend(trainer);               /* theta -= alpha_2 grad L_theta / B */ /* [A1:16] */
        more = l2l__until_converged(trainer, &in);
        l2l_release(trainer->context, mark);
    } while (more);                                                                 /* [A1:17] */
}

/* -- what its lines stand on ------------------------------------------------------------------- */

struct l2l__kernels;                         /* the kernels of one instruction set                */
static const char *l2l__cpu_name(const l2l_context *c);
typedef struct l2l__block l2l__block;

typedef struct l2l__clock {                  /* seconds                                           */
    double wall, cpu;                        /* cpu: of all the process's threads                 */
} l2l__clock;

typedef struct l2l__core_count {             /* see l2l__count_cores                              */
    l2l__clock first, last;                  /* when the first run began and the last one ended   */
    double runs, busy, between;              /* sums: of runs, times their threads; of cpu        */
    double seen;                             /* when cores were seen to be fewer than threads; 0  */
    int cores, lanes, workers;               /* how many; what l2l__choose_threads made of it     */
} l2l__core_count;

struct l2l_context {
    l2l_allocator allocator;
    int threads;
    bool threads_looked_at;                  /* at their arithmetic: l2l__arithmetic_ok           */
    unsigned cpu;
    const struct l2l__kernels *kernels;
    l2l_status status;
    char text[512], description[128];
    size_t used, peak;                       /* bytes from the allocator                          */
    void *chunks;                            /* the arena, a list as of l2l__hold                 */
    l2l__block *newest, *free_blocks;
    uint64_t serial;
    size_t arena_size, arena_live, arena_peak;
    size_t arena_merged;                     /* arena_peak when the chunks were last made one     */
    l2l_tensor **tape;                       /* nodes in the order of their making                */
    int tape_length, tape_capacity;
    bool recording;
    l2l_model *freed;                        /* models that the tape still needs                  */
    l2l_tensor *outline;                     /* while a model is opened: see l2l__outlined        */
    l2l_context *caller;                     /* while slices run in several threads: whose        */
                                             /* parameters they read, which nobody writes then    */
    bool slicing;                            /* one slice runs, whose weights serve others, too   */
    l2l__core_count core_count;
};

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
    l2l__slot **slot;                        /* in the order of the first run                     */
    int n_slots, capacity, cursor;           /* cursor: where the next look-up begins             */
    bool creating;                           /* the first run: layers make what they miss ...     */
    const struct l2l__bundle *from;          /* ... if this file, when there is one, has it       */
    l2l_mode mode;
    bool frozen;                             /* training mode without moving running statistics   */
    bool mode_matters;                       /* some layer has asked for the mode                 */
    bool running;                            /* a forward function is at work                     */
    size_t slice_bytes;                      /* that a slice had at once; 0: not known yet        */
    int lane_room;                           /* eighths of that more, so that it fits a lane      */
    l2l_stream stream;                       /* of dropout: set by whoever runs the model         */
    const uint32_t *images;                  /* n_images indices in the data set; NULL: 0, 1, ..  */
    int n_images;
    uint32_t draws;                          /* dropout layers so far in this run                 */
    int *predicted, n_predicted;             /* where an outer loss may note its predictions      */
    struct l2l__fronts *fronts;              /* of a search; see l2l__cut_out                     */
    struct l2l__cut *cut;                    /* while a slice of a look of that search runs       */
    l2l_external external;
    l2l_model *next;                         /* in the context's list of those freed too early    */
};

struct l2l_optimizer {
    l2l_context *context;
    l2l_optimizer_options options;
    int n;
    int64_t *sizes;
    l2l_real **first, **second;              /* momentum; Adam's second moment                    */
    void *held;                              /* the memory of these arrays                        */
    int64_t steps;
};

/* of chapter 3, Algorithm 1 */
static void l2l__copy_arrays(l2l_trainer *t, int from, int to, l2l_real *at, bool back);
static l2l_tensor *l2l__inner_forward(l2l_inner *in, l2l_tensor *x);

/* of chapter 5, maximizers */
static l2l_maximizer l2l__maximizer(const char *name, bool (*step)(void *, l2l_inner *));

/* of chapter 6, methods and trainers */
static l2l_tensor *l2l__objective_ce(l2l_context *c, l2l_tensor *logits, l2l_tensor *clean,
                                     const int *labels, void *user);
static bool l2l__objective_concurrent(const l2l_objective *o);

/* of chapter 7, errors, memory, random numbers */
static size_t l2l__format(char *out, size_t capacity, const char *format, ...);
static bool l2l__fail(l2l_context *c, l2l_status status, const char *format, ...);
static bool l2l__given(l2l_context *c, const char *where, const char *what, const void *argument);
static void *l2l__allocate_array(l2l_context *c, int64_t count, size_t size);
static void *l2l__hold(l2l_context *c, void **list, int64_t count, size_t size);
static void l2l__let_go(l2l_context *c, void *list);
static char *l2l__hold_text(l2l_context *c, void **list, const char *text);
static void *l2l__arena_array(l2l_context *c, int64_t count, size_t size);
static void l2l__arena_drop(l2l_context *c, void *memory);
static l2l_stream l2l__stream(uint64_t seed, uint32_t purpose, uint32_t epoch, uint32_t image,
                              uint32_t step);
static double l2l__digest_bytes(const void *data, int64_t bytes);
static bool l2l__learned_options_ok(l2l_context *c, const l2l_learned_options *o);
static bool l2l__train_options_ok(l2l_context *c, const l2l_model *m, const l2l_dataset *d,
                                  const l2l_train_options *o);

/* of chapter 8, tensors */
static bool l2l__shape_ok(l2l_context *c, const char *where, l2l_shape s);
static bool l2l__equal(l2l_context *c, const char *where, l2l_shape a, l2l_shape b);
static bool l2l__ready(l2l_context *c, const char *where, const l2l_tensor *x);
static l2l_tensor *l2l__new(l2l_context *c, const char *where, l2l_shape s);
static bool l2l__lend(l2l_tensor *x, bool lent);
static l2l_tensor *l2l__copy(l2l_context *c, const l2l_tensor *x);
static l2l_tensor l2l__images_of(const l2l_tensor *x, int from, int n);
static void l2l__image_to_hwc(const l2l_real *chw, int channels, int64_t plane, l2l_real *hwc);

/* of chapter 9, layers */
static void l2l__touch(l2l_model *m, int i);
static l2l_tensor *l2l__forward_frozen(l2l_model *m, l2l_tensor *x, l2l_mode mode);
static bool l2l__in_slices(l2l_model *m, l2l_mode mode, int n,
                           bool (*work)(l2l_model *m, void *with, int from, int n), void *with);

enum { L2L__IMAGES = 32 };                   /* of a slice, at most                               */
typedef struct l2l__cut {                    /* of the images of a slice, see l2l__cut_out        */
    const struct l2l__fronts *fronts;
    int from;                                /* the first one in the look                         */
    int side;                                /* in tiles; 0: whole images                         */
    int top[L2L__IMAGES], left[L2L__IMAGES];
} l2l__cut;
static bool l2l__fronts_of(const struct l2l__fronts *f, const l2l_inner *in);

/* of chapter 10, losses and optimizers */
static double l2l__gradient_norm(const l2l_optimizer *o, l2l_real *const *gradients);
static bool l2l__optimizer_update(l2l_optimizer *o, l2l_real *const *values,
                                  l2l_real *const *gradients, double norm, double rate,
                                  l2l_real *before);

static bool l2l__gather(l2l_trainer *t);
static bool l2l__agree(l2l_trainer *t, const char *const what[4]);
static bool l2l__alike(l2l_trainer *t);

/* of chapter 11, attacks */
static int64_t l2l__image_size(const l2l_model_options *o);
static double l2l__norm2_scaled(const l2l_real *x, const l2l_real *y, int64_t n);
static l2l_attack l2l__attack(const char *name, double epsilon, double relative_step, int steps,
                              l2l_start start);
static void l2l__settle_step(l2l_attack *a);
static bool l2l__label_ok(l2l_context *c, const char *where, int label, int image, int classes);
static bool l2l__images_ok(l2l_context *c, const char *where, const l2l_model_options *o,
                           const l2l_real *images, const int *labels, int n);
static void l2l__hunt_lose(struct l2l__hunt *h, uint32_t image, const char *text);

/* of chapter 13, data sets */
static double l2l__data_digest(const l2l_trainer *t);
static void l2l__shuffle(int *order, int n, uint64_t seed, uint32_t purpose, uint32_t epoch);
static bool l2l__fetch(const l2l_dataset *d, const char *who, const l2l_model_options *o,
                       const l2l_augment *a, const l2l_stream *s, int index, l2l_real *chw,
                       int *label);

/* of chapter 14, files */
static bool l2l__maybe_resume(l2l_trainer *t);
static void l2l__training_digests(const l2l_trainer *t, double digest[4]);
static int64_t l2l__learned_pack_state(void *self, double *numbers);
static bool l2l__learned_unpack_state(void *self, const double *numbers, int64_t count);
static bool l2l__learned_digest(l2l_context *c, const l2l_maximizer *m, double *digest);

/* of chapter 15, kernels */
static l2l_real l2l__low(l2l_real x, l2l_real epsilon);
static l2l_real l2l__high(l2l_real x, l2l_real epsilon);
static int l2l__workers(const l2l_context *c, int64_t work);
/* Elementwise functions of x, numbers a and b and, from L2L__GATE on, another tensor y. */
enum {
    L2L__TANH, L2L__SIGMOID, L2L__EXP, L2L__LOG, L2L__POWER, L2L__ABS, L2L__SIGN, L2L__CLAMP,
    L2L__INSIDE,                             /* 1 in [a, b], else 0                               */
    L2L__AFFINE, L2L__RELU, L2L__SIGN_STEP,  /* to L2L__MUL: with kernels, see L2L__NAME(ew)      */
    L2L__GATE, L2L__PROJECT, L2L__ADD, L2L__MUL,
    L2L__IN_BALL,                            /* 1 within a of the other and in [0, 1], else 0     */
    L2L__SUB                                 /* see l2l__binary                                   */
};
static void l2l__ew(l2l_context *c, int f, int64_t n, const l2l_real *x, const l2l_real *y,
                    l2l_real a, l2l_real b, l2l_real *out);

/* -- line 5: a mini-batch ---------------------------------------------------------------------- */

/* epsilon at this step: it rises linearly during its warm-up. */
static double l2l__epsilon_now(const l2l_trainer *t)
{
    double rise = t->options.epsilon_warm_up * (double)t->progress.steps;
    double risen = rise > 0 ? (double)(t->step + 1) / rise : 1;
    return t->options.epsilon * (risen < 1 ? risen : 1);
}

/* Fills x, labels and images of `in` from the data set or from the caller's batch. */
static bool l2l__fill_batch(l2l_trainer *t, l2l_inner *in, int n, const int *which)
{
    l2l_context *c = t->context;
    const l2l_model_options *o = &t->model->options;
    int64_t plane = (int64_t)o->height * o->width, one = plane * o->channels;
    int *labels = (int *)l2l__arena_array(c, n, sizeof *labels);
    uint32_t *images = (uint32_t *)l2l__arena_array(c, n, sizeof *images);
    l2l_real *chw = (l2l_real *)l2l__arena_array(c, one, sizeof *chw);
    l2l_stream s = l2l__stream(t->options.seed, L2L_RANDOM_AUGMENT, (uint32_t)t->progress.epoch, 0,
                               0);
    in->x = l2l__new(c, "batch", l2l_shape_of(n, o->height, o->width, o->channels));
    for (int i = 0; i < n && !c->status; i++) {
        const l2l_real *from = t->given ? t->given + (in->first + i) * one : chw;
        images[i] = (uint32_t)(t->given ? in->first + i : which[i]);
        if (t->given) labels[i] = t->given_labels[in->first + i];
        else {
            s.image = images[i];
            if (!l2l__fetch(&t->data, "training", o, &t->options.augment, &s, which[i], chw,
                            &labels[i]))
                return false;
        }
        if (!l2l__label_ok(c, "training", labels[i], (int)images[i], o->classes)) return false;
        l2l__image_to_hwc(from, o->channels, plane, in->x->data + i * one);
    }
    l2l__arena_drop(c, chw);
    in->labels = labels;
    in->images = images;
    return !c->status;
}

/* Images of a part, of a mini-batch of n. */
static int l2l__part_size(const l2l_trainer *t, int n)
{
    int most = t->options.micro_batch;
    return most && most < n ? most : n;
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
    t->context->threads_looked_at = false;
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
    t->round = 0;
    t->rounds = (int)((n - 1) / ((int64_t)l2l__part_size(t, n) * t->ranks)) + 1;
    memset(&t->whole, 0, sizeof t->whole);
    l2l__copy_arrays(t, t->n_theta, t->model->n_slots, t->buffers, false);
    t->sampled = true;
}

/* -- line 6: in parts that fit the memory ------------------------------------------------------ */

/* Room for the sums over the parts: in chunks of `ranks` slices, of a million numbers at most. */
static bool l2l__make_sum(l2l_trainer *t)
{
    int64_t n = t->theta_size + t->n_buffers + t->n_phi, chunks = (n >> 20) + 1;
    if (t->sum) return true;
    t->slice = (n - 1) / (chunks * t->ranks) + 1;
    t->sum_size = chunks * t->ranks * t->slice;
    t->sum = (l2l_real *)l2l__hold(t->context, &t->held_memory, t->sum_size, sizeof *t->sum);
    return t->sum != NULL;
}

/* Of t->values those numbered from .. to-1 are kept, so that a step that fails can take them
   back. */
static void l2l__copy_arrays(l2l_trainer *t, int from, int to, l2l_real *at, bool back)
{
    for (; from < to; at += t->sizes[from++])
        memcpy(back ? t->values[from] : at, back ? at : t->values[from],
               (size_t)t->sizes[from] * sizeof *at);
}

/* Makes room for one batch in the arena; the caller's mark gives it back. For maximizers that learn
   x'_0 and every g_t are kept, else one buffer serves all g_t. What else is in `in` is set by the
   caller. */
static bool l2l__inner_open(l2l_inner *in, bool learns)
{
    l2l_context *c = in->context;
    in->shape = in->x->shape;
    in->n = in->shape.n;
    in->t = 0;
    in->clean_logits = NULL;
    in->adv = l2l__new(c, "inner problem", in->shape);
    in->delta = l2l_zeros(c, in->shape);
    for (int t = 0; in->maximizer && t < in->maximizer->memory; t++)
        in->memory[t] = l2l__new(c, "inner problem", in->shape);
    in->start = learns ? l2l__new(c, "inner problem", in->shape) : NULL;
    in->g = (l2l_tensor **)l2l__arena_array(c, (int64_t)in->T + 1, sizeof *in->g);
    in->loss = (l2l_real *)l2l__arena_array(c, in->n, sizeof *in->loss);
    in->predicted = (int *)l2l__arena_array(c, in->n, sizeof *in->predicted);
    for (int i = 0; in->predicted && i < in->n; i++) { /* of 0 steps nobody may look              */
        in->loss[i] = 0;
        in->predicted[i] = 0;
    }
    for (int t = 0; in->g && t <= in->T; t++)
        in->g[t] = t && !learns ? in->g[0] : l2l__new(c, "inner problem", in->shape);
    return !c->status;
}

/* The clean logits of objectives that compare with them: a constant of the inner problem. t = -1
   names the clean image in errors. */
static bool l2l__inner_clean(l2l_inner *in)
{
    l2l_context *c = in->context;
    const int t = in->t;
    bool was;
    if (!in->objective->needs_clean) return !c->status;
    was = l2l_set_recording(c, false);
    in->t = -1;
    in->clean_logits = l2l__inner_forward(in, in->x);
    in->t = t;
    l2l_set_recording(c, was);
    return !c->status;
}

/* A part of M, all of it unless micro_batch is less, in the memory of the part before. */
static bool l2l__open_part(l2l_trainer *t, l2l_inner *in, int first, l2l_mark mark)
{
    int n = l2l__part_size(t, in->batch);
    int64_t at = t->given ? 0 : t->progress.step_in_epoch * t->options.batch + first;
    l2l_release(t->context, mark);
    if (n > in->batch - first) n = in->batch - first;
    in->first = first;
    if (((t->rounds > 1 || t->ranks > 1) && !l2l__make_sum(t)) ||
        !l2l__fill_batch(t, in, n, t->order + at))
        return false;
    t->part.n = n;
    t->model->stream = in->stream;
    t->model->images = in->images;
    t->model->n_images = n;
    return l2l__inner_open(in, t->options.method.maximizer.gradient != NULL) &&
           l2l__inner_clean(in);
}

/* Of each round of parts the one of this rank. The last round has perhaps none for it: then, as
   after an error, it adds nothing, but still has to exchange with the others. */
static bool l2l__next_part(l2l_trainer *t, l2l_inner *in, l2l_mark mark)
{
    int64_t first = ((int64_t)t->round * t->ranks + t->options.rank) * l2l__part_size(t, in->batch);
    if (t->round == t->rounds) return false;
    memset(&t->part, 0, sizeof t->part);
    if (!t->context->status && first < in->batch && l2l__open_part(t, in, (int)first, mark))
        return true;
    t->part.n = 0;
    l2l__add_up(t, in);
    return false;
}

/* -- lines 7 and 8: begin, start --------------------------------------------------------------- */

/* h_0 = 0, or whatever state a maximizer has. */
static bool l2l__begin(const l2l_maximizer *m, l2l_inner *in)
{
    if (in->context->status) return false;
    for (int i = 0; i < m->memory; i++)
        memset(in->memory[i]->data, 0, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    return !m->begin || m->begin(m->self, in) ||
           l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' could not begin",
                     m->name);
}

/* |x|_2 of one image; with y of x - y. */
L2LADVDEF double l2l_norm2(const l2l_real *x, const l2l_real *y, int64_t n)
{
    double sum = 0;
    if (!x) return 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - (y ? (double)y[i] : 0);
        sum += d * d;
    }
    return sum <= 1e-280 || sum > DBL_MAX ? l2l__norm2_scaled(x, y, n) : sqrt(sum);
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
            double norm = l2l_norm2(z, x, one);
            if (norm <= in->epsilon) continue;
            shrink = (l2l_real)(in->epsilon / norm);
            for (int64_t j = 0; j < one; j++) z[j] = x[j] + shrink * (z[j] - x[j]);
        }
    }
    l2l__ew(in->context, L2L__PROJECT, count, in->adv->data, in->x->data, (l2l_real)epsilon, 0,
            in->adv->data);
}

/* The place in C,H,W order of element i of an image HxWxC. */
static uint32_t l2l__chw(l2l_shape s, int64_t i)
{
    return (uint32_t)(i % s.c * s.h * s.w + i / s.c);
}

/* Noise on an image of `one` numbers. Uniform in an l2 ball: along N(0,I), epsilon u^(1/one). u is
   the first number behind those of the normals, which take them in pairs. */
static void l2l__add_noise(const l2l_inner *in, l2l_start kind, const l2l_stream *s, int64_t one,
                           l2l_real *x)
{
    const bool along = in->norm == L2L_L2 && kind == L2L_START_UNIFORM;
    double scale = kind == L2L_START_NORMAL ? 0.001 : in->epsilon, sum = 0;
    for (int64_t i = 0; along && i < one; i++) {
        double z = l2l_random_normal(s, (uint32_t)i);
        sum += z * z;
    }
    if (along)
        scale = scale * pow(l2l_random_uniform(s, (uint32_t)(one + (one & 1))), 1 / (double)one) /
                sqrt(sum);
    for (int64_t i = 0; i < one; i++) {
        uint32_t e = l2l__chw(in->shape, i);
        x[i] += (l2l_real)(scale * (along || kind == L2L_START_NORMAL
                                        ? l2l_random_normal(s, e)
                                        : 2 * l2l_random_uniform(s, e) - 1));
    }
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
            s.purpose = L2L_RANDOM_START;
            s.image = in->images[n];
            l2l__add_noise(in, kind, &s, one, in->adv->data + n * one);
        }
        l2l__into_ball(in);
    }
    if (in->start)
        memcpy(in->start->data, in->adv->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
}

/* -- line 10: the look at x'_t ----------------------------------------------------------------- */

/* The bits of a number, its exponent's, and the lowest of those: an exponent of all ones, that of
   infinity and NaN, and 1 more make the sign's bit, which no other exponent reaches. Arithmetic
   (x - x) would not do: compilers that may reorder sums take it for 0. */
#ifdef L2LADV_DOUBLE
typedef uint64_t l2l__bits;
static const l2l__bits l2l__exponent = 0x7FF0000000000000u, l2l__exponent_1 = 0x0010000000000000u;
#else
typedef uint32_t l2l__bits;
static const l2l__bits l2l__exponent = 0x7F800000u, l2l__exponent_1 = 0x00800000u;
#endif

/* Of n numbers the first that is not finite, or n. Eight at a time, which compilers make vectors
   of, tell whether there is one to look for. */
static int64_t l2l__not_finite_at(const l2l_real *x, int64_t n)
{
    l2l__bits any[8] = {0}, some = 0, v;
    int64_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        for (int j = 0; j < 8; j++) {
            memcpy(&v, x + i + j, sizeof v);
            any[j] |= (v & l2l__exponent) + l2l__exponent_1;
        }
    }
    for (int j = 0; j < 8; j++) some |= any[j];
    for (i = some > l2l__exponent ? 0 : i; i < n; i++) {
        memcpy(&v, x + i, sizeof v);
        if ((v & l2l__exponent) == l2l__exponent) break;
    }
    return i;
}

static const char l2l__a_logit[] = "the logit of class";
static const char l2l__a_gradient[] = "the gradient of pixel";

/* All numbers of x, `what` they are, are finite. An image where they are not ends training, or the
   attack on it unless it is done; zeros stand for them, so that nothing else is spoilt. */
L2LADVDEF void l2l_finite_images(l2l_inner *in, const char *what, l2l_tensor *x)
{
    if (!in || !x || !x->data) return;
    if (x->shape.n != in->n)
        l2l__fail(in->context, L2L_ERROR_SHAPE, "l2l_finite_images: %s of %d images, not %d", what,
                  x->shape.n, in->n);
    int64_t one = l2l_count(x->shape) / x->shape.n, at;
    char when[32] = "the clean image", number[24] = "", text[160];
    for (int i = 0; i < x->shape.n && !in->context->status; i++) {
        l2l_real *v = x->data + i * one;
        if ((at = l2l__not_finite_at(v, one)) == one) continue;
        if (!in->done || !in->done[i]) {
            if (in->t >= 0) l2l__format(when, sizeof when, "step %d", in->t);
            if (one > 1) l2l__format(number, sizeof number, " %d", (int)l2l__chw(x->shape, at));
            l2l__format(text, sizeof text, "image %d, %s: %s%s is %g, not finite",
                        (int)in->images[i], when, what, number, (double)v[at]);
            if (in->hunt) l2l__hunt_lose(in->hunt, in->images[i], text);
            else l2l__fail(in->context, L2L_ERROR_NUMERIC, "%s", text);
        }
        memset(v, 0, (size_t)one * sizeof *v);
    }
}

/* Logits at x. Looking leaves no trace in running statistics. */
static l2l_tensor *l2l__inner_forward(l2l_inner *in, l2l_tensor *x)
{
    l2l_tensor *z = in->context->status ? NULL : l2l__forward_frozen(in->model, x, in->mode);
    in->forwards++;
    if (z) l2l_finite_images(in, l2l__a_logit, z);
    return in->context->status ? NULL : z;
}

/* L: the objective, with targets minus it, and cut off. */
static l2l_tensor *l2l__inner_loss(l2l_inner *in, l2l_tensor *logits)
{
    l2l_context *c = in->context;
    const l2l_objective *o = in->objective;
    bool lent = l2l__lend(logits, true), clean = l2l__lend(in->clean_logits, true);
    l2l_tensor *losses = logits ? o->loss(c, logits, in->clean_logits, in->labels, o->user) : NULL;
    l2l__lend(logits, lent);
    l2l__lend(in->clean_logits, clean);
    if (!losses) l2l__fail(c, L2L_ERROR_CALLBACK, "the inner objective returned NULL");
    if (losses && in->targeted) losses = l2l_affine(c, losses, -1, 0);
    if (losses && o->cut)
        losses = l2l_sub(c, losses, l2l_relu(c, l2l_affine(c, losses, 1, -o->confidence)));
    return losses;
}

/* Losses and predictions of a pass go into `in`. */
static bool l2l__note(l2l_inner *in, const l2l_tensor *logits, l2l_tensor *loss)
{
    l2l_context *c = in->context;
    if (!logits || !loss || !l2l__ready(c, "the inner objective's loss", loss) ||
        !l2l__equal(c, "the inner objective's loss", loss->shape, l2l_shape_of(in->n, 1, 1, 1)))
        return false;
    l2l_finite_images(in, "the loss", loss);
    memcpy(in->loss, loss->data, (size_t)in->n * sizeof *in->loss);
    return !c->status && l2l_predict(c, logits, in->predicted);
}

/* One pass through the classifier at x'_t: in->loss, in->predicted and, if asked for, in->g[t].
   The loss is summed over images, so that g is every image's own gradient. */
static bool l2l__look_whole(l2l_inner *in, int t, bool gradient)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, gradient);
    l2l_tensor *logits = l2l__inner_forward(in, in->adv), *loss, *sum, *g;
    loss = l2l__inner_loss(in, logits);
    if (l2l__note(in, logits, loss) && gradient) {
        sum = l2l_sum(c, loss);
        in->backwards++;
        if (sum && l2l_grad(c, sum, &in->adv, 1, &g, L2L_FREE_GRAPH)) {
            l2l_finite_images(in, l2l__a_gradient, g);
            memcpy(in->g[t]->data, g->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
        }
    }
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !c->status;
}

/* The same of n of its images, from number `from` on, by a model that may be another thread's. */
typedef struct l2l__looked {
    l2l_inner *in;
    int t;
    bool gradient;
} l2l__looked;

/* The inner problem of these images alone: pointers into the arrays of the whole one. */
static bool l2l__look_slice(l2l_model *m, void *look, int from, int n)
{
    const l2l__looked *all = (const l2l__looked *)look;
    l2l_inner in = *all->in;
    l2l_tensor x = l2l__images_of(in.adv, from, n), clean, g, *here = &g;
    l2l__cut cut;
    bool ok;
    if (all->gradient) g = l2l__images_of(in.g[all->t], from, n);
    if (in.clean_logits) {
        clean = l2l__images_of(in.clean_logits, from, n);
        in.clean_logits = &clean;
    }
    in.context = m->context;
    in.model = m;
    in.n = in.shape.n = n;
    in.adv = &x;
    in.g = &here;
    in.labels += from;
    in.images += from;
    in.loss += from;
    in.predicted += from;
    in.hunt = NULL;                          /* what is not finite is for the whole look to tell  */
    if (in.done) in.done += from;
    cut.fronts = m->fronts;
    cut.from = from;
    m->cut = l2l__fronts_of(cut.fronts, all->in) && !all->gradient ? &cut : NULL;
    ok = l2l__look_whole(&in, 0, all->gradient);
    m->cut = NULL;
    return ok;
}

/* That pass, slice by slice where it may be. Returns sum L. */
static double l2l__look(l2l_inner *in, int t, bool gradient)
{
    l2l__looked all;
    double total = 0;
    all.in = in;
    all.t = t;
    all.gradient = gradient;
    if (l2l__objective_concurrent(in->objective) &&
        l2l__in_slices(in->model, in->mode, in->n, l2l__look_slice, &all)) {
        in->forwards++;
        in->backwards += gradient;
    } else {
        l2l__look_whole(in, t, gradient);
    }
    for (int i = 0; i < in->n && !in->context->status; i++) total += (double)in->loss[i];
    return total;
}

/* -- lines 11 to 13: the step, the move, L_phi ------------------------------------------------- */

/* delta_t from g_t. */
static bool l2l__step(const l2l_maximizer *m, l2l_inner *in)
{
    if (in->context->status) return false;
    return m->step(m->self, in) ||
           l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' failed at step %d",
                     m->name, in->t);
}

/* x'_{t+1} = Proj(x'_t + delta_t) */
static void l2l__move(l2l_inner *in)
{
    if (in->context->status) return;
    l2l_finite_images(in, "the maximizer's step of pixel", in->delta);
    l2l__ew(in->context, L2L__ADD, l2l_count(in->shape), in->adv->data, in->delta->data, 0, 0,
            in->adv->data);
    l2l__into_ball(in);
}

/* sum of L(f(x'_t), y) over the part, by the pass that also finds g_t. Nobody looks at x'_T but a
   maximizer that learns, and where line 14 computes the same function, its pass is the look. */
static double l2l__loss_at(l2l_trainer *t, l2l_inner *in, int step)
{
    const int now = in->t;
    if (step == in->T && (!t->options.method.maximizer.gradient || t->one_pass)) return 0;
    in->t = step;                            /* which errors name                                 */
    double sum = l2l__look(in, step, true);
    in->t = now;
    return sum;
}

/* -- line 14 ----------------------------------------------------------------------------------- */

/* What line 14 saw of the cross-entropy. Where that is the objective its losses are L(f(x'_T), y),
   cut off as the objective is; else in->loss stays what a look at x'_T has left there. */
static bool l2l__outer_note(l2l_inner *in, const l2l_tensor *logits, l2l_tensor *loss)
{
    const l2l_objective *o = in->objective;
    if (!logits || !loss) return false;
    if (o->loss != l2l__objective_ce) return l2l_predict(in->context, logits, in->predicted);
    if (!l2l__note(in, logits, loss)) return false;
    for (int i = 0; o->cut && i < in->n; i++)
        if ((double)in->loss[i] > o->confidence) in->loss[i] = (l2l_real)o->confidence;
    return true;
}

/* L_theta / n on the tape, of the part's n images. The cross-entropy is computed here, where its
   logits give the accuracy. */
static l2l_tensor *l2l__outer_loss(l2l_trainer *t, l2l_inner *in)
{
    l2l_outer *outer = &t->options.method.outer;
    l2l_context *c = t->context;
    l2l_tensor *logits, *loss;
    if (!t->cross_entropy) {
        int seen = in->predicted[0];         /* by the look at x'_T, if there was one             */
        in->predicted[0] = -1;
        t->model->predicted = in->predicted;
        l2l__lend(in->x, true);
        l2l__lend(in->adv, true);
        t->model->n_predicted = in->n;
        loss = outer->loss(t->model, in->x, in->adv, in->labels,
                           outer->user ? outer->user : outer->number);
        l2l__lend(in->x, false);
        l2l__lend(in->adv, false);
        t->model->predicted = NULL;
        t->part.noted = in->predicted[0] >= 0;
        if (!t->part.noted) in->predicted[0] = seen;
        return loss;
    }
    t->part.noted = true;
    logits = l2l_model_forward(t->model, in->adv, L2L_TRAIN);
    if (logits) l2l_finite_images(in, l2l__a_logit, logits);
    loss = logits && !c->status ? l2l_cross_entropy(c, logits, in->labels) : NULL;
    return l2l__outer_note(in, logits, loss) ? l2l_mean(c, loss) : NULL;
}

/* A loss that is no longer finite is the fault of the step before: theta goes back to where the
   loss and its gradient last were (the optimizer's moments do not). */
static void l2l__copy_theta(l2l_trainer *t, bool back)
{
    if (back && !t->has_good) return;
    l2l__copy_arrays(t, 0, t->n_theta, t->good, back);
    for (int i = 0; back && i < t->model->n_slots; i++) l2l__touch(t->model, i);
    t->has_good = true;
}

/* Where line 14's pass is the look, too: g_T (of the sum, not the mean) and w_T L(f(x'_T), y). */
static void l2l__looked_at(l2l_trainer *t, l2l_inner *in)
{
    double total = 0;
    l2l__ew(t->context, L2L__AFFINE, l2l_count(in->shape), t->found[t->n_theta]->data, NULL,
            (l2l_real)in->n, 0, in->g[in->T]->data);
    l2l_finite_images(in, l2l__a_gradient, in->g[in->T]);
    for (int i = 0; i < in->n; i++) total += (double)in->loss[i];
    in->L_phi += in->w[in->T] * total;       /* the last of [A1:13]                               */
}

/* The length of t->gradients, of the part at hand, then of the batch: finite if and only if they
   are, which the check and the optimizer go by. */
static bool l2l__measure_gradient(l2l_trainer *t)
{
    t->norm = l2l__gradient_norm(t->optimizer, t->gradients);
    return t->norm <= DBL_MAX || l2l__fail(t->context, L2L_ERROR_NUMERIC, "the gradient of the "
                                           "outer loss is not finite");
}

static const char l2l__the_outer_loss[] = "the outer loss";

/* The part's share of L_theta / B at x'_T, and the gradient of the mean loss of the part in theta.
   Checked before anything is updated. */
static double l2l__theta_gradient(l2l_trainer *t, l2l_inner *in)
{
    l2l_context *c = t->context;
    bool was, look = t->one_pass && t->options.method.maximizer.gradient;
    double value = 0;
    if (c->status) return 0;
    was = l2l_set_recording(c, true);
    l2l_tensor *loss = l2l__outer_loss(t, in);
    if (!loss) l2l__fail(c, L2L_ERROR_CALLBACK, "the outer loss returned NULL");
    else if (l2l__ready(c, l2l__the_outer_loss, loss))
        l2l__equal(c, l2l__the_outer_loss, loss->shape, l2l_shape_of(1, 1, 1, 1));
    value = l2l_item(c, loss);
    if (!c->status && !(fabs(value) <= DBL_MAX))
        l2l__fail(c, L2L_ERROR_NUMERIC, "the outer loss is %g, not finite", value);
    t->theta[t->n_theta] = in->adv;
    if (loss && l2l_grad(c, loss, t->theta, t->n_theta + look, t->found, L2L_FREE_GRAPH)) {
        for (int i = 0; i < t->n_theta; i++) t->gradients[i] = t->found[i]->data;
        l2l__measure_gradient(t);
        if (look) l2l__looked_at(t, in);
    }
    l2l_set_recording(c, was);
    return value * ((double)in->n / in->batch);
}

/* Exchanges running statistics that were kept and those of now. */
static void l2l__swap_buffers(l2l_trainer *t)
{
    l2l_real *at = t->buffers;
    for (int i = t->n_theta; i < t->model->n_slots; i++)
        for (int64_t k = 0; k < t->sizes[i]; k++, at++) {
            l2l_real kept = *at;
            *at = t->values[i][k];
            t->values[i][k] = kept;
        }
}

/* -- line 15, the gradient --------------------------------------------------------------------- */

/* The maximizer may run the classifier again (second order), and must see the one of the inner
   steps: line 14 has moved its running statistics. */
static bool l2l__phi_gradient(l2l_trainer *t, l2l_inner *in)
{
    const l2l_maximizer *m = &t->options.method.maximizer;
    if (in->context->status) return false;
    if (!m->gradient) return true;
    if (t->n_phi)                            /* the part's alone                                  */
        memset(t->phi_sum, 0, (size_t)t->n_phi * sizeof *t->phi_sum);
    l2l__swap_buffers(t);
    bool ok = m->gradient(m->self, in) ||
              l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' found no gradient",
                        m->name);
    l2l__swap_buffers(t);
    return ok;
}

/* -- lines 15 and 16 --------------------------------------------------------------------------- */

static bool l2l__ascend(const l2l_maximizer *m, l2l_inner *in)
{
    if (in->context->status) return false;
    return !m->update || m->update(m->self, in) ||
           l2l__fail(in->context, L2L_ERROR_CALLBACK, "the maximizer '%s' could not be updated",
                     m->name);
}

static bool l2l__descend(l2l_trainer *t)
{
    if (t->context->status) return false;
    /* Every part's loss and gradient were finite: theta is good, and kept as it was. */
    if (!l2l__optimizer_update(t->optimizer, t->values, t->gradients, t->norm, t->progress.rate,
                               t->good)) {
        l2l__copy_theta(t, false);
        return false;
    }
    t->has_good = true;
    for (int i = 0; i < t->model->n_slots; i++) l2l__touch(t->model, i);
    return true;
}

/* -- line 17: what happens between two steps --------------------------------------------------- */

/* *part becomes an attack for the images from number `first` on. */
static void l2l__attack_from(l2l_attack *part, const l2l_attack *all, int first, int64_t one)
{
    part->first = all->first + (uint32_t)first;
    part->init = all->init ? all->init + first * one : NULL;
    part->targets = all->targets ? all->targets + first : NULL;
    part->only = all->only ? all->only + first : NULL;
}

/* After a step that failed: running statistics as before it and, if its numbers were not finite,
   theta for which they last were.

   So a step that lacks memory anywhere has changed nothing. Of what the next step does not make
   anew, lines 5 to 14 write to running statistics alone (h and c begin again, the maximizer's sum
   with its first part; random numbers go by step and image); and from the first write to phi (line
   15) to the last to theta (line 16) nothing asks for memory, which must stay so, also in `update`
   of a maximizer of one's own. On the way there NULL goes through all operations, whose first look
   is at the error, and l2l_vjp and l2l__run put back the tape and the modes. With several ranks,
   the others are told at the next exchange. */
static void l2l__go_back(l2l_trainer *t, const char *what)
{
    l2l_context *c = t->context;
    char text[sizeof c->text];
    if (t->sampled) l2l__copy_arrays(t, t->n_theta, t->model->n_slots, t->buffers, true);
    if (c->status != L2L_ERROR_NUMERIC) return;
    l2l__copy_theta(t, true);
    memcpy(text, c->text, sizeof text);
    l2l__format(c->text, sizeof c->text, "training, %s %z, %s; the parameters of the last good "
                "step were kept", what, t->step, text);
}

/* Natural and robust accuracy on the held-out images, some for each rank. */
static bool l2l__validate(l2l_trainer *t)
{
    l2l_context *c = t->context;
    const l2l_model_options *o = &t->model->options;
    l2l_attack a = t->options.validation_attack;
    int64_t one = l2l__image_size(o);
    int n, natural = 0, robust = 0, labels[100], part = l2l__part_size(t, t->options.batch);
    int most = part < 100 ? part : 100;      /* no more memory than training takes                */
    l2l_record records[100];
    l2l_mark mark = l2l_mark_here(c);
    memset(&t->part, 0, sizeof t->part);
    l2l_real *x = (l2l_real *)l2l__arena_array(c, most * one, sizeof *x);
    l2l_real *adversarial = (l2l_real *)l2l__arena_array(c, most * one, sizeof *adversarial);
    for (int i = 0; i < t->n_held_out && !c->status; i += n) {
        n = t->n_held_out - i < most ? t->n_held_out - i : most;
        if (i / most % t->ranks != t->options.rank) continue;
        for (int j = 0; j < n && !c->status; j++)
            l2l__fetch(&t->data, "validation", o, NULL, NULL, t->held_out[i + j], x + j * one,
                       &labels[j]);
        l2l__attack_from(&a, &t->options.validation_attack, i, one);
        if (!l2l_attack_run(t->model, &a, x, labels, n, adversarial, records)) break;
        for (int j = 0; j < n; j++) {
            t->part.n += records[j].clean == labels[j];
            t->part.right += records[j].clean == labels[j] && !records[j].success;
        }
    }
    l2l__gather(t);
    for (int r = 0; r < t->ranks && !c->status; r++) {
        natural += t->told[r].n;
        robust += t->told[r].right;
    }
    t->progress.validation_natural = (double)natural / t->n_held_out;
    t->progress.validation_robust = (double)robust / t->n_held_out;
    l2l_release(c, mark);
    if (c->status == L2L_ERROR_NUMERIC) l2l__go_back(t, "validation after step");
    return !c->status;
}

static bool l2l__end_epoch(l2l_trainer *t)
{
    l2l_progress *p = &t->progress;
    p->epoch_ended = true;
    p->epoch_loss = t->epoch_seen ? t->epoch_loss / (double)t->epoch_seen : 0;
    p->epoch_accuracy = p->accuracy < 0 || !t->epoch_seen ? -1
                                                          : t->epoch_right / (double)t->epoch_seen;
    if (t->n_held_out == 0) return true;
    if (!l2l__validate(t)) return false;
    p->best = p->validation_robust > t->best_score;
    if (!p->best) return true;
    if (!t->best) t->best = l2l_model_clone(t->context, t->model);
    else l2l_model_copy(t->best, t->model);
    if (!l2l__gather(t)) return false;       /* on every rank, or the end stays owed on all     */
    t->best_score = p->validation_robust;
    return true;
}

/* Adversarial training can sit on the loss of a constant guess: ln K with one class for
   everything. */
static bool l2l__plateau(l2l_trainer *t)
{
    int classes = t->model->options.classes;
    bool constant = t->progress.accuracy >= 0 && t->whole.guess >= 0;
    if (!constant || fabs(t->progress.loss - log((double)classes)) > 0.02) t->plateau = 0;
    else if (t->plateau < INT_MAX) t->plateau++;
    if (!t->options.stop_on_plateau || t->plateau < 300) return false;
    l2l__fail(t->context, L2L_ERROR_NUMERIC, "training sits on a plateau: in each of %d steps the "
              "loss is ln %d and one class is predicted for the whole batch; try a longer "
              "epsilon_warm_up, a smaller rate or another seed", t->plateau, classes);
    return true;
}

static void l2l__report(l2l_trainer *t, const l2l_inner *in)
{
    const l2l_method *m = &t->options.method;
    const l2l__told *whole = &t->whole;
    l2l_progress *p = &t->progress;
    int64_t one = l2l__image_size(&t->model->options);
    bool looked = m->maximizer.gradient != NULL ||
                  (t->cross_entropy && m->objective.loss == l2l__objective_ce);
    p->loss = whole->L_theta;
    p->epsilon = in->epsilon;
    p->gain = in->T > 0 && looked ? (whole->end_loss - whole->start_loss) / in->batch : 0;
    p->saturated = (double)whole->saturated / (double)(one * in->batch);
    p->epoch_ended = p->best = false;
    p->accuracy = whole->noted ? (double)whole->right / in->batch : -1;
    if (t->given) return;
    t->epoch_loss += p->loss * in->batch;
    t->epoch_right += whole->right;
    t->epoch_seen += in->batch;
}

/* The last step's parameters have no next loss that would tell. */
static bool l2l__last_finite(l2l_trainer *t)
{
    const int64_t *sizes = t->sizes;
    int i = t->step < t->progress.steps ? t->n_theta : 0;
    while (i < t->n_theta && l2l__not_finite_at(t->values[i], sizes[i]) == sizes[i]) i++;
    if (i == t->n_theta) return true;
    l2l__copy_theta(t, true);
    return l2l__fail(t->context, L2L_ERROR_NUMERIC, "the last step's parameters are not finite; "
                     "those of the step before were kept");
}

/* m <- d m + (1-d) theta, in every number of the model; not by numbers that are not finite, of
   which the next step's loss will tell. */
static void l2l__average_theta(l2l_trainer *t)
{
    double s = (double)t->step, d = fmin(t->options.averaging, (1 + s) / (10 + s));
    for (int k = 0; t->mean && k < t->model->n_slots; k++)
        if (l2l__not_finite_at(t->values[k], t->sizes[k]) < t->sizes[k]) return;
    for (int k = 0; t->mean && k < t->model->n_slots; k++) {
        const l2l_real *theta = t->model->slot[k]->value.data;
        l2l_real *m = t->mean->slot[k]->value.data;
        int64_t n = l2l_count(t->model->slot[k]->value.shape), i;
        L2L__PARALLEL(l2l__workers(t->context, n))
        for (i = 0; i < n; i++) m[i] += (l2l_real)((1 - d) * ((double)theta[i] - (double)m[i]));
        l2l__touch(t->mean, k);
    }
}

/* Was the last step that of an epoch whose end is still to come? So it is behind every epoch's last
   step, and stays where that end failed, for want of memory or by held-out images' callback. */
static bool l2l__epoch_is_owed(const l2l_trainer *t)
{
    return t->step > 0 && t->progress.step_in_epoch == t->progress.steps_in_epoch;
}

/* What follows a step: at the end of an epoch the held-out images, then the callback. Where the
   former fail, the epoch's end stays owed, and the next l2l_train, also of a trainer that went on
   from a checkpoint, begins with it. A checkpoint of the callback's own is behind the epoch; it may
   also go back to one. */
static void l2l__after_step(l2l_trainer *t)
{
    l2l_progress *p = &t->progress;
    const l2l_train_options *o = &t->options;
    const int64_t step = t->step;
    bool ended = l2l__epoch_is_owed(t), ok = !ended || l2l__end_epoch(t);
    memset(&t->part, 0, sizeof t->part);
    if (ended && ok) {
        t->epoch_loss = t->epoch_right = 0;
        t->epoch_seen = 0;
    }
    t->end_told = ended && ok;
    if (ok && o->progress) t->part.stop = !o->progress(o->user, p);
    t->end_told = false;
    if (!l2l__epoch_is_owed(t)) return;
    if (t->step != step && !t->part.stop && !t->context->status) {
        l2l__after_step(t);                  /* the callback has gone back to an end that is owed */
    } else if (t->step == step && ok) {
        p->epoch++;
        p->step_in_epoch = 0;
    }
}

/* A step that is over is counted and reported. */
static void l2l__end_step(l2l_trainer *t, const l2l_inner *in)
{
    l2l__report(t, in);
    t->progress.step = ++t->step;
    l2l__average_theta(t);
    if (!t->given) t->progress.step_in_epoch++;
    if (l2l__last_finite(t) && !t->given && !l2l__plateau(t)) l2l__after_step(t);
    else memset(&t->part, 0, sizeof t->part);
}

/* Saves. True while there is more to do, which all ranks agree upon. */
static bool l2l__go_on(l2l_trainer *t)
{
    l2l_progress *p = &t->progress;
    const l2l_train_options *o = &t->options;
    bool stop = false;
    if (!(p->epoch_ended ? l2l__alike(t) : l2l__gather(t)) || t->given) return false;
    for (int r = 0; r < t->ranks; r++) stop |= t->told[r].stop;
    if (t->checkpoint && (p->epoch_ended || stop ||
                          (o->checkpoint_steps > 0 && t->step % o->checkpoint_steps == 0))) {
        if (!o->rank) l2l_trainer_save(t, t->checkpoint);
        l2l__gather(t);
    }
    if (stop)
        l2l__fail(t->context, L2L_ERROR_CANCELLED, "training: stopped by the progress callback "
                  "after step %z of %z", t->step, p->steps);
    return !t->context->status && t->step < p->steps;
}

static bool l2l__until_converged(l2l_trainer *t, const l2l_inner *in)
{
    t->model->images = NULL;
    if (t->context->status) l2l__go_back(t, "step");
    else l2l__end_step(t, in);
    return l2l__go_on(t);
}

#ifdef __clang__
#pragma mark - 4  The learned maximizer
#endif
/* ============================================================================================ */
/*  4  THE LEARNED MAXIMIZER                                                       >>maximizer  */
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

   where m_t is 1 where Proj did not clip and 0 elsewhere. x'_t and delta_t enter x'_{t+1} as their
   sum alone, with the same derivative m_t: what L_phi gains by delta_t, which is u_t, it gains by
   x'_t as well, beside the loss at x'_t itself. That is how a step is credited with all losses
   behind it. u_t enters the cell at step t; the rest is back-propagation through time. Coordinates
   never meet in this, so each block of them runs its T steps again from h_0 = 0, by the same kernel
   and thus with the same bits and masks, and goes straight back. Between attack and update only x,
   x'_0, g_0 .. g_T and (h, c) exist: nothing of size pixels x hidden x T.

   SECOND ORDER. Exactly, g_t depends on phi too. If the cell hands the cotangent v_t to g_t, then
   a_t = w_t g_t + u_t + H_t v_t with the Hessian H_t of the loss at x'_t. This couples the pixels
   of an image, so here all blocks go back together, step by step; each step begins at h_0 again,
   which costs little beside two passes of the classifier. */

/* -- the cell of the learned maximizer ------------------------------------------------ >>cell --
   All coordinates share one small network, so it runs on blocks of L2L__COORDS of them: a row is
   one number for each coordinate of the block, and a weight meets a whole row. What it computes
   stands here; chapter 15 has it in vectors and in plain C (from L2L__NAME(cell_matrix) on).
   The cell reads the rows z_t = (1, h_t, inputs); its bias is the weight of the 1.

       LSTM   i, f, o = sigmoid and g = tanh of the four quarters of W z_t (in the order i f g o),
              c_{t+1} = f c_t + i g,   h_{t+1} = o tanh(c_{t+1})
       RNN    h_{t+1} = tanh(W z_t)
       both   y_t = tanh(w_out (1, h_{t+1})), or without the tanh;   delta_t = scale y_t

   Backwards, with u_t = dL/d delta_t, and dh, dc for dL/dh_{t+1} and dL/dc_{t+1}:

       both   dy = scale u_t (1 - y_t^2), or without the bracket;   d = dh + w_out dy
       LSTM   e = dc + d o (1 - tanh(c_{t+1})^2), and the cotangents of W z_t are e g i (1 - i),
              e c_t f (1 - f), e i (1 - g^2) and d tanh(c_{t+1}) o (1 - o);   dc of t is e f
       RNN    that of W z_t is d (1 - h_{t+1}^2)
       both   dh of t, and behind it dL/d inputs, is W^T times the cotangent of W z_t

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

static const l2l__cell_kernels *l2l__cell_kernels_of(const l2l_context *c);

enum {
    L2L__MAX_HIDDEN = 64,
    L2L__PARTS = 64,             /* of a parameter gradient: by shape, never by threads           */
    L2L__FLUSH = 8               /* blocks that are summed in l2l_real before going to double; by */
                                 /* second order all of a part's, step by step                    */
};

struct l2l_learned {
    l2l_context *context;
    l2l_learned_options options;
    int size;                    /* numbers in phi                                                */
    l2l_real *phi;               /* in file order                                                 */
    l2l_real *descent;           /* -dL_phi/dphi / batch, added up, for the optimizer             */
    l2l_real *was;               /* room for phi before a step                                    */
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
    o.scale = 0.25;
    o.optimizer = l2l_adam_default();
    o.optimizer.rate = 1e-2;
    return o;
}

/* Where number i of phi's file order (W_ih, W_hh, b_ih, W_out, b_out) stands in the kernels' array:
   W is GxZ with the columns bias, h, inputs; below it w_out, its bias first. */
static int l2l__phi_place(const l2l_learned *m, int i)
{
    int gates = m->cell.gates, hidden = m->cell.hidden;
    int inputs = m->cell.inputs, columns = m->cell.columns;
    if (i < gates * inputs) return i / inputs * columns + 1 + hidden + i % inputs;
    i -= gates * inputs;
    if (i < gates * hidden) return i / hidden * columns + 1 + i % hidden;
    i -= gates * hidden;
    if (m->options.bias) {
        if (i < gates) return i * columns;
        i -= gates;
    }
    return i < hidden ? gates * columns + 1 + i : gates * columns;
}

/* phi as it is now (the caller may write to it), and what makes a delta of the cell's output. */
static void l2l__phi_to_cell(l2l_learned *m, double epsilon)
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

/* W is GxZ, its columns for the bias, h and the inputs, w_out 1+H: of the published size, H = 10,
   with one input, phi has 40 (10 + 1) + 40 + 10 + 1 = 491 numbers as LSTM with biases and
   10 (10 + 1) + 10 = 120 as RNN without. PyTorch's second bias, b_hh, would only add to b_ih,
   and is left out. Without biases their places in the kernels' array keep the 0 of its making. */
L2LADVDEF l2l_learned *l2l_learned_create(l2l_context *c, const l2l_learned_options *o)
{
    const l2l_learned_options usual = l2l_learned_default();
    l2l_learned *m;
    l2l__cell k;
    int64_t size;
    if (!o) o = &usual;
    if (!l2l__learned_options_ok(c, o)) return NULL;
    memset(&k, 0, sizeof k);
    k.lstm = o->cell == L2L_LSTM;
    k.squash = !o->raw_output;
    k.hidden = o->hidden;
    k.inputs = o->input == L2L_INPUT_LOG ? 2 : 1;
    k.gates = k.lstm ? 4 * k.hidden : k.hidden;
    k.columns = 1 + k.hidden + k.inputs;
    if (!(m = (l2l_learned *)l2l_allocate(c, sizeof *m))) return NULL;
    m->context = c;
    m->options = *o;
    m->size = k.gates * (k.inputs + k.hidden) + k.hidden + (o->bias ? k.gates + 1 : 0);
    m->cell_size = k.gates * k.columns + 1 + k.hidden;
    m->phi = (l2l_real *)l2l__allocate_array(c, m->size, sizeof(l2l_real));
    m->descent = (l2l_real *)l2l__allocate_array(c, m->size, sizeof(l2l_real));
    m->was = (l2l_real *)l2l__allocate_array(c, m->size, sizeof(l2l_real));
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
    l2l_free(m->context, m->was);
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
    if (T) *T = m ? m->trained_T : 0;
    if (epsilon) *epsilon = m ? m->trained_epsilon : 0;
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
    L2L__PARALLEL(l2l__workers(m->context, l2l_count(g->shape)))
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

/* A block's coordinates of an array of `count`, padded with zeros, and back. In the padding g_t and
   a_t are 0, so that all cotangents are 0 there and nothing is added to dL_phi/dphi; and no delta
   is stored. What h and c become there has no effect. */
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

/* What a thread needs to take a block through `steps` steps and back; pointers: sizes in rows. Slot
   t has the rows of step t, which writes h_{t+1} and c_{t+1} straight into slot t+1. Nothing writes
   h and c of slot 0: they stay 0, and every block begins there. */
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
    int64_t gates = m->cell.gates, hidden = m->cell.hidden, i;
    int64_t inputs = m->cell.inputs, columns = m->cell.columns;
    int64_t sums = ((int64_t)m->cell_size * lanes + L2L__COORDS - 1) / L2L__COORDS;
    int64_t rows = (steps + 1) * (columns + hidden) + steps * (gates + hidden + 2) + 2 * hidden +
                   inputs + sums;
    l2l_real *p = (l2l_real *)l2l__arena_array(m->context, rows, L2L__COORDS * sizeof *p);
    if (!p) return false;
    memset(p, 0, (size_t)rows * L2L__COORDS * sizeof *p);
    s->z = l2l__cut_rows(&p, (steps + 1) * columns);
    s->c = l2l__cut_rows(&p, (steps + 1) * hidden);
    s->gates = l2l__cut_rows(&p, steps * gates);
    s->tanh_c = l2l__cut_rows(&p, steps * hidden);
    s->y = l2l__cut_rows(&p, steps);
    s->mask = l2l__cut_rows(&p, steps);
    s->dh = l2l__cut_rows(&p, hidden + inputs);
    s->dc = l2l__cut_rows(&p, hidden);
    s->sums = p;
    for (i = 0; i < (steps + 1) * L2L__COORDS; i++) /* the 1 of every z_t                         */
        s->z[i / L2L__COORDS * columns * L2L__COORDS + i % L2L__COORDS] = 1;
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
    const size_t columns = (size_t)m->cell.columns * L2L__COORDS, t = (size_t)k;
    const size_t hidden = (size_t)m->cell.hidden * L2L__COORDS;
    const size_t gates = (size_t)m->cell.gates * L2L__COORDS;
    l2l__cell_step step;
    step.z = s->z + t * columns;
    step.c = s->c + t * hidden;
    step.gates = s->gates + t * gates;
    step.tanh_c = s->tanh_c + t * hidden;
    step.h_next = step.z + columns + L2L__COORDS;
    step.c_next = step.c + hidden;
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

/* A coordinate's step takes about one multiplication for each weight. */
static int l2l__cell_workers(const l2l_learned *m, int64_t blocks)
{
    return l2l__workers(m->context, blocks * L2L__COORDS * m->cell_size);
}

static bool l2l__learned_ready(const l2l_learned *m, const l2l_inner *in)
{
    if (in->context->status || !l2l__given(in->context, "l2l_learned", "the maximizer", m))
        return false;
    if (in->context != m->context)
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

/* Line 7, for all images: room for (h, c) of every block, and zeros in it. */
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
    L2L__PARALLEL(l2l__workers(m->context, l2l_count(in->shape)))
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
   its new block, in runs that are whole in an old and a new block. (z's 1 and inputs may stay.)
   kept[] ascends, so that from >= to: nothing is written over before it has been read. */
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

/* Line 11, for all images: each thread takes a run of blocks. The state stays in m->state between
   the steps, where the next one finds it. */
static bool l2l__learned_step(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    if (!l2l__learned_begun(m, in)) return false;
    l2l_context *c = m->context;
    const l2l__cell_kernels *kernels = l2l__cell_kernels_of(c);
    l2l_mark mark = l2l_mark_here(c);
    int64_t blocks = l2l__blocks_of(l2l_count(in->shape));
    int workers = l2l__at_most(l2l__cell_workers(m, blocks), blocks), k;
    l2l__sweep *s;
    double *norms;
    l2l__phi_to_cell(m, in->epsilon);
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
    int64_t count, d, blocks;    /* coordinates, coordinates of an image, blocks                  */
    int parts, workers;
    double *norms;               /* Txn, for the input transform                                  */
    double *totals;              /* parts x cell_size, of dL_phi/dphi                             */
    l2l__sweep *sweeps;          /* one for each worker                                           */
    /* second order only */
    l2l_tensor *adv, *v;         /* x'_t, and the cotangent of g_t                                */
    l2l_real *carried;           /* blocks x 2H rows: dL/dh_t and dL/dc_t                         */
    l2l_real *a;                 /* per coordinate: a_{t+1}, then a_t                             */
} l2l__adjoint;

/* Lines 11 and 12 again: x'_t -> x'_{t+1}, with m_t, which is 1 on the border, too. The sum and the
   bounds are those of l2l__move, in l2l_real, and so are the bits. The ball is that of l-infinity,
   the only one in training. */
static void l2l__sweep_forward(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int t)
{
    l2l__cell_step step = l2l__sweep_step(a->m, s, t);
    l2l_real *mask = s->mask + t * L2L__COORDS, epsilon = (l2l_real)a->in->epsilon;
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

/* a_{t+1} -> a_t; `rows` of dL/d(h_t, inputs) are wanted. */
static void l2l__sweep_backward(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int t,
                                int rows)
{
    l2l__cell_step step = l2l__sweep_step(a->m, s, t);
    const l2l_real *mask = s->mask + t * L2L__COORDS;
    l2l_real w = (l2l_real)a->in->w[t];
    int l;
    for (l = 0; l < L2L__COORDS; l++) s->u[l] = mask[l] * s->a[l];
    a->kernels->backward(&a->m->cell, &step, s->u, s->dh, s->dc, rows);
    l2l__row_load(a->in->g[t]->data, block * L2L__COORDS, a->count, s->g);
    /* u_t: see THE ADJOINT. Leaving it out still trains, but is not the derivative */
    for (l = 0; l < L2L__COORDS; l++) s->a[l] = w * s->g[l] + s->u[l];
}

/* Steps t .. t+steps-1 into the sums of dL_phi/dphi, over the coordinates of the block: with d_t
   and dy_t for the cotangents of W z_t and of the output before its tanh,

       dW += sum over t of d_t z_t^T,   dw_out += sum over t of dy_t (1, h_{t+1})

   where (1, h_{t+1}) are the first 1+H rows of z_{t+1}, in the next slot. */
static void l2l__sweep_accumulate(const l2l__adjoint *a, l2l__sweep *s, int t, int steps)
{
    int gates = a->m->cell.gates, hidden = a->m->cell.hidden, columns = a->m->cell.columns;
    int row = L2L__COORDS;
    const l2l__cell_step first = l2l__sweep_step(a->m, s, t);
    a->kernels->accumulate(gates, columns, steps, first.gates, gates * row, first.z, columns * row,
                           s->sums);
    a->kernels->accumulate(1, 1 + hidden, steps, first.y, row, first.z + columns * row,
                           columns * row, s->sums + gates * columns * a->kernels->lanes);
}

/* A block from x'_0 and h_0 = c_0 = 0, which are there from the start, to x'_T. */
static void l2l__sweep_to(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int T)
{
    int64_t first = block * L2L__COORDS;
    int t;
    l2l__row_load(a->in->x->data, first, a->count, s->x);
    l2l__row_load(a->in->start->data, first, a->count, s->adv);
    for (t = 0; t < T; t++) l2l__sweep_forward(a, s, block, t);
}

/* A block all the way there and back. */
static void l2l__adjoint_block(const l2l__adjoint *a, l2l__sweep *s, int64_t block)
{
    int T = a->in->T, hidden = a->m->cell.hidden, t, l;
    size_t row = L2L__COORDS * sizeof *s->dh;
    l2l__sweep_to(a, s, block, T);
    l2l__row_load(a->in->g[T]->data, block * L2L__COORDS, a->count, s->a);
    for (l = 0; l < L2L__COORDS; l++) s->a[l] *= (l2l_real)a->in->w[T];
    memset(s->dh, 0, (size_t)hidden * row);
    memset(s->dc, 0, (size_t)hidden * row);
    for (t = T - 1; t >= 0; t--) l2l__sweep_backward(a, s, block, t, t ? hidden : 0);
    l2l__sweep_accumulate(a, s, 0, T);
}

/* The lanes' sums into the part's, in the order of the lanes; and 0 for the next blocks. */
static void l2l__sweep_flush(const l2l__adjoint *a, l2l__sweep *s, double *total)
{
    int lanes = a->kernels->lanes, size = a->m->cell_size, i, l;
    for (i = 0; i < size; i++)
        for (l = 0; l < lanes; l++) total[i] += (double)s->sums[i * lanes + l];
    memset(s->sums, 0, (size_t)size * (size_t)lanes * sizeof *s->sums);
}

/* -- the adjoint, in second order -------------------------------------------------------------- */

static bool l2l__normalised(const l2l_learned *m)
{
    return m->options.input == L2L_INPUT_L1 || m->options.input == L2L_INPUT_LINF;
}

/* Of an image whose g is so small that the norm's factor, 0 for g = 0, is beyond this, the way
   through g counts as 0: times H it would be infinite as a float. */
static double l2l__norm_back(double norm) { return norm < 1e30 ? norm : 0; }

/* The cotangent dy of the input rows -> the one of g, v, but for the path through the norm:

       sign   0                 l1, linf   v = (d / |g|_1) dy  or  (1 / |g|_inf) dy
       raw    dy                log        v = dy_0 / (p g) where |g| >= e^-p, else e^p dy_1

   dy_0 and dy_1 are those of log's two rows: each of its halves has one that varies. */
static void l2l__input_vjp(const l2l_learned *m, const l2l_real *g, const double *norms,
                           int64_t first, int64_t d, int n, const l2l_real *dy, l2l_real *v)
{
    int l;
    for (l = 0; l < n; l++) {
        double x = (double)g[l], y = (double)dy[l];
        if (m->options.input == L2L_INPUT_SIGN) y = 0;
        else if (l2l__normalised(m)) y *= l2l__norm_back(norms[(first + l) / d]);
        else if (m->options.input == L2L_INPUT_LOG)
            y = fabs(x) >= l2l__log_small ? y / (l2l__log_p * x)
                                          : (double)dy[L2L__COORDS + l] / l2l__log_small;
        v[l] = (l2l_real)y;
    }
}

/* The rest of it for one image: y_i = k g_i / N has dy_i/dg_j = k/N (i = j) - y_i/N dN/dg_j. v is
   k/N dL/dy already, so with dot = sum of v_i g_i / N what is missing is v_j -= dot dN/dg_j, where
   dN/dg_j is sign g_j: for N = |g|_1 of every pixel, for N = |g|_inf of the largest alone. */
static void l2l__norm_vjp(l2l_grad_input input, const l2l_real *g, double norm, int64_t d,
                          l2l_real *v)
{
    double length, dot = 0;
    int64_t i, largest = 0;
    if (l2l__norm_back(norm) == 0) return;
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

/* a += H v, H the Hessian of the per-image losses at x'_t: the derivative of <g(x'), v>. g is made
   with its graph, and the VJP of that with v is H^T v, where H^T = H. A g that is on no tape does
   not depend on x'. */
static bool l2l__add_hessian_vector(l2l_inner *in, const l2l_tensor *adv, l2l_tensor *v,
                                    l2l_real *a)
{
    l2l_context *c = in->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, true);
    l2l_tensor *x = l2l__copy(c, adv), *logits, *loss, *g = NULL, *hv = NULL;
    logits = x ? l2l__inner_forward(in, x) : NULL;
    loss = l2l__inner_loss(in, logits);
    in->backwards += 2;
    if (loss && l2l_grad(c, loss, &x, 1, &g, L2L_CREATE_GRAPH) && g->tape >= 0 &&
        l2l_vjp(c, g, v, &x, 1, &hv, L2L_FREE_GRAPH))
        l2l__ew(c, L2L__ADD, l2l_count(in->shape), a, hv->data, 0, 0, a);
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !c->status;
}

/* A block back through step t: x'_t and (h_t, c_t) by its t steps from the start, then step t there
   and back. T steps so cost T (T+1) / 2 of the cell in all, and no state is kept. Of the cotangents
   that arrive here from step t+1, `carried` has those of h and c and a->a has a_{t+1}. */
static void l2l__exact_block(const l2l__adjoint *a, l2l__sweep *s, int64_t block, int t)
{
    int hidden = a->m->cell.hidden * L2L__COORDS;
    size_t bytes = (size_t)hidden * sizeof(l2l_real);
    l2l_real *carried = a->carried + (size_t)(2 * hidden) * (size_t)block;
    int64_t first = block * L2L__COORDS;
    l2l__sweep_to(a, s, block, t);
    l2l__row_store(s->adv, first, a->count, a->adv->data);
    l2l__sweep_forward(a, s, block, t);
    l2l__row_load(a->a, first, a->count, s->a);
    memcpy(s->dh, carried, bytes);
    memcpy(s->dc, carried + hidden, bytes);
    l2l__sweep_backward(a, s, block, t, a->m->cell.hidden + a->m->cell.inputs);
    memcpy(carried, s->dh, bytes);
    memcpy(carried + hidden, s->dc, bytes);
    l2l__row_store(s->a, first, a->count, a->a);
    l2l__input_vjp(a->m, s->g, a->norms + (int64_t)t * a->in->shape.n, first, a->d,
                   l2l__row_length(first, a->count), s->dh + hidden, a->v->data + first);
    l2l__sweep_accumulate(a, s, t, 1);
}

/* All blocks there and back, or in second order back through step t. Worker k takes the parts
   k, k + workers, ..., block by block: the order of all additions is the shape's. */
static void l2l__adjoint_blocks(const l2l__adjoint *a, int t)
{
    const bool exact = a->m->options.second_order;
    int k;
    L2L__PARALLEL(a->workers)
    for (k = 0; k < a->workers; k++)
        for (int part = k; part < a->parts; part += a->workers) {
            int64_t from = a->blocks * part / a->parts, to = a->blocks * (part + 1) / a->parts;
            double *total = a->totals + (size_t)part * (size_t)a->m->cell_size;
            for (int64_t b = from; b < to; b++) {
                if (exact) l2l__exact_block(a, &a->sweeps[k], b, t);
                else l2l__adjoint_block(a, &a->sweeps[k], b);
                if (b + 1 == to || (!exact && (b - from + 1) % L2L__FLUSH == 0))
                    l2l__sweep_flush(a, &a->sweeps[k], total);
            }
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
    a->in->t = t;                            /* for errors                                        */
    return l2l__add_hessian_vector(a->in, a->adv, a->v, a->a);
}

/* From a_T = w_T g_T on, step by step for all blocks: the cells, then what couples them,

       a_t = w_t g_t + u_t + H_t v_t,   v_t = (d inputs / d g_t)^T dL/d inputs. */
static bool l2l__adjoint_second_order(l2l__adjoint *a)
{
    l2l_context *c = a->m->context;
    int64_t rows = a->blocks * 2 * a->m->cell.hidden, i;
    int T = a->in->T, t;
    a->carried = (l2l_real *)l2l__arena_array(c, rows, L2L__COORDS * sizeof *a->carried);
    a->a = (l2l_real *)l2l__arena_array(c, a->count, sizeof *a->a);
    a->adv = l2l_zeros(c, a->in->shape);
    a->v = l2l_zeros(c, a->in->shape);
    if (c->status) return false;
    memset(a->carried, 0, (size_t)rows * L2L__COORDS * sizeof *a->carried);
    for (i = 0; i < a->count; i++) a->a[i] = (l2l_real)a->in->w[T] * a->in->g[T]->data[i];
    for (t = T - 1; t >= 0; t--) {
        l2l__adjoint_blocks(a, t);
        if (t > 0 && !l2l__exact_couple(a, t)) return false;
    }
    return true;
}

/* -- line 15: phi <- phi + alpha_1 grad L_phi / B ---------------------------------------------- */

/* The work, its parts and its room. Images' norms are taken once for each t: every block of an
   image needs them, in both directions. */
static bool l2l__adjoint_prepare(l2l__adjoint *a, l2l_learned *m, l2l_inner *in)
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
    a->workers = l2l__at_most(l2l__cell_workers(m, a->blocks), a->parts);
    totals = (int64_t)a->parts * m->cell_size;
    a->norms = (double *)l2l__arena_array(c, (int64_t)in->T * in->shape.n, sizeof *a->norms);
    a->totals = (double *)l2l__arena_array(c, totals, sizeof *a->totals);
    a->sweeps = l2l__sweeps(m, a->workers, in->T, a->kernels->lanes);
    if (c->status) return false;
    memset(a->totals, 0, (size_t)totals * sizeof *a->totals);
    l2l__phi_to_cell(m, in->epsilon);
    for (t = 0; t < in->T; t++)
        l2l__input_norms(m, in->g[t], a->norms + (int64_t)t * in->shape.n);
    return true;
}

/* gradient += scale * dL_phi/dphi / n in file order, or, with `anew`, = that; the parts in their
   order. */
static void l2l__adjoint_gather(const l2l__adjoint *a, bool anew, double scale,
                                l2l_real *gradient)
{
    const l2l_learned *m = a->m;
    int i, part;
    for (i = 0; i < m->size; i++) {
        double sum = 0;
        for (part = 0; part < a->parts; part++)
            sum += a->totals[(size_t)part * (size_t)m->cell_size + (size_t)l2l__phi_place(m, i)];
        sum /= a->in->shape.n;
        gradient[i] = (anew ? 0 : gradient[i]) + (l2l_real)(scale * sum);
    }
}

static bool l2l__learned_adjoint(l2l_learned *m, l2l_inner *in, bool anew, double scale,
                                 l2l_real *gradient)
{
    const char *where = "l2l_learned_gradient";
    l2l_mark mark = l2l_mark_here(in->context);
    l2l__adjoint a;
    if (!l2l__learned_ready(m, in)) return false;
    if (in->T < 1)
        return l2l__fail(m->context, L2L_ERROR_ARGUMENT, "%s: T is %d, but must be at least 1",
                         where, in->T);
    if (!in->start || !in->w)
        return l2l__fail(m->context, L2L_ERROR_ARGUMENT, "%s: x'_0 and all of g are kept only in a "
                         "training whose maximizer learns, not in an attack", where);
    if (l2l__adjoint_prepare(&a, m, in)) {
        if (!m->options.second_order) l2l__adjoint_blocks(&a, 0);
        if (!m->options.second_order || l2l__adjoint_second_order(&a))
            l2l__adjoint_gather(&a, anew, scale, gradient);
    }
    l2l_release(m->context, mark);
    return !m->context->status;
}

/* The numbers of phi, or of its gradient. */
static bool l2l__phi_finite(const l2l_learned *m, const char *what, const l2l_real *v)
{
    int i = (int)l2l__not_finite_at(v, m->size);
    return i == m->size || l2l__fail(m->context, L2L_ERROR_NUMERIC, "l2l_learned: the %s of phi is "
                                     "not finite at its number %d", what, i);
}

L2LADVDEF bool l2l_learned_gradient(l2l_learned *m, l2l_inner *in, l2l_real *gradient)
{
    const char *where = "l2l_learned_gradient";
    l2l_context *c = in ? in->context : m ? m->context : NULL;
    return c && !c->status && l2l__given(c, where, "the inner problem", in) &&
           l2l__given(c, where, "gradient", gradient) &&
           l2l__learned_adjoint(m, in, true, 1, gradient) &&
           l2l__phi_finite(m, "gradient", gradient);
}

/* The optimizer descends, phi is to ascend: hence the minus. What is gathered is over the part's n,
   and n / batch makes of it the part's share of the mini-batch. */
static bool l2l__learned_add_gradient(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    return l2l__learned_adjoint(m, in, in->first == 0, -(double)in->n / in->batch, m->descent);
}

/* Line 15, by the optimizer of the options (Adam, alpha_1 = 1e-2). A phi that would not be finite
   is not taken: it stays what it was, and the step fails. */
static bool l2l__learned_update(void *self, l2l_inner *in)
{
    l2l_learned *m = (l2l_learned *)self;
    if (!l2l__learned_ready(m, in)) return false;
    l2l_context *c = m->context;
    size_t bytes = (size_t)m->size * sizeof *m->phi;
    if (l2l__phi_finite(m, "gradient", m->descent)) {
        memcpy(m->was, m->phi, bytes);
        if (l2l_optimizer_step(m->optimizer, &m->phi, &m->descent, 1) &&
            !l2l__phi_finite(m, "next step", m->phi))
            memcpy(m->phi, m->was, bytes);
    }
    if (c->status) return false;
    l2l__learned_set_trained_with(m, in->T, in->epsilon);
    return true;
}

static l2l_real *l2l__learned_sum(void *self, int64_t *n)
{
    l2l_learned *m = (l2l_learned *)self;
    *n = m ? m->size : 0;
    return m ? m->descent : NULL;
}

L2LADVDEF l2l_maximizer l2l_learned_maximizer(l2l_learned *m)
{
    l2l_maximizer r = l2l__maximizer("learned", l2l__learned_step);
    r.self = m;
    r.begin = l2l__learned_begin;
    r.keep = l2l__learned_keep;
    r.gradient = l2l__learned_add_gradient;
    r.update = l2l__learned_update;
    r.sum = l2l__learned_sum;
    r.pack = l2l__learned_pack_state;
    r.unpack = l2l__learned_unpack_state;
    return r;
}

L2LADVDEF l2l_attack l2l_attack_learned(l2l_learned *m, double epsilon, int steps)
{
    l2l_attack a = l2l__attack("learned", epsilon, 0.25, steps, L2L_START_NORMAL);
    a.maximizer = l2l_learned_maximizer(m);
    return a;
}

#ifdef __clang__
#pragma mark - 5  Maximizers that do not learn
#endif
/* ============================================================================================ */
/*  5  MAXIMIZERS THAT DO NOT LEARN                                               >>maximizers  */
/* ============================================================================================

   Steps delta_t of the gradients alone, per image, with alpha = in->step_size:

       sign       delta_t = alpha sign(g_t)      FGSM (Goodfellow et al. 2015), PGD in l-infinity
                                                 (Madry et al. 2018); where g_t = 0 a pixel stays
       gradient   delta_t = alpha g_t / |g_t|_2  PGD in l2
       momentum   m_t = mu m_{t-1} + g_t / |g_t|_1,   delta_t = alpha sign(m_t),   m_{-1} = 0
                                                 MIM (Dong et al. 2018)

   The first two are steps of steepest ascent: of all delta of length alpha, in l-infinity and in
   l2, those with the largest <delta_t, g_t>. Others, on public calls alone, are in
   examples/searches.h. */

static bool l2l__sign_step(void *self, l2l_inner *in)
{
    L2L__UNUSED(self);
    l2l__ew(in->context, L2L__SIGN_STEP, l2l_count(in->shape), in->g[in->t]->data, NULL,
            (l2l_real)in->step_size, 0, in->delta->data);
    return true;
}

/* An image without gradient stays. One whose gradient is so short that alpha over its length would
   be infinite is scaled up first; floats are not (the least is 1e-45), doubles can be. */
static bool l2l__gradient_step(void *self, l2l_inner *in)
{
    int64_t one = l2l_count(in->shape) / in->n;
    int n;
    L2L__UNUSED(self);
    L2L__PARALLEL(l2l__workers(in->context, l2l_count(in->shape)))
    for (n = 0; n < in->n; n++) {
        const l2l_real *g = in->g[in->t]->data + n * one;
        double norm = l2l_norm2(g, NULL, one), up = norm < 1e-280 ? 1e280 : 1;
        double scale = norm > 0 ? in->step_size / (up * norm) : 0;
        for (int64_t j = 0; j < one; j++)
            in->delta->data[n * one + j] = (l2l_real)(scale * (up * (double)g[j]));
    }
    return true;
}

/* An image without gradient goes on as before: m_t = mu m_{t-1}. A maximizer of the caller's that
   steps by this one may have forgotten to ask for the memory. */
static bool l2l__momentum_step(void *self, l2l_inner *in)
{
    int64_t count = l2l_count(in->shape), one = count / in->n;
    l2l_real mu = (l2l_real)in->maximizer->number[0];
    int n;
    L2L__UNUSED(self);
    if (!in->memory[0])
        return l2l__fail(in->context, L2L_ERROR_ARGUMENT, "the maximizer '%s' steps by momentum: "
                         "its memory must be at least 1, not 0", in->maximizer->name);
    L2L__PARALLEL(l2l__workers(in->context, count))
    for (n = 0; n < in->n; n++) {
        const l2l_real *g = in->g[in->t]->data + n * one;
        l2l_real *m = in->memory[0]->data + n * one;
        double norm = 0;
        for (int64_t j = 0; j < one; j++) norm += fabs((double)g[j]);
        for (int64_t j = 0; j < one; j++)
            m[j] = mu * m[j] + (l2l_real)(norm > 0 ? (double)g[j] / norm : 0);
    }
    l2l__ew(in->context, L2L__SIGN_STEP, count, in->memory[0]->data, NULL, (l2l_real)in->step_size,
            0, in->delta->data);
    return true;
}

static l2l_maximizer l2l__maximizer(const char *name, bool (*step)(void *, l2l_inner *))
{
    l2l_maximizer m = L2L__ZERO;
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
L2LADVDEF l2l_maximizer l2l_maximizer_momentum(double mu)
{
    l2l_maximizer m = l2l__maximizer("momentum", l2l__momentum_step);
    m.memory = 1;
    m.number[0] = mu;
    return m;
}

#ifdef __clang__
#pragma mark - 6  Methods and trainers
#endif
/* ============================================================================================ */
/*  6  METHODS AND TRAINERS                                                          >>methods  */
/* ============================================================================================ */

/* -- the three interfaces: objectives and outer losses -------------------------------------------
   Objectives of the inner problem, per image, of the logits z at x'_t and z_0 at x:

       cross-entropy   L = -log softmax(z)_y                       Madry et al. 2018, and the paper
       kl              L = KL(softmax(z_0) || softmax(z))          TRADES (Zhang et al. 2019)
       margin          L = max over k != y of z_k - z_y            Carlini and Wagner 2017

   Outer losses L_theta of the mini-batch, at the x'_T that the inner problem ended with, which is a
   constant, by passes in training mode:

       cross-entropy   mean of CE(f(x'_T), y)                      line 14
       trades          mean of CE(f(x), y) + beta KL(f(x) || f(x'_T))

   The KL's first argument has a gradient, too, as in TRADES' program. */

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
    l2l_objective o = L2L__ZERO;
    o.name = name;
    o.loss = loss;
    o.needs_clean = needs_clean;
    return o;
}

/* Those above look at an image's own row and at nothing else. */
static bool l2l__objective_concurrent(const l2l_objective *o)
{
    return o->concurrent || o->loss == l2l__objective_ce || o->loss == l2l__objective_kl_loss ||
           o->loss == l2l__objective_margin_loss;
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

/* For the report: an outer loss that has the logits at x'_T notes what they predict. Only while
   l2l__outer_loss calls it is m->predicted there; at any other time, and of another number of
   images than the batch at hand, nothing is noted. */
static void l2l__outer_saw(l2l_model *m, const l2l_tensor *logits)
{
    if (m->predicted && logits && logits->shape.n == m->n_predicted)
        l2l_predict(m->context, logits, m->predicted);
}

/* For outer losses of the caller's that call it. Where a trainer's outer loss is this one itself,
   l2l__outer_loss computes the same, to have the logits. */
static l2l_tensor *l2l__outer_ce(l2l_model *m, l2l_tensor *x, l2l_tensor *adv, const int *labels,
                                 void *user)
{
    l2l_context *c = m->context;
    l2l_tensor *z = l2l_model_forward(m, adv, L2L_TRAIN);
    L2L__UNUSED(x);
    L2L__UNUSED(user);
    l2l__outer_saw(m, z);
    return z ? l2l_mean(c, l2l_cross_entropy(c, z, labels)) : NULL;
}

L2LADVDEF l2l_outer l2l_outer_cross_entropy(void)
{
    l2l_outer o = L2L__ZERO;
    o.name = "cross-entropy";
    o.loss = l2l__outer_ce;
    o.is_objective = true;
    return o;
}

L2LADVDEF bool l2l_outer_predicted(l2l_model *m, const int *classes, int n)
{
    const char *where = "l2l_outer_predicted";
    if (!m || m->context->status || !l2l__given(m->context, where, "classes", classes))
        return false;
    if (m->predicted && n != m->n_predicted)
        return l2l__fail(m->context, L2L_ERROR_ARGUMENT, "%s: %d classes for %d images", where, n,
                         m->n_predicted);
    for (int i = 0; m->predicted && i < n; i++)
        if (!l2l__label_ok(m->context, where, classes[i], i, m->options.classes))
            return false;
    if (m->predicted) memcpy(m->predicted, classes, (size_t)n * sizeof *classes);
    return true;
}

/* mean CE(first, y) + beta mean KL(again || attacked), of the logits of three passes at x, x'_T and
   x. Where the mode does not matter the third would be the first one again, and is. `user` is the
   address of number[0]: l2l__train_options_ok refuses one of the caller's. */
static l2l_tensor *l2l__outer_trades(l2l_model *m, l2l_tensor *x, l2l_tensor *adv,
                                     const int *labels, void *user)
{
    l2l_context *c = m->context;
    double beta = l2l__given(c, "TRADES", "user, the address of beta,", user)
                      ? *(const double *)user : 0;
    l2l_pass p = l2l_model_pass(m);
    l2l_tensor *first, *attacked, *again;
    if (!(beta >= 0)) l2l__fail(c, L2L_ERROR_ARGUMENT, "TRADES: beta %g is not 0 or more", beta);
    if (c->status) return NULL;
    p.mode = L2L_TRAIN;
    first = l2l_model_run(m, x, &p);
    p.stream.seed += 0xD1B54A32D192ED03u;    /* dropout draws anew                                */
    attacked = l2l_model_run(m, adv, &p);
    p.stream.seed += 0xD1B54A32D192ED03u;
    again = m->mode_matters ? l2l_model_run(m, x, &p) : first;
    l2l__outer_saw(m, attacked);
    return l2l_add(c, l2l_mean(c, l2l_cross_entropy(c, first, labels)),
                   l2l_affine(c, l2l_mean(c, l2l_kl_divergence(c, again, attacked)), beta, 0));
}

L2LADVDEF l2l_outer l2l_outer_trades(double beta)
{
    l2l_outer o = L2L__ZERO;
    o.name = "trades";
    o.loss = l2l__outer_trades;
    o.number[0] = beta;
    return o;
}

/* -- methods: objective x maximizer x outer loss -------------------------------------------------

       method       objective       maximizer   x'_0                      outer loss
       plain                        none        x                         cross-entropy
       advtrain     cross-entropy   sign        x + U(-epsilon, epsilon)  cross-entropy
       trades       kl              sign        x + 0.001 N(0,I)          trades
       rnn-adv      cross-entropy   learned     x + 0.001 N(0,I)          cross-entropy
       rnn-trades   kl              learned     x + 0.001 N(0,I)          trades

   The rest of the paper's tables is in examples/: AdvTrain with a line search and L2LDA. */

static l2l_method l2l__method(const char *name, l2l_maximizer maximizer, l2l_start start)
{
    l2l_method m = L2L__ZERO;
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

/* KL(f(x) || f(x')) has no gradient at x' = x, for that in the logits is softmax(z) - softmax(z_0):
   the noise of the start is essential. */
static l2l_method l2l__method_kl(const char *name, l2l_maximizer maximizer, double beta)
{
    l2l_method m = l2l__method(name, maximizer, L2L_START_NORMAL);
    m.objective = l2l_objective_kl();
    m.outer = l2l_outer_trades(beta);
    return m;
}

L2LADVDEF l2l_method l2l_method_trades(double beta)
{
    return l2l__method_kl("trades", l2l_maximizer_sign(), beta);
}
L2LADVDEF l2l_method l2l_method_rnn_trades(l2l_learned *phi, double beta)
{
    return l2l__method_kl("rnn-trades", l2l_learned_maximizer(phi), beta);
}

/* -- trainers ---------------------------------------------------------------------------------- */

L2LADVDEF l2l_train_options l2l_train_default(void)
{
    l2l_train_options o = L2L__ZERO;
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

/* Is there a data set to fetch from? One that could not be opened is empty. */
static bool l2l__dataset_ok(l2l_context *c, const char *who, const l2l_dataset *d)
{
    if (c->status || !l2l__given(c, who, "the data set", d)) return false;
    return (d->count > 0 && d->fetch) ||
           l2l__fail(c, L2L_ERROR_ARGUMENT, d->count > 0 ? "%s: the data set has no `fetch`"
                     : "%s: the data set is empty: was it opened?", who);
}

/* Images at least as large as the model's, and classes that it has. */
static bool l2l__dataset_fits(l2l_context *c, const char *who, const l2l_dataset *d,
                              const l2l_model_options *m)
{
    if (!l2l__dataset_ok(c, who, d) ||
        !l2l__shape_ok(c, who, l2l_shape_of(1, d->height, d->width, d->channels))) return false;
    return (d->channels == m->channels && d->height >= m->height && d->width >= m->width &&
            d->classes <= m->classes) ||
           l2l__fail(c, L2L_ERROR_SHAPE, "%s: images of %dx%dx%d (CxHxW) and a model for %dx%dx%d; "
                     "%d classes and %d", who, d->channels, d->height, d->width, m->channels,
                     m->height, m->width, d->classes, m->classes);
}

/* Splits off the held-out images: a shuffle of all indices by the seed, the last ones held out.
   `held_out` is the end of the array `train`. Without a data set both are empty. */
static void l2l__split(l2l_trainer *t)
{
    int n = t->data.count;
    t->n_held_out = t->options.validation;
    t->n_train = n - t->n_held_out;
    for (int i = 0; i < n; i++) t->train[i] = i;
    if (t->n_held_out) l2l__shuffle(t->train, n, t->options.seed, L2L_RANDOM_SPLIT, 0);
    t->held_out = t->train + t->n_train;
}

/* What ranks need that train together: the figures of each (`told`, which one process has, too),
   and `talk`, a block for each rank to send and one from each to receive. A block is as large as an
   error's text; l2l__told, which goes the same way, is smaller. l2l__part_size reads micro_batch
   and l2l__make_sum n_phi: so this comes before l2l__trainer_arrays. In one process phi_sum is
   NULL: the maximizer itself adds its parts up. */
static void l2l__trainer_ranks(l2l_trainer *t)
{
    l2l_context *c = t->context;
    l2l_train_options *o = &t->options;
    const l2l_maximizer *m = &o->method.maximizer;
    t->ranks = o->ranks > 1 ? o->ranks : 1;
    t->told = (l2l__told *)l2l__hold(c, &t->held_memory, t->ranks, sizeof *t->told);
    if (t->ranks == 1) return;
    t->talk = (char *)l2l__hold(c, &t->held_memory, 2 * (int64_t)t->ranks, sizeof c->text);
    if (!o->micro_batch) o->micro_batch = (o->batch - 1) / t->ranks + 1;
    if (m->sum) t->phi_sum = m->sum(m->self, &t->n_phi);
}

/* Lists over theta, in the order of the layers; `good` is theta before the last step, to go back to
   when it turns out to have been the wrong one. Slots that are not trainable are running
   statistics: `buffers`. theta and found have room for one more, x'_T and its gradient, which line
   14 may find, too. A slot's numbers never move, so that `values` stays right. */
static bool l2l__trainer_arrays(l2l_trainer *t)
{
    l2l_context *c = t->context;
    l2l_model *m = t->model;
    void **all = &t->held_memory;
    int n = 0;
    t->sizes = (int64_t *)l2l__hold(c, all, m->n_slots, sizeof *t->sizes);
    t->theta = (l2l_tensor **)l2l__hold(c, all, m->n_slots + 1, sizeof *t->theta);
    t->found = (l2l_tensor **)l2l__hold(c, all, m->n_slots + 1, sizeof *t->found);
    t->values = (l2l_real **)l2l__hold(c, all, m->n_slots, sizeof *t->values);
    t->gradients = (l2l_real **)l2l__hold(c, all, m->n_slots, sizeof *t->gradients);
    t->w = (double *)l2l__hold(c, all, t->options.T + 1, sizeof *t->w);
    t->train = (int *)l2l__hold(c, all, t->data.count, sizeof *t->train);
    t->order = (int *)l2l__hold(c, all, t->data.count, sizeof *t->order);
    for (int i = 0; i < m->n_slots; i++) t->n_theta += m->slot[i]->trainable;
    for (int i = 0, k = t->n_theta; i < m->n_slots && !c->status; i++) {
        l2l__slot *p = m->slot[i];
        int to = p->trainable ? n++ : k++;
        t->sizes[to] = l2l_count(p->value.shape);
        t->values[to] = p->value.data;
        if (!p->trainable) {
            t->n_buffers += t->sizes[to];
            continue;
        }
        t->theta_size += t->sizes[to];
        t->theta[to] = &p->value;
    }
    t->good = (l2l_real *)l2l__hold(c, all, t->theta_size, sizeof *t->good);
    t->buffers = (l2l_real *)l2l__hold(c, all, t->n_buffers, sizeof *t->buffers);
    if (!c->status) t->optimizer = l2l_optimizer_create(c, &t->options.optimizer, t->sizes, n);
    if (t->optimizer && l2l__part_size(t, t->options.batch) < t->options.batch) l2l__make_sum(t);
    return !c->status;
}

/* Of what the held-out images are attacked with beside numbers: targets, init, and what a
   maximizer that is not the training's own has learned. */
static bool l2l__held_digests(l2l_trainer *t)
{
    const l2l_attack *a = &t->options.validation_attack;
    const l2l_maximizer *m = &a->maximizer;
    t->held_digests[0] = l2l__digest_bytes(a->targets, t->n_held_out * (int64_t)sizeof(int));
    t->held_digests[1] = l2l__digest_bytes(a->init, t->n_held_out * (int64_t)sizeof(l2l_real) *
                                                    l2l__image_size(&t->model->options));
    if (m->self != t->options.method.maximizer.self)
        l2l__learned_digest(t->context, m, &t->held_digests[2]);
    return !t->context->status;
}

/* options.loss_weights is copied, the name of the checkpoint as well. w_0 keeps the 0 of its
   making: L(f(x'_0), y) is no part of L_phi. With nothing held out validation_attack is cleared:
   what was in it shall not tell two checkpoints apart. */
static bool l2l__trainer_own(l2l_trainer *t)
{
    l2l_train_options *o = &t->options;
    if (!o->validation) memset(&o->validation_attack, 0, sizeof o->validation_attack);
    else if (!o->validation_attack.name) o->validation_attack = l2l_attack_pgd(o->epsilon);
    l2l__settle_step(&o->validation_attack);
    for (int i = 1; i <= o->T; i++) t->w[i] = o->loss_weights ? o->loss_weights[i - 1] : i;
    t->w_digest = l2l__digest_bytes(t->w, (o->T + 1) * (int64_t)sizeof *t->w);
    o->loss_weights = NULL;
    if (o->checkpoint)
        t->checkpoint = l2l__hold_text(t->context, &t->held_memory, o->checkpoint);
    return !t->context->status;
}

/* Whether line 14's pass can be one with the last look (one_pass) is decided here: where both
   compute the cross-entropy of the same x'_T, and the mode makes no difference. best_score = -1 is
   below every accuracy, shuffled = -1 no epoch. l2l__held_digests goes by n_held_out, and so
   follows l2l__split. The last batch of an epoch may be short; without a data set all steps are one
   epoch. */
L2LADVDEF l2l_trainer *l2l_trainer_create(l2l_model *m, const l2l_dataset *d,
                                          const l2l_train_options *o)
{
    const l2l_train_options usual = l2l_train_default();
    l2l_context *c = l2l_model_context(m);
    l2l_trainer *t;
    if (!o) o = &usual;
    if (!c || !l2l__train_options_ok(c, m, d, o) ||
        !(t = (l2l_trainer *)l2l_allocate(c, sizeof *t)))
        return NULL;
    t->context = c;
    t->model = m;
    if (d) t->data = *d;
    t->data.context = c;
    t->options = *o;
    t->best_score = t->shuffled = -1;
    t->cross_entropy = o->method.outer.is_objective && o->method.outer.loss == l2l__outer_ce;
    t->options.method.outer.is_objective = t->cross_entropy;
    t->one_pass = t->cross_entropy && o->method.objective.loss == l2l__objective_ce &&
                  !o->method.objective.cut && !m->mode_matters;
    l2l__trainer_ranks(t);
    if (o->averaging > 0) t->mean = l2l_model_clone(c, m);
    if (!l2l__trainer_arrays(t) || !l2l__trainer_own(t)) {
        l2l_trainer_free(t);
        return NULL;
    }
    l2l__split(t);
    if (d) t->data_digest = l2l__data_digest(t);
    if (!l2l__held_digests(t)) {
        l2l_trainer_free(t);
        return NULL;
    }
    l2l_progress *p = &t->progress;
    p->epochs = d ? o->epochs : 1;
    p->steps_in_epoch = d ? (t->n_train - 1) / o->batch + 1 : o->steps;
    p->steps = p->steps_in_epoch * p->epochs;
    p->validation_natural = p->validation_robust = -1;
    return t;
}

/* Also of a trainer that was made in part: what is not there is NULL. */
L2LADVDEF void l2l_trainer_free(l2l_trainer *t)
{
    if (!t) return;
    l2l_context *c = t->context;
    l2l_model_free(t->best);
    l2l_model_free(t->mean);
    l2l_optimizer_free(t->optimizer);
    l2l__let_go(c, t->held_memory);
    l2l_free(c, t);
}

/* Will the network take all parts of all batches? A batch norm on a map of 1x1 takes no single
   image: that is said now rather than at the end of an epoch. An image of zeros is tried where a
   part will be of one: every part, the rest of a whole batch, or that of an epoch's last one. */
static bool l2l__parts_ok(l2l_trainer *t)
{
    l2l_context *c = t->context;
    const l2l_train_options *o = &t->options;
    const l2l_model_options *m = &t->model->options;
    int whole = o->batch < t->n_train ? o->batch : t->n_train, last = t->n_train % o->batch;
    int part = l2l__part_size(t, o->batch);
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x;
    if (part > 1 && whole % part != 1 && last % part != 1) return true;
    x = l2l_zeros(c, l2l_shape_of(1, m->height, m->width, m->channels));
    if (x) l2l__forward_frozen(t->model, x, L2L_TRAIN);
    l2l_release(c, mark);
    return !c->status;
}

/* Algorithm 1 until its last step, or on from a checkpoint; the end of an epoch that failed the
   last time is made up for first. An error on the way to l2l__alike does not keep a rank from it:
   there the others learn of it, and do not wait for this one. */
L2LADVDEF bool l2l_train(l2l_trainer *t)
{
    if (!t) return false;
    t->apart = false;
    memset(&t->part, 0, sizeof t->part);
    if (t->data.count < 1)
        l2l__fail(t->context, L2L_ERROR_ARGUMENT, "l2l_train: the trainer was made without a data "
                  "set: use l2l_train_step");
    if (!t->context->status && l2l__parts_ok(t)) l2l__maybe_resume(t);
    if (t->step != t->progress.epoch * t->progress.steps_in_epoch + t->progress.step_in_epoch)
        l2l__fail(t->context, L2L_ERROR_ARGUMENT, "l2l_train: of this trainer's %z steps some were "
                  "made by l2l_train_step, which goes on with it", t->step);
    if (l2l__alike(t) && l2l__epoch_is_owed(t)) {
        l2l__after_step(t);
        l2l__go_on(t);
    }
    if (!t->context->status && t->step < t->progress.steps) l2l__algorithm1(t);
    return !t->context->status;
}

/* One round of the same loop, on images that the caller has: `given` says so, and ends the loop
   (l2l__go_on). Ranks compare the step and the number of images; the other two digests are 0. */
L2LADVDEF bool l2l_train_step(l2l_trainer *t, const l2l_real *images, const int *labels, int n,
                              l2l_progress *p)
{
    static const char *const what[4] = {"step", "number of images", NULL, NULL};
    l2l_context *c = t ? t->context : NULL;
    if (p) memset(p, 0, sizeof *p);
    if (!c) return false;
    t->apart = false;
    memset(&t->part, 0, sizeof t->part);
    t->part.digest[0] = (double)t->step;
    t->part.digest[1] = n;
    if (n < 1) l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_train_step: %d images", n);
    if (!c->status && l2l__given(c, "l2l_train_step", "images", images) &&
        l2l__given(c, "l2l_train_step", "labels", labels))
        l2l__images_ok(c, "l2l_train_step", &t->model->options, images, labels, n);
    if (!l2l__agree(t, what)) return false;
    t->given = images;
    t->given_labels = labels;
    t->given_n = n;
    l2l__algorithm1(t);
    t->given = NULL;
    if (p) *p = t->progress;
    return !c->status;
}

L2LADVDEF l2l_model *l2l_trainer_best(l2l_trainer *t)
{
    return t ? l2l_model_clone(t->context, t->best ? t->best : t->model) : NULL;
}

L2LADVDEF l2l_model *l2l_trainer_averaged(l2l_trainer *t)
{
    if (!t) return NULL;
    if (t->mean) return l2l_model_clone(t->context, t->mean);
    l2l__fail(t->context, L2L_ERROR_ARGUMENT, "l2l_trainer_averaged: options.averaging is 0");
    return NULL;
}

#ifdef __clang__
#pragma mark - 7  Errors, memory, random numbers
#endif
/* ============================================================================================ */
/*  7  ERRORS, MEMORY, RANDOM NUMBERS, OPTIONS                                    >>foundation  */
/* ============================================================================================ */

/* -- errors ------------------------------------------------------------------------------------ */

/* Between doubles and decimals, exactly and the same in every locale: whoever saves a number reads
   the same bits back. A double is m * 2^e, whose digits end: 768 at most with its midpoints. */
enum { L2L__DIGITS = 800 };
typedef struct l2l__decimal {
    char d[L2L__DIGITS];                     /* d[0] . d[1] d[2] ... d[n-1], 0 neither first ...  */
    int n, exponent;                         /* ... nor last, times 10^exponent                   */
} l2l__decimal;

/* The decimal of m * 2^e: m times 2^e, or times 5^-e and 10^e, in parts of nine digits. */
static void l2l__decimal_of(uint64_t m, int e, l2l__decimal *x)
{
    uint32_t part[L2L__DIGITS / 9];
    int parts = 0, step, i, left = e < 0 ? -e : e;
    for (; m; m /= 1000000000) part[parts++] = (uint32_t)(m % 1000000000);
    for (; left > 0; left -= step) {
        uint64_t factor = 1, carry = 0;
        for (step = 0; step < left && step < 12; step++) factor *= e < 0 ? 5 : 2;
        for (i = 0; i < parts; i++, carry /= 1000000000) {
            carry += part[i] * factor;
            part[i] = (uint32_t)(carry % 1000000000);
        }
        if (carry) part[parts++] = (uint32_t)carry;
    }
    x->n = 0;
    x->exponent = 9 * parts - 1 + (e < 0 ? e : 0);
    for (i = 9 * parts; i > 0; i--) {        /* digit i-1 of the whole, from the front            */
        uint32_t v = part[(i - 1) / 9];
        for (step = (i - 1) % 9; step > 0; step--) v /= 10;
        if (x->n || v % 10) x->d[x->n++] = (char)('0' + v % 10);
        else x->exponent--;
    }
    while (x->n && x->d[x->n - 1] == '0') x->n--;
}

/* The double with these bits, without its sign, as m * 2^e; `half`: what lies half way to the next
   one, above it. */
static void l2l__decimal_of_bits(uint64_t bits, bool half, l2l__decimal *x)
{
    uint64_t m = bits & (((uint64_t)1 << 52) - 1);
    int e = (int)(bits >> 52 & 2047);
    if (e) m |= (uint64_t)1 << 52;
    e = (e ? e : 1) - 1075;
    if (half) l2l__decimal_of(2 * m + 1, e - 1, x);
    else l2l__decimal_of(m, e, x);
}

/* Below, at or above 0, as the digits up to `end`, a point among them or not, of which the first
   counts 10^exponent, are to x. */
static int l2l__decimal_order(const char *digits, const char *end, int exponent,
                              const l2l__decimal *x)
{
    if (exponent != x->exponent) return exponent < x->exponent ? -1 : 1;
    for (int i = 0; digits < end || i < x->n; digits += digits < end) {
        if (digits < end && *digits == '.') continue;
        int there = digits < end ? *digits : '0', here = i < x->n ? x->d[i] : '0';
        if (there != here) return there < here ? -1 : 1;
        i++;
    }
    return 0;
}

/* A decimal number, read to the nearest double, of two as near to the even one; *s moves behind it.
   False if there is none, or none that is finite. */
static bool l2l__scan_real(const char **s, double *v)
{
    const char *p = *s, *first = NULL, *end; /* first: the first digit that is not 0              */
    double m = 0;
    int64_t e = 0, x = 0;                    /* m * 10^e is a first guess                         */
    int taken = 0, order;
    uint64_t bits;
    bool negative = *p == '-', any = false, point = false, down;
    l2l__decimal middle;
    for (p += negative; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
        if (*p == '.') { point = true; continue; }
        any = true;
        if (!first && *p != '0') first = p;
        if (taken < 18 && first) { m = m * 10 + (*p - '0'); taken++; e -= point; }
        else e += (first != NULL) - point;
    }
    end = p;
    if (any && (*p == 'e' || *p == 'E')) {
        down = *++p == '-';
        p += *p == '-' || *p == '+';
        for (any = false; *p >= '0' && *p <= '9'; p++, any = true)
            if (x < 1000000000) x = x * 10 + (*p - '0');
        e += down ? -x : x;
    }
    *s = p;
    x = e + taken - 1;                       /* the first digit counts 10^x                       */
    if (!any || (first && x > 308)) return false;
    if (!first || x < -324) m = 0;
    if (e < -300 && m > 0) { m /= 1e300; e += 300; }
    if (m > 0) m = e < 0 ? m / pow(10.0, (double)-e) : m * pow(10.0, (double)e);
    if (m > DBL_MAX) m = DBL_MAX;
    memcpy(&bits, &m, sizeof bits);          /* doubles of one sign are ordered as their bits     */
    for (; (m > 0 || (first && x == -324)) && bits >> 52 < 2047; bits++) {
        l2l__decimal_of_bits(bits, true, &middle);
        order = l2l__decimal_order(first, end, (int)x, &middle);
        if (order < 0 || (!order && !(bits & 1))) break;
    }
    for (; bits; bits--) {
        l2l__decimal_of_bits(bits - 1, true, &middle);
        order = l2l__decimal_order(first, end, (int)x, &middle);
        if (order > 0 || (!order && !(bits & 1))) break;
    }
    if (bits >> 52 == 2047) return false;
    bits |= (uint64_t)negative << 63;
    memcpy(v, &bits, sizeof bits);
    return true;
}

/* The first n digits, rounded to nearest, of two as near to the even one. */
static void l2l__decimal_round(l2l__decimal *x, int n)
{
    if (n >= x->n) return;
    bool up = x->d[n] > '5' || (x->d[n] == '5' && (x->n > n + 1 || (x->d[n - 1] & 1)));
    for (x->n = n; up && x->n > 0 && x->d[x->n - 1] == '9';) x->n--;
    if (up && x->n > 0) x->d[x->n - 1]++;
    else if (up) { x->d[x->n++] = '1'; x->exponent++; }
    while (x->n && x->d[x->n - 1] == '0') x->n--;
}

/* Writes `value` with up to `digits` significant digits; with 0 for `digits`, as many as lead back
   to it: up to 15 or, if it is not the nearest double to those, 16 or 17. Room for 40. */
static size_t l2l__number(char *out, double value, int digits)
{
    const int most = digits ? digits : 17;
    char *o = out;
    uint64_t bits;
    double back;
    l2l__decimal x;
    memcpy(&bits, &value, sizeof bits);
    if ((bits >> 52 & 2047) == 2047) {
        l2l__format(out, 5, bits << 12 ? "nan" : bits >> 63 ? "-inf" : "inf");
        return strlen(out);
    }
    if (bits >> 63) *o++ = '-';
    l2l__decimal_of_bits(bits, false, &x);
    if (!digits && x.n > 15)
        for (digits = 15; digits < 17; digits++) {
            const char *text = out;
            l2l__number(out, value, digits);
            if (l2l__scan_real(&text, &back) && !memcmp(&back, &value, sizeof back)) break;
        }
    if (digits) l2l__decimal_round(&x, digits);
    if (!x.n) { x.d[x.n++] = '0'; x.exponent = 0; }
    int e = x.exponent, last = x.n - 1, point = e < -5 || e >= most ? 0 : e;
    if (point < 0) {                         /* 0.00ddd, ddd.ddd or d.dddex                       */
        *o++ = '0'; *o++ = '.';
        for (int i = -1; i > point; i--) *o++ = '0';
    }
    for (int i = 0; i <= last || i <= point; i++) {
        *o++ = i <= last ? x.d[i] : '0';
        if (i == point && last > i) *o++ = '.';
    }
    *o = 0;
    return (size_t)(o - out) + (point == e ? 0 : l2l__format(o, 6, "e%d", e));
}

/* A small vsnprintf: %s string, %d int, %z int64_t, %g double, %r double to its last bit (in JSON:
   null where it is no number), %%; returns the untruncated length.
   It exists because stdio may be switched off and printf's %g follows the locale. */
static size_t l2l__vformat(char *out, size_t capacity, const char *format, va_list a)
{
    size_t n = 0;
    for (; *format; format++) {
        char buffer[40];
        const char *s = buffer;
        size_t length = 1;
        if (*format != '%') {
            buffer[0] = *format;
        } else if (*++format == 's') {
            s = va_arg(a, const char *);
            if (!s) s = "(none)";
            length = strlen(s);
        } else if (*format == '%') {
            buffer[0] = '%';
        } else if (*format == 'g') {
            length = l2l__number(buffer, va_arg(a, double), 6);
        } else if (*format == 'r') {
            double v = va_arg(a, double);
            length = fabs(v) <= DBL_MAX ? l2l__number(buffer, v, 0)
                                        : l2l__format(buffer, sizeof buffer, "null");
        } else {
            int64_t v = *format == 'd' ? va_arg(a, int) : va_arg(a, int64_t);
            uint64_t u = v < 0 ? 0u - (uint64_t)v : (uint64_t)v;
            char *p = buffer + sizeof buffer;
            do { *--p = (char)('0' + u % 10); u /= 10; } while (u);
            if (v < 0) *--p = '-';
            s = p;
            length = (size_t)(buffer + sizeof buffer - p);
        }
        for (size_t i = 0; i < length; i++, n++)
            if (n + 1 < capacity) out[n] = s[i];
    }
    if (capacity) out[n < capacity ? n : capacity - 1] = 0;
    return n;
}

static size_t l2l__format(char *out, size_t capacity, const char *format, ...)
{
    va_list a;
    va_start(a, format);
    size_t n = l2l__vformat(out, capacity, format, a);
    va_end(a);
    return n;
}

/* Keeps the first error. Always false, so that `return l2l__fail(...)` reads well. */
static bool l2l__fail(l2l_context *c, l2l_status status, const char *format, ...)
{
    if (c && !c->status) {
        va_list a;
        va_start(a, format);
        c->status = status;
        l2l__vformat(c->text, sizeof c->text, format, a);
        va_end(a);
    }
    return false;
}

L2LADVDEF l2l_status l2l_error(const l2l_context *c) { return c ? c->status : L2L_ERROR_MEMORY; }

L2LADVDEF const char *l2l_error_text(const l2l_context *c)
{
    return c ? c->text : "no context: out of memory";
}

/* An argument that cannot be left out; false, and an error, if it is NULL. */
static bool l2l__given(l2l_context *c, const char *where, const char *what, const void *argument)
{
    return argument != NULL ||
           l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %s is NULL", where, what);
}

L2LADVDEF void l2l_error_clear(l2l_context *c)
{
    if (!c) return;
    c->status = L2L_OK;
    c->text[0] = 0;
}

L2LADVDEF void l2l_error_set(l2l_context *c, l2l_status status, const char *text)
{
    if (status != L2L_OK) l2l__fail(c, status, "%s", text);
    else l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_error_set: L2L_OK is the code of no error; the text "
                   "with it: %s", text);
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

/* Aligned memory that lives until l2l_free; NULL and an error when there is none. */
static void *l2l__allocate_raw(l2l_context *c, size_t size)
{
    char *raw, *p;
    l2l__heap_header h;
    if (!c || c->status) return NULL;
    h.size = size + 2 * L2L__ALIGN;
    raw = h.size < size ? NULL : (char *)c->allocator.allocate(c->allocator.user, h.size);
    if (!raw) {
        l2l__fail(c, L2L_ERROR_MEMORY, "out of memory: %z bytes asked for, %z in use",
                  (uint64_t)size >> 63 ? INT64_MAX : (int64_t)size, (int64_t)c->used);
        return NULL;
    }
    p = raw + 2 * L2L__ALIGN - (size_t)((uintptr_t)raw % L2L__ALIGN);
    h.raw = raw;
    memcpy(p - sizeof h, &h, sizeof h);
    c->used += h.size;
    if (c->used > c->peak) c->peak = c->used;
    return p;
}

/* The same, zeroed. */
L2LADVDEF void *l2l_allocate(l2l_context *c, size_t size)
{
    void *p = l2l__allocate_raw(c, size);
    if (p) memset(p, 0, size);
    return p;
}

static void *l2l__allocate_array(l2l_context *c, int64_t count, size_t size)
{
    size_t bytes = 0;
    return c && !c->status && l2l__bytes(c, count, size, &bytes) ? l2l_allocate(c, bytes) : NULL;
}

L2LADVDEF void l2l_free(l2l_context *c, void *memory)
{
    l2l__heap_header h;
    if (!c || !memory) return;
    memcpy(&h, (char *)memory - sizeof h, sizeof h);
    c->used -= h.size;
    c->allocator.release(c->allocator.user, h.raw);
}

/* The array of n elements with room for one more: twice its capacity if it is full, at first
   `first`. Without memory as it was, and an error. */
static void *l2l__room(l2l_context *c, void *array, int n, int *capacity, int first, size_t size)
{
    int more = *capacity ? 2 * *capacity : first;
    void *larger = n < *capacity ? NULL : l2l__allocate_array(c, more, size);
    if (!larger) return array;
    if (array) memcpy(larger, array, (size_t)n * size);
    l2l_free(c, array);
    *capacity = more;
    return larger;
}

/* Memory of a list, all given back at once: the parts of an object. Else as l2l__allocate_array. */
static void *l2l__hold(l2l_context *c, void **list, int64_t count, size_t size)
{
    size_t bytes = 0;
    void **p = NULL;
    if (c && !c->status && l2l__bytes(c, count, size, &bytes))
        p = (void **)l2l_allocate(c, L2L__ALIGN + bytes);
    if (!p) return NULL;
    *p = *list;                              /* each block leads to the one before                */
    *list = p;
    return (char *)p + L2L__ALIGN;
}

static void l2l__let_go(l2l_context *c, void *list)
{
    for (void *next; list; list = next) {
        memcpy(&next, list, sizeof next);
        l2l_free(c, list);
    }
}

static char *l2l__hold_text(l2l_context *c, void **list, const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = (char *)l2l__hold(c, list, (int64_t)n, 1);
    return copy ? (char *)memcpy(copy, text, n) : NULL;
}

L2LADVDEF size_t l2l_memory_used(const l2l_context *c) { return c ? c->used : 0; }
L2LADVDEF size_t l2l_memory_peak(const l2l_context *c) { return c ? c->peak : 0; }

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
    bool is_view;                            /* a tensor that holds another, its base             */
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

/* A chunk, in which behind its header there are `size` bytes, as one free block. */
static l2l__block *l2l__arena_add(l2l_context *c, void *chunk, size_t size)
{
    l2l__block *b = (l2l__block *)(void *)((char *)chunk + L2L__ALIGN);
    memcpy(chunk, &c->chunks, sizeof c->chunks);
    c->chunks = chunk;
    c->arena_size += size;
    b->size = size;
    b->before = NULL;
    b->is_last = true;
    l2l__free_list_add(c, b);
    return b;
}

static l2l__block *l2l__arena_grow(l2l_context *c, size_t need)
{
    size_t size = need > c->arena_size / 4 ? need : c->arena_size / 4;
    if (size < L2L__CHUNK) size = L2L__CHUNK;
    void *chunk = l2l__allocate_raw(c, size + L2L__ALIGN);
    if (!chunk && size > need) {             /* no room to grow ahead: just what is needed        */
        l2l_error_clear(c);
        chunk = l2l__allocate_raw(c, (size = need) + L2L__ALIGN);
    }
    return chunk ? l2l__arena_add(c, chunk, size) : NULL;
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
    best->is_view = false;
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

static l2l__block *l2l__block_of(void *memory)
{
    return (l2l__block *)(void *)((char *)memory - L2L__BLOCK);
}

static void l2l__arena_drop(l2l_context *c, void *memory)
{
    l2l__block *b, *n;
    if (!memory) return;
    b = l2l__block_of(memory);
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
    l2l__let_go(c, c->chunks);
    c->chunks = NULL;
    c->free_blocks = c->newest = NULL;
    c->arena_size = 0;
}

L2LADVDEF l2l_mark l2l_mark_here(const l2l_context *c)
{
    l2l_mark m;
    m.serial = c ? c->serial : 0;
    m.tape = c ? c->tape_length : 0;
    return m;
}

static void l2l__unhold(l2l_context *c, l2l_tensor *x);
static void l2l__bury(l2l_context *c);

/* Tensors older than the mark are no longer needed by what is released: what was dropped meanwhile
   goes now. A base is older than its view, so it is still there when the view's turn comes. */
L2LADVDEF void l2l_release(l2l_context *c, l2l_mark mark)
{
    if (!c) return;
    for (int i = c->tape_length - 1; i >= mark.tape; i--)
        for (int j = 0; j < 8; j++) l2l__unhold(c, c->tape[i]->in[j]);
    if (c->tape_length > mark.tape) c->tape_length = mark.tape;
    while (c->newest && c->newest->serial > mark.serial) {
        l2l_tensor *y = (l2l_tensor *)(void *)((char *)c->newest + L2L__BLOCK);
        l2l_tensor *base = c->newest->is_view ? y->base : NULL;
        l2l__arena_drop(c, y);
        l2l__unhold(c, base);
    }
    l2l__bury(c);
    if (!c->newest && c->free_blocks && c->free_blocks->newer) {
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
    l2l_options o = L2L__ZERO;
    o.cpu = L2L_CPU_DETECT;
    return o;
}

L2LADVDEF l2l_context *l2l_context_create(const l2l_options *options)
{
    l2l_options o = options ? *options : l2l_options_default();
    l2l_allocator a = o.allocator;
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
    l2l_set_threads(c, o.threads);
    l2l_set_cpu(c, o.cpu);
    return c;
}

L2LADVDEF void l2l_context_free(l2l_context *c)
{
    if (!c) return;
    c->newest = NULL;
    c->tape_length = 0;
    l2l__bury(c);
    l2l__arena_free_chunks(c);
    l2l_free(c, c->tape);
    c->allocator.release(c->allocator.user, c);
}

L2LADVDEF int l2l_threads(const l2l_context *c) { return c ? c->threads : 0; }
L2LADVDEF unsigned l2l_cpu(const l2l_context *c) { return c ? c->cpu : 0; }

L2LADVDEF void l2l_set_threads(l2l_context *c, int threads)
{
    if (!c) return;
    c->threads_looked_at = false;
    memset(&c->core_count, 0, sizeof c->core_count);
#ifdef _OPENMP
    c->threads = threads > 0 ? (threads < 1024 ? threads : 1024) : omp_get_max_threads();
#else
    L2L__UNUSED(threads);
    c->threads = 1;
#endif
}

L2LADVDEF const char *l2l_describe(l2l_context *c)
{
    if (!c) return "no context";
    l2l__format(c->description, sizeof c->description, "l2ladv %s, %s, %s kernels, %d thread%s",
                L2LADV_VERSION, sizeof(l2l_real) == 4 ? "float" : "double", l2l__cpu_name(c),
                c->threads, c->threads == 1 ? "" : "s");
    return c->description;
}

/* -- random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) -------------------- */

/* Four numbers at a time: those around `element` of the stream. */
static void l2l__random_four(const l2l_stream *s, uint32_t element, uint32_t x[4])
{
    uint32_t k0 = (uint32_t)s->seed, k1 = (uint32_t)(s->seed >> 32);
    x[0] = element / 4; x[1] = s->image; x[2] = s->epoch; x[3] = s->step << 8 | (s->purpose & 255);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        uint32_t y0 = (uint32_t)(b >> 32) ^ x[1] ^ k0, y2 = (uint32_t)(a >> 32) ^ x[3] ^ k1;
        x[0] = y0; x[1] = (uint32_t)b; x[2] = y2; x[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static double l2l__unit(uint32_t bits) { return (bits >> 8) * (1.0 / 16777216.0); }

L2LADVDEF uint32_t l2l_random_bits(const l2l_stream *s, uint32_t element)
{
    uint32_t x[4] = {0};
    if (s) l2l__random_four(s, element, x);
    return x[element & 3];
}

L2LADVDEF double l2l_random_uniform(const l2l_stream *s, uint32_t element)
{
    return l2l__unit(l2l_random_bits(s, element));
}

/* Box-Muller on a pair; 1-u is never 0. */
L2LADVDEF double l2l_random_normal(const l2l_stream *s, uint32_t element)
{
    uint32_t x[4] = {0};
    const uint32_t *p = x + (element & 2);
    double r, a;
    if (s) l2l__random_four(s, element, x);
    r = sqrt(-2.0 * log(1.0 - l2l__unit(p[0])));
    a = 6.283185307179586 * l2l__unit(p[1]);
    return r * (element & 1 ? sin(a) : cos(a));
}

static l2l_stream l2l__stream(uint64_t seed, uint32_t purpose, uint32_t epoch, uint32_t image,
                              uint32_t step)
{
    l2l_stream s;
    s.seed = seed; s.purpose = purpose; s.epoch = epoch; s.image = image; s.step = step;
    return s;
}

/* -- what files know a setting by: digests, and members of structs ---------------------------- */

/* FNV-1a, 64 bits, begun at L2L__FNV. */
#define L2L__FNV 14695981039346656037u
static uint64_t l2l__fold(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    for (; bytes > 0; bytes--) h = (h ^ *p++) * 1099511628211u;
    return h;
}

/* A number for bytes, to tell them apart (52 bits: exact in a double); 0 for NULL. */
static double l2l__digest_bytes(const void *data, int64_t bytes)
{
    return data ? (double)(l2l__fold(L2L__FNV, data, (size_t)bytes) >> 12) : 0;
}

/* -- options: one table for each struct ---------------------------------------------------------
   What a member is called, where it is and what it can be. The checks of options, the metadata of
   files, the fingerprints of checkpoints and evaluations and the states of maximizers read the same
   tables: what can be made can be saved, and what was saved can be made again. */
typedef struct l2l__field {
    size_t offset, size;
    const char *name;                        /* NULL ends a table                                 */
    char type;                               /* 's' text, 'r' double, 'l' doubles, in files by    */
                                             /* their digest; 't' a struct with a table;          */
                                             /* 'i' integer, bool or enum of 1, 4 or 8 bytes      */
    int use;                                 /* L2L__ABOVE and so on                              */
    double low, high;
    const char *const *names;                /* of the numbers 0..high; of 'r' a hint; or NULL    */
    const struct l2l__field *table;          /* of 't'                                            */
    const char *key;                         /* its name in a file, where that is another         */
} l2l__field;
enum {
    L2L__ABOVE = 1, L2L__BELOW = 2,          /* low, high themselves are not allowed              */
    L2L__ANY = 4,                            /* any number, and not even a number                 */
    L2L__FREE = 8,                           /* changes no result of what has been made           */
    L2L__FILED = 16,                         /* stands in the file of a model or maximizer        */
    L2L__AGREED = 32,                        /* and must be equal where such a file is loaded     */
    L2L__APART = 64                          /* is checked by itself                              */
};
#define L2L__MEMBER(in, member, name, type, use, low, high, names, table, key) \
    {offsetof(in, member), sizeof(((in *)0)->member), name, type, use, low, high, names, table, key}
#define L2L__INT(in, member, low, high, use) \
    L2L__MEMBER(in, member, #member, 'i', use, low, high, NULL, NULL, NULL)
#define L2L__BOOL(in, member, use) L2L__INT(in, member, 0, 1, use)
#define L2L__NUMBER(in, member, low, high, use) \
    L2L__MEMBER(in, member, #member, 'r', use, low, high, NULL, NULL, NULL)
#define L2L__LIST(in, member, low, high, use) \
    L2L__MEMBER(in, member, #member, 'l', use, low, high, NULL, NULL, NULL)
#define L2L__TEXT(in, member, use) \
    L2L__MEMBER(in, member, #member, 's', use, 0, 0, NULL, NULL, NULL)
#define L2L__ENUM(in, member, names, use) \
    L2L__MEMBER(in, member, #member, 'i', use, 0, (int)(sizeof names / sizeof *names) - 1, names,  \
                NULL, NULL)
#define L2L__TABLE(in, member, table, use) \
    L2L__MEMBER(in, member, #member, 't', use, 0, 0, NULL, table, NULL)
/* Two fields of 4 bytes: a seed, all of whose bits shall count. */
#define L2L__SEED(in, member, use) \
    {offsetof(in, member), 4, "seed (one half)", 'i', use, INT_MIN, INT_MAX, NULL, NULL, NULL}, \
    {offsetof(in, member) + 4, 4, "seed (other half)", 'i', use, INT_MIN, INT_MAX, NULL, NULL, NULL}
#define L2L__EXACT 9007199254740992.0        /* 2^53: whole doubles are exact up to here          */
#define L2L__END {0, 0, NULL, 0, 0, 0, 0, NULL, NULL, NULL}
static const char *const l2l__pixel_hint[] = {"pixels are in [0,1], so 8 of 255 is 8/255"};
static const char *const l2l__norm_names[] = {"linf", "l2"};
static const char *const l2l__start_names[] = {"clean", "uniform", "normal"};
static const char *const l2l__mode_names[] = {"evaluate", "train"};

/* A way through a table and those inside of it:
       for (l2l__members w = l2l__members_of(table, "prefix"); l2l__next_member(&w, skip);) */
typedef struct l2l__members {
    const l2l__field *f;                     /* the member at hand,                               */
    size_t base;                             /* where its struct begins in the outermost one,     */
    char name[96];                           /* "prefix.inner.member"                             */
    int depth;
    struct { const l2l__field *next; size_t base, length; } level[5];
} l2l__members;

static l2l__members l2l__members_of(const l2l__field *table, const char *prefix)
{
    l2l__members w = L2L__ZERO;
    w.level[0].next = table;
    w.level[0].length = l2l__format(w.name, sizeof w.name, *prefix ? "%s." : "%s", prefix);
    return w;
}

/* Leaves out what has one of the uses `skip`. */
static bool l2l__next_member(l2l__members *w, int skip)
{
    while (w->depth >= 0) {
        const l2l__field *f = w->level[w->depth].next++;
        size_t at = w->level[w->depth].length, length;
        if (!f->name) { w->depth--; continue; }
        if (f->use & skip) continue;
        length = at + l2l__format(w->name + at, sizeof w->name - at, "%s", f->name);
        w->f = f;
        w->base = w->level[w->depth].base;
        if (f->type != 't') return true;
        if (*f->name) length += l2l__format(w->name + length, sizeof w->name - length, ".");
        w->level[++w->depth].next = f->table;
        w->level[w->depth].base = w->base + f->offset;
        w->level[w->depth].length = length;
    }
    return false;
}

/* A value as a number; whole ones are exact up to 2^53. */
static double l2l__field_get(const l2l__field *f, const void *in)
{
    const char *p = (const char *)in + f->offset, *text;
    double v;
    int64_t wide;
    int32_t i;
    if (f->type == 'l') return l2l__digest_bytes(p, (int64_t)f->size);
    if (f->type == 's') {
        memcpy(&text, p, sizeof text);
        return text ? l2l__digest_bytes(text, (int64_t)strlen(text)) : 0;
    }
    if (f->type == 'r') { memcpy(&v, p, sizeof v); return v; }
    if (f->size == 1) return *(const unsigned char *)p;
    if (f->size == 8) { memcpy(&wide, p, 8); return (double)wide; }
    memcpy(&i, p, 4);
    return i;
}
static double l2l__member_get(const l2l__members *w, const void *in)
{
    return l2l__field_get(w->f, (const char *)in + w->base);
}

/* A value that fits. */
static void l2l__field_set(const l2l__field *f, void *in, double v)
{
    char *p = (char *)in + f->offset;
    int64_t wide = f->type == 'i' ? (int64_t)v : 0;
    int32_t i = (int32_t)wide;
    if (f->type == 'r') memcpy(p, &v, sizeof v);
    else if (f->type != 'i') return;
    else if (f->size == 1) *p = (char)wide;
    else if (f->size == 8) memcpy(p, &wide, 8);
    else memcpy(p, &i, 4);
}

static bool l2l__field_fits(const l2l__field *f, double v)
{
    if (f->use & L2L__ANY) return true;
    return v >= f->low && v <= f->high && !(f->use & L2L__ABOVE && v <= f->low) &&
           !(f->use & L2L__BELOW && v >= f->high) && (f->type != 'i' || !(v - floor(v) > 0));
}

/* "in [0,1)", "at least 1", "0 (sgd) or 1 (adam)" */
static const char *l2l__allowed(const l2l__field *f, char text[160])
{
    const int last = f->type == 'i' && f->names ? (int)f->high : -1;
    char low[40], high[40];
    size_t n = 0;
    for (int k = 0; k <= last; k++)
        n += l2l__format(text + n, 160 - n, "%s%d (%s)", !k ? "" : k < last ? ", " : " or ", k,
                         f->names[k]);
    if (last >= 0) return text;
    l2l__number(low, f->low, 10);
    l2l__number(high, f->high, 10);
    if (f->low <= -(double)FLT_MAX)
        n = l2l__format(text, 160, f->high > DBL_MAX ? "a number" : f->high < DBL_MAX
                        ? "a number that is finite as a float" : "a finite number");
    else if (f->type == 'i' && f->high > INT_MAX)
        n = l2l__format(text, 160, "in [%s,%s]", low, high);
    else if (f->high >= INT_MAX)
        n = l2l__format(text, 160, "%s %s%s", f->use & L2L__ABOVE ? "above" : "at least", low,
                        f->type == 'i' || f->high > DBL_MAX ? "" : f->high < DBL_MAX
                        ? " and finite as a float" : " and finite");
    else
        n = l2l__format(text, 160, "in %s%s,%s%s", f->use & L2L__ABOVE ? "(" : "[", low, high,
                        f->use & L2L__BELOW ? ")" : "]");
    if (f->names) l2l__format(text + n, 160 - n, "; %s", *f->names);
    return text;
}

/* Whether all members but those with a use of `skip` are what they can be. */
static bool l2l__options_ok(l2l_context *c, const char *who, const l2l__field *table,
                            const void *in, int skip)
{
    char place[16], value[40], text[160];
    if (!c || c->status || !l2l__given(c, who, "the options", in)) return false;
    for (l2l__members w = l2l__members_of(table, ""); l2l__next_member(&w, skip);) {
        const l2l__field *f = w.f;
        int n = f->type == 'l' ? (int)(f->size / sizeof(double)) : f->type == 's' ? 0 : 1;
        for (int i = 0; i < n; i++) {
            double v = f->type == 'l' ? 0 : l2l__member_get(&w, in);
            if (f->type == 'l')
                memcpy(&v, (const char *)in + w.base + f->offset + (size_t)i * sizeof v, sizeof v);
            if (l2l__field_fits(f, v)) continue;
            l2l__format(place, sizeof place, n > 1 ? "[%d]" : "", i);
            l2l__number(value, v, f->type == 'i' ? 16 : 6);
            return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %s%s %s is not %s", who, w.name, place,
                             value, l2l__allowed(f, text));
        }
    }
    return true;
}

/* The settings that a state belongs to, as numbers: how many, and if `v` is there they themselves.
   Equal settings have the same bytes. */
static int l2l__options_pack(const l2l__field *table, const void *in, double *v)
{
    int n = 0;
    for (l2l__members w = l2l__members_of(table, ""); l2l__next_member(&w, L2L__FREE); n++)
        if (v) v[n] = l2l__member_get(&w, in);
    return n;
}

/* Of n fields of one struct, set to these numbers, the first that does not fit, or n. */
static int l2l__fields_set(const l2l__field *f, int n, void *in, const double *v)
{
    int i;
    for (i = 0; i < n && l2l__field_fits(f + i, v[i]); i++) l2l__field_set(f + i, in, v[i]);
    return i;
}

/* -- the tables -------------------------------------------------------------------------------- */

/* of chapter 11, attacks */
static bool l2l__attack_ok(l2l_context *c, const char *who, const l2l_attack *a, int n);

/* For checkpoints: the settings that a maximizer's state of `count` numbers begins with have to be
   those of here; behind them comes an optimizer's count of steps, a whole number. Returns the
   number behind that, or NULL. Settings come first: some decide how many numbers there are. */
static const double *l2l__state_of(l2l_context *c, const char *what, const l2l__field *table,
                                   const void *options, const double *numbers, int64_t count,
                                   int64_t expected)
{
    int n = 0;
    bool all = count > l2l__options_pack(table, options, NULL);
    l2l__members w = l2l__members_of(table, "");
    for (; all && !c->status && l2l__next_member(&w, L2L__FREE); n++) {
        const double here = l2l__member_get(&w, options);
        if (memcmp(numbers + n, &here, sizeof here)) /* the bits: -0 is not 0                     */
            l2l__fail(c, L2L_ERROR_MISMATCH, "checkpoint: made with %s whose %s is %r, not %r",
                      what, w.name, numbers[n], here);
    }
    if (count != expected)
        l2l__fail(c, L2L_ERROR_MISMATCH, "checkpoint: %s of %z numbers, not %z", what, count,
                  expected);
    if (!c->status &&
        !(numbers[n] >= 0 && numbers[n] <= L2L__EXACT && numbers[n] <= floor(numbers[n])))
        l2l__fail(c, L2L_ERROR_FORMAT, "checkpoint: number %d of the state of %s, the steps of its "
                  "optimizer, is %g: not a whole number in [0,2^53]", n, what, numbers[n]);
    return c->status ? NULL : numbers + n + 1;
}

/* The largest l2l_real: what becomes one is bounded by it, for beyond it is infinite. */
#define L2L__REAL_MOST (sizeof(l2l_real) == 4 ? (double)FLT_MAX : DBL_MAX)
#define L2L__BELOW_1 0.99999997              /* a float is 1 from 1 - 2^-25 on, and 0 to 7e-46    */
static const char *const l2l__optimizer_names[] = {"sgd", "adam"};
static const l2l__field l2l__optimizer_fields[] = {
    L2L__ENUM(l2l_optimizer_options, kind, l2l__optimizer_names, 0),
    L2L__NUMBER(l2l_optimizer_options, rate, 0, 1e6, L2L__BELOW),
    L2L__NUMBER(l2l_optimizer_options, momentum, 0, 1, L2L__BELOW),
    L2L__NUMBER(l2l_optimizer_options, weight_decay, 0, (double)FLT_MAX, 0),
    L2L__BOOL(l2l_optimizer_options, nesterov, 0),
    L2L__NUMBER(l2l_optimizer_options, beta1, 0, L2L__BELOW_1, L2L__BELOW),
    L2L__NUMBER(l2l_optimizer_options, beta2, 0, L2L__BELOW_1, L2L__BELOW),
    L2L__NUMBER(l2l_optimizer_options, epsilon, 1e-45, (double)FLT_MAX, L2L__ABOVE),
    L2L__NUMBER(l2l_optimizer_options, clip, 0, DBL_MAX, 0),
    L2L__END};

static const char *const l2l__schedule_names[] = {"constant", "steps", "cosine"};
static const l2l__field l2l__schedule_fields[] = {
    L2L__ENUM(l2l_schedule, kind, l2l__schedule_names, 0),
    L2L__NUMBER(l2l_schedule, warm_up, 0, 1, 0),
    L2L__LIST(l2l_schedule, milestones, 0, 1, 0),
    L2L__NUMBER(l2l_schedule, factor, 0, 1e6, 0),
    L2L__NUMBER(l2l_schedule, final, 0, 1e6, 0),
    L2L__END};

static const l2l__field l2l__maximizer_fields[] = {
    L2L__TEXT(l2l_maximizer, name, 0),
    L2L__INT(l2l_maximizer, memory, 0, 2, 0),
    L2L__NUMBER(l2l_maximizer, number[0], -L2L__REAL_MOST, L2L__REAL_MOST, 0),
    L2L__NUMBER(l2l_maximizer, number[1], -L2L__REAL_MOST, L2L__REAL_MOST, 0),
    L2L__END};
static const l2l__field l2l__objective_fields[] = {
    L2L__TEXT(l2l_objective, name, 0),
    L2L__BOOL(l2l_objective, needs_clean, 0),
    L2L__BOOL(l2l_objective, cut, 0),
    L2L__NUMBER(l2l_objective, confidence, -L2L__REAL_MOST, L2L__REAL_MOST, 0),
    L2L__BOOL(l2l_objective, concurrent, L2L__FREE),
    L2L__END};
/* Steps and restarts come first: attacks are compared that differ in nothing else. */
static const l2l__field l2l__attack_fields[] = {
    L2L__INT(l2l_attack, steps, 0, 1000000000, 0),
    L2L__INT(l2l_attack, restarts, 1, INT_MAX, 0),
    L2L__ENUM(l2l_attack, norm, l2l__norm_names, 0),
    L2L__MEMBER(l2l_attack, epsilon, "epsilon", 'r', 0, 0, HUGE_VAL, l2l__pixel_hint, NULL, NULL),
    L2L__NUMBER(l2l_attack, step_size, 0, (double)FLT_MAX, 0),
    L2L__NUMBER(l2l_attack, relative_step, 0, (double)FLT_MAX, 0),
    L2L__ENUM(l2l_attack, start, l2l__start_names, 0),
    L2L__BOOL(l2l_attack, last_iterate, 0),
    L2L__SEED(l2l_attack, seed, 0),
    L2L__INT(l2l_attack, first, INT_MIN, INT_MAX, 0),
    L2L__BOOL(l2l_attack, minimal, 0),
    L2L__INT(l2l_attack, batch, 1, INT_MAX, L2L__FREE),
    L2L__TABLE(l2l_attack, maximizer, l2l__maximizer_fields, 0),
    L2L__TABLE(l2l_attack, objective, l2l__objective_fields, 0),
    L2L__NUMBER(l2l_attack, number[0], -DBL_MAX, DBL_MAX, 0),
    L2L__NUMBER(l2l_attack, number[1], -DBL_MAX, DBL_MAX, 0),
    L2L__END};

static const char *const l2l__cell_names[] = {"lstm", "rnn"};
static const char *const l2l__input_names[] = {"sign", "l1", "linf", "log", "raw"};
static const char *const l2l__output_names[] = {"tanh", "raw"};
static const l2l__field l2l__learned_fields[] = {
    L2L__ENUM(l2l_learned_options, cell, l2l__cell_names, L2L__FILED | L2L__AGREED),
    L2L__INT(l2l_learned_options, hidden, 1, L2L__MAX_HIDDEN, L2L__FILED | L2L__AGREED),
    L2L__BOOL(l2l_learned_options, bias, 0), /* a file tells by its tensors                       */
    L2L__ENUM(l2l_learned_options, input, l2l__input_names, L2L__FILED | L2L__AGREED),
    L2L__MEMBER(l2l_learned_options, raw_output, "raw_output", 'i', L2L__FILED | L2L__AGREED, 0, 1,
                l2l__output_names, NULL, "output"),
    L2L__NUMBER(l2l_learned_options, scale, 0, (double)FLT_MAX,
                L2L__ABOVE | L2L__FILED | L2L__AGREED),
    L2L__BOOL(l2l_learned_options, second_order, L2L__FILED),
    L2L__TABLE(l2l_learned_options, optimizer, l2l__optimizer_fields, 0),
    L2L__SEED(l2l_learned_options, seed, L2L__FREE),
    L2L__END};
static bool l2l__learned_options_ok(l2l_context *c, const l2l_learned_options *o)
{
    return l2l__options_ok(c, "l2l_learned_create", l2l__learned_fields, o, 0);
}

/* What it was trained with goes into its file and its state. */
static const l2l__field l2l__trained_fields[] = {
    L2L__MEMBER(l2l_learned, trained_T, "T", 'i', L2L__FILED, 0, INT_MAX, NULL, NULL, NULL),
    L2L__MEMBER(l2l_learned, trained_epsilon, "epsilon", 'r', L2L__FILED, 0, DBL_MAX, NULL, NULL,
                NULL),
    L2L__END};

static const l2l__field l2l__outer_fields[] = {
    L2L__TEXT(l2l_outer, name, 0),
    L2L__NUMBER(l2l_outer, number[0], -L2L__REAL_MOST, L2L__REAL_MOST, 0),
    L2L__NUMBER(l2l_outer, number[1], -L2L__REAL_MOST, L2L__REAL_MOST, 0),
    L2L__BOOL(l2l_outer, is_objective, 0),
    L2L__END};
static const l2l__field l2l__method_fields[] = {
    L2L__TEXT(l2l_method, name, 0),
    L2L__TABLE(l2l_method, objective, l2l__objective_fields, 0),
    L2L__TABLE(l2l_method, maximizer, l2l__maximizer_fields, 0),
    L2L__TABLE(l2l_method, outer, l2l__outer_fields, 0),
    L2L__ENUM(l2l_method, start, l2l__start_names, 0),
    L2L__END};
static const l2l__field l2l__train_fields[] = {
    L2L__TABLE(l2l_train_options, method, l2l__method_fields, 0),
    L2L__INT(l2l_train_options, epochs, 1, INT_MAX, 0),
    L2L__INT(l2l_train_options, batch, 1, INT_MAX, 0),
    L2L__INT(l2l_train_options, steps, 0, L2L__EXACT, 0),
    L2L__INT(l2l_train_options, micro_batch, 0, INT_MAX, 0),
    L2L__MEMBER(l2l_train_options, epsilon, "epsilon", 'r', 0, 0, 1, l2l__pixel_hint, NULL, NULL),
    L2L__INT(l2l_train_options, T, 0, 10000, 0),
    L2L__NUMBER(l2l_train_options, step_size, 0, (double)FLT_MAX, 0),
    L2L__NUMBER(l2l_train_options, epsilon_warm_up, 0, 1, 0),
    L2L__TABLE(l2l_train_options, optimizer, l2l__optimizer_fields, 0),
    L2L__TABLE(l2l_train_options, schedule, l2l__schedule_fields, 0),
    L2L__INT(l2l_train_options, augment.padding, 0, INT_MAX, 0),
    L2L__BOOL(l2l_train_options, augment.flip, 0),
    L2L__ENUM(l2l_train_options, inner_mode, l2l__mode_names, 0),
    L2L__INT(l2l_train_options, validation, 0, INT_MAX, 0),
    L2L__TEXT(l2l_train_options, validation_attack.name, 0),
    L2L__TABLE(l2l_train_options, validation_attack, l2l__attack_fields, L2L__APART),
    L2L__NUMBER(l2l_train_options, averaging, 0, 1, L2L__BELOW),
    L2L__BOOL(l2l_train_options, stop_on_plateau, 0),
    L2L__SEED(l2l_train_options, seed, 0),
    L2L__INT(l2l_train_options, checkpoint_steps, 0, INT_MAX, L2L__FREE),
    L2L__BOOL(l2l_train_options, resume, L2L__FREE),
    L2L__INT(l2l_train_options, rank, 0, INT_MAX, L2L__FREE),
    L2L__INT(l2l_train_options, ranks, 0, 1 << 16, L2L__FREE),
    L2L__END};

static bool l2l__train_options_ok(l2l_context *c, const l2l_model *m, const l2l_dataset *d,
                                  const l2l_train_options *o)
{
    const l2l_model_options *a = &m->options;
    const l2l_attack *v = &o->validation_attack;
    const double *w = o->schedule.milestones;
    const l2l_status bad = L2L_ERROR_ARGUMENT;
    if (c->status) return false;
    if (!o->method.objective.loss || !o->method.outer.loss)
        return l2l__fail(c, bad, "training: the method lacks an objective or an outer loss");
    if ((d && !l2l__dataset_fits(c, "training", d, a)) ||
        !l2l__options_ok(c, "training", l2l__train_fields, o, L2L__APART)) return false;
    if (d ? o->steps != 0 : o->steps < 1)
        return l2l__fail(c, bad, d ? "training: steps %z with a data set, whose steps follow from "
                         "epochs and batch; leave it 0" : "training: without a data set steps must "
                         "say how many l2l_train_step will make, not %z", o->steps);
    if (o->augment.padding >= a->height || o->augment.padding >= a->width)
        return l2l__fail(c, bad, "training: augment.padding %d is not in 0 to below the model's "
                         "%dx%d", o->augment.padding, a->height, a->width);
    if (o->method.outer.loss == l2l__outer_trades && o->method.outer.user)
        return l2l__fail(c, bad, "training: method.outer.user must be NULL for the loss of TRADES, "
                         "which takes beta from number[0]");
    if (!o->method.maximizer.gradient != !o->method.maximizer.update)
        return l2l__fail(c, bad, "training: the maximizer '%s' needs both gradient and update, or "
                         "neither", o->method.maximizer.name);
    if (!o->method.maximizer.pack != !o->method.maximizer.unpack)
        return l2l__fail(c, bad, "training: the maximizer '%s' needs both pack and unpack, or "
                         "neither", o->method.maximizer.name);
    if (o->rank >= (o->ranks > 1 ? o->ranks : 1))
        return l2l__fail(c, bad, "training: rank %d is not below ranks, %d", o->rank, o->ranks);
    if (o->ranks > 1 && !o->exchange)
        return l2l__fail(c, bad, "training: %d ranks, but `exchange` is NULL", o->ranks);
    if (o->ranks > 1 && o->method.maximizer.gradient && !o->method.maximizer.sum)
        return l2l__fail(c, L2L_ERROR_UNSUPPORTED, "training: several ranks need the `sum` of the "
                         "maximizer '%s', which has none", o->method.maximizer.name);
    if (o->T < 1 && o->method.maximizer.update)
        return l2l__fail(c, bad, "training: T %d, but the maximizer '%s' learns from at least 1 "
                         "step", o->T, o->method.maximizer.name);
    if (o->resume && !o->checkpoint)
        return l2l__fail(c, bad, "training: resume is true, but `checkpoint`, the file to go on "
                         "from, is NULL");
    for (int i = 0; i < o->T && o->loss_weights; i++)
        if (!(fabs(o->loss_weights[i]) <= DBL_MAX))
            return l2l__fail(c, bad, "training: loss_weights[%d] %g is not a finite number", i,
                             o->loss_weights[i]);
    for (int i = 1; i < 8; i++)
        if (w[i] > 0 && !(w[i] >= w[i - 1] && w[i - 1] > 0))
            return l2l__fail(c, bad, "training: schedule.milestones[%d] %g behind %g: they ascend, "
                             "and only unused ones, which come last, are 0", i, w[i], w[i - 1]);
    if (o->validation >= (d ? d->count : 1))
        return l2l__fail(c, bad, "training: validation %d must leave some of the %d images for "
                         "training", o->validation, d ? d->count : 0);
    if (o->validation && v->name && v->only)
        return l2l__fail(c, bad, "training: validation_attack.only: all held-out images count");
    return !o->validation || !v->name ||
           (l2l__attack_ok(c, "training: validation_attack", v, o->validation) &&
            l2l__images_ok(c, "training: validation_attack.targets", a, NULL, v->targets,
                           o->validation) &&
            l2l__images_ok(c, "training: validation_attack.init", a, v->init, NULL, o->validation));
}

#ifdef __clang__
#pragma mark - 8  Tensors and autodiff
#endif
/* ============================================================================================ */
/*  8  TENSORS AND REVERSE-MODE AUTODIFF                                            >>autodiff  */
/* ============================================================================================

   An operation computes its result at once and, while the context records, leaves a node on the
   tape: which operation, its inputs, what it saved. l2l_vjp walks the tape backwards. Each node's
   vector-Jacobian product (VJP) is written with the operations of this chapter, so with
   L2L_CREATE_GRAPH the walk itself is recorded and can be differentiated again, to any order.
   Convolution, input gradient and weight gradient are each other's VJPs; unpooling and gathering,
   summing and broadcasting, slicing and placing, picking and unpicking are pairs of adjoints. */

/* x is nxhxwxc, y nxohxowxk, the weight khxkwxcxk; pooling has k = c and a square window kh. */
typedef struct l2l__geometry {
    int n, h, w, c, k, kh, kw, stride, padding, oh, ow;
} l2l__geometry;

/* y = relu(scale * (x - mean) + bias + residual), channel by channel; NULL is left out. */
typedef struct l2l__epilogue {
    const l2l_real *mean, *scale, *bias, *residual;
    bool relu, ties;                         /* ties: windows of 2x2 may be pooled, see l2l__tie  */
} l2l__epilogue;

static l2l__epilogue l2l__epilogue_of(const l2l_real *mean, const l2l_real *scale,
                                      const l2l_real *bias, const l2l_real *residual, bool relu)
{
    l2l__epilogue e;
    e.mean = mean; e.scale = scale; e.bias = bias; e.residual = residual;
    e.relu = relu;
    e.ties = false;
    return e;
}

/* Packed copies of a parameter: [0] for the forward pass, [1] for the input gradient; from [2] on
   the same in Winograd's domain (small layers), for tiles of 4, of 2 and of 5, at stride 2 and for
   planes of 2x2: one parameter may serve planes of several sizes. They are made anew when
   `version`, which every writer of the parameter bumps, has moved on. */
enum { L2L__CACHES = 12 };
typedef struct l2l__cache {
    l2l_real *panels;
    int64_t count;
    int kh, kw, depth, stride;               /* of what was packed: a view may have another shape */
    uint64_t version;
    const struct l2l__kernels *kernels;
} l2l__cache;
typedef struct l2l__packed {
    uint64_t version;
    uint64_t used[2];                        /* 1 + the version that a direction was last run for */
    l2l__cache cache[L2L__CACHES];
} l2l__packed;

/* What a VJP is given and answers. A node has at most eight inputs. An answer is a reference that
   the walk takes over: a VJP that hands dy itself on retains it. What it answers beyond what was
   asked for is dropped. */
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

/* of chapter 8, tensors */
static void l2l__pointwise_vjp(l2l__vjp *v);
static l2l_tensor *l2l__map(l2l_context *c, int kind, l2l_tensor *x, l2l_shape s, int64_t i0,
                            int64_t i1, int64_t i2, l2l_tensor *positions);
static l2l_tensor *l2l__gate_scale(l2l_context *c, l2l_tensor *dy, l2l_tensor *gate,
                                   l2l_tensor *scale);

/* of chapter 10, losses and optimizers */
static bool l2l__outer_logits_ok(const l2l_model *m, const l2l_tensor *z);

/* of chapter 14, files */
static bool l2l__is_utf8(const char *text);
static bool l2l__bundle_has(const struct l2l__bundle *b, const char *name, l2l_shape s, int rank);

/* of chapter 15, kernels */
static void l2l__packed_free(l2l_context *c, l2l__packed *p);
static bool l2l__arithmetic_ok(l2l_context *c);
static int l2l__next(int *taken);
static void l2l__channel_finish(l2l_context *c, int64_t pixels, int64_t each, int n,
                                const l2l_real *x, const l2l__epilogue *e, l2l_real *y);
static void l2l__channel_gate(l2l_context *c, int64_t pixels, int64_t each, int n,
                              const l2l_real *dy, const l2l_real *gate, const l2l_real *scale,
                              l2l_real *out);
static void l2l__channel_combine(l2l_context *c, int64_t pixels, int64_t each, int n,
                                 const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                                 const l2l_real *by, l2l_real *out);
static bool l2l__channel_moments(l2l_context *c, int64_t pixels, int64_t each, int n,
                                 const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                                 const l2l_real *mu, double *s0, double *s1);
static bool l2l__channel_variance(l2l_context *c, int64_t pixels, int n, const l2l_real *x,
                                  l2l_real *mu, l2l_real *variance);
static bool l2l__same_way(const l2l_context *c, int from, int channels, int h, int w, int side);
static bool l2l__conv_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                              const l2l_tensor *w, const l2l__epilogue *e, l2l_real *y);
static bool l2l__conv_input_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *dy,
                                     const l2l_tensor *w, l2l_real *dx);
static bool l2l__conv_weight_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                      const l2l_real *dy, l2l_real *dw);
static void l2l__max_pool_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                  l2l_real *y, int *index);
static void l2l__pool_gather(l2l_context *c, const l2l__geometry *g, bool forward,
                             const int *index, l2l_real *x, l2l_real *y);
static void l2l__average(l2l_context *c, const l2l__geometry *g, bool forward, l2l_real *x,
                         l2l_real *y);

/* -- shapes and storage ------------------------------------------------------------------------ */

L2LADVDEF l2l_shape l2l_shape_of(int n, int h, int w, int c)
{
    l2l_shape s;
    s.n = n; s.h = h; s.w = w; s.c = c;
    return s;
}

/* No overflow for shapes that l2l__shape_ok lets pass: two axes at a time fit 62 bits. */
L2LADVDEF int64_t l2l_count(l2l_shape s)
{
    return (int64_t)s.n * s.h * ((int64_t)s.w * s.c);
}

static bool l2l__same(l2l_shape a, l2l_shape b)
{
    return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c;
}

static l2l_shape l2l__channels(int channels) { return l2l_shape_of(1, 1, 1, channels); }

/* Axes must be positive, and what they multiply to must leave room for arithmetic on it: a factor
   of 64, for the 8 bytes of a double and for small multiples of a count. */
static bool l2l__shape_ok(l2l_context *c, const char *where, l2l_shape s)
{
    int64_t a, b;
    if (!c || c->status) return false;
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

static bool l2l__equal(l2l_context *c, const char *where, l2l_shape a, l2l_shape b)
{
    return l2l__same(a, b) || l2l__shapes_differ(c, where, a, b);
}

/* A parameter has no references, and its p is the model. What is another's p is looked at first:
   while lanes run the references of other tensors may change. */
static bool l2l__is_parameter(const l2l_tensor *x) { return x->p && x->references == 0; }

/* Every operation begins with this: no earlier error, and data to work on. Headers on a caller's
   stack (l2l__images_of) have no context; a lane reads the parameters of its caller, and no other
   tensor of its: those count references, and their places are on the caller's tape. (Where an own
   network or objective has such a one the pass is then made as a whole, l2l__in_slices.) */
static bool l2l__ready(l2l_context *c, const char *where, const l2l_tensor *x)
{
    if (!c || c->status) return false;
    if (!x) return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: an input tensor is NULL", where);
    if (x->context && x->context != c && !(x->context == c->caller && l2l__is_parameter(x)))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: an input tensor is another context's", where);
    for (; x; x = x->base)                   /* a view stands and falls with its base             */
        if (!x->data)
            return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: an input's data were given back (dropped, "
                             "or freed by L2L_FREE_GRAPH)", where);
    return true;
}

/* Of an operand that may be left out. */
static const l2l_real *l2l__data(const l2l_tensor *x) { return x ? x->data : NULL; }

/* A tensor without numbers, on no tape (-1), held once: by whoever asked for it. */
static l2l_tensor *l2l__header(l2l_context *c, l2l_shape s)
{
    l2l_tensor *x = (l2l_tensor *)l2l__arena(c, sizeof *x);
    if (!x) return NULL;
    memset(x, 0, sizeof *x);
    x->context = c;
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

/* A result of x's shape, and the check of x. */
static l2l_tensor *l2l__like(l2l_context *c, const char *where, const l2l_tensor *x)
{
    return l2l__ready(c, where, x) ? l2l__new(c, where, x->shape) : NULL;
}

/* Gives back what x owns; a view's numbers are its base's. The header stays for those that still
   point to it: to them data of NULL tells (l2l__ready). */
static void l2l__drop_data(l2l_context *c, l2l_tensor *x)
{
    if (!x->base) l2l__arena_drop(c, x->data);
    l2l__arena_drop(c, x->index);
    l2l__arena_drop(c, x->saved);
    x->data = x->saved = NULL;
    x->index = NULL;
}

/* One reference more. Parameters (references 0) are not counted: lanes share them, and so write
   nothing to them. */
static l2l_tensor *l2l__retain(l2l_tensor *x)
{
    if (x && x->references) x->references++;
    return x;
}

/* One reference less: of an owner, of a node of the tape, of a view. The last one frees it. */
static void l2l__unhold(l2l_context *c, l2l_tensor *x)
{
    while (x && x->references > 0 && --x->references == 0) {
        l2l_tensor *base = x->base;
        l2l__drop_data(c, x);
        l2l__arena_drop(c, x);
        x = base;
    }
}

/* Recorded nodes live as long as the tape; parameters (references 0) as long as their model; what a
   callback was lent is not its to drop, and what is another context's not this one's. */
L2LADVDEF void l2l_drop(l2l_context *c, l2l_tensor *x)
{
    if (c && x && x->context == c && x->tape == -1 && !x->lent) l2l__unhold(c, x);
}

/* Lends a tensor to a callback, or takes it back; returns what it was. */
static bool l2l__lend(l2l_tensor *x, bool lent)
{
    bool was = x && x->lent;
    if (x) x->lent = lent;
    return was;
}

/* y, made of `used`, which is dropped. */
static l2l_tensor *l2l__then(l2l_context *c, l2l_tensor *used, l2l_tensor *y)
{
    l2l_drop(c, used);
    return y;
}

/* A view: y shows x's data under another shape. */
static l2l_tensor *l2l__view(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    l2l_tensor *y = l2l__header(c, s);
    if (!y) return NULL;
    y->data = x->data;
    y->packed = x->packed;
    y->base = l2l__retain(x);
    l2l__block_of(y)->is_view = true;
    return y;
}

/* Opening a model needs the shapes of its activations only. Then they are outlines, views of one
   number that stands for all (c->outline), and what the classifiers are made of does not compute.
   True for such an x; *y is one of the result's shape, then (NULL after an error). */
static bool l2l__outlined(l2l_context *c, l2l_tensor *x, l2l_shape s, l2l_tensor **y)
{
    while (c->outline && x && x != c->outline) x = x->base;
    if (!c->outline || !x) return false;
    *y = l2l__shape_ok(c, "opening a model", s) ? l2l__view(c, x, s) : NULL;
    return true;
}

/* The end of every operation: drops y after an error, else puts it on the tape, while that records,
   as op(in[0], in[1], ...). What the tape refers to cannot be dropped. */
static l2l_tensor *l2l__record(l2l_context *c, l2l_tensor *y, const l2l__operation *op,
                               l2l_tensor *const *in, int n)
{
    if (y && c->recording)
        c->tape = (l2l_tensor **)l2l__room(c, c->tape, c->tape_length, &c->tape_capacity, 1024,
                                           sizeof *c->tape);
    if (c->status) return l2l__then(c, y, NULL);
    if (!y || !c->recording) return y;
    y->op = op;
    for (int i = 0; i < n; i++) {
        y->in[i] = in[i];
        if (in[i] && in[i]->references) in[i]->references++;
    }
    y->tape = c->tape_length;
    c->tape[c->tape_length++] = y;
    return y;
}

static l2l_tensor *l2l__record2(l2l_context *c, l2l_tensor *y, const l2l__operation *op,
                                l2l_tensor *a, l2l_tensor *b)
{
    l2l_tensor *in[2];
    in[0] = a; in[1] = b;
    return l2l__record(c, y, op, in, 2);
}

L2LADVDEF bool l2l_recording(const l2l_context *c) { return c && c->recording; }

L2LADVDEF bool l2l_set_recording(l2l_context *c, bool on)
{
    bool was = l2l_recording(c);
    if (c) c->recording = on;
    return was;
}

L2LADVDEF l2l_tensor *l2l_full(l2l_context *c, l2l_shape s, double value)
{
    l2l_tensor *x = l2l__new(c, "l2l_full", s);
    int64_t n = x ? l2l_count(s) : 0;
    for (int64_t i = 0; i < n; i++) x->data[i] = (l2l_real)value;
    return x;
}

L2LADVDEF l2l_tensor *l2l_zeros(l2l_context *c, l2l_shape s) { return l2l_full(c, s, 0); }

/* A copy that belongs to nobody's tape. */
static l2l_tensor *l2l__copy(l2l_context *c, const l2l_tensor *x)
{
    l2l_tensor *y = l2l__like(c, "copy", x);
    if (y) memcpy(y->data, x->data, (size_t)l2l_count(x->shape) * sizeof *y->data);
    return y;
}

/* Images from .. from+n-1 of x, in place: a tensor that its caller holds, as models theirs. */
static l2l_tensor l2l__images_of(const l2l_tensor *x, int from, int n)
{
    l2l_tensor y;
    memset(&y, 0, sizeof y);
    y.shape = x->shape;
    y.shape.n = n;
    y.data = x->data + l2l_count(x->shape) / x->shape.n * from;
    y.tape = -1;
    return y;
}

/* One image between CxHxW and HxWxC. */
static void l2l__image_to_hwc(const l2l_real *chw, int channels, int64_t plane, l2l_real *hwc)
{
    for (int k = 0; k < channels; k++)
        for (int64_t i = 0; i < plane; i++) hwc[i * channels + k] = chw[k * plane + i];
}

static void l2l__image_to_chw(const l2l_real *hwc, int channels, int64_t plane, l2l_real *chw)
{
    for (int k = 0; k < channels; k++)
        for (int64_t i = 0; i < plane; i++) chw[k * plane + i] = hwc[i * channels + k];
}

L2LADVDEF l2l_tensor *l2l_from_nchw(l2l_context *c, const l2l_real *values, l2l_shape s)
{
    l2l_tensor *x = l2l__given(c, "l2l_from_nchw", "values", values)
                        ? l2l__new(c, "l2l_from_nchw", s) : NULL;
    int64_t plane = x ? (int64_t)s.h * s.w : 0, one = plane * s.c;
    for (int i = 0; x && i < s.n; i++)
        l2l__image_to_hwc(values + i * one, s.c, plane, x->data + i * one);
    return x;
}

L2LADVDEF bool l2l_to_nchw(l2l_context *c, const l2l_tensor *x, l2l_real *values)
{
    int64_t plane, one;
    if (!l2l__ready(c, "l2l_to_nchw", x) || !l2l__given(c, "l2l_to_nchw", "values", values))
        return false;
    plane = (int64_t)x->shape.h * x->shape.w;
    one = plane * x->shape.c;
    for (int i = 0; i < x->shape.n; i++)
        l2l__image_to_chw(x->data + i * one, x->shape.c, plane, values + i * one);
    return true;
}

L2LADVDEF double l2l_item(l2l_context *c, const l2l_tensor *x)
{
    return l2l__ready(c, "l2l_item", x) && l2l__equal(c, "l2l_item", x->shape, l2l__channels(1))
               ? (double)x->data[0] : 0;
}

/* -- the backward walk ---------------------------------------------------------------------------
   Reverse mode. A node of the tape stands behind all that it was made of. So on the way from the
   output's place down to 0 every node y = op(x_1, x_2, ...) is met when all that was made of it has
   been: its cotangent dy = d output / d y is complete, and the operation's VJP makes of it what is
   added to those of its inputs,

       dx_j += (dy / dx_j)^T dy       (in brackets the Jacobian of op).

   Nodes from which no path leads to an input that is asked for are left out (`need`), and
   cotangents that have been handed on are dropped. VJPs are made of operations: while the tape
   records (L2L_CREATE_GRAPH), a gradient can be differentiated again, like anything else. */

/* *slot += g; takes over g. A sum is made in place where nobody else has a's numbers: it is held
   once, by the slot, is on no tape and no view. While the tape records it is an operation like any
   other. The order of the additions is that of the walk, whatever the threads. */
static void l2l__accumulate(l2l_context *c, l2l_tensor **slot, l2l_tensor *g)
{
    l2l_tensor *a = *slot;
    if (!g || c->status) return;
    if (!a) {
        *slot = g;
    } else if (!c->recording && a->references == 1 && a->tape == -1 && !a->base) {
        l2l__ew(c, L2L__ADD, l2l_count(a->shape), a->data, g->data, 0, 0, a->data);
        l2l_drop(c, g);
    } else {
        *slot = l2l__then(c, a, l2l__then(c, g, l2l_add(c, a, g)));
    }
}

/* The state of one walk. Inputs that are leaves carry -2-k in their `tape` while it lasts. */
typedef struct l2l__walk {
    l2l_tensor *const *inputs;
    int n, last;                             /* last: the output's place on the tape              */
    l2l_tensor **slot;                       /* cotangents so far: of nodes 0..last, of inputs    */
    unsigned char *need;                     /* per node: 1 a path to an input, 2 an input itself */
} l2l__walk;

static bool l2l__on_tape(const l2l_context *c, const l2l_tensor *x)
{
    return x->tape >= 0 && x->tape < c->tape_length && c->tape[x->tape] == x;
}

/* Where x's cotangent is added up; NULL where nobody asks for it: a node on no path, or a leaf that
   is no input. A walk within a walk (l2l__batch_norm_vjp) also meets leaves that carry numbers of
   the outer one: hence inputs[k] == x. */
static l2l_tensor **l2l__walk_slot(l2l__walk *w, l2l_tensor *x)
{
    int k = -2 - x->tape;
    if (x->tape >= 0)
        return x->tape <= w->last && w->need[x->tape] ? &w->slot[x->tape] : NULL;
    return k >= 0 && k < w->n && w->inputs[k] == x ? &w->slot[w->last + 1 + k] : NULL;
}

/* Which nodes lie on a path from an input to the output: forward along the tape, one needs its
   cotangent if one of its inputs does. */
static void l2l__walk_mark(l2l_context *c, l2l__walk *w)
{
    int last = w->last;
    memset(w->need, 0, (size_t)last + 1);
    memset(w->slot, 0, ((size_t)last + 1 + (size_t)w->n) * sizeof *w->slot);
    for (int i = 0; i < w->n; i++)
        if (w->inputs[i]->tape >= 0 && w->inputs[i]->tape <= last) w->need[w->inputs[i]->tape] = 2;
    for (int i = 0; i <= last; i++)
        for (int j = 0; j < 8; j++) {
            l2l_tensor *x = c->tape[i]->in[j];
            if (x && x->tape < i && l2l__walk_slot(w, x)) {
                w->need[i] |= 1;
                break;
            }
        }
}

/* The output's value outlives the graph behind it, which is no way back any more. */
static void l2l__given_back_vjp(l2l__vjp *v)
{
    l2l__fail(v->c, L2L_ERROR_ARGUMENT, "l2l_vjp: L2L_FREE_GRAPH gave back what this output was "
              "computed from: it can be differentiated once");
}
static const l2l__operation l2l__given_back_op = {"an output", l2l__given_back_vjp};

/* Is x the tensor y, or a view of it? */
static bool l2l__shows(const l2l_tensor *x, const l2l_tensor *y)
{
    while (x && x != y) x = x->base;
    return x != NULL;
}

/* One node: dy to the cotangents of its inputs. With L2L_FREE_GRAPH its own numbers are given back
   behind it, as soon as they have served: then a pass back takes no more room than a pass there. */
static void l2l__walk_node(l2l_context *c, l2l__walk *w, l2l_tensor *y, unsigned flags)
{
    l2l__vjp v = L2L__ZERO;
    l2l_tensor **slot;
    v.c = c;
    v.y = y;
    v.dy = w->slot[y->tape];
    for (int j = 0; j < 8; j++) v.need[j] = y->in[j] && l2l__walk_slot(w, y->in[j]);
    if (!l2l__ready(c, "l2l_vjp", y)) return; /* another output's walk gave it back               */
    y->op->vjp(&v);
    for (int j = 0; j < 8; j++) {            /* x in two places, as in x * x, is given both       */
        slot = v.need[j] ? l2l__walk_slot(w, y->in[j]) : NULL;
        if (slot) l2l__accumulate(c, slot, v.dx[j]);
        else l2l_drop(c, v.dx[j]);
    }
    if (w->need[y->tape] == 1) {             /* not asked for: no longer needed                   */
        l2l_drop(c, v.dy);
        w->slot[y->tape] = NULL;
    }
    if (!(flags & L2L_FREE_GRAPH) || (w->need[y->tape] & 2)) return;
    if (l2l__shows(c->tape[w->last], y)) y->op = &l2l__given_back_op;
    else l2l__drop_data(c, y);
}

/* From the output down the tape; what no path reaches has the gradient 0. An input that depends on
   no other (need 2 alone) has its answer when its turn comes: its own VJP is not run. */
static void l2l__walk_back(l2l_context *c, l2l__walk *w, l2l_tensor *output, l2l_tensor *cotangent,
                           l2l_tensor **gradients, unsigned flags)
{
    l2l__walk_mark(c, w);
    l2l_tensor **slot = l2l__walk_slot(w, output);
    if (slot && !cotangent) *slot = l2l_full(c, output->shape, 1);
    else if (slot && (flags & L2L_FREE_GRAPH)) /* which may give the cotangent itself back        */
        *slot = l2l__copy(c, cotangent);
    else if (slot)                           /* a view: l2l_release lets go of what it shows      */
        *slot = l2l_reshape(c, cotangent, output->shape);
    for (int i = w->last; i >= 0 && !c->status; i--)
        if ((w->need[i] & 1) && w->slot[i]) l2l__walk_node(c, w, c->tape[i], flags);
    for (int i = 0; i < w->n && !c->status; i++) {
        slot = l2l__walk_slot(w, w->inputs[i]);
        gradients[i] = slot && *slot ? l2l__retain(*slot) : l2l_zeros(c, w->inputs[i]->shape);
    }
    for (int i = 0; i < w->last + 1 + w->n && !c->status; i++) l2l_drop(c, w->slot[i]);
}

/* Checks, then the walk. Where it fails, by a VJP or for want of memory, all that it made is given
   back. */
L2LADVDEF bool l2l_vjp(l2l_context *c, l2l_tensor *output, l2l_tensor *cotangent,
                       l2l_tensor *const *inputs, int n_inputs, l2l_tensor **gradients,
                       unsigned flags)
{
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_recording(c);
    l2l__walk w;
    int *saved;
    for (int i = 0; gradients && i < n_inputs; i++) gradients[i] = NULL;
    if (!l2l__ready(c, "l2l_vjp", output) || !l2l__arithmetic_ok(c)) return false;
    if (n_inputs < 0)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_vjp: %d inputs", n_inputs);
    if (n_inputs > 0 && (!l2l__given(c, "l2l_vjp", "inputs", inputs) ||
                         !l2l__given(c, "l2l_vjp", "gradients", gradients)))
        return false;
    if (!l2l__on_tape(c, output))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_vjp: the output is not on this context's "
                         "tape: was recording on when it was computed?");
    if (cotangent && !l2l__ready(c, "l2l_vjp: the cotangent", cotangent)) return false;
    if (cotangent && !l2l__equal(c, "l2l_vjp: the cotangent", cotangent->shape, output->shape))
        return false;
    if (flags & ~(unsigned)(L2L_CREATE_GRAPH | L2L_FREE_GRAPH))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_vjp: flags %z are neither L2L_CREATE_GRAPH "
                         "(1) nor L2L_FREE_GRAPH (2)", (int64_t)flags);
    if ((flags & L2L_CREATE_GRAPH) && (flags & L2L_FREE_GRAPH))
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_vjp: L2L_CREATE_GRAPH needs the tape that "
                         "L2L_FREE_GRAPH gives back");
    for (int i = 0; i < n_inputs; i++) {
        if (!l2l__ready(c, "l2l_vjp", inputs[i])) return false;
        if (c->caller && l2l__is_parameter(inputs[i])) /* which other lanes are at, too           */
            return l2l__fail(c, L2L_ERROR_UNSUPPORTED, "l2l_vjp: by a parameter, in a slice");
    }
    w.inputs = inputs;
    w.n = n_inputs;
    w.last = output->tape;
    w.slot = (l2l_tensor **)l2l__arena_array(c, (int64_t)w.last + 1 + n_inputs, sizeof *w.slot);
    w.need = (unsigned char *)l2l__arena_array(c, output->tape + 1, 1);
    saved = (int *)l2l__arena_array(c, n_inputs + 1, sizeof *saved);
    if (saved) {                             /* the last to be made: there are all three          */
        /* A tensor that is several inputs keeps the last number; all of them find its one slot. */
        for (int i = 0; i < n_inputs; i++) saved[i] = inputs[i]->tape;
        for (int i = 0; i < n_inputs; i++)
            if (inputs[i]->tape < 0) inputs[i]->tape = -2 - i;
        c->recording = (flags & L2L_CREATE_GRAPH) != 0;
        l2l__walk_back(c, &w, output, cotangent, gradients, flags);
        c->recording = was;
        for (int i = 0; i < n_inputs; i++) inputs[i]->tape = saved[i];
    }
    if (c->status) {
        l2l_release(c, mark);
        for (int i = 0; i < n_inputs; i++) gradients[i] = NULL;
        return false;
    }
    l2l__arena_drop(c, w.slot);
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

/* Every axis of `less` is that of `more`, or 1 and so repeated to it; else an error. */
static bool l2l__fits(l2l_context *c, const char *where, l2l_shape less, l2l_shape more)
{
    return ((less.n == more.n || less.n == 1) && (less.h == more.h || less.h == 1) &&
            (less.w == more.w || less.w == 1) && (less.c == more.c || less.c == 1)) ||
           l2l__shapes_differ(c, where, less, more);
}

/* Where x's row of channels for pixel p = (n s.h + h) s.w + w begins, x being broadcast to s: an
   axis of 1 stays at 0. */
static const l2l_real *l2l__row(const l2l_tensor *x, l2l_shape s, int64_t p)
{
    int64_t w = x->shape.w == 1 ? 0 : p % s.w, h = x->shape.h == 1 ? 0 : p / s.w % s.h;
    int64_t n = x->shape.n == 1 ? 0 : p / s.w / s.h;
    return x->data + ((n * x->shape.h + h) * x->shape.w + w) * x->shape.c;
}

static void l2l__binary_row(int kind, const l2l_real *a, int sa, const l2l_real *b, int sb, int n,
                            l2l_real *y)
{
    if (kind == L2L__ADD) for (int i = 0; i < n; i++) y[i] = a[i * sa] + b[i * sb];
    else if (kind == L2L__SUB) for (int i = 0; i < n; i++) y[i] = a[i * sa] - b[i * sb];
    else for (int i = 0; i < n; i++) y[i] = a[i * sa] * b[i * sb];
}

/* y = a + b: da = db = dy.  y = a - b: da = dy, db = -dy.  y = a b: da = b dy, db = a dy. Each is
   summed over the axes along which its operand was repeated. */
static void l2l__binary_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    for (int j = 0; j < 2; j++) {
        l2l_tensor *x = v->y->in[j], *g;
        if (!v->need[j]) continue;
        if (v->y->i[0] == L2L__MUL) g = l2l_mul(c, v->dy, v->y->in[1 - j]);
        else g = v->y->i[0] == L2L__SUB && j ? l2l_affine(c, v->dy, -1, 0) : l2l__retain(v->dy);
        v->dx[j] = !g || l2l__same(g->shape, x->shape)
                       ? g : l2l__then(c, g, l2l_sum_to(c, g, x->shape));
    }
}
static const l2l__operation l2l__binary_op = {"add, sub, mul", l2l__binary_vjp};

/* Two operands of one shape go to the kernel as two arrays; where one is repeated, row by row of
   channels, each with its own stride of 0 or 1. */
static l2l_tensor *l2l__binary(l2l_context *c, int kind, const char *where, l2l_tensor *a,
                               l2l_tensor *b)
{
    l2l_tensor *y;
    int64_t p, n;
    if (!l2l__ready(c, where, a) || !l2l__ready(c, where, b)) return NULL;
    l2l_shape r = a->shape, s = b->shape;
    if ((r.n != s.n && r.n > 1 && s.n > 1) || (r.h != s.h && r.h > 1 && s.h > 1) ||
        (r.w != s.w && r.w > 1 && s.w > 1) || (r.c != s.c && r.c > 1 && s.c > 1)) {
        l2l__shapes_differ(c, where, r, s);
        return NULL;
    }
    /* Each axis of the result is the longer of the operands' two. */
    s = l2l_shape_of(r.n > s.n ? r.n : s.n, r.h > s.h ? r.h : s.h, r.w > s.w ? r.w : s.w,
                     r.c > s.c ? r.c : s.c);
    if (!(y = l2l__new(c, where, s))) return NULL;
    n = l2l_count(s);
    if (l2l__same(r, b->shape) && kind != L2L__SUB) {
        l2l__ew(c, kind, n, a->data, b->data, 0, 0, y->data);
    } else {
        const int sa = r.c > 1 || s.c == 1, sb = b->shape.c > 1 || s.c == 1;
        L2L__PARALLEL(l2l__workers(c, n))
        for (p = 0; p < n / s.c; p++)
            l2l__binary_row(kind, l2l__row(a, s, p), sa, l2l__row(b, s, p), sb, s.c,
                            y->data + p * s.c);
    }
    y->i[0] = kind;
    return l2l__record2(c, y, &l2l__binary_op, a, b);
}

#define L2L__BINARY(kind, name)                                                                    \
    L2LADVDEF l2l_tensor *l2l_##name(l2l_context *c, l2l_tensor *a, l2l_tensor *b)                 \
    {                                                                                              \
        return l2l__binary(c, kind, "l2l_" #name, a, b);                                           \
    }
L2L__BINARY(L2L__ADD, add)
L2L__BINARY(L2L__SUB, sub)
L2L__BINARY(L2L__MUL, mul)

/* -- elementwise, one operand ------------------------------------------------------------------
   y = f(x) with numbers a and b, dx = f'(x) dy; some take another tensor too, as a constant: see
   L2L__NAME(ew). In brackets: 1 where that holds, else 0.

       f         y                       f'                  f         y               f'
       affine    a x + b                 a                   relu      max(x, 0)       [x > 0]
       tanh      tanh x                  1 - y^2             sigmoid   1 / (1 + e^-x)  y (1 - y)
       exp       e^x                     y                   log       ln x            1 / x
       power     x^a                     a x^(a-1)           abs       |x|             sign x
       sign      -1, 0 or 1              0                   clamp     into [a, b]     [a <= x <= b]
       gate      x where other > 0,      1 there,            project   into the ball   [x is in it]
                 else a x (0 if b)       else a                        and [0, 1]

   A leaky ReLU is the gate whose other is x itself; project's ball has radius a around other. In
   dx what a mask takes is 0 whatever it was, as PyTorch has it: no product with infinity. */

/* Those without a kernel of their own, in double. The sigmoid takes e^-|x| alone, which is at most
   1; sign and clamp hand not-a-number on. */
static double l2l__value(int kind, double x, double a, double b)
{
    switch (kind) {
    case L2L__TANH: return tanh(x);
    case L2L__SIGMOID: return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
    case L2L__EXP: return exp(x);
    case L2L__LOG: return log(x);
    case L2L__POWER: return pow(x, a);
    case L2L__ABS: return fabs(x);
    case L2L__SIGN: return x > 0 ? 1 : x < 0 ? -1 : x != x ? x : 0;
    case L2L__CLAMP: return x < a ? a : x > b ? b : x;
    default: return x >= a && x <= b;        /* L2L__INSIDE                                       */
    }
}

static const l2l__operation l2l__pointwise_op = {"pointwise", l2l__pointwise_vjp};

/* Those that networks and projections are made of have kernels; the node keeps which f it was, and
   a and b, for its VJP. */
static l2l_tensor *l2l__pointwise(l2l_context *c, int kind, const char *where, l2l_tensor *x,
                                  l2l_tensor *other, double a, double b)
{
    l2l_tensor *y;
    int64_t i, n;
    if (!l2l__ready(c, where, x) || (kind >= L2L__GATE && !l2l__ready(c, where, other)) ||
        (other && !l2l__equal(c, where, x->shape, other->shape)))
        return NULL;
    if (l2l__outlined(c, x, x->shape, &y) || !(y = l2l__new(c, where, x->shape))) return y;
    n = l2l_count(x->shape);
    switch (kind) {
    case L2L__AFFINE: case L2L__RELU: case L2L__GATE: case L2L__PROJECT:
        l2l__ew(c, kind, n, x->data, l2l__data(other), (l2l_real)a, (l2l_real)b, y->data);
        break;
    case L2L__IN_BALL:                       /* by bounds with the bits of the projection's       */
        for (i = 0; i < n; i++)
            y->data[i] = x->data[i] >= l2l__low(other->data[i], (l2l_real)a) &&
                         x->data[i] <= l2l__high(other->data[i], (l2l_real)a);
        break;
    default:
        L2L__PARALLEL(l2l__workers(c, n))
        for (i = 0; i < n; i++) y->data[i] = (l2l_real)l2l__value(kind, (double)x->data[i], a, b);
    }
    y->i[0] = kind;
    y->f[0] = a;
    y->f[1] = b;
    return l2l__record2(c, y, &l2l__pointwise_op, x, other);
}

/* A mask on a cotangent: x where reference > 0, else 0. */
static l2l_tensor *l2l__gate(l2l_context *c, l2l_tensor *x, l2l_tensor *reference)
{
    return l2l__pointwise(c, L2L__GATE, "gate", x, reference, 0, 1);
}

/* dy/dx of y = f(x), made of operations; NULL: zero everywhere. */
static l2l_tensor *l2l__slope(l2l_context *c, l2l_tensor *y, l2l_tensor *x)
{
    const double a = y->f[0], b = y->f[1];
    l2l_tensor *t;
    switch (y->i[0]) {
    case L2L__TANH:                          /* 1 - y^2                                           */
        t = l2l_mul(c, y, y);
        return l2l__then(c, t, l2l_affine(c, t, -1, 1));
    case L2L__SIGMOID:                       /* y (1 - y)                                         */
        t = l2l_affine(c, y, -1, 1);
        return l2l__then(c, t, l2l_mul(c, y, t));
    case L2L__EXP: return l2l__retain(y);
    case L2L__LOG: return l2l_power(c, x, -1);
    case L2L__POWER:                         /* a x^(a-1); of x^0 it is 0, also at 0              */
        if (a == 0) return NULL;
        t = l2l_power(c, x, a - 1);
        return l2l__then(c, t, l2l_affine(c, t, a, 0));
    case L2L__ABS: return l2l_sign(c, x);
    case L2L__CLAMP: return l2l__pointwise(c, L2L__INSIDE, "l2l_clamp", x, NULL, a, b);
    case L2L__PROJECT:
        return l2l__pointwise(c, L2L__IN_BALL, "l2l_project", x, y->in[1], a, 0);
    default: return NULL;
    }
}

/* dx = f'(x) dy. Where f is linear in pieces f' is a number or a mask: a for a x + b, [x > 0] for
   relu (0 at 0, as PyTorch has it), 1 or a for a gate. */
static void l2l__pointwise_vjp(l2l__vjp *v)
{
    l2l_tensor *y = v->y, *x = y->in[0], *slope;
    if (!v->need[0]) return;
    switch (y->i[0]) {
    case L2L__AFFINE: v->dx[0] = l2l_affine(v->c, v->dy, y->f[0], 0); break;
    case L2L__RELU: v->dx[0] = l2l__gate(v->c, v->dy, x); break;
    case L2L__GATE:
        v->dx[0] = l2l__pointwise(v->c, L2L__GATE, "gate", v->dy, y->in[1], y->f[0], y->f[1]);
        break;
    case L2L__CLAMP: case L2L__PROJECT:
        slope = l2l__slope(v->c, y, x);
        v->dx[0] = l2l__then(v->c, slope, l2l__gate(v->c, v->dy, slope));
        break;
    default:
        slope = l2l__slope(v->c, y, x);
        if (slope) v->dx[0] = l2l__then(v->c, slope, l2l_mul(v->c, v->dy, slope));
    }
}

#define L2L__FUNCTION(kind, name)                                                                  \
    L2LADVDEF l2l_tensor *l2l_##name(l2l_context *c, l2l_tensor *x)                                \
    {                                                                                              \
        return l2l__pointwise(c, kind, "l2l_" #name, x, NULL, 0, 0);                               \
    }
L2L__FUNCTION(L2L__RELU, relu)
L2L__FUNCTION(L2L__TANH, tanh)
L2L__FUNCTION(L2L__SIGMOID, sigmoid)
L2L__FUNCTION(L2L__EXP, exp)
L2L__FUNCTION(L2L__LOG, log)
L2L__FUNCTION(L2L__ABS, abs)
L2L__FUNCTION(L2L__SIGN, sign)

L2LADVDEF l2l_tensor *l2l_affine(l2l_context *c, l2l_tensor *x, double scale, double shift)
{
    return l2l__pointwise(c, L2L__AFFINE, "l2l_affine", x, NULL, scale, shift);
}
L2LADVDEF l2l_tensor *l2l_power(l2l_context *c, l2l_tensor *x, double exponent)
{
    return l2l__pointwise(c, L2L__POWER, "l2l_power", x, NULL, exponent, 0);
}
L2LADVDEF l2l_tensor *l2l_leaky_relu(l2l_context *c, l2l_tensor *x, double slope)
{
    return l2l__pointwise(c, L2L__GATE, "l2l_leaky_relu", x, x, slope, 0);
}
L2LADVDEF l2l_tensor *l2l_project(l2l_context *c, l2l_tensor *z, l2l_tensor *x, double epsilon)
{
    if (!(epsilon >= 0))
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_project: epsilon %g is not at least 0", epsilon);
    return l2l__pointwise(c, L2L__PROJECT, "l2l_project", z, x, epsilon, 0);
}
/* The bounds are rounded to l2l_real first, so that a result on one of them is within them: clamped
   again it stays, with derivative 1. */
L2LADVDEF l2l_tensor *l2l_clamp(l2l_context *c, l2l_tensor *x, double low, double high)
{
    if (!(low <= high))
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_clamp: low %g is not below high %g", low, high);
    return l2l__pointwise(c, L2L__CLAMP, "l2l_clamp", x, NULL, (double)(l2l_real)low,
                          (double)(l2l_real)high);
}

/* -- linear maps, in pairs of adjoints -----------------------------------------------------------
   Kinds 2k and 2k+1 are each other's VJP, so one VJP serves them all: y = A x, dx = A^T dy.

       sum       y = sum of x over the axes      broadcast  y = x, repeated along these axes
                 that are 1 in y
       slice     y_k = x_{from+k}                place      y_{from+k} = x_k, 0 elsewhere
       gather    y_i = x at index_i              unpool     y at index_i += x_i, from 0 on
       average   y = sum of window / window^2    spread     y in window += x / window^2, from 0 on
       pick      y_n = x_{n, index_n}            unpick     y_{n, index_n} = x_n, 0 elsewhere

   Some go by saved positions: the index of the node itself or, for an adjoint, of its second input,
   whose index it shares. */
enum {
    L2L__SUM, L2L__BROADCAST,                /* over the axes that are 1 in the smaller shape     */
    L2L__SLICE, L2L__PLACE,                  /* channels from i[0] on                             */
    L2L__GATHER, L2L__UNPOOL,                /* by index; i[0..2]: window, stride, padding        */
    L2L__AVERAGE, L2L__SPREAD,               /* the same without index                            */
    L2L__PICK, L2L__UNPICK                   /* by index                                          */
};

/* Adds one image (hxwxc) into the double sums of shape s.hxs.wxs.c. */
static void l2l__sum_image(const l2l_real *x, l2l_shape from, l2l_shape s, double *sums)
{
    for (int h = 0; h < from.h; h++)
        for (int w = 0; w < from.w; w++, x += from.c) {
            double *row = sums + ((int64_t)(s.h > 1 ? h : 0) * s.w + (s.w > 1 ? w : 0)) * s.c;
            if (s.c > 1) for (int k = 0; k < from.c; k++) row[k] += (double)x[k];
            else for (int k = 0; k < from.c; k++) row[0] += (double)x[k];
        }
}

/* Sums are split by image into `parts`, a number that the shape alone decides (the same bits for
   any number of threads), and the parts are added in order. A result that keeps the images has a
   part for each; else part p has images p N / parts up to, without it, (p+1) N / parts. */
static void l2l__sum_images(l2l_context *c, const l2l_real *x, l2l_shape from, l2l_shape s,
                            l2l_real *y)
{
    int64_t one = l2l_count(from) / from.n, size = l2l_count(s) / s.n;
    int parts = s.n > 1 ? from.n : from.n < 16 ? from.n : 16, part;
    double *sums = (double *)l2l__arena_array(c, parts * size, sizeof *sums);
    if (!sums) return;
    L2L__PARALLEL(l2l__workers(c, l2l_count(from)))
    for (part = 0; part < parts; part++) {
        double *mine = sums + part * size;
        int last = (int)((int64_t)(part + 1) * from.n / parts);
        memset(mine, 0, (size_t)size * sizeof *mine);
        for (int n = (int)((int64_t)part * from.n / parts); n < last; n++)
            l2l__sum_image(x + n * one, from, s, mine);
    }
    if (s.n == 1)
        for (part = 1; part < parts; part++)
            for (int64_t i = 0; i < size; i++) sums[i] += sums[part * size + i];
    for (int64_t i = 0; i < l2l_count(s); i++) y[i] = (l2l_real)sums[i];
    l2l__arena_drop(c, sums);
}

/* The sums over N,H,W: the gradient of a bias. */
static bool l2l__sum_pixels(l2l_context *c, const l2l_tensor *x, l2l_real *y)
{
    int n = x->shape.c;
    double *sums = (double *)l2l__arena_array(c, n, sizeof *sums);
    const int64_t pixels = l2l_count(x->shape) / n;
    bool ok = sums && l2l__channel_moments(c, pixels, pixels, n, x->data, NULL, NULL, NULL, sums,
                                           NULL);
    for (int k = 0; ok && k < n; k++) y[k] = (l2l_real)sums[k];
    l2l__arena_drop(c, sums);
    return ok;
}

/* Pixel by pixel, for only rows of channels lie together in both. */
static void l2l__broadcast_into(l2l_context *c, const l2l_tensor *x, l2l_tensor *y)
{
    int64_t p, pixels = l2l_count(y->shape) / y->shape.c;
    L2L__PARALLEL(l2l__workers(c, l2l_count(y->shape)))
    for (p = 0; p < pixels; p++) {
        const l2l_real *row = l2l__row(x, y->shape, p);
        l2l_real *out = y->data + p * y->shape.c;
        int step = x->shape.c > 1;
        for (int k = 0; k < y->shape.c; k++) out[k] = row[k * step];
    }
}

/* `count` channels of every pixel, from channel `from` of x to channel `to` of y. */
static void l2l__copy_channels(l2l_context *c, const l2l_tensor *x, int64_t from, l2l_tensor *y,
                               int64_t to, int count)
{
    int64_t p, pixels = l2l_count(x->shape) / x->shape.c;
    L2L__PARALLEL(l2l__workers(c, pixels * count))
    for (p = 0; p < pixels; p++)
        memcpy(y->data + p * y->shape.c + to, x->data + p * x->shape.c + from,
               (size_t)count * sizeof *y->data);
}

/* y = A x. Pools' geometry is that of the forward map in either direction: `large` is what the
   windows lie in, `less` has a number for each of them. */
static void l2l__map_into(l2l_context *c, int kind, const l2l_tensor *x, l2l_tensor *y,
                          const int *index)
{
    const l2l_shape large = kind & 1 ? y->shape : x->shape, less = kind & 1 ? x->shape : y->shape;
    l2l__geometry g;
    g.n = large.n; g.h = large.h; g.w = large.w; g.c = g.k = large.c;
    g.oh = less.h; g.ow = less.w;
    g.kh = g.kw = (int)y->i[0];
    g.stride = (int)y->i[1];
    g.padding = (int)y->i[2];
    if (kind == L2L__PLACE || kind == L2L__UNPICK)
        memset(y->data, 0, (size_t)l2l_count(large) * sizeof *y->data);
    switch (kind) {
    case L2L__SUM:                           /* one image as each of a batch: N,1,1,C and 1,1,1,C */
        if (x->shape.n > 1 && l2l__same(less, l2l__channels(x->shape.c))) /* are the same then   */
            l2l__sum_pixels(c, x, y->data);
        else
            l2l__sum_images(c, x->data, large, less, y->data);
        break;
    case L2L__BROADCAST: l2l__broadcast_into(c, x, y); break;
    case L2L__SLICE: l2l__copy_channels(c, x, y->i[0], y, 0, less.c); break;
    case L2L__PLACE: l2l__copy_channels(c, x, 0, y, y->i[0], less.c); break;
    case L2L__GATHER: l2l__pool_gather(c, &g, true, index, x->data, y->data); break;
    case L2L__UNPOOL: l2l__pool_gather(c, &g, false, index, y->data, x->data); break;
    case L2L__AVERAGE: l2l__average(c, &g, true, x->data, y->data); break;
    case L2L__SPREAD: l2l__average(c, &g, false, y->data, x->data); break;
    case L2L__PICK:
        for (int n = 0; n < large.n; n++) y->data[n] = x->data[(int64_t)n * large.c + index[n]];
        break;
    default:                                 /* L2L__UNPICK                                       */
        for (int n = 0; n < large.n; n++) y->data[(int64_t)n * large.c + index[n]] = x->data[n];
    }
}

/* y = A x: dx = A^T dy, and A^T is the kind beside A's. */
static void l2l__map_vjp(l2l__vjp *v)
{
    l2l_tensor *y = v->y;
    if (v->need[0])
        v->dx[0] = l2l__map(v->c, (int)y->i[3] ^ 1, v->dy, y->in[0]->shape, y->i[0], y->i[1],
                            y->i[2], y->index ? y : y->in[1]);
}
static const l2l__operation l2l__map_op = {"linear map", l2l__map_vjp};

/* A node of one of these maps, s the shape of y; i0..i2 stand with the kinds above, and i[3] keeps
   the kind. `positions` (or NULL) is the tensor whose index counts: as a second input it is held as
   long as the node, and gets no cotangent. */
static l2l_tensor *l2l__map(l2l_context *c, int kind, l2l_tensor *x, l2l_shape s, int64_t i0,
                            int64_t i1, int64_t i2, l2l_tensor *positions)
{
    static const char *const names[] = {"l2l_sum_to", "l2l_broadcast_to", "l2l_slice", "l2l_place",
                                        "gather", "unpool", "l2l_average_pool", "spread",
                                        "l2l_pick", "l2l_unpick"};
    const char *where = names[kind];
    l2l_tensor *y;
    if (!l2l__ready(c, where, x) || (positions && !l2l__ready(c, where, positions)) ||
        (kind == L2L__SUM && !l2l__fits(c, where, s, x->shape)) ||
        (kind == L2L__BROADCAST && !l2l__fits(c, where, x->shape, s)))
        return NULL;
    if (l2l__outlined(c, x, s, &y) || !(y = l2l__new(c, where, s))) return y;
    y->i[0] = i0; y->i[1] = i1; y->i[2] = i2; y->i[3] = kind;
    l2l__map_into(c, kind, x, y, positions ? positions->index : NULL);
    return l2l__record2(c, y, &l2l__map_op, x, positions);
}

L2LADVDEF l2l_tensor *l2l_sum_to(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    return l2l__map(c, L2L__SUM, x, s, 0, 0, 0, NULL);
}
L2LADVDEF l2l_tensor *l2l_broadcast_to(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    return l2l__map(c, L2L__BROADCAST, x, s, 0, 0, 0, NULL);
}

L2LADVDEF l2l_tensor *l2l_slice(l2l_context *c, l2l_tensor *x, int from, int count)
{
    if (!l2l__ready(c, "l2l_slice", x)) return NULL;
    if (from < 0 || count < 1 || from > x->shape.c - count)
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_slice: %d channels from %d of %d", count, from,
                  x->shape.c);
    return l2l__map(c, L2L__SLICE, x, l2l_shape_of(x->shape.n, x->shape.h, x->shape.w, count),
                    from, 0, 0, NULL);
}

L2LADVDEF l2l_tensor *l2l_place(l2l_context *c, l2l_tensor *x, int from, int total)
{
    if (!l2l__ready(c, "l2l_place", x)) return NULL;
    if (from < 0 || total < x->shape.c || from > total - x->shape.c)
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_place: %d channels from %d into %d", x->shape.c, from,
                  total);
    return l2l__map(c, L2L__PLACE, x, l2l_shape_of(x->shape.n, x->shape.h, x->shape.w, total),
                    from, 0, 0, NULL);
}

/* Each part's cotangent is its channels of dy. */
static void l2l__concat_vjp(l2l__vjp *v)
{
    int from = 0;
    for (int j = 0; j < 8 && v->y->in[j]; from += v->y->in[j++]->shape.c)
        if (v->need[j]) v->dx[j] = l2l_slice(v->c, v->dy, from, v->y->in[j]->shape.c);
}
static const l2l__operation l2l__concat_op = {"l2l_concat", l2l__concat_vjp};

/* y = (x_1, x_2, ...) along the channels. */
L2LADVDEF l2l_tensor *l2l_concat(l2l_context *c, l2l_tensor *const *parts, int n)
{
    const char *where = l2l__concat_op.name;
    l2l_shape s = {0, 0, 0, 0}, one;
    l2l_tensor *y;
    int from = 0;
    if (n < 1 || n > 8) l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d tensors, not 1 to 8", where, n);
    if (!l2l__given(c, where, "parts", parts)) return NULL;
    for (int j = 0; j < n; j++, s = one) {
        if (!l2l__ready(c, where, parts[j])) return NULL;
        one = parts[j]->shape;
        if (j && (one.n != s.n || one.h != s.h || one.w != s.w || one.c > INT_MAX - s.c))
            l2l__shapes_differ(c, where, one, s);
        else one.c += s.c;
    }
    if (!(y = l2l__new(c, where, s))) return NULL;
    for (int j = 0; j < n; from += parts[j++]->shape.c)
        l2l__copy_channels(c, parts[j], 0, y, from, parts[j]->shape.c);
    return l2l__record(c, y, &l2l__concat_op, parts, n);
}

L2LADVDEF l2l_tensor *l2l_sum(l2l_context *c, l2l_tensor *x)
{
    return l2l_sum_to(c, x, l2l__channels(1));
}

/* sum_to / m, m numbers of x for each of the result. */
static l2l_tensor *l2l__mean_to(l2l_context *c, l2l_tensor *x, l2l_shape s)
{
    l2l_tensor *sum = l2l_sum_to(c, x, s);
    return sum ? l2l__then(c, sum, l2l_affine(c, sum, (double)l2l_count(s) /
                                                          (double)l2l_count(x->shape), 0))
               : NULL;
}

L2LADVDEF l2l_tensor *l2l_mean(l2l_context *c, l2l_tensor *x)
{
    return l2l__mean_to(c, x, l2l__channels(1));
}

/* The sum of a * b down to the shape s: what most gradients of a scale are. */
static l2l_tensor *l2l__product_to(l2l_context *c, l2l_tensor *a, l2l_tensor *b, l2l_shape s)
{
    l2l_tensor *product = l2l_mul(c, a, b);
    return l2l__then(c, product, l2l_sum_to(c, product, s));
}

/* Reshape and detach are views: they cost nothing. Detach leaves no node: a walk ends there. */
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
    const char *where = "l2l_reshape";
    if (!l2l__ready(c, where, x) || !l2l__shape_ok(c, where, s) ||
        !(l2l_count(s) == l2l_count(x->shape) || l2l__shapes_differ(c, where, x->shape, s)))
        return NULL;
    return l2l__record(c, l2l__view(c, x, s), &l2l__reshape_op, &x, 1);
}

/* -- scale and shift by channel (1x1x1xC), or by image and channel (Nx1x1xC) ------------------- */

static int64_t l2l__pixels(const l2l_tensor *x) { return l2l_count(x->shape) / x->shape.c; }

/* y = dy [gate > 0] scale (no gate: everywhere) is linear in dy and in scale, and constant in gate
   but for its jumps. With v the cotangent of y: that of dy is v [gate > 0] scale, the same map, and
   that of scale sum v dy [gate > 0], over the pixels that share a scale. */
static void l2l__gate_scale_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *dy = v->y->in[0], *gate = v->y->in[1], *scale = v->y->in[2], *t;
    if (v->need[0]) v->dx[0] = l2l__gate_scale(c, v->dy, gate, scale);
    if (!v->need[2]) return;
    t = gate ? l2l__gate(c, dy, gate) : l2l__retain(dy);
    v->dx[2] = l2l__then(c, t, l2l__product_to(c, v->dy, t, scale->shape));
}
static const l2l__operation l2l__gate_scale_op = {"gate_scale", l2l__gate_scale_vjp};

/* Behind a ReLU and a scale: one pass over memory in place of two. */
static l2l_tensor *l2l__gate_scale(l2l_context *c, l2l_tensor *dy, l2l_tensor *gate,
                                   l2l_tensor *scale)
{
    l2l_tensor *y, *in[3];
    if (!l2l__ready(c, "gate_scale", dy) || (gate && !l2l__ready(c, "gate_scale", gate)) ||
        !l2l__ready(c, "gate_scale", scale) || !(y = l2l__new(c, "gate_scale", dy->shape)))
        return NULL;
    l2l__channel_gate(c, l2l__pixels(dy), l2l__pixels(dy) / scale->shape.n, dy->shape.c, dy->data,
                      l2l__data(gate), scale->data, y->data);
    in[0] = dy; in[1] = gate; in[2] = scale;
    return l2l__record(c, y, &l2l__gate_scale_op, in, 3);
}

/* Inputs of a convolution's node, in this order. A scale_shift node has all but W. */
enum { L2L__X = 0, L2L__W, L2L__BIAS, L2L__SCALE, L2L__RESIDUAL, L2L__CONV_INPUTS };

/* y = relu(scale * x + shift + residual): what batch norm is in evaluation mode. With
   t = dy [y > 0]:  dx = scale t, dscale = sum t x, dshift = sum t, dresidual = t; the sums over all
   that shares the number. */
static void l2l__scale_shift_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *const *in = v->y->in, *scale = in[L2L__SCALE], *t;
    l2l_tensor *gate = v->y->i[3] ? v->y : NULL; /* open where y > 0; NULL: everywhere            */
    if (v->need[L2L__X]) v->dx[L2L__X] = l2l__gate_scale(c, v->dy, gate, scale);
    if (!v->need[L2L__SCALE] && !v->need[L2L__BIAS] && !v->need[L2L__RESIDUAL]) return;
    t = gate ? l2l__gate(c, v->dy, gate) : l2l__retain(v->dy);
    if (v->need[L2L__BIAS]) v->dx[L2L__BIAS] = l2l_sum_to(c, t, scale->shape);
    if (v->need[L2L__SCALE])
        v->dx[L2L__SCALE] = l2l__product_to(c, t, in[L2L__X], scale->shape);
    if (v->need[L2L__RESIDUAL]) v->dx[L2L__RESIDUAL] = l2l__retain(t);
    l2l_drop(c, t);
}
static const l2l__operation l2l__scale_shift_op = {"scale_shift", l2l__scale_shift_vjp};

/* scale and shift are of one shape, with as many rows, 1 or N, as x's pixels have groups. */
static l2l_tensor *l2l__scale_shift(l2l_context *c, l2l_tensor *x, l2l_tensor *scale,
                                    l2l_tensor *shift, l2l_tensor *residual, bool relu)
{
    l2l_tensor *y, *in[L2L__CONV_INPUTS] = {0};
    l2l__epilogue e;
    if (!l2l__ready(c, "scale_shift", x) || !l2l__ready(c, "scale_shift", scale) ||
        !l2l__ready(c, "scale_shift", shift))
        return NULL;
    if (l2l__outlined(c, x, x->shape, &y) || !(y = l2l__new(c, "scale_shift", x->shape))) return y;
    e = l2l__epilogue_of(NULL, scale->data, shift->data, l2l__data(residual), relu);
    l2l__channel_finish(c, l2l__pixels(x), l2l__pixels(x) / scale->shape.n, x->shape.c, x->data, &e,
                        y->data);
    y->i[3] = relu;
    in[L2L__X] = x; in[L2L__SCALE] = scale; in[L2L__BIAS] = shift;
    in[L2L__RESIDUAL] = residual;
    return l2l__record(c, y, &l2l__scale_shift_op, in, L2L__CONV_INPUTS);
}

/* -- convolution ---------------------------------------------------------------------------------
   With stride s and padding p, x being 0 outside of its plane, and taps (i,j) in the order in which
   they lie (what signal processing calls a correlation), for each image:

       y[oh][ow][k]     = sum over i, j, c    of x[s oh + i - p][s ow + j - p][c] w[i][j][c][k]
       dx[h][w][c]      = sum over i, j, k    of dy[(h+p-i) / s][(w+p-j) / s][k] w[i][j][c][k]
                          where both quotients are whole and in y's plane
       dw[i][j][c][k]   = sum over oh, ow     of x[s oh + i - p][s ow + j - p][c] dy[oh][ow][k]
                          and over the images

   Chapter 15 says in how many ways they are computed. What follows a convolution in a network, the
   scale, bias, residual, ReLU and pooling, belongs to the same node: it is done while the numbers
   are in registers or in the cache, and the tape keeps one activation in place of five. */

/* The geometry of x * w, checked; `where` names the caller in the error. A weight khxkwxCxK stands
   in the axes n, h, w, c of its shape. oh = floor((h + 2p - kh) / s) + 1, and so ow; the limits on
   planes (2^30 - 1) and padding (2^14) keep h + 2p, which no tap's place exceeds, within an int. */
static bool l2l__geometry_of(l2l_context *c, const char *where, l2l_shape x, l2l_shape w,
                             int stride, int padding, l2l__geometry *g)
{
    if (c->status) return false;
    if (stride < 1 || padding < 0)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: stride %d must be at least 1 and padding %d "
                         "at least 0", where, stride, padding);
    if (x.c != w.w)
        return l2l__fail(c, L2L_ERROR_SHAPE, "%s: an input of %d channels (%dx%dx%dx%d) and a "
                         "weight for %d (%dx%dx%dx%d)", where, x.c, x.n, x.h, x.w, x.c, w.w, w.n,
                         w.h, w.w, w.c);
    if (padding > 16384 || x.h > INT_MAX / 2 || x.w > INT_MAX / 2 ||
        (int64_t)x.h + 2 * padding < w.n || (int64_t)x.w + 2 * padding < w.h)
        return l2l__fail(c, L2L_ERROR_SHAPE, "%s: a %dx%d kernel does not fit into %dx%d with "
                         "padding %d, which is 16384 at most", where, w.n, w.h, x.h, x.w, padding);
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

L2LADVDEF l2l_conv_options l2l_conv_default(void)
{
    l2l_conv_options o = L2L__ZERO;
    o.stride = 1;
    return o;
}

/* conv(x, w), its adjoint in x and its adjoint in w are bilinear, each in two of the three tensors
   x, w, y, and the VJPs of each are the other two. Their nodes keep stride and padding in i[0..1].
   This is conv(x, w) as y's VJP needs it. */
static l2l_tensor *l2l__plain_conv(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                                   const l2l_tensor *y)
{
    l2l_conv_options o = l2l_conv_default();
    o.stride = (int)y->i[0];
    o.padding = (int)y->i[1];
    return l2l_conv(c, x, w, &o);
}

/* Of g = dx(dy, w), with v of x's shape the cotangent of g: sum v g = sum conv(v, w) dy. So that of
   dy is conv(v, w), and that of w the weight gradient of v and dy. */
static void l2l__input_grad_vjp(l2l__vjp *v)
{
    l2l_tensor *dy = v->y->in[0], *w = v->y->in[1];
    const int stride = (int)v->y->i[0], padding = (int)v->y->i[1];
    if (v->need[0]) v->dx[0] = l2l__plain_conv(v->c, v->dy, w, v->y);
    if (v->need[1]) v->dx[1] = l2l_conv_weight_grad(v->c, v->dy, dy, w->shape, stride, padding);
}
static const l2l__operation l2l__input_grad_op = {"l2l_conv_input_grad", l2l__input_grad_vjp};

/* Of g = dw(x, dy), with v of w's shape: sum v g = sum conv(x, v) dy. The cotangent of dy is
   conv(x, v), that of x the input gradient of dy and v. */
static void l2l__weight_grad_vjp(l2l__vjp *v)
{
    l2l_tensor *x = v->y->in[0], *dy = v->y->in[1];
    const int stride = (int)v->y->i[0], padding = (int)v->y->i[1];
    if (v->need[0]) v->dx[0] = l2l_conv_input_grad(v->c, dy, v->dy, x->shape, stride, padding);
    if (v->need[1]) v->dx[1] = l2l__plain_conv(v->c, x, v->dy, v->y);
}
static const l2l__operation l2l__weight_grad_op = {"l2l_conv_weight_grad", l2l__weight_grad_vjp};

/* The adjoint in x, of a = dy and b = w, or in w, of a = x and b = dy; s is its shape. The geometry
   is in both cases that of the convolution itself, from x to y, whose output dy must fit. */
static l2l_tensor *l2l__conv_adjoint(l2l_context *c, const l2l__operation *op, l2l_tensor *a,
                                     l2l_tensor *b, l2l_shape s, int stride, int padding)
{
    const bool in_x = op == &l2l__input_grad_op;
    l2l__geometry g;
    l2l_tensor *y;
    if (!l2l__ready(c, op->name, a) || !l2l__ready(c, op->name, b) ||
        !l2l__shape_ok(c, op->name, s) ||
        !l2l__geometry_of(c, op->name, in_x ? s : a->shape, in_x ? b->shape : s, stride, padding,
                          &g))
        return NULL;
    l2l_shape dy = in_x ? a->shape : b->shape;
    if (!l2l__equal(c, op->name, dy, l2l__output_of(&g))) return NULL;
    if (!(y = l2l__new(c, op->name, s))) return NULL;
    if (in_x) l2l__conv_input_gradient(c, &g, a->data, b, y->data);
    else l2l__conv_weight_gradient(c, &g, a->data, b->data, y->data);
    y->i[0] = stride;
    y->i[1] = padding;
    return l2l__record2(c, y, op, a, b);
}

L2LADVDEF l2l_tensor *l2l_conv_input_grad(l2l_context *c, l2l_tensor *dy, l2l_tensor *w,
                                          l2l_shape x, int stride, int padding)
{
    return l2l__conv_adjoint(c, &l2l__input_grad_op, dy, w, x, stride, padding);
}
L2LADVDEF l2l_tensor *l2l_conv_weight_grad(l2l_context *c, l2l_tensor *x, l2l_tensor *dy,
                                           l2l_shape w, int stride, int padding)
{
    return l2l__conv_adjoint(c, &l2l__weight_grad_op, x, dy, w, stride, padding);
}

/* The maxima of x, of the geometry's output shape, with their places in y->index. */
static l2l_tensor *l2l__pool(l2l_context *c, const char *where, const l2l__geometry *g,
                             l2l_tensor *x)
{
    l2l_tensor *y;
    if (l2l__outlined(c, x, l2l__output_of(g), &y) || !(y = l2l__new(c, where, l2l__output_of(g))))
        return y;
    y->index = (int *)l2l__arena_array(c, l2l_count(y->shape), sizeof *y->index);
    if (y->index) l2l__max_pool_forward(c, g, x->data, y->data, y->index);
    y->i[0] = g->kh; y->i[1] = g->stride; y->i[2] = g->padding; y->i[3] = L2L__GATHER;
    return y;
}

/* y = pool(relu(z)), z = scale u + bias + residual, u = conv(x, w). Backwards t is the cotangent of
   what has been reached, first of z: dy at the places of the maxima, where y > 0. Then
   dresidual = t, dbias = sum t, dscale = sum t u; then of u: t scale, of which dw and dx are the
   two adjoints above. at_once: nothing but these is asked for, and nothing pooled, so that the mask
   y > 0 and the scale are one pass. */
static void l2l__conv_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *y = v->y, *const *in = y->in, *x = in[L2L__X], *w = in[L2L__W];
    l2l_tensor *scale = in[L2L__SCALE], *t = l2l__retain(v->dy), *u;
    const bool relu = (y->i[3] & L2L_RELU) != 0, pool = (y->i[3] & L2L_POOL) != 0;
    const bool at_once = relu && !pool && scale && !v->need[L2L__RESIDUAL] &&
                         !v->need[L2L__BIAS] && !v->need[L2L__SCALE];
    const int stride = (int)y->i[0], padding = (int)y->i[1];
    l2l__geometry g = L2L__ZERO;
    if (!l2l__geometry_of(c, "l2l_conv", x->shape, w->shape, stride, padding, &g)) return;
    if (relu && !at_once)                    /* max and ReLU commute: mask by the pooled output   */
        t = l2l__then(c, t, l2l__gate(c, t, y));
    if (pool) t = l2l__then(c, t, l2l__map(c, L2L__UNPOOL, t, l2l__output_of(&g), 2, 2, 0, y));
    if (v->need[L2L__RESIDUAL]) v->dx[L2L__RESIDUAL] = l2l__retain(t);
    if (v->need[L2L__BIAS]) v->dx[L2L__BIAS] = l2l_sum_to(c, t, in[L2L__BIAS]->shape);
    if (v->need[L2L__SCALE]) {               /* needs the bare convolution again                  */
        u = l2l__plain_conv(c, x, w, y);
        v->dx[L2L__SCALE] = l2l__then(c, u, l2l__product_to(c, t, u, scale->shape));
    }
    if (scale) t = l2l__then(c, t, l2l__gate_scale(c, t, at_once ? y : NULL, scale));
    if (v->need[L2L__W])
        v->dx[L2L__W] = l2l_conv_weight_grad(c, x, t, w->shape, stride, padding);
    if (v->need[L2L__X])
        v->dx[L2L__X] = l2l_conv_input_grad(c, t, w, x->shape, stride, padding);
    l2l_drop(c, t);
}
static const l2l__operation l2l__conv_op = {"conv", l2l__conv_vjp};

/* An operand that may be left out, or else has just this shape. */
static bool l2l__optional(l2l_context *c, const char *where, const l2l_tensor *x, l2l_shape s)
{
    return !x || (l2l__ready(c, where, x) && l2l__equal(c, where, x->shape, s));
}

/* Bias and scale by output channel; the residual is added before pooling, and has that shape. */
static bool l2l__conv_check(l2l_context *c, const l2l_conv_options *o, const l2l__geometry *g)
{
    const l2l_shape after = l2l__channels(g->k);
    if (o->pool && o->unpooled)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_conv: both pool and unpooled");
    if (o->pool && (g->oh < 2 || g->ow < 2))
        return l2l__fail(c, L2L_ERROR_SHAPE, "l2l_conv: nothing to pool in %dx%d", g->oh, g->ow);
    return l2l__optional(c, "l2l_conv: residual", o->residual, l2l__output_of(g)) &&
           l2l__optional(c, "l2l_conv: bias", o->bias, after) &&
           l2l__optional(c, "l2l_conv: scale", o->scale, after);
}

/* Runs the convolution and its epilogue into a new tensor, pooled or not. */
static l2l_tensor *l2l__conv_run(l2l_context *c, const l2l__geometry *g, l2l_tensor *x,
                                 const l2l_tensor *w, const l2l_conv_options *o)
{
    l2l_tensor *y;
    l2l__epilogue e;
    l2l__geometry pool = *g;
    if (!l2l__outlined(c, x, l2l__output_of(g), &y)) {
        if (!(y = l2l__new(c, "l2l_conv", l2l__output_of(g)))) return NULL;
        e = l2l__epilogue_of(NULL, l2l__data(o->scale), l2l__data(o->bias),
                             l2l__data(o->residual), o->relu);
        e.ties = !o->unpooled;
        if (!l2l__conv_forward(c, g, x->data, w, &e, y->data)) return y;
    }
    if (!y || !o->pool) return y;
    /* From y's plane to windows of 2x2; of an odd side the last line is left out. */
    pool.h = g->oh; pool.w = g->ow; pool.c = g->k;
    pool.kh = pool.kw = pool.stride = 2;
    pool.padding = 0;
    pool.oh = g->oh / 2; pool.ow = g->ow / 2;
    return l2l__then(c, y, l2l__pool(c, "l2l_conv", &pool, y));
}

L2LADVDEF l2l_tensor *l2l_conv(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                               const l2l_conv_options *o)
{
    const l2l_conv_options plain = l2l_conv_default();
    l2l__geometry g;
    l2l_tensor *in[L2L__CONV_INPUTS], *y;
    if (!o) o = &plain;
    if (!l2l__ready(c, "l2l_conv", x) || !l2l__ready(c, "l2l_conv: weight", w) ||
        !l2l__geometry_of(c, "l2l_conv", x->shape, w->shape, o->stride, o->padding, &g) ||
        !l2l__shape_ok(c, "l2l_conv", l2l__output_of(&g)) || !l2l__conv_check(c, o, &g))
        return NULL;
    if (!(y = l2l__conv_run(c, &g, x, w, o))) return NULL;
    /* In place of the pooling's attributes, which l2l__conv_vjp knows; y->index stays. */
    y->i[0] = o->stride;
    y->i[1] = o->padding;
    y->i[3] = (o->relu ? L2L_RELU : 0) | (o->pool ? L2L_POOL : 0);
    in[L2L__X] = x; in[L2L__W] = w; in[L2L__BIAS] = o->bias; in[L2L__SCALE] = o->scale;
    in[L2L__RESIDUAL] = o->residual;
    return l2l__record(c, y, &l2l__conv_op, in, L2L__CONV_INPUTS);
}

/* y = x W + bias: a 1x1 convolution of one pixel with H*W*C channels. dx = dy W^T, dW = x^T dy and
   dbias = sum dy follow from the convolution's. */
L2LADVDEF l2l_tensor *l2l_linear(l2l_context *c, l2l_tensor *x, l2l_tensor *w,
                                 const l2l_conv_options *o)
{
    l2l_tensor *flat, *matrix;
    int64_t inputs, rows;
    if (!l2l__ready(c, "l2l_linear", x) || !l2l__ready(c, "l2l_linear: weight", w)) return NULL;
    inputs = l2l_count(x->shape) / x->shape.n;
    rows = l2l_count(w->shape) / w->shape.c;
    if (inputs != rows || inputs > INT_MAX)
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_linear: %z inputs (%dx%dx%d) and a weight for %z",
                  inputs, x->shape.h, x->shape.w, x->shape.c, rows);
    if (o && (o->padding || o->pool))
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_linear: padding %d and pool %d, but a linear map has "
                  "neither", o->padding, (int)o->pool);
    /* Views: the matrix has the packed copies of the parameter w, if it is one. */
    flat = l2l_reshape(c, x, l2l_shape_of(x->shape.n, 1, 1, (int)inputs));
    matrix = l2l_reshape(c, w, l2l_shape_of(1, 1, (int)inputs, w->shape.c));
    return l2l__then(c, flat, l2l__then(c, matrix, l2l_conv(c, flat, matrix, o)));
}

/* -- pooling -------------------------------------------------------------------------------------
   Over the windows of oh, ow, which may overlap:

       maximum   y[oh][ow][c] = x at the place of the window's first maximum, which the node keeps:
                 dx there += dy
       average   y[oh][ow][c] = sum of the window / window^2, what lies outside of the plane as 0:
                 dx in the window += dy / window^2 */

/* A padding of at most half the window: then every window has a pixel of the plane in it, at either
   end, and a maximum has where to stand. */
static bool l2l__pool_shape(l2l_context *c, const char *where, const l2l_tensor *x, int window,
                            int stride, int padding, l2l__geometry *g)
{
    if (!l2l__ready(c, where, x)) return false;
    if (window < 1 || padding > window / 2)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: window %d must be at least 1, padding %d at "
                         "most half of it", where, window, padding);
    if ((int64_t)x->shape.h * x->shape.w > INT_MAX) /* a maximum's place is an int                */
        return l2l__fail(c, L2L_ERROR_SHAPE, "%s: a plane of %dx%d has more than %d pixels", where,
                         x->shape.h, x->shape.w, INT_MAX);
    return l2l__geometry_of(c, where, x->shape,
                            l2l_shape_of(window, window, x->shape.c, x->shape.c), stride, padding,
                            g);
}

/* Once the places of the maxima are known, it reads there: a linear map. */
L2LADVDEF l2l_tensor *l2l_max_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                   int padding)
{
    l2l__geometry g;
    if (!l2l__pool_shape(c, "l2l_max_pool", x, window, stride, padding, &g)) return NULL;
    return l2l__record(c, l2l__pool(c, "l2l_max_pool", &g, x), &l2l__map_op, &x, 1);
}

L2LADVDEF l2l_tensor *l2l_average_pool(l2l_context *c, l2l_tensor *x, int window, int stride,
                                       int padding)
{
    l2l__geometry g;
    if (!l2l__pool_shape(c, "l2l_average_pool", x, window, stride, padding, &g)) return NULL;
    return l2l__map(c, L2L__AVERAGE, x, l2l__output_of(&g), window, stride, padding, NULL);
}

L2LADVDEF l2l_tensor *l2l_global_average_pool(l2l_context *c, l2l_tensor *x)
{
    if (!l2l__ready(c, "l2l_global_average_pool", x)) return NULL;
    return l2l__mean_to(c, x, l2l_shape_of(x->shape.n, 1, 1, x->shape.c));
}

/* -- batch normalisation --------------------------------------------------------------------------
   Training: m = N*H*W, mu = sum x / m, var = sum (x-mu)^2 / m, r = (var + eps)^-1/2,
   y = relu(gamma (x-mu) r + beta + residual). The node saves mu and r. Gamma and beta may be rows
   for each image: then there are N groups of pixels, else one. */

L2LADVDEF l2l_batch_norm_options l2l_batch_norm_default(void)
{
    l2l_batch_norm_options o = L2L__ZERO;
    o.epsilon = 1e-5;
    o.momentum = 0.1;
    o.update = true;
    return o;
}

/* With t = dy behind the ReLU's mask, xhat = (x-mu) r and u = gamma t: dgamma = sum t xhat and
   dbeta = sum t over a group; dx = r (u - mean(u) - xhat mean(u xhat)) over all pixels. As numbers
   by channel that is dx = a t + b (x - mu) + d with a = gamma r, b = -r^2 mean(u xhat) and
   d = -r mean(u), which l2l__channel_combine takes in rows of [group][mu, a, b, d][channel]. */
static void l2l__batch_norm_fused_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *x = v->y->in[0], *gamma = v->y->in[1], *gate = v->y->i[3] ? v->y : NULL;
    const int n = x->shape.c, groups = gamma->shape.n;
    const l2l_real *mu = v->y->saved, *r = mu + n, *open = l2l__data(gate);
    const int64_t m = l2l__pixels(x), rows = (int64_t)groups * n;
    double *s0, *s1;
    l2l_real *by;
    l2l_tensor *dx, *dgamma, *dbeta;
    if (!l2l__ready(c, "l2l_batch_norm", x) || !l2l__ready(c, "l2l_batch_norm", gamma)) return;
    s0 = (double *)l2l__arena_array(c, 2 * rows, sizeof *s0);
    by = (l2l_real *)l2l__arena_array(c, 4 * rows, sizeof *by);
    dx = v->need[0] ? l2l__new(c, "batch_norm", x->shape) : NULL;
    dgamma = l2l__new(c, "batch_norm", gamma->shape);
    dbeta = l2l__new(c, "batch_norm", gamma->shape);
    if (!c->status && l2l__channel_moments(c, m, m / groups, n, v->dy->data, open, x->data, mu, s0,
                                           s0 + rows)) {
        s1 = s0 + rows;
        /* s0 = sum t, s1 = sum t (x - mu) by group; mean0 = mean(u), mean1 = mean(u xhat). */
        for (int k = 0; k < n; k++) {
            double mean0 = 0, mean1 = 0, rk = (double)r[k];
            for (int64_t i = k; i < rows; i += n) {
                mean0 += (double)gamma->data[i] * s0[i] / (double)m;
                mean1 += (double)gamma->data[i] * s1[i] * rk / (double)m;
            }
            for (int64_t i = k; i < rows; i += n) {
                l2l_real *to = by + (i - k) * 4 + k;
                dbeta->data[i] = (l2l_real)s0[i];
                dgamma->data[i] = (l2l_real)(s1[i] * rk);
                to[0] = mu[k];
                to[n] = (l2l_real)((double)gamma->data[i] * rk);
                to[2 * n] = (l2l_real)(-rk * rk * mean1);
                to[3 * n] = (l2l_real)(-rk * mean0);
            }
        }
        if (dx) l2l__channel_combine(c, m, m / groups, n, v->dy->data, open, x->data, by, dx->data);
    }
    l2l__arena_drop(c, by);
    l2l__arena_drop(c, s0);
    v->dx[0] = dx;
    v->dx[1] = dgamma;
    v->dx[2] = dbeta;
    if (v->need[3]) v->dx[3] = gate ? l2l__gate(c, v->dy, gate) : l2l__retain(v->dy);
}

/* To be differentiated again, the VJP is that of the same function made of plain operations: mean
   and variance are computed from x once more, on the tape, and a walk of its own, recorded as well,
   leads from there to the inputs that are asked for. */
static void l2l__batch_norm_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *y = v->y, *d, *r, *in[4], *wanted[4], *found[4];
    const l2l_shape s = l2l__channels(y->shape.c);
    int j, n = 0;
    if (!c->recording) {
        l2l__batch_norm_fused_vjp(v);
        return;
    }
    for (j = 0; j < 4; j++) {                /* nodes of their own: one input may depend on       */
        l2l_tensor *x = y->in[j];            /* another (a residual block), or be the same        */
        in[j] = x ? l2l_reshape(c, x, x->shape) : NULL;
        if (v->need[j]) wanted[n++] = in[j];
    }
    d = l2l_sub(c, in[0], l2l__mean_to(c, in[0], s));
    r = l2l_affine(c, l2l__mean_to(c, l2l_mul(c, d, d), s), 1, y->f[0]);
    r = l2l_mul(c, l2l_power(c, r, -0.5), in[1]);
    y = l2l_add(c, l2l_mul(c, d, r), in[2]);
    if (in[3]) y = l2l_add(c, y, in[3]);
    if (v->y->i[3]) y = l2l_relu(c, y);
    if (!l2l_vjp(c, y, v->dy, wanted, n, found, L2L_CREATE_GRAPH)) return;
    for (j = n = 0; j < 4; j++) if (v->need[j]) v->dx[j] = found[n++];
}
static const l2l__operation l2l__batch_norm_op = {"batch_norm", l2l__batch_norm_vjp};

/* y = gamma (x - mu) (variance + eps)^-1/2 + beta (+ residual, relu), in one pass. The running
   statistics become (1-a) of their own and a of the batch's, the variance there over m - 1; not
   after an error, which leaves y NULL. saved: n numbers mu, then n numbers r. */
static l2l_tensor *l2l__batch_norm_train(l2l_context *c, l2l_tensor *x,
                                         const l2l_batch_norm_options *o)
{
    const int n = x->shape.c, groups = o->gamma->shape.n;
    const int64_t m = l2l__pixels(x), rows = (int64_t)groups * n;
    const double a = o->momentum, unbiased = m > 1 ? (double)m / (double)(m - 1) : 1;
    l2l_tensor *y = l2l__new(c, "l2l_batch_norm", x->shape), *in[4];
    l2l_real *scale = (l2l_real *)l2l__arena_array(c, rows + n, sizeof *scale), *mu = NULL;
    l2l_real *variance = scale ? scale + rows : NULL;
    l2l__epilogue e;
    if (y) y->saved = mu = (l2l_real *)l2l__arena_array(c, 2 * (int64_t)n, sizeof *mu);
    if (!c->status && l2l__channel_variance(c, m, n, x->data, mu, variance)) {
        l2l_real *r = mu + n;
        for (int k = 0; k < n; k++) r[k] = (l2l_real)(1 / sqrt((double)variance[k] + o->epsilon));
        for (int64_t i = 0; i < rows; i++) scale[i] = r[i % n] * o->gamma->data[i];
        e = l2l__epilogue_of(mu, scale, o->beta->data, l2l__data(o->residual), o->relu);
        l2l__channel_finish(c, m, m / groups, n, x->data, &e, y->data);
        y->f[0] = o->epsilon;
        y->i[3] = o->relu;
    }
    in[0] = x; in[1] = o->gamma; in[2] = o->beta; in[3] = o->residual;
    y = l2l__record(c, y, &l2l__batch_norm_op, in, 4);
    for (int k = 0; y && o->update && k < n; k++) {
        l2l_real *mean = o->running_mean->data + k, *var = o->running_variance->data + k;
        *mean = (l2l_real)((1 - a) * (double)*mean + a * (double)mu[k]);
        *var = (l2l_real)((1 - a) * (double)*var + a * unbiased * (double)variance[k]);
    }
    l2l__arena_drop(c, scale);
    return y;
}

/* Evaluation: y = x s + b, s = gamma (variance + eps)^-1/2, b = beta + (before - mean) s, where
   `before` is the bias of a convolution in front that takes s and b into its epilogue. They are
   made by operations, which on the tape lead from s and b to gamma, beta and `before`. */
static bool l2l__batch_norm_constants(l2l_context *c, const l2l_batch_norm_options *o,
                                      l2l_tensor *before, l2l_tensor **s, l2l_tensor **b)
{
    l2l_tensor *t = l2l_affine(c, o->running_variance, 1, o->epsilon);
    t = l2l__then(c, t, l2l_power(c, t, -0.5));
    *s = l2l__then(c, t, l2l_mul(c, o->gamma, t));
    t = before ? l2l_sub(c, o->running_mean, before) : l2l__retain(o->running_mean);
    t = l2l__then(c, t, l2l_mul(c, t, *s));
    *b = l2l__then(c, t, l2l_sub(c, o->beta, t));
    return !c->status;
}

/* In training mode each channel needs two numbers at least: of one its mean is itself, and whatever
   it is, nothing of it is left. Errors name `where`, a layer. */
static l2l_tensor *l2l__batch_norm(l2l_context *c, const char *where, l2l_tensor *x,
                                   const l2l_batch_norm_options *o)
{
    const l2l_tensor *vectors[4];
    l2l_tensor *s, *b;
    l2l_shape one;
    if (!l2l__ready(c, where, x) || !l2l__given(c, where, "options", o) ||
        !l2l__ready(c, where, o->gamma))
        return NULL;
    one = l2l__channels(x->shape.c);         /* gamma and beta: or a row by image                 */
    if (o->gamma->shape.n == x->shape.n) one.n = x->shape.n;
    vectors[0] = o->gamma; vectors[1] = o->beta;
    vectors[2] = o->running_mean; vectors[3] = o->running_variance;
    for (int i = 0; i < 4; i++, one.n = i < 2 ? one.n : 1)
        if (!l2l__ready(c, where, vectors[i]) || !l2l__equal(c, where, vectors[i]->shape, one))
            return NULL;
    if (!l2l__optional(c, "l2l_batch_norm: residual", o->residual, x->shape)) return NULL;
    if (!(o->epsilon >= 0 && o->epsilon <= DBL_MAX && o->momentum >= 0 && o->momentum <= 1)) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_batch_norm: epsilon %g is not 0 or positive and "
                  "finite, or momentum %g not in [0,1]", o->epsilon, o->momentum);
        return NULL;
    }
    if (o->training && l2l__pixels(x) < 2) {
        l2l__fail(c, L2L_ERROR_SHAPE, "%s: batch norm in training mode expects more than one "
                  "number per channel, not a single image of 1x1", where);
        return NULL;
    }
    if (o->training) return l2l__batch_norm_train(c, x, o);
    if (!l2l__batch_norm_constants(c, o, NULL, &s, &b)) return NULL;
    return l2l__then(c, s, l2l__then(c, b, l2l__scale_shift(c, x, s, b, o->residual, o->relu)));
}

L2LADVDEF l2l_tensor *l2l_batch_norm(l2l_context *c, l2l_tensor *x, const l2l_batch_norm_options *o)
{
    return l2l__batch_norm(c, "l2l_batch_norm", x, o);
}

/* -- dropout -------------------------------------------------------------------------------------
   y = m x and dx = m dy, with m = 0 at random, by probability p, and else 1 / (1-p), so that the
   mean of y is x and evaluation mode needs no factor (Srivastava et al. 2014, inverted). The mask
   is no node: on the tape stands y = x m alone, to which m is a constant. */

L2LADVDEF l2l_tensor *l2l_dropout(l2l_context *c, l2l_tensor *x, double p, const l2l_stream *s,
                                  const uint32_t *images)
{
    l2l_tensor *mask;
    int k;
    if (!l2l__ready(c, "l2l_dropout", x) || !l2l__given(c, "l2l_dropout", "stream", s) ||
        !l2l__given(c, "l2l_dropout", "images", images))
        return NULL;
    if (!(p >= 0 && p < 1)) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_dropout: the probability %g is not in [0,1)", p);
        return NULL;
    }
    if (!(mask = l2l__new(c, "l2l_dropout", x->shape))) return NULL;
    int64_t plane = (int64_t)x->shape.h * x->shape.w;
    for (int n = 0; n < x->shape.n; n++) {
        l2l_stream mine = *s;
        mine.image = images[n];
        for (int64_t i = 0; i < plane; i++)
            for (k = 0; k < x->shape.c; k++) /* the element's number is its place in C,H,W order  */
                mask->data[(n * plane + i) * x->shape.c + k] =
                    l2l_random_uniform(&mine, (uint32_t)(k * plane + i)) < p
                        ? 0 : (l2l_real)(1 / (1 - p));
    }
    return l2l__then(c, mask, l2l_mul(c, x, mask));
}

/* -- over classes --------------------------------------------------------------------------------
   Of a row z of logits, with lse = log sum_k e^{z_k}, taken from its maximum on, or e^{z_k} might
   leave the range of numbers:

       softmax       y_k = e^{z_k - lse}    dz = y (dy - sum_k y_k dy_k)
       log softmax   y_k = z_k - lse        dz = dy - softmax(z) sum_k dy_k */

static bool l2l__rows_ready(l2l_context *c, const char *where, const l2l_tensor *x)
{
    if (!l2l__ready(c, where, x)) return false;
    return (x->shape.h == 1 && x->shape.w == 1) ||
           l2l__fail(c, L2L_ERROR_SHAPE, "%s: expected Nx1x1xK, not %dx%dx%dx%d", where,
                     x->shape.n, x->shape.h, x->shape.w, x->shape.c);
}

/* log of the sum over j of exp(z_j - top), top the largest. The two stay apart: where top is large
   their sum is top itself. */
static double l2l__log_sum_exp(const l2l_real *z, int k, double *top)
{
    double sum = 0;
    *top = (double)z[0];
    for (int j = 1; j < k; j++) if ((double)z[j] > *top) *top = (double)z[j];
    for (int j = 0; j < k; j++) sum += exp((double)z[j] - *top);
    return log(sum);
}

static l2l_shape l2l__per_image(const l2l_tensor *x) { return l2l_shape_of(x->shape.n, 1, 1, 1); }

/* Rows of y = softmax(z), or of its logarithm. */
static l2l_tensor *l2l__softmax_rows(l2l_context *c, const l2l__operation *op, l2l_tensor *z,
                                     bool logs)
{
    l2l_tensor *y = l2l__rows_ready(c, op->name, z) ? l2l__like(c, op->name, z) : NULL;
    if (!y) return NULL;
    int k = z->shape.c;
    for (int i = 0; i < z->shape.n; i++) {
        const l2l_real *row = z->data + (int64_t)i * k;
        l2l_real *out = y->data + (int64_t)i * k;
        double top, sum = l2l__log_sum_exp(row, k, &top);
        for (int j = 0; j < k; j++) {
            double log_p = (double)row[j] - top - sum;
            out[j] = (l2l_real)(logs ? log_p : exp(log_p));
        }
    }
    return l2l__record(c, y, op, &z, 1);
}

static void l2l__softmax_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *t = l2l__product_to(c, v->dy, v->y, l2l__per_image(v->y));
    t = l2l__then(c, t, l2l_sub(c, v->dy, t));
    v->dx[0] = l2l__then(c, t, l2l_mul(c, v->y, t));
}
static const l2l__operation l2l__softmax_op = {"l2l_softmax", l2l__softmax_vjp};

L2LADVDEF l2l_tensor *l2l_softmax(l2l_context *c, l2l_tensor *logits)
{
    return l2l__softmax_rows(c, &l2l__softmax_op, logits, false);
}

static void l2l__log_softmax_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *s = l2l_sum_to(c, v->dy, l2l__per_image(v->dy)), *p = l2l_softmax(c, v->y->in[0]);
    l2l_tensor *t = l2l__then(c, s, l2l__then(c, p, l2l_mul(c, p, s)));
    v->dx[0] = l2l__then(c, t, l2l_sub(c, v->dy, t));
}
static const l2l__operation l2l__log_softmax_op = {"l2l_log_softmax", l2l__log_softmax_vjp};

L2LADVDEF l2l_tensor *l2l_log_softmax(l2l_context *c, l2l_tensor *logits)
{
    return l2l__softmax_rows(c, &l2l__log_softmax_op, logits, true);
}

/* y's own copy of n class numbers, each checked against k. */
static bool l2l__save_classes(l2l_context *c, const char *where, l2l_tensor *y, const int *classes,
                              int n, int k)
{
    if (!y || !l2l__given(c, where, "the list of classes", classes)) return false;
    y->index = (int *)l2l__arena_array(c, n, sizeof *y->index);
    if (!y->index) return false;
    for (int i = 0; i < n; i++) {
        if (classes[i] < 0 || classes[i] >= k)
            return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: class %d of row %d is not in 0..%d", where,
                             classes[i], i, k - 1);
        y->index[i] = classes[i];
    }
    return true;
}

/* pick or unpick, with `channels` in the result and classes below k. The classes are copied into
   the node: the caller's may be gone when the walk comes back. */
static l2l_tensor *l2l__by_class(l2l_context *c, int kind, const char *where, l2l_tensor *x,
                                 const int *classes, int k, int channels)
{
    l2l_tensor *y = l2l__new(c, where, l2l_shape_of(x->shape.n, 1, 1, channels));
    if (y) y->i[3] = kind;
    if (l2l__save_classes(c, where, y, classes, x->shape.n, k))
        l2l__map_into(c, kind, x, y, y->index);
    return l2l__record(c, y, &l2l__map_op, &x, 1);
}

L2LADVDEF l2l_tensor *l2l_pick(l2l_context *c, l2l_tensor *logits, const int *classes)
{
    if (!l2l__rows_ready(c, "l2l_pick", logits)) return NULL;
    return l2l__by_class(c, L2L__PICK, "l2l_pick", logits, classes, logits->shape.c, 1);
}

L2LADVDEF l2l_tensor *l2l_unpick(l2l_context *c, l2l_tensor *values, const int *classes, int k)
{
    if (!l2l__rows_ready(c, "l2l_unpick", values)) return NULL;
    if (values->shape.c != 1) {
        l2l__fail(c, L2L_ERROR_SHAPE, "l2l_unpick: expected Nx1x1x1, not %dx1x1x%d",
                  values->shape.n, values->shape.c);
        return NULL;
    }
    return l2l__by_class(c, L2L__UNPICK, "l2l_unpick", values, classes, k, k);
}

#ifdef __clang__
#pragma mark - 9  Layers and classifiers
#endif
/* ============================================================================================ */
/*  9  LAYERS AND CLASSIFIERS                                                         >>layers  */
/* ============================================================================================ */

/* -- file layout: KxCxkhxkw against khxkwxCxK -------------------------------------------------- */

/* Where element i of the file's order stands in memory. A linear layer after a flatten has the same
   permutation: khxkw is then the map's HxW. A weight's shape n, h, w, c is kh, kw, C, K, and

       i = ((k*C + c)*kh + y)*kw + x   stands at   ((y*kw + x)*C + c)*K + k

   for tap (y,x), which is (h,w) in the code, from channel c to output k. */
static int64_t l2l__file_place(l2l_shape s, int64_t i)
{
    int64_t w = i % s.h, h = i / s.h % s.n, c = i / s.h / s.n % s.w, k = i / s.h / s.n / s.w;
    return ((h * s.h + w) * s.w + c) * s.c + k;
}

/* The file's shape of rank 1, 2 or 4: K, Kx(C*H*W) or KxCxkhxkw. */
static void l2l__file_shape(l2l_shape s, int rank, int64_t shape[4])
{
    shape[0] = s.c;
    shape[1] = rank == 4 ? s.w : rank > 1 ? (int64_t)s.n * s.h * s.w : 0;
    shape[2] = rank == 4 ? s.n : 0;
    shape[3] = rank == 4 ? s.h : 0;
}

/* -- parameters by name ------------------------------------------------------------------------ */

/* Whoever changes a parameter says so: transforms cached for the old values are void then, and so
   are the fronts of a search (see l2l__fronts). Vectors have nothing packed. */
static void l2l__touch(l2l_model *m, int i)
{
    l2l__packed *p = m->slot[i]->value.packed;
    if (p) p->version++;
    m->fronts = NULL;
}

/* Layers ask in the order in which they were made: the search begins behind the last one found. */
static l2l__slot *l2l__find_slot(l2l_model *m, const char *name)
{
    for (int i = 0; i < m->n_slots; i++) {
        int j = (m->cursor + i) % m->n_slots;
        if (strcmp(m->slot[j]->name, name) == 0) {
            m->cursor = j + 1;
            return m->slot[j];
        }
    }
    return NULL;
}

/* N(fill, deviation^2), drawn in file order; with deviation 0 all are `fill`. Each parameter has a
   stream of its own, by its number: n_slots, which counts it already, from 1 on. */
static void l2l__initialise(l2l_model *m, l2l__slot *p, double deviation, double fill)
{
    l2l_stream s = l2l__stream(m->options.seed, L2L_RANDOM_INIT, 0, (uint32_t)m->n_slots, 0);
    int64_t i, n = l2l_count(p->value.shape);
    for (i = 0; i < n; i++)
        p->value.data[l2l__file_place(p->value.shape, i)] =
            (l2l_real)(fill + (deviation > 0 ? deviation * l2l_random_normal(&s, (uint32_t)i) : 0));
}

/* A slot owns its numbers and their packed copies; one that is half made has NULL there. */
static void l2l__free_slot(l2l_context *c, l2l__slot *p)
{
    if (!p) return;
    l2l__packed_free(c, p->value.packed);
    l2l_free(c, p->value.packed);
    l2l_free(c, p->value.data);
    l2l_free(c, p);
}

/* Where `end` begins at the end of the text, or NULL. */
static const char *l2l__ending(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end) ? text + n - m : NULL;
}

/* Beside a batch norm's statistics files have a count of batches under this name. */
static const char l2l__batches[] = "num_batches_tracked";

/* A tensor that no tape owns, with room for packed copies if it is a weight. value.p says whose it
   is (l2l__shows_of). Only a whole one is entered: the model can be freed after an error. */
static l2l__slot *l2l__add_slot(l2l_model *m, const char *name, l2l_shape s, int rank,
                                bool trainable)
{
    l2l_context *c = m->context;
    l2l__slot *p;
    if (!l2l__shape_ok(c, name, s)) return NULL;
    m->slot = (l2l__slot **)l2l__room(c, m->slot, m->n_slots, &m->capacity, 32, sizeof *m->slot);
    if (!(p = (l2l__slot *)l2l_allocate(c, sizeof *p))) return NULL;
    memcpy(p->name, name, strlen(name) + 1);
    p->rank = rank;
    p->trainable = trainable;
    p->value.shape = s;
    p->value.tape = -1;                      /* references stay 0: owned by the model             */
    p->value.context = c;
    p->value.p = m;
    p->value.data = (l2l_real *)l2l__allocate_array(c, l2l_count(s), sizeof(l2l_real));
    if (rank > 1)
        p->value.packed = (struct l2l__packed *)l2l_allocate(c, sizeof *p->value.packed);
    if (c->status) {
        l2l__free_slot(c, p);
        return NULL;
    }
    m->slot[m->n_slots++] = p;
    return p;
}

/* Made and initialised on the first run, found on later ones. NULL and an error else. */
L2LADVDEF l2l_tensor *l2l_layer_parameter(l2l_model *m, const char *part, l2l_shape s, int rank,
                                          bool trainable, double deviation, double fill)
{
    l2l_context *c = m ? m->context : NULL;
    char name[96];
    l2l__slot *p;
    if (!c || c->status || !l2l__given(c, "l2l_layer_parameter", "the name", part)) return NULL;
    if (l2l__format(name, sizeof name, "%s%s", m->scope, part) >= sizeof name || !*part)
        l2l__fail(c, L2L_ERROR_ARGUMENT, "the parameter name '%s%s' is too long (95 characters are "
                  "allowed) or empty", m->scope, part);
    /* n | h | w is 1 where all are 1, and else only with a 0, which l2l__add_slot refuses. */
    if ((rank != 1 && rank != 2 && rank != 4) || (rank == 1 && (s.n | s.h | s.w) != 1))
        l2l__fail(c, L2L_ERROR_ARGUMENT, "parameter '%s' of rank %d: allowed are 4, 2 and, for "
                  "1x1x1xK, 1", name, rank);
    if (!(deviation >= 0 && deviation <= DBL_MAX && fabs(fill) <= DBL_MAX))
        l2l__fail(c, L2L_ERROR_ARGUMENT, "parameter '%s': N(%g, %g^2) is not for first values",
                  name, fill, deviation);
    if (c->status) return NULL;
    p = l2l__find_slot(m, name);
    if (m->creating) {
        if (p) l2l__fail(c, L2L_ERROR_ARGUMENT, "there are two parameters '%s'", name);
        if (!l2l__is_utf8(name))
            l2l__fail(c, L2L_ERROR_ARGUMENT, "the parameter's name '%s' is not UTF-8, which files "
                      "are written in", name);
        if (!strcmp(name, "__metadata__") || l2l__ending(name, l2l__batches))
            l2l__fail(c, L2L_ERROR_ARGUMENT, "the parameter's name '%s' means another thing in "
                      "files: the metadata, or a batch norm's count of batches", name);
        /* From a file: what that lacks is an error before there is memory for it. Nothing is drawn;
           the numbers come when all parameters are there (l2l__model_take). */
        if (m->from && !l2l__bundle_has(m->from, name, s, rank)) return NULL;
        p = l2l__add_slot(m, name, s, rank, trainable);
        if (p && !m->from) l2l__initialise(m, p, deviation, fill);
    } else if (!p) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "the model has no parameter '%s': did its forward "
                  "function change?", name);
    }
    return p && l2l__equal(c, name, p->value.shape, s) && !c->status ? &p->value : NULL;
}

/* The parameter `layer`.`part`. */
static l2l_tensor *l2l__parameter(l2l_model *m, const char *layer, const char *part, l2l_shape s,
                                  int rank, bool trainable, double deviation, double fill)
{
    char name[96];
    if (l2l__format(name, sizeof name, "%s.%s", layer, part) >= sizeof name)
        l2l__fail(m->context, L2L_ERROR_ARGUMENT, "the parameter name '%s.%s' is too long", layer,
                  part);
    return l2l_layer_parameter(m, name, s, rank, trainable, deviation, fill);
}

/* -- layers --------------------------------------------------------------------------------------
   A layer asks the model for its parameters by name and calls the operation. First weights are
   drawn from N(0, 2 / fan-in) (He et al. 2015), fan-in the numbers that meet in one output:
   kernel^2 C of a convolution, H W C of a linear layer; those of the logits, L2L_LAST, have a
   deviation of their own. Biases are 0, gamma 1 and beta 0, running mean and variance 0 and 1. */

L2LADVDEF l2l_context *l2l_model_context(const l2l_model *m) { return m ? m->context : NULL; }

/* Who asks may go by the whole batch in training mode: then no such pass is cut into slices. */
L2LADVDEF l2l_mode l2l_model_mode(l2l_model *m)
{
    if (!m) return L2L_EVALUATE;
    m->mode_matters = true;
    return m->mode;
}

L2LADVDEF bool l2l_model_mode_matters(const l2l_model *m) { return m && m->mode_matters; }

/* A copy, until the run ends: l2l__run begins with "" and puts back what an outer run had. */
L2LADVDEF void l2l_model_scope(l2l_model *m, const char *prefix)
{
    if (m && l2l__format(m->scope, sizeof m->scope, "%s", prefix ? prefix : "") >= sizeof m->scope)
        l2l__fail(m->context, L2L_ERROR_ARGUMENT, "l2l_model_scope: '%s' is too long", prefix);
}

/* What every layer begins with: a model, a name and an input. */
static bool l2l__layer_ready(const l2l_model *m, const char *name, const l2l_tensor *x)
{
    return m && l2l__given(m->context, "a layer", "the name", name) &&
           l2l__ready(m->context, name, x);
}

/* The parameters of a batch norm over so many channels, and how it runs now. The first run, on an
   image of zeros, moves no statistics, in whatever mode it may run a part of the network. */
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

/* Whether `flags` is a sum of some of those that the layer knows; names[k] is that of bit k. */
static bool l2l__flags_ok(const l2l_model *m, const char *name, unsigned flags, unsigned known)
{
    static const char *const names[] = {"L2L_RELU (1)", "L2L_POOL (2)", "L2L_NO_BIAS (4)",
                                        "L2L_LAST (8)", "L2L_UNPOOLED (16)"};
    char text[96];
    size_t n = 0;
    if (!(flags & ~known)) return true;
    for (unsigned k = 0; k < 5; k++)
        if (known >> k & 1)
            n += l2l__format(text + n, sizeof text - n, n ? ", %s" : "%s", names[k]);
    return l2l__fail(m->context, L2L_ERROR_ARGUMENT, "%s: flags %z are not a sum of those that "
                     "such a layer knows: %s", name, (int64_t)flags, text);
}

/* A norm that is a node of its own, as in front of a convolution; l2l_layer_unit has it behind. */
L2LADVDEF l2l_tensor *l2l_layer_batch_norm(l2l_model *m, const char *name, l2l_tensor *x,
                                           unsigned flags)
{
    l2l_batch_norm_options o;
    if (!l2l__layer_ready(m, name, x) || !l2l__flags_ok(m, name, flags, L2L_RELU)) return NULL;
    o = l2l__norm(m, name, x->shape.c);
    o.relu = (flags & L2L_RELU) != 0;
    return l2l__batch_norm(m->context, name, x, &o);
}

/* At stride 1, with padding kernel/2, an odd kernel keeps height and width. */
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

/* Is it one of the known networks, and nobody's own under that name? */
static bool l2l__known(const l2l_model *m)
{
    return m->options.forward == l2l_model_default(m->arch).forward;
}

/* Whether no maximum is taken of a layer's output, for which Winograd's way has to keep equal
   numbers equal (l2l__tie). Forward functions of one's own may do so in a call of its own; those of
   the known networks say it by L2L_POOL, but for ResNet-18's stem, and 7x7 never goes that way. */
static bool l2l__unpooled(const l2l_model *m, unsigned flags)
{
    return (flags & L2L_UNPOOLED) != 0 || (l2l__known(m) && !(flags & L2L_POOL));
}

/* Training mode: the batch's statistics stand between the convolution and the rest. They take the
   convolution's bias away again, so it enters the running mean only, and its gradient is 0: with
   u = conv(x), of mean mu, it is (u + bias) - (mu + bias) = u - mu that is scaled. The running mean
   becomes (1-a) of its own + a (mu + bias), of which l2l__batch_norm adds all but a bias. */
static l2l_tensor *l2l__unit_train(l2l_model *m, l2l_tensor *x, l2l_tensor *w, l2l_conv_options *o,
                                   l2l_batch_norm_options *norm, const l2l_unit *u)
{
    l2l_context *c = m->context;
    const l2l_tensor *bias = o->bias;
    l2l_tensor *y;
    o->bias = NULL;
    norm->residual = u->residual;
    norm->relu = (u->flags & L2L_RELU) != 0;
    y = l2l_conv(c, x, w, o);
    y = l2l__then(c, y, l2l__batch_norm(c, u->norm, y, norm));
    for (int k = 0; y && bias && norm->update && k < u->channels; k++)
        norm->running_mean->data[k] += (l2l_real)norm->momentum * bias->data[k];
    return u->flags & L2L_POOL ? l2l__then(c, y, l2l_max_pool(c, y, 2, 2, 0)) : y;
}

/* y = pool(relu(norm(conv(x) + bias) + residual)), each part but conv being optional. In evaluation
   mode the norm is two numbers for each channel, s and b (l2l__batch_norm_constants), which the
   convolution takes as its scale and bias: one node, of one pass over memory. They are made by
   operations that can be recorded: by way of them gamma, beta and bias have their gradients. */
L2LADVDEF l2l_tensor *l2l_layer_unit(l2l_model *m, const char *name, l2l_tensor *x,
                                     const l2l_unit *u)
{
    l2l_context *c = l2l_model_context(m);
    l2l_conv_options o = l2l_conv_default();
    l2l_batch_norm_options norm;
    l2l_tensor *w, *scale = NULL, *shift = NULL;
    if (!l2l__layer_ready(m, name, x) || !l2l__given(c, name, "the unit", u) ||
        !l2l__flags_ok(m, name, u->flags, L2L_RELU | L2L_POOL | L2L_NO_BIAS | L2L_UNPOOLED))
        return NULL;
    if (u->flags & L2L_POOL && u->flags & L2L_UNPOOLED) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: both L2L_POOL and L2L_UNPOOLED", name);
        return NULL;
    }
    w = l2l__parameter(m, name, "weight",
                       l2l_shape_of(u->kernel, u->kernel, x->shape.c, u->channels), 4, true,
                       u->kernel > 0 ? sqrt(2 / ((double)u->kernel * u->kernel * x->shape.c)) : 0,
                       0);
    if (!(u->flags & L2L_NO_BIAS))
        o.bias = l2l__parameter(m, name, "bias", l2l__channels(u->channels), 1, true, 0, 0);
    o.stride = u->stride;
    o.padding = u->padding;
    o.unpooled = l2l__unpooled(m, u->flags);
    if (u->norm) {
        norm = l2l__norm(m, u->norm, u->channels);
        if (norm.training) return l2l__unit_train(m, x, w, &o, &norm, u);
        if (c->status || !l2l__batch_norm_constants(c, &norm, o.bias, &scale, &shift)) return NULL;
        o.scale = scale;
        o.bias = shift;
    }
    o.residual = u->residual;
    o.relu = (u->flags & L2L_RELU) != 0;
    o.pool = (u->flags & L2L_POOL) != 0;
    x = l2l_conv(c, x, w, &o);
    return l2l__then(c, scale, l2l__then(c, shift, x));
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

/* y = relu(x W + bias) of x as one row, number (h*W + w)*C + c of it being x[h][w][c]. The weight
   is HxWxCxoutputs and no matrix: files have its inputs in the order C,H,W (l2l__file_place). */
L2LADVDEF l2l_tensor *l2l_layer_linear(l2l_model *m, const char *name, l2l_tensor *x, int outputs,
                                       unsigned flags)
{
    l2l_conv_options o = l2l_conv_default();
    l2l_tensor *w;
    l2l_shape s;
    double deviation;
    if (!l2l__layer_ready(m, name, x) ||
        !l2l__flags_ok(m, name, flags, L2L_RELU | L2L_NO_BIAS | L2L_LAST)) return NULL;
    s = x->shape;                            /* the weight remembers the map it flattens          */
    deviation = flags & L2L_LAST ? m->options.last_layer_deviation
                                 : sqrt(2 / ((double)s.h * s.w * s.c));
    w = l2l__parameter(m, name, "weight", l2l_shape_of(s.h, s.w, s.c, outputs), 2, true, deviation,
                       0);
    if (!(flags & L2L_NO_BIAS))
        o.bias = l2l__parameter(m, name, "bias", l2l__channels(outputs), 1, true, 0, 0);
    o.relu = (flags & L2L_RELU) != 0;
    return l2l_linear(m->context, x, w, &o);
}

/* By the stream of the pass, so that an image draws the same in any batch, part of a batch, rank or
   number of threads. In evaluation mode a view of x. A stream has no field for the layer: for each
   one of the run its seed moves on by 2^64 over the golden ratio. Image i of the j-th of joined
   batches, at j*n_images + i in x, draws as its number in the data set + j 2^30: up to four batches
   of a data set of up to 2^30 images draw apart. */
L2LADVDEF l2l_tensor *l2l_layer_dropout(l2l_model *m, l2l_tensor *x, double p)
{
    const char *where = "l2l_layer_dropout";
    l2l_context *c = l2l_model_context(m);
    l2l_stream s;
    l2l_tensor *y;
    uint32_t *images;
    int i;
    if (!l2l__layer_ready(m, where, x)) return NULL;
    if (!(p >= 0 && p < 1)) {                /* in either mode                                    */
        l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: the probability %g is not in [0,1)", where, p);
        return NULL;
    }
    s = m->stream;
    if (l2l_model_mode(m) != L2L_TRAIN || p == 0) return l2l_reshape(c, x, x->shape);
    s.purpose = L2L_RANDOM_DROPOUT;
    s.seed += (uint64_t)0x9E3779B97F4A7C15u * m->draws++; /* each layer has its own draws         */
    images = (uint32_t *)l2l__arena_array(c, x->shape.n, sizeof *images);
    if (!images) return NULL;
    for (i = 0; i < x->shape.n; i++) {       /* further batches, joined to it: other images       */
        images[i] = (uint32_t)i;
        if (m->images)
            images[i] = m->images[i % m->n_images] + (uint32_t)(i / m->n_images) * 0x40000000u;
    }
    y = l2l_dropout(c, x, p, &s, images);
    l2l__arena_drop(c, images);
    return y;
}

/* -- the classifiers --------------------------------------------------------------------------- */

/* A channel count under the width multiplier, the nearest multiple of 8: whole vectors of up to 8
   floats, which Winograd's way asks for (l2l__winograd_side). The multiplier is 64 at most, so that
   int has room. */
static int l2l__width(const l2l_model *m, int channels)
{
    int scaled = (int)(m->options.width_multiplier * channels / 8 + 0.5) * 8;
    return scaled < 8 ? 8 : scaled;
}

/* -- cuts. A search by queries, Square above all, asks about points that differ from its best one
   in a small window. The first layers' numbers that do not see it are known: so these layers work
   on a cut around the window, and what they give, their front, is pasted into the best point's. A
   cut begins and ends at the borders of tiles of 4x4 outputs, and is made in the same tiles as the
   whole, or number by number: all that it gives has the same bits. Where that would not be so for a
   cut of that size it grows, and where it is for none, whole images are taken. In a slice all cuts
   are of one size, a batch of smaller images.

   Here for smallcnn: two 3x3 layers without padding and a 2x2 pooling. Output (y,x) of the second
   sees pixels (y,x) .. (y+4,x+4). */
enum { L2L__TILE = 4, L2L__SEEN = 4 };

/* Of each image of a search, by its place, two points and their fronts. One is the best point; a
   look writes the other, whatever was there, and l2l__keep exchanges their roles. So a front is
   always that of its point, also of a slice that is made twice. */
typedef struct l2l__fronts {
    const l2l_inner *in;                     /* whose looks these are                             */
    const struct l2l__kernels *kernels;      /* that made them                                    */
    const int *place;                        /* of the images still in the search                 */
    int64_t pixels, numbers;                 /* of a point, of a front                            */
    l2l_real *point[2], *front[2];
    bool *has[2];                            /* are they there?                                   */
    unsigned char *best;                     /* which of the two                                  */
} l2l__fronts;

/* Are these fronts of this search, by the kernels at hand? Other kernels round otherwise. `in` is
   known by its address: l2l_look, which looks at other points, has a copy of it. */
static bool l2l__fronts_of(const l2l__fronts *f, const l2l_inner *in)
{
    return f && f->in == in && f->kernels == in->context->kernels;
}

/* How many rows, or columns, of `all` tiles see pixels first .. last, and the first of them. Tile t
   sees 4t .. 4t+7: its patch of the first layer's numbers is 6x6. So those that see pixel p are
   ceil((p-7) / 4) = floor((p-4) / 4), or 0, to floor(p/4), of numbers up to all - 1. */
static int l2l__cut_tiles(int first, int last, int all, int *from)
{
    const int to = l2l__at_most(last / L2L__TILE, all - 1);
    *from = l2l__at_most((first > L2L__SEEN ? first - L2L__SEEN : 0) / L2L__TILE, to);
    return to - *from + 1;
}

/* Around what differs between two points: the place, in tiles, of the cut of image i. Returns the
   side that it needs. Bytes are compared, so that NaN is like itself and -0 not like 0. Where
   nothing differs, top = h and bottom = 0 (left, right alike) make the first tile the cut. */
static int l2l__cut_find(l2l__cut *k, int i, const l2l_real *a, const l2l_real *b, l2l_shape s)
{
    const int64_t line = (int64_t)s.w * s.c;
    const size_t one = (size_t)s.c * sizeof *a;
    int top = s.h, bottom = 0, left = s.w, right = 0, high, wide;
    for (int y = 0; y < s.h; y++, a += line, b += line) {
        if (!memcmp(a, b, (size_t)s.w * one)) continue;
        if (top > y) top = y;
        bottom = y;
        for (int x = 0; x < s.w; x++) {
            if (!memcmp(a + (int64_t)x * s.c, b + (int64_t)x * s.c, one)) continue;
            if (left > x) left = x;
            if (right < x) right = x;
        }
    }
    high = l2l__cut_tiles(top, bottom, (s.h - L2L__SEEN) / L2L__TILE, &k->top[i]);
    wide = l2l__cut_tiles(left, right, (s.w - L2L__SEEN) / L2L__TILE, &k->left[i]);
    return high > wide ? high : wide;
}

/* The side of a slice's cuts: 0, whole images, where one's front is not known or cuts would be more
   than half of the plane. `channels` are those between the two layers. */
static int l2l__cut_side(const l2l_context *c, l2l__cut *k, const l2l_tensor *x, int channels)
{
    const l2l__fronts *f = k->fronts;
    const l2l_shape s = x->shape;
    const int th = (s.h - L2L__SEEN) / L2L__TILE, tw = (s.w - L2L__SEEN) / L2L__TILE;
    const int most = th < tw ? th : tw;
    int side = 0;
    /* Only where whole tiles cover the second layer's outputs. */
    if (s.h != th * L2L__TILE + L2L__SEEN || s.w != tw * L2L__TILE + L2L__SEEN) return 0;
    for (int i = 0; i < s.n; i++) {
        const int place = f->place[k->from + i], best = f->best[place];
        int needs;
        if (!f->has[best][place]) return 0;
        needs = l2l__cut_find(k, i, x->data + i * f->pixels, f->point[best] + place * f->pixels, s);
        if (side < needs) side = needs;
    }
    /* Up to a size at which both layers are computed in the way of whole images. */
    while (side <= most && !l2l__same_way(c, s.c, channels, th * L2L__TILE, tw * L2L__TILE,
                                          side * L2L__TILE))
        side++;
    if (side > most || (int64_t)side * side > (int64_t)th * tw / 2) return 0;
    /* Where an image needs less than `side`, its cut has grown: it has to end within the plane. */
    for (int i = 0; i < s.n; i++) {
        k->top[i] = l2l__at_most(k->top[i], th - side);
        k->left[i] = l2l__at_most(k->left[i], tw - side);
    }
    return side;
}

/* What the first layers work on: cuts out of x, or x. `side` tiles of outputs see 4 side + 4 pixels
   each way; those of image i begin at pixel (4 top[i], 4 left[i]). */
static l2l_tensor *l2l__cut_out(l2l_model *m, l2l_tensor *x, int channels)
{
    l2l__cut *k = m->cut;
    const l2l_shape s = x->shape;
    l2l_tensor *y;
    int size;
    if (!k || !(k->side = l2l__cut_side(m->context, k, x, channels))) return x;
    size = k->side * L2L__TILE + L2L__SEEN;
    y = l2l__new(m->context, "cut", l2l_shape_of(s.n, size, size, s.c));
    for (int i = 0; y && i < s.n; i++)
        for (int r = 0; r < size; r++) {
            int64_t row = ((int64_t)i * s.h + k->top[i] * L2L__TILE + r) * s.w;
            memcpy(y->data + ((int64_t)i * size + r) * size * s.c,
                   x->data + (row + k->left[i] * L2L__TILE) * s.c,
                   (size_t)size * (size_t)s.c * sizeof *y->data);
        }
    return y;
}

/* The fronts of the images of x: z, or the best points' with z pasted in. The cut is used up. A
   front is pooled: of a tile's 4x4 outputs 2x2 numbers of each channel are left. It is kept,
   together with x, as that of the point which is not the best one; without memory (y is NULL)
   neither is touched. An image is in one slice only, so no two threads write to one place. */
static l2l_tensor *l2l__cut_paste(l2l_model *m, const l2l_tensor *x, l2l_tensor *z)
{
    const l2l__cut *k = m->cut;
    const int half = L2L__TILE / 2, side = k ? k->side * half : 0;
    l2l_shape s;
    l2l_tensor *y = z;
    m->cut = NULL;
    if (!k || !z) return z;
    s = l2l_shape_of(x->shape.n, (x->shape.h - L2L__SEEN) / 2, (x->shape.w - L2L__SEEN) / 2,
                     z->shape.c);
    if (side) y = l2l__new(m->context, "cut", s);
    for (int i = 0; y && i < s.n; i++) {
        const l2l__fronts *f = k->fronts;
        const int place = f->place[k->from + i], best = f->best[place];
        const size_t bytes = (size_t)f->numbers * sizeof *y->data;
        l2l_real *to = f->front[!best] + place * f->numbers;
        memcpy(to, side ? f->front[best] + place * f->numbers : z->data + i * f->numbers, bytes);
        for (int r = 0; r < side; r++)
            memcpy(to + (((int64_t)k->top[i] * half + r) * s.w + k->left[i] * half) * s.c,
                   z->data + ((int64_t)i * side + r) * side * s.c,
                   (size_t)side * (size_t)s.c * sizeof *to);
        if (side) memcpy(y->data + i * f->numbers, to, bytes);
        memcpy(f->point[!best] + place * f->pixels, x->data + i * f->pixels,
               (size_t)f->pixels * sizeof *to);
        f->has[!best][place] = true;
    }
    return side ? l2l__then(m->context, z, y) : z;
}

/* The 4-layer CNN, TRADES' SmallCNN: 312,202 parameters at width 1. On 28x28:

       conv1  26x26x32     conv2  24x24x32, pooled 12x12x32     conv3  10x10x64
       conv4  8x8x64, pooled 4x4x64     fc1  200 (dropout)     fc2  200     fc3  the logits

   A ReLU behind each but the last, 3x3 kernels without padding. Names are those of TRADES' program.
   The input is lent (l2l__run), which is why no l2l__then drops it behind the first layer. */
static l2l_tensor *l2l__smallcnn(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = m->context;
    l2l_tensor *image = x;
    int a = l2l__width(m, 32), b = l2l__width(m, 64), f = l2l__width(m, 200);
    L2L__UNUSED(user);
    x = l2l__cut_out(m, x, a);
    x = l2l_layer_conv(m, "feature_extractor.conv1", x, a, 3, 1, 0, L2L_RELU);
    x = l2l__then(c, x, l2l_layer_conv(m, "feature_extractor.conv2", x, a, 3, 1, 0,
                                       L2L_RELU | L2L_POOL));
    x = l2l__cut_paste(m, image, x);
    x = l2l__then(c, x, l2l_layer_conv(m, "feature_extractor.conv3", x, b, 3, 1, 0, L2L_RELU));
    x = l2l__then(c, x, l2l_layer_conv(m, "feature_extractor.conv4", x, b, 3, 1, 0,
                                       L2L_RELU | L2L_POOL));
    x = l2l__then(c, x, l2l_layer_linear(m, "classifier.fc1", x, f, L2L_RELU));
    if (m->options.dropout > 0)
        x = l2l__then(c, x, l2l_layer_dropout(m, x, m->options.dropout));
    x = l2l__then(c, x, l2l_layer_linear(m, "classifier.fc2", x, f, L2L_RELU));
    return l2l__then(c, x, l2l_layer_linear(m, "classifier.fc3", x, m->options.classes, L2L_LAST));
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
   layers are counted as PyTorch counts them: convolution, norm, ReLU and pooling each. On 32x32 its
   groups end with 16x16x64, 8x8x128, 4x4x256, 2x2x512 and 1x1x512, and one linear layer
   stands for the original's three. Number `at` is a convolution, at + 1 its norm; the ReLU, at + 2,
   and the pooling, at + 3, have no parameters. */
static l2l_tensor *l2l__vgg16(l2l_model *m, l2l_tensor *x, void *user)
{
    static const short channels[13] = {64, -64, 128, -128, 256, 256, -256, 512, 512, -512, 512, 512,
                                       -512}; /* negative: the last of its group, pooled */
    l2l_context *c = m->context;
    l2l_tensor *first = x;
    int at = 0;
    L2L__UNUSED(user);
    for (int i = 0; i < 13; i++) {
        char conv[24], norm[24];
        bool last = channels[i] < 0;
        l2l_tensor *y;
        l2l__format(conv, sizeof conv, "features.%d", at);
        l2l__format(norm, sizeof norm, "features.%d", at + 1);
        y = l2l__conv_norm(m, conv, norm, x, l2l__width(m, last ? -channels[i] : channels[i]), 3,
                           1, NULL, L2L_RELU | (last ? (unsigned)L2L_POOL : 0));
        x = x == first ? y : l2l__then(c, x, y);
        at += last ? 4 : 3;
    }
    return l2l__then(c, x, l2l_layer_linear(m, "classifier", x, m->options.classes, L2L_LAST));
}

/* A pre-activation block: y = x + conv2(relu(bn2(conv1(a)))), a = relu(bn1(x)); where the shape
   changes, a 1x1 convolution of a replaces x in the sum. Uses x up. bn2 and its ReLU belong to
   conv1's unit, and the sum to conv2's, whose residual r is: x by one reference more, or the
   shortcut, which are dropped alike. A narrow network may keep the channels at stride 2. */
static l2l_tensor *l2l__wrn_block(l2l_model *m, l2l_tensor *x, int channels, int stride)
{
    l2l_context *c = m->context;
    l2l_tensor *a = l2l_layer_batch_norm(m, "bn1", x, L2L_RELU), *t, *r;
    t = l2l__conv_norm(m, "conv1", "bn2", a, channels, 3, stride, NULL, L2L_RELU | L2L_NO_BIAS);
    if (x && x->shape.c == channels && stride == 1) r = l2l__retain(x);
    else r = l2l_layer_conv(m, "convShortcut", a, channels, 1, stride, 0, L2L_NO_BIAS);
    l2l_drop(c, a);
    t = l2l__then(c, t, l2l__conv_norm(m, "conv2", NULL, t, channels, 3, 1, r, L2L_NO_BIAS));
    return l2l__then(c, x, l2l__then(c, r, t));
}

/* WideResNet (Zagoruyko and Komodakis 2016): 16 channels, then three groups of (depth-4)/6 blocks
   with 16, 32 and 64 times the widening factor. 34-10 on 32x32: 32x32x16, five blocks each of
   32x32x160, 16x16x320 and 8x8x640, the mean over the plane, the logits. The first block of groups
   2 and 3 has stride 2. Names are those of TRADES' program. */
static l2l_tensor *l2l__wrn(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = m->context;
    int blocks = (m->options.depth - 4) / 6, group, i;
    L2L__UNUSED(user);
    if (blocks < 1 || m->options.depth != 6 * blocks + 4) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "wrn: depth %d is not 10, 16, 22, 28, 34, ...",
                  m->options.depth);
        return NULL;
    }
    x = l2l_layer_conv(m, "conv1", x, 16, 3, 1, 1, L2L_NO_BIAS);
    for (group = 1; group <= 3; group++)
        for (i = 0; i < blocks; i++) {
            l2l__format(m->scope, sizeof m->scope, "block%d.layer.%d.", group, i);
            x = l2l__wrn_block(m, x, l2l__width(m, 8 << group), group > 1 && i == 0 ? 2 : 1);
        }
    l2l_model_scope(m, "");
    x = l2l__then(c, x, l2l_layer_batch_norm(m, "bn1", x, L2L_RELU));
    x = l2l__then(c, x, l2l_global_average_pool(c, x));
    return l2l__then(c, x, l2l_layer_linear(m, "fc", x, m->options.classes, L2L_LAST));
}

/* A basic block: y = relu(x + bn2(conv2(relu(bn1(conv1(x)))))); where the shape changes, a 1x1
   convolution with batch norm of x replaces x in the sum. Uses x up. */
static l2l_tensor *l2l__resnet_block(l2l_model *m, l2l_tensor *x, int channels, int stride)
{
    l2l_context *c = m->context;
    l2l_tensor *t, *r;
    t = l2l__conv_norm(m, "conv1", "bn1", x, channels, 3, stride, NULL, L2L_RELU | L2L_NO_BIAS);
    if (x && x->shape.c == channels && stride == 1) r = l2l__retain(x);
    else r = l2l__conv_norm(m, "downsample.0", "downsample.1", x, channels, 1, stride, NULL,
                       L2L_NO_BIAS);
    t = l2l__then(c, t, l2l__conv_norm(m, "conv2", "bn2", t, channels, 3, 1, r,
                                       L2L_RELU | L2L_NO_BIAS));
    return l2l__then(c, x, l2l__then(c, r, t));
}

/* ResNet-18 (He et al. 2016): a 7x7 stem and a pooling, then four groups of two blocks. On 224x224:
   112x112x64, pooled 56x56x64, then 56x56x64, 28x28x128, 14x14x256 and 7x7x512, the mean over the
   plane, the logits. */
static l2l_tensor *l2l__resnet18(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = m->context;
    int group;
    L2L__UNUSED(user);
    x = l2l__conv_norm(m, "conv1", "bn1", x, l2l__width(m, 64), 7, 2, NULL, L2L_RELU | L2L_NO_BIAS);
    x = l2l__then(c, x, l2l_max_pool(c, x, 3, 2, 1));
    for (group = 1; group <= 4; group++)
        for (int i = 0; i < 2; i++) {
            l2l__format(m->scope, sizeof m->scope, "layer%d.%d.", group, i);
            x = l2l__resnet_block(m, x, l2l__width(m, 32 << group), group > 1 && i == 0 ? 2 : 1);
        }
    l2l_model_scope(m, "");
    x = l2l__then(c, x, l2l_global_average_pool(c, x));
    return l2l__then(c, x, l2l_layer_linear(m, "fc", x, m->options.classes, L2L_LAST));
}

/* -- models ------------------------------------------------------------------------------------ */

/* `width` is the multiplier here. A name that is not known leaves `forward` NULL and sizes 0, which
   l2l__model_options_ok refuses: they are the caller's to set. */
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
        if (arch && strcmp(arch, known[i].name) == 0) {
            o.forward = known[i].forward;
            o.channels = known[i].channels;
            o.height = o.width = known[i].size;
            o.classes = known[i].classes;
            o.width_multiplier = known[i].width;
            o.depth = known[i].depth;
        }
    return o;
}

/* The names of the first are those in files since the first version: there the multiplier is
   "width", and the images' width "image_width". */
enum { L2L__MOST_SIZE = 1 << 24 };           /* of an axis: sums of a few are still an int        */
static const l2l__field l2l__model_fields[] = {
    L2L__TEXT(l2l_model_options, arch, L2L__FILED | L2L__AGREED),
    L2L__INT(l2l_model_options, classes, 2, L2L__MOST_SIZE, L2L__FILED | L2L__AGREED),
    L2L__MEMBER(l2l_model_options, width_multiplier, "width_multiplier", 'r',
                L2L__ABOVE | L2L__FILED | L2L__AGREED, 0, 64, NULL, NULL, "width"),
    L2L__INT(l2l_model_options, depth, 0, 10000, L2L__FILED),
    L2L__INT(l2l_model_options, channels, 1, L2L__MOST_SIZE, L2L__FILED),
    L2L__INT(l2l_model_options, height, 1, L2L__MOST_SIZE, L2L__FILED),
    L2L__MEMBER(l2l_model_options, width, "width", 'i', L2L__FILED, 1, L2L__MOST_SIZE, NULL, NULL,
                "image_width"),
    L2L__BOOL(l2l_model_options, concurrent, L2L__FREE),
    L2L__NUMBER(l2l_model_options, dropout, 0, 1, L2L__BELOW),
    L2L__INT(l2l_model_options, normalise, 0, 4, 0),
    L2L__LIST(l2l_model_options, mean, 0, 0, L2L__ANY), /* as many as `normalise` says:           */
    L2L__LIST(l2l_model_options, deviation, 0, 0, L2L__ANY), /* l2l__normal                       */
    L2L__NUMBER(l2l_model_options, last_layer_deviation, 0, 1e6, L2L__BELOW | L2L__FREE),
    L2L__SEED(l2l_model_options, seed, L2L__FREE),
    L2L__END};

/* What a channel can be normalised by, in l2l_real too: 1 / deviation is above 0 and finite. */
static bool l2l__normal(double mean, double deviation)
{
    return fabs(mean) <= (double)FLT_MAX && deviation >= (double)FLT_MIN &&
           deviation <= (double)FLT_MAX && fabs(mean) <= (double)FLT_MAX * deviation;
}

static bool l2l__model_options_ok(l2l_context *c, const l2l_model_options *o)
{
    const l2l_status bad = L2L_ERROR_ARGUMENT;
    if (!c || c->status) return false;
    if (!o)
        return l2l__fail(c, bad, "l2l_model_create: the options are NULL, and there is no default "
                         "architecture: begin with l2l_model_default(\"smallcnn\")");
    if (!o->arch || strlen(o->arch) >= 32 || !l2l__is_utf8(o->arch))
        return l2l__fail(c, bad, "l2l_model_create: arch must be a name of at most 31 characters "
                         "(bytes of UTF-8)");
    if (!o->forward)
        return l2l__fail(c, bad, "l2l_model_create: '%s' is not a known architecture (known: "
                         "smallcnn, vgg16, wrn, resnet18); for a network of your own set "
                         "`forward`", o->arch);
    if (!l2l__options_ok(c, "l2l_model_create", l2l__model_fields, o, 0)) return false;
    if (o->dropout > 0 && (o->forward == l2l__vgg16 || o->forward == l2l__wrn ||
                           o->forward == l2l__resnet18))
        return l2l__fail(c, bad, "l2l_model_create: dropout %g, but '%s' has none; of the known "
                         "networks smallcnn has", o->dropout, o->arch);
    if (o->normalise && o->normalise != o->channels)
        return l2l__fail(c, bad, "l2l_model_create: normalise %d must be 0 or the number of "
                         "channels (%d, at most 4)", o->normalise, o->channels);
    for (int i = 0; i < o->normalise; i++)
        if (!l2l__normal(o->mean[i], o->deviation[i]))
            return l2l__fail(c, bad, "l2l_model_create: mean %g of channel %d is not finite, or "
                             "deviation %g not above 0 and finite, or their ratio no float",
                             o->mean[i], i, o->deviation[i]);
    return true;
}

/* Input normalisation is part of the model: (x - mean) / deviation, per channel, as x scale + shift
   with scale = 1 / deviation and shift = -mean / deviation. It is a node, so that gradients are
   those of the pixels in [0,1], and attacks need not know of it. */
static l2l_tensor *l2l__normalise(l2l_model *m, l2l_tensor *x)
{
    l2l_context *c = m->context;
    l2l_shape s = l2l__channels(m->options.channels);
    l2l_tensor *scale, *shift;
    if (!m->options.normalise) return x;
    scale = l2l_zeros(c, s);
    shift = l2l_zeros(c, s);
    for (int k = 0; scale && shift && k < s.c; k++) {
        scale->data[k] = (l2l_real)(1 / m->options.deviation[k]);
        shift->data[k] = (l2l_real)(-m->options.mean[k] / m->options.deviation[k]);
    }
    return l2l__then(c, scale, l2l__then(c, shift, l2l__scale_shift(c, x, scale, shift, NULL,
                                                                    false)));
}

/* forward(m, x, user), a run from the first layer on; NULL and an error if it fails. The function
   does not own x: it is lent. */
static l2l_tensor *l2l__run(l2l_model *m, l2l_tensor *x, l2l_mode mode, l2l_forward forward,
                            void *user)
{
    l2l_context *c = m->context;
    l2l_tensor *y;
    char scope[sizeof m->scope];
    bool lent, inside = m->running;          /* of another forward function: that one goes on     */
    if (mode != L2L_EVALUATE && mode != L2L_TRAIN) {
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_forward: mode %d is neither L2L_EVALUATE (0) "
                  "nor L2L_TRAIN (1)", (int)mode);
        return NULL;
    }
    if (!l2l__arithmetic_ok(c)) return NULL;
    /* An inner run has a scope of its own, but goes on counting dropout layers: other draws. */
    m->mode = mode;
    if (!inside) m->draws = 0;
    m->cursor = 0;
    memcpy(scope, m->scope, sizeof scope);
    m->scope[0] = 0;
    m->running = true;
    lent = l2l__lend(x, true);
    y = forward(m, x, user);
    l2l__lend(x, lent);
    m->running = inside;
    memcpy(m->scope, scope, sizeof scope);
    /* The first error stands: this one is for a function that set none. */
    if (!y)
        l2l__fail(c, L2L_ERROR_CALLBACK, "the forward function of %s returned NULL", m->arch);
    return !c->status && l2l__ready(c, "what the forward function returned", y) ? y : NULL;
}

static l2l_tensor *l2l__forward_sliced(l2l_model *m, const l2l_tensor *x, l2l_mode mode);

/* f_theta(x): in slices where nothing is recorded, else as one run of the forward function. (Of a
   slice this is called again; l2l__sliceable keeps it from slicing that.) */
L2LADVDEF l2l_tensor *l2l_model_forward(l2l_model *m, l2l_tensor *x, l2l_mode mode)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *o;
    const char *what = "the logits of the forward function";
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
    if ((logits = l2l__forward_sliced(m, x, mode)) != NULL)
        return l2l__outer_logits_ok(m, logits) ? logits : NULL;
    input = l2l__normalise(m, x);
    logits = input ? l2l__run(m, input, mode, o->forward, o->user) : NULL;
    if (input != x && input != logits) l2l_drop(c, input);
    if (!logits || !l2l__equal(c, what, logits->shape,
                               l2l_shape_of(x->shape.n, 1, 1, o->classes))) {
        l2l_release(c, mark);
        return NULL;
    }
    return l2l__outer_logits_ok(m, logits) ? logits : NULL;
}

L2LADVDEF l2l_pass l2l_model_pass(const l2l_model *m)
{
    l2l_pass p = L2L__ZERO;
    if (!m) return p;
    p.mode = m->mode;
    p.frozen = m->frozen || m->creating;
    p.stream = m->stream;
    return p;
}

/* Mode, `frozen` and stream are as before behind it: a forward function may run parts otherwise. */
L2LADVDEF l2l_tensor *l2l_model_run(l2l_model *m, l2l_tensor *x, const l2l_pass *p)
{
    l2l_context *c = m ? m->context : NULL;
    l2l_pass before = l2l_model_pass(m), plain = before;
    l2l_mark mark;
    l2l_tensor *y;
    bool frozen;
    if (!c || !l2l__ready(c, "l2l_model_run", x)) return NULL;
    plain.mode = L2L_EVALUATE;
    if (!p) p = &plain;
    mark = l2l_mark_here(c);
    frozen = m->frozen;
    m->frozen = p->frozen;
    m->stream = p->stream;
    y = p->forward ? l2l__run(m, x, p->mode, p->forward, p->user)
                   : l2l_model_forward(m, x, p->mode);
    m->mode = before.mode;
    m->frozen = frozen;
    m->stream = before.stream;
    if (!y) l2l_release(c, mark);
    return y;
}

/* A pass that leaves the model as it was, in training mode too: no running statistics move. */
static l2l_tensor *l2l__forward_frozen(l2l_model *m, l2l_tensor *x, l2l_mode mode)
{
    l2l_pass p = l2l_model_pass(m);
    p.mode = mode;
    p.frozen = true;
    return l2l_model_run(m, x, &p);
}

/* The first run, on one image of zeros, makes the parameters. From a file the known networks need
   only its outline; one of your own may read its numbers. */
static bool l2l__create_parameters(l2l_model *m)
{
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    bool was = l2l_set_recording(c, false);
    int i;
    l2l_shape s = l2l_shape_of(1, m->options.height, m->options.width, m->options.channels);
    bool outline = m->from && l2l__known(m);
    l2l_tensor *x = l2l_zeros(c, outline ? l2l__channels(1) : s), *one = x;
    if (x && outline) {
        c->outline = one;
        l2l__outlined(c, one, s, &x);
    }
    m->creating = true;
    if (x) l2l_model_forward(m, x, L2L_EVALUATE);
    m->creating = false;
    c->outline = NULL;
    /* No run yet for l2l__packed.used, by which large weights are kept from the second run on. */
    for (i = 0; i < m->n_slots; i++) l2l__touch(m, i); /* a run that does not count as one */
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return !c->status;
}

/* A model without parameters yet, with a copy of its name. Means and deviations beyond `normalise`
   are 0: settings are compared by a digest of all four (l2l__field_get). */
static l2l_model *l2l__model_begin(l2l_context *c, const l2l_model_options *o)
{
    l2l_model *m = l2l__model_options_ok(c, o) ? (l2l_model *)l2l_allocate(c, sizeof *m) : NULL;
    if (!m) return NULL;
    m->context = c;
    m->options = *o;
    memcpy(m->arch, o->arch, strlen(o->arch) + 1);
    m->options.arch = m->arch;
    for (int i = o->normalise; i < 4; i++) m->options.mean[i] = m->options.deviation[i] = 0;
    return m;
}

/* From a file: its parameters are those that the file has, still zero. */
static l2l_model *l2l__model_make(l2l_context *c, const l2l_model_options *o,
                                  const struct l2l__bundle *from)
{
    l2l_model *m = l2l__model_begin(c, o);
    if (!m) return NULL;
    m->from = from;
    bool ok = l2l__create_parameters(m);
    m->from = NULL;
    if (ok) return m;
    l2l_model_free(m);
    return NULL;
}

L2LADVDEF l2l_model *l2l_model_create(l2l_context *c, const l2l_model_options *o)
{
    return l2l__model_make(c, o, NULL);
}

/* Does a tensor show a parameter of the model? One has no references, and its p is the model. */
static bool l2l__shows_of(const l2l_tensor *x, const l2l_model *m)
{
    for (; x; x = x->base)
        if (x->references == 0 && x->p == m) return true;
    return false;
}

/* The tape, or a view in the arena, may still need a model. One behind callbacks has no parameters,
   but its nodes need the description in it (l2l__external_forward). */
static bool l2l__model_needed(const l2l_model *m)
{
    const l2l_context *c = m->context;
    for (int i = 0; i < c->tape_length; i++) {
        if (c->tape[i]->p == &m->external) return true;
        for (int j = 0; j < 8; j++)
            if (l2l__shows_of(c->tape[i]->in[j], m)) return true;
    }
    for (l2l__block *b = c->newest; b; b = b->older)
        if (b->is_view && l2l__shows_of((l2l_tensor *)(void *)((char *)b + L2L__BLOCK), m))
            return true;
    return false;
}

static void l2l__model_destroy(l2l_model *m)
{
    for (int i = 0; i < m->n_slots; i++) l2l__free_slot(m->context, m->slot[i]);
    l2l_free(m->context, m->slot);
    l2l_free(m->context, m);
}

/* Those that were freed while the tape needed them, and that it needs no longer. */
static void l2l__bury(l2l_context *c)
{
    for (l2l_model **at = &c->freed, *m; (m = *at) != NULL;)
        if (l2l__model_needed(m)) at = &m->next;
        else {
            *at = m->next;
            l2l__model_destroy(m);
        }
}

/* Destroyed at once, unless it is needed. l2l_release asks again, as does l2l_context_free. */
L2LADVDEF void l2l_model_free(l2l_model *m)
{
    if (!m) return;
    m->next = m->context->freed;
    m->context->freed = m;
    l2l__bury(m->context);
}

L2LADVDEF const l2l_model_options *l2l_model_info(const l2l_model *m)
{
    return m ? &m->options : NULL;
}

L2LADVDEF bool l2l_model_copy(l2l_model *to, const l2l_model *from)
{
    l2l_context *c = to ? to->context : NULL;
    if (!c || c->status) return false;
    if (!from) return l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_copy: from is NULL");
    if (to->n_slots != from->n_slots)
        return l2l__fail(c, L2L_ERROR_MISMATCH, "l2l_model_copy: %d parameters against %d",
                         to->n_slots, from->n_slots);
    /* All are compared before the first one is copied. */
    for (int i = 0; i < to->n_slots; i++)
        if (strcmp(to->slot[i]->name, from->slot[i]->name) != 0 ||
            !l2l__same(to->slot[i]->value.shape, from->slot[i]->value.shape))
            return l2l__fail(c, L2L_ERROR_MISMATCH, "l2l_model_copy: '%s' and '%s' differ in name "
                             "or shape", to->slot[i]->name, from->slot[i]->name);
    if (from->options.normalise && to->options.channels != from->options.channels)
        return l2l__fail(c, L2L_ERROR_MISMATCH, "l2l_model_copy: %d channels against the %d of a "
                         "model that normalises them", to->options.channels,
                         from->options.channels);
    for (int i = 0; i < to->n_slots; i++) {
        memcpy(to->slot[i]->value.data, from->slot[i]->value.data,
               (size_t)l2l_count(to->slot[i]->value.shape) * sizeof(l2l_real));
        l2l__touch(to, i);
    }
    /* What a network makes of its parameters depends on what its input is normalised by. */
    to->options.normalise = from->options.normalise;
    memcpy(to->options.mean, from->options.mean, sizeof to->options.mean);
    memcpy(to->options.deviation, from->options.deviation, sizeof to->options.deviation);
    return true;
}

/* Slot by slot: the forward function does not run, and nothing is drawn. */
L2LADVDEF l2l_model *l2l_model_clone(l2l_context *c, const l2l_model *m)
{
    l2l_model *clone = l2l__given(c, "l2l_model_clone", "the model", m)
                           ? l2l__model_begin(c, &m->options) : NULL;
    if (!clone) return NULL;
    for (int i = 0; i < m->n_slots && !c->status; i++) {
        const l2l__slot *p = m->slot[i];
        l2l__add_slot(clone, p->name, p->value.shape, p->rank, p->trainable);
    }
    clone->mode_matters = m->mode_matters;
    clone->external = m->external;
    if (!c->status && l2l_model_copy(clone, m)) return clone;
    l2l_model_free(clone);
    return NULL;
}

/* -- depth first --------------------------------------------------------------------------------
   In evaluation mode an image gets the same bits in any batch, so nothing forces a pass to carry
   all images through one layer after another, with the threads waiting for each other behind each.
   Instead a slice of a few images goes through the whole network, and back, while its activations
   are in the cache, and the threads take slice after slice: one that the system puts aside holds
   back a slice and nothing else.

   The caller's thread works in the caller's context, every other one in a lane: a context and a
   model of its own over the caller's parameters and their packed copies, which all only read then.
   A lane's arena is a piece of the caller's and cannot grow, so that the allocator is asked by the
   caller's thread alone. Where something is amiss, a thread takes no further slice, whatever it
   was: a weight that is not packed yet, too little room, a number that is not finite. Then the
   caller takes the first slice alone, which packs the weights and shows how much room one needs,
   and all take the others. If that fails, too, no slice counts: the pass is made as a whole, which
   finds the error, if it is one, that it would have found without slices. */
typedef bool l2l__slice_work(l2l_model *m, void *with, int from, int n);

typedef struct l2l__slices {                 /* of n images `count`, which differ by one at most  */
    l2l_model *model;
    l2l__slice_work *work;
    void *with;
    int n, count;
} l2l__slices;

typedef struct l2l__lane {
    l2l_context context;
    l2l_model model;
} l2l__lane;

/* Slice i: images n i / count to n (i+1) / count - 1. */
static bool l2l__slice(const l2l__slices *s, l2l_model *m, int i)
{
    int from = (int)((int64_t)s->n * i / s->count), to = (int)((int64_t)s->n * (i + 1) / s->count);
    return s->work(m, s->with, from, to - from);
}

/* So many slices for n images: of 8 each or, where every slice would have to fetch weights that
   outweigh its activations, of 32. For two or four threads alike. Trainable numbers per pixel tell
   which: 398 of smallcnn, 223 of resnet18; 14,383 of vgg16, 45,079 of wrn. Rounding up makes no
   slice larger than `most`, for whose images l2l__cut has room, and none empty: 3 slices are of 17
   images at least. */
static int l2l__slice_count(const l2l_model *m, int n)
{
    int64_t pixels = (int64_t)m->options.height * m->options.width;
    int most = l2l_model_size(m) / pixels < 4096 ? 8 : L2L__IMAGES, count = (n - 1) / most + 1;
    return count > 2 ? (count + 3) / 4 * 4 : count;
}

/* The allocator of a lane: there is no memory but its arena's. */
static void *l2l__lane_allocate(void *user, size_t size)
{
    L2L__UNUSED(user);
    L2L__UNUSED(size);
    return NULL;
}

static void l2l__lane_release(void *user, void *memory)
{
    L2L__UNUSED(user);
    L2L__UNUSED(memory);
}

/* The model of a lane in the caller's arena; NULL and an error if there is no room. It has all that
   is the model's, parameters by pointer, but a scope, a mode, a look-up and counts of its own. Its
   arena is one chunk: behind a header of L2L__ALIGN (l2l__arena_add) 9/8 to 17/8 of what a slice
   took, by lane_room, and 128 KiB. It records only if the slice's work says so. */
static l2l_model *l2l__lane_make(l2l_model *m)
{
    l2l_context *c = m->context, *own;
    l2l__lane *lane = (l2l__lane *)l2l__arena(c, sizeof *lane);
    size_t room = m->slice_bytes / (8 * L2L__ALIGN) * L2L__ALIGN * (size_t)(9 + m->lane_room) +
                  L2L__CHUNK / 8;
    void *chunk = l2l__arena(c, room + L2L__ALIGN);
    l2l_tensor **tape = (l2l_tensor **)l2l__arena_array(c, c->tape_capacity, sizeof *tape);
    if (c->status) return NULL;
    memset(lane, 0, sizeof *lane);
    own = &lane->context;
    own->allocator.allocate = l2l__lane_allocate;
    own->allocator.release = l2l__lane_release;
    own->threads = 1;
    own->threads_looked_at = true;
    own->cpu = c->cpu;
    own->kernels = c->kernels;
    own->tape = tape;
    own->tape_capacity = c->tape_capacity;
    own->caller = c;
    l2l__arena_add(own, chunk, room);
    lane->model = *m;
    lane->model.context = own;
    return &lane->model;
}

/* Now; where there is no such clock, always 0. */
static l2l__clock l2l__now(void)
{
    l2l__clock t = {0, 0};
#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__)) && !defined(L2LADV_NO_POSIX)
    t.wall = omp_get_wtime();
    t.cpu = (double)clock() / CLOCKS_PER_SEC;
#endif
    return t;
}

/* How many threads the system lets run at once, of the `busy` that had work in a run. Where
   programs share the cores, threads of one are put onto the same core, and those that wait at a
   barrier burn the time that the last one needs: fewer get more done. The clock of a process lags
   by up to a tick, 4 ms, for each of its threads, so that runs are counted together, from the first
   one's begin to the last one's end, up to 50 ms in all; what was used between them, by one thread,
   is left out. */
static void l2l__count_cores(l2l_context *c, double busy, l2l__clock from, l2l__clock to)
{
    l2l__core_count *k = &c->core_count;
    const double run = to.wall - from.wall, gap = from.wall - k->last.wall;
    double used = from.cpu - k->last.cpu, cores;
    /* Count anew, or go on. One thread works in a gap, so what it seems to use beyond it is lag. */
    if (gap > run) {                         /* long after the last one                           */
        k->first = from;
        k->runs = k->busy = k->between = used = 0;
    }
    k->between += used < 0 ? 0 : used < gap ? used : gap;
    k->last = to;
    k->runs += run;
    k->busy += busy * run;
    if (k->runs < 0.05 || from.cpu < 0) return; /* too little to tell                             */
    /* Seconds of cpu by seconds of wall: cores that ran. If they are at most 3/4 of the threads
       that had work, there are too few from now on (`seen`). last.wall = 0: the next run counts
       anew. */
    cores = (to.cpu - k->first.cpu - k->between) / k->runs;
    k->seen = cores <= 0.75 * k->busy / k->runs ? to.wall : 0;
    k->cores = cores < 1 ? 1 : (int)(cores + 0.25);
    k->last.wall = 0;
}

/* How many threads to wake from now on, 0 for all: `lanes` for slices, `workers` for a kernel's
   loop. With all threads slices count cores again, so what was seen holds for half a second there;
   loops never count, and it holds for five. Both stand until the next call, so that those threads
   that will work can be looked at (l2l__arithmetic_ok). */
static void l2l__choose_threads(l2l_context *c)
{
    l2l__core_count *k = &c->core_count;
    double since = k->seen > 0 ? l2l__now().wall - k->seen : 5;
    k->lanes = since < 0.5 ? k->cores : 0;
    k->workers = since < 5 ? k->cores : 0;
}

static int l2l__fewer(const l2l_context *c, int threads)
{
    return threads > 0 && threads < c->threads ? threads : c->threads;
}

/* Slices from number `taken` on, by all threads; what the first one that stopped says. A lane that
   lacks room, for it is not always in one place, gets more the next time. While they run,
   c->caller says that parameters and packed copies are only read, and c->threads is 1: a slice's
   kernels wake nobody. The lanes are older than any slice's mark: when the caller's thread releases
   what its slice took, they stay. */
static l2l_status l2l__run_lanes(const l2l__slices *s, int taken)
{
    l2l_model *m = s->model, **model;
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    const int left = s->count - taken, threads = c->threads;
    int workers = l2l__fewer(c, c->core_count.lanes), i;
    const bool fewer = workers < threads;
    l2l_status status;
    const l2l__clock from = l2l__now();
    if (workers > left) workers = left;
    model = (l2l_model **)l2l__arena_array(c, workers, sizeof *model);
    for (i = 0; model && i < workers; i++) model[i] = i ? l2l__lane_make(m) : m;
    if (!c->status) {
        c->caller = c;
        c->threads = 1;
        L2L__PARALLEL(workers)
        for (i = 0; i < workers; i++) {      /* the caller's thread has number 0                  */
            int mine = l2l__next(&taken);
            while (mine < s->count && l2l__slice(s, model[i], mine)) mine = l2l__next(&taken);
        }
        c->caller = NULL;
        c->threads = threads;
    }
    status = c->status;
    for (i = 1; i < workers && !status; i++) status = model[i]->context->status;
    /* Threads busy on average: `left` slices in ceil(left / workers) rounds. */
    if (!fewer && workers > 1 && !status)    /* a lane that lacked room did not work              */
        l2l__count_cores(c, (double)left / ((left - 1) / workers + 1), from, l2l__now());
    if (status == L2L_ERROR_MEMORY && m->lane_room < 8) m->lane_room++;
    l2l_error_clear(c);
    l2l_release(c, mark);
    return status;
}

/* The first slice in the caller's context alone, its kernels by all threads. What it takes at once
   is the arena's peak counted from here; the larger of both peaks is put back. */
static bool l2l__first_slice(const l2l__slices *s)
{
    l2l_context *c = s->model->context;
    const size_t before = c->arena_live, kept = c->arena_peak;
    bool ok;
    c->arena_peak = before;
    c->slicing = true;
    ok = l2l__slice(s, s->model, 0);
    c->slicing = false;
    if (c->arena_peak - before > s->model->slice_bytes)
        s->model->slice_bytes = c->arena_peak - before;
    if (kept > c->arena_peak) c->arena_peak = kept;
    return ok;
}

/* All slices, by several threads. Where lanes lack room they are given more, up to twice what the
   first slice took and a little. A pass that lacks room even so is made as a whole, in the caller's
   arena. */
static bool l2l__run_slices(const l2l__slices *s)
{
    l2l_status status;
    int room;
    if (s->model->slice_bytes && !l2l__run_lanes(s, 0)) return true;
    if (!l2l__first_slice(s)) return false;
    do {
        room = s->model->lane_room;
        status = l2l__run_lanes(s, 1);
    } while (status == L2L_ERROR_MEMORY && s->model->lane_room > room);
    return status == L2L_OK;
}

/* May n images go through the model in slices, and are there enough for all threads? Not within a
   slice (`caller`, `slicing`) or a run, which go on in this context; not where a batch is more than
   its images; and a forward function of one's own has to be fit for several threads. */
static bool l2l__sliceable(const l2l_model *m, l2l_mode mode, int n)
{
    const l2l_context *c = m->context;
    const int count = l2l__slice_count(m, n);
    return count > 1 && count >= c->threads && !c->status && !c->caller && !c->slicing &&
           !m->creating && !m->running && (mode == L2L_EVALUATE || !m->mode_matters) &&
           (m->options.concurrent || l2l__known(m));
}

/* work(m, with, from, n) for slices of n images: a pass in that mode over each. True if all were
   made; false, as if none had been, if the pass is to be made as a whole: without an error, but
   that of l2l__arithmetic_ok, which the whole pass would meet as well. */
static bool l2l__in_slices(l2l_model *m, l2l_mode mode, int n, l2l__slice_work *work, void *with)
{
    l2l_context *c = m->context;
    l2l__slices s;
    int i;
    bool ok = true;
    s.model = m;
    s.work = work;
    s.with = with;
    s.n = n;
    s.count = l2l__slice_count(m, n);
    if (!l2l__sliceable(m, mode, n) || !l2l__arithmetic_ok(c)) return false;
    if (c->threads == 1) {
        c->slicing = true;
        for (i = 0; ok && i < s.count; i++) ok = l2l__slice(&s, m, i);
        c->slicing = false;
    } else {
        ok = l2l__run_slices(&s);
    }
    if (!ok) l2l_error_clear(c);
    return ok;
}

/* A pass that records nothing: its logits, from tensors. Pieces of those, by l2l__images_of, belong
   to no context, so that any lane may take them. */
typedef struct l2l__forwarded {
    const l2l_tensor *x;
    l2l_tensor *logits;
    l2l_mode mode;
} l2l__forwarded;

static bool l2l__forward_slice(l2l_model *m, void *with, int from, int n)
{
    const l2l__forwarded *all = (const l2l__forwarded *)with;
    l2l_mark mark = l2l_mark_here(m->context);
    l2l_tensor x = l2l__images_of(all->x, from, n), to = l2l__images_of(all->logits, from, n);
    l2l_tensor *z = l2l_model_forward(m, &x, all->mode);
    if (z) memcpy(to.data, z->data, (size_t)l2l_count(to.shape) * sizeof *to.data);
    l2l_release(m->context, mark);
    return z != NULL;
}

/* NULL, with no more errors than before, if the pass is to be made as a whole. */
static l2l_tensor *l2l__forward_sliced(l2l_model *m, const l2l_tensor *x, l2l_mode mode)
{
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    l2l__forwarded all;
    if (c->recording || !l2l__sliceable(m, mode, x->shape.n)) return NULL;
    all.x = x;
    all.mode = mode;
    all.logits = l2l_zeros(c, l2l_shape_of(x->shape.n, 1, 1, m->options.classes));
    /* Older than the marks of slices in this context, which therefore leave the logits. */
    if (all.logits && l2l__in_slices(m, mode, x->shape.n, l2l__forward_slice, &all))
        return all.logits;
    l2l_release(c, mark);
    return NULL;
}

/* The same from arrays, and gradients. */
typedef struct l2l__arrays {                 /* images, gradient: NxCxHxW                         */
    const l2l_real *images;
    const int *labels;
    l2l_real *logits, *loss, *gradient;      /* what is NULL is not wanted                        */
} l2l__arrays;

/* One pass there, and one back if the gradient is wanted: of the sum of the images' losses. */
static bool l2l__arrays_slice(l2l_model *m, void *with, int from, int n)
{
    const l2l__arrays *all = (const l2l__arrays *)with;
    const l2l_model_options *o = &m->options;
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    int64_t at = from * l2l__image_size(o);
    bool was = l2l_set_recording(c, all->gradient != NULL), ok;
    l2l_tensor *x = l2l_from_nchw(c, all->images + at,
                                  l2l_shape_of(n, o->height, o->width, o->channels));
    l2l_tensor *z = x ? l2l_model_forward(m, x, L2L_EVALUATE) : NULL, *dx;
    l2l_tensor *losses = z && all->labels ? l2l_cross_entropy(c, z, all->labels + from) : NULL;
    if (z && all->logits)
        memcpy(all->logits + (int64_t)from * o->classes, z->data,
               (size_t)n * (size_t)o->classes * sizeof *z->data);
    if (losses && all->loss)
        memcpy(all->loss + from, losses->data, (size_t)n * sizeof *losses->data);
    ok = all->labels ? losses != NULL : z != NULL;
    if (ok && all->gradient)
        ok = l2l_grad(c, l2l_sum(c, losses), &x, 1, &dx, L2L_FREE_GRAPH) &&
             l2l_to_nchw(c, dx, all->gradient + at);
    l2l_set_recording(c, was);
    l2l_release(c, mark);
    return ok;
}

/* In slices, or else in batches of 100, which bound the memory. What slices wrote before one failed
   is written again. */
static bool l2l__arrays_run(l2l_model *m, const char *who, int n, l2l__arrays *all)
{
    l2l_context *c = m->context;
    if (n < 0) return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images", who, n);
    if (n > 0 && !l2l__given(c, who, "images", all->images)) return false;
    c->threads_looked_at = false;
    if (n > 0 && l2l__in_slices(m, L2L_EVALUATE, n, l2l__arrays_slice, all)) return true;
    for (int i = 0, batch; i < n && !c->status; i += batch) {
        batch = l2l__at_most(100, n - i);
        l2l__arrays_slice(m, all, i, batch);
    }
    return !c->status;
}

L2LADVDEF bool l2l_model_logits(l2l_model *m, const l2l_real *images, int n, l2l_real *logits)
{
    l2l__arrays all;
    if (!m || m->context->status) return false;
    memset(&all, 0, sizeof all);
    all.images = images;
    all.logits = logits;
    return (n < 1 || l2l__given(m->context, "l2l_model_logits", "logits", logits)) &&
           l2l__arrays_run(m, "l2l_model_logits", n, &all);
}

L2LADVDEF bool l2l_model_gradient(l2l_model *m, const l2l_real *images, const int *labels, int n,
                                  l2l_real *loss, l2l_real *gradient)
{
    const char *who = "l2l_model_gradient";
    l2l__arrays all;
    if (!m || m->context->status) return false;
    memset(&all, 0, sizeof all);
    all.images = images;
    all.labels = labels;
    all.loss = loss;
    all.gradient = gradient;
    return (n < 1 || (l2l__given(m->context, who, "labels", labels) &&
                      l2l__images_ok(m->context, who, &m->options, NULL, labels, n))) &&
           l2l__arrays_run(m, who, n, &all);
}

L2LADVDEF int l2l_model_parameters(const l2l_model *m) { return m ? m->n_slots : 0; }

L2LADVDEF l2l_parameter l2l_model_parameter(const l2l_model *m, int i)
{
    l2l_parameter p;
    memset(&p, 0, sizeof p);
    if (!m || i < 0 || i >= m->n_slots) return p;
    p.name = m->slot[i]->name;
    p.value = &m->slot[i]->value;
    p.rank = m->slot[i]->rank;
    p.trainable = m->slot[i]->trainable;
    l2l__file_shape(p.value->shape, p.rank, p.shape);
    return p;
}

L2LADVDEF int64_t l2l_model_size(const l2l_model *m)
{
    int64_t n = 0;
    for (int i = 0; m && i < m->n_slots; i++)
        if (m->slot[i]->trainable) n += l2l_count(m->slot[i]->value.shape);
    return n;
}

/* Is there a parameter i? No model, or an error before, is no new error. */
static bool l2l__slot_number(const l2l_model *m, int i)
{
    if (!m || m->context->status) return false;
    return (i >= 0 && i < m->n_slots) ||
           l2l__fail(m->context, L2L_ERROR_ARGUMENT, "parameter %d of %d", i, m->n_slots);
}

L2LADVDEF bool l2l_parameter_to_file(const l2l_model *m, int i, const l2l_tensor *x,
                                     l2l_real *values)
{
    static const char who[] = "l2l_parameter_to_file";
    if (!l2l__slot_number(m, i) || !l2l__given(m->context, who, "values", values) ||
        !l2l__ready(m->context, who, x) ||
        !l2l__equal(m->context, who, x->shape, m->slot[i]->value.shape))
        return false;
    for (int64_t k = 0; k < l2l_count(x->shape); k++)
        values[k] = x->data[l2l__file_place(x->shape, k)];
    return true;
}

L2LADVDEF bool l2l_parameter_get(const l2l_model *m, int i, l2l_real *values)
{
    return l2l__slot_number(m, i) &&
           l2l__given(m->context, "l2l_parameter_get", "values", values) &&
           l2l_parameter_to_file(m, i, &m->slot[i]->value, values);
}

L2LADVDEF bool l2l_parameter_set(l2l_model *m, int i, const l2l_real *values)
{
    if (!l2l__slot_number(m, i) || !l2l__given(m->context, "l2l_parameter_set", "values", values))
        return false;
    l2l_tensor *x = &m->slot[i]->value;
    for (int64_t k = 0; k < l2l_count(x->shape); k++)
        x->data[l2l__file_place(x->shape, k)] = values[k];
    l2l__touch(m, i);
    return true;
}

L2LADVDEF void l2l_model_changed(l2l_model *m)
{
    for (int i = 0; m && i < m->n_slots; i++) l2l__touch(m, i);
}

/* Text at `at`, cut to the capacity. Returns where it would end uncut, from where the next one goes
   on, perhaps beyond the capacity: the last one returns the length of the whole. */
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

/* "64x32" for a shape of that rank, with "x" between its sizes. */
static const char *l2l__shape_text(char text[200], const int64_t *shape, int rank,
                                   const char *between)
{
    size_t n = 0;
    int i;
    for (text[0] = 0, i = 0; i < rank && i < 8; i++)
        n = l2l__append(text, 200, n, "%s%z", i ? between : "", shape[i]);
    if (rank > 8) l2l__append(text, 200, n, "%s...", between);
    return text;
}

L2LADVDEF size_t l2l_model_summary(const l2l_model *m, char *text, size_t capacity)
{
    const l2l_model_options *o = m ? &m->options : NULL;
    size_t at;
    if (!text) capacity = 0;
    if (!m) return l2l__append(text, capacity, 0, "no model\n");
    at = l2l__append(text, capacity, 0, "%s: images %dx%dx%d, %d classes\n", m->arch, o->channels,
                     o->height, o->width, o->classes);
    for (int i = 0; i < m->n_slots; i++) {
        const l2l_parameter p = l2l_model_parameter(m, i);
        char shape[200];
        size_t line = at;
        at = l2l__append(text, capacity, at, "  %s", p.name);
        at = l2l__pad(text, capacity, at, line + 44);
        at = l2l__append(text, capacity, at, " %s", l2l__shape_text(shape, p.shape, p.rank, "x"));
        at = l2l__pad(text, capacity, at, line + 62);
        at = l2l__append(text, capacity, at, " %z%s\n", l2l_count(p.value->shape),
                         p.trainable ? "" : " (buffer)");
    }
    return l2l__append(text, capacity, at, "  %z parameters\n", l2l_model_size(m));
}

/* The arena's peak over one forward and backward pass of `batch` images of zeros: to all trainable
   parameters, or in evaluation mode to the images. The first n_slots + 1 places of `in` are for
   these inputs, the others for their gradients. */
static size_t l2l__pass_peak(l2l_model *m, int batch, l2l_mode mode)
{
    l2l_context *c = m->context;
    l2l_mark mark = l2l_mark_here(c);
    const size_t before = c->arena_live, kept = c->arena_peak;
    const bool was = l2l_set_recording(c, true);
    size_t peak;
    l2l_tensor **in, *x, *z, *loss;
    int n = 0;
    c->arena_peak = before;
    x = l2l_zeros(c, l2l_shape_of(batch, m->options.height, m->options.width, m->options.channels));
    z = x ? l2l__forward_frozen(m, x, mode) : NULL;
    loss = z ? l2l_sum(c, z) : NULL;
    in = (l2l_tensor **)l2l__arena_array(c, 2 * ((int64_t)m->n_slots + 1), sizeof *in);
    if (in && mode != L2L_TRAIN) in[n++] = x;
    for (int i = 0; in && mode == L2L_TRAIN && i < m->n_slots; i++)
        if (m->slot[i]->trainable) in[n++] = &m->slot[i]->value;
    if (loss && in) l2l_grad(c, loss, in, n, in + m->n_slots + 1, L2L_FREE_GRAPH);
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
    for (int i = 0; i < m->n_slots; i++)
        for (int j = 0; j < L2L__CACHES && m->slot[i]->value.packed; j++)
            n += (size_t)m->slot[i]->value.packed->cache[j].count;
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
    l2l__pass_peak(m, batch < 2 ? 1 : 2, mode); /* packs the weights, which is not for every pass */
    some = batch <= 16 ? 0 : l2l__pass_peak(m, 8, mode);
    more = l2l__pass_peak(m, batch <= 16 ? batch : 16, mode);
    if (more < some) more = some;
    if (batch > 16) more += (more - some) / 8 * (size_t)(batch - 16);
    return m->context->status ? 0 : more / 4 * 5 + l2l__packed_bytes(m);
}

/* -- models behind callbacks ------------------------------------------------------------------- */

/* dx = (d logits / dx)^T dy, by the caller's callback, on arrays in NCHW. What that computes is not
   on the tape, and a second derivative would silently miss it: hence the error while recording. */
static void l2l__external_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *x = v->y->in[0];
    const l2l_external *e = (const l2l_external *)v->y->p;
    l2l_real *images, *gradient;
    if (!e->vjp || c->recording) {
        l2l__fail(c, L2L_ERROR_UNSUPPORTED, e->vjp ? "an external model has no second derivative"
                  : "the external model offers no vjp callback: only attacks without gradients "
                    "work");
        return;
    }
    images = (l2l_real *)l2l__arena_array(c, l2l_count(x->shape), sizeof *images);
    gradient = (l2l_real *)l2l__arena_array(c, l2l_count(x->shape), sizeof *gradient);
    if (images && gradient && l2l_to_nchw(c, x, images)) {
        if (e->vjp(e->user, images, x->shape.n, v->dy->data, gradient))
            v->dx[0] = l2l_from_nchw(c, gradient, x->shape);
        else
            l2l__fail(c, L2L_ERROR_CANCELLED, "the external model's vjp callback returned false");
    }
    l2l__arena_drop(c, images);
    l2l__arena_drop(c, gradient);
}
static const l2l__operation l2l__external_op = {"external", l2l__external_vjp};

/* Logits by the caller's callback, a node like any other: its VJP is the other callback. The first
   run looks at the shape alone, before m->external is set. Node and VJP find the callbacks by p. */
static l2l_tensor *l2l__external_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = m->context;
    l2l_tensor *z = l2l__new(c, "external model",
                             l2l_shape_of(x->shape.n, 1, 1, m->options.classes));
    l2l_real *images;
    L2L__UNUSED(user);
    if (!z || m->creating) return z;
    images = (l2l_real *)l2l__arena_array(c, l2l_count(x->shape), sizeof *images);
    if (images && l2l_to_nchw(c, x, images) &&
        !m->external.logits(m->external.user, images, x->shape.n, z->data))
        l2l__fail(c, L2L_ERROR_CANCELLED, "the external model's logits callback returned false");
    l2l__arena_drop(c, images);
    z->p = &m->external;
    return l2l__record(c, z, &l2l__external_op, &x, 1);
}

L2LADVDEF l2l_model *l2l_model_external(l2l_context *c, const l2l_external *e)
{
    l2l_model_options o = l2l_model_default("external");
    l2l_model *m;
    if (!l2l__given(c, "l2l_model_external", "the description", e)) return NULL;
    if (!e->logits)
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_model_external: the logits callback is missing");
    o.forward = l2l__external_forward;
    o.channels = e->channels;
    o.height = e->height;
    o.width = e->width;
    o.classes = e->classes;
    m = l2l_model_create(c, &o);
    if (m) m->external = *e;
    return m;
}

#ifdef __clang__
#pragma mark - 10  Losses and outer optimizers
#endif
/* ============================================================================================ */
/*  10 LOSSES AND OUTER OPTIMIZERS                                               >>losses-code  */
/* ============================================================================================ */

/* One step of an optimizer, number by number, with d = scale g + decay x:
       SGD    without memory x -= rate d, else v = momentum v + d and x -= rate v
              (Nesterov: x -= rate (d + momentum v))
       Adam   m = beta1 m + (1 - beta1) d, v = beta2 v + (1 - beta2) d^2,
              x -= rate m / (root sqrt(v) + epsilon), where in step t rate has been divided by
              1 - beta1^t, and root = (1 - beta2^t)^-1/2 */
typedef struct l2l__update {
    bool adam, nesterov;
    l2l_real scale, decay, rate, momentum, beta1, beta2, root, epsilon;
} l2l__update;

/* of chapter 15, kernels */
static void l2l__ew_update(l2l_context *c, int64_t n, const l2l__update *u, const l2l_real *g,
                           l2l_real *x, l2l_real *first, l2l_real *second, l2l_real *before);

/* -- losses, per image ---------------------------------------------------------------------------
   Of rows z of logits, with p = softmax(z), and y the label:

       cross-entropy   CE = log sum_k e^{z_k} - z_y = -log p_y
       KL divergence   KL(p || q) = sum_k p_k (log p_k - log q_k), q the softmax of other logits
       margin          M = max over k != y of z_k - z_y: dz = dM at the maximum, -dM at y

   Sums and logarithms in double, from the row's maximum on: none of them overflows, and KL of two
   equal rows is 0. */

/* d CE / d z = (p - onehot(y)) dy, p = softmax(z). Entry y is minus the sum of the others: 1 - p_y
   would be rounded to 0 where the network is sure, and leave an attack without gradient. */
static void l2l__cross_entropy_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *z = v->y->in[0], *p = l2l_softmax(c, z), *one, *onehot, *rest, *q, *sum, *d;
    one = l2l_full(c, l2l__per_image(z), 1);
    onehot = one ? l2l__then(c, one, l2l_unpick(c, one, v->y->index, z->shape.c)) : NULL;
    rest = l2l_affine(c, onehot, -1, 1);
    /* q = p without entry y, sum = the sum of q at entry y: d = q - sum. */
    q = l2l__then(c, p, l2l__then(c, rest, l2l_mul(c, p, rest)));
    sum = l2l_sum_to(c, q, l2l__per_image(z));
    sum = l2l__then(c, onehot, l2l__then(c, sum, l2l_mul(c, onehot, sum)));
    d = l2l__then(c, q, l2l__then(c, sum, l2l_sub(c, q, sum)));
    v->dx[0] = l2l__then(c, d, l2l_mul(c, d, v->dy));
}
static const l2l__operation l2l__cross_entropy_op = {"cross_entropy", l2l__cross_entropy_vjp};

/* lse - z_y, row by row, as log sum_k e^{z_k - top} - (z_y - top): large parts cancel first. */
L2LADVDEF l2l_tensor *l2l_cross_entropy(l2l_context *c, l2l_tensor *logits, const int *labels)
{
    if (!l2l__rows_ready(c, "l2l_cross_entropy", logits)) return NULL;
    int k = logits->shape.c;
    l2l_tensor *y = l2l__new(c, "l2l_cross_entropy", l2l__per_image(logits));
    if (!l2l__save_classes(c, "l2l_cross_entropy", y, labels, logits->shape.n, k)) {
        l2l_drop(c, y);
        return NULL;
    }
    for (int i = 0; i < logits->shape.n; i++) {
        const l2l_real *row = logits->data + (int64_t)i * k;
        double top, sum = l2l__log_sum_exp(row, k, &top);
        y->data[i] = (l2l_real)(sum - ((double)row[labels[i]] - top));
    }
    return l2l__record(c, y, &l2l__cross_entropy_op, &logits, 1);
}

/* d KL / d (q's logits) = (q - p) dy,  d KL / d (p's logits) = p (log p - log q - KL) dy, both from
   d log p_j / d z_k = [j = k] - p_k. P and Q are the logits, v->y is KL row by row. */
static void l2l__kl_vjp(l2l__vjp *v)
{
    l2l_context *c = v->c;
    l2l_tensor *first = v->y->in[0], *second = v->y->in[1], *p = l2l_softmax(c, first), *d, *q;
    if (v->need[1]) {
        q = l2l_softmax(c, second);
        d = l2l__then(c, q, l2l_sub(c, q, p));
        v->dx[1] = l2l__then(c, d, l2l_mul(c, d, v->dy));
    }
    if (v->need[0]) {
        d = l2l_log_softmax(c, first);
        q = l2l_log_softmax(c, second);
        d = l2l__then(c, d, l2l__then(c, q, l2l_sub(c, d, q)));
        d = l2l__then(c, d, l2l_sub(c, d, v->y));
        d = l2l__then(c, d, l2l_mul(c, p, d));
        v->dx[0] = l2l__then(c, d, l2l_mul(c, d, v->dy));
    }
    l2l_drop(c, p);
}
static const l2l__operation l2l__kl_op = {"kl_divergence", l2l__kl_vjp};

/* p and q are logits. A class far below the top has e^{log p} = 0 and adds 0, for the logarithms of
   finite logits are finite. */
L2LADVDEF l2l_tensor *l2l_kl_divergence(l2l_context *c, l2l_tensor *p, l2l_tensor *q)
{
    l2l_tensor *y;
    if (!l2l__rows_ready(c, "l2l_kl_divergence", p) ||
        !l2l__rows_ready(c, "l2l_kl_divergence", q) ||
        !l2l__equal(c, "l2l_kl_divergence", p->shape, q->shape) ||
        !(y = l2l__new(c, "l2l_kl_divergence", l2l__per_image(p))))
        return NULL;
    int k = p->shape.c;
    for (int i = 0; i < p->shape.n; i++) {
        const l2l_real *a = p->data + (int64_t)i * k, *b = q->data + (int64_t)i * k;
        double at, bt, la = l2l__log_sum_exp(a, k, &at), lb = l2l__log_sum_exp(b, k, &bt), sum = 0;
        for (int j = 0; j < k; j++) {
            double log_p = (double)a[j] - at - la, log_q = (double)b[j] - bt - lb;
            sum += exp(log_p) * (log_p - log_q);
        }
        y->data[i] = (l2l_real)sum;
    }
    return l2l__record2(c, y, &l2l__kl_op, p, q);
}

/* Row-wise argmax without column `except` (-1: all columns); the first NaN, if there is one. */
static int l2l__argmax(const l2l_real *z, int k, int except)
{
    int best = except == 0 ? 1 : 0;
    for (int j = best; j < k; j++) {
        if (j == except) continue;
        if (z[j] != z[j]) return j;
        if (z[j] > z[best]) best = j;
    }
    return best;
}

/* Logits of a pass of an outer loss are finite, or an error names class and image of the first that
   is not. (A pass may join several batches: then an image is there more than once.) */
static bool l2l__outer_logits_ok(const l2l_model *m, const l2l_tensor *z)
{
    int64_t all = l2l_count(z->shape), at = m->predicted ? l2l__not_finite_at(z->data, all) : all;
    int i = (int)(at / z->shape.c);
    return at == all ||
           l2l__fail(m->context, L2L_ERROR_NUMERIC, "image %d, outer loss: the logit of class %d "
                     "is %g, not finite", m->images ? (int)m->images[i % m->n_images] : i,
                     (int)(at % z->shape.c), (double)z->data[at]);
}

/* Two picks and a difference, so that its VJPs, of any order, are theirs. */
L2LADVDEF l2l_tensor *l2l_margin(l2l_context *c, l2l_tensor *logits, const int *labels)
{
    l2l_tensor *own, *other, *y = NULL;
    int *best;
    if (!l2l__rows_ready(c, "l2l_margin", logits)) return NULL;
    own = l2l_pick(c, logits, labels);       /* checks the labels                                 */
    best = own ? (int *)l2l__arena_array(c, logits->shape.n, sizeof *best) : NULL;
    if (!best || logits->shape.c < 2) {
        if (best) l2l__fail(c, L2L_ERROR_SHAPE, "l2l_margin: one class has no other");
    } else {
        for (int i = 0; i < logits->shape.n; i++)
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
    if (!l2l__rows_ready(c, "l2l_predict", logits) ||
        !l2l__given(c, "l2l_predict", "classes", classes))
        return false;
    for (int i = 0; i < logits->shape.n; i++) {
        const l2l_real *z = logits->data + (int64_t)i * logits->shape.c;
        classes[i] = l2l__argmax(z, logits->shape.c, -1); /* NaN, if there is one, comes first    */
        if (z[classes[i]] != z[classes[i]])
            return l2l__fail(c, L2L_ERROR_NUMERIC, "l2l_predict: class %d of row %d is %g",
                             classes[i], i, (double)z[classes[i]]);
    }
    return true;
}

/* -- outer optimizers ----------------------------------------------------------------------------
   theta descends in line 16, phi ascends in line 15 (by the gradient of -L_phi). Of all arrays
   together the gradient is looked at first: |g|_2 that is not finite ends the step before anything
   has moved, and g becomes g min(1, clip / |g|_2). Then l2l__update, array by array, in one pass
   over g, theta and the moments, which also keeps theta as it was, should it not be finite now. */

L2LADVDEF l2l_optimizer_options l2l_sgd_default(void)
{
    l2l_optimizer_options o = L2L__ZERO;
    o.kind = L2L_SGD;
    o.rate = 0.1;
    o.momentum = 0.9;
    o.beta1 = 0.9;
    o.beta2 = 0.999;
    o.epsilon = 1e-8;
    return o;
}

/* Kingma and Ba 2015, algorithm 1. Their beta1, beta2 and epsilon stand in SGD's options, too:
   all must be in range whatever the kind. */
L2LADVDEF l2l_optimizer_options l2l_adam_default(void)
{
    l2l_optimizer_options o = l2l_sgd_default();
    o.kind = L2L_ADAM;
    o.rate = 1e-3;
    o.momentum = 0;
    return o;
}

L2LADVDEF void l2l_optimizer_free(l2l_optimizer *o)
{
    if (!o) return;
    l2l__let_go(o->context, o->held);
    l2l_free(o->context, o);
}

/* Moments, zero at first (l2l__hold): v of SGD if it has momentum, m and v of Adam. What is not
   needed stays NULL, by which the kernel knows SGD without memory. */
L2LADVDEF l2l_optimizer *l2l_optimizer_create(l2l_context *c, const l2l_optimizer_options *options,
                                              const int64_t *sizes, int n)
{
    const l2l_optimizer_options usual = l2l_adam_default();
    l2l_optimizer *o;
    bool adam;
    if (!options) options = &usual;
    if (!l2l__options_ok(c, "optimizer", l2l__optimizer_fields, options, 0)) return NULL;
    adam = options->kind == L2L_ADAM;
    if (n < 0) l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_optimizer_create: %d arrays", n);
    if (n > 0 && !l2l__given(c, "l2l_optimizer_create", "sizes", sizes)) return NULL;
    for (int i = 0; i < n; i++)
        if (sizes[i] < 0)
            l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_optimizer_create: array %d of %z numbers", i,
                      sizes[i]);
    if (!(o = (l2l_optimizer *)l2l_allocate(c, sizeof *o))) return NULL;
    o->context = c;
    o->options = *options;
    o->n = n;
    o->sizes = (int64_t *)l2l__hold(c, &o->held, n, sizeof *o->sizes);
    o->first = (l2l_real **)l2l__hold(c, &o->held, n, sizeof *o->first);
    o->second = (l2l_real **)l2l__hold(c, &o->held, n, sizeof *o->second);
    for (int i = 0; i < n && !c->status; i++) {
        o->sizes[i] = sizes[i];
        if (adam || options->momentum > 0)
            o->first[i] = (l2l_real *)l2l__hold(c, &o->held, sizes[i], sizeof(l2l_real));
        if (adam) o->second[i] = (l2l_real *)l2l__hold(c, &o->held, sizes[i], sizeof(l2l_real));
    }
    if (!c->status) return o;
    l2l_optimizer_free(o);
    return NULL;
}

/* sum of x^2, in parts that n alone decides, each of eight sums, which do not wait for each other.
   No square of a float overflows in double: of floats the sum is finite if and only if x is. */
static double l2l__sum_squares(const l2l_context *c, const l2l_real *x, int64_t n)
{
    enum { L2L__SHARES = 64, L2L__SUMS = 8 };
    double sums[L2L__SHARES][L2L__SUMS], total = 0;
    int part;
    L2L__PARALLEL(l2l__workers(c, n))
    for (part = 0; part < L2L__SHARES; part++) {
        double s[L2L__SUMS] = {0};
        int64_t i = n * part / L2L__SHARES, last = n * (part + 1) / L2L__SHARES;
        for (; i + L2L__SUMS <= last; i += L2L__SUMS)
            for (int j = 0; j < L2L__SUMS; j++) s[j] += (double)x[i + j] * (double)x[i + j];
        for (; i < last; i++) s[0] += (double)x[i] * (double)x[i];
        memcpy(sums[part], s, sizeof s);
    }
    for (part = 0; part < L2L__SHARES; part++)
        for (int j = 0; j < L2L__SUMS; j++) total += sums[part][j];
    return total;
}

/* |g|_2 over all arrays. */
static double l2l__gradient_norm(const l2l_optimizer *o, l2l_real *const *gradients)
{
    double total = 0;
    for (int i = 0; i < o->n; i++)
        total += l2l__sum_squares(o->context, gradients[i], o->sizes[i]);
    return sqrt(total);
}

/* Step number `step` of the options' optimizer on the gradient times `scale`. Adam's corrections
   for moments that began at 0 are the same for all numbers: they go into rate and root, computed in
   double. Neither divisor is 0, as beta < 1 and step >= 1. */
static l2l__update l2l__update_of(const l2l_optimizer_options *o, double rate, double scale,
                                  int64_t step)
{
    l2l__update u = L2L__ZERO;
    bool adam = o->kind == L2L_ADAM;
    u.adam = adam;
    u.nesterov = o->nesterov;
    u.scale = (l2l_real)scale;
    u.decay = (l2l_real)o->weight_decay;
    u.momentum = (l2l_real)o->momentum;
    u.beta1 = (l2l_real)o->beta1;
    u.beta2 = (l2l_real)o->beta2;
    u.rate = (l2l_real)(adam ? rate / (1 - pow(o->beta1, (double)step)) : rate);
    u.root = (l2l_real)(adam ? 1 / sqrt(1 - pow(o->beta2, (double)step)) : 0);
    u.epsilon = (l2l_real)o->epsilon;
    return u;
}

/* As many arrays as the optimizer is for. */
static bool l2l__arrays_given(const l2l_optimizer *o, const char *what, l2l_real *const *arrays)
{
    const char *where = "l2l_optimizer_step";
    for (int i = 0; i < o->n; i++)
        if (!l2l__given(o->context, where, what, arrays) ||
            (o->sizes[i] > 0 && !l2l__given(o->context, where, what, arrays[i])))
            return false;
    return true;
}

/* sqrt of FLT_MAX or DBL_MAX: Adam's v would be infinite beyond, and the parameter stand still. */
static const double l2l__root_of_most = sizeof(l2l_real) == 4 ? 1.8446743e19 : 1.3407807e154;

/* A step for gradients of this length together. `before`, if there is such, gets the values as they
   were, array behind array. False, and an error, leaves all as it was. */
static bool l2l__optimizer_update(l2l_optimizer *o, l2l_real *const *values,
                                  l2l_real *const *gradients, double norm, double rate_factor,
                                  l2l_real *before)
{
    const double clip = o->options.clip, scale = clip > 0 && norm > clip ? clip / norm : 1;
    const double decay = o->options.weight_decay;
    l2l__update u;
    if (o->options.kind == L2L_ADAM && norm * scale > l2l__root_of_most)
        return l2l__fail(o->context, L2L_ERROR_NUMERIC, "optimizer: a gradient of length %g is too "
                         "large for Adam, its square is infinite; the parameters stay as they were",
                         norm * scale);
    if (o->options.kind == L2L_ADAM && decay > 0) {
        double length = decay * l2l__gradient_norm(o, values);
        if (norm * scale + length > l2l__root_of_most)
            return l2l__fail(o->context, L2L_ERROR_NUMERIC, "optimizer: weight_decay %g times the "
                             "parameters, of length %g, is too large for Adam, its square is "
                             "infinite; the parameters stay as they were", decay, length);
    }
    u = l2l__update_of(&o->options, o->options.rate * rate_factor, scale, ++o->steps);
    for (int i = 0; i < o->n; i++) {
        l2l__ew_update(o->context, o->sizes[i], &u, gradients[i], values[i], o->first[i],
                       o->second[i], before);
        if (before) before += o->sizes[i];
    }
    return true;
}

/* theta <- theta - rate factor d, d what l2l__update says. */
L2LADVDEF bool l2l_optimizer_step(l2l_optimizer *o, l2l_real *const *values,
                                  l2l_real *const *gradients, double rate_factor)
{
    double norm;
    if (!o || o->context->status || !l2l__arrays_given(o, "values", values) ||
        !l2l__arrays_given(o, "gradients", gradients))
        return false;
    if (!(fabs(rate_factor) <= DBL_MAX))
        return l2l__fail(o->context, L2L_ERROR_ARGUMENT, "l2l_optimizer_step: rate_factor %g is "
                         "not a finite number", rate_factor);
    norm = l2l__gradient_norm(o, gradients);
    if (!(norm <= DBL_MAX))                  /* also when it is not a number                      */
        return l2l__fail(o->context, L2L_ERROR_NUMERIC,
                         "optimizer: the gradient is not finite; the parameters "
                         "stay as they were");
    return l2l__optimizer_update(o, values, gradients, norm, rate_factor, NULL);
}

/* -- schedules --------------------------------------------------------------------------------- */

L2LADVDEF l2l_schedule l2l_schedule_default(void)
{
    l2l_schedule s = L2L__ZERO;
    s.factor = 0.1;
    return s;
}

/* With at = step / total, and s = (at - warm_up) / (1 - warm_up) within [0, 1]:

       constant   1
       steps      factor^(milestones that at has reached)
       cosine     final + (1 - final) (1 + cos(pi s)) / 2         (Loshchilov and Hutter 2017)

   each times (step + 1) / (warm_up total + 1) as long as at < warm_up. */
L2LADVDEF double l2l_schedule_factor(const l2l_schedule *s, int64_t step, int64_t total)
{
    double at = total > 0 ? (double)step / (double)total : 0, factor = 1;
    if (!s) return 1;                        /* the default: constant                             */
    if (s->kind == L2L_STEPS) {
        for (int i = 0; i < 8 && s->milestones[i] > 0; i++)
            if (at >= s->milestones[i]) factor *= s->factor;
    } else if (s->kind == L2L_COSINE) {
        double t = s->warm_up < 1 ? (at - s->warm_up) / (1 - s->warm_up) : 0;
        if (t < 0) t = 0;
        if (t > 1) t = 1;
        factor = s->final + (1 - s->final) * 0.5 * (1 + cos(3.14159265358979323846 * t));
    }
    if (total > 0 && at < s->warm_up)        /* step 0 already moves: (step+1) of the rise        */
        factor *= (double)(step + 1) / (s->warm_up * (double)total + 1);
    return factor;
}

/* -- the parts' sums, over the ranks -------------------------------------------------------------
   Lines 15 and 16 want sums over a whole batch; a part has its summands. Round by round every rank
   takes one part (l2l__next_part), and l2l__add_up follows each: figures go through t->part (mine),
   t->told (all ranks') and t->whole (the batch so far), numbers through t->sum, in this order:

       theta_size    gradients of theta, array behind array
       n_buffers     the running statistics' moves, see l2l__lay_out
       n_phi         the maximizer's sum, if there are other ranks
       ...           zeros up to sum_size, which is chunks of `ranks` slices

   All memory is asked for before l2l__gather. Behind it every rank calls `exchange` as often as the
   others, which would wait for it: up to the last call nothing can fail but `exchange` itself. */

/* A block of so many bytes to every rank, and one from each. */
static bool l2l__exchange(l2l_trainer *t, const void *to, void *from, size_t bytes)
{
    if (t->apart) return false;
    if (t->options.exchange(t->options.exchange_user, to, from, bytes)) return true;
    t->apart = true;
    return l2l__fail(t->context, L2L_ERROR_CALLBACK, "training: `exchange` failed on rank %d",
                     t->options.rank);
}

/* The same block to every rank. t->talk has room for the blocks that go out, each up to the length
   of c->text, and behind them for the texts that come. */
static bool l2l__to_all(l2l_trainer *t, const void *mine, void *from, size_t bytes)
{
    for (int r = 0; r < t->ranks; r++) memcpy(t->talk + (size_t)r * bytes, mine, bytes);
    return l2l__exchange(t, t->talk, from, bytes);
}

/* t->told of all ranks. Wherever a rank had an error, this is its next exchange, so that all learn
   of it, end, and talk no more; those without one get the first that there is, whose text comes in
   an exchange of its own. */
static bool l2l__gather(l2l_trainer *t)
{
    l2l_context *c = t->context;
    size_t bytes = sizeof c->text;
    int r = 0;
    t->part.status = (int)c->status;
    t->told[0] = t->part;
    if (t->ranks == 1) return !c->status;
    if (!l2l__to_all(t, &t->part, t->told, sizeof t->part)) return false;
    while (r < t->ranks && !t->told[r].status) r++;
    if (r == t->ranks) return true;
    if (l2l__to_all(t, c->text, t->talk + (size_t)t->ranks * bytes, bytes) && !c->status)
        l2l__fail(c, (l2l_status)t->told[r].status, "rank %d: %s", r,
                  t->talk + (size_t)(t->ranks + r) * bytes);
    t->apart = true;
    return false;
}

/* Ranks that are to train one model begin alike, and stay so unless their machines compute
   differently: their digests, which `what` names, are equal (unused ones are 0). All ranks compare
   the same numbers, so all fail or none does, and nobody has to be told. */
static bool l2l__agree(l2l_trainer *t, const char *const what[4])
{
    if (!l2l__gather(t)) return false;
    for (int r = 1; r < t->ranks; r++)
        for (int i = 0; i < 4; i++)
            if (memcmp(&t->told[r].digest[i], &t->told[0].digest[i], sizeof(double)))
                return l2l__fail(t->context, L2L_ERROR_MISMATCH, "training: rank %d has another %s "
                                 "than rank 0", r, what[i]);
    return true;
}
static bool l2l__alike(l2l_trainer *t)
{
    static const char *const what[4] = {"step", "settings or data", "model", "maximizer"};
    if (t->ranks > 1) l2l__training_digests(t, t->part.digest);
    return l2l__agree(t, what);
}

/* What a part adds to the report: pixels of x'_T on the border of the ball or of the image range,
   and the predictions that were noted at line 14. */
static void l2l__tally(l2l_trainer *t, const l2l_inner *in)
{
    l2l__told *part = &t->part;
    int64_t n = l2l_count(in->shape);
    l2l_real epsilon = (l2l_real)in->epsilon;
    for (int64_t i = 0; i < n; i++) {
        l2l_real x = in->x->data[i], z = in->adv->data[i];
        part->saturated += z <= l2l__low(x, epsilon) || z >= l2l__high(x, epsilon);
    }
    part->L_phi = in->L_phi - t->whole.L_phi; /* in->L_phi has the earlier parts', too            */
    for (int i = 0; i < in->n; i++) part->end_loss += (double)in->loss[i];
    part->guess = in->predicted[0];
    for (int i = 0; part->noted && i < in->n; i++) {
        part->right += in->predicted[i] == in->labels[i];
        if (in->predicted[i] != part->guess) part->guess = -1;
    }
}

/* The figures of a round, one part after the other. The first rank without a part ends them: only
   the last ranks of the last round have none. */
static void l2l__add_told(l2l_trainer *t)
{
    l2l__told *whole = &t->whole;
    for (const l2l__told *p = t->told; p < t->told + t->ranks && p->n; p++) {
        whole->guess = !whole->n || whole->guess == p->guess ? p->guess : -1;
        whole->noted = p->noted && (!whole->n || whole->noted);
        whole->n += p->n;
        whole->right += p->right;
        whole->saturated += p->saturated;
        whole->L_theta += p->L_theta;
        whole->L_phi += p->L_phi;
        whole->start_loss += p->start_loss;
        whole->end_loss += p->end_loss;
    }
}

/* What is added up over the parts, each by its share of the images: the gradient of the part's
   mean loss in theta, how far it has moved running statistics, and the maximizer's sum, which has
   its share. Of a part that is the whole batch, to where it has moved them. Where there is no part,
   the zeros that change no sum: x + -0 = x for every x, while +0 would make +0 of -0. */
static void l2l__lay_out(l2l_trainer *t, const l2l_inner *in, l2l_real *part)
{
    l2l_real share = (l2l_real)in->n / (l2l_real)in->batch, zero = (l2l_real)-0.0;
    const l2l_real *was = t->buffers;
    for (int64_t i = 0; i < t->sum_size; i++) part[i] = zero;
    if (!t->part.n) return;
    for (int i = 0; i < t->n_theta; part += t->sizes[i++])
        l2l__ew(t->context, L2L__AFFINE, t->sizes[i], t->found[i]->data, NULL, share, zero, part);
    for (int i = t->n_theta; i < t->model->n_slots; i++)
        for (int64_t k = 0; k < t->sizes[i]; k++, was++) {
            l2l_real now = t->values[i][k];
            *part++ = in->n < in->batch ? (l2l_real)(share * (now - *was)) : now;
        }
    if (t->n_phi) memcpy(part, t->phi_sum, (size_t)t->n_phi * sizeof *part);
}

/* sum <- ((sum + part of rank 0) + part of rank 1) + ..., the first round's without a sum before.
   Chunk by chunk each rank adds up one slice and hands it to all: one exchange brings it this slice
   of every part, in the order of the ranks, and a second one takes the sum to all. It adds up in
   `mine`: in the first round where rank 0's slice has come, later where the sum so far stands.
   `part`, sent by then, serves again to send the sum from. */
static bool l2l__add_round(l2l_trainer *t, l2l_real *part, l2l_real *from)
{
    const int64_t slice = t->slice;
    const size_t bytes = (size_t)slice * sizeof *part;
    if (t->ranks == 1 && t->round)
        l2l__ew(t->context, L2L__ADD, t->sum_size, t->sum, part, 0, 0, t->sum);
    else if (t->ranks == 1) memcpy(t->sum, part, (size_t)t->sum_size * sizeof *part);
    for (int64_t at = 0; t->ranks > 1 && at < t->sum_size; at += t->ranks * slice) {
        l2l_real *mine = t->round ? t->sum + at + t->options.rank * slice : from;
        if (!l2l__exchange(t, part + at, from, bytes)) return false;
        for (int r = t->round ? 0 : 1; r < t->ranks; r++)
            l2l__ew(t->context, L2L__ADD, slice, mine, from + r * slice, 0, 0, mine);
        for (int r = 0; r < t->ranks; r++) memcpy(part + at + r * slice, mine, bytes);
        if (!l2l__exchange(t, part + at, t->sum + at, bytes)) return false;
    }
    return true;
}

/* After the last round: the sums to where lines 15 and 16 take them from, in l2l__lay_out's order.
   The gradients stay in t->sum; the running statistics are those from before the step, and make the
   parts' moves now. */
static bool l2l__take_back(l2l_trainer *t, const l2l_inner *in)
{
    const bool whole = l2l__part_size(t, in->batch) == in->batch;
    const l2l_real *at = t->sum + t->theta_size;
    l2l_real *gradient = t->sum;
    for (int i = 0; i < t->n_theta; gradient += t->sizes[i++])
        t->gradients[i] = gradient;
    for (int i = t->n_theta; i < t->model->n_slots; i++)
        for (int64_t k = 0; k < t->sizes[i]; k++)
            t->values[i][k] = whole ? *at++ : (l2l_real)(t->values[i][k] + *at++);
    if (t->n_phi) memcpy(t->phi_sum, at, (size_t)t->n_phi * sizeof *at);
    return l2l__measure_gradient(t);
}

/* The part at hand and those of the other ranks. Every part begins with the running statistics from
   before the step; they move at its end, by the mean of the parts' moves. */
static bool l2l__add_up(l2l_trainer *t, l2l_inner *in)
{
    l2l_context *c = t->context;
    bool parts = t->rounds > 1 || t->ranks > 1;
    l2l_real *part = NULL, *from = NULL;
    if (!c->status && parts && l2l__make_sum(t)) {
        part = (l2l_real *)l2l__arena_array(c, t->sum_size, sizeof *part);
        from = (l2l_real *)l2l__arena_array(c, t->ranks * t->slice, sizeof *from);
    }
    if (!c->status && t->part.n) l2l__tally(t, in);
    if (!l2l__gather(t)) return false;
    l2l__add_told(t);
    if (t->ranks > 1) in->L_phi = t->whole.L_phi;
    if (parts) {
        /* The moves first, then back to where the next part begins. */
        l2l__lay_out(t, in, part);
        l2l__copy_arrays(t, t->n_theta, t->model->n_slots, t->buffers, true);
        if (!l2l__add_round(t, part, from)) return false;
    }
    return ++t->round < t->rounds || !parts || l2l__take_back(t, in);
}

#ifdef __clang__
#pragma mark - 11  Attacks
#endif
/* ============================================================================================ */
/*  11 ATTACKS                                                                  >>attacks-code  */
/* ============================================================================================

   The inner problem, max over x' in B(x, epsilon) of L(f(x'), y), is walked in three moves that
   training (chapter 3) and attacks share; see there for what they do:

       l2l__start   x'_0 = Proj(x + noise)
       l2l__look    L(f(x'_t), y) and g_t = its gradient in x', per image, in one pass
       l2l__move    x'_{t+1} = Proj(x'_t + delta_t)

   with the maximizer's step between look and move. From the outside in, an attack is

       l2l_attack_worst        attack after attack, each on the images that stand yet: a series
         l2l__attack_list      these images batch by batch
           l2l__attack_batch   a batch laid out as an inner problem: a hunt
             l2l__hunt_batch   the clean look, then l2l__search or the restarts
               l2l__hunt_once  from one x'_0 T steps between T + 1 looks
             l2l__hunt_end     results checked, and into the records */

/* -- the inner problem ------------------------------------------------------------------------- */

/* The numbers of an image. */
static int64_t l2l__image_size(const l2l_model_options *o)
{
    return (int64_t)o->channels * o->height * o->width;
}

/* most |x / most|_2 with most = |x|_inf, where l2l_norm2's sum of squares is above the range of
   double or near its lower end. Of finite floats that is the sum 0 alone: squares of others are
   between 1e-90 and 1e78. */
static double l2l__norm2_scaled(const l2l_real *x, const l2l_real *y, int64_t n)
{
    double sum = 0, most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i] - (y ? (double)y[i] : 0)));
    for (int64_t i = 0; i < n && most > 0; i++) {
        double d = ((double)x[i] - (y ? (double)y[i] : 0)) / most;
        sum += d * d;
    }
    return most > DBL_MAX ? most : most * sqrt(sum);
}

/* A look of a copy of `in`, whose x' is `at` and whose one g is the caller's array; its counts go
   back. Fronts go by the address of a search's own inner problem, and leave this one alone. */
L2LADVDEF bool l2l_look(l2l_inner *in, l2l_tensor *at, l2l_real *loss, int *predicted,
                        l2l_real *gradient)
{
    l2l_context *c = in ? in->context : NULL;
    l2l_mark mark = l2l_mark_here(c);
    l2l_inner there;
    l2l_tensor to = L2L__ZERO, *g = &to;
    if (!c || !l2l__ready(c, "l2l_look", at) || !l2l__equal(c, "l2l_look", at->shape, in->shape))
        return false;
    to.shape = in->shape;
    to.data = gradient;
    there = *in;
    there.adv = at;
    there.g = &g;
    there.loss = loss ? loss : (l2l_real *)l2l__arena_array(c, in->n, sizeof *loss);
    there.predicted = predicted ? predicted : (int *)l2l__arena_array(c, in->n, sizeof *predicted);
    l2l__look(&there, 0, gradient != NULL);
    in->forwards = there.forwards;
    in->backwards = there.backwards;
    l2l_release(c, mark);
    return !c->status;
}

/* -- attacks by name --------------------------------------------------------------------------- */

static l2l_attack l2l__attack(const char *name, double epsilon, double relative_step, int steps,
                              l2l_start start)
{
    l2l_attack a = L2L__ZERO;
    a.name = name;
    a.maximizer = l2l_maximizer_sign();
    a.objective = l2l_objective_cross_entropy();
    a.epsilon = epsilon;
    a.relative_step = relative_step;
    a.steps = steps;
    a.restarts = 1;
    a.start = start;
    a.batch = 100;
    return a;
}

/* With alpha for the size of a step, relative_step epsilon, and g_t for the gradient of L at x'_t:

       fgsm           x'_1 = Proj(x + epsilon sign g_0)
       ifgsm          x'_{t+1} = Proj(x'_t + alpha sign g_t) from x
       pgd            the same from Proj(x + U(-epsilon, epsilon))
       pgd-l2         x'_{t+1} = Proj(x'_t + alpha g_t / |g_t|_2) from a point uniform in the l2
                      ball; Proj is into that ball, then into [0,1]
       mim            x'_{t+1} = Proj(x'_t + alpha sign m_t) from x; chapter 5 has m_t
       cw-pgd         pgd with L = min(max over k != y of z_k - z_y, 50)

   Goodfellow et al. 2015: x' = clip(x + epsilon sign g) */
L2LADVDEF l2l_attack l2l_attack_fgsm(double epsilon)
{
    return l2l__attack("fgsm", epsilon, 1, 1, L2L_START_CLEAN);
}

/* Kurakin et al. 2017: PGD without a random start */
L2LADVDEF l2l_attack l2l_attack_ifgsm(double epsilon)
{
    return l2l__attack("ifgsm", epsilon, 0.25, 10, L2L_START_CLEAN);
}

/* Madry et al. 2018 */
L2LADVDEF l2l_attack l2l_attack_pgd(double epsilon)
{
    return l2l__attack("pgd", epsilon, 0.25, 10, L2L_START_UNIFORM);
}

L2LADVDEF l2l_attack l2l_attack_pgd_l2(double epsilon)
{
    l2l_attack a = l2l__attack("pgd-l2", epsilon, 0.25, 10, L2L_START_UNIFORM);
    a.norm = L2L_L2;
    a.maximizer = l2l_maximizer_gradient();
    return a;
}

/* Dong et al. 2018, algorithm 1 */
L2LADVDEF l2l_attack l2l_attack_mim(double epsilon)
{
    l2l_attack a = l2l__attack("mim", epsilon, 0.25, 10, L2L_START_CLEAN);
    a.maximizer = l2l_maximizer_momentum(1);
    return a;
}

/* Carlini and Wagner 2017's f_6, with Madry et al. 2018's confidence */
L2LADVDEF l2l_attack l2l_attack_cw_pgd(double epsilon)
{
    l2l_attack a = l2l__attack("cw-pgd", epsilon, 0.25, 10, L2L_START_UNIFORM);
    a.objective = l2l_objective_margin();
    a.objective.cut = true;
    a.objective.confidence = 50;
    return a;
}

/* -- running an attack ------------------------------------------------------------------------- */

/* The length of a step, in pixel values. A search has no ball that it could be a part of. */
static double l2l__step_size(const l2l_attack *a)
{
    return a->step_size > 0 || a->search ? a->step_size : a->relative_step * a->epsilon;
}

/* In pixels, however it was given: equal walks are equal settings of a state or checkpoint. */
static void l2l__settle_step(l2l_attack *a)
{
    a->step_size = l2l__step_size(a);
    a->relative_step = 0;
}

/* What l2l__attack_fields cannot say. In l-infinity every ball beyond 1 is all of [0,1]: such an
   epsilon was meant for pixels in 0..255. A search returns what it kept, so it has no last iterate,
   and only some begin anew. Targets take the labels' place in the objective: one that does not look
   at labels would not aim at them. */
static bool l2l__attack_ok(l2l_context *c, const char *who, const l2l_attack *a, int n)
{
    const l2l_status bad = L2L_ERROR_ARGUMENT;
    if (!l2l__given(c, who, "the attack", a)) return false;
    if (!l2l__options_ok(c, who, l2l__attack_fields, a, 0)) return false;
    if (!a->minimal && !(a->epsilon <= (a->norm == L2L_LINF ? 1 : (double)FLT_MAX)))
        return l2l__fail(c, bad, "%s: epsilon %g is not %s; %s", who, a->epsilon,
                         a->norm == L2L_LINF ? "in [0,1]" : "finite", *l2l__pixel_hint);
    if (a->steps > 0 && !a->maximizer.step && !a->search)
        return l2l__fail(c, bad, "%s: %d steps, but the maximizer '%s' has no step", who, a->steps,
                         a->maximizer.name);
    if (a->search && (a->last_iterate || (a->restarts > 1 && !a->search->restarts)))
        return l2l__fail(c, bad, "%s %s: a search without %s", who, a->name,
                         a->last_iterate ? "last_iterate" : "restarts");
    if (a->search && (!a->search->begin || !a->search->point || !a->search->seen))
        return l2l__fail(c, bad, "%s %s: the search lacks begin, point or seen", who, a->name);
    if (a->search && (a->search->memory < 0 || a->search->memory > 3))
        return l2l__fail(c, bad, "%s %s: the search asks for %d tensors of memory, not 0 to 3", who,
                         a->name, a->search->memory);
    if (a->search && !(a->objective.confidence >= 0))
        return l2l__fail(c, bad, "%s %s: objective.confidence %g is not at least 0", who, a->name,
                         a->objective.confidence);
    if (!a->objective.loss)
        return l2l__fail(c, bad, "%s: the objective has no loss function", who);
    if (a->targets && a->objective.needs_clean)
        return l2l__fail(c, bad, "%s: targets, but the objective '%s' does not look at labels", who,
                         a->objective.name);
    return n >= 0 || l2l__fail(c, bad, "%s: %d images", who, n);
}

static bool l2l__label_ok(l2l_context *c, const char *where, int label, int image, int classes)
{
    return (label >= 0 && label < classes) ||
           l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: label %d of image %d is not in 0..%d", where,
                     label, image, classes - 1);
}

/* The n numbers of an image. */
static bool l2l__image_ok(l2l_context *c, const char *where, const l2l_real *x, int64_t n,
                          int image)
{
    for (int64_t i = 0; i < n; i++)
        if (!(x[i] >= 0 && x[i] <= 1))       /* what is not a number fails both                   */
            return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: value %z of image %d is %g, not in [0,1] "
                             "(normalisation by mean and deviation belongs into the model)",
                             where, i, image, (double)x[i]);
    return true;
}

/* What every entry point with images checks; images or labels may be NULL. */
static bool l2l__images_ok(l2l_context *c, const char *where, const l2l_model_options *o,
                           const l2l_real *images, const int *labels, int n)
{
    int64_t one = l2l__image_size(o);
    for (int i = 0; labels && i < n; i++)
        if (!l2l__label_ok(c, where, labels[i], i, o->classes)) return false;
    for (int i = 0; images && i < n; i++)
        if (!l2l__image_ok(c, where, images + i * one, one, i)) return false;
    return true;
}

/* What an attack knows of a batch: the best iterate of each image so far. Images leave `in` when
   they are fooled; their record and best iterate keep their places. So image i of `in` is number
   place[i] of the batch (records, best, courses, states, fronts), and number images[i] -
   attack->first of the caller's images (init, lost). */
typedef struct l2l__hunt {
    const l2l_attack *attack;
    l2l_inner in;
    l2l_record *records;                     /* of the whole batch                                */
    l2l_real *best;                          /* of the whole batch, nxHxWxC                       */
    int *place;                              /* where the images still in `in` are in these two   */
    int *labels, *kept;                      /* in->labels; room for a list of images             */
    uint32_t *images;                        /* in->images                                        */
    struct l2l__course *courses;             /* of a search, of the whole batch; else NULL        */
    char *states;                            /* search->state bytes for each, of the whole batch  */
    l2l__fronts fronts;                      /* where it asks for no gradients; else all 0        */
    uint32_t lost;                           /* the first of the caller's images with a number    */
    char text[160];                          /* that is not finite, which this tells; else none   */
} l2l__hunt;

/* What is known of a search of one image. */
typedef struct l2l__course {
    bool done;
    double distance;                         /* of the nearest adversarial image so far, HUGE_VAL */
} l2l__course;

/* Is its own label the target of image i? */
static bool l2l__own_target(const l2l__hunt *h, int i)
{
    return h->in.targeted && h->labels[i] == h->records[h->place[i]].label;
}

/* Is image i still being attacked? Its passes count until it is fooled, whatever else is in the
   batch. */
static bool l2l__hunted(const l2l__hunt *h, int i)
{
    if (h->images[i] - h->attack->first >= h->lost || l2l__own_target(h, i)) return false;
    if (h->courses) return !h->courses[h->place[i]].done;
    return h->attack->last_iterate || !h->records[h->place[i]].success;
}

/* in->done[i]: what is not finite in image i is no error any more (l2l_finite_images). */
static void l2l__hunt_done(l2l__hunt *h)
{
    for (int i = 0; i < h->in.n; i++) h->in.done[i] = !l2l__hunted(h, i);
}

/* Image number `image` is lost, and with it those behind it, of which the caller will not hear: the
   error is that of the first one, which the batch has no say in. */
static void l2l__hunt_lose(l2l__hunt *h, uint32_t image, const char *text)
{
    if (image - h->attack->first >= h->lost) return;
    h->lost = image - h->attack->first;
    l2l__format(h->text, sizeof h->text, "%s", text);
    l2l__hunt_done(h);
}

/* Of a tensor's images those in `kept` move to the front; the others are gone. kept[] ascends, so
   that an image is read before its place is written to. */
static void l2l__keep_images(l2l_tensor *x, const int *kept, int n)
{
    int64_t one = l2l_count(x->shape) / x->shape.n;
    for (int i = 0; i < n; i++)
        if (kept[i] > i)
            memcpy(x->data + i * one, x->data + kept[i] * one, (size_t)one * sizeof *x->data);
    x->shape.n = n;
}

/* Fooled images leave where their first success is all that counts. Moving the others costs time
   too, so some have to come together. (A maximizer of the caller's may have state by image: it
   needs `keep` for this.) Whoever calls this has just seen an image that stands: n is not 0. What
   is not moved is made anew: in->done by l2l__hunt_done, in->trials before each step. */
enum { L2L__LEAVE = 32 };                    /* at least one in so many                           */
static void l2l__hunt_move(l2l__hunt *h)
{
    l2l_inner *in = &h->in;
    const l2l_maximizer *m = &h->attack->maximizer;
    l2l_tensor *z = in->clean_logits;
    const int *kept = h->kept;
    int n = 0;
    if (m->self && !m->keep) return;
    for (int i = 0; i < in->n; i++)
        if (l2l__hunted(h, i)) h->kept[n++] = i;
    if (in->context->status || n == in->n || in->n - n < in->n / L2L__LEAVE) return;
    if (m->keep && !m->keep(m->self, in, kept, n))
        l2l__fail(in->context, L2L_ERROR_CALLBACK, "attack: the maximizer '%s' could not keep %d "
                  "of %d images", m->name, n, in->n);
    l2l__keep_images(in->adv, kept, n);
    l2l__keep_images(in->delta, kept, n);
    for (int i = 0; i < 2 && in->memory[i]; i++) l2l__keep_images(in->memory[i], kept, n);
    l2l__keep_images(in->g[0], kept, n);     /* the only one here                                 */
    if (z && z->data == in->x->data) z->shape.n = n; /* a view                                    */
    else if (z) l2l__keep_images(z, kept, n);
    l2l__keep_images(in->x, kept, n);
    for (int i = 0; i < n; i++) {
        h->place[i] = h->place[kept[i]];
        h->labels[i] = h->labels[kept[i]];
        h->images[i] = h->images[kept[i]];
        in->loss[i] = in->loss[kept[i]];
        in->predicted[i] = in->predicted[kept[i]];
    }
    in->n = in->batch = in->shape.n = n;
}

static void l2l__hunt_leave(l2l__hunt *h)
{
    l2l__hunt_move(h);
    l2l__hunt_done(h);
}

/* Passes of the images still attacked; and an image without gradient does not move: count those
   too. */
static void l2l__count_passes(l2l__hunt *h, int t, bool gradient)
{
    int64_t one = l2l_count(h->in.shape) / h->in.n, j;
    for (int i = 0; i < h->in.n; i++) {
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

/* Did image i go where it shall at the point last looked at: away from its label or, where
   in->labels are targets, to its target? */
static bool l2l__fooled(const l2l__hunt *h, int i)
{
    return (h->in.predicted[i] == h->in.labels[i]) == h->in.targeted;
}

/* Image i will be returned as it is now, in iterate t of restart r, unless a better one comes. The
   other of its two fronts becomes the best, as the look at this point has just written it. Where it
   has not, fronts still belong to their points: cuts are larger then, and their bits the same. */
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
    if (h->fronts.best) h->fronts.best[h->place[i]] ^= 1;
}

/* Keeps iterate t of restart r where it is better: the first success, else the largest loss; any
   where none is kept yet, step -1. Returns how many images are still attacked. */
static int l2l__keep_best(l2l__hunt *h, int t, int r)
{
    l2l_inner *in = &h->in;
    int standing = 0;
    for (int i = 0; i < in->n; i++) {
        l2l_record *b = &h->records[h->place[i]];
        if (!l2l__hunted(h, i)) continue;
        bool success = l2l__fooled(h, i);
        double loss = (double)in->loss[i];
        bool better = b->step < 0 || (success && !b->success) ||
                      (success == b->success && !success && loss > b->loss);
        if (h->attack->last_iterate && t < in->T) better = false;
        if (better) l2l__keep(h, i, success, t, r);
        standing += l2l__hunted(h, i);
    }
    return standing;
}

/* One run from one start: looks at x'_0 .. x'_T, at the last without gradient, as no step follows.
   Returns how many images are still attacked. */
static int l2l__hunt_once(l2l__hunt *h, int r)
{
    l2l_inner *in = &h->in;
    const l2l_attack *a = h->attack;
    int standing = in->n, i;
    if (!l2l__begin(&a->maximizer, in)) return standing;
    for (in->t = 0; !in->context->status; in->t++) {
        bool last = in->t == in->T;
        l2l__look(in, in->t, !last);
        if (in->context->status) break;
        l2l__count_passes(h, in->t, !last);
        standing = l2l__keep_best(h, in->t, r);
        if (last || standing == 0) break;
        l2l__hunt_leave(h);
        memset(in->trials, 0, (size_t)in->n * sizeof *in->trials);
        if (!in->context->status && !a->maximizer.step(a->maximizer.self, in))
            l2l__fail(in->context, L2L_ERROR_CALLBACK, "attack: the maximizer '%s' failed",
                      a->maximizer.name);
        for (i = 0; i < in->n; i++)
            if (l2l__hunted(h, i)) h->records[h->place[i]].forwards += in->trials[i];
        l2l__move(in);
    }
    return standing;
}

/* The caller's starting point of image i, into z; false if there is none. */
static bool l2l__given_start(const l2l__hunt *h, int i, l2l_real *z)
{
    const l2l_inner *in = &h->in;
    int64_t one = l2l_count(in->shape) / in->n;
    const l2l_real *init = h->attack->init;
    if (!init) return false;
    l2l__image_to_hwc(init + (in->images[i] - h->attack->first) * one, in->shape.c,
                      one / in->shape.c, z);
    return true;
}

/* x'_0 of restart r: the caller's starting points for the first, noise for the others, also where
   the first begins at x: from there they would be the first one again. `init` is projected: it may
   be anywhere in [0,1]. */
static void l2l__hunt_start(l2l__hunt *h, int r)
{
    l2l_inner *in = &h->in;
    int64_t one = l2l_count(in->shape) / in->n;
    in->stream = l2l__stream(h->attack->seed, L2L_RANDOM_START, (uint32_t)r, 0, 0);
    if (r > 0 && h->attack->start == L2L_START_CLEAN) l2l__start(in, L2L_START_UNIFORM);
    else l2l__start(in, h->attack->start);
    if (r > 0) return;
    for (int i = 0; i < in->n; i++)
        if (!l2l__given_start(h, i, in->adv->data + i * one)) return;
    l2l__into_ball(in);
}

/* -- searches ---------------------------------------------------------------------------------- */

/* The batch's arrays at image i. All 0 where there is no search or no such image: the calls on a
   spot do nothing then. */
L2LADVDEF l2l_spot l2l_spot_of(l2l_inner *in, int i)
{
    l2l_spot p = L2L__ZERO;
    l2l__hunt *h = in ? in->hunt : NULL;
    if (!h || !h->courses || i < 0 || i >= in->n) return p;
    int place = h->place[i];
    p.in = in;
    p.i = i;
    p.attack = h->attack;
    p.record = &h->records[place];
    p.distance = h->courses[place].distance;
    p.state = h->states + (size_t)place * h->attack->search->state;
    p.loss = (double)in->loss[i];
    p.fooled = l2l__fooled(h, i);
    p.n = l2l_count(in->shape) / in->n;
    p.x = in->x->data + i * p.n;
    p.z = in->adv->data + i * p.n;
    p.g = in->g[0]->data + i * p.n;
    p.memory[0] = in->delta->data + i * p.n;
    for (int k = 0; k < 2; k++)
        if (in->memory[k]) p.memory[k + 1] = in->memory[k]->data + i * p.n;
    return p;
}

L2LADVDEF bool l2l_spot_init(const l2l_spot *p, l2l_real *z)
{
    return p && p->in && z && l2l__given_start(p->in->hunt, p->i, z);
}

L2LADVDEF void l2l_spot_keep(const l2l_spot *p, bool success)
{
    if (p && p->in) l2l__keep(p->in->hunt, p->i, success, p->in->t, 0);
}

/* |z - x| in the attack's norm. For a search in the ball one outside of it counts as the nearest so
   far, but is not kept. */
L2LADVDEF double l2l_spot_keep_nearest(const l2l_spot *p)
{
    double distance = 0;
    if (!p || !p->in) return HUGE_VAL;
    double *nearest = &p->in->hunt->courses[p->in->hunt->place[p->i]].distance;
    if (p->attack->norm == L2L_L2) distance = l2l_norm2(p->z, p->x, p->n);
    else
        for (int64_t j = 0; j < p->n; j++)
            distance = fmax(distance, fabs((double)p->z[j] - (double)p->x[j]));
    if (!(distance < *nearest)) return *nearest;
    if (p->attack->minimal || distance <= p->attack->epsilon) l2l_spot_keep(p, true);
    return *nearest = distance;
}

L2LADVDEF void l2l_spot_end(const l2l_spot *p)
{
    if (p && p->in) p->in->hunt->courses[p->in->hunt->place[p->i]].done = true;
}

/* f for every image still in the search. Each has a course of its own and leaves at its end, so no
   image knows what else is in the batch. f writes to what is its own image's alone, in any thread.
   Returns how many go on. */
static int l2l__each(l2l__hunt *h, void (*f)(const l2l_spot *p))
{
    l2l_inner *in = &h->in;
    int i, standing = 0;
    L2L__PARALLEL(l2l__workers(in->context, l2l_count(in->shape)))
    for (i = 0; i < in->n; i++) {
        if (!l2l__hunted(h, i)) continue;
        l2l_spot p = l2l_spot_of(in, i);
        f(&p);
    }
    for (i = 0; i < in->n; i++) standing += l2l__hunted(h, i);
    return standing;
}

/* An image that is misclassified as it is needs no search. */
static void l2l__clean_seen(const l2l_spot *p)
{
    p->in->hunt->courses[p->in->hunt->place[p->i]].distance = p->fooled ? 0 : HUGE_VAL;
    l2l__keep(p->in->hunt, p->i, p->fooled, 0, 0);
    if (p->fooled) l2l_spot_end(p);
}

/* Room for what stays with the images of a search, all 0. Of search->memory in->delta is the first,
   which l2l__inner_open has zeroed. */
static bool l2l__search_open(l2l__hunt *h)
{
    const l2l_search *s = h->attack->search;
    l2l_inner *in = &h->in;
    l2l_context *c = in->context;
    h->courses = (l2l__course *)l2l__arena_array(c, in->n, sizeof *h->courses);
    h->states = (char *)l2l__arena_array(c, in->n, s->state ? s->state : 1);
    for (int i = 0; i < 2 && i + 1 < s->memory && !c->status; i++)
        in->memory[i] = l2l_zeros(c, in->shape);
    if (c->status) return false;
    memset(h->courses, 0, (size_t)in->n * sizeof *h->courses);
    memset(h->states, 0, (size_t)in->n * s->state);
    return true;
}

/* Room for fronts, where a search without gradients can use them; it can do without. Two 3x3 layers
   without padding take 4 off height and width, the pooling halves them. A lack of memory here is no
   error: whole images are taken then. */
static void l2l__search_fronts(l2l__hunt *h)
{
    l2l__fronts *f = &h->fronts, room = L2L__ZERO;
    l2l_inner *in = &h->in;
    l2l_context *c = in->context;
    const l2l_shape s = in->shape;
    if (!h->attack->queries || in->model->options.forward != l2l__smallcnn) return;
    room.in = in;
    room.kernels = c->kernels;
    room.place = h->place;
    room.pixels = l2l_count(s) / s.n;
    room.numbers = (int64_t)((s.h - L2L__SEEN) / 2) * ((s.w - L2L__SEEN) / 2) *
                   l2l__width(in->model, 32);
    for (int i = 0; i < 2; i++) {
        room.point[i] = (l2l_real *)l2l__arena_array(c, s.n * room.pixels, sizeof(l2l_real));
        room.front[i] = (l2l_real *)l2l__arena_array(c, s.n * room.numbers, sizeof(l2l_real));
        room.has[i] = (bool *)l2l__arena_array(c, s.n, sizeof(bool));
        if (room.has[i]) memset(room.has[i], 0, (size_t)s.n * sizeof(bool));
    }
    room.best = (unsigned char *)l2l__arena_array(c, s.n, 1);
    if (room.best) memset(room.best, 0, (size_t)s.n);
    if (!c->status) {
        *f = room;
        in->model->fronts = f;
    }
    l2l_error_clear(c);
}

/* First what the pass at the clean images says; then, until every image is done, as many as `begin`
   allows: the next point of each, a look at all, the conclusions of each. */
static void l2l__search(l2l__hunt *h)
{
    const l2l_search *s = h->attack->search;
    l2l_inner *in = &h->in;
    l2l_context *c = in->context;
    if (!l2l__search_open(h)) return;
    l2l__search_fronts(h);
    int64_t passes = s->begin(in, h->attack);
    int standing = c->status ? 0 : l2l__each(h, l2l__clean_seen);
    for (int t = 1; t <= passes && t < INT_MAX && standing && !c->status; t++) {
        l2l__hunt_leave(h);
        in->t = t;
        in->gradient = s->gradient;
        if (s->prepare) s->prepare(in);
        if (!c->status) l2l__each(h, s->point);
        l2l_finite_images(in, "the search's pixel", in->adv);
        l2l__look(in, 0, in->gradient);
        if (c->status) break;
        l2l__count_passes(h, 0, in->gradient);
        standing = l2l__each(h, s->seen);
    }
    in->model->fronts = NULL;
}

L2LADVDEF l2l_attack l2l_search_attack(const char *name, double epsilon, l2l_norm norm, int steps,
                                       const l2l_search *search)
{
    l2l_attack a = l2l__attack(name, epsilon, 0, steps, L2L_START_CLEAN);
    a.maximizer = l2l_maximizer_none();
    a.objective = l2l_objective_margin();
    a.norm = norm;
    a.search = search;
    a.minimal = true;
    return a;
}

/* -- a whole attack ---------------------------------------------------------------------------- */

/* Clean predictions, then all restarts. Stops early only when every image is fooled, which changes
   no result: the first success is what counts. t = -1 names the clean image in errors. An image
   whose target is its own label is kept at once and never hunted. The error of an image that is
   lost comes at the end: those before it go on, and one of them may be lost later. */
static bool l2l__hunt_batch(l2l__hunt *h)
{
    l2l_inner *in = &h->in;
    const l2l_attack *a = h->attack;
    memcpy(in->adv->data, in->x->data, (size_t)l2l_count(in->shape) * sizeof(l2l_real));
    in->t = -1;
    if (!l2l__inner_clean(in)) return false;
    l2l__look(in, 0, false);
    for (int i = 0; i < in->n && !in->context->status; i++) {
        h->records[i].clean = in->predicted[i];
        h->records[i].step = -1;
        h->records[i].forwards = (int)in->forwards;
        if (l2l__own_target(h, i)) l2l__keep(h, i, false, 0, 0);
    }
    l2l__hunt_done(h);
    if (a->search && !in->context->status) l2l__search(h);
    for (int r = 0; !a->search && r < a->restarts && !in->context->status; r++) {
        if (r > 0) l2l__hunt_leave(h);
        l2l__hunt_start(h, r);
        if (l2l__hunt_once(h, r) == 0) break;
    }
    return h->lost == UINT32_MAX || l2l__fail(in->context, L2L_ERROR_NUMERIC, "attack %s: %s",
                                              a->name, h->text);
}

/* A minimal-norm attack counts up to epsilon. */
static bool l2l__near_enough(const l2l_attack *a, const l2l_record *b)
{
    return !a->minimal || (a->norm == L2L_LINF ? b->linf : b->l2) <= a->epsilon;
}

/* Is the image wrong, though perhaps not where it shall be? */
static bool l2l__broken(const l2l_attack *a, const l2l_record *b)
{
    return b->predicted != b->label && l2l__near_enough(a, b);
}

/* Norms of the returned perturbations, and the promise that they keep: inside ball and image range.
   1e-6 is room for the rounding of epsilon and of x +- epsilon, in [0,1] at most 3e-8 each in
   float; in l2 also every pixel may be off by its last bit, less than 1e-7. */
static bool l2l__verify(l2l_context *c, const l2l_attack *a, const l2l_real *clean,
                        const l2l_real *adversarial, int64_t one, l2l_record *b, int image)
{
    double linf = 0, l2 = l2l_norm2(adversarial, clean, one), x, d;
    bool boxed = a->norm == L2L_LINF && !a->minimal;
    for (int64_t j = 0; j < one; j++) {
        x = (double)adversarial[j];
        d = fabs(x - (double)clean[j]);
        if (!(x >= 0 && x <= 1 && (!boxed || d <= a->epsilon + 1e-6)))
            return l2l__fail(c, L2L_ERROR_NUMERIC, "attack %s: pixel %z of image %d became %g, %g "
                             "away from the clean one; epsilon is %g", a->name, j, image, x, d,
                             a->epsilon);
        if (d > linf) linf = d;
    }
    b->linf = linf;
    b->l2 = l2;
    b->success = b->success && l2l__near_enough(a, b);
    return a->norm == L2L_LINF || a->minimal ||
           l2 <= a->epsilon * (1 + 1e-6) + 1e-7 * sqrt((double)one) ||
           l2l__fail(c, L2L_ERROR_NUMERIC, "attack %s: image %d is %g away from the clean one in "
                     "l2; epsilon is %g", a->name, image, l2, a->epsilon);
}

/* Several attacks one after the other on the same images, each on those that none before it
   fooled. */
typedef struct l2l__series {
    l2l_model *model;
    const l2l_attack *attacks;
    int count;
    const l2l_real *images;                  /* nxCxHxW                                           */
    const int *labels;
    int n;
    l2l_real *adversarial;                   /* NULL: not wanted                                  */
    l2l_record *records;
} l2l__series;

/* What attack number k made of a batch goes into the records where it is more than what the attacks
   before made of these images: success, or at least a wrong class. What is checked and returned is
   the image as the caller gets it, CxHxW. */
static bool l2l__hunt_end(l2l__hunt *h, const l2l__series *s, int k, const int *list, int n)
{
    const l2l_attack *a = h->attack;
    const l2l_model_options *o = &h->in.model->options;
    int64_t plane = (int64_t)o->height * o->width, one = plane * o->channels;
    l2l_real *out = (l2l_real *)l2l__arena_array(h->in.context, one, sizeof *out);
    for (int i = 0; out && i < n; i++) {
        l2l_record *b = &h->records[i], *old = &s->records[list[i]];
        l2l__image_to_chw(h->best + i * one, o->channels, plane, out);
        if (!l2l__verify(h->in.context, a, s->images + list[i] * one, out, one, b, list[i]))
            return false;
        b->attack = k;
        b->forwards += old->forwards;
        b->backwards += old->backwards;
        b->zero_gradients += old->zero_gradients;
        if (!old->forwards || b->success ||  /* none: it is the first attack on this image        */
            (l2l__broken(a, b) && !l2l__broken(&s->attacks[old->attack], old))) {
            *old = *b;
            if (s->adversarial)
                memcpy(s->adversarial + list[i] * one, out, (size_t)one * sizeof *out);
        }
        old->forwards = b->forwards;
        old->backwards = b->backwards;
        old->zero_gradients = b->zero_gradients;
    }
    return out != NULL;
}

/* Attack number k on the images numbered list[0] .. list[n-1]. All is in the arena, up to the mark
   of l2l__attack_list. One array is cut into place, labels, kept and trials. h.labels are the
   targets where there are some; records have the true labels. Nothing learns here: x'_0 is not
   kept, w is NULL, and one g serves all steps. */
static bool l2l__attack_batch(const l2l__series *s, int k, const int *list, int n)
{
    const l2l_attack *a = &s->attacks[k];
    l2l_model *m = s->model;
    l2l_context *c = m->context;
    const l2l_model_options *o = &m->options;
    int64_t plane = (int64_t)o->height * o->width, one = plane * o->channels;
    l2l__hunt h = L2L__ZERO;
    h.records = (l2l_record *)l2l__arena_array(c, n, sizeof *h.records);
    h.images = (uint32_t *)l2l__arena_array(c, n, sizeof *h.images);
    h.place = (int *)l2l__arena_array(c, n, 4 * sizeof *h.place);
    h.best = (l2l_real *)l2l__arena_array(c, n * one, sizeof *h.best);
    h.in.done = (bool *)l2l__arena_array(c, n, sizeof *h.in.done);
    h.in.x = l2l__new(c, "attack", l2l_shape_of(n, o->height, o->width, o->channels));
    if (c->status) return false;
    memset(h.records, 0, (size_t)n * sizeof *h.records);
    memset(h.in.done, 0, (size_t)n * sizeof *h.in.done);
    h.in.hunt = &h;
    h.lost = UINT32_MAX;
    h.labels = h.place + n;
    h.kept = h.labels + n;
    h.in.trials = h.kept + n;
    for (int i = 0; i < n; i++) {
        h.place[i] = i;
        h.images[i] = a->first + (uint32_t)list[i];
        h.records[i].label = s->labels[list[i]];
        h.labels[i] = a->targets ? a->targets[list[i]] : s->labels[list[i]];
        l2l__image_to_hwc(s->images + list[i] * one, o->channels, plane, h.in.x->data + i * one);
    }
    h.attack = a;
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
    h.in.step_size = l2l__step_size(a);
    h.in.T = a->steps;
    h.in.mode = L2L_EVALUATE;
    return l2l__inner_open(&h.in, false) && l2l__hunt_batch(&h) &&
           l2l__hunt_end(&h, s, k, list, n);
}

/* The images that no attack fooled yet and that number k does not spare, into `list`. */
static int l2l__standing(const l2l__series *s, int k, int *list)
{
    const bool *only = s->attacks[k].only;
    int standing = 0;
    for (int i = 0; i < s->n; i++)
        if (!s->records[i].success && (!only || only[i])) list[standing++] = i;
    return standing;
}

/* Attack number k on those of the images whose numbers are in `list`. */
static bool l2l__attack_list(const l2l__series *s, int k, const int *list, int n)
{
    const l2l_attack *a = &s->attacks[k];
    l2l_context *c = s->model->context;
    l2l_mark mark = l2l_mark_here(c);
    int batch;
    for (int first = 0; first < n && !c->status; first += batch) {
        batch = n - first < a->batch ? n - first : a->batch;
        l2l__attack_batch(s, k, list + first, batch);
        l2l_release(c, mark);
        if (!c->status && a->progress && !a->progress(a->user, first + batch, n))
            l2l__fail(c, L2L_ERROR_CANCELLED, "attack %s: cancelled after %d of %d images", a->name,
                      first + batch, n);
    }
    return !c->status;
}

/* All attacks are checked before the first one runs. */
static bool l2l__series_ok(l2l_context *c, const l2l__series *s)
{
    const l2l_model_options *o = &s->model->options;
    if (s->count < 1) return l2l__fail(c, L2L_ERROR_ARGUMENT, "attack: %d attacks", s->count);
    for (int k = 0; k < s->count; k++) {
        const l2l_attack *a = s->attacks ? &s->attacks[k] : NULL;
        if (!l2l__attack_ok(c, "attack", a, s->n) ||
            !l2l__images_ok(c, "attack: target", o, NULL, a->targets, s->n) ||
            !l2l__images_ok(c, "attack: init", o, a->init, NULL, s->n))
            return false;
    }
    return s->n == 0 || (l2l__given(c, "attack", "images", s->images) &&
                         l2l__given(c, "attack", "labels", s->labels) &&
                         l2l__images_ok(c, "attack", o, s->images, s->labels, s->n));
}

/* What is set of a record before the attacks stays in it where all of them spare the image. */
static bool l2l__series_run(const l2l__series *s)
{
    l2l_model *m = s->model;
    l2l_context *c = m->context;
    if (c->status) return false;
    c->threads_looked_at = false;
    if (!l2l__series_ok(c, s)) return false;
    l2l_mark mark = l2l_mark_here(c);
    bool was = c->recording;
    int *list = (int *)l2l__arena_array(c, s->n, sizeof *list);
    for (int i = 0; i < s->n; i++) {
        s->records[i].label = s->labels[i];
        s->records[i].clean = s->records[i].predicted = s->records[i].step = -1;
    }
    for (int k = 0; k < s->count && !c->status; k++)
        l2l__attack_list(s, k, list, l2l__standing(s, k, list));
    c->recording = was;
    l2l_release(c, mark);
    return !c->status;
}

L2LADVDEF bool l2l_attack_worst(l2l_model *m, const l2l_attack *attacks, int n_attacks,
                                const l2l_real *images, const int *labels, int n,
                                l2l_real *adversarial, l2l_record *records)
{
    l2l_record *own = NULL;                  /* where the caller wants none                       */
    if (n > 0 && records) memset(records, 0, (size_t)n * sizeof *records);
    if (!m || m->context->status) return false;
    if (!records && n > 0)
        records = own = (l2l_record *)l2l__allocate_array(m->context, n, sizeof *own);
    l2l__series s = {m, attacks, n_attacks, images, labels, n, adversarial, records};
    bool ok = l2l__series_run(&s);
    l2l_free(m->context, own);
    return ok;
}

L2LADVDEF bool l2l_attack_run(l2l_model *m, const l2l_attack *a, const l2l_real *images,
                              const int *labels, int n, l2l_real *adversarial, l2l_record *records)
{
    return l2l_attack_worst(m, a, 1, images, labels, n, adversarial, records);
}

#ifdef __clang__
#pragma mark - 12  Evaluation
#endif
/* ============================================================================================ */
/*  12 EVALUATION                                                                 >>evaluation  */
/* ============================================================================================ */

L2LADVDEF bool l2l_evaluate(l2l_model *m, const l2l_attack *attacks, int n_attacks,
                            const l2l_dataset *d, int first, int n, l2l_real *adversarial,
                            l2l_record *records)
{
    const char *who = "evaluation";
    l2l_context *c = l2l_model_context(m);
    if (n > 0 && records) memset(records, 0, (size_t)n * sizeof *records);
    if (!c || c->status || !l2l__dataset_fits(c, who, d, &m->options) ||
        (n_attacks > 0 && !l2l__given(c, who, "the attack", attacks)))
        return false;
    if (n_attacks < 0) return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d attacks", who, n_attacks);
    if (first < 0 || n < 0 || n > d->count - first)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images from %d on are not among %d", who, n,
                         first, d->count);
    int64_t one = l2l__image_size(&m->options);
    l2l_mark mark = l2l_mark_here(c);
    l2l_dataset data = *d;                   /* errors and room are the model's context's         */
    l2l_real *x = (l2l_real *)l2l__arena_array(c, n * one, sizeof *x);
    int *labels = (int *)l2l__arena_array(c, n, sizeof *labels);
    l2l_attack *part = (l2l_attack *)l2l__arena_array(c, n_attacks, sizeof *part);
    data.context = c;
    for (int i = 0; i < n && !c->status; i++)
        l2l__fetch(&data, who, &m->options, NULL, NULL, first + i, x + i * one, labels + i);
    for (int k = 0; k < n_attacks && !c->status; k++) {
        part[k] = attacks[k];
        l2l__attack_from(&part[k], &attacks[k], first, one);
    }
    l2l_attack_worst(m, part, n_attacks, x, labels, n, adversarial, records);
    l2l_release(c, mark);
    return !c->status;
}

L2LADVDEF double l2l_accuracy(l2l_model *m, const l2l_dataset *d, int images, const l2l_attack *a)
{
    const l2l_attack none = l2l__attack("none", 0, 0, 0, L2L_START_CLEAN);
    l2l_context *c = l2l_model_context(m);
    l2l_attack part = a ? *a : none;
    l2l_record records[100];
    int n, right = 0, all = d && (images <= 0 || images > d->count) ? d->count : images;
    if (part.only && c)
        l2l__fail(c, L2L_ERROR_ARGUMENT, "l2l_accuracy: an attack on some of the images alone: "
                  "`only` must be NULL");
    part.progress = NULL;                    /* it is told of all images, not of a hundred        */
    for (int i = 0; i == 0 || i < all; i += n) {
        n = all - i < 100 ? all - i : 100;
        if (!l2l_evaluate(m, &part, 1, d, i, n, NULL, records)) return 0;
        for (int j = 0; j < n; j++) right += !l2l__broken(&part, &records[j]);
        if (a && a->progress && n > 0 && !a->progress(a->user, i + n, all)) {
            l2l__fail(c, L2L_ERROR_CANCELLED, "attack %s: cancelled after %d of %d images", a->name,
                      i + n, all);
            return 0;
        }
    }
    return all > 0 ? (double)right / all : 0;
}

#ifdef __clang__
#pragma mark - 13  Data sets
#endif
/* ============================================================================================ */
/*  13 DATA SETS                                                                   >>data-code  */
/* ============================================================================================ */

/* -- an image on its way ----------------------------------------------------------------------- */

/* Of images and labels: of all of them, or of as many, spread over the data set, as have four
   million numbers, 16 at least. Other data, another number. */
static double l2l__data_digest(const l2l_trainer *t)
{
    l2l_context *c = t->context;
    const l2l_dataset *d = &t->data;
    int64_t one = (int64_t)d->channels * d->height * d->width, n = (1 << 22) / one;
    l2l_real *x = (l2l_real *)l2l__arena_array(c, one, sizeof *x);
    uint64_t h = L2L__FNV;
    int label = 0;
    if (n < 16) n = 16;
    if (n > d->count) n = d->count;
    for (int64_t i = 0; x && i < n; i++) {
        int which = n > 1 ? (int)((d->count - 1) * i / (n - 1)) : 0;
        if (!d->fetch(d, which, x, &label)) {
            l2l__fail(c, L2L_ERROR_CALLBACK, "l2l_trainer_create: the data set's fetch failed for "
                      "image %d", which);
            break;
        }
        h = l2l__fold(h, x, (size_t)one * sizeof *x);
        h = l2l__fold(h, &label, sizeof label);
    }
    l2l__arena_drop(c, x);
    return (double)(h >> 12);
}

/* The order of an epoch: a Fisher-Yates shuffle, a function of seed and epoch alone. */
static void l2l__shuffle(int *order, int n, uint64_t seed, uint32_t purpose, uint32_t epoch)
{
    l2l_stream s = l2l__stream(seed, purpose, epoch, 0, 0);
    for (int i = n - 1; i > 0; i--) {
        int j = (int)((uint64_t)l2l_random_bits(&s, (uint32_t)i) * (uint64_t)(i + 1) >> 32);
        int swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

/* h x w pixels of an image from (top, left) on, mirrored or not; black outside of it. */
static void l2l__crop(const l2l_dataset *d, const l2l_real *from, int top, int left, bool flip,
                      int h, int w, l2l_real *out)
{
    for (int k = 0; k < d->channels; k++)
        for (int i = top; i < top + h; i++)
            for (int j = 0; j < w; j++) {
                int x = left + (flip ? w - 1 - j : j);
                bool inside = i >= 0 && i < d->height && x >= 0 && x < d->width;
                *out++ = inside ? from[((int64_t)k * d->height + i) * d->width + x] : 0;
            }
}

/* Half of what is too much; halves are rounded to even, as torchvision's CenterCrop does. */
static int l2l__centre(int more) { return more / 2 + (more % 4 == 3); }

/* Image `index` as `fetch` or the caller gave it. */
static bool l2l__fetched_ok(const l2l_dataset *d, const char *who, int index, const l2l_real *x,
                            int label)
{
    int64_t n = (int64_t)d->channels * d->height * d->width;
    return l2l__label_ok(d->context, who, label, index, d->classes) &&
           l2l__image_ok(d->context, who, x, n, index);
}

/* Image `index`, checked, at the size of model `o`: as `a` says, by the numbers of stream `s`, or
   with NULL for both cut out of the centre. */
static bool l2l__fetch(const l2l_dataset *d, const char *who, const l2l_model_options *o,
                       const l2l_augment *a, const l2l_stream *s, int index, l2l_real *chw,
                       int *label)
{
    l2l_context *c = d->context;
    int down = d->height - o->height, right = d->width - o->width;
    int top = l2l__centre(down), left = l2l__centre(right);
    bool flip = a && a->flip && l2l_random_bits(s, 2) >> 31;
    l2l_real *x = (l2l_real *)l2l__arena_array(c, (int64_t)d->channels * d->height * d->width,
                                               sizeof *x);
    if (!x) return false;
    if (a) {
        uint64_t tops = (uint64_t)down + 2 * (uint64_t)a->padding + 1;
        uint64_t lefts = (uint64_t)right + 2 * (uint64_t)a->padding + 1;
        top = (int)(l2l_random_bits(s, 0) * tops >> 32) - a->padding;
        left = (int)(l2l_random_bits(s, 1) * lefts >> 32) - a->padding;
    }
    if (!d->fetch(d, index, x, label))
        l2l__fail(c, L2L_ERROR_CALLBACK, "%s: the data set's fetch failed for image %d", who,
                  index);
    else if (l2l__fetched_ok(d, who, index, x, *label))
        l2l__crop(d, x, top, left, flip, o->height, o->width, chw);
    l2l__arena_drop(c, x);
    return !c->status;
}

#ifdef __clang__
#pragma mark - 14  Files
#endif
/* ============================================================================================ */
/*  14 FILES                                                                      >>files-code  */
/* ============================================================================================

   Bytes and headers first. Then the bundle: named tensors and texts, which are a safetensors file;
   models, maximizers and checkpoints are bundles. Then data sets. Whatever takes a path is at the
   end and stands on what works from memory. */

/* The bytes of a file: borrowed, or (owned) read into memory of ours, as many as are needed. What
   is in front is looked at before memory for the rest is asked for. */
typedef struct l2l__file {
    l2l_context *context;
    const char *label;                       /* path or "memory", borrowed                        */
    const unsigned char *data;               /* the first `loaded` of its bytes                   */
    size_t bytes, loaded;
    void *owned;                             /* to be given back with l2l_free, or NULL           */
    void *stream;                            /* a FILE of ours with the others, or NULL           */
} l2l__file;

static l2l__file l2l__file_of(l2l_context *c, const char *label, const void *data, size_t bytes)
{
    l2l__file f = L2L__ZERO;
    f.context = c;
    f.label = label;
    f.data = (const unsigned char *)data;
    f.bytes = f.loaded = data ? bytes : 0;
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

/* -- UTF-8 (RFC 3629) -------------------------------------------------------------------------- */

/* The character v that a text begins with; how many bytes it has, 0 if it is not UTF-8: that is no
   overlong form, no half of a surrogate pair, nothing beyond U+10FFFF. */
static int l2l__utf8_get(const char *text, uint32_t *v)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *p = (const unsigned char *)text;
    const int n = *p < 0x80 ? 1 : *p < 0xC0 ? 0 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : *p < 0xF8 ? 4 : 0;
    *v = n > 1 ? *p & (127u >> n) : *p;
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        *v = *v << 6 | (p[i] & 63u);
    }
    return *v >= least[n] && *v < 0x110000 && (*v < 0xD800 || *v > 0xDFFF) ? n : 0;
}

static bool l2l__is_utf8(const char *text)
{
    uint32_t v;
    for (int n; *text; text += n)
        if (!(n = l2l__utf8_get(text, &v))) return false;
    return true;
}

/* Writes the character v, 0 as two bytes, so that it ends no text. How many bytes. */
static int l2l__utf8_put(uint32_t v, char *out)
{
    int n = v && v < 0x80 ? 1 : v < 0x800 ? 2 : v < 0x10000 ? 3 : 4, i;
    for (i = n - 1; i > 0; i--, v >>= 6) out[i] = (char)(0x80 | (v & 63));
    out[0] = (char)(n == 1 ? v : (0xF00u >> n & 255) | v);
    return n;
}

/* -- arrays of numbers in a file --------------------------------------------------------------- */

/* The types of safetensors. Of those behind BF16 only the size is used; a file may have others, all
   of them L2L__DTYPES here. */
typedef enum l2l__dtype {
    L2L__F32, L2L__F64, L2L__F16, L2L__BF16, L2L__I64, L2L__U8, L2L__DTYPES = 15,
    L2L__REAL = sizeof(l2l_real) / 8         /* the type of l2l_real                              */
} l2l__dtype;
static const struct { char name[8]; int size; } l2l__dtypes[L2L__DTYPES] = {
    {"F32", 4}, {"F64", 8}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"U8", 1}, {"I8", 1}, {"I16", 2},
    {"I32", 4}, {"U16", 2}, {"U32", 4}, {"U64", 8}, {"BOOL", 1}, {"F8_E5M2", 1}, {"F8_E4M3", 1}};

/* An array: in a file from byte `begin` on, or here at `data`, to be written or read into. */
typedef struct l2l__entry {
    const char *name;
    const char *type;                        /* as a safetensors file says it                     */
    int dtype, rank;
    int64_t shape[8], count;
    size_t begin, end;
    void *data;
} l2l__entry;

/* *count = the product of a shape; false when one is negative or the product does not fit. */
static bool l2l__product(const int64_t *shape, int rank, int64_t *count)
{
    for (*count = 1; rank > 0; rank--, shape++) {
        if (*shape < 0 || (*shape && *count > INT64_MAX / *shape)) return false;
        *count *= *shape;
    }
    return true;
}

/* An integer of 1 to 8 bytes, by shifts: right on a machine of any byte order. */
static uint64_t l2l__get_bytes(const unsigned char *p, int size, bool big)
{
    uint64_t v = 0;
    for (int i = 0; i < size; i++) v |= (uint64_t)p[big ? size - 1 - i : i] << (8 * i);
    return v;
}

/* Element i of an array of F32, F64, F16 or BF16. */
static double l2l__entry_real(const l2l__file *f, const l2l__entry *e, int64_t i)
{
    int size = l2l__dtypes[e->dtype].size;
    uint64_t bits = l2l__get_bytes(f->data + e->begin + (size_t)(i * size), size, false);
    uint32_t u = (uint32_t)(e->dtype == L2L__BF16 ? bits << 16 : bits);
    int exponent = (int)(bits >> 10 & 31), m = (int)(bits & 1023);
    float single;
    double v;
    memcpy(&single, &u, 4);
    memcpy(&v, &bits, 8);
    if (e->dtype == L2L__F64) return v;
    if (e->dtype != L2L__F16) return (double)single;
    v = exponent == 31 ? (m ? (double)NAN : (double)INFINITY)
      : exponent == 0 ? ldexp(m, -24) : ldexp(1024 + m, exponent - 25);
    return bits & 0x8000 ? -v : v;
}

/* n elements of an array here, from i on, as little-endian bytes. */
static void l2l__entry_write(const l2l__entry *e, int64_t i, int64_t n, unsigned char *p)
{
    int size = l2l__dtypes[e->dtype].size;
    const unsigned char *x = (const unsigned char *)e->data + i * size;
    const uint16_t one = 1;
    const bool big = !*(const unsigned char *)&one;
    for (; n > 0; n--, p += size, x += size)
        for (int j = 0; j < size; j++) p[j] = x[big ? size - 1 - j : j];
}

/* -- whole files on disk ----------------------------------------------------------------------- */

#ifndef L2LADV_NO_STDIO
/* The system's own: names are UTF-8, and files may be longer than a long tells. On Windows, where
   neither is so with the functions of ISO C, by those of its C library. */
#ifdef _WIN32
#include <wchar.h>
enum { L2L__PATH = 1024 };
/* Of kernel32, which every program is linked to: windows.h would put its names into every file. */
#ifdef __cplusplus
extern "C"
#else
extern
#endif
__declspec(dllimport) int __stdcall MoveFileExW(const wchar_t *from, const wchar_t *to,
                                                unsigned long flags);

/* UTF-8 as UTF-16; what is not UTF-8 is taken byte by byte, and what is too long is no name. */
static const wchar_t *l2l__wide(const char *path, wchar_t w[L2L__PATH])
{
    int n = 0;
    for (uint32_t v; *path && n < L2L__PATH - 2; w[n++] = (wchar_t)v) {
        int used = l2l__utf8_get(path, &v);
        if (!used) v = (unsigned char)*path;
        if (v > 0xFFFF) {
            w[n++] = (wchar_t)(0xD800 + ((v - 0x10000) >> 10));
            v = 0xDC00 + (v & 1023);
        }
        path += used ? used : 1;
    }
    w[*path ? 0 : n] = 0;
    return w;
}
static FILE *l2l__open(const char *path, const char *mode)
{
    wchar_t w[L2L__PATH], m[L2L__PATH];
    return _wfopen(l2l__wide(path, w), l2l__wide(mode, m));
}
static int l2l__remove(const char *path)
{
    wchar_t w[L2L__PATH];
    return _wremove(l2l__wide(path, w));
}
/* As POSIX's rename: a file that is there is replaced, or stays if it cannot be. */
static int l2l__rename(const char *from, const char *to)
{
    wchar_t w[L2L__PATH], v[L2L__PATH];
    const unsigned long replace_existing = 1, write_through = 8;
    if (MoveFileExW(l2l__wide(from, w), l2l__wide(to, v), replace_existing | write_through))
        return 0;
    errno = EACCES;
    return -1;
}
static int l2l__seek(FILE *f, int64_t to, int from) { return _fseeki64(f, to, from); }
static int64_t l2l__tell(FILE *f) { return _ftelli64(f); }
#else
static FILE *l2l__open(const char *path, const char *mode) { return fopen(path, mode); }
static int l2l__remove(const char *path) { return remove(path); }
static int l2l__rename(const char *from, const char *to) { return rename(from, to); }
static int l2l__seek(FILE *f, int64_t to, int from)
{
    return to > LONG_MAX ? -1 : fseek(f, (long)to, from);
}
static int64_t l2l__tell(FILE *f)
{
    long at = ftell(f);                      /* LONG_MAX is what some systems say of a directory  */
    return at < LONG_MAX ? at : -1;
}
#endif

static bool l2l__file_cannot(const l2l__file *f, const char *what, int64_t at)
{
    return l2l__bad(f, L2L_ERROR_FILE, at, "cannot %s: %s", what,
                    errno ? strerror(errno) : "unknown cause");
}

/* -- where a file is written: the one place that asks more of a system than ISO C has ---------- */

typedef struct l2l__target {
    char path[4096];                         /* the file to be replaced, links followed           */
    char beside[4096 + 32];                  /* what is renamed to it when all is written         */
    bool in_place;                           /* no: it is no regular file                         */
    int lock;                                /* on `beside`, for as long as it is ours; else -1   */
#ifdef L2L__POSIX
    struct stat old;
    bool there;
#endif
} l2l__target;

static void l2l__target_name(l2l__target *t, int number)
{
    const char *slash = strrchr(t->path, '/');
    size_t folder = slash ? (size_t)(slash - t->path) + 1 : 0, n = strlen(t->path);
    if (n - folder > 200)                    /* names of over 255 bytes cannot be                 */
        for (n = folder + 200; n > folder + 196 && (t->path[n] & 0xC0) == 0x80; n--) {}
    memcpy(t->beside, t->path, n);
    l2l__format(t->beside + n, sizeof t->beside - n, ".l2ladv-tmp%d", number);
}

#ifdef L2L__POSIX
#ifndef __cplusplus                          /* a strict -std=c99 hides it                        */
ssize_t readlink(const char *path, char *to, size_t size);
#endif

/* Finds out where a path leads, and to what; false with errno. What the process has open (say
   /dev/stdout) is written in place whatever it is: others hold it, too. */
static bool l2l__target_find(l2l__target *t, const char *path)
{
    char to[sizeof t->path + 1];
    size_t folder = 0;                       /* as many bytes of t->path a relative link keeps    */
    for (int links = 0; links < 40; links++) {
        const size_t n = strlen(path);
        errno = ENAMETOOLONG;
        if (folder + n >= sizeof t->path) return false;
        memcpy(t->path + folder, path, n + 1);
        t->in_place = !strncmp(t->path, "/dev/fd/", 8) || !strncmp(t->path, "/dev/std", 8) ||
                      !strncmp(t->path, "/proc/", 6);
        ssize_t length = t->in_place ? -1 : readlink(t->path, to, sizeof to - 1);
        if (length < 0) {
            if (!t->in_place && errno != EINVAL && errno != ENOENT) return false;
            t->there = !stat(t->path, &t->old);
            t->in_place = t->in_place || (t->there && !S_ISREG(t->old.st_mode));
            return t->there || errno == ENOENT;
        }
        to[length] = 0;
        path = to;
        const char *slash = strrchr(t->path, '/');
        folder = to[0] == '/' || !slash ? 0 : (size_t)(slash - t->path) + 1;
    }
    errno = ELOOP;
    return false;
}

static bool l2l__same_file(int descriptor, const char *path)
{
    struct stat a, b;
    return !fstat(descriptor, &a) && !stat(path, &b) && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static void l2l__unlock(int lock) { if (lock >= 0) close(lock); }

/* Makes the file beside, with the first number that no living process holds; false with errno. What
   a killed process left, which nobody has locked, is taken away. The lock comes a moment after the
   file, so whoever has made one looks whether it was taken for such a one in between. */
static bool l2l__target_claim(l2l__target *t)
{
    if (t->there && access(t->path, W_OK)) return false; /* rename would not ask                  */
    for (int k = 0; k < 200; k++) {
        l2l__target_name(t, k / 2);
        t->lock = open(t->beside, O_WRONLY | O_CREAT | O_EXCL, t->there ? 0600 : 0666);
        /* Some disks know no locks; on them no file is ever taken for one that was left. */
        if (t->lock >= 0 && (!flock(t->lock, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) &&
            l2l__same_file(t->lock, t->beside)) return true;
        if (t->lock < 0 && errno != EEXIST) return false;
        int left = t->lock < 0 ? open(t->beside, O_WRONLY | O_NONBLOCK) : -1;
        if (left >= 0 && !flock(left, LOCK_EX | LOCK_NB) && l2l__same_file(left, t->beside))
            l2l__remove(t->beside);
        l2l__unlock(left);
        l2l__unlock(t->lock);
        t->lock = -1;
        errno = EEXIST;
    }
    return false;
}

/* Without opening it: that would wait for a writer. */
static bool l2l__is_pipe(const char *path)
{
    struct stat s;
    return !stat(path, &s) && S_ISFIFO(s.st_mode);
}
#else
static void l2l__unlock(int lock) { L2L__UNUSED(lock); }
static bool l2l__is_pipe(const char *path) { L2L__UNUSED(path); return false; }

static bool l2l__target_find(l2l__target *t, const char *path)
{
    t->in_place = false;
    return l2l__format(t->path, sizeof t->path, "%s", path) < sizeof t->path;
}

static bool l2l__target_claim(l2l__target *t)
{
    l2l__target_name(t, 0);
    t->lock = 0;
    return true;
}
#endif

static FILE *l2l__target_open(l2l__target *t, const char *path)
{
    t->beside[0] = 0;
    t->lock = -1;
    if (!l2l__target_find(t, path) || (!t->in_place && !l2l__target_claim(t))) return NULL;
    return l2l__open(t->in_place ? t->path : t->beside, "wb");
}

/* With all written, the file beside gets the owner and the mode of the old one, and takes its
   place; else it goes. Where the group cannot be given, it may do what others may. False with
   errno. */
static bool l2l__target_close(const l2l__target *t, bool ok)
{
#ifdef L2L__POSIX
    if (ok && t->there) {
        mode_t mode = (mode_t)(t->old.st_mode & 0777);
        if (chown(t->beside, t->old.st_uid, t->old.st_gid) &&
            chown(t->beside, (uid_t)-1, t->old.st_gid))
            mode = (mode_t)((mode & 0707) | (mode & 7) << 3);
        chmod(t->beside, mode);
    }
#endif
    ok = ok && !l2l__rename(t->beside, t->path);
    int why = errno;
    if (!ok) l2l__remove(t->beside);
    l2l__unlock(t->lock);
    errno = why;
    return ok;
}

/* -- whole files ------------------------------------------------------------------------------- */

static bool l2l__file_exists(const char *path)
{
    errno = 0;
    FILE *f = l2l__is_pipe(path) ? NULL : l2l__open(path, "rb");
    bool there = f || errno != ENOENT;
    if (f) fclose(f);
    return there;
}

/* A file of which nothing has been read yet; after an error without bytes. */
static l2l__file l2l__file_open(l2l_context *c, const char *path)
{
    l2l__file f = l2l__file_of(c, path, NULL, 0);
    int64_t bytes;
    if (c->status || !l2l__given(c, "a file", "its path", path)) return f;
    errno = 0;
    bool pipe = l2l__is_pipe(path);
    FILE *in = pipe ? NULL : l2l__open(path, "rb");
    f.stream = in;
    if (!in && !pipe) {
        l2l__file_cannot(&f, "open it", -1);
        return f;
    }
    bytes = !in || l2l__seek(in, 0, SEEK_END) ? -1 : l2l__tell(in);
    if (bytes < 0)
        l2l__bad(&f, L2L_ERROR_FILE, -1, "not a file of a known length (a directory, a pipe?)");
    else if ((uint64_t)bytes > SIZE_MAX / 2)
        l2l__bad(&f, L2L_ERROR_FORMAT, -1, "%z bytes: no file is so long here", bytes);
    else f.bytes = (size_t)bytes;
    return f;
}

static void l2l__file_shut(l2l__file *f)
{
    if (f->stream) fclose((FILE *)f->stream);
    f->stream = NULL;
}

/* The first n bytes (or all, if there are fewer) come to f->data; false after an error. */
static bool l2l__file_hold(l2l__file *f, size_t n)
{
    FILE *in = (FILE *)f->stream;
    unsigned char *all;
    if (n > f->bytes) n = f->bytes;
    if (f->context->status || n <= f->loaded) return !f->context->status;
    if (!(all = (unsigned char *)l2l__allocate_raw(f->context, n))) return false;
    if (f->loaded) memcpy(all, f->data, f->loaded);
    l2l_free(f->context, f->owned);
    f->owned = all;
    f->data = all;
    errno = 0;
    if (l2l__seek(in, (int64_t)f->loaded, SEEK_SET) ||
        fread(all + f->loaded, 1, n - f->loaded, in) != n - f->loaded)
        return l2l__file_cannot(f, "read on", (int64_t)f->loaded);
    f->loaded = n;
    if (n == f->bytes) l2l__file_shut(f);
    return true;
}

/* Bytes, and then n arrays, as a file or instead of one: see 2.14. */
static bool l2l__file_write(l2l_context *c, const char *path, const void *head, size_t length,
                            const l2l__entry *e, int n)
{
    unsigned char block[4096];
    l2l__file f = l2l__file_of(c, path, NULL, 0);
    l2l__target t;
    int64_t at, i, k, size;
    if (c->status) return false;
    errno = 0;
    FILE *out = l2l__target_open(&t, path);
    bool ok = out && (!length || fwrite(head, 1, length, out) == length), written;
    for (at = (int64_t)length; ok && n > 0; n--, e++)
        for (size = l2l__dtypes[e->dtype].size, i = 0; ok && i < e->count; i += k, at += k * size) {
            k = (int64_t)sizeof block / size < e->count - i ? (int64_t)sizeof block / size
                                                            : e->count - i;
            l2l__entry_write(e, i, k, block);
            ok = fwrite(block, (size_t)size, (size_t)k, out) == (size_t)k;
        }
    int why = errno;
    if (out && fclose(out) && ok) {          /* which also writes what is not written yet         */
        ok = false;
        why = errno;
    }
    written = ok;
    errno = why;
    if (t.lock >= 0) ok = l2l__target_close(&t, ok);
    if (written && !ok) l2l__file_cannot(&f, "put the new file in its place", -1);
    else if (!ok && out) l2l__file_cannot(&f, "write on", at);
    else if (!ok && t.beside[0])
        l2l__bad(&f, L2L_ERROR_FILE, -1, "cannot make '%s': %s", t.beside, strerror(errno));
    else if (!ok) l2l__file_cannot(&f, "open it to write", -1);
    return ok;
}
#else
static bool l2l__file_exists(const char *path) { return path != NULL; }
static void l2l__file_shut(l2l__file *f) { L2L__UNUSED(f); }
static bool l2l__file_hold(l2l__file *f, size_t n)
{
    L2L__UNUSED(n);                          /* all is in memory                                  */
    return !f->context->status;
}
static l2l__file l2l__file_open(l2l_context *c, const char *path)
{
    l2l__file f = l2l__file_of(c, path, NULL, 0);
    l2l__bad(&f, L2L_ERROR_UNSUPPORTED, -1, "a file needs stdio");
    return f;
}
static bool l2l__file_write(l2l_context *c, const char *path, const void *head, size_t length,
                            const l2l__entry *e, int n)
{
    L2L__UNUSED(head); L2L__UNUSED(length); L2L__UNUSED(e); L2L__UNUSED(n);
    l2l__file_open(c, path);
    return false;
}
#endif

static void l2l__file_close(l2l__file *f)
{
    l2l__file_shut(f);
    l2l_free(f->context, f->owned);
}

/* -- a scanner for the headers of safetensors, which are JSON ---------------------------------- */

/* Text that is parsed, and overwritten, in place; it ends with a zero, which no rule accepts. It is
   behind eight bytes of the file. The first error stays in the context and ends every list, so few
   results need a look. */
typedef struct l2l__scan {
    const l2l__file *file;
    char *text, *at;
} l2l__scan;

/* An error at the place that the scanner has come to; `what` may have one %s, for `which`. */
static bool l2l__scan_fail(const l2l__scan *s, const char *what, const char *which)
{
    return l2l__bad(s->file, L2L_ERROR_FORMAT, 8 + (s->at - s->text), what, which);
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
    return l2l__scan_take(s, ch) || l2l__scan_fail(s, "expected %s here", text);
}

/* In front of element n of a list: true if there is one, false behind `close` or after an error. */
static bool l2l__scan_next(l2l__scan *s, char close, int64_t n)
{
    if (s->file->context->status) return false;
    if (n == 0) return !l2l__scan_take(s, close);
    if (l2l__scan_take(s, ',')) return true;
    l2l__scan_want(s, close);
    return false;
}

static const char l2l__escapes[] = "/\"\\bfnrt", l2l__escaped[] = "/\"\\\b\f\n\r\t";

/* What \uXXXX stands for here, a pair of surrogates together; *used: its length. 0x110000 if that
   is no character. */
static uint32_t l2l__scan_unicode(const char *s, int *used)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    uint32_t v[2] = {0, 0};
    for (int half = 0; half < 2; half++, s += 6) {
        *used = 6 * (half + 1);
        for (int i = 2; i < 6; i++) {
            const char *p = s[0] == '\\' && s[1] == 'u' && s[i] ? strchr(digits, s[i]) : NULL;
            if (!p) return 0x110000;
            v[half] = 16 * v[half] + (uint32_t)(p - digits < 16 ? p - digits : p - digits - 6);
        }
        if (!half && (v[0] < 0xD800 || v[0] > 0xDFFF)) return v[0];
    }
    return v[0] > 0xDBFF || v[1] < 0xDC00 || v[1] > 0xDFFF ? 0x110000
         : 0x10000 + ((v[0] - 0xD800) << 10) + (v[1] - 0xDC00);
}

/* A string, decoded in place (it only gets shorter); "" after an error. */
static const char *l2l__scan_string(l2l__scan *s)
{
    char *start, *out;
    if (!l2l__scan_want(s, '"')) return "";
    for (start = out = s->at; *s->at != '"';) {
        const bool escape = *s->at == '\\';
        const char *p = escape && s->at[1] ? strchr(l2l__escapes, s->at[1]) : NULL;
        int used = escape ? 2 : 1;
        uint32_t v = escape && s->at[1] == 'u' ? l2l__scan_unicode(s->at, &used) : 0;
        if ((unsigned char)*s->at < 32 || v > 0x10FFFF || (escape && !p && s->at[1] != 'u')) {
            l2l__scan_fail(s, "a string without an end, with a control character or with \\ before "
                           "neither \" \\ / b f n r t nor u and four hexadecimal digits of a "
                           "character (of two, if it is one of a pair of surrogates)", NULL);
            return "";
        }
        if (escape && !p) out += l2l__utf8_put(v, out);
        else *out++ = p ? l2l__escaped[p - l2l__escapes] : *s->at;
        s->at += used;
    }
    s->at++;
    *out = 0;
    return start;
}

/* A list of whole numbers, of which the first `most` are kept; how many. */
static int l2l__scan_integers(l2l__scan *s, int64_t *v, int most)
{
    const char *start;
    int n, digit;
    l2l__scan_want(s, '[');
    for (n = 0; l2l__scan_next(s, ']', n); n++) {
        int64_t other, *to = n < most ? v + n : &other;
        l2l__scan_take(s, 0);
        for (*to = 0, start = s->at; *s->at >= '0' && *s->at <= '9'; s->at++) {
            digit = *s->at - '0';
            if (*to > (INT64_MAX - digit) / 10) l2l__scan_fail(s, "a number beyond 2^63-1", NULL);
            else *to = *to * 10 + digit;
        }
        if (s->at == start || (*start == '0' && s->at > start + 1))
            l2l__scan_fail(s, "expected a whole number, not negative, no leading zeros", NULL);
    }
    return n;
}

/* -- bundles: named tensors and texts, in safetensors files ------------------------------------ */

/* A text of a file's metadata. */
typedef struct l2l__pair {
    const char *key, *text;
} l2l__pair;

/* Made from a file (l2l__bundle_open), or by l2l__bundle_new, _put and _add: to be saved then, or
   as the list of what a file must have and where it goes (l2l__bundle_take). To be closed. */
typedef struct l2l__bundle {
    l2l__file file;
    size_t first;                            /* where the tensors' bytes begin in it              */
    l2l__entry *entries;
    int count, capacity;
    l2l__pair *metadata;
    int pairs, pair_capacity;
    const l2l__entry **by_name;              /* of a file: sorted                                 */
    void *kept;                              /* memory that goes with it                          */
} l2l__bundle;

/* Sorts n pointers; equals stay in their order. A merge sort: no file makes it slow. */
static void l2l__sort(const l2l__entry **p, const l2l__entry **room, int64_t n,
                      int (*order)(const l2l__entry *, const l2l__entry *))
{
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t i = 0; i < n;) {
            int64_t middle = i + width < n ? i + width : n, a = i, b = middle;
            int64_t end = middle + width < n ? middle + width : n;
            for (; i < end; i++)
                room[i] = a < middle && (b == end || order(p[a], p[b]) <= 0) ? p[a++] : p[b++];
        }
        memcpy(p, room, (size_t)n * sizeof *p);
    }
}

static int l2l__order_of_names(const l2l__entry *x, const l2l__entry *y)
{
    return strcmp(x->name, y->name);
}
static int l2l__order_of_places(const l2l__entry *x, const l2l__entry *y)
{
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1)
         : (x->end > y->end) - (x->end < y->end);
}

static void l2l__bundle_new(l2l_context *c, l2l__bundle *b)
{
    memset(b, 0, sizeof *b);
    b->file = l2l__file_of(c, "", NULL, 0);
}

static void l2l__bundle_close(l2l__bundle *b)
{
    l2l_context *c = b->file.context;
    l2l__let_go(c, b->kept);
    l2l_free(c, b->entries);
    l2l_free(c, b->metadata);
    l2l__file_close(&b->file);
}

/* Room for one more tensor, for one more text; NULL after an error. */
static l2l__entry *l2l__bundle_entry(l2l__bundle *b)
{
    b->entries = (l2l__entry *)l2l__room(b->file.context, b->entries, b->count, &b->capacity, 8,
                                         sizeof *b->entries);
    return b->file.context->status ? NULL : b->entries + b->count++;
}
static l2l__pair *l2l__bundle_pair(l2l__bundle *b)
{
    b->metadata = (l2l__pair *)l2l__room(b->file.context, b->metadata, b->pairs, &b->pair_capacity,
                                         32, sizeof *b->metadata);
    return b->file.context->status ? NULL : b->metadata + b->pairs++;
}

/* NULL if the file has no such tensor. */
static const l2l__entry *l2l__bundle_find(const l2l__bundle *b, const char *name)
{
    int low = 0, high = b->by_name ? b->count : 0;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        const l2l__entry *e = b->by_name[middle];
        const int order = strcmp(e->name, name);
        if (!order) return e;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

/* NULL if there is no such text; of equal keys the first. */
static const char *l2l__bundle_text(const l2l__bundle *b, const char *key)
{
    for (int i = 0; i < b->pairs; i++)
        if (!strcmp(b->metadata[i].key, key)) return b->metadata[i].text;
    return NULL;
}

/* A tensor of a file's header, of a type that may be one that is not known. Every size is checked
   before anything is asked for by it. */
static void l2l__parse_entry(l2l__bundle *b, l2l__scan *s, const char *name)
{
    static const char *const keys[3] = {"dtype", "shape", "data_offsets"};
    l2l__entry e = L2L__ZERO, *to;
    int64_t span[2] = {0, 0}, room = (int64_t)(b->file.bytes - b->first), bytes;
    bool seen[3] = {false, false, false};
    int n, k, offsets = 2;
    l2l__scan_want(s, '{');
    for (n = 0; l2l__scan_next(s, '}', n); n++) {
        const char *key = l2l__scan_string(s);
        for (k = 0; k < 3 && strcmp(key, keys[k]); k++) continue;
        if (k == 3 || seen[k]) {
            l2l__scan_fail(s, "an unknown key, or one a second time: '%s'", key);
            return;
        }
        seen[k] = true;
        l2l__scan_want(s, ':');
        if (k == 0) e.type = l2l__scan_string(s);
        else if (k == 1) e.rank = l2l__scan_integers(s, e.shape, 8);
        else offsets = l2l__scan_integers(s, span, 2);
    }
    while (e.type && e.dtype < L2L__DTYPES && strcmp(l2l__dtypes[e.dtype].name, e.type)) e.dtype++;
    bytes = span[1] - span[0];
    const char *wrong =
        n < 3 || offsets != 2 ? "dtype, shape and two data_offsets are needed, of '%s'"
        : bytes < 0 || span[1] > room ? "data_offsets that are not in the file's data, of '%s'"
        : e.rank <= 8 && e.dtype < L2L__DTYPES &&
          (!l2l__product(e.shape, e.rank, &e.count) || bytes % l2l__dtypes[e.dtype].size ||
           e.count != bytes / l2l__dtypes[e.dtype].size)
              ? "the bytes are not what shape and dtype ask for, of '%s'"
        : !*name ? "a tensor without a name" : NULL;
    if (wrong) l2l__scan_fail(s, wrong, name);
    e.name = name;
    e.begin = b->first + (size_t)span[0];
    e.end = b->first + (size_t)span[1];
    if ((to = l2l__bundle_entry(b))) *to = e;
}

/* The header is read: sorts what it has. The tensors must cover the rest of the file without holes
   and overlap, as the reference demands, and have different names. */
static bool l2l__bundle_sort(l2l__bundle *b)
{
    const l2l__file *f = &b->file;
    const l2l__entry **all, **room;
    size_t at = b->first;
    int i;
    all = (const l2l__entry **)l2l__hold(f->context, &b->kept, b->count, sizeof *all);
    room = (const l2l__entry **)l2l__hold(f->context, &b->kept, b->count, sizeof *room);
    if (!room) return false;
    for (i = 0; i < b->count; i++) all[i] = b->entries + i;
    l2l__sort(all, room, b->count, l2l__order_of_places);
    for (i = 0; i < b->count; at = all[i++]->end)
        if (all[i]->begin != at)
            return l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)all[i]->begin, "'%s' begins here, but "
                            "the tensor before it ends at byte %z", all[i]->name, (int64_t)at);
    if (at != f->bytes)
        return l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)at, "%z bytes that belong to no tensor",
                        (int64_t)(f->bytes - at));
    l2l__sort(all, room, b->count, l2l__order_of_names);
    for (i = 1; i < b->count; i++)
        if (!strcmp(all[i - 1]->name, all[i]->name))
            return l2l__bad(f, L2L_ERROR_FORMAT, 8, "two tensors are called '%s'", all[i]->name);
    b->by_name = all;
    return true;
}

static bool l2l__parse_metadata(l2l__bundle *b, l2l__scan *s)
{
    l2l__scan_want(s, '{');
    for (int64_t i = 0; l2l__scan_next(s, '}', i); i++) {
        l2l__pair *p = l2l__bundle_pair(b);
        if (!p) return false;
        p->key = l2l__scan_string(s);
        l2l__scan_want(s, ':');
        p->text = l2l__scan_string(s);
    }
    return true;
}

enum { L2L__MOST_HEADER = 100000000 };       /* the reference's limit                             */

/* Reads the header, JSON behind eight bytes of its length, of a file, which belongs to the bundle
   then. */
static bool l2l__bundle_open(l2l__file f, l2l__bundle *b)
{
    uint64_t length = l2l__file_hold(&f, 9) && f.bytes >= 10 ? l2l__get_bytes(f.data, 8, false) : 0;
    bool ok = length >= 2 && length <= f.bytes - 8 && length <= L2L__MOST_HEADER &&
              ((f.data[8] && strchr(" \t\r\n{", f.data[8])) ||
               l2l__bad(&f, L2L_ERROR_FORMAT, 8, "expected { here")) &&
              l2l__file_hold(&f, 8 + (size_t)length);
    l2l__scan s;
    int n, texts = 0;
    l2l__bundle_new(f.context, b);
    b->file = f;
    if (!ok)
        return l2l__bad(&f, L2L_ERROR_FORMAT, 0, "not a safetensors file: %z bytes, of them %z of "
                        "header", (int64_t)f.bytes, (int64_t)length);
    b->first = 8 + (size_t)length;
    s.file = &b->file;
    s.text = s.at = (char *)l2l__hold(f.context, &b->kept, (int64_t)length + 1, 1);
    if (!s.text) return false;
    memcpy(s.text, f.data + 8, (size_t)length);
    l2l__scan_want(&s, '{');
    for (n = 0; l2l__scan_next(&s, '}', n); n++) {
        const char *name = l2l__scan_string(&s);
        l2l__scan_want(&s, ':');
        if (strcmp(name, "__metadata__")) {
            l2l__parse_entry(b, &s, name);
            continue;
        }
        if (texts++) l2l__scan_fail(&s, "__metadata__ a second time", NULL);
        if (!l2l__parse_metadata(b, &s)) return false;
    }
    l2l__scan_take(&s, 0);
    if (s.at != s.text + length) l2l__scan_fail(&s, "text after the header's end", NULL);
    return !f.context->status && l2l__bundle_sort(b);
}

/* Whether the file has a tensor, of any type of real numbers. */
static bool l2l__bundle_fits(const l2l__bundle *b, const l2l__entry *want)
{
    const l2l__file *f = &b->file;
    const l2l__entry *e = l2l__bundle_find(b, want->name);
    char there[200], here[200];
    l2l__shape_text(here, want->shape, want->rank, ", ");
    if (!e)
        return l2l__bad(f, L2L_ERROR_MISMATCH, -1, "there is no tensor '%s' of shape [%s]",
                        want->name, here);
    if (e->rank != want->rank || memcmp(e->shape, want->shape, sizeof e->shape))
        return l2l__bad(f, L2L_ERROR_SHAPE, (int64_t)e->begin, "'%s' has the shape [%s] in the "
                        "file and [%s] here", e->name,
                        l2l__shape_text(there, e->shape, e->rank, ", "), here);
    return e->dtype <= L2L__BF16 ||
           l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)e->begin, "unsupported type %s, not F32, F64, "
                    "F16 or BF16, of '%s'", e->type, e->name);
}

/* Whether it has n; `finite`: and only such numbers. These are read from the file now. */
static bool l2l__bundle_check(l2l__bundle *b, const l2l__entry *want, int n, bool finite)
{
    l2l__file *f = &b->file;
    for (int k = 0; k < n; k++)
        if (!l2l__bundle_fits(b, want + k)) return false;
    if (!l2l__file_hold(f, f->bytes)) return false;
    for (; n > 0 && finite; n--, want++) {
        const l2l__entry *e = l2l__bundle_find(b, want->name);
        double most = want->dtype == L2L__F32 ? (double)FLT_MAX : DBL_MAX;
        for (int64_t i = 0; i < e->count; i++)
            if (!(fabs(l2l__entry_real(f, e, i)) <= most))
                return l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)e->begin +
                                i * l2l__dtypes[e->dtype].size, "not a finite number, in '%s'",
                                e->name);
    }
    return true;
}

/* What has been checked comes to its place. */
static void l2l__bundle_read(const l2l__bundle *b, const l2l__entry *want, int n)
{
    for (; n > 0; n--, want++) {
        const l2l__entry *e = l2l__bundle_find(b, want->name);
        for (int64_t i = 0; i < want->count; i++) {
            double v = l2l__entry_real(&b->file, e, i);
            if (want->dtype == L2L__F32) ((float *)want->data)[i] = (float)v;
            else ((double *)want->data)[i] = v;
        }
    }
}

/* All of `want`, finite, or none and an error that says what is wrong. */
static bool l2l__bundle_take(l2l__bundle *b, const l2l__bundle *want)
{
    if (b->file.context->status || !l2l__bundle_check(b, want->entries, want->count, true))
        return false;
    l2l__bundle_read(b, want->entries, want->count);
    return true;
}

/* A text to be written, with its key; both are copied. */
static void l2l__bundle_put(l2l__bundle *b, const char *key, const char *text)
{
    key = l2l__hold_text(b->file.context, &b->kept, key);
    text = l2l__hold_text(b->file.context, &b->kept, text);
    l2l__pair *p = l2l__bundle_pair(b);
    if (!p) return;
    p->key = key;
    p->text = text;
}

/* A tensor of F32, F64 or I64. Its name is copied, its values are not: they stay at `data`, or are
   zeros of the bundle's own if that is NULL. Returns where they are; NULL after an error. */
static void *l2l__bundle_add(l2l__bundle *b, const char *name, l2l__dtype dtype, int rank,
                             const int64_t *shape, void *data)
{
    l2l_context *c = b->file.context;
    int64_t count;
    if (!l2l__product(shape, rank, &count))
        l2l__fail(c, L2L_ERROR_SHAPE, "%s: a shape that no file can hold", name);
    if (!c->status && !data)
        data = l2l__hold(c, &b->kept, count, (size_t)l2l__dtypes[dtype].size);
    name = l2l__hold_text(c, &b->kept, name);
    l2l__entry *e = l2l__bundle_entry(b);
    if (!e) return NULL;
    memset(e, 0, sizeof *e);
    e->name = name;
    e->dtype = (int)dtype;
    e->rank = rank;
    if (rank) memcpy(e->shape, shape, (size_t)rank * sizeof *shape);
    e->count = count;
    return e->data = data;
}

/* A JSON string, appended; control characters without an escape of their own as \u00XX. */
static size_t l2l__append_quoted(char *text, size_t room, size_t n, const char *s)
{
    char one[7] = "u00XX";
    n = l2l__append(text, room, n, "\"");
    for (; *s; s++) {
        const char *p = strchr(l2l__escaped + 1, *s);
        bool control = !p && (unsigned char)*s < 32;
        one[0] = control ? 'u' : p ? l2l__escapes[p - l2l__escaped] : *s;
        one[1] = control ? '0' : 0;
        one[3] = (char)('0' + (*s >> 4 & 1));
        one[4] = "0123456789abcdef"[*s & 15];
        n = l2l__append(text, room, n, p || control ? "\\%s" : "%s", one);
    }
    return l2l__append(text, room, n, "\"");
}

/* The header, with spaces up to a multiple of 8 bytes; its length, whatever the room. *bytes: how
   many follow it. */
static size_t l2l__bundle_header(const l2l__bundle *b, char *text, size_t room, int64_t *bytes)
{
    const l2l__entry *e = b->entries;
    size_t n = l2l__append(text, room, 0, "{\"__metadata__\":{");
    char list[200];
    int64_t at;
    int i;
    for (i = 0; i < b->pairs; i++) {
        n = l2l__append_quoted(text, room, n, b->metadata[i].key);
        n = l2l__append(text, room, n, ":");
        n = l2l__append_quoted(text, room, n, b->metadata[i].text);
        if (i + 1 < b->pairs) n = l2l__append(text, room, n, ",");
    }
    for (*bytes = 0, i = 0; i < b->count; i++, e++) {
        at = *bytes;
        *bytes += e->count * l2l__dtypes[e->dtype].size;
        n = l2l__append(text, room, n, i ? "," : "},");
        n = l2l__append_quoted(text, room, n, e->name);
        n = l2l__append(text, room, n,
                        ":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%z,%z]}",
                        l2l__dtypes[e->dtype].name,
                        l2l__shape_text(list, e->shape, e->rank, ", "), at, *bytes);
    }
    n = l2l__append(text, room, n, b->count ? "}" : "}}");
    while (n % 8) n = l2l__append(text, room, n, " ");
    return n;
}

/* To a file or, without a path, to memory that is to be given back with l2l_free. Closes it. */
static bool l2l__bundle_save(l2l__bundle *b, const char *path, void **data, size_t *bytes)
{
    l2l_context *c = b->file.context;
    int64_t rest;
    size_t n = l2l__bundle_header(b, NULL, 0, &rest);
    if (!path && (!data || !bytes))          /* a path that is NULL has NULL for these two        */
        l2l__fail(c, L2L_ERROR_ARGUMENT, "saving: the path, or the place for data or bytes, is "
                  "NULL");
    if (n > L2L__MOST_HEADER)
        l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: more names and texts than a file can have",
                  path ? path : "memory");
    /* The header's text ends with a zero, on which the tensors are written. */
    char *p = (char *)(path ? l2l__hold(c, &b->kept, (int64_t)n + 9, 1)
                            : l2l_allocate(c, n + 9 + (size_t)rest));
    for (int i = 0; p && i < 8; i++) p[i] = (char)((uint64_t)n >> (8 * i) & 255);
    if (p) l2l__bundle_header(b, p + 8, n + 1, &rest);
    if (p && path) {
        l2l__file_write(c, path, p, n + 8, b->entries, b->count);
    } else if (p) {
        *data = p;
        *bytes = n + 8 + (size_t)rest;
        p += n + 8;
        for (const l2l__entry *e = b->entries; e < b->entries + b->count; e++) {
            l2l__entry_write(e, 0, e->count, (unsigned char *)p);
            p += e->count * l2l__dtypes[e->dtype].size;
        }
    }
    l2l__bundle_close(b);
    return !c->status;
}

/* -- fields as texts of a bundle --------------------------------------------------------------- */

/* A value as it stands in a file. */
static const char *l2l__field_text(const l2l__field *f, const void *in, char text[40])
{
    const char *s = text;
    if (f->type == 'i' && f->names) return f->names[(int)l2l__field_get(f, in)];
    if (f->type == 's') memcpy(&s, (const char *)in + f->offset, sizeof s);
    else l2l__number(text, l2l__field_get(f, in), 0);
    return s ? s : "";
}

/* False where the text is not a value of this field. */
static bool l2l__field_value(const l2l__field *f, const char *text, double *v)
{
    for (*v = 0; f->type == 'i' && f->names && *v <= f->high; ++*v)
        if (!strcmp(text, f->names[(int)*v])) return true;
    return !(f->type == 'i' && f->names) && f->type != 's' && l2l__scan_real(&text, v) && !*text &&
           l2l__field_fits(f, *v);
}

/* The key that a file of a model or maximizer has for a member. */
static const char *l2l__field_key(const l2l__field *f) { return f->key ? f->key : f->name; }

/* Texts of such a file, which is one for PyTorch too. */
static void l2l__fields_put(l2l__bundle *b, const l2l__field *table, const void *in)
{
    char text[40];
    if (!b->pairs) l2l__bundle_put(b, "format", "pt");
    if (b->pairs == 1) l2l__bundle_put(b, "l2ladv.version", L2LADV_VERSION);
    for (const l2l__field *f = table; f->name; f++)
        if (f->use & L2L__FILED)
            l2l__bundle_put(b, l2l__field_key(f), l2l__field_text(f, in, text));
}

/* Their values; those that the file does not have stay as they are. */
static bool l2l__fields_read(const l2l__bundle *b, const l2l__field *table, void *in)
{
    char allowed[160];
    double v;
    for (const l2l__field *f = table; f->name; f++) {
        const char *text = f->use & L2L__FILED ? l2l__bundle_text(b, l2l__field_key(f)) : NULL;
        if (!text || f->type == 's') continue;
        if (!l2l__field_value(f, text, &v))
            return l2l__bad(&b->file, L2L_ERROR_FORMAT, 8, "metadata %s is '%s', not a %snumber "
                            "%s%s", l2l__field_key(f), text, f->type == 'i' ? "whole " : "",
                            f->names ? "or name of " : "", l2l__allowed(f, allowed));
        l2l__field_set(f, in, v);
    }
    return true;
}

/* Whether a value is what the file says: to the letter; or however its number is written, and if
   the file says nothing. */
static bool l2l__field_agrees(const l2l__bundle *b, const char *key, const l2l__field *f,
                              const void *in, bool to_the_letter)
{
    const char *there = l2l__bundle_text(b, key), *here;
    char text[40];
    double v;
    if (!there && !to_the_letter) return true;
    here = l2l__field_text(f, in, text);
    if (there && !strcmp(there, here)) return true;
    if (!to_the_letter && l2l__field_value(f, there, &v) &&
        fabs(v - l2l__field_get(f, in)) <= 1e-8 * fabs(v)) return true;
    return l2l__bad(&b->file, L2L_ERROR_MISMATCH, 8, "%s%s is %s here, but in the file %s", key,
                    f->type == 'l' ? " (a digest)" : "", here, there ? there : "(none)");
}

/* Of a model's or maximizer's settings those that must agree. */
static bool l2l__fields_agree(const l2l__bundle *b, const l2l__field *f, const void *in)
{
    for (; f->name; f++)
        if (f->use & L2L__AGREED && !l2l__field_agrees(b, l2l__field_key(f), f, in, false))
            return false;
    return true;
}

/* A fingerprint: every member of a struct that matters, as "prefix.member". */
static void l2l__fingerprint_put(l2l__bundle *b, const char *prefix, const l2l__field *table,
                                 const void *in)
{
    char text[40];
    for (l2l__members w = l2l__members_of(table, prefix); l2l__next_member(&w, L2L__FREE);)
        l2l__bundle_put(b, w.name, l2l__field_text(w.f, (const char *)in + w.base, text));
}
static bool l2l__fingerprint_matches(const l2l__bundle *b, const char *prefix,
                                     const l2l__field *table, const void *in)
{
    for (l2l__members w = l2l__members_of(table, prefix); l2l__next_member(&w, L2L__FREE);)
        if (!l2l__field_agrees(b, w.name, w.f, (const char *)in + w.base, true)) return false;
    return true;
}

/* -- models ------------------------------------------------------------------------------------ */

/* Whether the file has such a parameter. */
static bool l2l__bundle_has(const l2l__bundle *b, const char *name, l2l_shape s, int rank)
{
    l2l__entry want = L2L__ZERO;
    want.name = name;
    want.rank = rank;
    l2l__file_shape(s, rank, want.shape);
    return l2l__bundle_fits(b, &want);
}

/* The parameters in PyTorch's layouts, all zero; entry i is parameter i. */
static void l2l__model_bundle(const l2l_model *m, l2l__bundle *b)
{
    l2l__bundle_new(m->context, b);
    for (int i = 0; i < m->n_slots; i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        l2l__bundle_add(b, p.name, L2L__REAL, p.rank, p.shape, NULL);
    }
}

/* n numbers, if there are any, as "a,b,c". */
static void l2l__list_put(l2l__bundle *b, const char *key, const double *v, int n)
{
    char text[160];
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        at += l2l__number(text + at, v[i], 0);
        text[at++] = ',';
    }
    if (n > 0) text[at - 1] = 0;
    if (n > 0) l2l__bundle_put(b, key, text);
}

/* What is not finite would be refused when it is loaded, so it does not replace a file: an error
   that names it. */
static bool l2l__bundle_finite(const l2l__bundle *b)
{
    for (int k = 0; k < b->count && !b->file.context->status; k++) {
        const l2l__entry *e = b->entries + k;
        if (e->dtype != L2L__REAL) continue;
        const l2l_real *v = (const l2l_real *)e->data;
        int64_t at = l2l__not_finite_at(v, e->count);
        if (at < e->count)
            return l2l__fail(b->file.context, L2L_ERROR_NUMERIC, "saving '%s': number %z is %g, "
                             "not finite; nothing was written", e->name, at, (double)v[at]);
    }
    return !b->file.context->status;
}

/* Beside running statistics PyTorch counts batches, and wants that count to be there. */
static bool l2l__model_save(const l2l_model *m, const char *path, void **data, size_t *bytes)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *o = l2l_model_info(m);
    char name[128];                          /* names of parameters have at most 95 characters    */
    l2l__bundle b;
    int n = l2l_model_parameters(m);
    if (n < 1) return l2l__fail(c, L2L_ERROR_UNSUPPORTED, "a model without parameters to save");
    l2l__model_bundle(m, &b);
    for (int i = 0; i < n && !c->status; i++) {
        const char *variance = l2l__ending(b.entries[i].name, "running_var");
        l2l_parameter_get(m, i, (l2l_real *)b.entries[i].data);
        if (!variance) continue;
        l2l__format(name, sizeof name, "%s", b.entries[i].name);
        l2l__format(name + (variance - b.entries[i].name), 32, "%s", l2l__batches);
        l2l__bundle_add(&b, name, L2L__I64, 0, NULL, NULL);
    }
    l2l__fields_put(&b, l2l__model_fields, o);
    l2l__list_put(&b, "mean", o->mean, o->normalise);
    l2l__list_put(&b, "deviation", o->deviation, o->normalise);
    l2l__bundle_finite(&b);
    return l2l__bundle_save(&b, path, data, bytes);
}

/* "a,b,c" for each of two lists, one number per channel; or neither list. */
static bool l2l__normalisation_read(const l2l__bundle *b, l2l_model_options *o, int *n)
{
    const char *texts[2];
    int i, channels = o->channels;
    texts[0] = l2l__bundle_text(b, "mean");
    texts[1] = l2l__bundle_text(b, "deviation");
    *n = texts[0] || texts[1] ? channels : 0;
    for (int k = 0; *n && k < 2; k++) {
        const char *s = texts[k] ? texts[k] : "";
        double *v = k ? o->deviation : o->mean;
        for (i = 0; i < channels && i < 4; i++, s++)
            if (!l2l__scan_real(&s, v + i) || *s != (i + 1 < channels ? ',' : 0) ||
                !l2l__normal(k ? 0 : v[i], k ? v[i] : 1)) break;
        if (i < channels)
            return l2l__bad(&b->file, L2L_ERROR_FORMAT, 8, "metadata %s is '%s', not one number "
                            "(a deviation above 0) for each of %d channels, with commas between",
                            k ? "deviation" : "mean", texts[k], channels);
    }
    for (i = 0; i < *n; i++)
        if (!l2l__normal(o->mean[i], o->deviation[i]))
            return l2l__bad(&b->file, L2L_ERROR_FORMAT, 8, "metadata mean and deviation of channel "
                            "%d are %g and %g, whose ratio is no float", i, o->mean[i],
                            o->deviation[i]);
    return true;
}

static bool l2l__model_take(l2l_model *m, l2l__bundle *file, int *extra)
{
    int i, channels, n = l2l_model_parameters(m);
    l2l_model_options o = m->options;
    l2l__bundle b;
    if (!l2l__fields_agree(file, l2l__model_fields, &o) ||
        !l2l__normalisation_read(file, &o, &channels)) return false;
    l2l__model_bundle(m, &b);
    bool ok = l2l__bundle_take(file, &b);
    for (i = 0; i < n && ok; i++) ok = l2l_parameter_set(m, i, (l2l_real *)b.entries[i].data);
    if (ok && channels) {
        m->options.normalise = channels;
        memcpy(m->options.mean, o.mean, sizeof o.mean);
        memcpy(m->options.deviation, o.deviation, sizeof o.deviation);
    }
    l2l__bundle_close(&b);
    if (extra) *extra = -n;
    for (i = 0; extra && i < file->count; i++)
        *extra += !l2l__ending(file->entries[i].name, l2l__batches);
    return ok;
}

static bool l2l__model_load(l2l_model *m, l2l__file f, int *extra)
{
    l2l__bundle file;
    if (extra) *extra = 0;
    bool ok = l2l__bundle_open(f, &file) && l2l__model_take(m, &file, extra);
    l2l__bundle_close(&file);
    return ok;
}

L2LADVDEF bool l2l_model_load_memory(l2l_model *m, const void *data, size_t bytes, int *extra)
{
    return m && l2l__model_load(m, l2l__file_of(m->context, "memory", data, bytes), extra);
}
static void l2l__no_bytes(void **data, size_t *bytes)
{
    if (data) *data = NULL;
    if (bytes) *bytes = 0;
}

L2LADVDEF bool l2l_model_save_memory(const l2l_model *m, void **data, size_t *bytes)
{
    l2l__no_bytes(data, bytes);
    return m && l2l__model_save(m, NULL, data, bytes);
}

/* -- maximizers -------------------------------------------------------------------------------- */

/* The tensors that the array phi is cut into. Returns b_ih, NULL if there is none. */
static l2l_real *l2l__phi_bundle(const l2l_learned *m, l2l_real *phi, l2l__bundle *b)
{
    int64_t hidden = m->options.hidden, shape[2];
    int64_t rows = m->options.cell == L2L_LSTM ? 4 * hidden : hidden;
    int64_t inputs = m->options.input == L2L_INPUT_LOG ? 2 : 1;
    l2l_real *bias = m->options.bias ? phi + rows * (inputs + hidden) : NULL;
    shape[0] = rows;
    shape[1] = inputs;
    l2l__bundle_add(b, "cell.weight_ih", L2L__REAL, 2, shape, phi);
    shape[1] = hidden;
    l2l__bundle_add(b, "cell.weight_hh", L2L__REAL, 2, shape, phi + rows * inputs);
    if (bias) l2l__bundle_add(b, "cell.bias_ih", L2L__REAL, 1, shape, bias);
    phi += rows * (inputs + hidden + (bias ? 1 : 0));
    shape[0] = 1;
    l2l__bundle_add(b, "out.weight", L2L__REAL, 2, shape, phi);
    if (bias) l2l__bundle_add(b, "out.bias", L2L__REAL, 1, shape, phi + hidden);
    return bias;
}

static bool l2l__phi_save(const l2l_learned *m, const char *path, void **data, size_t *bytes)
{
    l2l__bundle b;
    l2l__bundle_new(m->context, &b);
    l2l__fields_put(&b, l2l__learned_fields, &m->options);
    l2l__fields_put(&b, l2l__trained_fields, m);
    l2l__phi_bundle(m, m->phi, &b);
    l2l__bundle_finite(&b);
    return l2l__bundle_save(&b, path, data, bytes);
}

/* PyTorch's cells have a second bias, which ours keep in the first. */
static bool l2l__phi_take(l2l_learned *m, l2l__bundle *file)
{
    l2l_learned found = *m;
    l2l_real *phi, *bias = NULL, *second = NULL;
    const l2l__entry *hh = l2l__bundle_find(file, "cell.bias_hh");
    l2l__bundle b;
    if (!l2l__fields_agree(file, l2l__learned_fields, &m->options) ||
        !l2l__fields_read(file, l2l__trained_fields, &found)) return false;
    if (!m->options.bias && (l2l__bundle_find(file, "cell.bias_ih") ||
                             l2l__bundle_find(file, "out.bias")))
        return l2l__bad(&file->file, L2L_ERROR_MISMATCH, -1, "bias is off here, but in the file");
    l2l__bundle_new(m->context, &b);
    phi = (l2l_real *)l2l__hold(b.file.context, &b.kept, m->size, sizeof *phi);
    if (phi) bias = l2l__phi_bundle(m, phi, &b);
    if (bias && hh) second = (l2l_real *)l2l__bundle_add(&b, hh->name, L2L__REAL, 1,
                                                         b.entries[0].shape, NULL);
    bool ok = l2l__bundle_take(file, &b);
    for (int i = 0; ok && second && i < hh->count; i++) {
        bias[i] += second[i];
        if (!(fabs((double)bias[i]) <= L2L__REAL_MOST))
            ok = l2l__bad(&file->file, L2L_ERROR_FORMAT, (int64_t)hh->begin +
                          i * l2l__dtypes[hh->dtype].size, "number %d of 'cell.bias_ih' and that "
                          "of 'cell.bias_hh' have no finite sum", i);
    }
    if (ok) {
        memcpy(m->phi, phi, (size_t)m->size * sizeof *phi);
        l2l__learned_set_trained_with(m, found.trained_T, found.trained_epsilon);
    }
    l2l__bundle_close(&b);
    return ok;
}

static bool l2l__phi_load(l2l_learned *m, l2l__file f)
{
    l2l__bundle file;
    bool ok = l2l__bundle_open(f, &file) && l2l__phi_take(m, &file);
    l2l__bundle_close(&file);
    return ok;
}

L2LADVDEF bool l2l_learned_load_memory(l2l_learned *m, const void *data, size_t bytes)
{
    return m && l2l__phi_load(m, l2l__file_of(m->context, "memory", data, bytes));
}
L2LADVDEF bool l2l_learned_save_memory(const l2l_learned *m, void **data, size_t *bytes)
{
    l2l__no_bytes(data, bytes);
    return m && l2l__phi_save(m, NULL, data, bytes);
}

/* -- checkpoints: everything that a training needs to go on with the same bits ----------------- */

/* What a checkpoint belongs to, beside the model. */
static const l2l__field l2l__training_fields[] = {
    L2L__MEMBER(l2l_trainer, options, "", 't', 0, 0, 0, NULL, l2l__train_fields, NULL),
    L2L__MEMBER(l2l_trainer, w_digest, "loss_weights (a digest)", 'r', 0, 0, 0, NULL, NULL, NULL),
    L2L__INT(l2l_trainer, data.count, 0, 0, 0),
    L2L__INT(l2l_trainer, data.height, 0, 0, 0),
    L2L__INT(l2l_trainer, data.width, 0, 0, 0),
    L2L__INT(l2l_trainer, data.classes, 0, 0, 0),
    L2L__MEMBER(l2l_trainer, data_digest, "data (a digest)", 'r', 0, 0, 0, NULL, NULL, NULL),
    L2L__MEMBER(l2l_trainer, held_digests[0], "validation_attack.targets (a digest)", 'r', 0, 0, 0,
                NULL, NULL, NULL),
    L2L__MEMBER(l2l_trainer, held_digests[1], "validation_attack.init (a digest)", 'r', 0, 0, 0,
                NULL, NULL, NULL),
    L2L__MEMBER(l2l_trainer, held_digests[2], "validation_attack.maximizer (a digest)", 'r', 0, 0,
                0, NULL, NULL, NULL),
    L2L__END};

/* The numbers of the training's own state, which make one array with the optimizer's steps. */
static const l2l__field l2l__state_fields[] = {
    L2L__INT(l2l_trainer, step, 0, L2L__EXACT, 0),
    L2L__INT(l2l_trainer, progress.epoch, 0, INT_MAX, 0),
    L2L__INT(l2l_trainer, progress.step_in_epoch, 0, L2L__EXACT, 0),
    L2L__NUMBER(l2l_trainer, epoch_loss, -DBL_MAX, DBL_MAX, 0),
    L2L__NUMBER(l2l_trainer, epoch_right, 0, L2L__EXACT, 0),
    L2L__INT(l2l_trainer, epoch_seen, 0, L2L__EXACT, 0),
    L2L__NUMBER(l2l_trainer, best_score, -1, 1, 0),
    L2L__INT(l2l_trainer, plateau, 0, INT_MAX, 0),
    L2L__INT(l2l_trainer, note.number, 0, L2L__EXACT, 0),
    L2L__NUMBER(l2l_trainer, progress.validation_natural, -1, 1, 0),
    L2L__NUMBER(l2l_trainer, progress.validation_robust, -1, 1, 0),
    L2L__BOOL(l2l_trainer, has_good, 0),
    L2L__END};
enum { L2L__STATE = sizeof l2l__state_fields / sizeof *l2l__state_fields - 1 };

static const char l2l__checkpoint_format[] = "l2ladv checkpoint 6";
static const char l2l__note_key[] = "not in the log yet"; /* as training_log.h uses it            */

/* Its tensors: copies of the state and of what the maximizer packs, if it does; the arrays where
   they are: theta, the optimizer's moments, the best model, the averaged one, the last good
   theta. */
static void l2l__checkpoint_bundle(l2l_trainer *t, l2l__bundle *b)
{
    static const char *const kinds[5] = {"theta", "first", "second", "best", "mean"};
    const l2l_maximizer *m = &t->options.method.maximizer;
    int64_t n = L2L__STATE + 1;
    l2l_real *data[5];
    char name[128];
    int j = 0;
    l2l__bundle_new(t->context, b);
    double *v = (double *)l2l__bundle_add(b, "state", L2L__F64, 1, &n, NULL);
    if (v) l2l__options_pack(l2l__state_fields, t, v);
    if (v) v[L2L__STATE] = (double)t->optimizer->steps;
    if (v && t->end_told) {
        v[1]++;
        v[2] = 0;
    }
    n = m->pack ? m->pack(m->self, NULL) : 0;
    v = n > 0 ? (double *)l2l__bundle_add(b, "maximizer", L2L__F64, 1, &n, NULL) : NULL;
    if (v) m->pack(m->self, v);
    for (int i = 0; i < t->model->n_slots; i++) {
        l2l__slot *p = t->model->slot[i];
        n = l2l_count(p->value.shape);
        data[0] = p->value.data;
        data[1] = p->trainable ? t->optimizer->first[j] : NULL;
        data[2] = p->trainable ? t->optimizer->second[j] : NULL;
        data[3] = t->best ? t->best->slot[i]->value.data : NULL;
        data[4] = t->mean ? t->mean->slot[i]->value.data : NULL;
        for (int k = 0; k < 5; k++) {
            l2l__format(name, sizeof name, "%s/%s", kinds[k], p->name);
            if (data[k]) l2l__bundle_add(b, name, L2L__REAL, 1, &n, data[k]);
        }
        j += p->trainable;
    }
    l2l__bundle_add(b, "good", L2L__REAL, 1, &t->theta_size, t->good);
}

/* What the report of an epoch's end that is owed says of its last step, as text: a checkpoint has
   it where there is such an end. Older files lack it, and that report says 0. */
static const char l2l__report_key[] = "owed report";
enum { L2L__REPORT = 6 };
static void l2l__report_numbers(l2l_progress *p, double *at[L2L__REPORT])
{
    at[0] = &p->loss;
    at[1] = &p->accuracy;
    at[2] = &p->epsilon;
    at[3] = &p->rate;
    at[4] = &p->gain;
    at[5] = &p->saturated;
}

static void l2l__report_put(l2l_trainer *t, l2l__bundle *b)
{
    double *at[L2L__REPORT], v[L2L__REPORT];
    l2l__report_numbers(&t->progress, at);
    for (int i = 0; i < L2L__REPORT; i++) v[i] = *at[i];
    if (l2l__epoch_is_owed(t) && !t->end_told) l2l__list_put(b, l2l__report_key, v, L2L__REPORT);
}

/* Reads it; zeros if there is none. */
static bool l2l__report_read(const l2l__bundle *b, double v[L2L__REPORT])
{
    const char *text = l2l__bundle_text(b, l2l__report_key), *s = text;
    int i = 0;
    memset(v, 0, L2L__REPORT * sizeof *v);
    for (; text && i < L2L__REPORT; i++, s++)
        if (!l2l__scan_real(&s, v + i) || *s != (i + 1 < L2L__REPORT ? ',' : 0)) break;
    return !text || i == L2L__REPORT ||
           l2l__bad(&b->file, L2L_ERROR_FORMAT, 8, "metadata %s is '%s', not %d numbers with "
                    "commas between", l2l__report_key, text, (int)L2L__REPORT);
}

L2LADVDEF bool l2l_trainer_save(l2l_trainer *t, const char *path)
{
    l2l__bundle b;
    if (!t) return false;
    if (t->note.number < 0 || t->note.number > (int64_t)L2L__EXACT)
        return l2l__fail(t->context, L2L_ERROR_ARGUMENT, "checkpoint: note.number is %z, not in 0 "
                         "to 2^53", t->note.number);
    l2l__checkpoint_bundle(t, &b);
    l2l__bundle_put(&b, "format", l2l__checkpoint_format);
    l2l__bundle_put(&b, "best", t->best ? "yes" : "no");
    t->note.text[sizeof t->note.text - 1] = 0;
    if (t->note.text[0]) l2l__bundle_put(&b, l2l__note_key, t->note.text);
    l2l__fingerprint_put(&b, "model", l2l__model_fields, &t->model->options);
    l2l__fingerprint_put(&b, "", l2l__training_fields, t);
    l2l__report_put(t, &b);
    return l2l__bundle_save(&b, path, NULL, NULL);
}

/* Of the step, of all that checkpoints compare by name, of theta and of phi. */
static void l2l__training_digests(const l2l_trainer *t, double digest[4])
{
    uint64_t h = L2L__FNV, theta = h;
    l2l__bundle b;
    l2l__bundle_new(t->context, &b);
    l2l__fingerprint_put(&b, "model", l2l__model_fields, &t->model->options);
    l2l__fingerprint_put(&b, "", l2l__training_fields, t);
    for (int i = 0; i < b.pairs; i++)
        h = l2l__fold(h, b.metadata[i].text, strlen(b.metadata[i].text) + 1);
    l2l__bundle_close(&b);
    for (int i = 0; i < t->model->n_slots; i++) {
        const l2l_tensor *v = &t->model->slot[i]->value;
        theta = l2l__fold(theta, v->data, (size_t)l2l_count(v->shape) * sizeof *v->data);
    }
    digest[0] = (double)t->step + (l2l__epoch_is_owed(t) ? 0.5 : 0);
    digest[1] = (double)(h >> 12);
    digest[2] = (double)(theta >> 12);
    l2l__learned_digest(t->context, &t->options.method.maximizer, &digest[3]);
}

/* Whether an array that has been read, the tensor `e`, can be a state. */
static bool l2l__state_ok(const l2l_trainer *t, const l2l__bundle *file, const l2l__entry *e)
{
    const l2l__entry *there = l2l__bundle_find(file, e->name);
    const l2l_progress *p = &t->progress;
    const double *v = (const double *)e->data;
    const char *name = "optimizer.steps";
    int i = 0;
    while (i < L2L__STATE && l2l__field_fits(l2l__state_fields + i, v[i]) &&
           !(i == 1 && v[1] > p->epochs) &&  /* all of it in the training at hand                 */
           !(i == 2 && (v[2] > (double)p->steps_in_epoch || (v[2] > 0 && !(v[1] < p->epochs)) ||
                        v[0] < v[1] * (double)p->steps_in_epoch + v[2]))) i++;
    if (i < L2L__STATE) name = l2l__state_fields[i].name;
    else if (v[i] >= 0 && v[i] <= L2L__EXACT && !(v[i] > floor(v[i]))) return true;
    return l2l__bad(&file->file, L2L_ERROR_FORMAT, (int64_t)there->begin +
                    i * l2l__dtypes[there->dtype].size, "%s is %g: out of range, in '%s'", name,
                    v[i], e->name);
}

/* phi of another cell or size has another number of numbers, `want` says how many. Which setting it
   is says phi itself, by the file's; it takes back none of so many. (Another maximizer may count on
   as many as it packs, and gets no others.) */
static bool l2l__phi_fits(const l2l_maximizer *m, l2l__bundle *file, const l2l__entry *want)
{
    l2l_context *c = file->file.context;
    const l2l__entry *there = l2l__bundle_find(file, want->name);
    l2l__entry all = *want;
    if (m->unpack != l2l__learned_unpack_state || !there || there->rank != 1 ||
        there->dtype > L2L__BF16 || there->count == want->count ||
        !l2l__file_hold(&file->file, file->file.bytes))
        return !c->status;
    all.count = there->count;
    all.data = l2l__allocate_array(c, all.count, sizeof(double));
    if (all.data) {
        l2l__bundle_read(file, &all, 1);
        m->unpack(m->self, (const double *)all.data, all.count);
    }
    l2l_free(c, all.data);
    return !c->status;
}

/* Everything is checked before anything is changed. */
static bool l2l__checkpoint_take(l2l_trainer *t, l2l__bundle *file, const l2l__bundle *b)
{
    const l2l_maximizer *m = &t->options.method.maximizer;
    const l2l__entry *e = b->entries;
    int i, packed = m->pack && m->pack(m->self, NULL) > 0;
    if (t->context->status || (packed && !l2l__phi_fits(m, file, e + 1)) ||
        !l2l__bundle_check(file, e, b->count, false))
        return false;
    l2l__bundle_read(file, e, 1 + packed);
    const double *v = (const double *)e->data;
    if (!l2l__state_ok(t, file, e)) return false;
    if (packed && m->unpack && !m->unpack(m->self, (const double *)e[1].data, e[1].count))
        return l2l__fail(t->context, L2L_ERROR_CALLBACK, "the maximizer '%s' did not take back the "
                         "numbers of the checkpoint", m->name);
    l2l__bundle_read(file, e + 1 + packed, b->count - 1 - packed);
    l2l__fields_set(l2l__state_fields, L2L__STATE, t, v);
    t->optimizer->steps = (int64_t)v[L2L__STATE];
    t->progress.step = t->step;
    for (i = 0; i < t->model->n_slots; i++) l2l__touch(t->model, i);
    for (i = 0; t->best && i < t->best->n_slots; i++) l2l__touch(t->best, i);
    for (i = 0; t->mean && i < t->mean->n_slots; i++) l2l__touch(t->mean, i);
    return true;
}

L2LADVDEF bool l2l_trainer_resume(l2l_trainer *t, const char *path)
{
    const char *format, *best, *note;
    double report[L2L__REPORT], *at[L2L__REPORT];
    l2l__bundle file, b;
    if (!t) return false;
    bool ok = l2l__bundle_open(l2l__file_open(t->context, path), &file);
    format = l2l__bundle_text(&file, "format");
    best = l2l__bundle_text(&file, "best");
    if (ok && (!format || strcmp(format, l2l__checkpoint_format) || !best))
        ok = l2l__bad(&file.file, L2L_ERROR_FORMAT, 8, "not a checkpoint of this version: its "
                      "format is '%s', not '%s'; the version that wrote it can go on with it",
                      format, l2l__checkpoint_format);
    if (ok && l2l__fingerprint_matches(&file, "model", l2l__model_fields, &t->model->options) &&
        l2l__fingerprint_matches(&file, "", l2l__training_fields, t) &&
        l2l__report_read(&file, report)) {
        l2l_model *was = t->best;            /* there is one afterwards where the file has one    */
        if (strcmp(best, "yes")) t->best = NULL;
        else if (!was) t->best = l2l_model_clone(t->context, t->model);
        l2l__checkpoint_bundle(t, &b);
        ok = l2l__checkpoint_take(t, &file, &b);
        l2l__bundle_close(&b);
        if (t->best != was) l2l_model_free(ok ? was : t->best);
        if (!ok) t->best = was;
        note = l2l__bundle_text(&file, l2l__note_key);
        if (ok) l2l__format(t->note.text, sizeof t->note.text, "%s", note ? note : "");
        l2l__report_numbers(&t->progress, at);
        for (int i = 0; ok && i < L2L__REPORT; i++) *at[i] = report[i];
    }
    l2l__bundle_close(&file);
    return ok && !t->context->status;
}

L2LADVDEF l2l_note *l2l_trainer_note(l2l_trainer *t) { return t ? &t->note : NULL; }

/* options.resume: go on if there is a checkpoint, else begin. */
static bool l2l__maybe_resume(l2l_trainer *t)
{
    if (!t->options.resume || !t->checkpoint || t->step > 0) return true;
    return !l2l__file_exists(t->checkpoint) || l2l_trainer_resume(t, t->checkpoint);
}

/* -- data sets --------------------------------------------------------------------------------- */

/* What is behind the data sets of this chapter: the caller's arrays, or the two files of an IDX. */
typedef struct l2l__images {
    const l2l_real *reals;
    const int *classes;                      /* of `reals`                                        */
    l2l__file images, labels;
} l2l__images;

enum { L2L__IDX_IMAGES = 16, L2L__IDX_LABELS = 8 }; /* bytes in front of those of the data        */

static bool l2l__images_fetch(const l2l_dataset *d, int index, l2l_real *chw, int *label)
{
    const l2l__images *s = (const l2l__images *)d->self;
    const size_t size = (size_t)d->channels * (size_t)d->height * (size_t)d->width;
    if (index < 0 || index >= d->count)
        return l2l__fail(d->context, L2L_ERROR_ARGUMENT, "data set: image %d of %d", index,
                         d->count);
    *label = s->reals ? s->classes[index] : s->labels.data[L2L__IDX_LABELS + (size_t)index];
    if (s->reals) {
        memcpy(chw, s->reals + (size_t)index * size, size * sizeof *chw);
        return true;
    }
    const unsigned char *pixels = s->images.data + L2L__IDX_IMAGES + (size_t)index * size;
    for (size_t i = 0; i < size; i++) chw[i] = (l2l_real)pixels[i] / 255;
    return true;
}

static void l2l__images_release(l2l_dataset *d)
{
    l2l__images *s = (l2l__images *)d->self;
    l2l__file_close(&s->images);
    l2l__file_close(&s->labels);
    l2l_free(d->context, s);
}

/* Whether a data set can be used; it is given back if not. */
static bool l2l__images_end(l2l_context *c, l2l_dataset *d)
{
    if (!c->status) return true;
    l2l_dataset_free(d);
    d->context = c;                          /* stays: later calls know where the error is        */
    return false;
}

/* A data set in the making; NULL, and empty, after an error. */
static l2l__images *l2l__images_create(l2l_context *c, int classes, l2l_dataset *d)
{
    if (!l2l__given(c, "a data set", "the place for it", d)) return NULL;
    memset(d, 0, sizeof *d);
    d->context = c;
    l2l__images *s = (l2l__images *)l2l_allocate(c, sizeof *s);
    if (!s) return NULL;
    s->images = s->labels = l2l__file_of(c, "", NULL, 0);
    d->classes = classes;
    d->fetch = l2l__images_fetch;
    d->release = l2l__images_release;
    d->self = s;
    return s;
}

L2LADVDEF bool l2l_dataset_from_arrays(l2l_context *c, const l2l_real *images, const int *labels,
                                       int n, int channels, int height, int width, int classes,
                                       l2l_dataset *d)
{
    static const char who[] = "l2l_dataset_from_arrays";
    l2l__images *s = l2l__images_create(c, classes, d);
    int64_t dims[4], count = 0;
    if (!s) return false;
    dims[0] = n; dims[1] = channels; dims[2] = height; dims[3] = width;
    d->count = n;
    d->channels = channels;
    d->height = height;
    d->width = width;
    s->reals = images;
    s->classes = labels;
    if (l2l__given(c, who, "images", images) && l2l__given(c, who, "labels", labels) &&
        (n < 1 || channels < 1 || height < 1 || width < 1 || classes < 1 ||
         !l2l__product(dims, 4, &count)))
        l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images of %d x %d x %d in %d classes: too few or "
                  "too many", who, n, channels, height, width, classes);
    for (int i = 0; i < n && !c->status; i++)
        l2l__fetched_ok(d, who, i, images + i * (count / n), labels[i]);
    return l2l__images_end(c, d);
}

L2LADVDEF void l2l_dataset_free(l2l_dataset *d)
{
    if (!d) return;
    if (d->release) d->release(d);
    memset(d, 0, sizeof *d);
}

L2LADVDEF bool l2l_dataset_read(const l2l_dataset *d, int first, int n, l2l_real *images,
                                int *labels)
{
    static const char who[] = "l2l_dataset_read";
    l2l_context *c = d ? d->context : NULL;
    size_t size;
    if (!c || !l2l__dataset_ok(c, who, d)) return false;
    size = (size_t)d->channels * (size_t)d->height * (size_t)d->width;
    if (n > 0 && (!l2l__given(c, who, "images", images) || !l2l__given(c, who, "labels", labels)))
        return false;
    if (n < 0 || first < 0 || n > d->count || first > d->count - n)
        return l2l__fail(c, L2L_ERROR_ARGUMENT, "%s: %d images from %d on, of %d", who, n, first,
                         d->count);
    for (int i = 0; i < n; i++, images += size) {
        if (!d->fetch(d, first + i, images, labels + i))
            return l2l__fail(c, L2L_ERROR_CALLBACK, "%s: no image %d from fetch", who, first + i);
        if (c->status || !l2l__fetched_ok(d, who, first + i, images, labels[i])) return false;
    }
    return true;
}

/* -- IDX --------------------------------------------------------------------------------------- */

/* The sizes of labels (rank 1) or images (rank 3: NxHxW), checked against the length. */
static bool l2l__idx_sizes(l2l__file *f, int rank, int64_t dims[3])
{
    int64_t total, first = 4 + 4 * rank, rest = (int64_t)f->bytes - first;
    if (!l2l__file_hold(f, (size_t)first)) return false;
    const unsigned char *p = f->data;
    if (f->bytes >= 2 && p[0] == 0x1F && p[1] == 0x8B)
        return l2l__bad(f, L2L_ERROR_FORMAT, 0, "this is a gzip file: unpack it first (gunzip)");
    if (f->bytes < 4 || p[0] || p[1] || p[2] != 8 || p[3] != rank)
        return l2l__bad(f, L2L_ERROR_FORMAT, 0, "not an IDX file of %s: expected the bytes 0 0 8 "
                        "%d", rank > 1 ? "images" : "labels", rank);
    if (rest < 0)
        return l2l__bad(f, L2L_ERROR_FORMAT, (int64_t)f->bytes, "truncated in the header");
    for (int i = 0; i < rank; i++) {
        dims[i] = (int64_t)l2l__get_bytes(p + 4 + 4 * i, 4, true);
        if (dims[i] < 1 || dims[i] > INT_MAX)
            return l2l__bad(f, L2L_ERROR_FORMAT, 4 + 4 * i, "size %d is %z, not 1 to %d", i,
                            dims[i], INT_MAX);
    }
    if (!l2l__product(dims, rank, &total)) total = INT64_MAX;
    return total == rest ||
           l2l__bad(f, L2L_ERROR_FORMAT, first + (total < rest ? total : rest), "%s: the header "
                    "announces %z bytes of data, the file has %z",
                    total > rest ? "truncated" : "too long", total, rest);
}

/* Their sizes fit each other, and all labels are classes. */
static bool l2l__idx_take(l2l_context *c, l2l_dataset *d, l2l__images *s)
{
    int64_t dims[3] = {0}, n[3] = {0};
    if (l2l__idx_sizes(&s->images, 3, dims) && l2l__idx_sizes(&s->labels, 1, n) &&
        l2l__file_hold(&s->images, s->images.bytes) &&
        l2l__file_hold(&s->labels, s->labels.bytes) && n[0] != dims[0])
        l2l__bad(&s->labels, L2L_ERROR_FORMAT, 4, "%z labels for %z images in %s", n[0], dims[0],
                 s->images.label);
    d->count = (int)dims[0];
    d->channels = 1;
    d->height = (int)dims[1];
    d->width = (int)dims[2];
    for (int i = 0; i < d->count && !c->status; i++) {
        const int64_t at = L2L__IDX_LABELS + (int64_t)i;
        const int label = s->labels.data[at];
        if (label >= d->classes)
            l2l__bad(&s->labels, L2L_ERROR_FORMAT, at, "label %d is %d, not in 0..%d", i, label,
                     d->classes - 1);
    }
    return l2l__images_end(c, d);
}

L2LADVDEF bool l2l_dataset_idx_memory(l2l_context *c, const void *images, size_t image_bytes,
                                      const void *labels, size_t label_bytes, int classes,
                                      l2l_dataset *d)
{
    l2l__images *s = l2l__images_create(c, classes, d);
    if (!s) return false;
    s->images = l2l__file_of(c, "images in memory", images, image_bytes);
    s->labels = l2l__file_of(c, "labels in memory", labels, label_bytes);
    return l2l__idx_take(c, d, s);
}

/* -- the same from paths ----------------------------------------------------------------------- */

#ifndef L2LADV_NO_STDIO
L2LADVDEF bool l2l_model_load(l2l_model *m, const char *path, int *extra)
{
    return m && l2l__model_load(m, l2l__file_open(l2l_model_context(m), path), extra);
}
L2LADVDEF bool l2l_model_save(const l2l_model *m, const char *path)
{
    return m && l2l__model_save(m, path, NULL, NULL);
}

/* What the file says goes into *o, the options of the caller's own network or of none. */
static bool l2l__model_options_of(const l2l__bundle *b, l2l_model_options *o)
{
    const char *arch = l2l__bundle_text(b, "arch");
    int channels = 0;                        /* that the file normalises; 0: as o says            */
    if (o->arch && (!arch || strcmp(arch, o->arch)))
        return l2l__bad(&b->file, L2L_ERROR_FORMAT, 8, "the metadata 'arch' is '%s', not '%s': "
                        "create the model and use l2l_model_load", arch, o->arch);
    if (!arch)
        return l2l__bad(&b->file, L2L_ERROR_FORMAT, 8, "there is no metadata 'arch': create the "
                        "model and use l2l_model_load");
    if (!o->arch) *o = l2l_model_default(arch);
    if (!o->forward)
        return l2l__bad(&b->file, L2L_ERROR_UNSUPPORTED, 8, "an architecture that is not known "
                        "here (create the model and use l2l_model_load): '%s'", arch);
    if (!l2l__fields_read(b, l2l__model_fields, o) || !l2l__normalisation_read(b, o, &channels))
        return false;
    if (channels) o->normalise = channels;
    return true;
}

L2LADVDEF l2l_model *l2l_model_open_as(l2l_context *c, const char *path,
                                       const l2l_model_options *given)
{
    l2l_model_options o = L2L__ZERO;
    l2l__bundle file;
    l2l_model *m = NULL;
    if (!c || (given && !l2l__given(c, "l2l_model_open_as", "options.arch", given->arch)))
        return NULL;
    if (given) o = *given;
    if (l2l__bundle_open(l2l__file_open(c, path), &file) && l2l__model_options_of(&file, &o))
        m = l2l__model_make(c, &o, &file);
    if (m && !l2l__model_take(m, &file, NULL)) {
        l2l_model_free(m);
        m = NULL;
    }
    l2l__bundle_close(&file);
    return m;
}

L2LADVDEF l2l_model *l2l_model_open(l2l_context *c, const char *path)
{
    return l2l_model_open_as(c, path, NULL);
}

L2LADVDEF bool l2l_learned_load(l2l_learned *m, const char *path)
{
    return m && l2l__phi_load(m, l2l__file_open(m->context, path));
}
L2LADVDEF bool l2l_learned_save(const l2l_learned *m, const char *path)
{
    return m && l2l__phi_save(m, path, NULL, NULL);
}

L2LADVDEF l2l_learned *l2l_learned_open(l2l_context *c, const char *path)
{
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *m = NULL;
    l2l__bundle file;
    if (!c) return NULL;
    bool ok = l2l__bundle_open(l2l__file_open(c, path), &file);
    if (ok && !l2l__bundle_text(&file, "cell"))
        ok = l2l__bad(&file.file, L2L_ERROR_FORMAT, 8, "there is no metadata 'cell': create the "
                      "maximizer and use l2l_learned_load");
    o.bias = l2l__bundle_find(&file, "cell.bias_ih") != NULL;
    if (ok && l2l__fields_read(&file, l2l__learned_fields, &o)) m = l2l_learned_create(c, &o);
    if (m && !l2l__phi_take(m, &file)) {
        l2l_learned_free(m);
        m = NULL;
    }
    l2l__bundle_close(&file);
    return m;
}

L2LADVDEF bool l2l_dataset_idx(l2l_context *c, const char *images, const char *labels, int classes,
                               l2l_dataset *d)
{
    l2l__images *s = l2l__images_create(c, classes, d);
    if (!s) return false;
    s->images = l2l__file_open(c, images);
    s->labels = l2l__file_open(c, labels);
    return l2l__idx_take(c, d, s);
}

L2LADVDEF bool l2l_save_bytes(l2l_context *c, const char *path, const void *data, size_t bytes)
{
    return l2l_save_with_head(c, path, NULL, 0, data, bytes);
}

L2LADVDEF bool l2l_save_with_head(l2l_context *c, const char *path, const void *head,
                                  size_t head_bytes, const void *data, size_t bytes)
{
    l2l__entry e = L2L__ZERO;
    if (!c || c->status || !l2l__given(c, "saving", "the path", path) ||
        (head_bytes && !l2l__given(c, path, "head", head)) ||
        (bytes && !l2l__given(c, path, "data", data)))
        return false;
    e.dtype = L2L__U8;
    e.count = (int64_t)bytes;
    memcpy(&e.data, &data, sizeof data);     /* which is only read                                */
    return l2l__file_write(c, path, head, head_bytes, &e, 1);
}

L2LADVDEF bool l2l_load_bytes(l2l_context *c, const char *path, size_t most, void **data,
                              size_t *bytes)
{
    const char *who = "l2l_load_bytes";
    if (data) *data = NULL;
    if (bytes) *bytes = 0;
    if (!c || c->status || !l2l__given(c, who, "data", data) || !l2l__given(c, who, "bytes", bytes))
        return false;
    l2l__file f = l2l__file_open(c, path);
    if (l2l__file_hold(&f, most)) {
        *data = f.owned;
        *bytes = f.bytes;
        f.owned = NULL;
    }
    l2l__file_close(&f);
    return !c->status;
}
#endif

/* -- states of optimizers and maximizers, for checkpoints -------------------------------------- */

/* An array of a state, which l2l_real can hold. */
static bool l2l__state_array(l2l_context *c, const double *from, const double *numbers, int64_t n)
{
    const double most = sizeof(l2l_real) == 4 ? (double)FLT_MAX : DBL_MAX;
    for (int64_t i = 0; i < n; i++)
        if (fabs(from[i]) > most && fabs(from[i]) <= DBL_MAX)
            return l2l__fail(c, L2L_ERROR_FORMAT, "checkpoint: number %z of the tensor 'maximizer' "
                             "is %g: too large", (int64_t)(from - numbers) + i, from[i]);
    return true;
}

/* Moment i of an optimizer: of each array the first and the second; NULL if there is none. */
static l2l_real *l2l__moment(const l2l_optimizer *o, int i)
{
    return i % 2 ? o->second[i / 2] : o->first[i / 2];
}

/* The options, the steps, and for each array the two moments that it has. */
L2LADVDEF int64_t l2l_optimizer_pack(const l2l_optimizer *o, double *numbers)
{
    int64_t at;
    if (!o) return 0;
    at = l2l__options_pack(l2l__optimizer_fields, &o->options, numbers);
    if (numbers) numbers[at] = (double)o->steps;
    at++;
    for (int i = 0; i < 2 * o->n; i++) {
        const l2l_real *v = l2l__moment(o, i);
        for (int64_t j = 0; v && j < o->sizes[i / 2]; j++, at++)
            if (numbers) numbers[at] = (double)v[j];
    }
    return at;
}

L2LADVDEF bool l2l_optimizer_unpack(l2l_optimizer *o, const double *numbers, int64_t n)
{
    const double *at;
    if (!o || o->context->status ||
        !l2l__given(o->context, "l2l_optimizer_unpack", "numbers", numbers))
        return false;
    at = l2l__state_of(o->context, "an optimizer", l2l__optimizer_fields, &o->options, numbers, n,
                       l2l_optimizer_pack(o, NULL));
    if (!at || !l2l__state_array(o->context, at, numbers, n - (at - numbers))) return false;
    o->steps = (int64_t)at[-1];
    for (int i = 0; i < 2 * o->n; i++) {
        l2l_real *v = l2l__moment(o, i);
        for (int64_t j = 0; v && j < o->sizes[i / 2]; j++) v[j] = (l2l_real)*at++;
    }
    return true;
}

/* Settings, the optimizer's steps, T and epsilon, phi, the optimizer's two moments. */
static int64_t l2l__learned_pack_state(void *self, double *numbers)
{
    l2l_learned *m = (l2l_learned *)self;
    if (!m) return 0;                        /* its creation failed: `begin` says so              */
    int n = l2l__options_pack(l2l__learned_fields, &m->options, numbers);
    if (numbers) {
        numbers[n] = (double)m->optimizer->steps;
        l2l__options_pack(l2l__trained_fields, m, numbers + n + 1);
        numbers += n + 3;
        for (int j = 0; j < 3; j++) {
            const l2l_real *v = j ? l2l__moment(m->optimizer, j - 1) : m->phi;
            for (int i = 0; i < m->size; i++) *numbers++ = v ? (double)v[i] : 0;
        }
    }
    return n + 3 + 3 * (int64_t)m->size;
}

/* Everything is checked before anything is changed. */
static bool l2l__learned_unpack_state(void *self, const double *numbers, int64_t count)
{
    l2l_learned *m = (l2l_learned *)self, trained;
    const double *at;
    int i;
    if (!m) return false;
    at = l2l__state_of(m->context, "a maximizer", l2l__learned_fields, &m->options, numbers, count,
                       l2l__learned_pack_state(self, NULL));
    if (!at) return false;
    trained = *m;
    if ((i = l2l__fields_set(l2l__trained_fields, 2, &trained, at)) < 2)
        return l2l__fail(m->context, L2L_ERROR_FORMAT, "checkpoint: number %z of the tensor "
                         "'maximizer', its %s, is %g: out of range", (int64_t)(at - numbers) + i,
                         l2l__trained_fields[i].name, at[i]);
    if (!l2l__state_array(m->context, at + 2, numbers, 3 * (int64_t)m->size)) return false;
    m->optimizer->steps = (int64_t)at[-1];
    l2l__learned_set_trained_with(m, trained.trained_T, trained.trained_epsilon);
    at += 2;
    for (int j = 0; j < 3; j++) {
        l2l_real *v = j ? l2l__moment(m->optimizer, j - 1) : m->phi;
        for (i = 0; i < m->size; i++, at++)
            if (v) v[i] = (l2l_real)*at;
    }
    return true;
}

/* A number for what a maximizer has learned; 0 if it packs nothing. */
static bool l2l__learned_digest(l2l_context *c, const l2l_maximizer *m, double *digest)
{
    int64_t n = m->pack ? m->pack(m->self, NULL) : 0;
    double *v = n > 0 ? (double *)l2l__allocate_array(c, n, sizeof *v) : NULL;
    if (v) m->pack(m->self, v);
    *digest = l2l__digest_bytes(v, n * (int64_t)sizeof *v);
    l2l_free(c, v);
    return !c->status;
}


#ifdef __clang__
#pragma mark - 15  Kernels
#endif
/* ============================================================================================ */
/*  15 KERNELS                                                                       >>kernels  */
/* ============================================================================================

   All that is fast, and the only chapter with vector types and block sizes. Three layers:

    15.1  what a kernel gets; the table of kernels of one instruction set
    15.2  kernels, written once for vectors of any length. One of length 1 is plain C, number by
          number: what L2L_CPU_PLAIN, L2LADV_DOUBLE, L2LADV_NO_SIMD and other compilers use, and
          what is left over where vectors end. For the others the header includes itself, once for
          each instruction set (the technique is Google Highway's), and the best one that the
          machine has is chosen at run time
    15.3  drivers: plain functions that cut the work into blocks, one or more for each thread

   Same bits: behind every output the order of additions depends on the layer's shape only. Each
   number of a tile is a chain of its own, over taps and depth, or pixels, in order; a slab's end
   puts it down in memory and the next slab takes it up. So neither the tile's rows nor blocks nor
   threads enter it.

   All convolutions end in products of a matrix, whose rows are pixels, and a weight:
       tile      6 rows x two vectors of columns of the result, kept in registers while it sums
       panel     the weight for one tile's columns, packed in the order in which it is read
       tap       a place of the kernel: its rows of the weight are the input's channels
       slab      so many of those at a time that a panel's part stays in the first cache
       band      six channels, the rows of a weight gradient's tile
       block     the pixels or Winograd tiles that a thread takes at once
       phase     the input pixels of one remainder by the stride: they see the same taps
       point     of Winograd's: one of the places where patch and kernel are multiplied
       item      of a weight gradient: a slab of x's channels by a panel of dy's
       part      of a sum over tiles, where it is taken in several; share: an item of a part */

/* -- 15.1 what a kernel gets ------------------------------------------------------------------- */

enum {
    L2L__ROWS = 6,                           /* rows of a tile: pixels (or channels) at once      */
    L2L__SLAB = 256,                         /* depth of a pass: a panel of it stays in L1        */
    L2L__SMALL_PLANE = 64,                   /* pixels up to which a plane goes place by place    */
    L2L__PIXELS = 96,                        /* pixels of a block at most: of L2L__ROWS each      */
    L2L__FEW = 4                             /* channels up to which a kernel's line is one tap   */
};

/* A line of the kernel over few channels is one tap, of `depth` = kw*C numbers of the source. */
typedef struct l2l__lines {
    int taps, depth, step;                   /* step: from a pixel's to the next one's, stride*C  */
    int64_t line;                            /* from tap to tap: a line of the source             */
    int k;                                   /* channels of the output                            */
    const l2l__epilogue *epilogue;           /* NULL: none                                        */
} l2l__lines;

typedef struct l2l__kernels {
    const char *name;                        /* of the instruction set                            */
    int columns;                             /* columns of a tile: two vectors                    */
    /* y[r][0..columns) (+)= sum over taps t, depth d of a[t*L2L__ROWS + r][first + d] *
       b[(t*step + d)*columns + ...]: b is a packed panel whose taps stand `step` rows apart. */
    void (*tile)(int rows, int taps, int depth, const l2l_real *const *a, int first,
                 const l2l_real *b, int step, l2l_real *const *y, bool accumulate);
    /* A row of `pixels` outputs, which stand at y and `at` in the output, channels from k0 on:
       y[p][k0 ...] = the epilogue of the sum over taps t, depth d of
       a[t*line + p*step + d] * b[(t*depth + d)*columns + ...]. */
    void (*lines)(const l2l__lines *q, int pixels, const l2l_real *a, const l2l_real *b, int k0,
                  int64_t at, l2l_real *y);
    /* y[r*columns + ...] (+)= sum over l < lines, p < count of
       a[l*la + p*sa + r] * b[l*lb + p*sb + ...] */
    void (*outer)(int rows, int lines, int count, const l2l_real *a, int64_t la, int64_t sa,
                  const l2l_real *b, int64_t lb, int64_t sb, l2l_real *y, bool accumulate);
    /* A tap of a panel: out[d*columns + q] = in[d*sd + q*sq]; 0 for columns from `valid` on. */
    void (*pack)(int depth, int valid, const l2l_real *in, int64_t sd, int64_t sq, l2l_real *out);
    /* Of pixels of n channels those from k on; 0 for all. The epilogue of one pixel, whose residual
       begins at `from`. */
    void (*finish)(int k, int n, const l2l_real *x, const l2l__epilogue *e, int64_t from,
                   l2l_real *y);
    /* One pixel: out = t * scale, where t is dy, or 0 where gate <= 0. A gate of NULL is open. */
    void (*gate_scale)(int k, int n, const l2l_real *dy, const l2l_real *gate,
                       const l2l_real *scale, l2l_real *out);
    /* Sums over pixels, for each channel: s0 += t, s1 += t * (x - mu); without dy t is x - mu. */
    void (*moments)(int k, int n, int pixels, const l2l_real *dy, const l2l_real *gate,
                    const l2l_real *x, const l2l_real *mu, l2l_real *s0, l2l_real *s1);
    /* One pixel: out = a * t + b * (x - mu) + d, where mu, a, b, d stand in turn in `by`. */
    void (*combine)(int k, int n, const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                    const l2l_real *by, l2l_real *out);
    /* out[i] = f(x[i], y[i], a, b), see L2L__NAME(ew). */
    void (*ew)(int f, int64_t n, const l2l_real *x, const l2l_real *y, l2l_real a, l2l_real b,
               l2l_real *out);
    /* Output row oh of an image, channels from k on: the maxima, and at which pixels they stand. */
    void (*pool_row)(int k, const l2l__geometry *g, const l2l_real *x, int oh, l2l_real *y,
                     int *index);
    const l2l__cell_kernels *cell;           /* of the learned maximizer                          */
    /* An optimizer's step on numbers i and up; m is SGD's momentum (NULL: none) or Adam's first
       moment, v its second. */
    void (*update)(int64_t i, int64_t n, const l2l__update *u, const l2l_real *g, l2l_real *x,
                   l2l_real *m, l2l_real *v);
    /* Of vectors alone, else NULL. One transform of Winograd's for n numbers of each point:
       from[i][0..n) to to[j][0..n); a target of NULL is left out. n is a multiple of half the
       columns. An epilogue (or NULL) for channels k0 and up of pixels in a tensor that begins at
       `base`. */
    void (*winograd)(int transform, int64_t n, const l2l_real *const *from, l2l_real *const *to,
                     const l2l__epilogue *e, int k0, const l2l_real *base);
    /* Of vectors alone, as the next one. zero[p]: are all n numbers of pixel p 0? */
    void (*zeros)(int pixels, int n, const l2l_real *x, unsigned char *zero);
    /* Of vectors alone, too. Which of the 3x3 patches behind the 2x2 windows of outputs from (y, x)
       on are equal? For each of up to 2x2 windows eight bits: of its four outputs the first that is
       like it, two bits each. `zero` stands outside the image. */
    uint32_t (*ties)(const l2l__geometry *g, const l2l_real *image, const l2l_real *zero, int y,
                     int x, int rows, int columns);
} l2l__kernels;

enum { L2L__NO_TIES = 1 << 2 | 2 << 4 | 3 << 6 };

/* Winograd's transforms along one side: outputs, and the lengths they lead from and to. */
enum {
    L2L__WIN_IN = 0,                         /* B^T d: f+2 to f+2, of the input                   */
    L2L__WIN_OUT,                            /* A^T m: f+2 to f, of the product                   */
    L2L__WIN_WEIGHT,                         /* G g: 3 to f+2, of the weight                      */
    L2L__WIN_GRAD,                           /* A y: f to f+2, of the output's gradient           */
    L2L__WIN_BACK,                           /* G^T u: f+2 to 3, to the weight's gradient         */
    L2L__WIN_KINDS,
    L2L__WIN_F2 = L2L__WIN_KINDS,            /* added for f = 2; without any f = 4                */
    L2L__WIN_F5 = 2 * L2L__WIN_KINDS,        /* added for f = 5                                   */
    L2L__WIN_TWO = 3 * L2L__WIN_KINDS,       /* added for f = 4 and kernels of two taps           */
    L2L__WIN_PLANE = 4 * L2L__WIN_KINDS,     /* added for whole planes of 2x2                     */
    L2L__WIN_POINTS = 49                     /* (f+2)^2 at most                                   */
};

/* The copies, not p itself, which is the slot's. */
static void l2l__packed_free(l2l_context *c, l2l__packed *p)
{
    int i;
    for (i = 0; p && i < L2L__CACHES; i++) {
        l2l_free(c, p->cache[i].panels);
        p->cache[i].panels = NULL;
        p->cache[i].count = 0;
    }
}

/* -- 15.2 kernels ------------------------------------------------------------------------------ */

/* The bounds of the projection, rounded in one place. */
static l2l_real l2l__low(l2l_real x, l2l_real epsilon) { return x - epsilon > 0 ? x - epsilon : 0; }
static l2l_real l2l__high(l2l_real x, l2l_real epsilon)
{
    return x + epsilon < 1 ? x + epsilon : 1;
}

#if (defined(__GNUC__) || defined(__clang__)) && !defined(L2LADV_DOUBLE) && !defined(L2LADV_NO_SIMD)
#if defined(_MSC_VER)
/* clang-cl: it declares intrinsics by flag alone, and has no __cpu_model to ask at run time. It and
   Microsoft's compiler, which has never been at hand, take the plain kernels. */
#elif defined(_WIN32) && !defined(__OPTIMIZE__)
/* On Windows the stack is aligned to 16 bytes, which gcc's long vectors at -O0 do not survive. */
#elif defined(__x86_64__) || defined(__i386__)
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
#ifdef __clang__
#define L2L__UNROLL _Pragma("unroll")
#elif __GNUC__ >= 8
#define L2L__UNROLL _Pragma("GCC unroll 7")
#else
#define L2L__UNROLL
#endif
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

#endif /* L2L__VECTORS */

#define L2L__LANES 1
#endif /* the part that is read once goes on below */

#ifdef L2L__LANES /* from here to its #endif: once in plain C, once for each instruction set */

#if L2L__LANES == 1
#define L2L__NAME(x) l2l__plain_##x
#define L2L__INLINE static inline L2L__MAYBE_UNUSED
#define L2L__KERNEL static
#define L2L__V l2l_real
#define L2L__I int
#define L2L__LD(p) (*(p))
#define L2L__ST(p, x) (*(p) = (x))
#define L2L__SET(x) ((l2l_real)(x))
#define L2L__FMA(a, b, c) ((a) * (b) + (c))
#define L2L__PICK(mask, yes, no) ((mask) ? (l2l_real)(yes) : (l2l_real)(no))
#define L2L__MASK(is) (-(is))                /* of a comparison: all bits set where it holds      */
#define L2L__FETCH(p) ((void)(p))            /* ahead of its use, into the cache                  */
#else
#define L2L__NAME(x) L2L__PASTE(l2l__##x, L2L__SUFFIX)
#define L2L__INLINE static inline __attribute__((__always_inline__)) L2L__TARGET L2L__MAYBE_UNUSED
#define L2L__KERNEL static __attribute__((__noinline__)) L2L__TARGET
#define L2L__V L2L__NAME(v)
#define L2L__I L2L__NAME(i)
#define L2L__LD L2L__NAME(load)
#define L2L__ST L2L__NAME(store)
#define L2L__SET L2L__NAME(all)
#define L2L__FMA L2L__NAME(fma)
#define L2L__PICK L2L__NAME(pick)
#define L2L__MASK(is) (is)
#define L2L__FETCH(p) __builtin_prefetch(p)

/* Vectors that may stand at any float's address and alias floats. Comparing two gives a vector of
   int, all bits set where it holds. */
#define L2L__LONG __attribute__((__vector_size__(4 * L2L__LANES), __aligned__(4), __may_alias__))
typedef float L2L__V L2L__LONG;
typedef int L2L__I L2L__LONG;
#undef L2L__LONG

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
#endif

/* The epilogue for channels k.. of the pixel whose numbers stand at `at` in the residual. */
L2L__INLINE L2L__V L2L__NAME(epilogue)(L2L__V v, const l2l__epilogue *e, int64_t k, int64_t at)
{
    if (e->mean) v -= L2L__LD(e->mean + k);
    if (e->scale) v *= L2L__LD(e->scale + k);
    if (e->bias) v += L2L__LD(e->bias + k);
    if (e->residual) v += L2L__LD(e->residual + at);
    return e->relu ? L2L__PICK(v < L2L__SET(0), L2L__SET(0), v) : v; /* NaN stays visible         */
}

/* By whole vectors, then number by number. Same arithmetic, same bits. */
L2L__KERNEL void L2L__NAME(finish)(int k, int n, const l2l_real *x, const l2l__epilogue *e,
                                   int64_t from, l2l_real *y)
{
    for (; k + L2L__LANES <= n; k += L2L__LANES)
        L2L__ST(y + k, L2L__NAME(epilogue)(L2L__LD(x + k), e, k, from + k));
    if (L2L__LANES > 1 && k < n) l2l__plain_finish(k, n, x, e, from, y);
}

/* The sums of a tile: 6 rows x 2 vectors, kept in registers under their own names (compilers do not
   reliably do that for an array). `rows` is a constant after inlining. */
typedef struct L2L__NAME(sums) {
    L2L__V s0, s1, s2, s3, s4, s5, u0, u1, u2, u3, u4, u5;
} L2L__NAME(sums);
#define L2L__EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)

/* Where nothing is accumulated, sums begin at 0 and y is not read: it may be NULL. Rows from `rows`
   on are 0 and vanish in compilation. */
L2L__INLINE L2L__NAME(sums) L2L__NAME(sums_load)(const int rows, l2l_real *const *y,
                                                 bool accumulate)
{
    L2L__NAME(sums) t;
#define L2L__X(r) t.s##r = t.u##r = L2L__SET(0);
    L2L__EACH_ROW(L2L__X)
#undef L2L__X
    if (!accumulate) return t;
#define L2L__X(r) if (rows > r) { t.s##r = L2L__LD(y[r]); t.u##r = L2L__LD(y[r] + L2L__LANES); }
    L2L__EACH_ROW(L2L__X)
#undef L2L__X
    return t;
}

L2L__INLINE void L2L__NAME(sums_store)(const int rows, L2L__NAME(sums) t, l2l_real *const *y)
{
#define L2L__X(r) if (rows > r) { L2L__ST(y[r], t.s##r); L2L__ST(y[r] + L2L__LANES, t.u##r); }
    L2L__EACH_ROW(L2L__X)
#undef L2L__X
}

/* row r += *a_r b */
L2L__INLINE void L2L__NAME(sums_add)(const int rows, L2L__NAME(sums) *t, const l2l_real *b,
                                     const l2l_real *a0, const l2l_real *a1, const l2l_real *a2,
                                     const l2l_real *a3, const l2l_real *a4, const l2l_real *a5)
{
    const L2L__V b0 = L2L__LD(b), b1 = L2L__LD(b + L2L__LANES);
#define L2L__X(r)                                                                                  \
    if (rows > r) {                                                                                \
        const L2L__V v = L2L__SET(*a##r);                                                          \
        t->s##r = L2L__FMA(v, b0, t->s##r);                                                        \
        t->u##r = L2L__FMA(v, b1, t->u##r);                                                        \
    }
    L2L__EACH_ROW(L2L__X)
#undef L2L__X
}

/* Tap by tap, number by number of the depth. Rows that the tile does not have take the pointer of
   row 0, as their own need not exist, and are never read. */
L2L__INLINE void L2L__NAME(tile_rows)(const int rows, int taps, int depth, const l2l_real *const *a,
                                      int first, const l2l_real *b, int step, l2l_real *const *y,
                                      bool accumulate)
{
    L2L__NAME(sums) s = L2L__NAME(sums_load)(rows, y, accumulate);
    int t, d;
    for (t = 0; t < taps; t++, a += L2L__ROWS) {
        const l2l_real *p = b + (int64_t)t * step * 2 * L2L__LANES;
#define L2L__X(r) const l2l_real *a##r = a[rows > r ? r : 0] + first;
        L2L__EACH_ROW(L2L__X)
#undef L2L__X
        for (d = 0; d < depth; d++, p += 2 * L2L__LANES)
            L2L__NAME(sums_add)(rows, &s, p, a0 + d, a1 + d, a2 + d, a3 + d, a4 + d, a5 + d);
    }
    L2L__NAME(sums_store)(rows, s, y);
}

/* Each number of rows has code of its own, in which it is a constant. */
L2L__KERNEL void L2L__NAME(tile)(int rows, int taps, int depth, const l2l_real *const *a, int first,
                                 const l2l_real *b, int step, l2l_real *const *y, bool accumulate)
{
    switch (rows) {
#define L2L__X(r)                                                                                  \
    case r + 1:                                                                                    \
        L2L__NAME(tile_rows)(r + 1, taps, depth, a, first, b, step, y, accumulate);                \
        break;
        L2L__EACH_ROW(L2L__X)
#undef L2L__X
    }
}

/* The same tile for neighbouring pixels, each `step` further on, with the epilogue in registers. A
   panel that reaches beyond the last channel would overwrite the next pixel: its sums go to `tail`,
   from where the channels that exist are copied to y and finished. */
L2L__INLINE void L2L__NAME(line_rows)(const int rows, const l2l__lines *q, const l2l_real *a,
                                      const l2l_real *b, int k0, int64_t at, l2l_real *y)
{
    enum { width = 2 * L2L__LANES };
    l2l_real tail[2 * L2L__LANES * L2L__ROWS], *to[L2L__ROWS];
    L2L__NAME(sums) s = L2L__NAME(sums_load)(rows, NULL, false);
    bool whole = q->k - k0 >= width;
    int t, d, r;
    for (t = 0; t < q->taps; t++) {
#define L2L__X(r) const l2l_real *a##r = a + t * q->line + (rows > r ? r : 0) * q->step;
        L2L__EACH_ROW(L2L__X)
#undef L2L__X
        for (d = 0; d < q->depth; d++, b += width)
            L2L__NAME(sums_add)(rows, &s, b, a0 + d, a1 + d, a2 + d, a3 + d, a4 + d, a5 + d);
    }
    if (whole && q->epilogue) {
#define L2L__X(r)                                                                                  \
    if (rows > r) {                                                                                \
        const int64_t i = at + r * q->k + k0;                                                      \
        s.s##r = L2L__NAME(epilogue)(s.s##r, q->epilogue, k0, i);                                  \
        s.u##r = L2L__NAME(epilogue)(s.u##r, q->epilogue, k0 + L2L__LANES, i + L2L__LANES);        \
    }
        L2L__EACH_ROW(L2L__X)
#undef L2L__X
    }
    for (r = 0; r < rows; r++) to[r] = whole ? y + (int64_t)r * q->k + k0 : tail + r * width;
    L2L__NAME(sums_store)(rows, s, to);
    for (r = 0; r < (whole ? 0 : rows); r++) {
        l2l_real *out = y + (int64_t)r * q->k;
        memcpy(out + k0, to[r], (size_t)(q->k - k0) * sizeof *y);
        if (q->epilogue)
            L2L__NAME(finish)(k0, q->k, out, q->epilogue, at + (int64_t)r * q->k, out);
    }
}

/* Six pixels at a time; the last 1 to 6 are a tile of that many rows. */
L2L__KERNEL void L2L__NAME(lines)(const l2l__lines *q, int pixels, const l2l_real *a,
                                  const l2l_real *b, int k0, int64_t at, l2l_real *y)
{
    int p;
    for (p = 0; p < pixels; p += L2L__ROWS) {
        const l2l_real *from = a + p * q->step;
        int64_t further = (int64_t)p * q->k;
        switch (pixels - p) {
#define L2L__X(r)                                                                                  \
    case r + 1: L2L__NAME(line_rows)(r + 1, q, from, b, k0, at + further, y + further); break;
            L2L__EACH_ROW(L2L__X)
#undef L2L__X
        default: L2L__NAME(line_rows)(L2L__ROWS, q, from, b, k0, at + further, y + further);
        }
    }
}

/* The same tile for weight gradients: the rows are neighbours in a, the sum runs over pixels. la
   and lb become the ways from behind a line's last pixel to the next line. */
L2L__INLINE void L2L__NAME(outer_rows)(const int rows, int lines, int count, const l2l_real *a,
                                       int64_t la, int64_t sa, const l2l_real *b, int64_t lb,
                                       int64_t sb, l2l_real *y, bool accumulate)
{
    enum { width = 2 * L2L__LANES };
    l2l_real *const at[6] = {y,             y + width,     y + 2 * width,
                             y + 3 * width, y + 4 * width, y + 5 * width};
    L2L__NAME(sums) s = L2L__NAME(sums_load)(rows, at, accumulate);
    int p;
    for (la -= sa * count, lb -= sb * count; lines > 0; lines--, a += la, b += lb)
        for (p = 0; p < count; p++, a += sa, b += sb)
            L2L__NAME(sums_add)(rows, &s, b, a, a + (rows > 1 ? 1 : 0), a + (rows > 2 ? 2 : 0),
                                a + (rows > 3 ? 3 : 0), a + (rows > 4 ? 4 : 0),
                                a + (rows > 5 ? 5 : 0));
    L2L__NAME(sums_store)(rows, s, at);
}

L2L__KERNEL void L2L__NAME(outer)(int rows, int lines, int count, const l2l_real *a, int64_t la,
                                  int64_t sa, const l2l_real *b, int64_t lb, int64_t sb,
                                  l2l_real *y, bool accumulate)
{
    switch (rows) {
#define L2L__X(r)                                                                                  \
    case r + 1:                                                                                \
        L2L__NAME(outer_rows)(r + 1, lines, count, a, la, sa, b, lb, sb, y, accumulate);           \
        break;
        L2L__EACH_ROW(L2L__X)
#undef L2L__X
    }
}

/* out[r*2L + q] = in[q*step + r], four by four. */
L2L__INLINE void L2L__NAME(turn)(const l2l_real *in, int64_t step, l2l_real *out)
{
    enum { width = L2L__LANES };
#if defined(L2L__X86) && L2L__LANES > 1
    __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + step);
    __m128 c = _mm_loadu_ps(in + 2 * step), d = _mm_loadu_ps(in + 3 * step);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storeu_ps(out + 2 * width, b);
    _mm_storeu_ps(out + 4 * width, c);
    _mm_storeu_ps(out + 6 * width, d);
#else
    int r, q;
    for (q = 0; q < 4; q++)
        for (r = 0; r < 4; r++) out[r * 2 * width + q] = in[q * step + r];
#endif
}

/* The three ways that a weight may lie: columns side by side (forward), rows side by side (input
   gradient, turned four by four), neither or not enough of them. What is left of the second way,
   columns from `quads` on and rows from `deep` on, goes the third. */
L2L__KERNEL void L2L__NAME(pack)(int depth, int valid, const l2l_real *in, int64_t sd, int64_t sq,
                                 l2l_real *out)
{
    enum { width = L2L__LANES };
    int q, d, quads = sd == 1 ? valid / 4 * 4 : 0, deep = depth / 4 * 4;
    if (valid < 2 * width) memset(out, 0, (size_t)depth * 2 * width * sizeof *out);
    if (valid == 2 * width && sq == 1) {
        for (d = 0; d < depth; d++, in += sd, out += 2 * width) {
            L2L__FETCH(in + 8 * sd);
            L2L__FETCH(in + 8 * sd + width);
            L2L__ST(out, L2L__LD(in));
            L2L__ST(out + width, L2L__LD(in + width));
        }
        return;
    }
    for (q = 0; q < quads; q += 4)
        for (d = 0; d < deep; d += 4) {
            /* in turn, so that each is fetched once for 16 numbers, a cache line */
            L2L__FETCH(in + (q + 4 + d / 4 % 4) * sq + d); /* the rows of the next four   */
            L2L__NAME(turn)(in + q * sq + d, sq, out + d * 2 * width + q);
        }
    for (q = 0; q < valid; q++)
        for (d = q < quads ? deep : 0; d < depth; d++) out[d * 2 * width + q] = in[d * sd + q * sq];
}

/* dy where the gate is positive, else 0. */
L2L__INLINE L2L__V L2L__NAME(gated)(const l2l_real *dy, const l2l_real *gate, int64_t i)
{
    L2L__V t = L2L__LD(dy + i);
    return gate ? L2L__PICK(L2L__LD(gate + i) > L2L__SET(0), t, L2L__SET(0)) : t;
}

L2L__KERNEL void L2L__NAME(gate_scale)(int k, int n, const l2l_real *dy, const l2l_real *gate,
                                       const l2l_real *scale, l2l_real *out)
{
    for (; k + L2L__LANES <= n; k += L2L__LANES)
        L2L__ST(out + k, L2L__NAME(gated)(dy, gate, k) * L2L__LD(scale + k));
    if (L2L__LANES > 1 && k < n) l2l__plain_gate_scale(k, n, dy, gate, scale, out);
}

/* Channels in the inner loop: x and dy are read once and in order, the sums stay in the cache. x
   may be NULL if s1 is: the sum of dy alone. */
L2L__KERNEL void L2L__NAME(moments)(int first, int n, int pixels, const l2l_real *dy,
                                    const l2l_real *gate, const l2l_real *x, const l2l_real *mu,
                                    l2l_real *s0, l2l_real *s1)
{
    int p, k = first;
    for (p = 0; p < pixels; p++)
        for (k = first; k + L2L__LANES <= n; k += L2L__LANES) {
            int64_t i = (int64_t)p * n + k;
            L2L__V d = L2L__SET(0), t;
            if (x) d = L2L__LD(x + i) - L2L__LD(mu + k);
            t = dy ? L2L__NAME(gated)(dy, gate, i) : d;
            if (s0) L2L__ST(s0 + k, L2L__LD(s0 + k) + t);
            if (s1) L2L__ST(s1 + k, L2L__FMA(t, d, L2L__LD(s1 + k)));
        }
    if (L2L__LANES > 1 && k < n) l2l__plain_moments(k, n, pixels, dy, gate, x, mu, s0, s1);
}

/* The dx of batch norm, see l2l__batch_norm_fused_vjp: a = gamma r, b = -r^2 mean(u xhat) and
   d = -r mean(u). In the code d is x - mu, and e is that d. */
L2L__KERNEL void L2L__NAME(combine)(int k, int n, const l2l_real *dy, const l2l_real *gate,
                                    const l2l_real *x, const l2l_real *by, l2l_real *out)
{
    for (; k + L2L__LANES <= n; k += L2L__LANES) {
        const L2L__V a = L2L__LD(by + n + k), b = L2L__LD(by + 2 * n + k);
        const L2L__V t = L2L__NAME(gated)(dy, gate, k), d = L2L__LD(x + k) - L2L__LD(by + k);
        const L2L__V e = L2L__LD(by + 3 * n + k);
        L2L__V v = a * t + b * d + e;
        if (L2L__LANES > 1) v = L2L__FMA(a, t, L2L__FMA(b, d, e));
        L2L__ST(out + k, v);
    }
    if (L2L__LANES > 1 && k < n) l2l__plain_combine(k, n, dy, gate, x, by, out);
}

/* Sums, products and functions of chapter 8's table; y is the gate or the ball's centre, a the
   slope or radius; SIGN_STEP is a sign(x), 0 for not-a-number. Whether a number falls into a
   vector or behind the last one goes by the batch, so both must give the same bits: a result has
   one rounding at most, but for AFFINE, which vectors leave to plain C as a whole. */
L2L__KERNEL void L2L__NAME(ew)(int f, int64_t n, const l2l_real *x, const l2l_real *y, l2l_real a,
                               l2l_real b, l2l_real *out)
{
    const L2L__V zero = L2L__SET(0), one = L2L__SET(1), va = L2L__SET(a);
    int64_t i = 0;
    L2L__V v, low, high;
#define L2L__EACH for (; i + L2L__LANES <= n; i += L2L__LANES)
    if (f == L2L__ADD) {                     /* at once: l2l__scatter_image has short lines       */
        L2L__EACH L2L__ST(out + i, L2L__LD(x + i) + L2L__LD(y + i));
        for (; i < n; i++) out[i] = x[i] + y[i];
        return;
    }
    switch (f) {
#if L2L__LANES == 1
    case L2L__AFFINE:
        L2L__EACH {
            v = va * x[i];                   /* rounded alone, unless by gcc -ffp-contract=fast   */
            out[i] = v + b;
        }
        break;
#endif
    case L2L__RELU:
        L2L__EACH {
            v = L2L__LD(x + i);
            L2L__ST(out + i, L2L__PICK(v < zero, zero, v)); /* not-a-number stays visible         */
        }
        break;
    case L2L__SIGN_STEP:
        L2L__EACH {
            v = L2L__LD(x + i);
            L2L__ST(out + i, L2L__PICK(v > zero, va, L2L__PICK(v < zero, zero - va, zero)));
        }
        break;
    case L2L__GATE:
        L2L__EACH {
            v = L2L__LD(x + i);
            low = va * v;
            if (b > 0) low = zero;           /* a mask: infinity is 0, too                        */
            L2L__ST(out + i, L2L__PICK(L2L__LD(y + i) > zero, v, low));
        }
        break;
    case L2L__PROJECT:
        L2L__EACH {
            v = L2L__LD(y + i);
            low = v - va;
            high = v + va;
            low = L2L__PICK(low > zero, low, zero);
            high = L2L__PICK(high < one, high, one);
            v = L2L__LD(x + i);
            v = L2L__PICK(v < low, low, v);
            L2L__ST(out + i, L2L__PICK(v > high, high, v));
        }
        break;
    case L2L__MUL:
        L2L__EACH L2L__ST(out + i, L2L__LD(x + i) * L2L__LD(y + i));
        break;
    }
#undef L2L__EACH
    if (L2L__LANES > 1 && i < n) l2l__plain_ew(f, n - i, x + i, y ? y + i : NULL, a, b, out + i);
}

/* y[ow][k] = max over the window's pixels in the image, in reading order: the first of equals wins
   (>), not-a-number over all (v != v). index has its pixel's number in the image, i*w + j. No
   window lies in the padding alone, which is half of it at most. */
L2L__KERNEL void L2L__NAME(pool_row)(int first, const l2l__geometry *g, const l2l_real *x, int oh,
                                     l2l_real *y, int *index)
{
    const int h = oh * g->stride - g->padding, lines = h + g->kh < g->h ? h + g->kh : g->h;
    int ow, k = first, i, j;
    for (ow = 0; ow < g->ow; ow++) {
        const int w = ow * g->stride - g->padding, columns = w + g->kw < g->w ? w + g->kw : g->w;
        const int i0 = h < 0 ? 0 : h, j0 = w < 0 ? 0 : w; /* without what is padding              */
        for (k = first; k + L2L__LANES <= g->c; k += L2L__LANES) {
            L2L__V best = L2L__LD(x + ((int64_t)i0 * g->w + j0) * g->c + k);
            L2L__I place = {0};
            place += i0 * g->w + j0;
            for (i = i0; i < lines; i++)
                for (j = j0; j < columns; j++) {
                    int at = i * g->w + j;
                    L2L__V v = L2L__LD(x + (int64_t)at * g->c + k);
                    L2L__I there = {0}, wins = L2L__MASK((v > best) | (v != v));
                    there += at;
                    best = L2L__PICK(wins, v, best);
                    place = (wins & there) | (~wins & place);
                }
            L2L__ST(y + (int64_t)ow * g->c + k, best);
            *(L2L__I *)(void *)(index + (int64_t)ow * g->c + k) = place;
        }
    }
    if (L2L__LANES > 1 && k < g->c) l2l__plain_pool_row(k, g, x, oh, y, index);
}

#if L2L__LANES > 1 /* for Winograd's convolution alone */
/* Winograd's transforms (Lavin and Gray 2016) of one line of at most seven vectors, under their own
   names so that they stay in registers.
   F(4,3) interpolates at 0, +-a, +-b and infinity; a = 5/8, b = 3/2 are exact in binary, and their
   powers spread less than those of the usual 1, 2. F(2,3): 0, +-1, infinity. F(5,3): +-s, +-t, +-r
   and infinity; 5/16, 7/8, 13/8 were found by trying sixteenths. F(4,2), of two taps: +-c, +-d and
   infinity; 1/2, 5/4. tests/bin/test_kernels --table prints the errors of all of them.
   A plane of two inputs x with zeros around has two outputs, x_0 w_1 + x_1 w_2 and x_0 w_0 +
   x_1 w_1: with m_0 = (x_0 + x_1) w_1 they are m_0 + x_1 (w_2 - w_1) and m_0 + x_0 (w_0 - w_1).

   To the finite point p_i, with N_i the product of p_i - p_k over the others, belong
       a row of B^T   the coefficients of the product of z - p_k over the others, from z^0 up
       a row of G     (1, p_i, p_i^2) / N_i
       a row of A     (1, p_i, .. p_i^(f-1))
   and to infinity the coefficients with all of them, (0, 0, 1) and (0, .. 0, 1). Then A^T ((G g) .
   (B^T d)) is y_i = sum over j of d_{i+j} g_j.

   The rows of +-p are an even and an odd part (e o, p q, g h), added and subtracted. n0, na, nb are
   1/N of 0, +-a, +-b. F(5,3) and F(4,2) have no 0, so N of -p is minus that of p: G has ns, nt, nr
   (nc, nd) for both, and the minus stands in B^T, o - e for -(e - o). F(2,3) has the signs of that
   paper. */
typedef struct L2L__NAME(seven) {
    L2L__V s0, s1, s2, s3, s4, s5, s6;
} L2L__NAME(seven);
#define L2L__EACH_POINT(X) L2L__EACH_ROW(X) X(6)

L2L__INLINE L2L__NAME(seven) L2L__NAME(line)(const int transform, L2L__NAME(seven) x)
{
#define L2L__K(value) L2L__SET((float)(value))
#define L2L__AXPY(k, x, y) L2L__FMA(L2L__K(k), x, y)
    const double a = 0.625, b = 1.5, aa = a * a, bb = b * b;
    const double n0 = 1 / (aa * bb), na = 1 / (2 * aa * (aa - bb)), nb = 1 / (2 * bb * (bb - aa));
    const double s = 0.3125, t = 0.875, r = 1.625, ss = s * s, tt = t * t, rr = r * r;
    const double ns = 1 / (2 * s * (ss - tt) * (ss - rr)), nt = 1 / (2 * t * (tt - ss) * (tt - rr));
    const double nr = 1 / (2 * r * (rr - ss) * (rr - tt));
    const double c = 0.5, d = 1.25, cc = c * c, dd = d * d;
    const double nc = 1 / (2 * c * (cc - dd)), nd = 1 / (2 * d * (dd - cc));
    L2L__NAME(seven) y = x;
    L2L__V e, o, p, q, g, h;
    switch (transform) {
    case L2L__WIN_IN:
        y.s0 = L2L__AXPY(aa * bb, x.s0, L2L__AXPY(-aa - bb, x.s2, x.s4));
        e = L2L__AXPY(-bb, x.s2, x.s4);
        o = L2L__K(a) * L2L__AXPY(-bb, x.s1, x.s3);
        p = L2L__AXPY(-aa, x.s2, x.s4);
        q = L2L__K(b) * L2L__AXPY(-aa, x.s1, x.s3);
        y.s5 = L2L__AXPY(aa * bb, x.s1, L2L__AXPY(-aa - bb, x.s3, x.s5));
        y.s1 = e + o;
        y.s2 = e - o;
        y.s3 = p + q;
        y.s4 = p - q;
        break;
    case L2L__WIN_OUT:
        e = x.s1 + x.s2;
        o = x.s1 - x.s2;
        p = x.s3 + x.s4;
        q = x.s3 - x.s4;
        y.s0 = x.s0 + e + p;
        y.s1 = L2L__AXPY(a, o, L2L__K(b) * q);
        y.s2 = L2L__AXPY(aa, e, L2L__K(bb) * p);
        y.s3 = L2L__AXPY(a * aa, o, L2L__AXPY(b * bb, q, x.s5));
        break;
    case L2L__WIN_WEIGHT:
        e = L2L__K(na) * L2L__AXPY(aa, x.s2, x.s0);
        o = L2L__K(na * a) * x.s1;
        p = L2L__K(nb) * L2L__AXPY(bb, x.s2, x.s0);
        q = L2L__K(nb * b) * x.s1;
        y.s0 = L2L__K(n0) * x.s0;
        y.s1 = e + o;
        y.s2 = e - o;
        y.s3 = p + q;
        y.s4 = p - q;
        y.s5 = x.s2;
        break;
    case L2L__WIN_GRAD:
        e = L2L__AXPY(aa, x.s2, x.s0);
        o = L2L__K(a) * L2L__AXPY(aa, x.s3, x.s1);
        p = L2L__AXPY(bb, x.s2, x.s0);
        q = L2L__K(b) * L2L__AXPY(bb, x.s3, x.s1);
        y.s0 = x.s0;
        y.s1 = e + o;
        y.s2 = e - o;
        y.s3 = p + q;
        y.s4 = p - q;
        y.s5 = x.s3;
        break;
    case L2L__WIN_BACK:
        e = x.s1 + x.s2;
        o = x.s1 - x.s2;
        p = x.s3 + x.s4;
        q = x.s3 - x.s4;
        y.s0 = L2L__AXPY(n0, x.s0, L2L__AXPY(na, e, L2L__K(nb) * p));
        y.s1 = L2L__AXPY(na * a, o, L2L__K(nb * b) * q);
        y.s2 = L2L__AXPY(na * aa, e, L2L__AXPY(nb * bb, p, x.s5));
        break;
    case L2L__WIN_IN + L2L__WIN_F2:
        y.s0 = x.s0 - x.s2;
        e = x.s1 + x.s2;
        o = x.s2 - x.s1;
        y.s3 = x.s1 - x.s3;
        y.s1 = e;
        y.s2 = o;
        break;
    case L2L__WIN_OUT + L2L__WIN_F2:
        y.s0 = x.s0 + x.s1 + x.s2;
        y.s1 = x.s1 - x.s2 - x.s3;
        break;
    case L2L__WIN_WEIGHT + L2L__WIN_F2:
        e = L2L__K(0.5) * (x.s0 + x.s2);
        o = L2L__K(0.5) * x.s1;
        y.s0 = x.s0;
        y.s1 = e + o;
        y.s2 = e - o;
        y.s3 = x.s2;
        break;
    case L2L__WIN_GRAD + L2L__WIN_F2:
        y.s0 = x.s0;
        y.s1 = x.s0 + x.s1;
        y.s2 = x.s0 - x.s1;
        y.s3 = L2L__K(0) - x.s1;
        break;
    case L2L__WIN_BACK + L2L__WIN_F2:
        e = L2L__K(0.5) * (x.s1 + x.s2);
        y.s0 = x.s0 + e;
        y.s1 = L2L__K(0.5) * (x.s1 - x.s2);
        y.s2 = e + x.s3;
        break;
    case L2L__WIN_IN + L2L__WIN_F5: /* of +-p: (x +- p)(x^2 - u)(x^2 - v), u, v of the others */
#define L2L__PAIR(i, j, p, u, v)                                                                   \
    e = L2L__AXPY(u * v, x.s1, L2L__AXPY(-u - v, x.s3, x.s5));                                     \
    o = L2L__K(p) * L2L__AXPY(u * v, x.s0, L2L__AXPY(-u - v, x.s2, x.s4));                         \
    y.s##i = o + e;                                                                                \
    y.s##j = o - e;
        y.s6 = L2L__AXPY(-ss * tt * rr, x.s0,
                         L2L__AXPY(ss * tt + ss * rr + tt * rr, x.s2,
                                   L2L__AXPY(-ss - tt - rr, x.s4, x.s6)));
        L2L__PAIR(0, 1, s, tt, rr)
        L2L__PAIR(2, 3, t, ss, rr)
        L2L__PAIR(4, 5, r, ss, tt)
#undef L2L__PAIR
        break;
    case L2L__WIN_OUT + L2L__WIN_F5:
        e = x.s0 + x.s1;
        o = x.s0 - x.s1;
        p = x.s2 + x.s3;
        q = x.s2 - x.s3;
        g = x.s4 + x.s5;
        h = x.s4 - x.s5;
        y.s0 = e + p + g;
        y.s1 = L2L__AXPY(s, o, L2L__AXPY(t, q, L2L__K(r) * h));
        y.s2 = L2L__AXPY(ss, e, L2L__AXPY(tt, p, L2L__K(rr) * g));
        y.s3 = L2L__AXPY(s * ss, o, L2L__AXPY(t * tt, q, L2L__K(r * rr) * h));
        y.s4 = L2L__AXPY(ss * ss, e, L2L__AXPY(tt * tt, p, L2L__AXPY(rr * rr, g, x.s6)));
        break;
    case L2L__WIN_WEIGHT + L2L__WIN_F5:
#define L2L__PAIR(i, j, n, p)                                                                      \
    e = L2L__K(n) * L2L__AXPY(p * p, x.s2, x.s0);                                                  \
    o = L2L__K(n * p) * x.s1;                                                                      \
    y.s##i = e + o;                                                                                \
    y.s##j = e - o;
        y.s6 = x.s2;
        L2L__PAIR(4, 5, nr, r)
        L2L__PAIR(2, 3, nt, t)
        L2L__PAIR(0, 1, ns, s)
#undef L2L__PAIR
        break;
    case L2L__WIN_GRAD + L2L__WIN_F5:
#define L2L__PAIR(i, j, p)                                                                         \
    e = L2L__AXPY(p * p, L2L__AXPY(p * p, x.s4, x.s2), x.s0);                                      \
    o = L2L__K(p) * L2L__AXPY(p * p, x.s3, x.s1);                                                  \
    y.s##i = e + o;                                                                                \
    y.s##j = e - o;
        y.s6 = x.s4;
        L2L__PAIR(4, 5, r)
        L2L__PAIR(2, 3, t)
        L2L__PAIR(0, 1, s)
#undef L2L__PAIR
        break;
    case L2L__WIN_IN + L2L__WIN_PLANE:
        y.s0 = x.s0 + x.s1;
        y.s2 = x.s0;
        break;
    case L2L__WIN_OUT + L2L__WIN_PLANE:
        e = x.s0 + x.s2;
        y.s0 = x.s0 + x.s1;
        y.s1 = e;
        break;
    case L2L__WIN_WEIGHT + L2L__WIN_PLANE:
        y.s0 = x.s1;
        y.s1 = x.s2 - x.s1;
        y.s2 = x.s0 - x.s1;
        break;
    case L2L__WIN_GRAD + L2L__WIN_PLANE:
        y.s0 = x.s0 + x.s1;
        y.s1 = x.s0;
        y.s2 = x.s1;
        break;
    case L2L__WIN_BACK + L2L__WIN_PLANE:
        e = x.s0 - x.s1 - x.s2;
        y.s0 = x.s2;
        y.s2 = x.s1;
        y.s1 = e;
        break;
    case L2L__WIN_IN + L2L__WIN_TWO: /* of +-p: (x +- p)(x^2 - u), u of the other */
#define L2L__PAIR(i, j, p, u)                                                                      \
    e = L2L__AXPY(-u, x.s1, x.s3);                                                                 \
    o = L2L__K(p) * L2L__AXPY(-u, x.s0, x.s2);                                                     \
    y.s##i = o + e;                                                                                \
    y.s##j = o - e;
        y.s4 = L2L__AXPY(cc * dd, x.s0, L2L__AXPY(-cc - dd, x.s2, x.s4));
        L2L__PAIR(0, 1, c, dd)
        L2L__PAIR(2, 3, d, cc)
#undef L2L__PAIR
        break;
    case L2L__WIN_OUT + L2L__WIN_TWO:
        e = x.s0 + x.s1;
        o = x.s0 - x.s1;
        p = x.s2 + x.s3;
        q = x.s2 - x.s3;
        y.s0 = e + p;
        y.s1 = L2L__AXPY(c, o, L2L__K(d) * q);
        y.s2 = L2L__AXPY(cc, e, L2L__K(dd) * p);
        y.s3 = L2L__AXPY(c * cc, o, L2L__AXPY(d * dd, q, x.s4));
        break;
    case L2L__WIN_WEIGHT + L2L__WIN_TWO:
        e = L2L__K(nc) * x.s0;
        o = L2L__K(nc * c) * x.s1;
        p = L2L__K(nd) * x.s0;
        q = L2L__K(nd * d) * x.s1;
        y.s4 = x.s1;
        y.s0 = e + o;
        y.s1 = e - o;
        y.s2 = p + q;
        y.s3 = p - q;
        break;
    case L2L__WIN_GRAD + L2L__WIN_TWO:
        e = L2L__AXPY(cc, x.s2, x.s0);
        o = L2L__K(c) * L2L__AXPY(cc, x.s3, x.s1);
        p = L2L__AXPY(dd, x.s2, x.s0);
        q = L2L__K(d) * L2L__AXPY(dd, x.s3, x.s1);
        y.s4 = x.s3;
        y.s0 = e + o;
        y.s1 = e - o;
        y.s2 = p + q;
        y.s3 = p - q;
        break;
    case L2L__WIN_BACK + L2L__WIN_TWO:
        e = x.s0 + x.s1;
        o = x.s0 - x.s1;
        p = x.s2 + x.s3;
        q = x.s2 - x.s3;
        y.s0 = L2L__AXPY(nc, e, L2L__K(nd) * p);
        y.s1 = L2L__AXPY(nc * c, o, L2L__AXPY(nd * d, q, x.s4));
        break;
    default: /* L2L__WIN_BACK + L2L__WIN_F5 */
        e = x.s0 + x.s1;
        o = x.s0 - x.s1;
        p = x.s2 + x.s3;
        q = x.s2 - x.s3;
        g = x.s4 + x.s5;
        h = x.s4 - x.s5;
        y.s0 = L2L__AXPY(ns, e, L2L__AXPY(nt, p, L2L__K(nr) * g));
        y.s1 = L2L__AXPY(ns * s, o, L2L__AXPY(nt * t, q, L2L__K(nr * r) * h));
        y.s2 = L2L__AXPY(ns * ss, e, L2L__AXPY(nt * tt, p, L2L__AXPY(nr * rr, g, x.s6)));
    }
    return y;
#undef L2L__K
#undef L2L__AXPY
}

/* Both sides, T X T^T: all columns of the mxm numbers first, t = T X, then all rows, to kxk. X is
   row by row in `from`, the result in `to`. That walks along more streams than a processor foresees
   by itself, so each is fetched 32 numbers ahead. */
L2L__INLINE void L2L__NAME(square)(const int transform, const int m, const int k, int64_t n,
                                   const float *const *from, float *const *to,
                                   const l2l__epilogue *e, int k0, const float *base)
{
    L2L__V t[L2L__WIN_POINTS];
    L2L__NAME(seven) x;
    int64_t at;
    int i;
    x.s0 = x.s1 = x.s2 = x.s3 = x.s4 = x.s5 = x.s6 = L2L__NAME(all)(0);
    for (at = 0; at < n; at += L2L__LANES) {
        L2L__UNROLL
        for (i = 0; i < m; i++) {
#define L2L__X(j)                                                                                  \
    if (j < m) {                                                                                   \
        x.s##j = L2L__NAME(load)(from[j * m + i] + at);                                            \
        __builtin_prefetch(from[j * m + i] + at + 32);                                             \
    }
            L2L__EACH_POINT(L2L__X)
#undef L2L__X
            x = L2L__NAME(line)(transform, x);
#define L2L__X(j) if (j < k) t[j * m + i] = x.s##j;
            L2L__EACH_POINT(L2L__X)
#undef L2L__X
        }
        L2L__UNROLL
        for (i = 0; i < k; i++) {
#define L2L__X(j) if (j < m) x.s##j = t[i * m + j];
            L2L__EACH_POINT(L2L__X)
#undef L2L__X
            x = L2L__NAME(line)(transform, x);
#define L2L__X(j)                                                                                  \
    if (j < k && to[i * k + j]) {                                                                  \
        float *y = to[i * k + j] + at;                                                             \
        __builtin_prefetch(y + 32, 1);                                                             \
        L2L__NAME(store)(y, e ? L2L__NAME(epilogue)(x.s##j, e, k0 + at, y - base) : x.s##j);       \
    }
            L2L__EACH_POINT(L2L__X)
#undef L2L__X
        }
    }
}

/* m and k, sides of what a transform leads from and to, are constants in each one's code. */
L2L__KERNEL void L2L__NAME(winograd)(int transform, int64_t n, const float *const *from,
                                     float *const *to, const l2l__epilogue *e, int k0,
                                     const float *base)
{
#define L2L__X(kind, m, k)                                                                         \
    case kind:                                                                                     \
        L2L__NAME(square)(kind, m, k, n, from, to,                                                 \
                          (kind) % L2L__WIN_KINDS == L2L__WIN_OUT ? e : NULL, k0, base);           \
        break;
    switch (transform) {
        L2L__X(L2L__WIN_IN, 6, 6)
        L2L__X(L2L__WIN_OUT, 6, 4)
        L2L__X(L2L__WIN_WEIGHT, 3, 6)
        L2L__X(L2L__WIN_GRAD, 4, 6)
        L2L__X(L2L__WIN_BACK, 6, 3)
        L2L__X(L2L__WIN_F2 + L2L__WIN_IN, 4, 4)
        L2L__X(L2L__WIN_F2 + L2L__WIN_OUT, 4, 2)
        L2L__X(L2L__WIN_F2 + L2L__WIN_WEIGHT, 3, 4)
        L2L__X(L2L__WIN_F2 + L2L__WIN_GRAD, 2, 4)
        L2L__X(L2L__WIN_F2 + L2L__WIN_BACK, 4, 3)
        L2L__X(L2L__WIN_F5 + L2L__WIN_IN, 7, 7)
        L2L__X(L2L__WIN_F5 + L2L__WIN_OUT, 7, 5)
        L2L__X(L2L__WIN_F5 + L2L__WIN_WEIGHT, 3, 7)
        L2L__X(L2L__WIN_F5 + L2L__WIN_GRAD, 5, 7)
        L2L__X(L2L__WIN_F5 + L2L__WIN_BACK, 7, 3)
        L2L__X(L2L__WIN_PLANE + L2L__WIN_IN, 2, 3)
        L2L__X(L2L__WIN_PLANE + L2L__WIN_OUT, 3, 2)
        L2L__X(L2L__WIN_PLANE + L2L__WIN_WEIGHT, 3, 3)
        L2L__X(L2L__WIN_PLANE + L2L__WIN_GRAD, 2, 3)
        L2L__X(L2L__WIN_PLANE + L2L__WIN_BACK, 3, 3)
        L2L__X(L2L__WIN_TWO + L2L__WIN_IN, 5, 5)
        L2L__X(L2L__WIN_TWO + L2L__WIN_OUT, 5, 4)
        L2L__X(L2L__WIN_TWO + L2L__WIN_WEIGHT, 2, 5)
        L2L__X(L2L__WIN_TWO + L2L__WIN_GRAD, 4, 5)
        L2L__X(L2L__WIN_TWO + L2L__WIN_BACK, 5, 2)
    }
#undef L2L__X
}
/* Equal patches, for l2l__tie_tiles. Equal is what differs by a few roundings: Winograd's layers
   in front have left theirs. The size of x is |x|: all bits but the sign. */
L2L__INLINE L2L__V L2L__NAME(size)(L2L__V x) { return (L2L__V)((L2L__I)x & 0x7fffffff); }

/* A bit for each lane of d that is not at most t. */
L2L__INLINE unsigned L2L__NAME(beyond)(L2L__V d, L2L__V t)
{
#if L2L__LANES == 16
    return _mm512_cmp_ps_mask((__m512)d, (__m512)t, _CMP_NLE_UQ);
#elif L2L__LANES == 8
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps((__m256)d, (__m256)t, _CMP_NLE_UQ));
#elif defined(L2L__X86)
    return (unsigned)_mm_movemask_ps(_mm_cmpnle_ps((__m128)d, (__m128)t));
#else
    L2L__I m = ~(d <= t);
    return (unsigned)((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
#endif
}

/* All channels' bits or-ed are 0, but for the sign, only if each is 0 or -0. n is a multiple of the
   vector's length, see l2l__winograd_side. */
L2L__KERNEL void L2L__NAME(zeros)(int pixels, int n, const float *x, unsigned char *zero)
{
    int p, k;
    for (p = 0; p < pixels; p++, x += n) {
        L2L__I any = {0};
        for (k = 0; k < n; k += L2L__LANES) any |= (L2L__I)L2L__NAME(load)(x + k);
        zero[p] = !L2L__NAME(beyond)(L2L__NAME(size)((L2L__V)any), L2L__NAME(all)(0));
    }
}

/* Do more than one of the first channels, a vector of them, of two pixels differ? `most` is
   u^2/2^24: what is off by more than |u|/2^12. `window` lets the pixel's largest number/2^18 pass,
   so this is the coarser one for all channels but those below 1/64 of that number. */
L2L__INLINE bool L2L__NAME(apart)(L2L__V u, L2L__V v, L2L__V most)
{
    L2L__V d = u - v;
    unsigned m = L2L__NAME(beyond)(d * d, most);
    return (m & (m - 1)) != 0;
}

/* No two of a window's patches are equal: the inner pixels a b / c d of the 4x4 tell, from p on.
   With two patches laid over each other, a lies on b if their outputs are neighbours in a row, on c
   if in a column, on d for 0 and 3; b lies on c for 1 and 2. */
L2L__INLINE bool L2L__NAME(glance)(const float *p, int64_t right, int64_t below)
{
    const L2L__V share = L2L__NAME(all)(1.0f / 16777216), a = L2L__NAME(load)(p);
    const L2L__V b = L2L__NAME(load)(p + right), c = L2L__NAME(load)(p + below);
    const L2L__V d = L2L__NAME(load)(p + right + below), most = a * a * share;
    return L2L__NAME(apart)(a, b, most) && L2L__NAME(apart)(a, c, most) &&
           L2L__NAME(apart)(a, d, most) && L2L__NAME(apart)(b, c, b * b * share);
}

/* Are the runs of `lines` x `columns` pixels of the 4x4 from a and from b on equal? */
L2L__INLINE bool L2L__NAME(alike)(int n, const float *const *at, int a, int b, int lines,
                                  int columns, L2L__V most)
{
    int i, j, k;
    for (i = 0; i < lines; i++)
        for (j = 4 * i; j < 4 * i + columns; j++)
            for (k = 0; k < n; k += L2L__LANES) {
                L2L__V d = L2L__NAME(load)(at[a + j] + k) - L2L__NAME(load)(at[b + j] + k);
                if (L2L__NAME(beyond)(L2L__NAME(size)(d), most)) return false;
            }
    return true;
}

/* The ties of one window: `at` has its 4x4 pixels, the patches of outputs 0 1 / 2 3 begin at pixels
   0 1 / 4 5. All 16 pixels are first held against one, as on a plain background; then pair by pair.
   `most` is that one's largest number / 2^18. fall and rise: the diagonals 0-3 and 1-2. */
L2L__KERNEL uint32_t L2L__NAME(window)(int n, const float *const *at)
{
    float sizes[L2L__LANES], largest = 0;
    L2L__V size = L2L__NAME(all)(0), most;
    bool top, left, right, bottom, fall, rise;
    unsigned differ = 0;
    int i, k;
    for (k = 0; k < n; k += L2L__LANES) {
        L2L__V v = L2L__NAME(size)(L2L__NAME(load)(at[5] + k));
        size = L2L__NAME(pick)(v > size, v, size);
    }
    L2L__NAME(store)(sizes, size);
    for (i = 0; i < L2L__LANES; i++) if (sizes[i] > largest) largest = sizes[i];
    most = L2L__NAME(all)(largest * (1.0f / 262144));
    for (k = 0; k < n && !differ; k += L2L__LANES) {
        const L2L__V middle = L2L__NAME(load)(at[5] + k);
        for (i = 0; i < 16; i++) {
            L2L__V d = L2L__NAME(load)(at[i] + k) - middle;
            differ |= L2L__NAME(beyond)(L2L__NAME(size)(d), most);
        }
    }
    if (!differ) return 0;
    top = L2L__NAME(alike)(n, at, 0, 1, 3, 3, most);
    bottom = L2L__NAME(alike)(n, at, 4, 5, 3, 3, most);
    left = L2L__NAME(alike)(n, at, 0, 4, 3, 3, most);
    right = L2L__NAME(alike)(n, at, 1, 5, 3, 3, most);
    fall = (top && right) || (left && bottom) || L2L__NAME(alike)(n, at, 0, 5, 3, 3, most);
    rise = L2L__NAME(alike)(n, at, 1, 4, 3, 3, most);
    return (top ? 0u : 1u << 2) | (left ? 0u : rise ? (top ? 0u : 1u << 4) : 2u << 4) |
           (fall ? 0u : right ? (top ? 0u : 1u << 6) : bottom ? (left ? 0u : 2u << 6) : 3u << 6);
}

/* The ties of the window at (h, w) of the image, its 4x4 pixels one by one. */
L2L__INLINE uint32_t L2L__NAME(window_at)(const l2l__geometry *g, const float *image,
                                          const float *zero, int h, int w)
{
    const float *at[16];
    int i;
    for (i = 0; i < 16; i++) {
        int a = h + i / 4, b = w + i % 4;
        at[i] = a < 0 || a >= g->h || b < 0 || b >= g->w
                    ? zero : image + ((int64_t)a * g->w + b) * g->c;
    }
    return L2L__NAME(window)(g->c, at);
}

/* The four patches of a window share the inner 2x2 of their 4x4 pixels, of which on most images a
   glance tells that no two are alike. */
L2L__KERNEL uint32_t L2L__NAME(ties)(const l2l__geometry *g, const float *image, const float *zero,
                                     int y, int x, int rows, int columns)
{
    const int n = g->c, h = y - g->padding, w = x - g->padding;
    const int64_t line = (int64_t)g->w * n;
    const float *inner = image + (h + 1) * line + (int64_t)(w + 1) * n;
    bool inside = h >= -1 && w >= -1 && h + 2 * rows < g->h && w + 2 * columns < g->w;
    uint32_t all = 0;
    int i, j;
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++) {
            uint32_t ties = L2L__NO_TIES;
            if (!inside || !L2L__NAME(glance)(inner + 2 * i * line + 2 * j * n, n, line))
                ties = L2L__NAME(window_at)(g, image, zero, h + 2 * i, w + 2 * j);
            all |= ties << (16 * i + 8 * j);
        }
    return all;
}

#endif

/* -- the cell of the learned maximizer, in vectors of coordinates; its formulas: chapter 4 ----- */

#if L2L__LANES == 1
/* In double. exp overflows for x below -709, and 1 / infinity is 0, as it should be. */
L2L__INLINE l2l_real L2L__NAME(tanh)(l2l_real x) { return (l2l_real)tanh((double)x); }
L2L__INLINE l2l_real L2L__NAME(sigmoid)(l2l_real x)
{
    return (l2l_real)(1 / (1 + exp(-(double)x)));
}

/* The gates of one unit, in place of their sums, n numbers apart; and of them f and i g. */
L2L__INLINE void L2L__NAME(gates)(l2l_real *gate, int n, l2l_real *f, l2l_real *ig)
{
    gate[0] = L2L__NAME(sigmoid)(gate[0]);
    gate[n] = *f = L2L__NAME(sigmoid)(gate[n]);
    gate[2 * n] = L2L__NAME(tanh)(gate[2 * n]);
    gate[3 * n] = L2L__NAME(sigmoid)(gate[3 * n]);
    *ig = gate[0] * gate[2 * n];
}
#else
/* x cut to -most .. most; not-a-number stays visible. */
L2L__INLINE L2L__V L2L__NAME(cut)(L2L__V x, float most)
{
    const L2L__V high = L2L__SET(most), low = L2L__SET(-most);
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
    const L2L__V one = L2L__SET(1);
    L2L__V s, a, b;
    x = L2L__NAME(cut)(x, 7.9f);
    s = x * x;
    a = L2L__FMA(s, L2L__SET(1.5427961e-8f), L2L__SET(2.2023236e-5f));
    b = L2L__FMA(s, L2L__SET(8.5987756e-7f), L2L__SET(3.4236498e-4f));
    a = L2L__FMA(s, a, L2L__SET(3.5789916e-3f));
    b = L2L__FMA(s, b, L2L__SET(2.6192237e-2f));
    a = L2L__FMA(s, a, L2L__SET(1.345062e-1f));
    b = L2L__FMA(s, b, L2L__SET(4.6783948e-1f));
    *p = L2L__FMA(s, a, one) * x;
    *q = L2L__FMA(s, b, one);
}

L2L__INLINE L2L__V L2L__NAME(tanh)(L2L__V x)
{
    L2L__V p, q;
    L2L__NAME(tanh_parts)(x, &p, &q);
    return p / q;
}

/* The same. One division serves all four: 1/q_1 = 1/(q_1 q_2 q_3 q_4) (q_3 q_4) q_2, and so on;
   every q is in 1..230. */
L2L__INLINE void L2L__NAME(gates)(float *gate, int n, L2L__V *f, L2L__V *ig)
{
    const L2L__V half = L2L__SET(0.5f);
    L2L__V pi, pf, pg, po, qi, qf, qg, qo, r, qif, qgo, i, g;
    L2L__NAME(tanh_parts)(half * L2L__LD(gate), &pi, &qi);
    L2L__NAME(tanh_parts)(half * L2L__LD(gate + n), &pf, &qf);
    L2L__NAME(tanh_parts)(L2L__LD(gate + 2 * n), &pg, &qg);
    L2L__NAME(tanh_parts)(half * L2L__LD(gate + 3 * n), &po, &qo);
    qif = qi * qf;
    qgo = qg * qo;
    r = L2L__SET(1) / (qif * qgo);
    qgo *= r;                                /* 1/(q_i q_f)                                       */
    qif *= r;                                /* 1/(q_g q_o)                                       */
    i = L2L__FMA(half, pi * (qgo * qf), half); /* sigmoid(x) = (1 + tanh(x/2)) / 2                */
    *f = L2L__FMA(half, pf * (qgo * qi), half);
    g = pg * (qif * qo);
    *ig = i * g;
    L2L__ST(gate, i);
    L2L__ST(gate + n, *f);
    L2L__ST(gate + 2 * n, g);
    L2L__ST(gate + 3 * n, L2L__FMA(half, po * (qif * qg), half));
}
#endif

/* y = W z, y[r] = sum over k of w[r*row + k*column] z[k]: a tile of up to 10 rows by one vector in
   registers. */
#undef L2L__EACH_ROW
#define L2L__EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)

L2L__INLINE void L2L__NAME(cell_tile)(const int rows, const l2l_real *w, int row, int column,
                                      int columns, const l2l_real *z, l2l_real *y)
{
    int k;
#define L2L__X(r) L2L__V s##r = L2L__SET(0); const l2l_real *w##r = w + (rows > r ? r : 0) * row;
    L2L__EACH_ROW(L2L__X)
#undef L2L__X
    for (k = 0; k < columns; k++, z += L2L__COORDS) {
        const L2L__V v = L2L__LD(z);
#define L2L__X(r) if (rows > r) s##r = L2L__FMA(L2L__SET(w##r[k * column]), v, s##r);
        L2L__EACH_ROW(L2L__X)
#undef L2L__X
    }
#define L2L__X(r) if (rows > r) L2L__ST(y + r * L2L__COORDS, s##r);
    L2L__EACH_ROW(L2L__X)
#undef L2L__X
    (void)w1; (void)w2; (void)w3; (void)w4; (void)w5; (void)w6; (void)w7; (void)w8; (void)w9;
}

/* The rows ten by ten, as of 10 hidden units, then four by four and one by one: each row's sum is
   its own, however they are taken together. */
L2L__INLINE void L2L__NAME(cell_matrix)(const l2l_real *w, int row, int column, int rows,
                                        int columns, const l2l_real *z, l2l_real *y)
{
    int l, r;
    for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
        r = 0;
#define L2L__X(n)                                                                                  \
    for (; r + n <= rows; r += n)                                                                  \
        L2L__NAME(cell_tile)(n, w + r * row, row, column, columns, z + l, y + r * L2L__COORDS + l);
        L2L__X(10) L2L__X(4) L2L__X(1)
#undef L2L__X
    }
}

/* Four passes: W z_t; of an LSTM the gates and c_{t+1}; h_{t+1}; y_t and delta_t. h_next may be
   where z has h_t, which nothing reads behind the first pass, and c_next where c_t is. An RNN's
   gates end up as h_{t+1}, which `backward` reads there. */
L2L__KERNEL void L2L__NAME(cell_forward)(const l2l__cell *m, const l2l__cell_step *s)
{
    int n = m->hidden * L2L__COORDS, l, p, k;
    L2L__NAME(cell_matrix)(m->w, m->columns, 1, m->gates, m->columns, s->z, s->gates);
    for (p = 0; m->lstm && p < n; p += L2L__LANES) {
        L2L__V f, ig;
        L2L__NAME(gates)(s->gates + p, n, &f, &ig);
        L2L__ST(s->c_next + p, L2L__FMA(f, L2L__LD(s->c + p), ig));
    }
    for (p = 0; p < n; p += L2L__LANES) {    /* apart from the gates, so that divisions overlap   */
        L2L__V t = L2L__NAME(tanh)(L2L__LD((m->lstm ? s->c_next : s->gates) + p));
        L2L__ST((m->lstm ? s->tanh_c : s->gates) + p, t);
        if (m->lstm) t *= L2L__LD(s->gates + 3 * n + p);
        L2L__ST(s->h_next + p, t);
    }
    for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
        L2L__V y = L2L__SET(m->w_out[0]);
        for (k = 0; k < m->hidden; k++)
            y = L2L__FMA(L2L__SET(m->w_out[1 + k]), L2L__LD(s->h_next + k * L2L__COORDS + l), y);
        if (m->squash) y = L2L__NAME(tanh)(y);
        L2L__ST(s->y + l, y);
        L2L__ST(s->delta + l, L2L__SET(m->scale) * y);
    }
}

/* The cotangents of one unit; d is dL/dh_{t+1}, all of it. */
L2L__INLINE void L2L__NAME(lstm_unit_back)(const l2l__cell_step *s, int n, int p, L2L__V d,
                                           l2l_real *dc)
{
    const L2L__V one = L2L__SET(1);
    l2l_real *gate = s->gates + p;
    L2L__V i = L2L__LD(gate), f = L2L__LD(gate + n);
    L2L__V g = L2L__LD(gate + 2 * n), o = L2L__LD(gate + 3 * n);
    L2L__V tanh_c = L2L__LD(s->tanh_c + p), c = L2L__LD(s->c + p);
    L2L__V e = L2L__FMA(d * o, one - tanh_c * tanh_c, L2L__LD(dc + p));
    L2L__ST(gate, e * g * i * (one - i));
    L2L__ST(gate + n, e * c * f * (one - f));
    L2L__ST(gate + 2 * n, e * i * (one - g * g));
    L2L__ST(gate + 3 * n, d * tanh_c * o * (one - o));
    L2L__ST(dc + p, e * f);
}

/* Unit by unit of each vector of coordinates: d = dh + w_out dy, and the cotangents in place of the
   gates. Then dh = W^T times those, of W's columns behind the bias's: by then all of the old dh has
   been read. */
L2L__KERNEL void L2L__NAME(cell_backward)(const l2l__cell *m, const l2l__cell_step *s,
                                          const l2l_real *u, l2l_real *dh, l2l_real *dc, int wanted)
{
    const L2L__V one = L2L__SET(1), scale = L2L__SET(m->scale);
    int n = m->hidden * L2L__COORDS, l, p;
    for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
        L2L__V y = L2L__LD(s->y + l), d = scale * L2L__LD(u + l);
        if (m->squash) d *= one - y * y;
        L2L__ST(s->y + l, d);
        for (p = l; p < n; p += L2L__COORDS) {
            L2L__V w = L2L__SET(m->w_out[1 + p / L2L__COORDS]);
            L2L__V e = L2L__FMA(w, d, L2L__LD(dh + p));
            if (m->lstm) {
                L2L__NAME(lstm_unit_back)(s, n, p, e, dc);
            } else {
                y = L2L__LD(s->gates + p);
                L2L__ST(s->gates + p, e * (one - y * y));
            }
        }
    }
    L2L__NAME(cell_matrix)(m->w + 1, 1, m->columns, wanted, m->gates, s->gates, dh);
}

/* A tile of `rows` (4 or 1) by `columns` (3 or 1) sums, kept in registers: of row r of d and k of z
   lane by lane, over t and the block's vectors. Sums that are not there load the first one and are
   never stored. `stride` is columns of the whole matrix. */
#define L2L__EACH_SUM(X) X(0, 0) X(0, 1) X(0, 2) X(1, 0) X(1, 1) X(1, 2) \
                         X(2, 0) X(2, 1) X(2, 2) X(3, 0) X(3, 1) X(3, 2)

L2L__INLINE void L2L__NAME(cell_sums)(const int rows, const int columns, int T, const l2l_real *d,
                                      int d_step, const l2l_real *z, int z_step, int stride,
                                      l2l_real *sums)
{
    int t, l;
#define L2L__X(r, k)                                                                               \
    L2L__V s##r##k = L2L__LD(sums + (r < rows && k < columns ? (r * stride + k) * L2L__LANES : 0));
    L2L__EACH_SUM(L2L__X)
#undef L2L__X
    for (t = 0; t < T; t++, d += d_step, z += z_step)
        for (l = 0; l < L2L__COORDS; l += L2L__LANES) {
#define L2L__X(r, k)                                                                               \
    if (r < rows && k < columns)                                                                   \
        s##r##k = L2L__FMA(L2L__LD(d + r * L2L__COORDS + l), L2L__LD(z + k * L2L__COORDS + l),     \
                           s##r##k);
            L2L__EACH_SUM(L2L__X)
#undef L2L__X
        }
#define L2L__X(r, k)                                                                               \
    if (r < rows && k < columns) L2L__ST(sums + (r * stride + k) * L2L__LANES, s##r##k);
    L2L__EACH_SUM(L2L__X)
#undef L2L__X
}
#undef L2L__EACH_SUM

/* The lanes stay apart, [row][column][lane], until l2l__sweep_flush adds them in double. */
L2L__KERNEL void L2L__NAME(cell_accumulate)(int rows, int columns, int T, const l2l_real *d,
                                            int d_step, const l2l_real *z, int z_step,
                                            l2l_real *sums)
{
    int r, k, tall, wide;
    for (r = 0; r < rows; r += tall) {
        tall = r + 4 <= rows ? 4 : 1;
        for (k = 0; k < columns; k += wide) {
            const l2l_real *dr = d + r * L2L__COORDS, *zk = z + k * L2L__COORDS;
            l2l_real *at = sums + (r * columns + k) * L2L__LANES;
            wide = k + 3 <= columns ? 3 : 1;
#define L2L__X(m, n)                                                                               \
    if (tall == m && wide == n)                                                                    \
        L2L__NAME(cell_sums)(m, n, T, dr, d_step, zk, z_step, columns, at);
            L2L__X(4, 3) L2L__X(4, 1) L2L__X(1, 3) L2L__X(1, 1)
#undef L2L__X
        }
    }
}

static const l2l__cell_kernels L2L__NAME(cell_kernels) = {
    L2L__LANES, L2L__NAME(cell_forward), L2L__NAME(cell_backward), L2L__NAME(cell_accumulate)
};

#if L2L__LANES <= 4
/* An optimizer's step waits for the memory: four lanes are enough for every instruction set, and
   without fused multiplications the bits are those of plain C. */
L2L__INLINE L2L__V L2L__NAME(sqrt)(L2L__V x)
{
#if L2L__LANES == 1
    return (l2l_real)sqrt((double)x);
#elif defined(L2L__X86)
    return (L2L__V)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
    return (L2L__V)vsqrtq_f32((float32x4_t)x);
#else
    L2L__V y = {l2l__plain_sqrt(x[0]), l2l__plain_sqrt(x[1]), l2l__plain_sqrt(x[2]),
                l2l__plain_sqrt(x[3])};
    return y;
#endif
}

/* Both optimizers: the formulas of l2l__update from number i on, as far as whole vectors go.
   Returns the first number left. */
L2L__INLINE int64_t L2L__NAME(update_sgd)(int64_t i, int64_t n, const l2l__update *u,
                                          const l2l_real *g, l2l_real *x, l2l_real *m)
{
    const L2L__V scale = L2L__SET(u->scale), decay = L2L__SET(u->decay);
    const L2L__V rate = L2L__SET(u->rate), momentum = L2L__SET(u->momentum);
    for (; i + L2L__LANES <= n; i += L2L__LANES) {
        L2L__V old = L2L__LD(x + i), d = scale * L2L__LD(g + i) + decay * old;
        if (m) {
            L2L__V v = momentum * L2L__LD(m + i) + d;
            L2L__ST(m + i, v);
            if (u->nesterov) d += momentum * v;
            else d = v;
        }
        L2L__ST(x + i, old - rate * d);
    }
    return i;
}

L2L__INLINE int64_t L2L__NAME(update_adam)(int64_t i, int64_t n, const l2l__update *u,
                                           const l2l_real *g, l2l_real *x, l2l_real *m, l2l_real *v)
{
    const L2L__V scale = L2L__SET(u->scale), decay = L2L__SET(u->decay);
    const L2L__V b1 = L2L__SET(u->beta1), c1 = L2L__SET(1 - u->beta1);
    const L2L__V b2 = L2L__SET(u->beta2), c2 = L2L__SET(1 - u->beta2);
    const L2L__V rate = L2L__SET(u->rate), root = L2L__SET(u->root);
    const L2L__V epsilon = L2L__SET(u->epsilon);
    for (; i + L2L__LANES <= n; i += L2L__LANES) {
        L2L__V old = L2L__LD(x + i), d = scale * L2L__LD(g + i) + decay * old;
        L2L__V first = b1 * L2L__LD(m + i) + c1 * d;
        L2L__V second = b2 * L2L__LD(v + i) + c2 * d * d;
        L2L__ST(m + i, first);
        L2L__ST(v + i, second);
        L2L__ST(x + i, old - rate * first / (L2L__NAME(sqrt)(second) * root + epsilon));
    }
    return i;
}

L2L__KERNEL void L2L__NAME(update)(int64_t i, int64_t n, const l2l__update *u, const l2l_real *g,
                                   l2l_real *x, l2l_real *m, l2l_real *v)
{
    i = u->adam ? L2L__NAME(update_adam)(i, n, u, g, x, m, v)
                : L2L__NAME(update_sgd)(i, n, u, g, x, m);
    if (L2L__LANES > 1) l2l__plain_update(i, n, u, g, x, m, v);
}
#endif

static const l2l__kernels L2L__NAME(kernels) = {
#if L2L__LANES == 1
    "plain C",
#else
    L2L__LANES == 16 ? "AVX-512" : L2L__LANES == 8 ? "AVX2+FMA" : L2L__BASELINE,
#endif
    2 * L2L__LANES, L2L__NAME(tile), L2L__NAME(lines), L2L__NAME(outer), L2L__NAME(pack),
    L2L__NAME(finish), L2L__NAME(gate_scale), L2L__NAME(moments), L2L__NAME(combine),
    L2L__NAME(ew), L2L__NAME(pool_row), &L2L__NAME(cell_kernels),
#if L2L__LANES <= 4
    L2L__NAME(update),
#else
    l2l__update_sse2,
#endif
#if L2L__LANES == 1
    NULL, NULL, NULL
#else
    L2L__NAME(winograd), L2L__NAME(zeros), L2L__NAME(ties)
#endif
};

#undef L2L__EACH_ROW
#undef L2L__NAME
#undef L2L__INLINE
#undef L2L__KERNEL
#undef L2L__V
#undef L2L__I
#undef L2L__LD
#undef L2L__ST
#undef L2L__SET
#undef L2L__FMA
#undef L2L__PICK
#undef L2L__MASK
#undef L2L__FETCH
#undef L2L__LANES
#undef L2L__SUFFIX
#undef L2L__TARGET
#endif

#if defined(L2LADV_IMPLEMENTATION) && !defined(L2LADV_IMPLEMENTED) && !defined(L2L__AGAIN)
#define L2LADV_IMPLEMENTED

#ifdef L2L__VECTORS
#define L2L__AGAIN /* this file, by itself; SSE2 first: the tables behind it take its `update` */
#ifdef L2L__X86
#define L2L__BASELINE "SSE2"
#define L2L__LANES 4
#define L2L__SUFFIX sse2
#define L2L__TARGET __attribute__((__target__("sse2")))
#include L2LADV_HEADER
#define L2L__LANES 8
#define L2L__SUFFIX avx2
#define L2L__TARGET __attribute__((__target__("avx2,fma")))
#include L2LADV_HEADER
#define L2L__LANES 16
#define L2L__SUFFIX avx512
#define L2L__TARGET __attribute__((__target__("avx512f,avx2,fma")))
#include L2LADV_HEADER
#else
#define L2L__BASELINE "NEON"
#define L2L__LANES 4
#define L2L__SUFFIX neon
#define L2L__TARGET
#include L2LADV_HEADER
#endif
#undef L2L__AGAIN
#undef L2L__BASELINE
#endif

/* -- 15.3 drivers ------------------------------------------------------------------------------ */

/* Which convolution goes which way, asked in this order (examples/layers.c measures every layer of
   the four networks). The taps of the kernel are (i,j), s is the stride, p the padding. A kernel as
   large as its plane is one of 1x1 over all the numbers. In plain C no channels are too few for a
   tile, and nothing is transformed: it takes the last ways, that by lines among them.

   forward, y[oh][ow][k] = sum over taps (i,j), c of x[oh*s + i - p][ow*s + j - p][c] w[i][j][c][k]
     K <= 4 < C, stride 1, square, not 1x1,        l2l__turned_forward: as the input gradient of a
       `unpooled` (a tile's columns would be         layer with C and K exchanged. An output's order
       all but empty)                                of sums goes by its place there, which would
                                                     break ties of a maximum
     3x3, stride 1, padding <= 2, C and K          l2l__winograd_run, F(4,3), (5,3), (2,3): what
       multiples of the vector from 16 on, if        l2l__winograd_side counts least work for, with
       that counts less work than the next way       what the transforms cost and edges waste
     the same on a plane of 2x2 with padding 1     l2l__winograd_run, the plane as a whole
     3x3, stride 2, padding 1, `unpooled`,         l2l__winograd_run, F(4,2) on the four groups of
       channels and work alike                       pixels by remainder
     C <= 4 (a first layer), kw > 1                l2l__lines_forward: a line of the kernel is
                                                     one tap of kw*C numbers
     else                                          l2l__indirect_forward, by taps; planes of up to
                                                     64 pixels and more than 128 channels `sparse`:
                                                     place by place, without taps beyond the border
   input gradient, dx[h][w][c] = sum over taps (i,j), k of dy[(h+p-i)/s][(w+p-j)/s][k] w[i][j][c][k]
   where both quotients are whole
     C <= 4, more than 1x1                         l2l__scatter_gradient: a product, then added up
     as forward, with C and K exchanged            l2l__winograd_run with the taps in reverse; at
                                                     stride 2 whether pooled or not
     else                                          l2l__indirect_phases: a stride's phases apart
   weight gradient, dw[i][j][c][k] = sum over pixels (oh,ow) of
   x[oh*s + i - p][ow*s + j - p][c] dy[oh][ow][k]
     K <= 4 < C, stride 1                          itself, x and dy exchanged; then turned
     as forward                                    l2l__winograd_weight_gradient
     else                                          l2l__direct_weight_gradient; C <= 4 by lines;
                                                     1x1 of stride 1 as one plain matrix product

   Whether the transformed weights of Winograd's way are kept or made on the way goes by the layer's
   size (l2l__winograd_run). None of this depends on the batch or the threads: the same layer takes
   the same way, and an image gets the same bits. */

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

/* The widest of those in cpu. */
static const l2l__kernels *l2l__kernels_of(unsigned cpu)
{
    const l2l__kernels *best = &l2l__plain_kernels;
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
    if (!c) return;
    c->cpu = cpu & l2l__cpu_detect();
    c->kernels = l2l__kernels_of(c->cpu);
}

static const char *l2l__cpu_name(const l2l_context *c) { return c->kernels->name; }

static const l2l__cell_kernels *l2l__cell_kernels_of(const l2l_context *c)
{
    return c->kernels->cell;
}

/* How many pieces of this size cover n. */
static int l2l__pieces(int64_t n, int64_t size) { return (int)((n + size - 1) / size); }

static l2l_real *l2l__arena_zeros(l2l_context *c, int64_t count)
{
    l2l_real *x = (l2l_real *)l2l__arena_array(c, count, sizeof *x);
    if (x) memset(x, 0, (size_t)count * sizeof *x);
    return x;
}

/* Threads worth waking for so many elementary operations. */
static int l2l__workers(const l2l_context *c, int64_t work)
{
    return work < 32768 ? 1 : l2l__fewer(c, c->core_count.workers);
}

/* What is wrong with this thread's arithmetic, NULL if nothing. To nearest, both 1 + 2^-26 and
   1 - 2^-26 are 1; any other way one of them is not. Half of FLT_MIN is subnormal. Volatile, or the
   compiler would know the answers. */
static const char *l2l__arithmetic(void)
{
    volatile float one = 1, little = FLT_EPSILON / 8, least = FLT_MIN, half = 0.5f, up, down, tiny;
    up = one + little;
    down = one - little;
    tiny = least * half;
    if (up > one || down < one) return "rounds otherwise than to nearest (fesetround)";
    return tiny > 0 ? NULL : "takes subnormal numbers for 0 (a library built with -ffast-math?)";
}

/* The caller's and, if nobody has looked since a whole attack or training step began, its threads':
   each has its own, so that results would depend on their number. No more than will be woken, or a
   look would wait for those that have no core; then it is taken each time. */
static bool l2l__arithmetic_ok(l2l_context *c)
{
    const char *wrong = l2l__arithmetic();
    int i, n = 0;
    if (!c->caller) l2l__choose_threads(c);
    if (!c->caller && !c->threads_looked_at) n = l2l__fewer(c, c->core_count.lanes);
    /* as many rounds as threads, dealt out statically: each looks at its own */
    L2L__PARALLEL(n ? n : 1)
    for (i = 0; i < n; i++) {
        const char *mine = l2l__arithmetic();
        if (!mine) continue;
#ifdef L2L__PRAGMA
        L2L__PRAGMA(omp critical(l2l__arithmetic))
#endif
        wrong = mine;
    }
    if (!c->caller) c->threads_looked_at = !wrong && (c->threads_looked_at || n == c->threads);
    return !wrong || l2l__fail(c, L2L_ERROR_UNSUPPORTED, "the floating-point environment of this "
                               "thread or of those that work for it %s", wrong);
}

/* The next of the blocks that threads take one by one, so that whoever is slowed down by others on
   the machine does fewer of them. A block's result does not depend on who does it. */
static int l2l__next(int *taken)
{
    int mine;
#ifdef L2L__PRAGMA
    L2L__PRAGMA(omp atomic capture)
#endif
    mine = (*taken)++;
    return mine;
}

/* Elementwise: blocks of 8192 numbers, shared out to the threads. */
static void l2l__ew(l2l_context *c, int f, int64_t n, const l2l_real *x, const l2l_real *y,
                    l2l_real a, l2l_real b, l2l_real *out)
{
    enum { L2L__PIECE = 8192 };
    int64_t at;
    L2L__PARALLEL(l2l__workers(c, n))
    for (at = 0; at < n; at += L2L__PIECE) {
        int m = l2l__at_most(L2L__PIECE, n - at);
        c->kernels->ew(f, m, x + at, y ? y + at : NULL, a, b, out + at);
    }
}

/* Piece by piece, so that x is read from the memory once. */
static void l2l__ew_update(l2l_context *c, int64_t n, const l2l__update *u, const l2l_real *g,
                           l2l_real *x, l2l_real *first, l2l_real *second, l2l_real *before)
{
    enum { L2L__PIECE = 8192 };
    int64_t at;
    L2L__PARALLEL(l2l__workers(c, n))
    for (at = 0; at < n; at += L2L__PIECE) {
        int m = l2l__at_most(L2L__PIECE, n - at);
        if (before) memcpy(before + at, x + at, (size_t)m * sizeof *x);
        c->kernels->update(0, m, u, g + at, x + at, first ? first + at : NULL,
                           second ? second + at : NULL);
    }
}

/* Drivers by pixels of n channels each; a pointer of NULL stays NULL. Every `each` pixels in turn
   have their own row of scales: those of one image, or all. */
#define L2L__EACH_PIXEL(call)                                                                      \
    const l2l__kernels *kernels = c->kernels;                                                      \
    int64_t p;                                                                                     \
    L2L__PARALLEL(l2l__workers(c, pixels * n))                                                     \
    for (p = 0; p < pixels; p++) kernels->call;
#define L2L__AT(x) ((x) ? (x) + p * n : NULL)

/* e's scale and bias for pixel p. */
static l2l__epilogue l2l__epilogue_at(const l2l__epilogue *e, int64_t p, int64_t each, int n)
{
    l2l__epilogue at = *e;
    if (at.scale) at.scale += p / each * n;
    if (at.bias) at.bias += p / each * n;
    return at;
}

static void l2l__channel_finish(l2l_context *c, int64_t pixels, int64_t each, int n,
                                const l2l_real *x, const l2l__epilogue *e, l2l_real *y)
{
    int64_t p;
    L2L__PARALLEL(l2l__workers(c, pixels * n))
    for (p = 0; p < pixels; p++) {
        l2l__epilogue at = l2l__epilogue_at(e, p, each, n);
        c->kernels->finish(0, n, x + p * n, &at, p * n, y + p * n);
    }
}

static void l2l__channel_gate(l2l_context *c, int64_t pixels, int64_t each, int n,
                              const l2l_real *dy, const l2l_real *gate, const l2l_real *scale,
                              l2l_real *out)
{
    L2L__EACH_PIXEL(gate_scale(0, n, dy + p * n, L2L__AT(gate), scale + p / each * n, out + p * n))
}

static void l2l__channel_combine(l2l_context *c, int64_t pixels, int64_t each, int n,
                                 const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                                 const l2l_real *by, l2l_real *out)
{
    L2L__EACH_PIXEL(combine(0, n, dy + p * n, L2L__AT(gate), x + p * n, by + p / each * 4 * n,
                            out + p * n))
}

/* Sums over pixels: runs of L2L__RUN in l2l_real, the runs in double, in up to L2L__RUN_PARTS parts
   that are added in order. The parts are cut by the runs, which the shape gives. */
enum { L2L__RUN = 32, L2L__RUN_PARTS = 16 };

/* Over every `each` pixels into the doubles s0[pixels/each][n] and s1 (either may be NULL); in
   parts if there is one sum only. Both buffers are [group or part][s0, s1][n]. */
static bool l2l__channel_moments(l2l_context *c, int64_t pixels, int64_t each, int n,
                                 const l2l_real *dy, const l2l_real *gate, const l2l_real *x,
                                 const l2l_real *mu, double *s0, double *s1)
{
    const l2l__kernels *kernels = c->kernels;
    int64_t runs = l2l__pieces(each, L2L__RUN), groups = pixels / each, i, k;
    int64_t parts = groups > 1 ? 1 : l2l__at_most(L2L__RUN_PARTS, runs), part;
    double *sums = (double *)l2l__arena_array(c, 2 * groups * parts * n, sizeof *sums);
    l2l_real *run = (l2l_real *)l2l__arena_array(c, 2 * groups * parts * n, sizeof *run);
    L2L__PARALLEL(l2l__workers(c, run ? pixels * n : 0))
    for (part = 0; part < (run ? groups * parts : 0); part++) {
        double *mine = sums + 2 * part * n;
        l2l_real *f = run + 2 * part * n;
        int64_t r, last = runs * (part % parts + 1) / parts, p;
        memset(mine, 0, 2 * (size_t)n * sizeof *mine);
        for (r = runs * (part % parts) / parts; r < last; r++) {
            p = part / parts * each + r * L2L__RUN;
            memset(f, 0, 2 * (size_t)n * sizeof *f);
            kernels->moments(0, n, l2l__at_most(L2L__RUN, each - r * L2L__RUN), L2L__AT(dy),
                             L2L__AT(gate), L2L__AT(x), mu, s0 ? f : NULL, s1 ? f + n : NULL);
            for (int64_t j = 0; j < 2 * n; j++) mine[j] += (double)f[j];
        }
    }
    for (part = 1; run && part < parts; part++)
        for (i = 0; i < 2 * n; i++) sums[i] += sums[2 * part * n + i];
    for (i = 0; run && i < groups; i++)
        for (k = 0; k < n; k++) {
            if (s0) s0[i * n + k] = sums[2 * i * n + k];
            if (s1) s1[i * n + k] = sums[(2 * i + 1) * n + k];
        }
    l2l__arena_drop(c, run);
    l2l__arena_drop(c, sums);
    return !c->status;
}

/* One run of `count` pixels with mean m, as l2l_real has it, to `mean`, and to 4 sums of n numbers
   each: (x - m)^2, x - m, m (x - m) and x. `f` is room for 2n numbers. */
static void l2l__run_sums(const l2l__kernels *kernels, int count, int n, const l2l_real *x,
                          l2l_real *mean, l2l_real *f, double *sums)
{
    int k;
    memset(mean, 0, (size_t)n * sizeof *mean);
    memset(f, 0, 2 * (size_t)n * sizeof *f);
    kernels->moments(0, n, count, x, NULL, NULL, NULL, mean, NULL);
    for (k = 0; k < n; k++) mean[k] /= (l2l_real)count;
    kernels->moments(0, n, count, NULL, NULL, x, mean, f, f + n);
    for (k = 0; k < n; k++) {
        double m = (double)mean[k], left = (double)f[k];
        sums[k] += (double)f[n + k];
        sums[n + k] += left;
        sums[2 * n + k] += m * left;
        sums[3 * n + k] += count * m + left;
    }
}

/* Mean and biased variance of each of n channels, for which x comes from memory once: of a run of c
   pixels around m the sum of (x-mu)^2 is that of (x-m)^2 + 2 (m - mu) (x-m), and c (m - mu)^2.
   Sum x^2 / pixels - mu^2 would lose the variance of channels whose mean is far larger. */
static bool l2l__channel_variance(l2l_context *c, int64_t pixels, int n, const l2l_real *x,
                                  l2l_real *mu, l2l_real *variance)
{
    const int64_t runs = l2l__pieces(pixels, L2L__RUN), whole = pixels / L2L__RUN;
    const int64_t parts = l2l__at_most(L2L__RUN_PARTS, runs), size = 4 * (int64_t)n;
    double *sums = (double *)l2l__arena_array(c, parts * size + n, sizeof *sums), *between;
    l2l_real *means = (l2l_real *)l2l__arena_array(c, (runs + 2 * parts) * n, sizeof *means);
    int64_t part, i;
    if (!means) {
        l2l__arena_drop(c, sums);
        return false;
    }
    L2L__PARALLEL(l2l__workers(c, pixels * n))
    for (part = 0; part < parts; part++) {
        memset(sums + part * size, 0, (size_t)size * sizeof *sums);
        for (int64_t r = runs * part / parts; r < runs * (part + 1) / parts; r++)
            l2l__run_sums(c->kernels, l2l__at_most(L2L__RUN, pixels - r * L2L__RUN), n,
                          x + r * L2L__RUN * n, means + r * n, means + (runs + 2 * part) * n,
                          sums + part * size);
    }
    for (part = 1; part < parts; part++)
        for (i = 0; i < size; i++) sums[i] += sums[part * size + i];
    for (i = 0; i < n; i++) mu[i] = (l2l_real)(sums[3 * n + i] / (double)pixels);
    between = sums + parts * size;
    memset(between, 0, (size_t)n * sizeof *between);
    if (!whole || l2l__channel_moments(c, whole, whole, n, NULL, NULL, means, mu, NULL, between))
        for (i = 0; i < n; i++) {
            double m = (double)mu[i], last = (double)means[(runs - 1) * n + i] - m;
            double sum = sums[i] + 2 * (sums[2 * n + i] - m * sums[n + i]);
            sum += (double)L2L__RUN * between[i];
            if (whole < runs) sum += (double)(pixels - whole * L2L__RUN) * last * last;
            variance[i] = (l2l_real)(sum > 0 ? sum / (double)pixels : 0);
        }
    l2l__arena_drop(c, means);
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

/* Rows d0 .. d0+depth-1 of one panel's taps (i,j) with i % s = y and j % s = x; where they end. */
static l2l_real *l2l__pack_group(const l2l__kernels *kernels, const l2l__matrix *m,
                                 const l2l_real *data, int panel, int d0, int depth, int y, int x,
                                 l2l_real *out)
{
    const int s = m->stride, width = kernels->columns, left = m->columns - panel * width;
    data += d0 * m->sd + (int64_t)panel * width * m->sq;
    for (int i = y; i < m->kh; i += s)
        for (int j = x; j < m->kw; j += s, out += (int64_t)depth * width)
            kernels->pack(depth, left < width ? left : width, data + (i * m->kw + j) * m->st,
                          m->sd, m->sq, out);
    return out;
}

/* Of each tap of one panel, group by group: group g has i % s = g/s and j % s = g%s. */
static void l2l__pack_panel(const l2l__kernels *kernels, const l2l__matrix *m,
                            const l2l_real *data, int panel, int d0, int depth, l2l_real *out)
{
    for (int y = 0; y < m->stride && y < m->kh; y++)
        for (int x = 0; x < m->stride && x < m->kw; x++)
            out = l2l__pack_group(kernels, m, data, panel, d0, depth, y, x, out);
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

/* Room for `count` numbers made of a weight: in the parameter's cache or, where the weight is none,
   in the arena; and whether they must be made anew. They stay where the room has this length, was
   packed as a matrix of this shape, at this stride, for these kernels, and nobody has written the
   weight since. Who gets it `fresh` must fill it: it counts as made from here on. NULL after an
   error. */
static l2l_real *l2l__cached(l2l_context *c, l2l__packed *p, int which, int64_t count,
                             const l2l__matrix *m, bool *fresh)
{
    l2l__cache *k = p ? &p->cache[which] : NULL;
    *fresh = true;
    if (!k) return (l2l_real *)l2l__arena_array(c, count, sizeof *k->panels);
    *fresh = k->count != count || k->kernels != c->kernels || k->version != p->version ||
             k->stride != m->stride || k->kh != m->kh || k->kw != m->kw || k->depth != m->depth;
    if (!*fresh) return k->panels;
    if (c->caller) {                         /* which other threads may be reading                */
        l2l__fail(c, L2L_ERROR_UNSUPPORTED, "a weight is not packed yet");
        return NULL;
    }
    if (k->count != count) {
        l2l_free(c, k->panels);
        k->count = 0;
        k->panels = (l2l_real *)l2l__allocate_array(c, count, sizeof *k->panels);
        if (!k->panels) return NULL;
        k->count = count;
    }
    k->stride = m->stride;
    k->kh = m->kh;
    k->kw = m->kw;
    k->depth = m->depth;
    k->kernels = c->kernels;
    k->version = p->version;
    return k->panels;
}

/* The panels of a weight for one direction. */
static const l2l_real *l2l__panels(l2l_context *c, const l2l_tensor *w, const l2l__matrix *m,
                                   int direction)
{
    int width = c->kernels->columns, count = l2l__pieces(m->columns, width), p;
    int64_t one = (int64_t)m->kh * m->kw * m->depth * width;
    bool fresh;
    l2l_real *panels = l2l__cached(c, w->packed, direction, count * one, m, &fresh);
    if (!panels || !fresh) return panels;
    L2L__PARALLEL(l2l__workers(c, count * one))
    for (p = 0; p < count; p++)
        l2l__pack_panel(c->kernels, m, w->data, p, 0, m->depth, panels + p * one);
    return panels;
}

/* -- indirect convolution. One routine for the forward pass and the input gradient: each output
   pixel has, for each tap, a pointer to the source pixel (or to zeros), and the tile kernel sums
   over taps and channels. Nothing is copied, and strides, padding and odd sizes are all the
   pointer's affair. The input gradient of a strided layer goes by phases: all input lines of one
   remainder by the stride are reached through the same taps. On a small deep plane many taps are
   beyond the border: rows that go together are the same place of different images, and taps where
   all of them have zeros are left out. With finite weights that changes no sum, but the sign of a
   zero; so +0 is added to all. */
typedef struct l2l__indirect {
    const l2l__kernels *kernels;
    const l2l_real *source, *zero, *panels;
    l2l_real *out;
    const l2l__epilogue *epilogue;           /* NULL: none                                        */
    int images, h, w, c;                     /* of the source                                     */
    int oh, ow, k;                           /* the plane of outputs, or a phase of it            */
    int step, turn, y0, x0;                  /* its pixel (y,x) reads at its tap (i,j) pixel      */
                                             /* (y*step + y0 + i*turn, x*step + x0 + j*turn)      */
    int pitch, py, px, height, width;        /* and stands at (y*pitch + py, x*pitch + px)        */
    int lines, columns, count;               /* of its taps, and all of them                      */
    int first, taps, depth;                  /* where they begin in the weight; all of that       */
    bool sparse;                             /* pixels in the order h,w,n, taps beyond left out   */
} l2l__indirect;

/* What one thread works with: pointers for a block, its targets, the last panel's columns. */
typedef struct l2l__bench {
    const l2l_real **pointers;
    l2l_real **targets, *tail;
} l2l__bench;

/* The taps' pointers of output pixel (n,h,w), L2L__ROWS apart, in the order of l2l__pack_panel;
   returns the pixel. */
static l2l_real *l2l__point_pixel(const l2l__indirect *q, int64_t n, int h, int w,
                                  const l2l_real **at)
{
    int i, j, y = h * q->step + q->y0, x;
    for (i = 0; i < q->lines; i++, y += q->turn) {
        const l2l_real *line = NULL;
        if (y >= 0 && y < q->h) line = q->source + (n * q->h + y) * q->w * q->c;
        x = w * q->step + q->x0;
        for (j = 0; j < q->columns; j++, x += q->turn, at += L2L__ROWS)
            *at = line && x >= 0 && x < q->w ? line + (int64_t)x * q->c : q->zero;
    }
    return q->out + ((n * q->height + h * q->pitch + q->py) * q->width + w * q->pitch + q->px) *
                        q->k;
}

/* pointers[group][tap][row of the group], for m pixels from p0; the last group repeats its last
   pixel. */
static void l2l__point(const l2l__indirect *q, int64_t p0, int m, l2l__bench *b)
{
    int64_t plane = (int64_t)q->oh * q->ow, place = q->sparse ? p0 / q->images : p0 % plane;
    int64_t n = q->sparse ? p0 % q->images : p0 / plane;
    int h = (int)(place / q->ow), w = (int)(place % q->ow), r;
    for (r = 0; r < m || r % L2L__ROWS; r++) {
        const l2l_real **at = b->pointers +
                              (int64_t)(r / L2L__ROWS) * q->count * L2L__ROWS + r % L2L__ROWS;
        b->targets[r] = l2l__point_pixel(q, n, h, w, at);
        if (r + 1 >= m || (q->sparse && ++n < q->images)) continue;
        if (q->sparse) n = 0;
        if (++w == q->ow) { w = 0; h++; }
        if (h == q->oh) { h = 0; n++; }
    }
}

/* Do the rows of a group have anything but zeros at this tap? */
static bool l2l__tap_used(const l2l__indirect *q, const l2l_real *const *rows)
{
    for (int r = 0; r < L2L__ROWS; r++)
        if (rows[r] != q->zero) return true;
    return false;
}

/* Taps t0 .. t0+taps-1, numbers d0 .. d0+depth-1 of each, into every panel of a block's m pixels.
   The last panel's columns go beside those of the output that they would overwrite. */
static void l2l__indirect_slab(const l2l__indirect *q, const l2l__bench *b, int m, int t0, int taps,
                               int d0, int depth)
{
    int width = q->kernels->columns, k0, i, r;
    for (k0 = 0; k0 < q->k; k0 += width) {
        const l2l_real *panel = q->panels + (int64_t)k0 * q->taps * q->depth +
                                ((int64_t)(q->first + t0) * q->depth + d0) * width;
        for (i = 0; i < m; i += L2L__ROWS) {
            l2l_real *y[L2L__ROWS];
            int rows = m - i < L2L__ROWS ? m - i : L2L__ROWS;
            const l2l_real **a = b->pointers + (int64_t)i * q->count + t0 * L2L__ROWS;
            /* sparse: deeper than L2L__SLAB/2, so one tap at a time, and `a` is all of its rows */
            if (q->sparse && !l2l__tap_used(q, a)) continue;
            for (r = 0; r < rows; r++)
                y[r] = q->k - k0 < width ? b->tail + (i + r) * width : b->targets[i + r] + k0;
            q->kernels->tile(rows, taps, depth, a, d0, panel, q->depth, y,
                             q->sparse || t0 > 0 || d0 > 0);
        }
    }
}

/* One block of up to L2L__PIXELS output pixels, slab by slab of the depth: many taps that have few
   numbers, or a part of one that has many. Sparse pixels are sums from 0 on, of any of them. */
static void l2l__indirect_block(const l2l__indirect *q, int64_t p0, int m, l2l__bench *b)
{
    int width = q->kernels->columns, left = q->k % width, t, d, i;
    int together = q->depth < L2L__SLAB ? L2L__SLAB / q->depth : 1;
    l2l__point(q, p0, m, b);
    for (i = 0; q->sparse && i < m; i++) {
        memset(b->targets[i], 0, (size_t)q->k * sizeof *q->out);
        if (left) memset(b->tail + i * width, 0, (size_t)width * sizeof *q->out);
    }
    for (t = 0; t < q->count; t += together)
        for (d = 0; d < q->depth; d += L2L__SLAB)
            l2l__indirect_slab(q, b, m, t, l2l__at_most(together, q->count - t), d,
                               l2l__at_most(L2L__SLAB, q->depth - d));
    for (i = 0; i < m; i++) {
        l2l_real *y = b->targets[i];
        if (left) memcpy(y + q->k - left, b->tail + i * width, (size_t)left * sizeof *y);
        if (q->sparse) q->kernels->ew(L2L__ADD, q->k, y, q->zero, 0, 0, y);
        if (q->epilogue) q->kernels->finish(0, q->k, y, q->epilogue, y - q->out, y);
    }
}

/* Blocks of output pixels, by whichever thread is free: of a size that gives each thread about as
   many, in whole tiles. None has more than L2L__PIXELS, a multiple of L2L__ROWS, for which the
   benches have room. */
static bool l2l__indirect_run(l2l_context *c, l2l__indirect *q)
{
    const int64_t pixels = (int64_t)q->images * q->oh * q->ow;
    int workers = l2l__workers(c, pixels * q->count * q->depth * q->k), i;
    int64_t blocks = (int64_t)l2l__pieces(pixels, workers * L2L__PIXELS) * workers;
    int taken = 0, block = l2l__pieces(pixels, blocks * L2L__ROWS) * L2L__ROWS;
    l2l_mark mark = l2l_mark_here(c);
    l2l__bench *b = (l2l__bench *)l2l__arena_array(c, workers, sizeof *b);
    q->zero = l2l__arena_zeros(c, q->depth > q->k ? q->depth : q->k);
    q->sparse = q->count > 1 && q->depth > L2L__SLAB / 2 && q->oh * q->ow <= L2L__SMALL_PLANE;
    for (i = 0; b && i < workers; i++) {
        b[i].pointers = (const l2l_real **)l2l__arena_array(c, L2L__PIXELS * (int64_t)q->count,
                                                            sizeof *b[i].pointers);
        b[i].targets = (l2l_real **)l2l__arena_array(c, L2L__PIXELS, sizeof *b[i].targets);
        b[i].tail = (l2l_real *)l2l__arena_array(c, L2L__PIXELS * (int64_t)q->kernels->columns,
                                                 sizeof *b[i].tail);
    }
    if (!c->status) {
        L2L__PARALLEL(workers)
        for (i = 0; i < workers; i++) {
            int64_t p0;
            while ((p0 = (int64_t)l2l__next(&taken) * block) < pixels)
                l2l__indirect_block(q, p0, l2l__at_most(block, pixels - p0), &b[i]);
        }
    }
    l2l_release(c, mark);
    return !c->status;
}

/* x to y, with the weight's matrix m: output pixel (y,x) reads at tap (i,j) the source's pixel
   (y*stride - padding + i, x*stride - padding + j). */
static bool l2l__indirect_forward(l2l_context *c, const l2l__geometry *g, const l2l__matrix *m,
                                  const l2l_real *x, const l2l_tensor *w, const l2l__epilogue *e,
                                  l2l_real *y)
{
    l2l__indirect q;
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.source = x; q.out = y; q.epilogue = e;
    q.images = g->n; q.h = g->h; q.w = g->w; q.c = g->c;
    q.oh = q.height = g->oh; q.ow = q.width = g->ow; q.k = g->k;
    q.step = g->stride; q.turn = q.pitch = 1;
    q.y0 = q.x0 = -g->padding;
    q.lines = m->kh; q.columns = m->kw; q.taps = q.count = m->kh * m->kw; q.depth = m->depth;
    q.panels = l2l__panels(c, w, m, 0);
    return q.panels && l2l__indirect_run(c, &q);
}

/* x with its padding written out, and its geometry; x itself where there is none. */
static const l2l_real *l2l__padded(l2l_context *c, l2l__geometry *g, const l2l_real *x)
{
    const int h = g->h, p = g->padding;
    const int64_t row = (int64_t)g->w * g->c, edge = (int64_t)p * g->c, line = row + 2 * edge;
    l2l_real *out;
    int64_t lines, y;
    if (!p) return x;
    g->h += 2 * p;
    g->w += 2 * p;
    g->padding = 0;
    out = (l2l_real *)l2l__arena_array(c, g->n * (g->h * line), sizeof *out);
    lines = out ? (int64_t)g->n * g->h : 0;
    L2L__PARALLEL(l2l__workers(c, lines * line))
    for (y = 0; y < lines; y++) {
        int64_t from = y % g->h - p;
        memset(out + y * line, 0, (size_t)line * sizeof *out);
        if (from >= 0 && from < h)
            memcpy(out + y * line + edge, x + (y / g->h * h + from) * row,
                   (size_t)row * sizeof *out);
    }
    return out;
}

/* Few channels: row by row of the output, from a source with its padding written out. The kw*C
   numbers that taps (i,0) to (i,kw-1) read stand together in x, and so do their rows of the weight:
   the matrix has kh taps of that depth. */
static bool l2l__lines_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                               const l2l_tensor *w, const l2l__epilogue *e, l2l_real *y)
{
    const int width = c->kernels->columns;
    const int64_t out = (int64_t)g->ow * g->k;
    int64_t rows = (int64_t)g->n * g->oh, row;
    l2l__geometry in = *g;
    l2l__matrix m = l2l__matrix_of(g, 0);
    l2l__lines q;
    const l2l_real *panels;
    m.kw = 1;
    m.depth = g->kw * g->c;
    m.st = (int64_t)m.depth * g->k;
    x = l2l__padded(c, &in, x);
    panels = l2l__panels(c, w, &m, 0);
    q.taps = g->kh;
    q.depth = m.depth;
    q.step = g->stride * g->c;
    q.line = (int64_t)in.w * g->c;
    q.k = g->k;
    q.epilogue = e;
    L2L__PARALLEL(l2l__workers(c, rows * out * g->kh * m.depth))
    for (row = 0; row < (x && panels ? rows : 0); row++) {
        const l2l_real *a = x + (row / g->oh * in.h + row % g->oh * g->stride) * q.line;
        for (int k0 = 0; k0 < g->k; k0 += width)
            c->kernels->lines(&q, g->ow, a, panels + (int64_t)k0 * g->kh * m.depth, k0, row * out,
                              y + row * out);
    }
    return !c->status;
}

/* dy to dx, a phase after the other: (py,px) are the pixels of these remainders by the stride s,
   and tap i reaches those for which (py + padding - i) is a multiple of s. Pixels that no tap
   reaches are zero. Pixel y*s + py is reached by taps u + i*s, u = (py + padding) % s, from line
   y + y0 - i of dy. `first` counts the taps of the groups before (u,v), see l2l__pack_panel. */
static bool l2l__indirect_phases(l2l_context *c, const l2l__geometry *g, const l2l_real *dy,
                                 const l2l_tensor *w, l2l_real *dx)
{
    const int s = g->stride;
    const l2l__matrix m = l2l__matrix_of(g, 1);
    l2l__indirect q;
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.source = dy; q.out = dx;
    q.images = g->n; q.h = g->oh; q.w = g->ow; q.c = q.depth = g->k;
    q.height = g->h; q.width = g->w; q.k = g->c;
    q.step = 1; q.turn = -1; q.pitch = s;
    q.taps = g->kh * g->kw;
    q.panels = l2l__panels(c, w, &m, 1);
    if (!q.panels) return false;
    if (g->kh < s || g->kw < s)
        memset(dx, 0, (size_t)g->n * (size_t)g->h * (size_t)g->w * (size_t)g->c * sizeof *dx);
    for (q.py = 0; q.py < s && q.py < g->h; q.py++)
        for (q.px = 0; q.px < s && q.px < g->w; q.px++) {
            int u = (q.py + g->padding) % s, v = (q.px + g->padding) % s, i;
            q.y0 = (q.py + g->padding) / s;
            q.x0 = (q.px + g->padding) / s;
            q.lines = l2l__pieces(g->kh - u, s);
            q.columns = l2l__pieces(g->kw - v, s);
            q.count = q.lines * q.columns;
            for (q.first = i = 0; i < u; i++) q.first += l2l__pieces(g->kh - i, s) * g->kw;
            for (i = 0; i < v; i++) q.first += q.lines * l2l__pieces(g->kw - i, s);
            q.oh = l2l__pieces(g->h - q.py, s);
            q.ow = l2l__pieces(g->w - q.px, s);
            if (q.count && q.oh > 0 && q.ow > 0 && !l2l__indirect_run(c, &q)) return false;
        }
    return true;
}

/* -- Winograd convolution: 3x3, stride 1. A tile of fxf outputs (f = 4, 5 or 2) is A^T [(G g G^T) .
   (B^T d B)] A, where d is its (f+2)x(f+2) patch of the input: for each of the (f+2)^2 points a
   matrix product over the channels, 36, 49 or 16 multiplications where the direct way has 9 f^2.
   The input gradient is the same with the kernel turned over, the weight gradient G^T [(B^T d B) .
   (A dy A^T)] G summed over the tiles.

   At stride 2 and padding 1 output o of a side sees lines 2o-1 and 2o+1 of the input by taps 0 and
   2, and line 2o by tap 1. So the lines are two groups, odd and even, in each of which the layer is
   one of stride 1 with two taps or one; a plane is four groups g, 2 (even lines) + (even columns),
   whose sum the output is. All are transformed as for two taps, F(4,2) with 5x5 points, and added
   up before the way back; one tap w is (w, 0), a polynomial with nothing at infinity: there its
   groups have no product. That is 81 multiplications where the direct way has 144. The input
   gradient leads from one source to four groups of outputs: with line y = t of dy on, its odd line
   2t+1 is dy[t] w_2 + dy[t+1] w_0, its even line 2t is dy[t] w_1. */
typedef struct l2l__winograd {
    const l2l__kernels *kernels;
    int f, side, points, transform;          /* side f+taps-1, points side^2; see L2L__WIN_F2     */
    int taps;                                /* of the kernel, a side: 3, or 2 at stride 2        */
    int step, pitch;                         /* of the source's pixels, the output's: 2, else 1   */
    int border;                              /* lines around the source that outputs see          */
    int patch, into;                         /* of the source: size of a patch, how transformed   */
    int h, w, c;                             /* the source's plane and channels                   */
    int oh, ow, k, padding;                  /* the output's                                      */
    int th, tw, tiles;                       /* tiles of a plane; of the batch                    */
    int most;                                /* tiles at a time                                   */
    int slab, vrow;                          /* channels together in v: [point][slab][tile][vrow] */
    int mrow;                                /* m[point][tile][mrow]                              */
    bool turned;                             /* input gradient: taps in reverse                   */
    const l2l_real *source, *zero;
    const l2l_real *weight, *panels;         /* and, where they are kept, its panels              */
    l2l__matrix matrix;                      /* how the weight stands there                       */
    const l2l_real *u;                       /* the same transformed, [panel][point][c][columns]  */
    const l2l__epilogue *epilogue;
    const l2l__geometry *geometry;           /* the layer's, if ties are kept; or NULL            */
    l2l_real *out;
} l2l__winograd;

enum {
    L2L__CACHED = 1 << 15,                   /* c*k up to which transformed weights are kept      */
    L2L__WIN_SLAB = 128,                     /* channels that are transformed at a time otherwise */
    L2L__WIN_CHUNK = 128,                    /* tiles at a time then                              */
    L2L__WIN_COPIES = 4,                     /* threads up to which each transforms them itself   */
    L2L__WIN_GROUP = 48,                     /* channels of a weight gradient's block             */
    L2L__WIN_TILES = 64,                     /* tiles at a time where its sums come in parts      */
    L2L__WIN_ROOM = 1 << 22                  /* numbers that its sums, or a thread's tiles, take  */
};

/* Which way a layer goes, by its shape alone: f of F(f,3), or 0: the direct way, for which `border`
   is how far the source's plane is padded; 1: a plane of 2x2 as a whole, L2L__WIN_PLANE. The costs
   are vector operations for each tile: the product, and what the transforms of input and output
   take. The direct way has 3 oh pairs of an output and a tap along a side, of which b (b+1) lie
   beyond a border of b, both ends together. F(2,3) serves none of the four networks' layers, but
   small planes of others. F(5,3) has the larger rounding, which grows with the channels: it must be
   worth a tenth, as it is on planes of 10x10 and 14x14, and has up to L2L__SLAB channels. */
static int l2l__winograd_side(const l2l__kernels *kernels, const l2l__geometry *g, int border)
{
    const int lanes = kernels->columns / 2, c = g->c, k = g->k;
    bool little = (int64_t)g->oh * g->ow <= L2L__SMALL_PLANE && c > L2L__SLAB / 2;
    int beyond = little ? border * (border + 1) : 0; /* taps it leaves out, a side                */
    double ck = (double)c * k, direct = (3.0 * g->oh - beyond) * (3.0 * g->ow - beyond) * ck;
    double four = (double)l2l__pieces(g->oh, 4) * l2l__pieces(g->ow, 4);
    double two = (double)l2l__pieces(g->oh, 2) * l2l__pieces(g->ow, 2);
    double five = (double)l2l__pieces(g->oh, 5) * l2l__pieces(g->ow, 5);
    four *= 36 * ck + 300.0 * c + 250.0 * k;
    two *= 16 * ck + 90.0 * c + 70.0 * k;
    five *= 49 * ck + 450.0 * c + 380.0 * k;
    if (!kernels->winograd || g->kh != 3 || g->kw != 3 || g->stride != 1 || g->padding < 0 ||
        g->padding > 2 || c % lanes || k % lanes || c < 16 || k < 16)
        return 0;
    if (g->h == 2 && g->w == 2 && g->padding == 1 && 9 * ck + 50.0 * c + 40.0 * k < direct)
        return 1;
    if (c <= L2L__SLAB && five < 0.9 * four && five < two && five < direct) return 5;
    if (four <= two && four < direct) return 4;
    return two < direct ? 2 : 0;
}

/* f for a 3x3 layer of stride 1 without padding. */
static int l2l__way(const l2l_context *c, int from, int to, int h, int w)
{
    l2l__geometry g = {1, h + 2, w + 2, from, to, 3, 3, 1, 0, h, w};
    return l2l__winograd_side(c->kernels, &g, 0);
}

/* Two such layers, from `from` to `channels` and to as many again, the second one's output h x w:
   does a part of that, side x side from multiples of 4 on, get the same bits if it is made alone?
   It does if the second layer goes the same way on the part, in tiles, if any, of 4 or 2, whose
   grid is then the whole's, and the first one, whose part is two longer, not in tiles at all. */
static bool l2l__same_way(const l2l_context *c, int from, int channels, int h, int w, int side)
{
    const int f = l2l__way(c, channels, channels, h, w);
    return f != 5 && f == l2l__way(c, channels, channels, side, side) &&
           !l2l__way(c, from, channels, h + 2, w + 2) &&
           !l2l__way(c, from, channels, side + 2, side + 2);
}

/* The layer that leads from y to x, with taps in reverse and channels exchanged: at stride 1 this
   one's input gradient. For dx[h] = sum over i of dy[h + p - i] w[i] is, with i' = kh-1-i and
   p' = kh-1-p, the sum over i' of dy[h + i' - p'] w[kh-1-i']. p' may be negative. */
static l2l__geometry l2l__turned(const l2l__geometry *g)
{
    l2l__geometry t = *g;
    t.h = g->oh; t.w = g->ow; t.c = g->k;
    t.oh = g->h; t.ow = g->w; t.k = g->c;
    t.padding = g->kh - 1 - g->padding;
    return t;
}

/* Is a 3x3 layer of stride 2 and padding 1 worth F(4,2)? The costs are those of l2l__winograd_side,
   81 points' products for a tile of 4x4 outputs; there are four groups of the c channels and one of
   the k, forward and back. */
static bool l2l__strided_worth(const l2l__kernels *kernels, const l2l__geometry *g)
{
    const int lanes = kernels->columns / 2, c = g->c, k = g->k;
    double ck = (double)c * k, tiles = (double)l2l__pieces(g->oh, 4) * l2l__pieces(g->ow, 4);
    double direct = 9.0 * g->oh * g->ow * ck;
    if (!kernels->winograd || g->kh != 3 || g->kw != 3 || g->stride != 2 || g->padding != 1 ||
        c % lanes || k % lanes || c < 16 || k < 16)
        return false;
    return tiles * (81 * ck + 700.0 * c + 200.0 * k) < direct;
}

/* F(f,3) on this layer: tiles of f x f outputs, each of a patch of (f+2) x (f+2) inputs. */
static l2l__winograd l2l__winograd_of(const l2l_context *c, int f, const l2l__geometry *g)
{
    const bool plane = f == 1;
    l2l__winograd q;
    int width = c->kernels->columns;
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.f = plane ? 2 : f;
    q.taps = 3;
    q.step = q.pitch = 1;
    q.patch = plane ? 2 : f + 2;
    q.side = f + 2;
    q.points = q.side * q.side;
    q.transform = plane ? L2L__WIN_PLANE : f == 2 ? L2L__WIN_F2 : f == 5 ? L2L__WIN_F5 : 0;
    q.into = q.transform + L2L__WIN_IN;
    q.h = g->h; q.w = g->w; q.c = q.slab = g->c;
    q.oh = g->oh; q.ow = g->ow; q.k = g->k;
    q.padding = plane ? 0 : g->padding;
    q.border = g->padding;
    q.th = l2l__pieces(q.oh, q.f);
    q.tw = l2l__pieces(q.ow, q.f);
    q.tiles = g->n * q.th * q.tw;
    q.vrow = q.c + (q.c % 128 ? 0 : 16);     /* rows that do not fall onto each other in L1       */
    q.mrow = l2l__pieces(q.k, width) * width;
    q.mrow += q.mrow % 128 ? 0 : 16;
    return q;
}

/* F(4,2) on a layer of stride 2, or on its input gradient. */
static l2l__winograd l2l__winograd_strided(const l2l_context *c, const l2l__geometry *g,
                                           bool turned)
{
    const l2l__geometry t = l2l__turned(g);
    l2l__winograd q = l2l__winograd_of(c, 4, turned ? &t : g);
    q.taps = 2;
    q.side = q.patch = 5;
    q.points = 25;
    q.transform = L2L__WIN_TWO;
    q.into = q.transform + L2L__WIN_IN;
    if (!turned) {
        q.step = 2;
        return q;
    }
    q.pitch = 2;
    q.padding = 0;
    q.th = l2l__pieces(q.oh, 2 * q.f);
    q.tw = l2l__pieces(q.ow, 2 * q.f);
    q.tiles = g->n * q.th * q.tw;
    return q;
}

/* Point p of group g: where a group's lines have one tap, its kernel has no number at infinity. */
static bool l2l__point_used(const l2l__winograd *q, int p, int g)
{
    return !(g & 2 && p / q->side == q->side - 1) && !(g & 1 && p % q->side == q->side - 1);
}

/* Where tile t begins in a plane that it covers with steps of f; the plane's number. */
static int l2l__tile_place(const l2l__winograd *q, int t, int *y, int *x)
{
    *x = t % q->tw * q->f;
    *y = t / q->tw % q->th * q->f;
    return t / q->tw / q->th;
}

/* Pointers to the patch of q's n-th plane from (y, x) on, pixels `step` apart; zeros outside. */
static void l2l__patch(const l2l__winograd *q, int n, int y, int x, const l2l_real **at)
{
    const l2l_real *plane = q->source + (int64_t)n * q->h * q->w * q->c;
    int i, j;
    for (i = y; i < y + q->patch * q->step; i += q->step)
        for (j = x; j < x + q->patch * q->step; j += q->step)
            *at++ = i < 0 || i >= q->h || j < 0 || j >= q->w
                        ? q->zero : plane + ((int64_t)i * q->w + j) * q->c;
}

/* Numbers of one point in v, in m and in a slab of weights: a line more than there are, or all
   points' would fall onto the same few places of the first cache. */
static int64_t l2l__winograd_v(const l2l__winograd *q)
{
    return (int64_t)q->step * q->step * l2l__pieces(q->c, q->slab) * q->most * q->vrow + 16;
}

static int64_t l2l__winograd_m(const l2l__winograd *q)
{
    return (int64_t)q->most * q->mrow + 16;
}

/* Tiles t0 .. t0+count-1 of the source into v, as its tiles from `first` on: B^T d B of a tile's
   patch d, or A d A^T of dy's, channel by channel, to v[point][group][slab][tile][vrow]. */
static void l2l__winograd_in(const l2l__winograd *q, int t0, int count, int first, l2l_real *v)
{
    const l2l_real *from[L2L__WIN_POINTS];
    l2l_real *to[L2L__WIN_POINTS];
    const int slabs = l2l__pieces(q->c, q->slab), groups = q->step * q->step;
    int t, i, p, y, x;
    for (t = 0; t < count; t++) {
        int n = l2l__tile_place(q, t0 + t, &y, &x);
        for (i = 0; i < groups * slabs; i++) {
            int g = i / slabs, d0 = i % slabs * q->slab;
            l2l_real *at = v + ((int64_t)i * q->most + first + t) * q->vrow;
            if (!d0)
                l2l__patch(q, n, y * q->step - q->padding + g / 2,
                           x * q->step - q->padding + g % 2, from);
            else
                for (p = 0; p < q->patch * q->patch; p++) from[p] += q->slab;
            for (p = 0; p < q->points; p++, at += l2l__winograd_v(q))
                to[p] = l2l__point_used(q, p, g) ? at : NULL;
            q->kernels->winograd(q->into, l2l__at_most(q->slab, q->c - d0), from, to, NULL, 0,
                                 NULL);
        }
    }
}

/* m back to columns k0 .. k0+n-1 of group g of the output's pixels, with the epilogue: A^T m A. The
   last tiles of a side reach beyond the plane, where there is no target. */
static void l2l__winograd_out(const l2l__winograd *q, int t0, int count, int g, int k0, int n,
                              const l2l_real *m)
{
    const l2l_real *from[L2L__WIN_POINTS];
    l2l_real *to[L2L__WIN_POINTS];
    const int s = q->pitch, top = s - 1 - g / 2, left = s - 1 - g % 2;
    int64_t point = l2l__winograd_m(q);
    int t, p, y, x, i, j;
    for (t = 0; t < count; t++) {
        int64_t plane = l2l__tile_place(q, t0 + t, &y, &x) * (int64_t)q->oh;
        for (p = 0; p < q->points; p++)
            from[p] = l2l__point_used(q, p, g) ? m + p * point + (int64_t)t * q->mrow : q->zero;
        for (i = 0; i < q->f; i++)
            for (j = 0; j < q->f; j++) {
                int a = (y + i) * s + top, b = (x + j) * s + left;
                to[i * q->f + j] = a < q->oh && b < q->ow
                                       ? q->out + ((plane + a) * q->ow + b) * q->k + k0 : NULL;
            }
        q->kernels->winograd(q->transform + L2L__WIN_OUT, n, from, to, q->epilogue, k0, q->out);
    }
}

/* Equal patches of the input give equal outputs, and max pooling meets exact ties wherever the
   background is plain. Winograd's rounding depends on an output's place in its tile and would break
   them at random: so the outputs of a 2x2 window whose patches are equal take the first one's
   numbers. Where windows lie within tiles, this is done while those are in the cache.
   Here one window, whose first output is pixel `corner` of the batch: in order, so that an output
   may be given what another has just been given. Behind different residuals equal patches are no
   ties. Where q has a geometry it has an epilogue, too. */
static void l2l__tie(const l2l__winograd *q, unsigned ties, int64_t corner)
{
    const l2l_real *residual = q->epilogue->residual;
    int64_t at[4], k = q->k, from;
    size_t size = (size_t)k * sizeof *q->out;
    int i;
    for (i = 0; i < 4; i++) {
        at[i] = (corner + (int64_t)(i / 2) * q->ow + i % 2) * k;
        from = at[i ? ties >> 2 * i & 3 : 0];
        if (from != at[i] && (!residual || !memcmp(residual + from, residual + at[i], size)))
            memcpy(q->out + at[i], q->out + from, size);
    }
}

/* Of each tile the whole windows in the plane: an odd last row or column is in none. */
static void l2l__tie_tiles(const l2l__winograd *q, int t0, int count)
{
    const l2l__geometry *g = q->geometry;
    int y0, x0, n = g ? l2l__tile_place(q, t0, &y0, &x0) : 0;
    for (int t = 0; g && t < count; t++) {
        int rows = (q->oh - y0 < q->f ? q->oh - y0 : q->f) / 2;
        int columns = (q->ow - x0 < q->f ? q->ow - x0 : q->f) / 2;
        uint32_t ties = q->kernels->ties(g, q->source + (int64_t)n * q->h * q->w * q->c, q->zero,
                                         y0, x0, rows, columns);
        for (int i = 0; i < rows * columns; i++) {
            int a = i / columns, b = i % columns;
            unsigned mine = ties >> (16 * a + 8 * b) & 255;
            if (mine != L2L__NO_TIES)
                l2l__tie(q, mine, ((int64_t)n * q->oh + y0 + 2 * a) * q->ow + x0 + 2 * b);
        }
        x0 += q->f;                          /* the next tile                                     */
        if (x0 >= q->tw * q->f) { x0 = 0; y0 += q->f; }
        if (y0 >= q->th * q->f) { y0 = 0; n++; }
    }
}

/* Where windows do not lie within tiles: all of them, at the end. */
static void l2l__tie_planes(const l2l_context *c, const l2l__winograd *q)
{
    l2l__winograd windows = *q;
    int t;
    windows.f = 4;
    windows.th = l2l__pieces(q->oh, 4);
    windows.tw = l2l__pieces(q->ow, 4);
    windows.tiles = q->geometry ? q->tiles / (q->th * q->tw) * windows.th * windows.tw : 0;
    L2L__PARALLEL(l2l__workers(c, (int64_t)windows.tiles * q->points * q->c))
    for (t = 0; t < windows.tiles; t++) l2l__tie_tiles(&windows, t, 1);
}

/* Where all of dy that a pixel's gradient sees is 0, at corners and behind dead units, the gradient
   is 0 in the plain sum, and an attack takes no step there; Winograd's rounding would make it one.
   `zero` has room for each pixel of the plane with its border: is it 0 or outside? And the pixels
   behind it that an output sees, too? At stride 2 output y sees lines (y-1)/2 and (y+1)/2 of dy, or
   y/2 alone. */
static void l2l__zero_plane(const l2l__winograd *q, int n, unsigned char *zero)
{
    const int border = q->border;
    const int64_t wide = q->w + 2 * border, all = (q->h + 2 * border) * wide;
    const l2l_real *source = q->source + (int64_t)n * q->h * q->w * q->c;
    const int two = q->pitch == 2;
    l2l_real *out = q->out + (int64_t)n * q->oh * q->ow * q->k;
    int64_t i;
    int j;
    memset(zero, 1, (size_t)all);
    for (i = 0; i < q->h; i++)
        q->kernels->zeros(q->w, q->c, source + i * q->w * q->c,
                          zero + (i + border) * wide + border);
    /* upwards, so that those behind are still themselves; the last ones of a line see the next
       one, but no output begins there */
    for (i = 0; !two && i + 2 < all; i++) zero[i] &= zero[i + 1] & zero[i + 2];
    for (i = 0; i < q->oh; i++)
        for (j = 0; j < q->ow; j++) {
            const unsigned char *z = two ? zero + (i / 2 + 1) * wide + j / 2 + 1
                                         : zero + i * wide + j;
            const int64_t right = two ? j % 2 : 0, below = two ? i % 2 * wide : wide;
            if (z[0] & z[right] & z[below] & z[below + right] & (two || z[2 * wide]))
                memset(out + (i * q->ow + j) * q->k, 0, (size_t)q->k * sizeof *out);
        }
}

/* Every image's plane, each thread with room for one. */
static void l2l__zero_planes(l2l_context *c, const l2l__winograd *q)
{
    const int images = q->tiles / (q->th * q->tw), border = q->border;
    const int64_t plane = (int64_t)(q->h + 2 * border) * (q->w + 2 * border);
    int workers = l2l__at_most(l2l__workers(c, images * plane * q->c), images), worker;
    unsigned char *rooms = (unsigned char *)l2l__arena_array(c, workers * plane, 1);
    L2L__PARALLEL(workers)
    for (worker = 0; worker < (rooms ? workers : 0); worker++)
        for (int n = worker; n < images; n += workers)
            l2l__zero_plane(q, n, rooms + worker * plane);
}

/* A matrix product with a panel: y[i][0..columns) (+)= a[i][0..depth) b for i < count. Rows of a
   stand `pa` numbers apart, those of y `py`. */
static void l2l__panel_product(const l2l__kernels *kernels, int count, int depth, const l2l_real *a,
                               int64_t pa, const l2l_real *b, l2l_real *y, int64_t py,
                               bool accumulate)
{
    int i, r, rows, d;
    for (d = 0; d < depth; d += L2L__WIN_SLAB)
        for (i = 0; i < count; i += rows) {
            const l2l_real *from[L2L__ROWS];
            l2l_real *to[L2L__ROWS];
            rows = l2l__at_most(L2L__ROWS, count - i);
            if (count - i == 7 || count - i == 8) rows = 4; /* better than six and then two       */
            for (r = 0; r < L2L__ROWS; r++) {
                from[r] = a + (i + (r < rows ? r : 0)) * pa;
                to[r] = y + (i + (r < rows ? r : 0)) * py;
            }
            kernels->tile(rows, 1, l2l__at_most(L2L__WIN_SLAB, depth - d), from, d,
                          b + (int64_t)d * kernels->columns, 0, to, accumulate || d > 0);
        }
}

/* The taps of group g: where they begin in a panel's nine, how many lines and columns they are. */
static int l2l__group_taps(const l2l__winograd *q, int g, int *lines, int *columns)
{
    static const int first[4] = {0, 4, 6, 8};
    *lines = q->taps - g / 2;
    *columns = q->taps - g % 2;
    return first[g];
}

/* Channels d0 .. d0+depth-1 of a panel's group g into Winograd's domain: u[point][d][columns], its
   points `step` numbers apart: G g G^T of each channel and column, of the kernel turned over if it
   is for an input gradient. The taps come from kept panels, whose rows d0 and up are used in place,
   or are packed into `room`, 9*depth*columns numbers. */
static void l2l__winograd_weight(const l2l__winograd *q, int panel, int g, int d0, int depth,
                                 l2l_real *room, l2l_real *u, int64_t step)
{
    const l2l_real *from[9];
    l2l_real *to[L2L__WIN_POINTS];
    int i, j, lines, columns, first = l2l__group_taps(q, g, &lines, &columns);
    int width = q->kernels->columns;
    int64_t tap = (int64_t)(q->panels ? q->c : depth) * width;
    const l2l_real *taps = room;
    if (q->panels) taps = q->panels + (panel * 9 + first) * tap + (int64_t)d0 * width;
    else l2l__pack_group(q->kernels, &q->matrix, q->weight, panel, d0, depth, g / 2, g % 2, room);
    for (i = 0; i < q->taps; i++)
        for (j = 0; j < q->taps; j++) {
            int at = i * columns + j;
            if (q->turned) at = lines * columns - 1 - at;
            from[i * q->taps + j] = i < lines && j < columns ? taps + at * tap : q->zero;
        }
    for (i = 0; i < q->points; i++) to[i] = l2l__point_used(q, i, g) ? u + i * step : NULL;
    q->kernels->winograd(q->transform + L2L__WIN_WEIGHT, (int64_t)depth * width, from, to, NULL, 0,
                         NULL);
}

/* A block's products for group `to` of the outputs: for each point p m[p][tile][k] = sum over the
   groups of the source and c of v[p][group][tile][c] u[p][group][c][k]. At stride 1 both are one
   group; else only one of them is four. */
static void l2l__winograd_products(const l2l__winograd *q, int count, int to, const l2l_real *v,
                                   l2l_real *m)
{
    const int width = q->kernels->columns, panels = l2l__pieces(q->k, width);
    const int groups = q->step * q->step;
    int p, j, g;
    for (p = 0; p < q->points; p++)
        for (j = 0; j < panels; j++)
            for (g = 0; g < groups; g++)
                if (l2l__point_used(q, p, g + to))
                    l2l__panel_product(
                        q->kernels, count, q->c,
                        v + p * l2l__winograd_v(q) + (int64_t)g * q->most * q->vrow, q->vrow,
                        q->u + (((int64_t)(to * panels + j) * groups + g) * q->points + p) * q->c *
                                   width,
                        m + p * l2l__winograd_m(q) + j * width, q->mrow, g > 0);
}

/* Small layers: a thread takes a block of tiles from patch to output. A block has 48 tiles of
   F(4,3) at most, or 24 where channels are many, of other tiles as many points; the number of
   blocks is a multiple of the threads'. A tile's numbers do not depend on those in its block. */
static bool l2l__winograd_blocks(l2l_context *c, l2l__winograd *q)
{
    int blocks, worker, taken = 0;
    int workers = l2l__workers(c, (int64_t)q->tiles * q->points * q->c * q->k);
    int64_t vs, ms;
    l2l_real *space;
    q->most = l2l__at_most((q->c + q->k <= 128 ? 48 : 24) * 36 / q->points / q->step, q->tiles);
    blocks = l2l__pieces(l2l__pieces(q->tiles, q->most), workers) * workers;
    q->most = l2l__pieces(q->tiles, blocks);
    vs = l2l__winograd_v(q);
    ms = l2l__winograd_m(q);
    space = (l2l_real *)l2l__arena_array(c, workers * (q->points * (vs + ms)), sizeof *space);
    if (!space) return false;
    L2L__PARALLEL(workers)
    for (worker = 0; worker < workers; worker++) {
        l2l_real *v = space + worker * (q->points * (vs + ms)), *m = v + q->points * vs;
        int block, g;
        for (block = l2l__next(&taken); block < blocks; block = l2l__next(&taken)) {
            int t0 = block * q->most, count = l2l__at_most(q->most, q->tiles - t0);
            l2l__winograd_in(q, t0, count, 0, v);
            for (g = 0; g < q->pitch * q->pitch; g++) {
                l2l__winograd_products(q, count, g, v, m);
                l2l__winograd_out(q, t0, count, g, 0, q->k, m);
            }
            if (q->f % 2 == 0) l2l__tie_tiles(q, t0, count);
        }
    }
    l2l__arena_drop(c, space);
    return true;
}

/* Panel j of the columns of the output's group `to`, of `count` tiles from t0 on, which v has;
   `room` is for a slab of transformed weights, their products and the weights themselves. */
static void l2l__winograd_panel(const l2l__winograd *q, int t0, int count, int to, int j,
                                const l2l_real *v, l2l_real *room)
{
    const int width = q->kernels->columns, k0 = j * width, slabs = l2l__pieces(q->c, q->slab);
    const int64_t us = (int64_t)L2L__WIN_SLAB * width + 16;
    const int64_t vs = l2l__winograd_v(q), ms = l2l__winograd_m(q);
    l2l_real *u = room, *m = u + q->points * us;
    int i, p;
    for (i = 0; i < q->step * q->step * slabs; i++, v += (int64_t)q->most * q->vrow) {
        int g = i / slabs + to, d0 = i % slabs * q->slab;
        int depth = l2l__at_most(q->slab, q->c - d0);
        l2l__winograd_weight(q, j, g, d0, depth, m + q->points * ms, u, us);
        for (p = 0; p < q->points; p++)
            if (l2l__point_used(q, p, g))
                l2l__panel_product(q->kernels, count, depth, v + p * vs, q->vrow, u + p * us,
                                   m + p * ms, q->mrow, i > 0);
    }
    l2l__winograd_out(q, t0, count, to, k0, l2l__at_most(width, q->k - k0), m);
}

/* Large layers: their transformed weights would not stay in any cache, so the threads share out the
   panels, and each transforms its own, a slab at a time, just before use. A few threads transform
   all tiles each for themselves: that is quicker than reading what another core has written. A
   chunk of tiles goes through three steps, each by all threads: to v, panel by panel to the output,
   and its ties, for which an output must have all of its channels. */
static bool l2l__winograd_panels(l2l_context *c, l2l__winograd *q)
{
    int width = q->kernels->columns, panels = l2l__pieces(q->k, width), t0, t, count, worker;
    int all = panels * q->pitch * q->pitch;
    int workers = l2l__workers(c, (int64_t)q->tiles * q->points * q->c * q->k);
    int copies = workers <= L2L__WIN_COPIES ? workers : 1;
    int64_t us = (int64_t)L2L__WIN_SLAB * width + 16, vs, size;
    l2l_real *v, *space;
    q->most = l2l__at_most(L2L__WIN_CHUNK / q->step, q->tiles);
    q->slab = q->vrow = L2L__WIN_SLAB;
    q->mrow = width;
    vs = q->points * l2l__winograd_v(q);
    size = q->points * (us + l2l__winograd_m(q)) + 9 * us;
    v = (l2l_real *)l2l__arena_array(c, copies * vs, sizeof *v);
    space = (l2l_real *)l2l__arena_array(c, workers * size, sizeof *space);
    for (t0 = 0; v && space && t0 < q->tiles; t0 += count) {
        int taken = 0;
        count = l2l__at_most(q->most, q->tiles - t0);
        L2L__PARALLEL(workers)
        for (t = 0; t < copies * count; t++)
            l2l__winograd_in(q, t0 + t % count, 1, t % count, v + t / count * vs);
        L2L__PARALLEL(workers)
        for (worker = 0; worker < workers; worker++) {
            const l2l_real *mine = v + (copies > 1 ? worker : 0) * vs;
            int j;
            for (j = l2l__next(&taken); j < all; j = l2l__next(&taken))
                l2l__winograd_panel(q, t0, count, j / panels, j % panels, mine,
                                    space + worker * size);
        }
        L2L__PARALLEL(workers)
        for (t = 0; t < (q->geometry && q->f % 2 == 0 ? count : 0); t++)
            l2l__tie_tiles(q, t0 + t, 1);
    }
    l2l__arena_drop(c, space);
    l2l__arena_drop(c, v);
    return !c->status;
}

/* A small layer's weight, transformed: as it was kept, or made anew. */
static bool l2l__winograd_transformed(l2l_context *c, l2l__winograd *q, const l2l_tensor *w,
                                      int which)
{
    int width = q->kernels->columns, panels = l2l__pieces(q->k, width), worker;
    int all = panels * q->step * q->step * q->pitch * q->pitch; /* [to][panel][group]             */
    int64_t one = (int64_t)q->points * q->c * width, room = (int64_t)9 * L2L__WIN_SLAB * width;
    int workers = l2l__workers(c, all * one);
    bool fresh;
    l2l_real *u = l2l__cached(c, w->packed, which, all * one, &q->matrix, &fresh), *rooms;
    q->u = u;
    if (c->status || !fresh) return !c->status;
    rooms = (l2l_real *)l2l__arena_array(c, workers * room, sizeof *rooms);
    if (!rooms && w->packed) w->packed->cache[which].kernels = NULL; /* kept, but not filled      */
    L2L__PARALLEL(workers)
    for (worker = 0; worker < (rooms ? workers : 0); worker++) {
        int j, d0;
        for (j = worker; j < all; j += workers) {
            int g = q->step == 2 ? j % 4 : j / panels, panel = q->step == 2 ? j / 4 : j % panels;
            for (d0 = 0; d0 < q->c; d0 += L2L__WIN_SLAB)
                l2l__winograd_weight(q, panel, g, d0, l2l__at_most(L2L__WIN_SLAB, q->c - d0),
                                     rooms + worker * room, u + j * one + (int64_t)d0 * width,
                                     (int64_t)q->c * width);
        }
    }
    l2l__arena_drop(c, rooms);
    return !c->status;
}

/* As many zeros as any pixel, slab of a panel or row of outputs has numbers. */
static const l2l_real *l2l__winograd_zeros(l2l_context *c, int from, int to)
{
    int most = L2L__WIN_SLAB * c->kernels->columns;
    if (from > most) most = from;
    return l2l__arena_zeros(c, to > most ? to : most);
}

/* direction 0: x to y; 1: dy to dx. A large layer's panels are kept from the second run with the
   same weight on, or for slices: an attack has many, a training step has one. Windows do not lie
   within tiles of 5x5: their ties come at the end. */
static bool l2l__winograd_run(l2l_context *c, l2l__winograd *q, const l2l_tensor *w,
                              const l2l__matrix *matrix, int direction)
{
    l2l_mark mark = l2l_mark_here(c);
    l2l__packed *p = w->packed;
    bool ok;
    q->zero = l2l__winograd_zeros(c, q->c, q->k);
    q->weight = w->data;
    q->matrix = *matrix;
    q->matrix.stride = q->step * q->pitch;
    q->turned = direction == 1;
    if ((int64_t)q->c * q->k * q->matrix.stride <= L2L__CACHED) {
        int which = 2 + direction + q->transform / L2L__WIN_KINDS * 2;
        ok = q->zero && l2l__winograd_transformed(c, q, w, which) &&
             l2l__winograd_blocks(c, q);
    } else {
        if (q->zero && p && (c->slicing || c->caller || p->used[direction] == p->version + 1))
            q->panels = l2l__panels(c, w, &q->matrix, direction);
        if (p && !c->caller) p->used[direction] = p->version + 1;
        ok = !c->status && l2l__winograd_panels(c, q);
    }
    if (ok && q->f % 2) l2l__tie_planes(c, q);
    if (ok && q->turned) l2l__zero_planes(c, q);
    ok = ok && !c->status;
    l2l_release(c, mark);
    return ok;
}

/* The weight gradient's plan. An item is a block of x's channels, a slab, by a panel of dy's; its
   sums stand as [point][channel][columns]. Layers whose sums are small have them several times, for
   parts of the tiles, so that a thread need not read what another has transformed. How many parts
   there are, their order and that of the tiles in each depend on the shape alone. */
typedef struct l2l__winograd_plan {
    l2l__winograd x, dy;                     /* both as sources of the same tiles                 */
    int panels, items, parts;
    bool kept;                               /* the sums of all items, or only of the one at hand */
    int64_t step, size;                      /* numbers of a point's sums, of an item's           */
    l2l_real *sums, *dw;                     /* [part][item]                                      */
} l2l__winograd_plan;

/* A chunk's tiles to one point of one item's sums: [c][k] (+)= sum over tiles of v[tile][c]
   z[tile][k], in bands of six channels c. */
static void l2l__winograd_sum(const l2l__winograd_plan *g, int count, const l2l_real *v,
                              const l2l_real *z, int p, int item, bool accumulate, l2l_real *sums)
{
    const l2l__winograd *x = &g->x, *dy = &g->dy;
    int width = x->kernels->columns, slab = item / g->panels, k0 = item % g->panels * width, band;
    int slabs = l2l__pieces(x->c, x->slab), c0 = slab % slabs * x->slab;
    int channels = l2l__at_most(x->slab, x->c - c0);
    if (!l2l__point_used(x, p, slab / slabs)) {
        if (!accumulate) memset(sums + p * g->step, 0, (size_t)g->step * sizeof *sums);
        return;
    }
    v += p * l2l__winograd_v(x) + (int64_t)slab * x->most * x->vrow;
    z += p * l2l__winograd_v(dy) + (int64_t)(k0 / dy->slab) * dy->most * dy->vrow + k0 % dy->slab;
    for (band = 0; band < channels; band += L2L__ROWS)
        x->kernels->outer(l2l__at_most(L2L__ROWS, channels - band), 1, count, v + band, 0, x->vrow,
                          z, 0, dy->vrow, sums + p * g->step + band * width, accumulate);
}

/* An item's sums to the weight's gradient, G^T u G; `out` is room for nine points, from where the
   rows of columns that exist go to dw[tap][c][k]: tap r of a group's lines is 2r, or 1 of one. */
static void l2l__winograd_collect(const l2l__winograd_plan *g, const l2l_real *sums, int item,
                                  l2l_real *out)
{
    const l2l_real *from[L2L__WIN_POINTS];
    l2l_real *to[9];
    const l2l__winograd *x = &g->x;
    int slabs = l2l__pieces(x->c, x->slab), group = item / g->panels / slabs;
    int width = x->kernels->columns, k0 = item % g->panels * width, lines, columns;
    int c0 = item / g->panels % slabs * x->slab, channels = l2l__at_most(x->slab, x->c - c0);
    int k = g->dy.c, i, r;
    l2l__group_taps(x, group, &lines, &columns);
    for (i = 0; i < x->points; i++) from[i] = sums + i * g->step;
    for (i = 0; i < x->taps * x->taps; i++) to[i] = out + i * g->step;
    x->kernels->winograd(x->transform + L2L__WIN_BACK, (int64_t)channels * width, from, to, NULL, 0,
                         NULL);
    for (i = 0; i < lines * columns; i++) {
        int a = i / columns, b = i % columns;
        int tap = (a * x->step + group / 2) * 3 + b * x->step + group % 2;
        for (r = 0; r < channels; r++)
            memcpy(g->dw + ((int64_t)tap * x->c + c0 + r) * k + k0,
                   to[a * x->taps + b] + r * width,
                   (size_t)l2l__at_most(width, k - k0) * sizeof *out);
    }
}

/* Shares from .. to-1 of parts x items: what one thread does. Where sums are kept, the items of a
   point go together, which read the same tiles; else the points of an item, whose sums are then
   complete. */
static void l2l__winograd_shares(const l2l__winograd_plan *g, int from, int to, l2l_real *room)
{
    l2l_real *v = room, *z = v + g->x.points * l2l__winograd_v(&g->x);
    l2l_real *own = z + g->x.points * l2l__winograd_v(&g->dy), *out = own + (g->kept ? 0 : g->size);
    while (from < to) {
        int part = from / g->items, points = g->x.points, t, count, i;
        int n = l2l__at_most((part + 1) * g->items, to) - from;
        int t0 = (int)((int64_t)g->x.tiles * part / g->parts);
        int t1 = (int)((int64_t)g->x.tiles * (part + 1) / g->parts);
        for (t = t0; t < t1; t += count) {
            count = l2l__at_most(g->x.most, t1 - t);
            l2l__winograd_in(&g->x, t, count, 0, v);
            l2l__winograd_in(&g->dy, t, count, 0, z);
            for (i = 0; i < n * points; i++) {
                int p = g->kept ? i / n : i % points, share = from + (g->kept ? i % n : i / points);
                l2l_real *sums = g->kept ? g->sums + share * g->size : own;
                l2l__winograd_sum(g, count, v, z, p, share % g->items, t > t0, sums);
                if (!g->kept && p == points - 1) l2l__winograd_collect(g, sums, share, out);
            }
        }
        from += n;
    }
}

/* dW over the tiles of x and dy, which q describes as for the forward pass. */
static l2l__winograd_plan l2l__winograd_plan_of(const l2l__winograd *q, const l2l_real *dy,
                                                l2l_real *dw)
{
    const int width = q->kernels->columns;
    const int groups = q->step * q->step;
    const int64_t all = (int64_t)q->points * groups * q->c * q->k;
    l2l__winograd_plan g;
    int most;
    memset(&g, 0, sizeof g);
    g.x = g.dy = *q;
    g.dw = dw;
    g.x.slab = g.x.vrow = q->c <= L2L__WIN_SLAB ? q->c : L2L__WIN_GROUP;
    g.dy.source = dy;
    g.dy.step = 1;
    g.dy.patch = q->f;
    g.dy.into = q->transform + L2L__WIN_GRAD;
    g.dy.h = q->oh; g.dy.w = q->ow; g.dy.c = q->k; g.dy.padding = 0;
    g.panels = l2l__pieces(q->k, width);
    g.dy.slab = g.dy.vrow = q->k <= L2L__WIN_SLAB ? g.panels * width : width;
    g.items = g.panels * groups * l2l__pieces(q->c, g.x.slab);
    /* up to 16, as many as there is room for their sums; each has L2L__WIN_TILES tiles or more */
    g.parts = l2l__at_most(all < L2L__WIN_ROOM / 16 ? 16 : (int)(L2L__WIN_ROOM / all),
                           q->tiles / L2L__WIN_TILES);
    if (g.parts < 1) g.parts = 1;
    /* tiles at a time: in parts L2L__WIN_TILES, else what v and z have room for. If that is all of
       them, an item's sums are complete at once, and need not be kept */
    most = g.parts > 1 ? 0 : L2L__WIN_ROOM / (q->points * (groups * q->c + q->k));
    if (most < L2L__WIN_TILES) most = L2L__WIN_TILES;
    g.x.most = g.dy.most = l2l__at_most(most, q->tiles);
    g.kept = g.parts > 1 || most < q->tiles;
    g.step = (int64_t)l2l__pieces(g.x.slab, L2L__ROWS) * L2L__ROWS * width + 16;
    g.size = q->points * g.step;
    return g;
}

/* dW in Winograd's domain is a sum over all tiles, point by point. Threads share out parts of the
   tiles and pieces of the weight, whose numbers the shape decides; each part has sums of its own,
   which are added in order and transformed back once. */
static bool l2l__winograd_weight_gradient(l2l_context *c, const l2l__winograd *q,
                                          const l2l_real *dy, l2l_real *dw)
{
    int workers = l2l__workers(c, (int64_t)q->tiles * q->points * q->c * q->k), w;
    l2l_mark mark = l2l_mark_here(c);
    l2l__winograd_plan g = l2l__winograd_plan_of(q, dy, dw);
    int64_t vs = q->points * l2l__winograd_v(&g.x), zs = q->points * l2l__winograd_v(&g.dy);
    int64_t room = vs + zs + (g.kept ? 0 : g.size) + 9 * g.step, kept = g.kept ? g.size : 0;
    l2l_real *rooms;
    g.x.zero = g.dy.zero = l2l__winograd_zeros(c, q->c, q->k);
    g.sums = (l2l_real *)l2l__arena_array(c, g.parts * g.items * kept, sizeof *g.sums);
    rooms = (l2l_real *)l2l__arena_array(c, workers * room, sizeof *rooms);
    L2L__PARALLEL(workers)
    for (w = 0; w < (rooms ? workers : 0); w++) {
        int64_t shares = (int64_t)g.parts * g.items;
        l2l_real *mine = rooms + w * room;
        if (q->k % q->kernels->columns)      /* columns that no tile fills                        */
            memset(mine + vs, 0, (size_t)zs * sizeof *mine);
        l2l__winograd_shares(&g, (int)(shares * w / workers), (int)(shares * (w + 1) / workers),
                             mine);
    }
    L2L__PARALLEL(workers)
    for (w = 0; w < (rooms && g.kept ? workers : 0); w++) {
        int item, part;
        for (item = w; item < g.items; item += workers) {
            l2l_real *sums = g.sums + item * g.size;
            for (part = 1; part < g.parts; part++)
                q->kernels->ew(L2L__ADD, g.size, sums, sums + part * g.items * g.size, 0, 0, sums);
            l2l__winograd_collect(&g, sums, item, rooms + w * room);
        }
    }
    l2l_release(c, mark);
    return !c->status;
}

/* The same layer in simpler terms: no stride leads further than out of the plane, and where the
   kernel is as large as that, an image is one pixel of all its numbers: a linear layer. */
static l2l__geometry l2l__simplified(const l2l__geometry *g)
{
    l2l__geometry t = *g;
    const int side = (g->h > g->w ? g->h : g->w) + 2 * g->padding;
    if (t.stride > side) t.stride = side;
    if (g->kh != g->h || g->kw != g->w || g->padding ||
        (int64_t)g->h * g->w * g->c > INT_MAX)
        return t;
    t.c = g->h * g->w * g->c;
    t.h = t.w = t.kh = t.kw = t.stride = 1;
    return t;
}

/* So few channels that a tile's columns would be all but empty. */
static bool l2l__few(const l2l_context *c, int channels)
{
    return channels <= L2L__FEW && c->kernels->columns > L2L__FEW;
}

/* A layer of stride 1 with few output channels does badly by panels of those. But it is the input
   gradient of the layer that is turned, and that one's few channels are its input's. */
static bool l2l__better_turned(const l2l_context *c, const l2l__geometry *g)
{
    return l2l__few(c, g->k) && g->c > L2L__FEW && g->stride == 1 && g->kh == g->kw &&
           g->kh > 1 && g->padding < g->kh;
}

/* The weight w of layer g for the layer that is g turned, or the other way round. */
static void l2l__turn_weight(const l2l__geometry *g, const l2l_real *w, l2l_real *turned)
{
    int taps = g->kh * g->kw, t, i, k;
    for (t = 0; t < taps; t++)
        for (i = 0; i < g->c; i++)
            for (k = 0; k < g->k; k++)
                turned[((int64_t)(taps - 1 - t) * g->k + k) * g->c + i] =
                    w[((int64_t)t * g->c + i) * g->k + k];
}

/* x, as the turned layer's dy, to that layer's dx, which is y. The epilogue has its own pass. */
static bool l2l__turned_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                const l2l_tensor *w, const l2l__epilogue *e, l2l_real *y)
{
    const l2l__geometry turned = l2l__turned(g);
    int64_t pixels = (int64_t)g->n * g->oh * g->ow;
    l2l_tensor v;
    memset(&v, 0, sizeof v);
    v.data = (l2l_real *)l2l__arena_array(c, (int64_t)g->kh * g->kw * g->c * g->k, sizeof *v.data);
    if (!v.data) return false;
    l2l__turn_weight(g, w->data, v.data);
    if (l2l__conv_input_gradient(c, &turned, x, &v, y) && e)
        l2l__channel_finish(c, pixels, pixels, g->k, y, e, y);
    return !c->status;
}

/* The table at the drivers' head, forward: which way, by the layer's shape and the kernels. */
static bool l2l__conv_forward(l2l_context *c, const l2l__geometry *layer, const l2l_real *x,
                              const l2l_tensor *w, const l2l__epilogue *e, l2l_real *y)
{
    const l2l__geometry simple = l2l__simplified(layer), *g = &simple;
    /* an epilogue that does nothing is none, but ties need one for its residual */
    const l2l__epilogue *last = e->scale || e->bias || e->residual || e->relu ? e : NULL;
    l2l_mark mark = l2l_mark_here(c);
    l2l__matrix m = l2l__matrix_of(g, 0);
    int side = l2l__winograd_side(c->kernels, g, g->padding);
    const bool strided = !e->ties && l2l__strided_worth(c->kernels, g);
    bool ok = true;
    if (!e->ties && l2l__better_turned(c, g)) {
        ok = l2l__turned_forward(c, g, x, w, last, y);
    } else if (side || strided) {
        l2l__winograd q = strided ? l2l__winograd_strided(c, g, false)
                                  : l2l__winograd_of(c, side, g);
        q.source = x;
        q.out = y;
        q.epilogue = last || e->ties ? e : NULL;
        q.geometry = e->ties ? g : NULL;
        ok = l2l__winograd_run(c, &q, w, &m, 0);
    } else if (g->c <= L2L__FEW && g->kw > 1) {
        ok = l2l__lines_forward(c, g, x, w, last, y);
    } else {
        ok = l2l__indirect_forward(c, g, &m, x, w, last, y);
    }
    l2l_release(c, mark);
    return ok;
}

/* -- input gradient of a layer with few input channels: a panel is dy's next pixels, turned; the
   weights of a tap and channel are a row of the product, which is that tap's contribution to dx at
   all those pixels, and is added up where it belongs. So that this stands together, over the ends
   of rows and with strides, too, dx is a plane for each channel and phase, and rows of dy have gaps
   as wide as the taps reach further. For dy[y][x] belongs at tap (i,j) to pixel (y*s + i, x*s + j)
   of the padded dx: in the plane of phase (i%s, j%s) at y*pitch + x, the number of the pixel with
   its gaps, from the tap's place on. A gap's products are 0, with finite weights, and change no
   sum. */
typedef struct l2l__scatter {
    const l2l__kernels *kernels;
    const l2l__geometry *g;
    int phases;                              /* a side: those that taps reach                     */
    int lines, pitch;                        /* of a plane                                        */
    int64_t plane, size;                     /* numbers of a plane, of one thread's room          */
    const l2l_real *w;
    int64_t *places;                         /* of each tap and channel, for the first pixel      */
} l2l__scatter;

/* Where the planes have pixel (y,x), padding included, of channel c. */
static int64_t l2l__scatter_place(const l2l__scatter *q, int c, int y, int x)
{
    const int s = q->g->stride;
    return ((c * q->phases + y % s) * q->phases + x % s) * q->plane +
           (int64_t)(y / s) * q->pitch + x / s;
}

/* Pixels `at` and up of dy with its gaps, one for each of the panel's columns; zeros in the gaps
   and behind the end. */
static void l2l__scatter_pack(const l2l__scatter *q, const l2l_real *dy, int at, l2l_real *pixels,
                              l2l_real *panel)
{
    const l2l__geometry *g = q->g;
    const int width = q->kernels->columns, k = g->k;
    int n, run, x, y;
    for (n = 0; n < width; n += run) {
        y = (at + n) / q->pitch;
        x = (at + n) % q->pitch;
        run = l2l__at_most(x < g->ow && y < g->oh ? g->ow - x : q->pitch - x, width - n);
        if (x < g->ow && y < g->oh)
            memcpy(pixels + n * k, dy + ((int64_t)y * g->ow + x) * k,
                   (size_t)run * (size_t)k * sizeof *dy);
        else
            memset(pixels + n * k, 0, (size_t)run * (size_t)k * sizeof *dy);
    }
    q->kernels->pack(k, width, pixels, 1, k, panel);
}

/* A panel by all taps, into the planes from its first pixel's place on; `products` is room. */
static void l2l__scatter_panel(const l2l__scatter *q, const l2l_real *panel, l2l_real *products,
                               l2l_real *planes)
{
    const l2l__geometry *g = q->g;
    const int width = q->kernels->columns, all = g->kh * g->kw * g->c;
    int first, r, d;
    for (first = 0; first < all; first += L2L__ROWS) {
        int rows = l2l__at_most(L2L__ROWS, all - first);
        const l2l_real *a[L2L__ROWS];
        l2l_real *y[L2L__ROWS];
        for (r = 0; r < L2L__ROWS; r++) {
            a[r] = q->w + (int64_t)(first + (r < rows ? r : 0)) * g->k;
            y[r] = products + r * width;
        }
        for (d = 0; d < g->k; d += L2L__SLAB)
            q->kernels->tile(rows, 1, l2l__at_most(L2L__SLAB, g->k - d), a, d,
                             panel + (int64_t)d * width, 0, y, d > 0);
        for (r = 0; r < rows; r++) {
            l2l_real *to = planes + q->places[first + r];
            q->kernels->ew(L2L__ADD, width, to, y[r], 0, 0, to);
        }
    }
}

/* The planes to row y, channel c of dx; zeros where no tap reaches. */
static void l2l__scatter_row(const l2l__scatter *q, const l2l_real *planes, int y, int c,
                             l2l_real *dx)
{
    const l2l__geometry *g = q->g;
    const int s = g->stride, p = g->padding, line = (y + p) / s;
    int v, x, column;
    for (v = 0; v < s && v < g->w; v++) {
        bool reached = (y + p) % s < q->phases && (v + p) % s < q->phases && line < q->lines;
        const l2l_real *from = planes + (reached ? l2l__scatter_place(q, c, y + p, v + p) : 0);
        for (x = v, column = (v + p) / s; x < g->w; x += s, column++, from++)
            dx[x * g->c + c] = reached && column < q->pitch ? *from : 0;
    }
}

/* All products of some pixels with all taps, added up in the planes; then the planes to dx. */
static void l2l__scatter_image(const l2l__scatter *q, const l2l_real *dy, l2l_real *room,
                               l2l_real *dx)
{
    const l2l__geometry *g = q->g;
    const int width = q->kernels->columns, pixels = (g->oh - 1) * q->pitch + g->ow;
    l2l_real *panel = room + (int64_t)g->k * width, *products = panel + (int64_t)g->k * width;
    l2l_real *planes = products + L2L__ROWS * width;
    int at, y, c;
    memset(planes, 0, (size_t)(room + q->size - planes) * sizeof *planes);
    for (at = 0; at < pixels; at += width) {
        l2l__scatter_pack(q, dy, at, room, panel);
        l2l__scatter_panel(q, panel, products, planes + at);
    }
    for (y = 0; y < g->h; y++)
        for (c = 0; c < g->c; c++)
            l2l__scatter_row(q, planes, y, c, dx + (int64_t)y * g->w * g->c);
}

/* Image by image, as they are free: plans and places are the layer's, planes each thread's own. A
   thread's room is the pixels of a panel, the panel, its products and the planes, each of which has
   the columns that the last panel may reach further. */
static bool l2l__scatter_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *dy,
                                  const l2l_tensor *w, l2l_real *dx)
{
    int64_t from = (int64_t)g->oh * g->ow * g->k, to = (int64_t)g->h * g->w * g->c;
    const int width = c->kernels->columns, large = g->kh > g->kw ? g->kh : g->kw;
    const int taps = g->kh * g->kw;
    int workers = l2l__workers(c, g->n * from * taps * g->c), worker, taken = 0, r;
    l2l__scatter q;
    l2l_real *room;
    memset(&q, 0, sizeof q);
    q.kernels = c->kernels;
    q.g = g;
    q.phases = g->stride < large ? g->stride : large;
    q.lines = g->oh + (g->kh - 1) / g->stride;
    q.pitch = g->ow + (g->kw - 1) / g->stride;
    q.plane = (int64_t)q.lines * q.pitch + width;
    q.size = (2 * (int64_t)g->k + L2L__ROWS) * width + g->c * q.phases * q.phases * q.plane;
    q.w = w->data;
    q.places = (int64_t *)l2l__arena_array(c, (int64_t)taps * g->c, sizeof *q.places);
    room = (l2l_real *)l2l__arena_array(c, workers * q.size, sizeof *room);
    for (r = 0; !c->status && r < taps * g->c; r++)
        q.places[r] = l2l__scatter_place(&q, r % g->c, r / g->c / g->kw, r / g->c % g->kw);
    L2L__PARALLEL(workers)
    for (worker = 0; worker < (c->status ? 0 : workers); worker++) {
        int i;
        for (i = l2l__next(&taken); i < g->n; i = l2l__next(&taken))
            l2l__scatter_image(&q, dy + i * from, room + worker * q.size, dx + i * to);
    }
    return !c->status;
}

/* The same for the input gradient; Winograd's way is the forward pass of the layer turned. */
static bool l2l__conv_input_gradient(l2l_context *c, const l2l__geometry *layer,
                                     const l2l_real *dy, const l2l_tensor *w, l2l_real *dx)
{
    const l2l__geometry simple = l2l__simplified(layer), *g = &simple;
    l2l_mark mark = l2l_mark_here(c);
    l2l__geometry turned = l2l__turned(g);
    int side = l2l__winograd_side(c->kernels, &turned, turned.padding);
    const bool strided = l2l__strided_worth(c->kernels, g);
    bool ok = true;
    if (l2l__few(c, g->c) && g->kh * g->kw > 1) {
        ok = l2l__scatter_gradient(c, g, dy, w, dx);
    } else if (side || strided) {
        l2l__matrix m = l2l__matrix_of(g, 1);
        l2l__winograd q = strided ? l2l__winograd_strided(c, g, true)
                                  : l2l__winograd_of(c, side, &turned);
        q.source = dy;
        q.out = dx;
        ok = l2l__winograd_run(c, &q, w, &m, 1);
    } else {
        ok = l2l__indirect_phases(c, g, dy, w, dx);
    }
    l2l_release(c, mark);
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

/* A tile: channels c0 .. c0+rows-1 of a tap by a panel of k. A panel that would reach beyond the
   last column begins earlier instead, at `start`. */
typedef struct l2l__outer_tile {
    int tap, c0, rows, k0, start;
    l2l_real *sums;
} l2l__outer_tile;

/* Neighbours differ by their panel and read the same pixels of x. */
static l2l__outer_tile l2l__outer_tile_of(const l2l__outer_plan *q, int tile)
{
    const int width = q->kernels->columns;
    l2l__outer_tile t;
    t.tap = tile / q->panels / q->bands;
    t.c0 = tile / q->panels % q->bands * L2L__ROWS;
    t.rows = l2l__at_most(L2L__ROWS, q->g.c - t.c0);
    t.k0 = tile % q->panels * width;
    t.start = l2l__at_most(t.k0, q->ldy - width);
    t.sums = q->sums + (int64_t)tile * L2L__ROWS * width;
    return t;
}

/* Image n into a tile's sums: rows top .. bottom-1 and columns first .. last-1 of dy are those from
   which the tap leads into the plane of x, and padding adds nothing. */
static void l2l__outer_add(const l2l__outer_plan *q, int n, const l2l__outer_tile *t)
{
    const l2l__geometry *g = &q->g;
    const int64_t s = g->stride, i = t->tap / g->kw - g->padding, j = t->tap % g->kw - g->padding;
    int top = 0, bottom = g->oh, first = 0, last = g->ow;
    while (top < bottom && top * s + i < 0) top++;
    while (bottom > top && (bottom - 1) * s + i >= g->h) bottom--;
    while (first < last && first * s + j < 0) first++;
    while (last > first && (last - 1) * s + j >= g->w) last--;
    if (top == bottom || first == last) return;
    q->kernels->outer(
        t->rows, bottom - top, last - first,
        q->x + ((n * (int64_t)g->h + top * s + i) * g->w + first * s + j) * q->pitch + t->c0,
        s * g->w * q->pitch, s * q->pitch,
        q->dy + ((n * (int64_t)g->oh + top) * g->ow + first) * q->ldy + t->start,
        (int64_t)g->ow * q->ldy, q->ldy, t->sums, true);
}

/* A tile's sums to dw, without the columns that a tile before has as well. */
static void l2l__outer_store(const l2l__outer_plan *q, const l2l__outer_tile *t, l2l_real *dw)
{
    const int width = q->kernels->columns;
    int r;
    for (r = 0; r < t->rows; r++)
        memcpy(dw + ((int64_t)t->tap * q->g.c + t->c0 + r) * q->g.k + t->k0,
               t->sums + r * width + (t->k0 - t->start),
               (size_t)l2l__at_most(width, q->g.k - t->k0) * sizeof *dw);
}

/* Each thread has a run of the tiles, whose sums stay in its cache while the images go by: it reads
   all of x and dy, and nobody adds up what others have summed. */
static bool l2l__outer_run(l2l_context *c, l2l__outer_plan *q, l2l_real *dw)
{
    const l2l__geometry *g = &q->g;
    int workers = l2l__workers(c, (int64_t)g->n * g->oh * g->ow * g->c * g->k), w;
    q->bands = l2l__pieces(g->c, L2L__ROWS);
    q->panels = l2l__pieces(g->k, q->kernels->columns);
    q->tiles = g->kh * g->kw * q->bands * q->panels;
    q->sums = l2l__arena_zeros(c, (int64_t)q->tiles * L2L__ROWS * q->kernels->columns);
    L2L__PARALLEL(workers)
    for (w = 0; w < (q->sums ? workers : 0); w++) {
        int from = (int)((int64_t)q->tiles * w / workers), n, z;
        int to = (int)((int64_t)q->tiles * (w + 1) / workers);
        for (n = 0; n <= g->n; n++)          /* the images in order, then the sums                */
            for (z = from; z < to; z++) {
                l2l__outer_tile t = l2l__outer_tile_of(q, z);
                if (n < g->n) l2l__outer_add(q, n, &t);
                else l2l__outer_store(q, &t, dw);
            }
    }
    return !c->status;
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

/* What the layer's shape allows to be simpler, then the tiles. */
static bool l2l__direct_weight_gradient(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                        const l2l_real *dy, l2l_real *dw)
{
    int64_t pixels = (int64_t)g->n * g->oh * g->ow;
    l2l__outer_plan q;
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
    /* q.pitch stays C all the same: a tap's kw*C numbers overlap those of the next pixel */
    if (g->c <= L2L__FEW && g->kw > 1) {     /* a line of the kernel is one tap                   */
        q.x = l2l__padded(c, &q.g, x);
        q.g.c = g->kw * g->c;
        q.g.kw = 1;
    }
    if (q.g.kh * q.g.kw == 1 && q.g.stride == 1 && q.g.padding == 0 && q.pitch == q.g.c &&
        pixels <= INT_MAX) {
        q.g.n = q.g.h = q.g.oh = 1;          /* all pixels in one row: a plain matrix product     */
        q.g.w = q.g.ow = (int)pixels;
    }
    return !c->status && l2l__outer_run(c, &q, dw);
}

/* The same for the weight gradient. */
static bool l2l__conv_weight_gradient(l2l_context *c, const l2l__geometry *layer,
                                      const l2l_real *x, const l2l_real *dy, l2l_real *dw)
{
    const l2l__geometry simple = l2l__simplified(layer), *g = &simple;
    l2l_mark mark = l2l_mark_here(c);
    int side = l2l__winograd_side(c->kernels, g, 0); /* this direct way leaves nothing out        */
    const bool strided = l2l__strided_worth(c->kernels, g);
    bool ok = true;
    if (l2l__better_turned(c, g)) {
        const l2l__geometry turned = l2l__turned(g);
        l2l_real *v = (l2l_real *)l2l__arena_array(c, (int64_t)g->kh * g->kw * g->c * g->k,
                                                   sizeof *v);
        ok = v && l2l__conv_weight_gradient(c, &turned, dy, x, v);
        if (ok) l2l__turn_weight(&turned, v, dw);
    } else if (side || strided) {
        l2l__winograd q = strided ? l2l__winograd_strided(c, g, false)
                                  : l2l__winograd_of(c, side, g);
        q.source = x;
        ok = l2l__winograd_weight_gradient(c, &q, dy, dw);
    } else {
        ok = l2l__direct_weight_gradient(c, g, x, dy, dw);
    }
    l2l_release(c, mark);
    return ok;
}

/* -- pooling ----------------------------------------------------------------------------------- */

/* y and, for l2l__pool_gather, each maximum's place: its pixel's number in the image. */
static void l2l__max_pool_forward(l2l_context *c, const l2l__geometry *g, const l2l_real *x,
                                  l2l_real *y, int *index)
{
    const l2l__kernels *kernels = c->kernels;
    int64_t row, rows = (int64_t)g->n * g->oh, size = (int64_t)g->ow * g->c;
    L2L__PARALLEL(l2l__workers(c, rows * size * g->kh * g->kh))
    for (row = 0; row < rows; row++)
        kernels->pool_row(0, g, x + row / g->oh * g->h * g->w * g->c, (int)(row % g->oh),
                          y + row * size, index + row * size);
}

/* y = x at the places of the maxima (forward), or its adjoint: x = 0, y added at those places. */
static void l2l__pool_gather(l2l_context *c, const l2l__geometry *g, bool forward,
                             const int *index, l2l_real *x, l2l_real *y)
{
    int64_t in = (int64_t)g->h * g->w * g->c, out = (int64_t)g->oh * g->ow * g->c;
    int n;
    L2L__PARALLEL(l2l__workers(c, g->n * (forward ? out : in)))
    for (n = 0; n < g->n; n++) {
        l2l_real *image = x + n * in, *v = y + n * out;
        const int *place = index + n * out;
        int c0 = g->c, k;
        if (!forward) memset(image, 0, (size_t)in * sizeof *image);
        for (; v < y + (n + 1) * out; v += c0, place += c0)
            if (forward) for (k = 0; k < c0; k++) v[k] = image[(int64_t)place[k] * c0 + k];
            else for (k = 0; k < c0; k++) image[(int64_t)place[k] * c0 + k] += v[k];
    }
}

/* The pixel of an image that output pixel (oh,ow) reads at tap (i,j); -1: beyond the border. */
static int64_t l2l__place_of(const l2l__geometry *g, int oh, int ow, int i, int j)
{
    int h = oh * g->stride + i - g->padding, w = ow * g->stride + j - g->padding;
    return h < 0 || h >= g->h || w < 0 || w >= g->w ? -1 : (int64_t)h * g->w + w;
}

/* The same for averages, of one image: adds towards y (forward) or towards x (adjoint). */
static void l2l__average_image(const l2l__geometry *g, bool forward, l2l_real *x, l2l_real *y)
{
    l2l_real weight = (l2l_real)(1.0 / g->kh / g->kh);
    int oh, ow, i, j, k;
    for (oh = 0; oh < g->oh; oh++)
        for (ow = 0; ow < g->ow; ow++, y += g->c)
            for (i = 0; i < g->kh; i++)
                for (j = 0; j < g->kh; j++) {
                    int64_t place = l2l__place_of(g, oh, ow, i, j);
                    l2l_real *at;
                    if (place < 0) continue;
                    at = x + place * g->c;
                    if (forward) for (k = 0; k < g->c; k++) y[k] += at[k] * weight;
                    else for (k = 0; k < g->c; k++) at[k] += y[k] * weight;
                }
}

/* y from x, or x from y: the same walk over the windows, which overlap, in either direction. */
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

#ifdef __cplusplus
}
#endif
#endif /* L2LADV_IMPLEMENTATION */

/* HISTORY
   0.9.2  (2026-12)  same bits, but for the sign of a masked 0; what a mask takes is 0, were it
                     infinite, as in PyTorch; second order meets images of which the model is all
                     but certain, gradients that do not depend on the image and objectives that
                     return NULL; a progress callback may go back to a checkpoint at an epoch's end;
                     a rank without memory for the best model can go on; errors name the step of
                     the iterate; l2l_linear refuses padding and pooling
   0.9.1  (2026-11)  same bits; X, Y, K, FMA and PAIR of a program that includes this stay its own;
                     a checkpoint of phi of another size is refused by the setting's name; a fetch
                     that fails as a trainer is made, or sets an error and says true, is an error;
                     so is a step by momentum without memory; l2l_norm2 of infinities
   0.9.0  (2026-11)  3x3 layers of stride 2 by Winograd's algorithm, where L2L_UNPOOLED says that no
                     maximum follows, and planes of 2x2 in nine products: both round otherwise; a
                     batch's mean and variance in one pass; ties of max pooling behind layers of few
                     channels; refused is what cannot be loaded again, resume without a checkpoint,
                     numbers that are infinite as a float; a lane leaves alone what its caller's
                     context has beside parameters; owed reports keep their numbers; states of
                     evaluations of format 8
   0.8.3  (2026-11)  a weight seen as another shape is packed anew (it was computed with wrongly); a
                     checkpoint keeps an epoch's end that is owed, and leads back before the first
                     best model; Square, and so AutoAttack, in l2; what went wrong silently is
                     refused: phi's gradient in an attack, Adam's numbers that are no floats,
                     dropout where there is none, l2l_train after l2l_train_step
   0.8.2  (2026-11)  Square on smallcnn: the first layers work on cuts around what changes; softmax
                     and cross-entropy of logits beyond 1e15; states of evaluations have the
                     seconds of all sittings (format 7)
   0.8.1  (2026-11)  searches ask for gradients only where they need them (in->gradient), FAB-T at
                     every second look; Square without queries that change nothing; two threads
                     where one ran in many attacks; states of evaluations of format 6
   0.8.0  (2026-11)  3x3 layers on planes of 10x10, 14x14 and the like in tiles of 5x5, which round
                     otherwise; direct weight gradients keep their sums in registers; input
                     gradients are 0 where all that they are made of is
   0.7.0  (2026-11)  l2l_model_gradient; passes without a tape go depth first; first layers line by
                     line, their input gradients summed in planes, in another order; kernels as
                     large as the plane are linear layers
   0.6.0  (2026-11)  searches of one's own (l2l_search, l2l_spot); AutoAttack, Square, C&W l2,
                     DeepFool, Sign-OPT, the line search, Adam and shrinking steps as maximizers,
                     evaluations (folds over records) and their states (format 5, text), transfer,
                     .npy, CIFAR-10 and logs beside the header, in examples/; l2l_evaluate,
                     l2l_accuracy; l2l_trainer_note; l2l_load_bytes,
                     l2l_save_with_head for files of one's own; l2l_model_mode_matters; averaged
                     models; plain C in tiles; training by several processes; with micro_batch
                     running statistics move once for a step; checkpoints of format 6
   0.5.0  (2026-11)  the paper stands first in the file; APGD, FAB-T, AutoAttack; numbers that are
                     not finite end attacks and trainings, with their image and step; one table for
                     the options of each struct; numbers in files exact; files written whole, where
                     they lead; ties of max pooling as in the plain sum; NULL for handles, outputs
                     and options; l2l_look, l2l_layer_parameter, l2l_model_run, trainers without a
                     data set; steps of an attack follow its epsilon; L2LDA and streamed shards
                     beside the header
   0.4.1  (2026-11)  searches begin at given points; threads take blocks one by one; small planes go
                     place by place, without taps beyond the border
   0.4.0  (2026-11)  the learned maximizer's steps are eps/4 at most unless told otherwise, not eps;
                     batch norm by image; trials of a line search in records; less memory;
                     checkpoints of format 4, evaluations' states of format 2
   0.3.0  (2026-11)  l2 balls, targets; MIM, PGD on the margin, C&W l2, DeepFool, Square, Sign-OPT,
                     line search; TRADES, RNN-TRADES, L2LDA; evaluations that warn and resume;
                     transfer; checkpoints of format 3; kernels for few tiles and weight gradients
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
