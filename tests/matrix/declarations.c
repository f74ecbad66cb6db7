/* A unit that only uses the interface: no body may get in, and one inclusion is as good as two. */
#include "l2ladv.h"
#include "l2ladv.h"
#ifdef L2LADV_IMPLEMENTED
#error "a unit without L2LADV_IMPLEMENTATION got the bodies"
#endif
extern l2l_shape shape_of_one(void);
l2l_shape shape_of_one(void) { return l2l_shape_of(1, 1, 1, 1); }
