#!/usr/bin/python3
"""The speed of PyTorch at the work of examples/bench.c.

    python3 tests/peer/bench.py [--all] [--width W] [--depth D] ARCH BATCH THREADS

ARCH is smallcnn, vgg16, wrn or resnet18; the last two measures are for smallcnn, or with --all. Prints one JSON object, images per second, the best of several runs and of both memory layouts:

    forward     logits without gradient, in evaluation mode
    input_grad  logits, cross-entropy and its gradient with respect to the images only
    train       a training step: all parameter gradients, SGD with momentum, training mode
    pgd_step    10 steps of PGD from the clean images, and a training step on their result
    rnn_step    10 steps of an LSTM of hidden size 10 (the sign of the gradient in, epsilon * tanh
                out), the update of the LSTM, first order, and a training step
"""
import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import models  # the file beside this one

EPSILON, STEPS = 0.3, 10


class Bench:
    def __init__(self, a, layout):
        torch.manual_seed(0)
        _, shape, classes, _, _ = models.ARCHS[a.arch]
        self.net = models.make(a.arch, a.width, a.depth).to(memory_format=layout).eval()
        self.x = torch.rand(a.batch, *shape).contiguous(memory_format=layout)
        self.y = torch.arange(a.batch) % classes
        self.low, self.high = (self.x - EPSILON).clamp_(min=0), (self.x + EPSILON).clamp_(max=1)
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=1e-4, momentum=0.9)
        self.cell, self.out = nn.LSTMCell(1, 10), nn.Linear(10, 1)
        self.adam = torch.optim.Adam([*self.cell.parameters(), *self.out.parameters()], lr=1e-3)

    def project(self, z):
        return torch.min(torch.max(z, self.low), self.high)

    def gradient(self, z):
        z = z.detach().requires_grad_(True)
        g, = torch.autograd.grad(F.cross_entropy(self.net(z), self.y, reduction="sum"), z)
        return g

    def train_on(self, z):
        self.net.train()
        self.sgd.zero_grad()
        F.cross_entropy(self.net(z), self.y).backward()
        self.sgd.step()
        self.net.eval()

    def forward(self):
        with torch.no_grad():
            self.net(self.x)

    def input_grad(self):
        self.gradient(self.x)

    def train(self):
        self.train_on(self.x)

    def pgd_step(self):
        z = self.x
        for _ in range(STEPS):
            z = self.project(z + EPSILON / 4 * self.gradient(z).sign())
        self.train_on(z)

    def rnn_step(self):
        """sum_t t <g_t, x'_t> has the gradient of sum_t t L(x'_t) in the LSTM's parameters."""
        z, state, gain = self.project(self.x + 0.001 * torch.randn_like(self.x)), None, 0.0
        g = self.gradient(z)
        for t in range(1, STEPS + 1):
            state = self.cell(g.sign().reshape(-1, 1), state)
            z = self.project(z + EPSILON * torch.tanh(self.out(state[0])).view_as(z))
            g = self.gradient(z)
            gain = gain + t * (g * z).sum() / len(z)
        self.adam.zero_grad()
        (-gain).backward()
        self.adam.step()
        self.train_on(z.detach())


def rate(work, batch, seconds):
    """Best of 3 to 9 runs after one that does not count."""
    work()
    best, runs, start = float("inf"), 0, time.perf_counter()
    while runs < 3 or (runs < 9 and time.perf_counter() - start < seconds):
        begin = time.perf_counter()
        work()
        best, runs = min(best, time.perf_counter() - begin), runs + 1
    return round(batch / best, 2)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("arch", choices=list(models.ARCHS))
    p.add_argument("batch", type=int)
    p.add_argument("threads", type=int)
    p.add_argument("--width", type=float, default=0, help="0: as it is")
    p.add_argument("--depth", type=int, default=0)
    p.add_argument("--all", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    result = {"arch": a.arch, "batch": a.batch, "threads": a.threads, "torch": torch.__version__}
    jobs = [("forward", 4), ("input_grad", 4), ("train", 4)]
    if a.all or a.arch == "smallcnn":
        jobs += [("pgd_step", 8), ("rnn_step", 8)]
    for layout in (torch.contiguous_format, torch.channels_last):
        bench = Bench(a, layout)
        for name, seconds in jobs:
            result[name] = max(result.get(name, 0), rate(getattr(bench, name), a.batch, seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
