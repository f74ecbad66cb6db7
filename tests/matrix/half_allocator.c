/* One of the two allocator macros without the other: this must NOT compile. */
#define L2LADV_MALLOC(size) NULL
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
