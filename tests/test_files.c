/* Files: safetensors, IDX and .npy. What was saved is read back with the same bits; what others may
   have written is read; and what is broken is refused with the file, the byte and the cause, while
   the target of the load stays as it was. */
#define _XOPEN_SOURCE 700 /* SIGXFSZ, setrlimit */
#include "../examples/shards.h"
#include "../examples/cifar.h"
#include "networks.h"
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- bytes and files --------------------------------------------------------------------------- */

typedef struct bytes {
    unsigned char *data;
    size_t size, room;
} bytes;

static void put(bytes *b, const void *data, size_t n)
{
    if (b->size + n > b->room) {
        unsigned char *more = (unsigned char *)test_memory(b->room = 2 * (b->size + n) + 64);
        if (b->size) memcpy(more, b->data, b->size);
        free(b->data);
        b->data = more;
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
}
static void put_text(bytes *b, const char *text) { put(b, text, strlen(text)); }
static void put_number(bytes *b, uint64_t v, int size, int big)
{
    unsigned char p[8];
    int i;
    for (i = 0; i < size; i++) p[big ? size - 1 - i : i] = (unsigned char)(v >> (8 * i) & 255);
    put(b, p, (size_t)size);
}
static void drop(bytes *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}
/* The first n bytes in an array of just that size, so that a sanitizer sees what reads beyond. */
static unsigned char *cut(const void *data, size_t n)
{
    unsigned char *p = (unsigned char *)malloc(n ? n : 1);
    if (!p) { printf("the test itself ran out of memory\n"); exit(2); }
    if (n) memcpy(p, data, n);
    return p;
}

static char directory[512] = "./";
static char *path(const char *name) /* beside the program; to be freed */
{
    char *p = (char *)test_memory(strlen(directory) + strlen(name) + 1);
    strcat(strcpy(p, directory), name);
    return p;
}
static void write_file(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(name, "wb");
    if (!CHECK(f != NULL)) return;
    if (n) CHECK(fwrite(data, 1, n, f) == n);
    fclose(f);
}
static bytes read_file(const char *name)
{
    static const bytes none;
    bytes b = none;
    char block[512];
    size_t n;
    FILE *f = fopen(name, "rb");
    if (!CHECK(f != NULL)) return b;
    while ((n = fread(block, 1, sizeof block, f)) > 0) put(&b, block, n);
    fclose(f);
    return b;
}
static int exists(const char *name)
{
    struct stat s;
    return stat(name, &s) == 0;
}
/* An error whose text has the file's name, the byte (unless `at` is NULL), the cause; cleared. */
static int test_named(const char *source, int line, l2l_context *c, l2l_status status,
                      const char *file, const char *at, const char *cause)
{
    int ok = test_contains(source, line, "the file", file, l2l_error_text(c)) &
             test_contains(source, line, "the byte", at ? at : "", l2l_error_text(c));
    return ok & test_error(source, line, c, status, cause);
}
#define CHECK_NAMED(c, status, file, at, cause) \
    test_named(__FILE__, __LINE__, c, status, file, at, cause)

/* -- models, and what they hold ---------------------------------------------------------------- */

static const double some[] = {0.5, 0.1, 0.25, 0.5, 0.5, 0.5, 0.5,
                              0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};

static l2l_model *make(l2l_context *c, const char *name, l2l_forward forward, uint32_t seed)
{
    l2l_model_options o = forward ? own_options(name, forward, 1, 8, 5) : l2l_model_default(name);
    l2l_model *m;
    if (!forward) o.width_multiplier = 0.25;
    m = l2l_model_create(c, &o);
    if (!CHECK(m != NULL) || !CHECK(seed_parameters(m, seed, some))) { CHECK_OK(c); exit(1); }
    return m;
}

/* Every parameter in file layout, the normalisation, and the logits of an image: the last would
   tell of packed weights that were not made anew. */
static bytes state(l2l_model *m)
{
    static const bytes none;
    const l2l_model_options *o = l2l_model_info(m);
    int64_t pixels = (int64_t)o->channels * o->height * o->width;
    l2l_real *x = test_array(pixels), *z = test_array(o->classes);
    bytes b = none;
    int i;
    for (i = 0; i < l2l_model_parameters(m); i++) {
        int64_t n = l2l_count(l2l_model_parameter(m, i).value->shape);
        l2l_real *v = test_array(n);
        CHECK(l2l_parameter_get(m, i, v));
        put(&b, v, (size_t)n * sizeof *v);
        free(v);
    }
    put(&b, &o->normalise, sizeof o->normalise);
    put(&b, o->mean, sizeof o->mean);
    put(&b, o->deviation, sizeof o->deviation);
    golden_fill(x, pixels, 99, 0, 1);
    CHECK(l2l_model_logits(m, x, 1, z));
    put(&b, z, (size_t)o->classes * sizeof *z);
    free(x);
    free(z);
    return b;
}
static int check_state(l2l_model *m, const bytes *expected)
{
    bytes b = state(m);
    int ok = CHECK_INT(expected->size, b.size) && CHECK_BYTES(expected->data, b.data, b.size);
    drop(&b);
    return ok;
}
/* Loading exactly these bytes fails and changes nothing. The error stays for the caller. */
static int check_refused(l2l_model *m, const bytes *before, const void *data, size_t n)
{
    l2l_context *c = l2l_model_context(m);
    unsigned char *p = cut(data, n);
    int extra = -7, ok = CHECK(!l2l_model_load_memory(m, p, n, &extra));
    l2l_status status = l2l_error(c);
    char text[1024];
    strncpy(text, l2l_error_text(c), sizeof text - 1);
    text[sizeof text - 1] = 0;
    l2l_error_clear(c);
    ok &= check_state(m, before);
    l2l_error_set(c, status, text);
    free(p);
    return ok;
}

/* -- hand-built safetensors -------------------------------------------------------------------- */

/* A file in the making: a header of entries, and their bytes. */
typedef struct tensors {
    bytes header, data;
} tensors;

static void entry_head(tensors *t, const char *name, const char *dtype, const char *shape, size_t n)
{
    char text[400];
    snprintf(text, sizeof text,
             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%lu,%lu]}",
             t->header.size ? "," : "{", name, dtype, shape, (unsigned long)t->data.size,
             (unsigned long)(t->data.size + n));
    put_text(&t->header, text);
}
/* An IEEE format of `e` exponent and `m` mantissa bits, of numbers that it holds exactly. */
static uint64_t encode(double v, int e, int m)
{
    int exponent, bias = (1 << (e - 1)) - 1;
    uint64_t sign = v < 0 || (v == 0 && 1 / v < 0) ? (uint64_t)1 << (e + m) : 0;
    double f = frexp(fabs(v), &exponent); /* f in [1/2,1) */
    if (v != v) return (((uint64_t)1 << (e + 1)) - 1) << (m - 1);
    if (v - v != 0) return sign | (((uint64_t)1 << e) - 1) << m;
    exponent += bias - 1;
    if (f == 0) return sign;
    if (exponent < 1) return sign | (uint64_t)ldexp(f, m + exponent);
    return sign | (uint64_t)exponent << m | ((uint64_t)ldexp(f, m + 1) & (((uint64_t)1 << m) - 1));
}
static void add(tensors *t, const char *name, const char *dtype, const char *shape, const double *v,
                int64_t n)
{
    int size = !strcmp(dtype, "F32") ? 4 : strstr(dtype, "64") ? 8 : 2;
    int64_t i;
    entry_head(t, name, dtype, shape, (size_t)n * (size_t)size);
    for (i = 0; i < n; i++)
        put_number(&t->data, !strcmp(dtype, "I64") ? (uint64_t)(int64_t)v[i]
                           : !strcmp(dtype, "F64") ? encode(v[i], 11, 52)
                           : !strcmp(dtype, "F32") ? encode(v[i], 8, 23)
                           : !strcmp(dtype, "F16") ? encode(v[i], 5, 10)
                                                   : encode(v[i], 8, 7), size, 0);
}
static void metadata(tensors *t, const char *pairs)
{
    put_text(&t->header, t->header.size ? ",\"__metadata__\":" : "{\"__metadata__\":");
    put_text(&t->header, pairs);
}
static bytes assemble(const char *header, const void *data, size_t n)
{
    static const bytes none;
    bytes b = none;
    put_number(&b, strlen(header), 8, 0);
    put_text(&b, header);
    put(&b, data, n);
    return b;
}
static bytes finish(tensors *t)
{
    bytes b;
    put(&t->header, "}", 2);
    b = assemble((const char *)t->header.data, t->data.data, t->data.size);
    drop(&t->header);
    drop(&t->data);
    return b;
}

static void shape_text(const l2l_parameter *p, char text[80])
{
    const l2l_shape s = p->value->shape; /* kh, kw, C, K */
    if (p->rank == 4) snprintf(text, 80, "%d, %d,%d ,%d", s.c, s.w, s.n, s.h);
    else if (p->rank == 2) snprintf(text, 80, "%d,%d", s.c, s.n * s.h * s.w);
    else snprintf(text, 80, "%d", s.c);
}
/* All of a model's parameters, multiples of 1/32 that every type holds. Parameter `odd` has the
   name, dtype and shape given (NULL: its own; dtype "": left out) and ends with `last`. */
static void add_model(tensors *t, const l2l_model *m, const char *dtype, int odd, const char *name,
                      const char *odd_dtype, const char *shape, double last)
{
    int i;
    for (i = 0; i < l2l_model_parameters(m); i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        int64_t n = l2l_count(p.value->shape), j;
        double *v = (double *)test_memory((size_t)n * sizeof *v);
        const char *type = i == odd && odd_dtype ? odd_dtype : dtype;
        char text[80];
        shape_text(&p, text);
        for (j = 0; j < n; j++) v[j] = (double)((7 * j + 5 * i) % 63 - 31) / 32;
        if (i == odd) v[n - 1] = last;
        if (*type)
            add(t, i == odd && name ? name : p.name, type, i == odd && shape ? shape : text, v, n);
        free(v);
    }
}

/* -- safetensors: round trips ------------------------------------------------------------------ */

static void check_round_trip(l2l_context *c, l2l_model *from, l2l_model *to, const char *file,
                             int open)
{
    bytes a = state(from), b = state(to), on_disk;
    l2l_real *x = test_array(3 * 28 * 28);
    void *data = NULL;
    size_t n = 0;
    int extra = -1;
    l2l_model *m;
    CHECK(a.size != b.size || memcmp(a.data, b.data, a.size)); /* else it would prove nothing */
    if (CHECK(l2l_model_save_memory(from, &data, &n)) && CHECK(l2l_model_save(from, file))) {
        on_disk = read_file(file);
        CHECK_INT(n, on_disk.size);
        CHECK_BYTES(data, on_disk.data, n < on_disk.size ? n : on_disk.size);
        drop(&on_disk);
        CHECK_INT(0, *(unsigned char *)data % 8); /* the header's length: the numbers are aligned */
        if (CHECK(l2l_model_load_memory(to, data, n, &extra))) check_state(to, &a);
        CHECK_INT(0, extra);
        seed_parameters(to, 4321, some);
        extra = -1;
        if (CHECK(l2l_model_load(to, file, &extra))) check_state(to, &a);
        CHECK_INT(0, extra);
        if (open && CHECK((m = l2l_model_open(c, file)) != NULL)) {
            check_state(m, &a);
            l2l_model_free(m);
        }
    }
    CHECK_OK(c);
    l2l_free(c, data);
    free(x);
    remove(file);
    drop(&a);
    drop(&b);
}

