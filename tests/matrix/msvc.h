/* What the library uses of Microsoft's C library, as far as a compiler must know it: stands in for its
   headers, which cannot be had without Visual Studio. The job makes stdio.h, math.h and so on of it;
   stddef.h, stdint.h, limits.h, float.h, stdarg.h and stdbool.h are clang's own. */
#ifndef L2LADV_MATRIX_MSVC_H
#define L2LADV_MATRIX_MSVC_H

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
typedef struct _iobuf {
    void *placeholder;
} FILE;
#define SEEK_SET 0
#define SEEK_CUR 1
#define SEEK_END 2
FILE *_wfopen(const wchar_t *path, const wchar_t *mode);
int _wremove(const wchar_t *path);
int _wrename(const wchar_t *from, const wchar_t *to);
int _fseeki64(FILE *f, long long to, int from);
long long _ftelli64(FILE *f);
int fclose(FILE *f);
int fflush(FILE *f);
size_t fread(void *to, size_t size, size_t n, FILE *f);
size_t fwrite(const void *from, size_t size, size_t n, FILE *f);

int *_errno(void);
#define errno (*_errno())
#define ENOENT 2
#define EACCES 13

void *malloc(size_t size);
void free(void *memory);

void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
char *strchr(const char *s, int c);
char *strrchr(const char *s, int c);
char *strerror(int code);

double atanh(double), ceil(double), cos(double), exp(double), expm1(double), fabs(double), floor(double),
    fmax(double, double), fmin(double, double), fmod(double, double), hypot(double, double), ldexp(double, int),
    log(double), log1p(double), pow(double, double), rint(double), round(double), sin(double), sqrt(double),
    tanh(double), trunc(double);
#define INFINITY ((float)(1e+300 * 1e+300))
#define HUGE_VAL ((double)INFINITY)
#define NAN (-(float)(INFINITY * 0.0F))
#ifdef __cplusplus
}
#endif
#endif
