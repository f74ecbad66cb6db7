#!/usr/bin/python3
"""Writes one of the four networks as ONNX, for ort.js:   ort.py ARCH BATCH FILE.onnx [--width W] [--depth D]"""
import argparse
import warnings

import torch

import models  # the file beside this one

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("arch", choices=list(models.ARCHS))
p.add_argument("batch", type=int)
p.add_argument("file")
p.add_argument("--width", type=float, default=0)
p.add_argument("--depth", type=int, default=0)
a = p.parse_args()
torch.manual_seed(0)
net = models.make(a.arch, a.width, a.depth).eval()
x = torch.rand(a.batch, *models.ARCHS[a.arch][1])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.onnx.export(net, x, a.file, input_names=["x"], output_names=["logits"], opset_version=13)
