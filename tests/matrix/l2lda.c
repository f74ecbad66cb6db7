/* A maximizer of one's own on public calls, alone in a unit without the implementation. */
#include "examples/l2lda.h"

bool made(l2l_context *c);
bool made(l2l_context *c)
{
    l2lda_options o = l2lda_default();
    l2lda *g = l2lda_create(c, &o);
    bool ok = g && l2lda_method(g).maximizer.self == g;
    l2lda_free(g);
    return ok;
}
