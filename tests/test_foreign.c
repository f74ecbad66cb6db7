/* Files as others write them, and files that ask for more than they hold: names of any characters,
   any number of tensors, types that nobody wanted, the .npy dialects that NumPy reads; and what a
   hostile header may cost. */
#define _POSIX_C_SOURCE 200809L
#include "networks.h"
#include "../examples/l2lda.h"
#include "../examples/npy.h"
#include <time.h>
#include <unistd.h>

/* -- an allocator with a limit, and files by hand ----------------------------------------------- */

static size_t in_use, most_in_use, limit = (size_t)1 << 30;
typedef struct block { size_t size; double align; } block;
static void *limited(void *user, size_t size)
{
    block *b = size > limit || in_use > limit - size ? NULL : (block *)malloc(sizeof *b + size);
    (void)user;
    if (!b) return NULL;
    b->size = size;
    in_use += size;
    if (in_use > most_in_use) most_in_use = in_use;
    return b + 1;
}
static void given_back(void *user, void *memory)
{
    block *b = (block *)memory - 1;
    (void)user;
    in_use -= b->size;
    free(b);
}
static l2l_context *limited_context(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c;
    o.threads = 1;
    o.allocator.allocate = limited;
    o.allocator.release = given_back;
    c = l2l_context_create(&o);
    if (!c) exit(2);
    most_in_use = in_use;
    return c;
}

typedef struct bytes { unsigned char data[1 << 16]; size_t size; } bytes;
static void put(bytes *b, const void *data, size_t n)
{
    if (b->size + n > sizeof b->data) exit(2);
    memcpy(b->data + b->size, data, n);
    b->size += n;
}
/* A safetensors file: a header whose ' are ", and so many zero bytes. */
static void safetensors(bytes *b, const char *header, size_t zeros)
{
    static const unsigned char none[256] = {0};
    unsigned char length[8] = {0};
    size_t n = strlen(header), i;
    length[0] = (unsigned char)(n & 255);
    length[1] = (unsigned char)(n >> 8);
    b->size = 0;
    put(b, length, 8);
    put(b, header, n);
    for (i = 8; i < b->size; i++) if (b->data[i] == '\'') b->data[i] = '"';
    put(b, none, zeros);
}
static char place[300];
static const char *file_path(void)
{
    snprintf(place, sizeof place, "%s/l2ladv-foreign-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR")
                                                                               : "/tmp");
    { int f = mkstemp(place); if (f < 0) exit(2); close(f); }
    return place;
}
/* The bytes, and behind them a hole up to `size`. */
static const char *write_file(const bytes *b, long size)
{
    const char *name = file_path();
    FILE *f = fopen(name, "wb");
    if (!f || fwrite(b->data, 1, b->size, f) != b->size) exit(2);
    fclose(f);
    if (size > (long)b->size && truncate(name, size)) exit(2);
    return name;
}

/* -- names -------------------------------------------------------------------------------------- */

static const char *layer_name[2];
static l2l_tensor *named_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, layer_name[0], x, 2, 1, 1, 0, 0);
    x = l2l_layer_conv(m, layer_name[1], x, 2, 1, 1, 0, L2L_NO_BIAS);
    return l2l_layer_linear(m, "fc", x, 3, L2L_LAST);
}
static l2l_model *named(l2l_context *c, const char *a, const char *b, uint64_t seed)
{
    l2l_model_options o = own_options("named", named_forward, 1, 2, 3);
    layer_name[0] = a;
    layer_name[1] = b;
    o.seed = seed;
    return l2l_model_create(c, &o);
}

