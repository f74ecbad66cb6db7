#!/bin/sh
# What examples/train and examples/evaluate make of files that fail: every call that opens, reads,
# writes, flushes, seeks, renames, removes or closes one fails once, call after call, by a library that
# is preloaded (file_faults.c). However it ends, each output is whole, the old or the new; those that
# did not fail are the new ones; the error names the file; no temporary file stays; and a training
# goes on to the same files as if nothing had been.
#   usage: tests/test_file_faults.sh      CC=compiler   KEEP=1 keeps the working directory
# The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
"${CC:-cc}" -std=gnu99 -O1 -shared -fPIC "$tests/file_faults.c" -o faults.so -ldl >output 2>&1 || {
    echo "skipped: no library to be preloaded can be built here: $(tail -n 1 output)"
    finish
}
optimise=-O1
compiled train evaluate

# fails_at N COMMAND...: with call N failing; tells in $call, $file what that was
fails_at() {
    n=$1
    shift
    rm -f report
    FAULT_AT=$n FAULT_REPORT=report LD_PRELOAD=$work/faults.so "$@" >said 2>&1
    status=$?
    read -r _ call file <report 2>/dev/null || call=none file=none
    file=${file%.l2ladv-tmp*}
    file=${file##*/}
    [ "$file" != real ] || file=save
}
train() {
    ../train --data "$examples/data" --threads 1 --limit 16 --epochs 2 --batch 8 --width 0.1 --steps 1 \
        --val 4 --hidden 2 --save save --save-best best --save-maximizer phi --checkpoint checkpoint --log log "$@"
}
begin() { # a folder with an old file for each name, one of them behind a link
    rm -rf run
    mkdir -p run/behind
    cd run || exit 2
    echo old >behind/real
    ln -s behind/real "$1"
    shift
    for name in "$@"; do echo old >"$name"; done
    chmod 640 behind/real "$@"
}
new() { cmp -s "$1" "../reference/$1"; }
old() { [ "$(head -c 4 "$1" 2>/dev/null)" = old ]; }
complain() { echo "call $n, $call of $file, status $status: $*"; cat said; } # into the list of complaints

rm -rf reference
mkdir reference
cd reference || exit 2
train >../output 2>&1
verdict "a training" $?
LD_PRELOAD=$work/faults.so ../evaluate --data "$examples/data" --threads 1 --limit 20 --batch 10 --model save --attack fgsm,pgd:steps=2 \
    --state checkpoint.state --dump-logits logits.npy --json >json 2>../output
verdict "an evaluation" $?
LD_PRELOAD=$work/faults.so ../evaluate --data "$examples/data" --threads 1 --limit 20 --batch 10 --model save --attack pgd:steps=2 \
    --state adv.state --dump-adv adv.npy >/dev/null 2>../output
verdict "another" $?
cd ..
begin save best
FAULT_REPORT=../report LD_PRELOAD=$work/faults.so train >/dev/null 2>&1
cd ..
read -r calls _ <report 2>/dev/null || calls=0
if [ "${calls:-0}" -lt 50 ]; then
    echo "skipped: a library cannot be preloaded here"
    finish
fi

# -- training: each call in its turn ----------------------------------------------------------------
n=0
injected=0
while [ $n -lt "$calls" ]; do
    n=$((n + 1))
    begin save best phi log
    fails_at $n train
    injected=$((injected + 1))
    [ "$call" = remove ] || ! ls -d ./*l2ladv-tmp* behind/*l2ladv-tmp* >/dev/null 2>&1 ||
        complain "a temporary file is left"
    [ -L save ] || complain "the link is none any more"
    [ "$(ls -l behind/real phi log | grep -c '^-rw-r-----')" -eq 3 ] || [ "$call" = chmod ] ||
        complain "another mode"
    changed=
    for name in save best phi log checkpoint; do
        new $name || changed="$changed $name"
    done
    if [ $status -eq 0 ]; then
        [ -z "$changed" ] || complain "no error, but not as it should be:$changed"
    elif [ $status -gt 2 ]; then complain "a crash"
    else
        grep -qF "$file" said || complain "the file is not named"
        case $file in
        log) # the training stops, and all that it has is saved
            if old log || [ ! -s log ]; then # at most it was begun, and no step was made
                [ ! -e checkpoint ] && old save && old best && old phi || complain "begun, but no log"
            else
                for name in save best phi; do ! old $name || complain "$name is the old one"; done
                [ -s checkpoint ] || complain "there is no checkpoint"
                head -c "$(wc -c <log)" ../reference/log | cmp -s - log || [ "$call" = fwrite ] ||
                    complain "another log"
            fi
            train --resume >said 2>&1 || complain "it does not go on"
            for name in save best log; do new $name || complain "gone on to another $name"; done
            new checkpoint || grep -q 'not in the log yet' checkpoint || complain "gone on to another checkpoint"
            ;;
        checkpoint)
            for name in save best phi log; do new $name || old $name || complain "another $name"; done
            old save || ! old phi || complain "some were saved, some not"
            [ ! -e checkpoint ] || train --resume >said 2>&1 || complain "the checkpoint is broken"
            ;;
        save | best | phi)
            for name in save best phi log checkpoint; do
                if [ $name = $file ]; then new $name || old $name || complain "$name is neither old nor new"
                else new $name || { [ ! -e checkpoint ] && { [ $name = checkpoint ] || old $name; }; } ||
                    complain "another $name"
                fi
            done
            ;;
        *) # an input: nothing has begun
            for name in save best phi log; do old $name || complain "$name has been written"; done
            [ ! -e checkpoint ] || complain "there is a checkpoint"
            ;;
        esac
    fi
    cd ..
done >complaints
cp complaints output
[ ! -s complaints ]
verdict "train: $injected faults, one at a time" $?

# -- evaluation ---------------------------------------------------------------------------------------
# each NAME OUTPUTS COMMAND...: as above; OUTPUTS are files, of which each is whole and, unless it failed, new
each() {
    name=$1
    outputs=$2
    shift 2
    rm -rf run
    mkdir run
    cd run || exit 2
    FAULT_REPORT=report LD_PRELOAD=$work/faults.so "$@" >/dev/null 2>&1
    read -r calls _ <report
    cd ..
    injected=0
    at=0
    while [ $at -lt "$calls" ]; do
        at=$((at + 1))
        rm -rf run
        mkdir run
        cd run || exit 2
        for output in $outputs; do case $output in *.npy) echo old >$output ;; esac; done
        fails_at $at "$@"
        injected=$((injected + 1))
        [ "$call" = remove ] || ! ls -d ./*l2ladv-tmp* >/dev/null 2>&1 || complain "a temporary file is left"
        [ $status -le 2 ] || complain "a crash"
        [ $status -eq 0 ] || grep -qF "$file" said || complain "the file is not named"
        begun=
        for output in $outputs; do ! new $output || begun=yes; done
        for output in $outputs; do
            new $output && continue
            [ $status -ne 0 ] || complain "no error, but another $output"
            [ ! -e $output ] || old $output || [ "$output" = "$file" ] || complain "$output is neither old nor new"
            [ -z "$begun" ] || [ "$output" = "$file" ] || complain "$output is not new, and had no fault"
        done
        [ $status -eq 0 ] && [ "$file" != "standard output" ] && [ -e ../reference/${json:-none} ] &&
            { sed 's/"seconds":[^,]*,//g' said >a; sed 's/"seconds":[^,]*,//g' ../reference/json >b
              cmp -s a b || complain "another result"; }
        cd ..
    done >complaints
    cp complaints output
    [ ! -s complaints ]
    verdict "$name: $injected faults, one at a time" $?
}
json=json
each "evaluate with a state and logits" "checkpoint.state logits.npy" ../evaluate --data "$examples/data" \
    --threads 1 --limit 20 --batch 10 --model ../reference/save --attack fgsm,pgd:steps=2 --state checkpoint.state \
    --dump-logits logits.npy --json
json=
each "evaluate with a state and images" "adv.state adv.npy" ../evaluate --data "$examples/data" --threads 1 \
    --limit 20 --batch 10 --model ../reference/save --attack pgd:steps=2 --state adv.state --dump-adv adv.npy
finish
