/* Feeds broken files to every loader, and uses what was loaded: logits and a step of an attack, a
   step of a resumed training, an evaluation that goes on. No more than 512 MiB are to be had.

   With libFuzzer:  clang -g -O1 -fsanitize=fuzzer,address,undefined fuzz_files.c -lm
   Without:         cc -g -O1 -fsanitize=address,undefined -DFUZZ_MAIN fuzz_files.c -lm
                    ./a.out [rounds [seed]]      mutates files that it writes itself
                    ./a.out --seeds FOLDER       writes files for libFuzzer to begin with
                    ./a.out file...              runs inputs kept from earlier

   The first byte of an input chooses the loader; for data sets two more give the length of the
   labels, or of the first file. */
#define _POSIX_C_SOURCE 200809L
#define L2LADV_IMPLEMENTATION
#include "../examples/shards.h"
#include "../examples/cifar.h"
#include "../examples/evaluation_state.h"
#include "../examples/l2lda.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MODEL, LEARNED, OPEN_MODEL, OPEN_LEARNED, OPEN_GENERATOR, CHECKPOINT, /* tensors */
       STATE, NPY, IDX, CIFAR10, SHARDS, LOADERS };
enum { CLASSES = 3 };

static void check(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "fuzz_files: %s\n", what);
    abort();
}

static l2l_tensor *forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "conv", x, 4, 3, 1, 1, L2L_NO_BIAS);
    x = l2l_layer_batch_norm(m, "norm", x, L2L_RELU);
    return l2l_layer_linear(m, "fc", x, CLASSES, L2L_LAST);
}

enum { BLOCK = 64 };
static size_t in_use;
static void *limited(void *user, size_t size)
{
    const size_t most = (size_t)512 << 20;
    char *p;
    (void)user;
    if (size > most || in_use > most - size || !(p = (char *)malloc(size + BLOCK))) return NULL;
    memcpy(p, &size, sizeof size);
    in_use += size;
    return p + BLOCK;
}
static void given_back(void *user, void *memory)
{
    size_t size;
    (void)user;
    memcpy(&size, (char *)memory - BLOCK, sizeof size);
    in_use -= size;
    free((char *)memory - BLOCK);
}

static l2l_context *context(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c;
    o.threads = 1;
    o.allocator.allocate = limited;
    o.allocator.release = given_back;
    c = l2l_context_create(&o);
    check(c != NULL, "no context");
    return c;
}

static l2l_model *make_model(l2l_context *c)
{
    l2l_model_options o = l2l_model_default("fuzz");
    l2l_model *m;
    o.forward = forward;
    o.channels = 2;
    o.height = o.width = 4;
    o.classes = CLASSES;
    o.normalise = 2;
    o.mean[0] = 0.5;
    o.mean[1] = 0.25;
    o.deviation[0] = o.deviation[1] = 0.2;
    m = l2l_model_create(c, &o);
    check(m != NULL, l2l_error_text(c));
    return m;
}

static l2l_learned *make_learned(l2l_context *c)
{
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *m;
    o.hidden = 3;
    m = l2l_learned_create(c, &o);
    check(m != NULL, l2l_error_text(c));
    return m;
}

/* A load that failed leaves an error with a text, one that did not leaves none. */
static bool settled(l2l_context *c, bool ok)
{
    check(ok == (l2l_error(c) == L2L_OK), "a result that does not agree with the error");
    check(ok || *l2l_error_text(c), "an error without a text");
    l2l_error_clear(c);
    return ok;
}

static bool all_finite(const l2l_real *x, int64_t n)
{
    int64_t i;
    for (i = 0; i < n; i++)
        if (!(x[i] - x[i] == 0)) return false;
    return true;
}

/* The parameters of a model one after the other; to be freed. */
static l2l_real *values_of(const l2l_model *m, int64_t *count)
{
    l2l_real *all;
    int64_t at = 0;
    int i, n = l2l_model_parameters(m);
    for (*count = 0, i = 0; i < n; i++) *count += l2l_count(l2l_model_parameter(m, i).value->shape);
    all = (l2l_real *)malloc((size_t)*count * sizeof *all);
    check(all != NULL, "no memory");
    for (i = 0; i < n; i++) {
        check(l2l_parameter_get(m, i, all + at), "a parameter cannot be read");
        at += l2l_count(l2l_model_parameter(m, i).value->shape);
    }
    return all;
}

