/* What is saved is read back: models, maximizers, generators, checkpoints and evaluations of many
   shapes and settings, drawn from a seed. Saved, opened by every door and saved again: the same
   bytes, and of models the same logits.      test_roundtrip [rounds [seed]] */
#define _POSIX_C_SOURCE 200809L
#include "networks.h"
#include "../examples/evaluation_state.h"
#include "../examples/l2lda.h"
#include <unistd.h>

static l2l_context *c;
static char place[2][300];
static long rounds = 150;

static uint64_t state;
static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}
static double unit(void) { return (double)draw((uint64_t)1 << 53) / 9007199254740992.0; }
/* Any positive double of a middling size, with all its digits or with few. */
static double positive(void)
{
    double v = ldexp(0.5 + unit(), (int)draw(9) - 4);
    return draw(3) ? v : floor(v * 100 + 1) / 100;
}

typedef struct blob { unsigned char *data; size_t size; } blob;
static blob file_bytes(const char *name)
{
    blob b = {NULL, 0};
    FILE *f = fopen(name, "rb");
    long n;
    if (!CHECK(f != NULL)) return b;
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    b.data = (unsigned char *)test_memory((size_t)n);
    b.size = fread(b.data, 1, (size_t)n, f);
    fclose(f);
    return b;
}
static int same(const blob *a, const blob *b)
{
    return CHECK_INT(a->size, b->size) && CHECK_BYTES(a->data, b->data, a->size);
}
/* The two files hold the same bytes. */
static int same_files(void)
{
    blob a = file_bytes(place[0]), b = file_bytes(place[1]);
    int ok = same(&a, &b);
    free(a.data);
    free(b.data);
    return ok;
}

static l2l_model_options some_options(void)
{
    static const char *const archs[] = {"smallcnn", "smallcnn", "wrn", "vgg16", "resnet18"};
    l2l_model_options o = l2l_model_default(archs[draw(5)]);
    const int is_small = !strcmp(o.arch, "smallcnn"), is_vgg = !strcmp(o.arch, "vgg16");
    int k;
    o.width_multiplier = draw(2) ? 0.01 * (double)(1 + draw(13)) : 0.001 + 0.12 * unit();
    o.classes = draw(12) ? 2 + (int)draw(60) : 2 + (int)draw(1099);
    o.channels = 1 + (int)draw(4);
    o.height = is_small ? 16 + (int)draw(20) : is_vgg ? 32 + (int)draw(8) : 1 + (int)draw(24);
    o.width = is_small ? 16 + (int)draw(20) : is_vgg ? 32 + (int)draw(8) : 1 + (int)draw(24);
    if (!draw(20) && !is_vgg) o.height = 16 + (int)draw(285);
    if (!strcmp(o.arch, "wrn")) o.depth = 10 + 6 * (int)draw(2);
    o.seed = draw(1u << 30);
    o.last_layer_deviation = 0.3;
    if (draw(3)) o.normalise = o.channels;
    for (k = 0; k < o.normalise; k++) {
        o.mean[k] = (draw(2) ? 1 : -1) * positive();
        o.deviation[k] = positive();
    }
    if (!draw(3) && is_small) o.dropout = 0.5 * unit();
    return o;
}

static l2l_real *logits_of(l2l_model *m, const l2l_real *x)
{
    l2l_real *z = test_array(l2l_model_info(m)->classes);
    CHECK(l2l_model_logits(m, x, 1, z));
    return z;
}
static int model_is(l2l_model *m, const l2l_real *x, const l2l_real *z, const blob *file)
{
    l2l_real *got;
    void *data = NULL;
    size_t n = 0;
    int ok;
    if (!CHECK(m != NULL)) return 0;
    got = logits_of(m, x);
    ok = CHECK_BYTES(z, got, (size_t)l2l_model_info(m)->classes * sizeof *z) &&
         CHECK(l2l_model_save_memory(m, &data, &n)) && CHECK_INT(file->size, n) &&
         CHECK_BYTES(file->data, data, n);
    l2l_free(c, data);
    free(got);
    return ok;
}

