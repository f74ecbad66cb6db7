#!/bin/sh
# That the header can be found one's way in: its contents tell the right lines, the paper stands first,
# and editors' tools find the functions and the chapters.
#   usage: tests/test_navigation.sh            CC=compiler   KEEP=1 keeps the working directory
#          tests/test_navigation.sh --write    sets the line numbers of the contents in l2ladv.h
# Needs cc, nm and awk; universal-ctags, and clangd with python3, where they are to be had. The last
# line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"
root=$(dirname "$tests")
header=$root/l2ladv.h

# "LINE MARK" of the headings: a chapter's "/*  3  TITLE  >>mark  */", a section's "/* -- 2.1 ... >>mark --".
headings() { sed -n -e '/^\/\*  [0-9]/{=;p;}' -e '/^\/\* -- 2\./{=;p;}' "$1" |
    awk 'NR % 2 { line = $0; next } match($0, />>[a-z0-9-]*[a-z0-9]/) { print line, substr($0, RSTART + 2, RLENGTH - 2) }'; }
# "LINE MARK" as the contents have them.
contents() { awk '/^   WHERE IS WHAT/ { on = 1 } /^   NOTATION/ { exit }
    on && />>[a-z0-9-]+$/ { n = split($0, f); print f[n - 1], substr(f[n], 3) }' "$1"; }

if [ "${1:-}" = --write ]; then
    headings "$header" >lines
    awk 'NR == FNR { line[$2] = $1; next }
         /^   WHERE IS WHAT/ { on = 1 } /^   NOTATION/ { on = 0 }
         on && match($0, / +[0-9]+  >>[a-z0-9-]+$/) {
             mark = $0; sub(/.*>>/, "", mark)
             if (mark in line) { printf "%s%*d  >>%s\n", substr($0, 1, RSTART - 1), RLENGTH - length(mark) - 4, line[mark], mark; next }
         }
         { print }' lines "$header" >new && cat new >"$header"
    exit
fi

headings "$header" | sort >expected
contents "$header" | sort >said
diff said expected >output 2>&1
verdict "the contents give the line of every chapter and every section of the interface" $?
[ "$(wc -l <said)" -ge 25 ]
verdict "there are at least 25 of them" $?

line() { grep -nE "$1" "$header" | head -n 1 | cut -d: -f1; }
algorithm=$(line '^static void l2l__algorithm1\(.*\)$')
machine=$(line '^/\*  7 ')
echo "line $algorithm" >output
[ "$algorithm" -lt 1600 ]
verdict "Algorithm 1 stands before line 1,600 and in front of all that it calls" $?
echo "line $machine" >output
[ "$machine" -le 4300 ]
verdict "what a user and a reader of the paper need ends before line 4,300" $?
awk '/^\/\*  [0-9]+ / { if ($2 + 0 != ++n) print "chapter " $2 " is number " n } END { if (n != 15) print n " chapters" }' \
    "$header" >output
[ ! -s output ]
verdict "fifteen chapters, in the order of their numbers" $?

# The functions of the object file, but the kernels' copies for plain C and instruction sets and OpenMP's pieces.
claim "the implementation compiles" "${CC:-cc}" -std=c99 -O0 -c "$tests/implementation.c" -o all.o
nm all.o | awk '$2 ~ /^[tT]$/ { print $3 }' | sed 's/^_l2l/l2l/' | grep '^l2l_' |
    grep -vE '_(sse2|avx2|avx512|neon)$|^l2l__plain_|\.' | sort -u >functions
if ctags --version 2>/dev/null | grep -q Universal; then
    ctags -f - --language-force=C --kinds-C=f "$header" 2>/dev/null | cut -f1 | sort -u >found
    missing=$(comm -13 found functions | wc -l)
    comm -13 found functions >output
    [ "$((missing * 20))" -le "$(wc -l <functions)" ]
    verdict "Universal Ctags finds at least 95 % of the functions" $?
else
    echo "skipped: universal-ctags is not installed"
fi
if command -v clangd >/dev/null && command -v python3 >/dev/null; then
    mkdir editor
    cp "$header" editor/header.c
    printf '%s\n' -std=c99 -DL2LADV_IMPLEMENTATION "-I$root" >editor/compile_flags.txt
    timeout 120 python3 "$tests/outline.py" editor/header.c >outline 2>output
    sed -n 's/^#pragma mark - //p' "$header" | while read -r title; do
        grep -qF "$(echo "$title" | sed 's/^\([0-9]*\) */\1  /')" outline || echo "no '$title'"
    done >output
    [ ! -s output ] && [ "$(grep -c '^#pragma mark' "$header")" -eq 13 ]
    verdict "clangd's outline shows the chapters of the implementation" $?
else
    echo "skipped: clangd or python3 is not installed"
fi
finish
