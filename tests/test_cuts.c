/* A search without gradients, whose looks take only what is near a change from the classifier's
   first layers: whatever it asks about, it gets the bits of a pass over the whole image. The
   library is part of this program, so that a test can spoil what is known of earlier looks. */
#define L2LADV_STATIC
#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"
#include "test.h"

enum { LOOKS = 24, IMAGES = 36, MOST = 20 * 20 * 16, LATE = LOOKS / 2 - 1 };

/* What a search asked about one image, and was told. */
typedef struct walk {
    int n;
    double loss[LOOKS];
    l2l_real point[LOOKS][MOST];
} walk;

static walk *walks; /* of all images */
static bool keeps;  /* windows go into the point that was kept, not into the one before */
static bool spoil;  /* what is known of kept points is made false */
static const l2l_model *other; /* whose parameters come halfway */

/* A random number of this image and pass below `most`. */
static int number(const l2l_spot *p, int element, int most)
{
    l2l_stream r;
    memset(&r, 0, sizeof r);
    r.seed = 7;
    r.purpose = L2L_RANDOM_SEARCH;
    r.image = p->in->images[p->i];
    r.step = (uint32_t)p->in->t;
    return (int)(l2l_random_bits(&r, (uint32_t)element) % (uint32_t)most);
}

/* A window of any size up to a third of the image, more rarely all of it, of one pixel or of none,
   at any place, borders more often than not; of noise or of one value. */
static void change(const l2l_spot *p)
{
    const l2l_shape s = p->in->shape;
    const int kind = number(p, 0, 10), value = number(p, 1, 3);
    int h = 1 + number(p, 2, s.h / 3), w = 1 + number(p, 3, s.w / 3), top, left;
    if (kind == 0) { h = s.h; w = s.w; }
    if (kind == 1) h = w = 1;
    if (kind == 2) h = w = 0;
    top = number(p, 4, s.h - h + 1);
    left = number(p, 5, s.w - w + 1);
    if (kind == 3) top = 0;
    if (kind == 4) top = s.h - h;
    if (kind == 5) left = 0;
    if (kind == 6) left = s.w - w;
    for (int y = top; y < top + h; y++)
        for (int x = left; x < left + w; x++)
            for (int k = 0; k < s.c; k++) {
                const int j = (y * s.w + x) * s.c + k;
                p->z[j] = (l2l_real)(value == 2 ? number(p, 6 + j, 1000) / 999.0 : value);
            }
}

static int64_t begin(l2l_inner *in, const l2l_attack *a)
{
    (void)in;
    return a->steps;
}

static void prepare(l2l_inner *in)
{
    l2l__fronts *f = in->model->fronts;
    for (int i = 0; spoil && f && i < in->n; i++) {
        const int place = f->place[i], best = f->best[place];
        for (int64_t j = 0; f->has[best][place] && j < f->numbers; j++)
            f->front[best][place * f->numbers + j] += 1;
    }
    if (other && in->t == LOOKS / 2) CHECK(l2l_model_copy(in->model, other));
}

static void point(const l2l_spot *p)
{
    walk *w = &walks[p->in->images[p->i]];
    if (w->n > 0 && keeps) memcpy(p->z, p->memory[0], (size_t)p->n * sizeof *p->z);
    change(p);
    memcpy(w->point[w->n], p->z, (size_t)p->n * sizeof *p->z);
}

static void seen(const l2l_spot *p)
{
    walk *w = &walks[p->in->images[p->i]];
    w->loss[w->n++] = p->loss;
    if ((p->in->t > 1 || !keeps) && number(p, 9, 3)) return;
    l2l_spot_keep(p, false);
    memcpy(p->memory[0], p->z, (size_t)p->n * sizeof *p->z);
    if (number(p, 10, 4) == 0) p->z[0] = 1 - p->z[0]; /* what was kept is not what was seen */
    if (number(p, 11, 40) == 0) l2l_spot_end(p);
}

static const l2l_search search = {
    0, 1, false, false, false, false, begin, prepare, point, seen};

static l2l_forward smallcnn;