/* Saved, loaded into another model of the same names, saved: the same bytes. */
static void names(void)
{
    static char far_too_long[100], just_fits[90];
    static const char *const pairs[][2] = {
        {"a\001", "a\002"}, {"\x1f", "\x7f"}, {"a\"b", "a\\b"}, {"a\nb", "a\tb"}, {"/", "\\/"},
        {"", " "}, {"__metadata__", "metadata"}, {"\xc3\xa9t\xc3\xa9", "\xe2\x82\xac"},
        {"\xf0\x9f\x98\x80", "\xef\xbf\xbd"}, {"\\u0041", "A"}, {"a\r", "a\b\f"}, {just_fits, "x"}};
    static const char *const bad[] = {"\xff", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\xe2\x82", "a\x80"};
    l2l_context *c = test_context(1);
    int i, extra;
    memset(just_fits, 'n', sizeof just_fits - 2);
    memset(far_too_long, 'n', sizeof far_too_long - 2);
    for (i = 0; i < COUNT(pairs); i++) {
        l2l_model *m = named(c, pairs[i][0], pairs[i][1], 1), *other;
        void *a = NULL, *b = NULL;
        size_t na = 0, nb = 1;
        other = named(c, pairs[i][0], pairs[i][1], 2);
        CHECK(l2l_model_save_memory(m, &a, &na));
        CHECK(l2l_model_load_memory(other, a, na, &extra) && extra == 0);
        CHECK(l2l_model_save_memory(other, &b, &nb));
        if (!CHECK(na == nb && !memcmp(a, b, na))) printf("    %s %s\n", pairs[i][0], pairs[i][1]);
        CHECK_OK(c);
        l2l_free(c, a);
        l2l_free(c, b);
        l2l_model_free(m);
        l2l_model_free(other);
    }
    CHECK(!named(c, far_too_long, "x", 1));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "too long");
    for (i = 0; i < COUNT(bad); i++) {
        CHECK(!named(c, bad[i], "x", 1));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "UTF-8");
    }
    l2l_context_free(c);
}

/* What a string of a header stands for: the tensor of that name is found, or the file refused. */
static void escapes(void)
{
    static const struct { const char *written, *name; } cases[] = {
        {"\\u0041", "A"}, {"\\u00e9", "\xc3\xa9"}, {"\\u20AC", "\xe2\x82\xac"},
        {"\\ud83d\\ude00", "\xf0\x9f\x98\x80"}, {"\\uD83D\\uDE00", "\xf0\x9f\x98\x80"},
        {"\\u0001", "\001"}, {"\\\\u0041", "\\u0041"}, {"a\\/b", "a/b"}, {"\\u002F", "/"},
        {"\\uffff", "\xef\xbf\xbf"}, {"\\udbff\\udfff", "\xf4\x8f\xbf\xbf"}, {"\\u007f", "\x7f"},
        {"\\u0080", "\xc2\x80"}, {"\\u0800", "\xe0\xa0\x80"}, {"\\b\\f\\n\\r\\t", "\b\f\n\r\t"},
        {"\\ud83d", NULL}, {"\\ude00", NULL}, {"\\ud83dx", NULL}, {"\\ud83d\\u0041", NULL},
        {"\\ud83d\\n", NULL}, {"\\u00g0", NULL}, {"\\u004", NULL}, {"\\x41", NULL}, {"\\", NULL}};
    static bytes b;
    l2l_context *c = test_context(1);
    char header[500];
    int i, extra;
    for (i = 0; i < COUNT(cases); i++) {
        l2l_model *m = named(c, cases[i].name ? cases[i].name : "x", "z", 1);
        snprintf(header, sizeof header,
                 "{'%s.weight':{'dtype':'F32','shape':[2,1,1,1],'data_offsets':[0,8]},"
                 "'%s.bias':{'dtype':'F32','shape':[2],'data_offsets':[8,16]},"
                 "'z.weight':{'dtype':'F32','shape':[2,2,1,1],'data_offsets':[16,32]},"
                 "'fc.weight':{'dtype':'F32','shape':[3,8],'data_offsets':[32,128]},"
                 "'fc.bias':{'dtype':'F32','shape':[3],'data_offsets':[128,140]}}",
                 cases[i].written, cases[i].written);
        safetensors(&b, header, 140);
        if (!CHECK_INT(cases[i].name != NULL, l2l_model_load_memory(m, b.data, b.size, &extra)))
            printf("    %s: %s\n", cases[i].written, l2l_error_text(c));
        if (!cases[i].name) CHECK_ERROR(c, L2L_ERROR_FORMAT, "hexadecimal");
        l2l_error_clear(c);
        l2l_model_free(m);
    }
    l2l_context_free(c);
}

/* -- many tensors -------------------------------------------------------------------------------- */

