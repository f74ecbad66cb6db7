/* Three inclusions in one unit: the declarations, the bodies, and the bodies once more. */
#include "l2ladv.h"
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#ifndef L2LADV_IMPLEMENTATION
#define L2LADV_IMPLEMENTATION
#endif
#include "l2ladv.h"
int main(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    int bad = !c || l2l_error(c) != L2L_OK;
    if (c) l2l_context_free(c);
    return bad;
}
