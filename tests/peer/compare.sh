#!/bin/sh
# Images per second beside PyTorch's: examples/bin/bench and bench.py in alternation, the best of
# each, so that what else the machine does falls on both. Needs python3-torch.
#
#   tests/peer/compare.sh [ARCH [BATCH [THREADS [ROUNDS]]]]        smallcnn 128 1 3
set -eu
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
    OMP_NUM_THREADS=$threads "$bench" --arch "$arch" --batch "$batch" --threads "$threads" --json >>"$lines"
    OMP_NUM_THREADS=$threads "$python" "$here/bench.py" "$arch" "$batch" "$threads" >>"$lines"
    round=$((round + 1))
done
"$python" - "$lines" <<'END'
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
print("%(arch)s, batch %(batch)d, %(threads)d threads: images per second, best of all rounds" % r)
print("%-11s %12s %12s %8s" % ("", "l2ladv.h", "torch " + version[:6].rstrip("+"), "ratio"))
for key in ours:
    if key in theirs:
        print("%-11s %12.0f %12.0f %8.2f" % (key, ours[key], theirs[key], ours[key] / theirs[key]))
END
