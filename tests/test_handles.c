/* Every public function, called as nobody should: with NULL for each of its pointers in turn and for
   all at once, after an error, and on what constructors leave when they fail. Nothing crashes; a
   call that cannot do its work returns NULL, false or 0 and says why in the context; the first error
   stays; and the context works on afterwards. test_handles.sh holds the list below against the
   symbols of the library.
     usage: bin/test_handles [FUNCTION]      all of them, or one */
#include "../examples/shards.h"
#include "../examples/autoattack.h"
#include "../examples/cifar.h"
#include "../examples/evaluation.h"
#include "../examples/l2lda.h"
#include "support.h"

/* -- a small world: one of everything ---------------------------------------------------------- */

enum { NONE = -1, ALL = -2, N = 2, SIDE = 4, CLASSES = 3, IMAGE = SIDE * SIDE };
#define A_PATH "handles-test.tmp"

typedef struct world {
    int hole;                    /* which pointer of the call is NULL: NONE, ALL, or its number     */
    bool gave, tells;            /* what the call returned, if its result tells success             */
    l2l_context *c;
    l2l_tensor *x, *z, *w, *v, *y, *ones; /* images, logits, a weight, a vector, 2 channels, Nx1x1x1*/
    l2l_model *model, *made;
    l2l_learned *phi;
    l2lda *generator;
    l2l_trainer *trainer;
    l2l_optimizer *optimizer;
    l2l_dataset data, other;
    l2l_evaluation evaluation;
    bool has_data, has_evaluation;
    l2l_attack attack;
    l2l_record records[N];
    l2l_real images[N * IMAGE], adversarial[N * IMAGE], logits[N * CLASSES], many[4096];
    int labels[N];
    void *memory, *bytes;
    size_t size;
} world;

static bool at_hole(const world *w, int k) { return w->hole == ALL || w->hole == k; }
/* Pointer number k of a call. */
#define P(k, p) (w->hole == ALL || w->hole == (k) ? NULL : (p))
/* The call's result, a pointer, a bool or a number that is not 0 after success. */
#define GAVE(result) (w->tells = true, w->gave = (result) ? true : false)

static l2l_tensor *forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_unit u = l2l_unit_default(2, 3);
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 2, 3, 1, 1, L2L_RELU);
    x = l2l_layer_batch_norm(m, "bn", x, 0);
    u.norm = "bn2";
    x = l2l_layer_unit(m, "unit", x, &u);
    x = l2l_layer_dropout(m, x, 0.0);
    return l2l_layer_linear(m, "fc", x, CLASSES, L2L_LAST);
}

static l2l_model_options model_options(void)
{
    l2l_model_options o = l2l_model_default("mine");
    o.forward = forward;
    o.channels = 1;
    o.height = o.width = SIDE;
    o.classes = CLASSES;
    return o;
}

static l2l_train_options train_options(void)
{
    l2l_train_options o = l2l_train_default();
    o.epochs = 1;
    o.batch = N;
    o.T = 1;
    return o;
}

static l2l_model *model_of(world *w)
{
    l2l_model_options o = model_options();
    if (!w->model) w->model = l2l_model_create(w->c, &o);
    return w->model;
}

static l2l_learned *phi_of(world *w)
{
    l2l_learned_options o = l2l_learned_default();
    o.hidden = 2;
    if (!w->phi) w->phi = l2l_learned_create(w->c, &o);
    return w->phi;
}

static l2lda_options generator_options(void)
{
    l2lda_options o = l2lda_default();
    o.channels = 1;
    o.height = o.width = SIDE;
    o.classes = CLASSES;
    o.width_multiplier = 0.125;
    return o;
}

static l2lda *generator_of(world *w)
{
    l2lda_options o = generator_options();
    if (!w->generator) w->generator = l2lda_create(w->c, &o);
    return w->generator;
}

static l2l_dataset *data_of(world *w)
{
    if (!w->has_data)
        l2l_dataset_from_arrays(w->c, w->images, w->labels, N, 1, SIDE, SIDE, CLASSES, &w->data);
    w->has_data = true;
    return &w->data;
}

static l2l_trainer *trainer_of(world *w)
{
    l2l_train_options o = train_options();
    o.averaging = 0.5;
    if (!w->trainer) w->trainer = l2l_trainer_create(model_of(w), data_of(w), &o);
    return w->trainer;
}

static l2l_optimizer *optimizer_of(world *w)
{
    static const int64_t sizes[] = {3, 4};
    l2l_optimizer_options o = l2l_sgd_default();
    if (!w->optimizer) w->optimizer = l2l_optimizer_create(w->c, &o, sizes, 2);
    return w->optimizer;
}

static l2l_evaluation *evaluation_of(world *w)
{
    l2l_evaluation_options o = l2l_evaluation_default();
    if (!w->has_evaluation)
        l2l_evaluation_begin(model_of(w), data_of(w), &o, &w->evaluation);
    w->has_evaluation = true;
    return &w->evaluation;
}

static void begin(world *w, bool ruined)
{
    static const l2l_real half = (l2l_real)0.5;
    memset(w, 0, sizeof *w);
    memset(&w->data, 0xA5, sizeof w->data);  /* as on a stack: constructors must not read it        */
    memset(&w->other, 0xA5, sizeof w->other);
    memset(&w->evaluation, 0xA5, sizeof w->evaluation);
    w->c = test_context(1);
    for (int i = 0; i < N * IMAGE; i++) w->images[i] = half;
    for (int i = 0; i < N; i++) w->labels[i] = i;
    for (int i = 0; i < COUNT(w->many); i++) w->many[i] = half;
    w->attack = l2l_attack_pgd(0.1);
    w->attack.steps = 1;
    if (ruined) l2l_error_set(w->c, L2L_ERROR_FILE, "the first error");
    w->x = l2l_from_nchw(w->c, w->images, l2l_shape_of(N, SIDE, SIDE, 1));
    w->z = l2l_from_nchw(w->c, w->many, l2l_shape_of(N, 1, 1, CLASSES));
    w->w = l2l_full(w->c, l2l_shape_of(3, 3, 1, 2), 0.1);
    w->v = l2l_full(w->c, l2l_shape_of(1, 1, 1, 1), 0.1);
    w->y = l2l_full(w->c, l2l_shape_of(N, SIDE, SIDE, 2), 0.1);
    w->ones = l2l_full(w->c, l2l_shape_of(N, 1, 1, 1), 1);
    w->hole = NONE;
}

