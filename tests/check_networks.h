/* VGG-16, WideResNet and ResNet-18 in small against PyTorch's values, both modes, in whatever build
   includes this. */
#ifndef L2LADV_TESTS_CHECK_NETWORKS_H
#define L2LADV_TESTS_CHECK_NETWORKS_H

#include "networks.h"

/* The number of the parameter or buffer of this name, -1 if there is none. */
HELPER int parameter_named(const l2l_model *m, const char *name)
{
    int i;
    for (i = 0; i < l2l_model_parameters(m); i++)
        if (strcmp(l2l_model_parameter(m, i).name, name) == 0) return i;
    return -1;
}

/* A parameter as an input of l2l_grad: it is read, not written. */
HELPER l2l_tensor *parameter_input(const l2l_model *m, int i)
{
    union { const l2l_tensor *seen; l2l_tensor *used; } p;
    p.seen = l2l_model_parameter(m, i).value;
    return p.used;
}

/* K, C, kh, kw of a file's tensor; C is C*H*W of a linear layer. */
HELPER void file_shape(l2l_parameter p, int *s)
{
    l2l_shape v = p.value->shape;
    s[0] = v.c;
    s[1] = p.rank == 4 ? v.w : v.n * v.h * v.w;
    s[2] = p.rank == 4 ? v.n : 1;
    s[3] = p.rank == 4 ? v.h : 1;
}

/* A network of golden.py with its values. NULL if it cannot be. */
HELPER l2l_model *golden_model(l2l_context *c, const golden_network_case *p)
{
    l2l_model_options o = l2l_model_default(p->arch);
    l2l_model *m;
    int i;
    o.width_multiplier = p->width_multiplier;
    o.depth = p->depth;
    o.height = p->height;
    o.width = p->width;
    o.classes = p->classes;
    if (!(m = l2l_model_create(c, &o))) return NULL;
    for (i = 0; i < p->tensors; i++) {
        const golden_network_tensor *t = &p->tensor[i];
        int at = parameter_named(m, t->name);
        if (at >= 0) {
            int64_t n = l2l_count(l2l_model_parameter(m, at).value->shape);
            l2l_real *v = test_array(n);
            golden_fill(v, n, (uint32_t)(p->seed + i), t->low, t->high);
            l2l_parameter_set(m, at, v);
            free(v);
        }
    }
    return m;
}

static void network_tensors(void)
{
    l2l_context *c = test_context(1);
    int n, i, j;
    for (n = 0; n < COUNT(golden_network); n++) {
        const golden_network_case *p = &golden_network[n];
        l2l_model *m = golden_model(c, p);
        if (!CHECK(m != NULL)) { CHECK_OK(c); continue; }
        CHECK_INT(p->tensors, l2l_model_parameters(m));
        for (i = 0; i < p->tensors; i++) {
            const golden_network_tensor *t = &p->tensor[i];
            int at = parameter_named(m, t->name), s[4];
            if (!CHECK(at >= 0)) { printf("    %s\n", t->name); continue; }
            file_shape(l2l_model_parameter(m, at), s);
            CHECK_INT(t->rank, l2l_model_parameter(m, at).rank);
            CHECK_INT(t->trained, l2l_model_parameter(m, at).trainable);
            for (j = 0; j < 4; j++) CHECK_INT(t->shape[j], s[j]);
        }
        l2l_model_free(m);
    }
    CHECK_OK(c);
    l2l_context_free(c);
}

/* {largest, projection, first} of values in file layout; all zero means exactly that. */
HELPER int check_brief(const char *name, const double *golden, const l2l_real *v, int64_t n,
                       double tolerance)
{
    double allowed = tolerance * golden[0], sum = 0;
    l2l_real *noise = test_array(n);
    int64_t i;
    int ok;
    golden_fill(noise, n, 77, -1, 1);
    for (i = 0; i < n; i++) {
        sum += (double)v[i] * (double)noise[i];
        if (!(fabs((double)v[i]) <= golden[0] + allowed)) break;
    }
    free(noise);
    ok = CHECK_INT(n, i) && CHECK_NEAR(golden[1], sum, allowed * sqrt((double)n)) &
                                CHECK_NEAR(golden[2], v[0], allowed);
    if (!ok) printf("    of %s\n", name);
    return ok;
}

