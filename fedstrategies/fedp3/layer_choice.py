"""Which layers each client trains: L_i.

A choice gives bool (n, G): True where the group belongs to the client. The classifier is in every
L_i. The other m groups are shared out as follows.

Cut the m groups, in order, into s = min(n, m) segments (for n >= m a segment is a single group)
and the clients, in order of their ids, into s equal parts, ``g_i = floor(i s/n)``. A client that
trains c segments has ``{g_i, g_i + 1, ..., g_i + c - 1} mod s``.

=========  ============================  =====================================================
name       c                             with 100 clients and 4 shared layers
=========  ============================  =====================================================
`lowerb`   1                             ``{g}``, g = floor(id/25): every layer has its clients
`opu2`     2                             ``{g, g + 1 mod 4}``
`opu3`     3                             ``{g, g + 1, g + 2 mod 4}``
`opu123`   1, 2, 3, one after the other  each in turn
`opu23`    2, 3, one after the other     each in turn
=========  ============================  =====================================================

With c >= s a client has all layers; so for m = 2 `opu2` and `opu3` are `all`, and `lowerb` halves
the clients. Every layer has a client under each of these rules, whatever n and m. `opr2` gives
each client two of the m groups at random, drawn anew each round.

How the authors give 1, 2 or 3 blocks to clients is not known; taking turns is this project's rule.

Source: Yi et al., "FedP3" (ICLR 2024) and its public code for the first three and `opr2`
("OPU": overlapped, partitioned uniformly); dissertation arXiv 2509.08233.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedstrategies.pruning import LayerGroups
from fedstrategies.random import Purpose, client_keys, sample_without_replacement

__all__ = [
    "LAYER_CHOICES",
    "AllLayers",
    "LayerChoice",
    "OverlappedLayers",
    "RandomLayers",
    "only_classifier",
    "parse_layers",
    "uncovered",
]


class LayerChoice(Protocol):
    """A law of the L_i; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """The choice as the command line writes it."""

    @property
    def fixed(self) -> bool:
        """Whether the L_i are the same in every round."""

    def draw(self, groups: LayerGroups, *, clients: int, seed: int, round: int) -> Tensor:
        """L_i of all clients in a round.

        Parameters
        ----------
        groups : LayerGroups
            Of the model; G of them.
        clients : int
            n >= 1.
        seed, round : int
            The draw is a function of these alone.

        Returns
        -------
        Tensor
            bool, shape (n, G); the column of the classifier is True.

        Raises
        ------
        ValueError
            If the choice is not one for so many clients or such a model.
        """


@dataclass(frozen=True, kw_only=True)
class AllLayers:
    """L_i is the whole model."""

    @property
    def spec(self) -> str:
        """``all``."""
        return "all"

    @property
    def fixed(self) -> bool:
        """True."""
        return True

    def draw(self, groups: LayerGroups, *, clients: int, seed: int, round: int) -> Tensor:
        """All True; see `LayerChoice.draw`."""
        _check_clients(clients)
        return torch.ones((clients, len(groups)), dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class OverlappedLayers:
    """Consecutive segments of layers, beginning with that of the client's part.

    Attributes
    ----------
    counts : tuple of int
        c, how many segments; several are dealt in turn to the clients of each part.

    Raises
    ------
    ValueError
        If there is no count, or one is below 1.
    """

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"counts = {self.counts}: a client trains 1 segment or more")

    @property
    def spec(self) -> str:
        """``lowerb`` for (1,), else ``opu`` and the counts."""
        return "lowerb" if self.counts == (1,) else "opu" + "".join(map(str, self.counts))

    @property
    def fixed(self) -> bool:
        """True."""
        return True

    def draw(self, groups: LayerGroups, *, clients: int, seed: int, round: int) -> Tensor:
        """A function of n and m alone; see `LayerChoice.draw`."""
        _check_clients(clients)
        ids, shared = torch.arange(clients), torch.tensor(groups.shared, dtype=torch.int64)
        segments = max(1, min(clients, len(shared)))
        part = ids * segments // clients
        # The smallest id with floor(i s/n) = g is ceil(g n/s).
        place = ids - (part * clients + segments - 1) // segments
        count = torch.tensor(self.counts)[place % len(self.counts)]
        segment = torch.arange(len(shared)) * segments // max(1, len(shared))
        chosen = only_classifier(groups, clients)
        chosen[:, shared] = (segment - part.unsqueeze(1)) % segments < count.unsqueeze(1)
        return chosen


@dataclass(frozen=True, kw_only=True)
class RandomLayers:
    """A uniformly random subset of the shared layers for each client, anew each round.

    Attributes
    ----------
    count : int
        Layers of each client; all where there are no more.

    Raises
    ------
    ValueError
        If it is below 1.
    """

    count: int = 2

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count = {self.count}: a client trains 1 layer or more")

    @property
    def spec(self) -> str:
        """``opr`` and the count."""
        return f"opr{self.count}"

    @property
    def fixed(self) -> bool:
        """False."""
        return False

    def draw(self, groups: LayerGroups, *, clients: int, seed: int, round: int) -> Tensor:
        """See `LayerChoice.draw`."""
        _check_clients(clients)
        shared = torch.tensor(groups.shared, dtype=torch.int64)
        keys = client_keys(seed, round, torch.arange(clients), Purpose.LAYERS)
        drawn = sample_without_replacement(keys, len(shared), min(self.count, len(shared)))
        return only_classifier(groups, clients).scatter_(1, shared[drawn], True)


LAYER_CHOICES: Mapping[str, LayerChoice] = {
    "all": AllLayers(),
    "lowerb": OverlappedLayers(counts=(1,)),
    "opu2": OverlappedLayers(counts=(2,)),
    "opu3": OverlappedLayers(counts=(3,)),
    "opr2": RandomLayers(count=2),
    "opu123": OverlappedLayers(counts=(1, 2, 3)),
    "opu23": OverlappedLayers(counts=(2, 3)),
}
"""The choices that have a name."""


def parse_layers(text: str) -> LayerChoice:
    """The choice that ``text`` names.

    Parameters
    ----------
    text : str
        A key of `LAYER_CHOICES`, in upper or lower case.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    choice = LAYER_CHOICES.get(text.strip().lower())
    if choice is None:
        raise ValueError(f"{text!r}: the choices of layers are {', '.join(LAYER_CHOICES)}")
    return choice


def only_classifier(groups: LayerGroups, clients: int) -> Tensor:
    """What every L_i holds: bool, shape (n, G), True in the classifier's column alone."""
    chosen = torch.zeros((clients, len(groups)), dtype=torch.bool)
    chosen[:, groups.classifier] = True
    return chosen


def uncovered(assigned: Tensor, groups: LayerGroups) -> tuple[str, ...]:
    """Names of the groups that no client trains under L_i: they stay as they are.

    Parameters
    ----------
    assigned : Tensor
        L_i of all clients: bool, shape (n, G).
    groups : LayerGroups
        Of the model; G of them.
    """
    return tuple(
        group.name
        for group, trained in zip(groups, assigned.any(dim=0).tolist(), strict=True)
        if not trained
    )


def _check_clients(clients: int) -> None:
    if clients < 1:
        raise ValueError(f"{clients} clients: layers are chosen for 1 client or more")
