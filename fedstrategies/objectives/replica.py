"""A module's forward pass with other tensors in the place of its parameters and buffers.

`torch.func.functional_call` puts the tensors into the module for the time of the call, so two
threads cannot use one module. Here the module is copied once for each thread, its structure
alone (tensors are shared), and the tensors are put into the copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from threading import local
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from fedstrategies.objectives.standing import Standing

__all__ = ["Replica", "replica_of"]


class Replica:
    """A copy of a module that shares its tensors until others are put in their place.

    For one thread at a time.

    Parameters
    ----------
    module : torch.nn.Module
        What is copied; never written to.

    Attributes
    ----------
    names : frozenset of str
        Of its parameters and buffers; of tied ones, the first.

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
        self.names = frozenset(names.values())
        self._slots: dict[str, list[tuple[dict[str, Tensor | None], str, Tensor | None]]] = {}
        for prefix, layer in self.module.named_modules():
            for held in (layer._parameters, layer._buffers):
                for leaf, tensor in held.items():
                    name = f"{prefix}.{leaf}" if tensor is None else names[id(tensor)]
                    self._slots.setdefault(name, []).append((held, leaf, tensor))

    def hold(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The copy with other tensors in it, until `let_go` is called, which must be.

        Parameters
        ----------
        state : mapping of str to Tensor
            By the names of the module's parameters and buffers; tied ones follow.
        """
        for name, tensor in state.items():
            for held, leaf, _ in self._slots[name]:
                held[leaf] = tensor
        return self.module

    def let_go(self) -> None:
        """The tensors that are shared with the module are put back."""
        for slots in self._slots.values():
            for held, leaf, original in slots:
                held[leaf] = original


class _Replicas(local):
    """Those of the running thread: a cache, which changes no result and keeps no module alive."""

    def __init__(self) -> None:
        self.known: WeakKeyDictionary[nn.Module, tuple[Standing, Replica]] = WeakKeyDictionary()


_REPLICAS = _Replicas()


def replica_of(module: nn.Module, standing: Standing) -> Replica:
    """The running thread's copy of a module, made anew when the module stands otherwise.

    Parameters
    ----------
    module : torch.nn.Module
        What is copied.
    standing : Standing
        Its own, now.

    Raises
    ------
    ValueError
        If the module cannot be copied.
    """
    known = _REPLICAS.known.get(module)
    if known is None or known[0] is not standing:
        known = standing, Replica(module)
        _REPLICAS.known[module] = known
    return known[1]
