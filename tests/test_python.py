"""Tests of examples/l2ladv.py, run by test_python.sh in a folder of its own.

What is compared, and how near. An External that hands on to a Model of the header is attacked with the
same bits as that Model. A network in PyTorch with the same weights gives logits that differ in the
last digits, because its convolutions add in another order. Where no path from a pixel to the loss is
open, its gradient is 0 there and a rest of rounding here, by Winograd's tiles: 2 % of the pixels of
these images, which a sign step moves elsewhere. So logits and gradients must agree within 1e-5 of
the largest, signs where the gradient is larger than that, and verdicts for 95 % of the images.
"""
import contextlib
import copy
import ctypes
import errno
import gc
import glob
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CACHE = os.environ["L2LADV_CACHE"]
os.environ.setdefault("CFLAGS", "-O2")

import l2ladv

try:
    import torch
except ImportError:
    torch = None
passed = failed = 0


def verdict(what, good, said=""):
    global passed, failed
    good = bool(good)
    passed, failed = passed + good, failed + (not good)
    print("%s: %s" % ("ok" if good else "FAILED", what) + ("" if good else "\n    %s" % (said,)), flush=True)


def refused(what, kind, text, function, *arguments, **options):
    """It raises that exception, with that text in it."""
    try:
        function(*arguments, **options)
    except Exception as e:
        verdict("refused: " + what, isinstance(e, kind) and text in str(e), repr(e))
        return e
    verdict("refused: " + what, False, "nothing was raised")


