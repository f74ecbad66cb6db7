/* L2LADV_ASSERT takes the standard macro; a short run must not trip over it. */
#include <assert.h>
#define L2LADV_ASSERT(x) assert(x)
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
int main(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    l2l_mark mark;
    int i;
    if (!c) return 1;
    mark = l2l_mark_here(c);
    for (i = 0; i < 3; i++) {
        l2l_tensor *x = l2l_full(c, l2l_shape_of(2, 3, 5, 7), 1.0);
        l2l_drop(c, l2l_add(c, x, x));
        l2l_release(c, mark);
    }
    i = l2l_error(c) != L2L_OK;
    l2l_context_free(c);
    return i;
}
