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

claim "--help names every method" sh -c './train --help | grep -q "|l2lda$"'

# -- flags of the maximizer where there is none -----------------------------------------------------
for method in plain advtrain advtrain-decay advtrain-adam; do
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

# -- flags that would do nothing ---------------------------------------------------------------------
refused "--momentum with Adam" "--momentum: not for --opt adam; it is for sgd" train --method plain --momentum 0.5
refused "--checkpoint-steps alone" "--checkpoint-steps needs --checkpoint F" \
    train --method plain --checkpoint-steps 5
claim "a model with a normalisation" train --method plain --width 0.25 --mean 0.13 --deviation 0.31 --save normalised
claim "to go on from with the same" \
    train --method plain --width 0.25 --mean 0.13 --deviation 0.31 --init normalised --save again
refused "another --mean with --init" "--mean, --deviation: 0.14, 0.31 for channel 0; normalised has 0.13, 0.31" \
    train --method plain --width 0.25 --mean 0.14 --deviation 0.31 --init normalised --save other
refused "another --deviation" "--mean, --deviation: 0.13, 0.3 for channel 0; normalised has 0.13, 0.31" \
    train --method plain --width 0.25 --mean 0.13 --deviation 0.3 --init normalised --save other

# -- maximizers in place of PGD's: other trainings than PGD's, but the same where T is 1 ----------------
for steps in 1 4; do
    for method in advtrain advtrain-decay advtrain-adam; do
        train --method $method --steps $steps --width 0.25 --eps-warmup 0 --save $method.$steps >output 2>&1
        verdict "$method by $steps steps" $?
    done
done
claim "one shrinking step is PGD's" cmp advtrain.1 advtrain-decay.1
differ() { ! cmp -s "$1" "$2"; }
claim "four are not" differ advtrain.4 advtrain-decay.4
claim "nor is Adam's" differ advtrain.4 advtrain-adam.4
claim "nor are these the same" differ advtrain-decay.4 advtrain-adam.4

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
set -- save save-best save-average save-maximizer checkpoint log
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
ln -s new loose && ln -s ../loose folder/loose
refused "the same file by a link to what is not there yet" "loose: is the file of --save, too" \
    train --save new --save-maximizer folder/loose
refused "two links to it" "folder/loose: is the file of --save, too" train --save loose --log folder/loose
rm loose folder/loose
refused "--average alone" "--average D and --save-average F go together" train --average 0.9
refused "--save-average alone" "--average D and --save-average F go together" train --save-average x
refused "--dump-logits and --dump-adv" "--dump-adv ./z.npy: is the file of --dump-logits, too" \
    ./evaluate --model phi.safetensors --dump-logits z.npy --dump-adv ./z.npy
for flag in save save-best save-average save-maximizer checkpoint log; do
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
for spec in from images; do
    for output in dump-logits dump-adv state; do
        refused "--$output over a transfer's $spec" "--$output link: is the file that --attack reads" \
            ./evaluate --model nowhere --attack fgsm,transfer:$spec=there:eps=0.1 --$output link
    done
done
for output in dump-logits dump-adv state; do
    refused "--$output over one of --transfer" "--transfer takes its models itself, and none of" \
        ./evaluate --transfer nowhere,there --$output link
done
[ "$(cat there)" = kept ]
verdict "and it is still as it was" $?
claim "one name in two folders" \
    train --method plain --width 0.25 --save x.out --log folder/x.out --checkpoint y
mkfifo pipe                                 # a pipe of its own: never a device of the machine
cat pipe >got &
reader=$!
claim "a log into a pipe" train --method plain --width 0.25 --log pipe --save-best x --checkpoint z
i=0
while kill -0 $reader 2>/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i + 1)); done
kill $reader 2>/dev/null
train --method plain --width 0.25 --log file >output 2>&1
cmp got file >>output 2>&1
verdict "whose reader gets every line" $?
claim "and which stays one" test -p pipe

