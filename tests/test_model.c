/* Classifiers: all four against PyTorch, names, counts, same bits over threads and batches, modes,
   clones, scopes, memory estimates. */
#include "check_networks.h"

/* Sum of the FNV-1a of "name rank K C kh kw trainable" over all parameters, as golden.py's. */
static uint64_t names_and_shapes(const l2l_model *m)
{
    uint64_t sum = 0;
    int i, s[4];
    for (i = 0; i < l2l_model_parameters(m); i++) {
        l2l_parameter p = l2l_model_parameter(m, i);
        uint64_t h = 0xcbf29ce484222325u;
        char line[200];
        const char *at = line;
        file_shape(p, s);
        sprintf(line, "%.96s %d %d %d %d %d %d", p.name, p.rank, s[0], s[1], s[2], s[3],
                p.trainable);
        for (; *at; at++) h = (h ^ (unsigned char)*at) * 0x100000001b3u;
        sum += h;
    }
    return sum;
}

static void census(void)
{
    int i;
    for (i = 0; i < COUNT(golden_census); i++) {
        const golden_census_case *p = &golden_census[i];
        l2l_context *c = test_context(1);
        l2l_model_options o = l2l_model_default(p->arch);
        l2l_model *m;
        char text[60000];
        const char *last;
        CHECK_NEAR(strcmp(p->arch, "wrn") ? 1 : 10, o.width_multiplier, 0);
        CHECK_INT(strcmp(p->arch, "wrn") ? 0 : 34, o.depth);
        o.width_multiplier = p->width;
        if (o.depth) o.depth = p->depth;
        if (o.height > 32) o.height = o.width = 40; /* the parameters are those of any size */
        m = l2l_model_create(c, &o);
        if (CHECK(m != NULL)) {
            CHECK_INT(p->parameters, l2l_model_size(m));
            CHECK_INT(p->tensors, l2l_model_parameters(m));
            if (!CHECK(names_and_shapes(m) == ((uint64_t)p->digest[0] << 32 | p->digest[1])))
                printf("    names or shapes of %s, width %g\n", p->arch, p->width);
            CHECK(l2l_model_summary(m, text, sizeof text) < sizeof text);
            last = strstr(text, " parameters\n");
            if (CHECK(last != NULL)) {
                CHECK_TEXT(" parameters\n", last);
                while (last > text && last[-1] != '\n') last--;
                CHECK_INT(p->parameters, atol(last));
            }
        }
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

static l2l_model *quarter_cnn(l2l_context *c)
{
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *m;
    double bound[14];
    int i;
    o.width_multiplier = 0.25;
    m = l2l_model_create(c, &o);
    for (i = 0; i < 14; i++)
        bound[i] = i % 2 ? 0.1 : sqrt(6.0 / golden_smallcnn[i].fan_in);
    if (m && l2l_model_parameters(m) == 14) seed_parameters(m, 9000, bound);
    return m;
}

static void smallcnn_names(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *m = l2l_model_create(c, &o), *q = quarter_cnn(c);
    int i;
    if (CHECK(m && q)) {
        CHECK_INT(312202, l2l_model_size(m));
        CHECK_INT(14, l2l_model_parameters(m));
        CHECK_INT(14, l2l_model_parameters(q));
        for (i = 0; i < 14 && i < l2l_model_parameters(q); i++) {
            l2l_parameter p = l2l_model_parameter(q, i);
            CHECK_TEXT(golden_smallcnn[i].name, p.name);
            CHECK_TEXT(golden_smallcnn[i].name, l2l_model_parameter(m, i).name);
            CHECK_INT(golden_smallcnn[i].rank, p.rank);
            CHECK_INT(golden_smallcnn[i].count, l2l_count(p.value->shape));
            CHECK(p.trainable);
        }
    }
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_model_free(q);
    l2l_context_free(c);
}

static void check_smallcnn(l2l_context *c, l2l_model *m)
{
    static const int labels[] = {3, 7, 1};
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = seeded(c, 3, 1, 28, 28, 9100, 0, 1), *z, *loss, *g[14], *in[14];
    int i;
    l2l_set_recording(c, true);
    z = l2l_model_forward(m, x, L2L_TRAIN);
    CHECK_TENSOR(c, golden_smallcnn_logits, z, TOLERANCE(1e-5, 1e-10));
    loss = l2l_cross_entropy(c, z, labels);
    if (CHECK(l2l_grad(c, l2l_sum(c, loss), &x, 1, g, 0)))
        CHECK_TENSOR(c, golden_smallcnn_dx, g[0], TOLERANCE(1e-5, 1e-10));
    for (i = 0; i < 14; i++) {
        union { const l2l_tensor *seen; l2l_tensor *used; } p; /* a parameter is read, not written */
        p.seen = l2l_model_parameter(m, i).value;
        in[i] = p.used;
    }
    loss = l2l_mean(c, loss);
    CHECK_TENSOR(c, golden_smallcnn_loss, loss, TOLERANCE(1e-5, 1e-10));
    if (CHECK(l2l_grad(c, loss, in, 14, g, 0)))
        for (i = 0; i < 14; i++)
            if (!(golden_smallcnn[i].rank == 1
                      ? CHECK_TENSOR(c, golden_smallcnn[i].gradient, g[i], TOLERANCE(2e-5, 1e-10))
                      : CHECK_WEIGHT(c, golden_smallcnn[i].gradient, g[i], TOLERANCE(2e-5, 1e-10))))
                printf("    %s\n", golden_smallcnn[i].name);
    CHECK_OK(c);
    l2l_set_recording(c, false);
    l2l_release(c, mark);
}

static void smallcnn_parity(void)
{
    l2l_context *c = test_context(2);
    l2l_model *m = quarter_cnn(c);
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i;
    l2l_real logits[30], *x = test_array(3 * 784);
    if (!CHECK(m != NULL)) { CHECK_OK(c); return; }
    for (i = 0; i < n; i++) {
        l2l_set_cpu(c, cpus[i]);
        check_smallcnn(c, m);
        if (test_complaints) printf("    with %s\n", l2l_describe(c));
    }
    golden_fill(x, 3 * 784, 9100, 0, 1);
    if (CHECK(l2l_model_logits(m, x, 3, logits)))
        CHECK_GOLDEN(golden_smallcnn_logits, logits, 30, TOLERANCE(1e-5, 1e-10));
    CHECK_OK(c);
    free(x);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Logits and input gradients of images first .. first+n-1 into the rows of the results. */
static void evaluate_rows(l2l_context *c, l2l_model *m, const l2l_real *images, int first, int n,
                          l2l_real *logits, l2l_real *gradients)
{
    static const int labels[8] = {3, 7, 1, 0, 8, 8, 4, 2};
    const l2l_model_options *o = l2l_model_info(m);
    int64_t size = (int64_t)o->channels * o->height * o->width;
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x, *z, *g = NULL;
    x = l2l_from_nchw(c, images + first * size, l2l_shape_of(n, o->height, o->width, o->channels));
    l2l_set_recording(c, true);
    z = l2l_model_forward(m, x, L2L_EVALUATE);
    if (CHECK(z && l2l_grad(c, l2l_sum(c, l2l_cross_entropy(c, z, labels + first)), &x, 1, &g, 0))) {
        l2l_to_nchw(c, z, logits + first * o->classes);
        l2l_to_nchw(c, g, gradients + first * size);
    }
    CHECK_OK(c);
    l2l_set_recording(c, false);
    l2l_release(c, mark);
}

static void check_same_bits(l2l_context *c, l2l_model *m)
{
    static const int threads[] = {1, 2, 4}, batches[] = {8, 1, 3};
    const l2l_model_options *o = l2l_model_info(m);
    int64_t size = (int64_t)o->channels * o->height * o->width;
    l2l_real *images = test_array(8 * size), *z[2], *g[2];
    int i, j, first;
    for (i = 0; i < 2; i++) {
        z[i] = test_array(8 * (int64_t)o->classes);
        g[i] = test_array(8 * size);
    }
    golden_fill(images, 8 * size, 41, 0, 1);
    l2l_set_threads(c, 1);
    evaluate_rows(c, m, images, 0, 8, z[0], g[0]);
    for (i = 0; i < 3; i++)
        for (j = 0; j < 3; j++) {
            l2l_set_threads(c, threads[i]);
            memset(z[1], 0, 8 * (size_t)o->classes * sizeof(l2l_real));
            memset(g[1], 0, 8 * (size_t)size * sizeof(l2l_real));
            for (first = 0; first < 8; first += batches[j])
                evaluate_rows(c, m, images, first,
                              8 - first < batches[j] ? 8 - first : batches[j], z[1], g[1]);
            if (!(CHECK_BYTES(z[0], z[1], 8 * (size_t)o->classes * sizeof(l2l_real)) &
                  CHECK_BYTES(g[0], g[1], 8 * (size_t)size * sizeof(l2l_real))))
                printf("    %s, %d threads, batches of %d, %s\n", o->arch, threads[i], batches[j],
                       l2l_describe(c));
        }
    for (i = 0; i < 2; i++) { free(z[i]); free(g[i]); }
    free(images);
}

static void same_bits(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("moody", moody_forward, 3, 11, 10);
    l2l_model *m[6];
    unsigned cpus[8];
    int n = test_cpus(c, cpus), i, j;
    m[0] = quarter_cnn(c);
    m[1] = l2l_model_create(c, &o);
    o = own_options("smooth", smooth_forward, 3, 14, 10);
    m[2] = l2l_model_create(c, &o);
    for (j = 3; j < 6; j++) m[j] = golden_model(c, &golden_network[j - 3]);
    for (j = 0; j < 6; j++) {
        if (!CHECK(m[j] != NULL)) continue;
        for (i = 0; i < n; i++) {
            l2l_set_cpu(c, cpus[i]);
            check_same_bits(c, m[j]);
        }
    }
    CHECK_OK(c);
    for (j = 0; j < 6; j++) l2l_model_free(m[j]);
    l2l_context_free(c);
}

/* Gradients and, after the pass, running statistics. */
static void check_training_bits(l2l_context *c, l2l_model *given)
{
    static const int labels[8] = {3, 7, 1, 0, 8, 8, 4, 2};
    const l2l_model_options *o = l2l_model_info(given);
    l2l_real *kept[MOST_TENSORS], *before = NULL;
    int threads, i;
    memset(kept, 0, sizeof kept);
    for (threads = 1; threads <= 4; threads *= 2) {
        l2l_mark mark = l2l_mark_here(c);
        l2l_model *m = l2l_model_clone(c, given);
        l2l_tensor *in[MOST_TENSORS], *g[MOST_TENSORS], *loss;
        l2l_tensor *x = seeded(c, 8, o->channels, o->height, o->width, 41, 0, 1);
        int n = 0;
        int64_t count;
        l2l_real *after;
        if (!CHECK(m != NULL)) { CHECK_OK(c); break; }
        l2l_set_threads(c, threads);
        l2l_set_recording(c, true);
        for (i = 0; i < l2l_model_parameters(m); i++)
            if (l2l_model_parameter(m, i).trainable) in[n++] = parameter_input(m, i);
        loss = l2l_mean(c, l2l_cross_entropy(c, l2l_model_forward(m, x, L2L_TRAIN), labels));
        if (CHECK(l2l_grad(c, loss, in, n, g, L2L_FREE_GRAPH)))
            for (i = 0; i < n; i++) {
                size_t bytes = (size_t)l2l_count(g[i]->shape) * sizeof(l2l_real);
                if (kept[i]) CHECK_BYTES(kept[i], g[i]->data, bytes);
                else memcpy(kept[i] = (l2l_real *)test_memory(bytes), g[i]->data, bytes);
            }
        CHECK_OK(c);
        l2l_set_recording(c, false);
        l2l_release(c, mark);
        after = all_parameters(m, &count);
        if (before) CHECK_BYTES(before, after, (size_t)count * sizeof *after);
        free(before);
        before = after;
        l2l_model_free(m);
    }
    for (i = 0; i < MOST_TENSORS; i++) free(kept[i]);
    free(before);
}

static void same_bits_in_training(void)
{
    int i;
    for (i = -1; i < COUNT(golden_network); i++) {
        l2l_context *c = test_context(1);
        l2l_model *m = i < 0 ? quarter_cnn(c) : golden_model(c, &golden_network[i]);
        int before = test_complaints;
        if (CHECK(m != NULL)) check_training_bits(c, m);
        if (test_complaints > before && m) printf("    %s\n", l2l_model_info(m)->arch);
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

/* With create_graph the tape grows by one node or more per operation of the backward pass. The
   input's gradient alone must leave out at least one node per parameter. */
static void input_gradient_only(void)
{
    static const int labels[] = {3, 7};
    l2l_context *c = test_context(1);
    l2l_model *m = quarter_cnn(c);
    l2l_tensor *in[15], *g[15];
    int nodes[2], which, i;
    if (!CHECK(m != NULL)) { CHECK_OK(c); return; }
    for (which = 0; which < 2; which++) {
        l2l_mark mark = l2l_mark_here(c), before;
        l2l_tensor *loss;
        in[0] = seeded(c, 2, 1, 28, 28, 41, 0, 1);
        for (i = 0; i < 14; i++) {
            union { const l2l_tensor *seen; l2l_tensor *used; } p;
            p.seen = l2l_model_parameter(m, i).value;
            in[1 + i] = p.used;
        }
        l2l_set_recording(c, true);
        loss = l2l_sum(c, l2l_cross_entropy(c, l2l_model_forward(m, in[0], L2L_EVALUATE), labels));
        before = l2l_mark_here(c);
        CHECK(l2l_grad(c, loss, in, which ? 15 : 1, g, L2L_CREATE_GRAPH));
        nodes[which] = l2l_mark_here(c).tape - before.tape;
        CHECK_OK(c);
        l2l_set_recording(c, false);
        l2l_release(c, mark);
    }
    CHECK(nodes[0] > 0);
    if (!CHECK(nodes[0] + 14 <= nodes[1])) printf("    %d and %d nodes\n", nodes[0], nodes[1]);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void modes(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("moody", moody_forward, 3, 8, 10);
    l2l_model *m = l2l_model_create(c, &o);
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = seeded(c, 4, 3, 8, 8, 50, 0, 1), *a, *b, *t;
    int64_t n, i;
    l2l_real *before, *after;
    int buffers = 0, p;
    if (!CHECK(m != NULL)) { CHECK_OK(c); return; }
    for (p = 0; p < l2l_model_parameters(m); p++) {
        bool trainable = l2l_model_parameter(m, p).trainable;
        buffers += !trainable;

    }
    CHECK(buffers >= 2);
    CHECK_INT(3 * 8 * 9 + 2 * 8 + 8 * 64 * 10 + 10, l2l_model_size(m));
    before = all_parameters(m, &n);
    a = l2l_model_forward(m, x, L2L_EVALUATE);
    b = l2l_model_forward(m, x, L2L_EVALUATE);
    if (CHECK(a && b)) CHECK_BYTES(a->data, b->data, 40 * sizeof(l2l_real));
    after = all_parameters(m, &n);
    CHECK_BYTES(before, after, (size_t)n * sizeof(l2l_real));
    free(after);
    t = l2l_model_forward(m, x, L2L_TRAIN);
    if (CHECK(t != NULL)) CHECK(memcmp(a->data, t->data, 40 * sizeof(l2l_real)) != 0);
    after = all_parameters(m, &n);
    for (i = 0, p = 0; i < n; i++) p += memcmp(before + i, after + i, sizeof(l2l_real)) != 0;
    CHECK(p >= 8 && p <= 8 + 8 + 1); /* running mean and variance of 8 channels, perhaps a counter */
    free(before);
    free(after);
    CHECK_OK(c);
    l2l_release(c, mark);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void initial_values(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *a, *b, *d;
    int i;
    CHECK_NEAR(0.01, o.last_layer_deviation, 0);
    CHECK_NEAR(0, o.dropout, 0);
    CHECK_NEAR(1, o.width_multiplier, 0);
    o.seed = 7;
    a = l2l_model_create(c, &o);
    l2l_set_threads(c, 2);
    b = l2l_model_create(c, &o);
    o.seed = 8;
    o.last_layer_deviation = 0;
    d = l2l_model_create(c, &o);
    if (CHECK(a && b && d)) {
        CHECK_SAME_MODEL(a, b);
        for (i = 0; i < 14; i++) {
            l2l_parameter p = l2l_model_parameter(a, i);
            int64_t n = l2l_count(p.value->shape), j;
            double mean = 0, square = 0, fan_in = (double)n / p.value->shape.c;
            double deviation = i == 12 ? 0.01 : i % 2 ? 0 : sqrt(2 / fan_in);
            for (j = 0; j < n; j++) {
                double v = (double)p.value->data[j];
                mean += v / (double)n;
                square += v * v / (double)n;
            }
            /* four standard errors of a mean and of a standard deviation */
            CHECK_NEAR(0, mean, 4 * deviation / sqrt((double)n));
            CHECK_NEAR(deviation, sqrt(square), 4 * deviation / sqrt(2.0 * (double)n));
            if (i == 12)
                for (j = 0, p = l2l_model_parameter(d, i); j < n; j++) CHECK_NEAR(0, p.value->data[j], 0);
        }
        CHECK(memcmp(l2l_model_parameter(a, 0).value->data, l2l_model_parameter(d, 0).value->data,
                     288 * sizeof(l2l_real)) != 0);
    }
    CHECK_OK(c);
    l2l_model_free(a);
    l2l_model_free(b);
    l2l_model_free(d);
    l2l_context_free(c);
}

static void copies(void)
{
    l2l_context *c = test_context(1), *other = test_context(2);
    l2l_model *m = quarter_cnn(c), *clone, *fresh;
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_real *x = test_array(2 * 784), a[20], b[20], *w;
    int64_t n;
    golden_fill(x, 2 * 784, 60, 0, 1);
    o.width_multiplier = 0.25;
    fresh = l2l_model_create(other, &o);
    clone = m ? l2l_model_clone(other, m) : NULL;
    if (CHECK(m && clone && fresh)) {
        CHECK(l2l_model_logits(m, x, 2, a) && l2l_model_logits(clone, x, 2, b));
        CHECK_BYTES(a, b, sizeof a);
        CHECK(l2l_model_logits(fresh, x, 2, b));
        CHECK(memcmp(a, b, sizeof a) != 0);
        CHECK(l2l_model_copy(fresh, m));
        CHECK(l2l_model_logits(fresh, x, 2, b)); /* transforms cached by the last run are stale */
        CHECK_BYTES(a, b, sizeof a);
        CHECK_SAME_MODEL(fresh, m);
        n = l2l_count(l2l_model_parameter(m, 0).value->shape);
        w = test_array(n);
        CHECK(l2l_parameter_get(m, 0, w));
        w[3] = w[3] + 1;
        CHECK(l2l_parameter_set(m, 0, w));
        CHECK(l2l_model_logits(m, x, 2, b));
        CHECK(memcmp(a, b, sizeof a) != 0);
        w[3] = w[3] - 1;
        l2l_parameter_set(m, 0, w);
        free(w);
        CHECK(l2l_model_logits(clone, x, 2, b)); /* the clone has its own */
        CHECK_BYTES(a, b, sizeof a);
    }
    o.width_multiplier = 0.5;
    l2l_model_free(clone);
    clone = l2l_model_create(other, &o);
    if (CHECK(clone != NULL)) CHECK(!l2l_model_copy(clone, m));
    l2l_error_clear(other);
    CHECK_OK(c);
    free(x);
    l2l_model_free(m);
    l2l_model_free(clone);
    l2l_model_free(fresh);
    l2l_context_free(c);
    l2l_context_free(other);
}

/* Layers of 288 by 288 channels: their weights are packed on the way in the first run, kept from the
   second on, and packed again once they are written to. */
static void large_layers(void)
{
    l2l_context *c = test_context(2);
    l2l_model_options o = l2l_model_default("vgg16");
    l2l_model *m;
    l2l_real *x = test_array(3072), *w, z[4][10], *g = test_array(4 * 3072);
    l2l_parameter large = {NULL, NULL, 0, false, {0}};
    int k, i;
    golden_fill(x, 3072, 61, 0, 1);
    o.width_multiplier = 0.5625;
    m = l2l_model_create(c, &o);
    for (k = 0; m && k < l2l_model_parameters(m); k++) {
        large = l2l_model_parameter(m, k);
        if (large.rank == 4 && (int64_t)large.value->shape.w * large.value->shape.c > 65536)
            break;
    }
    if (CHECK(m && k < l2l_model_parameters(m))) {
        w = test_array(l2l_count(large.value->shape));
        for (i = 0; i < 3; i++) evaluate_rows(c, m, x, 0, 1, z[i], g + i * 3072);
        CHECK_BYTES(z[1], z[0], sizeof z[0]);
        CHECK_BYTES(z[2], z[0], sizeof z[0]);
        CHECK_BYTES(g + 3072, g, 3072 * sizeof *g);
        CHECK_BYTES(g + 2 * 3072, g, 3072 * sizeof *g);
        CHECK(l2l_parameter_get(m, k, w));
        w[7] += 1;
        CHECK(l2l_parameter_set(m, k, w));
        evaluate_rows(c, m, x, 0, 1, z[3], g + 3 * 3072);
        CHECK(memcmp(z[3], z[0], sizeof z[0]) != 0);
        w[7] -= 1;
        CHECK(l2l_parameter_set(m, k, w));
        for (i = 1; i < 3; i++) {
            evaluate_rows(c, m, x, 0, 1, z[i], g + i * 3072);
            CHECK_NEAR(z[0][3], z[i][3], 1e-5);
        }
        CHECK_BYTES(z[1], z[2], sizeof z[0]);
        CHECK_BYTES(g + 3072, g + 2 * 3072, 3072 * sizeof *g);
        free(w);
    }
    CHECK_OK(c);
    free(x);
    free(g);
    l2l_model_free(m);
    l2l_context_free(c);
}

static void input_normalisation(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("smooth", smooth_forward, 2, 6, 4);
    l2l_model *plain = l2l_model_create(c, &o), *normal;
    l2l_real x[144], z[144], a[8], b[8];
    int i;
    o.normalise = 2;
    o.mean[0] = 0.25; o.mean[1] = 0.5;
    o.deviation[0] = 0.5; o.deviation[1] = 0.125;
    normal = l2l_model_create(c, &o);
    golden_fill(x, 144, 61, 0, 1);
    for (i = 0; i < 144; i++)
        z[i] = (l2l_real)(((double)x[i] - o.mean[i / 36 % 2]) / o.deviation[i / 36 % 2]);
    if (CHECK(plain && normal)) {
        CHECK(l2l_model_logits(plain, z, 2, a) && l2l_model_logits(normal, x, 2, b));
        for (i = 0; i < 8; i++) CHECK_NEAR(a[i], b[i], TOLERANCE(1e-6, 1e-14));
    }
    CHECK_OK(c);
    l2l_model_free(plain);
    l2l_model_free(normal);
    l2l_context_free(c);
}

static void summary(void)
{
    l2l_context *c = test_context(1);
    l2l_model *m = quarter_cnn(c);
    char text[4096], small[20];
    size_t n;
    if (CHECK(m != NULL)) {
        n = l2l_model_summary(m, text, sizeof text);
        CHECK_INT(strlen(text), n);
        CHECK_CONTAINS("conv4", text);
        CHECK_CONTAINS("fc3", text);
        memset(small, 'x', sizeof small);
        CHECK_INT(n, l2l_model_summary(m, small, 10));
        CHECK_INT(9, strlen(small));
        CHECK(small[10] == 'x');
        CHECK(strncmp(small, text, 9) == 0);
    }
    l2l_model_free(m);
    l2l_context_free(c);
}

/* The gradient of a whole batch's losses in its images. */
static void input_gradient(l2l_model *m, const l2l_real *images, const int *labels, int n)
{
    l2l_context *c = l2l_model_context(m);
    const l2l_model_options *o = l2l_model_info(m);
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *x = l2l_from_nchw(c, images, l2l_shape_of(n, o->height, o->width, o->channels)), *g;
    const bool was = l2l_set_recording(c, true);
    l2l_tensor *loss = l2l_cross_entropy(c, l2l_model_forward(m, x, L2L_EVALUATE), labels);
    CHECK(l2l_grad(c, loss, &x, 1, &g, L2L_FREE_GRAPH));
    l2l_set_recording(c, was);
    l2l_release(c, mark);
}

/* Stated: between half and twice of what a first training step, or an input gradient, takes from a
   fresh context. An attack goes by slices and may take less. */
static void check_memory(const l2l_model_options *model, int batch)
{
    const l2l_model_options o = *model;
    const int64_t size = (int64_t)o.channels * o.height * o.width;
    int mode;
    for (mode = L2L_EVALUATE; mode <= L2L_TRAIN; mode++) {
        l2l_context *c = test_context(1);
        l2l_model *m = l2l_model_create(c, &o);
        l2l_trainer *t = NULL;
        l2l_train_options train = l2l_train_default();
        l2l_attack attack = l2l_attack_fgsm(0.1);
        l2l_dataset d;
        l2l_real *images = test_array(batch * size), *adv = test_array(batch * size);
        l2l_record records[64];
        int labels[64], i;
        size_t estimate, before, took;
        l2l_progress p;
        golden_fill(images, batch * size, 70, 0, 1);
        for (i = 0; i < batch; i++) labels[i] = i % o.classes;
        if (!CHECK(m != NULL)) { CHECK_OK(c); continue; }
        estimate = l2l_model_memory(m, batch, (l2l_mode)mode);
        CHECK(estimate > 0);
        CHECK_OK(c);
        l2l_model_free(m); /* what the estimate itself took does not count */
        l2l_context_free(c);
        c = test_context(1);
        m = l2l_model_create(c, &o);
        if (!CHECK(m != NULL)) { CHECK_OK(c); continue; }
        if (mode == L2L_TRAIN) {
            train.method = l2l_method_plain();
            train.batch = batch;
            CHECK(l2l_dataset_from_arrays(c, images, labels, batch, o.channels, o.height, o.width,
                                          o.classes, &d));
            t = l2l_trainer_create(m, &d, &train);
            before = l2l_memory_used(c);
            CHECK(t && l2l_train_step(t, images, labels, batch, &p));
        } else {
            before = l2l_memory_used(c);
            CHECK(l2l_attack_run(m, &attack, images, labels, batch, adv, records));
            CHECK(l2l_memory_peak(c) - before <= 2 * estimate);
            input_gradient(m, images, labels, batch);
        }
        took = l2l_memory_peak(c) - before;
        if (!CHECK(estimate >= took / 2 && estimate <= took * 2))
            printf("    %s, mode %d: estimated %lu, took %lu bytes\n", o.arch, mode,
                   (unsigned long)estimate, (unsigned long)took);
        CHECK_OK(c);
        l2l_trainer_free(t);
        if (t) l2l_dataset_free(&d);
        l2l_model_free(m);
        l2l_context_free(c);
        free(images);
        free(adv);
    }
}

static void memory_estimate(void)
{
    static const struct {
        const char *arch;
        double multiplier;
        int depth, height, width, batch;
    } p[] = {{"smallcnn", 1, 0, 28, 28, 64},
             {"vgg16", 0.25, 0, 32, 32, 20},
             {"wrn", 1, 10, 24, 20, 20},
             {"resnet18", 0.25, 0, 56, 48, 24}};
    int i;
    for (i = 0; i < COUNT(p); i++) {
        l2l_model_options o = l2l_model_default(p[i].arch);
        o.width_multiplier = p[i].multiplier;
        o.depth = p[i].depth;
        o.height = p[i].height;
        o.width = p[i].width;
        check_memory(&o, p[i].batch);
    }
}

/* -- scopes ----------------------------------------------------------------------------------- */

static const char *last_scope; /* what scoped_forward ends with: it must not last */
static l2l_tensor *scoped_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)user;
    x = l2l_layer_conv(m, "first", x, 3, 3, 1, 1, L2L_NO_BIAS);
    l2l_model_scope(m, "a.0.");
    x = l2l_layer_batch_norm(m, "bn", x, L2L_RELU);
    l2l_model_scope(m, "b");
    x = l2l_layer_conv(m, "first", x, 3, 1, 1, 0, 0);
    l2l_model_scope(m, "");
    x = l2l_layer_linear(m, "fc", x, l2l_model_info(m)->classes, 0);
    l2l_model_scope(m, last_scope);
    return x;
}

static l2l_tensor *long_name_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_model_scope(m, "a.scope.that.is.as.long.as.a.scope.may.be.in.this.library.so.");
    return l2l_layer_linear(m, (const char *)user, x, l2l_model_info(m)->classes, 0);
}

static void scopes(void)
{
    static const char *const names[] = {"first.weight", "a.0.bn.weight", "a.0.bn.bias",
                                        "a.0.bn.running_mean", "a.0.bn.running_var",
                                        "bfirst.weight", "bfirst.bias", "fc.weight", "fc.bias"};
    static char too_long[] = "and.a.layer.whose.name.does.not.fit", fits[] = "short";
    l2l_context *c = test_context(1);
    l2l_model_options o = own_options("scoped", scoped_forward, 2, 4, 3);
    l2l_model *m;
    l2l_real x[32], z[3];
    char scope[66];
    int i;
    golden_fill(x, 32, 90, 0, 1);
    last_scope = "left.behind.";
    m = l2l_model_create(c, &o);
    if (CHECK(m != NULL) && CHECK_INT(COUNT(names), l2l_model_parameters(m)))
        for (i = 0; i < COUNT(names); i++) CHECK_TEXT(names[i], l2l_model_parameter(m, i).name);
    CHECK(m && l2l_model_logits(m, x, 1, z) && l2l_model_logits(m, x, 1, z));
    CHECK_OK(c);
    for (i = 60; i < 66; i++) { /* from 64 characters on it is refused, by name */
        memset(scope, 'x', sizeof scope);
        scope[i] = 0;
        last_scope = scope;
        if (i < 64) CHECK(m && l2l_model_logits(m, x, 1, z) && l2l_error(c) == L2L_OK);
        else {
            CHECK(m && !l2l_model_logits(m, x, 1, z));
            CHECK_CONTAINS("scope", l2l_error_text(c));
            CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "too long");
        }
    }
    last_scope = "";
    CHECK(m && l2l_model_logits(m, x, 1, z));
    CHECK_OK(c);
    l2l_model_free(m);
    o = own_options("long", long_name_forward, 2, 4, 3);
    o.user = too_long;
    CHECK(l2l_model_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "too long");
    o.user = fits;
    m = l2l_model_create(c, &o);
    CHECK(m != NULL);
    CHECK_OK(c);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* Every depth 6n+4 is one; a widening factor that rounds two groups to one width still is. */
static void depths(void)
{
    static const int wrong[] = {33, 3, 0, 4, -2, 11};
    l2l_context *c = test_context(1);
    l2l_model_options o = l2l_model_default("wrn");
    l2l_model *m;
    char depth[32];
    int i;
    o.width_multiplier = 0.25;
    o.height = o.width = 8;
    for (i = 0; i < COUNT(wrong); i++) {
        o.depth = wrong[i];
        CHECK(l2l_model_create(c, &o) == NULL);
        sprintf(depth, "depth %d ", wrong[i]);
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, depth);
    }
    for (o.depth = 10; o.depth <= 22; o.depth += 6) {
        m = l2l_model_create(c, &o);
        if (CHECK(m != NULL)) /* 10 per block, a 1x1 convolution per group, 7 around them */
            CHECK_INT((o.depth - 4) / 2 * 10 + 3 + 7, l2l_model_parameters(m));
        CHECK_OK(c);
        l2l_model_free(m);
    }
    l2l_context_free(c);
}

static l2l_tensor *no_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    (void)m; (void)x; (void)user;
    return NULL;
}

static void bad_models(void)
{
    l2l_context *c = test_context(1);
    l2l_model_options o = l2l_model_default("no such thing");
    l2l_model *m;
    l2l_real *x = test_array(784), z[10];
    CHECK(l2l_model_create(c, &o) == NULL);
    CHECK(l2l_error(c) != L2L_OK);
    CHECK(*l2l_error_text(c) != 0);
    l2l_error_clear(c);
    o = own_options("none", no_forward, 1, 4, 3);
    CHECK(l2l_model_create(c, &o) == NULL);
    CHECK(l2l_error(c) != L2L_OK);
    l2l_error_clear(c);
    o = l2l_model_default("smallcnn");
    o.classes = 0;
    CHECK(l2l_model_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "classes");
    o = l2l_model_default("smallcnn");
    o.width_multiplier = -1;
    CHECK(l2l_model_create(c, &o) == NULL);
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "width");
    m = quarter_cnn(c);
    if (CHECK(m != NULL)) {
        CHECK(l2l_model_forward(m, l2l_zeros(c, l2l_shape_of(2, 28, 28, 3)), L2L_EVALUATE) == NULL);
        CHECK(l2l_error(c) == L2L_ERROR_SHAPE);
        l2l_error_clear(c);
        CHECK(l2l_model_logits(m, x, 1, z));
    }
    CHECK_OK(c);
    free(x);
    l2l_model_free(m);
    l2l_context_free(c);
}

/* A residual depends on what the block's other input depends on, too. */
static void recorded_gradient(void)
{
    int mode;
    for (mode = L2L_EVALUATE; mode <= L2L_TRAIN; mode++) {
        l2l_context *c = test_context(2);
        l2l_model_options o = l2l_model_default("resnet18");
        l2l_tensor *x, *z, *loss, *plain, *recorded;
        l2l_model *m;
        o.height = o.width = 32;
        o.width_multiplier = 0.125;
        o.last_layer_deviation = 0.1;
        m = l2l_model_create(c, &o);
        x = seeded(c, 4, 3, 32, 32, 77, 0, 1);
        l2l_set_recording(c, true);
        z = l2l_model_forward(m, x, (l2l_mode)mode);
        loss = l2l_sum(c, l2l_mul(c, z, z));
        if (CHECK(l2l_grad(c, loss, &x, 1, &plain, 0)) &&
            CHECK(l2l_grad(c, loss, &x, 1, &recorded, L2L_CREATE_GRAPH))) {
            int64_t i, n = l2l_count(x->shape);
            double off = 0, most = 0;
            for (i = 0; i < n; i++) {
                off = fmax(off, fabs((double)(plain->data[i] - recorded->data[i])));
                most = fmax(most, fabs((double)plain->data[i]));
            }
            CHECK_NEAR(0, off / most, 1e-4);
        }
        CHECK_OK(c);
        l2l_model_free(m);
        l2l_context_free(c);
    }
}

int main(void)
{
    RUN(census, "counts, names and shapes of the four classifiers are PyTorch's, at full size too");
    run_golden_networks();
    RUN(scopes, "a scope stands in front of names, is never cut short, and ends with the pass");
    RUN(depths, "a WideResNet of no such depth is refused by name");
    RUN(smallcnn_names, "SmallCNN has TRADES' names, ranks and 312,202 parameters");
    RUN(smallcnn_parity, "SmallCNN's logits and gradients equal PyTorch's");
    RUN(same_bits, "logits and input gradients have the same bits in any batch and thread count");
    RUN(same_bits_in_training, "weight gradients have the same bits for any thread count");
    RUN(input_gradient_only, "an input gradient does not compute weight gradients");
    RUN(modes, "training mode moves running statistics, evaluation mode is repeatable");
    RUN(initial_values, "initial values: Kaiming-normal, zero biases, N(0, 0.01^2) last, by seed");
    RUN(copies, "clones, copies and written parameters act at once");
    RUN(large_layers, "a large layer gives the same bits while its weights are kept, others when not");
    RUN(input_normalisation, "inputs are normalised inside the model");
    RUN(summary, "the summary names the layers and respects its capacity");
    RUN(memory_estimate, "the memory estimate is within a factor 2 of what is used");
    RUN(recorded_gradient, "resnet18's gradient is the same when it is recorded itself");
    RUN(bad_models, "models that cannot be are refused by name");
    return test_end();
}
