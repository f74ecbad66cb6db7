#!/usr/bin/env python3
"""Moves classifiers between PyTorch and the model files of l2ladv.h (safetensors).

    python3 convert.py checkpoint.pt model.safetensors --arch vgg16
    python3 convert.py model.safetensors checkpoint.pt

Which way it goes follows from the name that ends in .safetensors. The first way takes a state_dict,
or a dictionary that holds one as 'state_dict', 'model_state_dict', 'model' or 'net', and strips a
'module.' in front of all names. --arch and what goes with it are written into the file's metadata,
so that the programs need no --arch; a width, depth, number of classes or of channels that is not
given is taken from the tensors' shapes. The way back writes a plain state_dict, for
net.load_state_dict(torch.load(...)). Types and values stay what they are. Needs PyTorch only.
"""
import argparse
import ctypes
import json
import os
import struct
import sys

import torch

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64}
# The first and the last layer, and what the last one takes at width 1.
ARCHS = {"smallcnn": ("feature_extractor.conv1.weight", "classifier.fc3.weight", 200),
         "vgg16": ("features.0.weight", "classifier.weight", 512),
         "wrn": ("conv1.weight", "fc.weight", 64),
         "resnet18": ("conv1.weight", "fc.weight", 512)}


def load_checkpoint(path, trust):
    try:
        value = torch.load(path, map_location="cpu", **({} if trust else {"weights_only": True}))
    except OSError as e:
        sys.exit("convert.py: %s: %s" % (path, e.strerror or e))
    except Exception as e:  # by version: UnpicklingError, RuntimeError, TypeError, EOFError, ...
        reason = (str(e).splitlines() or [type(e).__name__])[0][:300]
        sys.exit("convert.py: %s: not a PyTorch file, cut off, or more than tensors: %s%s" % (
            path, reason, "" if trust else "\n(--trust loads pickled objects too; that runs "
            "whatever code the file contains: only for files whose origin you trust)"))
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(value, dict) and key in value and not torch.is_tensor(value[key]):
            value = value[key]
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if not isinstance(value, dict) or not value:
        sys.exit("convert.py: %s: holds no state_dict but %s" % (path, type(value).__name__))
    if all(str(name).startswith("module.") for name in value):
        value = {name[len("module."):]: tensor for name, tensor in value.items()}
    for name, tensor in value.items():
        if not isinstance(name, str) or not torch.is_tensor(tensor):
            sys.exit("convert.py: %s: '%s' is %s, not a tensor" % (path, name, type(tensor).__name__))
        if tensor.dtype not in TYPES.values() or tensor.layout != torch.strided:
            sys.exit("convert.py: %s: '%s' is of type %s, %s; a model file holds dense %s" % (
                path, name, tensor.dtype, tensor.layout, ", ".join(TYPES)))
    return {name: tensor.detach().contiguous() for name, tensor in value.items()}


def describe(a, tensors):
    """The metadata that l2ladv.h reads."""
    if not a.arch:
        return {"format": "pt"}
    first, last, unit = ARCHS[a.arch]
    for name, rank in ((first, 4), (last, 2)):
        if name not in tensors or tensors[name].dim() != rank:
            sys.exit("convert.py: %s: there is no '%s' with %d axes: not a %s; it begins with %s" % (
                a.source, name, rank, a.arch, ", ".join(list(tensors)[:4])))
    blocks = sum(name.startswith("block1.layer.") and name.endswith(".conv1.weight") for name in tensors)
    known = {"arch": a.arch, "classes": a.classes or tensors[last].shape[0],
             "width": a.width or tensors[last].shape[1] / unit,
             "depth": a.depth or (6 * blocks + 4 if a.arch == "wrn" else None),
             "channels": tensors[first].shape[1], "height": a.size[0], "image_width": a.size[1]}
    metadata = {"format": "pt"}
    metadata.update((k, v if k == "arch" else "%.9g" % v) for k, v in known.items() if v)
    for key, values in (("mean", a.mean), ("deviation", a.deviation)):
        if values and len(values) != known["channels"]:
            sys.exit("convert.py: --%s: %d numbers for %d channels" % (key, len(values), known["channels"]))
        if values:
            metadata[key] = ",".join("%.9g" % v for v in values)
    return metadata


