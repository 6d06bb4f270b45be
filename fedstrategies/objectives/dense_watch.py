"""Whether a module that was recognised as a dense network, and its loss, are as they were."""

from __future__ import annotations

from collections.abc import Sized
from operator import is_
from weakref import WeakValueDictionary

from torch import nn
from torch.nn.modules import module as torch_module

from fedstrategies.objectives.module_pass import Loss
from fedstrategies.objectives.standing import HOOKS

__all__ = ["DenseWatch", "watch_of"]

_TORCHS_OWN = frozenset(vars(nn.Module()))
# The sizes that count are those of the parameters, and kernels write to nobody's signals.
_NO_MATTER = _TORCHS_OWN | {"in_features", "out_features", "inplace"}
_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks,
    torch_module._global_backward_pre_hooks,
)


class DenseWatch:
    """Looks at hooks, layers and options, and at how many attributes and parameters there are.

    Three loops in C over short lists: this is asked before every evaluation.

    Parameters
    ----------
    module : torch.nn.Module
        A dense network.
    loss : callable
        Its loss.
    """

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        # Held, so that nothing else gets their identities.
        self.subject = module, loss
        self._empty: list[Sized] = list(_GLOBAL_HOOKS)
        self._sized: list[Sized] = []
        self._dicts: list[dict[str, object]] = []
        self._keys: list[str] = []
        for layer in (*module.modules(), *([loss] if isinstance(loss, nn.Module) else [])):
            attributes = vars(layer)
            self._empty += [attributes[name] for name in HOOKS]
            self._sized.append(attributes)
            self._keep(attributes, [name for name in attributes if name not in _NO_MATTER])
            self._sized += [attributes["_modules"], attributes["_parameters"]]
            self._keep(attributes["_modules"], list(attributes["_modules"]))
            if layer is loss:
                self._keep(attributes["_buffers"], list(attributes["_buffers"]))
        self._sizes = list(map(len, self._sized))
        self._kept = list(map(dict.get, self._dicts, self._keys))

    def unchanged(self) -> bool:
        """Whether all is as it was."""
        return (
            not any(self._empty)
            and all(map(is_, self._kept, map(dict.get, self._dicts, self._keys)))
            and list(map(len, self._sized)) == self._sizes
        )

    def _keep(self, held: dict[str, object], keys: list[str]) -> None:
        self._dicts += [held] * len(keys)
        self._keys += keys


_WATCHES: WeakValueDictionary[tuple[int, int], DenseWatch] = WeakValueDictionary()


def watch_of(module: nn.Module, loss: Loss) -> DenseWatch:
    """One watch for all clients that share the module and the loss as they are now."""
    key = id(module), id(loss)
    watch = _WATCHES.get(key)
    if watch is None or not watch.unchanged():
        watch = _WATCHES[key] = DenseWatch(module, loss)
    return watch
