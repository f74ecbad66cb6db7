#!/bin/sh
# What examples/train and examples/evaluate say to flags that do not go together.
#   usage: tests/test_flags.sh        CC=compiler   KEEP=1 keeps the working directory
# Needs cc. The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"

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

optimise=-O1
compiled train evaluate
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

# -- flags of the inner steps where there are none ---------------------------------------------------
for flag in "--steps 3" "--start clean" "--inner-mode train" "--eps-warmup 0.1" "--step-size 0.1"; do
    # shellcheck disable=SC2086 # a flag and its value
    refused "$flag with --method plain" "${flag%% *}: not for --method plain; it is for advtrain" \
        train $flag --method plain
done

# -- where the inner steps start -----------------------------------------------------------------------
loss() { sed -n 's/^epoch .*loss \([0-9.]*\).*/\1/p' output | tail -1; }
for start in "" "--start normal" "--start uniform" "--start clean"; do
    # shellcheck disable=SC2086 # a flag and its value, or nothing
    claim "rnn-adv ${start:-as it is}" train --method rnn-adv --width 0.25 --steps 2 --hidden 4 $start
    : "${own:=$(loss)}"
    case $start in
    *uniform) [ "$own" != "$(loss)" ] ;;
    *normal) [ "$own" = "$(loss)" ] ;;
    esac
    verdict "has the loss that it should: $(loss)" $?
done

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
for flag in save save-best save-maximizer checkpoint log; do
    refused "--$flag over --init" "--$flag there: is the file that --init reads" \
        train --init there --$flag there
    refused "--$flag over --init-maximizer" "--$flag there: is the file that --init-maximizer reads" \
        train --init-maximizer there --$flag there
done
for flag in model maximizer generator init; do
    for output in dump-logits dump-adv state; do
        refused "--$output over --$flag" "--$output link: is the file that --$flag reads" \
            ./evaluate --$flag there --$output link
    done
done
[ "$(cat there)" = kept ]
verdict "and it is still as it was" $?
claim "one name in two folders" \
    train --method plain --width 0.25 --save x.out --log folder/x.out --checkpoint y
mkfifo pipe && { cat pipe >got & }          # a pipe of its own: never a device of the machine
claim "what is no file may take any number" \
    train --method plain --width 0.25 --log pipe --save-best x --checkpoint z
finish
