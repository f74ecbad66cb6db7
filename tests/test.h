/* A tiny test harness. A test is a function; RUN(function, "what it claims") runs it. The checks
   print file and line, the claim, what was expected and what was there, and go on. The last line of
   a program is "N passed, N failed", its exit status the verdict.

       static void addition(void) { CHECK_INT(4, 2 + 2); }
       int main(void) { RUN(addition, "2 + 2 is 4"); return test_end(); }
*/
#ifndef L2LADV_TESTS_TEST_H
#define L2LADV_TESTS_TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define HELPER static __attribute__((unused))
#else
#define HELPER static
#endif

static int test_passed, test_failed, test_complaints;
static const char *test_claim = "";

/* Counts a failed check; true for the first few of a test, which are printed. */
HELPER int test_complain(const char *file, int line, const char *what)
{
    const char *slash = strrchr(file, '/');
    if (++test_complaints > 12) return 0;
    printf("%s:%d: claim \"%s\" fails: %s: ", slash ? slash + 1 : file, line, test_claim, what);
    return 1;
}

HELPER int test_true(const char *file, int line, const char *what, int ok)
{
    if (!ok && test_complain(file, line, what)) printf("expected true, got false\n");
    return ok;
}

HELPER int test_integers(const char *file, int line, const char *what, long long expected,
                         long long got)
{
    if (expected != got && test_complain(file, line, what))
        printf("expected %lld, got %lld\n", expected, got);
    return expected == got;
}

HELPER int test_reals(const char *file, int line, const char *what, double expected, double got,
                      double tolerance)
{
    int ok = fabs(expected - got) <= tolerance; /* false for NaN */
    if (!ok && test_complain(file, line, what))
        printf("expected %.9g within %.2g, got %.9g (off by %.2g)\n", expected, tolerance, got,
               fabs(expected - got));
    return ok;
}

HELPER int test_texts(const char *file, int line, const char *what, const char *expected,
                      const char *got)
{
    int ok = got && strcmp(expected, got) == 0;
    if (!ok && test_complain(file, line, what))
        printf("expected \"%s\", got \"%s\"\n", expected, got ? got : "(null)");
    return ok;
}

HELPER int test_contains(const char *file, int line, const char *what, const char *expected,
                         const char *got)
{
    int ok = got && strstr(got, expected) != NULL;
    if (!ok && test_complain(file, line, what))
        printf("expected a text with \"%s\", got \"%s\"\n", expected, got ? got : "(null)");
    return ok;
}

HELPER int test_bytes(const char *file, int line, const char *what, const void *expected,
                      const void *got, size_t size)
{
    const unsigned char *a = (const unsigned char *)expected, *b = (const unsigned char *)got;
    size_t i;
    for (i = 0; i < size && a[i] == b[i]; i++) {}
    if (i < size && test_complain(file, line, what))
        printf("expected the same %lu bytes, byte %lu differs\n", (unsigned long)size,
               (unsigned long)i);
    return i == size;
}

/* Each gives whether it held, so that a test can stop: if (!CHECK(p)) return; */
#define CHECK(condition) test_true(__FILE__, __LINE__, #condition, !!(condition))
#define CHECK_INT(expected, got) \
    test_integers(__FILE__, __LINE__, #got, (long long)(expected), (long long)(got))
#define CHECK_NEAR(expected, got, tolerance) \
    test_reals(__FILE__, __LINE__, #got, (double)(expected), (double)(got), tolerance)
#define CHECK_TEXT(expected, got) test_texts(__FILE__, __LINE__, #got, expected, got)
#define CHECK_CONTAINS(expected, got) test_contains(__FILE__, __LINE__, #got, expected, got)
#define CHECK_BYTES(expected, got, size) \
    test_bytes(__FILE__, __LINE__, #got, expected, got, (size_t)(size))

HELPER void test_run(void (*test)(void), const char *claim)
{
    test_claim = claim;
    test_complaints = 0;
    fflush(stdout); /* so that a crash leaves what was said before it */
    test();
    if (test_complaints > 12) printf("... and %d more checks\n", test_complaints - 12);
    if (test_complaints) test_failed++; else test_passed++;
}
#define RUN(test, claim) test_run(test, claim)

HELPER int test_end(void)
{
    printf("%d passed, %d failed\n", test_passed, test_failed);
    return test_failed != 0;
}

#endif
