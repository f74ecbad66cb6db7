/* TRADES, RNN-TRADES and L2LDA against PyTorch in the double build. */
#include "check_defences.h"

int main(void)
{
    run_golden_defences();
    return test_end();
}