/* One of everything, now. */
static void begin_all(world *w)
{
    evaluation_of(w);
    trainer_of(w);
    optimizer_of(w);
    generator_of(w);
    phi_of(w);
}

static void end(world *w)
{
    l2l_error_clear(w->c);
    if (w->has_evaluation) l2l_evaluation_end(&w->evaluation);
    if (w->has_data) l2l_dataset_free(&w->data);
    l2l_trainer_free(w->trainer);
    l2l_optimizer_free(w->optimizer);
    l2lda_free(w->generator);
    l2l_learned_free(w->phi);
    l2l_model_free(w->made);
    l2l_model_free(w->model);
    l2l_free(w->c, w->memory);
    l2l_context_free(w->c);
    remove(A_PATH);
}

/* -- calls that need more than a line ---------------------------------------------------------- */

static l2l_tensor *recorded(world *w, l2l_tensor *x)
{
    l2l_tensor *y;
    if (!w->c) return NULL;
    l2l_set_recording(w->c, true);
    y = l2l_sum(w->c, x);
    l2l_set_recording(w->c, false);
    return y;
}

static void differentiate(world *w, bool vjp)
{
    l2l_tensor *in[1], *out[1] = {NULL}, *y = recorded(w, w->x);
    in[0] = P(3, w->x);
    GAVE(vjp ? l2l_vjp(P(0, w->c), P(1, y), P(4, w->v), P(2, in), 1, P(5, out), 0)
             : l2l_grad(P(0, w->c), P(1, y), P(2, in), 1, P(4, out), 0));
}

static l2l_batch_norm_options norm_options(world *w)
{
    l2l_batch_norm_options o = l2l_batch_norm_default();
    o.gamma = P(3, w->v);
    o.beta = P(4, w->v);
    o.running_mean = P(5, w->v);
    o.running_variance = P(6, w->v);
    return o;
}

static bool logits(void *user, const l2l_real *x, int n, l2l_real *out)
{
    (void)user;
    for (int i = 0; i < n * CLASSES; i++) out[i] = x[0];
    return true;
}

static void external(world *w)
{
    l2l_external e = {1, SIDE, SIDE, CLASSES, NULL, NULL, NULL};
    e.logits = w->hole == ALL || w->hole == 2 ? NULL : logits;
    GAVE(w->made = l2l_model_external(P(0, w->c), P(1, &e)));
}

static void create(world *w)
{
    l2l_model_options o = model_options();
    o.arch = P(2, o.arch);
    GAVE(w->made = l2l_model_create(P(0, w->c), P(1, &o)));
}

static void optimizer_create(world *w)
{
    static const int64_t sizes[] = {3, 4};
    l2l_optimizer_options o = l2l_adam_default();
    l2l_optimizer *made = l2l_optimizer_create(P(0, w->c), P(1, &o), P(2, sizes), 2);
    GAVE(made);
    l2l_optimizer_free(made);
}

static void optimizer_step(world *w)
{
    l2l_real *values[2], *gradients[2];
    values[0] = P(3, w->many);
    values[1] = w->many + 4;
    gradients[0] = P(4, w->many + 8);
    gradients[1] = w->many + 12;
    GAVE(l2l_optimizer_step(P(0, optimizer_of(w)), P(1, values), P(2, gradients), 1));
}

static void learned_create(world *w)
{
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *made = l2l_learned_create(P(0, w->c), P(1, &o));
    GAVE(made);
    l2l_learned_free(made);
}

static void generator_create(world *w)
{
    l2lda_options o = generator_options();
    l2lda *made = l2lda_create(P(0, w->c), P(1, &o));
    GAVE(made);
    l2lda_free(made);
}

/* A training step whose maximizer looks elsewhere, or asks for phi's gradient. */
typedef struct spy {
    world *w;
    l2l_maximizer inner;
    bool looks, gave;
} spy;
static bool spy_begin(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    return s->inner.begin(s->inner.self, in);
}
static bool spy_step(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    world *w = s->w;
    l2l_real loss[N], gradient[N * IMAGE];
    int predicted[N];
    if (s->looks)
        s->gave = l2l_look(P(0, in), P(1, in->adv), P(2, loss), P(3, predicted), P(4, gradient));
    return s->inner.step(s->inner.self, in);
}
static bool spy_gradient(void *self, l2l_inner *in)
{
    spy *s = (spy *)self;
    world *w = s->w;
    if (s->looks) return true;
    s->gave = l2l_learned_gradient(P(0, phi_of(w)), P(1, in), P(2, w->many));
    return s->gave;
}
static bool spy_update(void *self, l2l_inner *in)
{
    (void)self;
    (void)in;
    return true;
}
static void spied(world *w, bool looks)
{
    l2l_train_options o = train_options();
    l2l_trainer *t;
    spy s;
    s.w = w;
    s.looks = looks;
    s.gave = false;
    s.inner = l2l_learned_maximizer(phi_of(w));
    o.method.maximizer = s.inner;
    o.method.maximizer.self = &s;
    o.method.maximizer.begin = spy_begin;
    o.method.maximizer.step = spy_step;
    o.method.maximizer.gradient = spy_gradient;
    o.method.maximizer.update = spy_update;
    o.method.maximizer.pack = NULL;
    o.method.maximizer.unpack = NULL;
    o.method.maximizer.keep = NULL;
    t = l2l_trainer_create(model_of(w), data_of(w), &o);
    l2l_train_step(t, w->images, w->labels, N, NULL);
    GAVE(s.gave);
    l2l_trainer_free(t);
}

/* A search that makes one of the calls for searches in its only pass. */
static world *searching;
static int spot_call;
static int64_t spot_begin(l2l_inner *in, const l2l_attack *a)
{
    (void)in;
    (void)a;
    return 1;
}
static void spot_prepare(l2l_inner *in)
{
    world *w = searching;
    l2l_spot p = l2l_spot_of(in, 0);
    l2l_real z[IMAGE];
    CHECK(p.in == in && p.n == IMAGE && !l2l_spot_of(in, in->n).in);
    switch (spot_call) {
    case 0: l2l_spot_of(P(0, in), 0); break;
    case 1: l2l_spot_init(P(0, &p), P(1, z)); break;
    case 2: l2l_spot_keep(P(0, &p), false); break;
    case 3: l2l_spot_keep_nearest(P(0, &p)); break;
    case 4: l2l_spot_end(P(0, &p)); break;
    default: l2l_finite_images(P(0, in), P(1, "a pixel"), P(2, in->adv));
    }
}
static void spot_rests(const l2l_spot *p) { (void)p; }
static const l2l_search spot_search = {
    0, 0, false, false, false, false, spot_begin, spot_prepare, spot_rests, spot_rests};
