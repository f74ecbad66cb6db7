#!/usr/bin/python3
"""Compares the classifiers with PyTorch in double precision, through the example programs.

    make -C examples && python3 tests/peer/gradients.py [SEEDS] [--full] [--arch ARCH]

Random weights and running statistics are written as safetensors, random images as .npy;
examples/bin/gradients gives logits, gradients and running statistics after the pass, in evaluation
and in training mode. A model that examples/bin/train saved is read back, and PGD is run on both
sides from the same starting points. One line per quantity with its worst figure over all seeds and
tensors; the last line is "N passed, N failed". --full adds the large networks at their own sizes (two minutes).

A ReLU or a max-pool whose decision hangs on the last bit has two right gradients. So the random
networks are moved away from such places before they are written (see settle), by what PyTorch in
double precision says alone; the tolerances make no allowance for them. Exact ties, as plain
backgrounds give them, are avoided by the random images too: tests/test_ties.c is about those.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import models  # the files beside this one
import safetensors

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
passed = failed = 0


def verdict(what, figure, allowed):
    """One line; smaller figures are better."""
    global passed, failed
    good = bool(figure <= allowed)  # false for NaN
    passed, failed = passed + good, failed + (not good)
    print("%s  %-72s %.2e, allowed %.0e" % ("ok  " if good else "FAIL", what, figure, allowed), flush=True)


def start(program, *arguments):
    command = [os.path.join(EXAMPLES, "bin", program)] + [str(a) for a in arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def run(program, *arguments):
    done = start(program, *arguments)
    if done.returncode:
        sys.exit("%s: status %d: %s" % (" ".join(done.args), done.returncode, done.stderr))
    return done.stdout


# ---- random networks ----

# Rounding in single precision (Winograd's more than the direct way's) moves what enters a ReLU or a
# max-pool by some 1e-5 in the deepest layers, and what enters pools that come early by much less.
MARGIN, TIE = 6e-5, {"vgg16": 4e-5}


class Tie(Exception):
    """Two candidates of a max-pool are too close."""


def rows(z):
    """Channels by all the rest."""
    return z.transpose(0, 1).flatten(1)


def near_batch(norm, inputs):
    """Before a batch norm: random running statistics, not so far from those of this batch that
    activations would grow or vanish through many layers."""
    z = rows(inputs[0])
    norm.running_mean = z.mean(1) + 0.3 * z.std(1) * torch.randn(len(z)).double()
    norm.running_var = z.var(1) * torch.exp(0.5 * torch.randn(len(z)).double())


def off_zero(relu, inputs):
    """Before a ReLU: moves each channel's bias by at most 0.1, to the middle of the widest gap
    between its values, so that none is next to 0."""
    layer, reach, shift = relu.before[0], 0.1, []
    for row in rows(inputs[0]):
        near = torch.cat([row[row.abs() < reach], row.new_tensor([-reach, reach])]).sort()[0]
        gap = near[1:] - near[:-1]
        k = int(gap.argmax())
        assert gap[k] > 2 * MARGIN, "too many values for one channel"
        shift.append(-(near[k] + near[k + 1]) / 2)
    shift = torch.stack(shift)
    layer.bias.data += shift
    return inputs[0] + shift.view(-1, *[1] * (inputs[0].dim() - 2)),


def no_tie(pool, inputs):
    """Before a max-pool, of values that are not negative."""
    x = inputs[0]
    windows = F.unfold(x.reshape(-1, 1, *x.shape[2:]), pool.kernel_size, padding=pool.padding, stride=pool.stride)
    first, second = windows.topk(2, 1)[0].unbind(1)
    if bool(((first - second < pool.tie) & (first > 0)).any()):
        raise Tie


def settle(net, x):
    """Chooses running statistics and adjusts biases, layer after layer, in one forward pass."""
    hooks = {nn.BatchNorm2d: near_batch, models.Relu: off_zero, nn.MaxPool2d: no_tie}
    handles = [m.register_forward_pre_hook(hooks[type(m)]) for m in net.modules() if type(m) in hooks]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    for value in net.state_dict().values():  # what a file in single precision can hold
        value.copy_(value.float())


def random_network(arch, width, depth, x, seed, train_mode):
    """In double precision, with activations of order one in every layer."""
    for attempt in range(300):
        torch.manual_seed(seed + 1000 * attempt)
        net = models.make(arch, width, depth).double().train(train_mode)
        for module in net.modules():
            module.tie = TIE.get(arch, 2e-6)
        for name, value in net.named_parameters():
            if value.dim() > 1:  # no layer as tame as it begins
                value.data = torch.randn_like(value) * (2.0 / value[0].numel())**0.5
            elif name.endswith("weight"):
                value.data = 1 + 0.3 * torch.randn_like(value)
            else:
                value.data = 0.3 * torch.randn_like(value)
        try:
            settle(net, x)
            return net
        except Tie:
            pass
    sys.exit("%s: no random network without a tie in a max-pool" % arch)


def write_network(path, net, metadata=None, leave_out=(), **more):
    arrays = {n: v.detach().numpy() for n, v in net.state_dict().items() if n not in leave_out}
    arrays.update(more)
    safetensors.save(path, {n: a.astype(np.float32) if a.dtype == np.float64 else a
                            for n, a in arrays.items()}, metadata)


# ---- what is compared ----

def expected_of(net, x, y):
    """Kind -> name -> array."""
    x = x.clone().requires_grad_(True)
    logits = net(x)
    loss = F.cross_entropy(logits, y)
    dx, = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x, retain_graph=True)
    names, values = zip(*net.named_parameters())
    buffers = {n: b.detach().numpy() for n, b in net.named_buffers() if not n.endswith("num_batches_tracked")}
    grads = dict(zip(names, (g.numpy() for g in torch.autograd.grad(loss, values))))
    return {"logits": {"logits": logits.detach().numpy()}, "loss": {"loss": loss.detach().numpy()},
            "input_grad": {"input_grad": dx.numpy()}, "grad": grads, "buffers": buffers}


def written_in(folder):
    """The same, of what examples/bin/gradients wrote."""
    result = {n: {n: np.load(os.path.join(folder, n + ".npy"))} for n in ("logits", "loss", "input_grad")}
    for kind in ("grad", "buffers"):
        files = os.listdir(os.path.join(folder, kind))
        result[kind] = {f[:-len(".npy")]: np.load(os.path.join(folder, kind, f)) for f in files}
    return result


def scales(arrays, kind):
    """What an array's differences are measured by: its largest entry; of a gradient at least a
    thousandth of all gradients' largest. The bias of a convolution ahead of a batch norm in training
    mode has a gradient of zero, the sum of many numbers that cancel: a tenth of its weight's."""
    result = {n: float(np.abs(a).max()) for n, a in arrays.items()}
    if kind != "grad":
        return result
    most = max(result.values())
    for name, value in result.items():
        weight = result.get(name[:-len("bias")] + "weight") if name.endswith(".bias") else None
        result[name] = 0.1 * weight if weight and value < 1e-9 * weight else max(value, 1e-3 * most)
    return result


