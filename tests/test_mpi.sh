#!/bin/sh
# examples/mpi_train.c on 1, 2 and 4 ranks of this machine: the bits of one process of examples/train.c
# with the same parts; errors, killed ranks and signals; the attacks' verdicts.
#   usage: tests/test_mpi.sh      CC=compiler   MPICC=compiler   KEEP=1 keeps the working directory
# Needs cc and Open MPI (libopenmpi-dev openmpi-bin); without it it is skipped. The last line is
# "N passed, N failed".
. "$(dirname "$0")/shell.sh"

MPICC=${MPICC:-mpicc}
OMP_NUM_THREADS=1
OMPI_CC=${CC:-cc}
# As root, more ranks than cores, all on this machine, with all of mpirun's files in this folder.
OMPI_ALLOW_RUN_AS_ROOT=1
OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
OMPI_MCA_rmaps_base_oversubscribe=1
OMPI_MCA_plm=isolated
OMPI_MCA_btl=self,vader
OMPI_MCA_btl_vader_backing_directory=$work
OMPI_MCA_btl_vader_single_copy_mechanism=none
OMPI_MCA_orte_tmpdir_base=$work
OMPI_MCA_hwloc_base_binding_policy=none
export OMP_NUM_THREADS OMPI_CC OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM OMPI_MCA_plm OMPI_MCA_btl \
    OMPI_MCA_rmaps_base_oversubscribe OMPI_MCA_btl_vader_backing_directory OMPI_MCA_orte_tmpdir_base \
    OMPI_MCA_btl_vader_single_copy_mechanism OMPI_MCA_hwloc_base_binding_policy

skip() {
    echo "skipped: mpi_train needs Open MPI (libopenmpi-dev openmpi-bin): $1"
    finish
}
command -v "$MPICC" >/dev/null || skip "there is no $MPICC"
command -v mpirun >/dev/null || skip "there is no mpirun"
mpirun -n 2 true >output 2>&1 || skip "mpirun cannot start two ranks here: $(head -n 3 output | tr '\n' ' ')"

optimise=-O2
compiled train evaluate
claim "examples/mpi_train.c" "$MPICC" -std=c99 -Wall -Wextra -O2 -o mpi_train "$examples/mpi_train.c" implementation.o -lm
data="--dataset embedded --data $examples/data"

same() { # same NAME RANKS FLAG...: the files of one process (one.*) again, by so many ranks
    name=$1
    ranks=$2
    shift 2
    rm -f some.*
    mpirun -n "$ranks" ./mpi_train $data --threads 1 "$@" --save some.model --log some.log >output 2>&1 &&
        cmp one.model some.model && cmp one.log some.log
    verdict "$name: $ranks ranks give the bits of one process" $?
}
small="--arch smallcnn --width 0.125 --limit 230 --batch 48 --epochs 1 --steps 2 --val 20 --eps-warmup 0.5"
normed="--arch wrn --depth 10 --width 0.25 --limit 44 --batch 16 --epochs 1 --steps 2 --val 10 --eps-warmup 0.5"
for method in advtrain trades rnn-adv; do
    for network in small normed; do
        eval "flags=\$$network"
        part=12
        [ $network = small ] || part=4
        claim "$method, $network: one process" ./train $data --threads 1 $flags --method $method \
            --micro-batch $part --save one.model --log one.log
        ranks="2 4"
        [ $method = trades ] && ranks="1 2 4"
        for ranks in $ranks; do
            same "$method, $network" $ranks $flags --method $method --micro-batch $part
        done
    done
