#!/usr/bin/python3
"""AutoAttack's standard ensemble in PyTorch, written from the papers (Croce and Hein 2020: APGD, FAB;
Andriushchenko et al. 2020: Square), beside l2ladv.h's, with the same random numbers.

    make -C examples && python3 tests/peer/autoattack.py [--l2] [--alone] [--images N] [--steps N]
        [--model F --eps E [--data IMAGES LABELS]]

Without --model a 4-layer CNN is trained on the embedded digits. Compared are the verdicts on every
image after each stage, or with --alone under each attack by itself, and the time of both. As in the
authors' program a batch of PyTorch's goes through every attack whole; images that are fooled leave
between attacks. One line per figure; the last line is "N passed, N failed".
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F

import attacks  # the files beside this one
import models
import safetensors
from attacks import by_image, flat, margin, verdict

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
SEARCH = 9  # L2L_RANDOM_SEARCH


# ---- the streams of random numbers ----

def philox(counter, key):
    """Philox4x32-10 over arrays of counters (4 x n)."""
    x = [np.asarray(v, np.uint64) for v in np.broadcast_arrays(*counter)]
    k, mask = [np.uint64(v) for v in key], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * x[0], np.uint64(0xCD9E8D57) * x[2]
        x = [(b >> np.uint64(32)) ^ x[1] ^ k[0], b & mask, (a >> np.uint64(32)) ^ x[3] ^ k[1], a & mask]
        k = [(k[0] + np.uint64(0x9E3779B9)) & mask, (k[1] + np.uint64(0xBB67AE85)) & mask]
    return np.stack(x)


def bits(images, epoch, step, count):
    """Elements 0..count-1 of the streams of these images, n x count; the seed is 0."""
    e = np.arange(count)[None, :]
    x = philox([e // 4, np.asarray(images)[:, None], epoch, step << 8 | SEARCH], [0, 0])
    return np.take_along_axis(x, np.broadcast_to(e % 4, x.shape[1:])[None], 0)[0]


def uniform(images, epoch, step, count):
    return (bits(images, epoch, step, count) >> np.uint64(8)) / 2.0**24


def normal(images, epoch, step, count):
    """Box and Muller's, from two numbers each."""
    even = count + count % 2
    u = uniform(images, epoch, step, even).reshape(len(images), -1, 2)
    r, a = np.sqrt(-2 * np.log(1 - u[..., 0])), 2 * np.pi * u[..., 1]
    return np.stack([r * np.cos(a), r * np.sin(a)], 2).reshape(len(images), even)[:, :count]


# ---- APGD ----

def ratio(z, y, targets):
    """The difference of logits ratio, targeted."""
    top = z.sort(1, descending=True)[0]
    gap = z.gather(1, targets[:, None])[:, 0] - z.gather(1, y[:, None])[:, 0]
    return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def look(net, loss, x):
    x = x.detach().requires_grad_()
    z = net(x)
    value = loss(z)
    g = torch.autograd.grad(value.sum(), x)[0]
    return value.detach(), g, z.detach()


def length(v):
    return by_image(flat(v).norm(dim=1))


def apgd(net, loss, x, y, eps, start, steps, l2):
    """Which images are fooled by an iterate of the walk from `start`."""
    def ball(v):
        if l2:
            return (x + (v - x) * (eps / length(v - x).clamp(min=1e-30)).clamp(max=1)).clamp(0, 1)
        return torch.minimum(torch.maximum(v, x - eps), x + eps).clamp(0, 1)

    def direction(g):
        return g / (length(g) + 1e-12) if l2 else g.sign()
    adv = old = ball(start)
    value, g, z = look(net, loss, adv)
    fooled = z.argmax(1) != y
    best, best_adv, best_g = value, adv, g
    eta = torch.full_like(value, 2 * eps)
    window, least, less = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    inside, rises, checked = 0, torch.zeros_like(value), best
    halved, previous = torch.ones_like(fooled), torch.zeros_like(value)
    for k in range(steps):
        move, old = adv - old, adv
        there = ball(adv + by_image(eta) * direction(g))
        a = 0.75 if k else 1.0
        adv = ball(old + a * (there - old) + (1 - a) * move)
        value, g, z = look(net, loss, adv)
        fooled |= z.argmax(1) != y
        rises += value > previous
        previous = value
        better = value > best
        best = torch.where(better, value, best)
        best_adv = torch.where(by_image(better), adv, best_adv)
        best_g = torch.where(by_image(better), g, best_g)
        inside += 1
        if inside == window:
            halved = (rises <= 0.75 * window) | (~halved & (checked >= best))
            checked = best
            eta = torch.where(halved, eta / 2, eta)
            adv = torch.where(by_image(halved), best_adv, adv)
            g = torch.where(by_image(halved), best_g, g)
            window, inside, rises = max(window - less, least), 0, torch.zeros_like(value)
    return fooled


