#!/bin/sh
# examples/evaluate.c on the embedded digits: attacks by name, what is refused, transfer, states that
# a killed run goes on from.
#   usage: tests/test_evaluate.sh      CC=compiler   KEEP=1 keeps the working directory
# The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"

says() { # says NAME TEXT COMMAND...: it succeeds and prints TEXT
    name=$1
    text=$2
    shift 2
    "$@" >output 2>&1 && grep -qF -e "$text" output
    verdict "$name" $?
}
refused() { # refused NAME TEXT COMMAND...: it fails, in good order, and says TEXT
    name=$1
    text=$2
    shift 2
    "$@" >output 2>&1
    status=$?
    { [ "$status" -eq 1 ] || [ "$status" -eq 2 ]; } && grep -qF -e "$text" output
    verdict "$name" $?
}

optimise=-O2
compiled train evaluate
learn() {
    ./train --data "$examples/data" --threads 1 --width 0.1 --lr 3e-3 --eps 0.1 "$@"
}
claim "one model" learn --method plain --epochs 6 --limit 600 --seed 1 --save a.safetensors
claim "another" learn --method plain --epochs 6 --limit 600 --seed 2 --save b.safetensors
claim "a maximizer" learn --method rnn-adv --steps 2 --epochs 1 --limit 100 --save-maximizer phi.safetensors
claim "a generator" learn --method l2lda --steps 3 --epochs 2 --limit 100 --batch 50 --generator-width 0.125 \
    --save-maximizer g.safetensors
evaluate() {
    ./evaluate --data "$examples/data" --threads 1 --limit 60 --batch 10 --eps 0.1 "$@"
}
a() { evaluate --model a.safetensors "$@"; }
b() { evaluate --model b.safetensors "$@"; }
json() { # all but the times
    "$@" --json | sed 's/"seconds":[^,]*,//g'
}
number() { # number KEY: the first number of this name in the output
    sed "s/.*\"$1\":\\([-0-9.e]*\\).*/\\1/" output | head -n 1
}

# Every name, with the keys that make it short.
all=none,fgsm,ifgsm:steps=3,pgd:steps=5:restarts=2,mim:steps=3,cw-pgd:steps=3,bls:steps=3,learned,cw-l2lda:steps=5
all=$all,square:steps=30,deepfool:steps=5,pgd-l2:steps=3,cw-l2:steps=5:searches=2,deepfool-l2:steps=5
all=$all,sign-opt:steps=150,transfer:from=b.safetensors,pgd:target=next,pgd:target=least,pgd:target=random,pgd:target=3
all=$all,pgd-decay:steps=5,pgd-adam:steps=5,apgd-l2:steps=5,apgd-dlr-l2:steps=5,apgd-t-l2:steps=3:candidates=3
all=$all,fab-t-l2:steps=3:candidates=3,square-l2:steps=30,autoattack-l2:steps=2:candidates=3:eps=0.5
json a --maximizer phi.safetensors --attack $all >output 2>&1
cp output all.json
for spec in $(echo $all | tr , ' '); do
    grep -qF "\"$spec\":{\"accuracy\":" output
    verdict "$spec" $?
done
grep -q '"epsilon":0.1,"seed":0,"threads":1,"skip_fooled":false,"warnings":\[' output
verdict "what goes with them" $?
says "radius as a decimal and in 255ths, seed and threads" "epsilon  0.1 (25.5/255), seed 7, threads 1" a --seed 7
says "l2 attacks have a radius of their own" "not in worst: l2, eps 1.5" a --attack pgd-l2:eps=1.5
says "another radius is not in worst" "not in worst: l-infinity, eps 0.05 (12.75/255)" a --attack pgd:eps=0.05
says "the mean norm of what a search found" "at l-infinity 0." a --attack deepfool
says "steps trained and used" "7 steps, trained with 2" a --maximizer phi.safetensors --attack learned:steps=7
says "those that made a transfer's images" "2 steps, trained with 2" \
    a --maximizer phi.safetensors --attack transfer:from=b.safetensors:attack=learned
