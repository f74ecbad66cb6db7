#!/bin/sh
# What the header promises beyond its numbers: names, symbols, macros, documentation, listings, and
# that the code and the commands of README.md work.
#   usage: tests/test_hygiene.sh      CC=compiler   KEEP=1 keeps the working directory
# Needs cc, nm, awk, sed. The last line is "N passed, N failed".
set -u
LC_ALL=C
export LC_ALL
tests=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$tests")
header=$root/l2ladv.h
readme=$root/README.md
cc=${CC:-cc}
work=$(mktemp -d "${TMPDIR:-/tmp}/l2ladv-hygiene.XXXXXX") || exit 2
export TMPDIR="$work" # what is left by the tools goes with it
trap '[ "${KEEP:-}" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
passed=0
failed=0

# verdict NAME FILE: passes if FILE, the list of complaints, is empty.
verdict() {
    if [ -s "$2" ]; then
        failed=$((failed + 1))
        echo "FAILED: $1"
        head -n 25 "$2" | sed 's/^/    /'
    else
        passed=$((passed + 1))
        echo "ok: $1"
    fi
}
complaints=$work/complaints
# claim NAME COMMAND...: passes if the command succeeds; else its output is the complaint.
claim() {
    name=$1
    shift
    if "$@" >"$work/output" 2>&1; then : >"$complaints"
    else
        { tail -n 20 "$work/output"; echo "(exit status not 0)"; } >"$complaints"
    fi
    verdict "$name" "$complaints"
}
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
[ -r "$header" ] || { echo "FAILED: there is no $header"; failed=1; finish; }

# -- the text -----------------------------------------------------------------------------------
tr -d '\200-\277' <"$header" |                 # one byte per character is left of UTF-8
    awk 'length > 100 { print "line " NR ": " length " columns" }' >"$complaints"
verdict "no line of the header is longer than 100 columns" "$complaints"
awk '/\t/ { print "line " NR ": a tab" } /[ \t]$/ { print "line " NR ": trailing blanks" }
     /\r/ { print "line " NR ": a carriage return" }' "$header" >"$complaints"
verdict "no tabs, no trailing blanks, no carriage returns" "$complaints"

sed -n 's/^[ \t]*#[ \t]*include[ \t]*<\([^>]*\)>.*/\1/p' "$header" | sort -u >"$work/includes"
iso='(assert|ctype|errno|float|limits|math|stdarg|stdbool|stddef|stdint|stdio|stdlib|string|time|wchar|omp|immintrin|arm_neon)\.h'
grep -vxE "$iso|(fcntl|unistd|sys/file|sys/stat|sys/types)\.h" "$work/includes" >"$complaints"
awk '/^#define L2L__POSIX/ { on = 1 } /^#endif/ { on = 0 } !on' "$header" |
    sed -n 's/^[ \t]*#[ \t]*include[ \t]*<\([^>]*\)>.*/\1/p' | grep -vxE "$iso" >>"$complaints"
verdict "only headers of ISO C and of the compiler are included, and in one place some of POSIX" \
    "$complaints"