static int one_model(void)
{
    l2l_model_options o = some_options();
    l2l_model *m = l2l_model_create(c, &o), *other, *opened, *clone;
    int64_t n = (int64_t)o.channels * o.height * o.width;
    l2l_real *x = test_array(n), *z;
    blob file;
    int extra = -1, ok;
    if (!CHECK(m != NULL)) { CHECK_OK(c); free(x); return 0; }
    golden_fill(x, n, (uint32_t)draw(1000), 0, 1);
    z = logits_of(m, x);
    ok = CHECK(l2l_model_save(m, place[0]));
    file = file_bytes(place[0]);
    o.seed++;
    o.normalise = 0;
    other = l2l_model_create(c, &o);
    ok &= CHECK(l2l_model_load(other, place[0], &extra)) && extra == 0;
    ok = ok && model_is(other, x, z, &file);
    l2l_model_free(other);
    other = l2l_model_create(c, &o);
    ok = ok && CHECK(l2l_model_load_memory(other, file.data, file.size, &extra)) &&
         model_is(other, x, z, &file);
    opened = l2l_model_open(c, place[0]);
    ok = ok && model_is(opened, x, z, &file);
    clone = opened ? l2l_model_clone(c, opened) : NULL;
    ok = ok && model_is(clone, x, z, &file);
    if (!ok || !CHECK_OK(c)) {
        printf("    %s x%.17g depth %d: %dx%dx%d, %d classes; %s\n", o.arch, o.width_multiplier,
               o.depth, o.channels, o.height, o.width, o.classes, l2l_error_text(c));
        l2l_error_clear(c);
    }
    l2l_model_free(m);
    l2l_model_free(other);
    l2l_model_free(opened);
    l2l_model_free(clone);
    free(file.data);
    free(x);
    free(z);
    return ok;
}
static void models(void)
{
    long i;
    for (i = 0; i < rounds && one_model(); i++) continue;
}

static l2l_learned_options some_learned(void)
{
    l2l_learned_options o = l2l_learned_default();
    o.cell = draw(2) ? L2L_LSTM : L2L_RNN;
    o.hidden = 1 + (int)draw(64);
    o.input = (l2l_grad_input)draw(4);
    o.raw_output = draw(2);
    o.bias = draw(2);
    o.second_order = draw(2);
    o.scale = positive();
    o.seed = draw(1u << 30);
    return o;
}

static void maximizers(void)
{
    long i;
    int ok = 1;
    for (i = 0; ok && i < 4 * rounds; i++) {
        l2l_learned_options o = some_learned();
        l2l_learned *m = l2l_learned_create(c, &o), *other, *opened;
        blob file;
        if (!CHECK(m != NULL)) break;
        ok = CHECK(l2l_learned_save(m, place[0]));
        file = file_bytes(place[0]);
        o.seed++;
        other = l2l_learned_create(c, &o);
        ok = ok && CHECK(l2l_learned_load_memory(other, file.data, file.size)) &&
             CHECK(l2l_learned_save(other, place[1])) && same_files();
        ok = ok && CHECK(l2l_learned_load(other, place[0])) &&
             CHECK(l2l_learned_save(other, place[1])) && same_files();
        opened = l2l_learned_open(c, place[0]);
        ok = ok && CHECK(opened != NULL) && CHECK(l2l_learned_save(opened, place[1])) &&
             same_files() && CHECK_BYTES(l2l_learned_parameters(m), l2l_learned_parameters(opened),
                                         (size_t)l2l_learned_size(m) * sizeof(l2l_real));
        if (!ok || !CHECK_OK(c)) printf("    cell %d, hidden %d, input %d, scale %.17g\n",
                                        (int)o.cell, o.hidden, (int)o.input, o.scale);
        l2l_learned_free(m);
        l2l_learned_free(other);
        l2l_learned_free(opened);
        free(file.data);
    }
}

static void generators(void)
{
    long i;
    int ok = 1;
    for (i = 0; ok && i < rounds / 6; i++) {
        l2lda_options o = l2lda_default();
        l2lda *m, *other, *opened;
        blob file;
        o.channels = 1 + (int)draw(4);
        o.height = 4 * (1 + (int)draw(5));
        o.width = 4 * (1 + (int)draw(5));
        o.classes = 2 + (int)draw(30);
        o.width_multiplier = 0.001 + 0.3 * unit();
        o.seed = draw(1u << 30);
        m = l2lda_create(c, &o);
        if (!CHECK(m != NULL)) break;
        ok = CHECK(l2lda_save(m, place[0]));
        file = file_bytes(place[0]);
        o.seed++;
        other = l2lda_create(c, &o);
        ok = ok && CHECK(l2lda_load_memory(other, file.data, file.size)) &&
             CHECK(l2lda_save(other, place[1])) && same_files();
        opened = l2lda_open(c, place[0]);
        ok = ok && CHECK(opened != NULL) && CHECK(l2lda_save(opened, place[1])) &&
             same_files();
        CHECK_OK(c);
        l2lda_free(m);
        l2lda_free(other);
        l2lda_free(opened);
        free(file.data);
    }
}

