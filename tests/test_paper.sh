#!/bin/sh
# examples/paper.c: the commands that it runs, tables in Markdown and JSON, figures; jobs that are done are not
# done again, one that was stopped goes on.
#   usage: sh tests/test_paper.sh        KEEP=1   keep the working directory
optimise=-O2
. "$(dirname "$0")/shell.sh"

compiled train evaluate paper
paper() { # paper FLAG...: a table of tiny models
    ./paper --dataset embedded --data "$examples/data" --images 128 --epochs 1 --width 0.125 --steps 2 \
        --test 12 --autoattack 3 --seeds 1 --threads 1 --out jobs "$@"
}

paper --table 3 --plan >plan 2>output
[ "$(grep -c 'train --dataset' plan)" -eq 9 ] && [ "$(grep -c '^  ./evaluate' plan)" -eq 18 ] &&
    [ ! -e jobs ]
verdict "--plan prints each command once and runs none" $?

refused() { # refused NAME TEXT FLAG...: wrong usage, with this as the last line, and nothing is run
    name=$1
    text=$2
    shift 2
    ( ulimit -v 4000000; paper "$@" ) >output 2>&1
    [ $? -eq 2 ] && [ "$(tail -n 1 output)" = "paper: $text" ] && [ ! -e jobs ]
    verdict "$name" $?
}
for methods in bogus 'plain|bogus' 'bogus|plain'; do
    refused "--methods $methods" "--methods $methods: no row 'bogus'" --table 3 --methods "$methods"
done
refused "--methods with an empty name" "--methods plain|: no row ''" --table 3 --methods 'plain|'
for table in 1 2 4 6 8; do
    method=$([ $table -eq 4 ] && echo advtrain-bls || echo plain)
    refused "--methods that table $table does not have" "--methods $method: --table $table has none of them" \
        --table $table --methods $method
done
for figure in curves epsilon sheet; do
    refused "nor --figure $figure" "--methods l2lda: --figure $figure has none of them" \
        --figure $figure --methods l2lda
done

refused "--measured beside --plan" "--measured: is for tables, and not beside --plan" --table 3 --measured --plan
refused "nor with a figure" "--measured: is for tables, and not beside --plan" --figure steps --measured

