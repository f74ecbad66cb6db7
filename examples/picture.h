/* picture.h - pictures and line charts for the example programs: a canvas written as PNG and a
 * plot written as SVG. C99 and POSIX. Include cli.h first. Not part of the library.
 *
 * Functions that return int give 0 on success and nonzero, with errno set, on failure; those that
 * write a file leave an error in the context instead.
 * Text on a canvas is ASCII; text in a plot is UTF-8. Colours are 0xRRGGBB. */
#ifndef PICTURE_H
#define PICTURE_H

#include "cli.h"

enum { PIC_FONT_W = 6, PIC_FONT_H = 8 }; /* one character cell at scale 1 */

/* A picture is made in memory, and its file written by the library, as all files are. */
typedef struct {
    char *bytes;
    size_t size;
} pic_memory;

static inline int pic_close(l2l_context *c, FILE *f, pic_memory *m, const char *path)
{
    int bad = ferror(f);
    if (fclose(f) || bad) {
        errno = ENOMEM;
        cli_die_errno("picture");
    }
    bad = !l2l_save_bytes(c, path, m->bytes, m->size);
    free(m->bytes);
    return bad;
}

/* ---- canvas ---- */

typedef struct {
    int w, h;
    unsigned char *rgb; /* h rows of w pixels of 3 bytes */
} pic_canvas;

/* Everything drawn is clipped to the canvas. */
static inline void pic_rect(pic_canvas *p, int x, int y, int w, int h, unsigned rgb)
{
    int i, j, x0 = x > 0 ? x : 0, y0 = y > 0 ? y : 0;
    int x1 = x + w < p->w ? x + w : p->w, y1 = y + h < p->h ? y + h : p->h;
    for (j = y0; j < y1; j++)
        for (i = x0; i < x1; i++) {
            unsigned char *q = p->rgb + 3 * ((size_t)j * (size_t)p->w + (size_t)i);
            q[0] = (unsigned char)(rgb >> 16 & 255);
            q[1] = (unsigned char)(rgb >> 8 & 255);
            q[2] = (unsigned char)(rgb & 255);
        }
}

static inline void pic_pixel(pic_canvas *p, int x, int y, unsigned rgb)
{
    pic_rect(p, x, y, 1, 1, rgb);
}

static inline void pic_free(pic_canvas *p)
{
    if (p) free(p->rgb);
    free(p);
}

static inline pic_canvas *pic_create(int w, int h, unsigned rgb_background)
{
    pic_canvas *p;
    if (w < 1 || h < 1 || w > 16384 || h > 16384) { /* sizes then fit a 32-bit size_t */
        errno = EINVAL;
        return NULL;
    }
    p = (pic_canvas *)malloc(sizeof *p);
    if (p) {
        p->w = w;
        p->h = h;
        p->rgb = (unsigned char *)malloc((size_t)w * (size_t)h * 3);
        if (p->rgb) {
            pic_rect(p, 0, 0, w, h, rgb_background);
            return p;
        }
    }
    pic_free(p);
    errno = ENOMEM;
    return NULL;
}

static inline unsigned pic_byte(float v)
{ /* [0,1] to 0..255; NaN becomes 0 */
    return v >= 1.0f ? 255u : v > 0.0f ? (unsigned)(v * 255.0f + 0.5f) : 0u;
}

/* An image in [0,1], planes C x H x W, each pixel a square of `scale`. Three planes or more are
 * RGB; with fewer, the first is grey. */
static inline void pic_image(pic_canvas *p, int x, int y, int scale, const float *chw, int c, int h,
                             int w)
{
    size_t plane = (size_t)h * (size_t)w;
    int i, j;
    for (j = 0; j < h; j++)
        for (i = 0; i < w; i++) {
            const float *v = chw + (size_t)j * (size_t)w + i;
            unsigned r = pic_byte(v[0]), g = c < 3 ? r : pic_byte(v[plane]);
            unsigned b = c < 3 ? r : pic_byte(v[2 * plane]);
            pic_rect(p, x + i * scale, y + j * scale, scale, scale, r << 16 | g << 8 | b);
        }
}