static bool try_model(l2l_context *c, const uint8_t *data, size_t size)
{
    l2l_model *m = make_model(c);
    int64_t n;
    l2l_real *before = values_of(m, &n), *after;
    int extra = -1;
    bool ok = settled(c, l2l_model_load_memory(m, data, size, &extra));
    after = values_of(m, &n);
    if (ok) {
        void *saved = NULL;
        size_t bytes = 0;
        check(extra >= 0 && all_finite(after, n), "a loaded model is not finite");
        check(l2l_model_save_memory(m, &saved, &bytes) &&
              l2l_model_load_memory(m, saved, bytes, &extra) && extra == 0,
              "a model that was saved does not load");
        l2l_free(c, saved);
    } else {
        check(!memcmp(before, after, (size_t)n * sizeof *after), "a failed load touched the model");
    }
    free(before);
    free(after);
    l2l_model_free(m);
    return ok;
}

static bool try_learned(l2l_context *c, const uint8_t *data, size_t size)
{
    l2l_learned *m = make_learned(c);
    int n = l2l_learned_size(m);
    size_t bytes = (size_t)n * sizeof(l2l_real);
    void *before = malloc(bytes);
    bool ok;
    check(before != NULL, "no memory");
    memcpy(before, l2l_learned_parameters(m), bytes);
    ok = settled(c, l2l_learned_load_memory(m, data, size));
    if (ok) {
        void *saved = NULL;
        check(all_finite(l2l_learned_parameters(m), n), "a loaded maximizer is not finite");
        check(l2l_learned_save_memory(m, &saved, &bytes) &&
                  l2l_learned_load_memory(m, saved, bytes),
              "a maximizer that was saved does not load");
        l2l_free(c, saved);
    } else {
        check(!memcmp(before, l2l_learned_parameters(m), bytes), "a failed load touched phi");
    }
    free(before);
    l2l_learned_free(m);
    return ok;
}

static bool try_npy(l2l_context *c, const uint8_t *data, size_t size)
{
    npy_array a;
    int64_t i, product = 1;
    double sum = 0;
    memset(&a, 0x55, sizeof a);
    if (!settled(c, npy_load_memory(c, data, size, &a))) return false;
    check(a.rank >= 0 && a.rank <= 8, "an array's rank");
    for (i = 0; i < a.rank; i++) product *= a.shape[i];
    check(product == a.count, "an array's count");
    for (i = 0; i < a.count; i++) sum += a.integer ? (double)a.integers[i] : (double)a.reals[i];
    check(sum <= 0 || sum > 0 || sum - sum != 0, "an array's sum");
    npy_array_free(c, &a);
    return true;
}

/* -- what takes a path, and its use ------------------------------------------------------------- */

static char path[64];                        /* in the folder that the fuzzer runs in             */
static void write_path(const uint8_t *data, size_t size)
{
    FILE *f;
    if (!*path) snprintf(path, sizeof path, "fuzz-%ld.tmp", (long)getpid());
    f = fopen(path, "wb");
    check(f && fwrite(data, 1, size, f) == size && !fclose(f), "cannot write the file");
}

/* What was loaded may have any numbers: its use may fail, with an error that is one. */
static void may_fail(l2l_context *c, bool ok)
{
    check(ok == (l2l_error(c) == L2L_OK), "a use that does not agree with the error");
    check(ok || *l2l_error_text(c), "an error without a text");
    l2l_error_clear(c);
}

