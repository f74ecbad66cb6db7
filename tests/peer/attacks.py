#!/usr/bin/python3
"""Compares the attacks with the same attacks in PyTorch, on a 4-layer CNN trained for the purpose.

    make -C examples && python3 tests/peer/attacks.py [IMAGES]

examples/bin/train makes the model, on the embedded digits; attacks.c makes a shared library of
l2ladv.h. The first part goes step by step: PyTorch walks, and at each of its iterates l2ladv.h makes
the same single step. The second part runs both from the same starting points to the end and compares
verdicts and losses, or distances. One line per figure; the last line is "N passed, N failed".

PyTorch computes in double precision, except that its iterates are rounded to single, as l2ladv.h's
are. In single it is no reference: its p_y - 1 of an image that is surely y, and TRADES' p' - p beside
x, are differences of nearly equal numbers. l2ladv.h computes in single, as it is used. What that
leaves undecided, and is therefore not held against it in single steps:
- On the flat ground of a digit all four candidates of a max-pool are equal, and any of them has a
  right gradient. So the images are digits under a little noise.
- Where a ReLU or a max-pool hangs on the last bits, the gradients of both sides are right. A pixel
  that differs must then be where the gradient of a point 2e-6 away leads to.
- A line search may accept a trial that misses Armijo's condition by less than 1e-5 of loss, or refuse
  one that keeps it by less; at most 1 % of the steps may hang on that.
- TRADES' first step: the logits of x' and x differ in their last digits only. As many signs may be
  wrong as PyTorch itself gets wrong in single precision; and runs to the end begin behind that step.
"""
import ctypes
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

import models  # the files beside this one
import safetensors

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
EPSILON, EPSILON_L2 = 0.2, 1.5
torch.set_num_threads(THREADS)
passed = failed = 0


def verdict(what, figure, allowed):
    """One line; smaller figures are better."""
    global passed, failed
    good = bool(figure <= allowed)  # false for NaN
    passed, failed = passed + good, failed + (not good)
    print("%s  %-88s %9.3g, allowed %g" % ("ok  " if good else "FAIL", what, figure, allowed), flush=True)


# ---- l2ladv.h ----

def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


class Ours:
    """The model and the attacks behind attacks.c."""

    def __init__(self, folder, model):
        self.names = set()
        for name in ("l2ladv.h", "examples/searches.h"):
            with open(os.path.join(ROOT, name)) as f:
                self.names |= set(re.findall(r"\bl2l_attack_(\w+)\(double epsilon\)", f.read()))
        library = os.path.join(folder, "attacks.so")
        subprocess.check_call([os.environ.get("CC", "cc"), "-std=c99", "-O2", "-fopenmp", "-fPIC", "-shared",
                               "-DATTACKS=" + " ".join("X(%s)" % name for name in sorted(self.names)), "-o", library,
                               os.path.join(HERE, "attacks.c"), "-lm"])
        self.library = ctypes.CDLL(library)
        self.library.peer_open.restype = ctypes.c_void_p
        self.library.peer_error.restype = ctypes.c_char_p
        self.peer = ctypes.c_void_p(self.library.peer_open(model.encode(), THREADS))
        self.check(True)

    def check(self, ok):
        text = self.library.peer_error(self.peer).decode()
        if text or not ok:
            sys.exit("l2ladv.h: " + text)

    def run(self, name, epsilon, x, y, init=None, targets=None, steps=0, step_size=0.0, last=-1):
        """Adversarial images, and for each image: success, loss, both distances."""
        n, adv = len(x), np.empty_like(x)
        success, numbers = np.empty(n, np.int32), [np.empty(n) for _ in range(3)]
        self.check(self.library.peer_run(
            self.peer, name.encode(), ctypes.c_double(epsilon), steps, ctypes.c_double(step_size), last, pointer(x),
            pointer(y), pointer(targets), pointer(init), n, pointer(adv), pointer(success), *map(pointer, numbers)))
        return (adv, success != 0, *numbers)

    def stages(self, epsilon, steps, x, y, l2=False, only=None):
        """AutoAttack, or only one of its attacks: which of them fooled each image, or -1."""
        stages = np.empty(len(x), np.int32)
        x, y = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(y, np.int32)
        self.check(self.library.peer_stages(self.peer, ctypes.c_double(epsilon), int(l2), steps,
                                            -1 if only is None else only, pointer(x), pointer(y), len(x),
                                            pointer(stages)))
        return stages

    def step(self, name, epsilon, t, x, y, adv, memory):
        after = np.empty_like(x)
        self.check(self.library.peer_step(self.peer, name.encode(), ctypes.c_double(epsilon), t, pointer(x),
                                          pointer(y), len(x), pointer(adv), pointer(memory), pointer(after)))
        return after