static void searched(world *w, int call)
{
    l2l_attack a = l2l_search_attack("own", 0.1, L2L_LINF, 1, &spot_search);
    searching = w;
    spot_call = call;
    l2l_attack_run(model_of(w), &a, w->images, w->labels, N, w->adversarial, w->records);
}

static void open_as(world *w)
{
    l2l_model_options o = model_options();
    bool saved = l2l_model_save(model_of(w), A_PATH);
    o.arch = P(3, o.arch);
    GAVE(w->made = l2l_model_open_as(P(0, w->c), P(1, A_PATH), P(2, &o)));
    if (w->tells && !saved) w->gave = false;
}

static void optimizer_unpack(world *w)
{
    double v[32];
    int64_t n = l2l_optimizer_pack(optimizer_of(w), NULL);
    if (!CHECK(n <= COUNT(v))) return;
    l2l_optimizer_pack(optimizer_of(w), v);
    GAVE(l2l_optimizer_unpack(P(0, optimizer_of(w)), P(1, v), n));
}

static void trainer_create(world *w)
{
    l2l_train_options o = train_options();
    l2l_trainer *made = l2l_trainer_create(P(0, model_of(w)), P(1, data_of(w)), P(2, &o));
    GAVE(made);
    l2l_trainer_free(made);
}

static void trainer_resume(world *w)
{
    bool saved = l2l_trainer_save(trainer_of(w), A_PATH);
    GAVE(l2l_trainer_resume(P(0, trainer_of(w)), P(1, A_PATH)) && saved);
}

static void evaluation_begin(world *w)
{
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    memset(&e, 0xA5, sizeof e);
    GAVE(l2l_evaluation_begin(P(0, model_of(w)), P(1, data_of(w)), P(2, &o), P(3, &e)));
    if (w->hole != 3 && w->hole != ALL) l2l_evaluation_end(&e);
}

static void evaluation_add(world *w)
{
    l2l_evaluation *e = evaluation_of(w);
    l2l_result r;
    bool made = l2l_evaluation_run(e, l2l_series_of(&w->attack), 0, N, w->records, NULL);
    GAVE(l2l_evaluation_add(P(0, e), l2l_series_of(P(1, &w->attack)), P(2, w->records), P(3, &r)) && made);
}

static void data_end(world *w, bool ok)
{
    GAVE(ok);
    if (w->hole != ALL) {
        CHECK(ok || w->hole == 9 || w->other.count == 0);
        if (w->hole != 9) l2l_dataset_free(&w->other);
    }
}

static void from_arrays(world *w)
{
    data_end(w, l2l_dataset_from_arrays(P(0, w->c), P(1, w->images), P(2, w->labels), N, 1, SIDE,
                                        SIDE, CLASSES, P(9, &w->other)));
}

static const unsigned char idx_images[] = {0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9};
static const unsigned char idx_labels[] = {0, 0, 8, 1, 0, 0, 0, 1, 2};
static void idx_memory(world *w)
{
    data_end(w, l2l_dataset_idx_memory(P(0, w->c), P(1, idx_images), sizeof idx_images,
                                       P(2, idx_labels), sizeof idx_labels, 3, P(9, &w->other)));
}

static void cifar_memory(world *w)
{
    static unsigned char record[3073];
    const void *files[1];
    size_t bytes[1] = {sizeof record};
    files[0] = P(3, record);
    data_end(w, cifar_from_memory(P(0, w->c), P(1, files), P(2, bytes), 1, 10,
                                  P(9, &w->other)));
}

/* .npy files: an image of 1x1x2 bytes and its label. */
static unsigned char npy_images[130], npy_labels[129];
static void npy_file(unsigned char *to, const char *head)
{
    memset(to, ' ', 128);
    memcpy(to, "\x93NUMPY\1\0\x76\0", 10);
    memcpy(to + 10, head, strlen(head));
    to[127] = '\n';
}
static void npy_files(void)
{
    npy_file(npy_images, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2), }");
    npy_file(npy_labels, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }");
    npy_images[128] = 7;
    npy_labels[128] = 2;
}
static bool read_npy(void *user, int64_t offset, void *to, size_t bytes)
{
    memcpy(to, (const char *)user + offset, bytes);
    return true;
}
static void from_sources(world *w)
{
    shards_source images[1], labels[1];
    memset(images, 0, sizeof images);
    images[0].bytes = 130;
    images[0].read_at = w->hole == ALL || w->hole == 3 ? NULL : read_npy;
    images[0].user = npy_images;
    labels[0] = images[0];
    labels[0].bytes = 129;
    labels[0].user = npy_labels;
    data_end(w, shards_from_sources(P(0, w->c), P(4, "name"), P(1, images), P(2, labels), 1, 3,
                                    P(9, &w->other)));
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n) CHECK(!"the test's own file can be written");
    if (f) fclose(f);
}
static void idx(world *w)
{
    write_file(A_PATH "1", idx_images, sizeof idx_images);
    write_file(A_PATH "2", idx_labels, sizeof idx_labels);
    data_end(w, l2l_dataset_idx(P(0, w->c), P(1, A_PATH "1"), P(2, A_PATH "2"), 3,
                                P(9, &w->other)));
    remove(A_PATH "1");
    remove(A_PATH "2");
}
static void cifar(world *w)
{
    static unsigned char record[3073];
    const char *files[1];
    write_file(A_PATH, record, sizeof record);
    files[0] = P(2, A_PATH);
    data_end(w, cifar10_from_files(P(0, w->c), P(1, files), 1, P(9, &w->other)));
}
static void shards(world *w)
{
    write_file(A_PATH "-00000-images.npy", npy_images, 130);
    write_file(A_PATH "-00000-labels.npy", npy_labels, 129);
    data_end(w, shards_from_files(P(0, w->c), P(1, A_PATH), 3, P(9, &w->other)));
    remove(A_PATH "-00000-images.npy");
    remove(A_PATH "-00000-labels.npy");
}

static void npy(world *w, bool from_file)
{
    npy_array a;
    memset(&a, 0xA5, sizeof a);
    if (from_file) write_file(A_PATH, npy_images, 130);
    GAVE(from_file ? npy_load(P(0, w->c), P(1, A_PATH), P(2, &a))
                   : npy_load_memory(P(0, w->c), P(1, npy_images), 130, P(2, &a)));
    if (w->hole != 2 && w->hole != ALL) npy_array_free(w->c, &a);
}

