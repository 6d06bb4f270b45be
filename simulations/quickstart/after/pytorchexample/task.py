"""The network, its data, and how one node trains and tests it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Two convolutions and three dense layers for 32 x 32 images in colour: 62,006 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ten classes."""
        out = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        out = functional.max_pool2d(functional.relu(self.conv2(out)), 2).flatten(1)
        out = functional.relu(self.fc2(functional.relu(self.fc1(out))))
        logits: Tensor = self.fc3(out)
        return logits


@lru_cache(maxsize=1)
def load_images(path: str) -> dict[str, Tensor]:
    """Images and labels for training and testing, from an .npz file or scikit-learn's digits."""
    if path:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.kron(digits.images, np.ones((4, 4)))[:, None].repeat(3, axis=1) * 16
        train = np.arange(len(images)) % 5 > 0
        arrays = {
            "train_images": images[train],
            "train_labels": digits.target[train],
            "test_images": images[~train],
            "test_labels": digits.target[~train],
        }
    return {
        name: torch.from_numpy(array).long()
        if name.endswith("labels")
        else torch.from_numpy(array).float() / 127.5 - 1
        for name, array in arrays.items()
    }


def load_partition(path: str, partition: int, partitions: int) -> tuple[Tensor, Tensor]:
    """One node's share of the training set: every ``partitions``-th example."""
    data = load_images(path)
    chosen = slice(partition, None, partitions)
    return data["train_images"][chosen], data["train_labels"][chosen]


def train(
    net: Net, data: tuple[Tensor, Tensor], *, epochs: int, rate: float, batch: int, seed: int
) -> float:
    """SGD with momentum over the node's examples; the mean loss."""
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    images, labels = data
    total, count = 0.0, 0
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=draw).split(batch):
            optimiser.zero_grad()
            loss = functional.cross_entropy(net(images[rows]), labels[rows])
            loss.backward()
            optimiser.step()
            total, count = total + loss.item(), count + 1
    return total / count


def test(net: Net, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Loss and accuracy."""
    with torch.no_grad():
        logits = net(images)
        loss = functional.cross_entropy(logits, labels)
    return loss.item(), (logits.argmax(1) == labels).float().mean().item()