# ---- what the attacks have in common ----

def flat(v):
    return v.flatten(1)


def by_image(v):
    """Numbers, one per image, for arithmetic with images."""
    return v.view(-1, 1, 1, 1)


def margin(z, y):
    """The largest other logit minus that of y."""
    own = z.gather(1, y[:, None])[:, 0]
    return z.scatter(1, y[:, None], -np.inf).max(1)[0] - own


def cross_entropy(z, y, clean):
    return F.cross_entropy(z, y, reduction="none")


def kl(z, y, clean):
    return F.kl_div(F.log_softmax(z, 1), F.softmax(clean, 1), reduction="none").sum(1)


def project(adv, x, epsilon, l2):
    delta = adv - x
    if l2:
        length = flat(delta).norm(dim=1)
        delta = delta * by_image(torch.where(length > epsilon, epsilon / length, torch.ones_like(length)))
    else:
        delta = delta.clamp(-epsilon, epsilon)
    return (x + delta).clamp(0, 1)


class Problem:
    """Images, labels or targets, and a loss to be raised."""

    once = False  # one step of epsilon instead of steps of a quarter

    def __init__(self, net, x, y, epsilon, loss=cross_entropy, cut=None, l2=False, targeted=False):
        self.net, self.x, self.y, self.epsilon, self.l2 = net, x, y, epsilon, l2
        self.loss, self.cut, self.targeted = loss, cut, targeted
        with torch.no_grad():
            self.clean = net(x)

    def some(self, which):
        part = Problem(self.net, self.x[which], self.y[which], self.epsilon, self.loss, self.cut, self.l2,
                       self.targeted)
        part.once = self.once
        return part

    def look(self, adv, gradient=True):
        """Losses, whether each image is where it shall be, and the gradient of each image's own loss."""
        adv = adv.detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            z = self.net(adv)
            value = self.loss(z, self.y, self.clean)
            value = -value if self.targeted else value
            value = value if self.cut is None else value.clamp(max=self.cut)
        g = torch.autograd.grad(value.sum(), adv)[0] if gradient else None
        return value.detach(), (z.argmax(1) == self.y) == self.targeted, g

    def project(self, adv):
        return project(adv, self.x, self.epsilon, self.l2)


# ---- the rules for a step: what follows x'_t, and whose sign decided ----

def sign_step(problem, adv, value, g, t, memory):
    return problem.project(adv + problem.epsilon / (1 if problem.once else 4) * g.sign()), g


def l2_step(problem, adv, value, g, t, memory):
    length = flat(g).norm(dim=1)
    return problem.project(adv + problem.epsilon / 4 * g / by_image(length.clamp(min=1e-300))), g


def momentum_step(problem, adv, value, g, t, memory):
    memory[0] = memory[0] + g / by_image(flat(g).abs().sum(1).clamp(min=1e-300))
    return problem.project(adv + problem.epsilon / 4 * memory[0].sign()), memory[0]