/* A perturbation: white is 0, full red is +limit, full blue is -limit (limit > 0). Of several
 * planes the value of largest magnitude is shown: a mean could cancel to nothing. */
static inline void pic_signed(pic_canvas *p, int x, int y, int scale, const float *chw, int c,
                              int h, int w, float limit)
{
    size_t plane = (size_t)h * (size_t)w;
    int i, j, k;
    for (j = 0; j < h; j++)
        for (i = 0; i < w; i++) {
            const float *v = chw + (size_t)j * (size_t)w + i;
            float m = v[0];
            unsigned fade;
            for (k = 1; k < c; k++)
                if (fabsf(v[(size_t)k * plane]) > fabsf(m)) m = v[(size_t)k * plane];
            fade = 255u - pic_byte(fabsf(m) / limit);
            pic_rect(p, x + i * scale, y + j * scale, scale, scale,
                     m > 0.0f ? 0xFF0000u | fade << 8 | fade : fade << 16 | fade << 8 | 0xFFu);
        }
}

static inline int pic_text_width(int scale, const char *text)
{
    int n = (int)strlen(text);
    return n > 0 ? (n * PIC_FONT_W - 1) * scale : 0; /* no gap after the last character */
}

/* (x, y) is the top left corner. */
static inline void pic_text(pic_canvas *p, int x, int y, int scale, unsigned rgb, const char *text)
{
    /* ASCII 32..126: five columns from the left, one byte each, lowest bit on top. */
    static const uint64_t font[95] = {
        0x0000000000, 0x00005F0000, 0x0007000700, 0x147F147F14, 0x242A7F2A12, 0x2313086462,
        0x3649552250, 0x0004030000, 0x001C224100, 0x0041221C00, 0x14083E0814, 0x08083E0808,
        0x00A0600000, 0x0808080808, 0x0060600000, 0x6010080403, 0x3E5149453E, 0x00427F4000,
        0x6251494946, 0x2141454B31, 0x1814127F10, 0x2745454539, 0x3C4A494930, 0x0171090503,
        0x3649494936, 0x064949291E, 0x006C6C0000, 0x00AC6C0000, 0x0814224100, 0x1414141414,
        0x0041221408, 0x0201510906, 0x3E415D551E, 0x7E0909097E, 0x7F49494936, 0x3E41414122,
        0x7F4141413E, 0x7F49494941, 0x7F09090901, 0x3E4149497A, 0x7F0808087F, 0x00417F4100,
        0x2040413F01, 0x7F08142241, 0x7F40404040, 0x7F020C027F, 0x7F0408107F, 0x3E4141413E,
        0x7F09090906, 0x3E4151215E, 0x7F09192946, 0x4649494931, 0x01017F0101, 0x3F4040403F,
        0x1F2040201F, 0x7F2018207F, 0x6314081463, 0x0304780403, 0x6151494543, 0x007F414100,
        0x0304081060, 0x0041417F00, 0x0402010204, 0x8080808080, 0x0001020400, 0x2054545478,
        0x7F48444438, 0x3844444420, 0x384444487F, 0x3854545418, 0x087E090102, 0x18A4A4A47C,
        0x7F08040478, 0x00447D4000, 0x4080847D00, 0x7F10284400, 0x00417F4000, 0x7C04180478,
        0x7C08040478, 0x3844444438, 0xFC24242418, 0x18242424FC, 0x7C08040408, 0x4854545424,
        0x043F444020, 0x3C4040207C, 0x1C2040201C, 0x3C4030403C, 0x4428102844, 0x1CA0A0A07C,
        0x4464544C44, 0x0008364100, 0x00007F0000, 0x0041360800, 0x0804081008};
    int i, j;
    for (; *text; text++, x += PIC_FONT_W * scale) {
        uint64_t glyph = font[(*text >= 32 && *text <= 126 ? *text : '?') - 32];
        for (i = 0; i < 5; i++)
            for (j = 0; j < 8; j++)
                if (glyph >> (8 * (4 - i) + j) & 1)
                    pic_rect(p, x + i * scale, y + j * scale, scale, scale, rgb);
    }
}

