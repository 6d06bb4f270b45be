"""L_i from what each client can hold or send."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrategies.fedp3.layer_choice import LayerChoice, only_classifier, parse_layers
from fedstrategies.pruning import LayerGroups
from fedstrategies.random import Purpose, client_keys, random_bits

__all__ = ["CapacityLayers", "parse_layer_choice"]


@dataclass(frozen=True, kw_only=True)
class CapacityLayers:
    """As many layers as fit into each client's budget of bytes.

    The classifier comes first. The other groups follow in an order drawn for each client, and
    each is taken if it still fits; so none that is left out would fit beside those taken, and
    small clients spread over the layers. A group counts with its bytes sent dense
    (`LayerGroup.bytes`): what an upload of L_i takes, headers apart. The choice holds for all
    rounds.

    A group that fits into no client is trained by none: `uncovered` tells.

    Attributes
    ----------
    capacity : int or tuple of int
        Bytes; one number for all clients, or one for each.
    """

    capacity: int | tuple[int, ...]

    @property
    def spec(self) -> str:
        """``capacity:`` and the bytes."""
        given = self.capacity if isinstance(self.capacity, tuple) else (self.capacity,)
        return "capacity:" + ",".join(map(str, given))

    @property
    def fixed(self) -> bool:
        """True."""
        return True

    def draw(self, groups: LayerGroups, *, clients: int, seed: int, round: int) -> Tensor:
        """L_i of all clients: bool, shape (n, G).

        Parameters
        ----------
        groups : LayerGroups
            Of the model.
        clients : int
            n >= 1.
        seed : int
            Of the orders.
        round : int
            Not used.

        Raises
        ------
        ValueError
            If there is not one budget for each client, or one is below the classifier's bytes.
        """
        free = self._budgets(clients)
        cost = torch.tensor([group.bytes for group in groups])
        final = groups.groups[groups.classifier]
        poor = (free < final.bytes).nonzero().flatten().tolist()
        if poor:
            raise ValueError(
                f"the classifier {final.name!r} takes {final.bytes} bytes and belongs to every "
                f"client; client {poor[0]} has a capacity of {int(free[poor[0]])} bytes"
            )
        chosen = only_classifier(groups, clients)
        free = free - final.bytes
        keys = client_keys(seed, 0, torch.arange(clients), Purpose.LAYERS)
        shared = torch.tensor(groups.shared, dtype=torch.int64)
        order = shared[random_bits(keys, len(shared)).argsort(dim=1)]
        rows = torch.arange(clients)
        for place in range(len(shared)):
            candidate = order[:, place]
            fits = cost[candidate] <= free
            chosen[rows, candidate] = fits
            free = free - cost[candidate] * fits
        return chosen

    def _budgets(self, clients: int) -> Tensor:
        if not isinstance(self.capacity, tuple):
            return torch.full((clients,), self.capacity)
        if len(self.capacity) != clients:
            raise ValueError(f"{len(self.capacity)} capacities for {clients} clients")
        return torch.tensor(self.capacity)


def parse_layer_choice(text: str) -> LayerChoice:
    """A named choice (see `parse_layers`), or ``capacity:BYTES`` with one number or one a client.

    Parameters
    ----------
    text : str
        ``opu2``, say, or ``capacity:20000``, or ``capacity:20000,8000,...``: bytes.

    Raises
    ------
    ValueError
        If the text is neither.
    """
    name, _, numbers = (part.strip() for part in text.partition(":"))
    if name != "capacity":
        try:
            return parse_layers(text)
        except ValueError as error:
            raise ValueError(f"{error}, capacity:BYTES") from None
    try:
        bytes_of = tuple(int(number) for number in numbers.split(","))
    except ValueError:
        raise ValueError(f"{text!r}: a capacity is a number of bytes, or one per client") from None
    return CapacityLayers(capacity=bytes_of[0] if len(bytes_of) == 1 else bytes_of)