static int layers;
static l2l_tensor *deep_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    char name[24];
    int i;
    (void)user;
    for (i = 0; i < layers; i++) {
        snprintf(name, sizeof name, "c%d", i);
        x = l2l_layer_conv(m, name, x, 1, 1, 1, 0, L2L_NO_BIAS);
    }
    return l2l_layer_linear(m, "fc", x, 2, L2L_LAST);
}
static void many(void)
{
    static const l2l_real images[4] = {0, 1, 0, 1};
    static const int labels[4] = {0, 1, 0, 1};
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("deep", deep_forward, 1, 1, 2);
    l2l_model *m, *other;
    l2l_train_options t = l2l_train_default();
    l2l_dataset d;
    l2l_trainer *trainer;
    void *data = NULL;
    size_t n = 0;
    int extra;
    bytes *none = (bytes *)test_memory(sizeof *none);
    const char *name = write_file(none, 0);
    layers = 8300;                           /* a file of more than 8192 tensors */
    m = l2l_model_create(c, &o);
    o.seed = 5;
    other = l2l_model_create(c, &o);
    CHECK(l2l_model_save_memory(m, &data, &n) && l2l_model_load_memory(other, data, n, &extra));
    CHECK(!memcmp(l2l_model_parameter(m, 8299).value->data,
                  l2l_model_parameter(other, 8299).value->data, sizeof(l2l_real)));
    CHECK_OK(c);
    l2l_free(c, data);
    l2l_model_free(m);
    l2l_model_free(other);
    layers = 2100;                           /* a checkpoint has four for each */
    o.seed = 1;
    m = l2l_model_create(c, &o);
    CHECK(l2l_dataset_from_arrays(c, images, labels, 4, 1, 1, 1, 2, &d));
    t.method = l2l_method_plain();
    t.optimizer = l2l_adam_default();
    t.epochs = 1;
    t.batch = 4;
    trainer = l2l_trainer_create(m, &d, &t);
    CHECK(trainer && l2l_train(trainer) && l2l_trainer_save(trainer, name) &&
          l2l_trainer_resume(trainer, name));
    CHECK_OK(c);
    l2l_trainer_free(trainer);
    l2l_model_free(m);
    l2l_dataset_free(&d);
    remove(name);
    free(none);
    l2l_context_free(c);
}

/* -- types ---------------------------------------------------------------------------------------- */

static void types(void)
{
    static const char *const unknown[] = {"F8_E8M0", "F4", "F6_E2M3", "C64", "F33", "X", "",
                                          "F8_E4M3", "I64", "U16", "BOOL"};
    static bytes b;
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("typed", linear_forward, 1, 1, 2);
    l2l_model *m = l2l_model_create(c, &o);
    char header[600];
    int i, wanted, extra;
    for (i = 0; i < COUNT(unknown); i++)
        for (wanted = 0; wanted < 2; wanted++) {
            snprintf(header, sizeof header,
                     "{'%s':{'dtype':'%s','shape':[%s],'data_offsets':[0,8]},"
                     "'%s':{'dtype':'F32','shape':[2,1],'data_offsets':[8,16]},"
                     "'fc.bias':{'dtype':'F32','shape':[2],'data_offsets':[16,24]},"
                     "'long':{'dtype':'F32','shape':[1,1,1,1,1,1,1,1,1,1],'data_offsets':[24,28]}}",
                     wanted ? "fc.weight" : "other", unknown[i], !strcmp(unknown[i], "I64") ? "1"
                     : wanted ? "2,1" : i < 7 ? "3,7" : strchr("UF", unknown[i][0]) &&
                     strcmp(unknown[i], "U16") ? "8" : unknown[i][0] == 'B' ? "8" : "4",
                     wanted ? "other" : "fc.weight");
            if (wanted && i >= 7) continue;
            safetensors(&b, header, 28);
            CHECK_INT(!wanted, l2l_model_load_memory(m, b.data, b.size, &extra));
            if (wanted) CHECK_ERROR(c, L2L_ERROR_FORMAT, "unsupported type");
            else if (CHECK_OK(c)) CHECK_INT(2, extra);
            else printf("    %s\n", header);
        }
    l2l_model_free(m);
    l2l_context_free(c);
}

/* -- .npy ----------------------------------------------------------------------------------------- */

static void npy_bytes(bytes *b, int version, const char *dictionary, const void *data, size_t n)
{
    unsigned char head[12] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 0, 0, 0, 0};
    size_t length = strlen(dictionary);
    head[6] = (unsigned char)version;
    head[8] = (unsigned char)(length & 255);
    head[9] = (unsigned char)(length >> 8);
    b->size = 0;
    put(b, head, version > 1 ? 12 : 10);
    put(b, dictionary, length);
    put(b, data, n);
}

