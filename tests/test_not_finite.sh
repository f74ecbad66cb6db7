#!/bin/sh
# What is not finite, from outside: flags that take the checks for it away are refused, and the
# programs end with a message and another status than 0 where a model's numbers are not finite.
#   usage: tests/test_not_finite.sh      CC=compiler   KEEP=1 keeps the working directory
# The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"

refused() { # refused NAME TEXT COMMAND...: it fails, in good order, and says TEXT
    name=$1
    text=$2
    shift 2
    "$@" >output 2>&1
    status=$?
    { [ "$status" -eq 1 ] || [ "$status" -eq 2 ]; } && grep -qF -e "$text" output
    verdict "$name" $?
}

for flag in -ffast-math -Ofast -ffinite-math-only; do
    echo 'int main(void) { return 0; }' >flag.c
    "${CC:-cc}" "$flag" -o flag flag.c >output 2>&1 || continue
    refused "$flag in the implementing file is an error" "-ffinite-math-only" \
        "${CC:-cc}" -std=c99 "$flag" -fsyntax-only "$examples/l2ladv.c"
    printf '#include "%s/l2ladv.h"\nint main(void) { return 0; }\n' "${examples%/*}" >other.c
    for header in autoattack evaluation_state l2lda searches training_log transfer; do
        printf '#include "%s/%s.h"\nint main(void) { return 0; }\n' "$examples" $header >checks.c
        refused "but in those with $header.h, which checks for NaN, it is one" "takes the checks for NaN away" \
            "${CC:-cc}" -std=c99 "$flag" -fsyntax-only checks.c
    done
    claim "$flag in other files is none" "${CC:-cc}" -std=c99 "$flag" -c other.c
done

# Flags that reorder sums are allowed, and take no check away: 64 gradients that are NaN.
cat >gradient.c <<'END'
#define L2LADV_IMPLEMENTATION
#include "l2ladv.h"
#include <stdio.h>
static bool logits(void *u, const float *x, int n, float *z)
{
    (void)u; (void)x;
    for (int i = 0; i < 16 * n; i++) z[i] = (float)(i % 16);
    return true;
}
static bool vjp(void *u, const float *x, int n, const float *d, float *dx)
{
    (void)u; (void)x; (void)d;
    for (int i = 0; i < 64 * n; i++) dx[i] = NAN;
    return true;
}
int main(void)
{
    static float x[64 * 64];
    static int y[64];
    l2l_context *c = l2l_context_create(NULL);
    l2l_external e = {1, 8, 8, 16, NULL, logits, vjp};
    l2l_model *m = l2l_model_external(c, &e);
    l2l_attack a = l2l_attack_pgd(0.3);
    for (int i = 0; i < 64; i++) y[i] = 15;
    bool ok = l2l_attack_run(m, &a, x, y, 64, NULL, NULL);
    puts(l2l_error_text(c));
    return ok ? 0 : 1;
}
END
for flag in -funsafe-math-optimizations "-fassociative-math -fno-signed-zeros -fno-trapping-math"; do
    # shellcheck disable=SC2086 # two flags
    "${CC:-cc}" -std=c99 -O2 $flag -I"${examples%/*}" -c gradient.c 2>output || continue
    "${CC:-cc}" -o gradient gradient.o -lm   # with the flag subnormal numbers would be 0, and refused
    refused "a gradient of NaN is seen under $flag" "the gradient of pixel 0 is nan, not finite" ./gradient
done

optimise=-O2
compiled train evaluate
claim "a model" ./train --data "$examples/data" --threads 1 --width 0.1 --method plain --epochs 1 --limit 100 \
    --save model.safetensors
# The last two biases become minus and plus FLT_MAX: finite in the file, but not their difference.
cp model.safetensors broken.safetensors
printf '\377\377\177\377\377\377\177\177' |
    dd of=broken.safetensors bs=1 conv=notrunc seek=$(($(wc -c <model.safetensors) - 8)) 2>dd.txt
refused "a model whose loss is infinite" "the clean image: the loss is inf" \
    ./evaluate --data "$examples/data" --limit 60 --model broken.safetensors --attack pgd
refused "transfer from and to it" "the clean image: the loss is inf" \
    ./evaluate --data "$examples/data" --limit 60 --transfer model.safetensors,broken.safetensors --attack pgd
refused "a training that leaves the finite numbers" "the parameters of the last good step were kept" \
    ./train --data "$examples/data" --threads 1 --width 0.1 --method plain --opt sgd --lr 1000 --weight-decay 1 --epochs 1 \
    --limit 600 --batch 50 --save after.safetensors
claim "what it saved is finite" \
    ./evaluate --data "$examples/data" --limit 10 --model after.safetensors --attack pgd
./evaluate --data "$examples/data" --limit 60 --model model.safetensors --attack pgd:target=3 >output 2>&1 &&
    grep -q "warning: targets: [1-9][0-9]* of the images have their own label for a target of pgd" output
verdict "targets that are the label are told of" $?
finish
