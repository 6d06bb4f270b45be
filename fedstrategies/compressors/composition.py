"""Composition: one operator on the values another one keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

from torch import Tensor

from fedstrategies.compressors.base import Compressor, Constants
from fedstrategies.compressors.cast import Cast
from fedstrategies.compressors.natural import Natural
from fedstrategies.compressors.payload import Payload
from fedstrategies.compressors.qsgd import QSGD
from fedstrategies.random import derived_keys

__all__ = ["Composition"]

_CODING = (Cast, Natural, QSGD)


@dataclass(frozen=True, kw_only=True)
class Composition(Compressor):
    """First ``stages[0]``, then each next operator on the k values sent so far.

    The constants are those of `Constants.then`, each stage's at the number of values it acts
    on. Every stage draws from a stream of its own.

    Parameters
    ----------
    stages : tuple of Compressor
        At least one; compositions among them are flattened.

    Raises
    ------
    ValueError
        If there is no stage, or a stage that sends plain floats follows one that codes its
        values (natural, qsgd, cast): their coding would be lost, and with it what it saves.

    Examples
    --------
    The two largest entries, each rounded to a power of two.

    >>> import torch
    >>> from fedstrategies import Composition, Natural, TopK
    >>> both = Composition(stages=(TopK(k=2), Natural()))
    >>> both.compress(torch.tensor([[3.0, -1.0, 0.5, 2.0]]), keys=torch.tensor([0])).dense()
    tensor([[4., 0., 0., 2.]])
    >>> both.spec
    'top-k:k=2+natural'
    >>> both.constants(4).error
    0.5625
    """

    stages: tuple[Compressor, ...]

    def __post_init__(self) -> None:
        flat: list[Compressor] = []
        for stage in self.stages:
            flat.extend(stage.stages if isinstance(stage, Composition) else [stage])
        if not flat:
            raise ValueError("a composition needs at least one operator")
        for first, second in pairwise(flat):
            if isinstance(first, _CODING) and not isinstance(second, _CODING):
                raise ValueError(
                    f"{first.spec}+{second.spec} would send what {first.spec} codes as plain "
                    f"floats; write it the other way round: {second.spec}+{first.spec}"
                )
        object.__setattr__(self, "stages", tuple(flat))

    @property
    def spec(self) -> str:
        """The stages' specs joined by ``+``, e.g. ``top-k:k=5+natural``."""
        return "+".join(stage.spec for stage in self.stages)

    def kept(self, dimension: int) -> int:
        """Number of values the last stage sends; ValueError if a stage's k exceeds its d."""
        return reduce(lambda count, stage: stage.kept(count), self.stages, dimension)

    def constants(self, dimension: int) -> Constants:
        """Constants of the whole; ValueError if a stage's k exceeds its dimension."""
        first, *others = self.stages
        total, count = first.constants(dimension), first.kept(dimension)
        for stage in others:
            total, count = total.then(stage.constants(count)), stage.kept(count)
        return total

    def compress(self, vectors: Tensor, keys: Tensor) -> Payload:
        """Compress each row stage by stage; ValueError if a stage's k exceeds its dimension."""
        first, *others = self.stages
        payload = first.compress(vectors, derived_keys(keys, 0))
        for label, stage in enumerate(others, start=1):
            inner = stage.compress(payload.values.to_tensor(), derived_keys(keys, label))
            payload = _nest(payload, inner)
        return payload


def _nest(outer: Payload, inner: Payload) -> Payload:
    """``inner`` is a payload over the values of ``outer``: name its coordinates in d."""
    if inner.indices is None:
        return replace(outer, values=inner.values)
    if outer.indices is None:
        return replace(inner, dimension=outer.dimension)
    return Payload(
        dimension=outer.dimension,
        values=inner.values,
        indices=outer.indices.gather(1, inner.indices),
    )