/* What one of the `_save_memory` functions writes into w->memory. */
#define SAVED(save, object) (w->memory ? true : save(object, &w->memory, &w->size))
#define SAVE(save, object) \
    do { \
        void *bytes_ = &w->memory; /* to tell whether it is left alone, or NULL */ \
        size_t size_ = 0; \
        bool ok_ = save(P(0, object), P(1, &bytes_), P(2, &size_)); \
        GAVE(ok_); \
        if (ok_) l2l_free(w->c, bytes_); \
    } while (0)

/* -- the list ---------------------------------------------------------------------------------- */

#define TENSOR(expression) GAVE(expression)
#define FREE(release, object) \
    do { \
        void *it_ = object; \
        release(P(0, object)); \
        if (P(0, it_)) object = NULL; \
    } while (0)
#define S l2l_shape_of
#define C P(0, w->c)
#define X P(1, w->x)
#define M P(0, model_of(w))
#define LABELS(k) P(k, w->labels)

/* Functions whose results do not tell success, or that work whatever the context's state is, are
   those of the list that do not say GAVE. */
#define FUNCTIONS(F) \
    F(l2l_options_default, l2l_options_default()) \
    F(l2l_context_create, l2l_options o = l2l_options_default(); \
      l2l_context_free(l2l_context_create(P(0, &o)))) \
    F(l2l_context_free, l2l_context_free(P(0, test_context(1)))) \
    F(l2l_error, l2l_error(C)) \
    F(l2l_error_text, CHECK(l2l_error_text(C) != NULL)) \
    F(l2l_error_clear, if (!l2l_error(w->c)) l2l_error_clear(C)) \
    F(l2l_error_set, if (w->hole != NONE) l2l_error_set(C, L2L_ERROR_FILE, P(1, "text"))) \
    F(l2l_status_name, CHECK(l2l_status_name((l2l_status)77) != NULL)) \
    F(l2l_threads, l2l_threads(C)) \
    F(l2l_set_threads, l2l_set_threads(C, 1)) \
    F(l2l_cpu, l2l_cpu(C)) \
    F(l2l_set_cpu, l2l_set_cpu(C, L2L_CPU_DETECT)) \
    F(l2l_describe, CHECK(l2l_describe(C) != NULL)) \
    F(l2l_allocate, void *p; GAVE(p = l2l_allocate(C, 8)); l2l_free(w->c, p)) \
    F(l2l_memory_used, l2l_memory_used(C)) \
    F(l2l_memory_peak, l2l_memory_peak(C)) \
    F(l2l_mark_here, l2l_mark_here(C)) \
    F(l2l_release, l2l_release(C, l2l_mark_here(w->c))) \
    F(l2l_random_bits, l2l_stream s; memset(&s, 0, sizeof s); l2l_random_bits(P(0, &s), 1)) \
    F(l2l_random_uniform, l2l_stream s; memset(&s, 0, sizeof s); l2l_random_uniform(P(0, &s), 1)) \
    F(l2l_random_normal, l2l_stream s; memset(&s, 0, sizeof s); l2l_random_normal(P(0, &s), 1)) \
    F(l2l_shape_of, l2l_shape_of(1, 2, 3, 4)) \
    F(l2l_count, l2l_count(S(1, 2, 3, 4))) \
    F(l2l_zeros, TENSOR(l2l_zeros(C, S(1, 1, 1, 1)))) \
    F(l2l_full, TENSOR(l2l_full(C, S(1, 1, 1, 1), 2))) \
    F(l2l_from_nchw, TENSOR(l2l_from_nchw(C, P(1, w->images), S(1, 2, 2, 1)))) \
    F(l2l_to_nchw, GAVE(l2l_to_nchw(C, X, P(2, w->adversarial)))) \
    F(l2l_item, GAVE(l2l_item(C, P(1, w->v)) > 0)) \
    F(l2l_drop, l2l_tensor *t = l2l_zeros(w->c, S(1, 1, 1, 1)); l2l_drop(C, P(1, t))) \
    F(l2l_recording, l2l_recording(C)) \
    F(l2l_set_recording, l2l_set_recording(C, false)) \
    F(l2l_grad, differentiate(w, false)) \
    F(l2l_vjp, differentiate(w, true)) \
    F(l2l_conv_default, l2l_conv_default()) \
    F(l2l_conv, l2l_conv_options o = l2l_conv_default(); \
      TENSOR(l2l_conv(C, X, P(2, w->w), P(3, &o)))) \
    F(l2l_conv_input_grad, \
      TENSOR(l2l_conv_input_grad(C, P(1, w->y), P(2, w->w), S(N, SIDE, SIDE, 1), 1, 1))) \
    F(l2l_conv_weight_grad, \
      TENSOR(l2l_conv_weight_grad(C, X, P(2, w->y), S(3, 3, 1, 2), 1, 1))) \
    F(l2l_linear, l2l_tensor *t = l2l_zeros(w->c, S(4, 4, 1, 2)); \
      TENSOR(l2l_linear(C, X, P(2, t), P(3, NULL)))) \
    F(l2l_add, TENSOR(l2l_add(C, X, P(2, w->x)))) \
    F(l2l_sub, TENSOR(l2l_sub(C, X, P(2, w->x)))) \
    F(l2l_mul, TENSOR(l2l_mul(C, X, P(2, w->x)))) \
    F(l2l_affine, TENSOR(l2l_affine(C, X, 2, 1))) \
    F(l2l_relu, TENSOR(l2l_relu(C, X))) \
    F(l2l_leaky_relu, TENSOR(l2l_leaky_relu(C, X, 0.1))) \
    F(l2l_tanh, TENSOR(l2l_tanh(C, X))) \
    F(l2l_sigmoid, TENSOR(l2l_sigmoid(C, X))) \
    F(l2l_exp, TENSOR(l2l_exp(C, X))) \
    F(l2l_log, TENSOR(l2l_log(C, X))) \
    F(l2l_power, TENSOR(l2l_power(C, X, 2))) \
    F(l2l_abs, TENSOR(l2l_abs(C, X))) \
    F(l2l_sign, TENSOR(l2l_sign(C, X))) \
    F(l2l_clamp, TENSOR(l2l_clamp(C, X, 0, 1))) \
    F(l2l_project, TENSOR(l2l_project(C, X, P(2, w->x), 0.1))) \
    F(l2l_detach, TENSOR(l2l_detach(C, X))) \
    F(l2l_reshape, TENSOR(l2l_reshape(C, X, S(N, 1, 1, IMAGE)))) \
    F(l2l_sum_to, TENSOR(l2l_sum_to(C, X, S(1, 1, 1, 1)))) \
    F(l2l_broadcast_to, TENSOR(l2l_broadcast_to(C, P(1, w->v), S(2, 2, 2, 2)))) \
    F(l2l_sum, TENSOR(l2l_sum(C, X))) \
    F(l2l_mean, TENSOR(l2l_mean(C, X))) \
    F(l2l_slice, TENSOR(l2l_slice(C, P(1, w->y), 1, 1))) \
    F(l2l_place, TENSOR(l2l_place(C, X, 1, 3))) \
    F(l2l_concat, l2l_tensor *t[2]; t[0] = P(2, w->x); t[1] = P(3, w->y); \
      TENSOR(l2l_concat(C, P(1, t), 2))) \
    F(l2l_max_pool, TENSOR(l2l_max_pool(C, X, 2, 2, 0))) \
    F(l2l_average_pool, TENSOR(l2l_average_pool(C, X, 2, 2, 0))) \
    F(l2l_global_average_pool, TENSOR(l2l_global_average_pool(C, X))) \
    F(l2l_batch_norm_default, l2l_batch_norm_default()) \
    F(l2l_batch_norm, l2l_batch_norm_options o = norm_options(w); \
      TENSOR(l2l_batch_norm(C, X, P(2, &o)))) \
    F(l2l_dropout, l2l_stream s; uint32_t i[N] = {0}; memset(&s, 0, sizeof s); \
      TENSOR(l2l_dropout(C, X, 0.5, P(2, &s), P(3, i)))) \
    F(l2l_softmax, TENSOR(l2l_softmax(C, P(1, w->z)))) \
    F(l2l_log_softmax, TENSOR(l2l_log_softmax(C, P(1, w->z)))) \
    F(l2l_pick, TENSOR(l2l_pick(C, P(1, w->z), LABELS(2)))) \
    F(l2l_unpick, TENSOR(l2l_unpick(C, P(1, w->ones), LABELS(2), CLASSES))) \
    F(l2l_cross_entropy, TENSOR(l2l_cross_entropy(C, P(1, w->z), LABELS(2)))) \
    F(l2l_kl_divergence, TENSOR(l2l_kl_divergence(C, P(1, w->z), P(2, w->z)))) \
    F(l2l_margin, TENSOR(l2l_margin(C, P(1, w->z), LABELS(2)))) \
    F(l2l_predict, int k[N]; GAVE(l2l_predict(C, P(1, w->z), P(2, k)))) \
    F(l2l_model_default, l2l_model_default(P(0, "smallcnn"))) \
    F(l2l_model_create, create(w)) \
    F(l2l_model_clone, GAVE(w->made = l2l_model_clone(C, P(1, model_of(w))))) \
    F(l2l_model_copy, GAVE(l2l_model_copy(M, P(1, model_of(w))))) \
    F(l2l_model_free, model_of(w); FREE(l2l_model_free, w->model)) \
    F(l2l_model_info, l2l_model_info(M)) \
    F(l2l_layer_conv, \
      TENSOR(l2l_layer_conv(M, P(1, "conv"), P(2, w->x), 2, 3, 1, 1, L2L_RELU))) \
    F(l2l_layer_linear, TENSOR(l2l_layer_linear(M, P(1, "fc"), P(2, w->y), CLASSES, L2L_LAST))) \
    F(l2l_layer_batch_norm, TENSOR(l2l_layer_batch_norm(M, P(1, "bn"), P(2, w->y), 0))) \
    F(l2l_unit_default, l2l_unit_default(2, 3)) \
    F(l2l_layer_unit, l2l_unit u = l2l_unit_default(2, 3); \
      TENSOR(l2l_layer_unit(M, P(1, "unit"), P(2, w->y), P(3, &u)))) \
    F(l2l_layer_parameter, model_of(w); \
      TENSOR(l2l_layer_parameter(M, P(1, "conv.weight"), S(3, 3, 1, 2), 4, true, 0, 0))) \
    F(l2l_model_scope, l2l_model_scope(M, P(1, "scope."))) \
    F(l2l_layer_dropout, TENSOR(l2l_layer_dropout(M, P(1, w->x), 0.0))) \
    F(l2l_model_context, l2l_model_context(M)) \
    F(l2l_model_mode, l2l_model_mode(M)) \
    F(l2l_model_mode_matters, l2l_model_mode_matters(M)) \
    F(l2l_model_forward, TENSOR(l2l_model_forward(M, P(1, w->x), L2L_EVALUATE))) \
    F(l2l_model_pass, l2l_model_pass(M)) \
    F(l2l_model_run, l2l_pass p = l2l_model_pass(model_of(w)); \
      TENSOR(l2l_model_run(M, P(1, w->x), P(2, &p)))) \
    F(l2l_model_logits, GAVE(l2l_model_logits(M, P(1, w->images), N, P(2, w->logits)))) \
    F(l2l_model_gradient, \
      GAVE(l2l_model_gradient(M, P(1, w->images), LABELS(2), N, w->logits, w->adversarial))) \
    F(l2l_model_parameters, l2l_model_parameters(M)) \
    F(l2l_model_parameter, l2l_model_parameter(M, 0)) \
    F(l2l_model_size, l2l_model_size(M)) \
    F(l2l_parameter_get, GAVE(l2l_parameter_get(M, 0, P(1, w->many)))) \
    F(l2l_parameter_set, GAVE(l2l_parameter_set(M, 0, P(1, w->many)))) \
    F(l2l_parameter_to_file, l2l_tensor *x = l2l_model_parameter(model_of(w), 0).value; \
      GAVE(l2l_parameter_to_file(M, 0, P(1, x), P(2, w->many)))) \
    F(l2l_model_changed, l2l_model_changed(M)) \
    F(l2l_model_summary, char text[64]; l2l_model_summary(M, P(1, text), sizeof text)) \
    F(l2l_model_memory, GAVE(l2l_model_memory(M, 1, L2L_TRAIN))) \
    F(l2l_model_external, external(w)) \
    F(l2l_sgd_default, l2l_sgd_default()) \
    F(l2l_adam_default, l2l_adam_default()) \
    F(l2l_schedule_default, l2l_schedule_default()) \
    F(l2l_schedule_factor, l2l_schedule s = l2l_schedule_default(); \
      l2l_schedule_factor(P(0, &s), 1, 2)) \
    F(l2l_optimizer_create, optimizer_create(w)) \
    F(l2l_optimizer_step, optimizer_step(w)) \
    F(l2l_optimizer_pack, double v[32]; l2l_optimizer_pack(P(0, optimizer_of(w)), P(1, v))) \
    F(l2l_optimizer_unpack, optimizer_unpack(w)) \
    F(l2l_optimizer_free, optimizer_of(w); FREE(l2l_optimizer_free, w->optimizer)) \
    F(l2l_objective_cross_entropy, l2l_objective_cross_entropy()) \
    F(l2l_objective_kl, l2l_objective_kl()) \
    F(l2l_objective_margin, l2l_objective_margin()) \
    F(l2l_objective_dlr, l2l_objective_dlr()) \
    F(l2l_maximizer_none, l2l_maximizer_none()) \
    F(l2l_maximizer_sign, l2l_maximizer_sign()) \
    F(l2l_maximizer_gradient, l2l_maximizer_gradient()) \
    F(l2l_maximizer_momentum, l2l_maximizer_momentum(1)) \
    F(l2l_look, spied(w, true)) \
    F(l2l_search_attack, l2l_search_attack(P(0, "own"), 0.1, L2L_LINF, 1, P(1, &spot_search))) \
    F(l2l_spot_of, searched(w, 0)) \
    F(l2l_spot_init, searched(w, 1)) \
    F(l2l_spot_keep, searched(w, 2)) \
    F(l2l_spot_keep_nearest, searched(w, 3)) \
    F(l2l_spot_end, searched(w, 4)) \
    F(l2l_finite_images, searched(w, 5)) \
    F(l2l_norm2, l2l_norm2(P(0, w->images), P(1, w->adversarial), IMAGE)) \
    F(l2l_outer_cross_entropy, l2l_outer_cross_entropy()) \
    F(l2l_outer_trades, l2l_outer_trades(6)) \
    F(l2l_outer_predicted, GAVE(l2l_outer_predicted(M, P(1, w->labels), N))) \
    F(l2l_attack_fgsm, l2l_attack_fgsm(0.1)) \
    F(l2l_attack_ifgsm, l2l_attack_ifgsm(0.1)) \
    F(l2l_attack_pgd, l2l_attack_pgd(0.1)) \
    F(l2l_attack_pgd_l2, l2l_attack_pgd_l2(0.1)) \
    F(l2l_attack_mim, l2l_attack_mim(0.1)) \
    F(l2l_attack_cw_pgd, l2l_attack_cw_pgd(0.1)) \
    F(l2l_attack_square, l2l_attack_square(0.1)) \
    F(l2l_attack_apgd, l2l_attack_apgd(0.1)) \
    F(l2l_attack_apgd_dlr, l2l_attack_apgd_dlr(0.1)) \
    F(l2l_attack_apgd_t, l2l_attack_apgd_t(0.1)) \
    F(l2l_attack_fab_t, l2l_attack_fab_t(0.1)) \
    F(l2l_attack_autoattack, l2l_attack_autoattack(0.1)) \
    F(l2l_attack_run, GAVE(l2l_attack_run(M, P(1, &w->attack), P(2, w->images), LABELS(3), N, \
                                          P(4, w->adversarial), P(5, w->records)))) \
    F(l2l_attack_worst, GAVE(l2l_attack_worst(M, P(1, &w->attack), 1, P(2, w->images), LABELS(3), \
                                              N, P(4, w->adversarial), P(5, w->records)))) \
    F(l2l_learned_default, l2l_learned_default()) \
    F(l2l_learned_create, learned_create(w)) \
    F(l2l_learned_free, phi_of(w); FREE(l2l_learned_free, w->phi)) \
    F(l2l_learned_info, l2l_learned_info(P(0, phi_of(w)))) \
    F(l2l_learned_size, l2l_learned_size(P(0, phi_of(w)))) \
    F(l2l_learned_trained_with, int T; double epsilon; \
      l2l_learned_trained_with(P(0, phi_of(w)), P(1, &T), P(2, &epsilon))) \
    F(l2l_learned_parameters, l2l_learned_parameters(P(0, phi_of(w)))) \
    F(l2l_learned_maximizer, l2l_learned_maximizer(P(0, phi_of(w)))) \
    F(l2l_attack_learned, l2l_attack a = l2l_attack_learned(P(0, phi_of(w)), 0.1, 2); \
      GAVE(l2l_attack_run(model_of(w), &a, w->images, w->labels, N, w->adversarial, \
                          w->records))) \
    F(l2l_learned_gradient, spied(w, false)) \
    F(l2lda_default, l2lda_default()) \
    F(l2lda_create, generator_create(w)) \
    F(l2lda_free, generator_of(w); FREE(l2lda_free, w->generator)) \
    F(l2lda_info, l2lda_info(P(0, generator_of(w)))) \
    F(l2lda_size, l2lda_size(P(0, generator_of(w)))) \
    F(l2lda_network, l2lda_network(P(0, generator_of(w)))) \
    F(l2lda_maximizer, l2lda_maximizer(P(0, generator_of(w)))) \
    F(l2lda_attack, l2l_attack a = l2lda_attack(P(0, generator_of(w)), 0.1); \
      GAVE(l2l_attack_run(model_of(w), &a, w->images, w->labels, N, w->adversarial, \
                          w->records))) \
    F(l2l_dataset_from_arrays, from_arrays(w)) \
    F(l2l_dataset_free, l2l_dataset_free(P(0, data_of(w)))) \
    F(l2l_dataset_read, \
      GAVE(l2l_dataset_read(P(0, data_of(w)), 0, N, P(1, w->adversarial), LABELS(2)))) \
    F(l2l_method_plain, l2l_method_plain()) \
    F(l2l_method_advtrain, l2l_method_advtrain()) \
    F(l2l_method_trades, l2l_method_trades(6)) \
    F(l2l_method_rnn_adv, METHOD(l2l_method_rnn_adv(P(0, phi_of(w))))) \
    F(l2l_method_rnn_trades, METHOD(l2l_method_rnn_trades(P(0, phi_of(w)), 6))) \
    F(l2lda_method, METHOD(l2lda_method(P(0, generator_of(w))))) \
    F(l2l_train_default, l2l_train_default()) \
    F(l2l_trainer_create, trainer_create(w)) \
    F(l2l_trainer_free, trainer_of(w); FREE(l2l_trainer_free, w->trainer)) \
    F(l2l_train, GAVE(l2l_train(P(0, trainer_of(w))))) \
    F(l2l_train_step, l2l_progress p; GAVE(l2l_train_step(P(0, trainer_of(w)), P(1, w->images), \
                                                          LABELS(2), N, P(3, &p)))) \
    F(l2l_trainer_best, GAVE(w->made = l2l_trainer_best(P(0, trainer_of(w))))) \
    F(l2l_trainer_averaged, GAVE(w->made = l2l_trainer_averaged(P(0, trainer_of(w))))) \
    F(l2l_trainer_save, GAVE(l2l_trainer_save(P(0, trainer_of(w)), P(1, A_PATH)))) \
    F(l2l_trainer_resume, trainer_resume(w)) \
    F(l2l_trainer_note, l2l_trainer_note(P(0, trainer_of(w)))) \
    F(l2l_evaluation_default, l2l_evaluation_default()) \
    F(l2l_evaluation_begin, evaluation_begin(w)) \
    F(l2l_evaluation_run, \
      GAVE(l2l_evaluation_run(P(0, evaluation_of(w)), l2l_series_of(P(1, &w->attack)), 0, 1, \
                              P(2, w->records), P(3, w->adversarial)))) \
    F(l2l_evaluation_add, evaluation_add(w)) \
    F(l2l_evaluation_attack, l2l_result r; \
      GAVE(l2l_evaluation_attack(P(0, evaluation_of(w)), P(1, &w->attack), P(2, &r), \
                                 P(3, w->records), P(4, w->adversarial)))) \
    F(l2l_series_of, l2l_series_of(P(0, &w->attack))) \
    F(l2l_evaluation_series, l2l_result r; \
      GAVE(l2l_evaluation_series(P(0, evaluation_of(w)), l2l_series_of(P(1, &w->attack)), P(2, &r), \
                                 P(3, w->records), P(4, w->adversarial)))) \
    F(l2l_evaluation_warnings, char text[64]; \
      l2l_evaluation_warnings(P(0, evaluation_of(w)), P(1, text), sizeof text)) \
    F(l2l_evaluation_end, l2l_evaluation_end(P(0, evaluation_of(w)))) \
    F(l2l_evaluate, GAVE(l2l_evaluate(P(0, model_of(w)), P(1, &w->attack), 1, P(2, data_of(w)), 0, N, \
                                      P(3, w->adversarial), P(4, w->records)))) \
    F(l2l_accuracy, l2l_accuracy(P(0, model_of(w)), P(1, data_of(w)), 0, P(2, &w->attack))) \
    F(l2l_dataset_idx_memory, idx_memory(w)) \
    F(cifar_from_memory, cifar_memory(w)) \
    F(shards_from_sources, from_sources(w)) \
    F(l2l_model_load_memory, int extra; bool saved = SAVED(l2l_model_save_memory, model_of(w)); \
      GAVE(l2l_model_load_memory(M, P(1, w->memory), w->size, P(2, &extra)) && saved)) \
    F(l2l_model_save_memory, SAVE(l2l_model_save_memory, model_of(w))) \
    F(l2l_learned_load_memory, bool saved = SAVED(l2l_learned_save_memory, phi_of(w)); \
      GAVE(l2l_learned_load_memory(P(0, phi_of(w)), P(1, w->memory), w->size) && saved)) \
    F(l2l_learned_save_memory, SAVE(l2l_learned_save_memory, phi_of(w))) \
    F(l2lda_load_memory, bool saved = SAVED(l2lda_save_memory, generator_of(w)); \
      GAVE(l2lda_load_memory(P(0, generator_of(w)), P(1, w->memory), w->size) && saved)) \
    F(l2lda_save_memory, SAVE(l2lda_save_memory, generator_of(w))) \
    F(l2l_free, SAVED(l2l_model_save_memory, model_of(w)); \
      if (w->c) l2l_free(P(1, w->c), P(0, w->memory)); \
      if (!at_hole(w, 0) && !at_hole(w, 1)) w->memory = NULL) \
    F(npy_load_memory, npy(w, false)) \
    F(npy_array_free, npy_array a; memset(&a, 0, sizeof a); npy_array_free(C, P(1, &a))) \
    F(npy_header, npy_info h; \
      GAVE(npy_header(C, P(1, "name"), P(2, npy_images), 130, 130, P(3, &h)))) \
    F(l2l_dataset_idx, idx(w)) \
    F(cifar10_from_files, cifar(w)) \
    F(shards_from_files, shards(w)) \
    F(l2l_model_load, int extra; bool saved = l2l_model_save(model_of(w), A_PATH); \
      GAVE(l2l_model_load(M, P(1, A_PATH), P(2, &extra)) && saved)) \
    F(l2l_model_save, GAVE(l2l_model_save(M, P(1, A_PATH)))) \
    F(l2l_learned_load, bool saved = l2l_learned_save(phi_of(w), A_PATH); \
      GAVE(l2l_learned_load(P(0, phi_of(w)), P(1, A_PATH)) && saved)) \
    F(l2l_learned_save, GAVE(l2l_learned_save(P(0, phi_of(w)), P(1, A_PATH)))) \
    F(l2lda_load, bool saved = l2lda_save(generator_of(w), A_PATH); \
      GAVE(l2lda_load(P(0, generator_of(w)), P(1, A_PATH)) && saved)) \
    F(l2lda_save, GAVE(l2lda_save(P(0, generator_of(w)), P(1, A_PATH)))) \
    F(l2l_model_open, l2l_model_options o = l2l_model_default("smallcnn"); l2l_model *m; \
      o.width_multiplier = 0.25; m = l2l_model_create(w->c, &o); l2l_model_save(m, A_PATH); \
      l2l_model_free(m); GAVE(w->made = l2l_model_open(C, P(1, A_PATH)))) \
    F(l2l_model_open_as, open_as(w)) \
    F(l2l_learned_open, l2l_learned *m; l2l_learned_save(phi_of(w), A_PATH); \
      GAVE(m = l2l_learned_open(C, P(1, A_PATH))); l2l_learned_free(m)) \
    F(l2lda_open, l2lda *m; l2lda_save(generator_of(w), A_PATH); \
      GAVE(m = l2lda_open(C, P(1, A_PATH))); l2lda_free(m)) \
    F(npy_load, npy(w, true)) \
    F(l2l_save_bytes, GAVE(l2l_save_bytes(C, P(1, A_PATH), P(2, npy_images), 130))) \
    F(l2l_save_with_head, \
      GAVE(l2l_save_with_head(C, P(1, A_PATH), P(2, npy_images), 130, P(3, npy_labels), 129))) \
    F(l2l_load_bytes, void *bytes = w; size_t size; write_file(A_PATH, npy_images, 130); \
      GAVE(l2l_load_bytes(C, P(1, A_PATH), 9, P(2, &bytes), P(3, &size))); \
      if (w->hole != 2 && w->hole != ALL) l2l_free(w->c, bytes)) \
    F(npy_save_reals, int64_t s[2] = {2, 3}; \
      GAVE(npy_save_reals(C, P(1, A_PATH), P(2, w->many), P(3, s), 2))) \
    F(npy_save_integers, int64_t s[2] = {1, 2}; \
      GAVE(npy_save_integers(C, P(1, A_PATH), P(2, s), P(3, s), 2)))