def noise(x, images, phase, l2):
    """Of length 1: in l2 normal numbers, in l-infinity uniform ones."""
    if l2:
        t = torch.from_numpy(normal(images, phase, 0, x[0].numel())).view(x.shape)
        return t / (length(t) + 1e-12)
    t = 2 * uniform(images, phase, 0, x[0].numel()) - 1
    t = torch.from_numpy(t).view(x.shape)
    return t / (flat(t.abs()).max(1)[0] + 1e-12).view(-1, 1, 1, 1)


def apgd_ce(net, x, y, images, eps, steps, l2):
    start = (x + eps * noise(x, images, 0, l2)).float()
    return apgd(net, lambda z: F.cross_entropy(z, y, reduction="none"), x, y, eps, start, steps, l2)


def ranked(net, x, y, count):
    """The likeliest other classes, n x count."""
    with torch.no_grad():
        return net(x).scatter(1, y[:, None], -np.inf).sort(1, descending=True)[1][:, :count]


def towards_each(net, x, y, images, run):
    """Which images are fooled by a walk towards one of the likeliest other classes, one after the other
    on those that still stand; run(x, y, images, target, phase)."""
    fooled = torch.zeros(len(x), dtype=torch.bool)
    for phase in range(9):
        left = torch.nonzero(~fooled)[:, 0]
        if not len(left):
            break
        target = ranked(net, x[left], y[left], 9)[:, phase]
        fooled[left] = run(x[left], y[left], images[left.numpy()], target, phase)
    return fooled


def apgd_t(net, x, y, images, eps, steps, l2):
    def run(x, y, images, target, phase):
        start = (x + eps * noise(x, images, phase, l2)).float()
        return apgd(net, lambda z: ratio(z, y, target), x, y, eps, start, steps, l2)
    return towards_each(net, x, y, images, run)


# ---- FAB-T ----

def onto_plane(v, w, gap, l2):
    """From v to the nearest point in [0,1] where <w, .> is less by gap. A pixel moves by `step` times
    its pace, 1 or in l2 |w|, until it runs out of room. Sorted by when they do, those that have are
    the first ones."""
    down = (w > 0) == (gap > 0)[:, None]
    a, room = w.abs(), torch.where(down, v, 1 - v)
    pace = a if l2 else torch.ones_like(a)
    order = torch.where(a > 0, room / pace, torch.full_like(room, np.inf)).sort(1)
    until, rank_of = order[0], order[1]
    spent = (a * room).gather(1, rank_of).cumsum(1)
    free = (a * pace).gather(1, rank_of).flip(1).cumsum(1).flip(1)
    before = torch.cat([torch.zeros_like(spent[:, :1]), spent[:, :-1]], 1)
    reach = before + until * free  # what is gained when the pixel of this rank has just run out
    rank = (reach < gap.abs()[:, None]).sum(1, keepdim=True)
    short = rank[:, 0] == v.shape[1]
    rank = rank.clamp(max=v.shape[1] - 1)
    step = (gap.abs() - before.gather(1, rank)[:, 0]) / free.gather(1, rank)[:, 0].clamp(min=1e-30)
    step = torch.where(short, torch.full_like(step, 1e30), step)
    d = torch.minimum(step[:, None] * pace, room)
    return torch.where(w == 0, torch.zeros_like(d), torch.where(down, -d, d))


def fab_run(net, x, y, target, eps, steps, l2):
    def size(d):
        return d.norm(dim=1) if l2 else d.abs().max(1)[0]

    adv, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    clean = flat(x).double()
    for _ in range(steps):
        gap, g, _ = look(net, lambda z: z.gather(1, target[:, None])[:, 0] - z.gather(1, y[:, None])[:, 0], adv)
        w, here, gap = flat(g).double(), flat(adv).double(), gap.double()
        d = onto_plane(here, w, gap, l2)
        d0 = onto_plane(clean, w, gap - (w * (here - clean)).sum(1), l2)
        a, b = (size(t).clamp(min=1e-8) for t in (d, d0))
        alpha = (a / (a + b)).clamp(max=0.1)[:, None]
        here = ((1 - alpha) * (here + 1.05 * d) + alpha * (clean + 1.05 * d0)).clamp(0, 1)
        adv = here.float().view(x.shape)
        with torch.no_grad():
            there = net(adv).argmax(1) != y
        distance = size(flat(adv.double() - x.double()))
        fooled |= there & (distance <= eps)
        adv = torch.where(by_image(there), x + 0.9 * (adv - x), adv)
    return fooled


