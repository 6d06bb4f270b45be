"""Flat vector <-> named arrays.

The mathematics works on one flat tensor; a user's model has names, shapes and dtypes. A
`Layout` is the map between them. Only parameters are in the vector; buffers (and parameters
outside ``trainable``) are carried beside it unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import torch
from torch import Tensor, nn

__all__ = ["Layout"]

# What nn.modules.batchnorm registers as buffers; a plain mapping of arrays cannot tell them
# from parameters by anything but their names.
_BUFFER_SUFFIXES = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names and shapes of the entries of the flat vector, in order.

    Attributes
    ----------
    names : tuple of str
        Entry names, in the order of the user's mapping.
    shapes : tuple of tuple of int
        Entry shapes.
    dtype : torch.dtype
        The common dtype of the flat vector.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Tensor], *, trainable: str = "*") -> Layout:
        """Layout of the floating entries of ``arrays`` that match the glob ``trainable``.

        Batch-norm statistics are recognised by name and left out.

        Raises
        ------
        ValueError
            If nothing matches, or the matching entries differ in dtype.
        """
        chosen = {
            name: array
            for name, array in arrays.items()
            if array.is_floating_point()
            and fnmatchcase(name, trainable)
            and not name.endswith(_BUFFER_SUFFIXES)
        }
        return cls._of_chosen(chosen, trainable)

    @classmethod
    def of_module(cls, module: nn.Module, *, trainable: str = "*") -> Layout:
        """Layout of the parameters of ``module`` that match the glob ``trainable``."""
        chosen = {
            name: parameter.detach()
            for name, parameter in module.named_parameters()
            if fnmatchcase(name, trainable)
        }
        return cls._of_chosen(chosen, trainable)

    @classmethod
    def _of_chosen(cls, chosen: Mapping[str, Tensor], trainable: str) -> Layout:
        if not chosen:
            raise ValueError(f"no floating-point parameter matches trainable={trainable!r}")
        dtypes = {array.dtype for array in chosen.values()}
        if len(dtypes) > 1:
            raise ValueError(
                f"trainable parameters have several dtypes {sorted(map(str, dtypes))}; "
                "cast the model to one (module.float()) or narrow trainable="
            )
        return cls(
            names=tuple(chosen),
            shapes=tuple(tuple(array.shape) for array in chosen.values()),
            dtype=dtypes.pop(),
        )

    @property
    def sizes(self) -> Sequence[int]:
        """Number of coordinates of each entry."""
        return [prod(shape) for shape in self.shapes]

    @property
    def dimension(self) -> int:
        """d, the length of the flat vector."""
        return sum(self.sizes)

    def flatten(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """The flat vector (d,) of ``arrays``; a copy.

        Raises
        ------
        ValueError
            If an entry is missing or has another shape.
        """
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in arrays:
                raise ValueError(f"entry {name!r} is missing; expected {list(self.names)}")
            if tuple(arrays[name].shape) != shape:
                raise ValueError(
                    f"entry {name!r} has shape {tuple(arrays[name].shape)}, expected {shape}"
                )
        return torch.cat([arrays[name].detach().reshape(-1).to(self.dtype) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Named views of the flat vector (d,).

        Raises
        ------
        ValueError
            If the vector's length is not d.
        """
        if vector.shape != (self.dimension,):
            raise ValueError(f"vector of shape {tuple(vector.shape)}, expected ({self.dimension},)")
        parts = torch.split(vector, list(self.sizes))
        return {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }
