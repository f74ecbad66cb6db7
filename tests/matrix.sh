#!/bin/sh
# The compile matrix: compilers x standards x OpenMP x optimisation, each documented macro once,
# double inclusion, several units, shared libraries, the macros of other headers, 32 bits, musl,
# tcc, Windows; all with the strict warnings as errors.
#   usage: tests/matrix.sh            JOBS=n   jobs at a time (default: as many as cores)
#                                     KEEP=1   keep the working directory
#                                     ONLY=x   only the jobs that have x in their name
# Needs cc; uses gcc, clang, g++, clang++, -m32, musl-gcc, tcc, x86_64-w64-mingw32-gcc and wine where
# they are, and names what is not.
# The last line is "N passed, N failed"; the exit status is 0 if none failed.
set -u
tests=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$tests")
work=$(mktemp -d "${TMPDIR:-/tmp}/l2ladv-matrix.XXXXXX") || exit 2
export TMPDIR="$work" # what is left by the tools goes with it
trap '[ "${KEEP:-}" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
strict="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wcast-qual -Wdouble-promotion -Wundef -Werror"
prototypes="-Wstrict-prototypes -Wmissing-prototypes"
units=$tests/matrix
number=0
skipped=0

have() { command -v "$1" >/dev/null 2>&1; }
skip() { echo "skipped: $*"; skipped=$((skipped + 1)); }

# job NAME COMMAND: queues a command; it runs in a directory of its own and must succeed.
job() {
    case $1 in *"${ONLY:-}"*) ;; *) return ;; esac
    number=$((number + 1))
    file=$(printf '%s/%03d' "$work" "$number")
    mkdir "$file.d"
    printf '%s\n' "$1" >"$file.name"
    printf 'set -e\ncd "%s"\n%s\n' "$file.d" "$2" >"$file.job"
}

# probe COMPILER OPTIONS...: can it compile, link and run a program that includes libc and libm?
probe() {
    printf '%s\n' '#include <errno.h>' '#include <math.h>' '#include <stdlib.h>' '#ifdef _OPENMP' '#include <omp.h>' \
        '#endif' 'int main(int n, char **v)' '{' '#ifdef _OPENMP' \
        'if (omp_get_max_threads() < 1) return 2;' '#endif' \
        'return v[0] && sqrt((double)n) > 1e3 ? EXIT_FAILURE : 0; }' >"$work/probe.c"
    have "$1" && "$@" -o "$work/probe" "$work/probe.c" -lm >"$work/probe.log" 2>&1 &&
        "$work/probe"
}

# -- every compiler and standard, with and without OpenMP, unoptimised and optimised ------------
# The optimiser's own warnings (uninitialised, overflow) do not depend on the standard's year, so
# -O2 goes over one year per language, the older without and the newer with OpenMP.
row() { # row COMPILER LANGUAGE-OPTION STANDARD OLDER-OR-NEWER
    extra=
    [ "$2" = "-xc" ] && extra=$prototypes
    openmp=
    if probe "$1" "$2" "-std=$3" -fopenmp; then openmp=yes
    else skip "$1 -std=$3 -fopenmp (no OpenMP for this compiler)"; fi
    if ! probe "$1" "$2" "-std=$3"; then skip "$1 -std=$3 (the compiler lacks it)"; return; fi
    base="$1 $2 -std=$3 $strict $extra -I'$root'"
    job "$1 $3 -O0" "$base -O0 -c '$tests/implementation.c' -o x.o"
    [ "$4" = older ] && job "$1 $3 -O2" "$base -O2 -c '$tests/implementation.c' -o x.o"
    job "$1 $3, declarations only" "$base -c '$units/declarations.c' -o x.o"
    job "$1 $3, the headers beside it" "$base -c '$units/l2lda.c' -o x.o"
    [ "$openmp" ] || return 0
    job "$1 $3 -O0 -fopenmp" "$base -O0 -fopenmp -c '$tests/implementation.c' -o x.o"
    [ "$4" = newer ] && job "$1 $3 -O2 -fopenmp" \
        "$base -O2 -fopenmp -c '$tests/implementation.c' -o x.o"
    return 0
}
for compiler in gcc clang; do
    if have $compiler; then
        row $compiler -xc c99 older
        row $compiler -xc c11 newer
    else
        skip "$compiler (not installed)"
    fi
