/* The bodies behind macros.h; the word of Qt's that is a member here must be what it was. */
#include "macros.h"
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#define TEXT_OF(x) #x
#define TEXT_OF_ITS(x) TEXT_OF(x)
extern const char *what_slots_is(void);
const char *what_slots_is(void) { return TEXT_OF_ITS(slots); }
#undef slots
int main(void)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    int bad = !c || l2l_error(c) != L2L_OK || what_slots_is()[0] != '4';
    if (c) l2l_context_free(c);
    return bad;
}
