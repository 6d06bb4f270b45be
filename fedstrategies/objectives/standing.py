"""How a module stands: what its caller may have changed on it since it was last used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn

from fedstrategies.objectives.drawless import layers_draw_nothing

__all__ = ["HOOKS", "Standing", "standing_of", "version_of"]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The attributes of a module that say who listens to its passes."""

_PLAIN = frozenset({bool, int, float, str, type(None)})
_EVERY_MODULES = tuple(vars(nn.Module()))


@dataclass(eq=False)
class Standing:
    """A module with certain layers, parameters, attributes and hooks.

    Attributes
    ----------
    values : list
        Plain attributes with their types, numbers of hooks, versions of tensors.
    objects : list
        All else, compared by identity; weak references where there can be, so that what refers
        to the module does not keep it alive. Parameters and buffers are held.
    draws_nothing : bool
        Whether all layers are known not to draw random numbers.
    used, drew : bool
        Whether it has been used, and whether it has drawn then. That it has not says nothing of
        other inputs.
    """

    values: list[object]
    objects: list[object]
    draws_nothing: bool
    used: bool = False
    drew: bool = False


_KNOWN: WeakKeyDictionary[nn.Module, Standing] = WeakKeyDictionary()


def standing_of(module: nn.Module) -> Standing:
    """How the module stands now: the same object as long as nothing is changed on it.

    Looked at are, on every layer: its mode, hooks, parameters and buffers (which, not their
    numbers), the layers in it, and all other attributes. Plain ones count by value; tensors by
    identity and by the version that writing to them moves; lists and dictionaries by the identity
    of what is in them; everything else by identity.

    Parameters
    ----------
    module : torch.nn.Module
        Not kept alive.
    """
    layers = [module]
    values: list[object] = []
    objects: list[object] = []
    for layer in layers:
        attributes = vars(layer)
        values.append(attributes["training"])
        if any(map(attributes.get, HOOKS)):
            # Hooks are numbered, and a number is never used again.
            values.append([tuple(attributes[name]) for name in HOOKS])
        for name in _own(tuple(attributes)):
            value = attributes[name]
            kind = type(value)
            if kind in _PLAIN:
                values.append(kind)
                values.append(value)
            else:
                _look_at(value, values, objects)
        objects.extend(attributes["_parameters"].values())
        objects.extend(attributes["_buffers"].values())
        inner = attributes["_modules"]
        if inner:
            inside = [one for one in inner.values() if one is not None]
            values.append(len(inside))
            objects.extend(map(ref, inside))
            layers.extend(inside)
    known = _KNOWN.get(module)
    if known is None or not _same(known, values, objects):
        known = Standing(values, objects, layers_draw_nothing(layers))
        _KNOWN[module] = known
    return known


def version_of(tensor: Tensor) -> int:
    """How often torch has written to the tensor; not counting writes by ``.data`` or by numpy."""
    return 0 if tensor.is_inference() else tensor._version


def _own(names: tuple[str, ...]) -> Sequence[str]:
    """The attributes that not every module has."""
    count = len(_EVERY_MODULES)
    # As Module.__init__ leaves them, unless something was set before it.
    if names[0] == _EVERY_MODULES[0] and names[count - 1] == _EVERY_MODULES[-1]:
        return names[count:]
    return [name for name in names if name not in _EVERY_MODULES]


def _same(known: Standing, values: list[object], objects: list[object]) -> bool:
    return (
        known.values == values
        and len(known.objects) == len(objects)
        and all(map(is_, known.objects, objects))
    )


def _look_at(value: object, values: list[object], objects: list[object]) -> None:
    if isinstance(value, Tensor):
        values.append(version_of(value))
    elif isinstance(value, list):
        values.append(len(value))
        objects.extend(map(_reference, value))
    elif isinstance(value, dict):
        values.append(len(value))
        objects.extend(map(_reference, value))
        objects.extend(map(_reference, value.values()))
    objects.append(_reference(value))


def _reference(value: object) -> object:
    """A weak reference, of which there is one for each object; or the object, if it has none."""
    try:
        return ref(value)
    except TypeError:
        return value