static void models_round_trip(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m[2];
    l2l_model_options o;
    char *file = path("model.safetensors");
    l2l_real odd[4] = {(l2l_real)-0.0, (l2l_real)1e-45, (l2l_real)3.4028234e38, (l2l_real)-1e-38};
    m[0] = make(c, "smallcnn", NULL, 900);
    m[1] = make(c, "smallcnn", NULL, 950);
    check_round_trip(c, m[0], m[1], file, 1);
    l2l_model_free(m[0]);
    l2l_model_free(m[1]);
    m[0] = make(c, "moody", moody_forward, 900); /* running statistics */
    m[1] = make(c, "moody", moody_forward, 950);
    check_round_trip(c, m[0], m[1], file, 0);
    l2l_model_free(m[0]);
    l2l_model_free(m[1]);
    m[0] = make(c, "tiny", tiny_forward, 900); /* bits that arithmetic would lose */
    m[1] = make(c, "tiny", tiny_forward, 950);
    CHECK(l2l_parameter_set(m[0], 1, odd));
    check_round_trip(c, m[0], m[1], file, 0);
    l2l_model_free(m[0]);
    l2l_model_free(m[1]);
    o = l2l_model_default("smallcnn"); /* the input normalisation comes along */
    o.width_multiplier = 0.25;
    o.normalise = 1;
    o.mean[0] = 0.1307;
    o.deviation[0] = 0.3081;
    m[0] = l2l_model_create(c, &o);
    m[1] = make(c, "smallcnn", NULL, 950);
    if (CHECK(m[0] != NULL)) check_round_trip(c, m[0], m[1], file, 1);
    l2l_model_free(m[0]);
    l2l_model_free(m[1]);
    CHECK_OK(c);
    l2l_context_free(c);
    free(file);
}

static void maximizers_round_trip(void)
{
    static const struct {
        l2l_cell cell;
        int hidden;
        bool bias;
        l2l_grad_input input;
        bool raw;
        double scale;
    } cases[] = {{L2L_LSTM, 10, true, L2L_INPUT_SIGN, false, 1},
                 {L2L_RNN, 10, false, L2L_INPUT_L1, false, 0.7},
                 {L2L_LSTM, 3, false, L2L_INPUT_LOG, true, 0.1},
                 {L2L_RNN, 7, true, L2L_INPUT_LINF, false, 1e-3}};
    l2l_context *c = test_context(1);
    char *file = path("phi.safetensors");
    int k;
    for (k = 0; k < COUNT(cases); k++) {
        l2l_learned_options o = l2l_learned_default();
        l2l_learned *m[3];
        void *data = NULL, *again = NULL;
        size_t n = 0, size, bytes_again = 0;
        bytes on_disk;
        o.cell = cases[k].cell;
        o.hidden = cases[k].hidden;
        o.bias = cases[k].bias;
        o.input = cases[k].input;
        o.raw_output = cases[k].raw;
        o.scale = cases[k].scale;
        o.seed = 1;
        m[0] = l2l_learned_create(c, &o);
        o.seed = 2;
        m[1] = l2l_learned_create(c, &o);
        if (!CHECK(m[0] && m[1])) { CHECK_OK(c); break; }
        golden_fill(l2l_learned_parameters(m[0]), l2l_learned_size(m[0]), 40 + (uint32_t)k, -1, 1);
        size = (size_t)l2l_learned_size(m[0]) * sizeof(l2l_real);
        CHECK(l2l_learned_save_memory(m[0], &data, &n));
        CHECK(l2l_learned_save(m[0], file));
        on_disk = read_file(file);
        if (CHECK_INT(n, on_disk.size)) CHECK_BYTES(data, on_disk.data, n);
        drop(&on_disk);
        CHECK(l2l_learned_load_memory(m[1], data, n));
        CHECK_BYTES(l2l_learned_parameters(m[0]), l2l_learned_parameters(m[1]), size);
        memset(l2l_learned_parameters(m[1]), 0, size);
        CHECK(l2l_learned_load(m[1], file));
        CHECK_BYTES(l2l_learned_parameters(m[0]), l2l_learned_parameters(m[1]), size);
        m[2] = l2l_learned_open(c, file);
        if (CHECK(m[2] != NULL)) {
            const l2l_learned_options *p = l2l_learned_info(m[2]);
            CHECK_INT(o.cell, p->cell);
            CHECK_INT(o.hidden, p->hidden);
            CHECK_INT(o.bias, p->bias);
            CHECK_INT(o.input, p->input);
            CHECK_INT(o.raw_output, p->raw_output);
            CHECK_NEAR(o.scale, p->scale, 1e-12);
            CHECK_BYTES(l2l_learned_parameters(m[0]), l2l_learned_parameters(m[2]), size);
            CHECK(l2l_learned_save_memory(m[2], &again, &bytes_again));
            if (CHECK_INT(n, bytes_again)) CHECK_BYTES(data, again, n);
            l2l_free(c, again);
        }
        CHECK_OK(c);
        l2l_free(c, data);
        l2l_learned_free(m[2]);
        l2l_learned_free(m[1]);
        l2l_learned_free(m[0]);
    }
    remove(file);
    free(file);
    l2l_context_free(c);
}

static l2l_tensor *quoting_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    return l2l_layer_linear(m, "a \"b\" \\ \n/c", x, 2, L2L_LAST);
}

