"""Nested state as named tensors and plain JSON, and back, without pickle.

A *snapshot* is a tree of tensors, numbers, strings, bytes, None, tuples, lists, mappings, sets
and dataclasses. `pack` splits it into tensors, named by their place in the tree, and a skeleton
that JSON can hold; `unpack` puts it together. Only dataclasses that the caller names are built,
so that a file decides nothing but numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["Packed", "pack", "unpack"]

Skeleton: TypeAlias = Any
"""What JSON can hold: an atom as it is, everything else as a list that begins with its kind."""

_DEEPEST = 64


@dataclass(frozen=True)
class Packed:
    """A snapshot in two parts.

    Attributes
    ----------
    skeleton : JSON value
        The tree; in the place of each tensor its name.
    tensors : mapping of str to Tensor
        By name.
    """

    skeleton: Skeleton
    tensors: dict[str, Tensor] = field(default_factory=dict)


def pack(tree: object) -> Packed:
    """The two parts of a snapshot; tensors are those of ``tree``, not copies.

    Raises
    ------
    TypeError
        If the tree holds something of another kind; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    return Packed(_pack(tree, "", tensors), tensors)


def _pack(node: object, place: str, tensors: dict[str, Tensor]) -> Skeleton:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, Tensor):
        return ["tensor", _named(node, place, tensors)]
    if isinstance(node, bytes):
        held = torch.from_numpy(np.frombuffer(node, dtype=np.uint8).copy())
        return ["bytes", _named(held, place, tensors)]
    if isinstance(node, tuple | list):
        kind = "tuple" if isinstance(node, tuple) else "list"
        return [kind, [_pack(one, f"{place}.{i}", tensors) for i, one in enumerate(node)]]
    if isinstance(node, Mapping):
        pairs = [[_key(k, place), _pack(v, f"{place}.{k}", tensors)] for k, v in node.items()]
        return ["map", pairs]
    if isinstance(node, AbstractSet):
        return ["set", sorted(_key(one, place) for one in node)]
    if is_dataclass(node) and not isinstance(node, type):
        parts = {f.name: getattr(node, f.name) for f in fields(node) if f.init}
        packed = {name: _pack(one, f"{place}.{name}", tensors) for name, one in parts.items()}
        return ["object", type(node).__name__, packed]
    raise TypeError(f"{place or 'the tree'}: a {type(node).__name__} cannot be kept in a snapshot")


def _named(tensor: Tensor, place: str, tensors: dict[str, Tensor]) -> str:
    name = place.removeprefix(".")
    if name in tensors:  # {"a.b": ...} beside {"a": {"b": ...}}, or the keys 1 and "1"
        raise TypeError(f"{name}: two tensors have this place; rename a key")
    tensors[name] = tensor
    return name


def _key(key: object, place: str) -> int | str:
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise TypeError(f"{place}: a key of type {type(key).__name__}; int and str are kept")
    return key


def unpack(packed: Packed, *, classes: Iterable[type] = ()) -> Any:
    """The tree that `pack` was given.

    Parameters
    ----------
    packed : Packed
        The two parts.
    classes : iterable of type
        The dataclasses that may be in it.

    Raises
    ------
    ValueError
        If the skeleton is none, names a tensor that is not there, or a class that may not be.
    """
    known = {one.__name__: one for one in classes}
    return _unpack(packed.skeleton, packed.tensors, known, 0)


def _unpack(
    node: Skeleton, tensors: Mapping[str, Tensor], known: Mapping[str, type], depth: int
) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if depth > _DEEPEST:
        raise ValueError(f"a snapshot is nested deeper than {_DEEPEST}")

    def inner(part: Skeleton) -> Any:
        return _unpack(part, tensors, known, depth + 1)

    match node:
        case ["tensor" | "bytes", name] if not isinstance(name, str) or name not in tensors:
            raise ValueError(f"there is no tensor {name!r}")
        case ["tensor", name]:
            return tensors[name]
        case ["bytes", name]:
            return tensors[name].numpy().tobytes()
        case ["tuple", list(parts)]:
            return tuple(inner(one) for one in parts)
        case ["list", list(parts)]:
            return [inner(one) for one in parts]
        case ["map", list(pairs)] if all(_is_pair(pair) for pair in pairs):
            return {key: inner(value) for key, value in pairs}
        case ["set", list(members)] if all(isinstance(m, int | str) for m in members):
            return set(members)
        case ["object", str(name), dict(parts)] if name in known:
            values = {key: inner(value) for key, value in parts.items()}
            try:
                return known[name](**values)
            except TypeError:
                raise ValueError(f"a {name} with other fields: {', '.join(values)}") from None
        case ["object", name, _]:
            raise ValueError(f"a {name} is not expected here")
    raise ValueError(f"not a part of a snapshot: {str(node)[:60]}")


def _is_pair(pair: Skeleton) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int | str)
