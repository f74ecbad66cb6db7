/* The declarations alone behind macros.h. */
#include "macros.h"
#include "l2ladv.h"
extern l2l_shape shape_of_two(void);
l2l_shape shape_of_two(void) { return l2l_shape_of(2, 1, 1, 1); }