/* Names that JSON must write with escapes. */
static void names_with_quotes(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("q\"\\", quoting_forward, 1, 4, 2);
    l2l_model *m = l2l_model_create(c, &o), *other = l2l_model_create(c, &o);
    bytes a;
    void *data = NULL;
    size_t n = 0;
    int extra = -1;
    if (CHECK(m && other && seed_parameters(m, 900, some))) {
        a = state(m);
        CHECK(l2l_model_save_memory(m, &data, &n));
        CHECK(l2l_model_load_memory(other, data, n, &extra));
        CHECK_INT(0, extra);
        check_state(other, &a);
        drop(&a);
    }
    CHECK_OK(c);
    l2l_free(c, data);
    l2l_model_free(other);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- safetensors: what others write ------------------------------------------------------------ */

static void number_types(void)
{
    static const char *const types[] = {"F32", "F64", "F16", "BF16"};
    static const double numbers[4][4] = {
        {1.401298464324817e-45, -0.0, 3.4028234663852886e38, 0.5},
        {1e-300, 0.1, -1.0 / 3, 3.4028234663852886e38},
        {5.9604644775390625e-8, -6.103515625e-5, 65504, -0.0},
        {9.183549615799121e-41, -0.0, 3.3895313892515355e38, -1.5},
    };
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900), *first = make(c, "tiny", tiny_forward, 950);
    int k, i, extra;
    for (k = 0; k < COUNT(types); k++) {
        tensors t = {{NULL, 0, 0}, {NULL, 0, 0}};
        bytes b;
        l2l_real got[4], expected[4];
        add_model(&t, m, types[k], -1, NULL, NULL, NULL, 0);
        b = finish(&t);
        seed_parameters(m, 900, some);
        extra = -1;
        CHECK(l2l_model_load_memory(m, b.data, b.size, &extra));
        CHECK_INT(0, extra);
        drop(&b);
        if (k == 0) CHECK(l2l_model_copy(first, m));
        b = state(first);
        if (!check_state(m, &b)) printf("    %s\n", types[k]);
        drop(&b);
        /* and four numbers at the edges of the type, as conv.bias */
        memset(&t, 0, sizeof t);
        add_model(&t, m, "F32", 1, NULL, "", NULL, 0);
        add(&t, "conv.bias", types[k], "4", numbers[k], 4);
        b = finish(&t);
        CHECK(l2l_model_load_memory(m, b.data, b.size, &extra));
        CHECK(l2l_parameter_get(m, 1, got));
        for (i = 0; i < 4; i++) expected[i] = (l2l_real)numbers[k][i];
        if (!CHECK_BYTES(expected, got, sizeof got))
            printf("    %s: %.9g %.9g %.9g %.9g\n", types[k], (double)got[0], (double)got[1],
                   (double)got[2], (double)got[3]);
        drop(&b);
    }
    CHECK_OK(c);
    l2l_model_free(first);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void entries_that_are_more(void)
{
    static const double count = 12345;
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "moody", moody_forward, 900);
    tensors t = {{NULL, 0, 0}, {NULL, 0, 0}};
    bytes b;
    void *data = NULL;
    size_t n = 0;
    int extra = -1;
    metadata(&t, "{\"format\":\"pt\",\"made by\":\"\\u00e4 \\ud83d\\ude00 \\\"\\\\\\n\"}");
    add_model(&t, m, "F32", -1, NULL, NULL, NULL, 0);
    add(&t, "bn.num_batches_tracked", "I64", "", &count, 1); /* a scalar of PyTorch's */
    b = finish(&t);
    CHECK(l2l_model_load_memory(m, b.data, b.size, &extra));
    CHECK_INT(0, extra);
    drop(&b);
    memset(&t, 0, sizeof t);
    add(&t, "ema.decay", "F64", "", &count, 1);
    add_model(&t, m, "F32", -1, NULL, NULL, NULL, 0);
    entry_head(&t, "mask", "BOOL", "3,1", 3); /* types that are not read, but known */
    put(&t.data, "\1\0\1", 3);
    entry_head(&t, "empty", "I32", "0,7", 0);
    b = finish(&t);
    CHECK(l2l_model_load_memory(m, b.data, b.size, &extra));
    CHECK_INT(3, extra);
    drop(&b);
    CHECK(l2l_model_save_memory(m, &data, &n));
    put(&b, data, n);
    put(&b, "", 1);
    CHECK_CONTAINS("\"bn.num_batches_tracked\":{\"dtype\":\"I64\",\"shape\":[]",
                   (char *)b.data + 8);
    drop(&b);
    l2l_free(c, data);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void phi_from_pytorch(void) /* two biases there, one here */
{
    l2l_context *c = test_context(1);
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *phi;
    double v[40];
    tensors t = {{NULL, 0, 0}, {NULL, 0, 0}};
    bytes b;
    int i;
    o.hidden = 2;
    phi = l2l_learned_create(c, &o);
    for (i = 0; i < 40; i++) v[i] = (double)i / 64;
    add(&t, "cell.weight_ih", "F32", "8,1", v, 8);
    add(&t, "cell.weight_hh", "F32", "8,2", v + 8, 16);
    add(&t, "cell.bias_ih", "F32", "8", v + 24, 8);
    add(&t, "cell.bias_hh", "F32", "8", v + 24, 8);
    add(&t, "out.weight", "F32", "1,2", v + 32, 2);
    add(&t, "out.bias", "F32", "1", v + 34, 1);
    b = finish(&t);
    if (CHECK(phi && l2l_learned_load_memory(phi, b.data, b.size)))
        for (i = 0; i < l2l_learned_size(phi); i++)
            CHECK_NEAR(i >= 24 && i < 32 ? 2 * v[i] : v[i], l2l_learned_parameters(phi)[i], 0);
    CHECK_OK(c);
    drop(&b);
    /* two that are finite, and their sum is not */
    for (i = 24; i < 32; i++) v[i] = 3e38;
    memset(&t, 0, sizeof t);
    add(&t, "cell.weight_ih", "F32", "8,1", v, 8);
    add(&t, "cell.weight_hh", "F32", "8,2", v + 8, 16);
    add(&t, "cell.bias_ih", "F32", "8", v + 24, 8);
    add(&t, "cell.bias_hh", "F32", "8", v + 24, 8);
    add(&t, "out.weight", "F32", "1,2", v + 32, 2);
    add(&t, "out.bias", "F32", "1", v + 34, 1);
    b = finish(&t);
    CHECK(!l2l_learned_load_memory(phi, b.data, b.size));
    CHECK_ERROR(c, L2L_ERROR_FORMAT, "number 0 of 'cell.bias_ih' and that of 'cell.bias_hh'");
    CHECK_NEAR((double)1 / 64, l2l_learned_parameters(phi)[1], 0);
    drop(&b);
    l2l_learned_free(phi);
    l2l_context_free(c);
}

/* -- safetensors: models that do not fit ------------------------------------------------------- */

static void models_that_do_not_fit(void)
{
    static const struct {
        int odd;
        const char *name, *dtype, *shape;
        double last;
        l2l_status status;
        const char *cause;
    } cases[] = {
        {2, NULL, "", NULL, 0, L2L_ERROR_MISMATCH,
         "there is no tensor 'fc.weight' of shape [5, 36]"},
        {3, "fc.Bias", NULL, NULL, 0, L2L_ERROR_MISMATCH, "'fc.bias'"},
        {0, NULL, NULL, "4,1,9,1", 0, L2L_ERROR_SHAPE,
         "'conv.weight' has the shape [4, 1, 9, 1] in the file and [4, 1, 3, 3] here"},
        {2, NULL, NULL, "36,5", 0, L2L_ERROR_SHAPE, "[36, 5] in the file and [5, 36] here"},
        {3, NULL, NULL, "5,1", 0, L2L_ERROR_SHAPE, "[5, 1] in the file and [5] here"},
        {3, NULL, NULL, NULL, (double)NAN, L2L_ERROR_FORMAT, "not a finite number, in 'fc.bias'"},
        {0, NULL, NULL, NULL, (double)INFINITY, L2L_ERROR_FORMAT, "not a finite number, in 'conv.weight'"},
        {3, NULL, "F16", NULL, -(double)INFINITY, L2L_ERROR_FORMAT, "not a finite number, in 'fc.bias'"},
        {3, NULL, "BF16", NULL, (double)NAN, L2L_ERROR_FORMAT, "not a finite number, in 'fc.bias'"},
        {3, NULL, "F64", NULL, 1e39, L2L_ERROR_FORMAT, "not a finite number, in 'fc.bias'"},
        {3, NULL, "I64", NULL, 0, L2L_ERROR_FORMAT, "unsupported type I64"},
    };
    static const struct { const char *pairs, *cause; } settings[] = {
        {"{\"arch\":\"wrn\"}", "arch is tiny here, but in the file wrn"},
        {"{\"arch\":\"tiny\",\"width\":\"2\"}", "width is 1 here, but in the file 2"},
        {"{\"classes\":\"6\"}", "classes is 5 here, but in the file 6"},
        {"{\"width\":\"one\"}", "width is 1 here, but in the file one"},
    };
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900);
    bytes before = state(m), b;
    char *file = path("misfit.safetensors");
    int i, extra;
    for (i = 0; i < COUNT(cases) + COUNT(settings); i++) {
        tensors t = {{NULL, 0, 0}, {NULL, 0, 0}};
        int k = i - COUNT(cases);
        if (k >= 0) metadata(&t, settings[k].pairs);
        add_model(&t, m, "F32", k < 0 ? cases[i].odd : -1, k < 0 ? cases[i].name : NULL,
                  k < 0 ? cases[i].dtype : NULL, k < 0 ? cases[i].shape : NULL,
                  k < 0 ? cases[i].last : 0);
        b = finish(&t);
        check_refused(m, &before, b.data, b.size);
        CHECK_NAMED(c, k < 0 ? cases[i].status : L2L_ERROR_MISMATCH, "memory",
                    (k < 0 && cases[i].status == L2L_ERROR_MISMATCH ? NULL : ", byte "),
                    k < 0 ? cases[i].cause : settings[k].cause);
        write_file(file, b.data, b.size);
        CHECK(!l2l_model_load(m, file, &extra));
        CHECK_NAMED(c, k < 0 ? cases[i].status : L2L_ERROR_MISMATCH, file, NULL,
                    k < 0 ? cases[i].cause : settings[k].cause);
        check_state(m, &before);
        drop(&b);
    }
    CHECK(l2l_model_open(c, file) == NULL); /* without "arch" */
    CHECK_NAMED(c, L2L_ERROR_FORMAT, file, ", byte ", "there is no metadata 'arch'");
    remove(file);
    CHECK(!l2l_model_load(m, file, &extra));
    CHECK_NAMED(c, L2L_ERROR_FILE, file, NULL, "No such file");
    CHECK(l2l_model_open(c, file) == NULL);
    CHECK_NAMED(c, L2L_ERROR_FILE, file, NULL, "No such file");
    CHECK(!l2l_model_load(m, directory, &extra));
    CHECK_NAMED(c, L2L_ERROR_FILE, directory, NULL, "directory");
    check_state(m, &before);
    drop(&before);
    free(file);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void the_value_that_is_not_finite(void) /* its own byte, not that of its tensor */
{
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900);
    bytes before = state(m), b;
    tensors t = {{NULL, 0, 0}, {NULL, 0, 0}};
    char at[40];
    add_model(&t, m, "F32", 3, NULL, NULL, NULL, (double)NAN); /* the last of all numbers */
    b = finish(&t);
    check_refused(m, &before, b.data, b.size);
    snprintf(at, sizeof at, ", byte %lu: ", (unsigned long)(b.size - 4));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", at, "'fc.bias'");
    drop(&b);
    drop(&before);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* A file of another width in its metadata, for a network that the width changes. */
static void another_width(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *m = make(c, "smallcnn", NULL, 900), *wide;
    bytes before = state(m);
    void *data = NULL;
    size_t n = 0;
    o.width_multiplier = 0.5;
    wide = l2l_model_create(c, &o);
    if (CHECK(wide && l2l_model_save_memory(wide, &data, &n))) {
        check_refused(m, &before, data, n);
        CHECK_NAMED(c, L2L_ERROR_MISMATCH, "memory", NULL,
                    "width is 0.25 here, but in the file 0.5");
    }
    l2l_free(c, data);
    drop(&before);
    l2l_model_free(wide);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void maximizers_that_do_not_fit(void)
{
    l2l_context *c = test_context(1);
    l2l_learned_options o = l2l_learned_default(), other;
    l2l_learned *phi = l2l_learned_create(c, &o);
    size_t size = (size_t)l2l_learned_size(phi) * sizeof(l2l_real), n = 0, at;
    unsigned char *before = cut(l2l_learned_parameters(phi), size), *p;
    int k;
    for (k = 0; k < 6; k++) {
        static const char *const causes[] = {
            "cell is lstm here, but in the file rnn", "hidden is 10 here, but in the file 9",
            "input is sign here, but in the file l1", "output is tanh here, but in the file raw",
            "there is no tensor 'cell.bias_ih' of shape [40]", "scale is 0.25 here, but in the file 2"};
        l2l_learned *m;
        void *data = NULL;
        other = o;
        if (k == 0) other.cell = L2L_RNN;
        if (k == 1) other.hidden = 9;
        if (k == 2) other.input = L2L_INPUT_L1;
        if (k == 3) other.raw_output = true;
        if (k == 4) other.bias = false;
        if (k == 5) other.scale = 2;
        m = l2l_learned_create(c, &other);
        if (CHECK(m && l2l_learned_save_memory(m, &data, &n))) {
            CHECK(!l2l_learned_load_memory(phi, data, n));
            CHECK_NAMED(c, L2L_ERROR_MISMATCH, "memory", NULL, causes[k]);
            CHECK_BYTES(before, l2l_learned_parameters(phi), size);
        }
        l2l_free(c, data);
        l2l_learned_free(m);
    }
    {
        void *data = NULL;
        CHECK(l2l_learned_save_memory(phi, &data, &n));
        for (at = 0; at < n; at++) { /* cut off anywhere */
            p = cut(data, at);
            if (!CHECK(!l2l_learned_load_memory(phi, p, at)))
                printf("    cut at %lu\n", (unsigned long)at);
            CHECK_ERROR(c, L2L_ERROR_FORMAT, "memory, byte ");
            free(p);
        }
        memset((unsigned char *)data + n - 4, 0xFF, 4); /* NaN as the last number */
        CHECK(!l2l_learned_load_memory(phi, data, n));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte ", "not a finite number, in 'out.bias'");
        CHECK_BYTES(before, l2l_learned_parameters(phi), size);
        l2l_free(c, data);
    }
    free(before);
    l2l_learned_free(phi);
    l2l_context_free(c);
}

/* -- safetensors: broken files ----------------------------------------------------------------- */

static void truncated_models(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900);
    bytes before, b = {NULL, 0, 0};
    void *data = NULL;
    size_t n = 0, header, at;
    CHECK(l2l_model_save_memory(m, &data, &n));
    put(&b, data, n);
    l2l_free(c, data);
    header = 8 + b.data[0] + 256u * b.data[1];
    seed_parameters(m, 950, some);
    before = state(m);
    for (at = 0; at < n; at += at < header + 4 || at + 8 > n ? 1 : 61) {
        if (!check_refused(m, &before, b.data, at))
                printf("    cut at %lu\n", (unsigned long)at);
        CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte ", "");
    }
    put(&b, "", 1); /* and a byte too many */
    check_refused(m, &before, b.data, b.size);
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte ", "1 bytes that belong to no tensor");
    drop(&b);
    drop(&before);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void header_lengths(void)
{
    static const uint64_t lengths[] = {
        0, 1, 40, 41, 4096, 100000001, 0x7fffffff, 0xffffffff, 0x100000000, 0x7fffffffffffffff,
        0x8000000000000000, 0xfffffffffffffff7, 0xfffffffffffffff8, 0xffffffffffffffff};
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900);
    bytes before = state(m);
    size_t peak = l2l_memory_peak(c);
    int i;
    for (i = 0; i < COUNT(lengths); i++) {
        bytes b = {NULL, 0, 0};
        put_number(&b, lengths[i], 8, 0);
        put_text(&b, "{}                                     "); /* 39 bytes */
        check_refused(m, &before, b.data, b.size);
        if (!CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte 0: ", "header"))
            printf("    length %d\n", i);
        drop(&b);
    }
    CHECK(l2l_memory_peak(c) < peak + 65536);
    drop(&before);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void broken_headers(void)
{
    /* ' stands for a double quote; 24 bytes of data follow */
    static const struct { const char *header, *cause; } cases[] = {
        {"{'a':{'dtype':'F32','shape':[3],'data_offsets':[12,0]},'b':{'dtype':'F32','shape':[3],"
         "'data_offsets':[12,24]}}", "data_offsets that are not in"},
        {"{'a':{'dtype':'F32','shape':[4],'data_offsets':[0,16]},'b':{'dtype':'F32','shape':[4],"
         "'data_offsets':[8,24]}}", "'b'"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[0,24]},'b':{'dtype':'F32','shape':[6],"
         "'data_offsets':[0,24]}}", "begins here"},
        {"{'a':{'dtype':'F32','shape':[3],'data_offsets':[12,24]}}", "'a'"},
        {"{'a':{'dtype':'F32','shape':[3],'data_offsets':[0,12]}}", "12 bytes that belong to no tensor"},
        {"{'a':{'dtype':'F32','shape':[7],'data_offsets':[0,28]}}", "data_offsets that are not in"},
        {"{'a':{'dtype':'F32','shape':[7],'data_offsets':[9223372036854775804,9223372036854775807]}}", "offsets"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[0,9223372036854775808]}}", "beyond 2^63-1"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[18446744073709551616,24]}}", "beyond 2^63-1"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[-4,20]}}", "not negative"},
        {"{'a':{'dtype':'F32','shape':[5],'data_offsets':[0,24]}}", "not what shape and dtype ask for"},
        {"{'a':{'dtype':'F64','shape':[6],'data_offsets':[0,24]}}", "not what shape and dtype ask for"},
        {"{'a':{'dtype':'F32','shape':[4294967296,4294967296,6],'data_offsets':[0,24]}}", "shape and dtype"},
        {"{'a':{'dtype':'F32','shape':[4611686018427387910],'data_offsets':[0,24]}}", "shape and dtype"},
        {"{'a':{'dtype':'F32','shape':[6.0],'data_offsets':[0,24]}}", "expected ]"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[0]}}", "two data_offsets"},
        {"{'a':{'dtype':'F32','data_offsets':[0,24]}}", "shape"},
        {"{'a':{'dtype':'F32','shape':[6],'shape':[6],'data_offsets':[0,24]}}", "second time"},
        {"{'a':{'dtype':'F32','shape':[3],'data_offsets':[0,12]},'a':{'dtype':'F32','shape':[3],"
         "'data_offsets':[12,24]}}", "two tensors are called 'a'"},
        {"{'':{'dtype':'F32','shape':[6],'data_offsets':[0,24]}}", "without a name"},
        {"{'\\u12':{'dtype':'F32','shape':[6],'data_offsets':[0,24]}}", "hexadecimal"},
        {"{'a\n':{'dtype':'F32','shape':[6],'data_offsets':[0,24]}}", "control character"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[0,24]}} x", "after the header's end"},
        {"{'a':{'dtype':'F32','shape':[6],'data_offsets':[0,24]},}", "expected \""},
        {"{'a':{'dtype':'F32','shape':[06],'data_offsets':[0,24]}}", "leading zeros"},
        {"{'__metadata__':{'epochs':3},'a':{'dtype':'F32','shape':[6],'data_offsets':[0,24]}}", "expected \""},
        {"{'__metadata__':{},'__metadata__':{},'a':{'dtype':'F32','shape':[6],'data_offsets':[0,24]}}",
         "second time"},
        {"[1,2]", "expected {"},
        {"{}", "24 bytes that belong to no tensor"},
    };
    static const unsigned char data[24] = {0};
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900);
    bytes before = state(m), b;
    int i, j;
    for (i = 0; i < COUNT(cases); i++) {
        char header[200];
        for (j = 0; cases[i].header[j]; j++)
            header[j] = (char)(cases[i].header[j] == '\'' ? '"' : cases[i].header[j]);
        header[j] = 0;
        b = assemble(header, data, sizeof data);
        check_refused(m, &before, b.data, b.size);
        if (!CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte ", cases[i].cause))
            printf("    %s\n", cases[i].header);
        drop(&b);
    }
    for (i = 0; i < 4; i++) { /* nested deeply: the stack must not grow with it */
        static const char *const open[] = {
            "[", "{\"a\":", "{\"a\":{\"shape\":[", "{\"__metadata__\":{\"a\":"};
        bytes header = {NULL, 0, 0};
        for (j = 0; j < 200000; j++) put_text(&header, open[i]);
        put(&header, "", 1);
        b = assemble((const char *)header.data, data, sizeof data);
        check_refused(m, &before, b.data, b.size);
        CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte ", "");
        drop(&header);
        drop(&b);
    }
    drop(&before);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- saving over a file ------------------------------------------------------------------------ */

static void saving_keeps_the_old(void)
{
    static const l2l_real numbers[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t shape[2] = {2, 3}, integers[2] = {-1, 1};
    l2l_context *c = test_context(1);
    l2l_model *m = make(c, "tiny", tiny_forward, 900);
    l2l_learned_options o = l2l_learned_default();
    l2l_learned *phi = l2l_learned_create(c, &o);
    char *file = path("kept"), *beside = path("kept.l2ladv-tmp0"), *inside = path("kept/old"),
         *nowhere = path("not there/model"), *no_directory = path("not there");
    bytes b;
    int k;
    /* an existing file is replaced, and nothing is left beside it */
    write_file(file, "old and long enough to show if it were overwritten only at its start", 60);
    for (k = 0; k < 4; k++) {
        CHECK(k == 0 ? npy_save_reals(c, file, numbers, shape, 2)
            : k == 1 ? npy_save_integers(c, file, integers, shape, 1)
            : k == 2 ? l2l_learned_save(phi, file) : l2l_model_save(m, file));
        CHECK_OK(c);
        CHECK(!exists(beside));
    }
    b = read_file(file);
    CHECK(b.size > 200);
    drop(&b);
    /* what could not be loaded again replaces nothing */
    write_file(file, "old", 3);
    for (k = 0; k < 4; k++) {
        l2l_real *v = k < 2 ? l2l_learned_parameters(phi) : l2l_model_parameter(m, 0).value->data, was = v[1];
        void *data = &k;
        size_t size = 1;
        v[1] = (l2l_real)(k % 2 ? (double)INFINITY : (double)NAN);
        CHECK(!(k < 2 ? l2l_learned_save(phi, file) : l2l_model_save(m, file)));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, k < 2 ? "'cell.weight_ih': number 1 is" : "number 9 is");
        CHECK(!(k < 2 ? l2l_learned_save_memory(phi, &data, &size) : l2l_model_save_memory(m, &data, &size)));
        CHECK_ERROR(c, L2L_ERROR_NUMERIC, "not finite");
        CHECK(!data && !size);
        v[1] = was;
        b = read_file(file);
        if (CHECK_INT(3, b.size)) CHECK_BYTES("old", b.data, 3);
        drop(&b);
    }
    /* a folder that has the temporary file's name is left alone */
    write_file(file, "old", 3);
    if (CHECK(mkdir(beside, 0777) == 0)) {
        CHECK(l2l_model_save(m, file));
        CHECK_OK(c);
        CHECK(exists(beside)); /* it was not ours */
        rmdir(beside);
    }
    remove(file);
    /* the directory is not there; the target is a directory */
    if (!CHECK(mkdir(file, 0777) == 0)) return;
    write_file(inside, "old", 3);
    for (k = 0; k < 8; k++) {
        const char *to = k < 4 ? nowhere : file;
        CHECK(!(k % 4 == 0 ? npy_save_reals(c, to, numbers, shape, 2)
              : k % 4 == 1 ? npy_save_integers(c, to, integers, shape, 1)
              : k % 4 == 2 ? l2l_learned_save(phi, to) : l2l_model_save(m, to)));
        CHECK_NAMED(c, L2L_ERROR_FILE, to, NULL, k < 4 ? "No such file" : "directory");
        CHECK(!exists(beside));
        CHECK(!exists(no_directory));
    }
    b = read_file(inside);
    if (CHECK_INT(3, b.size)) CHECK_BYTES("old", b.data, 3);
    drop(&b);
    remove(inside);
    rmdir(file);
    free(file);
    free(beside);
    free(inside);
    free(nowhere);
    free(no_directory);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* No file may grow: the old one stays, no temporary one is left. */
static void a_full_disk(void)
{
    static const int64_t shape[1] = {100000};
    l2l_context *c = test_context(1);
    char *file = path("full"), *beside = path("full.l2ladv-tmp0");
    l2l_real *v = test_array(shape[0]);
    struct rlimit old, small;
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    bytes b;
    write_file(file, "old", 3);
    if (CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0)) {
        small = old;
        small.rlim_cur = 5000;
        setrlimit(RLIMIT_FSIZE, &small);
        CHECK(!npy_save_reals(c, file, v, shape, 1));
        setrlimit(RLIMIT_FSIZE, &old);
        CHECK_NAMED(c, L2L_ERROR_FILE, file, ", byte ", "large");
        CHECK(!exists(beside));
        b = read_file(file);
        if (CHECK_INT(3, b.size)) CHECK_BYTES("old", b.data, 3);
        drop(&b);
    }
    signal(SIGXFSZ, before);
    remove(file);
    free(v);
    free(file);
    free(beside);
    l2l_context_free(c);
}

/* -- IDX --------------------------------------------------------------------------------------- */

/* What a byte becomes; stored, so that no wider register keeps more digits. */
static double pixel(int byte)
{
    volatile l2l_real v = (l2l_real)byte / 255;
    return (double)v;
}

static bytes idx(uint32_t magic, int rank, const uint32_t *sizes, size_t n, int fill)
{
    static const bytes none;
    bytes b = none;
    size_t i;
    int k;
    put_number(&b, magic, 4, 1);
    for (k = 0; k < rank; k++) put_number(&b, sizes[k], 4, 1);
    for (i = 0; i < n; i++) put_number(&b, (uint64_t)(fill ? i * 37 % 256 : i % 10), 1, 1);
    return b;
}

static void idx_files(void)
{
    static const uint32_t sizes[3] = {4, 3, 5};
    l2l_context *c = test_context(1);
    char *x = path("images.idx"), *y = path("labels.idx");
    bytes images = idx(0x803, 3, sizes, 60, 1), labels = idx(0x801, 1, sizes, 4, 0);
    int i, from_file;
    write_file(x, images.data, images.size);
    write_file(y, labels.data, labels.size);
    for (from_file = 0; from_file < 2; from_file++) {
        l2l_dataset d;
        l2l_real v[60];
        int label[4];
        bool ok;
        memset(&d, 0x55, sizeof d);
        ok = from_file ? l2l_dataset_idx(c, x, y, 10, &d)
                       : l2l_dataset_idx_memory(c, images.data, images.size, labels.data,
                                                labels.size, 10, &d);
        if (CHECK(ok)) {
            CHECK_INT(4, d.count);
            CHECK_INT(1, d.channels);
            CHECK_INT(3, d.height);
            CHECK_INT(5, d.width);
            CHECK_INT(10, d.classes);
            if (CHECK(l2l_dataset_read(&d, 0, 4, v, label))) {
                for (i = 0; i < 60; i++) CHECK_NEAR(pixel(i * 37 % 256), v[i], 0);
                for (i = 0; i < 4; i++) CHECK_INT(i, label[i]);
            }
            CHECK_OK(c);
            CHECK(!l2l_dataset_read(&d, 2, 3, v, label));
            CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "3 images from 2 on, of 4");
            l2l_dataset_free(&d);
        }
        CHECK_OK(c);
        CHECK_INT(0, l2l_memory_used(c) > 65536);
    }
    drop(&images);
    drop(&labels);
    remove(x);
    remove(y);
    free(x);
    free(y);
    l2l_context_free(c);
}

