#!/bin/sh
# examples/convert.py: PyTorch checkpoints to model files and back, and what examples/gradients.c
# says to the files.
#   usage: tests/test_convert.sh      CC=compiler   PYTHON=python   KEEP=1 keeps the working directory
# Needs cc and PyTorch (python3-torch); without PyTorch it is skipped. The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"

python=
for candidate in ${PYTHON:-python3 /usr/bin/python3}; do
    "$candidate" -c 'import torch, numpy' >/dev/null 2>&1 && python=$candidate && break
done
if [ -z "$python" ]; then
    echo "skipped: convert.py needs PyTorch (python3-torch)"
    finish
fi
PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=$tests/peer
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONDONTWRITEBYTECODE PYTHONPATH OMP_NUM_THREADS

refused() { # refused NAME TEXT COMMAND...: it fails, says so in a line with TEXT, and not by a traceback
    name=$1
    text=$2
    shift 2
    "$@" >output 2>&1
    status=$?
    [ "$status" -ne 0 ] && [ "$status" -lt 126 ] && grep -qF -e "$text" output && ! grep -q Traceback output
    verdict "$name" $?
}
convert() { "$python" "$examples/convert.py" "$@"; }

optimise=-O1
compiled gradients
cat >again.c <<'C'
#include "l2ladv.h"
int main(int argc, char **argv)
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    l2l_model *m = argc == 3 ? l2l_model_open(c, argv[1]) : NULL;
    bool ok = m && l2l_model_save(m, argv[2]);
    l2l_model_free(m);
    l2l_context_free(c);
    return !ok;
}
C
claim "a program that opens a model and saves it" "${CC:-cc}" -std=c99 -O1 -I"$(dirname "$tests")" \
    -o again again.c implementation.o -lm

# Networks with random values: in ARCH.pt as a state_dict, and what gradients needs beside it.
cat >make.py <<'PYTHON'
import numpy as np
import torch
import models

for arch, width, depth, size in (("smallcnn", 0.5, 0, 0), ("vgg16", 0.25, 0, 0), ("wrn", 2, 10, 0), ("resnet18", 0.25, 0, 64)):
    torch.manual_seed(3)
    net = models.make(arch, width, depth).train()
    shape = models.ARCHS[arch][1]
    shape = (shape[0], size, size) if size else shape
    net(torch.rand(4, *shape))  # moves the running statistics
    torch.save(net.state_dict(), arch + ".pt")
    x = torch.rand(2, *shape)
    np.save(arch + "-x.npy", x.numpy())
    np.save(arch + "-y.npy", np.arange(2))
    mean, deviation = torch.linspace(0.4, 0.5, shape[0]), torch.linspace(0.2, 0.3, shape[0])
    with torch.no_grad():
        net = net.double().eval()
        np.save(arch + "-z.npy", net(x.double()).numpy())
        scaled = (x.double() - mean.double().view(-1, 1, 1)) / deviation.double().view(-1, 1, 1)
        np.save(arch + "-scaled.npy", net(scaled).numpy())
    print(arch, ",".join(repr(float(v)) for v in mean), ",".join(repr(float(v)) for v in deviation))

state = torch.load("vgg16.pt")
torch.save({"epoch": 3, "state_dict": {"module." + n: t for n, t in state.items()}}, "parallel.pt")
torch.save({"net": {"net": torch.ones(2)}, "epoch": 7}, "called_net.pt")

def named(change):
    return {change(n): t for n, t in state.items()}
for i, (holders, change) in enumerate((
        ((), lambda n: "module.module." + n), ((), lambda n: "_orig_mod." + n), ((), lambda n: "model." + n),
        ((), lambda n: "module._orig_mod.model." + n), (("state_dict",), lambda n: "model._orig_mod.module." + n),
        (("model", "state_dict"), lambda n: n), (("state_dict", "model"), lambda n: "module." + n),
        (("net", "model_state_dict", "model"), lambda n: n), (("net",), lambda n: n),
        ((), lambda n: n.replace("features.", "features.module.")),
        ((), lambda n: n.replace("features.0.", "features.0._orig_mod.")))):
    value = named(change)
    for holder in holders:
        value = {"epoch": 1, holder: value, "optimizer": {"state": {}}}
    torch.save(value, "wrapped%d.pt" % i)