enum { MOST_TENSORS = 128 };
static void check_network(l2l_context *c, const golden_network_case *p, l2l_model *m, int training)
{
    static const int labels[] = {3, 7, 1};
    const double close = training ? TOLERANCE(1e-4, 1e-9) : TOLERANCE(2e-5, 1e-9);
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *in[MOST_TENSORS], *g[MOST_TENSORS], *z, *loss;
    const golden_network_tensor *of[MOST_TENSORS];
    int i, n = 1;
    in[0] = seeded(c, 3, 3, p->height, p->width, (uint32_t)p->images, 0, 1);
    for (i = 0; i < p->tensors; i++) {
        int at = parameter_named(m, p->tensor[i].name);
        if (at < 0 || !p->tensor[i].trained) continue;
        of[n] = &p->tensor[i];
        in[n++] = parameter_input(m, at);
    }
    l2l_set_recording(c, true);
    z = l2l_model_forward(m, in[0], training ? L2L_TRAIN : L2L_EVALUATE);
    CHECK_TENSOR(c, p->logits[training], z, close);
    loss = z ? l2l_mean(c, l2l_cross_entropy(c, z, labels)) : NULL;
    CHECK_TENSOR(c, p->loss[training], loss, close);
    if (CHECK(loss && l2l_grad(c, loss, in, n, g, L2L_FREE_GRAPH))) {
        CHECK_TENSOR(c, p->dx[training], g[0], close);
        for (i = 1; i < n; i++) {
            l2l_shape s = g[i]->shape;
            l2l_real *v = test_array(l2l_count(s));
            weight_permute(g[i]->data, v, s.c, s.w, s.n, s.h, 1);
            check_brief(of[i]->name, training ? of[i]->train : of[i]->evaluate, v, l2l_count(s),
                        close);
            free(v);
        }
    }
    for (i = 0; i < p->tensors; i++) { /* the running statistics, which evaluation leaves alone */
        const golden_network_tensor *t = &p->tensor[i];
        int at = parameter_named(m, t->name);
        int64_t k;
        l2l_real *v, *w;
        if (at < 0 || t->trained) continue;
        k = l2l_count(l2l_model_parameter(m, at).value->shape);
        v = test_array(k);
        w = test_array(k);
        l2l_parameter_get(m, at, v);
        golden_fill(w, k, (uint32_t)(p->seed + i), t->low, t->high);
        if (training) check_brief(t->name, t->train, v, k, TOLERANCE(1e-5, 1e-9));
        else CHECK_BYTES(w, v, (size_t)k * sizeof *v);
        free(v);
        free(w);
    }
    CHECK_OK(c);
    l2l_set_recording(c, false);
    l2l_release(c, mark);
}

static void golden_networks(void)
{
    l2l_context *c = test_context(2);
    unsigned cpus[8];
    int n, i, cpu = test_cpus(c, cpus), training;
    for (n = 0; n < COUNT(golden_network); n++)
        for (i = 0; i < cpu; i++)
            for (training = 0; training < 2; training++) {
                l2l_model *m = golden_model(c, &golden_network[n]);
                int before = test_complaints;
                l2l_set_cpu(c, cpus[i]);
                if (CHECK(m != NULL)) check_network(c, &golden_network[n], m, training);
                CHECK_OK(c);
                if (test_complaints > before)
                    printf("    %s, %s mode, %s\n", golden_network[n].arch,
                           training ? "training" : "evaluation", l2l_describe(c));
                l2l_model_free(m);
            }
    l2l_context_free(c);
}

/* -- a unit against its parts ------------------------------------------------------------------- */

typedef struct unit_case {
    unsigned flags;
    int norm, residual, stride;
    int apart; /* one operation after the other */
} unit_case;

static l2l_tensor *unit_forward(l2l_model *m, l2l_tensor *x, void *user)
{
    const unit_case *p = (const unit_case *)user;
    l2l_context *c = l2l_model_context(m);
    l2l_unit u = l2l_unit_default(11, 3);
    l2l_tensor *y;
    u.stride = p->stride;
    u.flags = p->flags;
    u.norm = p->norm ? "bn" : NULL;
    if (p->residual)
        u.residual = l2l_layer_conv(m, "side", x, 11, 1, p->stride, 0, L2L_NO_BIAS);
    if (!p->apart) {
        y = l2l_layer_unit(m, "conv", x, &u);
    } else {
        y = l2l_layer_conv(m, "conv", x, 11, 3, p->stride, 1, p->flags & L2L_NO_BIAS);
        if (p->norm) y = l2l_layer_batch_norm(m, "bn", y, 0);
        if (p->residual) y = l2l_add(c, y, u.residual);
        if (p->flags & L2L_RELU) y = l2l_relu(c, y);
        if (p->flags & L2L_POOL) y = l2l_max_pool(c, y, 2, 2, 0);
    }
    return l2l_layer_linear(m, "fc", y, 4, 0);
}

