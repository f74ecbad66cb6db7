/* What stands on public calls, alone in a unit without the implementation: a maximizer of one's own,
   searches, an evaluation's state, transfer. */
#include "examples/autoattack.h"
#include "examples/evaluation_state.h"
#include "examples/l2lda.h"
#include "examples/transfer.h"

bool made(l2l_context *c);
bool made(l2l_context *c)
{
    l2lda_options o = l2lda_default();
    l2lda *g = l2lda_create(c, &o);
    l2l_attack all = l2l_attack_autoattack(0.3), four[AUTOATTACK_STAGES];
    bool ok = g && l2lda_method(g).maximizer.self == g && !autoattack_stages(NULL, &all, four);
    l2lda_free(g);
    return ok && l2l_attack_cw_l2(1).search && l2l_attack_deepfool_l2(1).search &&
           l2l_attack_sign_opt(1).search && l2l_attack_cw_l2lda(0.3).steps == 100;
}

double carried(l2l_model *const *models, const l2l_dataset *d);
double carried(l2l_model *const *models, const l2l_dataset *d)
{
    l2l_attack a = l2l_attack_pgd(0.3);
    l2l_evaluation e;
    evaluation_state s;
    double accuracies[4];
    if (l2l_evaluation_begin(models[0], d, NULL, &e) && evaluation_state_open(&s, &e, "state"))
        evaluation_state_attack(&s, &a, NULL, NULL, NULL);
    evaluation_state_close(&s);
    return transfer_matrix(models, 2, d, l2l_series_of(&a), NULL, NULL, accuracies) ? accuracies[1] : -1;
}
