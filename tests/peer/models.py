"""The four classifiers in PyTorch, under the parameter names that the model files use: SmallCNN and
WideResNet as in TRADES, VGG-16 as usual for CIFAR-10, ResNet-18 as in torchvision.
"""
from collections import OrderedDict

import torch.nn as nn


def channels(n, width):
    """A channel count under the width multiplier, in multiples of 8."""
    return max(8, int(width * n / 8 + 0.5) * 8)


class Relu(nn.ReLU):
    """Remembers the layer whose bias moves what comes in (gradients.py keeps that away from 0)."""

    def __init__(self, before):
        super().__init__()
        self.before = (before,)  # in a tuple, so that it is not registered a second time


def conv(inputs, outputs, kernel, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


class SmallCNN(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        a, b, f = (channels(n, width) for n in (32, 64, 200))
        extractor, classifier = [], []
        for i, (c, k) in enumerate(((1, a), (a, a), (a, b), (b, b)), 1):
            layer = nn.Conv2d(c, k, 3)
            extractor += [("conv%d" % i, layer), ("relu%d" % i, Relu(layer))]
            if i % 2 == 0:
                extractor.append(("maxpool%d" % (i // 2), nn.MaxPool2d(2)))
        for i, (c, k) in enumerate(((16 * b, f), (f, f)), 1):
            layer = nn.Linear(c, k)
            classifier += [("fc%d" % i, layer), ("relu%d" % i, Relu(layer))]
        self.feature_extractor = nn.Sequential(OrderedDict(extractor))
        self.classifier = nn.Sequential(OrderedDict(classifier + [("fc3", nn.Linear(f, 10))]))

    def forward(self, x):
        return self.classifier(self.feature_extractor(x).flatten(1))


class VGG16(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        layers, c = [], 3
        for group in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
            for k in (channels(n, width) for n in group):
                norm = nn.BatchNorm2d(k)
                layers += [conv(c, k, 3, bias=True), norm, Relu(norm)]
                c = k
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(c, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class WideBlock(nn.Module):
    """Normalises first; where the channels change, the shortcut branches off behind that."""

    def __init__(self, c, k, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c), conv(c, k, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(k), conv(k, k, 3)
        self.convShortcut = conv(c, k, 1, stride) if c != k else None
        self.relu1, self.relu2 = Relu(self.bn1), Relu(self.bn2)

    def forward(self, x):
        y = self.relu1(self.bn1(x))
        shortcut = self.convShortcut(y) if self.convShortcut else x
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        blocks, c = (depth - 4) // 6, 16
        assert blocks > 0 and depth == 6 * blocks + 4, "depth %d is not 6n + 4" % depth
        self.conv1 = conv(3, c, 3)
        for i in range(3):
            k, group = int(16 * 2**i * width), nn.Module()
            group.layer = nn.Sequential(*(WideBlock(k if j else c, k, 2 if i and not j else 1)
                                          for j in range(blocks)))
            self.add_module("block%d" % (i + 1), group)
            c = k
        self.bn1 = nn.BatchNorm2d(c)
        self.relu = Relu(self.bn1)
        self.fc = nn.Linear(c, 10)

    def forward(self, x):
        x = self.conv1(x)
        for group in (self.block1, self.block2, self.block3):
            x = group.layer(x)
        return self.fc(self.relu(self.bn1(x)).mean((2, 3)))


class BasicBlock(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(c, k, 3, stride), nn.BatchNorm2d(k)
        self.conv2, self.bn2 = conv(k, k, 3), nn.BatchNorm2d(k)
        self.relu1, self.relu2 = Relu(self.bn1), Relu(self.bn2)
        self.downsample = None
        if stride != 1 or c != k:
            self.downsample = nn.Sequential(conv(c, k, 1, stride), nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (self.downsample(x) if self.downsample else x))


class ResNet18(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        c = channels(64, width)
        self.conv1, self.bn1 = conv(3, c, 7, 2), nn.BatchNorm2d(c)
        self.relu, self.maxpool = Relu(self.bn1), nn.MaxPool2d(3, 2, 1)
        for i in range(4):
            k = channels(64 * 2**i, width)
            self.add_module("layer%d" % (i + 1),
                            nn.Sequential(BasicBlock(c, k, 2 if i else 1), BasicBlock(k, k, 1)))
            c = k
        self.fc = nn.Linear(c, 9)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


# What makes each, the shape of its images, its classes, its own width and depth.
ARCHS = {"smallcnn": (SmallCNN, (1, 28, 28), 10, 1, 0),
         "vgg16": (VGG16, (3, 32, 32), 10, 1, 0),
         "wrn": (WideResNet, (3, 32, 32), 10, 10, 34),
         "resnet18": (ResNet18, (3, 224, 224), 9, 1, 0)}


def make(arch, width=0, depth=0):
    """The network; a width or depth of 0 leaves its own."""
    build, _, _, own_width, own_depth = ARCHS[arch]
    return build(width or own_width, depth or own_depth)


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def check_resnet18():
    """Names and shapes as in torchvision: how many differ; None if torchvision is not there."""
    try:
        from torchvision.models import resnet18
    except ImportError:
        return None
    here, there = shapes(make("resnet18")), shapes(resnet18(num_classes=9))
    return len(set(here.items()) ^ set(there.items())) + (list(here) != list(there))