/* ---- PNG: one zlib stream of one fixed-Huffman block (RFC 1950, 1951, 2083) ---- */

typedef struct {
    unsigned char *p;
    size_t n;
    uint32_t bits;
    int count;
} pic_bits;

static inline void pic_put(pic_bits *b, uint32_t v, int n)
{ /* lowest bit first */
    b->bits |= v << b->count;
    for (b->count += n; b->count >= 8; b->count -= 8, b->bits >>= 8)
        b->p[b->n++] = (unsigned char)(b->bits & 255);
}

static inline void pic_put_code(pic_bits *b, uint32_t code, int n)
{ /* highest bit first */
    while (n-- > 0) pic_put(b, code >> n & 1, 1);
}

static inline void pic_put_symbol(pic_bits *b, uint32_t s)
{ /* literal, end (256) or length */
    if (s < 144)
        pic_put_code(b, 0x30 + s, 8);
    else if (s < 256)
        pic_put_code(b, 0x190 + s - 144, 9);
    else if (s < 280)
        pic_put_code(b, s - 256, 7);
    else
        pic_put_code(b, 0xC0 + s - 280, 8);
}

/* Deflate codes lengths and distances like small floats: m bits of mantissa choose the code
 * together with the exponent, and the *extra bits below them follow it. */
static inline uint32_t pic_split(uint32_t v, int m, int *extra)
{
    int e = 0;
    while (v >> e >= 2u << m) e++;
    *extra = e;
    return ((uint32_t)e << m) + (v >> e);
}

static inline uint32_t pic_hash(const unsigned char *q)
{
    return ((uint32_t)q[0] << 16 | (uint32_t)q[1] << 8 | q[2]) * 2654435761u >> 17;
}

static inline void pic_deflate(pic_bits *b, const unsigned char *raw, size_t n, size_t stride,
                               size_t *last /* 32768 zeros */)
{
    size_t at = 0, k, length, best, from, distance, step;
    int tries, extra;
    pic_put(b, 3, 3); /* last block, fixed codes */
    for (; at < n; at += step) {
        best = distance = 0;
        /* Two candidates: the latest same three bytes, and the row above, which in an enlarged
         * picture is mostly this row again. `last` holds positions plus one. */
        for (tries = 0; tries < 2 && at + 3 <= n; tries++) {
            from = tries ? (at >= stride ? at - stride + 1 : 0) : last[pic_hash(raw + at)];
            if (!from || at - --from > 32768) continue;
            for (length = 0; length < 257 && at + length < n; length++)
                if (raw[from + length] != raw[at + length]) break;
            if (length > best) {
                best = length;
                distance = at - from;
            }
        }
        if (best >= 3) { /* up to 257: length 258 has a code of its own */
            uint32_t v = (uint32_t)best - 3;
            pic_put_symbol(b, 257 + pic_split(v, 2, &extra));
            pic_put(b, v & ((1u << extra) - 1), extra);
            v = (uint32_t)distance - 1;
            pic_put_code(b, pic_split(v, 1, &extra), 5);
            pic_put(b, v & ((1u << extra) - 1), extra);
        } else
            pic_put_symbol(b, raw[at]);
        step = best >= 3 ? best : 1;
        for (k = at; k < at + step && k + 3 <= n; k++) last[pic_hash(raw + k)] = k + 1;
    }
    pic_put_symbol(b, 256);
    pic_put(b, 0, 7); /* push out the last bits */
}