/* What NumPy 1.24 reads of these is read alike, what it refuses is refused. */
static void dialects(void)
{
    static const struct { int version; const char *dictionary; int good; } cases[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 1},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n", 1},
        {2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n", 1},
        {3, "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n", 0},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2l, 3L), }\n", 0},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2LL, 3), }\n", 0},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,3)}", 1},
        {2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3,), }", 1},
        {3, "{'shape':(2,3),'fortran_order':False,'descr':'<f4'}   ", 1},
        {1, "{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (2, 3)}", 1},
        {1, "{u'descr': u'<f4', u'fortran_order': False, u'shape': (2, 3)}", 1},
        {1, "{ 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2 , 3 ) , } \n", 1},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6), }", 0},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': [2, 3], }", 0},
        {1, "{'descr': '<f4', 'fortran_order': false, 'shape': (2, 3), }", 0},
        {1, "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3), }", 0},
        {1, "{'descr': '<x4', 'fortran_order': False, 'shape': (2, 3), }", 0},
        {1, "{'descr': '', 'fortran_order': False, 'shape': (2, 3), }", 0},
        {1, "{'descr': '<', 'fortran_order': False, 'shape': (2, 3), }", 0},
        {4, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 0}};
    static const unsigned char six[24] = {0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64,
                                          0, 0, 128, 64, 0, 0, 160, 64}; /* 0 to 5 */
    static bytes b;
    l2l_context *c = test_context(1);
    npy_array a;
    int i, k;
    for (i = 0; i < COUNT(cases); i++) {
        npy_bytes(&b, cases[i].version, cases[i].dictionary, six, 24);
        if (!CHECK_INT(cases[i].good, npy_load_memory(c, b.data, b.size, &a)))
            printf("    %s %s\n", cases[i].dictionary, l2l_error_text(c));
        for (k = 0; cases[i].good && a.reals && k < 6; k++) CHECK(a.reals[k] == k);
        if (cases[i].good && a.reals) CHECK(a.rank == 2 && a.shape[0] == 2 && a.shape[1] == 3);
        l2l_error_clear(c);
        npy_array_free(c, &a);
    }
    l2l_context_free(c);
}

/* Each type under each of its names and marks. */
static void npy_types(void)
{
    static const struct { const char *name; int size, kind; } known[] = {
        {"f2", 2, 'h'}, {"f4", 4, 'f'}, {"f8", 8, 'd'}, {"e", 2, 'h'}, {"f", 4, 'f'}, {"d", 8, 'd'},
        {"i1", 1, 'i'}, {"i2", 2, 'i'}, {"i4", 4, 'i'}, {"i8", 8, 'i'}, {"u1", 1, 'u'},
        {"u2", 2, 'u'}, {"u4", 4, 'u'}, {"u8", 8, 'u'}, {"b1", 1, 'b'}, {"?", 1, 'b'},
        {"b", 1, 'i'}, {"B", 1, 'u'}, {"h", 2, 'i'}, {"H", 2, 'u'}, {"i", 4, 'i'}, {"I", 4, 'u'},
        {"q", 8, 'i'}, {"Q", 8, 'u'}};
    const uint16_t probe = 1;
    const int big_machine = !*(const unsigned char *)&probe;
    static bytes b;
    l2l_context *c = test_context(1);
    int i, m;
    for (i = 0; i < COUNT(known); i++)
        for (m = 0; m < 5; m++) {            /* the number 1, twice, as (2,) */
            int size = known[i].size, big = m == 1 || (m > 1 && big_machine), j;
            const char *mark = &"<\0>\0=\0|\0\0"[2 * m];
            unsigned char one[8] = {0}, both[16];
            uint64_t bits = known[i].kind == 'h' ? 0x3C00u : known[i].kind == 'f' ? 0x3F800000u
                            : known[i].kind == 'd' ? (uint64_t)0x3FF << 52 : 1;
            char dictionary[100];
            npy_array a;
            for (j = 0; j < size; j++)
                one[big ? size - 1 - j : j] = (unsigned char)(bits >> (8 * j) & 255);
            for (j = 0; j < size; j++) both[j] = both[size + j] = one[j];
            snprintf(dictionary, sizeof dictionary,
                     "{'descr': '%s%s', 'fortran_order': True, 'shape': (2,), }", mark,
                     known[i].name);
            npy_bytes(&b, 1, dictionary, both, 2 * (size_t)size);
            if (!CHECK(npy_load_memory(c, b.data, b.size, &a))) {
                printf("    %s: %s\n", dictionary, l2l_error_text(c));
                l2l_error_clear(c);
                continue;
            }
            CHECK_INT(strchr("hfd", known[i].kind) == NULL, a.integer);
            if (a.integer) CHECK(a.integers[0] == 1 && a.integers[1] == 1);
            else CHECK(a.reals[0] == 1 && a.reals[1] == 1);
            npy_array_free(c, &a);
        }
    l2l_context_free(c);
}

