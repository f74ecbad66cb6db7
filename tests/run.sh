#!/bin/sh
# run.sh PROGRAM...: runs the programs, $JOBS at a time (default: one, as most use all cores), and then
# the scripts named in $SCRIPTS, two at a time, as most use one core. Shows what they print when they
# fail, and sums their last lines "N passed, N failed". A program that ends without that line or with
# another status than its counts say counts as one failure.

# one PROGRAM: runs it; its line, and its counts as out/NAME.counts.
if [ "${1:-}" = one ]; then
    name=$(basename "$2")
    begin=$(date +%s)
    case $2 in
    *.sh) sh "./$2" >"out/$name.txt" 2>&1 </dev/null ;;
    *) "./$2" >"out/$name.txt" 2>&1 </dev/null ;;
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
    echo "$p $f" >"out/$name.counts"
    {
        echo "$name: $line ($(($(date +%s) - begin)) s)"
        grep '^skipped:' "out/$name.txt"
        if [ "$f" -ne 0 ]; then sed 's/^/    /' "out/$name.txt"; fi
    } >"out/$name.report"
    cat "out/$name.report" # at once, so that those of others do not come between
    exit 0
fi

passed=0
failed=0
mkdir -p out
for program in "$@" $SCRIPTS; do rm -f "out/$(basename "$program").counts"; done
printf '%s\n' "$@" | xargs -P "${JOBS:-1}" -n 1 sh ./run.sh one
# shellcheck disable=SC2086 # one word for each script
[ -z "$SCRIPTS" ] || printf '%s\n' $SCRIPTS | xargs -P 2 -n 1 sh ./run.sh one
for program in "$@" $SCRIPTS; do
    read -r p f <"out/$(basename "$program").counts" || { p=0; f=1; echo "$program: not run"; }
    passed=$((passed + p))
    failed=$((failed + f))
done 2>/dev/null
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
