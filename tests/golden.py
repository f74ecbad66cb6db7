#!/usr/bin/python3
"""Computes the reference values of the tests with PyTorch in double precision and writes golden.h.

    python3 tests/golden.py > tests/golden.h

Inputs are not stored: fill() below and golden_fill() in golden_check.h make the same numbers from a
seed. An output is stored as {count, largest magnitude, projection, samples...}: up to 40 numbers are
stored all, of longer arrays 24 samples and the sum of value * noise, which sees every element.
Everything is in PyTorch's layout. Made with PyTorch 1.13 for Debian; any version should do.
"""
import math
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
CE = F.cross_entropy
SEARCH = 40  # seeds tried for images that keep their distance from kinks


# -- numbers both sides can make --------------------------------------------------------------

def fill(shape, seed, low=-1.0, high=1.0):
    """A linear congruential generator, its upper 24 bits mapped to [low,high), rounded to float."""
    n = int(np.prod(shape))
    power = np.cumprod(np.full(n, 1664525, np.uint32), dtype=np.uint32)  # a, a^2, ... modulo 2^32
    total = np.cumsum(np.concatenate([[1], power[:-1]]).astype(np.uint32), dtype=np.uint32)
    s = power * np.uint32((seed * 2654435761 + 1) & 0xFFFFFFFF) + total * np.uint32(1013904223)
    v = low + (high - low) * ((s >> np.uint32(8)) / 16777216.0)
    return torch.from_numpy(v.astype(np.float32).astype(np.float64).reshape(shape))


