/* Of two units that are linked, this one has the bodies (or, with L2LADV_STATIC, its own copy). */
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#ifdef __cplusplus
extern "C"
#else
extern
#endif
double unit_a(double x);
double unit_a(double x)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    double y = -1;
    if (!c) return y;
    y = l2l_item(c, l2l_sum(c, l2l_full(c, l2l_shape_of(2, 1, 1, 3), x)));
    if (l2l_error(c) != L2L_OK) y = -2;
    l2l_context_free(c);
    return y;
}