/* A training and an evaluation, stopped and taken up again: their files say the same. */
static int one_training(void)
{
    enum { IMAGES = 12 };
    l2l_model_options o = own_options("tiny", draw(2) ? moody_forward : tiny_forward, 1,
                                      4 + (int)draw(5), 2 + (int)draw(9));
    l2l_train_options t = l2l_train_default();
    l2l_evaluation_options eo = l2l_evaluation_default();
    l2l_learned_options lo = some_learned();
    l2l_learned *phi[2];
    l2l_model *m[2];
    l2l_trainer *trainer[2];
    l2l_dataset d;
    l2l_evaluation e;
    evaluation_state kept = {0};
    l2l_attack a = l2l_attack_pgd(0.01 + 0.5 * unit());
    l2l_result result;
    int64_t n = IMAGES * (int64_t)o.height * o.width;
    l2l_real *x = test_array(n);
    int labels[IMAGES], i, ok = 1, learned = (int)draw(2);
    golden_fill(x, n, (uint32_t)draw(1000), 0, 1);
    for (i = 0; i < IMAGES; i++) labels[i] = (int)draw((uint64_t)o.classes);
    lo.hidden = 1 + lo.hidden % 5;
    lo.second_order = false;
    ok = CHECK(l2l_dataset_from_arrays(c, x, labels, IMAGES, 1, o.height, o.width, o.classes, &d));
    t.epochs = 1;
    t.batch = 4;
    t.T = 2;
    t.epsilon = 0.01 + 0.3 * unit();
    t.validation = draw(2) ? 4 : 0;
    t.optimizer = draw(2) ? l2l_adam_default() : l2l_sgd_default();
    t.optimizer.rate = 0.01 * unit();
    for (i = 0; i < 2; i++) {
        phi[i] = l2l_learned_create(c, &lo);
        t.method = learned ? l2l_method_rnn_adv(phi[i]) : l2l_method_advtrain();
        o.seed = (uint64_t)i;
        m[i] = l2l_model_create(c, &o);
        trainer[i] = l2l_trainer_create(m[i], &d, &t);
    }
    ok = ok && CHECK_OK(c) && CHECK(l2l_train(trainer[0])) &&
         CHECK(l2l_trainer_save(trainer[0], place[0])) &&
         CHECK(l2l_trainer_resume(trainer[1], place[0])) &&
         CHECK(l2l_trainer_save(trainer[1], place[1])) && same_files();
    for (i = 0; ok && i < 2; i++) {          /* begun, and taken up: the file stays as it is */
        blob before = {NULL, 0}, after;
        eo.batch = 5;
        if (!i) remove(place[0]);
        else before = file_bytes(place[0]);
        a.steps = 2;
        ok = CHECK(l2l_evaluation_begin(m[0], &d, &eo, &e)) &&
             CHECK(evaluation_state_open(&kept, &e, place[0])) &&
             CHECK(evaluation_state_attack(&kept, &a, &result, NULL, NULL));
        evaluation_state_close(&kept);
        l2l_evaluation_end(&e);
        after = file_bytes(place[0]);
        if (ok && i) ok = same(&before, &after);
        free(before.data);
        free(after.data);
    }
    if (!CHECK_OK(c)) ok = 0;
    for (i = 0; i < 2; i++) {
        l2l_trainer_free(trainer[i]);
        l2l_learned_free(phi[i]);
        l2l_model_free(m[i]);
    }
    l2l_dataset_free(&d);
    free(x);
    return ok;
}
static void trainings(void)
{
    long i;
    for (i = 0; i < rounds / 3 && one_training(); i++) continue;
}

int main(int argc, char **argv)
{
    int i;
    if (argc > 1) rounds = strtol(argv[1], NULL, 10);
    state = (argc > 2 ? strtoul(argv[2], NULL, 10) : 1) * 88172645463325252u + 1;
    for (i = 0; i < 2; i++) {
        int f;
        snprintf(place[i], sizeof place[i], "%s/l2ladv-trip-XXXXXX",
                 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
        if ((f = mkstemp(place[i])) < 0) return 2;
        close(f);
    }
    c = test_context(1);
    RUN(models, "models of any size come back by every door with the same bytes and logits");
    RUN(maximizers, "learned maximizers of all settings come back with the same bytes");
    RUN(generators, "generators come back with the same bytes");
    RUN(trainings, "checkpoints and evaluations' states come back with the same bytes");
    l2l_context_free(c);
    for (i = 0; i < 2; i++) remove(place[i]);
    return test_end();
}
