"""Forward passes must not write to parameters: these are the server's model, or the caller's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fedstrategies.objectives.standing import version_of

__all__ = ["raise_if_written", "versions_of"]


def versions_of(point: Tensor, frozen: Mapping[str, Tensor]) -> list[int]:
    """Versions of x and of the frozen parameters; see `version_of`."""
    return [version_of(point), *map(version_of, frozen.values())]


def raise_if_written(
    module: nn.Module, before: list[int], point: Tensor, frozen: Mapping[str, Tensor]
) -> None:
    """Make sure that the versions are what they were before the pass.

    Raises
    ------
    ValueError
        If x or a frozen parameter has been written to.
    """
    after = versions_of(point, frozen)
    if after == before:
        return
    names = ("a trained parameter", *(f"the frozen parameter {name}" for name in frozen))
    (written, *_) = (
        name for name, old, new in zip(names, before, after, strict=True) if old != new
    )
    raise ValueError(
        f"{type(module).__name__} wrote to {written} during a pass, which changed the model that "
        "it was given: f_i must be a function of x alone. Leave max_norm out of Embedding, and "
        "replace writes in place (weight.clamp_(..)) by new tensors (weight.clamp(..))"
    )
