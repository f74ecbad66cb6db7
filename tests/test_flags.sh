#!/bin/sh
# What examples/train and examples/evaluate say to flags that do not go together.
#   usage: tests/test_flags.sh        CC=compiler   KEEP=1 keeps the working directory
# Needs cc. The last line is "N passed, N failed".
set -u
LC_ALL=C
export LC_ALL
tests=$(cd "$(dirname "$0")" && pwd)
examples=$(dirname "$tests")/examples
work=$(mktemp -d "${TMPDIR:-/tmp}/l2ladv-flags.XXXXXX") || exit 2
trap '[ "${KEEP:-}" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work" || exit 2
passed=0
failed=0

# verdict NAME STATUS: shows what was printed where the status is not 0.
verdict() {
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok: $1"
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
        tail -n 15 output | sed 's/^/    /'
    fi
}
claim() { # claim NAME COMMAND...: the command succeeds
    name=$1
    shift
    "$@" >output 2>&1
    verdict "$name" $?
}
# refused NAME TEXT COMMAND...: it ends as wrong usage, in one line with TEXT, and leaves no file
refused() {
    name=$1
    text=$2
    shift 2
    ls >before
    "$@" >output 2>&1
    [ $? -eq 2 ] && [ "$(wc -l <output)" -eq 1 ] && grep -qF -e "$text" output &&
        ls | cmp -s - before
    verdict "$name" $?
}
train() { ./train --data "$examples/data" --limit 40 --epochs 1 --batch 20 "$@"; }

claim "the implementation compiles" "${CC:-cc}" -std=c99 -O1 -c -o l2ladv.o "$examples/l2ladv.c"
for program in train evaluate; do
    claim "examples/$program.c" "${CC:-cc}" -std=c99 -O1 -o $program "$examples/$program.c" l2ladv.o -lm
done
mkdir folder
: >output

# -- flags of the maximizer where there is none -----------------------------------------------------
for method in plain advtrain; do
    for flag in "--cell rnn" "--hidden 4" "--hidden=4" --bias --no-bias "--phi-lr 0.1" "--phi-opt sgd" \
        "--grad-input l1" "--delta-scale 1" "--loss-weights last" --second-order --no-second-order \
        "--init-maximizer phi" "--save-maximizer phi"; do
        name=$(echo "${flag%%[ =]*}" | sed 's/--no-/--/')
        # shellcheck disable=SC2086 # a flag and its value
        refused "$flag with --method $method" "$name: --method $method has no learned maximizer" \
            train $flag --method $method
    done
done
refused "the value of a flag is not taken for a flag" "--cell: --method plain" \
    train --method plain --save --hidden --cell=rnn
claim "what looks like such a flag, but is a value" \
    train --method plain --width 0.25 --save --hidden
claim "they are heard where there is one" \
    train --method rnn-adv --width 0.25 --steps 2 --hidden 4 --cell rnn --save-maximizer phi.safetensors
grep -q 'maximizer  rnn' output
verdict "and followed" $?
! grep -q 'warning:' output
verdict "and no maximizer that leaves pixels inside the ball is warned of" $?
claim "a maximizer that can only jump to the border" \
    train --method rnn-adv --width 0.25 --steps 2 --hidden 4 --delta-scale 100
grep -q 'warning: the maximizer leaves no pixel inside the ball' output
verdict "is warned of" $?

# -- one file for two outputs -----------------------------------------------------------------------
set -- save save-best save-maximizer checkpoint log
while [ $# -gt 1 ]; do
    first=$1
    shift
    for flag in "$@"; do
        refused "--$first and --$flag" "--$flag x: is the file of --$first, too" \
            train "--$first" x "--$flag" x
    done
done
refused "the same file by another path" "folder/../x: is the file of --save, too" \
    train --save x --log folder/../x
echo kept >there
ln -s there link
refused "the same file by a link" "link: is the file of --save, too" train --save there --log link
[ "$(cat there)" = kept ]
verdict "and it is as it was" $?
refused "--dump-logits and --dump-adv" "--dump-adv ./z.npy: is the file of --dump-logits, too" \
    ./evaluate --model phi.safetensors --dump-logits z.npy --dump-adv ./z.npy
claim "one name in two folders" \
    train --method plain --width 0.25 --save x.out --log folder/x.out --checkpoint y
claim "what is no file may take any number" \
    train --method plain --width 0.25 --log /dev/null --save-best x --checkpoint z
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
