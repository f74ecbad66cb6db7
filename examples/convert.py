#!/usr/bin/env python3
"""Moves classifiers between PyTorch and the model files of l2ladv.h (safetensors).

    python3 convert.py checkpoint.pt model.safetensors --arch vgg16
    python3 convert.py model.safetensors checkpoint.pt
    python3 convert.py other.safetensors model.safetensors --arch resnet18

Which way follows from the names that end in .safetensors. A model file is made from a state_dict,
from a dictionary that holds one as 'state_dict', 'model_state_dict', 'model' or 'net' (or holds such
a dictionary), or from tensors that another program saved as safetensors. What wrappers put into the
names goes: the 'module.' of DataParallel, the '_orig_mod.' of torch.compile, a 'model.' before all of
them. An input normalisation that is saved beside the network, as the package robustness does,
becomes the model's own. With --arch the programs know the model from its file; a width, a depth or a
number of classes that is not given follows from the tensors' shapes. The way back writes a plain
state_dict, for net.load_state_dict(torch.load(...)). Needs PyTorch, nothing else.
"""
import argparse
import collections
import contextlib
import ctypes
import errno
import inspect
import io
import json
import os
import stat
import struct
import sys
import tempfile

import torch

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
         "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in TYPES.items()}
# The first layer, the last layer, and the features that the last one takes at width 1.
ARCHS = {"smallcnn": ("feature_extractor.conv1.weight", "classifier.fc3.weight", 200),
         "vgg16": ("features.0.weight", "classifier.weight", 512),
         "wrn": ("conv1.weight", "fc.weight", 64),
         "resnet18": ("conv1.weight", "fc.weight", 512)}
# Layers of as many channels or features at width 1.
LAYERS = {"smallcnn": {"feature_extractor.conv1": 32, "feature_extractor.conv3": 64, "classifier.fc1": 200},
          "vgg16": {"features.0": 64, "features.7": 128, "features.14": 256, "features.24": 512},
          "wrn": {"block%d.layer.0.conv1" % i: 8 << i for i in (1, 2, 3)},
          "resnet18": dict({"layer%d.0.conv1" % i: 32 << i for i in (2, 3, 4)}, conv1=64)}