json a --maximizer phi.safetensors --attack transfer:from=b.safetensors:attack=learned:steps=7 >output 2>&1
grep -q '"steps":7,"trained_steps":2' output
verdict "and in JSON" $?
json a --attack l2lda:steps=3,pgd:steps=1:step=0 --generator g.safetensors >output 2>&1
cp output batches
json a --attack l2lda:steps=3,pgd:steps=1:step=0 --generator g.safetensors --batch 7 --threads 2 |
    sed 's/"threads":2/"threads":1/' >output 2>&1
grep -q '"l2lda:steps=3":{"accuracy":' output && cmp -s output batches
verdict "l2lda, the same in other batches and with other threads" $?
claim "its images" a --attack l2lda --generator g.safetensors --dump-adv g.npy
json a --attack l2lda --generator g.safetensors >output 2>&1
generated=$(number accuracy)
json a --attack transfer:images=g.npy >output 2>&1
[ -n "$generated" ] && [ "$generated" = "$(number accuracy)" ]
verdict "are what it is judged by: $generated" $?
refused "l2lda without a generator" "--attack l2lda: needs --generator F" a --attack l2lda
refused "a maximizer for a generator" "phi.safetensors" a --attack l2lda --generator phi.safetensors
# In parts: the images, with their random numbers, are those of the whole.
array() { tail -c +129 "$1"; }
for spec in pgd:steps=2 pgd:target=random:steps=2 square:steps=20; do
    a --attack $spec --dump-adv whole.npy >output 2>&1 && a --attack $spec --limit 25 --dump-adv one.npy >>output 2>&1 &&
        a --attack $spec --first 25 --limit 35 --dump-adv two.npy >>output 2>&1 &&
        { array one.npy; array two.npy; } >parts && array whole.npy | cmp -s - parts && [ -s parts ]
    verdict "$spec: the images of two parts are those of the whole" $?
done
# Starting points of the whole, or of the part alone.
from() { a --attack ifgsm:steps=1 --init "$@" >output 2>&1; }
from whole.npy --dump-adv all.npy && from whole.npy --limit 25 --dump-adv first.npy &&
    from whole.npy --first 25 --limit 35 --dump-adv rest.npy && { array first.npy; array rest.npy; } >parts &&
    array all.npy | cmp -s - parts
verdict "starting points of the whole" $?
from one.npy --limit 25 --dump-adv again.npy && array again.npy >start && array first.npy | cmp -s - start
verdict "starting points of the part alone" $?
from two.npy --first 25 --limit 35 --dump-adv again.npy && array again.npy >start && array rest.npy | cmp -s - start
verdict "starting points of the part alone, further on" $?
refused "starting points of neither" "needs those of the part, 20, or at least 50" a --attack ifgsm --init two.npy --first 30 --limit 20
says "which part" "25 training images of 28x28, from number 30 on" a --training-images --first 30 --limit 25 --attack fgsm
refused "a part beyond the end" "--first 100000: there are" a --first 100000
says "targets reached" "target reached for " a --attack pgd:target=next
for spec in fgsm ifgsm pgd pgd-decay pgd-adam mim cw-pgd bls learned cw-l2lda apgd square:steps=40 pgd-l2 \
    cw-l2:steps=20 sign-opt:steps=300 transfer:from=b.safetensors transfer:from=b.safetensors:attack=apgd; do
    says "a target: $spec" "target reached for " a --maximizer phi.safetensors --attack $spec:target=next
done
for spec in l2lda apgd-dlr apgd-t fab-t autoattack deepfool deepfool-l2 transfer:from=b.safetensors:attack=l2lda; do
    refused "no target: $spec" "--attack $spec:target=3: no key 'target'" a --generator g.safetensors --attack $spec:target=3
done
says "a query attack that wins" "warning: queries: attacks without gradients fool" a --attack ifgsm:step=0,square:steps=100
says "--help" "sign-opt" evaluate --help