torch.save({"n_averaged": torch.tensor(3), **named(lambda n: "module." + n)}, "averaged.pt")
# A plain layer that is called as a wrapper, beside others; a tensor that has a wrapper's own name.
torch.save({"module.a": torch.ones(1), "b": torch.ones(2), "c.model.d": torch.ones(3), "model.model": torch.ones(1)}, "own.pt")
torch.save({"module": torch.ones(1), "module.module": torch.ones(2)}, "same_name.pt")

# As the package robustness saves: the network twice, a normalisation twice, other things beside.
mean, deviation = torch.linspace(0.4, 0.5, 3), torch.linspace(0.2, 0.3, 3)
def robustness(mean, deviation, copy=1):
    inner = {"normalizer.new_mean": mean.view(-1, 1, 1), "normalizer.new_std": deviation.view(-1, 1, 1),
             **named(lambda n: "model." + n), "attacker.normalize.new_mean": mean.view(-1, 1, 1),
             "attacker.normalize.new_std": deviation.view(-1, 1, 1), **named(lambda n: "attacker.model." + n)}
    inner["attacker.model.classifier.bias"] = inner["attacker.model.classifier.bias"] * copy
    return {"model": {"module." + n: t for n, t in inner.items()}, "optimizer": {"state": {}}, "epoch": 3}
torch.save(robustness(mean, deviation), "robustness.pt")
torch.save(robustness(mean, deviation, 2), "robustness2.pt")
torch.save(robustness(mean, 0 * deviation), "robustness3.pt")
torch.save(robustness(mean[:2], deviation[:2]), "robustness4.pt")
torch.save({"0.mean": mean, "0.std": deviation, **named(lambda n: "1.module." + n)}, "sequential.pt")
torch.save({"module.mu": mean.view(1, -1, 1, 1), "module.sigma": deviation.view(1, -1, 1, 1),
            **named(lambda n: "module." + n)}, "mu.pt")
torch.save({"a": torch.rand(3, 4).t(), "b": torch.tensor(7), "c": torch.rand(5).bfloat16(), "d": torch.rand(2, 0),
            "e": torch.rand(2, 3).half(), "f": torch.rand(3).double(), "module.g": -torch.arange(4), "\u00e9\"": torch.ones(1),
            "h": torch.tensor([True, False]), "i": torch.arange(3, dtype=torch.uint8), "j": -torch.arange(3, dtype=torch.int8),
            "k": -torch.arange(3, dtype=torch.int16), "l": -torch.arange(3, dtype=torch.int32)}, "types.pt")
torch.save({"a": torch.ones(3, dtype=torch.complex64)}, "complex.pt")
torch.save({**state, "ema.weight": torch.ones(3, dtype=torch.complex64), "features._extra_state": {"a": 1}, "epoch": 3,
            "features.mask": torch.ones(2).to_sparse()}, "beside.pt")
torch.save({**state, "features.0.weight": state["features.0.weight"].to(torch.complex64)}, "within.pt")
torch.save({"a": torch.ones(3), "b._extra_state": None}, "extra.pt")
torch.save({"a": 1}, "number.pt")
torch.save(torch.nn.Linear(2, 3), "object.pt")
PYTHON
claim "random networks" "$python" make.py
cp output networks
cat >same.py <<'PYTHON'
import sys
import torch

a, b = (torch.load(name) for name in sys.argv[1:3])
for name in a if sys.argv[3:] else ():  # the header does not count batches
    if name.endswith("num_batches_tracked"):
        assert b[name].dtype == torch.int64 and b[name].shape == (), name
        b[name] = a[name]
