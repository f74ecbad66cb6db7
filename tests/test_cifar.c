/* examples/cifar.h, CIFAR-100 (CIFAR-10 is in test_files.c): records as the public files have them are read, the fine class as the label;
   broken files are refused with file, byte and cause, and leave an empty data set. */
#define _POSIX_C_SOURCE 200809L
#include "../examples/cifar.h"
#include "support.h"
#include <unistd.h>

static char path[600];
static void write_file(const unsigned char *data, size_t n)
{
    const char *folder = getenv("TMPDIR");
    FILE *f;
    int descriptor;
    snprintf(path, sizeof path, "%s/l2ladv-cifar100-XXXXXX", folder ? folder : "/tmp");
    descriptor = mkstemp(path);
    f = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) exit(2);
}

enum { RECORD = 3074, PIXELS = 3072, N = 3 };
static unsigned char records[N * RECORD];
static void fill(void)
{
    int i, k;
    for (i = 0; i < N; i++) {
        unsigned char *r = records + i * RECORD;
        r[0] = (unsigned char)(19 - i);      /* coarse: not to be taken for the label */
        r[1] = (unsigned char)(99 - 7 * i);
        for (k = 0; k < PIXELS; k++) r[2 + k] = (unsigned char)(31 * k + i);
    }
}

static void whole_files(void)
{
    l2l_context *c = test_context(1);
    l2l_real *x = test_array(N * PIXELS);
    l2l_dataset d;
    int label[N], i;
    fill();
    write_file(records, sizeof records);
    if (CHECK(cifar100_from_file(c, path, &d))) {
        CHECK_INT(N, d.count);
        CHECK_INT(3, d.channels);
        CHECK_INT(32, d.height);
        CHECK_INT(32, d.width);
        CHECK_INT(100, d.classes);
        if (CHECK(l2l_dataset_read(&d, 0, N, x, label)))
            for (i = 0; i < N; i++) CHECK_INT(99 - 7 * i, label[i]);
        for (i = 0; i < N * PIXELS; i++) {
            volatile l2l_real v = (l2l_real)records[i / PIXELS * RECORD + 2 + i % PIXELS] / 255;
            if (!CHECK_NEAR(v, x[i], 0)) break;
        }
        CHECK(!l2l_dataset_read(&d, 2, 2, x, label));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "2 images from 2 on, of 3");
        CHECK(!d.fetch(&d, N, x, label));
        CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "image 3 of 3");
        l2l_dataset_free(&d);
    }
    CHECK_OK(c);
    remove(path);
    free(x);
    l2l_context_free(c);
}

static void broken_files(void)
{
    static const struct { size_t size; int at, label; l2l_status status; const char *place, *cause; } cases[] = {
        {0, -1, 0, L2L_ERROR_FORMAT, ", byte 0: ", "0 bytes are not a number of records of 3074"},
        {1, -1, 0, L2L_ERROR_FORMAT, ", byte 0: ", "truncated"},
        {RECORD - 1, -1, 0, L2L_ERROR_FORMAT, ", byte 0: ", "3073 bytes"},
        {2 * RECORD + 5, -1, 0, L2L_ERROR_FORMAT, ", byte 6148: ", "6153 bytes"},
        {3 * RECORD, 0, 100, L2L_ERROR_FORMAT, ", byte 1: ", "label 0 is 100, not in 0..99"},
        {3 * RECORD, 2, 255, L2L_ERROR_FORMAT, ", byte 6149: ", "label 2 is 255, not in 0..99"}};
    l2l_context *c = test_context(1);
    l2l_dataset d;
    size_t before = l2l_memory_used(c);
    int i;
    for (i = 0; i < COUNT(cases); i++) {
        fill();
        if (cases[i].at >= 0) records[cases[i].at * RECORD + 1] = (unsigned char)cases[i].label;
        write_file(records, cases[i].size);
        memset(&d, 0x55, sizeof d);
        CHECK(!cifar100_from_file(c, path, &d));
        CHECK_CONTAINS(path, l2l_error_text(c));
        CHECK_CONTAINS(cases[i].place, l2l_error_text(c));
        CHECK_ERROR(c, cases[i].status, cases[i].cause);
        CHECK(d.count == 0 && !d.fetch && !d.self);
        remove(path);
    }
    CHECK(!cifar100_from_file(c, path, &d)); /* it is gone now */
    CHECK_CONTAINS(path, l2l_error_text(c));
    CHECK_ERROR(c, L2L_ERROR_FILE, "cannot open it: ");
    CHECK(!cifar100_from_file(c, "/", &d));
    CHECK_ERROR(c, L2L_ERROR_FILE, "/: ");
    CHECK(!cifar100_from_file(c, NULL, &d));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "the path is NULL");
    CHECK(!cifar100_from_file(c, path, NULL));
    CHECK_ERROR(c, L2L_ERROR_ARGUMENT, "the data set is NULL");
    CHECK_INT(before, l2l_memory_used(c));
    l2l_context_free(c);
}

int main(void)
{
    RUN(whole_files, "images, sizes and fine classes are those of the records");
    RUN(broken_files, "broken files of CIFAR-100 are refused with file, byte and cause");
    return test_end();
}
