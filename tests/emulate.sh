#!/bin/sh
# Tests on machines that are not there, by QEMU: the NEON kernels on ARM, and a big-endian machine
# (s390x) on files, operations and random numbers.
#   usage: tests/emulate.sh           JOBS=n   machines and programs at a time (default: all cores)
# Needs make, qemu-user and cross compilers; on Debian 12, beside g++-12-multilib:
#   apt-get install qemu-user gcc-12-aarch64-linux-gnu libc6-dev-arm64-cross \
#       gcc-12-s390x-linux-gnu libc6-dev-s390x-cross
# A machine whose tools are missing is skipped; the status is 77 if all are. The compilers' warnings
# are errors. The last line is "N passed, N failed".
set -u
cd "$(dirname "$0")" || exit 2
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
OMP_WAIT_POLICY=passive # a thread that waits would spin through the emulator
export OMP_WAIT_POLICY

# Machines, each with its programs, the longest first. test_kernels --small: without the largest.
aarch64="test_kernels test_learned test_attacks test_operators test_files"
s390x="test_operators test_files"

compiler() { # compiler MACHINE: its name, with or without a version
    for name in "$1-linux-gnu-gcc" "$1-linux-gnu-gcc-12"; do
        command -v "$name" && return
    done
    return 1
}

# one MACHINE PROGRAM: builds (what is not built yet) and runs it; the counts are its last line.
if [ "${1:-}" = one ]; then
    machine=$2
    program=bin/$2/$3
    log=out/$2-$3.txt
    arguments=
    [ "$3" = test_kernels ] && arguments=--small
    "qemu-$machine" -L "/usr/$machine-linux-gnu" "$program" $arguments >"$log" 2>&1
    echo "$?" >"$log.status"
    exit 0
fi

mkdir -p out
list=
missing=
for machine in aarch64 s390x; do
    if ! cc=$(compiler $machine) || ! command -v qemu-$machine >/dev/null; then
        missing="$missing $machine"
        continue
    fi
    eval "programs=\$$machine"
    targets=
    for program in $programs; do
        targets="$targets bin/$machine/$program"
        list="$list $machine $program"
        rm -f "out/$machine-$program.txt" "out/$machine-$program.txt.status"
    done
    # A program that is not built counts as a failure below.
    # shellcheck disable=SC2086 # one word for each target
    ${MAKE:-make} -k -j "$jobs" CC="$cc" CFLAGS='-O2 -Werror' OPENMP=-fopenmp BIN="bin/$machine" \
        $targets >"out/$machine-build.txt" 2>&1 ||
        { echo "$machine: it does not build"; sed 's/^/    /' "out/$machine-build.txt"; }
done
for machine in $missing; do
    echo "skipped: $machine (qemu-$machine or $machine-linux-gnu-gcc is missing)"
done
if [ -z "$list" ]; then
    echo "QEMU's user emulation or the cross compilers are missing"
    exit 77
fi

# shellcheck disable=SC2086 # pairs of words
printf '%s %s\n' $list | xargs -P "$jobs" -L 1 sh ./emulate.sh one
passed=0
failed=0
# shellcheck disable=SC2086
set -- $list
while [ $# -gt 0 ]; do
    log=out/$1-$2.txt
    status=$(cat "$log.status" 2>/dev/null)
    line=$(tail -n 1 "$log" | grep -E '^[0-9]+ passed, [0-9]+ failed$')
    p=0
    f=0
    if [ -n "$line" ]; then
        p=${line%% *}
        f=${line#* passed, }
        f=${f%% *}
    fi
    [ "$status" = 0 ] && [ -n "$line" ] || [ "$f" -gt 0 ] || f=1
    echo "$1 $2: ${line:-ended without its last line, status $status}"
    [ "$f" -eq 0 ] || sed 's/^/    /' "$log"
    passed=$((passed + p))
    failed=$((failed + f))
    shift 2
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
