/* The other unit: declarations only; with L2LADV_STATIC it must bring its own bodies. */
#ifdef L2LADV_STATIC
#define L2LADV_IMPLEMENTATION
#endif
#include "l2ladv.h"
#ifdef __cplusplus
extern "C"
#else
extern
#endif
double unit_a(double x);

static int differs(double a, double b) { return a < b || b < a; }

int main(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    l2l_tensor *x;
    int bad;
    if (!c) return 1;
    x = l2l_relu(c, l2l_affine(c, l2l_full(c, l2l_shape_of(1, 2, 2, 1), 0.5), 2.0, 0.0));
    bad = differs(l2l_item(c, l2l_mean(c, x)), 1.0);
    if (l2l_error(c) != L2L_OK) bad = 1;
    l2l_context_free(c);
    if (differs(unit_a(0.25), 1.5)) bad |= 2;
    return bad;
}