def emit(name, values):
    v = values.detach().reshape(-1).numpy() if torch.is_tensor(values) else np.asarray(values).reshape(-1)
    n = len(v)
    noise = fill((n,), 77).numpy()
    picked = v if n <= 40 else [v[j * (n - 1) // 23] for j in range(24)]
    numbers = [n, np.abs(v).max() if n else 0, float((v * noise).sum())] + list(picked)
    text = ", ".join(("%.13g" % x) for x in numbers)
    lines, line = [], "   "
    for word in text.split(" "):
        if len(line) + len(word) > 98:
            lines.append(line)
            line = "   "
        line += " " + word
    print("static const double golden_%s[] = {\n%s};" % (name, "\n".join(lines + [line])))


def table(kind, name, rows):
    print("static const %s %s[] = {" % (kind, name))
    for r in rows:
        print("    {%s}," % r)
    print("};")


def leaf(t):
    return t.clone().requires_grad_(True)


# -- Philox4x32-10 and the streams -------------------------------------------------------------

def philox(x, k):
    x, k = list(x), list(k)
    m = 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(b >> 32) ^ x[1] ^ k[0], b & m, (a >> 32) ^ x[3] ^ k[1], a & m]
        k = [(k[0] + 0x9E3779B9) & m, (k[1] + 0xBB67AE85) & m]
    return x


assert philox([0] * 4, [0] * 2) == [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
assert philox([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2) == [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
assert philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]) == \
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]


def stream(seed, purpose, epoch, image, step, count):
    """bits, uniform and normal numbers 0..count-1 of a stream."""
    key = [seed & 0xFFFFFFFF, seed >> 32]
    bits, normal = [], []
    for e in range(count):
        x = philox([e // 4, image, epoch, (step << 8 | purpose) & 0xFFFFFFFF], key)
        bits.append(x[e % 4])
        u0, u1 = (x[e % 4 & 2] >> 8) / 2.0**24, (x[(e % 4 & 2) + 1] >> 8) / 2.0**24
        r, a = math.sqrt(-2 * math.log(1 - u0)), 2 * math.pi * u1
        normal.append(r * (math.sin(a) if e & 1 else math.cos(a)))
    return bits, [(b >> 8) / 2.0**24 for b in bits], normal


def make_random():
    b, u, g = stream(0x0123456789ABCDEF, 4, 3, 70000, 1234567, 40)
    print("static const unsigned long golden_bits[] = {\n    %s};" %
          ", ".join(["0x%08xul" % x + ("\n   " if i % 8 == 7 and i < 39 else "") for i, x in enumerate(b)]).replace("\n   , ", ",\n    "))
    emit("uniform", u)
    emit("normal", g)


# -- operators ---------------------------------------------------------------------------------

CONV = [  # n, c, h, w, k, kernel, stride, padding
    (2, 1, 9, 9, 4, 3, 1, 0), (2, 3, 8, 7, 5, 3, 1, 1), (1, 4, 11, 9, 8, 3, 2, 1),
    (2, 8, 6, 6, 16, 1, 1, 0), (2, 8, 7, 7, 16, 1, 2, 0), (1, 3, 13, 15, 8, 5, 1, 2),
    (2, 2, 12, 12, 6, 5, 2, 0), (1, 3, 23, 21, 8, 7, 2, 3), (3, 5, 5, 5, 7, 3, 1, 2),
    (2, 16, 10, 10, 24, 3, 1, 1), (1, 32, 9, 9, 33, 3, 1, 0), (1, 2, 7, 9, 3, 5, 1, 3),
    (1, 1, 3, 3, 1, 3, 1, 0), (2, 3, 6, 10, 4, 7, 1, 3), (1, 3, 10, 10, 4, 3, 3, 1),
    (5, 17, 4, 4, 40, 3, 1, 1), (1, 3, 12, 9, 9, 3, 2, 0), (2, 4, 5, 8, 16, 5, 2, 2)]


def make_conv():
    rows = []
    for i, (n, c, h, w, k, r, s, p) in enumerate(CONV):
        x, wt, b = fill((n, c, h, w), 1000 + i), fill((k, c, r, r), 1100 + i), fill((k,), 1200 + i)
        x, wt, b = leaf(x), leaf(wt), leaf(b)
        y = F.conv2d(x, wt, b, s, p)
        dy = fill(y.shape, 1300 + i)
        g = torch.autograd.grad(y, [x, wt, b], dy)
        for part, v in zip(("y", "dx", "dw", "db"), [y] + list(g)):
            emit("conv%d_%s" % (i, part), v)
        rows.append("%s, %s" % (", ".join(map(str, CONV[i])),
                                ", ".join("golden_conv%d_%s" % (i, q) for q in ("y", "dx", "dw", "db"))))
    print("typedef struct golden_conv_case {\n    int n, c, h, w, k, kernel, stride, padding;\n"
          "    const double *y, *dx, *dw, *db;\n} golden_conv_case;")
    table("golden_conv_case", "golden_conv", rows)


def make_linear():
    x, w, b = leaf(fill((3, 4, 5, 6), 1)), leaf(fill((7, 120), 2)), leaf(fill((7,), 3))
    y = F.linear(x.flatten(1), w, b)
    g = torch.autograd.grad(y, [x, w, b], fill((3, 7), 4))
    for part, v in zip(("y", "dx", "dw", "db"), [y] + list(g)):
        emit("linear_" + part, v)


ELEMENTWISE = [  # name, low, high of the input, function
    ("relu", -1, 1, F.relu), ("leaky_relu", -1, 1, lambda x: F.leaky_relu(x, 0.1)),
    ("tanh", -3, 3, torch.tanh), ("sigmoid", -6, 6, torch.sigmoid), ("exp", -2, 2, torch.exp),
    ("log", 0.1, 4, torch.log), ("power", 0.2, 3, lambda x: x**2.5), ("abs", -1, 1, torch.abs),
    ("clamp", -1, 1, lambda x: torch.clamp(x, -0.3, 0.4)),
    ("affine", -1, 1, lambda x: 2.5 * x - 0.75)]


def make_elementwise():
    rows = []
    for i, (name, low, high, f) in enumerate(ELEMENTWISE):
        x = leaf(fill((2, 3, 7, 5), 2000 + i, low, high))
        y = f(x)
        dx, = torch.autograd.grad(y, x, fill(y.shape, 2100 + i))
        emit(name + "_y", y)
        emit(name + "_dx", dx)
        rows.append('"%s", %g, %g, golden_%s_y, golden_%s_dx' % (name, low, high, name, name))
    print("typedef struct golden_elementwise_case {\n    const char *name;\n    double low, high;\n"
          "    const double *y, *dx;\n} golden_elementwise_case;")
    table("golden_elementwise_case", "golden_elementwise", rows)
    z, x = leaf(fill((2, 3, 4, 5), 2200, -0.5, 1.5)), fill((2, 3, 4, 5), 2201, 0, 1)
    y = torch.clamp(z, (x - 0.25).clamp(min=0), (x + 0.25).clamp(max=1))
    emit("project_y", y)
    emit("project_dx", torch.autograd.grad(y, z, fill(y.shape, 2202))[0])


POOL = [  # maximum?, n, c, h, w, window, stride, padding
    (1, 2, 3, 8, 8, 2, 2, 0), (1, 2, 3, 9, 7, 2, 2, 0), (1, 2, 4, 9, 9, 3, 2, 1),
    (1, 1, 5, 8, 10, 3, 2, 1), (1, 2, 3, 7, 7, 3, 1, 1), (1, 1, 9, 9, 9, 3, 3, 0),
    (0, 2, 3, 8, 8, 2, 2, 0), (0, 2, 3, 9, 7, 3, 2, 1), (0, 1, 17, 8, 8, 4, 4, 0),
    (0, 2, 3, 7, 7, 3, 1, 1)]


def make_pool():
    rows = []
    for i, (m, n, c, h, w, k, s, p) in enumerate(POOL):
        x = leaf(fill((n, c, h, w), 3000 + i))
        y = F.max_pool2d(x, k, s, p) if m else F.avg_pool2d(x, k, s, p)
        dx, = torch.autograd.grad(y, x, fill(y.shape, 3100 + i))
        emit("pool%d_y" % i, y)
        emit("pool%d_dx" % i, dx)
        rows.append("%s, golden_pool%d_y, golden_pool%d_dx" % (", ".join(map(str, POOL[i])), i, i))
    print("typedef struct golden_pool_case {\n    int maximum, n, c, h, w, window, stride, padding;\n"
          "    const double *y, *dx;\n} golden_pool_case;")
    table("golden_pool_case", "golden_pool", rows)
    x = leaf(fill((2, 6, 5, 7), 3200))
    y = x.mean((2, 3))
    emit("global_average_y", y)
    emit("global_average_dx", torch.autograd.grad(y, x, fill(y.shape, 3201))[0])


def make_batch_norm():
    n, c, h, w = 4, 6, 5, 3
    gamma, beta = leaf(fill((c,), 4000, 0.5, 1.5)), leaf(fill((c,), 4001))
    mean, var = fill((c,), 4002), fill((c,), 4003, 0.5, 2)
    x = leaf(fill((n, c, h, w), 4004, -2, 3))
    dy = fill((n, c, h, w), 4005)
    y = F.batch_norm(x, mean, var, gamma, beta, False, 0.1, 1e-5)
    for part, v in zip(("y", "dx", "dgamma", "dbeta"),
                       [y] + list(torch.autograd.grad(y, [x, gamma, beta], dy))):
        emit("bn_eval_" + part, v)
    y = F.batch_norm(x, mean, var, gamma, beta, True, 0.1, 1e-5)
    for part, v in zip(("y", "dx", "dgamma", "dbeta"),
                       [y] + list(torch.autograd.grad(y, [x, gamma, beta], dy))):
        emit("bn_train_" + part, v)
    F.batch_norm(fill((n, c, h, w), 4006, 0, 1), mean, var, gamma, beta, True, 0.1, 1e-5)
    emit("bn_running_mean", mean)
    emit("bn_running_variance", var)


def make_losses():
    n, k = 6, 10
    z, q = leaf(fill((n, k), 5000, -4, 4)), leaf(fill((n, k), 5001, -4, 4))
    labels = torch.tensor([3, 0, 9, 5, 5, 1])
    for name, f in (("softmax", lambda: F.softmax(z, 1)), ("log_softmax", lambda: F.log_softmax(z, 1))):
        y = f()
        emit(name + "_y", y)
        emit(name + "_dx", torch.autograd.grad(y, z, fill((n, k), 5002))[0])
    dy = fill((n,), 5003)
    y = CE(z, labels, reduction="none")
    emit("cross_entropy_y", y)
    emit("cross_entropy_dx", torch.autograd.grad(y, z, dy)[0])
    y = (F.softmax(z, 1) * (F.log_softmax(z, 1) - F.log_softmax(q, 1))).sum(1)
    emit("kl_y", y)
    gp, gq = torch.autograd.grad(y, [z, q], dy)
    emit("kl_dp", gp)
    emit("kl_dq", gq)
    onehot = F.one_hot(labels, k).bool()
    y = z.masked_fill(onehot, -math.inf).max(1)[0] - z.gather(1, labels[:, None])[:, 0]
    emit("margin_y", y)
    emit("margin_dx", torch.autograd.grad(y, z, dy)[0])


def make_shapes():
    x = fill((3, 4, 5, 6), 6000)  # N C H W
    emit("sum_to_c", x.sum((0, 2, 3)))
    emit("sum_to_n", x.sum((1, 2, 3)))
    emit("sum_to_nhw", x.sum(1))
    emit("sum", x.sum())
    emit("mean", x.mean())
    a, b = leaf(x), leaf(fill((1, 4, 1, 1), 6001))
    for name, y in (("add", a + b), ("sub", a - b), ("mul", a * b)):
        emit(name + "_y", y)
        ga, gb = torch.autograd.grad(y, [a, b], fill(y.shape, 6002))
        emit(name + "_da", ga)
        emit(name + "_db", gb)


# -- second derivatives ------------------------------------------------------------------------

def hvp(loss, leaves, seed):
    g = torch.autograd.grad(loss, leaves, create_graph=True)
    s = sum((gi * fill(gi.shape, seed + i)).sum() for i, gi in enumerate(g))
    return g, torch.autograd.grad(s, leaves)


def make_hessians():
    # A: conv 3x3 (2 to 4) with bias, tanh, 2x2 maximum, linear to 5, mean cross-entropy
    x, w = leaf(fill((3, 2, 9, 9), 7000)), leaf(fill((4, 2, 3, 3), 7001))
    b, w2, b2 = leaf(fill((4,), 7002)), leaf(fill((5, 36), 7003)), leaf(fill((5,), 7004))
    y = F.max_pool2d(torch.tanh(F.conv2d(x, w, b)), 2)
    loss = CE(F.linear(y.flatten(1), w2, b2), torch.tensor([1, 4, 0]))
    g, h = hvp(loss, [x, w, b, w2, b2], 7010)
    emit("hess_a_loss", loss)
    for name, gi, hi in zip(("x", "w", "b", "w2", "b2"), g, h):
        emit("hess_a_g_" + name, gi)
        emit("hess_a_h_" + name, hi)
    # B: conv 3x3 padded (2 to 3), batch norm in training mode, sigmoid, global average, linear to 4
    x, w = leaf(fill((4, 2, 6, 6), 7100)), leaf(fill((3, 2, 3, 3), 7101))
    gamma, beta = leaf(fill((3,), 7102, 0.5, 1.5)), leaf(fill((3,), 7103))
    w2, b2 = leaf(fill((4, 3), 7104, -3, 3)), leaf(fill((4,), 7105))
    y = F.batch_norm(F.conv2d(x, w, None, 1, 1), None, None, gamma, beta, True, 0.1, 1e-5)
    loss = CE(F.linear(torch.sigmoid(y).mean((2, 3)), w2, b2), torch.tensor([1, 3, 0, 2]), reduction="sum")
    g, h = hvp(loss, [x, w, gamma, beta, w2, b2], 7110)
    emit("hess_b_loss", loss)
    for name, gi, hi in zip(("x", "w", "gamma", "beta", "w2", "b2"), g, h):
        emit("hess_b_g_" + name, gi)
        emit("hess_b_h_" + name, hi)


# -- outer optimizers --------------------------------------------------------------------------

OPTIMIZERS = [  # name, kind, rate, momentum, weight decay, nesterov, clip
    ("sgd", 0, 0.1, 0, 0, 0, 0), ("momentum", 0, 0.1, 0.9, 0, 0, 0),
    ("nesterov", 0, 0.05, 0.9, 5e-3, 1, 0), ("decay", 0, 0.1, 0, 1e-2, 0, 0),
    ("sgd_clip", 0, 0.1, 0.9, 1e-3, 0, 0.7), ("adam", 1, 1e-2, 0, 0, 0, 0),
    ("adam_decay", 1, 1e-2, 0, 1e-2, 0, 0), ("adam_clip", 1, 3e-3, 0, 0, 0, 1.2)]


def make_optimizers():
    rows = []
    for i, (name, kind, rate, momentum, decay, nesterov, clip) in enumerate(OPTIMIZERS):
        values = [leaf(fill((7,), 8000)), leaf(fill((5,), 8001))]
        o = torch.optim.Adam(values, rate, weight_decay=decay) if kind else \
            torch.optim.SGD(values, rate, momentum, 0, decay, bool(nesterov))
        for step in range(5):
            for j, v in enumerate(values):
                v.grad = fill(v.shape, 8100 + 10 * step + j)
            norm = math.sqrt(sum(float((v.grad**2).sum()) for v in values))
            if clip and norm > clip:
                for v in values:
                    v.grad *= clip / norm
            o.param_groups[0]["lr"] = rate * (1.0, 1.0, 0.5, 0.5, 0.25)[step]
            o.step()
        emit("optimizer_" + name, torch.cat(values))
        rows.append('"%s", %d, %g, %g, %g, %d, %g, golden_optimizer_%s' %
                    (name, kind, rate, momentum, decay, nesterov, clip, name))
    print("typedef struct golden_optimizer_case {\n    const char *name;\n    int kind;\n"
          "    double rate, momentum, weight_decay;\n    int nesterov;\n    double clip;\n"
          "    const double *values;\n} golden_optimizer_case;")
    table("golden_optimizer_case", "golden_optimizer", rows)


# -- TRADES' SmallCNN --------------------------------------------------------------------------

def smallcnn_parameters(channels, fc):
    shapes, c = [], 1
    for i, k in enumerate(channels):
        shapes += [("feature_extractor.conv%d.weight" % (i + 1), (k, c, 3, 3)),
                   ("feature_extractor.conv%d.bias" % (i + 1), (k,))]
        c = k
    c *= 16
    for i, k in enumerate((fc, fc, 10)):
        shapes += [("classifier.fc%d.weight" % (i + 1), (k, c)), ("classifier.fc%d.bias" % (i + 1), (k,))]
        c = k
    values = []
    for i, (name, s) in enumerate(shapes):
        bound = math.sqrt(6.0 / np.prod(s[1:])) if len(s) > 1 else 0.1
        values.append(leaf(fill(s, 9000 + i, -bound, bound)))
    return shapes, values


def smallcnn(p, x):
    for i in range(2):
        x = F.relu(F.conv2d(x, p[4 * i], p[4 * i + 1]))
        x = F.max_pool2d(F.relu(F.conv2d(x, p[4 * i + 2], p[4 * i + 3])), 2)
    x = F.relu(F.linear(x.flatten(1), p[8], p[9]))
    x = F.relu(F.linear(x, p[10], p[11]))
    return F.linear(x, p[12], p[13])


def make_smallcnn():
    shapes, p = smallcnn_parameters((8, 8, 16, 16), 48)
    assert sum(v.numel() for v in smallcnn_parameters((32, 32, 64, 64), 200)[1]) == 312202
    x, labels = leaf(fill((3, 1, 28, 28), 9100, 0, 1)), torch.tensor([3, 7, 1])
    z = smallcnn(p, x)
    emit("smallcnn_logits", z)
    emit("smallcnn_loss", CE(z, labels))
    emit("smallcnn_dx", torch.autograd.grad(CE(z, labels, reduction="sum"), x, retain_graph=True)[0])
    g = torch.autograd.grad(CE(z, labels), p)
    rows = []
    for i, (name, s) in enumerate(shapes):
        emit("smallcnn_g%d" % i, g[i])
        rows.append('"%s", %d, %d, %d, golden_smallcnn_g%d' % (name, len(s), p[i].numel(), np.prod(s[1:]), i))
    print("typedef struct golden_parameter_case {\n    const char *name;\n    int rank, count, fan_in;\n"
          "    const double *gradient;\n} golden_parameter_case;")
    table("golden_parameter_case", "golden_smallcnn", rows)


# -- the learned maximizer ---------------------------------------------------------------------

LSTM, RNN = 0, 1
SIGN, L1, LINF, LOG, RAW = range(5)
H = 10


def phi_shapes(cell, inputs, bias):
    g = 4 * H if cell == LSTM else H
    s = [(g, inputs), (g, H)]
    return s + [(g,), (1, H), (1,)] if bias else s + [(1, H)]


def phi_count(cell, inputs, bias):
    return sum(int(np.prod(s)) for s in phi_shapes(cell, inputs, bias))


assert (phi_count(LSTM, 1, True), phi_count(LSTM, 1, False), phi_count(RNN, 1, False)) == (491, 450, 120)


def transform(g, kind):
    """Raw gradient N,C,H,W to the cell's inputs, coordinates by inputs."""
    flat = g.flatten(1)
    if kind == SIGN:
        u = torch.sign(flat)
    elif kind == L1:
        u = flat * flat.shape[1] / flat.abs().sum(1, keepdim=True)
    elif kind == LINF:
        u = flat / flat.abs().max(1, keepdim=True)[0]
    elif kind == LOG:
        p = 10.0
        big = flat.abs() >= math.exp(-p)
        first = torch.where(big, torch.log(flat.abs().clamp(min=1e-300)) / p, torch.full_like(flat, -1.0))
        second = torch.where(big, torch.sign(flat), math.exp(p) * flat)
        return torch.stack([first, second], -1).reshape(-1, 2)
    else:
        u = flat
    return u.reshape(-1, 1)


class Maximizer:
    def __init__(self, phi, cell=LSTM, kind=SIGN, bias=True, raw_output=False, scale=1.0):
        self.cell, self.kind, self.bias, self.raw_output, self.scale = cell, kind, bias, raw_output, scale
        self.phi = phi

    def parts(self):
        out, at = [], 0
        for s in phi_shapes(self.cell, 2 if self.kind == LOG else 1, self.bias):
            n = int(np.prod(s))
            out.append(self.phi[at:at + n].reshape(s))
            at += n
        return out if self.bias else [out[0], out[1], 0.0, out[2], 0.0]

    def begin(self, x):
        self.h = torch.zeros(x.numel(), H)
        self.c = torch.zeros(x.numel(), H)

    def step(self, g, epsilon):
        w_ih, w_hh, b, w_out, b_out = self.parts()
        a = transform(g, self.kind) @ w_ih.T + self.h @ w_hh.T + b
        if self.cell == LSTM:
            i, f, z, o = a.chunk(4, 1)
            self.c = torch.sigmoid(f) * self.c + torch.sigmoid(i) * torch.tanh(z)
            self.h = torch.sigmoid(o) * torch.tanh(self.c)
        else:
            self.h = torch.tanh(a)
        out = (self.h @ w_out.T + b_out).reshape(g.shape)
        return self.scale * epsilon * (out if self.raw_output else torch.tanh(out))


def make_cells():
    """delta_t of T = 4 steps for made-up gradients, every cell and input."""
    rows = []
    cases = [(LSTM, k, True, False) for k in range(5)] + [(LSTM, SIGN, False, True), (RNN, SIGN, False, False),
                                                         (RNN, L1, True, False), (RNN, LOG, True, True)]
    for i, (cell, kind, bias, raw) in enumerate(cases):
        phi = fill((phi_count(cell, 2 if kind == LOG else 1, bias),), 10000 + i)
        m = Maximizer(phi, cell, kind, bias, raw, 0.7)
        m.begin(torch.zeros(2, 2, 3, 4))
        deltas = [m.step(fill((2, 2, 3, 4), 10100 + t, -1, 1)**5, 0.3) for t in range(4)]
        emit("cell%d" % i, torch.stack(deltas))
        rows.append("%d, %d, %d, %d, %d, golden_cell%d" % (cell, kind, bias, raw, phi.numel(), i))
    print("/* delta of 4 steps for the gradients fill(10100+t)^5, epsilon 0.3, scale 0.7 */")
    print("typedef struct golden_cell_case {\n    int cell, input, bias, raw_output, parameters;\n"
          "    const double *delta;\n} golden_cell_case;")
    table("golden_cell_case", "golden_cell", rows)


def start(x, seed, epoch, images, step, epsilon):
    """Line 8: Proj(x + 0.001 N(0,I)), purpose 4."""
    noise = [stream(seed, 4, epoch, i, step, x[0].numel())[2] for i in images]
    return project(x + 0.001 * torch.tensor(noise).reshape(x.shape), x, epsilon)


def project(z, x, epsilon):
    return torch.clamp(z, (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1))


def unroll(net, m, x, x0, labels, epsilon, T, order, greedy=False, objective=None):
    """L_phi with w_t = t, x'_T, and the smallest nonzero |g| / max |g| seen. order 0: g constant, 1: differentiated too."""
    objective = objective or (lambda z: CE(z, labels, reduction="sum"))
    m.begin(x)
    adv, L_phi, least, clipped = x0, 0.0, math.inf, 0
    for t in range(T):
        if greedy:
            adv = adv.detach()
        a = adv if order else adv.detach()
        if not a.requires_grad:
            a = a.requires_grad_(True)
        g, = torch.autograd.grad(objective(net(a)), a, create_graph=bool(order))
        size = g.detach().abs()
        least = min(least, float(size[size > 0].min() / size.max()))
        z = adv + m.step(g, epsilon)
        adv = project(z, x, epsilon)
        clipped += int((adv != z).sum())
        L_phi = L_phi + (t + 1) * objective(net(adv))
    return L_phi, adv, least, clipped


def smooth_parameters():
    """conv 3x3 padded (2 to 5) + bias, tanh, 2x2 average, linear to 4 on 2x6x6 images."""
    return [fill((5, 2, 3, 3), 11000, -0.8, 0.8), fill((5,), 11001), fill((4, 45), 11002, -2.5, 2.5), fill((4,), 11003)]


def smooth_net(p):
    return lambda x: F.linear(F.avg_pool2d(torch.tanh(F.conv2d(x, p[0], p[1], 1, 1)), 2).flatten(1), p[2], p[3])


def make_meta():
    """d(L_phi/n)/dphi after T = 3 steps; smooth network, start from line 8, seed 12345."""
    x, labels = fill((3, 2, 6, 6), 11010, 0.3, 0.7), torch.tensor([1, 3, 0])
    net, rows = smooth_net(smooth_parameters()), []
    cases = [  # cell, input, bias, raw_output, scale, order
        (LSTM, RAW, True, True, 0.2, 0), (LSTM, RAW, True, True, 0.2, 1), (LSTM, L1, True, True, 0.2, 0),
        (LSTM, L1, True, True, 0.2, 1), (LSTM, SIGN, True, False, 1.0, 0), (LSTM, SIGN, False, False, 1.0, 0),
        (RNN, L1, False, True, 0.2, 0), (RNN, RAW, True, True, 0.05, 1), (LSTM, LINF, True, False, 1.0, 0),
        (LSTM, LOG, True, False, 1.0, 0), (LSTM, LINF, True, True, 0.1, 1), (LSTM, LOG, True, True, 0.1, 1)]
    for i, (cell, kind, bias, raw, scale, order) in enumerate(cases):
        phi = leaf(fill((phi_count(cell, 2 if kind == LOG else 1, bias),), 11100 + i, -0.8, 0.8))
        m = Maximizer(phi, cell, kind, bias, raw, scale)
        x0 = start(x, 12345, 0, range(3), 0, 0.3)
        L, adv, least, clipped = unroll(net, m, x, x0, labels, 0.3, 3, order)
        g, = torch.autograd.grad(L / 3, phi)
        other, = torch.autograd.grad(unroll(net, m, x, x0, labels, 0.3, 3, order, True)[0] / 3, phi)
        one, = torch.autograd.grad(unroll(net, m, x, x0, labels, 0.3, 3, 0)[0] / 3, phi)
        sys.stderr.write("meta %d: |g|=%.3g greedy differs %.3g, first order %.3g, least %.2g, clipped %d\n" % (
            i, g.norm(), (g - other).norm() / g.norm(), (g - one).norm() / g.norm(), least, clipped))
        assert not order or clipped == 0
        emit("meta%d" % i, g)
        emit("meta%d_greedy" % i, other)
        emit("meta%d_adv" % i, adv)
        emit("meta%d_loss" % i, L)
        rows.append("%d, %d, %d, %d, %g, %d, %d, golden_meta%d, golden_meta%d_greedy, golden_meta%d_adv, golden_meta%d_loss"
                    % (cell, kind, bias, raw, scale, order, phi.numel(), i, i, i, i))
    x0 = start(x, 12345, 0, range(3), 0, 0.3)
    emit("meta_start", x0)
    print("typedef struct golden_meta_case {\n    int cell, input, bias, raw_output;\n    double scale;\n"
          "    int second_order, parameters;\n    const double *gradient, *greedy, *adv, *loss;\n} golden_meta_case;")
    table("golden_meta_case", "golden_meta", rows)


def tiny_parameters(seed):
    """conv 3x3 (1 to 4) + bias, ReLU, 2x2 maximum, linear to 5 on 1x8x8 images."""
    return [fill((4, 1, 3, 3), seed, -0.8, 0.8), fill((4,), seed + 1, -0.2, 0.2),
            fill((5, 36), seed + 2, -0.5, 0.5), fill((5,), seed + 3, -0.2, 0.2)]


def tiny_net(p):
    return lambda x: F.linear(F.max_pool2d(F.relu(F.conv2d(x, p[0], p[1])), 2).flatten(1), p[2], p[3])


def algorithm_one(seed, order_check=False):
    """Two passes of the loop, lines 5 to 16; n = 4, T = 3, epsilon 0.3, Adam 1e-2 on phi, 1e-3 on theta."""
    p = [leaf(v) for v in tiny_parameters(seed)]
    phi = leaf(fill((491,), seed + 4, -0.5, 0.5))
    o_phi, o_theta = torch.optim.Adam([phi], 1e-2, maximize=True), torch.optim.Adam(p, 1e-3)
    labels, out, margin = torch.tensor([2, 0, 4, 1]), [], math.inf
    for step in range(2):
        x = fill((4, 1, 8, 8), seed + 5 + step, 0, 1)
        m, net = Maximizer(phi), tiny_net(p)
        x0 = start(x, 999, 0, range(4), step, 0.3)
        L, adv, least, _ = unroll(net, m, x, x0, labels, 0.3, 3, 0)
        margin = min(margin, least)
        loss = CE(net(adv.detach()), labels)
        g_theta = torch.autograd.grad(loss, p)
        g_phi, = torch.autograd.grad(L / 4, phi)
        out.append((float(L), float(loss), g_phi, adv))
        for v, g in zip(p, g_theta):
            v.grad = g
        phi.grad = g_phi
        o_phi.step()
        o_theta.step()
    return p, phi, out, margin


def make_algorithm_one():
    # a seed for which no gradient entry is nearly zero, so that float and double see the same signs
    best = max(range(12000, 12400, 10), key=lambda s: algorithm_one(s)[3])
    p, phi, out, margin = algorithm_one(best)
    sys.stderr.write("algorithm 1: seed %d, smallest |g|/max|g| = %.3g\n" % (best, margin))
    print("enum { GOLDEN_ALGORITHM_SEED = %d };" % best)
    for step in range(2):
        emit("algorithm_L_phi%d" % step, [out[step][0]])
        emit("algorithm_loss%d" % step, [out[step][1]])
        emit("algorithm_g_phi%d" % step, out[step][2])
        emit("algorithm_adv%d" % step, out[step][3])
    emit("algorithm_phi", phi)
    for i, v in enumerate(p):
        emit("algorithm_theta%d" % i, v)


# -- networks with batch norm ------------------------------------------------------------------

class Kinks:
    """How near a network's ReLUs and maxima come to deciding otherwise: the smallest distance from
    the kink, in root mean squares of the tensor. Float and double agree where it is far above 1e-6."""
    least = math.inf

    @classmethod
    def note(cls, distance, scale):
        if distance.numel():
            cls.least = min(cls.least, float(distance.min()) / scale)


def scale_of(x):
    return float(x.detach().pow(2).mean().sqrt()) + 1e-300


def relu(x):
    Kinks.note(x.detach().abs(), scale_of(x))
    return F.relu(x)


def max_pool(x, window, stride, padding=0):
    p = F.pad(x.detach(), [padding] * 4, value=-math.inf)
    p = p.unfold(2, window, stride).unfold(3, window, stride).flatten(4).topk(2, -1)[0]
    p = p[p[..., 0] > 0]  # behind a ReLU: among zeros it does not matter which one wins
    Kinks.note(p[:, 0] - p[:, 1], scale_of(x))
    return F.max_pool2d(x, window, stride, padding)


class Vgg16(nn.Module):
    """VGG-16 with batch norm for 32x32 images (Simonyan and Zisserman 2015)."""
    def __init__(self, width, classes):
        super().__init__()
        self.plan, layers, c = [], [], 3
        for k in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
            if k == "M":
                layers += [nn.MaxPool2d(2, 2)]
            else:
                k = int(k * width)
                layers += [nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU()]
                c = k
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x):
        for layer in self.features:
            x = relu(x) if isinstance(layer, nn.ReLU) else \
                max_pool(x, 2, 2) if isinstance(layer, nn.MaxPool2d) else layer(x)
        return self.classifier(x.flatten(1))


class WideBlock(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c)
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(c, k, 1, stride, 0, bias=False) if c != k else None

    def forward(self, x):
        a = relu(self.bn1(x))
        y = self.conv2(relu(self.bn2(self.conv1(a))))
        return y + (self.convShortcut(a) if self.convShortcut else x)


class WideGroup(nn.Module):
    def __init__(self, c, k, stride, blocks):
        super().__init__()
        self.layer = nn.Sequential(*[WideBlock(k if i else c, k, 1 if i else stride) for i in range(blocks)])

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """Zagoruyko and Komodakis 2016, named as in TRADES."""
    def __init__(self, depth, width, classes):
        super().__init__()
        n, k = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, k[0], 3, 1, 1, bias=False)
        self.block1 = WideGroup(k[0], k[1], 1, n)
        self.block2 = WideGroup(k[1], k[2], 2, n)
        self.block3 = WideGroup(k[2], k[3], 2, n)
        self.bn1 = nn.BatchNorm2d(k[3])
        self.fc = nn.Linear(k[3], classes)

    def forward(self, x):
        x = relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.downsample = None
        if stride != 1 or c != k:
            self.downsample = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + (self.downsample(x) if self.downsample else x))


