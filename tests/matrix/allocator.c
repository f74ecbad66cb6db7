/* L2LADV_MALLOC and L2LADV_FREE are used, for everything, and whatever was taken is given back. */
#include <stddef.h>
extern void *counted_malloc(size_t size);
extern void counted_free(void *p);
#define L2LADV_MALLOC(size) counted_malloc(size)
#define L2LADV_FREE(p) counted_free(p)
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#include <stdlib.h>

static long taken, given;

void *counted_malloc(size_t size) { taken++; return malloc(size); }
void counted_free(void *p) { if (p) given++; free(p); }

int main(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    if (!c) return 1;
    l2l_zeros(c, l2l_shape_of(1, 64, 64, 64));
    if (l2l_error(c) != L2L_OK) return 2;
    l2l_context_free(c);
    return taken < 2 || taken != given ? 3 : 0;
}