def fab_t(net, x, y, images, eps, steps, l2):
    return towards_each(net, x, y, images,
                        lambda x, y, images, target, phase: fab_run(net, x, y, target, eps, steps, l2))


# ---- Square ----

def side_of(window, h, w, share=0.8):
    for limit in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        share /= 2 if window > limit else 1
    return min(max(int(np.floor(np.sqrt(share * h * w) + 0.5)), 1), min(h, w))


def square_start(x, images, eps):
    n, c, h, w = x.shape
    sign = torch.from_numpy(np.where(bits(images, 0, 1, c * w) & np.uint64(1), eps, -eps)).view(n, c, 1, w)
    return x + sign


def square_trial(x, best, images, eps, t):
    """A window of `best` at +-eps."""
    n, c, h, w = x.shape
    rows, columns = torch.arange(h), torch.arange(w)
    side, b = side_of(t - 1, h, w), bits(images, 0, t, 2 + c)
    top, at = (place(b[:, i], size, side) for i, size in ((0, h), (1, w)))
    inside = ((rows >= top[:, None]) & (rows < top[:, None] + side))[:, :, None] & \
        ((columns >= at[:, None]) & (columns < at[:, None] + side))[:, None, :]
    value = torch.from_numpy(np.where(b[:, 2:] & np.uint64(1), eps, -eps)).view(n, c, 1, 1)
    return torch.where(inside[:, None], x + value, best.double())


def place(b, size, side):
    return torch.from_numpy(np.floor((b >> np.uint64(8)) / 2.0**24 * (size - side + 1)).astype(np.int64))