static void broken_idx(void)
{
    static const struct {
        uint32_t magic;
        int rank;
        uint32_t sizes[4];
        size_t n;
        int labels; /* the odd file is the one of labels */
        const char *at, *cause;
    } cases[] = {
        {0x803, 3, {4, 3, 5, 0}, 59, 0, ", byte 75: ",
         "truncated: the header announces 60 bytes of data, the file has 59"},
        {0x803, 3, {4, 3, 5, 0}, 0, 0, ", byte 16: ", "truncated"},
        {0x803, 3, {4, 3, 5, 0}, 61, 0, ", byte 76: ", "too long"},
        {0x803, 2, {4, 3, 0, 0}, 2, 0, ", byte 14: ", "truncated in the header"},
        {0x803, 0, {0, 0, 0, 0}, 0, 0, ", byte 4: ", "truncated in the header"},
        {0x801, 1, {4, 0, 0, 0}, 4, 0, ", byte 0: ", "not an IDX file of images"},
        {0xC03, 3, {4, 3, 5, 0}, 240, 0, ", byte 0: ", "not an IDX file of images"},
        {0x10803, 3, {4, 3, 5, 0}, 60, 0, ", byte 0: ", "not an IDX file of images"},
        {0x805, 4, {4, 3, 5, 1}, 60, 0, ", byte 0: ", "not an IDX file of images"},
        {0x1f8b0800, 3, {4, 3, 5, 0}, 60, 0, ", byte 0: ", "gzip"},
        {0x803, 3, {0, 3, 5, 0}, 0, 0, ", byte 4: ", "size 0 is 0"},
        {0x803, 3, {4, 0, 5, 0}, 0, 0, ", byte 8: ", "size 1 is 0"},
        {0x803, 3, {4, 3, 0, 0}, 0, 0, ", byte 12: ", "size 2 is 0"},
        {0x803, 3, {4, 0x80000000u, 5, 0}, 60, 0, ", byte 8: ", "size 1 is 2147483648"},
        {0x803, 3, {4, 0xffffffffu, 0xffffffffu, 0}, 60, 0, ", byte 8: ", "size 1 is 4294967295"},
        {0x803, 3, {4, 0x7fffffff, 0x7fffffff, 0}, 60, 0, ", byte ", "truncated"}, /* 2^64 and a bit */
        {0x803, 3, {0x40000000, 0x40000000, 16, 0}, 0, 0, ", byte ", "truncated"}, /* 0 modulo 2^64 */
        {0x803, 3, {16, 0x40000000, 0x40000000, 0}, 0, 0, ", byte ", "truncated"},
        {0x804, 4, {4, 1, 3, 5}, 60, 0, ", byte 0: ", "not an IDX file of images"},
        {0x803, 3, {5, 3, 4, 0}, 60, 0, ", byte 4: ", "4 labels for 5 images"},
        {0x801, 1, {5, 0, 0, 0}, 5, 1, ", byte 4: ", "5 labels for 4 images"},
        {0x801, 1, {3, 0, 0, 0}, 3, 1, ", byte 4: ", "3 labels for 4 images"},
        {0x801, 1, {4, 0, 0, 0}, 3, 1, ", byte 11: ", "truncated"},
        {0x801, 1, {4, 0, 0, 0}, 5, 1, ", byte 12: ", "too long"},
        {0x803, 3, {4, 1, 1, 0}, 4, 1, ", byte 0: ", "not an IDX file of labels"},
        {0x1f8b0800, 1, {4, 0, 0, 0}, 4, 1, ", byte 0: ", "gzip"},
    };
    static const uint32_t sizes[3] = {4, 3, 5};
    l2l_context *c = test_context(1);
    char *x = path("broken images.idx"), *y = path("broken labels.idx");
    bytes images = idx(0x803, 3, sizes, 60, 1), labels = idx(0x801, 1, sizes, 4, 0);
    size_t peak = l2l_memory_peak(c), at;
    l2l_dataset d, kept;
    int i;
    memset(&d, 0, sizeof d);
    kept = d;
    kept.context = c;          /* empty, but it knows where the error is */
    for (i = 0; i < COUNT(cases); i++) {
        bytes b = idx(cases[i].magic, cases[i].rank, cases[i].sizes, cases[i].n, 0);
        const bytes *p = cases[i].labels ? &images : &b, *q = cases[i].labels ? &b : &labels;
        int blame = cases[i].labels || strstr(cases[i].cause, "labels for");
        unsigned char *v = cut(p->data, p->size), *w = cut(q->data, q->size);
        CHECK(!l2l_dataset_idx_memory(c, v, p->size, w, q->size, 10, &d));
        if (!CHECK_NAMED(c, L2L_ERROR_FORMAT, blame ? "labels in memory" : "images in memory",
                         cases[i].at, cases[i].cause))
            printf("    case %d\n", i);
        write_file(x, v, p->size);
        write_file(y, w, q->size);
        CHECK(!l2l_dataset_idx(c, x, y, 10, &d));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, blame ? y : x, cases[i].at, cases[i].cause);
        CHECK_BYTES(&kept, &d, sizeof d);
        free(v);
        free(w);
        drop(&b);
    }
    for (at = 0; at < images.size; at++) {
        unsigned char *v = cut(images.data, at);
        CHECK(!l2l_dataset_idx_memory(c, v, at, labels.data, labels.size, 10, &d));
        CHECK_ERROR(c, L2L_ERROR_FORMAT, "images in memory, byte ");
        free(v);
    }
    for (at = 0; at < labels.size; at++) {
        unsigned char *v = cut(labels.data, at);
        CHECK(!l2l_dataset_idx_memory(c, images.data, images.size, v, at, 10, &d));
        CHECK_ERROR(c, L2L_ERROR_FORMAT, "labels in memory, byte ");
        free(v);
    }
    CHECK(!l2l_dataset_idx_memory(c, images.data, images.size, labels.data, labels.size, 3, &d));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "labels in memory", ", byte 11: ",
                "label 3 is 3, not in 0..2");
    CHECK(l2l_memory_peak(c) < peak + 65536);
    remove(x);
    write_file(y, labels.data, labels.size);
    CHECK(!l2l_dataset_idx(c, x, y, 10, &d));
    CHECK_NAMED(c, L2L_ERROR_FILE, x, NULL, "No such file");
    write_file(x, images.data, images.size);
    remove(y);
    CHECK(!l2l_dataset_idx(c, x, y, 10, &d));
    CHECK_NAMED(c, L2L_ERROR_FILE, y, NULL, "No such file");
    CHECK_BYTES(&kept, &d, sizeof d);
    remove(x);
    drop(&images);
    drop(&labels);
    free(x);
    free(y);
    l2l_context_free(c);
}