grep -q -e '--save jobs/embedded-smallcnn-w0.125-d0-i128-e1-b128-T2-eps0.3/rnn-adv-s0.safetensors ' plan
verdict "a model's name is made of all that it depends on" $?
paper --table 1 --methods advtrain --out "it's a \$HOME|job" --plan 2>output | sed -n '/^  /s/.*evaluate --/echo --/p' >plan
sh plan >output 2>&1 && [ "$(grep -c -e "--state it's a \$HOME|job/" output)" -eq 2 ]
verdict "a command of --plan is one that a shell reads as it is run" $?
saves() { paper --table 9 --dataset restricted-imagenet --plan "$@" 2>output | sed -n 's/.* --save \([^ ]*\).*/\1/p'; }
saves --scale laptop >laptop
saves --scale paper --seeds 1 >full
cat laptop full >output
[ -s laptop ] && [ -s full ] && [ "$(sort laptop full | uniq -d | wc -l)" -eq 0 ]
verdict "with the size that images are cut to" $?

names() { sed -n 's/.* --save \([^ ]*\)\/.*/\1/p' output | sort -u; }
paper --table 3 --methods plain --width 0.12345678 --plan >output 2>&1
paper --table 3 --methods plain --width 0.12345679 --plan >>output 2>&1
[ "$(names | wc -l)" -eq 2 ] && grep -q -e '--width 0.12345679 ' output
verdict "with all digits of its width" $?
paper --table 3 --methods plain --average 0.99999 --plan >output 2>&1
paper --table 3 --methods plain --average 0.9999901 --plan >>output 2>&1
[ "$(sed -n 's/.* --save-average \([^ ]*\)\/.*/\1/p' output | sort -u | wc -l)" -eq 2 ] &&
    grep -q -e '--average 0.9999901 ' output
verdict "and of its average" $?
mkdir -p data/mnist other
for data in data/mnist ./data/../data/mnist other "$work/other"; do
    paper --table 3 --methods plain --dataset mnist --data $data --plan 2>&1
done >output
[ "$(names | wc -l)" -eq 2 ] && names | grep -qx 'jobs/mnist-smallcnn-w0.125-d0-i128-e1-b128-T2-eps0.3' &&
    names | grep -qxE 'jobs/mnist-smallcnn-w0.125-d0-i128-e1-b128-T2-eps0.3-data[0-9a-f]{8}'
verdict "and with the folder of its images, if that is not the usual one" $?
mkdir unreadable
paper --table 3 --methods plain --results unreadable >table 2>output
[ $? -eq 1 ] && [ "$(cat output)" = "paper: unreadable: Is a directory" ] && [ ! -e jobs ]
verdict "results that are there and cannot be read are none that are not there" $?
mkfifo fifo
for results in /dev/full /dev/null fifo; do
    refused "--results $results" "--results $results: is no regular file" \
        --table 3 --methods plain --results $results
done
paper --table 3 --methods plain --results nowhere/r >table 2>output
[ $? -eq 2 ] && [ "$(tail -n 1 output)" = "paper: --results nowhere/r: nowhere: No such file or directory" ] &&
    [ -z "$(find jobs -type f)" ]
verdict "results that cannot be written are known of before anything is run" $?
rm -rf jobs

far=$(printf '%01000d' 0)
paper --table 7 --methods plain --out "$far" --plan >output 2>&1
grep -q 'evaluate .*plain-s1.safetensors:attack=pgd:steps=40,.*advtrain-s1.safetensors:attack=pgd:steps=40 ' output
verdict "a list of attacks is whole, however far its models are" $?
far=$(printf '%0200d' 0)
paper --table 7 --methods plain --out "$far" >table 2>output && grep -qE '^\| Plain \|( [0-9.]+ \|){4}$' table
verdict "and can be run" $?
rm -rf "$far"
for out in 'a,b' 'a:b' 'a"b' 'a\b'; do
    refused "table 7 in $out, which would end an attack's name" \
        "--out $out: no colon, comma, quote, backslash or end of line where table 7 is made" \
        --table 7 --methods plain --out "$out"
done

two='advtrain|rnn-adv'
paper --table 3 --methods "$two" >table 2>output
status=$?
[ $status -eq 0 ] && [ "$(grep -c '^training' output)" -eq 2 ] &&
    [ "$(grep -cE '^\| (AdvTrain|RNN-Adv) \|( [0-9.]+ \|){8}$' table)" -eq 2 ] &&
    grep -qE '; 4-layer CNN, MNIST, images of embedded, T 2, eps 0.3, batch 128, seed 0$' table
verdict "table 3: two rows of accuracies, and a line that says what was run" $?
cp table output
[ "$(grep -cE '^\| (epochs|training images|seeds|test images|of them under AutoAttack) \|' table)" -eq 5 ]
verdict "the scales' difference is printed, a line for each setting" $?

find jobs -name '*.safetensors' -o -name '*.jsonl' | sort | xargs cksum >before
paper --table 3 --methods "$two" >again 2>output
[ ! -s output ] && cmp table again >output
verdict "done jobs are not done again, and the table is the same" $?
find jobs -name '*.safetensors' -o -name '*.jsonl' | sort | xargs cksum >after
claim "and their files are as they were" cmp before after

model=$(find jobs -name 'rnn-adv-s0.safetensors')
./evaluate --model "$model" --dataset embedded --data "$examples/data" --attack pgd:steps=10 --limit 12 \
    --threads 1 --json >direct 2>output
paper --table 3 --methods rnn-adv --json >rows 2>output
mine=$(sed -n 's/.*"pgd:steps=10":\[\([0-9.]*\)\].*/\1/p' rows)
[ "$mine" ] && grep -q "\"accuracy\":$mine," direct
verdict "a figure is what evaluate says of the model" $?
cat rows >output
[ "$(wc -l <rows)" -eq 1 ] && grep -q '"autoattack":\[[0-9.]*\]}$' rows
verdict "--json prints one object a row" $?

paper --table 3 --methods "$two" --seeds 2 >several 2>output
grep -qE '^\| RNN-Adv \|( [0-9.]+ ± [0-9.]+ \([0-9.]+\) \|){8}$' several
verdict "several seeds give mean, spread and the lowest" $?

./paper --dataset embedded --data "$examples/data" --images 128 --epochs 1 --width 0.125 --steps 2 --test 12 \
    --autoattack 3 --seeds 1 --threads 1 --table 3 --methods "$two" --out elsewhere \
    --results jobs/results.jsonl >table 2>output
[ $? -eq 0 ] && [ ! -s output ] && [ ! -e elsewhere ] && cmp table again >output
verdict "the results alone give the table, without a model" $?
grep -v '/rnn-adv-s1\.white-box\|/advtrain-s[01]\.' jobs/results.jsonl >part
cksum <part >before
part() { # part FLAG...: of two seeds what there is
    ./paper --dataset embedded --data "$examples/data" --images 128 --epochs 1 --width 0.125 --steps 2 --test 12 \
        --autoattack 3 --seeds 2 --threads 1 --methods "$two" --out elsewhere --results part --measured "$@"
}
part --table 3 >table 2>output && part --table 8 >times 2>>output && [ ! -s output ] && [ ! -e elsewhere ]
status=$?
cat table times >>output
cksum <part | cmp -s - before && [ $status -eq 0 ] && ! grep -q '^| AdvTrain' output &&
    grep -qE '^\| RNN-Adv \|( [0-9.]+, 1 of 2 \|){7} [0-9.]+ ± [0-9.]+ \([0-9.]+\) \|$' table
verdict "--measured prints what there is, says of how many seeds, and runs nothing" $?
sed 's/\(rnn-adv-s1\.autoattack-\)3-/\112-/' part >same # as if it had been attacked on all 12
part --table 3 --autoattack 12 --results same >table 2>output
cat table >>output
grep -qE '^\| RNN-Adv \| [0-9.]+ ± [0-9.]+ \([0-9.]+\) \|( [0-9.]+, 1 of 2 \|){7}$' table
verdict "natural accuracy is also AutoAttack's, where it saw the same images" $?
cp jobs/results.jsonl kept
sed '$d' kept >jobs/results.jsonl; tail -n 1 kept | cut -c 1-60 | tr -d '\n' >>jobs/results.jsonl
paper --table 3 --methods "$two" --seeds 2 >table 2>output
[ $? -eq 0 ] && [ "$(grep -c '^attacking' output)" -eq 1 ] && cmp table several >output
verdict "a line that a killed process left in the middle is measured again" $?

results=$examples/results/mnist-ten-epochs.jsonl
./paper --table 3 --epochs 10 --images 0 --seeds 3 --methods 'advtrain|trades|rnn-adv|rnn-trades' --out nowhere \
    --results "$results" --measured >table 2>output
[ $? -eq 0 ] && [ ! -s output ] && [ ! -e nowhere ] && grep '^| [ART]' table >rows && [ "$(wc -l <rows)" -eq 4 ] &&
    grep -E '^\| [ART]' "$examples/../README.md" | grep -F -x -f rows | cmp - rows >output
verdict "the README's table is what its command prints of the results of earlier versions" $?
tail -n 1 table >output
grep -q 'batch 128, seeds 0 to 2$' output
verdict "and says no seconds, which are not known of all sittings" $?

paper --table 3 --methods advtrain --average 0.5 >average 2>output
[ $? -eq 0 ] && grep -q 'models averaged with 0.5, seed 0' average && grep -qE '^\| AdvTrain' average &&
    ! cmp -s jobs/*-a0.5/advtrain-s0.safetensors jobs/*-a0.5/advtrain-s0.last
verdict "--average: what is attacked is the averaged model, kept beside the last" $?

rm "$model"
cp jobs/results.jsonl kept
grep -v 'rnn-adv-s0' kept >jobs/results.jsonl
echo 'not a checkpoint' >"${model%.safetensors}.checkpoint"
paper --table 3 --methods rnn-adv >table 2>output
[ $? -eq 1 ] && grep -q 'ended with status 1; run again, paper goes on there' output && [ ! -e "$model" ]
verdict "a job that fails ends the table, with the command" $?
rm "${model%.safetensors}.checkpoint"
paper --table 3 --methods rnn-adv >table 2>output
grep -qE '^\| RNN-Adv' table && [ "$(wc -l <output)" -eq 3 ] && [ "$(grep '^| RNN-Adv' table)" = "$(grep '^| RNN-Adv' again)" ]
verdict "a model that is gone is made again, the same" $?

# Models that are not whole: train saves what it has where it fails, and may be killed between two files.
base=${model%.safetensors}
cp "$model" whole
cp "$base.phi" whole.phi
mv train true-train
lose() { rm -f "$base".[!j]*; } # all but the log
goes_on() { # with the training of what is there, to the very files
    paper --figure optimizer >wrote 2>output && grep -q '^training RNN-Adv' output && cmp "$model" whole >>output &&
        cmp "$base.phi" whole.phi >>output && [ "$(echo "$base".[!j]*)" = "$base.phi $model $base.txt" ]
}
lose
cat >train <<'SH'
#!/bin/sh
while [ "$1" != --save ]; do shift; done
echo half a model >"$2"
exit 1
SH
chmod +x train
paper --figure optimizer >wrote 2>output
[ $? -eq 1 ] && [ -s "$model" ] && ln -f true-train train && goes_on
verdict "a model that a training saved when it failed is trained to its end" $?
lose
cat >true-train.sh <<SH
#!/bin/sh
./true-train "\$@"
rm "$base.phi"
kill -9 \$PPID
SH
chmod +x true-train.sh
ln -f true-train.sh train
paper --figure optimizer >wrote 2>output
[ $? -eq 137 ] && [ -s "$model" ] && cp "$base.checkpoint" checkpoint && ln -f true-train train && goes_on
verdict "one whose maximizer was not saved yet when all was killed, too" $?
for left in seconds checkpoint; do
    lose
    [ $left = seconds ] && echo 1.00 >"$base.seconds" || cp checkpoint "$base.checkpoint"
    echo half a model >"$model"
    cp whole.phi "$base.phi"
    goes_on
    verdict "and one that an earlier version left with a file of $left" $?
done
lose
cp whole "$model"
cp whole.phi "$base.phi"
paper --figure optimizer >wrote 2>output && [ ! -s output ]
verdict "a model and its maximizer that were put there are taken as they are" $?

paper --table 6 --methods rnn-adv >table 2>output && grep -qE '^\| RNN-Adv \|( [0-9.]+ \|){10}$' table
verdict "table 6: more steps, learned and PGD's" $?
paper --table 7 --methods rnn-adv >table 2>output && grep -qE '^\| RNN-Adv \|( [0-9.]+ \|){4}$' table
verdict "table 7: images made for other models" $?
paper --table 2 --methods rnn-adv >table 2>output && grep -qE '^\| RNN-Adv \| 491 \| [0-9.]+ \|$' table
verdict "table 2: the maximizer's parameters and the seconds of an epoch" $?
paper --table 8 --methods rnn-adv >table 2>output &&
    grep -qE '^\| RNN-Adv \| [0-9.]+ \| [0-9.]+ \(AdvTrain\) \|$' table
verdict "table 8: the ratio to the original" $?
# The embedded digits are 2,000: 15 whole batches of 128.
paper --table 2 --methods rnn-adv --out timed --plan >output 2>&1
[ "$(grep -c 'train .* --limit 1920 ' output)" -eq 3 ] && [ "$(grep -c 'train .* --limit 128 ' output)" -eq 4 ]
verdict "seconds are told by steps that a small data set has" $?
paper --table 2 --batch 1001 --out timed >output 2>&1
[ $? -eq 2 ] && grep -q -e '--batch 1001: embedded has 2000 images to train on' output
verdict "one of a single batch is refused" $?
mkdir timed
for of in 'advtrain 1 1' 'advtrain 40 21' 'rnn-adv 1 1' 'rnn-adv 40 40'; do
    set -- $of
    for round in 0 1 2; do
        echo "{\"job\":\"embedded-smallcnn-w0.125-d0-i0-e1-b32-T2-eps0.3/$1-s0.time-$2-1-$round\",\"seconds\":$3.00}"
    done
done >timed/results.jsonl
paper --table 8 --methods rnn-adv --images 0 --batch 32 --out timed >table 2>output && [ ! -s output ] &&
    cp table output && grep -qx '| RNN-Adv | 62.5 | 1.95 (AdvTrain) |' table
verdict "an epoch of all images is one of those that there are: 2000 / 32 steps of a second" $?
paper --table 8 --methods rnn-adv --average 0.5 --out timed --plan >plan 2>output
[ "$(grep -c "train --dataset" plan)" -eq 12 ] && [ "$(grep -c 'train .* --average 0.5 --save-average ' plan)" -eq 12 ] &&
    paper --table 8 --methods rnn-adv --average 0.5 --out timed >table 2>output && grep -q '^| RNN-Adv' table &&
    ! find timed -name '*.average' | grep . >output
verdict "--average: with it the seconds are those of averaging, too" $?

for figure in curves epsilon steps surface optimizer sheet; do
    rm -f jobs/*.svg jobs/*.png
    paper --figure $figure >wrote 2>output
    status=$?
    cat wrote >>output
    [ $status -eq 0 ] && [ -s wrote ] && sed -n 's/^wrote //p' wrote | while read -r file; do
        case $file in
        *.svg) grep -q '</svg>' "$file" && grep -q '<path' "$file" ;;
        *.png) od -An -tx1 -N 8 "$file" | grep -q '89 50 4e 47 0d 0a 1a 0a' ;;
        *) false ;;
        esac || exit 1
    done
    verdict "figure $figure" $?
done
paper --figure optimizer >wrote 2>output && [ "$(grep -c '<path' jobs/optimizer.svg)" -gt 4 ]
verdict "the optimizer's figure has a line for each history of gradients" $?
points() { awk '/^M/ { print gsub(/L/, "") }' "$1" | sort | uniq -c | tr -s ' '; } # "LINES POINTS" of a chart
paper --figure optimizer --images 1 --batch 1 --width 0.03 --steps 600 >wrote 2>output &&
    [ "$(points jobs/optimizer.svg)" = " 4 600" ]
verdict "a point for each of 600 steps" $?
paper --figure curves --methods advtrain --images 1 --batch 1 --width 0.03 --steps 1 --epochs 600 >wrote 2>output &&
    [ "$(points jobs/curves-loss.svg)" = " 1 600" ]
verdict "and for each of 600 epochs" $?

# Images that are larger than the model: two sets, the one what is left of the other when it is cut.
cat >shards.c <<'C'
#include <stdio.h>
#include <stdlib.h>
static FILE *npy(const char *name, const char *shape)
{
    char head[118];
    FILE *f = fopen(name, "wb");
    snprintf(head, sizeof head, "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }", shape);
    if (f) fprintf(f, "\223NUMPY%c%c%c%c%-117s\n", 1, 0, 118, 0, head);
    return f;
}
int main(int argc, char **argv) /* SIDE IMAGES LABELS */
{
    int side = atoi(argv[argc - 3]), i, y, x, k;
    char shape[40];
    FILE *images, *labels = npy(argv[argc - 1], "12,");
    snprintf(shape, sizeof shape, "12, %d, %d, 3", side, side);
    images = npy(argv[argc - 2], shape);
    for (i = 0; images && labels && i < 12; i++) {
        fputc(i % 9, labels);
        for (y = -side / 2; y < side / 2; y++)
            for (x = -side / 2; x < side / 2; x++)
                for (k = 0; k < 3; k++) fputc(((i + 3) * y * y + (2 * i + 5) * x + 40 * k * i) & 255, images);
    }
    return !labels || fclose(labels) || !images || fclose(images);
}
C
claim "a program that makes images" "${CC:-cc}" -std=c99 -o shards shards.c
for side in 256 64; do
    mkdir $side
    for part in train val; do ./shards $side $side/$part-00000-images.npy $side/$part-00000-labels.npy; done
done
large() { paper --table 9 --dataset restricted-imagenet --width 0.03 --batch 12 --images 12 --eps 8/255 "$@"; }
mkdir small
for figure in steps surface sheet; do
    name=$(large --figure $figure --data 64 --out small --plan 2>/dev/null | sed -n 's/.* --save \([^ ]*\)\/.*/\1/p' | head -n 1)
    large --figure $figure --data 256 --out cut >wrote 2>output && mkdir -p "${name:=small/none}" &&
        cp cut/restricted*/* "$name" &&
        large --figure $figure --data 64 --out small >wrote 2>output && [ -s wrote ] &&
        sed -n 's/^wrote small.//p' wrote | while read -r drawn; do
            cmp "cut/$drawn" "small/$drawn" >output 2>&1 || exit 1
        done
    verdict "figure $figure of images that are cut to the model's size" $?
done

paper --table 3 --eps 8/0 >table 2>output
[ $? -eq 2 ] && grep -q "eps '8/0'" output
verdict "a wrong radius is refused by its flag" $?
finish