def save_safetensors(path, tensors, metadata):
    header, offset = {"__metadata__": metadata}, 0
    names = {dtype: name for name, dtype in TYPES.items()}
    for name, t in tensors.items():
        end = offset + t.numel() * t.element_size()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(ctypes.string_at(t.data_ptr(), t.numel() * t.element_size()))


def load_safetensors(path):
    try:
        with open(path, "rb") as f:
            data = f.read()
        length, = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("%d bytes, but a header of %d" % (len(data), length))
        header, data = json.loads(data[8:8 + length].decode()), data[8 + length:]
        metadata, tensors, total = header.pop("__metadata__", {}), {}, 0
        for name, e in header.items():
            begin, end = e["data_offsets"]
            if e["dtype"] not in TYPES:
                raise ValueError("'%s' is of type %s, not %s" % (name, e["dtype"], ", ".join(TYPES)))
            t = torch.empty(e["shape"], dtype=TYPES[e["dtype"]])
            if not 0 <= begin <= end <= len(data) or end - begin != t.numel() * t.element_size():
                raise ValueError("'%s' should be bytes %d to %d of %d: cut off or damaged" % (
                    name, begin, end, len(data)))
            ctypes.memmove(t.data_ptr(), data[begin:end], end - begin)
            tensors[name], total = t, total + end - begin
        if total != len(data):
            raise ValueError("%d bytes belong to no tensor" % (len(data) - total))
    except OSError as e:
        sys.exit("convert.py: %s: %s" % (path, e.strerror))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error) as e:
        sys.exit("convert.py: %s: not a safetensors file: %s" % (path, e))
    return tensors, metadata


def main():
    numbers = lambda text: [float(v) for v in text.split(",")]  # noqa: E731
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", help="the file to read")
    p.add_argument("target", help="the file to write; one of the two ends in .safetensors")
    p.add_argument("--arch", choices=list(ARCHS), help="what the programs' --arch is to be")
    p.add_argument("--width", type=float, help="of wrn the widening factor, else the multiplier")
    p.add_argument("--depth", type=int, help="of wrn")
    p.add_argument("--classes", type=int)
    p.add_argument("--size", type=int, nargs=2, default=(0, 0), metavar=("H", "W"),
                   help="of the images, if it is not the architecture's own")
    p.add_argument("--mean", type=numbers, metavar="A,B,C", help="the model is to take images in "
                   "[0,1] and see (image - mean) / deviation; one number for each channel")
    p.add_argument("--deviation", type=numbers, metavar="A,B,C")
    p.add_argument("--trust", action="store_true",
                   help="load pickled objects too, which runs whatever code the checkpoint contains")
    a = p.parse_args()
    back = a.source.endswith(".safetensors")
    if back == a.target.endswith(".safetensors"):
        p.error("exactly one of the two names must end in .safetensors")
    if bool(a.mean) != bool(a.deviation):
        p.error("--mean and --deviation go together")
    if a.deviation and min(a.deviation) <= 0:
        p.error("--deviation: every number must be above 0")
    if not a.arch and (a.width or a.depth or a.classes or a.mean or any(a.size)):
        p.error("--width, --depth, --classes, --size and --mean need --arch")
    if sys.byteorder != "little":
        sys.exit("convert.py: this script copies bytes as they are and needs a little-endian machine")
    try:
        if back:
            tensors, metadata = load_safetensors(a.source)
            torch.save(tensors, a.target + ".part")
        else:
            tensors = load_checkpoint(a.source, a.trust)
            metadata = describe(a, tensors)
            save_safetensors(a.target + ".part", tensors, metadata)
        os.replace(a.target + ".part", a.target)
    except OSError as e:
        sys.exit("convert.py: %s: %s" % (a.target, e.strerror))
    print("%s: %d tensors; %s" % (a.target, len(tensors),
                                  ", ".join("%s %s" % m for m in metadata.items()) or "no metadata"))


if __name__ == "__main__":
    main()
