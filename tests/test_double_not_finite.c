/* The sweep of test_not_finite.c in double, whose subnormal numbers and squares lie elsewhere. */
#include "test_not_finite.c"
