/* The one file in which the bodies of the library are compiled; the other programs link to it. */
#define L2LADV_IMPLEMENTATION
#include "../l2ladv.h"