class ResNet18(nn.Module):
    """He et al. 2016, named as in torchvision."""
    def __init__(self, width, classes):
        super().__init__()
        k = [int(width * v) for v in (64, 64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(3, k[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(k[0])
        for g in range(1, 5):
            setattr(self, "layer%d" % g, nn.Sequential(BasicBlock(k[g - 1], k[g], 1 if g == 1 else 2),
                                                       BasicBlock(k[g], k[g], 1)))
        self.fc = nn.Linear(k[4], classes)

    def forward(self, x):
        x = max_pool(relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for g in range(1, 5):
            x = getattr(self, "layer%d" % g)(x)
        return self.fc(x.mean((2, 3)))


class SmallCnn(nn.Module):
    """TRADES' SmallCNN; only its names and shapes are used."""
    def __init__(self):
        super().__init__()
        self.feature_extractor, self.classifier = nn.Module(), nn.Module()
        for i, (c, k) in enumerate(((1, 32), (32, 32), (32, 64), (64, 64))):
            setattr(self.feature_extractor, "conv%d" % (i + 1), nn.Conv2d(c, k, 3))
        for i, (c, k) in enumerate(((1024, 200), (200, 200), (200, 10))):
            setattr(self.classifier, "fc%d" % (i + 1), nn.Linear(c, k))


def tensors_of(net):
    """Names, tensors and whether they are trained; num_batches_tracked aside."""
    trained = {name for name, _ in net.named_parameters()}
    return [(name, v, name in trained) for name, v in net.state_dict(keep_vars=True).items()
            if not name.endswith("num_batches_tracked")]


def line_of(name, v, trained):
    s = list(v.shape) + [1] * (4 - v.dim())
    return "%s %d %d %d %d %d %d" % (name, v.dim(), s[0], s[1], s[2], s[3], trained)


def digest(lines):
    """The sum of the lines' FNV-1a: their order does not matter."""
    total = 0
    for line in lines:
        h = 0xcbf29ce484222325
        for byte in line.encode():
            h = (h ^ byte) * 0x100000001b3 & 0xFFFFFFFFFFFFFFFF
        total += h
    return total & 0xFFFFFFFFFFFFFFFF


def make_census():
    """Parameter counts, and names and shapes as a digest."""
    rows, count = [], {}
    for arch, width, depth, make in (
            ("smallcnn", 1, 0, SmallCnn), ("vgg16", 1, 0, lambda: Vgg16(1, 10)),
            ("vgg16", 0.25, 0, lambda: Vgg16(0.25, 10)), ("wrn", 10, 34, lambda: WideResNet(34, 10, 10)),
            ("wrn", 2, 10, lambda: WideResNet(10, 2, 10)), ("wrn", 1, 16, lambda: WideResNet(16, 1, 10)),
            ("resnet18", 1, 0, lambda: ResNet18(1, 9)), ("resnet18", 0.5, 0, lambda: ResNet18(0.5, 9))):
        with torch.no_grad():
            kept, torch.nn.init.kaiming_uniform_ = torch.nn.init.kaiming_uniform_, lambda t, *a, **k: t
            net = make()
            torch.nn.init.kaiming_uniform_ = kept
        all_of = tensors_of(net)
        n = count[arch, width] = sum(v.numel() for _, v, trained in all_of if trained)
        code = digest(line_of(*t) for t in all_of)
        rows.append('"%s", %g, %d, %d, %d, {0x%08xu, 0x%08xu}' %
                    (arch, width, depth, n, len(all_of), code >> 32, code & 0xFFFFFFFF))
    assert [count[a] for a in (("smallcnn", 1), ("vgg16", 1), ("wrn", 10), ("resnet18", 1))] == \
        [312202, 14728266, 46160474, 11181129]
    print("/* Trainable numbers, tensors without num_batches_tracked, digest of names and shapes. */")
    print("typedef struct golden_census_case {\n    const char *arch;\n    double width;\n"
          "    int depth, parameters, tensors;\n    unsigned digest[2];\n} golden_census_case;")
    table("golden_census_case", "golden_census", rows)


def seed_tensors(net, seed):
    """Tensor i of the list gets fill(seed + i); returns the ranges."""
    ranges = []
    for i, (name, v, _) in enumerate(tensors_of(net)):
        owner = net.get_submodule(name.rsplit(".", 1)[0])
        if v.dim() > 1:
            bound = math.sqrt((6.0 if v.dim() == 4 else 1.0) / np.prod(v.shape[1:]))
            low, high = -round(bound, 4), round(bound, 4)
        elif name.endswith("running_var") or (isinstance(owner, nn.BatchNorm2d) and name.endswith("weight")):
            low, high = 0.5, 1.5
        else:
            low, high = -0.3, 0.3
        v.data.copy_(fill(v.shape, seed + i, low, high))
        ranges.append((low, high))
    return ranges


def brief(v):
    """{largest magnitude, projection, first} of a tensor."""
    v = v.detach().reshape(-1).numpy()
    return [np.abs(v).max(), float((v * fill((len(v),), 77).numpy()).sum()), v[0]]


NETWORKS = [  # arch, width multiplier, depth, height, width, classes, network
    ("vgg16", 0.125, 0, 32, 32, 10, lambda: Vgg16(0.125, 10)),
    ("wrn", 1, 10, 14, 10, 10, lambda: WideResNet(10, 1, 10)),
    ("resnet18", 0.125, 0, 40, 36, 9, lambda: ResNet18(0.125, 9))]


def run_network(net, seed, x, labels, training):
    """Logits, loss, gradients of the mean loss by x and by all tensors (None for buffers)."""
    seed_tensors(net, seed)
    net.train(training)
    x = leaf(x)
    z = net(x)
    loss = CE(z, labels)
    g = torch.autograd.grad(loss, [x] + list(net.parameters()))
    found = dict(zip([name for name, _ in net.named_parameters()], g[1:]))
    return z, loss, g[0], found


def make_networks():
    labels, cases = torch.tensor([3, 7, 1]), []
    print("/* A tensor of a network: its values are fill(seed + i, low, high); {largest, projection, first}\n"
          "   of its gradient in evaluation and in training mode, of buffers of the values after a pass. */")
    print("typedef struct golden_network_tensor {\n    const char *name;\n    int rank, shape[4], trained;\n"
          "    double low, high, evaluate[3], train[3];\n} golden_network_tensor;")
    for n, (arch, width, depth, h, w, classes, make) in enumerate(NETWORKS):
        net, seed = make(), 30000 + 1000 * n
        ranges = seed_tensors(net, seed)

        def margin(s):
            Kinks.least = math.inf
            for training in (False, True):
                run_network(net, seed, fill((3, 3, h, w), s, 0, 1), labels, training)
            return Kinks.least
        image = max(range(seed + 500, seed + 500 + SEARCH), key=margin)
        sys.stderr.write("%s: images %d, least distance from a kink %.2g\n" % (arch, image, margin(image)))
        assert margin(image) > 1e-5
        x, rows = fill((3, 3, h, w), image, 0, 1), {}
        for training, mode in ((False, "evaluate"), (True, "train")):
            z, loss, dx, found = run_network(net, seed, x, labels, training)
            sys.stderr.write("    %s: loss %.4g, largest logit %.3g, |dx| %.2g\n" % (
                mode, loss, z.abs().max(), dx.norm()))
            emit("%s_%s_logits" % (arch, mode), z)
            emit("%s_%s_loss" % (arch, mode), loss)
            emit("%s_%s_dx" % (arch, mode), dx)
            for name, v, trained in tensors_of(net):
                r = brief(found[name]) if trained else brief(v) if training else [0] * 3
                if training and arch == "vgg16" and name.endswith("bias") and v.dim() == 1 and \
                        isinstance(net.get_submodule(name[:-5]), nn.Conv2d):
                    assert r[0] < 1e-12  # batch norm takes it away again
                    r = [0] * 3
                rows.setdefault(name, []).append(r)
        text = []
        for (name, v, trained), (low, high) in zip(tensors_of(net), ranges):
            s = list(v.shape) + [1] * (4 - v.dim())
            text.append('"%s", %d, {%d, %d, %d, %d}, %d, %g, %g,\n     {%s},\n     {%s}' % (
                (name, v.dim()) + tuple(s) + (trained, low, high) +
                tuple(", ".join("%.10g" % q for q in r) for r in rows[name])))
        table("golden_network_tensor", "golden_%s" % arch, text)
        cases.append('"%s", %g, %d, %d, %d, %d, %d, %d, %d, golden_%s, {golden_%s_evaluate_logits, '
                     'golden_%s_train_logits},\n     {golden_%s_evaluate_loss, golden_%s_train_loss},\n'
                     '     {golden_%s_evaluate_dx, golden_%s_train_dx}' %
                     ((arch, width, depth, h, w, classes, seed, image, len(text)) + (arch,) * 7))
    print("typedef struct golden_network_case {\n    const char *arch;\n    double width_multiplier;\n"
          "    int depth, height, width, classes, seed, images, tensors;\n    const golden_network_tensor *tensor;\n"
          "    const double *logits[2], *loss[2], *dx[2];\n} golden_network_case;")
    table("golden_network_case", "golden_network", cases)


# -- batch norm under second derivatives and under the unroll ----------------------------------

def make_norm_hessians():
    """conv 3x3 (2 to 3), batch norm + a 1x1 convolution of x + ReLU, 2x2 average, linear to 4."""
    labels, names = torch.tensor([1, 3, 0, 2]), ("x", "w", "gamma", "beta", "wr", "w2", "b2")
    for training, letter in ((False, "c"), (True, "d")):
        def build(s):
            Kinks.least = math.inf
            x, w = leaf(fill((4, 2, 6, 6), s)), leaf(fill((3, 2, 3, 3), s + 1))
            gamma, beta = leaf(fill((3,), s + 2, 0.5, 1.5)), leaf(fill((3,), s + 3, -0.3, 0.3))
            mean, variance = fill((3,), s + 4, -0.3, 0.3), fill((3,), s + 5, 0.5, 1.5)
            wr, w2, b2 = leaf(fill((3, 2, 1, 1), s + 6)), leaf(fill((4, 27), s + 7)), leaf(fill((4,), s + 8))
            y = F.batch_norm(F.conv2d(x, w, None, 1, 1), mean, variance, gamma, beta, training, 0.1, 1e-5)
            y = F.avg_pool2d(relu(y + F.conv2d(x, wr)), 2)
            return CE(F.linear(y.flatten(1), w2, b2), labels, reduction="sum"), [x, w, gamma, beta, wr, w2, b2]

        def margin(s):
            build(s)
            return Kinks.least
        seed = max(range(7200, 7600, 20), key=margin)
        sys.stderr.write("hessian %s: seed %d, least distance from a kink %.2g\n" % (letter, seed, margin(seed)))
        assert margin(seed) > 1e-4
        print("enum { GOLDEN_HESS_%s_SEED = %d };" % (letter.upper(), seed))
        loss, leaves = build(seed)
        g, h = hvp(loss, leaves, seed + 10)
        emit("hess_%s_loss" % letter, loss)
        for name, gi, hi in zip(names, g, h):
            emit("hess_%s_g_%s" % (letter, name), gi)
            emit("hess_%s_h_%s" % (letter, name), hi)


def normed_parameters():
    """In the order of the layers: conv1 with bias, bn1, conv2 without, bn2, fc; 2x6x6 to 4 classes."""
    return [fill((4, 2, 3, 3), 13000, -0.6, 0.6), fill((4,), 13001, -0.3, 0.3),
            fill((4,), 13002, 0.5, 1.5), fill((4,), 13003, -0.3, 0.3), fill((4,), 13004, -0.3, 0.3),
            fill((4,), 13005, 0.5, 1.5), fill((5, 4, 3, 3), 13006, -0.6, 0.6), fill((5,), 13007, 0.5, 1.5),
            fill((5,), 13008, -0.3, 0.3), fill((5,), 13009, -0.3, 0.3), fill((5,), 13010, 0.5, 1.5),
            fill((4, 45), 13011, -1.5, 1.5), fill((4,), 13012, -1, 1)]


def normed_net(p, squash):
    """Evaluation mode. squash is tanh or relu."""
    def net(x):
        y = F.batch_norm(F.conv2d(x, p[0], p[1], 1, 1), p[4], p[5], p[2], p[3], False, 0.1, 1e-5)
        y = F.conv2d(F.avg_pool2d(squash(y), 2), p[6], None, 1, 1)
        y = F.batch_norm(y, p[9], p[10], p[7], p[8], False, 0.1, 1e-5)
        return F.linear(squash(y).flatten(1), p[11], p[12])
    return net


def make_norm_meta():
    """As make_meta, on a network with batch norm."""
    labels, rows = torch.tensor([1, 3, 0]), []
    cases = [  # ReLU instead of tanh, cell, input, raw_output, scale, order
        (0, LSTM, RAW, True, 0.2, 0), (0, LSTM, RAW, True, 0.2, 1), (0, LSTM, L1, True, 0.1, 1),
        (0, RNN, RAW, True, 0.05, 1), (0, LSTM, SIGN, False, 1.0, 0), (1, LSTM, L1, True, 0.2, 0),
        (1, RNN, RAW, True, 0.05, 1)]
    for i, (relus, cell, kind, raw, scale, order) in enumerate(cases):
        net = normed_net(normed_parameters(), relu if relus else torch.tanh)

        def run(s, second=order, greedy=False):
            Kinks.least = math.inf
            x = fill((3, 2, 6, 6), 13020, 0.3, 0.7)
            phi = leaf(fill((phi_count(cell, 1, True),), s, -0.8, 0.8))
            m = Maximizer(phi, cell, kind, True, raw, scale)
            L, adv, least, clipped = unroll(net, m, x, start(x, 12345, 0, range(3), 0, 0.3), labels, 0.3, 3,
                                            second, greedy)
            return torch.autograd.grad(L / 3, phi)[0], L, adv, min(least if kind == SIGN else 1, Kinks.least), clipped
        first = 13100 + 40 * i
        seed = max(range(first, first + 40), key=lambda s: run(s, 0)[3]) if relus or kind == SIGN else first
        g, L, adv, least, clipped = run(seed)
        sys.stderr.write("norm meta %d: |g|=%.3g first order %.3g, greedy %.3g, least %.2g, clipped %d\n" % (
            i, g.norm(), (g - run(seed, 0)[0]).norm() / g.norm(), (g - run(seed, order, True)[0]).norm() / g.norm(),
            least, clipped))
        assert least > 3e-5 and (not order or clipped == 0)
        emit("norm_meta%d" % i, g)
        emit("norm_meta%d_first" % i, brief(run(seed, 0)[0])[:2])
        emit("norm_meta%d_loss" % i, L)
        rows.append("%d, %d, %d, %d, %g, %d, %d, %d, golden_norm_meta%d, golden_norm_meta%d_first, "
                    "golden_norm_meta%d_loss" %
                    (relus, cell, kind, raw, scale, order, g.numel(), seed, i, i, i))
    print("/* first: largest entry and projection of the first-order gradient */")
    print("typedef struct golden_norm_meta_case {\n    int relu, cell, input, raw_output;\n    double scale;\n"
          "    int second_order, parameters, seed;\n    const double *gradient, *first, *loss;\n"
          "} golden_norm_meta_case;")
    table("golden_norm_meta_case", "golden_norm_meta", rows)


# -- the defences ------------------------------------------------------------------------------

def kl(p, q):
    return (F.softmax(p, 1) * (F.log_softmax(p, 1) - F.log_softmax(q, 1))).sum(1)


def make_trades():
    """The outer loss on the network with batch norm in training mode; one whole step of TRADES."""
    p, labels, beta = normed_parameters(), torch.tensor([1, 3, 0]), 2.5
    buffers = (4, 5, 9, 10)
    p = [v if i in buffers else leaf(v) for i, v in enumerate(p)]

    def net(x):
        y = F.batch_norm(F.conv2d(x, p[0], p[1], 1, 1), p[4], p[5], p[2], p[3], True, 0.1, 1e-5)
        y = F.conv2d(F.avg_pool2d(torch.tanh(y), 2), p[6], None, 1, 1)
        y = F.batch_norm(y, p[9], p[10], p[7], p[8], True, 0.1, 1e-5)
        return F.linear(torch.tanh(y).flatten(1), p[11], p[12])

    def descend(x, adv):
        loss = CE(net(x), labels)
        attacked = net(adv)
        loss = loss + beta * kl(net(x), attacked).mean()
        theta = [v for i, v in enumerate(p) if i not in buffers]
        return loss, torch.autograd.grad(loss, theta)
    x = fill((3, 2, 6, 6), 14000, 0, 1)
    loss, g = descend(x, fill((3, 2, 6, 6), 14001, 0, 1))
    assert g[1].abs().max() < 1e-12  # batch norm takes the first bias away again
    emit("trades_loss", loss)
    g, rows = list(g), []
    for i, v in enumerate(p):
        r = brief(v) if i in buffers else brief(g.pop(0))
        rows.append(", ".join("%.13g" % (0 if i == 1 else q) for q in r))
    print("/* {largest, projection, first} of each gradient, of buffers of the values after the step */")
    print("static const double golden_trades[][3] = {\n    {%s}};" % "},\n    {".join(rows))
    for i, v in enumerate(normed_parameters()):
        p[i].data.copy_(v)
    still = normed_net([v.detach() for v in p], torch.tanh)
    clean, adv = still(x).detach(), start(x, 12345, 0, range(3), 0, 0.1)
    for t in range(3):
        a = leaf(adv)
        g, = torch.autograd.grad(kl(clean, still(a)).sum(), a)
        adv = project(adv + 0.04 * torch.sign(g), x, 0.1)
    loss, g = descend(x, adv)
    emit("trades_step_adv", adv)
    emit("trades_step_loss", loss)
    emit("trades_step_theta", p[11] - 0.5 * g[7])


def make_rnn_trades():
    """As make_norm_meta, with KL to the clean logits as the inner objective, from a uniform start."""
    x, rows, labels = fill((3, 2, 6, 6), 13020, 0.3, 0.7), [], torch.tensor([1, 3, 0])
    noise = torch.tensor([stream(12345, 4, 0, i, 0, 72)[1] for i in range(3)]).reshape(x.shape)
    x0 = project(x + 0.3 * (2 * noise - 1), x, 0.3)
    net = normed_net(normed_parameters(), torch.tanh)
    clean = net(x)
    for i, (cell, kind, raw, scale, order) in enumerate(
            [(LSTM, L1, True, 0.1, 0), (LSTM, L1, True, 0.1, 1), (RNN, SIGN, False, 1.0, 0)]):
        def run(s, second=order, greedy=False):
            phi = leaf(fill((phi_count(cell, 1, True),), s, -0.8, 0.8))
            m = Maximizer(phi, cell, kind, True, raw, scale)
            L, adv, least, clipped = unroll(net, m, x, x0, labels, 0.3, 3, second, greedy,
                                            lambda z: kl(clean, z).sum())
            return torch.autograd.grad(L / 3, phi)[0], L, least if kind == SIGN else 1
        first = 14100 + 40 * i
        seed = max(range(first, first + 40), key=lambda s: run(s, 0)[2]) if kind == SIGN else first
        g, L, least = run(seed)
        sys.stderr.write("rnn-trades %d: |g|=%.3g first order %.3g, greedy %.3g, least %.2g\n" % (
            i, g.norm(), (g - run(seed, 0)[0]).norm() / g.norm(),
            (g - run(seed, order, True)[0]).norm() / g.norm(), least))
        assert least > 3e-5
        emit("rnn_trades%d" % i, g)
        emit("rnn_trades%d_loss" % i, L)
        rows.append("%d, %d, %d, %g, %d, %d, %d, golden_rnn_trades%d, golden_rnn_trades%d_loss" %
                    (cell, kind, raw, scale, order, g.numel(), seed, i, i))
    print("typedef struct golden_rnn_trades_case {\n    int cell, input, raw_output;\n    double scale;\n"
          "    int second_order, parameters, seed;\n    const double *gradient, *loss;\n} golden_rnn_trades_case;")
    table("golden_rnn_trades_case", "golden_rnn_trades", rows)


def generator_shapes(c, k, classes, z=8):
    """L2LDA's generator in the order of its layers; running statistics are the last two of a norm."""
    def norm(name):
        return [(name + ".norm." + part, (classes + 1, k) if part in ("weight", "bias") else (k,))
                for part in ("weight", "bias", "running_mean", "running_var")]
    return [("z_encoder.0.weight", (z, z)), ("z_encoder.0.bias", (z,)), ("z_encoder.2.weight", (z, z)),
            ("z_encoder.2.bias", (z,)), ("down0.conv.weight", (k, 3 * c + z, 3, 3)),
            ("down1.conv.weight", (k, k + z, 4, 4))] + norm("down1") + \
        [("down2.conv.weight", (2 * k, k + z, 4, 4)), ("up2.upconv.weight", (2 * k, k, 4, 4))] + norm("up2") + \
        [("up1.upconv.weight", (2 * k, k, 4, 4))] + norm("up1") + [("final.0.weight", (c, 2 * k, 3, 3))]


def generator_range(name, s):
    if len(s) == 4:
        return (math.sqrt(6.0 / (s[0] * 4 if "up" in name else np.prod(s[1:]))),) * 2
    return (0.3, 0.3) if name.endswith(("bias", "mean")) else (-0.5, 1.5) if name.endswith("var") else (0.5, 0.5)


def generator(p, x, g, delta, y, z, training):
    """p by name. The leaky and the plain ReLUs note how near they are to their kinks."""
    def norm(name, h):
        w, b = p[name + ".weight"], p[name + ".bias"]
        h = F.batch_norm(h, p[name + ".running_mean"], p[name + ".running_var"], None, None, training, 0.1, 1e-10)
        return h * (w[y] + w[-1])[:, :, None, None] + (b[y] + b[-1])[:, :, None, None]

    def leaky(h):
        Kinks.note(h.detach().abs(), scale_of(h))
        return F.leaky_relu(h, 0.2)

    def down(name, h, stride, normed):
        tiled = z[:, :, None, None].expand(-1, -1, h.shape[2], h.shape[3])
        h = F.conv2d(torch.cat((h, tiled), 1), p[name + ".conv.weight"], None, stride, 1)
        return leaky(norm(name + ".norm", h) if normed else h)

    def up(name, h, skip):
        h = norm(name + ".norm", F.conv_transpose2d(h, p[name + ".upconv.weight"], None, 2, 1))
        return torch.cat((relu(h), skip), 1)
    for layer in ("z_encoder.0", "z_encoder.2"):
        z = relu(F.linear(z, p[layer + ".weight"], p[layer + ".bias"]))
    d0 = down("down0", torch.cat((x, g, delta), 1), 1, False)
    d1 = down("down1", d0, 2, True)
    d2 = down("down2", d1, 2, False)
    return torch.tanh(F.conv2d(up("up1", up("up2", d2, d1), d0), p["final.0.weight"], None, 1, 1))


def make_generator():
    """One training step of L2LDA (lambda 0.5, T 3, epsilon 0.3) and its attack."""
    for c, count in ((1, 495184), (3, 500944)):
        assert sum(np.prod(s) for name, s in generator_shapes(c, 64, 10) if "running" not in name) == count
    shapes, labels, epsilon, n, T, diversity = generator_shapes(1, 8, 5), torch.tensor([2, 0, 4]), 0.3, 3, 3, 0.5
    f = [leaf(fill((5, 1, 3, 3), 15000, -0.8, 0.8)), leaf(fill((5,), 15001)),
         leaf(fill((5, 80), 15002, -2.5, 2.5)), leaf(fill((5,), 15003))]
    net, x = smooth_net(f), fill((n, 1, 8, 8), 15010, 0, 1)

    def clip(v, low, high):
        Kinks.note(torch.minimum((v - low).abs(), (v - high).abs()).detach(), 1)
        return torch.clamp(v, low, high)

    def normalised(image, labels):
        a = leaf(image.detach())
        g, = torch.autograd.grad(CE(net(a), labels, reduction="sum"), a)
        return g / (g + 1e-15).flatten(2).norm(dim=2)[:, :, None, None]

    def attack(p, x, labels, z, training):
        """x'_1 .. x'_T"""
        delta, image, out = torch.zeros_like(x), x, []
        for t in range(T):
            step = generator(p, x, normalised(image, labels), delta, labels, z, training)
            delta = clip(delta + epsilon / 4 * step, -epsilon, epsilon)
            image = clip(x + delta, 0.0, 1.0)
            out.append(image)
        return out

    def make(seed):
        p = {}
        for i, (name, s) in enumerate(shapes):
            low, high = generator_range(name, s)
            v = fill(s, seed + i, -round(low, 4), round(high, 4))
            p[name] = v if "running" in name else leaf(v)
        return p

    def step(seed):
        Kinks.least = math.inf
        p, draws = make(seed), torch.tensor([stream(777, 8, 0, i, 0, 16)[2] for i in range(n)])
        z, y = torch.cat((draws[:, :8], draws[:, 8:])), torch.cat((labels, labels))
        images, loss = attack(p, torch.cat((x, x)), y, z, True), 0.0
        for image in images:
            apart = (image[:n] - image[n:]).abs()
            Kinks.note(apart[apart > 0].detach(), 1)
            ratio = apart.mean((1, 2, 3)) / ((z[:n] - z[n:]).abs().mean(1) + 1e-8)
            loss = loss - CE(net(image), y) - diversity * ratio.mean()
        trained = [v for name, v in p.items() if "running" not in name]
        return p, torch.autograd.grad(loss, trained), images[-1].detach()
    first = 15100
    def margin(seed):
        step(seed)
        return Kinks.least
    seed = max(range(first, first + 30 * SEARCH, 30), key=margin)
    p, g, image = step(seed)
    sys.stderr.write("generator: seed %d, least distance from a kink %.2g, |g| %.3g\n" % (
        seed, margin(seed), math.sqrt(sum(float((v**2).sum()) for v in g))))
    assert Kinks.least > 2e-6
    print("enum { GOLDEN_GENERATOR_SEED = %d };" % seed)
    loss = CE(net(torch.cat((x, image))), torch.cat((labels, labels, labels)))
    emit("generator_f_loss", loss)
    emit("generator_right", [float((net(image[:n]).argmax(1) == labels).sum())])
    emit("generator_f", f[2] - 0.25 * torch.autograd.grad(loss, f)[2])
    g, rows = list(g), []
    for name, s in shapes:
        low, high = generator_range(name, s)
        r = brief(p[name]) if "running" in name else brief(g.pop(0))
        rows.append('"%s", %d, %g, %g, {%s}' % (name, np.prod(s), -round(low, 4), round(high, 4),
                                                ", ".join("%.10g" % q for q in r)))
    print("/* {largest, projection, first} of the gradient of Loss_G, of buffers of the values after the step */")
    print("typedef struct golden_generator_tensor {\n    const char *name;\n    int count;\n"
          "    double low, high, value[3];\n} golden_generator_tensor;")
    table("golden_generator_tensor", "golden_generator", rows)
    with torch.enable_grad():
        z = torch.tensor([stream(5, 8, 0, i, 0, 8)[2] for i in range(n)])
        emit("generator_attack", attack(make(seed), x, labels, z, False)[-1])


# -- searches for the nearest adversarial image, one image at a time -----------------------------

def margin(z, label):
    """Largest other logit minus the label's."""
    return torch.cat([z[:label], z[label + 1:]]).max() - z[label]


def deepfool(net, x, label, infinity, overshoot=0.02, steps=50):
    """Moosavi-Dezfooli et al. 2016, all classes."""
    total = torch.zeros_like(x)
    z = x
    for _ in range(steps):
        point = leaf(z)
        logits = net(point[None])[0]
        best = None
        for k in range(len(logits)):
            if k == label:
                continue
            f = logits[k] - logits[label]
            w = torch.autograd.grad(f, point, retain_graph=True)[0]
            distance = float(f.detach().abs() / (w.abs().sum() if infinity else w.norm()))
            if best is None or distance < best[0]:
                best = distance, w
        distance, w = best
        total = total + (distance + 1e-4) * (w.sign() if infinity else w / w.norm())
        z = (x + (1 + overshoot) * total).clamp(0, 1)
        if int(net(z[None])[0].argmax()) != label:
            return z
    return None


def carlini_wagner(net, x, label, target=None, confidence=0.0, searches=9, steps=300, rate=0.01, constant=1e-3):
    """Carlini and Wagner 2017, l2, with torch.optim.Adam; ends a descent when a tenth gains too little."""
    low, high, best, nearest = 0.0, 1e10, math.inf, None
    base = torch.atanh(0.999999 * (2 * x - 1))
    clean = (torch.tanh(base) + 1) / 2
    for _ in range(searches):
        u = torch.zeros_like(x, requires_grad=True)
        adam = torch.optim.Adam([u], lr=rate)
        found, previous = False, math.inf
        for i in range(steps):
            z = (torch.tanh(base + u) + 1) / 2
            logits = net(z[None])[0]
            m = margin(logits, label) if target is None else -margin(logits, target)
            loss = ((z - clean) ** 2).sum() + constant * torch.relu(confidence - m)
            if m.item() > 0 and m.item() >= confidence:
                found = True
                d = (z - x).norm().item()
                if d < best:
                    best, nearest = d, z.detach()
            if i % (steps // 10) == 0:
                if loss.item() > 0.9999 * previous:
                    break
                previous = loss.item()
            adam.zero_grad()
            loss.backward()
            adam.step()
        if found:
            high = min(high, constant)
        else:
            low = max(low, constant)
        constant = (low + high) / 2 if high < 1e10 else 10 * constant
    return nearest


def make_searches():
    net = smooth_net(smooth_parameters())
    x = fill((8, 2, 6, 6), 14000, 0, 1)
    x[:, :, 0] = (x[:, :, 0] > 0.5).double()  # pixels at 0 and 1
    labels = net(x).argmax(1).tolist()

    def distances(attack, norm):
        found = [attack(v, y) for v, y in zip(x, labels)]
        return [float((z - v).abs().max() if norm else (z - v).norm()) for v, z in zip(x, found)]
    emit("deepfool_linf", distances(lambda v, y: deepfool(net, v, y, True), True))
    emit("deepfool_l2", distances(lambda v, y: deepfool(net, v, y, False), False))
    emit("cw_l2", distances(lambda v, y: carlini_wagner(net, v, y), False))
    emit("cw_l2_confident", distances(lambda v, y: carlini_wagner(net, v, y, confidence=2.0), False))
    emit("cw_l2_targeted", distances(lambda v, y: carlini_wagner(net, v, y, target=(y + 1) % 4), False))


def main():
    print("/* Reference values, written by golden.py with PyTorch %s in double precision: do not edit. */"
          % torch.__version__)
    print("#ifndef L2LADV_TESTS_GOLDEN_H\n#define L2LADV_TESTS_GOLDEN_H\n")
    for make in (make_random, make_conv, make_linear, make_elementwise, make_pool, make_batch_norm, make_losses,
                 make_shapes, make_hessians, make_optimizers, make_smallcnn, make_cells, make_meta,
                 make_algorithm_one, make_census, make_networks, make_norm_hessians, make_norm_meta,
                 make_trades, make_rnn_trades, make_generator, make_searches):
        make()
        print()
    print("#endif")


if __name__ == "__main__":
    main()