/* A method is used by a training step. */
static void use_method(world *w, l2l_method method)
{
    l2l_train_options o = train_options();
    l2l_trainer *t;
    o.method = method;
    t = l2l_trainer_create(model_of(w), data_of(w), &o);
    GAVE(l2l_train_step(t, w->images, w->labels, N, NULL));
    l2l_trainer_free(t);
}
#define METHOD(method) use_method(w, method)

#define CALL(name, ...) static void call_##name(world *w) { (void)w; __VA_ARGS__; }
FUNCTIONS(CALL)

static const struct {
    const char *name;
    void (*run)(world *w);
} calls[] = {
#define ENTRY(name, ...) {#name, call_##name},
FUNCTIONS(ENTRY)
};

/* -- the claims -------------------------------------------------------------------------------- */

static const char *only;         /* the function of the command line, or NULL                       */

/* Runs `check` for every function, naming the one that complains. */
static void for_all(void (*check)(world *w, int k))
{
    for (int k = 0; k < COUNT(calls); k++) {
        static world w;
        int before = test_complaints;
        if (only && strcmp(only, calls[k].name)) continue;
        if (only) { printf("%s\n", calls[k].name); fflush(stdout); }
        check(&w, k);
        if (test_complaints > before) printf("    ... in a call of %s\n", calls[k].name);
    }
}