# -- outputs that fail: the others are written, and the exit status tells ----------------------------
# An output that fails is a pipe whose reader leaves at once.
fails() { # fails NAME TEXT COMMAND...: with status 1, and a line with TEXT
    name=$1
    text=$2
    shift 2
    "$@" 2>output
    status=$?
    [ $status -eq 1 ] && grep -qF -e "$text" output
    verdict "$name" $?
}
outputs() { # the four files of a training, each new
    rm -f save best phi log checkpoint
    train --method rnn-adv --steps 2 --width 0.5 --val 10 --save save --save-best best --save-maximizer phi "$@"
}
made() { # made FILE...: they are there, and no other of them
    for file in save best phi; do
        case " $* " in
        *" $file "*) [ -s $file ] || return 1 ;;
        *) [ ! -e $file ] || return 1 ;;
        esac
    done
}
outputs >output 2>&1
verdict "a training" $?
cp save whole
: <pipe &
fails "a model that cannot be saved" "pipe" outputs --save pipe >said
claim "costs neither the best one nor the maximizer" made best phi
claim "and leaves the pipe" test -p pipe
: <pipe &
fails "a checkpoint that cannot be written" "pipe" outputs --checkpoint pipe >said
claim "costs nothing else" made save best phi
claim "and no step of the training" cmp save whole
{ read -r line; } <pipe &
fails "a log that cannot be written" "pipe" outputs --log pipe --epochs 40 --limit 400 --val 2 >said
claim "costs no model, no maximizer" made save best phi
grep -q 'stopped after step' said
verdict "and is told of" $?
# A step that has no memory, once: what was trained until then is saved, with a checkpoint to go on from.
cat >memory.c <<'C'
#include <stdlib.h>
#include <sys/stat.h>
void *scarce(size_t size);
void *scarce(size_t size) /* the call number $SCARCE after the first line of the log fails */
{
    static long calls;
    const char *which = getenv("SCARCE");
    struct stat s;
    if (which && (calls || (!stat("log", &s) && s.st_size > 0)) && ++calls == atol(which)) return NULL;
    return malloc(size);
}
C
{ echo 'void *scarce(__SIZE_TYPE__);'; echo '#include <stdlib.h>'; echo "#include \"$examples/l2ladv.c\""; } >scarce.c
claim "a program with little memory" "${CC:-cc}" -std=c99 -O1 -DL2LADV_MALLOC=scarce -DL2LADV_FREE=free \
    -o scarce scarce.c memory.c "$examples/train.c" -lm
stopped=0
call=0
while [ $call -lt 12 ]; do
    call=$((call + 1))
    rm -f save best phi log checkpoint
    SCARCE=$call ./scarce --data "$examples/data" --limit 60 --epochs 3 --batch 20 --method rnn-adv --steps 2 --width 0.5 --val 10 \
        --save save --save-best best --save-maximizer phi --log log --checkpoint checkpoint >said 2>errors
    status=$?
    grep -q 'out of memory' errors || continue
    stopped=$((stopped + 1))
    [ $status -eq 1 ] && [ -s save ] && [ -s phi ] && { [ -s checkpoint ] || ! grep -q 'the checkpoint is' said; } ||
        echo "call $call: status $status: $(cat errors)"
done >output
[ ! -s output ] && [ $stopped -gt 0 ]
verdict "a step without memory costs nothing that was trained ($stopped)" $?
ln -s nowhere/x dangling # into a folder that is not there
for output in save save-best save-maximizer; do
    fails "--$output into a folder that is not there" "dangling: cannot " outputs --$output dangling --checkpoint checkpoint >said
    case $output in save) other="best phi" ;; save-best) other="save phi" ;; *) other="save best" ;; esac
    # shellcheck disable=SC2086 # two names
    made $other && [ -s checkpoint ] && [ -L dangling ] && [ ! -e nowhere ]
    verdict "costs no other one" $?
done
for closed in '>&-' '| head -n 1 >said' '| :'; do
    rm -f save best phi log checkpoint
    ( eval "{ outputs --checkpoint checkpoint --log log 2>errors; echo \$? >status; } $closed" )
    cat errors >output
    [ "$(cat status)" = 1 ] && made save best phi && cmp -s save whole && [ "$(wc -l <log)" -eq 2 ] &&
        [ -s checkpoint ] && grep -q 'train: standard output: ' errors
    verdict "train $closed: everything is saved, and the status is 1" $?
    case $closed in *head*) continue ;; esac # which takes the one line of JSON
    for program in "./evaluate --data $examples/data --limit 20 --batch 10 --model whole --attack fgsm --dump-adv adv.npy \
        --dump-logits logits.npy --json"; do
        rm -f adv.npy logits.npy
        ( eval "{ $program 2>errors; echo \$? >status; } $closed" )
        cat errors >output
        [ "$(cat status)" = 1 ] && [ -s adv.npy ] && [ -s logits.npy ] && grep -q 'evaluate: standard output: ' errors
        verdict "evaluate $closed: its files are written, and the status is 1" $?
    done
done
for output in dump-logits dump-adv state; do
    rm -f adv.npy logits.npy state
    case $output in dump-logits) flag=--dump-adv other=adv.npy ;; *) flag=--dump-logits other=logits.npy ;; esac
    fails "evaluate --$output that cannot be written" "dangling: cannot " ./evaluate --data "$examples/data" --limit 20 \
        --batch 10 --model whole --attack fgsm --json --$output dangling $flag $other >said
    [ -s $other ] && grep -q '"worst":' said
    verdict "costs neither the result nor --${other%.npy}" $?
done
finish