def line_search_step(problem, adv, value, g, t, memory):
    """Halves the step until Armijo's condition holds along the projection; ten trials. Notes how
    narrowly each image was decided."""
    after, alpha = adv.clone(), problem.epsilon
    problem.narrow = torch.full_like(value, np.inf)
    left = torch.arange(len(adv))
    for _ in range(10):
        some = problem.some(left)
        trial = some.project(adv[left] + alpha * g[left].sign())
        rise = some.look(trial, False)[0] - value[left] - 1e-4 * flat(g[left] * (trial - adv[left])).sum(1)
        problem.narrow[left] = torch.minimum(problem.narrow[left], rise.abs())
        after[left[rise >= 0]] = trial[rise >= 0]
        left, alpha = left[rise < 0], alpha / 2
        if not len(left):
            break
    return after, g


def adam_step(problem, adv, value, g, t, memory):
    """The evaluation program of L2LDA: Adam on the cut margin and a penalty on the farthest pixel."""
    g = g.clone()
    delta = flat(adv - problem.x)
    far = delta.abs().argmax(1)
    rows = torch.arange(len(far))
    beyond = delta[rows, far].abs() > 8 / 255
    flat(g)[rows[beyond], far[beyond]] -= delta[rows, far][beyond].sign()
    memory[0] = 0.9 * memory[0] + 0.1 * -g
    memory[1] = 0.999 * memory[1] + 0.001 * g * g
    root = (memory[1] / (1 - 0.999**(t + 1))).sqrt() + 1e-8
    return problem.project(adv - 1e-3 * memory[0] / (1 - 0.9**(t + 1)) / root), memory[0] / root


# Name in l2ladv.h: the step, the loss, where it is cut off, the norm, the number of steps.
WALKS = {
    "fgsm": (sign_step, cross_entropy, None, False, 1),
    "ifgsm": (sign_step, cross_entropy, None, False, 10),
    "pgd": (sign_step, cross_entropy, None, False, 10),
    "pgd_l2": (l2_step, cross_entropy, None, True, 10),
    "mim": (momentum_step, cross_entropy, None, False, 10),
    "cw_pgd": (sign_step, lambda z, y, clean: margin(z, y), 50.0, False, 10),
    "trades": (sign_step, kl, None, False, 10),
    "bls": (line_search_step, cross_entropy, None, False, 10),
    "cw_l2lda": (adam_step, lambda z, y, clean: margin(z, y), 0.0, False, 100),
}


def pose(name, net, x, y, targeted=False):
    step, loss, cut, l2, steps = WALKS[name]
    problem = Problem(net, x, y, EPSILON_L2 if l2 else EPSILON, loss, cut, l2, targeted)
    problem.once = name == "fgsm"
    return problem, step, steps


def starts(name, problem, seed):
    """x'_0 as each attack has it, but from PyTorch's random numbers."""
    x, torch_seed = problem.x, torch.Generator().manual_seed(seed)
    if name in ("fgsm", "ifgsm", "mim", "cw_l2lda"):
        return x.clone()
    noise = torch.randn(x.shape, generator=torch_seed).to(x.dtype)
    if name == "trades":
        return problem.project(x + 0.001 * noise)
    uniform = torch.rand(x.shape, generator=torch_seed).to(x.dtype)
    if problem.l2:
        radius = problem.epsilon * flat(uniform)[:, 0]**(1 / x[0].numel())
        return problem.project(x + noise * by_image(radius / flat(noise).norm(dim=1)))
    return problem.project(x + problem.epsilon * (2 * uniform - 1))


def single(v):
    """What a single-precision iterate can hold."""
    return v.to(torch.float32).to(v.dtype)


# ---- step by step ----

def wrong_in_single(net, problem, adv, g):
    """How many signs PyTorch itself gets wrong in single precision, of gradients that are not tiny."""
    again = Problem(net, problem.x.float(), problem.y, problem.epsilon, problem.loss, problem.cut, problem.l2)
    wrong = flat(again.look(adv.float())[2]).sign() != flat(g).sign()
    return int((wrong & (flat(g.abs()) >= 1e-5 * flat(g.abs()).max(1, keepdim=True)[0])).sum())


