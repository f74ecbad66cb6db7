#!/bin/sh
# Images per second beside PyTorch's: examples/bin/bench and bench.py in alternation, the best of
# each, so that what else the machine does falls on both. Needs python3-torch.
#
#   tests/peer/compare.sh [--all] [--width W] [--depth D] [ARCH [BATCH [THREADS [ROUNDS]]]]
#
# ARCH is smallcnn, vgg16, wrn or resnet18; without more: smallcnn 128 1 3. --all measures steps of
# adversarial training too for others than smallcnn.
set -eu
flags=
while :; do
    case ${1:-} in
    --all) flags="$flags --all" ;;
    --width | --depth)
        flags="$flags $1 ${2:?a number is needed behind $1}"
        shift
        ;;
    -*) echo "usage: compare.sh [--all] [--width W] [--depth D] [ARCH [BATCH [THREADS [ROUNDS]]]]" >&2; exit 2 ;;
    *) break ;;
    esac
    shift
done
arch=${1:-smallcnn}
batch=${2:-128}
threads=${3:-1}
rounds=${4:-3}
here=$(cd "$(dirname "$0")" && pwd)
bench=$here/../../examples/bin/bench
python=${PYTHON:-/usr/bin/python3}
[ -x "$bench" ] || { echo "compare.sh: first: make -C examples" >&2; exit 2; }
lines=$(mktemp "${TMPDIR:-/tmp}/l2ladv-compare.XXXXXX")
trap 'rm -f "$lines"' EXIT
round=0
while [ "$round" -lt "$rounds" ]; do
    OMP_NUM_THREADS=$threads "$bench" --arch "$arch" --batch "$batch" --threads "$threads" $flags --json >>"$lines"
    OMP_NUM_THREADS=$threads "$python" "$here/bench.py" $flags "$arch" "$batch" "$threads" >>"$lines"
    round=$((round + 1))
done
"$python" - "$lines" "$flags" <<'END'
import json
import sys

ours, theirs = {}, {}
for line in open(sys.argv[1]):
    r = json.loads(line)
    for key, value in r.items():
        if isinstance(value, float):
            best = theirs if "torch" in r else ours
            best[key] = max(best.get(key, 0), value)
    version = r.get("torch", "")
r["size"] = sys.argv[2]
print("%(arch)s%(size)s, batch %(batch)d, %(threads)d threads: images per second, best of all rounds" % r)
print("%-11s %12s %12s %8s" % ("", "l2ladv.h", "torch " + version[:6].rstrip("+"), "ratio"))
for key in ours:
    if key in theirs:
        digits = 0 if min(ours[key], theirs[key]) >= 100 else 2
        print("%-11s %12.*f %12.*f %8.2f" % (
            key, digits, ours[key], digits, theirs[key], ours[key] / theirs[key]))
END
