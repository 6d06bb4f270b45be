"""A module's forward pass with other tensors in the place of its parameters and buffers.

`torch.func.functional_call` puts the tensors into the module for the time of the call, so two
threads cannot use one module. Here the module is copied once for each thread, its structure
alone (tensors are shared), and the tensors are put into the copy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from threading import local
from typing import TypeAlias
from weakref import WeakKeyDictionary

from torch import Tensor, nn

__all__ = ["Replica", "Settings", "replica_of", "settings_of"]

Settings: TypeAlias = tuple[object, ...]

_PLAIN = frozenset({bool, int, float, str, type(None)})


def settings_of(modules: Sequence[nn.Module]) -> Settings:
    """What a caller may change on the layers of a module between two calls.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        The module and everything in it.

    Returns
    -------
    tuple
        Modes, rates and other plain attributes, and which hooks there are.
    """
    found: list[object] = []
    for module in modules:
        for value in vars(module).values():
            kind = type(value)
            if kind in _PLAIN:
                found.append(value)
            elif kind is OrderedDict and value:
                # Hooks are numbered, and a number is never used again.
                found.append(tuple(value))
    return tuple(found)


class Replica:
    """A copy of a module that shares its tensors until others are put in their place.

    For one thread at a time.

    Parameters
    ----------
    module : torch.nn.Module
        What is copied; never written to.

    Raises
    ------
    ValueError
        If the module cannot be copied.
    """

    def __init__(self, module: nn.Module) -> None:
        shared: dict[int, object] = {id(t): t for t in (*module.parameters(), *module.buffers())}
        for layer in module.modules():
            for value in vars(layer).values():
                # The deprecated weight_norm leaves results of its last call, which refuse to be
                # copied.
                if isinstance(value, Tensor) and not value.is_leaf:
                    shared[id(value)] = value.detach()
        try:
            self.module = deepcopy(module, shared)
        except Exception as error:
            raise ValueError(
                f"{type(module).__name__} cannot be copied, and clients that share a module need "
                f"copies of it ({type(error).__name__}: {error}); keep what cannot be copied "
                "outside the module"
            ) from error
        names = {
            id(tensor): name
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }
        self._slots: dict[str, list[tuple[dict[str, Tensor | None], str, Tensor | None]]] = {}
        for prefix, layer in self.module.named_modules():
            for held in (layer._parameters, layer._buffers):
                for leaf, tensor in held.items():
                    name = f"{prefix}.{leaf}" if tensor is None else names[id(tensor)]
                    self._slots.setdefault(name, []).append((held, leaf, tensor))

    @contextmanager
    def holding(self, state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """The copy with other tensors in it; they are let go at the end.

        Parameters
        ----------
        state : mapping of str to Tensor
            By the names of the module's parameters and buffers; tied ones follow.
        """
        try:
            for name, tensor in state.items():
                for held, leaf, _ in self._slots[name]:
                    held[leaf] = tensor
            yield self.module
        finally:
            for slots in self._slots.values():
                for held, leaf, original in slots:
                    held[leaf] = original


class _Replicas(local):
    """Those of the running thread: a cache, which changes no result and keeps no module alive."""

    def __init__(self) -> None:
        self.known: WeakKeyDictionary[nn.Module, tuple[Settings, Replica]] = WeakKeyDictionary()


_REPLICAS = _Replicas()


def replica_of(module: nn.Module, settings: Settings) -> Replica:
    """The running thread's copy of a module, made anew when the module's settings have changed.

    Parameters
    ----------
    module : torch.nn.Module
        What is copied.
    settings : tuple
        `settings_of` all its layers, now.

    Raises
    ------
    ValueError
        If the module cannot be copied.
    """
    known = _REPLICAS.known.get(module)
    if known is None or known[0] != settings:
        known = settings, Replica(module)
        _REPLICAS.known[module] = known
    return known[1]
