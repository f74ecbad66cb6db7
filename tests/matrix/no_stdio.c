/* Compiled with L2LADV_NO_STDIO: the bodies must not bring stdio in by themselves. */
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#ifdef EOF
#error "L2LADV_NO_STDIO, and <stdio.h> came in all the same"
#endif
int main(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    l2l_dataset d;
    bool loaded = c && l2l_dataset_idx_memory(c, "", 0, "", 0, 10, &d);
    bool refused = c && l2l_error(c) == L2L_ERROR_FORMAT;
    if (c) l2l_context_free(c);
    return loaded || !refused;
}