done
# A release build of other people's: -O3 finds more that may be uninitialised.
for compiler in gcc clang; do
    ! have $compiler ||
        job "$compiler -O3 -Wall -Wextra" "$compiler -std=c99 -O3 -Wall -Wextra -Werror \
            -I'$root' -c '$tests/implementation.c' -o x.o"
done
! have g++ || job "g++ -O3 -Wall -Wextra" "g++ -xc++ -std=c++11 -O3 -Wall -Wextra -Werror \
    -I'$root' -c '$tests/implementation.c' -o x.o"
for compiler in g++ clang++; do
    if have $compiler; then
        row $compiler -xc++ c++11 older
        row $compiler -xc++ c++20 newer
    else
        skip "$compiler (not installed)"
    fi
done

# -- each documented macro, with one C and one C++ compiler -------------------------------------
c_compiler=
for compiler in gcc clang cc; do
    [ "$c_compiler" ] || ! have $compiler || c_compiler=$compiler
done
cxx_compiler=
for compiler in clang++ g++ c++; do
    [ "$cxx_compiler" ] || ! have $compiler || cxx_compiler=$compiler
done
cxx_compiler=${cxx_compiler:-missing-c++}
have "$cxx_compiler" || skip "the C++ half of the macro checks (no C++ compiler)"
[ "$c_compiler" ] || { echo "matrix.sh: no C compiler"; echo "0 passed, 1 failed"; exit 1; }
c="$c_compiler -std=c99 $strict $prototypes -I'$root'"
cxx="$cxx_compiler -xc++ -std=c++11 $strict -I'$root'"

both() { # both NAME OPTIONS: the implementation under these options, in C and in C++
    job "$1, C" "$c $2 -c '$tests/implementation.c' -o x.o"
    ! have "$cxx_compiler" || job "$1, C++" "$cxx $2 -c '$tests/implementation.c' -o x.o"
}
both L2LADV_STATIC -DL2LADV_STATIC
both L2LADV_DOUBLE -DL2LADV_DOUBLE
both L2LADV_NO_SIMD -DL2LADV_NO_SIMD
both "all switches at once" "-DL2LADV_STATIC -DL2LADV_DOUBLE -DL2LADV_NO_SIMD -DL2LADV_NO_STDIO"
both "L2LADV_NO_STDIO" -DL2LADV_NO_STDIO
both "L2LADV_NO_POSIX" -DL2LADV_NO_POSIX
job "L2LADV_NO_STDIO, run" "$c -DL2LADV_NO_STDIO '$units/no_stdio.c' -o x -lm && ./x"
job "L2LADV_MALLOC and L2LADV_FREE, run" "$c '$units/allocator.c' -o x -lm && ./x"
job "L2LADV_ASSERT, run" "$c '$units/assert.c' -o x -lm && ./x"
! have "$cxx_compiler" ||
    job "L2LADV_ASSERT, C++" "$cxx -c '$units/assert.c' -o x.o"
job "L2LADV_MALLOC alone is refused" "
    if $c -c '$units/half_allocator.c' -o x.o 2>log; then echo 'it compiled'; exit 1; fi
    grep 'L2LADV_MALLOC and L2LADV_FREE' log || { cat log; exit 1; }"

# -- where the header lies, and under which name ------------------------------------------------
plain="$c_compiler -std=c99 $strict $prototypes"
renamed='#define L2LADV_IMPLEMENTATION
#define L2LADV_HEADER "other_name.h"
#include "other_name.h"'
job "L2LADV_HEADER: renamed, beside the source" "
    cp '$root/l2ladv.h' other_name.h
    printf '%s\n' '$renamed' >unit.c
    $plain -c unit.c -o x.o"
job "L2LADV_HEADER: renamed, in an -I directory" "
    mkdir third
    cp '$root/l2ladv.h' third/other_name.h
    printf '%s\n' '$renamed' >unit.c
    $plain -Ithird -c unit.c -o x.o"