static void use_model(l2l_context *c, l2l_model *m, l2l_attack a)
{
    const l2l_model_options *o = l2l_model_info(m);
    int64_t n = (int64_t)o->channels * o->height * o->width, i;
    l2l_real *x, *adversarial, *z;
    l2l_record record;
    int label = o->classes - 1;
    if (n > 1 << 12) return;                 /* runs for long, and may                            */
    x = (l2l_real *)malloc((size_t)n * sizeof *x);
    adversarial = (l2l_real *)malloc((size_t)n * sizeof *x);
    z = (l2l_real *)malloc((size_t)o->classes * sizeof *z);
    check(x && adversarial && z, "no memory");
    for (i = 0; i < n; i++) x[i] = (l2l_real)(i % 7) / 8;
    may_fail(c, l2l_model_logits(m, x, 1, z));
    a.steps = 1;
    may_fail(c, l2l_attack_run(m, &a, x, &label, 1, adversarial, &record));
    free(x);
    free(adversarial);
    free(z);
}

static size_t allowed;                       /* memory that opening may have taken                */
static void cheap(const l2l_context *c)
{
    check(l2l_memory_peak(c) < allowed, "opening took far more memory than the file has");
}

static bool try_open_model(l2l_context *c, const uint8_t *data, size_t size)
{
    l2l_model *m, *clone;
    write_path(data, size);
    m = l2l_model_open(c, path);
    cheap(c);
    if (!settled(c, m != NULL)) return false;
    use_model(c, m, l2l_attack_pgd(0.1));
    clone = l2l_model_clone(c, m);
    check(clone != NULL, l2l_error_text(c));
    check(l2l_model_save(clone, path), l2l_error_text(c));
    l2l_model_free(clone);
    clone = l2l_model_open(c, path);
    check(clone != NULL, l2l_error_text(c));
    l2l_model_free(clone);
    l2l_model_free(m);
    return true;
}

static bool try_open_learned(l2l_context *c, const uint8_t *data, size_t size)
{
    l2l_learned *phi;
    l2l_model *m;
    write_path(data, size);
    phi = l2l_learned_open(c, path);
    cheap(c);
    if (!settled(c, phi != NULL)) return false;
    m = make_model(c);
    use_model(c, m, l2l_attack_learned(phi, 0.1, 1));
    check(l2l_learned_save(phi, path), l2l_error_text(c));
    l2l_learned_free(phi);
    phi = l2l_learned_open(c, path);
    check(phi != NULL, l2l_error_text(c));
    l2l_learned_free(phi);
    l2l_model_free(m);
    return true;
}

static bool try_open_generator(l2l_context *c, const uint8_t *data, size_t size)
{
    const l2lda_options *o;
    l2lda *g;
    l2l_model *m;
    write_path(data, size);
    g = l2lda_open(c, path);
    cheap(c);
    if (!settled(c, g != NULL)) return false;
    m = make_model(c);
    o = l2lda_info(g);
    if (o->channels == 2 && o->height == 4 && o->width == 4 && o->classes == CLASSES)
        use_model(c, m, l2lda_attack(g, 0.1));
    l2l_model_free(m);
    l2lda_free(g);
    return true;
}

enum { IMAGES = 4, PIXELS = 2 * 4 * 4 };
static l2l_real images[IMAGES * PIXELS];
static const int labels[IMAGES] = {0, 1, 2, 0};
static void make_data(l2l_context *c, l2l_dataset *d)
{
    int i;
    for (i = 0; i < IMAGES * PIXELS; i++) images[i] = (l2l_real)(i % 11) / 16;
    check(l2l_dataset_from_arrays(c, images, labels, IMAGES, 2, 4, 4, CLASSES, d),
          l2l_error_text(c));
}

static l2l_trainer *make_trainer(l2l_model *m, l2l_learned *phi, const l2l_dataset *d)
{
    l2l_train_options t = l2l_train_default();
    l2l_trainer *trainer;
    t.method = l2l_method_rnn_adv(phi);
    t.epochs = 2;
    t.batch = 2;
    t.T = 2;
    t.validation = 2;
    trainer = l2l_trainer_create(m, d, &t);
    check(trainer != NULL, l2l_error_text(l2l_model_context(m)));
    return trainer;
}