/* The context works. */
static void works(world *w)
{
    CHECK_NEAR(0.1, l2l_item(w->c, l2l_sum(w->c, w->v)), 1e-6);
    CHECK_OK(w->c);
}

static void valid(world *w, int k)
{
    begin(w, false);
    calls[k].run(w);
    if (w->tells) CHECK(w->gave);
    CHECK_OK(w->c);
    works(w);
    end(w);
}
static void all_valid(void) { for_all(valid); }

static void one_null(world *w, int k)
{
    for (int hole = 0; hole < 10; hole++) {
        int before = test_complaints;
        begin(w, false);
        w->hole = hole;
        calls[k].run(w);
        w->hole = NONE;
        if (w->tells && hole > 0) {          /* number 0 leads to the context                       */
            CHECK(w->gave == (l2l_error(w->c) == L2L_OK));
            CHECK(w->gave || strlen(l2l_error_text(w->c)) > 8);
        }
        l2l_error_clear(w->c);
        works(w);
        end(w);
        if (test_complaints > before) printf("    pointer %d\n", hole);
    }
}
static void each_null(void) { for_all(one_null); }

static void no_handle(world *w, int k)
{
    begin(w, false);
    w->hole = 0;
    calls[k].run(w);
    CHECK(!w->tells || !w->gave);
    w->hole = NONE;
    l2l_error_clear(w->c);
    end(w);
}
static void handles_null(void) { for_all(no_handle); }

