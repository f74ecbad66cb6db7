/* The library, compiled once for all test programs. */
#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"