static inline void pic_be32(unsigned char *q, uint32_t v)
{
    int i;
    for (i = 0; i < 4; i++) q[i] = (unsigned char)(v >> (24 - 8 * i) & 255);
}

static inline void pic_chunk(FILE *f, const char *type, const unsigned char *data, size_t n)
{
    unsigned char head[8], tail[4];
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;
    int k;
    pic_be32(head, (uint32_t)n);
    memcpy(head + 4, type, 4);
    for (i = 0; i < n + 4; i++) {
        crc ^= i < 4 ? head[4 + i] : data[i - 4];
        for (k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    pic_be32(tail, ~crc);
    fwrite(head, 1, 8, f); /* pic_close asks ferror once for all writes */
    fwrite(data, 1, n, f);
    fwrite(tail, 1, 4, f);
}

static inline int pic_write_png(l2l_context *c, const pic_canvas *p, const char *path)
{
    static const unsigned char magic[8] = {137, 'P', 'N', 'G', 13, 10, 26, 10};
    unsigned char head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0}; /* 8 bits, RGB */
    size_t i, row = 3 * (size_t)p->w, n = (row + 1) * (size_t)p->h;
    unsigned char *raw = (unsigned char *)malloc(n);
    size_t *last = (size_t *)calloc(32768, sizeof *last);
    pic_bits b = {NULL, 0, 0, 0};
    uint32_t s1 = 1, s2 = 0; /* Adler-32 */
    pic_memory m;
    FILE *f;
    int bad = 1;
    b.p = (unsigned char *)malloc(n + n / 8 + 64); /* no byte takes more than nine bits */
    if (!raw || !last || !b.p)
        errno = ENOMEM;
    else if ((f = open_memstream(&m.bytes, &m.size)) != NULL) {
        for (i = 0; i < (size_t)p->h; i++) {
            raw[i * (row + 1)] = 0; /* no filter */
            memcpy(raw + i * (row + 1) + 1, p->rgb + i * row, row);
        }
        for (i = 0; i < n; i++) {
            s1 = (s1 + raw[i]) % 65521;
            s2 = (s2 + s1) % 65521;
        }
        b.p[b.n++] = 0x78; /* zlib: deflate, window of 32 KiB */
        b.p[b.n++] = 0x01;
        pic_deflate(&b, raw, n, row + 1, last);
        pic_be32(b.p + b.n, s2 << 16 | s1);
        pic_be32(head, (uint32_t)p->w);
        pic_be32(head + 4, (uint32_t)p->h);
        fwrite(magic, 1, 8, f);
        pic_chunk(f, "IHDR", head, 13);
        pic_chunk(f, "IDAT", b.p, b.n + 4);
        pic_chunk(f, "IEND", head, 0);
        bad = pic_close(c, f, &m, path);
    }
    free(raw);
    free(last);
    free(b.p);
    return bad;
}

/* ---- SVG line chart, 720 x 440 ---- */

typedef struct {
    const char *name;    /* NULL: not in the legend */
    const double *x, *y; /* x NULL: 0, 1, 2, ...; a point not finite breaks the line */
    int n;
    unsigned rgb;
} pic_series;

typedef struct {
    const char *title, *x_label, *y_label; /* NULL: none */
    const pic_series *series;
    int n_series;
} pic_plot;

static inline unsigned pic_colour(int i)
{ /* told apart by colour-blind readers too */
    static const unsigned colour[6] = {0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9};
    return colour[(unsigned)i % 6];
}

static inline void pic_number(char out[32], double v)
{ /* "%g" with a point in any locale */
    char text[64];
    const char *s = text;
    int n = 0;
    snprintf(text, sizeof text, "%.10g", v);
    for (; *s && n < 31; s++)
        if (strchr("0123456789+-e", *s))
            out[n++] = *s;
        else if (n && out[n - 1] != '.')
            out[n++] = '.'; /* it may be several bytes */
    out[n] = 0;
}

static inline int pic_columns(const char *s)
{ /* characters of UTF-8 */
    int n = 0;
    for (; s && *s; s++) n += (*s & 0xC0) != 0x80;
    return n;
}

static inline void pic_svg_text(FILE *f, double x, double y, const char *how, const char *s)
{
    fprintf(f, "<text transform=\"translate(%d %d)%s>", (int)x, (int)y, how);
    for (; s && *s; s++)
        if (*s == '&')
            fputs("&amp;", f);
        else if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '>')
            fputs("&gt;", f);
        else
            fputc((*s & 0xE0) == 0 ? ' ' : *s, f); /* XML knows no control characters */
    fputs("</text>\n", f);
}

