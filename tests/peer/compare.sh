#!/bin/sh
# Images per second beside PyTorch's: examples/bin/bench and bench.py in alternation, the best of
# each, so that what else the machine does falls on both. Needs python3-torch.
#
#   tests/peer/compare.sh [--all] [--onnx DIR] [--width W] [--depth D] [ARCH [BATCH [THREADS [ROUNDS]]]]
#
# --onnx measures ONNX Runtime's forward pass, too; DIR is a folder in which
# `npm install --ignore-scripts onnxruntime-node` was done.
# ARCH is smallcnn, vgg16, wrn or resnet18; without more: smallcnn 128 1 3. --all measures steps of
# adversarial training too for others than smallcnn.
set -eu
usage="usage: compare.sh [--all] [--onnx DIR] [--width W] [--depth D] [ARCH [BATCH [THREADS [ROUNDS]]]]"
flags=
size=
onnx=
while :; do
    case ${1:-} in
    --all) flags="$flags --all" ;;
    --onnx)
        onnx=${2:?a folder is needed behind --onnx}
        shift
        ;;
    --width | --depth)
        size="$size $1 ${2:?a number is needed behind $1}"
        shift
        ;;
    -*) echo "$usage" >&2; exit 2 ;;
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
[ -z "$onnx" ] || [ -d "$onnx/node_modules/onnxruntime-node" ] ||
    { echo "compare.sh: $onnx: first there: npm install --ignore-scripts onnxruntime-node" >&2; exit 2; }
[ -z "$onnx" ] || onnx=$(cd "$onnx" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/l2ladv-compare.XXXXXX")
lines=$work/lines
trap 'rm -rf "$work"' EXIT
if [ "$onnx" ]; then
    "$python" "$here/ort.py" "$arch" "$batch" "$work/model.onnx" $size
    shape=$(cd "$here" && PYTHONDONTWRITEBYTECODE=1 "$python" -c \
        "import models; print('x'.join(map(str, models.ARCHS['$arch'][1])))")
fi
round=0
while [ "$round" -lt "$rounds" ]; do
    OMP_NUM_THREADS=$threads "$bench" --arch "$arch" --batch "$batch" --threads "$threads" $flags $size --json >>"$lines"
    OMP_NUM_THREADS=$threads "$python" "$here/bench.py" $flags $size "$arch" "$batch" "$threads" >>"$lines"
    [ -z "$onnx" ] || NODE_PATH=$onnx/node_modules node "$here/ort.js" "$work/model.onnx" "$arch" "$batch" \
        "$shape" "$threads" >>"$lines"
    round=$((round + 1))
done
"$python" - "$lines" "$flags$size" <<'END'
import json
import sys

NAMES = ["l2ladv.h", "torch", "onnxruntime"]
best, heads = {}, {"l2ladv.h": "l2ladv.h"}
for line in open(sys.argv[1]):
    r = json.loads(line)
    name = next((n for n in NAMES if n in r), "l2ladv.h")
    if name in r:
        heads[name] = {"torch": "torch ", "onnxruntime": "ONNX RT "}[name] + r[name][:6].rstrip("+")
    rates = best.setdefault(name, {})
    for key, value in r.items():
        if isinstance(value, float):
            rates[key] = max(rates.get(key, 0), value)
print("%s%s, batch %d, %d threads: images per second, best of all rounds" % (
    r["arch"], sys.argv[2], r["batch"], r["threads"]))
peers = [n for n in NAMES[1:] if n in best]
print("%-11s %12s" % ("", "l2ladv.h") + "".join(" %14s %6s" % (heads[n], "ratio") for n in peers))
for key, rate in best["l2ladv.h"].items():
    line = "%-11s %12.2f" % (key, rate)
    for name in peers:
        theirs = best[name].get(key)
        line += " %14.2f %6.2f" % (theirs, rate / theirs) if theirs else " %14s %6s" % ("-", "-")
    print(line)
END