/* Two of them. */
static l2l_tensor *pair(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_tensor *a, *b;
    l2l_model_scope(m, "a.");
    a = smallcnn(m, x, user);
    l2l_model_scope(m, "b.");
    b = smallcnn(m, x, user);
    l2l_model_scope(m, "");
    return l2l_add(l2l_model_context(m), a, b);
}

/* One, on more images than a slice has. */
static l2l_tensor *copies(l2l_model *m, l2l_tensor *x, void *user)
{
    l2l_context *c = l2l_model_context(m);
    l2l_tensor *many = l2l_zeros(c, l2l_shape_of(8 * x->shape.n, x->shape.h, x->shape.w,
                                                 x->shape.c)), *z, *mean;
    const int64_t one = l2l_count(x->shape) / x->shape.n;
    for (int i = 0; many && i < many->shape.n; i++)
        memcpy(many->data + i * one, x->data + i / 8 * one, (size_t)one * sizeof *x->data);
    z = smallcnn(m, many, user);
    mean = l2l_zeros(c, l2l_shape_of(x->shape.n, 1, 1, 10));
    for (int i = 0; z && mean && i < 10 * x->shape.n; i++)
        mean->data[i] = z->data[i / 10 * 80 + i % 10];
    return mean;
}

static l2l_forward mine; /* a network of one's own */

static l2l_model *network(l2l_context *c, int h, int w, int channels, double width)
{
    l2l_model_options o = l2l_model_default("smallcnn");
    smallcnn = o.forward;
    if (mine) {
        o.arch = "mine";
        o.forward = mine;
        o.concurrent = true;
    }
    o.height = h;
    o.width = w;
    o.channels = channels;
    o.width_multiplier = width;
    o.last_layer_deviation = 1;
    return l2l_model_create(c, &o);
}

/* Of logits the largest one that is not number y, minus that one. */
static l2l_real margin(const l2l_real *z, int y)
{
    l2l_real most = -HUGE_VALF;
    for (int k = 0; k < 10; k++)
        if (k != y && z[k] > most) most = z[k];
    return most - z[y];
}

/* Attacks plain images with edges, as they are taken for what they are; how many looks were not
   told what the whole image gives. */
static int wrong(l2l_model *m, int batch)
{
    const l2l_model_options *o = l2l_model_info(m);
    const int plane = o->height * o->width, one = o->channels * plane;
    l2l_real *x = (l2l_real *)calloc((size_t)(IMAGES * one), sizeof *x), z[IMAGES * 10];
    l2l_real *at = (l2l_real *)calloc((size_t)(LOOKS * one), sizeof *at);
    int labels[IMAGES], looks = 0, off = 0;
    l2l_attack a = l2l_search_attack("windows", 1, L2L_LINF, LOOKS, &search);
    a.minimal = false;
    a.queries = true;
    a.batch = batch;
    if (!CHECK(x && at && one <= MOST)) exit(2);
    memset(walks, 0, IMAGES * sizeof *walks);
    for (int i = 0; i < IMAGES * one; i++)
        x[i] = (l2l_real)(i / o->width % 20 < 12 ? 0.25 : i % 13 / 13.0);
    CHECK(l2l_model_logits(m, x, IMAGES, z));
    for (int i = 0; i < IMAGES; i++)
        for (int k = labels[i] = 0; k < 10; k++)
            if (z[10 * i + k] > z[10 * i + labels[i]]) labels[i] = k;
    CHECK(l2l_attack_run(m, &a, x, labels, IMAGES, NULL, NULL));
    for (int i = 0; i < IMAGES; i++) {
        const walk *w = &walks[i];
        for (int n = 0; n < w->n; n++)
            for (int j = 0; j < one; j++)
                at[n * one + j % o->channels * plane + j / o->channels] = w->point[n][j];
        CHECK(l2l_model_logits(m, at, w->n, z));
        for (int n = other ? LATE : 0; n < w->n; n++, looks++)
            off += (double)margin(z + 10 * n, labels[i]) != w->loss[n];
    }
    CHECK(looks > IMAGES * LOOKS / (other ? 8 : 4));
    free(x);
    free(at);
    return off;
}

static const unsigned cpus[] = {L2L_CPU_DETECT, L2L_CPU_AVX2 | L2L_CPU_VECTOR, L2L_CPU_VECTOR,
                                L2L_CPU_PLAIN};