static void everything_null(world *w, int k)
{
    begin(w, false);
    w->hole = ALL;
    calls[k].run(w);
    CHECK(!w->tells || !w->gave);
    w->hole = NONE;
    l2l_error_clear(w->c);
    works(w);
    end(w);
}
static void all_null(void) { for_all(everything_null); }

static void late_error(world *w, int k)
{
    begin(w, false);
    begin_all(w);
    CHECK_OK(w->c);
    l2l_error_set(w->c, L2L_ERROR_FILE, "the first error");
    calls[k].run(w);
    CHECK(!w->tells || !w->gave);
    CHECK_TEXT("the first error", l2l_error_text(w->c));
    l2l_error_clear(w->c);
    works(w);
    end(w);
}
static void after_an_error(void) { for_all(late_error); }

static void early_error(world *w, int k)
{
    for (int clear = 0; clear < 2; clear++) {
        begin(w, true);
        begin_all(w);
        CHECK(!w->model && !w->phi && !w->generator && !w->trainer && !w->optimizer && !w->x);
        CHECK_INT(0, w->data.count);
        CHECK_INT(0, w->evaluation.images);
        if (clear) l2l_error_clear(w->c);
        calls[k].run(w);
        if (!clear) CHECK(!w->tells || !w->gave);
        if (!clear) CHECK_TEXT("the first error", l2l_error_text(w->c));
        if (clear && w->tells) CHECK(w->gave == (l2l_error(w->c) == L2L_OK) || !l2l_error(w->c));
        l2l_error_clear(w->c);
        end(w);
    }
}
static void failed_objects(void) { for_all(early_error); }

