"""What the authors' networks take on the wire: the formula, and frames as they are encoded."""

from __future__ import annotations

import torch
from torch import Tensor

from fedstrategies.compressors import Floats, Payload
from fedstrategies.fedp3 import Downlink, expected_bytes, parse_layers, uplink_fraction
from fedstrategies.objectives import lenet_classifier
from fedstrategies.pruning import GlobalPruning, LayerGroups, layer_groups
from fedstrategies.wire import encoded_sizes

__all__ = ["traffic_table"]

_IMAGES = {"CIFAR-10": (3, 32, 32), "Fashion-MNIST": (1, 28, 28)}
_CLIENTS = 100


def traffic_table() -> str:
    """One row a network, choice of layers and share: mean megabytes of a client in a round."""
    lines = [
        "| network | layers | keep | uplink of FedAvg's | up | down | down by the formula |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, image in _IMAGES.items():
        groups = layer_groups(lenet_classifier(10, image=image, dtype=torch.float32))
        x = torch.randn(groups.dimension, generator=torch.Generator().manual_seed(0))
        for layers in ("all", "opu3", "opu2", "lowerb"):
            shares = (1.0,) if layers == "all" else (1.0, 0.9, 0.5)
            lines += [_row(name, groups, x, layers, keep) for keep in shares]
    return "\n".join(lines)


def _row(name: str, groups: LayerGroups, x: Tensor, layers: str, keep: float) -> str:
    assigned = parse_layers(layers).draw(groups, clients=_CLIENTS, seed=0, round=1)
    pruning = GlobalPruning(keep=keep)
    mask = pruning.mask(x, groups, keep)
    different, counts = assigned.unique(dim=0, return_counts=True)
    up = down = 0.0
    for own, count in zip(different, counts.tolist(), strict=True):
        link = Downlink(groups=groups, assigned=tuple(own.tolist()), keep=keep)
        _, parts = link.split(x, mask)
        upload = x[link.own].unsqueeze(0)
        share = count / _CLIENTS
        up += share * _size(Payload(dimension=upload.shape[1], values=Floats(upload)))
        down += share * sum(map(_size, parts))
    formula = float(expected_bytes(groups, assigned, pruning=pruning).down.double().mean())
    fraction = uplink_fraction(groups, assigned)
    return (
        f"| {name} | {layers} | {keep:g} | {fraction:.4f} | {up / 1e6:.3f} MB "
        f"| {down / 1e6:.3f} MB | {formula / 1e6:.3f} MB |"
    )


def _size(payload: Payload) -> int:
    return int(encoded_sizes(payload))
