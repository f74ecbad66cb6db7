/* Numbers as texts of files: written so that they come back with the same bits, integers as
   integers, and read to the nearest double, whatever the text. Held against printf and strtod:
   what the library writes and reads with, and, where a model's means may be so large, its files. */
#define L2LADV_STATIC
#define L2LADV_IMPLEMENTATION
#include "../examples/training_log.h"
#include "networks.h"
#include <float.h>

enum { CHANNELS = 4 };
static l2l_context *c;
static l2l_model *one, *other;

static uint64_t state = 88172645463325252u;
static uint64_t draw(void)                   /* xorshift64 */
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}
static double of_bits(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static l2l_model *make(const double *mean, const double *deviation)
{
    l2l_model_options o = own_options("numbers", linear_forward, CHANNELS, 1, 2);
    int i;
    o.normalise = CHANNELS;
    for (i = 0; i < CHANNELS; i++) {
        o.mean[i] = mean[i];
        o.deviation[i] = deviation[i];
    }
    return l2l_model_create(c, &o);
}

/* Whether a model may have such means: in single precision as in double they are finite and no
   more than FLT_MAX. */
static int fits(double v) { return fabs(v) <= (double)FLT_MAX; }

static int written_and_read(double v, char text[40])
{
    const char *s = text;
    double back = 1;
    size_t n = l2l__format(text, 40, "%r", v);
    return CHECK(n < 40) && CHECK(l2l__scan_real(&s, &back)) && CHECK_INT(0, *s) &&
           CHECK_BYTES(&v, &back, sizeof v);
}

/* Four numbers into texts, into a file if they fit, and back; what the file says of them, apart. */
static int through_a_file(const double *v, char text[CHANNELS][40])
{
    static const double ones[CHANNELS] = {1, 1, 1, 1};
    l2l_model *m;
    void *data = NULL;
    char own[CHANNELS][40];
    size_t bytes = 0;
    int i, extra, ok = 1;
    for (i = 0; i < CHANNELS; i++)
        if (!written_and_read(v[i], text ? text[i] : own[i])) ok = 0;
    for (i = 0; i < CHANNELS; i++)
        if (!ok || !fits(v[i])) return ok;
    m = make(v, ones);
    ok = CHECK(m && l2l_model_save_memory(m, &data, &bytes)) &&
         CHECK(l2l_model_load_memory(other, data, bytes, &extra));
    for (i = 0; ok && i < CHANNELS; i++)
        ok = CHECK_BYTES(&v[i], &l2l_model_info(other)->mean[i], sizeof *v);
    if (ok && text) {
        const char *p = (const char *)data + 8;
        for (; memcmp(p, "\"mean\":\"", 8); p++) continue;
        for (p += 8, i = 0; i < CHANNELS; i++, p++) {
            size_t n = strcspn(p, ",\"");
            ok &= CHECK_INT(strlen(text[i]), n) && CHECK_BYTES(text[i], p, n);
            p += n;
        }
    }
    if (!ok) printf("    %.17g %.17g %.17g %.17g\n", v[0], v[1], v[2], v[3]);
    CHECK_OK(c);
    l2l_free(c, data);
    l2l_model_free(m);
    return ok;
}

static void integers(void)
{
    char text[CHANNELS][40], expected[40];
    double v[CHANNELS];
    int i, k, ok = 1;
    for (i = 0; i <= 1 << 17 && ok; i += CHANNELS) {
        for (k = 0; k < CHANNELS; k++) v[k] = i + k;
        ok = through_a_file(v, text);
        for (k = 0; ok && k < CHANNELS; k++) {
            snprintf(expected, sizeof expected, "%d", i + k);
            ok = CHECK_TEXT(expected, text[k]);
        }
    }
    for (i = 1; i <= 53 && ok; i++) {
        for (k = 0; k < CHANNELS; k++) v[k] = (k & 1 ? -1 : 1) * (ldexp(1, i) - 2 + k);
        if (i == 53) v[3] = v[2];
        ok = through_a_file(v, text);
        for (k = 0; ok && k < CHANNELS; k++) {
            snprintf(expected, sizeof expected, "%.0f", v[k]);
            ok = CHECK_TEXT(v[k] == 0 ? "0" : expected, v[k] == 0 ? "0" : text[k]);
        }
    }
}

/* No text is longer than 17 digits, none longer than it must be if 15 do, and strtod agrees. */
static void reals(void)
{
    static const double special[] = {
        DBL_MAX, -DBL_MAX, DBL_MIN, -DBL_MIN, DBL_EPSILON, 4.9406564584124654e-324, -0.0, 0.0,
        2.2250738585072009e-308, 1e22, 1e23, 9007199254740993.0, 0.1, 1 / 3., 8 / 255., 0.3,
        5e-324, 1.5e-323, 1.7976931348623155e308, 123456789012345678.0, 1e15, 1e16, 1e17, 1e-5};
    char text[CHANNELS][40], shortest[40];
    double v[CHANNELS];
    int i, k, ok = 1;
    for (i = 0; i < COUNT(special); i += CHANNELS) ok &= through_a_file(special + i, NULL);
    for (i = -323; i <= 308 && ok; i++) {
        v[0] = pow(10, i);
        v[1] = strtod((snprintf(shortest, sizeof shortest, "1e%d", i), shortest), NULL);
        v[2] = -v[0] * 3;
        if (!(v[2] >= -DBL_MAX)) v[2] = 1;
        v[3] = ldexp(1, (int)(i * 3.3));
        ok = through_a_file(v, NULL);
    }
    for (i = 0; i < 12000 && ok; i++) {
        for (k = 0; k < CHANNELS; k++) {
            uint64_t bits = draw();
            if (draw() % 8 == 0) bits &= ~((uint64_t)2047 << 52); /* subnormal */
            if ((bits >> 52 & 2047) == 2047) bits ^= (uint64_t)1 << 60;
            v[k] = draw() % 4 ? of_bits(bits) : (double)(draw() >> 11) / 9007199254740992.0;
        }
        ok = through_a_file(v, text);
        for (k = 0; ok && k < CHANNELS; k++) {
            ok = CHECK(strtod(text[k], NULL) == v[k]) && CHECK(strlen(text[k]) <= 24);
            snprintf(shortest, sizeof shortest, "%.15g", v[k]);
            if (ok && strtod(shortest, NULL) == v[k]) ok = CHECK(strlen(text[k]) <= 21 + 2);
        }
    }
}

/* A file of the model above whose metadata say `text` for the first mean. */
static int read_text(const char *text, double *v)
{
    static char file[4096];
    int extra, n = snprintf(file + 8, sizeof file - 8,
                            "{\"__metadata__\":{\"mean\":\"%s,0,0,0\",\"deviation\":\"1,1,1,1\"},"
                            "\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":"
                            "[0,32]},\"fc.bias\":{\"dtype\":\"F32\",\"shape\":[2],"
                            "\"data_offsets\":[32,40]}}", text), i;
    for (i = 0; i < 8; i++) file[i] = (char)((unsigned)n >> 8 * (i < 4 ? i : 3) & (i < 4 ? 255 : 0));
    memset(file + 8 + n, 0, 40);
    if (!l2l_model_load_memory(one, file, 8 + (size_t)n + 40, &extra)) {
        l2l_error_clear(c);
        return 0;
    }
    *v = l2l_model_info(one)->mean[0];
    return 1;
}
static int read_as_strtod(const char *text)
{
    double expected = strtod(text, NULL), got = 0, filed = 0;
    const char *s = text;
    int there = l2l__scan_real(&s, &got) && !*s, finite = fabs(expected) <= DBL_MAX;
    if (CHECK_INT(fits(expected), read_text(text, &filed)) && fits(expected))
        CHECK_BYTES(&expected, &filed, sizeof filed);
    if (CHECK_INT(finite, there) && (!there || CHECK_BYTES(&expected, &got, sizeof got))) return 1;
    printf("    %.60s: %.17g, not %.17g\n", text, got, expected);
    return 0;
}

static void texts(void)
{
    static const char *const good[] = {
        "0", "-0", "0e400", "0.0e-323", "1e-324", "2e-324", "3e-324", "2.4703282292062327e-324",
        "2.4703282292062328e-324", "2.47032822920623272088284396434110686182e-324",
        "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308",
        "1.797693134862315807e308", "1.797693134862315808e308", "1e309", "1e99999999999",
        "1e-99999999999", "0.000000000000000000001e21", "000001", "1e22", "1e23",
        "9007199254740993", "9007199254740992.99999999999999999",
        "9007199254740993.00000000000000001", ".5", "5.", "2.2250738585072011e-308",
        "2.2250738585072014e-308", "179769313486231570000000000000000000000000000000000000e255"};
    static const char *const bad[] = {"", ".", "-", "+1", "1e", "e5", "nan", "inf", "0x10", "1.2.3",
                                      "1 ", "--1", "1e+", "1,"};
    double v;
    char text[64];
    int i, k, n;
    for (i = 0; i < COUNT(good); i++) read_as_strtod(good[i]);
    for (i = 0; i < COUNT(bad); i++)
        if (!CHECK(!read_text(bad[i], &v))) printf("    \"%s\"\n", bad[i]);
    for (i = 0; i < 8000; i++) {
        n = 1 + (int)(draw() % 30);
        for (k = 0; k < n; k++) text[k] = (char)('0' + draw() % 10);
        if (n > 2) text[draw() % (uint64_t)n] = '.';
        snprintf(text + n, sizeof text - (size_t)n, "e%d", (int)(draw() % 680) - 350);
        if (!read_as_strtod(text)) return;
    }
}

/* What lies half way between two doubles goes to the even one, a little more or less does not. */
static void halves(void)
{
#if LDBL_MANT_DIG > 53
    static char text[1000];
    int i;
    for (i = 0; i < 1000; i++) {
        uint64_t bits = draw() >> 1;
        char *e, tail[16];
        int exponent;
        double v;
        if (i % 8 == 0) bits &= ~((uint64_t)2047 << 52);
        v = of_bits(bits);
        if (!(v > 0 && v < DBL_MAX)) continue;
        frexp(v, &exponent);
        exponent = exponent < -1021 ? -1021 : exponent;
        snprintf(text, sizeof text, "%.780Le", (long double)v + ldexpl(1, exponent - 54));
        if (!read_as_strtod(text)) return;
        e = strchr(text, 'e');
        strcpy(tail, e);
        strcat(strcpy(e, "1"), tail);
        if (!read_as_strtod(text)) return;
        while (*--e == '0' || *e == '1') continue;
        if (*e == '.') continue;
        --*e;
        if (!read_as_strtod(text)) return;
    }
#else
    printf("skipped: long double has no more digits than double\n");
#endif
}

/* What examples/training_log.h writes has the library's form, digit by digit. */
static void in_logs(void)
{
    static const double some[] = {0, -0.0, 1, -1, 0.1, 1.0 / 3, 1e-5, 1.5e-5, 9.99e-6, 123456789, 1e15, 1e16, 1e17,
                                  1.25e17, 1e22, 9007199254740992.0, DBL_MAX, DBL_MIN, 5e-324, -1e300, HUGE_VAL};
    char text[40];
    int i;
    for (i = 0; i < 300000; i++) {
        double v = i < COUNT(some) ? some[i] : of_bits(draw());
        if (i >= COUNT(some) && i % 3 == 1) v = (double)(float)ldexp((double)(draw() >> 40), (int)(draw() % 60) - 45);
        if (i >= COUNT(some) && i % 3 == 2) v = (double)(draw() % 100000) / (double)(1 + draw() % 20000);
        l2l__format(text, sizeof text, "%r", v);
        if (!CHECK_TEXT(text, training_log_real(v).text)) return;
    }
}

int main(void)
{
    static const double zeros[CHANNELS] = {0, 0, 0, 0}, ones[CHANNELS] = {1, 1, 1, 1};
    c = test_context(1);
    one = make(zeros, ones);
    other = make(zeros, ones);
    RUN(integers, "whole numbers are written as whole numbers, up to 2^53");
    RUN(reals, "every double comes back from a file with the same bits");
    RUN(texts, "any decimal text is read to the nearest double, as strtod does");
    RUN(halves, "a text half way between two doubles is read as the even one");
    RUN(in_logs, "the numbers of a log have that form, too");
    l2l_model_free(one);
    l2l_model_free(other);
    l2l_context_free(c);
    return test_end();
}