/* Fortran's order: element (i, j, k) of 2x3x2 stands at i + 2 j + 6 k. */
static void fortran(void)
{
    static bytes b;
    l2l_context *c = test_context(1);
    unsigned char data[12];
    npy_array a;
    int i, j, k;
    for (i = 0; i < 12; i++) data[i] = (unsigned char)i;
    npy_bytes(&b, 1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 2), }", data, 12);
    if (CHECK(npy_load_memory(c, b.data, b.size, &a)))
        for (i = 0; i < 2; i++)
            for (j = 0; j < 3; j++)
                for (k = 0; k < 2; k++) CHECK_INT(i + 2 * j + 6 * k, a.integers[6 * i + 2 * j + k]);
    npy_array_free(c, &a);
    npy_bytes(&b, 1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 0, 2), }", data, 0);
    CHECK(npy_load_memory(c, b.data, b.size, &a));
    CHECK_OK(c);
    npy_array_free(c, &a);
    l2l_context_free(c);
}

/* -- hostile files -------------------------------------------------------------------------------- */

/* Opening costs memory and time as the file has bytes, whatever its metadata say; a network of one's
   own (the generator is one) is run on a picture besides, which there must be memory for. */
static void hostile_metadata(void)
{
    static const char *const texts[] = {
        "'arch':'vgg16','width':'12'", "'arch':'smallcnn','height':'4096','image_width':'4096'",
        "'arch':'wrn','depth':'9994','width':'1'", "'arch':'resnet18','classes':'1048576'",
        "'arch':'wrn','depth':'9994','width':'0.01','height':'512','image_width':'512'",
        "'arch':'vgg16','height':'16384','image_width':'16384','channels':'4096'",
        "'arch':'l2lda generator','channels':'3','classes':'1000000','height':'256',"
        "'image_width':'256','width':'8'", "'cell':'lstm','hidden':'64','input':'log'"};
    static bytes b;
    l2l_context *c = limited_context();
    const char *name;
    char header[400];
    clock_t begun = clock();
    int i;
    limit = (size_t)16 << 20;
    for (i = 0; i < COUNT(texts); i++) {
        snprintf(header, sizeof header, "{'__metadata__':{%s}}", texts[i]);
        safetensors(&b, header, 0);
        name = write_file(&b, 0);
        CHECK(!(strstr(texts[i], "cell") ? (void *)l2l_learned_open(c, name)
                : strstr(texts[i], "l2lda") ? (void *)l2lda_open(c, name)
                                            : (void *)l2l_model_open(c, name)));
        if (!CHECK_ERROR(c, L2L_ERROR_MISMATCH, "there is no tensor")) printf("    %s\n", texts[i]);
        remove(name);
    }
    safetensors(&b, "{'__metadata__':{'arch':'l2lda generator','channels':'3','height':'2048',"
                    "'image_width':'2048'}}", 0);
    name = write_file(&b, 0);
    CHECK(!l2lda_open(c, name));
    CHECK_ERROR(c, L2L_ERROR_MEMORY, "out of memory");
    remove(name);
    CHECK(most_in_use < (size_t)8 << 20);
    CHECK((double)(clock() - begun) / CLOCKS_PER_SEC < 2);
    l2l_context_free(c);
    CHECK_INT(0, in_use);
}