/* -- CIFAR-10 ---------------------------------------------------------------------------------- */

enum { RECORD = 3073 };

/* n records; byte j of record i is 7i + 13j modulo 256, its label i modulo 10. */
static bytes cifar10(int first, int n)
{
    static const bytes none;
    bytes b = none;
    int i, j;
    for (i = first; i < first + n; i++)
        for (j = 0; j < RECORD; j++)
            put_number(&b, (uint64_t)(j ? (7 * i + 13 * (j - 1)) & 255 : i % 10), 1, 0);
    return b;
}

static void cifar10_files(void)
{
    l2l_context *c = test_context(1);
    bytes part[3];
    const void *data[3];
    char *name[3];
    const char *names[3];
    size_t sizes[3];
    int k, i, j, from_file;
    for (k = 0; k < 3; k++) {
        part[k] = cifar10(k * k, 2 * k + 1); /* images 0, 1..3, 4..8 */
        data[k] = part[k].data;
        sizes[k] = part[k].size;
        names[k] = name[k] = path(k == 0 ? "a.bin" : k == 1 ? "b.bin" : "c.bin");
        write_file(name[k], data[k], sizes[k]);
    }
    for (from_file = 0; from_file < 2; from_file++) {
        l2l_dataset d;
        l2l_real *v = test_array(9 * (RECORD - 1));
        int label[9];
        bool ok = from_file ? cifar10_from_files(c, names, 3, &d)
                            : cifar_from_memory(c, data, sizes, 3, 10, &d);
        if (CHECK(ok)) {
            CHECK_INT(9, d.count);
            CHECK_INT(3, d.channels);
            CHECK_INT(32, d.height);
            CHECK_INT(32, d.width);
            CHECK_INT(10, d.classes);
            if (CHECK(l2l_dataset_read(&d, 0, 9, v, label)))
                for (i = 0; i < 9; i++) {
                    CHECK_INT(i, label[i]);
                    for (j = 0; j < RECORD - 1; j++)
                        CHECK_NEAR(pixel((7 * i + 13 * j) & 255), v[i * (RECORD - 1) + j], 0);
                }
            l2l_dataset_free(&d);
        }
        CHECK_OK(c);
        CHECK(l2l_memory_used(c) < 65536);
        free(v);
    }
    for (k = 0; k < 3; k++) {
        remove(name[k]);
        free(name[k]);
        drop(&part[k]);
    }
    l2l_context_free(c);
}

static void broken_cifar10(void)
{
    static const size_t lengths[] = {0, 1, 2, RECORD - 1, RECORD + 1, 2 * RECORD - 1,
                                     2 * RECORD + 1, 3 * RECORD - 1};
    l2l_context *c = test_context(1);
    bytes good = cifar10(0, 2), b = cifar10(2, 3);
    const void *data[2];
    size_t sizes[2], peak;
    char *name[2], at[40];
    const char *names[2];
    l2l_dataset d, kept;
    int i;
    memset(&kept, 0, sizeof kept);
    kept.context = c;          /* empty, but it knows where the error is */
    names[0] = name[0] = path("good.bin");
    names[1] = name[1] = path("broken.bin");
    write_file(name[0], good.data, good.size);
    data[0] = good.data;
    sizes[0] = good.size;
    peak = l2l_memory_peak(c);
    for (i = 0; i < COUNT(lengths); i++) { /* the second file is cut off */
        unsigned char *v = cut(b.data, lengths[i] < b.size ? lengths[i] : b.size);
        data[1] = v;
        sizes[1] = lengths[i];
        snprintf(at, sizeof at, ", byte %lu: ", (unsigned long)(lengths[i] / RECORD * RECORD));
        CHECK(!cifar_from_memory(c, data, sizes, 2, 10, &d));
        if (!CHECK_NAMED(c, L2L_ERROR_FORMAT, "file 1 in memory", at, "truncated"))
            printf("    %lu bytes\n", (unsigned long)lengths[i]);
        write_file(name[1], v, lengths[i]);
        CHECK(!cifar10_from_files(c, names, 2, &d));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, name[1], at, "records of 3073");
        CHECK_BYTES(&kept, &d, sizeof d);
        free(v);
    }
    b.data[2 * RECORD] = 10;
    data[1] = b.data;
    sizes[1] = b.size;
    CHECK(!cifar_from_memory(c, data, sizes, 2, 10, &d));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "file 1 in memory", ", byte 6146: ",
                "label 2 is 10, not in 0..9");
    write_file(name[1], b.data, b.size);
    CHECK(!cifar10_from_files(c, names, 2, &d));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, name[1], ", byte 6146: ", "label 2 is 10");
    remove(name[1]);
    CHECK(!cifar10_from_files(c, names, 2, &d));
    CHECK_NAMED(c, L2L_ERROR_FILE, name[1], NULL, "No such file");
    CHECK(!cifar10_from_files(c, names, 0, &d));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "no files");
    CHECK_BYTES(&kept, &d, sizeof d);
    CHECK(l2l_memory_peak(c) < peak + 65536);
    remove(name[0]);
    for (i = 0; i < 2; i++) free(name[i]);
    drop(&good);
    drop(&b);
    l2l_context_free(c);
}

/* What a failed loader leaves can be freed, whatever was in the struct before. */
static void failures_can_be_freed(void)
{
    l2l_context *c = test_context(1);
    l2l_dataset d;
    npy_array a;
    memset(&d, 0x55, sizeof d);
    memset(&a, 0x55, sizeof a);
    CHECK(!l2l_dataset_idx(c, "not there", "not there", 10, &d));
    CHECK_NAMED(c, L2L_ERROR_FILE, "not there", NULL, "No such file");
    if (CHECK(d.release == NULL)) l2l_dataset_free(&d);
    memset(&d, 0x55, sizeof d);
    CHECK(!l2l_dataset_idx_memory(c, "", 0, "", 0, 10, &d));
    CHECK_ERROR(c, L2L_ERROR_FORMAT, "images in memory, byte 0");
    if (CHECK(d.release == NULL)) l2l_dataset_free(&d);
    CHECK(!npy_load(c, "not there", &a));
    CHECK_NAMED(c, L2L_ERROR_FILE, "not there", NULL, "No such file");
    if (CHECK(a.reals == NULL && a.integers == NULL)) npy_array_free(c, &a);
    memset(&a, 0x55, sizeof a);
    CHECK(!npy_load_memory(c, "", 0, &a));
    CHECK_ERROR(c, L2L_ERROR_FORMAT, "memory, byte 0");
    if (CHECK(a.reals == NULL && a.integers == NULL)) npy_array_free(c, &a);
    l2l_context_free(c);
}

/* -- .npy -------------------------------------------------------------------------------------- */