def bumps(side):
    """eta of the paper's algorithm 3: two heaps of centred squares, the k-th by 1/k^2, one up, one down."""
    eta = np.zeros((side, side))
    for rows, sign in ((range(side // 2), 1), (range(side // 2, side), -1)):
        high = len(rows)
        if not high:
            continue
        heap = np.zeros((high, side))
        for k in range(1 + max(high, side) // 2):
            heap[max(high // 2 - k, 0):high // 2 + k + 1, max(side // 2 - k, 0):side // 2 + k + 1] += 1.0 / (k + 1)**2
        eta[rows.start:rows.stop] = sign * heap / np.linalg.norm(heap)
    return eta / np.linalg.norm(eta)


def one_bit(b):
    return (b & np.uint64(1)).astype(bool)


def onto_border(x, d, eps):
    norm = np.sqrt((d**2).sum((1, 2, 3), keepdims=True))
    return torch.from_numpy(x.numpy() + eps * d / (norm + 1e-12))


def square_l2_start(x, images, eps):
    n, c, h, w = x.shape
    side = max(min(h, w) // 5, 1)
    rows, columns, eta, d = h // side, w // side, bumps(side), np.zeros(x.shape)
    b = bits(images, 0, 1, rows * columns * (1 + c))
    for tile in range(rows * columns):
        top = (h - rows * side) // 2 + tile // columns * side
        left = (w - columns * side) // 2 + tile % columns * side
        own = one_bit(b[:, tile * (1 + c):(tile + 1) * (1 + c)])
        lying = np.where(own[:, :1, None], eta.T[None], eta[None])
        d[:, :, top:top + side, left:left + side] = lying[:, None] * np.where(own[:, 1:], 1, -1)[:, :, None, None]
    return onto_border(x, d, eps)


def square_l2_trial(x, best, images, eps, t):
    """Image by image, as the paper's algorithm 3 with the lengths of AutoAttack's program."""
    n, c, h, w = x.shape
    side = min(max(side_of(t - 1, h, w), 3) | 1, h, w)
    eta, b = bumps(side), bits(images, 0, t, 5 + c)
    at = [place(b[:, i], (h, w)[i % 2], side).numpy() for i in range(4)]
    new = best.double().numpy() - x.double().numpy()
    for d, (top, left, top2, left2), r in zip(new, zip(*at), b):
        here = np.s_[:, top:top + side, left:left + side]
        there = np.s_[:, top2:top2 + side, left2:left2 + side]
        both = np.zeros(d.shape, bool)
        both[here] = both[there] = True
        left_over = max(eps**2 - (d**2).sum(), 0) / c + (d[both]**2).sum()
        old = d[here] / (1e-12 + np.sqrt((d[here]**2).sum((1, 2), keepdims=True)))
        v = old + (eta.T if one_bit(r[4]) else eta) * np.where(one_bit(r[5:]), 1, -1)[:, None, None]
        v *= np.sqrt(left_over) / (1e-12 + np.sqrt((v**2).sum((1, 2), keepdims=True)))
        d[there] = 0
        d[here] = v
    return onto_border(x, new, eps)


def square(net, x, y, images, eps, steps, l2):
    """As l2ladv.h has it: every image its own windows, with the last offset among them."""
    start, trial_of = (square_l2_start, square_l2_trial) if l2 else (square_start, square_trial)
    best = start(x, images, eps).clamp(0, 1).float()
    with torch.no_grad():
        most = margin(net(best), y)
    fooled = most > 0
    for t in range(2, steps + 1):
        left = torch.nonzero(~fooled)[:, 0]
        if not len(left):
            break
        trial = trial_of(x[left], best[left], images[left.numpy()], eps, t).clamp(0, 1).float()
        with torch.no_grad():
            z = net(trial)
        value = margin(z, y[left])
        better = (value > most[left]) | (z.argmax(1) != y[left])
        best[left[better]], most[left[better]] = trial[better], value[better]
        fooled[left] = z.argmax(1) != y[left]
    return fooled


# ---- both ----

def run_twin(net, x, y, eps, steps, batch, l2, only=None):
    """The stage that fools each image, or -1; 0 also for those that are wrong as they are. only: the
    one stage that is run."""
    stage = torch.full((len(x),), -1)
    seconds = []
    with torch.no_grad():
        stage[net(x).argmax(1) != y] = 0
    for k, attack in enumerate((apgd_ce, apgd_t, fab_t, square)):
        if only not in (None, k):
            continue
        begin = time.time()
        standing = torch.nonzero(stage < 0)[:, 0]
        for first in range(0, len(standing), batch):
            some = standing[first:first + batch]
            fooled = attack(net, x[some], y[some], some.numpy(), eps, 50 * steps if k == 3 else steps, l2)
            stage[some[fooled]] = k
        seconds.append(time.time() - begin)
        print("      %-8s PyTorch: %6.2f %% right, %.1f s" % (
            STAGES[k], 100 * float((stage < 0).double().mean()), seconds[-1]), flush=True)
    return stage.numpy(), seconds


def load(args, folder):
    x, y = attacks.digits()
    if args.data:
        x, y = (np.frombuffer(open(path, "rb").read()[header:], np.uint8)
                for path, header in zip(args.data, (16, 8)))
        x, y = x.reshape(len(y), 1, 28, 28) / np.float32(255), y.astype(np.int64)
    path = args.model
    if not path:
        path = os.path.join(folder, "model.safetensors")
        subprocess.check_call([os.path.join(attacks.ROOT, "examples", "bin", "train"), "--dataset", "embedded",
                               "--method", "advtrain", "--eps", "0.2", "--steps", "5", "--batch", "64",
                               "--epochs", "6", "--val", "0", "--seed", "5", "--threads", "1", "--save", path],
                              stdout=subprocess.DEVNULL)
    return x[:args.images], y[:args.images], path


def compare(when, theirs, ours):
    """Of each image whether it stands."""
    print("      %-14s PyTorch %.2f %% right, l2ladv.h %.2f %%" % (when, 100 * theirs.mean(), 100 * ours.mean()))
    verdict("%s: %% of images with another verdict" % when, 100 * float(np.mean(theirs != ours)), 1)
    verdict("%s: points between the accuracies" % when, 100 * abs(theirs.mean() - ours.mean()),
            max(0.3, 100.0 / len(ours)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--l2", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--eps", type=float)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--model")
    parser.add_argument("--data", nargs=2)
    args = parser.parse_args()
    if args.eps is None:
        args.eps = 1.5 if args.l2 else 0.2
    with tempfile.TemporaryDirectory(prefix="l2ladv-autoattack.") as folder:
        x, y, path = load(args, folder)
        arrays, _ = safetensors.load(path)
        width = arrays["feature_extractor.conv1.weight"].shape[0] / 32
        net = models.make("smallcnn", width)
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        net.eval().requires_grad_(False)
        ours = attacks.Ours(folder, path)
        common = net, torch.from_numpy(x), torch.from_numpy(y), args.eps, args.steps, args.batch, args.l2
        for only in range(len(STAGES)) if args.alone else (None,):
            begin = time.time()
            got = ours.stages(args.eps, args.steps, x, y, args.l2, only)
            ours_seconds = time.time() - begin
            expected, seconds = run_twin(*common, only)
            print("      l2ladv.h %.1f s, PyTorch %.1f s, for %d images" % (ours_seconds, sum(seconds), len(x)))
            for k, name in enumerate(STAGES):
                if only in (None, k):
                    compare(("under " if args.alone else "after ") + name, *(
                        np.where((s >= 0) & (s <= k), 0, 1) for s in (expected, got)))
    print("%d passed, %d failed" % (attacks.passed, attacks.failed))
    return attacks.failed != 0


if __name__ == "__main__":
    sys.exit(main())
