#!/bin/sh
# Checks the line numbers of Algorithm 1 in the header and prints the listing they make.
#   usage: tests/algorithm1.sh [HEADER]
# In l2l__algorithm1, of at most 80 lines, and in the comment directly before it, what realises a
# line of the algorithm has a tag: [A1:10], or [A1:1-3], with a star after the number where it
# deviates. Every number 1..17 must occur, in order.
header=${1:-$(dirname "$0")/../l2ladv.h}
[ -r "$header" ] || { echo "algorithm1.sh: cannot read $header" >&2; exit 2; }
awk '
function bad(why) { print "algorithm1.sh: " why; wrong = 1 }
function show(line, number,     rest, shown, t, n, range) {     # checks and prints one line
    rest = line
    while (match(rest, /\[A1:[0-9]+(-[0-9]+)?\*?\]/)) {
        t = substr(rest, RSTART + 4, RLENGTH - 5)
        rest = substr(rest, RSTART + RLENGTH)
        shown = shown (shown == "" ? "" : ",") t
        sub(/\*/, "", t)
        n = split(t, range, "-")
        if (range[n] + 0 < range[1] + 0 || range[1] + 0 < last || range[1] + 0 > last + 1)
            bad("line " number ": [A1:" t "] comes after " last + 0)
        if (range[n] + 0 > last) last = range[n] + 0
    }
    if (shown != "") {
        gsub(/[ \t]*\[A1:[0-9]+(-[0-9]+)?\*?\][ \t]*/, " ", line)
        sub(/[ \t]*\/\*[ \t]*\*\//, "", line)
    }
    listing = listing sprintf("%6s  %s\n", shown, line)
}
/^[ \t]*$/ || /^}/ { if (!inside) { before = 0; next } }
!inside && /^[A-Za-z_][A-Za-z_0-9 \t*]*[ \t*]l2l__algorithm1[ \t]*\(/ && !/;[ \t]*$/ { first = NR }
!inside { held[++before] = $0 }
!inside && first && /;[ \t]*$/ && !/\{/ { first = 0 }           # only a declaration
!inside && first && /\{/ {
    inside = 1
    found++
    for (i = 1; i <= before; i++) show(held[i], NR - before + i)
    next
}
inside { show($0, NR) }
inside && /^}/ { inside = before = 0; size = NR - first + 1; first = 0 }
END {
    if (found != 1) { bad("the function l2l__algorithm1 occurs " found + 0 " times, not once"); exit 1 }
    if (size > 80) bad("l2l__algorithm1 has " size " lines, more than 80")
    if (last != 17) bad("the tags end at " last + 0 ", not at 17")
    printf "%s", listing
    exit wrong
}' "$header"