static bytes npy(int version, const char *dictionary, const void *data, size_t n)
{
    static const bytes none;
    size_t length = strlen(dictionary), start = version == 1 ? 10 : 12;
    size_t pad = 63 - (start + length) % 64;
    bytes b = none;
    put(&b, "\x93NUMPY", 6);
    put_number(&b, (uint64_t)version, 2, 0);
    put_number(&b, length + pad + 1, version == 1 ? 2 : 4, 0);
    put_text(&b, dictionary);
    while (pad--) put(&b, " ", 1);
    put(&b, "\n", 1);
    put(&b, data, n);
    return b;
}

static void npy_types(void)
{
    static const double reals[6] = {0, -0.0, 1.5, -3.25, 1e-30, 1e30};
    static const struct { const char *descr; int size, integer, is_signed; } types[] = {
        {"<f4", 4, 0, 1}, {">f4", 4, 0, 1}, {"<f8", 8, 0, 1}, {">f8", 8, 0, 1},
        {"|i1", 1, 1, 1}, {"<i2", 2, 1, 1}, {">i2", 2, 1, 1}, {"<i4", 4, 1, 1}, {">i4", 4, 1, 1},
        {"<i8", 8, 1, 1}, {">i8", 8, 1, 1}, {"|u1", 1, 1, 0}, {"<u2", 2, 1, 0}, {">u2", 2, 1, 0},
        {"<u4", 4, 1, 0}, {">u4", 4, 1, 0}, {"<u8", 8, 1, 0}, {">u8", 8, 1, 0}, {"|b1", 1, 1, 0}};
    l2l_context *c = test_context(1);
    int k, version, i;
    for (k = 0; k < COUNT(types); k++)
        for (version = 1; version <= 3; version++) {
            char dictionary[160];
            bytes data = {NULL, 0, 0}, b;
            int64_t expected[6];
            npy_array a;
            int big = types[k].descr[0] == '>', bits = 8 * types[k].size, single = bits == 32;
            for (i = 0; i < 6; i++) {
                int64_t top = (int64_t)(((uint64_t)1 << (bits - 1)) - 1); /* of the signed type */
                double real = single ? (double)(float)reals[i] : reals[i];
                expected[i] = types[k].descr[1] == 'b' ? i % 2 : i < 2 ? i : i == 2 ? top
                            : types[k].is_signed ? (i == 3 ? -1 : i == 4 ? -top - 1 : 42)
                            : bits == 64 ? 7 : i == 3 ? top + 1 : i == 4 ? 2 * top + 1 : 42;
                put_number(&data, types[k].integer ? (uint64_t)expected[i]
                                                   : encode(real, single ? 8 : 11, single ? 23 : 52),
                           types[k].size, big);
            }
            snprintf(dictionary, sizeof dictionary, k % 2 ?
                     "{'descr': '%s', 'fortran_order': False, 'shape': (2, 3), }" :
                     "{\"shape\":(2,3),\"descr\":\"%s\",\"fortran_order\":False}", types[k].descr);
            b = npy(version, dictionary, data.data, data.size);
            memset(&a, 0, sizeof a);
            if (CHECK(npy_load_memory(c, b.data, b.size, &a))) {
                CHECK_INT(2, a.rank);
                CHECK_INT(2, a.shape[0]);
                CHECK_INT(3, a.shape[1]);
                CHECK_INT(6, a.count);
                if (CHECK_INT(types[k].integer, a.integer))
                    for (i = 0; i < 6; i++)
                        if (!(a.integer ? CHECK_INT(expected[i], a.integers[i])
                                        : CHECK_NEAR((l2l_real)reals[i], a.reals[i], 0)))
                            printf("    %s, element %d\n", types[k].descr, i);
            }
            if (!CHECK_OK(c)) printf("    %s, version %d\n", types[k].descr, version);
            npy_array_free(c, &a);
            drop(&data);
            drop(&b);
        }
    l2l_context_free(c);
}

static void npy_shapes(void)
{
    static const struct { const char *text, *order; int rank; int64_t count; } cases[] = {
        {"()", "False", 0, 1}, {"(6,)", "False", 1, 6}, {"(6,)", "True", 1, 6}, {"(0,)", "False", 1, 0},
        {"(3, 0, 2)", "False", 3, 0}, {"(1, 2, 1, 3, 1, 1, 1, 1)", "False", 8, 6}};
    static const float v[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t shape[3] = {1, 2, 3}, whole[3] = {-5, 0, INT64_MAX};
    l2l_context *c = test_context(1);
    char *file = path("array.npy"), dictionary[160];
    npy_array a;
    bytes b;
    int i, k;
    for (k = 0; k < COUNT(cases); k++) {
        bytes data = {NULL, 0, 0};
        for (i = 0; i < cases[k].count; i++) put_number(&data, encode((double)v[i], 8, 23), 4, 0);
        snprintf(dictionary, sizeof dictionary,
                 "{'descr': '<f4', 'fortran_order': %s, 'shape': %s, }",
                 cases[k].order, cases[k].text);
        b = npy(1, dictionary, data.data, data.size);
        memset(&a, 0, sizeof a);
        if (CHECK(npy_load_memory(c, b.data, b.size, &a))) {
            CHECK_INT(cases[k].rank, a.rank);
            if (CHECK_INT(cases[k].count, a.count))
                CHECK_BYTES(v, a.reals, (size_t)a.count * sizeof *v);
        }
        if (!CHECK_OK(c)) printf("    %s\n", cases[k].text);
        npy_array_free(c, &a);
        drop(&b);
        drop(&data);
    }
    for (k = 0; k <= 3; k++) { /* what is written is read back, and is NumPy's own form */
        CHECK(npy_save_reals(c, file, v, shape, k));
        memset(&a, 0, sizeof a);
        if (CHECK(npy_load(c, file, &a))) {
            CHECK_INT(k, a.rank);
            CHECK_BYTES(shape, a.shape, (size_t)k * sizeof *shape);
            CHECK_BYTES(v, a.reals, (size_t)a.count * sizeof *v);
        }
        npy_array_free(c, &a);
    }
    CHECK(npy_save_integers(c, file, whole, shape + 2, 1));
    memset(&a, 0, sizeof a);
    if (CHECK(npy_load(c, file, &a)) && CHECK(a.integer))
        CHECK_BYTES(whole, a.integers, sizeof whole);
    npy_array_free(c, &a);
    b = read_file(file);
    if (CHECK_INT(128 + 24, b.size)) {
        CHECK_BYTES("\x93NUMPY\1\0\x76\0{'descr': '<i8', 'fortran_order': False, 'shape': (3,), } ",
                    b.data, 68);
        CHECK_INT('\n', b.data[127]);
    }
    drop(&b);
    CHECK_OK(c);
    remove(file);
    free(file);
    l2l_context_free(c);
}

static void broken_npy(void)
{
    static const struct { const char *dictionary; size_t n; const char *cause; } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 23,
         "6 elements of 4 bytes announced, 23 bytes of data"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 28, "28 bytes of data"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }", 24, "announced"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,), }", 0, "announced"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 0, "beyond 2^63-1"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }", 24, "beyond 2^63-1"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }", 24, "not negative"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6), }", 24, "comma"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6 2), }", 24, "expected )"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': [6], }", 24, "expected ("},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,6), }", 24, "8 axes"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (6,), }", 24, "True or False"},
        {"{'descr': '<f4', 'shape': (6,), }", 24, "all needed"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'shape': (6,), }", 24, "second time"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1, }", 24, "unknown key"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", 24, "'<c8'"},
        {"{'descr': '<i3', 'fortran_order': False, 'shape': (8,), }", 24, "'<i3'"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", 24, "'|O'"},
        {"{'descr': '<U6', 'fortran_order': False, 'shape': (1,), }", 24, "'<U6'"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", 24, "expected \""},
        {"{'descr': '<f4", 24, "without an end"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } x", 24, "after the header's end"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), ", 24, "expected"},
        {"", 24, "expected {"},
        {"((((((((((((((((", 24, "expected {"},
    };
    static const unsigned char data[32] = {0};
    l2l_context *c = test_context(1);
    char *file = path("broken.npy");
    size_t peak = l2l_memory_peak(c), at;
    npy_array a, kept;
    bytes b;
    int i;
    memset(&a, 0, sizeof a);
    kept = a;
    for (i = 0; i < COUNT(cases); i++) {
        unsigned char *p;
        b = npy(1, cases[i].dictionary, data, cases[i].n);
        p = cut(b.data, b.size);
        CHECK(!npy_load_memory(c, p, b.size, &a));
        if (!CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte ", cases[i].cause))
            printf("    %s\n", cases[i].dictionary);
        write_file(file, p, b.size);
        CHECK(!npy_load(c, file, &a));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, file, ", byte ", cases[i].cause);
        CHECK_BYTES(&kept, &a, sizeof a);
        free(p);
        drop(&b);
    }
    for (i = 1; i <= 3; i++) {
        b = npy(i, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }", data, 32);
        for (at = 0; at < b.size; at++) {
            unsigned char *p = cut(b.data, at);
            if (!CHECK(!npy_load_memory(c, p, at, &a)))
                printf("    cut at %lu\n", (unsigned long)at);
            CHECK_ERROR(c, L2L_ERROR_FORMAT, "memory, byte ");
            free(p);
        }
        b.data[6] = (unsigned char)(i == 3 ? 4 : 0); /* versions 0 and 4 */
        CHECK(!npy_load_memory(c, b.data, b.size, &a));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte 0: ",
                    "not a .npy file of version 1.0 to 3.0");
        drop(&b);
    }
    b = npy(2, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }", data, 32);
    memset(b.data + 8, 0xFF, 4); /* a header of 4 GB */
    CHECK(!npy_load_memory(c, b.data, b.size, &a));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte 8: ", "a header of 4294967295 bytes");
    drop(&b);
    b = npy(1, "{'descr': '<u8', 'fortran_order': False, 'shape': (2,), }",
            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x80", 16);
    CHECK(!npy_load_memory(c, b.data, b.size, &a));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte 136: ", "element 1 does not fit");
    drop(&b);
    b = npy(1, "{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", "\1\2", 2);
    CHECK(!npy_load_memory(c, b.data, b.size, &a));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "memory", ", byte 129: ", "element 1 does not fit");
    drop(&b);
    CHECK_BYTES(&kept, &a, sizeof a);
    CHECK(l2l_memory_peak(c) < peak + 65536);
    CHECK(!npy_load(c, directory, &a));
    CHECK_NAMED(c, L2L_ERROR_FILE, directory, NULL, "directory");
    remove(file);
    free(file);
    l2l_context_free(c);
}

/* -- shards ------------------------------------------------------------------------------------ */

static long reads, read_fails_at, longest_read; /* of all sources; 0: none fails */
static bool read_bytes(void *user, int64_t offset, void *to, size_t n)
{
    const bytes *b = (const bytes *)user;
    if (++reads == read_fails_at) return false;
    if (!CHECK(offset >= 0 && (uint64_t)offset <= b->size && n <= b->size - (size_t)offset))
        return false;
    memcpy(to, b->data + offset, n);
    return true;
}
/* The bytes of `user`, and then for ever bytes that are a function of where they are. */
static bool read_nowhere(void *user, int64_t offset, void *to, size_t n)
{
    const bytes *header = (const bytes *)user;
    unsigned char *p = (unsigned char *)to;
    size_t i;
    if ((long)n > longest_read) longest_read = (long)n;
    for (i = 0; i < n; i++) {
        uint64_t at = (uint64_t)offset + i;
        p[i] = at < header->size ? header->data[at] : (unsigned char)((at - header->size) % 251);
    }
    return true;
}
static shards_source source_of(bytes *b)
{
    shards_source s;
    s.bytes = (int64_t)b->size;
    s.read_at = read_bytes;
    s.user = b;
    return s;
}

