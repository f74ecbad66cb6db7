#!/usr/bin/python3
"""Compares the classifier with PyTorch in double precision, through the example programs.

    make -C examples && python3 tests/peer/gradients.py [SEEDS]

Random weights are written as safetensors, random images as .npy; examples/bin/gradients gives logits
and gradients. A model that examples/bin/train saved is read back, and PGD is run on both sides from
the same starting points. One line per quantity; the last line is "N passed, N failed".
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import safetensors  # the file beside this one

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
passed = failed = 0


def verdict(what, figure, allowed):
    """One line; smaller figures are better."""
    global passed, failed
    good = figure <= allowed  # false for NaN
    passed, failed = passed + good, failed + (not good)
    print("%s  %-66s %.2e, allowed %.0e" % ("ok  " if good else "FAIL", what, figure, allowed), flush=True)


def run(program, *arguments):
    command = [os.path.join(EXAMPLES, "bin", program)] + [str(a) for a in arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit("%s: status %d: %s" % (" ".join(command), done.returncode, done.stderr.decode()))
    return done.stdout.decode()


def channels(n, width):
    """A channel count under the width multiplier, in multiples of 8."""
    return max(8, int(width * n / 8 + 0.5) * 8)


class SmallCNN(nn.Module):
    """The 4-layer network of TRADES for 1x28x28, with its parameter names."""

    def __init__(self, width=1.0):
        super().__init__()
        a, b, f = (channels(n, width) for n in (32, 64, 200))
        self.feature_extractor = nn.ModuleDict({
            "conv1": nn.Conv2d(1, a, 3), "conv2": nn.Conv2d(a, a, 3),
            "conv3": nn.Conv2d(a, b, 3), "conv4": nn.Conv2d(b, b, 3)})
        self.classifier = nn.ModuleDict({
            "fc1": nn.Linear(16 * b, f), "fc2": nn.Linear(f, f), "fc3": nn.Linear(f, 10)})

    def forward(self, x):
        conv, fc = self.feature_extractor, self.classifier
        x = F.max_pool2d(F.relu(conv["conv2"](F.relu(conv["conv1"](x)))), 2)
        x = F.max_pool2d(F.relu(conv["conv4"](F.relu(conv["conv3"](x)))), 2)
        x = F.relu(fc["fc1"](x.flatten(1)))
        return fc["fc3"](F.relu(fc["fc2"](x)))


def off(got, expected):
    """The largest difference over the largest entry."""
    expected = expected.detach().numpy()
    assert got.shape == expected.shape, "shape %s, not %s" % (got.shape, expected.shape)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def compare_gradients(width, train_mode, seed, folder):
    torch.manual_seed(seed)
    net = SmallCNN(width)
    for value in net.parameters():  # no layer as tame as it begins
        value.data = torch.randn_like(value) * (2.0 / max(value[0].numel(), 8))**0.5
    x, y = torch.rand(24, 1, 28, 28), torch.randint(0, 10, (24,))
    model, images, labels, out = (os.path.join(folder, n) for n in ("m.safetensors", "x.npy", "y.npy", "out"))
    safetensors.save(model, {n: v.detach().numpy() for n, v in net.named_parameters()})
    np.save(images, x.numpy())
    np.save(labels, y.numpy())
    run("gradients", "--model", model, "--arch", "smallcnn", "--input", images, "--labels", labels, "--out", out,
        *(["--width", width] if width != 1 else []), *(["--train-mode"] if train_mode else []))

    net, x = net.double(), x.double().requires_grad_(True)
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    dx, = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x, retain_graph=True)
    names = [n for n, _ in net.named_parameters()]
    grads = torch.autograd.grad(loss, list(net.parameters()))
    most = max(float(g.abs().max()) for g in grads)

    where = "width %g, seed %d%s: " % (width, seed, ", --train-mode" if train_mode else "")
    load = lambda name: np.load(os.path.join(out, name + ".npy"))  # noqa: E731
    verdict(where + "logits", off(load("logits"), logits), 1e-5)
    verdict(where + "loss", abs(float(load("loss")) - float(loss)) / abs(float(loss)), 1e-5)
    verdict(where + "input_grad", off(load("input_grad"), dx), 1e-5)
    for name, g in zip(names, grads):
        got = load("grad/" + name)
        assert got.shape == tuple(g.shape), "%s: shape %s, not %s" % (name, got.shape, tuple(g.shape))
        largest = max(float(g.abs().max()), 1e-3 * most)
        verdict(where + name, float(np.abs(got - g.numpy()).max()) / largest, 3e-5)
    extra = set(os.listdir(os.path.join(out, "grad"))) - {n + ".npy" for n in names}
    verdict(where + "gradients of unknown parameters", len(extra), 0)


def test_images(n):
    """The first n test images that come with the project, as evaluate takes them."""
    part = os.path.join(EXAMPLES, "data", "t10k-")
    x = np.fromfile(part + "images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)[:n]
    y = np.fromfile(part + "labels-idx1-ubyte", np.uint8)[8:][:n]
    return torch.tensor(x.astype(np.float32) / np.float32(255)), torch.tensor(y.astype(np.int64))


def pgd(net, x, y, z, epsilon, steps):
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    z = z.clone()
    for _ in range(steps):
        z.requires_grad_(True)
        g, = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z)
        z = torch.min(torch.max(z.detach() + epsilon / 4 * g.sign(), low), high)
    return z


def compare_trained(method, folder):
    """A model of examples/bin/train in PyTorch, and both under PGD-10 from the same starting points."""
    model, logits, init, adv = (os.path.join(folder, n) for n in ("t.safetensors", "z.npy", "i.npy", "a.npy"))
    n, epsilon = 200, 0.1
    torch.manual_seed(7)
    x, y = test_images(n)
    run("train", "--dataset", "embedded", "--epochs", 1, "--limit", 200, "--batch", 20, "--method", method,
        "--seed", 1, "--save", model)
    arrays, metadata = safetensors.load(model)
    verdict(method + ": metadata that is not as it should be",
            sum(metadata.get(k) != v for k, v in (("arch", "smallcnn"), ("width", "1"), ("classes", "10"))), 0)
    net = SmallCNN()
    net.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()})
    net = net.double().eval()

    np.save(init, (x + (2 * torch.rand_like(x) - 1) * epsilon).clamp(0, 1).numpy())
    start = torch.tensor(np.load(init))
    start = torch.min(torch.max(start, x - epsilon), x + epsilon).clamp(0, 1)
    spec = "pgd:steps=10:start=uniform:last=1"
    report = json.loads(run("evaluate", "--model", model, "--arch", "smallcnn", "--dataset", "embedded", "--limit", n,
                            "--attack", spec, "--eps", epsilon, "--init", init, "--dump-adv", adv,
                            "--dump-logits", logits, "--json"))
    with torch.no_grad():
        verdict(method + ": logits of a model from train", off(np.load(logits), net(x.double())), 1e-5)
        clean = float((net(x.double()).argmax(1) == y).double().mean())
    verdict(method + ": natural accuracy %.3f" % clean, abs(report["natural"] - clean), 1e-9)

    mine = pgd(net, x.double(), y, start.double(), epsilon, 10)
    theirs = torch.tensor(np.load(adv))
    verdict(method + ": outside the ball or [0,1] by", max(float((theirs - x).abs().max()) - epsilon,
                                                          float(-theirs.min()), float(theirs.max()) - 1, 0.0), 1e-6)
    with torch.no_grad():
        mine_right, theirs_right = (net(z.double()).argmax(1) == y for z in (mine, theirs))
    verdict(method + ": accuracy under %s, %.3f here" % ("PGD-10", float(mine_right.double().mean())),
            abs(report["attacks"][spec]["accuracy"] - float(theirs_right.double().mean())), 1e-9)
    verdict(method + ": verdicts that differ", float((mine_right != theirs_right).double().mean()), 1e-2)
    far = (mine - theirs.double()).abs().flatten(1).max(1)[0] > 1e-3  # a sign that rounding has turned
    verdict(method + ": images that differ anywhere", float(far.double().mean()), 0.5)


def main():
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        for width in (1, 0.5):
            for seed in range(seeds):
                compare_gradients(width, seed == seeds - 1, seed, folder)
        for method in ("plain", "advtrain"):
            compare_trained(method, folder)
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
