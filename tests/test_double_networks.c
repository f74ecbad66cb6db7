/* The networks with batch norm in the double build: PyTorch's values to 1e-9. */
#include "check_networks.h"

int main(void)
{
    run_golden_networks();
    return test_end();
}
