#!/usr/bin/env python3
"""Makes the small MNIST that ships with the examples: 2,000 training and 500 test images.

usage: make_embedded.py MNIST_DIR [OUT_DIR]

MNIST_DIR holds the four unpacked MNIST files (datasets.sh mnist MNIST_DIR fetches them), OUT_DIR
(default: this script's folder) gets four files of the same names and format. Of each class the
first 200 training and the first 50 test images are taken. Images 10k to 10k + 9 are the k-th one of
each class, in the order of the full files, so that any slice (the first N, the last N for
validation) has all classes alike. Nothing is random: the output always has the same bytes.
"""
import hashlib
import os
import struct
import sys

CLASSES = 10
SUBSETS = (("train", 200), ("t10k", 50))  # (first part of the file names, images per class)


def read_idx(path, magic, ndim):
    """Returns the dimensions and the bytes of an IDX file of unsigned bytes."""
    with open(path, "rb") as f:
        data = f.read()
    head = 4 + 4 * ndim
    if len(data) < head or struct.unpack(">I", data[:4])[0] != magic:
        sys.exit(f"{path}: not an IDX file of the expected kind")
    dims = struct.unpack(f">{ndim}I", data[4:head])
    size = 1
    for d in dims:
        size *= d
    if len(data) != head + size:
        sys.exit(f"{path}: {len(data)} bytes, its header says {head + size}")
    return dims, data[head:]


def write_idx(path, magic, dims, data):
    blob = struct.pack(f">{1 + len(dims)}I", magic, *dims) + data
    with open(path, "wb") as f:
        f.write(blob)
    print(hashlib.sha256(blob).hexdigest(), os.path.basename(path), len(blob), "bytes")


def choose(labels, per_class):
    """Indices of the first per_class images of each class: the first of each, the second, ..."""
    members = [[] for _ in range(CLASSES)]
    for i, label in enumerate(labels):
        if label >= CLASSES:
            sys.exit(f"label {label} at index {i}: MNIST has {CLASSES} classes")
        members[label].append(i)
    if min(len(m) for m in members) < per_class:
        sys.exit(f"fewer than {per_class} images of some class")
    return [i for k in range(per_class) for i in sorted(m[k] for m in members)]


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip())
    source = sys.argv[1]
    out = sys.argv[2] if len(sys.argv) == 3 else os.path.dirname(os.path.abspath(__file__))
    # The output has the names of the input: writing into MNIST_DIR would destroy the full set.
    if os.path.realpath(source) == os.path.realpath(out):
        sys.exit("MNIST_DIR and OUT_DIR must differ")
    for part, per_class in SUBSETS:
        image_name, label_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        (n, rows, cols), pixels = read_idx(os.path.join(source, image_name), 0x803, 3)
        (n_labels,), labels = read_idx(os.path.join(source, label_name), 0x801, 1)
        if n != n_labels:
            sys.exit(f"{part}: {n} images but {n_labels} labels")
        keep = choose(labels, per_class)
        size = rows * cols
        few_pixels = b"".join(pixels[i * size:(i + 1) * size] for i in keep)
        few_labels = bytes(labels[i] for i in keep)
        write_idx(os.path.join(out, image_name), 0x803, (len(keep), rows, cols), few_pixels)
        write_idx(os.path.join(out, label_name), 0x801, (len(keep),), few_labels)


if __name__ == "__main__":
    main()
