#!/bin/sh
# run.sh PROGRAM...: runs the programs and the scripts named in $SCRIPTS, shows what they print when
# they fail, and sums their last lines "N passed, N failed". A program that ends without that line
# or with another status than its counts say counts as one failure.
passed=0
failed=0
mkdir -p out
for program in "$@" $SCRIPTS; do
    name=$(basename "$program")
    case $program in
    *.sh) sh "./$program" >"out/$name.txt" 2>&1 ;;
    *) "./$program" >"out/$name.txt" 2>&1 ;;
    esac
    status=$?
    line=$(tail -n 1 "out/$name.txt" | grep -E '^[0-9]+ passed, [0-9]+ failed$')
    if [ -n "$line" ]; then
        p=${line%% *}
        f=${line#* passed, }
        f=${f%% *}
    else
        p=0
        f=1
        line="ended with status $status without its last line"
    fi
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
        line="$line, but status $status"
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    echo "$name: $line"
    grep '^skipped:' "out/$name.txt"
    if [ "$f" -ne 0 ]; then sed 's/^/    /' "out/$name.txt"; fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