job "included by its path, without -I" "
    mkdir -p third/party
    cp '$root/l2ladv.h' third/party/l2ladv.h
    printf '%s\n' '#define L2LADV_IMPLEMENTATION' '#include \"third/party/l2ladv.h\"' >unit.c
    $plain -c unit.c -o x.o"

# -- inclusions and units -----------------------------------------------------------------------
two() { # two NAME COMMAND-A COMMAND-B LINKER: two units, linked and run
    job "$1" "
    $2 -c '$units/two_units_a.c' -o a.o
    $3 -c '$units/two_units_b.c' -o b.o
    $4 a.o b.o -o x -lm && ./x"
}
job "included three times in one unit, C" "$c '$units/twice.c' -o x -lm && ./x"
two "two units, C" "$c" "$c" "$c_compiler"
two "two units, both with L2LADV_STATIC" "$c -DL2LADV_STATIC" "$c -DL2LADV_STATIC" "$c_compiler"
two "two units, L2LADV_DOUBLE in both" "$c -DL2LADV_DOUBLE" "$c -DL2LADV_DOUBLE" "$c_compiler"
if have "$cxx_compiler"; then
    job "included three times in one unit, C++" "$cxx '$units/twice.c' -o x -lm && ./x"
    two "two units, C++" "$cxx" "$cxx" "$cxx_compiler"
    two "two units, bodies in C and user in C++" "$c" "$cxx" "$cxx_compiler"
fi

job "L2LADV_DOUBLE in one of two units does not link" "
    $c -DL2LADV_DOUBLE -c '$units/two_units_a.c' -o a.o
    $c -c '$units/two_units_b.c' -o b.o
    if $c_compiler a.o b.o -o x -lm 2>log; then echo 'it linked'; exit 1; fi
    grep 'l2l_context_create' log || { cat log; exit 1; }"
exported='-DL2LADVDEF=__attribute__((visibility("default")))'
shared() { # shared NAME COMPILER-AND-OPTIONS SOURCE: of its hidden symbols exactly the interface is seen
    job "L2LADVDEF: a shared library with hidden symbols exports the interface, $1" "
    printf '%s\n' '#define L2LADVDEF extern __attribute__((visibility(\"default\")))' \
        '#define L2LADV_IMPLEMENTATION' '#include \"l2ladv.h\"' >defined.c
    $plain -I'$root' -O0 -c '$tests/implementation.c' -o all.o
    nm all.o | sed -n 's/.* T \(l2l_.*\)/\1/p' | sort >all
    $2 -O0 -shared -fPIC -fvisibility=hidden $3 -o x.so -lm
    nm -D x.so | sed -n 's/.* T \(.*\)/\1/p' | sort >exported
    test \$(wc -l <all) -gt 150
    diff all exported"
}
case $(uname -s) in
Linux)
    shared "C, by the command line" "$c '$exported'" "'$tests/implementation.c'"
    shared "C, defined before the include" "$c" defined.c
    ! have "$cxx_compiler" ||
        shared "C++, by their C names" "$cxx '$exported'" "'$tests/implementation.c'" ;;
*) skip "symbols of a shared library (not on Linux)" ;;
esac
job "L2LADVDEF beside L2LADV_STATIC is refused" "
    if $c -DL2LADVDEF=extern -DL2LADV_STATIC -c '$tests/implementation.c' -o x.o 2>log; then
        echo 'it compiled'; exit 1; fi
    grep 'L2LADVDEF exports functions' log || { cat log; exit 1; }"

# -- what other headers make macros of ----------------------------------------------------------
job "behind the macros of other headers, C" "$c '$units/macros.c' -o x -lm && ./x"
job "behind the macros of other headers, C, OpenMP off, plain kernels" \
    "$c -DL2LADV_DOUBLE -c '$units/macros.c' -o x.o"
job "declarations behind the macros of other headers, C" \
    "$c -c '$units/macros_declarations.c' -o x.o"