if sys.argv[3:]:  # and has an order of its own
    a, b = ({n: d[n] for n in sorted(d)} for d in (a, b))
assert list(a) == list(b), "other names"
for name in a:
    assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
    assert a[name].contiguous().numpy().tobytes() == b[name].numpy().tobytes() if a[name].dtype != torch.bfloat16 \
        else torch.equal(a[name], b[name]), name
PYTHON
cat >near.py <<'PYTHON'
import sys
import numpy as np

a, b = (np.load(name) for name in sys.argv[1:])
off = np.abs(a - b).max() / np.abs(b).max()
print("logits differ by %.1e" % off)
sys.exit(not off < 1e-4)
PYTHON
logits() { # logits ARCH FILE EXPECTED: of what gradients makes of the file, without --arch
    rm -rf out
    ./gradients --model "$2" --input "$1-x.npy" --labels "$1-y.npy" --out out &&
        "$python" near.py out/logits.npy "$3"
}

spared() { # spared ARCH: its images, where an output would be written over them
    rm -rf out
    mkdir out
    cp "$1-x.npy" out/input_grad.npy
    ! ./gradients --model "$1.safetensors" --input out/input_grad.npy --labels "$1-y.npy" --out out \
        2>errors && grep -q '^gradients: --out: out/input_grad.npy is a file that was read' errors &&
        cmp "$1-x.npy" out/input_grad.npy
}

while read -r arch mean deviation; do
    size=
    [ "$arch" = resnet18 ] && size="--size 64 64"
    claim "$arch: to a model file" convert "$arch.pt" "$arch.safetensors" --arch "$arch" $size
    claim "$arch: back" convert "$arch.safetensors" back.pt
    claim "$arch: nothing has changed" "$python" same.py "$arch.pt" back.pt
    claim "$arch: gradients knows it from its metadata" logits "$arch" "$arch.safetensors" "$arch-z.npy"
    claim "$arch: gradients does not write over the images that it has read" spared "$arch"
    claim "$arch: through the header" ./again "$arch.safetensors" again.safetensors
    claim "$arch: and back to PyTorch" convert again.safetensors back.pt
    claim "$arch: nothing has changed but the count of batches" "$python" same.py "$arch.pt" back.pt counts
    claim "$arch: with normalisation" convert "$arch.pt" n.safetensors --arch "$arch" $size \
        --mean "$mean" --deviation "$deviation"
    claim "$arch: its logits with normalisation" logits "$arch" n.safetensors "$arch-scaled.npy"
done <networks
claim "the names of DataParallel in 'state_dict'" convert parallel.pt p.safetensors --arch vgg16 --width 0.25
claim "the same model" cmp p.safetensors vgg16.safetensors
for wrapped in wrapped*.pt averaged.pt; do
    claim "$wrapped: a state_dict in wrappers" convert $wrapped p.safetensors --arch vgg16 --width 0.25
    claim "the same model" cmp p.safetensors vgg16.safetensors
done
claim "names of one's own that are called as wrappers are" convert own.pt own.safetensors
claim "back" convert own.safetensors back.pt
claim "stay as they are" "$python" same.py own.pt back.pt
claim "a tensor called as a wrapper, and one in it" convert same_name.pt own.safetensors
claim "back again" convert own.safetensors back.pt
claim "both stay" "$python" same.py same_name.pt back.pt
mean=$(sed -n 's/^vgg16 \(.*\) .*/\1/p' networks)
deviation=$(sed -n 's/^vgg16 .* \(.*\)/\1/p' networks)
for kind in robustness sequential mu; do
    claim "$kind.pt: a normalisation beside the network" convert $kind.pt n.safetensors --arch vgg16
    cp output told
    claim "is the model's own, and said to be" grep -qF "mean $mean, deviation $deviation" told
    claim "its logits with it" logits vgg16 n.safetensors vgg16-scaled.npy