def python(code, **environment):
    """A Python process: its status and what it printed."""
    new = dict(os.environ, **{k: v for k, v in environment.items() if v is not None})
    for name in [k for k, v in environment.items() if v is None]:
        new.pop(name, None)
    return subprocess.Popen([sys.executable, "-c", code], env=new, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def said(process):
    return process.communicate()[0].decode(errors="replace")


# ---- the library ----


def test_compiling():
    describe = "import l2ladv; print(l2ladv.describe())"
    fast = dict(L2LADV_CACHE=os.path.abspath("twice"), CFLAGS="-O0")
    two = [python(describe, **fast) for _ in range(2)]
    texts = [said(p) for p in two]
    verdict("two processes compile at once", all(p.returncode == 0 for p in two) and texts[0] == texts[1] and
            texts[0].startswith("l2ladv %d.%d" % l2ladv.VERSION), texts)
    left = os.listdir("twice")
    verdict("and leave one library and nothing else", len(left) == 1 and left[0].endswith(".so"), left)
    made = os.stat(os.path.join("twice", left[0]))
    verdict("which is this user's alone to change", os.stat("twice").st_mode & 0o777 == 0o700)
    third = said(python(describe, **fast))
    verdict("a third one takes what is there", third == texts[0] and
            os.stat(os.path.join("twice", left[0])).st_mtime_ns == made.st_mtime_ns, third)
    library = os.path.join("twice", left[0])
    with open(library, "rb") as f:
        whole = f.read()
    for what, data in (("cut off", whole[:len(whole) // 2]), ("of zeros", bytes(len(whole)))):
        os.remove(library)
        with open(library, "wb") as f:
            f.write(data)
        p = python(describe, **fast)
        out = said(p)
        with open(library, "rb") as f:
            again = f.read()
        verdict("a library in the cache that is %s is made again" % what, p.returncode == 0 and out == texts[0] and
                again[:4] == whole[:4] and len(os.listdir("twice")) == 1, (p.returncode, out, os.listdir("twice")))

    os.makedirs("bin", exist_ok=True)
    with open("not a compiler", "w") as f:
        f.write("for word; do [ \"$last\" = -o ] && echo hello >\"$word\"; last=$word; done\n")
    for what, text, environment in (
            ("no compiler in PATH", "no C compiler: none of cc, gcc, clang, tcc",
             dict(PATH=os.path.abspath("bin"), CC=None)),
            ("a compiler that is not there", "CC is 'nowhere-cc -m64', which is not there", dict(CC="nowhere-cc -m64")),
            ("a header that is not there", "l2ladv.h is not there: looked for /nowhere.h",
             dict(L2LADV_HEADER="/nowhere.h")),
            ("flags that the header refuses", "L2LADVDEF exports functions", dict(CFLAGS="-O0 -DL2LADV_STATIC", **{
                "L2LADV_CACHE": os.path.abspath("refused")})),
            ("doubles", "L2LADV_DOUBLE is for C", dict(CFLAGS="-O0 -DL2LADV_DOUBLE", **{
                "L2LADV_CACHE": os.path.abspath("refused")})),
            ("a library that is none", "cannot be loaded", dict(CC="sh '%s'" % os.path.abspath("not a compiler"), **{
                "L2LADV_CACHE": os.path.abspath("loads")})),
            ("a cache folder that is a file", "the cache folder", dict(L2LADV_CACHE=os.path.join(HERE, "run.sh")))):
        p = python("import l2ladv\ntry: l2ladv.describe()\nexcept l2ladv.BuildError as e: print('it says', e)",
                **environment)
        out = said(p)
        verdict("refused: " + what, p.returncode == 0 and "it says" in out and text in out, out)
    verdict("what is refused leaves nothing in the cache", os.listdir("refused") == [], os.listdir("refused"))
    p = python("import os\nos.path.expanduser = lambda p: p\nimport l2ladv\ntry: l2ladv.library_path()\n"
               "except l2ladv.BuildError as e: print('it says', e)", L2LADV_CACHE=None, XDG_CACHE_HOME=None)
    out = said(p)
    verdict("refused: a cache without a home folder", "it says the cache folder: there is no home folder" in out and
            not os.path.exists("~"), out)
    paths = []
    for machine in "ab":  # a compiler that knows which machine it is on; what it makes is not loaded
        with open("native " + machine, "w") as f:
            f.write("for word; do case $word in -v) echo cc; exit;; -E) echo '#define %s 1'; exit;; esac; "
                    "[ \"$last\" = -o ] && echo hello >\"$word\"; last=$word; done\n" % machine)
    for machine in "ab":
        with open("native " + machine) as f, open("native", "w") as g:
            g.write(f.read())
        paths.append(said(python("import l2ladv; print(l2ladv.library_path())", CC="sh '%s'" % os.path.abspath("native"),
                                 CFLAGS="-march=native", L2LADV_CACHE=os.path.abspath("natives"))).split("\n")[-2])
    verdict("flags of the machine at hand: a library for each machine", paths[0] != paths[1] and
            all(os.path.isfile(p) for p in paths), paths)
    os.makedirs("open", exist_ok=True)
    os.chmod("open", 0o777)
    with open(os.path.join(ROOT, "l2ladv.h")) as f, open("other.h", "w") as g:
        g.write(re.sub(r"(?m)^#define L2LADV_VERSION_NUMBER \d+", "#define L2LADV_VERSION_NUMBER 90102", f.read()))
    for what, text, name, value in (
            ("a cache folder of everybody", "can be written to by others", "L2LADV_CACHE", "open"),
            ("a header of another version", "is version 9.1.2, and this", "L2LADV_HEADER", "other.h")):
        before = os.environ.get(name)
        os.environ[name] = os.path.abspath(value)
        refused(what, l2ladv.BuildError, text, l2ladv.library_path)
        os.environ.pop(name) if before is None else os.environ.update({name: before})


# ---- models and training ----


def trained():
    """A small classifier and its maximizer, by RNN-Adv."""
    model = l2ladv.Model("smallcnn", width_multiplier=0.25, seed=1)
    phi = l2ladv.Maximizer(seed=1)
    seen = []
    best, history = l2ladv.train(model, x500, y500, "rnn-adv", maximizer=phi, epochs=4, batch=20, epsilon=0.1, T=3,
                                 validation=50, seed=3, schedule="cosine", progress=seen.append)
    verdict("progress is called after every step", len(seen) == 4 * 23 and
            seen[-1]["step"] == len(seen) == seen[-1]["steps"]
            and seen[0]["epochs"] == 4, (len(seen), seen[-1]))
    verdict("the history has the epochs", len(history) == 4 and list(history["epoch"]) == [0, 1, 2, 3] and
            history["validation_natural"][-1] > 0.5 and history["best"].any(), history)
    verdict("the schedule arrived", seen[0]["rate"] > 0.99 and 0 <= seen[-1]["rate"] < 0.01, (seen[0], seen[-1]))
    verdict("the maximizer was trained, too", phi.trained_with == (3, 0.1) and phi.size == 491)
    verdict("the best model is a model of its own", best.info == model.info and best.arch == "smallcnn")
    return model, phi


def start_compiling():
    """examples/train.c, with the flags of the library: for test_same_training, beside what is before it."""
    command = os.environ.get("CC", "cc").split() + ["-std=c11"] + os.environ["CFLAGS"].split()
    command += ["-o", "train"] + [os.path.join(ROOT, "examples", f) for f in ("train.c", "l2ladv.c")] + ["-lm"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_same_training(model, phi):
    """The options of train() mean what they mean in examples/train.c: the same files."""
    out = said(compiling)
    verdict("examples/train.c compiles", compiling.returncode == 0, out[-1500:])
    data = os.path.join(ROOT, "examples/data")
    done = subprocess.run(["./train", "--dataset", "mnist", "--data", data, "--limit", "200", "--width", "0.25",
                           "--method", "rnn-adv", "--epochs", "2", "--batch", "25", "--eps", "0.2", "--steps", "2",
                           "--seed", "5",
                           "--schedule", "cosine", "--save", "c.safetensors", "--save-maximizer", "c.phi.safetensors"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    verdict("and trains", done.returncode == 0, done.stdout.decode()[-1500:])
    if done.returncode:
        return
    model = l2ladv.Model("smallcnn", width_multiplier=0.25, seed=5)
    phi = l2ladv.Maximizer(seed=5)
    l2ladv.train(model, *l2ladv.digits("train", 200), "rnn-adv", maximizer=phi, epochs=2, batch=25, epsilon=0.2, T=2,
                 seed=5, schedule="cosine")
    theirs, its = l2ladv.Model.open("c.safetensors"), l2ladv.Maximizer.open("c.phi.safetensors")
    ours = model.parameters()
    verdict("the same training from Python gives the same bits",
            all(np.array_equal(ours[k], v) for k, v in theirs.parameters().items()) and
            np.array_equal(phi.parameters(), its.parameters()))


def test_models(model, phi):
    model.save("model.safetensors")
    phi.save("phi.safetensors")
    opened, its = l2ladv.Model.open("model.safetensors"), l2ladv.Maximizer.open("phi.safetensors")
    z = model.logits(x)
    of_training = ("seed", "dropout", "last_layer_deviation")  # files do not have these
    verdict("a model file and back", np.array_equal(opened.logits(x), z) and
            all(opened.info[k] == v for k, v in model.info.items() if k not in of_training), (opened.info, model.info))
    verdict("a maximizer's file and back", np.array_equal(its.parameters(), phi.parameters()) and
            its.trained_with == phi.trained_with)
    new = l2ladv.Model("smallcnn", width_multiplier=0.25, seed=9)
    verdict("a new model is another one", not np.array_equal(new.logits(x), z))
    verdict("load() takes a file", new.load("model.safetensors") == 0 and np.array_equal(new.logits(x), z))
    values = model.parameters()
    new = l2ladv.Model("smallcnn", width_multiplier=0.25, seed=9)
    verdict("parameters() and set_parameters() are a way to copy",
            new.set_parameters(dict(values, more=np.zeros(1))) == ["more"] and np.array_equal(new.logits(x), z))
    verdict("their names and shapes are PyTorch's", values["feature_extractor.conv1.weight"].shape == (8, 1, 3, 3) and
            sum(v.size for v in values.values()) == model.size)
    values["classifier.fc3.bias"] = np.zeros(3, np.float32)
    before = new.parameters()
    values["feature_extractor.conv1.weight"] = values["feature_extractor.conv1.weight"] + 1
    refused("parameters of another shape", ValueError, "classifier.fc3.bias: shape 3, expected 10", new.set_parameters,
            values)
    verdict("and none of them was taken", all(np.array_equal(v, before[k]) for k, v in new.parameters().items()))
    del values["classifier.fc3.bias"]
    refused("parameters that lack one", ValueError, "there is no 'classifier.fc3.bias'", new.set_parameters, values)
    clone = model.clone()
    phi2 = l2ladv.Maximizer(seed=2)
    phi2.set_parameters(phi.parameters())
    verdict("clones are the same", np.array_equal(clone.logits(x), z) and
            np.array_equal(phi2.parameters(), phi.parameters()))
    verdict("a summary", "feature_extractor.conv1" in model.summary())
    verdict("predict()", np.array_equal(model.predict(x), z.argmax(1)))
    nan = model.parameters()
    nan["classifier.fc3.bias"][4] = np.nan
    broken = model.clone()
    broken.set_parameters(nan)
    refused("predict() of logits that are NaN", l2ladv.NumericError, "class 4 of image 0 is nan", broken.predict, x)
    alike = l2ladv.Model("smallcnn", channels=3, mean=0.5, deviation=0.25).info
    verdict("a number is the mean of each channel", alike["normalise"] == 3 and alike["mean"][:3] == [0.5] * 3 and
            alike["deviation"][:3] == [0.25] * 3, alike)
    scaled = l2ladv.Model("smallcnn", width_multiplier=0.25, seed=1, mean=[0.5], deviation=[0.25])
    scaled.set_parameters(model.parameters())
    shifted = model.logits(((x - np.float32(0.5)) / np.float32(0.25)))
    verdict("a normalisation is part of the model", np.abs(scaled.logits(x) - shifted).max() < 1e-4)
    d = np.zeros((len(x), 10), np.float32)
    d[:, 3] = 1
    g, step = model.vjp(x, d), 1e-2
    towards = g / np.sqrt((g ** 2).sum((1, 2, 3), keepdims=True))
    rise = (model.logits(x + step * towards)[:, 3] - model.logits(x - step * towards)[:, 3]) / (2 * step)
    slope = np.sqrt((g ** 2).sum((1, 2, 3)))
    verdict("vjp() is the slope of the logits", np.median(np.abs(rise / slope - 1)) < 0.02, np.abs(rise / slope - 1))

    refused("a file that is not there", OSError, "nowhere.safetensors", l2ladv.Model.open, "nowhere.safetensors")
    for what, name, function in (("a file", "nowhere.safetensors", l2ladv.Model.open), ("a folder", "nowhere/m", phi.save)):
        e = refused("%s that is not there, by FileNotFoundError" % what, FileNotFoundError, name, function, name)
        verdict("which has errno and filename", isinstance(e, l2ladv.FileError) and
                (getattr(e, "errno", 0), getattr(e, "filename", 0)) == (errno.ENOENT, name), e)
        again = pickle.loads(pickle.dumps(e))
        verdict("also in other processes", type(again) is type(e) and again.filename == name)
    e = refused("a folder as a file", l2ladv.FileError, "", model.save, "/")
    verdict("which is no FileNotFoundError", e and not isinstance(e, FileNotFoundError) and e.filename == "/", e)
    e = refused("a file that is none", l2ladv.FormatError, "", l2ladv.Model.open, os.path.join(HERE, "run.sh"))
    verdict("its error has code and text", isinstance(e, l2ladv.Error) and e.code > 0 and e.text == str(e))
    for error in (e, l2ladv.FileError(4, "x"), l2ladv.BuildError("y")):
        again = pickle.loads(pickle.dumps(error))
        verdict("%s goes to other processes" % type(e).__name__, type(again) is type(error) and
                (again.code, str(again)) == (error.code, str(error)))
    verdict("after an error all goes on", np.array_equal(model.logits(x), z))
    refused("a folder that is not there", OSError, "nowhere/m", model.save, "nowhere/m")
    for what, function in (("save", model.save), ("load", model.load), ("open", l2ladv.Model.open)):
        refused("%s: a name with a null byte, where C ends it" % what, ValueError, "null byte", function, "zero\0.m")
    verdict("and no file of the first part is made", not os.path.exists("zero"))
    refused("an architecture that is not known", ValueError, "arch: 'vgg' is not one of", l2ladv.Model, "vgg")
    refused("a width below 0", ValueError, "width_multiplier", l2ladv.Model, "smallcnn", width_multiplier=-1)
    refused("a model of another architecture", ValueError, "", l2ladv.Model("smallcnn", width_multiplier=1).load,
            "model.safetensors")
    lib = l2ladv._library()
    used = lib._c.l2l_memory_used
    used.restype, used.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    context = l2ladv._context().pointer
    gc.collect()
    l2ladv.describe()
    before = used(context)
    for _ in range(5):
        l2ladv.Model("smallcnn", width_multiplier=0.25)
        l2ladv.Maximizer()
    gc.collect()
    l2ladv.describe()
    verdict("what Python drops is freed", used(context) == before, (before, used(context)))
    behind = external(model)
    l2ladv.attack(behind, x, y, "learned", 0.1, maximizer=phi)
    l2ladv.describe()
    before = used(context)
    for _ in range(5):
        l2ladv.attack(behind, x[:2], y[:2], "learned", 0.1, maximizer=phi)
    l2ladv.describe()
    verdict("so is a maximizer's copy for another context, and its file", used(context) == before,
            (before, used(context)))


def test_train(model, phi):
    def again(method, **options):
        m = l2ladv.Model("smallcnn", width_multiplier=0.25, seed=4)
        return l2ladv.train(m, x500[:40], y500[:40], method, epochs=1, batch=20, epsilon=0.1, T=1, **options)

    for method in l2ladv.methods():
        options = dict(maximizer=l2ladv.Maximizer()) if method.startswith("rnn") else {}
        options.update(beta=1) if method.endswith("trades") else None
        best, history = again(method, **options)
        verdict("train: %s" % method, len(history) == 1 and np.isfinite(history["loss"]).all())
    rate = lambda **o: again("plain", optimizer=o).best.parameters()["classifier.fc3.weight"]
    verdict("train: the optimizer's options arrive", not np.array_equal(rate(kind="sgd"), rate(kind="adam")) and
            not np.array_equal(rate(kind="sgd"), rate(kind="sgd", momentum=0)) and
            np.array_equal(rate(kind="sgd"), rate(kind="sgd", rate=0.1, momentum=0.9)))
    start = l2ladv.Maximizer(seed=1).parameters()

    def moved(**o):
        m = l2ladv.Maximizer(seed=1, **o)
        again("rnn-adv", maximizer=m)
        return m.parameters()

    verdict("train: the word for the optimizer that is there keeps its rate", np.array_equal(moved(),
            moved(optimizer="adam")) and np.array_equal(moved(), moved(optimizer={"kind": "adam"})) and
            not np.array_equal(moved(), moved(optimizer="sgd")) and not np.array_equal(moved(), start))
    got = again("plain", averaging=0.5)
    a, b = got.averaged.parameters(), got.best.parameters()
    verdict("train: averaging gives the averaged model, too", all(a[k].shape == v.shape for k, v in b.items()) and
            not np.array_equal(a["classifier.fc3.weight"], b["classifier.fc3.weight"]) and
            got.best.info == got.averaged.info and len(got) == 2)
    verdict("train: without it there is none", again("plain").averaged is None)
    large = np.zeros((20, 1, 32, 32), np.float32)
    large[:, :, 2:30, 2:30] = x500[:20]
    best, _ = l2ladv.train(l2ladv.Model("smallcnn", width_multiplier=0.25), large, y500[:20], "plain", epochs=1,
                           batch=20, augment={"padding": 1, "flip": True})
    verdict("train: images larger than the model's are cut", best.shape == (1, 28, 28))
    again("plain", log="log.jsonl", checkpoint="check.point")
    verdict("train: log and checkpoint are written", os.path.getsize("log.jsonl") and os.path.getsize("check.point"))
    os.symlink("new", "link")
    for log, checkpoint in (("new", "./new"), ("new", "link"), (b"log.jsonl", "log.jsonl")):
        refused("train: a log that is the checkpoint, %s" % checkpoint, ValueError, "is the file of checkpoint, too",
                again, "plain", log=log, checkpoint=checkpoint)
    verdict("and neither is written", not os.path.exists("new") and os.path.getsize("log.jsonl"))
    os.remove("link")
    refused("train: a checkpoint of other settings", ValueError, "", again, "plain", checkpoint="check.point",
            resume=True, seed=7)
    refused("train: a method that is not known", ValueError, "method: 'pgd' is not one of plain", again, "pgd")
    refused("train: rnn-adv without a maximizer", TypeError, "maximizer", again, "rnn-adv")
    refused("train: a maximizer that is of no use", TypeError, "maximizer", again, "plain", maximizer=phi)
    refused("train: trades without beta", TypeError, "beta", again, "trades")
    refused("train: an option that is not known", TypeError, "there is no option 'epoch'; there are epochs", again,
            "plain", epoch=1)
    refused("train: an inner option that is not known", TypeError, "'lr'", again, "plain", optimizer={"lr": 1})
    refused("train: a schedule that is not known", ValueError, "kind: 'line' is not one of constant, steps, cosine",
            again, "plain", schedule="line")
    refused("train: half a seed", TypeError, "seed: 0.5 is not an integer", again, "plain", seed=0.5)
    refused("train: a negative seed", ValueError, "seed: -1 is not in 0..", again, "plain", seed=-1)
    refused("train: two weights for one step", ValueError, "loss_weights: shape 2, expected 1", again, "rnn-adv",
            maximizer=l2ladv.Maximizer(), loss_weights=[1, 2])
    refused("train: images smaller than the model's", ValueError, "x: images of 1 x 20 x 20", l2ladv.train, model,
            x500[:, :, :20, :20], y500, "plain")
    refused("train: an External", TypeError, "model: External", l2ladv.train, external(model), x500, y500, "plain")
    kept = model.parameters()
    e = refused("train: stopped by progress", l2ladv.Cancelled, "", again, "plain", progress=lambda p: False)
    verdict("which a Model survives", all(np.array_equal(v, kept[k]) for k, v in model.parameters().items()))


# ---- attacks ----


def external(model):
    return l2ladv.External(model.logits, model.vjp, shape=model.shape, classes=model.classes)


QUICK = {"square": dict(steps=50), "sign-opt": dict(steps=100), "cw-l2": dict(steps=20, searches=2),
         "cw-l2lda": dict(steps=10), "apgd": dict(steps=10), "apgd-dlr": dict(steps=10), "apgd-t": dict(steps=4),
         "fab-t": dict(steps=4), "autoattack": dict(steps=2)}


def same(a, b):
    return (a.adversarial.tobytes() == b.adversarial.tobytes() and
            all(a.records[f].tobytes() == b.records[f].tobytes() for f in a.records.dtype.names))


def test_attacks(model, phi):
    declared = set()
    for name in ("l2ladv.h", "examples/searches.h", "examples/autoattack.h"):
        with open(os.path.join(ROOT, name)) as f:
            declared |= set(re.findall(r"\bl2l_attack_(\w+)\((?:l2l_learned \*m, )?double epsilon", f.read()))
    verdict("every attack of the header is there by name", declared == set(
        a.replace("-", "_") for a in l2ladv.attacks()) and
            len(declared) >= 19, declared)
    behind = external(model)
    for name in l2ladv.attacks():
        options = dict(QUICK.get(name, {}), maximizer=phi if name == "learned" else None)
        a, b = (l2ladv.attack(m, x, y, name, 0.1, **options) for m in (model, behind))
        verdict("%s: the same bits behind functions" % name, same(a, b))
        r, moved = a.records, np.abs(a.adversarial.astype(np.float64) - x)
        z = model.logits(a.adversarial)
        good = (np.array_equal(r["label"], y) and np.array_equal(r["clean"], model.predict(x)) and
                np.array_equal(r["predicted"], z.argmax(1)) and
                        np.allclose(r["linf"], moved.max((1, 2, 3)), atol=1e-6) and
                np.allclose(r["l2"], np.sqrt((moved ** 2).sum((1, 2, 3))), atol=1e-4) and (r["forwards"] > 0).all() and
                a.adversarial.min() >= 0 and a.adversarial.max() <= 1)
        verdict("%s: its records tell of its images" % name, good, r)
    a, b = l2ladv.autoattack(model, x, y, 0.1, steps=2), l2ladv.autoattack(behind, x, y, 0.1, steps=2)
    one = l2ladv.attack(model, x, y, "autoattack", 0.1, steps=2)
    right = model.predict(x) == y
    stage, one.records["attack"][:] = a.records["attack"], a.records["attack"] # there the one attack asked for
    verdict("autoattack: the same bits behind functions, and as attack()", same(a, b) and same(a, one))
    values = list(a.stages.values())
    verdict("autoattack: stages", list(a.stages) == ["clean"] + list(l2ladv.STAGES) and
            values == sorted(values, reverse=True) and abs(values[0] - right.mean()) < 1e-9 and
            abs(values[-1] - a.robust.mean()) < 1e-9 and np.array_equal(a.robust, ~a.records["success"]) and
            all(abs(v - (right & (a.robust | (stage > s))).mean()) < 1e-9
                for s, v in enumerate(values[1:])), a.stages)
    verdict("autoattack: some images fell, some did not", 0 < a.robust.mean() < right.mean() and a.seconds > 0)
    a = l2ladv.autoattack(model, x, y, 1.0, steps=2, norm="l2")
    one = l2ladv.attack(model, x, y, "autoattack", 1.0, steps=2, norm="l2")
    one.records["attack"][:] = a.records["attack"]
    verdict("autoattack in l2: as attack(), in the ball, some images fell", same(a, one) and
            (a.records["l2"] <= 1 + 1e-5).all() and a.records["linf"].max() > 0.1 and 0 < a.records["success"].mean())
    soft = lambda v: np.exp(v - v.max(1, keepdims=True)) / np.exp(v - v.max(1, keepdims=True)).sum(1, keepdims=True)
    probable = l2ladv.External(lambda v: soft(model.logits(v)), model.vjp, shape=(1, 28, 28), classes=10)
    warned = l2ladv.autoattack(probable, x[:5], y[:5], 0.1, steps=1).warnings
    verdict("autoattack: warns of probabilities", any(w.startswith("softmax-output") for w in warned), warned)


def test_options(model, phi):
    run = lambda name="pgd", epsilon=0.1, **o: l2ladv.attack(model, x, y, name, epsilon, **o)
    base = run()
    verdict("options: batch changes nothing", same(base, run(batch=7)))
    verdict("options: seed, first, start, step_size, steps do", not any(same(base, run(**o)) for o in (
        dict(seed=1), dict(first=3), dict(start="clean"), dict(step_size=0.01), dict(steps=20, last_iterate=True))))
    verdict("options: ifgsm is pgd from the clean image", same(run(start="clean"), run("ifgsm")))
    verdict("options: cw-pgd is pgd on the margin", same(run("cw_pgd"), run(objective="margin", confidence=50)) or
            np.array_equal(run("cw_pgd").adversarial, run(objective="margin").adversarial))
    verdict("options: norm", (lambda r: (r["l2"] < 1.0001).all() and r["linf"].max() > 0.1)(
        run("pgd-l2", 1, norm="l2").records))
    targets = (y + 1) % 10
    aimed = run(epsilon=0.3, steps=30, targets=targets).records
    verdict("options: targets", aimed["success"].any() and np.array_equal(aimed["predicted"][aimed["success"]],
                                                                          targets[aimed["success"]]))
    init = run(steps=3).adversarial
    verdict("options: init", np.array_equal(run(steps=0, init=init, last_iterate=True).adversarial, init))
    some = np.arange(20) % 3 == 0
    part = run(only=some)
    verdict("options: only", np.array_equal(part.adversarial[some], base.adversarial[some]) and
            np.array_equal(part.adversarial[~some], x[~some]) and not np.array_equal(part.adversarial[some], x[some]))
    verdict("options: epsilon inf for searches", run("deepfool", "inf").records["success"].all())
    worst = l2ladv.attack_worst(model, x, y, ["fgsm", ("pgd", dict(steps=20, restarts=2)), ("square", dict(steps=20))],
            0.1)
    verdict("attack_worst: is the worst", worst.records["success"].sum() >= max(run("fgsm").records["success"].sum(),
            run(steps=20, restarts=2).records["success"].sum()) and set(worst.records["attack"]) <= {0, 1, 2})
    verdict("arrays of other layouts and types", same(base, l2ladv.attack(model, np.asfortranarray(x),
            y.astype(np.uint8), "pgd", 0.1))
            and same(base, l2ladv.attack(model, x.astype(np.float64), list(map(int, y)), "pgd", 0.1))
            and same(base, l2ladv.attack(model, np.repeat(x, 2, 0)[::2], np.repeat(y, 2)[::2], "pgd", 0.1)))
    bytes_of = np.zeros(x.nbytes + 1, np.uint8)
    bytes_of[1:] = np.frombuffer(x.tobytes(), np.uint8)
    odd = bytes_of[1:].view(np.float32).reshape(x.shape)
    its = np.zeros(4 * len(y) + 1, np.uint8)
    its[1:] = np.frombuffer(y.astype(np.intc).tobytes(), np.uint8)
    verdict("arrays at odd addresses", not odd.flags.aligned and all(a.flags.aligned for a in (
        l2ladv._images("x", odd, model.shape), l2ladv._labels("y", its[1:].view(np.intc), len(x), 10))) and
            same(base, l2ladv.attack(model, odd, its[1:].view(np.intc), "pgd", 0.1)))
    verdict("records have the fields of l2l_record", base.records.dtype.names == (
        "label", "clean", "predicted", "success", "attack", "step", "restart", "loss", "linf", "l2",
        "forwards", "backwards", "zero_gradients"))

    wrong = x.copy()
    wrong[3, 0, 5, 5] = 1.5
    nan = x.copy()
    nan[2, 0, 0, 0] = np.nan
    go = l2ladv.attack
    for what, kind, text, arguments in (
            ("three axes", ValueError, "x: shape 20 x 28 x 28, expected any x 1 x 28 x 28",
             (model, x[:, 0], y, "pgd", 0.1)),
            ("another size", ValueError, "x: shape 20 x 1 x 27 x 28", (model, x[:, :, 1:], y, "pgd", 0.1)),
            ("bytes", TypeError, "x: dtype uint8, expected float32; bytes become pixels",
             (model, (255 * x).astype(np.uint8), y, "pgd", 0.1)),
            ("objects", TypeError, "x: dtype object", (model, np.array([None]), y, "pgd", 0.1)),
            ("no images", ValueError, "x: no images", (model, x[:0], y[:0], "pgd", 0.1)),
            ("a pixel above 1", ValueError, "x: 1.5 in image 3, expected numbers in [0,1]",
             (model, wrong, y, "pgd", 0.1)),
            ("a pixel that is NaN", ValueError, "x: nan in image 2", (model, nan, y, "pgd", 0.1)),
            ("fewer labels", ValueError, "y: shape 19, expected 20", (model, x, y[1:], "pgd", 0.1)),
            ("labels that are fractions", TypeError, "y: dtype float64, expected integers",
             (model, x, y / 2, "pgd", 0.1)),
            ("a label out of range", ValueError, "y: 10 of image 0 is not in 0..9", (model, x, y * 0 + 10, "pgd", 0.1)),
            ("an attack that is not known", ValueError, "name: 'pdg' is not one of fgsm, ifgsm",
             (model, x, y, "pdg", 0.1)),
            ("no epsilon", TypeError, "epsilon: None is not a number", (model, x, y, "pgd", None)),
            ("epsilon of bytes", ValueError, "8 of 255 is 8/255", (model, x, y, "pgd", 8)),
            ("no model", TypeError, "model: int, expected Model", (3, x, y, "pgd", 0.1)),
            ("no maximizer", TypeError, "maximizer: the attack 'learned' needs", (model, x, y, "learned", 0.1))):
        refused(what, kind, text, go, *arguments)
    for what, kind, text, options in (
            ("an option that is not known", TypeError, "there is no option 'step'; there are norm, epsilon",
             dict(step=3)),
            ("a pointer as an option", TypeError, "there is no option 'progres'", dict(progres=3)),
            ("half a step", TypeError, "steps: 2.5 is not an integer", dict(steps=2.5)),
            ("steps below 0", ValueError, "steps", dict(steps=-1)),
            ("steps beyond 32 bits", ValueError, "steps: 4294967296 is not in", dict(steps=2 ** 32)),
            ("a norm that is not known", ValueError, "norm: 'l1' is not one of linf, l2", dict(norm="l1")),
            ("a bool that is none", TypeError, "last_iterate: 1 is neither True nor False", dict(last_iterate=1)),
            ("a word for a number", TypeError, "step_size: 'eps' is not a number", dict(step_size="eps")),
            ("an objective that is not known", ValueError, "objective: 'ce' is not one of", dict(objective="ce")),
            ("targets out of range", ValueError, "targets: -1 of image 0", dict(targets=y * 0 - 1)),
            ("numbers for truth values", TypeError, "only: dtype int64, expected bool", dict(only=y)),
            ("truth values for fewer", ValueError, "only: shape 19, expected 20", dict(only=y[1:] > 3)),
            ("starting points for fewer", ValueError, "init: shape 19 x 1 x 28 x 28, expected 20", dict(init=x[1:]))):
        refused(what, kind, text, go, model, x, y, "pgd", 0.1, **options)
    for name, value in (("step_size", 0.01), ("relative_step", 0.1), ("start", "clean"), ("last_iterate", True),
                        ("targets", targets), ("only", some), ("objective", "margin"), ("confidence", 1.0)):
        text = "autoattack has no option '%s'; there are norm, steps" % name
        refused("autoattack: " + name, TypeError, text, l2ladv.autoattack, model, x, y, 0.1, **{name: value})
        refused("the attack autoattack: " + name, TypeError, text, go, model, x, y, "autoattack", 0.1, **{name: value})
    few = dict(steps=1, restarts=1, candidates=2, seed=1, first=3, batch=5, norm="linf", init=x[:5], targets=None)
    verdict("autoattack takes what it has", len(l2ladv.autoattack(model, x[:5], y[:5], 0.1, **few).robust) == 5)
    verdict("after all these errors the same bits", same(base, run()))


class Odd(Exception):
    pass


def test_functions(model):
    """What functions of the caller may do."""
    like = dict(shape=(1, 28, 28), classes=10)
    odd = Odd("mine")

    def fails(*arguments):
        raise odd

    for what, m, options in (("logits", l2ladv.External(fails, model.vjp, **like), {}),
                             ("vjp", l2ladv.External(model.logits, fails, **like), {}),
                             ("progress", model, dict(progress=fails)),
                             ("progress behind functions", external(model), dict(progress=fails))):
        for _ in range(2):
            try:
                l2ladv.attack(m, x, y, "pgd", 0.1, **options)
                verdict("an exception in " + what, False, "nothing was raised")
            except Odd as e:
                names, at = [], e.__traceback__
                while at:
                    names.append(at.tb_frame.f_code.co_name)
                    at = at.tb_next
                verdict("an exception in %s is the same object, and knows where" % what, e is odd and "fails" in names,
                        names)
                odd.__traceback__ = None
    try:
        l2ladv.train(l2ladv.Model("smallcnn", width_multiplier=0.25), x, y, "plain", epochs=1, progress=fails)
        verdict("an exception in train's progress", False)
    except Odd as e:
        verdict("an exception in train's progress is the same object", e is odd)
    good = l2ladv.attack(external(model), x, y, "pgd", 0.1)
    verdict("afterwards all goes on", same(good, l2ladv.attack(model, x, y, "pgd", 0.1)))

    blind = l2ladv.External(model.logits, **like)
    refused("a gradient of a model without", l2ladv.Error, "offers no vjp callback", l2ladv.attack, blind, x, y, "pgd",
            0.1)
    verdict("square needs none", same(l2ladv.attack(blind, x, y, "square", 0.1, steps=9),
            l2ladv.attack(model, x, y, "square", 0.1, steps=9)))
    for what, text, f, g in (
            ("logits of another shape", "logits(x) returned float32 of 20 x 9, expected float32 of 20 x 10",
             lambda v: model.logits(v)[:, :9], model.vjp),
            ("logits that are integers", "logits(x) returned int64 of 20 x 10",
             lambda v: model.logits(v).astype(np.int64), model.vjp),
            ("nothing as logits", "logits(x) returned object of ()", lambda v: None, model.vjp),
            ("a gradient of another shape", "vjp(x, dlogits) returned float32 of 20 x 784",
             model.logits, lambda v, d: model.vjp(v, d).reshape(len(v), -1))):
        refused(what, ValueError, text, l2ladv.attack, l2ladv.External(f, g, **like), x, y, "fgsm", 0.1)
    refused("logits that are NaN", l2ladv.NumericError, "", l2ladv.attack,
            l2ladv.External(lambda v: model.logits(v) * np.nan, model.vjp, **like), x, y, "fgsm", 0.1)

    def writes(v):
        v[:] = 0

    refused("writing to the images", ValueError, "read-only", l2ladv.attack, l2ladv.External(writes, None, **like), x,
            y, "square", 0.1)
    refused("a shape of two numbers", ValueError, "shape: 28 x 28, expected channels x height x width", l2ladv.External,
            model.logits, shape=(28, 28), classes=10)
    refused("no function", TypeError, "expected functions", l2ladv.External, model, shape=(1, 28, 28), classes=10)
    refused("no classes", ValueError, "classes", l2ladv.External, model.logits, shape=(1, 28, 28), classes=0)

    seen = []
    l2ladv.attack(model, x, y, "pgd", 0.1, batch=8, progress=lambda *a: seen.append(a))
    verdict("progress counts images", seen == [(8, 20), (16, 20), (20, 20)], seen)
    del seen[:]
    refused("progress that says no", l2ladv.Cancelled, "cancelled after 8 of 20", l2ladv.attack, model, x, y, "pgd",
            0.1, batch=8, progress=lambda *a: False)
    refused("progress that says no as NumPy does", l2ladv.Cancelled, "cancelled after 8 of 20", l2ladv.attack, model, x,
            y, "pgd", 0.1, batch=8, progress=lambda *a: np.array([1, 2]).sum() > 5)
    l2ladv.autoattack(model, x[:6], y[:6], 0.1, steps=1, batch=2, progress=lambda *a: seen.append(a))
    verdict("progress of autoattack", seen == [(2, 6), (4, 6), (6, 6)], seen)

    def nested(v):
        l2ladv.attack(model, v[:1], y[:1], "fgsm", 0.1)
        return model.logits(v)

    inner = l2ladv.External(nested, model.vjp, **like)
    verdict("an attack inside of an attack", same(l2ladv.attack(inner, x, y, "fgsm", 0.1),
            l2ladv.attack(model, x, y, "fgsm", 0.1)))


def test_interrupts(model):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    behind = external(model)
    base = l2ladv.attack(behind, x, y, "pgd", 0.1)

    def interrupted(what, function, *arguments, **options):
        handler = signal.getsignal(signal.SIGINT)
        try:
            function(*arguments, **options)
            verdict("Ctrl-C " + what, False, "it went on")
        except KeyboardInterrupt:
            verdict("Ctrl-C " + what, signal.getsignal(signal.SIGINT) is handler)

    calls = []

    def pressed(v):
        calls.append(len(v))
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        if len(calls) > 3:
            raise AssertionError("called again")
        return model.logits(v)

    interrupted("inside of a model", l2ladv.attack, l2ladv.External(pressed, model.vjp, shape=(1, 28, 28), classes=10),
            x, y, "pgd", 0.1)

    def later(seconds):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        return timer

    timer = later(0.3)
    interrupted("while C works on a model of the header", l2ladv.attack, model, x500[:50], y500[:50], "sign-opt", 1,
            steps=20000, batch=1)
    timer.join()
    timer = later(0.3)
    interrupted("while C trains", l2ladv.train, l2ladv.Model("smallcnn", width_multiplier=0.25), x500, y500, "advtrain",
                epochs=500)
    timer.join()
    verdict("and afterwards all goes on", same(base, l2ladv.attack(behind, x, y, "pgd", 0.1)))
    mine = []
    old = signal.signal(signal.SIGINT, lambda *a: mine.append(a))
    timer = later(0.05)
    l2ladv.attack(behind, x500[:100], y500[:100], "pgd", 0.1, steps=50, batch=10, last_iterate=True)
    timer.join()
    time.sleep(0.01)
    verdict("a handler of the caller's stays", len(mine) == 1, mine)
    signal.signal(signal.SIGINT, old)


class Timeout(Exception):
    pass


def test_handlers(model):
    """What a signal's handler raises at the first instruction of a function that C calls."""

    def times_out(*_):
        raise Timeout("of the handler")

    def nothing(*_):
        pass

    old = signal.signal(signal.SIGALRM, times_out)
    new = lambda: l2ladv.Model("smallcnn", width_multiplier=0.25)
    flat = l2ladv.External(lambda v: np.tile(np.arange(10, dtype=np.float32)[::-1], (len(v), 1)),
                           lambda v, d: np.ones_like(v), shape=(3, 400, 400), classes=10)
    white = np.zeros((8, 3, 400, 400), np.float32)
    for what, function in (
            ("train", lambda: l2ladv.train(new(), x500, y500, "advtrain", epochs=3, batch=20, T=3, progress=nothing)),
            ("an attack", lambda: l2ladv.attack(new(), x500, y500, "pgd", 0.1, batch=10, last_iterate=True)),
            ("an attack behind functions", lambda: l2ladv.attack(flat, white, np.zeros(8, int), "pgd", 0.1, steps=100,
                                                                 last_iterate=True))):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        refused("a handler's exception in " + what, Timeout, "of the handler", function)
        signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)

    behind = external(model)
    for name, function in (
            ("on_logits", lambda: l2ladv.attack(behind, x, y, "pgd", 0.1)),
            ("on_vjp", lambda: l2ladv.attack(behind, x, y, "pgd", 0.1)),
            ("done", lambda: l2ladv.attack(model, x, y, "pgd", 0.1, batch=10)),
            ("guard", lambda: l2ladv.attack(model, x, y, "pgd", 0.1, batch=10)),
            ("__call__", lambda: l2ladv.train(new(), x500[:40], y500[:40], "plain", epochs=1, batch=20))):
        for event in ("call", "return"):
            def trace(frame, what, argument):
                if frame.f_code.co_name == name and frame.f_code.co_filename == l2ladv.__file__:
                    if event == what:
                        sys.settrace(None)
                        raise Timeout(name)
                    return trace
            sys.settrace(trace)
            try:
                refused("an exception at the %s of %s" % (event, name), Timeout, name, function)
            finally:
                sys.settrace(None)
    seen, before = [], sys.unraisablehook
    sys.unraisablehook = lambda what: seen.append(what.exc_type)

    class Odder:
        def __del__(self):
            raise Odd

    def drops(v):
        Odder()
        return model.logits(v)

    l2ladv.attack(l2ladv.External(drops, None, shape=(1, 28, 28), classes=10), x, y, "square", 0.1, steps=2)
    foreign = ctypes.CFUNCTYPE(None)(lambda: 1 // 0)

    def calls(v):
        foreign()
        return model.logits(v)

    l2ladv.attack(l2ladv.External(calls, None, shape=(1, 28, 28), classes=10), x, y, "square", 0.1, steps=2)
    verdict("other exceptions that are lost go to the hook that was there",
            {Odd, ZeroDivisionError} == set(seen), seen)
    sys.unraisablehook = before
    verdict("and afterwards all goes on", same(l2ladv.attack(behind, x, y, "pgd", 0.1),
            l2ladv.attack(model, x, y, "pgd", 0.1)))
    lib = l2ladv._library()
    lib.l2l_model_open(l2ladv._context().pointer, b"nowhere.safetensors")  # a call that was cut short behind C
    try:
        verdict("an error that nobody asked for is not that of the next call", "l2ladv" in l2ladv.describe())
    except l2ladv.Error as e:
        verdict("an error that nobody asked for is not that of the next call", False, e)


def test_waiting(model):
    """Ctrl-C where another thread holds the context, at any moment, and threads that wait for each other."""
    begun, go = threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        go.wait(20)

    t = threading.Thread(target=l2ladv.attack, args=(model, x, y, "fgsm", 0.1), kwargs=dict(progress=wait))
    t.start()
    begun.wait(20)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    late = threading.Timer(5, go.set)
    timer.start()
    late.start()
    start = time.perf_counter()
    try:
        l2ladv.describe()
        verdict("Ctrl-C while another thread has the context", False, "nothing was raised")
    except KeyboardInterrupt:
        verdict("Ctrl-C while another thread has the context", time.perf_counter() - start < 3,
                time.perf_counter() - start)
    late.cancel()
    go.set()
    t.join()
    context, lines, left = l2ladv._context(), [], []
    for function in (l2ladv._Call.__enter__, l2ladv._Call.__exit__):
        first = function.__code__.co_firstlineno
        names = {function.__code__.co_name, "_hold", "_give_back", "_interrupt"}
        for skip in range(40):  # at each line of it: a signal there
            count = [0]

            def trace(frame, what, argument):
                if frame.f_code.co_name not in names or frame.f_code.co_filename != l2ladv.__file__:
                    return None
                if what == "line" and frame.f_code.co_name != "_interrupt":
                    count[0] += 1
                    if count[0] == skip + 1:
                        signal.raise_signal(signal.SIGINT)
                return trace

            sys.settrace(trace)
            try:
                l2ladv.describe()
            except KeyboardInterrupt:
                lines.append(skip)
            finally:
                sys.settrace(None)
            free = []
            t = threading.Thread(target=lambda: free.append(context.lock.acquire(timeout=2) and
                                                            context.lock.release() is None))
            t.start()
            t.join()
            if free != [True] or context.depth or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                left.append((function.__name__, skip, free, context.depth, signal.getsignal(signal.SIGINT)))
                break
    verdict("Ctrl-C at any line leaves no lock and no handler behind", lines and not left, (lines, left))

    code = """
import threading, numpy as np, l2ladv
x, y = l2ladv.digits("t10k", 20)
model = l2ladv.Model("smallcnn", width_multiplier=0.25)
first, second, said = threading.Event(), threading.Event(), []
def logits(v):
    first.set(); second.wait(20)
    return model.logits(v)
behind = l2ladv.External(logits, model.vjp, shape=(1, 28, 28), classes=10)
def progress(*_):
    second.set(); first.wait(20)
    l2ladv.attack(behind, x, y, "fgsm", 0.1)
def run(*a, **k):
    try: l2ladv.attack(*a, **k); said.append("done")
    except l2ladv.Error as e: said.append(str(e))
t = [threading.Thread(target=run, args=(m, x, y, "fgsm", 0.1), kwargs=k, daemon=True)
     for m, k in ((behind, {}), (model, dict(progress=progress)))]
for u in t: u.start()
for u in t: u.join(20)
print(sorted(said))
"""
    out = said(python(code))
    verdict("two threads that wait for each other's models: one has an error, none waits for ever",
            "neither would ever go on" in out and out.count("'") + out.count('"') == 4, out)


def test_ends(model):
    """The end of a program, and copies: nothing is used after it is freed."""
    model.save("end.safetensors")
    begin = "import atexit, threading, time\n%simport l2ladv\nx, y = l2ladv.digits('t10k', 20)\n" \
            "m = l2ladv.Model.open('end.safetensors')\n"
    p = python(begin % "" + "threading.Thread(target=lambda: l2ladv.attack(m, x, y, 'pgd', 0.1, steps=100000, "
               "last_iterate=True), daemon=True).start()\ntime.sleep(0.5)\nprint('ends')\n")
    out = said(p)
    verdict("a program ends while another thread is in C", p.returncode == 0 and out == "ends\n", (p.returncode, out))
    p = python(begin % "atexit.register(lambda: (m.save('last.safetensors'), print('saved')))\n")
    out = said(p)
    verdict("a model can be saved at the program's end", p.returncode == 0 and out == "saved\n", (p.returncode, out))
    z = model.logits(x)
    for copied in (copy.copy, copy.deepcopy):
        first = model.clone()
        second = copied(first)
        del first
        gc.collect()
        others = [l2ladv.Model("smallcnn", width_multiplier=0.25, seed=i) for i in range(3)]
        verdict("%s of a Model is a model of its own" % copied.__name__, second._pointer != model._pointer and
                np.array_equal(second.logits(x), z) and len(others) == 3)
        for what, thing in (("Maximizer", l2ladv.Maximizer()), ("External", external(model))):
            refused("%s of a %s" % (copied.__name__, what), TypeError, "a %s cannot be copied" % what, copied, thing)
    refused("a pickle of a Model", TypeError, "a Model cannot be copied or pickled: save() and open()", pickle.dumps,
            model)

    code = """
import os, signal, threading, time, l2ladv
signal.signal(signal.SIGINT, signal.default_int_handler)
x, y = l2ladv.digits("t10k", 100)
m, stop = l2ladv.Model("smallcnn", width_multiplier=0.25), []
def work():
    time.sleep(0.3)
    child = os.fork()
    if child == 0:
        try: time.sleep(5)
        except KeyboardInterrupt: os._exit(5)
        os._exit(6)
    time.sleep(0.3)
    os.kill(child, signal.SIGINT)
    print("child", os.waitpid(child, 0)[1] >> 8)
    stop.append(1)
threading.Thread(target=work).start()
try: l2ladv.train(m, x, y, "advtrain", epochs=1000, batch=100, progress=lambda p: not stop)
except l2ladv.Cancelled: pass
def fork(*_):
    global child
    child = os.fork()
try:
    l2ladv.attack(m, x, y, "fgsm", 0.1, progress=fork)
    m.logits(x)
except BaseException as e:
    print(e)
    os._exit(7)
if child == 0: os._exit(8)
print("inside", os.waitpid(child, 0)[1] >> 8)
"""
    out = said(python(code))
    verdict("Ctrl-C ends a child that another thread forked", "child 5" in out, out)
    verdict("a child forked inside of a call goes on", "inside 8" in out, out)


def test_threads(model):
    want = l2ladv.attack(model, x, y, "pgd", 0.1, steps=20)
    got = {}

    def work(i):
        m = external(model) if i % 2 else model
        got[i] = [l2ladv.attack(m, x, y, "pgd", 0.1, steps=20) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    verdict("four threads, one model", len(got) == 4 and all(same(want, a) for some in got.values() for a in some))
    l2ladv.set_threads(2)
    verdict("two threads of the library, the same bits", same(want, l2ladv.attack(model, x, y, "pgd", 0.1, steps=20)))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            status = not same(want, l2ladv.attack(model, x, y, "pgd", 0.1, steps=20))
        os._exit(status)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    verdict("a child of fork works", done and status == 0, status)
    l2ladv.set_threads(1)
    refused("threads below 0", ValueError, "n: -1", l2ladv.set_threads, -1)


def test_data():
    verdict("the digits", x500.shape == (500, 1, 28, 28) and x500.dtype == np.float32 and x500.max() == 1 and
            l2ladv.digits("train")[0].shape == (2000, 1, 28, 28) and set(y500) == set(range(10)))
    data = os.path.join(ROOT, "examples/data/t10k-%s-ubyte")
    refused("-1 digits", ValueError, "n: -1, expected how many images", l2ladv.digits, "train", -1)
    refused("labels as images", l2ladv.FormatError, "not an IDX file of bytes with 3 axes", l2ladv.read_idx,
            data % "labels-idx1", data % "labels-idx1")
    with open(data % "images-idx3", "rb") as f, open("cut", "wb") as g:
        g.write(f.read(5000))
    refused("an IDX file that is cut off", l2ladv.FormatError, "cut: 5000 bytes do not hold 500 x 28 x 28",
            l2ladv.read_idx,
            "cut", data % "labels-idx1")
    for what, head, text in (("no IDX file", b"\0\0\x0d\3" + bytes(12), "not an IDX file"),
                             ("one image of 4 GiB that is not there", b"\0\0\x08\3" + bytes.fromhex(
                                 "00000001 00010000 00010001"), "bytes do not hold 1 x 65536 x 65537"),
                             ("less than no images", b"\0\0\x08\3" + bytes.fromhex("ffffffff 00000001 00000001"),
                              "bytes do not hold -1 x 1 x 1")):
        with open("large", "wb") as f:
            f.write(head)
            f.truncate(1 << 32)
        out = said(python("import resource, l2ladv\nresource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
                          "try: l2ladv.read_idx('large', 'large')\nexcept l2ladv.FormatError as e: print(e)"))
        verdict("a file of 4 GiB is not read before its header: " + what, text in out, out)
    os.remove("large")


# ---- PyTorch ----


def test_torch(model, phi):
    import models
    net = models.make("smallcnn", 0.25, 0)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in model.parameters().items()})
    theirs = l2ladv.TorchModel(net, (1, 28, 28))
    z, w = model.logits(x500[:100]), None
    with torch.no_grad():
        w = net(torch.from_numpy(x500[:100])).numpy()
    off = np.abs(z - w).max() / np.abs(w).max()
    verdict("torch: the logits are those of the header within 1e-5", off < 1e-5, off)
    big, labels = x500[:100], y500[:100]
    # Noise, so that no ReLU and no pooling window of a black background is exactly undecided.
    big = (0.02 + 0.96 * big + 0.02 * np.random.default_rng(1).uniform(-1, 1, big.shape)).astype(np.float32)
    d = z - np.eye(10, dtype=np.float32)[labels]
    g, h = model.vjp(big, d), theirs._run_vjp(big, d)
    largest = np.abs(h).max((1, 2, 3), keepdims=True)
    verdict("torch: so are products with their Jacobian", (np.abs(g - h) <= 1e-5 * largest).all(),
            (np.abs(g - h) / largest).max())
    step = [l2ladv.attack(m, big, labels, "fgsm", 0.1, last_iterate=True).adversarial for m in (model, theirs)]
    verdict("torch: FGSM moves 95 % of the pixels the same way", (np.abs(step[0] - step[1]) < 1e-6).mean() > 0.95)
    other = (np.sign(g) != np.sign(h)) & (np.abs(h) > 1e-5 * largest)
    verdict("torch: the others have gradients of zero", not other.any(), other.mean())
    for name in ("pgd", "apgd", "pgd-l2", "mim", "cw-pgd", "bls", "deepfool", "square", "learned"):
        options = dict(QUICK.get(name, {}), maximizer=phi if name == "learned" else None)
        a, b = (l2ladv.attack(m, big, labels, name, 1 if "l2" in name else 0.1, **options) for m in (model, theirs))
        agree = (a.records["success"] == b.records["success"]).mean()
        same_clean = np.array_equal(a.records["clean"], b.records["clean"])
        close = np.abs(a.records["loss"] - b.records["loss"])[a.records["success"] == b.records["success"]]
        verdict("torch: %s: verdicts agree for 95 %% of the images" % name, agree >= 0.95 and same_clean,
                (agree, same_clean))
        verdict("torch: %s: so do the losses" % name, np.median(close) < 1e-3, np.median(close))
    a, b = (l2ladv.autoattack(m, big[:40], labels[:40], 0.1, steps=3) for m in (model, theirs))
    verdict("torch: autoattack's stages differ by one image of 40 at most", all(
        abs(a.stages[k] - b.stages[k]) < 1.5 / 40 for k in a.stages), (a.stages, b.stages))

    class Mixed(torch.nn.Module):
        """Batch norm, dropout, an in-place first layer, modes of all kinds, and its own wishes."""

        def __init__(self):
            super().__init__()
            self.first = torch.nn.Hardtanh(0, 1, inplace=True)
            self.conv = torch.nn.Conv2d(1, 4, 3, stride=3)
            self.norm = torch.nn.BatchNorm2d(4)
            self.drop = torch.nn.Dropout(0.5)
            self.last = torch.nn.Linear(4 * 81, 10)
            self.modes, self.fails = set(), False

        def forward(self, t):
            self.modes.add((self.training, self.norm.training, self.drop.training))
            if self.fails:
                raise Odd("in forward")
            assert t.dtype == self.conv.weight.dtype
            return self.last(self.drop(torch.relu(self.norm(self.conv(self.first(t))))).flatten(1))

    torch.manual_seed(2)
    net = Mixed()
    net.train()
    net.norm.eval()
    net.conv.weight.requires_grad_(False)
    net.last.bias.grad = torch.ones(10)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    flags = lambda: ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()],
                     [None if p.grad is None else p.grad.tolist() for p in net.parameters()])
    before = flags()
    few, its = x[:10], y[:10]
    results = [l2ladv.attack(net, few, its, "pgd", 0.1)]
    with torch.no_grad():
        results.append(l2ladv.attack(net, few, its, "pgd", 0.1))
    if hasattr(torch, "inference_mode"):
        with torch.inference_mode():
            results.append(l2ladv.attack(net, few, its, "pgd", 0.1))
    verdict("torch: also under no_grad and inference_mode", all(same(results[0], r) for r in results))
    verdict("torch: the module is in evaluation mode", net.modes == {(False, False, False)}, net.modes)
    verdict("torch: modes, requires_grad and .grad are as before", flags() == before, flags())
    verdict("torch: so are parameters and statistics", all(torch.equal(v, state[k]) for k,
            v in net.state_dict().items()))
    net.fails = True
    refused("torch: an exception in forward", Odd, "in forward", l2ladv.attack, net, few, its, "pgd", 0.1)
    net.fails = False
    verdict("torch: modes are restored then, too", flags() == before)
    calls = []
    behind = l2ladv.TorchModel(net, (1, 28, 28))
    hook = net.register_forward_hook(lambda *a: calls.append(1))
    l2ladv.attack(behind, few, its, "pgd", 0.1, steps=10, last_iterate=True)
    # the clean images, 11 iterates, and one of them again: behind the clean ones no graph was kept
    verdict("torch: a step is one pass forward and one back", len(calls) <= 13, len(calls))
    hook.remove()
    net.double()
    verdict("torch: in double precision", np.isfinite(l2ladv.attack(net, few, its, "pgd", 0.1).records["loss"]).all())
    net.float()
    scaled = l2ladv.TorchModel(net, (1, 28, 28), mean=0.5, std=[0.25])
    net.eval()
    net.first = torch.nn.Identity()

    class Scale(torch.nn.Module):
        def forward(self, t):
            return net((t - 0.5) / 0.25)

    verdict("torch: mean and std", same(l2ladv.attack(scaled, few, its, "pgd", 0.1),
            l2ladv.attack(Scale(), few, its, "pgd", 0.1)))
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5),
            torch.nn.Linear(784, 10)))
    a, b = (l2ladv.attack(scripted, few, its, "pgd", 0.1) for _ in range(2))
    verdict("torch: a scripted module", same(a, b) and all(m.training for m in scripted.modules()))
    frozen = torch.jit.freeze(torch.jit.script(torch.nn.Sequential(torch.nn.Sequential(torch.nn.Flatten(),
            torch.nn.Linear(784, 10)))).eval())
    for what, module in (("frozen", frozen), ("frozen, in another", torch.nn.Sequential(frozen, torch.nn.Dropout(0.5)))):
        a, b = (l2ladv.attack(module, few, its, "pgd", 0.1) for _ in range(2))
        verdict("torch: a scripted module that is " + what, same(a, b))

    class Folds(torch.nn.Module):
        """In evaluation it has its weights folded, by a train() of its own."""

        def __init__(self):
            super().__init__()
            self.last, self.folded, self.seen = torch.nn.Linear(784, 10), False, set()

        def train(self, mode=True):
            self.folded = not mode
            return super().train(mode)

        def forward(self, t):
            self.seen.add((self.training, self.folded))
            return self.last(t.flatten(1))

    folds = Folds()
    outer = torch.nn.Sequential(folds)
    for mode in (True, False):
        folds.seen.clear()
        outer.train(True)
        folds.train(mode)
        l2ladv.attack(outer, few, its, "fgsm", 0.1)
        verdict("torch: a module's own train(), from mode %s" % mode, folds.seen == {(False, True)} and
                (outer.training, folds.training, folds.folded) == (True, mode, not mode), (folds.seen, folds.folded))
    moves = l2ladv.TorchModel(net, (1, 28, 28), mean=0.5, std=0.25)
    net.double()
    verdict("torch: a module that changed its type after TorchModel was made", np.isfinite(
        l2ladv.attack(moves, few, its, "fgsm", 0.1).records["loss"]).all())
    net.float()
    leaf = torch.from_numpy(few).requires_grad_()
    half = torch.from_numpy(few).bfloat16()
    verdict("torch: images that want gradients, and of bfloat16", same(l2ladv.attack(net, leaf, its, "fgsm", 0.1),
            l2ladv.attack(net, few, its, "fgsm", 0.1)) and leaf.grad is None and same(
                l2ladv.attack(net, half, its, "fgsm", 0.1), l2ladv.attack(net, half.float().numpy(), its, "fgsm", 0.1)))
    attached = l2ladv.External(lambda v: net(torch.from_numpy(v.copy())), shape=(1, 28, 28), classes=10)
    verdict("torch: functions that return tensors", l2ladv.attack(attached, few, its, "square", 0.1,
            steps=2).records["forwards"].all())
    tensors = l2ladv.attack(net, torch.from_numpy(few), torch.from_numpy(its), "fgsm", 0.1)
    verdict("torch: tensors as images and labels", same(tensors, l2ladv.attack(net, few, its, "fgsm", 0.1)))
    refused("torch: no module", TypeError, "module: function", l2ladv.TorchModel, lambda t: t, (1, 28, 28))
    refused("torch: no logits", ValueError, "module: 1 x 1 x 28 x 28 for one image, expected logits", l2ladv.TorchModel,
            torch.nn.Identity(), (1, 28, 28))
    refused("torch: three means for one channel", ValueError, "mean: shape 3", l2ladv.TorchModel, net, (1, 28, 28),
            mean=[0, 0, 0], std=1)
    refused("torch: mean alone", TypeError, "mean and std go together", l2ladv.TorchModel, net, (1, 28, 28), mean=0)
    if torch.set_flush_denormal(True):
        refused("torch: numbers flushed to 0", l2ladv.Error, "takes subnormal numbers for 0", l2ladv.attack, net, few,
                its, "pgd", 0.1)
        torch.set_flush_denormal(False)
        verdict("torch: of which the documentation tells", "torch.set_flush_denormal(True)" in l2ladv.__doc__)
    detached = l2ladv.External(lambda v: net(torch.from_numpy(v.copy())).detach().numpy(), shape=(1, 28, 28),
            classes=10)
    verdict("torch: behind functions of one's own", l2ladv.attack(detached, few, its, "square", 0.1,
            steps=5).records["forwards"].all())
    l2ladv.cost(n=5, steps=2)


# ---- what the documentation shows ----


def test_documentation():
    with open(os.path.join(ROOT, "README.md")) as f:
        blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", f.read())
    verdict("README.md has examples in Python", len(blocks) >= 2, len(blocks))
    with open(os.path.join(ROOT, "README.md")) as f:
        section = f.read().split("\n## Python\n")[1].split("\n## ")[0]
    verdict("README.md names what is to be copied, and what no call survives", all("`%s`" % name in section
            for names in l2ladv.BESIDE.values() for name in names) and "`data/`" in section and
            "torch.set_flush_denormal" in section)
    demo = "import sys\n%simport l2ladv\nr = l2ladv.demo(n=4, epochs=1)\nassert list(r.stages)[0] == 'clean'"
    demos = ([("the demo", "")] if torch else []) + [("the demo without PyTorch", "sys.modules['torch'] = None\n")]
    demos = [(what, block, python(demo % block)) for what, block in demos]
    shown = [(i, block, python(block)) for i, block in enumerate(blocks, 1) if torch or "torch" not in block]
    if len(shown) < len(blocks):
        print("skipped: examples of README.md that need PyTorch")
    for i, block, p in shown:
        out, lines = said(p), len(block.splitlines())
        verdict("README.md, Python block %d runs as printed, in %d lines" % (i, lines), p.returncode == 0 and
                out.strip() and lines <= 15, out)
    for what, block, p in demos:
        out = said(p)
        verdict(what, p.returncode == 0 and "after square" in out and ("takes its place" in out) == bool(block), out)
    p = subprocess.run([sys.executable, os.path.join(ROOT, "examples/l2ladv.py"), "--help"], stdout=subprocess.PIPE)
    verdict("--help", p.returncode == 0 and b"--demo" in p.stdout)


x500, y500 = l2ladv.digits("t10k", 500)
x, y = x500[:20], y500[:20]
compiling = start_compiling()
test_data()
test_compiling()
model, phi = trained()
test_same_training(model, phi)
test_models(model, phi)
test_train(model, phi)
test_attacks(model, phi)
test_options(model, phi)
test_functions(model)
test_interrupts(model)
test_handlers(model)
test_waiting(model)
test_ends(model)
test_threads(model)
if torch is None:
    print("skipped: PyTorch (python3-torch) is not installed")
else:
    test_torch(model, phi)
test_documentation()
verdict("the cache has one library and nothing else", len(glob.glob(os.path.join(CACHE, "*"))) == 1, os.listdir(CACHE))
print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