if have "$cxx_compiler"; then
    job "behind the macros of other headers, C++" "$cxx '$units/macros.c' -o x -lm && ./x"
    job "declarations behind the macros of other headers, C++" \
        "$cxx -c '$units/macros_declarations.c' -o x.o"
fi

# -- other C libraries, compilers and systems ---------------------------------------------------
job "files over 2 GB, names beyond ASCII" "$c_compiler -std=c99 -I'$root' '$units/large.c' -o x -lm
    ./x ."
if have musl-gcc; then
    job "musl" "musl-gcc -std=c99 $strict $prototypes -I'$root' '$units/twice.c' -o x -lm && ./x"
else
    skip "musl (musl-gcc is not installed)"
fi
if have tcc; then
    job "tcc" "tcc -I'$root' '$units/twice.c' -o x -lm && ./x"
    job "tcc, run" "
    tcc -I'$root' -c '$units/two_units_a.c' -o a.o
    tcc -I'$root' -c '$units/two_units_b.c' -o b.o
    tcc a.o b.o -o x -lm && ./x"
else
    skip "tcc (not installed)"
fi
# MSVC cannot be had here. clang stands in for it, with MSVC's macros and rules and without its own and
# GNU's macros: so it takes the paths for other compilers. And as itself, clang-cl, for MSVC's runtime.
microsoft="clang --target=x86_64-pc-windows-msvc -ffreestanding -fms-compatibility -fms-extensions \
    -fms-compatibility-version=19.29 -nostdlibinc -I. -I'$root' $strict -Wvla"
stub="for h in errno math stdio stdlib string wchar; do echo '#include \"$units/msvc.h\"' >\$h.h; done"
if have clang && echo 'int x;' | clang --target=x86_64-pc-windows-msvc -fsyntax-only -xc - 2>/dev/null; then
    for switch in "" -DL2LADV_DOUBLE -DL2LADV_NO_STDIO; do
        job "MSVC's rules and macros, C $switch" "$stub
            $microsoft -U__clang__ -xc -std=c11 $switch -fsyntax-only '$tests/implementation.c'"
        job "MSVC's rules and macros, C++ $switch" "$stub
            $microsoft -U__clang__ -xc++ -std=c++14 $switch -fsyntax-only '$tests/implementation.c'"
    done
    job "clang for MSVC's runtime, which does not tell the processor" "$stub
        $microsoft -xc -std=c99 -c '$tests/implementation.c' -o x.o
        if grep '__cpu_model\|__cpu_indicator' x.o; then exit 1; fi"
    object="$stub
        $microsoft -U__clang__ -xc -std=c11 -O1 -c '$tests/implementation.c' -o x.o"
else
    skip "MSVC's rules (no clang for that target)"
    object=
fi
mingw=x86_64-w64-mingw32-gcc
windows="$mingw -std=c99 $strict -I'$root'"
wine_set="mkdir bin out # as in tests/
        export WINEPREFIX=\$PWD/wine WINEDEBUG=-all HOME=\$PWD TMPDIR=\$PWD
        trap 'wineserver -k; wineserver -w' EXIT # it lingers, with a folder in TMPDIR"