# CIFAR-100, of three of its classes: red, green and blue noise; coarse classes that tell nothing.
cat >records.c <<'C'
#include <stdio.h>
int main(int argc, char **argv)
{
    unsigned seed = (unsigned)argc;
    FILE *f = fopen(argv[1], "wb");
    for (int i = 0; f && i < 120; i++) {
        if (argc < 4) fputc(i / 3 % 20, f); /* else of CIFAR-10 */
        fputc("\007\052\143"[i % 3] % (argc < 4 ? 100 : 10), f);
        for (int k = 0; k < 3072; k++) {
            seed = seed * 1664525 + 1013904223;
            fputc((int)(seed >> 25) + (k / 1024 == i % 3 ? 128 : 0), f);
        }
    }
    return !f || fclose(f);
}
C
claim "records of CIFAR-100" "${CC:-cc}" -std=c99 -o records records.c
mkdir hundred
./records hundred/train.bin && ./records hundred/test.bin twice
says "train --dataset cifar100" "120 images 3x32x32, 100 classes" ./train --dataset cifar100 --data hundred \
    --threads 1 --arch vgg16 --width 0.125 --method plain --epochs 8 --batch 20 --lr 3e-3 --save hundred.safetensors
json ./evaluate --dataset cifar100 --data hundred --threads 1 --model hundred.safetensors \
    --attack fgsm,pgd:target=next:steps=2 >output 2>&1
awk -v natural="$(number natural)" 'BEGIN { exit !(natural > 0.9) }' && grep -q '"epsilon":0.0313' output
verdict "its fine classes are learned, $(number natural), and attacked within 8/255" $?
refused "no files of it" '"./datasets.sh cifar100 nowhere" fetches it' ./evaluate --dataset cifar100 --data nowhere \
    --model hundred.safetensors

# Sparing fooled images does not change the worst case.
list=fgsm,pgd,square:steps=100
json a --attack $list >output 2>&1
worst=$(number worst)
json a --attack $list --skip-fooled >output 2>&1
[ -n "$worst" ] && [ "$worst" = "$(number worst)" ] && grep -q '"skip_fooled":true' output
verdict "--skip-fooled finds the same worst case ($worst)" $?
says "--skip-fooled says so" "on the images only that withstood those before" a --attack $list --skip-fooled

# Transfer: by a model's name, by dumped images, by the matrix.
claim "images made for one model" b --attack pgd:last=1 --dump-adv b.npy
json a --attack transfer:from=b.safetensors >output 2>&1
from=$(number accuracy)
json a --attack transfer:images=b.npy >output 2>&1
[ -n "$from" ] && [ "$from" = "$(number accuracy)" ]
verdict "shown to another: $from" $?
json evaluate --transfer a.safetensors,b.safetensors >output 2>&1
grep -q "\"transfer\":\\[\\[[0-9.]*,[0-9.]*\\],\\[$from,[0-9.]*\\]\\]" output
verdict "the same in the matrix" $?
says "the matrix as a table" "made for  2" evaluate --transfer a.safetensors,b.safetensors --attack mim:steps=3
says "images outside the ball" "images were outside the ball" a --attack transfer:images=b.npy:eps=0.05
json a --maximizer phi.safetensors --attack transfer:images=b.npy:attack=learned >output 2>&1
grep -q '"outside":0' output && ! grep -q trained_steps output
verdict "of unknown images no steps are told" $?
json a --attack fgsm,transfer:images=b.npy --skip-fooled >output 2>&1
[ "$(number outside)" = 0 ]
verdict "none are that were spared" $?
claim "images of a larger ball" b --attack pgd --eps 0.15 --dump-adv far.npy
json a --attack fgsm,transfer:images=far.npy --skip-fooled >output 2>&1
attacked=$(number attacked)
[ "$attacked" -gt 0 ] && [ "$attacked" -lt 60 ] && [ "$(number outside)" = "$attacked" ]
verdict "only those that were not: $attacked" $?
# Only between models for images of one size and the same classes, which is known before any attack.
claim "a model for smaller images" learn --method plain --epochs 1 --limit 100 --crop 20 --save small.safetensors
larger="b.safetensors is for images of 1x28x28 and 10 classes, but small.safetensors for 1x20x20 and 10"
smaller="small.safetensors is for images of 1x20x20 and 10 classes, but a.safetensors for 1x28x28 and 10"
refused "images made for larger ones" "--attack: $larger" evaluate --model small.safetensors --attack transfer:from=b.safetensors
refused "for smaller ones" "--attack: $smaller" a --attack fgsm,transfer:from=small.safetensors --state early
claim "before the attack in front of it" test ! -e early
refused "and from starting points" "--attack: $smaller" a --attack transfer:from=small.safetensors --init b.npy
refused "nor in the matrix" "--transfer: $smaller" evaluate --transfer a.safetensors,small.safetensors
mkdir ten
for i in 1 2 3 4 5; do ./records ten/data_batch_$i.bin of ten; done
claim "a model with fewer classes" ./train --dataset cifar10 --data ten --threads 1 --arch vgg16 --width 0.125 \
    --method plain --epochs 1 --limit 20 --batch 20 --save ten.safetensors
