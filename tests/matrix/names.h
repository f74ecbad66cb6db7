/* Names that a fragment of code in README.md may use without declaring them. */
extern l2l_context *c;
extern l2l_model *m, *model;
extern l2l_learned *phi;
extern l2l_dataset d, digits, test;
extern l2l_tensor *x, *logits;
extern l2l_real *images, *adversarial;
extern int *labels, n;
extern l2l_record *records;
