/* A shard of images longer than 2 GB (a sparse file), and names beyond ASCII: written and read by
   the library, and on Windows found under the name that the system has for it.
     usage: large FOLDER */
#define L2LADV_IMPLEMENTATION
#include "examples/shards.h"
#include <stdio.h>
#include <stdlib.h>
#ifdef _WIN32
#include <wchar.h>
#define FAR_SEEK(f, to) _fseeki64(f, to, SEEK_SET)
#else
#define FAR_SEEK(f, to) fseek(f, (long)(to), SEEK_SET)
#endif

enum { N = 2200, SIDE = 1000 };

static int write_shard(const char *path, const char *head, int64_t bytes)
{
    FILE *f = fopen(path, "wb");
    char header[128];
    int ok = f != NULL;
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\1\0\x76\0", 10);
    memcpy(header + 10, head, strlen(head));
    header[127] = '\n';
    ok = ok && fwrite(header, 1, 128, f) == 128 && !FAR_SEEK(f, 128 + bytes - 1) && putc(255, f) == 255;
    return f && !fclose(f) && ok;
}

static int far_image(l2l_context *c, const char *folder)
{
    char prefix[600], path[700];
    l2l_dataset d;
    l2l_real *x = (l2l_real *)malloc(SIDE * SIDE * sizeof *x);
    int y = 0, ok = x != NULL;
    snprintf(prefix, sizeof prefix, "%s/far", folder);
    snprintf(path, sizeof path, "%s-00000-images.npy", prefix);
    ok = ok && write_shard(path, "{'descr': '|u1', 'fortran_order': False, 'shape': "
                           "(2200, 1000, 1000), }", (int64_t)N * SIDE * SIDE);
    snprintf(path, sizeof path, "%s-00000-labels.npy", prefix);
    ok = ok && write_shard(path, "{'descr': '|u1', 'fortran_order': False, 'shape': (2200,), }", N);
    ok = ok && shards_from_files(c, prefix, 256, &d) && l2l_dataset_read(&d, N - 1, 1, x, &y);
    ok = ok && y == 255 && x[SIDE * SIDE - 1] > 0 && !(x[0] > 0);
    if (l2l_error(c) == L2L_OK) l2l_dataset_free(&d);
    remove(path);
    snprintf(path, sizeof path, "%s-00000-images.npy", prefix);
    remove(path);
    free(x);
    return ok;
}

/* e acute, the euro sign, a clef outside of the first plane. */
static int far_name(l2l_context *c, const char *folder)
{
    char path[700];
    int64_t shape[1] = {3}, values[3] = {1, 2, 3};
    npy_array a;
    int ok;
    snprintf(path, sizeof path, "%s/\xC3\xA9-\xE2\x82\xAC-\xF0\x9D\x84\x9E.npy", folder);
    ok = npy_save_integers(c, path, values, shape, 1) && npy_load(c, path, &a);
    if (ok) npy_array_free(c, &a);
#ifdef _WIN32
    {
        static const wchar_t rest[] = {'/', 0xE9, '-', 0x20AC, '-', 0xD834, 0xDD1E, '.', 'n', 'p', 'y', 0};
        wchar_t wide[700];
        size_t n = 0;
        FILE *f;
        for (; folder[n] && n < 600; n++) wide[n] = (wchar_t)(unsigned char)folder[n];
        memcpy(wide + n, rest, sizeof rest);
        f = _wfopen(wide, L"rb");
        ok = ok && f;
        if (f) fclose(f);
        _wremove(wide);
    }
#else
    remove(path);
#endif
    return ok;
}

int main(int argc, char **argv)
{
    l2l_context *c = l2l_context_create(NULL);
    int name, image;
    if (!c || argc < 2) return 1;
    name = far_name(c, argv[1]);
    image = sizeof(size_t) < 8 || far_image(c, argv[1]);
    if (l2l_error(c)) printf("%s\n", l2l_error_text(c));
    if (!name) printf("a name beyond ASCII was not kept\n");
    if (!image) printf("the last image of a file over 2 GB was not read\n");
    l2l_context_free(c);
    return name && image ? 0 : 2;
}