def beside_kink(problem, step, adv, value, t, memory, got):
    """The pixels of `got` that the gradient of a point two millionths away leads to."""
    noise = torch.Generator().manual_seed(4)
    led = torch.zeros(flat(adv).shape, dtype=torch.bool)
    for _ in range(16):
        g = problem.look(adv + 2e-6 * torch.randn(adv.shape, generator=noise).to(adv.dtype))[2]
        after = step(problem, adv, value, g, t, [m.clone() for m in memory])[0]
        led |= flat((got - after).abs() <= 1e-5)
    return led


def compare_steps(ours, name, net, once, x, y):
    """net in double precision, once in single."""
    problem, step, steps = pose(name, net, x, y)
    single_too = None
    adv = single(starts(name, problem, 1))
    memory = [torch.zeros_like(adv), torch.zeros_like(adv)]
    differing = unexcused = narrow = kinks = 0
    count = min(steps, 20)
    flat_x, flat_y = x.float().numpy(), y.numpy().astype(np.int32)
    for t in range(count):
        value, _, g = problem.look(adv)
        given = np.stack([single(m).float().numpy() for m in memory])
        memory = [single(m) for m in memory]
        before = [m.clone() for m in memory]
        after, decisive = step(problem, adv, value, g, t, memory)
        got = ours.step(name, problem.epsilon, t, flat_x, flat_y, adv.float().numpy(), given)
        got = torch.from_numpy(got).to(after.dtype)
        apart = flat((got - after).abs() > 1e-5)
        excused = flat(decisive.abs()) < 1e-5 * flat(decisive.abs()).max(1, keepdim=True)[0]
        if name == "bls":  # which trial is accepted can hang on the last bits of L
            close = problem.narrow < 1e-5
            narrow += int(close.sum())
            apart[close] = False
        differing += int(apart.sum())
        left = torch.nonzero((apart & ~excused).any(1))[:, 0]
        if len(left):
            led = beside_kink(problem.some(left), step, adv[left], value[left], t, [m[left] for m in before], got[left])
            kinks += int((apart & ~excused)[left][led].sum())
            wrong = int((apart & ~excused)[left][~led].sum())
            if name == "trades" and t == 0:  # beside x the logits differ in their last digits only
                single_too = (wrong, wrong_in_single(once, problem, adv, g))
                wrong = max(0, wrong - single_too[1])
            unexcused += wrong
        adv = single(after)
    verdict("%s, single steps: %% of pixels that differ by 1e-5" % name, 100 * differing / adv.numel() / count, 0.1)
    if single_too:
        print("      %s, first step: %d signs of such gradients are wrong, in PyTorch in single precision %d" % (
            name, *single_too))
    verdict("%s, of them with a gradient of 1e-5 of the largest or more%s" % (
        name, ", beside %d at kinks" % kinks if kinks else ""), unexcused, 0)
    if name == "bls":
        verdict("bls, % of image steps that hang on less than 1e-5 of the loss", 100 * narrow / len(x) / count, 1)


# ---- to the end ----

def walk(name, net, x, y, adv, targeted=False):
    """The first success, else the largest loss (of L2LDA's the last): success, loss, image."""
    problem, step, steps = pose(name, net, x, y, targeted)
    best, image = torch.full((len(x),), -np.inf, dtype=x.dtype), adv.clone()
    done = torch.zeros(len(x), dtype=torch.bool)
    memory = [torch.zeros_like(adv), torch.zeros_like(adv)]
    for t in range(steps + 1):
        value, there, g = problem.look(adv, t < steps)
        if name == "cw_l2lda":
            done, best, image = there, value, adv
        else:
            better = ~done & (there | (value > best))
            best[better], image[better] = value[better], adv[better]
            done |= there
        if t < steps:
            adv = single(step(problem, adv, value, g, t, memory)[0])
    return done, best, image