/* A file that holds its tensors is opened for the largest pictures without running on one. */
static void large_pictures(void)
{
    l2l_context *c = limited_context();
    l2l_model_options o = l2l_model_default("wrn");
    l2l_model *m;
    static bytes none;
    const char *name = write_file(&none, 0);
    void *data = NULL;
    size_t n = 0;
    int k;
    for (k = 0; k < 2; k++) {
        unsigned char *p;
        FILE *f;
        limit = (size_t)1 << 30;
        o = l2l_model_default(k ? "resnet18" : "wrn");
        o.width_multiplier = 0.01;
        if (!k) o.depth = 10;
        o.height = o.width = k ? 224 : 32;
        m = l2l_model_create(c, &o);
        CHECK(l2l_model_save_memory(m, &data, &n));
        for (p = (unsigned char *)data; memcmp(p, "\"height\":\"", 10); p++) continue;
        f = fopen(name, "wb");               /* 32 and 224 become 16384, and the length more */
        if (!CHECK(f != NULL)) return;
        { char text[4096]; size_t length, at = 8, to = 0; int i;
          static char out[1 << 20];
          memcpy(&text, data, 8);
          for (length = 0, i = 7; i >= 0; i--) length = length << 8 | ((unsigned char *)data)[i];
          while (at < 8 + length) {
              unsigned char *q = (unsigned char *)data + at;
              const char *size = k ? ":\"224\"" : ":\"32\"";
              if (!memcmp(q, size, strlen(size))) {
                  memcpy(out + to, ":\"16384\"", 8);
                  to += 8;
                  at += strlen(size);
              } else out[to++] = (char)*q, at++;
          }
          for (i = 0; i < 8; i++) text[i] = (char)(i < 4 ? to >> (8 * i) & 255 : 0);
          CHECK(fwrite(text, 1, 8, f) == 8 && fwrite(out, 1, to, f) == to &&
                fwrite((char *)data + 8 + length, 1, n - 8 - length, f) == n - 8 - length); }
        fclose(f);
        l2l_free(c, data);
        l2l_model_free(m);
        l2l_context_free(c);
        c = limited_context();
        limit = (size_t)16 << 20;
        m = l2l_model_open(c, name);
        if (CHECK(m != NULL)) CHECK_INT(16384, l2l_model_info(m)->width);
        CHECK_OK(c);
        CHECK(most_in_use < (size_t)8 << 20);
        l2l_model_free(m);
    }
    l2l_context_free(c);
    remove(name);
}

/* A hole of 3 GB behind a few bytes is refused by what is in front. */
static void holes(void)
{
    static const char header[] = "{'a':{'dtype':'U8','shape':[3221225472],'data_offsets':[0,"
                                 "3221225472]},'__metadata__':{'arch':'smallcnn','cell':'rnn'}}";
    static bytes b;
    l2l_context *c = limited_context();
    const char *name;
    l2l_model *m;
    l2l_dataset d;
    npy_array a;
    clock_t begun = clock();
    int k, extra;
    limit = (size_t)16 << 20;
    if (sizeof(long) < 8) return;
    m = named(c, "a", "b", 1);
    for (k = 0; k < 3; k++) {
        b.size = 0;
        if (k) safetensors(&b, k == 1 ? header : "{}", 0);
        name = write_file(&b, k == 1 ? (long)b.size + 3221225472L : 3221225472L);
        CHECK(!l2l_model_open(c, name));
        CHECK(*l2l_error_text(c)); l2l_error_clear(c);
        CHECK(!l2l_learned_open(c, name));
        CHECK(*l2l_error_text(c)); l2l_error_clear(c);
        CHECK(!l2l_model_load(m, name, &extra));
        CHECK(l2l_error(c) != L2L_ERROR_MEMORY); l2l_error_clear(c);
        CHECK(!npy_load(c, name, &a));
        CHECK_ERROR(c, L2L_ERROR_FORMAT, ".npy");
        CHECK(!l2l_dataset_idx(c, name, name, 10, &d));
        CHECK_ERROR(c, L2L_ERROR_FORMAT, "IDX");
        remove(name);
    }
    CHECK(most_in_use < (size_t)4 << 20);
    CHECK((double)(clock() - begun) / CLOCKS_PER_SEC < 2);
    l2l_model_free(m);
    l2l_context_free(c);
    CHECK_INT(0, in_use);
}

int main(void)
{
    RUN(names, "layers of any names in UTF-8 come back from a file, other names make no model");
    RUN(escapes, "the escapes of JSON strings are decoded, halves of surrogate pairs are refused");
    RUN(many, "models and checkpoints of more than 8192 tensors come back");
    RUN(types, "an entry that nobody wants may be of any type and rank");
    RUN(dialects, "the headers of .npy that NumPy reads are read, those that it refuses are not");
    RUN(npy_types, "every number type of .npy is read under its names and byte orders");
    RUN(fortran, "an array in Fortran's order is read as what it is");
    RUN(hostile_metadata, "metadata ask for no more than the file's own tensors");
    RUN(large_pictures, "a model for huge pictures is opened without running on one");
    RUN(holes, "a file is refused by its first bytes, however long it is");
    return test_end();
}