refused "images made for fewer classes" \
    "ten.safetensors is for images of 3x32x32 and 10 classes, but hundred.safetensors for 3x32x32 and 100" \
    ./evaluate --dataset cifar100 --data hundred --model hundred.safetensors --attack transfer:from=ten.safetensors
claim "starting points" a --init b.npy --attack \
    pgd,sign-opt:steps=150,square:steps=3,deepfool,deepfool-l2,cw-l2:steps=9,transfer:from=b.safetensors
json a --attack pgd:steps=1:step=0:last=1 --init b.npy >output 2>&1
[ "$from" = "$(number accuracy)" ]
verdict "are where an attack without steps stays" $?
for spec in mim:steps=3 square:steps=20 deepfool:steps=3 sign-opt:steps=120 transfer:from=b.safetensors; do
    rm -f dump.npy
    claim "--dump-adv of $spec" a --attack $spec --dump-adv dump.npy
    json a --attack $spec >output 2>&1
    adversarial=$(number accuracy)
    case $spec in sign*) continue ;; esac # in no l-infinity ball
    json a --attack transfer:images=dump.npy >output 2>&1
    case $spec in deepfool*) true ;; *) [ "$adversarial" = "$(number accuracy)" ] ;; esac
    verdict "is what was scored: $adversarial" $?
done

# States.
list=fgsm,square:steps=300,pgd:steps=20,mim
json a --attack $list >straight
kill_at() { # kill_at BATCHES SIGNAL: stops a run once its state was written so often
    (exec ./evaluate --data "$examples/data" --threads 1 --limit 60 --batch 10 --eps 0.1 \
        --model a.safetensors --attack $list --state state --json >killed 2>&1) &
    pid=$!
    last=
    n=0
    i=0
    while [ $i -lt 3000 ] && [ $n -lt "$1" ] && kill -0 $pid 2>/dev/null; do
        now=$(ls -l --full-time state 2>/dev/null || ls -lT state 2>/dev/null)
        [ "$now" = "$last" ] || n=$((n + 1))
        last=$now
        i=$((i + 1))
    done
    kill -"$2" $pid 2>/dev/null
    wait $pid
}
for at in 1 3 8; do
    kill_at $at KILL >output 2>&1
    [ $? -eq 137 ] && [ -s state ]
    verdict "killed about batch $at" $?
done
json a --attack $list --state state >resumed 2>output
cmp straight resumed >>output 2>&1
verdict "goes on to what it had come to" $?
rm -f state
kill_at 4 INT >output 2>&1
status=$?
cat killed >>output
[ $status -eq 130 ] && grep -qF "the same command goes on from state" killed
verdict "ctrl-C ends it in good order" $?
json a --attack $list --state state >resumed 2>output
cmp straight resumed >>output 2>&1
verdict "and it goes on" $?
json a --attack $list --state state >resumed 2>output
cmp straight resumed >>output 2>&1
verdict "again, with nothing left to do" $?
refused "the state of another model" "weights (a digest) is" b --attack $list --state state
refused "of other settings" "attack 2, square, was made with steps 300, not 200" \
    a --attack fgsm,square:steps=200 --state state