# What the names of a network begin with, and end in.
PARTS = {"smallcnn": ("feature_extractor", "classifier"), "vgg16": ("features", "classifier"),
         "wrn": ("conv1", "block1", "block2", "block3", "bn1", "fc"),
         "resnet18": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")}
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# Under which names checkpoints hold a state_dict, and what modules around a network call it.
HOLDERS = ("state_dict", "model_state_dict", "model", "net")
WRAPPERS = ("module", "_orig_mod")
# An input normalisation beside the network: mean, deviation, the network's own prefix.
NORMALISERS = (("normalizer.new_mean", "normalizer.new_std", "model."),
               ("normalize.mean", "normalize.std", "model."),
               ("0.mean", "0.std", "1."), ("mean", "std", ""), ("mu", "sigma", ""))
TRUST = """
--trust loads pickled objects too; that runs whatever code the file contains, so do it only with a
file whose origin you trust"""


Odd = collections.namedtuple("Odd", "reason")  # in place of a tensor that cannot be one


def fail(path, reason):
    sys.exit("convert.py: %s: %s" % (path, reason))


def load_checkpoint(path, trust):
    can = "weights_only" in inspect.signature(torch.load).parameters
    if not can and not trust:
        fail(path, "PyTorch %s cannot load tensors only%s" % (torch.__version__, TRUST))
    try:
        value = torch.load(path, map_location="cpu", **({"weights_only": not trust} if can else {}))
    except OSError as e:
        fail(path, e.strerror or e)
    except Exception as e:  # of many types: damaged archives and forbidden objects
        fail(path, "damaged, not PyTorch's, or not tensors only: %s: %s%s" % (
            type(e).__name__, str(e).split("\n")[0][:200], "" if trust else TRUST))
    holder = True
    while holder and isinstance(value, dict):
        holder = next((k for k in HOLDERS if isinstance(value.get(k), (dict, torch.nn.Module))), None)
        value = value[holder] if holder else value
    value = value.state_dict() if isinstance(value, torch.nn.Module) else value
    if not isinstance(value, dict) or not value:
        fail(path, "no state_dict, but %s" % type(value).__name__)
    tensors = {}
    for name, t in value.items():
        if not isinstance(name, str):
            fail(path, "'%s' is no name, but %s" % (name, type(name).__name__))
        if not torch.is_tensor(t):
            tensors[name] = Odd("no tensor, but %s" % type(t).__name__)
        elif t.dtype not in NAMES or t.layout != torch.strided:
            tensors[name] = Odd("%s, %s; known are dense %s" % (t.dtype, t.layout, ", ".join(TYPES)))
        else:
            tensors[name] = t.detach().contiguous()
    return tensors


def own(path, tensors, arch):
    """The tensors without what a file has beside the network and cannot be kept: what a module calls its
    extra state, and names that the architecture, if it is known, does not have."""
    for name, t in tensors.items():
        first, last = name.split(".")[0], name.split(".")[-1]
        beside = last == "_extra_state" or (arch in PARTS and not (first in PARTS[arch] and last in LEAVES))
        if isinstance(t, Odd) and not beside:
            fail(path, "'%s' is %s" % (name, t.reason))
    return {name: t for name, t in tensors.items() if not isinstance(t, Odd)}


def unwrap(tensors):
    """The names without what wrappers put into them. A wrapper holds one module and nothing else: only a
    part of a name that has no other beside it goes, and 'model' only with all that is before it."""
    beside = collections.defaultdict(set)
    for name in tensors:
        parts = name.split(".")
        for i, part in enumerate(parts):
            beside[tuple(parts[:i])].add(part)
    result = {}
    for name, t in tensors.items():
        parts, kept = name.split("."), []
        for i, part in enumerate(parts):
            alone = len(beside[tuple(parts[:i])]) == 1 and i + 1 < len(parts)
            if not (alone and (part in WRAPPERS or (part == "model" and not kept))):
                kept.append(part)
        result[".".join(kept)] = t
    return result if len(result) == len(tensors) else tensors


def tidy(path, tensors):
    """The network's own tensors, and the mean and deviation of a normalisation beside it."""
    tensors = unwrap(tensors)
    if "n_averaged" in tensors:  # of torch.optim.swa_utils, beside 'module.'
        tensors = unwrap({n: t for n, t in tensors.items() if n != "n_averaged"})
    for mean, deviation, prefix in NORMALISERS:
        if mean in tensors and deviation in tensors and any(n.startswith(prefix) for n in tensors):
            break
    else:
        return tensors, None
    for name in (mean, deviation):
        if isinstance(tensors[name], Odd):
            fail(path, "'%s' is %s" % (name, tensors[name].reason))
    norm = [tensors[n].double().flatten().tolist() for n in (mean, deviation)]
    if len(norm[0]) != len(norm[1]) or not all(0 < d < float("inf") for d in norm[1]) or \
            not all(abs(m) < float("inf") for m in norm[0]):
        fail(path, "'%s' and '%s' are no mean and deviation of channels" % (mean, deviation))
    # robustness also has all of it under 'attacker.': the same tensors, once more.
    for name, t in tensors.items():
        twin = tensors.get(name[len("attacker."):])
        if name.startswith("attacker." + prefix) and twin is not None and \
                not (t == twin if isinstance(t, Odd) or isinstance(twin, Odd) else torch.equal(t, twin)):
            fail(path, "'%s' differs from '%s'" % (name, name[len("attacker."):]))
    inner = {n[len(prefix):]: t for n, t in tensors.items() if n.startswith(prefix) and n not in (mean, deviation)}
    return unwrap(inner), norm


def exact(v):
    """The number as text that is read as the same number."""
    text = "%.9g" % v
    return text if float(text) == v else repr(float(v))


def describe(a, tensors, norm):
    """What l2ladv.h reads of a file's metadata. A normalisation that is given goes before the file's own."""
    metadata = {"format": "pt"}
    for key, given, found in zip(("mean", "deviation"), (a.mean, a.deviation), norm or (None, None)):
        if given or found:
            metadata[key] = ",".join(map(exact, given or found))
    if not a.arch:
        return metadata
    first, last, unit = ARCHS[a.arch]
    if first not in tensors or last not in tensors or tensors[last].dim() != 2:
        fail(a.source, "not a %s, which has '%s' and '%s'; this file %s" % (
            a.arch, first, last, "begins with '%s'" % next(iter(tensors)) if tensors else "has no tensors"))
    if tensors[first].dim() != 4:
        fail(a.source, "not a %s: '%s' has %d dimensions, not 4" % (a.arch, first, tensors[first].dim()))
    blocks = len([n for n in tensors if n.startswith("block1.layer.") and n.endswith(".conv1.weight")])
    channels = tensors[first].shape[1]
    known = {"classes": a.classes or tensors[last].shape[0],
             "width": a.width or width_of(a.arch, tensors, tensors[last].shape[1] / unit),
             "depth": (a.depth or 6 * blocks + 4) if a.arch == "wrn" else 0, "channels": channels,
             "height": a.size and a.size[0], "image_width": a.size and a.size[1]}
    metadata.update({key: exact(v) for key, v in known.items() if v}, arch=a.arch)
    for key in ("mean", "deviation"):
        given = metadata[key].count(",") + 1 if key in metadata else channels
        if given != channels:
            fail("--" + key if a.mean else "%s: %s" % (a.source, key), "%d numbers for %d channels" % (given, channels))
    return metadata


def place(path, write):
    """Writes a file as l2ladv.h does: whole or not at all, behind a link, with the old file's mode; what is
    no regular file in place."""
    there = os.path.exists(path)
    if there and (not os.path.isfile(path) or path.startswith(("/dev/", "/proc/"))):
        with open(path, "wb") as f:
            return write(f)
    path = os.path.realpath(path)
    if there and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    descriptor, beside = tempfile.mkstemp(".tmp", os.path.basename(path)[:50] + ".", os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as f:
            write(f)
        mask = os.umask(0)
        os.umask(mask)
        if there and hasattr(os, "chown"):
            old, new = os.stat(path), os.stat(beside)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                with contextlib.suppress(PermissionError):  # only root can give a file away
                    os.chown(beside, old.st_uid, old.st_gid)
        os.chmod(beside, stat.S_IMODE(os.stat(path).st_mode) & 0o777 if there else 0o666 & ~mask)
        os.replace(beside, path)
    except BaseException:  # also ctrl-C
        os.unlink(beside)
        raise


def width_of(arch, tensors, features):
    """The shortest number that, as the header rounds to multiples of 8, makes the layers as wide as they
    are; where none does, that of the last one's features."""
    seen = [(channels, tensors[name + ".weight"].shape[0]) for name, channels in LAYERS[arch].items()
            if name + ".weight" in tensors and tensors[name + ".weight"].dim() > 1]
    for digits in range(5):
        around = int(features * 10 ** digits)
        for w in sorted(range(around - 10 ** digits, around + 10 ** digits + 1), key=lambda w: abs(w - around)):
            w /= 10 ** digits
            if w > 0 and all(max(int(w * channels / 8 + 0.5) * 8, 8) == n for channels, n in seen):
                return w
    return features


def save_pickled(f, tensors):
    """By way of memory: where a file takes no more, PyTorch's own writing ends the process."""
    whole = io.BytesIO()
    torch.save(tensors, whole)
    f.write(whole.getbuffer())


def save_safetensors(f, tensors, metadata):
    header, offset = {"__metadata__": metadata}, 0
    for name, t in tensors.items():
        end = offset + t.numel() * t.element_size()
        header[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    f.write(struct.pack("<Q", len(text)) + text)
    for t in tensors.values():
        f.write(ctypes.string_at(t.data_ptr(), t.numel() * t.element_size()))


def load_safetensors(path):
    try:
        with open(path, "rb") as f:
            data = f.read()
        length = struct.unpack_from("<Q", data)[0]
        header, data = json.loads(data[8:8 + length].decode()), data[8 + length:]
        if not isinstance(header, dict):
            fail(path, "the header is no dictionary, but %s" % type(header).__name__)
        metadata, tensors, total = header.pop("__metadata__", {}), {}, 0
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            fail(path, "__metadata__ is no dictionary of texts")
        for name, entry in header.items():
            (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], TYPES.get(entry["dtype"])
            count = 1
            for n in shape:
                if not isinstance(n, int) or n < 0:
                    fail(path, "'%s' has the shape %s" % (name, shape))
                count *= n
            size = dtype and count * torch.empty(0, dtype=dtype).element_size()
            if not 0 <= begin <= end <= len(data) or (dtype and end - begin != size):
                fail(path, "'%s' cannot be bytes %d to %d of %d: cut off or damaged" % (name, begin, end, len(data)))
            total += end - begin
            if not dtype:
                tensors[name] = Odd("%s; known are %s" % (entry["dtype"], ", ".join(TYPES)))
                continue
            tensors[name] = torch.empty(shape, dtype=dtype)
            ctypes.memmove(tensors[name].data_ptr(), data[begin:end], end - begin)
    except OSError as e:
        fail(path, e.strerror)
    except Exception as e:  # of many types: whatever is wrong with the header
        fail(path, "not a safetensors file, cut off, or of a type not among %s: %s: %s" % (
            ", ".join(TYPES), type(e).__name__, str(e).split("\n")[0][:200]))
    if total != len(data):
        fail(path, "%d bytes of data, but the tensors take %d" % (len(data), total))
    return tensors, metadata


def tell(text):
    if sys.stdout is None:
        fail("standard output", "is closed")
    try:
        print(text, flush=True)
    except OSError as e:  # nothing more is tried at the end of the program
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        fail("standard output", e.strerror or e)


def numbers(text):
    return [float(v) for v in text.split(",")]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", help="the file to read")
    p.add_argument("target", help="the file to write")
    p.add_argument("--arch", choices=list(ARCHS))
    p.add_argument("--width", type=float, help="of wrn the widening factor, else the multiplier of channels")
    p.add_argument("--depth", type=int, help="of wrn")
    p.add_argument("--classes", type=int)
    p.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of images, if not the architecture's own")
    p.add_argument("--mean", type=numbers, metavar="A,B,C", help="for a network that was trained on "
                   "(image - mean) / deviation: one number for each channel, of images in [0,1]")
    p.add_argument("--deviation", type=numbers, metavar="A,B,C")
    p.add_argument("--trust", action="store_true", help="load any pickled object; this can run code in the file")
    a = p.parse_args()
    back = not a.target.endswith(".safetensors")
    stored = a.source.endswith(".safetensors")
    if back and not stored:
        p.error("one of the two names must end in .safetensors")
    if not a.arch and (a.width or a.depth or a.classes or a.size or a.mean):
        p.error("--width, --depth, --classes, --size, --mean and --deviation need --arch")
    if bool(a.mean) != bool(a.deviation) or (a.deviation and not min(a.deviation) > 0):
        p.error("--mean and --deviation go together, and deviations are above 0")
    if sys.byteorder != "little":
        sys.exit("convert.py: copies bytes as they are and needs a little-endian machine")
    if os.path.exists(a.target) and os.path.exists(a.source) and os.path.samefile(a.source, a.target):
        fail(a.target, "is the file that is read")
    tensors, metadata = load_safetensors(a.source) if stored else (load_checkpoint(a.source, a.trust), {})
    others = len(tensors)
    if not back:
        tensors, norm = tidy(a.source, tensors)
    tensors = own(a.source, tensors, a.arch or metadata.get("arch"))
    if not back:
        metadata = {**metadata, **describe(a, tensors, norm)}
    others -= len(tensors)
    try:
        place(a.target, lambda f: save_pickled(f, tensors) if back else save_safetensors(f, tensors, metadata))
    except OSError as e:
        fail(a.target, e.strerror or e)
    except RuntimeError as e:
        fail(a.target, e)
    tell("%s: %d tensors%s%s" % (a.target, len(tensors), "".join(", %s %s" % m for m in metadata.items()),
                                 ", %d more that are beside the network are left out" % others if others else ""))


if __name__ == "__main__":
    main()
