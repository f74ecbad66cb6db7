#!/bin/sh
# The growth of resident memory by training steps, beside PyTorch's (of its two memory layouts the
# one that takes less): examples/bin/bench --memory and memory.py, each in a process of its own.
# Linux only; needs python3-torch.
#
#   tests/peer/memory.sh [ARCH [BATCH [THREADS]]]
#
# ARCH is smallcnn, vgg16, wrn or resnet18. Without it: all four, with 128, 64, 8 and 8 images; with
# a BATCH of - its own. 2 threads.
set -eu
case ${1:-} in
-*) echo "usage: memory.sh [ARCH [BATCH [THREADS]]]" >&2; exit 2 ;;
esac
archs=${1:-smallcnn vgg16 wrn resnet18}
threads=${3:-2}
here=$(cd "$(dirname "$0")" && pwd)
bench=$here/../../examples/bin/bench
python=${PYTHON:-/usr/bin/python3}
[ -x "$bench" ] || { echo "memory.sh: first: make -C examples" >&2; exit 2; }
lines=$(mktemp "${TMPDIR:-/tmp}/l2ladv-memory.XXXXXX")
trap 'rm -f "$lines"' EXIT
OMP_NUM_THREADS=$threads
export OMP_NUM_THREADS
for arch in $archs; do
    case $arch in
    smallcnn) batch=128 ;;
    vgg16) batch=64 ;;
    *) batch=8 ;;
    esac
    case ${2:--} in
    -) ;;
    *) batch=$2 ;;
    esac
    "$bench" --memory --arch "$arch" --batch "$batch" --threads "$threads" >>"$lines"
    "$python" "$here/memory.py" "$arch" "$batch" "$threads" >>"$lines"
    "$python" "$here/memory.py" --channels-last "$arch" "$batch" "$threads" >>"$lines"
done
"$python" - "$lines" <<'END'
import json
import sys

rows = {}
for line in open(sys.argv[1]):
    r = json.loads(line)
    ours, theirs = rows.setdefault((r["arch"], r["batch"], r["threads"]), ([], []))
    (theirs if "torch" in r else ours).append(r["growth"] / 1e6)
    version = r.get("torch", "")
print("growth of resident memory by training steps, MB")
print("%-9s %6s %8s %12s %12s %8s" % (
    "", "batch", "threads", "l2ladv.h", "torch " + version[:6].rstrip("+"), "ratio"))
for (arch, batch, threads), (ours, theirs) in rows.items():
    print("%-9s %6d %8d %12.1f %12.1f %8.2f" % (
        arch, batch, threads, min(ours), min(theirs), min(ours) / min(theirs)))
END