static bool try_checkpoint(l2l_context *c, const uint8_t *data, size_t size)
{
    l2l_model *m = make_model(c);
    l2l_learned *phi = make_learned(c);
    l2l_dataset d;
    l2l_trainer *t;
    l2l_progress p;
    int64_t n;
    l2l_real *before = values_of(m, &n), *after;
    bool ok;
    make_data(c, &d);
    t = make_trainer(m, phi, &d);
    write_path(data, size);
    ok = settled(c, l2l_trainer_resume(t, path));
    after = values_of(m, &n);
    check(ok || !memcmp(before, after, (size_t)n * sizeof *after), "a failed resume touched theta");
    if (ok) may_fail(c, l2l_train_step(t, images, labels, 2, &p));
    if (ok) may_fail(c, l2l_train(t));
    free(before);
    free(after);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2l_learned_free(phi);
    l2l_model_free(m);
    return ok;
}

static bool evaluate(l2l_context *c, l2l_model *m)
{
    l2l_evaluation_options o = l2l_evaluation_default();
    l2l_evaluation e;
    evaluation_state s = {0};
    l2l_dataset d;
    l2l_result result;
    l2l_attack a = l2l_attack_pgd(0.1);
    bool ok;
    make_data(c, &d);
    o.batch = 2;
    a.steps = 1;
    ok = l2l_evaluation_begin(m, &d, &o, &e) && evaluation_state_open(&s, &e, path) &&
         evaluation_state_attack(&s, &a, &result, NULL, NULL);
    evaluation_state_close(&s);
    l2l_evaluation_end(&e);
    l2l_dataset_free(&d);
    return ok;
}

/* With the digest that the file shall end with, or only what refuses a damaged one would be seen. */
static void write_state(const uint8_t *data, size_t size)
{
    static char text[(1 << 16) + 100];
    size_t end = size > 5 ? size - 5 : 0;
    while (end > 0 && memcmp(data + end, "end: ", 5)) end--;
    if (!end || end > sizeof text - 100) {
        write_path(data, size);
        return;
    }
    memcpy(text, data, end);
    size = end + (size_t)sprintf(text + end, "end: %s\n", es_digest_of(text, end).text);
    write_path((const uint8_t *)text, size);
}

static bool try_state(l2l_context *c, const uint8_t *data, size_t size)
{
    l2l_model *m = make_model(c);
    bool ok;
    write_state(data, size);
    ok = settled(c, evaluate(c, m));
    check(!ok || evaluate(c, m), l2l_error_text(c));
    l2l_model_free(m);
    return ok;
}

typedef struct span {
    const uint8_t *data;
    size_t size;
} span;

static bool read_span(void *user, int64_t offset, void *to, size_t n)
{
    const span *s = (const span *)user;
    check(offset >= 0 && (uint64_t)offset <= s->size && n <= s->size - (size_t)offset,
          "a read past the end");
    memcpy(to, s->data + offset, n);
    return true;
}

/* A data set of two files. */
static bool try_images(l2l_context *c, const uint8_t *data, size_t size, int loader)
{
    l2l_dataset d;
    span part[2];
    shards_source source[2];
    const void *files[2];
    size_t sizes[2], image;
    l2l_real *x;
    int i, label;
    if (size < 2) return true;
    part[0].data = data + 2;
    part[0].size = (size_t)data[0] + 256u * data[1];
    if (part[0].size > size - 2) part[0].size = size - 2;
    part[1].data = part[0].data + part[0].size;
    part[1].size = size - 2 - part[0].size;
    for (i = 0; i < 2; i++) {
        files[i] = part[i].data;
        sizes[i] = part[i].size;
        source[i].bytes = (int64_t)part[i].size;
        source[i].read_at = read_span;
        source[i].user = &part[i];
    }
    if (!settled(c, loader == IDX ? l2l_dataset_idx_memory(c, files[1], sizes[1], files[0],
                                                           sizes[0], CLASSES, &d)
                    : loader == CIFAR10 ? cifar_from_memory(c, files, sizes, 2, 10, &d)
                    : shards_from_sources(c, NULL, source + 1, source, 1, CLASSES, &d)))
        return false;
    image = (size_t)d.channels * (size_t)d.height * (size_t)d.width;
    check((size_t)d.count * image <= size, "more pixels than bytes");
    x = (l2l_real *)malloc(image * sizeof *x);
    check(x != NULL, "no memory");
    for (i = 0; i < d.count; i++) check(l2l_dataset_read(&d, i, 1, x, &label), l2l_error_text(c));
    free(x);
    l2l_dataset_free(&d);
    return true;
}