# The public functions, from the declarations: comments out, then every L2LADVDEF up to its ';'.
sed -n '/^#ifndef L2LADV_H$/,/^#endif .*L2LADV_H /p' "$header" >"$work/interface"
awk '{                                         # takes comments out, over several lines as well
    line = ""
    rest = $0
    while (rest != "") {
        if (inside) {
            i = index(rest, "*/")
            if (!i) break
            rest = substr(rest, i + 2)
            inside = 0
        } else {
            i = index(rest, "/*")
            if (!i) { line = line rest; break }
            line = line substr(rest, 1, i - 1) " "
            rest = substr(rest, i + 2)
            inside = 1
        }
    }
    print line
}' "$work/interface" >"$work/declarations"
awk '/^L2LADVDEF / { collect = 1; text = "" }
collect { text = text " " $0 }
collect && /;/ {
    collect = 0
    if (match(text, /l2l_[a-z0-9_]*[ ]*\(/)) { name = substr(text, RSTART, RLENGTH - 1); sub(/ +$/, "", name); print name }
    else print "UNREADABLE:" text
}' "$work/declarations" >"$work/functions"
count=$(wc -l <"$work/functions")
{
    grep UNREADABLE "$work/functions"
    sort "$work/functions" | uniq -d | sed 's/$/ is declared twice/'
    [ "$count" -ge 100 ] || echo "only $count public functions were found"
    awk '/^#/ { next } /[^A-Za-z_]l2l_[a-z0-9_]*\(/ && !/L2LADVDEF|\(\*/ && /^[a-z]/ &&
        !/^(typedef|struct|enum)/ { print "without L2LADVDEF: " $0 }' "$work/declarations"
} >"$complaints"
verdict "the interface can be read ($count public functions)" "$complaints"

awk '/^L2LADVDEF / { collect = 1; text = "" }
collect { text = text " " $0 }
collect && /;/ {
    collect = 0
    if (text ~ /l2l_real/ && match(text, /l2l_[a-z0-9_]*[ ]*\(/)) print substr(text, RSTART, RLENGTH - 1)
}' "$work/declarations" >"$work/of_reals"
{
    [ $(wc -l <"$work/of_reals") -ge 15 ] || echo "only $(wc -l <"$work/of_reals") were found"
    while read -r name; do
        grep -q "^#define $name ${name}_double\$" "$header" || echo "$name has the same symbol for float and double"
    done <"$work/of_reals"
} >"$complaints"
verdict "functions that take arrays of numbers have other symbols under L2LADV_DOUBLE" "$complaints"

# -- symbols ------------------------------------------------------------------------------------
implement() { # implement OBJECT OPTIONS...
    object=$1
    shift
    # Position-dependent code: so that constant tables of pointers are read-only sections as well.
    "$cc" -std=c99 -O0 -fno-pic -fno-pie -DL2LADV_IMPLEMENTATION -I"$root" "$@" \
        -c "$tests/implementation.c" -o "$object"
}
sort "$work/functions" >"$work/public"
claim "the implementation compiles" implement "$work/plain.o"
claim "the implementation compiles with L2LADV_STATIC" implement "$work/static.o" -DL2LADV_STATIC
symbols() { nm "$1" | awk '{ print $(NF - 1), $NF }' | sed 's/ _\(l2l_\)/ \1/'; }
symbols "$work/plain.o" >"$work/symbols"
symbols "$work/static.o" >"$work/static_symbols"

awk '$1 ~ /^[A-TV-Z]$/ && $1 != "U" { print $2 }' "$work/symbols" | sort >"$work/exported"
grep -v '^l2l_' "$work/exported" >"$complaints"
verdict "every exported symbol begins with l2l_" "$complaints"
comm -23 "$work/exported" "$work/public" >"$complaints"
verdict "nothing is exported but the declared functions" "$complaints"
comm -13 "$work/exported" "$work/public" >"$complaints"
verdict "every declared function is defined" "$complaints"
awk '$1 ~ /^[A-TV-Z]$/ && $1 != "U" { print $2 }' "$work/static_symbols" >"$complaints"
verdict "L2LADV_STATIC exports nothing" "$complaints"

# What the examples show is to be had by any program: no example goes behind the interface.
grep -nE '(^|[^A-Za-z0-9_])(l2l__|L2L__)' "$root"/examples/*.[ch] >"$complaints"
verdict "the examples use the public interface alone" "$complaints"

# Terminating, printing, the environment, clocks, global random numbers, the locale.
forbidden='(__isoc99_)?_?_?(exit|_exit|_Exit|abort|atexit|quick_exit|assert_fail|printf|fprintf|vprintf|vfprintf'
forbidden=$forbidden'|sprintf|vsprintf|snprintf|vsnprintf|printf_chk|fprintf_chk|puts|putchar|perror'
forbidden=$forbidden'|stdout|stderr|stdin|scanf|sscanf|fscanf|gets|getenv|setenv|system|rand|srand'
forbidden=$forbidden'|random|srandom|drand48|time|clock|gettimeofday|clock_gettime|signal|raise'
forbidden=$forbidden'|setlocale|localeconv|strtod|strtof|atof|atoi|strtol|strtok|longjmp|setjmp)'
for list in symbols static_symbols; do
    awk '$1 == "U" { print $2 }' "$work/$list" | sed 's/@.*//' | grep -xE "$forbidden"
done | sort -u >"$complaints"
verdict "no call ends the process, prints, or depends on environment, clock or locale" "$complaints"
awk '$1 ~ /^[bBdDcCsSgGvVu]$/ { print $1, $2 }' "$work/symbols" >"$complaints"
verdict "no data that can be written to (global state)" "$complaints"

# Declared and linked: a table of all addresses.
{
    echo '#include "l2ladv.h"'
    echo 'typedef void (*any)(void);'
    echo 'extern const any table[];'
    echo 'const any table[] = {'
    sed 's/.*/    (any)&,/' "$work/functions"
    echo '};'
    echo 'int main(void)'
    echo '{'
    echo '    size_t i;'
    echo '    for (i = 0; i < sizeof table / sizeof *table; i++)'
    echo '        if (!table[i]) return 1;'
    echo '    return 0;'
    echo '}'
} >"$work/link.c"
link_all() {
    no_pie=
    echo 'int main(void) { return 0; }' >"$work/pie.c"
    "$cc" -no-pie "$work/pie.c" -o "$work/pie" 2>/dev/null && no_pie=-no-pie
    "$cc" -std=c99 $no_pie -fno-pie -I"$root" "$work/link.c" "$work/plain.o" -o "$work/link" -lm &&
        "$work/link"
}
claim "a program that refers to every public function links" link_all

# -- macros -------------------------------------------------------------------------------------
# What the header defines beyond its own system headers begins with L2L_ or L2LADV.
while read -r name; do
    echo "#include <$name>" >"$work/one.c"
    "$cc" -std=c99 -E "$work/one.c" >/dev/null 2>&1 && cat "$work/one.c"
done <"$work/includes" >"$work/base.c"
macros() { "$cc" -std=c99 -dM -E "$@" | awk '{ sub(/\(.*/, "", $2); print $2 }' | sort -u; }
macros -x c "$work/base.c" >"$work/base.macros"
echo '#include "l2ladv.h"' >"$work/declare.c"
for form in declare implement; do
    define=-UL2LADV_IMPLEMENTATION
    [ $form = implement ] && define=-DL2LADV_IMPLEMENTATION
    macros "$define" -I"$root" "$work/declare.c" >"$work/$form.macros"
    {
        comm -13 "$work/base.macros" "$work/$form.macros" | grep -vE '^L2L(ADV)?_|^L2LADVDEF$'
        [ -s "$work/$form.macros" ] || echo "the preprocessor gave nothing"
    } >"$complaints"
    verdict "no macro but L2L_... and L2LADV... is left behind ($form)" "$complaints"
done
sed -n 's/^ *# *\(define\|undef\) *\([A-Za-z_][A-Za-z_0-9]*\).*/\2/p' "$header" | sort -u |
    grep -vE '^L2L(ADV)?_|^L2LADVDEF$|^l2l_' >"$complaints"
verdict "nor is any other defined, or undefined, on the way: a program may have an X of its own" \
    "$complaints"

# The macros of Qt, windows.h, X11, complex.h and others, defined before a header is included.
for name in cifar evaluation_state autoattack l2lda npy shards training_log transfer picture; do
    {
        echo '#define _XOPEN_SOURCE 700'
        for include in errno fcntl float limits math stdarg stdbool stddef stdint stdio stdlib string unistd \
            sys/file sys/stat sys/types; do echo "#include <$include.h>"; done
        for macro in slots emit near far pascal cdecl huge IN OUT OPTIONAL; do echo "#define $macro"; done
        for macro in ERROR FALSE None Success B0; do echo "#define $macro 0"; done
        for macro in linux unix TRUE; do echo "#undef $macro"; echo "#define $macro 1"; done
        for macro in forever 'foreach(a, b)' 'Q_FOREACH(a, b)'; do echo "#define $macro for (;;)"; done
        for macro in 'min(a, b) ((a) < (b) ? (a) : (b))' 'max(a, b) ((a) > (b) ? (a) : (b))' 'signals public' \
            'small char' 'byte unsigned char' 'hyper int' 'interface struct' 'I (1.0fi)' 'complex _Complex' \
            'CONST const' 'Bool int' 'Status int' 'check(x) ((void)(x))' 'verify(x) ((void)(x))' 'PI 3.14' \
            'pixel unsigned' 'vector __vector'; do echo "#define $macro"; done
        echo "#include \"$root/examples/$name.h\""
    } >"$work/crowd.c"
    claim "examples/$name.h stands the macros of others" "$cc" -std=c99 -fsyntax-only "$work/crowd.c"
done

# One version: as text, as a number for #if, and in the header's first line.
version=$(sed -n 's/^#define L2LADV_VERSION "\([0-9.]*\)".*/\1/p' "$header")
number=$(sed -n 's/^#define L2LADV_VERSION_NUMBER \([0-9]*\).*/\1/p' "$header")
{
    echo "$version" | awk -F. -v number="$number" 'NF != 3 || number != 10000 * $1 + 100 * $2 + $3 {
        print "L2LADV_VERSION is " $0 ", L2LADV_VERSION_NUMBER is " number }'
    head -n 1 "$header" | grep -qF "l2ladv.h - v$version - " || echo "not in the first line: $version"
} >"$complaints"
verdict "L2LADV_VERSION, L2LADV_VERSION_NUMBER and the first line are one version" "$complaints"

# The table of chapter 1 and the macros that are tested for are the same.
awk '/where to define it/ { on = 1 } on && /\*\// { exit }
on && match($0, /^ *L2LADV_[A-Z_]*/) { s = substr($0, RSTART, RLENGTH); gsub(/ /, "", s); print s }' \
    "$header" | sort -u >"$work/documented"
grep -E '^[ ]*#[ ]*(if|ifdef|ifndef|elif)' "$header" | grep -oE 'L2LADV_[A-Z_]+' |
    grep -vxE 'L2LADV_(H|VERSION|VERSION_NUMBER|IMPLEMENTED)' | grep -vE '^L2LADV__' | sort -u >"$work/tested"
{
    [ -s "$work/documented" ] || echo "there is no table of macros"
    comm -23 "$work/documented" "$work/tested" | sed 's/$/: documented, and never tested for/'
    comm -13 "$work/documented" "$work/tested" | sed 's/$/: tested for, and not documented/'
} >"$complaints"
verdict "the macros of chapter 1 are those that the code asks for" "$complaints"

# -- documentation ------------------------------------------------------------------------------
# A declaration is documented if its block, up to an empty line, has a comment.
awk '
function close_block(i) {
    for (i = 1; i <= n; i++) if (!commented) print "no comment in the block of " names[i]
    n = 0
    commented = 0
}
/^[ ]*$/ { close_block(); next }
/\/\*/ || inside { commented = 1 }
{ inside = (inside || /\/\*/) && !(/\*\/[^\/]*$/) }
/^L2LADVDEF / && match($0, /l2l_[a-z0-9_]*\(/) { names[++n] = substr($0, RSTART, RLENGTH - 1) }
END { close_block() }' "$work/interface" >"$complaints"
verdict "every public function is documented, alone or in its group" "$complaints"

claim "Algorithm 1: the tags 1 to 17, in order, in one function of at most 80 lines" \
    sh "$tests/algorithm1.sh" "$header"

# A search mark, >>name, stands once in a banner; all others, in the table of contents, lead there.
awk '{
    line = $0
    banner = /^\/\* ( [0-9]| ?--)/
    while (match(line, />>[a-z][-a-z0-9]*/)) {
        mark = substr(line, RSTART, RLENGTH)
        line = substr(line, RSTART + RLENGTH)
        seen[mark] = 1
        if (banner) place[mark]++
    }
}
END { for (mark in seen) if (place[mark] != 1) print mark " leads to " place[mark] + 0 " places" }' \
    "$header" >"$complaints"
verdict "each search mark leads to one place" "$complaints"

# -- examples in the documentation --------------------------------------------------------------
# Blocks are compiled in PROJECT/blocks/, beside a copy of the header and a link to examples/, and
# run in PROJECT/, as a reader would in a clone; for the full data sets the embedded digits stand in.
project=$work/project
mkdir -p "$project/blocks" "$project/data"
cp "$header" "$project/l2ladv.h"
ln -s "$root/examples" "$project/examples"
for set in mnist fashion; do ln -s "$root/examples/data" "$project/data/$set"; done
limit=
command -v timeout >/dev/null 2>&1 && limit="timeout 600"
openmp=
"$cc" -fopenmp "$work/link.c" "$work/plain.o" -I"$root" -o "$work/openmp" -lm 2>/dev/null &&
    openmp=-fopenmp

blocks() { # blocks PREFIX LANGUAGES: writes each such block of README.md to PREFIX-LINE
    awk -v prefix="$1" -v pattern="$2" '
    !open && $0 ~ "^```(" pattern ")[ ]*$" { open = 1; file = prefix "-" NR; printf "" >file; next }
    !open && /^```/ { open = 2; next }
    open && /^```[ ]*$/ { open = 0; close(file); next }
    open == 1 { print >file }' "$readme"
}
strict="-std=c99 -Wall -Wextra -Wno-unused-parameter -Werror=implicit-function-declaration"
strict="$strict -Werror=incompatible-pointer-types -Werror=int-conversion"
block_runs() { # block_runs FILE.c
    "$cc" $strict -O2 $openmp -I"$project" "$1" -o "${1%.c}" -lm || return 1
    (cd "$project" && $limit "${1%.c}") || return 1
}
block_compiles() { # block_compiles FILE.c: a part of a program, at file level or inside a function
    { echo '#include "l2ladv.h"'; cat "$1"; } >"${1%.c}.file.c"
    "$cc" $strict -fsyntax-only -Wno-unused-function -I"$project" "${1%.c}.file.c" && return 0
    {
        echo '#include "l2ladv.h"'
        cat "$tests/matrix/names.h"
        echo 'extern void block(void); void block(void) {'
        cat "$1"
        echo '}'
    } >"${1%.c}.body.c"
    "$cc" $strict -fsyntax-only -Wno-unused -I"$project" "${1%.c}.body.c"
}
check_block() { # check_block NAME FILE
    mv "$2" "$2.c"
    if grep -qE '^int main\(' "$2.c"; then claim "$1 compiles and runs" block_runs "$2.c"
    else claim "$1 compiles" block_compiles "$2.c"
    fi
}

# In the header: between a line `#if 0 /* quick start` and its #endif.
awk -v prefix="$project/blocks/header" '
/^#if 0 .*quick start/ { open = 1; file = prefix "-" NR; printf "" >file; next }
open && /^#endif/ { open = 0; close(file); next }
open { print >file }' "$header"
found=0
for file in "$project"/blocks/header-*; do
    [ -e "$file" ] || continue
    found=$((found + 1))
    check_block "the header's example in line ${file##*-}" "$file"
done
: >"$complaints"
[ "$found" -gt 0 ] || echo "there is none between '#if 0 /* quick start' and #endif" >"$complaints"
verdict "the header has an example ($found)" "$complaints"

if [ -r "$readme" ]; then
    blocks "$project/blocks/readme" c
    found=0
    for file in "$project"/blocks/readme-*; do
        [ -e "$file" ] || continue
        found=$((found + 1))
        check_block "README.md, the C block in line ${file##*-}" "$file"
    done
    : >"$complaints"
    [ "$found" -gt 0 ] || echo "there is no C block" >"$complaints"
    verdict "README.md has examples in C ($found)" "$complaints"

    # Commands: make targets, programs, options and files that exist.
    blocks "$work/shell" 'sh|bash|shell|console'
    : >"$complaints"
    : >"$work/commands"
    for file in "$work"/shell-*; do
        [ -e "$file" ] || continue
        sed -e 's/^\$ //' -e 's/[ ]*#.*//' "$file" |
            awk '/\\$/ { sub(/\\$/, ""); printf "%s", $0; next } { print }' >>"$work/commands"
    done
    tr ';&|' '\n\n\n' <"$work/commands" | sed 's/^ *//; /^$/d' >"$work/simple"
    while read -r program arguments; do
        case $program in
        make)
            directory=$root
            targets=
            next=
            for word in $arguments; do
                case $next$word in
                dir*) directory=$root/$word; next= ;;
                -C) next=dir ;;
                -* | *=*) ;;
                *) targets="$targets $word" ;;
                esac
            done
            if [ ! -d "$directory" ]; then echo "make $arguments: no such directory"
            else
                for target in ${targets:-all}; do
                    make -C "$directory" -n "$target" >/dev/null 2>&1 ||
                        echo "make $arguments: there is no target $target"
                done
            fi
            ;;
        examples/bin/* | ./examples/bin/* | bin/* | ./bin/*)
            source=$root/examples/${program##*/}.c
            if [ ! -r "$source" ]; then echo "$program: there is no examples/${program##*/}.c"
            else
                for word in $arguments; do
                    case $word in
                    --*) word=${word%%=*}
                        cat "$source" "$root"/examples/*.h | grep -qF -e "\"$word\"" \
                            -e "\"${word#--}\"" -e "$word" ||
                            echo "$program: $word does not occur in its source" ;;
                    esac
                done
            fi
            ;;
        ./*)
            [ -x "$root/$program" ] || [ -r "$root/examples/${program##*/}.c" ] ||
                grep -q -e "-o $(basename "$program")" "$work/simple" ||
                echo "$program: there is no such program" ;;
        esac
        for word in $arguments; do
            case $word in
            examples/bin/*) ;;
            examples/*.* | tests/*.*) [ -e "$root/$word" ] || echo "$word: there is no such file" ;;
            esac
        done
    done <"$work/simple" >>"$complaints"
    [ -s "$work/simple" ] || echo "there is no shell block" >>"$complaints"
    verdict "the commands in README.md name what exists ($(wc -l <"$work/simple") commands)" \
        "$complaints"
    : >"$complaints"
    for command in 'make -C tests' 'make -C examples demo'; do
        grep -qxF "$command" "$work/simple" || echo "no line reads: $command" >>"$complaints"
    done
    verdict "README.md has the two commands of a first visit" "$complaints"
else
    echo "$readme cannot be read" >"$complaints"
    verdict "there is a README.md" "$complaints"
fi
finish