tried() { # tried TEST...: commands that link test programs to x.o, or double.o, and run them
    for t in "$@"; do
        case $t in
        double*) echo "$mingw -std=c99 -O1 -DL2LADV_DOUBLE '$tests/test_$t.c' double.o -o $t.exe -lm" ;;
        *) echo "$mingw -std=c99 -O1 '$tests/test_$t.c' x.o $link -o $t.exe -lm" ;;
        esac
        case $t in roundtrip) rounds=10 ;; *) rounds= ;; esac
        echo "timeout 600 wine ./$t.exe $rounds"
    done
}
link=
if have $mingw; then
    job "mingw-w64 -O0, behind windows.h" "printf '%s\n' '#include <windows.h>' \
        '#define L2LADV_IMPLEMENTATION' '#include \"l2ladv.h\"' >unit.c
    $windows -Wno-cast-function-type -O0 -c unit.c -o x.o"
    job "mingw-w64: L2LADVDEF exports the interface from a DLL, and nothing else" "
    $mingw -std=c99 -O0 -c '$tests/implementation.c' -I'$root' -o all.o
    x86_64-w64-mingw32-nm all.o | sed -n 's/.* T \(l2l_.*\)/\1/p' | sort >all
    $windows -O0 '-DL2LADVDEF=__declspec(dllexport)' -shared '$tests/implementation.c' -o x.dll
    x86_64-w64-mingw32-objdump -p x.dll | sed -n 's/^.*\[ *[0-9]*\].* \(l2l_.*\)$/\1/p' | sort >exported
    test \$(wc -l <all) -gt 150
    diff all exported"
    # Each level keeps other things on the stack, which is aligned to 16 bytes there, not to 64.
    for level in -O0 -O1 -O2 -O3; do
        if ! have wine; then
            job "mingw-w64 $level" "$windows $level -c '$tests/implementation.c' -o x.o"
            continue
        fi
        [ $level = -O0 ] && more= || more=kernels # at -O0 it has the plain ones, which take minutes
        job "mingw-w64 $level, under wine: operators $more" "$wine_set
        $windows $level -c '$tests/implementation.c' -o x.o
        $(tried operators $more)"
    done
    if have wine; then
        # One prefix, made by one process; wine wants a home of its own.
        job "mingw-w64 -O2, under wine: handles, numbers, files, models, attacks, training, evaluation" "$wine_set
        $windows -O2 -c '$tests/implementation.c' -o x.o
        $(tried handles numbers options interface foreign roundtrip cifar model searches seams attacks autoattack \
            training evaluation lifetimes)
        $mingw -std=c99 -O0 -I'$root' '$units/large.c' -o large.exe -lm
        timeout 300 wine ./large.exe ."
        job "mingw-w64 -O2, under wine: double" "$wine_set
        $windows -O2 -DL2LADV_DOUBLE -c '$tests/implementation.c' -o double.o
        $(tried double)"
        link=-Wl,--defsym,__chkstk=___chkstk_ms # MSVC's name for what looks after a large stack
        [ -z "$object" ] || job "what clang makes by MSVC's rules, under wine: operators, handles, numbers, roundtrip" \
            "$wine_set
        $object
        $(tried operators handles numbers roundtrip)"
    else
        skip "tests on Windows (wine is not installed)"
    fi
else
    skip "Windows ($mingw is not installed)"
fi

# -- 32 bits ------------------------------------------------------------------------------------
# Debian's gcc-multilib, which brings <asm/> for 32 bits, excludes cross compilers; g++-12-multilib
# does not, and the 64-bit <asm/> serves both.
bits32() { # bits32 COMPILER LANGUAGE-OPTION STANDARD
    have "$1" || return 0
    for m32 in "-m32" "-m32 -idirafter /usr/include/x86_64-linux-gnu"; do
        probe "$1" "$2" "-std=$3" $m32 || continue
        job "$1 $3 -m32" "$1 $2 -std=$3 $strict -I'$root' $m32 -O0 '$units/twice.c' -o x -lm && ./x"
        return
    done
    skip "$1 $3 -m32 (no 32-bit libraries for this compiler)"
}
bits32 gcc -xc c99
bits32 clang -xc c99
bits32 g++ -xc++ c++11
bits32 clang++ -xc++ c++11

# -- run them -----------------------------------------------------------------------------------
# xargs hands out the jobs; each that succeeds leaves FILE.ok behind.
cat >"$work/one" <<'END'
if sh "$1.job" >"$1.log" 2>&1; then : >"$1.ok"
else echo "exit status $?" >>"$1.log"; fi
exit 0
END
for file in "$work"/*.job; do echo "${file%.job}"; done |
    xargs -P "$jobs" -n 1 sh "$work/one"
passed=0
failed=0
for file in "$work"/*.job; do
    file=${file%.job}
    name=$(cat "$file.name")
    if [ -e "$file.ok" ]; then
        passed=$((passed + 1))
        echo "ok: $name"
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        sed -n 's/^/    /; 3,$p' "$file.job"
        tail -n 20 "$file.log" | sed 's/^/    | /'
    fi
done
[ "$skipped" -eq 0 ] || echo "$skipped skipped, see above"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