done
convert robustness.pt n.safetensors --arch vgg16 >told
count=$(convert vgg16.pt p.safetensors | sed 's/.*: \([0-9]*\) tensors.*/\1/') # and its copy, and four of two normalisations
claim "what is left out is counted" grep -qF ", $((count + 4)) more that are beside the network" told
claim "a normalisation that is given goes before it" convert robustness.pt n.safetensors --arch vgg16 --mean 0,0,0 --deviation 1,1,1
claim "its logits are the plain ones" logits vgg16 n.safetensors vgg16-z.npy
refused "a copy of the network that differs" "'attacker.model.classifier.bias' differs" convert robustness2.pt o.safetensors --arch vgg16
refused "deviations of zero" "'normalizer.new_mean' and 'normalizer.new_std' are no mean" convert robustness3.pt o.safetensors
refused "a normalisation of two channels" "robustness4.pt: mean: 2 numbers for 3 channels" convert robustness4.pt o.safetensors --arch vgg16
cat >foreign.py <<'PYTHON'
import sys
import torch
sys.path.insert(0, sys.argv[1])
import convert
with open("foreign.safetensors", "wb") as f:
    convert.save_safetensors(f, torch.load("robustness.pt")["model"], {"format": "pt", "author": "another"})
PYTHON
claim "tensors that others saved as safetensors" "$python" foreign.py "$examples"
cat >odd.py <<'PYTHON'
import json
import struct
import sys

name, out, key, dtype, size = sys.argv[1:]  # a model file with an entry more, of bytes of zero
with open(name, "rb") as f:
    data = f.read()