def compare_runs(ours, name, net, x, y, targets=None):
    problem, step, _ = pose(name, net, x, y)
    adv = single(starts(name, problem, 2))
    if name == "trades":
        value, _, g = problem.look(adv)
        adv = single(step(problem, adv, value, g, 0, None)[0])
    aims = y if targets is None else targets
    success, loss, _ = walk(name, net, x, aims, adv, targets is not None)
    arrays = [None if v is None else v.numpy().astype(np.int32) for v in (y, targets)]
    _, got, got_loss, _, _ = ours.run(name, problem.epsilon, x.float().numpy(), arrays[0], adv.float().numpy(),
                                       arrays[1])
    what = name if targets is None else name + " with targets"
    print("      %s: %d of %d succeed, mean loss %.4f" % (what, int(success.sum()), len(x), float(loss.mean())))
    verdict("%s, whole: %% of images with another verdict" % what,
            100 * float(np.mean(got != success.numpy())), 1)
    verdict("%s, whole: difference of the mean losses" % what, abs(got_loss.mean() - float(loss.mean())), 1e-3)


# ---- the nearest adversarial image ----

def deepfool(net, x, y, l2):
    """Moosavi-Dezfooli et al.; the classes are the ten likeliest, the steps at most 50, with 2 % overshoot."""
    adv, total = x.clone(), torch.zeros_like(x)
    with torch.no_grad():
        left = torch.nonzero(net(x).argmax(1) == y)[:, 0]
    for _ in range(50):
        if not len(left):
            break
        point = adv[left].requires_grad_()
        z = net(point)
        others = z.detach().scatter(1, y[left][:, None], -np.inf).argsort(1, descending=True)[:, :9]
        nearest, direction = torch.full((len(left),), np.inf), torch.zeros_like(point)
        for k in range(others.shape[1]):
            f = z.gather(1, others[:, k:k + 1])[:, 0] - z.gather(1, y[left][:, None])[:, 0]
            w = torch.autograd.grad(f.sum(), point, retain_graph=True)[0]
            dual = flat(w).norm(dim=1) if l2 else flat(w).abs().sum(1)
            distance = f.detach().abs() / (dual + 1e-8)
            closer = distance < nearest
            nearest[closer] = distance[closer]
            direction[closer] = (w / by_image(dual + 1e-8) if l2 else w.sign())[closer]
        total[left] += by_image(nearest + 1e-4) * direction.detach()
        adv[left] = (x[left] + 1.02 * total[left]).clamp(0, 1)
        with torch.no_grad():
            left = left[net(adv[left]).argmax(1) == y[left]]
    return adv