static bool try_idx(l2l_context *c, const uint8_t *data, size_t size)
{
    return try_images(c, data, size, IDX);
}

static bool try_cifar10(l2l_context *c, const uint8_t *data, size_t size)
{
    return try_images(c, data, size, CIFAR10);
}

static bool try_shards(l2l_context *c, const uint8_t *data, size_t size)
{
    return try_images(c, data, size, SHARDS);
}

static long loaded[LOADERS];

/* Also: a loader takes no more memory than the size of its file justifies. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool (*const loaders[LOADERS])(l2l_context *, const uint8_t *, size_t) = {
        try_model, try_learned, try_open_model, try_open_learned, try_open_generator,
        try_checkpoint, try_state, try_npy, try_idx, try_cifar10, try_shards};
    l2l_context *c;
    uint8_t *copy;
    bool ok;
    if (!size) return 0;
    /* An exact copy, so that a sanitizer sees a read past the end. */
    copy = (uint8_t *)malloc(size > 1 ? size - 1 : 1);
    check(copy != NULL, "no memory");
    if (size > 1) memcpy(copy, data + 1, size - 1);
    c = context();
    allowed = ((size_t)4 << 20) + 32 * size;
    ok = loaders[data[0] % LOADERS](c, copy, size - 1);
    loaded[data[0] % LOADERS] += ok;
    check(l2l_error(c) == L2L_OK, l2l_error_text(c));
    check(l2l_memory_peak(c) < ((size_t)32 << 20) + 32 * size, "far more memory than the file has");
    l2l_context_free(c);
    check(in_use == 0, "memory that was not given back");
    if (*path) remove(path);
    free(copy);
    return 0;
}

#ifdef FUZZ_MAIN
enum { ROOM = 1 << 18 };
typedef struct input {
    uint8_t bytes[ROOM];
    size_t size;
} input;

static uint64_t state;
static size_t draw(size_t below)             /* xorshift64* */
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return below ? (size_t)((state * 2685821657736338717u) >> 33) % below : 0;
}

static void put(input *in, const void *data, size_t size)
{
    check(in->size + size <= ROOM, "a seed is too large");
    memcpy(in->bytes + in->size, data, size);
    in->size += size;
}

/* A small model of two architectures and in turn one of their sizes. */
static l2l_model *make_known(l2l_context *c)
{
    l2l_model_options o = l2l_model_default(draw(2) ? "smallcnn" : "wrn");
    l2l_model *m;
    o.width_multiplier = 0.01;
    o.depth = 10;
    o.channels = 2;
    o.height = o.width = 16;
    o.classes = CLASSES;
    o.normalise = (int)draw(2) * 2;
    o.deviation[0] = o.deviation[1] = 0.3;
    m = l2l_model_create(c, &o);
    check(m != NULL, l2l_error_text(c));
    return m;
}

static l2lda *make_generator(l2l_context *c)
{
    l2lda_options o = l2lda_default();
    l2lda *g;
    o.channels = 2;
    o.height = o.width = 4;
    o.classes = CLASSES;
    o.width_multiplier = 0.01;
    g = l2lda_create(c, &o);
    check(g != NULL, l2l_error_text(c));
    return g;
}

