# shell.sh: read by scripts that test programs from outside, as   . "$(dirname "$0")/shell.sh"
# Gives $tests and $examples, enters a working directory of its own (KEEP=1 keeps it), counts.
# Such a script ends with `finish`.
set -u
LC_ALL=C
export LC_ALL
tests=$(cd "$(dirname "$0")" && pwd)
examples=$(dirname "$tests")/examples
passed=0
failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/l2ladv-$(basename "$0" .sh).XXXXXX") || exit 2
export TMPDIR="$work" # what is left by the tools goes with it
trap '[ "${KEEP:-}" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work" || exit 2

verdict() { # verdict NAME STATUS: shows what was printed where the status is not 0
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
compiled() { # compiled PROGRAM...: those of the examples, in the working directory, optimised by $optimise
    claim "the implementation compiles" \
        "${CC:-cc}" -std=c99 "$optimise" -c -o implementation.o "$examples/l2ladv.c"
    for program in "$@"; do
        claim "examples/$program.c" \
            "${CC:-cc}" -std=c99 "$optimise" -o "$program" "$examples/$program.c" implementation.o -lm
    done
}
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