def carlini_wagner(net, x, y, steps, rate, searches=9):
    """Carlini and Wagner's l2 attack with its search for the constant, each image on its own."""
    base = 0.999999 * (2 * x - 1)
    low, high = torch.zeros(len(x)), torch.full((len(x),), 1e10)
    constant = torch.full((len(x),), 1e-3)
    nearest, best = torch.full((len(x),), np.inf), x.clone()
    with torch.no_grad():
        right = net(x).argmax(1) == y
    nearest[~right] = 0
    for _ in range(searches):
        u = torch.zeros_like(x)
        m, v = torch.zeros_like(x), torch.zeros_like(x)
        previous = torch.full((len(x),), np.inf)
        running, found = right.clone(), torch.zeros(len(x), dtype=torch.bool)
        for k in range(steps):
            if not bool(running.any()):
                break
            u.requires_grad_()
            adv = (torch.tanh(torch.atanh(base) + u) + 1) / 2
            square = flat((adv - (base + 1) / 2)**2).sum(1)
            z = net(adv)
            loss = square + constant * (-margin(z, y)).clamp(min=0)
            g = torch.autograd.grad(loss.sum(), u)[0]
            u, adv, loss = u.detach(), adv.detach(), loss.detach()
            distance = flat(adv - x).norm(dim=1)
            there = running & (z.argmax(1) != y)
            found |= there
            nearer = there & (distance < nearest)
            nearest[nearer], best[nearer] = distance[nearer], adv[nearer]
            if k % (steps // 10) == 0:
                running = running & (loss <= 0.9999 * previous)
                previous = loss
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            move = rate * m / (1 - 0.9**(k + 1)) / ((v / (1 - 0.999**(k + 1))).sqrt() + 1e-8)
            u = torch.where(by_image(running), u - move, u)
        high = torch.where(found, torch.minimum(high, constant), high)
        low = torch.where(found, low, torch.maximum(low, constant))
        constant = torch.where(high < 1e10, (low + high) / 2, 10 * constant)
    return best


def compare_distances(ours, name, net, x, y, expected, l2, **settings):
    with torch.no_grad():
        wrong = net(expected).argmax(1) != y
    adv, got, _, linf, two = ours.run(name, 1e9, x.numpy(), y.numpy().astype(np.int32), **settings)
    delta = flat(expected - x)
    distance = (delta.norm(dim=1) if l2 else delta.abs().max(1)[0])[wrong].double().numpy()
    mine = (two if l2 else linf)[got]
    print("      %s: mean distance %.5f of %d, here %.5f of %d" % (
        name, distance.mean(), len(distance), mine.mean(), len(mine)))
    verdict("%s: %% of images with another verdict" % name, 100 * float(np.mean(got != wrong.numpy())), 1)
    verdict("%s: %% by which the mean distances differ" % name, 100 * abs(mine.mean() / distance.mean() - 1), 1)


# ---- all together ----

def digits():
    def idx(name, header):
        with open(os.path.join(ROOT, "examples", "data", name), "rb") as f:
            return np.frombuffer(f.read()[header:], np.uint8)
    y = idx("t10k-labels-idx1-ubyte", 8)
    return idx("t10k-images-idx3-ubyte", 16).reshape(len(y), 1, 28, 28) / np.float32(255), y.astype(np.int64)


def noisy_digits(images):
    x, y = (torch.from_numpy(v[:images]) for v in digits())
    return (x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1), y


def main():
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    with tempfile.TemporaryDirectory(prefix="l2ladv-attacks.") as folder:
        path = os.path.join(folder, "model.safetensors")
        subprocess.check_call([os.path.join(ROOT, "examples", "bin", "train"), "--dataset", "embedded",
                               "--method", "advtrain", "--eps", str(EPSILON), "--steps", "3", "--batch", "64",
                               "--epochs", "4", "--val", "0", "--seed", "5", "--threads", "1", "--save", path],
                              stdout=subprocess.DEVNULL)
        ours = Ours(folder, path)
        arrays, _ = safetensors.load(path)
        net = models.make("smallcnn")
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        net.eval().requires_grad_(False)
        twice = models.make("smallcnn").double()
        twice.load_state_dict(net.state_dict())
        twice.eval().requires_grad_(False)
        x, y = noisy_digits(images)
        with torch.no_grad():
            print("      %d of %d images are classified correctly" % (int((net(x).argmax(1) == y).sum()), len(x)))
        known = ours.names | {"trades"}
        missing = [n for n in [*WALKS, "deepfool", "deepfool_l2", "cw_l2"] if n not in known]
        verdict("attacks that l2ladv.h lacks: %s" % (", ".join(missing) or "none"), len(missing), 0)
        walks = [name for name in WALKS if name in known]
        few = min(len(x), 40)
        for name in walks:
            compare_steps(ours, name, twice, net, x[:few].double(), y[:few])
        for name in walks:
            compare_runs(ours, name, twice, x.double(), y)
        many, labels = noisy_digits(2 * images)  # their losses are some 4, and one image more than a mean of few
        targets = (labels + 1 + torch.arange(len(labels)) % 9) % 10
        for name in walks:
            if name in ("pgd", "pgd_l2", "mim", "cw_pgd"):
                compare_runs(ours, name, twice, many.double(), labels, targets)
        for name, l2 in (("deepfool", False), ("deepfool_l2", True)):
            if name in known:
                compare_distances(ours, name, net, x[:few], y[:few], deepfool(net, x[:few], y[:few], l2), l2)
        if "cw_l2" in known:
            few = min(len(x), 20)
            expected = carlini_wagner(net, x[:few], y[:few], 60, 0.1)
            compare_distances(ours, "cw_l2", net, x[:few], y[:few], expected, True, steps=60, step_size=0.1)
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