/* A file of this kind, as the library writes it. */
static void seed_safetensors(input *in, int loader)
{
    l2l_context *c = context();
    l2l_model *m = make_model(c), *known = make_known(c);
    l2l_learned *phi = make_learned(c);
    l2lda *g = make_generator(c);
    l2l_dataset d;
    l2l_trainer *t;
    l2l_progress p;
    uint8_t block[4096];
    size_t n;
    FILE *f;
    make_data(c, &d);
    t = make_trainer(m, phi, &d);
    write_path(block, 0);
    if (loader == STATE) remove(path);
    check(loader == MODEL ? l2l_model_save(m, path)
          : loader == LEARNED || loader == OPEN_LEARNED ? l2l_learned_save(phi, path)
          : loader == OPEN_MODEL ? l2l_model_save(known, path)
          : loader == OPEN_GENERATOR ? l2lda_save(g, path)
          : loader == CHECKPOINT ? l2l_train_step(t, images, labels, 2, &p) &&
                                   l2l_trainer_save(t, path)
                                 : evaluate(c, m), l2l_error_text(c));
    f = fopen(path, "rb");
    check(f != NULL, path);
    while ((n = fread(block, 1, sizeof block, f)) > 0) put(in, block, n);
    fclose(f);
    remove(path);
    l2l_trainer_free(t);
    l2l_dataset_free(&d);
    l2lda_free(g);
    l2l_model_free(m);
    l2l_model_free(known);
    l2l_learned_free(phi);
    l2l_context_free(c);
}

static void put_npy(input *in, const char *type, const char *shape, size_t count)
{
    static const uint8_t zeros[96] = {0};
    char dict[96];
    int n = snprintf(dict, sizeof dict,
                     "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }\n", type, shape);
    uint8_t head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 0, 0};
    head[8] = (uint8_t)n;
    put(in, head, 10);
    put(in, dict, (size_t)n);
    put(in, zeros, count * (size_t)(type[2] - '0'));
}

static void seed_npy(input *in)
{
    static const char *const types[] = {"<f4", ">f8", "|b1", "|i1", "<u2", ">i4", "<u8", ">i8"};
    put_npy(in, types[draw(8)], "2, 3", 6);
}

static void seed_shards(input *in)
{
    static const char *const types[] = {"|u1", "|b1", "|i1", "<u2", ">i4", "<u8", ">i8"};
    size_t at = in->size, n;
    put(in, "\0\0", 2);
    put_npy(in, types[draw(7)], "2,", 2);
    n = in->size - at - 2;
    in->bytes[at] = (uint8_t)(n & 255);
    in->bytes[at + 1] = (uint8_t)(n >> 8);
    if (draw(2)) put_npy(in, "|u1", "2, 3, 5", 30);
    else put_npy(in, "|u1", "2, 3, 5, 3", 90);
}

static void seed_cifar10(input *in)
{
    static const uint8_t zeros[2 * 3073] = {0};
    put(in, "\x01\x0C", 2);                  /* 3073 */
    put(in, zeros, 3073);
    put(in, zeros, 2 * 3073);
}

static void seed_idx(input *in)
{
    static const uint8_t labels[] = {11, 0, 0, 0, 8, 1, 0, 0, 0, 3, 0, 1, 2};
    static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2,
                                     0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 254, 255};
    put(in, labels, sizeof labels);
    put(in, images, sizeof images);
}

/* The bytes [at, at+old) become `size` others, a run of bytes from elsewhere or a random choice. */
static void splice(input *in, size_t at, size_t old, size_t size)
{
    uint8_t part[64];
    size_t i, from = draw(in->size - size);
    bool run = draw(2);
    if (in->size - old + size > ROOM) return;
    for (i = 0; i < size; i++) part[i] = in->bytes[run ? from + i : draw(in->size)];
    memmove(in->bytes + at + size, in->bytes + at + old, in->size - at - old);
    memcpy(in->bytes + at, part, size);
    in->size = in->size - old + size;
}

