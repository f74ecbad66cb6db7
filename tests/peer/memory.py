#!/usr/bin/python3
"""By how much a training step raises the resident memory of PyTorch: the twin of
examples/bin/bench --memory.

    python3 tests/peer/memory.py [--channels-last] [--width W] [--depth D] ARCH BATCH THREADS

ARCH is smallcnn, vgg16, wrn or resnet18. Resident memory with network, optimizer (its momentum
included) and data made, against the peak over three training steps: all parameter gradients, SGD
with momentum, training mode. Prints one JSON object, sizes in bytes. Linux only. Each measurement
needs a process of its own.
"""
import argparse
import json

import torch
import torch.nn.functional as F

import models  # the file beside this one


def status(key):
    """An entry of /proc/self/status that is given in kB, in bytes."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith(key + ":"):
                return 1024 * int(line.split()[1])
    raise SystemExit("memory.py: /proc/self/status has no " + key)


def forget_peak():
    """The peak so far shall not count; where that is not allowed, it does."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("arch", choices=list(models.ARCHS))
    p.add_argument("batch", type=int)
    p.add_argument("threads", type=int)
    p.add_argument("--width", type=float, default=0, help="0: as it is")
    p.add_argument("--depth", type=int, default=0)
    p.add_argument("--channels-last", action="store_true", help="that memory layout")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    layout = torch.channels_last if a.channels_last else torch.contiguous_format
    _, shape, classes, _, _ = models.ARCHS[a.arch]
    net = models.make(a.arch, a.width, a.depth).to(memory_format=layout).train()
    x = torch.rand(a.batch, *shape).contiguous(memory_format=layout)
    y = torch.arange(a.batch) % classes
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    for w in net.parameters():  # else the first step would make it; written to, so that it is there
        sgd.state[w]["momentum_buffer"] = torch.empty_like(w).fill_(0)
    forget_peak()
    before = status("VmRSS")
    for _ in range(3):
        sgd.zero_grad()
        F.cross_entropy(net(x), y).backward()
        sgd.step()
    peak = status("VmHWM")
    print(json.dumps({"arch": a.arch, "batch": a.batch, "threads": a.threads, "before": before,
                      "peak": peak, "growth": peak - before, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