/* `spoilt`: where the kept points' numbers are made false, most looks must come out wrong. */
static void on(int h, int w, int channels, double width, bool spoilt)
{
    const bool large = h * w * channels > 1000, digits = h == 28 && width == 1;
    for (int k = 0; k < 4 - large; k++) /* large ones not on the plain kernels */
        for (int threads = digits ? 1 : 2; threads <= 2; threads++) {
            l2l_options o = l2l_options_default();
            o.threads = threads;
            o.cpu = cpus[k];
            l2l_context *c = l2l_context_create(&o);
            l2l_model *m = network(c, h, w, channels, width);
            int off = wrong(m, threads == 1 ? 100 : 30);
            CHECK(spoilt ? off > IMAGES * LOOKS / 8 : off == 0);
            CHECK_TEXT("", l2l_error_text(c));
            l2l_model_free(m);
            l2l_context_free(c);
        }
}

static void mnist(void) { on(28, 28, 1, 1, false); }
static void wandering(void)
{
    keeps = false;
    on(28, 28, 1, 0.5, false);
    keeps = true;
}
static void colours(void) { on(24, 32, 3, 0.5, false); }
static void odd(void) { on(27, 28, 1, 0.5, false); }
static void tiles(void)
{
    on(40, 40, 1, 2, false);
    on(44, 44, 1, 2, false);
}
static void oblong(void)
{
    on(24, 44, 1, 2, false);
    on(16, 64, 1, 0.5, false);
    on(64, 16, 1, 0.5, false);
}
static void channels(void)
{
    on(20, 20, 8, 1, false);
    on(20, 20, 16, 1, false);
    on(28, 28, 7, 0.5, false);
}
static void own(void)
{
    mine = pair;
    on(28, 28, 1, 0.5, false);
    mine = copies;
    on(28, 28, 1, 0.5, false);
    mine = NULL;
}
static void clone(void)
{
    spoil = true;
    for (int from = 0; from < 2; from++) {
        l2l_context *c = l2l_context_create(NULL);
        l2l_model *m = network(c, 28, 28, 1, 1), *n = l2l_model_clone(c, m);
        l2l_set_threads(c, 2);
        CHECK(wrong(from ? n : m, 100) > IMAGES * LOOKS / 8);
        l2l_model_free(m);
        l2l_model_free(n);
        l2l_context_free(c);
    }
    spoil = false;
}
static void changed(void)
{
    l2l_context *c = l2l_context_create(NULL);
    l2l_model_options o = l2l_model_default("smallcnn");
    l2l_model *m = network(c, 28, 28, 1, 1), *n;
    o.seed = 1;
    o.last_layer_deviation = 1;
    n = l2l_model_create(c, &o);
    other = n;
    CHECK_INT(0, wrong(m, 100));
    other = NULL;
    l2l_model_free(m);
    l2l_model_free(n);
    l2l_context_free(c);
}
static void small(void) { on(16, 16, 2, 2, false); }
static void known(void)
{
    spoil = true;
    on(28, 28, 1, 1, true);
    spoil = false;
}

int main(void)
{
    if (!(walks = (walk *)calloc(IMAGES, sizeof *walks))) return 2;
    keeps = true;
    RUN(mnist, "windows of digits: the bits of whole images, on all kernels, by one and two "
                "threads");
    RUN(wandering, "the same where points are kept that the next window does not begin at");
    RUN(colours, "the same of three channels, on a plane that is not square");
    RUN(odd, "the same on a plane that tiles do not cover");
    RUN(tiles, "the same where a part of the plane would be made in tiles of 5x5, or the whole is");
    RUN(oblong, "the same on planes much wider than high and higher than wide");
    RUN(channels, "the same of as many channels as go in tiles in the first layer, and of fewer");
    RUN(own, "the same of networks of one's own that are made of smallcnn's function");
    RUN(changed, "the same where parameters change during the search");
    RUN(clone, "clones know as much as models that were made");
    RUN(small, "the same on the smallest planes, of a wider network");
    RUN(known, "the other looks do take what is known: where that is false, so is what they give");
    free(walks);
    return test_end();
}
