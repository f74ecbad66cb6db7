/* What is not finite in the double build, whose subnormal numbers and squares lie elsewhere. */
#include "check_not_finite.h"

int main(void)
{
    run_not_finite();
    return test_end();
}
