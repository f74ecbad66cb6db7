/* What is not finite, everywhere. */
#include "check_not_finite.h"

int main(void)
{
    run_not_finite();
    return test_end();
}
