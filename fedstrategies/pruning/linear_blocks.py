"""Which linear layers of a module are pruned, and which of them together.

A block is what calibration looks at in one pass: all linear layers of one member of a
``ModuleList`` or ``Sequential``, as the layers of a transformer are kept. What stands outside of
all such containers (embeddings, the head of a language model) is left dense. In a module without
them every linear layer is a block of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

__all__ = ["LinearBlock", "linear_blocks"]


@dataclass(frozen=True, kw_only=True)
class LinearBlock:
    """Linear layers that are calibrated and pruned together.

    Attributes
    ----------
    name : str
        Of the submodule, as in ``named_modules``.
    layers : tuple of str
        Names of its linear layers.
    """

    name: str
    layers: tuple[str, ...]


def linear_blocks(module: nn.Module, *, skip: Sequence[str] = ()) -> tuple[LinearBlock, ...]:
    """The blocks of a module, in the order of registration.

    Parameters
    ----------
    module : torch.nn.Module
        Any.
    skip : sequence of str
        Shell patterns of names of linear layers that stay dense.

    Raises
    ------
    ValueError
        If there is no linear layer to prune, or a pattern matches none.
    """
    linears = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in linears):
            raise ValueError(
                f"skip: no linear layer is called {pattern!r}; there are {_some(linears)}"
            )
    skipped = {name for name in linears for pattern in skip if fnmatchcase(name, pattern)}
    units = list(_members(module, "")) or linears
    blocks = []
    for unit in units:
        inside = tuple(
            name
            for name in linears
            if name not in skipped and (name == unit or name.startswith(f"{unit}."))
        )
        if inside:
            blocks.append(LinearBlock(name=unit, layers=inside))
    if not blocks:
        raise ValueError(f"{type(module).__name__} has no linear layer (torch.nn.Linear) to prune")
    return tuple(blocks)


def _members(module: nn.Module, name: str) -> Iterator[str]:
    """Members with linear layers of the outermost containers."""
    is_container = isinstance(module, (nn.ModuleList, nn.Sequential))
    for leaf, child in module.named_children():
        path = f"{name}.{leaf}" if name else leaf
        if not is_container:
            yield from _members(child, path)
        elif any(isinstance(part, nn.Linear) for part in child.modules()):
            yield path


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" * (len(names) > most))