static void mutate(input *in, size_t from)
{
    static const char interesting[] = "{}[]:,\"\\u0dF1293-.e'()<>|fiub \n";
    uint64_t length = in->bytes[0] < STATE && in->size > 9 ? in->bytes[1] + 256u * in->bytes[2] : 0;
    size_t header = length > 400 ? (size_t)length : 400; /* headers are in front */
    size_t near = draw(4) && in->size > header ? header : in->size;
    size_t at = from + draw(near > from ? near - from : 1), n;
    if (at >= in->size) return;
    switch (draw(6)) {
    case 0: in->bytes[at] = (uint8_t)draw(256); break;
    case 1: in->bytes[at] ^= (uint8_t)(1u << draw(8)); break;
    case 2: in->bytes[at] = (uint8_t)interesting[draw(sizeof interesting - 1)]; break;
    case 3: in->bytes[at] = draw(2) ? 0xFF : 0; break;
    case 4: in->size = draw(8) ? in->size : at + 1; break;
    default:
        n = draw(16);
        if (in->size < 32) break;
        splice(in, at, n < in->size - at ? n : in->size - at, draw(16));
    }
}

/* Half of the safetensors get a header length that fits again, or the parser would see few. */
static void mend(input *in, size_t before)
{
    uint64_t n = 0;
    int i;
    if (in->bytes[0] >= STATE || in->size < 9 || !draw(4)) return;
    for (i = 0; i < 8; i++) n |= (uint64_t)in->bytes[1 + i] << (8 * i);
    n += (uint64_t)in->size - (uint64_t)before;
    for (i = 0; i < 8; i++) in->bytes[1 + i] = (uint8_t)(n >> (8 * i));
}

static void run_file(const char *path)
{
    static input in;
    FILE *f = fopen(path, "rb");
    check(f != NULL, path);
    in.size = fread(in.bytes, 1, ROOM, f);
    fclose(f);
    LLVMFuzzerTestOneInput(in.bytes, in.size);
}

static void seed(input *in, int loader)
{
    uint8_t first = (uint8_t)loader;
    in->size = 0;
    put(in, &first, 1);
    if (loader == NPY) seed_npy(in);
    else if (loader == IDX) seed_idx(in);
    else if (loader == CIFAR10) seed_cifar10(in);
    else if (loader == SHARDS) seed_shards(in);
    else seed_safetensors(in, loader);
}

/* A file for each loader, to begin libFuzzer's corpus with. */
static void write_seeds(const char *folder)
{
    static input in;
    for (int loader = 0; loader < LOADERS; loader++) {
        char name[512];
        FILE *f;
        seed(&in, loader);
        snprintf(name, sizeof name, "%s/seed-%d", folder, loader);
        f = fopen(name, "wb");
        check(f && fwrite(in.bytes, 1, in.size, f) == in.size && !fclose(f), name);
    }
}

int main(int argc, char **argv)
{
    static input seeds[LOADERS], in;
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 2000, round;
    int i;
    state = 1;
    if (argc == 3 && !strcmp(argv[1], "--seeds")) {
        write_seeds(argv[2]);
        return 0;
    }
    if (argc > 1 && rounds == 0) {
        for (i = 1; i < argc; i++) run_file(argv[i]);
        return 0;
    }
    state = argc > 2 ? strtoul(argv[2], NULL, 10) * 2654435761u + 1 : 1;
    for (round = 0; round < rounds; round++) {
        int loader = (int)(round % LOADERS), k, changes = (int)draw(5);
        size_t before;
        if (loader > STATE || !seeds[loader].size || (loader == OPEN_MODEL && !draw(20)))
            seed(&seeds[loader], loader);
        memcpy(in.bytes, seeds[loader].bytes, in.size = seeds[loader].size);
        before = in.size;
        for (k = 0; k < changes; k++) mutate(&in, loader < STATE ? 9 - 8 * !draw(8) : 1);
        mend(&in, before);
        LLVMFuzzerTestOneInput(in.bytes, in.size);
    }
    printf("%ld inputs; loaded: %ld models, %ld maximizers; opened: %ld, %ld, %ld generators; "
           "%ld checkpoints, %ld states, %ld arrays, %ld IDX, %ld CIFAR-10, %ld shards\n", rounds,
           loaded[MODEL], loaded[LEARNED], loaded[OPEN_MODEL], loaded[OPEN_LEARNED],
           loaded[OPEN_GENERATOR], loaded[CHECKPOINT], loaded[STATE], loaded[NPY], loaded[IDX],
           loaded[CIFAR10], loaded[SHARDS]);
    return 0;
}
#endif