/* Coordinates in the picture are positive; tenths of a pixel, without a decimal point of printf. */
static inline void pic_svg_point(FILE *f, const char *command, double x, double y)
{
    int i = (int)(x * 10 + 0.5), j = (int)(y * 10 + 0.5);
    fprintf(f, "%s%d.%d %d.%d", command, i / 10, i % 10, j / 10, j % 10);
}

typedef struct {
    double lo, hi, step;
} pic_axis;

static inline double pic_value(const pic_series *s, int i, int is_y)
{
    return is_y ? s->y[i] : s->x ? s->x[i] : i;
}

static inline int pic_usable(const pic_series *s, int i)
{ /* false for NaN and infinity */
    return fabs(pic_value(s, i, 0)) < 1e100 && fabs(pic_value(s, i, 1)) < 1e100;
}

/* The range of the data, extended to multiples of a step of 1, 2 or 5 times a power of ten. */
static inline pic_axis pic_scale(const pic_plot *p, int is_y)
{
    pic_axis a = {1.0, 0.0, 1.0};
    double v, magnitude, power;
    int i, k;
    for (k = 0; k < p->n_series; k++)
        for (i = 0; i < p->series[k].n; i++) {
            if (!pic_usable(&p->series[k], i)) continue;
            v = pic_value(&p->series[k], i, is_y);
            if (a.lo > a.hi) a.lo = a.hi = v;
            if (v < a.lo) a.lo = v;
            if (v > a.hi) a.hi = v;
        }
    if (a.lo > a.hi) a.lo = 0.0, a.hi = 1.0; /* no data */
    magnitude = fmax(fabs(a.lo), fabs(a.hi));
    if (a.hi - a.lo <= 1e-6 * magnitude || a.hi - a.lo < 1e-90) { /* flat */
        v = magnitude < 1e-80 ? 1.0 : 0.1 * magnitude;
        a.lo -= v;
        a.hi += v;
    }
    power = pow(10.0, floor(log10((a.hi - a.lo) / 5.0)));
    v = (a.hi - a.lo) / 5.0 / power; /* in [1, 10) */
    a.step = power * (v < 1.5 ? 1.0 : v < 3.5 ? 2.0 : v < 7.5 ? 5.0 : 10.0);
    a.lo = floor(a.lo / a.step + 1e-9) * a.step; /* 0.3 / 0.1 is a little below 3 */
    a.hi = ceil(a.hi / a.step - 1e-9) * a.step;
    return a;
}

static inline int pic_ticks(const pic_axis *a) { return (int)((a->hi - a->lo) / a->step + 0.5); }

static inline void pic_tick(char out[32], const pic_axis *a, int i)
{
    pic_number(out, (floor(a->lo / a->step + 0.5) + i) * a->step); /* an exact 0 at 0 */
}

