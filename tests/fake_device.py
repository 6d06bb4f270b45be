"""A second device that is not there: tensors that say they are elsewhere, and hold numbers.

CUDA is rarely at hand where tests run, yet most of what a GPU breaks is not arithmetic: a tensor
made on the CPU by default, ``.numpy()`` of one that lives elsewhere, two devices in one operation.
`Elsewhere` wraps a CPU tensor and claims the device ``meta``, so that whatever asks ``device.type
!= "cpu"`` takes its other branch. Operations compute on the wrapped numbers, and refuse operands
of two devices as CUDA does (scalars of no dimension and CPU indices into another device aside).
Inside `fake_device` factories with ``device="meta"`` give such tensors too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["DEVICE", "Elsewhere", "elsewhere", "fake_device"]

DEVICE = torch.device("meta")

_INDEXING = ("aten.index.Tensor", "aten.index_put", "aten._index_put_impl")
_COPIES = ("aten._to_copy", "aten.copy_")


class Elsewhere(Tensor):
    """A tensor on `DEVICE` whose numbers are ``inside``, a CPU tensor."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=DEVICE,
            requires_grad=inside.requires_grad,
        )
        made.inside = inside
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """As a tensor on CUDA; torch refuses it to subclasses."""
        return self.inside.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inside!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Catches factories, which have no operand to be dispatched on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Catches ``torch.tensor`` and ``new_tensor``, which move their numbers unseen by modes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return Elsewhere(func(*args, **{**kwargs, "device": "cpu"}))
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere) and "device" not in kwargs:
            return Elsewhere(func(args[0].inside, *args[1:], **kwargs))
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    operands = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    inside = [leaf for leaf in operands if isinstance(leaf, Elsewhere)]
    name = str(func)
    if inside and not name.startswith(_COPIES):
        _same_device(name, operands, args)
    asked = kwargs.get("device")
    there = bool(inside) if asked is None else torch.device(asked) == DEVICE
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
    if name.startswith("aten.copy_"):
        return args[0]
    # In place: the operand itself is the result.
    if func._schema.is_mutable and inside and isinstance(args[0], Elsewhere):
        return args[0] if isinstance(result, Tensor) else result
    return tree_map(_wrap, result) if there else result


def _same_device(name: str, operands: list[Tensor], args: Any) -> None:
    for position, leaf in enumerate(operands):
        if isinstance(leaf, Elsewhere) or leaf.ndim == 0:
            continue
        if position and name.startswith(_INDEXING) and isinstance(args[0], Elsewhere):
            values = args[2] if name.startswith(_INDEXING[1:]) else None
            if leaf is not values:
                continue
        raise RuntimeError(f"{name}: expected all tensors on one device, found {DEVICE} and cpu")


def _unwrap(leaf: Any) -> Any:
    return leaf.inside if isinstance(leaf, Elsewhere) else leaf


def _wrap(leaf: Any) -> Any:
    plain = isinstance(leaf, Tensor) and not isinstance(leaf, Elsewhere)
    return Elsewhere(leaf) if plain else leaf


def elsewhere(tensor: Tensor) -> Tensor:
    """A copy of a CPU tensor on `DEVICE`."""
    return Elsewhere(tensor.detach().clone())


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """The device, while tensors can be made on it."""
    with _FromNumbers(), _Mode():
        yield DEVICE