length = struct.unpack_from("<Q", data)[0]
header, data = json.loads(data[8:8 + length]), data[8 + length:]
header[key] = {"dtype": dtype, "shape": [3], "data_offsets": [len(data), len(data) + int(size)]}
text = json.dumps(header).encode()
with open(out, "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + data + bytes(int(size)))
PYTHON
for entry in "scale U16 6" "scale F8_E4M3 3" "scale C64 24" "features.0.scale F4 2"; do
    claim "an entry of another type: $entry" "$python" odd.py vgg16.safetensors more.safetensors $entry
    claim "which is beside the network" convert more.safetensors p.safetensors --arch vgg16
    cp output told
    claim "is left out, and counted" grep -qF ", 1 more that are beside the network are left out" told
    claim "and the model is the same" cmp p.safetensors vgg16.safetensors
    claim "on the way back it is, too" convert more.safetensors back.pt
    claim "to the same" "$python" same.py vgg16.pt back.pt
done
"$python" odd.py vgg16.safetensors more.safetensors features.2.weight U16 6
refused "an entry of another type in the network" "'features.2.weight' is U16; known are F64" \
    convert more.safetensors o.safetensors --arch vgg16
claim "become a model file" convert foreign.safetensors n.safetensors --arch vgg16
claim "with all that is known of it" logits vgg16 n.safetensors vgg16-scaled.npy
claim "every type, no dimension, no entry, transposed, odd names" convert types.pt types.safetensors
claim "and back" convert types.safetensors back.pt
claim "to the same" "$python" same.py types.pt back.pt
claim "a state_dict called net" convert called_net.pt net.safetensors
claim "what is no tensor, or of another type, beside the network" convert beside.pt p.safetensors --arch vgg16 --width 0.25
cp output told
claim "is left out, and counted" grep -qF ", 4 more that are beside the network are left out" told
claim "and the model is the same" cmp p.safetensors vgg16.safetensors
claim "an extra state that is no tensor, without an architecture" convert extra.pt p.safetensors
refused "a type that model files do not have, in the network" "'features.0.weight' is torch.complex64" \
    convert within.pt o.safetensors --arch vgg16
claim "a width and a normalisation of many digits" convert vgg16.pt p.safetensors --arch vgg16 --width 0.12345678901234567 \
    --mean 0.1,0.30000000000000004,0.3333333333333333 --deviation 0.25,1e-3,0.2
claim "stay what they are" grep -qF '"mean": "0.1,0.30000000000000004,0.3333333333333333", "deviation": "0.25,0.001,0.2"' p.safetensors
claim "to the last digit" grep -qF '"width": "0.12345678901234566"' p.safetensors
cat >narrow.c <<'C'
#include <stdlib.h>
#include "l2ladv.h"
int main(int argc, char **argv) /* ARCH WIDTH FILE */
{
    l2l_options o = l2l_options_default();
    l2l_context *c = l2l_context_create(&o);
    l2l_model_options how = l2l_model_default(argc == 4 ? argv[1] : "");
    l2l_model *m;
    bool ok;
    how.width_multiplier = argc == 4 ? atof(argv[2]) : 0;
    m = l2l_model_create(c, &how);
    ok = m && l2l_model_save(m, argv[3]);
    l2l_model_free(m);
    l2l_context_free(c);
    return !ok;
}
C
claim "a program that makes a model of a width" "${CC:-cc}" -std=c99 -O1 -I"$(dirname "$tests")" \
    -o narrow narrow.c implementation.o -lm
for width in 0.05 0.25 0.3 0.44; do # of 0.3 the 4-layer CNN has layers that 64/200 does not give
    for arch in smallcnn vgg16 resnet18; do
        { ./narrow $arch $width n.safetensors && convert n.safetensors n.pt &&
            convert n.pt o.safetensors --arch $arch && ./again o.safetensors again.safetensors; } >output 2>&1
        verdict "$arch x$width: a width that is not given follows from the shapes of all layers" $?
    done
done
rm -f o.safetensors
claim "a whole module with --trust" convert object.pt object.safetensors --trust
claim "--help" convert --help

refused "a whole module without --trust" "--trust" convert object.pt o.safetensors
refused "a type that model files do not have" "'a' is torch.complex64" convert complex.pt o.safetensors
refused "a number where a tensor should be" "'a' is no tensor, but int" convert number.pt o.safetensors
refused "a file that is not there" "nowhere.pt: No such file" convert nowhere.pt o.safetensors
refused "a model file that is not there" "nowhere.safetensors: No such file" convert nowhere.safetensors o.pt
refused "a folder that is not there" "nowhere/o.safetensors" convert vgg16.pt nowhere/o.safetensors
refused "a folder that is not there, on the way back" "nowhere/o.pt" convert vgg16.safetensors nowhere/o.pt
mkdir there
echo old >there/file.safetensors
chmod 640 there/file.safetensors
ln -s there/file.safetensors link.safetensors
claim "to a file behind a link" convert vgg16.pt link.safetensors --arch vgg16
claim "which stays a link" test -L link.safetensors
claim "to the same bytes" cmp there/file.safetensors vgg16.safetensors
claim "with the mode of the old file, and nothing beside it" \
    sh -c 'ls -l there | grep -q "^-rw-r----- .*file.safetensors" && [ "$(ls there | wc -l)" -eq 1 ]'
mkfifo pipe.safetensors
cat pipe.safetensors >got &
claim "into a pipe" convert vgg16.pt pipe.safetensors --arch vgg16
wait
claim "whose reader gets it" cmp got vgg16.safetensors
claim "and which stays one" test -p pipe.safetensors
if [ "$(id -u)" -eq 0 ]; then
    chown 1234:2345 there/file.safetensors
    claim "by root, over another user's file" convert vgg16.pt there/file.safetensors --arch vgg16
    claim "which stays that user's" sh -c '[ "$(stat -c "%u %g %a" there/file.safetensors)" = "1234 2345 640" ]'
    chown 0:0 there/file.safetensors
else
    echo "skipped: another user's file, for which one must be root"
fi
(ulimit -f 8 && trap '' XFSZ && convert vgg16.pt there/file.safetensors) >output 2>&1
[ $? -eq 1 ] && grep -q 'convert.py: there/file.safetensors: ' output && ! grep -q Traceback output &&
    cmp -s there/file.safetensors vgg16.safetensors && [ "$(ls there | wc -l)" -eq 1 ]
verdict "a full disk leaves the old file, and nothing beside it" $?
(ulimit -c 0 && ulimit -f 8 && trap '' XFSZ && convert vgg16.safetensors there/full.pt) >output 2>&1
[ $? -eq 1 ] && [ "$(cat output)" = "convert.py: there/full.pt: File too large" ] && [ "$(ls there)" = file.safetensors ]
verdict "and is told of where a checkpoint is written" $?
refused "no model file" "must end in .safetensors" convert vgg16.pt o.pt
refused "another architecture" "not a resnet18" convert vgg16.pt o.safetensors --arch resnet18
refused "a width without an architecture" "need --arch" convert vgg16.pt o.safetensors --width 2
refused "two means for three channels" "2 numbers for 3 channels" \
    convert vgg16.pt o.safetensors --arch vgg16 --mean 0,0 --deviation 1,1
refused "a mean without a deviation" "go together" convert vgg16.pt o.safetensors --arch vgg16 --mean 0,0,0
head -c 100000 vgg16.pt >cut.pt
refused "a checkpoint that is cut off" "cut.pt: damaged" convert cut.pt o.safetensors
head -c 100000 vgg16.safetensors >cut.safetensors
refused "a model file that is cut off" "cut off" convert cut.safetensors o.pt
head -c 5 vgg16.safetensors >head.safetensors
refused "a model file of five bytes" "not a safetensors file" convert head.safetensors o.pt
cp vgg16.pt posing.safetensors
refused "a checkpoint that poses as a model file" "not a safetensors file" convert posing.safetensors o.pt
cp vgg16.safetensors posing.pt
refused "a model file that poses as a checkpoint" "posing.pt: damaged" convert posing.pt o.safetensors
bytes() { "$python" -c 'import struct, sys; t = sys.argv[1].encode(); sys.stdout.buffer.write(struct.pack("<Q", len(t)) + t)' "$1"; }
for header in '{"__metadata__": [1]}' '{"__metadata__": "x"}' '{"__metadata__": {"arch": 1}}' '{"__metadata__": null}' \
    '[]' '3' '"x"' 'null' '{"a": 1}' '{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 0]}}' \
    '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}' '{"a": {"dtype": "F32", "shape": [true], "data_offsets": 0}}' '{"a": {"dtype": [], "shape": [], "data_offsets": 0}}'; do
    bytes "$header" >odd.safetensors
    refused "a model file with the header $header" "convert.py: odd.safetensors: " convert odd.safetensors o.pt
done
bytes '{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 0]}}' >odd.safetensors
refused "a tensor of four terabytes that are not there" "'a' cannot be bytes 0 to 0 of 0: cut off or damaged" convert odd.safetensors o.pt
bytes '{}' >odd.safetensors
refused "a model file without tensors" "not a vgg16, which has 'features.0.weight' and 'classifier.weight'; this file has no tensors" \
    convert odd.safetensors o.safetensors --arch vgg16
"$python" -c 'import torch; torch.save({n: torch.ones(2) for n in ("features.0.weight", "classifier.weight")}, "flat.pt"); torch.save({"features.0.weight": torch.ones(2), "classifier.weight": torch.ones(2, 2)}, "flat2.pt")'
refused "layers without dimensions" "not a vgg16" convert flat.pt o.safetensors --arch vgg16
refused "a first layer without dimensions" "has 1 dimensions, not 4" convert flat2.pt o.safetensors --arch vgg16
cp vgg16.pt input.pt
ln -s input.pt itself.safetensors
ln input.pt hard.safetensors
refused "writing over the input, by a link" "is the file that is read" convert input.pt itself.safetensors
refused "by another name of it" "is the file that is read" convert input.pt hard.safetensors
claim "which stays as it was" cmp input.pt vgg16.pt
claim "what is refused leaves no file" sh -c "! ls o.safetensors o.pt"
finish