/* Logits, all gradients and the parameters after a pass; with the buffers as they were given. */
static l2l_real *unit_results(l2l_context *c, l2l_model *m, l2l_mode mode, int64_t *count)
{
    static const int labels[] = {1, 3, 0};
    l2l_mark mark = l2l_mark_here(c);
    l2l_tensor *in[16], *g[16], *z;
    int64_t n, at = 12, i;
    l2l_real *all, *v;
    int inputs = 1, j;
    in[0] = seeded(c, 3, 5, 7, 6, 801, -1, 1);
    for (j = 0; j < l2l_model_parameters(m); j++)
        if (l2l_model_parameter(m, j).trainable) in[inputs++] = parameter_input(m, j);
    l2l_set_recording(c, true);
    z = l2l_model_forward(m, in[0], mode);
    all = test_array(20000);
    if (CHECK(z && l2l_grad(c, l2l_sum(c, l2l_cross_entropy(c, z, labels)), in, inputs, g, 0))) {
        memcpy(all, z->data, 12 * sizeof *all);
        for (j = 0; j < inputs; at += n, j++) {
            n = l2l_count(g[j]->shape);
            memcpy(all + at, g[j]->data, (size_t)n * sizeof *all);
        }
    }
    v = all_parameters(m, &n);
    if (CHECK(at + n <= 20000)) for (i = 0; i < n; i++) all[at++] = v[i];
    free(v);
    *count = at;
    CHECK_OK(c);
    l2l_set_recording(c, false);
    l2l_release(c, mark);
    return all;
}

static void units(void)
{
    l2l_context *c = test_context(1);
    int i, j, k, mode;
    for (i = 0; i < 32; i++)
        for (mode = L2L_EVALUATE; mode <= L2L_TRAIN; mode++) {
            unit_case p;
            l2l_model_options o = own_options("unit", unit_forward, 5, 7, 4);
            l2l_model *m;
            l2l_real *result[2];
            int64_t n = 0, count[2], e;
            double worst = 0, largest = 1;
            memset(&p, 0, sizeof p);
            p.flags = (i & 1 ? L2L_RELU : 0) | (i & 2 ? (unsigned)L2L_POOL : 0) |
                      (i & 4 ? (unsigned)L2L_NO_BIAS : 0);
            p.norm = (i & 8) != 0;
            p.residual = (i & 16) != 0;
            p.stride = i % 3 == 1 ? 2 : 1;
            o.user = &p;
            o.width = 6;
            m = l2l_model_create(c, &o);
            if (!CHECK(m != NULL)) { CHECK_OK(c); continue; }
            for (j = 0; j < 2; j++) {
                p.apart = j;
                for (k = 0; k < l2l_model_parameters(m); k++) {
                    l2l_parameter q = l2l_model_parameter(m, k);
                    int positive = strstr(q.name, "var") || strcmp(q.name, "bn.weight") == 0;
                    l2l_real *v = test_array(n = l2l_count(q.value->shape));
                    golden_fill(v, n, 810 + (uint32_t)k, positive ? 0.5 : -0.4,
                                positive ? 1.5 : 0.4);
                    l2l_parameter_set(m, k, v);
                    free(v);
                }
                result[j] = unit_results(c, m, (l2l_mode)mode, &count[j]);
            }
            CHECK_INT(count[1], count[0]);
            for (e = 0; e < count[0]; e++) {
                double v = (double)result[1][e], off = fabs((double)result[0][e] - v);
                if (!(off <= worst)) worst = off;
                if (fabs(v) > largest) largest = fabs(v);
            }
            if (!CHECK_NEAR(0, worst / largest, TOLERANCE(2e-6, 1e-13)))
                printf("    flags %u, norm %d, residual %d, stride %d, mode %d\n", p.flags, p.norm,
                       p.residual, p.stride, mode);
            free(result[0]);
            free(result[1]);
            l2l_model_free(m);
        }
    l2l_context_free(c);
}

HELPER void run_golden_networks(void)
{
    RUN(network_tensors, "VGG-16, WideResNet and ResNet-18 have PyTorch's names, ranks and shapes");
    RUN(golden_networks, "their logits, gradients and running statistics equal PyTorch's");
    RUN(units, "a unit equals convolution, batch norm, residual, ReLU and pooling one by one");
}

#endif
