"""The server's mean of each layer over the clients that sent it.

For layer l with contributors ``S_l = {i : l in L_i}`` among the clients of the round,

    W^l = sum_{i in S_l} a_i^l W_i^l,   a_i^l = w_i^l / sum_{j in S_l} w_j^l,

so that the shares a_i^l sum to one; a layer that nobody sent stays as it is. The rules differ in
the weights w_i^l alone: 1 (simple), |L_i| (weighted), or the exponential of a similarity
(attention).

Source: Yi et al., "FedP3" (ICLR 2024); dissertation arXiv 2509.08233. The public code divides
|L_i| by the number of contributors, by which its shares do not sum to one; the paper's formula is
the one here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from fedstrategies.pruning import LayerGroups
from fedstrategies.reduce import sum_over_clients
from fedstrategies.robust import Aggregator

__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "Attention",
    "Simple",
    "Weighted",
    "aggregate",
    "parse_aggregation",
]


class Aggregation(Protocol):
    """A rule for the weights w_i^l; implementations are frozen dataclasses."""

    @property
    def spec(self) -> str:
        """The rule as the command line writes it."""

    def weights(self, rows: Tensor, sent: Tensor, x: Tensor, groups: LayerGroups) -> Tensor:
        """w_i^l of C clients.

        Parameters
        ----------
        rows : Tensor
            W_i, shape (C, d); meaningless outside the groups that were sent.
        sent : Tensor
            bool, shape (C, G): whose group was sent.
        x : Tensor
            The server's model W before the round, shape (d,).
        groups : LayerGroups
            Of the model.

        Returns
        -------
        Tensor
            float64, shape (C, G), positive where ``sent`` and not read elsewhere.
        """


@dataclass(frozen=True, kw_only=True)
class Simple:
    """The plain mean: ``w_i^l = 1``."""

    @property
    def spec(self) -> str:
        """``simple``."""
        return "simple"

    def weights(self, rows: Tensor, sent: Tensor, x: Tensor, groups: LayerGroups) -> Tensor:
        """Ones; see `Aggregation.weights`."""
        return sent.to(torch.float64)


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """``w_i^l = |L_i|``, the number of groups the client sent, the classifier included."""

    @property
    def spec(self) -> str:
        """``weighted``."""
        return "weighted"

    def weights(self, rows: Tensor, sent: Tensor, x: Tensor, groups: LayerGroups) -> Tensor:
        """|L_i|; see `Aggregation.weights`."""
        return sent.to(torch.float64) * sent.sum(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Scaled dot-product attention of the server's layer over the clients' layers.

    ``a_i^l = softmax_{i in S_l}( <W_i^l, W^l> / (temperature sqrt(|W^l|)) )`` with |W^l| the
    number of coordinates: the server's layer is the query, the clients' layers are keys and
    values. Products and softmax are in float64. A high temperature leads to the plain mean. The
    paper names attention and gives no formula; this is the project's.

    Attributes
    ----------
    temperature : float
        Above 0.

    Raises
    ------
    ValueError
        If it is not positive and finite.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"temperature = {self.temperature} is not positive and finite")

    @property
    def spec(self) -> str:
        """``attention:temperature=...``."""
        return f"attention:temperature={self.temperature!r}"

    def weights(self, rows: Tensor, sent: Tensor, x: Tensor, groups: LayerGroups) -> Tensor:
        """Exponentials, the largest of each layer being 1; see `Aggregation.weights`."""
        scores = torch.full(sent.shape, -torch.inf, dtype=torch.float64, device=rows.device)
        for layer, group in enumerate(groups):
            query = torch.cat([x[part] for part in group.slices]).to(torch.float64)
            scale = self.temperature * sqrt(group.size)
            for client in sent[:, layer].nonzero().flatten().tolist():
                key = torch.cat([rows[client, part] for part in group.slices])
                # One product per client, so that its bits do not depend on who else is there.
                scores[client, layer] = torch.dot(key.to(torch.float64), query) / scale
        return torch.exp(scores - scores.max(dim=0).values)


def aggregate(
    rows: Tensor,
    sent: Tensor,
    x: Tensor,
    groups: LayerGroups,
    *,
    partition_ids: Tensor,
    aggregation: Aggregation | None = None,
    aggregator: Aggregator | None = None,
) -> Tensor:
    """The server's next model.

    Sums are in the order of `fedstrategies.reduce`, so the order of the rows does not matter.
    Where all clients sent all groups, `Simple` has the bits of unweighted FedAvg.

    Parameters
    ----------
    rows : Tensor
        W_i, shape (C, d), C >= 0. What lies outside the groups a client sent is not read.
    sent : Tensor
        bool, shape (C, G).
    x : Tensor
        W before the round, shape (d,).
    groups : LayerGroups
        Of the model.
    partition_ids : Tensor
        int64, shape (C,), distinct.
    aggregation : Aggregation, optional
        None: `Simple`.
    aggregator : Aggregator, optional
        What is taken of each layer in place of the weighted mean, among those that sent it; a
        layer of few senders is protected against as few. Not with weights that depend on what
        is sent, as those of `Attention` do: one client may have most of them. None: the mean.

    Returns
    -------
    Tensor
        Shape (d,), a new tensor; bit for bit x in the groups that nobody sent.

    Raises
    ------
    ValueError
        If shapes do not fit, or a client is there twice.
    """
    clients = len(partition_ids)
    expected = ((clients, groups.dimension), (clients, len(groups)), (groups.dimension,))
    found = (tuple(rows.shape), tuple(sent.shape), tuple(x.shape))
    if found != expected:
        raise ValueError(f"rows, sent and x have shapes {found}, expected {expected}")
    ids, order = partition_ids.sort()
    if bool((ids[1:] == ids[:-1]).any()):
        raise ValueError(f"a client is there twice among {partition_ids.tolist()}")
    rows, sent = rows[order], sent[order]
    mean = x.clone()
    if not clients:
        return mean
    weights = (Simple() if aggregation is None else aggregation).weights(rows, sent, x, groups)
    for layer, group in enumerate(groups):
        members = sent[:, layer].nonzero().flatten()
        if not len(members):
            continue
        mine = weights[members, layer]
        shares = mine / mine.sum()
        if aggregator is not None:
            whole = torch.cat([rows[members, part] for part in group.slices], dim=1)
            robust, first = aggregator(whole, shares), 0
            for part in group.slices:
                last = first + part.stop - part.start
                mean[part] = robust[first:last]
                first = last
            continue
        for part in group.slices:
            mean[part] = sum_over_clients(rows[members, part], ids[members], weights=shares)
    return mean


AGGREGATIONS: Mapping[str, Callable[..., Aggregation]] = {
    "simple": Simple,
    "weighted": Weighted,
    "attention": Attention,
}
"""The rules by name."""


def parse_aggregation(text: str) -> Aggregation:
    """``simple``, ``weighted`` or ``attention[:temperature=..]``.

    Parameters
    ----------
    text : str
        One of these.

    Raises
    ------
    ValueError
        If the text is none of these, or the temperature is not positive.
    """
    name, _, rest = (part.strip() for part in text.partition(":"))
    rule = AGGREGATIONS.get(name)
    if rule is None:
        raise ValueError(f"{text!r}: the aggregations are {', '.join(AGGREGATIONS)}")
    if not rest:
        return rule()
    key, _, value = (part.strip() for part in rest.partition("="))
    if name != "attention" or key != "temperature":
        raise ValueError(f"{text!r}: only attention has a setting, attention:temperature=1")
    try:
        temperature = float(value)
    except ValueError:
        raise ValueError(f"{text!r}: temperature = {value!r} is not a number") from None
    return Attention(temperature=temperature)
