#!/bin/sh
# usage: tests/test_examples.sh      CC=compiler   KEEP=1 keeps the working directory
# The example programs that show a seam each, without the helpers of the command-line programs: they
# are compiled with warnings for errors, and run on the embedded digits.
optimise=-O1
. "$(dirname "$0")/shell.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

ran() { # ran NAME COMMAND...: it succeeds; what it prints stays in the file printed
    name=$1
    shift
    "$@" >printed 2>&1
    status=$?
    cp printed output
    verdict "$name" $status
}

claim "the implementation compiles" "${CC:-cc}" -std=c99 "$optimise" -c -o implementation.o "$examples/l2ladv.c"
for program in external_model attack_arrays own_maximizer; do
    claim "$program compiles without a warning" \
        "${CC:-cc}" -std=c99 "$optimise" -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wcast-qual \
        -Wdouble-promotion -Wundef -Werror -o "$program" "$examples/$program.c" implementation.o -lm
    ! grep -q cli.h "$examples/$program.c"
    verdict "$program stands on the header alone" $?
done
for program in train demo; do
    claim "$program compiles" "${CC:-cc}" -std=c99 "$optimise" -o $program "$examples/$program.c" implementation.o -lm
done

ran "external_model runs" ./external_model "$examples/data"
claim "PGD lowers its accuracy" awk '/^natural/ { natural = $3 } /^pgd .*accuracy/ { pgd = $3 }
    END { exit !(natural > 80 && pgd < natural - 20) }' printed
claim "without a VJP PGD is refused, and says why" grep -q "offers no vjp callback" printed

claim "a model to attack" ./train --data "$examples/data" --threads 1 --width 0.1 --limit 400 --epochs 3 \
    --batch 20 --lr 3e-3 --eps 0.05 --method plain --save model.safetensors
ran "attack_arrays attacks it" ./attack_arrays model.safetensors "$examples/data"
claim "and tells what became of the images" awk '{ if ($1 < 50 || $7 >= $1) exit 1; found = 1 }
    END { exit !found }' printed
./attack_arrays nothing.safetensors "$examples/data" >printed 2>&1
[ $? -eq 1 ] && grep -q "nothing.safetensors: cannot open it" printed
verdict "attack_arrays names a model that is not there" $?

ran "own_maximizer trains, is stopped and goes on to the same bits" ./own_maximizer "$examples/data"
claim "and learned lengths other than it began with" awk '/^step lengths/ { found = 1
    for (i = NF - 4; i <= NF; i++) if ($i == 0.25) exit 1; if ($(NF - 4) <= $NF) exit 1 }
    END { exit !found }' printed
[ ! -e own_maximizer.checkpoint ]
verdict "and leaves no checkpoint behind" $?
refused() { # refused NAME TEXT COMMAND...: it fails with TEXT before it has trained or attacked
    name=$1
    text=$2
    shift 2
    "$@" >output 2>&1
    status=$?
    { [ $status -eq 1 ] || [ $status -eq 2 ]; } && grep -qF -e "$text" output && ! grep -qE 'epoch|step|accuracy' output
    verdict "$name" $?
}
echo kept >own_maximizer.checkpoint
refused "own_maximizer overwrites no file" "own_maximizer.checkpoint: is there already" ./own_maximizer "$examples/data"
[ "$(cat own_maximizer.checkpoint)" = kept ]
verdict "which stays" $?
ln -sf nowhere/x own_maximizer.checkpoint
refused "own_maximizer knows before the training that it cannot write its checkpoint" \
    "own_maximizer.checkpoint: cannot write it" ./own_maximizer "$examples/data"
rm own_maximizer.checkpoint
claim "own_maximizer without digits leaves no checkpoint either" \
    sh -c '! ./own_maximizer nowhere && [ ! -e own_maximizer.checkpoint ]'

# digits of another size than the programs have room for, and too few of them
digits() { # digits FOLDER PART IMAGES SIDE: black ones, up to 255 times 256 and 255 pixels a side
    octal=$(printf '\\%03o\\%03o' $(($3 / 256)) $(($3 % 256)))
    side=$(printf '\\%03o' "$4")
    mkdir -p "$1"
    { printf "\\0\\0\\10\\3\\0\\0$octal\\0\\0\\0$side\\0\\0\\0$side"; head -c $(($3 * $4 * $4)) /dev/zero; } \
        >"$1/$2-images-idx3-ubyte"
    { printf "\\0\\0\\10\\1\\0\\0$octal"; head -c "$3" /dev/zero; } >"$1/$2-labels-idx1-ubyte"
}
digits large train 2000 32
digits large t10k 500 32
mkdir few
cp "$examples"/data/train-* few
digits few t10k 9 28
refused "attack_arrays refuses larger images" "t10k-images-idx3-ubyte: images of 32x32, expected 28x28" \
    ./attack_arrays model.safetensors large
refused "external_model does" "train-images-idx3-ubyte: images of 32x32, expected 28x28" ./external_model large
refused "demo does before it trains" "--data: images of 32x32, expected 28x28" ./demo --data large --out . --threads 1
refused "and too few of them" "--data: 9 test digits, expected at least 10" ./demo --data few --out . --threads 1
finish
