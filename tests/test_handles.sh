#!/bin/sh
# The list of calls in test_handles.c has every public function, by the library's own symbols.
#   usage: tests/test_handles.sh      CC=compiler
# Needs cc and nm. The last line is "N passed, N failed".
set -u
LC_ALL=C
export LC_ALL
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/l2ladv-handles.XXXXXX") || exit 2
export TMPDIR="$work" # what is left by the tools goes with it
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
"${CC:-cc}" -std=c99 -O0 -c "$tests/implementation.c" -o "$work/x.o" || { echo "0 passed, 1 failed"; exit 1; }
nm "$work/x.o" | sed -n 's/^.* [TD] _*\(l2l_[a-z0-9_]*\)$/\1/p' | cat >"$work/exported"
# and those of the headers beside it that took functions of the library over
sed -n 's/^static inline .*[ *]\(l2l_[a-z0-9_]*\)(.*/\1/p' "$tests/../examples/autoattack.h" \
    "$tests/../examples/evaluation.h" |
    sort -u - "$work/exported" >"$work/symbols"
sed -n 's/^ *F(\(l2l_[a-z0-9_]*\),.*/\1/p' "$tests/test_handles.c" | sort -u >"$work/called"
if [ "$(wc -l <"$work/symbols")" -gt 150 ] && diff "$work/symbols" "$work/called"; then
    echo "1 passed, 0 failed"
else
    echo "FAILED: < is a function that test_handles.c does not call, > one that there is not"
    echo "0 passed, 1 failed"
    exit 1
fi