def worst(got, expected, scale):
    """The largest relative difference and where it is; infinite where names or shapes differ."""
    for name in sorted(set(got) ^ set(expected)):
        return float("inf"), name + (" missing" if name in expected else " unknown")
    figure, where = 0.0, ""
    for name, e in expected.items():
        off = float("inf")
        if got[name].shape == e.shape:
            difference = float(np.abs(got[name] - e).max())
            off = difference / scale[name] if difference else 0.0
        if off != off or off > figure:
            figure, where = off, name
        if off != off:
            break
    return figure, where


def allowed_of(arch, kind, train_mode):
    if kind == "buffers":
        return 1e-5 if train_mode else 0.0
    if arch == "smallcnn":
        return 3e-5 if kind == "grad" else 1e-5
    return 1e-4


def unnoticed(arch, train_mode, expected):
    """How many of these corruptions of right results the comparison would let pass: in every tensor
    one number that is off by twice what is allowed, or not a number, and a tensor that is lost."""
    count = 0
    for kind, arrays in expected.items():
        allowed, scale_of = allowed_of(arch, kind, train_mode), scales(arrays, kind) if arrays else {}
        for name, a in arrays.items():
            one, scale = {name: a}, {name: scale_of[name]}
            for wrong in (max(2 * allowed, 1e-6) * scale[name], float("nan")):
                broken = a.copy()
                broken.flat[a.size // 2] += wrong
                count += worst({name: broken}, one, scale)[0] <= allowed
            count += worst({}, one, scale)[0] <= allowed
    return count


def one_pass(folder, arch, width, batch, train_mode, seed, depth=0, size=0):
    """What examples/bin/gradients wrote, and what it should have."""
    _, shape, classes, _, _ = models.ARCHS[arch]
    shape = (shape[0], size, size) if size else shape
    torch.manual_seed(seed)
    x, y = torch.rand(batch, *shape), torch.randint(0, classes, (batch,))
    net = random_network(arch, width, depth, x.double(), seed, train_mode)

    # Either the command line says what the model is, or the metadata do.
    metadata, flags = None, ["--arch", arch]
    if size:
        metadata = {"arch": arch, "width": "%g" % (width or 1), "height": str(size), "image_width": str(size)}
        flags = []
    elif width or depth:
        flags += ["--width", width] + (["--depth", depth] if depth else [])
    model, images, labels = (os.path.join(folder, n) for n in ("m.safetensors", "x.npy", "y.npy"))
    write_network(model, net, metadata)
    np.save(images, x.numpy())
    np.save(labels, y.numpy())
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run("gradients", "--model", model, "--input", images, "--labels", labels, "--out", out, *flags,
            *(["--train-mode"] if train_mode else []))
        return written_in(out), expected_of(net, x.double(), y)


def compare_gradients(folder, arch, width, batch, train_mode, seeds, depth=0, size=0):
    """One line for each kind, with the worst of all seeds."""
    where = "%s%s%s%s, %s, " % (
        arch, " %d" % depth if depth else "", " x%g" % width if width else "",
        " %dx%d" % (size, size) if size else "", "training" if train_mode else "evaluation")
    found = {}
    for seed in range(seeds):
        got, expected = one_pass(folder, arch, width, batch, train_mode, seed, depth, size)
        for kind in expected:
            figure, name = worst(got[kind], expected[kind], scales(expected[kind], kind))
            if kind not in found or figure != figure or figure > found[kind][0]:
                found[kind] = figure, "" if name == kind else name
            if figure != figure:
                break
    for kind, (figure, name) in found.items():
        if got[kind] or expected[kind]:  # not every network has running statistics
            verdict(where + kind + (" " + name if name else ""), figure, allowed_of(arch, kind, train_mode))
    verdict(where + "corruptions that would pass", unnoticed(arch, train_mode, expected), 0)


# ---- entries that the model does not have, or the file ----

def compare_entries(folder):
    torch.manual_seed(11)
    net = models.make("wrn", 1, 10)
    copies = {"sub_" + n: v.numpy() for n, v in net.state_dict().items() if n.startswith("block1.")}
    count = sum(not n.endswith("num_batches_tracked") for n in copies)
    model, images, labels = (os.path.join(folder, n) for n in ("e.safetensors", "x.npy", "y.npy"))
    np.save(images, torch.rand(2, 3, 32, 32).numpy())
    np.save(labels, np.arange(2))
    told = ("--arch", "wrn", "--width", 1, "--depth", 10)

    def attempt(flags, metadata=None, leave_out=(), **more):
        write_network(model, net, metadata, leave_out, **more)
        with tempfile.TemporaryDirectory(dir=folder) as out:
            done = start("gradients", "--model", model, "--input", images, "--labels", labels, "--out", out, *flags)
            return done, None if done.returncode else written_in(out)

    _, plain = attempt(told)
    done, got = attempt(told, **copies)
    verdict("entries that the model does not have change nothing",
            max(worst(got[k], plain[k], scales(plain[k], k))[0] for k in plain) if got and plain else float("inf"), 0)
    metadata = {"arch": "wrn", "width": "1", "depth": "10"}
    for how, done in (("--arch", done), ("metadata", attempt((), metadata, **copies)[0])):
        noted = "%d entries not used" % count in done.stderr
        verdict("the same, with %s: a note that there are %d" % (how, count), not noted, 0)
    for name, wrong in (("block2.layer.0.convShortcut.weight", np.zeros((32, 16, 3, 3), np.float32)),
                        ("bn1.running_var", np.ones((63,), np.float32)),
                        ("fc.bias", np.zeros((9,), np.float32))):
        for what, entry in (("missing", {}), ("of another shape", {name: wrong})):
            for flags, m in ((told, None), ((), metadata)):
                done, _ = attempt(flags, m, (name,), **entry)
                verdict("%s %s is an error that names it (%s)" % (name, what, "metadata" if m else "--arch"),
                        not (done.returncode == 1 and "'" + name + "'" in done.stderr), 0)


# ---- trained models ----

def off(got, expected):
    """The largest difference over the largest entry."""
    expected = {"": expected.detach().numpy()}
    return worst({"": got}, expected, scales(expected, ""))[0]


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
    net = models.make("smallcnn")
    net.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()})
    net = net.double().eval()

    np.save(init, (x + (2 * torch.rand_like(x) - 1) * epsilon).clamp(0, 1).numpy())
    begin = torch.tensor(np.load(init))
    begin = torch.min(torch.max(begin, x - epsilon), x + epsilon).clamp(0, 1)
    spec = "pgd:steps=10:start=uniform:last=1"
    report = json.loads(run("evaluate", "--model", model, "--arch", "smallcnn", "--dataset", "embedded", "--limit", n,
                            "--attack", spec, "--eps", epsilon, "--init", init, "--dump-adv", adv,
                            "--dump-logits", logits, "--json"))
    with torch.no_grad():
        verdict(method + ": logits of a model from train", off(np.load(logits), net(x.double())), 1e-5)
        clean = float((net(x.double()).argmax(1) == y).double().mean())
    verdict(method + ": natural accuracy %.3f" % clean, abs(report["natural"] - clean), 1e-9)

    mine = pgd(net, x.double(), y, begin.double(), epsilon, 10)
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
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("seeds", nargs="?", type=int, default=3)
    p.add_argument("--full", action="store_true")
    p.add_argument("--arch", choices=list(models.ARCHS), help="this one only")
    a = p.parse_args()
    # arch, width, batch, and what else; 0 is the architecture's own
    sizes = [("smallcnn", 0, 24, {}), ("smallcnn", 0.5, 24, {}), ("vgg16", 0.25, 4, {}), ("wrn", 2, 8, {"depth": 10}),
             ("resnet18", 0.25, 4, {"size": 64})]
    if a.full:
        sizes += [("vgg16", 0, 2, {}), ("wrn", 0, 2, {}), ("resnet18", 0, 2, {})]
    with tempfile.TemporaryDirectory() as folder:
        if a.arch in (None, "resnet18"):
            differ = models.check_resnet18()
            if differ is None:
                print("skipped: torchvision is not there to compare the names of ResNet-18 with")
            else:
                verdict("ResNet-18's names and shapes that are not torchvision's", differ, 0)
        for arch, width, batch, more in sizes:
            if a.arch in (None, arch):
                seeds = a.seeds if width or arch == "smallcnn" else 1
                compare_gradients(folder, arch, width, batch, False, seeds, **more)
                # without batch norm the modes are the same
                compare_gradients(folder, arch, width, batch, True, 1 if arch == "smallcnn" else seeds, **more)
        if a.arch in (None, "wrn"):
            compare_entries(folder)
        for method in ("plain", "advtrain") if a.arch in (None, "smallcnn") else ():
            compare_trained(method, folder)
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