refused "of another number of images" "images is 50 here, but in the file 60" a --attack $list --state state --limit 50
mkfifo pipe
refused "a state that is a pipe" "not a file of a known length" \
    timeout 60 ./evaluate --data "$examples/data" --limit 60 --model a.safetensors --attack fgsm --state pipe
refused "a state without an end" "not an evaluation's state of this version" \
    timeout 60 ./evaluate --data "$examples/data" --limit 60 --model a.safetensors --attack fgsm --state /dev/zero
refused "no state at all" "a.safetensors" a --attack $list --state a.safetensors

# Refused, by name.
while IFS='|' read -r spec text; do
    refused "$spec" "$text" a --attack "$spec"
done <<'LIST'
foo|no attack 'foo'; there are none, fgsm
fgsm:steps=3|no key 'steps'; fgsm takes step
none:steps=3|none takes none at all
pgd:steps=0|steps '0': allowed is an integer from 1
pgd:steps|'steps': allowed is KEY=VALUE
pgd:steps=3:steps=4|steps twice
pgd:step=eps/0|step 'eps/0': allowed is as 0.01, 2/255 or eps/4
pgd:eps=2|eps '2': allowed is a number from 0 to 1
pgd,pgd|pgd: twice
pgd:target=best|allowed is random, next, least or a class number
pgd:target=11|the model has the classes 0 to 9
learned|needs --maximizer F
l2lda|needs --generator F
transfer|needs from=F or images=F
transfer:from=nowhere|nowhere: cannot open it
transfer:images=b.npy:steps=3|images are made: no key 'steps'
transfer:from=b.safetensors:attack=none|attack=none makes no images
cw-l2:start=clean|no key 'start'
bls:step=0.1|no key 'step'; bls takes steps
fab-t:seed=3|no key 'seed'; fab-t takes steps
fab-t-l2:seed=3|no key 'seed'; fab-t-l2 takes steps
pgd,|no attack ''
,pgd|no attack ''
pgd,,fgsm|no attack ''
LIST
refused "starting points for images" "transfer:images=b.npy takes no starting points" a --attack transfer:images=b.npy --init b.npy
refused "two attacks to dump" "--dump-adv needs exactly one attack, not 2" a --attack pgd,fgsm --dump-adv d.npy
refused "dumping what is skipped" "images that are skipped are not made" a --skip-fooled --attack pgd --dump-adv d.npy
refused "--transfer with a model" "--transfer takes its models itself" a --transfer a.safetensors,b.safetensors
refused "--transfer with two attacks" "--transfer needs exactly one attack" \
    evaluate --transfer a.safetensors,b.safetensors --attack pgd,fgsm
for list in , a.safetensors, ,a.safetensors a.safetensors,,b.safetensors; do
    case $list in ,*) n=1 ;; *) n=2 ;; esac
    refused "--transfer $list" "--transfer $list: model $n has no name" evaluate --transfer $list
    refused "--transfer $list by AutoAttack" "--transfer $list: model $n has no name" \
        evaluate --transfer $list --attack autoattack
done
refused "no model" "--model F is needed" evaluate
if script -qec true /dev/null >/dev/null 2>&1; then
    script -qec "./evaluate --data '$examples/data' --threads 1 --batch 1 --limit 60 --model a.safetensors --attack pgd:steps=40,square:steps=100" \
        /dev/null >output 2>&1
    tr '\r' '\n' <output | grep -q 'pgd:steps=40  [0-9]*/60, .* left; all [0-9]* %, .* left'
    verdict "progress and the time left, on a terminal" $?
fi
finish