/* An array of this type and shape ("2, 3, "); element i is (first + i) * step modulo `modulus`. */
static bytes integers(const char *descr, const char *shape, int n, int first, int step, int modulus)
{
    char dictionary[160];
    bytes data = {NULL, 0, 0}, b;
    int i;
    for (i = 0; i < n; i++)
        put_number(&data, (uint64_t)((first + i) * step % modulus), descr[2] - '0',
                   descr[0] == '>');
    snprintf(dictionary, sizeof dictionary,
             "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape);
    b = npy(1, dictionary, data.data, data.size);
    drop(&data);
    return b;
}

static char *shard_path(int k, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "shard-%05d-%s.npy", k, what);
    return path(name);
}

/* Shards are read by the names that the library writes, on Windows, too. */
static void shards_in_utf8(void)
{
    l2l_context *c = test_context(1);
    char *prefix = path("K\303\266ln"), *x = path("K\303\266ln-00000-images.npy");
    char *y = path("K\303\266ln-00000-labels.npy");
    bytes images = integers("|u1", "2, 2, 3", 12, 0, 5, 256);
    bytes labels = integers("|u1", "2,", 2, 0, 1, 256);
    l2l_dataset d;
    CHECK(l2l_save_bytes(c, x, images.data, images.size) &&
          l2l_save_bytes(c, y, labels.data, labels.size));
    if (CHECK(shards_from_files(c, prefix, 2, &d))) {
        CHECK_INT(2, d.count);
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    remove(x);
    remove(y);
    drop(&images);
    drop(&labels);
    free(prefix);
    free(x);
    free(y);
    l2l_context_free(c);
}

/* Three shards of 2, 1 and 3 images of 2x3x4 (HxWxC), and of 2x3. */
static void shard_files(void)
{
    static const char *const shapes[2][3] = {{"2, 2, 3, 4", "1, 2, 3, 4", "3, 2, 3, 4"},
                                             {"2, 2, 3", "1, 2, 3", "3, 2, 3"}};
    static const char *const labels[3] = {"|u1", "<i8", ">u2"}, *const counts[3] = {"2,", "1,", "3,"};
    static const int n[3] = {2, 1, 3}, first[3] = {0, 2, 3};
    l2l_context *c = test_context(1);
    char *prefix = path("shard");
    int grey, k, i, p, ch, from_file;
    for (grey = 0; grey < 2; grey++) {
        int channels = grey ? 1 : 4, size = 6 * channels;
        bytes x[3], y[3];
        shards_source images[3], classes[3];
        for (k = 0; k < 3; k++) {
            char *a = shard_path(k, "images"), *b = shard_path(k, "labels");
            x[k] = integers("|u1", shapes[grey][k], n[k] * size, first[k] * size, 11, 256);
            y[k] = integers(labels[k], counts[k], n[k], first[k], 1, 256);
            images[k] = source_of(&x[k]);
            classes[k] = source_of(&y[k]);
            write_file(a, x[k].data, x[k].size);
            write_file(b, y[k].data, y[k].size);
            free(a);
            free(b);
        }
        for (from_file = 0; from_file < 2; from_file++) {
            l2l_dataset d;
            l2l_real v[6 * 24];
            int label[6];
            bool ok = from_file ? shards_from_files(c, prefix, 6, &d)
                                : shards_from_sources(c, NULL, images, classes, 3, 6, &d);
            if (CHECK(ok)) {
                CHECK_INT(6, d.count);
                CHECK_INT(channels, d.channels);
                CHECK_INT(2, d.height);
                CHECK_INT(3, d.width);
                CHECK_INT(6, d.classes);
                if (CHECK(l2l_dataset_read(&d, 0, 6, v, label)))
                    for (i = 0; i < 6; i++) {
                        CHECK_INT(i, label[i]);
                        for (ch = 0; ch < channels; ch++)
                            for (p = 0; p < 6; p++)
                                CHECK_NEAR(pixel((i * size + p * channels + ch) * 11 % 256),
                                           v[i * size + ch * 6 + p], 0);
                    }
                CHECK_OK(c);
                CHECK(!l2l_dataset_read(&d, 6, 1, v, label));
                CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "of 6");
                if (!from_file) { /* a source that fails later */
                    read_fails_at = reads + 2;
                    CHECK(!l2l_dataset_read(&d, 2, 3, v, label));
                    CHECK_NAMED(c, L2L_ERROR_FILE, "images of shard 2", ", byte 128: ",
                                "cannot read image 3");
                    read_fails_at = 0;
                    CHECK(l2l_dataset_read(&d, 2, 3, v, label));
                }
                l2l_dataset_free(&d);
            }
            CHECK_OK(c);
            CHECK(l2l_memory_used(c) < 65536);
        }
        for (k = 0; k < 3; k++) {
            drop(&x[k]);
            drop(&y[k]);
        }
    }
    {
        char *x1 = shard_path(1, "images"), *y1 = shard_path(1, "labels");
        char *x0 = shard_path(0, "images");
        char *x2 = shard_path(2, "images"), *y2 = shard_path(2, "labels");
        l2l_dataset d;
        remove(y1);
        CHECK(!shards_from_files(c, prefix, 6, &d));
        CHECK_NAMED(c, L2L_ERROR_FILE, y1, NULL, "No such file");
        remove(x1); /* a gap: the third is there */
        CHECK(!shards_from_files(c, prefix, 6, &d));
        CHECK_NAMED(c, L2L_ERROR_FILE, x1, NULL, "No such file");
        remove(x2);
        remove(y2); /* the first number of which nothing is there is the end */
        if (CHECK(shards_from_files(c, prefix, 6, &d))) {
            CHECK_INT(2, d.count);
            l2l_dataset_free(&d);
        }
        remove(x0);
        CHECK(!shards_from_files(c, prefix, 6, &d));
        CHECK_NAMED(c, L2L_ERROR_FILE, x0, NULL, "No such file");
        write_file(x0, "", 0);
        CHECK(!shards_from_files(c, prefix, 6, &d));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, x0, ", byte 0: ", "not a .npy file");
        CHECK(d.release == NULL);
        free(x0);
        free(x1);
        free(y1);
        free(x2);
        free(y2);
    }
    for (k = 0; k < 3; k++) {
        char *a = shard_path(k, "images"), *b = shard_path(k, "labels");
        remove(a);
        remove(b);
        free(a);
        free(b);
    }
    free(prefix);
    CHECK_OK(c);
    l2l_context_free(c);
}

/* Two good shards of two images, one of whose four arrays is another. */
static void broken_shards(void)
{
    static const struct {
        int which; /* 0, 1: images; 2, 3: labels */
        const char *descr, *shape;
        int n;
        const char *at, *cause;
    } cases[] = {
        {1, "|u1", "2, 2, 3, 1", 11, ", byte 128: ", "12 elements of 1 bytes announced, 11 bytes"},
        {1, "|u1", "2, 2, 3, 1", 13, ", byte 128: ", "13 bytes"},
        {0, "|i1", "2, 2, 3, 1", 12, ", byte 10: ", "not i1 as (2, 2, 3, 1)"},
        {0, "<u2", "2, 2, 3, 1", 12, ", byte 10: ", "not u2 as"},
        {0, "<f4", "2, 2, 3, 1", 12, ", byte 10: ", "not f4 as"},
        {0, "|u1", "2, 6", 12, ", byte 10: ", "not u1 as (2, 6)"},
        {0, "|u1", "2, 2, 3, 1, 1", 12, ", byte 10: ", "not u1 as (2, 2, 3, 1, 1)"},
        {0, "|u1", "0, 2, 3, 1", 0, ", byte 10: ", "not u1 as (0, 2, 3, 1)"},
        {0, "|u1", "2, 2, 0, 1", 0, ", byte 10: ", "not u1 as"},
        {0, "|u1", "9223372036854775807, 0, 3, 1", 0, ", byte 10: ", "not u1 as"},
        {1, "|u1", "9223372036854775807, 2, 3, 1", 12, ", byte 10: ", "beyond 2^63-1"},
        {1, "|u1", "4294967296, 4294967296, 3, 1", 12, ", byte 10: ", "beyond 2^63-1"},
        {1, "|u1", "2147483647, 2, 3, 1", 12, ", byte 128: ", "announced"},
        {1, "|u1", "2, 3, 2, 1", 12, ", byte 10: ", "images of 1x3x2 (CxHxW) after some of 1x2x3"},
        {1, "|u1", "2, 2, 3, 2", 24, ", byte 10: ", "images of 2x2x3"},
        {1, "|u1", "1, 2, 6, 1", 12, ", byte 10: ", "images of 1x2x6"},
        {2, "|u1", "3,", 3, ", byte 10: ", "expected 2 integers"},
        {3, "|u1", "1,", 1, ", byte 10: ", "expected 2 integers"},
        {3, "|u1", "2, 1", 2, ", byte 10: ", "expected 2 integers"},
        {3, "|u1", "90000,", 90000, ", byte 10: ", "expected 2 integers"},
        {3, "<f4", "2,", 2, ", byte 10: ", "expected 2 integers"},
        {3, "<i4", "2,", 1, ", byte 128: ", "announced"},
        {3, "|u1", "2,", -2, ", byte 129: ", "label 1 is 4, not in 0..3"},
        {2, "<i8", "2,", -2, ", byte 136: ", "label 1 is 4, not in 0..3"},
    };
    l2l_context *c = test_context(1);
    bytes good[4];
    shards_source s[4];
    l2l_dataset d, kept;
    size_t peak = l2l_memory_peak(c);
    long all, k;
    int i;
    memset(&kept, 0, sizeof kept);
    kept.context = c;          /* empty, but it knows where the error is */
    for (i = 0; i < 4; i++)
        good[i] = i < 2 ? integers("|u1", "2, 2, 3, 1", 12, 0, 5, 256)
                        : integers("|u1", "2,", 2, 0, 1, 256);
    for (i = 0; i < COUNT(cases); i++) {
        int n = cases[i].n < 0 ? -cases[i].n : cases[i].n, w = cases[i].which;
        bytes b = integers(cases[i].descr, cases[i].shape, n, 0, cases[i].n < 0 ? 4 : 1,
                           n > 100 ? 2 : 256);
        char *a[4], label[40];
        char *prefix = path("shard");
        snprintf(label, sizeof label, "%s of shard %d", w < 2 ? "images" : "labels", w % 2);
        for (k = 0; k < 4; k++) {
            s[k] = source_of(k == w ? &b : &good[k]);
            a[k] = shard_path((int)k % 2, k < 2 ? "images" : "labels");
            write_file(a[k], k == w ? b.data : good[k].data, k == w ? b.size : good[k].size);
        }
        CHECK(!shards_from_sources(c, NULL, s, s + 2, 2, 4, &d));
        if (!CHECK_NAMED(c, L2L_ERROR_FORMAT, label, cases[i].at, cases[i].cause))
            printf("    case %d\n", i);
        CHECK(!shards_from_files(c, prefix, 4, &d));
        CHECK_NAMED(c, L2L_ERROR_FORMAT, a[w], cases[i].at, cases[i].cause);
        CHECK_BYTES(&kept, &d, sizeof d);
        for (k = 0; k < 4; k++) {
            remove(a[k]);
            free(a[k]);
        }
        free(prefix);
        drop(&b);
    }
    for (i = 0; i < 4; i++) s[i] = source_of(&good[i]);
    for (i = 0; i < 4; i++) { /* cut off anywhere; lengths that are none */
        static const int64_t lengths[] = {-1, INT64_MIN, INT64_MAX};
        size_t n = good[i].size, at;
        for (at = 0; at < n; at += at < 120 ? 7 : 1) {
            s[i].bytes = (int64_t)at;
            CHECK(!shards_from_sources(c, NULL, s, s + 2, 2, 4, &d));
            CHECK_ERROR(c, L2L_ERROR_FORMAT, i < 2 ? "images of shard " : "labels of shard ");
        }
        for (k = 0; k < 3; k++) {
            s[i].bytes = lengths[k];
            s[i].read_at = read_nowhere;
            CHECK(!shards_from_sources(c, NULL, s, s + 2, 2, 4, &d));
            CHECK_ERROR(c, L2L_ERROR_FORMAT, k < 2 || sizeof(size_t) < 8 ? "no file is so long"
                                                                             : "bytes of data");
        }
        s[i] = source_of(&good[i]);
    }
    reads = 0;
    CHECK(shards_from_sources(c, NULL, s, s + 2, 2, 4, &d));
    all = reads;
    l2l_dataset_free(&d);
    for (k = 1; k <= all; k++) { /* every read fails once */
        read_fails_at = k;
        reads = 0;
        CHECK(!shards_from_sources(c, NULL, s, s + 2, 2, 4, &d));
        CHECK_NAMED(c, L2L_ERROR_FILE, "of shard ", ", byte ", "cannot read");
        CHECK_BYTES(&kept, &d, sizeof d);
    }
    read_fails_at = reads = 0;
    CHECK(!shards_from_sources(c, NULL, s, s + 2, 0, 4, &d));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "no files");
    CHECK(!shards_from_sources(c, NULL, s, s + 2, 2, 0, &d));
    CHECK_ERROR(c, L2L_ERROR_FORMAT, "label 0 is 0, not in 0..-1");
    CHECK_BYTES(&kept, &d, sizeof d);
    CHECK(l2l_memory_peak(c) < peak + 400000);
    for (i = 0; i < 4; i++) drop(&good[i]);
    l2l_context_free(c);
}

