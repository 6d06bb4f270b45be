"""Mini-batches of many clients in one vectorised pass, for accelerators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from fedstrategies.objectives.looped import LoopedObjectives
from fedstrategies.objectives.replica import replica_of
from fedstrategies.objectives.standing import standing_of
from fedstrategies.objectives.unwritten import raise_if_written, versions_of
from fedstrategies.random import sample_without_replacement

if TYPE_CHECKING:
    from fedstrategies.objectives.torch_objective import TorchObjective

__all__ = ["VectorizedObjectives"]


class VectorizedObjectives(LoopedObjectives):
    """The f_i of n clients of one module; mini-batches of equal size in one `torch.func.vmap`.

    Small kernels of many clients become few large ones, which pays on accelerators. Full gradients,
    values and accuracies are those of `LoopedObjectives`, and mini-batch gradients agree with them
    to rounding.

    Parameters
    ----------
    objectives : sequence of TorchObjective
        One per client, of one module, loss, device and set of frozen parameters.

    Raises
    ------
    ValueError
        If there is none, or they differ.
    """

    def __init__(self, objectives: Sequence[TorchObjective]) -> None:
        super().__init__(objectives)
        kinds = {(id(one.module), id(one.loss), one.layout, one.device) for one in objectives}
        if len(kinds) != 1:
            raise ValueError(
                "vectorized clients must share one module object, loss, trainable and device; "
                "build the module once, outside client_fn"
            )
        self._clients = tuple(objectives)

    @property
    def looped(self) -> bool:
        """False."""
        return False

    def value_and_gradient(
        self, x: Tensor, *, clients: Tensor | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values (C',) and gradients (C', d); see `BatchedObjective.value_and_gradient`.

        Raises
        ------
        ValueError
            If a layer draws (dropout in training mode): one call has one stream, clients need
            their own.
        """
        rows = self.rows_for(x, clients)
        groups: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            size = self._clients[row].autograd.batch_size
            if keys is None or size is None or size >= self._clients[row].num_examples:
                return super().value_and_gradient(x, clients=clients, keys=keys)
            groups.setdefault(size, []).append(place)
        values = x.new_empty(len(rows))
        gradients = x.new_empty((len(rows), self.dimension))
        for places in groups.values():
            members = [self._clients[rows[place]] for place in places]
            points = x.expand(len(rows), -1)[places]
            assert keys is not None
            values[places], gradients[places] = _together(members, points, keys[places])
        return values, gradients


def _together(
    members: Sequence[TorchObjective], points: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Values (C,) and gradients (C, d) on mini-batches of one size."""
    like = members[0]
    batches = []
    for row, one in enumerate(members):
        size = one.autograd.batch_size or one.num_examples
        drawn = sample_without_replacement(keys[row : row + 1], one.num_examples, size)
        batches.append(one.examples.take(drawn[0], like.device))
    features, targets = (torch.stack(parts) for parts in zip(*batches, strict=True))
    passes = like.autograd.passes
    module = replica_of(like.module, standing_of(like.module)).module

    def loss(
        point: Tensor, buffers: dict[str, Tensor], features: Tensor, targets: Tensor
    ) -> Tensor:
        state = {**like.layout.unflatten(point), **passes.frozen, **buffers}
        return like.loss(functional_call(module, state, (features,)), targets)

    # Each client has buffers of its own to write to.
    buffers = {
        name: buffer.expand(len(members), *buffer.shape).clone()
        for name, buffer in passes.buffers.items()
    }
    moved = points.data.to(like.device)
    versions = versions_of(moved, passes.frozen)
    try:
        slopes, losses = vmap(grad_and_value(loss))(moved, buffers, features, targets)
    except RuntimeError as error:
        if "randomness" not in str(error):
            raise
        raise ValueError(
            f"{type(like.module).__name__} draws random numbers (dropout), which vectorized=True "
            "cannot do by client; call module.eval() or leave vectorized out"
        ) from error
    raise_if_written(like.module, versions, moved, passes.frozen)
    l2 = torch.tensor([one.l2 for one in members], dtype=points.dtype, device=like.device)
    if bool(l2.any()):
        losses = losses + 0.5 * l2 * (moved * moved).sum(dim=1)
        slopes = slopes + l2.unsqueeze(1) * moved
    return losses.to(points.device), slopes.to(points.device)
