"""Networks with the parameter counts of the papers, and small ones that can be computed with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """The FedP3 authors' CNN for 32 x 32 colour images."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 5)
        self.conv2 = nn.Conv2d(64, 64, 5)
        self.fc1 = nn.Linear(1600, 1024)
        self.fc2 = nn.Linear(1024, 1024)
        self.fc3 = nn.Linear(1024, classes)


class MLP(nn.Module):
    """The FedP3 authors' network for EMNIST letters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 1024)
        self.fc2 = nn.Linear(1024, 1024)
        self.fc3 = nn.Linear(1024, 10)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )


class ResNet18(nn.Module):
    """ResNet-18 for 32 x 32 colour images; ``width`` 64 is the usual one."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage in range(4):
            after = width * 2**stage
            blocks = nn.Sequential(BasicBlock(before, after), BasicBlock(after, after))
            setattr(self, f"layer{stage + 1}", blocks)
            before = after
        self.linear = nn.Linear(before, 10)


def on_meta(kind: type[nn.Module], **options: int) -> nn.Module:
    """A network without storage: names and shapes are all that groups need."""
    with torch.device("meta"):
        return kind(**options)


def small_cnn() -> nn.Module:
    """Two convolutions and three linear layers, with what joins the layer before it."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.LayerNorm(7),
        nn.Linear(7, 5),
        nn.Linear(5, 3),
    )


def some_vector(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))