/* A header of 70000 bytes is a valid .npy, and refused before more of it is read. */
static void long_headers(void)
{
    l2l_context *c = test_context(1);
    bytes b = {NULL, 0, 0}, labels = integers("|u1", "2,", 2, 0, 1, 256);
    shards_source s[2];
    l2l_dataset d;
    int i;
    put(&b, "\x93NUMPY\2\0", 8);
    put_number(&b, 70000, 4, 0);
    put_text(&b, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 1), }");
    for (i = (int)b.size; i < 12 + 70000; i++) put(&b, i < 70011 ? " " : "\n", 1);
    put(&b, "\1\2", 2);
    s[0] = source_of(&b);
    s[1] = source_of(&labels);
    CHECK(!shards_from_sources(c, NULL, s, s + 1, 1, 2, &d));
    CHECK_NAMED(c, L2L_ERROR_FORMAT, "images of shard 0", ", byte 8: ", "65535");
    drop(&b);
    drop(&labels);
    l2l_context_free(c);
}

/* 40 shards of 1.6 GB that are nowhere. */
static void constant_memory(void)
{
    enum { SHARDS = 40, N = 8192, ONE = 256 * 256 * 3 };
    l2l_context *c = test_context(1);
    bytes x = integers("|u1", "8192, 256, 256, 3", 0, 0, 1, 256);
    bytes y = integers("|u1", "8192,", N, 0, 1, 9);
    shards_source images[SHARDS], labels[SHARDS];
    l2l_real *v = test_array(ONE);
    size_t peak = l2l_memory_peak(c);
    l2l_dataset d;
    int k, label;
    for (k = 0; k < SHARDS; k++) {
        images[k].bytes = (int64_t)x.size + (int64_t)N * ONE;
        images[k].read_at = read_nowhere;
        images[k].user = &x;
        labels[k] = source_of(&y);
    }
    if (CHECK(shards_from_sources(c, NULL, images, labels, SHARDS, 9, &d))) {
        CHECK_INT(SHARDS * N, d.count);
        for (k = 0; k < SHARDS * N; k += 65521) { /* a prime: one here, one there */
            int at = k % N, i;
            if (!CHECK(l2l_dataset_read(&d, k, 1, v, &label))) break;
            CHECK_INT(at % 9, label);
            for (i = 0; i < ONE; i += 997) {
                int64_t byte = (int64_t)at * ONE + i % 65536 * 3 + i / 65536;
                CHECK_NEAR(pixel((int)(byte % 251)), v[i], 0);
            }
        }
        CHECK(longest_read <= ONE);
        CHECK(l2l_memory_peak(c) < peak + SHARDS * (N * sizeof(int) + 512) + ONE + 70000);
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    drop(&x);
    drop(&y);
    free(v);
    l2l_context_free(c);
}

/* A file of 2.2 GB, of which all but the ends is a hole. */
static void beyond_two_gigabytes(void)
{
    enum { N = 11200, ONE = 256 * 256 * 3 };
    l2l_context *c = test_context(1);
    bytes x = integers("|u1", "11200, 256, 256, 3", 0, 0, 1, 256);
    bytes y = integers("<i2", "11200,", N, 0, 1, 9);
    char *prefix = path("large"), *a = path("large-00000-images.npy");
    char *b = path("large-00000-labels.npy");
    off_t size = (off_t)x.size + (off_t)N * ONE;
    l2l_real *v = test_array(ONE);
    l2l_dataset d;
    int label = -1;
    FILE *f;
    write_file(a, x.data, x.size);
    write_file(b, y.data, y.size);
    f = fopen(a, "r+b");
    if (!f || size < 0 || ftruncate(fileno(f), size) || fseeko(f, size - 2, SEEK_SET) ||
        fwrite("\x21\x42", 1, 2, f) != 2)
        printf("skipped: no file of 2.2 GB here\n");
    else if (!fclose(f) && CHECK(shards_from_files(c, prefix, 9, &d))) {
        f = NULL;
        CHECK_INT(N, d.count);
        if (CHECK(l2l_dataset_read(&d, N - 1, 1, v, &label))) {
            CHECK_INT((N - 1) % 9, label);
            CHECK_NEAR(0, v[ONE - 1 - 65536 * 2], 0);
            CHECK_NEAR(pixel(0x21), v[ONE - 1 - 65536], 0);
            CHECK_NEAR(pixel(0x42), v[ONE - 1], 0);
        }
        CHECK(l2l_dataset_read(&d, 0, 1, v, &label));
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    remove(a);
    remove(b);
    free(v);
    free(prefix);
    free(a);
    free(b);
    drop(&x);
    drop(&y);
    l2l_context_free(c);
}

/* The header alone tells what the whole would have. */
static void npy_headers(void)
{
    static const char *const types[] = {"<f4", ">f8", "|b1", "|i1", "<u2", ">i4", "<u8", ">i8"};
    l2l_context *c = test_context(1);
    npy_info h;
    npy_array a;
    bytes b;
    int version, k;
    for (version = 1; version <= 3; version++)
        for (k = 0; k < COUNT(types); k++) {
            char dictionary[160];
            const unsigned char zeros[48] = {0};
            int size = types[k][2] - '0';
            unsigned char *head;
            snprintf(dictionary, sizeof dictionary,
                     "{'descr': '%s', 'fortran_order': False, 'shape': (3, 2), }", types[k]);
            b = npy(version, dictionary, zeros, 6 * (size_t)size);
            head = cut(b.data, b.size - 6 * (size_t)size);
            CHECK(npy_header(c, "mine", head, b.size - 6 * (size_t)size, (int64_t)b.size, &h));
            CHECK_INT(types[k][1], h.type);
            CHECK_INT(size, h.size);
            CHECK_INT(types[k][0] == '>', h.big_endian);
            CHECK(!h.fortran_order);
            CHECK(h.rank == 2 && h.shape[0] == 3 && h.shape[1] == 2 && h.count == 6);
            CHECK_INT((int64_t)b.size - 6 * size, h.begin);
            CHECK(npy_load_memory(c, b.data, b.size, &a));
            CHECK(CHECK_OK(c) && a.count == h.count);
            npy_array_free(c, &a);
            CHECK(!npy_header(c, "mine", head, 20, (int64_t)b.size, &h));
            CHECK_NAMED(c, L2L_ERROR_FORMAT, "mine", ", byte 8: ", "were read");
            CHECK(!npy_header(c, "mine", head, 9, (int64_t)b.size, &h));
            CHECK_NAMED(c, L2L_ERROR_FORMAT, "mine", ", byte 0: ", "not a .npy file");
            CHECK(!npy_header(c, "mine", head, b.size - 6 * (size_t)size, (int64_t)b.size + 1,
                                  &h));
            CHECK_ERROR(c, L2L_ERROR_FORMAT, "elements of");
            CHECK(!npy_header(c, "mine", head, 20, 19, &h)); /* shorter than its beginning */
            CHECK_ERROR(c, L2L_ERROR_FORMAT, "19 bytes");
            CHECK(h.rank == 0 && h.count == 0 && h.begin == 0);
            free(head);
            drop(&b);
        }
    l2l_context_free(c);
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    if (slash && slash - argv[0] < 500) {
        memcpy(directory, argv[0], (size_t)(slash - argv[0]) + 1);
        directory[slash - argv[0] + 1] = 0;
    }
    RUN(models_round_trip,
        "a model that is saved and loaded has the same bits, in memory and in a file");
    RUN(maximizers_round_trip, "and so has a learned maximizer, of both cells");
    RUN(names_with_quotes, "names with quotes and backslashes come back");
    RUN(number_types, "safetensors of F32, F64, F16 and BF16 are read exactly");
    RUN(entries_that_are_more,
        "entries that the model does not have are counted, num_batches_tracked is known");
    RUN(phi_from_pytorch, "PyTorch's second bias of a cell is added to the first");
    RUN(models_that_do_not_fit,
        "a model file that does not fit is refused by name and changes nothing");
    RUN(the_value_that_is_not_finite, "a value that is not finite is named with its byte");
    RUN(another_width, "a model of another width is refused by its metadata");
    RUN(maximizers_that_do_not_fit,
        "a maximizer's file that does not fit is refused and changes nothing");
    RUN(truncated_models, "a truncated model file is refused at every length");
    RUN(header_lengths, "an absurd header length is refused before memory is asked for");
    RUN(broken_headers,
        "a broken safetensors header is refused with its byte and cause");
    RUN(saving_keeps_the_old,
        "a save that fails keeps the old file and leaves none of its own");
    RUN(a_full_disk, "so does one on a full disk");
    RUN(idx_files,
        "IDX images are read, from memory and from files");
    RUN(broken_idx, "broken IDX files are refused with file, byte and cause");
    RUN(cifar10_files,
        "files of CIFAR-10 are read in their order, from memory and from disk, as byte / 255");
    RUN(broken_cifar10, "broken files of CIFAR-10 are refused with file, byte and cause");
    RUN(failures_can_be_freed, "what a failed loader leaves behind can be freed");
    RUN(npy_types, ".npy of every type, byte order and version is read");
    RUN(npy_shapes, ".npy of every rank is read and written");
    RUN(broken_npy, "broken .npy files are refused with file, byte and cause");
    RUN(shards_in_utf8, "names of shards are UTF-8");
    RUN(shard_files, "shards are read through a callback and from disk, NxHxWxC as byte / 255");
    RUN(broken_shards, "broken shards and failing reads are refused with file, byte and cause");
    RUN(long_headers, "a shard's header is read up to a length, not to any");
    RUN(constant_memory, "64 GB of shards take memory for their labels and one image");
    RUN(beyond_two_gigabytes, "a shard of more than 2 GB is read from disk to its end");
    RUN(npy_headers, "the header of a .npy is read from its first bytes, for arrays read in parts");
    return test_end();
}