done
same "without --micro-batch" 4 $normed --method rnn-adv
same_as_train() { # same_as_train NAME FLAG...: two ranks, with what train takes where no flag says it
    what=$1
    shift
    claim "$what: one process" ./train $data --threads 1 "$@" --save one.model --log one.log
    same "$what" 2 "$@"
}
same_as_train "digits, a small eps: beta is 1" $small --method trades --eps 0.05 --micro-batch 24
mkdir shards
for part in train val; do # four images of 226x225, from the bytes of digits
    {
        printf '\223NUMPY\1\0\166\0%-117s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 226, 225, 3), }"
        tail -c 610200 "$examples/data/train-images-idx3-ubyte"
    } >shards/$part-00000-images.npy
    { printf '\223NUMPY\1\0\166\0%-117s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }"; printf '\0\3\5\10'; } \
        >shards/$part-00000-labels.npy
done
same_as_train "photographs, a large eps: beta is 6, crops of 224x224" --dataset restricted-imagenet --data shards \
    --arch resnet18 --width 0.0625 --batch 4 --epochs 1 --steps 1 --method trades --eps 0.3 --micro-batch 2
claim "the maximizer, one process" ./train $data --threads 1 $small --method rnn-adv --micro-batch 12 \
    --save one.model --save-maximizer one.phi
claim "by 4 ranks" mpirun -n 4 ./mpi_train $data --threads 1 $small --method rnn-adv --save some.model \
    --save-maximizer some.phi
claim "the same bits" cmp one.phi some.phi

# attacks: each rank some of the images
attacks=pgd-l2:steps=3:eps=0.1,pgd:steps=3,mim:steps=3,square:steps=20,deepfool:steps=5
./evaluate $data --threads 1 --model one.model --attack $attacks --limit 50 --json >expected
counts() { # of mpi_train's table: natural, the attacks, worst
    sed -n 's/^.* \([0-9][0-9]*\) of 50 .*/\1/p' output | tr '\n' ' '
}
for ranks in 1 4; do
    mpirun -n $ranks ./mpi_train $data --threads 1 --arch smallcnn --width 0.125 --method plain --epochs 0 \
        --init one.model --attack $attacks --test-limit 50 >output 2>&1
    [ "$(counts | wc -w)" -eq 7 ] && for n in $(counts); do
        awk "BEGIN { printf \"%.10g\\n\", $n / 50 }"
    done >got && sed 's/.*"natural":\([0-9.]*\)/\1\n&/; s/"accuracy":\([0-9.]*\)/\n\1\n/g
        s/"worst":\([0-9.]*\)/\n\1\n/' expected | grep -E '^[0-9.]+$' >want && cmp want got >>output 2>&1
    verdict "$ranks ranks have evaluate's verdicts" $?
done

# a rank that is killed, and the rest of the training by two
long="--arch smallcnn --width 0.125 --limit 400 --batch 24 --epochs 3 --steps 2 --method rnn-adv"
claim "one process that runs through" ./train $data --threads 1 $long --micro-batch 6 --save one.model --log one.log
cat >rank.sh <<'SH'
echo $$ >pid.new.$$ && mv pid.new.$$ "pid.$OMPI_COMM_WORLD_RANK"
exec ./mpi_train "$@"
SH
started() { # started FLAG...: 4 ranks in the background, until they have logged 4 steps
    rm -f pid.* some.*
    mpirun -n 4 sh rank.sh $data --threads 1 $long --checkpoint some.ckpt --checkpoint-steps 1 --log some.log "$@" \
        >output 2>&1 &
    job=$!
    tries=0
    while [ $tries -lt 600 ] && { [ ! -s some.log ] || [ "$(wc -l <some.log)" -lt 4 ]; }; do
        sleep 0.05
        tries=$((tries + 1))
    done
}
started
kill -9 "$(cat pid.2)"
wait $job
status=$?
[ $status -ne 0 ] && grep -q 'signal 9' output
verdict "a rank that is killed ends all, and mpirun says so" $?
alive() { for i in 0 1 2 3; do ! kill -0 "$(cat pid.$i)" 2>/dev/null || return 0; done; false; }
tries=0
while alive && [ $tries -lt 200 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
! alive && [ "$(wc -l <some.log)" -lt 51 ]
verdict "none goes on" $?
mpirun -n 2 ./mpi_train $data --threads 1 $long --checkpoint some.ckpt --resume >output 2>&1
[ $? -ne 0 ] && grep -q 'micro_batch is 12 here, but in the file 6' output && grep -q -e '--micro-batch' output
verdict "2 ranks with parts of their own are refused" $?
claim "2 ranks go on with the checkpoint of 4" mpirun -n 2 ./mpi_train $data --threads 1 $long --micro-batch 6 \
    --checkpoint some.ckpt --resume --log some.log --save some.model
claim "to the bits of one that ran through" cmp one.model some.model
claim "and its log" cmp one.log some.log

started
kill -USR1 $job
wait $job
status=$?
[ $status -ne 0 ] && grep -q 'stopped by the progress callback after step' output && [ -s some.ckpt ]
verdict "a signal to mpirun stops all, behind a step and with a checkpoint" $?
claim "3 ranks go on" mpirun -n 3 ./mpi_train $data --threads 1 $long --micro-batch 6 \
    --checkpoint some.ckpt --resume --log some.log --save some.model
claim "to the same bits" cmp one.model some.model

# what goes wrong on one rank
refused() { # refused NAME TEXT ARGUMENT...: mpirun ends by itself, not with 0, and with this text
    name=$1
    text=$2
    shift 2
    timeout 120 mpirun "$@" >output 2>&1
    status=$?
    [ $status -ne 0 ] && [ $status -ne 124 ] && grep -qF -e "$text" output
    verdict "$name" $?
}
refused "ranks with other settings" "rank 1 has another settings or data than rank 0" \
    -n 1 ./mpi_train $data $small --lr 0.1 : -n 1 ./mpi_train $data $small --lr 0.2
refused "ranks with other images" "rank 1 has another settings or data than rank 0" \
    -n 1 ./mpi_train $data $small --limit 230 : -n 1 ./mpi_train $data $small --limit 231
refused "a rank without images" "No such file" \
    -n 1 ./mpi_train $data $small : -n 1 ./mpi_train --data nowhere $small
refused "a flag that there is not" "unknown flag" -n 2 ./mpi_train --no-such-flag 1

# what would go wrong after the training is told before it
early() { # early TEXT FLAG...: as refused, and nothing was trained
    text=$1
    shift
    refused "$*: $text" "$text" -n 2 ./mpi_train $data $small --threads 1 "$@"
    ! grep -q '^epoch' output
    verdict "before the training" $?
}
for flag in save save-maximizer checkpoint log; do
    early "--$flag nowhere/file: nowhere: No such file" --$flag nowhere/file
    early "--$flag one.model: is the file that --init reads" --init one.model --$flag one.model
done
early "--log ./some: is the file of --save, too" --save some --log ./some
claim "a rank that writes nothing needs no folders" mpirun -n 1 ./mpi_train $data $small --threads 1 --save some.model : \
    -n 1 ./mpi_train $data $small --threads 1 --save nowhere/some.model
early "no attack 'pdg'" --attack pgd,pdg
early "steps '0': allowed is" --attack pgd:steps=0
early "--attack l2lda: is for evaluate" --attack l2lda
early "--attack learned: needs --method rnn-adv or rnn-trades" --attack learned --method advtrain
early "--checkpoint-steps needs --checkpoint F" --checkpoint-steps 3
early "--test-limit needs --attack SPEC" --test-limit 50
early "--beta: not for --method rnn-adv; it is for trades|rnn-trades" --beta 2
early "--steps: not for --method plain; it is for the others" --method plain
refused "a warm-up of eps for plain training" "--eps-warmup: not for --method plain" -n 2 ./mpi_train $data --method plain \
    --eps-warmup 0.5
early "transfer and targets are for evaluate" --attack pgd:target=next
mkdir train_only
ln -s "$examples"/data/train-* train_only
early "t10k-images-idx3-ubyte: cannot open it" --data train_only --attack pgd
claim "the maximizer that was trained attacks" mpirun -n 2 ./mpi_train $data $small --threads 1 --attack learned \
    --test-limit 50 --save some.model --save-maximizer some.phi
n=$(counts | cut -d ' ' -f 2)
./evaluate $data --model some.model --maximizer some.phi --attack learned --limit 50 --json >output 2>&1 &&
    grep -q "\"learned\":{\"accuracy\":$(awk "BEGIN { printf \"%.10g\", ${n:-51} / 50 }")," output
verdict "with the steps that it was trained with" $?

# an output that fails all the same costs nothing else
rm -f some.*
refused "a training that leaves the finite numbers" "the parameters of the last good step were kept" -n 2 ./mpi_train $data \
    --threads 1 --width 0.1 --limit 600 --batch 50 --epochs 2 --method plain --opt sgd --lr 1000 --save some.model
claim "has the last good ones saved" ./evaluate $data --model some.model --limit 10 --attack fgsm
ln -s nowhere/x dangling
rm -f some.*
refused "a model that cannot be saved" "dangling: cannot" -n 2 ./mpi_train $data $small --threads 1 --save dangling \
    --save-maximizer some.phi --attack fgsm --test-limit 20
[ -s some.phi ] && grep -q '^fgsm .* of 20' output
verdict "costs neither the maximizer nor the attacks" $?
mkfifo pipe
for flag in log checkpoint; do
    rm -f some.*
    : <pipe & # a reader that leaves at once
    refused "a $flag that cannot be written" "rank 0: pipe" -n 2 ./mpi_train $data $small --threads 1 --$flag pipe \
        --save some.model
    kill $! 2>/dev/null
    claim "costs no model" test -s some.model
done

[ -z "$(find "$work" /dev/shm -name 'vader*' -newer implementation.o 2>/dev/null)" ]
verdict "no memory of ranks is left behind" $?
finish