static inline int pic_write_svg(l2l_context *c, const pic_plot *p, const char *path)
{
    pic_axis ax = pic_scale(p, 0), ay = pic_scale(p, 1);
    double left = 0, right = 0, top = 52, bottom = 378, x, y, at, row;
    char number[32];
    pic_memory m;
    FILE *f = open_memstream(&m.bytes, &m.size);
    int i, k, pen;
    if (!f) return 1;
    for (i = 0; i <= pic_ticks(&ay); i++) { /* room for the labels of the y axis */
        pic_tick(number, &ay, i);
        left = fmax(left, 7.0 * pic_columns(number));
    }
    for (k = 0; k < p->n_series; k++) /* and for the legend, on the right: it hides no data */
        right = fmax(right, p->series[k].name ? 42 + 7.5 * pic_columns(p->series[k].name) : 0);
    left += p->y_label ? 50 : 26;
    right = 720 - fmin(fmax(right + 18, 30), 300);
    fputs("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"440\" "
          "viewBox=\"0 0 720 440\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" "
          "fill=\"#222\">\n<rect width=\"720\" height=\"440\" fill=\"#fff\"/>\n",
          f);
    for (i = 0; i <= pic_ticks(&ax); i++) {
        at = left + (right - left) * i / pic_ticks(&ax);
        pic_svg_point(f, "<path stroke=\"#ddd\" d=\"M", at, top);
        pic_svg_point(f, "L", at, bottom);
        fputs("\"/>\n", f);
        pic_tick(number, &ax, i);
        pic_svg_text(f, at, bottom + 19, "\" text-anchor=\"middle\"", number);
    }
    for (i = 0; i <= pic_ticks(&ay); i++) {
        at = bottom - (bottom - top) * i / pic_ticks(&ay);
        pic_svg_point(f, "<path stroke=\"#ddd\" d=\"M", left, at);
        pic_svg_point(f, "L", right, at);
        fputs("\"/>\n", f);
        pic_tick(number, &ay, i);
        pic_svg_text(f, left - 8, at + 5, "\" text-anchor=\"end\"", number);
    }
    pic_svg_point(f, "<path stroke=\"#444\" fill=\"none\" d=\"M", left, top);
    pic_svg_point(f, "L", left, bottom);
    pic_svg_point(f, "L", right, bottom);
    fputs("\"/>\n", f);
    at = (left + right) / 2;
    pic_svg_text(f, at, 30, "\" text-anchor=\"middle\" font-size=\"17\"", p->title);
    pic_svg_text(f, at, bottom + 46, "\" text-anchor=\"middle\" font-size=\"14\"", p->x_label);
    pic_svg_text(f, 24, (top + bottom) / 2,
                 " rotate(-90)\" text-anchor=\"middle\" font-size=\"14\"", p->y_label);
    for (k = 0, row = top + 8; k < p->n_series; k++) {
        const pic_series *s = &p->series[k];
        /* The curve and its line in the legend are one path. */
        fprintf(f,
                "<path stroke=\"#%06x\" stroke-width=\"2\" stroke-linejoin=\"round\" "
                "stroke-linecap=\"round\" fill=\"none\" d=\"",
                s->rgb & 0xFFFFFFu);
        for (i = pen = 0; i < s->n; i++) {
            if (!pic_usable(s, i)) {
                pen = 0;
                continue;
            }
            x = left + (right - left) * (pic_value(s, i, 0) - ax.lo) / (ax.hi - ax.lo);
            y = bottom - (bottom - top) * (s->y[i] - ay.lo) / (ay.hi - ay.lo);
            pic_svg_point(f, pen ? "L" : "\nM", x, y);
            if (!pen && (i + 1 == s->n || !pic_usable(s, i + 1)))
                fputs("m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", f); /* a lone point: a circle */
            pen = 1;
        }
        if (s->name) {
            pic_svg_point(f, "M", right + 16, row);
            pic_svg_point(f, "L", right + 38, row);
        }
        fputs("\"/>\n", f);
        if (s->name) {
            pic_svg_text(f, right + 46, row + 5, "\"", s->name);
            row += 22;
        }
    }
    fputs("</svg>\n", f);
    return pic_close(c, f, &m, path);
}

#endif /* PICTURE_H */