/* What was never made: structs of zeros, as globals are. */
static void zeroed_structs(void)
{
    static l2l_dataset d;
    static l2l_evaluation e;
    l2l_result r;
    l2l_real x[IMAGE];
    l2l_attack a = l2l_attack_pgd(0.1);
    int y;
    CHECK(!l2l_dataset_read(&d, 0, 1, x, &y));
    CHECK(!l2l_evaluation_attack(&e, &a, &r, NULL, NULL));
    CHECK_INT(0, l2l_evaluation_warnings(&e, NULL, 0));
    l2l_dataset_free(&d);
    l2l_evaluation_end(&e);
}

int main(int argc, char **argv)
{
    npy_files();
    only = argc > 1 ? argv[1] : NULL;
    RUN(all_valid, "each public function does its work in a small world");
    RUN(handles_null, "a function whose context or object is NULL returns NULL, false or 0");
    RUN(each_null, "any pointer may be NULL: it is left out, or there is an error that says so");
    RUN(all_null, "all pointers may be NULL at once");
    RUN(after_an_error, "after an error every function returns at once and the text stays");
    RUN(failed_objects, "what failed constructors leave can be handed to every function");
    RUN(zeroed_structs, "data sets and evaluations of zeros, never made, are refused");
    return test_end();
}
